"""A folder with model.safetensors and config.json, as model hubs expect one: written and read.

model.safetensors holds the networks' weights as NETWORK.KEY.  config.json holds everything else of a model file (args,
scales, start_iter, metadata).  The format holds numbers and names only; its reader checks them before anything else.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from checkpoints.contents import is_network
from checkpoints.describe import in_words
from checkpoints.weights import Foreign
from utils import atomic, open_regular

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAX_CONFIG = 1 << 20  # bytes
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32)


def is_model_folder(path: Path) -> bool:
    return (path / WEIGHTS).exists()


def write_model_folder(state: dict, folder: Path):
    """Write the networks and the rest of a model file's state; the folder exists."""
    networks = {name: net for name, net in state.items() if is_network(name)}
    weights = {f"{name}.{key}": x.contiguous() for name, net in networks.items() for key, x in net.items()}
    config = {key: value for key, value in state.items() if key not in networks}
    for name, content in {
        WEIGHTS: save(weights, {"format": "pt"}),
        CONFIG: (json.dumps(config, indent=1, allow_nan=False) + "\n").encode(),
    }.items():
        with atomic(folder / name) as temporary:
            temporary.write_bytes(content)


def read_model_folder(folder: Path) -> dict:
    """The state of a model file: networks by name, args, scales, start_iter, metadata.

    Links to files are followed, as hubs' caches are made of them.  Raises OSError, or ValueError if it is damaged.
    """
    with open_regular(folder / WEIGHTS) as file:
        content = file.read()
    try:
        weights = load(content)
    except KeyError as error:
        raise Foreign(f"{WEIGHTS} holds numbers of the kind {error.args[0]}, which no network here has") from None
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{WEIGHTS}: {error}") from None
    if not (folder / CONFIG).exists():
        raise Foreign(f"there is no {CONFIG}, which names the method; {in_words({WEIGHTS: weights})}")
    state = {}
    for key, value in weights.items():
        name, dot, rest = key.partition(".")
        if not dot or not rest or not is_network(name):
            raise Foreign(f"{WEIGHTS}: {key} names no weight of a network here; {in_words({WEIGHTS: weights})}")
        if value.dtype not in DTYPES:
            raise Foreign(f"{WEIGHTS}: {key} is of the kind {value.dtype}, which no network here has")
        state.setdefault(name, {})[rest] = value
    with open_regular(folder / CONFIG) as file:
        text = file.read(MAX_CONFIG + 1)
    if len(text) > MAX_CONFIG:
        raise ValueError(f"{CONFIG} is larger than that of any model")
    config = json.loads(text, parse_constant=_refuse)
    if not isinstance(config, dict) or any(is_network(key) for key in config) or "metadata" not in config:
        raise Foreign(f"{CONFIG} does not describe a model of this program; {in_words({WEIGHTS: weights})}")
    return {**state, **config}


def _refuse(constant: str):
    raise ValueError(f"{CONFIG} holds {constant}, which is no number")
