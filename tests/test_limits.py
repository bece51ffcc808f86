"""Sound files are never condemned: limits name their option, and lack of memory is the machine's."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from pictures import one_line, save, scene, tiff
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from runs import ROOT

from images import decode
from images.decode import contents, limit_pixels, read_image, size_of
from images.encode import kept_metadata, save_picture
from images.files import check_images, list_images
from images.turns import decoding, turns
from scoring.features import open_source, read_npz
from utils import RunError, UserError


def test_long_text_in_a_png_is_no_fault(tmp_path):
    for i, size in enumerate((2 << 20, 20 << 20)):
        text = PngInfo()
        text.add_text("comment", "a" * size, zip=True)
        text.add_itxt("XML:com.adobe.xmp", "b" * size, zip=True)
        path = save(tmp_path / f"{i}.png", Image.fromarray(scene()), pnginfo=text)
        assert np.array_equal(read_image(path), scene())


def segments(path, marker: int, body: bytes, number: int):
    """A JPEG file with so many more segments."""
    data = save(path, scene(), quality=95).read_bytes()
    part = bytes([255, marker]) + (len(body) + 2).to_bytes(2, "big") + body
    path.write_bytes(data[:2] + part * number + data[2:])
    return path


def test_what_lies_beside_the_pixels_is_no_fault(tmp_path):
    """Comments, descriptions, profiles and what programs append to a file: megabytes of them."""
    much, text, exif = b"x" * (3 << 20), ImageFileDirectory_v2(), Image.Exif()
    text[270], exif[ExifTags.Base.ImageDescription] = much.decode(), much.decode()
    files = [
        segments(tmp_path / "comments.jpg", 0xFE, b"c" * 65_000, 100),
        segments(tmp_path / "xmp.jpg", 0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"x" * 60_000, 100),
        save(tmp_path / "profile.jpg", scene(), quality=95, icc_profile=much),
        save(tmp_path / "trailer.jpg", scene(), quality=95),
        save(tmp_path / "profile.png", scene(), icc_profile=much * 6),
        save(tmp_path / "exif.png", scene(), exif=exif),
        save(tmp_path / "trailer.png", scene()),
        save(tmp_path / "profile.webp", scene(), icc_profile=much, lossless=True),
        save(tmp_path / "xmp.webp", scene(), xmp=much, exif=exif, lossless=True),
        save(tmp_path / "text.tif", scene(), tiffinfo=text),
        save(tmp_path / "profile.tif", scene(), icc_profile=much),
        save(tmp_path / ("n" * 251 + ".png"), scene()),
        save(tmp_path / ("\u65e5" * 80 + ".png"), scene()),
    ]
    for path in files:
        if path.stem == "trailer":
            path.write_bytes(path.read_bytes() + much)
        expected = scene() if path.suffix != ".jpg" else Image.open(files[3])
        assert np.array_equal(read_image(path), expected), path
        kept_metadata(path)
        save_picture(scene(), tmp_path / "out" / path.name)
    assert len(check_images(list_images(tmp_path / "out"))) == len(files)


def test_too_many_pixels_name_the_option(tmp_path):
    path, most = save(tmp_path / "x.png", scene()), decode.MAX_PIXELS
    try:
        limit_pixels(48 * 32 - 1)
        with pytest.raises(UserError) as error:
            read_image(path)
        assert "repair" not in one_line(error, path, "--max_pixels 1535", "48 x 32")
        limit_pixels(48 * 32)
        assert read_image(path).size == (48, 32)
    finally:
        limit_pixels(most)
    assert most >= 12000 * 9000


def test_a_picture_for_which_memory_was_short_is_tried_alone_once_more(tmp_path):
    tries, others = [], []

    @decoding
    def read(path):
        tries.append(turns._busy)
        if len(tries) == 1:
            raise MemoryError
        return "read"

    def other():
        with turns.together():
            others.append("began")
            release.wait(20)

    release, thread = threading.Event(), threading.Thread(target=other)
    thread.start()
    while not others:
        pass
    threading.Timer(0.2, release.set).start()
    assert read(tmp_path) == "read" and tries == [2, 0]
    thread.join()


def test_lack_of_memory_condemns_no_file(tmp_path):
    path = save(tmp_path / "x.png", np.zeros((6000, 6000, 3), np.uint8))
    code = f"""if True:
        import resource, sys
        from pathlib import Path
        from images.files import check_images
        from utils import run
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20),) * 2)
        run(lambda: check_images([Path({str(path)!r})], skip_bad=True, workers=1), "x")"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == RunError.status and done.stderr.count("\n") == 1, done.stderr
    assert "memory is too small" in done.stderr and "x.png" in done.stderr and "repair" not in done.stderr


def test_a_foreign_entry_in_an_npz_is_not_read_and_a_folder_may_be_called_so(tmp_path):
    features = np.random.default_rng(0).random((3, 4), np.float32)
    np.savez(tmp_path / "x.npz", features=features, who=np.array([{"a": 1}], object))
    assert np.array_equal(read_npz(str(tmp_path / "x.npz"), "kind", 4)["features"], features)
    paths = [save(tmp_path / "folder.npz" / f"{i}.png", scene()) for i in range(2)]
    assert open_source(str(tmp_path / "folder.npz"), "kind", 4).files == paths


def test_a_jpeg_beyond_the_limit_is_decoded_at_a_fraction_on_request(tmp_path):
    picture, most = Image.fromarray(scene(208, 104)), decode.MAX_PIXELS
    plain = save(tmp_path / "x.jpg", picture, quality=95)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = save(tmp_path / "y.jpg", picture, quality=95, exif=exif)
    grey = save(tmp_path / "z.jpg", picture.convert("L"), quality=95)
    others = [save(tmp_path / "p.jpg", picture, progressive=True), save(tmp_path / "q.png", picture)]
    try:
        for limit, part in ((208 * 104, 1), (208 * 104 - 1, 2), (104 * 52, 2), (104 * 52 - 1, 4), (26 * 13, 8)):
            limit_pixels(limit, shrinks=True)
            for path in (plain, turned, grey):
                found, size = read_image(path), (208 // part, 104 // part)
                assert found.size == size_of(path) == (size[::-1] if path is turned else size)
                assert contents(path).shrunk == (part > 1)
                expected = np.asarray(picture.resize(size, Image.Resampling.BOX)).astype(int)
                assert path is not plain or np.abs(np.asarray(found) - expected).mean() < 3
        limit_pixels(26 * 13 - 1, shrinks=True)
        for path in (plain, *others):
            with pytest.raises(UserError) as error:
                read_image(path)
            one_line(error, path, "--max_pixels 337")
        limit_pixels(26 * 13)
        with pytest.raises(UserError, match="--max_pixels 338"):
            read_image(plain)
    finally:
        limit_pixels(most)


def test_limits_of_files_do_not_call_for_repairs(tmp_path):
    long = save(tmp_path / "x.png", np.zeros((2, 70_000), np.uint8))
    bands = tiff(tmp_path / "y.tif", np.zeros((2, 3, 5), np.uint16), more={256: 60_000, 257: 60_000})
    huge = tmp_path / "z.png"
    with open(huge, "wb") as file:
        file.truncate((1 << 30) + 1)
    most = decode.MAX_PIXELS
    try:
        for path, limit, words in (
            (long, most, ("70000 x 2", "cut the picture into pieces")),
            (bands, 1 << 32, ("5 bands", "those that are wanted")),
            (huge, most, ("larger than 1024 MiB", "--max_pixels")),
            (huge, 1 << 28, ("not a picture",)),
        ):
            limit_pixels(limit)
            with pytest.raises(UserError) as error:
                read_image(path)
            assert ("repair" in one_line(error, path, *words)) == (words == ("not a picture",))
    finally:
        limit_pixels(most)
