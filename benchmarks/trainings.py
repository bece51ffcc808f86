"""Run many trainings by main.py for the tables, each in its own process and folder.

    FOLDER/output.txt     what main.py printed
    FOLDER/NAME           main.py's results/NAME
    FOLDER/scores.json    {step: {score: value}}, only for a complete training
    FOLDER/samples_A2B.npz   features of its translations and of the real pictures, for tests over pictures

Complete trainings are not repeated, interrupted ones continue from their checkpoint.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import counterparts
import numpy as np
from rows import ROOT
from tqdm import tqdm

import demo
import fid_kid
import methods
from checkpoints.files import latest_path, load_checkpoint
from images.files import list_images
from scoring.features import Source
from scoring.manifold import NEIGHBOURS, PRDC, mind, prdc
from training.forecast import duration
from training.state import locked
from utils import RunError, UserError, atomic, parse_json, text_of

PATIENCE = 10  # seconds for trainings to end that received the stop signal themselves


class Training:
    """One training of `steps` steps in `folder`; words: options for every call of main.py."""

    def __init__(self, title: str, folder: Path, data: str, steps: int, words: list, threads: int):
        self.title, self.folder, self.steps, self.threads = title, folder, steps, threads
        self.words = [str(word) for word in words]
        self.results = folder / data

    def scores(self) -> dict | None:
        """{step: {score: value}} of a complete training, else None."""
        try:
            return parse_json(text_of(self.folder / "scores.json"))
        except (OSError, ValueError):
            return None

    def last_scores(self) -> dict:
        """{score: value} of the last scored step; empty if the training is not complete."""
        found = self.scores()
        return found[max(found, key=int)] if found else {}

    def write_scores(self, found: dict):
        with atomic(self.folder / "scores.json") as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")

    def finished_steps(self) -> int:
        """The steps that are done, as far as log.jsonl says."""
        if self.scores():
            return self.steps
        with suppress(OSError, ValueError, LookupError, TypeError):
            with open(self.results / "log.jsonl", "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                lines = log.read().splitlines()
            return min(self.steps, int(parse_json(lines[-1])["step"]))
        return 0

    def main(self, *options):
        """Call main.py with the training's options and these; append its output to output.txt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        output = self.folder / "output.txt"
        status = call([*self.words, *map(str, options)], output, self.threads)
        if status:
            raise RunError(f"{self.title}: main.py ended with {status}; see {output}")

    def train(self, *options):
        """Train to the last step, starting from the newest checkpoint if there is one."""
        wait_for_another(self.results, self.title)
        self.main(*options, "--iteration", self.steps, "--result_dir", self.folder.resolve(), "--resume", "auto")
        if load_checkpoint(latest_path(self.results), methods.recognise)["start_iter"] < self.steps:
            raise RunError(f"{self.title}: stopped; call again to continue")
        return self


# ----------------------------------------------------------------------------------------- processes

_running, _stopping = set(), threading.Event()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(jobs: int) -> int:
    """Threads for each of `jobs` simultaneous trainings: this process's cores, shared."""
    return max(1, cores() // jobs)


def call(words: list[str], output: Path, threads: int) -> int:
    """Run main.py with these options, append its output to `output`, return its exit status."""
    if _stopping.is_set():
        raise RunError("stopped; call again to continue")
    with open(output, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "main.py", *words],
            cwd=ROOT,  # option files refer to each other relative to this folder
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
    """Wait for the end of a training in this folder that a killed call left running."""
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


class Progress:
    """One bar over all trainings, with the time that they still take.

    costs: of a step of each training, in any unit; the steps of a dear method count for more.
    """

    def __init__(self, trainings: list[Training], costs: list[float]):
        self.parts, self.ended, self.start = list(zip(trainings, costs, strict=True)), 0, time.monotonic()
        self.total = sum(t.steps * cost for t, cost in self.parts)
        self.first = self.done()
        form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self.bar = tqdm(total=self.total, initial=self.first, ncols=80, bar_format=form, smoothing=0, leave=False)
        self.update()

    def done(self) -> float:
        return sum(t.finished_steps() * cost for t, cost in self.parts)

    def update(self):
        self.bar.set_description(f"{self.ended} of {len(self.parts)} trainings", refresh=False)
        self.bar.n = self.done()
        self.bar.refresh()

    def ends(self, line: str):
        """One more has ended, which this line says."""
        self.ended += 1
        done = self.done()
        seconds = (time.monotonic() - self.start) * (self.total - done) / max(done - self.first, 1e-9)
        left = f", about {duration(seconds)} left" if self.ended < len(self.parts) and done > self.first else ""
        tqdm.write(f"{line} ({self.ended} of {len(self.parts)}{left})")
        self.update()


def work(tasks: list, jobs: int, finish, progress: Progress | None = None):
    """Call the tasks, `jobs` at a time, and call finish(result) in this thread as each ends.

    Never more run than there are cores.

    After an error, running tasks end and no others start.  A signal stops running trainings, which save.
    """
    if jobs > cores() and len(tasks) > cores():
        print(f"--jobs {jobs}: this machine has {cores()} cores, so {cores()} train at a time", file=sys.stderr)
    pool = ThreadPoolExecutor(min(jobs, cores()))
    try:
        running = {pool.submit(task) for task in tasks}
        while running:
            ended, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for done in ended:
                finish(done.result())
            if progress:
                progress.update()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if not isinstance(error, UserError):
            _stop_running()
        raise
    finally:
        pool.shutdown()
        if progress:
            progress.bar.close()


def _stop_running():
    """Stop all running trainings, after a pause for those that received the signal: a second one would kill them."""
    _stopping.set()
    end = time.monotonic() + PATIENCE
    while _running and time.monotonic() < end:
        time.sleep(0.1)
    for process in list(_running):
        process.terminate()


# -------------------------------------------------------------------------------------------- scores


class Scorer:
    """Scores of translations of a data set's test folders, for each direction: {"fd_A2B": value, ...}.

    The Fréchet distance to the target's test pictures in net's features (fid with Inception, fd otherwise); with
    `kernel` also the kernel distance x100 (kid or kd), MIND (mind or md) and, if there are more pictures than
    neighbours, precision, recall, density and coverage.  If the data set has true counterparts, also distances to them:
    the demo's three measures if it has masks, too, as the demo does; else l1, ssim and, with a network, lpips.
    """

    def __init__(self, root: Path, net=None, kernel: bool = False, lpips=None):
        self.root, self.net, self.kernel, self.real = root, net or fid_kid.EfficientNetLite0(), kernel, {}
        self.lpips = lpips

    def columns(self, s: str) -> list[str]:
        """Names of the scores for translations of domain s, without the direction."""
        fid, *others = ("fid", "kid", "mind") if self.net.name == "inception" else ("fd", "kd", "md")
        enough = self.kernel and all(len(list_images(self.root / f"test{d}")) > NEIGHBOURS for d in "AB")
        return [*self.to_truth(s), fid, *(others if self.kernel else ()), *(PRDC if enough else ())]

    def to_truth(self, s: str) -> tuple[str, ...]:
        """Names of the scores against true counterparts."""
        if has_counterparts(self.root, s):
            return tuple(demo.BARS)
        return counterparts.MEASURES[: 3 if self.lpips else 2] if counterparts.there(self.root, s) else ()

    def features(self, folder: Path) -> Source:
        """Of the pictures in a folder; row i of features[row] is that of the i-th name without suffix."""
        source = Source(str(folder), files=sorted(list_images(folder), key=lambda path: path.stem))
        source.extract(self.net, self.net.dims[-1])
        return source

    def direction(self, fake: Path, s: str, t: str) -> tuple[dict[str, float], dict]:
        """Scores of the pictures in `fake`, translations of domain s's test pictures to domain t; and their samples.

        samples: what tests over pictures need, see chance.py: real (m,d), fake (n,d), and (n,) for each of l1, ssim,
        lpips.
        """
        found, samples = {}, {}
        if has_counterparts(self.root, s):
            found |= demo.measure(fake, *(self.root / f"{kind}{s}" for kind in ("test", "truth", "mask")))
        elif counterparts.there(self.root, s):
            samples |= counterparts.measure_each(fake, self.root / f"truth{s}", self.lpips)
            found |= {name: values.mean() for name, values in samples.items()}
        if t not in self.real:
            self.real[t] = self.features(self.root / f"test{t}").features
        real, source = self.real[t], self.features(fake)
        features = source.features  # in fid_kid.py's order, so that KID's subsets are the same
        columns, of_inception = self.columns(s), self.net.name == "inception"
        found["fid" if of_inception else "fd"] = fid_kid.frechet_distance(features, real)
        if self.kernel:
            found["kid" if of_inception else "kd"] = 100 * fid_kid.kid(real, features, var=False)["kid"]
            found["mind" if of_inception else "md"] = mind(real, features)
        if PRDC[0] in columns:
            found |= prdc(real, features)
        scores = {f"{name}_{s}2{t}": float(found[name]) for name in columns}
        return scores, samples | {"real": real, "fake": features[source.row]}

    def __call__(self, results: Path, keep: Path | None = None) -> dict[str, float]:
        """results: a folder with fakeB, fakeA or both.  keep: a folder for the samples, samples_A2B.npz."""
        scores = {}
        for s, t in demo.DIRECTIONS:
            if (results / f"fake{t}").is_dir():
                found, samples = self.direction(results / f"fake{t}", s, t)
                scores |= found
                if keep:
                    path = samples_path(keep, f"{s}2{t}")
                    with atomic(path) as temporary, open(temporary, "wb") as file:  # np.savez would append .npz
                        np.savez(file, **samples)
        return scores


def samples_path(folder: Path, way: str) -> Path:
    """Where a run keeps the samples of a direction, such as A2B."""
    return folder / f"samples_{way}.npz"


def has_counterparts(root: Path, s: str) -> bool:
    """Whether the test pictures of domain s have true counterparts and masks of the region to change."""
    return all((root / f"{kind}{s}").is_dir() for kind in ("truth", "mask"))


def mean_std(values: list[float], digits: int) -> str:
    """Mean ± standard deviation, such as 0.031 ± 0.002; of a single value only the mean."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def write(path: Path, text: str):
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
