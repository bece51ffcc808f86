"""The number of CPU threads follows from the options alone, and --threads or OMP_NUM_THREADS decide."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import options

from training.threads import Adaptive, choose, is_adaptive, threads_for

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import busy  # noqa: E402
import trainings  # noqa: E402

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


def test_the_line_says_how_many_threads_and_why(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    large = "--img_size 256 --ch 64"
    assert choose(options())[1].startswith("trains with 1 thread: more would gain nothing")
    assert choose(options("--threads 3"))[1] == "trains with 3 threads: as --threads says"
    assert choose(options(large))[1].startswith("trains with 6 threads: fewer while other programs")
    assert [is_adaptive(options(text)) for text in (large, f"{large} --threads 6", "")] == [True, False, False]
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert choose(options(large))[1] == "trains with 6 threads: as OMP_NUM_THREADS says"
    assert not is_adaptive(options(large))


def test_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    for processes, number in (("1", 6), ("2", 3), ("4", 1), ("9", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert threads_for(options("--img_size 256 --ch 64")) == number


def test_jobs_never_take_more_threads_than_cores(monkeypatch, capsys):
    monkeypatch.setattr(trainings, "cores", lambda: 3)
    at_once, most, lock = 0, 0, threading.Lock()

    def task():
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1

    trainings.work([task] * 6, 5, lambda result: None)
    assert most <= 3 and "--jobs 5: this machine has 3 cores" in capsys.readouterr().err
    assert all(jobs * trainings.threads(jobs) <= 3 for jobs in (1, 2, 3)) and trainings.threads(5) == 1


def test_threads_are_fewer_while_steps_are_slow_and_all_again_when_quiet():
    numbers, said = [], []
    adaptive = Adaptive(4, set_number=numbers.append)

    def steps(seconds: float, times: int):
        said.extend(line for _ in range(times) if (line := adaptive(seconds)))

    steps(1, 20)
    steps(1.9, 21)  # no more than half of the threads would take
    assert numbers == said == []
    steps(4, 2)
    expected = "steps take 4.0 times as long as before: 2 of 4 threads until other programs leave the cores"
    assert numbers == [2] and said == [expected]
    steps(1.5, 39)
    assert numbers == [2]
    steps(1.5, 2)  # a minute has passed: all threads are tried
    steps(4, 2)
    assert numbers == [2, 4, 2] and len(said) == 1  # still busy
    steps(1.5, 41)
    steps(1, 2)
    assert numbers == [2, 4, 2, 4] and said[1] == "steps are as fast as before: 4 threads again"
    steps(1, 20)
    assert len(numbers) == 4


def test_busy_measures_after_the_threads_have_changed():
    numbers = []
    adaptive = Adaptive(4, set_number=numbers.append)
    for seconds, again, expected in ((1, False, []), (4, False, [2]), (4, True, [2, 4, 2]), (1, True, [2, 4, 2, 4])):
        times = iter([seconds] * 40)
        while adaptive.usual == float("inf"):
            adaptive(seconds)
        busy.settle(adaptive, lambda times=times: next(times), 0, again)
        assert numbers == expected
    busy.settle(None, pytest.fail, 9)  # a fixed number of threads


def test_steps_that_differ_in_cost_are_no_sign_of_other_programs():
    adaptive = Adaptive(2, period=3, set_number=pytest.fail)
    assert [line for _ in range(20) for seconds in (0.5, 0.5, 9) if (line := adaptive(seconds))] == []
