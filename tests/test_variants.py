"""The variants of the paper's Table 3: what is built, what each update of a step trains, which checkpoints load."""

import re

import pytest
import torch
from conftest import TINY, differing, images, options, weights

import main
import NICE
from images.files import list_images
from networks import Discriminator, Encoder, ResnetGenerator
from utils import UserError

VARIANTS = {
    "full": "",
    "none": "--nice false --ra false",
    "ra": "--nice false",
    "nice": "--ra false",
    "minus": "--shared_layers 1",
    "plus": "--shared_layers 3",
    "without_c2": "--heads 0,1",
    "only_c0": "--heads 0",
    "only_c1": "--heads 1",
    "only_c2": "--heads 2",
    "both": "--encoder_updates both",
    "g": "--encoder_updates g",
}
variant = pytest.mark.parametrize("variant", VARIANTS)


def parameters(nice) -> dict[str, torch.nn.Parameter]:
    return {f"{net}.{k}": p for net, module in nice.networks().items() for k, p in module.named_parameters()}


def named(names, *prefixes):
    """The names with these prefixes, which leave out the domain: dis.model for disA.model and disB.model."""
    return {n for n in names if re.sub(r"^(gen|dis|enc)2?[AB]", r"\1", n).startswith(prefixes)}


def expected(variant: str, names: set[str]) -> tuple[set[str], set[str]]:
    """The parameters that the D update and the G update of a step change."""
    generators, discriminators = named(names, "gen."), named(names, "dis.")
    encoder = named(names, "dis.model", "dis.conv1x1", "dis.lamda")
    if variant in ("none", "ra"):
        return discriminators, generators | named(names, "enc.")
    if variant == "only_c0":  # the CAM head precedes the attention, which no head judges
        return discriminators - named(names, "dis.conv1x1", "dis.lamda"), generators
    if variant == "both":
        return discriminators, generators | encoder
    if variant == "g":
        return discriminators - encoder, generators | encoder
    return discriminators, generators


@variant
def test_what_each_update_trains(variant):
    nice = NICE.NICE(options(VARIANTS[variant]))
    seen, with_gradient = [weights_of(nice)], []
    update = nice._update

    def watched(step_update, terms):
        with_gradient.append({name for name, p in parameters(nice).items() if p.grad is not None})
        update(step_update, terms)
        seen.append(weights_of(nice))

    nice._update = watched
    nice.train_step(images(), images(seed=1))
    moved = [differing(*pair) for pair in zip(seen, seen[1:], strict=False)]
    wanted = expected(variant, set(parameters(nice)))
    assert with_gradient == list(wanted)
    assert moved == list(wanted)
    assert all(p.grad is None for p in parameters(nice).values())


def weights_of(nice):
    return {name: p.detach().clone() for name, p in parameters(nice).items()}


@variant
def test_loss_terms(variant):
    nice = NICE.NICE(options(VARIANTS[variant]))
    terms = nice.train_step(images(), images(seed=1))
    heads = {0: "cam", 1: "local", 2: "global"}
    wanted = {f"{update}_{heads[h]}_{d}" for update in "dg" for h in nice.args.heads for d in "AB"}
    wanted |= {f"{kind}_{d}" for kind in ("cycle", "recon") for d in "AB"} | {"d_loss", "g_loss"}
    assert set(terms) == wanted
    assert all(torch.isfinite(value) for value in terms.values())


# ------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("shared, code", [(1, (4, 32, 32)), (2, (8, 16, 16)), (3, (16, 8, 8))])
@pytest.mark.parametrize("light", [True, False])
def test_shared_layers_leave_the_depth(shared, code, light):
    D = Discriminator(3, ndf=4, n_layers=6, shared=shared)
    G = ResnetGenerator(3, 3, ngf=4, n_blocks=1, img_size=64, light=light, shared=shared)
    judged = D(images(size=64))
    assert judged.z.shape == (1, *code)
    assert G(judged.z).shape == (1, 3, 64, 64)
    path = [layer for net in (D.model, G) for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(path) == 2 + 1 + 2 + 5  # encoder, UpBlock0, one residual block, UpBlock2


@pytest.mark.parametrize("shared", [1, 2, 3])
@pytest.mark.parametrize("n_layers", [6, 7, 8])
def test_global_head_keeps_its_depth(shared, n_layers):
    D = Discriminator(3, ndf=2, n_layers=n_layers, shared=shared)
    size = 3 * 2 ** (n_layers - 2)
    judged = D(images(size=size))
    assert judged.global_logits.shape == (1, 1, 1, 1)
    assert judged.cam_logit.shape == (1, 1)
    stages = [D.model, D.Dis0_0, D.Dis1_0, D.Dis1_1]
    assert sum(isinstance(layer, torch.nn.Conv2d) for s in stages for layer in s) == n_layers - 1


@pytest.mark.parametrize("heads", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_absent_heads_are_not_built(heads):
    D = Discriminator(3, ndf=4, n_layers=6, heads=heads)
    judged = D(images())
    logits = (judged.cam_logit, judged.local_logits, judged.global_logits)
    assert tuple(h for h in range(3) if logits[h] is not None) == heads
    assert len(judged.heads()) == len(heads)
    built = {name.split(".")[0] for name, _ in D.named_parameters()}
    assert ({"fc", "conv1x1", "lamda"} <= built) == (0 in heads)
    assert ({"conv0", "Dis0_1"} <= built) == bool({"conv0", "Dis0_1"} & built) == (1 in heads)
    assert ({"conv1", "Dis1_0", "Dis1_1"} <= built) == bool({"conv1", "Dis1_0", "Dis1_1"} & built) == (2 in heads)


def test_attention_without_its_residual():
    """z = leaky(conv1x1(w * [f, f])) with the raw CAM weights."""
    E = Encoder(3, 4, ra=False).eval()
    x = images()
    f = E.model(x)
    z = torch.nn.functional.leaky_relu(E.conv1x1(torch.cat((f, f), 1) * E.fc.weight_orig[..., None, None]), 0.2)
    torch.testing.assert_close(E.encode(x), z)
    assert not hasattr(E, "lamda")


def test_independent_encoders_share_no_weights():
    nice = NICE.NICE(options("--nice false"))
    of_encoders = {id(p) for d in "AB" for p in nice.E[d].parameters()}
    of_others = {id(p) for net in (nice.disA, nice.disB, nice.gen2A, nice.gen2B) for p in net.parameters()}
    assert not of_encoders & of_others
    shapes = {k: v.shape for k, v in nice.disA.state_dict().items()}
    assert all(shapes[k] == v.shape for k, v in nice.E["A"].state_dict().items())  # the same layers


# --------------------------------------------------------------------------------------- checkpoints


@variant
def test_checkpoint_round_trip(variant, toy, folders):
    nice = toy(VARIANTS[variant])
    nice.train_step(images(), images(seed=1))
    nice.save()
    again = toy(VARIANTS[variant])
    again.load()
    assert not differing(weights(nice), weights(again))
    for one in (nice, again):
        one.train_step(images(seed=2), images(seed=3))
    assert not differing(weights(nice), weights(again))
    toy("--phase test --n_dis 7 --ch 4").test()  # the checkpoint decides what is built, not the options
    assert len(list_images(folders[1] / "toy" / "fakeB")) == len(list_images(folders[1] / "toy" / "fakeA")) == 2


PAIRS = [(ours, theirs) for ours in ("full", "none", "plus") for theirs in VARIANTS if ours != theirs]


@pytest.mark.parametrize("ours, theirs", PAIRS)
def test_another_variants_checkpoint_is_refused(ours, theirs, toy):
    toy(VARIANTS[theirs]).save()
    nice = toy(VARIANTS[ours])
    before = weights(nice)
    with pytest.raises(UserError) as refusal:
        nice.load()
    ours_, theirs_ = (set(re.findall(r"--\w+ \S+", VARIANTS[v])) for v in (ours, theirs))
    changed = {option.split()[0] for option in ours_ ^ theirs_}
    assert all(option in str(refusal.value) for option in changed) and "\n" not in str(refusal.value)
    assert not differing(before, weights(nice))


# ------------------------------------------------------------------------------------------- options


def test_defaults_are_the_method():
    spelt = "--nice true --ra true --heads 0,1,2 --shared_layers 2 --encoder_updates d"
    default, explicit = NICE.NICE(options()), NICE.NICE(options(spelt))
    assert {k: p.shape for k, p in parameters(default).items()} == {k: p.shape for k, p in parameters(explicit).items()}
    for nice in (default, explicit):
        nice.train_step(images(), images(seed=1))
    assert not differing(weights(default), weights(explicit))
    assert set(default.networks()) == {"gen2A", "gen2B", "disA", "disB"}
    assert not [k for k in parameters(default) if ".Down." in k]


@pytest.mark.parametrize(
    "wrong",
    ["--heads 3", "--heads ,", "--heads none", "--shared_layers 4", "--shared_layers 0", "--encoder_updates c",
     "--nice maybe", "--nice false --encoder_updates both", "--nice false --encoder_updates g"],
)  # fmt: skip
def test_wrong_options_end_at_once(wrong, capsys):
    with pytest.raises(SystemExit) as end:
        main.parse_args([*TINY.split(), *wrong.split()])
    assert end.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err
