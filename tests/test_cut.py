"""CUT and FastCUT: PatchNCE by definition, the bug in the recordings, learning rates, crops, authors' files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import HERE, double_precision, images, weights
from PIL import Image
from replay import Replayed, config_of, pictures, replay, trainer_of

import main
import methods
from dataset import UnpairedStream
from images.files import data_set_pictures
from layers import InstanceNorm
from methods import cut, cut_networks
from translation.pipeline import translate_file

FIXTURES = {name: HERE / "fixtures" / f"{name}.npz" for name in ("cut", "fastcut")}
both = pytest.mark.parametrize("method", FIXTURES)
TINY = "--img_size 32 --ch 2 --n_res 5 --netF_nc 8 --num_patches 20 --num_workers 0 --device cpu"


def make(method: str = "cut", text: str = "", **more) -> cut.CUT:
    argv = f"--method {method} {TINY} {text}".split()
    return methods.create(main.parse_args(argv + [f"--{name}={value}" for name, value in more.items()]))


# ----------------------------------------------------------------------------------------- PatchNCE


def nce_by_definition(q, k, T):
    """q, k (M,c): rows [q_i.k_i, q_i.k_j with -10 at j = i] / T, cross entropy towards the first."""
    others = (q @ k.T).masked_fill(torch.eye(len(q), dtype=torch.bool), -10.0)
    logits = torch.cat(((q * k).sum(1, keepdim=True), others), 1) / T
    return (logits.logsumexp(1) - logits[:, 0]).mean()


@pytest.mark.parametrize("T", [0.07, 5.0])  # at 5 the logit -10 matters
def test_nce(T):
    torch.manual_seed(0)
    q, k = (F.normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=2) for _ in "qk")
    per_picture = sum(nce_by_definition(a, b, T) for a, b in zip(q, k, strict=True)) / 2
    torch.testing.assert_close(cut.nce(q, k, T), per_picture)
    same = torch.ones(1, 9, 4, dtype=torch.float64) / 2
    assert cut.nce(same, same, 0.07).item() == pytest.approx(np.log(9))  # as by guessing


def plain_losses(model, A, B, u, permutations):
    """The generator's loss, term by term by definition: one pass per picture and term, features mirrored back."""
    G, args = model.G, model.args
    mirrored = args.flip_equivariance and u < 0.5

    def generate(x):
        return G(x.flip(3) if mirrored else x)

    def contrast(x, y, name):
        total = 0
        for j, (k, q) in enumerate(zip(G.features(x), G.features(y), strict=True)):
            q = q.flip(3) if mirrored else q
            ids = permutations[f"G/patches_{name}_{j}"][: args.num_patches]
            mlp = model.F.get_submodule(f"mlp_{j}")
            for n in range(len(x)):
                rows = [mlp(f[n].flatten(1).T[ids]) for f in (q, k)]
                q_, k_ = (v / ((v.square().sum(1, keepdim=True) + 1e-30).sqrt() + 1e-7) for v in rows)
                total = total + nce_by_definition(q_, k_.detach(), args.nce_T) / len(x)
        return args.lambda_NCE * total / (j + 1)

    fake = generate(A)
    terms = {"G_GAN": args.lambda_GAN * (model.D(fake) - 1).square().mean(), "NCE": contrast(A, fake, "A")}
    if args.nce_idt:
        terms["NCE_Y"] = contrast(B, generate(B), "B")
    loss = terms["G_GAN"] + (terms["NCE"] + terms.get("NCE_Y", terms["NCE"])) / 2
    return loss, terms


class Fixed:
    """Random numbers that can be looked up later."""

    def __init__(self, u: float):
        self.u, self.permutations = u, {}

    def decision(self, name):
        assert name == "forward/flip"
        return self.u

    def permutation(self, name, n):
        return self.permutations.setdefault(name, torch.randperm(n))


CASES = [("cut", "", 0.9), ("cut", "--flip_equivariance true", 0.2), ("fastcut", "", 0.2), ("fastcut", "", 0.9)]


@pytest.mark.parametrize("method, text, u", CASES)
def test_the_generators_gradient_is_that_of_the_definition(method, text, u):
    """Against separate passes in double precision: values, and gradients with respect to every weight of G and F."""
    with double_precision():
        torch.manual_seed(0)
        model = make(method, f"--init_gain 1 --batch_size 2 {text}")
        model.draw = Fixed(u)
        x = {"A": images(2, 32).double(), "B": images(2, 32, 1).double()}
        batch = dict(x)
        model.decision = model.host_decision()
        model.forward(batch, "A", "B")
        model.sample_patches(batch, "A", "B")
        loss, terms = model.generator_objective(batch, "A", "B")
        expected, right_terms = plain_losses(model, x["A"], x["B"], u, model.draw.permutations)
        torch.testing.assert_close(loss, expected)
        assert terms.keys() == right_terms.keys()
        for name, value in right_terms.items():
            torch.testing.assert_close(terms[name], value)
        parameters = [*model.G.parameters(), *model.F.parameters()]
        grads = (torch.autograd.grad(z, parameters, allow_unused=True) for z in (loss, expected))
        for ours, right in zip(*grads, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-7, atol=1e-9)


# -------------------------------------------------------------------------------------- recordings


@both
def test_the_first_step_is_the_programs_also_with_right_gradients(method):
    """--norm exact, the default: every loss agrees until G's first update, and differs afterwards."""
    data = np.load(FIXTURES[method])
    worst = replay(method, FIXTURES[method], "--norm", "exact")
    assert max(worst["first"].values()) < 2e-4 and max(worst["eval"].values()) < 1e-4
    assert max(worst["losses"].values()) > 1e-2
    right, recorded = (trainer_of(method, data, "--norm", norm) for norm in ("exact", "torch"))
    for model in (right, recorded):
        model.draw = Replayed(data, 0)
        model.train_step(*pictures(data, 0))
    a, b = weights(right), weights(recorded)
    off = {key.split("/")[0] for key in a if "weight" in key and (a[key] - b[key]).abs().max() > 1e-4}
    assert off == {"G"}  # D and F are updated as recorded


def test_pytorchs_bug_and_ours_without_it():
    """A channels_last gradient for a batch of one: PyTorch's CPU backward is wrong, though layout must not matter."""
    x, g = torch.randn(1, 6, 5, 4, dtype=torch.float64, requires_grad=True), torch.randn(1, 6, 5, 4).double()
    right = torch.autograd.grad(F.instance_norm(x), x, g)[0]
    last = g.contiguous(memory_format=torch.channels_last)
    ours = torch.autograd.grad(InstanceNorm()(x), x, last)[0]
    torch.testing.assert_close(ours, right)
    theirs = torch.autograd.grad(cut_networks.AsRecorded()(x), x, last)[0]
    if torch.allclose(theirs, right):
        pytest.skip("this PyTorch has no such bug: the recordings cannot be replayed with it")
    assert (theirs - right).abs().max() > 0.1


def other_patches(monkeypatch):
    monkeypatch.setattr(cut, "nce", lambda q, k, T, *_: nce_by_definition(q[0], k[0].roll(1, 0), T))


def another_beta2(monkeypatch):
    monkeypatch.setattr(cut.CUT, "betas", (0.5, 0.99))


def not_detached(monkeypatch):
    """F learns from k, too."""
    contrast = cut.CUT.patch_nce

    def attached(self, *args):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "no_grad", torch.enable_grad)
            patch.setattr(cut, "nce", lambda q, k, T, *_: nce_by_definition(q[0], k[0], T))
            return contrast(self, *args)

    monkeypatch.setattr(cut.CUT, "patch_nce", attached)


def not_mirrored_back(monkeypatch):
    patch_ids = cut.CUT.patch_ids
    monkeypatch.setattr(cut.CUT, "patch_ids", lambda self, keys, name, mirrored: patch_ids(self, keys, name, False))


def generator_first(monkeypatch):
    updates = cut.CUT.updates
    monkeypatch.setattr(cut.CUT, "updates", lambda self: updates(self)[::-1])


def decaying_to_zero(monkeypatch):
    monkeypatch.setattr(cut.CUT, "lr", lambda self, step: 5e-4 * (1 - max(0, step - 3) / 3))


MISTAKES = [("cut", other_patches), ("cut", another_beta2), ("fastcut", not_mirrored_back), ("cut", not_detached)]
MISTAKES += [("cut", generator_first), ("fastcut", decaying_to_zero)]


@pytest.mark.parametrize("method, mistake", MISTAKES)
def test_mistakes_show(method, mistake, monkeypatch):
    mistake(monkeypatch)
    worst = replay(method, FIXTURES[method])
    assert max(worst["losses"].values()) > 1e-3 or max(worst["final"].values()) > 3e-4


# ------------------------------------------------------------------------------- networks, schedule


def test_down_by_hand():
    """(1,2,1)/4 along both axes, every second pixel; the border is mirrored."""
    x = torch.arange(6.0).square().view(1, 1, 1, 6).expand(1, 2, 6, 6)
    y = cut_networks.Down(2)(x)
    expected = [(2 * 0 + 2 * 1) / 4, (1 + 2 * 4 + 9) / 4, (9 + 2 * 16 + 25) / 4]
    assert y.shape == (1, 2, 3, 3) and y[0, 0, 1].tolist() == expected
    odd = cut_networks.Down(2)(x[..., :5])
    assert odd.shape == (1, 2, 3, 3) and odd[0, 0, 1].tolist() == [*expected[:2], (2 * 9 + 2 * 16) / 4]


@both
def test_keys_and_their_order_are_the_authors(method):
    data = np.load(FIXTURES[method])
    model = trainer_of(method, data)
    expected = [key.removeprefix("init/") for key in data.files if key.startswith("init/")]
    assert [f"{name}/{key}" for name, net in model.networks().items() for key in net.state_dict()] == expected


def test_initial_outputs_are_nearly_grey():
    model = make("cut", "--ch 16 --netF_nc 64")
    assert model.F.mlp_3[2].weight.std().item() == pytest.approx(0.02 * (2 / 128) ** 0.5, rel=0.05)
    assert model.G(images(1, 32)).abs().max() < 0.1
    assert all((p == 0).all() for net in model.networks().values() for k, p in net.named_parameters() if "bias" in k)


@both
def test_learning_rates_are_the_programs(method):
    """The program's at the defaults, and those of the recording."""
    defaults = {
        "cut": {1: 2e-4, 200: 2e-4, 201: 1.990e-4, 202: 1.980e-4, 300: 1.005e-4, 399: 1.99e-6, 400: 9.95e-7},
        "fastcut": {1: 2e-4, 150: 2e-4, 151: 1.961e-4, 152: 1.922e-4, 175: 1.020e-4, 199: 7.84e-6, 200: 3.92e-6},
    }
    model = make(method, "--steps_per_epoch 3")
    for epoch, rate in defaults[method].items():
        for step in (3 * epoch - 2, 3 * epoch):
            assert model.lr(step) == pytest.approx(rate, rel=5e-4)
    data = np.load(FIXTURES[method])
    model = trainer_of(method, data)
    assert [model.lr(s + 1) for s in range(5)] == pytest.approx(data["config/lr_by_step"].tolist())
    assert config_of(data)["steps_per_epoch"] == 1


@both
def test_the_schedule_scales_with_the_run(method):
    """Constant for half (CUT) or three quarters (FastCUT) of the run."""
    model = make(method, "--iteration 4000")
    constant = {"cut": 2000, "fastcut": 3000}[method]
    rates = [model.lr(step) for step in (1, constant, constant + 20, 4000)]
    assert rates[0] == rates[1] == 2e-4 > rates[2] > rates[3] > 0


@pytest.mark.parametrize("cache", [False, True])
def test_while_the_learning_rate_falls_pictures_are_not_cropped(cache, folders):
    data, results = folders
    text = f"--steps_per_epoch 2 --n_epochs 2 --n_epochs_decay 2 --iteration 8 --batch_size 2 --cache {cache}"
    model = make("cut", text, dataset="toy", dataset_dir=data, result_dir=results)
    found = data_set_pictures(model.args, "trainA", "trainB")
    paths = {d: found[f"train{d}"] for d in "AB"}
    whole = {d: [np.asarray(Image.open(p).resize((32, 32), Image.Resampling.BICUBIC)) for p in paths[d]] for d in "AB"}
    cropped = UnpairedStream(paths, 32, 2, workers=0, load_size=36, resample="bicubic", sampling="cyclegan")
    with model.stream(paths) as stream:
        for step in range(1, 9):
            now, otherwise = next(stream), next(cropped)
            for d in "AB":
                if step <= 4:
                    assert torch.equal(now[d], otherwise[d])
                    continue
                for x in ((now[d] + 1) * 127.5).round():
                    pixels = x.permute(1, 2, 0).numpy()
                    assert any((pixels == p).all() or (pixels == p[:, ::-1]).all() for p in whole[d])
    assert make("cut", text.replace("True", "False") + " --decay_flag false").samples.keywords["whole_from"] == np.inf


# --------------------------------------------------------------------------------- options, files


def test_too_small_pictures(capsys):
    with pytest.raises(SystemExit) as end:
        make("cut", "--img_size 20")
    said = capsys.readouterr().err
    assert end.value.code == 2 and "24" in said and said.count("\n") == 1
    assert make("cut", "--img_size 24").train_step(images(1, 24), images(1, 24, 1))["G"].isfinite()


def test_training_without_patch_nce():
    """lambda_NCE 0, an error in the authors' program: F gets no gradient, G trains against D only."""
    model = make("cut", "--lambda_NCE 0")
    before = weights(model)
    terms = model.train_step(images(1, 32), images(1, 32, 1))
    assert terms["NCE"] == terms["NCE_Y"] == 0 and terms["G"] == terms["G_GAN"]
    now = weights(model)
    assert all(torch.equal(before[key], now[key]) for key in now if key.startswith("F/"))
    assert not torch.equal(before["G/model.1.weight"], now["G/model.1.weight"])


@both
def test_the_authors_files_are_told_from_cyclegans(method):
    """Both keep a generator in latest_net_G.pth."""
    model = make(method)
    found = {f"latest_net_{name}": net.state_dict() for name, net in model.networks().items()}
    name, networks = methods.recognise(found)
    assert name == "cut" and networks.keys() == {"G", "F", "D"}
    assert methods.load(name).infer_options(networks) == {"ch": 2, "img_ch": 3, "n_res": 5, "netF_nc": 8}
    name, networks = methods.recognise({"latest_net_G": model.G.state_dict()})
    assert name == "cut" and methods.load(name).infer_options(networks) == {"ch": 2, "img_ch": 3, "n_res": 5}
    other = methods.create(main.parse_args(["--method=cyclegan", "--img_size=32", "--ch=2", "--device=cpu"]))
    assert methods.recognise({"latest_net_G": other.G["B"].state_dict()})[0] == "cyclegan"


def test_a_released_generator_alone_translates(folders, tmp_path):
    model = make("cut")
    torch.save(model.G.state_dict(), tmp_path / "latest_net_G.pth")
    data, results = folders
    main.main(["--phase", "test", f"--checkpoint={tmp_path / 'latest_net_G.pth'}", "--dataset=toy", "--device=cpu",
               "--img_size=32", f"--dataset_dir={data}", f"--result_dir={results}"])  # fmt: skip
    model.G.eval()
    (_, expected), *_ = translate_file(model, data / "toy" / "testA" / "0.png", "A", "B", 32)
    assert np.array_equal(np.asarray(Image.open(results / "toy" / "fakeB" / "0.png")), expected)
