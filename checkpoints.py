"""Checkpoints: written whole or not at all, verified, and never executed.

A checkpoint is one dict: gen2B gen2A disA disB (state dicts), D_optimizer, G_optimizer, start_iter
(the last finished step); ours adds position, args, rng, guard, scalers and a digest of each entry.
The released program's hold only the first seven, with stray total_ops and total_params inside.
"""

import hashlib
import itertools
import os
import re
import sys
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from utils import UserError, atomic, shown, writing

NETWORKS = ("gen2B", "gen2A", "disA", "disB")
STRAY = ("total_ops", "total_params")
FOR_TEST = (*NETWORKS, "encA", "encB", "args")  # what a translation depends on
EXTRA_NETWORKS = ("encA", "encB")  # the independent encoders of --nice false

# what a checkpoint's networks depend on: it cannot be continued with other values of these ...
ARCHITECTURE = ("light", "ch", "n_res", "n_dis", "img_ch", "nice", "ra", "heads", "shared_layers")
# ... nor with these, though its networks could be built
IDENTITY = (*ARCHITECTURE, "img_size", "dataset", "encoder_updates")
# options of one call, not of the run; above all the paths: a stranger's checkpoint names no place to write to
NOT_SAVED = ("phase", "resume", "checkpoint", "device", "command", "given", "keep_size", "skip_bad_images")
NOT_SAVED += ("dataset_dir", "result_dir")

# what else a checkpoint may hold; all but the optimizers and start_iter are ours alone
TYPES = {"D_optimizer": dict, "G_optimizer": dict, "start_iter": int, "position": int}
TYPES |= {"scalers": dict, "guard": dict, "args": dict, "rng": dict, "digest": dict}


def latest_path(results: Path) -> Path:
    return results.parent / f"{results.name}_params_latest.pt"


def numbered_paths(results: Path) -> list[Path]:
    """results/NAME/model/NAME_params_0001000.pt and its like, oldest first."""
    pattern = re.compile(re.escape(results.name) + r"_params_(\d{7,})\.pt")
    folder = results / "model"
    found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(pattern.fullmatch(p.name)[1]))


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
    """A file that remembers the first write error; torch's zip writer turns it into a RuntimeError."""

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


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint of ours or of the released program.  UserError: missing, damaged, foreign."""
    if not path.is_file():
        raise UserError(f"no checkpoint {shown(path)}; train first, or name another with --checkpoint")
    try:
        zipped = _is_sound_archive(path)
        # weights_only: no pickle of a stranger is ever executed; mmap: only what is used is read
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        _check_extent(state, path.stat().st_size)
        if zipped and "digest" not in state:
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of {damaged} differs")
    except Exception as error:  # parsers of damaged files trip in many ways
        reason = _brief(error)
        raise UserError(
            f"{shown(path)} is no checkpoint of this program or is damaged ({reason}); name another with --checkpoint"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(state.get(k), dict) for k in NETWORKS):
        raise UserError(f"{shown(path)} is no NICE-GAN checkpoint: it lacks {', '.join(NETWORKS)}")
    for name in NETWORKS + EXTRA_NETWORKS:
        if name in state:  # thop, used by the released program, leaves its counters in the networks
            with fitting(path, name):
                state[name] = {k: v for k, v in state[name].items() if k.split(".")[-1] not in STRAY}
            if not all(isinstance(v, torch.Tensor) for v in state[name].values()):
                raise UserError(f"{shown(path)} is damaged: {name} holds something that is no tensor")
    for name, kind in TYPES.items():
        if name in state and (not isinstance(state[name], kind) or (kind is int and state[name] < 0)):
            raise UserError(f"{shown(path)} is damaged: {name} is no {kind.__name__} that makes sense")
    return state


def _is_sound_archive(path: Path) -> bool:
    """Whether the file is a zip archive, not of torch < 1.6.  ValueError, BadZipFile: what torch.load would trust."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                raise ValueError("a record is compressed")  # and might unfold to any size
            if "/data/" not in record.filename:
                archive.read(record)  # compares the checksum; for the tensors that of a digest is as good
    return True


def _check_extent(state, room: int):
    """ValueError: a checkpoint that unfolds to more than the `room` bytes of its file.

    Lists may contain one another many times over, and a tensor may repeat one number for ever.
    """
    todo = [state]
    while todo:
        x = todo.pop()
        if isinstance(x, torch.Tensor):
            if x.device.type != "cpu" or x.layout != torch.strided or x.is_quantized:
                raise ValueError("it holds a tensor of an unknown kind")
            room -= x.numel() * x.element_size()
        elif isinstance(x, (dict, list, tuple, set, frozenset)):
            room -= len(x)
        if room < 0:
            raise ValueError("it unfolds to more than the file holds")
        if isinstance(x, dict):
            todo.extend(x.values())
        elif isinstance(x, (list, tuple)):
            todo.extend(x)


def verify(state: dict, path: Path, keys=None):
    """Compare the digests of these entries; a released checkpoint has none.  UserError: damaged."""
    if "digest" not in state:
        return
    stored = state["digest"]
    for key in {**stored, **state}:
        with fitting(path, key):
            if key == "digest" or (keys and key not in keys):
                continue
            if stored.get(key) != (digest(state[key]) if key in state else None):
                raise ValueError("its digest differs; name another with --checkpoint")


@contextmanager
def fitting(path: Path, what: str):
    """UserError: whatever an entry of a damaged or foreign checkpoint makes Python or torch raise."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(path)} is damaged or does not fit: {shown(what)}: {_brief(error)}") from None


def _brief(error: Exception) -> str:
    return shown(" ".join(str(error).split())[:160] or type(error).__name__)


def newest_checkpoint(results: Path, named: str | None = None, keys=None) -> tuple[dict, Path]:
    """The newest valid checkpoint of a run, or the one named.  keys: what has to be verified."""
    candidates = [Path(named)] if named else [latest_path(results), *reversed(numbered_paths(results))]
    candidates = [p for p in candidates if named or p.exists()]
    if not candidates:
        raise UserError(
            f"no checkpoint {shown(latest_path(results))}; "
            "train first, check --dataset and --result_dir, or use --checkpoint"
        )
    for path in candidates:
        try:
            state = load_checkpoint(path)
            verify(state, path, keys)
            return state, path
        except UserError as error:
            if path == candidates[-1]:
                raise
            print(f"{error}; falling back to an older one", file=sys.stderr)
    raise AssertionError("unreachable")


def infer_architecture(state: dict, path: Path) -> dict:
    """The architecture options that the shapes in a checkpoint imply, though not those of the ablations."""
    with fitting(path, "the networks are not NICE-GAN's"):
        dis, gen = state["disA"], state["gen2B"]
        first, fc = dis["model.1.weight_orig"], gen["FC.0.weight"]
        layers = sum(bool(re.fullmatch(r"(model|Dis0_0|Dis1_0)\.\d+\.weight_orig", k)) for k in dis)
        found = {
            "ch": first.shape[0],
            "img_ch": first.shape[1],
            "n_dis": layers + 2,  # Dis1_1 and conv1
            "n_res": sum(bool(re.fullmatch(r"UpBlock1_\d+\.conv1\.weight", k)) for k in gen),
            "light": fc.shape[1] == fc.shape[0],
        }
        if not found["light"]:
            found["img_size"] = 4 * round((fc.shape[1] / fc.shape[0]) ** 0.5)
        return found


def architecture_of(state: dict, path: Path) -> dict:
    """The architecture options of a checkpoint: as stored, or inferred for a released one."""
    inferred = infer_architecture(state, path)
    if "args" not in state:
        return inferred
    with fitting(path, "args"):
        stored = {k: v for k, v in state["args"].items() if k in (*ARCHITECTURE, "img_size")}
        stored["heads"] = tuple(stored["heads"])
        if 2 not in stored["heads"]:
            del inferred["n_dis"]  # such a discriminator ends before the layers that would tell
        wrong = [k for k, v in inferred.items() if stored[k] != v]
        if wrong:  # nothing is built that the file does not hold
            raise ValueError(f"its networks have another {', '.join(wrong)}")
    return stored


def saved_options(state: dict) -> dict:
    """The options of a checkpoint's run that continuing it takes over: none that says where to read or write."""
    return {k: v for k, v in state.get("args", {}).items() if k not in (*NOT_SAVED, "dataset")}


def option(name: str, args, state: dict):
    """An option as given on the command line, else as the checkpoint has it, else its default."""
    if name in args.given:
        return getattr(args, name)
    return state.get("args", {}).get(name, getattr(args, name))


def refuse_contradictions(state: dict, path: Path, architecture: dict, args):
    """UserError listing the options in which a checkpoint's run differs; report changed hyper-parameters."""
    stored = state.get("args", {})
    saved = {**{k: v for k, v in stored.items() if k in IDENTITY}, **architecture_of(state, path)}
    ours = {**{k: getattr(args, k) for k in IDENTITY}, **architecture}
    wrong = [f"--{k} is {ours[k]}, there {v}" for k, v in saved.items() if ours.get(k) != v]
    if wrong:
        raise UserError(
            f"{shown(path)} is of another run: {'; '.join(wrong)}; give these options as there, or leave them out"
        )
    changed = [
        f"--{k} {v} -> {getattr(args, k)}"
        for k, v in stored.items()
        if k not in IDENTITY and hasattr(args, k) and getattr(args, k) != v
    ]
    if changed:
        print(f"changed since the checkpoint: {', '.join(changed)}", file=sys.stderr)


def load_optimizer(optimizer, state: dict, name: str, path: Path):
    """Take over moments and step counts; rates and decays stay those of the options."""
    ours, parameters = optimizer.state_dict(), optimizer.param_groups[0]["params"]
    with fitting(path, name):
        moments = state[name]["state"]
        # ours may lack parameters that an ablation never trains; there the digest tells what is missing
        if not all(0 <= i < len(parameters) for i in moments) or (
            "digest" not in state and len(moments) not in (0, len(parameters))
        ):
            raise ValueError("it is about other parameters")
        for index, entry in moments.items():
            for key in ("exp_avg", "exp_avg_sq"):
                if entry[key].shape != parameters[index].shape or not entry[key].is_floating_point():
                    raise ValueError(f"{key} of parameter {index} has shape {tuple(entry[key].shape)}")
        own = {}  # copies: the file must be free to go, and the fused update walks memory in order, so
        for i, entry in moments.items():  # that moments need the layout (channels_last) of their parameter
            own[i] = {"step": torch.tensor(float(entry["step"]))}  # torch 1.x wrote an int
            own[i] |= {k: torch.empty_like(parameters[i]).copy_(entry[k]) for k in ("exp_avg", "exp_avg_sq")}
        optimizer.load_state_dict({"state": own, "param_groups": ours["param_groups"]})


def keep_previous(results: Path):
    """A new run where an old one lies: what can be continued moves to results/NAME/previous_1 or _2 or ..."""
    old = [p for p in (latest_path(results), results / "log.jsonl", results / "model") if p.exists()]
    old = [p for p in old if p.is_dir() or p.stat().st_size]
    if not old:
        return
    folder = next(p for n in itertools.count(1) if not (p := results / f"previous_{n}").exists())
    with writing(folder):
        folder.mkdir()
        for path in old:
            os.replace(path, folder / path.name)
    print(f"starting anew; the checkpoints and the log of an earlier run are now in {shown(folder)}", file=sys.stderr)
