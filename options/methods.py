"""The options of each method, and its defaults of the common ones.

They are declared apart from the methods so that --help and a mistake are answered before torch is imported.
"""

import argparse
from typing import NamedTuple

from options.option import Option, boolean, bounded, folder, natural, positive, positive_float, weight


class Declaration(NamedTuple):
    """What the command line knows of a method."""

    summary: str  # a sentence for --help
    options: tuple[Option, ...]
    defaults: dict  # values that replace the declared defaults of common options and of its own


def of_method(name: str) -> tuple[tuple[Option, ...], dict]:
    """(options, defaults) of a method."""
    return DECLARED[name].options, DECLARED[name].defaults


def heads(text: str) -> tuple[int, ...]:
    """Comma-separated subset of 0 (CAM), 1 (local), 2 (global)."""
    return _subset(text, (0, 1, 2), "0, 1 and 2")


# modules of CUT's generator whose outputs PatchNCE compares: 0 pixels, 4 and 8 before IN, 12, 16 blocks
NCE_LAYERS = (0, 4, 8, 12, 16)


def layer_numbers(text: str) -> tuple[int, ...]:
    """A comma-separated subset of NCE_LAYERS."""
    return _subset(text, NCE_LAYERS, ", ".join(map(str, NCE_LAYERS)))


def _subset(text: str, known: tuple[int, ...], names: str) -> tuple[int, ...]:
    """The sorted numbers of a comma-separated list."""
    try:
        chosen = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        chosen = ()
    if not chosen or not {*chosen} <= {*known}:
        raise argparse.ArgumentTypeError(f"{text!r} is no comma-separated list of {names}")
    return chosen


# CycleGAN's learning rate, by epochs
SCHEDULE = (
    Option("optimisation", "n_epochs", natural, 100, "epochs at the full learning rate"),
    Option("optimisation", "n_epochs_decay", natural, 100, "epochs over which the learning rate then falls linearly"),
    Option("optimisation", "steps_per_epoch", natural, 0, "steps per epoch; 0: --iteration / number of epochs"),
    Option("optimisation", "beta1", bounded(float, 0, 0.999999), 0.5, "Adam's beta1"),
)
EARLY_DECAY = Option(
    "optimisation", "early_decay", boolean, False, "let the learning rate fall one epoch earlier, and reach 0, as "
    "CycleGAN's program does since 2020, and those of GcGAN and DRIT on PyTorch 1.1 and newer")  # fmt: skip
SAME_STYLE = Option("run", "same_style", boolean, False, "draw one random style, or noise, for all pictures of a "
                    "call, such as the frames of a film, not one for each picture")  # fmt: skip
# translations that combine a content with one of many styles
STYLES = (
    Option("run", "styles", bounded(int, 1, 1000), 1, "translations of each picture, in random styles; from 2 on "
           "NAME_style0.png, NAME_style1.png, ...; the authors' test programs make 10 (MUNIT) and 5 (DRIT)"),
    Option("run", "style_from", folder, None, "use the style of this picture, an example of the target domain, for "
           "all of --styles; by default styles are random, the same for the same picture and --seed",
           metavar="PICTURE"),
    SAME_STYLE,
)  # fmt: skip
NICE = (
    Option("model", "light", boolean, True, "the paper's generator; false: the full one, for one img_size only"),
    Option("model", "n_res", natural, 6, "residual blocks of a generator; 4: the paper's NICE-GAN*"),
    Option("model", "n_dis", bounded(int, 6), 7, "layers of a discriminator, at least 6"),
    Option("model", "nice", boolean, True, "the discriminators encode; false: independent encoders"),
    Option("model", "ra", boolean, True, "residual in the attention; false: attention alone"),
    Option("model", "heads", heads, "0,1,2", "classifiers of a discriminator: 0 CAM, 1 local, 2 global"),
    Option("model", "shared_layers", int, 2, "layers of the discriminator that encode", choices=(1, 2, 3)),
    Option("model", "encoder_updates", str, "d", "the update that trains the encoder", choices=("d", "both", "g")),
    Option("loss", "adv_weight", weight, 1.0, "weight of the adversarial terms"),
    Option("loss", "cycle_weight", weight, 10.0, "weight of the cycle terms"),
    Option("loss", "recon_weight", weight, 10.0, "weight of the reconstruction terms"),
    Option("scale", "checkpoint_blocks", boolean, False, "recompute the residual blocks instead of storing them"),
)  # fmt: skip
CYCLEGAN = (
    Option("model", "n_res", natural, 9, "residual blocks of a generator; 6 in the paper at 128 pixels"),
    Option("loss", "lambda_A", weight, 10.0, "weight of the cycle A -> B -> A"),
    Option("loss", "lambda_B", weight, 10.0, "weight of the cycle B -> A -> B"),
    Option("loss", "lambda_identity", weight, 0.5, "weight of the identity loss relative to the cycle loss; 0 "
           "disables it"),
    Option("loss", "pool_size", natural, 50, "earlier fakes kept per domain for the discriminators; 0: none"),
    *SCHEDULE,
    EARLY_DECAY,
)  # fmt: skip
UGATIT = (
    Option("model", "light", boolean, True, "pool before the fully connected layers, as in NICE-GAN's Table 1; "
           "false: the full generator of U-GAT-IT's own paper, bound to its img_size"),
    Option("model", "n_res", natural, 4, "residual blocks of a generator, before and after the attention each"),
    Option("loss", "adv_weight", weight, 1.0, "weight of the adversarial terms"),
    Option("loss", "cycle_weight", weight, 10.0, "weight of the cycle terms"),
    Option("loss", "identity_weight", weight, 10.0, "weight of the identity terms"),
    Option("loss", "cam_weight", weight, 1000.0, "weight of the generators' class activation terms"),
)  # fmt: skip
CUT = (
    Option("model", "n_res", positive, 9, "residual blocks of the generator"),
    Option("model", "netF_nc", positive, 256, "length of the projected features"),
    Option("model", "nce_layers", layer_numbers, NCE_LAYERS, "layers that PatchNCE compares, a subset of 0,4,8,12,16"),
    Option("model", "shared_encoder", boolean, True, "encode the input with the generator's encoder and F; false: "
           "with an encoder and an F of its own"),
    Option("loss", "nce_decoder", boolean, True, "let PatchNCE train the decoder; false: the encoder and F alone"),
    Option("loss", "negatives", str, "internal", "negatives of PatchNCE: other patches of the picture (internal), "
           "keys of earlier pictures (external), or both", choices=("internal", "external", "both")),
    Option("loss", "lambda_GAN", weight, 1.0, "weight of the generator's adversarial term"),
    Option("loss", "lambda_NCE", weight, 1.0, "weight of PatchNCE"),
    Option("loss", "nce_idt", boolean, True, "add PatchNCE between x_B and G(x_B)"),
    Option("loss", "nce_T", positive_float, 0.07, "temperature of PatchNCE"),
    Option("loss", "num_patches", positive, 256, "patches of each layer that PatchNCE compares"),
    Option("loss", "flip_equivariance", boolean, False, "mirror the generator's input with probability 1/2"),
    *SCHEDULE,
    Option("optimisation", "init_gain", positive_float, 0.02, "gain of the initial weights"),
    Option("scale", "norm", str, "exact", "torch: PyTorch's, whose CPU gradient is wrong, as in the recordings",
           choices=("exact", "torch")),
)  # fmt: skip
GCGAN = (
    Option("model", "n_res", natural, 9, "residual blocks of a generator; 6 in the paper at 128 pixels"),
    Option("model", "share", boolean, True, "one generator for original and transformed pictures; false: one for "
           "each, the authors' choice for horse2zebra and summer2winter"),
    Option("loss", "geometry", str, "rot", "f: rot, 90 degrees clockwise, or vf, upside down", ("rot", "vf")),
    Option("loss", "lambda_G", weight, 1.0, "weight of the adversarial terms"),
    Option("loss", "lambda_AB", weight, 10.0, "weight of the geometry and identity terms together"),
    Option("loss", "lambda_gc", weight, 2.0, "weight of the geometry term within lambda_AB"),
    Option("loss", "identity", weight, 0.5, "weight of the identity terms within lambda_AB; 0 disables them"),
    Option("loss", "pool_size", natural, 50, "earlier fakes kept for each discriminator; 0: none"),
    *SCHEDULE,
    EARLY_DECAY,
)  # fmt: skip
DISTANCEGAN = (
    Option("model", "n_res", natural, 9, "residual blocks of a generator"),
    Option("model", "sides", str, "both", "directions to train; with one, only its generator and discriminator are "
           "built", choices=("both", "AtoB", "BtoA")),
    Option("loss", "self_distance", boolean, False, "compare the halves of each picture, not pairs of pictures"),
    Option("loss", "unnormalized_distances", boolean, False, "compare distances without normalising them by their "
           "domain's mean and std"),
    Option("loss", "max_items", positive, 900, "maximum number of batches per domain used to estimate the mean and "
           "std of distances"),
    Option("loss", "lambda_distance_A", weight, 1.0, "weight of the distance loss from A to B"),
    Option("loss", "lambda_distance_B", weight, 1.0, "weight of the distance loss from B to A"),
    Option("loss", "use_cycle_loss", boolean, False, "add CycleGAN's cycle loss"),
    Option("loss", "lambda_A", weight, 10.0, "weight of the cycle A -> B -> A, with --use_cycle_loss"),
    Option("loss", "lambda_B", weight, 10.0, "weight of the cycle B -> A -> B, with --use_cycle_loss"),
    Option("loss", "pool_size", natural, 50, "earlier fakes kept per domain for the discriminators; 0: none"),
    *SCHEDULE,
)  # fmt: skip
SHARED_CONTENT = (
    Option("model", "n_res", natural, 4, "residual blocks of an encoder and of a decoder"),
    Option("model", "n_downsample", positive, 2, "down-samplings by 2 from picture to content"),
    Option("model", "dis_dim", positive, 64, "base channels of a discriminator; --ch: of a generator"),
    Option("model", "n_layer", positive, 4, "down-samplings by 2 in a discriminator"),
    Option("model", "num_scales", positive, 3, "scales of a discriminator"),
    Option("loss", "gan_w", weight, 1.0, "weight of the adversarial terms"),
    Option("loss", "recon_x_w", weight, 10.0, "weight of the image reconstruction loss"),
    Option("optimisation", "step_size", positive, 100_000, "steps between drops of the learning rate"),
    Option("optimisation", "gamma", bounded(float, 0, 1), 0.5, "factor of each drop"),
)  # fmt: skip
MUNIT = (
    *SHARED_CONTENT,
    Option("model", "style_dim", positive, 8, "numbers in a style"),
    Option("model", "mlp_dim", positive, 256, "width of the MLP that maps a style to AdaIN parameters"),
    Option("loss", "recon_s_w", weight, 1.0, "weight of the style reconstruction loss"),
    Option("loss", "recon_c_w", weight, 1.0, "weight of the content reconstruction loss"),
    Option("loss", "recon_x_cyc_w", weight, 0.0, "weight of the cycle loss; authors' summer2winter: 10"),
    *STYLES,
)  # fmt: skip
UNIT = (
    *SHARED_CONTENT,
    Option("loss", "recon_kl_w", weight, 0.01, "weight of the KL terms of the codes"),
    Option("loss", "recon_x_cyc_w", weight, 10.0, "weight of the cycle loss; 0 disables it"),
    Option("loss", "recon_kl_cyc_w", weight, 0.01, "weight of the KL terms of the codes in cycles"),
)  # fmt: skip
DRIT = (
    Option("model", "concat", int, 1, "attributes are concatenated to the content (1) or modulate it (0)", (0, 1)),
    Option("model", "dis_scale", positive, 3, "scales of a discriminator"),
    Option("model", "dis_spectral_norm", boolean, False, "spectral norm in the image discriminators"),
    Option("loss", "no_ms", boolean, False, "no mode seeking, as in the ECCV paper"),
    Option("optimisation", "d_iter", positive, 3, "of every d_iter steps all but one train D^c only"),
    Option("optimisation", "n_ep", positive, 1200, "epochs of the schedule"),
    Option("optimisation", "n_ep_decay", bounded(int, -1), 600, "epoch at which the lr starts to fall; -1: never"),
    Option("optimisation", "lr_policy", str, "lambda", "linear decay, or a tenth every n_ep_decay epochs",
           ("lambda", "step")),
    Option("optimisation", "steps_per_epoch", natural, 0, "steps per epoch, of which the last two are full; "
           "0: --iteration / n_ep, without such steps"),
    EARLY_DECAY,
    *STYLES,
)  # fmt: skip
SINGLE = (  # of both methods of two single pictures
    Option("model", "netG", str, "stylegan2", "smallstylegan2: 2 residual blocks instead of 6, and no noise",
           choices=("stylegan2", "smallstylegan2")),
    Option("model", "ndf", positive, 8, "base channels of the discriminator"),
    Option("model", "D_size", natural, 0, "side of the tiles that the discriminator judges: 64, 128 or 256; 0: it "
           "judges whole crops"),
    SAME_STYLE,
    Option("data", "crops", str, "program", "how crops are scaled: program, by random_scale_max, width and height "
           "apart; paper, to a width of min_width to max_width, drawn at each step, proportions kept",
           choices=("program", "paper")),
    Option("data", "random_scale_max", bounded(float, 1), 3.0, "with --crops program: crops zoom between 1/this and 1"),
    Option("data", "min_width", positive, 384, "with --crops paper: the smallest width of the picture, in pixels"),
    Option("data", "max_width", positive, 1024, "with --crops paper: the largest one"),
    Option("loss", "lambda_R1", weight, 1.0, "weight of the discriminator's gradient penalty (R1)"),
    *SCHEDULE,
)  # fmt: skip
SINCUT = (
    *SINGLE,
    Option("model", "netF_nc", positive, 256, "length of the projected features"),
    Option("loss", "lambda_GAN", weight, 1.0, "weight of the generator's adversarial term"),
    Option("loss", "lambda_NCE", weight, 4.0, "weight of PatchNCE"),
    Option("loss", "lambda_identity", weight, 1.0, "weight of the identity loss"),
    Option("loss", "nce_T", positive_float, 0.07, "temperature of PatchNCE"),
    Option("loss", "num_patches", positive, 1, "patches of each crop; PatchNCE compares those of all crops"),
    Option("optimisation", "init_gain", positive_float, 0.02, "gain of the projection's initial weights"),
)
OF_CYCLES = ("lambda_A", "lambda_B", "lambda_identity", "pool_size")
SINCYCLEGAN = (*SINGLE, *(option for option in CYCLEGAN if option.name in OF_CYCLES))
RATES_OF_SINGLE = {"img_size": 64, "ch": 10, "batch_size": 16, "lr": 2e-3, "beta1": 0.0, "n_epochs": 8,
                   "n_epochs_decay": 8}  # epochs of 100,000 crops  # fmt: skip

DECLARED = {
    "nice": Declaration(
        "NICE-GAN: the first layers of the discriminators are the encoders.",
        NICE,
        {"weight_decay": 1e-4},
    ),
    "cyclegan": Declaration(
        "CycleGAN: translated there and back, a picture is itself again.",
        CYCLEGAN,  # horse2zebra: 200 epochs of 1334 pictures
        {"lr": 2e-4, "sampling": "cyclegan", "iteration": 266_800},
    ),
    "ugatit": Declaration("U-GAT-IT: attention guides generators and discriminators.", UGATIT, {"weight_decay": 1e-4}),
    "cut": Declaration(
        "CUT: one direction; a patch of the translation resembles the same patch of the input more than others.",
        CUT,  # horse2zebra: 400 epochs of 1334 pictures
        {"lr": 2e-4, "sampling": "cyclegan", "iteration": 533_600, "n_epochs": 200, "n_epochs_decay": 200},
    ),
    "fastcut": Declaration(
        "FastCUT: CUT in less time, without PatchNCE of pictures of the target domain.",
        CUT,
        {"lr": 2e-4, "sampling": "cyclegan", "iteration": 266_800, "n_epochs": 150, "n_epochs_decay": 50,
         "lambda_NCE": 10.0, "nce_idt": False, "flip_equivariance": True},
    ),
    "gcgan": Declaration(
        "GcGAN: one direction; the translation of a turned picture is the turned translation.",
        GCGAN,  # horse2zebra: 200 epochs of 167 steps
        {"lr": 2e-4, "batch_size": 8, "sampling": "cyclegan", "iteration": 33_400},
    ),
    "distancegan": Declaration(
        "DistanceGAN: pictures and their translations have the same distances.",
        DISTANCEGAN,  # horse2zebra: 200 epochs of 667 steps
        {"lr": 2e-4, "batch_size": 2, "iteration": 133_400, "preprocess": "scale_and_crop"},
    ),
    "munit": Declaration(
        "MUNIT: the domains share contents, each has styles; many translations of one picture.",
        MUNIT,
        {"iteration": 1_000_000, "weight_decay": 1e-4, "preprocess": "scale_and_crop"},
    ),
    "unit": Declaration(
        "UNIT: the domains share one latent space.",
        UNIT,
        {"iteration": 1_000_000, "weight_decay": 1e-4, "preprocess": "scale_and_crop"},
    ),
    "drit": Declaration(
        "DRIT++: the domains share contents, each has attributes; many translations of one picture.",
        DRIT,  # 1200 epochs of horse2zebra's 1334 pictures; D^c has a fraction of --lr
        {"img_size": 216, "batch_size": 2, "weight_decay": 1e-4, "sampling": "drit", "iteration": 800_400},
    ),
    "sincut": Declaration("SinCUT: CUT between two single pictures.", SINCUT, RATES_OF_SINGLE),
    "sincyclegan": Declaration("SinCycleGAN: CycleGAN between two single pictures.", SINCYCLEGAN, RATES_OF_SINGLE),
}  # fmt: skip
