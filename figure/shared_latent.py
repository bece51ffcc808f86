"""One latent space for both domains: any encoder with any generator, and the way between two codes (paper figure 8).

python figure/shared_latent.py --dataset cat2dog
"""

import common
import torch
from common import UserError, run

STEPS = 7  # codes on the way between two pictures, ends included


@torch.no_grad()
def crossed(nice, x):
    """A picture x (1,C,S,S) and what each generator draws from each encoder's code of it."""
    drawn = [nice.G[t](nice.E[s].encode(x)) for s in "AB" for t in "AB"]
    return [common.to_rgb(y[0]) for y in (x, *drawn)]


@torch.no_grad()
def between(G, first, second):
    """What G draws on the straight way from one code (1,c,h,w) to another."""
    return [common.to_rgb(G(torch.lerp(first, second, k / (STEPS - 1)))[0]) for k in range(STEPS)]


def main(argv=None):
    parser = common.parser(__doc__, model=True)
    parser.add_argument("--pictures", type=common.at_least(2), default=2, help="test pictures of each domain")
    args = parser.parse_args(argv)
    nice, state, _ = common.load(args)
    batch = {d: common.pictures(args, nice, f"test{d}", args.pictures).split(1) for d in "AB"}
    if min(map(len, batch.values())) < 2:
        raise UserError(f"{args.dataset_dir}/{args.dataset}: testA and testB need at least two pictures each")
    when = f"after {common.steps(state)}"

    rows = [crossed(nice, x) for d in "AB" for x in batch[d]]
    columns = ["input", *(f"$E_{s} \\rightarrow G_{t}$" for s in "AB" for t in "AB")]
    labels = [f"of {d}" for d in "AB" for _ in batch[d]]
    title = f"{args.dataset}: each picture by each encoder and each generator, {when}"
    grid = common.grid(rows, columns, title, labels)
    common.save(grid, args.out, common.results(args), f"shared_latent_{args.dataset}")

    with torch.no_grad():
        a, other, b = (nice.E[d].encode(batch[d][k]) for d, k in (("A", 0), ("A", 1), ("B", 0)))
    ways = {"$A \\rightarrow A'$": other, "$A \\rightarrow B$": b}
    rows = [between(nice.G[t], a, end) for end in ways.values() for t in "AB"]
    labels = [f"{way}\nby $G_{t}$" for way in ways for t in "AB"]
    columns = [f"{k / (STEPS - 1):.2f}" for k in range(STEPS)]
    title = f"{args.dataset}: drawn on the way between two pictures' codes, {when}"
    grid = common.grid(rows, columns, title, labels)
    common.save(grid, args.out, common.results(args), f"interpolation_{args.dataset}")


if __name__ == "__main__":
    run(main, "shared_latent.py")
