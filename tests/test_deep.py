"""Bands and depths of picture files: each value is read rightly, and what is left out is counted."""

import itertools

import numpy as np
import pytest
from pictures import one_line, png, save, scene, tiff
from PIL import Image

from images import deep
from images import tiff as bands
from images.decode import alpha_of, contents, from_pil, read_full_depth, read_image
from images.files import check_images
from utils import UserError

TYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")


def values_of(kind, n=3, side=33, seed=0):
    rng = np.random.default_rng(seed)
    if kind[0] == "f":
        return rng.normal(0, 100, (side, 48, n)).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, (side, 48, n), dtype=kind, endpoint=True)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TYPES)
def test_every_number_of_a_tiff_is_read(tmp_path, kind, order):
    ways = [dict(), dict(tile=16), dict(deflate=True), dict(deflate=True, tile=16)]
    ways += [dict(deflate=True, predictor=2), dict(deflate=True, predictor=2, tile=16)] * (kind[0] != "f")
    ways += [dict(deflate=True, predictor=3), dict(deflate=True, predictor=3, tile=32)] * (kind[0] == "f")
    for way, n, planar in itertools.product(ways, (1, 2, 3, 5), (False, True)):
        values, colours = values_of(kind, n), 3 if n >= 3 else 1
        path = tiff(tmp_path / "x.tif", values, order, planar, extra=[2, 0][: n - colours] or None, **way)
        with open(path, "rb") as file:
            tags = bands.tags_of(file)
            if not bands.is_ours(tags):
                assert kind == "u1" and n in (1, 3) and not planar
                continue
            found = bands.read(file, tags)
        assert found.values.dtype == np.dtype(kind) and np.array_equal(found.values, values[..., :colours])
        assert found.left_out == max(0, n - colours - 1)
        assert found.opacity is None if n == colours else np.array_equal(found.opacity, values[..., colours])


@pytest.mark.parametrize("options", [{}, {"planar": True}, {"order": ">"},
                                     {"order": ">", "planar": True, "deflate": True}])
@pytest.mark.parametrize("ending", ["tif", "png"])
def test_twelve_bits_in_sixteen_of_colours_are_no_darkness(tmp_path, ending, options):
    values = (scene() / 255.0 * 4095).astype(np.uint16)
    values[0, 0] = 4095
    path = tmp_path / f"x.{ending}"
    if ending == "tif":
        tiff(path, values, **options)
    else:
        deep_png(path, values)
    expected = values * (255 / 4095)
    assert np.abs(np.asarray(read_image(path)) - expected).max() <= 0.51
    assert np.abs(np.asarray(from_pil(Image.open(path))[0]) - expected).max() <= 0.51  # as Translator has it
    assert contents(path)[:2] == ("16-bit", (float(values.min()), 4095.0))


def test_ppm_files_keep_all_bits_of_colours(tmp_path):
    values = (scene() / 255.0 * 4095).astype(np.uint16)
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P6\n48 32\n4095\n" + values.astype(">u2").tobytes())
    assert np.abs(np.asarray(read_full_depth(path)) - values * (255 / 4095)).max() < 1e-4
    assert np.abs(np.asarray(read_image(path)) - values * (255 / 4095)).max() <= 0.51
    assert contents(path).depth == "16-bit" and contents(path).extent is None  # the file says what is white
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        read_image(path)
    one_line(error, path)
    path.write_bytes(b"P6\n48 32\n100\n" + (values // 41).astype(np.uint8).tobytes())
    assert contents(path).depth is None and np.abs(np.asarray(read_image(path)) - values // 41 * 2.55).max() <= 1


def deep_png(path, values, interlace=False):
    """(H,W,1..4) uint16, each row filtered by another filter."""
    H, W, n = values.shape
    step, data = 2 * n, b""
    rows = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(H, -1).astype(int)
    for y, row in enumerate(rows):
        left = np.concatenate((np.zeros(step, int), row[:-step]))
        above = rows[y - 1] if y else np.zeros_like(row)
        predicted = (0 * row, left, above, (left + above) // 2)[y % 4]
        data += bytes([y % 4]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
    path.write_bytes(png(W, H, 16, {1: 0, 2: 4, 3: 2, 4: 6}[n], data))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_png_of_16_bits_gives_all_of_them_and_its_opacity(tmp_path, n):
    values = values_of("u2", n)
    deep_png(tmp_path / "x.png", values)
    with Image.open(tmp_path / "x.png") as image:
        found = deep.from_pil(image)
    colours = n - (n in (2, 4))
    assert np.array_equal(found.values, values[..., :colours])
    assert (found.opacity is None) == (n in (1, 3))
    if n in (2, 4):
        assert np.abs(found.opacity * 65535 - values[..., -1]).max() < 0.01
        assert np.abs(np.asarray(alpha_of(tmp_path / "x.png")) - values[..., -1] / 257).max() <= 0.51


def test_premultiplied_opacity_and_white_that_is_zero(tmp_path):
    values = np.full((4, 8, 4), 1000, np.uint16)
    values[..., 3] = 32768
    tiff(tmp_path / "a.tif", values, extra=[1])
    with open(tmp_path / "a.tif", "rb") as file:
        found = deep.from_tiff(file, bands.tags_of(file))
    assert np.asarray(found.to_8_bits({"16-bit": (0, 4000)}))[0, 0].tolist() == [127, 127, 127, 128]
    values = np.array([[[0], [4095], [1024]]], np.uint16)
    assert np.asarray(read_image(tiff(tmp_path / "b.tif", values, photometric=0)))[0, :, 0].tolist() == [255, 0, 191]


def test_only_what_a_file_calls_opacity_is_opacity(tmp_path):
    values = np.dstack((scene(), np.full(scene().shape[:2], 99, np.uint8)))
    for extra, opaque in ((None, True), ([0], True), ([2], False), ([1], False)):
        path = tiff(tmp_path / f"{extra}.tif", values, extra=extra)
        assert (alpha_of(path) is None) == opaque and contents(path).bands == opaque
        if opaque:
            assert np.array_equal(read_image(path), scene())


def test_what_is_left_out_of_files_is_counted_in_one_line(tmp_path, capfd):
    frames = [Image.fromarray(scene(seed=i)) for i in range(3)]
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    five = np.dstack((scene(), scene()[..., :2]))
    tiff(tmp_path / "e.tif", five, extra=[0, 0])
    save(tmp_path / "f.png", scene())
    paths = sorted(tmp_path.iterdir())
    assert [contents(path)[2:4] for path in paths] == [(2, 0)] * 4 + [(0, 2), (0, 0)]
    assert check_images(paths) == paths
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "5 of the 6 pictures" in line and "8 frames or pages" in line
    assert "2 further bands" in line and "a.gif, b.webp" in line


def test_a_preview_page_is_no_frame(tmp_path):
    first, second = Image.fromarray(scene()), Image.fromarray(scene())
    second.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    assert contents(tmp_path / "x.tif").frames == 0


def test_a_tiff_that_nothing_reads_says_of_which_kind_it_is(tmp_path):
    path = tiff(tmp_path / "x.tif", values_of("u2"), more=[(258, [10, 10, 10])])
    with pytest.raises(UserError) as error:
        read_image(path)
    one_line(error, path, "3 bands of 10-bit unsigned numbers")


def test_damaged_deep_files_are_refused(tmp_path):
    data = tiff(tmp_path / "x.tif", values_of("u2"), planar=True, deflate=True).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        spoilt = bytearray(data)
        for at in rng.integers(0, len(data), 6):
            spoilt[at] = rng.integers(256)
        (tmp_path / "y.tif").write_bytes(spoilt[: rng.integers(100, len(data))] if rng.random() < 0.3 else spoilt)
        try:
            read_image(tmp_path / "y.tif")
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > 40
