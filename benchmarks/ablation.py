"""The paper's Table 3 on the demo data: train each row with several seeds, score, write one markdown table.

    python benchmarks/ablation.py --steps 1500 --seeds 0 1 2
    python benchmarks/ablation.py --table-only                   only the table, of complete runs

Each run uses configs/ablation/ROW.txt and its own seed, and writes to results/ablation/ROW-STEPS-SEED.  Complete runs
are not repeated and interrupted ones continue from their checkpoint: call it again after any stop.  --curve K scores
K points of each training and writes them to its log.jsonl, for figure/curves.py.
Needs requirements-dev.txt.
"""

import json
import os
from pathlib import Path

import trainings
from trainings import ROOT, Scorer, Training, mean_std

import demo
from checkpoints.files import numbered_paths
from options import Help, Parser, bounded
from utils import UserError, run

ROWS = {  # option file: name in Table 3
    "none": "neither",
    "ra": "RA",
    "nice": "NICE",
    "minus": "NICE, RA, - (1 shared layer)",
    "full": "**NICE, RA** (the method)",
    "plus": "NICE, RA, + (3 shared layers)",
    "without_c2": "without $C^2$",
    "only_c0": "$C^0$ alone",
    "encoder_both": "encoder learns in both steps",
    "encoder_g": "encoder learns in the G step",
}
COLUMNS = {**{name: name.replace("_", " ") for name in demo.BARS}, "fd": "FD"}  # for each direction
DIGITS = {"fd": 1}  # 3 in all others


class Run(Training):
    """One training: a row, a number of steps, a seed."""

    def __init__(self, args, row: str, seed: int):
        self.args, self.row, self.seed = args, row, seed
        folder = args.result_dir / f"{row}-{args.steps}-{seed}"
        words = [f"@{ROOT / 'configs' / 'ablation' / row}.txt", "--dataset_dir", args.dataset_dir.resolve()]
        threads = int(os.environ.get("OMP_NUM_THREADS") or trainings.threads(args.jobs))
        super().__init__(f"{row}, seed {seed}", folder, "demo", args.steps, words, threads)

    def train(self):
        every = max(1, self.steps // self.args.curve)
        return super().train("--seed", self.seed, "--save_freq", every)

    def score(self, scorer):
        """Score the numbered checkpoints, write scores.json, and delete all of them but the newest."""
        found, numbered = {}, numbered_paths(self.results)
        for path in numbered[-self.args.curve :]:
            at = self.folder / path.stem
            self.main("--phase", "test", "--checkpoint", path.resolve(), "--result_dir", at.resolve())
            found[int(path.stem.split("_")[-1])] = scorer(at / "demo")
        with open(self.results / "log.jsonl", "a", encoding="utf-8") as log:
            for step, scores in found.items():
                log.write(json.dumps({"step": step, **scores}) + "\n")
        self.write_scores(found)
        for path in numbered[:-1]:
            path.unlink()


def table(runs: list[Run]) -> str:
    """Markdown: a line for each row with complete runs, mean +- standard deviation over seeds."""
    directions = [f"{s}2{t}" for s, t in demo.DIRECTIONS]
    both = " / ".join(directions)
    lines = [" | ".join(["| row | seeds", *(f"{text}, {both}" for text in COLUMNS.values())]) + " |"]
    lines.append("|---" * (2 + len(COLUMNS)) + "|")
    for row, text in ROWS.items():
        last = [scores for r in runs if r.row == row and (scores := r.last_scores())]
        cells = []
        for column in COLUMNS:
            values = [[scores[f"{column}_{d}"] for scores in last] for d in directions]
            cells.append(" / ".join(mean_std(v, DIGITS.get(column, 3)) for v in values if v))
        if last:
            lines.append(f"| {text} | {len(last)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def report(args, runs: list[Run]):
    command = f"python benchmarks/ablation.py --steps {args.steps} --seeds {' '.join(map(str, args.seeds))}"
    if args.rows != list(ROWS):
        command += f" --rows {' '.join(args.rows)}"
    text = f"""Table 3 on the demo data, {args.steps} steps a run, mean ± standard deviation over seeds:

{table(runs)}
{demo.bars()} FD is the Fréchet distance to the test pictures in EfficientNet-Lite0's features
(lower is better; no FID). Made with `{command}`.
"""
    trainings.write(args.out, text)
    print(text)


def parse_args(argv=None):
    parser = Parser(prog="ablation.py", description=__doc__.split("\n")[0], formatter_class=Help)
    parser.add_argument("--steps", type=bounded(int, 1), default=1500, help="steps of each training")
    parser.add_argument("--seeds", type=bounded(int, 0), nargs="+", default=[0, 1, 2], help="one training each")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--jobs", type=bounded(int, 1), default=1, help="simultaneous trainings, which share the cores")
    parser.add_argument("--curve", type=bounded(int, 1), default=1, help="number of scored points of each training")
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "dataset", help="folder of the demo data")
    parser.add_argument("--result_dir", type=Path, default=ROOT / "results" / "ablation", help="folder of the runs")
    parser.add_argument("--out", type=Path, help="file of the table (default: ablation.md in the result_dir)")
    args = parser.parse_args(argv)
    args.out = args.out or args.result_dir / "ablation.md"
    return args


def main(argv=None):
    args = parse_args(argv)
    runs = [Run(args, row, seed) for seed in args.seeds for row in args.rows]  # every row early, more seeds later
    waiting = [] if args.table_only else [r for r in runs if not r.scores()]
    if waiting:
        scorer = Scorer(demo.ensure(args.dataset_dir / "demo"))  # a missing package fails before hours of training

        def finish(done):
            done.score(scorer)
            print(f"done: {done.folder.name}", flush=True)

        trainings.work([r.train for r in waiting], args.jobs, finish)
    if not any(r.scores() for r in runs):
        raise UserError(f"{args.result_dir} has no complete run of {args.steps} steps; train without --table-only")
    report(args, runs)


if __name__ == "__main__":
    run(main, "ablation.py")
