"""SinCUT: translation between two single pictures (Park, Efros, Zhang, Zhu, "Contrastive Learning for Unpaired
Image-to-Image Translation", ECCV 2020, arXiv 2007.15651, Fig. 9 and the appendix).

One large picture a domain; what is learned from are N crops x of A and y of B, at random zooms.  G draws B from A, D
judges B, and F projects what G's encoder E sees, so that a place of the translation can be told from the same place of
all other crops by looking at the input (PatchNCE):

    fake_B = G(x),  idt_B = G(y)
    D step: min over D     (mean softplus(D(fake_B)) + mean softplus(-D(y))) / 2
                           + lambda_R1 / 2 mean |dD(y) / dy|^2            (R1, Mescheder et al. 2018)
    G step: min over G, F  lambda_GAN mean softplus(-D(fake_B)) + (NCE(x, fake_B) + NCE(y, idt_B)) / 2
                           + lambda_identity |idt_B - y|

    NCE(x, z) = lambda_NCE mean over layers of E and rows i of  -log softmax_j(q_i . k_j / nce_T)_i
                           q = F(E(z)), k = F(E(x)), the latter a constant
"""

import itertools
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from checkpoints.contents import by_name
from dataset import Samples
from images.decode import read_image, resize, to_tensor
from methods.cyclegan import SCHEDULE, epoch_rate
from methods.stylegan2 import Discriminator, Generator, widths_of_D, widths_of_G
from options import Option, bounded, positive, positive_float, weight
from training.method import Update
from training.trainer import Trainer
from utils import UserError, shown

LAYERS = (0, 2, 4)  # of the encoder, where PatchNCE compares; 0 is the picture itself
SIZES = (64, 128, 256)  # of crops: D halves them down to 4
TILE = 768  # pixels of the largest side that is translated at once
FIRST = "encoder.convs.1.0.weight"  # of the generator

# ------------------------------------------------------------------------------------------ contrast


class Projection(nn.Module):
    """Features (N,C,H,W) of each layer, at its places (P,) -> rows (N*P,c) of length 1, picture by picture."""

    def __init__(self, channels: list[int], c: int, gain: float):
        super().__init__()
        for j, width in enumerate(channels):
            mlp = nn.Sequential(nn.Linear(width, c), nn.ReLU(), nn.Linear(c, c))
            for linear in (mlp[0], mlp[2]):
                nn.init.xavier_normal_(linear.weight, gain)
                nn.init.zeros_(linear.bias)
            self.add_module(f"mlp_{j}", mlp)

    def forward(self, features: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        rows = []
        for mlp, x, at in zip(self.children(), features, places, strict=True):
            v = x[:, :, at // x.shape[3], at % x.shape[3]]  # (N,C,P)
            v = mlp(v.transpose(1, 2).flatten(0, 1))
            rows.append(v / (v.norm(dim=1, keepdim=True) + 1e-7))
        return rows


def patch_nce(q: Tensor, k: Tensor, T: float) -> Tensor:
    """Cross entropy of rows q (M,C) finding their own among rows k (M,C).

    The authors' program has one more logit a row, of -10 / T: at most e^-128 of the sum, which is nothing.
    """
    return F.cross_entropy(q @ k.T / T, torch.arange(len(q), device=q.device))


# --------------------------------------------------------------------------------------------- crops


def zoomed_size(picture: Image.Image, side: int, zoom) -> list[int]:
    """Width and height of a picture resized by factors (x,y), which hold at least one crop."""
    return [round(max(side, full * z)) for full, z in zip(picture.size, zoom, strict=True)]


def crop_at(picture: Image.Image, side: int, zoom, patch: int, start, mirror: bool) -> np.ndarray:
    """Crop number `patch` of a picture resized by zoom (x,y): (side,side,C) uint8.

    The crops are a grid that begins at start (x,y), numbered down its columns, and over again beyond its last.
    """
    w, h = zoomed_size(picture, side, zoom)
    column, row = divmod(patch % ((w // side) * (h // side)), h // side)
    left, top = start[0] + side * column, start[1] + side * row
    # resized is what the crop shows alone: a fiftieth of the time, and at most a level off what all of it would give
    x, y = picture.width / w, picture.height / h
    box = (left * x, top * y, min((left + side) * x, picture.width), min((top + side) * y, picture.height))
    crop = np.array(picture.resize((side, side), Image.Resampling.BILINEAR, box)).reshape(side, side, -1)
    return crop[:, ::-1] if mirror else crop


class Crops(Samples):
    """Crops of one picture a domain, EPOCH of them: zoom and number of each are for good, place and mirroring new.

    `batch` neighbours have one zoom; the shuffling of an epoch parts them again, as in the authors' program.
    """

    EPOCH = 100_000

    def __init__(self, *args, batch: int, most: float):
        super().__init__(*args)
        self.batch, self.pictures, self.zooms, self.patches = batch, {}, {}, {}
        for d, (path,) in self.paths.items():
            picture = read_image(path)
            self.pictures[d] = picture.convert("L") if self.channels == 1 else picture
            rng = np.random.default_rng((self.seed, ord(d), 2))
            self.zooms[d] = rng.uniform(1 / most, 1, (-(-self.EPOCH // batch), 2))
            self.patches[d] = rng.permutation(self.EPOCH)

    def count(self, domain):
        return self.EPOCH

    def view(self, domain, index, rng):
        picture, zoom = self.pictures[domain], self.zooms[domain][index // self.batch]
        side, number = self.img_size, self.patches[domain][index]
        start = rng.integers(0, [full % side for full in zoomed_size(picture, side, zoom)], endpoint=True)
        return crop_at(picture, side, zoom, number, start, rng.random() < 0.5)

    def make_cache(self, copies, quiet):
        """Both pictures are in memory anyway."""


# ------------------------------------------------------------------------------------------- method


def unwrapped(weights: dict) -> dict:
    """A state dict saved from a DataParallel, or not, without what that puts before the names."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def spans(side: int, halo: int, tile: int) -> list[tuple[slice, slice, slice]]:
    """A side in parts of about a tile, with even borders: what to read, halos included; the part; the part in that."""
    parts = min(-(-side // tile), side // 2)
    borders = [2 * (side * i // (2 * parts)) for i in range(parts + 1)]
    found = []
    for a, b in itertools.pairwise(borders):
        first, last = max(0, a - halo), min(side, b + halo)
        found.append((slice(first, last), slice(a, b), slice(a - first, b - first)))
    return found


class SinCUT(Trainer):
    """SinCUT: contrastive translation between two single pictures."""

    options = (
        Option("model", "netG", str, "stylegan2", "smallstylegan2: 2 residual blocks for 6, and no noise",
               choices=("stylegan2", "smallstylegan2")),
        Option("model", "ndf", positive, 8, "base channels of the discriminator"),
        Option("model", "netF_nc", positive, 256, "channels of the projected features"),
        Option("data", "random_scale_max", bounded(float, 1), 3.0, "crops are of 1/this to all of the picture's size"),
        Option("loss", "lambda_GAN", weight, 1.0, "weight of the generator's adversarial term"),
        Option("loss", "lambda_NCE", weight, 4.0, "weight of PatchNCE"),
        Option("loss", "lambda_identity", weight, 1.0, "weight of leaving what is in B as it is"),
        Option("loss", "lambda_R1", weight, 1.0, "weight of the discriminator's gradient penalty"),
        Option("loss", "nce_T", positive_float, 0.07, "temperature of PatchNCE"),
        Option("loss", "num_patches", positive, 1, "places of each crop compared with one another and other crops'"),
        *SCHEDULE,
        Option("optimisation", "init_gain", positive_float, 0.02, "gain of the projection's initial weights"),
    )  # fmt: skip
    defaults = {"img_size": 64, "ch": 10, "batch_size": 16, "lr": 2e-3, "beta1": 0.0}
    defaults |= {"n_epochs": 8, "n_epochs_decay": 8}  # of 100,000 crops
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G",)}
    min_size = 4
    size_bound = True  # the widths depend on it
    tiles_itself = True
    test_split = "train"

    def build(self, a) -> dict[str, nn.Module]:
        blocks = 3 if a.netG == "stylegan2" else 1
        first, second = widths_of_G(a.ch, a.img_size)
        self.G = Generator(a.img_ch, first, second, blocks)
        self.D = Discriminator(a.img_ch, widths_of_D(a.ndf, a.img_size))
        channels = [a.img_ch, first, second, *[second] * blocks]
        self.layers = [layer for layer in LAYERS if layer < len(channels)]
        self.F = Projection([channels[layer] for layer in self.layers], a.netF_nc, self.args.init_gain)
        self.noisy = a.netG == "stylegan2"
        return {"G": self.G, "F": self.F, "D": self.D}

    def trained(self):
        return {"D": [*self.D.parameters()], "G": [*self.G.parameters(), *self.F.parameters()]}

    @property
    def betas(self):
        return self.args.beta1, 0.99

    def lr(self, step: int) -> float:
        return epoch_rate(self.args, step)

    # ----------------------------------------------------------------------------- one training step

    def forward(self, batch, s, t):
        """Fakes and the identity by one pass, for both halves; PatchNCE's keys are what the encoder saw in it."""
        features = self.G.encoder.features(torch.cat((batch[s], batch[t])))
        n, _, h, w = features[0].shape
        noise = self.draw.normal("forward/noise_0", n, 1, h, w) if self.noisy else None
        batch["fake"], batch["idt"] = self.G.decoder(features[-1], noise).chunk(2)
        batch["keys"] = self.parted(features)

    def parted(self, features: list[Tensor]) -> list[list[Tensor]]:
        """Of the layers that PatchNCE compares: the features of the batch's first half, and of its second."""
        return [list(part) for part in zip(*(features[layer].chunk(2) for layer in self.layers), strict=True)]

    def updates(self):
        return Update("D", self.discriminator_objective, total="D"), Update("G", self.generator_objective, total="G")

    def discriminator_objective(self, batch, s, t):
        """Tell crops of t from fakes, with a slope that is small at the former (R1)."""
        on_fake = self.D(batch["fake"].detach())
        y = batch[t].detach().requires_grad_()
        on_real = self.D(y)
        (slope,) = torch.autograd.grad(on_real.sum(), y, create_graph=True)
        real, fake = F.softplus(-on_real).mean(), F.softplus(on_fake).mean()
        R1 = self.args.lambda_R1 / 2 * slope.square().sum((1, 2, 3)).mean()
        return (fake + real) / 2 + R1, {"D_real": real, "D_fake": fake, "D_R1": R1}

    def generator_objective(self, batch, s, t):
        """Fool D; find every place of the translation in the input again; leave what is in t as it is."""
        args, fake, idt = self.args, batch["fake"], batch["idt"]
        adversarial = args.lambda_GAN * F.softplus(-self.D(fake)).mean()
        of_fake, of_idt = self.parted(self.G.encoder.features(torch.cat((fake, idt)), self.layers[-1]))
        of_x, of_y = batch["keys"]
        nce, nce_idt = self.contrast(of_fake, of_x, "G/patches"), self.contrast(of_idt, of_y, "G/patches_idt")
        identity = args.lambda_identity * F.l1_loss(idt, batch[t])
        terms = {"G_GAN": adversarial, "NCE": nce, "NCE_Y": nce_idt, "idt": identity}
        return adversarial + (nce + nce_idt) / 2 + identity, terms

    def contrast(self, queries: list[Tensor], keys: list[Tensor], name: str) -> Tensor:
        """PatchNCE of features (N,C,H,W) of each layer at random places, which of all N crops are one pool."""
        sizes = {layer: q[0, 0].numel() for layer, q in zip(self.layers, queries, strict=True)}
        places = [self.draw.permutation(f"{name}_{L}", n)[: self.args.num_patches] for L, n in sizes.items()]
        with torch.no_grad():
            keys = self.F(keys, places)
        losses = [patch_nce(q, k, self.args.nce_T) for q, k in zip(self.F(queries, places), keys, strict=True)]
        return self.args.lambda_NCE * sum(losses) / len(losses)

    # -------------------------------------------------------------------------------------- pictures

    @property
    def samples(self):
        return partial(Crops, batch=self.args.batch_size, most=self.args.random_scale_max)

    @property
    def load_side(self) -> int:
        return self.args.img_size  # of no use here

    def check_images(self, pictures):
        for paths in pictures.values():
            if len(paths) > 1:
                found = f"{shown(paths[0].parent)} holds {len(paths)} pictures"
                raise UserError(f"{found}; sincut learns from a single one: leave just that")

    def to_input(self, picture, size):
        """The whole picture; its sides become the nearest multiples of 4 (as in the authors' program)."""
        picture = picture.resize([max(4, 4 * round(side / 4)) for side in picture.size], Image.Resampling.BILINEAR)
        return to_tensor(resize(picture, None, self.architecture["img_ch"]))

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        """In tiles, where x is large, with a halo as wide as G sees: the same numbers in less memory."""
        n, _, h, w = x.shape
        noise = torch.randn(n, 1, h, w).to(x.device) if self.noisy else None
        fake, halo = torch.empty_like(x), 8 * (len(self.G.decoder.convs) - 1)
        tile = {None: TILE, 0: max(h, w)}.get(self.args.tile, self.args.tile)
        for (top, y, own_y), (left, x_, own_x) in itertools.product(spans(h, halo, tile), spans(w, halo, tile)):
            drawn = self.G(x[..., top, left], noise[..., top, left] if self.noisy else None)
            fake[..., y, x_] = drawn[..., own_y, own_x]
        return fake

    def export_function(self, s, t):
        noise = torch.randn(1, 1, self.args.img_size, self.args.img_size)
        inputs = {"noise": (noise, "numbers of N(0,1), one a pixel, (N,1,H,W)")} if self.noisy else {}
        return self.G, inputs

    # -------------------------------------------------------------------------- options, checkpoints

    @classmethod
    def check(cls, args) -> str | None:
        if args.img_size not in SIZES:
            return f"--img_size {args.img_size} is no size of sincut's crops, which are of 64, 128 or 256 pixels"
        if args.compile:
            return "--compile true cannot be: what is compiled is differentiated once, and R1 does it twice"
        return None

    @classmethod
    def from_released(cls, found):
        """One file a network; the generator alone translates."""
        networks = by_name(found, {"G", "F", "D"})
        return networks if networks and FIRST in unwrapped(networks.get("G", {})) else None

    @classmethod
    def infer_options(cls, networks):
        G, F_, D = (unwrapped(networks.get(name, {})) for name in "GFD")
        first, img_ch = G[FIRST].shape[:2]
        second = G["encoder.convs.2.skip.1.weight"].shape[0]
        found = {"img_ch": img_ch, "netG": "stylegan2" if "decoder.convs.4.0.weight" in G else "smallstylegan2"}
        if D:
            found["img_size"] = size = 4 << sum(key.endswith("skip.1.weight") for key in D)
            found["ndf"] = D["convs.0.0.weight"].shape[0] * size // 256
        # without D, crops of any size that gives these widths will do
        for size in [found["img_size"]] if D else SIZES[::-1]:
            if widths_of_G(ch := first * size // 512, size) == [first, second]:
                found |= {"img_size": size, "ch": ch}
        if F_:
            found["netF_nc"] = F_["mlp_0.0.weight"].shape[0]
        return found

    def summary_modules(self):
        x = torch.empty(1, self.args.img_ch, self.args.img_size, self.args.img_size, device=self.device)
        features = self.G.encoder.features(x)
        places = [torch.zeros(self.args.num_patches, dtype=torch.long, device=self.device)] * len(self.layers)
        return [
            ("generator", ["G"], self.G, self.G, x),
            ("discriminator", ["D"], self.D, self.D, x),
            ("projection", ["F"], self.F, lambda *f: self.F(f, places), tuple(features[i] for i in self.layers)),
        ]
