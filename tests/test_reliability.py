"""Long trainings: signals, kills, locks, full disks, divergence, leaks.

Real processes and files, with NICE-GAN; what the trainer guarantees is tested with every method.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import ROOT, SMALL, TINY, complaint, latest, pictures, snapshot, train, trained, until

import methods
from checkpoints.contents import is_network
from checkpoints.files import load_checkpoint, numbered_paths, save_checkpoint, verify

STEPS = 10
OFTEN = f"--iteration {STEPS} --print_freq 4 --save_freq 2 --keep 2"
KILL, TERM, INT, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
# two directions with pools; one direction with a network built from the first batch; the other methods are slow
ALWAYS = ("nice", "cyclegan", "cut")
every_method = pytest.mark.parametrize(
    "method",
    [m if m in ALWAYS else pytest.param(m, marks=pytest.mark.slow) for m in SMALL],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module")
def method(request):
    return getattr(request, "param", "nice")


@pytest.fixture(scope="module")
def often(method):
    return f"--method {method} {OFTEN}"


@pytest.fixture(scope="module")
def data(tmp_path_factory, method):
    return pictures(tmp_path_factory.mktemp("data"), each=1 if methods.load(method).test_split == "train" else 2)


@pytest.fixture(scope="module")
def undisturbed(data, often):
    """An uninterrupted training: digests of its checkpoint, its log, its seconds."""
    trained(data, f"{often} --iteration 1")  # first-time costs
    shutil.rmtree(data / "results")
    start = time.monotonic()
    run = trained(data, often)
    return ending(data), losses(run), time.monotonic() - start


def ending(folder) -> dict:
    """The digests in a run's latest checkpoint, verified."""
    state = load_checkpoint(latest(folder), methods.recognise)
    verify(state, latest(folder))
    return state["digest"]


def losses(run) -> list[dict]:
    """The log without its times."""
    return [{k: v for k, v in line.items() if k not in ("steps_per_second", "data_wait")} for line in run.lines()]


def debris(folder) -> list[Path]:
    return [path for path in (folder / "results").rglob("*") if path.suffix == ".tmp"]


# ------------------------------------------------------------------------------------------- signals


def test_a_stop_finishes_the_step_saves_and_says_how_to_continue(folder, undisturbed):
    process = subprocess.Popen(  # the real command line
        [sys.executable, "main.py", *f"{TINY} {OFTEN}".split(), "--dataset_dir", folder / "dataset",
         "--result_dir", folder / "results"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"})  # as the undisturbed run: threads affect rounding  # fmt: skip
    log = folder / "results" / "tiny" / "log.jsonl"
    while not log.exists() or not log.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(INT)
    error = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 128 + INT  # so that in `main.py ... && next`, next does not run

    step = load_checkpoint(latest(folder), methods.recognise)["start_iter"]
    assert 1 <= step < STEPS and error.startswith(f"stopped after step {step}; continue with: python main.py ")
    argv = shlex.split(error.split("continue with: ")[1])[2:]
    assert argv[-2:] == ["--resume", "True"]
    run = trained(folder, shlex.join(argv[len(TINY.split()) :]))
    assert (ending(folder), losses(run)) == undisturbed[:2]


@every_method
def test_stops_at_any_moment_lose_no_step(folder, undisturbed, method, often):
    """Also while a sample grid or a checkpoint is written."""
    noise = np.random.default_rng(1)
    for _ in range(5 if method == "nice" else 2):
        run = train(folder, f"{often} {'--resume True' if latest(folder).exists() else ''}")
        time.sleep(noise.uniform(0.2, 0.8) * undisturbed[2])
        run.signal(TERM)
        assert run.wait() in (0, 128 + TERM)
        if "stopped after step" in run.output:
            assert run.status == 128 + TERM
            step = int(run.output.split("stopped after step ")[1].split(";")[0])
            assert load_checkpoint(latest(folder), methods.recognise)["start_iter"] == step == run.lines()[-1]["step"]
    run = trained(folder, f"{often} {'--resume True' if latest(folder).exists() else ''}")
    assert (ending(folder), losses(run)) == undisturbed[:2]


def test_usr1_saves_and_goes_on_and_a_second_signal_stops_at_once(folder):
    run = train(folder, "--iteration 1000000")
    run.reach(1)
    run.signal(USR1)
    until(latest(folder).exists, run)
    before, step = latest(folder).read_bytes(), run.lines()[-1]["step"]
    run.reach(step + 2)
    run.signal(TERM, INT)
    assert run.wait() in (128 + TERM, 128 + INT)
    assert latest(folder).read_bytes() == before


@pytest.mark.parametrize("number", [TERM, INT])
@pytest.mark.parametrize("moment", ["imports", "first step"])
def test_a_signal_before_the_first_step_ends_at_once_in_one_line_and_moves_nothing(folder, data, number, moment):
    trained(folder, "--iteration 1")
    before = snapshot(folder)
    # the first step is long, and mostly in calls during which Python's own handlers wait
    argv = f"{TINY} --dataset_dir {folder}/dataset --result_dir {folder}/results --img_size 768 --ch 8".split()
    process = subprocess.Popen([sys.executable, "main.py", *argv], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while moment == "imports" and "/_ctypes" not in maps.read_text():  # next is torch, which takes seconds
        time.sleep(0.005)
    seen = ""
    while moment == "first step" and "step/s" not in seen:
        seen += process.stderr.read(1)
    time.sleep(2 if moment == "first step" else 0)
    start = time.monotonic()
    process.send_signal(number)
    told = process.communicate()[1]
    assert process.returncode == 128 + number and time.monotonic() - start < 5
    assert told.splitlines()[-1] in (f"main.py: stopped by {number.name}", f"training: stopped by {number.name}")
    assert "Traceback" not in told and snapshot(folder) == before


# --------------------------------------------------------------------------------------------- kills


def killed_until_done(folder, often, noise, seconds) -> int:
    """Kill a training at random times and resume it until it ends; returns the number of kills."""
    kills = 0
    while True:
        resume = "--resume True" if latest(folder).exists() else ""
        run = train(folder, f"{often} {resume}")
        time.sleep(noise.uniform(0, seconds))
        run.signal(KILL)
        if run.wait() == 0:
            return kills
        assert run.status == -KILL, run.output
        kills += 1
        if (folder / "results" / "tiny" / "log.jsonl").exists() and run.lines():  # every line is complete
            assert [line["step"] for line in run.lines()] == list(range(1, run.lines()[-1]["step"] + 1))


@every_method
@pytest.mark.parametrize("wanted", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_random_times_change_no_bit(folder, undisturbed, method, often, wanted):
    noise, kills = np.random.default_rng(wanted), 0
    wanted = wanted if method == "nice" else wanted // 3  # they share the trainer
    while kills < wanted:
        shutil.rmtree(folder / "results", ignore_errors=True)
        kills += killed_until_done(folder, often, noise, undisturbed[2])
        run = trained(folder, f"{often} --resume True")  # already at the end: changes nothing
        assert (ending(folder), losses(run)) == undisturbed[:2]
        assert [p.name for p in numbered_paths(folder / "results" / "tiny")] == [
            f"tiny_params_{step:07d}.pt" for step in (STEPS - 2, STEPS)
        ]
        assert not debris(folder)
    print(f"{kills} kills")


@every_method
def test_a_killed_training_leaves_no_lock_and_no_process(folder, method):
    how = f"--method {method}"
    first = train(folder, f"{how} --iteration 1000000 --print_freq 2 --num_workers 1")
    first.reach(3)
    before = snapshot(folder / "results" / "tiny" / "img")
    assert trained(folder, f"{how} --resume True", status=2).lines()
    second = train(folder, f"{how} --iteration 1000000")
    assert second.wait() == 2
    complaint(second, "another training runs in", folder / "results" / "tiny", "--result_dir")
    assert before.items() <= snapshot(folder / "results" / "tiny" / "img").items()

    assert not first.workers()
    first.signal(KILL)
    first.wait()
    trained(folder, f"{how} --iteration 4 --resume True")  # at once


# ----------------------------------------------------------------------------------------- full disks


@pytest.fixture(params=["tmpfs", "limit"])
def shrink(request, folder):
    """shrink(room): leave that many bytes free in results; returns the limits for a run."""
    results = folder / "results"
    results.mkdir()
    if request.param == "limit":
        yield lambda room: {"RLIMIT_FSIZE": room}
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(results)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here; the file-size limit stands in")

    def fill(room):
        free = os.statvfs(results).f_bavail * os.statvfs(results).f_frsize
        (results / "filler").write_bytes(bytes(free - room))
        return {}

    yield fill
    subprocess.run(["umount", "-l", str(results)], check=True)


@pytest.mark.parametrize(
    "room, options, what",
    [
        (300_000, "--print_freq 2", "tiny_params_latest.pt"),
        (300_000, "--save_freq 2", "model/tiny_params_0000004.pt"),
        (50_000, "--print_freq 4", "tiny/img/A2B_0000004.png"),
        (12_000, "", "log.jsonl"),
        (4096, "--phase test", "tiny/fake"),
    ],
)
def test_a_full_disk_is_told_and_costs_only_the_steps_since_the_last_checkpoint(folder, shrink, room, options, what):
    trained(folder, "--iteration 2 --print_freq 1000000 --save_freq 1000000")
    before = latest(folder).read_bytes()
    limits = shrink(room)
    run = trained(folder, f"--resume True --iteration 1000 {options}", status=1, **limits)
    line = run.output.splitlines()[-1]
    assert line.startswith("main.py: error: cannot write ") and what in line and "free some space" in line
    assert "Traceback" not in run.output and not debris(folder)
    assert latest(folder).read_bytes() == before
    assert not (folder / "results" / "tiny" / "fakeB" / "0.png").exists()
    assert all(line["step"] for line in run.lines())

    (folder / "results" / "filler").unlink(missing_ok=True)
    assert trained(folder, "--resume True --iteration 5").lines()[-1]["step"] == 5


@every_method
def test_a_full_disk_costs_every_method_the_steps_since_the_last_checkpoint(folder, method):
    trained(folder, f"--method {method} --iteration 2 --print_freq 1000000 --save_freq 1000000")
    before = latest(folder).read_bytes()
    options = f"--method {method} --resume True --iteration 1000 --print_freq 1000000 --save_freq 2"
    run = trained(folder, options, status=1, RLIMIT_FSIZE=len(before) // 2)
    line = run.output.splitlines()[-1]
    assert line.startswith("main.py: error: cannot write ") and "tiny_params_0000004.pt" in line
    assert "free some space" in line and "Traceback" not in run.output and not debris(folder)
    assert latest(folder).read_bytes() == before
    assert trained(folder, f"--method {method} --resume True --iteration 5").lines()[-1]["step"] == 5


def test_a_full_disk_at_the_first_checkpoint_does_not_advise_to_resume(folder):
    (folder / "results").mkdir()
    run = trained(folder, "--iteration 2", status=1, RLIMIT_FSIZE=300_000)
    line = run.output.splitlines()[-1]
    assert "tiny_params_latest.pt" in line and line.endswith("; free some space and start again")
    run = trained(folder, "--iteration 2")
    line = trained(folder, "--resume True --iteration 3", status=1, RLIMIT_FSIZE=300_000).output.splitlines()[-1]
    assert line.endswith("; free some space and start again, with --resume True")


def test_out_of_memory_is_told_in_a_line(folder):
    run = trained(folder, "--img_size 6144", status=1, RLIMIT_AS=5 * 2**30)
    line = run.output.splitlines()[-1]
    assert line.startswith("main.py: error: out of memory (") and "--img_size" in line and "Traceback" not in run.output


# ----------------------------------------------------------------------------------------- divergence


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(folder):
    trained(folder, "--iteration 2")
    state = load_checkpoint(latest(folder), methods.recognise)
    del state["digest"]
    state["gen2B"]["UpBlock2.17.weight"] = state["gen2B"]["UpBlock2.17.weight"].clone()
    state["gen2B"]["UpBlock2.17.weight"][0, 0] = 3e38  # finite, as a checkpoint's weights must be; sums of both are not
    state["gen2B"]["UpBlock2.17.weight"][0, 1] = -3e38
    save_checkpoint(state, latest(folder))
    before = latest(folder).read_bytes()
    run = trained(folder, "--iteration 4 --resume True", status=2)
    line = run.output.splitlines()[-1]
    assert line.startswith("main.py: error: step 3: not finite: d_local_B, d_global_B, d_cam_B, d_loss")
    assert "_A" not in line.split(";")[0] and "--on_nan skip" in line and "Traceback" not in run.output
    assert latest(folder).read_bytes() == before


def test_a_first_step_that_fails_moves_nothing_aside_and_leaves_nothing(folder):
    assert trained(folder, "--cycle_weight 1e39", status=2).output.splitlines()[-1].count("step 1: not finite: g_loss")
    assert not (folder / "results").exists()
    trained(folder, "--iteration 1")
    before = snapshot(folder)
    trained(folder, "--cycle_weight 1e39", status=2)
    assert snapshot(folder) == before


@every_method
def test_an_absurd_learning_rate_is_caught_before_it_spoils_a_checkpoint(folder, method):
    trained(folder, f"--method {method} --iteration 2")
    run = trained(folder, f"--method {method} --resume True --iteration 100 --lr 1e30 --print_freq 1", status=2)
    line = run.output.splitlines()[-1]
    assert line.startswith("main.py: error: step ") and "not finite: " in line and "lower --lr" in line
    state = load_checkpoint(latest(folder), methods.recognise)
    networks = [value for name, value in state.items() if is_network(name)]
    assert networks and all(v.isfinite().all() for net in networks for v in net.values())
    assert f"step {state['start_iter'] + 1}:" in line


def test_skipping_drops_updates_counts_them_and_ends_after_ten_in_a_row(folder):
    trained(folder, "--iteration 3 --print_freq 1000 --save_freq 1000")
    good = ending(folder)
    overflow = "--resume True --on_nan skip --cycle_weight 1e39"
    run = trained(folder, f"{overflow} --iteration 7")
    assert [line["dropped"] for line in run.lines()] == [0, 0, 0, 1, 2, 3, 4]
    assert run.lines()[-1]["g_loss"] is None and run.lines()[-1]["cycle_A"] > 0
    assert all(ending(folder)[name] == good[name] for name in ("gen2A", "gen2B", "G_optimizer"))

    run = trained(folder, "--resume True --on_nan skip --cycle_weight 10 --iteration 8 --decay_flag false")
    assert run.lines()[-1]["dropped"] == 4 and run.lines()[-1]["g_loss"] > 0
    assert ending(folder)["gen2A"] != good["gen2A"]

    before = latest(folder).read_bytes()
    run = trained(folder, f"{overflow} --iteration 1000", status=2)
    assert run.lines()[-1]["step"] == 17 and "step 9: not finite: g_loss, gradient of G" in run.output
    assert "10 in a row" in run.output and latest(folder).read_bytes() == before


# -------------------------------------------------------------------------------------------- hygiene


@pytest.mark.parametrize("steps", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_memory_files_and_threads_do_not_grow(folder, steps):
    run = train(folder, f"--iteration {steps} --print_freq 10 --save_freq 20 --keep 2 --num_workers 1")

    def use():
        process = Path(f"/proc/{run.pid}")
        memory = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return memory, len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))

    run.reach(steps // 4)
    early = use()
    for step in range(steps // 4, steps - 5, 25):
        run.reach(step)
    run.reach(steps - 5)
    late = use()
    assert run.wait() == 0, run.output
    print(f"MiB, files, threads: {early} at step {steps // 4}, {late} at step {steps - 5}")
    assert late[0] < early[0] + 10 and late[1] <= early[1] + 1 and late[2] <= early[2] + 1
