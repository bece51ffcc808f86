"""The layers against textbook forms and PyTorch's spectral norm; the paper's parameter counts."""

import pytest
import reference
import torch
from conftest import images
from torch import nn

from layers import ILN, AdaILN, SNConv2d, SNLinear, instance_layer_norm
from networks import Discriminator, Encoder, ResnetGenerator


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: ResnetGenerator(3, 3, 64, 6), 8_104_640),
        (lambda: ResnetGenerator(3, 3, 64, 4), 5_743_296),
        (lambda: Discriminator(3, 64, 7), 46_874_433),
    ],
)
def test_parameter_counts_of_the_paper(make, expected):
    with torch.device("meta"):
        assert count(make()) == expected


def test_full_generator_has_its_giant_layer():
    with torch.device("meta"):
        full = ResnetGenerator(3, 3, 64, 6, img_size=256, light=False)
    assert full.FC[0].weight.numel() == 256 * 64 * 64 * 256  # 268M


@pytest.mark.parametrize("shape", [(1, 6, 5, 7), (3, 4, 8, 8), (2, 1, 6, 6)])
@pytest.mark.parametrize("offset", [0, 30])
def test_instance_layer_norm_is_the_textbook_one(shape, offset):
    """Values and all four gradients in double precision, also where the mean is much larger than the std."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64) + offset
    rho = torch.randn(1, shape[1], 2, dtype=torch.float64)
    gamma, beta = torch.randn(2, shape[0], shape[1], dtype=torch.float64)
    textbook = reference.Norm(shape[1], [0.0, 0.0], own=False).double()
    leaves = [t.requires_grad_() for t in (x, rho, gamma, beta)]
    textbook.rho = nn.Parameter(rho.detach().clone())
    ours = instance_layer_norm(x, rho.softmax(-1), gamma[..., None, None], beta[..., None, None])
    theirs = textbook(x, gamma, beta)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    ours = torch.autograd.grad(ours, leaves, g)
    theirs = torch.autograd.grad(theirs, [x, textbook.rho, gamma, beta], g)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_instance_layer_norm_gradients_are_the_finite_differences():
    torch.manual_seed(1)
    leaves = [torch.randn(2, 3, 4, 4), torch.randn(1, 3, 2), torch.randn(1, 3, 1, 1), torch.randn(1, 3, 1, 1)]
    leaves = [t.double().requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(instance_layer_norm, leaves)


def test_norms_start_where_the_paper_says():
    ada, own = AdaILN(5), ILN(5)
    assert torch.equal(ada.rho[0, 0], torch.tensor([3.2, 1.0])) and torch.equal(own.rho[0, 4], torch.tensor([1.0, 3.2]))
    x = torch.randn(2, 5, 8, 8)
    torch.testing.assert_close(own(x), instance_layer_norm(x, own.rho.softmax(-1), own.gamma, own.beta))


@pytest.mark.parametrize("linear", [True, False])
def test_spectral_norm_is_pytorchs(linear):
    """Outputs, gradients and power-iteration vectors over several steps of training and evaluation."""
    torch.manual_seed(0)
    ours = SNLinear(12, 5) if linear else SNConv2d(3, 6, kernel_size=4, stride=2)
    plain = nn.Linear(12, 5, bias=False) if linear else nn.Conv2d(3, 6, 4, 2)
    theirs = reference.sn(plain)
    theirs.load_state_dict(ours.state_dict())
    assert list(theirs.state_dict()) == list(ours.state_dict())
    for net in (ours, theirs):
        net.double()
    for step in range(4):
        x = torch.randn((7, 12) if linear else (2, 3, 10, 10), dtype=torch.float64)
        training = step != 2
        outputs = [net.train(training)(x) for net in (ours, theirs)]
        torch.testing.assert_close(*outputs)
        pairs = zip((ours, theirs), outputs, strict=True)
        gradients = [torch.autograd.grad(y.square().sum(), list(net.parameters())) for net, y in pairs]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_two_passes_in_one_batch_are_two_calls():
    """Real and fake in one batch, each with its own sigma, equal two calls, gradients included."""
    torch.manual_seed(0)
    D = Discriminator(3, 4, 6).double()
    start = {k: v.clone() for k, v in D.state_dict().items()}
    real, fake = images(2, 48, 0).double(), images(2, 48, 1).double()

    def gradients(judgements):
        loss = sum(h.square().mean() * (i + 1) for i, j in enumerate(judgements) for h in j.heads().values())
        return torch.autograd.grad(loss, list(D.parameters()), allow_unused=True)

    apart = [D(real), D(fake)]
    after = {k: v.clone() for k, v in D.state_dict().items()}
    expected = gradients(apart)
    D.load_state_dict(start)
    D.power_iteration(2)
    both = D(torch.cat((real, fake)), iteration=(0, 1))
    torch.testing.assert_close(D.state_dict(), after)
    parts = [type(both)(*pair) for pair in zip(*(t.chunk(2) for t in both), strict=True)]
    for a, b in zip(apart, parts, strict=True):
        torch.testing.assert_close(tuple(a), tuple(b))
    for a, b in zip(gradients(parts), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_shapes_and_encode():
    torch.manual_seed(0)
    D, G = Discriminator(3, 4, 7).eval(), ResnetGenerator(3, 3, 4, 1)
    x = images(2, 96)
    with torch.no_grad():
        judged = D(x)
        shapes = [tuple(t.shape) for t in judged]
        assert shapes == [(2, 1, 10, 10), (2, 1, 1, 1), (2, 1), (2, 1, 24, 24), (2, 8, 24, 24)]
        assert torch.equal(D.encode(x), judged.z)
        assert torch.equal(judged.heatmap, judged.z.sum(1, keepdim=True))
        y = G(judged.z)
    assert y.shape == x.shape and y.abs().max() <= 1


def test_a_training_forward_makes_one_power_iteration_and_evaluation_none():
    torch.manual_seed(0)
    D = Discriminator(3, 2, 6)
    x = images(1, 48)

    def buffers():
        return {k: v.clone() for k, v in D.named_buffers()}

    start = buffers()
    D.eval()(x)
    assert all(torch.equal(v, start[k]) for k, v in buffers().items())
    D.train()(x)
    moved = buffers()
    name = "Dis0_1.1.weight"
    W = D.Dis0_1[1].weight_orig.detach().flatten(1)
    v = nn.functional.normalize(W.T @ start[f"{name}_u"], dim=0)
    torch.testing.assert_close(moved[f"{name}_v"], v)
    torch.testing.assert_close(moved[f"{name}_u"], nn.functional.normalize(W @ v, dim=0))


def test_attention_starts_as_the_identity_and_learns_through_the_raw_cam_weight():
    torch.manual_seed(0)
    E = Encoder(3, 4).eval()
    f = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(E.attend(f), nn.functional.leaky_relu(f, 0.2))
    nn.init.constant_(E.lamda, 0.5)
    gradient = torch.autograd.grad(E.attend(f).sum(), E.fc.weight_orig)[0]
    assert gradient.abs().min() > 0
    by_hand = torch.cat((f, f), 1) * E.fc.weight_orig[..., None, None]
    by_hand = nn.functional.leaky_relu(f + 0.5 * E.conv1x1(by_hand), 0.2)
    torch.testing.assert_close(E.attend(f), by_hand)


def test_too_few_layers_are_refused():
    with pytest.raises(ValueError, match="n_dis"):
        Discriminator(3, 4, 5)


@pytest.mark.parametrize("shape", [(3, 48, 48), (1, 1, 48, 48), (48, 48)])
def test_another_shape_than_a_batch_of_pictures_is_refused(shape):
    D = Discriminator(3, 2, 6)
    for call in (D, D.encode, Encoder(3, 2).encode):
        with pytest.raises(ValueError, match=r"images \(N,3,H,W\) in \[-1,1\] are wanted, not \(.*48, 48\)"):
            call(torch.zeros(shape))
