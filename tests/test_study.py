"""The user study: its page answered in a real browser, and the table of the saved files."""

import json
import random
import sys
from collections import Counter
from itertools import permutations
from math import comb, sqrt
from pathlib import Path

import pytest
from browser import contrasts, loaded, opened, overflow
from PIL import Image, ImageCms, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parents[1] / "figure"))

import study
import study_table

from utils import UserError, run

METHODS = ('NICE-GAN "light"', "<script>alert(1)</script>", "a | b")
QUESTIONS = 12
PAUSE = 501  # milliseconds after which a new view takes a click


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study's folder, made of pictures whose size, format and metadata identify their method."""
    top = tmp_path_factory.mktemp("study")
    folders = {name: top / f"tell-tale {i}" for i, name in enumerate(METHODS)}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for i, folder in enumerate([top / "input", *folders.values()]):
        folder.mkdir()
        for n in range(20):
            told = PngImagePlugin.PngInfo()
            told.add_text("Software", METHODS[i - 1])
            Image.new("RGB", (16 + i, 16), (50 * i, 10 * n, 0)).save(
                folder / f"secret {n:02d}.png", pnginfo=told, icc_profile=profile
            )
    calls = [f"{name}={folder}" for name, folder in folders.items()]
    call = ["--input", str(top / "input"), "--questions", str(QUESTIONS), "--size", "32", "--title", METHODS[1]]
    study.main([*calls, *call, "--out", str(top / "study")])
    return top / "study"


def answered(page) -> dict:
    """The file that the page saves at its end."""
    page.clock.fast_forward(PAUSE)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save my answers").click()
    assert download.value.suggested_filename.startswith("answers-")
    return json.loads(Path(download.value.path()).read_text())


def words(page) -> list[str]:
    """The words of the pictures shown: the input, then the translations."""
    sources = page.locator("#asking img").evaluate_all("all => all.map(i => i.getAttribute('src'))")
    return [Path(source).stem for source in sources]


def whose(folder: Path) -> dict[str, str]:
    """The method of each answer's word."""
    key = json.loads((folder / "key.json").read_text())
    return {word: name for question in key["questions"].values() for word, name in question["answers"].items()}


def choose(page, folder: Path, wanted: list[str | None], keyboard=False) -> list[list[str]]:
    """Answer the next questions with these methods (None: no preference); return the order of methods in each."""
    methods, orders = whose(folder), []
    for method in wanted:
        page.wait_for_function("[...document.querySelectorAll('#asking img')].every(i => i.complete && i.naturalWidth)")
        orders.append([methods[word] for word in words(page)[1:]])
        page.clock.fast_forward(PAUSE)
        if method is None:
            page.keyboard.press("0") if keyboard else page.get_by_role("button", name="No preference").click()
            continue
        place = orders[-1].index(method)
        if keyboard and len(orders) % 2:
            page.keyboard.press(str(place + 1))
        elif keyboard:
            for _ in range(place + 1):
                page.keyboard.press("Tab")
            page.keyboard.press("Enter")
        else:
            page.locator("#answers button").nth(place).click()
    return orders


def test_answers_by_clicks_and_keys_make_the_right_table(made, tmp_path, capsys):
    A, B, C = METHODS
    wanted = [[A] * 7 + [None] + [B] * 3 + [C], [B] * 2 + [A] * 9 + [None]]
    orders, files, drawn, name_of = [], [], [], whose(made)
    for keyboard, methods in enumerate(wanted):
        with opened(made / "page", clock=True) as page:  # a fresh profile: another participant
            assert page.title() == METHODS[1] and page.locator("h1").inner_text() == METHODS[1]
            assert "12 pictures" in page.locator("#task").inner_text()
            page.get_by_role("button", name="Start").click()
            orders.append(choose(page, made, methods, keyboard=bool(keyboard)))
            begun = page.evaluate("Array.from({length: 50}, () => begin().order.map((q) => q.shown)).flat()")
            drawn += [tuple(name_of[word] for word in shown) for shown in begun]  # as 50 more participants would see
            found = answered(page)
        assert len(found["answers"]) == QUESTIONS == len({a["question"] for a in found["answers"]})
        assert all(a["choice"] in [*a["shown"], "none"] and a["seconds"] >= 0 for a in found["answers"])
        files.append(tmp_path / f"{keyboard}.json")
        files[-1].write_text(json.dumps(found))
    assert all(sorted(order) == sorted(METHODS) for order in sum(orders, []))
    # chance of equal orders: 6^-12; of one of the six so rare in 1200: 4e-8
    everyone = sum(orders, []) + drawn
    assert orders[0] != orders[1] and all(len({order.index(m) for order in everyone}) == 3 for m in METHODS)
    assert len(drawn) == 1200 and set(drawn) == {*permutations(METHODS)} and min(Counter(drawn).values()) > 130
    capsys.readouterr()
    study_table.main([str(made), *map(str, files)])
    lines = [
        [cell.strip() for cell in line.replace(r"\|", "¦").split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ]
    escaped = "a ¦ b"
    assert lines[2:6] == [
        [A, "16 of 24", "66.7%", percent(16, 24)],
        [B, "5 of 24", "20.8%", percent(5, 24)],
        [escaped, "1 of 24", "4.2%", percent(1, 24)],
        ["no preference", "2 of 24", "8.3%", percent(2, 24)],
    ]
    assert lines[8:] == [
        [f"{A} : {B}", "16 : 5", f"{exact(16, 21):.2g}", "2 : 0", "0.5"],
        [f"{A} : {escaped}", "16 : 1", f"{exact(16, 17):.2g}", "2 : 0", "0.5"],
        [f"{B} : {escaped}", "5 : 1", f"{exact(5, 6):.2g}", "2 : 0", "0.5"],
    ]


def percent(k: int, n: int, z=1.959964) -> str:
    """Wilson's formula."""
    p = k / n
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{low:.1%} to {high:.1%}"


def exact(k: int, n: int) -> float:
    """The sign test's two-sided p."""
    tail = sum(comb(n, i) for i in range(max(k, n - k), n + 1))
    return min(1.0, 2 * tail / 2**n)


@pytest.mark.parametrize("k, n", [(0, 1), (0, 10), (5, 10), (9, 10), (10, 10), (137, 400)])
def test_intervals_and_signs(k, n):
    low, high = study_table.wilson(k, n)
    assert f"{low:.1%} to {high:.1%}" == percent(k, n)
    for edge in {low, high} - {0.0, 1.0}:  # where k/n lies just 1.96 standard errors away
        assert abs(k / n - edge) == pytest.approx(1.959964 * sqrt(edge * (1 - edge) / n), rel=1e-5, abs=1e-9)
    assert study_table.sign_test(k, n) == pytest.approx(exact(k, n), rel=1e-9)
    assert study_table.sign_test(0, 0) == 1


def test_choices_are_kept_and_can_be_changed(made):
    A, B, _ = METHODS
    with opened(made / "page", confirm=True, clock=True) as page:
        page.get_by_role("button", name="Start").click()
        assert page.get_by_role("button", name="Back").is_disabled()
        choose(page, made, [A, A, A])
        shown = words(page)
        page.reload()
        assert words(page) == shown and page.locator("#place").inner_text() == "4 of 12"
        page.get_by_role("button", name="Back").click()
        assert (
            whose(made)[
                words(page)[1:][
                    page.locator("#answers button").evaluate_all(
                        "all => all.findIndex(b => b.getAttribute('aria-pressed') === 'true')"
                    )
                ]
            ]
            == A
        )
        choose(page, made, [B] * 10)
        page.reload()
        found = answered(page)
        assert [whose(made)[a["choice"]] for a in found["answers"]] == [A, A] + [B] * 10
        first = found["participant"]
        page.get_by_role("button", name="Another participant").click()
        page.clock.fast_forward(PAUSE)
        page.get_by_role("button", name="Start").click()
        choose(page, made, [A] * 12)
        assert answered(page)["participant"] != first


def centre(button) -> tuple[float, float]:
    box = button.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_double_click_answers_one_question(made):
    with opened(made / "page", clock=True) as page:
        page.clock.fast_forward(PAUSE)
        page.mouse.dblclick(*centre(page.get_by_role("button", name="Start")))
        for number in range(1, QUESTIONS + 1):
            assert page.locator("#place").inner_text() == f"{number} of {QUESTIONS}"
            page.clock.fast_forward(PAUSE)
            x, y = centre(page.locator("#answers button").nth(1))
            if number % 3 == 0:  # keys
                page.keyboard.press("2")
                page.keyboard.press("2")
            elif number % 3 == 1:
                page.mouse.dblclick(x, y)
            else:  # slowly
                page.mouse.click(x, y)
                page.clock.fast_forward(PAUSE // 2)
                page.mouse.click(x, y, click_count=2)
        found = answered(page)
        assert [a["shown"].index(a["choice"]) for a in found["answers"]] == [1] * QUESTIONS


def test_two_tabs_keep_all_answers(made):
    A, B, C = METHODS
    with opened(made / "page", confirm=True, clock=True) as page:
        other = page.context.new_page()
        other.goto(page.url)
        page.clock.fast_forward(PAUSE)
        page.get_by_role("button", name="Start").click()
        for number, (tab, method) in enumerate(zip((page, other) * 6, (A, B, None, C) * 3, strict=True), 1):
            tab.bring_to_front()
            tab.wait_for_function(f"document.getElementById('place').textContent === '{number} of {QUESTIONS}'")
            choose(tab, made, [method])
        found = answered(other)
        given = [whose(made).get(a["choice"]) for a in found["answers"]]
        assert given == [A, B, None, C] * 3 and [a["choice"] for a in found["answers"]].count("none") == 3
        page.clock.fast_forward(PAUSE)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Another participant").click()
        other.wait_for_selector("#welcome:not([hidden])")


def test_a_tab_that_missed_the_others_answers_keeps_them(made):
    """Browsers may deliver events of storage late, or to no page on the disk."""
    deaf = "addEventListener('storage', (event) => event.stopImmediatePropagation(), true);"
    with opened(made / "page", clock=True) as page:
        page.context.add_init_script(deaf)
        page.reload()
        page.clock.fast_forward(PAUSE)
        page.get_by_role("button", name="Start").click()
        other = page.context.new_page()
        other.goto(page.url)
        choose(page, made, [METHODS[0]] * 3)
        assert other.locator("#place").inner_text() == "1 of 12"
        choose(other, made, [METHODS[1]])
        state = json.loads(page.evaluate("localStorage.getItem(Object.keys(localStorage)[0])"))
        given = [whose(made)[question["choice"]] for question in state["order"] if question["choice"]]
        assert given == [METHODS[1], METHODS[0], METHODS[0]]


def test_nothing_in_the_page_tells_whose_a_picture_is(made):
    files = [path for path in (made / "page").rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for told in (b"NICE-GAN", b"a | b", b"secret", b"tell-tale"):
            assert told not in content and told not in str(path.relative_to(made)).encode(), path
    pictures = [Image.open(path) for path in files if path.suffix == ".png"]
    assert len(pictures) == QUESTIONS * 4 and {(p.size, str(p.info)) for p in pictures} == {((32, 32), "{}")}
    data = (made / "page" / "index.html").read_text()
    inside = json.loads(data.split('id="data">')[1].split("</script>")[0])
    ranks = {tuple(whose(made)[word] for word in question["answers"]) for question in inside["questions"]}
    assert len(ranks) > 1  # the order of words does not follow the methods
    assert len(inside["study"]) == 32 and all(len(word) == 10 for word in inside["pictures"])


def test_the_page_cannot_be_checked_against_a_guess(tmp_path, monkeypatch):
    """Two studies of the same pictures share nothing, and swapping the methods' folders changes nothing but the key."""
    monkeypatch.chdir(tmp_path)
    for i, folder in enumerate(["in", "x", "y"]):
        (tmp_path / folder).mkdir()
        for n in range(3):
            Image.new("RGB", (8, 8), (80 * i, 40 * n, 0)).save(tmp_path / folder / f"{n}.png")
    pages = []
    for out in ("one", "two"):
        random.seed(0)
        study.main(["--input", "in", "x=x", "y=y", "--out", out])
        pages.append((tmp_path / out / "page" / "index.html").read_text().split('id="data">')[1].split("</script>")[0])
    first, second = map(json.loads, pages)
    assert first["study"] != second["study"] and not first["pictures"].keys() & second["pictures"].keys()
    # the page follows from its words and the pictures: with the key's methods exchanged it is the same to the byte
    key = json.loads((tmp_path / "one" / "key.json").read_text())
    for entry in key["questions"].values():
        entry["answers"] = {word: {"x": "y", "y": "x"}[name] for word, name in entry["answers"].items()}
    (tmp_path / "one" / "key.json").write_text(json.dumps(key))
    before = {p.name: p.read_bytes() for p in (tmp_path / "one" / "page").rglob("*") if p.is_file()}
    study.main(["--input", "in", "x=y", "y=x", "--out", "one"])
    assert {p.name: p.read_bytes() for p in (tmp_path / "one" / "page").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "folder, wanted",
    [
        ("cat2dog/testA", "Which looks most like a real dog, and most like this cat turned into one?"),
        ("cat2dog/testB", "Which looks most like a real cat, and most like this dog turned into one?"),
        ("mine/photos", study.QUESTION),
    ],
)
def test_the_question_says_what_the_task_is(folder, wanted, tmp_path):
    assert study.question_of(tmp_path / folder) == wanted


def test_answers_get_their_inputs_proportions(tmp_path):
    for folder, size in (("in", (40, 20)), ("x", (16, 16)), ("y", (80, 40))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", size).save(tmp_path / folder / "1.png")
    study.main([f"--input={tmp_path}/in", f"x={tmp_path}/x", f"y={tmp_path}/y", "--out", f"{tmp_path}/s", "--size=30"])
    assert {Image.open(p).size for p in (tmp_path / "s/page/pictures").iterdir()} == {(30, 15)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes_and_phone(made, scheme):
    with opened(
        made / "page", clock=True, width=360, height=640, color_scheme=scheme, has_touch=True, is_mobile=True
    ) as page:
        seen = contrasts(page)
        page.get_by_role("button", name="Start").tap()
        seen += contrasts(page)
        assert overflow(page) <= 0 and min(seen)[0] >= 4.5, min(seen)
        assert sorted(page.locator("#asking img").evaluate_all("all => all.map(i => i.alt)")) == [
            "Answer 1",
            "Answer 2",
            "Answer 3",
            "The picture to be translated",
        ]
        page.wait_for_function("document.querySelectorAll('#asking img').length === 4")
        choose(page, made, [METHODS[0]])
        assert page.locator("#place").inner_text() == "2 of 12" and len(loaded(page, "#asking img")) <= 4


@pytest.fixture
def answers(made, tmp_path):
    """A function that writes a participant's file: the first `count` questions, the first choice in each."""
    key = json.loads((made / "key.json").read_text())

    def write(name, participant, count, **changed) -> Path:
        given = [
            {"question": q, "choice": min(key["questions"][q]["answers"])} for q in sorted(key["questions"])[:count]
        ]
        path = tmp_path / name
        path.write_text(json.dumps({"study": key["study"], "participant": participant, "answers": given} | changed))
        return path

    return write


def test_the_fuller_file_of_a_participant_counts(made, answers, capsys):
    files = [
        answers("a.json", "p", 3),
        answers("b.json", "p", 12),
        answers("c.json", "p", 5),
        answers("d.json", "q", 2),
    ]
    study_table.main([str(made), *map(str, files)])
    said, err = capsys.readouterr()
    assert said.startswith("2 participants, 14 answers\n") and len(err.splitlines()) == 2


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_columns_with_intervals(suffix, made, answers, tmp_path, capsys):
    out = tmp_path / "new" / f"shares.{suffix}"
    study_table.main([str(made), str(answers("a.json", "p", 12)), "--plot", str(out)])
    assert "shares." in capsys.readouterr().out and out.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    with pytest.raises(SystemExit):
        study_table.main([str(made), str(answers("a.json", "p", 12)), "--plot", "shares.gif"])


BAD_ANSWERS = {
    "another study": ({"study": "other"}, "answers another study"),
    "changed": ({"answers": [{"question": "zzz", "choice": "0"}]}, "was changed"),
    "not of a page": ({"answers": "none"}, "cannot read"),
    "empty": ({"answers": []}, "hold no answer"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answers_are_one_line(name, made, answers, capsys):
    changed, wanted = BAD_ANSWERS[name]
    call = [str(made), str(answers("bad.json", "p", 1, **changed))]
    complains(lambda: study_table.main(call), "study_table.py", wanted, capsys)


BAD = {
    "one method": ("--input {top}/a x={top}/b", "two methods or more"),
    "twins": ("--input {top}/a x={top}/b x={top}/a", "a name of its own"),
    "no name": ("--input {top}/a {top}/b y={top}/b", "METHOD=DIR"),
    "missing": ("--input {top}/a x={top}/a y={top}/b", "/b has no picture 2"),
    "key of another": ("--input {top}/b x={top}/a y={top}/b --out {top}/old", "choose another --out"),
    "no folder": ("--input {top}/absent x={top}/a y={top}/b", "absent"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / file)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "key.json").write_text('{"study": "precious"}')
    call, wanted = BAD[name]
    complains(lambda: study.main(call.format(top=tmp_path).split()), "study.py", wanted, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "old"]


def complains(call, name, wanted, capsys):
    with pytest.raises(SystemExit) as end:
        run(call, name)
    said, err = capsys.readouterr()
    assert (end.value.code, said) == (2, "") and err.startswith(f"{name}: error: ")
    assert err.count("\n") == 1 and wanted in err


def test_a_study_made_again_is_the_same(made, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "1.png")
    call = ["--input", str(folders[0]), f"x={folders[1]}", f"y={folders[2]}", "--out", str(tmp_path / "study")]
    study.main(call)
    key = (tmp_path / "study" / "key.json").read_bytes()
    study.main(call)  # answers given in between stay valid
    assert (tmp_path / "study" / "key.json").read_bytes() == key
    with pytest.raises(UserError, match="another study"):
        study.main([*call[:2], f"z={folders[2]}", *call[2:]])
    former = json.loads(key) | {"study": "0" * 16}  # of a version whose words come from a seed
    (tmp_path / "study" / "key.json").write_text(json.dumps(former))
    with pytest.raises(UserError, match="another study"):
        study.main(call)
