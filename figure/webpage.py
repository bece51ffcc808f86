"""Shared by the pages: a folder of index.html, style, scripts and pictures that opens from the disk.

A page uses no network.  Names of files and methods reach it only as JSON, and its scripts show them as text; its
pictures are numbered.
"""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from command_line import UserError
from common import relative
from PIL import Image
from tqdm import tqdm

from images.new_folder import folder_beside
from utils import shown, writing

TEMPLATES = Path(__file__).with_name("page")
BASE = Path(__file__).resolve().parents[1] / "translation" / "page" / "base.css"  # of all pages
MARK = '<meta name="generator" content="figure/webpage.py">'  # marks our pages: folders that may be replaced


@contextmanager
def folder(out: Path):
    """Context of a new folder, which replaces `out` once it is complete.

    UserError: it cannot be written, or `out` holds something other than a page.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_page(out))):
        raise UserError(f"{shown(out)} holds something other than a page; choose another folder with --out")
    with writing(out), folder_beside(out) as beside:
        new, old = beside / "new", beside / "old"
        (new / "pictures").mkdir(parents=True)
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    print(f"wrote {shown(relative(out))}; open {shown(relative(out) / 'index.html')} in a browser")


def _is_page(out: Path) -> bool:
    try:
        return MARK in (out / "index.html").read_text(encoding="utf-8")[:2000]
    except (OSError, UnicodeDecodeError):
        return False


def write(folder: Path, name: str, data: dict):
    """Write index.html, the template `name` with the data in it, and its style and scripts."""
    page = (TEMPLATES / f"{name}.html").read_text(encoding="utf-8")
    # "<" is escaped, so that no name ends the script; lone surrogates (names that are not UTF-8) stay escaped
    inside = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    (folder / "index.html").write_text(page.replace("{{data}}", inside), encoding="utf-8")
    style = "".join(path.read_text(encoding="utf-8") for path in (BASE, TEMPLATES / "page.css"))
    (folder / "page.css").write_text(style, encoding="utf-8")
    for file in ("page.js", f"{name}.js"):
        shutil.copyfile(TEMPLATES / file, folder / file)


def save(image: Image.Image, folder: Path, name: str, jpeg: int | None = None) -> dict:
    """Write pictures/name as PNG, or JPEG of this quality, without metadata; return what the page needs."""
    path = folder / "pictures" / f"{name}.{'jpg' if jpeg else 'png'}"
    image = image.convert("RGB")
    image.info.clear()
    if jpeg:
        image.save(path, quality=jpeg, subsampling=0)
    else:
        image.save(path)
    return {"src": f"pictures/{path.name}", "width": image.width, "height": image.height}


def each(function, things: list, what: str) -> list:
    """[function(thing) for thing in things] on all cores, with a progress bar if it takes long."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(tqdm(pool.map(function, things), what, len(things), leave=False, delay=2))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
