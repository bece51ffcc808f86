"""DistanceGAN (Benaim, Wolf, "One-Sided Unsupervised Domain Mapping", NIPS 2017, arXiv 1706.00826).

G_A translates A to B, G_B translates B to A; D_A judges B, D_B judges A (the authors' names).  Distances replace the
cycle: the distance of two pictures of A, normalised by A's mean and std of distances, equals the distance of their
translations, normalised by B's.  This needs no way back, so that either direction may be trained alone (--sides).

    d(x, y) = |x - y|    n_A(v) = (v - mu_A) / sigma_A                    lsgan, | |: means over all elements

    G step: min over G_A, G_B   lsgan(D_A(G_A(x_A)), 1)
                                + lambda_distance_A mean over pairs i < j of a batch of
                                  |n_A(d(x_i, x_j)) - n_B(d(G_A(x_i), G_A(x_j)))|           and with A and B swapped
    D step: min over D_A, D_B   (lsgan(D_A(x_B), 1) + lsgan(D_A(old fake_B), 0)) / 2        and with A and B swapped

mu and sigma are the mean and std of d between batches of training pictures, measured once before training.
Self-distance (--self_distance true) compares the upper half of each picture with its lower half instead.  Everything
not mentioned here is CycleGAN's, on which the authors' program is built.  As there, training pictures keep their
proportions.  Unlike there, each picture is mirrored by a coin of its own, not a step's two batches together; and the
test translates every whole picture, not random crops of the first 50.  The file holds the networks, the distances with
their statistics, and the method.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from dataset import UnpairedStream
from layers import Conv2d, ConvTranspose2d, instance_norm
from methods import cyclegan
from methods.cyclegan import CycleGAN, ImagePool, epoch_lr, lsgan
from options import of_method
from training.method import DIRECTIONS
from utils import UserError

# ------------------------------------------------------------------------------------------ networks


class AffineInstanceNorm(nn.Module):
    """Instance normalisation with a weight and a bias per channel; no running statistics."""

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
        second = [Conv2d(dim, dim, 3, padding=1), AffineInstanceNorm(dim)]
        self.conv_block = nn.Sequential(*normed(Conv2d(dim, dim, 3, padding=1)), *second)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_block(x).add_(x)


class Generator(cyclegan.Chain):
    """Pictures (N,3,S,S) -> (N,3,S,S) in [-1,1]; c base channels, n residual blocks.  Shapes for S = 256, c = 64.

    CycleGAN's with zero padding everywhere, and affine normalisation.
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


class Discriminator(cyclegan.Discriminator):
    """CycleGAN's 70x70 PatchGAN with affine normalisation: pictures (N,3,S,S) -> logits (N,1,S/8-2,S/8-2)."""

    def __init__(self, img_ch: int = 3, c: int = 64):
        super().__init__(img_ch, c)
        for i in (3, 6, 9):
            self.model[i] = AffineInstanceNorm(self.model[i - 1].out_channels)


def initialise(net: nn.Module, std: float = 0.02) -> nn.Module:
    """Weights of convolutions N(0, std), of normalisations N(1, std); biases by PyTorch's default, and 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
        elif isinstance(layer, AffineInstanceNorm):
            nn.init.normal_(layer.weight, 1.0, std)
    return net.to(memory_format=torch.channels_last)


# ----------------------------------------------------------------------------------------- distances


def self_distance(x: Tensor) -> Tensor:
    """d between the upper and the lower halves of pictures x (N,C,S,S), averaged over all N: ()."""
    upper, lower = x.chunk(2, 2)  # the paper says left and right, its program compares above and below
    return F.l1_loss(upper, lower)


def pair_distances(x: Tensor) -> Tensor:
    """d of each pair i < j of pictures x (N,C,S,S): (N(N-1)/2,)."""
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return F.l1_loss(x[i], x[j], reduction="none").mean((1, 2, 3))


def distance_statistics(batches: Tensor, of_halves: bool) -> tuple[float, float]:
    """mu, sigma of the distances, for values in [-1,1], of m batches (m,N,C,S,S) uint8 of one domain.

    of_halves: self-distances of the batches, m values; else distances between batches, each picture against the
    picture of the same index: m (m - 1) / 2 values.  The latter's sigma is about sqrt(N) smaller than between the
    single pictures that training compares, as in the released program.  NaN or 0 for too few batches.
    """
    if of_halves:
        distances = torch.stack([self_distance(x.double()) for x in batches])
    else:
        X = batches.flatten(1)
        # chunks of columns, so that float32 sums their integers exactly: the sums stay below 2^24
        chunks = (F.pdist(X[:, k : k + 2**14].float(), 1).double() for k in range(0, X.shape[1], 2**14))
        distances = sum(chunks) / X.shape[1]
    distances = distances / 127.5
    return distances.mean().item(), distances.std(correction=0).item()


# ------------------------------------------------------------------------------------------- method


class DistanceGAN(CycleGAN):
    """DistanceGAN and Self-Distance GAN: generators that preserve distances, instead of cycle consistency."""

    options, defaults = of_method("distancegan")
    resample = "bilinear"
    first, inner = "model.0.weight", "conv_block.0.weight"
    statistics = {}  # expectation_A, std_A, expectation_B, std_B: mu and sigma; empty: no normalisation

    def build(self, a) -> dict[str, nn.Module]:
        self.trained_directions = [(s, t) for s, t in DIRECTIONS if a.sides in ("both", f"{s}to{t}")]
        self.directions = [way for way in self.directions if way in self.trained_directions]
        targets = [t for _, t in self.trained_directions]
        self.G = {t: initialise(Generator(a.img_ch, a.ch, a.n_res)) for t in targets}  # G[d] generates domain d
        self.D = {t: initialise(Discriminator(a.img_ch, a.ch)) for t in targets}  # D[d] judges d
        self.pools = {t: ImagePool(self.args.pool_size, f"pool_{t}") for t in targets}
        networks = {f"G_{s}": self.G[t] for s, t in self.trained_directions}
        return networks | {f"D_{s}": self.D[t] for s, t in self.trained_directions}

    def lr(self, step: int) -> float:
        return epoch_lr(self.args, step, shift=-1, beyond=0)

    # ----------------------------------------------------------------------------- one training step

    def distances(self, x: Tensor, d: str) -> Tensor:
        """The distances within a batch x (N,C,S,S), real or fake, normalised by the statistics of domain d."""
        found = self_distance(x) if self.args.self_distance else pair_distances(x)
        if not self.statistics:
            return found
        return (found - self.statistics[f"expectation_{d}"]) / self.statistics[f"std_{d}"]

    def generator_objective(self, batch, s, t):
        """From domain s: fool the discriminator of t, and preserve distances."""
        args, fake = self.args, self.G[t](batch[s])
        batch[f"fake_{t}"] = fake.detach()  # the D step sees the fakes from before G's update
        distance = (self.distances(batch[s], s) - self.distances(fake, t)).abs().mean()
        terms = {  # G_A and distance_A belong to the generator from A to B
            f"G_{s}": lsgan(self.D[t](fake), 1),
            f"distance_{s}": getattr(args, f"lambda_distance_{s}") * distance,
        }
        if args.use_cycle_loss:
            terms[f"cycle_{s}"] = getattr(args, f"lambda_{s}") * F.l1_loss(self.G[s](fake), batch[s])
        return sum(terms.values()), terms

    @classmethod
    def term_weights(cls, args):
        distances = {f"distance_{d}": getattr(args, f"lambda_distance_{d}") for d in "AB"}
        return distances | {"cycle_A": args.lambda_A, "cycle_B": args.lambda_B}

    # ------------------------------------------------------------------ statistics of the training set

    def measure_training_set(self, paths):
        """Measure mu and sigma on at most one epoch of training samples; every rank finds the same."""
        args = self.args
        if args.unnormalized_distances or self.statistics:
            return
        counts = {d: min(len(paths[d]) // args.batch_size, args.max_items) for d in "AB"}
        stream = UnpairedStream(
            paths, args.img_size, args.batch_size, args.seed, workers=args.num_workers, **self.picture_options()
        )
        batches, found = {"A": [], "B": []}, {}
        with stream:
            for k in trange(max(counts.values()), desc="measuring distances", leave=False, disable=self.rank != 0):
                for d, x in next(stream).items():
                    if k < counts[d]:
                        batches[d].append((x * 127.5 + 127.5).round().byte())
        for d in "AB":
            mu, sigma = 0.0, 0.0
            if batches[d]:
                mu, sigma = distance_statistics(torch.stack(batches[d]), args.self_distance)
            if not sigma > 0:
                raise UserError(
                    f"the {len(paths[d])} pictures in train{self.folder[d]} give no std of distances: it takes 3 "
                    "batches of different pictures; add some, or give --unnormalized_distances true"
                )
            found |= {f"expectation_{d}": mu, f"std_{d}": sigma}
        self.statistics = found

    @property
    def _measured(self) -> list:
        """The options that the statistics depend on."""
        names = ("self_distance", "unnormalized_distances", "img_size", "batch_size", "max_items")
        names += ("preprocess", "load_size", "flip")
        return [getattr(self.args, name) for name in names]

    def extra_state(self):
        return super().extra_state() | {"statistics": self.statistics, "measured": self._measured}

    def load_extra_state(self, state):
        super().load_extra_state(state)
        known = state["statistics"] if state.get("measured") == self._measured else {}  # then they are measured again
        keys = [f"{kind}_{d}" for d in "AB" for kind in ("expectation", "std")] if known else []
        self.statistics = {key: float(known[key]) for key in keys}

    # ------------------------------------------------------------------------------- pictures, files

    def visuals(self, x, s, t):
        """Input, translation, and cycle where the other direction is trained."""
        fake = self.G[t](x)
        return [x, fake, self.G[s](fake)] if s in self.G else [x, fake]

    @classmethod
    def check(cls, args):
        if args.batch_size == 1 and not args.self_distance:
            return "--batch_size 1 has no pairs of pictures: give 2 or more, or --self_distance true"
        if args.sides != "both" and args.use_cycle_loss:
            return f"--use_cycle_loss true needs both directions, and --sides {args.sides} trains one"
        if args.sides != "both" and args.direction not in (None, args.sides):
            return f"--direction {args.direction} is not what --sides {args.sides} trains"
        return super().check(args)

    @classmethod
    def infer_options(cls, networks):
        sides = [f"{s}to{t}" for (s, t), (name,) in cls.inference_networks.items() if name in networks]
        return super().infer_options(networks) | {"sides": "both" if len(sides) == 2 else sides[0]}
