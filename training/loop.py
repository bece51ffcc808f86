"""The training loop: fetch, step, log, sample, save, score, until the last step or a signal."""

import sys
import time
from contextlib import ExitStack

import torch

from checkpoints.files import candidates
from dataset import report_enlarged
from options import telling
from training.budget import in_words
from training.distributed import agree_on, average_over_processes, max_over_processes
from training.forecast import Forecast
from training.log import Log, TensorBoardLog, bare_and_weighted, check_tensorboard
from training.opening import EARLY, closing, opening
from training.progress import TrainingBar
from training.run_record import changed_data, record
from training.sample_grid import save_sample_grids, training_pictures
from training.signals import Signals
from training.state import archive_later_steps, archive_run, locked, refuse_another_method
from training.threads import Adaptive, is_adaptive
from translation.model_card import results_of
from utils import DiskError, UserError


def train(trainer) -> bool:
    """Train to args.iteration (True) or until a signal (False); with args.resume from the newest checkpoint."""
    args, main = trainer.args, trainer.rank == 0
    # Check everything before anything is written.
    evaluation = None
    if args.tensorboard and main:
        check_tensorboard()
    if args.score_freq:
        from training.evaluation import Evaluation  # here: importing torchvision takes seconds

        with telling("loading the network that scores are computed with"):
            evaluation = Evaluation(trainer)
    pictures = training_pictures(trainer)
    trainer.check_images(pictures)

    # Resume.
    if args.resume and not trainer.loaded and (args.resume != "auto" or candidates(trainer.results)):
        trainer.load()
    agree_on("last finished step", trainer.step)
    if evaluation:
        evaluation.prepare(pictures)
    if trainer.step >= args.iteration and not (evaluation and evaluation.missing()):
        if main:
            done = f"step {trainer.step} is finished and --iteration is {args.iteration}"
            print(f"nothing to do: {done}; a larger one goes on", file=sys.stderr)
        return True

    changes = changed_data(results_of(trainer.loaded), pictures) if main and trainer.loaded else ""
    if changes:
        print(f"the pictures have changed since the run's last start: {changes}", file=sys.stderr)
    if main and trainer.step == 0:
        refuse_another_method(trainer.results, args.method)

    # Train.
    torch.backends.cudnn.benchmark = args.benchmark_flag
    trainer.stopped = Loop(trainer, evaluation, pictures).run()
    if main and not trainer.stopped and args.dataset != "demo":  # which is translated now
        print(closing(trainer), file=sys.stderr)
    if main and trainer.stopped:
        print(f"stopped after step {trainer.step}; continue with: {args.command}", file=sys.stderr)
    return not trainer.stopped


class Loop:
    """The loop of one training run, with its data stream, log, progress bar and signals."""

    def __init__(self, trainer, evaluation, pictures: dict):
        self.trainer, self.evaluation, self.pictures = trainer, evaluation, pictures
        self.log = None

    def run(self) -> int:
        """Open everything and train; returns 0, or the number of the signal that asked for a stop."""
        trainer, main = self.trainer, self.trainer.rank == 0
        paths = {d: self.pictures[f"train{trainer.folder[d]}"] for d in "AB"}
        with ExitStack() as self.stack:
            if main:
                self.stack.enter_context(locked(trainer.results))
                if trainer.args.preprocess == "crop":
                    report_enlarged(paths, trainer.args.img_size)
                counts = [len(files) for files in paths.values()]
                print(in_words(type(trainer), trainer.args, counts, trainer.world), file=sys.stderr)
            trainer.measure_training_set(paths)
            self.signals = self.stack.enter_context(Signals())
            self.stream = self.stack.enter_context(trainer.stream(paths))
            for line in opening(trainer, paths) if main else ():
                print(line, file=sys.stderr)
            bar = TrainingBar(initial=trainer.step, total=trainer.args.iteration, disable=not main)
            self.bar = self.stack.enter_context(bar)
            try:
                return self.steps()
            except DiskError as error:
                if main and self.signals.begun and candidates(trainer.results):
                    raise DiskError(f"{error}, with --resume True") from None
                raise

    def steps(self) -> int:
        """Train from the trainer's step on; returns 0, or the number of the signal that asked for a stop."""
        trainer, args, evaluation, signals = self.trainer, self.trainer.args, self.evaluation, self.signals
        show_every = 20 if trainer.device.type == "cuda" else 1  # reading a loss waits for the GPU
        self.interval, forecast, stop = Interval(), Forecast(args.iteration), 0
        threads = Adaptive(torch.get_num_threads(), trainer.period) if is_adaptive(args) else None
        if evaluation and evaluation.missing():
            self.begin(trainer.step)
            stop = self.score()
        while trainer.step < args.iteration and not stop:
            # Fetch.
            asked = time.perf_counter()
            try:
                batch = next(self.stream)  # {"A": (N,C,S,S), "B": ...} in [-1,1]
            except UserError:  # a picture became unreadable: save what has been learned
                if signals.begun:
                    trainer.save()
                raise
            waited = time.perf_counter() - asked
            if trainer.step == 0:
                trainer.prepare(batch["A"], batch["B"])

            # Step.
            begun = time.perf_counter()
            terms = trainer.train_step(batch["A"], batch["B"])
            trainer.position = self.stream.position
            if trainer.ema:
                trainer.ema.update()
            if threads and (line := threads(time.perf_counter() - begun)) and trainer.rank == 0:
                self.bar.write(line, file=sys.stderr)
            if not signals.begun:
                self.begin(trainer.step - 1)

            # Decide what is due, alike in all processes.
            step = trainer.step
            stop, save = max_over_processes(*signals.requests())
            last = stop or step == args.iteration
            sample = step % args.print_freq == 0 or step == args.iteration
            score = evaluation and evaluation.due(step)
            numbered = step % args.save_freq == 0
            save = save or last or sample or score or numbered
            show = last or step % show_every == 0
            if show or save:
                trainer.guard.check()

            # Log.
            self.interval.add(terms, waited)
            self.bar.update()
            if (line := forecast(step)) and trainer.rank == 0:
                self.bar.write(line, file=sys.stderr)
            if show:
                losses = {update.total: f"{terms[update.total].item():.3g}" for update in trainer.updates()}
                self.bar.values |= losses
            if last or step % args.log_freq == 0:
                self.write_log()

            # Sample.
            if sample or step in EARLY:
                with self.bar.telling("drawing samples"):
                    grids = save_sample_grids(trainer, self.pictures)
                if self.log:
                    self.log.add_images(step, grids)

            # Save.
            if save:
                with self.bar.telling("saving"):
                    trainer.save(numbered=numbered)

            # Score.
            if score and not stop:
                stop = self.score()
        return stop

    # ---------------------------------------------------------------------------- log, scores

    def begin(self, start: int):
        """Archive an earlier run in this folder if start is 0, write run.json, open the log.

        Called once the first step after step `start` has succeeded: a failed start leaves the disk untouched.
        """
        self.trainer.guard.check()
        self.signals.begun = True
        if self.trainer.rank:
            return
        results = self.trainer.results
        if start == 0:
            archive_run(results)
        elif self.trainer.args.checkpoint not in (None, "latest"):
            archive_later_steps(self.trainer, start)
        record(self.trainer, start, self.pictures)
        kind = TensorBoardLog if self.trainer.args.tensorboard else Log
        self.log = self.stack.enter_context(kind(results / "log.jsonl", start))

    def write_log(self):
        """Write one line to the log: the speed, and the means over the interval and all processes."""
        trainer, interval = self.trainer, self.interval
        seconds = time.perf_counter() - interval.start  # before waiting for the losses
        values = torch.stack([value / interval.counts[name] for name, value in interval.sums.items()])
        if trainer.world > 1:
            average_over_processes([values], trainer.world)
        if self.log:
            means = dict(zip(interval.sums, values.tolist(), strict=True))
            means = bare_and_weighted(means, trainer.term_weights(trainer.args))
            means = {name: round(value, 6) for name, value in means.items()}
            self.log.write(
                step=trainer.step,
                lr=trainer.lr(trainer.step),
                dropped=int(trainer.guard.dropped),
                steps_per_second=round(interval.steps / seconds, 4),
                data_wait=round(interval.waited / seconds, 4),  # share of the time
                **means,
            )
        self.interval = Interval()

    def score(self) -> int:
        """Score this step's weights; returns 0, or the number of the signal that interrupted it."""
        start = time.perf_counter()
        with self.bar.telling("scoring"):
            stop = self.evaluation.score(self.log, self.signals, self.bar.tell)
        seconds = time.perf_counter() - start
        self.interval.start += seconds  # scoring does not count as time of the steps
        if not self.bar.disable:
            self.bar.start_t += seconds
            self.bar.last_print_t += seconds
        self.bar.values |= self.evaluation.summary
        return stop


class Interval:
    """Sums of loss terms, and times, since the last line of the log."""

    def __init__(self):
        self.sums, self.counts = {}, {}  # by loss term; not every step has every term
        self.steps, self.waited, self.start = 0, 0.0, time.perf_counter()

    def add(self, terms: dict, waited: float):
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1
        self.waited += waited
