"""The contents of a checkpoint, of this program or of another: options, networks, optimizers."""

import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from options import another
from utils import UserError, brief, shown

# entries that profiling tools and PyTorch before 0.4 left in state dicts
STRAY = ("total_ops", "total_params", "running_mean", "running_var", "num_batches_tracked")

# options of one call, not of the run; above all paths: a foreign checkpoint must not say where to write
NOT_SAVED = ("phase", "resume", "checkpoint", "device", "command", "given", "keep_size", "skip_bad_images")
NOT_SAVED += ("dataset_dir", "result_dir", "plain", "styles", "style_from", "same_style", "raw_weights")
NOT_SAVED += ("input", "output", "tile", "format", "half", "ort", "init_from", "png", "epochs")
NOT_SAVED += ("opset", "keep_metadata", "longest", "replace", "shortest", "run", "deep", "diagram")

LARGEST = 2**63 - 1  # of a whole number, as of an option


def is_count(x) -> bool:
    return type(x) is int and 0 <= x <= LARGEST


def is_plain(x) -> bool:
    """A value of an option: None, a truth, a number, a text, or a short list of such."""
    if isinstance(x, (list, tuple)):
        return len(x) <= 1000 and all(is_plain(item) and not isinstance(item, (list, tuple)) for item in x)
    return x is None or isinstance(x, (bool, float, str)) or (type(x) is int and abs(x) <= LARGEST)


def is_tree(x, depth: int = 8) -> bool:
    """Dicts and lists, not too deep, of tensors and plain values."""
    if isinstance(x, dict):
        return depth > 0 and all(is_tree(item, depth - 1) for item in x.values())
    if isinstance(x, (list, tuple)):
        return depth > 0 and all(is_tree(item, depth - 1) for item in x)
    return isinstance(x, torch.Tensor) or is_plain(x)


def named(kind):
    """A test for a dict from names to what passes the test `kind`."""
    return lambda x: isinstance(x, dict) and all(isinstance(k, str) and kind(v) for k, v in x.items())


def is_number(x) -> bool:
    return type(x) in (int, float) and abs(x) < float("inf")


def is_levels(x) -> bool:
    """The values of deep pictures that become black and white."""
    return isinstance(x, (list, tuple)) and len(x) == 2 and all(map(is_number, x)) and x[0] < x[1]


def is_random_state(x) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype == torch.uint8 and x.dim() == 1


def record(kind=is_tree, **fields):
    """A test for a dict that has these entries and passes their tests; the others pass the test `kind`."""
    return lambda x: named(kind)(x) and all(name in x and test(x[name]) for name, test in fields.items())


def are_options(x) -> bool:
    """Options of a run; those of translated pictures are used as they are, the others are parsed."""
    if not named(is_plain)(x):
        return False
    sizes = x.get("img_size", 1), x.get("load_size") or 1  # heights and widths of pictures
    return all(type(side) is int and 0 < side <= 1 << 14 for side in sizes) and isinstance(x.get("preprocess", ""), str)


is_state_dict = named(lambda x: isinstance(x, torch.Tensor))


def is_score(x) -> bool:
    """The score of the best step, the others of that step and, in newer files, their intervals."""
    fits = record(step=is_count, name=lambda x: isinstance(x, str), scores=named(is_number))(x)
    return fits and named(lambda ends: isinstance(ends, (list, tuple)) and is_plain(ends))(x.get("intervals", {}))


# what a checkpoint may hold besides networks; only this program writes others than optimizers and start_iter
SCHEMA = {
    "start_iter": is_count,
    "position": is_count,
    "args": are_options,
    "method": lambda x: isinstance(x, str),
    "digest": named(lambda x: isinstance(x, str)),
    "guard": named(is_count),
    "scalers": named(named(is_plain)),
    "memory": named(is_tree),  # a method's own; its load_extra_state tests more
    "scales": named(named(is_levels)),  # of the deep pictures of each domain
    "rng": record(cpu=is_random_state, cuda=lambda x: isinstance(x, list) and all(map(is_random_state, x))),
    "ema": named(is_state_dict),  # the averaged weights
    "score": is_score,  # the best one
    # of an exported model file, which holds parts of networks
    "metadata": record(direction=lambda x: x in ("AtoB", "BtoA"), method=lambda x: isinstance(x, str)),
}


def is_network(key: str) -> bool:
    """Whether this entry of a checkpoint is a network."""
    return key not in SCHEMA and not key.endswith("_optimizer")


def holds_only_weights(state: dict) -> bool:
    """Whether this is of a method's authors whose program keeps no optimizers."""
    return "args" not in state and not any(key.endswith("_optimizer") for key in state)


def refuse_strange(state: dict, path: Path):
    """UserError: an entry is not of the kind that checkpoints hold."""
    for name, value in state.items():
        if name.endswith("_optimizer"):
            fits = isinstance(value, dict) and isinstance(value.get("state"), dict) and is_tree(value)
        else:
            fits = SCHEMA.get(name, is_state_dict)(value)
        if not fits:
            what = "holds something that is no tensor" if is_network(name) else "holds what no checkpoint does"
            raise UserError(f"{shown(path)} cannot be used: {shown(name)} {what}; {another()}")


@contextmanager
def fitting(path: Path, what: str):
    """Turn what Python or torch raise for a damaged or foreign checkpoint's entry into a UserError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(path)} does not fit: {shown(what)}: {brief(error)}") from None


def without_prefix(x, depth: int = 3):
    """A state dict, or a dict of such, without the "module." that DataParallel puts before all keys of a network."""
    if not isinstance(x, dict) or not depth:
        return x
    if x and all(isinstance(key, str) and key.startswith("module.") for key in x):
        return {key.removeprefix("module."): value for key, value in x.items()}
    return {key: without_prefix(value, depth - 1) for key, value in x.items()}


def lone_network(found: dict) -> dict | None:
    """The network in the only file, if that holds one; its name says nothing."""
    single = next(iter(found.values())) if len(found) == 1 else None
    return single if isinstance(single, dict) and is_state_dict(single) else None


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


def stored_options(state: dict) -> dict:
    """All options of a checkpoint; those that did not exist when it was written, as the program then worked."""
    if "args" not in state:  # a released one
        return {}
    before = {"preprocess": "resize_and_crop", "sampling": "shuffle"}
    if state.get("method") in ("gcgan", "drit"):
        before["early_decay"] = True
    return {**before, **state["args"]}


def newer_options(state: dict, parser, args) -> str:
    """The options that a checkpoint does not name and whose defaults have changed since, as words, or ""."""
    new = {k: v for k, v in stored_options(state).items() if k not in state["args"] and k not in args.given}
    if args.phase != "train":
        new = {k: v for k, v in new.items() if k == "preprocess"}
    return " ".join(f"--{k} {v}" for k, v in new.items() if hasattr(args, k) and parser.get_default(k) != v)


def saved_options(state: dict) -> dict:
    """The options that continuing a checkpoint's run takes over: none that says where to read or write."""
    saved = {k: v for k, v in stored_options(state).items() if k not in (*NOT_SAVED, "dataset")}
    return {**saved, "method": state["method"]}


def option(name: str, args, state: dict):
    """An option as given on the command line, else as the checkpoint has it, else its default."""
    if name in args.given:
        return getattr(args, name)
    return stored_options(state).get(name, getattr(args, name))


def learned_direction(state: dict, method: type) -> str | None:
    """AtoB or BtoA for a model file and for a checkpoint of a method that learns one direction; None: it has both.

    A file of the authors' program does not say: None.
    """
    if "metadata" in state:
        return state["metadata"].get("direction")
    if len(method.directions) == 1 and "args" in state:
        return state["args"].get("direction") or "AtoB"
    return None


def scales_in(state: dict) -> dict[str, dict]:
    """The scales of deep pictures {"A": ..., "B": ...} of a checkpoint or model file; {}: it has none."""
    scales = state.get("scales", {})
    return {d: {depth: tuple(levels) for depth, levels in scale.items()} for d, scale in scales.items()}


def refuse_contradictions(state: dict, path: Path, trainer):
    """UserError listing the options in which a checkpoint's run differs; report changed hyper-parameters."""
    args, stored = trainer.args, stored_options(state)
    same = state["method"] == args.method  # of another method nothing else is comparable
    architecture = architecture_of(state, path, type(trainer)) if same else {}
    identity = {"method", *architecture} - (set() if trainer.size_bound else {"img_size"})
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


def load_network(net: torch.nn.Module, state: dict, name: str, path: Path, parts: tuple[str, ...] = ("",), device=None):
    """Load a network's weights, without stray entries.  UserError: they do not fit.

    parts: prefixes of the keys to load; the rest of the network stays as it is.
    A network on the meta device gets memory on `device` for what is in the file, once its shapes have been compared.
    """
    with fitting(path, name):
        weights, own = state[name], net.state_dict()
        weights = {k: v for k, v in weights.items() if k in own or k.split(".")[-1] not in STRAY}
        for key, value in weights.items():
            if value.is_floating_point() and not (value.sum().isfinite() or value.isfinite().all()):
                raise ValueError(f"{key} holds values that are not finite numbers; name an earlier checkpoint")
            if key in own and value.is_floating_point() != own[key].is_floating_point():
                raise ValueError(f"{key} holds numbers of the kind {value.dtype}")
        rest = {k: v for k, v in own.items() if not k.startswith(parts)}
        empty = any(x.is_meta for x in own.values())
        if empty:
            net.load_state_dict(rest | {k: v.to("meta") for k, v in weights.items()}, assign=True)  # compares shapes
            for k, v in weights.items():  # in the network's layout, whatever the file's
                x = torch.empty_strided(v.shape, own[k].stride(), dtype=own[k].dtype, device=device)
                weights[k] = x.copy_(v)
        net.load_state_dict(rest | weights, assign=empty)


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
