"""The results of one run never mix with those of another: what an earlier run wrote goes aside, whole."""

import json

import pytest
from runs import complaint, latest, pictures, trained

import methods
import utils
from checkpoints.files import load_checkpoint


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path)


def files(place) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_of_another_method_is_refused_with_the_remedy(folder):
    results = folder / "results" / "tiny"
    trained(folder, "--iteration 1")
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    for method in ("cut", "cyclegan"):
        refused = trained(folder, f"--method {method} --iteration 1", status=2)
        complaint(refused, "holds a run of --method nice", f"--result_dir {folder / 'results' / method}")
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    trained(folder, f"--method cut --iteration 1 --result_dir {folder / 'results' / 'cut'}")
    complaint(
        trained(folder, f"--iteration 1 --result_dir {folder / 'results' / 'cut'}", status=2), "--method cut", "nice"
    )
    trained(folder, "--iteration 1")  # its own method goes on where it was


def test_all_of_an_earlier_run_goes_aside(folder):
    results = folder / "results" / "tiny"
    trained(folder, "--iteration 2 --save_freq 1 --print_freq 1")
    trained(folder, "--phase test")
    (results / "real_testB.npz").write_bytes(b"features")
    (results / "mine.txt").write_text("the user's own")
    before = files(results) - {"mine.txt"}
    run = trained(folder, "--iteration 1 --seed 1")
    assert "all of an earlier run is now in" in run.output
    assert files(results / "previous_1") == before | {latest(folder).name}
    assert files(results) - {f"previous_1/{name}" for name in (*before, latest(folder).name)} == {
        "mine.txt", "log.jsonl", "run.json", "img/A2B_0000001.png", "img/B2A_0000001.png"
    }  # fmt: skip


def test_going_back_takes_later_steps_aside_and_keep_deletes_none_of_the_new_ones(folder):
    results, freqs = folder / "results" / "tiny", "--save_freq 1 --print_freq 1"
    trained(folder, f"--iteration 4 {freqs}")
    second = results / "model" / "tiny_params_0000002.pt"
    trained(folder, f"--phase test --checkpoint {second} --direction AtoB")
    trained(folder, "--phase test --direction BtoA")  # by step 4
    (results / "test_scores.json").write_text('{"last": {"step": 4}}')
    run = trained(folder, f"--checkpoint {second} --iteration 3 --seed 0 {freqs} --keep 2")
    assert "going back to step 2" in run.output
    aside = files(results / "previous_1")
    assert {"model/tiny_params_0000003.pt", "model/tiny_params_0000004.pt", "img/A2B_0000004.png"} <= aside
    assert {"fakeA/0.png", "test_scores.json"} <= aside and not any(name.startswith("fakeB") for name in aside)
    kept = [json.loads(line)["step"] for line in (results / "previous_1" / "log.jsonl").read_text().splitlines()]
    assert kept == [1, 2, 3, 4]
    assert {path.name for path in (results / "model").iterdir()} == {f"tiny_params_000000{n}.pt" for n in (2, 3)}
    latest(folder).write_bytes(b"damaged")
    run = trained(folder, f"--resume True --iteration 4 {freqs}")
    assert "falling back" in run.output and "continuing from step 3" in run.output


def test_a_fall_back_never_goes_beyond_the_log(folder):
    """As after going back with a program that left later checkpoints where they were."""
    results = folder / "results" / "tiny"
    trained(folder, "--iteration 3 --save_freq 1 --log_freq 1")
    state = load_checkpoint(latest(folder), methods.recognise)
    assert state["start_iter"] == 3
    model = results / "model"
    (model / "tiny_params_0000009.pt").write_bytes((model / "tiny_params_0000003.pt").read_bytes())
    latest(folder).write_bytes(b"damaged")
    run = trained(folder, "--resume True --iteration 4 --log_freq 1")
    assert "tiny_params_0000003.pt" in run.output and "0000009" not in run.output


def test_a_plain_resume_moves_nothing(folder):
    trained(folder, "--iteration 2 --save_freq 1")
    trained(folder, "--resume True --iteration 3 --save_freq 1")
    assert not list((folder / "results" / "tiny").glob("previous_*"))


def test_what_killed_processes_left_does_not_go_aside(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in (f".{'0' * 16}.{'1' * 16}.tmp", "a.pt"):
        (model / name).touch()
    assert [p.name for p in (utils.move_aside(tmp_path, [model]) / "model").iterdir()] == ["a.pt"]
