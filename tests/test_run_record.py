"""results/NAME/run.json: an entry for the start of a run and each resume."""

import json
import shutil

from runs import pictures, trained

from training.run_record import PACKAGES, fingerprint


def entries(folder):
    return json.loads((folder / "results" / "tiny" / "run.json").read_text())


def test_each_start_and_resume_has_an_entry(tmp_path):
    folder = pictures(tmp_path)
    trained(folder, "--iteration 1 --seed 3")
    (first,) = entries(folder)
    assert (first["method"], first["seed"], first["step"], first["options"]["ch"]) == ("nice", 3, 0, 2)
    assert first["data"]["trainA"]["pictures"] == 2 and len(first["data"]["trainA"]["digest"]) == 64
    assert set(first["versions"]) == {"python", *PACKAGES} and first["processor"]
    trained(folder, "--iteration 2 --resume True")
    first_again, second = entries(folder)
    assert first_again == first and second["step"] == 1 and second["data"] == first["data"]
    trained(folder, "--iteration 1")
    assert [entry["step"] for entry in entries(folder)] == [0]
    old = folder / "results" / "tiny" / "previous_1" / "run.json"
    assert len(json.loads(old.read_text())) == 2


def test_other_pictures_have_another_fingerprint(tmp_path):
    files = sorted((pictures(tmp_path) / "dataset" / "tiny" / "trainA").iterdir())
    found = fingerprint(files)
    assert fingerprint(files[::-1]) == found
    shutil.copy(files[0], files[0].with_name("z.png"))
    assert fingerprint([*files, files[0].with_name("z.png")]) != found


def test_a_damaged_record_does_not_stop_a_resume(tmp_path):
    folder = pictures(tmp_path)
    trained(folder, "--iteration 1")
    (folder / "results" / "tiny" / "run.json").write_text("[{")
    trained(folder, "--iteration 2 --resume True")
    assert [entry["step"] for entry in entries(folder)] == [1]
