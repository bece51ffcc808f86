"""Data sets with true answers, made from packages: "world" and "emoji".

    trainA  trainB    unpaired: nothing is in both
    testA   truthA    test pictures and their true translations, under the same names
    testB   truthB
    credits.txt       sources, licences and the number of pictures

A package's file saved by hand in the folder of the data sets is used instead of the network.
"""

import shutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from images import emoji, world
from images.download import writing_below
from images.new_folder import folder_beside
from images.packages import fetched
from options import telling
from utils import UserError, shown

FOLDERS = ("trainA", "trainB", "testA", "testB", "truthA", "truthB")
SIZE = 64  # pixels, unless asked for another


class Maker(NamedTuple):
    """A module with PACKAGES, CREDITS, SIZES and make(root, files, size); the counts of its first FOLDERS at SIZE."""

    module: ModuleType
    counts: tuple[int, int, int, int]


MAKERS = {"world": Maker(world, (827, 793, 87, 84)), "emoji": Maker(emoji, (550, 577, 104, 108))}


def get(name: str, root: Path, size: int = SIZE) -> str:
    """Make root/name, or root/nameSIZE if the size is not SIZE; return one line about it.

    UserError: the size is out of range, a package cannot be fetched, or the folder holds something else; nothing is
    left half-written. RunError: no space.
    """
    module = MAKERS[name].module
    least, most = module.SIZES
    if not least <= size <= most:
        raise UserError(f"--size {size}: {name} is made with {least} to {most} pixels")
    target = root / (name if size == SIZE else f"{name}{size}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if _summary(target) not in _credits(target):
            raise UserError(f"{shown(target)} exists and is not the complete data set: move it away, then run this "
                            "again")
        return f"{shown(target)} is there and complete"
    getattr(module, "check", bool)()
    with writing_below(root), folder_beside(target) as beside:
        with telling(f"fetching {' and '.join(package.file for package in module.PACKAGES)}"):
            files = [fetched(package, beside, root) for package in module.PACKAGES]
        new = beside / target.name
        new.mkdir()
        with telling(f"making {shown(target)}"):
            module.make(new, files, size)
        summary = _summary(new)
        (new / "credits.txt").write_text(f"{summary}\n{module.CREDITS}\n", encoding="utf-8")
        if target.exists():
            target.rmdir()  # it is empty
        shutil.move(new, target)
    return f"{shown(target)}: {summary} pictures. Credits: {module.CREDITS}"


def _summary(folder: Path) -> str:
    """The number of pictures in each of the FOLDERS, as text."""
    return ", ".join(f"{name} {len(list((folder / name).glob('*.png')))}" for name in FOLDERS)


def _credits(folder: Path) -> list[str]:
    """The lines of a data set's credits.txt; none if it has no such file."""
    try:
        return (folder / "credits.txt").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []
