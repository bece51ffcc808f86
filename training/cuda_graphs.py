"""A training step as one CUDA graph, recorded once and then replayed.

At batch 1 a GPU computes a step faster than Python launches its thousands of operations.  A graph holds all of them
with the addresses that they read and write; so all that changes between steps lies at fixed addresses on the device:
the batch, learning rates, step number and state of the random generator.  Decisions of the host are made before a step
(Method.host_decision); each decision has a graph of its own.
"""

import sys
from contextlib import contextmanager

import torch
from torch import Tensor

from training.distributed import of_torchrun
from utils import brief

WARM = 3  # eager steps of a kind before recording: they initialise what is created on first use


def refusal(args) -> str | None:
    """The reason why --graphs true is impossible, or None."""
    if not args.device.startswith("cuda"):
        return f"needs a CUDA GPU, not {args.device}"
    if of_torchrun():
        return "cannot be with several processes, which meet within a step"
    if args.amp == "fp16":
        return "cannot be with --amp fp16, whose scaler asks the host; use bf16"
    return None


def make_graph(trainer) -> "Graph | None":
    """The Graph of a trainer; None where graphs are impossible or --graphs is false."""
    possible = trainer.args.graphs is not False and not refusal(trainer.args)
    return Graph(trainer) if possible else None


class Graph:
    """Computes a trainer's steps: the first steps of each kind eagerly, later ones by replaying a graph."""

    lr_type = torch.float32  # read by the fused kernel on a GPU: rounded to seven digits

    def __init__(self, trainer):
        self.trainer = trainer
        self.seen = {}  # {kind of step: how many were done}
        self.graphs = {}  # {kind of step: (batch at fixed addresses, replay function, names of terms, their values)}
        self.lrs = {}
        self.works = True
        self.prepare()

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """trainer.compute_step(batch)"""
        totals = (update.total for update in self.trainer.updates())
        kind = self.trainer.decision, *totals, *(x.shape for x in batch.values())
        if kind not in self.graphs:
            self.seen[kind] = self.seen.get(kind, 0) + 1
            if not self.works or self.seen[kind] <= WARM or not self._record(kind, batch):
                with self.aside():
                    return self.trainer.compute_step(batch)
        inputs, replay, names, values = self.graphs[kind]
        for d, x in batch.items():
            inputs[d].copy_(x)
        for name, optimizer in self.trainer.optimizers.items():
            self.lrs[name].fill_(optimizer.param_groups[0]["lr"])
        replay()
        return dict(zip(names, values.clone().unbind(), strict=True))  # clone: the next replay overwrites them

    def _record(self, kind, batch: dict[str, Tensor]) -> bool:
        """Record a step without executing it.  False, with a message: this GPU's libraries cannot."""
        inputs, found = {d: x.clone() for d, x in batch.items()}, []

        def step():
            terms = self.trainer.compute_step(inputs)
            found.extend((list(terms), torch.stack([term.float() for term in terms.values()])))

        try:
            with self._lrs_on_device():
                self.graphs[kind] = inputs, self.record(step), *found
        except RuntimeError as error:
            self.works = False
            for optimizer in self.trainer.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            print(f"without CUDA graphs, which cannot be recorded here: {brief(error)}", file=sys.stderr)
        return self.works

    @contextmanager
    def _lrs_on_device(self):
        """Inside, optimizers read their learning rates from tensors, whose addresses a graph can hold."""
        groups = {name: optimizer.param_groups[0] for name, optimizer in self.trainer.optimizers.items()}
        before = {name: {key: group[key] for key in ("lr", "capturable")} for name, group in groups.items()}
        for name, group in groups.items():
            if name not in self.lrs:
                self.lrs[name] = torch.zeros((), dtype=self.lr_type, device=self.trainer.device)
            group |= {"lr": self.lrs[name], "capturable": True}
        try:
            yield
        finally:
            for name, group in groups.items():
                group |= before[name]

    # ------------------------------------------------------------------------------------- CUDA alone

    def prepare(self):
        """Make the stream that recording needs, and the memory pool that all graphs share, as they run in turn."""
        self.stream, self.pool = torch.cuda.Stream(self.trainer.device), torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self):
        """Inside, operations run on the recording's stream, so that gradients and buffers they leave belong to it."""
        current = torch.cuda.current_stream(self.trainer.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, step):
        """Record step() without executing it; returns the function that replays it."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that copies batches into pinned memory may continue
        recording = torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local")
        with torch.cuda.device(self.trainer.device), recording:
            step()
        return graph.replay
