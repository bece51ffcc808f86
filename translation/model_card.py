"""--phase export --format folder: a folder with a model in safetensors, its model card and a preview.

The card (README.md) says what run.json, log.jsonl and the checkpoint say: method, paper, data, steps, scores.
"""

import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from checkpoints.model_folder import CONFIG, WEIGHTS, write_model_folder
from images.maker import ON_TEST
from utils import UserError, atomic, parse_json, shown, text_of, writing

CARD, PREVIEW = "README.md", "preview.png"


def write_folder(trainer, state: dict, pipeline, place: Path):
    """Write model.safetensors, config.json, README.md and, if the run has a sample grid, preview.png.

    UserError: the folder holds something else.
    """
    if place.exists() and not (place.is_dir() and (not any(place.iterdir()) or (place / WEIGHTS).exists())):
        raise UserError(f"{shown(place)} holds something other than a model: name another folder with --output")
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    results = results_of(pipeline.path)
    way = state["metadata"]["direction"].replace("to", "2")
    preview = max((results / "img").glob(f"{way}_*.png"), default=None)  # the newest sample grid, A2B_0001000.png
    write_model_folder(state, place)
    if preview:
        with atomic(place / PREVIEW) as temporary:
            shutil.copyfile(preview, temporary)
    text = card(trainer, state["metadata"], newest_scores(pipeline.state, results), preview is not None, results.name)
    with atomic(place / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def results_of(path: Path) -> Path:
    """The folder results/NAME of the run that wrote a checkpoint."""
    return path.parent.parent if path.parent.name == "model" else path.parent / path.stem.split("_params_")[0]


def newest_scores(state: dict, results: Path) -> dict:
    """{"step": n, name: score, name_interval: [low, high], ...} of a checkpoint.

    They are those kept with the best checkpoint, else those at the end of the run, else the log's newest before the
    checkpoint's step, which have no intervals.
    """
    if "score" in state:
        return with_intervals(state["score"])
    found = {}
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
        last = parse_json(text_of(results / "test_scores.json"))["last"]
        if last["step"] == state["start_iter"]:
            return with_intervals(last)
    with suppress(OSError):
        for line in text_of(results / "log.jsonl", "replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                entry = parse_json(line)
                if "scoring_seconds" in entry and entry["step"] <= state.get("start_iter", 0):
                    found = entry
    return {key: value for key, value in found.items() if key != "scoring_seconds"}


def with_intervals(scored: dict) -> dict:
    """The step, the scores and, as name_interval, their intervals, of a checkpoint's or a file's record of scores."""
    intervals = {f"{name}_interval": ends for name, ends in scored.get("intervals", {}).items()}
    chosen = {"chosen": scored.get("chosen", ON_TEST)} if "value" in scored else {}  # of a best checkpoint
    return {"step": scored["step"], **chosen, **scored["scores"], **intervals}


def paper(trainer) -> str:
    """The first paragraph of the method's file, which names its paper."""
    first = sys.modules[type(trainer).__module__].__doc__.split("\n\n")[0]
    return " ".join(first.split())


def card(trainer, about: dict, scores: dict, preview: bool, title: str) -> str:
    """The text of README.md; its first lines are what model hubs read."""
    title = re.sub(r"[^\w.\- ]", " ", title)
    method, direction = about["method"], about["direction"]
    lines = [
        "---", "tags:", "- image-to-image", f"- {method}", "pipeline_tag: image-to-image", "---",
        "", f"# {title}, {direction}, by {method}", "", paper(trainer), "",
    ]  # fmt: skip
    if preview:
        lines += [f"![samples of the training: the top row of each block is the input]({PREVIEW})", ""]
    lines += ["| | |", "|---|---|", f"| method | `{method}` |", f"| direction | {direction} |"]
    lines += [f"| steps | {about['step']:,} |", f"| parameters | {about['parameters']:,} |"]
    lines += [f"| weights | {about['precision']} |", f"| pictures | {about['sizes']} |"]
    lines += [f"| input | {about['input']} |", f"| licence | {about['licence']} |", ""]
    lines += ["## Training data", ""]
    if about["data"]:
        lines += ["| folder | pictures | SHA-256 of names and sizes |", "|---|---|---|"]
        lines += [f"| {k} | {v.get('pictures')} | `{v.get('digest')}` |" for k, v in about["data"].items()]
    else:
        lines += ["Not recorded: the checkpoint had no run.json beside it."]
    lines += ["", "## Scores", ""]
    if scores:
        others = "B2A" if direction == "AtoB" else "A2B", "mean", "step", "interval"
        values = {k: v for k, v in scores.items() if not k.endswith(others) and k != "chosen"}
        of = f", the best, {scores['chosen']}; over the translations of these" if "chosen" in scores else (
            ", over the translated test pictures")
        lines += [f"At step {scores.get('step')}{of}:", ""]
        lines += ["| score | value | 95% interval over pictures |", "|---|---|---|"]
        lines += [f"| {k} | {shown_score(v)} | {shown_score(scores.get(f'{k}_interval', ''))} |"
                  for k, v in values.items()]  # fmt: skip
    else:
        lines += ["None were computed in this run (`--score_freq`)."]
    call = "python main.py --phase test --checkpoint FOLDER --input cat.jpg --output translated"
    use = ["## How to use", "", f"    {call}", ""]
    use += ["    from nicegan import Translator", '    Translator("FOLDER")(picture).save("translated.png")', ""]
    use += [f"`{WEIGHTS}` holds numbers alone, `{CONFIG}` the options of the networks."]
    return "\n".join([*lines, "", *use]) + "\n"


def shown_score(value) -> str:
    if isinstance(value, (list, tuple)):  # a 95% interval
        return " to ".join(map(shown_score, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
