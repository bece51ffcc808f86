"""Scores from arrays: distances between sets of features, Inception Score, SSIM.

Features are arrays (n, d) of numpy or torch; distances are computed in double precision.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg.lapack import dpstrf

from utils import UserError

BLOCK = 256  # rows at a time, where (n, n) arrays or float64 copies would not fit in memory


def frechet_distance(x, y):
    """Frechet distance of the Gaussians fitted to features x (n, d) and y (m, d); n, m >= 2.

    |mu_x - mu_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2), in double precision, never negative.
    For any factors S = F'F the last trace is the nuclear norm of F_x F_y', so no matrix square root is
    needed. With at most d pictures the scaled, centred features are such a factor, and F_x F_y' is a small
    (n, m) matrix. UserError: the features cannot be compared.
    """
    x, y = comparable(x, y)
    if min(len(x), len(y)) > x.shape[1]:
        return frechet_from_moments(*moments(x), *moments(y))
    (mu_x, f_x), (mu_y, f_y) = _mean_and_factor(x), _mean_and_factor(y)
    cross = f_x @ f_y.T
    root = np.linalg.svd(cross, compute_uv=False).sum() if np.isfinite(cross).all() else math.nan
    return _frechet(mu_x, (f_x**2).sum(), mu_y, (f_y**2).sum(), root)


def frechet_from_moments(mu_x, sigma_x, mu_y, sigma_y):
    """The same distance from means (d,) and covariances (d, d), by a symmetric eigenvalue problem.

    The singular values of F_x F_y' are the roots of the eigenvalues of its Gram matrix. The smaller of the
    two Gram matrices is used: its eigenvalues are nonzero except for rounding. UserError: sigma_x or sigma_y
    is no covariance.
    """
    f_x, f_y = _factor(sigma_x), _factor(sigma_y)
    cross = f_x @ f_y.T if len(f_x) <= len(f_y) else f_y @ f_x.T
    gram = cross @ cross.T
    root = np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum() if np.isfinite(gram).all() else math.nan
    return _frechet(mu_x, np.trace(sigma_x), mu_y, np.trace(sigma_y), root)


def moments(x):
    """Mean (d,) and unbiased covariance (d, d) of features (n, d), in double precision."""
    mu = x.mean(0, dtype=np.float64)
    sigma = np.zeros((len(mu), len(mu)))
    for i in range(0, len(x), 16 * BLOCK):
        centred = x[i:i + 16 * BLOCK] - mu
        sigma += centred.T @ centred
    return mu, sigma / (len(x) - 1)


def _mean_and_factor(x):
    """Mean of (n, d) features and F (at most d rows) with F'F their covariance."""
    if len(x) > x.shape[1]:
        mu, sigma = moments(x)
        return mu, _factor(sigma)
    mu = x.mean(0, dtype=np.float64)
    return mu, (x - mu) / math.sqrt(len(x) - 1)


def _factor(sigma):
    """F (rank, d) with F'F = sigma, by pivoted Cholesky, which stops at sigma's numerical rank.

    UserError: no F gives sigma, because it is not symmetric or has a negative eigenvalue (beyond rounding).
    """
    lower, pivot, rank, _ = dpstrf(sigma, lower=1)
    factor = np.empty((rank, len(sigma)))
    factor[:, pivot - 1] = np.tril(lower)[:, :rank].T
    if not np.abs(factor.T @ factor - sigma).max() <= 1e-3 * np.abs(sigma).max():
        raise UserError("sigma is no covariance (not symmetric, or with negative eigenvalues): compute it again "
                        "from features")
    return factor


def _frechet(mu_x, trace_x, mu_y, trace_y, root):
    distance = float(((mu_x - mu_y) ** 2).sum() + trace_x + trace_y - 2 * root)
    return max(0.0, finite(distance, "Frechet distance"))  # rounding leaves equal sets below 0


def finite(value, name):
    """The value.  UserError: it is NaN or infinite; max(0.0, nan) would be 0."""
    if not math.isfinite(value):
        raise UserError(f"the {name} is not finite: the features hold values too large to be squared, or no numbers; "
                        "compute them again")
    return value


def polynomial_mmd2(x, y, degree=3, gamma=None, coef0=1.0, var_at_m=None):
    """Unbiased MMD^2 of features x (m, d), y (n, d) under k(a, b) = (gamma a.b + coef0)^degree.

    gamma defaults to 1/d. Returns (mmd2, var): var estimates the variance of the estimate for
    var_at_m (default m) points in each set (Sutherland et al. 2017). It can be negative, and it is NaN
    if m != n or m < 3, where the formula does not apply. Double precision throughout.
    """
    x, y = _double(*comparable(x, y))
    whole = (torch.ones(len(z), 1, dtype=torch.float64) for z in (x, y))
    gamma = 1 / x.shape[1] if gamma is None else gamma
    mmd2, var = _mmd2_of_subsets(x, y, *whole, degree, gamma, coef0, var_at_m)
    return mmd2.item(), var.item()


def kid(x, y, subsets=50, subset_size=1000, seed=2020, degree=3, gamma=None, coef0=1.0, var=True):
    """KID: the mean of MMD^2 over random subsets of features x (n, d) and y (m, d).

    Returns a dict: kid, kid_std (over subsets), kid_var (mean variance at min(n, m) points; None
    unless var, or of two points), kid_subsets, kid_subset_size (clamped to n and m). If the size is both n and m, there
    is only one subset: kid_std is 0, and kid_var is always given. The subsets are torch-fidelity's
    at the same seed. Double precision throughout.
    """
    x, y = comparable(x, y)
    gamma = 1 / x.shape[1] if gamma is None else gamma
    smaller = min(len(x), len(y))
    size = min(subset_size, smaller)
    if size == max(len(x), len(y)):  # every subset would be everything: one is enough
        subsets, var, draws = 1, True, [[np.arange(size)] * 2]
    else:
        rng = np.random.RandomState(seed)
        draws = [[rng.choice(len(z), size, replace=False) for z in (x, y)] for _ in range(subsets)]
    groups = [_mmd2_of_subsets(*group, degree, gamma, coef0, smaller) for group in _groups(x, y, draws)]
    values, variances = map(torch.cat, zip(*groups, strict=True))
    value = finite(values.mean().item(), "kernel distance")
    variance = finite(variances.mean().item(), "kernel distance's variance") if var and size > 2 else None
    return {"kid": value, "kid_std": values.std(correction=0).item(),
            "kid_var": variance, "kid_subsets": subsets, "kid_subset_size": size}


def _groups(x, y, draws):
    """Yield (x (n, d), y (m, d), s (n, k), t (m, k)): features, and k subsets of them as columns of 0 and 1.

    draws: pairs of row indices. If the subsets overlap, all come at once, so that every kernel entry is computed
    once; else one by one. All float64.
    """
    size = len(draws[0][0])
    if len(draws) * size**2 > max(len(x), len(y)) ** 2:
        s, t = (torch.zeros(len(z), len(draws), dtype=torch.float64) for z in (x, y))
        for column, (i, j) in enumerate(draws):
            s[i, column], t[j, column] = 1, 1
        yield *_double(x, y), s, t
    else:
        ones = torch.ones(size, 1, dtype=torch.float64)
        for i, j in draws:
            yield *_double(x[i], y[j]), ones, ones


def _double(*arrays):
    return (torch.as_tensor(a, dtype=torch.float64) for a in arrays)


def _row_sums(kernel, x, y, s, t):
    """Sums over subsets of K = kernel(x, y); if y is x, of K without its diagonal.

    s (n, k) and t (m, k) are 1 where a point belongs to the subset of that column. Returns K t (n, k),
    K's (m, k), and for each column the sum of K^2 over the subset's entries (k,).
    """
    symmetric = y is x  # then only the blocks from the diagonal on are computed
    rows, columns = torch.zeros_like(s), torch.zeros_like(t)
    squared = torch.zeros(s.shape[1], dtype=torch.float64)
    for i in range(0, len(x), BLOCK):
        block, first = slice(i, i + BLOCK), i if symmetric else 0
        once = len(x[block]) if symmetric else 0  # columns of the diagonal block, which counts once
        k = kernel(x[block], y[first:])
        if symmetric:
            k.fill_diagonal_(0)
        rows[block] += k @ t[first:]
        columns[first + once:] += k[:, once:].T @ s[block]
        k.square_()
        if symmetric:
            k[:, once:] *= 2
        squared += (s[block] * (k @ t[first:])).sum(0)
    if symmetric:
        rows = columns = rows + columns
    return rows, columns, squared


def _mmd2_of_subsets(x, y, s, t, degree, gamma, coef0, var_at_m=None):
    """MMD^2 (k,) and its variance (k,) of k pairs of subsets, the columns of s (n, k), t (m, k).

    var_at_m: the number of points that the variance is for; None: the subsets' size.
    """
    def kernel(a, b):
        return (gamma * a @ b.T).add_(coef0).pow_(degree)

    m, n = int(s[:, 0].sum()), int(t[:, 0].sum())
    (r_x, _, x2), (r_y, _, y2), (r, c, k2) = (
        _row_sums(kernel, *pair) for pair in ((x, x, s, s), (y, y, t, t), (x, y, s, t)))
    sum_x, sum_y, total = (s * r_x).sum(0), (t * r_y).sum(0), (s * r).sum(0)
    mmd2 = sum_x / (m * (m - 1)) + sum_y / (n * (n - 1)) - 2 * total / (m * n)
    if m != n or m < 3:
        return mmd2, torch.full_like(mmd2, math.nan)

    def dot(subset, a, b):
        return (subset * a * b).sum(0)

    m2, m3, big = m * (m - 1), m * (m - 1) * (m - 2), var_at_m or m
    same = (sum_x**2 + sum_y**2) / m2**2 + 2 * total**2 / m**4  # products of means, in both z1 and z2
    mixed = dot(s, r_x, r) + dot(t, r_y, c) - (sum_x + sum_y) * total / m
    z1 = ((dot(s, r_x, r_x) - x2 + dot(t, r_y, r_y) - y2) / m3 - same
          + (dot(s, r, r) + dot(t, c, c) - 2 * k2) / (m * m2) - 2 * mixed / (m * m2))
    z2 = (x2 + y2) / m2 - same + 2 * k2 / m**2 - 4 * mixed / (m * m2)
    return mmd2, 4 * (big - 2) / (big * (big - 1)) * z1 + 2 / (big * (big - 1)) * z2


def inception_score(logits, splits=10):
    """exp E KL(p(y|x) || p(y)) (Salimans et al. 2016) of logits (n, classes): mean and std over splits."""
    if len(logits) < splits:
        raise UserError(f"the Inception Score needs at least {splits} pictures, one a split; there are {len(logits)}")
    log_p = torch.as_tensor(logits, dtype=torch.float64).log_softmax(1)
    scores = []
    for part in (log_p[i * len(log_p) // splits:(i + 1) * len(log_p) // splits] for i in range(splits)):
        p = part.exp()
        kl = p * part - torch.special.xlogy(p, p.mean(0, keepdim=True))  # 0 for a class that no picture is of
        scores.append(finite(kl.sum(1).mean().exp().item(), "Inception Score"))
    return float(np.mean(scores)), float(np.std(scores))


def comparable(x, y):
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"features {x.shape} and {y.shape} cannot be compared: make both (n, d) with one d")
    if min(len(x), len(y)) < 2:
        raise UserError(f"{len(x)} and {len(y)} pictures: a distribution needs at least two")
    return x, y


def ssim(a, b):
    """Structural similarity (Wang et al. 2004) of pictures (N, 3, H, W) in [0, 1], H, W >= 11: (N,).

    The paper's settings: Gaussian window 11x11, sigma 1.5, K = 0.01 and 0.03, only positions where the window
    fits; per colour channel, then averaged.
    """
    taps = torch.exp(-torch.arange(-5, 6, dtype=a.dtype) ** 2 / (2 * 1.5**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2

    def blur(x):
        return F.conv2d(x.flatten(0, 1)[:, None], window).unflatten(0, x.shape[:2])

    mu_a, mu_b, c1, c2 = blur(a), blur(b), 0.01**2, 0.03**2
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    similarity = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return similarity.flatten(1).mean(1)
