"""Pictures of one colour, ramps and single pixels translate alike by definitions, fast twins and in tiles."""

import pytest
import torch
from runs import SMALL

import main
import methods
from layers import adaptive_instance_norm, definitions, instance_layer_norm, instance_norm
from translation.pipeline import to_tensor
from translation.tiling.plan import tiled

S = 48


def pictures(S=S):
    constant = torch.full((1, 3, S, S), 0.3)
    pixel = constant.clone()
    pixel[0, :, S // 2, S // 3] = 0.9
    return {"constant": constant, "ramp": constant + torch.linspace(-0.02, 0.02, S), "pixel": pixel}


QUICK = ("cyclegan", "cut", "gcgan", "nice")  # the others' layers are among theirs, but for munit's and unit's


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m not in QUICK)) for m in SMALL])
def test_a_constant_a_ramp_and_a_pixel_translate_alike_in_every_way(method):
    small = SMALL[method].replace("--img_size 32", f"--img_size {S}").replace("--ch 2", "--ch 8")
    model = methods.create(main.parse_args(f"--method {method} {small} --device cpu --tile 12".split()))
    for net in model.networks().values():
        net.eval()
    s, t = model.directions[0]
    side = S if method in QUICK else model.args.img_size

    @torch.no_grad()
    def translated(x):
        torch.manual_seed(0)  # of random styles and noise
        return model.translate(x, s, t)

    for name, x in pictures(side).items():
        if method == "drit" and name != "constant":
            continue  # rounding moves the definition itself by 0.02 there, compared with float64
        with definitions():
            expected = translated(x)
        fast = translated(x.to(memory_format=torch.channels_last))
        bands = to_tensor(translated(tiled(model, x, s, t)), side, side)
        if name == "constant" and method in ("cyclegan", "cut"):
            assert torch.equal(fast, expected) and (expected - expected.mean()).abs().max() < 1e-6
        assert max((y - expected).abs().max() for y in (fast, bands)) < 3e-4, name


@pytest.mark.parametrize("value", [0.3, -1.7, 1e-3, 100.0])
@pytest.mark.parametrize("side", [7, 32])
def test_constant_channels_are_normalised_to_exactly_their_shift(value, side):
    x = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    x[:, 1] = value
    x[0, 2] = -value
    shift = torch.tensor([0.5, -2.0, 3.0, 0.1]).view(1, 4, 1, 1)
    y, z = instance_norm(x), adaptive_instance_norm(x, shift + 1, shift)
    assert (y[:, 1] == 0).all() and (y[0, 2] == 0).all() and y[1, 2].std() > 0.9
    assert z[:, 1].std() == 0 and (z[:, 1] + 2).abs().max() < 1e-4 * max(1, abs(value))
    mix, beta = torch.tensor([0.9, 0.1]).repeat(1, 4, 1), shift.view(1, 4)
    with definitions():
        expected = instance_layer_norm(x, mix, beta + 1, beta)
    found = instance_layer_norm(x, mix, beta + 1, beta)
    assert found[:, 1].flatten(1).std(1).max() == 0 and (found - expected).abs().max() < 1e-4 * max(1, abs(value))


def test_the_gradient_at_a_constant_is_the_definition_s():
    x = torch.full((1, 2, 8, 8), 0.3, dtype=torch.float64)
    x[0, 1] = torch.randn(8, 8, dtype=torch.float64)
    g, grads = torch.randn(1, 2, 8, 8, dtype=torch.float64), []
    for plain in (True, False):
        leaf = x.clone().requires_grad_()
        with definitions() if plain else torch.enable_grad():
            instance_norm(leaf).backward(g)
        grads.append(leaf.grad)
    assert torch.allclose(*grads, rtol=1e-9, atol=1e-9)
