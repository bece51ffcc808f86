"""Table 1: intervals, what is beyond chance, and of checkpoints that held-out pictures have chosen."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import chance
import tables
from tables import Row

from scoring import comparison, metrics
from scoring.comparison import compare, compare_means
from training.held_out import in_words


def row(title, seeds=3, samples=(), **scores):
    return Row(title, seeds, 64, 10, scores, {}, {"A2B": dict(samples)} if samples else {})


def test_over_seeds():
    rows = [row("good", fd_A2B=[100.0, 101, 99], recall_A2B=[0.5, 0.52, 0.51]),
            row("as good", fd_A2B=[101.0, 99, 104], recall_A2B=[0.2, 0.21, 0.19]),
            row("bad", fd_A2B=[150.0, 152, 149]), row("once", 1, fd_A2B=[120.0]), row("copy", None, fd_A2B=[90.0])]
    facts = tables.facts(rows)
    assert [title for (title, name), fact in facts.items() if fact.best] == ["good", "good"]
    assert {title: fact.marks for (title, name), fact in facts.items() if name == "fd_A2B"} == {
        "good": "", "as good": "", "bad": "ˢ", "once": "", "copy": "ˢ"}  # a baseline is never the best
    assert facts["as good", "recall_A2B"].marks == "ˢ"  # where higher is better
    assert facts["bad", "fd_A2B"].p.keys() == {"seeds"} and not facts["once", "fd_A2B"].p
    same = [row(title, l1_A2B=[0.5, 0.5]) for title in ("a", "b")]
    assert chance.over_seeds(*same, "l1_A2B") == 1
    assert not any(fact.best or fact.p for fact in tables.facts(same).values())  # all alike: none is the best


@pytest.fixture(autouse=True)
def few_exchanges(monkeypatch):
    monkeypatch.setattr(comparison, "PERMUTATIONS", {"fid": 99, "kid": 999})


@pytest.fixture(scope="module")
def seeded():
    """Real features and three rows of two seeds, on the same 100 inputs: one as good as the first, one worse."""
    rng = np.random.default_rng(0)
    real, inputs = rng.standard_normal((2, 100, 16))
    rows = []
    for title, shift in (("best", 0.8), ("as good", 0.8), ("worse", 1.0)):
        samples, scores = {}, {"fd_A2B": [], "kd_A2B": [], "l1_A2B": []}
        for seed in (0, 1):
            fake = inputs + 0.3 * rng.standard_normal((100, 16)) + shift
            l1 = shift + 0.1 * rng.standard_normal(100)
            samples[seed] = {"real": real, "fake": fake, "l1": l1}
            scores["fd_A2B"].append(metrics.frechet_distance(fake, real))
            scores["kd_A2B"].append(100 * metrics.kid(real, fake)["kid"])
            scores["l1_A2B"].append(l1.mean())
        rows.append(row(title, 2, samples, **scores))
    return rows


def test_over_pictures(seeded):
    facts = tables.facts(seeded)
    for name in ("fd_A2B", "kd_A2B", "l1_A2B"):
        first = next(title for (title, score), fact in facts.items() if score == name and fact.best)
        other = "as good" if first == "best" else "best"
        assert facts["worse", name].p["pictures"] < 0.02 < 0.05 < facts[other, name].p["pictures"], name
        for r in seeded:
            low, high = facts[r.title, name].interval
            assert low < np.mean(r.scores[name]) < high
    text = tables.score_markdown(seeded, facts)
    low, high = facts["worse", "fd_A2B"].interval
    assert f" ({low:.1f} to {high:.1f}) ᵖ" in text and text.count("**") == 6
    few = [row("a", 1, {0: {"l1": np.ones(19), "real": np.ones((19, 2)), "fake": np.ones((19, 2))}}, l1_A2B=[1.0])]
    assert tables.facts(few)["a", "l1_A2B"].interval is None


def test_only_the_same_seeds_and_inputs_are_compared(seeded):
    best, _, worse = seeded
    once = row("once", None, {None: worse.samples["A2B"][0]}, fd_A2B=worse.scores["fd_A2B"][:1])
    assert chance.over_pictures(once, best, "fd_A2B") < 0.02  # against both seeds
    third = row("third", 1, {2: worse.samples["A2B"][0]}, fd_A2B=[1.0])
    assert chance.over_pictures(third, best, "fd_A2B") is None
    fewer = {0: worse.samples["A2B"][0] | {"fake": np.ones((99, 16))}}
    assert chance.over_pictures(row("fewer", 1, fewer, fd_A2B=[1.0]), best, "fd_A2B") is None
    assert chance.over_pictures(worse, best, "recall_A2B") is None


def test_several_seeds_are_compared_by_their_means(seeded):
    best, _, worse = ([s["fake"] for s in r.samples["A2B"].values()] for r in seeded)
    real = seeded[0].samples["A2B"][0]["real"]
    one, both = compare(real, worse[0], best[0]), compare(real, worse, best, scores=("kid",))
    assert both.keys() == {"kid"} and one.keys() == {"fid", "kid"}
    each = [compare(real, w, b, scores=("kid",))["kid"] for w, b in zip(worse, best, strict=True)]
    assert both["kid"]["difference"] == pytest.approx(np.mean([e["difference"] for e in each]))
    low, high = both["kid"]["interval"]
    assert high - low < np.mean([e["interval"][1] - e["interval"][0] for e in each])
    again = compare(real, [worse[0]] * 2, [best[0]] * 2)  # a seed twice over
    assert all(again[name][key] == pytest.approx(one[name][key]) for name in one for key in one[name])


def test_means_are_compared_by_exchanging_signs():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(8)
    signs = 2 * np.array(np.meshgrid(*[[0, 1]] * 8)).reshape(8, -1).T - 1  # all 256 exchanges
    d = a - 0.5
    exact = (np.abs(signs @ d) >= abs(d.sum()) - 1e-9).mean()
    assert compare_means(a, np.full(8, 0.5)) == pytest.approx(exact, abs=0.02)


def test_best_held_out_is_a_row_and_best_on_the_test_pictures_is_none(tmp_path):
    contestant = SimpleNamespace(row="nice", title="NICE-GAN", options="", args=SimpleNamespace(img_size=64))
    runs = []
    for seed, kind in enumerate(("held", "test")):
        chosen = in_words(kind, SimpleNamespace(hold_out=0.1))
        results = tmp_path / str(seed)
        results.mkdir()
        best = {"step": 5, "chosen": chosen, "scores": {"fd_A2B": 90.0, "kd_A2B": 0.25, "md_A2B": 3.0}}
        (results / "test_scores.json").write_text(json.dumps({"last": {}, "best": best}))
        scores = {"fd_A2B": 100.0, "kd_A2B": 30.0}
        runs.append(SimpleNamespace(contestant=contestant, backwards=False, steps=10, results=results, ways=["A2B"],
                                    seed=seed, folder=results, last_scores=lambda scores=scores: scores))
    last, best = tables.rows_of(runs)
    assert (last.title, last.seeds, last.scores["fd_A2B"]) == ("NICE-GAN", 2, [100.0, 100.0])
    assert (best.title, best.seeds) == ("NICE-GAN, best, held out", 1)
    assert (last.numbers, best.numbers) == ([0, 1], [0])
    assert best.scores == {"fd_A2B": [90.0], "kd_A2B": [25.0]} and not best.pictures


@pytest.mark.slow
def test_the_script_finds_the_program(tmp_path):
    """As a person calls it: from elsewhere, and without the paths that tests have."""
    script = Path(__file__).parents[1] / "benchmarks" / "table1.py"
    done = subprocess.run([sys.executable, script, "--steps=1", "--dataset=absent"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and "has no trainA" in done.stderr
