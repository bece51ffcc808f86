"""MUNIT and UNIT: networks, mistakes, checkpoints, styles; tests/test_methods.py has what holds of every method."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import HERE, images
from PIL import Image
from replay import replay, trainer_of

import main
import methods
from checkpoints.contents import architecture_of
from checkpoints.files import load_checkpoint
from images.encode import to_uint8
from methods.munit import MUNIT, AdaIN, LayerNorm, SharedContent
from methods.unit import UNIT
from training.cost import dry_run, modules
from translation.pipeline import prepared, seeded_by, translate_file
from utils import UserError

TINY = {
    "munit": "--img_size 16 --ch 2 --dis_dim 2 --mlp_dim 4 --n_res 1 --n_layer 2 --num_scales 2",
    "unit": "--img_size 16 --ch 2 --dis_dim 2 --n_res 1 --n_layer 2 --num_scales 2",
}
both = pytest.mark.parametrize("method", TINY)


def recording(method: str):
    return np.load(HERE / "fixtures" / f"{method}.npz")


def tiny(method: str = "munit", text: str = ""):
    argv = f"--method {method} {TINY[method]} --num_workers 0 --device cpu {text}"
    return methods.create(main.parse_args(argv.split()))


# ----------------------------------------------------------------------------------------- networks


COUNTS = {
    "munit": {
        "content encoders": (5_385_856, 24.24),
        "style encoders": (2_764_936, 6.25),
        "style networks": (1_120_768, 0.001116),
        "decoders": (5_754_627, 46.79),
        "discriminators": (8_271_171, 2.18),
    },
    "unit": {
        "encoders": (5_385_856, 24.24),
        "decoders": (5_754_627, 46.79),
        "discriminators": (8_271_171, 2.18),
    },
}


@both
def test_parameters_and_multiply_adds(method):
    """At full width, of each network, for one picture of 256 x 256."""
    dry = dry_run(methods.load(method), main.parse_args(["--method", method, "--device", "cpu"]))
    with torch.device("meta"):
        for title, names, net, forward, x in dry.summary_modules():
            rows = modules(net, forward, x)
            parameters, products = (sum(row[i] for row in rows) for i in (2, 3))
            expected = COUNTS[method][title]
            assert (parameters, len(names)) == (expected[0], 2) and products / 1e9 == pytest.approx(
                expected[1], abs=0.006
            )
    assert sum(p.numel() for p in dry.networks()["gen_a"].parameters()) == sum(
        count for title, (count, _) in COUNTS[method].items() if title != "discriminators"
    )


@both
def test_initialisation(method):
    """Mean and std of each weight at full width, as measured on the authors' program."""
    data = recording(method)
    model = methods.create(main.parse_args(["--method", method, "--device", "cpu"]))
    for net in ("gen_a", "dis_a"):
        weights = model.networks()[net].state_dict()
        assert {f"init_statistics/{net}/{key}" for key in weights} == {
            key for key in data.files if key.startswith(f"init_statistics/{net}/")
        }
        for key, value in weights.items():
            mean, std, low, high = data[f"init_statistics/{net}/{key}"].tolist()
            found = value.std().item() if value.numel() > 1 else 0.0
            few = 4 / value.numel() ** 0.5  # sampling error of the moments
            assert value.mean().item() == pytest.approx(mean, abs=few * std + 1e-9), key
            assert found == pytest.approx(std, rel=few, abs=1e-9), key
            assert low - 2 * std <= value.min() and value.max() <= high + 2 * std, key


@both
def test_keys_are_in_the_order_of_the_authors_files(method):
    data = recording(method)
    model = trainer_of(method, data)
    for name, net in model.networks().items():
        expected = [key.removeprefix(f"init/{name}/") for key in data.files if key.startswith(f"init/{name}/")]
        assert list(net.state_dict()) == expected


def test_sizes_of_pictures(capsys):
    for text, least in (("", 64), ("--num_scales 2", 32), ("--n_layer 5", 128), ("--num_scales 1 --n_layer 2", 16)):
        argv = ["--method", "munit", "--ch", "2", "--dis_dim", "2", "--n_res", "1", "--device", "cpu", *text.split()]
        with pytest.raises(SystemExit) as end:
            main.parse_args([*argv, "--img_size", str(least - 4)])
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.count("\n") == 1 and f"need {least}" in said
        model = methods.create(main.parse_args([*argv, "--img_size", str(least)]))  # just enough
        model.train_step(images(size=least), images(size=least, seed=1))
    with pytest.raises(SystemExit):
        main.parse_args(["--method", "unit", "--n_downsample", "3", "--img_size", "68", "--device", "cpu"])
    assert "divisible by 8" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- training


@both
def test_learning_rates(method):
    model = methods.create(main.parse_args(["--method", method, "--ch", "2", "--device", "cpu"]))
    for step, rate in recording(method)["config/lr_table"]:
        assert model.lr(int(step)) == pytest.approx(rate, rel=1e-12)


def _detached_content(monkeypatch):
    step = MUNIT.generator_objective

    def wrong(self, batch, s, t):
        loss, terms = step(self, batch, s, t)
        content = batch[f"content_{s}"]
        again = self.G[t].enc_content(self.G[t].decode(content, batch["style"]))
        return loss - F.l1_loss(again, content) + F.l1_loss(again, content.detach()), terms

    monkeypatch.setattr(MUNIT, "generator_objective", wrong)


def _scale_before_shift(monkeypatch):
    right = AdaIN.forward
    monkeypatch.setattr(AdaIN, "forward", lambda self, x, code: right(self, x, code.flip(1)))


def _one_style_for_both(monkeypatch):
    right = MUNIT.sample_noise
    monkeypatch.setattr(MUNIT, "sample_noise", lambda self, update, batch, s, t: right(self, update, batch, s, "A"))


def _biased_std(monkeypatch):
    def wrong(self, x):
        std, mean = torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (std + 1e-5) * self.gamma.view(-1, 1, 1) + self.beta.view(-1, 1, 1)

    monkeypatch.setattr(LayerNorm, "forward", wrong)


def _counted_padding(monkeypatch):
    right = F.avg_pool2d
    monkeypatch.setattr(F, "avg_pool2d", lambda *args, **more: right(*args, **more | {"count_include_pad": True}))


def _early_fall(monkeypatch):
    right = SharedContent.lr
    monkeypatch.setattr(SharedContent, "lr", lambda self, step: right(self, step + 1))


def _no_noise_in_reconstructions(monkeypatch):
    right = UNIT.sample_noise

    def quiet(self, update, batch, s, t):
        right(self, update, batch, s, t)
        if (update, s) == ("G", "A"):
            batch["noise_again"] = torch.zeros_like(batch["noise_again"])

    monkeypatch.setattr(UNIT, "sample_noise", quiet)


def _generators_first(monkeypatch):
    right = SharedContent.updates
    monkeypatch.setattr(SharedContent, "updates", lambda self: right(self)[::-1])


@pytest.mark.parametrize(
    "method, mistake",
    [
        ("munit", _detached_content),
        ("munit", _scale_before_shift),
        ("munit", _one_style_for_both),
        ("munit", _biased_std),
        ("munit", _counted_padding),
        ("munit", _early_fall),
        ("unit", _no_noise_in_reconstructions),
        ("unit", _generators_first),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_the_recording_catches_mistakes(method, mistake, monkeypatch):
    mistake(monkeypatch)
    worst = replay(method, None, data=recording(method), dtype=torch.float64)  # 3e-7 without a mistake
    assert max(worst["losses"].values()) > 1e-4


def test_the_cycle_of_munit():
    """Off in the recording: its value, and that it is 0 with weight 0."""
    real = images(size=16), images(size=16, seed=1)
    model = tiny("munit", "--recon_x_cyc_w 10")
    styles = {name: torch.randn(1, 8, 1, 1) for name in ("D/style_A", "D/style_B", "G/style_A", "G/style_B")}
    model.draw.normal = lambda name, *shape: styles[name]
    G, x = model.G, dict(zip("AB", real, strict=True))
    with torch.no_grad():
        expected = {}
        for s, t in model.directions:
            content, style = G[s].encode(x[s])
            again = G[t].enc_content(G[t].decode(content, styles[f"G/style_{t}"]))
            expected[s] = F.l1_loss(G[s].decode(again, style), x[s])
    terms = model.train_step(*real)
    for s in "AB":
        torch.testing.assert_close(terms[f"loss_gen_cycrecon_x_{s.lower()}"], expected[s])
    weights = dict(adv=1, recon_x=10, recon_c=1, recon_s=1, cycrecon_x=10)
    total = sum(w * terms[f"loss_gen_{name}_{d}"] for name, w in weights.items() for d in "ab")
    torch.testing.assert_close(terms["loss_gen_total"], total)
    for method in TINY:
        terms = tiny(method, "--recon_x_cyc_w 0").train_step(*real)
        name = "cycrecon_x" if method == "munit" else "cyc_x"
        assert terms[f"loss_gen_{name}_a"] == terms[f"loss_gen_{name}_b"] == 0


def test_biases_that_a_normalisation_removes_stay():
    model = tiny("munit")
    before = {name: p.clone() for name, p in model.G["A"].named_parameters()}
    for seed in range(3):
        model.train_step(images(size=16, seed=seed), images(size=16, seed=9 + seed))
    after = dict(model.G["A"].named_parameters())
    unchanged = {name for name, value in before.items() if torch.equal(value, after[name])}
    names = {key.split("/")[1] for key in recording("munit")["config/zero_gradient_keys"] if key.startswith("gen_a/")}
    assert unchanged == names & before.keys() and len(unchanged) > 5


# --------------------------------------------------------------------------------------- checkpoints


@both
def test_the_authors_checkpoints(method, folders, tmp_path):
    """gen_*.pt alone or the newest of a folder, with PyTorch 0.3's extra keys; the keys tell the method."""
    data, results = folders
    model, older = tiny(method), tiny(method, "--seed 1")
    folder = tmp_path / "official"
    folder.mkdir()
    for step, trainer in ((10, older), (20, model)):
        for kind in ("gen", "dis"):
            pair = {d: dict(trainer.networks()[f"{kind}_{d}"].state_dict()) for d in "ab"}
            if kind == "gen":
                stray = f"{trainer.encoder}.model.0.norm.running_"
                pair["a"] |= {f"{stray}mean": torch.zeros(2), f"{stray}var": torch.ones(2)}
            torch.save(pair, folder / f"{kind}_{step:08d}.pt")
    torch.save(
        {kind: torch.optim.Adam([torch.zeros(1)]).state_dict() for kind in ("gen", "dis")}, folder / "optimizer.pt"
    )
    state = load_checkpoint(folder, methods.recognise)
    assert state["method"] == method and torch.equal(
        state["dis_b"]["cnns.0.0.conv.weight"], model.D["B"].cnns[0][0].conv.weight
    )
    found = architecture_of(state, folder, methods.load(method))
    names = set(methods.load(method).architecture_options())
    assert found.keys() == names and found == {name: model.architecture[name] for name in names}
    for net in model.networks().values():
        net.eval()
    for place in (folder, folder / "gen_00000020.pt"):
        main.main(["--phase", "test", "--checkpoint", str(place), "--dataset=toy", "--device=cpu", "--img_size=16",
                   f"--dataset_dir={data}", f"--result_dir={results}"])  # fmt: skip
        for s, t in model.directions:
            source = data / "toy" / f"test{s}" / "1.png"
            ((_, expected),) = translate_file(model, source, s, t, 16)
            assert np.array_equal(np.asarray(Image.open(results / "toy" / f"fake{t}" / "1.png")), expected)
        shutil.rmtree(results)


@pytest.mark.parametrize("found", [{"gen_1": 3}, {"a": 3, "b": {}}, {"gen_a": 7}, {"gen_1": {"a": 5}, "gen_0": {}}, {}])
def test_other_dicts_are_not_recognised(found):
    assert MUNIT.from_released(found) is None and UNIT.from_released(found) is None


# -------------------------------------------------------------------------------------------- styles


@pytest.fixture
def styled(folders):
    """Runs main.py --phase test on a checkpoint of MUNIT with more options; returns {name: pixels} of fakeB."""
    data, results = folders
    argv = ["--dataset=toy", f"--dataset_dir={data}", f"--result_dir={results}", "--device=cpu"]
    model = methods.create(main.parse_args([*argv, "--method", "munit", *TINY["munit"].split(), "--num_workers=0"]))
    with torch.no_grad():
        for G in model.G.values():  # so that styles show in 8 bits
            G.mlp.model[-1].fc.weight.mul_(3)
    model.save()

    def run(*more: str) -> dict:
        shutil.rmtree(results / "toy" / "fakeB", ignore_errors=True)
        main.main(["--phase", "test", *argv, "--direction=AtoB", *more])
        return {path.name: np.asarray(Image.open(path)) for path in (results / "toy" / "fakeB").glob("*.*g")}

    run.model, run.inputs, run.results = model, data / "toy" / "testA", results
    return run


def test_several_translations_of_each_picture(styled):
    one, three = styled(), styled("--styles", "3")
    assert set(one) == {"0.png", "1.png"}  # the inputs' names, as scoring expects
    assert set(three) == {f"{i}_style{k}.png" for i in range(2) for k in range(3)}
    for i in range(2):
        assert np.array_equal(one[f"{i}.png"], three[f"{i}_style0.png"])
        assert len({three[f"{i}_style{k}.png"].tobytes() for k in range(3)}) == 3
    assert all(np.array_equal(three[name], again) for name, again in styled("--styles=3").items())
    other = styled("--styles=3", "--seed=1")
    assert not any(np.array_equal(three[name], again) for name, again in other.items())


def test_a_pictures_styles_do_not_depend_on_order_or_rank(styled, monkeypatch):
    expected = styled("--styles=2")
    for old, new in (("0", "first_"), ("1", "0"), ("first_", "1")):  # swap them
        (styled.inputs / f"{old}.png").rename(styled.inputs / f"{new}.png")
    swapped = styled("--styles=2")
    for i in range(2):
        for k in range(2):
            assert np.array_equal(swapped[f"{1 - i}_style{k}.png"], expected[f"{i}_style{k}.png"])
    build = MUNIT.__init__

    def second_of_two(self, args, **more):
        build(self, args, **more)
        self.rank, self.world = 1, 2

    monkeypatch.setattr(MUNIT, "__init__", second_of_two)
    alone = styled("--styles=2")
    assert set(alone) == {"1_style0.png", "1_style1.png"}
    assert all(np.array_equal(swapped[name], picture) for name, picture in alone.items())


def test_the_style_of_an_example(styled):
    example = styled.inputs.parent / "testB" / "1.png"
    found = styled("--style_from", str(example))
    for net in styled.model.networks().values():
        net.eval()
    for i in range(2):
        (x, h, w), (y, *_) = (prepared(styled.model, path, 16) for path in (styled.inputs / f"{i}.png", example))
        with torch.no_grad():
            G = styled.model.G
            picture = G["B"].decode(G["A"].enc_content(x), G["B"].enc_style(y))
        assert np.array_equal(found[f"{i}.png"], to_uint8(picture[0])[:h, :w])
    assert found.keys() == {"0.png", "1.png"}
    several = styled("--style_from", str(example), "--styles=2")  # equal pictures: a diversity of 0
    assert several.keys() == {f"{i}_style{k}.png" for i in range(2) for k in range(2)}
    assert all(np.array_equal(picture, found[f"{name[0]}.png"]) for name, picture in several.items())


def test_a_missing_example_is_refused_before_anything_is_written(styled):
    with pytest.raises(UserError, match="absent.png") as refusal:
        styled("--style_from", str(styled.inputs.parent / "absent.png"))
    assert "\n" not in str(refusal.value) and not (styled.results / "toy" / "fakeB").exists()


def test_the_grid_shows_the_styles_of_the_translations(styled):
    """Input, reconstruction, three styles, the same for a picture in every grid."""
    model = styled.model
    for net in model.networks().values():
        net.eval()
    path = styled.inputs / "0.png"
    x = prepared(model, path, 16)[0]
    with torch.no_grad(), seeded_by(path, model.args.seed):
        rows = model.visuals(x, "A", "B")
    pictures = styled("--styles=3")
    assert len(rows) == 5 and torch.equal(rows[0], x)
    for k, row in enumerate(rows[2:]):
        assert np.array_equal(to_uint8(row[0]), pictures[f"0_style{k}.png"])


def test_help_of_the_options_of_styles(capsys):
    with pytest.raises(SystemExit):
        main.main(["--method", "munit", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--styles" in said and "--style_from PICTURE" in said and "10 (MUNIT)" in said
    with pytest.raises(SystemExit):
        main.parse_args(["--method", "unit", "--styles", "2", "--device", "cpu"])  # it has no styles
    assert "--styles" in capsys.readouterr().err
