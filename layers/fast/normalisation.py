"""The part of fast.py that normalises: for definitions in layers.py, functions that compute the same in less time."""

import functools

import torch
from torch import Tensor
from torch.library import custom_op

from layers.fast.convolution import left_whole

try:
    from layers.fast import triton_kernels
except ImportError:  # Triton is not there
    triton_kernels = None


def _squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel of each sample, and sum of squares about it: (N,C,H,W) -> twice (N,C,1,1)."""
    if x.device.type != "cpu":
        v, m = torch.var_mean(x, dim=(2, 3), keepdim=True)
        return m, v * (x.shape[2] * x.shape[3] - 1)
    # the CPU's var_mean is not vectorised along these axes: two plain passes take an eighth of its time
    m = x.sum((2, 3), keepdim=True).mul_(1 / (x.shape[2] * x.shape[3]))
    d = x - m
    return m, d.mul_(d).sum((2, 3), keepdim=True)


@functools.lru_cache
def _constants(C: int, n: int, eps: float, device, dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(sqrt(n - 1), sqrt(C n - 1)), eps (n - 1) and eps (C n - 1) as tensors, which are added faster than numbers."""
    values = [(n - 1) ** 0.5, (C * n - 1) ** 0.5, eps * (n - 1), eps * (C * n - 1)]
    x = torch.tensor(values, dtype=dtype).to(device, non_blocking=True)  # a GPU is not waited for
    return x[:2], x[2], x[3]


def _affine(x: Tensor, scale: Tensor, shift: Tensor, value: float = 1) -> Tensor:
    """shift + value scale x, in the coefficients' precision, which a half-precision x is lifted to."""
    return torch.addcmul(shift, x.to(scale.dtype), scale, value=value)


def _sums(g: Tensor, x: Tensor, kind: torch.dtype, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Sums of g x and of g over H, W, in the precision `kind`."""
    dscale = (g.to(kind) * x).sum((2, 3), keepdim)
    return dscale, g.sum((2, 3), keepdim, dtype=kind)


def _instance_layer_norm(x, mix, gamma, beta, eps):
    """gamma * (r0 IN(x) + r1 LN(x)) + beta as one affine map per channel: x * scale + shift; and what backward reads.

    Exact, because both normalisations are affine in x and LN's moments follow from the per-channel
    ones (law of total variance).  Forward reads x twice; backward is the chain rule through the
    small (N,C) tensors and one more affine map, dx = g * scale - x * slope + offset.  Of small
    maps the small tensors' operations are the cost, so the constants are gathered:
    IN's 1/std is sqrt(n - 1) i and LN's is sqrt(C n - 1) j.
    """
    C, n = x.shape[1], x.shape[2] * x.shape[3]
    m, S = _squares(x.to(torch.promote_types(x.dtype, torch.float32)))  # of half-precision maps too
    m, S, gamma, beta = (t.reshape(-1, C) for t in (m, S, gamma, beta))
    D, M = torch.var_mean(m, 1, correction=0, keepdim=True)  # (N,1)
    roots, eps_i, eps_j = _constants(C, n, eps, m.device, m.dtype)
    i = (S + eps_i).rsqrt_()
    j = torch.add(S.sum(1, keepdim=True), D, alpha=n * C).add_(eps_j).rsqrt_()
    r0, r1 = (mix * roots).unbind(2)  # (1,C) each
    p, q = r0 * i, r1 * j
    a, b = p + q, torch.addcmul(p * m, q, M)  # r0 IN(x) + r1 LN(x) = a x - b
    shift = torch.addcmul(beta, b, gamma, value=-1).view(len(x), -1, 1, 1)
    scale = (a * gamma).view(shift.shape)
    y = _affine(x, scale, shift).to(x.dtype)  # rounded once
    return y, scale, m, M, i, j, p, q, a, b


def _instance_layer_norm_backward(g, x, gamma, eps, scale, m, M, i, j, p, q, a, b):
    """The gradients of x, mix, gamma and beta."""
    C, n, shape = m.shape[1], x.shape[2] * x.shape[3], gamma.shape
    gamma, (roots, *_) = gamma.reshape(-1, C), _constants(C, n, eps, m.device, m.dtype)
    dscale, dshift = _sums(g, x, m.dtype)
    da, db = dscale * gamma, dshift * gamma
    dp, dq = torch.addcmul(da, db, m, value=-1), torch.addcmul(da, db, M, value=-1)
    dmix = torch.stack(((dp * i).sum(0), (dq * j).sum(0)), -1).mul_(roots)
    dp, dq = dp * p, dq * q  # by log p, log q
    di, dj = dp * i * i, dq.sum(1, keepdim=True) * j * j  # what the variances pass on
    offset = torch.addcmul(dj * M, di, m).addcmul_(db, p, value=-1 / n)
    offset.add_((db * q).sum(1, keepdim=True), alpha=-1 / (C * n))
    slope, offset = (di + dj).view(scale.shape), offset.view(scale.shape)
    dx = _affine(x, slope, offset, -1).addcmul_(g.to(m.dtype), scale).to(g.dtype)
    dgamma = torch.addcmul(dscale * a, dshift, b, value=-1)
    dgamma, dbeta = (t.sum_to_size(gamma.shape).view(shape) for t in (dgamma, dshift))
    return dx, dmix[None], dgamma, dbeta


class _InstanceLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mix, gamma, beta, eps):
        y, *kept = _instance_layer_norm(x, mix, gamma, beta, eps)
        ctx.save_for_backward(x, gamma, *kept)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, g):
        x, gamma, *kept = ctx.saved_tensors
        return *_instance_layer_norm_backward(g, x, gamma, ctx.eps, *kept), None


def _whole(name: str, schema: str):
    """Lets a function be an operation of PyTorch's; the schema is said, for PyTorch 2.6 does not read list[Tensor]."""
    return custom_op(f"nice::whole_{name}", mutates_args=(), schema=schema)


@_whole("instance_layer_norm", "(Tensor x, Tensor mix, Tensor gamma, Tensor beta, float eps) -> Tensor[]")
def _whole_instance_layer_norm(x, mix, gamma, beta, eps):
    return list(_instance_layer_norm(x, mix, gamma, beta, eps))


@_whole("instance_layer_norm_backward", "(Tensor g, Tensor x, Tensor gamma, float eps, Tensor[] kept) -> Tensor[]")
def _whole_instance_layer_norm_backward(g, x, gamma, eps, kept):
    return list(_instance_layer_norm_backward(g, x, gamma, eps, *kept))


@_whole_instance_layer_norm.register_fake
def _(x, mix, gamma, beta, eps):
    (N, C), kind = x.shape[:2], torch.promote_types(x.dtype, torch.float32)
    shapes = (N, C, 1, 1), (N, C), (N, 1), (N, C), (N, 1), *[(N, C)] * 4
    return [torch.empty_like(x), *(x.new_empty(shape, dtype=kind) for shape in shapes)]


@_whole_instance_layer_norm_backward.register_fake
def _(g, x, gamma, eps, kept):
    shapes = (1, x.shape[1], 2), gamma.shape, gamma.shape
    return [torch.empty_like(x), *(x.new_empty(shape, dtype=kept[0].dtype) for shape in shapes)]


def _keep(ctx, inputs, output):
    x, _, gamma, _, ctx.eps = inputs
    ctx.save_for_backward(x, gamma, *output[1:])


def _back(ctx, grads):
    x, gamma, *kept = ctx.saved_tensors
    return *_whole_instance_layer_norm_backward(grads[0], x, gamma, ctx.eps, kept), None


_whole_instance_layer_norm.register_autograd(_back, setup_context=_keep)


class _InFewOperations(torch.autograd.Function):
    """The same for a GPU without Triton, whose time goes into starting operations: those on small tensors do IN and LN
    in one.

    Both are rows of tensors (2,N,C), LN's with equal columns: 1/std `inv`, `means`, and w = mix inv.
    """

    @staticmethod
    def forward(ctx, x, mix, gamma, beta, eps):
        (N, C), kind = x.shape[:2], torch.promote_types(x.dtype, torch.float32)
        lifted = x.to(kind)
        v, m = torch.var_mean(lifted, (2, 3))
        V, M = torch.var_mean(lifted, (1, 2, 3))
        inv, means = torch.stack((v, V[:, None].expand(N, C), m, M[:, None].expand(N, C))).split(2)
        inv.add_(eps).rsqrt_()
        w = inv * mix.permute(2, 0, 1)
        gamma_ = gamma.reshape(-1, C)
        a, b = w.sum(0), (w * means).sum(0)
        scale, shift = a * gamma_, torch.addcmul(beta.reshape(-1, C), b, gamma_, value=-1)
        ctx.save_for_backward(x, scale, gamma_, inv, means, w, a, b)
        ctx.shape = gamma.shape
        return _affine(x, scale[..., None, None], shift[..., None, None]).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        x, scale, gamma, inv, means, w, a, b = ctx.saved_tensors
        C, n = x.shape[1], x.shape[2] * x.shape[3]
        dscale, dshift = _sums(g, x, w.dtype)
        db = dshift * gamma
        dw = torch.addcmul(dscale * gamma, means, db, value=-1)
        dmix = dw * inv
        passed = torch.stack((dw, db.expand_as(dw))) * w  # (2,2,N,C): to the logarithms of inv, to the means
        passed[:, 1] = passed[:, 1].sum(-1, keepdim=True)
        by_var, by_mean = passed
        by_var = by_var * inv.square()
        slope = torch.add(by_var[0], by_var[1], alpha=(n - 1) / (C * n - 1))
        centred = by_var * means
        offset = torch.add(centred[0], centred[1], alpha=(n - 1) / (C * n - 1))
        offset.sub_(torch.add(by_mean[0], by_mean[1], alpha=1 / C), alpha=(n - 1) / n).mul_(1 / (n - 1))
        dx = _affine(x, slope[..., None, None], offset[..., None, None], -1 / (n - 1))
        dx = dx.addcmul_(g.to(w.dtype), scale[..., None, None]).to(g.dtype)
        dgamma = torch.addcmul(dscale * a, dshift, b, value=-1)
        dgamma, dbeta = (t.sum_to_size(gamma.shape).view(ctx.shape) for t in (dgamma, dshift))
        return dx, dmix.sum(1, keepdim=True).permute(1, 2, 0), dgamma, dbeta, None


class _TritonInstanceLayerNorm(torch.autograd.Function):
    """_InstanceLayerNorm with the work on small tensors done by Triton kernels."""

    @staticmethod
    def forward(ctx, x, mix, gamma, beta, eps):
        C, n = x.shape[1], x.shape[2] * x.shape[3]
        v, m = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), (2, 3))
        small = v, m, mix.contiguous(), gamma.reshape(-1, C).contiguous()
        scale, shift = triton_kernels.instance_layer_norm_forward(*small, beta.reshape(-1, C).contiguous(), n, eps)
        ctx.save_for_backward(x, scale, *small)
        ctx.shape, ctx.eps = gamma.shape, eps
        return _affine(x, scale[..., None, None], shift[..., None, None]).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        x, scale, v, m, mix, gamma = ctx.saved_tensors
        dscale, dshift = _sums(g, x, v.dtype)
        slope, offset, dgamma, dmix = triton_kernels.instance_layer_norm_backward(v, m, mix, gamma, dscale, dshift, x.shape[2] * x.shape[3], ctx.eps)
        dx = _affine(x, slope[..., None, None], offset[..., None, None], -1)
        dx = dx.addcmul_(g.to(v.dtype), scale[..., None, None]).to(g.dtype)
        dgamma, dbeta = (t.sum_to_size(gamma.shape).view(ctx.shape) for t in (dgamma, dshift))
        return dx, dmix.sum_to_size(mix.shape), dgamma, dbeta, None


@functools.lru_cache
def _in_kernels(device):
    """Instance-layer normalisation by Triton's kernels, or None where Triton is missing or does not work."""
    return _TritonInstanceLayerNorm if triton_kernels and triton_kernels.works(device) else None


def instance_layer_norm(x, mix, gamma, beta, eps=1e-5):
    if left_whole(x):
        return _whole_instance_layer_norm(x, mix, gamma, beta, eps)[0]
    if torch.compiler.is_compiling():
        return _compiled_instance_layer_norm(x, mix, gamma, beta, eps)
    way = _InstanceLayerNorm
    if x.device.type == "cuda":
        way = _in_kernels(x.device) or _InFewOperations
    return way.apply(x, mix, gamma, beta, eps)


def _compiled_instance_layer_norm(x, mix, gamma, beta, eps):
    """In terms of which the compiler makes kernels of its own."""
    C, n = x.shape[1], x.shape[2] * x.shape[3]

    def coefficients(m, S, mix, gamma, beta):
        M = m.mean(1, keepdim=True)
        V = S.sum(1, keepdim=True) + n * (m - M.detach()).square().sum(1, keepdim=True)  # its slope by M is 0
        of_instance, of_layer = (r[..., None, None] for r in mix.unbind(-1))
        p, q = of_instance * (S / (n - 1) + eps).rsqrt(), of_layer * (V / (C * n - 1) + eps).rsqrt()
        return (p + q) * gamma, beta - (p * m + q * M) * gamma

    shape = (-1, C, 1, 1)
    return _normalise(x, coefficients, mix, gamma.reshape(shape), beta.reshape(shape))


def _instance_norm(x, eps):
    """(x - m) / sqrt(S / n + eps) as x * scale + shift; with m and scale."""
    m, S = _squares(x.to(torch.promote_types(x.dtype, torch.float32)))
    i = S.mul_(1 / (x.shape[2] * x.shape[3])).add_(eps).rsqrt_()
    return _affine(x, i, -m * i).to(x.dtype), m, i


def _instance_norm_backward(g, x, m, i):
    """Affine in g and x, too."""
    n = x.shape[2] * x.shape[3]
    with_x, alone = _sums(g, x, m.dtype, keepdim=True)
    mean_g = alone / n
    slope = (with_x / n - m * mean_g) * i * i * i
    offset = torch.addcmul(slope * m, mean_g, i, value=-1)
    return _affine(x, slope, offset, -1).addcmul_(g.to(m.dtype), i).to(g.dtype)


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        y, *kept = _instance_norm(x, eps)
        ctx.save_for_backward(x, *kept)
        return y

    @staticmethod
    def backward(ctx, g):
        return _instance_norm_backward(g, *ctx.saved_tensors), None


class _BatchNorm(torch.autograd.Function):
    """The same for a GPU, as batch normalisation of one sample with N C channels: one operation each way.

    (A CPU's sums plainly in float32.)  F.instance_norm is that too, but gives a view, which costs autograd copies
    where a ReLU works in place.
    """

    @staticmethod
    def forward(ctx, x, eps):
        flat = x.reshape(1, -1, *x.shape[2:])
        y, *kept = torch.native_batch_norm(flat, None, None, None, None, True, 0.0, eps)
        ctx.save_for_backward(flat, *kept)
        ctx.eps = eps
        return torch.ops.aten._unsafe_view(y, x.shape)  # no view to autograd: y is nobody else's

    @staticmethod
    def backward(ctx, g):
        flat, *kept = ctx.saved_tensors
        of_x = [True, False, False]
        back = torch.ops.aten.native_batch_norm_backward
        dx, *_ = back(g.contiguous().view(flat.shape), flat, None, None, None, *kept, True, ctx.eps, of_x)
        return dx.view(g.shape), None


@_whole("instance_norm", "(Tensor x, float eps) -> Tensor[]")
def _whole_instance_norm(x, eps):
    return list(_instance_norm(x, eps))


@_whole("instance_norm_backward", "(Tensor g, Tensor x, Tensor m, Tensor i) -> Tensor")
def _whole_instance_norm_backward(g, x, m, i):
    return _instance_norm_backward(g, x, m, i)


_whole_instance_norm.register_fake(lambda x, eps: list(_instance_norm(x, eps)))
_whole_instance_norm_backward.register_fake(_instance_norm_backward)
_whole_instance_norm.register_autograd(
    lambda ctx, grads: (_whole_instance_norm_backward(grads[0], *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0], *output[1:]),
)


def instance_norm(x, eps=1e-5):
    if not torch.compiler.is_compiling():
        return (_BatchNorm if x.device.type == "cuda" else _InstanceNorm).apply(x, eps)
    if left_whole(x):
        return _whole_instance_norm(x, eps)[0]
    n = x.shape[2] * x.shape[3]

    def coefficients(m, S):
        i = (S / n + eps).rsqrt()
        return i, -m * i

    return _normalise(x, coefficients)


class _Normalisation(torch.autograd.Function):
    """x * scale + shift, both made by `coefficients` of the moments (m, S) of x's channels and of parameters.

    Any normalisation by means and variances is of this kind.  Each of its passes reads x as few times as
    instance normalisation's; the chain rule through the small tensors is autograd's.
    """

    @staticmethod
    def forward(ctx, x, coefficients, *parameters):
        m, S = _squares(x.to(torch.promote_types(x.dtype, torch.float32)))
        with torch.enable_grad():
            ctx.small = [t.detach().requires_grad_() for t in (m, S, *parameters)]
            ctx.made = scale, shift = coefficients(*ctx.small)
        ctx.save_for_backward(x)
        return _affine(x, scale.detach(), shift.detach()).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        (x,), (m, *_), (scale, _) = ctx.saved_tensors, ctx.small, ctx.made
        sums = _sums(g, x, m.dtype, keepdim=True)
        dm, dS, *grads = torch.autograd.grad(ctx.made, ctx.small, sums, retain_graph=True)
        slope, scale = 2 * dS, scale.detach()
        offset = torch.addcmul(dm / (x.shape[2] * x.shape[3]), slope, m.detach(), value=-1)
        return _affine(x, slope, offset).addcmul_(g.to(m.dtype), scale).to(g.dtype), None, *grads


def _normalise(x, coefficients, *parameters):
    if torch.compiler.is_compiling():  # the compiler joins the passes itself
        lifted = x.to(torch.promote_types(x.dtype, torch.float32))
        m = lifted.mean((2, 3), keepdim=True)
        S = (lifted - m.detach()).square().sum((2, 3), keepdim=True)  # its slope by m is 0
        scale, shift = coefficients(m, S, *parameters)
        return (lifted * scale + shift).to(x.dtype)
    return _Normalisation.apply(x, coefficients, *parameters)


def adaptive_instance_norm(x, scale, shift, eps=1e-5):
    if left_whole(x) or (x.device.type == "cuda" and not torch.compiler.is_compiling()):
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
        std = var.clamp_min(1e-30).sqrt()  # without slope at 0, as torch.std
        a = gamma.view(-1, 1, 1) / (std + eps)
        return a, torch.addcmul(beta.view(-1, 1, 1), M, a, value=-1)

    return _normalise(x, coefficients, gamma, beta)
