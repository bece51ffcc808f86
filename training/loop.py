"""The training loop: pictures in, steps, the log, samples and checkpoints out, until the end or a signal."""

import sys
import time
from contextlib import ExitStack

import torch
from tqdm import tqdm

from checkpoints.files import candidates
from training.distributed import agree_on, average_over_processes, largest
from training.log import Board, Log, check_tensorboard
from training.run_record import record
from training.sample_grid import save_sample_grids, training_pictures
from training.signals import Signals
from training.state import keep_previous, locked
from utils import DiskError, UserError


def train(trainer) -> bool:
    """Train to args.iteration (True), or until a signal; with args.resume from the newest checkpoint."""
    args, main = trainer.args, trainer.rank == 0
    watch = _evaluation(trainer)
    pictures = training_pictures(trainer)
    trainer.check_images(pictures)
    if args.resume and trainer.step == 0 and (args.resume != "auto" or candidates(trainer.results)):
        trainer.load()
    agree_on("last finished step", trainer.step)
    if watch:
        watch.prepare(pictures)
    if trainer.step >= args.iteration and not (watch and watch.missing()):
        if main:
            done = f"step {trainer.step} is finished and --iteration is {args.iteration}"
            print(f"nothing to do: {done}; a larger one goes on", file=sys.stderr)
        return True
    learned = {d: pictures[f"train{trainer.folder[d]}"] for d in "AB"}
    torch.backends.cudnn.benchmark = args.benchmark_flag
    with ExitStack() as stack:
        if main:
            stack.enter_context(locked(trainer.results))
        trainer.measure_training_set(learned)
        signals = stack.enter_context(Signals())
        stream = stack.enter_context(trainer.stream(learned))
        bar = tqdm(total=args.iteration, initial=trainer.step, unit="step", disable=not main, dynamic_ncols=True)
        stack.enter_context(bar)
        try:
            trainer.stopped = _steps(trainer, stream, bar, signals, pictures, stack, watch)
        except DiskError as error:
            if main and signals.begun and candidates(trainer.results):
                raise DiskError(f"{error}, with --resume True") from None
            raise
    if main and trainer.stopped:
        print(f"stopped after step {trainer.step}; continue with: {args.command}", file=sys.stderr)
    return not trainer.stopped


def _evaluation(trainer):
    """What scores the training, or None; its imports take long.  UserError: what it or TensorBoard lacks."""
    if trainer.args.tensorboard and trainer.rank == 0:
        check_tensorboard()
    if not trainer.args.score_freq:
        return None
    from training.evaluation import Evaluation  # imports scipy, PIL and more, which take long

    return Evaluation(trainer)


def _steps(trainer, stream, bar, signals, pictures, stack, watch) -> int:
    """All steps from the trainer's on; 0, or the number of the signal that asked for a stop."""
    args, log, interval, shown = trainer.args, None, Interval(), {}
    if watch and watch.missing():
        log = _begin(trainer, signals, stack, pictures, trainer.step)
        if stop := watch.look(log, interval, bar, signals):
            return stop
    show_every = 20 if trainer.device.type == "cuda" else 1  # showing a loss waits for the GPU
    while trainer.step < args.iteration:
        asked = time.perf_counter()
        try:
            real = next(stream)
        except UserError:  # a picture became unreadable: keep what was learned
            if signals.begun:
                trainer.save()
                time.sleep(0.5)  # a signal to all processes of a job has ended those that read pictures, too
                if stop := signals.asked()[0]:
                    return stop
            raise
        waited = time.perf_counter() - asked
        if trainer.step == 0:
            trainer.prepare(real["A"], real["B"])
        terms = trainer.train_step(real["A"], real["B"])
        trainer.position = stream.position
        if trainer.ema:
            trainer.ema.update()
        if not signals.begun:
            log = _begin(trainer, signals, stack, pictures, trainer.step - 1)
        interval.add(terms, waited)
        stop, save = largest(*signals.asked())
        step = trainer.step
        last, scored = step == args.iteration or stop, watch and watch.due(step)
        bar.update()
        if last or step % show_every == 0:
            trainer.guard.check()
            totals = [half.total for half in trainer.updates()]
            shown = {name: f"{terms[name].item():.3f}" for name in totals}
            bar.set_postfix(shown | (watch.shown if watch else {}), refresh=False)
        if last or step % args.log_freq == 0:
            _log(trainer, log, interval)
            interval = Interval()
        if step % args.print_freq == 0 or step == args.iteration:
            trainer.guard.check()
            grids = save_sample_grids(trainer, pictures)
            if log:
                log.show(step, grids)
        if last or save or scored or step % args.print_freq == 0 or step % args.save_freq == 0:
            trainer.guard.check()
            trainer.save(numbered=step % args.save_freq == 0)
        if scored and not stop:
            stop = watch.look(log, interval, bar, signals)
            bar.set_postfix(shown | watch.shown, refresh=False)
        if stop:
            return stop
    return 0


def _begin(trainer, signals, stack, pictures, start: int) -> Log | None:
    """The first step after step `start` has succeeded: only now an earlier run is moved aside, and there is something
    to lose."""
    trainer.guard.check()
    signals.begun = True
    if trainer.rank:
        return None
    if start == 0:
        keep_previous(trainer.results)
    record(trainer, start, pictures)
    kind = Board if trainer.args.tensorboard else Log
    return stack.enter_context(kind(trainer.results / "log.jsonl", start))


class Interval:
    """What happened since the last line of the log."""

    def __init__(self):
        self.sums, self.counts = {}, {}  # of each loss term; not every step has every term
        self.steps, self.waited, self.since = 0, 0.0, time.perf_counter()

    def add(self, terms: dict, waited: float):
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1
        self.waited += waited

    def speed(self) -> dict[str, float]:
        """Steps a second, and the share of time spent waiting for data."""
        seconds = time.perf_counter() - self.since
        return {"steps_per_second": round(self.steps / seconds, 4), "data_wait": round(self.waited / seconds, 4)}


def _log(trainer, log, interval: Interval):
    """One line: means over the interval and all ranks, and the speed."""
    speed = interval.speed()  # before the losses are waited for
    values = torch.stack([value / interval.counts[name] for name, value in interval.sums.items()])
    if trainer.world > 1:
        average_over_processes([values], trainer.world)
    if log is None:
        return
    means = {name: round(value, 6) for name, value in zip(interval.sums, values.tolist(), strict=True)}
    lr = trainer.lr(trainer.step)
    log.write(step=trainer.step, lr=lr, dropped=int(trainer.guard.dropped), **speed, **means)
