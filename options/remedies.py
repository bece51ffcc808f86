"""Options in remedies, as the running script calls them: shared code must name no option that a script has not."""

import sys
from pathlib import Path

ROOMS = ("figure", "benchmarks", "dataset", "demo")  # of scripts besides main.py and fid_kid.py
NAMES = {  # option: by script, its words
    "max_pixels": {"main.py": "--max_pixels", "fid_kid.py": "--max-pixels"},
    "fewer readers": {"main.py": "--num_workers 0", "fid_kid.py": "--workers 1"},
    "checkpoint": dict.fromkeys(("main.py", "activations.py", "heatmaps.py", "latent.py", "shared_latent.py"),
                                "--checkpoint"),
}  # fmt: skip


def named(option: str) -> str | None:
    """The words of an option in the running script, main.py's outside of all scripts; None: it has none."""
    script = Path(sys.argv[0] if sys.argv else "").resolve()
    alone = script.parent.name in ROOMS or script.name == "fid_kid.py"
    elsewhere = None if alone else NAMES[option]["main.py"]
    return NAMES[option].get(script.name, elsewhere)


def another() -> str:
    """The remedy for a checkpoint that cannot be used."""
    words = [word.partition("=")[0] for word in sys.argv]
    option = "--init_from" if "--init_from" in words and "--checkpoint" not in words else named("checkpoint")
    return f"name another with {option}" if option else "name another"
