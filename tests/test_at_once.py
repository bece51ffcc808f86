"""--help, a mistake in an option and a missing path are answered before torch is imported."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL

import main
import methods
from options import DECLARED
from utils import UserError

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("activations", "answers", "compare", "curves", "gallery", "heatmaps", "latent", "shared_latent", "study",
           "study_table")  # fmt: skip
BENCHMARKS = ("ablation", "bench", "bench_scores", "init_from", "intervals", "kernels", "published", "settings",
              "table1", "turns")
CODE = """
import os, runpy, sys
sys.argv = [sys.argv[1], *sys.argv[2:]]
sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("slow:", *({"torch", "numpy", "PIL"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("command, status, said", [
    ("main.py --method munit --help", 0, "--style_dim"),
    ("main.py --itertion 3", 2, "did you mean --iteration?"),
    ("main.py --phase test --metod cut", 2, "did you mean --method?"),
    ("main.py --img_size -3", 2, "must be at least 1"),
    ("main.py --output x", 2, "--output goes with --input"),
    ("main.py --phase test --input nowhere.png", 2, "--input nowhere.png does not exist"),
    ("main.py --init_from nowhere", 2, "no checkpoint nowhere"),
    ("fid_kid.py --help", 0, "--mmd-subsets"),
    ("fid_kid.py --paried x", 2, "did you mean --paired?"),
    ("fid_kid.py nowhere elsewhere", 2, "nowhere does not exist"),
    *((f"figure/{name}.py --help", 0, "usage") for name in FIGURES),
    *((f"benchmarks/{name}.py --help", 0, "usage") for name in BENCHMARKS),
    ("figure/latent.py --dataset nowhere", 2, "no checkpoint results/nowhere_params"),
    ("figure/compare.py --input nowhere ours=there", 2, "nowhere does not exist"),
    ("figure/curves.py nowhere", 2, "nowhere does not exist"),
    ("figure/study_table.py nowhere answers.json", 2, "nowhere/key.json"),
    ("figure/gallery.py x --frams 2", 2, "did you mean --frames?"),
    ("benchmarks/table1.py --steps 3 --sedes 1", 2, "did you mean --seeds?"),
    ("benchmarks/ablation.py --chh 3", 2, "did you mean --ch?"),
])  # fmt: skip
def test_what_is_known_without_torch_is_answered_without_it(command, status, said):
    words = [sys.executable, "-c", CODE, *shlex.split(command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status and said in done.stdout + done.stderr, done.stderr
    slow = done.stdout.splitlines()[-1]
    assert slow == "slow:" or ("torch" not in slow and "published" in command)  # its list needs the data sets'
    assert len(done.stderr.splitlines()) == (status != 0)


def test_a_path_that_may_not_be_looked_at_is_left_to_the_program():
    code = "import utils; utils.at_once('x.py', lambda words: open('nowhere')); print('goes on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_a_missing_data_set_is_answered_without_torch(tmp_path):
    (tmp_path / "half" / "trainA").mkdir(parents=True)
    for name, said in (("nothing", "no data set nothing"), ("half", "trainB does not exist")):
        words = [sys.executable, "-c", CODE, "main.py", f"--dataset={tmp_path / name}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and said.split()[-1] in done.stderr and "torch" not in done.stdout


def test_nothing_sound_is_refused(tmp_path, monkeypatch):
    for place in ("trainA", "trainB"):
        (tmp_path / "tiny" / place).mkdir(parents=True)
    for method, options in SMALL.items():
        for more in ("", " --resume auto", " --phase info"):
            main.refuse_at_once(f"--method {method} --dataset {tmp_path / 'tiny'} {options}{more}".split())
        for phase in ("test", "export"):  # the checkpoint says the method
            main.refuse_at_once(f"--phase {phase} {options}".split())
    monkeypatch.chdir(tmp_path)
    main.refuse_at_once(["--dataset", "demo", "--img_size", "64"])
    main.refuse_at_once(["--phase", "test", "--checkpoint", "best", "--input", "*.jpg", "--output", "there"])
    with pytest.raises(UserError, match="no data set"):
        main.refuse_at_once(["--dataset", "tiny"])


def test_every_method_is_declared_once():
    assert [*DECLARED] == [*methods.METHODS]
    for name, declared in DECLARED.items():
        assert (declared.options, declared.defaults) == (methods.load(name).options, methods.load(name).defaults)
