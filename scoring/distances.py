"""FID and KID of two sets of features, with notes for the reader."""

import math

from scoring.metrics import frechet_distance, frechet_from_moments, kid


def distances(x, y, notes, features="inception", dims=2048, no_kid=False, subsets=50, subset_size=1000, seed=2020,
              degree=3, gamma=None, coef0=1.0, var=False):
    """FID and KID of two sets (features.Source), as a dict; named fd and kd if the features are not Inception's.

    notes: a list; remarks for the reader are appended.  features, dims: name of the network, dimension of its features.
    no_kid: FID only.  The other arguments are those of metrics.kid.
    """
    if x.features is None or y.features is None:
        frechet = frechet_from_moments(*x.moments(), *y.moments())
    else:
        frechet = frechet_distance(x.features, y.features)
    fid, kid_ = ("fid", "kid") if features == "inception" else ("fd", "kd")
    if 0 < min(len(x) or math.inf, len(y) or math.inf) <= dims:
        notes.append(f"fewer pictures than the features' {dims} dimensions bias {fid.upper()} upwards: "
                     "compare it only at equal numbers of pictures")
    if no_kid:
        return {fid: frechet}

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
    return {fid: frechet} | {name.replace("kid", kid_): value for name, value in found.items()}
