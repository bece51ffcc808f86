"""Checkpoints: written whole or not at all, verified, and never executed.

A checkpoint is one dict: the state dicts of a method's networks by their names (NICE-GAN's: gen2B gen2A
disA disB), D_optimizer, G_optimizer or whatever optimizers it has, start_iter (the last finished step);
ours adds position, args, rng, guard, scalers, memory, with --ema the average, and a digest of each entry.  The
authors' programs keep less, in one file or one a network: `Trainer.adopt` of the method says how.
"""

import hashlib
import re
import sys
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

import methods
from utils import UserError, atomic, brief, shown

# what profiling tools and PyTorch before 0.4 left in networks that do not have it
STRAY = ("total_ops", "total_params", "running_mean", "running_var", "num_batches_tracked")
# options of one call, not of the run; above all the paths: a stranger's checkpoint names no place to write to
NOT_SAVED = ("phase", "resume", "checkpoint", "device", "command", "given", "keep_size", "skip_bad_images")
NOT_SAVED += ("dataset_dir", "result_dir", "plain", "styles", "style_from", "raw_weights")
NOT_SAVED += ("input", "output", "tile", "format", "half")

# what a checkpoint may hold beside networks; all but the optimizers and start_iter are ours alone
TYPES = {"start_iter": int, "position": int, "scalers": dict, "guard": dict, "memory": dict}
TYPES |= {"args": dict, "rng": dict, "digest": dict, "method": str}
TYPES |= {"ema": dict, "score": dict}  # the averaged networks; what a best checkpoint is best at
TYPES |= {"metadata": dict}  # of a model file (export.py), which holds parts of networks


def is_network(key: str) -> bool:
    """Whether this entry of a checkpoint is a network."""
    return key not in TYPES and not key.endswith("_optimizer")


def latest_path(results: Path) -> Path:
    return results.parent / f"{results.name}_params_latest.pt"


def best_path(results: Path) -> Path:
    return results.parent / f"{results.name}_params_best.pt"


def numbered_paths(results: Path) -> list[Path]:
    """results/NAME/model/NAME_params_0001000.pt and its like, oldest first."""
    pattern = re.compile(re.escape(results.name) + r"_params_(\d{7,})\.pt")
    folder = results / "model"
    found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(pattern.fullmatch(p.name)[1]))


def candidates(results: Path) -> list[Path]:
    """The checkpoints of a run that can be continued, the newest first."""
    return [p for p in (latest_path(results), *reversed(numbered_paths(results))) if p.exists()]


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
    """Read a checkpoint of ours or of a method's authors, which may be a folder with a file a network.

    Returns our dict, with the name of its method besides.  UserError: missing, damaged, foreign.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".pt", ".pth") and p.is_file())
    if not path.exists():
        raise UserError(f"no checkpoint {shown(path)}; train first, or name another with --checkpoint")
    if not files:
        raise UserError(f"no checkpoint in the folder {shown(path)}: no file there ends in .pt or .pth; name another "
                        "with --checkpoint")
    found = {file.stem: _read(file) for file in files}
    single = next(iter(found.values()))
    if path.is_file() and not all(isinstance(value, torch.Tensor) for value in single.values()):
        found = single  # a dict of networks; else the file is one network
    recognised = methods.recognise(found)
    if recognised is None:
        known = ", ".join(methods.METHODS)
        raise UserError(f"{shown(path)} is no checkpoint of a method that is known here ({known}); name another")
    method, state = recognised
    state = {**state, "method": method}
    for name, value in state.items():
        kind = dict if is_network(name) or name.endswith("_optimizer") else TYPES[name]
        if not isinstance(value, kind) or (kind is int and value < 0):
            raise UserError(f"{shown(path)} is damaged: {shown(name)} is no {kind.__name__} that makes sense")
        if is_network(name) and not all(isinstance(v, torch.Tensor) for v in value.values()):
            raise UserError(f"{shown(path)} is damaged: {shown(name)} holds something that is no tensor")
    return state


def _read(path: Path) -> dict:
    """The dict in a file.  UserError: damaged, or not to be trusted."""
    try:
        zipped = _is_sound_archive(path)
        if not zipped:
            with open(path, "rb") as file:
                if file.read(1) != b"\x80":  # as every pickle begins that torch has written
                    raise ValueError("torch has written no such file")
        # weights_only: no pickle of a stranger is ever executed; mmap: only what is used is read
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        _check_extent(state, path.stat().st_size)
        if zipped and "digest" not in state:
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of {damaged} differs")
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise ValueError("it holds no dict of names")
        return state
    except Exception as error:  # parsers of damaged files trip in many ways
        reason = brief(error)
        raise UserError(
            f"{shown(path)} is no checkpoint of this program or is damaged ({reason}); name another with --checkpoint"
        ) from None


def by_name(found: dict, names: set[str]) -> dict | None:
    """Networks with these names in a dict of ours, or in files like latest_net_NAME.pth or 5_net_NAME.pth.

    At least one of them, the newest of each; None where there is none.
    """
    if any(isinstance(found.get(name), dict) for name in names):
        return found
    networks = {}
    for file, content in found.items():
        epoch, _, name = file.rpartition("_net_")
        if name in names and isinstance(content, dict):
            age = (2, 0) if epoch == "latest" else (1, int(epoch)) if epoch.isdecimal() else (0, 0)
            networks[name] = max(networks.get(name, ((-1, 0), None)), (age, content), key=lambda pair: pair[0])
    return {name: content for name, (_, content) in networks.items()} or None


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
            if key in ("digest", "method") or (keys and key not in keys):
                continue
            if stored.get(key) != (digest(state[key]) if key in state else None):
                raise ValueError("its digest differs; name another with --checkpoint")


@contextmanager
def fitting(path: Path, what: str):
    """UserError: whatever an entry of a damaged or foreign checkpoint makes Python or torch raise."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(path)} is damaged or does not fit: {shown(what)}: {brief(error)}") from None


def path_of(named: str, results: Path) -> Path:
    """The file that --checkpoint names: best and latest are those of the run.  UserError: there is no best yet."""
    path = {"best": best_path(results), "latest": latest_path(results)}.get(named, Path(named))
    if named == "best" and not path.exists():
        raise UserError(f"no checkpoint {shown(path)}: a training with --score_freq keeps one")
    return path


def newest_checkpoint(results: Path, named: str | None = None, to_translate=False) -> tuple[dict, Path]:
    """The newest valid checkpoint of a run, or the one named.  to_translate: verify only what that needs."""
    paths = [path_of(named, results)] if named else candidates(results)
    if not paths:
        earlier = [p for p in results.glob("previous_*/*_params_latest.pt") if p.parent.name[9:].isdecimal()]
        earlier.sort(key=lambda p: int(p.parent.name[9:]))
        remedy = f"name the earlier run's with --checkpoint {shown(earlier[-1])}" if earlier else (
            "train first, check --dataset and --result_dir, or use --checkpoint")
        raise UserError(f"no checkpoint {shown(latest_path(results))}; {remedy}")
    for path in paths:
        try:
            state = load_checkpoint(path)
            verify(state, path, [*filter(is_network, state), "args", "ema"] if to_translate else None)
            return state, path
        except UserError as error:
            if path == paths[-1]:
                raise
            print(f"{error}; falling back to an older one", file=sys.stderr)
    raise AssertionError("unreachable")


def architecture_of(state: dict, path: Path, method: type) -> dict:
    """The options of group "model" of a checkpoint: as stored, or for an authors' one told by its shapes."""
    with fitting(path, f"the networks are not those of {state['method']}"):
        inferred = {} if "metadata" in state else method.infer(state)
    if "args" not in state:
        return inferred
    with fitting(path, "args"):
        names = (*method.architecture_options(), "img_size")
        found = {k: tuple(v) if isinstance(v, list) else v for k, v in state["args"].items() if k in names}
        wrong = [k for k, v in inferred.items() if found[k] != v]
        if wrong:  # nothing is built that the file does not hold
            raise ValueError(f"its networks have another {', '.join(wrong)}")
    return found


def saved_options(state: dict) -> dict:
    """The options of a checkpoint's run that continuing it takes over: none that says where to read or write."""
    saved = {k: v for k, v in state.get("args", {}).items() if k not in (*NOT_SAVED, "dataset")}
    return {**saved, "method": state["method"]}


def to_translate_with(state: dict, path: Path) -> dict:
    """The options of a checkpoint that decide how it translates: its method, networks, and of one way, which."""
    method = methods.load(state["method"])
    found = {"method": state["method"], **architecture_of(state, path, method)}
    if len(method.directions) == 1 or "metadata" in state:
        found["direction"] = state.get("metadata", state.get("args", {})).get("direction")
    return found


def option(name: str, args, state: dict):
    """An option as given on the command line, else as the checkpoint has it, else its default."""
    if name in args.given:
        return getattr(args, name)
    return state.get("args", {}).get(name, getattr(args, name))


def refuse_contradictions(state: dict, path: Path, trainer):
    """UserError listing the options in which a checkpoint's run differs; report changed hyper-parameters."""
    args, stored = trainer.args, state.get("args", {})
    same = state["method"] == args.method  # else nothing else can be compared
    architecture = architecture_of(state, path, type(trainer)) if same else {}
    identity = {"method", "dataset", *architecture} - (set() if trainer.size_bound else {"img_size"})
    if len(type(trainer).directions) == 1:
        identity.add("direction")
    saved = {**(stored if same else {}), **architecture, "method": state["method"]}
    ours = {**vars(args), **trainer.architecture}
    wrong = [f"--{k} is {ours.get(k)}, there {v}" for k, v in saved.items() if k in identity and ours.get(k) != v]
    if wrong:
        raise UserError(
            f"{shown(path)} is of another run: {'; '.join(wrong)}; give these options as there, or leave them out"
        )
    changed = [
        f"--{k} {v} -> {getattr(args, k)}"
        for k, v in stored.items()
        if k not in identity and hasattr(args, k) and getattr(args, k) != v
    ]
    if changed:
        print(f"changed since the checkpoint: {', '.join(changed)}", file=sys.stderr)


def load_network(net: torch.nn.Module, state: dict, name: str, path: Path, parts: tuple[str, ...] = ("",)):
    """Take over a network's weights, without what is stray in it.  UserError: they do not fit.

    parts: beginnings of the names of what has to be there; the rest of the network stays as it is.
    """
    with fitting(path, name):
        weights, own = state[name], net.state_dict()
        if weights and all(key.startswith("module.") for key in weights):  # saved from a DataParallel
            weights = {key.removeprefix("module."): value for key, value in weights.items()}
        weights = {k: v for k, v in weights.items() if k in own or k.split(".")[-1] not in STRAY}
        net.load_state_dict({k: v for k, v in own.items() if not k.startswith(parts)} | weights)


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
