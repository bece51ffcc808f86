"""Options: how one is declared, typed, read from a file and shown; and those that every method has."""

import argparse
import difflib
import math
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import stopping

# --------------------------------------------------------------------------------- kinds of values


def boolean(text: str) -> bool:
    """true/false, yes/no, 1/0 in any case."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def resuming(text: str) -> bool | str:
    """A boolean, or "auto"."""
    return "auto" if text.lower() == "auto" else boolean(text)


def bounded(kind, low, high=None, above=False):
    """A number of the given kind in [low, high], or (low, high] with above."""
    high = high if high is not None else 2**63 - 1 if kind is int else math.inf

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not low <= value <= high or (above and value == low) or not math.isfinite(value):
            least = f"{'above' if above else 'at least'} {low}"
            finite = " and finite" if not math.isfinite(value) else ""
            most = f"at most {high}"
            raise argparse.ArgumentTypeError(f"{text} must be {most if high < value < math.inf else least + finite}")
        return value

    parse.__name__ = kind.__name__
    return parse


positive, natural = bounded(int, 1), bounded(int, 0)
weight, rate = bounded(float, 0), bounded(float, 0, above=True)


def name(text: str) -> str:
    """A data set's name: one folder below --dataset_dir and --result_dir, never a path out of them."""
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no folder name")
    return text


def folder(text: str) -> str:
    """The path of a folder or file."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path; . is the working folder")
    if len(os.fsencode(text)) > 4000 or any(len(os.fsencode(part)) > 255 for part in text.split(os.sep)):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}... is too long for a path")
    return text


def data_set(text: str) -> str:
    """A data set's name, or the path of its folder, whose last part is the name."""
    path = text.rstrip("/" + os.sep)
    name(os.path.basename(path))
    return folder(path)


# --------------------------------------------------------------------------------------- options


class Option(NamedTuple):
    """One option: `--name VALUE`, read by `kind`, listed under `group` in --help.

    What is in the group "model" decides which networks are built: a checkpoint keeps it for good.
    """

    group: str
    name: str
    kind: Callable
    default: object
    help: str
    choices: tuple | None = None
    metavar: str | None = None


COMMON = (
    Option("run", "phase", str, "train", "what to do", choices=("train", "test", "info", "export")),
    Option("run", "dataset", data_set, "cat2dog", "folder of --dataset_dir, or any path, that holds trainA and trainB, "
           "and testA and testB to translate", metavar="NAME"),
    Option("run", "result_dir", folder, "results", "where results/NAME is written", metavar="DIR"),
    Option("run", "resume", resuming, False, "continue from the newest valid checkpoint; auto: where there is one"),
    Option("run", "checkpoint", folder, None, "continue or translate with this checkpoint; best and latest are the "
           "run's own", metavar="FILE"),
    Option("run", "device", str, None, "cuda, cuda:1, mps or cpu; by default the best present", metavar="DEVICE"),
    Option("run", "seed", natural, 0, "of the initial weights, the order of pictures and random codes"),
    Option("run", "benchmark_flag", boolean, False, "let cuDNN time its algorithms (fixed sizes: faster)"),
    Option("run", "raw_weights", boolean, False, "translate with the weights themselves, also where --ema has kept "
           "their average"),
    Option("run", "keep_size", boolean, False, "translate at each picture's own size, where the networks can"),
    Option("run", "direction", str, None, "translate only this way; methods of one direction learn it",
           choices=("AtoB", "BtoA")),
    Option("run", "input", folder, None, "with --phase test: translate this picture, all pictures below this folder, "
           "or those of a 'pattern' with * and ?, in place of the test folders; each at its own size, unless "
           "--keep_size false", metavar="FILE|FOLDER|GLOB"),
    Option("run", "output", folder, None, "the folder that translations of --input are written to; of --phase export "
           "the file, or its folder", metavar="PATH"),
    Option("run", "tile", natural, None, "rows of a picture that are translated at a time; 0: all of them. By default "
           "all that memory allows. Normalisations and pooling take their statistics of the whole picture, summed over "
           "all tiles beforehand: the result is the same but for rounding", metavar="ROWS"),
    Option("run", "format", str, "weights", "of --phase export: weights for this program; onnx; pt2 for torch.export",
           choices=("weights", "onnx", "pt2")),
    Option("run", "half", boolean, False, "export weights in half precision (computing stays in float32)"),
    Option("data", "dataset_dir", folder, "dataset", "where the data sets are", metavar="DIR"),
    Option("data", "img_size", positive, 256, "pictures are trained as squares of this side, in pixels"),
    Option("data", "img_ch", positive, 3, "channels: 3 for colour, 1 for grey", choices=(1, 3)),
    Option("data", "batch_size", positive, 1, "pictures of each domain in a step, per process"),
    Option("data", "num_workers", bounded(int, 0, 256), 2,
           "processes that read and decode pictures; 0: in the main one"),
    Option("data", "cache", boolean, False, "keep decoded pictures in memory, where they fit"),
    Option("data", "skip_bad_images", boolean, False, "leave unreadable pictures out instead of stopping"),
    Option("model", "ch", positive, 64, "base channels"),
    Option("optimisation", "iteration", positive, 100_000, "training steps"),
    Option("optimisation", "lr", rate, 1e-4, "learning rate"),
    Option("optimisation", "weight_decay", weight, 0.0, "L2 penalty in the gradient"),
    Option("optimisation", "decay_flag", boolean, True, "let the learning rate fall as the method's authors do"),
    Option("optimisation", "grad_accum", positive, 1, "micro-batches of batch_size pictures averaged into one step"),
    Option("optimisation", "ema", bounded(float, 0, 0.999999), 0.0, "keep a moving average of the weights that "
           "translate, which then translates and is scored, such as 0.999; 0: none"),
    Option("optimisation", "on_nan", str, "stop", "at a loss or gradient that is not finite",
           choices=("stop", "skip")),
    Option("logging", "print_freq", positive, 1000, "steps between sample grids and latest checkpoints"),
    Option("logging", "save_freq", positive, 100_000, "steps between numbered checkpoints"),
    Option("logging", "log_freq", positive, 100, "steps between lines of log.jsonl"),
    Option("logging", "keep", natural, 0, "keep only the last KEEP numbered checkpoints; 0: all", metavar="KEEP"),
    Option("logging", "score_freq", natural, 0, "steps between scores of the translated test pictures, also made at "
           "the end; 20 times scoring_seconds x steps_per_second of the log cost 5%% of the time; 0: none"),
    Option("logging", "best", str, None, "the score whose best step is kept in results/NAME_params_best.pt, such as "
           "kid_B2A; by default the mean KID, or the KD where Inception's weights are missing", metavar="SCORE"),
    Option("logging", "tensorboard", boolean, False, "write losses, scores and samples for TensorBoard as well"),
    Option("scale", "amp", str, "none", "mixed precision", choices=("none", "bf16", "fp16")),
    Option("scale", "compile", boolean, False, "compile each half of a step as one graph: less than two minutes at the "
           "first start on two cores, half of one at later ones; for a GPU: a CPU's steps take half as long again"),
    Option("scale", "graphs", boolean, None, "replay each step as one CUDA graph, so that no GPU waits for Python; by "
           "default wherever that can be"),
    Option("scale", "plain", boolean, False, "compute every layer by its definition: slower, the same numbers"),
)  # fmt: skip

# of methods that draw one picture in many styles; what translate.Styled asks for
STYLES = (
    Option("run", "styles", bounded(int, 1, 1000), 1, "answers to each picture, in random styles; from 2 on "
           "NAME_style0.png, NAME_style1.png, ...; the authors' test programs draw 10 (MUNIT) and 5 (DRIT)"),
    Option("run", "style_from", folder, None, "translate in the style of this picture, an example of the domain to "
           "draw; without it styles are random, the same for the same picture and --seed", metavar="PICTURE"),
)  # fmt: skip


# ---------------------------------------------------------------------------------- option files


class BadFile(Exception):
    """An option file that cannot be read; its message names file and line."""


def expanded(argv: list[str], around: tuple[Path, ...] = ()) -> list[str]:
    """The words of argv, in place of each @FILE those in it: one option a line, # starts a comment.

    BadFile: there is no such file, or a line that makes no sense.
    """
    words = []
    for word in argv:
        if word.startswith("@"):
            words += _words(Path(word[1:]), around)
        else:
            words.append(word)
    return words


def _words(file: Path, around) -> list[str]:
    if file in around:
        raise BadFile(f"option file {file} contains itself")
    try:
        if not file.is_file():
            what = "no file" if file.exists() else "not there"
            raise BadFile(f"option file {file} is {what}; a value that begins with @ is written --option=@value")
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except (OSError, ValueError) as error:
        raise BadFile(f"option file {file}: {getattr(error, 'strerror', None) or error}") from None
    words = []
    for number, line in enumerate(lines, 1):
        try:
            if b"\0" in line:
                raise ValueError("a NUL byte")
            words += expanded(shlex.split(line.decode(), comments=True), (*around, file))
        except UnicodeDecodeError as error:
            raise BadFile(f"option file {file}, line {number}: byte {line[error.start]:#x} is no UTF-8") from None
        except ValueError as error:  # shlex's: No closing quotation, No escaped character
            reason = str(error)[0].lower() + str(error)[1:]
            remedy = "; quote an apostrophe: \"it's\"" if "quotation" in reason else ""
            raise BadFile(f"option file {file}, line {number}: {reason}{remedy}") from None
    return words


# ---------------------------------------------------------------------------------------- parser

# what other programs of the kind call things, and what does it here
HABITS = {
    "--dataset NAME": "name path data data_path data_dir dataset_name data_name data_root",
    "--dataset PATH, the folder with trainA and trainB": "dataroot root input_dir",
    "--result_dir": "checkpoints_dir results_dir save_dir sample_dir log_dir",
    "--output": "output_path output_dir out",
    "--input": "source input_path test_path img_path image",
    "--device cuda:0 or cpu, and torchrun for several GPUs": "gpu_ids gpu_id gpu gpus cuda no_cuda use_cuda ngpu",
    "--batch_size": "batchSize batch batchsize train_batch_size",
    "--num_workers": "nThreads num_threads workers n_cpu threads n_workers",
    "--resume True, which knows where it stopped": "epoch_count continue_train start_epoch resume_iter load_iter "
    "starting_epoch which_epoch",
    "--iteration": "niter n_epochs epochs num_epochs n_iters max_iter iterations steps total_iters epoch niter_decay "
    "n_epochs_decay epoch_decay",
    "--img_size": "load_size loadSize crop_size fineSize image_size imageSize imsize size resolution",
    "--img_ch": "input_nc output_nc channels in_channels",
    "--ch": "ngf ndf n_filters dim",
    "--method": "model trainer netG",
    "--direction": "which_direction dir a2b",
    "--print_freq": "display_freq sample_freq log_interval sample_interval image_save_iter image_display_iter",
    "--save_freq": "save_epoch_freq save_latest_freq snapshot_save_iter checkpoint_interval save_interval",
    "--phase test": "test eval inference translate",
    "--checkpoint": "load pretrained weights ckpt load_path model_path resume_path",
    "--cycle_weight": "lambda_A lambda_B lambda_cyc cycle_lambda",
    "--recon_weight": "lambda_identity lambda_idt lambda_id lambda_rec",
    "--score_freq": "eval_freq eval_every fid_freq metrics_freq evaluation_freq val_freq",
    "--ema 0.999": "use_ema ema_decay ema_beta",
    "--tensorboard true": "use_tensorboard tb use_tb",
    "--decay_flag": "lr_policy lr_decay lr_decay_iters",
    "--amp": "fp16 mixed_precision bf16 use_amp",
    "--seed": "random_seed manual_seed manualSeed",
    "--dataset and the like; @FILE reads options from a file": "config cfg opts",
}
HABITS = {there: here for here, words in HABITS.items() for there in words.split()}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each option's default, where it has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Answers a mistake in one line, without all the options before it; reads option files (@FILE)."""

    def error(self, message):
        stopping.fail(self.prog, message)

    def parse_known_args(self, args=None, namespace=None):
        words = list(sys.argv[1:] if args is None else args)
        try:
            words = expanded(words) if self.fromfile_prefix_chars else words
        except BadFile as error:
            self.error(str(error))
        return super().parse_known_args(words, namespace)

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}; --help lists the options{self._guess(unknown)}")
        return found

    def _guess(self, unknown: list[str]) -> str:
        """What the first of them may have meant."""
        asked = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        if not asked and all(os.path.lexists(word) for word in unknown):
            return "; a pattern has to be quoted: --input '*.jpg'"
        ours = [word for action in self._actions for word in action.option_strings]
        habit = HABITS.get(asked.lstrip("-"), "")
        if habit.split(" ")[0].rstrip(",") in ours:
            return f"; here that is {habit}"
        return "".join(f"; did you mean {word}?" for word in difflib.get_close_matches(asked, ours, 1, 0.75))

    def add(self, options, defaults=None):
        """Add these Options under their groups; defaults: values that stand for the declared ones."""
        groups = {}
        for o in options:
            if o.group not in groups:
                groups[o.group] = self.add_argument_group(o.group)
            more = {"choices": o.choices} if o.choices else {}
            if o.kind in (boolean, resuming):  # a bare --flag means true
                more |= dict(nargs="?", const=True, metavar="BOOL" if o.kind is boolean else "BOOL|auto")
            elif not o.choices:
                more["metavar"] = o.metavar or getattr(o.kind, "__name__", "").upper()
            default = (defaults or {}).get(o.name, o.default)
            more["help"] = o.help if default is None else f"{o.help} (default: %(default)s)"
            groups[o.group].add_argument(f"--{o.name}", type=o.kind, default=default, **more)


def as_argv(options: dict) -> list[str]:
    """What one would type for these options."""
    words = {k: ",".join(map(str, v)) if isinstance(v, (tuple, list)) else v for k, v in options.items()}
    return [f"--{k}={v}" for k, v in words.items() if v is not None]
