"""Which files are pictures, the scale of deep pictures, and colour profiles."""

import io
import os
import struct

import numpy as np
import pytest
from pictures import one_line, save, scene
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from images import decode
from images.decode import FORMATS, contents, read_image, to_rgb
from images.encode import save_picture
from images.files import check_images, list_images, output_paths
from utils import UserError

GREY = np.asarray(Image.fromarray(scene()).convert("L"))


# --- what is a picture ---------------------------------------------------------------------------

def listed(folder):
    return [path.name for path in list_images(folder)]


@pytest.mark.parametrize("name, kind", [
    ("a.jfif", "JPEG"), ("b.JPE", "JPEG"), ("c.gif", "GIF"), ("d.avif", "AVIF"), ("e.jp2", "JPEG2000"),
    ("f.tga", "TGA"), ("none", "PNG"), ("IMG.0001", "JPEG"), ("g.heic", "HEIF"), ("h.j2k", "JPEG2000"),
])
def test_pictures_of_other_names_are_listed_read_and_written_back(tmp_path, name, kind, capfd):
    if kind not in (*FORMATS, "TGA"):
        pytest.skip(f"nothing here reads {kind}")
    picture = Image.fromarray(scene())
    path = save(tmp_path / "in" / name, picture, format=kind)
    assert check_images(list_images(tmp_path / "in")) == [path] and capfd.readouterr() == ("", "")
    difference = np.abs(np.asarray(read_image(path)).astype(int) - scene())
    assert difference.mean() < (8 if kind == "GIF" else 5)

    output = tmp_path / "out" / output_paths([path], tmp_path / "in")[0]
    save_picture(scene(), output)
    kept = path.suffix.lower() in (".jfif", ".jpe", ".tga")
    assert output.name == (name if kept else f"{name}.png")
    assert Image.open(output).format == (kind if kept else "PNG")
    assert np.abs(np.asarray(Image.open(output)).astype(int) - scene()).mean() < 1.5
    line = capfd.readouterr().err
    assert (not line) if kept else (line.count("\n") == 1 and "1 pictures are PNG" in line and output.name in line)


def test_no_added_ending_hits_another_s_result(tmp_path, capfd):
    names = ["a", "a.gif", "a.gif.png", "a.png", "b.gif"]
    for name in names:
        save(tmp_path / name, scene(), format="GIF" if name.endswith("gif") else "PNG")
    inputs = list_images(tmp_path)
    outputs = [str(path) for path in output_paths(inputs, tmp_path)]
    assert outputs == ["a.png.png", "a.gif.png.png", "a.gif.png", "a.png", "b.gif.png"]
    assert [str(path) for path in output_paths(inputs[-1:], tmp_path)] == ["b.gif.png"]  # whoever else is asked for
    assert capfd.readouterr().err.count("\n") == 2


def test_what_is_no_picture_is_counted_and_named_in_one_line(tmp_path, capfd):
    save(tmp_path / "a.png", scene())
    for i in range(6):
        (tmp_path / f"note{i}.txt").write_text("P6 is how a picture may begin")
    (tmp_path / "two\nlines.doc").write_bytes(b"II*\0")
    (tmp_path / "dead").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked").symlink_to("pipe")
    (tmp_path / ".hidden").write_text("x")
    assert listed(tmp_path) == ["a.png"]
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "left out 8 files" in line and str(tmp_path) in line and "and 3 more" in line
    assert "dead, note0.txt" in line and "pip install" not in line


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_a_format_without_its_reader_names_the_package(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(decode, "FORMATS", ("JPEG", "PNG"))
    (tmp_path / "a.heic").write_bytes(HEIC)
    (tmp_path / "b.avif").write_bytes(HEIC.replace(b"ftypheic", b"ftypavif"))
    with pytest.raises(UserError) as error:
        list_images(tmp_path)
    one_line(error, "no picture", "pip install 'pillow>=11.3' reads AVIF", "pip install pillow-heif reads HEIF")
    save(tmp_path / "c.png", scene())
    assert listed(tmp_path) == ["c.png"]
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "a.heic, b.avif; pip install" in line and "pillow-heif" in line
    (tmp_path / "a.heic").rename(tmp_path / "IMG_1.JPG")  # as telephones send them
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "IMG_1.JPG")
    one_line(error, "pip install pillow-heif")


# --- deep pictures -------------------------------------------------------------------------------

def tiff(path, values, **tags):
    numbers = {"least": 340, "most": 341, "min": 280, "max": 281}
    info = ImageFileDirectory_v2()
    for name, value in tags.items():
        info[numbers[name]] = value
    return save(path, values, tiffinfo=info)


def unsigned(path, values):
    """A TIFF of unsigned 32-bit numbers, which PIL can read but calls signed when it writes."""
    save(path, values.view(np.int32))
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHI", 339, 3, 1))
    data[at + 8] = 1
    path.write_bytes(data)
    return path


def grey(path):
    return np.asarray(read_image(path))[..., 1].astype(int)


def exact(path, values, black, white):
    expected = np.clip((values.astype(np.float64) - black) * 255 / (white - black), 0, 255)
    return np.abs(grey(path) - expected).max() <= 0.51


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("most, white", [(4095, 4095), (7999, 8191), (1000, 1023), (70, 255), (40000, 65535)])
def test_16_bit_pictures_that_do_not_fill_their_range_do(tmp_path, ending, most, white):
    values = (GREY / 255 * most).astype(np.uint16)
    values.flat[0] = most
    assert exact(save(tmp_path / f"x.{ending}", values), values, 0, white)


@pytest.mark.parametrize("least, most, black, white", [
    (0, 255, 0, 255), (0, 70000, 0, 2**17 - 1), (-1024, 3071, -1024, 4095), (0, 2**31 - 1, 0, 2**31 - 1),
])
def test_32_bit_pictures(tmp_path, least, most, black, white):
    values = np.linspace(least, most, 1000).round().astype(np.int32).reshape(20, 50)
    assert exact(save(tmp_path / "x.tif", values), values, black, white)


def test_unsigned_32_bits_go_beyond_the_signed(tmp_path):
    values = np.linspace(0, 2**32 - 1, 1000).astype(np.uint32).reshape(20, 50)
    assert exact(unsigned(tmp_path / "x.tif", values), values, 0, 2**32 - 1)


@pytest.mark.parametrize("least, most, black, white", [
    (0, 1, 0, 1), (0, 0.3, 0, 1), (-1, 1, -1, 1), (-0.4, 0.9, -1, 1), (0, 255, 0, 255), (0, 200, 0, 255),
    (0, 1.02, 0, 1.02), (-5, 300, -5, 300), (0, 0, 0, 1),
])
def test_floats(tmp_path, least, most, black, white):
    values = np.linspace(least, most, 1000, dtype=np.float32).reshape(20, 50)
    assert exact(save(tmp_path / "x.tif", values), values, black, white)


def test_numbers_that_are_none_are_black_or_white(tmp_path):
    values = np.array([[0, 51.2, 255, np.nan, np.inf, -np.inf]], np.float32)
    assert grey(save(tmp_path / "x.tif", values)).tolist() == [[0, 51, 255, 0, 255, 0]]
    assert grey(save(tmp_path / "all" / "x.tif", values[:, 3:4])).tolist() == [[0]]


@pytest.mark.parametrize("kind, tags, black, white", [
    (np.uint16, dict(max=4095), 0, 4095), (np.uint16, dict(min=100, max=2000), 100, 2000),
    (np.uint16, dict(least=100, most=60000), 100, 60000), (np.float32, dict(least=-10.0, most=5000.0), -10, 5000),
    (np.uint16, dict(min=100), 0, 4095), (np.float32, dict(most=float("nan")), 0, 3000),
    (np.uint16, dict(min=9, max=9), 0, 4095),
])
def test_what_a_tiff_says_of_its_range_goes_first(tmp_path, kind, tags, black, white):
    values = (GREY / 255 * 3000).astype(kind)
    values.flat[0] = 3000
    path = tiff(tmp_path / "x.tif", values, **tags)
    assert exact(path, values, black, white)
    says = (black, white) not in [(0, 4095), (0, 3000)] or tags.get("max") == 4095
    assert contents(path).extent == (None if says else (float(values.min()), 3000))
    (other,) = read_image(path, {"16-bit": (0, 30000), "float": (0, 30000)}).getextrema()[:1]
    assert (other[1] == round(3000 * 255 / 30000)) != says


def test_12_bits_a_sample_and_a_pgm_s_maximum_say_it_themselves(tmp_path, capfd):
    header = struct.pack("<2sHIH", b"II", 42, 8, 8)
    fields = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 110), (278, 1), (279, 6)]
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF4, 0x00])  # 0x000, 0x800, 0xFFF, 0x400
    body = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields) + bytes(4)
    (tmp_path / "x.tif").write_bytes((header + body).ljust(110, b"\0") + packed)
    assert grey(tmp_path / "x.tif").tolist() == [[0, 128, 255, 64]]
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 1000\n" + struct.pack(">3H", 0, 500, 1000))
    assert grey(tmp_path / "x.pgm").tolist() == [[0, 128, 255]]
    assert not capfd.readouterr().err


def test_a_picture_from_nowhere_has_its_own_scale():
    values = np.linspace(0, 4095, 100).astype(np.uint16).reshape(10, 10)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values)))[..., 0], np.rint(values * (255 / 4095)))


# --- colour profiles -----------------------------------------------------------------------------

D50, RED, GREEN, BLUE = (.9642, 1, .8249), (.4361, .2225, .0139), (.3851, .7169, .0971), (.1431, .0606, .7141)  # sRGB's


def profile(gamma, primaries=(RED, GREEN, BLUE)):
    """An ICC profile by its specification: for RGB of these primaries, or for grey if there are none."""
    def fixed(*numbers):
        return struct.pack(f">{len(numbers)}i", *(round(x * 65536) for x in numbers))
    curve = struct.pack(">4s4xIH2x", b"curv", 1, round(gamma * 256))
    tags = {b"desc": struct.pack(">4s4xI5s", b"desc", 5, b"test\0").ljust(96, b"\0"),
            b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)}
    for letter, point in zip(b"rgb", primaries, strict=False):
        tags |= {bytes([letter]) + b"XYZ": b"XYZ \0\0\0\0" + fixed(*point), bytes([letter]) + b"TRC": curve}
    if not primaries:
        tags[b"kTRC"] = curve
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(data), 0x02400000, b"mntr",
                       b"RGB " if primaries else b"GRAY", b"XYZ ", b"acsp") + fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def encoded(light):
    """Linear light to sRGB's 0..255."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


SWAPPED = profile(1.0, (GREEN, RED, BLUE))  # of linear light, red and green exchanged


def colours(path):
    return np.asarray(read_image(path)).astype(int)


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
def test_colours_of_a_profile_are_converted_to_srgb(tmp_path, ending):
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(ending, {})
    expected = encoded(scene()[..., [1, 0, 2]] / 255)
    bright = (scene() > 20).all(-1)  # the curve is steep in the dark, where a JPEG's own error would show
    got = colours(save(tmp_path / f"x.{ending}", scene(), icc_profile=SWAPPED, **options))
    assert np.abs(got - expected)[bright].max() < (6 if ending == "jpg" else 1.6)


def test_profiles_of_grey_palette_and_transparent_pictures(tmp_path):
    grey_profile = profile(1.0, ())
    assert np.abs(colours(save(tmp_path / "grey.png", GREY, icc_profile=grey_profile))[..., 0]
                  - encoded(GREY / 255)).max() < 1.6
    deep = GREY.astype(np.uint16) * 257
    deep.flat[0] = 65535
    got = colours(save(tmp_path / "deep.tif", deep, icc_profile=grey_profile))[..., 2]
    assert np.abs(got - encoded(np.rint(deep / 257) / 255)).max() < 1.6
    palette = Image.fromarray(scene()).quantize(32)
    got = colours(save(tmp_path / "palette.png", palette, icc_profile=SWAPPED))
    assert np.abs(got - encoded(np.asarray(palette.convert("RGB"))[..., [1, 0, 2]] / 255)).max() < 1.6
    for mode, icc, colour in ("RGBA", SWAPPED, scene()[..., [1, 0, 2]]), ("LA", grey_profile, GREY[..., None]):
        base = Image.fromarray(scene()).convert("RGB" if mode == "RGBA" else "L")
        base.putalpha(128)
        got = colours(save(tmp_path / f"{mode}.png", base, icc_profile=icc))
        assert np.abs(got - (encoded(colour / 255) * 128 + 255 * 127) / 255).max() < 2


@pytest.mark.parametrize("icc", [
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"no profile", SWAPPED[:200], bytes(1000),
    profile(1.0, ()), ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
])
def test_srgb_s_own_and_useless_profiles_change_no_bit(tmp_path, icc):
    assert np.array_equal(colours(save(tmp_path / "x.png", scene(), icc_profile=icc)), scene())


def test_a_photograph_turned_and_with_a_profile_comes_out_upright_in_srgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(scene()))
    file = io.BytesIO()
    Image.fromarray(turned).save(file, "TIFF", exif=exif, icc_profile=SWAPPED)
    (tmp_path / "x").write_bytes(file.getvalue())
    assert np.abs(colours(tmp_path / "x") - encoded(scene()[..., [1, 0, 2]] / 255)).max() < 1.6
