"""Plot loss and score curves of several runs from their log.jsonl, such as to analyse decoupled training.

    python figure/curves.py results/cat2dog
    python figure/curves.py decoupled=results/d/demo coupled=results/both/demo "only with G"=results/g/demo

RUN is a run's folder or its log; NAME=RUN gives it another name than the folder's.  Runs of the same name (seeds)
share a colour.  There is a panel for each quantity in any of the logs.
"""

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from command_line import UserError, at_once, folder_of, named, need_runs, parser, run

PANELS = {  # quantity in log.jsonl (or the mean of QUANTITY_*): title
    "d_loss": "discriminator's loss",
    "g_loss": "generator's loss (weighted sum)",
    "cycle": "cycle: mean |cyc - x|",
    "recon": "reconstruction: mean |rec - x|",
    "D": "discriminators' loss",
    "G": "generators' loss (weighted sum)",
    "NCE": "PatchNCE: cross entropy of a patch",
    "fid": "FID",
    "kid": "KID",
    "fd": "Fréchet distance, EfficientNet-Lite0",
    "kd": "kernel distance, EfficientNet-Lite0",
    "mind": "MIND",
    "md": "MIND's distance, EfficientNet-Lite0",
    "recall": "recall",
    "coverage": "coverage",
    "background": "change of the background",
    "coat_colour": "error of the coat's colour",
    "coat_texture": "strength of the coat's pattern (right: 1)",
}


def parse_args(argv=None):
    options = parser(__doc__)
    options.add_argument("runs", nargs="+", type=named, metavar="[NAME=]RUN", help="folder of a run, or its log.jsonl")
    options.add_argument("--panels", nargs="+", choices=PANELS, help="quantities to plot (default: all in the logs)")
    options.add_argument("--title", default="Training curves", help="title of the figure")
    options.add_argument("--name", default="curves", help="name of the figure, without suffix")
    args = options.parse_args(argv)
    need_runs(args.runs)
    return args


if __name__ == "__main__":  # before torch is imported
    at_once("curves.py", parse_args)

import common

import methods
from training.held_out import ON_TEST
from training.log import Log, bare_and_weighted
from utils import parse_json, text_of

SCORES = ("fid", "kid", "fd", "kd", "recall", "coverage")


def read(path: Path) -> list[dict]:
    """The lines of a run's log by step, without incomplete ones.  UserError: there are none."""
    path = path / "log.jsonl" if path.is_dir() else path
    try:
        text = text_of(path)
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is not a readable log; name the folder of a run, such as results/cat2dog") from None
    lines = Log.parsed(text.splitlines())
    if not lines:
        raise UserError(f"{path} has no line of a training yet; train first, or lower main.py's --log_freq")
    return bare(sorted(lines, key=lambda values: values["step"]), path.with_name("run.json"))


def bare(lines: list[dict], record: Path) -> list[dict]:
    """The lines with bare terms, where an earlier version logged them weighted: run.json does not say "bare" then."""
    starts = []
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
        for start in parse_json(text_of(record)):
            method, args = methods.load(start["method"]), SimpleNamespace(**start["options"])
            old = start.get("terms") != "bare"
            starts.append((int(start["step"]), method.term_weights(args) if old else {}))
    found = []
    for line in lines:
        weights = next((weights for step, weights in reversed(starts) if step < line["step"]), {})
        terms = {k: v for k, v in line.items() if k in weights and isinstance(v, (int, float))}
        found.append({k: v for k, v in line.items() if k not in terms} | bare_and_weighted(terms, weights))
    return found


def curve(lines: list[dict], quantity: str) -> tuple[list[int], list[float]]:
    """Steps and values of a quantity, averaged over domains or directions."""
    steps, values = [], []
    for line in lines:
        exact = [quantity] if quantity in line else [k for k in line if k.startswith(f"{quantity}_")]
        exact = [k for k in exact if k == quantity or not k.endswith("_weighted")]
        found = [line[k] for k in exact if isinstance(line[k], (int, float))]
        if found:
            steps.append(line["step"])
            values.append(sum(found) / len(found))
    return steps, values


def chosen(run: Path) -> str:
    """What the scores in a run's log are of, and so the least of its curve is chosen on; the test pictures if unknown.

    The newest start in run.json says it.
    """
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        starts = parse_json(text_of(folder_of(run) / "run.json"))
        return next((start["best"] for start in reversed(starts) if start.get("best")), ON_TEST)
    return ON_TEST


def main(argv=None):
    args = parse_args(argv)
    plt = common.pyplot()
    runs = [(name, read(path)) for name, path in args.runs]
    panels = [q for q in args.panels or PANELS if any(curve(lines, q)[0] for _, lines in runs)]
    if not panels:
        raise UserError(f"the logs hold none of {', '.join(args.panels or PANELS)}; choose other --panels")

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    title = common.wrapped(args.title, common.WIDTH - 0.2, common.TITLE)
    if set(panels) & set(SCORES):
        said = ", ".join(dict.fromkeys(chosen(path) for _, path in args.runs))
        title += "\n" + common.wrapped(f"the best of a score is {said}", common.WIDTH - 0.2, common.TITLE)
    names = list(dict.fromkeys(name for name, _ in runs))
    legend = {name: common.wrapped(name, common.WIDTH - 1) for name in names}
    beside = max(1, min(4, int(common.WIDTH / (max(map(common.inches, legend.values())) + 0.7))))
    lines = title.count("\n") - (-len(names) // beside) * (1 + max(text.count("\n") for text in legend.values()))
    size = (common.WIDTH, 0.6 + 2.5 * rows + 0.2 * lines)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis, quantity in zip(axes.flat, panels, strict=False):
        for name, lines in runs:
            steps, values = curve(lines, quantity)
            marker = "o" if 0 < len(steps) <= 12 else None
            colour = f"C{names.index(name) % 10}"
            axis.plot(steps, values, color=colour, lw=1.3, marker=marker, ms=3.5, label=legend[name])
        axis.set_title(PANELS[quantity])
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel("step")
    handles = dict(zip(*axes.flat[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(beside, len(handles)))
    figure.suptitle(title)
    results = folder_of(args.runs[0][1])
    common.save(figure, args.out, results, args.name, args.format, args.dpi)


if __name__ == "__main__":
    run(main, "curves.py")
