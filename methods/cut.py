"""CUT (Park, Efros, Zhang, Zhu, "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020,
arXiv 2007.15651), and FastCUT, the same method with other weights.

One direction: G translates A to B, D judges B.  PatchNCE (section 3) asks that a patch of the translation can be
recognised among the patches of the input.  A small network F projects the features of G's encoder; for each patch z of
each layer, cross entropy tells the input's same patch from its other ones:

    PatchNCE(x, y) = mean over layers and patches z of  -log [exp(q.k/T) / (exp(q.k/T) + sum of exp(q.k'/T))]
                     q = F(G_enc(y))_z    k = F(G_enc(x))_z, detached    k' = F(G_enc(x)) at the other patches

    D step: min over D      (lsgan(D(x_B), 1) + lsgan(D(G(x_A)), 0)) / 2
    G step: min over G, F   lambda_GAN lsgan(D(G(x_A)), 1) + lambda_NCE PatchNCE(x_A, G(x_A))                FastCUT
            with nce_idt    lambda_GAN lsgan(D(G(x_A)), 1) + lambda_NCE [PatchNCE(x_A, G(x_A))
                                                                         + PatchNCE(x_B, G(x_B))] / 2        CUT

The file holds the networks, AsRecorded, PatchNCE, CUT and FastCUT.  The authors' program, recorded on a CPU, has wrong
gradients of PatchNCE, by a bug in PyTorch (up to 2.14 at least): see AsRecorded.  --norm torch reproduces them; by
default ours are right.
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
from methods.cyclegan import SCHEDULE, EpochSchedule, ResnetBlock, initialise, lsgan, normed
from options import Option, boolean, positive, positive_float, weight
from training.method import Update, epoch_at

LAYERS = (0, 4, 8, 12, 16)  # modules of G whose outputs PatchNCE compares: 0 pixels, 4 and 8 before IN, 12, 16 blocks

# ------------------------------------------------------------------------------------------ networks


class Down(nn.Module):
    """Blur by (1,2,1)/4 along both axes, then stride 2: (N,C,H,W) -> (N,C,(H+1)//2,(W+1)//2)."""

    def __init__(self, c: int):
        super().__init__()
        self.register_buffer("filt", blur([1, 2, 1], 4, c))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(reflect(x), self.filt, stride=2, groups=x.shape[1])


class Up(nn.Module):
    """Bilinear up-sampling by 2, with the filter (1,3,3,1)/4 along both axes: (N,C,H,W) -> (N,C,2H,2W)."""

    def __init__(self, c: int):
        super().__init__()
        self.register_buffer("filt", blur([1, 3, 3, 1], 4, c))

    def forward(self, x: Tensor) -> Tensor:
        return smooth_double(x, self.filt)


def blur(taps: list[float], divisor: float, c: int) -> Tensor:
    """The outer product of the taps, repeated for c channels: (c,1,k,k)."""
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
        self.widths = [{0: img_ch, 4: 2 * c}.get(i, 4 * c) for i in self.layers]  # channels of these layers

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """The outputs of the compared layers; the decoder is not computed."""
        return self.with_features(x, self.layers[-1] + 1)[1]

    def with_features(self, x: Tensor, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """The output of the modules before number `stop`, and the outputs of the compared layers among them."""
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
    """F: features (N,C,H,W) of each layer, at the patches patch_ids (M,) -> unit vectors (N,M,c).

    widths: C of each layer.
    """

    def __init__(self, widths: list[int], c: int = 256):
        super().__init__()
        for j, width in enumerate(widths):
            self.add_module(f"mlp_{j}", nn.Sequential(nn.Linear(width, c), nn.ReLU(), nn.Linear(c, c)))

    def forward(self, features: list[Tensor], patch_ids: list[Tensor]) -> list[Tensor]:
        vectors = []
        for mlp, x, ids in zip(self.children(), features, patch_ids, strict=True):
            v = mlp(x.permute(0, 2, 3, 1).flatten(1, 2)[:, ids])  # (N,M,C) -> (N,M,c)
            vectors.append(v / (v.norm(dim=2, keepdim=True) + 1e-7))
        return vectors


class AsRecorded(nn.Module):
    """PyTorch's own instance normalisation, as in the authors' program.

    On a CPU, for a batch of one, its backward reads wrong elements when the gradient's memory layout differs from the
    input's.  F's patch selection returns gradients in channels_last, so in recordings made on a CPU the gradient of
    PatchNCE is wrong from the last residual block on.  GPUs are not affected.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x).clone()  # it returns a view; adding to a view in place would change the layout


def as_recorded(net: nn.Module) -> nn.Module:
    """The network with AsRecorded for each InstanceNorm, in PyTorch's default layout."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, InstanceNorm):
                setattr(parent, name, AsRecorded())
    return net.to(memory_format=torch.contiguous_format)


# ----------------------------------------------------------------------------------------- PatchNCE


def nce(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each query q_i classifying its key k_i among all keys of the same picture; both (N,M,c)."""
    similar = q @ k.detach().mT  # (N,M,M)
    # the authors' logits are [q_i.k_i, q_i.k_j with -10 at j = i]
    logits = F.pad(similar, (0, 1), value=-10.0) / temperature
    own = torch.arange(q.shape[1], device=q.device).expand(len(q), -1)
    return F.cross_entropy(logits.flatten(0, 1), own.flatten())


# ------------------------------------------------------------------------------------------- method


class Samples(dataset.Samples):
    """Random crops of larger pictures; from sample number `whole_from` on, whole pictures resized to the same size."""

    def __init__(self, paths, img_size, *rest, whole_from: float, **pictures):
        super().__init__(paths, img_size, *rest, **pictures)
        pictures |= {"load_size": img_size, "scales": self.scales}
        self.whole = dataset.Samples(paths, img_size, *rest, **pictures)
        self.whole_from = whole_from

    def sample(self, domain, k):
        return self.whole.sample(domain, k) if k >= self.whole_from else super().sample(domain, k)

    def make_cache(self, copies, quiet):
        super().make_cache(2 * copies, quiet)  # half of the free memory for each
        self.whole.make_cache(2 * copies, quiet=True)


class CUT(EpochSchedule):
    """CUT: one direction; patches of the translation are contrasted with patches of the input."""

    options = (
        Option("model", "n_res", positive, 9, "residual blocks of the generator"),
        Option("model", "netF_nc", positive, 256, "length of the projected features"),
        Option("loss", "lambda_GAN", weight, 1.0, "weight of the generator's adversarial term"),
        Option("loss", "lambda_NCE", weight, 1.0, "weight of PatchNCE"),
        Option("loss", "nce_idt", boolean, True, "add PatchNCE between x_B and G(x_B)"),
        Option("loss", "nce_T", positive_float, 0.07, "temperature of PatchNCE"),
        Option("loss", "num_patches", positive, 256, "patches of each layer that PatchNCE compares"),
        Option("loss", "flip_equivariance", boolean, False, "mirror the generator's input with probability 1/2"),
        *SCHEDULE,
        Option("optimisation", "init_gain", positive_float, 0.02, "gain of the initial weights"),
        Option("scale", "norm", str, "exact", "torch: PyTorch's, whose CPU gradient is wrong, as in the recordings",
               choices=("exact", "torch")),
    )  # fmt: skip
    # horse2zebra: 400 epochs of 1334 pictures
    defaults = {"lr": 2e-4, "sampling": "cyclegan", "iteration": 533_600, "n_epochs": 200, "n_epochs_decay": 200}
    authors_epochs = 400
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G",)}

    def build(self, a) -> dict[str, nn.Module]:
        G = Generator(a.img_ch, a.ch, a.n_res)
        nets = G, Projection(G.widths, a.netF_nc), Discriminator(a.img_ch, a.ch)
        xavier = partial(nn.init.xavier_normal_, gain=self.args.init_gain)
        self.G, self.F, self.D = (initialise(net, xavier) for net in nets)
        if self.args.norm == "torch":
            self.G, self.D = as_recorded(self.G), as_recorded(self.D)
        return {"G": self.G, "F": self.F, "D": self.D}

    def trained(self):
        # the authors' optimizers of G and of F have the same settings: one Adam for both is equivalent
        return {"D": [*self.D.parameters()], "G": [*self.G.parameters(), *self.F.parameters()]}

    @property
    def samples(self):
        """While the learning rate falls, the authors do not crop."""
        a, first = self.args, math.inf
        if a.decay_flag:
            epoch = partial(epoch_at, iteration=a.iteration, epochs=max(1, a.n_epochs + a.n_epochs_decay))
            steps = range(a.iteration + 1)
            first = bisect.bisect(steps, a.n_epochs, 1, key=lambda s: epoch(s, steps_per_epoch=a.steps_per_epoch))
        return partial(Samples, whole_from=(first - 1) * a.batch_size * a.grad_accum * self.world)

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("D", self.discriminator_objective, total="D"),
            Update("G", self.generator_objective, total="G", sample=self.sample_patches),
        )

    def host_decision(self) -> bool:
        """Whether G's input is mirrored in this step."""
        return self.args.flip_equivariance and self.draw.decision("forward/flip") < 0.5

    def forward(self, batch, s, t):
        """Used by both updates: fakes G(x_A) and, with nce_idt, G(x_B); keys: the features k of their inputs."""
        if self.args.norm == "torch":
            batch |= {d: batch[d].contiguous() for d in (s, t)}
        real = torch.cat((batch[s], batch[t])) if self.args.nce_idt else batch[s]
        fake, features = self.G.with_features(real.flip(3) if self.decision else real)
        if self.decision:  # keys come from unmirrored pictures, and G does not commute with mirroring
            with torch.no_grad():
                features = self.G.features(real)
        n = len(batch[s])
        batch["fake"] = fake.split(n)
        batch["keys"] = list(zip(*(k.detach().split(n) for k in features), strict=True))

    def discriminator_objective(self, batch, s, t):
        """Tell real from fake: 1 on real, 0 on fake."""
        on_real, on_fake = self.D(torch.cat((batch[t], batch["fake"][0].detach()))).chunk(2)
        real, fake = lsgan(on_real, 1), lsgan(on_fake, 0)
        return (fake + real) / 2, {"D_real": real, "D_fake": fake}

    def sample_patches(self, batch, s, t):
        """The patches of keys and queries, for each fake."""
        names = (f"G/patches_{d}" for d in "AB"[: len(batch["keys"])])
        pairs = zip(batch["keys"], names, strict=True)
        batch["patch_ids"] = [self.patch_ids(keys, name, self.decision) for keys, name in pairs]

    def patch_ids(self, keys: list[Tensor], name: str, mirrored: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Random patches (M,) of each layer's keys (N,C,H,W), and the same patches in the, perhaps mirrored, fake."""
        sizes = [k.shape[2:] for k in keys]
        draws = (self.draw.permutation(f"{name}_{j}", h * w) for j, (h, w) in enumerate(sizes))
        key_ids = [ids[: self.args.num_patches] for ids in draws]
        # always new tensors: were both lists the same, torch.compile would compile that case anew
        query_ids = [ids + mirrored * (w - 1 - 2 * (ids % w)) for ids, (_, w) in zip(key_ids, sizes, strict=True)]
        return key_ids, query_ids

    def generator_objective(self, batch, s, t):
        """Fool D; keep the content of every patch, in the translation (NCE) and in pictures of t (NCE_Y)."""
        args = self.args
        adversarial = args.lambda_GAN * lsgan(self.D(batch["fake"][0]), 1)
        contrasts = {}
        names = ("NCE", "NCE_Y")[: len(batch["fake"])]
        for name, *inputs in zip(names, batch["fake"], batch["keys"], batch["patch_ids"], strict=True):
            contrasts[name] = args.lambda_NCE * self.patch_nce(*inputs)
        loss = adversarial + sum(contrasts.values()) / len(contrasts)
        return loss, {"G_GAN": adversarial, **contrasts}

    @classmethod
    def term_weights(cls, args):
        return {"G_GAN": args.lambda_GAN, "NCE": args.lambda_NCE, "NCE_Y": args.lambda_NCE}

    def patch_nce(self, fake: Tensor, keys: list[Tensor], patch_ids: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """PatchNCE(x, fake); keys: features (N,C,H,W) of x by layer; patch_ids: of the keys and of the queries."""
        key_ids, query_ids = patch_ids
        with torch.no_grad():
            k = self.F(keys, key_ids)

        def contrast(fake):
            q = self.F(self.G.features(fake), query_ids)
            losses = [nce(*of_layer, self.args.nce_T) for of_layer in zip(q, k, strict=True)]
            return sum(losses) / len(losses)

        return early(contrast, fake, [*self.G.parameters(), *self.F.parameters()])

    # -------------------------------------------------------------------- pictures, options, checkpoints

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G(x)

    @classmethod
    def from_released(cls, found):
        """One file per network; G alone is enough to translate."""
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
        patch_ids = [torch.zeros(n, dtype=torch.long, device=self.device) for n in counts]
        return [
            ("generators", ["G"], self.G, self.G, picture),
            ("discriminators", ["D"], self.D, self.D, picture),
            ("projections", ["F"], self.F, lambda *f: self.F(f, patch_ids), tuple(features)),
        ]


class FastCUT(CUT):
    """FastCUT: CUT without PatchNCE(x_B, G(x_B)), and with a larger lambda_NCE."""

    defaults = {**CUT.defaults, "lambda_NCE": 10.0, "nce_idt": False, "flip_equivariance": True}
    defaults |= {"iteration": 266_800, "n_epochs": 150, "n_epochs_decay": 50}
    authors_epochs = 200
