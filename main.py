"""NICE-GAN, and the methods that it is compared with, from the command line.

    python main.py --dataset cat2dog                  train on dataset/cat2dog/{trainA,trainB,testA,testB}
    python main.py --dataset cat2dog --resume True    continue exactly where it stopped
    python main.py --dataset cat2dog --phase test     translate testA -> fakeB, testB -> fakeA
    python main.py --method cyclegan --help           another method, and its options
    python main.py --dataset cat2dog --phase test --input cat.jpg --direction AtoB --output dogs     any picture
    python main.py --dataset cat2dog --phase export --direction AtoB --format onnx    a model file of its own
    python main.py --phase info                       what these options cost: parameters, operations, memory
    python main.py @configs/demo.txt                  options from a file, here the built-in demo
"""

import stopping

if __name__ == "__main__":  # before all that takes long
    stopping.at_once("main.py")

import argparse
import os
import shlex
import sys
from pathlib import Path

import options
from options import Option, Parser, as_argv

# Read when torch is imported.  Large pages for large tensors: faulting in fresh 4 kB pages is a tenth
# of a step on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def build_parser(method: str) -> Parser:
    """The parser of the run's options and those of a method, with that method's defaults."""
    import methods  # not above: torch would be read before the variable that it is to see

    chosen = methods.load(method)
    parser = Parser(
        prog="main.py",
        usage="main.py [@FILE] [options]",
        description=f"{__doc__.splitlines()[0]}  Method {method}: {chosen.__doc__.splitlines()[0]}",
        fromfile_prefix_chars="@",
        allow_abbrev=False,
    )
    parser.add([*run_options(), *options.COMMON[1:], *chosen.options], {**chosen.defaults, "method": method})
    return parser


def run_options() -> tuple[Option, ...]:
    """--phase, and --method with the names that are known."""
    import methods

    return (
        options.COMMON[0],
        Option("run", "method", str, None, "the method; --method NAME --help shows its options", (*methods.METHODS,)),
    )


def first_look(argv: list[str]) -> argparse.Namespace:
    """The options that decide which method's options the others are."""
    parser = Parser(prog="main.py", fromfile_prefix_chars="@", allow_abbrev=False, add_help=False)
    parser.add([*run_options(), *(o for o in options.COMMON if o.name in FIRST)])
    return parser.parse_known_args(argv)[0]


FIRST = ("dataset", "result_dir", "resume", "checkpoint", "input")
TRANSLATING = ("test", "export")
MOST = 1000  # of what decides the networks, but channels: layers and the like


def resume_command(argv: list[str]) -> str:
    """The call that continues what `argv` started: from its newest checkpoint, not from the one named then."""
    once = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    once.add_argument("--resume", nargs="?")
    once.add_argument("--checkpoint")
    words = options.expanded(argv)
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
    import graphs  # not above: torch would be read before the variable that it is to see
    import methods

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
        reason = graphs.refusal(args)
        complaint = reason and f"--graphs true {reason}"
    waits = args.phase in TRANSLATING or (args.resume is True and not saved)  # for a checkpoint to say what it is
    complaint = complaint or (None if waits else methods.load(method).check(args))
    if complaint:
        parser.error(complaint)
    return args


def _out_of_phase(args) -> str | None:
    """An option that another phase would ignore."""
    import utils

    if args.input and args.phase != "test":
        return "--input is translated by --phase test: add that"
    if args.output and not args.input and args.phase != "export":
        return "--output goes with --input, or --phase export; --result_dir is where results/NAME is written"
    if args.phase != "export" and {"half", "format"} & set(args.given):
        return "--half and --format say how --phase export writes; --amp is mixed precision in training"
    if args.phase == "train" and "best" in args.given and not args.score_freq:
        return f"--best {utils.shown(args.best)} needs scores: give --score_freq"
    return None


def _device_of(args) -> str | None:
    """Choose --device where none is given; what is wrong with it, or None."""
    import torch

    import ranks
    import utils

    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        args.device = ranks.own_device(args.device)
        torch.empty(0, device=args.device)
    except utils.UserError as error:
        return str(error)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return f"--device {args.device} cannot be used ({utils.brief(error)}); try cpu"
    if args.amp == "fp16" and not args.device.startswith("cuda"):
        return f"--amp fp16 needs a CUDA GPU; on {args.device} use bf16 or none"
    return None


def too_large(args, method: type) -> str | None:
    """What no network of this method can be built of, or None; the method's own check knows more."""
    if args.img_size % method.multiple:
        return f"--img_size {args.img_size} must be divisible by {method.multiple}: the networks halve it"
    numbers = {o.name: getattr(args, o.name) for o in method.options if o.group == "model"}
    wrong = [f"--{k} {v} must be at most {MOST}" for k, v in numbers.items() if isinstance(v, int) and v > MOST]
    return wrong[0] if wrong else None


def main(argv: list[str] | None = None):
    argv = sys.argv[1:] if argv is None else argv
    from utils import UserError, shown

    found = None if asks_help(argv) else checkpoint_for(argv)
    saved = None
    if found:
        import checkpoints

        saved, first = checkpoints.saved_options(found[0]), first_look(argv)
        if first.phase == "train" and "metadata" in found[0]:
            raise UserError(f"{shown(found[1])} is a model file, which translates alone: continue from a checkpoint")
        if first.phase == "export" or first.input:
            saved = checkpoints.to_translate_with(*found)
        elif first.phase == "test":  # its networks say the rest
            saved = {"method": saved["method"]}
    args = parse_args(argv, saved)

    import info
    import inputs
    import layers
    import methods
    import ranks

    layers.plain = args.plain
    layers.keep_freed_memory()
    if args.phase == "info":
        info.report(args)
        return
    root, results = Path(args.dataset_dir) / args.dataset, Path(args.result_dir) / args.dataset
    if args.phase == "train":
        info.refuse_what_cannot_fit(args)
    with ranks.joined(args.device):
        trainer = methods.create(args)
        if args.dataset == "demo":
            import demo

            demo.ensure(root)
        if args.phase == "export":
            import export

            export.export(trainer, found)
            return
        if args.phase == "test":
            inputs.translate_all(trainer, found) if args.input else trainer.test(found)
            return
        if found:
            trainer.load(found)
            del found  # it keeps the file mapped, even when a newer one has taken its name
        if not trainer.train():
            sys.exit(128 + trainer.stopped)
        if args.dataset == "demo":
            trainer.test()
            demo.report(results, root)


def checkpoint_for(argv: list[str]):
    """The checkpoint (state, path) that these options continue or translate with, or None."""
    first = first_look(argv)
    translating = first.phase in TRANSLATING
    if first.phase == "info" or not (translating or first.resume or first.checkpoint):
        return None
    import checkpoints

    results = Path(first.result_dir) / os.path.basename(first.dataset)
    optional = first.phase == "train" and first.resume == "auto" and not first.checkpoint
    if optional and not checkpoints.candidates(results):
        return None
    return checkpoints.newest_checkpoint(results, first.checkpoint, to_translate=translating)


def asks_help(argv: list[str]) -> bool:
    return "--help" in argv or "-h" in argv


if __name__ == "__main__":
    from utils import run

    run(main, "main.py")
