"""CUT (Park, Efros, Zhang, Zhu, "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020,
arXiv 2007.15651), and FastCUT, the same with other weights.

One direction: G draws B from A, D judges B.  A place of the translation must be found again among the places of
its input: a small network F projects what G's encoder makes of both pictures, and PatchNCE is the cross entropy of
telling a place z of one layer from the others (section 3):

    PatchNCE(x, y) = mean over layers and places of  -log [exp(q.k/T) / (exp(q.k/T) + sum of exp(q.k'/T))]
                     q = F(G_enc(y))_z    k = F(G_enc(x))_z, constant    k' = F(G_enc(x)) at the other places

    D step: min over D      (mse(D(x_B), 1) + mse(D(G(x_A)), 0)) / 2
    G step: min over G, F   lambda_GAN mse(D(G(x_A)), 1) + lambda_NCE PatchNCE(x_A, G(x_A))                  FastCUT
            with nce_idt    lambda_GAN mse(D(G(x_A)), 1) + lambda_NCE [PatchNCE(x_A, G(x_A))
                                                                       + PatchNCE(x_B, G(x_B))] / 2          CUT

What was recorded of the authors' program on a CPU has wrong gradients of PatchNCE, by a mistake in PyTorch (up to 2.14
at least): see AsRecorded.  Ours are right unless --norm torch asks for the recorded ones.
"""

import bisect
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dataset
from checkpoints.contents import by_name
from layers import Conv2d, InstanceNorm, ReflectionPad2d, early, reflect, smooth_double
from methods.cyclegan import SCHEDULE, ResnetBlock, epoch_rate, mse, normed
from options import Option, boolean, positive, positive_float, weight
from training.method import Update, epoch_at
from training.trainer import Trainer

LAYERS = (0, 4, 8, 12, 16)  # modules of G whose outputs are compared: 0 pixels, 4 and 8 before IN, 12 and 16 blocks

# ------------------------------------------------------------------------------------------ networks


class Down(nn.Module):
    """Half the height and width after a blur by (1,2,1)/4 along both: (N,C,H,W) -> (N,C,(H+1)//2,(W+1)//2)."""

    def __init__(self, c: int):
        super().__init__()
        self.register_buffer("filt", blur([1, 2, 1], 4, c))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(reflect(x), self.filt, stride=2, groups=x.shape[1])


class Up(nn.Module):
    """Twice the height and width, smoothed by (1,3,3,1)/4 along both: bilinear."""

    def __init__(self, c: int):
        super().__init__()
        self.register_buffer("filt", blur([1, 3, 3, 1], 4, c))

    def forward(self, x: Tensor) -> Tensor:
        return smooth_double(x, self.filt)


def blur(taps: list[float], divisor: float, c: int) -> Tensor:
    """The same filter for each of c channels (c,1,k,k)."""
    row = torch.tensor(taps, dtype=torch.get_default_dtype()) / divisor
    return torch.outer(row, row).repeat(c, 1, 1, 1)


class Generator(nn.Module):
    """Pictures (N,3,S,S) -> (N,3,S,S) in [-1,1]; c base channels, n residual blocks.  Shapes for S = 256, c = 64."""

    def __init__(self, img_ch: int = 3, c: int = 64, n: int = 9):
        super().__init__()
        self.model = nn.Sequential(
            ReflectionPad2d(3),  # 0
            *normed(Conv2d(img_ch, c, 7)),  # 1: (N,64,256,256)
            *normed(Conv2d(c, 2 * c, 3, padding=1), idle_bias=False),  # 4: (N,128,256,256)
            Down(2 * c),
            *normed(Conv2d(2 * c, 4 * c, 3, padding=1), idle_bias=False),  # 8: (N,256,128,128)
            Down(4 * c),
            *[ResnetBlock(4 * c) for _ in range(n)],  # 12: (N,256,64,64)
            Up(4 * c),
            *normed(Conv2d(4 * c, 2 * c, 3, padding=1)),  # (N,128,128,128)
            Up(2 * c),
            *normed(Conv2d(2 * c, c, 3, padding=1)),  # (N,64,256,256)
            ReflectionPad2d(3),
            Conv2d(c, img_ch, 7),
            nn.Tanh(),
        )
        self.layers = [i for i in LAYERS if i < 12 + n]
        self.widths = [{0: img_ch, 4: 2 * c}.get(i, 4 * c) for i in self.layers]  # of the compared features

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """What the compared layers make of pictures; the decoder is not computed."""
        return self.traced(x, self.layers[-1] + 1)[1]

    def traced(self, x: Tensor, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """The output of the modules up to `stop`, and what the compared layers among them made on the way."""
        found = []
        for i, module in enumerate(self.model[:stop]):
            x = module(x)
            if i in self.layers:
                found.append(x)
        return x, found


class Discriminator(nn.Module):
    """70x70 PatchGAN without strides: pictures (N,3,S,S) -> logits (N,1,30,30) for S = 256."""

    def __init__(self, img_ch: int = 3, c: int = 64):
        super().__init__()

        def leaky():
            return nn.LeakyReLU(0.2, inplace=True)

        self.model = nn.Sequential(
            Conv2d(img_ch, c, 4, padding=1),
            leaky(),
            Down(c),  # (N,64,128,128)
            *normed(Conv2d(c, 2 * c, 4, padding=1), leaky()),
            Down(2 * c),  # (N,128,64,64)
            *normed(Conv2d(2 * c, 4 * c, 4, padding=1), leaky()),
            Down(4 * c),  # (N,256,32,32)
            *normed(Conv2d(4 * c, 8 * c, 4, padding=1), leaky()),  # (N,512,31,31)
            Conv2d(8 * c, 1, 4, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Projection(nn.Module):
    """F: features (N,C,H,W) of each layer, at its places (M,) -> rows (N,M,c) of length 1.

    widths: C of each layer; c: length of a row.
    """

    def __init__(self, widths: list[int], c: int = 256):
        super().__init__()
        for j, width in enumerate(widths):
            self.add_module(f"mlp_{j}", nn.Sequential(nn.Linear(width, c), nn.ReLU(), nn.Linear(c, c)))

    def forward(self, features: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        rows = []
        for mlp, x, at in zip(self.children(), features, places, strict=True):
            v = mlp(x.permute(0, 2, 3, 1).flatten(1, 2)[:, at])  # (N,M,C) -> (N,M,c)
            rows.append(v / (v.norm(dim=2, keepdim=True) + 1e-7))
        return rows


def initialise(net: nn.Module, gain: float) -> nn.Module:
    """Weights of convolutions and linear layers Xavier normal, biases 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_normal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
    return net.to(memory_format=torch.channels_last)


class AsRecorded(nn.Module):
    """PyTorch's own instance normalisation, as in the authors' program.

    Where a CPU makes its backward for a batch of one, and the gradient comes in another layout than the input, that
    takes numbers from wrong places.  F's choice of places hands over gradients in channels_last, so in recordings made
    on a CPU the gradient of PatchNCE is wrong from the last residual block on.  GPUs are not concerned.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x).clone()  # it gives a view, and what is added to a view in place changes the layout


def as_recorded(net: nn.Module) -> nn.Module:
    """The network with that normalisation, and in PyTorch's default layout."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, InstanceNorm):
                setattr(parent, name, AsRecorded())
    return net.to(memory_format=torch.contiguous_format)


# ----------------------------------------------------------------------------------------- PatchNCE


def nce(q: Tensor, k: Tensor, temperature: float, pool: bool = False) -> Tensor:
    """Cross entropy of each row of q finding its own among those of k, both (N,M,c), k constant.

    pool: whether the rows of all N pictures are told from one another, not only those of one picture.
    """
    if pool:
        q, k = (x.flatten(0, 1)[None] for x in (q, k))
    similar = q @ k.detach().mT  # (N,M,M)
    # the authors' row has its own row of k first, and -10 where that would stand among the others
    logits = F.pad(similar, (0, 1), value=-10.0) / temperature
    own = torch.arange(q.shape[1], device=q.device).expand(len(q), -1)
    return F.cross_entropy(logits.flatten(0, 1), own.flatten())


# ------------------------------------------------------------------------------------------- method


class Samples(dataset.Samples):
    """Windows of larger pictures, and from sample number `whole_from` on pictures as a whole, of that size."""

    def __init__(self, paths, img_size, *rest, whole_from: float):
        channels, seed, load_size, resample = rest
        super().__init__(paths, img_size, *rest)
        self.whole = dataset.Samples(paths, img_size, channels, seed, img_size, resample)
        self.whole_from = whole_from

    def sample(self, domain, k):
        return self.whole.sample(domain, k) if k >= self.whole_from else super().sample(domain, k)

    def make_cache(self, copies, quiet):
        super().make_cache(2 * copies, quiet)  # both together within what is free
        self.whole.make_cache(2 * copies, quiet=True)


class CUT(Trainer):
    """CUT: one direction, contrasting places of the translation with places of the input."""

    options = (
        Option("model", "n_res", positive, 9, "residual blocks of the generator"),
        Option("model", "netF_nc", positive, 256, "length of the projected features"),
        Option("loss", "lambda_GAN", weight, 1.0, "weight of the generator's adversarial term"),
        Option("loss", "lambda_NCE", weight, 1.0, "weight of PatchNCE"),
        Option("loss", "nce_idt", boolean, True, "contrast G(x_B) with x_B too"),
        Option("loss", "nce_T", positive_float, 0.07, "temperature of PatchNCE"),
        Option("loss", "num_patches", positive, 256, "places of each layer that are told from one another"),
        Option("loss", "flip_equivariance", boolean, False, "mirror the generator's input in half of the steps"),
        *SCHEDULE,
        Option("optimisation", "init_gain", positive_float, 0.02, "gain of the initial weights"),
        Option("scale", "norm", str, "exact", "torch: PyTorch's, whose gradient is wrong on a CPU, as in recordings",
               choices=("exact", "torch")),
    )  # fmt: skip
    # horse2zebra: 400 epochs of 1334 pictures
    defaults = {"lr": 2e-4, "iteration": 533_600, "n_epochs": 200, "n_epochs_decay": 200}
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G",)}
    resample = "bicubic"

    def build(self, a) -> dict[str, nn.Module]:
        G = Generator(a.img_ch, a.ch, a.n_res)
        nets = G, Projection(G.widths, a.netF_nc), Discriminator(a.img_ch, a.ch)
        self.G, self.F, self.D = (initialise(net, self.args.init_gain) for net in nets)
        if self.args.norm == "torch":
            self.G, self.D = as_recorded(self.G), as_recorded(self.D)
        return {"G": self.G, "F": self.F, "D": self.D}

    def trained(self):
        # the authors' Adams of G and of F have the same settings: one of both does the same
        return {"D": [*self.D.parameters()], "G": [*self.G.parameters(), *self.F.parameters()]}

    @property
    def betas(self):
        return self.args.beta1, 0.999

    @property
    def load_side(self) -> int:
        return round(self.args.img_size * 286 / 256)

    @property
    def samples(self):
        """In the epochs in which the rate falls the authors crop no more."""
        a, first = self.args, math.inf
        if a.decay_flag:
            epoch = partial(epoch_at, iteration=a.iteration, epochs=max(1, a.n_epochs + a.n_epochs_decay))
            steps = range(a.iteration + 1)
            first = bisect.bisect(steps, a.n_epochs, 1, key=lambda s: epoch(s, steps_per_epoch=a.steps_per_epoch))
        return partial(Samples, whole_from=(first - 1) * a.batch_size * a.grad_accum * self.world)

    def lr(self, step: int) -> float:
        return epoch_rate(self.args, step)

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("D", self.discriminator_objective, total="D"),
            Update("G", self.generator_objective, total="G", sample=self.choose_places),
        )

    def host_decision(self) -> bool:
        """Whether what G sees is mirrored in this step."""
        return self.args.flip_equivariance and self.draw.decision("forward/flip") < 0.5

    def forward(self, x, s, t):
        """Once for both halves: the fake, with nce_idt what G makes of B, and the features k of their inputs."""
        if self.args.norm == "torch":
            x |= {d: x[d].contiguous() for d in (s, t)}
        real = torch.cat((x[s], x[t])) if self.args.nce_idt else x[s]
        drawn, features = self.G.traced(real.flip(3) if self.decision else real)
        if self.decision:  # k is never of mirrored pictures, and G does not commute with mirroring
            with torch.no_grad():
                features = self.G.features(real)
        n = len(x[s])
        x["drawn"] = drawn.split(n)  # from A, with nce_idt from B too
        x["keys"] = list(zip(*(k.detach().split(n) for k in features), strict=True))

    def discriminator_objective(self, x, s, t):
        """Tell real from fake: 1 on real, 0 on fakes."""
        on_real, on_fake = self.D(torch.cat((x[t], x["drawn"][0].detach()))).chunk(2)
        real, fake = mse(on_real, 1), mse(on_fake, 0)
        return (fake + real) / 2, {"D_real": real, "D_fake": fake}

    def choose_places(self, x, s, t):
        """Of each picture and each layer, those where keys are looked at, and where queries are."""
        names = (f"G/patches_{d}" for d in "AB"[: len(x["keys"])])
        x["places"] = [self.places(k, name, self.decision) for k, name in zip(x["keys"], names, strict=True)]

    def places(self, of_x: list[Tensor], name: str, mirrored: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Random places of x's features (N,C,H,W), and the same ones in y; mirrored: whether y is."""
        sides = [k.shape[2:] for k in of_x]
        there = [self.draw.permutation(f"{name}_{j}", h * w)[: self.args.num_patches] for j, (h, w) in enumerate(sides)]
        # from the right; tensors of their own in any case: the compiler would tell one place from two
        here = [at + mirrored * (w - 1 - 2 * (at % w)) for at, (_, w) in zip(there, sides, strict=True)]
        return there, here

    def generator_objective(self, x, s, t):
        """Fool D, and keep what is at every place: of the translation (NCE), and of what is in t already (NCE_Y)."""
        args = self.args
        adversarial = args.lambda_GAN * mse(self.D(x["drawn"][0]), 1)
        contrasts = {}
        names = ("NCE", "NCE_Y")[: len(x["drawn"])]
        for name, *pair in zip(names, x["drawn"], x["keys"], x["places"], strict=True):
            contrasts[name] = args.lambda_NCE * self.patch_nce(*pair)
        loss = adversarial + sum(contrasts.values()) / len(contrasts)
        return loss, {"G_GAN": adversarial, **contrasts}

    def patch_nce(self, y: Tensor, of_x: list[Tensor], places: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """PatchNCE(x, y); of_x: features (N,C,H,W) of x; places: of each layer, in x, and in y."""
        there, here = places
        with torch.no_grad():
            keys = self.F(of_x, there)

        def contrast(y):
            queries = self.F(self.G.features(y), here)
            losses = [nce(q, k, self.args.nce_T) for q, k in zip(queries, keys, strict=True)]
            return sum(losses) / len(losses)

        return early(contrast, y, [*self.G.parameters(), *self.F.parameters()])

    # -------------------------------------------------------------------- pictures, options, checkpoints

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G(x)

    @classmethod
    def check(cls, args) -> str | None:
        if args.img_size < 24:
            return f"--img_size {args.img_size} is too small for the discriminator, which needs 24"
        return None

    @classmethod
    def from_released(cls, found):
        """One file a network; G alone translates."""
        networks = by_name(found, {"G", "F", "D"})
        return networks if networks and "model.7.filt" in networks.get("G", {}) else None

    @classmethod
    def infer_options(cls, networks):
        G = networks["G"]
        blocks = sum(key.endswith("conv_block.1.weight") for key in G)
        found = {"ch": G["model.1.weight"].shape[0], "img_ch": G["model.1.weight"].shape[1], "n_res": blocks}
        if "F" in networks:
            found["netF_nc"] = networks["F"]["mlp_0.0.weight"].shape[0]
        return found

    def summary_modules(self):
        picture = torch.empty(1, self.args.img_ch, self.args.img_size, self.args.img_size, device=self.device)
        features = self.G.features(picture)
        counts = [min(self.args.num_patches, x[0, 0].numel()) for x in features]
        places = [torch.zeros(n, dtype=torch.long, device=self.device) for n in counts]
        return [
            ("generators", ["G"], self.G, self.G, picture),
            ("discriminators", ["D"], self.D, self.D, picture),
            ("projections", ["F"], self.F, lambda *f: self.F(f, places), tuple(features)),
        ]


class FastCUT(CUT):
    """FastCUT: CUT without the identity's contrast, which a larger weight of the other makes up for."""

    defaults = {**CUT.defaults, "lambda_NCE": 10.0, "nce_idt": False, "flip_equivariance": True}
    defaults |= {"iteration": 266_800, "n_epochs": 150, "n_epochs_decay": 50}
