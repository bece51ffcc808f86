"""--score_freq, --best: scores equal to fid_kid.py's, an unchanged training, nothing lost by a kill."""

import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import runs
import scorer
from conftest import TINY as IN_PROCESS
from evaluation_runs import best, compare, digests, here, lines, no_hub, of, of_tiny, scored, train, trained
from PIL import Image
from runs import ROOT, Run, complaint, latest, pictures, until, with_pictures

import demo
import fid_kid
import methods
from checkpoints.files import _CheckedFile, load_checkpoint, verify
from scoring import inception
from training import evaluation
from training.evaluation import Evaluation
from training.log import Log
from utils import UserError

OFTEN = "--iteration 8 --print_freq 3 --score_freq 2 --ema 0.9"


@pytest.fixture(autouse=True)
def no_inception(monkeypatch, tmp_path):
    """No cached weights of Inception in this process; `no_hub` does the same for other processes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three or four pictures per folder, some of them JPEG."""
    folder = pictures(tmp_path_factory.mktemp("data"), each=3)
    noise = np.random.default_rng(1)
    for place in ("testA", "testB"):
        coarse = Image.fromarray(noise.integers(0, 255, (7, 5, 3), dtype=np.uint8)).resize((70, 50))
        coarse.save(folder / "dataset" / "tiny" / place / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data):
    """The folder of an uninterrupted training with scores."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with_pictures(folder, data)
    trained(folder, OFTEN)
    return folder


# ------------------------------------------------------------------------------------ what is scored


@pytest.mark.parametrize("options", [
    "", "--ema 0.5", pytest.param("--ema 0.5 --raw_weights true", marks=pytest.mark.slow),
])  # fmt: skip
def test_scores_are_those_of_fid_kid_on_what_the_checkpoint_translates(folder, options):
    trained(folder, f"--iteration 4 --score_freq 3 --save_freq 1 {options}")
    found = scored(folder)
    assert list(found) == [3, 4]  # and at the end
    for step in found:
        checkpoint = folder / "results" / "tiny" / "model" / f"tiny_params_{step:07d}.pt"
        raw = "--raw_weights true" if "raw" in options else ""
        said = trained(folder, f"--phase test --checkpoint {checkpoint} {raw}").output
        assert ("averaged weights of" in said) == (options == "--ema 0.5")
        compare(folder, found[step])
    assert not (folder / "results" / "tiny" / ".scoring").exists()
    assert {"fid", "kid"}.isdisjoint(key.split("_")[0] for line in found.values() for key in line)


@pytest.mark.parametrize("method, options, keys", [
    ("munit", "--seed 3", {"kd_A2B", "kd_B2A", "kd_mean"}),
    ("gcgan", "", {"kd_A2B"}),
    ("cyclegan", "--direction BtoA", {"kd_B2A"}),
    ("gcgan", "--direction BtoA", {"kd_B2A"}),
])  # fmt: skip
def test_methods_of_random_styles_and_of_one_direction(folder, method, options, keys):
    of(method, folder, f"--iteration 1 --score_freq 1 {options}")
    found = scored(folder)[1]
    assert {key for key in found if key.startswith("kd_")} == keys
    kept = load_checkpoint(best(folder), methods.recognise)["score"]
    assert kept["name"] == ("kd_mean" if "kd_mean" in keys else min(keys)) and kept["value"] == found[kept["name"]]
    of(method, folder, f"--phase test {options}")
    compare(folder, found)


def test_fid_and_kid_if_inceptions_weights_are_cached(data, tmp_path, monkeypatch):
    with_pictures(tmp_path, data)
    (tmp_path / "rule").mkdir()
    with scorer.cache_of_rule_weights(tmp_path / "rule"):
        monkeypatch.setattr(inception, "WEIGHTS_SHA256", "")  # the rule weights have another hash
        here(tmp_path, "--iteration 1 --score_freq 1")
        found = scored(tmp_path)[1]
        here(tmp_path, "--phase test")
        compare(tmp_path, found, ("fid", "kid"), ())
    assert not any(key.startswith(("fd", "kd")) for key in found)
    assert load_checkpoint(best(tmp_path), methods.recognise)["score"]["name"] == "kid_mean"
    of_file = tmp_path / "results" / "tiny" / "real_testB.npz"
    assert fid_kid.read_npz(of_file, "inception-2048-legacy", 2048)["features"].shape == (4, 2048)


def test_demos_measures_where_there_are_counterparts(folder, data):
    (folder / "dataset").unlink()
    shutil.copytree(data / "dataset", folder / "dataset")
    root, noise = folder / "dataset" / "tiny", np.random.default_rng(2)
    for d in "AB":
        (root / f"test{d}" / "photo.jpg").unlink()
        shutil.copytree(root / f"train{d}", root / f"truth{d}")
        (root / f"mask{d}").mkdir()
        for path in (root / f"test{d}").iterdir():
            Image.fromarray(noise.integers(0, 2, (48, 48), dtype=np.uint8) * 255).save(root / f"mask{d}" / path.name)
    trained(folder, "--iteration 1 --score_freq 1 --best background_B2A")
    found = scored(folder)[1]
    trained(folder, "--phase test")
    for s, t in ("AB", "BA"):
        places = (root / f"{kind}{s}" for kind in ("test", "truth", "mask"))
        for name, value in demo.measure(folder / "results" / "tiny" / f"fake{t}", *places).items():
            assert found[f"{name}_{s}2{t}"] == pytest.approx(value, rel=1e-9)
    assert load_checkpoint(best(folder), methods.recognise)["score"]["value"] == found["background_B2A"]
    refused = complaint(trained(folder, "--score_freq 1 --best coat_texture_A2B", status=2), "--best coat_texture_A2B")
    assert refused.endswith("background_mean, coat_colour_A2B, coat_colour_B2A, coat_colour_mean")
    (root / "maskA" / "0.png").unlink()  # a mask without its picture: no measure
    Image.new("L", (48, 48)).save(root / "maskA" / "other.png")
    assert "background" not in complaint(trained(folder, "--score_freq 1 --best x", status=2), "fd_A2B")


def test_features_of_real_pictures_are_made_once(folder, data, monkeypatch):
    (folder / "dataset").unlink()
    shutil.copytree(data / "dataset", folder / "dataset")
    extract, seen, steps = evaluation.features.extract, [], []
    noting = lambda *a, **k: seen.append(a[0][0].parent.name) or extract(*a, **k)  # noqa: E731
    monkeypatch.setattr(evaluation.features, "extract", noting)

    def folders_read():
        """Of one more step: a new run would move the features of the earlier one aside."""
        seen.clear()
        steps.append(len(steps) + 1)
        here(folder, f"--iteration {steps[-1]} --score_freq 1 --resume auto")
        assert seen.count("fakeA") == seen.count("fakeB") == 1
        return [name for name in seen if name.startswith("test")]

    assert folders_read() == ["testB", "testA"] and folders_read() == []
    kept = folder / "results" / "tiny" / "real_testB.npz"
    kept.write_bytes(kept.read_bytes()[:-300])
    assert folders_read() == ["testB"] and folders_read() == []
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1  # among the features
    kept.write_bytes(data)
    assert folders_read() == ["testB"]
    picture = folder / "dataset" / "tiny" / "testA" / "0.png"
    Image.fromarray(np.array(Image.open(picture))[::-1]).save(picture)
    assert folders_read() == ["testA"]


# ------------------------------------------------------------------------------- the training goes on


@pytest.mark.parametrize("method", ["nice", "cut", pytest.param("munit", marks=pytest.mark.slow)])
def test_no_bit_of_the_training_changes(folder, method):
    of(method, folder, "--iteration 5 --print_freq 2 --ema 0.9")
    expected, log = digests(latest(folder)), lines(folder)
    shutil.rmtree(folder / "results")
    of(method, folder, "--iteration 5 --print_freq 2 --ema 0.9 --score_freq 2 --tensorboard true")
    assert digests(latest(folder)) == expected and {"rng", "position", "ema"} < expected.keys()
    assert [line for line in lines(folder) if "lr" in line] == log


def test_without_the_options_nothing_is_imported_for_them(folder):
    code = f"""if True:
        import sys, main
        main.main({[*IN_PROCESS.split(), "--dataset", "tiny", "--iteration", "1"]!r} + sys.argv[1:])
        print([m for m in ("training.evaluation", "fid_kid", "torchvision", "tensorboard") if m in sys.modules])"""
    places = ["--dataset_dir", folder / "dataset", "--result_dir", folder / "results"]
    done = subprocess.run([sys.executable, "-c", code, *places], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert not best(folder).exists()


def test_the_time_of_scoring_is_not_that_of_the_steps(folder, monkeypatch):
    monkeypatch.setattr(Evaluation, "scores", lambda *_: time.sleep(2) or {"kd_mean": 1.0})
    here(folder, "--iteration 4 --score_freq 1")
    log = Log.lines(folder / "results" / "tiny" / "log.jsonl")
    assert [line["scoring_seconds"] >= 2 for line in log if "scoring_seconds" in line] == [True] * 4
    assert all(line["steps_per_second"] > 0.5 for line in log if "lr" in line)


def test_only_a_better_score_replaces_the_best_also_after_a_resume(folder, monkeypatch):
    values = iter([3.0, 2.0, math.nan, 2.0, 5.0, 1.5, 1.7, 1.0])
    monkeypatch.setattr(Evaluation, "scores", lambda *_: {"kd_A2B": 7.0, "kd_mean": next(values)})

    def kept():
        state = load_checkpoint(best(folder), methods.recognise)
        verify(state, best(folder))
        assert state["start_iter"] == state["score"]["step"]
        return state["score"]["value"], state["start_iter"]

    for step, expected in ((1, (3.0, 1)), (2, (2.0, 2)), (3, (2.0, 2)), (4, (2.0, 2)), (5, (2.0, 2)), (6, (1.5, 6)),
                           (7, (1.5, 6))):  # fmt: skip
        here(folder, f"--iteration {step} --score_freq 1 --resume auto")
        assert kept() == expected
    assert [line["kd_mean"] for line in scored(folder).values()] == [3.0, 2.0, None, 2.0, 5.0, 1.5, 1.7]
    here(folder, "--iteration 8 --resume True --best kd_A2B")  # the best is equally good by this score
    assert kept() == (1.5, 6)
    damaged = bytearray(best(folder).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    best(folder).write_bytes(damaged)
    values = iter([9.0])
    here(folder, "--iteration 9 --resume True --best kd_mean")
    assert kept() == (9.0, 9)
    here(folder, "--iteration 1 --print_freq 1")  # a new run: the old one is archived
    assert not best(folder).exists() and (folder / "results" / "tiny" / "previous_1" / best(folder).name).exists()


def test_best_and_latest_are_names(undisturbed, folder):
    shutil.copytree(undisturbed / "results", folder / "results")
    for name, path in (("best", best(folder)), ("latest", latest(folder))):
        assert str(path) in trained(folder, f"--phase test --checkpoint {name}").output
    step = load_checkpoint(best(folder), methods.recognise)["start_iter"]
    run = trained(folder, f"--checkpoint best --iteration {step + 1} --score_freq 0")
    assert f"continuing from step {step} of {best(folder)}" in run.output
    best(folder).unlink()
    complaint(trained(folder, "--phase test --checkpoint best", status=2), best(folder), "--score_freq")


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("options, words", [
    ("--score_freq 1 --best fid_B2A", ("--best fid_B2A", "fd_A2B, fd_B2A, fd_mean, kd_A2B, kd_B2A, kd_mean")),
    ("--score_freq 1 --direction AtoB --best kd_mean", ("--best kd_mean", "fd_A2B, kd_A2B")),
    ("--best kd_mean", ("--best kd_mean", "--score_freq")),
    ("--score_freq -1", ("--score_freq",)),
    ("--ema 1", ("--ema", "at most")),
])  # fmt: skip
def test_a_wrong_option_is_one_line_before_anything(folder, options, words):
    complaint(trained(folder, options, status=2), *words)
    assert not (folder / "results").exists()


def test_missing_pictures_and_packages_are_one_line_before_anything(folder, data, monkeypatch):
    (folder / "dataset").unlink()
    shutil.copytree(data / "dataset", folder / "dataset")
    for module, options, words in (
        ("efficientnet_lite_pytorch", "--score_freq 1", ("pip install -r requirements-scores.txt", "fid_kid.py")),
        ("torch.utils.tensorboard", "--tensorboard true", ("pip install -r requirements-scores.txt", "tensorboard")),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(UserError) as error:
                here(folder, options)
        assert error.value.status == 2 and all(word in str(error.value) for word in words)
        assert str(error.value).isprintable() and not (folder / "results").exists()

    root = folder / "dataset" / "tiny"
    for path in (root / "testA").iterdir():
        if path.name != "0.png":
            path.unlink()
    complaint(trained(folder, "--score_freq 1", status=2), root / "testA", "one picture", "--score_freq")
    shutil.rmtree(root / "testA")
    for direction in ("", "--direction BtoA"):
        complaint(trained(folder, f"--score_freq 1 {direction}", status=2), root / "testA", "--score_freq")
    complaint(of("gcgan", folder, "--score_freq 1 --direction BtoA", status=2), root / "testA")
    complaint(of("sincut", folder, "--score_freq 1", status=2), "sincut learns from a single one")
    assert not (folder / "results").exists()


# -------------------------------------------------------------------------------------- kills, stops


def dying(moment: str, count: int, argv: list[str]):
    """main.py, killed by SIGKILL when `moment` comes for the count-th time (in a run's process)."""
    come = [0]

    def at_the_moment(there: bool):
        come[0] += there
        if there and come[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    if moment == "translating":
        encoded = evaluation.encoded
        evaluation.encoded = lambda array, suffix: at_the_moment(suffix == ".jpg") or encoded(array, suffix)
    elif moment == "comparing":
        distances = evaluation.distances
        evaluation.distances = lambda *a, **k: at_the_moment(True) or distances(*a, **k)
    elif moment == "writing":
        save, name = _CheckedFile.write, f".{hashlib.sha1(b'tiny_params_best.pt').hexdigest()[:16]}."

        def write(self, data):
            at_the_moment(Path(self.file.name).name.startswith(name))
            return save(self, data)

        _CheckedFile.write = write
    elif moment == "written":
        write = Log.write
        Log.write = lambda self, **v: at_the_moment("scoring_seconds" in v) or write(self, **v)
    runs.program(argv)


@pytest.mark.parametrize("moment, count", [
    ("translating", 1), pytest.param("translating", 4, marks=pytest.mark.slow),
    pytest.param("comparing", 6, marks=pytest.mark.slow), pytest.param("comparing", 8, marks=pytest.mark.slow),
    pytest.param("writing", 1, marks=pytest.mark.slow),
    pytest.param("writing", 40, marks=pytest.mark.slow), ("written", 2),
])  # fmt: skip
def test_a_kill_at_any_moment_of_scoring_loses_nothing(folder, undisturbed, moment, count):
    argv = [*of_tiny(folder), *OFTEN.split()]
    run = Run(folder, "test_evaluation:dying", moment, count, argv, environment=no_hub(folder))
    assert run.wait() == -signal.SIGKILL, run.output
    step = load_checkpoint(latest(folder), methods.recognise)["start_iter"]
    assert step % 2 == 0 and step not in scored(folder)  # only this step's
    run = trained(folder, f"{OFTEN} --resume True")
    assert f"continuing from step {step} of {latest(folder)}" in run.output
    same(folder, undisturbed)


def same(folder, undisturbed):
    """Assert that both runs ended alike: weights, EMA, random state, log, scores, best."""
    assert lines(folder) == lines(undisturbed) and list(scored(folder)) == [2, 4, 6, 8]
    assert digests(latest(folder)) == digests(latest(undisturbed))
    assert digests(best(folder)) == digests(best(undisturbed))
    assert not [p for p in (folder / "results").rglob("*") if p.suffix == ".tmp" or p.name == ".scoring"]


def test_a_stop_during_scoring_acts_at_once_and_is_made_good(folder, undisturbed):
    for step in (2, 8):
        run = train(folder, f"{OFTEN} --resume auto")
        until((folder / "results" / "tiny" / ".scoring").exists, run)
        if step == 8:
            until(lambda: 6 in scored(folder), run)
            until((folder / "results" / "tiny" / ".scoring").exists, run)
        run.signal(signal.SIGTERM)
        assert run.wait() == 128 + signal.SIGTERM, run.output
        assert "stopped after step" in run.output
    trained(folder, f"{OFTEN} --resume True")
    same(folder, undisturbed)
    assert "nothing to do" in trained(folder, f"{OFTEN} --resume True").output


@pytest.mark.slow
def test_kills_at_random_times_change_no_bit(folder, undisturbed):
    noise = np.random.default_rng(5)
    for _ in range(6):
        resume = "--resume True" if latest(folder).exists() else ""
        run = train(folder, f"{OFTEN} {resume}")
        time.sleep(noise.uniform(0.5, 4))
        run.signal(signal.SIGKILL)
        run.wait()
    trained(folder, f"{OFTEN} --resume {'True' if latest(folder).exists() else 'auto'}")
    same(folder, undisturbed)


@pytest.mark.slow
def test_two_processes_score_once_and_wait_for_each_other(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "main.py"]
    options = "--iteration 3 --score_freq 2 --ema 0.9 --tensorboard true"
    command += [*of_tiny(folder), *options.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert list(scored(folder)) == [2, 3] and best(folder).exists()
    trained(folder, "--phase test --checkpoint latest")
    compare(folder, scored(folder)[3])
