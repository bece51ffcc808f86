"""Normalisation by its definitions."""

import torch
from torch import Tensor, nn

from layers.accelerate import accelerated


@accelerated
def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) over H, W of each channel of each sample; the variance is biased."""
    var, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) * (var + eps).rsqrt()


class InstanceNorm(nn.Module):
    """Instance normalisation without parameters or running statistics: the same in training and evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


@accelerated
def adaptive_instance_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """scale IN(x) + shift (Huang & Belongie, ICCV 2017, eq. 8), both (N,C,1,1)."""
    return instance_norm(x, eps) * scale + shift


@accelerated
def std_layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / (std + eps) over C, H, W of each sample, then gamma and beta (C,) of each channel.

    As in MUNIT's program, std is unbiased and eps is added to it.
    """
    std, mean = torch.std_mean(x, (1, 2, 3), keepdim=True)
    return (x - mean) / (std + eps) * gamma.view(-1, 1, 1) + beta.view(-1, 1, 1)


@accelerated
def instance_layer_norm(x: Tensor, mix: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """mix_0 IN(x) + mix_1 LN(x), times gamma plus beta (U-GAT-IT, eq. 1).

    x (N,C,H,W); mix (1,C,2); gamma, beta (N or 1,C) with or without (...,1,1).  Both variances are unbiased;
    IN is over H,W of each channel, LN over C,H,W of one sample.
    """
    normalised = []
    for axes in ((2, 3), (1, 2, 3)):
        var, mean = torch.var_mean(x, axes, keepdim=True)
        normalised.append((x - mean) / torch.sqrt(var + eps))
    of_instance, of_layer = (m[..., None, None] for m in mix.unbind(-1))
    mixed = of_instance * normalised[0] + of_layer * normalised[1]
    shape = (-1, x.shape[1], 1, 1)
    return mixed * gamma.reshape(shape) + beta.reshape(shape)


class AdaILN(nn.Module):
    """Instance-layer normalisation mixed by softmax(rho); the caller gives gamma and beta (N,C)."""

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.tensor([3.2, 1.0]).repeat(1, num_features, 1))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho.softmax(-1), gamma, beta, self.eps)


class ILN(nn.Module):
    """Instance-layer normalisation mixed by softmax(rho), with gamma and beta (1,C,1,1) of its own."""

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.tensor([1.0, 3.2]).repeat(1, num_features, 1))
        self.gamma = nn.Parameter(torch.ones(1, num_features, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho.softmax(-1), self.gamma, self.beta, self.eps)
