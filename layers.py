"""The layers of NICE-GAN that PyTorch does not have: instance-layer normalisation, spectral norm, thin convolutions.

Each can stand for `groups` layers of equal shape side by side, as PyTorch's grouped convolution does:
their channels follow one another in the batch, their weights along the first axis that differs.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import product

# ---------------------------------------------------------------------- instance / layer normalisation


def _squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel of each sample, and sum of squares about it: (N,C,H,W) -> twice (N,C,1,1)."""
    if x.device.type != "cpu":
        v, m = torch.var_mean(x, dim=(2, 3), keepdim=True)
        return m, v * (x.shape[2] * x.shape[3] - 1)
    # the CPU's var_mean is not vectorised along these axes: two plain passes take an eighth of its time
    m = x.sum((2, 3), keepdim=True).mul_(1 / (x.shape[2] * x.shape[3]))
    d = x - m
    return m, d.mul_(d).sum((2, 3), keepdim=True)


@lru_cache
def _constants(C: int, n: int, eps: float, device, dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(sqrt(n - 1), sqrt(C n - 1)), eps (n - 1) and eps (C n - 1) as tensors, which are added faster than numbers."""
    values = [(n - 1) ** 0.5, (C * n - 1) ** 0.5, eps * (n - 1), eps * (C * n - 1)]
    x = torch.tensor(values, dtype=dtype, device=device)
    return x[:2], x[2], x[3]


class _InstanceLayerNorm(torch.autograd.Function):
    """gamma * (r0 IN(x) + r1 LN(x)) + beta as one affine map per channel: x * scale + shift.

    Exact, because both normalisations are affine in x and LN's moments follow from the per-channel
    ones (law of total variance).  Forward reads x twice; backward is the chain rule through the
    small (N,groups,C) tensors and one more affine map, dx = g * scale - x * slope + offset.  Of small
    maps the small tensors' operations are the cost, so the constants are gathered:
    IN's 1/std is sqrt(n - 1) i and LN's is sqrt(C n - 1) j.
    """

    @staticmethod
    def forward(ctx, x, rho, gamma, beta, eps, groups):
        C, n = x.shape[1] // groups, x.shape[2] * x.shape[3]
        m, S = _squares(x.to(torch.promote_types(x.dtype, torch.float32)))  # of half-precision maps too
        small = (-1, groups, C)
        m, S, gamma_, beta_ = m.view(small), S.view(small), gamma.view(small), beta.view(small)
        D, M = torch.var_mean(m, 2, correction=0, keepdim=True)  # (N,groups,1)
        constants = _constants.__wrapped__ if torch.compiler.is_compiling() else _constants
        roots, eps_i, eps_j = constants(C, n, eps, m.device, m.dtype)
        i = (S + eps_i).rsqrt_()
        j = torch.add(S.sum(2, keepdim=True), D, alpha=n * C).add_(eps_j).rsqrt_()
        r = rho.softmax(-1)
        r0, r1 = (r * roots).view(1, groups, C, 2).unbind(3)
        p, q = r0 * i, r1 * j
        a, b = p + q, torch.addcmul(p * m, q, M)  # r0 IN(x) + r1 LN(x) = a x - b
        shift = torch.addcmul(beta_, b, gamma_, value=-1).view(len(x), -1, 1, 1)
        scale = (a * gamma_).view(shift.shape)
        ctx.save_for_backward(x, scale, gamma_, m, M, i, j, r, p, q, a, b)
        ctx.shape = gamma.shape
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))

    @staticmethod
    def backward(ctx, g):
        x, scale, gamma, m, M, i, j, r, p, q, a, b = ctx.saved_tensors
        C, n = m.shape[2], x.shape[2] * x.shape[3]
        dshift = g.sum((2, 3), dtype=m.dtype).view(m.shape)
        dscale = (g * x).sum((2, 3), dtype=m.dtype).view(m.shape)
        da, db = dscale * gamma, dshift * gamma
        dp, dq = torch.addcmul(da, db, m, value=-1) * p, torch.addcmul(da, db, M, value=-1) * q  # by log p, log q
        di, dj = dp * i * i, dq.sum(2, keepdim=True) * j * j  # what the variances pass on
        offset = torch.addcmul(dj * M, di, m).addcmul_(db, p, value=-1 / n)
        offset.add_((db * q).sum(2, keepdim=True), alpha=-1 / (C * n))
        slope, offset = (di + dj).view(scale.shape), offset.view(scale.shape)
        dx = torch.addcmul(offset.to(g.dtype), x, slope.to(g.dtype), value=-1).addcmul_(g, scale.to(g.dtype))
        dr = torch.stack((dp.sum(0), dq.sum(0)), -1).view(r.shape)
        drho = dr - r * dr.sum(-1, keepdim=True)  # softmax
        dgamma = torch.addcmul(dscale * a, dshift, b, value=-1)
        dgamma, dbeta = (t.sum_to_size(gamma.shape).view(ctx.shape) for t in (dgamma, dshift))
        return dx, drho, dgamma, dbeta, None, None


def instance_layer_norm(x: Tensor, rho: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5, groups=1) -> Tensor:
    """softmax(rho)_0 IN(x) + softmax(rho)_1 LN(x), times gamma plus beta (U-GAT-IT, eq. 1).

    x (N,C,H,W); rho (1,C,2); gamma, beta (N or 1,C) with or without (...,1,1).  Variances are unbiased;
    LN is over C,H,W of one sample, and over each of the groups that C consists of by itself.
    """
    return _InstanceLayerNorm.apply(x, rho, gamma, beta, eps, groups)


class AdaILN(nn.Module):
    """Instance-layer normalisation with gamma and beta (N,C) given by the caller."""

    def __init__(self, num_features: int, eps: float = 1e-5, groups: int = 1):
        super().__init__()
        self.eps, self.groups = eps, groups
        self.rho = nn.Parameter(torch.tensor([3.2, 1.0]).repeat(1, groups * num_features, 1))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho, gamma, beta, self.eps, self.groups)


class ILN(nn.Module):
    """Instance-layer normalisation that owns gamma and beta (1,C,1,1)."""

    def __init__(self, num_features: int, eps: float = 1e-5, groups: int = 1):
        super().__init__()
        self.eps, self.groups = eps, groups
        self.rho = nn.Parameter(torch.tensor([1.0, 3.2]).repeat(1, groups * num_features, 1))
        self.gamma = nn.Parameter(torch.ones(1, groups * num_features, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, groups * num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho, self.gamma, self.beta, self.eps, self.groups)


# ----------------------------------------------------------------------- linear and thin convolutions


class Linear(nn.Linear):
    """Linear layer without bias: (N,groups*I) -> (N,groups*O)."""

    def __init__(self, in_features: int, out_features: int, groups: int = 1):
        super().__init__(in_features, groups * out_features, bias=False)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return super().forward(x)
        x, weight = x.unflatten(1, (self.groups, -1)), self.weight.unflatten(0, (self.groups, -1))
        return torch.einsum("ngi,goi->ngo", x, weight).flatten(1)


class RowConv2d(nn.Conv2d):
    """A square convolution without padding and bias that has few output channels and a large kernel.

    A CPU computes 16 output channels at the cost of 3: here every row of the kernel makes channels of
    its own, and the k shifted rows are summed, which is the same sum in another order.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        out, c, k, _ = self.weight.shape
        rows = F.conv2d(x, self.weight.transpose(1, 2).reshape(out * k, c, 1, k), groups=self.groups).contiguous()
        n, _, h, w = rows.shape
        n_, c_, h_, w_ = rows.stride()  # channel o k + i is row i's share of output channel o
        return rows.as_strided((n, out, k, h - k + 1, w), (n_, k * c_, c_ + h_, h_, w_)).sum(2)


def one_channel_conv(x: Tensor, weight: Tensor) -> Tensor:
    """F.conv2d(x, weight, groups=len(weight)) for a CPU: (N,G*C,H,W), (G,C,k,k) -> (N,G,H-k+1,W-k+1).

    As in RowConv2d, but each position of the kernel makes a channel: what remains is one matrix product.
    """
    (G, C, k, _), (N, _, H, W) = weight.shape, x.shape
    y = weight.view(G, C, k * k).mT @ x.contiguous().view(N, G, C, H * W)
    n_, g_, p_, _ = y.stride()  # p = i k + j is the share of the kernel's row i, column j
    size, steps = (N, G, k, k, H - k + 1, W - k + 1), (n_, g_, k * p_ + W, p_ + 1, W, 1)
    return y.as_strided(size, steps).sum((2, 3))


# ------------------------------------------------------------------------------- minimal filtering


@lru_cache
def _minimal_filter(dtype) -> tuple[Tensor, Tensor, Tensor]:
    """F(4,3): y = A ((G g) * (B d)) is the 4 numbers of 6 numbers d filtered by 3 numbers g."""
    B = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    B += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    G += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
    A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    return tuple(torch.tensor(matrix, dtype=dtype) for matrix in (B, G, A))


def _triples(x: Tensor) -> Tensor:
    """Every three neighbours in a row, side by side: (N,T,W,C) -> (N*T*(W-2),3*C)."""
    (N, T, W, C), (n_, t_, w_, _) = x.shape, x.stride()
    return x.as_strided((N, T, W - 2, 3 * C), (n_, t_, w_, 1)).reshape(-1, 3 * C)


class _MinimalConv(torch.autograd.Function):
    """F.conv2d(x, weight) of 3x3 kernels in half of the multiplications: (N,C,4T+2,W) -> (N,O,4T,W-2).

    Winograd's minimal filtering (Lavin & Gray, CVPR 2016) along the height alone: of each 6 rows of
    x, 6 mixtures meet one mixture each of the kernel's 3 rows, and their 6 matrix products, mixed
    again, are 4 rows of the result, which would take 12 such products.  Equal but for rounding: in float32
    and 256 channels 1e-6 relative, where PyTorch's own convolution is at 2e-7 to 9e-7.
    """

    @staticmethod
    def forward(ctx, x, weight):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        mixed, kernels = _MinimalConv.mixtures(x, weight)
        (N, T, _, W, _), (_, _, A) = mixed.shape, _minimal_filter(x.dtype)
        y = x.new_empty(N, T, 6, W - 2, len(weight))
        for y_k, mixed_k, kernel in zip(y.unbind(2), mixed.unbind(2), kernels.unbind(0), strict=True):
            y_k.copy_(product(_triples(mixed_k), kernel.T).view(y_k.shape))
        return (A @ y.flatten(3)).view(N, 4 * T, W - 2, -1).permute(0, 3, 1, 2)

    @staticmethod
    def mixtures(x, weight):
        """Of the rows of x, (N,T,6,W,C), and of those of the kernels, (6,O,3*C)."""
        B, G, _ = _minimal_filter(x.dtype)
        (N, C, H, W), (n_, _, h_, _) = x.shape, x.stride()
        mixed = B @ x.as_strided((N, H // 4, 6, W * C), (n_, 4 * h_, h_, 1))
        kernels = G @ weight.permute(0, 2, 3, 1).flatten(2)  # (O,6,3*C)
        return mixed.view(N, -1, 6, W, C), kernels.transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        mixed, kernels = _MinimalConv.mixtures(x, weight)  # again, instead of keeping them
        (N, T, _, W, C), (B, G, A) = mixed.shape, _minimal_filter(x.dtype)
        dy = dy.permute(0, 2, 3, 1).reshape(N, T, 4, -1).permute(2, 0, 1, 3)
        dy = (A.T @ dy.reshape(4, -1)).view(6, -1, len(weight))  # (6,N*T*(W-2),O)
        dx = dweight = None
        if ctx.needs_input_grad[1]:
            pairs = zip(dy.mT.unbind(0), mixed.unbind(2), strict=True)
            dkernels = torch.stack([product(dy_k, _triples(mixed_k)) for dy_k, mixed_k in pairs], 1)
            dweight = (G.T @ dkernels).view(-1, 3, 3, C).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0]:
            for dy_k, kernel, rows in zip(dy.unbind(0), kernels.unbind(0), mixed.unbind(2), strict=True):
                left, middle, right = product(dy_k, kernel).view(N, T, W - 2, 3, C).unbind(3)
                rows.narrow(2, W - 2, 2).zero_()  # in the memory of `mixed`, which is done with
                rows.narrow(2, 0, W - 2).copy_(left)
                rows.narrow(2, 1, W - 2).add_(middle)
                rows.narrow(2, 2, W - 2).add_(right)
            tiles = (B.T @ mixed.flatten(3)).view(mixed.shape)
            dx = torch.empty_like(x)
            rows = dx.permute(0, 2, 3, 1)
            rows[:, :-2].view(N, T, 4, W, C).copy_(tiles[:, :, :4])
            rows[:, 4:-2].unflatten(1, (T - 1, 4))[:, :, :2] += tiles[:, :-1, 4:]  # tiles overlap by two rows
            rows[:, -2:] = tiles[:, -1, 4:]
        return dx, dweight


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution without padding, stride and bias."""

    least_channel_pairs, least_positions = 2**16, 2**10  # below, the mixing costs what the products gain (two cores)

    def __init__(self, in_channels: int, out_channels: int, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size=3, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        N, C, H, W = x.shape
        pairs, positions = C * self.out_channels, N * (H - 2) * (W - 2)
        large = pairs >= self.least_channel_pairs and positions >= self.least_positions
        plain = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
        if large and plain and self.groups == 1 and H % 4 == 2:
            return _MinimalConv.apply(x, self.weight)
        return super().forward(x)


# ------------------------------------------------------------------------------------- spectral norm


class _InverseSigma(torch.autograd.Function):
    """(W, 1/sigma) -> (W, 1/sigma), where sigma_k = u_k . W v_k with u, v constants.

    Lets a layer divide its *output* by sigma instead of copying W / sigma: the layer is linear, so
    that is exact.  Backward adds sigma's rank-one gradients u_k v_k^T to W's gradient in place.
    """

    @staticmethod
    def forward(ctx, weight, inv_sigma, u, v):
        ctx.save_for_backward(inv_sigma, u, v)
        return weight.view_as(weight), inv_sigma.view_as(inv_sigma)

    @staticmethod
    def backward(ctx, grad_weight, grad_inv):
        inv_sigma, u, v = ctx.saved_tensors
        coefficient = -grad_inv * inv_sigma * inv_sigma  # d(1/sigma) = -dsigma / sigma^2
        grad_weight = grad_weight.contiguous()  # conv backward gives it channels_last at times
        grad_weight.view(len(u), u.shape[2], -1).baddbmm_((u * coefficient).mT, v)
        return grad_weight, None, None, None


class _SpectralProduct(torch.autograd.Function):
    """y = x W^T / sigma_k, for rows x (G,R,I), chunk k of which has its own sigma, and a weight W (G*O,...).

    W's gradient is one product of stacked rows: those of x, and for sigma's rank-one parts those of v.
    """

    @staticmethod
    def forward(ctx, x, weight, inv_sigma, u, v):
        G, K, out = u.shape
        y = product(x, weight.view(G, out, -1).mT)
        y.view(G, K, -1).mul_(inv_sigma)
        ctx.save_for_backward(x, weight, y, inv_sigma, u, v)
        return y

    @staticmethod
    def backward(ctx, g):
        x, weight, y, inv_sigma, u, v = ctx.saved_tensors
        G, K, out = u.shape
        g, dx, dW = g.contiguous().view(G, K, -1), None, None
        scaled = (g * inv_sigma).view(y.shape)
        if ctx.needs_input_grad[0]:
            dx = product(scaled, weight.view(G, out, -1))
        if ctx.needs_input_grad[1]:
            # d(1/sigma) = -dsigma / sigma^2, and y = (x W^T) / sigma
            coefficient = (g.to(v.dtype) * y.view(G, K, -1)).sum(2, keepdim=True) * -inv_sigma
            left, right = torch.cat((scaled, u * coefficient), 1), torch.cat((x, v), 1)
            dW = product(left.mT, right).view_as(weight)
        return dx, dW, None, None, None


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
        self.register_buffer("weight_v", F.normalize(torch.randn(self.groups * rows.shape[1]), dim=0, eps=1e-12))
        self.iterations = None

    def _stacked(self):
        """u (G,1,O), v (G,1,I) and W (G,O,I) of the groups, without copies."""
        u, v = (x.view(self.groups, 1, -1) for x in (self.weight_u, self.weight_v))
        return u, v, self.weight_orig.detach().view(self.groups, u.shape[2], -1)

    @torch.no_grad()
    def power_iteration(self, n: int = 1):
        """v = normalise(W^T u), u = normalise(W v), n times; keeps each (1/sigma, u, v)."""
        u, _, W = self._stacked()
        kept = []
        for _ in range(n):
            v = product(u, W)
            v /= v.norm(dim=2, keepdim=True).clamp_min_(1e-12)
            u = product(v, W.mT)
            sigma = u.norm(dim=2, keepdim=True).clamp_min_(1e-12)  # = u . W v, once u is normalised
            u /= sigma
            kept.append((sigma.reciprocal_(), u, v))
        self.weight_u.copy_(u.view(-1))
        self.weight_v.copy_(v.view(-1))
        self.iterations = [torch.cat(x, 1) for x in zip(*kept, strict=True)]

    def _sigmas(self, at):
        """1/sigma (G,K,1), u (G,K,O), v (G,K,I) of the power iterations that the K chunks of a batch belong to."""
        if at is None and not self.training:
            u, v, W = self._stacked()
            sigma = [torch.dot(u_g, torch.mv(W_g, v_g)) for u_g, W_g, v_g in zip(u[:, 0], W, v[:, 0], strict=True)]
            return torch.stack(sigma).reciprocal().view(-1, 1, 1), u, v
        if at is None:
            self.power_iteration()
            at = (0,)
        return [x[:, at[0] : at[-1] + 1] for x in self.iterations]


class SNConv2d(_SpectralNorm, nn.Conv2d):
    """Convolution without padding, its weight divided by its spectral norm."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._init_spectral_norm()

    def forward(self, x: Tensor, at=None) -> Tensor:
        inv_sigma, u, v = self._sigmas(at)
        (G, K, out), N, k, stride = u.shape, len(x), self.kernel_size[0], self.stride[0]
        h, w = ((side - k) // stride + 1 for side in x.shape[2:])
        cpu = x.device.type == "cpu"
        if cpu and h * w <= 64 and not torch.is_autocast_enabled("cpu"):
            # Few positions, huge weights: one matrix product reads the weights in place, where the CPU's
            # convolution would first copy them into a layout of its own, in every forward and backward.
            patches = F.unfold(x, k, stride=stride).view(N, G, -1, h * w)
            patches = patches.permute(1, 0, 3, 2).reshape(G, N * h * w, -1)
            y = _SpectralProduct.apply(patches, self.weight_orig, inv_sigma, u, v)
            y = y.view(G, N, h, w, out).permute(1, 0, 4, 2, 3).reshape(N, G * out, h, w)
            # the sum comes last: what works in place on a view of y costs autograd two copies
            return y if self.bias is None else y + self.bias.view(-1, 1, 1)
        weight, inv_sigma = _InverseSigma.apply(self.weight_orig, inv_sigma, u, v)
        if cpu and out == stride == 1:
            y = one_channel_conv(x, weight)
        else:  # on a CPU in the layout of the weights
            y = F.conv2d(x.contiguous() if cpu else x, weight, None, stride, groups=G)
        scale = inv_sigma.to(y.dtype).view(G, K).T.repeat_interleave(N // K, 0)  # (N,G)
        scale = scale[..., None].expand(N, G, out).reshape(N, G * out, 1, 1)
        if self.bias is None:
            return y * scale
        return torch.addcmul(self.bias.to(y.dtype).view(-1, 1, 1), y, scale)


class SNLinear(_SpectralNorm, nn.Linear):
    """Linear layer without bias, its weight divided by its spectral norm: (N,groups*I) -> (N,groups*O)."""

    def __init__(self, in_features: int, out_features: int, groups: int = 1):
        super().__init__(in_features, groups * out_features, bias=False)
        self.groups = groups
        self._init_spectral_norm()

    def forward(self, x: Tensor, at=None) -> Tensor:
        x = x.view(len(x), self.groups, -1).transpose(0, 1).contiguous()
        return _SpectralProduct.apply(x, self.weight_orig, *self._sigmas(at)).transpose(0, 1).flatten(1)
