"""What a checkpoint holds: options and networks, of this program or of another one."""

import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from utils import UserError, brief, shown

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


@contextmanager
def fitting(path: Path, what: str):
    """UserError: whatever an entry of a damaged or foreign checkpoint makes Python or torch raise."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(path)} is damaged or does not fit: {shown(what)}: {brief(error)}") from None


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


def architecture_of(state: dict, path: Path, method: type) -> dict:
    """The options of group "model" of a checkpoint: as stored, or for an authors' one told by its shapes."""
    with fitting(path, f"the networks are not those of {state['method']}"):
        inferred = {} if "metadata" in state else method.infer_options(state)
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
