"""`python main.py --phase info`: modules, parameters, multiply-adds and memory for given options.

Networks and one training step run on meta tensors, which have shapes but no contents: no data set, no memory for
weights and no arithmetic is needed.
"""

import argparse
import math
import os
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from images.memory import machine_memory
from training.forecast import timed
from utils import UserError

LOADED_LATER = 220 * 2**20  # bytes that a real training loads on a CPU
OF_A_LAYER = 16  # bytes per pixel, base channel and layer: three to eight times the measured ones
ACCURACY = 0.85  # the measured peak is at least this share of the estimate


@contextmanager
def countable(args):
    """Turn an overflow of a number of weights or positions into UserError."""
    try:
        yield
    except (RuntimeError, OverflowError, TypeError) as error:
        if "overflow" not in str(error).lower():
            raise
        what = f"--ch {args.ch}, --img_size {args.img_size} and --batch_size {args.batch_size}"
        raise UserError(f"{what} make more numbers than can be counted: lower them") from None


def dry_run(method: type, args):
    """A trainer on meta tensors, whose steps omit the optimizers, mixed precision and compilation.

    method: the class; args: from main.parse_args.
    """
    with torch.device("cpu"):  # the first optimizer imports modules, which PyTorch 2.6 cannot do under device meta
        torch.optim.Adam([torch.zeros(1)])
    with countable(args), torch.device("meta"):
        settings = {"device": "meta", "compile": False, "amp": "none", "on_nan": "skip"}
        trainer = method(argparse.Namespace(**vars(args) | settings))
    trainer._update = lambda update, terms: trainer.optimizers[update.name].zero_grad(set_to_none=True)
    return trainer


def modules(net: torch.nn.Module, forward, x, biases: bool = False) -> list[tuple[str, tuple, int, int]]:
    """Rows (module, output shape, parameters, multiply-adds) of the modules of net that forward(x) runs on meta.

    A multiply-add is two flops of a convolution or matrix product and, with `biases`, each addition of a bias;
    normalisation, activations and padding do not count.  Rows are in order of execution, the attention's last.
    """
    rows, added, start = [], [0], []

    def enter(child, _):
        start.append((counter.get_total_flops(), added[0]))

    def leave(name, child, y):
        flops, before = start.pop()
        count = (counter.get_total_flops() - flops) // 2 + added[0] - before
        rows.append((name, tuple(y.shape), _numel(child), count))

    def add_bias(layer, _, y):
        if layer.bias is not None:
            added[0] += y.numel()

    net.eval()
    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear) if biases else ()
    handles = [layer.register_forward_hook(add_bias) for layer in net.modules() if isinstance(layer, kinds)]
    for name, child in _parts(net):
        handles.append(child.register_forward_pre_hook(enter))
        handles.append(child.register_forward_hook(lambda child, _, y, name=name: leave(name, child, y)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = forward(*x) if isinstance(x, tuple) else forward(x)
    for handle in handles:
        handle.remove()
    called = {row[0] for row in rows}
    rows = [row for row in rows if row[2] or row[3]]
    for name, child in _parts(net):
        if name == "conv1x1":  # runs folded, at half the cost of [x, x] that the papers count
            n, _, *sides = getattr(y, "heatmap", y).shape
            each = _numel(child) if biases else child.weight.numel()
            rows.append((name, (n, child.out_channels, *sides), _numel(child), each * n * math.prod(sides)))
        elif name not in called and _numel(child):  # not run: CAM weights of an independent encoder scale
            rows.append((name, (), _numel(child), 0))
    return rows + [(name, tuple(p.shape), p.numel(), 0) for name, p in net.named_parameters(recurse=False)]


def _parts(net):
    """(name, module) of each row: the children, or those of an only child."""
    parts = list(net.named_children())
    while len(parts) == 1 and isinstance(parts[0][1], (torch.nn.Sequential, torch.nn.ModuleList)):
        ((name, only),) = parts
        parts = [(f"{name}.{child}", module) for child, module in only.named_children()]
    return parts


def _numel(module):
    return sum(p.numel() for p in module.parameters())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors created inside: those alive `now`, and their maximum, `peak`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.storages:
                    self.storages[key] = weakref.finalize(storage, self._freed, key, size)
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key, size):
        self.now -= size
        del self.storages[key]


def training_memory(method: type, args) -> dict[str, int]:
    """Peak bytes of memory (of the GPU, if training uses one) that training with these options needs, by part.

    A training step on meta tensors gives the peak of weights, gradients and activations.  Added are Adam's two
    moments, the copies of a weight that a convolution makes in other layouts and, on a CPU, the program itself and
    what only a real training loads.  The copies and the latter are fitted to measured peaks.
    """
    parts = {"program": 0 if args.device.startswith("cuda") else _resident() + LOADED_LATER}
    with countable(args), LiveBytes() as live, torch.device("meta"):
        dry = dry_run(method, args)
        dry.step = dry.period - 1  # before the largest step
        parts["weights"] = live.now
        pictures = torch.empty(args.batch_size * args.grad_accum, args.img_ch, args.img_size, args.img_size)
        dry.train_step(pictures, pictures.clone())
    trained = [p for optimizer in dry.optimizers.values() for p in optimizer.param_groups[0]["params"]]
    parts["Adam's moments"] = 8 * sum(p.numel() for p in trained)
    parts["gradients, activations"] = live.peak - parts["weights"]
    parts["copies of a weight"] = 3 * 4 * max(p.numel() for p in trained if p.dim() == 4)
    return parts | {"total": sum(parts.values())}


def refuse_what_cannot_fit(method: type, args):
    """UserError, with the estimate, if a training needs more memory than this machine or its GPU has.

    The estimate takes seconds: it is made only if a quick upper bound exceeds the memory.
    """
    available = physical_memory(args.device)
    batch = args.batch_size * args.grad_accum
    pixels = batch * args.img_size**2
    if (least := pixels * args.img_ch * 4 * 2) > available:  # more than the estimate can count
        _refuse(least, available, "already the pictures of a step take")
    copies = int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if args.device == "cpu" else 1
    weights = [p for net in dry_run(method, args).networks().values() for p in net.parameters()]
    numbers, layers = sum(p.numel() for p in weights), sum(p.dim() == 4 for p in weights)
    if (least := copies * 16 * numbers) > available:
        _refuse(least, available, "already the weights, their gradients and Adam's two moments take")
    if copies * ((24 if args.ema else 20) * numbers + OF_A_LAYER * pixels * args.ch * layers + 2**30) < available:
        return
    needed = copies * training_memory(method, args)["total"]
    if args.amp != "none":
        needed //= 2
    if ACCURACY * needed > available:
        _refuse(needed, available, "training needs")


def _refuse(needed: int, available: int, what: str):
    raise UserError(
        f"{what} about {needed / 2**30:,.1f} GiB of memory and there are {available / 2**30:,.1f}: lower --batch_size, "
        f"--grad_accum, --img_size or --ch; --phase info shows what takes it"
    )


def physical_memory(device: str) -> float:
    """Total bytes of the GPU's memory, or of this machine's within a container's limit; inf: unknown."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory()[0]


def _resident() -> int:
    """Resident bytes of this process; a typical value if the system does not tell."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 550 * 2**20


def short(n: float) -> str:
    """16.2M, 67.6G: one decimal and a metric unit."""
    for unit in ("", "K", "M", "G"):
        if n < 999.95 or unit == "G":
            return f"{n:.1f}{unit}" if unit else f"{n:.0f}"
        n /= 1000


def report(method: type, args):
    """Print a table for each kind of network, the totals, and the memory that training needs."""
    memory = training_memory(method, args)  # first: the rest loads more than a training does
    found, size = kinds(method, args), args.img_size
    for title, names, x, rows in found:
        inputs = " and ".join(_by(part.shape) for part in (x if isinstance(x, tuple) else (x,)))
        print(f"{title}: each of {', '.join(names)}, for one input of {inputs}")
        print(f"  {'module':12}{'output':>20}{'parameters':>14}{'multiply-adds':>16}")
        for name, shape, parameters, products in rows:
            print(f"  {name:12}{_by(shape):>20}{parameters:14,}{products:16,}")
        print(f"  {'sum':12}{'':20}{sum(row[2] for row in rows):14,}{sum(row[3] for row in rows):16,}\n")
    print(f"  {'all of them together':32}{'parameters':>14}{'multiply-adds':>16}")
    for title, (parameters, products) in totals(found).items():
        print(f"  {title:32}{short(parameters):>14}{short(products):>16}")
    where = "GPU memory" if args.device.startswith("cuda") else "memory"
    print(f"\n{where} for training at {size} pixels, batch {args.batch_size * args.grad_accum} (estimate, float32):")
    for name, size in memory.items():
        print(f"  {name:32}{size / 2**20:10,.0f} MiB")
    try:
        refuse_what_cannot_fit(method, args)
    except UserError as error:
        print(f"\ntime for training: not timed, because {error}")
        return
    print(f"\ntime for training: {timed(method, args, sum(products for _, products in totals(found).values()))}")


def kinds(method: type, args) -> list[tuple]:
    """For each kind of network: title, names, the input of one of them, and the rows of `modules` of that one."""
    dry = dry_run(method, args)
    with torch.device("meta"):
        summary = list(dry.summary_modules())
    return [(title, names, x, modules(net, forward, x, dry.counts_biases)) for title, names, net, forward, x in summary]


def totals(found: list[tuple]) -> dict[str, tuple[int, int]]:
    """{title: (parameters, multiply-adds) of all networks of that kind}; found: from `kinds`."""
    sums = {}
    for title, names, _, rows in found:
        parameters, products = sums.get(title, (0, 0))  # networks of one title may have two sizes
        sums[title] = (parameters + len(names) * sum(row[2] for row in rows),
                       products + len(names) * sum(row[3] for row in rows))  # fmt: skip
    return sums


def _by(shape) -> str:
    return " x ".join(map(str, shape))
