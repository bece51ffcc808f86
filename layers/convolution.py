"""Convolution, padding and resampling by their definitions."""

import torch.nn.functional as F
from torch import Tensor, nn

from layers.accelerate import accelerated


@accelerated
def product(x: Tensor, W: Tensor) -> Tensor:
    """x (R,I) times W (I,O), without autograd."""
    return x @ W


@accelerated
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution after zero padding of all sides: (N,C,H,W), (O,C,k,k) -> (N,O,(H+2p-k)//stride+1,...)."""
    return F.conv2d(x, weight, bias, stride, padding)


@accelerated
def conv2d_without_gradient(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0):
    """conv2d, for translation."""
    return F.conv2d(x, weight, bias, stride, padding)


class Conv2d(nn.Conv2d):
    """nn.Conv2d by `conv2d`.

    idle_bias: ignore the bias, because the instance normalisation that follows removes it; checkpoints keep it.
    """

    idle_bias = False

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, None if self.idle_bias else self.bias, self.stride[0], self.padding[0])


@accelerated
def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, more: int) -> Tensor:
    """The adjoint of conv2d: (N,C,h,w), (C,O,k,k) -> (N,O,(h-1)stride-2p+k+more,...)."""
    return F.conv_transpose2d(x, weight, bias, stride, padding, more)


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d by `conv_transpose2d`; idle_bias as in Conv2d."""

    idle_bias = False

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.idle_bias else self.bias
        return conv_transpose2d(x, self.weight, bias, self.stride[0], self.padding[0], self.output_padding[0])


def reflect(x: Tensor, width: int = 1) -> Tensor:
    """Reflection padding on all four sides."""
    return F.pad(x, (width,) * 4, mode="reflect")


class ReflectionPad2d(nn.ReflectionPad2d):
    """nn.ReflectionPad2d by `reflect`."""

    def forward(self, x: Tensor) -> Tensor:
        return reflect(x, self.padding[0])


@accelerated
def blur(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Convolve each channel with `kernel` (k,k), symmetric under a 180 degree turn, after zero padding of all sides."""
    c = x.shape[1]
    return F.conv2d(x, kernel.expand(c, 1, *kernel.shape), padding=padding, groups=c)


@accelerated
def smooth_double(x: Tensor, filt: Tensor) -> Tensor:
    """Double height and width: 3/4 of the nearer neighbour plus 1/4 of the other; the border is replicated.

    (N,C,H,W) -> (N,C,2H,2W); filt (C,1,4,4): (1,3,3,1)/4 along both, the same for each channel.
    """
    return F.conv_transpose2d(F.pad(x, (1,) * 4, mode="replicate"), filt, stride=2, padding=3, groups=x.shape[1])


@accelerated
def upsampled_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Nearest up-sampling, reflection padding, convolution: (N,C,H,W), (O,C,k,k), k odd -> (N,O,2H,2W)."""
    return F.conv2d(reflect(F.interpolate(x, scale_factor=2, mode="nearest"), weight.shape[2] // 2), weight, bias)
