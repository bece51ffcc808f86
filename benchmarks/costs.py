"""The cost of each contestant, measured once and kept in cost.json: parameters, operations, time, memory.

    {"threads": 1, "seconds": 0.08,      of a step of NICE-GAN
     "rows": {"cut": {"options": "...", "step": 0.7, "memory": 800, "translate": 1.1, "sizes": {...}}, ...}}

step and translate (one picture) are in units of NICE-GAN's: the median over rounds in which both take turns.  memory is
the training process's peak in MB.  sizes: parameters and multiply-adds of each kind of networks.
"""

import json
import math
import shlex
import statistics
from pathlib import Path

import bench
from contestants import Contestant
from trainings import write

import methods
from training.cost import kinds, totals
from utils import UserError, parse_json, shown, text_of

KINDS = ("generators", "discriminators", "projections")
ENDLESS = ["--iteration=1000000000", "--on_nan=skip"]  # timed on noise, for any number of steps


def read(path: Path) -> dict:
    """The costs measured so far.  UserError: not a file of ours."""
    if not path.exists():
        return {"rows": {}}
    try:
        found = parse_json(text_of(path))
        for row in found["rows"].values():
            assert row["step"] > 0 and found["seconds"] > 0
            assert row.keys() >= {"options", "memory", "translate", "sizes"}
        return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError):
        raise UserError(f"{shown(path)} is damaged or holds no costs; delete it to measure them again") from None


def known(path: Path, contestants: list[Contestant]) -> dict:
    """The costs measured so far.  UserError: with other options than these contestants'."""
    found = read(path)
    for contestant in contestants:
        row = found["rows"].get(contestant.row)
        if row and row["options"] != contestant.options:
            raise UserError(f"{shown(path)} has measured {contestant.row} with other options ({row['options']}); "
                            "name another --cost or --result_dir")  # fmt: skip
    return found


def measure(path: Path, contestants: list[Contestant], base: Contestant, rounds: int, threads: int) -> dict:
    """All costs, after measuring missing ones; `base` is NICE-GAN.  Each row is written as soon as it is measured."""
    found = known(path, contestants)
    missing = [c for c in {c.row: c for c in (base, *contestants)}.values() if c.row not in found["rows"]]
    for number, contestant in enumerate(missing, 1):
        print(f"measuring a step of {contestant.title} ({number} of {len(missing)}) ...", flush=True)
        row = _measured(contestant, base, rounds, threads)
        seconds = row.pop("seconds")
        found = {"threads": threads, "seconds": seconds} | found
        found["rows"][contestant.row] = row
        write(path, json.dumps(found, indent=1) + "\n")
    return found


def _measured(contestant: Contestant, base: Contestant, rounds: int, threads: int) -> dict:
    """Its row of the file, with the seconds of a step of `base`."""
    sides = [bench.Side("ours", shlex.join([*c.words, *ENDLESS]), threads=threads) for c in (base, contestant)]
    try:
        found = bench.compare(*sides, rounds)
    finally:
        for side in sides:
            side.close()
    own = contestant.row == base.row  # it took turns with itself
    return {
        "options": contestant.options,
        "step": 1.0 if own else statistics.median(found["step"]),
        "memory": found["memory"],
        "translate": 1.0 if own else statistics.median(found["translate"]),
        "sizes": sizes(contestant.args),
        "seconds": statistics.median(found["seconds"]),
    }


def sizes(args) -> dict[str, list[int]]:
    """{kind: [parameters, multiply-adds]} of all networks for one picture; encoders count as generators."""
    found = {}
    for title, counts in totals(kinds(methods.load(args.method), args)).items():
        kind = next((kind for kind in KINDS[1:] if kind in title), KINDS[0])
        found[kind] = [a + b for a, b in zip(found.get(kind, (0, 0)), counts, strict=True)]
    return found


def steps(found: dict, row: str, minutes: float) -> int:
    """The number of steps of this row in that many minutes.  UserError: none, or its cost is not measured."""
    if row not in found["rows"]:
        raise UserError(f"the cost of {row} is not measured, which --minutes needs; call without --table-only")
    seconds = found["seconds"] * found["rows"][row]["step"]
    count = math.floor(minutes * 60 / seconds)
    if not count:
        raise UserError(f"--minutes {minutes:g} is less than one step of {row}, which takes {seconds:.3g} s")
    return count
