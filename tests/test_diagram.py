"""--phase info --diagram FILE: the networks as one SVG with the numbers of --phase info."""

import re
import xml.etree.ElementTree as ET

import pytest
import runs

import main
import methods
from training.diagram import COLOURS, write

SMALL = "--phase info --device cpu --img_size 64 --ch 4 --n_dis 6 --n_res 2"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(path) -> tuple[list[str], ET.Element]:
    """The texts of the picture, in order, and its root."""
    root = ET.parse(path).getroot()
    return [element.text for element in root.iter(f"{SVG}text")], root


def listed(said: str) -> list[tuple[str, ...]]:
    """(module, output, parameters, multiply-adds) of each row that --phase info prints."""
    rows = re.findall(r"^  (\S+) +((?:[\d]+(?: x \d+)*)?) {2,}([\d,]+) +([\d,]+)$", said, re.M)
    return [(name, shape.strip(), *numbers) for name, shape, *numbers in rows if name != "sum"]


OF_MUNIT = f"--phase info --device cpu --method munit {runs.SMALL['munit']}"


@pytest.mark.parametrize("text", [SMALL, f"{SMALL} --nice false --heads 0,1", OF_MUNIT])
def test_numbers_are_those_of_phase_info(text, tmp_path, capsys):
    main.main([*text.split(), "--diagram", str(tmp_path / "sub" / "nets.svg")])
    said = capsys.readouterr().out
    texts, _ = drawn(tmp_path / "sub" / "nets.svg")
    found = [
        (name, "" if shape == "not run alone" else shape, parameters.split()[0], products.split()[0])
        for name, shape, parameters, products in zip(texts, texts[1:], texts[2:], texts[3:], strict=False)
        if parameters.endswith(" parameters") and products.endswith(" multiply-adds")
    ]
    rows = listed(said)
    assert len(rows) > 10 and sorted(found) == sorted(rows)
    sums = re.findall(r"^  sum +([\d,]+) +([\d,]+)$", said, re.M)
    assert sums == [tuple(re.findall(r"[\d,]*\d", words)) for words in texts if words.startswith("sum:")]
    together = re.findall(r"^  ([a-z ]+?) +([\d.]+[KMG]?) +([\d.]+[KMG]?)$", said.partition("together")[2], re.M)
    assert together and all(f"{name}: {p} parameters, {m} multiply-adds" in texts for name, p, m in together)


def rows_of(path) -> dict[str, str]:
    """{module: colour of its box}."""
    elements = list(ET.parse(path).getroot())
    return {after.text: box.get("fill") for box, after in zip(elements, elements[1:], strict=False)
            if box.tag == f"{SVG}rect" and box.get("fill") in COLOURS and after.tag == f"{SVG}text"}  # fmt: skip


@pytest.mark.parametrize("updates, model, fc", [("d", "D", "D"), ("g", "G", "D"), ("both", "D and G", "D")])
def test_what_an_update_trains_and_what_is_shared(updates, model, fc, tmp_path):
    path = tmp_path / "nets.svg"
    args = main.parse_args([*SMALL.split(), "--encoder_updates", updates, "--diagram", str(path)])
    write(methods.load("nice"), args)
    texts, root = drawn(path)
    colours = rows_of(path)
    legend = {words.removeprefix("trained by "): colours[words] for words in texts if words.startswith("trained by ")}
    expected = {
        "model": model,
        "fc": fc,
        "conv1x1": model,
        "lamda": model,
        "Dis0_1": "D",
        "conv1": "D",
        "UpBlock2": "G",
    }
    assert {name: colours[name] for name in expected} == {name: legend[way] for name, way in expected.items()}
    own = texts.index("Dis0_1")
    assert all(texts.index(name) < own for name in ("model", "fc", "conv1x1", "lamda"))
    assert "encodes for translation: disA -> gen2B, disB -> gen2A" in texts[:own]
    assert len([p for p in root.iter(f"{SVG}path") if p.get("marker-end")]) == 1
    trains = {words.split()[0]: words for words in texts if " trains " in words}
    assert trains["D"].startswith("D (d_loss) trains disA") and trains["G"].startswith("G (g_loss) trains gen2B")
    assert ("disA in part" in trains["G"]) == (updates != "d") and ("disA in part" in trains["D"]) == (updates == "g")


def test_mistakes_are_one_line(tmp_path, capsys):
    for words, said in ((["--phase=info", "--diagram=a.png"], "end it in .svg"), (["--diagram=a.svg"], "--phase info")):
        with pytest.raises(SystemExit) as leaving:
            main.main([*words, "--device=cpu", "--dataset", str(tmp_path / "demo")])
        error = capsys.readouterr().err
        assert leaving.value.code == 2 and said in error and error.count("\n") == 1
    assert not [*tmp_path.iterdir()]
