"""What a training says before its first step and after its last: what it found and will do, what to type next."""

import hashlib
import os
import shlex
from pathlib import Path

from options import telling
from options.program import main_py
from training.threads import choose
from utils import one_line, shown

EARLY = (1, 100, 300)  # steps of the first samples, before those of every --print_freq


def opening(trainer, paths: dict[str, list[Path]]) -> list[str]:
    """The lines before the first step.  paths: the training pictures {"A": paths, "B": paths}."""
    args = trainer.args
    where = args.device + f", {trainer.world} processes" * (trainer.world > 1)
    found = ", ".join(f"{len(files)} of {trainer.folder[d]}" for d, files in paths.items())
    size = f"{args.batch_size} picture{'s' * (args.batch_size > 1)} of {args.img_size} x {args.img_size}"
    lines = [
        f"training --method {args.method} on {where}: pictures {found}; steps {trainer.step + 1} to "
        f"{args.iteration}, each with {size} a domain; results go to "
        f"{shown(trainer.results)}, samples from step {first_sample(trainer)} on"
    ]
    if trainer.device.type == "cpu":
        lines.append(choose(args)[1])
    if trainer.test_split != "train":
        lines += [
            f"{shown(files[0])} is the only picture of {trainer.folder[d]}: a domain needs many; --method sincut "
            "learns from one picture each"
            for d, files in paths.items()
            if len(files) == 1
        ]
    with telling("comparing trainA with trainB", when=len(paths["A"]) > 500):
        same = contents(paths["A"]) == contents(paths["B"])
    if same:
        lines.append("trainA and trainB hold the same pictures: there is nothing to translate; check the data set")
    return lines


def contents(files: list[Path]) -> list[tuple]:
    """What tells whether two folders hold the same pictures: sizes of files and digests of their first 4 kB, sorted."""

    def start(path: Path) -> bytes:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(4096)).digest()

    return sorted((path.stat().st_size, start(path)) for path in files)


def first_sample(trainer) -> int:
    """The step of the next sample grid."""
    step, every = trainer.step, trainer.args.print_freq
    return min(*[n for n in EARLY if n > step], step - step % every + every, trainer.args.iteration)


def closing(trainer) -> str:
    """The line after the last step: the command that translates."""
    args = trainer.args
    root = Path(args.dataset_dir, args.dataset)
    tests = all((root / f"{trainer.test_split}{trainer.folder[s]}").is_dir() for s, _ in trainer.directions)
    data = args.dataset if args.dataset_dir == "dataset" else os.path.join(args.dataset_dir, args.dataset)
    words = ["python", main_py(), "--dataset", data]
    words += ["--result_dir", args.result_dir] if args.result_dir != "results" else []
    words += ["--phase", "test"]
    if not tests:
        words += ["--input", "FOLDER", "--output", "translated"]
        words += ["--direction", "AtoB"] if len(trainer.directions) > 1 else []
    return f"step {trainer.step} is finished; translate with: {one_line(shlex.join(words))}"
