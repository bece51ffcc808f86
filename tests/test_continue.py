"""A run continues where its data set was renamed, and from the files of a method's authors."""

import json
import shutil

import pytest
import torch
from drawers import saved
from runs import complaint, latest, pictures, trained
from test_methods import settings

import methods
from checkpoints.files import load_checkpoint
from nicegan.command_line import options_and_checkpoint
from utils import UserError


def steps(results):
    return [json.loads(line)["step"] for line in (results / "log.jsonl").read_text().splitlines()]


def test_a_run_of_a_renamed_data_set_goes_on(tmp_path):
    folder = pictures(tmp_path)
    trained(folder, "--iteration 1")
    data, results = folder / "dataset", folder / "results"
    complaint(trained(folder, "--dataset other --resume True", status=2), "no checkpoint", "other")
    shutil.copytree(data / "tiny", data / "copy")
    run = trained(folder, "--dataset copy --resume auto --iteration 1")  # a copy may get a run of its own
    assert "step 1 of" not in run.output and (results / "copy_params_latest.pt").exists()
    shutil.rmtree(data / "copy")
    (results / "copy_params_latest.pt").unlink()
    (data / "tiny").rename(data / "fresh")
    for more, step in (("--resume True", 1), ("--resume auto", 2)):
        run = trained(folder, f"--dataset fresh {more} --iteration {step + 1}")
        assert "dataset/fresh holds the pictures of the run in" in run.output
        assert f"continuing from step {step} of {latest(folder)}" in run.output
        assert "pictures have changed" not in run.output
    assert steps(results / "tiny") == [1, 2, 3] and not (results / "fresh").exists()
    trained(folder, "--dataset fresh --phase test")
    assert len(list((results / "tiny" / "fakeB").glob("*.png"))) == 2


def test_other_pictures_are_said_on_a_resume(tmp_path):
    folder = pictures(tmp_path, each=3)
    trained(folder, "--iteration 1 --hold_out 0")
    place = folder / "dataset" / "tiny"
    (place / "trainA" / "0.png").unlink()
    (place / "trainB" / "0.png").rename(place / "trainB" / "9.png")
    run = trained(folder, "--iteration 2 --resume True")
    (line,) = [line for line in run.output.splitlines() if "pictures have changed" in line]
    assert "trainA held 3 pictures, now 2; trainB holds 3 pictures as before, of other names or sizes" in line
    run = trained(folder, f"--dataset tiny --checkpoint {latest(folder)} --iteration 3")
    assert "pictures have changed" not in run.output
    place.rename(place.with_name("fresh"))
    run = trained(folder, f"--dataset fresh --checkpoint {latest(folder)} --iteration 4")
    assert "continuing from step 3" in run.output and "--dataset tiny -> fresh" in run.output


RELEASED = {  # method: how its authors name the files, and the networks that a run needs
    "cyclegan": "latest_net_{}.pth",
    "cut": "latest_net_{}.pth",
    "fastcut": "latest_net_{}.pth",
    "gcgan": "20_net_{}.pth",
    "distancegan": "latest_net_{}.pth",
    "sincut": "latest_net_{}.pth",
}


def released(folder, method: str, lacking: str = ""):
    """The files that the method's authors would write."""
    state = load_checkpoint(saved(folder / "ours", method), methods.recognise)
    (folder / "theirs").mkdir(exist_ok=True)
    for name in methods.create(settings(method)).networks():
        if name != lacking:
            weights = {key: value.clone() for key, value in state[name].items()}
            torch.save(weights, folder / "theirs" / RELEASED[method].format(name))
    return folder / "theirs", state


@pytest.mark.parametrize("method", RELEASED)
def test_a_run_continues_from_its_authors_files(tmp_path, method, capsys):
    path, state = released(tmp_path, method)
    trainer = methods.create(settings(method))
    trainer.load((load_checkpoint(path, trainer.recognise), path))
    assert "it holds no optimizers, so these are new" in capsys.readouterr().err
    for name, net in trainer.networks().items():
        assert all(torch.equal(value, state[name][key]) for key, value in net.state_dict().items())
    assert trainer.step == 0 and not any(optimizer.state for optimizer in trainer.optimizers.values())


def test_of_munit_the_step_is_known(tmp_path):
    state = load_checkpoint(saved(tmp_path / "ours", "munit"), methods.recognise)
    for kind in ("gen", "dis"):
        pair = {d: {k: v.clone() for k, v in state[f"{kind}_{d}"].items()} for d in "ab"}
        torch.save(pair, tmp_path / f"{kind}_00000300.pt")
    trainer = methods.create(settings("munit"))
    trainer.load((load_checkpoint(tmp_path, methods.recognise), tmp_path))
    assert trainer.step == 300 and torch.equal(trainer.networks()["dis_b"].state_dict()["cnns.0.0.conv.weight"],
                                               state["dis_b"]["cnns.0.0.conv.weight"])  # fmt: skip


def test_by_the_command_line(tmp_path):
    folder = pictures(tmp_path)
    path, _ = released(tmp_path, "cyclegan")
    run = trained(folder, f"--method cyclegan --ch 5 --checkpoint {path} --iteration 1", status=2)
    complaint(run, "--ch is 5, there 2")
    args, _ = options_and_checkpoint(["--checkpoint", str(path), "--img_size", "32", "--device", "cpu"])
    assert (args.method, args.ch, args.n_res) == ("cyclegan", 2, 1)
    run = trained(folder, f"--method cyclegan --checkpoint {path} --iteration 1")
    line = f"continuing from step 0 of {path}, from the weights of G_A, G_B, D_A, D_B"
    assert run.output.count(line) == 1 and steps(folder / "results" / "tiny") == [1]
    (path / "latest_net_D_A.pth").unlink()
    run = trained(folder, f"--method cyclegan --checkpoint {path}", status=2)
    complaint(run, "has no D_A", "--init_from")


def test_a_missing_optimizer_of_ours_is_an_error(tmp_path):
    path = saved(tmp_path, "cyclegan")
    state = load_checkpoint(path, methods.recognise)
    trainer = methods.create(settings("cyclegan", "--dataset toy"))
    with pytest.raises(UserError, match="D_optimizer: there is no D_optimizer"):
        trainer.load(({k: v for k, v in state.items() if k != "D_optimizer"}, path))
