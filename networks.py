"""The networks of NICE-GAN (Chen et al., CVPR 2020, arXiv 2003.00273).

A discriminator D = C o E judges images of one domain; its first layers E are the encoder of that
domain.  A generator G draws into one domain from such a code.  Module names are a contract: they
are the keys of checkpoints that people already have, and the order of registration is the order of
the parameters in their optimizer states.  Shape comments are for 256 x 256 images and c = 64.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    x = torch.tensor(values, dtype=dtype).to(device)
    return x[:2], x[2], x[3]


class _InstanceLayerNorm(torch.autograd.Function):
    """gamma * (r0 IN(x) + r1 LN(x)) + beta as one affine map per channel: x * scale + shift.

    Exact, because both normalisations are affine in x and LN's moments follow from the per-channel
    ones (law of total variance).  Forward reads x twice; backward is the chain rule through the
    small (N,C,1,1) tensors and one more affine map, dx = g * scale - x * slope + offset.  Of small
    maps the small tensors' operations are the cost, so the constants are gathered:
    IN's 1/std is sqrt(n - 1) i and LN's is sqrt(C n - 1) j.
    """

    @staticmethod
    def forward(ctx, x, rho, gamma, beta, eps):
        C, n = x.shape[1], x.shape[2] * x.shape[3]
        m, S = _squares(x.to(torch.promote_types(x.dtype, torch.float32)))  # of half-precision maps too
        D, M = torch.var_mean(m, 1, correction=0, keepdim=True)  # (N,1,1,1)
        roots, eps_i, eps_j = _constants(C, n, eps, m.device, m.dtype)
        i = (S + eps_i).rsqrt_()
        j = torch.add(S.sum(1, keepdim=True), D, alpha=n * C).add_(eps_j).rsqrt_()
        r = rho.softmax(-1)
        r0, r1 = (r * roots).view(1, C, 2, 1, 1).unbind(2)
        p, q = r0 * i, r1 * j
        a, b = p + q, torch.addcmul(p * m, q, M)  # r0 IN(x) + r1 LN(x) = a x - b
        scale, shift = a * gamma, torch.addcmul(beta, b, gamma, value=-1)
        ctx.save_for_backward(x, scale, gamma, m, M, i, j, r, p, q, a, b)
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))

    @staticmethod
    def backward(ctx, g):
        x, scale, gamma, m, M, i, j, r, p, q, a, b = ctx.saved_tensors
        C, n = x.shape[1], x.shape[2] * x.shape[3]
        dshift = g.sum((2, 3), keepdim=True, dtype=m.dtype)
        dscale = (g * x).sum((2, 3), keepdim=True, dtype=m.dtype)
        da, db = dscale * gamma, dshift * gamma
        dp, dq = torch.addcmul(da, db, m, value=-1) * p, torch.addcmul(da, db, M, value=-1) * q  # by log p, log q
        di, dj = dp * i * i, dq.sum(1, keepdim=True) * j * j  # what the variances pass on
        offset = torch.addcmul(dj * M, di, m).addcmul_(db, p, value=-1 / n)
        offset.add_((db * q).sum(1, keepdim=True), alpha=-1 / (C * n))
        dx = torch.addcmul(offset.to(g.dtype), x, (di + dj).to(g.dtype), value=-1).addcmul_(g, scale.to(g.dtype))
        dr = torch.stack((dp.sum(0), dq.sum(0)), -1).view(1, C, 2)
        drho = dr - r * dr.sum(-1, keepdim=True)  # softmax
        dgamma = torch.addcmul(dscale * a, dshift, b, value=-1)
        return dx, drho, dgamma.sum_to_size(gamma.shape), dshift.sum_to_size(gamma.shape), None


def instance_layer_norm(x: Tensor, rho: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """softmax(rho)_0 IN(x) + softmax(rho)_1 LN(x), times gamma plus beta (U-GAT-IT, eq. 1).

    x (N,C,H,W); rho (1,C,2); gamma, beta (N or 1,C,1,1).  Variances are unbiased; LN is over C,H,W
    of one sample.
    """
    return _InstanceLayerNorm.apply(x, rho, gamma, beta, eps)


class AdaILN(nn.Module):
    """Instance-layer normalisation with gamma and beta (N,C) given by the caller."""

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.tensor([3.2, 1.0]).repeat(1, num_features, 1))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho, gamma[..., None, None], beta[..., None, None], self.eps)


class ILN(nn.Module):
    """Instance-layer normalisation that owns gamma and beta (1,C,1,1)."""

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.tensor([1.0, 3.2]).repeat(1, num_features, 1))
        self.gamma = nn.Parameter(torch.ones(1, num_features, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return instance_layer_norm(x, self.rho, self.gamma, self.beta, self.eps)


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
        grad_weight.view(u.shape[1], -1).addmm_((u * coefficient[:, None]).T, v)
        return grad_weight, None, None, None


class _SpectralProduct(torch.autograd.Function):
    """y = x W^T / sigma_k, for rows x (R,I), chunk k of which has its own sigma, and a weight W (O,...).

    W's gradient is one product of stacked rows: those of x, and for sigma's rank-one parts those of v.
    """

    @staticmethod
    def forward(ctx, x, weight, inv_sigma, u, v):
        y = product(x, weight.flatten(1).T)
        y.view(len(u), -1).mul_(inv_sigma[:, None])
        ctx.save_for_backward(x, weight, y, inv_sigma, u, v)
        return y

    @staticmethod
    def backward(ctx, g):
        x, weight, y, inv_sigma, u, v = ctx.saved_tensors
        g, dx, dW = g.contiguous().view(len(u), -1), None, None
        scaled = (g * inv_sigma[:, None]).view(y.shape)
        if ctx.needs_input_grad[0]:
            dx = product(scaled, weight.flatten(1))
        if ctx.needs_input_grad[1]:
            # d(1/sigma) = -dsigma / sigma^2, and y = (x W^T) / sigma
            coefficient = (g.to(v.dtype) * y.view(len(u), -1)).sum(1) * -inv_sigma
            left, right = torch.cat((scaled, u * coefficient[:, None])), torch.cat((x, v))
            dW = product(left.T, right).view_as(weight)
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
        self.register_buffer("weight_v", F.normalize(torch.randn(rows.shape[1]), dim=0, eps=1e-12))
        self.iterations = None

    @torch.no_grad()
    def power_iteration(self, n: int = 1):
        """v = normalise(W^T u), u = normalise(W v), n times; keeps each (1/sigma, u, v)."""
        W, u = self.weight_orig.flatten(1), self.weight_u
        kept = []
        for _ in range(n):
            v = product(u[None], W)[0]
            v /= v.norm().clamp_min_(1e-12)
            u = product(v[None], W.T)[0]
            sigma = u.norm().clamp_min_(1e-12)  # = u . W v, once u is normalised
            u /= sigma
            kept.append((sigma.reciprocal_(), u, v))
        self.weight_u.copy_(u)
        self.weight_v.copy_(v)
        self.iterations = [torch.stack(x) for x in zip(*kept, strict=True)]

    def _sigmas(self, at):
        """1/sigma (K), u (K,O) and v (K,I) of the power iterations that the K chunks of a batch belong to."""
        if at is None and not self.training:
            u, v = self.weight_u, self.weight_v
            sigma = torch.dot(u, torch.mv(self.weight_orig.detach().flatten(1), v))
            return sigma.reciprocal()[None], u[None], v[None]
        if at is None:
            self.power_iteration()
            at = (0,)
        return [x[at[0] : at[-1] + 1] for x in self.iterations]


class SNConv2d(_SpectralNorm, nn.Conv2d):
    """Convolution without padding, its weight divided by its spectral norm."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._init_spectral_norm()

    def forward(self, x: Tensor, at=None) -> Tensor:
        inv_sigma, u, v = self._sigmas(at)
        (k, _), (stride, _) = self.kernel_size, self.stride
        h, w = ((side - k) // stride + 1 for side in x.shape[2:])
        if x.device.type == "cpu" and h * w <= 64 and not torch.is_autocast_enabled("cpu"):
            # Few positions, huge weights: one matrix product reads the weights in place, where the CPU's
            # convolution would first copy them into a layout of its own, in every forward and backward.
            patches = F.unfold(x, k, stride=stride).transpose(1, 2).flatten(0, 1).contiguous()  # (N*h*w,C*k*k)
            y = _SpectralProduct.apply(patches, self.weight_orig, inv_sigma, u, v)
            y = y.view(-1, h, w, len(self.weight_orig)).permute(0, 3, 1, 2)
            # the sum comes last: what works in place on a view of y costs autograd two copies
            return y if self.bias is None else y + self.bias.view(-1, 1, 1)
        weight, inv_sigma = _InverseSigma.apply(self.weight_orig, inv_sigma, u, v)
        inv_sigma = inv_sigma.repeat_interleave(len(x) // len(inv_sigma)).view(-1, 1, 1, 1)
        # on a CPU in the layout of the weights
        y = F.conv2d(x.contiguous() if x.device.type == "cpu" else x, weight, None, stride)
        if self.bias is None:
            return y * inv_sigma.to(y.dtype)
        return torch.addcmul(self.bias.to(y.dtype).view(-1, 1, 1), y, inv_sigma.to(y.dtype))


class SNLinear(_SpectralNorm, nn.Linear):
    """Linear layer without bias, its weight divided by its spectral norm."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, bias=False)
        self._init_spectral_norm()

    def forward(self, x: Tensor, at=None) -> Tensor:
        return _SpectralProduct.apply(x, self.weight_orig, *self._sigmas(at))


class Stack(nn.Sequential):
    """nn.Sequential that hands `at` (see _SpectralNorm) to its spectrally normalised layers."""

    def forward(self, x: Tensor, at=None) -> Tensor:
        for layer in self:
            x = layer(x, at) if isinstance(layer, SNConv2d) else layer(x)
        return x


# ------------------------------------------------------------------------------ encoder, discriminator


def _down(c_in: int, c_out: int, stride: int = 2) -> list[nn.Module]:
    return [
        nn.ReflectionPad2d(1),
        SNConv2d(c_in, c_out, kernel_size=4, stride=stride),
        nn.LeakyReLU(0.2, inplace=True),
    ]


class Encoder(nn.Module):
    """E: the first `shared` layers and the residual attention (paper section 3.2).

    Alone it is the independent encoder of the ablation without NICE; a Discriminator is an Encoder
    that goes on to judge.

    input_nc: image channels; ndf: base channels c; shared: down-sampling layers; attention: whether
    CAM weights exist; ra: keep the residual in the attention.
    """

    def __init__(self, input_nc: int, ndf: int = 64, shared: int = 2, ra: bool = True, attention: bool = True):
        super().__init__()
        widths = [input_nc] + [ndf * 2**i for i in range(shared)]
        c = widths[-1]
        if attention:
            self.fc = SNLinear(2 * c, 1)
            self.conv1x1 = nn.Conv2d(2 * c, c, kernel_size=1)
            if ra:
                self.lamda = nn.Parameter(torch.zeros(1))
        self.attention, self.ra = attention, ra
        layers = [m for pair in zip(widths, widths[1:], strict=False) for m in _down(*pair)]
        self.model = Stack(*layers)

    def power_iteration(self, n: int):
        """Do the power iterations of the next n forwards in every spectrally normalised layer."""
        for layer in self.modules():
            if isinstance(layer, _SpectralNorm):
                layer.power_iteration(n)

    def attend(self, f: Tensor) -> Tensor:
        """Features f -> code z, same shape: z = leaky(f + lamda * conv1x1(w * [f, f])).

        w is the raw CAM weight, not the normalised one, and learns here too: both as released.
        """
        if not self.attention:
            return F.leaky_relu(f, 0.2)
        # w scales conv1x1's columns, and both halves see the same f: no [f, f] is ever formed
        weight = self.conv1x1.weight * self.fc.weight_orig[..., None, None]
        first, second = weight.chunk(2, dim=1)
        r = F.conv2d(f, first + second, self.conv1x1.bias)
        return F.leaky_relu(torch.addcmul(f, r, self.lamda.to(f.dtype)) if self.ra else r, 0.2)

    def encode(self, x: Tensor, at=None) -> Tensor:
        """Images (N,3,S,S) in [-1,1] -> code z (N,2c,S/4,S/4); computes no head."""
        return self.attend(self.model(x, at))


class Judgement(NamedTuple):
    """What a discriminator says of N images; the logits of an absent head are None."""

    local_logits: Tensor | None  # (N,1,30,30), receptive field 70: the paper's C^1
    global_logits: Tensor | None  # (N,1,6,6), receptive field 286: C^2
    cam_logit: Tensor | None  # (N,1), from pooled features of receptive field 10: C^0
    heatmap: Tensor  # (N,1,64,64), sum of z over channels
    z: Tensor  # (N,128,64,64), the code

    def heads(self) -> dict[str, Tensor]:
        """The logits of the heads that exist, by name."""
        named = {"local": self.local_logits, "global": self.global_logits, "cam": self.cam_logit}
        return {name: logits for name, logits in named.items() if logits is not None}


class Discriminator(Encoder):
    """D = C o E: an encoder and up to three classifiers (paper figure 3).

    input_nc: image channels; ndf: base channels; n_layers: at least 6, depth of the global path;
    heads: which of the classifiers C^0 (CAM), C^1 (local), C^2 (global) exist.
    Images are (N,input_nc,S,S) in [-1,1] with S / 2^(n_layers-2) >= 3.
    """

    def __init__(self, input_nc: int, ndf: int = 64, n_layers: int = 7, heads=(0, 1, 2), shared=2, ra=True):
        if n_layers < 6:
            raise ValueError(f"n_layers (--n_dis) is {n_layers}; the channel plan needs at least 6")
        super().__init__(input_nc, ndf, shared, ra, attention=0 in heads)
        split = max(shared, n_layers - 4)  # layers up to here serve both the local and the global head
        width = [ndf * 2**i for i in range(n_layers)]  # layer i puts out width[i] channels
        # conv0, conv1 stand before model in existing optimizer states
        if 1 in heads:
            self.conv0 = SNConv2d(2 * width[split - 1], 1, kernel_size=4, bias=False)
        if 2 in heads:
            self.conv1 = SNConv2d(2 * width[n_layers - 3], 1, kernel_size=4, bias=False)
        self.model = self._modules.pop("model")
        if {1, 2} & set(heads):
            self.Dis0_0 = Stack(*[m for i in range(shared, split) for m in _down(width[i - 1], width[i])])
        if 1 in heads:
            self.Dis0_1 = Stack(*_down(width[split - 1], 2 * width[split - 1], stride=1))
        if 2 in heads:
            globals_ = range(split, n_layers - 2)
            self.Dis1_0 = Stack(*[m for i in globals_ for m in _down(width[i - 1], width[i])])
            self.Dis1_1 = Stack(*_down(width[n_layers - 3], 2 * width[n_layers - 3], stride=1))
        self.has = frozenset(heads)

    def forward(self, x: Tensor, at=None) -> Judgement:
        """Judge images x (N,3,S,S); `at`: power iterations of the batch's chunks (_SpectralNorm)."""
        f = self.model(x, at)  # (N,128,64,64)
        z = self.attend(f)  # (N,128,64,64)
        cam = local = global_ = None
        if 0 in self.has:
            cam = self.fc(torch.cat((f.mean((2, 3)), f.amax((2, 3))), 1), at)  # (N,1)
        if self.has & {1, 2}:
            trunk = self.Dis0_0(z, at)  # (N,256,32,32)
        if 1 in self.has:
            local = self.conv0(_pad1(self.Dis0_1(trunk, at)), at)  # (N,512,31,31) -> (N,1,30,30)
        if 2 in self.has:
            deep = self.Dis1_1(self.Dis1_0(trunk, at), at)  # (N,1024,8,8) -> (N,2048,7,7)
            global_ = self.conv1(_pad1(deep), at)  # (N,1,6,6)
        return Judgement(local, global_, cam, z.sum(1, keepdim=True), z)


def _pad1(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


# ------------------------------------------------------------------------------------------ generator


class RowConv2d(nn.Conv2d):
    """A square convolution without padding and bias that has few output channels and a large kernel.

    A CPU computes 16 output channels at the cost of 3: here every row of the kernel makes channels of
    its own, and the k shifted rows are summed, which is the same sum in another order.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        out, c, k, _ = self.weight.shape
        rows = F.conv2d(x, self.weight.transpose(1, 2).reshape(out * k, c, 1, k)).contiguous()
        n, _, h, w = rows.shape
        n_, c_, h_, w_ = rows.stride()  # channel o k + i is row i's share of output channel o
        return rows.as_strided((n, out, k, h - k + 1, w), (n_, k * c_, c_ + h_, h_, w_)).sum(2)


class AdaILNBlock(nn.Module):
    """Residual block whose two normalisations take gamma and beta from the code."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, bias=False)
        self.norm1 = AdaILN(dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, bias=False)
        self.norm2 = AdaILN(dim)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        y = F.relu_(self.norm1(self.conv1(_pad1(x)), gamma, beta))
        return self.norm2(self.conv2(_pad1(y)), gamma, beta).add_(x)


class ResnetGenerator(nn.Module):
    """G: draws an image of its domain from a code z (N,2c,S/4,S/4) -> (N,output_nc,S,S) in [-1,1].

    input_nc is kept for callers that know the released signature; ngf: base channels c; n_blocks:
    residual blocks; img_size: S, used by the full network alone; light: pool the code before FC
    (the paper's network) instead of flattening it; shared: layers taken from the discriminator.
    """

    def __init__(self, input_nc, output_nc, ngf=64, n_blocks=6, img_size=256, light=True, shared=2):
        super().__init__()
        m = 4 * ngf
        side = img_size // 4
        self.light, self.shared, self.n_blocks = light, shared, n_blocks
        self.checkpoint_blocks = False
        self.gamma = nn.Linear(m, m, bias=False)
        self.beta = nn.Linear(m, m, bias=False)
        for k in range(1, n_blocks + 1):
            self.add_module(f"UpBlock1_{k}", AdaILNBlock(m))
        self.FC = nn.Sequential(
            nn.Linear(m if light else m * side * side, m, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(m, m, bias=False),
            nn.ReLU(inplace=True),
        )
        self.UpBlock0 = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(2 * ngf, m, kernel_size=3),
            ILN(m),
            nn.ReLU(inplace=True),
        )
        if shared == 1:  # the layer the discriminator no longer shares, same stride and width
            self.Down = nn.Sequential(
                nn.ReflectionPad2d(1),
                nn.Conv2d(ngf, 2 * ngf, kernel_size=4, stride=2),
                nn.LeakyReLU(0.2, inplace=True),
            )
        if shared == 3:  # the third shared layer (S/8) stands for UpBlock0; only its stride is undone
            self.UpBlock0 = nn.Upsample(scale_factor=2, mode="nearest")
        up = []
        for c in (m, m // 2):
            up += [
                nn.ReflectionPad2d(1),
                nn.Conv2d(c, c // 2, kernel_size=3, bias=False),
                ILN(c // 2),
                nn.ReLU(inplace=True),
                nn.Conv2d(c // 2, 2 * c, kernel_size=1),
                nn.PixelShuffle(2),
                ILN(c // 2),
                nn.ReLU(inplace=True),
            ]
        up += [nn.ReflectionPad2d(3), RowConv2d(ngf, output_nc, kernel_size=7, bias=False), nn.Tanh()]
        self.UpBlock2 = nn.Sequential(*up)

    def forward(self, z: Tensor) -> Tensor:
        if self.shared == 1:
            z = self.Down(z)
        x = self.UpBlock0(z)  # (N,256,64,64)
        s = self.FC(x.mean((2, 3)) if self.light else x.flatten(1))  # (N,256)
        gamma, beta = self.gamma(s), self.beta(s)  # (N,256) each
        for k in range(1, self.n_blocks + 1):
            block = self.get_submodule(f"UpBlock1_{k}")
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, gamma, beta, use_reentrant=False)
            else:
                x = block(x, gamma, beta)  # (N,256,64,64)
        return self.UpBlock2(x)  # (N,3,256,256)
