"""scoring/metrics.py against fixtures, closed forms, definitions and the three packages people use."""

import math
import time
from pathlib import Path

import cleanfid.fid
import numpy as np
import pytest
import pytorch_fid.fid_score
import torch
import torch_fidelity.metric_fid
import torch_fidelity.metric_isc
import torch_fidelity.metric_kid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import fid_kid
from scoring import metrics
from utils import UserError

FIXTURES = Path(__file__).parent / "fixtures"


def features(n, d, seed=0, shift=0.0, dtype=np.float64):
    """Correlated, skewed features such as networks give."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(np.arange(1, d + 1))
    return np.maximum(rng.standard_normal((n, d)) @ mix.T / 4 + 0.3 + shift, 0).astype(dtype)


@pytest.mark.parametrize("name", ["scores", "scores_fullrank"])
def test_fixture_scores(name):
    fixture = np.load(FIXTURES / f"{name}.npz")
    x, y, n = fixture["X"], fixture["Y"], int(fixture["n"])
    assert fid_kid.frechet_distance(x, y) == pytest.approx(float(fixture["fid"]), rel=1e-5)
    for size, what in ((n, "all"), (n // 2, "half")):
        found = fid_kid.polynomial_mmd2(x[:size], y[:size], var_at_m=n)
        assert found == pytest.approx((float(fixture[f"mmd2_{what}"]), float(fixture[f"var_{what}"])), abs=1e-9)


def whitened(n, d, seed):
    """(n, d) points of mean exactly 0 and unbiased covariance exactly 1."""
    x = np.random.default_rng(seed).standard_normal((n, d))
    q, _ = np.linalg.qr(x - x.mean(0))
    return q * math.sqrt(n - 1)


def test_frechet_of_two_gaussians_in_closed_form():
    d = 20
    a, b, shift = np.linspace(0.1, 3, d), np.linspace(2, 0.5, d), np.linspace(-1, 1, d)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0]
    expected = (shift**2).sum() + ((a - b) ** 2).sum()
    x, y = whitened(50, d, 2) * a @ rotation, (whitened(70, d, 3) * b + shift) @ rotation
    assert fid_kid.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    covariances = [rotation.T @ np.diag(s**2) @ rotation for s in (a, b)]
    assert metrics.frechet_from_moments(np.zeros(d), covariances[0], shift @ rotation, covariances[1]) \
        == pytest.approx(expected, rel=1e-9)


def test_frechet_of_two_points_each_in_closed_form():
    # Rank one: covariances aa'/2 and bb'/2 of differences a, b leave |a.b| for the trace of the root's double.
    a, b, shift = np.array([3.0, 0, 4, 0]), np.array([1.0, 2, 2, 0]), np.array([0, 0, 0, 5.0])
    x, y = np.stack([0 * a, a]) - a / 2, np.stack([0 * b, b]) - b / 2 + shift
    assert fid_kid.frechet_distance(x, y) == pytest.approx(25 + 25 / 2 + 9 / 2 - abs(a @ b), rel=1e-12)


SIZES = st.tuples(st.integers(2, 30), st.integers(2, 30), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 10**6))
def test_frechet_properties(sizes, seed):
    n, m, d = sizes
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) * 2 + 1
    distance = fid_kid.frechet_distance(x, y)
    assert math.isfinite(distance) and distance >= ((x.mean(0) - y.mean(0)) ** 2).sum() - 1e-9
    assert fid_kid.frechet_distance(x, x.copy()) < 1e-9
    assert fid_kid.frechet_distance(y, x) == pytest.approx(distance, rel=1e-9)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    assert fid_kid.frechet_distance(3 * (x @ rotation) + 7, 3 * (y @ rotation) + 7) \
        == pytest.approx(9 * distance, rel=1e-6)
    assert fid_kid.frechet_distance(x[rng.permutation(n)], y) == pytest.approx(distance, rel=1e-9)
    # From moments it is the same, but singular covariances cost half the digits.
    assert metrics.frechet_from_moments(*metrics.moments(x), *metrics.moments(y)) \
        == pytest.approx(distance, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("n,m", [(40, 50), (40, 300), (300, 280)])
def test_dead_features_and_few_pictures_leave_zero_for_equal_sets(n, m):
    x = features(n, 96, 1, dtype=np.float32)
    x[:, ::3] = 0
    x[:, 1] = x[:, 2]
    assert fid_kid.frechet_distance(x, x) < 1e-6
    assert metrics.frechet_from_moments(*metrics.moments(x) * 2) < 1e-6
    y = features(m, 96, 2, 0.1, dtype=np.float32)
    both = fid_kid.frechet_distance(x, y), fid_kid.frechet_distance(y, x)
    assert both[0] == pytest.approx(both[1], rel=1e-9)
    assert metrics.frechet_from_moments(*metrics.moments(y), *metrics.moments(x)) == pytest.approx(both[0], rel=1e-6)


@pytest.mark.parametrize("n,m,d", [(300, 260, 48), (40, 45, 120)])
def test_frechet_is_that_of_the_three_packages(n, m, d):
    x, y = features(n, d, 1), features(m, d, 2, 0.05)
    found = fid_kid.frechet_distance(x, y)
    stats = [dict(zip(("mu", "sigma"), (z.mean(0), np.cov(z, rowvar=False)), strict=True)) for z in (x, y)]
    fidelity = torch_fidelity.metric_fid.fid_statistics_to_metric(*stats, verbose=False)
    # With fewer pictures than dimensions they take roots of rounding errors, of about 1e-8 each.
    tolerance = 1e-6 if n > d else 1e-4
    assert found == pytest.approx(fidelity["frechet_inception_distance"], rel=tolerance)
    if n > d:
        moments = [v for s in stats for v in s.values()]
        assert found == pytest.approx(pytorch_fid.fid_score.calculate_frechet_distance(*moments), rel=1e-6)
        assert found == pytest.approx(cleanfid.fid.frechet_distance(*moments), rel=1e-6)
        assert found == pytest.approx(cleanfid.fid.fid_from_feats(x, y), rel=1e-6)


def naive_mmd2(x, y, degree, gamma, coef0):
    def k(a, b):
        return (gamma * sum(p * q for p, q in zip(a, b, strict=True)) + coef0) ** degree
    m, n = len(x), len(y)
    return (sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
            + sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
            - 2 * sum(k(a, b) for a in x for b in y) / (m * n))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_mmd2_is_its_definition(m, n, d, degree, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((m, d)), rng.standard_normal((n, d))
    found, var = fid_kid.polynomial_mmd2(x, y, degree, 0.7, 0.3)
    assert found == pytest.approx(naive_mmd2(x, y, degree, 0.7, 0.3), rel=1e-9, abs=1e-9)
    assert math.isnan(var) == (m != n or m < 3)


def test_default_gamma_is_one_over_the_dimensions_and_blocks_do_not_show(monkeypatch):
    x, y = features(50, 16, 1), features(50, 16, 2, 0.1)
    whole = fid_kid.polynomial_mmd2(x, y)
    assert whole == fid_kid.polynomial_mmd2(torch.tensor(x), torch.tensor(y), 3, 1 / 16, 1.0, 50)
    monkeypatch.setattr(metrics, "BLOCK", 7)
    assert fid_kid.polynomial_mmd2(x, y) == pytest.approx(whole, abs=1e-12)
    assert metrics.moments(x)[1] == pytest.approx(np.cov(x, rowvar=False), rel=1e-9)


def test_the_variance_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    found = np.array([fid_kid.polynomial_mmd2(rng.standard_normal((60, 4)), rng.standard_normal((60, 4)) + 0.4)
                      for _ in range(400)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].var(), rel=0.2)


@pytest.mark.parametrize("n,m,size,subsets", [(300, 260, 100, 20), (400, 390, 30, 5)])
@pytest.mark.parametrize("dtype,tolerance", [("f8", 1e-6), ("f4", 1e-4)])
def test_kid_is_torch_fidelitys_at_the_same_seed(n, m, size, subsets, dtype, tolerance):
    """Overlapping subsets (products computed once) and few of them (one by one); torch-fidelity works in float32."""
    x, y = features(n, 64, 1, dtype=dtype), features(m, 64, 2, 0.1, dtype=dtype)
    theirs = torch_fidelity.metric_kid.kid_features_to_metric(
        torch.tensor(x), torch.tensor(y), kid_subsets=subsets, kid_subset_size=size, rng_seed=5, verbose=False)
    found = metrics.kid(x, y, subsets, size, seed=5)
    assert found["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=tolerance)
    assert found["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=tolerance)
    assert found["kid"] != metrics.kid(x, y, subsets, size, seed=6)["kid"]


@pytest.mark.parametrize("degree,gamma", [(1, 0.1), (2, 0.1), (3, 0.05), (3, -0.05), (4, 0.05), (5, 0.05)])
@pytest.mark.parametrize("size", [20, 60])
def test_kid_averages_mmd2_and_its_variance_over_subsets(size, degree, gamma, monkeypatch):
    """All subsets at once (60) and one by one (20), in complete or partial blocks."""
    x, y = features(90, 32, 1), features(80, 32, 2, 0.1)
    rng = np.random.RandomState(2020)
    pairs = [(x[rng.choice(90, size, replace=False)], y[rng.choice(80, size, replace=False)]) for _ in range(6)]
    each = np.array([fid_kid.polynomial_mmd2(a, b, degree, gamma, 0.5, var_at_m=80) for a, b in pairs])
    for block in (256, 7):
        monkeypatch.setattr(metrics, "BLOCK", block)
        found = metrics.kid(x, y, 6, size, degree=degree, gamma=gamma, coef0=0.5)
        assert (found["kid"], found["kid_var"]) == pytest.approx(tuple(each.mean(0)), abs=1e-12)
        assert found["kid_std"] == pytest.approx(each[:, 0].std(), abs=1e-12)


@pytest.mark.parametrize("types", ["f2 f2", "i2 f4", "f4 f8", "u1 u1"])
@pytest.mark.parametrize("size", [20, 100])
def test_kid_is_computed_in_double_precision_whatever_the_numbers(types, size):
    x, y = ((4 * features(n, 32, n)).astype(dtype) for n, dtype in zip((300, 260), types.split(), strict=True))
    assert metrics.kid(x, y, 20, size) == metrics.kid(x.astype(float), y.astype(float), 20, size)


def test_kid_of_everything_is_clean_fids():
    x, y = features(80, 32, 1), features(80, 32, 2, 0.1)
    found = metrics.kid(x, y, subset_size=1000)
    assert found["kid_subset_size"] == 80 and found["kid_subsets"] == 1 and found["kid_std"] == 0
    assert found["kid"] == pytest.approx(cleanfid.fid.kernel_distance(x, y, num_subsets=2), rel=1e-9)
    assert (found["kid"], found["kid_var"]) == fid_kid.polynomial_mmd2(x, y)
    assert metrics.kid(x, y, subset_size=1000, var=False) == found  # the variance is always given


def test_inception_score_is_torch_fidelitys_and_has_its_bounds():
    logits = torch.randn(203, 17, generator=torch.Generator().manual_seed(0)) * 3
    theirs = torch_fidelity.metric_isc.isc_features_to_metric(logits, shuffle=False)
    assert metrics.inception_score(logits) == pytest.approx(tuple(theirs.values()), rel=1e-9)
    certain = torch.eye(5).repeat(20, 1) * 100
    assert metrics.inception_score(certain) == pytest.approx((5, 0), abs=1e-6)
    assert metrics.inception_score(torch.ones(30, 5)) == pytest.approx((1, 0), abs=1e-6)


def test_ssim_by_scipy_and_in_closed_form():
    rng = np.random.default_rng(0)
    a = rng.random((3, 24, 31))
    b = np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1)

    def blur(x):  # radius 5
        return gaussian_filter(x, (0, 1.5, 1.5), truncate=3.5)[:, 5:-5, 5:-5]

    ma, mb, c1, c2 = blur(a), blur(b), 1e-4, 9e-4
    expected = ((2 * ma * mb + c1) * (2 * (blur(a * b) - ma * mb) + c2)
                / ((ma**2 + mb**2 + c1) * (blur(a * a) - ma**2 + blur(b * b) - mb**2 + c2))).mean()
    found = metrics.ssim(torch.tensor(a)[None], torch.tensor(b)[None])
    assert found.tolist() == pytest.approx([expected], rel=1e-9)
    grey = torch.full((2, 3, 11, 11), 0.5).double()
    assert metrics.ssim(grey, grey / 2).tolist() == pytest.approx([(0.25 + c1) / (0.3125 + c1)] * 2)


# --- speed that does not depend on the machine ---------------------------------------------------

def test_a_hundred_pictures_are_much_faster_than_by_sqrtm():
    x, y = features(100, 512, 1), features(100, 512, 2, 0.1)
    fid_kid.frechet_distance(x, y)
    start = time.perf_counter()
    found = fid_kid.frechet_distance(x, y)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    theirs = cleanfid.fid.fid_from_feats(x, y)
    assert (time.perf_counter() - start) / ours > 10  # at a quarter of Inception's dimensions; there it is hundreds
    assert found == pytest.approx(theirs, rel=1e-3)


def test_bad_features():
    for x, y in ((np.zeros((3, 4)), np.zeros((3, 5))), (np.zeros(4), np.zeros(4)), (np.zeros((1, 4)),) * 2):
        for distance in (fid_kid.frechet_distance, fid_kid.polynomial_mmd2):
            with pytest.raises(UserError):
                distance(x, y)
