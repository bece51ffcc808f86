"""Options: how one is declared, typed, read from a file and shown; and those that every method has."""

import argparse
import math
import shlex
from collections.abc import Callable
from typing import NamedTuple

# --------------------------------------------------------------------------------- kinds of values


def boolean(text: str) -> bool:
    """true/false, yes/no, 1/0 in any case."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def bounded(kind, low, high=math.inf, above=False):
    """A number of the given kind in [low, high], or (low, high] with above."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not low <= value <= high or (above and value == low) or not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} must be {'above' if above else 'at least'} {low}")
        return value

    parse.__name__ = kind.__name__
    return parse


positive, natural = bounded(int, 1), bounded(int, 0)
weight, rate = bounded(float, 0), bounded(float, 0, above=True)


def name(text: str) -> str:
    """A data set's name: one folder below --dataset_dir and --result_dir, never a path out of them."""
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no folder name; the folders around it go to --dataset_dir")
    return text


# --------------------------------------------------------------------------------------- options


class Option(NamedTuple):
    """One option: `--name VALUE`, read by `kind`, listed under `group` in --help.

    What is in the group "model" decides which networks are built: a checkpoint keeps it for good.
    """

    group: str
    name: str
    kind: Callable
    default: object
    help: str
    choices: tuple | None = None
    metavar: str | None = None


COMMON = (
    Option("run", "phase", str, "train", "what to do", choices=("train", "test", "info")),
    Option("run", "dataset", name, "cat2dog", "folder of --dataset_dir that holds trainA, trainB, testA, testB"),
    Option("run", "result_dir", str, "results", "where results/NAME is written"),
    Option("run", "resume", boolean, False, "continue from the newest valid checkpoint"),
    Option("run", "checkpoint", str, None, "continue or translate with this checkpoint", metavar="FILE"),
    Option("run", "device", str, None, "cuda, cuda:1, mps or cpu; by default the best present"),
    Option("run", "seed", natural, 0, "of the initial weights, the order of pictures and random codes"),
    Option("run", "benchmark_flag", boolean, False, "let cuDNN time its algorithms (fixed sizes: faster)"),
    Option("run", "keep_size", boolean, False, "translate at each picture's own size, where the networks can"),
    Option("run", "direction", str, None, "translate only this way; methods of one direction learn it",
           choices=("AtoB", "BtoA")),
    Option("data", "dataset_dir", str, "dataset", "where the data sets are"),
    Option("data", "img_size", positive, 256, "pictures are trained as squares of this side, in pixels"),
    Option("data", "img_ch", positive, 3, "channels: 3 for colour, 1 for grey", choices=(1, 3)),
    Option("data", "batch_size", positive, 1, "pictures of each domain in a step, per process"),
    Option("data", "num_workers", natural, 2, "processes that read and decode pictures; 0: in the main one"),
    Option("data", "cache", boolean, False, "keep decoded pictures in memory, where they fit"),
    Option("data", "skip_bad_images", boolean, False, "leave unreadable pictures out instead of stopping"),
    Option("model", "ch", positive, 64, "base channels"),
    Option("optimisation", "iteration", positive, 100_000, "training steps"),
    Option("optimisation", "lr", rate, 1e-4, "learning rate"),
    Option("optimisation", "weight_decay", weight, 0.0, "L2 penalty in the gradient"),
    Option("optimisation", "decay_flag", boolean, True, "let the learning rate fall as the method's authors do"),
    Option("optimisation", "grad_accum", positive, 1, "micro-batches of batch_size pictures averaged into one step"),
    Option("optimisation", "on_nan", str, "stop", "at a loss or gradient that is not finite",
           choices=("stop", "skip")),
    Option("logging", "print_freq", positive, 1000, "steps between sample grids and latest checkpoints"),
    Option("logging", "save_freq", positive, 100_000, "steps between numbered checkpoints"),
    Option("logging", "log_freq", positive, 100, "steps between lines of log.jsonl"),
    Option("logging", "keep", natural, 0, "keep only the last KEEP numbered checkpoints; 0: all", metavar="KEEP"),
    Option("scale", "amp", str, "none", "mixed precision", choices=("none", "bf16", "fp16")),
    Option("scale", "compile", boolean, False, "compile the objectives (slow start, faster steps on a GPU)"),
    Option("scale", "plain", boolean, False, "compute every layer by its definition: slower, the same numbers"),
)  # fmt: skip

# of methods that draw one picture in many styles; what translate.Styled asks for
STYLES = (
    Option("run", "styles", positive, 1, "answers to each picture, in random styles; from 2 on NAME_style0.png, "
           "NAME_style1.png, ...; the authors' test programs draw 10 (MUNIT) and 5 (DRIT)"),
    Option("run", "style_from", str, None, "translate in the style of this picture, an example of the domain to "
           "draw; without it styles are random, the same for the same picture and --seed", metavar="PICTURE"),
)  # fmt: skip


# ---------------------------------------------------------------------------------------- parser


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each option's default, where it has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Answers a mistake in one line, without all the options before it; reads option files (@FILE)."""

    def error(self, message):
        hint = "; --help lists the options" if message.startswith("unrecognized") else ""
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")

    def convert_arg_line_to_args(self, line):
        """Option files: one option a line, # starts a comment."""
        return shlex.split(line, comments=True)

    def add(self, options, defaults=None):
        """Add these Options under their groups; defaults: values that stand for the declared ones."""
        groups = {}
        for o in options:
            if o.group not in groups:
                groups[o.group] = self.add_argument_group(o.group)
            more = {"choices": o.choices} if o.choices else {}
            if o.kind is boolean:  # a bare --flag means true
                more |= dict(nargs="?", const=True, metavar="BOOL")
            elif not o.choices:
                more["metavar"] = o.metavar or getattr(o.kind, "__name__", "").upper()
            default = (defaults or {}).get(o.name, o.default)
            more["help"] = o.help if default is None else f"{o.help} (default: %(default)s)"
            groups[o.group].add_argument(f"--{o.name}", type=o.kind, default=default, **more)


def as_argv(options: dict) -> list[str]:
    """What one would type for these options."""
    words = {k: ",".join(map(str, v)) if isinstance(v, (tuple, list)) else v for k, v in options.items()}
    return [f"--{k}={v}" for k, v in words.items() if v is not None]
