"""The page of figure/gallery.py in a real browser."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import contrasts, loaded, opened, overflow
from PIL import Image

import main
from training.run_record import version
from utils import UserError, run

sys.path.insert(0, str(Path(__file__).parents[1] / "figure"))

import curves
import gallery

RED, BLUE, GREEN = (220, 20, 20), (20, 20, 220), (20, 160, 20)
NASTY = """a "b" 'c' <script>alert(1)</script> &amp; ü"""  # its "/" separates folders in a path


def paint(path: Path, colour, size=(24, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def made_run(
    top: Path, name="toy", inputs=("1.png", "2.png"), steps=(100, 200, 300), log=None, colour=BLUE, ways=("A2B", "B2A")
):
    """Make a run's folder and its data set: red inputs, translations of this colour, sample grids of steps."""
    folder = top / "results" / name
    for way in ways:
        for step in steps:
            paint(folder / "img" / f"{way}_{step:07d}.png", (step % 256, 99, 99), (128, 32))
        for file in inputs:
            paint(top / "dataset" / "toy" / f"test{way[0]}" / file, RED)
            paint(folder / f"fake{way[-1]}" / file, colour)
    lines = log or [{"step": s, "d_loss": 3 - s / 200, "cycle_A": s / 1000, "cycle_B": 0.5, "lr": 1e-4} for s in steps]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def written(top: Path, *runs, out="page") -> Path:
    gallery.main([*map(str, runs), "--data", str(top / "dataset" / "toy"), "--out", str(top / out)])
    return top / out


def texts(page, selector) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A page of two runs, the second with one direction and two translations of each picture."""
    top = tmp_path_factory.mktemp("plain")
    one = made_run(top)
    other = made_run(top, "other", ["1_0.png", "1_1.png"], steps=(150, 250), colour=GREEN, ways=["A2B"])
    for file in (top / "dataset" / "toy" / "testA").glob("1_?.png"):
        file.unlink()
    return written(top, one, f"second={other}")


def test_of_a_real_run(folders, tmp_path):
    data, results = folders
    where = ["--dataset", "toy", "--dataset_dir", str(data), "--result_dir", str(results), "--device", "cpu"]
    tiny = "--img_size 48 --ch 2 --n_res 1 --n_dis 6 --num_workers 0 --iteration 2 --log_freq 1 --print_freq 1"
    main.main([*tiny.split(), *where])
    main.main(["--phase", "test", *where])
    gallery.main([str(results / "toy"), "--data", str(data / "toy")])
    with opened(results / "toy" / "page") as page:
        assert page.title() == "toy" and texts(page, "nav a") == ["Training", "Options and versions", "Translations"]
        assert texts(page, "#film figcaption") == ["toy, A to B, step 2"]
        assert version("torch") in page.content()  # from run.json
        page.locator("#translations .card").first.scroll_into_view_if_needed()  # only visible cards are painted
        page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
        assert texts(page, ".card .name") == ["0.png", "1.png"]
        assert page.locator("#film img").evaluate("i => [i.naturalWidth, i.naturalHeight]") == [6 * 48, 5 * 48]
        assert not page.locator("img:not([alt]), img[alt='']").count()
        shown = dict(zip(texts(page, ".panel figcaption"), texts(page, ".panel .legend"), strict=True))
        last = curves.read(results / "toy")[-1]
        assert float(shown["discriminator's loss"]) == pytest.approx(last["d_loss"], rel=5e-3)
        assert page.locator(".panel path.line").count() == len(last) - 2  # neither step nor dropped


def test_film_by_mouse_and_keys(plain):
    with opened(plain) as page:
        slider, captions = page.locator("#step"), "#film figcaption"
        assert texts(page, captions) == ["toy, A to B, step 300", "second, A to B, step 250"]
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert texts(page, captions) == ["toy, A to B, step 200", "second, A to B, step 250"]  # the newest of each
        assert texts(page, "#step-shown") == ["250 of 300"]
        page.keyboard.press("ArrowLeft")
        assert texts(page, captions) == ["toy, A to B, step 200", "second, A to B, step 150"]
        assert slider.get_attribute("aria-valuetext") == "step 200"
        page.wait_for_function("document.querySelector('#film img').naturalWidth == 128")
        assert "film_0_A2B_200" in page.locator("#film img").first.get_attribute("src")
        losses = page.locator(".panel", has_text="discriminator's loss")
        assert losses.locator(".legend li").all_inner_texts() == ["toy 2", "second 2.25"]  # the logs, at that step
        box = slider.bounding_box()
        page.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
        assert texts(page, captions)[0] == "toy, A to B, step 100"
        page.mouse.move(*middle(losses.locator("> svg"), 0.99))  # curves can be read with the mouse, too
        assert losses.locator(".legend li").all_inner_texts() == ["toy 1.5", "second 1.75"]
        page.locator("#film-ways input").nth(1).check()
        assert texts(page, captions)[0] == "toy, B to A, step 100"
        assert page.locator(".frame:visible").count() == 1  # the other has no such direction
        page.locator("#play").press("Space")
        page.wait_for_function(
            "document.querySelector('#step').value == 4 && document.querySelector('#play').textContent == 'Play'"
        )
        assert texts(page, captions)[0] == "toy, B to A, step 300"


def middle(locator, across=0.5) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + across * box["width"], box["y"] + box["height"] / 2


def colours(locator) -> np.ndarray:
    """Colours on the screen at 1/8, 3/8, 5/8 and 7/8 of an element's width, near its upper edge: (4,3)."""
    shot = np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"))
    return shot[shot.shape[0] // 6, [shot.shape[1] * k // 8 for k in (1, 3, 5, 7)]].astype(int)


def near(seen: np.ndarray, *wanted) -> bool:
    return np.abs(seen - np.array(wanted)).max() <= 6


def test_before_and_after_by_mouse_and_keys(plain):
    with opened(plain) as page:
        boxes = page.locator(".compare")
        boxes.first.scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('.compare img').complete")
        assert near(colours(boxes.first), BLUE, BLUE, BLUE, BLUE)
        page.mouse.move(*middle(boxes.first, 0.02))
        page.mouse.down()
        page.mouse.move(*middle(boxes.first, 0.5), steps=5)
        page.mouse.up()
        page.wait_for_function("[...document.querySelectorAll('.compare img')].slice(0, 2).every(i => i.complete)")
        assert near(colours(boxes.first), RED, RED, BLUE, BLUE)
        slider = boxes.nth(1).get_by_role("slider", name="Input over 1.png translated to B by second 1")
        slider.focus()
        for _ in range(38):  # steps of 2 %
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(100)
        assert near(colours(boxes.nth(1)), RED, RED, RED, GREEN)
        page.locator("#all").fill("50")
        page.wait_for_timeout(100)
        assert near(colours(boxes.first), RED, RED, BLUE, BLUE) and near(colours(boxes.nth(1)), RED, RED, GREEN, GREEN)


def test_methods_in_columns_and_controls(plain):
    with opened(plain) as page:
        assert texts(page, ".card") == [
            "1.png\n\ninput\ntoy\nsecond 1\nsecond 2",
            "2.png\n\ninput\ntoy\nno picture\nsecond",
        ]
        tops = [page.locator(".card").first.locator("img").nth(k).bounding_box()["y"] for k in range(4)]
        assert max(tops) - min(tops) < 1  # one row
        page.locator("#filter").fill("2.P")
        assert texts(page, ".card:visible .name") == ["2.png"]
        assert texts(page, "#count") == ["1 of 2"]
        page.locator("#filter").fill("")
        page.locator("#ways input").nth(1).check()
        assert page.locator(".card").first.locator("img").nth(1).get_attribute("alt") == "1.png translated to A by toy"
        page.locator("#size").fill("304")
        assert page.locator(".shot").first.bounding_box()["width"] == pytest.approx(304, abs=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes_and_phone(plain, scheme):
    with opened(plain, width=360, height=740, color_scheme=scheme, has_touch=True, is_mobile=True) as page:
        seen = contrasts(page)
        assert len(seen) > 40 and min(seen)[0] >= 4.5, min(seen)
        assert (
            sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1].split(","))) > 382
        ) == (scheme == "light")
        assert overflow(page) <= 0
        boxes = [card.bounding_box() for card in page.locator(".shot").all()]
        assert len({round(box["y"]) for box in boxes[:4]}) == 1  # all columns stay in one row
        assert page.locator("#film img").first.bounding_box()["width"] <= 340
        assert texts(page, "#film p")[0].startswith("Rows, from the top: Input")
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)


def test_names_are_text(tmp_path):
    inputs = [f"{NASTY}/{NASTY}.png", "2.png"]
    lines = [{"step": 1, NASTY: 1.0, "d_loss": 1.0}]
    folder = made_run(tmp_path / NASTY, NASTY, inputs, log=lines)
    (folder / "run.json").write_text(json.dumps([{"method": NASTY, "options": {NASTY: NASTY}}]))
    out = written(tmp_path / NASTY, f"{NASTY}={folder}", out=f"{NASTY} page")
    with opened(out) as page:
        assert page.locator("script").count() == 3
        assert texts(page, ".card .name")[1] == inputs[0]
        assert texts(page, "#film figcaption")[0].startswith(f"{NASTY}, A to B")
        assert NASTY in texts(page, ".card figcaption") and NASTY in texts(page, ".panel figcaption")
        page.locator("#options summary").click()
        assert texts(page, "#options tbody th, #options tbody td") == ["method", NASTY, NASTY, NASTY]
        assert f"Input {inputs[0]}" in page.locator(".card img").evaluate_all("all => all.map(i => i.alt)")


SCROLL = """async () => {
  const times = [];
  const end = document.scrollingElement.scrollHeight;
  for (let y = 0; y < end; y += end / 40) {
    scrollTo({ top: y, behavior: "instant" });
    times.push(await new Promise((done) => requestAnimationFrame((a) => requestAnimationFrame((b) => done(b - a)))));
  }
  scrollTo({ top: document.scrollingElement.scrollHeight, behavior: "instant" });
  return times;
}"""


PAINTED = """(all) =>
  all.filter((card) => card.firstChild.checkVisibility({ contentVisibilityAuto: true })).length
"""
FRAME = """() => {
  const asked = performance.now();
  return new Promise((done) => requestAnimationFrame(() => done(performance.now() - asked)));
}"""


def test_500_pictures_stay_smooth(tmp_path):
    folder = made_run(tmp_path, inputs=[f"{i:03d}.png" for i in range(500)], ways=["A2B"])
    with opened(written(tmp_path, folder)) as page:
        timing = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        assert timing < 3000
        assert page.locator(".card").count() == 500 and 0 < len(loaded(page, "#cards img")) < 200  # of 1000
        assert 0 < page.locator(".card").evaluate_all(PAINTED) < 100
        frames = page.evaluate(SCROLL)  # milliseconds; 17 each on an idle machine
        assert np.median(frames) < 100 and np.percentile(frames, 90) < 250, frames
        page.wait_for_function("[...document.images].at(-1).naturalWidth == 24")
        page.locator("#all").fill("30")
        assert page.evaluate(FRAME) < 500


def test_scores_and_run_json(tmp_path):
    logs = [
        [
            {"step": 1, "fid_B": 90.0, "kid_mean": 5},
            {"step": 2, "fid_B": 70.5},
            {"step": 3, "fid_B": 80, "coat_texture_A2B": 0.2},
        ],
        [{"step": 3, "fid_B": 75.25, "coat_texture_A2B": 1.75}],
    ]
    runs = [made_run(tmp_path, f"run{k}", log=log) for k, log in enumerate(logs)]
    start = {
        "method": "nice",
        "seed": 0,
        "gpu": None,
        "versions": {"torch": "2.14.0"},
        "git": {"commit": "ab12", "clean": True},
        "data": {"trainA": {"pictures": 5, "digest": "77aa"}},
        "options": {"lr": 1e-4, "heads": "0,1"},
    }
    again = start | {"versions": {"torch": "2.15.0"}}
    (runs[0] / "run.json").write_text(json.dumps([start, again]))
    (runs[1] / "run.json").write_text(json.dumps([start | {"options": {"lr": 2e-4, "heads": "0,1"}}]))
    with opened(written(tmp_path, *runs)) as page:

        def rows(table):
            found = [row.split("\t") for row in page.locator(f"{table} tbody tr").all_inner_texts()]
            return {name: cells for name, *cells in found}

        assert rows("#scores") == {
            "FID, into B": ["80 best 70.5 at 2, chosen on the test pictures", "75.3"],
            "KID, mean": ["5", ""],
            "strength of the coat's pattern (right: 1), A to B": ["0.2", "1.75"],
        }
        assert texts(page, "#scores td b") == ["75.3", "5", "1.75"]
        versions = rows("#options > .scroll")
        assert versions["versions: torch"] == ["2.14.0 → 2.15.0", "2.14.0"]
        assert versions["git: clean"] == ["true", "true"] and versions["seed"] == ["0", "0"]
        assert versions["gpu"] == ["none", "none"]
        assert versions["data: trainA"] == ["pictures 5, digest 77aa"] * 2
        page.locator("#options summary").click()
        assert texts(page, "#options mark") == ["versions: torch", "lr"]
        assert rows("#options details") == {"lr": ["0.0001", "0.0002"], "heads": ["0,1", "0,1"]}


def test_any_format_is_shown_at_the_size_of_its_translation_in_the_proportions_of_its_input(tmp_path):
    folder = made_run(tmp_path, inputs=["a.tif", "b.ppm", "c.bmp"], ways=["A2B"])
    paint(tmp_path / "dataset" / "toy" / "testA" / "c.bmp", RED, (900, 600))
    paint(folder / "fakeB" / "b.ppm", BLUE, (1200, 40))
    with opened(written(tmp_path, folder)) as page:
        page.locator("#translations").scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
        sizes = page.locator(".card img").evaluate_all("all => all.map(i => [i.naturalWidth, i.naturalHeight])")
        assert sizes == [[24, 24], [24, 24], [512, 512], [512, 512], [24, 16], [24, 16]]


def test_a_page_is_replaced_atomically(tmp_path):
    folder = made_run(tmp_path, inputs=["1.png", "2.png", "3.png"])
    first = {p.name for p in (written(tmp_path, folder) / "pictures").iterdir()}
    (folder / "fakeB" / "3.png").unlink()
    paint(folder / "fakeA" / "2.png", BLUE)
    second = {p.name for p in (written(tmp_path, folder) / "pictures").iterdir()}
    assert first - second == {"A2B_2_0_0.png"}
    (folder / "fakeB" / "2.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot read the picture"):
        written(tmp_path, folder)
    assert {p.name for p in (tmp_path / "page" / "pictures").iterdir()} == second
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset", "page", "results"]


BAD = {  # case: arguments, part of the message
    "nothing": ("{top}/dataset", "nothing to show"),
    "no data": ("{run} --data {top}/absent", "absent/testA"),
    "other data": ("{run} --data {top}/elsewhere", "has no translation of any picture"),
    "taken": ("{run} --data {top}/dataset/toy --out {run}", "holds something other"),
    "twins": ("{run} {run}/log.jsonl", "two runs are named toy"),
    "run.json": ("{top}/torn", "run.json"),
    "frames": ("{run} --frames 1", "--frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path, capsys):
    folder = made_run(tmp_path)
    for way in "AB":
        paint(tmp_path / "elsewhere" / f"test{way}" / "x.png", RED)
    made_run(tmp_path / "torn_", "torn")
    (tmp_path / "torn_/results/torn").rename(tmp_path / "torn")
    (tmp_path / "torn" / "run.json").write_text('[{"method": ')
    before = sorted(tmp_path.rglob("*"))
    call, wanted = BAD[name]
    with pytest.raises(SystemExit) as end:
        run(lambda: gallery.main(call.format(top=tmp_path, run=folder).split()), "gallery.py")
    said, err = capsys.readouterr()
    assert (end.value.code, said) == (2, "") and wanted in err.splitlines()[-1]
    assert name == "frames" or (err.startswith("gallery.py: error: ") and err.count("\n") == 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_matching_names():
    def paths(*names):
        return [Path(name) for name in names]

    inputs = paths("a.jpg", "a_1.png", "b.png", "b.tif", "sub/a.png")
    answers = paths("a_0.jpg", "a_1.png", "a_1_2.png", "b.tif", "b.webp", "stray.png", "sub/a.jpg", "_.png")
    assert gallery.matched(inputs, answers) == [
        paths("a_0.jpg"),
        paths("a_1.png", "a_1_2.png"),
        paths("b.webp"),
        paths("b.tif"),
        paths("sub/a.jpg"),
    ]


def test_long_curves_are_thinned_to_means():
    steps = list(range(1, 2501))
    assert gallery.thinned(steps[:1000]) == steps[:1000]
    assert len(gallery.thinned(steps)) == 1000 and np.mean(gallery.thinned([7.0] * 5000)) == 7
    assert gallery.thinned(steps * 2)[:2] == [3, 8] and gallery.thinned([1 / 3]) == [0.333333]
