"""The same pictures by several methods, of any tool: the paper's comparison figure.

    python figure/compare.py --input dataset/cat2dog/testA NICE-GAN=results/cat2dog/fakeB CycleGAN=../cyclegan/fakeB

Each row is a picture: the input, then what each METHOD's folder has under its name (any suffix).
"""

from pathlib import Path

import common
import numpy as np
from common import UserError, run


def method(text: str) -> tuple[str, Path]:
    """METHOD=DIR."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UserError(f"{text!r} is not of the form METHOD=DIR, such as NICE-GAN=results/cat2dog/fakeB")
    return name, Path(folder)


def by_stem(folder: Path) -> dict[Path, Path]:
    """The pictures of a folder by their relative paths without suffix."""
    return {path.relative_to(folder).with_suffix(""): path for path in common.dataset.list_images(folder)}


def choose(found: dict[Path, Path], names: list[str] | None, n: int, folder: Path) -> list[Path]:
    """The stems of the rows: those named, or n evenly spread."""
    if names is None:
        stems = list(found)
        return [stems[i] for i in np.linspace(0, len(stems) - 1, min(n, len(stems))).round().astype(int)]
    for name in names:
        if Path(name) not in found and Path(name).with_suffix("") not in found:
            raise UserError(f"{folder} has no picture {name}; check --names")
    return [Path(name) if Path(name) in found else Path(name).with_suffix("") for name in names]


def main(argv=None):
    parser = common.parser(__doc__)
    parser.add_argument("methods", nargs="+", metavar="METHOD=DIR", help="a method's name and its pictures")
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="folder of the pictures translated")
    parser.add_argument("--pictures", type=common.at_least(1), default=4, help="rows, spread over the folder")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="the pictures to show, instead of --pictures")
    parser.add_argument("--size", type=common.at_least(16), default=256, help="side that all are scaled to, in pixels")
    parser.add_argument("--title", help="by default the input's folder")
    parser.add_argument("--name", default="compare", help="name of the picture, without .png")
    args = parser.parse_args(argv)
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
        rows.append([common.dataset.resize(common.dataset.read_image(f[stem]), args.size) for f in sources.values()])
    title = args.title or f"{'/'.join(args.input.parts[-2:])}: the same pictures by each method"
    results = Path("results", args.input.resolve().parent.name)  # the data set's
    common.save(common.grid(rows, list(sources), title), args.out, results, args.name)


if __name__ == "__main__":
    run(main, "compare.py")
