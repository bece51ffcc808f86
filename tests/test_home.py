"""~ is the home folder wherever a path is given: in option files, after =, in every script."""

import sys
from pathlib import Path

import pytest

import fid_kid
import main

sys.path.insert(0, str(Path(__file__).parents[1] / "figure"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablation
import compare
import curves


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_main(home):
    (home / "options.txt").write_text("--result_dir ~/results\n--dataset '~/data/cats'\n")
    args = main.parse_args(["@~/options.txt", "--device=cpu", "--phase=test", "--input=~/a.jpg", "--output", "~/b"])
    assert (args.result_dir, args.dataset_dir, args.dataset) == (f"{home}/results", f"{home}/data", "cats")
    assert (args.input, args.output) == (f"{home}/a.jpg", f"{home}/b")
    assert main.parse_args(["--device=cpu", "--result_dir=./~"]).result_dir == "./~"  # a folder of this name
    assert main.parse_args(["--device=cpu", "--dataset=~"]).dataset == home.name


def test_scripts(home):
    args = fid_kid.parse_args(["~/testB", "~/fakeB", "--json=~/score.json"])
    assert (args.paths, args.json) == ([f"{home}/testB", f"{home}/fakeB"], f"{home}/score.json")
    assert ablation.parse_args(["--result_dir=~/ablation"]).result_dir == home / "ablation"
    assert compare.method("NICE=~/fakeB") == ("NICE", home / "fakeB")
    assert curves.named("NICE=~/run") == ("NICE", home / "run")
    assert curves.named("~/run") == ("run", home / "run")
