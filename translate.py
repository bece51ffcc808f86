"""Pictures from a trainer: the sample grids of a training, and the translation of test folders."""

import hashlib
import math
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import checkpoints
import dataset
import downloads
import layers
import maps
import tiles
import utils
from utils import UserError, evaluating, shown

COLUMNS = 4  # training pictures in a sample grid, and as many test pictures


def __getattr__(name: str):
    """`from translate import Translator`: translator.py needs what is here."""
    if name == "Translator":
        from translator import Translator

        return Translator
    raise AttributeError(name)


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
    style_parts(t)           as Trainer.parts, of the network that style_of needs
    """

    SHOWN = 3  # styles in a sample grid
    example = None  # the picture of --style_from, (1,C,h,w) in [-1,1]

    def translate(self, x, s, t):
        return self.draw_in(self.content(x, s), self._styles(t, 1)[0], t)

    def translations(self, x, s, t):
        content, styles = self.content(x, s), self._styles(t, self.args.styles)
        drawn = [self.draw_in(content, style, t) for style in styles]
        return list(zip(additions(len(styles)), drawn, strict=True))

    def rows(self, x, s, t):
        """Input, reconstruction, translations in three styles."""
        content = self.content(x, s)
        fakes = [self.draw_in(content, self.random_style(t), t) for _ in range(self.SHOWN)]
        return [x, self.draw_in(content, self.style_of(x, s), s), *fakes]

    def drawing(self, s, t):
        style = self.random_style(t)
        what = f"style of each picture that is drawn, {tuple(style[0].shape)}: numbers of N(0,1), or an example's"
        return lambda x, style: self.draw_in(self.content(x, s), style, t), {"style": (style, what)}

    def all_parts(self, s, t):
        return merged(self.parts(s, t), self.style_parts(t))

    def _styles(self, t, n):
        return [self.random_style(t) for _ in range(n)] if self.example is None else [self.style_of(self.example, t)]


def merged(*parts: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Parts of networks, together."""
    names = dict.fromkeys(name for some in parts for name in some)
    return {name: tuple(part for some in parts for part in some.get(name, ())) for name in names}


def additions(styles: int) -> list[str]:
    """What the names of so many answers to one picture get: nothing, or _style0, _style1, ..."""
    return [""] if styles == 1 else [f"_style{i}" for i in range(styles)]


def named(place: Path, addition: str) -> Path:
    """The path with that at the end of its name."""
    return place.with_name(f"{place.stem}{addition}{place.suffix}")


@contextmanager
def codes_of(picture: Path | bytes, seed: int):
    """Inside, torch's CPU generator is of this picture and seed: whatever came before, in any order, on any rank.

    Afterwards it goes on as if nothing had been drawn.
    """
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    digest = hashlib.sha256(b"%d " % seed + content).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big"))
        yield


# ------------------------------------------------------------------------------ samples, translation


@contextmanager
def translating(trainer):
    """Inside, the networks of a training translate: in evaluation mode, with averaged weights where there are any."""
    average = None if trainer.args.raw_weights else trainer.average
    with evaluating(trainer.networks().values()), average.in_place() if average else nullcontext():
        yield


@torch.no_grad()
def sample(trainer, pictures: dict[str, list[Path]]) -> dict[str, np.ndarray]:
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
            chosen = [path for kind in ("train", trainer.tested) for path in pictures[f"{kind}{here}"][:COLUMNS]]
            for path in dict.fromkeys(chosen):
                x = trainer.read(path, args.img_size)[None].to(trainer.device)
                with codes_of(path, args.seed), trainer._autocast():
                    rows = trainer.rows(x, s, t)
                columns.append(np.concatenate([utils.to_uint8(row[0]) for row in rows], axis=0))
            grids[f"{here}2{there}"] = grid = np.concatenate(columns, axis=1)
            utils.save_picture(grid, trainer.results / "img" / f"{here}2{there}_{trainer.step:07d}.png")
    return grids


@torch.no_grad()
def test(trainer, found: tuple[dict, Path] | None = None):
    """Translate testA -> fakeB and testB -> fakeA in results/NAME, under the inputs' names.

    Only what translates is loaded and run, with the architecture that the checkpoint (state, path) names,
    by default the newest valid one; only the directions whose networks it holds.  Where it holds averaged
    weights, these translate, unless --raw_weights says otherwise.
    """
    args = trainer.args
    state, path = found or checkpoints.newest_checkpoint(trainer.results, args.checkpoint)
    directions = directions_of(trainer, state, path)
    inputs = pictures(args, *_sources(trainer, directions))
    trainer.inspect(inputs)
    size = load(trainer, state, path, directions)
    side = side_of(trainer, size)
    set_example(trainer, side, *directions[0])
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
                    utils.save_picture(picture, named(place, addition))
            places.append(str(trainer.results / target))
    if trainer.rank == 0:
        weights = "the averaged weights of " if averaged(trainer, state) else ""
        print(f"translated with {weights}{path} into {' and '.join(places)}")


def is_fixed(trainer) -> bool:
    """Whether pictures of one size alone can be translated."""
    return trainer.size_bound and trainer.tested == "test"


def side_of(trainer, size: int) -> int | None:
    """The side that pictures are resized to for translation; None: their own.  UserError: that cannot be."""
    if trainer.args.keep_size and is_fixed(trainer):
        raise UserError("--keep_size true cannot be: the networks of this checkpoint are bound to their size")
    return None if trainer.args.keep_size else size


def directions_of(trainer, state: dict, path: Path) -> list[tuple[str, str]]:
    """The directions, of those asked for, whose networks a checkpoint holds.  UserError: none."""
    directions = [d for d in trainer.directions if all(name in state for name in trainer.translators[d])]
    if only := state.get("metadata", {}).get("direction"):  # a model file has parts of networks
        directions = [(s, t) for s, t in directions if f"{trainer.folder[s]}to{trainer.folder[t]}" == only]
        if not directions:
            raise UserError(f"{shown(path)} translates {only} alone: leave --direction out, or name another file")
    if not directions:
        wanted = " or ".join(", ".join(trainer.translators[d]) for d in trainer.directions)
        raise UserError(f"{shown(path)} holds no network that translates this way: {wanted}; check --direction")
    return directions


def averaged(trainer, state: dict) -> bool:
    """Whether a checkpoint's averaged weights translate (--ema)."""
    return "ema" in state and not trainer.args.raw_weights


def load(trainer, state: dict, path: Path, directions) -> int:
    """Load what translates these ways, with the architecture of the checkpoint; returns the side of its pictures."""
    needed = dict.fromkeys(name for d in directions for name in trainer.translators[d])
    checkpoints.verify(state, path, (*needed, "args", "ema"))
    architecture = checkpoints.architecture_of(state, path, type(trainer))
    size = checkpoints.option("img_size", trainer.args, state)
    if any(trainer.architecture.get(k) != v for k, v in architecture.items()):
        with checkpoints.fitting(path, "args"):
            trainer.build_model(**architecture)
    for name in needed:
        net, parts = trainer.networks()[name], ("",)
        if "metadata" in state:
            layers.fold_spectral_norms(net)
            parts = tuple(part for d in directions for part in trainer.all_parts(*d).get(name, ()))
        checkpoints.load_network(net, state["ema"] if averaged(trainer, state) else state, name, path, parts)
    return size


def set_example(trainer, side: int | None, s: str, t: str):
    """Take the style of --style_from, where it is given, for all that is drawn."""
    args = trainer.args
    if getattr(args, "style_from", None):
        if args.styles > 1:
            raise UserError("--style_from gives one style to every picture; leave --styles out")
        trainer.example = tiles.tiled(trainer, prepared(trainer, Path(args.style_from), side)[0], s, t)


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
        answers = drawn(trainer, x, s, t)
        return [(addition, pixels(y, h, w)) for addition, y in answers]


def drawn(trainer, x: torch.Tensor, s: str, t: str) -> list[tuple[str, torch.Tensor | maps.Map]]:
    """What the method answers to a picture (1,C,H,W), in tiles where it is large."""
    return trainer.translations(tiles.tiled(trainer, x, s, t), s, t)


def pixels(y: torch.Tensor | maps.Map, h: int, w: int) -> np.ndarray:
    """The first h rows and w columns of a drawing (1,3 or 1,H,W) in [-1,1], as (h,w,3) uint8."""
    if isinstance(y, torch.Tensor):
        return utils.to_uint8(y[0, :, :h, :w])
    picture = np.empty((h, w, 3), np.uint8)
    for a, b in y.plan.bands(y.shape[2]):
        if a < h:
            picture[a:b] = utils.to_uint8(y.rows(a, min(b, h))[0, :, :, :w])
    return picture


def values(y: torch.Tensor | maps.Map) -> torch.Tensor:
    """A drawing as a tensor (1,C,H,W)."""
    if isinstance(y, torch.Tensor):
        return y
    return torch.cat([y.rows(a, b) for a, b in y.plan.bands(y.shape[2])], 2)


def prepared(trainer, source: Path, size: int | None) -> tuple[torch.Tensor, int, int]:
    """A picture for the networks (1,C,H,W), padded to what their halvings and reflections need; its own h, w.

    size: the side it is resized to; None: its own height and width.
    """
    return padded(trainer, trainer.read(source, size)[None].to(trainer.device))  # (1,C,h,w)


def padded(trainer, x: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Pictures (N,C,h,w) padded by their border, h, w."""
    h, w = x.shape[2:]
    H, W = (max(trainer.least, math.ceil(side / trainer.multiple) * trainer.multiple) for side in (h, w))
    x = F.pad(x, (0, W - w, 0, H - h), mode="replicate")
    return x.contiguous(memory_format=trainer.layout), h, w
