"""Steps as CUDA graphs: replayed on a CPU (recorder.py) and on a fake GPU (fake_cuda.py); refusals."""

import pytest
import torch
from conftest import differing, options, weights
from fake_cuda import fake_cuda, watched
from recorder import Recorded
from runs import SMALL
from test_command_line import TORCHRUN
from test_methods import batch, settings

import main
import methods
import NICE
from methods.cut import CUT
from training import cuda_graphs
from training.cuda_graphs import Graph, refusal

OF_NICE = ["--grad_accum 2", "--checkpoint_blocks true", "--on_nan skip", "--amp bf16", "--plain true", "--light false"]
CASES = [f"{method} --d_iter 2" if method == "drit" else method for method in SMALL] + [f"nice {o}" for o in OF_NICE]
LATE = ("drit --d_iter 2", "sincyclegan", "nice --on_nan skip", "nice --light false", "nice --plain true")  # slow


def pair(case: str, steps: int):
    """Two equal trainers: an eager one, and one whose steps are recorded."""
    method, _, text = case.partition(" ")
    found = []
    for _ in range(2):
        model = methods.create(settings(method, f"{text} --iteration {steps}"))
        model.prepare(*batch(model, 0))
        found.append(model)
    eager, recorded = found
    recorded.graph = Recorded(recorded)
    return eager, recorded


def side_by_side(eager, recorded, steps, pictures=batch):
    """The terms of each step of both trainers, with the same random numbers."""
    eager.may_sync = False
    states = dict.fromkeys((eager, recorded), torch.get_rng_state())
    for i in steps:
        terms = []
        for model in states:
            torch.set_rng_state(states[model])
            terms.append(model.train_step(*pictures(model, i)))
            states[model] = torch.get_rng_state()
        yield terms


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if c in LATE else ()) for c in CASES])
def test_a_replayed_step_is_a_step(case, monkeypatch):
    """Bit for bit, while the learning rate falls, batches change and random numbers are drawn."""
    monkeypatch.setattr(cuda_graphs, "WARM", 1)
    steps = 8 if case.split()[0] in ("drit", "fastcut", "cyclegan", "gcgan", "distancegan") else 4  # some of each kind
    eager, recorded = pair(case, steps)
    for i, (expected, found) in enumerate(side_by_side(eager, recorded, range(steps))):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert torch.equal(found[name], value.float()), f"step {i + 1}: {name}"
    assert recorded.graph.works and recorded.graph.graphs
    assert not differing(weights(eager), weights(recorded))
    assert eager.state()["guard"] == recorded.state()["guard"]
    for name in eager.optimizers:
        assert str(eager.optimizers[name].state_dict()) == str(recorded.optimizers[name].state_dict())


def test_a_decision_within_a_step_is_detected(monkeypatch):
    """A host decision within a step, not before it, makes replays differ."""
    forward = CUT.forward

    def deciding(self, batch, s, t):
        self.decision = self.host_decision()
        forward(self, batch, s, t)

    monkeypatch.setattr(CUT, "forward", deciding)
    eager, recorded = pair("fastcut", 12)
    list(side_by_side(eager, recorded, range(12)))
    assert not recorded.graph.works or differing(weights(eager), weights(recorded))


def test_a_bad_step_is_dropped_in_a_replay():
    eager, recorded = pair("nice --on_nan skip", 20)

    def pictures(model, i):
        found = batch(model, i)
        if i == 4:
            found[0][0, 0, 0, 0] = float("nan")
        return found

    list(side_by_side(eager, recorded, range(6), pictures))
    assert recorded.graph.graphs and recorded.guard.state() == eager.guard.state() == {"dropped": 1, "in_row": 0}
    assert recorded.guard.first == eager.guard.first == 5
    assert not differing(weights(eager), weights(recorded))


def test_a_gpu_that_cannot_record_continues_without_graphs(capsys):
    eager, recorded = pair("nice", 6)
    recorded.graph.record = failing(recorded)
    list(side_by_side(eager, recorded, range(6)))
    assert not recorded.graph.works and not differing(weights(eager), weights(recorded))
    assert capsys.readouterr().err.count("without CUDA graphs") == 1


def failing(model):
    """A recording that fails at the second update of a step."""

    def record(step):
        kept = [x.clone() for x in model.graph.state()]
        update, calls = model._update, []

        def refused(*args):
            calls.append(args)
            if len(calls) == 2:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            return update(*args)

        model._update = refused
        try:
            step()
        finally:
            del model._update
            with torch.no_grad():
                for x, before in zip(model.graph.state(), kept, strict=True):
                    x.copy_(before)

    return record


def test_loading_discards_the_graphs(tmp_path):
    eager, recorded = pair(f"nice --result_dir {tmp_path} --dataset toy", 12)
    for i in range(5):
        recorded.train_step(*batch(recorded, i))
    recorded.save()
    eager.load()
    recorded.load()
    assert recorded.graph is None  # as for any new trainer on a CPU
    recorded.graph = Recorded(recorded)
    list(side_by_side(eager, recorded, range(5, 10)))
    assert recorded.graph.graphs and not differing(weights(eager), weights(recorded))


def test_on_a_gpu_a_step_is_recorded_and_replayed(monkeypatch):
    """Around a replay nothing waits for the GPU and nothing mixes devices."""

    def record(graph, step):
        step()
        return lambda: None

    monkeypatch.setattr(cuda_graphs, "WARM", 0)
    monkeypatch.setattr(Graph, "prepare", lambda graph: None)
    monkeypatch.setattr(Graph, "record", record)
    with fake_cuda():
        model = NICE.NICE(options("--device cuda"))
        images = [torch.rand(1, 3, 48, 48) for _ in "AB"]
        with watched() as recorded:
            model.train_step(*images)
        with watched() as replayed:
            model.train_step(*images)
    assert model.graph.works and not recorded.problems() and not replayed.problems()
    assert len(recorded.started) > 500 and len(replayed.started) < 10  # two batches, learning rates, step number, terms


@pytest.mark.parametrize("text, words", [
    ("--graphs true", "needs a CUDA GPU, not cpu"),
    ("--graphs true --phase train --amp bf16", "needs a CUDA GPU"),
])  # fmt: skip
def test_graphs_without_a_gpu_are_refused(text, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        options(text)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("text, words", [
    ("--amp fp16", "--amp fp16"),
    ("", None),
    ("--method fastcut", None),
])  # fmt: skip
def test_refusal_of_a_gpu(text, words):
    args = main.parse_args(["--device", "cpu", *text.replace("--amp fp16", "").split()])
    args.device, args.amp = "cuda", "fp16" if "fp16" in text else "none"
    reason = refusal(args)
    assert (words in reason) if words else reason is None


def test_several_processes_are_refused(monkeypatch):
    args = main.parse_args(["--device", "cpu"])
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    args.device = "cuda"
    assert "several processes" in refusal(args)
