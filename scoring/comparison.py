"""Is one method better than another? FID and KID of both on the same inputs: difference, interval, permutation test."""

from pathlib import Path

import numpy as np
import torch

from scoring.intervals import frechet_jackknife, interval, intervals, kernel_jackknife
from scoring.metrics import comparable, finite, frechet_distance, polynomial_mmd2
from utils import UserError, shown

PERMUTATIONS = {"kid": 9999, "fid": 499}  # FID's take a hundred times as long
PERMUTATIONS_OF_MANY, MANY = 99, 300  # of FID's at more inputs than MANY


def rows_by_name(first, second):
    """Features of two folders' pictures, row by row of the same name (any suffix): two (n, d).

    first, second: features.Source of folders, already extracted. UserError: a name without a counterpart.
    """
    for source in (first, second):
        if not source.files:
            raise UserError(f"--against pairs pictures by name, and {shown(source.path)} holds none: give its folder")
    rows = [dict(zip((path.relative_to(source.path).with_suffix("") for path in source.files), source.row, strict=True))
            for source in (first, second)]
    for here, there, source, other in ((*rows, first, second), (*rows[::-1], second, first)):
        if len(here) < len(source.files):
            raise UserError(f"{shown(source.path)} has pictures that differ only in their suffix: --against pairs by "
                            "name, so rename or remove one of each")
        if missing := here.keys() - there.keys():
            raise UserError(f"{shown(Path(source.path) / min(missing))} has no counterpart in {shown(other.path)}: "
                            "--against compares translations of the same inputs")
    return tuple(source.features[[row[name] for name in sorted(row)]]
                 for source, row in zip((first, second), rows, strict=True))


def compare(real, a, b, seed=2020, degree=3, gamma=None, coef0=1.0, scores=tuple(PERMUTATIONS)):
    """FID and KID of a minus those of b, against features real (m, d); a, b (n, d): row i of both is of one input.

    a, b may also be lists of k arrays (n, d), of k seeds: then means over seeds are compared, and an exchange
    concerns all seeds' translations of an input.
    Returns {"fid": ..., "kid": ...}, each a dict: difference; p, two-sided, of the paired permutation test, which
    exchanges the two translations of each input with probability 1/2: (1 + the number of exchanges whose difference is
    at least as large) / (1 + permutations); permutations; interval, 95%, or None where there is none.
    scores: which of the two.
    """
    a, b = ([z] if np.ndim(z) == 2 else list(z) for z in (a, b))
    pairs = [comparable(*pair) for pair in zip(a, b, strict=True)]
    n = len(pairs[0][0])
    if any(len(z) != n for pair in pairs for z in pair):
        raise UserError(f"{n} and {len(pairs[0][1])} pictures: a paired test needs the same inputs translated by both")
    kernel = degree, gamma, coef0
    computed = {
        "fid": (frechet_distance, lambda a, b: _exchanged_frechet(real, a, b), frechet_jackknife),
        "kid": (lambda *z: polynomial_mmd2(*z, *kernel)[0], lambda a, b: _exchanged_kernel(real, a, b, *kernel),
                lambda *z: kernel_jackknife(*z, *kernel)[0]),
    }
    report, suited = {}, not any(intervals(real, z, 0, None, *kernel)[1] for pair in pairs for z in pair)
    for name in scores:
        score, exchanged, without = computed[name]
        difference = finite(float(np.mean([score(real, a) - score(real, b) for a, b in pairs])), "difference")
        permutations = PERMUTATIONS_OF_MANY if name == "fid" and n > MANY else PERMUTATIONS[name]
        p = _p(difference, lambda draws, each=exchanged: np.mean([each(*pair)(draws) for pair in pairs], 0),
               n, permutations, seed)
        report[name] = {"difference": difference, "p": p, "permutations": permutations, "interval": None}
        if suited:
            lost = [[of_a - of_b for of_a, of_b in zip(without(real, a), without(real, b), strict=True)]
                    for a, b in pairs]
            report[name]["interval"] = interval(difference, [np.mean(z, 0) for z in zip(*lost, strict=True)])
    return report


def compare_means(a, b, seed=2020):
    """The same test of the means of a and b (n,), values of n inputs: its p."""
    difference = np.asarray(a, float) - b
    return _p(difference.mean(), lambda draws: (1 - 2.0 * draws) @ difference / len(difference), len(difference),
              PERMUTATIONS["kid"], seed)


def _p(difference, exchanged, n, permutations, seed):
    """exchanged: the function draws (k, n) -> the difference after these exchanges (k,)."""
    draws = np.random.default_rng(seed).integers(0, 2, (permutations, n)).astype(bool)
    reached = np.abs(exchanged(draws)) >= abs(difference) * (1 - 1e-9)  # an exchange of copies is as large
    return float(1 + reached.sum()) / (1 + permutations)


def _exchanged_kernel(real, a, b, degree, gamma, coef0):
    """The function draws (k, n) -> KID's difference after these exchanges (k,): each changes the sign of a summand."""
    real, a, b = (torch.as_tensor(z, dtype=torch.float64) for z in (real, a, b))
    gamma, n = 1 / a.shape[1] if gamma is None else gamma, len(a)

    def kernel(x, y):
        return (gamma * x @ y.T + coef0) ** degree

    aa, bb, ab = (kernel(x, y).fill_diagonal_(0) for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum(1) - bb.sum(1) + ab.sum(1) - ab.sum(0)) / (n * (n - 1))
    summands = (within - 2 * (kernel(a, real).mean(1) - kernel(b, real).mean(1)) / n).numpy()
    return lambda draws: (1 - 2.0 * draws) @ summands


def _exchanged_frechet(real, a, b):
    """The function draws (k, n) -> FID's difference after these exchanges (k,), from products of features alone."""
    real, a, b = (z.astype(np.float64) for z in (real, a, b))
    mu, n = real.mean(0), len(a)
    real, a, b = real - mu, a - mu, b - mu
    products, squares = np.stack([a @ real.T, b @ real.T]), np.stack([(a**2).sum(1), (b**2).sum(1)])
    scale = 1 / np.sqrt((n - 1) * (len(real) - 1))

    def distance(chosen, mean):
        """But for the real trace; chosen (n,) 0 where the picture is of a; mean (d,) of the chosen."""
        cross = products[chosen, np.arange(n)] * scale
        cross -= cross.mean(0)
        gram = cross @ cross.T if n <= len(real) else cross.T @ cross
        trace = (squares[chosen, np.arange(n)].sum() - n * mean @ mean) / (n - 1)
        return mean @ mean + trace - 2 * np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum()

    def differences(draws):
        means = (draws @ (b - a) + a.sum(0)) / n, (draws @ (a - b) + b.sum(0)) / n
        return np.array([distance(one.astype(int), mean_a) - distance(1 - one.astype(int), mean_b)
                         for one, mean_a, mean_b in zip(draws, *means, strict=True)])

    return differences
