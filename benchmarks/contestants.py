"""The methods of Table 1 and their options: those of each method's paper, except for size and budget."""

import argparse
import shlex
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from rows import ROOT, ROWS

import main as program
import methods
from images.data_sets import SOURCES
from options import COMMON, as_argv, expanded
from training import budget
from utils import UserError

THEIRS = {"ugatit": {"light": False}}  # options whose value in our option files is not the authors'
SKIPPED = {"run", "num_workers", "cache", "iteration", "epochs", "steps_per_epoch"}  # no matter to a step
STRIDE = 32  # of the picture sides to try for a method that cannot use the requested one
LARGER = 2  # times NICE-GAN's side; a method with larger pictures takes part only if named


@dataclass
class Contestant:
    """A row of the table.  words: its options for main.py except data, budget, seed; args: all options, parsed."""

    row: str
    words: list[str]
    args: argparse.Namespace
    path: Path | None = None  # its option file; None: the method's defaults
    changes: list[str] = field(default_factory=list)  # differences from that file, as text

    @property
    def title(self) -> str:
        return ROWS[self.row]

    @property
    def settings(self) -> str:
        """Source of its settings, as text."""
        return str(self.path.relative_to(ROOT)) if self.path else f"the defaults of --method {self.args.method}"

    @property
    def directions(self) -> list[str]:
        """The directions that one training learns: A2B, B2A."""
        return [f"{s}2{t}" for s, t in methods.load(self.args.method).directions]

    @property
    def options(self) -> str:
        """Its differences from the method's defaults that a training step depends on, on one line."""
        method = self.args.method
        default, declared = _parsed(method, []), (*COMMON, *methods.load(method).options)
        skipped = {o.name for o in declared if o.group in ("run", "logging")} | SKIPPED
        given = {k: v for k, v in vars(self.args).items() if k not in skipped and v != getattr(default, k)}
        return shlex.join(as_argv({"method": method, **given}))

    @property
    def whole(self) -> list[str]:
        """Options with which --phase test translates whole pictures, where its method would take their centres."""
        cuts = methods.load(self.args.method).tests_centre and self.args.preprocess != "crop"
        return as_argv({"preprocess": "resize_and_crop", "load_size": self.args.img_size}) if cuts else []

    def budget(self, steps: int) -> tuple[list[str], list[str]]:
        """The options of a training of `steps` steps, and what they change, as text.

        Schedules in epochs are scaled to it.  Those counted in steps (--step_size) are not: MUNIT's and UNIT's
        published trainings of 100,000 steps kept their first learning rate.
        """
        args, found = self.args, {"iteration": steps}
        if getattr(args, "steps_per_epoch", 0):
            found["steps_per_epoch"] = 0  # the epochs then fill the run
        if args.ema:  # averages over the same share of the run
            found["ema"] = round(max(0, 1 - (1 - args.ema) * args.iteration / steps), 6)
        changes = [f"--{k} {v} ({getattr(args, k)})" for k, v in found.items() if v != getattr(args, k)]
        found["print_freq"] = min(1000, max(1, steps // 10))  # so that there is a checkpoint to continue from
        return as_argv(found), changes


def described(c: Contestant, data: str, steps: int) -> str:
    """The settings of a training of `steps` steps; with * those that are not its authors' for this data set."""
    method, (words, changes) = methods.load(c.args.method), c.budget(steps)
    args = _parsed(c.args.method, [*c.words, *words])
    names = [o.name for o in (*COMMON, *method.options) if o.group in ("data", "model", "loss", "optimisation")]
    shown = shlex.join(as_argv({k: getattr(args, k) for k in names if k not in ("dataset", "dataset_dir")}))
    lines = [f"{c.title}: {c.settings}", *textwrap.wrap(shown, 110, initial_indent="    ", subsequent_indent="    ")]
    notes = [*c.changes, *(change for change in changes if not change.startswith("--iteration"))]
    if not c.path:
        notes.append(f"there is no option file for {data}: the defaults, its authors' for horse2zebra")
    if data in SOURCES:
        said, theirs = budget.published(method, method.epoch_length(SOURCES[data].counts[:2]))
        if steps != theirs:
            scaled = "; the schedule, in epochs, is scaled to it" if method.authors_epochs else ""
            notes.append(f"--iteration {steps} (its authors: {said}){scaled}")
    notes += [f"--{k} {getattr(args, k)} (its authors: {v})" for k, v in THEIRS.get(c.row, {}).items()
              if getattr(args, k) != v]  # fmt: skip
    return "\n".join([*lines, *(f"  * {note}" for note in notes)])


def settings(method: str, data: str) -> Path | None:
    """The option file of a method's paper for a data set, or None."""
    path = ROOT / "configs" / ("" if method == "nice" else method) / f"{data}.txt"
    return path if path.is_file() else None


def enter(row: str, data: str, size: int | None) -> Contestant:
    """The contestant of this row at picture size `size` (None: its own), or the next larger size that it can use.

    UserError: it can use none up to its own.
    """
    method = row.removesuffix("-star")
    path = settings(method, data)
    words, changes = [f"--method={method}"], []
    if path:
        words += expanded([f"@{path}"])
    args = _parsed(method, words)
    more = {}
    if row == "nice-star":
        more["n_res"] = round(args.n_res * 2 / 3)  # as in the paper: 4 of 6
    if size and size != args.img_size:
        more["img_size"] = size
    complaint, fitting = _fit(method, words, more)
    if complaint and path and size and args.img_size > size:  # it is too small for the method
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
    """The method's complaint about these options, or None; and the options, with fewer layers for small pictures."""
    while True:
        args = _parsed(method, [*words, *as_argv(more)])
        kind = methods.load(method)
        complaint = program.too_large(args, kind) or kind.check(args)
        if not complaint or getattr(args, "n_dis", 6) <= 6:
            return complaint, more
        more = more | {"n_dis": args.n_dis - 1}


def _parsed(method: str, words: list[str]) -> argparse.Namespace:
    args = program.build_parser(method).parse_args(words)
    args.device, args.run = args.device or "cpu", args.dataset
    return args


def entrants(rows: list[str] | None, data: str, size: int | None) -> list[Contestant]:
    """The contestants of these rows (default: all); those that cannot take part are printed."""
    found, own = [], enter("nice", data, size).args.img_size
    for row in rows or ROWS:
        try:
            contestant = enter(row, data, size)
            if not rows and contestant.args.img_size > LARGER * own:
                raise UserError(f"its {contestant.args.img_size} pixels are far more than NICE-GAN's {own}; name it "
                                "with --methods to include it")  # fmt: skip
            found.append(contestant)
        except UserError as error:
            print(f"{row} is left out: {error}", flush=True)
    if not found:
        raise UserError("none of the --methods can take part at this --img_size")
    return found
