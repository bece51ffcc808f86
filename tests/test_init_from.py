"""--init_from: a new run begins with the weights of a model, whatever data it is for."""

import pytest
import torch
from drawers import lively, saved
from runs import complaint, latest, pictures, trained, with_pictures
from test_methods import SMALL, settings

import main
import methods
from checkpoints.files import load_checkpoint
from layers import power_iterations
from training.initial_weights import start_from
from utils import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data"))


def weights(state, name):
    return {k: v for k, v in state[name].items() if not k.endswith(("weight_u", "weight_v"))}


@pytest.mark.parametrize("method", SMALL)
def test_the_initial_weights_are_those_of_the_file(tmp_path, method):
    path = saved(tmp_path, method, seed=3)
    state = load_checkpoint(path, methods.recognise)
    trainer = methods.create(settings(method, f"--init_from {path} --ema 0.9 --dataset other --seed 5"))
    before = trainer.step, trainer.position
    start_from(trainer)
    assert (trainer.step, trainer.position) == before == (0, 0)
    for name, net in trainer.networks().items():
        for key, value in net.state_dict().items():
            assert torch.equal(value, state[name][key]), (name, key)
    assert not any(optimizer.state for optimizer in trainer.optimizers.values())
    assert all(torch.equal(x, average) for x, average in trainer.ema._pairs())


@pytest.mark.parametrize("method", ["nice", "cyclegan", "munit"])
@pytest.mark.parametrize("format", ["weights", "folder"])
def test_from_a_model_file_or_folder_the_rest_starts_anew(tmp_path, method, format, capsys):
    path = tmp_path / "toy_params_latest.pt"
    made = lively(method, f"--dataset toy --result_dir {tmp_path}", seed=3)
    for net in made.networks().values():
        power_iterations(net, 300)  # in a trained network the spectral norms are known
    made.save()
    main.main(f"--phase export --device cpu --checkpoint {path} --direction AtoB --format {format} "
              f"--output {tmp_path}/model".split())  # fmt: skip
    trainer = methods.create(settings(method, f"--init_from {tmp_path}/model"))
    start_from(trainer)
    state = load_checkpoint(path, methods.recognise)
    original = methods.create(settings(method, "--dataset toy"))
    original.load((state, path))
    x = torch.rand(1, 3, 48, 48) * 2 - 1
    fakes = []
    for model in (trainer, original):
        for net in model.networks().values():
            net.eval()
        torch.manual_seed(0)
        with torch.no_grad():
            fakes.append(model.translate(x, "A", "B"))
    assert (fakes[0] - fakes[1]).abs().max() < 0.02 and fakes[0].std() > 0.05


def test_of_a_lone_generator_by_the_command_line(data, tmp_path):
    with_pictures(tmp_path, data)
    lone = saved(tmp_path / "of", "cyclegan", "--ch 3 --n_res 2")
    G = load_checkpoint(lone, methods.recognise)["G_A"]
    torch.save({k: v.clone() for k, v in G.items()}, tmp_path / "latest_net_G.pth")
    call = ["--init_from", str(tmp_path / "latest_net_G.pth"), "--iteration", "1"]
    run = trained(tmp_path, ["--method", "cyclegan", "--ch", "3", "--n_res", "2", *call, "--lr", "1e-30"])
    assert "latest_net_G.pth: G_A; with random weights: G_B, D_A, D_B" in run.output
    state = load_checkpoint(latest(tmp_path), methods.recognise)
    assert state["start_iter"] == 1 and "init_from" not in state["args"]
    for key, value in weights(state, "G_A").items():
        assert torch.allclose(value, G[key], atol=1e-20), key
    run = trained(tmp_path, ["--method", "cut", *call], status=2)
    complaint(run, "latest_net_G.pth", "cyclegan")


def test_mistakes_are_one_line(tmp_path):
    path = saved(tmp_path, "cyclegan")
    with pytest.raises(SystemExit):
        main.main(f"--phase test --init_from {path} --dataset toy --result_dir {tmp_path}".split())
    with pytest.raises(UserError):
        main.main(f"--init_from {tmp_path}/nothing.pt --dataset toy".split())
