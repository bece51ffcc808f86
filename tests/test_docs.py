"""README and docs/ keep their promises: every command parses, every link leads somewhere, README is one page."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import main
from options import Parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Parsed(BaseException):
    """The options of a command are accepted."""


def commands() -> list[str]:
    """Each `python SCRIPT ...` of code blocks and of inline code, without comments."""
    found = set()
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        blocks = [part for line in re.findall(r"^ {4}(.*)$", text, re.M) for part in line.split("&&")]
        for part in (*blocks, *re.findall(r"`([^`\n]*)`", text)):
            if match := re.match(r"\s*(?:srun )?(python (?:-m demo|\S+\.py).*)", part):
                found.add(shlex.join(shlex.split(match[1], comments=True)))
    return sorted(found)


def test_there_are_commands_of_every_kind():
    kinds = {command.split()[1].split("/")[0] for command in commands()}
    assert kinds >= {"main.py", "fid_kid.py", "figure", "benchmarks", "dataset", "tests"}, kinds


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_docs_parses(command, monkeypatch, capsys):
    script, *words = shlex.split(command)[1:]
    if script == "tests/replay.py":
        assert (ROOT / words[0]).is_file()
        return
    words = [re.sub(r"^@", f"@{ROOT}/", word) for word in words]
    if script == "main.py":
        if "--help" in words:
            with pytest.raises(SystemExit) as leaving:
                main.parse_args(words)
            assert leaving.value.code == 0
        else:
            main.parse_args(words)
        return

    def parse_args(self, args=None, namespace=None):
        _, unknown = argparse.ArgumentParser.parse_known_args(self, args, namespace)
        raise AssertionError(f"unknown: {unknown}") if unknown else Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(Parser, "parse_args", parse_args)
    path = ROOT / "demo" / "__main__.py" if script == "-m" else ROOT / script
    monkeypatch.setattr(sys, "argv", [str(path), *words[script == "-m" :]])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    modules = set(sys.modules)
    with pytest.raises((Parsed, SystemExit)) as leaving:
        runpy.run_path(str(path), run_name="__main__")
    for name in set(sys.modules) - modules:  # scripts import their neighbours by plain names
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == path.parent:
            del sys.modules[name]
    assert leaving.type is Parsed or leaving.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name)
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, link


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_bytes()) <= 12 * 1024
