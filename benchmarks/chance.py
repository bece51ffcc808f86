"""Chance in Table 1: 95% intervals over pictures, and which rows differ from the best beyond chance.

Over pictures, another draw of test pictures by the same trained networks: jackknife (scoring/intervals.py), and a
permutation test that exchanges both rows' translations of each input, all seeds' at once (scoring/comparison.py).
Over seeds, other trainings on the same pictures: Welch's t-test.

samples of a row: {"A2B": {seed: {"real": (m,d), "fake": (n,d), "l1": (n,), ...}}}; the seed is None in a row without.
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pvariance

import numpy as np
from scipy.stats import ttest_1samp, ttest_ind
from trainings import samples_path

from scoring.comparison import compare, compare_means
from scoring.intervals import interval, intervals

LEVEL = 0.05
FRECHET, KERNEL = ("fid", "fd"), ("kid", "kd")
LEAST = 20  # pictures for an interval of a mean
MARKS = {"pictures": "ᵖ", "seeds": "ˢ"}
LEGEND = """Mean over seeds ± standard deviation over seeds (95% interval over pictures). Intervals are of L1, SSIM and
LPIPS, and of Fréchet and kernel distances where they hold (docs/scores.md). Bold: the best of the trainings. Marks:
differs from it beyond chance over pictures (ᵖ, paired permutation test of these same scores) and over seeds (ˢ, Welch's
t-test), each at 5%: where nothing differs, one in 20 is marked by chance."""


def read(folder: Path, way: str) -> dict | None:
    """The samples of a run, as trainings.Scorer keeps them; None: there are none."""
    try:
        with np.load(samples_path(folder, way), allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, KeyError):
        return None


def interval_of(row, name: str) -> tuple[float, float] | None:
    """(low, high) over pictures of a row's mean score, such as fd_A2B; None where there is none."""
    score, _, way = name.rpartition("_")
    known = list(row.samples.get(way, {}).values())
    if not known or len(known) != len(row.scores[name]):
        return None
    value = fmean(row.scores[name])
    if score in (*FRECHET, *KERNEL):
        fakes = [s["fake"] for s in known]  # the seeds share inputs
        found = intervals(known[0]["real"], fakes, value, value / 100)[0]
        if score in KERNEL and found:
            return tuple(100 * end for end in found["kid"])
        return found.get("fid")
    if score not in known[0] or len(known[0][score]) < LEAST:
        return None
    each = np.mean([s[score] for s in known], 0)
    return interval(value, [(each.sum() - each) / (len(each) - 1)])


def over_pictures(a, b, name: str) -> float | None:
    """p of two rows' difference in a score; of the seeds that both have, or one row's only pictures against all."""
    score, _, way = name.rpartition("_")
    first, second = (row.samples.get(way, {}) for row in (a, b))
    seeds = [(i, j) for i in first for j in second if i == j or None in (i, j)]
    pairs = [(first[i], second[j]) for i, j in seeds]
    if not pairs or any(len(x["fake"]) != len(y["fake"]) or len(x["real"]) != len(y["real"]) for x, y in pairs):
        return None
    if score in (*FRECHET, *KERNEL):
        kind = "fid" if score in FRECHET else "kid"
        fakes = ([s["fake"] for s in side] for side in zip(*pairs, strict=True))
        return compare(pairs[0][0]["real"], *fakes, scores=(kind,))[kind]["p"]
    if not all(score in s for pair in pairs for s in pair):
        return None
    return compare_means(*(np.mean([s[score] for s in side], 0) for side in zip(*pairs, strict=True)))


def over_seeds(a, b, name: str) -> float | None:
    """p of two rows' difference in a score, of rows with at least two seeds; a row without seeds is a constant."""
    x, y = a.scores[name], b.scores[name]
    if b.seeds is None:
        (a, x), (b, y) = (b, y), (a, x)
    if len(y) < 2 or (len(x) < 2 and a.seeds is not None):
        return None
    if not pvariance(x) + pvariance(y):
        return float(fmean(x) == fmean(y))
    found = ttest_1samp(y, x[0]) if a.seeds is None else ttest_ind(x, y, equal_var=False)
    return float(found.pvalue)


@dataclass
class Fact:
    """What chance leaves of a row's score: its interval over pictures, and p of its difference from the best row's."""

    interval: tuple[float, float] | None = None
    p: dict[str, float] = field(default_factory=dict)  # of "pictures", "seeds"
    best: bool = False

    @property
    def marks(self) -> str:
        return "".join(sign for kind, sign in MARKS.items() if self.p.get(kind, 1) < LEVEL)


def facts(rows, names: list[str], higher_is_better, without_best=()) -> dict[tuple[str, str], Fact]:
    """{(title, score): Fact} of all scores that the rows have.  The best row is one of those with seeds.

    higher_is_better, without_best: scores without directions.
    """
    found = {}
    for name in names:
        known, score = [row for row in rows if row.scores.get(name)], name.rpartition("_")[0]
        found |= {(row.title, name): Fact(interval_of(row, name)) for row in known}
        trained = [row for row in known if row.seeds]
        if score in without_best or not trained or len({fmean(row.scores[name]) for row in known}) < 2:
            continue  # none, or all alike
        best = (max if score in higher_is_better else min)(trained, key=lambda row: fmean(row.scores[name]))
        found[best.title, name].best = True
        for row in known:
            if row is not best:
                p = {"pictures": over_pictures(row, best, name), "seeds": over_seeds(row, best, name)}
                found[row.title, name].p = {kind: value for kind, value in p.items() if value is not None}
    return found
