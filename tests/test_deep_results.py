"""--deep true: inputs at their full depth, results of 16 bits a band in the scale of their domain."""

import numpy as np
import pytest
import runs
import torch
from pictures import save, scene, tiff
from PIL import ExifTags, Image
from runs import latest, trained

from images.decode import contents, read_full_depth, read_image, resize
from images.encode import encoded
from images.encode_deep import levels_of_results, to_uint16
from images.files import common_scale
from images.tiff import read, tags_of
from nicegan import Translator

SHADES = np.linspace(0, 1, 48 * 32).reshape(32, 48, 1) ** [1, 0.7, 1.5]  # (H,W,3), each number another


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_files_of_16_bits_hold_every_number(tmp_path, n):
    values = np.random.default_rng(n).integers(0, 65536, (33, 47, n), dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        path = tmp_path / name
        path.write_bytes(encoded(values, path.suffix))
        colours = values[..., :1] if n < 3 else values[..., :3]
        if name == "x.tif":
            with open(path, "rb") as file:
                found = read(file, tags_of(file))
            assert np.array_equal(found.values, colours)
            assert n in (1, 3) or np.array_equal(found.opacity, values[..., -1])
        clear = values[..., -1:] / 65535 if n in (2, 4) else 1.0
        expected = (colours / 65535 * clear + 1 - clear) * 255
        shown = np.asarray(read_full_depth(path, {"16-bit": (0, 65535)}))
        assert np.abs(shown - expected).max() < 1e-4 * 255
        if n != 2:  # which PIL has no mode for
            with Image.open(path) as image:
                image.load()
                assert image.size == (47, 33) and len(image.getbands()) == n


def test_levels_follow_the_domain_s_scale():
    x = torch.tensor([-1.0, 0, 1, 1.2, -7]).view(1, 1, 5)
    levels, line = levels_of_results({"16-bit": (0, 4095)})
    assert to_uint16(x, levels).ravel().tolist() == [0, 2048, 4095, 4095, 0] and "4095 white" in line
    levels, line = levels_of_results({"16-bit": (-100, 4095)})
    assert levels == (0, 65535) and "0 stands for -100 and 65535 for 4095" in line
    assert levels_of_results({})[0] == (0, 65535)
    assert levels_of_results({"float": (0, 1500)})[0] == (0, 1500)
    assert levels_of_results({"float": (0, 1500), "16-bit": (0, 1023)})[0] == (0, 1023)
    levels, line = levels_of_results({"float": (-1, 1)})
    assert levels == (0, 65535) and "0 stands for -1 and 65535 for 1" in line


def test_full_depth_is_the_picture_of_8_bits_but_for_rounding(tmp_path):
    values = (SHADES * 4095).astype(np.uint16)
    plain = tiff(tmp_path / "plain.tif", values)
    turned = tiff(tmp_path / "turned.tif", values, more={274: 6})
    for path in (plain, turned):
        for side, channels, way in ((None, 3, "bilinear"), ((20, 31), 3, "bicubic"), (64, 1, "bilinear")):
            found, rounded = (resize(f(path), side, channels, way) for f in (read_full_depth, read_image))
            assert found.dtype == np.float32 and found.shape == rounded.shape
            assert np.abs(found - rounded.astype(float)).max() < 2.1 and found.min() >= 0 and found.max() <= 255
    assert np.abs(np.asarray(read_full_depth(plain)) - values * (255 / 4095)).max() < 1e-4
    assert isinstance(read_full_depth(save(tmp_path / "x.jpg", scene())), Image.Image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model after one step, of a domain A of 8 bits and a domain B of 12 bits."""
    folder = runs.pictures(tmp_path_factory.mktemp("deep"))
    root = folder / "dataset" / "tiny"
    for place in ("trainB", "testB"):
        for path in (root / place).iterdir():
            path.unlink()
        tiff(root / place / "x.tif", (SHADES * 4095).astype(np.uint16))
    trained(folder, "--method cyclegan --iteration 1")
    return folder


def test_results_have_16_bits_on_request_and_a_line_says_so_without(folder, tmp_path):
    deep = tiff(tmp_path / "in" / "a.tif", (SHADES * 4095).astype(np.uint16))
    clear = Image.fromarray(scene())
    clear.putalpha(100)
    save(tmp_path / "in" / "b.jpg", scene())
    save(tmp_path / "in" / "c.png", clear)
    call = f"--method cyclegan --phase test --direction BtoA --input {tmp_path / 'in'} --output"
    run = trained(folder, f"{call} {tmp_path / 'eight'}")
    assert "1 of the 3 pictures" in run.output and "written with 8: --deep true writes 16" in run.output
    run = trained(folder, f"{call} {tmp_path / 'sixteen'} --deep true")
    assert "--deep true writes" not in run.output and "65535 white" in run.output and "b.png" in run.output
    assert sorted(path.name for path in (tmp_path / "sixteen").iterdir()) == ["a.tif", "b.png", "c.png"]
    model = Translator(latest(folder), device="cpu")
    assert all(contents(path).depth == "16-bit" for path in (tmp_path / "sixteen").iterdir())
    sixteen, eight = (np.asarray(read_image(tmp_path / place / "c.png")).astype(int) for place in ("sixteen", "eight"))
    assert np.abs(sixteen - eight).max() <= 1
    x = torch.from_numpy(SHADES).float().permute(2, 0, 1)[None] * 4095
    expected = to_uint16(model(x.floor() / 2047.5 - 1, "BtoA")[0], (0, 65535))
    with open(tmp_path / "sixteen" / "a.tif", "rb") as file:
        found = read(file, tags_of(file)).values
    assert np.abs(found.astype(int) - expected).max() <= 1 and len(np.unique(found)) > 1000
    assert deep.exists()


def test_test_folders_have_the_scale_of_their_domain(folder):
    run = trained(folder, "--method cyclegan --phase test")
    assert "testB have more than 8 bits a band" in run.output
    run = trained(folder, "--method cyclegan --phase test --deep true")
    results = folder / "results" / "tiny"
    assert "4095 white" in run.output and "previous_1" in run.output
    for name, most in (("fakeB/0.png", 4095), ("fakeA/x.tif", 65535)):
        found = contents(results / name)
        assert found.depth == "16-bit" and most / 3 < found.extent[1] <= most
    assert Image.open(results / "previous_1" / "fakeB" / "0.png").mode == "RGB"
    root = folder / "dataset" / "tiny"  # scores read them by the same scales
    assert common_scale(results / "fakeB", root / "testB") == {"16-bit": (0, 4095)}
    assert common_scale(results / "fakeA", root / "testA") == {"16-bit": (0, 65535)}


@pytest.mark.parametrize("words, expected", [("--phase train --deep", "--phase test"),
                                             ("--output x.jpg --deep", "end it in .png or .tif")])
def test_what_cannot_be_deep_is_one_line(folder, words, expected):
    if "jpg" in words:
        words += f" --phase test --direction BtoA --input {folder}/dataset/tiny/testB/x.tif"
    assert expected in trained(folder, f"--method cyclegan {words}", status=2).output.splitlines()[-1]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_metadata_is_kept_in_16_bits(folder, tmp_path, ending):
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "A. Person"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2020:01:01 00:00:00"
    path = save(tmp_path / f"x.{ending}", scene(), exif=exif, dpi=(300, 300))
    places = f"--input {path} --output {tmp_path / 'out'}/ --keep_metadata true --deep true"
    trained(folder, f"--method cyclegan --phase test --direction AtoB {places}")
    with Image.open(tmp_path / "out" / path.name) as image:
        found = image.getexif()
        assert found[ExifTags.Base.Copyright] == "A. Person" and round(float(image.info["dpi"][0])) == 300
        if ending == "png":  # PIL does not write this block into the input's TIFF
            assert found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:01:01 00:00:00"
