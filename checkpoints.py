"""Checkpoints: written whole or not at all, verified, and never executed.

A checkpoint is one dict: gen2B gen2A disA disB (state dicts), D_optimizer, G_optimizer, start_iter
(the last finished step); ours adds position, args, rng, guard, scalers and a digest of each entry.
The released program's hold only the first seven, with stray total_ops and total_params inside.
"""

import hashlib
import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import torch

from utils import UserError, atomic

NETWORKS = ("gen2B", "gen2A", "disA", "disB")
EXTRA_NETWORKS = ("encA", "encB")  # the independent encoders of --nice false

# what a checkpoint's networks depend on: it cannot be continued with other values of these ...
ARCHITECTURE = ("light", "ch", "n_res", "n_dis", "img_ch", "nice", "ra", "heads", "shared_layers")
# ... nor with these, though its networks could be built
IDENTITY = (*ARCHITECTURE, "img_size", "dataset", "encoder_updates")
# options of one call, not of the run
NOT_SAVED = ("phase", "resume", "checkpoint", "device", "command", "given", "keep_size", "skip_bad_images")


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
    try:
        # weights_only: no pickle of a stranger is ever executed; mmap: only what is used is read
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}; train first, or name another with --checkpoint") from None
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:100]
        raise UserError(
            f"{path} is no checkpoint of this program or is damaged ({reason}); name another with --checkpoint"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(state.get(k), dict) for k in NETWORKS):
        raise UserError(f"{path} is no NICE-GAN checkpoint: it lacks {', '.join(NETWORKS)}")
    for name in NETWORKS + EXTRA_NETWORKS:
        if name in state:  # thop, used by the released program, leaves its counters in the networks
            net = {k: v for k, v in state[name].items() if str(k).split(".")[-1] not in ("total_ops", "total_params")}
            if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in net.items()):
                raise UserError(f"{path} is damaged: {name} holds something that is no tensor")
            state[name] = net
    if not isinstance(state.get("start_iter", 0), int):
        raise UserError(f"{path} is damaged: start_iter is no number")
    return state


def verify(state: dict, path: Path, keys=None):
    """Compare the stored digests (ours only; released checkpoints have none).  UserError: damaged."""
    stored = state.get("digest")
    if stored is None:
        return
    for key in keys or [k for k in state if k != "digest"]:
        if not isinstance(stored, dict) or stored.get(key) != digest(state.get(key)):
            raise UserError(f"{path} is damaged: the digest of {key} differs; name another with --checkpoint")


def newest_checkpoint(results: Path, named: str | None = None, keys=None) -> tuple[dict, Path]:
    """The newest valid checkpoint of a run, or the one named.  keys: what has to be verified."""
    candidates = [Path(named)] if named else [latest_path(results), *reversed(numbered_paths(results))]
    candidates = [p for p in candidates if named or p.exists()]
    if not candidates:
        raise UserError(
            f"no checkpoint {latest_path(results)}; train first, check --dataset and --result_dir, or use --checkpoint"
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


def infer_architecture(state: dict) -> dict:
    """The architecture options that the shapes in a checkpoint imply; for checkpoints without options."""
    try:
        dis, gen = state["disA"], state["gen2B"]
        stacks = ("model", "Dis0_0", "Dis1_0")
        layers = {p: sum(k.startswith(f"{p}.") and k.endswith("weight_orig") for k in dis) for p in stacks}
        first, fc = dis["model.1.weight_orig"], gen["FC.0.weight"]
        light = fc.shape[1] == fc.shape[0]
        found = {
            "ch": first.shape[0],
            "img_ch": first.shape[1],
            "n_dis": layers["model"] + layers["Dis0_0"] + layers["Dis1_0"] + 2,
            "n_res": sum(bool(re.fullmatch(r"UpBlock1_\d+\.conv1\.weight", k)) for k in gen),
            "light": light,
        }
        if not light:
            found["img_size"] = 4 * round((fc.shape[1] / fc.shape[0]) ** 0.5)
        return found
    except (KeyError, IndexError):
        raise UserError("the checkpoint's networks are not NICE-GAN's: some layers are missing") from None


def architecture_of(state: dict) -> dict:
    """The architecture options of a checkpoint: as stored, or inferred for a released one."""
    stored = state.get("args")
    if not isinstance(stored, dict):
        return infer_architecture(state)
    return {k: tuple(v) if k == "heads" else v for k, v in stored.items() if k in (*ARCHITECTURE, "img_size")}


def option(name: str, args, state: dict):
    """An option as given on the command line, else as the checkpoint has it, else its default."""
    if name in args.given:
        return getattr(args, name)
    return (state.get("args") or {}).get(name, getattr(args, name))


def refuse_contradictions(state: dict, path: Path, architecture: dict, args):
    """UserError listing the options in which a checkpoint's run differs; report changed hyper-parameters."""
    stored = state.get("args") or {}
    saved = {**{k: v for k, v in stored.items() if k in IDENTITY}, **architecture_of(state)}
    ours = {**{k: getattr(args, k) for k in IDENTITY}, **architecture}
    wrong = [f"--{k} is {ours[k]}, there {v}" for k, v in saved.items() if ours.get(k) != v]
    if wrong:
        raise UserError(f"{path} is of another run: {'; '.join(wrong)}; give these options as there, or leave them out")
    changed = [
        f"--{k} {v} -> {getattr(args, k)}"
        for k, v in stored.items()
        if k not in IDENTITY and hasattr(args, k) and getattr(args, k) != v
    ]
    if changed:
        print(f"changed since the checkpoint: {', '.join(changed)}", file=sys.stderr)


def load_optimizer(optimizer, saved, path: Path, name: str):
    """Take over moments and step counts; rates and decays stay those of the options."""
    ours = optimizer.state_dict()
    parameters = optimizer.param_groups[0]["params"]
    try:
        for index, entry in saved["state"].items():
            for key in ("exp_avg", "exp_avg_sq"):
                if entry[key].shape != parameters[index].shape:
                    raise ValueError(f"{key} of parameter {index} has shape {tuple(entry[key].shape)}")
        optimizer.load_state_dict({"state": saved["state"], "param_groups": ours["param_groups"]})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or does not fit: {name}: {' '.join(str(error).split())[:120]}") from None


def keep_previous(results: Path):
    """A new run where an old one lies: the old latest checkpoint and log get a new name, not lost."""
    for path in (latest_path(results), results / "log.jsonl"):
        if path.exists():
            kept = path.with_name(f"{path.stem}.previous{path.suffix}")
            os.replace(path, kept)
            print(f"starting anew; {path} of an earlier run is kept as {kept.name}", file=sys.stderr)


def link_or_copy(source: Path, target: Path):
    """A second name for a complete checkpoint: no second gigabyte where hard links exist."""
    with atomic(target) as temporary:
        with suppress(OSError):
            temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
