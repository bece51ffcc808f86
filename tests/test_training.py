"""Which weights an update moves, the learning rate, resuming, translating: on real files."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY, differing, double_precision, images, options, weights
from PIL import Image

import main
import methods
import NICE
from checkpoints.files import latest_path, load_checkpoint
from images.files import data_set_pictures
from training.method import lr_at
from training.sample_grid import save_sample_grids
from utils import UserError, frozen


def test_an_update_moves_its_own_networks_only():
    nice = NICE.NICE(options())
    micro_batches = [{"A": images(1, seed=1), "B": images(1, seed=2)}]
    nice.step = 1
    for update in nice.updates():
        which, before = update.name, weights(nice)
        with frozen(nice.frozen_in[which]):
            nice._descend(update, micro_batches)
        moved = {k for k in differing(before, weights(nice)) if not k.endswith(("weight_u", "weight_v"))}
        mine = {"D": ("disA", "disB"), "G": ("gen2A", "gen2B")}[which]
        assert {k.split("/")[0] for k in moved} == set(mine)
        parameters = {f"{n}/{k}" for n in mine for k, _ in nice.networks()[n].named_parameters()}
        assert parameters - moved <= {f"{n}/conv1x1.{k}" for n in mine for k in ("weight", "bias")}  # lamda is still 0
    assert all(p.requires_grad for net in nice.networks().values() for p in net.parameters())


def test_swapping_the_domains_swaps_the_losses():
    one, two = NICE.NICE(options()), NICE.NICE(options())
    for a, b in (("gen2A", "gen2B"), ("gen2B", "gen2A"), ("disA", "disB"), ("disB", "disA")):
        two.networks()[a].load_state_dict(one.networks()[b].state_dict())
    x, y = images(1, seed=1), images(1, seed=2)
    ours, theirs = one.train_step(x, y), two.train_step(y, x)
    for name, value in ours.items():
        twin = name[:-1] + {"A": "B", "B": "A"}[name[-1]] if name[-1] in "AB" else name
        assert value.item() == pytest.approx(theirs[twin].item(), rel=1e-5), name


def test_learning_rate_at_the_corners():
    at = [lr_at(s, 100, 0.1) for s in (1, 50, 51, 75, 100)]
    assert at == pytest.approx([0.1, 0.1, 0.1 * 49 / 50, 0.05, 0])
    assert lr_at(100, 100, 0.1, decay=False) == 0.1
    assert lr_at(1, 1, 0.1) == 0 and lr_at(101, 101, 0.1) == 0  # odd iteration: not negative


def test_the_step_writes_the_learning_rate_of_its_number():
    nice = NICE.NICE(options("--iteration 4"))
    lrs = []
    for _ in range(4):
        nice.train_step(images(1, seed=1), images(1, seed=2))
        lrs.append((nice.D_optim.param_groups[0]["lr"], nice.G_optim.param_groups[0]["lr"]))
    assert lrs == [(pytest.approx(r),) * 2 for r in (1e-4, 1e-4, 5e-5, 0)]


def test_micro_batches_average_to_the_whole_batch():
    torch.manual_seed(0)
    with double_precision():
        whole, parts = NICE.NICE(options()), NICE.NICE(options("--grad_accum 2"))
    x, y = images(4, seed=1).double(), images(4, seed=2).double()
    for _ in range(2):
        a, b = whole.train_step(x, y), parts.train_step(x, y)
        assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()}, rel=1e-9)
    for key, value in weights(whole).items():
        torch.testing.assert_close(value, weights(parts)[key], rtol=1e-7, atol=1e-9)


def test_resume_is_bit_identical(toy):
    """Eight steps equal four plus four after a resume, bit for bit: weights, moments, log."""
    whole = toy("--iteration 8 --print_freq 4 --num_workers 1 --batch_size 2")
    whole.train()
    expected, moments = weights(whole), whole.D_optim.state_dict()["state"]
    lines = (whole.results / "log.jsonl").read_text()
    first = toy("--iteration 8 --print_freq 4 --batch_size 2")
    first.args.iteration, stop = 8, 4
    step = first.train_step

    def stopping(*batch):  # send a signal during step 4
        if first.step + 1 == stop:
            os.kill(os.getpid(), 15)
        return step(*batch)

    first.train_step = stopping
    assert first.train() is False and first.step == stop
    torch.manual_seed(99)  # a new process starts from other random states
    second = toy("--iteration 8 --print_freq 4 --batch_size 2 --resume true")
    assert second.train() is True
    assert differing(expected, weights(second)) == set()
    for index, entry in second.D_optim.state_dict()["state"].items():
        assert all(torch.equal(torch.as_tensor(entry[k]), torch.as_tensor(moments[index][k])) for k in entry)
    last = [json.loads(text.splitlines()[-1]) for text in (lines, (second.results / "log.jsonl").read_text())]
    assert [entry["step"] for entry in last] == [8, 8]


def test_samples_change_nothing(toy):
    nice = toy()
    pictures = data_set_pictures(nice.args, "trainA", "trainB", "testA", "testB")
    before, rng = weights(nice), torch.get_rng_state()
    save_sample_grids(nice, pictures)
    assert differing(before, weights(nice)) == set() and torch.equal(rng, torch.get_rng_state())
    grid = Image.open(nice.results / "img" / "A2B_0000000.png")
    assert grid.size == (6 * 48, 5 * 48)  # 4 train and 2 test pictures; 5 rows


def program(*argv, **kwargs):
    """Run main.py in a process of its own."""
    command = [sys.executable, "main.py", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def test_train_translate_and_keep_names(folders, toy):
    """Train, then translate twice; sub-folders, formats and sizes of the inputs are kept."""
    data, results = folders
    odd = data / "toy" / "testA" / "sub folder" / "ünï.jpg"
    odd.parent.mkdir()
    Image.fromarray(np.zeros((37, 61, 3), np.uint8)).save(odd)
    where = ("--dataset", "toy", "--dataset_dir", data, "--result_dir", results)
    done = program(*where, *TINY.split(), "--iteration", 2)
    assert done.returncode == 0, done.stderr
    # no --ch, --n_res, --img_size: the architecture comes from the checkpoint
    done = program(*where, "--phase", "test")
    assert done.returncode == 0, done.stderr
    inputs = sorted(p.relative_to(data / "toy" / "testA") for p in (data / "toy" / "testA").rglob("*.*g"))
    outputs = sorted(p.relative_to(results / "toy" / "fakeB") for p in (results / "toy" / "fakeB").rglob("*.*g"))
    assert inputs == outputs
    assert Image.open(results / "toy" / "fakeB" / "0.png").size == (48, 48)
    nice = toy("--keep_size true --phase test")
    nice.test()
    kept = Image.open(results / "toy" / "fakeB" / "sub folder" / "ünï.jpg")
    assert kept.size == (61, 37) and kept.format == "JPEG"
    assert sorted(p.name for p in results.iterdir()) == ["toy", "toy_params_latest.pt"]


def test_translation_is_encoder_then_generator(toy):
    """test() writes exactly G_B(E_A(x)) in evaluation mode, without the discriminator heads."""
    nice = toy("--phase test")
    nice.save()
    for net in nice.networks().values():
        net.eval()
    nice.disA.Dis0_1 = nice.disB.Dis0_1 = None  # calling the heads would fail
    other = toy("--phase test")
    other.test()

    path = next((other.results / "fakeB").glob("*.png"))
    source = Image.open(f"{nice.args.dataset_dir}/toy/testA/{path.name}").resize((48, 48), Image.BILINEAR)
    x = torch.from_numpy(np.array(source)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        y = nice.gen2B(nice.disA.encode(x))[0]
    expected = ((y + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(Image.open(path), float) - expected).max() <= 1


def test_grey_pictures_train(toy):
    nice = toy("--img_ch 1 --iteration 1")
    nice.train()
    assert nice.disA.model[1].in_channels == 1


def test_options_from_the_checkpoint_stand_in_for_those_not_given(folders, toy):
    first = toy("--iteration 1 --lr 3e-4 --cycle_weight 7")
    first.train()
    saved = load_checkpoint(latest_path(first.results), methods.recognise)["args"]
    args = main.parse_args(["--dataset", "toy", "--resume", "true", "--cycle_weight", "5"], saved=saved)
    assert (args.ch, args.lr, args.cycle_weight, args.resume) == (2, 3e-4, 5, True)


def test_another_architecture_is_refused(toy):
    toy("--iteration 1").train()
    with pytest.raises(UserError, match="--n_res is 2, there 1"):
        toy("--iteration 2 --n_res 2 --resume true").train()
