"""Tensors to pixels, pixels to picture files."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from images import encode_deep, tiff
from images.opening import opened
from utils import atomic, open_regular


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """(3 or 1,H,W) in [-1,1] -> (H,W,3) uint8."""
    x = ((x.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return x.permute(1, 2, 0).expand(-1, -1, 3).numpy()


def jet(heatmap: torch.Tensor, size: int) -> torch.Tensor:
    """(1,h,w) of any range -> (3,size,size) in [-1,1], lowest blue, highest red (MATLAB's JET)."""
    h = heatmap.detach().float().cpu()
    h = (h - h.min()) / (h.max() - h.min()).clamp_min(1e-12)
    h = torch.nn.functional.interpolate(h[None], (size, size), mode="bilinear", align_corners=False)[0, 0]
    channels = [(1.5 - (4 * h - centre).abs()).clamp(0, 1) for centre in (3, 2, 1)]
    return torch.stack(channels) * 2 - 1


def save_picture(array: np.ndarray, path: Path, metadata: dict | None = None):
    """Write (H,W,3 or 1) uint8 or uint16 in the format of path's suffix, JPEG at quality 95; atomic.  Errors as atomic.

    A further band has opacities, which are dropped if the format has none.  metadata: as kept_metadata gives them.
    """
    data = encoded(array, path.suffix, metadata)  # not by PIL straight to the disk: it hides why a write failed
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def encoded(array: np.ndarray, suffix: str, metadata: dict | None = None) -> bytes:
    """The bytes that save_picture writes for (H,W,1 to 4) uint8, or uint16 as PNG or TIFF, and this suffix."""
    kind = Image.registered_extensions()[suffix.lower()]
    if array.dtype == np.uint16 or (kind == "TIFF" and metadata):
        return encode_deep.encoded(array, suffix, metadata)
    if array.shape[2] in (2, 4) and kind not in ("PNG", "WEBP", "TIFF", "TGA"):
        array = array[..., :-1]
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        options |= metadata or {}
    data = io.BytesIO()
    to_image(array).save(data, format=kind, **options)
    return data.getvalue()


def to_image(array: np.ndarray) -> Image.Image:
    """(H,W,1 to 4) uint8 as a PIL image in mode L, LA, RGB or RGBA."""
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def kept_metadata(path: Path) -> dict:
    """Date, rights and resolution of a picture file, as options of PIL's save; nothing else, such as a place."""
    kept, options = Image.Exif(), {}
    with suppress(Exception), open_regular(path) as file:  # a damaged block is left out
        exif, dpi = _exif_of(file)
        tags = ExifTags.Base
        resolution = (tags.XResolution, tags.YResolution, tags.ResolutionUnit)
        for tag in (tags.DateTime, tags.Artist, tags.Copyright, *resolution):
            if tag in exif:
                kept[tag] = exif[tag]
        more = exif.get_ifd(ExifTags.IFD.Exif) if isinstance(exif, Image.Exif) else {}
        dates = (tags.DateTimeOriginal, tags.DateTimeDigitized, tags.OffsetTime, tags.OffsetTimeOriginal)
        if taken := {tag: more[tag] for tag in dates if tag in more}:
            kept.get_ifd(ExifTags.IFD.Exif).update(taken)
        if dpi:
            options["dpi"] = tuple(map(float, dpi))
    return options | ({"exif": kept} if len(kept) or kept.get_ifd(ExifTags.IFD.Exif) else {})


def _exif_of(file):
    """EXIF's tags and the dots per inch of a picture file; of a TIFF that PIL does not open, those of its page."""
    try:
        with opened(file) as image:
            return image.getexif(), image.info.get("dpi")
    except UnidentifiedImageError:
        return tiff.tags_of(file), None


def with_alpha(picture: np.ndarray, alpha: Image.Image | None) -> np.ndarray:
    """(H,W,3 or 1) and its input's opacity, resized to fit, as a further band; without opacity unchanged."""
    if alpha is None:
        return picture
    h, w, _ = picture.shape
    alpha = alpha if alpha.size == (w, h) else alpha.resize((w, h), Image.Resampling.BILINEAR)
    opacity = np.asarray(alpha).astype(picture.dtype) * (np.iinfo(picture.dtype).max // 255)
    return np.dstack((picture, opacity))
