"""Two processes on gloo against one: real torchrun, real files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TINY

import checkpoints

SETTINGS = f"{TINY} --dataset toy --print_freq 5 --log_freq 1 --decay_flag false --lr 1e-6 --weight_decay 0"


def torchrun(ranks, data, results, *more, **kwargs):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "main.py"]
    command += [*SETTINGS.split(), "--dataset_dir", str(data), "--result_dir", str(results), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=environment, **pipes, **kwargs)


def finished(process):
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 0, out
    return out


def logged(results):
    return [json.loads(line) for line in (results / "toy" / "log.jsonl").read_text().splitlines()]


def test_two_ranks_equal_one_with_twice_the_batch_and_resume_as_one(folders, tmp_path):
    data, _ = folders
    two, one = tmp_path / "two", tmp_path / "one"
    finished(torchrun(2, data, two, "--iteration", "5"))
    # on as one process: the position in the data and the weights carry over
    finished(torchrun(1, data, two, "--iteration", "10", "--batch_size", "2", "--resume", "true"))
    finished(torchrun(1, data, one, "--iteration", "10", "--batch_size", "2"))
    ours, theirs = logged(two), logged(one)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, 11))
    a, b = (checkpoints.load_checkpoint(checkpoints.latest_path(r / "toy")) for r in (two, one))
    assert a["position"] == b["position"] == 20
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        for name in ("d_loss", "g_loss"):
            assert ours_[name] == pytest.approx(theirs_[name], rel=1e-5, abs=2e-6)
    for net in checkpoints.NETWORKS:
        for key, value in a[net].items():
            torch.testing.assert_close(value, b[net][key], rtol=1e-5, atol=2e-5, msg=f"{net}.{key}")


def test_the_death_of_a_rank_ends_the_others_with_a_line_and_a_valid_checkpoint(folders, tmp_path):
    data, _ = folders
    process = torchrun(2, data, tmp_path, "--iteration", "100000", start_new_session=True)
    latest = checkpoints.latest_path(tmp_path / "toy")
    deadline = time.time() + 120
    while not latest.exists() and time.time() < deadline:
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    start = time.time()
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and time.time() - start < 30
    assert "another process of this training is gone" in out or "stopped after step" in out, out[-2000:]
    checkpoints.newest_checkpoint(tmp_path / "toy")
