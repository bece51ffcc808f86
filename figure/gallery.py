"""A web page of trainings: samples and curves over the steps, scores, options, and all translations.

    python figure/gallery.py results/cat2dog
    python figure/gallery.py NICE-GAN=results/cat2dog CycleGAN=results/cyclegan/cat2dog --out gallery

RUN is a run's folder; NAME=RUN gives it another name than the folder's.  The page is a folder that needs neither
network nor server: open its index.html, or send the folder.
"""

import json
import math
import re
import sys
from datetime import date
from operator import itemgetter
from pathlib import Path

from command_line import UserError, at_once, bounded, named, need_runs, parser, run


def parse_args(argv=None):
    options = parser(__doc__, figure=False)
    options.add_argument("runs", nargs="+", type=named, metavar="[NAME=]RUN", help="folder of a run")
    add = options.add_argument
    add("--data", type=Path, metavar="DIR", help="the data set's folder (default: from run.json, or dataset/NAME)")
    add("--out", type=Path, metavar="DIR", help="folder of the page (default: `page` in the first run's folder)")
    add("--title", help="title of the page (default: the data set's name)")
    add("--frames", type=bounded(int, 2), default=60, help="maximum sample grids of a run and direction, evenly spread")
    add("--size", type=bounded(int, 16), default=512, help="longest side in pixels; larger pictures are scaled down")
    args = options.parse_args(argv)
    need_runs(args.runs)
    return args


if __name__ == "__main__":  # before torch is imported
    at_once("gallery.py", parse_args)

import common
import curves
import numpy as np
import webpage
from PIL import Image

import methods
from images import maker
from images.decode import read_image
from images.files import list_images
from utils import parse_json, shown, text_of

HIGHER = ("precision", "recall", "density", "coverage")
SCORES = ("fid", "kid", "mind", "fd", "kd", "md", *HIGHER, "background", "coat_colour", "coat_texture")
FIRST = (*SCORES, "d_loss", "g_loss", "cycle", "recon")  # the first curves; a method's own terms come next
LAST = ("lr", "steps_per_second", "data_wait", "scoring_seconds", "dropped")
TITLES = curves.PANELS | {
    "lr": "learning rate",
    "steps_per_second": "steps per second",
    "data_wait": "share of time spent waiting for pictures",
    "scoring_seconds": "seconds for scoring",
    "dropped": "steps dropped as not finite",
}
WAYS = {"A": "A", "B": "B", "A2B": "A to B", "B2A": "B to A", "mean": "mean"}
POINTS = 1000  # maximum of a curve: more than a screen shows


# -------------------------------------------------------------------------------------- a run's files


class Run:
    """The log, sample grids, translations and run.json of a training.  UserError: it has none of them."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path.parent if path.is_file() else path
        self.log = curves.read(self.path) if (self.path / "log.jsonl").exists() else []
        self.grids = {}  # "A2B": {step: its sample grid}
        for file in sorted((self.path / "img").glob("?2?_*.png")):
            if match := re.fullmatch(r"(A2B|B2A)_(\d+)", file.stem):
                self.grids.setdefault(match[1], {})[int(match[2])] = file
        folders = {"A2B": self.path / "fakeB", "B2A": self.path / "fakeA"}
        self.answers = {way: folder for way, folder in folders.items() if folder.is_dir()}
        self.starts = self._starts()
        if not (self.log or self.grids or self.answers):
            raise UserError(
                f"{shown(self.path)} has nothing to show: neither log.jsonl nor img, fakeA or fakeB; "
                "name the folder of a run, such as results/cat2dog"
            )

    def _starts(self) -> list[dict]:
        """The entries of run.json, one for each start of the training; empty if there is no such file."""
        path = self.path / "run.json"
        if not path.exists():
            return []
        try:
            starts = parse_json(text_of(path))
            if not (isinstance(starts, list) and all(isinstance(start, dict) for start in starts)):
                raise ValueError("it is not a list of starts")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {shown(path)}: {error}; repair or remove it") from None
        return starts

    def rows(self) -> str:
        """What the rows of its sample grids show, as its method describes its `visuals`."""
        method = self.starts[-1].get("method") if self.starts else None
        known = isinstance(method, str) and method in methods.METHODS
        said = (known and methods.load(method).visuals.__doc__) or "Input, then what the networks make of it."
        return said.split("\n")[0].rstrip(".")

    def data(self) -> Path:
        """The folder of its data set, from run.json or else by the run's name."""
        options = {"dataset_dir": "dataset", "dataset": self.path.resolve().name}
        for start in self.starts:
            options |= start.get("options") or {}
        return Path(options["dataset_dir"], options["dataset"])

    def steps(self) -> int:
        return max([line["step"] for line in self.log[-1:]] + [max(grids) for grids in self.grids.values()], default=0)


def parted(key: str) -> tuple[str, str]:
    """Quantity and domain or direction of a key: "fid_B" is ("fid", "B"), "d_loss" is ("d_loss", "")."""
    match = re.fullmatch(rf"(.+)_({'|'.join(WAYS)})(_weighted)?", key)
    return (match[1] + (match[3] or ""), match[2]) if match else (key, "")


def titled(quantity: str) -> str:
    return TITLES.get(quantity, quantity.replace("_", " "))


def series(log: list[dict]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each key of a log."""
    found = {}
    for line in log:
        for key, value in line.items():
            if key != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                steps, values = found.setdefault(key, ([], []))
                steps.append(line["step"])
                values.append(value)
    return found


def thinned(numbers: list) -> list[float]:
    """At most POINTS numbers: means of equal parts, to six digits."""
    parts = np.array_split(np.asarray(numbers, float), POINTS) if len(numbers) > POINTS else [[x] for x in numbers]
    return [float(f"{np.mean(part):.6g}") for part in parts]


# ------------------------------------------------------------------------------------ parts of the page


def panels(runs: list[Run]) -> list[dict]:
    """One panel a quantity, with the curves of all runs, domains and directions."""
    found = {}
    for number, one in enumerate(runs):
        for key, (steps, values) in series(one.log).items():
            if key == "dropped" and not any(values):
                continue  # as usual: nothing to show
            quantity, way = parted(key)
            curve = {"run": number, "way": WAYS.get(way, ""), "steps": thinned(steps), "values": thinned(values)}
            found.setdefault(quantity, []).append(curve)
    middle = [quantity for quantity in found if quantity not in (*FIRST, *LAST)]
    order = [quantity for quantity in (*FIRST, *middle, *LAST) if quantity in found]
    place = itemgetter("run", "way")
    return [{"title": titled(quantity), "curves": sorted(found[quantity], key=place)} for quantity in order]


def scores(runs: list[Run]) -> list[dict]:
    """One row a score and domain or direction: each run's last and best value with their steps."""
    of = [series(one.log) for one in runs]
    keys = sorted(
        {key for found in of for key in found if parted(key)[0] in SCORES},
        key=lambda key: (SCORES.index(parted(key)[0]), key),
    )
    rows = []
    for key in keys:
        quantity, way = parted(key)
        cells = []
        for one, found in zip(runs, of, strict=True):
            steps, values = found.get(key, ([], []))
            best = min(range(len(values)), key=lambda i: _distance(quantity, values[i]), default=None)
            ends = {"last": [values[-1], steps[-1]], "best": [values[best], steps[best]]} if values else None
            cells.append(ends and ends | {"chosen": curves.chosen(one.path)})
        ranks = [_distance(quantity, cell["last"][0]) if cell else np.inf for cell in cells]
        winner = int(np.argmin(ranks)) if len(runs) > 1 else None
        rows.append({"title": titled(quantity), "way": WAYS.get(way, ""), "cells": cells, "winner": winner})
    return rows


def _distance(quantity: str, value: float) -> float:
    """Distance of a score from the perfect value."""
    return abs(value - 1) if quantity == "coat_texture" else -value if quantity in HIGHER else value


def facts(runs: list[Run]) -> list[dict]:
    """Rows of run.json: name, group, and a text for each run; changes by later starts follow an arrow.

    The last rows say what made the translations.
    """
    rows = {}
    for number, one in enumerate(runs):
        for start in one.starts:
            for key, value in _flat(start):
                cell = rows.setdefault(key, [[] for _ in runs])[number]
                if cell[-1:] != [value]:
                    cell.append(value)
    for way in ("A2B", "B2A"):
        if any(cells := [maker.described(one.answers[way]) if way in one.answers else None for one in runs]):
            rows["translations", WAYS[way]] = [[cell] if cell else [] for cell in cells]
    return [
        {"group": group, "name": name, "cells": [" → ".join(cell) for cell in cells]}
        for (group, name), cells in rows.items()
    ]


def _flat(start: dict):
    """Yield ((group, name), text) of an entry of run.json."""
    for key, value in start.items():
        if not isinstance(value, dict):
            yield ("", key), _text(value)
            continue
        for name, inner in value.items():
            if isinstance(inner, dict):  # a folder of data
                inner = ", ".join(f"{k} {_text(v)}" for k, v in inner.items())
            yield (key, name), _text(inner)


def _text(value) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def film(folder: Path, runs: list[Run], frames: int) -> list[dict]:
    """Save the sample grids of each run and direction as JPEG, at most `frames` of each, including the last."""
    jobs = []
    for number, one in enumerate(runs):
        for way, grids in one.grids.items():
            jobs += [(number, way, step, grids[step]) for step in common.evenly(sorted(grids), frames)]

    def frame(job):
        number, way, step, path = job
        saved = webpage.save(read_image(path), folder, f"film_{number}_{way}_{step}", jpeg=90)
        return saved | {"run": number, "way": way, "step": step}

    return webpage.each(frame, jobs, "samples")


def matched(inputs: list[Path], answers: list[Path]) -> list[list[Path]]:
    """For each input (relative paths) its translations: the same path, or another suffix, or more words after an
    underscore, as for methods with several translations of an input."""
    found = {path: [] for path in inputs}
    stems = {path.with_suffix(""): path for path in reversed(inputs)}
    for answer in answers:
        stem = answer.with_suffix("")
        if answer in found:
            found[answer].append(answer)
            continue
        while stem not in stems and "_" in stem.name[1:]:
            stem = stem.with_name(stem.name.rpartition("_")[0])
        if stem in stems:
            found[stems[stem]].append(answer)
    return list(found.values())


def translations(folder: Path, runs: list[Run], data: Path, way: str, longest: int) -> dict | None:
    """All pictures of a test folder with the runs' translations.  UserError: no inputs, or no translation of any."""
    if not any(way in one.answers for one in runs):
        return None
    source = data / f"test{way[0]}"
    if not source.is_dir():
        raise UserError(
            f"there is no {shown(source)}, the inputs of {runs[0].answers.get(way) or f'fake{way[-1]}'}; "
            "name the data set's folder with --data"
        )
    inputs = [path.relative_to(source) for path in list_images(source)]
    found = []  # by run: by input: answers
    for one in runs:
        place = one.answers.get(way)
        answers = [path.relative_to(place) for path in list_images(place)] if place else []
        found.append(matched(inputs, answers))
        if answers and not any(found[-1]):
            raise UserError(
                f"{shown(place)} has no translation of any picture of {shown(source)}; "
                "name the data set's folder with --data"
            )

    def item(number):
        picture = read_image(source / inputs[number])
        pictures = [[read_image(one.answers[way] / name) for name in found[r][number]] for r, one in enumerate(runs)]
        sides = [max(p.size) for some in pictures for p in some] or [max(picture.size)]
        share = min(longest, *sides[:1]) / max(picture.size)
        size = tuple(max(1, round(share * side)) for side in picture.size)

        def saved(p, name):  # in the input's proportions, as the page puts one over the other
            p = p if p.size == size else p.resize(size, Image.Resampling.BICUBIC)
            return webpage.save(p, folder, name)

        answers = [
            [saved(p, f"{way}_{number}_{r}_{k}") for k, p in enumerate(some)] for r, some in enumerate(pictures)
        ]
        return {"name": inputs[number].as_posix(), "input": saved(picture, f"{way}_{number}"), "answers": answers}

    return {"way": way, "items": webpage.each(item, range(len(inputs)), f"translations {WAYS[way]}")}


# ------------------------------------------------------------------------------------------------- call


def main(argv=None):
    args = parse_args(argv)
    names = [name for name, _ in args.runs]
    if len(set(names)) < len(names):
        raise UserError(f"two runs are named {shown(max(names, key=names.count))}; name them, such as first=results/a")
    runs = [Run(name, path) for name, path in args.runs]
    for text in (text for one in runs for folder in one.answers.values() if (text := maker.doubt(folder))):
        print(text, file=sys.stderr)
    data = args.data or runs[0].data()
    with webpage.folder(args.out or runs[0].path / "page") as folder:
        found = [translations(folder, runs, data, way, args.size) for way in ("A2B", "B2A")]
        webpage.write(
            folder,
            "gallery",
            {
                "title": args.title or data.resolve().name,
                "written": date.today().isoformat(),
                "runs": [{"name": one.name, "steps": one.steps(), "rows": one.rows()} for one in runs],
                "ways": WAYS,
                "film": film(folder, runs, args.frames),
                "panels": panels(runs),
                "scores": scores(runs),
                "facts": facts(runs),
                "translations": [direction for direction in found if direction],
            },
        )


if __name__ == "__main__":
    run(main, "gallery.py")
