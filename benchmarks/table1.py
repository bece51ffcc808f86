"""The paper's Table 1: train every method with several seeds at equal budgets, score, write tables and a picture.

    python benchmarks/table1.py --dataset demo --steps 700 --seeds 0 1 2 --jobs 2
    python benchmarks/table1.py --dataset demo --minutes 4 --jobs 2 --both-ways
    python benchmarks/table1.py --dataset demo --minutes 4 --table-only       only the tables, of complete trainings
    python benchmarks/table1.py --dataset horse2zebra --steps 100000 --dry-run    only the settings

Each training writes to results/table1/NAME/METHOD-BUDGET-SEED (-BtoA: the other direction of a one-way method).
Complete trainings are not repeated and interrupted ones continue from their checkpoint: call it again after any stop.
Each method has the settings of its paper, configs/METHOD/NAME.txt or else its defaults, except for size and budget; the
changes are printed.  --minutes gives each method the number of steps it makes in that time: a step is timed first, in
turns with NICE-GAN, and kept in cost.json.  With --steps the costs are measured last, or not (--no-cost).  Needs
requirements-dev.txt.
"""

import shlex
import sys
from functools import partial
from pathlib import Path

from rows import ROOT, ROWS, need_data_set

sys.path.append(str(ROOT / "figure"))
from command_line import FORMATS

from options import Help, Parser, bounded, folder, name
from utils import RunError, UserError, at_once, run, shown


def parse_args(argv=None):
    parser = Parser(prog="table1.py", description=__doc__.split("\n")[0], formatter_class=Help)
    add = parser.add_argument
    add("--dataset", type=name, default="demo", help="data set, a folder in --dataset_dir", metavar="NAME")
    add("--methods", nargs="+", choices=ROWS, metavar="METHOD",
        help=f"of {', '.join(ROWS)} (default: all that can be trained at about NICE-GAN's picture size)")  # fmt: skip
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=bounded(int, 1), help="steps of each training")
    budget.add_argument("--minutes", type=bounded(float, 0, above=True), help="time of each training's steps, at the "
                        "speed measured for the costs")  # fmt: skip
    add("--seeds", type=bounded(int, 0), nargs="+", default=[0, 1, 2], help="one training each")
    add("--jobs", type=bounded(int, 1), default=1, help="simultaneous trainings, which share the cores")
    add("--img_size", type=bounded(int, 1), help="picture side, where a method can use it (default: each method's own)")
    add("--hold_out", type=bounded(float, 0, 0.9), default=0.0, metavar="SHARE", help="share of the training pictures "
        "that choose a best checkpoint, scored in a row of its own; without it the last checkpoint alone is scored")
    add("--both-ways", action="store_true", help="train one-way methods for the other direction, too")
    add("--dataset_dir", type=Path, default=ROOT / "dataset", help="folder of the data sets")
    add("--result_dir", type=Path, help="folder of the trainings (default: results/table1/NAME)")
    add("--cost", type=Path, help="file of the costs (default: cost.json in the result_dir)", metavar="FILE")
    add("--rounds", type=bounded(int, 1), default=5, help="rounds of measuring costs")
    add("--no-cost", action="store_true", help="measure no costs, which takes minutes after the trainings")
    add("--weights", type=folder, help="Inception's weights, instead of the cached ones", metavar="FILE")
    add("--lpips-weights", help="also LPIPS, where there are true counterparts, with the network in this file",
        metavar="FILE")  # fmt: skip
    add("--baselines", action="store_true", help="add the input itself, the input with matched colours, and another "
        "picture as rows")  # fmt: skip
    add("--outputs", action="append", default=[], metavar="NAME=DIR", help="also score and show pictures of other "
        "programs: DIR holds fakeB, fakeA or both, or translations to B, named like the test pictures")  # fmt: skip
    add("--pictures", type=bounded(int, 1), default=3, help="test pictures of each direction in the figure")
    add("--format", choices=FORMATS, default="png", help="format of the figure")
    add("--dpi", type=bounded(int, 20, 2400), default=200, help="resolution of the figure in dots per inch")
    add("--out", type=Path, help="folder of tables and figure (default: the result_dir)", metavar="DIR")
    add("--dry-run", action="store_true", help="print the settings of each training of --steps steps, with a * at each "
        "that is not its authors' for the data set, and train nothing")
    add("--table-only", action="store_true", help="only write the tables")
    args = parser.parse_args(argv)
    for each in ("methods", "seeds"):
        if getattr(args, each) and len(set(getattr(args, each))) < len(getattr(args, each)):
            parser.error(f"--{each} has an entry twice")
    if args.dry_run and not args.steps:
        parser.error("--dry-run needs --steps: the steps of --minutes are measured")
    if args.no_cost and args.minutes:
        parser.error("--minutes needs the costs: leave --no-cost out, or give --steps")
    args.budget = str(args.steps) if args.steps else f"{args.minutes:g}min"
    args.result_dir = args.result_dir or ROOT / "results" / "table1" / args.dataset
    args.out = args.out or args.result_dir
    args.cost = args.cost or args.result_dir / "cost.json"
    return args


def refuse_at_once(argv):
    """Answer --help, a mistake in an option and a missing data set."""
    args = parse_args(argv)
    if not args.dry_run:
        need_data_set(args)


if __name__ == "__main__":  # before torch is imported
    at_once("table1.py", refuse_at_once)

import chance
import costs
import counterparts
import tables
import torch
import trainings
from contestants import Contestant, described, enter, entrants
from trainings import Scorer, Training, has_counterparts

import demo
import fid_kid
from images.decode import read_image
from images.files import list_images
from scoring import inception
from scoring.lpips import LPIPS

FEATURES = {
    "fid": "FID, KID and MIND are computed on the FID Inception's features.",
    "l1": "L1 (of values in 0 to 1), SSIM and LPIPS are to the true counterpart.",
    "fd": "FD, KD and MD are distances in EfficientNet-Lite0's features (lower is better), not FID, KID, MIND.",
}


class Run(Training):
    """One training: a contestant, a seed and, for one-way methods, the direction."""

    def __init__(self, args, contestant: Contestant, steps: int, seed: int, way: str):
        self.contestant, self.seed, self.backwards = contestant, seed, way == "B2A"
        root = args.dataset_dir / args.dataset
        self.whole = contestant.whole if any(to_be_compared(root, s) for s in "AB") else []
        self.ways = contestant.directions if len(contestant.directions) > 1 else [way]
        name = f"{contestant.row}-{args.budget}-{seed}" + "-BtoA" * self.backwards
        words = ["--dataset", args.dataset, "--dataset_dir", args.dataset_dir.resolve(), "--seed", seed]
        words = [*contestant.words, *words, *["--direction=BtoA"] * self.backwards]
        if args.hold_out:  # the best of ten steps, by pictures that are neither trained on nor tested
            name += f"-held{args.hold_out:g}"
            words += ["--hold_out", args.hold_out, "--score_freq", max(1, steps // 10)]
        super().__init__(name, args.result_dir / name, args.dataset, steps, words, trainings.threads(args.jobs))

    def refuse_others(self, note: bool):
        """UserError: other options were trained in this folder.  note: write options.txt."""
        path, mine = self.folder / "options.txt", f"{self.contestant.options} --iteration={self.steps}\n"
        if not path.exists():
            if note:
                trainings.write(path, mine)
        elif (there := path.read_text()) != mine:
            raise UserError(f"{shown(self.folder)} was trained with other options ({there.strip()}, "
                            f"now {mine.strip()}); name another --result_dir")  # fmt: skip

    def train(self):
        """Train to the last step and translate the test folders."""
        schedule, _ = self.contestant.budget(self.steps)
        super().train(*schedule)
        if self.results.name != "demo":  # which main.py translates itself
            self.main("--phase", "test", *self.whole, "--result_dir", self.folder.resolve())
        return self

    def complete(self, scorer: Scorer) -> bool:
        """Whether all its scores are known, and the samples that tests need."""
        there = {f"{c}_{way}" for way in self.ways for c in scorer.columns(way[0])} <= self.last_scores().keys()
        return there and all(trainings.samples_path(self.folder, way).is_file() for way in self.ways)

    def attempt(self):
        """Train unless only scores are missing: the run, and the error or None."""
        try:
            return (self if self.scores() else self.train()), None
        except UserError as error:
            return self, error


def scorer(args) -> Scorer:
    """A scorer of FID and KID if Inception's weights are present, else of FD and KD.  UserError: neither network."""
    root = args.dataset_dir / args.dataset
    lpips = LPIPS(args.lpips_weights) if args.lpips_weights else None
    if args.weights or inception.cached_weights().exists():
        return Scorer(root, fid_kid.InceptionV3(args.weights), True, lpips)
    print("Inception's weights are not present: FD and KD in EfficientNet-Lite0's features replace FID and KID")
    return Scorer(root, kernel=True, lpips=lpips)


def train(args, runs: list[Run], score: Scorer, cost: dict) -> list[str]:
    """Train and score the incomplete runs: the errors, one line a run.  cost: what is known of the steps' times."""
    failed = []
    waiting = [r for r in runs if not r.complete(score)]

    def finish(done):
        finished, error = done
        if not error:
            try:
                found = finished.last_scores() | score(finished.results, keep=finished.folder)
                finished.write_scores({str(finished.steps): found})
                progress.ends(f"done: {finished.folder.name}")
                return
            except UserError as wrong:
                error = wrong
        failed.append(str(error))
        progress.ends(f"failed: {error}")

    steps = {row: known["step"] for row, known in cost["rows"].items()}
    progress = trainings.Progress(waiting, [steps.get(r.contestant.row, 1) for r in waiting])
    trainings.work([r.attempt for r in waiting], args.jobs, finish, progress)
    return failed


def to_be_compared(root: Path, s: str) -> bool:
    """Whether translations of domain s are compared with true counterparts."""
    return has_counterparts(root, s) or counterparts.there(root, s)


def check_sizes(args, contestants: list[Contestant]):
    """UserError: translations would be smaller than their true counterparts."""
    root = args.dataset_dir / args.dataset
    for s in "AB":
        if to_be_compared(root, s):
            side = max(read_image(list_images(root / f"test{s}")[0]).size)
            for c in contestants:
                if c.args.img_size < side:
                    raise UserError(f"{c.row} at --img_size {c.args.img_size} is smaller than the pictures of "
                                    f"{args.dataset}, which it is measured on: give at least {side}")  # fmt: skip


def plan(args, contestants: list[Contestant], cost: dict) -> tuple[dict[str, int], list[str]]:
    """{row: its steps}, and a line for each row with all changes of its settings."""
    steps, lines = {}, []
    for c in contestants:
        n = steps[c.row] = args.steps or costs.steps(cost, c.row, args.minutes)
        changes = ", ".join([*c.budget(n)[1], *c.changes])
        lines.append(f"{c.row}: {n} steps at {c.args.img_size} pixels; {c.settings}, but for {changes or 'nothing'}")
    return steps, lines


def report(args, rows: list[tables.Row], contestants: list[Contestant], cost: dict, settings: list[str]):
    """Write the tables and the picture into --out."""
    name, size = f"table1-{args.budget}", min(256, *(row.pixels for row in rows if row.pixels))
    title = f"{args.dataset}: the same pictures by each method"
    each = f"{args.steps} steps" if args.steps else f"{args.minutes:g} minute{'s' * (args.minutes != 1)}"
    one_way = [c.title for c in contestants if len(c.directions) == 1]
    both = "a training of its own for each way" if args.both_ways else "trained for one way"
    notes = [FEATURES[c] for c in ("l1", "fid", "fd") if c in tables.columns_of(rows)]
    notes += [demo.bars()] * any(name in tables.columns_of(rows) for name in demo.BARS)
    notes += [f"{', '.join(one_way)}: {both}."] * bool(one_way)
    known = tables.facts(rows)
    text = f"""Table 1 on {args.dataset}, {each} a training:

{tables.score_markdown(rows, known)}
{chance.LEGEND}

{" ".join(notes)}

{tables.cost_markdown(contestants, cost["rows"])}![{title}]({name}.{args.format})

Settings, with the method's own in parentheses; each training has its own --seed:

{"".join(f"- {line}{chr(10)}" for line in [*settings, *tables.makers(rows)])}
Made with `{command(args)}`.
"""
    print(text)
    trainings.write(args.out / f"{name}.csv", tables.score_csv(rows, known))
    trainings.write(args.out / "cost.csv", tables.cost_csv(contestants, cost["rows"]))
    figure = tables.picture(rows, args.dataset_dir / args.dataset, args.pictures, size, title)
    tables.common.save(figure, args.out, args.out, name, args.format, args.dpi)
    trainings.write(args.out / f"{name}.md", text)


def command(args) -> str:
    """The command that made the tables, without folders."""
    budget = ["--steps", args.steps] if args.steps else ["--minutes", f"{args.minutes:g}"]
    words = ["--dataset", args.dataset, *budget, "--seeds", *args.seeds, "--jobs", args.jobs]
    words += ["--methods", *args.methods] if args.methods else []
    words += ["--img_size", args.img_size] if args.img_size else []
    words += ["--both-ways"] if args.both_ways else []
    words += ["--hold_out", args.hold_out] if args.hold_out else []
    words += ["--baselines"] if args.baselines else []
    words += ["--lpips-weights", Path(args.lpips_weights).name] if args.lpips_weights else []
    for text in args.outputs[: len(args.outputs) - len(counterparts.BASELINES) * args.baselines]:
        name, folder = tables.compare.method(text)
        words += ["--outputs", f"{name}={folder.name}"]
    return "python benchmarks/table1.py " + shlex.join(map(str, words))


def main(argv=None):
    args = parse_args(argv)
    if args.dry_run:
        for c in entrants(args.methods, args.dataset, args.img_size):
            print(described(c, args.dataset, args.steps))
        return
    torch.set_num_threads(trainings.threads(args.jobs))  # scoring runs beside the trainings
    tables.common.pyplot()  # a missing package fails before hours of training
    need_data_set(args)
    if args.dataset == "demo":
        demo.ensure(args.dataset_dir / args.dataset)
    if args.baselines:
        args.outputs += counterparts.baselines(args.dataset_dir / args.dataset, args.result_dir / "baselines")
    others = [tables.others_row(text, args.dataset_dir / args.dataset) for text in args.outputs]
    contestants = entrants(args.methods, args.dataset, args.img_size)
    check_sizes(args, contestants)
    names = [*(c.title for c in contestants), *(row.title for row in others)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two rows would be called {twice[0]}; give --outputs names of their own")
    base = enter("nice", args.dataset, args.img_size)
    measures = not (args.table_only or args.no_cost)
    measure = partial(costs.measure, args.cost, contestants, base, args.rounds, trainings.threads(args.jobs))
    cost = measure() if measures and args.minutes else costs.known(args.cost, contestants if measures else [])
    steps, settings = plan(args, contestants, cost)
    print("\n".join(settings), flush=True)
    runs = [
        Run(args, c, steps[c.row], seed, way)
        for seed in args.seeds  # every row early, more seeds later
        for c in contestants
        for way in (("A2B", "B2A") if args.both_ways and len(c.directions) == 1 else ("A2B",))
    ]
    for r in runs:
        r.refuse_others(note=not args.table_only)
    score = None if args.table_only and not others else scorer(args)
    failed = [] if args.table_only else train(args, runs, score, cost)
    cost = measure() if measures and not args.minutes else cost
    rows = tables.rows_of(runs)
    if not rows and not failed:
        raise UserError(f"{shown(args.result_dir)} has no complete training of this budget; train without --table-only")
    for row in others:
        tables.score(row, score)
    if rows:
        report(args, [*rows, *others], contestants, cost, settings)
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} trainings failed, the first: {failed[0]}")


if __name__ == "__main__":
    run(main, "table1.py")
