"""The arithmetic of benchmarks/bench.py, and one of its processes at work."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench


@pytest.mark.parametrize("b", [-0.5, 0, 1.79, 2])
def test_the_exponent_of_a_power_is_found(b):
    sides = (64, 128, 256, 512)
    assert bench.exponent(sides, [3 * side**b for side in sides]) == pytest.approx(b, abs=1e-12)


def test_a_plot_is_drawn(tmp_path):
    bench.draw({"batch": [(1, 1.0), (2, 0.8)], "size": [(64, 1.0), (128, 3.0)]}, tmp_path / "scaling.png")
    with Image.open(tmp_path / "scaling.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**20)) > 10


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
