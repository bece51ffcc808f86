"""Both directions at once (networks.Twins): the same training as one after the other."""

import pytest
import torch
from conftest import differing, double_precision, images, options, weights

import NICE

VARIANTS = [
    "",
    "--light false",
    "--img_ch 1 --ra false",
    "--nice false",
    "--nice false --heads 1,2",
    "--heads 0",
    "--heads 1",
    "--heads 2 --shared_layers 1",
    "--shared_layers 3 --encoder_updates both",
    "--encoder_updates g --n_dis 7 --img_size 96",
    "--grad_accum 2 --checkpoint_blocks true",
]


def trainer(text, together):
    with double_precision():
        return NICE.NICE(options(text, together=together))


def batch(args, seed):
    x = images(2, args.img_size, seed)[:, : args.img_ch]
    return x.double()


@pytest.mark.parametrize("text", VARIANTS)
def test_three_steps_are_those_of_one_direction_after_the_other(text):
    ours, theirs = trainer(text, True), trainer(text, False)
    for i in range(3):
        real = [batch(ours.args, seed) for seed in (2 * i, 2 * i + 1)]
        a, b = ours.train_step(*real), theirs.train_step(*real)
        assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()}, rel=1e-9)
    expected = weights(theirs)
    for key, value in weights(ours).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-9, msg=key)
    for optimizers in ((ours.D_optim, theirs.D_optim), (ours.G_optim, theirs.G_optim)):
        states, moments = (optimizer.state_dict()["state"] for optimizer in optimizers)
        for i, state in states.items():
            torch.testing.assert_close(state["exp_avg"], moments[i]["exp_avg"], rtol=1e-6, atol=1e-12)


def test_what_trains_and_what_loads_reaches_both(toy):
    """A checkpoint of either kind of training continues as the other."""
    first = toy("--together true")
    first.train_step(images(1, seed=1), images(1, seed=2))
    first.save()
    second = toy("--together false")
    second.load()
    assert not differing(weights(first), weights(second))
    for nice in (first, second):
        nice.train_step(images(1, seed=3), images(1, seed=4))
    second.save()
    third = toy("--together true")
    third.load()
    assert not differing(weights(second), weights(third))
    x = images(1, seed=5).expand(2, -1, -1, -1)
    with torch.no_grad(), NICE.evaluating([*third.networks().values(), third.D["AB"]]):
        judged = third.D["AB"](torch.cat((x, -x), 1))
        for field, joint in judged._asdict().items():
            apart = [getattr(third.D[d](y), field) for d, y in (("A", x), ("B", -x))]
            torch.testing.assert_close(joint, torch.cat(apart, 1), msg=field)
            swapped = getattr(third.D["BA"](torch.cat((-x, x), 1)), field)
            torch.testing.assert_close(swapped, torch.cat(apart[::-1], 1), msg=field)


def test_small_pictures_on_a_cpu_are_the_default():
    def chosen(text):
        return NICE.together(options(text))

    assert chosen("--img_size 64 --ch 64") and not chosen("--img_size 64 --ch 64 --batch_size 2")
    assert not chosen("--img_size 256 --ch 64") and not chosen("--checkpoint_blocks true")
    assert chosen("--img_size 256 --ch 64 --together true") and not chosen("--together false")


def test_networks_that_were_moved_are_noticed():
    """They have new memory, and would no longer learn."""
    nice = NICE.NICE(options("--together true"))
    nice.gen2A.double(), nice.disA.double()
    with pytest.raises(RuntimeError, match="new memory"):
        nice.train_step(images(), images())
