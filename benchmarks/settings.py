"""Choose a method's settings for the data set world on places that no test uses and its training does not see.

    python benchmarks/settings.py --lpips-weights alexnet.ckpt cyclegan "cyclegan --lambda_A 10 --lambda_B 10"

Two of the seven blocks of longitude of trainA and of trainB are held out: their places, with the true answers, are the
test pictures of dataset/world_held_out.  Each argument is a method with options that replace those of its
configs/METHOD/world.txt; each training takes --minutes at the speed that cost.json of table1.py tells.  Needs
requirements-dev.txt.
"""

import shlex
from argparse import ArgumentTypeError
from pathlib import Path

from rows import ROOT, ROWS

from options import Help, Parser, bounded
from utils import at_once, run

HELD_OUT = 2, 6  # rounds of blocks, counted from 1 of 7
SIZE = 64
NAME = "world_held_out"


def setting(text: str) -> list[str]:
    """The row and the options in one argument."""
    words = shlex.split(text)
    if not words or words[0] not in ROWS:
        raise ArgumentTypeError(f"{text!r} begins with none of {', '.join(ROWS)}")
    return words


def parse_args(argv=None):
    parser = Parser(prog="settings.py", description=__doc__.split("\n")[0], formatter_class=Help)
    parser.add_argument("settings", type=setting, nargs="+", metavar="SETTING", help="method and options, in one word")
    parser.add_argument("--minutes", type=bounded(float, 0, above=True), default=2, help="time of each training")
    parser.add_argument("--seed", type=bounded(int, 0), default=0, help="seed of the trainings")
    parser.add_argument("--lpips-weights", help="the network of LPIPS", metavar="FILE", required=True)
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "dataset", help="folder of the data sets")
    parser.add_argument("--cost", type=Path, default=ROOT / "results/table1/world/cost.json",
                        metavar="FILE", help="costs of a step; what is missing is measured")  # fmt: skip
    parser.add_argument("--result_dir", type=Path, default=ROOT / "results" / "settings", help="folder of all")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported
    at_once("settings.py", parse_args)

import costs
import trainings
from contestants import enter
from PIL import Image

from images import world
from images.new_folder import folder_beside
from images.packages import fetched
from scoring.lpips import LPIPS


def held_out(satellite, relief, land) -> dict[str, list[tuple[world.Tile, object]]]:
    """{folder: [(window, map (H,W,3)), ...]} of the maps' training places; those of HELD_OUT become test pictures.

    They do not overlap and have the side of test pictures, as in world.
    """
    maps, found = {"A": satellite, "B": relief}, world.tiles(land, SIZE)
    chosen = {d: [] for d in world.ROLES}
    for n, (role, left) in enumerate(world.blocks(land.shape[1], SIZE)):
        if n // len(world.ROLES) + 1 in HELD_OUT:
            chosen[role].append(left)
    out = {}
    for d, other in ("AB", "BA"):
        seen = [t for t in found[f"train{d}"] if not any(left <= t.x < left + 3 * SIZE for left in chosen[d])]
        out[f"train{d}"] = [(tile, maps[d]) for tile in seen]
        tests = [tile for left in chosen[d] for *_, tile in world.grid(land, SIZE, left, SIZE, SIZE)]
        out[f"test{d}"] = [(tile, maps[d]) for tile in tests]
        out[f"truth{d}"] = [(tile, maps[other]) for tile in tests]
    return out


def make(root: Path):
    """Make the data set in `root`, unless it is there."""
    if root.is_dir():
        return
    with folder_beside(root) as beside:
        satellite, relief, land = world.read_maps(fetched(world.PACKAGES[0], beside, root.parent))
        new = beside / root.name
        for folder, windows in held_out(satellite, relief, land).items():
            (new / folder).mkdir(parents=True)
            for tile, pixels in windows:
                Image.fromarray(tile.of(pixels)).save(new / folder / world.name_of(tile, land.shape))
        new.rename(root)


def main(argv=None):
    args = parse_args(argv)
    root = args.dataset_dir.resolve() / NAME
    lpips = LPIPS(args.lpips_weights)  # a missing file fails before minutes of work
    make(root)
    args.cost.parent.mkdir(parents=True, exist_ok=True)
    contestants = [enter(row, "world", None) for row, *_ in args.settings]
    found = costs.measure(args.cost, contestants, enter("nice", "world", None), 5, 1)
    score = trainings.Scorer(root, lpips=lpips)
    print("| setting | steps | L1 | SSIM | LPIPS | FD | mean LPIPS |\n|---|---|---|---|---|---|---|")
    for contestant, (row, *words) in zip(contestants, args.settings, strict=True):
        steps = costs.steps(found, row, args.minutes)
        title = " ".join([row, *words])
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{title}-{steps}-{args.seed}")
        words = [*contestant.words, "--dataset", NAME, "--dataset_dir", root.parent, "--seed", args.seed, *words]
        training = trainings.Training(title, args.result_dir / name, NAME, steps, words, 1)
        if not training.scores():
            training.train("--print_freq", steps)
            training.main("--phase", "test", *contestant.whole, "--result_dir", training.folder.resolve())
            training.write_scores({str(steps): score(training.results)})
        scores = training.last_scores()
        ways = [way for way in ("A2B", "B2A") if f"l1_{way}" in scores]
        cells = [" / ".join(f"{scores[f'{k}_{way}']:.3f}" for way in ways) for k in ("l1", "ssim", "lpips", "fd")]
        mean = sum(scores[f"lpips_{way}"] for way in ways) / len(ways)
        print(f"| {title} | {steps} | {' | '.join(cells)} | {mean:.3f} |", flush=True)


if __name__ == "__main__":
    run(main, "settings.py")
