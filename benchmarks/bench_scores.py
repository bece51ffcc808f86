"""Time fid_kid.py against pytorch-fid, torch-fidelity and clean-fid: prints a markdown table.

    python benchmarks/bench_scores.py [--rounds 3] [--quick]

Both sides of a line take turns in one process, on the same inputs. A line shows the median seconds of each and
the median ratio of neighbouring runs, over --rounds rounds (KID: three times as many). Inception's weights are
random, because time does not depend on them. Needs requirements-dev.txt; about six minutes on two cores.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import rows  # noqa: F401  (makes the modules below importable)

from options import Parser
from utils import at_once, run


def parse_args(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, fewer pictures for Inception")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported
    at_once("bench_scores.py", parse_args)

import cleanfid.fid
import numpy as np
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch
import torch_fidelity.metric_kid
from PIL import Image

import fid_kid
from images.files import list_images
from layers import keep_freed_memory
from scoring import inception, metrics


def seconds(function):
    time.sleep(0.3)  # threads of the other side spin for 0.1 s after their work
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(what, theirs, ours, bar, rounds):
    """Print one line of the table; the order within a round alternates."""
    ours()
    times = []
    for turn in range(rounds):
        pair = [seconds(f) for f in ((theirs, ours) if turn % 2 == 0 else (ours, theirs))]
        times.append(pair if turn % 2 == 0 else pair[::-1])
    ratio = statistics.median(t / o for t, o in times)
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    met = "" if bar is None else "yes" if ratio >= bar else "NO"
    print(f"| {what} | {a:.3g} s | {b:.3g} s | **{ratio:.3g}x** | {bar or ''} | {met} |",
          flush=True)


def features(n, seed, d=2048):
    """Correlated, nonnegative float32 features, like Inception's."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((d, d), np.float32) / np.sqrt(np.arange(1, d + 1, dtype=np.float32))
    return np.maximum(rng.standard_normal((n, d), np.float32) @ mix.T / 10 + 0.3 + 0.02 * seed, 0)


def by_moments(distance):
    return lambda x, y: distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))


def bench_extraction(pictures, rounds):
    """Files to features: pytorch-fid's pipeline and ours, each with two reading threads and batches of 50."""
    net = inception.fid_inception().to_empty(device="cpu")
    for name, value in net.state_dict().items():
        value.copy_(torch.ones(()) if "running_var" in name or "bn.weight" in name else torch.randn(value.shape) / 50)
    state = net.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoints").mkdir()
        torch.save(state, Path(folder, "checkpoints", Path(inception.WEIGHTS_URL).name))
        torch.hub.set_dir(folder)  # where pytorch-fid finds its weights
        theirs, ours = pytorch_fid.inception.InceptionV3([3]).eval(), fid_kid.InceptionV3(state)
        rng = np.random.default_rng(0)
        for i in range(pictures):
            Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(Path(folder, f"{i}.jpg"))
        files = list_images(folder)
        compare(f"Inception features of {pictures} pictures, 256x256, against pytorch-fid",
                lambda: pytorch_fid.fid_score.get_activations(files, theirs, 50, 2048, "cpu", 2),
                lambda: fid_kid.extract(files, ours, 2048), 1.3, rounds)


def main():
    args = parse_args()
    rounds = 1 if args.quick else args.rounds
    keep_freed_memory()  # as in fid_kid.py; both sides profit
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {rounds} (KID: {3 * rounds})\n")
    print("| | theirs | ours | ratio | bar | met |\n|---|---|---|---|---|---|")
    bench_extraction(50 if args.quick else 100, rounds)
    pytorch_fid_distance = by_moments(pytorch_fid.fid_score.calculate_frechet_distance)
    for n, bar in ((100, 50), (5000, 3)):
        x, y = features(n, 1), features(n, 2)
        where = f"FID of {n} v {n} features, 2048 dimensions, against"
        compare(f"{where} pytorch-fid", lambda x=x, y=y: pytorch_fid_distance(x, y),
                lambda x=x, y=y: metrics.frechet_distance(x, y), bar, rounds)
        compare(f"{where} clean-fid", lambda x=x, y=y: cleanfid.fid.fid_from_feats(x, y),
                lambda x=x, y=y: metrics.frechet_distance(x, y), bar, rounds)

    def torch_fidelity_kid():
        return torch_fidelity.metric_kid.kid_features_to_metric(
            torch.from_numpy(x), torch.from_numpy(y), kid_subsets=50, kid_subset_size=1000, verbose=False)

    compare("KID, 50 subsets of 1000 of 5000 features, against torch-fidelity", torch_fidelity_kid,
            lambda: metrics.kid(x, y), None, 3 * rounds)
    theirs, ours = torch_fidelity_kid()["kernel_inception_distance_mean"], metrics.kid(x, y)["kid"]
    print(f"\nrelative error of torch-fidelity's KID in float32, against ours in double precision: "
          f"{abs(theirs / ours - 1):.1e}")


if __name__ == "__main__":
    run(main, "bench_scores.py")
