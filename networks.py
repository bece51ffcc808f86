"""The networks of NICE-GAN (Chen et al., CVPR 2020, arXiv 2003.00273).

A discriminator D = C o E judges images of one domain; its first layers E are the domain's encoder.  A generator G
makes images of one domain from a code.  Existing checkpoints fix the module names (their keys) and the order of
registration (the order of parameters in their optimizer states).  Shapes are for 256 x 256 images and c = 64.
"""

import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layers import ILN, AdaILN, Conv2d, ReflectionPad2d, SNConv2d, SNLinear, Stack, power_iterations, reflect

# ------------------------------------------------------------------------------ encoder, discriminator


def down(c_in: int, c_out: int, stride: int = 2) -> list[nn.Module]:
    """Reflection padding, spectrally normalised convolution 4x4, leaky ReLU."""
    return [
        ReflectionPad2d(1),
        SNConv2d(c_in, c_out, kernel_size=4, stride=stride),
        nn.LeakyReLU(0.2, inplace=True),
    ]


class Encoder(nn.Module):
    """E: the first `shared` layers and the residual attention (paper section 3.2).

    A Discriminator is an Encoder with classifiers; alone it is the independent encoder of the ablation without NICE.

    input_nc: image channels; ndf: base channels c; shared: down-sampling layers; attention: whether CAM weights
    exist; ra: keep the residual in the attention.
    """

    def __init__(self, input_nc: int, ndf: int = 64, shared=2, ra=True, attention: bool = True):
        super().__init__()
        widths = [input_nc] + [ndf * 2**i for i in range(shared)]
        c = widths[-1]
        if attention:
            self.fc = SNLinear(2 * c, 1)
            self.conv1x1 = nn.Conv2d(2 * c, c, kernel_size=1)
            if ra:
                self.lamda = nn.Parameter(torch.zeros(1))
        self.attention, self.ra, self.input_nc = attention, ra, input_nc
        self.model = self._path(widths)

    def _path(self, widths: list[int]) -> Stack:
        pairs = zip(widths, widths[1:], strict=False)
        return Stack(*[m for pair in pairs for m in down(*pair)])

    def features(self, x: Tensor, iteration=None) -> Tensor:
        """Images (N,3,S,S) -> (N,2c,S/4,S/4).  ValueError: another shape."""
        if x.dim() != 4 or x.shape[1] != self.input_nc:
            raise ValueError(f"images (N,{self.input_nc},H,W) in [-1,1] are wanted, not {tuple(x.shape)}")
        return self.model(x, iteration)

    def power_iteration(self, n: int):
        """Do the next n power iterations of all spectrally normalised layers."""
        power_iterations(self, n)

    def attend(self, f: Tensor) -> Tensor:
        """Features f -> code z, same shape: z = leaky(f + lamda * conv1x1(w * [f, f])).

        As in the released program, w is the raw CAM weight, not the normalised one, and learns here too.
        """
        if not self.attention:
            return F.leaky_relu(f, 0.2)
        # w scales conv1x1's columns, and both column blocks see the same f: [f, f] is never formed
        weight = self.conv1x1.weight * self.fc.weight_orig[..., None, None]
        first, second = weight.chunk(2, dim=1)
        r = F.conv2d(f, first + second, self.conv1x1.bias)
        if self.ra:
            lamda = self.lamda if self.lamda.dtype == f.dtype else self.lamda.to(f.dtype)  # no conversion in a graph
            r = torch.addcmul(f, r, lamda)
        return F.leaky_relu(r, 0.2)

    def encode(self, x: Tensor, iteration=None) -> Tensor:
        """Images (N,3,S,S) in [-1,1] -> code z (N,2c,S/4,S/4), without classifiers."""
        return self.attend(self.features(x, iteration))


class Judgement(NamedTuple):
    """The discriminator's outputs for N images; the logits of an absent head are None."""

    local_logits: Tensor | None  # (N,1,30,30), receptive field 70: the paper's C^1
    global_logits: Tensor | None  # (N,1,6,6), receptive field 286: C^2
    cam_logit: Tensor | None  # (N,1), from pooled features of receptive field 10: C^0
    heatmap: Tensor  # (N,1,64,64), sum of z over channels
    z: Tensor  # (N,128,64,64), the code

    def heads(self) -> dict[str, Tensor]:
        """The logits of the existing heads, by name."""
        named = {"local": self.local_logits, "global": self.global_logits, "cam": self.cam_logit}
        return {name: logits for name, logits in named.items() if logits is not None}


class Discriminator(Encoder):
    """D = C o E: an encoder and up to three classifiers (paper figure 3).

    input_nc: image channels; ndf: base channels; n_layers: depth of the global path, at least 6; heads: which of the
    classifiers C^0 (CAM), C^1 (local), C^2 (global) exist.
    Images are (N,input_nc,S,S) in [-1,1] with S / 2^(n_layers-2) >= 3.
    """

    def __init__(self, input_nc: int, ndf: int = 64, n_layers: int = 7, heads=(0, 1, 2), shared=2, ra=True):
        if n_layers < 6:
            raise ValueError(f"n_layers (--n_dis) is {n_layers}; the channel plan needs at least 6")
        super().__init__(input_nc, ndf, shared, ra, attention=0 in heads)
        split = max(shared, n_layers - 4)  # the local and the global head share the layers up to here
        width = [ndf * 2**i for i in range(n_layers)]  # output channels of layer i
        # conv0 and conv1 precede model in existing optimizer states
        if 1 in heads:
            self.conv0 = self._head(2 * width[split - 1])
        if 2 in heads:
            self.conv1 = self._head(2 * width[n_layers - 3])
        self.model = self._modules.pop("model")
        if {1, 2} & set(heads):
            self.Dis0_0 = self._path(width[shared - 1 : split])
        if 1 in heads:
            self.Dis0_1 = Stack(*down(width[split - 1], 2 * width[split - 1], stride=1))
        if 2 in heads:
            self.Dis1_0 = self._path(width[split - 1 : n_layers - 2])
            self.Dis1_1 = Stack(*down(width[n_layers - 3], 2 * width[n_layers - 3], stride=1))
        self.has = frozenset(heads)

    def _head(self, c: int) -> SNConv2d:
        return SNConv2d(c, 1, kernel_size=4, bias=False)

    def forward(self, x: Tensor, iteration=None) -> Judgement:
        """Judge images x (N,3,S,S); iteration: the power iterations of the batch's chunks (_SpectralNorm)."""
        f = self.features(x, iteration)  # (N,128,64,64)
        z = self.attend(f)  # (N,128,64,64)
        cam = local = global_ = None
        if 0 in self.has:
            cam = self.fc(torch.cat((f.mean((2, 3)), f.amax((2, 3))), 1), iteration)  # (N,256) -> (N,1)
        if self.has & {1, 2}:
            trunk = self.Dis0_0(z, iteration)  # (N,256,32,32)
        if 1 in self.has:
            local = self.conv0(reflect(self.Dis0_1(trunk, iteration)), iteration)  # (N,512,31,31) -> (N,1,30,30)
        if 2 in self.has:
            deep = self.Dis1_1(self.Dis1_0(trunk, iteration), iteration)  # (N,1024,8,8) -> (N,2048,7,7)
            global_ = self.conv1(reflect(deep), iteration)  # (N,1,6,6)
        return Judgement(local, global_, cam, z.sum(1, keepdim=True), z)


# ------------------------------------------------------------------------------------------ generator


class AdaILNBlock(nn.Module):
    """Residual block whose two normalisations get gamma and beta from the code."""

    def __init__(self, dim: int, norm: type[nn.Module] = AdaILN):
        super().__init__()
        self.conv1 = Conv2d(dim, dim, kernel_size=3, bias=False)
        self.norm1 = norm(dim)
        self.conv2 = Conv2d(dim, dim, kernel_size=3, bias=False)
        self.norm2 = norm(dim)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        y = F.relu_(self.norm1(self.conv1(reflect(x)), gamma, beta))
        return self.norm2(self.conv2(reflect(y)), gamma, beta).add_(x)


class ResnetGenerator(nn.Module):
    """G: code z (N,2c,S/4,S/4) -> image of its domain (N,output_nc,S,S) in [-1,1].

    input_nc: unused, kept from the released signature; ngf: base channels c; n_blocks: residual blocks; img_size: S,
    used by the full network only; light: pool the code before FC (the paper's network) instead of flattening it;
    shared: layers taken from the discriminator; recompute: recompute the residual blocks in backward instead of
    storing their activations.
    """

    def __init__(self, input_nc, output_nc, ngf=64, n_blocks=6, img_size=256, light=True, shared=2, recompute=False):
        super().__init__()
        m = 4 * ngf
        side = img_size // 4
        self.light, self.shared, self.n_blocks, self.recompute = light, shared, n_blocks, recompute
        self.gamma = nn.Linear(m, m, bias=False)
        self.beta = nn.Linear(m, m, bias=False)
        for k in range(1, n_blocks + 1):
            self.add_module(f"UpBlock1_{k}", AdaILNBlock(m))
        self.FC = nn.Sequential(
            nn.Linear(m if light else m * side * side, m, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(m, m, bias=False),
            nn.ReLU(inplace=True),
        )
        self.UpBlock0 = nn.Sequential(
            ReflectionPad2d(1),
            Conv2d(2 * ngf, m, kernel_size=3),
            ILN(m),
            nn.ReLU(inplace=True),
        )
        if shared == 1:  # replaces the layer that the discriminator no longer shares
            self.Down = nn.Sequential(
                ReflectionPad2d(1),
                nn.Conv2d(ngf, 2 * ngf, kernel_size=4, stride=2),
                nn.LeakyReLU(0.2, inplace=True),
            )
        if shared == 3:  # the third shared layer (S/8) replaces UpBlock0; only its stride is undone
            self.UpBlock0 = nn.Upsample(scale_factor=2, mode="nearest")
        up = []
        for c in (m, m // 2):
            up += [
                ReflectionPad2d(1),
                Conv2d(c, c // 2, kernel_size=3, bias=False),
                ILN(c // 2),
                nn.ReLU(inplace=True),
                nn.Conv2d(c // 2, 2 * c, kernel_size=1),
                nn.PixelShuffle(2),
                ILN(c // 2),
                nn.ReLU(inplace=True),
            ]
        up += [ReflectionPad2d(3), Conv2d(ngf, output_nc, kernel_size=7, bias=False), nn.Tanh()]
        self.UpBlock2 = nn.Sequential(*up)

    def forward(self, z: Tensor) -> Tensor:
        if self.shared == 1:
            z = self.Down(z)
        x = self.UpBlock0(z)  # (N,256,64,64)
        s = self.FC(x.mean((2, 3)) if self.light else x.flatten(1))  # (N,256)
        gamma, beta = self.gamma(s), self.beta(s)  # (N,256) each
        for k in range(1, self.n_blocks + 1):
            block = getattr(self, f"UpBlock1_{k}")
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, gamma, beta, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, gamma, beta)  # (N,256,64,64)
        return self.UpBlock2(x)  # (N,3,256,256)


def options_of_generator(weights: dict) -> dict:
    """n_res and light of a generator with these weights, NICE-GAN's or U-GAT-IT's; of a full one img_size, too."""
    fc, n_res = weights["FC.0.weight"], sum(bool(re.fullmatch(r"UpBlock1_\d+\.conv1\.weight", k)) for k in weights)
    light = fc.shape[1] == fc.shape[0]
    size = {} if light else {"img_size": 4 * round((fc.shape[1] / fc.shape[0]) ** 0.5)}
    return {"n_res": n_res, "light": light, **size}
