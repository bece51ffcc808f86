"""fid_kid.py --labels: label maps against their truth."""

import numpy as np
import pytest
from pictures import one_line
from PIL import Image
from scorer import fails

import fid_kid
from images.encode_deep import encoded
from scoring.labels import label_scores, read_labels
from utils import UserError


def save(folder, name, labels, mode="L"):
    folder.mkdir(exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(folder / name)


def test_scores_by_hand(tmp_path, capsys):
    """Two maps of three pixels: truth 0 0 1, 1 1 2; predicted 0 1 1, 1 1 1."""
    save(tmp_path / "true", "a.png", [[0, 0, 1]])
    save(tmp_path / "true", "b.png", [[1, 1, 2]])
    save(tmp_path / "drawn", "a.bmp", [[0, 1, 1]])
    save(tmp_path / "drawn", "b.bmp", [[1, 1, 1]], "P")
    found = label_scores(tmp_path / "true", tmp_path / "drawn")
    assert found["pixel_accuracy"] == pytest.approx(4 / 6)
    assert found["class_accuracy"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["mean_iou"] == pytest.approx((1 / 2 + 3 / 5 + 0) / 3)
    assert found["areas"] == {"0": (2 / 6, 1 / 6), "1": (3 / 6, 5 / 6), "2": (1 / 6, 0)}
    ignoring = label_scores(tmp_path / "true", tmp_path / "drawn", ignore=2)
    assert ignoring["pixel_accuracy"] == pytest.approx(4 / 5) and ignoring["classes"] == 2
    fid_kid.main(["--labels", str(tmp_path / "true"), str(tmp_path / "drawn")])
    assert capsys.readouterr().out.splitlines() == [
        "pixel accuracy 0.6667, class accuracy 0.5000, mean IoU 0.3667 (2 maps, 3 classes)",
        "area, true and predicted: 0 33.33% 16.67%, 1 50.00% 83.33%, 2 16.67% 0.00%"]


def test_a_matrix_of_confusion_gives_the_same(tmp_path):
    rng = np.random.default_rng(0)
    matrix = np.zeros((5, 5))
    for i in range(3):
        true = rng.integers(0, 5, (9, 7))
        drawn = np.where(rng.random((9, 7)) < 0.6, true, rng.integers(0, 5, (9, 7)))
        np.add.at(matrix, (true, drawn), 1)
        save(tmp_path / "true", f"{i}.png", true)
        save(tmp_path / "drawn", f"{i}.png", drawn)
    found, hits = label_scores(tmp_path / "true", tmp_path / "drawn"), np.diag(matrix)
    assert found["pixel_accuracy"] == pytest.approx(hits.sum() / matrix.sum())
    assert found["class_accuracy"] == pytest.approx((hits / matrix.sum(1)).mean())
    assert found["mean_iou"] == pytest.approx((hits / (matrix.sum(0) + matrix.sum(1) - hits)).mean())


def test_colours_palettes_and_what_is_refused(tmp_path, capsys):
    save(tmp_path / "true", "a.png", [[[255, 0, 0], [0, 0, 2]]])
    assert read_labels(tmp_path / "true" / "a.png").tolist() == [[65536 * 255, 2]]
    save(tmp_path / "drawn", "a.png", [[[255, 0, 0]]])
    argv = "--labels", tmp_path / "true", tmp_path / "drawn"
    assert "equal sizes" in fails(capsys, *argv)
    Image.new("CMYK", (2, 1)).save(tmp_path / "drawn" / "a.tiff")
    (tmp_path / "drawn" / "a.png").unlink()
    assert "mode CMYK" in fails(capsys, *argv)
    (tmp_path / "drawn" / "a.tiff").rename(tmp_path / "drawn" / "b.tiff")
    assert "b.tiff has no counterpart" in fails(capsys, *argv)
    (tmp_path / "drawn" / "b.tiff").unlink()
    save(tmp_path / "grey", "a.png", [[7, 7]])
    assert "--ignore-label" in fails(capsys, "--labels", tmp_path / "grey", tmp_path / "grey", "--ignore-label", "7")
    assert "--labels" in fails(capsys, "--ignore-label", "7", tmp_path / "true", tmp_path / "true")


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_colours_of_16_bits_are_no_labels_of_8(tmp_path, name):
    values = np.arange(24, dtype=np.uint16).reshape(2, 4, 3)
    (tmp_path / name).write_bytes(encoded(values, name[1:]))
    with pytest.raises(UserError) as error:
        read_labels(tmp_path / name)
    assert "repair" not in one_line(error, tmp_path / name, "more than 8 bits")
    (tmp_path / name).write_bytes(encoded(values[..., :1] * 2000, name[1:]))
    assert np.array_equal(read_labels(tmp_path / name), values[..., 0].astype(int) * 2000)
