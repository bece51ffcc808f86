"""results/NAME/log.jsonl; with --tensorboard true also results/NAME/tensorboard, for tensorboard --logdir results."""

import errno
import json
import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils import UserError, atomic, content_of, own_file, parse_json, writing


class Log:
    """results/NAME/log.jsonl: one JSON object per line, each written by one system call."""

    def __init__(self, path: Path, start: int):
        """Keep the valid lines up to step `start`: a killed run may have left later or incomplete ones."""
        kept = []
        if path.exists():
            for line in content_of(path).splitlines(keepends=True):
                with suppress(ValueError, LookupError, TypeError):
                    if line.endswith(b"\n") and parse_json(line)["step"] <= start:
                        kept.append(line)
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    @staticmethod
    def lines(path: Path) -> list[dict]:
        """The valid lines of a log file; [] if there is none."""
        return Log.parsed(content_of(path).splitlines()) if path.exists() else []

    @staticmethod
    def parsed(lines: list[str] | list[bytes]) -> list[dict]:
        """The valid ones of a log's lines, as dicts."""
        found = []
        for line in lines:
            with suppress(ValueError, LookupError, TypeError, OverflowError):  # a step may even be infinite
                values = parse_json(line)
                values["step"] = int(values["step"])
                sum(float(x) for x in values.values() if isinstance(x, int))  # OverflowError: no loss
                found.append(values)
        return found

    def write(self, **values):
        """Append one line; values that are not finite become null, as JSON has no NaN.  DiskError: disk full."""
        values = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        with writing(self.file.name):
            end = self.file.seek(0, os.SEEK_END)
            try:
                if self.file.write(line) < len(line):  # the disk took only a part
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self.file.truncate(end)
                raise

    def add_images(self, step: int, grids: dict[str, np.ndarray]):
        """Add the sample grids (H,W,3) uint8 of a step, by name; this log does not hold images."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def bare_and_weighted(values: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Each term that has a weight, bare under its name and weighted under NAME_weighted; the others as they are.

    A weight of 0 or 1: a term of weight 0 has no bare value, one of weight 1 no weighted one.
    """
    found = {}
    for name, value in values.items():
        by = weights.get(name, 1)
        if by:
            found[name] = value / by
        if by != 1:
            found[f"{name}_weighted"] = value
    return found


RUN = ("lr", "dropped", "steps_per_second", "data_wait", "scoring_seconds")  # neither losses nor scores


def check_tensorboard():
    """UserError if the package is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        needed = own_file("requirements-scores.txt")
        raise UserError(f"--tensorboard true needs a package: pip install -r {needed}") from None


class TensorBoardLog(Log):
    """A log that also writes results/NAME/tensorboard."""

    def __init__(self, path: Path, start: int):
        """start: the step that the training continues from; entries of later steps are purged."""
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(path, start)
        self.folder = path.parent / "tensorboard"
        with writing(self.folder):
            self.writer = SummaryWriter(str(self.folder), purge_step=start + 1)

    def write(self, **values):
        super().write(**values)
        group = "scores" if "scoring_seconds" in values else "losses"
        with writing(self.folder):
            for name, value in values.items():
                if name != "step":
                    self.writer.add_scalar(f"{'run' if name in RUN else group}/{name}", value, values["step"])
            self.writer.flush()  # a killed run is resumed, and so are its curves

    def add_images(self, step: int, grids: dict):
        with writing(self.folder):
            for direction, grid in grids.items():
                self.writer.add_image(f"samples/{direction}", grid, step, dataformats="HWC")
            self.writer.flush()

    def __exit__(self, *_):
        super().__exit__()
        with suppress(OSError):  # a full disk was reported by write()
            self.writer.close()
