"""A score that is not finite is one line and status 2, never a number."""

import numpy as np
import pytest
import torch
from pictures import one_line, save, scene
from PIL import Image
from scorer import fails, run

import demo
from scoring import features, metrics
from scoring.pairs import counterparts
from utils import UserError


@pytest.mark.parametrize("scale", [1e200, 3e307])
def test_features_too_large_to_be_squared(scale, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, factor in (("huge", scale), ("usual", 1)):
        np.savez(tmp_path / f"{name}.npz", features=rng.standard_normal((5, 64)) * factor)
    pair = tmp_path / "usual.npz", tmp_path / "huge.npz", "--dims", "64"
    with np.errstate(all="ignore"):
        assert "not finite" in fails(capsys, *pair, "--no-kid", "--json", tmp_path / "s.json")
        assert "not finite" in fails(capsys, *pair)
        with pytest.raises(UserError, match="kernel distance is not finite"):
            metrics.kid(rng.standard_normal((5, 4)), scale * rng.standard_normal((5, 4)))
    assert not (tmp_path / "s.json").exists()


def test_no_distance_to_what_is_no_covariance(tmp_path, capsys):
    rng = np.random.default_rng(0)
    good = np.cov(rng.standard_normal((100, 64)), rowvar=False)
    np.savez(tmp_path / "good.npz", mu=np.zeros(64), sigma=good)
    turned = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    for name, sigma in (("negative", turned @ np.diag([-1] + [1] * 63) @ turned.T), ("minus", -good),
                        ("skew", good + np.triu(np.ones((64, 64)), 1))):
        np.savez(tmp_path / "bad.npz", mu=np.zeros(64), sigma=sigma)
        for pair in (("good.npz", "bad.npz"), ("bad.npz", "good.npz")):
            assert "no covariance" in fails(capsys, *(tmp_path / p for p in pair), "--dims", "64", "--no-kid"), name
    np.savez(tmp_path / "bad.npz", mu=np.zeros(64), sigma=np.float32(good))  # rounded, it is still one
    assert run(capsys, tmp_path / "bad.npz", tmp_path / "good.npz", "--dims", "64", "--no-kid")[1]["fid"] < 1e-3
    constant = np.zeros((64, 64))
    assert metrics.frechet_from_moments(np.ones(64), constant, np.zeros(64), constant) == 64


def test_a_class_that_no_picture_is_of_adds_nothing():
    logits = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unused = torch.cat([logits, torch.full((40, 2), -2000.0, dtype=torch.float64)], 1)  # whose probability rounds to 0
    assert metrics.inception_score(unused) == pytest.approx(metrics.inception_score(logits), rel=1e-12)


def test_identical_pairs_are_counted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder in ("fake", "true"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        picture = rng.integers(0, 200, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "true" / f"{i}.png")
        Image.fromarray(picture + np.uint8(10 * i)).save(tmp_path / "fake" / f"{i}.png")
    out, report = run(capsys, tmp_path / "fake", "--paired", tmp_path / "true")
    assert report["identical"] == 1
    assert report["psnr"] == pytest.approx(np.mean([-20 * np.log10(10 * i / 255) for i in (1, 2, 3)]))
    assert "1 of 4 pairs is identical: PSNR is the mean of the others" in out
    out, report = run(capsys, tmp_path / "true", "--paired", tmp_path / "true")
    assert report["psnr"] is None and report["identical"] == 4
    assert "4 of 4 pairs are identical: PSNR would be infinite" in out and "PSNR inf" not in "".join(out)


def test_a_picture_with_two_counterparts_is_no_pair(tmp_path):
    for name in ("a/x.png", "b/x.jpg", "b/x.bmp"):
        save(tmp_path / name, scene())
    with pytest.raises(UserError) as error:
        list(counterparts(tmp_path / "a", tmp_path / "b", "--paired"))
    one_line(error, "two counterparts, x.bmp and x.jpg", "--paired")
    save(tmp_path / "b" / "x.png", scene())
    pairs = list(counterparts(tmp_path / "a", tmp_path / "b", "--paired"))
    assert pairs == [(tmp_path / "a" / "x.png", tmp_path / "b" / "x.png")]


def test_damaged_weights_give_no_features(tmp_path):
    class Net(torch.nn.Module):
        size = 8

        def forward(self, pictures, upto):
            return {upto: pictures.mean((2, 3)) * float("nan")}

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="weights are damaged"):
        features.extract([tmp_path / "a.png"], Net(), 3)


def test_demos_measures_of_a_truth_that_is_the_source(tmp_path):
    for folder in ("fake", "source", "truth", "mask"):
        (tmp_path / folder).mkdir()
        colour = 255 if folder == "mask" else 90
        picture = np.full((16, 16, 3), colour, np.uint8)
        if folder == "mask":
            picture[:4] = 0
        Image.fromarray(picture).save(tmp_path / folder / "0.png")
    with pytest.raises(UserError, match="truth"):
        demo.measure(*(tmp_path / folder for folder in ("fake", "source", "truth", "mask")))
