"""The training loop: pictures in, steps, the log, samples and checkpoints out, until the end or a signal."""

import sys
import time
from contextlib import ExitStack

import torch
import torch.distributed as dist
from tqdm import tqdm

import checkpoints
import translate
import utils
from utils import UserError, lost_peers


def train(trainer) -> bool:
    """Train to args.iteration (True), or until a signal; with args.resume from the newest checkpoint."""
    args, main = trainer.args, trainer.rank == 0
    tests = [f"{trainer.tested}{trainer.folder[s]}" for s, _ in trainer.directions]
    pictures = translate.pictures(args, *dict.fromkeys(("trainA", "trainB", *tests)))
    trainer.inspect(pictures)
    if args.resume and trainer.step == 0:
        trainer.load()
    learned = {d: pictures[f"train{trainer.folder[d]}"] for d in "AB"}
    trainer.survey(learned)  # before anything is written
    torch.backends.cudnn.benchmark = args.benchmark_flag
    with ExitStack() as stack:
        signals = stack.enter_context(utils.Signals())
        log = None
        if main:
            stack.enter_context(utils.locked(trainer.results))
            if trainer.step == 0:
                checkpoints.keep_previous(trainer.results)
            log = stack.enter_context(utils.Log(trainer.results / "log.jsonl", trainer.step))
        stream = stack.enter_context(trainer.stream(learned))
        bar = tqdm(total=args.iteration, initial=trainer.step, unit="step", disable=not main, dynamic_ncols=True)
        finished = _steps(trainer, stream, stack.enter_context(bar), log, signals, pictures)
    if main and not finished:
        print(f"stopped after step {trainer.step}; continue with: {args.command}", file=sys.stderr)
    return finished


def _steps(trainer, stream, bar, log, signals, pictures) -> bool:
    args = trainer.args
    interval = Interval()
    show_every = 20 if trainer.device.type == "cuda" else 1  # showing a loss waits for the GPU
    while trainer.step < args.iteration:
        asked = time.perf_counter()
        try:
            real = next(stream)
        except UserError:  # a picture became unreadable: keep what was learned
            trainer.save()
            raise
        waited = time.perf_counter() - asked
        if trainer.step == 0:
            trainer.prepare(real["A"], real["B"])
        terms = trainer.train_step(real["A"], real["B"])
        trainer.position = stream.position
        interval.add(terms, waited)
        stop, save = _agree(trainer, *signals.asked())
        step = trainer.step
        last = step == args.iteration or stop
        bar.update()
        if last or step % show_every == 0:
            trainer.guard.check()
            totals = [half.total for half in trainer.halves()]
            bar.set_postfix({name: f"{terms[name].item():.3f}" for name in totals}, refresh=False)
        if last or step % args.log_freq == 0:
            _log(trainer, log, interval)
            interval = Interval()
        if step % args.print_freq == 0 or step == args.iteration:
            trainer.guard.check()
            translate.sample(trainer, pictures)
        if last or save or step % args.print_freq == 0 or step % args.save_freq == 0:
            trainer.guard.check()
            trainer.save(numbered=step % args.save_freq == 0)
        if stop:
            return False
    return True


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
        with lost_peers():
            dist.all_reduce(values)
        values /= trainer.world
    if log is None:
        return
    means = {name: round(value, 6) for name, value in zip(interval.sums, values.tolist(), strict=True)}
    lr = trainer.rate(trainer.step)
    log.write(step=trainer.step, lr=lr, dropped=int(trainer.guard.dropped), **speed, **means)


def _agree(trainer, stop: bool, save: bool) -> tuple[bool, bool]:
    """All ranks stop or save after the same step, whichever of them was asked to."""
    if trainer.world == 1:
        return stop, save
    asked = torch.tensor([stop, save], dtype=torch.int32, device=trainer.device)
    with lost_peers():
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return tuple(bool(x) for x in asked.tolist())
