"""The tables and the figure of Table 1: scores and costs as Markdown, CSV and PNG."""

import csv
import io
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import ttest_ind
from trainings import ROOT, mean_std

import demo
from images import maker
from images.decode import read_image
from scoring.manifold import PRDC
from training.cost import short
from training.held_out import ON_TEST
from utils import UserError, shown

sys.path.append(str(ROOT / "figure"))
import common
import compare

WAYS = {f"{s}2{t}": (s, t) for s, t in demo.DIRECTIONS}
# distances of different networks have different columns: only Inception's are FID and KID
COLUMNS = {"l1": "L1", "ssim": "SSIM", "lpips": "LPIPS", "fid": "FID", "kid": "KID x100", "fd": "FD", "kd": "KD x100"}
COLUMNS |= {name: name.replace("_", " ") for name in (*PRDC, *demo.BARS)}
HIGHER_IS_BETTER = (*PRDC, "ssim")
HELD_OUT = "best, held out"
DIGITS = {"fid": 1, "fd": 1, "kid": 2, "kd": 2}  # 3 in all others
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


def rows_of(runs) -> list[Row]:
    """A row for each contestant with a complete run, in the order of the runs."""
    found = {}
    for r in runs:
        if scores := r.last_scores():
            c = r.contestant
            row = found.setdefault(c.row, Row(c.title, 0, c.args.img_size, r.steps, {}, {}))
            row.seeds += not r.backwards
            for name, value in scores.items():
                row.scores.setdefault(name, []).append(value)
            for way in r.ways:
                row.pictures.setdefault(way, r.results / f"fake{WAYS[way][1]}")
            if best := held_out_scores(r.results, row.scores):
                key = c.row + HELD_OUT
                row = found.setdefault(key, Row(f"{c.title}, {HELD_OUT}", 0, c.args.img_size, r.steps, {}, {}))
                row.seeds += not r.backwards
                for name, value in best.items():
                    row.scores.setdefault(name, []).append(value)
    order = dict.fromkeys(name for r in runs for name in (r.contestant.row, r.contestant.row + HELD_OUT))
    return [found[name] for name in order if name in found]


def held_out_scores(results: Path, names) -> dict[str, float]:
    """Scores of the test pictures by the best checkpoint, of these names; empty where test pictures have chosen it."""
    try:
        best = json.loads((results / "test_scores.json").read_text("utf-8"))["best"]
    except (OSError, ValueError, KeyError):
        return {}
    if not best or best["chosen"] == ON_TEST:
        return {}
    scale = {name: 100 if name.startswith("k") else 1 for name in names}  # KID and KD are x100 here
    return {name: scale[name] * best["scores"][name] for name in names if name in best["scores"]}


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
        row.scores |= {name: [value] for name, value in scorer.direction(folder, *WAYS[way]).items()}


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


def score_markdown(rows: list[Row]) -> str:
    """One line a row: mean ± standard deviation over seeds, for both directions."""
    columns = columns_of(rows)
    header = ["method", "seeds", "pixels", "steps", *(f"{COLUMNS[c]}, {' / '.join(WAYS)}" for c in columns)]
    lines = []
    for row in rows:
        cells = [
            " / ".join(mean_std(v, DIGITS.get(c, 3)) if (v := row.scores.get(f"{c}_{way}")) else NONE for way in WAYS)
            for c in columns
        ]
        lines.append([row.title, *("" if v is None else v for v in (row.seeds, row.pixels, row.steps)), *cells])
    return markdown(header, lines)


def differences(rows: list[Row]) -> str:
    """A line a score: the best row, and those whose difference from it is beyond chance over seeds.

    Welch's t-test at 5%, of rows with at least two seeds; it knows the spread over seeds alone, not over pictures.
    """
    lines = []
    for name in (f"{column}_{way}" for column in columns_of(rows) for way in WAYS):
        column = name.rpartition("_")[0]
        known = [row for row in rows if len(row.scores.get(name, [])) > 1]
        if column == "coat_texture" or len(known) < 2:  # best in the middle
            continue
        means = [statistics.fmean(row.scores[name]) for row in known]
        best = known[means.index((max if column in HIGHER_IS_BETTER else min)(means))]
        worse = [row.title for row in known if row is not best and beyond_chance(row.scores[name], best.scores[name])]
        others = [row.title for row in known if row is not best and row.title not in worse]
        said = f"worse beyond chance: {', '.join(worse) or 'none'}; not beyond chance: {', '.join(others) or 'none'}"
        lines.append(f"- {COLUMNS[column]}, {name.rpartition('_')[2]}: best {best.title}; {said}\n")
    return "".join(lines)


def beyond_chance(a: list[float], b: list[float]) -> bool:
    """Whether two rows' means over seeds differ, Welch's t-test at 5%."""
    if not statistics.pvariance(a) + statistics.pvariance(b):
        return statistics.fmean(a) != statistics.fmean(b)
    return ttest_ind(a, b, equal_var=False).pvalue < 0.05


def score_csv(rows: list[Row]) -> str:
    """The same numbers, with mean and standard deviation in separate columns."""
    names = [f"{column}_{way}" for column in columns_of(rows) for way in WAYS]
    header = ["method", "seeds", "pixels", "steps", *(f"{name}_{what}" for name in names for what in ("mean", "std"))]
    lines = []
    for row in rows:
        cells = []
        for values in (row.scores.get(name, []) for name in names):
            cells += [statistics.fmean(values) if values else None, statistics.stdev(values) if values[1:] else None]
        lines.append([row.title, row.seeds, row.pixels, row.steps, *cells])
    return comma_separated(header, lines)


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
    figure = common.grid(compare.alike(lines, size), titles, title)
    if len(titles) > 5:  # narrow columns
        for axes in figure.axes:
            axes.title.set_fontsize(7)
    return figure
