"""Training beside busy processes, for bench.py --busy: own loops, bounded in time, that keep a core busy each."""

import statistics
import subprocess
import sys
from contextlib import contextmanager

SECONDS = 120  # after which a loop ends by itself


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


def table(sides: dict, counts: list[int], rounds: int):
    """Print, for each side {name: bench.Side}, the time of a step beside `counts` busy processes over that alone.

    Each round measures alone and beside each count, so that drift of the machine affects all alike.  As in a training,
    the number of threads follows the other load, for which each count has some seconds and being alone two minutes.
    """
    print("| case | busy processes | time of a step, of that alone | middle half | seconds alone |")
    print("|---|---|---|---|---|")
    for name, side in sides.items():
        for _ in range(3):
            side.ask("step")
        found, alone = {count: [] for count in counts}, []
        for _ in range(rounds):
            side.ask("recover")
            alone.append(side.ask("step"))
            for count in counts:
                with busy(count):
                    side.ask("notice")
                    found[count].append(side.ask("step") / alone[-1])
        for count, ratios in found.items():
            ratios, quarter = sorted(ratios), len(ratios) // 4
            half = f"{ratios[quarter]:.2f} - {ratios[-1 - quarter]:.2f}"
            seconds = statistics.median(alone)
            print(f"| {name} | {count} | **{statistics.median(ratios):.2f}** | {half} | {seconds:.3g} |", flush=True)
        side.close()
