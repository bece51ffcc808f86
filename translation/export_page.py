"""--phase export --format html: one file that translates pictures in a browser, without a server or a network.

The file holds the model of each direction (ONNX, half weights), ONNX Runtime Web, and the page of translation/page/.
"""

import base64
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

from translation.pipeline import direction_name, is_size_bound
from translation.web_runtime import runtime
from utils import atomic

PAGE = Path(__file__).with_name("page")


def write_page(trainer, directions: list[tuple], models: Callable, title: str, place: Path):
    """Write the page; models(s, t): the metadata and the ONNX file of a direction."""
    script, wasm = runtime(trainer.args.ort)
    made = {direction_name(trainer, s, t): (models(s, t), trainer.export_function(s, t)[1]) for s, t in directions}
    abouts = [about for (about, _), _ in made.values()]
    data = {
        "title": f"{title} by {trainer.args.method}",
        "directions": [
            {"name": name, "label": label(title, name), "extra": {k: list(x.shape) for k, (x, _) in extra.items()}}
            for name, (_, extra) in made.items()
        ],
        "about": "\n".join(f"{k}: {v if isinstance(v, str) else json.dumps(v)}" for k, v in abouts[0].items()),
        "size": abouts[0]["img_size"],
        "bound": abouts[0]["img_size"] if is_size_bound(trainer) else 0,
        "multiple": trainer.size_multiple,
        "least": math.ceil(trainer.min_size / trainer.size_multiple) * trainer.size_multiple,
        "rounds": trainer.test_split == "train",  # its program resizes pictures, others repeat their borders
        "channels": trainer.architecture["img_ch"],
        "worker": _read("worker.js"),
    }
    page = _read("page.html")
    packs = {name: packed(model) for name, ((_, model), _) in made.items()}
    tags = [f'<script type="text/plain" id="model_{name}">{text}</script>' for name, text in packs.items()]
    inside = {
        "css": _read("base.css") + _read("page.css"),
        "licence": _read("licence.txt"),
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),  # so that no name ends the script
        "pixels": _read("pixels.js"),
        "js": _read("page.js"),
        "ort": base64.b64encode(script).decode(),
        "wasm": packed(wasm),
        "models": "\n".join(tags),
    }
    begin, *parts = page.split("{{")  # at once: what is inserted is not searched
    texts = [inside[key] + rest for key, _, rest in (part.partition("}}") for part in parts)]
    with atomic(place) as temporary:
        temporary.write_text(begin + "".join(texts), encoding="utf-8", errors="surrogateescape")


def label(title: str, direction: str) -> str:
    """The name of a direction on the page: horse2zebra gives "horse to zebra"."""
    first, two, second = title.partition("2")
    names = {"A": first, "B": second} if two and first and second else {"A": "A", "B": "B"}
    return f"{names[direction[0]]} to {names[direction[-1]]}"


def packed(content: bytes) -> str:
    """gzip, then base64.  The same content gives the same text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")
