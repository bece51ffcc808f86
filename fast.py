"""The same numbers in less time: for each definition in layers.py that is marked `accelerated`, a function of its name.

Nothing here defines anything.  Every function equals its definition but for rounding, says why, and is tested
against it (tests/test_fast.py); whoever deletes this file, or gives --plain true, has a slower program.
"""

import ctypes
import functools
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_normalisation import adaptive_instance_norm, instance_layer_norm, instance_norm, std_layer_norm  # noqa: F401

# ------------------------------------------------------------------------------------------- machine


def _on_cpu(x: Tensor) -> bool:
    """Whether x is computed eagerly and in its own precision on a CPU: where the CPU's shortcuts pay."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def product(x: Tensor, W: Tensor) -> Tensor:
    """x (R,I) times W (I,O) without autograd.

    In float32 on a CPU by oneDNN: for few rows, or one, and a large W it takes half of the time of
    PyTorch's BLAS (measured on an AMD EPYC).
    """
    if torch.compiler.is_compiling():  # the compiler chooses itself
        return x @ W
    onednn = x.device.type == "cpu" and x.dtype == W.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    large = W.numel() >= (2**20 if len(x) == 1 else 2**15) and min(W.shape) > 16  # below, its start costs more
    if not (onednn and large):
        return x @ W
    return torch.ops.mkldnn._linear_pointwise(x, W.T, None, "none", [], "")


def keep_freed_memory():
    """Let the C library keep what tensors free instead of giving it back after each.

    A training step frees and takes gigabytes; fetching them anew from the kernel, page by zeroed
    page, was a fifth of a step on a CPU, and a quarter of Inception's features.  glibc only; elsewhere
    nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own, which would be lost when freed
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads


class _Early(torch.autograd.Function):
    """loss(x), whose backward is done at once and waits, scaled by the gradient to come: no activation outlives it."""

    @staticmethod
    def forward(ctx, loss, x, *parameters):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = loss(x)
        ctx.gradients = torch.autograd.grad(value, (x, *parameters), allow_unused=True)
        return value.detach()

    @staticmethod
    def backward(ctx, g):
        return None, *(None if gradient is None else gradient * g for gradient in ctx.gradients)


def early(loss, x, parameters):
    """On a CPU: a GPU in half precision scales losses up first, and the compiler would stop here."""
    learning = [p for p in parameters if p.requires_grad]
    if not (_on_cpu(x) and x.requires_grad and torch.is_grad_enabled()):
        return loss(x)
    return _Early.apply(loss, x, *learning)


# -------------------------------------------------------------------------------------- convolution


def row_conv(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution with few output channels and a large square kernel, for a CPU.

    A CPU computes 16 output channels at the cost of 3: here every row of the kernel makes channels of
    its own, and the k shifted rows are summed, which is the same sum in another order.
    """
    out, c, k, _ = weight.shape
    rows = F.conv2d(x, weight.transpose(1, 2).reshape(out * k, c, 1, k)).contiguous()
    n, _, h, w = rows.shape
    n_, c_, h_, w_ = rows.stride()  # channel o k + i is row i's share of output channel o
    return rows.as_strided((n, out, k, h - k + 1, w), (n_, k * c_, c_ + h_, h_, w_)).sum(2)


def one_channel_conv(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution to one channel, for a CPU: (N,C,H,W), (1,C,k,k) -> (N,1,H-k+1,W-k+1).

    As in row_conv, but each position of the kernel makes a channel: what remains is one matrix product.
    """
    (_, C, k, _), (N, _, H, W) = weight.shape, x.shape
    y = weight.view(C, k * k).T @ x.contiguous().view(N, C, H * W)
    n_, p_, _ = y.stride()  # p = i k + j is the share of the kernel's row i, column j
    size, steps = (N, 1, k, k, H - k + 1, W - k + 1), (n_, n_, k * p_ + W, p_ + 1, W, 1)
    return y.as_strided(size, steps).sum((2, 3))


@functools.lru_cache
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


LEAST_CHANNEL_PAIRS, LEAST_POSITIONS = 2**16, 2**10  # below, the mixing costs what the products gain (two cores)


def conv2d(x, weight, bias=None, stride=1, padding=0):
    (out, c, k, k_), p = weight.shape, padding
    N, _, H, W = x.shape
    if not (_on_cpu(x) and stride == 1 and k == k_):
        return F.conv2d(x, weight, bias, stride, p)
    rows, positions = H + 2 * p - k + 1, N * (H + 2 * p - k + 1) * (W + 2 * p - k + 1)
    if k == 3 and rows >= 4 and c * out >= LEAST_CHANNEL_PAIRS and positions >= LEAST_POSITIONS:
        rest = -rows % 4  # rows of zeros, for whole tiles of 4 rows of the result
        y = _MinimalConv.apply(F.pad(x, (p, p, p, p + rest)) if p or rest else x, weight)
        y = y[:, :, :-rest] if rest else y
    elif k == 7 and out <= 4:
        y = row_conv(F.pad(x, (p,) * 4) if p else x, weight)
    else:
        return F.conv2d(x, weight, bias, 1, p)
    return y if bias is None else y + bias.view(-1, 1, 1)


class _OnFrame(torch.autograd.Function):
    """Adds to y, in place, a row at its top and at its bottom, a column at its left and at its right."""

    @staticmethod
    def forward(ctx, y, *sides):
        ctx.mark_dirty(y)
        for part, side in zip(_OnFrame.frame(y), sides, strict=True):
            part += side
        return y

    @staticmethod
    def frame(y):
        return y[:, :, :1], y[:, :, -1:], y[..., :1], y[..., -1:]

    @staticmethod
    def backward(ctx, g):
        return g, *_OnFrame.frame(g)


def smooth_double(x, filt):
    """That filter is bilinear interpolation.  On meta, where products are counted, they are those of the definition."""
    if x.is_meta:
        return F.conv_transpose2d(F.pad(x, (1,) * 4, mode="replicate"), filt, stride=2, padding=3, groups=x.shape[1])
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def upsampled_conv2d(x, weight, bias=None):
    """Of the 5x5 pixels under a kernel only 3x3 differ, so 4 kernels of 3x3 make the 4 pixels of each one of x.

    Padding x by its own border is reflection after up-sampling, but for the outermost of the two rows and columns,
    which one row or column of the result sees each: their difference is added.
    """
    if not (_on_cpu(x) and weight.shape[2] == 5):
        return F.conv2d(F.pad(_doubled(x), (weight.shape[2] // 2,) * 4, mode="reflect"), weight, bias)
    taps = weight.new_tensor([[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
                              [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]])  # fmt: skip
    kernels = torch.einsum("pai,qbj,ocij->opqcab", taps, taps, weight).flatten(0, 2)  # p, q: below, right of
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    y = conv2d(F.pad(x, (1,) * 4, mode="replicate"), kernels, bias if bias is None else bias.repeat_interleave(4))
    return _OnFrame.apply(F.pixel_shuffle(y, 2), *_beyond_replication(x, weight))


def _doubled(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _beyond_replication(x, weight):
    """What the top, bottom, left and right of the result lack when x is padded by its border."""
    for axis in (2, 3):
        for near, far, tap in ((0, 0, 0), (x.shape[axis] - 2, 7, 4)):
            strip = x.narrow(axis, near, 2)
            reflected = F.pad(_doubled(strip), (2,) * 4, mode="reflect")
            replicated = _doubled(F.pad(strip, (1,) * 4, mode="replicate"))
            outermost = (reflected - replicated).narrow(axis, far, 1)
            if axis == 3:  # the corners were the rows'
                outermost = F.pad(outermost[:, :, 1:-1], (0, 0, 1, 1))
            yield F.conv2d(outermost, weight.narrow(axis, tap, 1))


# ------------------------------------------------------------------------------------- spectral norm


def power_iteration(W, u):
    v = product(u[None], W)[0]
    v /= v.norm().clamp_min_(1e-12)
    u = product(v[None], W.T)[0]
    sigma = u.norm().clamp_min_(1e-12)  # = u . W v, once u is normalised
    u /= sigma
    return sigma.reciprocal_().view(1), u, v


@torch.no_grad()
def iterate(layers, n):
    """On a GPU in step: one call divides all layers' vectors by their norms."""
    if not layers or not layers[0].weight_u.is_cuda or torch.compiler.is_compiling():
        for layer in layers:
            layer.power_iteration(n)
        return
    together(layers, n)


def together(layers, n):
    """n power iterations of each of the layers, all layers' first ones before any's second."""
    W = [layer.weight_orig.detach().flatten(1) for layer in layers]
    us = [w.new_empty(n, w.shape[0]) for w in W]
    vs = [w.new_empty(n, w.shape[1]) for w in W]
    last, sigmas = [layer.weight_u for layer in layers], []
    for k in range(n):
        last_v = [torch.mv(w.T, u, out=v[k]) for w, u, v in zip(W, last, vs, strict=True)]
        _divide_by_norms(last_v)
        last = [torch.mv(w, v, out=u[k]) for w, v, u in zip(W, last_v, us, strict=True)]
        sigmas += _divide_by_norms(last)
    torch._foreach_copy_([layer.weight_u for layer in layers], last)
    torch._foreach_copy_([layer.weight_v for layer in layers], last_v)
    inverse = torch.stack(sigmas).reciprocal_().view(n, -1, 1)
    for i, layer in enumerate(layers):
        layer.iterations = [inverse[:, i], us[i], vs[i]]


def _divide_by_norms(vectors):
    norms = torch._foreach_norm(vectors)
    torch._foreach_clamp_min_(norms, 1e-12)
    torch._foreach_div_(vectors, norms)
    return norms


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
        grad_weight.view(u.shape[1], -1).addmm_((u * coefficient).T, v)
        return grad_weight, None, None, None


class _SpectralProduct(torch.autograd.Function):
    """y = x W^T / sigma_k, for rows x (R,I), chunk k of which has its own sigma, and a weight W (O,...).

    W's gradient is one product of stacked rows: those of x, and for sigma's rank-one parts those of v.
    """

    @staticmethod
    def forward(ctx, x, weight, inv_sigma, u, v):
        y = product(x, weight.view(u.shape[1], -1).T)
        y.view(len(u), -1).mul_(inv_sigma)
        ctx.save_for_backward(x, weight, y, inv_sigma, u, v)
        return y

    @staticmethod
    def backward(ctx, g):
        x, weight, y, inv_sigma, u, v = ctx.saved_tensors
        K, out = u.shape
        g, dx, dW = g.contiguous().view(K, -1), None, None
        scaled = (g * inv_sigma).view(y.shape)
        if ctx.needs_input_grad[0]:
            dx = product(scaled, weight.view(out, -1))
        if ctx.needs_input_grad[1]:
            # d(1/sigma) = -dsigma / sigma^2, and y = (x W^T) / sigma
            coefficient = (g.to(v.dtype) * y.view(K, -1)).sum(1, keepdim=True) * -inv_sigma
            left, right = torch.cat((scaled, u * coefficient)), torch.cat((x, v))
            dW = product(left.T, right).view_as(weight)
        return dx, dW, None, None, None


def spectral_linear(x, weight, inv_sigma, u, v):
    return _SpectralProduct.apply(x, weight, inv_sigma, u, v)


def spectral_conv2d(x, weight, bias, stride, inv_sigma, u, v):
    (K, out), N, k = u.shape, len(x), weight.shape[2]
    h, w = ((side - k) // stride + 1 for side in x.shape[2:])
    cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()  # which fails at what unfolds a padded map
    if cpu and h * w <= 64 and not torch.is_autocast_enabled("cpu"):
        # Few positions, huge weights: one matrix product reads the weights in place, where the CPU's
        # convolution would first copy them into a layout of its own, in every forward and backward.
        patches = F.unfold(x, k, stride=stride).transpose(1, 2).reshape(N * h * w, -1)
        y = _SpectralProduct.apply(patches, weight, inv_sigma, u, v)
        y = y.view(N, h, w, out).permute(0, 3, 1, 2)
        # the sum comes last: what works in place on a view of y costs autograd two copies
        return y.contiguous() if bias is None else y + bias.view(-1, 1, 1)
    weight, inv_sigma = _InverseSigma.apply(weight, inv_sigma, u, v)
    if cpu and out == stride == 1:
        y = one_channel_conv(x, weight)
    else:  # on a CPU in the layout of the weights
        y = F.conv2d(x.contiguous() if cpu else x, weight, None, stride)
    scale = inv_sigma.to(y.dtype)
    scale = (scale if N == K else scale.repeat_interleave(N // K, 0))[..., None, None]  # (N,1,1,1)
    if bias is None:
        return y * scale
    return torch.addcmul(bias.to(y.dtype).view(-1, 1, 1), y, scale)
