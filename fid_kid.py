"""Score a folder of pictures against another: FID, KID, Inception Score, paired distances.

    python fid_kid.py dataset/cat2dog/testB results/cat2dog/fakeB --mmd-var
    python fid_kid.py testB fakeB --features efficientnet-lite0       no download, a score of its own
    python fid_kid.py testB --save testB.npz                          features once, scores many times

FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) are distances between two sets of features
of one fixed network. Features stay in float32, 8 KB a picture: 400 MB for 50,000.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dataset import list_images, read_image
from inception import EfficientNetLite0, InceptionV3, resized
from main import Parser
from metrics import (
    frechet_distance,
    frechet_from_moments,
    inception_score,
    kid,
    moments,
    polynomial_mmd2,
    ssim,
)
from utils import UserError, keep_freed_memory

__all__ = ["InceptionV3", "frechet_distance", "kid", "main", "polynomial_mmd2"]


# --- from pictures to features -------------------------------------------------------------------

@dataclass
class Source:
    """What is known of one of the two sets: files to be read, or features, or moments alone."""

    path: str
    files: list = field(default_factory=list)
    features: np.ndarray = None  # (n, d) float32
    logits: np.ndarray = None    # (n, classes) without bias
    mu: np.ndarray = None        # (d,) float64
    sigma: np.ndarray = None     # (d, d) float64

    def __len__(self):
        return 0 if self.features is None else len(self.features)

    def moments(self):
        return moments(self.features) if self.mu is None else (self.mu, self.sigma)


def read_picture(path, size, resize):
    """Picture at `path` as float [0, 1] (3, size, size), and a digest of its pixels as read.

    resize: "legacy", bilinear without antialiasing as pytorch-fid does, or "clean", PIL's antialiased
    bicubic in floats as clean-fid does.
    """
    image = read_image(path)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    if resize == "legacy":
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return resized(pixels[None], size)[0], digest
    channels = [Image.fromarray(np.asarray(c, np.float32)).resize((size, size), Image.Resampling.BICUBIC)
                for c in image.split()]
    return torch.from_numpy(np.stack(channels).clip(0, 255) / 255), digest


def extract(files, net, dim, classes=False, batch_size=50, resize="legacy", workers=2, device="cpu"):
    """Features (n, dim) float32 of picture files, and their logits without bias (n, classes) or None.

    Each picture is resized by itself, and rows are in the order of the pictures' digests: neither the
    batch size nor names and their order matter to a score, and splits and subsets find them shuffled.
    """
    digests, features, logits = [], [], []
    bar = tqdm(total=len(files), desc=str(Path(files[0]).parent.name), unit="picture", disable=None)
    # float32 as it is written: TensorFloat-32 would cost three digits
    with bar, torch.backends.cudnn.flags(allow_tf32=False), ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        for i in range(0, len(files) + 2 * batch_size, batch_size):  # two batches are read ahead
            chunk = files[i:i + batch_size]
            waiting.append(pool.map(read_picture, chunk, [net.size] * len(chunk), [resize] * len(chunk)))
            if len(waiting) < 3:
                continue
            if read := list(waiting.popleft()):
                pictures, keys = zip(*read, strict=True)
                found = net(torch.stack(pictures).to(device), upto=net.classes if classes else dim)
                digests += keys
                features.append(found[dim].cpu().numpy())
                if classes:  # the original score's code leaves the bias out
                    logits.append((found[net.classes] - net.fc.bias).cpu().numpy())
                bar.update(len(read))
    order = sorted(range(len(files)), key=digests.__getitem__)
    return np.concatenate(features)[order], np.concatenate(logits)[order] if classes else None


def open_source(path, kind, dim):
    """A folder's pictures, not yet read, or the features or moments in an .npz, checked to be usable.

    kind: "inception-2048-legacy" and the like, as --save writes it; dim: the features' dimension.
    """
    if Path(path).suffix.lower() != ".npz":
        source = Source(path, files=list_images(path))
    else:
        source = Source(path, **read_npz(path, kind, dim))
    if 1 in (len(source.files), len(source)):
        raise UserError(f"{path} holds one picture only: a distribution needs at least two")
    return source


def read_npz(path, kind, dim):
    """The arrays of an .npz: features (n, dim), or mu (dim,) and sigma (dim, dim); logits if it has them."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name a folder or an .npz made with --save") from error
    except Exception as error:  # a damaged archive trips numpy, zipfile and zlib in many ways
        raise UserError(f"{path} is damaged or no .npz of plain arrays: make it anew with --save") from error
    made_as = str(arrays.get("kind", kind))
    if made_as != kind:
        raise UserError(f"{path} holds {made_as} features, not {kind}: give its --features, --dims, --resize")
    if "features" not in arrays and not {"mu", "sigma"} <= arrays.keys():
        raise UserError(f"{path} holds neither 'features' nor 'mu' and 'sigma': make it with --save")
    shapes = {"features": (-1, dim), "mu": (dim,), "sigma": (dim, dim), "logits": (-1, -1)}
    arrays = {name: arrays[name] for name in shapes if name in arrays}
    for name, array in arrays.items():
        free = [n if e == -1 else e for n, e in zip(array.shape, shapes[name], strict=False)]
        if array.ndim != len(shapes[name]) or array.shape != tuple(free):
            raise UserError(f"{name} in {path} is {array.shape}, but {kind} features have {dim} dimensions: "
                            "check --dims and --features")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise UserError(f"{name} in {path} holds what is no finite number: make it anew with --save")
        arrays[name] = array.astype(np.promote_types(array.dtype, np.float32))
    return arrays


# --- pictures in pairs ---------------------------------------------------------------------------

def paired_distances(folder, truth, workers=2):
    """Means over the pictures of `folder` against those of the same name (any suffix) in `truth`.

    Returns a dict: l1 in [0, 1], psnr in dB (infinite if a pair is identical), ssim at most 1, pairs.
    """
    fakes, exact, by_stem = list_images(folder), {}, {}
    for path in list_images(truth):
        name = path.relative_to(truth)
        exact[name] = by_stem[name.with_suffix("")] = path

    def compare(path):
        name = path.relative_to(folder)
        other = exact.get(name) or by_stem.get(name.with_suffix(""))
        if other is None:
            raise UserError(f"{path} has no counterpart in {truth}: --paired needs one of the same name")
        a, b = read_image(path), read_image(other)
        if a.size != b.size or min(a.size) < 11:
            raise UserError(f"{path} is {a.size[0]}x{a.size[1]} and {other} {b.size[0]}x{b.size[1]}: "
                            "--paired needs equal sizes of at least 11x11")
        a, b = (torch.from_numpy(np.array(z)).permute(2, 0, 1)[None].double() / 255 for z in (a, b))
        mse = (a - b).square().mean().item()
        return (a - b).abs().mean().item(), -10 * math.log10(mse) if mse else math.inf, ssim(a, b).item()

    with ThreadPoolExecutor(workers) as pool:
        rows = list(tqdm(pool.map(compare, fakes), total=len(fakes), desc="paired", disable=None))
    return dict(zip(("l1", "psnr", "ssim"), np.mean(rows, 0).tolist(), strict=True)) | {"pairs": len(rows)}


# --- command line --------------------------------------------------------------------------------

def parse_args(argv=None):
    parser = Parser(
        prog="fid_kid.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Score pictures: FID, KID, Inception Score, distances of pairs.")
    parser.add_argument("paths", nargs="+", metavar="PATH",
                        help="two folders or .npz files to compare; or one, with --save, --isc or --paired")

    group = parser.add_argument_group("features")
    group.add_argument("--features", choices=("inception", "efficientnet-lite0"), default="inception",
                       help="network; only inception's distances are FID and KID")
    group.add_argument("--dims", type=int, choices=InceptionV3.dims, help="depth of inception's features "
                       "(default: 2048)", default=argparse.SUPPRESS)
    group.add_argument("--weights", metavar="FILE", help="inception's weights, instead of a download")
    group.add_argument("--resize", choices=("legacy", "clean"), default="legacy",
                       help="legacy: bilinear, as the paper's tool; clean: antialiased, as clean-fid")

    group = parser.add_argument_group("KID")
    group.add_argument("--mmd-degree", type=at_least(1), default=3, help="kernel: (gamma x.y + coef0)^degree")
    group.add_argument("--mmd-gamma", type=finite, metavar="GAMMA", help="1/dims if not given")
    group.add_argument("--mmd-coef0", type=finite, default=1.0, metavar="COEF0", help="as above")
    group.add_argument("--mmd-subsets", type=at_least(1), default=50, help="number of random subsets")
    group.add_argument("--mmd-subset-size", type=at_least(2), default=1000, help="pictures in each")
    group.add_argument("--mmd-var", action="store_true", help="also estimate the variance")
    group.add_argument("--seed", type=at_least(0), default=2020, help="of the random subsets")
    group.add_argument("--no-kid", action="store_true", help="FID alone, which mu and sigma suffice for")

    group = parser.add_argument_group("other scores")
    group.add_argument("--isc", action="store_true", help="Inception Score of the last PATH")
    group.add_argument("--paired", metavar="DIR", help="L1, PSNR, SSIM of the last PATH against DIR, by name")

    group = parser.add_argument_group("output")
    group.add_argument("--save", metavar="FILE", help="write the first PATH's features, mu, sigma to an .npz")
    group.add_argument("--json", metavar="FILE", help="write the scores to a file as well")

    group = parser.add_argument_group("run")
    group.add_argument("--batch-size", type=at_least(1), default=50, help="changes speed only, never a score")
    group.add_argument("--workers", type=at_least(1), default=min(8, os.cpu_count() or 1),
                       help="pictures read at a time")
    group.add_argument("-c", "--gpu", metavar="N", help="number of the GPU, or a device's name; '' for the "
                       "CPU; the best present if not given")

    args = parser.parse_args(argv)
    if len(args.paths) > 2:
        parser.error(f"give two paths at most, not {len(args.paths)}")
    if len(args.paths) == 1 and not (args.save or args.isc or args.paired):
        parser.error("give two paths to compare, or one with --save, --isc or --paired")
    if args.features != "inception" and ("dims" in args or args.weights):
        parser.error(f"--dims and --weights go with --features inception, not with {args.features}")
    if args.paired and Path(args.paths[-1]).suffix.lower() == ".npz":
        parser.error(f"--paired needs a folder of pictures, not {args.paths[-1]}")
    if args.seed >= 2**32:
        parser.error("--seed must be below 2^32")
    args.dims = getattr(args, "dims", 2048) if args.features == "inception" else 1280
    return args


def at_least(lowest):
    def integer(text):
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} is below {lowest}")
        return int(text)
    return integer


def finite(text):
    if not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return float(text)


def choose_device(gpu):
    """-c/--gpu to a torch device: None is the best present, '' the CPU, digits a CUDA device."""
    if gpu is None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(f"cuda:{gpu}" if gpu.isdigit() else gpu or "cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--gpu {gpu}: no such device here; use --gpu '' for the CPU") from error
    return device


def score(args):
    """Everything `args` asks for: the report, a dict of plain values with the notes for the reader."""
    for option, path in (("--save", args.save), ("--json", args.json)):
        if path and not Path(path).resolve().parent.is_dir():
            raise UserError(f"{option} {path}: its folder does not exist; make it first")
    kind, device = f"{args.features}-{args.dims}-{args.resize}", choose_device(args.gpu)
    report = {"paths": args.paths, "features": args.features, "dims": args.dims, "resize": args.resize}
    notes = []

    sources = []
    if len(args.paths) == 2 or args.save or args.isc:
        sources = [open_source(path, kind, args.dims) for path in args.paths]
        need_features(sources, args)
        if any(source.files for source in sources):
            net = InceptionV3(args.weights) if args.features == "inception" else EfficientNetLite0()
            net.to(device)
        for source in sources:
            if source.files:
                source.features, source.logits = extract(
                    source.files, net, args.dims, args.isc, args.batch_size, args.resize, args.workers, device)
        report["pictures"] = [len(source) or None for source in sources]

    if args.save:
        write_npz(args.save, sources[0], kind)
    if len(sources) == 2:
        report |= distances(*sources, args, notes)
    if args.isc:
        report |= dict(zip(("isc_mean", "isc_std"), inception_score(sources[-1].logits), strict=True))
    if args.paired:
        report |= paired_distances(args.paths[-1], args.paired, args.workers)
    return report | {"notes": notes}


def need_features(sources, args):
    """UserError, before any picture is read, where a score needs more than a file holds."""
    for source in sources if len(sources) == 2 and not args.no_kid else ():
        if not source.files and source.features is None:
            raise UserError(f"{source.path} holds only mu and sigma, but KID needs features: make it with "
                            "--save, or give --no-kid")
    if args.isc and not sources[-1].files and sources[-1].logits is None:
        raise UserError(f"{sources[-1].path} holds no logits for --isc: make it with --save and --isc")


def write_npz(path, source, kind):
    """What --save keeps: features, their moments under pytorch-fid's names, and how they were made."""
    arrays = dict(zip(("mu", "sigma"), source.moments(), strict=True), kind=kind)
    arrays |= {k: v for k, v in vars(source).items() if k in ("features", "logits") and v is not None}
    try:
        with open(path, "wb") as file:  # np.savez would add a suffix of its own
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"--save {path}: {error.strerror}") from error


def distances(x, y, args, notes):
    """FID and KID of two sources, as a dict; fd and kd where the features are not Inception's."""
    if x.features is None or y.features is None:
        frechet = frechet_from_moments(*x.moments(), *y.moments())
    else:
        frechet = frechet_distance(x.features, y.features)
    fid, kid_ = ("fid", "kid") if args.features == "inception" else ("fd", "kd")
    if 0 < min(len(x) or math.inf, len(y) or math.inf) <= args.dims:
        notes.append(f"fewer pictures than the features' {args.dims} dimensions bias {fid.upper()} upwards: "
                     "compare it at equal numbers of pictures only")
    if args.no_kid:
        return {fid: frechet}

    found = kid(x.features, y.features, args.mmd_subsets, args.mmd_subset_size, args.seed, args.mmd_degree,
                args.mmd_gamma, args.mmd_coef0, args.mmd_var)
    size = found["kid_subset_size"]
    if size < args.mmd_subset_size:
        notes.append(f"subset size {args.mmd_subset_size} clamped to {size}, the smaller set's pictures")
    if size == max(len(x), len(y)):
        notes.append("every subset is the whole of both sets: their spread is 0, --mmd-var tells the uncertainty")
    if found["kid"] < 0:
        notes.append(f"slightly negative {kid_.upper()} is valid: the sets are similar, the estimate unbiased")
    found |= {"kid_x100": 100 * found["kid"], "kid_x100_std": 100 * found["kid_std"], "seed": args.seed}
    return {fid: frechet} | {name.replace("kid", kid_): value for name, value in found.items()}


def lines(report):
    """The report for people, a line a score."""
    of = {"inception": ""}.get(report["features"], f" ({report['features']})")
    if report["features"] == "inception" and report["dims"] != 2048:
        of = f" (dims {report['dims']})"
    for fid in {"fid", "fd"} & report.keys():
        yield f"{fid.upper()}{of}: {report[fid]:.6g}"
    for kid_ in {"kid", "kd"} & report.keys():
        mean, std, size = (report[f"{kid_}{part}"] for part in ("", "_std", "_subset_size"))
        yield (f"{kid_.upper()} x100{of}: {100 * mean:.6g} +- {100 * std:.6g} "
               f"(raw {mean:.6g} +- {std:.6g}, {report[f'{kid_}_subsets']} subsets of {size})")
        if report[f"{kid_}_var"] is not None:
            yield f"{kid_.upper()} variance{of}: {report[f'{kid_}_var']:.6g} (raw, at the smaller set's size)"
    if "isc_mean" in report:
        name = "Inception Score" if report["features"] == "inception" else f"Score{of}"
        mean, std = report["isc_mean"], report["isc_std"]
        yield f"{name} of {report['paths'][-1]}: {mean:.6g} +- {std:.6g} (10 splits)"
    if "ssim" in report:
        yield (f"L1 {report['l1']:.6g} of 1, PSNR {report['psnr']:.6g} dB, SSIM {report['ssim']:.6g} "
               f"({report['pairs']} pairs)")
    yield from (f"note: {note}" for note in report["notes"])


def main(argv=None):
    args = parse_args(argv)
    keep_freed_memory()
    try:
        report = score(args)
        print("\n".join(lines(report)))
        if args.json:
            plain = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in report.items()}
            Path(args.json).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    except (UserError, OSError) as error:
        print(f"fid_kid.py: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
