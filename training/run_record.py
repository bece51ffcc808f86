"""The record of a run for reproduction: results/NAME/run.json, a list with an entry for the start and each resume.

An entry holds options, method, seed, versions, machine, the program's commit and a fingerprint of the data.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import torch

from utils import atomic, parse_json

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scipy")


def record(trainer, step: int, pictures: dict[str, list[Path]]):
    """Add an entry to run.json for a training that continues from `step`; 0 starts a new list.

    A damaged file is replaced.
    """
    args, path = trainer.args, trainer.results / "run.json"
    entries = []
    if step and path.exists():
        try:
            entries = [entry for entry in parse_json(path.read_text("utf-8")) if isinstance(entry, dict)]
        except (ValueError, TypeError):
            entries = []
    entry = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "terms": "bare",  # of its lines in log.jsonl; without this entry they are as the objectives return them
        "method": args.method,
        "seed": args.seed,
        "options": {k: v for k, v in vars(args).items() if k not in ("given", "command")},
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
