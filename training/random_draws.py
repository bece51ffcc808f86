"""The random numbers of a training step."""

import torch
from torch import Tensor


class Draw:
    """Named random numbers of a training step; a test can replace them by those of another program.

    They come from torch's generators, whose states are in checkpoints.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers of this shape, on the device."""
        return torch.randn(shape, device=self.device)

    def permutation(self, name: str, n: int) -> Tensor:
        """0..n-1 in random order (n,), on the device."""
        return torch.randperm(n, device=self.device)

    def uniform(self, name: str) -> Tensor:
        """A number in [0,1), on the device ()."""
        return torch.rand((), device=self.device)

    def integer(self, name: str, n: int) -> Tensor:
        """A number of 0..n-1, on the device ()."""
        return torch.randint(n, (), device=self.device)

    def decision(self, name: str) -> float:
        """A number in [0,1) on the host, for decisions before a step (Method.host_decision)."""
        return torch.rand((), device="cpu").item()  # a real number also on meta tensors (--phase info)
