"""Resumable downloads: one file from the first URL that serves it."""

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from images.locks import lock
from utils import DISK_ERRORS, RunError, UserError, brief, parse_json, shown, text_of

TIMEOUT = 30           # seconds that a server may be silent
TRIES, PAUSE = 6, 1.0  # requests in a row without data, after some data; seconds before the second, then doubled
MAX_SIZE = 20 << 30    # bytes


def fetch(name, urls, path, by_hand, size=None, sha256=""):
    """Download the file `name` to `path`, which appears once it is complete and verified; a later call resumes.

    urls: tried in this order.  by_hand: the remedy, for messages.  size: in bytes.  sha256: its hash, or how it begins.
    UserError: no URL serves it, its size or hash is wrong, the folder is not writable.  RunError: no space.
    """
    part = path.with_name(f".{path.name}.part")
    with writing_below(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    def wrong_hash(file):
        digest = sha256_of(file)
        return None if digest.startswith(sha256.lower()) else f"its hash is {digest}, not {sha256}"

    download(name, urls, part, by_hand, size, check=wrong_hash)
    with writing_below(path.parent):
        part.replace(path)
    drop(part)


def sha256_of(path):
    """The SHA-256 of a file: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def drop(part):
    """Delete a download and the note about it."""
    for path in part, _note(part):
        path.unlink(missing_ok=True)


@contextmanager
def writing_below(root):
    """Turn an OSError of the disk into one line."""
    try:
        yield
    except OSError as error:
        kind = RunError if error.errno in DISK_ERRORS else UserError
        raise kind(f"cannot write to {shown(root)}: {error.strerror or error}; check the disk and the folder") from None


class _Failed(Exception):
    """This URL does not serve the file; the message says why."""


def _note(part):
    return part.with_suffix(".json")  # where `part` comes from: its URL and the server's version


def download(name, urls, part, by_hand, size=None, room=1, check=None):
    """Download into `part` from the first URL that serves the file; resume what an earlier call left there.

    check: from the complete file to what is wrong with it, or None; then the next URL is tried.
    room: how many times its size must be free on the disk.  The rest, and errors, as fetch.
    """
    with writing_below(part.parent):
        file = open(part, "ab+")  # noqa: SIM115
    with file:
        if lock(file, part) is False:
            raise UserError(f"another call is fetching {name} into {shown(part.parent)}: wait for it")
        try:
            reasons = []
            for url in urls:
                try:
                    _persist(name, url, file, size, room)
                    if fault := _is_page(part) or (check and check(part)):
                        file.truncate(0)
                        raise _Failed(fault)
                    return None
                except _Failed as error:
                    reasons.append(f"{url}: {error}")
            raise UserError(f"cannot fetch {name} ({'; '.join(reasons)}): {by_hand}")
        except UserError:
            if not file.seek(0, os.SEEK_END):
                file.close()
                drop(part)
            raise


def _is_page(part) -> str | None:
    """What is wrong where a server has answered with a web page, as those of missing files and of logins do."""
    with open(part, "rb") as file:
        head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    page = head.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))
    page = page or (head.startswith(b"<?xml") and b"<html" in head)
    return "it answers with a web page" if page else None


def _persist(name, url, file, size, room):
    """Request the rest after each broken connection, as long as data arrive."""
    progress, silent = False, 0
    while True:
        before = os.path.getsize(file.name)
        try:
            if _request(name, url, file, size, room):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {shown(' '.join(str(error.reason).split()))}"
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a malformed redirect or length
            reason = getattr(error, "reason", None) or error
            reason = getattr(reason, "strerror", None) or brief(reason)
        grown = os.path.getsize(file.name) > before
        progress, silent = progress or grown, 0 if grown else silent + 1
        if not progress or silent == TRIES:  # offline: fail at once
            raise _Failed(reason)
        time.sleep(PAUSE * (2**silent - 1))


def _request(name, url, file, size, room):
    """Request what `file` lacks; return whether it is complete.  OSError, HTTPException: of the network."""
    note, have = _note(Path(file.name)), os.path.getsize(file.name)
    headers = {"User-Agent": "python-urllib", "Accept-Encoding": "identity"}
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = parse_json(text_of(note))
        if have and known["url"] == url and known["version"]:  # If-Range: the rest of the same version, else all of it
            headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
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
            return True
        if resumed and not offered.startswith(f"bytes {have}-"):
            if not have:
                raise _Failed("it answers with a part that was not requested")
            file.truncate(0)
            return _request(name, url, file, size, room)
        length = response.headers.get("Content-Length")
        total = int(length) + have * resumed if length and length.isdecimal() else None
        if total is not None and (total != (size or total) or total > MAX_SIZE):
            raise _Failed(f"it has {total} bytes there, not {size or f'up to {MAX_SIZE}'}")
        with writing_below(note.parent):
            if not resumed:
                file.truncate(0)
                etag = response.headers.get("ETag", "")
                version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
                note.write_text(json.dumps({"url": url, "version": version}))
            if (total or 0) * room > shutil.disk_usage(note.parent).free:
                raise RunError(f"{name} takes {total * room >> 20} MiB: free some space in {shown(note.parent)}")
        got = have * resumed
        with tqdm(desc=name, total=total, initial=got, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := response.read1(1 << 18):
                with writing_below(note.parent):
                    file.write(chunk)
                    file.flush()
                got += len(chunk)
                bar.update(len(chunk))
                if got > (size or MAX_SIZE):
                    file.truncate(0)
                    raise _Failed(f"it is longer than {size or MAX_SIZE} bytes there")
    return got == (got if total is None else total)
