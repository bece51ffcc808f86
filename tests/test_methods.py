"""What holds of every method: the authors' numbers, bit-exact resuming, translating, refusing foreign options.

A new method joins by a line in runs.SMALL, and one in RECORDINGS for each recording of its authors' program.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HERE, differing, images, weights
from PIL import Image
from replay import Replayed, pictures, replay, trainer_of
from runs import SMALL

import main
import methods
from checkpoints.files import digest, newest_checkpoint
from images.files import data_set_pictures
from methods.cyclegan import ImagePool
from training.cost import dry_run, modules, training_memory
from training.sample_grid import save_sample_grids
from translation.pipeline import translate_file
from utils import UserError

# recording: (method, bounds: losses relative, final weights absolute, evaluation outputs absolute)
RECORDINGS = {
    "cyclegan": ("cyclegan", 2e-4, 1e-4, 1e-4),
    "cut": ("cut", 2e-4, 1e-4, 1e-4),
    "fastcut": ("fastcut", 2e-4, 1e-4, 1e-4),
    "gcgan": ("gcgan", 5e-6, 2e-5, 5e-5),
    "distancegan": ("distancegan", 5e-6, 1e-5, 1e-4),
    "ugatit": ("ugatit", 5e-3, 1e-2, 1e-4),  # a ReLU input near 0: rounding changes the losses after the first step
    "ugatit_full": ("ugatit", 5e-3, 1e-2, 1e-4),
    "munit": ("munit", 1e-5, 1e-4, 1e-4),
    "unit": ("unit", 3e-4, 3e-4, 1e-4),
    "drit": ("drit", 3e-4, 1.3e-3, 1e-4),  # Adam moves a weight whose gradient is rounding noise by 3e-4
    "sincut": ("sincut", 2e-5, 5e-4, 1e-5),
}
# for each kind of network, at the defaults: count, parameters and billions of multiply-adds of one
COUNTS = {
    "cyclegan": {"generators": (2, 11_378_179, 49.55), "discriminators": (2, 2_764_737, 3.147)},
    "cut": {
        "generators": (1, 11_378_179, 64.128),
        "discriminators": (1, 2_764_737, 6.434),
        "projections": (1, 560_384, 0.1428),
    },
    "gcgan": {"generators": (1, 11_378_179, 49.55), "discriminators": (2, 2_764_737, 3.147)},
    "gcgan --share false": {"generators": (2, 11_378_179, 49.55), "discriminators": (2, 2_764_737, 3.147)},
    "distancegan": {"generators": (2, 11_388_675, 49.55), "discriminators": (2, 2_766_529, 3.147)},
    "sincut": {
        "generator": (1, 3_068_404, 3.334),
        "discriminator": (1, 5_885_473, 0.2615),
        "projection": (1, 280_832, 0.0002793),
    },
}
# a ReLU input is within float32's rounding of 0, and its sign changes what follows by more than the bounds
IN_DOUBLE = {"munit"}
every_method = pytest.mark.parametrize("method", SMALL)


def test_every_method_is_tested():
    assert SMALL.keys() == methods.METHODS.keys()


def size_of(method: str) -> int:
    return int(SMALL[method].split()[1])


def settings(method: str, text: str = "", **more):
    argv = f"--method {method} {SMALL[method]} --num_workers 0 --device cpu {text}".split()
    return main.parse_args(argv + [f"--{name}={value}" for name, value in more.items()])


@pytest.fixture
def make(folders):
    """Makes a trainer of a method for the toy data set: make("cyclegan", "--iteration 4")."""
    data, results = folders

    def make(method: str, text: str = ""):
        if methods.load(method).test_split == "train":  # it trains on one picture per domain
            for path in (data / "toy").glob("train?/[1-9].png"):
                path.unlink()
        return methods.create(settings(method, text, dataset="toy", dataset_dir=data, result_dir=results))

    return make


def batch(model, seed: int) -> list[torch.Tensor]:
    args = model.args
    return [images(args.batch_size, args.img_size, 2 * seed + i) for i in range(2)]


# -------------------------------------------------------------------------------------- recordings


@pytest.mark.parametrize("way", ["", "--plain true"])
@pytest.mark.parametrize("recording", RECORDINGS)
def test_the_authors_numbers(recording, way):
    method, losses, final, outputs = RECORDINGS[recording]
    dtype = torch.float64 if recording in IN_DOUBLE else torch.float32
    worst = replay(method, HERE / "fixtures" / f"{recording}.npz", *way.split(), dtype=dtype)
    for kind, bound in (("eval", outputs), ("losses", losses), ("final", final)):
        assert worst[kind]
        wrong = {name: off for name, off in worst[kind].items() if off > bound}
        assert not wrong, f"{kind} beyond {bound}: {wrong}"


@pytest.mark.parametrize("recording", ["cyclegan", "munit"])
def test_the_authors_numbers_with_the_convolutions_of_wide_networks(recording, minimal_filters):
    """The recordings' networks are too narrow to use minimal filtering by themselves."""
    method, losses, final, outputs = RECORDINGS[recording]
    worst = replay(method, HERE / "fixtures" / f"{recording}.npz")
    for kind, bound in (("eval", outputs), ("losses", losses), ("final", final)):
        assert max(worst[kind].values()) <= bound


def test_a_pool_of_old_fakes():
    """Against CycleGAN's own pool: a list, with random numbers drawn only where needed."""

    class Numbers(dict):
        def uniform(self, name):
            return self.setdefault(name, torch.rand(()))

        def integer(self, name, n):
            return self.setdefault(name, torch.randint(n, ()))

    torch.manual_seed(0)
    pool, kept, swaps = ImagePool(3, "p"), [], 0
    for turn in range(20):
        fakes, draw, expected = torch.randn(2, 3, 4, 5), Numbers(), []
        given = pool.exchange(fakes, draw)
        for i, new in enumerate(fakes):
            if len(kept) < 3:
                kept.append(new)
                expected.append(new)
            elif draw[f"D/p_swap_{i}"] > 0.5:
                k = draw[f"D/p_index_{i}"].item()
                expected.append(kept[k])
                kept[k] = new
                swaps += 1
            else:
                expected.append(new)
        assert torch.equal(given, torch.stack(expected)) and torch.equal(pool.state(), torch.stack(kept))
        if turn in (0, 10):  # through a checkpoint, half full and full
            state, pool = pool.state(), ImagePool(3, "p")
            pool.load(state)
    assert 10 < swaps < 30
    assert torch.equal(ImagePool(0, "p").exchange(fakes, draw), fakes)
    wider = torch.randn(1, 3, 6, 6)
    assert torch.equal(pool.exchange(wider, Numbers()), wider) and torch.equal(pool.state(), wider)  # starts again


def losses_of(method, data, change=None):
    """The losses of each step of the recording, with all random numbers of one name changed."""
    model = trainer_of(method, data)
    for step in range(len(data["real_A"])):
        model.draw = Replayed(data, step)
        if change:
            model.draw.change = change
        yield {name: value.item() for name, value in model.train_step(*pictures(data, step)).items()}


@pytest.mark.parametrize(
    "recording", [pytest.param(r, marks=pytest.mark.slow) if r == "drit" else r for r in RECORDINGS]
)
def test_every_random_number_counts(recording, monkeypatch):
    """A change of any one random number changes some loss."""
    method, data = RECORDINGS[recording][0], np.load(HERE / "fixtures" / f"{recording}.npz")
    names = [key.removeprefix("draw/") for key in data.files if key.startswith("draw/")]
    expected = list(losses_of(method, data))
    recorded = Replayed._recorded

    def changed(self, name):
        value = np.array(recorded(self, name))
        if name != self.change:
            return value
        if value.ndim == 1 and value.dtype.kind == "i":
            return np.where(value >= 0, value[value >= 0].max() - value, value)  # another permutation
        if value.ndim == 0 and value.dtype.kind == "i":
            return value if value == -1 else (value + 1) % data["config/pool_size"].item()
        return value if value.ndim == 0 and value == -1 else 1 - value

    monkeypatch.setattr(Replayed, "change", None, raising=False)
    monkeypatch.setattr(Replayed, "_recorded", changed)
    for name in names:
        if (data[f"draw/{name}"] == -1).all():
            continue
        steps = zip(losses_of(method, data, name), expected, strict=True)  # lazily
        try:
            counts = any(abs(found[k] - value) > 1e-6 * abs(value) for found, was in steps for k, value in was.items())
        except AssertionError:  # the change asks for a number that the recording did not draw
            continue
        assert counts, name


def test_recordings_are_small():
    files = [HERE / "fixtures" / f"{name}.npz" for name in (*RECORDINGS, "parity_light", "parity_full")]
    assert sum(file.stat().st_size for file in files) < 16e6


@pytest.mark.parametrize("case", COUNTS)
def test_counts(case):
    args, found = main.parse_args(f"--method {case} --device cpu".split()), {}
    with torch.device("meta"):
        for title, names, net, forward, x in dry_run(methods.load(args.method), args).summary_modules():
            rows = modules(net, forward, x)
            found[title] = (len(names), sum(row[2] for row in rows), sum(row[3] for row in rows) / 1e9)
    assert found == {kind: (n, p, pytest.approx(m, rel=2e-4)) for kind, (n, p, m) in COUNTS[case].items()}


@every_method
def test_the_memory_of_a_training_is_predicted(method):
    """--phase info runs a step on meta tensors: no operation in it may read a value."""
    parts = training_memory(methods.load(method), settings(method))
    assert parts["total"] > parts["gradients, activations"] > 0 and parts["weights"] > 0


# ------------------------------------------------------------------------------------------ training


@every_method
def test_resume_is_bit_identical(method, make):
    """Eight steps, and four plus four, end with the same bits: weights, moments, extra state, log."""
    text = "--iteration 8 --print_freq 4 --log_freq 1"
    whole = make(method, text)
    whole.train()
    lines = (whole.results / "log.jsonl").read_text()
    first = make(method, text)
    step = first.train_step

    def stopping(*real):  # as a signal would: after step 4
        if first.step + 1 == 4:
            os.kill(os.getpid(), 15)
        return step(*real)

    first.train_step = stopping
    assert first.train() is False and first.step == 4
    torch.manual_seed(99)  # a new process would start from other random states
    second = make(method, f"{text} --resume true")
    assert second.train() is True
    ours, theirs = second.state(), whole.state()
    assert {k for k in theirs if k != "args" and digest(ours[k]) != digest(theirs[k])} == set()
    timeless = [
        [{k: v for k, v in json.loads(line).items() if k not in ("steps_per_second", "data_wait")} for line in text]
        for text in (lines.splitlines(), (second.results / "log.jsonl").read_text().splitlines())
    ]
    assert timeless[0] == timeless[1]


@every_method
def test_what_is_frozen_gets_no_gradient_and_every_network_learns(method, make):
    model = make(method)
    model.prepare(*batch(model, 0))
    before = weights(model)
    for seed in range(3):
        model.train_step(*batch(model, seed))
    moved = differing(before, weights(model))
    assert {key.split("/")[0] for key in moved} == set(model.networks())
    parameters = [p for net in model.networks().values() for p in net.parameters()]
    assert all(p.requires_grad and p.grad is None for p in parameters)


@every_method
def test_samples_and_translations_change_nothing(method, make):
    model = make(method)
    model.train_step(*batch(model, 0))
    tests = [f"{model.test_split}{s}" for s, _ in model.directions]
    before, rng = weights(model), torch.get_rng_state()
    save_sample_grids(model, data_set_pictures(model.args, *dict.fromkeys(("trainA", "trainB", *tests))))
    assert differing(before, weights(model)) == set() and torch.equal(rng, torch.get_rng_state())
    grids = sorted((model.results / "img").iterdir())
    assert [grid.name for grid in grids] == [f"{s}2{t}_0000001.png" for s, t in model.directions]
    width, height = (size_of(method),) * 2
    columns = {"A2B": 4 + 2, "B2A": 3 + 2}
    if model.test_split == "train":  # one picture, whole
        (width, height), columns = (60, 40), {"A2B": 1, "B2A": 1}
    for grid in map(Image.open, grids):
        assert grid.width == columns[Path(grid.filename).name[:3]] * width
        assert grid.height % height == 0 and grid.height >= 2 * height


# --------------------------------------------------------------------------------------- checkpoints


@every_method
def test_a_checkpoint_says_what_it_is_and_translates(method, make, folders):
    """main.py is given neither method nor architecture."""
    make(method, "--iteration 1").train()
    data, results = folders
    main.main(["--phase", "test", "--dataset=toy", f"--dataset_dir={data}", f"--result_dir={results}", "--device=cpu"])
    for s, t in methods.load(method).directions:
        names = {path.name for path in (results / "toy" / f"fake{t}").glob("*.*g")}
        assert names == {path.name for path in (data / "toy" / f"{methods.load(method).test_split}{s}").iterdir()}
    with pytest.raises(UserError, match=f"--method is .*, there {method};"):
        other = make("nice" if method != "nice" else "cyclegan", "--resume true")
        other.load(newest_checkpoint(results / "toy", None, methods.recognise))


@every_method
def test_another_methods_option_is_refused_in_one_line(method, capsys):
    own = {o.name for o in methods.load(method).options}
    others = {o.name for name in methods.METHODS for o in methods.load(name).options} - own
    for name in sorted(others):
        with pytest.raises(SystemExit) as end:
            main.parse_args(["--method", method, f"--{name}=1", "--device", "cpu"])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert f"--{name}" in said and said.count("\n") == 1


@every_method
def test_the_authors_files_translate(method, make, folders, tmp_path):
    """One file per network, latest_net_NAME.pth, as most programs save them; extra keys are dropped."""
    model = make(method)
    found = {f"latest_net_{name}": net.state_dict() for name, net in model.networks().items()}
    if methods.recognise(found) is None:
        pytest.skip(f"{method} saves one file; its own tests read that")
    folder = tmp_path / "official"
    folder.mkdir()
    for name, state in found.items():
        torch.save({**state, "model.2.running_mean": torch.zeros(3)}, folder / f"{name}.pth")
    data, results = folders
    main.main(["--phase", "test", "--method", method, "--checkpoint", str(folder), "--dataset=toy", "--device=cpu",
               f"--img_size={size_of(method)}", f"--dataset_dir={data}", f"--result_dir={results}"])  # fmt: skip
    s, t = methods.load(method).directions[0]
    source = Path(data) / "toy" / f"{model.test_split}{s}" / "0.png"
    for net in model.networks().values():
        net.eval()
    (_, expected), *_ = translate_file(model, source, s, t, size_of(method))
    assert np.array_equal(np.asarray(Image.open(results / "toy" / f"fake{t}" / "0.png")), expected)
