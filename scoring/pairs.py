"""Paired distances: pictures against their true counterparts, and translations of one input against each other."""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from images.decode import read_image
from images.files import common_scale, list_images
from images.maker import need_whole
from options.scores import PROTOCOLS
from scoring.lpips import LEAST, NAME
from scoring.metrics import ssim
from utils import UserError, shown


def counterparts(folder, truth, option):
    """Pairs (picture of `folder`, picture of the same name, any suffix, in `truth`).  UserError: none or two.

    UserError, too: `folder` is known to show only the centres of pictures.
    """
    need_whole(Path(folder))
    exact, by_stem = {}, {}
    for path in list_images(truth):
        name = path.relative_to(truth)
        exact[name] = path
        by_stem.setdefault(name.with_suffix(""), []).append(path)
    for path in list_images(folder):
        name = path.relative_to(folder)
        others = [exact[name]] if name in exact else by_stem.get(name.with_suffix(""), [])
        if len(others) != 1:
            names = " and ".join(shown(other.name) for other in others[:2])
            found = f"two counterparts, {names}," if others else "no counterpart"
            raise UserError(f"{shown(path)} has {found} in {shown(truth)}: {option} needs one of the same name")
        yield path, others[0]


def paired_distances(folder, truth, workers=2, scale=None, lpips=None):
    """Mean distances between the pictures of `folder` and those of the same name (any suffix) in `truth`.

    scale: of deep pictures, by default one for both folders (images/files.py).
    Returns a dict: l1 in [0, 1], psnr in dB, ssim at most 1, pairs (their number), identical (the number of identical
    pairs, whose PSNR would be infinite: psnr is the mean of the others', None where there are none); with an LPIPS
    network also lpips.
    """
    scale = common_scale(folder, truth) if scale is None else scale

    def compare(pair):
        path, other = pair
        a, b = read_image(path, scale), read_image(other, scale)
        least = LEAST if lpips else 11
        if a.size != b.size or min(a.size) < least:
            raise UserError(f"{path} is {a.size[0]}x{a.size[1]} and {other} {b.size[0]}x{b.size[1]}: "
                            f"--paired needs equal sizes of at least {least}x{least}")
        a, b = (torch.from_numpy(np.array(z)).permute(2, 0, 1)[None].double() / 255 for z in (a, b))
        mse = (a - b).square().mean().item()
        perceptual = lpips(*(2 * z.float() - 1 for z in (a, b))).item() if lpips else None
        return (a - b).abs().mean().item(), -10 * math.log10(mse) if mse else None, ssim(a, b).item(), perceptual

    pairs = list(counterparts(folder, truth, "--paired"))
    with ThreadPoolExecutor(workers) as pool:
        rows = list(tqdm(pool.map(compare, pairs), total=len(pairs), desc="paired", disable=None))
    l1, psnr, similarity, perceptual = zip(*rows, strict=True)
    psnr = [value for value in psnr if value is not None]
    found = {"l1": float(np.mean(l1)), "psnr": float(np.mean(psnr)) if psnr else None,
             "ssim": float(np.mean(similarity)), "pairs": len(rows), "identical": len(rows) - len(psnr)}
    return found | ({"lpips": float(np.mean(perceptual))} if lpips else {})


def diversity(folder, lpips, protocol, seed=2020):
    """Mean LPIPS between translations NAME_style0, NAME_style1, ... of one input in `folder`: {"diversity": ..., ...}.

    protocol: of PROTOCOLS.  UserError: an input has too few translations, or they differ in size.
    """
    inputs = {}
    for path in list_images(folder):
        name, number = re.fullmatch(r"(.*?)(?:_style(\d+))?", path.stem).groups()
        inputs.setdefault((path.parent, name), {})[int(number or 0)] = path
    scale, rng, values = common_scale(folder), np.random.default_rng(seed), []
    needed = 10 if protocol == "starganv2" else 7  # of 7 there are 21 pairs
    for (place, name), styles in tqdm(inputs.items(), desc="diversity", disable=None):
        if len(styles) < needed:
            raise UserError(f"{shown(Path(place, name))} has {len(styles)} translations, and {protocol}'s protocol "
                            f"needs {needed}: translate with main.py --styles {needed}")
        paths = [styles[number] for number in sorted(styles)]
        paths = paths[:10] if protocol == "starganv2" else paths
        pairs = list(combinations(range(len(paths)), 2))
        if protocol == "munit":
            pairs = [pairs[i] for i in rng.choice(len(pairs), 19, replace=False)]
        pictures = [read_image(path, scale) for path in paths]
        if len({picture.size for picture in pictures}) > 1 or min(pictures[0].size) < LEAST:
            raise UserError(f"{shown(Path(place, name))}: {NAME} needs translations of one size, at least "
                            f"{LEAST}x{LEAST}")
        with torch.inference_mode():
            x = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]) / 127.5 - 1
            layers = lpips.features(x)
            first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
            values.append(lpips.between([y[first] for y in layers], [y[second] for y in layers]).mean().item())
    return {"diversity": float(np.mean(values)), "diversity_protocol": PROTOCOLS[protocol],
            "diversity_inputs": len(values)}
