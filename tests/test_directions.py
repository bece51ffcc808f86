"""A method of one direction translates in the direction that it was trained in, and in no other."""

import pytest

import methods
from runs import SMALL, complaint, pictures, trained

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
    trained(folder, "--phase test")
    drawn = {path.name for path in (folder / "results" / "tiny").glob("fake*")}
    assert drawn == {f"fake{way[-1]}"}
    split = methods.load(method).test_split
    names = {path.name for path in (folder / "dataset" / "tiny" / f"{split}{way[0]}").iterdir()}
    assert {path.name for path in (folder / "results" / "tiny" / f"fake{way[-1]}").glob("*.png")} == names
    picture = folder / "dataset" / "tiny" / "testA" / "0.png"
    for phase in (
        f"--method {method} --phase test",
        f"--phase test --input {picture} --output {folder / 'out'}",
        f"--phase export --output {folder / 'model.pt'}",
    ):
        refused = trained(folder, f"{phase} --direction {other}", status=2)
        complaint(refused, f"has learned {way} alone", "leave --direction out")
    refused = trained(folder, f"--method {method} --iteration 2 --resume True --direction {other}", status=2)
    complaint(refused, f"--direction is {other}, there {way}")
    assert {path.name for path in (folder / "results" / "tiny").glob("fake*")} == drawn
    trained(folder, f"--method {method} --iteration 2 --resume True --direction {way}")
