"""The record of a run for reproduction: results/NAME/run.json, a list with an entry for the start and each resume.

An entry holds options, method, seed, versions, machine, the program's commit and a fingerprint of the data.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from contextlib import redirect_stderr, suppress
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import torch

from checkpoints.files import candidates
from images.files import list_images
from training.held_out import hold_out
from utils import UserError, atomic, parse_json, shown, text_of

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scipy")


def record(trainer, step: int, pictures: dict[str, list[Path]]):
    """Add an entry to run.json for a training that continues from `step`; 0 starts a new list.

    A damaged file is replaced.
    """
    args, path = trainer.args, trainer.results / "run.json"
    entries = entries_of(trainer.results) if step else []
    entry = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "terms": "bare",  # of its lines in log.jsonl; without this entry they are as the objectives return them
        "method": args.method,
        "seed": args.seed,
        "options": {k: v for k, v in vars(args).items() if k not in ("given", "command", "run")},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if trainer.device.type == "cuda" else None,
        "processes": trainer.world,
        "git": commit(),
        "best": getattr(trainer, "best_chosen", None),
        "data": {name: fingerprint(paths) for name, paths in pictures.items()},
    }
    with atomic(path) as temporary:
        temporary.write_text(json.dumps([*entries, entry], indent=1, default=str) + "\n", encoding="utf-8")


def version(package: str) -> str | None:
    """The installed version; None if the package has no metadata."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, its number of cores and the vector extensions that torch uses."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def commit() -> dict | None:
    """The program's commit, and whether its files are unchanged since; None outside a repository."""

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain", "-uno")}
    except (OSError, subprocess.SubprocessError):
        return None


def fingerprint(paths: list[Path]) -> dict:
    """Number of pictures, and SHA-256 of their names and file sizes (cheap, and differs for nearly any other data)."""
    sha = hashlib.sha256()
    for path in sorted(paths):
        sha.update(f"{path.name}\0{path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return {"pictures": len(paths), "digest": sha.hexdigest()}


# ---------------------------------------------------------------------------- a run is known by its data


def entries_of(results: Path) -> list[dict]:
    """The entries of a run's run.json; []: there is none, or it is damaged."""
    with suppress(OSError, ValueError, TypeError):
        return [entry for entry in parse_json(text_of(results / "run.json")) if isinstance(entry, dict)]
    return []


def data_of(entry: dict) -> dict[str, dict]:
    """The fingerprints of an entry, by folder."""
    data = entry.get("data")
    return {k: v for k, v in data.items() if isinstance(v, dict)} if isinstance(data, dict) else {}


def changed_data(results: Path, pictures: dict[str, list[Path]]) -> str:
    """What is different in these pictures from those of a run's last start, as words; "": nothing, or unknown."""
    before, changes = data_of((entries_of(results) or [{}])[-1]), []
    for name in sorted(before.keys() & pictures.keys()):
        now, count = fingerprint(pictures[name]), before[name].get("pictures")
        if count != now["pictures"]:
            changes.append(f"{name} held {count} pictures, now {now['pictures']}")
        elif before[name].get("digest") != now["digest"]:
            changes.append(f"{name} holds {count} pictures as before, of other names or sizes")
    return "; ".join(changes)


def run_of_these_pictures(place: Path, root: Path, method: str | None, only_renamed: bool) -> Path | None:
    """The folder in `place` of the run that was trained on the pictures of the data set `root`; None: there is none.

    method: None stands for any.  only_renamed: leave out runs whose data set is still where it was.  UserError: there
    are several such runs.
    """
    found, training = {}, {}  # found: whether the run's data set is still where it was, and another
    records = sorted(place.glob("*/run.json"))
    with suppress(UserError), redirect_stderr(None):  # the training itself will say what is wrong with them
        training = {name: list_images(root / name) for name in ("trainA", "trainB") if records}
    for path in records if training else ():
        entry = (entries_of(path.parent) or [{}])[-1]
        options, data, pictures = entry.get("options"), data_of(entry), dict(training)
        if not isinstance(options, dict) or method not in (None, entry.get("method")) or not candidates(path.parent):
            continue
        with suppress(AttributeError, TypeError, ValueError, UserError):  # a damaged record, or too few pictures
            held = SimpleNamespace(hold_out=options.get("hold_out"), seed=options.get("seed"), dataset_dir=root.parent,
                                   dataset=root.name)  # fmt: skip
            hold_out(pictures, held)
            if all(data.get(name) == fingerprint(paths) for name, paths in pictures.items()):
                was = (Path(options["dataset_dir"]) / options["dataset"]).resolve()
                found[path.parent] = was.exists() and was != root.resolve()
    gone = [run for run, there in found.items() if not there]
    found = gone or ([] if only_renamed else [*found])
    if len(found) > 1:
        names = " and ".join(shown(run) for run in found)
        raise UserError(f"{names} were trained on the pictures of {shown(root)}: name a checkpoint with --checkpoint")
    return found[0] if found else None
