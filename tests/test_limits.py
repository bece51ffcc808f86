"""Sound files are never condemned: limits name their option, and lack of memory is the machine's."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from pictures import one_line, save, scene
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from runs import ROOT

from images import decode
from images.decode import limit_pixels, read_image
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
