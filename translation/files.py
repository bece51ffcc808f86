"""--phase test --input FILE|FOLDER|GLOB --direction AtoB --output DIR: translate any pictures."""

import glob
import itertools
import os
import sys
from pathlib import Path

from tqdm import tqdm

from images.decode import EXTENSIONS, alpha_of, is_picture, reader_of, size_of
from images.encode import kept_metadata, save_picture, with_alpha
from images.encode_deep import ENDINGS
from images.files import check_images, list_images, output_paths
from options import need_input
from translation.pipeline import DIRECTIONS, Pipeline, answer_suffixes, scale_of, with_suffix
from utils import UserError, shown

MANY = 3  # times as large as in training: then one note says so


def translate_inputs(trainer, found: tuple[dict, Path]):
    """Translate the pictures of --input with a checkpoint (state, path), and write them to --output.

    --output is a folder, or for one picture the file.  Translations keep names, sub-folders, sizes (if the networks
    allow it) and transparency; colours become sRGB.  UserError: nothing has been written.
    """
    args = trainer.args
    pipeline = Pipeline(trainer, found)
    if not args.output:
        both = f", and {DIRECTIONS}" * (len(pipeline.directions) > 1)
        raise UserError(f"--input needs --output DIR, the folder for translations, or for one picture its file{both}")
    s, t = pipeline.only_direction()
    root, files = list_inputs(args.input)
    # few threads, as phones' pictures are large
    files = check_images(files, args.skip_bad_images, 2, scale_of(trainer, s), shortens=not args.deep)
    suffixes, output = answer_suffixes(getattr(args, "styles", 1)), Path(args.output)
    names = output_paths(files, root, args.png, args.deep)
    if output.suffix.lower() in EXTENSIONS and not output.is_dir():  # the name of a picture, not of a folder
        if len(files) > 1:
            raise UserError(f"--output {shown(output)} names one picture, --input {len(files)}: name a folder")
        if args.deep and output.suffix.lower() not in ENDINGS:
            raise UserError(f"--output {shown(output)} names a file of 8 bits a band: with --deep true end it in .png "
                            "or .tif")  # fmt: skip
        names, output = [Path(output.name)], output.parent
    places = [[with_suffix(output / name, suffix) for suffix in suffixes] for name in names]
    refuse_overwriting(files, places, root, output)
    pipeline.load(own_size=True)
    if trainer.rank == 0:
        report_scale(pipeline, files)
        pipeline.say_levels(t)
    mine = slice(trainer.rank, None, trainer.world)
    bar = tqdm(files[mine], f"{trainer.folder[s]} -> {trainer.folder[t]}", disable=trainer.rank != 0)
    with pipeline.translating(s, t):
        for file, answers in zip(bar, places[mine], strict=True):
            alpha, metadata = alpha_of(file), kept_metadata(file) if args.keep_metadata else None
            for place, (_, picture) in zip(answers, pipeline.translate_file(file, s, t), strict=True):
                save_picture(with_alpha(picture, alpha), place, metadata)
    if trainer.rank == 0:
        print(f"translated {len(files)} picture{'s' * (len(files) > 1)} with {shown(pipeline.path)} "
              f"into {shown(args.output)}")


def report_scale(pipeline: Pipeline, files: list[Path]):
    """Print a note if the largest picture is translated at another scale than the training's."""
    trainer, args = pipeline.trainer, pipeline.trainer.args
    if pipeline.side or args.longest or args.shortest or trainer.makes_own_crops or trainer.preparation[0] == "crop":
        return
    sizes = [size_of(file) for file in files]
    file, own = max(zip(files, sizes, strict=True), key=lambda each: each[1][0] * each[1][1])
    w, h = trainer.test_size(own, pipeline.size)
    times = min(own) / min(w, h)
    if times >= MANY:
        side = min(w, h)
        print(f"{shown(file.name)} has {own[0]} x {own[1]} pixels, {times:.0f} times the {side} of the training: what "
              f"was learned there is small in it; --shortest {side} translates it at that scale, --longest N at any",
              file=sys.stderr)  # fmt: skip
    elif (w, h) != own:
        print(f"{shown(file.name)} keeps its {own[0]} x {own[1]} pixels; at the scale of the training it would have "
              f"{w} x {h}: --keep_size false resizes pictures so", file=sys.stderr)  # fmt: skip


def list_inputs(text: str) -> tuple[Path, list[Path]]:
    """The pictures of --input, and the folder that their paths are relative to: (folder, pictures)."""
    path = Path(text)
    if path.is_dir():
        return path, list_images(path)
    if path.exists() or not glob.has_magic(text):
        need_input(text)
        return path.parent, [path]
    files = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if os.path.isfile(name)]
    pictures = [file for file in files if is_picture(file)]
    if not pictures:
        what = f"matches {len(files)} files, none of which is a picture we can read" if files else "matches no file"
        raise UserError(f"--input {shown(text)} {what}: check the pattern{reader_of(files)}")
    if len(pictures) < len(files):
        print(f"skipped {len(files) - len(pictures)} files that are not readable pictures", file=sys.stderr)
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), path.parent.parts)
    return Path(*parts), pictures


def refuse_overwriting(files: list[Path], places: list[list[Path]], root: Path, output: Path):
    """UserError: a result would overwrite an input or another result."""
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
    if inside and len(files) > 1:  # a second call would read the results as inputs
        raise UserError(f"--output {shown(output)} lies in --input {shown(root)}: choose a folder outside of it")
