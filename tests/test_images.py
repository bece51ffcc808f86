"""Reading pictures: every format and mode, hostile files, and the names of results."""

import io
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import one_line, png, save, scene
from PIL import Image

from images.decode import EXTENSIONS, FORMATS, MAX_PIXELS, read_image, resize
from images.files import check_images, list_images, output_paths
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent


# --- files ---------------------------------------------------------------------------------------

def test_lists_pictures_below_a_folder_sorted_and_nothing_else(tmp_path):
    names = ["b.JPG", "a.png", "sub/c.webp", "sub/deeper/d.tiff", "z.jpeg", "e.PPM", "f.bmp", "g.tif", "h.pgm", "i.pbm"]
    junk = [".DS_Store", "Thumbs.db", "notes.txt", ".hidden.png", ".ipynb_checkpoints/a.png", "__MACOSX/._a.png", "png"]
    for name in names + junk:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == sorted(names)
    assert list_images(str(tmp_path)) == list_images(tmp_path)


@pytest.mark.parametrize("prepare, words", [
    (lambda folder: None, "does not exist"),
    (lambda folder: folder.touch(), "is not a folder"),
    (lambda folder: folder.mkdir(), "no picture in"),
])
def test_a_folder_without_pictures_is_named_with_the_remedy(tmp_path, prepare, words):
    prepare(tmp_path / "trainA")
    with pytest.raises(UserError) as error:
        list_images(tmp_path / "trainA")
    one_line(error, tmp_path / "trainA", words)


def test_links_are_followed_and_loops_end(tmp_path):
    save(tmp_path / "outside" / "far.png", scene())
    home = tmp_path / "home"
    save(home / "sub" / "near.png", scene())
    (home / "linked").symlink_to(tmp_path / "outside")
    (home / "file.png").symlink_to(tmp_path / "outside" / "far.png")
    (home / "sub" / "up").symlink_to(home)
    (home / "self").symlink_to(".")
    (home / "sub" / "ping").symlink_to("pong")
    (home / "sub" / "pong").symlink_to("ping")
    for i, j in itertools.product(range(12), "ab"):  # 2^12 ways through
        (tmp_path / f"maze{i}").mkdir(exist_ok=True)
        (tmp_path / f"maze{i}" / j).symlink_to(tmp_path / f"maze{i + 1}")
    (tmp_path / "maze12").mkdir()
    (home / "maze").symlink_to(tmp_path / "maze0")
    assert [str(path.relative_to(home)) for path in list_images(home)] == ["file.png", "linked/far.png", "sub/near.png"]


def test_a_dead_link_is_reported_and_not_passed_over(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError) as error:
        check_images(list_images(tmp_path))
    one_line(error, "gone.png", "No such file")


MODES = {  # mode of the file: (endings that keep it, largest error of what is read back)
    "RGB": (["png", "bmp", "ppm", "tiff", "webp"], 0),
    "L": (["png", "bmp", "pgm", "tif"], 0),
    "1": (["png", "bmp", "pbm", "tif"], 0),
    "P": (["png", "bmp", "tif"], 0),
    "LA": (["png", "tif"], 1),
    "RGBA": (["png", "tif", "webp"], 1),
    "CMYK": (["jpg", "tif"], 6),
    "I;16": (["png", "tif", "pgm"], 0),
    "I;16B": (["tif"], 0),
    "I": (["tif", "pgm"], 0),
    "F": (["tif"], 0),
}


def in_mode(mode):
    """A picture in that mode, and the (32, 48, 3) colours that it shows on a white page."""
    colour = scene()
    grey = np.asarray(Image.fromarray(colour).convert("L"))
    alpha = np.linspace(0, 255, grey.size).reshape(32, 48).round().astype(np.uint8)
    threes = np.stack([grey] * 3, -1)
    opacity = alpha[..., None] / 255
    if mode == "RGB":
        return Image.fromarray(colour), colour
    if mode == "L":
        return Image.fromarray(grey), threes
    if mode == "1":
        return Image.fromarray(grey > 99), 255 * (threes > 99)
    if mode == "P":
        image = Image.fromarray(colour).quantize(64)
        return image, np.asarray(image.convert("RGB"))
    if mode == "LA":
        image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
        return image, threes * opacity + 255 * (1 - opacity)
    if mode == "RGBA":
        return Image.fromarray(np.dstack([colour, alpha])), colour * opacity + 255 * (1 - opacity)
    if mode == "CMYK":
        return Image.fromarray(colour).convert("CMYK"), colour
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255), threes
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": np.int32}[mode]
    return Image.fromarray((grey.astype(int) * 257).astype(kind)), threes


@pytest.mark.parametrize("mode, ending", [(mode, ending) for mode, (endings, _) in MODES.items() for ending in endings])
def test_every_mode_and_format_comes_out_as_the_rgb_one_sees(tmp_path, mode, ending):
    image, expected = in_mode(mode)
    options = {"lossless": True, "exact": True} if ending == "webp" else {"quality": 95} if ending == "jpg" else {}
    got = read_image(save(tmp_path / f"x.{ending}", image, **options))
    assert got.mode == "RGB" and got.size == (48, 32)
    assert np.abs(np.asarray(got) - np.rint(expected)).max() <= MODES[mode][1]


def test_a_grey_jpeg_a_short_palette_and_colour_keys(tmp_path):
    grey = read_image(save(tmp_path / "grey.jpg", Image.new("L", (9, 5), 77)))
    assert (grey.mode, grey.getpixel((3, 3))) == ("RGB", (77, 77, 77))
    palette = Image.new("P", (4, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 0])
    palette.putdata([0, 1, 2, 0])
    image = read_image(save(tmp_path / "palette.png", palette, transparency=b"\xff\x80\x00"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(10, 20, 30), (227, 177, 127), (255, 255, 255)]
    image = read_image(save(tmp_path / "keyed.png", Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3)))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for ending in "webp", "tif", "png":
        path = save(tmp_path / f"frames.{ending}", frames[0], save_all=True, append_images=frames[1:])
        assert np.abs(np.subtract(read_image(path).getpixel((4, 4)), (255, 0, 0))).max() < 5


def test_16_bits_are_scaled_over_their_whole_range(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for ending in "png", "tif", "pgm":
        got = np.asarray(read_image(save(tmp_path / f"ramp.{ending}", ramp)))[..., 1]
        assert np.abs(got - ramp / 257).max() <= 0.5 + 1e-3
    colour = np.full((2, 3, 3), [0x1234, 0x8000, 0xFFFF], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colour)
    (tmp_path / "deep.png").write_bytes(png(3, 2, depth=16, data=rows))
    assert np.abs(np.subtract(read_image(tmp_path / "deep.png").getpixel((1, 1)), (0x12, 0x80, 0xFF))).max() <= 1


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_all_eight_orientations_come_out_upright(tmp_path, ending):
    upright = scene()
    turned = {  # how a camera that notes this orientation stores the upright picture
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f"{orientation}.{ending}", np.ascontiguousarray(stored), exif=exif, quality=95)
        got = np.asarray(read_image(path)).astype(int)
        assert got.shape == upright.shape and np.abs(got - upright).mean() < 4, orientation


def test_a_damaged_exif_block_does_not_spoil_the_picture(tmp_path):
    path = save(tmp_path / "x.jpg", scene(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert read_image(path).size == (48, 32)


# --- hostile and broken files --------------------------------------------------------------------

@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "ppm", "tif", "webp"])
def test_a_truncated_picture_is_named(tmp_path, ending):
    path = save(tmp_path / f"cut.{ending}", scene(128, 128))
    path.write_bytes(path.read_bytes()[:-path.stat().st_size // 3])
    with pytest.raises(UserError) as error:
        read_image(path)
    one_line(error, f"cut.{ending}", "repair or remove it")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF\n"])
def test_what_is_no_picture_is_named_in_one_line(tmp_path, content):
    for name in "x.png", "two\nlines\t.jpg", "quote'\" ü.tif", os.fsdecode(b"raw\xff\xfe.png"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            read_image(tmp_path / name)
        one_line(error, "cannot read the picture")
    for path in tmp_path / "missing.png", tmp_path:
        with pytest.raises(UserError) as error:
            read_image(path)
        one_line(error, path)


@pytest.mark.parametrize("size", [(30_000, 30_000), (2**31 - 1, 1), (1, 90_000), (12_801, 10_000), (0, 5)])
def test_absurd_sizes_are_refused_by_name_before_decoding(tmp_path, monkeypatch, recwarn, size):
    (tmp_path / "bomb.png").write_bytes(png(*size))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "bomb.png")
    one_line(error, "bomb.png", f"{size[0]} x {size[1]}" if all(size) else "")
    assert not [w for w in recwarn if "Bomb" in w.category.__name__]


def test_a_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "huge.webp", "wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "huge.webp")
    one_line(error, "huge.webp", "larger than")


@pytest.mark.parametrize("trouble", [
    SyntaxError("broken\nPNG"), struct.error("unpack"), OSError(5, "Input/output error"), OSError("truncated"),
    EOFError(), ValueError("x"), MemoryError(), zlib.error("z"), OverflowError("o"), IndexError(), RecursionError(),
])
def test_whatever_a_decoder_raises_becomes_a_user_error(tmp_path, monkeypatch, trouble):
    def load(self):
        raise trouble
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(UserError) as error:
        read_image(save(tmp_path / "x.png", scene()))
    one_line(error, "x.png")


def seeds():
    """A small picture of each kind, as bytes: list of (ending, bytes)."""
    kinds = [("jpg", "RGB", {}), ("jpg", "CMYK", {}), ("jpg", "RGB", {"progressive": True}), ("png", "RGB", {}),
             ("png", "P", {}), ("png", "I;16", {}), ("png", "RGBA", {}), ("bmp", "RGB", {}), ("bmp", "P", {}),
             ("ppm", "RGB", {}), ("pgm", "I;16", {}), ("pbm", "1", {}), ("tif", "RGB", {}), ("tif", "F", {}),
             ("tif", "RGB", {"compression": "tiff_lzw"}), ("tif", "RGB", {"compression": "jpeg"}),
             ("tif", "1", {"compression": "group4"}), ("webp", "RGB", {}), ("webp", "RGBA", {"lossless": True}),
             ("gif", "P", {}), ("jp2", "RGB", {}), ("jp2", "I;16", {})]
    kinds += [("avif", "RGB", {})] * ("AVIF" in FORMATS)
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending, mode, options in kinds:
        file = io.BytesIO()
        tagged = {"exif": exif} if ending in ("jpg", "png", "webp") else {}
        in_mode(mode)[0].save(file, Image.registered_extensions()["." + ending], **tagged, **options)
        yield ending, file.getvalue()


def mutate(data, rng):
    """A damaged copy: cut short, bits flipped, a number overwritten, or a stretch moved elsewhere."""
    data, kind = bytearray(data), rng.integers(4)
    header = rng.random() < 0.5  # half of the damage hits where formats keep their sizes and offsets
    place = rng.integers(min(len(data), 128) if header else len(data), size=rng.integers(1, 9))
    if kind == 0:
        del data[place[0]:]
    elif kind == 1:
        for i in place:
            data[i] ^= 1 << rng.integers(8)
    elif kind == 2:
        data[place[0]:place[0] + 4] = struct.pack(">I", rng.choice([0, 1, 10_000, 2**31 - 1, 2**32 - 1]))
    else:
        stretch = data[place[0]:place[0] + rng.integers(1, 64)]
        data[place[-1]:place[-1]] = stretch
    return bytes(data)


def fuzz(count, folder):
    """Read `count` damaged pictures; print what happened as JSON. Runs in a process of its own."""
    rng, originals = np.random.default_rng(0), list(seeds())
    loaded, refused, slowest = 0, 0, 0
    for i in range(count):
        ending, data = originals[i % len(originals)]
        path = Path(folder, f"mutant.{ending}")
        path.write_bytes(mutate(data, rng))
        start = time.perf_counter()
        try:
            image = read_image(path)
            resize(image, 32)
            assert image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS
            loaded += 1
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        slowest = max(slowest, time.perf_counter() - start)
    status = Path("/proc/self/status").read_text()  # getrusage would count the process that started this one
    memory = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"loaded": loaded, "refused": refused, "slowest": slowest, "memory": memory}))


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_pictures_load_or_are_refused_quickly_and_within_memory(tmp_path, count):
    code = f"import test_images; test_images.fuzz({count}, {str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60 + count / 5,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    # libtiff's own remarks reach stderr from C; Python's warnings would be ours to prevent
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr[-2000:]
    result = json.loads(done.stdout)
    print(result)
    assert result["loaded"] + result["refused"] == count and min(result["loaded"], result["refused"]) > count / 10
    assert result["slowest"] < 5 and result["memory"] < 1024


def test_check_images_keeps_the_good_and_names_the_bad(tmp_path, capfd):
    good = [save(tmp_path / f"{i}.png", scene()) for i in range(4)]
    assert check_images(list_images(tmp_path)) == good
    assert capfd.readouterr() == ("", "")
    bad = [tmp_path / f"2{i}.png" for i in range(7)]
    bad[0].write_text("no picture")
    with pytest.raises(UserError) as error:
        check_images(list_images(tmp_path))
    one_line(error, bad[0], "repair or remove it", "--skip_bad_images true")
    assert check_images(list_images(tmp_path), skip_bad=True, workers=2) == good
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and all(w in line for w in ("1 of 5", str(tmp_path), "20.png")) and "more" not in line
    for path in bad:
        path.write_text("no picture")
    assert check_images(list_images(tmp_path), skip_bad=True) == good
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and all(w in line for w in ("7 of 11", "24.png and 2 more")) and "25.png" not in line
    with pytest.raises(UserError) as error:
        check_images(bad, skip_bad=True)
    one_line(error, tmp_path)


# --- names of results ----------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=255).filter(lambda b: not set(b) & {0, 47} and b[:1] != b".")),
       st.sampled_from(sorted(EXTENSIONS)))
def test_results_keep_relative_names_whatever_a_file_is_called(tmp_path_factory, names, ending):
    root = tmp_path_factory.mktemp("names")
    for i, name in enumerate([b"plain", b'a "quoted" \'one\'', b"two\nlines", b"x" * 250, *names]):
        folder = os.fsencode(root) + (b"", b"/sub", b"/ sub..\n")[i % 3]
        os.makedirs(folder, exist_ok=True)
        Path(os.fsdecode(folder + b"/" + name[:255 - len(ending)] + ending.encode())).touch()
    inputs = list_images(root)
    outputs = output_paths(inputs, root)
    assert [root / output for output in outputs] == inputs and len(set(outputs)) == len(outputs) >= 4
    for output in outputs:
        assert not output.is_absolute() and ".." not in output.parts and len(os.fsencode(output.name)) <= 255
    shutil.rmtree(root)


@pytest.mark.parametrize("path", ["/etc/x.png", "root/../x.png", "root/sub/../../x.png", "../x.png", "rootx/y.png"])
def test_no_result_leaves_its_folder(path):
    with pytest.raises(UserError):
        output_paths([Path(path)], Path("root"))


@pytest.mark.parametrize("ending", sorted(EXTENSIONS))
def test_results_can_be_written_under_every_name_that_is_read(tmp_path, ending):
    for pixels in scene(), scene()[..., 0]:
        assert read_image(save(tmp_path / f"out{ending}", pixels)).size == (48, 32)
        assert read_image(save(tmp_path / f"OUT{ending.upper()}", pixels)).size == (48, 32)
