"""Lets a function of layers/fast stand for a definition.

A definition marked `accelerated` is what a layer is; layers/fast holds a function of the same name that computes
the same in less time.  Without that folder, or with --plain true, the definitions are used: the program is slower,
the numbers are the same.
"""

import functools
from contextlib import contextmanager

from torch import Tensor

try:
    from layers import fast
except ImportError:
    fast = None

_definitions = False  # whether the definitions are used although layers/fast is there


def use_definitions(wanted: bool = True):
    """From now on compute layers by their definitions, or (False) by their fast twins."""
    global _definitions
    _definitions = wanted


@contextmanager
def definitions():
    """Inside, layers are computed by their definitions."""
    before = _definitions
    use_definitions()
    try:
        yield
    finally:
        use_definitions(before)


def accelerated(definition):
    """Let the function of the same name in layers/fast stand for this definition."""

    @functools.wraps(definition)
    def layer(*args, **kwargs):
        # tiled feature maps implement PyTorch's own operations only, so they always take the plain definition
        defined = _definitions or any(hasattr(x, "__torch_function__") and not isinstance(x, Tensor) for x in args)
        quick = None if defined else getattr(fast, definition.__name__, None)
        return (quick or definition)(*args, **kwargs)

    return layer
