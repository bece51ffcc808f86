"""Paths that options name: what is missing, in one line, before torch is imported."""

import glob
import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from options.remedies import another
from utils import UserError, shown


def near(path) -> str:
    """A hint for a path that does not exist: "; did you mean ...?", the name beside it that is most like it, or ""."""
    path = Path(path)
    with suppress(OSError, ValueError):
        if not path.exists():
            names = [name for name in os.listdir(path.parent) if not name.startswith(".")]
            return "".join(f"; did you mean {shown(path.parent / n)}?" for n in get_close_matches(path.name, names, 1))
    return ""


def need_folder(folder: Path):
    """UserError: there is no such folder of pictures."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{shown(folder)} {what}: make it a folder of pictures")


def need_input(text: str):
    """UserError: --input names neither a path nor a pattern."""
    if not glob.has_magic(text) and not os.path.lexists(text):
        remedy = f"give a picture, a folder or a 'pattern'{near(text)}"
        raise UserError(f"--input {shown(text)} does not exist: {remedy}")


def need_checkpoint(path: Path):
    """UserError: nothing lies at this path."""
    if not path.exists():
        raise UserError(f"no checkpoint {shown(path)}; train first, or {another()}{near(path)}")
