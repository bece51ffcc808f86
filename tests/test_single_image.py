"""Two single pictures: the paper's crops and tiles, and CycleGAN with SinCUT's networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from runs import SMALL

import main
import methods
from checkpoints.contents import architecture_of
from checkpoints.files import load_checkpoint
from images.files import list_images
from methods import single_image
from methods.single_image import CropsOfPaper, tiled

HOME = Path(__file__).parents[1]


def create(method: str, text: str = ""):
    argv = f"--method {method} {SMALL[method]} --device cpu --num_workers 0 {text}".split()
    return methods.create(main.parse_args(argv))


def batch(model) -> dict[str, torch.Tensor]:
    generator, size = torch.Generator().manual_seed(1), model.args.img_size
    return {d: torch.rand(2, 3, size, size, generator=generator) * 2 - 1 for d in "AB"}


@pytest.fixture
def paths(tmp_path):
    """One picture per domain, 97 x 130 and 200 x 71 pixels."""
    rng = np.random.default_rng(0)
    for d, size in (("A", (130, 97)), ("B", (71, 200))):
        path = tmp_path / "dataset" / "tiny" / f"train{d}" / f"{d}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return {d: list_images(tmp_path / "dataset" / "tiny" / f"train{d}") for d in "AB"}


# --------------------------------------------------------------------------------- crops and tiles


def test_crops_of_the_paper_have_one_width_a_batch_and_the_pictures_proportions(paths, monkeypatch):
    seen = []
    empty = np.zeros((16, 16, 3), np.uint8)
    monkeypatch.setattr(single_image, "crop_at", lambda *given: seen.append(given[2:]) or empty)
    samples = CropsOfPaper(paths, 16, 3, 0, batch_size=4, widths=(40, 90))
    for k in range(800):
        samples.sample("A", k)
    zooms, patches, starts, mirrored = zip(*seen, strict=True)
    widths = np.array([97 * x for x, _ in zooms])
    assert all(x == y for x, y in zooms) and not any(patches)
    assert np.allclose(widths, widths.round()) and widths.round().min() == 40 and widths.round().max() == 90
    batches = widths.reshape(-1, 4)
    assert (batches == batches[:, :1]).all() and len(np.unique(batches[:, 0])) > 40
    assert 0.45 < np.mean(mirrored) < 0.55
    room = widths.round() - 16  # of the left side
    assert (np.array(starts)[:, 0] <= room).all() and (np.array(starts)[:, 0] / room).max() > 0.98
    assert len({tuple(start) for start in starts}) > 700


def test_a_crop_of_the_paper_is_a_window_of_the_resized_picture(paths):
    samples = CropsOfPaper(paths, 16, 3, 7, batch_size=2, widths=(64, 64))
    whole = np.array(Image.open(paths["A"][0]).resize((64, round(130 * 64 / 97)), Image.Resampling.BILINEAR)).astype(
        int
    )
    for k in range(3):
        crop, again = samples.sample("A", k), samples.sample("A", k)
        assert np.array_equal(crop, again)
        windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 16, 3))[..., 0, :, :, :]
        off = [np.abs(windows - way).max((2, 3, 4)).min() for way in (crop, crop[:, ::-1])]
        assert min(off) <= 1
    assert samples.sample("B", 0).shape == (16, 16, 3)


def test_tiles_are_the_parts_of_crops():
    x = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    tiles = tiled(x, 4)
    assert tiles.shape == (8, 3, 4, 4)
    expected = [crop[:, top : top + 4, left : left + 4] for crop in x for top in (0, 4) for left in (0, 4)]
    assert torch.equal(tiles, torch.stack(expected)) and tiled(x, 8) is x


@pytest.mark.parametrize("method", ["sincut", "sincyclegan"])
def test_the_discriminator_judges_tiles(method):
    """Its networks are those of 64 pixels; its terms are those of the tiles, by hand."""
    model, small = create(method, "--img_size 128 --D_size 64"), create(method)
    counts = [[p.shape for net in m.networks().values() for p in net.parameters()] for m in (model, small)]
    assert counts[0] == counts[1]
    pictures = batch(model)
    D = model.networks()["D" if method == "sincut" else "D_A"]
    fake = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    loss, terms = model.discriminator_objective({**pictures, "fake": fake, "old_B": fake}, "A", "B")
    corners = [(top, left) for top in (0, 64) for left in (0, 64)]
    judged = {name: [crop[None, :, top : top + 64, left : left + 64] for crop in x for top, left in corners]
              for name, x in (("real", pictures["B"]), ("fake", fake))}  # fmt: skip
    real = torch.stack([F.softplus(-D(x)) for x in judged["real"]]).mean()
    fooled = torch.stack([F.softplus(D(x)) for x in judged["fake"]]).mean()
    penalty = 0
    for x in judged["real"]:
        (gradient,) = torch.autograd.grad(D(y := x.clone().requires_grad_()).sum(), y)
        penalty += gradient.square().sum() / 2 / len(judged["real"])
    torch.testing.assert_close(loss, (real + fooled) / 2 + penalty, rtol=1e-4, atol=1e-5)
    assert set(terms) == ({"D_real", "D_fake", "D_R1"} if method == "sincut" else {"D_A", "D_R1_A"})


@pytest.mark.parametrize("method", ["sincut", "sincyclegan"])
def test_a_checkpoint_knows_its_tiles(method, paths):
    folder = paths["A"][0].parents[3]
    places = f"--dataset tiny --dataset_dir {folder}/dataset --result_dir {folder}/results"
    create(method, f"--img_size 128 --D_size 64 {places}").save()
    path = folder / "results" / "tiny_params_latest.pt"
    found = architecture_of(load_checkpoint(path, methods.recognise), path, methods.load(method))
    assert (found["img_size"], found["D_size"], found["ch"], found["ndf"]) == (128, 64, 1, 1)


@pytest.mark.parametrize("wrong, words", [
    ("--D_size 32", "tiles"), ("--img_size 96 --D_size 64", "multiple"), ("--min_width 9 --max_width 8", "exchange"),
    ("--img_size 32", "64, 128 or 256"),
])  # fmt: skip
def test_wrong_options_end_at_once(wrong, words, capsys):
    for method in ("sincut", "sincyclegan"):
        with pytest.raises(SystemExit) as end:
            create(method, wrong)
        said = capsys.readouterr().err
        assert end.value.code == 2 and words in said and said.count("\n") == 1


def test_the_papers_and_the_programs_settings_differ_in_the_crops_alone():
    read = {name: vars(main.parse_args([f"@{HOME}/configs/{name}.txt", "--device", "cpu"]))
            for name in ("sincut/paper", "sincut/program", "sincyclegan/paper")}  # fmt: skip
    paper, program, cycle = read.values()
    differ = {k: (paper[k], v) for k, v in program.items() if paper[k] != v and k not in ("given", "command")}
    assert differ == {"img_size": (128, 64), "D_size": (64, 0), "crops": ("paper", "program")}
    assert (paper["min_width"], paper["max_width"], paper["batch_size"]) == (384, 1024, 16)
    alike = ("img_size", "D_size", "crops", "min_width", "max_width", "batch_size", "ch", "ndf", "lr", "iteration")
    assert all(paper[k] == cycle[k] for k in alike)


# ------------------------------------------------------------------------------------- SinCycleGAN


def test_the_generators_loss_by_hand():
    """At the start noise has no effect: its weight is 0."""
    model = create("sincyclegan", "--lambda_A 3 --lambda_B 5 --lambda_identity 0.25")
    G, D, x = model.G, model.D, batch(model)
    loss, terms = model.generator_objective(dict(x), "A", "B")
    fake = G["B"](x["A"])
    expected = {
        "G_A": F.softplus(-D["B"](fake)).mean(),
        "cycle_A": 3 * (G["A"](fake) - x["A"]).abs().mean(),
        "idt_A": 5 * 0.25 * (G["B"](x["B"]) - x["B"]).abs().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, sum(expected.values()), rtol=1e-4, atol=1e-5)


def test_each_generator_learns_from_its_own_cycle_and_noise_is_drawn_by_name():
    model, asked = create("sincyclegan"), []
    normal = model.draw.normal
    model.draw.normal = lambda name, *shape: asked.append((name, shape)) or normal(name, *shape)
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in model.networks().items()}
    terms = model.train_step(*batch(model).values())
    assert all(any((a != b).any() for a, b in zip(before[name], net.parameters(), strict=True))
               for name, net in model.networks().items())  # fmt: skip
    assert asked == [(f"G/noise_{kind}{d}", (n, 1, 64, 64)) for d in "AB" for kind, n in (("", 4), ("cycle_", 2))]
    assert set(terms) == {f"{name}_{d}" for name in ("G", "cycle", "idt", "D", "D_R1") for d in "AB"} | {"G", "D"}
    assert [len(pool.state()) for pool in model.pools.values()] == [2, 2]
