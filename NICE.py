"""NICE-GAN's trainer: the two objectives, the loop around them, checkpoints, samples, translation."""

import sys
import time
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import checkpoints
import dataset
import utils
from networks import Discriminator, Encoder, ResnetGenerator, Swapped, Twins
from utils import RunError, UserError

DIRECTIONS = (("A", "B"), ("B", "A"))  # source, target: E[source] encodes, G[target] draws
BOTH = (("AB", "BA"),)  # the same at once, by twins


def lsgan(logits: Tensor, target: float) -> Tensor:
    """Least-squares GAN term: the mean of (logits - target)^2 over one head's map."""
    return (logits - target).square().mean()


def each(domains: str, *maps: Tensor):
    """(domain, its channels of each map) for each of the domains that maps (N,C,...) hold side by side."""
    return zip(domains, *(x.chunk(len(domains), 1) for x in maps), strict=True)


def together(args) -> bool:
    """Whether both directions are computed at once: fewer operations, but all activations alive."""
    if args.together is not None:
        return args.together
    small = args.batch_size * args.img_size**2 * args.ch <= 2**18  # measured on two cores: above, nothing is gained
    return small and args.device == "cpu" and not args.checkpoint_blocks


def lr_at(step: int, iteration: int, lr: float, decay: bool = True) -> float:
    """Learning rate of step 1..iteration: constant for the first half, then linear to 0."""
    half = iteration // 2
    if not decay or step <= half:
        return lr
    return lr * max(0.0, 1 - (step - half) / max(half, 1))  # never negative, for odd iteration too


@contextmanager
def frozen(parameters):
    """Gradients flow through these parameters' layers but not into them."""
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class NICE:
    """Two discriminators, two generators, their two optimizers, and what is done with them.

    args: a namespace from main.parse_args.  Nothing is read from disk before train(), test() or
    load().  Public state: gen2A, gen2B, disA, disB, G_optim, D_optim, step (the last finished one).
    """

    def __init__(self, args):
        self.args = args
        self.step = self.position = 0
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.device = torch.device(args.device)
        self.guard = utils.Guard(args.on_nan, self.device)
        self.results = Path(args.result_dir) / args.dataset
        self.build_model()

    # ------------------------------------------------------------------------------------ networks

    def build_model(self, **architecture):
        """(Re)build networks and optimizers; architecture overrides args (a checkpoint's options)."""
        a = {name: getattr(self.args, name) for name in (*checkpoints.ARCHITECTURE, "img_size")} | architecture
        self.architecture = a
        torch.manual_seed(self.args.seed)
        ch, img_ch = a["ch"], a["img_ch"]
        D_args = dict(n_layers=a["n_dis"], heads=a["heads"], shared=a["shared_layers"], ra=a["ra"])
        E_args = dict(shared=a["shared_layers"], ra=a["ra"], attention=0 in a["heads"])
        G_args = dict(n_blocks=a["n_res"], img_size=a["img_size"], light=a["light"], shared=a["shared_layers"])
        make_D = partial(Discriminator, img_ch, ch, **D_args)
        make_E = partial(Encoder, img_ch, ch, **E_args)
        make_G = partial(ResnetGenerator, img_ch, img_ch, ch, **G_args, recompute=self.args.checkpoint_blocks)
        self.G = {d: make_G() for d in "AB"}  # G[d] draws into d
        self.D = {d: make_D() for d in "AB"}  # D[d] judges d
        self.E = self.D if a["nice"] else {d: make_E() for d in "AB"}  # E[d] encodes d
        for net in self.networks().values():
            net.to(self.device)
        for d in "AB":
            # the generators are bound by convolutions, which are fastest in this layout
            self.G[d].to(memory_format=torch.channels_last)
        self.directions, self.twins = DIRECTIONS, []
        if together(self.args):
            self.directions = BOTH
            self._join(make_G, self.G)
            self._join(make_D, self.D)
            if self.E is not self.D:
                self._join(make_E, self.E)
        self._build_optimizers()
        self.objectives = {"D": self.discriminator_objective, "G": self.generator_objective}
        if self.args.compile:
            self.objectives = {k: torch.compile(f) for k, f in self.objectives.items()}

    def _join(self, make, nets: dict):
        """Beside nets "A" and "B" put "AB", which computes both at once, and "BA", the same in the other order."""
        twins = Twins(make, [nets["A"], nets["B"]])
        nets["AB"], nets["BA"] = twins.net, Swapped(twins.net)
        self.twins.append(twins)

    def _build_optimizers(self):
        updates = self.args.encoder_updates if self.architecture["nice"] else "d"
        heads, encoder = [], []  # of both discriminators; fc, the CAM head, stays a classifier
        for d in "AB":
            for name, p in self.D[d].named_parameters():
                (encoder if name.startswith(("model", "conv1x1", "lamda")) else heads).append(p)
        D_all = [p for d in "AB" for p in self.D[d].parameters()]
        G = [p for t in "BA" for p in self.G[t].parameters()]  # as in existing optimizer states
        if not self.architecture["nice"]:
            G += [p for d in "AB" for p in self.E[d].parameters()]
        self.D_parameters = heads if updates == "g" else D_all
        self.G_parameters = G if updates == "d" else G + encoder
        # in each half of a step, everything that this half does not train is frozen
        self.frozen_in_D = self._all_but(self.D_parameters, D_all + G)
        self.frozen_in_G = self._all_but(self.G_parameters, D_all + G)
        settings = dict(
            lr=self.args.lr,
            betas=(0.5, 0.999),
            weight_decay=self.args.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over the weights; same numbers
        )
        self.D_optim = torch.optim.Adam(self.D_parameters, **settings)
        self.G_optim = torch.optim.Adam(self.G_parameters, **settings)
        half = self.args.amp == "fp16" and self.device.type == "cuda"
        self.scalers = {"D": torch.amp.GradScaler(enabled=half), "G": torch.amp.GradScaler(enabled=half)}

    def _all_but(self, trained, parameters):
        """Those of the parameters that are not trained, and the twins' parameters that stand for them."""
        trained = set(trained)
        parameters = [p for p in dict.fromkeys(parameters) if p not in trained]
        stand_ins = [(p, parts) for twins in self.twins for p, (parts, _) in twins.parts.items()]
        return parameters + [p for p, parts in stand_ins if parts[0] not in trained]

    gen2A = property(lambda self: self.G["A"])
    gen2B = property(lambda self: self.G["B"])
    disA = property(lambda self: self.D["A"])
    disB = property(lambda self: self.D["B"])

    def networks(self) -> dict[str, torch.nn.Module]:
        """The networks by their names in checkpoints."""
        nets = {"gen2B": self.G["B"], "gen2A": self.G["A"], "disA": self.D["A"], "disB": self.D["B"]}
        if self.E is not self.D:
            nets |= {"encA": self.E["A"], "encB": self.E["B"]}
        return nets

    # ---------------------------------------------------------------------------- one training step

    def train_step(self, real_A: Tensor, real_B: Tensor) -> dict[str, Tensor]:
        """Do optimisation step number `step + 1` on real_A, real_B (N,3,S,S) in [-1,1].

        Returns every loss term, detached, and the weighted sums d_loss and g_loss.
        """
        self.step += 1
        layout = dict(memory_format=torch.channels_last, non_blocking=True)
        real = {"A": real_A.to(self.device, **layout), "B": real_B.to(self.device, **layout)}
        with frozen(self.frozen_in_D):  # the encoder learns here, from telling real from fake ...
            terms = self._descend("D", self.D_optim, real)
        with frozen(self.frozen_in_G):  # ... and only here: decoupled training (section 3.3)
            terms |= self._descend("G", self.G_optim, real)
        return terms

    def discriminator_objective(self, real, s, t):
        """Tell real from fake in domain t: every head wants 1 on real and 0 on generated images."""
        with torch.no_grad():  # G is frozen, so its graph would only be thrown away
            fake = self.G[t](self.E[s].encode(real[s], at=(0,)))
        # real and fake in one batch: the weights are read once, each half has its own sigma
        judged = self.D[t](torch.cat((real[t], fake)), at=(0, 1))
        terms = {}
        for head, logits in judged.heads().items():
            for d, of_d in each(t, logits):
                on_real, on_fake = of_d.chunk(2)
                terms[f"d_{head}_{d}"] = lsgan(on_real, 1) + lsgan(on_fake, 0)
        return self.args.adv_weight * sum(terms.values()), terms

    def generator_objective(self, real, s, t):
        """From domain s: fool D in t, come back (cycle), and stay (reconstruction)."""
        args, D, E, G = self.args, self.D, self.E, self.G
        z = E[s].encode(real[s], at=(0,))
        fake = G[t](z)
        judged = D[t](fake, at=(1,))
        z_fake = judged.z if E is D else E[t].encode(fake, at=(1,))
        cyc, rec = G[s](torch.cat((z_fake, z))).chunk(2)  # in one batch
        heads = judged.heads().items()
        terms = {f"g_{head}_{d}": lsgan(of_d, 1) for head, logits in heads for d, of_d in each(t, logits)}
        for d, cyc_d, rec_d, real_d in each(s, cyc, rec, real[s]):
            terms[f"cycle_{d}"] = F.l1_loss(cyc_d, real_d)
            terms[f"recon_{d}"] = F.l1_loss(rec_d, real_d)
        weight = {"g": args.adv_weight, "cycle": args.cycle_weight, "recon": args.recon_weight}
        return sum(weight[name.split("_")[0]] * term for name, term in terms.items()), terms

    def _descend(self, which: str, optimizer, real):
        """One optimizer step on the objective of D or G, averaged over micro-batches and ranks."""
        scaler, n = self.scalers[which], self.args.grad_accum
        for net in {nets[s] for nets in (self.D, self.E) for s, _ in self.directions}:
            net.power_iteration(2)  # of this half's two passes, real and fake: they need only the weights
        total, terms = 0.0, {}
        for micro in zip(*(real[d].chunk(n) for d in "AB"), strict=True):
            of = dict(zip("AB", micro, strict=True))
            for s, t in self.directions:  # one after the other: only one's activations are alive; or both at once
                pictures = {domains: torch.cat([of[d] for d in domains], 1) for domains in (s, t)}
                with self._autocast():
                    loss, parts = self.objectives[which](pictures, s, t)
                scaler.scale(loss / n).backward()
                total = total + loss.detach() / n
                terms |= {name: terms.get(name, 0.0) + part.detach() / n for name, part in parts.items()}
        for twins in self.twins:
            twins.hand_out_gradients()
        terms[f"{which.lower()}_loss"] = total
        self._average_over_ranks(optimizer)
        self._update(which, optimizer, terms)
        return terms

    def _autocast(self):
        if self.args.amp == "none":
            return nullcontext()
        return torch.autocast(self.device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[self.args.amp])

    def _average_over_ranks(self, optimizer):
        if self.world == 1:
            return
        grads = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        with _lost_peers():
            for work in [dist.all_reduce(g, async_op=True) for g in grads]:
                work.wait()
        torch._foreach_div_(grads, self.world)

    def _update(self, which: str, optimizer, terms):
        """Let the optimizer step, unless a term or the gradient is not finite."""
        scaler, group = self.scalers[which], optimizer.param_groups[0]
        group["lr"] = lr_at(self.step, self.args.iteration, self.args.lr, self.args.decay_flag)
        if not scaler.is_enabled():  # an fp16 scaler expects overflows and drops those updates itself
            norm = torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            terms = {**terms, f"gradient of {which}": norm}
        bad = self.guard.see(which, self.step, terms)
        if scaler.is_enabled():
            scaler.step(optimizer)
            scaler.update()
        elif self.device.type == "cuda":
            optimizer.found_inf = bad.float()  # the fused kernel drops the update; the host need not wait
            optimizer.step()
        elif not bad:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.device.type != "cuda":
            self.guard.check()

    # ------------------------------------------------------------------------------------ training

    def train(self):
        """Train to args.iteration, or until a signal; with args.resume from the newest checkpoint."""
        args, main = self.args, self.rank == 0
        pictures = self._pictures("trainA", "trainB", "testA", "testB")
        if args.resume and self.step == 0:
            self.load()
        torch.backends.cudnn.benchmark = args.benchmark_flag
        with ExitStack() as stack:
            signals = stack.enter_context(utils.Signals())
            log = None
            if main:
                stack.enter_context(utils.locked(self.results))
                if self.step == 0:
                    checkpoints.keep_previous(self.results)
                log = stack.enter_context(utils.Log(self.results / "log.jsonl", self.step))
            stream = stack.enter_context(
                dataset.UnpairedStream(
                    {d: pictures[f"train{d}"] for d in "AB"},
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
                )
            )
            bar = tqdm(total=args.iteration, initial=self.step, unit="step", disable=not main, dynamic_ncols=True)
            finished = self._loop(stream, stack.enter_context(bar), log, signals, pictures)
        if main and not finished:
            print(f"stopped after step {self.step}; continue with: {args.command}", file=sys.stderr)
        return finished

    def _loop(self, stream, bar, log, signals, pictures):
        args = self.args
        sums, count, waited, since = {}, 0, 0.0, time.perf_counter()
        show_every = 20 if self.device.type == "cuda" else 1  # showing a loss waits for the GPU
        while self.step < args.iteration:
            asked = time.perf_counter()
            try:
                real = next(stream)
            except UserError:  # a picture became unreadable: keep what was learned
                self.save()
                raise
            waited += time.perf_counter() - asked
            terms = self.train_step(real["A"], real["B"])
            self.position = stream.position
            sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
            count += 1
            stop, save = self._agree(*signals.asked())
            last = self.step == args.iteration or stop
            bar.update()
            if last or self.step % show_every == 0:
                self.guard.check()
                bar.set_postfix({k: f"{terms[k].item():.3f}" for k in ("d_loss", "g_loss")}, refresh=False)
            if last or self.step % args.log_freq == 0:
                seconds = time.perf_counter() - since
                self._log(log, sums, count, seconds, waited)
                sums, count, waited, since = {}, 0, 0.0, time.perf_counter()
            if self.step % args.print_freq == 0 or self.step == args.iteration:
                self.guard.check()
                self.sample(pictures)
            if last or save or self.step % args.print_freq == 0 or self.step % args.save_freq == 0:
                self.guard.check()
                self.save(numbered=self.step % args.save_freq == 0)
            if stop:
                return False
        return True

    def _log(self, log, sums, count, seconds, waited):
        """One line: means over the interval, speed, and the share of time spent waiting for data."""
        values = torch.stack(list(sums.values())) / count
        if self.world > 1:
            with _lost_peers():
                dist.all_reduce(values)
            values /= self.world
        if log is None:
            return
        lr = lr_at(self.step, self.args.iteration, self.args.lr, self.args.decay_flag)
        speed = {"steps_per_second": round(count / seconds, 4), "data_wait": round(waited / seconds, 4)}
        means = {name: round(value, 6) for name, value in zip(sums, values.tolist(), strict=True)}
        log.write(step=self.step, lr=lr, dropped=int(self.guard.dropped), **speed, **means)

    def _agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """All ranks stop or save after the same step, whichever of them was asked to."""
        if self.world == 1:
            return stop, save
        asked = torch.tensor([stop, save], dtype=torch.int32, device=self.device)
        with _lost_peers():
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            return tuple(bool(x) for x in asked.tolist())

    def _pictures(self, *folders) -> dict[str, list[Path]]:
        root = Path(self.args.dataset_dir) / self.args.dataset
        if not root.is_dir():
            raise UserError(f"no data set {root}; make it, with {', '.join(folders)} in it, or check --dataset")
        return {
            name: dataset.check_images(dataset.list_images(root / name), skip_bad=self.args.skip_bad_images)
            for name in folders
        }

    # ---------------------------------------------------------------------------------- checkpoints

    def state(self) -> dict:
        """Everything a run continues from; also readable by what reads the released checkpoints."""
        return {
            **{name: net.state_dict() for name, net in self.networks().items()},
            "D_optimizer": self.D_optim.state_dict(),
            "G_optimizer": self.G_optim.state_dict(),
            "start_iter": self.step,  # the last finished step
            "position": self.position,  # pictures of each domain consumed, over all ranks
            "scalers": {which: scaler.state_dict() for which, scaler in self.scalers.items()},
            "guard": self.guard.state(),
            "args": {k: v for k, v in vars(self.args).items() if k not in checkpoints.NOT_SAVED},
            "rng": {"cpu": torch.get_rng_state(), "cuda": _cuda_rng()},
        }

    def save(self, numbered: bool = False):
        """Write results/NAME_params_latest.pt and, if asked, the numbered one; rank 0 alone does."""
        if self.rank != 0:
            return
        state = self.state()
        if numbered:  # first, so that a kill in between is made good by repeating the steps since the latest
            name = f"{self.results.name}_params_{self.step:07d}.pt"
            checkpoints.save_checkpoint(state, self.results / "model" / name)
        checkpoints.save_checkpoint(state, checkpoints.latest_path(self.results))
        if numbered and self.args.keep:
            for old in checkpoints.numbered_paths(self.results)[: -self.args.keep]:
                old.unlink()

    def load(self, found: tuple[dict, Path] | None = None):
        """Continue from a checkpoint (state, path), by default the newest valid one of this run."""
        state, path = found or checkpoints.newest_checkpoint(self.results, self.args.checkpoint)
        checkpoints.refuse_contradictions(state, path, self.architecture, self.args)
        self._load_networks(state, path, self.networks())
        for name, optimizer in (("D_optimizer", self.D_optim), ("G_optimizer", self.G_optim)):
            checkpoints.load_optimizer(optimizer, state, name, path)
        self.step = state.get("start_iter", 0)
        self.position = state.get("position", self.step * self.args.batch_size)
        with checkpoints.fitting(path, "scalers, guard or rng"):
            for which, scaler in self.scalers.items():
                scaler.load_state_dict(state.get("scalers", {}).get(which, {}))
            self.guard.load(state.get("guard"))
            if "rng" in state:
                torch.set_rng_state(state["rng"]["cpu"])
                if self.device.type == "cuda" and state["rng"]["cuda"]:
                    torch.cuda.set_rng_state(state["rng"]["cuda"][0])
        if self.rank == 0:
            print(f"continuing from step {self.step} of {path}", file=sys.stderr)

    def _load_networks(self, state, path, networks):
        for name, net in networks.items():
            with checkpoints.fitting(path, name):
                net.load_state_dict(state[name])

    # -------------------------------------------------------------------------- samples, translation

    @torch.no_grad()
    def sample(self, pictures):
        """results/NAME/img/A2B_0001000.png: columns 4 train and 4 test pictures; rows input, heatmap
        of its code in JET, reconstruction, translation, cycle.  Changes no state of the training."""
        if self.rank != 0:
            return
        size, channels = self.args.img_size, self.args.img_ch
        with evaluating(self.networks().values()):
            for s, t in DIRECTIONS:
                columns = []
                for path in pictures[f"train{s}"][:4] + pictures[f"test{s}"][:4]:
                    x = dataset.load_for_test(path, size, channels)[None].to(self.device)
                    with self._autocast():
                        z = self.E[s].encode(x)
                        fake = self.G[t](z)
                        shown = (x, self.G[s](z), fake, self.G[s](self.E[t].encode(fake)))
                    rows = [utils.to_uint8(row[0]) for row in shown]
                    rows.insert(1, utils.to_uint8(utils.jet(z[0].sum(0, keepdim=True), size)))
                    columns.append(np.concatenate(rows, axis=0))
                grid = np.concatenate(columns, axis=1)
                utils.save_picture(grid, self.results / "img" / f"{s}2{t}_{self.step:07d}.png")

    @torch.no_grad()
    def test(self):
        """Translate testA -> fakeB and testB -> fakeA in results/NAME, under the inputs' names.

        Only encoders and generators run, with the architecture that the checkpoint names.
        """
        args = self.args
        pictures = self._pictures("testA", "testB")
        state, path = checkpoints.newest_checkpoint(self.results, args.checkpoint, keys=checkpoints.FOR_TEST)
        architecture = checkpoints.architecture_of(state, path)
        size = checkpoints.option("img_size", args, state)
        if args.keep_size and not architecture.get("light", True):
            raise UserError("--keep_size true needs a light model; this checkpoint's is full: its size is fixed")
        if any(self.architecture.get(k) != v for k, v in architecture.items()):
            with checkpoints.fitting(path, "args"):
                self.build_model(**architecture)
        self._load_networks(state, path, self.networks())
        with evaluating(self.networks().values()):
            for s, t in DIRECTIONS:
                inputs = pictures[f"test{s}"][self.rank :: self.world]
                root = Path(args.dataset_dir) / args.dataset / f"test{s}"
                outputs = dataset.output_paths(inputs, root)
                pairs = zip(inputs, outputs, strict=True)
                for source, name in tqdm(pairs, f"test{s} -> fake{t}", len(inputs), disable=self.rank != 0):
                    picture = self._translate(source, s, t, None if args.keep_size else size)
                    utils.save_picture(picture, self.results / f"fake{t}" / name)
        if self.rank == 0:
            print(f"translated with {path} into {self.results / 'fakeA'} and {self.results / 'fakeB'}")

    def _translate(self, source: Path, s: str, t: str, size: int | None) -> np.ndarray:
        """One picture of domain s drawn in t, (H,W,3) uint8; at its own size where size is None."""
        x = dataset.load_for_test(source, size, self.architecture["img_ch"])[None].to(self.device)  # (1,C,h,w)
        h, w = x.shape[2:]
        # the networks halve twice: pad to a multiple of 4, at least the 16 that reflection needs, and crop back
        bottom, right = max(16, -(-h // 4) * 4) - h, max(16, -(-w // 4) * 4) - w
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        with self._autocast():
            fake = self.G[t](self.E[s].encode(x.contiguous(memory_format=torch.channels_last)))
        return utils.to_uint8(fake[0, :, :h, :w])


# ----------------------------------------------------------------------------------------- small things


@contextmanager
def evaluating(networks):
    """Evaluation mode inside (no power iterations), training mode after."""
    networks = list(networks)
    for net in networks:
        net.eval()
    try:
        yield
    finally:
        for net in networks:
            net.train()


@contextmanager
def _lost_peers():
    try:
        yield
    except RuntimeError:  # what gloo and NCCL raise when another rank is gone
        raise RunError("another process of this training is gone; start all again with --resume True") from None


def _cuda_rng():
    return [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
