"""Shared by the figures: the trained model, pictures, plots as wide as a README."""

import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from command_line import DPI, UserError

import main as program
import methods
import NICE
from checkpoints.contents import architecture_of, load_network, saved_options
from checkpoints.files import newest_checkpoint
from images.decode import load_for_test
from images.encode import jet
from images.files import list_images
from nicegan.command_line import refuse_what_the_file_lacks
from utils import atomic, own_file, shown

__all__ = ["jet"]

INSTALL = f"pip install -r {own_file('requirements-figures.txt')}"
WIDTH = 9.0  # maximum in inches: at DPI about the 900 pixels that a README shows
TITLE, TEXT = 12, 10  # sizes of letters in points
GAP = 0.04  # between pictures, as a share of their width


# --------------------------------------------------------------------------------- model and pictures


def results(args) -> Path:
    """The folder of the training's results."""
    return Path(args.result_dir) / args.dataset


def load_model(args) -> tuple[NICE.NICE, dict, Path]:
    """The trained model in evaluation mode, its checkpoint and that file's path.  UserError: none usable."""
    state, path = newest_checkpoint(results(args), args.checkpoint, methods.recognise, to_translate=True)
    if state["method"] != "nice":
        raise UserError(f"{shown(path)} is of --method {state['method']}; this figure is about NICE-GAN's encoders")
    refuse_what_the_file_lacks(state, path)
    nice = build(args, state, path)
    for name, net in nice.networks().items():
        load_network(net, state, name, path)
    return nice, state, path


def build(args, state: dict, path: Path) -> NICE.NICE:
    """The checkpoint's model in evaluation mode, with the initial weights of its seed."""
    argv = [f"--{k}={getattr(args, k)}" for k in ("dataset", "dataset_dir", "result_dir", "device") if getattr(args, k)]
    saved = saved_options(state) | architecture_of(state, path, NICE.NICE)
    nice = NICE.NICE(program.parse_args(["--phase", "test", *argv], saved=saved))
    for net in nice.networks().values():
        net.eval()
    return nice


def evenly(things: list, n: int) -> list:
    """n things (or all, if fewer) evenly spread over the list, first and last included."""
    return [things[i] for i in np.linspace(0, len(things) - 1, min(n, len(things))).round().astype(int)]


def pictures(args, nice: NICE.NICE, folder: str, n: int) -> torch.Tensor:
    """Up to n pictures of a folder of the data set, evenly spread: (n,C,S,S) in [-1,1] on the model's device."""
    paths = evenly(list_images(Path(args.dataset_dir) / args.dataset / folder), n)
    size, channels = nice.args.img_size, nice.args.img_ch
    return torch.stack([load_for_test(path, size, channels) for path in paths]).to(nice.device)


@torch.no_grad()
def one_by_one(network, batch: torch.Tensor) -> torch.Tensor:
    """network(batch), one picture at a time to save memory: (n,...)."""
    return torch.cat([network(x) for x in batch.split(1)])


def steps(state: dict) -> str:
    return f"{state.get('start_iter', 0):,} steps"


# ---------------------------------------------------------------------------------------------- plots


def pyplot():
    """matplotlib.pyplot, set up to write files.  UserError: not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(f"matplotlib is not installed; the figures need it: {INSTALL}") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": TEXT, "figure.titlesize": TITLE, "axes.titlesize": TEXT, "figure.dpi": DPI})
    pyplot.rcParams["text.parse_math"] = False  # a $ in a name is a $
    pyplot.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    return pyplot


def printable(text: str) -> str:
    """The text with bytes of names that are no UTF-8 escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def inches(text: str, points: float = TEXT) -> float:
    """Width of the widest line of the text."""
    from matplotlib.textpath import TextPath

    lines = [line for line in text.split("\n") if line.strip()]
    return max((TextPath((0, 0), line, size=points).get_extents().width / 72 for line in lines), default=0.0)


def wrapped(text: str, width: float, points: float = TEXT) -> str:
    """The text in lines of at most `width` inches, broken between words, or within a word that is wider."""
    lines = []
    for line in printable(text).split("\n"):
        lines.append("")
        for word in line.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if inches(longer, points) <= width:
                lines[-1] = longer
                continue
            lines += [""] if lines[-1] else []
            for letter in word:
                lines += [""] if lines[-1] and inches(lines[-1] + letter, points) > width else []
                lines[-1] += letter
    return "\n".join(lines)


def to_rgb(x: torch.Tensor) -> np.ndarray:
    """(3 or 1,H,W) in [-1,1] to (H,W,3) in [0,1]."""
    return ((x.detach().float().cpu().expand(3, -1, -1) + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()


def grid(rows: list[list[np.ndarray]], columns: list[str], title: str, labels: list[str] | None = None):
    """A figure of rows of pictures, with titles above the columns and labels before the rows.

    rows: pictures (H,W,3) in [0,1] or uint8, all of one shape; None leaves a gap.  At `least_dpi`
    of the figure the pictures have their own number of pixels.
    """
    plt = pyplot()
    height, width = next(p.shape[:2] for row in rows for p in row if p is not None)
    left = 0.0 if labels is None else 0.9  # inches
    wide = min(WIDTH, 0.2 + left + 2.2 * len(columns))
    cell = (wide - 0.2 - left) / (len(columns) + GAP * (len(columns) - 1))
    columns = [printable(text) for text in columns]
    points = TEXT  # smaller where a word is wider than its column
    while points > 5 and max(inches(word, points) for text in columns for word in text.split(" ")) > 0.96 * cell:
        points -= 0.5
    columns = [wrapped(text, 0.96 * cell, points) for text in columns]
    title = wrapped(title, wide - 0.2, TITLE)
    tall = cell * (len(rows) * height / width + GAP * (len(rows) - 1))
    top = 0.36 + 0.2 * (title.count("\n") + 1 + max(text.count("\n") for text in columns))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(wide, tall + top + 0.1), squeeze=False)
    figure.least_dpi = math.ceil(width / cell)
    figure.subplots_adjust(
        left=(0.1 + left) / wide,
        right=1 - 0.1 / wide,
        bottom=0.1 / (tall + top + 0.1),
        top=1 - top / (tall + top + 0.1),
        wspace=GAP,
        hspace=GAP * width / height,
    )
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            axes[i, j].set_axis_off()
            if picture is not None:
                axes[i, j].imshow(picture, interpolation="lanczos", aspect="auto")
        if labels is not None:
            axes[i, 0].text(-0.06, 0.5, labels[i], transform=axes[i, 0].transAxes, ha="right", va="center")
    for j, text in enumerate(columns):
        axes[0, j].set_title(text, pad=4, fontsize=points)
    figure.suptitle(title, y=1 - 0.08 / (tall + top + 0.1), va="top")
    return figure


def save(figure, out: Path | None, results: Path, name: str, format: str = "png", dpi: int = DPI):
    """Write the figure as NAME.FORMAT into `out` (default: results/figure), atomically, and print its path."""
    path = (out or results / "figure") / f"{name}.{format}"
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"--out {path.parent} is not a folder; name another")
    for text in figure.findobj(lambda artist: hasattr(artist, "set_text")):  # names may be no UTF-8
        text.set_text(printable(text.get_text()))
    with atomic(path) as temporary:
        figure.savefig(temporary, format=format, facecolor="white", dpi=max(dpi, getattr(figure, "least_dpi", 0)))
    print(f"wrote {relative(path)}")


def relative(path: Path) -> Path:
    """The path relative to the current folder if it is below it."""
    with suppress(ValueError):
        return Path(os.path.abspath(path)).relative_to(Path.cwd())
    return path
