"""Pictures: find them, read them as upright RGB, and feed them to the training for ever.

    paths  = {d: check_images(list_images(f"dataset/cat2dog/train{d}")) for d in "AB"}
    stream = UnpairedStream(paths, img_size=256, batch_size=1)
    batch  = next(stream)                       # {"A": (N,3,S,S), "B": (N,3,S,S)} in [-1,1]
"""

import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils import UserError

# All of these PIL can also write, so a translated picture can always keep its input's name.
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp"}
# What a file holds may differ from its name, but parsers nobody needs stay out of a hostile file's reach.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
MAX_PIXELS = 100_000_000  # 400 MB once decoded
MAX_BYTES = 1 << 30       # of a file: some decoders read the whole of it first
Image.MAX_IMAGE_PIXELS = None  # read_image has its own, stricter check, which names the file
warnings.filterwarnings("ignore", module=r"PIL\.")  # damage that matters ends in an error of ours


# --- files ---------------------------------------------------------------------------------------

def shown(path):
    """`path` as text for a message of one line: quoted and escaped only where it would not print."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def list_images(folder):
    """All pictures below `folder`, sorted by their path relative to it: list[Path], never empty.

    Links are followed and each real directory is visited once, so loops of links end. Hidden files
    and whatever has no picture's extension are ignored. UserError: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{shown(folder)} {what}: make it a folder of pictures")

    def fail(error):
        raise UserError(f"cannot list {shown(error.filename)}: {error.strerror}; check its permissions")

    found, visited = [], set()
    for directory, subfolders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(directory)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") or path.suffix.lower() not in EXTENSIONS:
                continue
            if path.is_file() or path.is_symlink():  # a dead link must not vanish silently
                found.append(path)
    if not found:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(f"no picture in {shown(folder)}: put some there ({kinds})")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_image(path):
    """Decode one picture: a PIL image in mode RGB, upright.

    Any depth, palette or transparency will do (16 bits are scaled to 8, transparent parts become
    white); of several frames the first. UserError, naming the file, when it cannot be read, is
    damaged, or has more than MAX_PIXELS, which is found out before it is decoded.
    """
    try:
        # A file object, not a path: PIL would map the file, and one cut short meanwhile would be a bus error.
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise ValueError(f"the file is larger than {MAX_BYTES >> 20} MiB")
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if not 0 < width * height <= MAX_PIXELS:
                    raise ValueError(f"{width} x {height} pixels, outside 1 to {MAX_PIXELS}")
                image.load()
                with suppress(Exception):  # a camera's damaged EXIF block does not spoil its picture
                    ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except Exception as error:  # anything at all: parsers of damaged files trip in many ways
        reason = _reason(error)
        raise UserError(f"cannot read the picture {shown(path)}: {reason}; repair or remove it") from error


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture we can read ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _to_rgb(image):
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(image, mask=image.getchannel("A"))
        return page
    return image.convert("RGB")


def _to_8_bits(image):
    """Grey of 16 or 32 bits or floats, scaled to mode L; PIL's own conversion would clip it at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values)
        top = 1 if values.max() <= 1 else 255
    else:
        values = values.view(np.uint32) if image.mode == "I" else values
        top = 65535 if values.max() <= 65535 else 2**32 - 1
    return Image.fromarray(np.rint(np.clip(values * np.float32(255 / top), 0, 255)).astype(np.uint8))
