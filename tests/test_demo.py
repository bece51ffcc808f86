"""The demo data is the same everywhere and never incomplete; its measures are right where the answer is known."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
from demo import area, data
from demo.__main__ import main as demo_main
from demo.scenes import scene
from utils import UserError

HOME = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return demo.ensure(tmp_path_factory.mktemp("dataset") / "demo")


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def test_folders(root):
    for name, numbers in data.FOLDERS.items():
        assert [p.name for p in sorted((root / name).iterdir())] == [f"{n:04d}.png" for n in numbers]
        picture = Image.open(root / name / f"{numbers[0]:04d}.png")
        assert picture.size == (64, 64) and picture.mode == ("L" if name.startswith("mask") else "RGB")
    assert sorted(p.name for p in root.parent.iterdir()) == ["demo"]  # nothing left beside it


def test_no_scene_twice(root):
    files = [p for name in data.SCENES for p in (root / name).iterdir()]
    assert len({p.name for p in files}) == len({read(p).tobytes() for p in files}) == 1000
    # the number in the name is the scene: the picture of one scene in the other domain is nowhere in training
    assert np.array_equal(read(root / "trainA" / "0007.png"), scene(7, data.TRAIN_SIZE)["A"])
    assert np.array_equal(read(root / "trainB" / "0407.png"), scene(407, data.TRAIN_SIZE)["B"])


def test_scenes_do_not_depend_on_the_process():
    numbers, keys = (3, 411, 803, 950), ("A", "B", "mask")
    code = "import random, sys, numpy; from demo.scenes import scene; random.seed(9); numpy.random.seed(9)\n"
    code += f"for n in {numbers}:\n  for k in {keys}: sys.stdout.buffer.write(scene(n)[k].tobytes())"
    other = subprocess.run([sys.executable, "-c", code], cwd=HOME, env=os.environ | {"PYTHONHASHSEED": "5"},
                           capture_output=True, check=True).stdout
    for _ in range(2):
        assert b"".join(scene(number)[key].tobytes() for number in numbers for key in keys) == other


def test_pictures_are_the_recorded_ones():
    """A change of a single pixel would make measured results of other versions incomparable."""
    digest = hashlib.sha256(b"".join(scene(n)[k].tobytes() for n in (0, 500, 850, 999) for k in ("A", "B", "mask")))
    assert digest.hexdigest()[:16] == "785ec336edab598d"


def test_generated_once(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert demo.ensure(root) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


@pytest.mark.parametrize("domain", "AB")
def test_the_coat_is_all_that_differs(root, domain):
    shares = []
    for path in (root / f"mask{domain}").iterdir():
        test, truth, mask = (read(root / f"{kind}{domain}" / path.name) for kind in ("test", "truth", "mask"))
        changed = np.abs(test - truth).max(axis=-1) > 0
        assert not changed[mask == 0].any()
        assert changed[mask == 255].mean() > 0.8  # hooves and eyes are the same in both
        shares.append((mask >= 128).mean())
    assert min(shares) > 0.05 and max(shares) < 0.5  # no animal is tiny or fills the frame


def test_shade_of_one_coat_tells_the_other(root):
    """Over the test scenes, a lighter horse is a lighter zebra."""
    light = []
    for path in (root / "maskA").iterdir():
        mask = read(path) == 255
        light.append([read(root / f"{kind}A" / path.name)[mask].mean() for kind in ("test", "truth")])
    horse, zebra = np.array(light).T
    assert np.corrcoef(horse, zebra)[0, 1] > 0.5


def measured(root, domain, fake):
    return demo.measure(fake, *(root / f"{kind}{domain}" for kind in ("test", "truth", "mask")))


@pytest.mark.parametrize("domain", "AB")
def test_the_truth_scores_perfectly(root, domain):
    assert measured(root, domain, root / f"truth{domain}") == {
        "background": 0, "coat_colour": 0, "coat_texture": pytest.approx(1)}


@pytest.mark.parametrize("domain", "AB")
def test_larger_translations_are_measured_at_the_size_of_their_sources(domain, root, tmp_path):
    """96 pixels, as U-GAT-IT gives: enlarging and reducing costs a fifth of the texture."""
    for path in (root / f"truth{domain}").glob("*.png"):
        Image.open(path).resize((96, 96), Image.Resampling.BILINEAR).save(tmp_path / path.name)
    found = measured(root, domain, tmp_path)
    assert found["background"] < 0.005 and found["coat_colour"] < 0.05 and 0.75 < found["coat_texture"] < 1


@pytest.mark.parametrize("domain", "AB")
def test_the_untranslated_picture_misses_the_coat(root, domain):
    found = measured(root, domain, root / f"test{domain}")
    assert found["background"] == 0 and found["coat_colour"] == pytest.approx(1)
    assert not demo.passes("coat_texture", found["coat_texture"])


def test_constant_shifts_are_measured_exactly(tmp_path):
    """On grey squares every measure has a closed form."""
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    mask[16, 16:48] = 100  # an edge pixel is neither inside nor outside
    x = np.indices((64, 64)).sum(axis=0) % 2 * 2 - 1  # a chequerboard of -1 and 1
    inside = mask >= 128

    def save(folder, picture):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.repeat(picture[..., None], 3, 2).astype(np.uint8)).save(tmp_path / folder / "1.png")

    save("source", np.full((64, 64), 50))
    save("truth", np.where(inside, 150 + 40 * x, 50))
    save("fake", np.where(inside, 130 + 20 * x, np.where(mask == 0, 60, 255)))
    (tmp_path / "mask").mkdir()
    Image.fromarray(mask).save(tmp_path / "mask" / "1.png")
    found = demo.measure(*(tmp_path / name for name in ("fake", "source", "truth", "mask")))
    assert found["background"] == pytest.approx(10 / 255)
    assert found["coat_colour"] == pytest.approx(20 / 100, abs=0.005)
    assert found["coat_texture"] == pytest.approx(0.25, abs=0.005)


def test_report(root, tmp_path, capsys):
    for source, target in demo.DIRECTIONS:
        shutil.copytree(root / f"truth{source}", tmp_path / f"fake{target}")
    found = demo.report(tmp_path, root)
    assert set(found) == {"A2B", "B2A"} and set(found["A2B"]) == set(demo.BARS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.count("pass") == 2 for line in lines[1:])
    assert lines[0].split() == ["demo", "A2B", "B2A", "bar"]
    assert {line.find(text) for line, text in zip(lines, ("bar", "at most", "at most", "0.6 to"), strict=True)} == {42}
    shutil.copytree(root / "testA", tmp_path / "fakeB", dirs_exist_ok=True)
    demo_main(["--root", str(root), "--measure", str(tmp_path)])  # the same lines
    assert "MISS" in capsys.readouterr().out


@pytest.mark.parametrize("source,target", demo.DIRECTIONS)
def test_report_of_one_direction(source, target, root, tmp_path, capsys):
    with pytest.raises(UserError, match="neither fakeB nor fakeA"):
        demo.report(tmp_path, root)
    shutil.copytree(root / f"truth{source}", tmp_path / f"fake{target}")
    assert list(demo.report(tmp_path, root)) == [f"{source}2{target}"]
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["demo", f"{source}2{target}", "bar"] and head.find("bar") == lines[0].find("at most")
    assert len(lines) == 3 and all(line.count("pass") == 1 for line in lines)


def test_missing_files_are_named(root, tmp_path):
    shutil.copytree(root / "truthA", tmp_path / "fakeB")
    (tmp_path / "fakeB" / "0850.png").unlink()
    with pytest.raises(UserError, match=r"fakeB.0850\.png: missing.*main\.py") as error:
        measured(root, "A", tmp_path / "fakeB")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="nowhere: no masks.* python -m demo$"):
        demo.measure(tmp_path, tmp_path, tmp_path, tmp_path / "nowhere")
    Image.new("RGB", (32, 32)).save(tmp_path / "fakeB" / "0850.png")
    with pytest.raises(UserError, match=r"0850\.png: is smaller"):
        measured(root, "A", tmp_path / "fakeB")


def test_someone_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "demo" / "trainA").mkdir(parents=True)
    with pytest.raises(UserError, match="not the complete demo data set"):
        demo.ensure(tmp_path / "demo")
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["trainA"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interruption_leaves_no_incomplete_data_set(tmp_path, how, monkeypatch):
    process = subprocess.Popen([sys.executable, "-m", "demo", "--root", str(tmp_path / "demo")], cwd=HOME,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               # a shell may have started the tests in the background, deaf to SIGINT
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 60
    while not (written := sum(1 for _ in tmp_path.rglob("*.png"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    assert process.wait(timeout=30) != 0 and 0 < written < 1600
    assert not (tmp_path / "demo").exists()
    left = list(tmp_path.iterdir())
    if how == signal.SIGINT:
        assert left == []
    else:  # the next call removes what a killed one left, once it is old
        os.utime(left[0], (0, 0))
        monkeypatch.setattr(data, "_generate", lambda folder: folder.mkdir())
        demo.ensure(tmp_path / "demo")
        assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_the_animals_area(root, tmp_path, capsys):
    """Right for the truths, nearly half for pictures that are not translated, 0 where there is no animal."""
    for source, target in demo.DIRECTIONS:
        shutil.copytree(root / f"truth{source}", tmp_path / f"fake{target}")
    demo_main(["--root", str(root), "--area", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["A2B", "B2A"]
    truths = {"A": root / "truthA", "B": root / "truthB"}
    for s in "AB":
        found = area.area(truths[s], truths[s], root / f"mask{s}")
        assert found["area"] == pytest.approx(1, abs=0.02) and found["iou"] > 0.93
        copied = area.area(root / f"test{s}", truths[s], root / f"mask{s}")
        assert copied["area"] < 0.6 and copied["iou"] < 0.6
    (tmp_path / "sky").mkdir()
    for path in truths["A"].iterdir():
        Image.new("RGB", (64, 64), (140, 190, 240)).save(tmp_path / "sky" / path.name)
    assert area.area(tmp_path / "sky", truths["A"], root / "maskA") == {"area": 0, "iou": 0}
    with pytest.raises(UserError, match="neither fakeB nor fakeA"):
        area.report(tmp_path / "sky", root)
