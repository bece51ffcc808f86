"""One scale of deep pictures for a domain of a data set: measured on its training pictures, with all sub-folders.

It is kept in checkpoints and model files, and used for all pictures of the domain: test pictures, --input, Translator,
scores.  What lies beside a picture changes nothing.
"""

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from images.decode import Contents, deep_contents
from images.deep import Scale, rule
from options import telling
from utils import UserError, process_rank, shown


def scale_of(found: Iterable[Contents]) -> Scale:
    """The scale by the rule of images/deep.py of all these pictures together."""
    extents = {}
    for each in found:
        if each.depth and each.extent:
            extents.setdefault(each.depth, []).append(each.extent)
    return {depth: rule(min(low for low, _ in some), max(high for _, high in some), depth)
            for depth, some in sorted(extents.items())}


def measured(paths: Iterable[Path], workers: int | None = None) -> Scale:
    """The scale of these picture files; a damaged one is reported where it is read."""
    def look(path):
        with suppress(UserError):
            return deep_contents(path)

    paths = [*paths]
    with telling("measuring the scale of deep pictures", when=len(paths) > 50), ThreadPoolExecutor(workers) as pool:
        return scale_of(found for found in pool.map(look, paths) if found)


def say(scale: Scale, place):
    """A line for each depth."""
    for depth, (black, white) in scale.items():
        if process_rank() == 0:
            print(f"{depth} pictures of {shown(place)}: {black:.10g} becomes black and {white:.10g} white",
                  file=sys.stderr)


def say_beyond(found: Iterable[Contents], scale: Scale, place):
    """A line where values lie beyond their domain's scale, or have none."""
    found = [each for each in found if each.depth and each.extent]
    known = [(each, *each.extent, *scale[each.depth]) for each in found if each.depth in scale]
    beyond = [each for each, least, most, black, white in known if least < black or most > white]
    alone = [each for each in found if each.depth not in scale]
    if beyond and process_rank() == 0:
        least, most = min(each.extent[0] for each in beyond), max(each.extent[1] for each in beyond)
        black, white = scale[beyond[0].depth]
        print(f"{len(beyond)} of the pictures in {shown(place)} hold values of {least:.10g} to {most:.10g}, beyond the "
              f"training pictures' scale, {black:.10g} to {white:.10g}: they are clipped to it", file=sys.stderr)
    if alone and process_rank() == 0:
        print(f"{len(alone)} {alone[0].depth} pictures in {shown(place)} are of a depth that the training pictures "
              "have given no scale: each is scaled by its own values", file=sys.stderr)


def training_folder(folder: Path) -> Path | None:
    """Of a folder of a data set's domain, or one below it, that of the domain's training pictures."""
    for place in (folder, *folder.parents):
        if place.name in ("trainA", "trainB", "testA", "testB", "truthA", "truthB"):
            train = place.with_name(f"train{place.name[-1]}")
            if train.is_dir():
                return train
    return None
