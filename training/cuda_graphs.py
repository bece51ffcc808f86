"""A training step as one CUDA graph: the GPU is told once what it has to do, and then only to do it again.

At batch 1 a GPU computes a step faster than Python can start its thousands of operations.  A graph holds them all, with
the addresses that they read and write; so what changes from step to step has to lie on the device, in its place: the
pictures, the learning rates, the number of the step, the random generator's state.  What the host decides of a step it
decides before (Trainer.host_decision): each decision has a graph of its own.
"""

import sys
from contextlib import contextmanager

import torch
from torch import Tensor

from training.distributed import of_torchrun
from utils import brief

WARM = 3  # steps of a kind that are done one operation at a time before: they make what is made once


def refusal(args) -> str | None:
    """Why --graphs true cannot be, or None."""
    if not args.device.startswith("cuda"):
        return f"needs a CUDA GPU, not {args.device}"
    if of_torchrun():
        return "cannot be with several processes, which meet within a step"
    if args.amp == "fp16":
        return "cannot be with --amp fp16, whose scaler asks the host; use bf16"
    return None


def make_graph(trainer) -> "Graph | None":
    """What does the trainer's steps, where they can be graphs and --graphs does not say otherwise."""
    able = trainer.args.graphs is not False and not refusal(trainer.args)
    return Graph(trainer) if able else None


class Graph:
    """Does a trainer's steps: the first ones of each kind as they are, then by a graph that replays them."""

    rate_type = torch.float32  # what the fused kernel on a GPU reads: rates are rounded to seven digits

    def __init__(self, trainer):
        self.trainer = trainer
        self.seen = {}  # by kind of step: how many were done
        self.graphs = {}  # the places of the pictures, what replays it, the names of its terms, their values
        self.rates = {}
        self.works = True
        self.prepare()

    def __call__(self, real: list[Tensor]) -> dict[str, Tensor]:
        """trainer.compute_step(real)"""
        kind = self.trainer.decision, *(half.total for half in self.trainer.updates()), *(x.shape for x in real)
        if kind not in self.graphs:
            self.seen[kind] = self.seen.get(kind, 0) + 1
            if not self.works or self.seen[kind] <= WARM or not self._record(kind, real):
                with self.aside():
                    return self.trainer.compute_step(real)
        places, replay, names, values = self.graphs[kind]
        for place, x in zip(places, real, strict=True):
            place.copy_(x)
        for name, optimizer in self.trainer.optimizers.items():
            self.rates[name].fill_(optimizer.param_groups[0]["lr"])
        replay()
        return dict(zip(names, values.clone().unbind(), strict=True))  # the next replay writes there again

    def _record(self, kind, real: list[Tensor]) -> bool:
        """Record a step without doing it.  False, and a line that says why: this GPU's libraries cannot."""
        places, found = [x.clone() for x in real], []

        def step():
            terms = self.trainer.compute_step(places)
            found.extend((list(terms), torch.stack([term.float() for term in terms.values()])))

        try:
            with self._rates_on_the_device():
                self.graphs[kind] = places, self.record(step), *found
        except RuntimeError as error:
            self.works = False
            for optimizer in self.trainer.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            print(f"without CUDA graphs, which cannot be recorded here: {brief(error)}", file=sys.stderr)
        return self.works

    @contextmanager
    def _rates_on_the_device(self):
        """Inside, optimizers read their rates from tensors, which are what a graph keeps of them."""
        groups = {name: optimizer.param_groups[0] for name, optimizer in self.trainer.optimizers.items()}
        before = {name: {key: group[key] for key in ("lr", "capturable")} for name, group in groups.items()}
        for name, group in groups.items():
            if name not in self.rates:
                self.rates[name] = torch.zeros((), dtype=self.rate_type, device=self.trainer.device)
            group |= {"lr": self.rates[name], "capturable": True}
        try:
            yield
        finally:
            for name, group in groups.items():
                group |= before[name]

    # -------------------------------------------------------------------------------- the GPU's part

    def prepare(self):
        """A stream of its own, as recording wants, and memory that all graphs share: they run one after another."""
        self.stream, self.pool = torch.cuda.Stream(self.trainer.device), torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self):
        """Inside, operations are started on the stream of the recording, so that what they leave fits it."""
        here = torch.cuda.current_stream(self.trainer.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            yield
        here.wait_stream(self.stream)

    def record(self, step):
        """Call step() without doing it: a function that does it."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that brings pictures into pinned memory may go on meanwhile
        recording = torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local")
        with torch.cuda.device(self.trainer.device), recording:
            step()
        return graph.replay
