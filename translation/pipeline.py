"""One direction of a trained method, ready to translate: weights, style, seed, network, pixels.

Every way to translate goes through here: the test folders, --input, Translator, --phase export, scores in training.
"""

import hashlib
import math
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from checkpoints.contents import architecture_of, fitting, load_network, option
from checkpoints.files import verify
from images.encode import to_uint8
from layers import fold_spectral_norms
from translation.tiling.maps import Map
from translation.tiling.plan import tiled
from utils import UserError, evaluating, shown


def answer_suffixes(styles: int) -> list[str]:
    """What the names of so many answers to one picture get: nothing, or _style0, _style1, ..."""
    return [""] if styles == 1 else [f"_style{i}" for i in range(styles)]


def with_suffix(place: Path, addition: str) -> Path:
    """The path with that at the end of its name."""
    return place.with_name(f"{place.stem}{addition}{place.suffix}")


class Pipeline:
    """A checkpoint (state, path) opened to translate; by default the run's newest valid one.

    Nothing is loaded before load().  directions: of those asked for, the ones whose networks it holds.
    """

    def __init__(self, trainer, found: tuple[dict, Path] | None = None):
        self.trainer = trainer
        self.state, self.path = found or trainer.newest_checkpoint()
        self.directions = directions_of(trainer, self.state, self.path)

    def only_direction(self) -> tuple[str, str]:
        """The one direction that is asked for, or that there is.  UserError: two, or another one."""
        saved, args = self.state.get("args", {}), self.trainer.args
        if "args" in self.state and "metadata" not in self.state and len(type(self.trainer).directions) == 1:
            learned = saved.get("direction") or "AtoB"
            if (args.direction or "AtoB") != learned:
                raise UserError(
                    f"{shown(self.path)} has learned {learned} alone: leave --direction out, or give this one"
                )
        if len(self.directions) > 1:
            raise UserError(f"{shown(self.path)} translates both ways: say which, --direction AtoB or --direction BtoA")
        return self.directions[0]

    @torch.no_grad()
    def load(self, own_size: bool = False) -> "Pipeline":
        """Load the networks that translate; choose the side that pictures are resized to.

        own_size: pictures keep their own sizes unless --keep_size false; else they are resized unless --keep_size true.
        """
        self.size = load_networks(self.trainer, self.state, self.path, self.directions)
        self.side = (input_side if own_size else test_side)(self.trainer, self.size)
        return self

    @contextmanager
    def translating(self, s: str, t: str):
        """Inside, the networks are in evaluation mode, without gradients, with the style of --style_from."""
        with torch.no_grad(), evaluating(self.trainer.networks().values()):
            set_example(self.trainer, self.side, s, t)
            yield

    def translate_file(self, source: Path, s: str, t: str) -> list[tuple[str, np.ndarray]]:
        """The translations of one picture: pairs (suffix of its name, (H,W,3) uint8)."""
        return translate_file(self.trainer, source, s, t, self.side)

    @property
    def weights(self) -> str:
        """What translates, for people."""
        return f"{'the averaged weights of ' * uses_ema(self.trainer, self.state)}{self.path}"


@contextmanager
def seeded_by(picture: Path | bytes, seed: int):
    """Inside, torch's CPU generator is of this picture and seed: whatever came before, in any order, on any rank.

    Afterwards it goes on as if nothing had been drawn.
    """
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    digest = hashlib.sha256(b"%d " % seed + content).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big"))
        yield


@contextmanager
def translating(trainer):
    """Inside, the networks of a training translate: in evaluation mode, with averaged weights where there are any."""
    ema = None if trainer.args.raw_weights else trainer.ema
    with evaluating(trainer.networks().values()), ema.in_place() if ema else nullcontext():
        yield


def is_size_bound(trainer) -> bool:
    """Whether pictures of one size alone can be translated."""
    return trainer.size_bound and trainer.test_split == "test"


def test_side(trainer, size: int) -> int | None:
    """The side that pictures are resized to for translation; None: their own.  UserError: that cannot be."""
    if trainer.args.keep_size and is_size_bound(trainer):
        raise UserError("--keep_size true cannot be: the networks of this checkpoint are bound to their size")
    return None if trainer.args.keep_size else size


def directions_of(trainer, state: dict, path: Path) -> list[tuple[str, str]]:
    """The directions, of those asked for, whose networks a checkpoint holds.  UserError: none."""
    directions = [d for d in trainer.directions if all(name in state for name in trainer.inference_networks[d])]
    if only := state.get("metadata", {}).get("direction"):  # a model file has parts of networks
        directions = [(s, t) for s, t in directions if f"{trainer.folder[s]}to{trainer.folder[t]}" == only]
        if not directions:
            raise UserError(f"{shown(path)} translates {only} alone: leave --direction out, or name another file")
    if not directions:
        wanted = " or ".join(", ".join(trainer.inference_networks[d]) for d in trainer.directions)
        raise UserError(f"{shown(path)} holds no network that translates this way: {wanted}; check --direction")
    return directions


def uses_ema(trainer, state: dict) -> bool:
    """Whether a checkpoint's averaged weights translate (--ema)."""
    return "ema" in state and not trainer.args.raw_weights


def load_networks(trainer, state: dict, path: Path, directions) -> int:
    """Load what translates these ways, with the architecture of the checkpoint; returns the side of its pictures."""
    needed = dict.fromkeys(name for d in directions for name in trainer.inference_networks[d])
    verify(state, path, (*needed, "args", "ema"))
    architecture = architecture_of(state, path, type(trainer))
    size = option("img_size", trainer.args, state)
    if any(trainer.architecture.get(k) != v for k, v in architecture.items()):
        with fitting(path, "args"):
            trainer.build_model(**architecture)
    for name in needed:
        net, parts = trainer.networks()[name], ("",)
        if "metadata" in state:
            fold_spectral_norms(net)
            parts = tuple(part for d in directions for part in trainer.all_inference_keys(*d).get(name, ()))
        load_network(net, state["ema"] if uses_ema(trainer, state) else state, name, path, parts)
    return size


def set_example(trainer, side: int | None, s: str, t: str):
    """Take the style of --style_from, where it is given, for all that is drawn."""
    args = trainer.args
    if getattr(args, "style_from", None):
        if args.styles > 1:
            raise UserError("--style_from gives one style to every picture; leave --styles out")
        trainer.example = tiled(trainer, prepared(trainer, Path(args.style_from), side)[0], s, t)


def translate_file(trainer, source: Path, s: str, t: str, size: int | None) -> list[tuple[str, np.ndarray]]:
    """One picture of domain s drawn in t: pairs (addition to its name, (H,W,3) uint8)."""
    x, h, w = prepared(trainer, source, size)
    with seeded_by(source, trainer.args.seed), trainer._autocast():
        answers = generate(trainer, x, s, t)
        return [(addition, to_pixels(y, h, w)) for addition, y in answers]


def generate(trainer, x: torch.Tensor, s: str, t: str) -> list[tuple[str, torch.Tensor | Map]]:
    """What the method answers to a picture (1,C,H,W), in tiles where it is large."""
    return trainer.translations(tiled(trainer, x, s, t), s, t)


def to_pixels(y: torch.Tensor | Map, h: int, w: int) -> np.ndarray:
    """The first h rows and w columns of a drawing (1,3 or 1,H,W) in [-1,1], as (h,w,3) uint8."""
    if isinstance(y, torch.Tensor):
        return to_uint8(y[0, :, :h, :w])
    picture = np.empty((h, w, 3), np.uint8)
    for a, b in y.plan.bands(y.shape[2]):
        if a < h:
            picture[a:b] = to_uint8(y.rows(a, min(b, h))[0, :, :, :w])
    return picture


def to_tensor_of(y: torch.Tensor | Map) -> torch.Tensor:
    """A drawing as a tensor (1,C,H,W)."""
    if isinstance(y, torch.Tensor):
        return y
    return torch.cat([y.rows(a, b) for a, b in y.plan.bands(y.shape[2])], 2)


def prepared(trainer, source: Path, size: int | None) -> tuple[torch.Tensor, int, int]:
    """A picture for the networks (1,C,H,W), padded to what their halvings and reflections need; its own h, w.

    size: the side it is resized to; None: its own height and width.
    """
    return pad_to_multiple(trainer, trainer.read_input(source, size)[None].to(trainer.device))  # (1,C,h,w)


def pad_to_multiple(trainer, x: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Pictures (N,C,h,w) padded by their border, h, w."""
    h, w = x.shape[2:]
    H, W = (max(trainer.min_size, math.ceil(side / trainer.size_multiple) * trainer.size_multiple) for side in (h, w))
    x = F.pad(x, (0, W - w, 0, H - h), mode="replicate")
    return x.contiguous(memory_format=trainer.layout), h, w


def input_side(trainer, size: int) -> int | None:
    """The side that pictures are resized to, or None: each keeps its own size."""
    args = trainer.args
    if is_size_bound(trainer):
        if trainer.rank == 0:
            print(f"these networks are bound to their size: pictures are resized to {size} x {size}", file=sys.stderr)
        return size
    return size if "keep_size" in args.given and not args.keep_size else None
