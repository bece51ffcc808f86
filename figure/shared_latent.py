"""The shared latent space: every encoder with every generator, and interpolation of codes (paper figure 8).

    python figure/shared_latent.py --dataset cat2dog
"""

from command_line import UserError, at_once, bounded, of_model, parser, run


def parse_args(argv=None):
    options = parser(__doc__, model=True)
    options.add_argument("--pictures", type=bounded(int, 2), default=2, help="test pictures of each domain")
    return of_model(options, argv)


if __name__ == "__main__":  # before torch is imported
    at_once("shared_latent.py", parse_args)

import common
import torch

STEPS = 7  # codes from one picture to another, both included


@torch.no_grad()
def crossed(nice, x):
    """A picture x (1,C,S,S) and the output of each generator for each encoder's code of it."""
    fake = [nice.G[t](nice.E[s].encode(x)) for s in "AB" for t in "AB"]
    return [common.to_rgb(y[0]) for y in (x, *fake)]


@torch.no_grad()
def interpolated(G, first, second):
    """Outputs of G for codes interpolated linearly from one (1,c,h,w) to another."""
    return [common.to_rgb(G(torch.lerp(first, second, k / (STEPS - 1)))[0]) for k in range(STEPS)]


def main(argv=None):
    args = parse_args(argv)
    nice, state, _ = common.load_model(args)
    batch = {d: common.pictures(args, nice, f"test{d}", args.pictures).split(1) for d in "AB"}
    if min(map(len, batch.values())) < 2:
        raise UserError(f"{args.dataset_dir}/{args.dataset}: testA and testB need at least two pictures each")
    when = f"after {common.steps(state)}"

    rows = [crossed(nice, x) for d in "AB" for x in batch[d]]
    columns = ["input", *(f"E_{s} → G_{t}" for s in "AB" for t in "AB")]
    labels = [f"from {d}" for d in "AB" for _ in batch[d]]
    title = f"{args.dataset}: every encoder with every generator, {when}"
    grid = common.grid(rows, columns, title, labels)
    common.save(grid, args.out, common.results(args), f"shared_latent_{args.dataset}", args.format, args.dpi)

    with torch.no_grad():
        a, other, b = (nice.E[d].encode(batch[d][k]) for d, k in (("A", 0), ("A", 1), ("B", 0)))
    ways = {"A → A'": other, "A → B": b}
    rows = [interpolated(nice.G[t], a, end) for end in ways.values() for t in "AB"]
    labels = [f"{way}\nby G_{t}" for way in ways for t in "AB"]
    columns = [f"{k / (STEPS - 1):.2f}" for k in range(STEPS)]
    title = f"{args.dataset}: interpolation between the codes of two pictures, {when}"
    grid = common.grid(rows, columns, title, labels)
    common.save(grid, args.out, common.results(args), f"interpolation_{args.dataset}", args.format, args.dpi)


if __name__ == "__main__":
    run(main, "shared_latent.py")
