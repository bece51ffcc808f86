"""DRIT++ (Lee, Tseng et al., "Diverse Image-to-Image Translation via Disentangled Representations", ECCV 2018,
arXiv 1808.00948; with mode seeking IJCV 2020, arXiv 1905.01270).

A picture is encoded as a content c, feature maps with the same meaning in both domains, and an attribute z of its
domain, eight numbers near N(0,1).  E^c and E^a encode; G_d decodes a content and an attribute into domain d:

    fake_A = G_A(c_B, z_A)     self_A = G_A(c_A, z_A)     cyc_A = G_A(E^c(fake_B), E^a(fake_A))
    rand_A = G_A(c_B, z_1)     rand'_A = G_A(c_B, z_2),   z_1, z_2 ~ N(0,1)

    D step    min over D_A, D_A2    bce(D_A(x_A), 1) + bce(D_A(fake_A), 0)       D_A2: on rand_A and on rand'_A
    D^c step  min over D^c          bce(D^c(c_B), 1) + bce(D^c(c_A), 0)
    EG step   min over E^c, E^a, G  bce(D^c(c_A), 1/2) + bce(D_A(fake_A), 1) + 10 |cyc_A - x_A| + 10 |self_A - x_A|
                                    + 0.01 mean c_A^2 + 0.01 KL(z_A, N(0,1))
    G step    min over E^c, G       bce(D_A2(rand_A), 1) + bce(D_A2(rand'_A), 1) + 10 |E^a(rand_A) - z_1|
                                    + |z_2 - z_1| / |rand'_A - rand_A|           (mode seeking)

and the same with A and B swapped.  Of every --d_iter steps all but one are D^c steps only.  The first picture of a
batch is encoded; the others serve only as real pictures for D_A2.  --concat 1 concatenates z to the content as constant
maps, for domains of similar shapes (seasons); with --concat 0 z modulates it (cats and dogs).

As with the authors, pictures are resized to 256 pixels; training takes random crops of 216 pixels, and the test folders
are translated on the crop in the centre.  `--phase test --img_size 256 --load_size 256` translates whole pictures at
that scale.  The networks are in drit_networks.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.drit_networks import (
    NZ,
    ContentDiscriminator,
    ContentEncoder,
    Discriminator,
    GaussianEncoder,
    Generator,
    ModulatedGenerator,
    PlainEncoder,
    initialise,
)
from methods.styles import Styled
from options import of_method
from training.method import Update, epoch_at
from training.trainer import Trainer
from utils import frozen

OTHER = {"A": "B", "B": "A"}


def bce(maps: list[Tensor], target: float) -> Tensor:
    """Cross entropy of sigmoid(logits) and the target: the mean over each map, summed over the maps."""
    return sum((F.softplus(logits) - target * logits).mean() for logits in maps)


def logits_of(D: Discriminator, *batches: Tensor) -> list[list[Tensor]]:
    """D's maps for each batch, as from calls in this order, each of which counts for spectral norm."""
    if D.spectral:
        return [D(x) for x in batches]
    distinct = list(dict.fromkeys(batches))  # one pass over each distinct batch
    scales = [logits.split([len(x) for x in distinct]) for logits in D(torch.cat(distinct))]
    maps = dict(zip(distinct, zip(*scales, strict=True), strict=True))
    return [maps[x] for x in batches]


# ------------------------------------------------------------------------------------------- method


class DRIT(Styled, Trainer):
    """DRIT++: contents shared by both domains, attributes of one; mode seeking; many translations of one picture."""

    options, defaults = of_method("drit")
    inference_networks = dict.fromkeys((("A", "B"), ("B", "A")), ("enc_c", "enc_a", "gen"))
    resample = "bicubic"
    tests_at_load_size = tests_centre = True
    authors_epochs = 1200
    lr_scale, max_grad_norm = {"disContent": 1 / 2.5}, {"disContent": 5.0}

    def build(self, a) -> dict[str, nn.Module]:
        self.trained_directions = (("A", "B"),)  # each objective covers both domains
        kinds = (ContentEncoder, *((GaussianEncoder, Generator) if a.concat else (PlainEncoder, ModulatedGenerator)))
        self.enc_c, self.enc_a, self.gen = (initialise(net(a.img_ch, a.ch)) for net in kinds)
        for net in (self.enc_c, self.enc_a, self.gen):
            net.to(memory_format=torch.channels_last)
        shape = a.img_ch, a.ch, a.dis_scale, a.dis_spectral_norm
        # D[d] judges translations into d, D2[d] those with random attributes, D_c contents
        self.D, self.D2 = ({d: initialise(Discriminator(*shape)) for d in "AB"} for _ in "12")
        self.D_c = initialise(ContentDiscriminator(4 * a.ch))
        nets = {"disA": self.D["A"], "disB": self.D["B"], "disA2": self.D2["A"], "disB2": self.D2["B"]}
        return nets | {"disContent": self.D_c, "enc_c": self.enc_c, "enc_a": self.enc_a, "gen": self.gen}

    def trained(self):
        owners = {"D": (*self.D.values(), *self.D2.values()), "disContent": (self.D_c,)}
        owners["EG"] = (self.enc_c, self.enc_a, self.gen)
        return {name: [p for net in nets for p in net.parameters()] for name, nets in owners.items()}

    # ----------------------------------------------------------------------------- one training step

    def is_full(self, step: int) -> bool:
        """Whether step 1, 2, ... trains everything, not D^c only."""
        length = self.args.steps_per_epoch
        step = (step - 1) % length + 1 if length else step  # within the epoch
        return step % self.args.d_iter == 0 or 0 < length < step + 2

    @property
    def period(self) -> int:
        return self.args.d_iter

    def lr(self, step: int) -> float:
        """As on the authors' PyTorch, 0.4; on 1.1 and newer their program changes it an epoch earlier."""
        a, decay = self.args, self.args.n_ep_decay
        epoch = epoch_at(step, a.iteration, a.n_ep, a.steps_per_epoch) - 1 - (not a.early_decay)
        if decay < 0 or not a.decay_flag:
            return a.lr
        if a.lr_policy == "step":
            return a.lr * 0.1 ** (max(0, epoch) // max(1, decay))
        return a.lr * max(0.0, 1 - max(0, epoch - decay) / max(1, a.n_ep - decay + 1))

    def updates(self):
        content = Update("disContent", self.content_objective, total="disContent_loss")
        if not self.is_full(self.step):
            return (content,)
        return (
            Update("D", self.discriminator_objective, total="D_loss"),
            content,
            Update("EG", self.encoder_objective, total="G_loss", keep_graph=True),
            # The G step backpropagates through fakes made before the EG step, with the weights that the EG step left:
            # PyTorch 0.4 allowed this, and the authors' results were made so.  (--amp: with the weights from before.)
            Update("EG", self.generator_objective, total="G_alone_loss"),
        )

    def noisy_content(self, x: Tensor, d: str, noise: str) -> Tensor:
        c = self.enc_c(x, d)
        return c + self.draw.normal(f"forward/{noise}_{d}", *c.shape)

    def attribute(self, x: Tensor, d: str, eps: str) -> tuple[Tensor, Tensor]:
        """z (1,8) and KL(its Gaussian, N(0,1)), summed over the numbers; without a variance the mean square of z."""
        mean, log_variance = self.enc_a(x, d)
        if log_variance is None:
            return mean, mean.square().mean()
        z = mean + self.draw.normal(f"forward/{eps}_{d}", *mean.shape) * (log_variance / 2).exp()
        return z, -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()

    def forward(self, batch, *_):
        """All fakes of a step.  Those of the EG and of the G step come from separate passes: neither backpropagates
        through the other's."""
        G, real, full = self.gen, {d: batch[d][:1] for d in "AB"}, self.is_full(self.step)
        with torch.set_grad_enabled(full):
            batch["c"] = c = {d: self.noisy_content(real[d], d, "content_noise") for d in "AB"}
        if not full:
            return
        z, batch["kl"] = _by_domain(self.attribute(real[d], d, "eps") for d in "AB")
        names = ("z_random",) if self.args.no_ms else ("z_random", "z_random2")
        batch["z"] = [self.draw.normal(f"forward/{name}", 1, NZ) for name in names]  # for both domains
        c, z_random = {d: G.shared(c[d]) for d in "AB"}, torch.cat(batch["z"])
        batch["fake"], batch["self"] = _by_domain(
            G.decode(torch.cat((c[o], c[d])), z[d].expand(2, -1), d).chunk(2) for d, o in OTHER.items()
        )
        n = len(z_random)
        batch["rand"] = {d: G.decode(c[o].expand(n, -1, -1, -1), z_random, d).split(1) for d, o in OTHER.items()}
        c = {o: self.noisy_content(batch["fake"][d], d, "recon_noise") for d, o in OTHER.items()}  # fake_A: B's content
        z, _ = _by_domain(self.attribute(batch["fake"][d], d, "recon_eps") for d in "AB")
        batch["cyc"] = {d: G(c[d], z[d], d) for d in "AB"}
        with frozen(self.enc_a.parameters()):  # the G step does not train E^a
            batch["mean"] = {d: self.enc_a(batch["rand"][d][0], d)[0] for d in "AB"}

    def discriminator_objective(self, batch, *_):
        """Tell real from fake: D for the encoded picture, D2 for the other pictures and fakes of random attributes."""
        terms = {}
        for d in "AB":
            on_fake, on_real = logits_of(self.D[d], batch["fake"][d].detach(), batch[d][:1])
            terms[f"dis{d}_loss"] = bce(on_real, 1) + bce(on_fake, 0)
            others = batch[d][1:]
            logits = logits_of(self.D2[d], *(x for rand in batch["rand"][d] for x in (rand.detach(), others)))
            terms[f"dis{d}2_loss"] = sum(bce(maps, i % 2) for i, maps in enumerate(logits))
        return sum(terms.values()), terms

    def content_objective(self, batch, *_):
        """Tell contents of A (0) from those of B (1)."""
        on_A, on_B = self.D_c(torch.cat([batch["c"][d].detach() for d in "AB"])).chunk(2)
        return bce([on_A], 0) + bce([on_B], 1), {}

    def encoder_objective(self, batch, *_):
        """Contents that hide their domain, attributes near N(0,1); fool D, cycle, self-reconstruction."""
        fake, own, cyc, kl = (batch.pop(name) for name in ("fake", "self", "cyc", "kl"))  # free them with this graph
        on_content, terms = self.D_c(torch.cat([batch["c"][d] for d in "AB"])).chunk(2), {}
        for d, a, on_c in zip("AB", "ab", on_content, strict=True):
            terms[f"gan_loss_{a}content"] = bce([on_c], 0.5)
            terms[f"gan_loss_{a}"] = bce(self.D[d](fake[d]), 1)
            terms[f"kl_loss_zc_{a}"] = 0.01 * batch["c"][d].square().mean()
            terms[f"kl_loss_za_{a}"] = 0.01 * kl[d]
            terms[f"l1_recon_{d}_loss"] = 10 * F.l1_loss(cyc[d], batch[d][:1])
            terms[f"l1_recon_{d}{d}_loss"] = 10 * F.l1_loss(own[d], batch[d][:1])
        return sum(terms.values()), terms

    def generator_objective(self, batch, *_):
        """With random attributes: fool D2, keep the attribute recoverable, and let different ones look different."""
        z, terms = batch["z"], {}
        for (d, o), a in zip(OTHER.items(), "ab", strict=True):
            rand = batch["rand"][d]
            terms[f"l1_recon_z_loss_{a}"] = 10 * F.l1_loss(batch["mean"][d], z[0])
            terms[f"gan2_loss_{a}"] = sum(bce(maps, 1) for maps in logits_of(self.D2[d], *rand))
            if not self.args.no_ms:
                terms[f"lz_{o}{d}"] = 1 / (F.l1_loss(rand[1], rand[0]) / F.l1_loss(z[1], z[0]) + 1e-5)
        return sum(terms.values()), terms

    @classmethod
    def term_weights(cls, args):
        tens = [f"l1_recon_{name}" for name in ("A_loss", "B_loss", "AA_loss", "BB_loss", "z_loss_a", "z_loss_b")]
        return dict.fromkeys(tens, 10) | {f"kl_loss_{z}_{a}": 0.01 for z in ("zc", "za") for a in "ab"}

    # ---------------------------------------------------------------------------- pictures, files

    @classmethod
    def default_load_size(cls, args) -> int:
        return round(args.img_size * 256 / 216)

    def inference_keys(self, s, t):
        return {"enc_c": ("conv_share.", f"conv{s}."), "gen": ("dec_share.", f"dec{t}", f"mlp{t}.")}

    def style_keys(self, t):
        return {"enc_a": (f"fc_{t}.", f"fcVar_{t}.", f"conv_{t}.", f"model_{t.lower()}.")}

    def content(self, x, s):
        return self.enc_c(x, s)

    def style_of(self, x, t):
        """Sampled from the Gaussian of the pictures' attribute, as in the authors' test program."""
        mean, log_variance = self.enc_a(x, t)
        return mean if log_variance is None else mean + self.random_style(t) * (log_variance / 2).exp()

    def random_style(self, t):
        return torch.randn(1, NZ).to(self.device)

    def decode(self, content, style, t):
        return self.gen(content, style, t)

    @classmethod
    def check(cls, args) -> str | None:
        # D^c's last layer has no padding; D's reflection padding needs more than one pixel
        least = max(212, 15 * 2 ** (args.dis_scale - 1) + 4)
        if args.img_size < least:
            return f"--img_size {args.img_size} is too small for DRIT's discriminators, which need {least}"
        if args.batch_size < 2:
            return "--batch_size must be at least 2: the first picture is translated, the others are real ones for D_A2"
        if args.compile:
            return "--compile true is impossible: DRIT's backward uses weights that changed since the forward"
        return None

    @classmethod
    def from_released(cls, found):
        """The authors' 00199.pth: one dict of networks, optimizers (NAME_opt) and counters."""
        if (networks := super().from_released(found)) and "total_it" in networks:
            return {k: v for k, v in networks.items() if isinstance(v, dict) and not k.endswith("_opt")}
        return networks

    @classmethod
    def infer_options(cls, networks):
        first = networks["enc_c"]["convA.0.model.1.weight"]
        found = {"ch": first.shape[0], "img_ch": first.shape[1], "concat": int("mlpA.0.weight" not in networks["gen"])}
        if dis := networks.get("disA"):
            found["dis_scale"] = len({key.split(".")[1] for key in dis if key.startswith("Diss.")}) or 1
            found["dis_spectral_norm"] = any(key.endswith("weight_orig") for key in dis)
        return found

    def summary_modules(self):
        *_, (*_, x) = super().summary_modules()
        c, (z, _) = self.enc_c(x, "A"), self.enc_a(x, "A")
        return [
            ("content encoders", ["enc_c"], self.enc_c, lambda x: self.enc_c(x, "A"), x),
            ("attribute encoders", ["enc_a"], self.enc_a, lambda x: self.enc_a(x, "A"), x),
            ("generators", ["gen"], self.gen, lambda c, z: self.gen(c, z, "A"), (c, z)),
            ("discriminators of pictures", ["disA", "disB", "disA2", "disB2"], self.D["A"], self.D["A"], x),
            ("discriminators of contents", ["disContent"], self.D_c, self.D_c, c),
        ]


def _by_domain(pairs) -> list[dict]:
    """(a, b) of A and (a', b') of B -> {"A": a, "B": a'}, {"A": b, "B": b'}."""
    return [dict(zip("AB", both, strict=True)) for both in zip(*pairs, strict=True)]
