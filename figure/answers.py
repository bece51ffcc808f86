"""Input, translation and true answer of test pictures, both ways, for data sets with truthA and truthB.

    python figure/answers.py --dataset world

Pictures are spread evenly over the test folders, not chosen.
"""

from pathlib import Path

from command_line import UserError, at_once, bounded, data_name, need_folder, parser, run


def parse_args(argv=None):
    options = parser(__doc__)
    options.add_argument("--dataset", required=True, type=data_name, help="data set of the training")
    options.add_argument("--dataset_dir", default="dataset", type=Path, help="folder of the data sets")
    options.add_argument("--result_dir", default="results", type=Path, help="folder of the training's results")
    options.add_argument("--pictures", type=bounded(int, 1), default=10, help="number of columns")
    options.add_argument("--size", type=bounded(int, 16), default=64, help="longest side, in pixels")
    args = options.parse_args(argv)
    for domain in "AB":
        need_folder(args.dataset_dir / args.dataset / f"test{domain}")
    return args


if __name__ == "__main__":  # before torch is imported
    at_once("answers.py", parse_args)

import common
from compare import alike, by_stem

from images.decode import read_image


def main(argv=None):
    args = parse_args(argv)
    data, results = args.dataset_dir / args.dataset, args.result_dir / args.dataset
    columns, labels = [], []  # of each direction and test picture: input, translation, truth
    for s, t in "AB", "BA":
        folders = {f"{s}": data / f"test{s}", f"{s} to {t}": results / f"fake{t}", f"true {t}": data / f"truth{s}"}
        found = {label: by_stem(folder) for label, folder in folders.items()}
        stems = common.evenly(list(found[s]), args.pictures)
        for label, pictures in found.items():
            missing = [stem for stem in stems if stem not in pictures]
            if missing:
                raise UserError(f"{common.shown(folders[label])} has no picture {missing[0]}; translate the test "
                                "folders with main.py --phase test")  # fmt: skip
        columns.append([[read_image(pictures[stem]) for pictures in found.values()] for stem in stems])
        labels += list(found)
    shown = iter(alike([column for way in columns for column in way], args.size))
    rows = [list(row) for way in columns for row in zip(*(next(shown) for _ in way), strict=True)]
    width = max(map(len, rows))
    rows = [row + [None] * (width - len(row)) for row in rows]
    figure = common.grid(rows, [""] * width, f"{args.dataset}: input, translation, true answer", labels)
    common.save(figure, args.out, results, args.dataset, args.format, args.dpi)


if __name__ == "__main__":
    run(main, "answers.py")
