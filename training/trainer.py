"""The trainer that every method shares: one optimisation step, gradients over processes, the guard."""

from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from checkpoints.files import newest_checkpoint
from dataset import UnpairedStream
from images.decode import limit_pixels
from layers import use_definitions
from training import state as training_state
from training.cost import countable
from training.cuda_graphs import make_graph
from training.distributed import average_over_processes
from training.ema import make_ema
from training.guard import Guard
from training.loop import train
from training.method import Method, Update
from training.random_draws import Draw
from training.without_values import WithoutValues
from translation.folders import translate_folders
from utils import frozen


class Trainer(Method):
    """Trains the networks of a method; training/method.py lists what a method defines.

    args: a namespace from main.parse_args.  Nothing is read from disk before train(), test() or load().
    step: the last finished step.  position: images consumed per domain.  ema: an ema.EMA, or None without --ema.
    empty: for translation with a checkpoint.  The networks have shapes but no values, and there are no optimizers;
    Pipeline.load gives values to what translates.
    """

    def __init__(self, args, empty=False):
        self.args, self.empty = args, empty
        self.step = self.position = 0
        self.scales = {}  # of deep pictures, by folder: "A", "B"; from a checkpoint, or measured on training pictures
        self.loaded = None  # the path of the checkpoint that is continued
        self.stopped = 0  # the number of the signal that ended the training
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.device = torch.device(args.device)
        # reflection padding on a GPU returns the contiguous layout; convolutions on a CPU are fastest in channels_last
        self.layout = torch.contiguous_format if self.device.type == "cuda" else torch.channels_last
        self.may_sync = self.device.type not in ("cuda", "meta")  # whether reading a number is free for the host
        self.draw = Draw(self.device)
        self.guard = Guard(args.on_nan, self.device)
        self.results = Path(args.result_dir) / args.run
        self.preparation = args.preprocess, args.load_size  # decides the scale of test pictures
        self.trained_directions = self.directions
        # a method with one direction learns B to A by swapping the folders
        backwards = args.direction == "BtoA" and len(self.directions) == 1
        self.folder = {"A": "B", "B": "A"} if backwards else {"A": "A", "B": "B"}
        if args.direction:
            self.directions = [(s, t) for s, t in self.directions if self.folder[s] == args.direction[0]]
        use_definitions(args.plain)
        limit_pixels(args.max_pixels, args.shrink_jpegs and args.phase == "train")
        self.build_model()
        self.ema = make_ema(self)
        self.graph = make_graph(self)

    # ------------------------------------------------------------------------------------ networks

    def build_model(self, **architecture):
        """(Re)build networks and optimizers; `architecture` (the options of a checkpoint) overrides args."""
        names = (*self.architecture_options(), "img_size")
        self.architecture = {name: getattr(self.args, name) for name in names} | architecture
        torch.manual_seed(self.args.seed)
        with countable(self.args), WithoutValues() if self.empty else nullcontext():
            self._networks = self.build(SimpleNamespace(**self.architecture))
        for net in self._networks.values():
            if not self.empty:
                net.to(self.device)
            if self.device.type == "cuda":
                net.to(memory_format=self.layout)
        parameters = dict.fromkeys(p for net in self._networks.values() for p in net.parameters())
        trained = self.trained()
        # during an update, all parameters of other optimizers are frozen
        own = {name: set(ps) for name, ps in trained.items()}
        self.frozen_in = {name: [p for p in parameters if p not in own[name]] for name in trained}
        settings = dict(
            lr=self.args.lr,
            betas=self.betas,
            weight_decay=self.args.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over the weights, with the same results
        )
        # the first optimizer imports modules for a second, which translating can do without
        self.optimizers = {} if self.empty else {name: torch.optim.Adam(ps, **settings) for name, ps in trained.items()}
        half_precision = self.args.amp == "fp16" and self.device.type == "cuda"
        self.scalers = {name: torch.amp.GradScaler(enabled=half_precision) for name in trained}
        self.compiled = {}

    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names in checkpoints."""
        return self._networks

    # ---------------------------------------------------------------------------- one training step

    def train_step(self, real_A: Tensor, real_B: Tensor) -> dict[str, Tensor]:
        """Do optimisation step `step + 1` on real_A, real_B (N,3,S,S) in [-1,1].

        Returns all loss terms, detached, and the weighted sum of each update.
        """
        self.step += 1
        self.guard.now.fill_(self.step)
        self.set_lr()
        self.decision = self.host_decision()
        batch = {"A": real_A, "B": real_B}
        batch = {d: x.to(self.device, memory_format=self.layout, non_blocking=True) for d, x in batch.items()}
        return self.graph(batch) if self.graph else self.compute_step(batch)

    def set_lr(self):
        """Set the learning rates of step self.step."""
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.lr(self.step) * self.lr_scale.get(name, 1)

    def compute_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All device operations of one step; learning rates and the guard's step number are already set."""
        pairs = zip(*(batch[d].chunk(self.args.grad_accum) for d in "AB"), strict=True)
        micro_batches = [dict(zip("AB", pair, strict=True)) for pair in pairs]
        for micro_batch in micro_batches:
            for s, t in self.trained_directions:
                with self._autocast():
                    self.forward(micro_batch, s, t)
        terms = {}
        self.guard.begin()
        for update in self.updates():
            with frozen(self.frozen_in[update.name]):
                terms |= self._descend(update, micro_batches)
        self.guard.end()
        self._check_guard()
        return terms

    def _descend(self, update: Update, micro_batches: list[dict]) -> dict[str, Tensor]:
        """One optimizer step on an update's objective, averaged over micro-batches and processes."""
        self.before(update.name)
        objective, n = update.objective, len(micro_batches)
        if self.args.compile:
            if update.total not in self.compiled:
                self.compiled[update.total] = torch.compile(objective, dynamic=False)
            objective = self.compiled[update.total]
        total, terms = 0.0, {}
        for batch in micro_batches:
            for s, t in self.trained_directions:  # backward at once: activations of one direction alone are alive
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
        # no cache: a rounded weight cached in a pass without gradients would lose the next pass's gradient
        return torch.autocast(self.device.type, kind, cache_enabled=False)

    def _average_over_processes(self, optimizer, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average the gradients, and return the averaged terms: so all processes drop the same updates."""
        if self.world == 1:
            return terms
        values = torch.stack([term.float() for term in terms.values()])
        gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        average_over_processes([*gradients, values], self.world)
        return dict(zip(terms, values, strict=True))

    def _update(self, update: Update, terms: dict[str, Tensor]):
        """Step the optimizer, unless a term or the gradient is not finite."""
        scaler, optimizer = self.scalers[update.name], self.optimizers[update.name]
        group = optimizer.param_groups[0]
        if update.name in self.max_grad_norm:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm[update.name])
        if not scaler.is_enabled():  # an fp16 scaler expects overflows and drops those updates itself
            norm = torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            terms = {**terms, f"gradient of {update.name}": norm}
        bad = self.guard.see(update.total, terms)
        with ExitStack() as stack:
            # else autograd refuses a second backward through the graph, as its saved weights have changed
            for p in group["params"] if update.keep_graph else ():
                stack.enter_context(torch.autograd._unsafe_preserve_version_counter(p))
            if scaler.is_enabled():
                scaler.step(optimizer)
                self.guard.overflowed(sum(scaler._found_inf_per_device(optimizer).values()))
                scaler.update()
            elif not self.may_sync:
                optimizer.found_inf = bad.float()  # the fused kernel drops the update; the host need not wait
                optimizer.step()
            elif not bad:
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._check_guard()

    def _check_guard(self):
        """Let the guard stop the run at once; on a GPU, where reading a number waits, the loop checks instead."""
        if self.may_sync:
            self.guard.check()

    # ------------------------------------------------------------------------------------ training

    def train(self) -> bool:
        """Train to args.iteration (True) or until a signal (False); with args.resume from the newest checkpoint."""
        return train(self)

    def test(self, found: tuple[dict, Path] | None = None, whole: bool = False):
        """Translate the test folders with a checkpoint (state, path), by default the run's newest valid one.

        whole: also where the method's test would take the centres of pictures.
        """
        translate_folders(self, found, whole)

    def plain_scales(self) -> dict[str, dict]:
        """The scales of deep pictures as checkpoints keep them."""
        return {d: {depth: [*levels] for depth, levels in scale.items()} for d, scale in self.scales.items()}

    def stream(self, paths: dict[str, list[Path]]):
        """Endless batches of domains A and B, starting at self.position."""
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
            **self.picture_options(),
        )

    # ---------------------------------------------------------------------------------- checkpoints

    def newest_checkpoint(self) -> tuple[dict, Path]:
        """The checkpoint (state, path) of --checkpoint, else the newest valid one of this run.  UserError: none."""
        return newest_checkpoint(self.results, self.args.checkpoint, self.recognise)

    def recognise(self, found: dict) -> tuple[str, dict] | None:
        """(method, networks by name) of a checkpoint that names its method, or that this method's authors released."""
        said = found["args"].get("method") if isinstance(found.get("args"), dict) else None
        networks = found if said else self.from_released(found)
        return None if networks is None else (said or self.args.method, networks)

    def state(self) -> dict:
        """Everything needed to resume."""
        return training_state.state(self)

    def save(self, numbered: bool = False):
        """Write the latest checkpoint and, if asked, a numbered one; only rank 0 writes."""
        training_state.save(self, numbered)

    def load(self, found: tuple[dict, Path] | None = None):
        """Continue from a checkpoint (state, path), by default the newest valid one of this run."""
        training_state.load(self, found)
        self.graph = make_graph(self)  # the optimizers have new tensors
