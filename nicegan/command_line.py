"""The command line of main.py: parse the options, check them, find the checkpoint that they name."""

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch

import methods
from checkpoints.contents import architecture_of, is_network, learned_direction, newer_options, saved_options
from checkpoints.files import candidates, newest_checkpoint
from options import COMMON, Help, Option, Parser, as_argv, expanded
from training.cost import dry_run
from training.cuda_graphs import refusal
from training.distributed import own_device
from translation.export import SUFFIXES
from utils import UserError, brief, shown

FIRST = ("dataset", "result_dir", "resume", "checkpoint", "input", "init_from")  # parsed before the method is known
TRANSLATING = ("test", "export")
GROWTH = 40  # the most weights of networks to be built for each weight in their checkpoint
MOST = 1000  # the largest value of an option of group "model", such as a number of layers
METHOD = Option("run", "method", str, None, f"the method, one of {', '.join(methods.METHODS)}; --method NAME --help "
                "lists its options", (*methods.METHODS,), "NAME")  # fmt: skip


def translation_options(state: dict, path: Path) -> dict:
    """Options that a checkpoint fixes: its method and architecture, and its direction if it has only one."""
    method = methods.load(state["method"])
    found = {"method": state["method"], **architecture_of(state, path, method)}
    return found | {"direction": learned_direction(state, method)}


def build_parser(method: str) -> Parser:
    """The parser of the common options and those of a method, with that method's defaults."""
    chosen = methods.load(method)
    parser = Parser(
        prog="main.py",
        usage="main.py [@FILE] [options]",
        description=f"NICE-GAN and other methods of unpaired image-to-image translation.  Method {method}: "
        f"{chosen.__doc__.splitlines()[0]}  @FILE reads options from a file.  BOOL is true or false; an option "
        "without a value means true.",
        formatter_class=Help,
        fromfile_prefix_chars="@",
    )
    parser.add([COMMON[0], METHOD, *COMMON[1:], *chosen.options], {**chosen.defaults, "method": method})
    return parser


def first_look(argv: list[str]) -> argparse.Namespace:
    """The phase, the method and the options FIRST: they decide which other options exist."""
    parser = Parser(prog="main.py", fromfile_prefix_chars="@", add_help=False)
    parser.add([COMMON[0], METHOD, *(o for o in COMMON if o.name in FIRST)])
    return parser.parse_known_args(argv)[0]


def resume_command(argv: list[str]) -> str:
    """The command that continues the run of `argv` from its newest checkpoint, not from --checkpoint."""
    once = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    once.add_argument("--resume", nargs="?")
    once.add_argument("--checkpoint")
    words = expanded(argv)
    if not once.parse_known_args(words)[0].checkpoint:
        words = argv  # @FILE may stay: it names no checkpoint
    return shlex.join(["python", "main.py", *once.parse_known_args(words)[1], "--resume", "True"])


def parse_args(argv: list[str] | None = None, saved: dict | None = None) -> argparse.Namespace:
    """Parse and check the options; a mistake ends in parser.error (status 2).

    saved: options of a checkpoint; they replace the defaults and are checked like typed ones.
    The namespace also has `given`, the names of the options on the command line, and `command`,
    the command that continues this run.
    """
    argv = sys.argv[1:] if argv is None else argv
    saved = saved or {}
    method = first_look(argv).method or saved.get("method") or "nice"
    parser = build_parser(method)
    known = {action.dest for action in parser._actions}
    args = parser.parse_args([*as_argv({k: v for k, v in saved.items() if k in known}), *argv])
    if args.phase == "train" and args.checkpoint:
        args.resume = True

    silent = build_parser(method)  # without defaults: it returns the typed options only
    for action in silent._actions:
        action.default = argparse.SUPPRESS
    args.given = tuple(sorted(vars(silent.parse_args(argv))))
    args.command = resume_command(argv)
    if args.epochs and _place(argv, "iteration") > _place(argv, "epochs"):
        args.epochs = None  # the later of the two counts

    complaint = _out_of_phase(args) or _format_of_output(args) or _split_dataset(args) or _choose_device(args)
    complaint = complaint or too_large(args, methods.load(method)) or methods.load(method).check_pictures(args)
    if args.graphs and args.phase == "train" and not complaint:
        reason = refusal(args)
        complaint = reason and f"--graphs true {reason}"
    waits = args.phase in TRANSLATING or (args.resume is True and not saved)  # the checkpoint fixes the options
    complaint = complaint or (None if waits else methods.load(method).check(args))
    if complaint:
        parser.error(complaint)
    return args


def _place(argv: list[str], name: str) -> int:
    """The place of the last --name among the words of a command line; -1: it is not there."""
    return max((i for i, word in enumerate(expanded(argv)) if word.partition("=")[0] == f"--{name}"), default=-1)


def _out_of_phase(args) -> str | None:
    """The complaint about an option that this phase would ignore, or None."""
    if args.input and args.phase != "test":
        return "--input is translated by --phase test: add that"
    if args.output and not args.input and args.phase != "export":
        return "--output goes with --input or --phase export; --result_dir is the folder for other results"
    if args.phase != "export" and {"half", "format", "ort", "opset"} & set(args.given):
        return "--half, --format, --opset and --ort are options of --phase export; --amp is mixed precision in training"
    if args.init_from and (args.phase != "train" or args.checkpoint):
        return "--init_from begins a new training: leave --phase and --checkpoint out, or --init_from"
    if args.phase == "train" and "best" in args.given and not args.score_freq:
        return f"--best {shown(args.best)} needs scores: give --score_freq"
    return None


def _format_of_output(args) -> str | None:
    """With --phase export: take the format from the suffix of --output where --format is not given; a complaint."""
    formats = {suffix: name for name, suffix in SUFFIXES.items() if suffix}
    wanted = formats.get(os.path.splitext(args.output or "")[1].lower())
    if args.phase == "export" and wanted is not None and not os.path.isdir(args.output):
        if "format" in args.given and args.format != wanted:
            named, suffix = f"--output {shown(args.output)} names a file of --format {wanted}", SUFFIXES[args.format]
            return f"{named}, not {args.format}: end it in {suffix}"
        args.format = wanted
    args.half = args.half or args.format == "html"
    return None


def _split_dataset(args) -> str | None:
    """Split --dataset some/where/NAME into --dataset_dir and NAME; a complaint, or None."""
    folder, args.dataset = os.path.split(args.dataset)
    if folder and "dataset_dir" in args.given and os.path.abspath(folder) != os.path.abspath(args.dataset_dir):
        return f"--dataset lies in {folder}, --dataset_dir is {args.dataset_dir}: leave out one of them"
    args.dataset_dir = folder or args.dataset_dir
    return None


def _choose_device(args) -> str | None:
    """Choose a default for --device, and check it; a complaint, or None."""
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
    """The complaint about a size that no network of this method accepts, or None; method.check has more checks."""
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


def refuse_what_the_file_lacks(state: dict, path: Path):
    """UserError: a checkpoint's options ask for networks far larger than the weights that it holds.

    A model file holds parts of networks, a fourteenth of NICE-GAN's; GROWTH is three times that.  A file of an
    author's program has no options: what its shapes do not say has the defaults.
    """
    if "args" not in state:
        return
    options = {k: v for k, v in translation_options(state, path).items() if v is not None}
    args = parse_args(["--phase=test", "--device=cpu"], options)
    networks = dry_run(methods.load(args.method), args).networks()
    wanted = sum(x.numel() for net in networks.values() for x in net.parameters())
    held = sum(x.numel() for name in filter(is_network, state) for x in state[name].values())
    if wanted > GROWTH * held + (4 << 20):
        raise UserError(f"{shown(path)} is damaged or does not fit: its options ask for {wanted:,} weights, and it "
                        f"holds {held:,}; name another with --checkpoint")  # fmt: skip


def initial_options(argv: list[str]) -> dict:
    """The method and the options of its networks that --init_from fixes; {}: a run from random weights."""
    first = first_look(argv)
    if first.phase != "train" or not first.init_from or first.checkpoint or {"--help", "-h"} & {*argv}:
        return {}
    found = newest_checkpoint(Path(first.init_from), first.init_from, methods.recognise, to_translate=True)
    refuse_what_the_file_lacks(*found)
    if first.method not in (None, found[0]["method"]):
        raise UserError(f"--init_from {shown(found[1])} is a model of {found[0]['method']}: leave --method out")
    return {k: v for k, v in translation_options(*found).items() if k != "direction"}


def options_and_checkpoint(argv: list[str]):
    """The checked options, and the checkpoint (state, path) that they continue or translate with, or None."""
    found = None if {"--help", "-h"} & {*argv} else checkpoint_for(argv)
    if not found:
        return parse_args(argv, initial_options(argv)), None
    first, written = first_look(argv), found[0].get("args", {}).get("method")
    if first.method and written and first.method != written:  # before its options are compared, which follow from it
        raise UserError(f"{shown(found[1])} is of --method {written}, not {first.method}: leave --method out")
    refuse_what_the_file_lacks(*found)
    saved = saved_options(found[0])
    if first.phase == "train" and "metadata" in found[0]:
        raise UserError(f"{shown(found[1])} is a model file, which can only translate: continue from a checkpoint")
    if first.phase == "export" or first.input:
        saved = translation_options(*found)
    elif first.phase == "test":  # Pipeline.load reads the architecture
        method = saved["method"]
        saved = {"method": method, "direction": learned_direction(found[0], methods.load(method))}
    args = parse_args(argv, saved)
    if kept := newer_options(found[0], build_parser(args.method), args):
        print(f"{shown(found[1])} was written before these options, and keeps what it was trained with: {kept}",
              file=sys.stderr)  # fmt: skip
    return args, found
