"""Mutated option values and JSON files: accepted, or refused in one line with status 2, and quickly."""

import json
import random
import sys
import time

import pytest
from runs import ROOT, SMALL

import main
from utils import UserError

sys.path.insert(0, str(ROOT / "figure"))

COUNTS = [150, pytest.param(10_000, marks=pytest.mark.slow)]
VALUES = ["", "0", "-1", "1e999", "nan", "9" * 400, "true", "None", "[1]", "a\nb", "\udcff", "../x", "/dev/zero", "@x",
          "--ch", "0x10", "\u0663", "1_0", " 1", "1.5", "cuda:99", "x" * 5000, "\0"]  # fmt: skip


@pytest.mark.parametrize("count", COUNTS)
def test_options(count, capsys):
    noise, ended = random.Random(0), {"taken": 0, "refused": 0}
    for i in range(count):
        method = noise.choice(list(SMALL))
        names = [a.option_strings[0] for a in main.build_parser(method)._actions if a.option_strings[0] != "-h"]
        argv = ["--method", method, "--device", "cpu"]
        for _ in range(noise.randrange(1, 4)):
            argv += [noise.choice(names)] + [noise.choice(VALUES)] * noise.choice((1, 1, 1, 0))
        start = time.monotonic()
        try:
            main.parse_args(argv)
            ended["taken"] += 1
        except SystemExit as leaving:
            assert leaving.code == 2, argv
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and err[:-1].isprintable() and "error: " in err, (argv, err)
            ended["refused"] += 1
        except UserError as error:
            assert "\n" not in str(error), argv
            ended["refused"] += 1
        assert time.monotonic() - start < 20, (i, argv)
    with capsys.disabled():
        print(f"\noptions: {ended}")


def mutated(value, noise):
    """The value with something in it replaced, lost or nested."""
    strange = [None, True, -1, 10**400, 1.5, "", "\udcff\x1b", [], {}, [[1]], {"a": 1}, float("inf")]
    if isinstance(value, (dict, list)) and value and noise.random() < 0.8:
        value = value.copy()
        key = noise.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if noise.random() < 0.2:
            del value[key]
        else:
            value[key] = mutated(value[key], noise)
        return value
    return noise.choice(strange)


@pytest.mark.parametrize("count", COUNTS)
def test_answers_to_a_study(count, tmp_path, capsys):
    import study_table

    noise, ended = random.Random(0), {"taken": 0, "refused": 0}
    key = {"study": "s", "methods": ["a", "b"]}
    key["questions"] = {f"q{i}": {"answers": {"x": "a", "y": "b"}} for i in range(4)}
    answers = {"study": "s", "participant": "p"}
    answers["answers"] = [{"question": f"q{i}", "choice": "xy"[i % 2]} for i in range(4)]
    (tmp_path / "key.json").write_text(json.dumps(key))
    for _ in range(count):
        text = json.dumps(mutated(answers, noise))
        if noise.random() < 0.3:
            at = noise.randrange(len(text))
            text = text[:at] + noise.choice(["", "\\", '"', "[" * 9999, "\0"]) + text[at + noise.randrange(3) :]
        (tmp_path / "x.json").write_text(text, errors="surrogatepass")
        try:
            study_table.main([str(tmp_path), str(tmp_path / "x.json")])
            ended["taken"] += 1
        except UserError as error:
            assert str(error).isprintable() and "\n" not in str(error)
            ended["refused"] += 1
    with capsys.disabled():
        print(f"\nanswers: {ended}")
