"""dataset/get.py cityscapes and gta2cityscapes, from small archives like the official ones."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import data_sets, scenes
from images.data_sets import main
from utils import UserError

COUNTS = {"cityscapes": (2, 2, 1, 1), "gta2cityscapes": (2, 2, 1, 1)}
ROAD, SKY = (128, 64, 128), (70, 130, 180)  # in the colours of Cityscapes; label numbers 7 and 23, classes 0 and 10
SCENES = (("train", "aachen", "aachen_000000_000019"), ("train", "bonn", "bonn_000001_000019"),
          ("val", "lindau", "lindau_000000_000019"))  # fmt: skip


def png(pixels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(data, "PNG")
    return data.getvalue()


def halves(top, bottom, h=32, w=64) -> np.ndarray:
    pixels = np.empty((h, w, *np.shape(top)), np.uint8)
    pixels[: h // 2], pixels[h // 2 :] = top, bottom
    return pixels


def official() -> dict[str, dict[str, bytes]]:
    """{archive: {path: content}}: three scenes, four of whose files are none of ours; three frames of GTA5."""
    photos, fine = {}, {"README": b"", "license.txt": b""}
    for i, (split, city, name) in enumerate(SCENES):
        photos[f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"] = png(halves((9 * i, 0, 255), (50, 60, 70)))
        stem = f"gtFine/{split}/{city}/{name}_gtFine"
        fine[f"{stem}_color.png"] = png(halves((*SKY, 255), (*ROAD, 255)))
        fine[f"{stem}_labelIds.png"] = png(halves(23, 7))
        fine[f"{stem}_instanceIds.png"] = fine[f"{stem}_labelIds.png"]
        fine[f"{stem}_polygons.json"] = b"{}"
    frames = {f"images/{n:05}.png": png(halves((n % 256, 0, 0), (0, 9, 9), 21, 38)) for n in (1, 24466, 24467)}
    return {"leftImg8bit_trainvaltest.zip": photos, "gtFine_trainvaltest.zip": fine, "01_images.zip": frames}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, counts in COUNTS.items():
        monkeypatch.setitem(data_sets.SOURCES, name, data_sets.SOURCES[name]._replace(counts=counts))
    (tmp_path / "official").mkdir()
    for archive, content in official().items():
        with zipfile.ZipFile(tmp_path / "official" / archive, "w") as file:
            for path, data in content.items():
                file.writestr(path, data)
    return tmp_path / "official"


def get(folder, name="cityscapes", *more) -> Path:
    root = folder.parent / "dataset"
    main([name, "--from", str(folder), "--dataset_dir", str(root), *more])
    return root / name


def files(root) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_cityscapes(folder, capsys):
    root = get(folder, "cityscapes", "--size", "16")
    names = [name for *_, name in SCENES]
    places = [*("train" for _ in "12"), "test"]
    expected = [f"{place}{d}/{name}.png" for d in "AB" for place, name in zip(places, names, strict=True)]
    assert files(root) == sorted([*expected, f"labels/{names[2]}.png", "credits.txt"])
    said = capsys.readouterr().out
    assert "trainA 2" in said and "labels 1" in said and "non-commercial" in said and said.count("\n") == 1
    labels = np.array(Image.open(root / "testB" / f"{names[2]}.png"))
    assert labels.shape == (16, 16, 3)  # colours are those of labels, not means of them
    assert {tuple(c) for c in labels.reshape(-1, 3)} == {SKY, ROAD}
    assert np.array(Image.open(root / "labels" / f"{names[2]}.png")).tolist() == halves(10, 0, 16, 16).tolist()
    photo = np.array(Image.open(root / "trainA" / f"{names[1]}.png"))
    assert photo.shape == (16, 16, 3) and (photo[0] == (9, 0, 255)).all() and (photo[-1] == (50, 60, 70)).all()
    get(folder)
    assert "is there and complete" in capsys.readouterr().out


def test_unpacked_archives_give_the_same(folder, capsys):
    packed = get(folder)
    content = {name: (packed / name).read_bytes() for name in files(packed)}
    packed.rename(packed.with_name("packed"))
    for archive in [*folder.glob("*.zip")]:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        archive.unlink()
    unpacked = get(folder)
    assert {name: (unpacked / name).read_bytes() for name in files(unpacked)} == content


def test_gta_to_cityscapes(folder, capsys):
    root = get(folder, "gta2cityscapes", "--size", "12")
    of_cityscapes = [f"{'train' if split == 'train' else 'test'}B/{name}.jpg" for split, _, name in SCENES]
    frames = ["testA/24467.jpg", "trainA/00001.jpg", "trainA/24466.jpg"]
    assert files(root) == sorted(["credits.txt", *frames, *of_cityscapes])
    assert Image.open(root / "trainA" / "00001.jpg").size == (22, 12)  # the shorter side; proportions are kept
    assert Image.open(root / "testB" / f"{SCENES[2][2]}.jpg").size == (24, 12)
    text = (root / "credits.txt").read_text()
    assert "Playing for Data" in text and "Cityscapes" in text


def complaint(folder, *words, name="cityscapes"):
    """The command fails with these words and leaves nothing behind."""
    with pytest.raises(UserError) as error:
        get(folder, name)
    said = str(error.value)
    assert "\n" not in said and all(str(word) in said for word in words), said
    root = folder.parent / "dataset"
    assert not root.exists() or not [*root.iterdir()]


def test_what_is_missing_is_named_before_anything_is_made(folder):
    (folder / "gtFine_trainvaltest.zip").rename(folder / "elsewhere")
    complaint(folder, "gtFine_trainvaltest.zip", "https://www.cityscapes-dataset.com/downloads/", folder)
    (folder / "01_images.zip").unlink()
    complaint(folder, "01_images.zip to 10_images.zip", "from_games", name="gta2cityscapes")
    complaint(folder / "nowhere", "--from", "is no folder")


def test_other_counts_are_refused(folder, monkeypatch):
    source = data_sets.SOURCES["cityscapes"]
    monkeypatch.setitem(data_sets.SOURCES, "cityscapes", source._replace(counts=(3, 3, 1, 1)))
    complaint(folder, "2 pictures in trainA where 3 belong", "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip")


def test_damaged_archives_are_one_line(folder):
    path = folder / "leftImg8bit_trainvaltest.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    complaint(folder, path, "damaged")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png", b"no picture")
    complaint(folder, path, "aachen_000000_000019_leftImg8bit.png", "fetch it again")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png", b"")
    complaint(folder, "do not trust it")


def test_the_classes_are_those_of_the_benchmark():
    """Nineteen classes in the order of their label numbers; the others do not count."""
    assert scenes.classes(np.array([[7, 33, 0, 6, 8, 200]])).tolist() == [[0, 18, 255, 255, 1, 255]]


def test_the_hint_asks_for_the_archives():
    assert data_sets.hint("cityscapes").endswith("get.py cityscapes --from FOLDER` makes it")


def test_options_out_of_place(folder, capsys):
    for words in (["horse2zebra", "--from", "x"], ["cityscapes", "--size", "9"], ["horse2zebra", "--size", "9"],
                  ["cityscapes", "--from", str(folder), "--sha256", "0" * 64]):  # fmt: skip
        with pytest.raises(SystemExit) as leaving:
            main(words)
        out, error = capsys.readouterr()
        assert leaving.value.code == 2 and not out and error.count("\n") == 1
