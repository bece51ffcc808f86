"""Fast twin of layers/convolution.py."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

# convolutions with fewer pairs of channels or fewer positions gain nothing by minimal filters (two cores)
LEAST_CHANNEL_PAIRS, LEAST_POSITIONS = 2**16, 2**10
LEAST_CHANNELS = 128  # of both sides, for tiles of 4x4 without a gradient
TILES = 512  # at a time: fewer repeat the reading of weights, more leave the cache


def on_cpu(x: Tensor) -> bool:
    """Whether x is on a CPU, neither compiled nor autocast: only there do the CPU's shortcuts pay."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def product(x: Tensor, W: Tensor) -> Tensor:
    """In float32 on a CPU by oneDNN, which for few rows and a large W takes half of the time of PyTorch's BLAS
    (measured on an AMD EPYC).
    """
    if torch.compiler.is_compiling():  # the compiler chooses the kernel
        return x @ W
    onednn = x.device.type == "cpu" and x.dtype == W.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    large = W.numel() >= (2**20 if len(x) == 1 else 2**15) and min(W.shape) > 16  # below, starting oneDNN costs more
    if not (onednn and large):
        return x @ W
    return torch.ops.mkldnn._linear_pointwise(x, W.T, None, "none", [], "")


def affine(x: Tensor, scale: Tensor, shift: Tensor, value: float = 1) -> Tensor:
    """shift + value * scale * x for a map x (N,C,H,W); scale and shift are constant over H, W."""
    if x.shape[2] * x.shape[3] >= 64 and x.is_contiguous() and on_cpu(x):
        # a CPU vectorises addcmul along H, W where one operand alone is constant: the same bits in half of the time
        return torch.empty_like(x).copy_(shift).addcmul_(x, scale, value=value)
    return torch.addcmul(shift, x, scale, value=value)


def row_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution with few output channels and a large square kernel, for a CPU.

    A CPU computes 16 output channels at the cost of 3.  So each kernel row gets its own output channels, and the
    k shifted results are summed: the same sum in another order.
    """
    out, c, k, _ = weight.shape
    rows = F.conv2d(x, weight.transpose(1, 2).reshape(out * k, c, 1, k)).contiguous()
    n, _, h, w = rows.shape
    n_, c_, h_, w_ = rows.stride()  # channel o k + i is row i's share of output channel o
    return rows.as_strided((n, out, k, h - k + 1, w), (n_, k * c_, c_ + h_, h_, w_)).sum(2)


def one_channel_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution to one channel, for a CPU: (N,C,H,W), (1,C,k,k) -> (N,1,H-k+1,W-k+1).

    As row_conv, but each kernel position gets its own channel: the convolution becomes one matrix product.
    """
    (_, C, k, _), (N, _, H, W) = weight.shape, x.shape
    y = weight.view(C, k * k).T @ x.contiguous().view(N, C, H * W)
    n_, p_, _ = y.stride()  # p = i k + j is the share of the kernel's row i, column j
    size, steps = (N, 1, k, k, H - k + 1, W - k + 1), (n_, n_, k * p_ + W, p_ + 1, W, 1)
    return y.as_strided(size, steps).sum((2, 3))


@functools.lru_cache
def _minimal_filter(dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices (B, G, A) of F(4,3): y = A ((G g) * (B d)) filters 6 numbers d by 3 numbers g into 4 numbers."""
    B = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    B += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    G += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
    A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    return tuple(torch.tensor(matrix, dtype=dtype) for matrix in (B, G, A))


def _triples(x: Tensor) -> Tensor:
    """Each three horizontal neighbours concatenated: (N,T,W,C) -> (N*T*(W-2),3*C)."""
    (N, T, W, C), (n_, t_, w_, _) = x.shape, x.stride()
    return x.as_strided((N, T, W - 2, 3 * C), (n_, t_, w_, 1)).reshape(-1, 3 * C)


class _MinimalConv(torch.autograd.Function):
    """F.conv2d(x, weight) of 3x3 kernels with half of the multiplications: (N,C,4T+2,W) -> (N,O,4T,W-2).

    Winograd's minimal filtering (Lavin & Gray, CVPR 2016) along the height alone.  A tile of 6 rows of x and
    the kernel's 3 rows are each transformed into 6 rows; 6 matrix products, transformed back, give 4 rows of the
    result instead of 12 products.  Equal but for rounding: 1e-6 relative in float32 with 256 channels,
    against 2e-7 to 9e-7 of PyTorch's convolution.
    """

    @staticmethod
    def forward(ctx, x, weight):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        mixed, kernels = _MinimalConv.transform(x, weight)
        (N, T, _, W, _), (_, _, A) = mixed.shape, _minimal_filter(x.dtype)
        y = x.new_empty(N, T, 6, W - 2, len(weight))
        for y_k, mixed_k, kernel in zip(y.unbind(2), mixed.unbind(2), kernels.unbind(0), strict=True):
            y_k.copy_(product(_triples(mixed_k), kernel.T).view(y_k.shape))
        return (A @ y.flatten(3)).view(N, 4 * T, W - 2, -1).permute(0, 3, 1, 2)

    @staticmethod
    def transform(x, weight):
        """The transformed rows of x, (N,T,6,W,C), and of the kernels, (6,O,3*C)."""
        B, G, _ = _minimal_filter(x.dtype)
        (N, C, H, W), (n_, _, h_, _) = x.shape, x.stride()
        mixed = B @ x.as_strided((N, H // 4, 6, W * C), (n_, 4 * h_, h_, 1))
        kernels = G @ weight.permute(0, 2, 3, 1).flatten(2)  # (O,6,3*C)
        return mixed.view(N, -1, 6, W, C), kernels.transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        mixed, kernels = _MinimalConv.transform(x, weight)  # recomputed to save memory
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
                rows.narrow(2, W - 2, 2).zero_()  # reuses the memory of `mixed`
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


def _mixed(d) -> Tensor:
    """B of _minimal_filter times 6 slices: (6,...)."""
    out = d.new_empty(d.shape)
    v0, v1, v2, v3, v4, v5 = out
    d0, d1, d2, d3, d4, d5 = d
    s, t = torch.sub(d4, d2, alpha=4), torch.sub(d3, d1, alpha=4)
    torch.add(s, t, out=v1)
    torch.sub(s, t, out=v2)
    torch.sub(d4, d2, out=s)
    torch.sub(d3, d1, out=t)
    torch.add(s, t, alpha=2, out=v3)
    torch.sub(s, t, alpha=2, out=v4)
    torch.sub(d4, d2, alpha=5, out=v0).add_(d0, alpha=4)
    torch.sub(d5, d3, alpha=5, out=v5).add_(d1, alpha=4)
    return out


def _unmixed(m, out):
    """Write A of _minimal_filter times 6 slices, which are overwritten, into 4."""
    m0, m1, m2, m3, m4, m5 = m
    y0, y1, y2, y3 = out
    a, c = m1 + m2, m3 + m4
    b, d = m1.sub_(m2), m3.sub_(m4)
    torch.add(a, c, out=y0).add_(m0)
    torch.add(b, d, alpha=2, out=y1)
    torch.add(a, c, alpha=4, out=y2)
    torch.add(b, d, alpha=8, out=y3).add_(m5)


def _minimal_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1) of 3x3 kernels with a quarter of the multiplications, without a gradient.

    Minimal filtering as in _MinimalConv, along height and width: 6x6 numbers give 4x4 results by 36 products instead
    of 144.  Strips of tiles are computed whole, so that the passes between products meet the cache.  Equal but for
    rounding: 2e-6 relative in float32 with 160 channels, against 5e-7 of PyTorch's convolution.
    """
    (N, _, H, W), out = x.shape, len(weight)
    rows, columns = -(-H // 4), -(-W // 4)  # of tiles; the last may reach into zeros
    x = F.pad(x, (1, 4 * columns - W + 1, 1, 4 * rows - H + 1)).permute(0, 2, 3, 1).contiguous()
    y = x.new_empty(N, rows, 4, columns, 4, out)
    _, G, _ = _minimal_filter(x.dtype)
    kernels = torch.einsum("pi,qj,ocij->pqoc", G, G, weight).contiguous()
    strip = max(1, TILES // columns)
    for image, result in zip(x.unfold(1, 6, 4), y, strict=True):  # (rows,4*columns+2,C,6), (rows,4,columns,4,O)
        for some, found in zip(image.split(strip), result.split(strip), strict=True):
            across = x.new_empty(4, 6, len(some), columns, out)
            for p, row in enumerate(_mixed(some.movedim(-1, 0))):
                tiles = _mixed(row.unfold(1, 6, 4).movedim(-1, 0)).flatten(1, 2)  # (6,tiles,C)
                products = []
                for q, (tile, kernel) in enumerate(zip(tiles, kernels[p], strict=True)):
                    b = bias if p == q == 1 else None  # A's second column is ones: b reaches all 4x4 results
                    products.append(torch.ops.mkldnn._linear_pointwise(tile, kernel, b, "none", [], ""))
                _unmixed([m.view(across.shape[2:]) for m in products], across[:, p])
            _unmixed(across.transpose(0, 1), found.permute(1, 3, 0, 2, 4))
    return y.view(N, 4 * rows, 4 * columns, out).permute(0, 3, 1, 2)[:, :, :H, :W]


def conv2d_without_gradient(x, weight, bias=None, stride=1, padding=0):
    out, c, *k = weight.shape
    pays = min(out, c) >= LEAST_CHANNELS and x[0, 0].numel() >= 4 * LEAST_POSITIONS
    onednn = on_cpu(x) and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if pays and onednn and not torch.is_grad_enabled() and (k, stride, padding) == ([3, 3], 1, 1):
        return _minimal_conv2d(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding)


def _patches(x: Tensor, k: int, stride: int, padding: int) -> Tensor:
    """The patch under the kernel at each output position, a row each: (N,C,H,W) -> (N*h*w,k*k*C)."""
    x = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1).contiguous()
    (N, H, W, C), (n_, h_, w_, _) = x.shape, x.stride()
    h, w = ((side - k) // stride + 1 for side in (H, W))
    return x.as_strided((N, h, w, k, k * C), (n_, stride * h_, stride * w_, h_, 1)).reshape(N * h * w, -1)


def _spread(rows: Tensor, shape, k: int, stride: int, padding: int) -> Tensor:
    """The adjoint of _patches: adds each row to the positions it was taken from; shape = (N,C,H,W)."""
    N, C, H, W = shape
    h, w = ((side + 2 * padding - k) // stride + 1 for side in (H, W))
    rows, out = rows.view(N, h, w, k, k, C), rows.new_zeros(N, H, W, C)

    def inside(i: int, count: int, side: int) -> tuple[slice, slice]:
        """For kernel row i: the output positions where it meets no padding, and the input positions it meets."""
        first = max(0, -((i - padding) // stride))
        last = min(count - 1, (side - 1 + padding - i) // stride)
        start = stride * first + i - padding
        return slice(first, last + 1), slice(start, stride * last + i - padding + 1, stride)

    for i in range(k):
        for j in range(k):
            (a, y), (b, x) = inside(i, h, H), inside(j, w, W)
            out[:, y, x] += rows[:, a, b, i, j]
    return out.permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    """(N,C,H,W) -> (N*H*W,C), and a weight (O,C,k,k) -> (O*k*k,C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class _StridedConv(torch.autograd.Function):
    """F.conv2d with a stride; backward by two matrix products, half of the time of a CPU's convolutions."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.how = weight.shape[2], stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        dx, dweight, g = None, None, _rows(g)
        if ctx.needs_input_grad[0]:
            dx = _spread(product(g, _rows(weight).view(len(weight), -1)), x.shape, *ctx.how)
        if ctx.needs_input_grad[1]:
            dweight = product(g.T, _patches(x, *ctx.how))
            dweight = dweight.view(len(weight), *weight.shape[2:], -1).permute(0, 3, 1, 2)
        return dx, dweight, None, None


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Whether matrix products pay; with fewer channels, copying costs more than they gain."""
    a, b, k, k_ = weight.shape
    return on_cpu(x) and k == k_ and a * b >= LEAST_CHANNEL_PAIRS // 8


def conv2d(x, weight, bias=None, stride=1, padding=0):
    (out, c, k, k_), p = weight.shape, padding
    N, _, H, W = x.shape
    if stride == 2 and _pays(x, weight):
        y = _StridedConv.apply(x, weight, stride, p)
        return y if bias is None else y + bias.view(-1, 1, 1)
    if not (on_cpu(x) and stride == 1 and k == k_):
        return F.conv2d(x, weight, bias, stride, p)
    rows, positions = H + 2 * p - k + 1, N * (H + 2 * p - k + 1) * (W + 2 * p - k + 1)
    if k == 3 and rows >= 4 and c * out >= LEAST_CHANNEL_PAIRS and positions >= LEAST_POSITIONS:
        rest = -rows % 4  # rows of zeros: the result is computed in tiles of 4 rows
        y = _MinimalConv.apply(F.pad(x, (p, p, p, p + rest)) if p or rest else x, weight)
        y = y[:, :, :-rest] if rest else y
    elif k == 7 and out <= 4:
        y = row_conv(F.pad(x, (p,) * 4) if p else x, weight)
    else:
        return F.conv2d(x, weight, bias, 1, p)
    return y if bias is None else y + bias.view(-1, 1, 1)


class _StridedConvTranspose(torch.autograd.Function):
    """F.conv_transpose2d likewise: its forward is _StridedConv's backward."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding, more):
        ctx.save_for_backward(x, weight)
        ctx.how = k, stride, padding = weight.shape[2], stride, padding
        shape = len(x), weight.shape[1], *((side - 1) * stride - 2 * padding + k + more for side in x.shape[2:])
        return _spread(product(_rows(x), _rows(weight).view(len(weight), -1)), shape, *ctx.how)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        _, stride, padding = ctx.how
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = F.conv2d(g, weight, None, stride, padding)
        if ctx.needs_input_grad[1]:
            dweight = product(_rows(x).T, _patches(g, *ctx.how))
            dweight = dweight.view(len(weight), *weight.shape[2:], -1).permute(0, 3, 1, 2)
        return dx, dweight, None, None, None


def conv_transpose2d(x, weight, bias, stride, padding, more):
    if stride != 2 or not _pays(x, weight):
        return F.conv_transpose2d(x, weight, bias, stride, padding, more)
    y = _StridedConvTranspose.apply(x, weight, stride, padding, more)
    return y if bias is None else y + bias.view(-1, 1, 1)


class _Blur(torch.autograd.Function):
    """The gradient is the blurred gradient, padded to the size of x.

    PyTorch's second derivative of a grouped convolution loops over channels.
    """

    @staticmethod
    def forward(ctx, x, kernel, padding):
        ctx.save_for_backward(kernel)
        ctx.padding = len(kernel) - 1 - padding
        kernel = kernel.to(x.dtype)  # backward has no autocast
        return F.conv2d(x, kernel.expand(x.shape[1], 1, *kernel.shape), padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx, g):
        return _Blur.apply(g, *ctx.saved_tensors, ctx.padding), None, None


def blur(x, kernel, padding):
    return _Blur.apply(x, kernel, padding)


def smooth_double(x, filt):
    """The filter is bilinear interpolation."""
    if x.is_meta:  # where multiply-adds are counted: those of the definition
        return F.conv_transpose2d(F.pad(x, (1,) * 4, mode="replicate"), filt, stride=2, padding=3, groups=x.shape[1])
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class _OnFrame(torch.autograd.Function):
    """Adds to y, in place, a top row, a bottom row, a left column and a right column."""

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


def _doubled(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _beyond_replication(x, weight):
    """The difference between reflection and replication at the top, bottom, left and right of the result."""
    for axis in (2, 3):
        for near, far, tap in ((0, 0, 0), (x.shape[axis] - 2, 7, 4)):
            strip = x.narrow(axis, near, 2)
            reflected = F.pad(_doubled(strip), (2,) * 4, mode="reflect")
            replicated = _doubled(F.pad(strip, (1,) * 4, mode="replicate"))
            outermost = (reflected - replicated).narrow(axis, far, 1)
            if axis == 3:  # the rows have the corners
                outermost = F.pad(outermost[:, :, 1:-1], (0, 0, 1, 1))
            yield F.conv2d(outermost, weight.narrow(axis, tap, 1))


def upsampled_conv2d(x, weight, bias=None):
    """Of the 5x5 pixels under a kernel only 3x3 differ, so 4 kernels of 3x3 compute the 4 output pixels of one of x.

    Replicating x's border equals reflection after up-sampling except in the outer one of the two padded rows and
    columns.  Each of these affects one row or column of the result, where the difference is added.
    """
    if not (on_cpu(x) and weight.shape[2] == 5):
        return F.conv2d(F.pad(_doubled(x), (weight.shape[2] // 2,) * 4, mode="reflect"), weight, bias)
    taps = weight.new_tensor([[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
                              [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]])  # fmt: skip
    kernels = torch.einsum("pai,qbj,ocij->opqcab", taps, taps, weight).flatten(0, 2)  # p, q: row and column parity
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    y = conv2d(F.pad(x, (1,) * 4, mode="replicate"), kernels, bias if bias is None else bias.repeat_interleave(4))
    return _OnFrame.apply(F.pixel_shuffle(y, 2), *_beyond_replication(x, weight))
