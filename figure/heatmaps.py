"""Where each classifier looks: the heatmaps of all heads over test pictures, in JET (paper figure 6).

    python figure/heatmaps.py --dataset cat2dog

The CAM head sees the code, so its map is the sum of the code over channels; the local and the global
head's maps are their logits, red where they find the picture most real.  Each map has its own scale.
"""

import common
import torch
from common import run

TITLES = {"cam": "code\n(CAM head, $C^0$)", "local": "local head\n($C^1$)", "global": "global head\n($C^2$)"}


@torch.no_grad()
def row(D, x):
    """The picture x (1,C,S,S) and D's maps over it: {head: (S,S,3)}."""
    judged = D(x)
    maps = {"input": x[0], "cam": judged.heatmap, "local": judged.local_logits, "global": judged.global_logits}
    shown = {}
    for head, values in maps.items():
        if head == "input":
            shown[head] = common.to_rgb(values)
        elif values is not None and (head != "cam" or judged.cam_logit is not None):
            heat = common.to_rgb(common.jet(values[0], x.shape[-1]))
            shown[head] = 0.5 * shown["input"] + 0.5 * heat
    return shown


def main(argv=None):
    parser = common.parser(__doc__, model=True)
    parser.add_argument("--pictures", type=common.at_least(1), default=4, help="test pictures of each domain")
    args = parser.parse_args(argv)
    nice, state, _ = common.load(args)
    sides = []  # of each domain, its rows of maps
    for d in "AB":
        batch = common.pictures(args, nice, f"test{d}", args.pictures)
        sides.append([row(nice.D[d], x) for x in batch.split(1)])
    heads = list(sides[0][0])
    blank = dict.fromkeys(heads)
    rows = []
    for k in range(max(map(len, sides))):
        rows.append([picture for side in sides for picture in (side[k] if k < len(side) else blank).values()])
    columns = [TITLES.get(head, f"{d}\ninput") for d in "AB" for head in heads]
    title = f"{args.dataset}: where the heads of $D_A$ (left) and $D_B$ (right) look, after {common.steps(state)}"
    common.save(common.grid(rows, columns, title), args.out, common.results(args), f"heatmaps_{args.dataset}")


if __name__ == "__main__":
    run(main, "heatmaps.py")
