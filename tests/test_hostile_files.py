"""Pictures, logs, answers and names from strangers: one reader, one line, nothing else started."""

import ast
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import ROOT, complaint, pictures, trained
from test_structure import sources

import demo
import utils
from images import maker
from images.files import list_images
from images.new_folder import folder_beside
from utils import UserError, atomic, parse_json

sys.path.insert(0, str(ROOT / "figure"))


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path)


def counterparts(folder, truth=(48, 48), mask=(48, 48), turned=False):
    """Truths and masks beside the test pictures of the data set `tiny`."""
    root = folder / "dataset" / "tiny"
    for domain in "AB":
        for kind, size in (("truth", truth), ("mask", mask)):
            (root / f"{kind}{domain}").mkdir()
            for i in range(2):
                picture = Image.fromarray(np.full((*size[::-1], 3), 255, np.uint8))
                if turned and kind == "truth":
                    exif = Image.Exif()
                    exif[0x0112] = 6
                    picture.save(root / f"{kind}{domain}" / f"{i}.png", exif=exif)
                else:
                    picture.save(root / f"{kind}{domain}" / f"{i}.png")
    return root


# ------------------------------------------------------------------------------------ pictures and masks


def names_of(path):
    """The names that a file's code uses, such as Image.open; texts do not count, as scripts for users."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)


def test_pillow_opens_pictures_in_one_file_alone():
    other = re.compile(r"(.*\.)?(Image\.open|imread|ImageFile|Parser\.feed)|pillow_heif\.(?!register).*")
    opening = [path for path in sources() if any(map(other.fullmatch, names_of(path)))]
    assert [path.as_posix() for path in opening] == ["images/opening.py"]
    assert (ROOT / opening[0]).read_text("utf-8").count("Image.open(file, formats=formats)") == 1


@pytest.mark.parametrize("place", ["truthA", "maskB"])
def test_an_eps_for_a_mask_starts_no_ghostscript(folder, tmp_path, place, monkeypatch):
    root = counterparts(folder)
    traces = tmp_path / "started"
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {traces}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (root / place / "0.png").write_bytes(eps)
    for s in "AB":
        with pytest.raises(UserError) if place[-1] == s else open(os.devnull):
            demo.counterparts("0.png", *(root / f"{kind}{s}" for kind in ("test", "truth", "mask")))
    assert not traces.exists()


def test_a_mask_of_many_pixels_is_refused_before_it_is_decoded(folder):
    root = counterparts(folder)
    Image.new("1", (60_000, 60_000)).save(root / "maskA" / "0.png")
    with pytest.raises(UserError, match="60000 x 60000"):
        demo.counterparts("0.png", *(root / f"{kind}A" for kind in ("test", "truth", "mask")))


@pytest.mark.parametrize("wrong", [{"truth": (48, 40)}, {"mask": (20, 48)}, {"truth": (48, 40), "turned": True}])
def test_counterparts_of_another_size_are_one_line_before_the_training(folder, wrong):
    counterparts(folder, **wrong)
    run = trained(folder, "--iteration 2 --score_freq 1", status=2)
    assert "make them equal" in complaint(run, next(iter(wrong)), "48 x 48")
    assert not (folder / "results").exists() or not list((folder / "results").rglob("*.pt"))


def test_turned_truths_measure_as_upright_ones(folder):
    root = counterparts(folder, truth=(48, 48), turned=True)
    assert demo.counterparts("0.png", *(root / f"{kind}A" for kind in ("test", "truth", "mask")))[1].size == (48, 48)


# ----------------------------------------------------------------------------------------------- waiting


def test_pipes_behind_links_are_left_out(folder):
    place = folder / "dataset" / "tiny" / "testA"
    os.mkfifo(folder / "pipe")
    (place / "2.png").symlink_to(folder / "pipe")
    (place / "3.png").symlink_to("/dev/zero")
    (place / "4.png").symlink_to(folder / "nowhere")  # stays, so that reading it fails
    assert [path.name for path in list_images(place)] == ["0.png", "1.png", "4.png"]


@pytest.mark.parametrize("command", ["--resume True --checkpoint {0}/pipe", "--checkpoint {0}/pipe --phase test"])
def test_a_pipe_for_a_checkpoint_is_refused(folder, command):
    os.mkfifo(folder / "pipe")
    complaint(trained(folder, command.format(folder), status=2), "pipe", "no regular file")


def test_pipes_and_devices_for_the_files_of_a_run_are_not_waited_for(tmp_path):
    import curves
    from gallery import Run

    os.mkfifo(tmp_path / "run.json")
    (tmp_path / "log.jsonl").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a readable log"):
        curves.read(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").write_text('{"step": 1, "d_loss": 2}\n')
    assert len(curves.read(tmp_path)) == 1
    with pytest.raises(UserError, match="no regular file"):
        Run("x", tmp_path)
    assert maker.run_of(tmp_path.parent / f"{tmp_path.name}_params_latest.pt") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fid_kid_hears_signals(folder, number):
    noise = np.random.default_rng(0)
    for i in range(2, 40):
        Image.fromarray(noise.integers(0, 255, (2000, 2000, 3), np.uint8)).save(
            folder / "dataset" / "tiny" / "testA" / f"{i}.bmp")  # fmt: skip
    shutil.copytree(folder / "dataset" / "tiny" / "testA", folder / "dataset" / "tiny" / "other")
    command = [sys.executable, "fid_kid.py", folder / "dataset/tiny/testA", "--paired", folder / "dataset/tiny/other"]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    run.send_signal(number)
    out, err = run.communicate(timeout=100)
    assert run.returncode == 128 + number and out == "", err
    assert err.replace("\r", "\n").rstrip().endswith(f"fid_kid.py: stopped by {number.name}") and "Traceback" not in err


# -------------------------------------------------------------------------------------- files of our own


def test_what_is_saved_replaces_the_old_file_or_leaves_it(tmp_path):
    """fid_kid.py --save and --json, figures and pages go through utils.atomic."""
    path, secret = tmp_path / "a.npz", tmp_path / "secret"
    path.write_text("old")
    secret.write_text("kept")
    names = []
    for _ in range(2):
        with atomic(path) as temporary:
            names.append(temporary.name)
            assert stat.S_ISREG(os.lstat(temporary).st_mode) and not temporary.stat().st_size
            temporary.write_text("new")
            assert path.read_text() == "old" or len(names) == 2
    assert names[0] != names[1] and path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "new" and sorted(os.listdir(tmp_path)) == ["a.npz", "secret"]
    with atomic(Path("/dev/null")) as temporary:
        temporary.write_text("nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_a_killed_process_leaves_the_next_one_deletes(tmp_path):
    code = "import os, pathlib, sys, utils\nwith utils.atomic(pathlib.Path(sys.argv[1])) as t:\n    t.write_text('x')\n"
    for end, left in (("    os.kill(os.getpid(), 9)", 1), ("    pass", 0)):
        subprocess.run([sys.executable, "-c", code + end, tmp_path / "a"], cwd=ROOT)
        assert len([name for name in os.listdir(tmp_path) if name.endswith(".tmp")]) == left
    with pytest.raises(ZeroDivisionError), folder_beside(tmp_path / "c") as beside:
        (beside / "x").touch()
        killed = "import os, pathlib, sys; from images.new_folder import folder_beside\n"
        killed += "with folder_beside(pathlib.Path(sys.argv[1])) as f:\n    (f / 'x').touch(); os.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", killed, tmp_path / "c"], cwd=ROOT)
        assert len([name for name in os.listdir(tmp_path) if name.endswith(".tmp")]) == 2 and (beside / "x").exists()
        _ = 1 / 0
    utils._cleared.discard(tmp_path)
    with atomic(tmp_path / "b"):  # of a process that lives, nothing is deleted
        subprocess.run([sys.executable, "-c", code + "    pass", tmp_path / "a"], cwd=ROOT, check=True)
        assert len([name for name in os.listdir(tmp_path) if name.endswith(".tmp")]) == 1


def test_a_full_disk_leaves_the_old_features(folder):
    code = "import resource, sys, fid_kid, utils\nresource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    code += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nutils.run(fid_kid.main, 'fid_kid.py')"
    np.savez(folder / "a.npz", features=np.ones((4, 2048), np.float32))
    before = (folder / "a.npz").read_bytes()
    (folder / "b.npz").write_text("old")
    run = subprocess.run([sys.executable, "-c", code, folder / "a.npz", "--save", folder / "b.npz"],
                         cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 1 and "b.npz" in run.stderr and run.stderr.count("\n") == 1, run.stderr
    assert (folder / "b.npz").read_text() == "old" and (folder / "a.npz").read_bytes() == before


# ------------------------------------------------------------------------------- logs, answers and names


DEEP = "[" * 200_000


def test_deep_json_is_one_line(tmp_path):
    import study_table
    from gallery import main as gallery

    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)
    (tmp_path / "answers.json").write_text(DEEP)
    (tmp_path / "key.json").write_text(json.dumps({"study": 1, "methods": ["a", "b"], "questions": {}}))
    with pytest.raises(UserError, match="nested too deeply"):
        study_table.main([str(tmp_path), str(tmp_path / "answers.json")])
    (tmp_path / "run.json").write_text(DEEP)
    (tmp_path / "log.jsonl").write_text(f'{DEEP}\n{{"step": 1, "d_loss": 2}}\n')
    with pytest.raises(UserError, match="nested too deeply"):
        gallery([str(tmp_path), "--out", str(tmp_path / "page")])


@pytest.mark.parametrize("answer", [{"question": "q", "choice": 9}, {"question": [], "choice": "x"}, 3, None, {}])
def test_answers_that_no_page_writes_are_refused(tmp_path, answer):
    import study_table

    key = {"study": 1, "methods": ["a", "b"], "questions": {"q": {"answers": {"x": "a", "y": "b"}}}}
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "x.json").write_text(json.dumps({"study": 1, "participant": "p", "answers": [answer]}))
    with pytest.raises(UserError, match="was changed"):
        study_table.main([str(tmp_path), str(tmp_path / "x.json")])


@pytest.mark.slow
def test_names_in_figures_may_be_anything(tmp_path):
    import curves

    (tmp_path / "log.jsonl").write_text('{"step": 1, "d_loss": 2}\n')
    for i, name in enumerate((r"$x_{\frac", "\udcff\udcfe" + "a" * 300)):
        curves.main([f"{name}={tmp_path}", "--title", name, "--out", str(tmp_path), "--name", f"f{i}"])
        assert (tmp_path / f"f{i}.png").stat().st_size > 1000
    with pytest.raises(UserError, match="cannot write"):
        curves.main([str(tmp_path), "--out", str(tmp_path), "--name", "n" * 300])


def test_messages_survive_names_that_are_no_utf8(tmp_path, capfd):
    text = "a\udcff\x1b[2J"
    with pytest.raises(SystemExit):
        utils.run(lambda: (_ for _ in ()).throw(UserError(f"{text} is no picture")), "x.py")
    assert "\x1b" not in capfd.readouterr().err
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    out.reconfigure(errors="backslashreplace")
    out.write(text)


def test_every_command_runs_in_one_frame():
    """Statuses, signals, memory: whatever can be called goes through utils.run."""
    commands = [ROOT / path for path in sources()] + [*(ROOT / "dataset").glob("*.py")]
    commands = [path for path in commands if re.search(r'^if __name__ == "__main__":', path.read_text("utf-8"), re.M)]
    assert len(commands) > 14
    assert not [path.name for path in commands if not re.search(r"^ +run\(\w+, ", path.read_text("utf-8"), re.M)]


def test_npz_files_are_bounded_before_they_are_read(tmp_path):
    from scoring.features import read_npz

    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((40_000, 2048), np.float32))  # 330 MB in 320 KB
    with pytest.raises(UserError, match="unfolds more than"):
        read_npz(tmp_path / "a.npz", "inception-2048-legacy", 2048)
    np.savez(tmp_path / "b.npz", features=np.zeros((4, 2048), np.float32))
    data = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(data.replace(b"(4, 2048)", b"(9**9999)"))
    with pytest.raises(UserError, match="damaged"):
        read_npz(tmp_path / "b.npz", "inception-2048-legacy", 2048)


# ------------------------------------------------------------------------------------------------ memory


def test_pixels_in_flight_are_bounded_and_nobody_waits_for_ever():
    from images.in_flight import Budget

    budget, lock, most = Budget(100), threading.Lock(), [0, 0]

    def decode(pixels):
        with budget.hold(pixels), budget.hold(pixels):  # the second one is of the same thread
            with lock:
                most[0] += pixels
                most[1] = max(most[1], most[0] if pixels <= 100 else 0)
            time.sleep(0.002)
            with lock:
                most[0] -= pixels

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decode, [30, 60, 100, 500, 10, 90] * 10, timeout=60))
    assert 60 <= most[1] <= 100 and budget.used == 0
