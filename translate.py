"""Pictures from a trainer: the sample grids of a training, and the translation of test folders."""

import hashlib
import math
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import checkpoints
import dataset
import downloads
import utils
from utils import UserError, evaluating, shown

COLUMNS = 4  # training pictures in a sample grid, and as many test pictures


def pictures(args, *folders: str) -> dict[str, list[Path]]:
    """The checked pictures of these folders of the data set.  UserError: none, or unreadable ones."""
    root = Path(args.dataset_dir) / args.dataset
    if not root.is_dir():
        fetch = downloads.hint(args.dataset)
        remedy = fetch or f"make it, with {', '.join(folders)} in it, or check --dataset"
        raise UserError(f"no data set {shown(root)}; {remedy}")
    return {
        name: dataset.check_images(dataset.list_images(root / name), skip_bad=args.skip_bad_images) for name in folders
    }


def training_pictures(trainer) -> dict[str, list[Path]]:
    """The pictures that are trained on, and those that samples show besides: test pictures where there are any."""
    args = trainer.args
    root = Path(args.dataset_dir) / args.dataset
    shown_too = [f"{trainer.tested}{trainer.folder[s]}" for s, _ in trainer.directions]
    missing = [name for name in shown_too if not name.startswith("train") and not (root / name).exists()]
    found = pictures(args, *dict.fromkeys(("trainA", "trainB", *(name for name in shown_too if name not in missing))))
    for name in missing:
        found[name] = found[f"train{name[-1]}"][COLUMNS:]
    if missing and trainer.rank == 0:
        print(f"no {' and '.join(missing)} in {shown(root)}: samples show training pictures only", file=sys.stderr)
    return found


# ------------------------------------------------------------------------------------------- styles


class Styled:
    """Mixed into a Trainer whose pictures have a content and a style; its options include options.STYLES.

    content(x, s)            the content of pictures x of domain s
    style_of(x, t)           the style of pictures x of domain t
    random_style(t)          a style of domain t for one picture, by torch's CPU generator alone
    draw_in(content, style, t)  that content drawn in domain t in that style
    """

    SHOWN = 3  # styles in a sample grid
    example = None  # the picture of --style_from, (1,C,h,w) in [-1,1]

    def translate(self, x, s, t):
        return self.draw_in(self.content(x, s), self._styles(t, 1)[0], t)

    def translations(self, x, s, t):
        content, styles = self.content(x, s), self._styles(t, self.args.styles)
        return [(f"_style{i}" * (len(styles) > 1), self.draw_in(content, style, t)) for i, style in enumerate(styles)]

    def rows(self, x, s, t):
        """Input, reconstruction, translations in three styles."""
        content = self.content(x, s)
        fakes = [self.draw_in(content, self.random_style(t), t) for _ in range(self.SHOWN)]
        return [x, self.draw_in(content, self.style_of(x, s), s), *fakes]

    def _styles(self, t, n):
        return [self.random_style(t) for _ in range(n)] if self.example is None else [self.style_of(self.example, t)]


@contextmanager
def codes_of(file: Path, seed: int):
    """Inside, torch's CPU generator is of this picture and seed: whatever came before, in any order, on any rank.

    Afterwards it goes on as if nothing had been drawn.
    """
    digest = hashlib.sha256(b"%d " % seed + file.read_bytes()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big"))
        yield


# ------------------------------------------------------------------------------ samples, translation


@torch.no_grad()
def sample(trainer, pictures: dict[str, list[Path]]):
    """results/NAME/img/A2B_0001000.png: columns are 4 train and 4 test pictures, rows the method's `rows`.

    Changes no state of the training.
    """
    if trainer.rank != 0:
        return
    args = trainer.args
    with evaluating(trainer.networks().values()):
        for s, t in trainer.directions:
            here, there = trainer.folder[s], trainer.folder[t]
            columns = []
            chosen = [path for kind in ("train", trainer.tested) for path in pictures[f"{kind}{here}"][:COLUMNS]]
            for path in dict.fromkeys(chosen):
                x = trainer.read(path, args.img_size)[None].to(trainer.device)
                with codes_of(path, args.seed), trainer._autocast():
                    rows = trainer.rows(x, s, t)
                columns.append(np.concatenate([utils.to_uint8(row[0]) for row in rows], axis=0))
            grid = np.concatenate(columns, axis=1)
            utils.save_picture(grid, trainer.results / "img" / f"{here}2{there}_{trainer.step:07d}.png")


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
    inputs = pictures(args, *_sources(trainer, directions))
    trainer.inspect(inputs)
    needed = dict.fromkeys(name for d in directions for name in trainer.translators[d])
    checkpoints.verify(state, path, (*needed, "args"))
    architecture = checkpoints.architecture_of(state, path, type(trainer))
    size = checkpoints.option("img_size", args, state)
    if any(trainer.architecture.get(k) != v for k, v in architecture.items()):
        with checkpoints.fitting(path, "args"):
            trainer.build_model(**architecture)
    if args.keep_size and trainer.size_bound and trainer.tested == "test":
        raise UserError("--keep_size true cannot be: the networks of this checkpoint are bound to their size")
    for name in needed:
        checkpoints.load_network(trainer.networks()[name], state, name, path)
    side = None if args.keep_size else size
    if getattr(args, "style_from", None):
        if args.styles > 1:
            raise UserError("--style_from gives one style to every picture; leave --styles out")
        trainer.example = prepared(trainer, Path(args.style_from), side)[0]
    places = []
    with evaluating(trainer.networks().values()):
        for s, t in directions:
            source, target = f"{trainer.tested}{trainer.folder[s]}", f"fake{trainer.folder[t]}"
            mine = inputs[source][trainer.rank :: trainer.world]
            names = dataset.output_paths(mine, Path(args.dataset_dir) / args.dataset / source)
            bar = tqdm(mine, f"{source} -> {target}", disable=trainer.rank != 0)
            for file, name in zip(bar, names, strict=True):
                for addition, picture in translated(trainer, file, s, t, side):
                    place = trainer.results / target / name
                    utils.save_picture(picture, place.with_name(f"{place.stem}{addition}{place.suffix}"))
            places.append(str(trainer.results / target))
    if trainer.rank == 0:
        print(f"translated with {path} into {' and '.join(places)}")


def _sources(trainer, directions) -> list[str]:
    """The folders that are translated.  UserError: of two there is but one."""
    root = Path(trainer.args.dataset_dir) / trainer.args.dataset
    folders = [f"{trainer.tested}{trainer.folder[s]}" for s, _ in directions]
    there = [name for name in folders if (root / name).exists()]
    if 0 < len(there) < len(folders):
        missing, way = root / next(name for name in folders if name not in there), {"A": "AtoB", "B": "BtoA"}
        remedy = f"make it a folder of pictures, or translate one way with --direction {way[there[0][-1]]}"
        raise UserError(f"{shown(missing)} does not exist: {remedy}")
    return folders


def translated(trainer, source: Path, s: str, t: str, size: int | None) -> list[tuple[str, np.ndarray]]:
    """One picture of domain s drawn in t: pairs (addition to its name, (H,W,3) uint8)."""
    x, h, w = prepared(trainer, source, size)
    with codes_of(source, trainer.args.seed), trainer._autocast():
        answers = trainer.translations(x, s, t)
    return [(addition, utils.to_uint8(y[0, :, :h, :w])) for addition, y in answers]


def prepared(trainer, source: Path, size: int | None) -> tuple[torch.Tensor, int, int]:
    """A picture for the networks (1,C,H,W), padded to what their halvings and reflections need; its own h, w.

    size: the side it is resized to; None: its own height and width.
    """
    x = trainer.read(source, size)[None].to(trainer.device)  # (1,C,h,w)
    h, w = x.shape[2:]
    H, W = (max(trainer.least, math.ceil(side / trainer.multiple) * trainer.multiple) for side in (h, w))
    x = F.pad(x, (0, W - w, 0, H - h), mode="replicate")
    return x.contiguous(memory_format=trainer.layout), h, w
