"""Negatives of PatchNCE from outside the picture: a bank of earlier keys (He et al., MoCo, CVPR 2020), for CUT's
ablation.  CUT's released program has no bank; its paper's appendix describes it: momentum 0.999, 16,384 keys a layer.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE, MOMENTUM = 16_384, 0.999


class Bank:
    """The last `size` keys of each layer, unit vectors (size,c); it starts with random ones.

    Keys wait in `pending` until enqueue(), so that a step never finds its own keys among its negatives.
    """

    def __init__(self, layers: int, c: int, device, size: int = SIZE):
        self.keys = [F.normalize(torch.randn(size, c), dim=1).to(device) for _ in range(layers)]
        self.next = [torch.zeros((), dtype=torch.long, device=device) for _ in range(layers)]
        self.pending = [[] for _ in range(layers)]

    def add(self, keys: list[Tensor]):
        """Let the keys (N,M,c) of each layer wait."""
        for waiting, of_layer in zip(self.pending, keys, strict=True):
            waiting.append(of_layer.detach().flatten(0, 1))

    def enqueue(self):
        """Replace the oldest keys by those that wait."""
        for j, waiting in enumerate(self.pending):
            for new in waiting:
                size = len(self.keys[j])
                places = (self.next[j] + torch.arange(len(new), device=new.device)) % size
                self.keys[j].index_copy_(0, places, new.to(self.keys[j].dtype))
                self.next[j] = (self.next[j] + len(new)) % size
            waiting.clear()

    def state(self, name: str) -> dict[str, Tensor]:
        """For checkpoints; keys that wait are enqueued first, which changes no later step."""
        self.enqueue()
        found = {f"{name}/keys_{j}": keys for j, keys in enumerate(self.keys)}
        return found | {f"{name}/next_{j}": at for j, at in enumerate(self.next)}

    def load(self, state: dict, name: str):
        for j, keys in enumerate(self.keys):
            keys.copy_(state[f"{name}/keys_{j}"])
            self.next[j].copy_(state[f"{name}/next_{j}"])


class MomentumNetwork:
    """A copy of a network whose parameters follow it: copy = MOMENTUM copy + (1 - MOMENTUM) network."""

    def __init__(self, net: nn.Module):
        self.net, self.copy = net, copy.deepcopy(net).requires_grad_(False)

    @torch.no_grad()
    def update(self):
        torch._foreach_lerp_([*self.copy.parameters()], [*self.net.parameters()], 1 - MOMENTUM)

    def state(self, name: str) -> dict[str, Tensor]:
        return {f"{name}/{key}": x for key, x in self.copy.state_dict().items()}

    def load(self, state: dict, name: str):
        self.copy.load_state_dict({key.removeprefix(f"{name}/"): x for key, x in state.items() if key.startswith(name)})
