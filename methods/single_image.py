"""What the methods of two single pictures share (methods/sincut.py, methods/sincyclegan.py): crops, tiles for the
discriminator and its loss, and whole pictures in the test.

Crops are made in one of two ways, both of CUT's authors (ECCV 2020, arXiv 2007.15651):

    --crops program   as their released program: width and height are scaled apart, each by U(1/random_scale_max, 1);
                      a crop's scale and number never change (class Crops)
    --crops paper     as the paper's appendix: at each step the picture is resized to a width of min_width to
                      max_width, its proportions kept, and crops are taken anywhere (class CropsOfPaper)

The discriminator judges whole crops, or with --D_size their tiles: the appendix cuts crops of 128 into tiles of 64.
"""

import itertools
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset import Samples
from images.decode import read_image, resize, to_tensor
from methods.cyclegan import EpochSchedule
from methods.stylegan2 import widths_of_G
from utils import UserError, shown

SIZES = (64, 128, 256)  # of what D judges: it down-samples them to 4
TILE = 768  # pixels; larger sides are translated in tiles of about this side
FIRST = "encoder.convs.1.0.weight"  # a key of the generator

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


class CropsOfPaper(Crops):
    """Crops of one picture per domain.  All of a batch are taken, anywhere, from the picture at one random width."""

    def __init__(self, *args, widths: tuple[int, int], **pictures):
        super().__init__(*args, scale_max=1.0, **pictures)
        self.widths = widths

    def sample(self, domain, k):
        picture, side = self.pictures[domain], self.img_size
        of_batch = np.random.default_rng((self.seed, ord(domain), 3, k // self.batch_size))
        zoom = [of_batch.integers(*self.widths, endpoint=True) / picture.width] * 2
        rng = np.random.default_rng((self.seed, ord(domain), 1, k))
        start = rng.integers(0, [full - side for full in zoomed_size(picture, side, zoom)], endpoint=True)
        return crop_at(picture, side, zoom, 0, start, rng.random() < 0.5)


# ---------------------------------------------------------------------------- tiles, discriminator


def tiled(x: Tensor, side: int) -> Tensor:
    """Crops (N,C,k*side,k*side) cut into their k*k tiles: (N*k*k,C,side,side)."""
    if x.shape[2] == side:
        return x
    n, c, h, w = x.shape
    x = x.view(n, c, h // side, side, w // side, side)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, side, side)


def judge(D, real: Tensor, fake: Tensor, lambda_R1: float) -> tuple[Tensor, Tensor, Tensor]:
    """The discriminator's terms for (N,C,R,R) each: mean softplus(-D(real)), mean softplus(D(fake)) and
    lambda_R1 / 2 mean |dD(real) / dreal|^2 (R1, Mescheder et al. 2018)."""
    on_fake = D(fake.detach())
    y = real.detach().requires_grad_()
    on_real = D(y)
    (gradient,) = torch.autograd.grad(on_real.sum(), y, create_graph=True)
    R1 = lambda_R1 / 2 * gradient.square().sum((1, 2, 3)).mean()
    return F.softplus(-on_real).mean(), F.softplus(on_fake).mean(), R1


# ------------------------------------------------------------------------------------------- method


def inferred(G: dict, D: dict, stored: dict) -> dict:
    """Options of group "model" from the weights of a generator and of a discriminator, which may be empty.

    stored: the options of a checkpoint of this program, or {}: they say whether D judges tiles or whole crops.
    """
    first, img_ch = G[FIRST].shape[:2]
    second = G["encoder.convs.2.skip.1.weight"].shape[0]
    found = {"img_ch": img_ch, "netG": "stylegan2" if "decoder.convs.4.0.weight" in G else "smallstylegan2"}
    of_D = "D_size" if stored.get("D_size") else "img_size"
    if D:
        found[of_D] = size = 4 << sum(key.endswith("skip.1.weight") for key in D)
        found["ndf"] = D["convs.0.0.weight"].shape[0] * size // 256
    # without D any size that gives these widths will do
    for size in [found[of_D]] if D else SIZES[::-1]:
        if widths_of_G(ch := first * size // 512, size) == [first, second]:
            found |= {of_D: size, "ch": ch}
    return found


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


class SingleImage(EpochSchedule):
    """A method that learns from one picture per domain: a subclass builds StyleGAN2's generators and discriminators.

    It defines generator(s, t), the generator from s to t.
    """

    min_size = 4
    size_bound = True  # the widths depend on it
    tiles_itself = True
    makes_own_crops = True
    authors_epochs = 16
    test_split = "train"
    resample = "bilinear"

    @property
    def betas(self):
        return self.args.beta1, 0.99

    @property
    def noisy(self) -> bool:
        """Whether generators add noise."""
        return self.architecture["netG"] == "stylegan2"

    @property
    def judged(self) -> int:
        """The side of what D judges."""
        return self.architecture["D_size"] or self.architecture["img_size"]

    def tiles(self, x: Tensor) -> Tensor:
        return tiled(x, self.judged)

    # -------------------------------------------------------------------------------------- pictures

    @property
    def samples(self):
        args = self.args
        if args.crops == "paper":
            return partial(CropsOfPaper, batch_size=args.batch_size, widths=(args.min_width, args.max_width))
        return partial(Crops, batch_size=args.batch_size, scale_max=args.random_scale_max)

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
                raise UserError(f"{found}; {self.args.method} learns from a single one: keep only that")

    def to_input(self, picture, size):
        """The whole picture, its sides rounded to multiples of 4, as in the authors' program."""
        picture = picture.resize([max(4, 4 * round(side / 4)) for side in picture.size], Image.Resampling.BILINEAR)
        return to_tensor(resize(picture, None, self.architecture["img_ch"]))

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        """Large x in tiles, with a halo of the generator's receptive field: the same numbers in less memory."""
        (n, _, h, w), G = x.shape, self.generator(s, t)
        noise = torch.randn(n, 1, h, w).to(x.device) if self.noisy else None
        fake, halo = torch.empty_like(x), 8 * (len(G.decoder.convs) - 1)
        tile = {None: TILE, 0: max(h, w)}.get(self.args.tile, self.args.tile)
        for (top, y, own_y), (left, x_, own_x) in itertools.product(spans(h, halo, tile), spans(w, halo, tile)):
            tile_fake = G(x[..., top, left], noise[..., top, left] if self.noisy else None)
            fake[..., y, x_] = tile_fake[..., own_y, own_x]
        return fake

    def export_function(self, s, t):
        noise = torch.randn(1, 1, self.args.img_size, self.args.img_size)
        inputs = {"noise": (noise, "random numbers N(0,1), one per pixel, (N,1,H,W)")} if self.noisy else {}
        return self.generator(s, t), inputs

    # --------------------------------------------------------------------------------------- options

    @classmethod
    def check(cls, args) -> str | None:
        judged, name = (args.D_size, "D_size") if args.D_size else (args.img_size, "img_size")
        if judged not in SIZES:
            what = "the discriminator's tiles" if args.D_size else f"{args.method}'s crops"
            return f"--{name} {judged} is not a size of {what}: 64, 128 or 256"
        if args.img_size % judged:
            return f"--img_size {args.img_size} cannot be cut into tiles of --D_size {args.D_size}: give a multiple"
        if args.min_width > args.max_width:
            return f"--min_width {args.min_width} is above --max_width, {args.max_width}: exchange them"
        if args.compile:
            return "--compile true is impossible: compiled functions cannot be differentiated twice, as R1 does"
        return None
