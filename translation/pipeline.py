"""Pipeline: a checkpoint, opened to translate.  Weights, style, seed, tiles, pixels.

Every translation uses this module: the test folders, --input, Translator, --phase export, scores in training.
"""

import hashlib
import math
import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from checkpoints.contents import architecture_of, fitting, learned_direction, load_network, option, scales_in
from checkpoints.files import digest, verify
from images import maker
from images.decode import size_of
from images.deep import Levels
from images.encode import to_uint8
from images.encode_deep import levels_of_results, to_uint16
from layers import fold_spectral_norms
from translation.tiling.maps import Map
from translation.tiling.plan import tiled
from utils import UserError, evaluating, shown

DIRECTIONS = (
    "--direction AtoB or --direction BtoA (AtoB: from pictures like trainA to pictures like trainB; BtoA: the reverse)"
)


def answer_suffixes(styles: int) -> list[str]:
    """The suffixes of the file names of so many translations of one picture: none, or _style0, _style1, ..."""
    return [""] if styles == 1 else [f"_style{i}" for i in range(styles)]


def with_suffix(place: Path, suffix: str) -> Path:
    """The path with the suffix appended to its stem."""
    return place.with_name(f"{place.stem}{suffix}{place.suffix}")


def direction_name(trainer, s: str, t: str) -> str:
    """AtoB or BtoA."""
    return f"{trainer.folder[s]}to{trainer.folder[t]}"


def scale_of(trainer, d: str) -> dict:
    """The scale of deep pictures of domain d."""
    return trainer.scales.get(trainer.folder[d], {})


class Pipeline:
    """A checkpoint (state, path) opened to translate; by default the run's newest valid one.

    Nothing is loaded before load().  directions: the requested ones for which the checkpoint has the networks.
    UserError: there are none.
    """

    def __init__(self, trainer, found: tuple[dict, Path] | None = None):
        self.trainer = trainer
        self.state, self.path = found or trainer.newest_checkpoint()
        trainer.scales = scales_in(self.state)
        self.uses_ema = "ema" in self.state and not trainer.args.raw_weights
        self.directions = self._directions()

    def _directions(self) -> list[tuple[str, str]]:
        trainer, state = self.trainer, self.state
        learned = None if "metadata" in state else learned_direction(state, type(trainer))
        if learned not in (None, trainer.args.direction or "AtoB"):
            remedy = "leave --direction out, or give this one"
            raise UserError(f"{shown(self.path)} has learned {learned} alone: {remedy}")
        found = [d for d in trainer.directions if all(name in state for name in trainer.inference_networks[d])]
        if only := state.get("metadata", {}).get("direction"):  # a model file holds parts of networks
            found = [d for d in found if direction_name(trainer, *d) == only]
            if not found:
                name = shown(self.path)
                raise UserError(f"{name} translates {only} alone: leave --direction out, or name another file")
        if not found:
            wanted = " or ".join(", ".join(trainer.inference_networks[d]) for d in trainer.directions)
            raise UserError(f"{shown(self.path)} has no network for this translation: {wanted}; check --direction")
        return found

    def only_direction(self) -> tuple[str, str]:
        """The requested direction, or the only one.  UserError: there are two."""
        if len(self.directions) > 1:
            raise UserError(f"{shown(self.path)} translates both ways: choose {DIRECTIONS}")
        return self.directions[0]

    @torch.no_grad()
    def load(self, own_size: bool = False) -> "Pipeline":
        """Load the networks that translate, with the architecture of the checkpoint; choose the size of pictures.

        own_size: of pictures that are no test pictures.  They keep their own sizes unless --keep_size false, and are
        translated whole; else they are resized unless --keep_size true.
        """
        trainer, state, path = self.trainer, self.state, self.path
        needed = dict.fromkeys(name for d in self.directions for name in trainer.inference_networks[d])
        verify(state, path, (*needed, "args", "ema", "scales"))
        architecture = architecture_of(state, path, type(trainer))
        self.size = option("img_size", trainer.args, state)  # of training pictures
        trainer.whole = own_size
        trainer.preparation = tuple(option(name, trainer.args, state) for name in ("preprocess", "load_size"))
        if any(trainer.architecture.get(k) != v for k, v in architecture.items()):
            with fitting(path, "args"):
                trainer.build_model(**architecture)
        for name in needed:
            net, parts = trainer.networks()[name], ("",)
            if "metadata" in state:
                fold_spectral_norms(net)
                parts = tuple(part for d in self.directions for part in trainer.all_inference_keys(*d).get(name, ()))
            load_network(net, state["ema"] if self.uses_ema else state, name, path, parts, trainer.device)
        self.side = self._own_side() if own_size else test_side(trainer, self.size)
        if self.side and (trainer.args.longest or trainer.args.shortest):
            raise UserError(f"--longest and --shortest are for pictures of their own sizes, and these are resized to "
                            f"{self.side} pixels: give --keep_size true, or leave them out")  # fmt: skip
        return self

    def _own_side(self) -> int | None:
        """None, unless pictures must be resized: --keep_size false, or networks for one size only."""
        args = self.trainer.args
        if not is_size_bound(self.trainer):
            return test_side(self.trainer, self.size) if "keep_size" in args.given else None
        if self.trainer.rank == 0:
            size = f"{self.size} x {self.size}"
            print(f"these networks are bound to their size: pictures are resized to {size}", file=sys.stderr)
        return self.size

    @contextmanager
    def translating(self, s: str, t: str):
        """Evaluation mode, without gradients, with the style of --style_from if it is given."""
        trainer, args = self.trainer, self.trainer.args
        with torch.no_grad(), evaluating(trainer.networks().values()):
            if getattr(args, "style_from", None):
                example, *_ = prepared(trainer, Path(args.style_from), self.side, scale_of(trainer, t))
                trainer.example = tiled(trainer, example, s, t)
            yield

    def translate_file(self, source: Path, s: str, t: str) -> list[tuple[str, np.ndarray]]:
        """The translations of one picture: pairs (suffix of its name, (H,W,3) uint8, or uint16 with --deep true)."""
        levels = levels_of_results(scale_of(self.trainer, t))[0] if self.trainer.args.deep else None
        return translate_file(self.trainer, source, s, t, self.side, levels)

    def say_levels(self, t: str):
        """With --deep true a line that says which numbers of the results are black and white."""
        if self.trainer.args.deep and self.trainer.rank == 0:
            print(levels_of_results(scale_of(self.trainer, t))[1], file=sys.stderr)

    def record(self, s: str, t: str, inputs: list[Path]) -> dict:
        """What translates s to t, for made.json: method, checkpoint, its step, a digest of the weights, options.

        "part" among these says that of some input only the centre is translated.
        Of a best checkpoint also by which score it is the best, and which pictures have chosen it.
        """
        trainer, state, args = self.trainer, self.state, self.trainer.args
        keys, digests = ["ema"] if self.uses_ema else trainer.inference_networks[s, t], state.get("digest", {})
        names = ("seed", "amp", "styles", "style_from")
        best = state.get("score")
        chosen = {"best": {"by": best["name"], "chosen": best.get("chosen", maker.ON_TEST)}} if best else {}
        return chosen | {
            "method": state["method"],
            "checkpoint": str(self.path),
            "step": state.get("start_iter", 0),
            "run": maker.run_of(self.path),
            "direction": direction_name(trainer, s, t),
            "weights": "averaged" if self.uses_ema else "raw",
            "digest": digest({key: digests.get(key) or digest(state[key]) for key in keys}),
            "options": {"size": self.side, **{name: getattr(args, name) for name in names if hasattr(args, name)}}
            | ({"deep": True} if args.deep else {})
            | self._preparation(inputs),
        }

    def _preparation(self, inputs: list[Path]) -> dict:
        """The options that decide the scale of the inputs; and whether of some only the centre is translated."""
        trainer, side = self.trainer, self.side
        if not side:
            return {}
        cut = trainer.tests_centre and any(trainer.cuts(size_of(path), side) for path in inputs)
        found = {"preprocess": trainer.preparation[0], "load_size": trainer.test_load_size(side)}
        return found | ({"part": maker.CENTRE} if cut else {})

    @property
    def weights(self) -> str:
        """A description of the loaded weights for messages."""
        return f"{'the averaged weights of ' * self.uses_ema}{self.path}"


@contextmanager
def seeded_by(picture: Path | bytes, seed: int):
    """Seed torch's CPU generator by the picture's content and `seed`, so that no result depends on order or rank.

    The generator's state is restored afterwards.
    """
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    number = hashlib.sha256(b"%d " % seed + content).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(number[:8], "big"))
        yield


@contextmanager
def translating(trainer):
    """Evaluation mode for the networks of a run, with the EMA weights if there are any."""
    ema = None if trainer.args.raw_weights else trainer.ema
    with evaluating(trainer.networks().values()), ema.in_place() if ema else nullcontext():
        yield


def is_size_bound(trainer) -> bool:
    """Whether only pictures of one size can be translated."""
    return trainer.size_bound and trainer.test_split == "test"


def test_side(trainer, size: int) -> int | None:
    """The side that test pictures are resized to; None: they keep their sizes, as after training on crops at their own
    scale.  UserError: they cannot."""
    if trainer.args.keep_size and is_size_bound(trainer):
        raise UserError("--keep_size true is impossible: the networks of this checkpoint are bound to their size")
    own = trainer.args.keep_size or (trainer.preparation[0] == "crop" and not is_size_bound(trainer))
    return None if own else size


def translate_file(
    trainer, source: Path, s: str, t: str, size: int | None, levels: Levels | None = None
) -> list[tuple[str, np.ndarray]]:
    """The translations of one picture of domain s to t: pairs (suffix of its name, (H,W,3) uint8).

    size: the side that it is resized to; None: it keeps its height and width.  levels: for uint16, black and white.
    """
    x = trainer.read_input(source, size, scale_of(trainer, s))[None]
    return translations(trainer, x, source, s, t, partial(to_pixels, levels=levels))


def translations(trainer, x: torch.Tensor, content: Path | bytes, s: str, t: str, convert: Callable) -> list[tuple]:
    """The translations of a picture x (1,C,h,w), in tiles if it is large: pairs (suffix, convert(output, h, w)).

    content: the file or the bytes that seed random styles, unless --same_style true.
    """
    x, h, w = pad_to_multiple(trainer, x)
    content = b"" if getattr(trainer.args, "same_style", False) else content
    with seeded_by(content, trainer.args.seed), trainer._autocast():
        return [(suffix, convert(y, h, w)) for suffix, y in trainer.translations(tiled(trainer, x, s, t), s, t)]


def to_pixels(y: torch.Tensor | Map, h: int, w: int, levels: Levels | None = None) -> np.ndarray:
    """The first h rows and w columns of an output (1,C,H,W) in [-1,1], as (h,w,C) uint8; levels: as uint16."""
    C, convert = y.shape[1], partial(to_uint16, levels=levels) if levels else to_uint8
    if isinstance(y, torch.Tensor):
        return convert(y[0, :, :h, :w])[..., :C]
    picture = np.empty((h, w, C), np.uint16 if levels else np.uint8)
    for a, b in y.plan.bands(y.shape[2]):
        if a < h:
            picture[a:b] = convert(y.rows(a, min(b, h))[0, :, :, :w])[..., :C]
    return picture


def to_tensor(y: torch.Tensor | Map, h: int, w: int) -> torch.Tensor:
    """The first h rows and w columns of an output, as a tensor (1,C,h,w)."""
    if not isinstance(y, torch.Tensor):
        y = torch.cat([y.rows(a, b) for a, b in y.plan.bands(y.shape[2])], 2)
    return y[:, :, :h, :w]


def prepared(trainer, source: Path, size: int | None, scale=None) -> tuple[torch.Tensor, int, int]:
    """A picture file as an input (1,C,H,W) of the networks, padded; its height and width without padding."""
    return pad_to_multiple(trainer, trainer.read_input(source, size, scale)[None])


def pad_to_multiple(trainer, x: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Pictures (N,C,h,w) on the device, padded to sides that the networks accept by repeating their borders; h, w."""
    h, w = x.shape[2:]
    H, W = (max(trainer.min_size, math.ceil(side / trainer.size_multiple) * trainer.size_multiple) for side in (h, w))
    x = F.pad(x.to(trainer.device), (0, W - w, 0, H - h), mode="replicate")
    return x.contiguous(memory_format=trainer.layout), h, w
