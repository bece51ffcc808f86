"""Any picture file as upright 8-bit sRGB, or one line that says why not.

More than 8 bits a band become 8 by a scale (images/deep.py).  Of what a file holds beside that, contents() tells.
"""

import io
import os
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from images import deep, tiff
from images.in_flight import budget
from images.opening import FORMATS, TooLarge, opened, shrink
from images.turns import decoding
from options import named
from utils import UserError, open_regular, shown

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


MAX_PIXELS = 128_000_000  # 512 MB once decoded; --max_pixels is another limit
MAX_SIDE = 65_535         # the most a JPEG can have; resizing a thin strip takes memory by its length
MAX_BYTES = 1 << 30       # of a file, or 8 for each of MAX_PIXELS: some decoders read the whole of it first
SHRINKS = False           # whether larger JPEGs are decoded at a fraction


def limit_pixels(most: int, shrinks: bool = False):
    """From now on pictures of more pixels are refused (--max_pixels), or JPEGs decoded at a fraction."""
    global MAX_PIXELS, SHRINKS
    MAX_PIXELS, SHRINKS = most, shrinks


class Contents(NamedTuple):
    """What a picture file holds.

    depth: of values beyond 8 bits, "16-bit", "32-bit" or "float", else None; extent: the smallest and the largest of
    these, None where the file says what is black and white; frames, bands: how many of them are left out; shrunk:
    whether it was decoded at a fraction.
    """

    depth: str | None
    extent: deep.Levels | None
    frames: int
    bands: int
    shrunk: bool = False


@decoding
def read_image(path, scale=None):
    """Decode one picture: a PIL image in mode RGB, upright, its colours converted to sRGB.

    Any depth, palette or transparency will do (transparent parts become white); of several frames the first.
    scale: of the domain of deep pictures; by default each is measured alone.  UserError, naming the file, when it
    cannot be read, is damaged, or is larger than MAX_PIXELS or MAX_SIDE, which is found out before it is decoded.
    """
    with _reading(path) as source:
        return to_rgb(_loaded(source, scale))


@decoding
def read_full_depth(path, scale=None) -> deep.FullDepth | Image.Image:
    """The same without rounding to 8 bits, where a picture has more, but for colours that a profile changes."""
    with _reading(path) as source:
        found = _deep(source)
        if found is not None:
            profile, orientation = _profile_and_orientation(source)
            if not (profile and _changes(profile, "L" if found.values.shape[2] == 1 else "RGB")):
                return upright(deep.FullDepth.of(found, scale), orientation)
    return read_image.__wrapped__(path, scale)


def _changes(profile: bytes, mode: str) -> bool:
    """Whether a colour profile, if it is sound, moves values."""
    with suppress(Exception):
        return _transform(profile, mode) is not None
    return False


@decoding
def alpha_of(path):
    """The opacity of an upright picture, a PIL image in mode L; None where it has none.  Errors as read_image."""
    with _reading(path) as source:
        return _alpha(_loaded(source, None))


@decoding
def contents(path) -> Contents:
    """Decode a picture and tell what is in its file.  Errors as read_image."""
    with _reading(path) as source:
        frames = _frames(source) - 1
        found = _deep(source)
        if found is None:
            source.image.load()
            return Contents(None, None, frames, source.left_out, getattr(source.image, "decoderconfig", ()) != ())
        extent = None if found.levels else found.extent()
        return Contents(found.depth if found.values.dtype != np.uint8 else None, extent, frames, found.left_out)


@decoding
def deep_contents(path) -> Contents | None:
    """The same for a picture of more than 8 bits a band alone, which are told without decoding the others."""
    with suppress(OSError), open_regular(path) as file:
        head = file.read(25)
        if head[:2] == b"\xff\xd8" or (head[:4] == b"\x89PNG" and head[24:] != b"\x10"):  # a JPEG; a PNG of 8 bits
            return None
    with _reading(path) as source:
        if source.tags is None and not deep.is_deep(source.image):
            return None
    return contents.__wrapped__(path)


class Source(NamedTuple):
    """A PIL image, not decoded yet; or a file and its tags, where images/tiff.py reads it."""

    image: Image.Image | None
    file: object = None
    tags: object = None

    @property
    def left_out(self) -> int:
        """Bands that PIL leaves out, or that we leave out of its bands."""
        tags = getattr(self.image, "tag_v2", None)
        return max(0, tiff.samples_of(tags) - len(self.image.getbands()) + _is_guess(self.image)) if tags else 0


def _is_guess(image: Image.Image) -> bool:
    """Whether PIL takes a fourth band for opacity although the file does not say so."""
    return image.mode == "RGBA" and image.format == "TIFF" and 338 not in image.tag_v2


def _deep(source: Source) -> deep.Deep | None:
    return deep.from_pil(source.image) if source.tags is None else deep.from_tiff(source.file, source.tags)


def _loaded(source: Source, scale) -> Image.Image:
    """A picture of 8 bits a band, upright."""
    found, image = _deep(source), source.image
    if found is None:
        image.load()
        if _is_guess(image):
            image = _with_profile(image.convert("RGB"), image.info.get("icc_profile"))
        with suppress(Exception):  # a camera's damaged EXIF block does not spoil its picture
            image = ImageOps.exif_transpose(image)
        return image
    profile, orientation = _profile_and_orientation(source)
    return _with_profile(upright(found.to_8_bits(scale), orientation), profile)


def _profile_and_orientation(source: Source):
    if source.tags is not None:
        return source.tags.get(34675), source.tags.get(ExifTags.Base.Orientation)
    orientation = None
    with suppress(Exception):
        orientation = source.image.getexif().get(ExifTags.Base.Orientation)
    return source.image.info.get("icc_profile"), orientation


def _with_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        image.info["icc_profile"] = profile
    return image


TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
         8: "ROTATE_90"}


def upright(image: Image.Image, orientation) -> Image.Image:
    """An image that lies as EXIF's orientation says, turned."""
    turn = TURNS.get(orientation)
    return image.transpose(Image.Transpose[turn]) if turn else image


def _frames(source: Source) -> int:
    """Frames or pages of the file; previews, masks and a telephone's maps are none."""
    if source.image is None:
        return tiff.pages(source.file, source.tags)
    image = source.image
    if image.format == "TIFF":
        return tiff.pages(image.fp, image.tag_v2)
    if image.format == "MPO":
        kinds = [entry["Attribute"]["MPType"] for entry in image.mpinfo[0xB002]]
        return 1 + sum(kind.startswith("Multi-Frame") for kind in kinds[1:])
    return getattr(image, "n_frames", 1)


def _alpha(image):
    return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def read_stored(path) -> Image.Image:
    """The picture as its file holds it, for maps of labels: palette, depth and orientation are kept.

    Errors and limits as read_image.
    """
    with _reading(path) as source:
        found = _deep(source)
        if found is not None and found.values.shape[2] == 3 and found.values.dtype != np.uint8:
            raise TooLarge("its colours have more than 8 bits, of which Pillow keeps 8: save it with 8 or as greys")
        if source.image is None:
            source.file.seek(0)
            with opened(source.file, ("TIFF",)) as image:
                return image.copy()
        source.image.load()
        return source.image.copy()


def from_pil(image, scale=None):
    """A PIL image as upright sRGB in mode RGB, and its opacity, in mode L, or None."""
    tags = image.tag_v2 if image.format == "TIFF" and getattr(image, "tile", None) else None  # not decoded yet
    ours = tags is not None and tiff.is_ours(tags)
    image = _loaded(Source(image, image.fp, tags) if ours else Source(image), scale)
    return to_rgb(image), _alpha(image)


def size_of(path):
    """(width, height) of an upright picture, from its header alone.  Errors as read_image."""
    with _reading(path) as source:
        size, tags = (source.tags.get(256), source.tags.get(257)) if source.tags else source.image.size, source.tags
        orientation = None
        with suppress(Exception):
            orientation = (tags or source.image.getexif()).get(ExifTags.Base.Orientation)
        return size[::-1] if orientation in (5, 6, 7, 8) else size


def is_picture(path):
    """Whether a file counts as a picture: by its name, else by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return True
    if suffix in READ_ONLY:
        return READ_ONLY[suffix][0] in FORMATS
    with suppress(Exception):  # a dead link, or a file that only begins like a picture
        if path.is_file():  # opening a pipe would wait
            with open_regular(path) as file, opened(file, FORMATS):
                return True
    return False


def reader_of(paths):
    """The packages that read those of `paths` that we cannot: "; pip install ...", or ""."""
    wanted = {READ_ONLY[s] for path in paths if (s := path.suffix.lower()) in READ_ONLY}
    return "".join(f"; pip install {package} reads {name}" for name, package in sorted(wanted) if name not in FORMATS)


@contextmanager
def _reading(path):
    """The picture in a file, of a size we accept, not decoded yet: a Source.  UserError: of all that fails inside."""
    try:
        # A file object, not a path: PIL would map the file, and one cut short meanwhile would be a bus error.
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > (most := max(MAX_BYTES, 8 * MAX_PIXELS)):
                raise TooLarge(f"the file is larger than {most >> 20} MiB: {_larger(named('max_pixels'))}")
            tags = tiff.tags_of(file)
            if tags is not None and tiff.is_ours(tags):
                with budget.hold(_check_size(tags.get(256, 0), tags.get(257, 0))):
                    yield Source(None, file, tags)
                return
            file.seek(0)
            # TGA has no mark of its own
            formats = (*FORMATS, "TGA") if Path(path).suffix.lower() == ".tga" else FORMATS
            with opened(file, formats) as image:
                if SHRINKS and image.width * image.height > MAX_PIXELS:
                    shrink(image, MAX_PIXELS)
                with budget.hold(_check_size(*image.size)):
                    yield Source(image)
    except MemoryError:
        raise  # the machine's fault, not the file's
    except Exception as error:  # anything at all: parsers of damaged files trip in many ways
        if isinstance(error, UnidentifiedImageError):
            reason = _unknown(path)
        else:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        remedy = "" if isinstance(error, TooLarge) else "; repair or remove it"
        raise UserError(f"cannot read the picture {shown(path)}: {reason}{remedy}") from error


def _larger(limit) -> str:
    """The remedy for a limit that an option of the running program may set."""
    return f"give a larger {limit} if the file is sound" if named("max_pixels") else "make it smaller"


def _check_size(width: int, height: int) -> int:
    """The number of pixels.  ValueError: too many."""
    if width * height > MAX_PIXELS:
        raise TooLarge(f"its {width} x {height} = {width * height} pixels are more than "
                       f"{named('max_pixels') or 'the limit of'} {MAX_PIXELS}: {_larger('one')}")
    if max(width, height) > MAX_SIDE:
        raise TooLarge(f"of its size {width} x {height} a side is longer than {MAX_SIDE}: cut the picture into pieces")
    if width * height < 1:
        raise ValueError(f"its size {width} x {height} has no pixels")
    return width * height


def _unknown(path):
    with open_regular(path) as file:
        head = file.read(12)
    kind = {b"heic": ".heic", b"heix": ".heic", b"mif1": ".heic", b"avif": ".avif"}.get(head[8:])
    if head[4:8] == b"ftyp" and kind and READ_ONLY[kind][0] not in FORMATS:
        return f"{READ_ONLY[kind][0]} is read once you pip install {READ_ONLY[kind][1]}"
    with suppress(Exception), open_regular(path) as file:
        if tags := tiff.tags_of(file):
            return f"a TIFF of a kind that nothing here reads ({tiff.described(tags)})"
    return f"not a picture we can read ({', '.join(FORMATS)})"


def to_rgb(image, scale=None):
    """A decoded PIL image of any mode in mode RGB; sRGB, 8 bits, on white.  scale: as read_image."""
    profile = image.info.get("icc_profile")
    if deep.is_deep(image):
        image = deep.from_pil(image).to_8_bits(scale)
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


def resize(image, side, channels=3, resample="bilinear"):
    """A PIL image to (side, side, channels) uint8, antialiased; one channel is luma.

    side: or (width, height); None keeps the size.  resample: "bilinear" or "bicubic".
    """
    image = image.convert("L") if channels == 1 else image
    size = (side, side) if isinstance(side, int) else side
    image = image.resize(size, Image.Resampling[resample.upper()]) if size else image
    return np.array(image).reshape(image.height, image.width, channels)


def to_tensor(pixels):
    """(...,H,W,C) uint8 to (...,C,H,W) float32 in [-1,1], exactly as ToTensor and Normalize(0.5, 0.5)."""
    tensor = torch.from_numpy(pixels).movedim(-1, -3)
    return tensor.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def load_for_test(path, img_size, channels=3, resample="bilinear", scale=None):
    """One test picture, resized and not cropped: (C,S,S) float32 in [-1,1]; its own size if `img_size`
    is None. UserError as read_image."""
    return to_tensor(resize(read_image(path, scale), img_size, channels, resample))
