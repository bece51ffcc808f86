"""The command line of main.py: parse the options, check them, find the checkpoint that they name."""

import argparse
import os
import shlex
import sys
from pathlib import Path

import methods
from checkpoints.contents import architecture_of
from checkpoints.files import candidates, newest_checkpoint
from options import COMMON, Option, Parser, as_argv, expanded
from training.cuda_graphs import refusal
from training.distributed import own_device
from utils import UserError, brief, shown

FIRST = ("dataset", "result_dir", "resume", "checkpoint", "input")
TRANSLATING = ("test", "export")
MOST = 1000  # the largest value of an option of group "model", such as a number of layers


def translation_options(state: dict, path: Path) -> dict:
    """The options of a checkpoint that decide how it translates: its method, networks, and of one way, which."""
    method = methods.load(state["method"])
    found = {"method": state["method"], **architecture_of(state, path, method)}
    if len(method.directions) == 1 or "metadata" in state:
        found["direction"] = state.get("metadata", state.get("args", {})).get("direction")
    return found


def build_parser(method: str) -> Parser:
    """The parser of the run's options and those of a method, with that method's defaults."""
    chosen = methods.load(method)
    parser = Parser(
        prog="main.py",
        usage="main.py [@FILE] [options]",
        description=f"NICE-GAN, and the methods that it is compared with.  Method {method}: {chosen.__doc__.splitlines()[0]}",
        fromfile_prefix_chars="@",
        allow_abbrev=False,
    )
    parser.add([*run_options(), *COMMON[1:], *chosen.options], {**chosen.defaults, "method": method})
    return parser


def run_options() -> tuple[Option, ...]:
    """--phase, and --method with the names that are known."""
    return (
        COMMON[0],
        Option("run", "method", str, None, "the method; --method NAME --help shows its options", (*methods.METHODS,)),
    )


def first_look(argv: list[str]) -> argparse.Namespace:
    """The options that decide which method's options the others are."""
    parser = Parser(prog="main.py", fromfile_prefix_chars="@", allow_abbrev=False, add_help=False)
    parser.add([*run_options(), *(o for o in COMMON if o.name in FIRST)])
    return parser.parse_known_args(argv)[0]


def resume_command(argv: list[str]) -> str:
    """The call that continues what `argv` started: from its newest checkpoint, not from the one named then."""
    once = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    once.add_argument("--resume", nargs="?")
    once.add_argument("--checkpoint")
    words = expanded(argv)
    if not once.parse_known_args(words)[0].checkpoint:
        words = argv  # shorter, and no file says otherwise
    return shlex.join(["python", "main.py", *once.parse_known_args(words)[1], "--resume", "True"])


def place_of(args, given: tuple[str, ...]) -> str | None:
    """Part --dataset some/where/NAME into --dataset_dir and NAME; what is wrong with it, or None."""
    folder, args.dataset = os.path.split(args.dataset)
    if folder and "dataset_dir" in given and os.path.abspath(folder) != os.path.abspath(args.dataset_dir):
        return f"--dataset lies in {folder}, --dataset_dir is {args.dataset_dir}: leave out one of them"
    args.dataset_dir = folder or args.dataset_dir
    return None


def parse_args(argv: list[str] | None = None, saved: dict | None = None) -> argparse.Namespace:
    """The options as a namespace, checked; what is wrong ends in parser.error (status 2).

    saved: options of a checkpoint, which stand in for the defaults and are checked like typed ones.
    The namespace also has `given`, the names of the options on the command line, and `command`,
    the call that would continue this one.
    """
    argv = sys.argv[1:] if argv is None else argv
    saved = saved or {}
    method = first_look(argv).method or saved.get("method") or "nice"
    parser = build_parser(method)
    known = {action.dest for action in parser._actions}
    args = parser.parse_args([*as_argv({k: v for k, v in saved.items() if k in known}), *argv])
    if args.phase == "train" and args.checkpoint:
        args.resume = True

    silent = build_parser(method)  # a second look, without defaults, at what was really typed
    for action in silent._actions:
        action.default = argparse.SUPPRESS
    args.given = tuple(sorted(vars(silent.parse_args(argv))))
    args.command = resume_command(argv)

    complaint = _out_of_phase(args) or place_of(args, args.given) or _device_of(args)
    complaint = complaint or too_large(args, methods.load(method))
    if args.graphs and args.phase == "train" and not complaint:
        reason = refusal(args)
        complaint = reason and f"--graphs true {reason}"
    waits = args.phase in TRANSLATING or (args.resume is True and not saved)  # for a checkpoint to say what it is
    complaint = complaint or (None if waits else methods.load(method).check(args))
    if complaint:
        parser.error(complaint)
    return args


def _out_of_phase(args) -> str | None:
    """An option that another phase would ignore."""
    if args.input and args.phase != "test":
        return "--input is translated by --phase test: add that"
    if args.output and not args.input and args.phase != "export":
        return "--output goes with --input, or --phase export; --result_dir is where results/NAME is written"
    if args.phase != "export" and {"half", "format"} & set(args.given):
        return "--half and --format say how --phase export writes; --amp is mixed precision in training"
    if args.phase == "train" and "best" in args.given and not args.score_freq:
        return f"--best {shown(args.best)} needs scores: give --score_freq"
    return None


def _device_of(args) -> str | None:
    """Choose --device where none is given; what is wrong with it, or None."""
    import torch

    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        args.device = own_device(args.device)
        torch.empty(0, device=args.device)
    except UserError as error:
        return str(error)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return f"--device {args.device} cannot be used ({brief(error)}); try cpu"
    if args.amp == "fp16" and not args.device.startswith("cuda"):
        return f"--amp fp16 needs a CUDA GPU; on {args.device} use bf16 or none"
    return None


def too_large(args, method: type) -> str | None:
    """What no network of this method can be built of, or None; the method's own check knows more."""
    if args.img_size % method.size_multiple:
        return f"--img_size {args.img_size} must be divisible by {method.size_multiple}: the networks halve it"
    numbers = {o.name: getattr(args, o.name) for o in method.options if o.group == "model"}
    wrong = [f"--{k} {v} must be at most {MOST}" for k, v in numbers.items() if isinstance(v, int) and v > MOST]
    return wrong[0] if wrong else None


def checkpoint_for(argv: list[str]):
    """The checkpoint (state, path) that these options continue or translate with, or None."""
    first = first_look(argv)
    translating = first.phase in TRANSLATING
    if first.phase == "info" or not (translating or first.resume or first.checkpoint):
        return None
    results = Path(first.result_dir) / os.path.basename(first.dataset)
    optional = first.phase == "train" and first.resume == "auto" and not first.checkpoint
    if optional and not candidates(results):
        return None
    return newest_checkpoint(results, first.checkpoint, methods.recognise, to_translate=translating)


def asks_help(argv: list[str]) -> bool:
    return "--help" in argv or "-h" in argv
