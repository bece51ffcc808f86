"""Replaces definitions by their fast twins.

A function marked `accelerated` defines a layer; the function of the same name in layers/fast computes the same in
less time.  Without that folder, or with --plain true, the definitions run: slower, with the same numbers.
"""

import functools
from contextlib import contextmanager

from torch import Tensor

try:
    from layers import fast
except ImportError:
    fast = None

_definitions = False  # whether to use the definitions although layers/fast exists


def use_definitions(wanted: bool = True):
    """From now on compute layers by their definitions, or (False) by their fast twins."""
    global _definitions
    _definitions = wanted


@contextmanager
def definitions():
    """Inside this context, compute layers by their definitions."""
    before = _definitions
    use_definitions()
    try:
        yield
    finally:
        use_definitions(before)


def accelerated(definition):
    """Call the function of the same name in layers/fast, where there is one, instead of this definition."""

    @functools.wraps(definition)
    def layer(*args, **kwargs):
        # tiled feature maps, first arguments, implement PyTorch's own operations only: they always take the definition
        tiled = args and hasattr(args[0], "__torch_function__") and not isinstance(args[0], Tensor)
        quick = None if _definitions or tiled else getattr(fast, definition.__name__, None)
        return (quick or definition)(*args, **kwargs)

    return layer
