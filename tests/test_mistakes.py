"""Mistakes of users and of the data set: one line on stderr each, and nothing lost."""

import shutil

import pytest
from runs import complaint, latest, pictures, snapshot, train, trained

import methods
from checkpoints.files import load_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures, and a run that has been trained on them for a step."""
    folder = pictures(tmp_path_factory.mktemp("data"))
    trained(folder, "--iteration 1")
    return folder


@pytest.fixture
def folder(tmp_path, data):
    """A copy of one's own."""
    return shutil.copytree(data, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("output_*"))


def misplace(folder, *places):
    """A data set of our own, without these parts."""
    shutil.copytree(folder / "dataset" / "tiny", folder / "own" / "tiny")
    for place in places:
        path = folder / "own" / "tiny" / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(folder):
    misplace(folder, "testA")
    (folder / "own" / "tiny" / "testA").mkdir()


def spoil(folder):
    misplace(folder)
    (folder / "own" / "tiny" / "trainB" / "1.png").write_bytes(b"no picture")


def aside(folder, *numbers):
    """Earlier runs, and none that has saved since."""
    for n in numbers:
        (folder / "results" / "tiny" / f"previous_{n}").mkdir()
        shutil.copy(latest(folder), folder / "results" / "tiny" / f"previous_{n}")
    latest(folder).unlink()


OWN = "--dataset_dir {0}/own"
MISTAKES = [
    (None, "--resume True --result_dir {0}/elsewhere", "no checkpoint", "train first"),
    (None, "--phase test --result_dir {0}/elsewhere", "no checkpoint", "train first"),
    (None, "--resume True --checkpoint {0}/nothing.pt", "no checkpoint", "nothing.pt"),
    (None, "--resume True --checkpoint {0}", "no checkpoint in the folder", ".pth", "--checkpoint"),
    (lambda folder: (folder / "o.txt").write_text("words"), "--checkpoint {0}/o.txt", "torch has written no such file"),
    (None, "--dataset nowhere", "no data set", "nowhere"),
    (misplace, OWN + " --dataset nowhere", "no data set", "nowhere"),
    (lambda folder: misplace(folder, "trainB"), OWN, "trainB", "does not exist"),
    (lambda folder: misplace(folder, "testA"), OWN + " --phase test", "testA", "does not exist", "--direction BtoA"),
    (lambda folder: misplace(folder, "testA"), OWN + " --phase test --direction AtoB", "testA", "does not exist"),
    (None, "--dataset {0}/dataset/tiny --dataset_dir {0}", "--dataset lies in", "leave out one of them"),
    (None, "--dataset {0}/dataset/nowhere/", "no data set", "dataset/nowhere"),
    (lambda folder: aside(folder, 1, 2, 11), "--resume True", "no checkpoint", "--checkpoint", "previous_11/tiny"),
    (empty, OWN, "no picture in", "testA"),
    (spoil, OWN, "trainB/1.png", "--skip_bad_images"),
    (None, "--result_dir {0}/dataset/tiny/trainA/0.png", "cannot write", "0.png"),
    (None, "--result_dir /proc/nowhere", "cannot write", "/proc/nowhere"),
    (None, "--resume True --n_res 2", "is of another run", "--n_res is 2, there 1"),
]


@pytest.mark.parametrize("prepare, options, words", [(first, second, words) for first, second, *words in MISTAKES])
def test_a_mistake_is_one_line_and_touches_nothing(folder, prepare, options, words):
    if prepare:
        prepare(folder)
    before = snapshot(folder)
    complaint(trained(folder, options.format(folder), status=2), *words)
    assert snapshot(folder) == before


OPTIONS = [
    ("--n_dis 7", "--n_dis 7 is too deep for --img_size 48, which allows 6"),
    ("--n_dis 70 --img_size 256", "--n_dis 70 is too deep for --img_size 256, which allows 8"),
    ("--n_dis 999999999999", "--n_dis 999999999999 must be at most 1000"),
    ("--n_res 1001", "--n_res 1001 must be at most 1000"),
    ("--img_size 44", "--img_size 44 is too small"),
    ("--n_dis 5", "5 must be at least 6"),
    ("--img_size 50", "must be divisible by 4"),
    ("--batch_size 0", "0 must be at least 1"),
    ("--iteration 0", "0 must be at least 1"),
    ("--dataset ..", "'..' is no folder name"),
    ("--dataset /", "'' is no folder name"),
    ("--device tpu9", "no such device"),
    ("--device meta", "no such device"),
    ("--device cpu:9", "no such device"),
    ("--lr nan", "nan must be above 0 and finite"),
    ("--lr inf", "inf must be above 0 and finite"),
    ("--seed 99999999999999999999999", "must be at most 9223372036854775807"),
    ("--num_workers 1000000", "must be at most 256"),
    ("--method cyclegan --beta1 1", "--beta1: 1 must be at most 0.999999"),
    ("--img_size 999999996", "already the pictures of a step take about 22,351,741,612.0 GiB"),
    ("--batch_size 999999999", "already the pictures of a step take about 51,"),
    ("--ch 20000", "already the weights, their gradients and Adam's two moments take about"),
    ("--ch 99999999999", "--ch 99999999999, --img_size 48 and --batch_size 1 make more numbers than can be counted"),
    ("--phase info --ch 99999999999", "make more numbers than can be counted"),
    ("--n_res 1000 --ch 512", "already the weights, "),
    ("--result_dir=", "'' is no path"),
    ("--resume perhaps", "neither true nor false"),
    ("--batchSize 4", "--batchSize 4; --help lists the options; here that is --batch_size"),
    ("--gpu_ids 0", "here that is --device"),
    ("--dataroot ./x --name y", "here that is --dataset PATH, the folder with trainA and trainB"),
    ("--name y", "here that is --dataset NAME"),
    ("--epoch_count 3", "here that is --resume True"),
    ("--iterations 3", "here that is --iteration"),
    ("--light_weight", "--light_weight; --help"),
    ("--print_frq 3", "did you mean --print_freq?"),
    ("--imgsize 64", "--imgsize 64; --help lists the options"),
]


def test_an_impossible_option_is_named_and_touches_nothing(folder):
    before = snapshot(folder)
    for options, words in OPTIONS:
        complaint(trained(folder, options, status=2), words)
    assert snapshot(folder) == before


def test_unreadable_pictures_can_be_left_out(folder):
    spoil(folder)
    run = trained(folder, OWN.format(folder) + " --iteration 1 --skip_bad_images true")
    assert "left out 1 of 2" in run.output and "1.png" in run.output


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_gone_bad_amid_training_costs_no_step(folder, workers):
    misplace(folder)
    run = train(folder, OWN.format(folder) + f" --iteration 1000000 --num_workers {workers}")
    run.reach(2)
    for name in ("0.png", "1.png"):
        (folder / "own" / "tiny" / "trainA" / name).write_bytes(b"no picture")
    assert run.wait() == 2
    line = run.output.splitlines()[-1]
    assert line.startswith("main.py: error: cannot read the picture") and "Traceback" not in run.output
    assert load_checkpoint(latest(folder), methods.recognise)["start_iter"] == run.lines()[-1]["step"] >= 2


def test_a_new_run_puts_an_earlier_one_aside(folder):
    shutil.rmtree(folder / "results")
    kept = []
    for n in range(3):
        run = trained(folder, f"--iteration 2 --save_freq 2 --seed {n}")
        assert n == 0 or f"previous_{n}" in run.output
        kept.append(latest(folder).read_bytes())
    results = folder / "results" / "tiny"
    for n in (1, 2):
        names = {p.name for p in (results / f"previous_{n}").rglob("*.*")}
        grids = {f"{way}_000000{step}.png" for way in ("A2B", "B2A") for step in (1, 2)}
        assert names == {"tiny_params_latest.pt", "tiny_params_0000002.pt", "log.jsonl", "run.json"} | grids
        assert (results / f"previous_{n}" / "tiny_params_latest.pt").read_bytes() == kept[n - 1]
    old = results / "previous_1" / "tiny_params_latest.pt"
    run = trained(folder, f"--checkpoint {old} --iteration 3 --seed 0")
    assert f"continuing from step 2 of {old}" in run.output
