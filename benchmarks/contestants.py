"""The methods of Table 1 with the options that each is trained with: its own paper's, but for size and budget."""

import argparse
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from trainings import ROOT

import main as program
import methods
from options import COMMON, as_argv, expanded
from utils import UserError

ROWS = {  # what --methods takes: what the tables call it
    "nice": "NICE-GAN",
    "nice-star": "NICE-GAN*",
    "ugatit": "U-GAT-IT",
    "cyclegan": "CycleGAN",
    "unit": "UNIT",
    "munit": "MUNIT",
    "drit": "DRIT",
    "cut": "CUT",
    "fastcut": "FastCUT",
    "gcgan": "GcGAN",
    "distancegan": "DistanceGAN",
}
SKIPPED = {"num_workers", "cache", "iteration", "step_size", "steps_per_epoch"}  # of no step, or of the budget
STRIDE = 32  # of the picture sides that are tried for a method that cannot take the one that was asked for
LARGER = 2  # times NICE-GAN's side: who trains at more takes no part unless named


@dataclass
class Contestant:
    """A row of the table.  words: its options for main.py but for data, budget, seed; args: all, as a namespace."""

    row: str
    words: list[str]
    args: argparse.Namespace
    path: Path | None = None  # the option file with its settings; None: its method's defaults
    changes: list[str] = field(default_factory=list)  # what differs from its own settings, for people

    @property
    def title(self) -> str:
        return ROWS[self.row]

    @property
    def settings(self) -> str:
        """Where its settings come from, for people."""
        return str(self.path.relative_to(ROOT)) if self.path else f"the defaults of --method {self.args.method}"

    @property
    def directions(self) -> list[str]:
        """A2B, B2A: what one training of it learns."""
        return [f"{s}2{t}" for s, t in methods.load(self.args.method).directions]

    @property
    def options(self) -> str:
        """What distinguishes it from its method's defaults, on one line: all that a step depends on."""
        method = self.args.method
        default, declared = _parsed(method, []), (*COMMON, *methods.load(method).options)
        skipped = {o.name for o in declared if o.group in ("run", "logging")} | SKIPPED
        given = {k: v for k, v in vars(self.args).items() if k not in skipped and v != getattr(default, k)}
        return shlex.join(as_argv({"method": method, **given}))

    def budget(self, steps: int) -> tuple[list[str], list[str]]:
        """The options of a training of `steps` steps with all of its schedule; what that changes, for people."""
        args, found = self.args, {"iteration": steps}
        if hasattr(args, "step_size"):
            found["step_size"] = max(1, round(args.step_size * steps / args.iteration))
        if getattr(args, "steps_per_epoch", 0):
            found["steps_per_epoch"] = 0  # such that the epochs fill the run
        changes = [f"--{k} {v} ({getattr(args, k)})" for k, v in found.items() if v != getattr(args, k)]
        found["print_freq"] = min(1000, max(1, steps // 10))  # there is a checkpoint to continue from
        return as_argv(found), changes


def settings(method: str, data: str) -> Path | None:
    """The option file with the paper's settings of a method for a data set, where there is one."""
    path = ROOT / "configs" / ("" if method == "nice" else method) / f"{data}.txt"
    return path if path.is_file() else None


def enter(row: str, data: str, size: int | None) -> Contestant:
    """The contestant of this row at that picture size, or at its own, or at the least between that it can take.

    UserError: it can take none.
    """
    method = row.removesuffix("-star")
    path = settings(method, data)
    words, changes = [f"--method={method}"], []
    if path:
        words += expanded([f"@{path}"])
    args = _parsed(method, words)
    more = {}
    if row == "nice-star":
        more["n_res"] = round(args.n_res * 2 / 3)  # as the paper has it: 4 of 6
    if size and size != args.img_size:
        more["img_size"] = size
    complaint, fitting = _fit(method, words, more)
    if complaint and path and size and args.img_size > size:  # it says itself that it takes no less
        changes.append(f"not {size}, for {complaint}")
        for side in range(size + STRIDE - size % STRIDE, args.img_size + 1, STRIDE):
            complaint, fitting = _fit(method, words, more | {"img_size": side})
            if not complaint:
                break
    if complaint:
        raise UserError(complaint)
    changes = [f"--{k} {v} ({getattr(args, k)})" for k, v in fitting.items()] + changes
    words += as_argv(fitting)
    return Contestant(row, words, _parsed(method, words), path, changes)


def _fit(method: str, words: list[str], more: dict) -> tuple[str | None, dict]:
    """What the method says against these options, or None; and the options with what a small size calls for."""
    while True:
        args = _parsed(method, [*words, *as_argv(more)])
        kind = methods.load(method)
        complaint = program.too_large(args, kind) or kind.check(args)
        if not complaint or getattr(args, "n_dis", 6) <= 6:
            return complaint, more
        more = more | {"n_dis": args.n_dis - 1}


def _parsed(method: str, words: list[str]) -> argparse.Namespace:
    args = program.build_parser(method).parse_args(words)
    args.device = args.device or "cpu"
    return args


def entrants(rows: list[str] | None, data: str, size: int | None) -> list[Contestant]:
    """The contestants of these rows, by default of all; who cannot take part is named in a printed line."""
    found, own = [], enter("nice", data, size).args.img_size
    for row in rows or ROWS:
        try:
            contestant = enter(row, data, size)
            if not rows and contestant.args.img_size > LARGER * own:
                raise UserError(f"its {contestant.args.img_size} pixels are far more than NICE-GAN's {own}; name it "
                                "with --methods to take it in")  # fmt: skip
            found.append(contestant)
        except UserError as error:
            print(f"{row} is left out: {error}", flush=True)
    if not found:
        raise UserError("none of the --methods can take part at this --img_size")
    return found
