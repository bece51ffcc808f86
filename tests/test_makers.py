"""made.json: translations say what made them, and those of two makers never lie in one folder."""

import json
import shutil

import pytest
from runs import latest, pictures, trained

import fid_kid
from images.files import list_images
from images.maker import doubt, read


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A training of two steps, translated."""
    folder = pictures(tmp_path_factory.mktemp("made"))
    trained(folder, "--iteration 2 --save_freq 1")
    trained(folder, "--phase test")
    return folder


@pytest.fixture
def folder(done, tmp_path):
    return shutil.copytree(done, tmp_path / "run")


def aside(folder) -> set[str]:
    results = folder / "results" / "tiny"
    return {path.relative_to(results).as_posix() for path in results.glob("previous_*/**/*") if path.is_file()}


def test_it_says_what_made_the_pictures(folder):
    fake = folder / "results" / "tiny" / "fakeB"
    found = read(fake)
    assert (found["method"], found["step"], found["direction"]) == ("nice", 2, "AtoB")
    assert found["checkpoint"].endswith("tiny_params_latest.pt") and found["options"]["size"] == 48
    assert read(fake.with_name("fakeA"))["direction"] == "BtoA"
    assert [path.name for path in list_images(fake)] == ["0.png", "1.png"]
    assert doubt(fake) is None


def test_the_same_call_again_moves_nothing(folder):
    before = (folder / "results" / "tiny" / "fakeB" / "0.png").stat().st_mtime_ns
    run = trained(folder, "--phase test")
    assert "earlier translations" not in run.output and not aside(folder)
    copy = folder / "results" / "tiny" / "model" / "tiny_params_0000002.pt"  # the same weights in another file
    trained(folder, f"--phase test --checkpoint {copy}")
    assert not aside(folder) and (folder / "results" / "tiny" / "fakeB" / "0.png").stat().st_mtime_ns != before


@pytest.mark.parametrize("options", ["--checkpoint {first}", "--keep_size true", "--seed 3"])
def test_what_something_else_made_goes_aside_whole(folder, options):
    first = folder / "results" / "tiny" / "model" / "tiny_params_0000001.pt"
    run = trained(folder, f"--phase test {options}".format(first=first))
    assert run.output.count("earlier translations, fakeB and fakeA, are now in") == 1
    assert "previous_1; --replace true deletes them instead\n" in run.output
    wanted = {f"previous_1/{fake}/{name}" for fake in ("fakeA", "fakeB") for name in ("0.png", "1.png", "made.json")}
    assert aside(folder) == wanted


def test_earlier_translations_are_deleted_on_demand_if_they_are_ours(folder):
    results = folder / "results" / "tiny"
    run = trained(folder, "--phase test --seed 3 --replace true")
    assert not aside(folder) and "earlier translations" not in run.output
    assert read(results / "fakeB")["options"]["seed"] == 3
    (results / "fakeA" / "made.json").unlink()
    run = trained(folder, "--phase test --seed 4 --replace true")
    assert "earlier translations, fakeA, are now in" in run.output
    assert aside(folder) == {"previous_1/fakeA/0.png", "previous_1/fakeA/1.png"}


def test_pictures_of_removed_inputs_go_aside_in_their_direction_alone(folder):
    (folder / "dataset" / "tiny" / "testA" / "1.png").unlink()
    trained(folder, "--phase test")
    assert aside(folder) == {"previous_1/fakeB/0.png", "previous_1/fakeB/1.png", "previous_1/fakeB/made.json"}
    assert [path.name for path in list_images(folder / "results" / "tiny" / "fakeB")] == ["0.png"]


def test_pictures_of_an_unknown_maker_go_aside(folder):
    for fake in ("fakeA", "fakeB"):
        (folder / "results" / "tiny" / fake / "made.json").unlink()
    trained(folder, "--phase test --direction AtoB")
    assert aside(folder) == {"previous_1/fakeB/0.png", "previous_1/fakeB/1.png"}


def test_another_methods_pictures_beside_a_run_are_named_by_the_scorer(folder, tmp_path, capsys):
    trained(folder, f"--method cut --iteration 1 --result_dir {folder / 'results' / 'cut'}")
    other = folder / "results" / "cut" / "tiny_params_latest.pt"
    trained(folder, f"--phase test --method cut --checkpoint {other}")
    fake = folder / "results" / "tiny" / "fakeB"
    assert "is not of the run beside it (--method nice): it was made by --method cut, step 1" in doubt(fake)
    data = folder / "dataset" / "tiny"
    fid_kid.main([str(data / "testB"), str(fake), "--features", "efficientnet-lite0", "--no-kid", "--json",
                  str(tmp_path / "score.json"), "-c", ""])  # fmt: skip
    assert f"note: {doubt(fake)}" in capsys.readouterr().out
    assert doubt(fake) in json.loads((tmp_path / "score.json").read_text())["notes"]
    shutil.copytree(fake, tmp_path / "copy")
    assert doubt(tmp_path / "copy") is None and read(tmp_path / "copy")["method"] == "cut"


def test_a_run_that_was_moved_keeps_its_translations(folder, tmp_path):
    shutil.move(folder / "results", tmp_path / "elsewhere")
    assert doubt(tmp_path / "elsewhere" / "tiny" / "fakeB") is None
    (tmp_path / "results").mkdir()
    shutil.move(tmp_path / "elsewhere", folder / "results")
    assert latest(folder).exists()
