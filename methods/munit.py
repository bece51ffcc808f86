"""MUNIT (Huang, Liu, Belongie, Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018,
arXiv 1804.04732).

A picture is encoded as a content c, feature maps with the same meaning in both domains, and a style s of its domain, a
few numbers with the prior N(0,1).  gen_d encodes and decodes pictures of domain d:

    (c_A, s'_A) = E_A(x_A)      x_AA = G_A(c_A, s'_A)      x_AB = G_B(c_A, s_B), s_B ~ N(0,1)
    (c'_A, s''_B) = E_B(x_AB)   x_ABA = G_A(c'_A, s'_A)

    D step: min over dis_a, dis_b   gan_w [mean (D_B(x_AB))^2 + mean (D_B(x_B) - 1)^2]
    G step: min over gen_a, gen_b   gan_w mean (D_B(x_AB) - 1)^2 + recon_x_w |x_AA - x_A|
                                    + recon_c_w |c'_A - c_A| + recon_s_w |s''_B - s_B|
                                    + recon_x_cyc_w |x_ABA - x_A|          and with A and B swapped

Each discriminator has three scales, whose terms are summed.  Left out is the perceptual loss (vgg_w), which the
authors use for large street scenes.  The file holds layers, networks, what MUNIT and UNIT share, and MUNIT.
"""

import re
from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import Conv2d, InstanceNorm, adaptive_instance_norm, conv2d, reflect, std_layer_norm, upsampled_conv2d
from methods.cyclegan import Chain, initialise, lsgan
from methods.styles import Styled
from options import of_method
from training.method import Update
from training.trainer import Trainer

# ------------------------------------------------------------------------------- layers and networks


class AdaIN(nn.Module):
    """Instance normalisation, then shift and scale by a code (N,2,C,1,1)."""

    def __init__(self, c: int):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(c))  # unused; in existing checkpoints
        self.register_buffer("running_var", torch.ones(c))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        shift, scale = code.unbind(1)
        return adaptive_instance_norm(x, scale, shift)


class LayerNorm(nn.Module):
    """Layer normalisation of each sample; gamma and beta per channel."""

    def __init__(self, c: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(c))
        self.beta = nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        return std_layer_norm(x, self.gamma, self.beta)


class Block(nn.Module):
    """Up-sampling by 2 if `up`, reflection padding, convolution, normalisation, activation.

    norm: a class or None; activation: in place.
    """

    def __init__(self, c_in: int, c_out: int, k: int, stride: int = 1, norm=None, activation=F.relu_, up=False):
        super().__init__()
        if norm:  # before conv, as in existing checkpoints
            self.norm = norm() if norm is InstanceNorm else norm(c_out)
        self.conv = Conv2d(c_in, c_out, k, stride)
        self.stride, self.width, self.activation, self.up = stride, (k - stride + 1) // 2, activation, up
        # instance normalisation removes a bias: such a bias stays in checkpoints, unused
        self.biased = norm not in (InstanceNorm, AdaIN)

    def forward(self, x: Tensor, *code: Tensor) -> Tensor:
        W, bias = self.conv.weight, self.conv.bias if self.biased else None
        x = upsampled_conv2d(x, W, bias) if self.up else conv2d(reflect(x, self.width), W, bias, self.stride)
        if hasattr(self, "norm"):
            x = self.norm(x, *code)
        return self.activation(x) if self.activation else x


class ResBlock(nn.Module):
    """x + two Blocks(x); nothing after the sum."""

    def __init__(self, c: int, norm):
        super().__init__()
        self.model = nn.Sequential(Block(c, c, 3, norm=norm), Block(c, c, 3, norm=norm, activation=None))

    def forward(self, x: Tensor, *codes: Tensor) -> Tensor:
        first, second = self.model
        return second(first(x, *codes[:1]), *codes[1:]).add_(x)


class ResBlocks(nn.Module):
    """n residual blocks; codes (N,2n,2,C,1,1) for adaptive normalisation, in the order of use."""

    def __init__(self, n: int, c: int, norm):
        super().__init__()
        self.model = nn.Sequential(*[ResBlock(c, norm) for _ in range(n)])

    def forward(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        for j, block in enumerate(self.model):
            x = block(x) if codes is None else block(x, *codes[:, 2 * j : 2 * j + 2].unbind(1))
        return x


class ContentEncoder(Chain):
    """Pictures (N,3,S,S) -> content (N,C,S/2^n,S/2^n), C = c 2^n; c base channels, n strided and r residual blocks."""

    def __init__(self, img_ch: int, c: int = 64, n: int = 2, r: int = 4):
        super().__init__()
        down = [Block(c * 2**i, c * 2 ** (i + 1), 4, stride=2, norm=InstanceNorm) for i in range(n)]
        first = Block(img_ch, c, 7, norm=InstanceNorm)  # (N,64,256,256)
        self.model = nn.Sequential(first, *down, ResBlocks(r, c * 2**n, InstanceNorm))  # (N,256,64,64)


class StyleEncoder(Chain):
    """Pictures (N,3,S,S), S >= 16 -> style (N,style_dim,1,1).  No norms: they would remove the style."""

    def __init__(self, img_ch: int, c: int = 64, style_dim: int = 8):
        super().__init__()
        widths = (c, 2 * c, 4 * c, 4 * c, 4 * c)
        down = [Block(a, b, 4, stride=2) for a, b in zip(widths, widths[1:], strict=False)]
        last = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * c, style_dim, 1)]
        self.model = nn.Sequential(Block(img_ch, c, 7), *down, *last)


class Decoder(nn.Module):
    """Content (N,C,h,w), with AdaIN also codes (N,2r,2,C,1,1) -> pictures (N,3,2^n h,2^n w) in [-1,1]."""

    def __init__(self, img_ch: int, c: int = 64, n: int = 2, r: int = 4, norm=AdaIN):
        super().__init__()
        C, ups = c * 2**n, []
        for i in range(n):  # the Block up-samples; Identity keeps the numbers of existing checkpoints
            ups += [nn.Identity(), Block(C >> i, C >> (i + 1), 5, norm=LayerNorm, up=True)]
        last = Block(c, img_ch, 7, activation=torch.tanh)
        self.model = nn.Sequential(ResBlocks(r, C, norm), *ups, last)

    def forward(self, x: Tensor, *codes: Tensor) -> Tensor:
        return self.model[1:](self.model[0](x, *codes))  # (N,256,64,64) -> (N,3,256,256)


class MLP(nn.Module):
    """Style (N,style_dim,1,1) -> shifts and scales of all AdaIN layers (N,numbers)."""

    def __init__(self, style_dim: int, c: int, numbers: int):
        super().__init__()
        hidden = [OrderedDict(fc=nn.Linear(i, c), relu=nn.ReLU(inplace=True)) for i in (style_dim, c)]
        last = OrderedDict(fc=nn.Linear(c, numbers))
        self.model = nn.Sequential(*map(nn.Sequential, (*hidden, last)))

    def forward(self, style: Tensor) -> Tensor:
        return self.model(style.flatten(1))


class Generator(nn.Module):
    """The autoencoder of one domain: pictures -> (content, style) -> pictures."""

    def __init__(self, img_ch: int, c: int = 64, n: int = 2, r: int = 4, style_dim: int = 8, mlp_dim: int = 256):
        super().__init__()
        self.shape = (2 * r, 2, c * 2**n, 1, 1)  # normalisations; shift, scale; channels
        self.enc_style = StyleEncoder(img_ch, c, style_dim)
        self.enc_content = ContentEncoder(img_ch, c, n, r)
        self.dec = Decoder(img_ch, c, n, r)
        self.mlp = MLP(style_dim, mlp_dim, 4 * r * c * 2**n)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N,3,S,S) -> content (N,256,S/4,S/4), style (N,8,1,1)."""
        return self.enc_content(x), self.enc_style(x)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        return self.dec(content, self.mlp(style).unflatten(1, self.shape))


class Discriminator(nn.Module):
    """Pictures (N,3,S,S) -> logits at `scales` scales, finest first: (N,1,S/16,S/16), (N,1,S/32,S/32), ..."""

    def __init__(self, img_ch: int, c: int = 64, n: int = 4, scales: int = 3):
        super().__init__()
        leaky = partial(F.leaky_relu_, negative_slope=0.2)
        widths = [img_ch, *(c * 2**i for i in range(n))]

        def cnn():
            blocks = [Block(a, b, 4, 2, activation=leaky) for a, b in zip(widths, widths[1:], strict=False)]
            return nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 1))

        self.cnns = nn.Sequential(*[cnn() for _ in range(scales)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.cnns[0](x)]
        for cnn in self.cnns[1:]:
            x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            maps.append(cnn(x))
        return maps


def kaiming(weight: Tensor):
    """N(0, 2 / fan_in)."""
    nn.init.normal_(weight, 0.0, (2 / weight[0].numel()) ** 0.5)


def lsgan_of_scales(maps: list[Tensor], target: float) -> Tensor:
    """lsgan, summed over the scales."""
    return sum(lsgan(logits, target) for logits in maps)


# ------------------------------------------------------------------------------------------- method


class SharedContent(Trainer):
    """What MUNIT and UNIT share: an autoencoder and a discriminator per domain, schedule, checkpoints.

    Each defines generator(a); sample_noise(update, batch, s, t), update "D" or "G"; and for --phase info
    generator_parts(G, x), triples (title, a module's name in G, its inputs for pictures x).
    """

    tests_at_load_size = True
    authors_steps = 1_000_000
    inference_networks = {("A", "B"): ("gen_a", "gen_b"), ("B", "A"): ("gen_b", "gen_a")}
    encoder = ""  # the content encoder's name in a generator

    def build(self, a) -> dict[str, nn.Module]:
        self.size_multiple, self.min_size = 2**a.n_downsample, max(16, 2 ** (a.n_downsample + 1))
        self.G = {d: initialise(self.generator(a), kaiming) for d in "AB"}  # G[d] encodes and decodes domain d
        self.D = {d: initialise(Discriminator(a.img_ch, a.dis_dim, a.n_layer, a.num_scales)) for d in "AB"}
        return {"gen_a": self.G["A"], "gen_b": self.G["B"], "dis_a": self.D["A"], "dis_b": self.D["B"]}

    def trained(self):
        pairs = {"gen": self.G, "dis": self.D}
        return {name: [p for net in nets.values() for p in net.parameters()] for name, nets in pairs.items()}

    def lr(self, step: int) -> float:
        """As with the authors' PyTorch 0.4.1; since 1.1 their program drops it one step earlier."""
        drops = (step - 1) // self.args.step_size if self.args.decay_flag else 0
        return self.args.lr * self.args.gamma**drops

    @classmethod
    def default_load_size(cls, args) -> int:
        return args.img_size

    def updates(self):
        return (
            Update("dis", self.discriminator_objective, total="loss_dis_total", sample=partial(self.sample_noise, "D")),
            Update("gen", self.generator_objective, total="loss_gen_total", sample=partial(self.sample_noise, "G")),
        )

    def discriminator_loss(self, real: Tensor, fake: Tensor, t: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Tell real from fake in domain t: 1 on real, 0 on fake, in one batch."""
        maps = self.D[t](torch.cat((real, fake.detach())))
        on_real, on_fake = zip(*(logits.chunk(2) for logits in maps), strict=True)
        loss = lsgan_of_scales(on_real, 1) + lsgan_of_scales(on_fake, 0)
        return self.args.gan_w * loss, {f"loss_dis_{t.lower()}": loss}

    # -------------------------------------------------------------------------- options, checkpoints

    @classmethod
    def check(cls, args) -> str | None:
        least = max(2 ** (args.num_scales - 1 + args.n_layer), 2 ** (args.n_downsample + 1), 16)
        if args.img_size < least:
            given = ", ".join(f"--{name} {getattr(args, name)}" for name in ("num_scales", "n_layer", "n_downsample"))
            return f"--img_size {args.img_size} is too small for {given}, which need {least}"
        if args.img_size % 2**args.n_downsample:
            return f"--img_size {args.img_size} must be divisible by {2**args.n_downsample}, for --n_downsample"
        return None

    @classmethod
    def from_released(cls, found):
        """The authors' gen_01000000.pt is {"a": gen_a, "b": gen_b}, dis_01000000.pt alike; a folder's newest."""
        networks = found
        if "gen_a" not in found:
            files = {kind: max((f for f in found if f.startswith(kind)), default=None) for kind in ("gen_", "dis_")}
            pairs = {kind: found[f] for kind, f in files.items() if isinstance(found.get(f), dict)} or {"gen_": found}
            networks = {kind + d: pair[d] for kind, pair in pairs.items() for d in "ab" if d in pair}
            if (step := (files["gen_"] or "")[4:]).isdecimal() and files["dis_"] == f"dis_{step}":
                networks["start_iter"] = int(step)
        weights = networks.get("gen_a")
        return networks if isinstance(weights, dict) and f"{cls.encoder}.model.0.conv.weight" in weights else None

    @classmethod
    def infer_options(cls, networks):
        gen, dis = networks["gen_a"], networks.get("dis_a")
        first = gen[f"{cls.encoder}.model.0.conv.weight"]
        n = _count(gen, rf"{cls.encoder}\.model\.\d+\.conv\.weight") - 1
        found = {"ch": first.shape[0], "img_ch": first.shape[1], "n_downsample": n}
        found["n_res"] = _count(gen, rf"{cls.encoder}\.model\.{n + 1}\.model\.\d+\.model\.0\.conv\.weight")
        if dis:
            found["dis_dim"] = dis["cnns.0.0.conv.weight"].shape[0]
            found["n_layer"] = _count(dis, r"cnns\.0\.\d+\.conv\.weight")
            found["num_scales"] = _count(dis, r"cnns\.\d+\.0\.conv\.weight")
        return found

    def summary_modules(self):
        G, (*_, discriminators) = self.G["A"], super().summary_modules()
        with torch.no_grad():
            parts = [(*part, getattr(G, part[1])) for part in self.generator_parts(G, discriminators[-1])]
        found = [(title, [f"gen_{d}.{name}" for d in "ab"], net, net, x) for title, name, x, net in parts]
        return [*found, discriminators]


def _count(keys, pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, key)) for key in keys)


class MUNIT(Styled, SharedContent):
    """MUNIT: contents shared by the domains, a style per domain; many translations of one picture."""

    options, defaults = of_method("munit")
    encoder = "enc_content"

    def generator(self, a):
        return Generator(a.img_ch, a.ch, a.n_downsample, a.n_res, a.style_dim, a.mlp_dim)

    # ----------------------------------------------------------------------------- one training step

    def forward(self, batch, s, t):
        """Used by both updates: gen changes only in its own update, which is the last."""
        batch[f"content_{s}"], batch[f"style_{s}"] = self.G[s].encode(batch[s])

    def sample_noise(self, update, batch, s, t):
        batch["style"] = self.draw.normal(f"{update}/style_{t}", len(batch[s]), self.architecture["style_dim"], 1, 1)

    def discriminator_objective(self, batch, s, t):
        fake = self.G[t].decode(batch[f"content_{s}"].detach(), batch["style"])
        return self.discriminator_loss(batch[t], fake, t)

    def generator_objective(self, batch, s, t):
        """From domain s: fool the discriminator of t; reconstruct the picture, its content, and the random style."""
        args, G, a, b = self.args, self.G, s.lower(), t.lower()
        x, content, style = batch[s], batch[f"content_{s}"], batch[f"style_{s}"]
        fake = G[t].decode(content, batch["style"])
        content_again, style_again = G[t].encode(fake)
        adversarial = lsgan_of_scales(self.D[t](fake), 1)
        recon_x = F.l1_loss(G[s].decode(content, style), x)
        recon_c = F.l1_loss(content_again, content)  # gradients through both
        recon_s = F.l1_loss(style_again, batch["style"])
        cycle = F.l1_loss(G[s].decode(content_again, style), x) if args.recon_x_cyc_w > 0 else x.new_zeros(())
        loss = args.gan_w * adversarial + args.recon_x_w * recon_x + args.recon_x_cyc_w * cycle
        loss = loss + args.recon_c_w * recon_c + args.recon_s_w * recon_s
        terms = {f"adv_{b}": adversarial, f"recon_x_{a}": recon_x, f"recon_c_{a}": recon_c, f"recon_s_{b}": recon_s}
        return loss, {f"loss_gen_{name}": term for name, term in {**terms, f"cycrecon_x_{a}": cycle}.items()}

    # ----------------------------------------------------------------------------------- translation

    def inference_keys(self, s, t):
        return {f"gen_{s.lower()}": ("enc_content.",), f"gen_{t.lower()}": ("dec.", "mlp.")}

    def style_keys(self, t):
        return {f"gen_{t.lower()}": ("enc_style.",)}

    def content(self, x, s):
        return self.G[s].enc_content(x)

    def style_of(self, x, t):
        return self.G[t].enc_style(x)

    def random_style(self, t):
        return torch.randn(1, self.architecture["style_dim"], 1, 1).to(self.device)

    def decode(self, content, style, t):
        return self.G[t].decode(content, style)

    @classmethod
    def infer_options(cls, networks):
        first = networks["gen_a"]["mlp.model.0.fc.weight"]
        return super().infer_options(networks) | {"style_dim": first.shape[1], "mlp_dim": first.shape[0]}

    def generator_parts(self, G, x):
        content, style = G.encode(x)
        codes = G.mlp(style).unflatten(1, G.shape)
        parts = [("content encoders", "enc_content", x), ("style encoders", "enc_style", x)]
        return [*parts, ("style networks", "mlp", style), ("decoders", "dec", (content, codes))]
