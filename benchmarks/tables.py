"""The tables and the figure of Table 1: scores and costs as Markdown, CSV and PNG."""

import csv
import io
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

import chance
from trainings import ROOT, mean_std

import demo
from images import maker
from images.decode import read_image
from scoring.manifold import PRDC
from training.cost import short
from training.held_out import ON_TEST
from utils import UserError, parse_json, shown, text_of

sys.path.append(str(ROOT / "figure"))
import common
import compare

WAYS = {f"{s}2{t}": (s, t) for s, t in demo.DIRECTIONS}
# distances of different networks have different columns: only Inception's are FID and KID
COLUMNS = {"l1": "L1", "ssim": "SSIM", "lpips": "LPIPS", "fid": "FID", "kid": "KID x100", "mind": "MIND"}
COLUMNS |= {"fd": "FD", "kd": "KD x100", "md": "MD"}
COLUMNS |= {name: name.replace("_", " ") for name in (*PRDC, *demo.BARS)}
HIGHER_IS_BETTER = (*PRDC, "ssim")
HELD_OUT = "best, held out"
DIGITS = {"fid": 1, "fd": 1, "kid": 2, "kd": 2, "mind": 1, "md": 1}  # 3 in all others
NONE = "–"


@dataclass
class Row:
    """A row of the score table; scores: {"fd_A2B": its value for each seed}; pictures: {"A2B": a folder of them}."""

    title: str
    seeds: int | None
    pixels: int | None
    steps: int | None
    scores: dict[str, list[float]]
    pictures: dict[str, Path]
    samples: dict[str, dict] = field(default_factory=dict)  # of chance.py
    numbers: list[int] = field(default_factory=list)  # the seeds
    options: str = ""


def rows_of(runs) -> list[Row]:
    """A row for each contestant with a complete run, in the order of the runs."""
    found = {}
    for r in runs:
        if scores := r.last_scores():
            c = r.contestant
            row = found.setdefault(c.row, Row(c.title, 0, c.args.img_size, r.steps, {}, {}, options=c.options))
            row.seeds += not r.backwards
            row.numbers += [r.seed] * (not r.backwards)
            for name, value in scores.items():
                row.scores.setdefault(name, []).append(value)
            for way in r.ways:
                row.pictures.setdefault(way, r.results / f"fake{WAYS[way][1]}")
                if samples := chance.read(r.folder, way):
                    row.samples.setdefault(way, {})[r.seed] = samples
            if best := held_out_scores(r.results, row.scores):
                key = c.row + HELD_OUT
                title = f"{c.title}, {HELD_OUT}"
                row = found.setdefault(key, Row(title, 0, c.args.img_size, r.steps, {}, {}, options=c.options))
                row.seeds += not r.backwards
                row.numbers += [r.seed] * (not r.backwards)
                for name, value in best.items():
                    row.scores.setdefault(name, []).append(value)
    order = dict.fromkeys(name for r in runs for name in (r.contestant.row, r.contestant.row + HELD_OUT))
    return [found[name] for name in order if name in found]


def held_out_scores(results: Path, names) -> dict[str, float]:
    """Scores of the test pictures by the best checkpoint, of these names; empty where test pictures have chosen it."""
    try:
        best = parse_json(text_of(results / "test_scores.json"))["best"]
        if not best or best["chosen"] == ON_TEST:
            return {}
        scale = {name: 100 if name.startswith("k") else 1 for name in names}  # KID and KD are x100 here
        return {name: scale[name] * float(best["scores"][name]) for name in names if name in best["scores"]}
    except (OSError, ValueError, LookupError, TypeError, OverflowError):  # no such file, or another program's
        return {}


# --------------------------------------------------------------------------- other programs' pictures


def others_row(text: str, root: Path) -> Row:
    """The row of "NAME=DIR", not yet scored: DIR holds fakeB, fakeA or both, or translations to domain B.

    UserError: no such folder, or its pictures are not named like the data set's test pictures.
    """
    name, folder = compare.method(text)
    if not folder.is_dir():
        raise UserError(f"--outputs {name}: there is no folder {shown(folder)}")
    pictures = {way: folder / f"fake{t}" for way, (_, t) in WAYS.items() if (folder / f"fake{t}").is_dir()}
    for way, place in (pictures or {"A2B": folder}).items():
        wanted, there = (compare.by_stem(f) for f in (root / f"test{way[0]}", place))
        missing, other = wanted.keys() - there.keys(), there.keys() - wanted.keys()
        for stems, what in ((missing, "no picture"), (other, "a picture without a test picture of its name:")):
            if stems:
                more = f", and {len(stems) - 1} more" if len(stems) > 1 else ""
                raise UserError(f"--outputs {name}: {shown(place)} has {what} {shown(min(stems))}{more}")
    return Row(name, None, None, None, {}, pictures or {"A2B": folder})


def score(row: Row, scorer):
    """Add the scores of another program's pictures to its row."""
    for way, folder in row.pictures.items():
        scores, samples = scorer.direction(folder, *WAYS[way])
        row.samples[way] = {None: samples}
        row.scores |= {name: [value] for name, value in scores.items()}


def makers(rows: list[Row]) -> list[str]:
    """A line for each folder of other programs' pictures whose maker is known, and for each that is not of its run."""
    lines = []
    for row in rows:
        for folder in row.pictures.values():
            found = [text] if (text := maker.doubt(folder)) else [] if row.seeds else maker.lines(folder)
            lines += [f"{row.title}: {text}" for text in found]
    return lines


# --------------------------------------------------------------------------------------- score table


def columns_of(rows: list[Row]) -> list[str]:
    """The names of the scores in any row, without directions."""
    there = {name.rpartition("_")[0] for row in rows for name in row.scores}
    return [column for column in COLUMNS if column in there]


def markdown(header: list[str], lines: list[list]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in cells)


def comma_separated(header: list[str], lines: list[list]) -> str:
    """CSV; numbers to six digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in line] for line in lines)
    return out.getvalue()


def names_of(rows: list[Row]) -> list[str]:
    """The names of all scores in the table's order."""
    return [f"{column}_{way}" for column in columns_of(rows) for way in WAYS]


def facts(rows: list[Row]) -> dict:
    """What chance leaves of each score (chance.py)."""
    return chance.facts(rows, names_of(rows), HIGHER_IS_BETTER, without_best=("coat_texture",))


def score_markdown(rows: list[Row], known: dict) -> str:
    """A table for each direction, one line a row; known: facts(rows)."""
    tables = []
    for way in WAYS:
        there = [row for row in rows if any(name.endswith(f"_{way}") for name in row.scores)]
        columns = [c for c in columns_of(rows) if any(f"{c}_{way}" in row.scores for row in there)]
        header = [way, "seeds", "pixels", "steps", *(COLUMNS[c] for c in columns)]
        lines = []
        for row in there:
            cells = [cell(row.scores.get(f"{c}_{way}"), known.get((row.title, f"{c}_{way}")), c) for c in columns]
            lines.append([row.title, *("" if v is None else v for v in (row.seeds, row.pixels, row.steps)), *cells])
        tables += [markdown(header, lines)] if lines else []
    return "\n".join(tables)


def cell(values: list[float] | None, fact: chance.Fact | None, column: str) -> str:
    """Such as 0.031 ± 0.002 (0.029 to 0.033) ᵖˢ."""
    if not values:
        return NONE
    digits, fact = DIGITS.get(column, 3), fact or chance.Fact()
    text = mean_std(values, digits)
    if fact.interval:
        text += " ({:.{d}f} to {:.{d}f})".format(*fact.interval, d=digits)
    return f"**{text}**" if fact.best else f"{text} {fact.marks}".rstrip()


def score_csv(rows: list[Row], known: dict) -> str:
    """The same numbers in columns of their own, with each row's seeds and options."""
    names, parts = names_of(rows), ("mean", "std", "low", "high", "p_pictures", "p_seeds")
    header = ["method", "seeds", "pixels", "steps", *(f"{name}_{what}" for name in names for what in parts)]
    lines = []
    for row in rows:
        cells = []
        for name in names:
            values, fact = row.scores.get(name, []), known.get((row.title, name), chance.Fact())
            cells += [statistics.fmean(values) if values else None, statistics.stdev(values) if values[1:] else None]
            cells += [*(fact.interval or (None, None)), fact.p.get("pictures"), fact.p.get("seeds")]
        numbers = " ".join(map(str, row.numbers))
        lines.append([row.title, row.seeds, row.pixels, row.steps, *cells, numbers, row.options])
    return comma_separated([*header, "seed_numbers", "options"], lines)


# ---------------------------------------------------------------------------------------- cost table


def cost_markdown(contestants, known: dict) -> str:
    """A paragraph, and one line for each contestant with known costs, see costs.py; "" if none is known."""
    if not any(c.row in known for c in contestants):
        return ""
    header = ["method", "parameters", "multiply-adds", "step", "peak memory", "translating a picture"]
    lines = []
    for c in contestants:
        if cost := known.get(c.row):
            sizes = [cost["sizes"][kind] for kind in ("generators", "discriminators")]
            counts = [" / ".join(short(size[i]) for size in sizes) for i in (0, 1)]
            times = [f"{cost['step']:.2f}", f"{cost['memory']:.0f} MB", f"{cost['translate']:.2f}"]
            lines.append([c.title, *counts, *times])
    said = """Costs: parameters and multiply-adds (one picture) of generators with encoders / discriminators; times in
units of NICE-GAN's, in turns with it:"""
    return f"{said}\n\n{markdown(header, lines)}\n"


def cost_csv(contestants, known: dict) -> str:
    kinds = ("generators", "discriminators", "projections")
    header = [f"{kind}_{what}" for kind in kinds for what in ("parameters", "multiply_adds")]
    header = ["method", *header, "step", "peak_memory_MB", "translating"]
    lines = []
    for c in contestants:
        if cost := known.get(c.row):
            sizes = [count for kind in kinds for count in cost["sizes"].get(kind, (0, 0))]
            lines.append([c.title, *sizes, float(cost["step"]), float(cost["memory"]), float(cost["translate"])])
    return comma_separated(header, lines)


# ------------------------------------------------------------------------------------------- picture


def picture(rows: list[Row], root: Path, n: int, size: int, title: str):
    """A figure of n test pictures of each direction (rows): input, each method, true counterpart (columns).

    Pictures have the proportions of their input; size: their longest side.
    """
    truths = {way: root / f"truth{way[0]}" for way in WAYS if (root / f"truth{way[0]}").is_dir()}
    titles = ["input", *(row.title for row in rows), *["truth"] * bool(truths)]
    lines = []
    for way, (s, _) in WAYS.items():
        if not any(way in row.pictures for row in rows):
            continue
        folders = [root / f"test{s}", *(row.pictures.get(way) for row in rows), *[truths.get(way)] * bool(truths)]
        found = [compare.by_stem(folder) if folder else {} for folder in folders]
        for stem in compare.choose(found[0], None, n, folders[0]):
            lines.append([read_image(pictures[stem]) if stem in pictures else None for pictures in found])
    return common.grid(compare.alike(lines, size), titles, title)
