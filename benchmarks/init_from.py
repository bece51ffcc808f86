"""What --init_from saves: steps until a demo passes its bars, from random weights and from another demo's weights.

    python benchmarks/init_from.py --seeds 0 1

The first training is that of configs/demo.txt.  The others are of a second data set: other scenes of the demo with the
colour channels exchanged (red to green to blue), so that the first model does not pass there.  Each is scored every
--every steps.  Complete trainings are not repeated and interrupted ones continue: call it again after any stop.
"""

from pathlib import Path

import numpy as np
import trainings
from PIL import Image
from trainings import ROOT, Training

import demo
from demo.data import DIRECTIONS, FOLDERS, TRAIN_SIZE
from demo.scenes import scene
from options import Help, Parser, bounded
from training.log import Log
from utils import run

FIRST_SCENE = 1000  # the demo's own are 0 to 999
CHANNELS = [2, 0, 1]  # of the demo's pictures, in the order of the recoloured ones


def recolour(root: Path):
    """Make the second data set in `root`: the demo's folders, with other scenes and exchanged channels."""
    for domain, other in DIRECTIONS:
        for folder, key in (("train", domain), ("test", domain), ("truth", other), ("mask", "mask")):
            place = root / f"{folder}{domain}"
            place.mkdir(parents=True, exist_ok=True)
            for number in FOLDERS[place.name]:
                size = (TRAIN_SIZE, domain) if folder == "train" else ()
                picture = scene(FIRST_SCENE + number, *size)[key]
                picture = picture[..., CHANNELS] if picture.ndim == 3 else picture
                Image.fromarray(np.ascontiguousarray(picture)).save(place / f"{number:04d}.png")


def passed(lines: list[dict]) -> tuple[int | None, int | None]:
    """The first scored step that passes all six bars, and the first from which on all scored steps do."""
    names = [(bar, f"{bar}_{s}2{t}") for bar in demo.BARS for s, t in DIRECTIONS]
    marks = {line["step"]: all(demo.passes(bar, line[name]) for bar, name in names) for line in lines}
    failed = max((step for step, ok in marks.items() if not ok), default=-1)
    first = next((step for step, ok in marks.items() if ok), None)
    return first, next((step for step in marks if step > failed), None)


def main(argv=None):
    parser = Parser(prog="init_from.py", description=__doc__.split("\n")[0], formatter_class=Help)
    parser.add_argument("--steps", type=bounded(int, 1), default=3000, help="steps of each training")
    parser.add_argument("--every", type=bounded(int, 1), default=200, help="steps between two scores")
    parser.add_argument("--seeds", type=bounded(int, 0), nargs="+", default=[0], help="two trainings for each")
    parser.add_argument("--result_dir", type=Path, default=ROOT / "results" / "init_from", help="folder of all")
    args = parser.parse_args(argv)
    place, config = args.result_dir.resolve(), ["@configs/demo.txt", "--score_freq", args.every]
    demo.ensure(place / "data" / "demo")
    if not (place / "data" / "recoloured" / "maskB").is_dir():
        recolour(place / "data" / "recoloured")

    def train(name: str, data: str, seed: int, *words) -> Training:
        training = Training(name, place / name, data, args.steps,
                            [*config, "--dataset", data, "--dataset_dir", place / "data", "--seed", seed, *words],
                            trainings.threads(1))  # fmt: skip
        return training.train()

    first = train("first", "demo", 0)
    print("| seed | weights at the start | first scored step that passes the six bars | passes from here on |\n"
          "|---|---|---|---|")  # fmt: skip
    for seed in args.seeds:
        for start, words in (("random", ()), ("first demo", ("--init_from", first.results))):
            found = train(f"{start.split()[0]}-{seed}", "recoloured", seed, *words)
            scored = [line for line in Log.lines(found.results / "log.jsonl") if "scoring_seconds" in line]
            steps = " | ".join("none" if step is None else f"{step:,}" for step in passed(scored))
            print(f"| {seed} | {start} | {steps} |", flush=True)


if __name__ == "__main__":
    run(main, "init_from.py")
