"""Sample grids: training and test pictures, and what the networks make of them."""

import sys
from pathlib import Path

import numpy as np
import torch

from images.encode import save_picture, to_uint8
from images.files import data_set_pictures
from translation.pipeline import seeded_by, translating
from utils import shown

COLUMNS = 4  # training pictures in a sample grid, and as many test pictures


def training_pictures(trainer) -> dict[str, list[Path]]:
    """The pictures that are trained on, and those that samples show besides: test pictures where there are any."""
    args = trainer.args
    root = Path(args.dataset_dir) / args.dataset
    shown_too = [f"{trainer.test_split}{trainer.folder[s]}" for s, _ in trainer.directions]
    missing = [name for name in shown_too if not name.startswith("train") and not (root / name).exists()]
    found = data_set_pictures(args, *dict.fromkeys(("trainA", "trainB", *(name for name in shown_too if name not in missing))))
    for name in missing:
        found[name] = found[f"train{name[-1]}"][COLUMNS:]
    if missing and trainer.rank == 0:
        print(f"no {' and '.join(missing)} in {shown(root)}: samples show training pictures only", file=sys.stderr)
    return found


@torch.no_grad()
def save_sample_grids(trainer, pictures: dict[str, list[Path]]) -> dict[str, np.ndarray]:
    """results/NAME/img/A2B_0001000.png: columns are 4 train and 4 test pictures, rows the method's `rows`.

    Returns the grids (H,W,3) uint8 as {"A2B": ...}.  Changes no state of the training.
    """
    if trainer.rank != 0:
        return {}
    args, grids = trainer.args, {}
    with translating(trainer):
        for s, t in trainer.directions:
            here, there = trainer.folder[s], trainer.folder[t]
            columns = []
            chosen = [path for kind in ("train", trainer.test_split) for path in pictures[f"{kind}{here}"][:COLUMNS]]
            for path in dict.fromkeys(chosen):
                x = trainer.read_input(path, args.img_size)[None].to(trainer.device)
                with seeded_by(path, args.seed), trainer._autocast():
                    rows = trainer.visuals(x, s, t)
                columns.append(np.concatenate([to_uint8(row[0]) for row in rows], axis=0))
            grids[f"{here}2{there}"] = grid = np.concatenate(columns, axis=1)
            save_picture(grid, trainer.results / "img" / f"{here}2{there}_{trainer.step:07d}.png")
    return grids
