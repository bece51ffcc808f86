"""Three measures of how well the demo's test pictures are translated, each with a range to pass."""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from demo.data import DIRECTIONS, ROOT
from images.decode import read_image
from images.maker import need_whole
from utils import UserError, own_file, shown

BARS = {  # measure: at least, at most, meaning
    "background": (0, 0.04, "change outside the animal"),
    "coat_colour": (0, 0.4, "error of the coat's colour, 1 = not translated"),
    "coat_texture": (0.6, 1.5, "strength of the coat's pattern, 1 = correct"),
}

BLUR = 4  # sigma in pixels, wider than a stripe: separates a coat into colour and texture


def to_translate() -> str:
    """The command that translates the demo's test pictures."""
    return f"python {own_file('main.py')} @{own_file('configs/demo.txt')} --phase test"


def to_draw(root: Path) -> str:
    """The command that draws the demo's pictures into the folder `root`."""
    if Path.cwd() == Path(__file__).resolve().parents[1]:
        return "python -m demo"
    return f"(cd {own_file('')} && python -m demo --root {shlex.quote(str(root.resolve()))})"


def measure(fake_dir, source_dir, truth_dir, mask_dir) -> dict:
    """Measure how well the pictures in fake_dir translate the pictures of the same names in source_dir.

    A larger picture in fake_dir (some networks need larger inputs) is first reduced to the size of its source.
    Pixel values are in [0, 1]; means are over scenes, pixels and colour channels. Inside: pixels that the animal
    covers by at least half. Outside: pixels it does not touch. The edge in between is in neither. blur is
    Gaussian, of sigma BLUR, and uses only the inside (weights outside are 0), so that no background leaks in.
    The blurred coat is its colour, the remainder its texture.

    background    mean |fake - source| outside
    coat_colour   mean |blur(fake) - blur(truth)| / mean |blur(source) - blur(truth)| inside
    coat_texture  mean (fake - blur(fake))^2 / mean (truth - blur(truth))^2 inside

    Numerators and denominators are averaged over the scenes before the division.
    UserError: a picture is missing or too small, or the translations show only the centres of their sources.
    """
    need_whole(Path(fake_dir))
    names, sums = masks_in(mask_dir), np.zeros(5)
    for name in names:
        pictures = counterparts(name, source_dir, truth_dir, mask_dir)
        source, truth, mask = map(values, pictures)
        fake = translation(Path(fake_dir) / name, pictures[0].size)
        inside, outside = mask >= 0.5, mask == 0

        def blur(picture, inside=inside):
            weight = inside.astype(float)
            total = gaussian_filter(picture * weight[..., None], (BLUR, BLUR, 0))
            return (total / np.maximum(gaussian_filter(weight, BLUR), 1e-9)[..., None])[inside]

        colour = {"fake": blur(fake), "source": blur(source), "truth": blur(truth)}
        sums += (
            np.abs(fake - source)[outside].mean(),
            np.abs(colour["fake"] - colour["truth"]).mean(),
            np.abs(colour["source"] - colour["truth"]).mean(),
            ((fake[inside] - colour["fake"]) ** 2).mean(),
            ((truth[inside] - colour["truth"]) ** 2).mean(),
        )
    background, wrong, untranslated, texture, right_texture = (sums / len(names)).tolist()
    if not untranslated or not right_texture or not np.isfinite(sums).all():  # the measures divide by them
        raise UserError(f"{truth_dir}: the truths have no pattern or are like their sources, or a mask leaves nothing "
                        "inside or outside of it; measure with other truths and masks")
    return {
        "background": background,
        "coat_colour": wrong / untranslated,
        "coat_texture": texture / right_texture,
    }


def masks_in(mask_dir) -> list[str]:
    """The names of the masks in a folder.  UserError: there are none."""
    names = sorted(path.name for path in Path(mask_dir).glob("*.png"))
    if not names:
        raise UserError(f"{mask_dir}: no masks; delete the demo data set and generate it again with: "
                        f"{to_draw(Path(mask_dir).parent)}")
    return names


def counterparts(name: str, source_dir, truth_dir, mask_dir) -> list[Image.Image]:
    """Source, truth (RGB) and mask (L) of a scene, upright.  UserError: one is unreadable, or their sizes differ."""
    paths = [Path(folder) / name for folder in (source_dir, truth_dir, mask_dir)]
    found = [_picture(path) for path in paths]
    for path, picture in zip(paths, found, strict=True):
        if picture.size != found[0].size:
            sizes = [f"{w} x {h}" for w, h in (picture.size, found[0].size)]
            raise UserError(f"{shown(path)} is {sizes[0]} pixels large, {shown(paths[0])} {sizes[1]}: make them equal, "
                            "or remove the folder of masks")  # fmt: skip
    return [*found[:2], found[2].convert("L")]


def _picture(path: Path) -> Image.Image:
    """A picture, RGB.  UserError: it is missing or unreadable."""
    if not path.exists():
        raise UserError(f"{shown(path)}: missing; generate the demo data set, or translate its test folders with: "
                        f"{to_translate()}")  # fmt: skip
    return read_image(path)


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, float) / 255


def translation(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A translation as floats in [0, 1], reduced to `size` if larger.  UserError: it is smaller."""
    image = _picture(path)
    if image.width < size[0] or image.height < size[1]:
        raise UserError(f"{shown(path)}: is smaller than its source; translate with --img_size {max(size)}")
    return values(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))  # blurs texture least


def passes(name: str, value: float) -> bool:
    low, high, _ = BARS[name]
    return low <= value <= high


def bars() -> str:
    """The ranges to pass, as a sentence."""
    parts = [
        f"{name.replace('_', ' ')} " + (f"{low} to {high}" if low else f"at most {high}")
        for name, (low, high, _) in BARS.items()
    ]
    return f"The demo's bars: {', '.join(parts)}."


def by_direction(measured, results_dir, root, kinds: tuple[str, ...]) -> dict:
    """{"A2B": measured(folder of translations, folders of these kinds of pictures of the data set), "B2A": ...}."""
    found = {
        f"{s}2{t}": measured(Path(results_dir) / f"fake{t}", *(Path(root) / f"{kind}{s}" for kind in kinds))
        for s, t in DIRECTIONS
        if (Path(results_dir) / f"fake{t}").is_dir()
    }
    if not found:
        raise UserError(f"{results_dir}: neither fakeB nor fakeA is there; translate first with: {to_translate()}")
    return found


def report(results_dir, root: Path = ROOT) -> dict:
    """Measure results_dir/fakeB and fakeA, print a line a measure, and return {"A2B": {...}, "B2A": {...}}.

    Of a method with one direction only one of the folders exists: only that direction is measured.
    UserError: neither folder exists.
    """
    found = by_direction(measure, results_dir, root, ("test", "truth", "mask"))
    print(f"{'demo':14}" + "".join(f"{name:>6}       " for name in found) + "  bar")
    for name, (low, high, meaning) in BARS.items():
        values = "".join(f"{m[name]:6.3f} {'pass' if passes(name, m[name]) else 'MISS'}  " for m in found.values())
        bar = f"{low} to {high}" if low else f"at most {high}"
        print(f"{name:14}{values}  {bar:14}{meaning}")
    return found
