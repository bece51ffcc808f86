"""layers/fast: each function equals the definition of the same name in layers/, in values and gradients."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import images, options, weights

import layers
import NICE
from layers import Conv2d, SNConv2d, SNLinear, fast, instance_layer_norm, instance_norm, use_definitions
from layers.fast import convolution, memory, spectral_norm
from layers.fast import convolution as fast_convolution
from layers.fast.convolution import (
    affine,
    conv2d,
    conv2d_without_gradient,
    conv_transpose2d,
    one_channel_conv,
    row_conv,
)
from layers.fast.normalisation import (
    _BatchNorm,
    _InstanceLayerNorm,
    _InstanceNorm,
    _TritonInstanceLayerNorm,
    std_layer_norm,
)
from layers.fast.spectral_norm import iterate_foreach

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def agree(y, expected, *inputs):
    """y equals expected, and their gradients by the inputs are equal."""
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    g = torch.randn_like(expected)
    for found, right in zip(*(torch.autograd.grad(z, inputs, g) for z in (y, expected)), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-12)


def double(*shape, layout=torch.contiguous_format):
    x = torch.randn(shape, dtype=torch.float64)
    return (x.contiguous(memory_format=layout) if x.dim() == 4 else x).requires_grad_()


@LAYOUTS
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("out, k, stride, bias", [(3, 7, 1, True), (3, 7, 1, False), (9, 4, 2, True), (1, 4, 1, True)])
def test_convolutions(layout, out, k, stride, bias, padding):
    torch.manual_seed(0)
    x, weight = double(2, 5, 15, 12, layout=layout), double(out, 5, k, k, layout=layout)
    b = double(out) if bias else None
    leaves = [t for t in (x, weight, b) if t is not None]
    agree(conv2d(x, weight, b, stride, padding), F.conv2d(x, weight, b, stride, padding), *leaves)


@LAYOUTS
def test_convolution_by_rows_of_the_kernel(layout):
    torch.manual_seed(0)
    x, weight = double(2, 5, 15, 12, layout=layout), double(3, 5, 7, 7)
    agree(row_conv(x, weight), F.conv2d(x, weight), x, weight)


def test_convolution_to_one_channel():
    torch.manual_seed(0)
    x, weight = double(3, 5, 9, 7), double(1, 5, 4, 4)
    agree(one_channel_conv(x, weight), F.conv2d(x, weight), x, weight)


@LAYOUTS
@pytest.mark.parametrize(
    "n, c, out, h, w",
    [(1, 3, 5, 6, 5), (2, 4, 4, 34, 20), (2, 3, 5, 10, 3), (3, 1, 2, 18, 34)]  # heights of whole tiles,
    + [(1, 2, 3, 7, 5), (2, 3, 2, 8, 6), (1, 2, 2, 21, 4)],  # and others
)
def test_convolution_by_minimal_filters(minimal_filters, monkeypatch, layout, n, c, out, h, w):
    torch.manual_seed(0)
    x, weight = double(n, c, h, w, layout=layout), double(out, c, 3, 3, layout=layout)
    agree(conv2d(x, weight), F.conv2d(x, weight), x, weight)
    agree(conv2d(x, weight, padding=1), F.conv2d(x, weight, padding=1), x, weight)
    monkeypatch.delattr(fast_convolution, "_MinimalConv")
    with pytest.raises(NameError):  # it took this path
        conv2d(x, weight)


def test_minimal_filters_keep_float32s_precision():
    """At the width and layout of the paper's residual blocks, against double precision."""
    torch.manual_seed(0)
    layer = Conv2d(256, 256, 3, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(1, 256, 34, 34).contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs, twice = (x, layer.weight), (x.double(), layer.weight.double())
    exact = F.conv2d(*twice)
    g = torch.randn_like(exact)
    exact = (exact, *torch.autograd.grad(exact, twice, g))
    y = layer(x)
    found = (y, *torch.autograd.grad(y, inputs, g.float()))
    assert not torch.equal(y, F.conv2d(*inputs))  # it took the other path
    assert max((a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)) < 3e-6


@LAYOUTS
@pytest.mark.parametrize("n, h, w", [(1, 12, 16), (2, 21, 18), (1, 3, 70)])
def test_minimal_filters_along_both_sides(minimal_filters, monkeypatch, layout, n, h, w):
    """In strips of several tiles, one tile and parts of one; without a gradient only."""
    torch.manual_seed(0)
    monkeypatch.setattr(fast_convolution, "LEAST_CHANNELS", 0)
    monkeypatch.setattr(fast_convolution, "TILES", 8)
    x, weight = torch.randn(n, 24, h, w).contiguous(memory_format=layout), torch.randn(40, 24, 3, 3)
    bias = torch.randn(40)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    with torch.no_grad():
        y = conv2d_without_gradient(x, weight, bias, 1, 1)
        without_bias = conv2d_without_gradient(x, weight, None, 1, 1)
    assert (y - exact).norm() / exact.norm() < 3e-6
    torch.testing.assert_close(y, without_bias + bias.view(-1, 1, 1), rtol=1e-4, atol=1e-4)
    plain = F.conv2d(x, weight, bias, padding=1)
    assert not torch.equal(y, plain) and torch.equal(conv2d_without_gradient(x, weight, bias, 1, 1), plain)


@LAYOUTS
@pytest.mark.parametrize("k, stride, padding, more", [(3, 2, 1, 1), (3, 2, 1, 0), (4, 2, 1, 0), (3, 2, 0, 0)])
@pytest.mark.parametrize("h, w", [(8, 12), (7, 4), (9, 5)])
def test_strided_convolutions(minimal_filters, monkeypatch, layout, k, stride, padding, more, h, w):
    torch.manual_seed(0)
    x, weight, b = double(2, 3, h, w, layout=layout), double(5, 3, k, k, layout=layout), double(5)
    agree(conv2d(x, weight, b, stride, padding), F.conv2d(x, weight, b, stride, padding), x, weight, b)
    x, weight, b = double(2, 5, h, w, layout=layout), double(5, 3, k, k, layout=layout), double(3)
    how = stride, padding, more
    agree(conv_transpose2d(x, weight, b, *how), F.conv_transpose2d(x, weight, b, *how), x, weight, b)
    agree(conv_transpose2d(x, weight, None, *how), F.conv_transpose2d(x, weight, None, *how), x, weight)
    monkeypatch.delattr(fast_convolution, "_StridedConv")
    with pytest.raises(NameError):  # it took this path
        conv2d(x, weight[:, :5], stride=2)


def test_a_loss_that_goes_backward_early():
    """Weighted and summed with another loss; an unused and a frozen parameter are among the given ones."""
    torch.manual_seed(0)
    x, W, unused, frozen = double(3, 4), double(4, 4), double(2), double(4).detach()

    def loss(x):
        return (x @ W + frozen).tanh().square().sum()

    found, expected = (0.3 * way(loss, 2 * x, [W, unused, frozen]) + (x * W[0]).sum() for way in
                       (memory.early, layers.early.__wrapped__))  # fmt: skip
    agree(found, expected, x, W)
    with torch.no_grad():
        assert memory.early(loss, x, [W]) == loss(x)
    assert memory.early(loss, x.detach(), [W]).grad_fn is not None  # x needs no gradient


@LAYOUTS
def test_smooth_doubling(layout):
    torch.manual_seed(0)
    x, taps = double(2, 5, 6, 3, layout=layout), torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
    filt = torch.outer(taps, taps).repeat(5, 1, 1, 1)
    agree(convolution.smooth_double(x, filt), layers.smooth_double.__wrapped__(x, filt), x)
    rows = torch.tensor([[4.0, 0, 0], [3, 1, 0], [1, 3, 0], [0, 3, 1], [0, 1, 3], [0, 0, 4]], dtype=torch.float64) / 4
    torch.testing.assert_close(convolution.smooth_double(x[:, :, :3], filt), rows @ x[:, :, :3] @ rows.T)


@LAYOUTS
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_blur(layout, padding):
    """Up to the second derivative, which a gradient penalty needs."""
    torch.manual_seed(0)
    x, row = double(2, 3, 9, 6, layout=layout), torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    slopes = []
    for way in (convolution.blur, layers.blur.__wrapped__):
        y = way(x.square(), torch.outer(row, row), padding)
        slopes.append(torch.autograd.grad(y.square().sum(), x, create_graph=True)[0])
    agree(*slopes, x)


@LAYOUTS
@pytest.mark.parametrize("offset", [0, 30])
def test_instance_norm(layout, offset):
    torch.manual_seed(0)
    x = double(3, 4, 8, 7, layout=layout)
    moved = x + offset
    for way in (_InstanceNorm, _BatchNorm):  # on a CPU, on a GPU
        agree(way.apply(moved, 1e-5), instance_norm.__wrapped__(moved), x)
        agree(way.apply(moved, 1e-5), F.instance_norm(moved), x)


WAYS = pytest.mark.parametrize("way", [_InstanceLayerNorm, _TritonInstanceLayerNorm])


@WAYS
@pytest.mark.parametrize("given", [True, False])
def test_instance_layer_norm(given, way):
    """As on a CPU, and as on a GPU by Triton's interpreter (conftest.py)."""
    torch.manual_seed(0)
    x, mix = double(3, 4, 8, 7), double(1, 4, 2)
    gamma, beta = (double(3, 4) if given else double(1, 4, 1, 1) for _ in range(2))
    plain = instance_layer_norm.__wrapped__
    agree(way.apply(x, mix, gamma, beta, 1e-5), plain(x, mix, gamma, beta), x, mix, gamma, beta)


@WAYS
def test_instance_layer_norm_of_half_precision_rounds_once(way):
    """Far from 0, where rounded coefficients lose digits."""
    torch.manual_seed(0)
    x, mix = (torch.randn(2, 8, 16, 16) + 20).bfloat16().requires_grad_(), torch.rand(1, 8, 2)
    mix, gamma, beta = mix / mix.sum(-1, keepdim=True), torch.ones(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)
    exact = x.detach().double().requires_grad_()
    found = way.apply(x, mix, gamma, beta, 1e-5)
    expected = instance_layer_norm.__wrapped__(exact, mix, gamma, beta)
    g = torch.randn(expected.shape).bfloat16()
    pairs = (found, expected), (*torch.autograd.grad(found, x, g), *torch.autograd.grad(expected, exact, g))
    assert found.dtype == torch.bfloat16
    for a, b in pairs:
        assert (a - b).norm() / b.norm() < 2.5e-3  # 1.7e-3 is rounding to bfloat16


def test_power_iterations_of_all_layers_at_once():
    """As on a GPU: the same vectors, and the same 1 / sigma."""
    torch.manual_seed(0)
    ours = [SNConv2d(3, 5, 4), SNLinear(7, 2), SNConv2d(5, 1, 4)]
    theirs = copy.deepcopy(ours)
    iterate_foreach(ours, 2)
    for a, b in zip(ours, theirs, strict=True):
        b.power_iteration(2)
        for x, y in zip([*a.iterations, a.weight_u, a.weight_v], [*b.iterations, b.weight_u, b.weight_v], strict=True):
            torch.testing.assert_close(x, y)


@LAYOUTS
def test_normalisations_with_scale_and_shift(layout):
    torch.manual_seed(0)
    x = double(3, 4, 8, 7, layout=layout)
    for name, shape in (("adaptive_instance_norm", (3, 4, 1, 1)), ("std_layer_norm", (4,))):
        a, b, plain = double(*shape), double(*shape), getattr(layers, name).__wrapped__
        agree(getattr(fast, name)(x + 9, a, b), plain(x + 9, a, b), x, a, b)
    flat = torch.zeros(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    y = std_layer_norm(flat, a, b)
    assert torch.autograd.grad(y.sum(), flat)[0].isfinite().all()


FOR_THE_COMPILER = {
    "instance_norm": [],
    "instance_layer_norm": [(1, 4, 2), (3, 4), (3, 4)],
    "adaptive_instance_norm": [(3, 4, 1, 1), (3, 4, 1, 1)],
    "std_layer_norm": [(4,), (4,)],
}


@LAYOUTS
@pytest.mark.parametrize("name", FOR_THE_COMPILER)
def test_what_is_computed_differently_under_the_compiler(name, layout):
    torch.manual_seed(0)
    torch.compiler.reset()
    x, *more = double(3, 4, 8, 7, layout=layout), *(double(*shape) for shape in FOR_THE_COMPILER[name])
    compiled = torch.compile(getattr(fast, name), backend="eager", fullgraph=True)
    agree(compiled(x, *more), getattr(layers, name).__wrapped__(x, *more), x, *more)


@LAYOUTS
@pytest.mark.parametrize("n, c, out, h, w, k", [(1, 3, 5, 6, 4, 5), (2, 4, 3, 2, 2, 5), (2, 3, 2, 5, 9, 3)])
def test_convolution_after_up_sampling(layout, n, c, out, h, w, k):
    torch.manual_seed(0)
    x, weight, b = double(n, c, h, w, layout=layout), double(out, c, k, k, layout=layout), double(out)
    plain = layers.upsampled_conv2d.__wrapped__
    agree(convolution.upsampled_conv2d(x, weight, b), plain(x, weight, b), x, weight, b)
    agree(convolution.upsampled_conv2d(x, weight), plain(x, weight), x, weight)


@pytest.mark.parametrize("side, stride, out, bias", [(6, 2, 5, True), (20, 2, 5, True), (20, 1, 1, False)])
def test_spectral_convolution_of_two_chunks(side, stride, out, bias):
    """Few positions, many positions, one channel; each chunk of the batch has its own sigma."""
    torch.manual_seed(0)
    x, weight = double(4, 3, side, side), double(out, 3, 4, 4)
    b = double(out) if bias else None
    u, kept = torch.randn(out, dtype=torch.float64), []
    for _ in range(2):
        W = weight.detach().flatten(1)
        kept.append(spectral_norm.power_iteration(W, u))
        torch.testing.assert_close(kept[-1], layers.power_iteration.__wrapped__(W, u))
        u = kept[-1][1]
    sigmas = [torch.stack(parts) for parts in zip(*kept, strict=True)]
    leaves = [t for t in (x, weight, b) if t is not None]
    plain = layers.spectral_conv2d.__wrapped__
    agree(spectral_norm.spectral_conv2d(x, weight, b, stride, *sigmas), plain(x, weight, b, stride, *sigmas), *leaves)
    if side == 6:
        x, weight = double(4, 48), weight.detach().flatten(1).requires_grad_()
        plain = layers.spectral_linear.__wrapped__
        agree(spectral_norm.spectral_linear(x, weight, *sigmas), plain(x, weight, *sigmas), x, weight)


@LAYOUTS
@pytest.mark.parametrize("side", [7, 9])  # few positions and many
def test_affine(layout, side):
    torch.manual_seed(0)
    x, scale, shift = double(2, 3, side, side, layout=layout), double(2, 3, 1, 1), double(3, 1, 1)
    agree(affine(x, scale, shift, -1), shift - scale * x, x, scale, shift)


def test_normalisations_without_gradients_give_the_same_bits():
    torch.manual_seed(0)
    x, of_channel = torch.randn(2, 3, 9, 9), (torch.rand(1, 3, 2), torch.rand(2, 3), torch.rand(2, 3))
    for normalise, more in ((instance_norm, ()), (instance_layer_norm, of_channel)):
        expected = normalise(x.clone().requires_grad_(), *more)
        with torch.no_grad():
            assert torch.equal(normalise(x, *more), expected)


def accelerated() -> set[str]:
    """The names of the definitions that a fast function stands for."""
    return {name for name, value in vars(layers).items() if hasattr(value, "__wrapped__")} - {"definitions"}


def test_every_accelerated_definition_has_a_fast_function():
    assert accelerated() == {name for name in accelerated() if hasattr(fast, name)} and len(accelerated()) >= 6


def test_plain_true_uses_the_definitions_alone(monkeypatch):
    """The same step while nothing in layers/fast can be called."""
    expected = NICE.NICE(options())
    real = images(seed=1), images(seed=2)
    terms = expected.train_step(*real)
    for name in accelerated():
        monkeypatch.setattr(fast, name, None)
    nice = NICE.NICE(options("--plain true"))
    for name, value in nice.train_step(*real).items():
        assert value.item() == pytest.approx(terms[name].item(), rel=1e-5)
    for key, value in weights(nice).items():
        torch.testing.assert_close(value, weights(expected)[key], rtol=0, atol=1e-4)
    use_definitions(False)


def test_without_the_folder_the_program_runs_on_the_definitions(tmp_path):
    """Deleting layers/fast makes the program slower, not broken."""
    root = Path(__file__).parents[1]
    for path in root.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists() and path.name != "layers":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "layers").mkdir()
    for path in (root / "layers").glob("*.py"):
        (tmp_path / "layers" / path.name).symlink_to(path)
    code = """if True:
        import main, methods, torch
        argv = "--img_size 48 --ch 2 --n_res 1 --n_dis 6 --device cpu".split()
        nice = methods.create(main.parse_args(argv))
        x = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
        print(nice.train_step(x, -x)["g_loss"].item(), "layers.fast" in __import__("sys").modules)"""
    said = []
    for place in (tmp_path, root):
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=place,
                              env={"PYTHONPATH": str(place), "PATH": ""})  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert [there for _, there in said] == ["False", "True"]
    assert float(said[0][0]) == pytest.approx(float(said[1][0]), rel=1e-5)
