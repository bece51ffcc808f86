"""Read pickles of numpy arrays, such as flax saves, by the interpreter of checkpoints/weights.py: nothing is called."""

import io
import math
from pathlib import Path

import numpy as np

from checkpoints.weights import Built, Function, interpret
from utils import open_regular

LARGEST = 1 << 28  # bytes of a file, 26 times AlexNet's
DTYPES = ("f2", "f4", "f8")


class _Dtype(Built):
    def __init__(self, code: str, *_):
        if code not in DTYPES:
            raise ValueError("it holds arrays of an unknown kind")
        self.dtype = np.dtype(f"<{code}")

    def build(self, state):
        if state[1] != "<":
            raise ValueError("it is of a machine with another order of bytes")


class _Array(Built):
    def __init__(self, *_):
        self.array = None

    def build(self, state):
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Dtype) or not 0 < len(shape) <= 8 or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array has an impossible shape")
        if math.prod(shape) * kind.dtype.itemsize != len(content):
            raise ValueError("an array has another size than its numbers")
        self.array = np.frombuffer(bytearray(content), kind.dtype).reshape(shape, order="F" if by_columns else "C")


GLOBALS = {
    "numpy ndarray": None,
    "numpy dtype": Function(_Dtype),
    "numpy.core.multiarray _reconstruct": Function(_Array),
    "numpy._core.multiarray _reconstruct": Function(_Array),
}


def read_arrays(path: Path) -> dict:
    """Nested dicts of arrays (float) in a pickle.  Raises OSError, or another Exception if it is no such file."""
    with open_regular(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError("the file is larger than any known")
    return _unwrapped(interpret(io.BytesIO(content), known=GLOBALS), 8)


def _unwrapped(tree, depth: int):
    if isinstance(tree, dict) and depth:
        return {key: _unwrapped(value, depth - 1) for key, value in tree.items()}
    if not isinstance(tree, _Array):
        raise ValueError("it holds something other than arrays")
    return tree.array
