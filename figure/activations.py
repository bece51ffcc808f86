"""What the discriminators' early filters answer to, before training and after it.

    python figure/activations.py --dataset cat2dog

Each row shows a test picture and the outputs of the filters of one layer whose answers vary most over the pictures, in
JET, each in a scale of its own.  Random filters are those of the run's seed.
"""

from command_line import UserError, at_once, bounded, of_model, parser, run


def parse_args(argv=None):
    options = parser(__doc__, model=True)
    add = options.add_argument
    add("--pictures", type=bounded(int, 1), default=1, help="test pictures of each domain")
    add("--filters", type=bounded(int, 1), default=6, help="filters to show")
    add("--layer", type=bounded(int, 1, 3), default=1, help="layer of the discriminators that encode, from 1")
    return of_model(options, argv)


if __name__ == "__main__":  # before torch is imported
    at_once("activations.py", parse_args)

import common
import torch


@torch.no_grad()
def answers(D, x, layer):
    """Output of the discriminator's down-sampling layer 1, 2, ... for pictures x (n,C,S,S): (n,c,h,w)."""
    found = []
    last = D.model[3 * layer - 1]  # padding, convolution, leaky ReLU
    handle = last.register_forward_hook(lambda module, inputs, y: found.append(y.detach().float().cpu().clone()))
    common.one_by_one(D.features, x)
    handle.remove()
    return torch.cat(found)


def rows_of(D, x, layer, filters):
    """For each picture, it and the maps of the `filters` filters with the largest standard deviation."""
    found = answers(D, x, layer)
    best = found.transpose(0, 1).flatten(1).std(1).topk(min(filters, found.shape[1])).indices.tolist()
    size = x.shape[-1]
    return [
        [common.to_rgb(picture), *(common.to_rgb(common.jet(maps[c][None], size)) for c in best)]
        for picture, maps in zip(x, found, strict=True)
    ]


def main(argv=None):
    args = parse_args(argv)
    trained, state, path = common.load_model(args)
    if args.layer > (deepest := trained.architecture["shared_layers"]):
        raise UserError(f"--layer {args.layer}: the encoders of this training have {deepest}")
    rows, labels = [], []
    for d in "AB":
        x = common.pictures(args, trained, f"test{d}", args.pictures)
        for kind, nice in (("random", common.build(args, state, path)), ("trained", trained)):
            rows += rows_of(nice.D[d], x, args.layer, args.filters)
            labels += [f"D_{d},\n{kind}"] * len(x)
    columns = ["input", *(f"filter {k}" for k in range(1, len(rows[0])))]
    title = f"{args.dataset}: answers of D's filters in layer {args.layer}, random and after {common.steps(state)}"
    grid, name = common.grid(rows, columns, title, labels), f"activations_{args.dataset}"
    common.save(grid, args.out, common.results(args), name, args.format, args.dpi)


if __name__ == "__main__":
    run(main, "activations.py")
