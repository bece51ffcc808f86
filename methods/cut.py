"""CUT (Park, Efros, Zhang, Zhu, "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020,
arXiv 2007.15651), and FastCUT, the same method with other weights.

One direction: G translates A to B, D judges B.  PatchNCE (section 3) asks that a patch of the translation can be
recognised among the patches of the input.  A small network F projects the features of G's encoder; for each patch z of
each layer, cross entropy tells the input's same patch from its other ones:

    PatchNCE(x, y) = mean over layers and patches z of  -log [exp(q.k/T) / (exp(q.k/T) + sum of exp(q.k'/T))]
                     q = F(G_enc(y))_z    k = F(G_enc(x))_z, detached    k' = F(G_enc(x)) at the other patches

    D step: min over D      (lsgan(D(x_B), 1) + lsgan(D(G(x_A)), 0)) / 2
    G step: min over G, F   lambda_GAN lsgan(D(G(x_A)), 1) + lambda_NCE PatchNCE(x_A, G(x_A))                FastCUT
            with nce_idt    lambda_GAN lsgan(D(G(x_A)), 1) + lambda_NCE [PatchNCE(x_A, G(x_A))
                                                                         + PatchNCE(x_B, G(x_B))] / 2        CUT

Ablations of the appendix: --nce_layers, --nce_decoder false (PatchNCE sends no gradient into the decoder),
--shared_encoder false (an encoder and F of their own for the input), --negatives (methods/negatives.py).

The file holds PatchNCE, CUT and FastCUT; methods/cut_networks.py holds the networks.  The authors' program, recorded
on a CPU, has wrong gradients of PatchNCE, by a bug in PyTorch (up to 2.14 at least): see AsRecorded there.
--norm torch reproduces them; by default ours are right.
"""

import bisect
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dataset
from checkpoints.contents import by_name, lone_network
from layers import early
from methods.cut_networks import Discriminator, Generator, Projection, as_recorded
from methods.cyclegan import EpochSchedule, initialise, lsgan
from methods.negatives import Bank, MomentumNetwork
from options import of_method
from training.method import Update, epoch_at

# ----------------------------------------------------------------------------------------- PatchNCE


def nce(q: Tensor, k: Tensor, temperature: float, bank: Tensor | None = None, internal: bool = True) -> Tensor:
    """Cross entropy of each query q_i classifying its key k_i among the keys of its picture and of a bank.

    q, k (N,M,c); bank (B,c) or None: keys of other pictures; internal: whether the other keys of the picture count.
    """
    outside = [] if bank is None else [q @ bank.T]  # (N,M,B)
    if internal:
        # the authors' logits are [q_i.k_i, q_i.k_j with -10 at j = i]
        logits = torch.cat((F.pad(q @ k.mT, (0, 1), value=-10.0), *outside), 2) / temperature  # (N,M,M+1+B)
        own = torch.arange(q.shape[1], device=q.device).expand(len(q), -1)
    else:
        logits = torch.cat(((q * k).sum(2, keepdim=True), *outside), 2) / temperature  # (N,M,1+B)
        own = torch.zeros(q.shape[:2], dtype=torch.long, device=q.device)
    return F.cross_entropy(logits.flatten(0, 1), own.flatten())


# ------------------------------------------------------------------------------------------- method


class Samples(dataset.Samples):
    """Random crops of larger pictures; from sample number `whole_from` on, whole pictures resized to the same size."""

    def __init__(self, paths, img_size, *rest, whole_from: float, **pictures):
        super().__init__(paths, img_size, *rest, **pictures)
        pictures |= {"load_size": img_size, "scales": self.scales}
        self.whole = dataset.Samples(paths, img_size, *rest, **pictures)
        self.whole_from = whole_from

    def sample(self, domain, k):
        return self.whole.sample(domain, k) if k >= self.whole_from else super().sample(domain, k)

    def make_cache(self, copies, quiet):
        super().make_cache(2 * copies, quiet)  # half of the free memory for each
        self.whole.make_cache(2 * copies, quiet=True)


class CUT(EpochSchedule):
    """CUT: one direction; patches of the translation are contrasted with patches of the input."""

    options, defaults = of_method("cut")
    authors_epochs = 400
    directions = (("A", "B"),)
    inference_networks = {("A", "B"): ("G",)}

    def build(self, a) -> dict[str, nn.Module]:
        G = Generator(a.img_ch, a.ch, a.n_res, a.nce_layers)
        nets = G, Projection(G.widths, a.netF_nc), Discriminator(a.img_ch, a.ch)
        xavier = partial(nn.init.xavier_normal_, gain=self.args.init_gain)
        self.G, self.F, self.D = (initialise(net, xavier) for net in nets)
        if self.args.norm == "torch":
            self.G, self.D = as_recorded(self.G), as_recorded(self.D)
        found = {"G": self.G, "F": self.F, "D": self.D}
        self.G_key, self.F_key, self.banks, self.followers = self.G, self.F, {}, {}  # what encodes the input
        if not a.shared_encoder:
            own = Generator(a.img_ch, a.ch, a.n_res, a.nce_layers)
            own.model = own.model[: own.layers[-1] + 1]  # no decoder
            self.G_key, self.F_key = initialise(own, xavier), initialise(Projection(G.widths, a.netF_nc), xavier)
            found |= {"G_key": self.G_key, "F_key": self.F_key}
        elif self.args.negatives != "internal" and not self.empty:  # translating needs none
            followed = {"G": self.G, "F": self.F}.items()
            self.followers = {name: MomentumNetwork(net.to(self.device)) for name, net in followed}
            self.G_key, self.F_key = (follower.copy for follower in self.followers.values())
            fakes = ("NCE", "NCE_Y")[: 1 + self.args.nce_idt]
            self.banks = {name: Bank(len(G.layers), a.netF_nc, self.device) for name in fakes}
        return found

    def trained(self):
        # the authors' optimizers of G and of F have the same settings: one Adam for both is equivalent
        G = [p for name, net in self._networks.items() if name != "D" for p in net.parameters()]
        return {"D": [*self.D.parameters()], "G": G}

    @property
    def samples(self):
        """While the learning rate falls, the authors do not crop."""
        a, first = self.args, math.inf
        if a.decay_flag:
            epoch = partial(epoch_at, iteration=a.iteration, epochs=max(1, a.n_epochs + a.n_epochs_decay))
            steps = range(a.iteration + 1)
            first = bisect.bisect(steps, a.n_epochs, 1, key=lambda s: epoch(s, steps_per_epoch=a.steps_per_epoch))
        return partial(Samples, whole_from=(first - 1) * a.batch_size * a.grad_accum * self.world)

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("D", self.discriminator_objective, total="D"),
            Update("G", self.generator_objective, total="G", sample=self.sample_patches),
        )

    def host_decision(self) -> bool:
        """Whether G's input is mirrored in this step."""
        return self.args.flip_equivariance and self.draw.decision("forward/flip") < 0.5

    def forward(self, batch, s, t):
        """Used by both updates: fakes G(x_A) and, with nce_idt, G(x_B); keys: the features k of their inputs."""
        if self.args.norm == "torch":
            batch |= {d: batch[d].contiguous() for d in (s, t)}
        real = torch.cat((batch[s], batch[t])) if self.args.nce_idt else batch[s]
        fake, features = self.G.with_features(real.flip(3) if self.decision else real)
        if self.decision:  # keys come from unmirrored pictures, and G does not commute with mirroring
            with torch.no_grad():
                features = self.G.features(real)
        elif self.followers:
            with torch.no_grad():
                features = self.G_key.features(real)
            for bank in self.banks.values():
                bank.enqueue()  # the keys of the last step
        n = len(batch[s])
        batch["real"] = real.split(n)
        batch["fake"] = fake.split(n)
        batch["keys"] = list(zip(*(k.detach().split(n) for k in features), strict=True))

    def discriminator_objective(self, batch, s, t):
        """Tell real from fake: 1 on real, 0 on fake."""
        on_real, on_fake = self.D(torch.cat((batch[t], batch["fake"][0].detach()))).chunk(2)
        real, fake = lsgan(on_real, 1), lsgan(on_fake, 0)
        return (fake + real) / 2, {"D_real": real, "D_fake": fake}

    def sample_patches(self, batch, s, t):
        """The patches of keys and queries, for each fake."""
        names = (f"G/patches_{d}" for d in "AB"[: len(batch["keys"])])
        pairs = zip(batch["keys"], names, strict=True)
        batch["patch_ids"] = [self.patch_ids(keys, name, self.decision) for keys, name in pairs]
        inputs = zip(self.banks.values(), batch["keys"], batch["patch_ids"], strict=True) if self.banks else ()
        for bank, keys, (key_ids, _) in inputs:
            with torch.no_grad():
                bank.add(self.F_key(keys, key_ids))

    def after(self, update: str):
        if update == "G":
            for follower in self.followers.values():
                follower.update()

    def patch_ids(self, keys: list[Tensor], name: str, mirrored: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Random patches (M,) of each layer's keys (N,C,H,W), and the same patches in the, perhaps mirrored, fake."""
        sizes = [k.shape[2:] for k in keys]
        draws = (self.draw.permutation(f"{name}_{j}", h * w) for j, (h, w) in enumerate(sizes))
        key_ids = [ids[: self.args.num_patches] for ids in draws]
        # always new tensors: were both lists the same, torch.compile would compile that case anew
        query_ids = [ids + mirrored * (w - 1 - 2 * (ids % w)) for ids, (_, w) in zip(key_ids, sizes, strict=True)]
        return key_ids, query_ids

    def generator_objective(self, batch, s, t):
        """Fool D; keep the content of every patch, in the translation (NCE) and in pictures of t (NCE_Y)."""
        args = self.args
        adversarial = args.lambda_GAN * lsgan(self.D(batch["fake"][0]), 1)
        contrasts = {}
        names = ("NCE", "NCE_Y")[: len(batch["fake"])]
        for name, *inputs in zip(names, batch["fake"], batch["real"], batch["keys"], batch["patch_ids"], strict=True):
            contrasts[name] = args.lambda_NCE * self.patch_nce(*inputs, self.banks.get(name))
        loss = adversarial + sum(contrasts.values()) / len(contrasts)
        return loss, {"G_GAN": adversarial, **contrasts}

    @classmethod
    def term_weights(cls, args):
        return {"G_GAN": args.lambda_GAN, "NCE": args.lambda_NCE, "NCE_Y": args.lambda_NCE}

    def patch_nce(self, fake: Tensor, real: Tensor, keys: list[Tensor], patch_ids: tuple, bank: Bank | None) -> Tensor:
        """PatchNCE(real, fake); keys: features (N,C,H,W) of `real`; patch_ids: of the keys and of the queries."""
        args, (key_ids, query_ids) = self.args, patch_ids
        fake = fake if args.nce_decoder else fake.detach()
        outside = bank.keys if bank else [None] * len(keys)
        with torch.no_grad():
            constant = self.F_key(keys, key_ids) if self.architecture["shared_encoder"] else None

        def contrast(fake):
            q = self.F(self.G.features(fake), query_ids)
            k = constant or self.F_key(self.G_key.features(real), key_ids)  # which learn, too
            internal = args.negatives != "external"
            losses = [nce(*of_layer, internal) for of_layer in zip(q, k, [args.nce_T] * len(q), outside, strict=True)]
            return sum(losses) / len(losses)

        return early(contrast, fake, self.optimizers["G"].param_groups[0]["params"])

    # -------------------------------------------------------------------- pictures, options, checkpoints

    def extra_state(self) -> dict:
        kept = [*self.banks.items(), *self.followers.items()]
        return {key: x for name, part in kept for key, x in part.state(name).items()}

    def load_extra_state(self, state: dict):
        for name, part in [*self.banks.items(), *self.followers.items()]:
            part.load(state, name)

    @classmethod
    def check(cls, args) -> str | None:
        if args.negatives != "internal" and not args.shared_encoder:
            return "--negatives external and both need the generator's encoder: leave --shared_encoder out"
        if min(args.nce_layers) >= 12 + args.n_res:
            return f"--nce_layers {min(args.nce_layers)} needs more than {args.n_res} residual blocks: lower it"
        return super().check(args)

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G(x)

    @classmethod
    def from_released(cls, found):
        """One file per network; G alone is enough to translate."""
        networks = by_name(found, {"G", "F", "D"}) or {"G": lone_network(found) or {}}
        return networks if "model.7.filt" in networks.get("G", {}) else None

    @classmethod
    def infer_options(cls, networks):
        G = networks["G"]
        blocks = sum(key.endswith("conv_block.1.weight") for key in G)
        found = {"ch": G["model.1.weight"].shape[0], "img_ch": G["model.1.weight"].shape[1], "n_res": blocks}
        if "F" in networks:
            found["netF_nc"] = networks["F"]["mlp_0.0.weight"].shape[0]
        return found

    def summary_modules(self):
        picture = torch.empty(1, self.args.img_ch, self.args.img_size, self.args.img_size, device=self.device)
        features = self.G.features(picture)
        counts = [min(self.args.num_patches, x[0, 0].numel()) for x in features]
        patch_ids = [torch.zeros(n, dtype=torch.long, device=self.device) for n in counts]
        return [
            ("generators", ["G"], self.G, self.G, picture),
            ("discriminators", ["D"], self.D, self.D, picture),
            ("projections", ["F"], self.F, lambda *f: self.F(f, patch_ids), tuple(features)),
        ]


class FastCUT(CUT):
    """FastCUT: CUT without PatchNCE(x_B, G(x_B)), and with a larger lambda_NCE."""

    options, defaults = of_method("fastcut")
    authors_epochs = 200
