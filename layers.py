"""The layers that PyTorch does not have, as their papers define them.

A definition marked `accelerated` is what a layer is; fast.py holds a function of the same name that
computes the same in less time.  Without that file, or with --plain true, the definitions are used:
the program is slower, the numbers are the same.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import fast
except ImportError:
    fast = None

plain = False  # whether the definitions are used although fast.py is there


def accelerated(definition):
    """Let the function of the same name in fast.py stand for this definition."""

    @functools.wraps(definition)
    def layer(*args, **kwargs):
        # what stands for a tensor (tiles.Map) knows the operations that definitions are made of
        defined = plain or any(hasattr(x, "__torch_function__") and not isinstance(x, Tensor) for x in args)
        quick = None if defined else getattr(fast, definition.__name__, None)
        return (quick or definition)(*args, **kwargs)

    return layer


@accelerated
def keep_freed_memory():
    """Leave the memory that tensors free to the C library's own rules."""


@accelerated
def product(x: Tensor, W: Tensor) -> Tensor:
    """x (R,I) times W (I,O), without autograd."""
    return x @ W


@accelerated
def early(loss, x: Tensor, parameters: list[Tensor]) -> Tensor:
    """loss(x), a number whose gradients reach x and the parameters that require them."""
    return loss(x)


# -------------------------------------------------------------------------------------- convolution


@accelerated
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution after zero padding of all sides: (N,C,H,W), (O,C,k,k) -> (N,O,(H+2p-k)//stride+1,...)."""
    return F.conv2d(x, weight, bias, stride, padding)


class Conv2d(nn.Conv2d):
    """nn.Conv2d by `conv2d`.

    idle_bias: instance normalisation follows, whose mean takes the bias with it: it stays in checkpoints, unused.
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


@accelerated
def reflect(x: Tensor, width: int = 1) -> Tensor:
    """Reflection padding on all four sides."""
    return F.pad(x, (width,) * 4, mode="reflect")


class ReflectionPad2d(nn.ReflectionPad2d):
    """nn.ReflectionPad2d by `reflect`."""

    def forward(self, x: Tensor) -> Tensor:
        return reflect(x, self.padding[0])


@accelerated
def blur(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Each channel convolved with `kernel` (k,k), alike when turned by 180 degrees, after zero padding of all sides."""
    c = x.shape[1]
    return F.conv2d(x, kernel.expand(c, 1, *kernel.shape), padding=padding, groups=c)


@accelerated
def smooth_double(x: Tensor, filt: Tensor) -> Tensor:
    """Twice the rows and columns, each 3/4 of the nearer neighbour and 1/4 of the other, the border repeated.

    (N,C,H,W) -> (N,C,2H,2W); filt (C,1,4,4): (1,3,3,1)/4 along both, the same for each channel.
    """
    return F.conv_transpose2d(F.pad(x, (1,) * 4, mode="replicate"), filt, stride=2, padding=3, groups=x.shape[1])


@accelerated
def upsampled_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Nearest up-sampling, reflection padding, convolution: (N,C,H,W), (O,C,k,k), k odd -> (N,O,2H,2W)."""
    return F.conv2d(reflect(F.interpolate(x, scale_factor=2, mode="nearest"), weight.shape[2] // 2), weight, bias)


# -------------------------------------------------------------------------------------- normalisation


@accelerated
def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) over H, W of each channel of each sample; the variance is biased."""
    var, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) * (var + eps).rsqrt()


class InstanceNorm(nn.Module):
    """Instance normalisation without parameters and running statistics: training and evaluation are alike."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


@accelerated
def adaptive_instance_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """scale IN(x) + shift (Huang & Belongie, ICCV 2017, eq. 8), both (N,C,1,1)."""
    return instance_norm(x, eps) * scale + shift


@accelerated
def std_layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / (std + eps) over C, H, W of each sample, then gamma and beta (C,) of each channel.

    As in MUNIT's program: the standard deviation is unbiased, and eps is added to it.
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
    """Instance-layer normalisation with gamma and beta (N,C) given by the caller; mixed by softmax(rho)."""

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.tensor([3.2, 1.0]).repeat(1, num_features, 1))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho.softmax(-1), gamma, beta, self.eps)


class ILN(nn.Module):
    """Instance-layer normalisation that owns gamma and beta (1,C,1,1); mixed by softmax(rho)."""

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.tensor([1.0, 3.2]).repeat(1, num_features, 1))
        self.gamma = nn.Parameter(torch.ones(1, num_features, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho.softmax(-1), self.gamma, self.beta, self.eps)


# ------------------------------------------------------------------------------------- spectral norm


@accelerated
def power_iteration(W: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One power iteration of the weight W (O,I) from u (O,): (1 / sigma (1,), u, v), sigma = u . W v."""
    v = F.normalize(W.T @ u, dim=0, eps=1e-12)
    u = F.normalize(W @ v, dim=0, eps=1e-12)
    return torch.dot(u, W @ v).reciprocal().view(1), u, v


def _normalised(weight: Tensor, u: Tensor, v: Tensor) -> list[Tensor]:
    """weight / sigma_k for each sigma_k = u_k . W v_k; gradient reaches the weight through sigma too."""
    return [weight / torch.dot(u_k, torch.mv(weight.flatten(1), v_k)) for u_k, v_k in zip(u, v, strict=True)]


@accelerated
def spectral_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, inv_sigma, u, v) -> Tensor:
    """Chunk k of the K chunks of a batch x, convolved without padding with weight / sigma_k.

    inv_sigma (K,1), u (K,O), v (K,I): of the power iteration that chunk k belongs to, as constants.
    """
    pairs = zip(x.chunk(len(u)), _normalised(weight, u, v), strict=True)
    return torch.cat([F.conv2d(chunk, W, bias, stride) for chunk, W in pairs])


@accelerated
def spectral_linear(x: Tensor, weight: Tensor, inv_sigma: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The same for a linear layer without bias: (N,I), (O,I) -> (N,O)."""
    pairs = zip(x.chunk(len(u)), _normalised(weight, u, v), strict=True)
    return torch.cat([F.linear(chunk, W) for chunk, W in pairs])


class _SpectralNorm:
    """The classical spectral norm (Miyato et al. 2018) for a linear or convolution layer.

    A training-mode forward does one power iteration; evaluation mode does none.  An iteration
    depends on the weight alone, so `power_iteration(n)` can do those of n forwards at once; then
    `forward(x, at)` says which of them each equal chunk of the batch x belongs to, as if the
    chunks had come in separate calls.
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
        """v = normalise(W^T u), u = normalise(W v), n times; keeps each (1/sigma, u, v)."""
        W, u, kept = self.weight_orig.detach().flatten(1), self.weight_u, []
        for _ in range(n):
            kept.append(power_iteration(W, u))
            _, u, v = kept[-1]
        self.weight_u.copy_(u)
        self.weight_v.copy_(v)
        self.iterations = [torch.stack(x) for x in zip(*kept, strict=True)]

    def _sigmas(self, at):
        """1/sigma (K,1), u (K,O), v (K,I) of the power iterations that the K chunks of a batch belong to."""
        if at is None and not self.training:
            return self._fixed()
        if at is None:
            self.power_iteration()
            at = (0,)
        return [x[at[0] : at[-1] + 1] for x in self.iterations]


    def _fixed(self):
        """The same of evaluation, which does no power iteration."""
        u, v = self.weight_u, self.weight_v
        sigma = torch.dot(u, torch.mv(self.weight_orig.detach().flatten(1), v))
        return sigma.reciprocal().view(1, 1), u[None], v[None]


class SNConv2d(_SpectralNorm, nn.Conv2d):
    """Convolution without padding, its weight divided by its spectral norm."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._init_spectral_norm()

    def forward(self, x: Tensor, at=None) -> Tensor:
        return spectral_conv2d(x, self.weight_orig, self.bias, self.stride[0], *self._sigmas(at))


    def folded(self) -> Conv2d:
        """The same layer for evaluation alone: a convolution with the normalised weight."""
        i, o, k, s = self.in_channels, self.out_channels, self.kernel_size, self.stride
        conv = Conv2d(i, o, k, s, bias=self.bias is not None, device=self.weight_orig.device)
        conv.weight.data.copy_(self.weight_orig.detach() * self._fixed()[0])
        if self.bias is not None:
            conv.bias.data.copy_(self.bias.detach())
        return conv


def fold_spectral_norms(net: nn.Module):
    """Put plain convolutions in the places of all spectrally normalised ones."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SNConv2d):
                setattr(parent, name, child.folded())


class SNLinear(_SpectralNorm, nn.Linear):
    """Linear layer without bias, its weight divided by its spectral norm: (N,I) -> (N,O)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)
        self._init_spectral_norm()

    def forward(self, x: Tensor, at=None) -> Tensor:
        return spectral_linear(x, self.weight_orig, *self._sigmas(at))


class Stack(nn.Sequential):
    """nn.Sequential that hands `at` (see _SpectralNorm) to its spectrally normalised layers."""

    def forward(self, x: Tensor, at=None) -> Tensor:
        for layer in self:
            x = layer(x, at) if isinstance(layer, (SNConv2d, SNLinear)) else layer(x)
        return x


def power_iterations(net: nn.Module, n: int):
    """Do the power iterations of the next n forwards in every spectrally normalised layer of a network."""
    iterate([layer for layer in net.modules() if isinstance(layer, (SNConv2d, SNLinear))], n)


@accelerated
def iterate(layers: list[nn.Module], n: int):
    """Do the next n power iterations of each of these layers."""
    for layer in layers:
        layer.power_iteration(n)
