"""The terms of the log mean one thing: bare means under a term's name, for every method, also in older logs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from runs import ALIKE, SMALL, pictures, trained

import main
import methods
from training.log import bare_and_weighted

sys.path.insert(0, str(Path(__file__).parents[1] / "figure"))

import curves
import gallery


def test_bare_and_weighted():
    terms = {"cycle_A": 5.0, "idt_A": 0.0, "NCE": 2.0, "G": 3.0}
    found = bare_and_weighted(terms, {"cycle_A": 10, "idt_A": 0, "NCE": 1})
    assert found == {"cycle_A": 0.5, "cycle_A_weighted": 5.0, "idt_A_weighted": 0.0, "NCE": 2.0, "G": 3.0}


@pytest.mark.parametrize("method", SMALL)
def test_every_weighted_term_is_one_of_the_step(method):
    options = f"--method {method} {ALIKE} {SMALL[method]}" + " --use_cycle_loss true" * (method == "distancegan")
    args = main.parse_args(options.split())
    weights = methods.load(method).term_weights(args)
    if not weights:
        return
    trainer, terms = methods.create(args), set()
    size = (args.batch_size * (2 if method == "drit" else 1), 3, args.img_size, args.img_size)
    x, y = torch.rand(2, *size) * 2 - 1
    trainer.prepare(x, y)
    for _ in range(trainer.period):
        terms |= trainer.train_step(x, y).keys()
    assert weights.keys() <= terms | ({"NCE_Y"} if method == "fastcut" else set())  # which has no identity term


def test_the_log_holds_both(tmp_path):
    folder = pictures(tmp_path)
    trained(folder, "--method cyclegan --iteration 1 --lambda_B 4 --lambda_identity 0")
    line = json.loads((folder / "results" / "tiny" / "log.jsonl").read_text())
    assert line["cycle_A_weighted"] == pytest.approx(10 * line["cycle_A"], abs=1e-5)
    assert line["cycle_B_weighted"] == pytest.approx(4 * line["cycle_B"], abs=1e-5)
    assert 0 < line["cycle_A"] < 2 and "idt_A" not in line and line["idt_A_weighted"] == 0
    assert curves.curve(curves.read(folder / "results" / "tiny"), "cycle")[1] == [
        pytest.approx((line["cycle_A"] + line["cycle_B"]) / 2)
    ]


def test_older_logs_are_read_as_bare_means(tmp_path):
    """A log of which the first two lines are of an older version, that logged the weighted term as cycle_A."""
    lines = [{"step": 1, "cycle_A": 5.0, "G": 7.0}, {"step": 2, "cycle_A": 4.0, "G": 6.0}]
    lines += [{"step": 3, "cycle_A": 0.3, "cycle_A_weighted": 3.0, "G": 5.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"lambda_A": 10.0, "lambda_B": 10.0, "lambda_identity": 0.5}
    old = {"step": 0, "method": "cyclegan", "options": options}
    (tmp_path / "run.json").write_text(json.dumps([old, {**old, "step": 2, "terms": "bare"}]))
    read = curves.read(tmp_path)
    assert [line["cycle_A"] for line in read] == [0.5, 0.4, 0.3]
    assert [line["cycle_A_weighted"] for line in read] == [5.0, 4.0, 3.0]
    assert [line["G"] for line in read] == [7.0, 6.0, 5.0]
    titles = {panel["title"]: panel["curves"] for panel in gallery.panels([gallery.Run("old", tmp_path)])}
    assert titles[curves.PANELS["cycle"]][0]["values"] == [0.5, 0.4, 0.3]
    assert titles["cycle weighted"][0]["values"] == [5.0, 4.0, 3.0]
    (tmp_path / "run.json").unlink()  # of an unknown method: as it stands
    assert [line["cycle_A"] for line in curves.read(tmp_path)] == [5.0, 4.0, 0.3]
