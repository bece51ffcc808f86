"""Any picture file as upright 8-bit sRGB, or one line that says why not.

Greys deeper than 8 bits are scaled as their file says (TIFF's bits per sample and its tags of the smallest and
largest value). If it says nothing, one rule covers all such pictures of a folder, by the values they hold:
black is 0, or the smallest value if that is negative; white is 2^k - 1 for the fewest bits k >= 8 that hold
the largest value. For floats white is 1, or 255 if they end there, or the largest; floats of -1..1 span -1..1.
"""

import io
import os
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, features
from tqdm import tqdm

from utils import UserError, shown

# Formats that are also written, without loss or as JPEG: results keep these names.
EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
              ".webp", ".tga"}

# Formats that may be readable: the name in PIL, and the package that reads it.
READ_ONLY = {
    ".gif": ("GIF", "pillow"),
    ".jp2": ("JPEG2000", "pillow"),
    ".j2k": ("JPEG2000", "pillow"),
    ".avif": ("AVIF", "'pillow>=11.3'"),
    ".heic": ("HEIF", "pillow-heif"),
    ".heif": ("HEIF", "pillow-heif"),
}


def _formats():
    """The formats PIL may try: content can differ from the name, but a hostile file reaches no other parser."""
    found = ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF"]
    for feature, name in ("jpg_2000", "JPEG2000"), ("avif", "AVIF"):
        if feature in {**features.modules, **features.codecs} and features.check(feature):
            found.append(name)
    with suppress(ImportError, OSError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    return tuple(found)


FORMATS = _formats()
MAX_PIXELS = 100_000_000  # 400 MB once decoded
MAX_SIDE = 65_535         # the most a JPEG can have; resizing a thin strip takes memory by its length
MAX_BYTES = 1 << 30       # of a file: some decoders read the whole of it first

Image.MAX_IMAGE_PIXELS = None  # _opened has a stricter check, which names the file
warnings.filterwarnings("ignore", module=r"PIL\.")  # damage that matters ends in an error of ours


def read_image(path):
    """Decode one picture: a PIL image in mode RGB, upright, its colours converted to sRGB.

    Any depth, palette or transparency is accepted (transparent parts become white); of several frames the
    first is taken. UserError naming the file: it cannot be read, is damaged, or is larger than MAX_PIXELS or
    MAX_SIDE, which is checked before decoding.
    """
    return _reading(path, lambda image: to_rgb(image, Path(path).parent))


def _reading(path, use):
    """Decode a file, turn the picture upright, and return use(picture)."""
    try:
        with _opened(path) as image:
            image.load()
            with suppress(Exception):  # a camera's damaged EXIF block does not spoil its picture
                ImageOps.exif_transpose(image, in_place=True)
            return use(image)
    except Exception as error:  # parsers of damaged files raise anything
        if isinstance(error, UnidentifiedImageError):
            reason = _unknown(path)
        else:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the picture {shown(path)}: {reason}; repair or remove it") from error


def alpha_of(path):
    """The opacity of an upright picture, a PIL image in mode L, or None.  Errors as read_image."""
    return _reading(path, _alpha)


def _alpha(image):
    return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def from_pil(image):
    """A PIL image as upright sRGB in mode RGB, and its opacity, in mode L, or None."""
    image = ImageOps.exif_transpose(image)
    return to_rgb(image), _alpha(image)


def is_picture(path):
    """Whether a file counts as a picture: by its name, else by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return True
    if suffix in READ_ONLY:
        return READ_ONLY[suffix][0] in FORMATS
    with suppress(Exception):  # a dead link, or a file that only begins like a picture
        if path.is_file():  # opening a pipe would wait
            with open(path, "rb") as file, Image.open(file, formats=FORMATS):
                return True
    return False


def reader_of(paths):
    """The packages that read those of `paths` that we cannot: "; pip install ...", or ""."""
    wanted = {READ_ONLY[s] for path in paths if (s := path.suffix.lower()) in READ_ONLY}
    return "".join(f"; pip install {package} reads {name}" for name, package in sorted(wanted) if name not in FORMATS)


@contextmanager
def _opened(path):
    """Open a picture of an accepted size, not decoded yet."""
    formats = (*FORMATS, "TGA") if Path(path).suffix.lower() == ".tga" else FORMATS  # TGA has no mark of its own
    # A file object, not a path: PIL would map the file, and truncating it meanwhile would be a bus error.
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise ValueError(f"the file is larger than {MAX_BYTES >> 20} MiB")
        with Image.open(file, formats=formats) as image:
            width, height = image.size
            if not 0 < width * height <= MAX_PIXELS or max(width, height) > MAX_SIDE:
                limits = f"1 to {MAX_PIXELS} pixels and a side of {MAX_SIDE}"
                raise ValueError(f"its size {width} x {height} is outside {limits}")
            yield image


def _unknown(path):
    with open(path, "rb") as file:
        head = file.read(12)
    kind = {b"heic": ".heic", b"heix": ".heic", b"mif1": ".heic", b"avif": ".avif"}.get(head[8:])
    if head[4:8] == b"ftyp" and kind and READ_ONLY[kind][0] not in FORMATS:
        return f"{READ_ONLY[kind][0]} is read once you pip install {READ_ONLY[kind][1]}"
    return f"not a picture we can read ({', '.join(FORMATS)})"


def to_rgb(image, folder=None):
    """A decoded PIL image of any mode in mode RGB; sRGB, 8 bits, on white.

    folder: where it lies; deep pictures of a folder share one scale.  None: it is alone.
    """
    profile = image.info.get("icc_profile")
    if _depth(image):
        image = _to_8_bits(image, folder)
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(_to_srgb(image.convert("L" if grey else "RGB"), profile), mask=image.getchannel("A"))
        return page
    return _to_srgb(image, profile)


def _to_srgb(image, profile):
    if image.mode not in ("RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if profile:
        with suppress(Exception):  # nor does a damaged profile, or one of another mode
            transform = _transform(profile, image.mode)
            if transform:
                return ImageCms.applyTransform(image, transform)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile, mode):
    """Transform from a profile's colours to sRGB; None if it moves no value by more than 1 of 255."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode not in ("L", "RGB"):
        return transform
    values = np.arange(0, 256, 15, dtype=np.uint8)
    cube = values if mode == "L" else np.stack(np.meshgrid(values, values, values), -1)
    samples = Image.fromarray(cube.reshape(1, -1, *cube.shape[3:]))
    moved = np.asarray(ImageCms.applyTransform(samples, transform), int)
    return transform if np.abs(moved - np.asarray(samples.convert("RGB"))).max() > 1 else None


def _depth(image):
    """The depth of a grey of more than 8 bits a pixel, in words; None for other pictures."""
    if image.mode.startswith("I;16"):
        return "16-bit"
    return {"I": "32-bit", "F": "float"}.get(image.mode)


def _to_8_bits(image, folder):
    """Scale to mode L by the rule at the top of this file; PIL's own conversion would clip at 255."""
    black, white = _stated(image) or levels.of(image, folder)
    values = _values(image).astype(np.float32)  # in place from here: pictures may be large
    np.nan_to_num(values, copy=False, nan=black, posinf=white, neginf=black)
    values.clip(black, white, out=values)
    values -= black
    values *= 255 / (white - black)
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


def _values(image):
    values = np.asarray(image)
    unsigned = getattr(image, "tag_v2", {}).get(339, (1,))[0] == 1  # TIFF's SampleFormat
    return values.view(np.uint32) if image.mode == "I" and unsigned else values


def _stated(image):
    """(black, white) as the file says, or None."""
    if image.format in ("PPM", "JPEG2000") and image.mode != "F":
        return 0, 65535  # PIL has scaled it by the file's own maximum
    tags = getattr(image, "tag_v2", {})

    def value(*names):
        for name in names:
            with suppress(Exception):
                found = tags[name]
                return float(found[0] if isinstance(found, tuple) else found)

    black, white = value(340, 280) or 0.0, value(341, 281)  # SMin-, MinSampleValue; SMax-, MaxSampleValue
    if white is not None and np.isfinite([black, white]).all() and white > black:
        return black, white
    bits = value(258)  # BitsPerSample
    return (0, 2**bits - 1) if bits and bits not in (8, 16, 32, 64) else None


class FolderLevels:
    """Black and white of deep pictures by the rule: one pair for each folder and depth, measured on first use."""

    def __init__(self):
        self._measured, self._lock = {}, threading.Lock()

    def clear(self):
        self._measured.clear()

    def of(self, image, folder):
        """(black, white) for an image from `folder`; None: it is alone."""
        depth = _depth(image)
        if folder is None:
            return _rule(*_extent(image), depth)
        with self._lock:
            if (folder, depth) not in self._measured:
                self._measured[folder, depth] = self._measure(image, folder, depth)
            return self._measured[folder, depth]

    def _measure(self, image, folder, depth):
        extents, files = [_extent(image)], []
        with suppress(OSError):
            files = [path for path in folder.iterdir() if path.is_file()]
        for path in tqdm(files, f"values in {folder.name}", leave=False, delay=2):
            with suppress(Exception), _opened(path) as other:  # a damaged file is reported where it is read
                if _depth(other) == depth and not _stated(other):
                    other.load()
                    extents.append(_extent(other))
        least, most = min(low for low, _ in extents), max(high for _, high in extents)
        black, white = _rule(least, most, depth)
        print(f"{depth} pictures in {shown(folder)} hold values of {least:.10g} to {most:.10g}: "
              f"{black:.10g} becomes black and {white:.10g} white", file=sys.stderr)
        return black, white


levels = FolderLevels()  # of this process; all threads share it


def _extent(image):
    """The smallest and the largest finite value."""
    values = _values(image)
    if image.mode == "F":
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _rule(least, most, depth):
    """(black, white) for values from least to most."""
    black = min(0, least)
    if depth != "float":
        return black, 2 ** max(8, int(most).bit_length()) - 1
    if most <= 1:
        return -1 if -1 <= black < 0 else black, 1
    return black, 255 if 127 < most <= 255 else most


def resize(image, side, channels=3, resample="bilinear"):
    """A PIL image to (side, side, channels) uint8, antialiased; one channel is luma.

    side: None keeps the size, (height, width, channels).  resample: "bilinear" or "bicubic".
    """
    image = image.convert("L") if channels == 1 else image
    image = image.resize((side, side), Image.Resampling[resample.upper()]) if side else image
    return np.array(image).reshape(image.height, image.width, channels)


def to_tensor(pixels):
    """(...,H,W,C) uint8 to (...,C,H,W) float32 in [-1,1], exactly as ToTensor and Normalize(0.5, 0.5)."""
    tensor = torch.from_numpy(pixels).movedim(-1, -3)
    return tensor.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def load_for_test(path, img_size, channels=3, resample="bilinear"):
    """One test picture, resized, not cropped: (C,S,S) float32 in [-1,1]; `img_size` None keeps its size.

    UserError as read_image.
    """
    return to_tensor(resize(read_image(path), img_size, channels, resample))
