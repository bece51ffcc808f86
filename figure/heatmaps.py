"""Heatmaps of all discriminator heads over test pictures, in JET (paper figure 6).

    python figure/heatmaps.py --dataset cat2dog

The CAM head's map is the sum of the code over channels, because the head sees the code.  The maps of the local and
the global head are their logits, red where the picture looks most real to them.  Each map has its own scale.
"""

from command_line import at_once, bounded, of_model, parser, run


def parse_args(argv=None):
    options = parser(__doc__, model=True)
    options.add_argument("--pictures", type=bounded(int, 1), default=4, help="test pictures of each domain")
    return of_model(options, argv)


if __name__ == "__main__":  # before torch is imported
    at_once("heatmaps.py", parse_args)

import common
import torch

TITLES = {"cam": "code\n(CAM head, C⁰)", "local": "local head\n(C¹)", "global": "global head\n(C²)"}


@torch.no_grad()
def row(D, x):
    """The picture x (1,C,S,S) and D's maps over it: {head: (S,S,3)}."""
    out = D(x)
    maps = {"input": x[0], "cam": out.heatmap, "local": out.local_logits, "global": out.global_logits}
    shown = {}
    for head, values in maps.items():
        if head == "input":
            shown[head] = common.to_rgb(values)
        elif values is not None and (head != "cam" or out.cam_logit is not None):
            heat = common.to_rgb(common.jet(values[0], x.shape[-1]))
            shown[head] = 0.5 * shown["input"] + 0.5 * heat
    return shown


def main(argv=None):
    args = parse_args(argv)
    nice, state, _ = common.load_model(args)
    sides = []  # for each domain, its rows of maps
    for d in "AB":
        batch = common.pictures(args, nice, f"test{d}", args.pictures)
        sides.append([row(nice.D[d], x) for x in batch.split(1)])
    heads = list(sides[0][0])
    blank = dict.fromkeys(heads)
    rows = []
    for k in range(max(map(len, sides))):
        rows.append([picture for side in sides for picture in (side[k] if k < len(side) else blank).values()])
    columns = [TITLES.get(head, f"{d}\ninput") for d in "AB" for head in heads]
    title = f"{args.dataset}: heatmaps of the heads of D_A (left) and D_B (right) after {common.steps(state)}"
    grid, name = common.grid(rows, columns, title), f"heatmaps_{args.dataset}"
    common.save(grid, args.out, common.results(args), name, args.format, args.dpi)


if __name__ == "__main__":
    run(main, "heatmaps.py")
