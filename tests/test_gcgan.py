"""GcGAN: f, the gradient of the geometry term, the learning rate; tests/test_methods.py has the rest."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import HERE, double_precision, images, weights
from replay import Replayed, pictures, replay, trainer_of

import main
import methods
from methods import cyclegan, gcgan

RECORDING = HERE / "fixtures" / "gcgan.npz"


def options(text: str = ""):
    small = "--method gcgan --img_size 32 --ch 2 --n_res 1 --batch_size 1 --device cpu"
    return main.parse_args(f"{small} {text}".split())


@pytest.mark.parametrize("geometry, expected", [("rot", [[3, 1], [4, 2]]), ("vf", [[3, 4], [1, 2]])])
def test_geometries_and_their_inverses(geometry, expected):
    f, f_inverse = gcgan.GEOMETRIES[geometry]
    x = torch.tensor([[[[1, 2], [3, 4]]]])
    assert f(x).tolist() == [[expected]]
    y = images(2, 6)
    assert torch.equal(f_inverse(f(y)), y) and torch.equal(f(f_inverse(y)), y)


@pytest.mark.parametrize("geometry", gcgan.GEOMETRIES)
def test_the_geometry_term_is_the_programs(geometry):
    """lambda_AB lambda_gc [|fake - f^-1(sg fake_gc)| + |fake_gc - f(sg fake)|], value and gradient."""
    with double_precision():
        torch.manual_seed(0)
        model = methods.create(options(f"--geometry {geometry} --lambda_G 0 --identity 0 --lambda_AB 3"))
        x = {"A": images(2, 32).double(), "B": images(2, 32, 1).double()}
        loss, terms = model.generator_objective(x, "A", "B")
        idle = {layer.bias for layer in model.G.modules() if getattr(layer, "idle_bias", False)}
        parameters = [p for p in model.G.parameters() if p not in idle]
        found = torch.autograd.grad(loss, parameters)
        fake, fake_gc = model.G(x["A"]), model.G(model.f(x["A"]))
        expected = F.l1_loss(fake, model.f_inverse(fake_gc.detach()))
        expected = 3 * 2 * (expected + F.l1_loss(fake_gc, model.f(fake.detach())))
        torch.testing.assert_close(terms["gc"], expected)
        assert "idt" not in terms
        for ours, theirs in zip(found, torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_two_generators_alike_are_one():
    """--share false: from equal weights every loss of the first step is as with one generator; then they differ."""
    one, two = methods.create(options()), methods.create(options("--share false"))
    for model in (one, two):
        for name, net in model.networks().items():
            net.load_state_dict(one.networks()[name.replace("G_gc_AB", "G_AB")].state_dict())
    real = images(1, 32), images(1, 32, 1)
    a, b = (model.train_step(*real) for model in (one, two))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-5, atol=1e-6)
    now = weights(two)
    assert any(not torch.equal(now[f"G_AB/{k}"], now[f"G_gc_AB/{k}"]) for k in two.G.state_dict())


def test_learning_rates_are_the_programs():
    table = np.load(RECORDING)["config/lr_table"]
    model = methods.create(options("--steps_per_epoch 3 --early_decay true"))  # recorded on a newer PyTorch
    for epoch, rate in table:
        for step in (3 * epoch - 2, 3 * epoch):
            assert model.lr(int(step)) == pytest.approx(rate, abs=1e-12)
    assert (table[-1] == [200, 0]).all() and model.lr(700) == 0


def swapped_pools(monkeypatch):
    build = gcgan.GcGAN.build

    def swapped(self, a):
        nets = build(self, a)
        self.pools = dict(zip(self.pools, reversed(self.pools.values()), strict=True))
        return nets

    monkeypatch.setattr(gcgan.GcGAN, "build", swapped)


def rotated_the_other_way(monkeypatch):
    monkeypatch.setitem(gcgan.GEOMETRIES, "rot", gcgan.GEOMETRIES["rot"][::-1])


def decaying_later(monkeypatch):
    monkeypatch.setattr(gcgan.GcGAN, "lr", lambda self, step: cyclegan.epoch_lr(self.args, step))


@pytest.mark.parametrize("mistake", [swapped_pools, rotated_the_other_way, decaying_later])
def test_mistakes_show(mistake, monkeypatch):
    """Far beyond the agreement of the recording: 5e-6 and 2e-5."""
    mistake(monkeypatch)
    try:
        worst = replay("gcgan", RECORDING)
    except AssertionError:  # it asks for a number that was not drawn
        return
    assert max(worst["losses"].values()) > 1e-3 or max(worst["final"].values()) > 1e-4


def test_the_gradient_of_the_geometry_term_counts(monkeypatch):
    """With twice the gradient the final weights differ."""
    data = np.load(RECORDING)
    right, wrong = trainer_of("gcgan", data), trainer_of("gcgan", data)
    objective = wrong.generator_objective

    def doubled(batch, s, t):
        loss, terms = objective(batch, s, t)
        return loss + terms["gc"] - terms["gc"].detach(), terms

    wrong.generator_objective = doubled
    for model in (right, wrong):
        for step in range(2):
            model.draw = Replayed(data, step)
            model.train_step(*pictures(data, step))
    a, b = weights(right), weights(wrong)
    assert max((a[k] - b[k]).abs().max().item() for k in a if k.startswith("G")) > 2e-4


def test_too_small_pictures(capsys):
    with pytest.raises(SystemExit) as end:
        options("--img_size 20")
    said = capsys.readouterr().err
    assert end.value.code == 2 and "24" in said and said.count("\n") == 1
    model = methods.create(options("--img_size 24"))
    assert model.train_step(images(1, 24), images(1, 24, 1))["G"].isfinite()


def test_official_files_are_told_from_others():
    model = methods.create(options())
    found = {f"latest_net_{name}": net.state_dict() for name, net in model.networks().items()}
    name, networks = methods.recognise(found)
    assert name == "gcgan" and networks.keys() == {"G_AB", "D_B", "D_gc_B"}
    assert methods.load(name).infer_options(networks) == {"ch": 2, "img_ch": 3, "n_res": 1, "share": True}
