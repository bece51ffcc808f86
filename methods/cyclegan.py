"""CycleGAN (Zhu, Park, Isola, Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", ICCV 2017, arXiv 1703.10593).

G_A translates A to B, G_B translates B to A; D_A judges B, D_B judges A (the authors' names).

    G step: min over G_A, G_B   lsgan(D_A(G_A(x_A)), 1) + lambda_A |G_B(G_A(x_A)) - x_A|
                                + lambda_B lambda_identity |G_A(x_B) - x_B|          and with A and B swapped
    D step: min over D_A, D_B   (lsgan(D_A(x_B), 1) + lsgan(D_A(old fake_B), 0)) / 2   and with A and B swapped

D sees fakes from a pool of earlier ones.  The file holds the networks, the pool, lsgan, the method and the schedule of
its learning rate; the methods that grew out of its program import them.
"""

import re
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoints.contents import lone_network
from layers import Conv2d, ConvTranspose2d, InstanceNorm, ReflectionPad2d
from options import of_method
from training.method import Update, epoch_at
from training.random_draws import Draw
from training.trainer import Trainer

# ------------------------------------------------------------------------------------------ networks


class Chain(nn.Module):
    """Layers that run one after another, named `model` as in existing checkpoints."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


leaky = partial(nn.LeakyReLU, 0.2, inplace=True)


class ResnetBlock(nn.Module):
    """x + [pad, conv, IN, ReLU, pad, conv, IN](x); nothing after the sum."""

    def __init__(self, dim: int, bias: bool = True):
        super().__init__()
        first, second = (Conv2d(dim, dim, 3, bias=bias) for _ in "12")
        # ReLU after the padding, in place: autograd then keeps one map instead of two
        layers = ReflectionPad2d(1), first, InstanceNorm(), ReflectionPad2d(1), nn.ReLU(inplace=True), second
        self.conv_block = nn.Sequential(*layers, InstanceNorm())
        first.idle_bias = second.idle_bias = True

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_block(x).add_(x)


def normed(conv: nn.Module, activation: nn.Module | None = None, idle_bias: bool = True) -> list[nn.Module]:
    """A convolution, instance normalisation, and an activation (ReLU unless another is given)."""
    conv.idle_bias = idle_bias
    return [conv, InstanceNorm(), activation or nn.ReLU(inplace=True)]


class Generator(Chain):
    """Pictures (N,3,S,S) -> (N,3,S,S) in [-1,1]; c base channels, n residual blocks.  Shapes for S = 256, c = 64."""

    def __init__(self, img_ch: int = 3, c: int = 64, n: int = 9):
        super().__init__()
        self.model = nn.Sequential(
            ReflectionPad2d(3),
            *normed(Conv2d(img_ch, c, 7)),  # (N,64,256,256)
            *normed(Conv2d(c, 2 * c, 3, stride=2, padding=1)),  # (N,128,128,128)
            *normed(Conv2d(2 * c, 4 * c, 3, stride=2, padding=1)),  # (N,256,64,64)
            *[ResnetBlock(4 * c) for _ in range(n)],
            *normed(ConvTranspose2d(4 * c, 2 * c, 3, stride=2, padding=1, output_padding=1)),
            *normed(ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1)),
            ReflectionPad2d(3),
            Conv2d(c, img_ch, 7),
            nn.Tanh(),
        )


class Discriminator(Chain):
    """70x70 PatchGAN: pictures (N,3,S,S) -> logits (N,1,S/8-2,S/8-2)."""

    def __init__(self, img_ch: int = 3, c: int = 64):
        super().__init__()
        self.model = nn.Sequential(
            Conv2d(img_ch, c, 4, stride=2, padding=1),
            leaky(),
            *normed(Conv2d(c, 2 * c, 4, stride=2, padding=1), leaky()),
            *normed(Conv2d(2 * c, 4 * c, 4, stride=2, padding=1), leaky()),
            *normed(Conv2d(4 * c, 8 * c, 4, padding=1), leaky()),
            Conv2d(8 * c, 1, 4, padding=1),
        )


normal = partial(nn.init.normal_, std=0.02)


def initialise(net: nn.Module, init=normal, zero_bias: bool = True) -> nn.Module:
    """Weights of convolutions and linear layers by `init`, biases 0 or PyTorch's default; layout channels_last."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            init(layer.weight)
            if zero_bias:
                nn.init.zeros_(layer.bias)
    return net.to(memory_format=torch.channels_last)


class ImagePool:
    """Up to `size` earlier fakes of one domain (section 4).

    Random numbers are compared on the device, so the host never waits and every exchange runs the same operations.
    """

    def __init__(self, size: int, name: str):
        self.size, self.name, self.kept, self.count = size, name, None, None

    def exchange(self, fakes: Tensor, draw: Draw) -> Tensor:
        """Detached fakes (N,C,H,W) in, N fakes out.  A full pool keeps a fake and returns an old one instead with
        probability 1/2; a pool with room keeps every fake and returns it."""
        if self.size == 0:
            return fakes
        if self.kept is None or self.kept.shape[1:] != fakes.shape[1:]:
            self.load(fakes[:0])
        given = []
        for i, new in enumerate(fakes.split(1)):
            room = self.count < self.size
            swap = (draw.uniform(f"D/{self.name}_swap_{i}") > 0.5) & ~room
            at = torch.where(room, self.count, draw.integer(f"D/{self.name}_index_{i}", self.size)).view(1)
            old = self.kept.index_select(0, at)
            self.kept.index_copy_(0, at, torch.where(room | swap, new, old))
            self.count += room
            given.append(torch.where(swap, old, new))
        return torch.cat(given)

    def load(self, kept: Tensor):
        """Start from the fakes (n,C,H,W), at most `size` of them."""
        kept = kept[: self.size]
        self.count = torch.full((), len(kept), device=kept.device)
        self.kept = torch.cat((kept, kept.new_zeros(self.size - len(kept), *kept.shape[1:])))

    def state(self) -> Tensor | None:
        """The fakes in the pool (n,C,H,W), or None before the first exchange."""
        return None if self.kept is None else self.kept[: int(self.count)].clone()


def lsgan(logits: Tensor, target: float) -> Tensor:
    """Least-squares GAN loss: the mean of (logits - target)^2 over all elements."""
    return (logits - target).square().mean()


# ------------------------------------------------------------------------------------------- method


class EpochSchedule(Trainer):
    """What the programs derived from CycleGAN's share: Adam's beta1, the learning rate by epoch, the random crops."""

    resample = "bicubic"

    @property
    def betas(self):
        return self.args.beta1, 0.999

    @classmethod
    def default_load_size(cls, args) -> int:
        return round(args.img_size * 286 / 256)

    def lr(self, step: int) -> float:
        return epoch_lr(self.args, step, shift=int(getattr(self.args, "early_decay", False)))

    @classmethod
    def check(cls, args) -> str | None:
        if args.img_size < 24:
            return f"--img_size {args.img_size} is too small for the discriminators, which need 24"
        return None


class CycleGAN(EpochSchedule):
    """CycleGAN: two generators, two patch discriminators, cycle consistency, pools of old fakes."""

    options, defaults = of_method("cyclegan")
    authors_epochs = 200
    inference_networks = {("A", "B"): ("G_A",), ("B", "A"): ("G_B",)}
    training_networks = ("D_A", "D_B")
    first, inner = "model.1.weight", "conv_block.1.weight"  # keys of a generator: its first layer, and one per block

    def build(self, a) -> dict[str, nn.Module]:
        self.G = {d: initialise(Generator(a.img_ch, a.ch, a.n_res)) for d in "BA"}  # G[d] generates domain d
        self.D = {d: initialise(Discriminator(a.img_ch, a.ch)) for d in "BA"}  # D[d] judges d
        self.pools = {d: ImagePool(self.args.pool_size, f"pool_{d}") for d in "AB"}
        return {"G_A": self.G["B"], "G_B": self.G["A"], "D_A": self.D["B"], "D_B": self.D["A"]}

    def trained(self):
        nets = self._networks.items()
        return {kind: [p for name, net in nets if name[0] == kind for p in net.parameters()] for kind in "GD"}

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("G", self.generator_objective, total="G"),
            Update("D", self.discriminator_objective, total="D", sample=self.exchange),
        )

    def exchange(self, batch, s, t):
        """The fakes of t that D sees: new ones, or old ones from the pool."""
        batch[f"old_{t}"] = self.pools[t].exchange(batch[f"fake_{t}"], self.draw)

    def generator_objective(self, batch, s, t):
        """From domain s: fool the discriminator of t, return to s (cycle), and leave pictures of t alone (identity)."""
        args, G = self.args, self.G
        lambda_s, lambda_t = (getattr(args, f"lambda_{d}") for d in (s, t))
        if args.lambda_identity > 0:  # both in one batch
            fake, same = G[t](torch.cat((batch[s], batch[t]))).chunk(2)
            identity = lambda_t * args.lambda_identity * F.l1_loss(same, batch[t])
        else:
            fake, identity = G[t](batch[s]), batch[s].new_zeros(())
        batch[f"fake_{t}"] = fake.detach()  # the D step sees the fakes from before G's update
        adversarial = lsgan(self.D[t](fake), 1)
        cycle = lambda_s * F.l1_loss(G[s](fake), batch[s])
        # G_A and idt_A belong to the generator from A to B
        return adversarial + cycle + identity, {f"G_{s}": adversarial, f"cycle_{s}": cycle, f"idt_{s}": identity}

    @classmethod
    def term_weights(cls, args):
        idt = {"idt_A": args.lambda_B * args.lambda_identity, "idt_B": args.lambda_A * args.lambda_identity}
        return {"cycle_A": args.lambda_A, "cycle_B": args.lambda_B, **idt}

    def discriminator_objective(self, batch, s, t):
        """Tell real from fake in domain t: 1 on real, 0 on fakes from the pool."""
        on_real, on_fake = self.D[t](torch.cat((batch[t], batch[f"old_{t}"]))).chunk(2)
        loss = (lsgan(on_real, 1) + lsgan(on_fake, 0)) / 2
        return loss, {f"D_{s}": loss}

    # ------------------------------------------------------------------------ pools, pictures, files

    def extra_state(self) -> dict:
        states = {name: pool.state() for name, pool in self.pools.items()}
        return {name: kept for name, kept in states.items() if kept is not None}

    def load_extra_state(self, state: dict):
        for name, pool in self.pools.items():
            pool.kept = None
            if name in state and pool.size:
                pool.load(state[name].to(self.device))

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G[t](x)

    def visuals(self, x, s, t):
        """Input, translation, cycle."""
        fake = self.translate(x, s, t)
        return [x, fake, self.translate(fake, t, s)]

    @classmethod
    def from_released(cls, found):
        """One file per network; a released latest_net_G.pth holds the generator from A to B alone.  Or OpenMMLab's."""
        networks = of_openmmlab(found) or super().from_released(found)
        if networks is None and (network := lone_network(found)):  # whatever the file is called
            networks = {next(iter(cls.inference_networks.values()))[0]: network}
        if networks:
            networks = {k: without_dropout(v) if isinstance(v, dict) else v for k, v in networks.items()}
        generators = cls.generators(networks or {})
        is_ours = all(getattr(G.get(cls.first), "ndim", 0) == 4 and "model.1.bias" in G for G in generators)
        is_ours = is_ours and not any("model.7.filt" in G for G in generators)  # CUT's has the same name
        return networks if generators and is_ours else None

    @classmethod
    def infer_options(cls, networks):
        weights, *_ = cls.generators(networks)
        first = weights[cls.first]
        blocks = sum(key.endswith(cls.inner) for key in weights)
        return {"ch": first.shape[0], "img_ch": first.shape[1], "n_res": blocks}

    @classmethod
    def generators(cls, networks: dict) -> list[dict]:
        """The weights of the generators present."""
        return [networks[name] for names in cls.inference_networks.values() for name in names if name in networks]


# domains of OpenMMLab's files: the model page's data sets have these as A and B
OPENMMLAB = {"photo": "A", "mask": "B", "summer": "A", "winter": "B", "horse": "A", "zebra": "B"}
OPENMMLAB_KEY = re.compile(
    r"(?:module\.)?generators\.(?:module\.)?([^.]+)\.model\.(\d{1,3})\.(?:block\.(\d)\.)?conv\.(weight|bias)"
)


def of_openmmlab(found: dict) -> dict | None:
    """The generators in a file {stem: {"state_dict": ...}} of OpenMMLab, under our names; None: it is another file.

    There generators.zebra draws zebras.  Of domains that OPENMMLAB does not name, the first in the file is A.
    """
    (stem, content), *others = found.items()
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if others or not isinstance(weights, dict):
        return None
    keys = [match for key in weights if (match := OPENMMLAB_KEY.fullmatch(key)) and isinstance(weights[key], Tensor)]
    domains = list(dict.fromkeys(key[1] for key in keys))
    if len(domains) != 2:
        return None
    known = set(map(OPENMMLAB.get, domains)) == {"A", "B"}
    last, networks = max(int(key[2]) for key in keys), {}
    layers = {0: 1, 1: 4, 2: 7, last - 2: last + 5, last - 1: last + 8, last: last + 12}
    for domain, place in zip(domains, "AB", strict=True):
        net = networks["G_A" if (OPENMMLAB[domain] if known else place) == "B" else "G_B"] = {}
        for key in keys:
            if key[1] == domain:
                layer = layers.get(int(key[2]))
                if key[3]:  # its second convolution is block 1, or 2 behind dropout
                    layer = f"{int(key[2]) + 7}.conv_block.{1 if key[3] == '0' else 5}"
                net[f"model.{layer}.{key[4]}"] = weights[key[0]]
        if "convert-bgr" in stem:  # blue, green, red
            for name, dim in (("model.1.weight", 1), (f"model.{last + 12}.weight", 0), (f"model.{last + 12}.bias", 0)):
                if name in net and net[name].ndim > dim:
                    net[name] = net[name].flip(dim)
    return networks


def without_dropout(weights: dict) -> dict:
    """A generator trained with dropout, which moves the second convolution of a block from place 5 to 6."""
    if not any("conv_block.6." in key for key in weights):
        return weights
    return {key.replace("conv_block.6.", "conv_block.5."): value for key, value in weights.items()}


def epoch_lr(args, step: int, shift: int = 0, beyond: int = 1) -> float:
    """The learning rate in epoch E: lr (1 - max(0, E + shift - n_epochs) / (n_epochs_decay + beyond)).

    With CycleGAN's defaults the rate is lr in epoch 100 and lr / 101 in epoch 200, as in its program until 2020, which
    updated the rate at the end of an epoch.  Its later program updates it at the beginning (shift 1, --early_decay
    true): lr 100/101 in epoch 100, and 0 in epoch 200.  Programs derived from it shift the start and the end.
    """
    if not args.decay_flag:
        return args.lr
    epochs = max(1, args.n_epochs + args.n_epochs_decay)
    epoch = epoch_at(step, args.iteration, epochs, args.steps_per_epoch)
    fallen = max(0, epoch + shift - args.n_epochs) / max(1, args.n_epochs_decay + beyond)
    return args.lr * max(0.0, 1 - fallen)
