"""On a real GPU, with -m cuda: released losses, every method's step, graphs, mixed precision, resuming."""

import numpy as np
import pytest
import test_cuda_graphs
import torch
from conftest import HERE, Parity, images, options, weights
from replay import replay
from runs import SMALL
from test_methods import RECORDINGS
from torch.utils._pytree import tree_leaves

import main
import methods
import NICE

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """No TensorFloat-32, whose products have three digits."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def trainer(method: str, text: str = ""):
    argv = f"--method {method} {SMALL[method]} --num_workers 0 --device cuda {text}".split()
    return methods.create(main.parse_args(argv))


def batches(model, n: int = 3):
    count, size = model.args.batch_size, model.args.img_size
    return [[images(count, size, 2 * i + j) for j in range(2)] for i in range(n)]


@pytest.mark.parametrize("form", ["light", "full"])
def test_the_released_programs_losses(form):
    """To 1e-4, as it ran on a CPU."""
    parity = Parity(form)
    model = NICE.NICE(options("--device cuda", iteration=parity.steps, **parity.config))
    for name, net in model.networks().items():
        net.load_state_dict(parity.initial(name))
    for i, batch in enumerate(parity.batches):
        terms = model.train_step(*batch)
        for name in ("d_loss", "g_loss"):
            assert terms[name].item() == pytest.approx(parity.data[f"train/{name}"][i], rel=1e-4)
    for name, net in model.networks().items():
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value.cpu(), parity.final(name)[key], rtol=0, atol=1e-3, msg=f"{name}.{key}")


@pytest.mark.parametrize("recording", RECORDINGS)
def test_the_authors_losses(recording):
    method, bound, *_ = RECORDINGS[recording]
    drawn = "--graphs", "false"  # which would draw numbers of their own
    worst = replay(method, HERE / "fixtures" / f"{recording}.npz", "--device", "cuda", *drawn)
    assert max(worst["losses"].values()) < max(10 * bound, 1e-4)


@pytest.mark.parametrize("text", ["", "--amp bf16", "--amp fp16", "--on_nan skip"])
@pytest.mark.parametrize("method", SMALL)
def test_steps_are_finite(method, text):
    model = trainer(method, text)
    real = batches(model, 6)  # the first three one operation at a time, the others as graphs
    model.prepare(*real[0])
    found = [model.train_step(*pair) for pair in real]
    assert all(value.isfinite() for terms in found for value in terms.values())
    model.guard.check()


@pytest.mark.parametrize("case", test_cuda_graphs.CASES)
def test_cuda_graphs_are_steps(case):
    """The losses of steps that are replayed, and of steps that are done one operation at a time."""
    method, _, text = case.partition(" ")
    eager, replayed = trainer(method, f"{text} --graphs false"), trainer(method, f"{text} --graphs true")
    states = dict.fromkeys((eager, replayed), torch.cuda.get_rng_state())
    for i, real in enumerate(batches(eager, 12 if method == "drit" else 7)):
        found = []
        for model in (eager, replayed):
            torch.cuda.set_rng_state(states[model])
            if i == 0:
                model.prepare(*real)
            found.append(model.train_step(*real))
            states[model] = torch.cuda.get_rng_state()
        for name, value in found[0].items():
            assert found[1][name].item() == pytest.approx(value.item(), rel=0.02, abs=2e-3), f"step {i + 1}: {name}"
    assert replayed.graph.works and replayed.graph.graphs and not eager.graph


@pytest.mark.parametrize("text", ["", "--amp bf16", "--amp fp16"])
def test_the_first_step_is_a_cpus(text):
    first = []
    for device in ("cuda " + text, "cpu"):
        model = NICE.NICE(options(f"--device {device}"))
        first.append({k: v.item() for k, v in model.train_step(*batches(model, 1)[0]).items()})
    found, expected = first
    assert found == pytest.approx(expected, rel=0.05 if text else 1e-4, abs=0.02 if text else 1e-6)


@pytest.mark.parametrize("text", ["", "--amp fp16"])
@pytest.mark.parametrize("method", SMALL)
def test_resuming_goes_on(method, text, tmp_path):
    """As if there had been no interruption, but for the order in which a GPU adds."""
    places = f"--result_dir {tmp_path} --dataset toy {text}"
    one, two = trainer(method, places), trainer(method, places)
    real = batches(one, 6)
    one.prepare(*real[0])
    one.train_step(*real[0])
    one.save()
    saved = torch.load(tmp_path / "toy_params_latest.pt", weights_only=True)
    assert {x.device.type for x in tree_leaves(saved) if isinstance(x, torch.Tensor)} == {"cpu"}
    two.prepare(*real[0])
    two.load()
    for pair in real[1:]:
        found, expected = two.train_step(*pair), one.train_step(*pair)
    assert two.step == one.step == 6
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=0.02, abs=1e-3), name
    moved = [(a - b).abs().max().item() for a, b in zip(weights(two).values(), weights(one).values(), strict=True)]
    assert np.max(moved) < 10 * one.args.lr
