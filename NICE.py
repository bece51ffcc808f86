"""NICE-GAN (Chen et al., "Reusing Discriminators for Encoding", CVPR 2020, arXiv 2003.00273).

A discriminator must understand a picture before it can judge it, so its first layers *are* the encoder.
D_d = C_d o E_d judges and encodes pictures of domain d; G_d generates pictures of domain d from a code:

    fake_B = G_B(E_A(x_A))     translation           cyc_A = G_A(E_B(fake_B))     cycle
    rec_A  = G_A(E_A(x_A))     self-reconstruction

    D step: min over E, C   adv_weight L_gan                     (section 3.2)
    G step: min over G      adv_weight L_gan + cycle_weight L_cyc + recon_weight L_rec

The encoder learns in the D step only: in the G step gradients flow through it, but its weights stay fixed
(decoupled training, section 3.3).
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from images.encode import jet
from networks import Discriminator, Encoder, ResnetGenerator, options_of_generator
from options import of_method
from training.method import Update
from training.trainer import Trainer


def lsgan(logits: Tensor, target: float) -> Tensor:
    """Least-squares GAN term: the mean of (logits - target)^2 over one head's map."""
    return (logits - target).square().mean()


class NICE(Trainer):
    """Two generators, and two discriminators whose first layers encode."""

    options, defaults = of_method("nice")
    name_in_paper = "NICE-GAN"
    authors_steps = 100_000  # in the paper
    counts_biases = True  # as in the paper's Table 2
    inference_networks = {("A", "B"): ("disA", "gen2B"), ("B", "A"): ("disB", "gen2A")}

    # ------------------------------------------------------------------------------------ networks

    def build(self, a) -> dict[str, nn.Module]:
        E_args = dict(shared=a.shared_layers, ra=a.ra)
        G_args = dict(n_blocks=a.n_res, img_size=a.img_size, light=a.light, shared=a.shared_layers)
        G_args |= dict(recompute=self.args.checkpoint_blocks)
        # G[d] generates pictures of domain d, D[d] judges them, E[d] encodes them
        self.G = {d: ResnetGenerator(a.img_ch, a.img_ch, a.ch, **G_args) for d in "AB"}
        self.D = {d: Discriminator(a.img_ch, a.ch, a.n_dis, heads=a.heads, **E_args) for d in "AB"}
        self.E = self.D
        self.size_bound = not a.light
        self.size_multiple = 2 ** max(2, a.shared_layers)
        nets = {"gen2B": self.G["B"], "gen2A": self.G["A"], "disA": self.D["A"], "disB": self.D["B"]}
        if not a.nice:
            self.E = {d: Encoder(a.img_ch, a.ch, attention=0 in a.heads, **E_args) for d in "AB"}
            nets |= {"encA": self.E["A"], "encB": self.E["B"]}
            self.inference_networks = {(s, t): (f"enc{s}", f"gen2{t}") for s, t in NICE.directions}
        for G in self.G.values():  # fastest for convolutions, which cost most
            G.to(memory_format=torch.channels_last)
        return nets

    def trained(self) -> dict[str, list[nn.Parameter]]:
        """D trains encoders and classifiers, G the generators; in ablations G trains encoders too."""
        updates = self.architecture["encoder_updates"] if self.architecture["nice"] else "d"
        everything, heads, encoders = [], [], []  # fc, the CAM head, counts as a classifier
        for d in "AB":
            for name, p in self.D[d].named_parameters():
                everything.append(p)
                (encoders if name.startswith(("model", "conv1x1", "lamda")) else heads).append(p)
        G = [p for t in "BA" for p in self.G[t].parameters()]  # as in existing optimizer states
        if self.E is not self.D:
            G += [p for d in "AB" for p in self.E[d].parameters()]
        return {"D": heads if updates == "g" else everything, "G": G if updates == "d" else G + encoders}

    gen2A = property(lambda self: self.G["A"])
    gen2B = property(lambda self: self.G["B"])
    disA = property(lambda self: self.D["A"])
    disB = property(lambda self: self.D["B"])
    D_optim = property(lambda self: self.optimizers["D"])
    G_optim = property(lambda self: self.optimizers["G"])

    # ----------------------------------------------------------------------------- one training step

    def updates(self):
        return (
            Update("D", self.discriminator_objective, total="d_loss"),  # the encoder learns here,
            Update("G", self.generator_objective, total="g_loss"),  # and not here
        )

    def before(self, update: str):
        for net in {*self.D.values(), *self.E.values()}:
            net.power_iteration(2)  # for an update's two passes, real (0) and fake (1); depends on weights only

    def discriminator_objective(self, batch, s, t):
        """Tell real from fake in domain t: the target of every head is 1 on real and 0 on generated images."""
        with torch.no_grad():  # G is frozen: no graph needed
            fake = self.G[t](self.E[s].encode(batch[s], iteration=(0,)))
        # real and fake in one batch: the weights are read once, each has its own sigma
        judged = self.D[t](torch.cat((batch[t], fake)), iteration=(0, 1))
        terms = {}
        for head, logits in judged.heads().items():
            on_real, on_fake = logits.chunk(2)
            terms[f"d_{head}_{t}"] = lsgan(on_real, 1) + lsgan(on_fake, 0)
        return self.args.adv_weight * sum(terms.values()), terms

    def generator_objective(self, batch, s, t):
        """From domain s: fool D of t (adversarial), translate back (cycle), reconstruct (reconstruction)."""
        args, D, E, G = self.args, self.D, self.E, self.G
        z = E[s].encode(batch[s], iteration=(0,))
        fake = G[t](z)
        judged = D[t](fake, iteration=(1,))
        z_fake = judged.z if E[t] is D[t] else E[t].encode(fake, iteration=(1,))
        cyc, rec = G[s](torch.cat((z_fake, z))).chunk(2)  # in one batch
        adversarial = {f"g_{head}_{t}": lsgan(logits, 1) for head, logits in judged.heads().items()}
        cycle, recon = F.l1_loss(cyc, batch[s]), F.l1_loss(rec, batch[s])
        loss = args.adv_weight * sum(adversarial.values()) + args.cycle_weight * cycle + args.recon_weight * recon
        return loss, {**adversarial, f"cycle_{s}": cycle, f"recon_{s}": recon}

    # ----------------------------------------------------------------------------------- translation

    def inference_keys(self, s: str, t: str) -> dict[str, tuple[str, ...]]:
        """The encoder of a discriminator, with the raw weights of the CAM head, which attention uses; the generator."""
        encoder, generator = self.inference_networks[s, t]
        return {encoder: ("model.", "fc.weight_orig", "conv1x1.", "lamda"), generator: ("",)}

    def translate(self, x: Tensor, s: str, t: str) -> Tensor:
        return self.G[t](self.E[s].encode(x))

    def visuals(self, x, s, t):
        """Input, its code as a heatmap in JET colours, reconstruction, translation, cycle."""
        z = self.E[s].encode(x)
        fake = self.G[t](z)
        heatmap = jet(z[0].sum(0, keepdim=True), x.shape[-1])[None]
        return [x, heatmap, self.G[s](z), fake, self.G[s](self.E[t].encode(fake))]

    # -------------------------------------------------------------------------- options, checkpoints

    @classmethod
    def check(cls, args) -> str | None:
        deepest = (args.img_size // 3).bit_length() + 1  # S / 2^(n-2) >= 3
        if deepest < 6:
            return f"--img_size {args.img_size} is too small: the shallowest discriminator, --n_dis 6, needs 48"
        if args.n_dis > deepest:
            return f"--n_dis {args.n_dis} is too deep for --img_size {args.img_size}, which allows {deepest}"
        if not args.nice and args.encoder_updates != "d":
            return "--nice false trains its encoders with the generators: leave --encoder_updates out"
        return None

    @classmethod
    def from_released(cls, found):
        """Checkpoints of the released program: one dict."""
        names = ("gen2B", "gen2A", "disA", "disB")
        return found if all(isinstance(found.get(name), dict) for name in names) else None

    @classmethod
    def infer_options(cls, networks):
        dis, gen = networks["disA"], networks["gen2B"]
        first = dis["model.1.weight_orig"]
        found = {"ch": first.shape[0], "img_ch": first.shape[1], **options_of_generator(gen)}
        if "conv1.weight_orig" in dis:  # without the global head the depth does not show
            layers = sum(bool(re.fullmatch(r"(model|Dis0_0|Dis1_0)\.\d+\.weight_orig", k)) for k in dis)
            found["n_dis"] = layers + 2  # Dis1_1 and conv1
        return found

    def summary_modules(self):
        D, G, E = self.D["A"], self.G["A"], self.E["A"]
        ((*_, picture), *_) = super().summary_modules()
        found = [("discriminators", ["disA", "disB"], D, D, picture)]
        found.append(("generators", ["gen2A", "gen2B"], G, G, E.eval().encode(picture)))
        if E is not D:
            found.append(("independent encoders", ["encA", "encB"], E, E.encode, picture))
        return found
