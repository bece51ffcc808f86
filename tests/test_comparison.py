"""fid_kid.py --against: is one method better than another on the same inputs?"""

import shutil
import time

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kstest
from scorer import fails, run

from scoring import comparison, metrics
from scoring.comparison import compare
from scoring.distances import distances
from scoring.features import Source

LITE = "--features", "efficientnet-lite0"


def test_exchanged_differences_are_those_of_exchanged_features():
    rng = np.random.default_rng(0)
    for n, m, d in ((9, 12, 5), (12, 7, 30)):
        real, a, b = rng.standard_normal((m, d)), rng.standard_normal((n, d)), rng.standard_normal((n, d)) + 0.3
        draws = rng.integers(0, 2, (6, n)).astype(bool)
        for score, found in (
            (metrics.frechet_distance, comparison._exchanged_frechet(real, a, b)(draws)),
            (lambda *z: metrics.polynomial_mmd2(*z)[0], comparison._exchanged_kernel(real, a, b, 3, None, 1.0)(draws)),
        ):
            expected = [score(real, np.where(one[:, None], b, a)) - score(real, np.where(one[:, None], a, b))
                        for one in draws]
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_p_is_uniform_where_two_methods_are_the_same_and_small_where_one_is_shifted(monkeypatch):
    monkeypatch.setattr(comparison, "PERMUTATIONS", {"fid": 49, "kid": 999})
    rng, same, shifted = np.random.default_rng(0), [], []
    for _ in range(200):
        real, inputs = rng.standard_normal((12, 8)), rng.standard_normal((12, 8))  # what a pair shares
        a, b = (inputs + 0.5 * rng.standard_normal((12, 8)) for _ in range(2))
        same.append([compare(real, a, b)[name]["p"] for name in ("fid", "kid")])
        if len(shifted) < 10:
            shifted.append([compare(real, a, b + 2)[name]["p"] for name in ("fid", "kid")])
    for p, steps in zip(np.array(same).T, (50, 1000), strict=True):
        spread = p - rng.random(200) / steps  # p is a multiple of 1/steps: fill the gaps
        assert kstest(spread, "uniform").pvalue > 0.01
    assert np.max(shifted) <= 0.02


def test_identical_translations_differ_by_nothing():
    rng = np.random.default_rng(1)
    real, a = rng.standard_normal((2, 25, 8))
    for found in compare(real, a, a.copy()).values():
        assert found["difference"] == pytest.approx(0, abs=1e-9) and found["p"] == 1


def test_the_interval_of_a_difference_is_paired():
    rng = np.random.default_rng(2)
    real, a = rng.standard_normal((100, 8)), rng.standard_normal((100, 8)) + 2
    found = compare(real, a, a + 0.5 + 0.01 * rng.standard_normal((100, 8)))
    for name, score in (("fid", metrics.frechet_distance), ("kid", lambda *z: metrics.polynomial_mmd2(*z)[0])):
        low, high = found[name]["interval"]
        assert low < found[name]["difference"] < high < 0 and found[name]["p"] <= 0.002
        assert high - low < abs(score(real, a))  # what both share cancels


@pytest.fixture
def folders(tmp_path):
    """Real pictures, and two methods' translations of the same seven inputs, of which one is much too dark."""
    rng = np.random.default_rng(0)
    for folder in ("real", "good", "dark"):
        (tmp_path / folder / "sub").mkdir(parents=True)
    for i in range(7):
        for folder in ("real", "good", "dark"):
            coarse = rng.integers(120, 256, (5, 5, 3)) // (4 if folder == "dark" else 1)
            picture = Image.fromarray(coarse.astype(np.uint8)).resize((40, 40))
            picture.save(tmp_path / folder / ("sub" if i % 2 else ".") / f"{i}.{'bmp' if folder == 'dark' else 'png'}")
    return tmp_path


def test_the_command_names_the_better_method(folders, capsys):
    pair = folders / "real", folders / "dark"
    out, report = run(capsys, *pair, *LITE, "--against", folders / "good")
    found = report["against"]
    assert found["inputs"] == 7 and found["kd"]["difference"] > 0
    assert found["kd"]["p"] == pytest.approx(2 / 128, rel=0.5)
    other = run(capsys, folders / "real", folders / "good", *LITE)[1]
    assert found["fd"]["difference"] == pytest.approx(report["fd"] - other["fd"], rel=1e-6)
    assert found["kd"]["difference"] == pytest.approx(report["kd"] - other["kd"], rel=1e-4)
    lines = [line for line in out if line.startswith(("FD (", "KD x100 (")) and " minus that of " in line]
    assert len(lines) == 2 and lines[1].endswith(f"of 9999 exchanges of 7 pairs: {folders / 'good'} is better")
    shutil.copy(folders / "good" / "0.png", folders / "good" / "more.png")
    assert "more.png" not in fails(capsys, folders / "real", *LITE, "--against", folders / "good")
    error = fails(capsys, *pair, *LITE, "--against", folders / "good")
    assert "good/more has no counterpart" in error and "dark" in error
    (folders / "good" / "more.png").rename(folders / "good" / "0.bmp")
    assert "differ only in their suffix" in fails(capsys, *pair, *LITE, "--against", folders / "good")
    np.savez(folders / "x.npz", features=np.zeros((7, 1280), np.float32))
    assert "give its folder" in fails(capsys, *pair, *LITE, "--against", folders / "x.npz")


def test_the_cost_beyond_features_is_small():
    """Everything for 100 v 100 pictures: 0.4 s of processor time."""
    rng = np.random.default_rng(0)
    real, a, b = (np.abs(rng.standard_normal((100, 2048)) + shift).astype(np.float32) for shift in (0, 0.3, 0.4))
    start = time.process_time()
    report = distances(Source("real", features=real), Source("a", features=a), [], with_prdc=True, with_intervals=True)
    assert compare(real, a, b)["fid"]["p"] > 0 and "fd" not in report and "recall" in report
    assert time.process_time() - start < 2
