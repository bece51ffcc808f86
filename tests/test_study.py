"""The user study: its page answered in a real browser, and the table of the saved files."""

import json
import sys
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


def choose(page, folder: Path, wanted: list[str], keyboard=False) -> list[list[str]]:
    """Answer the next questions with these methods; return the order of methods in each question."""
    methods, orders = whose(folder), []
    for method in wanted:
        page.wait_for_function("[...document.querySelectorAll('#asking img')].every(i => i.complete && i.naturalWidth)")
        orders.append([methods[word] for word in words(page)[1:]])
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
    wanted = [[A] * 8 + [B] * 3 + [C], [B] * 2 + [A] * 10]
    orders, files = [], []
    for keyboard, methods in enumerate(wanted):
        with opened(made / "page") as page:  # a fresh profile: another participant
            assert page.title() == METHODS[1] and page.locator("h1").inner_text() == METHODS[1]
            assert "12 pictures" in page.locator("#task").inner_text()
            page.get_by_role("button", name="Start").click()
            orders.append(choose(page, made, methods, keyboard=bool(keyboard)))
            found = answered(page)
        assert len(found["answers"]) == QUESTIONS == len({a["question"] for a in found["answers"]})
        assert all(a["choice"] in a["shown"] and a["seconds"] >= 0 for a in found["answers"])
        files.append(tmp_path / f"{keyboard}.json")
        files[-1].write_text(json.dumps(found))
    assert all(sorted(order) == sorted(METHODS) for order in sum(orders, []))
    # chance of equal orders: 6^-12; of one method always in one place: 3^-11
    assert orders[0] != orders[1] and all(len({order.index(m) for order in sum(orders, [])}) == 3 for m in METHODS)
    capsys.readouterr()
    study_table.main([str(made), *map(str, files)])
    lines = [
        [cell.strip() for cell in line.replace(r"\|", "¦").split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ]
    escaped = "a ¦ b"
    assert lines[2:5] == [
        [A, "18 of 24", "75.0%", percent(18, 24)],
        [B, "5 of 24", "20.8%", percent(5, 24)],
        [escaped, "1 of 24", "4.2%", percent(1, 24)],
    ]
    assert lines[7:] == [
        [f"{A} : {B}", "18 : 5", f"{exact(18, 23):.2g}", "2 : 0", "0.5"],
        [f"{A} : {escaped}", "18 : 1", f"{exact(18, 19):.2g}", "2 : 0", "0.5"],
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
    with opened(made / "page", confirm=True) as page:
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
        page.get_by_role("button", name="Start").click()
        choose(page, made, [A] * 12)
        assert answered(page)["participant"] != first


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes_and_phone(made, scheme):
    with opened(made / "page", width=360, height=640, color_scheme=scheme, has_touch=True, is_mobile=True) as page:
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
        study.main([*call, "--seed", "1"])
