"""DistanceGAN (Benaim, Wolf, "One-Sided Unsupervised Domain Mapping", NIPS 2017, arXiv 1706.00826).

G_A draws B from A, G_B draws A from B; D_A judges B, D_B judges A (the authors' names).  In place of a cycle: two
pictures of A are as far apart, in units of A's spread, as their translations are in units of B's.  Nothing in that asks
for the way back, so that either way may be learned alone (--sides).

    d(x, y) = |x - y|    n_A(v) = (v - mu_A) / sigma_A                    mse, | |: means over all elements

    G step: min over G_A, G_B   mse(D_A(G_A(x_A)), 1)
                                + lambda_distance_A mean over pairs i < j of a batch of
                                  |n_A(d(x_i, x_j)) - n_B(d(G_A(x_i), G_A(x_j)))|             and the same the other way
    D step: min over D_A, D_B   (mse(D_A(x_B), 1) + mse(D_A(old fake_B), 0)) / 2              and the same the other way

mu and sigma are the mean and the spread of d between batches of training pictures, taken once before training.
Self-distance (--self_distance true) compares the upper half of the pictures with their lower half instead.  The D step,
pools and whatever else is not said here are CycleGAN's, on which the authors' program is built.  That resizes training
pictures without changing their aspect and flips whole batches; here they are as for all methods.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from dataset import UnpairedStream
from layers import Conv2d, ConvTranspose2d, instance_norm
from methods import cyclegan
from methods.cyclegan import SCHEDULE, CycleGAN, ImagePool, epoch_rate, mse
from options import Option, boolean, natural, positive, weight
from training.method import DIRECTIONS
from utils import UserError

# ------------------------------------------------------------------------------------------ networks


class AffineInstanceNorm(nn.Module):
    """Instance normalisation, then times weight plus bias of each channel; without running statistics."""

    def __init__(self, C: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(C)), nn.Parameter(torch.zeros(C))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.view(-1, 1, 1), instance_norm(x), self.weight.view(-1, 1, 1))


def normed(conv: nn.Module) -> list[nn.Module]:
    """A convolution, affine instance normalisation, ReLU."""
    return [conv, AffineInstanceNorm(conv.out_channels), nn.ReLU(inplace=True)]


class ResnetBlock(nn.Module):
    """x + [conv, IN, ReLU, conv, IN](x); nothing after the sum."""

    def __init__(self, dim: int):
        super().__init__()
        again = [Conv2d(dim, dim, 3, padding=1), AffineInstanceNorm(dim)]
        self.conv_block = nn.Sequential(*normed(Conv2d(dim, dim, 3, padding=1)), *again)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_block(x).add_(x)


class Generator(nn.Module):
    """Pictures (N,3,S,S) -> (N,3,S,S) in [-1,1]; c base channels, n residual blocks.  Shapes for S = 256, c = 64.

    CycleGAN's with zeros as padding everywhere, and affine normalisation.
    """

    def __init__(self, img_ch: int = 3, c: int = 64, n: int = 9):
        super().__init__()
        self.model = nn.Sequential(
            *normed(Conv2d(img_ch, c, 7, padding=3)),  # (N,64,256,256)
            *normed(Conv2d(c, 2 * c, 3, stride=2, padding=1)),  # (N,128,128,128)
            *normed(Conv2d(2 * c, 4 * c, 3, stride=2, padding=1)),  # (N,256,64,64)
            *[ResnetBlock(4 * c) for _ in range(n)],
            *normed(ConvTranspose2d(4 * c, 2 * c, 3, stride=2, padding=1, output_padding=1)),
            *normed(ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1)),
            Conv2d(c, img_ch, 7, padding=3),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Discriminator(cyclegan.Discriminator):
    """CycleGAN's 70x70 PatchGAN with affine normalisation: pictures (N,3,S,S) -> logits (N,1,S/8-2,S/8-2)."""

    def __init__(self, img_ch: int = 3, c: int = 64):
        super().__init__(img_ch, c)
        for i in (3, 6, 9):
            self.model[i] = AffineInstanceNorm(self.model[i - 1].out_channels)


def initialise(net: nn.Module, std: float = 0.02) -> nn.Module:
    """Weights of all convolutions N(0, std), of normalisations N(1, std); biases as PyTorch makes them, and 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
        elif isinstance(layer, AffineInstanceNorm):
            nn.init.normal_(layer.weight, 1.0, std)
    return net.to(memory_format=torch.channels_last)


# ----------------------------------------------------------------------------------------- distances


def halves_apart(x: Tensor) -> Tensor:
    """d of the upper and the lower halves of pictures x (N,C,S,S), the mean over all N: ()."""
    upper, lower = x.chunk(2, 2)  # the paper speaks of left and right, the program has above and below
    return F.l1_loss(upper, lower)


def pairs_apart(x: Tensor) -> Tensor:
    """d of each pair i < j of pictures x (N,C,S,S): (N(N-1)/2,)."""
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return F.l1_loss(x[i], x[j], reduction="none").mean((1, 2, 3))


def spread(batches: Tensor, own_halves: bool) -> tuple[float, float]:
    """mu, sigma of the distances, in [-1,1], of m batches (m,N,C,S,S) uint8 of one domain.

    own_halves: of the halves of each batch, m values; else between whole batches, the k-th picture against the k-th:
    m (m - 1) / 2 values.  So sigma is about sqrt(N) smaller than between the pictures that training compares: as
    released.  NaN or 0 where there are too few to tell.
    """
    if own_halves:
        distances = torch.stack([halves_apart(x.double()) for x in batches])
    else:
        X = batches.flatten(1)
        # columns so few that float32 sums their whole numbers exactly: they stay below 2^24
        parts = (F.pdist(X[:, k : k + 2**14].float(), 1).double() for k in range(0, X.shape[1], 2**14))
        distances = sum(parts) / X.shape[1]
    distances = distances / 127.5
    return distances.mean().item(), distances.std(correction=0).item()


# ------------------------------------------------------------------------------------------- method


class DistanceGAN(CycleGAN):
    """DistanceGAN and Self-Distance GAN: two generators that keep distances, in place of cycles."""

    options = (
        Option("model", "n_res", natural, 9, "residual blocks of a generator"),
        Option("model", "sides", str, "both", "ways to learn; of one alone only its two networks exist",
               choices=("both", "AtoB", "BtoA")),
        Option("loss", "self_distance", boolean, False, "compare the halves of pictures, not pairs of pictures"),
        Option("loss", "unnormalized_distances", boolean, False, "compare distances as they are, not in units of "
               "their domain's spread"),
        Option("loss", "max_items", positive, 900, "batches of each domain that its spread is taken of, at most"),
        Option("loss", "lambda_distance_A", weight, 1.0, "weight of the distances from A to B"),
        Option("loss", "lambda_distance_B", weight, 1.0, "weight of the distances from B to A"),
        Option("loss", "use_cycle_loss", boolean, False, "come back as well, as CycleGAN has to"),
        Option("loss", "lambda_A", weight, 10.0, "weight of the cycle A -> B -> A, if there is one"),
        Option("loss", "lambda_B", weight, 10.0, "weight of the cycle B -> A -> B, if there is one"),
        Option("loss", "pool_size", natural, 50, "old fakes that the discriminators see, of each domain; 0: none"),
        *SCHEDULE,
    )  # fmt: skip
    defaults = {"lr": 2e-4, "batch_size": 2, "iteration": 133_400}  # horse2zebra: 200 epochs of 667 steps
    resample = "bilinear"
    first, inner = "model.0.weight", "conv_block.0.weight"
    statistics = {}  # expectation_A, std_A, expectation_B, std_B: mu and sigma; without them distances stay as they are

    def build(self, a) -> dict[str, nn.Module]:
        self.trained_directions = [(s, t) for s, t in DIRECTIONS if a.sides in ("both", f"{s}to{t}")]
        self.directions = [way for way in self.directions if way in self.trained_directions]
        self.G = {t: initialise(Generator(a.img_ch, a.ch, a.n_res)) for _, t in self.trained_directions}  # G[d] draws into d
        self.D = {t: initialise(Discriminator(a.img_ch, a.ch)) for _, t in self.trained_directions}  # D[d] judges d
        self.pools = {t: ImagePool(self.args.pool_size, f"pool_{t}") for _, t in self.trained_directions}
        return {f"{kind}_{s}": nets[t] for kind, nets in (("G", self.G), ("D", self.D)) for s, t in self.trained_directions}

    def lr(self, step: int) -> float:
        return epoch_rate(self.args, step, shift=-1, beyond=0)

    # ----------------------------------------------------------------------------- one training step

    def distances(self, x: Tensor, d: str) -> Tensor:
        """Those of a batch x (N,C,S,S), real or drawn, in units of domain d's spread."""
        found = halves_apart(x) if self.args.self_distance else pairs_apart(x)
        if not self.statistics:
            return found
        return (found - self.statistics[f"expectation_{d}"]) / self.statistics[f"std_{d}"]

    def generator_objective(self, x, s, t):
        """From domain s: fool the judge of t, and keep the distances."""
        args, fake = self.args, self.G[t](x[s])
        x[f"fake_{t}"] = fake.detach()  # D sees them as they were before G moved
        distance = (self.distances(x[s], s) - self.distances(fake, t)).abs().mean()
        terms = {  # G_A and distance_A are of the generator that draws B
            f"G_{s}": mse(self.D[t](fake), 1),
            f"distance_{s}": getattr(args, f"lambda_distance_{s}") * distance,
        }
        if args.use_cycle_loss:
            terms[f"cycle_{s}"] = getattr(args, f"lambda_{s}") * F.l1_loss(self.G[s](fake), x[s])
        return sum(terms.values()), terms

    # ---------------------------------------------------------------- what is known of the training set

    def measure_training_set(self, paths):
        """Take the statistics of the training pictures, seen once as training sees them; every rank the same."""
        args = self.args
        if args.unnormalized_distances or self.statistics:
            return
        turns = {d: min(len(paths[d]) // args.batch_size, args.max_items) for d in "AB"}
        stream = UnpairedStream(
            paths, args.img_size, args.batch_size, args.seed, workers=args.num_workers, channels=args.img_ch,
            load_size=self.load_side, resample=self.resample, samples=self.samples,
        )  # fmt: skip
        batches, found = {"A": [], "B": []}, {}
        with stream:
            for k in trange(max(turns.values()), desc="measuring distances", leave=False, disable=self.rank != 0):
                for d, x in next(stream).items():
                    if k < turns[d]:  # the smaller folder ends first
                        batches[d].append((x * 127.5 + 127.5).round().byte())
        for d in "AB":
            mu, sigma = spread(torch.stack(batches[d]), args.self_distance) if batches[d] else (0.0, 0.0)
            if not sigma > 0:
                raise UserError(
                    f"the {len(paths[d])} pictures in train{self.folder[d]} show no spread of distances: it takes "
                    "3 batches of unlike ones; add some, or give --unnormalized_distances true"
                )
            found |= {f"expectation_{d}": mu, f"std_{d}": sigma}
        self.statistics = found

    @property
    def _measured(self) -> list:
        """What the statistics depend on, beside the pictures."""
        names = ("self_distance", "unnormalized_distances", "img_size", "batch_size", "max_items")
        return [getattr(self.args, name) for name in names]

    def extra_state(self):
        return super().extra_state() | {"statistics": self.statistics, "measured": self._measured}

    def load_extra_state(self, state):
        super().load_extra_state(state)
        known = state["statistics"] if state.get("measured") == self._measured else {}  # survey() takes them anew
        keys = [f"{kind}_{d}" for d in "AB" for kind in ("expectation", "std")] if known else []
        self.statistics = {key: float(known[key]) for key in keys}

    # ------------------------------------------------------------------------------- pictures, files

    def visuals(self, x, s, t):
        """Input, translation, and the way back where one is learned."""
        fake = self.G[t](x)
        return [x, fake, self.G[s](fake)] if s in self.G else [x, fake]

    @classmethod
    def check(cls, args):
        if args.batch_size == 1 and not args.self_distance:
            return "--batch_size 1 has no pairs of pictures: give 2 or more, or --self_distance true"
        if args.sides != "both" and args.use_cycle_loss:
            return f"--use_cycle_loss true needs the way back: --sides {args.sides} has none"
        if args.sides != "both" and args.direction not in (None, args.sides):
            return f"--direction {args.direction} is not what --sides {args.sides} learns"
        return super().check(args)

    @classmethod
    def infer_options(cls, networks):
        sides = [f"{s}to{t}" for (s, t), (name,) in cls.inference_networks.items() if name in networks]
        return super().infer_options(networks) | {"sides": "both" if len(sides) == 2 else sides[0]}
