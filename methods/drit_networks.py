"""The networks of DRIT (see drit.py): encoders of content and attribute, generators, discriminators.

Names are those of the authors' checkpoints; layers of one domain carry its letter: convA, convB.
Shapes are for pictures of S = 256 and c = 64 base channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layers
from layers import Conv2d, ConvTranspose2d, InstanceNorm, conv2d

NZ = 8  # numbers in an attribute

# ------------------------------------------------------------------------------------------- layers


class Block(nn.Module):
    """Layers, named `model` as in existing checkpoints; with `residual`, x + layers(x)."""

    def __init__(self, *model: nn.Module, residual: bool = False):
        super().__init__()
        self.model, self.residual = nn.Sequential(*model), residual

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).add_(x) if self.residual else self.model(x)


def padded(i: int, o: int, k: int, s: int = 1, p: int = 1, conv=Conv2d) -> list[nn.Module]:
    """Reflection padding p, convolution k with stride s."""
    return [nn.ReflectionPad2d(p) if p else nn.Identity(), conv(i, o, k, stride=s)]


def leaky(*shape, conv=Conv2d) -> Block:
    """Convolution and LeakyReLU, no norm: the authors' program requests one by a name that it does not know."""
    return Block(*padded(*shape, conv=conv), nn.LeakyReLU(0.01, inplace=True))


def normed(*shape) -> Block:
    return Block(*padded(*shape), InstanceNorm(), nn.ReLU(inplace=True))


def residual(n: int) -> Block:
    first, second = padded(n, n, 3), padded(n, n, 3)
    return Block(*first, InstanceNorm(), nn.ReLU(inplace=True), *second, InstanceNorm(), residual=True)


def up(i: int, o: int) -> Block:
    """Twice the height and width."""
    conv = ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=1)
    return Block(conv, LayerNorm(o), nn.ReLU(inplace=True))


class LayerNorm(nn.Module):
    """Layer normalisation of each sample over C,H,W, with weight and bias (C,1,1)."""

    def __init__(self, c: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c, 1, 1)), nn.Parameter(torch.zeros(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self.weight.view(-1), self.bias.view(-1))


class DownBlock(nn.Module):
    """[leaky, conv, leaky, conv, pool](x) + conv1x1(pool(x)), with 2x2 average pooling."""

    def __init__(self, i: int, o: int):
        super().__init__()
        last = nn.Sequential(*padded(i, o, 3), nn.AvgPool2d(2))
        # the first LeakyReLU not in place: the shortcut needs x
        self.conv = nn.Sequential(nn.LeakyReLU(0.2), *padded(i, i, 3), nn.LeakyReLU(0.2, inplace=True), last)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), Conv2d(i, o, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


class ModulatedBlock(nn.Module):
    """A residual block; 1x1 convolutions mix a code z (N,n) into the output of each of its two convolutions."""

    def __init__(self, n: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Sequential(nn.Sequential(*padded(n, n, 3)), InstanceNorm()) for _ in "12")
        self.blk1, self.blk2 = (
            nn.Sequential(Conv2d(2 * n, 2 * n, 1), nn.ReLU(inplace=True), Conv2d(2 * n, n, 1), nn.ReLU(inplace=True))
            for _ in "12"
        )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.blk1(with_code(self.conv1(x), z))
        return x + self.blk2(with_code(self.conv2(h), z))


def with_code(x: Tensor, z: Tensor) -> Tensor:
    """Maps x (N,C,h,w), concatenated with the code z (N,n) as constant maps: (N,C+n,h,w)."""
    return torch.cat((x, z[..., None, None].expand(-1, -1, *x.shape[2:])), 1)


class SNConv2d(layers.SNConv2d):
    """Spectral norm of PyTorch 0.4: it stores u and the normalised weight; evaluation uses the latter."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        u, v = self._buffers.pop("weight_u"), self._buffers.pop("weight_v")
        self.register_buffer("weight", self.weight_orig.detach().clone())
        self.register_buffer("weight_u", u)
        self.register_buffer("weight_v", v, persistent=False)

    @torch.no_grad()
    def power_iteration(self, n: int = 1):
        super().power_iteration(n)
        self.weight.copy_(self.weight_orig * self.iterations[0][-1])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else conv2d(x, self.weight, self.bias, self.stride[0])


# ----------------------------------------------------------------------------------------- networks


class ContentEncoder(nn.Module):
    """E^c: pictures (N,3,S,S) of domain d -> contents (N,4c,S/4,S/4)."""

    def __init__(self, img_ch: int, c: int):
        super().__init__()
        self.conv_share = nn.Sequential(residual(4 * c))
        for d in "AB":
            down = leaky(img_ch, c, 7, 1, 3), normed(c, 2 * c, 3, 2), normed(2 * c, 4 * c, 3, 2)
            self.add_module(f"conv{d}", nn.Sequential(*down, *(residual(4 * c) for _ in range(3))))

    def forward(self, x: Tensor, d: str) -> Tensor:
        return self.conv_share(getattr(self, f"conv{d}")(x))  # (N,256,64,64)


class GaussianEncoder(nn.Module):
    """E^a with concat 1: pictures (N,3,S,S) of domain d -> mean and log-variance of their attributes, (N,8) each."""

    def __init__(self, img_ch: int, c: int):
        super().__init__()
        for d in "AB":
            self.add_module(f"fc_{d}", nn.Sequential(nn.Linear(4 * c, NZ)))
            self.add_module(f"fcVar_{d}", nn.Sequential(nn.Linear(4 * c, NZ)))
            blocks = [DownBlock(i * c, (i + 1) * c) for i in (1, 2, 3)]
            last = nn.LeakyReLU(0.2, inplace=True), nn.AdaptiveAvgPool2d(1)
            self.add_module(f"conv_{d}", nn.Sequential(*padded(img_ch, c, 4, 2), *blocks, *last))

    def forward(self, x: Tensor, d: str) -> tuple[Tensor, Tensor]:
        features = getattr(self, f"conv_{d}")(x).flatten(1)  # (N,256)
        return getattr(self, f"fc_{d}")(features), getattr(self, f"fcVar_{d}")(features)


class PlainEncoder(nn.Module):
    """E^a with concat 0: pictures (N,3,S,S) of domain d -> their attributes (N,8) and None, no variance."""

    def __init__(self, img_ch: int, c: int):
        super().__init__()
        for d in "ab":
            shapes = (img_ch, c, 7, 1, 3), (c, 2 * c, 4, 2), *((i * c, 4 * c, 4, 2) for i in (2, 4, 4))
            net = [layer for shape in shapes for layer in (*padded(*shape), nn.ReLU(inplace=True))]
            self.add_module(f"model_{d}", nn.Sequential(*net, nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * c, NZ, 1)))

    def forward(self, x: Tensor, d: str) -> tuple[Tensor, None]:
        return getattr(self, f"model_{d.lower()}")(x).flatten(1), None


class Generator(nn.Module):
    """G with concat 1: contents (N,4c,h,w), attributes (N,8) -> pictures (N,3,4h,4w) of domain d in [-1,1]."""

    def __init__(self, img_ch: int, c: int):
        super().__init__()
        self.dec_share = nn.Sequential(residual(4 * c))
        for d in "AB":
            last = [nn.ConvTranspose2d(c + 2 * NZ, img_ch, 1), nn.Tanh()]
            parts = [residual(4 * c + NZ) for _ in range(3)], [up(4 * c + 2 * NZ, 2 * c + NZ)]
            for k, part in enumerate((*parts, [up(2 * c + 2 * NZ, c + NZ)], last), 1):
                self.add_module(f"dec{d}{k}", nn.Sequential(*part))

    def shared(self, c: Tensor) -> Tensor:
        """The layers before attribute and domain enter: run once for all fakes with this content."""
        return self.dec_share(c)

    def decode(self, x: Tensor, z: Tensor, d: str) -> Tensor:
        for k in (1, 2, 3, 4):  # (N,264,64,64), (N,136,128,128), (N,72,256,256), (N,3,256,256)
            x = getattr(self, f"dec{d}{k}")(with_code(x, z))
        return x

    def forward(self, c: Tensor, z: Tensor, d: str) -> Tensor:
        return self.decode(self.shared(c), z, d)


class ModulatedGenerator(Generator):
    """G with concat 0: an MLP maps the attribute to four codes, each of which modulates a residual block."""

    def __init__(self, img_ch: int, c: int):
        nn.Module.__init__(self)
        n = 4 * c
        for d in "AB":
            wide = nn.Linear(NZ, n), nn.ReLU(inplace=True), nn.Linear(n, n), nn.ReLU(inplace=True)
            self.add_module(f"mlp{d}", nn.Sequential(*wide, nn.Linear(n, 4 * n)))
            for k in (1, 2, 3, 4):
                self.add_module(f"dec{d}{k}", ModulatedBlock(n))
            last = nn.ConvTranspose2d(c, img_ch, 1), nn.Tanh()
            self.add_module(f"dec{d}5", nn.Sequential(up(n, 2 * c), up(2 * c, c), *last))

    def shared(self, c: Tensor) -> Tensor:
        return c

    def decode(self, x: Tensor, z: Tensor, d: str) -> Tensor:
        for k, code in enumerate(getattr(self, f"mlp{d}")(z).chunk(4, 1), 1):
            x = getattr(self, f"dec{d}{k}")(x, code)  # (N,256,64,64)
        return getattr(self, f"dec{d}5")(x)  # (N,3,256,256)


class Discriminator(nn.Module):
    """D: pictures (N,3,S,S) -> maps of logits, one per scale: (N,1,16,16), (N,1,8,8), (N,1,4,4)."""

    def __init__(self, img_ch: int, c: int, scales: int, spectral: bool):
        super().__init__()
        conv = SNConv2d if spectral else Conv2d
        k, depth = (4, 4) if scales > 1 else (3, 6)
        widths = [img_ch, *(c * 2**i for i in range(depth))]
        pairs = list(zip(widths, widths[1:], strict=False))
        blocks = [[leaky(i, o, k, 2, conv=conv) for i, o in pairs] for _ in range(scales)]
        nets = [nn.Sequential(*of_scale, conv(widths[-1], 1, 1)) for of_scale in blocks]
        self.spectral, self.several = spectral, scales > 1
        if self.several:
            self.Diss = nn.ModuleList(nets)
        else:
            (self.model,) = nets

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for k, net in enumerate(self.Diss if self.several else [self.model]):
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) if k else x
            maps.append(net(x))
        return maps


class ContentDiscriminator(nn.Module):
    """D^c: contents (N,n,h,w), h and w at least 53 -> flattened logits: 4 for 64x64, 1 for 54x54."""

    def __init__(self, n: int):
        super().__init__()
        self.model = nn.Sequential(*(leaky(n, n, 7, 2) for _ in range(3)), leaky(n, n, 4, 1, 0), Conv2d(n, 1, 1))

    def forward(self, c: Tensor) -> Tensor:
        return self.model(c).flatten()


def initialise(net: nn.Module) -> nn.Module:
    """Weights of convolutions N(0, 0.02), the rest by PyTorch's default."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(getattr(layer, "weight_orig", layer.weight), 0.0, 0.02)
    return net
