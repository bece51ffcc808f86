"""Label maps against their truth: pixel accuracy, class accuracy, mean IoU, whoever made the maps."""

import numpy as np

from images.decode import read_stored
from scoring.pairs import counterparts
from utils import UserError, shown

PLAIN = ("1", "L", "P", "I", "I;16")  # modes whose values are the labels; P: the palette's index


def label_scores(truth, predicted, ignore=None):
    """Scores of the label maps in the folder `predicted` against those of the same name (any suffix) in `truth`.

    A label is a pixel's value, palette index or RGB colour. Pixels whose true label is `ignore` do not count.
    pixel_accuracy  share of pixels with the right label
    class_accuracy  that share within each true class, mean over classes
    mean_iou        intersection over union, mean over the classes of either side
    Returns a dict, also with maps, classes (their number) and areas {label: (true share, predicted share)}.
    """
    counts = {}
    pairs = list(counterparts(predicted, truth, "--labels"))
    for path, other in pairs:
        found, right = read_labels(path), read_labels(other)
        if found.shape != right.shape:
            raise UserError(f"{shown(path)} is {found.shape[1]}x{found.shape[0]} and {shown(other)} "
                            f"{right.shape[1]}x{right.shape[0]}: --labels needs equal sizes")
        valid = right >= 0 if ignore is None else right != ignore
        both, times = np.unique(np.stack([right[valid], found[valid]]), axis=1, return_counts=True)
        for one, two, n in zip(*both.tolist(), times.tolist(), strict=True):
            counts[one, two] = counts.get((one, two), 0) + n
    total = sum(counts.values())
    if not total:
        raise UserError(f"all pixels in {shown(truth)} have the label that is ignored: leave --ignore-label out")
    true, drawn = ({label: sum(n for key, n in counts.items() if key[side] == label)
                    for label in sorted({key[side] for key in counts})} for side in (0, 1))
    hits = {label: counts.get((label, label), 0) for label in true | drawn}
    unions = {label: true.get(label, 0) + drawn.get(label, 0) - n for label, n in hits.items()}
    return {
        "pixel_accuracy": sum(hits.values()) / total,
        "class_accuracy": float(np.mean([hits[label] / n for label, n in true.items()])),
        "mean_iou": float(np.mean([hits[label] / n for label, n in unions.items()])),
        "maps": len(pairs), "classes": len(hits),
        "areas": {str(label): (true.get(label, 0) / total, drawn.get(label, 0) / total) for label in sorted(hits)},
    }


def read_labels(path):
    """The labels (H, W) int64 of a map; colours as 65536 R + 256 G + B."""
    image = read_stored(path)
    mode, pixels = image.mode, np.asarray(image)
    if mode in PLAIN:
        return pixels.astype(np.int64)
    if mode in ("RGB", "RGBA") and (mode == "RGB" or (pixels[..., 3] == 255).all()):
        return pixels[..., :3].astype(np.int64) @ [65536, 256, 1]
    raise UserError(f"{shown(path)} is of mode {mode}: a label map has one channel, a palette or opaque colours")
