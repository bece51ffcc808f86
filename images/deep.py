"""Pictures of more than 8 bits a band: their values, and the scale by which these become 8 bits.

A file may say what is black and what is white (TIFF's bits per sample, its tags of the least and largest value).
Where it says nothing, a domain of a data set has one scale, measured on all its training pictures (images/scales.py)
by this rule: black is 0, or the smallest value if that is negative; white is 2^k - 1 for the fewest bits k >= 8 that
hold the largest, for floats 1, or 255 if that is where they end, or the largest.  Floats of -1..1 span just that.
A picture of no known domain is measured alone.
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image

from images import tiff
from images.opening import opened

Levels = tuple[float, float]  # the values of black and of white
Scale = dict[str, Levels]  # of a domain, by depth: "16-bit", "32-bit", "float"


class Deep(NamedTuple):
    """The values of a picture.

    values (H,W,1 or 3); opacity (H,W) in [0,1] or None; premultiplied: the values are multiplied by it; inverted: the
    largest value is black; levels: black and white as the file says, or None; left_out: bands that are not here.
    """

    values: np.ndarray
    opacity: np.ndarray | None = None
    levels: Levels | None = None
    depth: str = "16-bit"
    premultiplied: bool = False
    inverted: bool = False
    left_out: int = 0

    def extent(self) -> Levels:
        """The smallest and the largest finite value."""
        values = self.values[np.isfinite(self.values)] if self.depth == "float" else self.values
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)

    def levels_in(self, scale: Scale | None) -> Levels:
        """Its black and white: as the file says, as its domain's, or by the rule for it alone."""
        return self.levels or (scale or {}).get(self.depth) or rule(*self.extent(), self.depth)

    def in_255(self, scale: Scale | None) -> np.ndarray:
        """The values (H,W,1 or 3) float32, black 0 and white 255."""
        black, white = self.levels_in(scale)
        values = self.values.astype(np.float32)  # and in place from here, for the sake of large pictures
        np.nan_to_num(values, copy=False, nan=black, posinf=white, neginf=black)
        values.clip(black, white, out=values)
        values -= black
        values *= 255 / (white - black)
        if self.inverted:
            np.subtract(255, values, out=values)
        if self.premultiplied:
            values /= np.maximum(self.opacity, 1e-6)[..., None]
            values.clip(0, 255, out=values)
        return values

    def to_8_bits(self, scale: Scale | None) -> Image.Image:
        """Mode L or RGB, with opacity LA or RGBA."""
        bands = self.in_255(scale)
        bands = np.rint(bands, out=bands).astype(np.uint8)
        if self.opacity is not None:
            bands = np.dstack((bands, np.rint(self.opacity * 255).astype(np.uint8)))
        return Image.fromarray(bands[..., 0] if bands.shape[2] == 1 else bands)


class FullDepth:
    """A picture whose bands keep their depth: float32 of 0 to 255, with as much of a PIL image as inputs need."""

    def __init__(self, bands: list[Image.Image]):
        self.bands, self.size = bands, bands[0].size  # of mode F
        self.width, self.height = self.size

    @classmethod
    def of(cls, picture: Deep, scale: Scale | None) -> "FullDepth":
        """Three bands, on white where the picture has opacity."""
        values = picture.in_255(scale)
        if picture.opacity is not None:
            values = 255 - (255 - values) * picture.opacity[..., None]
        return cls([Image.fromarray(values[..., i % values.shape[2]].astype(np.float32)) for i in range(3)])

    def transpose(self, method) -> "FullDepth":
        return FullDepth([band.transpose(method) for band in self.bands])

    def resize(self, size, resample) -> "FullDepth":
        return FullDepth([band.resize(size, resample) for band in self.bands])

    def convert(self, mode: str) -> "FullDepth":
        """Mode L: PIL's luma."""
        assert mode == "L"
        r, g, b = map(np.asarray, self.bands)
        return FullDepth([Image.fromarray(np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b)])

    def __array__(self, dtype=None, copy=None):
        return np.dstack([np.asarray(band) for band in self.bands]).clip(0, 255)  # bicubic goes beyond


def rule(least: float, most: float, depth: str) -> Levels:
    """(black, white) for values from least to most."""
    black = min(0.0, least)
    if depth != "float":
        return black, float(2 ** max(8, int(most).bit_length()) - 1)
    if most <= 1:
        return -1.0 if -1 <= black < 0 else black, 1.0
    return black, 255.0 if 127 < most <= 255 else most


def depth_of(dtype: np.dtype) -> str:
    return "float" if dtype.kind == "f" else "16-bit" if dtype.itemsize <= 2 else "32-bit"


def from_tiff(file, tags) -> Deep:
    """A TIFF file that images/tiff.py reads."""
    values, opacity, premultiplied, inverted, left_out = tiff.read(file, tags)
    if values.dtype == np.int8:
        values = (values.astype(np.int16) + 128).astype(np.uint8)
    if opacity is not None:
        full = 1 if opacity.dtype.kind == "f" else np.iinfo(opacity.dtype).max
        opacity = (opacity.astype(np.float32) / full).clip(0, 1)
    levels = (0.0, 255.0) if values.dtype == np.uint8 else stated(tags)
    return Deep(values, opacity, levels, depth_of(values.dtype), premultiplied, inverted, left_out)


def _is_deep_png(image: Image.Image) -> bool:
    return image.format == "PNG" and len(image.tile) == 1 and str(image.tile[0][3]).endswith(";16B")


def _is_deep_ppm(image: Image.Image) -> bool:
    """Whether it is a PPM file of colours beyond 255, of which PIL keeps 8 bits."""
    return image.format == "PPM" and image.mode == "RGB" and any(
        codec == "ppm" and values[1] > 255 for codec, _, _, values in image.tile
    )


def is_deep(image: Image.Image) -> bool:
    """Whether a PIL image has more than 8 bits a band."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F") or _is_deep_png(image) or _is_deep_ppm(image)


def from_pil(image: Image.Image) -> Deep | None:
    """A PIL image; None where it has 8 bits a band."""
    if not is_deep(image):
        return None
    if _is_deep_png(image):
        return _from_png(image)
    if _is_deep_ppm(image):
        return _from_ppm(image)
    values = np.asarray(image)[..., None]
    levels = stated(getattr(image, "tag_v2", {}))
    if image.format in ("PPM", "JPEG2000") and image.mode != "F":
        levels = (0.0, 65535.0)  # PIL has scaled it by the file's own maximum
    depth = "16-bit" if image.mode.startswith("I;16") else depth_of(values.dtype)
    return Deep(values, None, levels, depth)


def _from_ppm(image: Image.Image) -> Deep:
    (_, _, offset, (_, most)), (W, H) = image.tile[0], image.size
    image.fp.seek(offset)
    values = np.frombuffer(image.fp.read(6 * W * H), ">u2").reshape(H, W, 3)
    return Deep(values.astype(np.uint16), None, (0.0, float(most)))


def _from_png(image: Image.Image) -> Deep | None:
    """A PNG of 16 bits a band.

    PIL keeps the high bytes of colours alone.  Taken for little-endian, the file gives the low bytes, too.
    """
    codec, extent, offset, kind = image.tile[0][:4]
    if kind == "I;16B":
        clear = image.info.get("transparency")
        values = np.array(image)[..., None]
        return Deep(values, None if clear is None else (values[..., 0] != clear).astype(np.float32))

    def bands(mode: str, raw: str) -> np.ndarray:
        image.fp.seek(0)
        with opened(image.fp, ("PNG",)) as again:
            again._mode, again.tile = mode, [(codec, extent, offset, raw)]
            again.load()
            return np.array(again).astype(np.uint16)

    if kind == "LA;16B":
        bytes_of = bands("RGBA", "RGBA")
        values = bytes_of[..., 0::2] * 256 + bytes_of[..., 1::2]
    else:
        mode = kind[:-4]
        values = bands(mode, f"{mode};16B") * 256 + bands(mode, f"{mode};16L")
    opacity = values[..., -1] / np.float32(65535) if kind[-5] == "A" else None
    values = values if opacity is None else values[..., :-1]
    clear = image.info.get("transparency")
    if opacity is None and isinstance(clear, tuple):
        opacity = (values != np.array(clear)).any(-1).astype(np.float32)
    return Deep(values, opacity)


def stated(tags) -> Levels | None:
    """(black, white) as a TIFF file says, or None."""
    def value(least, *numbers):
        for number in numbers:
            with suppress(Exception):
                found = tags[number]
                return float(least(found) if isinstance(found, tuple) else found)

    black, white = value(min, 340, 280) or 0.0, value(max, 341, 281)  # SMin-, MinSampleValue; SMax-, MaxSampleValue
    if white is not None and np.isfinite([black, white]).all() and white > black:
        return black, white
    bits = value(max, 258)  # BitsPerSample
    return (0.0, 2.0**bits - 1) if bits and bits not in (8, 16, 32, 64) else None
