"""GcGAN (Fu, Gong, Wang, Batmanghelich, Zhang, Tao, "Geometry-Consistent Generative Adversarial Networks for One-Sided
Unsupervised Domain Mapping", CVPR 2019, arXiv 1809.05852).

One generator G draws B from pictures x of A, and from f(x), the same picture turned by 90 degrees or upside down; what
it draws must turn in the same way.  D_B judges plain pictures of B, D_gc_B turned ones (gc: geometry-consistent).

    fake = G(x_A)    fake_gc = G(f(x_A))                                 mse, | |: means over all elements

    G step: min over G            lambda_G [mse(D_B(fake), 1) + mse(D_gc_B(fake_gc), 1)]
                                  + lambda_AB lambda_gc |fake - f^-1(fake_gc)|
                                  + lambda_AB identity [|G(x_B) - x_B| + |G(f(x_B)) - f(x_B)|]
    D step: min over D_B, D_gc_B  (mse(D_B(x_B), 1) + mse(D_B(old fake), 0)) / 2     and the same of turned pictures

The fakes that the Ds see are drawn from pools of earlier ones, one pool each.  Networks, pools and whatever else is not
said here are CycleGAN's.  As in the authors' program, the rate begins to fall an epoch early, and is 0 in the last one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.cyclegan import SCHEDULE, CycleGAN, Discriminator, Generator, ImagePool, epoch_rate, mse
from options import Option, boolean, natural, weight
from training.method import Update


def quarter(x: Tensor) -> Tensor:
    """Turned by 90 degrees, clockwise."""
    return x.rot90(-1, (2, 3))


def quarter_back(x: Tensor) -> Tensor:
    return x.rot90(1, (2, 3))


def upside_down(x: Tensor) -> Tensor:
    return x.flip(2)


GEOMETRIES = {"rot": (quarter, quarter_back), "vf": (upside_down, upside_down)}  # f, f^-1


def initialise(net: nn.Module, gain: float = 0.02) -> nn.Module:
    """Weights of all convolutions N(0, gain^2 2 / (fan_in + fan_out)); biases as PyTorch makes them."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_normal_(layer.weight, gain)
    return net.to(memory_format=torch.channels_last)


class GcGAN(CycleGAN):
    """GcGAN: one generator, two patch discriminators, consistency under a turn in place of cycles."""

    options = (
        Option("model", "n_res", natural, 9, "residual blocks of a generator; 6 in the paper at 128 pixels"),
        Option("model", "share", boolean, True, "one generator for plain and turned pictures; false: one for each, the "
               "authors' choice for horse2zebra and summer2winter"),
        Option("loss", "geometry", str, "rot", "f: rot, a quarter clockwise, or vf, upside down", tuple(GEOMETRIES)),
        Option("loss", "lambda_G", weight, 1.0, "weight of the adversarial terms"),
        Option("loss", "lambda_AB", weight, 10.0, "weight of the geometry and identity terms together"),
        Option("loss", "lambda_gc", weight, 2.0, "weight of the geometry terms in it"),
        Option("loss", "identity", weight, 0.5, "weight of the identity terms in it; 0: none"),
        Option("loss", "pool_size", natural, 50, "old fakes that each discriminator sees; 0: none"),
        *SCHEDULE,
    )  # fmt: skip
    defaults = {"lr": 2e-4, "batch_size": 8, "iteration": 33_400}  # horse2zebra: 200 epochs of 167 steps
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G_AB",)}

    def build(self, a) -> dict[str, nn.Module]:
        self.G = self.G_gc = initialise(Generator(a.img_ch, a.ch, a.n_res))
        if not a.share:
            self.G_gc = initialise(Generator(a.img_ch, a.ch, a.n_res))
        self.D, self.D_gc = (initialise(Discriminator(a.img_ch, a.ch)) for _ in range(2))
        self.pools = {name: ImagePool(self.args.pool_size, f"pool_{name}") for name in ("B", "gc_B")}
        self.turn, self.turn_back = GEOMETRIES[self.args.geometry]
        generators = {"G_AB": self.G} if a.share else {"G_AB": self.G, "G_gc_AB": self.G_gc}
        return generators | {"D_B": self.D, "D_gc_B": self.D_gc}

    def trained(self):
        nets = self._networks.items()
        return {kind: [p for name, net in nets if name[0] == kind for p in net.parameters()] for kind in "GD"}

    @property
    def load_side(self) -> int:
        return round(self.args.img_size * 288 / 256)

    def lr(self, step: int) -> float:
        return epoch_rate(self.args, step, shift=1)

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("G", self.generator_objective, total="G"),
            Update("D", self.discriminator_objective, total="D_B", sample=self.exchange),
        )

    def exchange(self, x, s, t):
        """New fakes for ones from the pools."""
        x["old"] = self.pools["B"].exchange(x["fake"], self.draw)
        x["old_gc"] = self.pools["gc_B"].exchange(x["fake_gc"], self.draw)

    def draw_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is drawn from x and from f(x)."""
        if self.G_gc is self.G:
            return self.G(torch.cat((x, self.turn(x)))).chunk(2)  # in one batch
        return self.G(x), self.G_gc(self.turn(x))

    def generator_objective(self, x, s, t):
        """Fool both judges, turn with the picture (geometry), leave what is in B as it is (identity)."""
        args = self.args
        sources = torch.cat((x[s], x[t])) if args.identity > 0 else x[s]
        (fake, *same), (fake_gc, *same_gc) = (y.split(len(x[s])) for y in self.draw_both(sources))
        x["fake"], x["fake_gc"] = fake.detach(), fake_gc.detach()  # D sees them as they were before G moved
        terms = {"G_AB": args.lambda_G * mse(self.D(fake), 1), "G_gc_AB": args.lambda_G * mse(self.D_gc(fake_gc), 1)}
        # The program adds |fake - f^-1(fake_gc)| and |fake_gc - f(fake)|, equal in value, the second picture of each a
        # constant: together the gradient of one, as in the paper, at twice its value.
        apart = F.l1_loss(fake, self.turn_back(fake_gc))
        terms["gc"] = args.lambda_AB * args.lambda_gc * (apart + apart.detach())
        for name, drawn, real in (("idt", same, x[t]), ("idt_gc", same_gc, self.turn(x[t]))):
            for y in drawn:  # one, or none
                terms[name] = args.lambda_AB * args.identity * F.l1_loss(y, real)
        return sum(terms.values()), terms

    def discriminator_objective(self, x, s, t):
        """Tell real from fake in B, plain and turned: 1 on real, 0 on fakes from the pools."""
        plain = self.D, x[t], x["old"]
        turned = self.D_gc, self.turn(x[t]), x["old_gc"]
        loss = 0.0
        for D, real, old in (plain, turned):
            on_real, on_fake = D(torch.cat((real, old))).chunk(2)
            loss = loss + (mse(on_real, 1) + mse(on_fake, 0)) / 2
        return loss, {}

    # ------------------------------------------------------------------------------- pictures, files

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G(x)

    def visuals(self, x, s, t):
        """Input, translation, and that of the turned input, turned back."""
        return [x, self.G(x), self.turn_back(self.G_gc(self.turn(x)))]

    @classmethod
    def infer_options(cls, networks):
        return super().infer_options(networks) | {"share": "G_gc_AB" not in networks}
