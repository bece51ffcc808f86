"""The parser: one-line errors, hints for option names of other programs, option files."""

import argparse
import difflib
import os
import shlex
import sys
from pathlib import Path

from options.files import OptionFileError, expanded
from options.option import BASICS, GROUPS, boolean, folder, resuming
from utils import fail

# our option, and what other programs of this field call it
OTHER_PROGRAMS = {
    "--dataset NAME": "name path data data_path data_dir dataset_name data_name data_root",
    "--dataset PATH, the folder with trainA and trainB": "dataroot root input_dir",
    "--result_dir": "checkpoints_dir results_dir save_dir sample_dir log_dir",
    "--output": "output_path output_dir out",
    "--input": "source input_path test_path img_path image",
    "--device cuda:0 or cpu, and torchrun for several GPUs": "gpu_ids gpu_id gpu gpus cuda no_cuda use_cuda ngpu",
    "--batch_size": "batchSize batch batchsize train_batch_size",
    "--num_workers": "nThreads num_threads workers n_cpu n_workers",
    "--resume True, which knows where it stopped": "epoch_count continue_train start_epoch resume_iter load_iter "
    "starting_epoch which_epoch",
    "--iteration": "n_iters max_iter iterations steps total_iters",
    "--epochs": "num_epochs max_epochs n_epochs niter epoch",
    "--epochs, the decay among them": "niter_decay n_epochs_decay epoch_decay",
    "--img_size": "crop_size fineSize image_size imageSize imsize size resolution",
    "--load_size": "loadSize resize_size new_size",
    "--flip false": "no_flip",
    "--sampling shuffle": "serial_batches",
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
OTHER_PROGRAMS = {there: here for here, names in OTHER_PROGRAMS.items() for there in names.split()}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one, never broken over two lines."""

    def _get_help_string(self, action):
        if action.default is None:
            return action.help
        return super()._get_help_string(action).replace("(default: %", "(default:\xa0%")

    def _split_lines(self, text, width):
        return [line.replace("\xa0", " ") for line in super()._split_lines(text, width)]


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage; takes no abbreviations; reads option files (@FILE)."""

    def __init__(self, *args, allow_abbrev=False, **more):
        super().__init__(*args, allow_abbrev=allow_abbrev, **more)
        self.register("type", Path, lambda text: Path(folder(text)))

    def error(self, message):
        fail(self.prog, message)

    def parse_known_args(self, args=None, namespace=None):
        words = list(sys.argv[1:] if args is None else args)
        try:
            words = expanded(words) if self.fromfile_prefix_chars else words
        except OptionFileError as error:
            self.error(str(error))
        return super().parse_known_args(words, namespace)

    def _check_value(self, action, value):
        """A value that is none of the choices: argparse's message, and what it may have meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            meant = difflib.get_close_matches(str(value), [str(choice) for choice in action.choices], 1)
            error.message += "".join(f"; did you mean {word}?" for word in meant)
            raise

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}; --help lists the options{self._guess(unknown)}")
        return found

    def _guess(self, unknown: list[str]) -> str:
        """A hint: what the first unknown word may have meant."""
        asked = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        if not asked and all(os.path.lexists(word) for word in unknown):
            return "; a pattern has to be quoted: --input '*.jpg'"
        ours = [word for action in self._actions for word in action.option_strings]
        habit = OTHER_PROGRAMS.get(asked.lstrip("-"), "")
        if habit.split(" ")[0].rstrip(",") in ours:
            return f"; here that is {habit}"
        longer = [word for word in ours if len(asked) > 3 and word.startswith(asked)]
        meant = longer if len(longer) == 1 else difflib.get_close_matches(asked, ours, 1, 0.75)
        return "".join(f"; did you mean {word}?" for word in meant)

    def add(self, options, defaults=None):
        """Add these Options under their groups; defaults: values that replace the declared defaults."""
        groups = {name: self.add_argument_group(name) for name in ("basics", *GROUPS.values())}
        for o in options:
            more = {"choices": o.choices, "metavar": o.metavar} if o.choices else {}
            if o.kind in (boolean, resuming):  # a bare --flag means true
                more |= dict(nargs="?", const=True, metavar="BOOL" if o.kind is boolean else "BOOL|auto")
            elif not o.choices:
                more["metavar"] = o.metavar or getattr(o.kind, "__name__", "").upper()
            default = (defaults or {}).get(o.name, o.default)
            group = groups["basics" if o.name in BASICS else GROUPS[o.group]]
            group.add_argument(f"--{o.name}", type=o.kind, default=default, help=o.help, **more)


def as_argv(options: dict) -> list[str]:
    """These options as words of a command line."""
    words = {k: ",".join(map(str, v)) if isinstance(v, (tuple, list)) else v for k, v in options.items()}
    return [f"--{k}={v}" for k, v in words.items() if v is not None]
