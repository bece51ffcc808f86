"""Run trainings with scores, read their results, compare them with fid_kid.py."""

import json
from pathlib import Path

import pytest
import runs
from conftest import TINY as IN_PROCESS
from runs import TINY, Run

import fid_kid
import main
import methods
from checkpoints.files import load_checkpoint, verify
from training.log import Log

TIMES = ("steps_per_second", "data_wait", "scoring_seconds")
LITE = ("--features", "efficientnet-lite0")


def no_hub(folder) -> dict[str, str]:
    """An environment without cached weights of Inception."""
    return {"TORCH_HOME": str(folder / "hub")}


def train(folder, options: str) -> Run:
    return runs.train(folder, options, environment=no_hub(folder))


def trained(folder, options: str, status=0) -> Run:
    return runs.trained(folder, options, status, environment=no_hub(folder))


def of_tiny(folder) -> list[str]:
    return [*TINY.split(), "--dataset_dir", str(folder / "dataset"), "--result_dir", str(folder / "results")]


def best(folder) -> Path:
    return folder / "results" / "tiny_params_best.pt"


def digests(path: Path) -> dict:
    """The verified digests of a checkpoint, but for the options."""
    state = load_checkpoint(path, methods.recognise)
    verify(state, path)
    return {name: value for name, value in state["digest"].items() if name != "args"}


def lines(folder) -> list[dict]:
    """The log without its times."""
    log = folder / "results" / "tiny" / "log.jsonl"
    return [{k: v for k, v in line.items() if k not in TIMES} for line in Log.lines(log)]


def scored(folder) -> dict[int, dict]:
    """{step: its scores}"""
    log = folder / "results" / "tiny" / "log.jsonl"
    return {line["step"]: line for line in Log.lines(log) if "scoring_seconds" in line}


def of(method: str, folder, options: str, status=0) -> Run:
    """A finished run of another method, with the smallest networks."""
    return trained(folder, f"--method {method} {options}", status)


def here(folder, options: str):
    """main.py in this process."""
    places = ["--dataset_dir", str(folder / "dataset"), "--result_dir", str(folder / "results")]
    main.main([*IN_PROCESS.split(), "--dataset", "tiny", "--log_freq", "1", *places, *options.split()])


def of_fid_kid(folder, source: str, fakes: str, *argv) -> dict:
    report = folder / "report.json"
    pair = folder / "dataset" / "tiny" / source, folder / "results" / "tiny" / fakes
    fid_kid.main([*map(str, pair), *argv, "-c", "", "--json", str(report)])
    return json.loads(report.read_text())


def compare(folder, found: dict, names=("fd", "kd"), argv=LITE, tolerance=1e-6):
    """Assert that the scores of a log line equal those of fid_kid.py on the files in fakeA and fakeB."""
    directions = {key.split("_")[1] for key in found if key.startswith(names[0])} - {"mean"}
    assert directions
    for d in directions:
        report = of_fid_kid(folder, f"test{d[2]}", f"fake{d[2]}", *argv)
        for name in names:
            assert found[f"{name}_{d}"] == pytest.approx(report[name], rel=tolerance, abs=tolerance), (d, name)
    if len(directions) == 2:
        for name in names:
            assert found[f"{name}_mean"] == pytest.approx((found[f"{name}_A2B"] + found[f"{name}_B2A"]) / 2)
    else:
        assert not any(key.endswith("_mean") for key in found)
