"""Precision, recall, density, coverage and MIND: their definitions, and what FD alone does not see."""

import shutil

import numpy as np
import pytest
import torch
import torch_fidelity.metric_prc
from scorer import fails, run

import demo
from images.files import list_images
from scoring import manifold, metrics
from scoring.manifold import mind, prdc
from utils import UserError


def sets(n, m, d, seed, shift=0.3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)).astype(np.float32), (rng.standard_normal((m, d)) + shift).astype(np.float32)


def by_definition(real, fake, k):
    """The papers' formulas, distance by distance."""
    def ball(z):
        return [sorted(np.linalg.norm(a - b) for b in z)[k] for a in z]
    r_real, r_fake = ball(real), ball(fake)
    d = [[np.linalg.norm(a - b) for b in fake] for a in real]
    n, m = len(real), len(fake)
    return {"precision": sum(any(d[i][j] < r_real[i] for i in range(n)) for j in range(m)) / m,
            "recall": sum(any(d[i][j] < r_fake[j] for j in range(m)) for i in range(n)) / n,
            "density": sum(d[i][j] < r_real[i] for i in range(n) for j in range(m)) / (k * m),
            "coverage": sum(min(d[i]) < r_real[i] for i in range(n)) / n}


@pytest.mark.parametrize("n,m,k", [(12, 9, 3), (20, 30, 5)])
def test_prdc_is_its_definition(n, m, k, monkeypatch):
    real, fake = sets(n, m, 8, 0)
    expected = by_definition(real.astype(float), fake.astype(float), k)
    assert prdc(real, fake, k) == pytest.approx(expected)
    monkeypatch.setattr(manifold, "BLOCK", 7)
    assert prdc(real, fake, k) == pytest.approx(expected)


def test_precision_and_recall_are_torch_fidelitys():
    real, fake = sets(150, 130, 16, 1)
    theirs = torch_fidelity.metric_prc.prc_features_to_metric(
        torch.tensor(fake), torch.tensor(real), prc_neighborhood=3, prc_batch_size=1000, verbose=False)
    found = prdc(real, fake, 3)
    assert 0 < found["precision"] < 1 and 0 < found["recall"] < 1
    assert (found["precision"], found["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_sets_alike_and_sets_apart():
    x = sets(60, 60, 8, 2)[0]
    same = prdc(x, x)
    assert same["precision"] == same["recall"] == same["coverage"] == 1 and same["density"] == pytest.approx(1, abs=0.2)
    assert prdc(x, x + 100) == dict.fromkeys(manifold.PRDC, 0)
    with pytest.raises(UserError, match="at least 6"):
        prdc(x[:5], x)


def test_mind_by_quantiles_and_in_closed_form():
    x, y = sets(12, 9, 5, 3)
    directions = np.random.default_rng(2020).standard_normal((5, manifold.PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    points = (np.arange(36) + 0.5) / 36  # both sets' quantiles are constant between multiples of 1/36
    expected = [((np.sort(x @ v)[(points * 12).astype(int)] - np.sort(y @ v)[(points * 9).astype(int)]) ** 2).mean()
                for v in directions.T]
    assert mind(x, y) == pytest.approx(5 * np.mean(expected), rel=1e-6)
    assert mind(x, y) == pytest.approx(mind(y, x)) and mind(x, x) == 0
    shift = np.array([3, 0, 4, 0, 0], np.float32)
    assert mind(x, x + shift) == pytest.approx(25, rel=0.15)  # |shift|^2, but for the directions drawn
    assert mind(np.repeat(x, 3, 0), y) == pytest.approx(mind(x, y))  # copies change no distribution


def test_a_collapse_wins_by_fd_and_is_refused_by_coverage_and_recall(tmp_path, capsys):
    """Ten perfect pictures, each ten times over, against a hundred honest ones that are a little off."""
    rng = np.random.default_rng(0)
    real, perfect, honest = (rng.standard_normal((100, 64)) * np.arange(1, 65) ** -0.5 for _ in range(3))
    honest[:, :2] += 1.35
    ten = perfect[np.argsort(((perfect - perfect.mean(0)) ** 2).sum(1))[::10]]
    places = {}
    for name, features in (("real", real), ("collapsed", np.repeat(ten, 10, 0)), ("honest", honest)):
        places[name] = tmp_path / f"{name}.npz"
        np.savez(places[name], features=features.astype(np.float32))
    reports = {name: run(capsys, places["real"], places[name], "--dims", "64", "--prdc")
               for name in ("collapsed", "honest")}
    collapsed, honest = (reports[name][1] for name in ("collapsed", "honest"))
    assert collapsed["fid"] < honest["fid"]
    assert collapsed["recall"] == 0 and honest["recall"] > 0.5
    assert collapsed["coverage"] < honest["coverage"]
    said = [line for line in reports["collapsed"][0] if line.startswith("note: recall 0.00")]
    assert len(said) == 1 and "copies of a few pictures" in said[0]
    assert not any("copies" in line for line in reports["honest"][0])
    assert any(line.startswith("precision ") and "(dims 64, 5 neighbours)" in line for line in reports["honest"][0])


def test_prdc_needs_features_and_two_sets(tmp_path, capsys):
    x = sets(8, 8, 64, 0)[0]
    np.savez(tmp_path / "x.npz", features=x)
    np.savez(tmp_path / "few.npz", features=x[:4])
    np.savez(tmp_path / "m.npz", **dict(zip(("mu", "sigma"), metrics.moments(x), strict=True)))
    argv = "--dims", "64", "--prdc"
    assert "--prdc" in fails(capsys, tmp_path / "x.npz", tmp_path / "m.npz", *argv, "--no-kid")
    assert "--prdc" in fails(capsys, tmp_path / "x.npz", *argv)
    out, report = run(capsys, tmp_path / "x.npz", tmp_path / "few.npz", *argv)
    assert "recall" not in report and any("more than 5 pictures" in line for line in out)


@pytest.mark.slow
def test_the_demos_collapse(tmp_path, capsys):
    """Ten of the demo's true counterparts, each ten times over: FD 38, less than any trained method."""
    root = demo.ensure(tmp_path / "demo")
    (tmp_path / "ten").mkdir()
    truths = list_images(root / "truthA")
    for i, path in enumerate(truths):
        shutil.copy(truths[i // 10 * 10], tmp_path / "ten" / path.name)
    out, report = run(capsys, root / "testB", tmp_path / "ten", "--features", "efficientnet-lite0", "--prdc")
    assert report["fd"] == pytest.approx(38.1, abs=1) and report["recall"] == 0 and report["coverage"] < 0.5
    assert any("copies of a few pictures" in line for line in out)
    report = run(capsys, root / "testB", root / "truthA", "--features", "efficientnet-lite0", "--prdc")[1]
    assert report["fd"] < 20 and report["recall"] > 0.8 and report["coverage"] > 0.9
