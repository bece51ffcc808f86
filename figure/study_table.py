"""The result of a user study: tables of preference from the key of study.py and the participants' files.

    python figure/study_table.py study answers-*.json
    python figure/study_table.py study answers-*.json --plot study.svg

The first table shows how often each method was chosen, and how often none was preferred, with Wilson's 95% interval.
The second compares the methods in pairs by the exact two-sided sign test: over answers (those that chose one of the
two) and over participants (which of the two each chose more often, without ties).  Answers of one person are not
independent: with few participants trust the test over participants.
"""

import argparse
import sys
from itertools import combinations
from pathlib import Path

from command_line import UserError, at_once, parser, run

from utils import parse_json, shown, text_of


def drawn(text: str) -> Path:
    """The path of a figure.  ArgumentTypeError: another suffix than .png, .pdf and .svg."""
    if Path(text).suffix not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, .pdf or .svg")
    return Path(text)


def parse_args(argv=None):
    options = parser(__doc__, figure=False)
    options.add_argument("study", type=Path, help="folder that study.py wrote")
    options.add_argument("answers", nargs="+", type=Path, help="files that participants sent")
    options.add_argument("--plot", type=drawn, metavar="FILE", help="draw the shares as columns into this .png, .pdf "
                         "or .svg file")  # fmt: skip
    args = options.parse_args(argv)
    for path in (args.study / "key.json", *args.answers):
        if not path.exists():
            raise UserError(f"cannot read {shown(path)}: it does not exist; give a study's folder and its page's files")
    return args


if __name__ == "__main__":  # before torch is imported
    at_once("study_table.py", parse_args)

import common
from scipy.stats import binomtest

NONE = "none"  # a choice in the participants' files: no preference


def read(path: Path, wanted: type) -> dict:
    """The object in a JSON file with `answers` (a list) or `questions` (a dict).  UserError: it has none."""
    name = {list: "answers", dict: "questions"}[wanted]
    try:
        found = parse_json(text_of(path))
        if not isinstance(found, dict) or not isinstance(found.get(name), wanted) or "study" not in found:
            raise ValueError(f"it has no {name}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {shown(path)}: {reason}; give a study's folder and its page's files") from None
    return found


def key_in(folder: Path) -> dict:
    """The key that study.py wrote into a study's folder.  UserError: it has none, or it was changed."""
    path = folder / "key.json"
    key = read(path, dict)
    methods, questions = key.get("methods"), key["questions"].values()
    fits = isinstance(methods, list) and all(isinstance(name, str) for name in methods)
    for entry in questions if fits else ():
        answers = entry.get("answers") if isinstance(entry, dict) else None
        fits = fits and isinstance(answers, dict) and all(name in methods for name in answers.values())
    if not fits:
        raise UserError(f"{shown(path)} was changed: it lacks methods, or answers that name them; name another study")
    return key


def choices(key: dict, path: Path) -> tuple[str, dict[str, str | None]]:
    """The participant's name, and the method chosen in each answered question; None: no preference.

    UserError: the file belongs to another study, or its page cannot have written it.
    """
    found = read(path, list)
    if found["study"] != key["study"]:
        raise UserError(f"{shown(path)} answers another study; leave it out, or name that study's folder")
    chosen = {}
    try:
        for answer in found["answers"]:
            methods = {NONE: None, **key["questions"][answer["question"]]["answers"]}
            chosen[answer["question"]] = methods[answer["choice"]]
        return str(found["participant"]), chosen
    except (LookupError, TypeError):
        raise UserError(f"{shown(path)} was changed: an answer fits no question of this study; leave it out") from None


def collect(key: dict, paths: list[Path]) -> dict[str, dict[str, str | None]]:
    """{participant: {question: chosen method}}; of several files of one participant the one with most answers."""
    people = {}
    for path in paths:
        person, chosen = choices(key, path)
        if person in people:
            print(f"{shown(path)}: second file of a participant; the one with more answers counts", file=sys.stderr)
        people[person] = max(people.get(person, {}), chosen, key=len)
    return people


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval for the share k of n (Wilson, JASA 1927)."""
    low, high = binomtest(k, n).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def sign_test(k: int, n: int) -> float:
    """Exact two-sided p-value of k positive among n signs, under equal probability; 1 if n = 0."""
    return float(binomtest(k, n).pvalue) if n else 1.0


def table(methods: list[str], people: dict[str, dict[str, str | None]]) -> str:
    """Both tables as Markdown.  UserError: nobody answered anything."""
    counts = {person: {m: list(chosen.values()).count(m) for m in methods} for person, chosen in people.items()}
    total = {m: sum(count[m] for count in counts.values()) for m in methods}
    total[None] = sum(list(chosen.values()).count(None) for chosen in people.values())
    n = sum(total.values())
    if not n:
        raise UserError("these files hold no answer")
    rows = [("method", "chosen", "share", "95% interval")]
    for m in [*sorted(methods, key=lambda m: -total[m]), None]:
        low, high = wilson(total[m], n)
        rows.append((m or "no preference", f"{total[m]} of {n}", f"{total[m] / n:.1%}", f"{low:.1%} to {high:.1%}"))
    pairs = [("pair", "answers", "p", "participants", "p")]
    for a, b in combinations(sorted(methods, key=lambda m: -total[m]), 2):
        signs = [(c[a] > c[b]) - (c[a] < c[b]) for c in counts.values()]
        cells = []
        for x, y in ((total[a], total[b]), (signs.count(1), signs.count(-1))):
            cells += [f"{x} : {y}", f"{sign_test(x, x + y):.2g}"]
        pairs.append((f"{a} : {b}", *cells))
    people = f"{len(people)} participant{'s' if len(people) > 1 else ''}, {n} answers"
    return f"{people}\n\n{_markdown(rows)}\n\nSign test of each pair, uncorrected\n\n{_markdown(pairs)}"


def plot(methods: list[str], people: dict[str, dict[str, str | None]], path: Path):
    """Write the first table as columns with Wilson's 95% intervals, in the format of the path's suffix."""
    plt = common.pyplot()
    chosen = [method for answers in people.values() for method in answers.values()]
    order = [*sorted(methods, key=lambda m: -chosen.count(m)), None]
    names = [common.wrapped(m or "no preference", 1.2) for m in order]
    tall = 3.4 + 0.17 * max(name.count("\n") for name in names)
    figure, axis = plt.subplots(figsize=(min(common.WIDTH, 1.2 + 1.4 * len(order)), tall), layout="constrained")
    for place, method in enumerate(order):
        share = chosen.count(method) / len(chosen)
        low, high = (100 * edge for edge in wilson(chosen.count(method), len(chosen)))
        axis.bar(place, 100 * share, width=0.6, color="C0" if method else "0.7")
        axis.plot([place, place], [low, high], color="black", lw=1.2, marker="_", ms=8)
    axis.set_xticks(range(len(order)), names)
    axis.set_ylabel("chosen, in % of the answers")
    axis.set_ylim(0, 100)
    people = f"{len(people)} participant{'s' if len(people) > 1 else ''}, {len(chosen)} answers"
    axis.set_title(common.wrapped(f"{people}, Wilson's 95% intervals", figure.get_figwidth() - 0.3))
    common.save(figure, path.parent, path.parent, path.stem, path.suffix[1:])


def _markdown(rows: list[tuple[str, ...]]) -> str:
    rows = [[shown(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in rows)


def main(argv=None):
    args = parse_args(argv)
    key = key_in(args.study)
    people = collect(key, args.answers)
    print(table(key["methods"], people))
    if args.plot:
        plot(key["methods"], people, args.plot)


if __name__ == "__main__":
    run(main, "study_table.py")
