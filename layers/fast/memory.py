"""Fast twin of layers/memory.py."""

import ctypes
from contextlib import suppress

import torch

from layers.fast.convolution import on_cpu


def keep_freed_memory():
    """Let the C library keep freed memory instead of returning it to the kernel.

    A training step frees and allocates gigabytes; getting them from the kernel again, as zeroed pages, took a
    fifth of a step on a CPU, and a quarter of Inception's features.  glibc only; elsewhere nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own, which would be lost when freed
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads


class _Early(torch.autograd.Function):
    """Compute loss(x) and its gradients now and free the activations; backward only scales the stored gradients."""

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
    """On a CPU only: a GPU in half precision scales losses first, and the compiler cannot trace it."""
    if not (on_cpu(x) and x.requires_grad and torch.is_grad_enabled()):
        return loss(x)
    return _Early.apply(loss, x, *(p for p in parameters if p.requires_grad))
