"""A moving average of the weights that translate, kept beside them (--ema)."""

from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from checkpoints.contents import fitting


class EMA:
    """After each step, average = decay average + (1 - decay) weights; it begins as a copy of the weights.

    networks: {name in checkpoints: module}; what they share is averaged once.  Only parameters are averaged; what
    follows from them (the vectors of a spectral norm) is copied.
    """

    def __init__(self, networks: dict[str, nn.Module], decay: float):
        self.networks, self.decay = networks, decay
        self.copies = {id(x): x.detach().clone() for _, _, x in self._tensors()}

    def _tensors(self):
        """(network's name, its key, tensor) of all parameters and buffers, a shared one under each of its names."""
        for name, net in self.networks.items():
            for key, x in net.state_dict(keep_vars=True).items():
                yield name, key, x

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each tensor of the networks once, and its average."""
        return [(x, self.copies[id(x)]) for x in {id(x): x for _, _, x in self._tensors()}.values()]

    @torch.no_grad()
    def update(self):
        """A step is done: take its weights into the average."""
        parameters = [(x, copy) for x, copy in self._pairs() if isinstance(x, nn.Parameter)]
        weights, averages = zip(*parameters, strict=True)
        torch._foreach_lerp_(list(averages), list(weights), 1 - self.decay)
        for x, copy in self._pairs():
            if not isinstance(x, nn.Parameter):
                copy.copy_(x)

    @contextmanager
    def in_place(self):
        """Inside, the networks have the averaged weights; afterwards their own again, untouched."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self):
        for x, copy in self._pairs():
            x.data, copy.data = copy.data, x.data

    def state(self) -> dict[str, dict[str, Tensor]]:
        """{network: its averaged state dict}, the `ema` of a checkpoint."""
        found = {name: {} for name in self.networks}
        for name, key, x in self._tensors():
            found[name][key] = self.copies[id(x)]
        return found

    @torch.no_grad()
    def load(self, state: dict, path: Path):
        """Go on from a checkpoint's average; where it has none, from the weights that the networks now have."""
        if "ema" not in state:
            for x, copy in self._pairs():
                copy.copy_(x)
            return
        with fitting(path, "ema"):
            for name, key, x in self._tensors():
                kept = state["ema"][name][key]
                if kept.shape != x.shape:
                    raise ValueError(f"{name}/{key} has shape {tuple(kept.shape)}")
                self.copies[id(x)].copy_(kept)


def make_ema(trainer) -> EMA | None:
    """The average that a training keeps: rank 0 alone does, which alone writes; None without --ema."""
    args = trainer.args
    if not args.ema or args.phase == "test" or trainer.rank:
        return None
    names = dict.fromkeys(name for way in trainer.trained_directions for name in trainer.inference_networks[way])
    return EMA({name: trainer.networks()[name] for name in names}, args.ema)
