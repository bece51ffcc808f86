"""What --init_from saves: steps until a demo passes its bars, from random weights and from another demo's weights.

    python benchmarks/init_from.py
    python benchmarks/init_from.py --data recoloured --steps 3000 --every 200 --starts random

The first training is that of configs/demo.txt.  Then others, of another data set, start from its weights, and with
--starts random from random ones.  The data set is `others`, other scenes of the demo, or `recoloured`, these with the
colour channels exchanged (red to green to blue), so that the first model does not fit.  Complete trainings are not
repeated, interrupted ones continue: call it again after any stop.
"""

from pathlib import Path

from rows import ROOT

from options import Help, Parser, bounded
from utils import at_once, run

CHANNELS = {"others": [0, 1, 2], "recoloured": [2, 0, 1]}  # of the demo's pictures, in the order of the data set's


def parse_args(argv=None):
    parser = Parser(prog="init_from.py", description=__doc__.split("\n")[0], formatter_class=Help)
    parser.add_argument("--data", choices=CHANNELS, default="others", help="others or recoloured")
    parser.add_argument("--starts", nargs="+", choices=("random", "demo"), default=["demo"],
                        help="random, demo or both")  # fmt: skip
    parser.add_argument("--steps", type=bounded(int, 1), default=20, help="steps of each training but the first")
    parser.add_argument("--every", type=bounded(int, 1), default=10, help="steps between two scores")
    parser.add_argument("--seed", type=bounded(int, 0), default=1, help="seed of the trainings but the first")
    parser.add_argument("--result_dir", type=Path, default=ROOT / "results" / "init_from", help="folder of all")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported
    at_once("init_from.py", parse_args)

import numpy as np
import trainings
from PIL import Image
from trainings import Training

import demo
from demo.data import DIRECTIONS, FOLDERS, TRAIN_SIZE
from demo.scenes import scene
from training.log import Log

FIRST_SCENE = 1000  # the demo's own are 0 to 999


def draw(root: Path):
    """Make the data set in `root`: the demo's folders with other scenes."""
    for domain, other in DIRECTIONS:
        for folder, key in (("train", domain), ("test", domain), ("truth", other), ("mask", "mask")):
            place = root / f"{folder}{domain}"
            place.mkdir(parents=True, exist_ok=True)
            for number in FOLDERS[place.name]:
                picture = scene(FIRST_SCENE + number, *((TRAIN_SIZE, domain) if folder == "train" else ()))[key]
                picture = picture[..., CHANNELS[root.name]] if picture.ndim == 3 else picture
                Image.fromarray(np.ascontiguousarray(picture)).save(place / f"{number:04d}.png")


def passed(lines: list[dict]) -> tuple[int | None, int | None]:
    """The first scored step that passes all six bars, and the first from which on all scored steps do."""
    names = [(bar, f"{bar}_{s}2{t}") for bar in demo.BARS for s, t in DIRECTIONS]
    marks = {line["step"]: all(demo.passes(bar, line[name]) for bar, name in names) for line in lines}
    failed = max((step for step, ok in marks.items() if not ok), default=-1)
    first = next((step for step, ok in marks.items() if ok), None)
    return first, next((step for step in marks if step > failed), None)


def main(argv=None):
    args = parse_args(argv)
    place = args.result_dir.resolve()
    demo.ensure(place / "data" / "demo")
    if not (place / "data" / args.data / "maskB").is_dir():
        draw(place / "data" / args.data)
    print("| data | weights at the start | steps | first scored step that passes the six bars | passes from here on |\n"
          "|---|---|---|---|---|")  # fmt: skip

    def train(name: str, data: str, start: str, steps: int, every: int, *words) -> Training:
        """Train, and print a row of the table."""
        words = ["@configs/demo.txt", "--dataset", data, "--dataset_dir", place / "data", "--score_freq", every, *words]
        done = Training(name, place / name, data, steps, words, trainings.threads(1)).train()
        scored = [line for line in Log.lines(done.results / "log.jsonl") if "scoring_seconds" in line]
        found = " | ".join("none" if step is None else f"{step:,}" for step in passed(scored))
        print(f"| {data} | {start} | {steps:,}, scored every {every} | {found} |", flush=True)
        return done

    first = train("first", "demo", "random", 3000, 200)
    for start in args.starts:
        words = ["--seed", args.seed, *["--init_from", first.results] * (start == "demo")]
        train(f"{args.data}-{start}-{args.seed}-{args.steps}", args.data, start, args.steps, args.every, *words)


if __name__ == "__main__":
    run(main, "init_from.py")
