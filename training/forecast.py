"""How long a training takes on this machine: told once after its first steps, and by --phase info."""

import argparse
import time

import torch

from training.threads import threads_for

STEPS, SECONDS = 20, 10  # the least that a speed is measured over
MOST = 4e9  # multiply-adds of a forward pass of all networks, up to which --phase info times steps on a CPU
ENOUGH = 0.5  # seconds that it times them for


class Forecast:
    """Call it after each step; it returns the line to print, once, or None.

    total: the last step.  clock: seconds.  The first call starts the clock: the first step, which prepares memory and
    may compile, does not count.
    """

    def __init__(self, total: int, clock=time.perf_counter):
        self.total, self.clock, self.start, self.told = total, clock, None, False

    def __call__(self, step: int) -> str | None:
        if self.told:
            return None
        now = self.clock()
        self.start = self.start or (step, now)
        steps, seconds = step - self.start[0], now - self.start[1]
        if steps < STEPS or seconds < SECONDS or step == self.total:
            return None
        self.told = True
        return f"about {duration((self.total - step) * seconds / steps)} to step {self.total}, {speed(steps / seconds)}"


def timed(method: type, args, products: float) -> str:
    """A line for --phase info: how long the training will take here, after timing some steps on noise.

    products: multiply-adds of all networks (training/cost.py).
    """
    if not args.device.startswith("cuda") and products * args.batch_size * args.grad_accum > MOST:
        return "not timed, because a step is long: a training says how long it will take after its first steps"
    threads, before = threads_for(args), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = _seconds_of_a_step(method, args)
    finally:
        torch.set_num_threads(before)
    where = args.device if args.device != "cpu" else f"cpu, {threads} thread{'s' * (threads > 1)}"
    told = speed(1 / seconds) + f" on this machine ({where})"
    return told if args.epochs else f"about {duration(args.iteration * seconds)} to step {args.iteration}, {told}"


def _seconds_of_a_step(method: type, args) -> float:
    """The mean over whole periods, after a first one, which prepares memory."""
    with torch.random.fork_rng(devices=[]):
        trainer = method(argparse.Namespace(**vars(args) | {"on_nan": "skip", "compile": False}))
        shape = args.batch_size * args.grad_accum, args.img_ch, args.img_size, args.img_size
        batch = [torch.rand(shape, device=trainer.device) * 2 - 1 for _ in "AB"]
        trainer.prepare(*batch)
        start, n = 0.0, -trainer.period
        while n <= 0 or time.perf_counter() - start < ENOUGH:
            for _ in range(trainer.period):
                terms = trainer.train_step(*batch)
            next(iter(terms.values())).item()  # waits for the GPU
            n += trainer.period
            start = start or time.perf_counter()
        return (time.perf_counter() - start) / n


def duration(seconds: float) -> str:
    """2 h 10 min, 5 min, less than a minute."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "less than a minute"


def speed(rate: float) -> str:
    """Steps a second as text; of slow steps, the seconds that one takes."""
    return f"at {rate:.1f} steps a second" if rate >= 1 else f"at {1 / rate:.1f} seconds a step"
