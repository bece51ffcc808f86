"""Where PIL opens files: the only place.  It tries no formats but these, whatever a file's name or first bytes say."""

import warnings
from contextlib import suppress

from PIL import Image, PngImagePlugin, features


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

PngImagePlugin.MAX_TEXT_CHUNK = 1 << 24  # bytes of a colour profile or of the text that a turned picture's EXIF may be
Image.MAX_IMAGE_PIXELS = None  # images/decode.py has a stricter check, which names the file
warnings.filterwarnings("ignore", module=r"PIL\.")  # damage that matters ends in an error of ours


def _without_long_text(read):
    """A reader of text or profile chunks of PNG files that leaves out what is too long: no picture depends on it."""
    def reader(stream, position, length):
        try:
            return read(stream, position, length)
        except ValueError:
            stream.fp.seek(position)
            return stream.fp.read(length)

    return reader


for _name in ("chunk_tEXt", "chunk_zTXt", "chunk_iTXt", "chunk_iCCP"):
    setattr(PngImagePlugin.PngStream, _name, _without_long_text(getattr(PngImagePlugin.PngStream, _name)))


class TooLarge(ValueError):
    """A limit of ours; the file may be sound."""


def opened(file, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The picture in a file object, of one of these formats; its header alone is read."""
    return Image.open(file, formats=formats)


def shrink(image: Image.Image, most: int):
    """Let a JPEG of more pixels than `most` be decoded at the largest of 1/2, 1/4 and 1/8 with no more of them.

    Only where its decoder needs memory for a row of blocks alone: neither progressive files nor those whose colours
    lie apart.
    """
    if image.format not in ("JPEG", "MPO") or "progressive" in image.info:
        return
    at, n = image.fp.tell(), image.layers  # behind the head of the first scan, which ought to have all n colours
    image.fp.seek(max(0, at - 6 - 2 * n))
    head = image.fp.read(3)
    image.fp.seek(at)
    if head != bytes([0, 6 + 2 * n, n]):
        return
    width, height = image.size
    part = next((part for part in (2, 4) if -(-width // part) * -(-height // part) <= most), 8)
    image.draft(None, (width // part, height // part))
