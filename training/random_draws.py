"""The random numbers of a training step."""

import torch
from torch import Tensor


class Draw:
    """The random numbers of a training step, each by name, so that a test can replay another program's.

    They come from torch's generators, which checkpoints hold.
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
        """A number in [0,1) that the host knows, to decide by before a step what is computed (Trainer.host_decision)."""
        return torch.rand((), device="cpu").item()  # also where --phase info makes everything without contents
