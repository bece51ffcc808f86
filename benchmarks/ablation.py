"""The ablations of NICE-GAN's Table 3, or of CUT's paper, on the demo data or your own: train each row with several
seeds, score, write one table.

    python benchmarks/ablation.py --steps 1500 --seeds 0 1 2
    python benchmarks/ablation.py --method cut --steps 1500 --seeds 0 1 2
    python benchmarks/ablation.py --steps 20000 --dataset some/where/cats --img_size 128 --ch 32
    python benchmarks/ablation.py --table-only                   only the table, of complete runs

Each run uses configs/ablation/ROW.txt (configs/ablation/cut/ROW.txt) and its own seed, and writes to
results/ablation/ROW-STEPS-SEED (results/ablation_cut/...), for another data set to results/ablation/NAME/...  There a
row's changes are made to configs/NAME.txt (configs/cut/NAME.txt), or without it to main.py's defaults.  Options of
main.py, such as --ch, are those of all rows.  Complete runs are not repeated and interrupted ones continue from their
checkpoint: call it again after any stop.  --curve K scores K points of each training and writes them to its log.jsonl,
for figure/curves.py.
Needs requirements-dev.txt.
"""

import json
import os
import shlex
import sys
from pathlib import Path

from rows import ROOT, need_data_set

from options import Help, Parser, bounded, data_set
from options.program import parsed
from utils import UserError, at_once, run, shown

ROWS = {  # option file: name in NICE-GAN's Table 3
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
CUT_ROWS = {  # option file: what differs from CUT
    "full": "**CUT**",
    "own_encoder": "encoder and F not shared",
    "no_decoder": "PatchNCE sends no gradient into the decoder",
    "last": "last layer only",
    "external": "external negatives",
    "both": "internal and external negatives",
    "no_identity": "without PatchNCE between pictures of B",
}
TABLES = {"nice": ROWS, "cut": CUT_ROWS}
TITLES = {"nice": "Table 3", "cut": "The ablations of CUT"}
OURS = {"seed": "give --seeds", "iteration": "give --steps", "epochs": "give --steps", "save_freq": "give --curve",
        "phase": "leave it out", "resume": "leave it out", "checkpoint": "leave it out"}  # fmt: skip


def settings(method: str, row: str, data: str) -> list[str]:
    """The options of a row: on the demo those of its file; else its changes to the data set's own, or the defaults."""
    place = "" if method == "nice" else method  # of the option files
    path = ROOT / "configs" / "ablation" / place / f"{row}.txt"
    if data == "demo":
        return [f"@{path}"]
    own = ROOT / "configs" / place / f"{data}.txt"
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("--")]
    changes = [word for line in lines for word in line.split()]
    return ["--method", method, *[f"@{own}"] * own.is_file(), *changes, "--dataset", data]


def given(words: list[str]) -> tuple[str, ...]:
    """The names of the options among words of a command line."""
    return tuple(word[2:].partition("=")[0] for word in words if word.startswith("--"))


def without(words: list[str], others: list[str]) -> tuple[list[str], list[str]]:
    """The words without these others, which are among them in this order; and the others."""
    rest, own = list(others), []
    for word in words:
        if rest and word == rest[0]:
            rest.pop(0)
        else:
            own.append(word)
    return own, list(others)


def parse_args(argv=None):
    parser = Parser(prog="ablation.py", description=__doc__.split("\n")[0], formatter_class=Help)
    parser.add_argument("--method", choices=TABLES, default="nice", help="whose ablations")
    parser.add_argument("--steps", type=bounded(int, 1), default=1500, help="steps of each training")
    parser.add_argument("--seeds", type=bounded(int, 0), nargs="+", default=[0, 1, 2], help="one training each")
    names = "; ".join(f"{method}: {', '.join(rows)}" for method, rows in TABLES.items())
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"rows to train (default: all). {names}")
    parser.add_argument("--jobs", type=bounded(int, 1), default=1, help="simultaneous trainings, which share the cores")
    parser.add_argument("--curve", type=bounded(int, 1), default=1, help="number of scored points of each training")
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    parser.add_argument("--dataset", type=data_set, default="demo", help="data set: a name, or the path of a folder")
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "dataset", help="folder of the data sets")
    parser.add_argument(
        "--result_dir", type=Path, help="folder of the runs (default: results/ablation, or results/ablation_cut)"
    )
    parser.add_argument("--out", type=Path, help="file of the table (default: ablation.md in the result_dir)")
    own, others = without(sys.argv[1:] if argv is None else argv, parser.parse_known_args(argv)[1])
    args = parser.parse_args(own)
    args.more = others
    rows = list(TABLES[args.method])
    if unknown := [row for row in args.rows or () if row not in rows]:
        parser.error(f"--rows: {unknown[0]!r} is no row of {args.method}'s: {', '.join(rows)}")
    args.rows = args.rows or rows
    folder, args.dataset = os.path.split(args.dataset)
    args.dataset_dir = Path(folder) if folder else args.dataset_dir
    chosen = parsed([*settings(args.method, args.rows[0], args.dataset), *args.more]) if args.more else None
    if wrong := sorted(OURS.keys() & set(chosen.given if chosen else ()) & set(given(args.more))):
        parser.error(f"--{wrong[0]} differs from row to row or from seed to seed: {OURS[wrong[0]]}")
    place = ROOT / "results" / ("ablation" if args.method == "nice" else f"ablation_{args.method}")
    args.result_dir = args.result_dir or (place if args.dataset == "demo" else place / args.dataset)
    args.out = args.out or args.result_dir / "ablation.md"
    return args


def refuse_at_once(argv):
    """Answer --help, a mistake in an option and a missing data set that no complete run makes superfluous."""
    args = parse_args(argv)
    if not (args.table_only or args.result_dir.exists()):
        need_data_set(args)


if __name__ == "__main__":  # before torch is imported
    at_once("ablation.py", refuse_at_once)

import trainings
from trainings import Scorer, Training, mean_std

import demo
import main as main_py
from checkpoints.files import numbered_paths

COLUMNS = {**{name: name.replace("_", " ") for name in demo.BARS}, "fd": "FD"}  # for each direction
DIGITS = {"fd": 1}  # 3 in all others


class Run(Training):
    """One training: a row, a number of steps, a seed."""

    def __init__(self, args, row: str, seed: int):
        self.args, self.row, self.seed = args, row, seed
        folder = args.result_dir / f"{row}-{args.steps}-{seed}"
        words = [*settings(args.method, row, args.dataset), "--dataset_dir", args.dataset_dir.resolve(), *args.more]
        threads = int(os.environ.get("OMP_NUM_THREADS") or trainings.threads(args.jobs))
        super().__init__(f"{row}, seed {seed}", folder, args.dataset, args.steps, words, threads)

    def train(self):
        every = max(1, self.steps // self.args.curve)
        return super().train("--seed", self.seed, "--save_freq", every)

    def score(self, scorer):
        """Score the numbered checkpoints, write scores.json, and delete all of them but the newest."""
        found, numbered = {}, numbered_paths(self.results)
        for path in numbered[-self.args.curve :]:
            at = self.folder / path.stem
            self.main("--phase", "test", "--checkpoint", path.resolve(), "--result_dir", at.resolve())
            found[int(path.stem.split("_")[-1])] = scorer(at / self.results.name)
        with open(self.results / "log.jsonl", "a", encoding="utf-8") as log:
            for step, scores in found.items():
                log.write(json.dumps({"step": step, **scores}) + "\n")
        self.write_scores(found)
        for path in numbered[:-1]:
            path.unlink()


def table(runs: list[Run]) -> str:
    """Markdown: a line for each row with complete runs, mean +- standard deviation over seeds."""
    known = {name for r in runs for name in r.last_scores()}
    directions = [f"{s}2{t}" for s, t in demo.DIRECTIONS]
    directions = [d for d in directions if any(name.endswith(f"_{d}") for name in known)]
    both = " / ".join(directions)
    columns = {c: text for c, text in COLUMNS.items() if any(f"{c}_{d}" in known for d in directions)}
    lines = [" | ".join(["| row | seeds", *(f"{text}, {both}" for text in columns.values())]) + " |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for row, text in TABLES[runs[0].args.method].items():
        last = [scores for r in runs if r.row == row and (scores := r.last_scores())]
        cells = []
        for column in columns:
            values = [[scores[f"{column}_{d}"] for scores in last] for d in directions]
            cells.append(" / ".join(mean_std(v, DIGITS.get(column, 3)) for v in values if v))
        if last:
            lines.append(f"| {text} | {len(last)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def report(args, runs: list[Run]):
    method = f" --method {args.method}" * (args.method != "nice")
    command = f"python benchmarks/ablation.py{method} --steps {args.steps} --seeds {' '.join(map(str, args.seeds))}"
    if args.rows != list(TABLES[args.method]):
        command += f" --rows {' '.join(args.rows)}"
    command += f" --dataset {args.dataset}" * (args.dataset != "demo") + "".join(f" {word}" for word in args.more)
    bars = f"{demo.bars()} " if args.dataset == "demo" else ""
    data = "the demo data" if args.dataset == "demo" else args.dataset
    text = f"""{TITLES[args.method]} on {data}, {args.steps} steps a run, mean ± standard deviation over seeds:

{table(runs)}
{bars}FD is the Fréchet distance to the test pictures in EfficientNet-Lite0's features
(lower is better; no FID). Made with `{command}`.
"""
    trainings.write(args.out, text)
    print(text)


def refuse_others(args, runs: list[Run]):
    """UserError: a run's folder was trained with other options for all rows; else they are written to options.txt."""
    mine = shlex.join(args.more) + "\n"
    for r in runs:
        path = r.folder / "options.txt"
        there = path.read_text("utf-8") if path.exists() else "\n" if r.scores() else mine
        if there != mine:
            raise UserError(f"{shown(r.folder)} was trained with other options for all rows ({there.strip() or 'none'}"
                            f", now {mine.strip() or 'none'}); name another --result_dir")  # fmt: skip
    for r in runs if args.more and not args.table_only else ():
        trainings.write(r.folder / "options.txt", mine)


def main(argv=None):
    args = parse_args(argv)
    if args.more:  # what only torch can tell
        main_py.parse_args([*settings(args.method, args.rows[0], args.dataset), *args.more])
    runs = [Run(args, row, seed) for seed in args.seeds for row in args.rows]  # every row early, more seeds later
    refuse_others(args, runs)
    waiting = [] if args.table_only else [r for r in runs if not r.scores()]
    if waiting:
        root = args.dataset_dir / args.dataset
        if args.dataset == "demo":
            demo.ensure(root)
        need_data_set(args)
        scorer = Scorer(root)  # a missing package fails before hours of training

        def finish(done):
            done.score(scorer)
            progress.ends(f"done: {done.folder.name}")

        progress = trainings.Progress(waiting, [1] * len(waiting))
        trainings.work([r.train for r in waiting], args.jobs, finish, progress)
    if not any(r.scores() for r in runs):
        raise UserError(f"{args.result_dir} has no complete run of {args.steps} steps; train without --table-only")
    report(args, runs)


if __name__ == "__main__":
    run(main, "ablation.py")
