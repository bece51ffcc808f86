"""Checkpoint files: written atomically, verified by digests, never executed.

A checkpoint is one dict: the state dicts of a method's networks by their names (NICE-GAN's: gen2B gen2A
disA disB), its optimizers (D_optimizer, G_optimizer), start_iter (the last finished step); this program adds
position, args, rng, guard, scalers, memory, with --ema the averaged weights, and a digest of each entry.  The
authors' programs keep less, in one file or in one per network: a method's `from_released` reads them.
"""

import hashlib
import re
import sys
from contextlib import suppress
from math import inf
from pathlib import Path

import torch

from checkpoints.contents import fitting, is_network, is_state_dict, refuse_strange, without_prefix
from checkpoints.describe import in_words, kind_of
from checkpoints.model_folder import CONFIG, is_model_folder, read_model_folder
from checkpoints.weights import Foreign, read_weights
from options import another, need_checkpoint, telling
from utils import UserError, atomic, brief, content_of, parse_json, shown


def latest_path(results: Path) -> Path:
    return results.parent / f"{results.name}_params_latest.pt"


def best_path(results: Path) -> Path:
    return results.parent / f"{results.name}_params_best.pt"


def numbered_paths(results: Path) -> list[Path]:
    """results/NAME/model/NAME_params_0001000.pt and so on, oldest first."""
    pattern = re.compile(re.escape(results.name) + r"_params_(\d{7,})\.pt")
    folder = results / "model"
    found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(pattern.fullmatch(p.name)[1]))


def candidates(results: Path) -> list[Path]:
    """The checkpoints that a run can continue from, newest first.

    Numbered ones beyond the next line of log.jsonl are left out: they are of a run that was abandoned.
    """
    numbered, most = numbered_paths(results), _last_possible_step(results / "log.jsonl")
    numbered = [path for path in numbered if int(path.stem.rpartition("_")[2]) <= most]
    return [p for p in (latest_path(results), *reversed(numbered)) if p.exists()]


def _last_possible_step(log: Path) -> float:
    """The largest step that the run of this log can have reached: before its next line was due; inf: unknown."""
    steps = []
    with suppress(OSError):
        for line in content_of(log).splitlines():
            with suppress(ValueError, LookupError, TypeError, OverflowError):
                steps.append(int(parse_json(line)["step"]))
    gaps = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    return steps[-1] + max(gaps) if gaps else inf


def digest(value) -> str:
    """SHA-256 of nested dicts and lists of tensors and plain values, independent of the device."""
    sha = hashlib.sha256()

    def feed(x):
        if isinstance(x, torch.Tensor):
            sha.update(f"T{x.dtype}{tuple(x.shape)}".encode())
            sha.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        elif isinstance(x, dict):
            sha.update(f"D{len(x)}".encode())
            for key, item in x.items():
                sha.update(f"{key!r}:".encode())
                feed(item)
        elif isinstance(x, (list, tuple)):
            sha.update(f"L{len(x)}".encode())
            for item in x:
                feed(item)
        else:
            sha.update(f"{x!r};".encode())

    feed(value)
    return sha.hexdigest()


class _CheckedFile:
    """A file that keeps its first write error, which torch's zip writer turns into a RuntimeError."""

    def __init__(self, path):
        self.file, self.error = open(path, "wb"), None  # noqa: SIM115

    def write(self, data):
        if self.error is None:
            try:
                return self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)  # after an error the rest is dropped; save_checkpoint raises it

    def flush(self):
        if self.error is None:
            try:
                self.file.flush()
            except OSError as error:
                self.error = error


def save_checkpoint(state: dict, path: Path):
    """Write `state` with a digest of each entry; the old file stays until the new one is complete."""
    state = {**state, "digest": {key: digest(value) for key, value in state.items()}}
    with atomic(path) as temporary:
        out = _CheckedFile(temporary)
        try:
            torch.save(state, out)
            out.flush()
        finally:
            with suppress(OSError):
                out.file.close()
        if out.error is not None:
            raise out.error


def load_checkpoint(path: Path, recognise) -> dict:
    """Read a checkpoint of this program or of a method's authors: a file, or a folder with a file per network.

    recognise: methods.recognise, or another function {file's stem: content} -> (method, state) or None.
    Returns the state, with an entry "method".  UserError: missing, damaged, foreign.
    """
    files = [path]
    if path.is_dir() and is_model_folder(path):
        state = _read(path, read_model_folder)
        refuse_strange(state, path)
        with fitting(path, CONFIG):
            recognised = recognise(state)
        if recognised is None:
            raise UserError(f"{shown(path)} is no model that is known here: {in_words(state)}; name another")
        return {**state, "method": recognised[0]}
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".pt", ".pth") and p.is_file())
    need_checkpoint(path)
    if not files:
        raise UserError(f"no checkpoint in the folder {shown(path)}: no file there ends in .pt or .pth; {another()}")
    found = {file.stem: without_prefix(_read(file)) for file in files}
    single = next(iter(found.values()))
    tensors = all(isinstance(value, torch.Tensor) for value in single.values())
    if path.is_file() and not tensors and "state_dict" not in single:
        found = single  # a dict of networks; else the file is one network, or OpenMMLab's, whose name matters
    with fitting(path, "its networks"):
        recognised = recognise(found)
        wrapped = [x for x in single.values() if isinstance(x, dict) and x and is_state_dict(x)]
        if recognised is None and path.is_file() and len(wrapped) == 1:  # one network, beside a number of steps or so
            recognised = recognise({path.stem: wrapped[0]})
    if recognised is None:
        raise UserError(f"{shown(path)} is no checkpoint that is known here: {in_words(found)}; name another")
    method, state = recognised
    state = {**state, "method": method}
    refuse_strange(state, path)
    return state


def _read(path: Path, reader=read_weights) -> dict:
    """The dict in a file, or folder.  UserError: damaged or unsafe."""
    try:
        state = reader(path)
        if not isinstance(state, dict):
            raise Foreign(f"it holds one {type(state).__name__} and no dict of networks")
        if not all(isinstance(key, str) for key in state):
            raise Foreign("it holds a dict of numbers, not of names")
        return state
    except PermissionError:
        raise UserError(f"no permission to read {shown(path)}: change its permissions, or name another") from None
    except Exception as error:  # damaged files end in errors of any kind
        why = f"is no checkpoint of this program or is damaged ({brief(error)})"
        if kind := kind_of(path):
            why = f"cannot be used: it is {kind}"
        elif isinstance(error, Foreign):
            why = f"cannot be used: {brief(error)}"
        raise UserError(f"{shown(path)} {why}; {another()}") from None


def verify(state: dict, path: Path, keys=None):
    """Check the digests of these entries, by default all; released checkpoints have none.  UserError: damaged."""
    if "digest" not in state:
        return
    stored = state["digest"]
    for key in {**stored, **state}:
        with fitting(path, key):
            if key in ("digest", "method") or (keys and key not in keys):
                continue
            right = stored.get(key) == (digest(state[key]) if key in state else None)
        if not right:
            raise UserError(f"{shown(path)} is damaged: {shown(key)}: its digest differs; {another()}")


def paths_of(named: str, results: Path) -> list[Path]:
    """The files that --checkpoint names: best, latest (the run's own), a path, or a run's folder.

    Of several the first valid one is meant.  UserError: there is no best yet.
    """
    path = {"best": best_path(results), "latest": latest_path(results)}.get(named, Path(named))
    if path.is_dir():  # perhaps a run's: its latest checkpoint lies beside it, the numbered ones in it
        return candidates(path.absolute() if path.name in ("", "..") else path) or [path]
    if named == "best" and not path.exists():
        raise UserError(f"no checkpoint {shown(path)}: a training with --score_freq keeps one")
    return [path]


def newest_checkpoint(results: Path, named: str | None, recognise, to_translate=False) -> tuple[dict, Path]:
    """(state, path) of a run's newest valid checkpoint, or of the one named.

    to_translate: verify only what translation needs.  UserError: none is valid.
    """
    paths = paths_of(named, results) if named else candidates(results)
    if not paths:
        earlier = [p for p in results.glob("previous_*/*_params_latest.pt") if p.parent.name[9:].isdecimal()]
        earlier.sort(key=lambda p: int(p.parent.name[9:]))
        remedy = f"name the earlier run's with --checkpoint {shown(earlier[-1])}" if earlier else (
            "train first, check --dataset and --result_dir, or use --checkpoint")
        raise UserError(f"no checkpoint {shown(latest_path(results))}; {remedy}")
    for path in paths:
        try:
            large = path.is_file() and path.stat().st_size > 2**26  # reading it may take seconds
            with telling(f"reading {shown(path)}", when=large):
                state = load_checkpoint(path, recognise)
                verify(state, path, [*filter(is_network, state), "args", "ema", "scales"] if to_translate else None)
            return state, path
        except UserError as error:
            if path == paths[-1]:
                raise
            print(f"{error}; falling back to an older one", file=sys.stderr)
