"""What results hold beside the translation: as many channels as the networks, and metadata on request."""

import numpy as np
import pytest
import runs
from pictures import save, scene
from PIL import ExifTags, Image, UnidentifiedImageError
from runs import latest, trained

from images import encode_deep
from images.encode import kept_metadata
from nicegan import Translator

TAGS = ExifTags.Base


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    folder = runs.pictures(tmp_path_factory.mktemp("grey"))
    trained(folder, "--iteration 1 --img_ch 1")
    return folder


def test_one_channel_gives_files_of_one_channel(grey, tmp_path):
    for name in ("a.png", "b.jpg", "c.tif", "d.bmp"):
        save(tmp_path / "in" / name, scene())
    clear = Image.fromarray(scene())
    clear.putalpha(100)
    save(tmp_path / "in" / "e.png", clear)
    trained(grey, f"--phase test --direction AtoB --input {tmp_path / 'in'} --output {tmp_path / 'out'}")
    modes = {path.name: Image.open(path).mode for path in (tmp_path / "out").iterdir()}
    assert modes == {"a.png": "L", "b.jpg": "L", "c.tif": "L", "d.bmp": "L", "e.png": "LA"}
    drawn = Translator(latest(grey), device="cpu")(Image.fromarray(scene()), "AtoB")
    assert drawn.mode == "L" and np.array_equal(drawn, Image.open(tmp_path / "out" / "a.png"))
    trained(grey, "--phase test")
    assert Image.open(grey / "results" / "tiny" / "fakeB" / "0.png").mode == "L"


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_date_rights_and_resolution_are_kept_on_request_and_no_place(grey, tmp_path, ending):
    exif = Image.Exif()
    exif[TAGS.Copyright], exif[TAGS.DateTime], exif[TAGS.Model] = "A. Person", "2020:01:02 03:04:05", "a camera"
    exif.get_ifd(ExifTags.IFD.Exif)[TAGS.DateTimeOriginal] = "2020:01:01 00:00:00"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    exif[TAGS.Orientation] = 6
    more = {} if ending == "webp" else {"dpi": (300, 300)}
    path = save(tmp_path / f"x.{ending}", scene(), exif=exif, **more)
    if ending == "tif":  # PIL writes no block of dates there
        path.write_bytes(encode_deep.encoded(scene(), ".tif", {"exif": exif, **more}))
    for keep in ("true", "false"):
        places = f"--input {path} --output {tmp_path / keep}/"
        trained(grey, f"--phase test --direction AtoB {places} --keep_metadata {keep}")
    with Image.open(tmp_path / "true" / path.name) as image:
        found = image.getexif()
        assert found[TAGS.Copyright] == "A. Person" and found[TAGS.DateTime] == "2020:01:02 03:04:05"
        assert found.get_ifd(ExifTags.IFD.Exif)[TAGS.DateTimeOriginal] == "2020:01:01 00:00:00"
        assert not found.get_ifd(ExifTags.IFD.GPSInfo) and TAGS.Model not in found and TAGS.Orientation not in found
        assert ending == "webp" or round(float(image.info["dpi"][0])) == 300
        assert image.size == (32, 48)
    assert TAGS.Copyright not in Image.open(tmp_path / "false" / path.name).getexif()


def test_rights_of_a_tiff_of_many_bands_are_kept(tmp_path):
    exif, path = Image.Exif(), tmp_path / "x.tif"
    exif[TAGS.DateTime], exif[TAGS.Copyright] = "2020:01:02 03:04:05", "A. Person"
    path.write_bytes(encode_deep.encoded(np.zeros((4, 5, 5), np.uint16), ".tif", {"exif": exif}))
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)
    found = kept_metadata(path)["exif"]
    assert found[TAGS.DateTime] == "2020:01:02 03:04:05" and found[TAGS.Copyright] == "A. Person"
