"""U-GAT-IT: recordings, planted mistakes, parameter counts, the authors' files, clipping of rho."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import HERE, double_precision, images, weights
from PIL import Image
from replay import final_of, pictures, replay, trainer_of

import layers
import main
import methods
from checkpoints.contents import architecture_of
from checkpoints.files import newest_checkpoint
from layers import instance_norm
from methods import ugatit
from training.cost import dry_run, modules
from translation.pipeline import translate_file
from utils import UserError

LIGHT, FULL = (HERE / "fixtures" / f"{name}.npz" for name in ("ugatit", "ugatit_full"))
TINY = "--method ugatit --img_size 96 --ch 2 --n_res 1 --num_workers 0 --device cpu"


def make(text: str = "", **more) -> ugatit.UGATIT:
    return methods.create(main.parse_args([*TINY.split(), *text.split(), *(f"--{k}={v}" for k, v in more.items())]))


# -------------------------------------------------------------------------------------- recordings


@pytest.mark.parametrize("recording", [LIGHT, FULL], ids=["light", "full"])
def test_first_step_and_mean_weights(recording):
    """The losses of the first step agree to 2e-5, final weights on average to 1e-4."""
    data = np.load(recording)
    model = trainer_of("ugatit", data)
    for step in range(len(data["real_A"])):
        terms = model.train_step(*pictures(data, step))
        if step == 0:
            assert terms.keys() == {key.removeprefix("train/") for key in data.files if key.startswith("train/")}
            for name, value in terms.items():
                assert value.item() == pytest.approx(data[f"train/{name}"][0], rel=2e-5), name
        rate = model.optimizers["G"].param_groups[0]["lr"]
        assert rate == model.optimizers["D"].param_groups[0]["lr"] == pytest.approx(data["config/lr_by_step"][step])
    off = [np.abs(value.numpy() - final_of(data, key)).ravel() for key, value in weights(model).items()]
    assert np.concatenate(off).mean() < 1e-4


def caught(recording, *more: str) -> bool:
    """Whether a replay exceeds the bounds, which rounding does not; rho and cam have tighter ones than final."""
    worst = replay("ugatit", recording, *more)
    final = worst["final"].items()
    worst["rho"] = {key: off for key, off in final if key.endswith("rho")}
    worst["cam"] = {key: off for key, off in final if key.endswith("_fc.weight_orig")}
    bounds = {"first": 2e-5, "eval": 1e-4, "losses": 5e-3, "final": 1e-2, "rho": 2e-3, "cam": 3e-4}
    return any(off > bounds[kind] for kind, values in worst.items() for off in values.values())


def unclipped(patch):
    patch.setattr(ugatit.UGATIT, "after", lambda self, update: None)


def one_iteration_less(patch):
    iterate = ugatit.power_iterations
    patch.setattr(ugatit, "power_iterations", lambda D, n: iterate(D, n) if n == 2 else None)


def real_and_fake_of_one_sigma(patch):
    forward = ugatit.Discriminator.forward

    def one_sigma(self, x, iteration=None):
        return forward(self, x, iteration and iteration[:1])

    patch.setattr(ugatit.Discriminator, "forward", one_sigma)


def normalised_cam(patch):
    attend = ugatit.attend

    def normalised(f, conv1x1, gap, gmp):
        if gap.shape[1] > 12:  # a global discriminator's
            gap, gmp = gap / gap.norm(), gmp / gmp.norm()
        return attend(f, conv1x1, gap, gmp)

    patch.setattr(ugatit, "attend", normalised)


def attention_does_not_teach_the_cam(patch):
    attend = ugatit.attend
    patch.setattr(ugatit, "attend", lambda f, conv1x1, gap, gmp: attend(f, conv1x1, gap.detach(), gmp.detach()))


def cam_targets_swapped(patch):
    bce = ugatit.bce
    patch.setattr(ugatit, "bce", lambda logits, target: bce(logits, 1 - target))


def biased_variances(patch):
    def biased(x, mix, gamma, beta, eps=1e-5):
        of_instance, of_layer = (m[..., None, None] for m in mix.unbind(-1))
        shape = (-1, x.shape[1], 1, 1)
        mixed = of_instance * instance_norm(x) + of_layer * F.layer_norm(x, x.shape[1:])
        return mixed * gamma.reshape(shape) + beta.reshape(shape)

    patch.setattr(ugatit, "instance_layer_norm", biased)


def no_gradient_from_the_cycle(patch):
    objective = ugatit.UGATIT.generator_objective

    def cut(self, batch, s, t):
        fake, G = batch[f"fake_{t}"].output, self.G[s]
        self.G = {**self.G, s: lambda pair: G(torch.cat((fake.detach(), pair[len(fake) :])))}
        try:
            return objective(self, batch, s, t)
        finally:
            self.G = {**self.G, s: G}

    patch.setattr(ugatit.UGATIT, "generator_objective", cut)


def rho_without_decay(patch):
    before = ugatit.UGATIT.before

    def undo(self, update):  # subtracts what the decay adds to the gradient
        before(self, update)
        for rho in self.rhos:
            rho.grad = -self.args.weight_decay * rho.detach() * (update == "G")

    patch.setattr(ugatit.UGATIT, "before", undo)


MISTAKES = [unclipped, one_iteration_less, real_and_fake_of_one_sigma, normalised_cam]
MISTAKES += [attention_does_not_teach_the_cam, cam_targets_swapped, biased_variances, no_gradient_from_the_cycle]
MISTAKES += [rho_without_decay]


def test_nothing_is_caught_without_a_mistake():
    assert not caught(LIGHT)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_caught(mistake, monkeypatch):
    mistake(monkeypatch)
    assert caught(LIGHT)


def test_the_fast_step_is_the_definitions_step():
    """In double precision: three steps with batches of 2."""
    with double_precision():
        ours, plain = (make(f"--batch_size 2 --iteration 4 --plain {flag}") for flag in ("false", "true"))
    for model in (ours, plain):
        for rho in model.rhos:  # between 0 and 1, so that both normalisations count
            rho.data.uniform_(0.2, 0.8, generator=torch.Generator().manual_seed(1))
    for seed in range(3):
        batch = [images(2, 96, 2 * seed + i).double() for i in range(2)]
        terms = []
        for model in (ours, plain):
            layers.use_definitions(model.args.plain)
            terms.append(model.train_step(*batch))
        for name, value in terms[1].items():
            assert terms[0][name].item() == pytest.approx(value.item(), rel=1e-9), name
    layers.use_definitions(False)
    expected = weights(plain)
    for key, value in weights(ours).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-8, msg=key)


def test_no_pass_is_repeated():
    """Pictures per network and step: a generator's fake, cycle, identity; a discriminator's real, fake, fake."""
    model, seen = make(), {}
    for name, net in model.networks().items():
        net.register_forward_hook(lambda _, x, y, name=name: seen.setdefault(name, []).append(len(x[0])))
    model.train_step(images(1, 96), images(1, 96, seed=1))
    assert {name: sum(counts) for name, counts in seen.items()} == dict.fromkeys(model.networks(), 3)


def test_rho_is_clipped_and_moments_are_not():
    model = make("--lr 0.5")
    for seed in range(2):
        model.train_step(images(1, 96, 2 * seed), images(1, 96, 2 * seed + 1))
    values = torch.cat([rho.flatten() for rho in model.rhos]).detach()
    assert len(model.rhos) == 2 * 4 and ((values == 0) | (values == 1)).any()
    assert values.min() >= 0 and values.max() <= 1
    moments = [model.optimizers["G"].state[rho]["exp_avg"] for rho in model.rhos]
    assert all(moment.abs().max() > 0 for moment in moments)


# ------------------------------------------------------------------------------------------- counts

COUNTS = {  # parameters, multiply-adds in G, of one network for one picture of 256 pixels
    "light": {"genA2B": (10_589_888, 52.50), "disGA": (53_130_176, 4.254), "disLA": (3_290_560, 3.651)},
    "full": {"genA2B": (278_959_808, 52.77), "disGA": (53_130_176, 4.254), "disLA": (3_290_560, 3.651)},
}


@pytest.mark.parametrize("form", COUNTS)
def test_counts(form):
    args = main.parse_args(["--method", "ugatit", f"--light={form == 'light'}", "--device", "cpu"])
    dry = dry_run(methods.load("ugatit"), args)
    with torch.device("meta"):
        for _, names, net, forward, x in dry.summary_modules():
            rows = modules(net, forward, x, dry.counts_biases)
            parameters, products = COUNTS[form][names[0]]
            assert sum(row[2] for row in rows) == parameters == sum(p.numel() for p in net.parameters())
            assert sum(row[3] for row in rows) / 1e9 == pytest.approx(products, rel=2e-4)


def test_totals_are_the_slides(capsys):
    main.main(["--method", "ugatit", "--phase", "info", "--device", "cpu"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["generators", "21.2M", "105.0G"] in lines and ["discriminators", "112.8M", "15.8G"] in lines


# ------------------------------------------------------------------------------------------- files


def test_keys_and_optimizers_are_in_the_order_of_the_authors_files():
    data = np.load(LIGHT)
    model = trainer_of("ugatit", data)
    assert list(model.networks()) == ["genA2B", "genB2A", "disGA", "disGB", "disLA", "disLB"]
    ours = [f"init/{name}/{key}" for name, net in model.networks().items() for key in net.state_dict()]
    assert ours == [key for key in data.files if key.startswith("init/")]
    for name, kind in (("D", "dis"), ("G", "gen")):
        expected = [p for key, net in model.networks().items() if key.startswith(kind) for p in net.parameters()]
        assert all(a is b for a, b in zip(model.optimizers[name].param_groups[0]["params"], expected, strict=True))


@pytest.mark.parametrize("form", ["--light true --ch 3 --n_res 2", "--light false"])
def test_an_authors_file_translates(form, folders, tmp_path, capsys):
    """One dict of six networks without optimizers, with a profiler's extra keys; the shapes tell the architecture."""
    data, results = folders
    model = make(form, seed=3)
    stray = {"total_ops": torch.zeros(1), "DownBlock.total_params": torch.zeros(1)}
    file = tmp_path / "horse2zebra_params_0100000.pt"
    torch.save({name: {**net.state_dict(), **stray} for name, net in model.networks().items()}, file)
    for net in model.networks().values():
        net.eval()
    argv = ["--phase=test", f"--checkpoint={file}", "--dataset=toy", "--device=cpu", "--img_size=96"]
    argv += [f"--dataset_dir={data}", f"--result_dir={results}"]
    main.main(argv)
    for s, t in model.directions:
        ((_, expected),) = translate_file(model, data / "toy" / f"test{s}" / "1.png", s, t, 96)
        assert np.array_equal(np.asarray(Image.open(results / "toy" / f"fake{t}" / "1.png")), expected)
    if model.args.light:
        main.main([*argv, "--keep_size"])
        assert Image.open(results / "toy" / "fakeB" / "1.png").size == (60, 49)
    else:
        with pytest.raises(UserError, match="bound to their size"):
            main.main([*argv, "--keep_size"])


def test_training_goes_on_from_an_authors_file(folders, tmp_path):
    data, results = folders
    file = tmp_path / "params.pt"
    torch.save({name: net.state_dict() for name, net in make(seed=3).networks().items()}, file)
    state, path = newest_checkpoint(results, str(file), methods.recognise)
    assert state["method"] == "ugatit" and architecture_of(state, path, ugatit.UGATIT) == {
        "ch": 2, "img_ch": 3, "n_res": 1, "light": True}  # fmt: skip


@pytest.mark.parametrize("size, words", [(92, "92 is too small for the global discriminators, which need 96"),
                                         (98, "98 must be divisible by 4")])  # fmt: skip
def test_impossible_sizes_are_refused(size, words, capsys):
    with pytest.raises(SystemExit) as end:
        make(f"--img_size {size}")
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_visuals_are_the_authors():
    model, x = make(), images(1, 96)
    for net in model.networks().values():
        net.eval()
    with torch.no_grad():
        shown = model.visuals(x, "A", "B")
        fake = model.translate(x, "A", "B")
        expected = {0: x, 2: model.translate(x, "B", "A"), 4: fake, 6: model.translate(fake, "B", "A")}
    assert len(shown) == 7 and all(row.shape == x.shape for row in shown)
    assert all(torch.equal(shown[i], row) for i, row in expected.items())
