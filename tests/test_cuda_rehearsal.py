"""A GPU rehearsed on a CPU (see fake_cuda.py): training steps, samples, translation, checkpoints and the scorer.

Nothing may mix devices; inside a step nothing may wait for the GPU or take a path meant for CPUs.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda, watched
from runs import SMALL
from scorer import rule_weights
from test_methods import settings
from torch.utils._pytree import tree_leaves

import main
import methods
from layers.fast import convolution as fast_convolution
from scoring import features
from scoring.inception import InceptionV3
from training import state
from training.sample_grid import save_sample_grids, training_pictures

ABLATIONS = sorted(path.stem for path in (Path(__file__).parents[1] / "configs" / "ablation").glob("*.txt"))
WAYS = ["--amp bf16", "--amp fp16", "--light false", "--checkpoint_blocks true --grad_accum 2", "--on_nan skip"]
CASES = [
    *SMALL,
    "cut --negatives both",
    *(f"nice {way}" for way in WAYS),
    *(f"nice @configs/ablation/{name}.txt" for name in ABLATIONS),
]


def trainer_of(case: str, **more):
    """A trainer on the GPU at a method's tiny settings; case: the method's name and options."""
    method, _, text = case.partition(" ")
    argv = f"--method {method} {text} {SMALL[method]} --num_workers 0 --device cuda --graphs false".split()
    return methods.create(main.parse_args(argv + [f"--{name}={value}" for name, value in more.items()]))


def batch(trainer) -> list[torch.Tensor]:
    args = trainer.args
    return [torch.rand(args.batch_size * args.grad_accum, 3, args.img_size, args.img_size) for _ in "AB"]


def step_of(case: str, plant=None):
    """The Watch over the most expensive step of a period; plant(trainer) changes the trainer before it."""
    with fake_cuda():
        trainer = trainer_of(case)
        real = batch(trainer)
        trainer.prepare(*real)
        trainer.step = trainer.period - 1
        if plant:
            plant(trainer)
        with watched() as seen:
            terms = trainer.train_step(*real)
        homes = {p.device.type for net in trainer.networks().values() for p in net.state_dict().values()}
        homes |= {term.device.type for term in terms.values()}
        assert homes == {"cuda"}
    return seen


@pytest.mark.parametrize("case", CASES)
def test_a_step(case):
    seen = step_of(case)
    assert not seen.problems() and len(seen.started) > 100


# ------------------------------------------------------------------------------------------- plants


def plant_before(trick):
    """Calls `trick(trainer)` before the last update of a step."""

    def plant(trainer):
        before = trainer.before

        def planted(update):
            before(update)
            if update == trainer.updates()[-1].name:
                trick(trainer)

        trainer.before = planted

    return plant


@pytest.mark.parametrize("trick", [
    lambda trainer: trainer.guard.dropped.item(),
    lambda trainer: bool(trainer.guard.bad),
    lambda trainer: trainer.guard.bad.cpu(),
    lambda trainer: torch.ones(3, device=trainer.device).nonzero(),
    lambda trainer: torch.ones(3, device=trainer.device) + torch.ones(3),
    lambda trainer: torch.ones(3, device=trainer.device)[torch.tensor([0])],
    lambda trainer: torch.tensor([1.0, 2.0], device=trainer.device),
    lambda trainer: torch.ones(3) * 2,
    lambda trainer: fast_convolution.row_conv(*(trainer.guard.bad.new_ones(s) for s in ((1, 4, 8, 8), (3, 4, 7, 7)))),
    lambda trainer: trainer.draw.normal("x", 4, 4) @ torch.ones(4, 4),
], ids=["item", "bool", "cpu", "nonzero", "mixture", "index", "upload", "work", "row_conv", "product"])  # fmt: skip
def test_what_is_planted_is_found(trick):
    try:
        problems = step_of("gcgan", plant_before(trick)).problems()
    except (RuntimeError, AssertionError) as error:
        problems = [str(error)]
    assert problems


def test_a_path_for_cpus_is_found(monkeypatch):
    """When on_cpu is wrong."""
    monkeypatch.setattr(fast_convolution, "on_cpu", lambda x: True)
    with pytest.raises(AssertionError, match="is for CPUs"):
        step_of("nice")


# --------------------------------------------------------------------- samples, checkpoints, scores


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow if m == "sincyclegan" else ()) for m in SMALL]
)
def test_samples_translations_and_checkpoints(method, folders, monkeypatch):
    """Everything around the steps; a checkpoint's tensors go to the CPU and back to the GPU."""
    data, results = folders
    places = dict(dataset="toy", dataset_dir=data, result_dir=results)
    for path in (data / "toy").glob("*/[1-9].png"):
        path.unlink()
    there = methods.create(settings(method, **places))
    there.prepare(*batch(there))
    there.train_step(*batch(there))
    monkeypatch.setattr(state, "save_checkpoint", lambda state, path: kept.append(state))
    kept = []
    found = there.state() | {"method": method}
    with fake_cuda():
        trainer = trainer_of(method, **places)
        pictures = training_pictures(trainer)
        trainer.load((found | {"digest": {}}, Path("there.pt")))
        save_sample_grids(trainer, pictures)
        trainer.save()
        trainer.test((found, Path("there.pt")))
        homes = {x.device.type for x in tree_leaves([o.state for o in trainer.optimizers.values()])}
        saved = {x.device.type for x in tree_leaves(kept) if isinstance(x, torch.Tensor)}
    assert homes == {"cuda"} and saved == {"cpu"} and kept[0]["start_iter"] == 1
    assert list((results / "toy" / "img").glob("*.png")) and list((results / "toy").glob("fake?/*.png"))


def test_the_scorer(folders):
    files = sorted((folders[0] / "toy" / "trainA").iterdir())
    weights = rule_weights()
    with fake_cuda():
        net = InceptionV3(weights).to("cuda")
        found, logits = features.extract(files, net, 2048, classes=True, batch_size=2, device="cuda")
    assert found.shape == (5, 2048) and len(logits) == 5 and np.isfinite(found).all()
