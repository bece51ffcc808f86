"""Two processes on gloo equal one with twice the batch: real torchrun, real files."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import TINY, double_precision, images, options, weights

import methods
import NICE
from checkpoints.files import latest_path, load_checkpoint, newest_checkpoint
from training.distributed import BUCKET, LostPeer, buckets, lost_peers

SETTINGS = f"{TINY} --dataset toy --print_freq 5 --log_freq 1 --decay_flag false --lr 1e-6 --weight_decay 0"


def torchrun(number, data, results, *more, **kwargs):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}", "main.py"]
    command += [*SETTINGS.split(), "--dataset_dir", str(data), "--result_dir", str(results), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=environment, **pipes, **kwargs)


def in_processes(function, calls):
    """Run function(*call, port, queue) for each call in a process of its own; returns what they put into the queue."""
    spawn = torch.multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [spawn.Process(target=function, args=(*call, port, queue)) for call in calls]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return found


def finished(process):
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 0, out
    return out


def logged(results):
    return [json.loads(line) for line in (results / "toy" / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch_and_resume_as_one(folders, tmp_path):
    data, _ = folders
    two, one = tmp_path / "two", tmp_path / "one"
    finished(torchrun(2, data, two, "--iteration", "5"))
    # resume as one process: weights and position in the data carry over
    finished(torchrun(1, data, two, "--iteration", "10", "--batch_size", "2", "--resume", "true"))
    finished(torchrun(1, data, one, "--iteration", "10", "--batch_size", "2"))
    ours, theirs = logged(two), logged(one)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, 11))
    a, b = (load_checkpoint(latest_path(r / "toy"), methods.recognise) for r in (two, one))
    assert a["position"] == b["position"] == 20
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        for name in ("d_loss", "g_loss"):
            assert ours_[name] == pytest.approx(theirs_[name], rel=1e-5, abs=2e-6)


def test_a_mistake_is_said_once_and_last(folders, tmp_path):
    data, _ = folders
    process = torchrun(2, data, tmp_path, "--dataset", "nope")
    out, _ = process.communicate(timeout=150)
    line = f"main.py: error: no data set {data}/nope; make it, with trainA, trainB in it, or check --dataset"
    assert process.returncode != 0
    assert out.count(f"\n{line}\n") + out.startswith(line) == 1  # only one process prints it;
    assert out.splitlines()[-2].partition(" : ")[2] == line  # torchrun's report repeats it
    assert not (tmp_path / "nope").exists()


def differing(rank, port, results):
    """A step whose loss is finite in rank 0 only, while all gradients are finite (run by spawn)."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    nice = NICE.NICE(options("--iteration 10 --on_nan skip"))
    before, objective = weights(nice), nice.generator_objective

    def spoilt(*inputs):
        loss, terms = objective(*inputs)
        return loss, {**terms, "odd": loss.detach() * (float("nan") if rank else 0)}

    nice.generator_objective = spoilt
    calls, all_reduce = [], dist.all_reduce
    dist.all_reduce = lambda *inputs, **more: calls.append(inputs[0].numel()) or all_reduce(*inputs, **more)
    nice.train_step(images(seed=rank), images(seed=rank + 2))
    same = [key for key, value in weights(nice).items() if key.startswith("gen") and torch.equal(value, before[key])]
    results.put((rank, int(nice.guard.dropped), len(same) == sum(key.startswith("gen") for key in before), len(calls)))
    dist.destroy_process_group()


def test_all_processes_drop_the_same_updates_with_few_calls():
    found = [answer[1:] for answer in sorted(in_processes(differing, [(0,), (1,)]))]
    assert found[0] == found[1] == (1, True, 2)  # one call per update: its gradients fit into a bucket of 25 MiB


def test_only_errors_of_lost_processes_become_lost_peer():
    for error in (RuntimeError("shapes do not match"), torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        with pytest.raises(type(error)) as raised, lost_peers():
            raise error
        assert raised.value is error
    gone = RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    for error in (gone, dist.DistBackendError("NCCL error")):
        with pytest.raises(LostPeer, match="another process .* is gone") as raised, lost_peers():
            raise error
        assert str(error) in str(raised.value) and raised.value.__cause__ is error


def test_buckets_hold_everything_once_in_order():
    tensors = [torch.empty(n, dtype=dtype) for n, dtype in ((3, torch.float32), (4, torch.float64), (5, torch.float64))]
    tensors += [torch.empty(BUCKET // 4, device="meta"), torch.empty(1), torch.empty(7)]
    found = buckets(tensors)
    assert [len(bucket) for bucket in found] == [1, 2, 1, 2]
    assert [id(x) for bucket in found for x in bucket] == [id(x) for x in tensors]


def train_rank(rank, world, port, results):
    """One process of a training in double precision on its share of the batches (run by spawn)."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    with double_precision():
        nice = NICE.NICE(options("--iteration 10"))
    losses = []
    for step in range(10):
        batch = [images(2, seed=2 * step + i).double() for i in range(2)]
        share = [x if world == 1 else x[rank : rank + 1] for x in batch]
        terms = nice.train_step(*share)
        losses.append([terms[k].item() for k in ("d_loss", "g_loss")])
    results.put((world, rank, losses, {k: v.numpy() for k, v in weights(nice).items()}))
    if world > 1:
        dist.destroy_process_group()


def test_two_processes_of_batch_one_equal_one_of_batch_two():
    """Losses and weights of ten steps in double precision, where Adam does not amplify rounding."""
    found = in_processes(train_rank, [(0, 2), (1, 2), (0, 1)])
    found = {(world, rank): (losses, arrays) for world, rank, losses, arrays in found}
    whole, ranks = found[1, 0], (found[2, 0], found[2, 1])
    mean = np.mean([losses for losses, _ in ranks], axis=0)  # each process has the loss of its own share
    np.testing.assert_allclose(mean, whole[0], rtol=1e-9)
    for key, expected in whole[1].items():
        assert np.array_equal(ranks[0][1][key], ranks[1][1][key]), key
        np.testing.assert_allclose(ranks[0][1][key], expected, rtol=1e-5, atol=1e-9, err_msg=key)


def test_a_killed_process_ends_the_others_with_a_line_and_a_valid_checkpoint(folders, tmp_path):
    data, _ = folders
    process = torchrun(2, data, tmp_path, "--iteration", "100000", start_new_session=True)
    latest = latest_path(tmp_path / "toy")
    deadline = time.time() + 120
    while not latest.exists() and time.time() < deadline:
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    start = time.time()
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and time.time() - start < 30
    assert "another process of this training is gone" in out or "stopped after step" in out, out[-2000:]
    newest_checkpoint(tmp_path / "toy", None, methods.recognise)
