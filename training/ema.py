"""An exponential moving average (EMA) of the weights that translate (--ema)."""

from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from checkpoints.contents import fitting


class EMA:
    """After each step, average = decay * average + (1 - decay) * weights; it starts as a copy of the weights.

    networks: {name in checkpoints: module}; shared tensors are averaged once.  Parameters are averaged; buffers (the
    vectors of a spectral norm) are copied.
    """

    def __init__(self, networks: dict[str, nn.Module], decay: float):
        self.networks, self.decay = networks, decay
        self.averages = {id(x): x.detach().clone() for _, _, x in self._tensors()}

    def _tensors(self):
        """(network name, key, tensor) of all parameters and buffers; shared ones come under each of their names."""
        for name, net in self.networks.items():
            for key, x in net.state_dict(keep_vars=True).items():
                yield name, key, x

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(tensor, its average), each tensor once."""
        return [(x, self.averages[id(x)]) for x in {id(x): x for _, _, x in self._tensors()}.values()]

    @torch.no_grad()
    def update(self):
        """Update the average with the weights after a step."""
        parameters = [pair for pair in self._pairs() if isinstance(pair[0], nn.Parameter)]
        weights, averages = zip(*parameters, strict=True)
        torch._foreach_lerp_(list(averages), list(weights), 1 - self.decay)
        for x, average in self._pairs():
            if not isinstance(x, nn.Parameter):
                average.copy_(x)

    @contextmanager
    def in_place(self):
        """Inside, the networks have the averaged weights; afterwards their own weights, unchanged."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self):
        for x, average in self._pairs():
            x.data, average.data = average.data, x.data

    def state(self) -> dict[str, dict[str, Tensor]]:
        """{network: averaged state dict}, the `ema` of a checkpoint."""
        found = {name: {} for name in self.networks}
        for name, key, x in self._tensors():
            found[name][key] = self.averages[id(x)]
        return found

    @torch.no_grad()
    def load(self, state: dict, path: Path):
        """Continue from a checkpoint's average, or, if it has none, from the present weights."""
        if "ema" not in state:
            for x, average in self._pairs():
                average.copy_(x)
            return
        with fitting(path, "ema"):
            for name, key, x in self._tensors():
                kept = state["ema"][name][key]
                if kept.shape != x.shape:
                    raise ValueError(f"{name}/{key} has shape {tuple(kept.shape)}")
                self.averages[id(x)].copy_(kept)


def make_ema(trainer) -> EMA | None:
    """The EMA of a training; None without --ema, and in processes other than rank 0, which write nothing."""
    args = trainer.args
    if not args.ema or args.phase == "test" or trainer.rank:
        return None
    names = dict.fromkeys(name for pair in trainer.trained_directions for name in trainer.inference_networks[pair])
    return EMA({name: trainer.networks()[name] for name in names}, args.ema)
