"""NICE-GAN, and the methods that it is compared with, from the command line.

    python main.py --dataset cat2dog                  train on dataset/cat2dog/{trainA,trainB,testA,testB}
    python main.py --dataset cat2dog --resume True    continue exactly where it stopped
    python main.py --dataset cat2dog --phase test     translate testA -> fakeB, testB -> fakeA
    python main.py --method cyclegan --help           another method, and its options
    python main.py --phase info                       what these options cost: parameters, operations, memory
    python main.py @configs/demo.txt                  options from a file, here the built-in demo
"""

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


FIRST = ("dataset", "result_dir", "resume", "checkpoint")


def resume_command(argv: list[str]) -> str:
    """The call that continues what `argv` started: from its newest checkpoint, not from the one named then."""
    once = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    once.add_argument("--resume", nargs="?")
    once.add_argument("--checkpoint")
    return shlex.join(["python", "main.py", *once.parse_known_args(argv)[1], "--resume", "True"])


def parse_args(argv: list[str] | None = None, saved: dict | None = None) -> argparse.Namespace:
    """The options as a namespace, checked; what is wrong ends in parser.error (status 2).

    saved: options of a checkpoint, which stand in for the defaults and are checked like typed ones.
    The namespace also has `given`, the names of the options on the command line, and `command`,
    the call that would continue this one.
    """
    import torch  # not above, where it would be read before the variable that it is to see

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

    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(args.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            parser.error(f"--device {args.device}: this machine has {torch.cuda.device_count()} CUDA GPUs; try cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        parser.error(f"--device {args.device}: there is no such device here; try cpu")
    if args.amp == "fp16" and device.type != "cuda":
        parser.error(f"--amp fp16 needs a CUDA GPU; on {args.device} use bf16 or none")
    multiple = methods.load(method).multiple
    if args.img_size % multiple:
        parser.error(f"--img_size {args.img_size} must be divisible by {multiple}: the networks halve it")
    waits = args.phase == "test" or (args.resume and not saved)  # for a checkpoint to say what it is
    complaint = None if waits else methods.load(method).check(args)
    if complaint:
        parser.error(complaint)
    return args


def main(argv: list[str] | None = None):
    argv = sys.argv[1:] if argv is None else argv
    first, found, saved = first_look(argv), None, None
    if first.phase != "info" and (first.phase == "test" or first.resume or first.checkpoint) and not asks_help(argv):
        import checkpoints

        results = Path(first.result_dir) / first.dataset
        found = checkpoints.newest_checkpoint(results, first.checkpoint, to_translate=first.phase == "test")
        saved = checkpoints.saved_options(found[0])
        if first.phase == "test":  # its networks say the rest
            saved = {"method": saved["method"]}
    args = parse_args(argv, saved)

    import layers
    import methods
    import utils

    layers.plain = args.plain
    layers.keep_freed_memory()
    if args.phase == "info":
        import info

        info.report(args)
        return
    root, results = Path(args.dataset_dir) / args.dataset, Path(args.result_dir) / args.dataset
    with utils.process_group(args.device):
        if args.dataset == "demo":
            import demo

            demo.ensure(root)
        trainer = methods.create(args)
        if args.phase == "test":
            trainer.test(found)
            return
        if found:
            trainer.load(found)
            del found  # it keeps the file mapped, even when a newer one has taken its name
        finished = trainer.train()
        if finished and args.dataset == "demo":
            trainer.test()
            demo.report(results, root)


def asks_help(argv: list[str]) -> bool:
    return "--help" in argv or "-h" in argv


if __name__ == "__main__":
    from utils import run

    run(main, "main.py")
