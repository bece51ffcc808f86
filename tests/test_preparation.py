"""Around the step, as the authors' programs do it: training and test pictures, their order, the learning rate."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import save, scene
from runs import ROOT, SMALL, latest, pictures, trained, with_pictures
from torchvision import transforms
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

import main
import methods
from checkpoints.files import save_checkpoint
from dataset import Samples, UnpairedStream, report_enlarged
from images.data_sets import SOURCES
from images.decode import read_image
from images.files import list_images, output_paths
from training import budget
from translation.pipeline import test_side as side_of

BICUBIC, CONFIGS = InterpolationMode.BICUBIC, ROOT / "configs"
SIZES = [(178, 218), (219, 177), (256, 256), (101, 340), (341, 103)]


def options(text: str):
    return main.parse_args(f"--device cpu --num_workers 0 {text}".split())


def create(text: str):
    return methods.create(options(text))


class Drawn:
    """A random generator whose next window and coin are known."""

    def __init__(self, place, coin):
        self.place, self.coin = place, coin

    def integers(self, low, high, endpoint):
        self.corner = [int(place * (most + 1)) for place, most in zip(self.place, high, strict=True)]
        return self.corner

    def random(self):
        return self.coin


# --------------------------------------------------------------------------------------- pictures

FLIP_FIRST = {"nice", "ugatit", "munit", "unit"}
TRAIN = {  # method: the resize of its authors' training program, and its crop
    "nice": (transforms.Resize((286, 286)), 256),
    "ugatit": (transforms.Resize((286, 286)), 256),
    "cyclegan": (transforms.Resize([286, 286], BICUBIC), 256),
    "cut": (transforms.Resize([286, 286], BICUBIC), 256),
    "fastcut": (transforms.Resize([286, 286], BICUBIC), 256),
    "gcgan": (transforms.Resize([288, 288], BICUBIC), 256),
    "distancegan": (transforms.Resize(286), 256),
    "munit": (transforms.Resize(256), 256),
    "unit": (transforms.Resize(256), 256),
    "drit": (transforms.Resize((256, 256), BICUBIC), 216),
}
TEST = {  # in its test program; of DistanceGAN the whole picture instead of a random crop
    **dict.fromkeys(("nice", "ugatit"), transforms.Resize((256, 256))),
    **dict.fromkeys(("cyclegan", "cut", "fastcut", "gcgan"), transforms.Resize([256, 256], BICUBIC)),
    **dict.fromkeys(("distancegan", "munit", "unit"), transforms.Resize(256)),
    "drit": transforms.Compose([transforms.Resize((256, 256), BICUBIC), transforms.CenterCrop(216)]),
}


def narrow(method: str) -> str:
    """A method with its own picture sizes and small networks."""
    words = SMALL[method].split()
    words = [word for pair in zip(words[::2], words[1::2], strict=True) if pair[0] != "--img_size" for word in pair]
    return f"--method {method} {' '.join(words)}"


@pytest.mark.parametrize("method", TRAIN)
def test_pictures_are_the_authors_to_the_level(tmp_path, method):
    model, (resize, side) = create(narrow(method)), TRAIN[method]
    places = [(0.0, 0.999), (0.5, 0.3), (0.999, 0.0)]
    for n, size in enumerate(SIZES):
        path = save(tmp_path / f"{n}.png", scene(*size, seed=n))
        picture, paths = read_image(path), {"A": [path], "B": [path]}
        samples = UnpairedStream(paths, side, 1, workers=0, **model.picture_options())._samples
        for place, coin in zip(places, (0.2, 0.8, 0.2), strict=True):
            rng = Drawn(place, coin)
            ours = samples.view("A", 0, rng)
            theirs = functional.hflip(picture) if method in FLIP_FIRST and coin < 0.5 else picture
            theirs = resize(theirs)
            top, left = rng.corner
            if method in FLIP_FIRST and coin < 0.5:  # the same window, seen from the other side
                left = theirs.width - side - left
            theirs = functional.crop(theirs, top, left, side, side)
            if method not in FLIP_FIRST and coin < 0.5:
                theirs = functional.hflip(theirs)
            assert (ours == np.asarray(theirs)).all()
        test = ((model.read_input(path, side) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(test, np.asarray(TEST[method](picture)))
        assert model.read_sample(path).shape == (3, side, side)


def test_munit_keeps_proportions_and_crops(tmp_path):
    model = create(narrow("munit"))
    path = save(tmp_path / "cat.png", scene(178, 218))
    assert model.read_input(path, 256).shape == (3, 313, 256)
    samples = UnpairedStream({"A": [path], "B": [path]}, 256, 1, **model.picture_options())._samples
    assert samples.pixels("A", 0).shape == (313, 256, 3)


def test_every_method_takes_every_choice(tmp_path):
    path = save(tmp_path / "x.png", scene(300, 330))
    for preprocess, scaled, test in (
        ("resize_and_crop", (290, 290, 3), (3, 256, 256)),
        ("scale_and_crop", (319, 290, 3), (3, 281, 256)),
        ("crop", (330, 300, 3), (3, 330, 300)),
    ):
        more = "" if preprocess == "crop" else "--load_size 290"
        model = create(f"{narrow('nice')} --preprocess {preprocess} {more} --flip false")
        samples = UnpairedStream({"A": [path], "B": [path]}, 256, 1, **model.picture_options())._samples
        assert samples.pixels("A", 0).shape == scaled
        unflipped = samples.view("A", 0, Drawn((0, 0), 0.0))
        assert (unflipped == samples.pixels("A", 0)[:256, :256]).all()
        assert model.read_input(path, side_of(model, 256)).shape == test
        assert model.read_sample(path).shape == (3, 256, 256)


def test_pictures_too_small_for_the_crop_are_enlarged_and_counted(tmp_path, capfd):
    for i, size in enumerate([(20, 90), (64, 64), (90, 20)]):
        save(tmp_path / "trainA" / f"{i}.png", scene(*size))
    paths = list_images(tmp_path / "trainA")
    report_enlarged({"A": paths, "B": paths[1:2]}, 64)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("2 of the 3 pictures in") and "64 pixels" in said
    samples = Samples({"A": paths, "B": paths}, 64, 3, 0, preprocess="crop")
    assert [samples.pixels("A", i).shape[:2] for i in range(3)] == [(288, 64), (64, 64), (64, 288)]


@pytest.mark.parametrize("text, words", [
    ("--preprocess scale_width_and_crop", ["scale_and_crop"]),
    ("--preprocess none", ["here that is crop"]),
    ("--preprocess squash", ["squash", "resize_and_crop"]),
    ("--no_flip", ["--flip false"]),
    ("--crop_size 200", ["--img_size"]),
    ("--loadSize 286", ["--load_size"]),
    ("--load_size 255", ["255", "256"]),
    ("--preprocess crop --load_size 300", ["--load_size"]),
    ("--method sincut --flip false", ["sincut", "--flip"]),
    ("--method sincyclegan --flip false", ["sincyclegan", "--flip"]),
    ("--sampling other", ["sampling"]),
])  # fmt: skip
def test_impossible_choices_are_one_line(text, words, capsys):
    with pytest.raises(SystemExit) as end:
        options(text)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and all(word in said for word in words), said


# --------------------------------------------------------------------------------------- sampling


def drawn(sampling, n_A, n_B, samples, counted="A", seed=0):
    paths = {"A": [None] * n_A, "B": [None] * n_B}
    made = Samples(paths, 16, 3, seed, sampling=sampling, counted=counted, scales={"A": {}, "B": {}})
    return {d: np.array([made.index(d, k) for k in range(samples)]) for d in "AB"}


def test_cyclegans_program_draws_a_by_number_and_b_with_replacement():
    """Two epochs of horse2zebra: some 186 zebras never; 800 horses twice, the first 267 of the list four times."""
    found = drawn("cyclegan", 1067, 1334, 2 * 1334)
    horses, zebras = (np.bincount(found[d], minlength=n) for d, n in (("A", 1067), ("B", 1334)))
    assert (horses[:267] == 4).all() and (horses[267:] == 2).all()
    assert 140 < (zebras == 0).sum() < 230  # 1334 / e^2 = 181
    expected = 1334 * np.array([np.exp(-2) * 2**k / np.prod(range(1, k + 1)) for k in range(5)])
    assert (abs(np.bincount(zebras)[:5] - expected) < 5 * expected**0.5).all()
    assert not np.array_equal(found["A"][:1334], found["A"][1334:])
    swapped = drawn("cyclegan", 1334, 1067, 2 * 1334, counted="B")  # --direction BtoA: the horses stay the counted ones
    assert (np.bincount(swapped["B"])[:267] == 4).all() and (np.bincount(swapped["A"], minlength=1334) == 0).sum() > 140


def test_drits_program_shuffles_the_larger_set_and_draws_the_smaller_with_replacement():
    for n_A, n_B in (30, 50), (50, 30):
        found = drawn("drit", n_A, n_B, 100)
        large, small = ("B", "A") if n_B > n_A else ("A", "B")
        assert (np.bincount(found[large]) == 2).all()
        assert len(set(np.bincount(found[small], minlength=30))) > 2


def test_shuffle_is_what_it_was():
    found = drawn("shuffle", 7, 4, 28)
    for d, n in ("A", 7), ("B", 4):
        for epoch in range(28 // n):
            order = np.random.default_rng((0, ord(d), 0, epoch)).permutation(n)
            assert (found[d][epoch * n:(epoch + 1) * n] == order).all()


@pytest.mark.parametrize("choice", [
    {"sampling": "cyclegan"}, {"sampling": "drit"}, {"preprocess": "scale_and_crop"}, {"preprocess": "crop"},
    {"sampling": "cyclegan", "preprocess": "scale_and_crop", "flip": False},
])  # fmt: skip
def test_every_stream_is_a_pure_function_of_seed_domain_and_number(tmp_path, choice):
    for d, n in ("A", 5), ("B", 3):
        for i in range(n):
            save(tmp_path / d / f"{i}.png", scene(20 + 3 * i, 33 - i, seed=i + ord(d)))
    paths = {d: list_images(tmp_path / d) for d in "AB"}

    def take(n, start=0, batch=1, **more):
        with UnpairedStream(paths, 16, batch, position=start, **{"workers": 0, **choice, **more}) as stream:
            batches = [next(stream) for _ in range(n)]
        return {d: torch.cat([x[d] for x in batches]) for d in "AB"}

    whole = take(12)
    for found, a, b in (
        (take(4, 4), 4, 8), (take(3, 2, 2, workers=2), 2, 8), (take(12, cache=True), 0, 12),
        (take(2, 3, 2, rank=0, world=2), 3, 5),
    ):  # fmt: skip
        for d in "AB":
            assert torch.equal(found[d][: b - a], whole[d][a:b])
    other = take(12, seed=1)
    assert not torch.equal(other["A"], whole["A"])


def test_each_method_draws_as_its_authors():
    found = {method: options(narrow(method)).sampling for method in methods.METHODS}
    theirs = dict.fromkeys(("cyclegan", "cut", "fastcut", "gcgan"), "cyclegan") | {"drit": "drit"}
    assert found == {**dict.fromkeys(methods.METHODS, "shuffle"), **theirs}


# ------------------------------------------------------------------------------------------ rates


def linear(n, decay, beyond=1, shift=0):
    """CycleGAN's law by epoch 1..n+decay, from its formula."""
    return [1 - max(0, e + shift - n) / (decay + beyond) for e in range(1, n + decay + 1)]


HALF = np.concatenate([np.ones(50_000), 1 - np.arange(1, 50_001) / 50_000])
DRIT = [1 - max(0, e - 1 - 600) / 601 for e in range(1200)]  # on PyTorch 0.4
RATES = {  # method and options: rates of each epoch or step, divided by the first; steps in an epoch
    "nice": (HALF, 1),
    "ugatit": (HALF, 1),
    "cyclegan": (linear(100, 100), 1334),
    "cyclegan --early_decay true": (linear(100, 100, shift=1), 1334),
    "gcgan": (linear(100, 100), 167),
    "gcgan --early_decay true": (linear(100, 100, shift=1), 167),
    "distancegan": (linear(100, 100, beyond=0, shift=-1), 667),
    "cut": (linear(200, 200), 1334),
    "fastcut": (linear(150, 50), 1334),
    "sincut": (linear(8, 8), 6250),
    "sincyclegan": (linear(8, 8), 6250),
    "drit": (DRIT, 667),
    "munit": ([0.5**k for k in range(10)], 100_000),
    "unit": ([0.5**k for k in range(10)], 100_000),
}


@pytest.mark.parametrize("run", RATES)
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_rates_at_every_step_of_a_whole_run(run, stride):
    args = options(f"--method {run}")
    table, steps = RATES[run]
    model = SimpleNamespace(args=args)
    law = methods.load(args.method).lr
    assert len(table) * steps == args.iteration
    places = np.arange(1, args.iteration + 1)
    if len(places) > 300_000:  # by default every third, and the first and the last of each epoch
        places = places[(places % stride == 0) | (places % steps <= 1)]
    found = np.array([law(model, step) for step in places.tolist()])
    assert np.abs(found - args.lr * np.repeat(table, steps)[places - 1]).max() < 1e-15


def test_the_laws_have_the_published_values():
    def rate(text, step):
        args = options(f"--method {text}")
        return methods.load(args.method).lr(SimpleNamespace(args=args), step)

    assert rate("gcgan", 100 * 167) == 2e-4 and rate("gcgan", 101 * 167) == pytest.approx(1.9802e-4, rel=1e-4)
    assert rate("gcgan", 200 * 167) == pytest.approx(1.9802e-6, rel=1e-4)
    assert rate("drit", 601 * 667 + 1) == 1e-4 and rate("drit", 602 * 667 + 1) == pytest.approx(9.9834e-5, rel=1e-4)
    assert rate("drit", 1199 * 667 + 1) == pytest.approx(4.99e-7, rel=1e-3)
    assert rate("cyclegan --early_decay true", 100 * 1334) == pytest.approx(1.9802e-4, rel=1e-4)
    assert rate("cyclegan --early_decay true", 200 * 1334) == 0
    assert rate("munit", 100_000) == 1e-4 and rate("munit", 100_001) == 5e-5 == rate("unit", 200_000)


# ------------------------------------------------------------------------- epochs, option files, PNG


def test_epochs_become_steps_and_the_start_says_how_many(tmp_path):
    data = pictures(tmp_path, each=3)
    options = "--method cyclegan --batch_size 2"
    assert trained(data, f"{options} --iteration 9 --epochs 1.5").output.startswith(
        "3 steps = 2 epochs of 3 pictures; CycleGAN's authors: 200 epochs = 600 steps\n")
    assert "\n1 steps" not in (said := trained(data, f"{options} --epochs 5 --iteration 1").output)
    assert said.startswith("1 steps = 0.67 epochs of 3 pictures")  # the later of the two counts


def test_translations_are_png_when_asked(tmp_path):
    for name in ("a.jpg", "b.jpg", "b.png", "c.PNG", "sub/d.webp", "e.gif"):
        save(tmp_path / name, scene(8, 8))
    found = [path.as_posix() for path in output_paths(list_images(tmp_path), tmp_path, png=True)]
    assert found == ["a.png", "b.jpg.png", "b.png", "c.PNG", "e.png", "sub/d.png"]


OF_DATA = sorted(path for path in CONFIGS.rglob("*.txt") if path.stem in SOURCES and path.parent != CONFIGS)


@pytest.mark.parametrize("path", OF_DATA, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_option_files_have_the_authors_number_of_steps(path):
    args = options(f"@{path}")
    assert args.method == path.parent.name and args.dataset == path.stem
    method = methods.load(args.method)
    _, steps = budget.published(method, method.epoch_length(SOURCES[path.stem].counts[:2]))
    assert args.iteration == (100_000 if args.method == "ugatit" else steps)
    if path.stem == "summer2winter":
        assert getattr(args, "recon_x_cyc_w", 10) == 10 and not getattr(args, "share", False)


def test_each_method_has_option_files_of_the_papers_data_sets():
    for method in {*methods.METHODS} - {"nice", "sincut", "sincyclegan"}:
        for name in ("cat2dog", "horse2zebra", "summer2winter", "vangogh2photo"):
            assert CONFIGS / method / f"{name}.txt" in OF_DATA


# ------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("choice", ["--method cyclegan --preprocess scale_and_crop", "--method munit --preprocess crop "
                                    "--sampling drit --flip false"])  # fmt: skip
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, choice):
    data = pictures(tmp_path / "data", each=3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        with_pictures(folder, data)
    trained(whole, f"{choice} --iteration 5")
    trained(parts, f"{choice} --iteration 2")
    assert "written before" not in trained(parts, "--iteration 5 --resume true " + " ".join(choice.split()[:2])).output
    a, b = (torch.load(latest(folder), weights_only=True) for folder in (whole, parts))
    assert a["digest"].keys() == b["digest"].keys()
    assert [k for k in a["digest"] if a["digest"][k] != b["digest"][k]] == []


@pytest.mark.parametrize("method, kept", [
    ("munit", "--preprocess resize_and_crop"), ("cyclegan", "--sampling shuffle"),
    ("gcgan", "--sampling shuffle --early_decay True"),
])  # fmt: skip
def test_older_checkpoints_keep_what_they_were_trained_with_and_say_so(tmp_path, method, kept):
    folder = pictures(tmp_path)
    trained(folder, f"--method {method} --iteration 1")
    state = torch.load(latest(folder), weights_only=True)
    for name in ("preprocess", "load_size", "flip", "sampling", "early_decay", "epochs", "png"):
        state["args"].pop(name, None)
    state.pop("digest")
    save_checkpoint(state, latest(folder))
    said = trained(folder, f"--method {method} --iteration 2 --resume true").output
    assert f"keeps what it was trained with: {kept}\n" in said
    args = torch.load(latest(folder), weights_only=True)["args"]
    assert (args["preprocess"], args["sampling"]) == ("resize_and_crop", "shuffle") and args.get("early_decay") in (
        (True,) if method == "gcgan" else (False, None))
