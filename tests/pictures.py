"""Pictures for tests, good and bad, and what is expected of an error about them."""

import struct
import zlib

import numpy as np
from PIL import Image


def scene(width=48, height=32, seed=0):
    """A smooth colour picture, (height, width, 3) uint8, unlike all of its mirror images."""
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    phase = np.random.default_rng(seed).random(3) * 6
    return np.stack([127.5 + 127 * np.sin(3 * x + 2 * y + p) * (1 - 0.3 * x * y) for p in phase], -1).astype(np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def tiff(path, values, order="<", planar=False, photometric=None, extra=None, deflate=False, predictor=1, rows=7,
         tile=None, more=()):
    """A TIFF file by its specification: values (H,W,n) of any type, in strips of so many rows, or in square tiles."""
    H, W, n = values.shape
    photometric = photometric if photometric is not None else 2 if n >= 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: W, 257: H, 258: [8 * values.itemsize] * n, 259: 8 if deflate else 1, 262: photometric, 277: n,
            284: 2 if planar else 1, 317: predictor, 339: [kind] * n} | dict(more)
    if extra is not None:
        tags[338] = extra
    tags |= {322: tile, 323: tile} if tile else {278: rows}
    planes = [values[..., i : i + 1] for i in range(n)] if planar else [values]
    places = [(y, x) for y in range(0, H, tile or rows) for x in range(0, W, tile or W)]
    chunks = []
    for plane in planes:
        for y, x in places:
            part = plane[y : y + (tile or rows), x : x + (tile or W)]
            if tile:
                part = np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)))
            if predictor == 2:
                part = np.diff(part, axis=1, prepend=part.dtype.type(0))
            data = part.astype(part.dtype.newbyteorder(order)).tobytes()
            if predictor == 3:  # bytes apart, the highest first, then differences
                apart = np.frombuffer(part.astype(part.dtype.newbyteorder(">")).tobytes(), np.uint8)
                apart = apart.reshape(len(part), -1, part.itemsize).swapaxes(1, 2).reshape(len(part), -1, part.shape[2])
                data = np.diff(apart, axis=1, prepend=np.uint8(0)).tobytes()
            chunks.append(zlib.compress(data) if deflate else data)
    offsets = np.cumsum([8, *map(len, chunks)])
    tags |= {324 if tile else 273: list(offsets[:-1]), 325 if tile else 279: [len(chunk) for chunk in chunks]}
    body, entries, after = b"".join(chunks), b"", b""
    start = 8 + len(body) + 2 + 12 * len(tags) + 4
    for number, value in sorted(tags.items()):
        words = value if isinstance(value, list) else [value]
        packed = struct.pack(f"{order}{len(words)}I", *(int(word) for word in words))
        if len(words) > 1:
            packed, after = struct.pack(f"{order}I", start + len(after)), after + packed
        entries += struct.pack(f"{order}HHI", number, 4, len(words)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + after)
    return path


def png(width, height, depth=8, colour=2, data=b""):
    """A PNG file with any header one likes."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def one_line(error, *parts):
    """The message of a raised UserError, which must be one line that holds `parts`."""
    text = str(error.value)
    assert "\n" not in text and text.isprintable() and all(str(part) in text for part in parts), text
    return text
