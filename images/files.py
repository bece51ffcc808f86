"""Picture files: find them, check them, name the results."""

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from images import maker
from images.data_sets import root_of
from images.decode import EXTENSIONS, READ_ONLY, Contents, contents, is_picture, reader_of
from images.encode_deep import ENDINGS, levels_of_results
from images.scales import measured, say, say_beyond, scale_of, training_folder
from options import need_folder
from utils import RunError, UserError, process_rank, shown


def list_images(folder):
    """All pictures below `folder`, sorted by their path relative to it: list[Path], never empty.

    A file is a picture if its name or its first bytes say so. Other files are counted and named in one line
    on stderr; hidden files and made.json are ignored. Links are followed, and each real directory is visited
    once, so loops of links end. UserError: no such folder, or no picture in it.
    """
    folder = Path(folder)
    need_folder(folder)

    def fail(error):
        raise UserError(f"cannot list {shown(error.filename)}: {error.strerror}; check its permissions")

    found, others, visited = [], [], set()
    for directory, subfolders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(directory)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for path in (Path(directory, name) for name in names if not name.startswith(".") and name != maker.NAME):
            # A dead link stays in the list, so that reading it fails. Pipes and devices, bare or linked, are left out.
            if path.is_file() or not path.exists():
                (found if is_picture(path) else others).append(path)
    if not found:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS.union(READ_ONLY)))
        raise UserError(f"no picture in {shown(folder)}: put some there ({kinds}){reader_of(others)}")
    if others:
        print(f"left out {len(others)} files in {shown(folder)} that are no pictures we can read: "
              f"{_some(others)}{reader_of(others)}", file=sys.stderr)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _some(paths):
    """The first few names, as text."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(shown(path.name) for path in sorted(paths)[:5]) + more


def check_images(paths, skip_bad=False, workers=None, scale=None, shortens=False):
    """Decode every picture once, on `workers` threads, before a long training; return the readable ones.

    list[Path], never empty. UserError: the first unreadable one; with `skip_bad` these are left out, counted
    and named in one line on stderr, and only an empty list is an error. Lines also say what of their files is
    left out, and, for a scale of deep pictures, whose values lie beyond it. shortens: the results have 8 bits a
    band, and a line counts the deep pictures.
    """
    found = _examined(paths, skip_bad, workers)
    if shortens:
        _say_shortened(found, _common(found))
    if scale is not None:
        say_beyond(found.values(), scale, _common(found))
    return list(found)


def _say_shortened(found: dict[Path, Contents], place):
    number = sum(each.depth is not None for each in found.values())
    if number and process_rank() == 0:
        print(f"{number} of the {len(found)} pictures in {shown(place)} have more than 8 bits a band; their results "
              "are written with 8: --deep true writes 16", file=sys.stderr)


def _common(paths) -> str:
    """The folder that all these pictures lie in."""
    return os.path.commonpath([path.parent for path in paths])


def _examined(paths, skip_bad, workers=None) -> dict[Path, Contents]:
    """The contents of the readable pictures.  Errors and lines as check_images."""
    def examine(path):
        try:
            return contents(path)
        except RunError:
            raise  # the file is sound
        except UserError as error:
            return error

    good, bad = {}, []
    pool = ThreadPoolExecutor(workers)
    try:
        found = tqdm(pool.map(examine, paths), "checking pictures", len(paths), leave=False, delay=2)
        for path, each in zip(paths, found, strict=True):
            if not isinstance(each, UserError):
                good[path] = each
            elif skip_bad:
                bad.append(path)
            else:
                raise UserError(f"{each}, or use --skip_bad_images true") from each
    finally:
        pool.shutdown(cancel_futures=True)

    if bad:
        where = f"of {len(paths)} pictures in {shown(_common(paths))}"
        if not good:
            raise UserError(f"cannot read a single one {where} ({_some(bad)}): replace them")
        print(f"left out {len(bad)} {where} that cannot be read: {_some(bad)}", file=sys.stderr)
    shrunk = [path for path, each in good.items() if each.shrunk]
    if shrunk and process_rank() == 0:
        print(f"{len(shrunk)} of the {len(paths)} pictures in {shown(_common(paths))} have more than --max_pixels and "
              f"are decoded at a fraction: {_some(shrunk)}", file=sys.stderr)
    partly = [path for path, each in good.items() if each.frames or each.bands]
    if partly and process_rank() == 0:
        frames, bands = (sum(getattr(good[path], kind) for path in partly) for kind in ("frames", "bands"))
        parts = [f"{frames} frames or pages after the first"] * (frames > 0) + [f"{bands} further bands"] * (bands > 0)
        print(f"of {len(partly)} of the {len(paths)} pictures in {shown(_common(paths))} a part is left out, in all "
              f"{' and '.join(parts)}: {_some(partly)}", file=sys.stderr)
    return good


def common_scale(*folders) -> dict:
    """The scale of deep pictures by which all these folders are read: that of their domain's training pictures.

    Folders of no data set follow the others; where there is none, or two domains, it is measured on all of them.
    Results of 16 bits of a domain without such pictures have the scale that --deep true gives them.
    """
    training = {found for folder in folders if (found := training_folder(Path(folder).absolute()))}
    places = training if len(training) == 1 else folders
    scale = measured(path for place in places for path in list_images(place))
    return {"16-bit": levels_of_results(scale)[0]} | scale if len(training) == 1 else scale


def output_paths(paths, root, png=False, deep=False):
    """The relative paths of the results for inputs below `root`: those of the inputs, list[Path].

    png: all get the suffix .png, or add it where another file of the folder differs in its suffix alone.
    deep: so do all names of formats that hold no 16 bits a band.
    Names whose format we do not write (GIF, AVIF, ..., or none) get .png added, which one line on stderr says.
    So no two inputs share a result, and no result leaves its folder. UserError: a path is not below `root`.
    """
    outputs, renamed = [], []
    for path in map(Path, paths):
        if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
            raise UserError(f"{shown(path)} is not below {shown(root)}: give paths inside that folder")
        output = path
        if (png and path.suffix.lower() != ".png") or (deep and path.suffix.lower() not in ENDINGS):
            alone = _stems(path.parent)[path.stem] == 1
            output = path.with_suffix(".png") if alone else path.with_name(f"{path.name}.png")
        while output.suffix.lower() not in EXTENSIONS or (output != path and os.path.lexists(output)):
            output = output.with_name(f"{output.name}.png")
        if output != path and not png:
            renamed.append(output)
        outputs.append(output.relative_to(root))
    if renamed:
        why = "hold no 16 bits a band" if deep else "are not written"
        print(f"results of {len(renamed)} pictures are PNG files, as their own formats {why}: {_some(renamed)}",
              file=sys.stderr)
    return outputs


@lru_cache(maxsize=8)
def _stems(folder):
    """How many files of a folder have a name, without its suffix: Counter."""
    return Counter(path.stem for path in folder.iterdir())


def data_set_pictures(args, *folders: str, scales=None, shortens=False) -> dict[str, list[Path]]:
    """The checked pictures of these folders of the data set.  UserError: none, or unreadable ones.

    scales: {"A": scale of the domain's deep pictures, ...} as far as they are known; those of the other folders of
    training pictures are added.  shortens: as for check_images.
    """
    root = root_of(args, *folders)
    pictures = {}
    for name in folders:
        found = _examined(list_images(root / name), args.skip_bad_images)
        if shortens:
            _say_shortened(found, root / name)
        if scales is not None:
            if name.startswith("train") and name[-1] not in scales:
                scales[name[-1]] = scale_of(found.values())
                say(scales[name[-1]], root / name)
            say_beyond(found.values(), scales.get(name[-1], {}), root / name)
        pictures[name] = list(found)
    return pictures
