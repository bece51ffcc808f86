"""Distances between sets of features, and between pictures: numbers in, numbers out.

Features are float arrays (n, d) of numpy or torch; distances come in double precision.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg.lapack import dpstrf

from layers import product
from utils import UserError

BLOCK = 256   # rows at a time wherever (n, n) or float64 copies would not fit in memory
EXACT = 2000  # up to this many pictures KID is computed in double precision throughout
BFLOAT16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()  # products in it are twice as fast


def frechet_distance(x, y):
    """Frechet distance of the Gaussians fitted to features x (n, d) and y (m, d); n, m >= 2.

    |mu_x - mu_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2), in double precision, never negative.
    With any factors S = F'F the last trace is the nuclear norm of F_x F_y', so no square root of a
    matrix is taken: up to d pictures the centred features themselves are such a factor, and what
    remains is a small (n, m) matrix. UserError: features that cannot be compared.
    """
    x, y = _comparable(x, y)
    if min(len(x), len(y)) > x.shape[1]:
        return frechet_from_moments(*moments(x), *moments(y))
    (mu_x, f_x), (mu_y, f_y) = _mean_and_factor(x), _mean_and_factor(y)
    root = np.linalg.svd(f_x @ f_y.T, compute_uv=False).sum()
    return _frechet(mu_x, (f_x**2).sum(), mu_y, (f_y**2).sum(), root)


def frechet_from_moments(mu_x, sigma_x, mu_y, sigma_y):
    """The same distance from means (d,) and covariances (d, d): a symmetric eigenvalue problem.

    The singular values of F_x F_y' are the roots of the eigenvalues of its Gram matrix, taken on the
    side of the lower rank, where none of them is zero but for rounding.
    """
    f_x, f_y = _factor(sigma_x), _factor(sigma_y)
    cross = f_x @ f_y.T if len(f_x) <= len(f_y) else f_y @ f_x.T
    root = np.sqrt(np.linalg.eigvalsh(cross @ cross.T).clip(0)).sum()
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
    """F (rank, d) with F'F = sigma: Cholesky with pivoting, which stops at sigma's numerical rank."""
    lower, pivot, rank, _ = dpstrf(sigma, lower=1)
    factor = np.empty((rank, len(sigma)))
    factor[:, pivot - 1] = np.tril(lower)[:, :rank].T
    return factor


def _frechet(mu_x, trace_x, mu_y, trace_y, root):
    return max(0.0, float(((mu_x - mu_y) ** 2).sum() + trace_x + trace_y - 2 * root))


def polynomial_mmd2(x, y, degree=3, gamma=None, coef0=1.0, var_at_m=None):
    """Unbiased MMD^2 of features x (m, d), y (n, d) under k(a, b) = (gamma a.b + coef0)^degree.

    gamma defaults to 1/d. Returns (mmd2, var): var estimates the variance the estimate would have on
    var_at_m (default m) points of each (Sutherland et al. 2017); it may come out negative, and
    it is NaN when m != n or m < 3, where the formula does not apply. Double precision throughout.
    """
    x, y = (torch.as_tensor(a, dtype=torch.float64) for a in _comparable(x, y))
    whole = torch.ones(len(x), 1).double(), torch.ones(len(y), 1).double()
    gamma = 1 / x.shape[1] if gamma is None else gamma
    mmd2, var = _mmd2_of_subsets(x, y, *whole, degree, gamma, coef0, var_at_m)
    return mmd2.item(), var.item()


def kid(x, y, subsets=50, subset_size=1000, seed=2020, degree=3, gamma=None, coef0=1.0, var=True):
    """KID: the mean of MMD^2 over random subsets of features x (n, d) and y (m, d).

    Returns a dict: kid, kid_std (over subsets), kid_var (mean variance at min(n, m) points; None
    unless var), kid_subsets, kid_subset_size (clamped to n and m). Where that is both n and m, one
    subset is all there is: kid_std is 0, and kid_var is given in any case. At the same seed the
    subsets are torch-fidelity's. Up to EXACT pictures all is in double precision; beyond, float32
    features are multiplied as such, or in bfloat16 where a trial finds that this moves a subset's
    value by no more than some 1e-3 of kid_std.
    """
    x, y = _comparable(x, y)
    gamma = 1 / x.shape[1] if gamma is None else gamma
    smaller = min(len(x), len(y))
    size = min(subset_size, smaller)
    if size == max(len(x), len(y)):  # every subset is everything: once is enough, and that exactly
        subsets, var = 1, True
        values, variances = np.array([polynomial_mmd2(x, y, degree, gamma, coef0, smaller)]).T
    else:
        rng = np.random.RandomState(seed)
        draws = [[rng.choice(len(z), size, replace=False) for z in (x, y)] for _ in range(subsets)]
        dtype = np.float64 if max(len(x), len(y)) <= EXACT else np.result_type(x, y, np.float32)
        x, y = (torch.from_numpy(z.astype(dtype, copy=False)) for z in (x, y))
        kernel = degree, gamma, coef0
        values = _values_of_draws(x, y, draws, kernel)
        if var:
            variances = torch.cat([_mmd2_of_subsets(*group, *kernel, smaller)[1] for group in _groups(x, y, draws)])
    return {"kid": float(values.mean()), "kid_std": float(values.std()),
            "kid_var": float(variances.mean()) if var else None, "kid_subsets": subsets, "kid_subset_size": size}


def _groups(x, y, draws):
    """Yields features x (n, d), y (m, d) with subsets of them in the columns of s (n, k), t (m, k).

    All at once where the draws, pairs of lists of rows, overlap, so that every product is made once.
    """
    size = len(draws[0][0])
    if len(draws) * size**2 > max(len(x), len(y)) ** 2:
        s, t = (torch.zeros(len(z), len(draws)).to(x) for z in (x, y))
        for column, (i, j) in enumerate(draws):
            s[i, column], t[j, column] = 1, 1
        yield x, y, s, t
    else:
        for i, j in draws:
            yield x[i], y[j], *[torch.ones(size, 1).to(x)] * 2


def _values_of_draws(x, y, draws, kernel):
    """MMD^2 (k,) of k draws: in bfloat16 where that is fast and a trial allows it."""
    def values(draws, dtype):
        return torch.cat([_centred_mmd2(*group, *kernel, dtype) for group in _groups(x, y, draws)])

    if x.dtype == torch.float32 and BFLOAT16:
        found = values(draws, torch.bfloat16)
        trial = [[rows[:max(2, len(rows) // 4)] for rows in draw] for draw in draws[:2]]
        error = values(trial, torch.bfloat16) - values(trial, x.dtype)  # four times a whole subset's
        if error.square().mean().sqrt() <= 4e-3 * found.std(correction=0):
            return found.numpy()
    return values(draws, x.dtype).numpy()


def _centred_mmd2(x, y, s, t, degree, gamma, coef0, dtype):
    """MMD^2 (k,) of the k pairs of subsets in the columns of s (n, k), t (m, k); products in `dtype`."""
    centre = (x.sum(0) + y.sum(0)) / (len(x) + len(y))
    p, q = (_Centred(z, w, centre, degree, gamma, coef0, dtype) for z, w in ((x, s), (y, t)))
    m, n = int(s[:, 0].sum()), int(t[:, 0].sum())
    return _unbiased(p.sums(p), q.sums(q), p.sums(q), m, n)


def _unbiased(within_x, within_y, across, m, n):
    """MMD^2 from the kernel's sums over pairs of m and n points, within each set of different ones only."""
    return within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * across / (m * n)


class _Centred:
    """Features x (n, d) seen from a point c, and their subsets in the columns of s (n, k).

    gamma x_i.y_j + coef0 is u_i + v_j + r_ij with u_i = gamma (x_i.c - c.c / 2) + coef0 / 2 and
    r_ij = gamma (x_i - c).(y_j - c), which is small. Of the power's expansion in r, the terms
    (u + v)^p and p (u + v)^(p-1) r sum up without any pair, from sums of u^a and u^a (x - c). Only
    those from r^2 on need all pairs, and what r is rounded to hardly shows there.
    """

    def __init__(self, x, s, centre, degree, gamma, coef0, dtype):
        self.s, self.degree, self.gamma = s, degree, gamma
        self.x = torch.empty_like(x, dtype=dtype)  # x - c
        self.u, self.diagonal = torch.empty(2, len(x), dtype=torch.float64)  # u_i, r_ii
        self.vectors = 0  # sums of u^a (x - c): (degree, k, d)
        for i in range(0, len(x), BLOCK):
            rows = slice(i, i + BLOCK)
            self.x[rows] = part = x[rows] - centre
            self.u[rows] = u = gamma * (part @ centre + centre @ centre / 2).double() + coef0 / 2
            self.diagonal[rows] = gamma * torch.linalg.vecdot(part, part)
            weighted = torch.cat([s[rows] * (u**a).to(s)[:, None] for a in range(degree)], 1)
            self.vectors += product(weighted.T, part).double().unflatten(0, (degree, -1))
        self.powers = [s.double().T @ self.u**a for a in range(degree + 1)]  # sums of u^a: (k,) each

    def sums(self, other):
        """The kernel's sum (k,) over pairs of points of self's and other's subsets; with self, of different points."""
        p, pairs = self.degree, self.sums_of_pairs(other)
        constant = sum(math.comb(p, a) * self.powers[a] * other.powers[p - a] for a in range(p + 1))
        linear = sum(math.comb(p - 1, a) * (self.vectors[a] * other.vectors[p - 1 - a]).sum(1) for a in range(p))
        if other is self:
            pairs -= self.s.double().T @ ((2 * self.u) ** p + p * (2 * self.u) ** (p - 1) * self.diagonal)
        return constant + p * self.gamma * linear + pairs

    def sums_of_pairs(self, other):
        """The sums (k,) of the terms from r^2 on: r^2 (r^(p-2) + p (u + v) r^(p-3) + ...), by Horner's rule."""
        p, total = self.degree, torch.zeros(self.s.shape[1], dtype=torch.float64)
        u, v = self.u.to(self.s), other.u.to(self.s)
        memory = torch.empty(2, 5 * BLOCK**2).to(u)  # taken once: fresh memory costs more than what is done in it
        for i in range(0, len(u), BLOCK):
            rows, start = slice(i, i + BLOCK), i if other is self else 0
            for j in range(start, len(v), 5 * BLOCK):
                columns = slice(j, j + 5 * BLOCK)
                products = product(self.x[rows], other.x[columns].T)
                r, terms = (part[:products.numel()].view_as(products) for part in memory)
                r.copy_(products).mul_(self.gamma)
                if p > 2:
                    torch.add(p * u[rows, None], p * v[columns], out=terms).add_(r)
                else:
                    terms.fill_(p - 1)  # r^2 alone, or with p = 1 not even that
                for a in range(2, p - 1):
                    terms.mul_(r).add_((u[rows, None] + v[columns]) ** a, alpha=math.comb(p, a))
                terms.mul_(r.square_())
                if other is self and j == start:  # the block on the diagonal has no mirror image
                    terms.fill_diagonal_(0)[:, :len(terms)] /= 2
                total += (self.s[rows] * product(terms, other.s[columns])).sum(0, dtype=torch.float64)
        return 2 * total if other is self else total


def _row_sums(kernel, x, y, s, t):
    """Sums over subsets of K = kernel(x, y); where y is x, of K without its diagonal.

    s (n, k) and t (m, k) hold a 1 where a point belongs to the subset of that column. Returns K t
    (n, k), K's (m, k), and per column the sum of K^2 over the subset's entries (k,).
    """
    symmetric = y is x  # then only the blocks from the diagonal on are made
    rows, columns = torch.zeros_like(s), torch.zeros_like(t)
    squared = torch.zeros(s.shape[1], dtype=torch.float64)
    for i in range(0, len(x), BLOCK):
        block, first = slice(i, i + BLOCK), i if symmetric else 0
        once = len(x[block]) if symmetric else 0  # columns of the diagonal block, which has no mirror image
        k = kernel(x[block], y[first:])
        if symmetric:
            k.fill_diagonal_(0)
        rows[block] += product(k, t[first:])
        columns[first + once:] += product(k[:, once:].T, s[block])
        k.square_()
        if symmetric:
            k[:, once:] *= 2
        squared += (s[block] * product(k, t[first:])).sum(0, dtype=torch.float64)
    if symmetric:
        rows = columns = rows + columns
    return rows.double(), columns.double(), squared


def _mmd2_of_subsets(x, y, s, t, degree, gamma, coef0, var_at_m=None):
    """MMD^2 (k,) and its variance (k,) for k pairs of subsets given as columns of s (n, k), t (m, k).

    var_at_m: the number of points to scale the variance to, None for the subsets' own.
    """
    def kernel(a, b):
        return product(gamma * a, b.T).add_(coef0).pow_(degree)

    m, n = int(s[:, 0].sum()), int(t[:, 0].sum())
    (r_x, _, x2), (r_y, _, y2), (r, c, k2) = (
        _row_sums(kernel, *pair) for pair in ((x, x, s, s), (y, y, t, t), (x, y, s, t)))
    s, t = s.double(), t.double()
    sum_x, sum_y, total = (s * r_x).sum(0), (t * r_y).sum(0), (s * r).sum(0)
    mmd2 = _unbiased(sum_x, sum_y, total, m, n)
    if m != n or m < 3:
        return mmd2, torch.full_like(mmd2, math.nan)

    def dot(subset, a, b):
        return (subset * a * b).sum(0)

    m2, m3, big = m * (m - 1), m * (m - 1) * (m - 2), var_at_m or m
    same = (sum_x**2 + sum_y**2) / m2**2 + 2 * total**2 / m**4  # products of means, in both terms below
    mixed = dot(s, r_x, r) + dot(t, r_y, c) - (sum_x + sum_y) * total / m
    z1 = ((dot(s, r_x, r_x) - x2 + dot(t, r_y, r_y) - y2) / m3 - same
          + (dot(s, r, r) + dot(t, c, c) - 2 * k2) / (m * m2) - 2 * mixed / (m * m2))
    z2 = (x2 + y2) / m2 - same + 2 * k2 / m**2 - 4 * mixed / (m * m2)
    return mmd2, 4 * (big - 2) / (big * (big - 1)) * z1 + 2 / (big * (big - 1)) * z2


def inception_score(logits, splits=10):
    """exp E KL(p(y|x) || p(y)) (Salimans et al. 2016) of logits (n, classes): mean and std over splits."""
    if len(logits) < splits:
        raise UserError(f"the Inception Score needs {splits} pictures, one a split, and there are {len(logits)}")
    log_p = torch.as_tensor(logits, dtype=torch.float64).log_softmax(1)
    scores = []
    for part in (log_p[i * len(log_p) // splits:(i + 1) * len(log_p) // splits] for i in range(splits)):
        kl = part.exp() * (part - part.exp().mean(0, keepdim=True).log())
        scores.append(kl.sum(1).mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))


def _comparable(x, y):
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"features {x.shape} and {y.shape} cannot be compared: make both (n, d) with one d")
    if min(len(x), len(y)) < 2:
        raise UserError(f"{len(x)} and {len(y)} pictures: a distribution needs at least two")
    return x, y


def ssim(a, b):
    """Structural similarity (Wang et al. 2004) of pictures (N, 3, H, W) in [0, 1], H, W >= 11: (N,).

    The paper's settings: Gaussian window 11x11, sigma 1.5, K = 0.01 and 0.03, inside positions only;
    per colour channel, then averaged.
    """
    taps = torch.exp(-torch.arange(-5, 6, dtype=a.dtype) ** 2 / (2 * 1.5**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2

    def blur(x):
        return F.conv2d(x.flatten(0, 1)[:, None], window).unflatten(0, x.shape[:2])

    mu_a, mu_b, c1, c2 = blur(a), blur(b), 0.01**2, 0.03**2
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    similarity = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return similarity.flatten(1).mean(1)
