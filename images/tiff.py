"""TIFF files as arrays of their bands, for the kinds that PIL refuses, shortens to 8 bits or reads wrongly.

PIL 13 reads planes apart of 16 bits, compressed big-endian int16, int8, and 16 bits or floats whose 0 is white
wrongly; it refuses most kinds of bands.  Here a file is rewritten, in memory, as one of 8-bit greys as wide as a row
has bytes.  PIL decompresses that, and numpy makes numbers of the bytes.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from images.opening import TooLarge, opened

MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
COMPRESSIONS = {1, 5, 8, 32773, 32946, 34925, 50000}  # none, LZW, deflate, PackBits, deflate, LZMA, zstd: of bytes
NUMBERS = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned"}
LETTERS = {"unsigned": "u", "signed": "i", "float": "f"}  # numpy's
MOST_BYTES = 1 << 32  # of all bands


class Bands(NamedTuple):
    """The bands of a TIFF file.

    values (H,W,C), C 1 or 3; opacity (H,W) of the same type, or None; premultiplied: the values are multiplied by it;
    inverted: 0 is white; left_out: the number of bands that are in neither.
    """

    values: np.ndarray
    opacity: np.ndarray | None
    premultiplied: bool
    inverted: bool
    left_out: int


def tags_of(file) -> ImageFileDirectory_v2 | None:
    """The tags of the first page of a TIFF file; None: it is none."""
    head = _head(file)
    return None if head is None else _page(file, head, ImageFileDirectory_v2(head).next)


def _head(file) -> bytes | None:
    file.seek(0)
    head = file.read(8)
    if head[:4] in MARKS:
        return head + (file.read(8) if b"+" in head[:4] else b"")


def _page(file, head: bytes, offset: int) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2(head)
    file.seek(offset)
    tags.load(file)
    return tags


def pages(file, tags) -> int:
    """Pages of full size from the one of these tags on: no previews and no masks."""
    count, seen, head = 1, set(), _head(file)
    while tags.next and tags.next not in seen:
        seen.add(tags.next)
        tags = _page(file, head, tags.next)
        count += not tags.get(254, 0) & 5  # NewSubfileType
    return count


def _each(tags, number: int, default) -> tuple:
    found = tags.get(number, default)
    return found if isinstance(found, tuple) else (found,)


def _number(tags, number: int, default: int) -> int:
    return int(_each(tags, number, default)[0])


def samples_of(tags) -> int:
    """Bands of a page."""
    return _number(tags, 277, 1)


def opacity_of(tags) -> int:
    """ExtraSamples of the first band beyond the colours, if it says opacity: 1 (premultiplied), 2 or 999; else 0."""
    extra = _each(tags, 338, 0)
    return extra[0] if extra and extra[0] in (1, 2, 999) else 0


def described(tags) -> str:
    """The kind of picture, for messages: "3 bands of 12-bit unsigned numbers"."""
    bits, n = _number(tags, 258, 1), samples_of(tags)
    kind = NUMBERS.get(_number(tags, 339, 1), "complex or undefined")
    ways = f", compression {_number(tags, 259, 1)}, photometric interpretation {_number(tags, 262, 1)}"
    return f"{n} band{'s' * (n > 1)} of {bits}-bit {kind} numbers{ways}"


def is_ours(tags) -> bool:
    """Whether the file is read here: numbers of whole bytes, of a kind that PIL does not read completely."""
    bits, formats = set(_each(tags, 258, 1)), set(_each(tags, 339, 1))
    if len(bits) != 1 or len(formats) != 1 or _number(tags, 259, 1) not in COMPRESSIONS:
        return False
    if _number(tags, 262, 1) not in (0, 1, 2) or _number(tags, 266, 1) != 1:
        return False
    (b,), (kind,), n = bits, formats, samples_of(tags)
    if b not in (8, 16, 32, 64) or kind not in NUMBERS or (kind == 3 and b == 8):
        return False
    colours = 3 if _number(tags, 262, 1) == 2 else 1
    plain = b == 8 and NUMBERS[kind] == "unsigned" and n == colours and _number(tags, 284, 1) == 1
    return n >= colours and not plain


def read(file, tags) -> Bands:
    """The bands of a file of ours."""
    W, H, n = _number(tags, 256, 0), _number(tags, 257, 0), samples_of(tags)
    kind, size = NUMBERS[_number(tags, 339, 1)], _number(tags, 258, 1) // 8
    if W * H * n * size > MOST_BYTES:
        raise TooLarge(f"its {n} bands take more than {MOST_BYTES >> 30} GiB: make a file of those that are wanted")
    dtype = np.dtype(f"{'<' if tags.prefix == b'II' else '>'}{LETTERS[kind]}{size}")
    colours = 3 if _number(tags, 262, 1) == 2 else 1
    opacity = opacity_of(tags) if n > colours else 0
    wanted = colours + bool(opacity)
    if _number(tags, 284, 1) == 2:
        bands = np.concatenate([_plane(file, tags, W, H, 1, dtype, k, n) for k in range(wanted)], 2)
    else:
        bands = _plane(file, tags, W, H, n, dtype, 0, 1)[..., :wanted]
    bands = bands.astype(dtype.newbyteorder("="), copy=False)
    alpha = bands[..., colours] if opacity else None
    return Bands(bands[..., :colours], alpha, opacity == 1, _number(tags, 262, 1) == 0, n - wanted)


def _plane(file, tags, W: int, H: int, n: int, dtype, k: int, planes: int) -> np.ndarray:
    """Plane k of so many, n bands beside one another: (H,W,n)."""
    tiled, pixel = 322 in tags, n * dtype.itemsize
    width, height = (_number(tags, 322, W), _number(tags, 323, H)) if tiled else (W, min(H, _number(tags, 278, H)))
    offsets, counts = (_each(tags, number, 0) for number in ((324, 325) if tiled else (273, 279)))
    parts = len(offsets) // planes
    chunks = []
    for offset, count in list(zip(offsets, counts, strict=True))[k * parts : (k + 1) * parts]:
        file.seek(offset)
        chunks.append(file.read(count))
    compression, predictor = _number(tags, 259, 1), _number(tags, 317, 1)
    across = -(-W // width) * width  # tiles go beyond the border
    data = _as_greys(chunks, across * pixel, H, width * pixel, height, tiled, compression)
    with opened(io.BytesIO(data), ("TIFF",)) as image:
        flat = np.array(image)  # (H, across * pixel) uint8
    if predictor == 1 or compression in (1, 32773):
        return flat.view(dtype).reshape(H, across, n)[:, :W]
    undo = {2: _sum_along, 3: _join_bytes}[predictor]
    tiles = [flat[:, x * pixel : (x + width) * pixel] for x in range(0, across, width)]  # each begins anew
    return np.concatenate([undo(tile, width, n, dtype) for tile in tiles], 1)[:, :W]


def _sum_along(flat, W: int, n: int, dtype) -> np.ndarray:
    """Differences of neighbours (predictor 2) to numbers (H,W,n); whole numbers wrap around."""
    whole = np.dtype(f"{dtype.byteorder}u{dtype.itemsize}")
    differences = np.ascontiguousarray(flat).view(whole).reshape(len(flat), W, n)
    return np.cumsum(differences, 1, dtype=whole.newbyteorder("=")).astype(whole).view(dtype)


def _join_bytes(flat, W: int, n: int, dtype) -> np.ndarray:
    """Floats whose bytes lie apart, the highest first, and hold differences (predictor 3): (H,W,n)."""
    whole = np.cumsum(flat.reshape(len(flat), -1, n), 1, dtype=np.uint8).reshape(len(flat), dtype.itemsize, W * n)
    big = np.ascontiguousarray(np.moveaxis(whole, 1, -1)).view(dtype.newbyteorder(">"))
    return big.reshape(len(flat), W, n)


def _as_greys(chunks, W: int, H: int, width: int, height: int, tiled: bool, compression: int) -> bytes:
    """A TIFF file of 8-bit greys W x H, whose strips or tiles of width x height are these bytes."""
    entries = [(256, W), (257, H), (258, 8), (259, compression), (262, 1), (277, 1)]
    entries += [(322, width), (323, height)] if tiled else [(278, height)]
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    lists = start + (8 * len(chunks) if len(chunks) > 1 else 0)  # where the data begin
    offsets = np.cumsum([lists, *map(len, chunks)])[:-1].astype("<u4").tobytes()
    counts = np.array([len(chunk) for chunk in chunks], "<u4").tobytes()
    packed = {number: struct.pack("<HHII", number, 4, 1, value) for number, value in entries}
    for number, words in ((324, offsets), (325, counts)) if tiled else ((273, offsets), (279, counts)):
        place = words if len(chunks) == 1 else struct.pack("<I", start + (len(words) if words is counts else 0))
        packed[number] = struct.pack("<HHI", number, 4, len(chunks)) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(packed)) + b"".join(packed[k] for k in sorted(packed)) + bytes(4)
    return head + ((offsets + counts) if len(chunks) > 1 else b"") + b"".join(chunks)
