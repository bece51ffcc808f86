"""--init_from: a new run that starts from the weights of a trained model, of this program or of a method's authors."""

import sys
from pathlib import Path

import torch

from checkpoints.contents import fitting, load_network, scales_in
from checkpoints.files import newest_checkpoint
from layers import power_iterations
from training.cuda_graphs import make_graph
from training.ema import make_ema
from utils import shown

ITERATIONS = 20  # power iterations for the spectral norms of a model file, which holds none


def start_from(trainer):
    """Load whichever networks the file or folder of --init_from holds; the others keep their random weights.

    Step, optimizers and schedule are those of a new run.  UserError: a network does not fit, or there is none.
    """
    named = trainer.args.init_from
    state, path = newest_checkpoint(Path(named), named, trainer.recognise, to_translate=True)
    there = [name for name in trainer.networks() if name in state]
    for name in there:
        if "metadata" in state:
            load_parts(trainer.networks()[name], state, name, path)
        else:
            load_network(trainer.networks()[name], state, name, path)
    trainer.scales = scales_in(state) or trainer.scales
    trainer.ema, trainer.graph = make_ema(trainer), make_graph(trainer)  # they copy the weights
    if trainer.rank == 0:
        anew = [name for name in trainer.networks() if name not in there]
        rest = f"; with random weights: {', '.join(anew)}" if anew else ""
        print(f"starting from the weights of {shown(path)}: {', '.join(there)}{rest}", file=sys.stderr)


@torch.no_grad()
def load_parts(net: torch.nn.Module, state: dict, name: str, path: Path):
    """Load the parts of a network that a model file holds; weights with folded spectral norms become weight_orig."""
    own, folded = net.state_dict(), False
    with fitting(path, name):
        for key, value in state[name].items():
            if key not in own:
                key, folded = key.removesuffix("weight") + "weight_orig", True
            if own[key].shape != value.shape or not value.isfinite().all():
                raise ValueError(f"{key} does not fit, or is not finite")
            own[key].copy_(value)
        if folded:
            power_iterations(net, ITERATIONS)
