"""PNG and TIFF files as PIL does not write them: of 16 bits a band (--deep true); TIFF with EXIF's dates."""

import io
import struct
import zlib

import numpy as np
from PIL.ExifTags import IFD
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from images.deep import Levels, Scale

ENDINGS = (".png", ".tif", ".tiff")
FULL = (0.0, 65535.0)


def levels_of_results(scale: Scale) -> tuple[Levels, str]:
    """(black, white) of results in a domain of this scale, and a line that says so.

    They are those of the domain's pictures, of 16 bits if there are some, where 16 bits hold them with 256 levels.
    """
    known = [scale[depth] for depth in ("16-bit", "32-bit", "float") if depth in scale] or [FULL]
    for black, white in known:
        if black >= 0 and white <= FULL[1] and white - black >= 255:
            return (black, white), f"results have 16 bits a band: {black:.10g} is black and {white:.10g} white"
    black, white = known[0]
    return FULL, f"results have 16 bits a band: 0 stands for {black:.10g} and 65535 for {white:.10g}"


def to_uint16(x, levels: Levels) -> np.ndarray:
    """A tensor (3 or 1,H,W) in [-1,1] -> (H,W,3 or 1) uint16, of which levels are black and white."""
    black, white = levels
    values = (x.detach().float().cpu().permute(1, 2, 0).numpy() + 1) * np.float32((white - black) / 2) + black
    return np.rint(values).clip(black, white).astype(np.uint16)


def encoded(array: np.ndarray, suffix: str, metadata: dict | None = None) -> bytes:
    """The file of (H,W,1 to 4) uint16, or of a TIFF also uint8; the last band of 2 or 4 is opacity.

    metadata: as kept_metadata gives them.
    """
    return (_png if suffix.lower() == ".png" else _tiff)(array, **metadata or {})


def _png(array: np.ndarray, exif=None, dpi=None) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    H, W, n = array.shape
    rows = np.ascontiguousarray(array, ">u2").view(np.uint8).reshape(H, -1)
    filtered = np.full((H, 1 + rows.shape[1]), 2, np.uint8)  # filter 2: differences from the row above
    filtered[0, 1:], filtered[1:, 1:] = rows[0], rows[1:] - rows[:-1]
    header = struct.pack(">IIBBBBB", W, H, 16, {1: 0, 2: 4, 3: 2, 4: 6}[n], 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if exif is not None:
        file += chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    if dpi is not None:
        file += chunk(b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in dpi), 1))
    return file + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")


def _tiff(array: np.ndarray, exif=None, dpi=None) -> bytes:
    (H, W, n), depth = array.shape, array.itemsize
    data = zlib.compress(np.ascontiguousarray(array, f"<u{depth}"))
    tags = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    tags.tagtype.update({256: 4, 257: 4, 273: 4, 278: 4, 279: 4})  # LONG
    for tag, value in (exif or {}).items():
        tags[tag] = value
    if exif is not None and (dates := exif.get_ifd(IFD.Exif)):
        tags.tagtype[IFD.Exif], tags[IFD.Exif] = 4, dates
    if dpi is not None:
        tags[282], tags[283], tags[296] = *dpi, 2
    kind = {258: (8 * depth,) * n, 259: 8, 262: 2 if n >= 3 else 1, 277: n, 284: 1, 339: (1,) * n}
    tags.update({256: W, 257: H, 278: H, 273: (0,), 279: (len(data),)} | kind)
    if n in (2, 4):
        tags[338] = (2,)  # opacity, not multiplied
    file = io.BytesIO()
    tags.save(file)  # which lets the strip begin at its end
    return file.getvalue() + data
