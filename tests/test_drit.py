"""DRIT: its recording in double precision, planted mistakes, a reference step, sizes, schedule, files."""

import copy
from contextlib import ExitStack, nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import HERE, differing, double_precision, images, weights
from PIL import Image
from replay import Replayed, pictures, trainer_of

import main
import methods
import methods.drit
from checkpoints.contents import architecture_of
from checkpoints.files import load_checkpoint
from methods.drit import DRIT, OTHER
from methods.drit_networks import ContentDiscriminator, Discriminator, SNConv2d, with_code
from training.cost import dry_run, modules

RECORDING = np.load(HERE / "fixtures" / "drit.npz")


def settings(text: str = ""):
    return main.parse_args(f"--method drit --img_size 212 --ch 1 --num_workers 0 --device cpu {text}".split())


def create(text: str = ""):
    """A tiny trainer with larger weights: with the authors' initial ones signals vanish in so few channels."""
    model = methods.create(settings(text))
    for net in model.networks().values():
        for p in net.parameters():
            if p.dim() == 4:
                p.data *= 8
    return model


# --------------------------------------------------------------------------------------- recording


def losses_of(model):
    """For each step of the recording in double precision: (name of a loss, ours, the authors' program's)."""
    for step in range(len(RECORDING["real_A"])):
        model.draw = Replayed(RECORDING, step, torch.float64)
        terms = model.train_step(*pictures(RECORDING, step, torch.float64))
        for key in RECORDING.files:
            if key.startswith("train64/") and not np.isnan(RECORDING[key][step]):
                name = key.removeprefix("train64/")
                yield name, terms[name].item(), RECORDING[key][step]


def recorded_model():
    with double_precision():
        return trainer_of("drit", RECORDING)


def test_recording_in_double_precision():
    """Where no ReLU flips by rounding: every loss to 1e-12; final weights, kept as multiples of 2^-21, to 1e-6."""
    model, count = recorded_model(), 0
    for name, ours, theirs in losses_of(model):
        assert ours == pytest.approx(theirs, rel=1e-12), name
        count += 1
    assert count == 4 * 1 + 2 * 25  # of content-only steps, and of full ones
    for name, net in model.networks().items():
        kept = [key for key in net.state_dict() if f"final/{name}/{key}" in RECORDING]
        assert kept
        for key in kept:
            expected = torch.from_numpy(RECORDING[f"final/{name}/{key}"]).double()
            torch.testing.assert_close(net.state_dict()[key], expected, rtol=0, atol=1e-6, msg=f"{name}/{key}")


right_updates, right_forward = DRIT.updates, DRIT.forward


def g_step_first(self):
    if len(updates := right_updates(self)) == 1:
        return updates
    *others, encoders, generator = updates
    return *others, generator._replace(keep_graph=True), encoders._replace(keep_graph=False)


def with_copies(self, batch, *rest):
    """Both backward passes with the weights of the forward pass."""
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda kept: kept):
        right_forward(self, batch, *rest)


MISTAKES = {
    "no clipping": (DRIT, "max_grad_norm", {}),
    "one rate for all": (DRIT, "lr_scale", {}),
    "the attribute encoder learns in the G step": (methods.drit, "frozen", lambda parameters: nullcontext()),
    "the G step before the EG step": (DRIT, "updates", g_step_first),
    "the G step with the weights from before the EG step": (DRIT, "forward", with_copies),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_caught(mistake, monkeypatch):
    where, name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong)
    assert any(abs(ours / theirs - 1) > 1e-5 for _, ours, theirs in losses_of(recorded_model()))


# -------------------------------------------------------------------------------------- other settings


class Numbers:
    """Random numbers that depend on name and step only."""

    def __init__(self, step: int):
        self.step = step

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.step + sum(name.encode()))
        return torch.randn(shape, generator=generator, dtype=torch.float64)


def bce(maps, target: float):
    return sum(F.binary_cross_entropy(x.sigmoid(), torch.full_like(x, target)) for x in maps)


def descend(optimizers, loss, names, **how):
    """Backward, and a step of each of these optimizers that autograd does not count."""
    for name in names:
        optimizers[name].zero_grad()
    loss.backward(**how)
    if "disContent" in names:
        torch.nn.utils.clip_grad_norm_(optimizers["disContent"].param_groups[0]["params"], 5)
    for name in names:
        with ExitStack() as uncounted:
            for p in optimizers[name].param_groups[0]["params"]:  # PyTorch 2.6 takes one at a time
                uncounted.enter_context(torch.autograd._unsafe_preserve_version_counter(p))
            optimizers[name].step()


def reference_step(nets, optimizers, real, draw, no_ms, full) -> dict:
    """As in the authors' program: stacked batches, one discriminator call per term, one optimizer per network."""
    enc_c, gen = nets["enc_c"], nets["gen"]
    x, others, terms = {d: real[d][:1] for d in "AB"}, {d: real[d][1:] for d in "AB"}, {}
    kl = {}

    def content(picture, d, name):
        c = enc_c(picture, d)
        return c + draw.normal(f"forward/{name}_{d}", *c.shape)

    def attribute(picture, d, name):
        mean, log_variance = nets["enc_a"](picture, d)
        if log_variance is None:
            kl[d] = 0.01 * mean.square().mean()
            return mean
        kl[d] = -0.005 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return mean + draw.normal(f"forward/{name}_{d}", 1, 8) * (log_variance / 2).exp()

    c = {d: content(x[d], d, "content_noise") for d in "AB"}
    if full:
        z = {d: attribute(x[d], d, "eps") for d in "AB"}
        kl_of_encoded = dict(kl)
        z_random = [draw.normal(f"forward/{name}", 1, 8) for name in ("z_random", "z_random2")[: 2 - no_ms]]
        outputs = {}
        for d, o in OTHER.items():
            contents, codes = [c[o], c[d], *(c[o] for _ in z_random)], [z[d], z[d], *z_random]
            outputs[d] = gen(torch.cat(contents), torch.cat(codes), d).split(1)
        back = {o: content(outputs[d][0], d, "recon_noise") for d, o in OTHER.items()}
        codes = {d: attribute(outputs[d][0], d, "recon_eps") for d in "AB"}
        cyc = {d: gen(back[d], codes[d], d) for d in "AB"}
        means = {d: nets["enc_a"](outputs[d][2], d)[0] for d in "AB"}
        for d in "AB":
            for name, fakes, reals in ((f"dis{d}", outputs[d][:1], x[d]), (f"dis{d}2", outputs[d][2:], others[d])):
                optimizers[name].zero_grad()
                terms[f"{name}_loss"] = 0
                for fake in fakes:
                    on_fake, on_real = nets[name](fake.detach()), nets[name](reals)
                    loss = bce(on_real, 1) + bce(on_fake, 0)
                    loss.backward()
                    terms[f"{name}_loss"] += loss
                optimizers[name].step()
    D_c = nets["disContent"]
    terms["disContent_loss"] = bce([D_c(c["B"].detach())], 1) + bce([D_c(c["A"].detach())], 0)
    descend(optimizers, terms["disContent_loss"], ["disContent"])
    if not full:
        return terms
    eg, alone = {}, {}
    for d in "AB":
        a, out = d.lower(), outputs[d]
        eg |= {f"gan_loss_{a}content": bce([D_c(c[d])], 0.5), f"gan_loss_{a}": bce(nets[f"dis{d}"](out[0]), 1)}
        eg |= {f"kl_loss_zc_{a}": 0.01 * c[d].square().mean(), f"kl_loss_za_{a}": kl_of_encoded[d]}
        eg[f"l1_recon_{d}_loss"] = 10 * (cyc[d] - x[d]).abs().mean()
        eg[f"l1_recon_{d}{d}_loss"] = 10 * (out[1] - x[d]).abs().mean()
    terms["G_loss"] = sum(eg.values())
    descend(optimizers, terms["G_loss"], ["enc_c", "enc_a", "gen"], retain_graph=True)
    for d, o in OTHER.items():
        a, rand = d.lower(), outputs[d][2:]
        alone[f"l1_recon_z_loss_{a}"] = 10 * (means[d] - z_random[0]).abs().mean()
        alone[f"gan2_loss_{a}"] = sum(bce(nets[f"dis{d}2"](picture), 1) for picture in rand)
        if not no_ms:
            apart = (rand[1] - rand[0]).abs().mean() / (z_random[1] - z_random[0]).abs().mean()
            alone[f"lz_{o}{d}"] = 1 / (apart + 1e-5)
    terms["G_alone_loss"] = sum(alone.values())
    descend(optimizers, terms["G_alone_loss"], ["enc_c", "gen"])
    return terms | eg | alone


@pytest.mark.parametrize(
    "text",
    [
        "--batch_size 3 --d_iter 2",
        pytest.param("--concat 0 --dis_scale 1 --no_ms true --d_iter 1 --ch 2", marks=pytest.mark.slow),
        "--dis_spectral_norm true --dis_scale 2 --batch_size 3 --d_iter 1 --plain true",
        "--dis_spectral_norm true --concat 0 --no_ms true --d_iter 1",
    ],
)
def test_step_equals_the_reference(text):
    with double_precision():
        model = create(text)
        nets = copy.deepcopy(model.networks())
    rates = {name: 1e-4 / 2.5 if name == "disContent" else 1e-4 for name in nets}
    optimizers = {
        name: torch.optim.Adam(net.parameters(), lr=rates[name], betas=(0.5, 0.999), weight_decay=1e-4)
        for name, net in nets.items()
    }
    for step in range(model.args.d_iter):  # the last one is full
        real = {d: images(model.args.batch_size, 212, 2 * step + i).double() for i, d in enumerate("AB")}
        full = (step + 1) % model.args.d_iter == 0
        model.draw = Numbers(step)
        ours = model.train_step(real["A"], real["B"])
        expected = reference_step(nets, optimizers, real, Numbers(step), model.args.no_ms, full)
        assert ours.keys() - {"D_loss"} == expected.keys()
        for name, value in expected.items():
            assert ours[name].item() == pytest.approx(value.item(), rel=1e-9), name
    for name, net in nets.items():
        ours = model.networks()[name].state_dict()
        for key, value in net.state_dict().items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-6, msg=f"{name}/{key}")


def test_spectral_norm():
    """v = n(W^T u), u = n(W v); the weight of a pass, W / (u . W v), is stored, and evaluation uses it unchanged."""
    layer = SNConv2d(3, 5, 3).double()
    assert list(layer.state_dict()) == ["bias", "weight_orig", "weight", "weight_u"]
    x, u = torch.randn(2, 3, 6, 6, dtype=torch.float64), layer.weight_u.clone()
    W = layer.weight_orig.detach().clone().requires_grad_()
    for _ in range(2):
        with torch.no_grad():
            v = F.normalize(W.flatten(1).T @ u, dim=0)
            u = F.normalize(W.flatten(1) @ v, dim=0)
        normalised = W / (u @ W.flatten(1) @ v)
        expected = F.conv2d(x, normalised, layer.bias)
        torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close((layer.weight, layer.weight_u), (normalised.detach(), u))
    (ours,) = torch.autograd.grad(layer(x).square().sum(), layer.weight_orig)
    with torch.no_grad():
        v = F.normalize(W.flatten(1).T @ u, dim=0)
        u = F.normalize(W.flatten(1) @ v, dim=0)
    (theirs,) = torch.autograd.grad(F.conv2d(x, W / (u @ W.flatten(1) @ v), layer.bias).square().sum(), W)
    torch.testing.assert_close(ours, theirs)
    layer.eval().weight.data.fill_(1)
    torch.testing.assert_close(layer(x), F.conv2d(x, torch.ones_like(W), layer.bias))


# -------------------------------------------------------------------------------------- sizes, schedule


@pytest.mark.parametrize(
    "text, size, expected",
    [
        ("", 256, [(9_018_112, 22.36), (2_688_160, 4.24), (9_564_710, 23.16), (8_271_171, 2.18), (10_683_649, 3.52)]),
        ("", 216, [(9_018_112, 15.92), (2_688_160, 3.02), (9_564_710, 16.49), (8_271_171, 1.49), (10_683_649, 2.45)]),
        ("--concat 0 --dis_scale 1", 256,
         [(9_018_112, 22.36), (5_529_872, 6.25), (17_146_374, 34.64), (25_149_057, 1.54), (10_683_649, 3.52)]),
    ],
)  # fmt: skip
def test_parameters_and_multiply_adds(text, size, expected):
    args = main.parse_args(f"--method drit --device cpu --img_size {size} {text}".split())
    found = []
    with torch.device("meta"):
        for _, _, net, forward, x in dry_run(methods.load(args.method), args).summary_modules():
            rows = modules(net, forward, x)
            found.append((sum(row[2] for row in rows), sum(row[3] for row in rows) / 1e9))
    assert found == [(parameters, pytest.approx(products, abs=0.0055)) for parameters, products in expected]


@pytest.mark.parametrize("scales, least", [(1, 212), (3, 212), (4, 212), (5, 244)])
def test_least_size(scales, least, capsys):
    """The networks accept the size that the message names, and not the next smaller one."""

    def run(size):
        ContentDiscriminator(4)(torch.zeros(1, 4, size // 4, size // 4))
        Discriminator(3, 1, scales, False)(torch.zeros(1, 3, size, size))

    text = f"--dis_scale {scales} --img_size"
    run(least)
    with pytest.raises(RuntimeError):
        run(least - 4)
    settings(f"{text} {least}")
    with pytest.raises(SystemExit):
        settings(f"{text} {least - 4}")
    assert f"which need {least}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["--batch_size 1", "--compile true"])
def test_impossible_settings(text, capsys):
    with pytest.raises(SystemExit) as end:
        settings(text)
    said = capsys.readouterr().err
    assert end.value.code == 2 and text.split()[0] in said and said.count("\n") == 1


@pytest.mark.parametrize("policy, table", [("lambda", "lr_table"), ("step", "lr_table_step")])
def test_learning_rates_of_the_authors_schedule(policy, table):
    model = create(f"--steps_per_epoch 2 --lr_policy {policy} --early_decay true")  # recorded on a newer PyTorch
    for epoch, rate, rate_of_content in RECORDING[f"config/{table}"]:
        assert model.lr(2 * int(epoch) + 2) == pytest.approx(rate)
        assert model.lr(2 * int(epoch) + 1) * model.lr_scale["disContent"] == pytest.approx(rate_of_content)
    assert create(f"--n_ep_decay -1 --lr_policy {policy}").lr(800_000) == 1e-4


def test_full_steps():
    model = create()
    assert [model.is_full(step) for step in range(1, 8)] == [False, False, True, False, False, True, False]
    model = create("--steps_per_epoch 7 --d_iter 4")  # an epoch ends with two full steps
    assert [step for step in range(1, 15) if model.is_full(step)] == [4, 6, 7, 11, 13, 14]


def test_content_only_steps_train_the_content_discriminator_only():
    model = create()
    before = weights(model)
    terms = model.train_step(images(2, 212, 0), images(2, 212, 1))
    assert set(terms) == {"disContent_loss"}
    assert {key.split("/")[0] for key in differing(before, weights(model))} == {"disContent"}


# -------------------------------------------------------------------------------------- pictures, files


@torch.no_grad()
def test_attributes_are_constant_maps():
    x, z = torch.randn(2, 3, 4, 5), torch.randn(2, 8)
    both = with_code(x, z)
    assert torch.equal(both[:, :3], x) and torch.equal(both[:, 3:], z[..., None, None].expand(2, 8, 4, 5))


@pytest.mark.parametrize("text", ["", "--concat 0 --dis_scale 1 --dis_spectral_norm true --img_ch 1"])
def test_an_authors_checkpoint_translates(text, folders, tmp_path, monkeypatch):
    """One file of networks, optimizers and counters; keys and shapes tell method and architecture."""
    data, results = folders
    model = create(f"--dataset toy --dataset_dir {data} --result_dir {results} {text}")
    state = {name: net.state_dict() for name, net in model.networks().items()}
    state |= {f"{name}_opt": {"state": {}, "param_groups": []} for name in model.networks()}
    torch.save({**state, "ep": 199, "total_it": 1000}, tmp_path / "00199.pth")
    found = load_checkpoint(tmp_path / "00199.pth", methods.recognise)
    assert found["method"] == "drit" and set(found) == {*model.networks(), "method"}
    inferred = architecture_of(found, tmp_path, DRIT)
    assert inferred == {name: model.architecture[name] for name in inferred} and len(inferred) == 5
    more = [f"--dataset_dir={data}", f"--result_dir={results}", "--device=cpu", "--img_size=48", "--styles=2"]
    main.main(["--phase=test", "--dataset=toy", f"--checkpoint={tmp_path / '00199.pth'}", "--direction=AtoB", *more])
    names = {path.name for path in (results / "toy" / "fakeB").glob("*.*g")}
    assert names == {f"{i}_style{k}.png" for i in (0, 1) for k in (0, 1)}
    first, second = (np.asarray(Image.open(results / "toy" / "fakeB" / f"0_style{k}.png")) for k in (0, 1))
    assert first.shape == ((48, 48) if "img_ch" in text else (48, 48, 3)) and not np.array_equal(first, second)
