"""What a user who is not root may not read or write is one line with status 2, never a traceback.

Tests run as root, who may everything: each case is a process of its own that becomes another user.
"""

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
}  # fmt: skip


def as_nobody(place: str, command: str):
    """In a process of its own: run a command as another user."""
    import fid_kid
    import main

    sys.path.insert(0, str(Path(__file__).parents[1] / "figure"))
    import curves
    import gallery

    import demo.__main__ as generate
    import scoring.inception  # noqa: F401
    from images import data_sets

    programs = {"main": main, "fid_kid": fid_kid, "figure.curves": curves, "figure.gallery": gallery}
    programs |= {"demo.__main__": generate, "images.data_sets": data_sets}
    if command.startswith("figure"):
        import matplotlib.pyplot  # noqa: F401
    name, *argv = command.split()
    sys.argv[1:] = argv
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.environ["HOME"] = place
    utils.run(programs[name].main, name)


@pytest.mark.parametrize("name", CASES)
def test_no_permission_is_one_line(place, tmp_path, name):
    closed, command, *words = CASES[name]
    main = f"main --dataset_dir {place}/dataset --result_dir {place}/results {ALIKE} {SMALL['nice']} --iteration 2"
    weights = f"--checkpoint {place}/results/tiny_params_latest.pt"
    command = command.format(place, main=main, weights=weights, free=f"{place}/free")
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
    assert all(word.format(place) in errors[0] for word in words), run.output
