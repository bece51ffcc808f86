"""The progress bar of a training, in the width of the terminal, or 80 columns."""

import time
from contextlib import contextmanager

from tqdm import tqdm

COLUMNS = 80  # where there is no terminal to measure
LEAST = 8  # width of the bar itself, with its ends


class TrainingBar(tqdm):
    """Steps, times, and losses as far as they fit; instead of these, what else is being done ("saving").

    values: {"D_loss": "2.81", ...}, the most important first.
    """

    FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining} {rate_fmt}{postfix}"

    def __init__(self, **more):
        self.values, self.activity, self.told = {}, "", 0.0
        super().__init__(unit="step", dynamic_ncols=True, bar_format=self.FORMAT, **more)

    @property
    def format_dict(self) -> dict:
        found = super().format_dict
        found["ncols"] = found["ncols"] or COLUMNS
        room = found["ncols"] - len(self.format_meter(**{**found, "bar_format": self.FORMAT.replace("|{bar}|", "")}))
        text = f"{self.activity} ..."[: max(0, room - LEAST - 2)] if self.activity else ""
        for name, value in {} if self.activity else self.values.items():
            longer = f"{text}, {name}={value}" if text else f"{name}={value}"
            if len(longer) + LEAST + 2 > room:  # 2: the comma that tqdm writes before it
                break
            text = longer
        return found | {"postfix": text or None}

    def tell(self, activity: str):
        """Show what is being done from now on, at most ten times a second; "": steps again."""
        due = not (activity and self.activity) or time.monotonic() - self.told > 0.1
        self.activity = activity
        if due and not self.disable:
            self.told = time.monotonic()
            self.refresh()

    @contextmanager
    def telling(self, activity: str):
        """Show what is being done inside."""
        self.tell(activity)
        try:
            yield
        finally:
            self.tell("")
