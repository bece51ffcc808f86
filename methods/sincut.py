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

The file holds F, PatchNCE and the method; the crops are in single_image.py, the networks in stylegan2.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoints.contents import by_name, lone_network
from methods.single_image import FIRST, SingleImage, inferred, judge
from methods.stylegan2 import Discriminator, Generator, widths_of_D, widths_of_G
from options import of_method
from training.method import Update

LAYERS = (0, 2, 4)  # layers of the encoder that PatchNCE compares; 0 is the picture itself

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


# ------------------------------------------------------------------------------------------- method


class SinCUT(SingleImage):
    """SinCUT: contrastive translation between two single pictures."""

    options, defaults = of_method("sincut")
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G",)}

    def build(self, a) -> dict[str, nn.Module]:
        blocks = 3 if a.netG == "stylegan2" else 1
        judged = a.D_size or a.img_size
        first, second = widths_of_G(a.ch, judged)
        self.G = Generator(a.img_ch, first, second, blocks)
        self.D = Discriminator(a.img_ch, widths_of_D(a.ndf, judged))
        channels = [a.img_ch, first, second, *[second] * blocks]
        self.layers = [layer for layer in LAYERS if layer < len(channels)]
        self.F = Projection([channels[layer] for layer in self.layers], a.netF_nc, self.args.init_gain)
        return {"G": self.G, "F": self.F, "D": self.D}

    def trained(self):
        return {"D": [*self.D.parameters()], "G": [*self.G.parameters(), *self.F.parameters()]}

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
        real, fake, R1 = judge(self.D, self.tiles(batch[t]), self.tiles(batch["fake"]), self.args.lambda_R1)
        return (fake + real) / 2 + R1, {"D_real": real, "D_fake": fake, "D_R1": R1}

    def generator_objective(self, batch, s, t):
        """Fool D; keep the content of every patch; leave crops of t alone (identity)."""
        args, fake, idt = self.args, batch["fake"], batch["idt"]
        adversarial = args.lambda_GAN * F.softplus(-self.D(self.tiles(fake))).mean()
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

    def generator(self, s, t):
        return self.G

    # ----------------------------------------------------------------------------------- checkpoints

    @classmethod
    def from_released(cls, found):
        """One file per network; G alone is enough to translate."""
        networks = by_name(found, {"G", "F", "D"}) or {"G": lone_network(found) or {}}
        return networks if networks and FIRST in networks.get("G", {}) else None

    @classmethod
    def infer_options(cls, networks):
        found = inferred(networks["G"], networks.get("D", {}), networks.get("args", {}))
        if "F" in networks:
            found["netF_nc"] = networks["F"]["mlp_0.0.weight"].shape[0]
        return found

    def summary_modules(self):
        x = torch.empty(1, self.args.img_ch, self.args.img_size, self.args.img_size, device=self.device)
        features = self.G.encoder.features(x)
        patch_ids = [torch.zeros(self.args.num_patches, dtype=torch.long, device=self.device)] * len(self.layers)
        return [
            ("generator", ["G"], self.G, self.G, x),
            ("discriminator", ["D"], self.D, self.D, self.tiles(x)[:1]),
            ("projection", ["F"], self.F, lambda *f: self.F(f, patch_ids), tuple(features[i] for i in self.layers)),
        ]
