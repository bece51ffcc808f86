"""Checkpoints: atomic, verified, never executed; those of the released program are read too."""

import collections
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import differing, images, options, weights
from runs import PATIENCE, SMALL, Run, pictures, trained

import fid_kid
import main
import methods
import NICE
from checkpoints.contents import saved_options
from checkpoints.files import digest, load_checkpoint, newest_checkpoint, numbered_paths, save_checkpoint
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


# ------------------------------------------------------------------------------------------ mutations

def mutate(data: bytes, noise: random.Random) -> bytes:
    """Cut, flip, overwrite, move: half of it where the structure is, not the numbers."""
    kind = noise.randrange(5)
    if kind == 0:
        return data[: noise.randrange(len(data))]
    data = bytearray(data)
    for _ in range(noise.choice((1, 1, 2, 8))):
        n = len(data)
        start, end = noise.choice([(0, n), (0, 25_000), (n - 20_000, n), (n - 100, n)])
        at = noise.randrange(max(0, start), min(end, n))
        if kind in (1, 2):
            data[at] ^= 1 << noise.randrange(8)
        elif kind == 3:
            n = noise.choice((1, 2, 4, 8))
            data[at : at + n] = noise.choice((b"\xff" * n, bytes(n), b"\x7f" + b"\xff" * (n - 1), noise.randbytes(n)))
        else:
            piece = data[at : at + noise.randrange(1, 200)]
            other = noise.randrange(len(data))
            data[other : other + noise.choice((0, len(piece)))] = piece
    return bytes(data)


def repack(data: bytes, noise: random.Random) -> bytes:
    """The same archive with its pickle mutated under a right checksum, or a record lost, swapped, cut."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    a, b = noise.sample(list(records), 2)
    kind = noise.randrange(6)
    if kind < 3:
        records[pickled] = mutate(records[pickled], noise)
    elif kind == 3:
        del records[a]
    elif kind == 4:
        records[a], records[b] = records[b], records[a]
    else:
        records[a] = records[a][: len(records[a]) // 2]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return out.getvalue()


def misbuild(data: bytes, noise: random.Random) -> bytes:
    """The same checkpoint with one entry, however deep, lost or replaced by something else."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    inner, key = state, None
    while isinstance(inner, (dict, list)) and inner and (key is None or noise.random() < 0.7):
        outer, key = inner, noise.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = outer[key]
    if noise.random() < 0.3:
        del outer[key]
    else:
        zeros = torch.zeros
        tensors = [zeros(()), zeros(0), zeros(2, 3), zeros(1).expand(10**9), zeros(2, 2).to_sparse()]
        tensors += [zeros(3, device="meta"), zeros(3, dtype=torch.int8), zeros(2, dtype=torch.cfloat)]
        plain = [None, True, 7, -1, 10**30, 1.5, float("nan"), "x\ny", b"", [], {}, (), {"a": [1]}, [[]] * 9]
        outer[key] = noise.choice(tensors + plain)
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def bombard(folder, method, count, seed):
    """In a process of its own: `count` mutated files, each loaded and equal, or refused in one line."""
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 2**30,) * 2)
    folder = Path(folder)
    kinds = [(change, (folder / "ours.pt").read_bytes(), True) for change in (mutate, repack, misbuild)]
    if (folder / "old.pt").exists():
        old, oldest = ((folder / name).read_bytes() for name in ("old.pt", "oldest.pt"))
        # where a file has neither digest nor checksum under the mutation, it may load with other numbers
        kinds += [(mutate, old, True), (mutate, oldest, False), (repack, old, False), (misbuild, old, False)]
    argv = f"--method {method} {SMALL[method]} --num_workers 0 --device cpu --resume".split()
    model = methods.create(main.parse_args(argv))
    outcome, longest = collections.Counter(), 0.0

    def put(path):
        try:
            found = load(path)
            model.args = main.parse_args(argv, saved=saved_options(found[0]))
            model.load(found)
            return "loaded"
        except UserError as error:
            assert str(error).isprintable(), repr(str(error))
        except SystemExit as leaving:  # an option that the parser refuses
            assert leaving.code == 2
        return "refused"

    def content():
        state = model.state()
        moments = [state[f"{name}_optimizer"]["state"] for name in model.optimizers]
        return digest([*(state[n] for n in model.networks()), moments, model.step])

    (folder / "now.pt").write_bytes((folder / "ours.pt").read_bytes())
    assert put(folder / "now.pt") == "loaded"
    expected = content()
    for i in range(count):
        noise = random.Random(f"{seed} {i}")
        change, data, certain = noise.choice(kinds)
        (folder / "now.pt").write_bytes(change(data, noise))
        print("trying", i, change.__name__, file=sys.stderr)
        signal.alarm(5)  # whose default action ends the process
        start = time.monotonic()
        result = put(folder / "now.pt")
        longest = max(longest, time.monotonic() - start)
        signal.alarm(0)
        assert result == "refused" or not certain or content() == expected, f"{i} loaded, but is another"
        outcome[f"{change.__name__} {result}"] += 1
    print(json.dumps({**outcome, "longest": round(longest, 2)}))


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_checkpoints_load_equal_or_are_refused(nice, tmp_path, count, monkeypatch):
    save_checkpoint(nice.state(), tmp_path / "ours.pt")
    torch.save(released(nice.state()), tmp_path / "old.pt")
    torch.save(released(nice.state()), tmp_path / "oldest.pt", _use_new_zipfile_serialization=False)
    monkeypatch.setattr("runs.PATIENCE", max(PATIENCE, count // 2))
    bombarded(tmp_path, "nice", count)


@pytest.mark.parametrize("method", [m if m == "cut" else pytest.param(m, marks=pytest.mark.slow) for m in SMALL])
def test_every_methods_mutated_checkpoints_load_equal_or_are_refused(method, tmp_path):
    model = methods.create(main.parse_args(f"--method {method} {SMALL[method]} --num_workers 0 --device cpu".split()))
    size = (model.args.batch_size, 3, model.args.img_size, model.args.img_size)
    real = [torch.rand(size, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2)]
    model.prepare(*real)
    for _ in range(model.period + 1):
        model.train_step(*real)
    save_checkpoint(model.state(), tmp_path / "ours.pt")
    bombarded(tmp_path, method, 100)


def bombarded(folder, method, count):
    run = Run(folder, "test_checkpoints:bombard", str(folder), method, count, 0)
    assert run.wait() == 0, run.output[-2000:]
    print(figures := json.loads(run.output.splitlines()[-1]))
    assert all(figures[f"{kind} refused"] > count / 20 for kind in ("mutate", "repack", "misbuild"))
