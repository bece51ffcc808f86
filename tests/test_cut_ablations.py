"""CUT's ablations: each switch does what it says, and a bank of keys resumes to the bit."""

import copy
import signal

import pytest
import torch
import torch.nn.functional as F
from runs import SMALL, latest, pictures, train, trained

import main
import methods
from checkpoints.files import digest, load_checkpoint
from methods.cut import nce
from methods.negatives import MOMENTUM, Bank, MomentumNetwork
from nicegan import Translator

T = 0.07


def create(text: str = "", method="cut"):
    argv = f"--method {method} {SMALL[method]} --device cpu --num_workers 0 {text}".split()
    return methods.create(main.parse_args(argv))


def batches(n: int = 2):
    generator = torch.Generator().manual_seed(1)
    return [[torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1 for _ in "AB"] for _ in range(n)]


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


# ------------------------------------------------------------------------------------------ PatchNCE


def test_negatives_by_hand():
    """-log softmax over the logits that each choice names, for the cross entropy by hand."""
    torch.manual_seed(0)
    q, k, bank = unit(1, 5, 4), unit(1, 5, 4), unit(7, 4)
    inside, outside = (q[0] @ k[0].T / T), (q[0] @ bank.T / T)
    own = inside.diagonal()[:, None]
    external = -(own[:, 0] - torch.cat((own, outside), 1).logsumexp(1)).mean()
    torch.testing.assert_close(nce(q, k, T, bank, internal=False), external)
    padding = torch.full((5, 1), -10 / T, dtype=torch.float64)
    both = -(own[:, 0] - torch.cat((inside, padding, outside), 1).logsumexp(1)).mean()
    torch.testing.assert_close(nce(q, k, T, bank), both)


def test_the_oldest_keys_leave_first_and_a_step_never_meets_its_own():
    bank = Bank(1, 3, "cpu", size=4)
    first = bank.keys[0].clone()
    news = [unit(1, 3, 3).float() for _ in range(2)]
    bank.add([news[0]])
    assert torch.equal(bank.keys[0], first)  # they wait
    bank.enqueue()
    assert torch.equal(bank.keys[0], torch.cat((news[0][0], first[3:])))
    bank.add([news[1]])
    bank.enqueue()
    assert torch.equal(bank.keys[0], torch.stack((news[1][0, 1], news[1][0, 2], news[0][0, 2], news[1][0, 0])))
    again = Bank(1, 3, "cpu", size=4)
    again.load(bank.state("x"), "x")
    assert torch.equal(again.keys[0], bank.keys[0]) and again.next == bank.next


def test_a_momentum_network_follows():
    net = torch.nn.Linear(2, 2)
    follower = MomentumNetwork(net)
    before, _ = follower.copy.weight.clone(), net.weight.data.add_(1)
    follower.update()
    torch.testing.assert_close(follower.copy.weight, MOMENTUM * before + (1 - MOMENTUM) * net.weight.detach())


# --------------------------------------------------------------------------------------- the switches


def gradients_of_nce(model) -> tuple[float, float]:
    """The largest gradient of PatchNCE alone in G's encoder and in its decoder."""
    batch = dict(zip("AB", batches()[0], strict=True))
    model.decision = model.host_decision()
    model.forward(batch, "A", "B")
    model.sample_patches(batch, "A", "B")
    loss = model.patch_nce(*(batch[name][0] for name in ("fake", "real", "keys", "patch_ids")), model.banks.get("NCE"))
    loss.backward()
    first = model.G.layers[-1] + 1
    found = {"encoder": 0.0, "decoder": 0.0}
    for name, p in model.G.named_parameters():
        if p.grad is not None:
            part = "decoder" if int(name.split(".")[1]) >= first else "encoder"
            found[part] = max(found[part], p.grad.abs().max().item())
    return found["encoder"], found["decoder"]


def test_the_decoder_gets_no_gradient_of_patchnce():
    encoder, decoder = gradients_of_nce(create())
    assert encoder > 0 and decoder > 0
    encoder, decoder = gradients_of_nce(create("--nce_decoder false"))
    assert encoder > 0 and decoder == 0


def test_an_own_encoder_and_projection_learn_from_the_input():
    model = create("--shared_encoder false")
    before = {name: copy.deepcopy(net.state_dict()) for name, net in model.networks().items()}
    for pair in batches():
        model.train_step(*pair)
    for name in ("G_key", "F_key", "G", "F"):
        after = model.networks()[name].state_dict()
        assert any(not torch.equal(x, before[name][key]) for key, x in after.items()), name
    assert not any(int(key.split(".")[1]) > model.G.layers[-1] for key in model.G_key.state_dict())
    names = {name for name, net in model.networks().items() for p in net.parameters()
             if any(p is own for own in model.optimizers["G"].param_groups[0]["params"])}  # fmt: skip
    assert names == {"G", "F", "G_key", "F_key"}


@pytest.mark.parametrize("layers", ["0", "12", "0,4,8"])
def test_layers_that_are_compared(layers):
    model = create(f"--nce_layers {layers}")
    assert model.G.layers == [int(layer) for layer in layers.split(",")]
    assert len([*model.F.children()]) == len(model.G.layers)
    terms = [{k: v.item() for k, v in m.train_step(*batches()[0]).items()} for m in (model, create())]
    assert terms[0]["NCE"] != terms[1]["NCE"]


@pytest.mark.parametrize("negatives", ["external", "both"])
def test_external_negatives_change_the_loss_and_fill_the_bank(negatives):
    model, plain = create(f"--negatives {negatives}"), create()
    start = [keys.clone() for keys in model.banks["NCE"].keys]
    terms = [[m.train_step(*pair)["NCE"].item() for pair in batches()] for m in (model, plain)]
    assert terms[0] != terms[1]
    model.extra_state()  # the keys of the last step are enqueued
    changed = [(a != b).any(1).sum().item() for a, b in zip(start, model.banks["NCE"].keys, strict=True)]
    assert changed == [2 * min(16, n) for n in (38 * 38, 32 * 32, 16 * 16, 8 * 8)]
    assert not any(p.requires_grad for follower in model.followers.values() for p in follower.copy.parameters())


@pytest.mark.parametrize(
    "switch", ["--negatives both", "--shared_encoder false", "--nce_layers 0", "--nce_decoder false"]
)
def test_a_checkpoint_of_an_ablation_translates(switch, tmp_path):
    model = create(f"{switch} --result_dir {tmp_path} --dataset toy")
    model.save()
    x = batches()[0][0]
    found = Translator(tmp_path / "toy_params_latest.pt", device="cpu")(x, "AtoB")
    torch.testing.assert_close(found, model.G(x).detach())


def test_gradients_reach_the_query_alone():
    """Of external negatives: the translation and the networks that learn, not the input, its copies or the bank."""
    model = create("--negatives both")
    batch = dict(zip("AB", batches()[0], strict=True))
    model.decision = model.host_decision()
    model.forward(batch, "A", "B")
    model.sample_patches(batch, "A", "B")
    fake, real = (batch[name][0].detach().requires_grad_() for name in ("fake", "real"))
    bank = model.banks["NCE"]
    model.patch_nce(fake, real, batch["keys"][0], batch["patch_ids"][0], bank).backward()
    assert fake.grad.abs().max() > 0 and real.grad is None
    assert all(p.grad is not None for p in model.F.parameters())
    copies = [p for follower in model.followers.values() for p in follower.copy.parameters()]
    assert all(p.grad is None for p in copies) and not any(keys.requires_grad for keys in bank.keys)
    assert {keys.shape for keys in bank.keys} == {(16384, 8)} and MOMENTUM == 0.999 and model.args.nce_T == 0.07


def test_mistakes_are_one_line(capsys):
    for text, words in (
        ("--nce_layers 3", "no comma-separated list of 0, 4, 8, 12, 16"),
        ("--nce_layers 16", "--nce_layers 16 needs more than 1 residual blocks"),
        ("--negatives both --shared_encoder false", "--shared_encoder"),
    ):
        with pytest.raises(SystemExit) as leaving:
            create(text)
        assert leaving.value.code == 2 and words in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- resume


def test_a_bank_survives_a_kill_and_resumes_to_the_bit(tmp_path):
    options = "--method cut --negatives both --seed 4 --decay_flag false"
    whole, killed = (pictures(tmp_path / name) for name in ("whole", "killed"))
    trained(whole, f"{options} --iteration 6")
    run = train(killed, f"{options} --iteration 100000 --print_freq 1")
    run.reach(3)
    run.signal(signal.SIGKILL)
    run.wait()
    step = load_checkpoint(latest(killed), methods.recognise)["start_iter"]
    more = f"{options} --iteration {max(6, step)}"
    trained(killed, f"{more} --resume True")
    if step > 6:
        trained(whole, f"{more} --resume True")
    memories = [load_checkpoint(latest(folder), methods.recognise)["memory"] for folder in (whole, killed)]
    assert digest(memories[0]) == digest(memories[1]) and any("keys_0" in key for key in memories[0])
