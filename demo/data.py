"""The demo data: a small horse2zebra, generated from a seed.

    trainA  plain horses                    trainB  zebras             400 each, no scene in both
    testA   plain horses                    testB   zebras             100 each
    truthA  testA's scenes with a zebra     truthB  testB's scenes with a horse
    maskA   the animal of testA             maskB   the animal of testB

Pictures are 64 x 64 PNG. The A and the B picture of a scene differ only in the coat, and the shade of one coat
determines the other's, so every translation can be compared with a correct answer.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from demo.scenes import scene
from images.new_folder import folder_beside
from utils import UserError, writing

ROOT = Path("dataset/demo")
SCENES = {"trainA": range(0, 400), "trainB": range(400, 800), "testA": range(800, 900), "testB": range(900, 1000)}
FOLDERS = SCENES | {f"{kind}{d}": SCENES[f"test{d}"] for kind in ("truth", "mask") for d in "AB"}
TRAIN_SIZE = (26, 32)  # smaller, because training crops enlarge
DIRECTIONS = (("A", "B"), ("B", "A"))  # source, target


def ensure(root: Path = ROOT) -> Path:
    """Generate the data set in the folder `root` unless it is there; return root.

    It is generated beside root and then renamed, so that root is either complete or absent after an interruption.
    """
    root = Path(root)
    if _complete(root):
        return root
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: is not the complete demo data set; delete this folder and it will be generated again")
    print(f"Generating the demo data set in {root} ...", flush=True)
    with writing(root), folder_beside(root) as beside:
        _generate(beside / root.name)
        try:
            (beside / root.name).rename(root)
        except OSError:
            if not _complete(root):  # else another process was first
                raise
    return root


def _complete(root: Path) -> bool:
    return all(len(list((root / name).glob("*.png"))) == len(numbers) for name, numbers in FOLDERS.items())


def _generate(root: Path):
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    for domain, other in DIRECTIONS:
        for number in SCENES[f"train{domain}"]:
            _save(scene(number, TRAIN_SIZE, domain)[domain], root / f"train{domain}", number)
        for number in SCENES[f"test{domain}"]:
            pictures = scene(number)
            for folder, key in (("test", domain), ("truth", other), ("mask", "mask")):
                _save(pictures[key], root / f"{folder}{domain}", number)


def _save(picture: np.ndarray, folder: Path, number: int):
    Image.fromarray(picture).save(folder / f"{number:04d}.png")
