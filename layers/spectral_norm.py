"""Spectral normalisation (Miyato et al. 2018) by its definition."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.accelerate import accelerated
from layers.convolution import Conv2d


@accelerated
def power_iteration(W: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One power iteration of the weight W (O,I) from u (O,): (1 / sigma (1,), u, v), sigma = u . W v."""
    v = F.normalize(W.T @ u, dim=0, eps=1e-12)
    u = F.normalize(W @ v, dim=0, eps=1e-12)
    return torch.dot(u, W @ v).reciprocal().view(1), u, v


def _normalised(weight: Tensor, u: Tensor, v: Tensor) -> list[Tensor]:
    """weight / sigma_k for each sigma_k = u_k . W v_k; the weight's gradient includes sigma's."""
    return [weight / torch.dot(u_k, torch.mv(weight.flatten(1), v_k)) for u_k, v_k in zip(u, v, strict=True)]


@accelerated
def spectral_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, inv_sigma, u, v) -> Tensor:
    """Split the batch x into K equal chunks and convolve chunk k, without padding, with weight / sigma_k.

    inv_sigma (K,1), u (K,O), v (K,I) are constants: row k is of the power iteration of chunk k.
    """
    pairs = zip(x.chunk(len(u)), _normalised(weight, u, v), strict=True)
    return torch.cat([F.conv2d(chunk, W, bias, stride) for chunk, W in pairs])


@accelerated
def spectral_linear(x: Tensor, weight: Tensor, inv_sigma: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The same for a linear layer without bias: (N,I), (O,I) -> (N,O)."""
    pairs = zip(x.chunk(len(u)), _normalised(weight, u, v), strict=True)
    return torch.cat([F.linear(chunk, W) for chunk, W in pairs])


class _SpectralNorm:
    """Spectral normalisation of a linear or convolution layer.

    A forward in training mode does one power iteration; in evaluation mode none.  An iteration depends on the
    weight alone, so `power_iteration(n)` can do those of the next n forwards at once.  `forward(x, iteration)` then
    splits the batch x into equal chunks, one for each number in `iteration`, and chunk k takes the iteration of that
    number, as if the chunks came in separate calls.
    """

    def _init_spectral_norm(self):
        weight = self._parameters.pop("weight")
        self.weight_orig = nn.Parameter(weight.data)  # after bias, as in existing checkpoints
        rows = weight.flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(rows.shape[0]), dim=0, eps=1e-12))
        self.register_buffer("weight_v", F.normalize(torch.randn(rows.shape[1]), dim=0, eps=1e-12))
        self.iterations = None

    @torch.no_grad()
    def power_iteration(self, n: int = 1):
        """n times v = normalise(W^T u), u = normalise(W v); keep each (1/sigma, u, v)."""
        W, u, kept = self.weight_orig.detach().flatten(1), self.weight_u, []
        for _ in range(n):
            kept.append(power_iteration(W, u))
            _, u, v = kept[-1]
        self.weight_u.copy_(u)
        self.weight_v.copy_(v)
        self.iterations = [torch.stack(x) for x in zip(*kept, strict=True)]

    def _sigmas(self, iteration):
        """1/sigma (K,1), u (K,O), v (K,I) of the power iterations of the K chunks of a batch."""
        if iteration is None and not self.training:
            return self._fixed()
        if iteration is None:
            self.power_iteration()
            iteration = (0,)
        return [x[iteration[0] : iteration[-1] + 1] for x in self.iterations]

    def _fixed(self):
        """The same for evaluation, from the stored u and v."""
        u, v = self.weight_u, self.weight_v
        sigma = torch.dot(u, torch.mv(self.weight_orig.detach().flatten(1), v))
        return sigma.reciprocal().view(1, 1), u[None], v[None]


class SNConv2d(_SpectralNorm, nn.Conv2d):
    """Convolution without padding; the weight is divided by its spectral norm."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._init_spectral_norm()

    def forward(self, x: Tensor, iteration=None) -> Tensor:
        return spectral_conv2d(x, self.weight_orig, self.bias, self.stride[0], *self._sigmas(iteration))

    def folded(self) -> Conv2d:
        """This layer for evaluation: a plain convolution with the normalised weight."""
        i, o, k, s = self.in_channels, self.out_channels, self.kernel_size, self.stride
        conv = Conv2d(i, o, k, s, bias=self.bias is not None, device=self.weight_orig.device)
        conv.weight.data.copy_(self.weight_orig.detach() * self._fixed()[0])
        if self.bias is not None:
            conv.bias.data.copy_(self.bias.detach())
        return conv


def fold_spectral_norms(net: nn.Module):
    """Replace all spectrally normalised convolutions of a network by plain ones."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SNConv2d):
                setattr(parent, name, child.folded())


class SNLinear(_SpectralNorm, nn.Linear):
    """Linear layer without bias, (N,I) -> (N,O); the weight is divided by its spectral norm."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)
        self._init_spectral_norm()

    def forward(self, x: Tensor, iteration=None) -> Tensor:
        return spectral_linear(x, self.weight_orig, *self._sigmas(iteration))


class Stack(nn.Sequential):
    """nn.Sequential that passes `iteration` (see _SpectralNorm) to its spectrally normalised layers."""

    def forward(self, x: Tensor, iteration=None) -> Tensor:
        for layer in self:
            x = layer(x, iteration) if isinstance(layer, (SNConv2d, SNLinear)) else layer(x)
        return x


def power_iterations(net: nn.Module, n: int):
    """Do the next n power iterations of all spectrally normalised layers of a network."""
    iterate([layer for layer in net.modules() if isinstance(layer, (SNConv2d, SNLinear))], n)


@accelerated
def iterate(layers: list[nn.Module], n: int):
    """Do the next n power iterations of each layer."""
    for layer in layers:
        layer.power_iteration(n)
