"""Mistakes are answered by what helps: the method of a checkpoint first, both missing options at once, near names."""

import pytest
from runs import ROOT, complaint, pictures, trained

import main
from options.program import refuse_mistakes
from utils import own_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = pictures(tmp_path_factory.mktemp("right"))
    trained(folder, "--iteration 1")
    return folder


def test_a_checkpoint_of_another_method_is_named_first(folder):
    picture = folder / "dataset" / "tiny" / "testA" / "0.png"
    for phase in (
        "--phase test",
        f"--phase test --input {picture} --output {folder / 'out'}",
        "--phase export --direction AtoB",
        "--resume True --iteration 2",
    ):
        refused = trained(folder, f"--method cut {phase}", status=2)
        complaint(refused, "is of --method nice, not cut: leave --method out")


def test_the_folder_of_a_run_names_its_checkpoint(folder):
    run = trained(folder, f"--phase test --checkpoint {folder / 'results' / 'tiny'}")
    assert "tiny_params_latest.pt" in run.output


def test_the_folder_of_a_run_falls_back_to_a_numbered_checkpoint(tmp_path):
    pictures(tmp_path)
    trained(tmp_path, "--iteration 2 --save_freq 1")
    latest = tmp_path / "results" / "tiny_params_latest.pt"
    latest.write_bytes(latest.read_bytes()[:9000])
    run = trained(tmp_path, f"--phase test --checkpoint {tmp_path / 'results' / 'tiny'}")
    assert "damaged" in run.output and "translated with" in run.output and "tiny_params_0000002.pt" in run.output
    latest.unlink()
    run = trained(tmp_path, f"--checkpoint {tmp_path / 'results' / 'tiny'} --iteration 3")
    assert "continuing from step 2 of" in run.output


def test_epochs_never_become_steps(capsys):
    for name in ("n_epochs", "niter", "epoch", "max_epochs"):
        with pytest.raises(SystemExit):
            main.parse_args(["--device=cpu", f"--{name}", "200"])
        assert "--epochs" in (said := capsys.readouterr().err) and "--iteration" not in said
    refuse_mistakes([*["--device", "cpu", "--epochs", "200"], f"@{ROOT}/configs/cut/demo.txt"])
    assert "comes after --epochs, and counts" in capsys.readouterr().err
    assert refuse_mistakes([f"@{ROOT}/configs/cut/demo.txt", "--epochs=200"]).epochs == 200
    assert not capsys.readouterr().err


def test_what_input_lacks_is_asked_for_at_once(folder):
    picture = folder / "dataset" / "tiny" / "testA" / "0.png"
    refused = trained(folder, f"--phase test --input {picture}", status=2)
    complaint(refused, "--output DIR", "--direction AtoB", "from pictures like trainA to pictures like trainB")


def test_without_test_folders_input_is_pointed_out(folder, tmp_path):
    data = tmp_path / "tiny"
    data.mkdir()
    latest = folder / "results" / "tiny_params_latest.pt"
    refused = trained(folder, f"--phase test --dataset {data} --checkpoint {latest}", status=2)
    complaint(refused, "testA does not exist", "--input FOLDER --output FOLDER")


def test_near_names(folder, tmp_path, capsys):
    refused = trained(folder, f"--phase test --checkpoint {folder / 'results' / 'tiny_params_latest.tp'}", status=2)
    complaint(refused, "did you mean", "tiny_params_latest.pt?")
    refused = trained(folder, f"--dataset {folder / 'dataset' / 'tinyy'}", status=2)
    complaint(refused, "no data set", "did you mean", f"{folder / 'dataset' / 'tiny'}?")
    (tmp_path / "cats.txt").write_text("--lr 1\n")
    for words, meant in (
        (f"@{tmp_path}/cat.txt", "cats.txt?"),
        ("--method cyclgan", "did you mean cyclegan?"),
        ("--phase tset", "did you mean test?"),
    ):
        with pytest.raises(SystemExit) as leaving:
            main.parse_args(words.split())
        assert leaving.value.code == 2 and meant in capsys.readouterr().err


@pytest.mark.parametrize("text, meant", [("A2B", "AtoB"), ("b2a", "BtoA"), ("atob", "AtoB"), ("BtoA", "BtoA")])
def test_directions(text, meant):
    assert main.parse_args(["--device=cpu", "--direction", text]).direction == meant


def test_printed_commands_work_in_the_folder_where_they_are_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["../there/main.py"])
    args = main.parse_args(["--device", "cpu", "--dataset", "some/where/cats"])
    assert args.command == "python ../there/main.py --device cpu --dataset some/where/cats --resume True"
    assert own_file("fid_kid.py") == str(ROOT / "fid_kid.py")
    monkeypatch.chdir(ROOT / "docs")
    assert own_file("docs/x y.md") == "'x y.md'" and own_file("main.py") == str(ROOT / "main.py")


def test_option_files_name_one_another_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = main.parse_args([f"@{ROOT}/configs/ablation/full.txt", "--device=cpu"])  # over demo_plain.txt and demo.txt
    assert (args.dataset, args.lr, args.ch) == ("demo", 2e-4, 16)
