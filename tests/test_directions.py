"""A method of one direction translates in the direction that it was trained in, and in no other."""

import onnx
import pytest
from runs import SMALL, complaint, pictures, trained

import methods

ONE_WAY = [name for name in SMALL if len(methods.load(name).directions) == 1]


@pytest.fixture(scope="module", params=[(name, way) for name in ONE_WAY for way in ("AtoB", "BtoA")], ids="-".join)
def run(request, tmp_path_factory):
    """A run of one step: (folder, method, direction)."""
    method, way = request.param
    folder = pictures(tmp_path_factory.mktemp("run"), each=1 if method == "sincut" else 2)
    trained(folder, f"--method {method} --direction {way} --iteration 1")
    return folder, method, way


def test_the_checkpoint_says_the_direction(run):
    folder, method, way = run
    other = "BtoA" if way == "AtoB" else "AtoB"
    trained(folder, f"--method {method} --phase test")
    drawn = {path.name for path in (folder / "results" / "tiny").glob("fake*")}
    assert drawn == {f"fake{way[-1]}"}
    split = methods.load(method).test_split
    names = {path.name for path in (folder / "dataset" / "tiny" / f"{split}{way[0]}").iterdir()}
    assert {path.name for path in (folder / "results" / "tiny" / f"fake{way[-1]}").glob("*.png")} == names
    picture = folder / "dataset" / "tiny" / "testA" / "0.png"
    for phase in (
        f"--method {method} --phase test",
        f"--method {method} --phase test --input {picture} --output {folder / 'out'}",
        f"--method {method} --phase export --output {folder / 'model.pt'}",
    ):
        refused = trained(folder, f"{phase} --direction {other}", status=2)
        complaint(refused, f"has learned {way} alone", "leave --direction out")
    refused = trained(folder, f"--method {method} --iteration 2 --resume True --direction {other}", status=2)
    complaint(refused, f"--direction is {other}, there {way}")
    assert {path.name for path in (folder / "results" / "tiny").glob("fake*")} == drawn
    trained(folder, f"--method {method} --iteration 2 --resume True --direction {way}")


def test_the_suffix_of_a_model_file_decides_its_format(tmp_path):
    folder = pictures(tmp_path)
    trained(folder, "--iteration 1")
    export = "--phase export --direction AtoB --output"
    trained(folder, f"{export} {folder / 'model.onnx'}")
    assert onnx.load(folder / "model.onnx").graph.output[0].name == "drawing"
    refused = trained(folder, f"{export} {folder / 'other.onnx'} --format pt2", status=2)
    complaint(refused, "--output", "--format onnx, not pt2")
    assert not (folder / "other.onnx").exists()


def test_one_picture_becomes_the_file_that_output_names(tmp_path):
    folder = pictures(tmp_path)
    trained(folder, "--iteration 1")
    inputs = folder / "dataset" / "tiny" / "testA"
    translate = "--phase test --direction AtoB --input"
    for _ in range(2):  # a second time it replaces its own result
        trained(folder, f"{translate} {inputs / '0.png'} --output {folder / 'new' / 'dog.jpg'}")
    assert (folder / "new" / "dog.jpg").is_file() and not list((folder / "new").glob("*.png"))
    refused = trained(folder, f"{translate} {inputs} --output {folder / 'both.png'}", status=2)
    complaint(refused, "names one picture, --input 2", "name a folder")
    refused = trained(folder, f"{translate} {inputs / '0.png'} --output {inputs / '0.png'}", status=2)
    complaint(refused, "would overwrite", "an input")


def test_no_option_is_guessed_from_its_beginning(tmp_path):
    folder = pictures(tmp_path)
    complaint(trained(folder, "--iter 1", status=2), "unrecognized arguments: --iter 1", "did you mean --iteration?")
