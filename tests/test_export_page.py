"""The exported page in a real browser: it draws what onnxruntime draws, by mouse, keys and touch, without a network."""

import base64
import gzip
import io
import json
import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browser import contrasts, opened, overflow
from drawers import saved
from pictures import one_line, scene
from PIL import Image
from runs import PATIENCE
from test_methods import SMALL

import main
from images.decode import from_pil
from translation import web_runtime
from utils import UserError

onnxruntime = pytest.importorskip("onnxruntime")
# the others with -m slow: an export takes seconds
METHODS = [pytest.param(m, marks=[] if m == "cyclegan" else [pytest.mark.slow]) for m in SMALL]


@pytest.fixture(scope="module", autouse=True)
def the_runtime():
    try:
        web_runtime.runtime()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """page_of(method, options of the networks): a folder with the exported index.html."""
    made = {}

    def make(method: str, build: str = "", direction: str = "") -> Path:
        if (method, build, direction) not in made:
            folder = tmp_path_factory.mktemp(method)
            path = saved(folder, method, build)
            call = f"--phase export --device cpu --checkpoint {path} --format html --output {folder}/page/index.html"
            main.main([*call.split(), *direction.split()])
            made[method, build, direction] = folder / "page"
        return made[method, build, direction]

    return make


def pictures() -> dict[str, Image.Image]:
    """64 x 64; odd sides; transparent."""
    clear = Image.fromarray(scene(40, 52)).convert("RGBA")
    w, h = clear.size
    clear.putalpha(Image.fromarray(np.linspace(0, 255, h * w).reshape(h, w).astype(np.uint8)))
    return {"even": Image.fromarray(scene(64, 64)), "odd": Image.fromarray(scene(37, 51)), "clear": clear}


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def drop(page, content: bytes, name="x.png"):
    """Drop a file on the page, and wait for its translation."""
    transfer = page.evaluate_handle(
        """([text, name]) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name, { type: "image/png" }));
      return transfer;
    }""",
        [base64.b64encode(content).decode(), name],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    settled(page)


def settled(page, more="true"):
    """Wait until the page rests.  Not wait_for_function, which the page's policy forbids."""
    end = time.monotonic() + PATIENCE
    while not page.evaluate(rf"!busy && {more} && / s(;|\.)|cannot|is not a|Stopped/.test($('status').textContent)"):
        assert time.monotonic() < end, page.inner_text("#status")
        page.wait_for_timeout(10)


def text_of(page, expression: str) -> np.ndarray:
    """Numbers of the page as an array."""
    return np.frombuffer(base64.b64decode(page.evaluate(f"""() => {{
      const bytes = new Uint8Array(({expression}).buffer), parts = [];
      for (let i = 0; i < bytes.length; i += 30000) parts.push(String.fromCharCode(...bytes.subarray(i, i + 30000)));
      return btoa(parts.join(""));
    }}""")), np.uint8)  # fmt: skip


def tensor_of(page, name: str) -> np.ndarray:
    return text_of(page, f"{name}.data").view(np.float32).reshape(page.evaluate(f"{name}.dims"))


def drawn(page) -> np.ndarray:
    """The translation, (H,W,4) uint8."""
    return text_of(page, "result.data").reshape(page.evaluate("[result.height, result.width, 4]"))


def model_in(folder: Path, direction: str):
    text = (folder / "index.html").read_text("utf-8")
    model = gzip.decompress(base64.b64decode(re.search(rf'id="model_{direction}">([^<]*)<', text)[1]))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def normals(n: int, seed: int) -> np.ndarray:
    """As pixels.js: mulberry32, then Box and Muller."""
    state, numbers = seed, []

    def uniform():
        nonlocal state
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        t = (state ^ (state >> 15)) * (state | 1) & 0xFFFFFFFF
        t ^= (t + ((t ^ (t >> 7)) * (t | 61) & 0xFFFFFFFF)) & 0xFFFFFFFF
        return (t ^ (t >> 14)) / 2**32

    while len(numbers) < n:
        radius = math.sqrt(-2 * math.log(1 - uniform()))
        numbers.append(radius * math.cos(2 * math.pi * uniform()))
    return np.array(numbers, np.float32)


def expected(model, picture: np.ndarray) -> np.ndarray:
    """onnxruntime's translation (H,W,3) of the page's input (1,C,H,W), with style 0 or seed 0."""
    feeds = {"picture": picture}
    for extra in model.get_inputs()[1:]:
        shape = (1, 1, *picture.shape[2:]) if extra.name == "noise" else extra.shape
        feeds[extra.name] = normals(math.prod(shape), 0).reshape(shape)
    y = model.run(None, feeds)[0][0]
    return np.broadcast_to(np.floor((y.clip(-1, 1) + 1) * 127.5 + 0.5), (3, *y.shape[1:])).transpose(1, 2, 0)


@pytest.mark.parametrize("method", METHODS)
def test_it_draws_what_onnxruntime_draws(page_of, method):
    folder = page_of(method)
    name = "AtoB"
    model = model_in(folder, name)
    with opened(folder) as page:
        page.select_option("#side", "0")
        for kind, picture in pictures().items():
            drop(page, encoded(picture))
            found, given = drawn(page), tensor_of(page, "input")
            h, w = found.shape[:2]
            wanted = expected(model, given)[:h, :w]
            assert np.abs(found[..., :3] - wanted).max() <= 1 and wanted.std() > 5, (kind, page.inner_text("#status"))
            colours, alpha = from_pil(picture)
            if (h, w) == colours.size[::-1]:
                pixels = given[0, :, :h, :w].transpose(1, 2, 0) * 127.5 + 127.5
                assert np.abs(pixels - np.asarray(colours)).max() <= 1.01, kind
                assert np.array_equal(found[..., 3], alpha or np.full((h, w), 255)), kind
            if method not in ("sincut", "sincyclegan"):
                assert (h, w) == picture.size[::-1]
            else:
                assert h % 4 == w % 4 == 0


@pytest.mark.slow
def test_networks_of_one_size_and_grey_ones(page_of):
    folder = page_of("nice", "--light false --img_ch 1", "--direction AtoB")
    with opened(folder) as page:
        picture = pictures()["odd"].resize((90, 120))
        drop(page, encoded(picture))
        given = tensor_of(page, "input")[0, 0] * 127.5 + 127.5
        grey = np.asarray(picture.convert("L").resize((48, 48), Image.Resampling.BILINEAR))
        assert np.abs(given - grey).max() <= 1.01
        assert np.abs(drawn(page)[..., :3] - expected(model_in(folder, "AtoB"), tensor_of(page, "input"))).max() <= 1
        assert "48 x 48" in page.inner_text("#status") and "the network has one size" in page.inner_text("#status")
        assert page.locator("#directions").is_hidden() and page.locator("#sides").is_hidden()


def test_by_mouse_and_keys_and_paste(page_of, tmp_path):
    with opened(page_of("munit")) as page:
        assert page.title() == "toy by munit"
        (tmp_path / "a cat.png").write_bytes(encoded(pictures()["even"]))
        page.set_input_files("#file", tmp_path / "a cat.png")
        settled(page)
        one = drawn(page)
        page.locator("#style").focus()
        page.keyboard.press("ArrowRight")
        settled(page)
        other = drawn(page)
        assert np.abs(other.astype(int) - one).max() > 3
        page.locator("[name=direction]").first.focus()
        page.keyboard.press("ArrowRight")
        settled(page)
        assert page.evaluate("chosen().name") == "BtoA" and not np.array_equal(drawn(page), other)
        page.locator("#cut").focus()
        page.keyboard.press("End")
        assert page.locator("#compare").evaluate("x => x.style.getPropertyValue('--cut')") == "100%"
        box = page.locator("#compare").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
        assert page.locator("#compare").evaluate("x => x.style.getPropertyValue('--cut')") in ("24%", "25%", "26%")
        with page.expect_download() as download:
            page.locator("#save").press("Enter")
        assert download.value.suggested_filename == "a cat_BtoA.png"
        assert np.array_equal(np.asarray(Image.open(download.value.path()).convert("RGBA")), drawn(page))
        page.evaluate("""(text) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], "p.png", { type: "image/png" }));
          dispatchEvent(Object.assign(new Event("paste"), { clipboardData }));
        }""", base64.b64encode(encoded(pictures()["odd"])).decode())  # fmt: skip
        settled(page, "result.width === 12")  # the longest side has 16 pixels
        drop(page, b"no picture", "notes.txt")
        assert "notes.txt is not a picture" in page.inner_text("#status")


def test_fifty_drops_keep_memory_and_large_pictures_are_made_smaller(page_of):
    big = encoded(Image.fromarray(scene(300, 500)))
    with opened(page_of("cyclegan")) as page:
        drop(page, big)
        status = page.inner_text("#status")
        assert "19 x 32 pixels" in status and "resized from 300 x 500" in status
        sizes, small = [], encoded(pictures()["even"])
        for i in range(50):
            drop(page, small)
            if i % 10 == 9:
                sizes.append(page.evaluate("performance.memory.usedJSHeapSize"))
        assert sizes[-1] < sizes[0] + 20e6, sizes
        page.select_option("#side", "0")
        settled(page)
        assert page.evaluate("[result.width, result.height]") == [64, 64]
        # as if memory did not suffice for more than 100 pixels a side
        page.evaluate("""() => {
          const real = inputsOf;
          inputsOf = (image, direction) => {
            if (image.width > 100) throw new RangeError("Array buffer allocation failed");
            return real(image, direction);
          };
        }""")
        drop(page, big)
        assert page.evaluate("result.width") == 74 and "the memory does not suffice" in page.inner_text("#status")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_by_touch(page_of, scheme):
    more = dict(width=360, height=740, color_scheme=scheme, has_touch=True, is_mobile=True)
    with opened(page_of("cyclegan"), **more) as page:
        drop(page, encoded(pictures()["even"]))
        page.locator("#directions label").nth(1).tap()
        settled(page)
        assert page.evaluate("chosen().name") == "BtoA"
        assert overflow(page) <= 0 and page.locator("#photo").get_attribute("capture") == "environment"
        for ratio, markup in contrasts(page):
            assert ratio >= 4.5, markup
        for box in page.locator("button:visible, .button:visible, select:visible").all():
            assert box.bounding_box()["height"] >= 44


def test_what_is_in_the_file(page_of):
    text = (page_of("cyclegan") / "index.html").read_text("utf-8")
    assert "Copyright (c) Microsoft Corporation" in text and "connect-src" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert [d["name"] for d in data["directions"]] == ["AtoB", "BtoA"]
    assert "/root" not in text and "default-src 'none'" in text


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    path = saved(tmp_path, "cyclegan")
    call = f"--phase export --device cpu --checkpoint {path} --format html --output {tmp_path}/page.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        main.main([*call.split(), "--ort", f"{tmp_path}/empty"])
    one_line(error, "--ort", "empty", "ort-wasm-simd-threaded.wasm")
    monkeypatch.setattr(web_runtime, "cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError) as error:
        main.main(call.split())
    one_line(error, "npm", "--ort FOLDER")
    assert not (tmp_path / "page.html").exists()
