"""The transforms, the endless stream and the cache."""

import gc
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import one_line, save, scene
from PIL import Image

import dataset
from dataset import MARGIN, UnpairedStream, _order, crop_and_flip
from images import decode
from images.decode import load_for_test, read_image
from images.files import list_images
from images.scales import measured
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """{"A": 7 pictures, "B": 4}, of several sizes and formats, some of them smaller than the crop."""
    root = tmp_path_factory.mktemp("pictures")
    sizes = [(40, 52), (16, 16), (70, 33), (36, 36)]
    for domain, n in ("A", 7), ("B", 4):
        for i in range(n):
            ending = ("png", "jpg", "bmp", "webp")[i % 4]
            save(root / domain / f"{i}.{ending}", scene(*sizes[i % 4], seed=i + 10 * ord(domain)))
    return {domain: list_images(root / domain) for domain in "AB"}


# --- transforms, against torchvision's -----------------------------------------------------------

@pytest.mark.parametrize("size", [(48, 32), (20, 90), (64, 64), (7, 5)])
@pytest.mark.parametrize("channels", [3, 1])
def test_transforms_equal_torchvisions_to_the_last_bit(tmp_path, size, channels):
    tv = pytest.importorskip("torchvision.transforms")
    path = save(tmp_path / "x.png", scene(*size))
    image = read_image(path) if channels == 3 else read_image(path).convert("L")
    to_tensor = tv.Compose([tv.ToTensor(), tv.Normalize((0.5,) * channels, (0.5,) * channels)])

    got = load_for_test(path, 64, channels)
    assert got.dtype == torch.float32 and torch.equal(got, to_tensor(tv.Resize((64, 64))(image)))
    assert torch.equal(load_for_test(path, None, channels), to_tensor(image))

    large = tv.Resize((94, 94))(image)
    windows = [tv.functional.crop(large, top, left, 64, 64) for top in range(31) for left in range(31)]
    windows = [to_tensor(window) for window in windows]
    expected = windows + [window.flip(2) for window in windows]
    for k in range(10):
        window = crop_and_flip(decode.resize(image, 94, channels), 64, np.random.default_rng(k))
        assert any(torch.equal(decode.to_tensor(window.copy()), candidate) for candidate in expected)


def test_all_values_lie_in_minus_one_to_one():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    values = decode.to_tensor(pixels).flatten()
    assert values[0] == -1 and values[-1] == 1 and torch.equal(values, torch.arange(256) / 127.5 - 1)


def test_a_flip_commutes_with_the_resize():
    for size in (48, 32), (333, 200), (31, 100):
        image = Image.fromarray(scene(*size))
        before = decode.resize(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 94).astype(int)
        assert np.abs(before - decode.resize(image, 94)[:, ::-1]).max() <= 1  # the rounding to 8 bits


def test_windows_are_uniform_and_half_of_them_flipped():
    places = np.stack(np.mgrid[0:34, 0:34], -1).astype(np.uint8)  # each pixel says where it is
    corners = np.zeros((31, 31), int)
    flips, n = 0, 6000
    for k in range(n):
        window = crop_and_flip(places, 4, np.random.default_rng(k)).astype(int)
        flipped = window[0, 1, 1] < window[0, 0, 1]
        top, left = window[0, -1 if flipped else 0]
        corners[top, left] += 1
        flips += flipped
    assert abs(flips - n / 2) < 4 * (n / 4) ** 0.5
    for counts in corners.sum(0), corners.sum(1):
        assert ((counts - n / 31) ** 2 / (n / 31)).sum() < 70  # chi squared, 30 degrees of freedom: p < 1e-4


# --- the stream ----------------------------------------------------------------------------------

def take(stream, n):
    return [next(stream) for _ in range(n)]


def alike(left, right):
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a[domain], b[domain]) for a, b in pairs for domain in "AB")


@pytest.fixture(scope="module")
def sequence(pictures):
    """The first 60 samples of seed 0, one a batch: the sequence that every other stream must follow."""
    return take(UnpairedStream(pictures, 16, 1, workers=0), 60)


def joined(samples):
    return {d: torch.cat([sample[d] for sample in samples]) for d in "AB"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 30), batch=st.integers(1, 9), world=st.integers(1, 3), data=st.data())
def test_any_position_batch_and_world_follow_the_same_sequence(pictures, sequence, position, batch, world, data):
    steps = (60 - position) // (batch * world)
    ranks = []
    for _ in range(min(steps, 3)):
        if not ranks or data.draw(st.booleans(), "save and restore"):
            ranks = [UnpairedStream(pictures, 16, batch, 0, position, 0, rank=r, world=world) for r in range(world)]
        together = joined([next(rank) for rank in ranks])
        assert alike([together], [joined(sequence[position:position + batch * world])])
        position += batch * world
        assert {rank.position for rank in ranks} == {position}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_threads_change_nothing_and_count_no_prefetch(pictures, sequence, workers):
    with UnpairedStream(pictures, 16, 2, position=5, workers=workers) as stream:
        assert alike(take(stream, 6), [joined(sequence[k:k + 2]) for k in range(5, 17, 2)])
        assert stream.position == 17
        stream.position = 3
        assert alike(take(stream, 2), [joined(sequence[3:5]), joined(sequence[5:7])]) and stream.position == 7
        stream.close()
        assert alike(take(stream, 1), [joined(sequence[7:9])])


def test_batches_are_float_tensors_of_the_stated_shape(pictures):
    for channels in 3, 1:
        batch = next(UnpairedStream(pictures, 16, 5, workers=0, channels=channels))
        assert list(batch) == ["A", "B"]
        for x in batch.values():
            assert x.shape == (5, channels, 16, 16) and x.dtype == torch.float32 and x.is_contiguous()
            assert -1 <= x.min() < x.max() <= 1


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("load_size", [16, 19])
def test_windows_are_cut_from_pictures_of_the_asked_size_and_filter(pictures, load_size, resample):
    tv = pytest.importorskip("torchvision.transforms")
    large = tv.Resize((load_size, load_size), tv.InterpolationMode(resample))
    candidates = set()
    for path in pictures["B"]:
        pixels = np.asarray(large(read_image(path)))
        for top, left in itertools.product(range(load_size - 15), repeat=2):
            window = pixels[top:top + 16, left:left + 16]
            candidates |= {window.tobytes(), window[:, ::-1].tobytes()}
    for cache in False, True:
        stream = UnpairedStream(pictures, 16, 3, workers=0, cache=cache, load_size=load_size, resample=resample)
        for batch in take(stream, 8):
            for x in ((batch["B"] + 1) * 127.5).round().to(torch.uint8):
                assert x.permute(1, 2, 0).numpy().tobytes() in candidates
    path = pictures["A"][0]
    pixels = np.array(tv.Resize((24, 24), tv.InterpolationMode(resample))(read_image(path)))
    assert torch.equal(load_for_test(path, 24, resample=resample), decode.to_tensor(pixels))


def test_the_margin_is_the_default_and_a_picture_smaller_than_its_window_is_refused(pictures, sequence):
    assert alike(take(UnpairedStream(pictures, 16, 1, workers=0, load_size=16 + MARGIN), 9), sequence[:9])
    with pytest.raises(UserError) as error:
        UnpairedStream(pictures, 16, 1, workers=0, load_size=15)
    one_line(error, "15", "16", "load_size")


@pytest.mark.cuda
def test_batches_are_pinned_for_a_gpu(pictures, sequence):
    with UnpairedStream(pictures, 16, 1, workers=2, pin_memory=True) as stream:
        batches = take(stream, 5)
    assert all(batch[domain].is_pinned() for batch in batches for domain in "AB") and alike(batches, sequence[:5])


def test_seeds_domains_and_samples_differ(pictures, sequence):
    other = take(UnpairedStream(pictures, 16, 1, seed=1, workers=0), 20)
    assert sum(torch.equal(a["A"], b["A"]) for a, b in zip(sequence, other, strict=False)) == 0
    assert len({sample["A"].numpy().tobytes() for sample in sequence}) == 60
    alone = UnpairedStream({"A": pictures["A"][:1], "B": pictures["A"][:1]}, 16, 1, workers=0)
    assert not any(torch.equal(batch["A"], batch["B"]) for batch in take(alone, 7))
    assert list(_order(0, "A", 0, 20)) != list(_order(0, "B", 0, 20))


def test_each_epoch_visits_every_picture_once_in_a_new_order(tmp_path):
    shades = {"A": range(0, 250, 25), "B": range(0, 180, 60)}
    for domain, values in shades.items():
        for value in values:
            save(tmp_path / domain / f"{value}.png", Image.new("RGB", (8, 8), (value,) * 3))
    stream = UnpairedStream({d: list_images(tmp_path / d) for d in "AB"}, 8, 1, workers=0)
    seen = take(stream, 60)
    for domain, values in shades.items():
        shade = [round((float(batch[domain].mean()) + 1) * 127.5) for batch in seen]
        epochs = [tuple(shade[i:i + len(values)]) for i in range(0, 60, len(values))]
        assert all(sorted(epoch) == list(values) for epoch in epochs)
        assert len(set(epochs)) >= min(len(epochs), 4)


def test_one_picture_is_enough_for_any_batch(tmp_path):
    paths = [save(tmp_path / "only.png", scene(5, 3))]
    with UnpairedStream({"A": paths, "B": paths}, 16, 4, workers=2) as stream:
        assert all(x.shape == (4, 3, 16, 16) for batch in take(stream, 3) for x in batch.values())


def test_the_training_s_random_numbers_are_left_alone(pictures):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with UnpairedStream(pictures, 16, 1, workers=1) as stream:
        next(stream)
    next(UnpairedStream(pictures, 16, 1, workers=0))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_changes_no_bit_and_reads_each_file_once(pictures, sequence, tmp_path, workers):
    paths = {d: [Path(shutil.copy(path, tmp_path / f"{d}{path.name}")) for path in pictures[d]] for d in "AB"}
    with UnpairedStream(paths, 16, 1, workers=workers, cache=True) as stream:
        assert alike(take(stream, 7), sequence[:7])
        assert all(pixels is not None for kept in stream._samples.cache.values() for pixels in kept)
        for path in paths["A"] + paths["B"]:
            path.unlink()
        assert alike(take(stream, 53), sequence[7:])


def test_a_cache_too_large_for_the_memory_is_not_made(pictures, sequence, monkeypatch, capfd):
    needed = 11 * 46 * 46 * 3
    for world, free, kept in (1, 2 * needed, True), (1, 2 * needed - 1, False), (2, 4 * needed - 1, False):
        monkeypatch.setattr(dataset, "machine_memory", lambda free=free: (free, free))
        streams = [UnpairedStream(pictures, 16, 1, workers=0, cache=True, rank=r, world=world) for r in range(world)]
        assert [bool(stream._samples.cache) for stream in streams] == [kept] * world
        assert capfd.readouterr().err.count("\n") == (not kept)
        assert alike([next(streams[0])], sequence[:1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_gone_bad_is_a_clean_error_and_can_be_repaired(pictures, sequence, tmp_path, workers):
    paths = {d: [Path(shutil.copy(path, tmp_path / f"{d}{path.name}")) for path in pictures[d]] for d in "AB"}
    victim = paths["A"][_order(0, "A", 0, 7)[4]]  # sample number 4
    good = victim.read_bytes()
    victim.write_bytes(good[:60])
    with UnpairedStream(paths, 16, 1, workers=workers) as stream:
        assert alike(take(stream, 4), sequence[:4])
        for _ in range(2):
            with pytest.raises(UserError) as error:
                next(stream)
            one_line(error, victim, "repair or remove it")
            assert stream.position == 4
        victim.write_bytes(good)
        assert alike(take(stream, 3), sequence[4:7])


@pytest.fixture
def read_by(monkeypatch):
    """A function that replaces the reading of pictures by another."""
    return lambda function: monkeypatch.setattr(dataset, "read_image", function)


def test_close_and_neglect_end_the_threads_and_leave_no_file_open(pictures):
    files, before = [], threading.active_count()
    for _ in range(6):
        with UnpairedStream(pictures, 16, 1, workers=2, cache=True) as stream:
            next(stream)
            readers = stream._batches.threads
            assert len(readers) == 2 and all(reader.daemon for reader in readers)
        assert not any(reader.is_alive() for reader in readers)
        next(stream)
        readers = stream._batches.threads
        del stream
        gc.collect()
        for reader in readers:
            reader.join(20)
        files.append(len(os.listdir("/proc/self/fd")))
    assert threading.active_count() == before and files[-1] == files[0]


def test_threads_read_only_a_few_batches_ahead(pictures, read_by):
    read = []

    def counted(path, scale=None):
        read.append(path)
        return read_image(path)
    read_by(counted)
    with UnpairedStream(pictures, 16, 1, workers=2) as stream:
        next(stream)
        deadline = time.monotonic() + 20
        while len(read) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(read) == 10  # two pictures each of the batch received and of four more


def test_errors_come_in_order_though_a_later_one_is_met_first(pictures, sequence, read_by):
    first, second = (pictures["B"][_order(0, "B", 0, 4)[k]] for k in (2, 3))
    later = threading.Event()

    def spoilt(path, scale=None):
        if path == second:
            later.set()
        if path in (first, second):
            assert later.wait(20)
            raise UserError(f"cannot read {path}")
        return read_image(path)
    read_by(spoilt)
    with UnpairedStream(pictures, 16, 1, workers=2) as stream:
        assert alike(take(stream, 2), sequence[:2])
        with pytest.raises(UserError, match=re.escape(str(first))):
            next(stream)
        assert stream.position == 2


def test_a_mistake_of_ours_in_a_thread_is_raised_with_its_traceback(pictures, read_by):
    def mistaken(path, scale=None):
        raise RuntimeError("a mistake of ours")
    read_by(mistaken)
    with UnpairedStream(pictures, 16, 1, workers=1) as stream, pytest.raises(RuntimeError, match="of ours") as error:
        next(stream)
    assert "mistaken" in [entry.name for entry in error.traceback]


def test_an_interrupt_while_a_batch_is_awaited_loses_no_sample(pictures, sequence, read_by):
    asked = threading.Event()

    def slow(path, scale=None):
        assert asked.wait(20)
        return read_image(path)
    with UnpairedStream(pictures, 16, 1, workers=2) as stream:
        assert alike(take(stream, 3), sequence[:3])
        stream.close()
        read_by(slow)
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        asked.set()
        assert stream.position == 3 and alike(take(stream, 3), sequence[3:6])


@pytest.mark.parametrize("ending", ["exit", "interrupt"])
def test_a_thread_that_hangs_in_a_read_keeps_no_program_from_ending(pictures, tmp_path, ending):
    code = """if True:
        import os, signal, sys, json, threading, dataset
        from pathlib import Path
        paths = {d: [Path(path) for path in paths] for d, paths in json.loads(sys.argv[1]).items()}
        stream = dataset.UnpairedStream(paths, 16, 1, workers=2)
        next(stream)
        hanging = threading.Event()
        def hang(path, scale=None):
            hanging.set()
            threading.Event().wait()
        dataset.read_image = hang
        stream._batches._submit()
        hanging.wait()
        if sys.argv[2] == "interrupt":
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            while True:
                next(stream)
        print("done")"""
    paths = json.dumps({d: [str(path) for path in paths] for d, paths in pictures.items()})
    done = subprocess.run([sys.executable, "-c", code, paths, ending], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)
    if ending == "interrupt":
        assert done.returncode == -signal.SIGINT and done.stderr.rstrip().endswith("KeyboardInterrupt")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_threads_scale_deep_pictures_as_their_domain_was_measured(tmp_path):
    dark, bright = (save(tmp_path / f"{most}.tif", np.full((4, 4), most, np.uint16)) for most in (1000, 4000))
    scale = measured([dark, bright])
    bright.unlink()
    with UnpairedStream({"A": [dark], "B": [dark]}, 16, 1, workers=2, scales={"A": scale, "B": {}}) as stream:
        batch = next(stream)
    assert torch.equal(batch["A"], torch.full((1, 3, 16, 16), 62 / 127.5 - 1))
    assert torch.equal(batch["B"], torch.full((1, 3, 16, 16), 249 / 127.5 - 1))
