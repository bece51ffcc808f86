"""What takes long says so: the bar of a training, which fits 80 columns."""

import io
import re
import time

from runs import pictures, trained

import options
from options import progress
from training.progress import TrainingBar


def frames(text: str) -> list[str]:
    return [frame.rstrip() for line in text.splitlines() for frame in line.split("\r") if "%|" in frame]


def test_the_bar_fits_80_columns_and_shows_what_else_is_done(tmp_path):
    run = trained(pictures(tmp_path), "--iteration 3 --print_freq 2 --score_freq 3")
    found = frames(run.output)
    assert max(map(len, found)) <= 80
    for what in ("drawing samples ...", "saving ...", "scoring", "d_loss="):
        assert any(what in frame for frame in found), (what, found)


def test_what_does_not_fit_is_left_out_from_the_end():
    file = io.StringIO()
    with TrainingBar(initial=99_000, total=100_000, file=file, mininterval=0) as bar:
        bar.values = {"D_loss": "2.81", "G_loss": "26.3", "kid_mean": "0.01234"}
        bar.start_t -= 180_000  # 50 hours
        bar.update()
        bar.tell("saving")
    steps, saving = (frames(file.getvalue())[i] for i in (1, 2))
    assert re.search(r"\| 99001/100000 50:00:0\d<.*, D_loss=2\.81", steps) and "kid_mean" not in steps
    assert saving.endswith(", saving ...") and max(map(len, frames(file.getvalue()))) <= 80


def test_a_line_says_what_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with options.telling("counting"):
        time.sleep(0.1)
    with options.telling("reading", when=False):
        time.sleep(0.05)
    with options.telling("nothing"):
        pass
    assert capsys.readouterr().err == "counting ...\n"
