"""Data sets by name into dataset/NAME, complete or not at all.

    python dataset/get.py horse2zebra                 fetch (a second call resumes), check, unpack
    python dataset/get.py world                       make pictures with true answers from a package
    python dataset/get.py --list                      list the names

Those of the papers come from their projects' own pages; an archive saved by hand as dataset/NAME.zip (or .tar.gz) is
used instead of a download. Those with true answers are made by images/made.py.
"""

import argparse
import re
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from images import made, scenes
from images.archives import MAX_GROWTH, damage, members
from images.download import download, drop, sha256_of, writing_below
from images.locks import lock
from options import Parser, near, telling
from utils import RunError, UserError, own_file, shown

DATASETS = Path(__file__).resolve().parents[1] / "dataset"
FOLDERS = ("trainA", "trainB", "testA", "testB")
PICTURES = {".jpg", ".jpeg", ".png"}
ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar")



class Source(NamedTuple):
    """Where a data set comes from, and what it must hold."""

    page: str                          # for people
    counts: tuple[int, int, int, int]  # pictures in FOLDERS, as the papers say
    urls: tuple[str, ...] = ()         # of its archive, tried in this order; none: for registered users only
    size: int | None = None            # of the archive, in bytes
    sha256: str | None = None          # of the archive
    folders: tuple[str, ...] = FOLDERS  # the names of FOLDERS in the archive, at any depth


def _cyclegan(file, counts, size, sha256):
    """Size and hash as TensorFlow Datasets publishes them for the same archive (url_checksums/cycle_gan.txt)."""
    page = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/"
    return Source(page, counts, (f"{page}{file}.zip",), size, sha256)

_YOSEMITE = _cyclegan("summer2winter_yosemite", (1231, 962, 309, 238), 132640856,
                      "167fe1726807a9d22bd106b4a6c0bd7953b688af924ac1bf967439c4961e49f9")

SOURCES = {
    "horse2zebra": _cyclegan("horse2zebra", (1067, 1334, 120, 140), 116867962,
                             "a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1"),
    "summer2winter": _YOSEMITE,  # as configs/ call it
    "summer2winter_yosemite": _YOSEMITE,
    "vangogh2photo": _cyclegan("vangogh2photo", (400, 6287, 400, 751), 306590349,
                               "362c3473e70be0944bda08d49d660eafdc2854df55d697835b8186d1d79caaff"),
    "monet2photo": _cyclegan("monet2photo", (1072, 6287, 121, 751), 305231073,
                             "88f91b00fc228f97c9411fbf1880ec1d119c98f1722e4cfcfaa2fb35fac05b04"),
    "apple2orange": _cyclegan("apple2orange", (995, 1019, 266, 248), 78456409,
                              "845a191e9af8926408ea597001cd03a452e3300a1f44a79fe329b3d59f6e3eb8"),
    "facades": Source(
        "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/", (400, 400, 106, 106),
        ("http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/facades.zip",),
    ),
    "cat2dog": Source(  # DRIT's server has been down at times; the project's history holds the same pictures
        "https://github.com/HsinYingLee/DRIT#datasets", (771, 1264, 100, 100),
        ("http://vllab.ucmerced.edu/hylee/DRIT/datasets/cat2dog.zip",
         "http://vllab.ucmerced.edu/hylee/DRIT/datasets/cat2dog",
         "https://codeload.github.com/HsinYingLee/DRIT/tar.gz/2e9738c8fbc50353b391c8b89b516d2734ecb792"),
    ),
    "afhq_cat2dog": Source(
        "https://github.com/clovaai/stargan-v2#animal-faces-hq-dataset-afhq", (5153, 4739, 500, 500),
        ("https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1",),
        folders=("train/cat", "train/dog", "val/cat", "val/dog"),
    ),
    "single_image_monet_etretat": Source(
        "https://github.com/taesungp/contrastive-unpaired-translation", (1, 1, 0, 0),
        ("https://codeload.github.com/taesungp/contrastive-unpaired-translation/tar.gz/refs/heads/master",),
        folders=tuple(f"single_image_monet_etretat/{folder}" for folder in FOLDERS),
    ),
    "cityscapes": Source("https://www.cityscapes-dataset.com", (2975, 2975, 500, 500)),  # photographs, labels
    "gta2cityscapes": Source("https://download.visinf.tu-darmstadt.de/data/from_games/", (24466, 2975, 500, 500)),
}


def hint(name: str, folder: str | Path = "dataset") -> str:
    """The end of "no data set NAME; ...": the command that fetches it into `folder`; empty for unknown names."""
    maker, size = re.fullmatch(r"(?s)(.*?)(\d*)", name).groups()
    if name in SOURCES or name in made.MAKERS:
        words = [name, *(["--from", "FOLDER"] if name in scenes.SETS else [])]
    elif maker in made.MAKERS:
        words = [maker, "--size", size]
    else:
        return ""
    if Path(folder).resolve() != default_folder().resolve():
        words += ["--dataset_dir", str(folder)]
    does = "makes" if maker in made.MAKERS or name in scenes.SETS else "fetches"
    return f"`python {own_file('dataset/get.py')} {shlex.join(words)}` {does} it"


def default_folder() -> Path:
    """The folder of the data sets, as main.py's: `dataset` in the current folder, which may be that one itself."""
    return Path() if Path.cwd() == DATASETS else Path("dataset")


def root_of(args, *folders: str) -> Path:
    """The folder of the data set that --dataset names.  UserError: there is none with these `folders`."""
    root = Path(args.dataset_dir) / args.dataset
    if not root.is_dir():
        make = f"make it, with {', '.join(folders)} in it, or check --dataset{near(root)}"
        remedy = hint(args.dataset, args.dataset_dir) or make
        raise UserError(f"no data set {shown(root)}; {remedy}")
    return root


def get(name: str, root: Path, source: Source, sha256: str | None = None) -> str:
    """Make root/name from an archive of that name in root, or from a download; return one line about it.

    sha256: the archive's hash, instead of the size and hash we know.
    UserError: the download fails, the archive is wrong, or root/name holds something else; nothing is left
    half-written. RunError: no space.
    """
    if there := _there(root / name, source):
        return there
    if sha256:
        source = source._replace(size=None, sha256=sha256.lower())
    with writing_below(root):
        root.mkdir(parents=True, exist_ok=True)
    with _alone(name, root):
        return _there(root / name, source) or _make(name, root, source)  # another call may just have made it


def _there(target, source) -> str:
    """A line that the data set is there; "": it is not.  UserError: something else is."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return ""
    wrong = _miscount(target, source)
    if wrong:
        raise UserError(f"{shown(target)} exists and {wrong}: move it away, then run this again")
    return f"{shown(target)} is there and complete"


@contextmanager
def _alone(name, root):
    """UserError: another call makes this data set."""
    path = root / f".{name}.lock"
    with writing_below(root):
        file = open(path, "a+")  # noqa: SIM115
    with file:
        if lock(file, path) is False:
            raise UserError(f"another call is fetching {name} into {shown(root)}: wait for it")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _make(name, root, source):
    """Fetch and unpack the data set.  Returns and raises as get."""
    target, by_hand = root / name, _by_hand(name, root, source)
    archive = next((path for ending in ENDINGS if (path := root / (name + ending)).is_file()), None)
    digests = []

    def unpack(file: Path) -> str | None:
        """Check and unpack; what is wrong with the file, so that the next address is tried."""
        try:
            with telling(f"checking and unpacking {shown(archive or name)}"):
                digests.append(_check(file, source))
                with writing_below(root):
                    _unpack(file, target, source)
        except RunError:
            raise  # the file is good
        except UserError as error:
            return str(error)

    if archive:
        if fault := unpack(archive):
            raise UserError(fault)
    elif source.urls:
        fetched = root / f".{name}.part"
        download(name, source.urls, fetched, by_hand, source.size, room=2, check=unpack)  # the archive and its pictures
        drop(fetched)
    else:
        raise UserError(f"{name} is handed out to registered users only: {by_hand}")
    pictures = ", ".join(f"{folder} {count}" for folder, count in zip(FOLDERS, source.counts, strict=True) if count)
    known = "" if source.sha256 else f"; SHA-256 {digests[-1]}: --sha256 checks it the next time"
    return f"{shown(target)}: {pictures} pictures{known}"


def make_scenes(name: str, root: Path, folder: Path, size: int | None) -> str:
    """Make root/name from the official archives in a folder.  Returns and raises as get."""
    source = SOURCES[name]
    if there := _there(root / name, source):
        return there
    with writing_below(root):
        root.mkdir(parents=True, exist_ok=True)
    with _alone(name, root):
        there = _there(root / name, source)  # another call may just have made it
        return there or scenes.make(name, root / name, folder, size, lambda made: _miscount(made, source))


def _by_hand(name, root, source):
    folders = ", ".join(folder for folder, count in zip(FOLDERS, source.counts, strict=True) if count)
    place = shown(root / name)
    archive = f"save its archive as {place}.zip (or .tar.gz) and run this again, or " if source.urls else ""
    archive += "give the folder of its archives by --from FOLDER, or " if name in scenes.SETS else ""
    return f"see {source.page}, then {archive}put the pictures into {folders} of {place}"


def _miscount(folder, source):
    """The folder with a wrong number of pictures, as text; "" if there is none."""
    for name, wanted in zip(FOLDERS, source.counts, strict=True):
        found = sum(path.suffix.lower() in PICTURES for path in (folder / name).rglob("*"))
        if found != wanted:
            return f"has {found} pictures in {name} where {wanted} belong"
    return ""


def _check(archive, source):
    """The SHA-256 of the archive.  UserError: its size or hash is wrong."""
    size = archive.stat().st_size
    if size != (source.size or size):
        raise UserError(f"{shown(archive)} has {size} bytes, the archive we know {source.size}: fetch it again, "
                        f"or accept this one with --sha256")
    digest = sha256_of(archive)
    if digest != (source.sha256 or digest):
        raise UserError(f"the archive of {source.page} has SHA-256 {digest}, not {source.sha256}: it was changed "
                        f"there or on the way; if you trust it, use --sha256 {digest}")
    return digest


def _unpack(archive, target, source):
    """Unpack the pictures of the four folders into `target`, which appears when it is complete."""
    beside = target.with_name(f".{target.name}.unpacked")
    shutil.rmtree(beside, ignore_errors=True)  # of a call that was killed
    beside.mkdir()
    try:
        room = MAX_GROWTH * archive.stat().st_size + (1 << 20)
        with damage(source.page):
            for path, size, opened in members(archive):
                room -= size
                if room < 0:
                    raise UserError(f"the archive of {source.page} grows more than {MAX_GROWTH}-fold when "
                                    f"unpacked, which pictures do not: it is not the right one")
                place = _place(path, source.folders)
                if place:
                    if (beside / place).exists():
                        raise ValueError(f"it holds {shown(place)} twice")
                    (beside / place).parent.mkdir(exist_ok=True)
                    with opened() as data, open(beside / place, "xb") as file:
                        shutil.copyfileobj(data, file, 1 << 20)
        wrong = _miscount(beside, source)
        if wrong:
            raise UserError(f"the archive of {source.page} {wrong}: it is not the one of the papers")
        beside.rename(target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _place(path, folders):
    """The destination FOLDER/NAME of a file in the archive, or None."""
    if path.suffix.lower() not in PICTURES or path.name.startswith("."):
        return None
    for ours, theirs in zip(FOLDERS, folders, strict=True):
        parts = PurePosixPath(theirs).parts
        if path.parts[:-1][-len(parts):] == parts and "__MACOSX" not in path.parts:
            return f"{ours}/{path.name}"
    return None


def _hash(text):
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256: 64 hexadecimal digits")
    return text


def main(argv: list[str] | None = None):
    parser = Parser(prog="get.py", description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of --list")
    parser.add_argument("--list", action="store_true", help="list names, numbers of pictures and sources")
    parser.add_argument("--dataset_dir", default=default_folder(), type=Path, metavar="DIR",
                        help="where the data sets are (default: dataset, as for main.py)")
    parser.add_argument("--sha256", type=_hash, metavar="HASH", help="the hash that the archive must have")
    parser.add_argument("--size", type=int, metavar="N",
                        help="side of the test pictures in pixels, of world and emoji (default: 64); of another size "
                             "than 64, the data set is called NAME followed by it. Of cityscapes: side of all pictures "
                             "(default: 256); of gta2cityscapes: their shorter side (default: 512)")
    parser.add_argument("--from", type=Path, metavar="FOLDER", dest="folder",
                        help=f"folder of the official archives, or of what was in them, of {' and '.join(scenes.SETS)}")
    args = parser.parse_args(argv)
    if args.list:
        for name, source in SOURCES.items():
            print(f"{name:28}{'  '.join(f'{count:5}' for count in source.counts)}  {source.page}")
        for name, maker in made.MAKERS.items():
            print(f"{name:28}{'  '.join(f'{count:5}' for count in maker.counts)}  made from "
                  f"{' and '.join(package.name for package in maker.module.PACKAGES)}")
    elif args.name in made.MAKERS:
        if args.sha256:
            parser.error(f"--sha256 is of no use for {args.name}: the hashes of its packages are known")
        print(made.get(args.name, args.dataset_dir, made.SIZE if args.size is None else args.size))
    elif args.name in scenes.SETS and args.folder:
        if args.sha256:
            parser.error(f"--sha256 is of no use for {args.name}: its pictures are counted")
        print(make_scenes(args.name, args.dataset_dir, args.folder, args.size))
    elif args.size is not None or args.folder:
        names = [*made.MAKERS, *scenes.SETS] if args.size is not None else scenes.SETS
        parser.error(f"{'--from' if args.folder else '--size'} is for {' and '.join(names)} only"
                     f"{'; give --from, too' * (args.name in scenes.SETS)}")
    elif args.name in SOURCES:
        print(get(args.name, args.dataset_dir, SOURCES[args.name], args.sha256))
    else:
        parser.error(f"{'no data set ' + repr(args.name) if args.name else 'name a data set'}: "
                     f"{', '.join([*SOURCES, *made.MAKERS])}")
