"""The area that the target's animal takes in the demo's translations, against the truth (CUT, figure 15)."""

from pathlib import Path

import numpy as np

from demo.data import ROOT
from demo.measures import by_direction, counterparts, masks_in, translation, values
from images.maker import need_whole
from utils import UserError

STEPS = 8  # of each colour channel: 512 colours


def area(fake_dir, truth_dir, mask_dir) -> dict:
    """How much of the pictures in fake_dir the target's animal takes; larger ones are reduced to the truths' size.

    A pixel is the animal's if its colour, to 512 colours, is mostly the animal's in the true counterparts. On the
    truths themselves that is right for 94 to 97% (intersection over union with the masks).

    area   number of the animal's pixels in the translations, divided by that of the masks; 1 as in the truth
    iou    intersection over union of these pixels and the masks'
    """
    need_whole(Path(fake_dir))
    names = masks_in(mask_dir)
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
    found = by_direction(area, results_dir, root, ("truth", "mask"))
    for name, one in found.items():
        print(f"{name}: the animal takes {one['area']:.3f} of its true area, IoU {one['iou']:.3f}")
    return found
