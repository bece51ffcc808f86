"""--phase test: translate the test folders of a data set."""

from pathlib import Path

import torch
from tqdm import tqdm

from images import maker
from images.encode import save_picture
from images.files import data_set_pictures, list_images, output_paths
from images.scales import measured
from translation.pipeline import Pipeline, answer_suffixes, with_suffix
from utils import UserError, shown


def translate_folders(trainer, found: tuple[dict, Path] | None = None, whole: bool = False):
    """Translate testA -> fakeB and testB -> fakeA in results/NAME; file names stay.

    found: the checkpoint (state, path), by default the newest valid one.  Only the networks that translate are loaded,
    with the architecture of the checkpoint, for the directions that it holds.  The EMA weights are used if it holds
    them, unless --raw_weights true.  made.json in fakeX says what made it; other translations there are moved aside.
    whole: translate whole pictures also where the method's test takes their centres.
    """
    args, pipeline = trainer.args, Pipeline(trainer, found)
    root = Path(args.dataset_dir) / args.dataset
    for domain in "AB":  # of a checkpoint that keeps no scale of deep pictures
        if "scales" not in pipeline.state and (root / f"train{domain}").is_dir():
            trainer.scales[domain] = measured(list_images(root / f"train{domain}"))
    sources = _sources(trainer, pipeline.directions)
    inputs = data_set_pictures(args, *sources, scales=trainer.scales, shortens=not args.deep)
    trainer.check_images(inputs)
    pipeline.load()
    if whole:
        trainer.show_whole(pipeline.side)
    jobs, claims, suffixes = [], {}, answer_suffixes(getattr(args, "styles", 1))
    for s, t in pipeline.directions:
        source, target = f"{trainer.test_split}{trainer.folder[s]}", trainer.results / f"fake{trainer.folder[t]}"
        names = output_paths(inputs[source], root / source, args.png, args.deep)
        jobs.append((s, t, source, inputs[source], target, names))
        files = {with_suffix(name, suffix) for name in names for suffix in suffixes}
        claims[target] = pipeline.record(s, t, inputs[source]), files
    with pipeline.translating(*pipeline.directions[0]):
        pass  # --style_from is read before anything is moved or written
    if trainer.rank == 0:
        maker.claim(trainer.results, claims, args.replace)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # no rank writes before the earlier translations are aside
    mine = slice(trainer.rank, None, trainer.world)
    for s, t, source, files, target, names in jobs:
        pipeline.say_levels(t)
        bar = tqdm(files[mine], f"{source} -> {target.name}", disable=trainer.rank != 0)
        with pipeline.translating(s, t):
            for file, name in zip(bar, names[mine], strict=True):
                for suffix, picture in pipeline.translate_file(file, s, t):
                    save_picture(picture, with_suffix(target / name, suffix))
    if trainer.rank == 0:
        best = pipeline.state.get("score")
        chosen = f" (best {best['name']}, {best.get('chosen', maker.ON_TEST)})" if best else ""
        print(f"translated with {pipeline.weights}{chosen} into {' and '.join(map(str, claims))}")


def _sources(trainer, directions) -> list[str]:
    """The folders to translate.  UserError: only one of two exists."""
    root = Path(trainer.args.dataset_dir) / trainer.args.dataset
    folders = [f"{trainer.test_split}{trainer.folder[s]}" for s, _ in directions]
    there = [name for name in folders if (root / name).exists()]
    if root.is_dir() and not there:
        remedy = "make it a folder of pictures, or translate any with --input FOLDER --output FOLDER"
        raise UserError(f"{shown(root / folders[0])} does not exist: {remedy}")
    if 0 < len(there) < len(folders):
        missing, direction = root / next(name for name in folders if name not in there), {"A": "AtoB", "B": "BtoA"}
        remedy = f"make it a folder of pictures, or translate one way with --direction {direction[there[0][-1]]}"
        raise UserError(f"{shown(missing)} does not exist: {remedy}")
    return folders
