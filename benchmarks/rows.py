"""What the benchmarks need before torch is imported: the program's folder, the rows of Table 1, the data set.

Importing this makes the program's modules, one folder up, importable.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils import UserError, shown

ROWS = {  # name for --methods: name in the tables
    "nice": "NICE-GAN",
    "nice-star": "NICE-GAN*",
    "ugatit": "U-GAT-IT",
    "cyclegan": "CycleGAN",
    "unit": "UNIT",
    "munit": "MUNIT",
    "drit": "DRIT",
    "cut": "CUT",
    "fastcut": "FastCUT",
    "gcgan": "GcGAN",
    "distancegan": "DistanceGAN",
}


def need_data_set(args):
    """UserError: the data set is not there; the demo's is made when it is needed."""
    root = args.dataset_dir / args.dataset
    missing = [name for name in ("trainA", "trainB", "testA", "testB") if not (root / name).is_dir()]
    if missing and args.dataset != "demo":
        from images.data_sets import hint  # here: --help needs no pictures

        remedy = hint(args.dataset, args.dataset_dir) or "check --dataset and --dataset_dir"
        raise UserError(f"{shown(root)} has no {' and no '.join(missing)}; {remedy}")
