"""Mixed precision on a CPU: every method's first step in bf16, and overflows of an fp16 scaler."""

import pytest
import torch
from conftest import options, weights
from runs import SMALL
from test_methods import batch, settings

import methods
import NICE


@pytest.mark.parametrize("method", SMALL)
def test_a_step_in_bf16_is_near_one_in_float32(method):
    found = {}
    for amp in ("none", "bf16"):
        model = methods.create(settings(method, f"--amp {amp}"))
        images = batch(model, 0)
        model.prepare(*images)
        found[amp] = model.train_step(*images)
        assert all(value.dtype == torch.float32 for value in weights(model).values() if value.is_floating_point())
    assert found["none"].keys() == found["bf16"].keys()
    for name, value in found["none"].items():
        assert found["bf16"][name].isfinite()
        off = (found["bf16"][name] - value).abs().item()
        assert off < 0.05 * abs(value.item()) + 0.02, f"{name}: {found['bf16'][name].item()}, not {value.item()}"


def test_no_gradient_is_lost_after_a_pass_without():
    """Autocast must not reuse the copy of a weight that was rounded under no_grad."""
    model = NICE.NICE(options("--amp bf16"))
    layer, x = model.disA.conv1x1, torch.ones(1, 8, 4, 4)
    with model._autocast():
        with torch.no_grad():
            layer(x)
        layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None


def test_updates_that_a_scaler_drops_are_counted():
    model = NICE.NICE(options())
    images = batch(model, 0)
    model.scalers["D"] = torch.amp.GradScaler("cpu", init_scale=2.0)
    model.train_step(*images)
    before = weights(model)["disA/model.1.weight_orig"]
    model.scalers["D"] = torch.amp.GradScaler("cpu", init_scale=1e38)
    model.train_step(*images)
    assert torch.equal(before, weights(model)["disA/model.1.weight_orig"])
    assert model.guard.state() == {"dropped": 1, "in_row": 0}
    model.guard.check()
    model.scalers["D"] = torch.amp.GradScaler("cpu", init_scale=2.0)
    model.train_step(*images)
    assert not torch.equal(before, weights(model)["disA/model.1.weight_orig"])
    assert model.guard.state() == {"dropped": 1, "in_row": 0}
