"""Scores against true counterparts (truthA, truthB) of a data set without masks, and three baselines beside them.

l1, ssim, lpips    to the true counterpart, mean over the test pictures; l1 of values in [0, 1]
copy               the input itself
colour matched     one linear map of colours, fitted without pairs: training pictures of the source get the mean and
                   the covariance of those of the target
another picture    a test picture of the target domain, of another place
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo import DIRECTIONS
from images import maker
from images.decode import read_image
from images.files import list_images
from scoring.metrics import ssim
from utils import UserError, shown

MEASURES = ("l1", "ssim", "lpips")
BASELINES = ("copy", "colour matched", "another picture")


def there(root: Path, s: str) -> bool:
    """Whether test pictures of domain s have true counterparts, but no masks, with which the demo's measures apply."""
    return (root / f"truth{s}").is_dir() and not (root / f"mask{s}").is_dir()


def measure(fake: Path, truth: Path, lpips=None) -> dict[str, float]:
    """Means of measure_each's values over the pictures."""
    return {name: float(values.mean()) for name, values in measure_each(fake, truth, lpips).items()}


def measure_each(fake: Path, truth: Path, lpips=None) -> dict[str, np.ndarray]:
    """l1, ssim and, with a network, lpips of each picture in `fake` to that of the same name in `truth`: (n,) each.

    A larger picture in `fake` (some networks need larger inputs) is first reduced to the size of its counterpart.
    UserError: a picture is missing or too small, or the pictures show only the centres of what they translate.
    """
    maker.need_whole(fake)
    rows = []
    for path in list_images(truth):
        found = next((f for f in (fake / path.name, fake / f"{path.stem}.png") if f.is_file()), None)
        if found is None:
            raise UserError(f"{shown(fake)} has no picture {path.name}: translate the test folders again")
        a, b = read_image(found), read_image(path)
        if a.size != b.size:
            if a.size < b.size:
                raise UserError(f"{shown(found)} is smaller than {shown(path)}: translate with a larger --img_size")
            a = a.resize(b.size, Image.Resampling.LANCZOS)
        a, b = (torch.from_numpy(np.array(z)).permute(2, 0, 1)[None].double() / 255 for z in (a, b))
        row = [(a - b).abs().mean().item(), ssim(a, b).item()]
        if lpips:
            row.append(lpips(*(2 * z.float() - 1 for z in (a, b))).item())
        rows.append(row)
    return dict(zip(MEASURES, np.array(rows).T, strict=False))


# ----------------------------------------------------------------------------------------- baselines


def baselines(root: Path, folder: Path) -> list[str]:
    """Make the baselines' pictures below `folder`; return "NAME=DIR" of each, as --outputs takes them."""
    shutil.rmtree(folder, ignore_errors=True)
    for s, t in DIRECTIONS:
        matched = colour_map(root / f"train{s}", root / f"train{t}")
        others = list_images(root / f"test{t}")
        for i, path in enumerate(list_images(root / f"test{s}")):
            picture = read_image(path)
            other = read_image(others[i % len(others)]).resize(picture.size, Image.Resampling.LANCZOS)
            for name, made in zip(BASELINES, (picture, matched(picture), other), strict=True):
                place = folder / name.replace(" ", "_") / f"fake{t}"
                place.mkdir(parents=True, exist_ok=True)
                made.save(place / f"{path.stem}.png")
    return [f"{name}={folder / name.replace(' ', '_')}" for name in BASELINES]


def colour_map(source: Path, target: Path):
    """A function of a picture: the linear map of colours between two folders, from means and covariances alone.

    The map is symmetric and positive: M = Cs^-1/2 (Cs^1/2 Ct Cs^1/2)^1/2 Cs^-1/2.
    """
    a, b = (np.concatenate([np.asarray(read_image(path), float).reshape(-1, 3) for path in list_images(folder)])
            for folder in (source, target))  # fmt: skip
    root = power(np.cov(a.T), 0.5)
    back = power(np.cov(a.T), -0.5)
    matrix = back @ power(root @ np.cov(b.T) @ root, 0.5) @ back
    mean, goal = a.mean(0), b.mean(0)

    def apply(picture: Image.Image) -> Image.Image:
        pixels = (np.asarray(picture, float) - mean) @ matrix + goal
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))

    return apply


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive matrix; a variance of 0 (grey pictures) counts as tiny."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.maximum(values, 1e-6) ** exponent) @ vectors.T
