"""Tensors to pixels, pixels to picture files."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utils import atomic


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


def save_picture(array: np.ndarray, path: Path):
    """Write (H,W,3) uint8 in the format of path's suffix, JPEG at quality 95; atomic.  Errors as atomic.

    (H,W,4) has opacities, which are dropped if the format has none.
    """
    data = encoded(array, path.suffix)  # not by PIL straight to the disk: it hides why a write failed
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def encoded(array: np.ndarray, suffix: str) -> bytes:
    """The bytes that save_picture writes for (H,W,3 or 4) uint8 and this suffix."""
    kind = Image.registered_extensions()[suffix.lower()]
    if array.shape[2] == 4 and kind not in ("PNG", "WEBP", "TIFF", "TGA"):
        array = np.ascontiguousarray(array[..., :3])
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = io.BytesIO()
    Image.fromarray(array).save(data, format=kind, **options)
    return data.getvalue()


def with_alpha(picture: np.ndarray, alpha: Image.Image | None) -> np.ndarray:
    """(H,W,3) uint8 and its input's opacity, resized to fit -> (H,W,4); without opacity unchanged."""
    if alpha is None:
        return picture
    h, w, _ = picture.shape
    alpha = alpha if alpha.size == (w, h) else alpha.resize((w, h), Image.Resampling.BILINEAR)
    return np.dstack((picture, np.asarray(alpha)))
