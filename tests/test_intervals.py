"""95% intervals over pictures: the jackknife without its loops, and how often the intervals hold."""

import numpy as np
import pytest
from scorer import run

from scoring import intervals, metrics
from scoring.intervals import frechet_jackknife, interval, kernel_jackknife


@pytest.mark.parametrize("n,m,d", [(8, 11, 30), (30, 20, 5), (12, 12, 12)])
def test_the_jackknife_leaves_out_each_picture(n, m, d):
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, d)), 1.5 * rng.standard_normal((m, d)) + 0.3
    scores = ((metrics.frechet_distance, frechet_jackknife(x, y), 1e-6),
              (lambda a, b: metrics.polynomial_mmd2(a, b)[0], kernel_jackknife(x, y)[0], 1e-12))
    for score, (of_x, of_y), tolerance in scores:
        assert of_x == pytest.approx([score(np.delete(x, i, 0), y) for i in range(n)], abs=tolerance)
        assert of_y == pytest.approx([score(x, np.delete(y, i, 0)) for i in range(m)], abs=tolerance)


def test_the_jackknife_of_several_seeds_is_that_of_their_mean():
    rng = np.random.default_rng(0)
    x, *ys = rng.standard_normal((4, 9, 5))
    found, share = kernel_jackknife(x, ys)
    each = [kernel_jackknife(x, y)[0] for y in ys]
    for mine, theirs in zip(found, zip(*each, strict=True), strict=True):
        assert mine == pytest.approx(np.mean(theirs, 0), abs=1e-12)
    assert kernel_jackknife(x, [ys[0]] * 3)[1] == pytest.approx(kernel_jackknife(x, ys[0])[1]) and 0 < share < 1


def test_the_variance_by_pairs_is_counted_once():
    """Near sets of 80 pictures: the jackknife's variance is too large by the pairs' share, and right without it."""
    rng, found = np.random.default_rng(3), []
    for _ in range(400):
        x, y = rng.standard_normal((80, 64)), rng.standard_normal((80, 64)) + 0.15
        without, share = kernel_jackknife(x, y)
        found.append([metrics.polynomial_mmd2(x, y)[0], intervals._variances(without).sum(), share])
    scores, variances, shares = np.array(found).T
    assert shares.mean() > 0.15
    assert (variances * (1 - shares)).mean() == pytest.approx(scores.var(), rel=0.15)
    assert variances.mean() > 1.15 * scores.var()


def test_the_interval_of_a_mean_is_students():
    x = np.random.default_rng(0).standard_normal(30)
    without = (x.sum() - x) / 29
    reach = 2.045230 * x.std(ddof=1) / np.sqrt(30)  # of the table, 29 degrees of freedom
    assert interval(x.mean(), [without]) == pytest.approx((x.mean() - reach, x.mean() + reach), rel=1e-6)


@pytest.mark.parametrize("n", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_intervals_hold_as_often_as_they_say(n):
    """benchmarks/intervals.py measures the same for more kinds of features."""
    rng = np.random.default_rng(n)
    scores, ends = [], []
    for _ in range(200):
        x, y = rng.standard_normal((n, 40)), 1.3 * rng.standard_normal((n, 40)) + 0.9
        scores.append((metrics.frechet_distance(x, y), metrics.polynomial_mmd2(x, y)[0]))
        found, reason = intervals.intervals(x, y, *scores[-1])
        assert reason is None
        ends.append((found["fid"], found["kid"]))
    scores, ends = np.array(scores), np.array(ends)  # (200, 2), (200, 2, 2)
    holds = ((ends[..., 0] <= scores.mean(0)) & (scores.mean(0) <= ends[..., 1])).mean(0)
    assert ((holds >= 0.93) & (holds <= 0.97)).all(), holds


def test_they_are_printed_where_they_hold(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x, y, near = rng.standard_normal((3, 100, 64)).astype(np.float32)
    for name, features in (("x", x), ("y", y + 1), ("near", near), ("few", y[:79] + 1)):
        np.savez(tmp_path / f"{name}.npz", features=features)

    def printed(name, *argv):
        out, report = run(capsys, tmp_path / "x.npz", tmp_path / f"{name}.npz", "--dims", "64", *argv)
        return [line for line in out if "95% interval" in line], report

    lines, report = printed("y")
    assert lines[0].startswith("FID (dims 64): ") and lines[1].startswith("KID x100 (dims 64): ") and len(lines) == 2
    low, high = report["fid_interval"]
    assert low < report["fid"] < high
    assert lines[0].endswith(f", 95% interval over pictures {low:.6g} to {high:.6g}")
    assert report["kid_interval"][0] < report["kid"] < report["kid_interval"][1]
    assert printed("y", "--no-kid")[1]["fid_interval"] == [low, high]
    for name, reason in (("near", "too alike"), ("few", "80 to 1000 pictures"), ("x", "too alike")):
        lines, report = printed(name)
        assert len(lines) == 1 and reason in lines[0] and not any("interval" in key for key in report)
