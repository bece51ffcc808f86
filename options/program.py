"""The command line of main.py as far as it needs no torch, whose import takes seconds."""

import argparse
import os
import shlex
import sys

from options.common import COMMON, FORMATS
from options.files import expanded
from options.methods import DECLARED
from options.option import Option
from options.parser import Help, Parser, as_argv
from utils import shown

# parsed before the method is known
FIRST = ("dataset", "dataset_dir", "result_dir", "resume", "checkpoint", "input", "init_from")
TRANSLATING = ("test", "export")
METHOD = Option("run", "method", str, None, f"the method, one of {', '.join(DECLARED)}; --method NAME --help "
                "lists its options", (*DECLARED,), "NAME")  # fmt: skip


def build_parser(method: str) -> Parser:
    """The parser of the common options and those of a method, with that method's defaults."""
    chosen = DECLARED[method]
    parser = Parser(
        prog="main.py",
        usage="main.py [@FILE] [options]",
        description=f"NICE-GAN and other methods of unpaired image-to-image translation.  Method {method}: "
        f"{chosen.summary}  @FILE reads options from a file.  BOOL is true or false; an option "
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


def asks_for_help(argv: list[str]) -> bool:
    return bool({"--help", "-h"} & {*argv})


def refuse_mistakes(argv: list[str]) -> argparse.Namespace:
    """Print --help, or the mistake in these options, and exit; else return them as far as torch is not needed.

    Where a checkpoint fixes the method, the options of all methods are taken, with any value.
    """
    first = first_look(argv)
    named = first.phase in TRANSLATING or first.resume or first.checkpoint or first.init_from
    if asks_for_help(argv) or first.phase == "info" or not named:  # no checkpoint, whose options replace the defaults
        args = parsed(argv)
        if args.phase == "train" and "epochs" in args.given and args.epochs is None:
            print(f"--iteration {args.iteration} comes after --epochs, and counts; --epochs last would count",
                  file=sys.stderr)  # fmt: skip
        return args
    args = (build_parser(first.method) if first.method else _parser_of_all()).parse_args(argv)
    args.given = ()
    _split_dataset(args)
    return args


def _parser_of_all() -> Parser:
    """The parser of the common options, and of the names of all methods' options."""
    parser = Parser(prog="main.py", fromfile_prefix_chars="@")
    parser.add([COMMON[0], METHOD, *COMMON[1:]])
    names = {option.name for declared in DECLARED.values() for option in declared.options}
    for name in sorted(names):
        parser.add_argument(f"--{name}", nargs="?")
    return parser


def main_py() -> str:
    """main.py as it was typed, so that printed commands work in the folder where they are printed."""
    typed = sys.argv[0] if sys.argv else ""
    return typed if os.path.basename(typed) == "main.py" else "main.py"


def resume_command(argv: list[str]) -> str:
    """The command that continues the run of `argv` from its newest checkpoint, not from --checkpoint."""
    once = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    once.add_argument("--resume", nargs="?")
    once.add_argument("--checkpoint")
    words = expanded(argv)
    if not once.parse_known_args(words)[0].checkpoint:
        words = argv  # @FILE may stay: it names no checkpoint
    return shlex.join(["python", main_py(), *once.parse_known_args(words)[1], "--resume", "True"])


def parsed(argv: list[str], saved: dict | None = None) -> argparse.Namespace:
    """Parse and check the options; a mistake ends in parser.error (status 2).

    saved: options of a checkpoint; they replace the defaults and are checked like typed ones.
    The namespace also has `given`, the names of the options on the command line; `command`, the command
    that continues this run; and `run`, the name of its folder in --result_dir.
    """
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
    if complaint := _out_of_phase(args) or _format_of_output(args) or _split_dataset(args):
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
    if args.phase != "test" and (args.longest or args.shortest):
        return "--longest and --shortest go with --phase test --input"
    if args.phase != "export" and {"half", "format", "ort", "opset"} & set(args.given):
        return "--half, --format, --opset and --ort are options of --phase export; --amp is mixed precision"
    if args.deep and args.phase != "test":
        return "--deep is an option of --phase test: leave it out, pictures of any depth are read"
    if args.diagram and args.phase != "info":
        return "--diagram draws the networks of --phase info: add that"
    if args.diagram and os.path.splitext(args.diagram)[1].lower() != ".svg":
        return f"--diagram {shown(args.diagram)} is drawn as SVG: end it in .svg"
    if args.phase != "train" and "shrink_jpegs" in args.given:
        return "--shrink_jpegs is an option of training: give --max_pixels a larger value"
    if args.init_from and (args.phase != "train" or args.checkpoint):
        return "--init_from begins a new training: leave --phase and --checkpoint out, or --init_from"
    if args.phase == "train" and "best" in args.given and not args.score_freq:
        return f"--best {shown(args.best)} needs scores: give --score_freq"
    return None


def _format_of_output(args) -> str | None:
    """With --phase export: take the format from the suffix of --output where --format is not given; a complaint."""
    formats = {suffix: name for name, suffix in FORMATS.items() if suffix}
    wanted = formats.get(os.path.splitext(args.output or "")[1].lower())
    if args.phase == "export" and wanted is not None and not os.path.isdir(args.output):
        if "format" in args.given and args.format != wanted:
            named, suffix = f"--output {shown(args.output)} names a file of --format {wanted}", FORMATS[args.format]
            return f"{named}, not {args.format}: end it in {suffix}"
        args.format = wanted
    args.half = args.half or args.format == "html"
    return None


def _split_dataset(args) -> str | None:
    """Split --dataset some/where/NAME into --dataset_dir and NAME; a complaint, or None."""
    folder, args.dataset = os.path.split(args.dataset)
    if folder and "dataset_dir" in args.given and os.path.abspath(folder) != os.path.abspath(args.dataset_dir):
        return f"--dataset lies in {folder}, --dataset_dir is {args.dataset_dir}: leave out one of them"
    args.dataset_dir, args.run = folder or args.dataset_dir, args.dataset
    return None


