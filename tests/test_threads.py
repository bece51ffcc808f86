"""The number of CPU threads follows from the options alone, and --threads or OMP_NUM_THREADS decide."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import options

from training.threads import threads_for

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import busy  # noqa: E402

SIZES = [("", True), ("--img_size 64 --ch 16", True), ("--img_size 256 --ch 64", False)]


@pytest.mark.parametrize("text, small", SIZES)
def test_small_work_takes_one_thread(text, small, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert threads_for(options(text)) == (1 if small else 7)
    assert threads_for(options(f"{text} --threads 3")) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # torch has read it: it is what get_num_threads says
    assert threads_for(options(text)) == 7


@pytest.mark.parametrize("name, value", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active"), ("", "")])
def test_a_user_s_way_of_waiting_is_kept(name, value):
    code = "import os, main; print(*(os.environ.get(n) for n in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')))"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", **({name: value} if name else {})}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    expected = {"GOMP_SPINCOUNT": "7 None", "OMP_WAIT_POLICY": "None active", "": "3000 None"}[name]
    assert done.stdout.split() == expected.split()


def test_busy_loops_compute_and_end():
    def children() -> set[str]:
        lists = Path("/proc/self/task").glob("*/children")
        return {number for path in lists for number in path.read_text().split()}

    before = children()
    with busy.busy(2):
        time.sleep(0.3)
        loops = children() - before
        assert len(loops) == 2
    assert not loops & children()
