"""CycleGAN (Zhu, Park, Isola, Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", ICCV 2017, arXiv 1703.10593).

G_A draws B from A, G_B draws A from B; D_A judges B, D_B judges A (the authors' names).

    G step: min over G_A, G_B   mse(D_A(G_A(x_A)), 1) + lambda_A |G_B(G_A(x_A)) - x_A|
                                + lambda_B lambda_identity |G_A(x_B) - x_B|        and the same the other way
    D step: min over D_A, D_B   (mse(D_A(x_B), 1) + mse(D_A(old fake_B), 0)) / 2   and the same the other way

The fakes that D sees are drawn from a pool of earlier ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import Conv2d, ConvTranspose2d, InstanceNorm, ReflectionPad2d
from options import Option, bounded, natural, weight
from training.method import Update, epoch_at
from training.random_draws import Draw
from training.trainer import Trainer

SCHEDULE = (
    Option("optimisation", "n_epochs", natural, 100, "epochs at the full learning rate"),
    Option("optimisation", "n_epochs_decay", natural, 100, "epochs over which it then falls"),
    Option("optimisation", "steps_per_epoch", natural, 0, "length of an epoch; 0: such that the epochs fill the run"),
    Option("optimisation", "beta1", bounded(float, 0, 0.999999), 0.5, "first moment's decay in Adam"),
)

# ------------------------------------------------------------------------------------------ networks


class ResnetBlock(nn.Module):
    """x + [pad, conv, IN, ReLU, pad, conv, IN](x); nothing after the sum."""

    def __init__(self, dim: int, bias: bool = True):
        super().__init__()
        half = [ReflectionPad2d(1), Conv2d(dim, dim, 3, bias=bias), InstanceNorm()]
        again = [Conv2d(dim, dim, 3, bias=bias), InstanceNorm()]
        # padding first: what ReLU writes in place is what the convolution keeps, one map instead of two
        self.conv_block = nn.Sequential(*half, ReflectionPad2d(1), nn.ReLU(inplace=True), *again)
        half[1].idle_bias = again[0].idle_bias = True

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_block(x).add_(x)


def normed(conv: nn.Module, activation: nn.Module | None = None, idle_bias: bool = True) -> list[nn.Module]:
    """A convolution, instance normalisation, and an activation (ReLU unless another is given)."""
    conv.idle_bias = idle_bias
    return [conv, InstanceNorm(), activation or nn.ReLU(inplace=True)]


class Generator(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Discriminator(nn.Module):
    """70x70 PatchGAN: pictures (N,3,S,S) -> logits (N,1,S/8-2,S/8-2)."""

    def __init__(self, img_ch: int = 3, c: int = 64):
        super().__init__()

        def leaky():
            return nn.LeakyReLU(0.2, inplace=True)

        self.model = nn.Sequential(
            Conv2d(img_ch, c, 4, stride=2, padding=1),
            leaky(),
            *normed(Conv2d(c, 2 * c, 4, stride=2, padding=1), leaky()),
            *normed(Conv2d(2 * c, 4 * c, 4, stride=2, padding=1), leaky()),
            *normed(Conv2d(4 * c, 8 * c, 4, padding=1), leaky()),
            Conv2d(8 * c, 1, 4, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def initialise(net: nn.Module, std: float = 0.02) -> nn.Module:
    """Weights of all convolutions N(0, std), biases 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
            nn.init.zeros_(layer.bias)
    return net.to(memory_format=torch.channels_last)


class ImagePool:
    """Up to `size` earlier fakes of a domain; what it gives back for a new one may be an old one (section 4).

    Chance decides on the device, so that the host knows nothing of it and every exchange is the same operations.
    """

    def __init__(self, size: int, name: str):
        self.size, self.name, self.kept, self.count = size, name, None, None

    def exchange(self, fakes: Tensor, draw: Draw) -> Tensor:
        """Detached fakes (N,C,H,W) in, as many out: with even odds each is kept and an old one comes in its place.

        As long as there is room each is kept and comes out as well.
        """
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
        """Begin with these (n,C,H,W), as many of them as there is room for."""
        kept = kept[: self.size]
        self.count = torch.full((), len(kept), device=kept.device)
        self.kept = torch.cat((kept, kept.new_zeros(self.size - len(kept), *kept.shape[1:])))

    def state(self) -> Tensor | None:
        """What it keeps (n,C,H,W), if anything."""
        return None if self.kept is None else self.kept[: int(self.count)].clone()


def mse(logits: Tensor, target: float) -> Tensor:
    """The mean of (logits - target)^2 over all elements."""
    return (logits - target).square().mean()


# ------------------------------------------------------------------------------------------- method


class CycleGAN(Trainer):
    """CycleGAN: two generators, two patch discriminators, cycles, a pool of old fakes."""

    options = (
        Option("model", "n_res", natural, 9, "residual blocks of a generator; 6 in the paper at 128 pixels"),
        Option("loss", "lambda_A", weight, 10.0, "weight of the cycle A -> B -> A"),
        Option("loss", "lambda_B", weight, 10.0, "weight of the cycle B -> A -> B"),
        Option("loss", "lambda_identity", weight, 0.5, "identity terms, as a share of the cycles' weights; 0: none"),
        Option("loss", "pool_size", natural, 50, "old fakes that the discriminators see, of each domain; 0: none"),
        *SCHEDULE,
    )
    defaults = {"lr": 2e-4, "iteration": 266_800}  # horse2zebra: 200 epochs of 1334 pictures
    inference_networks = {("A", "B"): ("G_A",), ("B", "A"): ("G_B",)}
    resample = "bicubic"
    first, inner = "model.1.weight", "conv_block.1.weight"  # of a generator, where its first and a block's layer lie

    def build(self, a) -> dict[str, nn.Module]:
        self.G = {d: initialise(Generator(a.img_ch, a.ch, a.n_res)) for d in "BA"}  # G[d] draws into d
        self.D = {d: initialise(Discriminator(a.img_ch, a.ch)) for d in "BA"}  # D[d] judges d
        self.pools = {d: ImagePool(self.args.pool_size, f"pool_{d}") for d in "AB"}
        return {"G_A": self.G["B"], "G_B": self.G["A"], "D_A": self.D["B"], "D_B": self.D["A"]}

    def trained(self):
        kinds = (("G", self.G), ("D", self.D))
        return {name: [p for net in nets.values() for p in net.parameters()] for name, nets in kinds}

    @property
    def betas(self):
        return self.args.beta1, 0.999

    @property
    def load_side(self) -> int:
        return round(self.args.img_size * 286 / 256)

    def lr(self, step: int) -> float:
        return epoch_rate(self.args, step)

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("G", self.generator_objective, total="G"),
            Update("D", self.discriminator_objective, total="D", sample=self.exchange),
        )

    def exchange(self, x, s, t):
        """A new fake in t for one from the pool."""
        x[f"old_{t}"] = self.pools[t].exchange(x[f"fake_{t}"], self.draw)

    def generator_objective(self, x, s, t):
        """From domain s: fool the judge of t, come back (cycle), and leave what is in t as it is (identity)."""
        args, G = self.args, self.G
        lambda_s, lambda_t = (getattr(args, f"lambda_{d}") for d in (s, t))
        if args.lambda_identity > 0:  # both in one batch
            fake, same = G[t](torch.cat((x[s], x[t]))).chunk(2)
            identity = lambda_t * args.lambda_identity * F.l1_loss(same, x[t])
        else:
            fake, identity = G[t](x[s]), x[s].new_zeros(())
        x[f"fake_{t}"] = fake.detach()  # D sees them as they were before G moved
        adversarial = mse(self.D[t](fake), 1)
        cycle = lambda_s * F.l1_loss(G[s](fake), x[s])
        # G_A and idt_A are of the generator that draws B
        return adversarial + cycle + identity, {f"G_{s}": adversarial, f"cycle_{s}": cycle, f"idt_{s}": identity}

    def discriminator_objective(self, x, s, t):
        """Tell real from fake in domain t: 1 on real, 0 on fakes from the pool."""
        on_real, on_fake = self.D[t](torch.cat((x[t], x[f"old_{t}"]))).chunk(2)
        loss = (mse(on_real, 1) + mse(on_fake, 0)) / 2
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
        fake = self.G[t](x)
        return [x, fake, self.G[s](fake)]

    @classmethod
    def check(cls, args) -> str | None:
        if args.img_size < 24:
            return f"--img_size {args.img_size} is too small for the discriminators, which need 24"
        return None

    @classmethod
    def from_released(cls, found):
        """One file a network; a released file latest_net_G.pth is one generator alone, A to B."""
        networks = super().from_released(found)
        if networks is None and (alone := super().from_released({k.removesuffix("_G") + "_G_A": v for k, v in found.items()})):
            networks = alone
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
        """The weights of those that are there."""
        return [networks[name] for names in cls.inference_networks.values() for name in names if name in networks]


def epoch_rate(args, step: int, shift: int = 0, beyond: int = 1) -> float:
    """The rate of an epoch E: lr (1 - max(0, E + shift - n_epochs) / (n_epochs_decay + beyond)).

    As here, the last of CycleGAN's is not 0; the programs that grew out of it begin and end elsewhere.
    """
    if not args.decay_flag:
        return args.lr
    epochs = max(1, args.n_epochs + args.n_epochs_decay)
    epoch = epoch_at(step, args.iteration, epochs, args.steps_per_epoch)
    fallen = max(0, epoch + shift - args.n_epochs) / max(1, args.n_epochs_decay + beyond)
    return args.lr * max(0.0, 1 - fallen)
