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
