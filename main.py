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

import os
import sys

from utils import UserError, at_once, run, shown

if __name__ == "__main__":  # before torch is imported, which takes seconds
    at_once("main.py")

# Read when torch is imported.  Large pages for large tensors: faulting in fresh 4 kB pages is a tenth
# of a step on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from pathlib import Path

import demo
import methods
from checkpoints.contents import saved_options
from layers import keep_freed_memory, use_definitions
from nicegan.command_line import (
    asks_help,
    build_parser,
    checkpoint_for,
    first_look,
    parse_args,
    too_large,
    translation_options,
)
from training import cost
from training.distributed import joined
from translation.export import export
from translation.files import translate_inputs

__all__ = ["build_parser", "main", "parse_args", "too_large"]


def options_and_checkpoint(argv: list[str]):
    """The options as a namespace, and the checkpoint (state, path) that they continue or translate with, or None."""
    found = None if asks_help(argv) else checkpoint_for(argv)
    if not found:
        return parse_args(argv), None
    saved, first = saved_options(found[0]), first_look(argv)
    if first.phase == "train" and "metadata" in found[0]:
        raise UserError(f"{shown(found[1])} is a model file, which translates alone: continue from a checkpoint")
    if first.phase == "export" or first.input:
        saved = translation_options(*found)
    elif first.phase == "test":  # its networks say the rest
        saved = {"method": saved["method"]}
    return parse_args(argv, saved), found


def main(argv: list[str] | None = None):
    args, found = options_and_checkpoint(sys.argv[1:] if argv is None else argv)
    use_definitions(args.plain)
    keep_freed_memory()
    method = methods.load(args.method)
    if args.phase == "info":
        cost.report(method, args)
        return
    root, results = Path(args.dataset_dir) / args.dataset, Path(args.result_dir) / args.dataset
    if args.phase == "train":
        cost.refuse_what_cannot_fit(method, args)
    with joined(args.device):
        trainer = method(args)
        if args.dataset == "demo":
            demo.ensure(root)
        if args.phase == "export":
            export(trainer, found)
            return
        if args.phase == "test":
            translate_inputs(trainer, found) if args.input else trainer.test(found)
            return
        if found:
            trainer.load(found)
            found = None  # it keeps the file mapped, even when a newer one has taken its name
        if not trainer.train():
            sys.exit(128 + trainer.stopped)
        if args.dataset == "demo":
            trainer.test()
            demo.report(results, root)


if __name__ == "__main__":
    run(main, "main.py")
