"""Real trainings in processes of their own, forked from one that has imported torch already.

Importing torch takes seconds, a tiny training less than one.  So a single server process imports
everything, and each run is a fork of it: a process that can be killed, starved and counted.

    run = train(folder, "--iteration 9")      main.py with the tiny settings, in the folder's results
    run = train(folder, "--method cut")       with those of that method
    run.reach(3); run.signal(SIGTERM); run.wait(); run.output
"""

import atexit
import functools
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
# options of a tiny network of each method, at the smallest size that is convenient
SMALL = {
    "nice": "--img_size 48 --ch 2 --n_res 1 --n_dis 6",
    "cyclegan": "--img_size 32 --ch 2 --n_res 1 --pool_size 2",
    "cut": "--img_size 32 --ch 2 --n_res 1 --netF_nc 8 --num_patches 16",
    "fastcut": "--img_size 32 --ch 2 --n_res 1 --netF_nc 8 --num_patches 16",
    "gcgan": "--img_size 32 --ch 2 --n_res 1 --pool_size 2 --batch_size 1",
    "distancegan": "--img_size 32 --ch 2 --n_res 1 --pool_size 2 --batch_size 1 --self_distance true",
    "ugatit": "--img_size 96 --ch 2 --n_res 1",
    "munit": "--img_size 16 --ch 2 --dis_dim 2 --mlp_dim 4 --n_res 1 --n_layer 2 --num_scales 2",
    "unit": "--img_size 16 --ch 2 --dis_dim 2 --n_res 1 --n_layer 2 --num_scales 2",
    "drit": "--img_size 212 --ch 1",
    "sincut": "--img_size 64 --ch 1 --ndf 1 --netF_nc 8 --batch_size 2 --init_gain 1",
    "sincyclegan": "--img_size 64 --ch 1 --ndf 1 --batch_size 2 --pool_size 2",
}
ALIKE = "--dataset tiny --num_workers 0 --device cpu --log_freq 1"
TINY = f"{ALIKE} {SMALL['nice']}"
PATIENCE = 120  # seconds until a test gives up: these machines may be busy


def pictures(folder: Path, each=2) -> Path:
    """folder/dataset/tiny with `each` small pictures in all four places."""
    noise = np.random.default_rng(0)
    for place in ("trainA", "trainB", "testA", "testB"):
        (folder / "dataset" / "tiny" / place).mkdir(parents=True)
        for i in range(each):
            image = Image.fromarray(noise.integers(0, 255, (48, 48, 3), dtype=np.uint8))
            image.save(folder / "dataset" / "tiny" / place / f"{i}.png")
    return folder


def with_pictures(folder: Path, data: Path) -> Path:
    """`folder`, in which the pictures of `data` lie from now on."""
    (folder / "dataset").symlink_to(data / "dataset")
    return folder


class Run:
    """A process that calls `function` of a module; its stdout and stderr together in `output`."""

    def __init__(self, folder: Path, function: str, *arguments, at="", environment=None, **limits: int):
        self.folder, self.file = folder, folder / f"output_{time.monotonic_ns()}"
        job = {"function": function, "arguments": arguments, "limits": limits, "output": str(self.file)}
        job |= {"at": str(at), "environment": environment or {}}
        self.pid, self.status = _ask(**job), None

    @property
    def output(self) -> str:
        return self.file.read_text(errors="replace")

    def signal(self, *numbers: int):
        for number in numbers:
            os.kill(self.pid, number)  # a process not yet waited for keeps its number

    def poll(self) -> int | None:
        """The exit status, negative for a signal's number; None while it runs."""
        if self.status is None:
            self.status = _ask(wait=self.pid)
        return self.status

    def wait(self) -> int:
        try:
            until(lambda: self.poll() is not None, self)
        finally:
            if self.status is None:
                self.signal(signal.SIGKILL)
        return self.status

    def lines(self) -> list[dict]:
        """What log.jsonl says; a line that is no strict JSON object is an error."""
        file = self.folder / "results" / "tiny" / "log.jsonl"
        return [json.loads(line, parse_constant=int) for line in file.read_bytes().splitlines()]

    def reach(self, step: int):
        """Wait until the log shows that step."""
        file = self.folder / "results" / "tiny" / "log.jsonl"
        until(lambda: file.exists() and f'"step": {step},' in file.read_text(), self)

    def workers(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


def until(done, run: Run, patience=None) -> bool:
    """Wait; what is not done in time is an error, or with a patience of its own False."""
    end = time.monotonic() + (patience or PATIENCE)
    while not done():
        if patience and time.monotonic() > end:
            return False
        assert time.monotonic() < end, run.output
        time.sleep(0.01)
    return True


def train(folder: Path, options: str | list[str] = "", **more) -> Run:
    """Start main.py with the tiny settings and these options; more: limits as in resource.RLIMIT_*, at, environment."""
    options = options.split() if isinstance(options, str) else options
    places = ["--result_dir", str(folder / "results")]
    if "/" not in dict(zip(options, options[1:], strict=False)).get("--dataset", ""):
        places += ["--dataset_dir", str(folder / "dataset")]
    method = dict(zip(options, options[1:], strict=False)).get("--method", "nice")
    return Run(folder, "runs:program", [*f"{ALIKE} {SMALL[method]}".split(), *places, *options], **more)


def trained(folder: Path, options: str | list[str] = "", status=0, **more) -> Run:
    """The same, waited for; a status other than the one expected is an error."""
    run = train(folder, options, **more)
    assert run.wait() == status, run.output
    return run


def latest(folder) -> Path:
    return folder / "results" / "tiny_params_latest.pt"


def snapshot(folder) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*") if "output_" not in p.name}


def complaint(run, *words) -> str:
    """The one line that a run printed, which must be an error that holds these words."""
    lines = run.output.splitlines()
    assert len(lines) == 1 and lines[0].startswith("main.py: error: "), run.output
    assert all(str(word) in lines[0] for word in words), run.output
    return lines[0]


# ------------------------------------------------------------------------------------- in the server


def program(argv: list[str]):
    import main
    import utils

    sys.argv[1:] = argv
    utils.run(main.main, "main.py")


def _ask(**job):
    server = _server()
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@functools.cache
def _server() -> subprocess.Popen:
    # one thread: a process with several cannot safely fork
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, __file__]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    atexit.register(server.stdin.close)  # which ends it
    return server


def _serve():
    import main
    import NICE

    NICE.NICE(main.parse_args(TINY.split()))  # so that all is imported, for all the forks to come
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            pid, status = os.waitpid(job["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork() or _child(job)
        print(json.dumps(answer), flush=True)


def _child(job):
    status = 0
    try:
        for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
            path = job["output"] if descriptor else os.devnull
            os.dup2(os.open(path, flags | os.O_CREAT | os.O_APPEND), descriptor)
        os.environ.update(job["environment"])
        if job["at"]:
            os.chdir(job["at"])
        for name, value in job["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        module, function = job["function"].split(":")
        getattr(importlib.import_module(module), function)(*job["arguments"])
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        status = 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
