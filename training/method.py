"""What a method says about itself: the hooks that the trainer calls, with their defaults."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from checkpoints.contents import by_name
from dataset import MARGIN, Samples
from images.decode import read_image, resize, to_tensor

DIRECTIONS = (("A", "B"), ("B", "A"))  # source, target


class Update(NamedTuple):
    """One part of a training step: an objective, and the optimizer that descends it."""

    name: str  # of the optimizer; parameters of all other optimizers are frozen meanwhile
    objective: Callable  # (batch, source, target) -> (loss, {name: term})
    total: str  # the name of the loss among the terms
    keep_graph: bool = False  # a later update backpropagates through the same graph, with the weights left by this one
    sample: Callable | None = None  # (batch, source, target): random numbers and pool entries for the objective


def lr_at(step: int, iteration: int, lr: float, decay: bool = True) -> float:
    """Learning rate of step 1..iteration: constant for the first half, then linear to 0."""
    half = iteration // 2
    if not decay or step <= half:
        return lr
    return lr * max(0.0, 1 - (step - half) / max(half, 1))  # never negative, for odd iteration too


def epoch_at(step: int, iteration: int, epochs: int, steps_per_epoch: int = 0) -> int:
    """The epoch 1, 2, ... of step 1..iteration.  steps_per_epoch 0: `epochs` epochs fill the run."""
    return 1 + (step - 1) // (steps_per_epoch or max(1, -(-iteration // epochs)))


class Method:
    """A method is a subclass of trainer.Trainer, in a file of its own.  It must define:

    options, defaults   its own options (options.Option); its defaults of the common options
    directions          the translations that it learns: pairs (source, target)
    inference_networks  for each direction, the names of the networks that translate
    build(a)            its networks {name in checkpoints: module}; `a` holds the options of group "model"
    trained()           {optimizer: its parameters}; each is an Adam with `betas` and --weight_decay
    updates()           the Updates of step number self.step, in order.  An objective is called once for each pair in
                        `trained_directions`, and the gradients are summed.  It depends on the batch and the
                        networks only, so that it can be compiled as one graph.
    translate(x, s, t)  pictures x (N,C,H,W) in [-1,1] of domain s translated to t

    It may define:

    check(args)         a line that says why these options cannot work, or None
    host_decision()     a value that the host chooses before a step; steps with equal self.decision run the same
                        operations (training/cuda_graphs.py)
    forward(batch, s, t)  runs before the updates, with gradients; what several updates share goes into `batch`, which
                        starts as the pictures {"A": (N,C,S,S), "B": ...} and lives for one step
    before(update), after(update)  run around an update, given the update's name
    lr(step), lr_scale  learning rate, a pure function of the step; factors of it by optimizer
    max_grad_norm       the largest gradient norm, by optimizer
    period              the step pattern repeats every `period` steps (DRIT: --d_iter); the last step of a period is
                        the most expensive
    measure_training_set(paths)  statistics of all training pictures {"A": paths, "B": paths}; called before a run
    prepare(real_A, real_B)  builds what depends on the first batch
    extra_state(), load_extra_state(state)  what a checkpoint holds beside weights: a dict of tensors and plain values
    visuals(x, s, t)    the rows of the sample grid for one picture
    translations(x, s, t)  several translations of one picture: pairs (suffix of the file's name, pictures)
    from_released(found), infer_options(networks)  checkpoints of the authors: networks by name; the options of group
                        "model" that follow from the shapes
    summary_modules()   for --phase info, for each kind of network: (title, names, one of them, the function to call,
                        its input or a tuple of inputs); titles are lower case
    load_side, resample  training pictures are resized to that side, then cropped to img_size; the filter
    samples             the class that makes training samples, a dataset.Samples
    check_images(pictures)  UserError where it cannot learn from the pictures {folder: paths}
    inference_keys(s, t)  what a model file must hold of the inference networks: {network: prefixes of keys}
    export_function(s, t)  what an exported model computes: a function of pictures and more tensors, and the latter as
                        {name: (an example, its description)}
    test_split          "train": the method translates its training pictures, at their own size
    to_input(picture, size)  a picture (PIL, RGB) to translate, as a tensor
    tiles_itself        whether `translate` cuts large pictures into tiles
    size_multiple, min_size  translated pictures are padded to a multiple of the one and at least to the other

    Random numbers of a step come from self.draw only.
    """

    options, defaults = (), {}
    directions = DIRECTIONS
    inference_networks = {}
    betas = (0.5, 0.999)
    lr_scale = {}
    max_grad_norm = {}
    period = 1
    resample = "bilinear"
    samples = Samples
    test_split = "test"
    size_multiple, min_size = 4, 16
    size_bound = False  # whether the networks accept one img_size only
    tiles_itself = False
    counts_biases = False  # whether --phase info counts a bias's additions among the multiply-adds

    def build(self, a) -> dict[str, nn.Module]:
        raise NotImplementedError

    def trained(self) -> dict[str, list[nn.Parameter]]:
        raise NotImplementedError

    def updates(self) -> tuple[Update, ...]:
        raise NotImplementedError

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        raise NotImplementedError

    @classmethod
    def check(cls, args) -> str | None:
        return None

    @classmethod
    def architecture_options(cls) -> tuple[str, ...]:
        """The names of the options that decide which networks are built."""
        return ("ch", "img_ch", *(o.name for o in cls.options if o.group == "model"))

    # ---------------------------------------------------------------------------- one training step

    def host_decision(self):
        pass

    def forward(self, batch: dict, s: str, t: str):
        pass

    def before(self, update: str):
        pass

    def after(self, update: str):
        pass

    def lr(self, step: int) -> float:
        return lr_at(step, self.args.iteration, self.args.lr, self.args.decay_flag)

    def measure_training_set(self, paths: dict[str, list[Path]]):
        pass

    def prepare(self, real_A: Tensor, real_B: Tensor):
        pass

    # -------------------------------------------------------------------------- pictures, checkpoints

    def check_images(self, pictures: dict[str, list[Path]]):
        pass

    @property
    def load_side(self) -> int:
        return self.args.img_size + MARGIN

    def read_input(self, path: Path, size: int | None) -> Tensor:
        """(C,h,w) in [-1,1], resized to a square of side `size`, or of its own height and width (None)."""
        return self.to_input(read_image(path), size)

    def to_input(self, picture, size: int | None) -> Tensor:
        return to_tensor(resize(picture, size, self.architecture["img_ch"], self.resample))

    def visuals(self, x: Tensor, s: str, t: str) -> list[Tensor]:
        return [x, self.translate(x, s, t)]

    def translations(self, x: Tensor, s: str, t: str) -> list[tuple[str, Tensor]]:
        return [("", self.translate(x, s, t))]

    def inference_keys(self, s: str, t: str) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.inference_networks[s, t], ("",))

    def all_inference_keys(self, s: str, t: str) -> dict[str, tuple[str, ...]]:
        """The same, with what --style_from needs."""
        return self.inference_keys(s, t)

    def export_function(self, s: str, t: str) -> tuple[Callable, dict]:
        return lambda x: self.translate(x, s, t), {}

    def extra_state(self) -> dict:
        return {}

    def load_extra_state(self, state: dict):
        pass

    @classmethod
    def from_released(cls, found: dict) -> dict | None:
        return by_name(found, {name for names in cls.inference_networks.values() for name in names})

    @classmethod
    def infer_options(cls, networks: dict) -> dict:
        return {}

    def summary_modules(self) -> list[tuple]:
        kinds = {}
        for name, net in self.networks().items():
            kinds.setdefault((type(net), sum(p.numel() for p in net.parameters())), []).append(name)
        x = torch.empty(1, self.args.img_ch, self.args.img_size, self.args.img_size, device=self.device)
        firsts = {kind: self.networks()[names[0]] for kind, names in kinds.items()}
        return [(f"{kind[0].__name__.lower()}s", kinds[kind], net, net, x) for kind, net in firsts.items()]
