"""Scores of Table 1 against true counterparts, and its baselines."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import counterparts
import trainings


@pytest.fixture
def root(tmp_path):
    """A data set of 16 pixels whose target is the source with channels swapped, darker and shifted."""
    noise = np.random.default_rng(0)
    for folder in ("trainA", "trainB", "testA", "testB", "truthA", "truthB"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        for kind, s in ("train", "A"), ("train", "B"), ("test", "A"), ("test", "B"):
            source = noise.integers(0, 200, (16, 16, 3), dtype=np.uint8)
            target = (source * (0.9, 0.5, 0.7) + (10, 60, 30)).round().astype(np.uint8)
            save(tmp_path / f"{kind}{s}" / f"{i}.png", source if s == "A" else target)
            if kind == "test":
                save(tmp_path / f"truth{s}" / f"{i}.png", target if s == "A" else source)
    return tmp_path


def save(path, pixels):
    Image.fromarray(pixels).save(path)


def test_colours_are_matched_without_pairs(root):
    names = dict(text.split("=") for text in counterparts.baselines(root, root / "baselines"))
    assert list(names) == list(counterparts.BASELINES)
    for s, t in "AB", "BA":
        l1 = {name: counterparts.measure(Path(folder) / f"fake{t}", root / f"truth{s}")["l1"]
              for name, folder in names.items()}
        assert l1["colour matched"] < 0.02 < l1["copy"] < l1["another picture"]


def test_equal_pictures_have_no_distance_and_larger_ones_are_reduced(root):
    assert counterparts.measure(root / "truthA", root / "truthA") == {"l1": 0, "ssim": pytest.approx(1)}
    (root / "large").mkdir()
    for path in (root / "truthA").iterdir():
        Image.open(path).resize((32, 32), Image.Resampling.NEAREST).save(root / "large" / path.name)
    assert counterparts.measure(root / "large", root / "truthA")["l1"] < 0.1
    with pytest.raises(UserError, match="is smaller than"):
        counterparts.measure(root / "truthA", root / "large")
    (root / "large" / "0.png").unlink()
    with pytest.raises(UserError, match=r"has no picture 0\.png"):
        counterparts.measure(root / "large", root / "truthA")


def test_columns_depend_on_what_the_data_set_has(root):
    class Net:
        name = "efficientnet-lite0"

    assert trainings.Scorer(root, Net()).columns("A") == ["l1", "ssim", "fd"]
    columns = trainings.Scorer(root, Net(), True, lpips=Net()).columns("B")
    assert columns == ["l1", "ssim", "lpips", "fd", "kd", "md", "precision", "recall", "density", "coverage"]
    (root / "maskA").mkdir()
    assert trainings.Scorer(root, Net()).columns("A") == ["background", "coat_colour", "coat_texture", "fd"]
    assert trainings.Scorer(root / "trainA", Net()).columns("A") == ["fd"]
