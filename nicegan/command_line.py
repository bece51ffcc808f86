"""The command line of main.py: parse the options, check them, find the checkpoint that they name."""

import argparse
import os
import sys
from pathlib import Path

import torch

import methods
from checkpoints.contents import (
    architecture_of,
    holds_only_weights,
    is_network,
    learned_direction,
    newer_options,
    saved_options,
)
from checkpoints.files import candidates, newest_checkpoint
from options import another
from options.program import TRANSLATING, asks_for_help, build_parser, first_look, parsed
from training.cuda_graphs import refusal
from training.distributed import own_device
from training.precision import automatic, processor_flags
from training.run_record import run_of_these_pictures
from utils import UserError, brief, fail, process_rank, shown

GROWTH = 40  # the most weights of networks to be built for each weight in their checkpoint
MOST = 1000  # the largest value of an option of group "model", such as a number of layers


def translation_options(state: dict, path: Path) -> dict:
    """Options that a checkpoint fixes: its method and architecture, and its direction if it has only one."""
    method = methods.load(state["method"])
    found = {"method": state["method"], **architecture_of(state, path, method)}
    return found | {"direction": learned_direction(state, method)}


def parse_args(argv: list[str] | None = None, saved: dict | None = None) -> argparse.Namespace:
    """Parse and check the options, as options.program.parsed does; then what needs the method and the device."""
    args = parsed(sys.argv[1:] if argv is None else argv, saved)
    method = methods.load(args.method)
    complaint = _choose_device(args) or _choose_precision(args) or too_large(args, method)
    complaint = complaint or method.check_pictures(args)
    if args.graphs and args.phase == "train" and not complaint:
        reason = refusal(args)
        complaint = reason and f"--graphs true {reason}"
    waits = args.phase in TRANSLATING or (args.resume is True and not saved)  # the checkpoint fixes the options
    complaint = complaint or (None if waits else method.check(args))
    if complaint:
        fail("main.py", complaint)
    return args


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
    return None


def _choose_precision(args) -> str | None:
    """Choose what --amp auto stands for, and check it; a complaint, or None."""
    if args.amp == "fp16" and not args.device.startswith("cuda"):
        return f"--amp fp16 needs a CUDA GPU; on {args.device} use bf16 or none"
    if args.amp == "auto":
        args.amp, why = automatic(args, processor_flags())
        if process_rank() == 0:
            print(f"--amp auto is {args.amp}: {why}", file=sys.stderr)
    return None


def too_large(args, method: type) -> str | None:
    """The complaint about a size that no network of this method accepts, or None; method.check has more checks."""
    if args.img_size % method.size_multiple:
        return f"--img_size {args.img_size} must be divisible by {method.size_multiple}: the networks halve it"
    numbers = {o.name: getattr(args, o.name) for o in method.options if o.group == "model"}
    wrong = [f"--{k} {v} must be at most {MOST}" for k, v in numbers.items() if isinstance(v, int) and v > MOST]
    return wrong[0] if wrong else None


def checkpoint_for(argv: list[str]):
    """The checkpoint (state, path) that these options continue or translate with, or None; the name of its run.

    The run's name is that of its folder in --result_dir: the data set's, or an earlier one of a renamed data set.
    """
    first = first_look(argv)
    translating, run = first.phase in TRANSLATING, os.path.basename(first.dataset)
    if first.phase == "info" or not (translating or first.resume or first.checkpoint):
        return None, run
    place, optional = Path(first.result_dir), first.phase == "train" and first.resume == "auto"
    if not first.checkpoint and not candidates(place / run):
        data = Path(first.dataset if os.path.dirname(first.dataset) else os.path.join(first.dataset_dir, run))
        renamed = run_of_these_pictures(place, data, first.method, only_renamed=optional)
        if optional and not renamed:
            return None, run
        run = renamed.name if renamed else run
        if renamed and process_rank() == 0:
            print(f"{shown(data)} holds the pictures of the run in {shown(renamed)}: that is used", file=sys.stderr)
    found = newest_checkpoint(place / run, first.checkpoint, methods.recogniser(first.method), to_translate=translating)
    say_whose(*found, first.method)
    return found, run


def say_whose(state: dict, path: Path, method: str | None):
    """Say what a lone generator was taken for, where neither its keys nor its name tell CycleGAN's from GcGAN's."""
    lone = state["method"] == "cyclegan" and [*filter(is_network, state)] == ["G_A"] and "args" not in state
    if lone and method is None and path.is_file() and not path.stem.endswith(("net_G", "net_G_A")):
        print(f"{shown(path)} is one generator, taken for CycleGAN's of AtoB; if it is GcGAN's, add --method gcgan",
              file=sys.stderr)  # fmt: skip


def refuse_what_the_file_lacks(state: dict, path: Path):
    """UserError: a checkpoint's options ask for networks far larger than the weights that it holds.

    A model file holds parts of networks, a fourteenth of NICE-GAN's; GROWTH is three times that.  A file of an
    author's program has no options: what its shapes do not say has the defaults.
    """
    if "args" not in state:
        return
    options = {k: v for k, v in translation_options(state, path).items() if v is not None}
    args = parse_args(["--phase=test", "--device=cpu"], options)
    networks = methods.create(args, empty=True).networks()
    wanted = sum(x.numel() for net in networks.values() for x in net.parameters())
    held = sum(x.numel() for name in filter(is_network, state) for x in state[name].values())
    if wanted > GROWTH * held + (4 << 20):
        raise UserError(f"{shown(path)} does not fit: its options ask for {wanted:,} weights, and it "
                        f"holds {held:,}; {another()}")  # fmt: skip
    for name in [name for name in networks if name in state]:
        own = networks[name].state_dict()
        for key, value in state[name].items():
            if key in own and own[key].shape != value.shape:
                raise UserError(f"{shown(path)} does not fit: {name}: {shown(key)} is {tuple(value.shape)}, its "
                                f"options ask for {tuple(own[key].shape)}; {another()}")  # fmt: skip


def initial_options(argv: list[str]) -> dict:
    """The method and the options of its networks that --init_from fixes; {}: a run from random weights."""
    first = first_look(argv)
    if first.phase != "train" or not first.init_from or first.checkpoint or asks_for_help(argv):
        return {}
    recognise = methods.recogniser(first.method)
    found = newest_checkpoint(Path(first.init_from), first.init_from, recognise, to_translate=True)
    say_whose(*found, first.method)
    refuse_what_the_file_lacks(*found)
    if first.method not in (None, found[0]["method"]):
        raise UserError(f"--init_from {shown(found[1])} is a model of {found[0]['method']}: leave --method out")
    return {k: v for k, v in translation_options(*found).items() if k != "direction"}


def options_and_checkpoint(argv: list[str]):
    """The checked options, and the checkpoint (state, path) that they continue or translate with, or None."""
    found, run = (None, None) if asks_for_help(argv) else checkpoint_for(argv)
    if not found:
        return parse_args(argv, initial_options(argv)), None
    first, written = first_look(argv), found[0].get("args", {}).get("method")
    if first.method and written and first.method != written:  # before its options are compared, which follow from it
        raise UserError(f"{shown(found[1])} is of --method {written}, not {first.method}: leave --method out")
    if first.phase not in TRANSLATING:  # those build networks without values first
        refuse_what_the_file_lacks(*found)
    saved = saved_options(found[0])
    if first.phase == "train" and "metadata" in found[0]:
        raise UserError(f"{shown(found[1])} is a model file, which can only translate: continue from a checkpoint")
    if first.phase == "train" and holds_only_weights(found[0]):
        saved |= architecture_of(*found, methods.load(saved["method"]))
    if first.phase == "export" or first.input:
        saved = translation_options(*found)
    elif first.phase == "test":  # Pipeline.load reads the architecture
        method = saved["method"]
        saved = {"method": method, "direction": learned_direction(found[0], methods.load(method))}
    args = parse_args(argv, saved)
    args.run = run
    if kept := newer_options(found[0], build_parser(args.method), args):
        print(f"{shown(found[1])} was written before these options, and keeps what it was trained with: {kept}",
              file=sys.stderr)  # fmt: skip
    return args, found
