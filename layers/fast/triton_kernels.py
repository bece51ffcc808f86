"""Triton kernels for layers/fast/normalisation.py.

On a GPU, launching the operations on small tensors costs most of instance-layer normalisation.  So the work on
per-channel numbers is one kernel forward and one backward, one program per sample; PyTorch does the passes over maps.
Both kernels are PyTorch operators, so fake tensors (tests/fake_cuda.py) work.  With TRITON_INTERPRET=1 a CPU computes
them (tests/test_fast.py).
"""

import sys

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op


@triton.jit
def _moments(v_ptr, m_ptr, mix_ptr, at, c, there, C, n, eps):
    """For a sample: mean m and 1/std i of each channel; mean M and 1/std j of all; p = mix_0 i, q = mix_1 j."""
    v = tl.load(v_ptr + at, mask=there, other=0.0)
    m = tl.load(m_ptr + at, mask=there, other=0.0)
    M = tl.sum(m, 0) / C
    d = tl.where(there, m - M, 0.0)
    V = (tl.sum(v, 0) * (n - 1) + tl.sum(d * d, 0) * n) / (C * n - 1)  # the law of total variance
    i, j = tl.rsqrt(v + eps), tl.rsqrt(V + eps)
    p = tl.load(mix_ptr + 2 * c, mask=there, other=0.0) * i
    q = tl.load(mix_ptr + 2 * c + 1, mask=there, other=0.0) * j
    return m, M, i, j, p, q


@triton.jit
def _forward_kernel(v_ptr, m_ptr, mix_ptr, gamma_ptr, beta_ptr, scale_ptr, shift_ptr, C, n, eps, row,
                    BLOCK: tl.constexpr):  # fmt: skip
    c = tl.arange(0, BLOCK)
    there, at = c < C, tl.program_id(0) * C + c
    own = tl.program_id(0) * row + c  # index into gamma and beta; row is 0 where samples share them
    m, M, i, j, p, q = _moments(v_ptr, m_ptr, mix_ptr, at, c, there, C, n, eps)
    gamma = tl.load(gamma_ptr + own, mask=there, other=0.0)
    beta = tl.load(beta_ptr + own, mask=there, other=0.0)
    tl.store(scale_ptr + at, (p + q) * gamma, mask=there)
    tl.store(shift_ptr + at, beta - (p * m + q * M) * gamma, mask=there)


@triton.jit
def _backward_kernel(v_ptr, m_ptr, mix_ptr, gamma_ptr, dscale_ptr, dshift_ptr, slope_ptr, offset_ptr, dgamma_ptr,
                     dmix_ptr, C, n, eps, row, BLOCK: tl.constexpr):  # fmt: skip
    c = tl.arange(0, BLOCK)
    there, at = c < C, tl.program_id(0) * C + c
    m, M, i, j, p, q = _moments(v_ptr, m_ptr, mix_ptr, at, c, there, C, n, eps)
    gamma = tl.load(gamma_ptr + tl.program_id(0) * row + c, mask=there, other=0.0)
    dscale = tl.load(dscale_ptr + at, mask=there, other=0.0)
    dshift = tl.load(dshift_ptr + at, mask=there, other=0.0)
    tl.store(dgamma_ptr + at, dscale * (p + q) - dshift * (p * m + q * M), mask=there)
    da, db = dscale * gamma, dshift * gamma
    dp, dq = da - db * m, da - db * M
    tl.store(dmix_ptr + 2 * at, dp * i, mask=there)
    tl.store(dmix_ptr + 2 * at + 1, dq * j, mask=there)
    di = dp * p * i * i / (n - 1)  # gradients through the variances
    dj = tl.sum(dq * q, 0) * j * j / (C * n - 1)
    tl.store(slope_ptr + at, di + dj, mask=there)
    tl.store(offset_ptr + at, dj * M + di * m - db * p / n - tl.sum(db * q, 0) / (C * n), mask=there)


@custom_op("nice::instance_layer_norm", mutates_args=())
def instance_layer_norm_forward(
    v: Tensor, m: Tensor, mix: Tensor, gamma: Tensor, beta: Tensor, n: int, eps: float
) -> tuple[Tensor, Tensor]:
    """(scale, shift) of instance-layer normalisation, (N,C) each.

    v, m: unbiased variance and mean of each channel's n numbers (N,C); mix (1,C,2); gamma, beta (N or 1,C).
    """
    (N, C), (scale, shift) = v.shape, (torch.empty_like(v), torch.empty_like(v))
    with torch.cuda.device_of(v):
        _forward_kernel[N,](v, m, mix, gamma, beta, scale, shift, C, n, eps, gamma.stride(0) * (len(gamma) > 1),
                            BLOCK=triton.next_power_of_2(C))  # fmt: skip
    return scale, shift


@custom_op("nice::instance_layer_norm_backward", mutates_args=())
def instance_layer_norm_backward(
    v: Tensor, m: Tensor, mix: Tensor, gamma: Tensor, dscale: Tensor, dshift: Tensor, n: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """slope, offset, dgamma (N,C) and dmix (N,C,2): the gradient of x is g * scale - x * slope + offset."""
    (N, C), (slope, offset, dgamma) = v.shape, (torch.empty_like(v) for _ in range(3))
    dmix = v.new_empty(N, C, 2)
    with torch.cuda.device_of(v):
        _backward_kernel[N,](v, m, mix, gamma, dscale, dshift, slope, offset, dgamma, dmix, C, n, eps,
                             gamma.stride(0) * (len(gamma) > 1), BLOCK=triton.next_power_of_2(C))  # fmt: skip
    return slope, offset, dgamma, dmix


@instance_layer_norm_forward.register_fake
def _(v, m, mix, gamma, beta, n, eps):
    return torch.empty_like(v), torch.empty_like(v)


@instance_layer_norm_backward.register_fake
def _(v, m, mix, gamma, dscale, dshift, n, eps):
    return *(torch.empty_like(v) for _ in range(3)), v.new_empty(*v.shape, 2)


def works(device: torch.device) -> bool:
    """Whether Triton can compile for the GPU, which needs a C compiler; if not, print why."""
    x = torch.ones(1, 2, device=device)
    try:
        instance_layer_norm_forward(x, x, x.new_ones(1, 2, 2), x, x, 4, 1e-5)
    except Exception as error:  # a missing or broken compiler raises anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        print(f"without Triton's kernels, which cannot be compiled here: {reason}", file=sys.stderr)
        return False
    return True
