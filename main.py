"""NICE-GAN from the command line.

    python main.py --dataset cat2dog                  train on dataset/cat2dog/{trainA,trainB,testA,testB}
    python main.py --dataset cat2dog --resume True    continue exactly where it stopped
    python main.py --dataset cat2dog --phase test     translate testA -> fakeB, testB -> fakeA
    python main.py --phase info                       what these options cost: parameters, operations, memory
    python main.py @configs/demo.txt                  options from a file, here the built-in demo
"""

import argparse
import math
import os
import shlex
import sys
from pathlib import Path

# Read when torch is imported.  Large pages for large tensors: faulting in fresh 4 kB pages is a tenth
# of a step on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


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


def heads(text: str) -> tuple[int, ...]:
    """Comma-separated subset of 0 (CAM), 1 (local), 2 (global)."""
    try:
        chosen = tuple(sorted({int(h) for h in text.split(",")}))
    except ValueError:
        chosen = ()
    if not chosen or not set(chosen) <= {0, 1, 2}:
        raise argparse.ArgumentTypeError(f"{text!r} is no comma-separated list of 0, 1 and 2")
    return chosen


def name(text: str) -> str:
    """A data set's name: one folder below --dataset_dir and --result_dir, never a path out of them."""
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no folder name; the folders around it go to --dataset_dir")
    return text


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, without all the options before it."""
        hint = "; --help lists the options" if message.startswith("unrecognized") else ""
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")

    def convert_arg_line_to_args(self, line):
        """Option files: one option a line, # starts a comment."""
        return shlex.split(line, comments=True)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="main.py",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        fromfile_prefix_chars="@",
        allow_abbrev=False,
    )

    def group(title):
        add = parser.add_argument_group(title).add_argument

        def option(flag, kind, default, help, **kwargs):
            if kind is boolean:  # a bare --flag means true
                kwargs |= dict(nargs="?", const=True, metavar="BOOL")
            elif "choices" not in kwargs:
                kwargs.setdefault("metavar", getattr(kind, "__name__", "").upper())
            add(flag, type=kind, default=default, help=help, **kwargs)

        return option

    positive, natural = bounded(int, 1), bounded(int, 0)
    weight = bounded(float, 0)

    option = group("run")
    option("--phase", str, "train", "what to do", choices=("train", "test", "info"))
    option("--dataset", name, "cat2dog", "folder of --dataset_dir that holds trainA, trainB, testA, testB")
    option("--result_dir", str, "results", "where results/NAME is written")
    option("--resume", boolean, False, "continue from the newest valid checkpoint")
    option("--checkpoint", str, None, "continue or translate with this checkpoint file", metavar="FILE")
    option("--device", str, None, "cuda, cuda:1, mps or cpu; by default the best present")
    option("--seed", natural, 0, "of the initial weights and the order of pictures")
    option("--benchmark_flag", boolean, False, "let cuDNN time its algorithms (fixed sizes: faster)")
    option("--keep_size", boolean, False, "translate at each picture's own size instead of img_size (light models)")

    option = group("data")
    option("--dataset_dir", str, "dataset", "where the data sets are")
    option("--img_size", positive, 256, "pictures are trained as squares of this side, in pixels")
    option("--img_ch", positive, 3, "channels: 3 for colour, 1 for grey", choices=(1, 3))
    option("--batch_size", positive, 1, "pictures of each domain in a step, per process")
    option("--num_workers", natural, 2, "processes that read and decode pictures; 0: in the main one")
    option("--cache", boolean, False, "keep decoded pictures in memory, where they fit")
    option("--skip_bad_images", boolean, False, "leave unreadable pictures out instead of stopping")

    option = group("model")
    option("--light", boolean, True, "the paper's generator; false: the full one (its size depends on img_size)")
    option("--ch", positive, 64, "base channels")
    option("--n_res", natural, 6, "residual blocks of a generator; 4: the paper's NICE-GAN*")
    option("--n_dis", bounded(int, 6), 7, "layers of a discriminator, at least 6")
    option("--nice", boolean, True, "the discriminator's first layers are the encoder; false: independent encoders")
    option("--ra", boolean, True, "residual in the attention; false: attention alone")
    option("--heads", heads, (0, 1, 2), "classifiers that exist: 0 CAM, 1 local, 2 global")
    option("--shared_layers", int, 2, "layers of the discriminator that encode", choices=(1, 2, 3))
    option("--encoder_updates", str, "d", "the step that trains the encoder", choices=("d", "both", "g"))

    option = group("loss")
    option("--adv_weight", weight, 1.0, "weight of the adversarial terms")
    option("--cycle_weight", weight, 10.0, "weight of the cycle terms")
    option("--recon_weight", weight, 10.0, "weight of the reconstruction terms")

    option = group("optimisation")
    option("--iteration", positive, 100_000, "training steps; the paper's 100000, the released program's 300000")
    option("--lr", bounded(float, 0, above=True), 1e-4, "learning rate of both optimizers")
    option("--weight_decay", weight, 1e-4, "L2 penalty in the gradient")
    option("--decay_flag", boolean, True, "let the learning rate fall to 0 over the second half")
    option("--grad_accum", positive, 1, "micro-batches of batch_size pictures averaged into one step")
    option("--on_nan", str, "stop", "at a loss or gradient that is not finite", choices=("stop", "skip"))

    option = group("logging")
    option("--print_freq", positive, 1000, "steps between sample grids and latest checkpoints")
    option("--save_freq", positive, 100_000, "steps between numbered checkpoints")
    option("--log_freq", positive, 100, "steps between lines of log.jsonl")
    option("--keep", natural, 0, "keep only the last KEEP numbered checkpoints; 0: all", metavar="KEEP")

    option = group("scale")
    option("--amp", str, "none", "mixed precision", choices=("none", "bf16", "fp16"))
    option("--compile", boolean, False, "compile both halves of the step (slow start, faster steps on a GPU)")
    option("--checkpoint_blocks", boolean, False, "recompute the residual blocks instead of storing them")
    option("--together", boolean, None, "both directions at once, for more memory; unset: where it is faster")
    return parser


def as_argv(options: dict) -> list[str]:
    """What one would type for these options."""
    words = {k: ",".join(map(str, v)) if isinstance(v, (tuple, list)) else v for k, v in options.items()}
    return [f"--{k}={v}" for k, v in words.items() if v is not None]


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

    parser = build_parser()
    known = {action.dest for action in parser._actions}
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args([*as_argv({k: v for k, v in (saved or {}).items() if k in known}), *argv])
    if args.phase == "train" and args.checkpoint:
        args.resume = True

    silent = build_parser()  # a second look, without defaults, at what was really typed
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
    if args.img_size % 4:
        parser.error(f"--img_size {args.img_size} must be divisible by 4: the networks halve it twice")
    smallest = 3 * 2 ** (args.n_dis - 2)
    unknown = args.phase == "test" or (args.resume and saved is None)  # n_dis is in the checkpoint
    if args.img_size < smallest and not unknown:
        parser.error(
            f"--img_size {args.img_size} is too small for --n_dis {args.n_dis}, which needs {smallest}; "
            f"use --n_dis 6 (from 48 pixels) or a larger --img_size"
        )
    if not args.nice and args.encoder_updates != "d":
        parser.error("--nice false trains its encoders with the generators: leave --encoder_updates out")
    if args.amp == "fp16" and device.type != "cuda":
        parser.error(f"--amp fp16 needs a CUDA GPU; on {args.device} use bf16 or none")
    return args


def main(argv: list[str] | None = None):
    args = parse_args(argv)

    import checkpoints
    import NICE
    import utils

    utils.keep_freed_memory()
    if args.phase == "info":
        import info

        info.report(args)
        return
    root, results = Path(args.dataset_dir) / args.dataset, Path(args.result_dir) / args.dataset
    with utils.process_group(args.device):
        if args.dataset == "demo":
            import demo

            demo.ensure(root)
        found = None
        if args.phase == "train" and args.resume:
            found = checkpoints.newest_checkpoint(results, args.checkpoint)
            args = parse_args(argv, saved=checkpoints.saved_options(found[0]))
        nice = NICE.NICE(args)
        if args.phase == "test":
            nice.test()
            return
        if found:
            nice.load(found)
            del found  # it keeps the file mapped, even when a newer one has taken its name
        finished = nice.train()
        if finished and args.dataset == "demo":
            nice.test()
            demo.report(results, root)


if __name__ == "__main__":
    from utils import run

    run(main, "main.py")
