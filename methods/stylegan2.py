"""StyleGAN2's layers (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, arXiv
1912.04958) without styles, of which only the normalisation of kernels remains; and SinCUT's networks made of them.

Weights are N(0,1), scaled at use (equalised learning rate); padding is zero.  All layers can be differentiated twice,
as the gradient penalty of the discriminator needs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layers

SLOPE, GAIN = 0.2, math.sqrt(2)  # of every leaky ReLU; the gain applies to both signs

# -------------------------------------------------------------------------------------------- layers


class EqualConv(nn.Module):
    """Convolution with gain * weight / sqrt(fan in): (N,I,H,W) -> (N,O,.,.)."""

    def __init__(self, i: int, o: int, k: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i, k, k))
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor, gain: float = 1.0, bias: Tensor | None = None) -> Tensor:
        weight = self.weight * (gain / math.sqrt(self.weight[0].numel()))
        conv2d = F.conv2d if self.training else layers.conv2d_without_gradient
        return conv2d(x, weight, bias, self.stride, self.padding)


class Activation(nn.Module):
    """sqrt(2) leaky_relu(x + bias)."""

    def __init__(self, c: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias, SLOPE) * GAIN


class Blur(nn.Module):
    """Each channel convolved with gain * outer([1,3,3,1]) / 64."""

    def __init__(self, padding: int, gain: int = 1):
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", gain * torch.outer(row, row) / 64)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return layers.blur(x, self.kernel, self.padding)


class ConvLayer(nn.Sequential):
    """Convolution and activation; with `down` a blur first, and stride 2."""

    def __init__(self, i: int, o: int, k: int, down: bool = False):
        conv = [Blur(2), EqualConv(i, o, k, stride=2)] if down else [EqualConv(i, o, k, padding=k // 2)]
        super().__init__(*conv, Activation(o))

    def forward(self, x: Tensor) -> Tensor:
        *blur, conv, activation = self
        for layer in blur:
            x = layer(x)
        # the gain goes into weight and bias, before the leaky ReLU: the same result without a pass over the features
        return F.leaky_relu_(conv(x, GAIN, GAIN * activation.bias.flatten()), SLOPE)


class ResBlock(nn.Module):
    """(two convolutions(x) + x) / sqrt(2); with `down` at half the size."""

    def __init__(self, i: int, o: int, down: bool = False):
        super().__init__()
        self.conv1 = ConvLayer(i, i, 3)
        self.conv2 = ConvLayer(i, o, 3, down)
        self.skip = nn.Sequential(Blur(1), EqualConv(i, o, 1, stride=2)) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)).div_(math.sqrt(2))


class UpConv(nn.Module):
    """Transposed convolution, kernels normalised per output channel, then a blur: (N,I,H,W) -> (N,O,2H,2W)."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, o, i, 3, 3))
        self.blur = Blur(1, gain=4)

    def forward(self, x: Tensor) -> Tensor:
        W = self.weight[0] / math.sqrt(self.weight[0, 0].numel())
        W = W * (W.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        return self.blur(F.conv_transpose2d(x, W.transpose(0, 1), stride=2))  # (N,O,2H+1,2W+1) -> (N,O,2H,2W)


class Noise(nn.Module):
    """x + weight * noise (N,1,H,W)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return x if noise is None else x + self.weight * noise


class StyledConv(nn.Module):
    """StyleGAN2's layer without a style: up-sampling convolution, noise, activation."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.conv = UpConv(i, o)
        self.noise = Noise()
        self.activate = Activation(o)

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return self.activate(self.noise(self.conv(x), noise))


class EqualLinear(nn.Linear):
    """x @ (weight / sqrt(fan in)).T + bias, optionally an activation: (N,I) -> (N,O)."""

    def __init__(self, i: int, o: int, activate: bool = False):
        super().__init__(i, o)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)
        return F.leaky_relu(x, SLOPE) * GAIN if self.activate else x


# ------------------------------------------------------------------------------------------ networks


def widths_of_G(ch: int, size: int) -> list[int]:
    """Channels at the size of crops and at half of it."""
    return [min(512 * ch // r, 512) if r <= 32 else 512 * ch // r for r in (size, size // 2)]


def widths_of_D(ndf: int, size: int) -> list[int]:
    """Channels at the size of crops, half of it, ..., 4."""
    sides = [size >> k for k in range(size.bit_length() - 2)]
    return [min(256 * ndf // r, 384) if r <= 32 else 256 * ndf // r for r in sides]


class Encoder(nn.Module):
    """Pictures (N,3,H,W) -> code (N,160,H/2,W/2), for widths 80 and 160."""

    def __init__(self, img_ch: int, first: int, second: int, blocks: int):
        super().__init__()
        rest = [ResBlock(second, second) for _ in range(blocks)]
        self.convs = nn.Sequential(
            nn.Identity(), ConvLayer(img_ch, first, 1), ResBlock(first, second, down=True), *rest
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)

    def features(self, x: Tensor, last: int | None = None) -> list[Tensor]:
        """The outputs of all layers up to number `last` (default: all); number 0 is the picture itself."""
        return [x := layer(x) for layer in self.convs[: None if last is None else last + 1]]


class Decoder(nn.Module):
    """Code (N,160,H/2,W/2), noise (N,1,H,W) or None -> pictures (N,3,H,W), unbounded after a leaky ReLU."""

    def __init__(self, img_ch: int, first: int, second: int, blocks: int):
        super().__init__()
        rest = [ResBlock(second, second) for _ in range(blocks)]
        self.convs = nn.Sequential(*rest, StyledConv(second, first), ConvLayer(first, img_ch, 1))

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        *blocks, up, to_picture = self.convs
        for block in blocks:
            z = block(z)
        return to_picture(up(z, noise))


class Generator(nn.Module):
    """Pictures (N,3,H,W) with even sides -> (N,3,H,W)."""

    def __init__(self, img_ch: int, first: int, second: int, blocks: int):
        super().__init__()
        self.encoder = Encoder(img_ch, first, second, blocks)
        self.decoder = Decoder(img_ch, first, second, blocks)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.decoder(self.encoder(x), noise)


class Discriminator(nn.Module):
    """Crops (N,3,R,R) -> logits (N,1): down-sampled to 4 pixels, then two linear layers."""

    def __init__(self, img_ch: int, widths: list[int]):
        super().__init__()
        downs = [ResBlock(i, o, down=True) for i, o in zip(widths, widths[1:], strict=False)]
        self.convs = nn.Sequential(ConvLayer(img_ch, widths[0], 1), *downs)
        self.final_conv = ConvLayer(widths[-1], widths[-1], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(16 * widths[-1], widths[-1], activate=True), EqualLinear(widths[-1], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.final_linear(self.final_conv(self.convs(x)).flatten(1))  # (N,c,4,4) -> (N,16c) -> (N,1)
