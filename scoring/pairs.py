"""Paired distances: pictures against their true counterparts."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from images.decode import read_image
from images.files import common_scale, list_images
from scoring.metrics import ssim
from utils import UserError


def paired_distances(folder, truth, workers=2, scale=None):
    """Mean distances between the pictures of `folder` and those of the same name (any suffix) in `truth`.

    scale: of deep pictures, by default one for both folders (images/files.py).
    Returns a dict: l1 in [0, 1], psnr in dB, ssim at most 1, pairs (their number), identical (the number of identical
    pairs, whose PSNR would be infinite: psnr is the mean of the others', None where there are none).
    """
    fakes, exact, by_stem = list_images(folder), {}, {}
    for path in list_images(truth):
        name = path.relative_to(truth)
        exact[name] = by_stem[name.with_suffix("")] = path

    scale = common_scale(folder, truth) if scale is None else scale

    def compare(path):
        name = path.relative_to(folder)
        other = exact.get(name) or by_stem.get(name.with_suffix(""))
        if other is None:
            raise UserError(f"{path} has no counterpart in {truth}: --paired needs one of the same name")
        a, b = read_image(path, scale), read_image(other, scale)
        if a.size != b.size or min(a.size) < 11:
            raise UserError(f"{path} is {a.size[0]}x{a.size[1]} and {other} {b.size[0]}x{b.size[1]}: "
                            "--paired needs equal sizes of at least 11x11")
        a, b = (torch.from_numpy(np.array(z)).permute(2, 0, 1)[None].double() / 255 for z in (a, b))
        mse = (a - b).square().mean().item()
        return (a - b).abs().mean().item(), -10 * math.log10(mse) if mse else None, ssim(a, b).item()

    with ThreadPoolExecutor(workers) as pool:
        rows = list(tqdm(pool.map(compare, fakes), total=len(fakes), desc="paired", disable=None))
    l1, psnr, similarity = zip(*rows, strict=True)
    psnr = [value for value in psnr if value is not None]
    return {"l1": float(np.mean(l1)), "psnr": float(np.mean(psnr)) if psnr else None,
            "ssim": float(np.mean(similarity)), "pairs": len(rows), "identical": len(rows) - len(psnr)}
