"""--tensorboard true: the log's numbers and the sample grids, one curve through kills and resumes."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import latest, pictures, train, trained, until

from training.log import Log

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "figure"))

import curves
import gallery

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def board(folder):
    everything = dict.fromkeys((accumulator.SCALARS, accumulator.IMAGES), 0)
    found = accumulator.EventAccumulator(str(folder / "results" / "tiny" / "tensorboard"), size_guidance=everything)
    return found.Reload()


def of_log(folder, name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in Log.lines(folder / "results" / "tiny" / "log.jsonl") if name in line]


def check(folder, steps: list[int], grids: list[int], scores: list[int]):
    """Assert that TensorBoard has every number of the log, each step once and in order, and the grids of img."""
    found = board(folder)
    for tag, name in (("losses/g_loss", "g_loss"), ("run/lr", "lr"), ("run/steps_per_second", "steps_per_second"),
                      ("scores/kd_mean", "kd_mean"), ("scores/fd_A2B", "fd_A2B")):  # fmt: skip
        events = found.Scalars(tag)
        logged = of_log(folder, name)
        assert [event.step for event in events] == (scores if tag.startswith("scores") else steps)
        assert [event.step for event in events] == [step for step, _ in logged]
        np.testing.assert_allclose([event.value for event in events], [value for _, value in logged], rtol=1e-6)
    images = found.Images("samples/A2B")
    assert [image.step for image in images] == sorted({1, *grids})  # the first step has a grid, too
    kept = Image.open(folder / "results" / "tiny" / "img" / f"A2B_{grids[-1]:07d}.png")
    assert (images[-1].width, images[-1].height) == kept.size


def test_one_curve_through_a_kill_and_a_resume(tmp_path):
    folder = pictures(tmp_path)
    often = "--print_freq 4 --score_freq 4 --tensorboard true"
    environment = {"TORCH_HOME": str(folder / "hub")}
    run = train(folder, f"{often} --iteration 1000", environment=environment)
    until(lambda: latest(folder).exists() and len(run.lines()) > 8 and run.lines()[-1]["step"] % 4 == 2, run)
    run.signal(signal.SIGKILL)
    run.wait()
    beyond = board(folder).Scalars("losses/g_loss")[-1].step
    run = trained(folder, f"{often} --iteration 24 --resume True", environment=environment)
    step = int(run.output.split("continuing from step ")[1].split()[0])
    assert step < beyond < 24  # there was something to purge
    check(folder, list(range(1, 25)), list(range(4, 25, 4)), list(range(4, 25, 4)))
    trained(folder, f"{often} --iteration 4", environment=environment)  # a new run: the old curves are archived
    check(folder, [1, 2, 3, 4], [4], [4])

    log = curves.read(folder / "results" / "tiny")
    for name in ("fd", "kd"):
        steps, values = curves.curve(log, name)
        scores = [of_log(folder, f"{name}_{d}")[0][1] for d in ("A2B", "B2A")]
        assert name in curves.PANELS and steps == [4] and values == pytest.approx([sum(scores) / 2])
    run = gallery.Run("tiny", folder / "results" / "tiny")
    titles = [panel["title"] for panel in gallery.panels([run])]
    assert gallery.TITLES["fd"] in titles and gallery.TITLES["kd"] in titles
    rows = {(row["title"], row["way"]): row["cells"][0]["last"][1] for row in gallery.scores([run])}
    assert rows == {(gallery.TITLES[q], way): 4 for q in ("fd", "kd") for way in ("A to B", "B to A", "mean")}
