"""Checkpoints: atomic, verified, never executed; those of the released program are read too."""

import collections
import os
import pickle
import random
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import differing, images, options, weights
from runs import pictures, trained

import fid_kid
import main
import methods
import NICE
from checkpoints.contents import saved_options
from checkpoints.files import load_checkpoint, newest_checkpoint, numbered_paths, save_checkpoint
from utils import UserError

NETWORKS = ("gen2B", "gen2A", "disA", "disB")
SEVEN = (*NETWORKS, "D_optimizer", "G_optimizer", "start_iter")


@pytest.fixture(scope="module")
def nice():
    """A trainer after three steps."""
    nice = NICE.NICE(options())
    for seed in range(3):
        nice.train_step(images(seed=seed), images(seed=seed + 10))
    return nice


@pytest.fixture
def file(nice, tmp_path):
    """Its checkpoint, where a resumed run would look for it."""
    path = tmp_path / "results" / "tiny_params_latest.pt"
    save_checkpoint(nice.state(), path)
    return path


def load(path, to_translate=False):
    return newest_checkpoint(path.parent / "tiny", str(path), methods.recognise, to_translate)


def refused(path, *words):
    with pytest.raises(UserError) as error:
        load(path)
    text = str(error.value)
    assert text.isprintable() and path.name in text and all(word in text for word in words), text


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def released(state, optimizer_of_torch_1=True):
    """What the released program would have saved: seven keys, thop's counters, an old optimizer's state."""
    old = {key: state[key] for key in SEVEN}
    for name in NETWORKS:
        old[name] = collections.OrderedDict(old[name])
        for prefix in ("", "FC.", "UpBlock1_1.conv1.", "model.1."):
            old[name][f"{prefix}total_ops"] = torch.zeros(1, dtype=torch.float64)
            old[name][f"{prefix}total_params"] = torch.zeros(1, dtype=torch.float64)
    for name in ("D_optimizer", "G_optimizer"):
        group = old[name]["param_groups"][0]
        names = ("lr", "betas", "eps", "weight_decay", "amsgrad", "params")
        moments = {i: {**entry, "step": int(entry["step"])} for i, entry in old[name]["state"].items()}
        old[name] = {"state": moments, "param_groups": [{k: group[k] for k in names}]}
    return old


# ---------------------------------------------------------------------------------------------- atomic

def test_a_listing_never_shows_a_half_written_checkpoint(nice, file):
    size, seen, done = file.stat().st_size, [], threading.Event()

    def watch():
        while not done.is_set():
            for entry in os.scandir(file.parent):
                if entry.name.endswith(".pt"):
                    seen.append(os.stat(entry.path).st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        save_checkpoint(nice.state(), file)
    done.set()
    watcher.join()
    assert len(seen) > 100 and set(seen) == {size}
    assert os.listdir(file.parent) == [file.name]


def test_what_fails_in_between_leaves_the_old_file_and_no_debris(nice, file):
    before = file.read_bytes()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_checkpoint({**nice.state(), "strange": lambda: None}, file)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


# ------------------------------------------------------------------------------------------- verified

def test_a_bit_flipped_anywhere_in_any_tensor_is_found(file):
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        records = [r for r in archive.infolist() if "/data/" in r.filename and r.file_size]
    noise = random.Random(0)
    for record in noise.sample(records, 60):
        name_and_extra = sum(int.from_bytes(whole[record.header_offset + i :][:2], "little") for i in (26, 28))
        start = record.header_offset + 30 + name_and_extra
        flip(file, start + noise.randrange(record.file_size), noise.randrange(8))
        refused(file, "digest differs", "--checkpoint")
        file.write_bytes(whole)
    load(file)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_a_damaged_latest_falls_back_to_the_newest_numbered_one(nice, file, capsys, damage):
    results = file.parent / "tiny"
    for step in (1, 3, 2):
        path = results / "model" / f"tiny_params_{step:07d}.pt"
        save_checkpoint({**nice.state(), "start_iter": step}, path)
    if damage == "flipped":
        flip(file, file.stat().st_size // 2)
    else:
        os.truncate(file, {"truncated": 100_000, "empty": 0, "missing": 0}[damage])
    if damage == "missing":
        file.unlink()
    state, path = newest_checkpoint(results, None, methods.recognise)
    assert state["start_iter"] == 3 and path.name == "tiny_params_0000003.pt"
    told = capsys.readouterr().err
    assert damage == "missing" or (str(file) in told and "falling back" in told and told.count("\n") == 1)

    for path in numbered_paths(results):
        flip(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match="tiny_params_0000001.pt is damaged"):
        newest_checkpoint(results, None, methods.recognise)


def test_a_translation_reads_and_checks_only_what_it_needs(nice, file):
    state = nice.state()
    save_checkpoint({k: v for k, v in state.items() if "optimizer" not in k}, file)
    load(file, to_translate=True)
    load(file)
    state = load_checkpoint(file, methods.recognise)
    state["args"]["img_size"] = 52
    torch.save(state, file.with_name("changed.pt"))
    os.replace(file.with_name("changed.pt"), file)
    with pytest.raises(UserError, match="args: its digest differs"):
        load(file, to_translate=True)


# ------------------------------------------------------------------------------------------ continued

def test_a_contradiction_is_refused_with_a_list_and_a_change_reported(nice, file, capsys):
    other = NICE.NICE(options("--n_res 2 --img_size 52 --dataset other"))
    with pytest.raises(UserError) as error:
        other.load(load(file))
    assert "--n_res is 2, there 1" in str(error.value) and "--dataset" not in str(error.value)

    changed = NICE.NICE(options("--lr 3e-4 --cycle_weight 5 --iteration 7 --dataset other"))
    changed.load(load(file))
    told = capsys.readouterr().err
    changes = "--lr 0.0001 -> 0.0003", "--cycle_weight 10.0 -> 5.0", "--iteration 100000 -> 7"
    for words in (*changes, "--dataset cat2dog -> other"):
        assert words in told
    assert not differing(weights(changed), weights(nice)) and changed.step == 3


def test_a_checkpoint_names_no_place_to_read_or_write(nice, file):
    state = nice.state()
    state["args"] |= {"result_dir": "/elsewhere", "dataset_dir": "/elsewhere", "dataset": "../up", "checkpoint": "/x"}
    state["args"] |= {"phase": "test", "lr": 0.5}
    save_checkpoint(state, file)
    args = main.parse_args(["--dataset", "tiny"], saved=saved_options(load(file)[0]))
    assert (args.result_dir, args.dataset_dir, args.dataset, args.checkpoint) == ("results", "dataset", "tiny", None)
    assert (args.phase, args.lr) == ("train", 0.5)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("light", ["true", "false"])
def test_a_released_checkpoint_translates_and_continues(tmp_path, light, zipped):
    nice = NICE.NICE(options(f"--light {light}"))
    nice.train_step(images(), images(seed=1))
    path = pictures(tmp_path) / "old.pt"
    torch.save(released(nice.state()), path, _use_new_zipfile_serialization=zipped)

    again = NICE.NICE(options(f"--light {light}"))
    again.load(load(path))
    assert again.step == again.position == 1 and not differing(weights(again), weights(nice))
    terms = [n.train_step(images(seed=2), images(seed=3)) for n in (nice, again)]
    assert not differing(weights(again), weights(nice)) and terms[0] == terms[1]

    run = trained(tmp_path, f"--checkpoint {path} --light {light} --iteration 2")
    assert f"continuing from step 1 of {path}" in run.output
    run = trained(tmp_path, f"--phase test --checkpoint {path}")  # what it is shows in its shapes
    assert len(list((tmp_path / "results" / "tiny" / "fakeA").glob("*.png"))) == 2
    if light == "false":
        run = trained(tmp_path, f"--checkpoint {path} --iteration 2", status=2)
        assert "--light is True, there False" in run.output


# ------------------------------------------------------------------------------------- never executed

class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_bomb_does_not_go_off(nice, tmp_path):
    victim, file = tmp_path / "gone_off", tmp_path / "bomb.pt"
    pickle.loads(pickle.dumps(Bomb(victim)))
    assert victim.exists()  # it is live
    victim.unlink()
    torch.save({**nice.state(), "D_optimizer": Bomb(victim)}, file)
    refused(file)
    torch.save({**nice.state(), "D_optimizer": Bomb(victim)}, file, _use_new_zipfile_serialization=False)
    refused(file)
    file.write_bytes(pickle.dumps(Bomb(victim), protocol=2))
    refused(file)
    np.savez(tmp_path / "bomb.npz", features=np.array([Bomb(victim)], dtype=object))
    with pytest.raises(UserError, match=".npz of plain arrays"):
        fid_kid.read_npz(tmp_path / "bomb.npz", "features", 2048)
    assert not victim.exists()


def test_what_unfolds_to_more_than_its_file_is_refused_at_once(nice, tmp_path):
    file, lists = tmp_path / "huge.pt", []
    for _ in range(60):
        lists = [lists, lists, lists]
    wide = torch.zeros(1).expand(10**6, 10**6)
    start = time.monotonic()
    for key, value in ("lists", lists), ("wide", wide), ("gen2B", {**nice.state()["gen2B"], "FC.0.weight": wide}):
        torch.save({**nice.state(), key: value}, file)
        refused(file, "more than the file holds")
    torch.save(released(nice.state()), file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
        new.writestr("archive/data/bomb", bytes(50_000_000))
    refused(tmp_path / "x.pt", "compressed")
    assert time.monotonic() - start < 5
