"""Score a folder of pictures against another: FID, KID, Inception Score, paired distances.

    python fid_kid.py dataset/cat2dog/testB results/cat2dog/fakeB --mmd-var
    python fid_kid.py testB fakeB --features efficientnet-lite0       no download; not FID, comparable only with itself
    python fid_kid.py testB --save testB.npz                          compute features once, score many times

FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) are distances between two sets of features of a fixed network.
"""

import json
import math
import os
from pathlib import Path

from options.scores import parse_args, refuse_at_once
from utils import UserError, at_once, atomic, run

if __name__ == "__main__":  # before torch is imported, which takes seconds
    at_once("fid_kid.py", refuse_at_once)

# Read when torch is imported.  Large memory pages for large tensors: fewer page faults on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

from images import maker
from images.decode import limit_pixels
from images.files import common_scale
from layers import keep_freed_memory
from options import telling
from scoring.comparison import compare, rows_by_name
from scoring.distances import NAMES, distances
from scoring.features import extract, open_source, read_npz, read_picture, write_npz
from scoring.inception import EfficientNetLite0, InceptionV3
from scoring.labels import label_scores
from scoring.lpips import LPIPS
from scoring.lpips import NAME as LPIPS_NAME
from scoring.manifold import NEIGHBOURS, PRDC
from scoring.metrics import frechet_distance, inception_score, kid, polynomial_mmd2
from scoring.pairs import diversity, paired_distances

__all__ = [  # public names; the rest is in scoring/
    "EfficientNetLite0",
    "InceptionV3",
    "extract",
    "frechet_distance",
    "kid",
    "main",
    "paired_distances",
    "parse_args",
    "polynomial_mmd2",
    "read_npz",
    "read_picture",
]


def choose_device(gpu):
    """The torch device of -c/--gpu: None: the best present; '': the CPU; digits: a CUDA device."""
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
    """Compute all scores that `args` asks for: a dict of plain values, with notes for the reader."""
    for option, path in (("--save", args.save), ("--json", args.json)):
        if path and not Path(path).resolve().parent.is_dir():
            raise UserError(f"{option} {path}: its folder does not exist; make it first")
    inception = args.features == "inception"
    kind, device = f"{args.features}-{args.dims}-{args.resize}", choose_device(args.gpu)
    report = {"paths": args.paths, "features": args.features, "dims": args.dims, "resize": args.resize}
    notes = [text for path in args.paths for text in maker.lines(Path(path))]

    lpips = LPIPS(args.lpips_weights) if args.lpips or args.lpips_weights or args.diversity else None

    sources = []
    if len(args.paths) == 2 or args.save or args.isc:
        sources = [open_source(path, kind, args.dims) for path in [*args.paths, *[args.against] * bool(args.against)]]
        need_features(sources, args)
        folders = [source.path for source in sources if source.files]
        kept = [source.scale for source in sources if source.scale]  # both sides have one scale
        scale = kept[0] if kept else common_scale(*folders)
        if any(other != scale for other in kept):
            notes.append("the files' deep pictures were read by different scales: compute the features again")
        if any(source.files for source in sources):
            net = InceptionV3(args.weights) if inception else EfficientNetLite0()
            net.to(device)
        for source in sources:
            if source.files:
                source.extract(net, args.dims, args.isc, args.batch_size, args.resize, args.workers, device,
                               scale=scale)
        report["pictures"] = [len(source) or None for source in sources[: len(args.paths)]]

    if args.save:
        write_npz(args.save, sources[0], kind)
    many = any(len(source) > 200 for source in sources)
    if len(args.paths) == 2:
        with telling("computing the distances", when=many):
            report |= distances(
                *sources[:2], notes, args.features, args.dims, args.no_kid, args.mmd_subsets, args.mmd_subset_size,
                args.seed, args.mmd_degree, args.mmd_gamma, args.mmd_coef0, args.mmd_var, args.prdc,
                with_intervals=True)
    if args.against:
        pairs, kernel = rows_by_name(*sources[1:]), (args.mmd_degree, args.mmd_gamma, args.mmd_coef0)
        with telling("testing the difference by exchanges", when=many):
            found = compare(sources[0].features, *pairs, args.seed, *kernel)
        report["against"] = {"path": args.against, "inputs": len(pairs[0])}
        report["against"] |= {name if inception else NAMES[name]: value for name, value in found.items()}
    if args.isc:
        logits = sources[len(args.paths) - 1].logits
        report |= dict(zip(("isc_mean", "isc_std"), inception_score(logits), strict=True))
    if args.paired:
        report |= paired_distances(args.paths[-1], args.paired, args.workers, lpips=lpips)
    if args.diversity:
        report |= diversity(args.paths[-1], lpips, args.diversity, args.seed)
    if args.labels:
        report |= label_scores(*args.labels, args.ignore_label)
    return report | {"notes": notes}


def need_features(sources, args):
    """UserError, before any picture is read, if a score needs more than a file holds."""
    extra = "--against" if args.against else "--prdc" if args.prdc else None
    for source in sources if len(args.paths) == 2 and (extra or not args.no_kid) else ():
        if not source.files and source.features is None:
            needs, remedy = (extra, f"leave {extra} out") if extra else ("KID", "give --no-kid")
            raise UserError(f"{source.path} holds only mu and sigma, but {needs} needs features: make it with "
                            f"--save, or {remedy}")
    last = sources[len(args.paths) - 1] if sources else None
    if args.isc and not last.files and last.logits is None:
        raise UserError(f"{last.path} holds no logits for --isc: make it with --save and --isc")


def lines(report):
    """The report as text, one line a score."""
    inception = report["features"] == "inception"
    of = f" ({report['features']})" if not inception else f" (dims {report['dims']})" * (report["dims"] != 2048)
    for fid in {"fid", "fd"} & report.keys():
        yield f"{fid.upper()}{of}: {report[fid]:.6g}{between(report, fid)}"
    for kid_ in {"kid", "kd"} & report.keys():
        mean, std, var = (report[kid_ + part] for part in ("", "_std", "_var"))
        subsets, size = (report[kid_ + part] for part in ("_subsets", "_subset_size"))
        if size == max(report["pictures"]):  # a single subset of everything: no spread to print
            std = math.sqrt(var) if var and var > 0 else 0
        x100, raw = (f"{scale * mean:.6g}" + f" +- {scale * std:.6g}" * (std > 0) for scale in (100, 1))
        drawn = f"{subsets} subset{'s' * (subsets > 1)} of {size}"
        yield f"{kid_.upper()} x100{of}: {x100} (raw {raw}, {drawn}){between(report, kid_, 100)}"
        if report[f"{kid_}_var"] is not None:
            yield f"{kid_.upper()} variance{of}: {report[f'{kid_}_var']:.6g} (raw, at the smaller set's size)"
    if "recall" in report:
        where = f" ({of[2:-1]}, {NEIGHBOURS} neighbours)" if of else f" ({NEIGHBOURS} neighbours)"
        yield ", ".join(f"{name} {report[name]:.3f}" for name in PRDC) + where
    for mind in {"mind", "md"} & report.keys():
        yield f"{mind.upper()}{of}: {report[mind]:.6g}"
    if "isc_mean" in report:
        name = "Inception Score" if inception else f"Score{of}"
        yield f"{name} of {report['paths'][-1]}: {report['isc_mean']:.6g} +- {report['isc_std']:.6g} (10 splits)"
    if "ssim" in report:
        psnr = f", PSNR {report['psnr']:.6g} dB" if report["psnr"] is not None else ""
        same, pairs = report["identical"], report["pairs"]
        perceptual = f", {LPIPS_NAME} {report['lpips']:.6g}" if "lpips" in report else ""
        yield f"L1 {report['l1']:.6g} of 1{psnr}, SSIM {report['ssim']:.6g}{perceptual} ({pairs} pairs)"
        if same:
            rest = "PSNR is the mean of the others" if same < pairs else "PSNR would be infinite"
            yield f"{same} of {pairs} pairs {'is' if same == 1 else 'are'} identical: {rest}"
    if "diversity" in report:
        yield (f"diversity, {LPIPS_NAME}: {report['diversity']:.6g} ({report['diversity_protocol']}, "
               f"{report['diversity_inputs']} inputs)")
    if "mean_iou" in report:
        yield (f"pixel accuracy {report['pixel_accuracy']:.4f}, class accuracy {report['class_accuracy']:.4f}, "
               f"mean IoU {report['mean_iou']:.4f} ({report['maps']} maps, {report['classes']} classes)")
        if report["classes"] <= 30:
            yield "area, true and predicted: " + ", ".join(
                f"{label} {100 * true:.2f}% {100 * drawn:.2f}%" for label, (true, drawn) in report["areas"].items())
    if "against" in report:
        yield from against_lines(report["against"], report["paths"][1], of)
    yield from (f"note: {note}" for note in report["notes"])


def against_lines(found, path, of):
    """The comparison of two methods as text."""
    for name in ("fid", "kid", "fd", "kd"):
        if name not in found:
            continue
        kernel = name.startswith("k")
        scale = 100 if kernel else 1
        value, p = scale * found[name]["difference"], found[name]["p"]
        ends = between({"x_interval": found[name]["interval"]}, "x", scale)
        verdict = f"{path if value < 0 else found['path']} is better" if p < 0.05 else "no difference beyond chance"
        yield (f"{name.upper()}{' x100' * kernel}{of} of {path} minus that of {found['path']}: {value:.6g}{ends}; "
               f"p {p:.2g} of {found[name]['permutations']} exchanges of {found['inputs']} pairs: {verdict}")


def between(report, name, scale=1):
    """The 95% interval of a score as text, "" where there is none."""
    ends = report.get(f"{name}_interval")
    return ", 95% interval over pictures {:.6g} to {:.6g}".format(*(scale * end for end in ends)) if ends else ""


def main(argv=None):
    args = parse_args(argv)
    keep_freed_memory()
    limit_pixels(args.max_pixels)
    report = score(args)
    print("\n".join(lines(report)))
    if args.json:
        with atomic(Path(args.json)) as temporary:
            temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, "fid_kid.py")
