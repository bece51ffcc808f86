"""Folders that are made beside their place and renamed: complete or absent, whenever the process is killed."""

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from utils import clear


@contextmanager
def folder_beside(place: Path):
    """A new folder beside `place`, deleted at the end; what killed processes have left there is deleted first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    clear(place.parent)
    path = place.parent / f".{secrets.token_hex(8)}.tmp"
    path.mkdir()
    handle = None
    with suppress(ImportError, OSError):  # Windows and some network file systems have no such locks
        import fcntl

        handle = os.open(path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        path.mkdir(exist_ok=True)  # another process may have cleared it in between
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if handle is not None:
            os.close(handle)
