"""--ema: the average equals its closed form, is saved, resumed bit for bit, and translates."""

import shutil

import pytest
import torch
from conftest import differing, images, options, weights
from runs import latest, pictures, trained
from test_methods import SMALL, settings

import methods
import NICE
from checkpoints.files import load_checkpoint, save_checkpoint, verify
from training.cost import training_memory
from training.ema import EMA


def flat(state: dict) -> dict:
    return {f"{name}/{key}": x.clone() for name, net in state.items() for key, x in net.items()}


def test_the_average_is_its_closed_form():
    """d^n w_0 + (1 - d) sum over k of d^(n-k) w_k; the vectors of a spectral norm are copied."""
    nice, d = NICE.NICE(options("--ema 0.75 --lr 1e-2")), 0.75
    seen = [weights(nice)]
    for seed in range(4):
        nice.train_step(images(seed=seed), images(seed=seed + 10))
        nice.ema.update()
        seen.append(weights(nice))
    n, found = 4, flat(nice.ema.state())
    assert found.keys() == seen[0].keys()  # both directions use all four networks
    moved = 0
    for key, value in found.items():
        expected = d**n * seen[0][key] + (1 - d) * sum(d ** (n - k) * seen[k][key] for k in range(1, n + 1))
        if key.endswith(("weight_u", "weight_v")):
            expected = seen[-1][key]
        assert torch.allclose(value, expected, rtol=1e-5, atol=1e-7), key
        moved += not torch.allclose(value, seen[-1][key], rtol=1e-4)
    assert moved > 20


@pytest.mark.parametrize("method", SMALL)
def test_every_method_swaps_its_average_in_and_out(method):
    trainer = methods.create(settings(method, "--ema 0.5"))
    own = weights(trainer)
    inference_networks = {name for names in trainer.inference_networks.values() for name in names}
    with torch.no_grad():
        for name in inference_networks:
            for p in trainer.networks()[name].parameters():
                p.add_(1)
    trainer.ema.update()
    raw = weights(trainer)
    with trainer.ema.in_place():
        inside = weights(trainer)
    assert not differing(weights(trainer), raw) and not differing(flat(trainer.ema.state()), {
        key: value for key, value in inside.items() if key.split("/")[0] in inference_networks})  # fmt: skip
    parameters = {f"{name}/{key}" for name, net in trainer.networks().items() for key, _ in net.named_parameters()}
    for key in raw:
        halfway = key in parameters and not torch.equal(raw[key], own[key])
        assert torch.allclose(inside[key], (own[key] + raw[key]) / 2 if halfway else raw[key], atol=1e-6), key


def test_shared_tensors_are_averaged_once():
    layer = torch.nn.Linear(2, 2)
    nets = {"a": torch.nn.Sequential(layer), "b": torch.nn.Sequential(layer)}
    both, start = EMA(nets, 0.5), layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    both.update()
    with both.in_place():
        assert torch.allclose(layer.weight, start + 0.5)
    assert torch.allclose(layer.weight, start + 1)
    found = both.state()
    assert found.keys() == nets.keys() and torch.equal(found["a"]["0.weight"], found["b"]["0.weight"])


def test_it_is_resumed_bit_for_bit_and_from_checkpoints_without_one(tmp_path):
    folder, often = pictures(tmp_path), "--print_freq 2 --ema 0.9 --decay_flag false"

    def found():
        state = load_checkpoint(latest(folder), methods.recognise)
        verify(state, latest(folder))
        return state

    trained(folder, f"{often} --iteration 6")
    whole = found()
    shutil.rmtree(folder / "results")
    for end in (3, 6):
        trained(folder, f"{often} --iteration {end} --resume auto")
    assert found()["digest"] == whole["digest"] and "ema" in whole["digest"]

    shutil.rmtree(folder / "results")
    trained(folder, "--iteration 2 --print_freq 2 --decay_flag false")
    assert "ema" not in found()
    trained(folder, "--iteration 3 --resume True --ema 0.9 --decay_flag false")  # it starts as those weights
    state = found()
    assert state["args"]["ema"] == 0.9
    assert differing(flat(state["ema"]), flat({name: state[name] for name in state["ema"]}))
    trained(folder, "--iteration 4 --resume True")  # --ema comes from the checkpoint
    assert "ema" in found()
    trained(folder, "--iteration 5 --resume True --ema 0")
    assert "ema" not in found()


def test_a_damaged_average_is_found(tmp_path):
    folder = pictures(tmp_path)
    trained(folder, "--iteration 1 --ema 0.9")
    state = load_checkpoint(latest(folder), methods.recognise)
    state = {k: v for k, v in state.items() if k not in ("digest", "method")}
    for spoilt in ({}, {**state["ema"], "gen2B": {}}, {**state["ema"], "gen2B": {**state["ema"]["gen2B"],
                   "UpBlock2.17.weight": torch.zeros(1)}}):  # fmt: skip
        save_checkpoint({**state, "ema": spoilt}, latest(folder))
        for options_ in ("--phase test", "--resume True --iteration 2"):
            run = trained(folder, options_, status=2)
            line = run.output.splitlines()[-1]
            assert line.startswith("main.py: error: ") and latest(folder).name in line and "Traceback" not in run.output
        trained(folder, "--phase test --raw_weights true")


def test_the_memory_estimate_includes_it():
    plain, averaged = (training_memory(NICE.NICE, options(text)) for text in ("", "--ema 0.9"))
    networks = NICE.NICE(options()).networks().values()
    inference_networks = sum(x.numel() * 4 for net in networks for x in net.state_dict().values())
    assert averaged["weights"] - plain["weights"] == pytest.approx(inference_networks, rel=0.01)
