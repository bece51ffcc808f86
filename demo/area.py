"""The area that the target's animal takes in the demo's translations, against the truth (CUT, figure 15)."""

from pathlib import Path

import numpy as np

from demo.data import DIRECTIONS, ROOT
from demo.measures import counterparts, to_draw, to_translate, translation, values
from utils import UserError

STEPS = 8  # of each colour channel: 512 colours


def area(fake_dir, truth_dir, mask_dir) -> dict:
    """How much of the pictures in fake_dir the target's animal takes; larger ones are reduced to the truths' size.

    A pixel is the animal's if its colour, to 512 colours, is mostly the animal's in the true counterparts. On the
    truths themselves that is right for 94 to 97% (intersection over union with the masks).

    area   number of the animal's pixels in the translations, divided by that of the masks; 1 as in the truth
    iou    intersection over union of these pixels and the masks'
    """
    names = sorted(path.name for path in Path(mask_dir).glob("*.png"))
    if not names:
        raise UserError(f"{mask_dir}: no masks; delete the demo data set and generate it again with: "
                        f"{to_draw(Path(mask_dir).parent)}")
    pictures = [counterparts(name, truth_dir, truth_dir, mask_dir) for name in names]
    truths = [_colours(values(truth)) for truth, _, _ in pictures]
    masks = [values(mask) >= 0.5 for _, _, mask in pictures]
    inside, everywhere = np.zeros((2, STEPS**3), int)
    for truth, mask in zip(truths, masks, strict=True):
        inside += np.bincount(truth[mask], minlength=STEPS**3)
        everywhere += np.bincount(truth.ravel(), minlength=STEPS**3)
    animal = 2 * inside > everywhere
    sums = np.zeros(4, int)
    for name, (truth, _, _), mask in zip(names, pictures, masks, strict=True):
        found = animal[_colours(translation(Path(fake_dir) / name, truth.size))]
        sums += found.sum(), mask.sum(), (found & mask).sum(), (found | mask).sum()
    drawn, true, both, either = sums.tolist()
    if not true:
        raise UserError(f"{mask_dir}: the masks are empty; delete the demo data set and generate it again")
    return {"area": drawn / true, "iou": both / either}


def _colours(picture: np.ndarray) -> np.ndarray:
    """The numbers (H,W) of the colours of a picture (H,W,3) in [0, 1]."""
    steps = np.minimum((picture * STEPS).astype(int), STEPS - 1)
    return steps @ [STEPS**2, STEPS, 1]


def report(results_dir, root: Path = ROOT) -> dict:
    """Print the area in results_dir/fakeB and fakeA: {"A2B": {...}, "B2A": {...}}.  UserError: neither is there."""
    found = {
        f"{s}2{t}": area(Path(results_dir) / f"fake{t}", Path(root) / f"truth{s}", Path(root) / f"mask{s}")
        for s, t in DIRECTIONS
        if (Path(results_dir) / f"fake{t}").is_dir()
    }
    if not found:
        raise UserError(f"{results_dir}: neither fakeB nor fakeA is there; translate first with: {to_translate()}")
    for name, one in found.items():
        print(f"{name}: the animal takes {one['area']:.3f} of its true area, IoU {one['iou']:.3f}")
    return found
