"""results/NAME/log.jsonl, and with --tensorboard true the same numbers and the sample grids for TensorBoard.

    tensorboard --logdir results        shows results/NAME/tensorboard
"""

import errno
import json
import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils import UserError, atomic, writing


class Log:
    """results/NAME/log.jsonl: one JSON object a line, written in one system call each."""

    def __init__(self, path: Path, start: int):
        """Keep the valid lines up to step `start`; a killed run may have left later or torn ones."""
        kept = []
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                with suppress(ValueError, KeyError, TypeError):
                    if line.endswith(b"\n") and json.loads(line)["step"] <= start:
                        kept.append(line)
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    @staticmethod
    def lines(path: Path) -> list[dict]:
        """The valid lines of a log; none where there is no such file."""
        return Log.parsed(path.read_bytes().splitlines()) if path.exists() else []

    @staticmethod
    def parsed(lines: list[str] | list[bytes]) -> list[dict]:
        """What the valid ones of a log's lines say."""
        found = []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                values = json.loads(line)
                values["step"] = int(values["step"])
                found.append(values)
        return found

    def write(self, **values):
        """Append one line; what is not finite becomes null, as JSON has no NaN.  DiskError: disk full."""
        values = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        with writing(self.file.name):
            end = self.file.seek(0, os.SEEK_END)
            try:
                if self.file.write(line) < len(line):  # the disk took only a part of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self.file.truncate(end)
                raise

    def show(self, step: int, grids: dict[str, np.ndarray]):
        """The sample grids (H,W,3) uint8 of a step by name: nothing for this log, they are files."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

RUN = ("lr", "dropped", "steps_per_second", "data_wait", "scoring_seconds")  # what is no loss and no score


def check_tensorboard():
    """UserError where the package is missing; before anything is trained."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError("--tensorboard true needs a package: pip install -r requirements-scores.txt") from None


class Board(Log):
    """A log that also writes results/NAME/tensorboard."""

    def __init__(self, path: Path, start: int):
        """start: the step that the training goes on from; what an earlier one wrote of later steps is taken back."""
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(path, start)
        self.folder = path.parent / "tensorboard"
        with writing(self.folder):
            self.writer = SummaryWriter(str(self.folder), purge_step=start + 1)

    def write(self, **values):
        super().write(**values)
        others = "scores" if "scoring_seconds" in values else "losses"
        with writing(self.folder):
            for name, value in values.items():
                if name != "step":
                    self.writer.add_scalar(f"{'run' if name in RUN else others}/{name}", value, values["step"])
            self.writer.flush()  # a killed run continues from its checkpoint, and so must its curves

    def show(self, step: int, grids: dict):
        with writing(self.folder):
            for way, grid in grids.items():
                self.writer.add_image(f"samples/{way}", grid, step, dataformats="HWC")
            self.writer.flush()

    def __exit__(self, *_):
        super().__exit__()
        with suppress(OSError):  # of a full disk, which was told
            self.writer.close()
