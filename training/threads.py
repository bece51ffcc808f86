"""CPU threads: one for small work, all cores for large work, fewer beside other programs; --threads N decides."""

import os

import torch

# Pixels x base channels x batch up to which one thread is used: there a second one gains nothing on an idle machine,
# and waits at thousands of barriers a step on a busy one (python benchmarks/bench.py --busy 0 1 2).
ONE_THREAD_UP_TO = 2**17


def choose(args) -> tuple[int, str]:
    """The number of CPU threads that a training with these options starts with, and the line that says so.

    Processes of one machine share its cores.  Sums over threads round differently for different numbers of threads.
    """
    work, most = args.img_size**2 * args.ch * args.batch_size, torch.get_num_threads()
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")  # of torchrun
    if args.threads:
        number, why = args.threads, "as --threads says"
    elif "OMP_NUM_THREADS" in os.environ:  # torch has read it
        number, why = most, "as OMP_NUM_THREADS says"
    elif args.device == "cpu" and work <= ONE_THREAD_UP_TO:
        number, why = 1, "more would gain nothing at this size; --threads N decides otherwise"
    else:
        number = max(1, most // int(processes)) if processes.isdecimal() and int(processes) else most
        why = "fewer while other programs slow the steps down; sums are rounded alike with a fixed --threads N only"
    return number, f"trains with {number} thread{'s' * (number > 1)}: {why}"


def threads_for(args) -> int:
    """The number of CPU threads that a training with these options starts with."""
    return choose(args)[0]


def is_adaptive(args) -> bool:
    """Whether the number of threads may change during this training."""
    return args.device == "cpu" and not args.threads and "OMP_NUM_THREADS" not in os.environ and threads_for(args) > 1


class Adaptive:
    """Halves the threads while steps take SLOWER times their usual time, and tries all of them again from time to time.

    Threads wait for one another at thousands of barriers a step, so that another program's use of one core costs a
    multiple of its share.  Call it after each step with the step's seconds; it returns a line to print, or None.

    most: the number of threads on a quiet machine.  period: steps that differ in cost.  set_number: applies a number.
    """

    SLOWER, QUIET = 2.0, 1.5  # times the usual seconds of a step
    WINDOW, PAUSE = 5.0, 60.0  # seconds that a speed is measured over, and before all threads are tried again

    def __init__(self, most: int, period: int = 1, set_number=torch.set_num_threads):
        self.most, self.period, self.set_number = most, period, set_number
        self.usual = float("inf")  # the fewest seconds of a step with all threads
        self.few, self.trying, self.paused = False, False, 0.0
        self._restart()

    def _restart(self):
        self.steps, self.seconds = 0, 0.0

    def __call__(self, seconds: float) -> str | None:
        self.steps += 1
        self.seconds += seconds
        enough = self.steps >= 2 and self.steps % self.period == 0
        if self.few and not self.trying:
            self.paused += seconds
            if self.paused >= self.PAUSE and enough:
                self.trying = True
                self.set_number(self.most)
                self._restart()
            return None
        if not enough or (self.seconds < self.WINDOW and not self.trying):
            return None
        mean = self.seconds / self.steps
        self._restart()
        if self.trying:
            self.trying, self.paused = False, 0.0
            if mean > self.QUIET * self.usual:
                self.set_number(self.most // 2)
                return None
            self.few = False
            return f"steps are as fast as before: {self.most} threads again"
        if mean > self.SLOWER * self.usual:
            self.few = True
            self.set_number(self.most // 2)
            slower = f"steps take {mean / self.usual:.1f} times as long as before"
            return f"{slower}: {self.most // 2} of {self.most} threads until other programs leave the cores"
        self.usual = min(self.usual, mean)
        return None
