"""The figures' scripts on a tiny real run, and their arithmetic."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
import methods

sys.path.insert(0, str(Path(__file__).parents[1] / "figure"))

import common
import compare
import curves
import heatmaps
import latent
import shared_latent

from utils import UserError, run

HOME = Path(__file__).parents[1]

OF_MODEL = "--dataset toy --dataset_dir {data} --result_dir {results} --device cpu"
GOOD = {  # figure: call
    "heatmaps_toy": f"heatmaps.py {OF_MODEL} --pictures 2",
    "activations_toy": f"activations.py {OF_MODEL} --layer 2 --filters 3",
    "latent_toy": f"latent.py {OF_MODEL}",
    "shared_latent_toy": f"shared_latent.py {OF_MODEL}",
    "curves": "curves.py {results}/toy again={results}/toy/log.jsonl",
    "toy": "answers.py --dataset toy --dataset_dir {data} --result_dir {results} --pictures 4",
    "compare": "compare.py --input {data}/toy/testA ours={results}/toy/fakeB same={data}/toy/testA",
}
BAD = {  # script: bad call, part of the message
    "heatmaps": ("heatmaps.py --dataset absent --result_dir {results}", "absent_params_latest.pt"),
    "activations": (f"activations.py {OF_MODEL} --layer 3", "--layer 3: the encoders of this training have 2"),
    "latent": (f"latent.py {OF_MODEL} --checkpoint {{data}}/toy/testA/0.png", "0.png"),
    "shared_latent": (f"shared_latent.py {OF_MODEL} --dataset_dir {{results}}", "testA"),
    "curves": ("curves.py {data}", "log.jsonl"),
    "answers": ("answers.py --dataset toy --dataset_dir {data} --result_dir {data}", "fakeB"),
    "compare": ("compare.py --input {data}/toy/testA ours={data}/toy/trainB", "has no picture"),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """{figure: (status, stdout, stderr)} of all calls, and the folders that they name."""
    top = tmp_path_factory.mktemp("figures")
    at = {name: str(top / name) for name in ("data", "results")}
    rng = np.random.default_rng(0)
    for folder, count in (("trainA", 2), ("trainB", 2), ("testA", 3), ("testB", 4), ("truthA", 3), ("truthB", 4)):
        for i in range(count):
            path = top / "data" / "toy" / folder / f"{i}{folder[-1] if folder == 'trainB' else ''}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(path)
    options = "--img_size 64 --ch 3 --n_res 1 --n_dis 6 --num_workers 0 --iteration 2 --log_freq 1 --device cpu"
    where = ["--dataset", "toy", "--dataset_dir", at["data"], "--result_dir", at["results"]]
    main.main([*options.split(), *where])
    main.main(["--phase", "test", "--device", "cpu", *where])
    scripts = {name: start(call, at, top) for name, call in (("curves", GOOD["curves"]), ("bad", BAD["curves"][0]))}
    done = {name: called(call, at, top) for name, call in GOOD.items() if name not in scripts}
    for name, process in scripts.items():
        out, err = process.communicate(timeout=300)
        done[name] = (process.returncode, out, err)
    return done, at


def start(call: str, at: dict, folder: Path):
    """The script in a process of its own."""
    command = [sys.executable, str(HOME / "figure" / call.split()[0]), *call.format(**at).split()[1:]]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def called(call: str, at: dict, folder: Path):
    """The same in this process, which has imported torch and matplotlib."""
    script, *argv = call.format(**at).split()
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        importlib.import_module(Path(script).stem).main(argv)
    return 0, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("name", [*GOOD, "interpolation_toy"])
def test_picture(name, calls):
    done, at = calls
    status, said, err = done.get(name, done["shared_latent_toy"])
    assert (status, err) == (0, "")
    path = Path("results", "toy", "figure", f"{name}.png")
    assert f"wrote {path}\n" in said
    picture = Image.open(Path(at["results"]).parent / path)
    picture.load()
    assert 600 <= picture.width <= 1000 and 150 <= picture.height <= 1300
    assert np.asarray(picture.convert("L")).std() > 5  # not blank


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, calls, capsys):
    call, wanted = BAD[name]
    with pytest.raises(SystemExit) as end:
        run(lambda: importlib.import_module(name).main(call.format(**calls[1]).split()[1:]), f"{name}.py")
    said, err = capsys.readouterr()
    assert (end.value.code, said) == (2, "")
    assert err.startswith(f"{name}.py: error: ") and err.count("\n") == 1 and wanted in err
    if name == "curves":
        assert calls[0]["bad"] == (2, "", err)


def test_nothing_else_is_written(calls):
    """Above all not the tracked pictures beside the scripts."""
    figures = Path(calls[1]["results"], "toy", "figure")
    assert {p.stem for p in figures.iterdir()} == {*GOOD, "interpolation_toy"}
    youngest = max(p.stat().st_mtime for p in (HOME / "figure").glob("*.png"))
    assert youngest < min(p.stat().st_mtime for p in figures.iterdir())


def test_out_names_another_folder(calls, tmp_path, capsys):
    log = Path(calls[1]["results"], "toy", "log.jsonl")
    curves.main([str(log), "--name", "mine", "--out", str(tmp_path / "new")])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mine.png"]
    assert not (log.parent / "figure" / "mine.png").exists()
    with pytest.raises(UserError, match="mine.png is not a folder; name another"):
        curves.main([str(log), "--out", str(tmp_path / "new" / "mine.png")])


def test_formats_and_resolution(calls, tmp_path):
    log, begin = (
        str(Path(calls[1]["results"], "toy", "log.jsonl")),
        {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"},
    )
    for format, first in begin.items():
        curves.main([log, "--out", str(tmp_path), "--format", format, "--dpi", "50"])
        assert (tmp_path / f"curves.{format}").read_bytes().startswith(first)
    assert Image.open(tmp_path / "curves.png").width == round(50 * common.WIDTH)


LONG = "a name of many words that is much wider than its place " * 2


def test_titles_fit_and_pictures_keep_their_size(tmp_path):
    picture = np.arange(300 * 200 * 3).reshape(200, 300, 3).astype(np.uint8)
    names = ["short", LONG, "a_$word$_" * 12, "\udcff"]
    figure = common.grid([[picture] * 4] * 2, names, LONG * 2)
    common.save(figure, tmp_path, tmp_path, "grid", dpi=20)
    width, height = Image.open(tmp_path / "grid.png").size
    figure.set_dpi(width / figure.get_figwidth())
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in [figure._suptitle, *(axis.title for axis in figure.axes[:4])]]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    title, *columns = boxes
    assert all(a.x1 < b.x0 for a, b in zip(columns, columns[1:], strict=False))
    assert title.y0 >= max(box.y1 for box in columns)
    for axis in figure.axes:
        assert axis.bbox.width >= 300 - 1e-6 and axis.bbox.height >= 200 - 1e-6


def test_curves_with_long_names_fit(calls, tmp_path):
    log = Path(calls[1]["results"], "toy", "log.jsonl")
    runs = [f"{LONG}{k}={log}" for k in range(3)]
    curves.main([*runs, "--out", str(tmp_path), "--title", LONG * 3])
    seen = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    assert (seen[:, [0, -1]] == 255).all() and (seen[[0, -1]] == 255).all()  # nothing is cut off


def test_compared_pictures_keep_proportions():
    rows = [[Image.new("RGB", (40, 20)), Image.new("RGB", (16, 16))], [Image.new("RGB", (10, 10))] * 2]
    wide, square = compare.alike(rows, 40)
    assert all(picture.shape == (40, 40, 3) for picture in (*wide, *square))
    assert all((p[10:30] == 0).all() and (p[:10] == 255).all() and (p[30:] == 255).all() for p in wide)
    assert all((p == 0).all() for p in square)


def test_figures_of_encoders_refuse_other_methods(tmp_path):
    argv = ["--dataset", "toy", "--result_dir", str(tmp_path), "--device", "cpu"]
    methods.create(main.parse_args([*argv, *["--method", "cyclegan", "--img_size", "64", "--ch", "2"]])).save()
    for script in (heatmaps, latent, shared_latent):
        with pytest.raises(UserError, match="toy_params_latest.pt is of --method cyclegan"):
            script.main(argv)


@pytest.mark.parametrize("package", ["matplotlib", "sklearn.manifold"])
def test_missing_package(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="pip install -r requirements-figures.txt"):
        common.pyplot() if package == "matplotlib" else latent.tsne(np.zeros((5, 5)), 0)


def test_mmd():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(60, 300, generator=generator) for _ in range(2))
    square = latent.distances(a, b)
    assert square == pytest.approx((torch.cdist(torch.cat((a, b)), torch.cat((a, b))) ** 2).numpy(), abs=1e-3)
    assert latent.mmd2(square, 60) == pytest.approx(0, abs=0.003)  # same distribution
    far = latent.mmd2(latent.distances(a, b + 1), 60)
    assert far > 0.05
    assert latent.mmd2(latent.distances(7 * a, 7 * b + 7), 60) == pytest.approx(far, rel=1e-4)  # independent of scale


def test_curves_of_scores_say_what_their_best_is_chosen_on(tmp_path, monkeypatch):
    drawn, held = [], "chosen on held-out training pictures (--hold_out 0.1)"
    monkeypatch.setattr(common, "save", lambda figure, *_: drawn.append(" ".join(figure.get_suptitle().split())))
    for name, starts in (("old", [{}]), ("held", [{"best": "chosen on the test pictures"}, {"best": held}])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text('{"step": 1, "d_loss": 1, "kd_A2B": 0.5}\n')
        (tmp_path / name / "run.json").write_text(json.dumps(starts))
    curves.main([str(tmp_path / "old"), str(tmp_path / "held")])
    curves.main([str(tmp_path / "old"), "--panels", "d_loss"])
    assert drawn == [f"Training curves the best of a score is chosen on the test pictures, {held}", "Training curves"]


def test_curves_average_what_starts_alike(tmp_path):
    lines = [
        {"step": 2, "cycle_A": 1.0, "cycle_B": 3.0, "d_loss": 5},
        {"step": 1, "cycle_A": 4.0},
        {"step": 3, "lr": 1},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "d_lo')
    read = curves.read(tmp_path)
    assert curves.curve(read, "cycle") == ([1, 2], [4.0, 2.0])
    assert curves.curve(read, "d_loss") == ([2], [5])
    assert curves.curve(read, "fd") == ([], [])
    assert curves.named(f"ours={tmp_path}") == ("ours", tmp_path)
    assert curves.named(str(tmp_path)) == (tmp_path.name, tmp_path)
