"""TensorBoard (--tensorboard true): the log, and beside it the same numbers and the sample grids in its files.

    tensorboard --logdir results        shows results/NAME/tensorboard
"""

from contextlib import suppress
from pathlib import Path

import utils
from utils import UserError

RUN = ("lr", "dropped", "steps_per_second", "data_wait", "scoring_seconds")  # what is no loss and no score


def check():
    """UserError where the package is missing; before anything is trained."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError("--tensorboard true needs a package: pip install -r requirements-scores.txt") from None


class Board(utils.Log):
    """A log that also writes results/NAME/tensorboard."""

    def __init__(self, path: Path, start: int):
        """start: the step that the training goes on from; what an earlier one wrote of later steps is taken back."""
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(path, start)
        self.folder = path.parent / "tensorboard"
        with utils.writing(self.folder):
            self.writer = SummaryWriter(str(self.folder), purge_step=start + 1)

    def write(self, **values):
        super().write(**values)
        others = "scores" if "scoring_seconds" in values else "losses"
        with utils.writing(self.folder):
            for name, value in values.items():
                if name != "step":
                    self.writer.add_scalar(f"{'run' if name in RUN else others}/{name}", value, values["step"])
            self.writer.flush()  # a killed run continues from its checkpoint, and so must its curves

    def show(self, step: int, grids: dict):
        with utils.writing(self.folder):
            for way, grid in grids.items():
                self.writer.add_image(f"samples/{way}", grid, step, dataformats="HWC")
            self.writer.flush()

    def __exit__(self, *_):
        super().__exit__()
        with suppress(OSError):  # of a full disk, which was told
            self.writer.close()
