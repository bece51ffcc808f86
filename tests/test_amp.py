"""Mixed precision on a CPU: every method's first step in bf16, and overflows of an fp16 scaler."""

import numpy as np
import pytest
import torch
from conftest import HERE, options, weights
from replay import Replayed, pictures, trainer_of
from runs import SMALL, complaint, train, trained
from runs import pictures as make_pictures
from test_methods import batch, settings

import main
import methods
import NICE
from training.precision import LEAST_WORK, PAYS, automatic, processor_flags
from translation.pipeline import to_tensor, translations


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


# ------------------------------------------------------------------------------------ recordings, auto

ROUNDING = 2.0**-8  # of bf16


@pytest.mark.parametrize("recording", ["cyclegan", "cut", "ugatit", "munit"])
def test_the_authors_losses_are_met_within_the_rounding_of_bf16(recording):
    data = np.load(HERE / "fixtures" / f"{recording}.npz")
    model = trainer_of(recording, data, "--amp", "bf16")
    model.draw = Replayed(data, 0)
    terms = model.train_step(*pictures(data, 0))
    names = [key.removeprefix("train/") for key in data.files if key.startswith("train/")]
    compared = {name: data[f"train/{name}"][0] for name in names if name in terms}
    assert len(compared) >= 4
    off = {name: abs(terms[name].item() / value - 1) for name, value in compared.items() if value}
    assert 1e-5 < max(off.values()) < 10 * ROUNDING, off


def test_nice_gan_s_losses_are_met_within_the_rounding_of_bf16(parity):
    nice = NICE.NICE(options(iteration=parity.steps, **parity.config, amp="bf16"))
    for name, net in nice.networks().items():
        net.load_state_dict(parity.initial(name))
    terms = nice.train_step(*parity.batches[0])
    off = {name: abs(terms[name].item() / parity.data[f"train/{name}"][0] - 1) for name in ("d_loss", "g_loss")}
    assert 1e-6 < max(off.values()) < 10 * ROUNDING, off


@pytest.mark.parametrize("method", ["nice", "cyclegan"])
def test_a_translation_in_bf16_is_near_one_in_float32(method):
    found = {}
    for amp in ("none", "bf16"):
        model = methods.create(settings(method, f"--amp {amp}"))
        with torch.no_grad():
            ((_, found[amp]),) = translations(model, batch(model, 0)[0], b"", *model.directions[0], to_tensor)
    off = (found["bf16"] - found["none"]).abs().max().item()
    assert 0 < off < 0.1


def test_auto_follows_the_processor():
    large = options("--img_size 256 --ch 64")
    assert automatic(large, {"avx2", "avx512f"})[0] == "none"
    assert automatic(large, {"avx512_bf16"})[0] == "bf16" and large.method in PAYS
    small = options("--img_size 64 --ch 16")
    assert small.img_size**2 * small.ch < LEAST_WORK and automatic(small, {"avx512_bf16"})[0] == "none"
    assert automatic(small, {"avx512_bf16", "amx_bf16", "amx_tile"})[0] == "bf16"
    large.device = "cuda:0"
    assert automatic(large, {"amx_bf16", "amx_tile"})[0] == "none"


def test_auto_says_what_it_chose_and_none_is_the_default(capsys):
    assert options().amp == "none"
    args = main.parse_args(["--amp", "auto", "--device", "cpu"])
    assert args.amp == automatic(args, processor_flags())[0]
    assert f"--amp auto is {args.amp}: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data"), each=1)


def test_the_program_trains_continues_and_translates_in_bf16(folder):
    trained(folder, "--iteration 1 --amp bf16")
    trained(folder, "--iteration 2 --resume True")
    run = trained(folder, "--phase test --amp bf16")
    assert "translated with" in run.output
    assert '"amp": "bf16"' in (folder / "results" / "tiny" / "fakeB" / "made.json").read_text()
    fp16 = train(folder, "--phase test --amp fp16")
    assert fp16.wait() == 2
    complaint(fp16, "--amp fp16 needs a CUDA GPU")
