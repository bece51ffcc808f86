"""The arithmetic of benchmarks/bench.py, and one of its processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from runs import pictures

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench
import turns

from utils import UserError


@pytest.mark.parametrize("b", [-0.5, 0, 1.79, 2])
def test_the_exponent_of_a_power_is_found(b):
    sides = (64, 128, 256, 512)
    assert bench.exponent(sides, [3 * side**b for side in sides]) == pytest.approx(b, abs=1e-12)


def test_a_plot_is_drawn(tmp_path):
    bench.draw({"batch": [(1, 1.0), (2, 0.8)], "size": [(64, 1.0), (128, 3.0)]}, tmp_path / "scaling.png")
    with Image.open(tmp_path / "scaling.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**20)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("side", ["ours", "reference"])
def test_a_side_times_its_steps_and_profiles_them(side):
    process = bench.Side(side, "--img_size 64 --ch 4 --n_res 1 --n_dis 6 --device cpu")
    assert process.ask("step") > 0 and process.ask("translate") > 0 and process.ask("memory") > 100
    operations, convolutions = process.ask("profile")
    process.close()
    assert sum(share for _, share, _ in operations) == pytest.approx(1)
    calls = {name: n for name, _, n in operations}
    # backward passes of a step: D's and G's, each direction; every convolution is there
    assert calls["aten::convolution_backward"] > 20 and 0.1 < convolutions < 1


@pytest.mark.slow
def test_one_call_on_a_machine_with_a_gpu(tmp_path):
    """benchmarks/gpu.sh at toy sizes on a CPU; its second call goes on with the training of the first."""
    pictures(tmp_path, 3)
    more = {"DEVICE": "cpu", "TOY": "1", "NAME": "tiny", "DATA": str(tmp_path / "dataset"), "PYTHON": sys.executable}
    more |= {"OUT": str(tmp_path / "out"), "RUN": str(tmp_path / "run")}
    steps = []
    for limit in (240, 90):
        command = ["bash", str(Path(bench.__file__).with_name("gpu.sh"))]
        subprocess.run(command, env={**os.environ, **more, "LIMIT": str(limit)}, timeout=limit + 30, check=True)
        steps.append(len((tmp_path / "out" / "log.jsonl").read_text().splitlines()))
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert {"A2B.png", "B2A.png", "train.txt", "parts.txt", "scores.txt", "machine.txt"} <= names
    assert steps[1] > steps[0] > 0
    lines = (tmp_path / "out" / "parts.txt").read_text().splitlines()
    assert not any("bench.py" in line for line in lines) and (tmp_path / "run" / "tiny_params_latest.pt").exists()


def test_turns_compare_two_ways():
    tiny = "--method nice --ch 2 --n_res 1"
    row = turns.turns("step", "bf16", tiny, 64, 1).split(" | ")
    assert row[:2] == [f"| {tiny}", "64"] and all(float(cell.strip(" |")) > 0 for cell in row[2:])
    assert turns.cases(["cut", "nice --ch 2"]) == ["--method cut", "--method nice --ch 2"]


def test_scaling_finds_exponents_and_leaves_out_what_is_refused(monkeypatch, capsys):
    def alone(words):
        options = dict(zip(*[iter(words.split())] * 2, strict=False))
        size, batch = int(options["--img_size"]), int(options["--batch_size"])
        if options["--method"] != "cut" and size < (512 if options["--method"] == "unit" else 256):
            raise UserError("too small")
        return [size**2 * batch, 7 * size * batch**0.5]

    monkeypatch.setattr(turns, "alone", alone)
    turns.scale_table(["cut", "drit", "unit"], [64, 128, 256], [1, 2, 4], "--ch 8")
    said = capsys.readouterr()
    both = "1.00, last 1.00 | 0.50, last 0.50"
    assert [line.rpartition(" | ")[0] for line in said.out.splitlines()[2:]] == [
        f"| --method cut --ch 8 | 64, 128, 256 | 1, 2, 4 | {both} | {both}",
        f"| --method drit --ch 8 | 256 | 1, 2, 4 |  |  | {both}",
    ]
    left_out = [line.partition(" is left out: ") for line in said.err.splitlines()]
    assert [name for name, _, why in left_out if why == "too small"] == [
        f"--method {name} --ch 8 at {size} px, batch 1"
        for name, sizes in (("drit", (64, 128)), ("unit", (64, 128, 256)))
        for size in sizes
    ]
