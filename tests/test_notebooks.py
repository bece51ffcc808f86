"""The notebooks of docs/: small, without outputs, and their cells run, one after another, on the demo."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import demo
from demo.data import DIRECTIONS, FOLDERS, TRAIN_SIZE
from demo.scenes import scene

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))


def cells(name: str, kind: str = "code") -> list[dict]:
    notebook = json.loads((ROOT / "docs" / name).read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.fixture
def run(monkeypatch):
    """run(notebook, parameters): its variables after all cells; the cell of parameters is followed by these."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(ROOT / "docs")
    threads = torch.get_num_threads()

    def execute(name: str, **parameters) -> dict:
        variables = {}
        for number, cell in enumerate(cells(name)):
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), variables)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert parameters.keys() <= variables.keys()
                variables |= parameters
        return variables

    yield execute
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The first scenes of the demo, in the folders of a data set."""
    root = tmp_path_factory.mktemp("data") / "mini"
    for s, t in DIRECTIONS:
        for kind, key in (("train", s), ("test", s), ("truth", t), ("mask", "mask")):
            (root / f"{kind}{s}").mkdir(parents=True)
            for number in FOLDERS[f"{kind}{s}"][:3]:
                picture = scene(number, *((TRAIN_SIZE, s) if kind == "train" else ()))[key]
                Image.fromarray(picture).save(root / f"{kind}{s}" / f"{number:04d}.png")
    return root


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_small_and_hold_no_outputs(path):
    assert path.stat().st_size < 12_000
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path.name))
    text = "".join(line for cell in cells(path.name, "markdown") for line in cell["source"])
    for link in text.split("](")[1:]:
        target = link.partition(")")[0].partition("#")[0]
        assert target.startswith("https://") or (path.parent / target).exists(), target
    named = {page.name for page in (ROOT / "docs").glob("*.md") if path.name in page.read_text("utf-8")}
    assert named and path.name in (ROOT / "README.md").read_text("utf-8")


def two_folders(run, mini, tmp_path, options, steps):
    got = run("your_two_folders.ipynb", DATA=str(mini), OPTIONS=options, STEPS=steps, PLACE=str(tmp_path))
    answer = np.asarray(got["translator"](got["mine"][0], "AtoB"))
    assert answer.shape == (64, 64, 3) and answer.std() > 2
    assert (tmp_path / f"{mini.name}-AtoB" / "README.md").exists() and len(got["mine"]) == 3
    return got


def test_two_folders(run, mini, tmp_path):
    two_folders(run, mini, tmp_path, ["@configs/demo.txt", "--ch", "2", "--n_res", "1", "--cache", "false"], 2)


def test_the_paper(run, mini, capsys):
    got = run("paper_in_code.ipynb", DATA=str(mini), STEPS=2)
    discriminators = [f"dis{d}, {part}" for d in "AB" for part in ("encoder", "classifiers")]
    assert sorted(got["moves"]["D"]) == sorted(discriminators) and sorted(got["moves"]["G"]) == ["gen2A", "gen2B"]
    assert got["nice"].step == 3 and got["strip"].shape == (64, 5 * 64, 3)
    assert "first layers are the encoder: True" in capsys.readouterr().out


@pytest.mark.slow
def test_as_they_are_on_the_whole_demo(run, tmp_path):
    root = demo.ensure(tmp_path / "data" / "demo")
    got = two_folders(run, root, tmp_path, ["@configs/demo.txt"], 300)
    assert got["main"] and len(list((tmp_path / "demo" / "fakeB").iterdir())) == 101  # and made.json
    assert run("paper_in_code.ipynb", DATA=str(root))["nice"].step == 61
