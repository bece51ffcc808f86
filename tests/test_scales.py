"""One scale of deep pictures for a domain of a data set, wherever its pictures lie and whatever reads them."""

import json
import shutil

import numpy as np
import pytest
import runs
import torch
from pictures import save, scene
from PIL import Image
from runs import train

import fid_kid
from checkpoints.files import load_checkpoint
from dataset import UnpairedStream
from images.decode import read_image
from images.files import check_images, common_scale, list_images
from images.scales import measured
from methods import recognise
from nicegan import Translator
from scoring.pairs import paired_distances

GREY = np.asarray(Image.fromarray(scene(48, 48)).convert("L")).astype(np.float64)
GREY = (GREY - GREY.min()) / (GREY.max() - GREY.min())


def deep(path, most=2500, kind=np.uint16):
    return save(path, (GREY * most).astype(kind))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """trainA holds values to 2500, and in a sub-folder to 9000; testA the very file of trainA, and one to 20000."""
    folder = runs.pictures(tmp_path_factory.mktemp("data"))
    root = folder / "dataset" / "tiny"
    for path in [*root.glob("*A/*.png")]:
        path.unlink()
    for name, most in {"trainA/0": 2500, "trainA/sub/1": 9000, "testA/0": 2500, "testA/1": 20000}.items():
        deep(root / f"{name}.png", most)
    return folder


def test_a_domain_has_one_scale_with_its_sub_folders_and_single_pictures_their_own(data):
    root = data / "dataset" / "tiny"
    scale = measured(list_images(root / "trainA"))
    assert scale == {"16-bit": (0, 16383)} == common_scale(root / "testA") == common_scale(root / "trainA" / "sub")
    files = [root / "trainA" / "0.png", root / "testA" / "0.png"]
    assert all(np.array_equal(read_image(path, scale), read_image(files[0], scale)) for path in files)
    assert np.abs(np.asarray(read_image(files[0], scale))[..., 0] - (GREY * 2500) // 1 * 255 / 16383).max() <= 0.5
    assert np.asarray(read_image(files[0])).max() == round(2500 * 255 / 4095)  # alone


def test_training_batches_have_the_domain_s_scale(data):
    paths = {d: list_images(data / "dataset" / "tiny" / f"train{d}") for d in "AB"}
    batch = next(UnpairedStream(paths, 48, 2, workers=0, load_size=48))["A"]
    assert sorted((batch.amax((1, 2, 3)) * 127.5 + 127.5).round().tolist()) == [
        round(most * 255 / 16383) for most in (2500, 9000)]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = runs.with_pictures(tmp_path_factory.mktemp("run"), data)
    done = train(folder, "--iteration 2 --print_freq 2")
    assert done.wait() == 0, done.output
    return folder, done.output


def test_the_scale_is_said_and_kept_and_what_lies_beyond_it_is_said(run):
    folder, output = run
    assert "16-bit pictures of" in output and "0 becomes black and 16383 white" in output
    assert "1 of the pictures in" in output and "testA hold values of 0 to 20000" in output and "clipped" in output
    state = load_checkpoint(folder / "results" / "tiny_params_latest.pt", recognise)
    assert state["scales"] == {"A": {"16-bit": [0.0, 16383.0]}, "B": {}}


def test_every_way_to_translate_uses_the_kept_scale_and_so_does_a_model_file(run, data, tmp_path):
    folder, _ = run
    source, results = data / "dataset" / "tiny" / "testA" / "0.png", folder / "results"
    checkpoint = results / "tiny_params_latest.pt"
    alone = deep(tmp_path / "in" / "0.png")
    deep(tmp_path / "in" / "bright.png", 60000)  # beside it, this changes nothing
    for words in ("--phase test", f"--phase test --input {alone} --output {tmp_path / 'one'} --direction AtoB",
                  f"--phase test --input {alone.parent} --output {tmp_path / 'all'} --direction AtoB",
                  f"--phase export --direction AtoB --output {tmp_path / 'model.pt'}"):
        done = train(folder, words)
        assert done.wait() == 0, done.output
    expected = np.asarray(Image.open(results / "tiny" / "fakeB" / "0.png"))
    for place in ("one", "all"):
        assert np.array_equal(Image.open(tmp_path / place / "0.png"), expected)
    for file in (checkpoint, tmp_path / "model.pt"):
        assert np.array_equal(Translator(file, device="cpu")(Image.open(source), "AtoB"), expected)
    scaled = (np.asarray(read_image(source, {"16-bit": (0, 16383)})) / 127.5 - 1).astype(np.float32)
    drawn = Translator(checkpoint, device="cpu")(torch.from_numpy(scaled).permute(2, 0, 1)[None], "AtoB")
    assert np.abs((drawn[0].permute(1, 2, 0).numpy() + 1) * 127.5 - expected).max() < 0.6


def test_a_resume_keeps_the_scale_although_the_pictures_have_changed(run, data, tmp_path):
    shutil.copytree(run[0] / "results", tmp_path / "results")
    shutil.copytree(data / "dataset", tmp_path / "dataset")
    deep(tmp_path / "dataset" / "tiny" / "trainA" / "2.png", 40000)
    done = train(tmp_path, "--iteration 3 --resume True")
    assert done.wait() == 0 and "beyond the training pictures' scale, 0 to 16383" in done.output
    state = load_checkpoint(tmp_path / "results" / "tiny_params_latest.pt", recognise)
    assert state["start_iter"] == 3 and state["scales"]["A"] == {"16-bit": [0.0, 16383.0]}


def test_damaged_scales_are_one_line(run, tmp_path):
    state = torch.load(run[0] / "results" / "tiny_params_latest.pt", weights_only=True)
    del state["digest"]
    torch.save({**state, "scales": {"A": {"16-bit": [5.0, 5.0]}}}, tmp_path / "x.pt")
    done = train(run[0], f"--phase test --checkpoint {tmp_path / 'x.pt'}")
    assert done.wait() == 2 and "scales" in done.output and "Traceback" not in done.output


def test_one_brighter_pixel_changes_no_other_picture_of_either_side_of_a_score(tmp_path):
    values = [(np.roll(GREY, 5 * i, 1) * 3000).astype(np.uint16) for i in range(4)]
    for i, value in enumerate(values):
        save(tmp_path / "one" / f"{i}.png", value)
        brighter = value.copy()
        brighter[0, 0] = 9000 if i == 3 else value[0, 0]
        save(tmp_path / "two" / f"{i}.png", brighter)
    assert common_scale(tmp_path / "one", tmp_path / "two") == {"16-bit": (0, 16383)}
    assert paired_distances(tmp_path / "one", tmp_path / "two")["psnr"] > 35  # of infinite ones and one pixel's
    argv = ["--features", "efficientnet-lite0", "--no-kid", "--gpu", "", "--json", str(tmp_path / "x.json")]
    pytest.importorskip("efficientnet_lite_pytorch")
    fid_kid.main([str(tmp_path / "one"), str(tmp_path / "two"), *argv])
    together = json.loads((tmp_path / "x.json").read_text())["fd"]
    assert together < 3
    fid_kid.main([str(tmp_path / "two"), "--save", str(tmp_path / "two.npz"), *argv[:2], "--gpu", ""])
    fid_kid.main([str(tmp_path / "one"), str(tmp_path / "two.npz"), *argv])  # the file remembers its scale
    assert json.loads((tmp_path / "x.json").read_text())["fd"] == pytest.approx(together, abs=1e-3)


def test_deep_pictures_without_a_scale_are_said(tmp_path, capfd):
    check_images([deep(tmp_path / "x.png")], scale={"float": (0, 1)})
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "1 16-bit pictures" in line and "its own values" in line
