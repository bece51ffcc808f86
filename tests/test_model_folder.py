"""Folders with safetensors: exact round trips, a model card, and one line for damaged ones."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
import torch
from drawers import saved
from pictures import one_line, scene
from PIL import Image
from safetensors.torch import load_file, save_file
from test_methods import SMALL

import main
import methods
from checkpoints.contents import is_network
from checkpoints.files import load_checkpoint, newest_checkpoint
from nicegan import Translator
from translation.pipeline import Pipeline
from utils import UserError


def exported(tmp_path, method="cyclegan", more=""):
    path = saved(tmp_path, method)
    call = f"--phase export --device cpu --checkpoint {path} --direction AtoB"
    main.main(f"{call} --format folder --output {tmp_path}/model {more}".split())
    main.main(f"{call} --format weights --output {tmp_path}/model.pt {more}".split())
    return tmp_path / "model"


@pytest.mark.parametrize("method", SMALL)
def test_round_trips_are_exact(tmp_path, method):
    folder = exported(tmp_path, method, "--half true" if method == "cut" else "")
    ours = load_checkpoint(folder, methods.recognise)
    file = load_checkpoint(tmp_path / "model.pt", methods.recognise)
    names = list(filter(is_network, file))
    assert sorted(names) == sorted(filter(is_network, ours)) and file["args"].keys() == ours["args"].keys()
    for name in names:
        assert file[name].keys() == ours[name].keys()
        for key, value in file[name].items():
            assert value.dtype == ours[name][key].dtype and torch.equal(value, ours[name][key])
    picture = Image.fromarray(scene(60, 44))
    one, other = (np.asarray(Translator(p, device="cpu")(picture)) for p in (folder, tmp_path / "model.pt"))
    assert np.array_equal(one, other) and one.std() > 5


@pytest.mark.parametrize("method", ["nice", "munit", "drit"])
def test_networks_built_without_values_translate_to_the_same_bits(tmp_path, method):
    """They have the layouts of others, too."""
    path = saved(tmp_path, method)
    args = main.parse_args(f"--phase test --device cpu --method {method} {SMALL[method]} --checkpoint {path}".split())
    answers, layouts = [], []
    for empty in (True, False):
        trainer = methods.create(args, empty=empty)
        opened = Pipeline(trainer, newest_checkpoint(path.parent, str(path), methods.recognise, True)).load()
        (s, t), *_ = opened.directions
        x = torch.rand(1, 3, opened.size, opened.size, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        with opened.translating(s, t):
            answers.append(trainer.translate(x, s, t))
        nets = [trainer.networks()[name] for name in trainer.inference_networks[s, t]]
        layouts.append([{k: (x.stride(), x.dtype) for k, x in net.state_dict().items()} for net in nets])
    assert torch.equal(*answers) and layouts[0] == layouts[1]


def test_the_model_card(tmp_path):
    path = saved(tmp_path, "cyclegan")
    results = tmp_path / "toy"
    (results / "img").mkdir(parents=True, exist_ok=True)
    for step in (1, 7):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(results / "img" / f"A2B_{step:07d}.png")
    (results / "run.json").write_text(json.dumps([{"data": {"trainA": {"pictures": 2, "digest": "abc"}}}]))
    scores = {"kid_A2B": 0.0123, "kid_A2B_interval": [0.01, 0.02]}
    lines = [{"step": 7, "loss": 1.0}, {"step": 7, "scoring_seconds": 1, **scores}]
    (results / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    call = f"--phase export --device cpu --dataset toy --result_dir {tmp_path} --direction AtoB --format folder"
    main.main(call.split())
    folder = path.parent / "toy_AtoB"
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json", "README.md", "preview.png"}
    text = (folder / "README.md").read_text()
    assert "Unpaired Image-to-Image" in text and "| steps | 7 |" in text and "0.01 to 0.02" in text
    assert "| trainA | 2 | `abc` |" in text and "| kid_A2B | 0.0123 |" in text
    assert Image.open(folder / "preview.png").getpixel((0, 0))[0] == 7
    last = {"step": 7, "scores": {"fd_A2B": 41.5, "fd_B2A": 77.0, "background_A2B": 0.03}}
    last["intervals"] = {"fd_A2B": [40.0, 43.0]}
    (results / "test_scores.json").write_text(json.dumps({"last": last, "best": None}))
    main.main(call.split())  # a model may be replaced, nothing else
    text = (folder / "README.md").read_text()
    assert "| fd_A2B | 41.5 | 40 to 43 |" in text and "| background_A2B | 0.03 |  |" in text
    assert "fd_B2A" not in text
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError) as error:
        main.main([*call.split(), "--output", f"{tmp_path}/mine"])
    one_line(error, "mine", "something other than a model")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("hostile"))


def spoiled(model, tmp_path, name):
    shutil.copytree(model, tmp_path / "bad")
    return tmp_path / "bad" / name


def header(size: int, content: bytes) -> bytes:
    return struct.pack("<Q", size) + content


BAD_FILES = {
    "empty": b"",
    "short": b"abc",
    "huge header": header(2**60, b"{}"),
    "deep header": header(300_000, b"[" * 300_000),
    "beyond": header(70, b'{"gen.w":{"dtype":"F32","shape":[2000000000],"data_offsets":[0,8]}}   '),
    "zip": b"PK\3\4" + bytes(100),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_weights_end_in_one_line(model, tmp_path, content):
    spoiled(model, tmp_path, "model.safetensors").write_bytes(content)
    with pytest.raises(UserError) as error:
        Translator(tmp_path / "bad", device="cpu")
    one_line(error, "bad", "model.safetensors")


BAD_CONFIGS = ["", "[]", "{}", '{"metadata": 3}', '{"a": NaN}', "[" * 100_000, " " * (2 << 20), '{"G_A": {"x": 1}}']


@pytest.mark.parametrize("text", BAD_CONFIGS, ids=lambda text: text[:12].strip())
def test_bad_configs_end_in_one_line(model, tmp_path, text):
    spoiled(model, tmp_path, "config.json").write_text(text)
    with pytest.raises(UserError) as error:
        Translator(tmp_path / "bad", device="cpu")
    one_line(error, "bad")


def test_wrong_kinds_of_numbers_and_links(model, tmp_path):
    file = spoiled(model, tmp_path, "model.safetensors")
    weights = load_file(file)
    key = next(key for key in weights if key.endswith("weight"))
    for kind in (torch.uint8, torch.int64, torch.float8_e4m3fn, torch.complex64):
        save_file({**weights, key: weights[key].to(kind)}, file)
        with pytest.raises(UserError) as error:
            Translator(tmp_path / "bad", device="cpu")
        one_line(error, "bad", key.split(".", 1)[1])
    os.replace(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")  # as in the caches of hubs
    shutil.copy(model / "model.safetensors", tmp_path / "elsewhere")
    Translator(tmp_path / "bad", device="cpu")
    for target in ("/dev/zero", file.name):
        file.unlink()
        file.symlink_to(target)
        with pytest.raises(UserError) as error:
            Translator(tmp_path / "bad", device="cpu")
        one_line(error, "bad")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError) as error:
        Translator(tmp_path / "bad", device="cpu")
    one_line(error, "bad")


def test_a_lone_generator_is_known_by_its_keys(tmp_path):
    picture = Image.fromarray(scene(60, 44))
    for method, name in (("cyclegan", "G_A"), ("cut", "G")):
        path = saved(tmp_path / method, method)
        net = load_checkpoint(path, methods.recognise)[name]
        wanted = np.asarray(Translator(path, device="cpu")(picture, "AtoB"))
        for change in (str, lambda key: f"module.{key}", lambda key: key.replace("conv_block.5.", "conv_block.6.")):
            if method == "cut" and "conv_block.6" in "".join(map(change, net)):
                continue
            torch.save({change(key): value.clone() for key, value in net.items()}, tmp_path / "mine.pth")
            assert np.array_equal(np.asarray(Translator(tmp_path / "mine.pth", device="cpu")(picture, "AtoB")), wanted)


@pytest.mark.parametrize("method", ["munit", "drit", "sincut", "sincyclegan"])
def test_one_style_for_all_pictures_of_a_call(tmp_path, method):
    path = saved(tmp_path, method)
    seeds = {}
    for same in (False, True):
        translator = Translator(path, device="cpu", same_style=same)
        seeds[same] = drawn = []
        translate = translator.trainer.translations
        translator.trainer.translations = lambda *a, f=translate, d=drawn: (d.append(torch.initial_seed()), f(*a))[1]
        translator([Image.fromarray(scene(40, 32, n)) for n in (1, 2)], "AtoB")
    assert len(set(seeds[True])) == 1 and len(set(seeds[False])) == 2
