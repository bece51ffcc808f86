"""Street scenes of the papers, made from official archives that only registered users get: "cityscapes" and
"gta2cityscapes".

    python dataset/get.py cityscapes --from FOLDER        FOLDER: the archives, or what was in them

    cityscapes       trainA, testA   photographs, SIZE x SIZE        trainB, testB   label maps in their colours
                     labels          classes 0..18 of the test pictures, 255 for the rest, for fid_kid.py --labels
    gta2cityscapes   trainA, testA   frames of GTA5, the shorter side SIZE; the last 500 are the test pictures
                     trainB, testB   Cityscapes' photographs, the same
    credits.txt      sources and licences

Test pictures of Cityscapes are those of its folder val.  A photograph and its label map have the same name.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from images.archives import damage, members
from images.download import writing_below
from utils import UserError, shown

LARGEST = 64 << 20  # bytes of a picture
GTA_TEST = 500  # frames
GTA_FRAMES = 24966
# label numbers of Cityscapes: classes 0..18 of its benchmark
CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

CITYSCAPES = """Cityscapes (Cordts et al., CVPR 2016), https://www.cityscapes-dataset.com: for non-commercial use such
as research and teaching; it may not be passed on, nor may what is made of it."""
GTA = """GTA5 (Richter et al., "Playing for Data", ECCV 2016), https://download.visinf.tu-darmstadt.de/data/from_games/:
for research and teaching, not for commercial use."""


class Part(NamedTuple):
    """Pictures of one kind."""

    archives: str  # a glob
    named: str  # the same for people
    folder: str  # what the archives hold
    page: str
    member: str  # regular expression of a path in the archives, from `folder` on
    place: Callable[[re.Match], str]  # where a picture goes in the data set, without suffix
    kind: str = "photograph"  # or "colours", "numbers"


def of_split(a_or_b: str) -> Callable[[re.Match], str]:
    return lambda found: f"{'train' if found[1] == 'train' else 'test'}{a_or_b}/{found[2]}"


def of_frame(found: re.Match) -> str:
    return f"{'test' if int(found[1]) > GTA_FRAMES - GTA_TEST else 'train'}A/{found[1]}"


DOWNLOADS = "https://www.cityscapes-dataset.com/downloads/"
FINE = "gtFine_trainvaltest.zip", "gtFine_trainvaltest.zip", "gtFine", DOWNLOADS


def photographs(domain: str) -> Part:
    pattern = r"leftImg8bit/(train|val)/[^/]+/([^/]+)_leftImg8bit\.png"
    archive = "leftImg8bit_trainvaltest.zip"
    return Part(archive, archive, "leftImg8bit", DOWNLOADS, pattern, of_split(domain))


class Set(NamedTuple):
    """A data set: its parts, the default of --size, the suffix of photographs, and what it owes to whom."""

    parts: tuple[Part, ...]
    size: int
    square: bool
    suffix: str
    credits: str


SETS = {
    "cityscapes": Set(
        (
            photographs("A"),
            Part(*FINE, r"gtFine/(train|val)/[^/]+/([^/]+)_gtFine_color\.png", of_split("B"), "colours"),
            Part(*FINE, r"gtFine/(val)/[^/]+/([^/]+)_gtFine_labelIds\.png", lambda m: f"labels/{m[2]}", "numbers"),
        ), 256, True, ".png", CITYSCAPES,
    ),
    "gta2cityscapes": Set(
        (
            Part("[0-9][0-9]_images.zip", "01_images.zip to 10_images.zip", "images",
                 "https://download.visinf.tu-darmstadt.de/data/from_games/", r"images/(\d{5})\.png", of_frame),
            photographs("B"),
        ), 512, False, ".jpg", f"{GTA}\n{CITYSCAPES}",
    ),
}  # fmt: skip


def make(name: str, target: Path, folder: Path, size: int | None, wrong: Callable[[Path], str]) -> str:
    """Make the data set `target`; return one line about it.

    folder: of the archives.  wrong: a complaint about the number of pictures in a folder, or "".
    UserError: archives are missing or damaged, or hold other numbers of pictures; nothing is left half-written.
    """
    chosen = SETS[name]
    size = chosen.size if size is None else size
    if not 8 <= size <= 2048:
        raise UserError(f"--size {size}: {name} is made with 8 to 2048 pixels")
    sources = [(part, places_of(part, folder)) for part in chosen.parts]  # before anything is made
    beside = target.with_name(f".{target.name}.unpacked")
    with writing_below(target.parent):
        shutil.rmtree(beside, ignore_errors=True)  # of a call that was killed
        beside.mkdir(parents=True)
        try:
            for part, places in sources:
                for place in tqdm(places, desc=f"{part.folder}: {part.kind}", disable=None):
                    add(chosen, part, place, beside, size)
            if complaint := wrong(beside):
                names = " and ".join(dict.fromkeys(part.named for part in chosen.parts))
                raise UserError(f"what {shown(folder)} holds {complaint}: put all of {names} there")
            (beside / "credits.txt").write_text(f"{chosen.credits}\n", encoding="utf-8")
            beside.rename(target)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    counts = ", ".join(f"{d.name} {len([*d.iterdir()])}" for d in sorted(target.iterdir()) if d.is_dir())
    return f"{shown(target)}: {counts} pictures. Licences: {' '.join(chosen.credits.split())}"


def places_of(part: Part, folder: Path) -> list[Path]:
    """The unpacked folder of a part, or its archives.  UserError: there is neither."""
    if not folder.is_dir():
        raise UserError(f"--from {shown(folder)} is no folder: name the one that holds {part.named}")
    unpacked = folder / part.folder
    found = [unpacked] if unpacked.is_dir() else sorted(folder.glob(part.archives))
    if not found:
        raise UserError(f"{shown(folder)} holds neither {part.named} nor the folder {part.folder}: "
                        f"download it from {part.page} and put it there")  # fmt: skip
    return found


def add(chosen: Set, part: Part, place: Path, beside: Path, size: int):
    """Add the pictures of a part that an archive, or an unpacked folder, holds."""
    from images.encode import save_picture  # here: it imports torch, which other data sets do not need

    with tempfile.TemporaryDirectory(dir=beside, prefix=".member-") as room:
        for path, opened in pictures_in(place):
            found = re.search(rf"(?:^|/){part.member}$", path)
            if not found:
                continue
            to = beside / (part.place(found) + (chosen.suffix if part.kind == "photograph" else ".png"))
            to.parent.mkdir(exist_ok=True)
            if to.exists():
                raise UserError(f"{shown(place)} holds {shown(path)}, which was there before: keep one of them")
            file = opened(Path(room) / "picture.png")
            with naming(place, path):
                save_picture(prepared(file, part.kind, size, chosen.square), to)


@contextmanager
def naming(place: Path, path: str):
    """Name the archive where a picture in it cannot be read."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{shown(place)}: {shown(path)} cannot be read ({error}): fetch it again") from None


def pictures_in(place: Path) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """(path in the archive, function that puts the file somewhere and returns where) of an archive or a folder."""
    if place.is_dir():
        for path in sorted(place.rglob("*.png")):
            yield (Path(place.name) / path.relative_to(place)).as_posix(), lambda _, path=path: path
        return
    with damage(shown(place)):
        for path, bytes_, opened in members(place):
            def copied(to, path=path, bytes_=bytes_, opened=opened):
                if bytes_ > LARGEST:
                    raise ValueError(f"{shown(path)} is too large for a picture")
                with opened() as data, open(to, "wb") as file:
                    shutil.copyfileobj(data, file, 1 << 20)
                return to

            yield path.as_posix(), copied


def prepared(file: Path, kind: str, size: int, square: bool) -> np.ndarray:
    """Pixels (h,w,3) of a photograph or a coloured label map, or (h,w,1) of classes, at the size of the data set."""
    from images.decode import read_image, read_stored

    picture = read_stored(file) if kind == "numbers" else read_image(file)
    w, h = picture.size
    shorter = min(w, h)
    to = (size, size) if square else (round(w * size / shorter), round(h * size / shorter))
    # a mean of two labels is another label
    way = Image.Resampling.BICUBIC if kind == "photograph" else Image.Resampling.NEAREST
    pixels = np.array(picture.resize(to, way))
    return classes(pixels)[..., None] if kind == "numbers" else pixels


def classes(numbers: np.ndarray) -> np.ndarray:
    """Label numbers of Cityscapes as classes 0..18, 255 for those that the benchmark ignores."""
    if numbers.ndim != 2:
        raise UserError(f"a map of label numbers has one channel, not {numbers.shape[2:]}")
    table = np.full(256, 255, np.uint8)
    table[list(CLASSES)] = np.arange(len(CLASSES))
    return table[numbers.astype(np.uint8)]
