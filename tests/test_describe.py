"""What cannot be used as a checkpoint is described; an intact file is never called damaged."""

import io
import zipfile

import numpy as np
import pytest
import torch
from drawers import saved
from pictures import one_line, scene
from PIL import Image
from safetensors.torch import save_file

import methods
from checkpoints.contents import fitting
from checkpoints.files import load_checkpoint
from nicegan import Translator
from nicegan.command_line import options_and_checkpoint
from utils import UserError


def refusal(path, *words) -> str:
    with pytest.raises(UserError) as error:
        load_checkpoint(path, methods.recognise)
    text = one_line(error, path.name, *words)
    assert "damaged" not in text and "KeyError" not in text
    return text


def conv(*shape):
    return torch.zeros(*shape)


CONTENTS = {
    "unet": ({"model.model.0.weight": conv(8, 3, 4, 4), "model.model.1.model.1.weight": conv(16, 8, 4, 4)},
             "2 tensors, 2,432 numbers, the first model.model.0.weight (8, 3, 4, 4)", "U-Net", "ResNet generators"),
    "batch": ({"model.1.weight": conv(8, 3, 7, 7), "model.2.running_mean": conv(8),
               "model.10.conv_block.1.weight": conv(8, 8, 3, 3)}, "3 tensors", "batch normalisation"),
    "judge": ({"model.0.weight": conv(8, 3, 4, 4), "model.2.weight": conv(1, 8, 4, 4)}, "discriminator", "generator's"),
    "F": ({"mlp_0.0.weight": conv(8, 3)}, "CUT's projection F", "G"),
    "dis": ({d: {"cnns.0.0.conv.weight": conv(8, 3, 4, 4)} for d in "ab"}, "MUNIT's discriminators", "gen_"),
    "resnet": ({"state_dict": {"layer1.0.conv1.weight": conv(8, 3, 3, 3), "fc.weight": conv(9, 8)}, "epoch": 3},
               "2 tensors", "in state_dict, epoch", "classifies"),
    "nice": ({"gen2A": {"x.weight": conv(2, 2)}, "disA": {"x.weight": conv(2, 2)}}, "in gen2A, disA", "no method here"),
    "later": ({"args": {"method": "nice3"}, "G": {"x": conv(2)}}, "a method nice3, which is not known here"),
    "numbers": ({"epoch": 3, "loss": 0.5}, "holds no tensors, but epoch, loss"),
    "tensor": (conv(3, 4), "cannot be used: it holds one Tensor"),
    "list": ([conv(3, 4)], "cannot be used: it holds one list"),
    "keys": ({1: conv(3, 4)}, "a dict of numbers, not of names"),
    "module": (torch.nn.Conv2d(3, 3, 3), "torch.nn.modules.conv.Conv2d", "state_dict() alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_what_torch_saved_is_described(name, tmp_path):
    content, *words = CONTENTS[name]
    torch.save(content, tmp_path / "x.pth")
    refusal(tmp_path / "x.pth", *words)


def zipped(*names) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return out.getvalue()


OTHERS = {
    "page.pth": (b"<!DOCTYPE html><html>", "web page", "download"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch", "ONNX"),
    "model.safetensors": (b'\x02\0\0\0\0\0\0\0{"a":1}', "name the folder"),
    "net.tar.gz": (b"\x1f\x8b\x08\0", "unpack"),
    "nets.zip": (zipped("a/latest_net_G.pth", "b.txt"), "archive of 2 files (a/latest_net_G.pth, b.txt)", "unpack"),
    "script.pt": (zipped("m/data.pkl", "m/constants.pkl", "m/code/x.py"), "TorchScript", "state_dict"),
    "features.npz": (zipped("features.npy"), ".npz of arrays"),
    "photo.pt": (b"\x89PNG\r\n", "a picture"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_torch_did_not_save_is_described(name, tmp_path):
    content, *words = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name, *words)


def test_a_missing_entry_is_named_and_no_repr(tmp_path):
    with pytest.raises(UserError) as error, fitting(tmp_path / "x.pt", "G"):
        {}["model.1.weight"]
    assert one_line(error).endswith("x.pt does not fit: G: there is no model.1.weight")


def test_a_lone_generator_of_gcgan(tmp_path, capsys):
    net = load_checkpoint(saved(tmp_path, "gcgan"), methods.recognise)["G_AB"]
    weights = {key: value.clone() for key, value in net.items()}
    call = ["--phase", "test", "--device", "cpu", "--checkpoint"]
    for name, more, method, told in (
        ("latest_net_G_AB.pth", [], "gcgan", False),
        ("mine.pth", [], "cyclegan", True),  # its keys are CycleGAN's
        ("mine.pth", ["--method", "gcgan"], "gcgan", False),
    ):
        torch.save(weights, tmp_path / name)
        args, (state, _) = options_and_checkpoint([*call, str(tmp_path / name), *more])
        assert args.method == state["method"] == method and ("--method gcgan" in capsys.readouterr().err) is told
    picture = Image.fromarray(scene(40, 36))
    fakes = [np.asarray(Translator(tmp_path / "mine.pth", device="cpu", **more)(picture, "AtoB"))
             for more in ({}, {"method": "gcgan"})]  # fmt: skip
    assert np.array_equal(*fakes)


def test_a_folder_of_another_program(tmp_path):
    for name, words in (
        ("down_blocks.0.weight", ("1 tensor, 4 numbers", "a diffusion model", "no config.json")),
        ("x", ("x names no weight of a network here",)),
    ):
        save_file({name: torch.zeros(2, 2)}, tmp_path / "model.safetensors")
        if name == "x":
            (tmp_path / "config.json").write_text('{"architectures": ["UNet"]}')
        refusal(tmp_path, "cannot be used", *words)
    save_file({"unet.x": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    refusal(tmp_path, "cannot be used: config.json does not describe a model of this program", "1 tensor, 4")
    save_file({"unet.x": torch.zeros(2, 2, dtype=torch.uint16)}, tmp_path / "model.safetensors")
    refusal(tmp_path, "cannot be used", "torch.uint16")


def test_one_network_in_a_dict_of_any_name(tmp_path):
    net = load_checkpoint(saved(tmp_path, "cyclegan"), methods.recognise)["G_A"]
    torch.save({"netG": {f"module.{k}": v.clone() for k, v in net.items()}, "epoch": 4}, tmp_path / "mine.pth")
    assert load_checkpoint(tmp_path / "mine.pth", methods.recognise)["method"] == "cyclegan"
