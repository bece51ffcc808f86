"""CUDA graphs on a CPU: the operations of a step are recorded once and then replayed without Python's control flow.

Like a graph's, a replay reads and writes at the recorded addresses.  Reading a number on the host is an error in a
recording, as on a GPU.
"""

from contextlib import nullcontext
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from layers.fast import normalisation
from training.cuda_graphs import Graph

READ = torch.ops.aten._local_scalar_dense.default


class Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is READ:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **kwargs)
        # copy lists, which the caller may empty
        self.calls.append((func, *tree_map(lambda x: x, (args, kwargs)), tree_map(lambda x: x, out)))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.calls:
            given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)


class Recorded(Graph):
    """A Graph that records and replays on a CPU; no number is read on the host within a step."""

    lr_type = torch.float64

    def prepare(self):
        self.trainer.may_sync = False

    def aside(self):
        return nullcontext()

    def record(self, step):
        kept = [x.clone() for x in self.state()]
        generator = torch.get_rng_state()
        # as on a GPU
        with patch.object(normalisation, "numbers_are_at_hand", lambda x: False), Recording() as recording:
            step()
        with torch.no_grad():
            for x, before in zip(self.state(), kept, strict=True):
                x.copy_(before)  # recording on a GPU executes nothing
        torch.set_rng_state(generator)
        return recording.replay

    def state(self) -> list[torch.Tensor]:
        """All tensors that a step changes and that outlive the step."""
        trainer, guard = self.trainer, self.trainer.guard
        found = [x for net in trainer.networks().values() for x in (*net.parameters(), *net.buffers())]
        found += [x for optimizer in trainer.optimizers.values() for x in tree_leaves(optimizer.state_dict()["state"])]
        found += [x for pool in getattr(trainer, "pools", {}).values() for x in (pool.kept, pool.count)]
        found += [guard.dropped, guard.in_row, guard.first, guard.bad, *guard.times.values()]
        return [x.detach() for x in found if isinstance(x, torch.Tensor)]
