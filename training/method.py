"""The hooks that a method defines for the trainer, with their defaults, and the learning rate schedule."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from checkpoints.contents import by_name
from dataset import MARGIN, Samples, centre, scaled_size
from images.decode import read_full_depth, read_image, resize, to_tensor

DIRECTIONS = (("A", "B"), ("B", "A"))  # source, target
PICTURE_OPTIONS = ("preprocess", "load_size", "flip", "sampling")


class Update(NamedTuple):
    """One part of a training step: an objective, and the optimizer that descends it."""

    name: str  # of the optimizer; parameters of all other optimizers are frozen
    objective: Callable  # (batch, source, target) -> (loss, {name: term})
    total: str  # the name of the loss among the terms
    keep_graph: bool = False  # a later update backpropagates through the same graph, with the weights left by this one
    sample: Callable | None = None  # (batch, source, target): random numbers and pool entries for the objective


def lr_at(step: int, iteration: int, lr: float, decay: bool = True) -> float:
    """Learning rate of step 1..iteration: constant for the first half, then linear to 0."""
    constant = iteration // 2
    if not decay or step <= constant:
        return lr
    return lr * max(0.0, 1 - (step - constant) / max(constant, 1))  # not negative for an odd iteration either


def epoch_at(step: int, iteration: int, epochs: int, steps_per_epoch: int = 0) -> int:
    """The epoch 1, 2, ... of step 1..iteration.  steps_per_epoch 0: the run is divided into `epochs` epochs."""
    return 1 + (step - 1) // (steps_per_epoch or max(1, -(-iteration // epochs)))


class Method:
    """A method is a subclass of trainer.Trainer, in its own file.  It must define:

    options, defaults   its options (options.Option); its defaults of common options
    directions          the translations it learns: pairs (source, target)
    inference_networks  {direction: names of the networks that translate}
    build(a)            its networks {name in checkpoints: module}; `a` holds the options of group "model"
    trained()           {optimizer name: list of parameters}; each is Adam with `betas` and --weight_decay
    updates()           the Updates of step self.step, in order.  An objective is called once for each pair in
                        `trained_directions`, and the gradients are summed.  It depends only on the batch and the
                        networks, so that it can be compiled as one graph.
    translate(x, s, t)  pictures x (N,C,H,W) in [-1,1] of domain s translated to t

    It may define:

    check(args)         a message why these options cannot work, or None
    host_decision()     a value that the host chooses before a step; steps of equal self.decision run the same
                        operations (training/cuda_graphs.py)
    forward(batch, s, t)  runs before the updates, with gradients; it adds what several updates share to `batch`,
                        which starts as the images {"A": (N,C,S,S), "B": ...} and lives for one step
    before(update), after(update)  run around an update, given its name
    lr(step), lr_scale  learning rate, a pure function of the step; its factors by optimizer
    max_grad_norm       the largest gradient norm, by optimizer
    period              the step pattern repeats every `period` steps (DRIT: --d_iter); the last step of a period is
                        the most expensive
    term_weights(args)  weights of the terms that an objective returns weighted, as the authors' program prints them;
                        the log holds such a term bare under its name, and weighted under NAME_weighted
    measure_training_set(paths)  computes statistics of all training pictures {"A": paths, "B": paths} before a run
    prepare(real_A, real_B)  builds what depends on the shape of the first batch
    extra_state(), load_extra_state(state)  a checkpoint's content beside weights: a dict of tensors and plain values
    visuals(x, s, t)    the rows of the sample grid for one picture
    translations(x, s, t)  several translations of one picture: pairs (suffix of the file name, pictures)
    from_released(found), infer_options(networks)  for the authors' checkpoints: networks by name; options of group
                        "model" inferred from the shapes
    summary_modules()   for --phase info, per kind of network: (lower-case title, names, one of them, the function
                        to call, its input or a tuple of inputs)
    default_load_size(args), resample  training pictures are resized to --load_size, by default this, by this filter
    makes_own_crops     training samples take no notice of --preprocess, --load_size, --flip and --sampling
    tests_at_load_size  test pictures are resized to load_size, not to img_size
    tests_centre        then the test takes their centre, a square of img_size, but not where true counterparts are
                        measured, nor of --input
    samples             the class that makes training samples, a dataset.Samples
    check_images(pictures)  UserError if it cannot learn from the pictures {folder: paths}
    inference_keys(s, t)  the part of the inference networks in a model file: {network: prefixes of keys}
    export_function(s, t)  the exported model: a function of pictures and further tensors, and the latter as
                        {name: (example, description)}
    authors_epochs, authors_steps  the length of the authors' training, one of them
    epoch_length(counts)  samples in an epoch, from the pictures of both domains
    test_split          "train": it translates its training pictures, at their own size
    to_input(picture, size)  a picture (PIL, RGB) to translate, as a tensor (C,h,w) in [-1,1]
    tiles_itself        whether `translate` cuts large pictures into tiles
    size_multiple, min_size  pictures to translate are padded to a multiple of the one, at least to the other

    All random numbers of a step come from self.draw.
    """

    options, defaults = (), {}
    name_in_paper = ""  # where it is not the name of the class
    directions = DIRECTIONS
    inference_networks = {}
    betas = (0.5, 0.999)
    lr_scale = {}
    max_grad_norm = {}
    period = 1
    resample = "bilinear"
    samples = Samples
    makes_own_crops = tests_at_load_size = tests_centre = False
    authors_epochs = authors_steps = None
    test_split = "test"
    size_multiple, min_size = 4, 16
    training_networks = ()  # names in the authors' files of networks that do not translate
    size_bound = False  # whether the networks accept only one img_size
    tiles_itself = False
    whole = False  # of pictures that are no test pictures (--input) all is translated, whatever tests_centre says
    counts_biases = False  # whether --phase info counts the additions of biases as multiply-adds

    @classmethod
    def check(cls, args) -> str | None:
        return None

    @classmethod
    def architecture_options(cls) -> tuple[str, ...]:
        """Names of the options that determine the networks."""
        return ("ch", "img_ch", *(o.name for o in cls.options if o.group == "model"))

    # ---------------------------------------------------------------------------- one training step

    def _nothing(self, *_):
        """The default of hooks that need not do anything."""

    host_decision = forward = before = after = prepare = _nothing
    measure_training_set = check_images = load_extra_state = _nothing

    def lr(self, step: int) -> float:
        return lr_at(step, self.args.iteration, self.args.lr, self.args.decay_flag)

    @classmethod
    def term_weights(cls, args) -> dict[str, float]:
        return {}

    # -------------------------------------------------------------------------- pictures, checkpoints

    @classmethod
    def title(cls) -> str:
        return cls.name_in_paper or cls.__name__

    @classmethod
    def epoch_length(cls, counts: list[int]) -> int:
        return max(counts)

    @classmethod
    def default_load_size(cls, args) -> int:
        return args.img_size + MARGIN

    @classmethod
    def check_pictures(cls, args) -> str | None:
        """A message why the options about training pictures cannot work, or None."""
        given = [name for name in PICTURE_OPTIONS if name in args.given]
        if cls.makes_own_crops and given:
            return f"{args.method} makes crops of its own: leave out --{given[0]}"
        if args.shrink_jpegs and (args.preprocess == "crop" or cls.makes_own_crops):
            return "--shrink_jpegs changes the scale of pictures, from which crops are made here: leave it out"
        if args.preprocess == "crop" and "load_size" in given:
            return "--preprocess crop leaves pictures at their own scale: leave out --load_size"
        if args.preprocess != "crop" and args.load_size and args.load_size < args.img_size:
            return f"--load_size {args.load_size} is smaller than the crop: give at least --img_size, {args.img_size}"
        return None

    def picture_options(self) -> dict:
        """How training pictures are prepared and drawn, for an UnpairedStream."""
        args = self.args
        return dict(
            channels=args.img_ch,
            load_size=args.load_size or self.default_load_size(args),
            resample=self.resample,
            preprocess=args.preprocess,
            flip=args.flip,
            sampling=args.sampling,
            counted=self.folder["A"],  # the authors' programs swap the domains after drawing
            samples=self.samples,
            scales={d: self.scales.get(self.folder[d], {}) for d in "AB"},  # by domain, not by folder
        )

    def read_input(self, path: Path, size: int | None, scale=None) -> Tensor:
        """(C,h,w) in [-1,1], at the scale of the test; None: at its own height and width."""
        read = read_full_depth if self.args.deep else read_image
        return self.to_input(self.shrunk(read(path, scale)), size)

    def shrunk(self, picture):
        """The picture (PIL) within --longest and --shortest, with its proportions."""
        limits = ((self.args.longest, max(picture.size)), (self.args.shortest, min(picture.size)))
        ratio = min([1, *(limit / side for limit, side in limits if limit)])
        size = tuple(max(1, round(ratio * side)) for side in picture.size)
        return picture if ratio == 1 else picture.resize(size, Image.Resampling[self.resample.upper()])

    def to_input(self, picture, size: int | None) -> Tensor:
        pixels = resize(picture, self.test_size(picture.size, size), self.architecture["img_ch"], self.resample)
        return to_tensor(centre(pixels, size) if self.cuts(picture.size, size) else pixels)

    def test_size(self, own: tuple[int, int], size: int | None) -> tuple[int, int] | None:
        """The (width, height) that a picture of the size `own` is resized to in the test; None: it keeps its own."""
        if size is None:
            return None
        preprocess, _ = self.preparation
        if self.size_bound or preprocess == "crop":  # the latter comes here only where a size is asked for
            return size, size
        return scaled_size(own, preprocess, self.test_load_size(size), size)

    def test_load_size(self, size: int) -> int:
        """The side that pictures are resized to in the test, of which `size` are translated."""
        if not self.tests_at_load_size:
            return size
        at_size = SimpleNamespace(**{**vars(self.args), "img_size": size})
        return self.preparation[1] or self.default_load_size(at_size)

    def cuts(self, own: tuple[int, int], size: int | None) -> bool:
        """Whether the test translates only the centre of a picture of the size `own`, (width, height)."""
        scaled = self.test_size(own, size)
        return bool(scaled) and self.tests_centre and not self.whole and max(scaled) > size

    def show_whole(self, size: int | None):
        """Let the test translate whole pictures, resized to a square of `size`, where it would take their centres."""
        if size and self.tests_centre:
            self.preparation = "resize_and_crop", size

    def read_sample(self, path: Path, scale=None) -> Tensor:
        """(C,S,S) in [-1,1], S = img_size: the centre of a picture at the scale of the test, for sample grids."""
        size, picture = self.args.img_size, read_image(path, scale)
        if self.preparation[0] == "crop":
            scaled = scaled_size(picture.size, "crop", 0, size)
        else:
            scaled = self.test_size(picture.size, size)
        return to_tensor(centre(resize(picture, scaled, self.architecture["img_ch"], self.resample), size))

    def visuals(self, x: Tensor, s: str, t: str) -> list[Tensor]:
        return [x, self.translate(x, s, t)]

    def translations(self, x: Tensor, s: str, t: str) -> list[tuple[str, Tensor]]:
        return [("", self.translate(x, s, t))]

    def inference_keys(self, s: str, t: str) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.inference_networks[s, t], ("",))

    def all_inference_keys(self, s: str, t: str) -> dict[str, tuple[str, ...]]:
        """inference_keys and what --style_from needs."""
        return self.inference_keys(s, t)

    def export_function(self, s: str, t: str) -> tuple[Callable, dict]:
        return lambda x: self.translate(x, s, t), {}

    def extra_state(self) -> dict:
        return {}

    @classmethod
    def from_released(cls, found: dict) -> dict | None:
        translate = {name for names in cls.inference_networks.values() for name in names}
        return by_name(found, translate.union(cls.training_networks))

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
