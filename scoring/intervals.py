"""95% intervals of FID and KID over pictures, by the jackknife.

An interval is for the mean score of other pictures of the same kinds, as many as these: FID is biased at few
pictures, and the interval does not undo that.  The bootstrap is not used: it draws a picture twice, and that
raises FID.  The jackknife counts the part of the variance that pairs of pictures make twice, so that part is taken off
once.  Where two sets are nearly alike, pairs make most of the variance, and no interval is given.
benchmarks/intervals.py measures how often the intervals hold.
"""

import math

import numpy as np
import torch
from scipy.stats import t as student

from scoring.metrics import comparable

LEVEL = 0.95
SIZES = 80, 1000     # numbers of pictures, from and to, at which an interval is given; with 20 it is too wide
MOST_BY_PAIRS = 0.3  # share of the jackknife's variance that pairs of pictures may make
STEP = 0.7        # of the integral below, in log s; the trapezoidal rule errs by exp(-2 pi^2 / STEP)


def frechet_jackknife(x, y):
    """The Frechet distance of features x (n, d), y (m, d) without each row: (n,) for x, (m,) for y; n, m >= 3.

    With A = F_x F_y' = U S V', leaving out row i takes k a a' from A'A, where a is A's row i and k = n/(n-1).
    The trace of the root follows from resolvents, sqrt(c) = 1/pi int c/(c+s) ds/sqrt(s), so that one singular
    value decomposition serves all rows:
    tr sqrt(A'A - k a a') - tr sqrt(A'A) = -1/pi int sqrt(s) k q/(1 - k p) ds,
    p = a'(A'A+s)^-1 a = sum_j S_j^2 U_ij^2/(S_j^2+s), q = a'(A'A+s)^-2 a.
    """
    x, y = (z.astype(np.float64, copy=False) for z in comparable(x, y))
    mu_x, mu_y = x.mean(0), y.mean(0)
    c_x, c_y = x - mu_x, y - mu_y
    u, sigma, vt = np.linalg.svd(c_x @ c_y.T / math.sqrt((len(x) - 1) * (len(y) - 1)), full_matrices=False)
    kept = sigma > 1e-10 * sigma.max(initial=0)
    u, sigma, v = u[:, kept], sigma[kept], vt[kept].T
    shift, traces = mu_x - mu_y, [(c**2).sum() / (len(c) - 1) for c in (c_x, c_y)]
    found = []
    for c, basis, gap, trace, other in ((c_x, u, shift, *traces), (c_y, v, -shift, *traces[::-1])):
        n, norms = len(c), (c**2).sum(1)
        root = math.sqrt((n - 1) / (n - 2)) * (sigma.sum() - _root_lost(basis**2, sigma**2, n / (n - 1)))
        means = gap @ gap - 2 * c @ gap / (n - 1) + norms / (n - 1) ** 2
        found.append(means + ((n - 1) * trace - n / (n - 1) * norms) / (n - 2) + other - 2 * root)
    return found


def _root_lost(u2, s2, k):
    """tr sqrt(A'A) - tr sqrt(A'A - k a_i a_i') for each row: (n,).  u2 (n, r): squared entries of U; s2 (r,): S^2."""
    if not len(s2):
        return np.zeros(len(u2))
    log_s = np.arange(math.log(s2.min()) - 40, math.log(s2.max()) + 40, STEP)
    s = np.exp(log_s)
    resolvent = 1 / (s2[:, None] + s)                  # (r, steps)
    rest = (1 - k * u2.sum(1, keepdims=True)).clip(0)  # of 1 - k p where s is 0; without cancellation
    q, one_minus_kp = u2 @ (s2[:, None] * resolvent**2), rest + k * u2 @ (s * resolvent)
    return k * STEP / math.pi * (s**1.5 * q / np.maximum(one_minus_kp, 1e-300)).sum(1)


def kernel_jackknife(x, y, degree=3, gamma=None, coef0=1.0):
    """The unbiased MMD^2 of metrics.polynomial_mmd2 without each row, and the share of its variance by pairs.

    y may be a list of (m, d), of several seeds: then the mean of their MMD^2, each row left out of all.
    Returns ((n,) for x, (m,) for y), share; n, m >= 4.  The share is that of the interactions k(a, b) - E k(a, .) -
    E k(., b) + E k, of which the jackknife's variance counts each twice.
    """
    ys = [torch.as_tensor(comparable(x, z)[1], dtype=torch.float64) for z in ([y] if np.ndim(y) == 2 else y)]
    x = torch.as_tensor(x, dtype=torch.float64)
    gamma = 1 / x.shape[1] if gamma is None else gamma

    def kernel(a, b):
        return (gamma * a @ b.T + coef0) ** degree

    n, m = len(x), len(ys[0])
    xx, yy, xy = kernel(x, x), sum(kernel(y, y) for y in ys) / len(ys), sum(kernel(x, y) for y in ys) / len(ys)
    xx.fill_diagonal_(0), yy.fill_diagonal_(0)
    sum_x, sum_y, total = xx.sum(), yy.sum(), xy.sum()
    without_x = ((sum_x - 2 * xx.sum(1)) / ((n - 1) * (n - 2)) + sum_y / (m * (m - 1))
                 - 2 * (total - xy.sum(1)) / ((n - 1) * m))
    without_y = (sum_x / (n * (n - 1)) + (sum_y - 2 * yy.sum(1)) / ((m - 1) * (m - 2))
                 - 2 * (total - xy.sum(0)) / (n * (m - 1)))
    pairs = (2 * _interaction(xx) / (n * (n - 1)) + 2 * _interaction(yy) / (m * (m - 1))
             + 4 * ((xy - xy.mean(0) - xy.mean(1, keepdim=True) + xy.mean()) ** 2).sum() / ((n - 1) * (m - 1) * n * m))
    without = without_x.numpy(), without_y.numpy()
    variance = sum(_variances(without))
    return without, float(pairs / variance) if variance > 0 else 1.0


def _interaction(k):
    """Mean square of what k(x_i, x_j), i != j, has beyond functions of x_i and of x_j alone; k (n, n), diagonal 0."""
    n = len(k)
    rows = k.sum(1) / (n - 2)
    rest = (k - rows - rows[:, None] + k.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)
    return (rest**2).sum() / (n * (n - 3))


def interval(value, without, by_pairs=0.0, level=LEVEL):
    """(low, high) around a score; without: its values with each picture left out, (n,) for each set.

    by_pairs: the share of the variance that is counted twice.
    Student's t with the degrees of freedom of Welch and Satterthwaite.
    """
    variances = _variances(without) * (1 - by_pairs)
    if not variances.sum() > 0:
        return float(value), float(value)
    freedom = variances.sum() ** 2 / sum(v**2 / (len(w) - 1) for v, w in zip(variances, without, strict=True))
    reach = student.ppf((1 + level) / 2, freedom) * math.sqrt(variances.sum())
    return float(value - reach), float(value + reach)


def _variances(without):
    """The jackknife's variance by each set: (n-1)/n times the sum of squared deviations."""
    return np.array([(len(w) - 1) ** 2 / len(w) * w.var(ddof=1) for w in without])


def intervals(x, y, fid, kid=None, degree=3, gamma=None, coef0=1.0):
    """({"fid": (low, high), "kid": ...}, None), or ({}, the reason why there are none), of two sets of features.

    fid, kid: the scores, between whose intervals' ends they lie.  y may be a list of arrays (m, d), translations of the
    same pictures by several seeds, and the scores their means.
    """
    ys = [y] if np.ndim(y) == 2 else list(y)
    low, high = SIZES
    if not all(low <= len(z) <= high for z in (x, *ys)):
        return {}, f"no 95% intervals: they need {low} to {high} pictures in each set"
    of_kid, by_pairs = kernel_jackknife(x, ys, degree, gamma, coef0)
    if by_pairs > MOST_BY_PAIRS:
        return {}, "no 95% intervals: the sets are too alike for them at these numbers of pictures"
    of_fid = [np.mean(z, 0) for z in zip(*(frechet_jackknife(x, z) for z in ys), strict=True)]
    found = {"fid": interval(fid, of_fid, by_pairs)}
    return found | ({} if kid is None else {"kid": interval(kid, of_kid, by_pairs)}), None
