"""Memory that is kept, and gradients that are computed early."""

from torch import Tensor

from layers.accelerate import accelerated


@accelerated
def keep_freed_memory():
    """Leave freed memory to the C library's defaults."""


@accelerated
def early(loss, x: Tensor, parameters: list[Tensor]) -> Tensor:
    """The scalar loss(x); its gradients reach x and those parameters that require them."""
    return loss(x)
