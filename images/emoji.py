"""The data set "emoji": Microsoft's Fluent emoji in 3D and in black on white, so that true answers exist.

    trainA  3D                        trainB  high contrast         no concept is in both
    testA   3D                        testB   high contrast         no concept is in both
    truthA  high contrast of testA    truthB  3D of testB           under the same names

A translation has to change shape and colour, and black to 3D has many answers. Names are those of the emoji:
avocado.png. Flags, symbols and skin tones are left out. Man, woman and person of one kind are one concept, and so are
the hours of the clock, because they are nearly the same picture.
"""

import hashlib
import importlib.util
import io
import json
import re
import tarfile
from pathlib import Path

from PIL import Image

from images.opening import opened
from images.packages import Package
from utils import UserError

PACKAGES = (
    Package("npm", "@lobehub/fluent-emoji-3d@1.1.0", "lobehub-fluent-emoji-3d-1.1.0.tgz",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"),
    Package("npm", "@iconify-json/fluent-emoji-high-contrast@1.2.6",
            "iconify-json-fluent-emoji-high-contrast-1.2.6.tgz",
            "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0"),
)
CREDITS = ("Fluent Emoji by Microsoft Corporation, licence MIT. Taken from the npm packages "
           "@lobehub/fluent-emoji-3d 1.1.0 and @iconify-json/fluent-emoji-high-contrast 1.2.6, licence MIT.")
SIZES = (16, 256)  # pixels; the 3D pictures have 256
RENDERER = "resvg-py==0.5.0"

LEFT_OUT = {"Flags", "Symbols"}
PEOPLE = {"man", "woman", "person", "men", "women", "people", "boy", "girl", "child", "old", "older"}
ROLES = "AAAABBBBST"  # a concept's role by its hash: trainA, trainB, testA (S), testB (T)


def concept(name: str) -> str:
    """The concept of an emoji: its name without what kind of person or hour it shows."""
    if re.search("-(oclock|thirty)$", name):
        return "clock"
    return "-".join(word for word in name.split("-") if word not in PEOPLE)


def role(name: str) -> str:
    """A, B, S or T, the same for all emoji of a concept and on every machine."""
    return ROLES[hashlib.sha256(concept(name).encode()).digest()[0] % len(ROLES)]


def emoji_of(characters: dict, categories: dict, drawn: set[str], solid: set[str]) -> dict[str, str]:
    """{name: code points} of the emoji to use.

    characters: {code points: name}.  categories: {title: names}.  drawn: the names that have an SVG.  solid: the code
    points, without FE0F, that have a 3D picture.
    """
    names = {name for title, names in categories.items() if title not in LEFT_OUT for name in names} & drawn
    return {name: plain for points, name in sorted(characters.items())
            if name in names and (plain := plain_points(points)) in solid and not re.search("1f3f[b-f]", plain)}


def plain_points(points: str) -> str:
    """Code points such as 2764-fe0f without FE0F, which asks for a coloured picture and is often left out."""
    return "-".join(point for point in points.lower().split("-") if point != "fe0f")


def on_white(data: bytes, size: int) -> Image.Image:
    """A picture with transparency on white, size x size."""
    with opened(io.BytesIO(data), ("PNG", "WEBP")) as image:
        image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def members(path: Path) -> dict[str, bytes]:
    """{name: content} of the files in an npm package."""
    with tarfile.open(path) as archive:
        return {entry.name.removeprefix("package/"): archive.extractfile(entry).read()
                for entry in archive if entry.isfile()}


def check():
    """UserError: the renderer of SVG is not installed."""
    if not importlib.util.find_spec("resvg_py"):
        raise UserError(f"resvg-py is not installed, which draws the emoji's SVG: pip install {RENDERER}")


def make(root: Path, files: list[Path], size: int):
    """Make the data set in the folder `root` from the files of PACKAGES."""
    import resvg_py

    solid, flat = map(members, files)
    icons, characters = json.loads(flat["icons.json"]), json.loads(flat["chars.json"])
    pictures = {plain_points(Path(name).stem): data for name, data in solid.items() if name.endswith(".webp")}
    side = icons["width"]

    def draw(name: str, points: str, domain: str) -> Image.Image:
        if domain == "A":
            return on_white(pictures[points], size)
        body = icons["icons"][name]["body"].replace("currentColor", "black")
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{body}</svg>'
        return on_white(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256)), size)

    folders = {"A": [("trainA", "A")], "B": [("trainB", "B")],
               "S": [("testA", "A"), ("truthA", "B")], "T": [("testB", "B"), ("truthB", "A")]}
    categories = json.loads(flat["metadata.json"])["categories"]
    for name, points in emoji_of(characters, categories, icons["icons"].keys(), pictures.keys()).items():
        for folder, domain in folders[role(name)]:
            (root / folder).mkdir(parents=True, exist_ok=True)
            draw(name, points, domain).save(root / folder / f"{name}.png")
