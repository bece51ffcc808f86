"""CycleGAN files of OpenMMLab: made from one of ours by the rule of its layout, since no real one was at hand."""

import pytest
import torch
from runs import SMALL

import main
import methods
from checkpoints.files import load_checkpoint
from nicegan import Translator
from utils import UserError


def trainer():
    return methods.create(main.parse_args(f"--method cyclegan --device cpu {SMALL['cyclegan']} --n_res 9".split()))


def their_key(ours: str) -> str:
    """model.1.weight -> model.0.conv.weight and so on, for nine blocks."""
    _, i, *rest = ours.split(".")
    plain = {1: 0, 4: 1, 7: 2, 19: 12, 22: 13, 26: 14}
    if int(i) in plain:
        return f"model.{plain[int(i)]}.conv.{rest[-1]}"
    return f"model.{int(i) - 7}.block.{0 if rest[1] == '1' else 1}.conv.{rest[-1]}"


def their_file(model, place, domains, bgr=False, prefix=""):
    weights = {}
    for domain, name in zip(domains, ("G_B", "G_A"), strict=True):  # draws into A, into B
        for key, value in model.networks()[name].state_dict().items():
            if bgr and key == "model.1.weight":
                value = value[:, [2, 1, 0]]
            if bgr and key.startswith("model.26."):
                value = value[[2, 1, 0]]
            weights[f"{prefix}generators.{domain}.{their_key(key)}"] = value.clone()
        weights[f"{prefix}discriminators.{domain}.model.0.conv.weight"] = torch.zeros(2, 3, 4, 4)
    torch.save({"meta": {"iter": 80000}, "state_dict": weights}, place)
    return place


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("domains", [("horse", "zebra"), ("photo", "mask"), ("cat", "dog")])
def test_their_files_translate_as_ours(tmp_path, domains, bgr):
    model = trainer()
    name = f"cyclegan_in_1x1{'_convert-bgr' * bgr}_2021.pth"
    place = their_file(model, tmp_path / name, domains, bgr, prefix="module." * bgr)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    translator = Translator(place, device="cpu")
    with torch.no_grad():
        for direction, net in ("AtoB", "G_A"), ("BtoA", "G_B"):
            assert torch.equal(translator(x, direction), model.networks()[net](x))


def test_domains_are_found_in_any_order(tmp_path):
    model = trainer()
    place = their_file(model, tmp_path / "x.pth", ("horse", "zebra"))
    content = torch.load(place)
    content["state_dict"] = dict(reversed(content["state_dict"].items()))
    torch.save(content, place)
    state = load_checkpoint(place, methods.recognise)
    assert state["method"] == "cyclegan"
    assert torch.equal(state["G_A"]["model.26.weight"], model.networks()["G_A"].model[26].weight)


@pytest.mark.parametrize("weights", [
    {}, {"generators.horse.model.0.conv.weight": torch.zeros(1)}, {"other.weight": torch.zeros(2)},
    {f"generators.{d}.model.999.block.9.conv.bias": torch.zeros(()) for d in "ab"},
])  # fmt: skip
def test_other_files_with_a_state_dict_are_refused_in_one_line(tmp_path, weights):
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "x.pth", methods.recognise)
    assert "\n" not in str(error.value)
