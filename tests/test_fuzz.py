"""Mutated option values, documents and checkpoints: taken, or refused in one line with status 2, and quickly."""

import json
import random
import time

import pytest
import torch
from runs import PATIENCE, SMALL, Run
from test_checkpoints import released

import main
import methods
from checkpoints.files import save_checkpoint
from utils import UserError

COUNTS = [150, pytest.param(10_000, marks=pytest.mark.slow)]
VALUES = ["", "0", "-1", "1e999", "nan", "9" * 400, "true", "None", "[1]", "a\nb", "\udcff", "../x", "/dev/zero", "@x",
          "--ch", "0x10", "\u0663", "1_0", " 1", "1.5", "cuda:99", "x" * 5000, "\0"]  # fmt: skip


@pytest.mark.parametrize("count", COUNTS)
def test_options(count, capsys):
    noise, ended = random.Random(0), {"taken": 0, "refused": 0}
    for i in range(count):
        method = noise.choice(list(SMALL))
        names = [a.option_strings[0] for a in main.build_parser(method)._actions if a.option_strings[0] != "-h"]
        argv = ["--method", method, "--device", "cpu"]
        for _ in range(noise.randrange(1, 4)):
            argv += [noise.choice(names)] + [noise.choice(VALUES)] * noise.choice((1, 1, 1, 0))
        start = time.monotonic()
        try:
            main.parse_args(argv)
            ended["taken"] += 1
        except SystemExit as leaving:
            assert leaving.code == 2, argv
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and err[:-1].isprintable() and "error: " in err, (argv, err)
            ended["refused"] += 1
        except UserError as error:
            assert "\n" not in str(error), argv
            ended["refused"] += 1
        assert time.monotonic() - start < 20, (i, argv)
    with capsys.disabled():
        print(f"\noptions: {ended}")


def bombarded(folder, function, *arguments) -> dict:
    """The counts that a function of bombardment prints."""
    run = Run(folder, f"bombardment:{function}", str(folder), *arguments)
    assert run.wait() == 0, run.output[-3000:]
    print(figures := json.loads(run.output.splitlines()[-1]))
    return figures


@pytest.mark.parametrize("count", COUNTS)
def test_documents(count, tmp_path, monkeypatch):
    """log.jsonl, run.json, made.json, scores, keys and answers of studies, .npz files, option files."""
    monkeypatch.setattr("runs.PATIENCE", max(PATIENCE, count))
    figures = bombarded(tmp_path, "documents", count, 0)
    assert sum(n for name, n in figures.items() if name != "longest") == count


MUTATIONS = [("nice", 400), ("cut", 100), *(pytest.param(name, 910, marks=pytest.mark.slow) for name in SMALL)]


@pytest.mark.parametrize("method, count", MUTATIONS)
def test_checkpoints_and_model_files(method, count, tmp_path, monkeypatch):
    """They load equal, or as a stranger may have made them, or are refused."""
    monkeypatch.setattr("runs.PATIENCE", max(PATIENCE, count))
    model = methods.create(main.parse_args(f"--method {method} {SMALL[method]} --num_workers 0 --device cpu".split()))
    size = (model.args.batch_size, 3, model.args.img_size, model.args.img_size)
    real = [torch.rand(size, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2)]
    model.prepare(*real)
    for _ in range(model.period + 1):
        model.train_step(*real)
    save_checkpoint(model.state(), tmp_path / "ours.pt")
    if method == "nice":
        torch.save(released(model.state()), tmp_path / "old.pt")
        torch.save(released(model.state()), tmp_path / "oldest.pt", _use_new_zipfile_serialization=False)
    figures = bombarded(tmp_path, "checkpoints", method, count, 0)
    kinds = ("mutate", "repack", "reopcode", "misbuild", "retype")
    assert all(figures[f"{kind} refused"] > count / 40 for kind in kinds)
    assert figures["retype taken"] > count / 100
