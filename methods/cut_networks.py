"""The networks of CUT (methods/cut.py): generator, discriminator, projection F, and the recorded normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import Conv2d, InstanceNorm, ReflectionPad2d, reflect, smooth_double
from methods.cyclegan import Chain, ResnetBlock, leaky, normed
from options import NCE_LAYERS


class Down(nn.Module):
    """Blur by (1,2,1)/4 along both axes, then stride 2: (N,C,H,W) -> (N,C,(H+1)//2,(W+1)//2)."""

    def __init__(self, c: int):
        super().__init__()
        self.register_buffer("filt", blur([1, 2, 1], 4, c))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(reflect(x), self.filt, stride=2, groups=x.shape[1])


class Up(nn.Module):
    """Bilinear up-sampling by 2, with the filter (1,3,3,1)/4 along both axes: (N,C,H,W) -> (N,C,2H,2W)."""

    def __init__(self, c: int):
        super().__init__()
        self.register_buffer("filt", blur([1, 3, 3, 1], 4, c))

    def forward(self, x: Tensor) -> Tensor:
        return smooth_double(x, self.filt)


def blur(taps: list[float], divisor: float, c: int) -> Tensor:
    """The outer product of the taps, repeated for c channels: (c,1,k,k)."""
    row = torch.tensor(taps, dtype=torch.get_default_dtype()) / divisor
    return torch.outer(row, row).repeat(c, 1, 1, 1)


class Generator(Chain):
    """Pictures (N,3,S,S) -> (N,3,S,S) in [-1,1]; c base channels, n residual blocks.  Shapes for S = 256, c = 64.

    compared: the numbers of the layers that PatchNCE compares, as far as there are so many.
    """

    def __init__(self, img_ch: int = 3, c: int = 64, n: int = 9, compared: tuple[int, ...] = NCE_LAYERS):
        super().__init__()
        self.model = nn.Sequential(
            ReflectionPad2d(3),  # 0
            *normed(Conv2d(img_ch, c, 7)),  # 1: (N,64,256,256)
            *normed(Conv2d(c, 2 * c, 3, padding=1), idle_bias=False),  # 4: (N,128,256,256)
            Down(2 * c),
            *normed(Conv2d(2 * c, 4 * c, 3, padding=1), idle_bias=False),  # 8: (N,256,128,128)
            Down(4 * c),
            *[ResnetBlock(4 * c) for _ in range(n)],  # 12: (N,256,64,64)
            Up(4 * c),
            *normed(Conv2d(4 * c, 2 * c, 3, padding=1)),  # (N,128,128,128)
            Up(2 * c),
            *normed(Conv2d(2 * c, c, 3, padding=1)),  # (N,64,256,256)
            ReflectionPad2d(3),
            Conv2d(c, img_ch, 7),
            nn.Tanh(),
        )
        self.layers = [i for i in compared if i < 12 + n]
        self.widths = [{0: img_ch, 4: 2 * c}.get(i, 4 * c) for i in self.layers]  # channels of these layers

    def features(self, x: Tensor) -> list[Tensor]:
        """The outputs of the compared layers; the decoder is not computed."""
        return self.with_features(x, self.layers[-1] + 1)[1]

    def with_features(self, x: Tensor, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """The output of the modules before number `stop`, and the outputs of the compared layers among them."""
        found = []
        for i, module in enumerate(self.model[:stop]):
            x = module(x)
            if i in self.layers:
                found.append(x)
        return x, found


class Discriminator(Chain):
    """70x70 PatchGAN without strides: pictures (N,3,S,S) -> logits (N,1,30,30) for S = 256."""

    def __init__(self, img_ch: int = 3, c: int = 64):
        super().__init__()
        self.model = nn.Sequential(
            Conv2d(img_ch, c, 4, padding=1),
            leaky(),
            Down(c),  # (N,64,128,128)
            *normed(Conv2d(c, 2 * c, 4, padding=1), leaky()),
            Down(2 * c),  # (N,128,64,64)
            *normed(Conv2d(2 * c, 4 * c, 4, padding=1), leaky()),
            Down(4 * c),  # (N,256,32,32)
            *normed(Conv2d(4 * c, 8 * c, 4, padding=1), leaky()),  # (N,512,31,31)
            Conv2d(8 * c, 1, 4, padding=1),
        )


class Projection(nn.Module):
    """F: features (N,C,H,W) of each layer, at the patches patch_ids (M,) -> unit vectors (N,M,c).

    widths: C of each layer.
    """

    def __init__(self, widths: list[int], c: int = 256):
        super().__init__()
        for j, width in enumerate(widths):
            self.add_module(f"mlp_{j}", nn.Sequential(nn.Linear(width, c), nn.ReLU(), nn.Linear(c, c)))

    def forward(self, features: list[Tensor], patch_ids: list[Tensor]) -> list[Tensor]:
        vectors = []
        for mlp, x, ids in zip(self.children(), features, patch_ids, strict=True):
            v = mlp(x.permute(0, 2, 3, 1).flatten(1, 2)[:, ids])  # (N,M,C) -> (N,M,c)
            vectors.append(v / (v.norm(dim=2, keepdim=True) + 1e-7))
        return vectors


class AsRecorded(nn.Module):
    """PyTorch's own instance normalisation, as in the authors' program.

    On a CPU, for a batch of one, its backward reads wrong elements when the gradient's memory layout differs from the
    input's.  F's patch selection returns gradients in channels_last, so in recordings made on a CPU the gradient of
    PatchNCE is wrong from the last residual block on.  GPUs are not affected.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x).clone()  # it returns a view; adding to a view in place would change the layout


def as_recorded(net: nn.Module) -> nn.Module:
    """The network with AsRecorded for each InstanceNorm, in PyTorch's default layout."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, InstanceNorm):
                setattr(parent, name, AsRecorded())
    return net.to(memory_format=torch.contiguous_format)
