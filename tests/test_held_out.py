"""--hold_out, valA and valB: the best step is chosen on pictures that are neither trained on nor tested."""

import json
import shutil

import numpy as np
import pytest
from evaluation_runs import best, digests, here, scored
from runs import latest, pictures

import fid_kid
import main
import methods
from checkpoints.files import load_checkpoint
from images import maker
from training import held_out
from utils import UserError

pytestmark = pytest.mark.usefixtures("no_inception")
HELD = "chosen on held-out training pictures (--hold_out 0.4)"


@pytest.fixture
def no_inception(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path):
    """A data set of its own: eight pictures in each training folder, three in each test folder."""
    made = pictures(tmp_path / "made", each=8)
    (tmp_path / "dataset").mkdir()
    shutil.move(made / "dataset" / "tiny", tmp_path / "dataset" / "tiny")
    for name in ("testA", "testB"):
        for path in sorted((tmp_path / "dataset" / "tiny" / name).iterdir())[3:]:
            path.unlink()
    return tmp_path


def split(folder, *options):
    """{"trainA": names, "heldA": names, ...} of a trainer with these options."""
    args = main.parse_args(["--dataset", "tiny", "--dataset_dir", str(folder / "dataset"), "--device", "cpu", *options])
    found = {name: [*(folder / "dataset" / "tiny" / name).iterdir()] for name in ("trainA", "trainB")}
    held_out.hold_out(found, args)
    return {name: sorted(path.name for path in paths) for name, paths in found.items()}


def test_a_pure_function_of_seed_and_names(folder):
    first = split(folder, "--hold_out", "0.25")
    assert first == split(folder, "--hold_out", "0.25", "--batch_size", "2")
    for d in "AB":
        assert len(first[f"held{d}"]) == 2 and not set(first[f"held{d}"]) & set(first[f"train{d}"])
        assert len(first[f"train{d}"]) == 6
    others = [split(folder, "--hold_out", "0.25", "--seed", str(seed))["heldA"] for seed in range(1, 6)]
    assert any(other != first["heldA"] for other in others)
    more = set(split(folder, "--hold_out", "0.5")["heldA"])
    assert set(first["heldA"]) < more  # the same ones, and others
    assert split(folder).keys() == {"trainA", "trainB"}


def test_what_is_trained_on_changes_and_nothing_else(folder):
    """A training with --hold_out equals one of a data set that lacks these pictures, to the bit."""
    root = folder / "dataset" / "tiny"
    here(folder, "--iteration 3 --hold_out 0.4")
    held = digests(latest(folder))
    shutil.rmtree(folder / "results")
    here(folder, "--iteration 3 --hold_out 0.4 --score_freq 2")
    assert digests(latest(folder)) == held
    shutil.rmtree(folder / "results")
    for d, names in split(folder, "--hold_out", "0.4").items():
        for name in names if d.startswith("held") else ():
            (root / f"train{d[-1]}" / name).unlink()
    here(folder, "--iteration 3")
    assert digests(latest(folder)) == held


@pytest.mark.parametrize("kind", ["held", pytest.param("val", marks=pytest.mark.slow)])
def test_the_best_is_chosen_on_them_and_the_test_pictures_are_scored_once(folder, kind, capsys):
    root, results = folder / "dataset" / "tiny", folder / "results" / "tiny"
    if kind == "val":
        for d in "AB":
            shutil.copytree(root / f"train{d}", root / f"val{d}")
            for path in sorted((root / f"val{d}").iterdir())[4:]:
                path.unlink()
    options, said = ("--hold_out 0.4", HELD) if kind == "held" else ("", "chosen on valA and valB")
    here(folder, f"--iteration 3 --score_freq 1 --save_freq 1 --ema 0.5 {options}")
    assert f"the best step is {said}" in capsys.readouterr().err
    score = load_checkpoint(best(folder), methods.recognise)["score"]
    assert score["chosen"] == said and list(scored(folder)) == [1, 2, 3]
    assert score["value"] == min(line["kd_mean"] for line in scored(folder).values())
    report = json.loads((results / "test_scores.json").read_text())
    assert report["best"]["chosen"] == said and report["best"]["step"] == score["step"]
    assert report["last"]["step"] == 3 and report["last"]["scores"] != scored(folder)[3]
    for name in ("last", "best"):
        checkpoint = results / "model" / f"tiny_params_{report[name]['step']:07d}.pt"
        here(folder, f"--phase test --checkpoint {checkpoint}")
        for way, (s, t) in {"A2B": "AB", "B2A": "BA"}.items():
            pair = root / f"test{t}", results / f"fake{t}"
            fid_kid.main([*map(str, pair), "--features", "efficientnet-lite0", "-c", "", "--json", str(folder / "s")])
            found = json.loads((folder / "s").read_text())
            for metric in ("fd", "kd"):
                assert report[name]["scores"][f"{metric}_{way}"] == pytest.approx(found[metric], rel=1e-5), (name, s)
    capsys.readouterr()
    here(folder, "--phase test --checkpoint best")
    assert said in capsys.readouterr().out
    assert f", the best by kd_mean, {said}, with " in maker.lines(results / "fakeB")[0]
    here(folder, "--phase export --checkpoint best --direction AtoB --format folder --output " + str(folder / "model"))
    card = (folder / "model" / "README.md").read_text()
    assert f"At step {score['step']}, the best, {said}; over the translations of these:" in card
    real = np.load(results / f"real_{kind}B.npz")["features"]
    assert len(real) == (3 if kind == "held" else 4)


def test_without_them_it_says_chosen_on_the_test_pictures(folder, capsys):
    here(folder, "--iteration 2 --score_freq 1")
    report = json.loads((folder / "results" / "tiny" / "test_scores.json").read_text())
    assert report["best"]["chosen"] == "chosen on the test pictures"
    assert report["last"]["scores"]["kd_mean"] == scored(folder)[2]["kd_mean"]
    assert "the best step is chosen on the test pictures" in capsys.readouterr().err
    here(folder, "--phase test --checkpoint best")
    assert "chosen on the test pictures" in capsys.readouterr().out
    here(folder, "--iteration 3 --resume True --hold_out 0.4")  # scores of other pictures cannot be compared
    assert "was chosen on the test pictures, not" in capsys.readouterr().err
    assert load_checkpoint(best(folder), methods.recognise)["score"]["chosen"] == HELD


def test_what_is_refused(folder):
    root = folder / "dataset" / "tiny"
    options = "--iteration 1 --score_freq 1"
    for words, expected in ((" --hold_out 0.1", "0.1 of 8 pictures"), (" --hold_out 0.4", "leave --hold_out"),
                            ("", "together with valB")):
        with pytest.raises(UserError, match=expected) as error:
            here(folder, options + words)
        assert error.value.status == 2 and str(error.value).isprintable() and not (folder / "results").exists()
        (root / "valA").mkdir(exist_ok=True)
    with pytest.raises(SystemExit):
        here(folder, f"{options} --hold_out 0.95")
