"""What the pages share: a folder of index.html, its style, its scripts and its pictures, to be opened from the disk.

A page asks nothing of the network.  Names of files and methods reach it as JSON alone, and its scripts show them
as text; its pictures are numbered.
"""

import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from common import UserError
from PIL import Image
from tqdm import tqdm

from options import Help, Parser
from utils import shown

TEMPLATES = Path(__file__).with_name("page")
MARK = '<meta name="generator" content="figure/webpage.py">'  # in the templates: what bears it may be written anew


def parser(description: str) -> Parser:
    return Parser(description=description.split("\n")[0], formatter_class=Help)


@contextmanager
def folder(out: Path):
    """A new folder, which takes out's name once all is in it.

    UserError: it cannot be written, or out holds something else than a page.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_page(out))):
        raise UserError(f"{shown(out)} holds something else than a page; choose another folder with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".page-", dir=out.parent) as beside:
            new, old = Path(beside, "new"), Path(beside, "old")
            (new / "pictures").mkdir(parents=True)
            yield new
            if out.exists():
                out.rename(old)
            new.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {shown(out)}: {error.strerror or error}; choose another --out") from None
    place = out
    with suppress(ValueError):  # shorter to read, where it is below the current folder
        place = Path(os.path.abspath(out)).relative_to(Path.cwd())
    print(f"wrote {shown(place)}; open {shown(place / 'index.html')} in a browser")


def _is_page(out: Path) -> bool:
    try:
        return MARK in (out / "index.html").read_text(encoding="utf-8")[:2000]
    except (OSError, UnicodeDecodeError):
        return False


def write(folder: Path, name: str, data: dict):
    """index.html from the template `name` with the data in it, and what it refers to."""
    page = (TEMPLATES / f"{name}.html").read_text(encoding="utf-8")
    # no "<" can end the script that holds the data; lone surrogates, of names that are no UTF-8, stay escaped
    inside = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    (folder / "index.html").write_text(page.replace("{{data}}", inside), encoding="utf-8")
    for file in ("page.css", "page.js", f"{name}.js"):
        shutil.copyfile(TEMPLATES / file, folder / file)


def save(image: Image.Image, folder: Path, name: str, jpeg: int | None = None) -> dict:
    """Write pictures/name as PNG, or as JPEG of this quality, without any metadata; return what the page needs."""
    path = folder / "pictures" / f"{name}.{'jpg' if jpeg else 'png'}"
    image = image.convert("RGB")
    image.info.clear()
    if jpeg:
        image.save(path, quality=jpeg, subsampling=0)
    else:
        image.save(path)
    return {"src": f"pictures/{path.name}", "width": image.width, "height": image.height}


def fit(image: Image.Image, longest: int) -> Image.Image:
    """The picture, scaled down if a side is longer than `longest` pixels."""
    if max(image.size) <= longest:
        return image
    size = [max(1, round(side * longest / max(image.size))) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


def each(function, things: list, what: str) -> list:
    """[function(thing) for thing in things] on all cores, with a bar where it takes long."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(tqdm(pool.map(function, things), what, len(things), leave=False, delay=2))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
