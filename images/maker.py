"""made.json beside translations: what made them, so that pictures of two trainings are not taken for those of one."""

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from utils import UserError, atomic, move_aside, parse_json, shown, text_of, writing

NAME = "made.json"
CENTRE = "centre"  # the part of the pictures that a folder of translations shows
ON_TEST = "chosen on the test pictures"  # what shows a score of such a checkpoint says so


def run_of(checkpoint: Path) -> list | None:
    """Start time and method of the training that wrote this checkpoint, from its run.json; None: unknown."""
    name = checkpoint.name.rpartition("_params_")[0]
    for folder in (checkpoint.parent / name, checkpoint.parent.parent) if name else ():
        if folder.name == name and (found := _start(folder)):
            return found
    return None


def _start(run: Path) -> list | None:
    """Start time and method in the run.json of a run's folder; None: there is none."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        starts = parse_json(text_of(run / "run.json"))
        return [starts[0]["started"], starts[-1]["method"]]
    return None


def read(folder: Path) -> dict | None:
    """The made.json of a folder of translations; None: it has none, or a damaged one."""
    with suppress(OSError, ValueError):
        found = parse_json(text_of(folder / NAME))
        return found if isinstance(found, dict) and {"method", "checkpoint"} <= found.keys() else None
    return None


def need_whole(folder: Path):
    """UserError: of some picture the folder shows only the centre, which no true counterpart can be compared with."""
    found = read(folder)
    if _shows_centres(found):
        size = shown(str(found["options"].get("size")))
        raise UserError(f"{shown(folder)} shows the centres of pictures, and their true counterparts are whole: "
                        f"translate with --preprocess resize_and_crop --load_size {size}")  # fmt: skip


def _shows_centres(record: dict | None) -> bool:
    options = (record or {}).get("options")
    return isinstance(options, dict) and options.get("part") == CENTRE


def claim(results: Path, wanted: dict[Path, tuple[dict, set[Path]]], replace: bool = False):
    """Write made.json into folders of results/NAME that translations are about to be written to.

    wanted: for each folder the record, and the files (relative) that will be written.  A folder that something else
    made, or that holds other files, is moved to results/NAME/previous_1, or _2, ...; replace: it is deleted instead,
    if made.json says that this program made it.
    """
    others = []
    for folder, (record, files) in wanted.items():
        there = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()} - {Path(NAME)}
        if there and (_maker(read(folder)) != _maker(record) or there - files):
            others.append(folder)
    for folder in [folder for folder in others if replace and read(folder)]:
        others.remove(folder)
        with writing(folder):
            shutil.rmtree(folder)
    if others:
        names = " and ".join(shown(folder.name) for folder in others)
        place = move_aside(results, others)
        instead = "" if replace else "; --replace true deletes them instead"
        print(f"earlier translations, {names}, are now in {shown(place)}{instead}", file=sys.stderr)
    for folder, (record, _) in wanted.items():
        with atomic(folder / NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


def _maker(record: dict | None) -> dict | None:
    """The part of a record that decides the pictures: the same weights may lie in several files."""
    kept = {k: v for k, v in record.items() if k not in ("checkpoint", "best")} if record else None
    return json.loads(json.dumps(kept, default=str))


def described(folder: Path) -> str | None:
    """What made the pictures of a folder, as a part of a line; None: unknown."""
    if found := read(folder):
        step = f", step {found['step']}" if found.get("step") else ""
        best = found.get("best")
        chosen = f", the best by {best.get('by')}, {best.get('chosen')}" if isinstance(best, dict) else ""
        centres = "; it shows the centres of pictures" if _shows_centres(found) else ""
        return shown(f"made by --method {found['method']}{step}{chosen}, with {found['checkpoint']}{centres}")
    return None


def doubt(folder: Path) -> str | None:
    """A line if the pictures of a folder are not of the run that it lies in, else None."""
    found, beside = read(folder), _start(folder.parent)
    if found and beside and found.get("run") != beside:
        return f"{shown(folder)} is not of the run beside it (--method {shown(beside[1])}): it was {described(folder)}"
    return None


def lines(folder: Path) -> list[str]:
    """What made the pictures of a folder, and a doubt, as lines; none where that is unknown."""
    if text := doubt(folder):
        return [text]
    return [f"{shown(folder)} was {text}"] if (text := described(folder)) else []
