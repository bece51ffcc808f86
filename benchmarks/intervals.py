"""How often the 95% intervals of FID and KID hold, on simulated features.

    python benchmarks/intervals.py                          the table of docs/scores.md
    python benchmarks/intervals.py --repetitions 50 --sizes 100

Each repetition draws two sets of features anew, as a rectified network would give them, and makes the intervals.
An interval holds if the mean of all repetitions' scores lies in it.  Sets differ by a shift and by other mixtures.
The last line of each size is of all intervals that were given.
"""

import rows  # noqa: F401  (makes the modules below importable)

from options import Parser, bounded
from utils import at_once, run


def parse_args(argv=None):
    parser = Parser(prog="intervals.py", description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=bounded(int, 2), default=400)
    parser.add_argument("--sizes", type=bounded(int, 4), nargs="+", default=[20, 80, 100, 200, 500],
                        help="pictures in each set")
    parser.add_argument("--dims", type=bounded(int, 1), default=512, help="dimension of the features")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported
    at_once("intervals.py", parse_args)

import numpy as np

from scoring.intervals import intervals
from scoring.metrics import frechet_distance, kid

APART = {"same": (0, 0), "near": (0.05, 0.2), "between": (0.1, 0.5), "apart": (0.2, 1), "far": (0.7, 2)}


def populations(apart: tuple[float, float], d: int):
    """Two functions (n, rng) -> features (n, d): max(0, 0.3 + factors W + noise + shift); 64 common factors."""
    rng = np.random.default_rng(1)
    noise = 0.5 * np.arange(1, d + 1) ** -0.6
    shift, mix = np.abs(rng.standard_normal(d)) * apart[0], rng.standard_normal((2, 64, d)) / 8

    def draw(n, rng, shift, mix):
        x = 0.3 + rng.standard_normal((n, 64)) @ mix + rng.standard_normal((n, d)) * noise + shift
        return np.maximum(0, x).astype(np.float32)

    return (lambda n, rng: draw(n, rng, 0, mix[0])), (lambda n, rng: draw(n, rng, shift, mix[0] + apart[1] * mix[1]))


def coverage(apart, n: int, d: int, repetitions: int):
    """Mean FID at n pictures a set, and whether each interval that was given holds: (given, 2), FID's and KID's."""
    first, second = populations(apart, d)
    rng, scores, ends = np.random.default_rng(n), [], []
    for _ in range(repetitions):
        x, y = first(n, rng), second(n, rng)
        scores.append((frechet_distance(x, y), kid(x, y)["kid"]))
        found, reason = intervals(x, y, *scores[-1])
        ends += [[*found.values()]] if reason is None else []
    mean, ends = np.mean(scores, 0), np.array(ends).reshape(-1, 2, 2)
    return mean[0], (ends[..., 0] <= mean) & (mean <= ends[..., 1])


def line(name: str, n: int, fid, holds: np.ndarray, repetitions: int) -> str:
    """A row of the table."""
    shares = [f"{100 * share:.1f}%" for share in holds.mean(0)] if len(holds) else ["–", "–"]
    fid = "" if fid is None else f"{fid:.3g}"
    return f"| {name} | {n} | {fid} | {100 * len(holds) / repetitions:.1f}% | {' | '.join(shares)} |"


def main(argv=None):
    args = parse_args(argv)
    print("| sets | pictures | mean FID | intervals given | FID's hold | KID's hold |\n|---|---|---|---|---|---|")
    for n in args.sizes:
        every = []
        for name, apart in APART.items():
            fid, holds = coverage(apart, n, args.dims, args.repetitions)
            every.append(holds)
            print(line(name, n, fid, holds, args.repetitions), flush=True)
        print(line("**all**", n, None, np.concatenate(every), args.repetitions * len(APART)), flush=True)


if __name__ == "__main__":
    run(main, "intervals.py")
