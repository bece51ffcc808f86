"""The released program's numbers, by the default training path and by the plain reference."""

import pytest
import torch
from conftest import double_precision, images, options, weights
from reference import Reference

import NICE
from utils import evaluating


def trainer(parity, **more):
    """Our trainer with the fixture's settings and initial weights."""
    nice = NICE.NICE(options(iteration=parity.steps, **parity.config, **more))
    for name, net in nice.networks().items():
        net.load_state_dict(parity.initial(name))
    return nice


def plain(parity):
    """The plain reference, likewise."""
    config = {k: v for k, v in parity.config.items() if k != "batch_size"}
    reference = Reference(iteration=parity.steps, **config)
    for name, net in reference.networks().items():
        net.load_state_dict(parity.initial(name))
    return reference


def by_definition(parity):
    return trainer(parity, plain=True)


def test_training_trajectory_by_minimal_filters(parity, minimal_filters):
    test_training_trajectory(parity, trainer)


@pytest.mark.parametrize("make", [trainer, by_definition, plain])
def test_training_trajectory(parity, make):
    """All losses to 1e-5 relative, all final weights and power-iteration vectors to 1e-4."""
    model = make(parity)
    for i, batch in enumerate(parity.batches):
        terms = model.train_step(*batch)
        for name in ("d_loss", "g_loss"):
            assert terms[name].item() == pytest.approx(parity.data[f"train/{name}"][i], rel=1e-5)
    for name, net in model.networks().items():
        expected = parity.final(name)
        assert net.state_dict().keys() == expected.keys()
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-4, msg=f"{name}.{key}")
    assert model.D_optim.param_groups[0]["lr"] == pytest.approx(parity.data["train/final_lr"].item())


def close(actual, expected):
    """Agreement to 1e-5 of the largest value: single values near zero are cancelling sums."""
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_evaluation_outputs(parity):
    nice = trainer(parity)
    real_A, real_B = parity.batches[0]
    with evaluating(nice.networks().values()):
        judged = nice.disA(real_A)
        names = ("out0", "out1", "cam_logit", "heatmap", "z")
        for name, value in zip(names, judged, strict=True):
            close(value, parity.data[f"eval/disA/{name}"])
        close(nice.gen2B(nice.disA.encode(real_A)), parity.data["eval/fake_A2B"])
        close(nice.gen2A(nice.disB.encode(real_B)), parity.data["eval/fake_B2A"])


def test_order_of_parameters_is_that_of_existing_optimizer_states(parity):
    nice = trainer(parity)
    for name, net in nice.networks().items():
        assert list(net.state_dict()) == list(parity.initial(name))
    expected = [p for d in (nice.disA, nice.disB) for p in d.parameters()]
    assert [id(p) for p in nice.D_optim.param_groups[0]["params"]] == [id(p) for p in expected]
    expected = [p for g in (nice.gen2B, nice.gen2A) for p in g.parameters()]
    assert [id(p) for p in nice.G_optim.param_groups[0]["params"]] == [id(p) for p in expected]


@pytest.mark.parametrize(
    "text, size, batch",
    [
        ("--ch 8 --n_res 2 --n_dis 7", 96, 2),  # Dis0_0 has a layer
        ("--ch 4 --n_res 1 --n_dis 8", 192, 1),
        ("--ch 8 --n_res 1 --n_dis 6 --light false", 64, 3),
        ("--ch 4 --n_res 2 --n_dis 6 --adv_weight 0.5 --cycle_weight 3 --recon_weight 0 --weight_decay 0.01", 64, 1),
        ("--ch 4 --n_res 2 --n_dis 6 --checkpoint_blocks true", 64, 1),
        ("--ch 4 --n_res 2 --n_dis 6 --plain true", 64, 2),
        pytest.param("--ch 4 --n_res 2 --n_dis 6 --compile true", 64, 1, marks=pytest.mark.slow),
    ],
)
def test_step_equals_the_reference(text, size, batch):
    """In other shapes than the fixture's: against the plain reference, which is checked above."""
    args = options(text, img_size=size, iteration=4)
    names = "img_size ch n_res n_dis light lr weight_decay adv_weight cycle_weight recon_weight iteration"
    with double_precision():
        nice = NICE.NICE(args)
        reference = Reference(**{name: getattr(args, name) for name in names.split()})
    for name, net in reference.networks().items():
        net.load_state_dict(nice.networks()[name].state_dict())
    for i in range(3):
        batches = [images(batch, size, 2 * i + j).double() for j in range(2)]
        ours, theirs = nice.train_step(*batches), reference.train_step(*batches)
        for name in ("d_loss", "g_loss"):
            assert ours[name].item() == pytest.approx(theirs[name].item(), rel=1e-10)
    expected = {f"{n}/{k}": v for n, net in reference.networks().items() for k, v in net.state_dict().items()}
    for key, value in weights(nice).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-9, msg=key)


def test_step_by_minimal_filters_equals_the_reference(minimal_filters):
    test_step_equals_the_reference("--ch 4 --n_res 2 --n_dis 6", 64, 2)
