"""GcGAN (Fu, Gong, Wang, Batmanghelich, Zhang, Tao, "Geometry-Consistent Generative Adversarial Networks for One-Sided
Unsupervised Domain Mapping", CVPR 2019, arXiv 1809.05852).

One generator G translates pictures x of A to B, and also f(x), the same picture rotated by 90 degrees or flipped
upside down; its translations must be related by f, too.  D_B judges pictures of B, D_gc_B transformed ones (gc:
geometry-consistent).

    fake = G(x_A)    fake_gc = G(f(x_A))                                   lsgan, | |: means over all elements

    G step: min over G            lambda_G [lsgan(D_B(fake), 1) + lsgan(D_gc_B(fake_gc), 1)]
                                  + lambda_AB lambda_gc |fake - f^-1(fake_gc)|
                                  + lambda_AB identity [|G(x_B) - x_B| + |G(f(x_B)) - f(x_B)|]
    D step: min over D_B, D_gc_B  (lsgan(D_B(x_B), 1) + lsgan(D_B(old fake), 0)) / 2     and the same transformed

Each D sees fakes from a pool of its own.  Networks, pools and everything not mentioned here are CycleGAN's, as is
the law of the learning rate on the authors' PyTorch, 0.4.1; on newer ones their program lets it fall an epoch earlier
(--early_decay true).  The generators have no dropout, as in the authors' scripts; by default their program has dropout,
in the test too.  The file holds f, the initialisation and the method.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import cyclegan
from methods.cyclegan import CycleGAN, Discriminator, Generator, ImagePool, lsgan
from options import of_method
from training.method import Update

GEOMETRIES = {  # f, f^-1
    "rot": (lambda x: x.rot90(-1, (2, 3)), lambda x: x.rot90(1, (2, 3))),  # 90 degrees, clockwise
    "vf": (lambda x: x.flip(2), lambda x: x.flip(2)),  # upside down
}
# N(0, 0.02^2 2 / (fan_in + fan_out)), biases by PyTorch's default
initialise = partial(cyclegan.initialise, init=partial(nn.init.xavier_normal_, gain=0.02), zero_bias=False)


class GcGAN(CycleGAN):
    """GcGAN: one generator, two patch discriminators; consistency under f replaces the cycle."""

    options, defaults = of_method("gcgan")
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G_AB",)}
    training_networks = ("G_gc_AB", "D_B", "D_gc_B")

    def build(self, a) -> dict[str, nn.Module]:
        self.G = self.G_gc = initialise(Generator(a.img_ch, a.ch, a.n_res))
        if not a.share:
            self.G_gc = initialise(Generator(a.img_ch, a.ch, a.n_res))
        self.D, self.D_gc = (initialise(Discriminator(a.img_ch, a.ch)) for _ in range(2))
        self.pools = {name: ImagePool(self.args.pool_size, f"pool_{name}") for name in ("B", "gc_B")}
        self.f, self.f_inverse = GEOMETRIES[self.args.geometry]
        generators = {"G_AB": self.G} if a.share else {"G_AB": self.G, "G_gc_AB": self.G_gc}
        return generators | {"D_B": self.D, "D_gc_B": self.D_gc}

    @classmethod
    def default_load_size(cls, args) -> int:
        return round(args.img_size * 288 / 256)

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("G", self.generator_objective, total="G"),
            Update("D", self.discriminator_objective, total="D_B", sample=self.exchange),
        )

    def exchange(self, batch, s, t):
        """The fakes that the Ds see: new ones, or old ones from the pools."""
        batch["old"] = self.pools["B"].exchange(batch["fake"], self.draw)
        batch["old_gc"] = self.pools["gc_B"].exchange(batch["fake_gc"], self.draw)

    def translate_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """G(x) and G(f(x))."""
        if self.G_gc is self.G:
            return self.G(torch.cat((x, self.f(x)))).chunk(2)  # in one batch
        return self.G(x), self.G_gc(self.f(x))

    def generator_objective(self, batch, s, t):
        """Fool both discriminators, commute with f (geometry), leave pictures of B alone (identity)."""
        args = self.args
        inputs = torch.cat((batch[s], batch[t])) if args.identity > 0 else batch[s]
        (fake, *same), (fake_gc, *same_gc) = (y.split(len(batch[s])) for y in self.translate_both(inputs))
        batch["fake"], batch["fake_gc"] = fake.detach(), fake_gc.detach()  # the D step sees them as before G's update
        adversarial, adversarial_gc = lsgan(self.D(fake), 1), lsgan(self.D_gc(fake_gc), 1)
        terms = {"G_AB": args.lambda_G * adversarial, "G_gc_AB": args.lambda_G * adversarial_gc}
        # The program adds |fake - f^-1(fake_gc)| and |fake_gc - f(fake)|, equal in value, with the second picture of
        # each detached: together the paper's gradient at twice its value.
        difference = F.l1_loss(fake, self.f_inverse(fake_gc))
        terms["gc"] = args.lambda_AB * args.lambda_gc * (difference + difference.detach())
        for name, outputs, real in (("idt", same, batch[t]), ("idt_gc", same_gc, self.f(batch[t]))):
            for y in outputs:  # one, or none
                terms[name] = args.lambda_AB * args.identity * F.l1_loss(y, real)
        return sum(terms.values()), terms

    @classmethod
    def term_weights(cls, args):
        found = {"G_AB": args.lambda_G, "G_gc_AB": args.lambda_G, "gc": 2 * args.lambda_AB * args.lambda_gc}
        return found | dict.fromkeys(("idt", "idt_gc"), args.lambda_AB * args.identity)

    def discriminator_objective(self, batch, s, t):
        """Tell real from fake in B, original and transformed: 1 on real, 0 on fakes from the pools."""
        original = self.D, batch[t], batch["old"]
        transformed = self.D_gc, self.f(batch[t]), batch["old_gc"]
        loss = 0.0
        for D, real, old in (original, transformed):
            on_real, on_fake = D(torch.cat((real, old))).chunk(2)
            loss = loss + (lsgan(on_real, 1) + lsgan(on_fake, 0)) / 2
        return loss, {}

    # ------------------------------------------------------------------------------- pictures, files

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G(x)

    def visuals(self, x, s, t):
        """x, G(x), f^-1(G(f(x)))."""
        return [x, self.G(x), self.f_inverse(self.G_gc(self.f(x)))]

    @classmethod
    def infer_options(cls, networks):
        return super().infer_options(networks) | {"share": "G_gc_AB" not in networks}
