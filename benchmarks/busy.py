"""Training beside busy processes, for bench.py --busy: own loops, bounded in time, that keep a core busy each."""

import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

SECONDS = 240  # after which a loop ends by itself

BARS = {1: 2.2, 2: 3.2}  # of a step's time beside so many busy processes, of that alone


@contextmanager
def busy(count: int):
    """Inside, that many other processes compute without a pause."""
    loop = f"import time; end = time.monotonic() + {SECONDS}\nwhile time.monotonic() < end: pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()


def settle(adaptive, step, seconds: float, again: bool = False) -> int:
    """Take steps as a training does, until its threads suit the other load; their number.

    adaptive: training.threads.Adaptive, or None where the number is fixed.  step(): the seconds of a step.  Two of
    adaptive's windows of 5 seconds or 2 steps hold at least one that lies wholly in the present load.
    again: all threads are tried again now, not after a minute.
    """
    import torch

    if adaptive and again:
        adaptive.paused = adaptive.PAUSE
    start, steps = time.perf_counter(), 0
    while adaptive and (time.perf_counter() - start < seconds or steps < 4 or adaptive.trying):
        adaptive(step())
        steps += 1
    return torch.get_num_threads()


def table(sides: dict, counts: list[int], rounds: int):
    """Print, for each side {name: bench.Side}, the time of a step beside `counts` busy processes over that alone.

    Each round measures alone and beside each count, so that drift of the machine affects all alike.  As in a training,
    the number of threads follows the other load.  Steps of the seconds in which it notices the load are not counted.
    """
    print("| case | busy processes | time of a step, of that alone | bar | middle half | threads | seconds alone |")
    print("|---|---|---|---|---|---|---|")
    for name, side in sides.items():
        for _ in range(3):
            side.ask("step")
        found, alone, threads = {count: [] for count in counts}, [], {}
        for _ in range(rounds):
            side.ask("recover")
            alone.append(side.ask("step"))
            for count in counts:
                with busy(count):
                    threads[count] = side.ask("notice")
                    found[count].append(side.ask("step") / alone[-1])
        for count, ratios in found.items():
            ratios, quarter = sorted(ratios), len(ratios) // 4
            half = f"{ratios[quarter]:.2f} - {ratios[-1 - quarter]:.2f}"
            median, bar = statistics.median(ratios), BARS.get(count)
            met = f"{bar} {'met' if median <= bar else 'missed'}" if bar else ""
            seconds = f"{statistics.median(alone):.3g}"
            cells = [name, count, f"**{median:.2f}**", met, half, threads[count], seconds]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
        side.close()
