"""Fast twin of layers/spectral_norm.py."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F

from layers.fast.convolution import affine, one_channel_conv, product


def power_iteration(W, u):
    v = product(u[None], W)[0]
    v /= v.norm().clamp_min_(1e-12)
    u = product(v[None], W.T)[0]
    sigma = u.norm().clamp_min_(1e-12)  # = u . W v, once u is normalised
    u /= sigma
    return sigma.reciprocal_().view(1), u, v


@torch.no_grad()
def iterate(layers, n):
    """On a GPU by iterate_foreach."""
    if not layers or not layers[0].weight_u.is_cuda or torch.compiler.is_compiling():
        for layer in layers:
            layer.power_iteration(n)
        return
    iterate_foreach(layers, n)


def iterate_foreach(layers, n):
    """n power iterations of all layers together: one call divides all their vectors by their norms."""
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

    A layer divides its *output* by sigma instead of copying W / sigma, which is exact because it is linear.
    Backward adds sigma's rank-one gradients u_k v_k^T to W's gradient in place.
    """

    @staticmethod
    def forward(ctx, weight, inv_sigma, u, v):
        ctx.save_for_backward(inv_sigma, u, v)
        return weight.view_as(weight), inv_sigma.view_as(inv_sigma)

    @staticmethod
    def backward(ctx, grad_weight, grad_inv):
        inv_sigma, u, v = ctx.saved_tensors
        coefficient = -grad_inv * inv_sigma * inv_sigma  # d(1/sigma) = -dsigma / sigma^2
        grad_weight = grad_weight.contiguous()  # the backward of a convolution may give channels_last
        grad_weight.view(u.shape[1], -1).addmm_((u * coefficient).T, v)
        return grad_weight, None, None, None


class _SpectralProduct(torch.autograd.Function):
    """y = x W^T / sigma_k for rows x (R,I), where chunk k of the rows has its own sigma, and a weight W (O,...).

    W's gradient is one matrix product: sigma's rank-one parts are stacked below the rows of x.
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
    cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()  # which fails to unfold a padded map
    if cpu and h * w <= 64:
        # Few positions, huge weights: a matrix product reads the weights in place, while the CPU's convolution
        # copies them into its own layout in every forward and backward.  So it does in mixed precision, where
        # rounding the weights would cost more than products in half precision gain.
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            patches = F.unfold(x.to(weight.dtype), k, stride=stride).transpose(1, 2).reshape(N * h * w, -1)
            y = _SpectralProduct.apply(patches, weight, inv_sigma, u, v)
        y = y.view(N, h, w, out).permute(0, 3, 1, 2)
        # add the bias last: an in-place operation on a view of y costs autograd two copies
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
    return affine(y, scale, bias.to(y.dtype).view(-1, 1, 1))
