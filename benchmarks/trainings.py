"""Many trainings by main.py, each in a process and a folder of its own: what the tables are made of.

    FOLDER/output.txt     what main.py printed
    FOLDER/NAME           what main.py calls results/NAME
    FOLDER/scores.json    {step: {score: value}}, of a complete training alone

What is complete is not done again, and what was interrupted continues from its checkpoint.  Importing this makes
the program's modules, one folder up, importable.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import demo  # noqa: E402
import fid_kid  # noqa: E402
import methods  # noqa: E402
from checkpoints.files import latest_path, load_checkpoint  # noqa: E402
from images.files import list_images  # noqa: E402
from training.state import locked  # noqa: E402
from utils import RunError, UserError, atomic  # noqa: E402

PATIENCE = 10  # seconds in which trainings end that heard of a stop by themselves


class Training:
    """One training of `steps` steps in `folder`; words: the options that every call of main.py gets."""

    def __init__(self, title: str, folder: Path, data: str, steps: int, words: list, threads: int):
        self.title, self.folder, self.steps, self.threads = title, folder, steps, threads
        self.words = [str(word) for word in words]
        self.results = folder / data

    def scores(self) -> dict | None:
        """{step: {score: value}} of a complete training, else None."""
        try:
            return json.loads((self.folder / "scores.json").read_text())
        except (OSError, ValueError):
            return None

    def last_scores(self) -> dict:
        """{score: value} of the last step that was scored; empty where the training is not complete."""
        found = self.scores()
        return found[max(found, key=int)] if found else {}

    def write_scores(self, found: dict):
        with atomic(self.folder / "scores.json") as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")

    def main(self, *options):
        """Call main.py with the training's options and these; its output goes to output.txt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        output = self.folder / "output.txt"
        status = call([*self.words, *map(str, options)], output, self.threads)
        if status:
            raise RunError(f"{self.title}: main.py ended with {status}; see {output}")

    def train(self, *options):
        """Train to the last step, from the newest checkpoint if there is one."""
        wait_for_another(self.results, self.title)
        self.main(*options, "--iteration", self.steps, "--result_dir", self.folder.resolve(), "--resume", "auto")
        if load_checkpoint(latest_path(self.results), methods.recognise)["start_iter"] < self.steps:
            raise RunError(f"{self.title}: stopped; call again to continue")
        return self


# ----------------------------------------------------------------------------------------- processes

_running, _stopping = set(), threading.Event()


def threads(jobs: int) -> int:
    """How many threads each of `jobs` trainings at a time gets."""
    return max(1, (os.cpu_count() or 1) // jobs)


def call(words: list[str], output: Path, threads: int) -> int:
    """Run main.py with these options, what it prints appended to `output`: its exit status."""
    if _stopping.is_set():
        raise RunError("stopped; call again to continue")
    with open(output, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "main.py", *words],
            cwd=ROOT,  # option files name one another from here
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
    _running.add(process)
    try:
        return process.wait()
    finally:
        _running.discard(process)


def wait_for_another(results: Path, title: str):
    """Wait for a training in this place that a killed call has left behind: it ends like any other."""
    told = False
    while True:
        try:
            with locked(results):
                return
        except UserError as error:
            if "another training" not in str(error):
                raise
            if not told:
                print(f"{title}: still trained by a process of an earlier call; waiting for it", flush=True)
            told = True
            time.sleep(1)


def work(tasks: list, jobs: int, finish):
    """Call the tasks, `jobs` at a time, and finish(result) in this thread as they end.

    An error lets those that run end and begins no other.  A signal stops those that run, which save.
    """
    pool = ThreadPoolExecutor(jobs)
    try:
        for done in as_completed([pool.submit(task) for task in tasks]):
            finish(done.result())
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if not isinstance(error, UserError):
            _stop_running()
        raise
    finally:
        pool.shutdown()


def _stop_running():
    """End all running trainings.  Those that the signal reached, too, are let be: a second one would stop them hard."""
    _stopping.set()
    end = time.monotonic() + PATIENCE
    while _running and time.monotonic() < end:
        time.sleep(0.1)
    for process in list(_running):
        process.terminate()


# -------------------------------------------------------------------------------------------- scores


class Scorer:
    """Scores of the translations of a data set's test folders, each direction that there is: {"fd_A2B": value, ...}.

    net's Fréchet distance to the target's test pictures, fid with Inception and fd with any other network; with
    `kernel` the kernel distance x100 as well, kid or kd.  Where the data have true counterparts and masks, as the
    demo's have, its three measures besides.
    """

    def __init__(self, root: Path, net=None, kernel: bool = False):
        self.root, self.net, self.kernel, self.real = root, net or fid_kid.EfficientNetLite0(), kernel, {}

    def columns(self, s: str) -> list[str]:
        """The names, without the direction, of the scores of translations of domain s."""
        fid, kid = ("fid", "kid") if self.net.name == "inception" else ("fd", "kd")
        return [*(demo.BARS if has_counterparts(self.root, s) else ()), fid, *[kid] * self.kernel]

    def features(self, folder: Path):
        """(n,d) of the pictures in a folder."""
        return fid_kid.extract(list_images(folder), self.net, self.net.dims[-1])[0]

    def direction(self, fake: Path, s: str, t: str) -> dict[str, float]:
        """Scores of the pictures in `fake`, drawn in domain t from test pictures of domain s."""
        found = {}
        if has_counterparts(self.root, s):
            found |= demo.measure(fake, *(self.root / f"{kind}{s}" for kind in ("test", "truth", "mask")))
        if t not in self.real:
            self.real[t] = self.features(self.root / f"test{t}")
        fid, *kid = (name for name in self.columns(s) if name not in demo.BARS)
        drawn = self.features(fake)
        found[fid] = fid_kid.frechet_distance(drawn, self.real[t])
        for name in kid:
            found[name] = 100 * fid_kid.kid(self.real[t], drawn, var=False)["kid"]
        return {f"{name}_{s}2{t}": float(value) for name, value in found.items()}

    def __call__(self, results: Path) -> dict[str, float]:
        """results: a folder with fakeB, fakeA or both."""
        there = [(s, t) for s, t in demo.DIRECTIONS if (results / f"fake{t}").is_dir()]
        return {name: v for s, t in there for name, v in self.direction(results / f"fake{t}", s, t).items()}


def has_counterparts(root: Path, s: str) -> bool:
    """Whether each test picture of domain s has its true counterpart and a mask of what has to change."""
    return all((root / f"{kind}{s}").is_dir() for kind in ("truth", "mask"))


def spread(values: list[float], digits: int) -> str:
    """0.031 ± 0.002; a single value has no spread."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def write(path: Path, text: str):
    """Write a text file whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
