"""When and how a picture is translated in bands; translation/tiling/maps.py explains the method."""

import torch

from images.memory import machine_memory
from translation.tiling.layers import banded
from translation.tiling.maps import Map, Plan

ROUGHLY = 64  # bytes per pixel and base channel: above the measured need of every method
KEPT, BAND = 0.45, 0.12  # shares of the free memory: for kept maps, and for one band


def tiled(trainer, x: torch.Tensor, s: str, t: str) -> torch.Tensor | Map:
    """A picture x (1,C,H,W) of domain s to translate to t: unchanged, or as a Map."""
    plan = plan_for(trainer, x.shape)
    return x if plan is None else banded(x, plan)


def plan_for(trainer, shape) -> Plan | None:
    """The Plan for a picture of this shape (1,C,H,W); None: it is not tiled.

    --tile is the number of rows in a band, 0 for no tiles; by default a picture is tiled if it may not fit in memory.
    """
    tile, (_, _, H, W) = trainer.args.tile, shape
    if tile == 0 or trainer.tiles_itself or trainer.size_bound:
        return None
    free = free_memory(trainer.device)
    if tile is None:
        needed = ROUGHLY * H * W * trainer.architecture["ch"]
        if needed < free:
            return None
        tile = min(max(16, 4 * int(H * BAND * free / needed / 4)), 1024)
    quiet = trainer.rank != 0 or trainer.args.phase == "train"
    return Plan(H, tile, KEPT * free, str(trainer.device), quiet)


def free_memory(device: torch.device) -> float:
    """Bytes of main or GPU memory that this process may still allocate."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else max(2**26, machine_memory()[1])
