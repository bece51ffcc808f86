"""Tiny networks with nontrivial output, for the tests of tiles and of model files."""

from pathlib import Path

import torch
from test_methods import settings

import methods

WIDE = ("rho", "lamda", "noise.weight")


def lively(method: str, text: str = "", seed: int = 0, **more):
    """A trainer with random weights, large enough for its networks' output to vary, none left at zero."""
    torch.manual_seed(seed)
    model = methods.create(settings(method, text, **more))
    generator = torch.Generator().manual_seed(seed)
    for net in model.networks().values():
        net.eval()
        for name, p in net.named_parameters():
            with torch.no_grad():
                if name.endswith(WIDE):
                    p.uniform_(0.2, 0.8, generator=generator)
                elif p.dim() == 4 and p[0].numel() > 1 and p.shape[0] > 0:
                    p.normal_(0, (1.5 / p[0].numel()) ** 0.5, generator=generator)
    return model


def saved(folder: Path, method: str, text: str = "", name: str = "toy", **more) -> Path:
    """A checkpoint of such networks: folder/NAME_params_latest.pt."""
    model = lively(method, f"{text} --dataset {name} --result_dir {folder}", **more)
    model.step = 7
    model.save()
    return folder / f"{name}_params_latest.pt"
