"""How an option is declared, and the types of option values."""

import argparse
import math
import os
from collections.abc import Callable
from typing import NamedTuple

# --help lists these options first, then the groups under their headings
BASICS = ("phase", "method", "dataset", "result_dir", "resume", "checkpoint", "img_size", "batch_size", "iteration",
          "epochs", "device", "seed")  # fmt: skip
GROUPS = {
    "run": "translate",  # but for the BASICS
    "data": "data",
    "model": "model",
    "loss": "loss",
    "optimisation": "optimisation",
    "logging": "logging and scores",
    "scale": "speed and memory",
}


def boolean(text: str) -> bool:
    """true/false, yes/no, 1/0 in any case."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def resuming(text: str) -> bool | str:
    """A boolean, or "auto"."""
    return "auto" if text.lower() == "auto" else boolean(text)


def bounded(kind, low, high=None, above=False):
    """A number of the given kind in [low, high]; in (low, high] if `above` is set."""
    high = high if high is not None else 2**63 - 1 if kind is int else math.inf

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        endless = isinstance(value, float) and not math.isfinite(value)  # a whole number may be too large for a float
        if not low <= value <= high or (above and value == low) or endless:
            least = f"{'above' if above else 'at least'} {low}"
            finite = " and finite" if endless else ""
            most = f"at most {high}"
            bound = most if high < value < math.inf else least + finite
            raise argparse.ArgumentTypeError(f"{text[:40]} must be {bound}")
        return value

    parse.__name__ = kind.__name__
    return parse


positive, natural = bounded(int, 1), bounded(int, 0)
weight, positive_float = bounded(float, 0), bounded(float, 0, above=True)


def name(text: str) -> str:
    """A data set's name: one folder below --dataset_dir and --result_dir, never a path out of them."""
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no folder name")
    return text


def folder(text: str) -> str:
    """The path of a folder or file; ~ is the home folder, also where no shell has replaced it."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path; . is the working folder")
    if len(os.fsencode(text)) > 4000 or any(len(os.fsencode(part)) > 255 for part in text.split(os.sep)):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}... is too long for a path")
    return os.path.expanduser(text)


def direction(text: str) -> str:
    """AtoB or BtoA, also written A2B or B2A."""
    known = {name.lower(): name for name in ("AtoB", "BtoA")}
    return known.get(text.lower().replace("2", "to"), text)


def data_set(text: str) -> str:
    """A data set's name, or the path of its folder: its last part is the name."""
    path = os.path.expanduser(text).rstrip("/" + os.sep)
    name(os.path.basename(path))
    return folder(path)


PREPROCESS = ("resize_and_crop", "scale_and_crop", "crop")
OF_CYCLEGAN = {"none": "crop", "scale_width": "scale_and_crop", "scale_width_and_crop": "scale_and_crop"}


def preprocess(text: str) -> str:
    """One of PREPROCESS; for CycleGAN's names the complaint says ours."""
    if text in PREPROCESS:
        return text
    hint = f"; here that is {OF_CYCLEGAN[text]}" if text in OF_CYCLEGAN else ""
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(PREPROCESS)}{hint}")


class Option(NamedTuple):
    """One option: `--name VALUE`, parsed by `kind`; group: one of GROUPS.

    Options of the group "model" decide which networks are built: a checkpoint fixes their values.
    """

    group: str
    name: str
    kind: Callable
    default: object
    help: str
    choices: tuple | None = None
    metavar: str | None = None
