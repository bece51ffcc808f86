"""What a training says before its first step and after its last one, and its first samples."""

import shlex
import shutil

import pytest
from runs import pictures, trained


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path)


def test_it_says_what_it_found_and_what_to_type_next(folder):
    run = trained(folder, "--iteration 3 --print_freq 1000")
    results, data = folder / "results", folder / "dataset" / "tiny"
    assert f"training --method nice on cpu: pictures 2 of A, 2 of B; steps 1 to 3, each with 1 picture of 48 x 48 a " \
           f"domain; results go to {results / 'tiny'}, samples from step 1 on" in run.output  # fmt: skip
    assert {path.name for path in (results / "tiny" / "img").iterdir()} == {
        f"{way}_000000{step}.png" for way in ("A2B", "B2A") for step in (1, 3)
    }
    (line,) = [line for line in run.output.splitlines() if "translate with: " in line]
    command = shlex.split(line.partition("translate with: ")[2])
    assert command == ["python", "main.py", "--dataset", str(data), "--result_dir", str(results), "--phase", "test"]
    trained(folder, command[2:])
    shutil.rmtree(data / "testA")
    run = trained(folder, "--resume True --iteration 4")
    assert "--phase test --input FOLDER --output translated --direction AtoB" in run.output
    assert "steps 4 to 4" in run.output and "samples from step 4 on" in run.output


def test_one_picture_and_twice_the_same_pictures_are_pointed_out(folder):
    data = folder / "dataset" / "tiny"
    (data / "trainA" / "1.png").unlink()
    shutil.rmtree(data / "trainB")
    shutil.copytree(data / "trainA", data / "trainB")
    run = trained(folder, "--iteration 1")
    assert run.output.count("is the only picture of") == 2 and "--method sincut" in run.output
    assert run.output.count("trainA and trainB hold the same pictures") == 1
