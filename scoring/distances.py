"""FID, KID and more of two sets of features, with notes for the reader."""

import math

from scoring.intervals import intervals
from scoring.manifold import NEIGHBOURS, collapse_note, mind, prdc
from scoring.metrics import frechet_distance, frechet_from_moments, kid

NAMES = {"fid": "fd", "kid": "kd", "mind": "md"}  # of distances in features that are not Inception's


def distances(x, y, notes, features="inception", dims=2048, no_kid=False, subsets=50, subset_size=1000, seed=2020,
              degree=3, gamma=None, coef0=1.0, var=False, with_prdc=False, with_intervals=False):
    """FID and KID of two sets (features.Source), as a dict; named fd, kd and md if the features are not Inception's.

    notes: a list; remarks for the reader are appended.  features, dims: name of the network, dimension of its features.
    no_kid: FID only.  with_prdc: also precision, recall, density, coverage of y against x, and MIND.
    with_intervals: also 95% intervals, fid_interval and kid_interval, where they can be had.
    The other arguments are those of metrics.kid.
    """
    if x.features is None or y.features is None:
        frechet = frechet_from_moments(*x.moments(), *y.moments())
    else:
        frechet = frechet_distance(x.features, y.features)
    fid, kid_, mind_ = NAMES if features == "inception" else NAMES.values()
    if 0 < min(len(x) or math.inf, len(y) or math.inf) <= dims:
        notes.append(f"fewer pictures than the features' {dims} dimensions bias {fid.upper()} upwards: "
                     "compare it only at equal numbers of pictures")
    report = {fid: frechet}
    if with_prdc and min(len(x), len(y)) > NEIGHBOURS:
        found = prdc(x.features, y.features)
        report |= found | {mind_: mind(x.features, y.features, seed=seed)}
        notes += filter(None, [collapse_note(found, fid.upper())])
    elif with_prdc:
        notes.append(f"precision, recall, density and coverage need more than {NEIGHBOURS} pictures in each set")
    if no_kid:
        return report | (_intervals(x, y, notes, {fid: frechet}) if with_intervals else {})

    found = kid(x.features, y.features, subsets, subset_size, seed, degree, gamma, coef0, var)
    size = found["kid_subset_size"]
    if size < subset_size:
        notes.append(f"subset size {subset_size} clamped to {size}, the size of the smaller set")
    if size == max(len(x), len(y)):
        notes.append("the only subset is both sets in full, so +- is the root of the variance's estimate, if that is "
                     "positive, not a standard deviation over subsets")
    if found["kid"] < 0:
        notes.append(f"slightly negative {kid_.upper()} is valid: the sets are similar and the estimate is unbiased")
    found |= {"kid_x100": 100 * found["kid"], "kid_x100_std": 100 * found["kid_std"], "seed": seed}
    report |= {name.replace("kid", kid_): value for name, value in found.items()}
    scores = {fid: frechet, kid_: found["kid"]}
    return report | (_intervals(x, y, notes, scores, degree, gamma, coef0) if with_intervals else {})


def _intervals(x, y, notes, scores, *kernel):
    """{"fid_interval": (low, high), ...} of two sources' scores by name; empty where only moments are known."""
    if x.features is None or y.features is None:
        return {}
    found, reason = intervals(x.features, y.features, *scores.values(), *kernel)
    notes += filter(None, [reason])
    return {f"{name}_interval": ends for name, ends in zip(scores, found.values(), strict=False)}
