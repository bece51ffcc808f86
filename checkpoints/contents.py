"""The contents of a checkpoint, of this program or of another: options, networks, optimizers."""

import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from utils import UserError, brief, shown

# entries that profiling tools and PyTorch before 0.4 left in state dicts
STRAY = ("total_ops", "total_params", "running_mean", "running_var", "num_batches_tracked")

# options of one call, not of the run; above all paths: a foreign checkpoint must not say where to write
NOT_SAVED = ("phase", "resume", "checkpoint", "device", "command", "given", "keep_size", "skip_bad_images")
NOT_SAVED += ("dataset_dir", "result_dir", "plain", "styles", "style_from", "raw_weights")
NOT_SAVED += ("input", "output", "tile", "format", "half")

# entries of a checkpoint besides networks; only this program writes others than optimizers and start_iter
TYPES = {"start_iter": int, "position": int, "scalers": dict, "guard": dict, "memory": dict}
TYPES |= {"args": dict, "rng": dict, "digest": dict, "method": str}
TYPES |= {"ema": dict, "score": dict}  # the EMA weights; the best score
TYPES |= {"metadata": dict}  # of an exported model file, which holds parts of networks


def is_network(key: str) -> bool:
    """Whether this entry of a checkpoint is a network."""
    return key not in TYPES and not key.endswith("_optimizer")


@contextmanager
def fitting(path: Path, what: str):
    """Turn what Python or torch raise for a damaged or foreign checkpoint's entry into a UserError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(path)} is damaged or does not fit: {shown(what)}: {brief(error)}") from None


def by_name(found: dict, names: set[str]) -> dict | None:
    """Networks with these names in a dict of ours, or in files like latest_net_NAME.pth or 5_net_NAME.pth.

    The newest of each, at least one; None: there is none.
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


def architecture_of(state: dict, path: Path, method: type) -> dict:
    """A checkpoint's options of group "model": as stored, or inferred from the shapes of an authors' checkpoint."""
    with fitting(path, f"the networks are not those of {state['method']}"):
        inferred = {} if "metadata" in state else method.infer_options(state)
    if "args" not in state:
        return inferred
    with fitting(path, "args"):
        names = (*method.architecture_options(), "img_size")
        found = {k: tuple(v) if isinstance(v, list) else v for k, v in state["args"].items() if k in names}
        wrong = [k for k, v in inferred.items() if found[k] != v]
        if wrong:  # so that no larger network is built than the file holds
            raise ValueError(f"its networks have another {', '.join(wrong)}")
    return found


def saved_options(state: dict) -> dict:
    """The options that continuing a checkpoint's run takes over: none that says where to read or write."""
    saved = {k: v for k, v in state.get("args", {}).items() if k not in (*NOT_SAVED, "dataset")}
    return {**saved, "method": state["method"]}


def option(name: str, args, state: dict):
    """An option as given on the command line, else as the checkpoint has it, else its default."""
    if name in args.given:
        return getattr(args, name)
    return state.get("args", {}).get(name, getattr(args, name))


def learned_direction(state: dict, method: type) -> str | None:
    """AtoB or BtoA for a model file and for a checkpoint of a method that learns one direction; None: it has both.

    A file of the authors' program does not say: None.
    """
    if "metadata" in state:
        return state["metadata"].get("direction")
    if len(method.directions) == 1 and "args" in state:
        return state["args"].get("direction") or "AtoB"
    return None


def refuse_contradictions(state: dict, path: Path, trainer):
    """UserError listing the options in which a checkpoint's run differs; report changed hyper-parameters."""
    args, stored = trainer.args, state.get("args", {})
    same = state["method"] == args.method  # of another method nothing else is comparable
    architecture = architecture_of(state, path, type(trainer)) if same else {}
    identity = {"method", "dataset", *architecture} - (set() if trainer.size_bound else {"img_size"})
    saved = {**(stored if same else {}), **architecture, "method": state["method"]}
    ours = {**vars(args), **trainer.architecture}
    if learned := same and learned_direction(state, type(trainer)):
        identity.add("direction")
        saved["direction"], ours["direction"] = learned, args.direction or "AtoB"
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
    """Load a network's weights, without stray entries.  UserError: they do not fit.

    parts: prefixes of the keys to load; the rest of the network stays as it is.
    """
    with fitting(path, name):
        weights, own = state[name], net.state_dict()
        if weights and all(key.startswith("module.") for key in weights):  # saved from a DataParallel
            weights = {key.removeprefix("module."): value for key, value in weights.items()}
        weights = {k: v for k, v in weights.items() if k in own or k.split(".")[-1] not in STRAY}
        net.load_state_dict({k: v for k, v in own.items() if not k.startswith(parts)} | weights)


def load_optimizer(optimizer, state: dict, name: str, path: Path):
    """Load moments and step counts; learning rate and weight decay stay those of the options."""
    ours, parameters = optimizer.state_dict(), optimizer.param_groups[0]["params"]
    with fitting(path, name):
        moments = state[name]["state"]
        # an ablation may leave parameters untrained, so ours may have no moments; the digest detects lost ones
        if not all(0 <= i < len(parameters) for i in moments) or (
            "digest" not in state and len(moments) not in (0, len(parameters))
        ):
            raise ValueError("it is about other parameters")
        for index, entry in moments.items():
            for key in ("exp_avg", "exp_avg_sq"):
                if entry[key].shape != parameters[index].shape or not entry[key].is_floating_point():
                    raise ValueError(f"{key} of parameter {index} has shape {tuple(entry[key].shape)}")
        # copies: the file must be free to go, and the fused update needs moments in their parameter's memory layout
        own = {}
        for i, entry in moments.items():
            own[i] = {"step": torch.tensor(float(entry["step"]))}  # torch 1.x wrote an int
            own[i] |= {k: torch.empty_like(parameters[i]).copy_(entry[k]) for k in ("exp_avg", "exp_avg_sq")}
        optimizer.load_state_dict({"state": own, "param_groups": ours["param_groups"]})
