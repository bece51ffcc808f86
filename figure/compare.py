"""The same pictures translated by several methods, of any program: the paper's comparison figure.

    python figure/compare.py --input dataset/cat2dog/testA NICE-GAN=results/cat2dog/fakeB CycleGAN=../cyclegan/fakeB

Each row shows an input and the picture of the same name (any suffix) in each METHOD's folder, all in the proportions of
the input.
"""

import sys
from pathlib import Path

from command_line import UserError, at_once, bounded, method, need_folder, parser, run


def parse_args(argv=None):
    options = parser(__doc__)
    options.add_argument("methods", nargs="+", metavar="METHOD=DIR", help="a method's name and its folder of pictures")
    options.add_argument("--input", type=Path, required=True, metavar="DIR", help="folder of the input pictures")
    options.add_argument("--pictures", type=bounded(int, 1), default=4, help="number of rows, spread over the folder")
    options.add_argument("--names", nargs="+", metavar="NAME", help="the pictures to show, instead of --pictures")
    options.add_argument("--size", type=bounded(int, 16), help="longest side in pixels, to which all are scaled "
                        "(default: that of the largest picture shown)")  # fmt: skip
    options.add_argument("--title", help="title (default: the input's folder)")
    options.add_argument("--name", default="compare", help="name of the figure, without suffix")
    args = options.parse_args(argv)
    for folder in (args.input, *(method(text)[1] for text in args.methods)):
        need_folder(folder)
    return args


if __name__ == "__main__":  # before torch is imported
    at_once("compare.py", parse_args)

import common
import numpy as np
from PIL import Image

from images.decode import read_image
from images.files import list_images
from utils import shown as printable


def by_stem(folder: Path) -> dict[Path, Path]:
    """The pictures of a folder by their relative paths without suffix."""
    paths = list_images(folder)
    found = {path.relative_to(folder).with_suffix(""): path for path in paths}
    if len(found) < len(paths):
        same = f"left out {len(paths) - len(found)} pictures in {printable(folder)}: others have the same name"
        print(f"{same} but for the suffix", file=sys.stderr)
    return found


def choose(found: dict[Path, Path], names: list[str] | None, n: int, folder: Path) -> list[Path]:
    """The stems of the rows: those named, or n evenly spread over all."""
    if names is None:
        return common.evenly(list(found), n)
    for name in names:
        if Path(name) not in found and Path(name).with_suffix("") not in found:
            raise UserError(f"{folder} has no picture {name}; check --names")
    return [Path(name) if Path(name) in found else Path(name).with_suffix("") for name in names]


def alike(rows: list[list[Image.Image | None]], longest: int) -> list[list[np.ndarray | None]]:
    """Rows of pictures with their longest side scaled to `longest`, in the proportions of the first of their row, on
    white squares or rectangles of one shape: (H,W,3) uint8.  None stays."""
    sizes = [[max(1, round(side * longest / max(row[0].size))) for side in row[0].size] for row in rows]
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    shown = []
    for row, (w, h) in zip(rows, sizes, strict=True):
        shown.append([])
        for picture in row:
            if picture is None:
                shown[-1].append(None)
                continue
            canvas = Image.new("RGB", (width, height), "white")
            picture = picture.convert("RGB").resize((w, h), Image.Resampling.BICUBIC)
            canvas.paste(picture, ((width - w) // 2, (height - h) // 2))
            shown[-1].append(np.asarray(canvas))
    return shown


def main(argv=None):
    args = parse_args(argv)
    sources = {"input": by_stem(args.input)}
    for text in args.methods:
        name, folder = method(text)
        if name in sources:
            raise UserError(f"two columns are named {name}; give each METHOD a name of its own")
        sources[name] = by_stem(folder)
    rows = []
    for stem in choose(sources["input"], args.names, args.pictures, args.input):
        for text, (name, found) in zip(["", *args.methods], sources.items(), strict=True):
            if stem not in found:
                raise UserError(f"{text.partition('=')[2]} has no picture {stem}; translate {args.input} with {name}")
        rows.append([read_image(found[stem]) for found in sources.values()])
    rows = alike(rows, args.size or max(max(picture.size) for row in rows for picture in row))
    title = args.title or f"{'/'.join(args.input.parts[-2:])}: the same pictures by each method"
    results = Path("results", args.input.resolve().parent.name)  # the data set's
    common.save(common.grid(rows, list(sources), title), args.out, results, args.name, args.format, args.dpi)


if __name__ == "__main__":
    run(main, "compare.py")
