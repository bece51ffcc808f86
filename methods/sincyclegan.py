"""CycleGAN between two single pictures: what SinCUT (methods/sincut.py) is compared with in the paper of Park, Efros,
Zhang and Zhu (ECCV 2020, arXiv 2007.15651).

The crops, the networks of StyleGAN2 and the adversarial losses are SinCUT's; patches are not contrasted.  Instead two
generators are consistent in cycles, as in CycleGAN (methods/cyclegan.py, with its names and pools of old fakes):

    G step: min over G_A, G_B   mean softplus(-D_A(G_A(x_A))) + lambda_A |G_B(G_A(x_A)) - x_A|
                                + lambda_B lambda_identity |G_A(x_B) - x_B|          and with A and B swapped
    D step: min over D_A, D_B   (mean softplus(D_A(old fake_B)) + mean softplus(-D_A(x_B))) / 2
                                + lambda_R1 / 2 mean |dD_A(x_B) / dx_B|^2            and with A and B swapped

No program of it was released.  The paper gives neither weights nor rates of this comparison: CycleGAN's weights and
SinCUT's rates are the defaults.
"""

import torch
import torch.nn.functional as F
from torch import nn

from checkpoints.contents import by_name
from methods.cyclegan import CycleGAN, ImagePool
from methods.single_image import FIRST, SingleImage, inferred, judge
from methods.stylegan2 import Discriminator, Generator, widths_of_D, widths_of_G
from options import of_method


class SinCycleGAN(SingleImage, CycleGAN):
    """SinCycleGAN: cycle-consistent translation between two single pictures."""

    options, defaults = of_method("sincyclegan")

    def build(self, a) -> dict[str, nn.Module]:
        blocks, judged = 3 if a.netG == "stylegan2" else 1, a.D_size or a.img_size
        widths = widths_of_G(a.ch, judged), widths_of_D(a.ndf, judged)
        self.G = {d: Generator(a.img_ch, *widths[0], blocks) for d in "BA"}  # G[d] generates domain d
        self.D = {d: Discriminator(a.img_ch, widths[1]) for d in "BA"}  # D[d] judges d
        self.pools = {d: ImagePool(self.args.pool_size, f"pool_{d}") for d in "AB"}
        return {"G_A": self.G["B"], "G_B": self.G["A"], "D_A": self.D["B"], "D_B": self.D["A"]}

    def generator(self, s, t):
        return self.G[t]

    # ----------------------------------------------------------------------------- one training step

    def noise(self, x: torch.Tensor, name: str) -> torch.Tensor | None:
        """The noise of a generator for pictures (N,C,H,W): (N,1,H,W)."""
        return self.draw.normal(f"G/{name}", len(x), 1, *x.shape[2:]) if self.noisy else None

    def generator_objective(self, batch, s, t):
        """From domain s: fool the discriminator of t, return to s (cycle), and leave pictures of t alone (identity)."""
        args, G = self.args, self.G
        lambda_s, lambda_t = (getattr(args, f"lambda_{d}") for d in (s, t))
        both = torch.cat((batch[s], batch[t])) if args.lambda_identity > 0 else batch[s]
        fake, *same = G[t](both, self.noise(both, f"noise_{s}")).split(len(batch[s]))
        weight_of_identity = lambda_t * args.lambda_identity
        identity = weight_of_identity * F.l1_loss(same[0], batch[t]) if same else batch[s].new_zeros(())
        batch[f"fake_{t}"] = fake.detach()  # the D step sees the fakes from before G's update
        adversarial = F.softplus(-self.D[t](self.tiles(fake))).mean()
        cycle = lambda_s * F.l1_loss(G[s](fake, self.noise(fake, f"noise_cycle_{s}")), batch[s])
        # G_A and idt_A belong to the generator from A to B
        return adversarial + cycle + identity, {f"G_{s}": adversarial, f"cycle_{s}": cycle, f"idt_{s}": identity}

    def discriminator_objective(self, batch, s, t):
        """Tell crops of t from fakes of the pool; keep the gradient on the crops small (R1)."""
        real, fake, R1 = judge(self.D[t], self.tiles(batch[t]), self.tiles(batch[f"old_{t}"]), self.args.lambda_R1)
        return (fake + real) / 2 + R1, {f"D_{s}": (fake + real) / 2, f"D_R1_{s}": R1}

    @classmethod
    def term_weights(cls, args):
        return super().term_weights(args) | {f"D_R1_{d}": args.lambda_R1 / 2 for d in "AB"}

    # --------------------------------------------------------------------------- pictures, checkpoints

    @classmethod
    def from_released(cls, found):
        """Checkpoints of this program alone."""
        networks = by_name(found, {"G_A", "G_B"}) or {}
        return networks if any(FIRST in networks.get(name, {}) for name in ("G_A", "G_B")) else None

    @classmethod
    def infer_options(cls, networks):
        G = next(networks[name] for name in ("G_A", "G_B") if name in networks)
        return inferred(G, networks.get("D_A", {}), networks.get("args", {}))

    def summary_modules(self):
        side = self.args.img_size
        x = torch.empty(1, self.args.img_ch, side, side, device=self.device)
        G, D = self.G["B"], self.D["B"]
        return [("generators", ["G_A", "G_B"], G, G, x), ("discriminators", ["D_A", "D_B"], D, D, self.tiles(x)[:1])]
