"""SinCUT: translation between two single pictures (Park, Efros, Zhang, Zhu, "Contrastive Learning for Unpaired
Image-to-Image Translation", ECCV 2020, arXiv 2007.15651, Fig. 9 and the appendix).

One large picture per domain; training uses N crops x of A and y of B, at random zooms.  G translates A to B, D judges
B, and F projects the features of G's encoder E.  PatchNCE asks that a patch of the translation can be told from the
patches of all crops, given the input:

    fake_B = G(x),  idt_B = G(y)
    D step: min over D     (mean softplus(D(fake_B)) + mean softplus(-D(y))) / 2
                           + lambda_R1 / 2 mean |dD(y) / dy|^2            (R1, Mescheder et al. 2018)
    G step: min over G, F  lambda_GAN mean softplus(-D(fake_B)) + (NCE(x, fake_B) + NCE(y, idt_B)) / 2
                           + lambda_identity |idt_B - y|

    NCE(x, z) = lambda_NCE mean over layers of E and patches i of  -log softmax_j(q_i . k_j / nce_T)_i
                           q = F(E(z)), k = F(E(x)), k detached

The file holds F, PatchNCE, the crops and the method; the networks are in stylegan2.py.
"""

import itertools
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from checkpoints.contents import by_name, lone_network
from dataset import Samples
from images.decode import read_image, resize, to_tensor
from methods.cyclegan import EpochSchedule
from methods.stylegan2 import Discriminator, Generator, widths_of_D, widths_of_G
from options import of_method
from training.method import Update
from utils import UserError, shown

LAYERS = (0, 2, 4)  # layers of the encoder that PatchNCE compares; 0 is the picture itself
SIZES = (64, 128, 256)  # of crops: D down-samples them to 4
TILE = 768  # pixels; larger sides are translated in tiles of about this side
FIRST = "encoder.convs.1.0.weight"  # a key of the generator

# ------------------------------------------------------------------------------------------ PatchNCE


class Projection(nn.Module):
    """F: features (N,C,H,W) of each layer, at the patches patch_ids (P,) -> unit vectors (N*P,c)."""

    def __init__(self, channels: list[int], c: int, gain: float):
        super().__init__()
        for j, width in enumerate(channels):
            mlp = nn.Sequential(nn.Linear(width, c), nn.ReLU(), nn.Linear(c, c))
            for linear in (mlp[0], mlp[2]):
                nn.init.xavier_normal_(linear.weight, gain)
                nn.init.zeros_(linear.bias)
            self.add_module(f"mlp_{j}", mlp)

    def forward(self, features: list[Tensor], patch_ids: list[Tensor]) -> list[Tensor]:
        vectors = []
        for mlp, x, ids in zip(self.children(), features, patch_ids, strict=True):
            v = x[:, :, ids // x.shape[3], ids % x.shape[3]]  # (N,C,P)
            v = mlp(v.transpose(1, 2).flatten(0, 1))
            vectors.append(v / (v.norm(dim=1, keepdim=True) + 1e-7))
        return vectors


def patch_nce(q: Tensor, k: Tensor, T: float) -> Tensor:
    """Cross entropy of each query q_i classifying its key k_i among all keys; both (M,C).

    The authors' program adds a logit of -10 / T per query: at most e^-128 of the sum, which is nothing.
    """
    return F.cross_entropy(q @ k.T / T, torch.arange(len(q), device=q.device))


# --------------------------------------------------------------------------------------------- crops


def zoomed_size(picture: Image.Image, side: int, zoom) -> list[int]:
    """Width and height of a picture resized by zoom (x,y), at least `side` each."""
    return [round(max(side, full * z)) for full, z in zip(picture.size, zoom, strict=True)]


def crop_at(picture: Image.Image, side: int, zoom, patch: int, start, mirror: bool) -> np.ndarray:
    """Crop number `patch` of a picture resized by zoom (x,y): (side,side,C) uint8.

    The crops form a grid with its origin at start (x,y), numbered down the columns; numbers wrap around at its end.
    """
    w, h = zoomed_size(picture, side, zoom)
    column, row = divmod(patch % ((w // side) * (h // side)), h // side)
    left, top = start[0] + side * column, start[1] + side * row
    # only the crop's own area is resized: 50 times faster than the whole, and off by at most one level
    x, y = picture.width / w, picture.height / h
    box = (left * x, top * y, min((left + side) * x, picture.width), min((top + side) * y, picture.height))
    crop = np.array(picture.resize((side, side), Image.Resampling.BILINEAR, box)).reshape(side, side, -1)
    return crop[:, ::-1] if mirror else crop


class Crops(Samples):
    """EPOCH crops of one picture per domain.  Each crop's zoom and number are fixed; its grid origin and mirroring are
    random each time.  batch_size successive crops share a zoom, but epochs are shuffled, as in the authors' program."""

    EPOCH = 100_000

    def __init__(self, *args, batch_size: int, scale_max: float, **pictures):
        super().__init__(*args, **pictures)
        self.batch_size, self.pictures, self.zooms, self.patches = batch_size, {}, {}, {}
        for d, (path,) in self.paths.items():
            picture = read_image(path, self.scales[d])
            self.pictures[d] = picture.convert("L") if self.channels == 1 else picture
            rng = np.random.default_rng((self.seed, ord(d), 2))
            self.zooms[d] = rng.uniform(1 / scale_max, 1, (-(-self.EPOCH // batch_size), 2))
            self.patches[d] = rng.permutation(self.EPOCH)

    def count(self, domain):
        return self.EPOCH

    def view(self, domain, index, rng):
        picture, zoom = self.pictures[domain], self.zooms[domain][index // self.batch_size]
        side, number = self.img_size, self.patches[domain][index]
        start = rng.integers(0, [full % side for full in zoomed_size(picture, side, zoom)], endpoint=True)
        return crop_at(picture, side, zoom, number, start, rng.random() < 0.5)

    def make_cache(self, copies, quiet):
        """Both pictures are always in memory."""


# ------------------------------------------------------------------------------------------- method


def unwrapped(weights: dict) -> dict:
    """A state dict without the prefix that DataParallel adds to its keys, if any."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def spans(side: int, halo: int, tile: int) -> list[tuple[slice, slice, slice]]:
    """A side cut at even positions into parts of about `tile`, as slices: the part with its halos, the part, and where
    the part lies in the former."""
    parts = min(-(-side // tile), side // 2)
    borders = [2 * (side * i // (2 * parts)) for i in range(parts + 1)]
    found = []
    for a, b in itertools.pairwise(borders):
        first, last = max(0, a - halo), min(side, b + halo)
        found.append((slice(first, last), slice(a, b), slice(a - first, b - first)))
    return found


class SinCUT(EpochSchedule):
    """SinCUT: contrastive translation between two single pictures."""

    options, defaults = of_method("sincut")
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G",)}
    min_size = 4
    size_bound = True  # the widths depend on it
    tiles_itself = True
    makes_own_crops = True
    authors_epochs = 16
    test_split = "train"
    resample = "bilinear"

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

    # ----------------------------------------------------------------------------- one training step

    def forward(self, batch, s, t):
        """Used by both updates: fake and identity in one pass; its encoder features are the keys of PatchNCE."""
        features = self.G.encoder.features(torch.cat((batch[s], batch[t])))
        n, _, h, w = features[0].shape
        noise = self.draw.normal("forward/noise_0", n, 1, h, w) if self.noisy else None
        batch["fake"], batch["idt"] = self.G.decoder(features[-1], noise).chunk(2)
        batch["keys"] = self.split(features)

    def split(self, features: list[Tensor]) -> list[list[Tensor]]:
        """The features of the compared layers, of the first and of the second half of the batch."""
        return [list(part) for part in zip(*(features[layer].chunk(2) for layer in self.layers), strict=True)]

    def updates(self):
        return Update("D", self.discriminator_objective, total="D"), Update("G", self.generator_objective, total="G")

    def discriminator_objective(self, batch, s, t):
        """Tell crops of t from fakes; keep the gradient on the crops small (R1)."""
        on_fake = self.D(batch["fake"].detach())
        y = batch[t].detach().requires_grad_()
        on_real = self.D(y)
        (gradient,) = torch.autograd.grad(on_real.sum(), y, create_graph=True)
        real, fake = F.softplus(-on_real).mean(), F.softplus(on_fake).mean()
        R1 = self.args.lambda_R1 / 2 * gradient.square().sum((1, 2, 3)).mean()
        return (fake + real) / 2 + R1, {"D_real": real, "D_fake": fake, "D_R1": R1}

    def generator_objective(self, batch, s, t):
        """Fool D; keep the content of every patch; leave crops of t alone (identity)."""
        args, fake, idt = self.args, batch["fake"], batch["idt"]
        adversarial = args.lambda_GAN * F.softplus(-self.D(fake)).mean()
        of_fake, of_idt = self.split(self.G.encoder.features(torch.cat((fake, idt)), self.layers[-1]))
        of_x, of_y = batch["keys"]
        nce, nce_idt = self.contrast(of_fake, of_x, "G/patches"), self.contrast(of_idt, of_y, "G/patches_idt")
        identity = args.lambda_identity * F.l1_loss(idt, batch[t])
        terms = {"G_GAN": adversarial, "NCE": nce, "NCE_Y": nce_idt, "idt": identity}
        return adversarial + (nce + nce_idt) / 2 + identity, terms

    @classmethod
    def term_weights(cls, args):
        contrasts = {"NCE": args.lambda_NCE, "NCE_Y": args.lambda_NCE}
        return {"G_GAN": args.lambda_GAN, **contrasts, "idt": args.lambda_identity, "D_R1": args.lambda_R1 / 2}

    def contrast(self, queries: list[Tensor], keys: list[Tensor], name: str) -> Tensor:
        """PatchNCE of each layer's features (N,C,H,W) at random patches, compared across all N crops."""
        sizes = {layer: q[0, 0].numel() for layer, q in zip(self.layers, queries, strict=True)}
        patch_ids = [self.draw.permutation(f"{name}_{L}", n)[: self.args.num_patches] for L, n in sizes.items()]
        with torch.no_grad():
            keys = self.F(keys, patch_ids)
        losses = [patch_nce(q, k, self.args.nce_T) for q, k in zip(self.F(queries, patch_ids), keys, strict=True)]
        return self.args.lambda_NCE * sum(losses) / len(losses)

    # -------------------------------------------------------------------------------------- pictures

    @property
    def samples(self):
        return partial(Crops, batch_size=self.args.batch_size, scale_max=self.args.random_scale_max)

    @classmethod
    def epoch_length(cls, counts):
        return Crops.EPOCH

    @classmethod
    def default_load_size(cls, args) -> int:
        return args.img_size  # unused

    def read_sample(self, path, scale=None):
        return self.read_input(path, None, scale)

    def check_images(self, pictures):
        for paths in pictures.values():
            if len(paths) > 1:
                found = f"{shown(paths[0].parent)} holds {len(paths)} pictures"
                raise UserError(f"{found}; sincut learns from a single one: keep only that")

    def to_input(self, picture, size):
        """The whole picture, its sides rounded to multiples of 4, as in the authors' program."""
        picture = picture.resize([max(4, 4 * round(side / 4)) for side in picture.size], Image.Resampling.BILINEAR)
        return to_tensor(resize(picture, None, self.architecture["img_ch"]))

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        """Large x in tiles, with a halo of G's receptive field: the same numbers in less memory."""
        n, _, h, w = x.shape
        noise = torch.randn(n, 1, h, w).to(x.device) if self.noisy else None
        fake, halo = torch.empty_like(x), 8 * (len(self.G.decoder.convs) - 1)
        tile = {None: TILE, 0: max(h, w)}.get(self.args.tile, self.args.tile)
        for (top, y, own_y), (left, x_, own_x) in itertools.product(spans(h, halo, tile), spans(w, halo, tile)):
            tile_fake = self.G(x[..., top, left], noise[..., top, left] if self.noisy else None)
            fake[..., y, x_] = tile_fake[..., own_y, own_x]
        return fake

    def export_function(self, s, t):
        noise = torch.randn(1, 1, self.args.img_size, self.args.img_size)
        inputs = {"noise": (noise, "random numbers N(0,1), one per pixel, (N,1,H,W)")} if self.noisy else {}
        return self.G, inputs

    # -------------------------------------------------------------------------- options, checkpoints

    @classmethod
    def check(cls, args) -> str | None:
        if args.img_size not in SIZES:
            return f"--img_size {args.img_size} is not a size of sincut's crops: 64, 128 or 256"
        if args.compile:
            return "--compile true is impossible: compiled functions cannot be differentiated twice, as R1 does"
        return None

    @classmethod
    def from_released(cls, found):
        """One file per network; G alone is enough to translate."""
        networks = by_name(found, {"G", "F", "D"}) or {"G": lone_network(found) or {}}
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
        # without D any crop size that gives these widths will do
        for size in [found["img_size"]] if D else SIZES[::-1]:
            if widths_of_G(ch := first * size // 512, size) == [first, second]:
                found |= {"img_size": size, "ch": ch}
        if F_:
            found["netF_nc"] = F_["mlp_0.0.weight"].shape[0]
        return found

    def summary_modules(self):
        x = torch.empty(1, self.args.img_ch, self.args.img_size, self.args.img_size, device=self.device)
        features = self.G.encoder.features(x)
        patch_ids = [torch.zeros(self.args.num_patches, dtype=torch.long, device=self.device)] * len(self.layers)
        return [
            ("generator", ["G"], self.G, self.G, x),
            ("discriminator", ["D"], self.D, self.D, x),
            ("projection", ["F"], self.F, lambda *f: self.F(f, patch_ids), tuple(features[i] for i in self.layers)),
        ]
