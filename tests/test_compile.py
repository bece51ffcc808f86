"""--compile true: each half of a step is one graph, compiled in the first step, and computes what it did."""

import pytest
import torch
from conftest import differing, images, options, weights

import NICE
from utils import frozen


def trainer(text: str = ""):
    torch.compiler.reset()
    model = NICE.NICE(options(f"{text} --iteration 100"))
    batches = [(images(1, 48, 2 * i), images(1, 48, 2 * i + 1)) for i in range(4)]
    return model, batches


@pytest.mark.parametrize("number", [0, 1])
def test_a_half_is_one_graph(number):
    model, ((real_A, real_B), *_) = trainer()
    half = model.halves()[number]
    with frozen(model.frozen_in[half.name]):
        model.before(half.name)
        found = torch._dynamo.explain(half.objective)({"A": real_A, "B": real_B}, "A", "B")
    assert found.graph_count == 1 and not found.break_reasons, found.break_reasons


def test_a_planted_break_is_found():
    model, ((real_A, real_B), *_) = trainer()
    half = model.halves()[0]

    def broken(batch, s, t):
        loss, terms = half.objective(batch, s, t)
        return (loss if loss.item() else -loss), terms

    model.before(half.name)
    assert torch._dynamo.explain(broken)({"A": real_A, "B": real_B}, "A", "B").break_reasons


@pytest.mark.slow
def test_compiled_steps_are_eager_ones_and_compile_nothing_after_the_second(monkeypatch):
    """Losses to rounding; weights to what Adam's first steps, of a rate each, make of it."""
    eager, batches = trainer()
    compiled, _ = trainer("--compile true")
    assert not differing(weights(eager), weights(compiled))
    for i, pair in enumerate(batches):
        if i == 2:
            monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
        expected, found = eager.train_step(*pair), compiled.train_step(*pair)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=f"step {i + 1}: {name}")
    pairs = zip(weights(eager).values(), weights(compiled).values(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 2 * eager.args.lr * len(batches)
