"""Archives of strangers: their members, one after another, and errors in one line."""

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import PurePosixPath

from utils import UserError, shown

MAX_GROWTH = 10  # of the archive when unpacked; pictures are compressed already, zip bombs grow a thousandfold


@contextmanager
def damage(page):
    """Turn the errors of reading a damaged archive into one line."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error,
            EOFError, RuntimeError, ValueError, OSError) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the archive of {page} is damaged ({said}): run this again") from error


def _decompressed(archive):
    """The archive, open for reading what a tar's compression holds."""
    with open(archive, "rb") as file:
        head = file.read(6)
    kinds = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    return kinds.get(head[:2], open)(archive, "rb")


class _Bounded:
    """A file for tarfile that yields no more than an archive may grow to, headers included.  ValueError: more."""

    def __init__(self, file, archive):
        self.file, self.room = file, MAX_GROWTH * archive.stat().st_size + (1 << 20)

    def _use(self, size):
        if size < 0 or size > self.room:
            raise ValueError(f"its headers and files grow more than {MAX_GROWTH}-fold")
        self.room -= size

    def read(self, size=-1):
        self._use(size)
        return self.file.read(size)

    def seek(self, position):
        self._use(max(0, position - self.file.tell()))
        return self.file.seek(position)

    def tell(self):
        return self.file.tell()


def _opened_tar(file):
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except (tarfile.ReadError, EOFError):
        raise ValueError("it is neither zip nor tar") from None


def _is_plain_tar(archive):
    """Whether it says so: a tar that ends with a zip, such as a checkpoint's, is taken for a zip by zipfile."""
    with open(archive, "rb") as file:
        file.seek(257)
        return file.read(5) == b"ustar"


def members(archive):
    """(path, size, function that opens it) of each file in a zip or tar.  UserError: links, devices."""
    if zipfile.is_zipfile(archive) and not _is_plain_tar(archive):
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                if not member.is_dir():
                    yield _safe(member.filename, kind in (0, stat.S_IFREG)), member.file_size, \
                        lambda member=member: file.open(member)
    else:
        with _decompressed(archive) as data, _opened_tar(_Bounded(data, archive)) as file:
            for member in file:
                if not member.isdir():
                    yield _safe(member.name, member.isreg()), member.size, \
                        lambda member=member: file.extractfile(member)
            while data.read(1 << 20):  # the end of the archive: a compressed one has its checksum there
                pass


def _safe(name, regular):
    """The name as a path.  UserError: it leads out of the archive, or is no regular file."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name):
        raise UserError(f"the archive wants to write outside of its folder, to {shown(name)}: do not trust it")
    if not regular:
        raise UserError(f"the archive holds a link or device, {shown(name)}: do not trust it")
    return path
