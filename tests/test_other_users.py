"""What a user who is not root may not read or write is one line with status 2, never a traceback.

Tests run as root, who may everything: each case is a process of its own that becomes another user.
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from runs import ALIKE, SMALL, Run, pictures, trained

import utils

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def place():
    """A folder that every user can enter: pictures, a checkpoint, a log, and what is root's alone."""
    folder = Path(tempfile.mkdtemp())
    pictures(folder)
    trained(folder, "--iteration 1")
    (folder / "options.txt").write_text("--iteration 1")
    (folder / "free").mkdir()
    (folder / "results" / "tiny" / "fakeB").mkdir()
    shutil.copy(folder / "dataset" / "tiny" / "testA" / "0.png", folder / "results" / "tiny" / "fakeB")
    (folder / "key.json").write_text('{"study": 1, "methods": ["a", "b"], "questions": {}}')
    (folder / "answers.json").write_text('{"study": 1, "participant": "p", "answers": []}')
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "free").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


CASES = {
    "a picture": ("dataset/tiny/trainA/0.png", "{main} --result_dir {free}", "trainA/0.png"),
    "a test picture": ("dataset/tiny/testB/1.png", "{main} --result_dir {free} --phase test {weights}", "testB/1.png"),
    "a folder of pictures": ("dataset/tiny/trainB", "{main} --result_dir {free}", "trainB"),
    "a data set": ("dataset", "{main} --result_dir {free}", "dataset"),
    "the results": ("", "{main} --result_dir {0}/new", "/new"),
    "another's lock": ("", "{main} --resume True", "results"),
    "a checkpoint": ("results/tiny_params_latest.pt", "{main} --phase test {weights}", "tiny_params_latest.pt"),
    "a checkpoint to continue": ("results/tiny_params_latest.pt", "{main} --resume True", "tiny_params_latest.pt"),
    "a folder of checkpoints": ("results", "{main} --phase test {weights}", "results"),
    "an option file": ("options.txt", "{main} @{0}/options.txt", "options.txt"),
    "an input": ("dataset/tiny/testA/0.png", "{main} {weights} --phase test --direction AtoB --output {free}/o --input "
                 "{0}/dataset/tiny/testA/0.png", "0.png"),
    "a folder of inputs": ("dataset/tiny/testA", "{main} {weights} --phase test --direction AtoB --output {free}/o "
                           "--input {0}/dataset/tiny/testA", "testA"),
    "the output": ("", "{main} {weights} --phase test --direction AtoB --output {0}/o --input {0}/dataset/tiny/testA",
                   "/o"),
    "a model file": ("", "{main} {weights} --phase export --direction AtoB --output {0}/m.pt", "m.pt"),
    "a style": ("dataset", "{main} {weights} --phase test --direction AtoB --output {free}/o --input {0}/dataset", "d"),
    "scored pictures": ("dataset/tiny/testB", "fid_kid {0}/dataset/tiny/testA {0}/dataset/tiny/testB", "testB"),
    "paired pictures": ("dataset/tiny/testB/0.png", "fid_kid {0}/dataset/tiny/testA --paired {0}/dataset/tiny/testB",
                        "0.png"),
    "a report": ("", "fid_kid {0}/dataset/tiny/testA --paired {0}/dataset/tiny/testB --json {0}/r.json", "r.json"),
    "features": ("options.txt", "fid_kid {0}/options.txt.npz {0}/dataset/tiny/testB", "options.txt"),
    "weights": ("options.txt", "fid_kid {0}/dataset/tiny/testA {0}/dataset/tiny/testB --weights {0}/options.txt",
                "options.txt"),
    "a log": ("results/tiny/log.jsonl", "figure.curves {0}/results/tiny --out {free}", "log.jsonl"),
    "a figure": ("", "figure.curves {0}/results/tiny --out {0}/f", "/f"),
    "a page": ("", "figure.gallery {0}/results/tiny --out {0}/page", "/page"),
    "a run's record": ("results/tiny/run.json", "figure.gallery {0}/results/tiny --out {free}/page", "run.json"),
    "the demo": ("", "demo.__main__ --root {0}/demo", "/demo"),
    "a download": ("", "images.data_sets horse2zebra --dataset_dir {0}", "{0}"),
    "weights to begin with": ("results/tiny_params_latest.pt", "{main} --init_from {0}/results/tiny_params_latest.pt",
                              "tiny_params_latest.pt"),
    "a diagram": ("", "{main} --phase info --diagram {0}/d.svg", "d.svg"),
    "a model folder": ("", "{main} {weights} --phase export --direction AtoB --format folder --output {0}/m", "/m"),
    "translated test pictures": ("", "{main} {weights} --phase test", "results"),
    "the pictures of a page": ("results/tiny/fakeB", "figure.gallery {0}/results/tiny --out {free}/page", "fakeB"),
    "a comparison": ("", "figure.compare --input {test} a={test} --out {0}/f", "/f"),
    "a compared folder": ("dataset/tiny/testB", "figure.compare --input {test} a={0}/dataset/tiny/testB --out {free}",
                          "testB"),
    "a study": ("", "figure.study --input {test} a={test} b={test} --out {0}/s", "/s"),
    "a study's picture": ("dataset/tiny/testA/0.png", "figure.study --input {test} a={test} b={test} --out {free}/s",
                          "0.png"),
    "a study's key": ("", "figure.study_table {0}/results/tiny {0}/options.txt", "key.json"),
    "answers": ("answers.json", "figure.study_table {0} {0}/answers.json", "answers.json"),
    "a row of answers": ("dataset/tiny/testA", "figure.answers {trained} --out {free}", "testA"),
    **{f"the checkpoint of {name}": ("results/tiny_params_latest.pt", f"figure.{name} {{trained}} --out {{free}}",
                                     "tiny_params_latest.pt")
       for name in ("heatmaps", "latent", "shared_latent", "activations")},
    "Table 1": ("", "benchmarks.table1 {table} --no-cost --result_dir {0}/t", "/t"),
    "Table 1's data set": ("dataset/tiny", "benchmarks.table1 {table} --result_dir {free}/t", "tiny"),
    "ablations": ("", "benchmarks.ablation {table} --result_dir {0}/t", "/t"),
    "published models": ("", "benchmarks.published --out {0}/t --dataset_dir {0}/dataset", "{0}"),
    "trainings from weights": ("", "benchmarks.init_from --result_dir {0}/t", "/t"),
}  # fmt: skip


def as_nobody(place: str, command: str):
    """In a process of its own: run a command as another user."""
    name, *argv = command.split()
    folder, _, file = name.rpartition(".")
    if folder in ("figure", "benchmarks"):
        sys.path[:0] = [str(Path(__file__).parents[1] / each) for each in ("figure", "benchmarks")]
        import matplotlib.pyplot  # noqa: F401

        name = file
    import scoring.inception  # noqa: F401

    program = importlib.import_module(name)
    sys.argv[1:] = argv
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.environ["HOME"] = place
    utils.run(program.main, name)


QUICK = ("a log", "a figure", "a page", "a study's key")  # of those that import matplotlib


def slow(name: str):
    heavy = CASES[name][1].startswith(("figure", "benchmarks")) and name not in QUICK
    return pytest.param(name, marks=pytest.mark.slow) if heavy else name


@pytest.mark.parametrize("name", [slow(name) for name in CASES])
def test_no_permission_is_one_line(place, tmp_path, name):
    closed, command, *expected = CASES[name]
    main = f"main --dataset_dir {place}/dataset --result_dir {place}/results {ALIKE} {SMALL['nice']} --iteration 2"
    weights = f"--checkpoint {place}/results/tiny_params_latest.pt"
    words = {"main": main, "weights": weights, "free": f"{place}/free", "test": f"{place}/dataset/tiny/testA"}
    words["trained"] = f"--dataset tiny --dataset_dir {place}/dataset --result_dir {place}/results"
    words["table"] = f"--dataset tiny --dataset_dir {place}/dataset --steps 1 --seeds 0"
    command = command.format(place, **words)
    if name == "features":
        (place / "options.txt.npz").symlink_to(place / "options.txt")
    path = place / closed
    mode = path.stat().st_mode
    if closed:
        path.chmod(0)
    try:
        run = Run(tmp_path, "test_other_users:as_nobody", str(place), command)
        status = run.wait()
    finally:
        path.chmod(mode)
    errors = [line for line in run.output.splitlines() if "error: " in line]
    assert status == 2 and "Traceback" not in run.output, run.output
    assert len(errors) == 1 and run.output.rstrip("\n").endswith(errors[0]), run.output
    assert all(word.format(place) in errors[0] for word in expected), run.output
