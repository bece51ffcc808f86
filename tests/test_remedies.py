"""A remedy names an option of the script that prints it, and no other."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

import options
from options import remedies

SCRIPTS = {  # file: the modules whose messages are its own
    "fid_kid.py": ["fid_kid.py", "options/scores.py", "scoring/comparison.py", "scoring/labels.py"],
    "dataset/get.py": ["images/data_sets.py", "images/made.py", "images/packages.py"],
    "demo/__main__.py": ["demo/__main__.py", "demo/area.py"],
    **{f"figure/{name}.py": [f"figure/{name}.py"] for name in (
        "activations", "answers", "compare", "curves", "gallery", "heatmaps", "latent", "shared_latent", "study",
        "study_table")},
    "benchmarks/table1.py": [f"benchmarks/{name}.py" for name in ("table1", "tables", "costs", "contestants",
                                                                  "counterparts")],
    "benchmarks/ablation.py": ["benchmarks/ablation.py"],
    "benchmarks/bench.py": ["benchmarks/bench.py"],
    "benchmarks/bench_scores.py": ["benchmarks/bench_scores.py"],
    "benchmarks/kernels.py": ["benchmarks/kernels.py"],
    "benchmarks/intervals.py": ["benchmarks/intervals.py"],
}  # fmt: skip
OF_MAIN = ["options/program.py", "nicegan/command_line.py", "translation", "training", "methods", "NICE.py",
           "dataset.py", "images/files.py"]  # fmt: skip
# messages that several scripts print name no option but these, which all of those have
SHARED = {"images/decode.py": [], "images/turns.py": [], "images/encode.py": [], "images/scales.py": [],
          "checkpoints": ["--score_freq", "--dataset", "--result_dir", "--checkpoint"],
          "figure/common.py": ["--out", "--method"], "figure/webpage.py": ["--out"], "utils.py": []}  # fmt: skip
OTHER = re.compile(r"`[^`]*`|(main|fid_kid|get)\.py\S* [^;:,]*|pip (install|download)[^;:]*")  # another's command


def messages(path: Path) -> list[tuple[int, str]]:
    """Lines and texts of all errors, notes and remedies in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        name = ""
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        if name in ("UserError", "RunError", "DiskError", "ValueError", "error", "print", "remedy"):
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            found.append((node.lineno, OTHER.sub("", " ".join(texts))))
    return found


def named_in(paths: list[str]) -> dict[str, str]:
    """{option: where it is named} in the messages of these files and folders."""
    files = [file for path in map(ROOT.joinpath, paths) for file in ([path] if path.is_file() else path.rglob("*.py"))]
    return {option: f"{file.relative_to(ROOT)}:{line}" for file in files for line, text in messages(file)
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)}  # fmt: skip


class Seen(Exception):
    """Ends a script when its parser is complete."""


def options_of(script: str, monkeypatch) -> set[str]:
    """The options of a script."""
    found = set()

    def look(parser, *_, **__):
        found.update(parser._option_string_actions)
        raise Seen

    module = {"dataset/get.py": "images.data_sets", "demo/__main__.py": "demo.__main__"}.get(script, Path(script).stem)
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr("argparse.ArgumentParser.parse_known_args", look)
    with pytest.raises(Seen):
        importlib.import_module(module).main()
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_remedies_of_scripts(script, monkeypatch):
    named = named_in(SCRIPTS[script])
    known = options_of(script, monkeypatch)
    known |= {"--dataset"} if script == "dataset/get.py" else set()  # of root_of, which main.py calls
    wrong = {option: where for option, where in named.items() if option not in known}
    assert not wrong


def test_remedies_of_main_and_of_shared_modules():
    known = {f"--{option.name}" for declared in options.DECLARED.values() for option in declared.options}
    known |= {f"--{option.name}" for option in options.COMMON} | {"--method"}
    assert {option: where for option, where in named_in(OF_MAIN).items() if option not in known} == {}
    for module, allowed in SHARED.items():
        assert named_in([module]).keys() <= {*allowed}, module


def test_shared_remedies_name_what_the_running_script_has(monkeypatch):
    for words, another, pixels in (
        (["main.py"], "name another with --checkpoint", "--max_pixels"),
        (["main.py", "--init_from=x.pt"], "name another with --init_from", "--max_pixels"),
        (["fid_kid.py"], "name another", "--max-pixels"),
        (["figure/heatmaps.py"], "name another with --checkpoint", None),
        (["figure/gallery.py"], "name another", None),
        (["some/script.py"], "name another with --checkpoint", "--max_pixels"),  # Translator's options are main.py's
    ):
        monkeypatch.setattr(sys, "argv", words)
        assert remedies.named("max_pixels") == pixels
        assert remedies.another() == another


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_start_from_any_folder(script, tmp_path):
    command = [sys.executable, ROOT / script, "--help"] if script != "demo/__main__.py" else None
    if command:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr
