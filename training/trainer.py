"""The trainer that every method shares: one optimisation step, gradients over processes, the guard."""

from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from checkpoints.files import newest_checkpoint
from dataset import UnpairedStream
from layers import use_definitions
from training import state as training_state
from training.cuda_graphs import make_graph
from training.distributed import average_over_processes
from training.ema import make_ema
from training.guard import Guard
from training.loop import train
from training.method import Method, Update
from training.random_draws import Draw
from translation.folders import translate_folders
from utils import frozen


class Trainer(Method):
    """Trains the networks of a method (training/method.py says what a method defines).

    args: a namespace from main.parse_args.  Nothing is read from disk before train(), test() or load().
    step: the last finished step.  ema: what --ema keeps, an ema.Average, or None.
    """

    def __init__(self, args):
        self.args = args
        self.step = self.position = 0
        self.stopped = 0  # the number of the signal that ended the training
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.device = torch.device(args.device)
        # a GPU's reflection padding hands on the usual layout; a CPU's convolutions are fastest in the other one
        self.layout = torch.contiguous_format if self.device.type == "cuda" else torch.channels_last
        self.may_sync = self.device.type not in ("cuda", "meta")  # whether the host may look at numbers without waiting
        self.draw = Draw(self.device)
        self.guard = Guard(args.on_nan, self.device)
        self.results = Path(args.result_dir) / args.dataset
        self.trained_directions = self.directions
        # a method of one direction learns the other one by swapping the folders
        backwards = args.direction == "BtoA" and len(self.directions) == 1
        self.folder = {"A": "B", "B": "A"} if backwards else {"A": "A", "B": "B"}
        if args.direction:
            self.directions = [(s, t) for s, t in self.directions if self.folder[s] == args.direction[0]]
        use_definitions(args.plain)
        self.build_model()
        self.ema = make_ema(self)
        self.graph = make_graph(self)

    # ------------------------------------------------------------------------------------ networks

    def build_model(self, **architecture):
        """(Re)build networks and optimizers; architecture overrides args (a checkpoint's options)."""
        names = (*self.architecture_options(), "img_size")
        self.architecture = {name: getattr(self.args, name) for name in names} | architecture
        torch.manual_seed(self.args.seed)
        self._networks = self.build(SimpleNamespace(**self.architecture))
        for net in self._networks.values():
            net.to(self.device)
            if self.device.type == "cuda":
                net.to(memory_format=self.layout)
        parameters = dict.fromkeys(p for net in self._networks.values() for p in net.parameters())
        trained = self.trained()
        # in each update of a step, everything that it does not train is frozen
        self.frozen_in = {name: [p for p in parameters if p not in own] for name, own in _sets(trained)}
        settings = dict(
            lr=self.args.lr,
            betas=self.betas,
            weight_decay=self.args.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over the weights; same numbers
        )
        self.optimizers = {name: torch.optim.Adam(own, **settings) for name, own in trained.items()}
        half_precision = self.args.amp == "fp16" and self.device.type == "cuda"
        self.scalers = {name: torch.amp.GradScaler(enabled=half_precision) for name in trained}
        self.compiled = {}

    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names in checkpoints."""
        return self._networks

    # ---------------------------------------------------------------------------- one training step

    def train_step(self, real_A: Tensor, real_B: Tensor) -> dict[str, Tensor]:
        """Do optimisation step number `step + 1` on real_A, real_B (N,3,S,S) in [-1,1].

        Returns every loss term, detached, and the weighted sum of each update.
        """
        self.step += 1
        self.guard.now.fill_(self.step)
        self.set_lr()
        self.decision = self.host_decision()
        real = [x.to(self.device, memory_format=self.layout, non_blocking=True) for x in (real_A, real_B)]
        return self.graph(real) if self.graph else self.compute_step(real)

    def set_lr(self):
        """Set the optimizers' learning rates to those of step self.step."""
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.lr(self.step) * self.lr_scale.get(name, 1)

    def compute_step(self, real: list[Tensor]) -> dict[str, Tensor]:
        """The operations of one step, once learning rates, the guard's step number and the pictures are in place."""
        pairs = zip(*(x.chunk(self.args.grad_accum) for x in real), strict=True)
        batches = [dict(zip("AB", pair, strict=True)) for pair in pairs]
        for batch in batches:
            for s, t in self.trained_directions:
                with self._autocast():
                    self.forward(batch, s, t)
        terms = {}
        self.guard.begin()
        for update in self.updates():
            with frozen(self.frozen_in[update.name]):
                terms |= self._descend(update, batches)
        self.guard.end()
        self._check_guard()
        return terms

    def _descend(self, update: Update, batches: list[dict]) -> dict[str, Tensor]:
        """One optimizer step on the objective of an update, averaged over micro-batches and processes."""
        self.before(update.name)
        objective, n = update.objective, len(batches)
        if self.args.compile:
            if update.total not in self.compiled:
                self.compiled[update.total] = torch.compile(objective, dynamic=False)
            objective = self.compiled[update.total]
        total, terms = 0.0, {}
        for batch in batches:
            for s, t in self.trained_directions:  # each backward follows its forward: only one's activations are alive
                if update.sample:
                    update.sample(batch, s, t)
                with self._autocast():
                    loss, parts = objective(batch, s, t)
                self.scalers[update.name].scale(loss / n).backward(retain_graph=update.keep_graph)
                total = total + loss.detach() / n
                for name, part in parts.items():
                    terms[name] = terms.get(name, 0.0) + part.detach() / n
        terms[update.total] = total
        self._update(update, self._average_over_processes(self.optimizers[update.name], terms))
        self.after(update.name)
        return terms

    def _autocast(self):
        if self.args.amp == "none":
            return nullcontext()
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.args.amp]
        # a rounded weight that is kept from a pass without gradients would take the next pass's gradient with it
        return torch.autocast(self.device.type, kind, cache_enabled=False)

    def _average_over_processes(self, optimizer, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average the gradients; returns the averaged terms, so that all processes decide alike."""
        if self.world == 1:
            return terms
        values = torch.stack([term.float() for term in terms.values()])
        gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        average_over_processes([*gradients, values], self.world)
        return dict(zip(terms, values, strict=True))

    def _update(self, update: Update, terms: dict[str, Tensor]):
        """Let the optimizer step, unless a term or the gradient is not finite."""
        scaler, optimizer = self.scalers[update.name], self.optimizers[update.name]
        group = optimizer.param_groups[0]
        if update.name in self.max_grad_norm:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm[update.name])
        if not scaler.is_enabled():  # an fp16 scaler expects overflows and drops those updates itself
            norm = torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            terms = {**terms, f"gradient of {update.name}": norm}
        bad = self.guard.see(update.total, terms)
        with ExitStack() as uncounted:
            # autograd counts the changes of what a graph has kept, and would refuse to go through it again
            for p in group["params"] if update.keep_graph else ():
                uncounted.enter_context(torch.autograd._unsafe_preserve_version_counter(p))
            if scaler.is_enabled():
                scaler.step(optimizer)
                self.guard.overflowed(sum(scaler._found_inf_per_device(optimizer).values()))
                scaler.update()
            elif not self.may_sync:
                optimizer.found_inf = bad.float()  # the fused kernel drops the update; without a wait of the host
                optimizer.step()
            elif not bad:
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._check_guard()

    def _check_guard(self):
        """Let the guard stop the run at once, except on a GPU, where reading a number would wait: there the loop does it."""
        if self.may_sync:
            self.guard.check()

    # ------------------------------------------------------------------------------------ training

    def train(self) -> bool:
        """Train to args.iteration (True), or until a signal; with args.resume from the newest checkpoint."""
        return train(self)

    def test(self, found: tuple[dict, Path] | None = None):
        """Translate the test folders with a checkpoint (state, path), by default the run's newest valid one."""
        translate_folders(self, found)

    def stream(self, paths: dict[str, list[Path]]):
        """Endless batches of the pictures of domains A and B, starting at self.position."""
        args = self.args
        return UnpairedStream(
            paths,
            args.img_size,
            args.batch_size * args.grad_accum,
            seed=args.seed,
            position=self.position,
            workers=args.num_workers,
            cache=args.cache,
            rank=self.rank,
            world=self.world,
            pin_memory=self.device.type == "cuda",
            channels=args.img_ch,
            load_size=self.load_side,
            resample=self.resample,
            samples=self.samples,
        )

    # ---------------------------------------------------------------------------------- checkpoints

    def newest_checkpoint(self) -> tuple[dict, Path]:
        """The checkpoint (state, path) that --checkpoint names, or the newest valid one of this run.  UserError: none."""
        return newest_checkpoint(self.results, self.args.checkpoint, self.recognise)

    def recognise(self, found: dict) -> tuple[str, dict] | None:
        """(method, networks by name) of a checkpoint of this method, or of one that names its own; None: neither."""
        said = found["args"].get("method") if isinstance(found.get("args"), dict) else None
        networks = found if said else self.from_released(found)
        return None if networks is None else (said or self.args.method, networks)

    def state(self) -> dict:
        """Everything a run continues from."""
        return training_state.state(self)

    def save(self, numbered: bool = False):
        """Write the latest checkpoint and, if asked, a numbered one; rank 0 alone does."""
        training_state.save(self, numbered)

    def load(self, found: tuple[dict, Path] | None = None):
        """Continue from a checkpoint (state, path), by default the newest valid one of this run."""
        training_state.load(self, found)
        self.graph = make_graph(self)  # the optimizers' tensors are new ones


def _sets(trained):
    return [(name, set(parameters)) for name, parameters in trained.items()]
