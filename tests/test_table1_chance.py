"""Table 1: what it says of chance, and of checkpoints that held-out pictures have chosen."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import table1
import tables
from tables import Row

from training.held_out import in_words


def row(title, **scores):
    return Row(title, 3, 64, 10, scores, {})


def test_differences_over_seeds():
    rows = [row("good", fd_A2B=[100.0, 101, 99], recall_A2B=[0.5, 0.52, 0.51]),
            row("as good", fd_A2B=[101.0, 99, 104], recall_A2B=[0.2, 0.21, 0.19]),
            row("bad", fd_A2B=[150.0, 152, 149]), row("once", fd_A2B=[1.0])]
    text = tables.differences(rows)
    assert text.splitlines() == [
        "- FD, A2B: best good; worse beyond chance: bad; not beyond chance: as good",
        "- recall, A2B: best good; worse beyond chance: as good; not beyond chance: none"]
    assert text in table1.chance(rows) and "--against" in table1.chance(rows)
    assert table1.chance(rows[3:]) == ""


def test_best_held_out_is_a_row_and_best_on_the_test_pictures_is_none(tmp_path):
    contestant = SimpleNamespace(row="nice", title="NICE-GAN", args=SimpleNamespace(img_size=64))
    runs = []
    for seed, kind in enumerate(("held", "test")):
        chosen = in_words(kind, SimpleNamespace(hold_out=0.1))
        results = tmp_path / str(seed)
        results.mkdir()
        best = {"step": 5, "chosen": chosen, "scores": {"fd_A2B": 90.0, "kd_A2B": 0.25, "md_A2B": 3.0}}
        (results / "test_scores.json").write_text(json.dumps({"last": {}, "best": best}))
        scores = {"fd_A2B": 100.0, "kd_A2B": 30.0}
        runs.append(SimpleNamespace(contestant=contestant, backwards=False, steps=10, results=results, ways=["A2B"],
                                    last_scores=lambda scores=scores: scores))
    last, best = tables.rows_of(runs)
    assert (last.title, last.seeds, last.scores["fd_A2B"]) == ("NICE-GAN", 2, [100.0, 100.0])
    assert (best.title, best.seeds) == ("NICE-GAN, best, held out", 1)
    assert best.scores == {"fd_A2B": [90.0], "kd_A2B": [25.0]} and not best.pictures
