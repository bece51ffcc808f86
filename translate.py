"""Pictures from a trainer: the sample grids of a training, and the translation of test folders."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import checkpoints
import dataset
import downloads
import utils
from utils import UserError, evaluating


def pictures(args, *folders: str) -> dict[str, list[Path]]:
    """The checked pictures of these folders of the data set.  UserError: none, or unreadable ones."""
    root = Path(args.dataset_dir) / args.dataset
    if not root.is_dir():
        fetch = downloads.hint(args.dataset)
        remedy = fetch or f"make it, with {', '.join(folders)} in it, or check --dataset"
        raise UserError(f"no data set {root}; {remedy}")
    return {
        name: dataset.check_images(dataset.list_images(root / name), skip_bad=args.skip_bad_images) for name in folders
    }


@torch.no_grad()
def sample(trainer, pictures: dict[str, list[Path]]):
    """results/NAME/img/A2B_0001000.png: columns are 4 train and 4 test pictures, rows the method's `rows`.

    Changes no state of the training.
    """
    if trainer.rank != 0:
        return
    args, rng = trainer.args, torch.get_rng_state()
    with evaluating(trainer.networks().values()):
        for s, t in trainer.directions:
            here, there = trainer.folder[s], trainer.folder[t]
            columns = []
            for path in pictures[f"train{here}"][:4] + pictures[f"test{here}"][:4]:
                x = dataset.load_for_test(path, args.img_size, args.img_ch, trainer.resample)[None].to(trainer.device)
                with trainer._autocast():
                    rows = trainer.rows(x, s, t)
                columns.append(np.concatenate([utils.to_uint8(row[0]) for row in rows], axis=0))
            grid = np.concatenate(columns, axis=1)
            utils.save_picture(grid, trainer.results / "img" / f"{here}2{there}_{trainer.step:07d}.png")
    torch.set_rng_state(rng)  # rows may draw random codes


@torch.no_grad()
def test(trainer, found: tuple[dict, Path] | None = None):
    """Translate testA -> fakeB and testB -> fakeA in results/NAME, under the inputs' names.

    Only what translates is loaded and run, with the architecture that the checkpoint (state, path) names,
    by default the newest valid one; only the directions whose networks it holds.
    """
    args = trainer.args
    state, path = found or checkpoints.newest_checkpoint(trainer.results, args.checkpoint)
    directions = [d for d in trainer.directions if all(name in state for name in trainer.translators[d])]
    if not directions:
        wanted = " or ".join(", ".join(trainer.translators[d]) for d in trainer.directions)
        raise UserError(f"{utils.shown(path)} holds no network that translates this way: {wanted}; check --direction")
    inputs = pictures(args, *(f"test{trainer.folder[s]}" for s, _ in directions))
    needed = dict.fromkeys(name for d in directions for name in trainer.translators[d])
    checkpoints.verify(state, path, (*needed, "args"))
    architecture = checkpoints.architecture_of(state, path, type(trainer))
    size = checkpoints.option("img_size", args, state)
    if any(trainer.architecture.get(k) != v for k, v in architecture.items()):
        with checkpoints.fitting(path, "args"):
            trainer.build_model(**architecture)
    if args.keep_size and trainer.size_bound:
        raise UserError("--keep_size true cannot be: the networks of this checkpoint are bound to their size")
    for name in needed:
        checkpoints.load_network(trainer.networks()[name], state, name, path)
    places = []
    with evaluating(trainer.networks().values()):
        for s, t in directions:
            source, target = f"test{trainer.folder[s]}", f"fake{trainer.folder[t]}"
            mine = inputs[source][trainer.rank :: trainer.world]
            names = dataset.output_paths(mine, Path(args.dataset_dir) / args.dataset / source)
            bar = tqdm(mine, f"{source} -> {target}", disable=trainer.rank != 0)
            for file, name in zip(bar, names, strict=True):
                for addition, picture in translated(trainer, file, s, t, None if args.keep_size else size):
                    place = trainer.results / target / name
                    utils.save_picture(picture, place.with_name(f"{place.stem}{addition}{place.suffix}"))
            places.append(str(trainer.results / target))
    if trainer.rank == 0:
        print(f"translated with {path} into {' and '.join(places)}")


def translated(trainer, source: Path, s: str, t: str, size: int | None) -> list[tuple[str, np.ndarray]]:
    """One picture of domain s drawn in t: pairs (addition to its name, (H,W,3) uint8).

    size: the side it is resized to; None: its own height and width.
    """
    channels = trainer.architecture["img_ch"]
    x = dataset.load_for_test(source, size, channels, trainer.resample)[None].to(trainer.device)  # (1,C,h,w)
    h, w = x.shape[2:]
    # pad to what the networks' halvings and reflections need, and crop back
    H, W = (max(trainer.least, math.ceil(side / trainer.multiple) * trainer.multiple) for side in (h, w))
    x = F.pad(x, (0, W - w, 0, H - h), mode="replicate").contiguous(memory_format=torch.channels_last)
    with trainer._autocast():
        answers = trainer.translations(x, s, t)
    return [(addition, utils.to_uint8(y[0, :, :h, :w])) for addition, y in answers]
