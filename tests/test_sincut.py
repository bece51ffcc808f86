"""SinCUT: crops, whole pictures, official checkpoints, planted mistakes; tests/test_methods.py has the rest."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import HERE, differing, weights
from PIL import Image
from replay import Replayed, config_of, pictures, trainer_of
from runs import Run, complaint, snapshot

import main
import methods
from checkpoints.contents import architecture_of, load_network
from checkpoints.files import load_checkpoint
from dataset import UnpairedStream
from images.files import list_images
from methods import sincut, single_image, stylegan2
from methods.sincut import patch_nce
from methods.single_image import Crops, crop_at, zoomed_size
from training.cost import dry_run, modules
from utils import UserError

TINY = "--method sincut --device cpu --num_workers 0 --ch 1 --ndf 1 --netF_nc 8 --batch_size 2"


def trainer(text: str = "", tiny=TINY):
    return methods.create(main.parse_args([*tiny.split(), *text.split()]))


@pytest.fixture(scope="module")
def recording():
    return np.load(HERE / "fixtures" / "sincut.npz")


# ------------------------------------------------------------------------------------------ networks


def test_multiply_adds_at_256_pixels():
    dry = dry_run(methods.load("sincut"), main.parse_args(["--method", "sincut", "--device", "cpu"]))
    with torch.device("meta"):
        rows = modules(dry.G, dry.G, torch.empty(1, 3, 256, 256))
    assert sum(row[3] for row in rows) == pytest.approx(53.34e9, rel=1e-4)


def test_names_and_order_of_the_weights(recording):
    model = trainer_of("sincut", recording)
    for name, net in model.networks().items():
        keys = [key.split("/", 2)[2] for key in recording.files if key.startswith(f"init/{name}/")]
        assert list(net.state_dict()) == keys


def test_the_small_generator_has_no_noise_and_two_blocks():
    model = trainer("--netG smallstylegan2")
    model.draw.normal = None  # never called
    before = weights(model)
    model.train_step(*torch.rand(2, 2, 3, 64, 64))
    assert "G/decoder.convs.1.noise.weight" not in differing(before, weights(model))
    assert model.layers == [0, 2] and len(model.G.encoder.convs) == 4 and len(model.G.decoder.convs) == 3


def test_patch_nce_is_the_authors_formula():
    """Their first logit is the query's own key; then come all keys, with -10 for its own."""
    rng = torch.Generator().manual_seed(0)
    q, k = (F.normalize(torch.randn(6, 5, generator=rng, dtype=torch.float64)) for _ in "qk")
    others = (q @ k.T).masked_fill(torch.eye(6, dtype=torch.bool), -10)
    logits = torch.cat(((q * k).sum(1, keepdim=True), others), 1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(patch_nce(q, k, 0.07), expected, rtol=1e-14, atol=0)


def test_learning_rates(recording):
    model = trainer_of("sincut", recording)
    for epoch, rate in recording["config/lr_table"]:
        for step in (6250 * int(epoch - 1) + 1, 6250 * int(epoch)):
            assert model.lr(step) == pytest.approx(rate, rel=1e-6)


# ----------------------------------------------------------------------------------------- mistakes


def no_gain(self, x, gain=1.0, bias=None):
    return F.conv2d(x, self.weight / math.sqrt(self.weight[0].numel()), bias, self.stride, self.padding)


def with_keys_gradient(self, queries, keys, name):
    sizes = zip(self.layers, (q[0, 0].numel() for q in queries), strict=True)
    patch_ids = [self.draw.permutation(f"{name}_{layer}", n)[:1] for layer, n in sizes]
    pairs = zip(self.F(queries, patch_ids), self.F(keys, patch_ids), strict=True)
    return self.args.lambda_NCE * sum(patch_nce(q, k, self.args.nce_T) for q, k in pairs) / 3


def swapped_patches(self, queries, keys, name, contrast=sincut.SinCUT.contrast):
    return contrast(self, queries, keys, {"G/patches": "G/patches_idt", "G/patches_idt": "G/patches"}[name])


MISTAKES = [
    (sincut.SinCUT, "betas", (0.5, 0.99)),
    (sincut.SinCUT, "betas", (0.0, 0.999)),
    (sincut.SinCUT, "contrast", with_keys_gradient),
    (sincut.SinCUT, "contrast", swapped_patches),
    (sincut.SinCUT, "updates", lambda self, updates=sincut.SinCUT.updates: updates(self)[::-1]),
    (sincut, "patch_nce", lambda q, k, T: patch_nce(k, q, T)),
    (stylegan2, "SLOPE", 0.1),
    (stylegan2.EqualConv, "forward", no_gain),
    (stylegan2.Noise, "forward", lambda self, x, noise: x),
    (stylegan2.Blur, "forward", lambda self, x, blur=stylegan2.Blur.forward: blur(self, x).roll(1, 2)),
]


@pytest.mark.parametrize("place, name, mistake", MISTAKES)
def test_a_mistake_shows(place, name, mistake, recording, monkeypatch):
    """Each changes a loss of the first three steps by far more than the tolerance of 2e-5."""
    monkeypatch.setattr(place, name, mistake)
    model, worst = trainer_of("sincut", recording), 0.0
    for step in range(3):
        model.draw = Replayed(recording, step)
        terms = model.train_step(*pictures(recording, step))
        worst = max(worst, *(abs(terms[k].item() / recording[f"train/{k}"][step] - 1) for k in terms))
        if worst > 2e-4:
            return
    raise AssertionError(f"only {worst:.1e}")


# -------------------------------------------------------------------------------------------- crops


def test_crops_are_the_authors(recording):
    """At most one level off, in few values: only the crop's own area is resized."""
    picture = Image.fromarray(recording["data/picture"])
    names = ("zoom", "patch_index", "start", "flip", "zoomed_size", "crop")
    for zoom, patch, start, flip, size, crop in zip(*(recording[f"data/{name}"] for name in names), strict=True):
        assert zoomed_size(picture, 64, zoom) == size.tolist()
        off = np.abs(crop_at(picture, 64, zoom, patch, start, flip).astype(int) - crop.transpose(1, 2, 0))
        assert off.max() <= 1 and (off > 0).mean() < 0.05


def test_a_crop_is_that_of_the_whole_picture_resized():
    """For all crops of the grid, up to its borders."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((150, 130), Image.Resampling.BICUBIC)
    for zoom in ((1, 1), (0.5, 0.9), (0.1, 0.1), (0.77, 0.41)):
        w, h = zoomed_size(picture, 32, zoom)
        count = (w // 32) * (h // 32)
        whole = np.array(picture.resize((w, h), Image.Resampling.BILINEAR)).astype(int)
        for start in ((0, 0), (w % 32, h % 32)):
            for p in range(count):
                x, y = start[0] + 32 * (p // (h // 32)), start[1] + 32 * (p % (h // 32))
                crop = crop_at(picture, 32, zoom, p, start, False)
                assert np.abs(crop - whole[y : y + 32, x : x + 32]).max() <= 1
                mirrored = crop_at(picture, 32, zoom, p + 3 * count, start, True)
                assert np.array_equal(mirrored, crop[:, ::-1])


@pytest.fixture
def pair(tmp_path):
    """dataset/tiny with one large picture in trainA and trainB; the folder around it."""
    rng = np.random.default_rng(0)
    for d, size in (("A", (97, 130)), ("B", (120, 71))):
        path = tmp_path / "dataset" / "tiny" / f"train{d}" / f"picture_{d}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return tmp_path


def stream(folder, position=0, workers=0, batch=4, seed=0):
    paths = {d: list_images(folder / "dataset" / "tiny" / f"train{d}") for d in "AB"}
    samples = partial(Crops, batch_size=batch, scale_max=3.0)
    return UnpairedStream(paths, 16, batch, seed, position, workers, load_size=16, samples=samples)


def test_position_is_the_whole_state_of_the_crops(pair):
    with stream(pair) as whole:
        expected = [next(whole) for _ in range(6)]
    for workers in (0, 2):
        with stream(pair, position=12, workers=workers) as later:
            for batch in expected[3:]:
                found = next(later)
                assert all(torch.equal(found[d], batch[d]) for d in "AB")
    with stream(pair, seed=1) as other:
        assert not torch.equal(next(other)["A"], expected[0]["A"])


def test_zooms_and_numbers_are_fixed_and_origins_are_not(pair, monkeypatch):
    seen = []
    empty = np.zeros((16, 16, 3), np.uint8)
    monkeypatch.setattr(single_image, "crop_at", lambda *given: seen.append(given[2:]) or empty)
    monkeypatch.setattr(Crops, "EPOCH", 600)
    samples = stream(pair)._samples
    for k in range(1200):
        samples.sample("A", k)
    epochs = [sorted(seen[i : i + 600], key=lambda given: given[1]) for i in (0, 600)]
    for one, two in zip(*epochs, strict=True):
        assert one[1] == two[1] and np.array_equal(one[0], two[0])
    zooms, numbers, starts, mirrored = zip(*seen, strict=True)
    assert sorted(numbers[:600]) == list(range(600)) != list(numbers[:600])  # each once an epoch, shuffled
    assert len(np.unique(zooms[:600], axis=0)) == 600 // 4
    assert 1 / 3 <= np.min(zooms) < 0.36 and 0.97 < np.max(zooms) <= 1
    assert sum((a[2] != b[2]).any() for a, b in zip(*epochs, strict=True)) > 500
    assert 0.45 < np.mean(mirrored) < 0.55
    assert np.min(starts) == 0 and np.max(starts) >= 14


# ------------------------------------------------------------------------------------ whole pictures


def test_the_picture_is_read_whole(recording, tmp_path):
    Image.fromarray(recording["data/picture"]).save(tmp_path / "a.png")
    found = (trainer().read_input(tmp_path / "a.png", 32) + 1) * 127.5
    assert np.array_equal(found.round().byte().numpy(), recording["data/test_input"])


@pytest.mark.parametrize("more", ["", "--netG smallstylegan2"])
@torch.no_grad()
def test_tiles_are_the_whole(more, monkeypatch):
    model = trainer(more)
    torch.manual_seed(1)
    torch.nn.init.ones_(model.G.decoder.convs[-2].noise.weight)
    x = torch.rand(1, 3, 148, 200)
    torch.manual_seed(2)
    expected = model.translate(x, "A", "B")
    seen = []
    model.G.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:]))
    monkeypatch.setattr(single_image, "TILE", 60)
    torch.manual_seed(2)
    torch.testing.assert_close(model.translate(x, "A", "B"), expected, rtol=0, atol=3e-6)
    assert len(seen) == 3 * 4 and max(h * w for h, w in seen) < 148 * 200 * (0.8 if not more else 0.4)
    torch.manual_seed(3)
    same = torch.allclose(model.translate(x, "A", "B"), expected, rtol=0, atol=3e-6)
    assert same == bool(more)  # different noise, if any


# ------------------------------------------------------------------------------------------- program


def program(folder, text: str, status=0) -> Run:
    """main.py in a process of its own, waited for."""
    places = f"--dataset tiny --dataset_dir {folder}/dataset --result_dir {folder}/results --device cpu --log_freq 1"
    run = Run(folder, "runs:program", [*places.split(), *text.split()])
    assert run.wait() == status, run.output
    return run


def test_training_and_translating_a_pair(pair):
    """No test folders are needed; the training picture is translated, at its size."""
    run = program(pair, f"{TINY} --iteration 2 --print_freq 2")
    results = pair / "results" / "tiny"
    assert Image.open(results / "img" / "A2B_0000002.png").size == (128, 2 * 96)
    assert {"G_GAN", "NCE", "NCE_Y", "idt", "G", "D_real", "D_fake", "D_R1", "D"} <= set(run.lines()[-1])
    for more, name in (("", "B/picture_A.png"), ("--keep_size true", "B/picture_A.png")):
        program(pair, f"--phase test {more} --method sincut")
        assert Image.open(results / f"fake{name}").size == (128, 96)
    program(pair, f"{TINY} --iteration 1 --direction BtoA --result_dir {pair}/back")
    program(pair, f"--phase test --method sincut --result_dir {pair}/back --direction BtoA")
    assert Image.open(pair / "back" / "tiny" / "fakeA" / "picture_B.png").size == (72, 120)


@pytest.mark.parametrize("phase", ["train", "test"])
def test_more_than_one_picture_is_refused_in_one_line(pair, phase):
    if phase == "test":
        program(pair, f"{TINY} --iteration 1")
    picture = pair / "dataset" / "tiny" / "trainA" / "picture_A.png"
    Image.open(picture).save(picture.with_name("another.png"))
    before = snapshot(pair)
    options = f"{TINY}" if phase == "train" else "--method sincut --phase test"
    complaint(program(pair, options, status=2), "trainA", "holds 2 pictures", "a single one")
    assert snapshot(pair) == before


@pytest.mark.parametrize("wrong, words", [
    ("--img_size 32", "64, 128 or 256"), ("--img_size 96", "64, 128"), ("--img_size 512", "64, 128"),
    ("--compile true", "R1"), ("--random_scale_max 0.5", "at least 1"), ("--nce_T 0", "above 0"),
])  # fmt: skip
def test_wrong_options_end_at_once(wrong, words, capsys):
    with pytest.raises(SystemExit) as end:
        trainer(wrong)
    said = capsys.readouterr().err
    assert end.value.code == 2 and wrong.split()[0] in said and words in said and said.count("\n") == 1


# --------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("wrapped", ["", "module."])
@pytest.mark.parametrize("text", [
    "", "--ch 3", "--img_size 128 --ch 5 --ndf 3", "--img_size 256 --ch 1", "--ch 40 --ndf 2", "--netF_nc 5 --img_ch 1",
    "--netG smallstylegan2",
])  # fmt: skip
def test_an_official_folder_says_what_its_networks_are(text, wrapped, tmp_path):
    model = trainer(text)
    for name, net in model.networks().items():
        state = {wrapped + key: value for key, value in net.state_dict().items()}
        torch.save(state, tmp_path / f"latest_net_{name}.pth")
    state = load_checkpoint(tmp_path, methods.recognise)
    assert state["method"] == "sincut"
    found = architecture_of(state, tmp_path, sincut.SinCUT)
    again = trainer()
    again.build_model(**found)
    for name, net in again.networks().items():
        load_network(net, state, name, tmp_path)
    assert not differing(weights(model), weights(again))
    known = {name: value for name, value in model.architecture.items() if name in found}
    assert found == known and {"netG", "img_ch", "netF_nc", "img_size"} <= set(found)


@pytest.mark.parametrize("text", ["--ch 10", "--ch 40", "--img_size 128 --ch 5", "--img_size 128 --ch 3"])
def test_the_generator_alone_is_enough(text, tmp_path):
    model = trainer(text)
    torch.save(model.G.state_dict(), tmp_path / "5_net_G.pth")
    state = load_checkpoint(tmp_path / "5_net_G.pth", methods.recognise)
    again = trainer()
    again.build_model(**architecture_of(state, tmp_path, sincut.SinCUT))
    load_network(again.G, state, "G", tmp_path)
    x = torch.rand(1, 3, 24, 20)
    assert torch.equal(again.G(x), model.G(x))


def test_other_options_do_not_resume(pair):
    def made(text):
        places = f"--dataset tiny --dataset_dir {pair}/dataset --result_dir {pair}/results"
        return trainer(f"{places} {text}")

    made("").save()
    for other in ("--img_size 128", "--ch 2", "--netG smallstylegan2", "--direction BtoA"):
        with pytest.raises(UserError, match=other.split()[0]):
            made(other).load()


def test_recorded_options_are_taken_over(recording):
    args, config = trainer_of("sincut", recording).args, config_of(recording)
    for name in ("lambda_R1", "lambda_NCE", "nce_T", "num_patches", "ndf", "netF_nc", "batch_size", "lr", "init_gain"):
        assert getattr(args, name) == config[name]
    assert (args.ch, args.img_size) == (config["ngf"], config["crop_size"])
