"""What a training says about its length."""

import re

import pytest

import main
import methods
from training.forecast import Forecast, duration, speed, timed


def lines(total, seconds, steps):
    """{step: line} of a training that takes 30 s for its first step, then `seconds` for each."""
    times = iter(30 + seconds * i for i in range(steps))
    tell = Forecast(total, lambda: next(times))
    return {step: line for step in range(1, steps + 1) if (line := tell(step))}


@pytest.mark.parametrize("total, seconds, step, line", [
    (10_001, 0.1, 101, "about 16 min to step 10001, at 10.0 steps a second"),
    (10_001, 4, 21, "about 11 h 5 min to step 10001, at 4.0 seconds a step"),
    (150, 0.5, 21, "about 1 min to step 150, at 2.0 steps a second"),
    (40, 1, 21, "less than a minute to step 40, at 1.0 steps a second"),
])
def test_it_is_told_once_after_enough_steps_and_seconds(total, seconds, step, line):
    found = lines(total, seconds, 110 if total > 200 else 30)
    assert list(found) == [step] and line in found[step]


def test_short_trainings_say_nothing():
    assert not lines(21, 4, 21) and not lines(50, 0.1, 50)


def test_numbers_are_plain():
    assert [duration(s) for s in (29, 31, 3599, 3600, 360_000)] == [
        "less than a minute", "1 min", "1 h 0 min", "1 h 0 min", "100 h 0 min"]
    assert speed(1.94) == "at 1.9 steps a second" and speed(0.5) == "at 2.0 seconds a step"


def test_phase_info_times_steps_on_this_machine(capsys):
    small = "--img_size 48 --ch 2 --n_res 1 --n_dis 6 --iteration 70000 --device cpu"
    main.main(["--phase", "info", *small.split()])
    last = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(r"time for training: about (.+) to step 70000, at ([\d.]+) (steps a second|seconds a step) on "
                         r"this machine \(cpu, \d+ threads?\)", last)  # fmt: skip
    rate = float(found[2]) if found[3] == "steps a second" else 1 / float(found[2])
    hours = re.fullmatch(r"(?:(\d+) h )?(\d+) min", found[1])
    assert 60 * int(hours[1] or 0) + int(hours[2]) == pytest.approx(70000 / rate / 60, rel=0.1)
    args = main.parse_args(small.split())
    assert timed(methods.load("nice"), args, 5e9).startswith("not timed, because a step is long")
