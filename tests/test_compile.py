"""--compile true: each update of a step is one graph, compiled in the first step, with the same numbers."""

from functools import partial

import pytest
import torch
from conftest import differing, double_precision, images, weights
from runs import SMALL

import main
import methods
from methods.gcgan import GcGAN

REFUSED = {"drit": "weights that changed", "sincut": "differentiated twice", "sincyclegan": "differentiated twice"}
FAST = ("nice", "cyclegan", "gcgan", "fastcut")  # in every run; the others take longer
every_method = pytest.mark.parametrize("method", [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in SMALL if name not in REFUSED
])  # fmt: skip


def trainer(method: str, text: str = ""):
    argv = f"--method {method} {SMALL[method]} --num_workers 0 --device cpu --iteration 100 {text}".split()
    return methods.create(main.parse_args(argv))


@double_precision()
def compare(method: str, steps: int, blocks: int = 1):
    """Steps with and without the compiler give the same numbers, power iterations and guard included.

    The first step compiles each update once for each direction; no later step compiles.
    """
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    eager, compiled = (trainer(method, f"--n_res {blocks} --compile {way}") for way in ("false", "true"))
    assert not differing(weights(eager), weights(compiled))
    for i in range(steps):
        pictures = [images(eager.args.batch_size, eager.args.img_size, 2 * i + j).double() for j in range(2)]
        generator = torch.get_rng_state()
        expected = eager.train_step(*pictures)
        torch.set_rng_state(generator)
        found = compiled.train_step(*pictures)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=f"step {i + 1}: {name}")
    a, b = weights(eager), weights(compiled)
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-6, atol=1e-6, msg=key)
    assert compiled.guard.state() == eager.guard.state() == {"dropped": 0, "in_row": 0}
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == len(compiled.trained_directions) * len(compiled.updates()), f"{graphs} graphs were made"


@pytest.fixture
def graphs_alone(monkeypatch):
    """Skip code generation, which takes the time: graphs are traced and run as they are; a break in one is an error."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))


@every_method
def test_an_update_is_one_graph_that_is_compiled_once(method, graphs_alone):
    compare(method, steps=4)


def test_a_planted_break_is_found(graphs_alone, monkeypatch):
    objective = GcGAN.discriminator_objective

    def broken(self, batch, s, t):
        torch._dynamo.graph_break()
        return objective(self, batch, s, t)

    monkeypatch.setattr(GcGAN, "discriminator_objective", broken)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compare("gcgan", steps=1)


def test_a_planted_compilation_is_found(graphs_alone, monkeypatch):
    objective = GcGAN.discriminator_objective

    def changing(self, batch, s, t):
        return objective(self, batch, s, t) if self.step < 3 else objective(self, batch, s, t)

    monkeypatch.setattr(GcGAN, "discriminator_objective", changing)
    with pytest.raises(AssertionError, match="graphs were made"):
        compare("gcgan", steps=3)


@pytest.mark.parametrize("method", REFUSED)
def test_what_cannot_be_compiled_says_so(method, capsys):
    with pytest.raises(SystemExit):
        trainer(method, "--compile true")
    assert REFUSED[method] in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_steps_are_eager_ones():
    """Takes five minutes on two busy cores, mostly in the C++ compiler."""
    compare("nice", steps=4, blocks=2)  # repeated blocks, as in real trainings
