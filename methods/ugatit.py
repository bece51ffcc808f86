"""U-GAT-IT (Kim, Kim, Kang, Lee, "U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive
Layer-Instance Normalization for Image-to-Image Translation", ICLR 2020, arXiv 1907.10830).

G_B translates A to B and leaves B as it is; G_A does the reverse.  Class activation maps (CAM) weight the features: in
a generator by what tells its source from its target, in a discriminator by what tells real from fake.  Each domain has
two discriminators, a global one (receptive field 286) and a local one (70).

    fake_B = G_B(x_A)    cyc_A = G_A(fake_B)    same_A = G_A(x_A)      c: the CAM logits of a pass

    D step: min over D_G, D_L     adv_weight L_gan       L_gan: least squares, on the logits and on the CAM logits
    G step: min over G_A, G_B     adv_weight L_gan + cycle_weight |cyc_A - x_A| + identity_weight |same_A - x_A|
                                  + cam_weight [bce(c(fake_B), 1) + bce(c(same_A), 0)]       and with A and B swapped

AdaILN normalises the residual blocks of the decoder: the mixture of instance and layer normalisation is learned, gamma
and beta come from the attended features.  All as in the authors' PyTorch program, from which NICE-GAN grew.  NICE-GAN's
paper compares with the light version after 100,000 of the authors' 1,000,000 steps: the defaults here.  The file holds
the layers, the networks and the method.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from images.encode import jet
from layers import Conv2d, ReflectionPad2d, SNConv2d, SNLinear, Stack, instance_layer_norm, power_iterations, reflect
from methods.cyclegan import ResnetBlock, lsgan, normed
from networks import AdaILNBlock, down, options_of_generator
from options import of_method
from training.method import Update
from training.trainer import Trainer

# ------------------------------------------------------------------------------------------ networks


class AdaILN(nn.Module):
    """(rho IN(x) + (1 - rho) LN(x)) gamma + beta, gamma and beta (N,C) given by the caller (eq. 1)."""

    def __init__(self, C: int, rho: float = 0.9):
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, C, 1, 1), rho))  # clipped to [0,1] after each update

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        rho = self.rho.flatten(2)
        return instance_layer_norm(x, torch.cat((rho, 1 - rho), 2), gamma, beta)


class ILN(AdaILN):
    """The same with learned gamma and beta; starts as layer normalisation."""

    def __init__(self, C: int):
        super().__init__(C, rho=0.0)
        self.gamma = nn.Parameter(torch.ones(1, C, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, self.gamma, self.beta)


def attend(f: Tensor, conv1x1: nn.Conv2d, gap: Tensor, gmp: Tensor) -> Tensor:
    """conv1x1 of [gap * f, gmp * f]: features f (N,C,H,W) weighted by CAM weights gap, gmp (1,C) -> (N,C,H,W)."""
    # scale conv1x1's columns instead and add them up, as both act on the same f: [f, f] is never formed
    first, second = (conv1x1.weight * torch.cat((gap, gmp), 1)[..., None, None]).chunk(2, 1)
    return F.conv2d(f, first + second, conv1x1.bias)


class GeneratorOutput(NamedTuple):
    """A generator's output for N pictures."""

    output: Tensor  # (N,3,256,256) in [-1,1]
    cam_logit: Tensor  # (N,2), of average- and of maximum-pooled features: from the source (1) or the target (0)?
    heatmap: Tensor  # (N,1,64,64), sum of the attended features


class Generator(nn.Module):
    """Pictures (N,3,S,S) -> GeneratorOutput; c base channels, n residual blocks a side.  Shapes for S = 256, c = 64.

    light pools the features before FC; the full network flattens them, so it accepts one S only.
    """

    def __init__(self, img_ch: int = 3, c: int = 64, n: int = 4, img_size: int = 256, light: bool = True):
        super().__init__()
        m, self.light = 4 * c, light
        self.gap_fc, self.gmp_fc = nn.Linear(m, 1, bias=False), nn.Linear(m, 1, bias=False)
        self.conv1x1 = nn.Conv2d(2 * m, m, 1)
        self.gamma, self.beta = nn.Linear(m, m, bias=False), nn.Linear(m, m, bias=False)
        self.blocks = [AdaILNBlock(m, AdaILN) for _ in range(n)]
        for j, block in enumerate(self.blocks, 1):
            self.add_module(f"UpBlock1_{j}", block)
        self.DownBlock = nn.Sequential(
            ReflectionPad2d(3),
            *normed(Conv2d(img_ch, c, 7, bias=False)),  # (N,64,256,256)
            ReflectionPad2d(1),
            *normed(Conv2d(c, 2 * c, 3, stride=2, bias=False)),  # (N,128,128,128)
            ReflectionPad2d(1),
            *normed(Conv2d(2 * c, m, 3, stride=2, bias=False)),  # (N,256,64,64)
            *[ResnetBlock(m, bias=False) for _ in range(n)],
        )
        inputs = m if light else m * (img_size // 4) ** 2
        first, second = nn.Linear(inputs, m, bias=False), nn.Linear(m, m, bias=False)
        self.FC = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
        up = []
        for width in (m, m // 2):
            conv = Conv2d(width, width // 2, 3, bias=False)
            up += [nn.Upsample(scale_factor=2), ReflectionPad2d(1), conv, ILN(width // 2), nn.ReLU(inplace=True)]
        self.UpBlock2 = nn.Sequential(*up, ReflectionPad2d(3), Conv2d(c, img_ch, 7, bias=False), nn.Tanh())

    def forward(self, x: Tensor) -> GeneratorOutput:
        f = self.DownBlock(x)  # (N,256,64,64)
        cam_logit = torch.cat((self.gap_fc(f.mean((2, 3))), self.gmp_fc(f.amax((2, 3)))), 1)  # (N,2)
        z = F.relu_(attend(f, self.conv1x1, self.gap_fc.weight, self.gmp_fc.weight))  # (N,256,64,64)
        s = self.FC(z.mean((2, 3)) if self.light else z.flatten(1))  # (N,256)
        gamma, beta, y = self.gamma(s), self.beta(s), z
        for block in self.blocks:
            y = block(y, gamma, beta)  # (N,256,64,64)
        return GeneratorOutput(self.UpBlock2(y), cam_logit, z.sum(1, keepdim=True))


class DiscriminatorOutput(NamedTuple):
    """A discriminator's output for N pictures."""

    logit: Tensor  # (N,1,6,6) globally, (N,1,30,30) locally: real (1) or fake (0)?
    cam_logit: Tensor  # (N,2), the same, from average- and maximum-pooled features
    heatmap: Tensor  # (N,1,7,7), (N,1,31,31), sum of the attended features

    def heads(self, name: str) -> dict[str, Tensor]:
        """Both logits, by the names of their loss terms."""
        return {name: self.logit, f"{name}_cam": self.cam_logit}


class Discriminator(nn.Module):
    """Pictures (N,3,S,S) in [-1,1] -> DiscriminatorOutput; n_layers 7: global, 5: local.  Shapes for the global one."""

    def __init__(self, img_ch: int = 3, c: int = 64, n_layers: int = 7):
        super().__init__()
        widths = [img_ch] + [c * 2**i for i in range(n_layers - 1)]
        deepest = widths[-1]
        self.gap_fc, self.gmp_fc = SNLinear(deepest, 1), SNLinear(deepest, 1)
        self.conv1x1 = nn.Conv2d(2 * deepest, deepest, 1)
        self.conv = SNConv2d(deepest, 1, 4, bias=False)
        strides = [2] * (n_layers - 2) + [1]
        layers = zip(widths, widths[1:], strides, strict=False)
        self.model = Stack(*[layer for c_in, c_out, stride in layers for layer in down(c_in, c_out, stride)])

    def forward(self, x: Tensor, iteration=None) -> DiscriminatorOutput:
        """iteration: which power iteration's sigma each chunk of the batch uses (layers.spectral_norm)."""
        f = self.model(x, iteration)  # (N,1024,8,8) -> (N,2048,7,7)
        pooled = self.gap_fc(f.mean((2, 3)), iteration), self.gmp_fc(f.amax((2, 3)), iteration)
        cam_logit = torch.cat(pooled, 1)  # (N,2)
        # as released, attention takes the raw CAM weights, the CAM logits the normalised ones; both train them
        z = F.leaky_relu_(attend(f, self.conv1x1, self.gap_fc.weight_orig, self.gmp_fc.weight_orig), 0.2)
        return DiscriminatorOutput(self.conv(reflect(z), iteration), cam_logit, z.sum(1, keepdim=True))


def bce(logits: Tensor, target: float) -> Tensor:
    """Binary cross entropy of logits with one target for all, the mean over all elements."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


# ------------------------------------------------------------------------------------------- method


class UGATIT(Trainer):
    """U-GAT-IT: two generators with attention, a global and a local discriminator per domain."""

    options, defaults = of_method("ugatit")
    name_in_paper = "U-GAT-IT"
    authors_steps = 1_000_000
    inference_networks = {("A", "B"): ("genA2B",), ("B", "A"): ("genB2A",)}

    def build(self, a) -> dict[str, nn.Module]:
        G_args = dict(n=a.n_res, img_size=a.img_size, light=a.light)
        self.G = {d: Generator(a.img_ch, a.ch, **G_args).to(memory_format=torch.channels_last) for d in "BA"}
        self.D = {d: {"G": Discriminator(a.img_ch, a.ch, 7), "L": Discriminator(a.img_ch, a.ch, 5)} for d in "AB"}
        self.rhos = [p for G in self.G.values() for key, p in G.named_parameters() if key.endswith("rho")]
        self.size_bound = not a.light
        discriminators = {f"dis{scale}{d}": self.D[d][scale] for scale in "GL" for d in "AB"}
        return {"genA2B": self.G["B"], "genB2A": self.G["A"], **discriminators}

    def trained(self):
        nets = self._networks.items()
        return {name: [p for key, net in nets if key.startswith(kind) for p in net.parameters()]
                for name, kind in (("D", "dis"), ("G", "gen"))}  # fmt: skip

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("D", self.discriminator_objective, total="d_loss"),
            Update("G", self.generator_objective, total="g_loss"),
        )

    def forward(self, batch, s, t):
        """Used by both updates: the generators change only in the last."""
        batch[f"fake_{t}"] = self.G[t](batch[s])

    def before(self, update: str):
        """The power iterations of an update's passes need only the weights: real (0) and fake (1), or fake alone."""
        for discriminators in self.D.values():
            for D in discriminators.values():
                power_iterations(D, 2 if update == "D" else 1)

    @torch.no_grad()
    def after(self, update: str):
        if update == "G":
            for rho in self.rhos:
                rho.clamp_(0, 1)

    def discriminator_objective(self, batch, s, t):
        """Tell real from fake in domain t: logits and CAM logits are 1 on real and 0 on fake pictures."""
        # in one batch: the weights are read once, real and fake each have their own sigma
        both, terms = torch.cat((batch[t], batch[f"fake_{t}"].output.detach())), {}
        for scale, D in self.D[t].items():
            for head, logits in D(both, iteration=(0, 1)).heads(f"{scale}{t}").items():
                on_real, on_fake = logits.chunk(2)
                terms[f"d_{head}"] = lsgan(on_real, 1) + lsgan(on_fake, 0)
        loss = self.args.adv_weight * sum(terms.values())
        return loss, {**terms, f"d_{t}": loss}

    def generator_objective(self, batch, s, t):
        """From domain s: fool the discriminators of t, return to s (cycle), identity, tell source from target (CAM)."""
        args, x, fake, adversarial = self.args, batch[s], batch[f"fake_{t}"], {}
        for scale, D in self.D[t].items():
            heads = D(fake.output, iteration=(0,)).heads(f"{scale}{t}")
            adversarial |= {f"g_{head}": lsgan(logits, 1) for head, logits in heads.items()}
        back = self.G[s](torch.cat((fake.output, x)))  # in one batch
        (cyc, same), (_, cam_same) = back.output.chunk(2), back.cam_logit.chunk(2)
        cycle, identity = F.l1_loss(cyc, x), F.l1_loss(same, x)
        from_s, from_t = bce(fake.cam_logit, 1), bce(cam_same, 0)  # a generator's source, and its target
        # g_A and cam_A collect the terms of D_A and G_A: both directions contribute
        g_t = args.adv_weight * sum(adversarial.values()) + args.cam_weight * from_s
        g_s = args.cycle_weight * cycle + args.identity_weight * identity + args.cam_weight * from_t
        terms = {f"cycle_{s}": cycle, f"identity_{s}": identity, f"cam_{t}": from_s, f"cam_{s}": from_t}
        return g_t + g_s, {**adversarial, **terms, f"g_{t}": g_t, f"g_{s}": g_s}

    # ------------------------------------------------------------------------------- pictures, files

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G[t](x).output

    def visuals(self, x, s, t):
        """Input; heatmap and output of identity, translation and cycle, as the authors' program saves them."""
        fake, shown = self.G[t](x), [x]
        for generated in (self.G[s](x), fake, self.G[s](fake.output)):
            shown += [jet(generated.heatmap[0], x.shape[-1])[None], generated.output]
        return shown

    @classmethod
    def check(cls, args) -> str | None:
        if args.img_size < 96:
            return f"--img_size {args.img_size} is too small for the global discriminators, which need 96"
        return None

    @classmethod
    def infer_options(cls, networks):
        weights = networks["genA2B" if "genA2B" in networks else "genB2A"]
        first = weights["DownBlock.1.weight"]
        return {"ch": first.shape[0], "img_ch": first.shape[1], **options_of_generator(weights)}
