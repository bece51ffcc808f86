"""NICE-GAN, and the methods that it is compared with, from the command line.

    python main.py --dataset cat2dog                  train on dataset/cat2dog/{trainA,trainB,testA,testB}
    python main.py --dataset cat2dog --resume True    continue exactly where it stopped
    python main.py --dataset cat2dog --phase test     translate testA -> fakeB, testB -> fakeA
    python main.py --method cyclegan --help           another method, and its options
    python main.py --dataset cat2dog --phase test --input cat.jpg --direction AtoB --output dogs     any picture
    python main.py --dataset cat2dog --phase export --direction AtoB --format onnx    a stand-alone model file
    python main.py --phase info                       the cost of these options: parameters, operations, memory
    python main.py @configs/demo.txt                  options from a file, here the built-in demo
"""

import os
import sys
from pathlib import Path

from options.paths import need_checkpoint, need_folder, need_input
from options.program import TRANSLATING, refuse_mistakes
from utils import at_once, run


def refuse_at_once(argv: list[str]):
    """Answer --help, a mistake in an option and a missing folder; return if only torch can tell more."""
    args = refuse_mistakes(argv)
    named = args.checkpoint or args.init_from
    if named not in (None, "best", "latest"):
        need_checkpoint(Path(named))
    if args.phase == "train" and args.dataset != "demo":
        from images.data_sets import root_of  # here: --help needs no pictures

        for folder in ("trainA", "trainB"):
            need_folder(root_of(args, "trainA", "trainB") / folder)
    elif args.phase == "test" and args.input:
        need_input(args.input)


if __name__ == "__main__":  # before torch is imported, which takes seconds
    at_once("main.py", refuse_at_once)

# torch reads this when it is imported.  Large pages for large tensors: faulting in fresh 4 kB pages
# takes a tenth of a step on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# OpenMP reads these when torch is imported.  A thread waits at thousands of barriers a step: it spins briefly, then
# yields its core, which another process may need (docs/performance.md).
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ |= {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "1"}

import torch

import demo
import methods
from layers import keep_freed_memory, use_definitions
from nicegan.command_line import build_parser, options_and_checkpoint, parse_args, too_large
from options import telling
from training import budget, cost, diagram
from training.distributed import process_group
from training.initial_weights import start_from
from training.threads import threads_for
from translation.export import export
from translation.files import translate_inputs

__all__ = ["build_parser", "main", "parse_args", "too_large"]


def main(argv: list[str] | None = None):
    args, found = options_and_checkpoint(sys.argv[1:] if argv is None else argv)
    use_definitions(args.plain)
    keep_freed_memory()
    method = methods.load(args.method)
    if args.phase == "info":
        cost.report(method, args)
        if args.diagram:
            diagram.write(method, args)
        return
    root = Path(args.dataset_dir) / args.dataset
    if args.phase == "train":
        cost.refuse_what_cannot_fit(method, args)
        torch.set_num_threads(threads_for(args))
    with process_group(args.device):
        if args.dataset == "demo":
            demo.ensure(root)
        if args.phase == "train" and args.epochs:
            budget.set_iteration(method, args)
        with telling("building the networks", when=args.ch >= 32):
            trainer = method(args, empty=args.phase in TRANSLATING)
        if args.phase == "export":
            export(trainer, found)
            return
        if args.phase == "test":
            translate_inputs(trainer, found) if args.input else trainer.test(found)
            return
        if found:
            trainer.load(found)
            found = None  # it keeps the checkpoint file mapped
        elif args.init_from:
            start_from(trainer)
        if not trainer.train():
            sys.exit(128 + trainer.stopped)
        if args.dataset == "demo":
            trainer.test(whole=True)  # as its true counterparts are
            demo.report(trainer.results, root)


if __name__ == "__main__":
    run(main, "main.py")
