"""UNIT (Liu, Breuel, Kautz, "Unsupervised Image-to-Image Translation Networks", NIPS 2017, arXiv 1703.00848).

Both domains share one latent space: E_A and E_B encode into it; G_A and G_B decode a code h plus unit Gaussian noise n.
Two variational autoencoders, two GANs, and cycles:

    h_A = E_A(x_A)       x_AA = G_A(h_A + n_A)      x_AB = G_B(h_A + n_A)
    h'_A = E_B(x_AB)     x_ABA = G_A(h'_A + n'_A)

    D step: min over dis_a, dis_b   gan_w [mean (D_B(x_AB))^2 + mean (D_B(x_B) - 1)^2]
    G step: min over gen_a, gen_b   gan_w mean (D_B(x_AB) - 1)^2 + recon_x_w |x_AA - x_A|
                                    + recon_kl_w mean h_A^2 + recon_x_cyc_w |x_ABA - x_A|
                                    + recon_kl_cyc_w mean h'_A^2           and with A and B swapped

At unit variance the Kullback-Leibler terms reduce to mean squares.  As in the program that its authors maintain
(MUNIT's), and unlike the paper, the domains share no layers.  The file holds the generator and the method; the rest is
MUNIT's.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from layers import InstanceNorm
from methods.munit import ContentEncoder, Decoder, SharedContent, lsgan_of_scales
from options import of_method


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

    options, defaults = of_method("unit")
    encoder = "enc"

    def generator(self, a):
        return Generator(a.img_ch, a.ch, a.n_downsample, a.n_res)

    # ----------------------------------------------------------------------------- one training step

    def forward(self, batch, s, t):
        """Used by both updates: gen changes only in its own update, which is the last."""
        batch[f"code_{s}"] = self.G[s].enc(batch[s])

    def sample_noise(self, update, batch, s, t):
        shape = batch[f"code_{s}"].shape  # also that of the fake's code
        batch["noise"] = self.draw.normal(f"{update}/noise_{s}", *shape)
        if update == "G" and self.args.recon_x_cyc_w > 0:
            batch["noise_again"] = self.draw.normal(f"G/noise_{s}2{t}", *shape)

    def discriminator_objective(self, batch, s, t):
        fake = self.G[t].dec(batch[f"code_{s}"].detach() + batch["noise"])
        return self.discriminator_loss(batch[t], fake, t)

    def generator_objective(self, batch, s, t):
        """From domain s: fool the discriminator of t, reconstruct x, return to s (cycle), keep codes near N(0,1)."""
        args, G, a, b = self.args, self.G, s.lower(), t.lower()
        x, h = batch[s], batch[f"code_{s}"]
        z = h + batch["noise"]
        fake = G[t].dec(z)
        h_again = G[t].enc(fake)
        adversarial = lsgan_of_scales(self.D[t](fake), 1)
        recon = F.l1_loss(G[s].dec(z), x)
        cycle = F.l1_loss(G[s].dec(h_again + batch["noise_again"]), x) if args.recon_x_cyc_w > 0 else x.new_zeros(())
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

    def generator_parts(self, G, x):
        return [("encoders", "enc", x), ("decoders", "dec", G.enc(x))]
