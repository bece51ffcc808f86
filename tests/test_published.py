"""benchmarks/published.py from the first request to the table, with small stand-ins on a server of this machine."""

import functools
import hashlib
import io
import re
import sys
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL
from test_openmmlab import their_file
from test_openmmlab import trainer as cyclegan

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import published

import main as main_py
import methods
from images import data_sets, download
from utils import UserError

NAMES = ("cut_horse2zebra", "cyclegan_zebra2horse", "openmmlab_horse2zebra", "nice_dog2cat")
COUNTS = (1, 1, 4, 3)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        self.server.requests.append(self.path)


def small(method: str):
    return methods.create(main_py.parse_args(f"--method {method} --device cpu {SMALL[method]}".split()))


def archive_of_pictures(path: Path):
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        for folder, count in zip(data_sets.FOLDERS, COUNTS, strict=True):
            for i in range(count):
                data = io.BytesIO()
                Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(data, "JPEG")
                file.writestr(f"set/{folder}/{i}.jpg", data.getvalue())


@pytest.fixture
def released(tmp_path, monkeypatch):
    """The folder of a server with stand-ins of all kinds of files; the addresses in the tables lead to it."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    served = tmp_path / "served"
    served.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    server.requests = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    archive_of_pictures(served / "set.zip")
    for name in ("horse2zebra", "cat2dog"):
        source = data_sets.Source(here, COUNTS, (f"{here}/set.zip",))
        monkeypatch.setitem(data_sets.SOURCES, name, source)
    torch.save(small("cut").G.state_dict(), served / "latest_net_G.pth")
    with tarfile.open(served / "pretrained_models.tar", "w") as tar:
        tar.add(served / "latest_net_G.pth", "./checkpoints/horse2zebra_cut_pretrained/latest_net_G.pth")
    torch.save(small("cyclegan").networks()["G_B"].state_dict(), served / "zebra2horse.pth")
    path = their_file(cyclegan(), served / "model.pth", ("horse", "zebra"), bgr=True)
    begins = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(served / f"toy_convert-bgr_2021-{begins}.pth")
    for name in NAMES:
        model = published.MODELS[name]
        url = f"{here}/{Path(model.url).name}"
        if model.sha256:
            url, begin = f"{here}/toy_convert-bgr_2021-{begins}.pth", begins
            model = model._replace(sha256=begin)
        monkeypatch.setitem(published.MODELS, name, model if model.page else model._replace(url=url))
    yield served, server
    server.shutdown()
    server.server_close()


def call(folder: Path, *names: str, more=()):
    words = ["--models", *names, "--dataset_dir", f"{folder}/data", "--out", f"{folder}/out", "--device", "cpu"]
    words += ["--features", "efficientnet-lite0", "--options=--img_size 64"]
    published.main([*words, *more])
    return (folder / "out" / "published.md").read_text("utf-8")


def cells(text: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines[2:]}


def test_from_the_first_request_to_the_table(released, tmp_path, capsys):
    served, server = released
    (tmp_path / "out" / "weights").mkdir(parents=True)
    torch.save({name: net.state_dict() for name, net in small("nice").networks().items()},
               tmp_path / "out" / "weights" / "cat2dog_params_latest.pt")  # saved by hand  # fmt: skip
    text = call(tmp_path, *NAMES)
    found = cells(text)
    assert [*found] == [*NAMES] and "Not scored" not in text and "GcGAN" in text and "MUNIT" in text
    assert "comparable with no published number" in text
    for name, row in found.items():
        model = published.MODELS[name]
        counts = {"testA": 4, "testB": 3}
        said = [f"{counts[place]} of {place}" for place in (model.inputs, model.reference)]
        assert row[0] == f"{model.data}: {said[0]} v {said[1]}"
        legacy, clean = map(float, row[1].split(", "))
        assert row[2].split(", ")[0] == f"{model.fid:g}" and float(row[3]) == pytest.approx(
            legacy - model.fid, abs=0.02
        )
        assert legacy != clean and row[7] == model.source and re.fullmatch(r"\d{4}-\d\d-\d\d", row[9])
        weights = [p for p in (tmp_path / "out" / "weights").rglob("*") if p.is_file()]
        assert row[8] in {hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in weights}
    assert found["nice_dog2cat"][5] == "1.118" and found["nice_dog2cat"][6] == "as the inputs, JPEG at 95"
    fakes = {name: sorted(p.name for p in (tmp_path / "out" / name / "fake").glob("*.*g")) for name in NAMES}
    assert fakes["cut_horse2zebra"] == [f"{i}.png" for i in range(4)]
    assert fakes["nice_dog2cat"] == [f"{i}.jpg" for i in range(3)]  # dogs, in testB

    # a lone generator called zebra2horse translates testB; the model page's horse file translates testA into B
    for name, file, inputs in (("cyclegan_zebra2horse", "zebra2horse.pth", "testB"),
                               ("openmmlab_horse2zebra", next(served.glob("toy*")).name, "testA")):  # fmt: skip
        out = tmp_path / "again" / name
        words = f"--checkpoint={served / file} --input={tmp_path}/data/horse2zebra/{inputs}/0.jpg --output={out}"
        words += " --phase=test --png=true --keep_size=false --img_size=64 --device=cpu --direction=AtoB"
        main_py.main(words.split())
        pixels = [np.asarray(Image.open(p)) for p in (out / "0.png", tmp_path / "out" / name / "fake" / "0.png")]
        assert np.array_equal(*pixels)

    asked = len(server.requests)
    assert cells(call(tmp_path, *NAMES)) == found and len(server.requests) == asked  # nothing is made again


def test_what_cannot_be_fetched_is_said_in_the_table_and_the_rest_is_scored(released, tmp_path, capsys):
    served, _ = released
    bad = next(served.glob("toy*"))
    bad.write_bytes(bad.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="1 of 3 checkpoints could not be scored: openmmlab_horse2zebra") as error:
        call(tmp_path, "cut_horse2zebra", "nice_dog2cat", "openmmlab_horse2zebra")
    assert error.value.status == 1
    text = (tmp_path / "out" / "published.md").read_text("utf-8")
    assert [*cells(text)] == ["cut_horse2zebra"]
    assert re.search(r"- nice_dog2cat: cat2dog_params_latest.pt has no direct address: get it from .*NICE-GAN", text)
    assert re.search(r"- openmmlab_horse2zebra: .*hash", text)
    with pytest.raises(UserError, match="no checkpoint could be scored"):
        call(tmp_path, "nice_dog2cat")


def test_the_table_of_models_is_the_facts():
    """Data sets are known, hashes are those in the files' names, and numbers are those of docs/methods.md."""
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text("utf-8")
    for name, model in published.MODELS.items():
        assert model.data in {**data_sets.SOURCES, **published.OTHER_DATA}, name
        assert not model.sha256 or Path(model.url).stem.endswith(f"-{model.sha256}")
        assert f"{model.fid:g}" in page or f"{model.fid:.4f}" in page, name
        assert (model.inputs == "testB") == (model.direction == "BtoA") or not model.sha256
