"""Shared by the figures: their options, and what is missing, without torch, whose import takes seconds.

Importing this makes the program's modules, one folder up, importable.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from options import Help, Parser, bounded, need_folder
from options import folder as folder_name
from options import name as data_name
from utils import UserError, at_once, run, shown

__all__ = ["UserError", "at_once", "bounded", "data_name", "need_folder", "run"]

DPI = 100
FORMATS = ("png", "pdf", "svg")


def parser(description: str, figure: bool = True, model: bool = False) -> Parser:
    """A parser; for figures with --out and for figures of a trained model with the options that select it."""
    parser = Parser(description=description.split("\n")[0], formatter_class=Help)
    if figure:
        parser.add_argument("--out", type=Path, help="folder for the figure (default: results/NAME/figure)")
        parser.add_argument("--format", choices=FORMATS, default="png", help="format of the figure")
        parser.add_argument("--dpi", type=bounded(int, 20, 2400), default=DPI, help="resolution in dots per inch; "
                            "grids take more where a picture would have fewer pixels than its own")  # fmt: skip
    if model:
        parser.add_argument("--dataset", required=True, type=data_name, help="data set of the training")
        parser.add_argument("--dataset_dir", default="dataset", type=folder_name, help="folder of the data sets")
        parser.add_argument("--result_dir", default="results", type=folder_name, help="folder of the results")
        parser.add_argument("--checkpoint", type=folder_name, metavar="FILE", help="use this file, not the newest")
        parser.add_argument("--device", help="cuda, mps or cpu (default: the best present)")
    return parser


def of_model(parser: Parser, argv: list[str] | None):
    """The options of a figure of a trained model.  UserError: there is neither a checkpoint nor a run's folder."""
    args = parser.parse_args(argv)
    results = Path(args.result_dir) / args.dataset
    latest = results.with_name(f"{results.name}_params_latest.pt")
    if not (args.checkpoint or results.is_dir() or latest.exists()):
        raise UserError(f"no checkpoint {shown(latest)}; train first, check --dataset and --result_dir, or use "
                        "--checkpoint")  # fmt: skip
    return args


def method(text: str) -> tuple[str, Path]:
    """The two parts of METHOD=DIR."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UserError(f"{text!r} is not of the form METHOD=DIR, such as NICE-GAN=results/cat2dog/fakeB")
    return name, Path(os.path.expanduser(folder))


def folder_of(run: Path) -> Path:
    """The folder of a run, given its folder or its log."""
    return run.parent if run.is_file() else run


def named(text: str) -> tuple[str, Path]:
    """Name and path of NAME=RUN or RUN (named after its folder)."""
    name, equals, path = text.partition("=")
    if not equals or os.path.exists(text):
        path = Path(os.path.expanduser(text))
        return folder_of(path).resolve().name, path
    return name, Path(os.path.expanduser(path))


def need_runs(runs: list[tuple[str, Path]]):
    """UserError: nothing lies at the path of one of these names and paths."""
    for _, path in runs:
        if not path.exists():
            raise UserError(f"{shown(path)} does not exist; name the folder of a run, such as results/cat2dog")
