"""Fast twin of layers/normalisation.py."""

import functools

import torch
from torch import Tensor

from layers.fast.convolution import affine

try:
    from layers.fast import triton_kernels
except ImportError:  # Triton is not installed
    triton_kernels = None


def _squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean m of each channel of each sample, and sum S of squared deviations: (N,C,H,W) -> twice (N,C,1,1)."""
    if x.device.type != "cpu":
        v, m = torch.var_mean(x, dim=(2, 3), keepdim=True)
        return m, v * (x.shape[2] * x.shape[3] - 1)
    # the CPU's var_mean is not vectorised along these axes: two plain passes take an eighth of its time
    m = x.sum((2, 3), keepdim=True).mul_(1 / (x.shape[2] * x.shape[3]))
    d = x - m
    return m, d.mul_(d).sum((2, 3), keepdim=True)


@functools.lru_cache
def _constants(C: int, n: int, eps: float, device, dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(sqrt(n - 1), sqrt(C n - 1)), eps (n - 1) and eps (C n - 1) as tensors, which add faster than numbers."""
    values = [(n - 1) ** 0.5, (C * n - 1) ** 0.5, eps * (n - 1), eps * (C * n - 1)]
    x = torch.tensor(values, dtype=dtype).to(device, non_blocking=True)  # no wait for a GPU
    return x[:2], x[2], x[3]


def _lifted(x: Tensor) -> Tensor:
    """x in at least float32: half precision is lifted once for all that reads it."""
    return x if x.dtype == torch.float32 else x.to(torch.promote_types(x.dtype, torch.float32))


FLAT = 2.0**-40  # variance over squared mean of a channel that is constant but for rounding


def numbers_are_at_hand(x: Tensor) -> bool:
    """Whether a look at a number of x is cheap: it would stop a GPU and cut a compiled graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _normalised(x: Tensor, scale: Tensor, shift: Tensor, m: Tensor, S: Tensor) -> Tensor:
    """scale * x + shift; for channels that are constant but for rounding, the value at their mean.

    scale is about 1/sqrt(eps) there, which would magnify the rounding of x, m and the product: layer after layer, a
    picture of one colour would become noise.  Other channels keep every bit.
    """
    beyond_rounding = torch.addcmul(S, m, m, value=-FLAT * x.shape[2] * x.shape[3])
    if numbers_are_at_hand(x) and beyond_rounding.min().item() > 0:
        return affine(x, scale, shift)  # the usual case
    flat = (beyond_rounding <= 0).view(scale.shape)
    at_mean = shift + scale * m.view(scale.shape)  # not fused, so that shift = -m * scale leaves exactly 0
    return affine(x, scale.masked_fill(flat, 0), torch.where(flat, at_mean, shift))


def _sums(g: Tensor, x: Tensor, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Sums of g * x and of g over H, W."""
    return (g * x).sum((2, 3), keepdim), g.sum((2, 3), keepdim)


class _NoContext:
    """The context of a forward whose gradients nobody wants."""

    def save_for_backward(self, *tensors: Tensor):
        pass


def _apply(function, *args):
    """function.apply(*args); without gradients, what autograd prepares costs as much as a small map's operations."""
    return function.apply(*args) if torch.is_grad_enabled() else function.forward(_NoContext(), *args)


class _Normalisation(torch.autograd.Function):
    """x * scale + shift with (scale, shift) = coefficients(m, S, *parameters), m and S as of _squares.

    Any normalisation by means and variances has this form.  Each pass reads x as rarely as instance normalisation
    does; autograd does the chain rule through the small tensors.
    """

    @staticmethod
    def forward(ctx, x, coefficients, *parameters):
        lifted = _lifted(x)
        m, S = _squares(lifted)
        with torch.enable_grad():
            ctx.small = [t.detach().requires_grad_() for t in (m, S, *parameters)]
            ctx.made = scale, shift = coefficients(*ctx.small)
        ctx.save_for_backward(x)
        return _normalised(lifted, scale.detach(), shift.detach(), m, S).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        (x,), (m, *_), (scale, _) = ctx.saved_tensors, ctx.small, ctx.made
        kind, g, x = g.dtype, _lifted(g), _lifted(x)
        sums = _sums(g, x, keepdim=True)
        dm, dS, *grads = torch.autograd.grad(ctx.made, ctx.small, sums, retain_graph=True)
        slope, scale = 2 * dS, scale.detach()
        offset = torch.addcmul(dm / (x.shape[2] * x.shape[3]), slope, m.detach(), value=-1)
        return affine(x, slope, offset).addcmul_(g, scale).to(kind), None, *grads


def _normalise(x, coefficients, *parameters):
    if torch.compiler.is_compiling():  # the compiler fuses the passes itself
        lifted = _lifted(x)
        m = lifted.mean((2, 3), keepdim=True)
        S = (lifted - m.detach()).square().sum((2, 3), keepdim=True)  # the gradient by m is 0
        scale, shift = coefficients(m, S, *parameters)
        return _normalised(lifted, scale, shift, m, S).to(x.dtype)
    return _Normalisation.apply(x, coefficients, *parameters)


class _InstanceNorm(torch.autograd.Function):
    """(x - m) / sqrt(S / n + eps) as x * i - m * i; backward is affine in g and x."""

    @staticmethod
    def forward(ctx, x, eps):
        lifted = _lifted(x)
        m, S = _squares(lifted)
        i = S.mul(1 / (x.shape[2] * x.shape[3])).add_(eps).rsqrt_()
        ctx.save_for_backward(x, m, i)
        return _normalised(lifted, i, -m * i, m, S).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        x, m, i = ctx.saved_tensors
        n = x.shape[2] * x.shape[3]
        kind, g, x = g.dtype, _lifted(g), _lifted(x)
        with_x, alone = _sums(g, x, keepdim=True)
        mean_g = alone / n
        slope = (with_x / n - m * mean_g) * i * i * i
        offset = torch.addcmul(slope * m, mean_g, i, value=-1)
        return affine(x, slope, offset, -1).addcmul_(g, i).to(kind), None


class _BatchNorm(torch.autograd.Function):
    """_InstanceNorm for a GPU, as batch normalisation of one sample with N*C channels: one operation each way.

    F.instance_norm does the same but returns a view, which costs autograd copies when an in-place ReLU follows.
    """

    @staticmethod
    def forward(ctx, x, eps):
        flat = x.reshape(1, -1, *x.shape[2:])
        y, *kept = torch.native_batch_norm(flat, None, None, None, None, True, 0.0, eps)
        ctx.save_for_backward(flat, *kept)
        ctx.eps = eps
        return torch.ops.aten._unsafe_view(y, x.shape)  # no view to autograd: nothing else holds y

    @staticmethod
    def backward(ctx, g):
        flat, *kept = ctx.saved_tensors
        of_x = [True, False, False]
        back = torch.ops.aten.native_batch_norm_backward
        dx, *_ = back(g.contiguous().view(flat.shape), flat, None, None, None, *kept, True, ctx.eps, of_x)
        return dx.view(g.shape), None


def instance_norm(x, eps=1e-5):
    if not torch.compiler.is_compiling():
        return _apply(_BatchNorm if x.device.type == "cuda" else _InstanceNorm, x, eps)
    n = x.shape[2] * x.shape[3]

    def coefficients(m, S):
        i = (S / n + eps).rsqrt()
        return i, -m * i

    return _normalise(x, coefficients)


def adaptive_instance_norm(x, scale, shift, eps=1e-5):
    if x.device.type == "cuda" and not torch.compiler.is_compiling():
        return instance_norm(x, eps) * scale + shift
    n = x.shape[2] * x.shape[3]

    def coefficients(m, S, scale, shift):
        a = scale * (S / n + eps).rsqrt()
        return a, torch.addcmul(shift, m, a, value=-1)

    return _normalise(x, coefficients, scale, shift)


def std_layer_norm(x, gamma, beta, eps=1e-5):
    C, n = x.shape[1], x.shape[2] * x.shape[3]

    def coefficients(m, S, gamma, beta):
        M = m.mean(1, keepdim=True)
        var = (S.sum(1, keepdim=True) + n * (m - M).square().sum(1, keepdim=True)) / (C * n - 1)
        std = var.clamp_min(1e-30).sqrt()  # no gradient at 0, as torch.std
        a = gamma.view(-1, 1, 1) / (std + eps)
        return a, torch.addcmul(beta.view(-1, 1, 1), M, a, value=-1)

    return _normalise(x, coefficients, gamma, beta)


class _InstanceLayerNorm(torch.autograd.Function):
    """gamma * (r0 IN(x) + r1 LN(x)) + beta as one affine map per channel: x * scale + shift.

    Exact: both normalisations are affine in x, and LN's moments follow from the per-channel ones (law of total
    variance).  Forward reads x twice.  Backward is the chain rule through the small (N,C) tensors and one more
    affine map, dx = g * scale - x * slope + offset.  With small maps the operations on small tensors cost most, so
    their constants are factored out: IN's 1/std is sqrt(n - 1) i, LN's is sqrt(C n - 1) j.
    """

    @staticmethod
    def forward(ctx, x, mix, gamma, beta, eps):
        C, n = x.shape[1], x.shape[2] * x.shape[3]
        lifted = _lifted(x)
        m, S = _squares(lifted)
        m, S, gamma_, beta = (t.reshape(-1, C) for t in (m, S, gamma, beta))
        D, M = torch.var_mean(m, 1, correction=0, keepdim=True)  # (N,1)
        roots, eps_i, eps_j = _constants(C, n, eps, m.device, m.dtype)
        i = (S + eps_i).rsqrt_()
        j = torch.add(S.sum(1, keepdim=True), D, alpha=n * C).add_(eps_j).rsqrt_()
        r0, r1 = (mix * roots).unbind(2)  # (1,C) each
        p, q = r0 * i, r1 * j
        a, b = p + q, torch.addcmul(p * m, q, M)  # r0 IN(x) + r1 LN(x) = a x - b
        shift = torch.addcmul(beta, b, gamma_, value=-1).view(len(x), -1, 1, 1)
        scale = (a * gamma_).view(shift.shape)
        ctx.save_for_backward(x, gamma, scale, m, M, i, j, p, q, a, b)
        ctx.eps = eps
        return _normalised(lifted, scale, shift, m, S).to(x.dtype)  # rounded once

    @staticmethod
    def backward(ctx, g):
        x, gamma, scale, m, M, i, j, p, q, a, b = ctx.saved_tensors
        C, n, shape = m.shape[1], x.shape[2] * x.shape[3], gamma.shape
        gamma, (roots, *_) = gamma.reshape(-1, C), _constants(C, n, ctx.eps, m.device, m.dtype)
        kind, g, x = g.dtype, _lifted(g), _lifted(x)
        dscale, dshift = _sums(g, x)
        da, db = dscale * gamma, dshift * gamma
        dp, dq = torch.addcmul(da, db, m, value=-1), torch.addcmul(da, db, M, value=-1)
        dmix = torch.stack(((dp * i).sum(0), (dq * j).sum(0)), -1).mul_(roots)
        dp, dq = dp * p, dq * q  # gradients of log p, log q
        di, dj = dp * i * i, dq.sum(1, keepdim=True) * j * j  # gradients through the variances
        offset = torch.addcmul(dj * M, di, m).addcmul_(db, p, value=-1 / n)
        offset.add_((db * q).sum(1, keepdim=True), alpha=-1 / (C * n))
        slope, offset = (di + dj).view(scale.shape), offset.view(scale.shape)
        dx = affine(x, slope, offset, -1).addcmul_(g, scale).to(kind)
        dgamma = torch.addcmul(dscale * a, dshift, b, value=-1)
        dgamma, dbeta = (t.sum_to_size(gamma.shape).view(shape) for t in (dgamma, dshift))
        return dx, dmix[None], dgamma, dbeta, None


class _TritonInstanceLayerNorm(torch.autograd.Function):
    """_InstanceLayerNorm for a GPU; Triton kernels do the work on small tensors."""

    @staticmethod
    def forward(ctx, x, mix, gamma, beta, eps):
        C, n = x.shape[1], x.shape[2] * x.shape[3]
        lifted = _lifted(x)
        v, m = torch.var_mean(lifted, (2, 3))
        small = v, m, mix.contiguous(), gamma.reshape(-1, C).contiguous()
        scale, shift = triton_kernels.instance_layer_norm_forward(*small, beta.reshape(-1, C).contiguous(), n, eps)
        ctx.save_for_backward(x, scale, *small)
        ctx.shape, ctx.eps = gamma.shape, eps
        return affine(lifted, scale[..., None, None], shift[..., None, None]).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        x, scale, v, m, mix, gamma = ctx.saved_tensors
        kind, g, x = g.dtype, _lifted(g), _lifted(x)
        dscale, dshift = _sums(g, x)
        small = v, m, mix, gamma, dscale, dshift, x.shape[2] * x.shape[3], ctx.eps
        slope, offset, dgamma, dmix = triton_kernels.instance_layer_norm_backward(*small)
        dx = affine(x, slope[..., None, None], offset[..., None, None], -1)
        dx = dx.addcmul_(g, scale[..., None, None]).to(kind)
        dgamma, dbeta = (t.sum_to_size(gamma.shape).view(ctx.shape) for t in (dgamma, dshift))
        return dx, dmix.sum_to_size(mix.shape), dgamma, dbeta, None


@functools.lru_cache
def _triton_works(device) -> bool:
    """Whether Triton is installed and can compile for the GPU."""
    return triton_kernels is not None and triton_kernels.works(device)


def instance_layer_norm(x, mix, gamma, beta, eps=1e-5):
    if torch.compiler.is_compiling():
        return _compiled_instance_layer_norm(x, mix, gamma, beta, eps)
    triton = x.device.type == "cuda" and _triton_works(x.device)
    return _apply(_TritonInstanceLayerNorm if triton else _InstanceLayerNorm, x, mix, gamma, beta, eps)


def _compiled_instance_layer_norm(x, mix, gamma, beta, eps):
    """The same formula without an autograd class, for the compiler to fuse."""
    C, n = x.shape[1], x.shape[2] * x.shape[3]

    def coefficients(m, S, mix, gamma, beta):
        M = m.mean(1, keepdim=True)
        V = S.sum(1, keepdim=True) + n * (m - M.detach()).square().sum(1, keepdim=True)  # the gradient by M is 0
        of_instance, of_layer = (r[..., None, None] for r in mix.unbind(-1))
        p, q = of_instance * (S / (n - 1) + eps).rsqrt(), of_layer * (V / (C * n - 1) + eps).rsqrt()
        return (p + q) * gamma, beta - (p * m + q * M) * gamma

    shape = (-1, C, 1, 1)
    return _normalise(x, coefficients, mix, gamma.reshape(shape), beta.reshape(shape))
