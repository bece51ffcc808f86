"""The ablation's option files and its table."""

import json
import sys
from pathlib import Path

import pytest

import main
from utils import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablation

HOME = Path(__file__).parents[1]

DIFFERS = {  # from the demo's options
    "none": {"nice": False, "ra": False},
    "ra": {"nice": False},
    "nice": {"ra": False},
    "minus": {"shared_layers": 1},
    "full": {},
    "plus": {"shared_layers": 3},
    "without_c2": {"heads": (0, 1)},
    "only_c0": {"heads": (0,)},
    "encoder_both": {"encoder_updates": "both"},
    "encoder_g": {"encoder_updates": "g"},
}


def test_option_files(monkeypatch):
    monkeypatch.chdir(HOME)
    assert {p.stem for p in Path("configs/ablation").glob("*.txt")} == set(ablation.ROWS) == set(DIFFERS)
    plain = vars(main.parse_args(["@configs/demo_plain.txt", "--device", "cpu"]))
    for row, differs in DIFFERS.items():
        options = vars(main.parse_args([f"@configs/ablation/{row}.txt", "--device", "cpu"]))
        found = {k: v for k, v in options.items() if v != plain[k] and k not in ("given", "command")}
        assert found == differs, row


@pytest.fixture
def complete(tmp_path):
    """Two complete seeds of a row and one of another, all of 30 steps."""
    for row, seed, add in (("full", 0, 0.0), ("full", 1, 0.2), ("none", 0, 0.5)):
        scores = {f"{c}_{d}": add + i + (d == "B2A") for i, c in enumerate(ablation.COLUMNS) for d in ("A2B", "B2A")}
        folder = tmp_path / f"{row}-30-{seed}"
        folder.mkdir()
        early = {name: 99.0 for name in scores}
        (folder / "scores.json").write_text(json.dumps({"9": early, "30": scores}))
    (tmp_path / "nice-30-0").mkdir()  # an unfinished one
    return tmp_path


def test_table(complete, capsys):
    ablation.main(["--steps", "30", "--table-only", "--result_dir", str(complete)])
    text = (complete / "ablation.md").read_text()
    assert text in capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert list(rows) == [ablation.ROWS["none"], ablation.ROWS["full"]]  # in the paper's order
    assert rows[ablation.ROWS["none"]] == ["1", "0.500 / 1.500", "1.500 / 2.500", "2.500 / 3.500", "3.5 / 4.5"]
    assert rows[ablation.ROWS["full"]][:2] == ["2", "0.100 ± 0.141 / 1.100 ± 0.141"]


def test_what_is_complete_is_not_done_again(complete, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a training was started")

    monkeypatch.setattr(ablation.trainings.subprocess, "Popen", never)
    argv = ["--steps", "30", "--rows", "full", "--seeds", "0", "1", "--result_dir", str(complete)]
    ablation.main([*argv, "--out", str(complete / "t.md")])
    assert "--steps 30 --seeds 0 1 --rows full" in (complete / "t.md").read_text()


def test_no_complete_run(complete):
    with pytest.raises(UserError, match="no complete run of 31 steps"):
        ablation.main(["--steps", "31", "--table-only", "--result_dir", str(complete)])


def test_options_for_all_rows_and_another_data_set(tmp_path, capsys):
    args = ablation.parse_args(["--dataset", str(tmp_path / "cats"), "--ch", "8", "--seeds", "0", "1", "--steps", "9"])
    assert (args.dataset, args.dataset_dir, args.more) == ("cats", tmp_path, ["--ch", "8"])
    assert args.result_dir == ablation.ROOT / "results" / "ablation" / "cats"
    run = ablation.Run(args, "ra", 0)
    options = main.parse_args([*run.words, "--device=cpu"])
    assert (options.nice, options.ch, options.img_size, options.dataset) == (False, 8, 256, "cats")
    for words, said in ((["--seed", "1"], "give --seeds"), (["--chh", "1"], "did you mean --ch?")):
        with pytest.raises(SystemExit) as leaving:
            ablation.parse_args(words)
        assert leaving.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(UserError, match="has no trainA and no trainB"):
        ablation.main(["--dataset", str(tmp_path / "cats"), "--result_dir", str(tmp_path / "runs")])


def test_rows_trained_with_other_options_are_refused(complete):
    with pytest.raises(UserError, match="trained with other options for all rows"):
        ablation.main(["--steps", "30", "--table-only", "--result_dir", str(complete), "--ch", "8"])


CUT_DIFFERS = {  # from the demo's options with five residual blocks
    "full": {},
    "own_encoder": {"shared_encoder": False},
    "no_decoder": {"nce_decoder": False},
    "last": {"nce_layers": (16,)},
    "external": {"negatives": "external"},
    "both": {"negatives": "both"},
    "no_identity": {"nce_idt": False},
}


@pytest.mark.parametrize("data, base", [("demo", "demo_deep"), ("horse2zebra", "horse2zebra")])
def test_option_files_of_cut(data, base, monkeypatch):
    monkeypatch.chdir(HOME)
    assert {p.stem for p in Path("configs/ablation/cut").glob("*.txt")} == set(ablation.CUT_ROWS) == set(CUT_DIFFERS)
    plain = vars(main.parse_args([f"@configs/cut/{base}.txt", "--device", "cpu"]))
    args = ablation.parse_args(["--method", "cut", "--dataset", data])
    for row, differs in CUT_DIFFERS.items():
        options = vars(main.parse_args([*ablation.Run(args, row, 0).words, "--device", "cpu"]))
        found = {k: v for k, v in options.items() if v != plain[k] and k not in ("given", "command", "dataset_dir")}
        assert found == differs, row


def test_table_of_one_direction(tmp_path, capsys):
    folder = tmp_path / "last-30-0"
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps({"30": {"background_A2B": 0.25, "fd_A2B": 7.5}}))
    argv = ["--method", "cut", "--steps", "30", "--seeds", "0", "--table-only", "--result_dir", str(tmp_path)]
    ablation.main(argv)
    text = capsys.readouterr().out
    assert "| row | seeds | background, A2B | FD, A2B |" in text and "| last layer only | 1 | 0.250 | 7.5 |" in text
    assert "The ablations of CUT on the demo data" in text and "--method cut --steps 30 --seeds 0" in text
    with pytest.raises(SystemExit) as leaving:
        ablation.parse_args(["--method", "cut", "--rows", "plus"])
    assert leaving.value.code == 2 and "'plus' is no row of cut's" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method, rows", [("nice", ["none"]), ("cut", ["own_encoder", "both"])])
def test_rows_are_trained_scored_and_written(method, rows, tmp_path, monkeypatch, capsys):
    """From the first step to the table and the curves: a handful of steps of the demo."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    argv = ["--method", method, "--steps", "4", "--curve", "2", "--seeds", "0", "--rows", *rows, "--log_freq", "1"]
    ablation.main([*argv, "--dataset_dir", str(tmp_path / "data"), "--result_dir", str(tmp_path / "runs")])
    text = (tmp_path / "runs" / "ablation.md").read_text("utf-8")
    assert all(ablation.TABLES[method][row] in text for row in rows)
    for row in rows:
        log = (tmp_path / "runs" / f"{row}-4-0" / "demo" / "log.jsonl").read_text("utf-8")
        assert log.count('"fd_A2B"') == 2 and (method != "cut" or '"NCE"' in log)
