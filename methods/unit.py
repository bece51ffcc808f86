"""UNIT (Liu, Breuel, Kautz, "Unsupervised Image-to-Image Translation Networks", NIPS 2017, arXiv 1703.00848).

Both domains share one latent space: E_A and E_B encode into it, and with unit Gaussian noise n added to a
code h, either G_A or G_B draws from it.  Two variational autoencoders, two GANs, and cycles:

    h_A = E_A(x_A)       x_AA = G_A(h_A + n_A)      x_AB = G_B(h_A + n_A)
    h'_A = E_B(x_AB)     x_ABA = G_A(h'_A + n'_A)

    D step: min over dis_a, dis_b   gan_w [mean (D_B(x_AB))^2 + mean (D_B(x_B) - 1)^2]
    G step: min over gen_a, gen_b   gan_w mean (D_B(x_AB) - 1)^2 + recon_x_w |x_AA - x_A|
                                    + recon_kl_w mean h_A^2 + recon_x_cyc_w |x_ABA - x_A|
                                    + recon_kl_cyc_w mean h'_A^2           and the same the other way

A mean square is all that is left of the Kullback-Leibler terms at unit variance.  As in the program that its
authors maintain, MUNIT's, and unlike the paper, no layers of the domains share their weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import InstanceNorm
from methods.munit import ContentEncoder, Decoder, SharedContent, lsgan, parts_of
from options import Option, weight


class Generator(nn.Module):
    """An autoencoder of one domain: pictures (N,3,S,S) -> code (N,256,S/4,S/4) -> pictures."""

    def __init__(self, img_ch: int, c: int = 64, n: int = 2, r: int = 4):
        super().__init__()
        self.enc = ContentEncoder(img_ch, c, n, r)
        self.dec = Decoder(img_ch, c, n, r, norm=InstanceNorm)

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.enc(x))


class UNIT(SharedContent):
    """UNIT: one latent space for both domains."""

    options = (
        *SharedContent.options,
        Option("loss", "recon_kl_w", weight, 0.01, "weight of the prior of the codes"),
        Option("loss", "recon_x_cyc_w", weight, 10.0, "weight of the cycles; 0: none"),
        Option("loss", "recon_kl_cyc_w", weight, 0.01, "weight of the prior of the codes in cycles"),
    )
    encoder = "enc"

    def generator(self, a):
        return Generator(a.img_ch, a.ch, a.n_downsample, a.n_res)

    # ----------------------------------------------------------------------------- one training step

    def forward(self, x, s, t):
        """Both halves see this code: gen moves in its own half alone, which comes last."""
        x[f"code_{s}"] = self.G[s].enc(x[s])

    def noise(self, h: Tensor, name: str) -> Tensor:
        return self.draw.normal(name, *h.shape)

    def sample_for_dis(self, x, s, t):
        x["noise"] = self.noise(x[f"code_{s}"], f"D/noise_{s}")

    def sample_for_gen(self, x, s, t):
        """The code of a fake is of the same shape."""
        x["noise"] = self.noise(x[f"code_{s}"], f"G/noise_{s}")
        if self.args.recon_x_cyc_w > 0:
            x["noise_again"] = self.noise(x[f"code_{s}"], f"G/noise_{s}2{t}")

    def discriminator_objective(self, x, s, t):
        fake = self.G[t].dec(x[f"code_{s}"].detach() + x["noise"])
        return self.judge(x[t], fake, t)

    def generator_objective(self, x, s, t):
        """From domain s: fool the judge of t, stay (reconstruction), come back (cycle), keep codes near the prior."""
        args, G, a, b = self.args, self.G, s.lower(), t.lower()
        h = x[f"code_{s}"]
        z = h + x["noise"]
        fake = G[t].dec(z)
        h_again = G[t].enc(fake)
        adversarial = lsgan(self.D[t](fake), 1)
        recon = F.l1_loss(G[s].dec(z), x[s])
        cycle = x[s].new_zeros(())
        if args.recon_x_cyc_w > 0:
            cycle = F.l1_loss(G[s].dec(h_again + x["noise_again"]), x[s])
        kl, kl_cycle = h.square().mean(), h_again.square().mean()
        loss = args.gan_w * adversarial + args.recon_x_w * recon + args.recon_kl_w * kl
        loss = loss + args.recon_x_cyc_w * cycle + args.recon_kl_cyc_w * kl_cycle
        terms = {f"adv_{b}": adversarial, f"recon_x_{a}": recon, f"recon_kl_{a}": kl, f"cyc_x_{a}": cycle}
        return loss, {f"loss_gen_{k}": v for k, v in {**terms, f"recon_kl_cyc_{a}{b}{a}": kl_cycle}.items()}

    # ----------------------------------------------------------------------------------- translation

    def inference_keys(self, s, t):
        return {f"gen_{s.lower()}": ("enc.",), f"gen_{t.lower()}": ("dec.",)}

    def translate(self, x, s, t):
        return self.G[t].dec(self.G[s].enc(x))

    def visuals(self, x, s, t):
        """Input, reconstruction, translation, cycle."""
        h = self.G[s].enc(x)
        fake = self.G[t].dec(h)
        return [x, self.G[s].dec(h), fake, self.translate(fake, t, s)]

    def summary_modules(self):
        G, (*_, discriminators) = self.G["A"], super().summary_modules()
        picture = discriminators[-1]
        with torch.no_grad():
            code = G.enc(picture)
        return [*parts_of(G, {"encoders": ("enc", picture), "decoders": ("dec", code)}), discriminators]
