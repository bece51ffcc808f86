"""Translations of the centres of pictures, as in DRIT's test, are not compared with whole true counterparts."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import SMALL, pictures, trained

import demo
import fid_kid
import main
import methods
from demo import area, data
from images.maker import lines, need_whole, read
from utils import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import contestants
import counterparts

WHOLE = "--preprocess resize_and_crop --load_size 212"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A training of one step by DRIT, translated as its authors do; truths and masks lie beside the test pictures."""
    folder = pictures(tmp_path_factory.mktemp("centres"))
    root = folder / "dataset" / "tiny"
    for d in "AB":
        shutil.copytree(root / f"train{d}", root / f"truth{d}")
        (root / f"mask{d}").mkdir()
        for path in (root / f"test{d}").iterdir():
            mask = np.zeros((48, 48), np.uint8)
            mask[8:40, 8:40] = 255
            Image.fromarray(mask).save(root / f"mask{d}" / path.name)
    trained(folder, "--method drit --iteration 1")
    trained(folder, "--method drit --phase test")
    return folder


@pytest.fixture
def folder(done, tmp_path):
    return shutil.copytree(done, tmp_path / "run")


def scores(folder, results) -> list:
    """Every score of translations against truths in folder/results, as a function."""
    root, fakes = folder / "dataset" / "tiny", results / "fakeB"
    return [
        lambda: demo.measure(fakes, *(root / f"{kind}A" for kind in ("test", "truth", "mask"))),
        lambda: area.area(fakes, root / "truthA", root / "maskA"),
        lambda: counterparts.measure(fakes, root / "truthA"),
        lambda: list(fid_kid.paired_distances(fakes, root / "large").values()),
    ]


def test_centres_are_refused_by_every_score_with_a_remedy_that_works(folder):
    results, root = folder / "results" / "tiny", folder / "dataset" / "tiny"
    (root / "large").mkdir()
    for path in (root / "truthA").iterdir():
        Image.open(path).resize((212, 212)).save(root / "large" / path.name)
    found = read(results / "fakeB")["options"]
    assert (found["size"], found["load_size"], found["part"]) == (212, 251, "centre")
    (line,) = lines(results / "fakeB")  # which pages, figures and scores of distributions print
    assert line.endswith("tiny_params_latest.pt; it shows the centres of pictures")
    for score in scores(folder, results):
        with pytest.raises(UserError, match=f"shows the centres of pictures.*{WHOLE}"):
            score()
    run = trained(folder, f"--method drit --phase test {WHOLE}")
    assert "earlier translations, fakeB and fakeA, are now in" in run.output  # not taken for the same
    assert "part" not in read(results / "fakeB")["options"]
    assert "shows the centres" not in lines(results / "fakeB")[0]
    for score in scores(folder, results):
        assert score()


def test_pictures_of_input_are_whole_and_keep_their_opacity_in_place(folder, monkeypatch):
    """A black bar at the left, and transparency at the right: a centre would lose both."""
    monkeypatch.setattr(methods.load("drit"), "translations", lambda self, x, s, t: [("", x)])
    pixels = np.full((48, 48, 4), 255, np.uint8)
    pixels[:, :4, :3] = pixels[:, -4:, 3] = 0
    Image.fromarray(pixels).save(folder / "bar.png")
    latest = folder / "results" / "tiny_params_latest.pt"
    words = ["--phase=test", f"--input={folder / 'bar.png'}", "--direction=AtoB", f"--checkpoint={latest}"]
    main.main([*words, "--device=cpu", f"--output={folder / 'out.png'}", "--keep_size=false"])
    found = np.asarray(Image.open(folder / "out.png").resize((48, 48))).astype(int)
    assert np.abs(found[:, [0, 1, 2, 6, 24, 41]] - pixels[:, [0, 1, 2, 6, 24, 41]]).max() < 16
    assert found[:, -2:, 3].max() < 16
    assert Image.open(folder / "out.png").size == (251, 251)  # at the scale of the training


@pytest.mark.parametrize("words, cut", [
    ("--method drit --img_size 212", True),
    ("--method drit --img_size 212 --load_size 212", False),
    ("--method drit --img_size 212 --preprocess scale_and_crop --load_size 212", "where it is no square"),
    ("--method drit --img_size 212 --preprocess crop", False),  # pictures keep their sizes
    ("--method munit --img_size 16 --load_size 32", False),  # it translates all 32 pixels
    ("--method cyclegan --img_size 32", False),
])  # fmt: skip
def test_what_is_cut(words, cut):
    args = main.parse_args([*words.split(), *SMALL[words.split()[1]].split()[2:], "--device", "cpu"])
    model = methods.load(args.method)(args)
    side = args.img_size
    assert model.cuts((300, 300), side) == (cut is True)
    assert model.cuts((300, 400), side) == bool(cut)
    assert not model.cuts((300, 400), None)
    model.show_whole(side)
    assert not model.cuts((300, 400), side)


def test_other_methods_keep_their_scale_when_whole_pictures_are_asked_for():
    args = main.parse_args(f"--method munit {SMALL['munit']} --load_size 32 --device cpu".split())
    model = methods.load("munit")(args)
    model.show_whole(16)
    assert model.test_size((64, 128), 16) == (32, 64)


def test_a_damaged_note_is_no_note(tmp_path):
    for text in ("[1]", '{"method": 1, "checkpoint": 2}', '{"method": 1, "checkpoint": 2, "options": ["part"]}'):
        (tmp_path / "made.json").write_text(text)
        need_whole(tmp_path)


def test_the_demo_is_measured_on_whole_pictures_by_drit_too(tmp_path, monkeypatch, capsys):
    """Translations that are their inputs change no background; on centres they would, by the shift alone."""
    scenes = {"trainA": range(0, 4), "trainB": range(400, 404), "testA": range(800, 812), "testB": range(900, 912)}
    folders = scenes | {f"{kind}{d}": scenes[f"test{d}"] for kind in ("truth", "mask") for d in "AB"}
    monkeypatch.setattr(data, "SCENES", scenes)  # a hundred of each take long
    monkeypatch.setattr(data, "FOLDERS", folders)
    root = demo.ensure(tmp_path / "dataset" / "demo")
    monkeypatch.setattr(methods.load("drit"), "translations", lambda self, x, s, t: [("", x)])
    words = f"--method drit {SMALL['drit']} --dataset demo --dataset_dir {root.parent} --result_dir {tmp_path} "
    main.main(f"{words} --iteration 1 --num_workers 0 --device cpu".split())
    found = demo.report(tmp_path / "demo", root)
    for way in found.values():
        assert way["background"] < 0.005 and way["coat_colour"] == pytest.approx(1, abs=0.03)
    main.main(f"{words} --phase test --device cpu".split())
    (tmp_path / "demo" / "fakeB" / "made.json").unlink()  # so that nobody knows
    centres = demo.measure(tmp_path / "demo" / "fakeB", *(root / f"{kind}A" for kind in ("test", "truth", "mask")))
    assert centres["background"] > 0.03


def test_scores_in_training_leave_the_measures_out(folder):
    run = trained(folder, "--method drit --score_freq 1 --best x", status=2)
    assert "fd_A2B" in run.output and "background" not in run.output
    run = trained(folder, f"--method drit {WHOLE} --score_freq 1 --best x", status=2)
    assert "background_A2B" in run.output


def test_table_1_translates_whole_pictures_where_they_are_compared():
    (drit,) = contestants.entrants(["drit"], "demo", None)
    assert drit.whole == ["--preprocess=resize_and_crop", "--load_size=212"]
    (nice,) = contestants.entrants(["nice"], "demo", None)
    assert nice.whole == []
