"""PyTorch's operations for feature maps that are computed band by band (maps.py), under PyTorch's names.

An operation finds the input rows that its output rows a..b-1 depend on, and computes them with PyTorch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import layers
from translation.tiling.maps import Map, NotTileable, Plan


def pointwise(x: Map, function, channels: int | None = None) -> Map:
    """A function that maps each row by itself."""
    shape = (1, channels or x.shape[1], *x.shape[2:])
    return TiledMap(x.plan, shape, (x,), lambda a, b: function(x.rows(a, b)))


def _parts(x: Map) -> tuple:
    """x as (base - centre) * scale + shift."""
    zero = torch.zeros(1, 1, 1, 1).double()
    return x.affine or (x, zero, zero + 1, zero)


def _scaled(base: Map, centre: Tensor, scale: Tensor, shift: Tensor) -> Map:
    """(base - centre) * scale + shift; consecutive ones are merged into one.

    The mean is subtracted first: a large scale would magnify the rounding of base * scale - centre * scale.
    """
    def compute(a, b):
        x = base.rows(a, b)
        z, f, s = (t.to(x.device, x.dtype) for t in (centre, scale, shift))
        return torch.addcmul(s, x - z if centre.any() else x, f)

    C = max(t.shape[1] for t in (base, centre, scale, shift))
    y = TiledMap(base.plan, (1, C, *base.shape[2:]), (base,), compute)
    y.affine = base, centre, scale, shift
    return y


def _of_channels(value) -> Tensor:
    """A number, or one per channel (C,1,1) or (1,C,1,1), as (1,C,1,1) in double precision."""
    value = torch.as_tensor(value).detach().double().cpu()
    value = value.view((1,) * (4 - value.dim()) + tuple(value.shape))
    if value.shape[0] != 1 or value.shape[2:] != (1, 1):
        raise NotTileable(f"numbers of shape {tuple(value.shape)} cannot be computed in tiles; use --tile 0")
    return value


def add(x, y, *, alpha=1):
    if not isinstance(x, Map):
        x, y = mul(y, alpha), x
        alpha = 1
    base, centre, scale, shift = _parts(x)
    if not isinstance(y, Map):
        value = alpha * _of_channels(y)
        if x.affine is None:
            return _scaled(base, -value, scale, shift)
        return _scaled(base, centre, scale, shift + value)
    base_y, centre_y, scale_y, shift_y = _parts(y)
    if base is base_y:
        apart = (centre - centre_y) * alpha * scale_y
        return _scaled(base, centre, scale + alpha * scale_y, shift + alpha * shift_y + apart)
    both = TiledMap(x.plan, x.shape, (x, y), lambda a, b: torch.add(x.rows(a, b), y.rows(a, b), alpha=alpha))
    return both.keep()  # it is read twice: by the next layer and by the next sum


def mul(x, y):
    if not isinstance(x, Map):
        x, y = y, x
    if isinstance(y, Map):
        raise NotTileable("a product of two maps cannot be computed in tiles; use --tile 0")
    base, centre, scale, shift = _parts(x)
    return _scaled(base, centre, scale * _of_channels(y), shift * _of_channels(y))


def sub(x, y, *, alpha=1):
    return add(x, mul(y, -alpha)) if isinstance(y, Map) else add(x, -alpha * _of_channels(y))


def div(x, y):
    return mul(x, 1 / _of_channels(y))


def addcmul(x, y, z, *, value=1):
    product = mul(y, z)
    return add(product, x) if value == 1 else add(mul(product, value), x)


def cat(tensors, dim=0):
    """Maps and constant tensors, concatenated along the channels."""
    if len(tensors) == 1:
        return tensors[0]
    if dim != 1:
        raise NotTileable("pictures are tiled one by one; use --tile 0")
    maps = [x for x in tensors if isinstance(x, Map)]

    def compute(a, b):
        return torch.cat([x.rows(a, b) if isinstance(x, Map) else x[:, :, a:b] for x in tensors], 1)

    shape = (1, sum(x.shape[1] for x in tensors), *maps[0].shape[2:])
    return TiledMap(maps[0].plan, shape, tuple(maps), compute)


def chunk(x, chunks, dim=0):
    if chunks != 1:
        raise NotTileable("pictures are tiled one by one; use --tile 0")
    return (x,)


def channel_sum(x, dim, keepdim=False):
    if dim not in (1, (1,)) or not keepdim:
        raise NotTileable("such a sum cannot be computed in tiles; use --tile 0")
    return pointwise(x, lambda rows: rows.sum(1, keepdim=True), channels=1)


def pad(x, pad, mode="constant", value=None):
    left, right, top, bottom = (*pad, 0, 0)[:4]
    H, W = x.shape[2:]

    def zeros(a, b):
        first, last = min(max(0, a - top), H - 1), max(1, min(H, b - top))
        return F.pad(x.rows(first, last), (left, right, first - a + top, b - top - last), value=value or 0)

    def repeated(a, b):
        at = torch.arange(a - top, b - top)
        if mode == "reflect":
            at = (H - 1) - ((H - 1) - at.abs()).abs()
        at = at.clamp(0, H - 1)
        first, last = int(at.min()), int(at.max()) + 1
        rows = x.rows(first, last)
        if last - first < b - a:  # else the rows are complete and in order
            rows = rows.index_select(2, (at - first).to(rows.device))
        return F.pad(rows, (left, right, 0, 0), mode=mode) if left or right else rows

    shape = (*x.shape[:2], H + top + bottom, W + left + right)
    return TiledMap(x.plan, shape, (x,), zeros if mode == "constant" else repeated)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    (s, _), (p, q) = _pair(stride), _pair(padding)
    if p or q:
        x = pad(x, (q, q, p, p))
    out, _, k, l = weight.shape  # noqa: E741
    H, W = ((side - size) // s + 1 for side, size in zip(x.shape[2:], (k, l), strict=True))

    def compute(a, b):
        rows = x.rows(a * s, (b - 1) * s + k)
        if groups > 1:
            return F.conv2d(rows, weight, bias, s, groups=groups)
        return layers.conv2d(rows, weight, bias, s)

    return TiledMap(x.plan, (1, out, H, W), (x,), compute, depth=int(k > 1 and groups == 1))


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    (s, _), (p, q), (o, o_) = _pair(stride), _pair(padding), _pair(output_padding)
    k, l = weight.shape[2:]  # noqa: E741
    H, W = x.shape[2:]
    shape = (1, weight.shape[1] * groups, (H - 1) * s - 2 * p + k + o, (W - 1) * s - 2 * q + l + o_)

    def compute(a, b):
        first, last = max(0, -((k - 1 - a - p) // s)), min(H, (b - 1 + p) // s + 1)  # the input rows that contribute
        y = F.conv_transpose2d(x.rows(first, last), weight, bias, s, (0, q), (0, o_), groups)
        start = a + p - first * s
        return y[:, :, start : start + b - a]

    return TiledMap(x.plan, shape, (x,), compute, depth=int(k > 1 and groups == 1))


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (*value, *value)[:2]


def enlarged(x: Map, function, channels: int, factor: int) -> Map:
    """Each row becomes `factor` rows and each column `factor` columns."""
    def compute(a, b):
        first = a // factor
        y = function(x.rows(first, -(-b // factor)))
        return y[:, :, a - first * factor : b - first * factor]

    return TiledMap(x.plan, (1, channels, factor * x.shape[2], factor * x.shape[3]), (x,), compute)


def interpolate(x, size=None, scale_factor=None, mode="nearest", **_):
    if mode != "nearest" or size or int(scale_factor) != scale_factor:
        raise NotTileable(f"{mode} interpolation cannot be computed in tiles; use --tile 0")
    factor = int(scale_factor)
    return enlarged(x, lambda rows: F.interpolate(rows, scale_factor=factor, mode="nearest"), x.shape[1], factor)


def pixel_shuffle(x, upscale_factor):
    r = upscale_factor
    return enlarged(x, lambda rows: F.pixel_shuffle(rows, r), x.shape[1] // r**2, r)


def avg_pool2d(x, kernel_size, stride=None, padding=0, *_, **__):
    (k, _), (s, _) = _pair(kernel_size), _pair(stride or kernel_size)
    if padding or k != s:
        raise NotTileable("such pooling cannot be computed in tiles; use --tile 0")
    shape = (*x.shape[:2], x.shape[2] // k, x.shape[3] // k)
    return TiledMap(x.plan, shape, (x,), lambda a, b: F.avg_pool2d(x.rows(a * k, b * k), k))


def var_mean(x, dim, *, correction=1, keepdim=False):
    if not keepdim or tuple(dim) not in ((2, 3), (1, 2, 3)):
        raise NotTileable(f"moments over the axes {dim} cannot be computed in tiles; use --tile 0")
    var, mean = x.measured().moments(dim, correction)
    return var.to(x.dtype), mean.to(x.dtype)


def std_mean(x, dim, *, correction=1, keepdim=False):
    var, mean = var_mean(x, dim, correction=correction, keepdim=keepdim)
    return var.sqrt(), mean


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    if num_groups != 1:
        raise NotTileable("normalisation of groups cannot be computed in tiles; use --tile 0")
    var, mean = x.measured().moments((1, 2, 3), 0)
    scale = (var + eps).rsqrt().cpu()
    normalised = mul(sub(x, mean), scale)
    return add(mul(normalised, weight.view(-1, 1, 1)), bias.view(-1, 1, 1))


def mean(x, dim, keepdim=False):
    _, found = var_mean(x, dim, keepdim=True)
    return found if keepdim else found.flatten(1)


def amax(x, dim):
    if tuple(dim) != (2, 3):
        raise NotTileable("such a maximum cannot be computed in tiles; use --tile 0")
    return x.measured().most


def adaptive_avg_pool2d(x, output_size):
    return mean(x, (2, 3), keepdim=True)


# keys: names of PyTorch's functions and methods, without underscores
OPERATIONS = {f.__name__: f for f in (
    add, sub, mul, div, addcmul, cat, chunk, pad, conv2d, conv_transpose2d, interpolate, pixel_shuffle, avg_pool2d,
    var_mean, std_mean, group_norm, mean, amax, adaptive_avg_pool2d,
)}  # fmt: skip
OPERATIONS |= {"sum": channel_sum, "radd": add, "rmul": mul, "truediv": div, "contiguous": lambda x, **_: x}
OPERATIONS["relu"] = lambda x, inplace=False: pointwise(x, F.relu)
OPERATIONS["leaky_relu"] = lambda x, negative_slope=0.01, inplace=False: pointwise(
    x, lambda rows: F.leaky_relu(rows, negative_slope)
)
OPERATIONS["tanh"] = lambda x: pointwise(x, torch.tanh)


class TiledMap(Map):
    """A feature map in bands with the operations above."""

    operations = OPERATIONS


def banded(x: Tensor, plan: Plan) -> TiledMap:
    """A picture (1,C,H,W) as a feature map in bands."""
    return TiledMap(plan, x.shape, (), lambda a, b: x[:, :, a:b].to(plan.device), x.dtype)
