"""Any picture, one direction: `--phase test --input FILE|FOLDER|GLOB --direction AtoB --output DIR`."""

import glob
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import dataset
import decoding
import translate
import utils
from utils import UserError, evaluating, shown


@torch.no_grad()
def translate_all(trainer, found: tuple[dict, Path]):
    """Translate the pictures of --input into --output, with a checkpoint (state, path).

    They keep names, sub-folders, sizes (where the networks can) and transparency; colours become sRGB.
    UserError: before anything is written.
    """
    args, (state, path) = trainer.args, found
    if not args.output:
        raise UserError("--input needs --output DIR, the folder that the translations go to")
    s, t = direction_of(trainer, state, path)
    root, files = listed(args.input)
    files = dataset.check_images(files, skip_bad=args.skip_bad_images, workers=2)  # few: phones' pictures are large
    names = dataset.output_paths(files, root)
    places = [[Path(args.output) / name for name in answers] for answers in _with_styles(args, names)]
    refuse_overwriting(files, places, root, Path(args.output))
    size = translate.load(trainer, state, path, [(s, t)])
    side = side_of(trainer, size)
    translate.set_example(trainer, side, s, t)
    mine = slice(trainer.rank, None, trainer.world)
    with evaluating(trainer.networks().values()):
        bar = tqdm(files[mine], f"{trainer.folder[s]} -> {trainer.folder[t]}", disable=trainer.rank != 0)
        for file, answers in zip(bar, places[mine], strict=True):
            alpha = decoding.alpha_of(file)
            drawn = translate.translated(trainer, file, s, t, side)
            for place, (_, picture) in zip(answers, drawn, strict=True):
                utils.save_picture(with_alpha(picture, alpha), place)
    if trainer.rank == 0:
        print(f"translated {len(files)} pictures with {path} into {args.output}")


def direction_of(trainer, state: dict, path: Path) -> tuple[str, str]:
    """The one direction that is asked for, or that there is.  UserError: two, or another one."""
    saved, args = state.get("args", {}), trainer.args
    if "args" in state and "metadata" not in state and len(type(trainer).directions) == 1:
        learned = saved.get("direction") or "AtoB"
        if (args.direction or "AtoB") != learned:
            raise UserError(f"{shown(path)} has learned {learned} alone: leave --direction out, or give this one")
    directions = translate.directions_of(trainer, state, path)
    if len(directions) > 1:
        raise UserError(f"{shown(path)} translates both ways: say which, --direction AtoB or --direction BtoA")
    return directions[0]


def side_of(trainer, size: int) -> int | None:
    """The side that pictures are resized to, or None: each keeps its own size."""
    args = trainer.args
    if translate.is_fixed(trainer):
        if trainer.rank == 0:
            print(f"these networks are bound to their size: pictures are resized to {size} x {size}", file=sys.stderr)
        return size
    return size if "keep_size" in args.given and not args.keep_size else None


# ------------------------------------------------------------------------------------------- files


def listed(text: str) -> tuple[Path, list[Path]]:
    """What --input names: the folder that results keep their paths from, and the pictures."""
    path = Path(text)
    if path.is_dir():
        return path, dataset.list_images(path)
    if path.exists() or not glob.has_magic(text):
        if not os.path.lexists(path):
            raise UserError(f"--input {shown(text)} does not exist: give a picture, a folder or a 'pattern'")
        return path.parent, [path]
    files = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if os.path.isfile(name)]
    pictures = [file for file in files if decoding.is_picture(file)]
    if not pictures:
        what = f"matches {len(files)} files, none of which is a picture we can read" if files else "matches no file"
        raise UserError(f"--input {shown(text)} {what}: check the pattern{decoding.reader_of(files)}")
    if len(pictures) < len(files):
        print(f"left out {len(files) - len(pictures)} files that are no pictures we can read", file=sys.stderr)
    return Path(*_before_magic(path)), pictures


def _before_magic(path: Path) -> list[str]:
    """The parts of a pattern's folder up to the first with * or the like."""
    parts = []
    for part in path.parent.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _with_styles(args, names: list[Path]) -> list[list[Path]]:
    """The names of all answers to each picture."""
    additions = translate.additions(getattr(args, "styles", 1))
    return [[translate.named(name, addition) for addition in additions] for name in names]


def refuse_overwriting(files: list[Path], places: list[list[Path]], root: Path, output: Path):
    """UserError: a result would take the place of an input, or of another result."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {shown(output)} is no folder: name one, results keep the names of their inputs")
    inputs, taken = {os.path.realpath(file) for file in files}, {}
    for file, answers in zip(files, places, strict=True):
        for place in answers:
            real = os.path.realpath(place)
            if real in inputs:
                raise UserError(f"--output would overwrite {shown(place)}, an input: choose another folder")
            if real in taken:
                both = f"{shown(taken[real])} and {shown(file)}"
                raise UserError(f"{both} would both become {shown(place)}: rename one, or translate them apart")
            taken[real] = file
    inside = Path(os.path.realpath(output)).is_relative_to(os.path.realpath(root))
    if inside and len(files) > 1:  # a second call would take the results for inputs
        raise UserError(f"--output {shown(output)} lies in --input {shown(root)}: choose a folder outside of it")


# ------------------------------------------------------------------------------------------ pictures


def with_alpha(picture: np.ndarray, alpha: Image.Image | None) -> np.ndarray:
    """(H,W,3) uint8 with the opacities of its input beside, in its own size: (H,W,4)."""
    if alpha is None:
        return picture
    h, w, _ = picture.shape
    alpha = alpha if alpha.size == (w, h) else alpha.resize((w, h), Image.Resampling.BILINEAR)
    return np.dstack((picture, np.asarray(alpha)))
