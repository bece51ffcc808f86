"""Networks whose weights have shapes but no values, for a checkpoint that is yet to be loaded.

They lie on the meta device and are neither drawn nor filled in: there, random numbers and arithmetic import PyTorch's
compiler, which takes a second.  Small constants, which are made of Python's numbers, have values.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

MAKING = {torch.empty, torch.rand, torch.randn, torch.zeros, torch.ones}
FILLING = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_, F.normalize}


class WithoutValues(TorchFunctionMode):
    """Weights that are made inside have no values."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in MAKING:
            return torch.empty(*args, **kwargs | {"device": "meta"})
        tensor = args[0] if args else kwargs.get("tensor")
        if function in FILLING or getattr(function, "__module__", None) == "torch.nn.init":
            return tensor
        return function(*args, **kwargs)
