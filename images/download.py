"""Resumable downloads: one file from the first address that has it."""

import errno
import http.client
import json
import os
import shutil
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from utils import RunError, UserError, shown

TIMEOUT = 30            # seconds that a server may be silent
TRIES, PAUSE = 6, 1.0   # requests in a row that bring nothing, once some did; seconds before the second, then doubled
MAX_ARCHIVE = 20 << 30  # bytes


def drop(fetched):
    if fetched:
        for path in fetched, _note(fetched):
            path.unlink(missing_ok=True)


@contextmanager
def writing_below(root):
    """An OSError of the disk as one line."""
    try:
        yield
    except OSError as error:
        kind = RunError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) else UserError
        raise kind(f"cannot write to {shown(root)}: {error.strerror or error}; check the disk and the folder") from None


class _Failed(Exception):
    """This address does not give it; the message says why."""


def _note(part):
    return part.with_suffix(".json")  # what `part` is the beginning of: address and the server's mark of the version


def download(name, part, source, by_hand):
    """The archive into `part`, from the first address that has it, going on where an earlier call was stopped."""
    with writing_below(part.parent):
        file = open(part, "ab+")  # noqa: SIM115
    with file:
        with suppress(ImportError):  # Windows: no protection there
            import fcntl

            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another call is fetching {name} into {shown(part.parent)}: wait for it") from None
        try:
            reasons = []
            for url in source.urls:
                try:
                    return _persist(name, url, file, source.size)
                except _Failed as error:
                    reasons.append(f"{url}: {error}")
            raise UserError(f"cannot fetch {name} ({'; '.join(reasons)}): {by_hand}")
        except UserError:
            if not file.seek(0, os.SEEK_END):
                file.close()
                drop(part)
            raise


def _persist(name, url, file, size):
    """Ask again for the rest whenever the connection breaks, as long as something comes."""
    progress, silent = False, 0
    while True:
        before = os.path.getsize(file.name)
        try:
            if _request(name, url, file, size):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            reason = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        grown = os.path.getsize(file.name) > before
        progress, silent = progress or grown, 0 if grown else silent + 1
        if not progress or silent == TRIES:  # offline is said at once
            raise _Failed(reason)
        time.sleep(PAUSE * (2**silent - 1))


def _request(name, url, file, size):
    """One request for what `file` lacks: whether it is whole now.  OSError, HTTPException: of the network."""
    note, have = _note(Path(file.name)), os.path.getsize(file.name)
    headers = {"User-Agent": "python-urllib", "Accept-Encoding": "identity"}
    with suppress(OSError, ValueError, TypeError, KeyError):
        mark = json.loads(note.read_text())
        if have and mark["url"] == url and mark["version"]:  # If-Range: the rest of the same version, else all of it
            headers |= {"Range": f"bytes={have}-", "If-Range": mark["version"]}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        response = error
    with response:
        offered, resumed = response.headers.get("Content-Range", ""), response.status != 200
        if response.status == 416 and offered == f"bytes */{have}":
            return True  # nothing is lacking
        if resumed and not offered.startswith(f"bytes {have}-"):
            if not have:
                raise _Failed("it answers with a part that nobody asked for")
            file.truncate(0)
            return _request(name, url, file, size)
        length = response.headers.get("Content-Length")
        total = int(length) + have * resumed if length and length.isdecimal() else None
        if total is not None and (total != (size or total) or total > MAX_ARCHIVE):
            raise _Failed(f"it has {total} bytes there, not {size or f'up to {MAX_ARCHIVE}'}")
        with writing_below(note.parent):
            if not resumed:
                file.truncate(0)
                etag = response.headers.get("ETag", "")
                version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
                note.write_text(json.dumps({"url": url, "version": version}))
            if (total or 0) * 2 > shutil.disk_usage(note.parent).free:
                raise RunError(f"{name} takes {total * 2 >> 20} MiB while it is unpacked: free some space in "
                               f"{shown(note.parent)}")
        got = have * resumed
        with tqdm(desc=name, total=total, initial=got, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := response.read1(1 << 18):
                with writing_below(note.parent):
                    file.write(chunk)
                    file.flush()
                got += len(chunk)
                bar.update(len(chunk))
                if got > (size or MAX_ARCHIVE):
                    file.truncate(0)
                    raise _Failed(f"it is longer than {size or MAX_ARCHIVE} bytes there")
    return got == (got if total is None else total)
