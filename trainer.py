"""The trainer that every method shares: one optimizer step, state, checkpoints and resume."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

import average
import checkpoints
import dataset
import graphs
import layers
import loop
import ranks
import saving
import translate
import utils
from draws import Draw
from utils import frozen

DIRECTIONS = (("A", "B"), ("B", "A"))  # source, target


class Half(NamedTuple):
    """A part of a training step: an objective, and the optimizer that descends it."""

    name: str  # of the optimizer; all that it does not own is frozen meanwhile
    objective: Callable  # (batch, source, target) -> (loss, {name: term})
    total: str  # the loss's own name among the terms
    keep_graph: bool = False  # a later half goes backward through it again, with the weights that this half leaves
    chance: Callable | None = None  # before the objective, into the batch: what is drawn by chance or out of a pool


def lr_at(step: int, iteration: int, lr: float, decay: bool = True) -> float:
    """Learning rate of step 1..iteration: constant for the first half, then linear to 0."""
    half = iteration // 2
    if not decay or step <= half:
        return lr
    return lr * max(0.0, 1 - (step - half) / max(half, 1))  # never negative, for odd iteration too


def epoch_at(step: int, iteration: int, epochs: int, steps_per_epoch: int = 0) -> int:
    """The epoch 1, 2, ... of step 1..iteration: as long as said, or else such that `epochs` of them fill the run."""
    return 1 + (step - 1) // (steps_per_epoch or max(1, -(-iteration // epochs)))


class Trainer:
    """A method is a subclass, in a file of its own.  It says what it is:

    options, defaults   options (options.Option) of its own; its defaults of the common ones
    directions          the translations that it knows: pairs (source, target)
    translators         of each direction, the names of the networks that draw it
    build(a)            its networks {name in checkpoints: module}, from a.NAME, the options of group "model"
    trained()           {optimizer: its parameters}; each is an Adam with `betas` and --weight_decay
    halves()            the Halves of the step number self.step, in order; an objective is called once for each
                        pair in `passes`, and its gradients are summed; it is a function of the batch and the
                        networks alone, which a compiler can make one graph of
    translate(x, s, t)  pictures x (N,C,H,W) in [-1,1] of domain s drawn in t

    and, where it has to:

    check(args)         a line that says why these options cannot be, or None
    decide()            what the host decides of a step before it; steps alike in self.decided are alike (graphs.py)
    forward(batch, s, t)  before the halves, with gradients: what several of them use, kept in the dict `batch`,
                        which begins as the pictures {"A": (N,C,S,S), "B": ...} and lives for the step
    before(half), after(half)  something around a half, by the half's name
    rate(step), rate_scale  learning rate, a pure function of the step; factors of it by optimizer
    clip                the largest norm that the gradient may have, by optimizer
    rhythm              the number of steps after which their kinds repeat; the last of them is the largest
    survey(paths)       what it has to know of all training pictures, {"A": paths, "B": paths}; before a run
    prepare(real_A, real_B)  what is built from a first batch
    remember(), recall(state)  what has to be kept beside weights: a dict of tensors and plain values
    rows(x, s, t)       the sample grid's rows for one picture
    translations(x, s, t)  several answers to one picture: pairs (addition to the file's name, pictures)
    adopt(found), infer(networks)  its authors' checkpoints: their networks by name, and the options of
                        group "model" that the shapes tell
    tour()              for --phase info: of each kind of network (title, names, one of them, what to call,
                        its input or a tuple of inputs); title in small letters and spaces
    load_side, resample  training pictures are resized to that side, then cropped to img_size; the filter
    samples             the class that makes the samples of training pictures, a dataset.Samples
    inspect(pictures)   UserError where it cannot learn from the pictures {folder: paths}
    parts(s, t)         of the networks that draw it, what a model file has to hold: {network: beginnings of names}
    drawing(s, t)       what an exported model computes: a function of pictures and more tensors, and these by name:
                        {name: (an example, what it is)}
    tested              "train": what it translates are the training pictures themselves, at their own size
    fit(picture, size)  a picture (PIL, RGB) to translate, as a tensor
    tiles_itself        whether `translate` cuts large pictures into tiles
    multiple, least     sides of translated pictures are padded to that multiple and at least to that size

    Random numbers of a step come from self.draw alone.  args: a namespace from main.parse_args.  Nothing is
    read from disk before train(), test() or load().  `step` is the last finished one; `average`, an
    average.Average or None, is what --ema keeps.
    """

    options, defaults = (), {}
    directions = DIRECTIONS
    translators = {}
    betas = (0.5, 0.999)
    rate_scale = {}
    clip = {}
    rhythm = 1
    resample = "bilinear"
    samples = dataset.Samples
    tested = "test"
    multiple, least = 4, 16
    size_bound = False  # whether the networks fit one img_size only
    tiles_itself = False
    counts_biases = False  # whether --phase info counts a bias's additions among the multiply-adds

    def __init__(self, args):
        self.args = args
        self.step = self.position = 0
        self.stopped = 0  # the number of the signal that ended the training
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.device = torch.device(args.device)
        # a GPU's reflection padding hands on the usual layout; a CPU's convolutions are fastest in the other one
        self.layout = torch.contiguous_format if self.device.type == "cuda" else torch.channels_last
        self.looks = self.device.type not in ("cuda", "meta")  # whether the host may look at numbers without waiting
        self.draw = Draw(self.device)
        self.guard = utils.Guard(args.on_nan, self.device)
        self.results = Path(args.result_dir) / args.dataset
        self.passes = self.directions
        # a method of one direction learns the other one by swapping the folders
        backwards = args.direction == "BtoA" and len(self.directions) == 1
        self.folder = {"A": "B", "B": "A"} if backwards else {"A": "A", "B": "B"}
        if args.direction:
            self.directions = [(s, t) for s, t in self.directions if self.folder[s] == args.direction[0]]
        layers.plain = args.plain
        self.build_model()
        self.average = average.of(self)
        self.graph = graphs.of(self)

    # ------------------------------------------------------------------------ what a method may say

    def build(self, a) -> dict[str, nn.Module]:
        raise NotImplementedError

    def trained(self) -> dict[str, list[nn.Parameter]]:
        raise NotImplementedError

    def halves(self) -> tuple[Half, ...]:
        raise NotImplementedError

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        raise NotImplementedError

    @classmethod
    def check(cls, args) -> str | None:
        return None

    def decide(self):
        pass

    def forward(self, batch: dict, s: str, t: str):
        pass

    def before(self, half: str):
        pass

    def after(self, half: str):
        pass

    def rate(self, step: int) -> float:
        return lr_at(step, self.args.iteration, self.args.lr, self.args.decay_flag)

    def survey(self, paths: dict[str, list[Path]]):
        pass

    def prepare(self, real_A: Tensor, real_B: Tensor):
        pass

    def remember(self) -> dict:
        return {}

    def recall(self, state: dict):
        pass

    def inspect(self, pictures: dict[str, list[Path]]):
        pass

    def read(self, path: Path, size: int | None) -> Tensor:
        """(C,h,w) in [-1,1], resized to a square of side `size`, or of its own height and width (None)."""
        return self.fit(dataset.read_image(path), size)

    def fit(self, picture, size: int | None) -> Tensor:
        return dataset.to_tensor(dataset.resize(picture, size, self.architecture["img_ch"], self.resample))

    def parts(self, s: str, t: str) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.translators[s, t], ("",))

    def all_parts(self, s: str, t: str) -> dict[str, tuple[str, ...]]:
        """Those, and what --style_from needs."""
        return self.parts(s, t)

    def drawing(self, s: str, t: str) -> tuple[Callable, dict]:
        return lambda x: self.translate(x, s, t), {}

    def rows(self, x: Tensor, s: str, t: str) -> list[Tensor]:
        return [x, self.translate(x, s, t)]

    def translations(self, x: Tensor, s: str, t: str) -> list[tuple[str, Tensor]]:
        return [("", self.translate(x, s, t))]

    @classmethod
    def adopt(cls, found: dict) -> dict | None:
        return checkpoints.by_name(found, {name for names in cls.translators.values() for name in names})

    @classmethod
    def infer(cls, networks: dict) -> dict:
        return {}

    def tour(self) -> list[tuple]:
        kinds = {}
        for name, net in self.networks().items():
            kinds.setdefault((type(net), sum(p.numel() for p in net.parameters())), []).append(name)
        x = torch.empty(1, self.args.img_ch, self.args.img_size, self.args.img_size, device=self.device)
        firsts = {kind: self.networks()[names[0]] for kind, names in kinds.items()}
        return [(f"{kind[0].__name__.lower()}s", kinds[kind], net, net, x) for kind, net in firsts.items()]

    @property
    def load_side(self) -> int:
        return self.args.img_size + dataset.MARGIN

    # ------------------------------------------------------------------------------------ networks

    @classmethod
    def architecture_options(cls) -> tuple[str, ...]:
        """The names of the options that decide which networks are built."""
        return ("ch", "img_ch", *(o.name for o in cls.options if o.group == "model"))

    def build_model(self, **architecture):
        """(Re)build networks and optimizers; architecture overrides args (a checkpoint's options)."""
        names = (*self.architecture_options(), "img_size")
        self.architecture = {name: getattr(self.args, name) for name in names} | architecture
        torch.manual_seed(self.args.seed)
        self._networks = self.build(SimpleNamespace(**self.architecture))
        for net in self._networks.values():
            net.to(self.device)
            if self.device.type == "cuda":
                net.to(memory_format=self.layout)
        parameters = dict.fromkeys(p for net in self._networks.values() for p in net.parameters())
        trained = self.trained()
        # in each half of a step, everything that this half does not train is frozen
        self.frozen_in = {name: [p for p in parameters if p not in own] for name, own in _sets(trained)}
        settings = dict(
            lr=self.args.lr,
            betas=self.betas,
            weight_decay=self.args.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over the weights; same numbers
        )
        self.optimizers = {name: torch.optim.Adam(own, **settings) for name, own in trained.items()}
        half = self.args.amp == "fp16" and self.device.type == "cuda"
        self.scalers = {name: torch.amp.GradScaler(enabled=half) for name in trained}
        self.compiled = {}

    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names in checkpoints."""
        return self._networks

    # ---------------------------------------------------------------------------- one training step

    def train_step(self, real_A: Tensor, real_B: Tensor) -> dict[str, Tensor]:
        """Do optimisation step number `step + 1` on real_A, real_B (N,3,S,S) in [-1,1].

        Returns every loss term, detached, and the weighted sum of each half.
        """
        self.step += 1
        self.guard.now.fill_(self.step)
        self.set_rates()
        self.decided = self.decide()
        real = [x.to(self.device, memory_format=self.layout, non_blocking=True) for x in (real_A, real_B)]
        return self.graph(real) if self.graph else self.compute_step(real)

    def set_rates(self):
        """Tell the optimizers the rates of the step number self.step."""
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.rate(self.step) * self.rate_scale.get(name, 1)

    def compute_step(self, real: list[Tensor]) -> dict[str, Tensor]:
        """The work of a step, with the rates, the guard's number of the step and the pictures in their places."""
        pairs = zip(*(x.chunk(self.args.grad_accum) for x in real), strict=True)
        batches = [dict(zip("AB", pair, strict=True)) for pair in pairs]
        for batch in batches:
            for s, t in self.passes:
                with self._autocast():
                    self.forward(batch, s, t)
        terms = {}
        self.guard.begin()
        for half in self.halves():
            with frozen(self.frozen_in[half.name]):
                terms |= self._descend(half, batches)
        self.guard.end()
        self._look()
        return terms

    def _descend(self, half: Half, batches: list[dict]) -> dict[str, Tensor]:
        """One optimizer step on the objective of a half, averaged over micro-batches and ranks."""
        self.before(half.name)
        objective, n = half.objective, len(batches)
        if self.args.compile:
            if half.total not in self.compiled:
                self.compiled[half.total] = torch.compile(objective, dynamic=False)
            objective = self.compiled[half.total]
        total, terms = 0.0, {}
        for batch in batches:
            for s, t in self.passes:  # each backward follows its forward: only one's activations are alive
                if half.chance:
                    half.chance(batch, s, t)
                with self._autocast():
                    loss, parts = objective(batch, s, t)
                self.scalers[half.name].scale(loss / n).backward(retain_graph=half.keep_graph)
                total = total + loss.detach() / n
                for name, part in parts.items():
                    terms[name] = terms.get(name, 0.0) + part.detach() / n
        terms[half.total] = total
        self._update(half, self._average_over_ranks(self.optimizers[half.name], terms))
        self.after(half.name)
        return terms

    def _autocast(self):
        if self.args.amp == "none":
            return nullcontext()
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.args.amp]
        # a rounded weight that is kept from a pass without gradients would take the next pass's gradient with it
        return torch.autocast(self.device.type, kind, cache_enabled=False)

    def _average_over_ranks(self, optimizer, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average the gradients; returns the averaged terms, by which all ranks make the same decision."""
        if self.world == 1:
            return terms
        values = torch.stack([term.float() for term in terms.values()])
        gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        ranks.average([*gradients, values], self.world)
        return dict(zip(terms, values, strict=True))

    def _update(self, half: Half, terms: dict[str, Tensor]):
        """Let the optimizer step, unless a term or the gradient is not finite."""
        scaler, optimizer = self.scalers[half.name], self.optimizers[half.name]
        group = optimizer.param_groups[0]
        if half.name in self.clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(group["params"], self.clip[half.name])
        if not scaler.is_enabled():  # an fp16 scaler expects overflows and drops those updates itself
            norm = torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            terms = {**terms, f"gradient of {half.name}": norm}
        bad = self.guard.see(half.total, terms)
        with ExitStack() as uncounted:
            # autograd counts the changes of what a graph has kept, and would refuse to go through it again
            for p in group["params"] if half.keep_graph else ():
                uncounted.enter_context(torch.autograd._unsafe_preserve_version_counter(p))
            if scaler.is_enabled():
                scaler.step(optimizer)
                self.guard.overflowed(sum(scaler._found_inf_per_device(optimizer).values()))
                scaler.update()
            elif not self.looks:
                optimizer.found_inf = bad.float()  # the fused kernel drops the update; the host need not wait
                optimizer.step()
            elif not bad:
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._look()

    def _look(self):
        """Let the guard stop the run at once where looking costs no waiting; on a GPU the loop does it at times."""
        if self.looks:
            self.guard.check()

    # ------------------------------------------------------------------------------------ training

    def train(self) -> bool:
        """Train to args.iteration (True), or until a signal; with args.resume from the newest checkpoint."""
        return loop.train(self)

    def test(self, found: tuple[dict, Path] | None = None):
        """Translate the test folders with a checkpoint (state, path), by default the run's newest valid one."""
        translate.test(self, found)

    def stream(self, paths: dict[str, list[Path]]):
        """Batches for ever from the pictures of domains A and B, beginning at self.position."""
        args = self.args
        return dataset.UnpairedStream(
            paths,
            args.img_size,
            args.batch_size * args.grad_accum,
            seed=args.seed,
            position=self.position,
            workers=args.num_workers,
            cache=args.cache,
            rank=self.rank,
            world=self.world,
            pin_memory=self.device.type == "cuda",
            channels=args.img_ch,
            load_size=self.load_side,
            resample=self.resample,
            samples=self.samples,
        )

    # ---------------------------------------------------------------------------------- checkpoints

    def state(self) -> dict:
        """Everything a run continues from."""
        return saving.state(self)

    def save(self, numbered: bool = False):
        """Write the latest checkpoint and, if asked, a numbered one; rank 0 alone does."""
        saving.save(self, numbered)

    def load(self, found: tuple[dict, Path] | None = None):
        """Continue from a checkpoint (state, path), by default the newest valid one of this run."""
        saving.load(self, found)
        self.graph = graphs.of(self)  # the optimizers' tensors are new ones


def _sets(trained):
    return [(name, set(parameters)) for name, parameters in trained.items()]
