"""Sample grids: training and test pictures and their translations, img/A2B_0001000.png."""

import sys
from pathlib import Path

import numpy as np
import torch

from images.encode import save_picture, to_uint8
from images.files import data_set_pictures
from training.held_out import hold_out
from translation.pipeline import seeded_by, translating
from utils import shown

COLUMNS = 4  # number of training pictures in a sample grid, and of test pictures


def training_pictures(trainer) -> dict[str, list[Path]]:
    """The training pictures by folder, and the test pictures for samples; without test folders, training pictures.

    With --hold_out heldA and heldB are those that are not trained on.
    """
    args = trainer.args
    root = Path(args.dataset_dir) / args.dataset
    tests = [f"{trainer.test_split}{trainer.folder[s]}" for s, _ in trainer.directions]
    missing = [name for name in tests if not name.startswith("train") and not (root / name).exists()]
    present = [name for name in tests if name not in missing]
    found = data_set_pictures(args, *dict.fromkeys(("trainA", "trainB", *present)), scales=trainer.scales)
    hold_out(found, args)
    for name in missing:
        found[name] = found[f"train{name[-1]}"][COLUMNS:]
    if missing and trainer.rank == 0:
        print(f"no {' and '.join(missing)} in {shown(root)}: samples show training pictures only", file=sys.stderr)
    return found


@torch.no_grad()
def save_sample_grids(trainer, pictures: dict[str, list[Path]]) -> dict[str, np.ndarray]:
    """Write results/NAME/img/A2B_0001000.png: columns are 4 training and 4 test pictures, rows the method's visuals.

    Returns the grids (H,W,3) uint8 as {"A2B": ...}.  Changes no state of the training.
    """
    if trainer.rank != 0:
        return {}
    args, grids = trainer.args, {}
    with translating(trainer):
        for s, t in trainer.directions:
            source, name = trainer.folder[s], f"{trainer.folder[s]}2{trainer.folder[t]}"
            columns = []
            paths = [path for kind in ("train", trainer.test_split) for path in pictures[f"{kind}{source}"][:COLUMNS]]
            for path in dict.fromkeys(paths):
                x = trainer.read_sample(path, trainer.scales.get(source))[None].to(trainer.device)
                with seeded_by(path, args.seed), trainer._autocast():
                    visuals = trainer.visuals(x, s, t)
                columns.append(np.concatenate([to_uint8(y[0]) for y in visuals], axis=0))
            grids[name] = np.concatenate(columns, axis=1)
            save_picture(grids[name], trainer.results / "img" / f"{name}_{trainer.step:07d}.png")
    return grids
