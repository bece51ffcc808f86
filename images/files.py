"""Picture files: find them, check them, name the results."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from images.data_sets import hint
from images.decode import EXTENSIONS, READ_ONLY, is_picture, read_image, reader_of
from utils import UserError, shown


def list_images(folder):
    """All pictures below `folder`, sorted by their path relative to it: list[Path], never empty.

    A file is a picture if its name or its first bytes say so. Other files are counted and named in one line
    on stderr; hidden files are ignored. Links are followed, and each real directory is visited once, so loops
    of links end. UserError: no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{shown(folder)} {what}: make it a folder of pictures")

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
        for path in (Path(directory, name) for name in names if not name.startswith(".")):
            # A dead link stays in the list, so that reading it fails. Pipes and devices are left out.
            if path.is_file() or path.is_symlink():
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


def check_images(paths, skip_bad=False, workers=None):
    """Decode every picture once, on `workers` threads, before a long training; return the readable ones.

    list[Path], never empty. UserError: the first unreadable one; with `skip_bad` these are left out, counted
    and named in one line on stderr, and only an empty list is an error.
    """

    def problem(path):
        try:
            read_image(path)
        except UserError as error:
            return error

    good, bad = [], []
    pool = ThreadPoolExecutor(workers)
    try:
        problems = tqdm(pool.map(problem, paths), "checking pictures", len(paths), leave=False, delay=2)
        for path, error in zip(paths, problems, strict=True):
            if error and not skip_bad:
                raise UserError(f"{error}, or use --skip_bad_images true") from error
            (bad if error else good).append(path)
    finally:
        pool.shutdown(cancel_futures=True)

    if bad:
        where = f"of {len(paths)} pictures in {shown(os.path.commonpath([path.parent for path in paths]))}"
        if not good:
            raise UserError(f"cannot read a single one {where} ({_some(bad)}): replace them")
        print(f"left out {len(bad)} {where} that cannot be read: {_some(bad)}", file=sys.stderr)
    return good


def output_paths(paths, root):
    """The relative paths of the results for inputs below `root`: those of the inputs, list[Path].

    Names whose format we do not write (GIF, AVIF, ..., or none) get .png added, which one line on stderr says.
    So no two inputs share a result, and no result leaves its folder. UserError: a path is not below `root`.
    """
    outputs, renamed = [], []
    for path in map(Path, paths):
        if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
            raise UserError(f"{shown(path)} is not below {shown(root)}: give paths inside that folder")
        output = path
        while output.suffix.lower() not in EXTENSIONS or (output != path and os.path.lexists(output)):
            output = output.with_name(f"{output.name}.png")
        if output != path:
            renamed.append(output)
        outputs.append(output.relative_to(root))
    if renamed:
        print(f"results of {len(renamed)} pictures are PNG files, as their own formats are not written: "
              f"{_some(renamed)}", file=sys.stderr)
    return outputs


def data_set_pictures(args, *folders: str) -> dict[str, list[Path]]:
    """The checked pictures of these folders of the data set.  UserError: none, or unreadable ones."""
    root = Path(args.dataset_dir) / args.dataset
    if not root.is_dir():
        fetch = hint(args.dataset)
        remedy = fetch or f"make it, with {', '.join(folders)} in it, or check --dataset"
        raise UserError(f"no data set {shown(root)}; {remedy}")
    return {
        name: check_images(list_images(root / name), skip_bad=args.skip_bad_images) for name in folders
    }
