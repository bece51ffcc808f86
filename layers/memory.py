"""Memory: what is freed, and gradients that are computed early."""

from torch import Tensor

from layers.accelerate import accelerated


@accelerated
def keep_freed_memory():
    """Leave the memory that tensors free to the C library's own rules."""


@accelerated
def early(loss, x: Tensor, parameters: list[Tensor]) -> Tensor:
    """loss(x), a number whose gradients reach x and the parameters that require them."""
    return loss(x)
