"""How long a training takes on this machine, told once after its first steps."""

import time

STEPS, SECONDS = 20, 10  # the least that a speed is measured over


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


def duration(seconds: float) -> str:
    """2 h 10 min, 5 min, less than a minute."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "less than a minute"


def speed(rate: float) -> str:
    """Steps a second as text; of slow steps, the seconds that one takes."""
    return f"at {rate:.1f} steps a second" if rate >= 1 else f"at {1 / rate:.1f} seconds a step"
