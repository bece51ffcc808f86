"""Scores of two sets of features that see diversity: precision, recall, density, coverage; MIND.

FID compares means and covariances, so copies of a few good pictures can pass. These scores look at the
neighbours of each picture.
"""

import numpy as np

from scoring.metrics import BLOCK, comparable, finite
from utils import UserError

NEIGHBOURS = 5      # k of the papers' density and coverage
PROJECTIONS = 1000
PRDC = ("precision", "recall", "density", "coverage")
COLLAPSED = 0.1     # coverage or recall below it: the translations show a small part of what the target holds


def prdc(real, fake, k=NEIGHBOURS):
    """Precision, recall (Kynkaanniemi 2019), density, coverage (Naeem 2020) of fake (m, d) v real (n, d).

    A picture's ball reaches to its k-th neighbour in its own set; points on its surface are outside.
    precision   share of fakes in some real picture's ball
    recall      share of real pictures in some fake's ball
    density     number of real balls that a fake is in, mean over fakes, divided by k; can exceed 1
    coverage    share of real pictures whose ball holds a fake
    Returns a dict. UserError: fewer than k + 1 pictures in a set.
    """
    real, fake = (z.astype(np.float64, copy=False) for z in comparable(real, fake))
    if min(len(real), len(fake)) <= k:
        raise UserError(f"{len(real)} and {len(fake)} pictures: precision and recall with {k} neighbours need at "
                        f"least {k + 1} in each set")
    r_real, r_fake = _radii(real, k), _radii(fake, k)
    in_real, in_fake, hit = np.zeros(len(fake), int), np.zeros(len(real), bool), np.zeros(len(real), bool)
    for i in range(0, len(real), BLOCK):
        rows = slice(i, i + BLOCK)
        d = _squared_distances(real[rows], fake)
        inside = d < r_real[rows, None]
        in_real += inside.sum(0)
        hit[rows] = inside.any(1)
        in_fake[rows] = (d < r_fake).any(1)
    return {"precision": float((in_real > 0).mean()), "recall": float(in_fake.mean()),
            "density": float(in_real.mean() / k), "coverage": float(hit.mean())}


def _radii(x, k):
    """The squared distance of each row of x (n, d) to its k-th neighbour: (n,)."""
    blocks = (_squared_distances(x[i:i + BLOCK], x) for i in range(0, len(x), BLOCK))
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for d in blocks])  # the nearest is the row itself


def _squared_distances(a, b):
    """|a_i - b_j|^2 (n, m); exactly 0 where rounding hides the difference, so that copies have no distance."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)
    d = squares - 2 * a @ b.T
    d[d < 1e-11 * squares] = 0
    return d


def mind(x, y, projections=PROJECTIONS, seed=2020):
    """Monge Inception Distance (Berthet et al. 2026) of features x (n, d) and y (m, d): sliced squared Wasserstein-2.

    The mean over random directions of the squared W2 of both sets' projections, which is found by sorting,
    times d: so a shift of all features adds as much as to FID. Sets of different sizes are compared as step
    functions of the quantile, which is exact.
    """
    x, y = (z.astype(np.float64, copy=False) for z in comparable(x, y))
    directions = np.random.default_rng(seed).standard_normal((x.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    x, y = np.sort(x @ directions, axis=0), np.sort(y @ directions, axis=0)
    n, m = len(x), len(y)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # steps of either quantile, in 1/(n m)
    shares = np.diff(ends, prepend=0) / (n * m)
    gaps = x[(ends - 1) // m] - y[(ends - 1) // n]
    return finite(float(len(directions) * (shares @ gaps**2).mean()), "MIND")


def collapse_note(found, fid):
    """A line for the reader where a set shows few of the target's kinds, else None; found: of prdc()."""
    if min(found["recall"], found["coverage"]) >= COLLAPSED:
        return None
    return (f"recall {found['recall']:.2f} and coverage {found['coverage']:.2f}: the pictures show a small part of "
            f"what the target set shows, whatever {fid} says; copies of a few pictures look like this")
