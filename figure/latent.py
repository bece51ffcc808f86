"""t-SNE of the codes E_A(A) and E_B(B), and the MMD between them (paper figure 7).

    python figure/latent.py --dataset cat2dog

Before training (initial weights of the run's seed) and after it.  Map and MMD are computed from the Euclidean
distances between complete codes.  MMD^2 is the unbiased estimate with a Gaussian kernel whose width is the median
distance, so that it does not depend on the scale of the codes, which training changes.
"""

from command_line import UserError, at_once, bounded, of_model, parser, run


def parse_args(argv=None):
    options = parser(__doc__, model=True)
    options.add_argument("--pictures", type=bounded(int, 2), default=200, help="maximum test pictures of each domain")
    options.add_argument("--seed", type=bounded(int, 0), default=0, help="seed of the t-SNE")
    return of_model(options, argv)


if __name__ == "__main__":  # before torch is imported
    at_once("latent.py", parse_args)

import common
import numpy as np
import torch

from options import telling


def codes(args, nice, n):
    """Codes of up to n test pictures of each domain: [(n_A, dim), (n_B, dim)] on the CPU."""
    return [
        common.one_by_one(nice.E[d].encode, common.pictures(args, nice, f"test{d}", n)).flatten(1).float().cpu()
        for d in "AB"
    ]


def distances(a, b):
    """Squared Euclidean distances between all rows of a and b: (n,n), symmetric."""
    x = torch.cat((a, b))
    x = x - x.mean(0)  # against cancellation: the differences are small compared with the codes
    gram = (x @ x.T).double()
    square = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    square = ((square + square.T) / 2).clamp_min(0)
    return square.fill_diagonal_(0).numpy()


def mmd2(square, n):
    """Unbiased MMD^2 between the first n points and the others: squared distances (N,N) -> float."""
    m = len(square) - n
    width = np.median(square[np.triu_indices(len(square), 1)])
    kernel = np.exp(-square / (2 * max(width, 1e-12)))
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return within_a + within_b - 2 * kernel[:n, n:].mean()


def tsne(square, seed):
    """t-SNE of points with these squared distances (N,N): (N,2)."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError(f"scikit-learn is not installed; this figure needs it: {common.INSTALL}") from None
    perplexity = min(30, (len(square) - 1) / 3)
    fit = TSNE(metric="precomputed", init="random", perplexity=perplexity, random_state=seed)
    return fit.fit_transform(np.sqrt(square))


def main(argv=None):
    args = parse_args(argv)
    plt = common.pyplot()
    trained, state, path = common.load_model(args)
    panels = {"before training": common.build(args, state, path), f"after {common.steps(state)}": trained}

    figure, axes = plt.subplots(1, 2, figsize=(common.WIDTH, 4.6), layout="constrained")
    for axis, (when, nice) in zip(axes, panels.items(), strict=True):
        a, b = codes(args, nice, args.pictures)
        if min(len(a), len(b)) < 2:
            raise UserError(f"{args.dataset_dir}/{args.dataset}: testA and testB need at least two pictures each")
        with telling("fitting t-SNE", when=len(a) + len(b) > 100):
            square = distances(a, b)
            points, distance = tsne(square, args.seed), mmd2(square, len(a))
        for name, part, colour in (("A", points[: len(a)], "#d1495b"), ("B", points[len(a) :], "#2e6f95")):
            axis.scatter(*part.T, s=18, alpha=0.75, color=colour, linewidths=0, label=f"E_{name}({name})")
        axis.set_title(f"{when}: MMD² = {distance:.4f}")
        axis.set(xticks=[], yticks=[])
        axis.spines[["top", "right"]].set_visible(True)
        print(f"{when}: MMD^2 {distance:.6f} between {len(a)} codes of A and {len(b)} of B")
    axes[0].legend(loc="best", frameon=True)
    title = f"{args.dataset}: t-SNE of the codes of both domains' test pictures, and their MMD"
    figure.suptitle(common.wrapped(title, common.WIDTH - 0.2, common.TITLE))
    common.save(figure, args.out, common.results(args), f"latent_{args.dataset}", args.format, args.dpi)


if __name__ == "__main__":
    run(main, "latent.py")
