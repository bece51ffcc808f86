"""When and how a picture is translated in tiles: bands as wide as the picture, without a seam (maps.py says why)."""

import os
import re
from contextlib import suppress
from pathlib import Path

import torch

import info
import tiled_layers  # noqa: F401  (what a Map can do)
from maps import Map, Plan, banded
from utils import evaluating


def tiled(trainer, x: torch.Tensor, s: str, t: str) -> torch.Tensor | Map:
    """A picture x (1,C,H,W) of domain s that is to be drawn in t: as it is, or to be computed in bands."""
    plan = plan_for(trainer, x.shape, s, t)
    return x if plan is None else banded(x, plan)


def plan_for(trainer, shape, s: str, t: str) -> Plan | None:
    """How a picture (1,C,H,W) of domain s is cut to be drawn in t; None: not at all.

    --tile says the rows of a band, 0 never to cut; else it is cut where the whole would not fit in memory.
    """
    tile, (_, _, H, W) = trainer.args.tile, shape
    if tile == 0 or trainer.tiles_itself or trainer.size_bound:
        return None
    free = free_memory(trainer.device)
    if tile is None:
        if ROUGHLY * H * W * trainer.architecture["ch"] < free:
            return None
        needed = untiled_memory(trainer, shape, s, t)
        if needed < WHOLE * free:
            return None
        tile = min(max(16, 4 * int(H * BAND * free / needed / 4)), 1024)
    quiet = trainer.rank != 0 or trainer.args.phase == "train"
    return Plan(H, tile, KEPT * free, str(trainer.device), quiet)


ROUGHLY = 64  # bytes a pixel and base channel, above what any method was measured to take
WHOLE, KEPT, BAND = 0.7, 0.45, 0.12  # of the free memory: for the whole picture, or for kept maps and for a band


def untiled_memory(trainer, shape, s: str, t: str) -> float:
    """Bytes that translating such a picture at once takes: feature maps alive together, and work space."""
    with info.countable(trainer.args), info.LiveBytes() as live, torch.device("meta"):
        dry = info.dry_run(trainer.args)
        dry.build_model(**trainer.architecture)
        x = torch.empty(shape)
        live.peak = before = live.now
        with evaluating(dry.networks().values()), torch.no_grad():
            dry.translate(x, s, t)
    return SPACE * (live.peak - before)


SPACE = 1.4  # convolutions' work space, and what the allocator cannot use


def free_memory(device: torch.device) -> float:
    """Bytes that this process may still take, of the machine or of a container or by a limit; on a GPU of its own."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with suppress(OSError, TypeError):
        found.append(1024 * int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]))
    old = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for pair in (("memory.max", "memory.current"), old):  # of a container
        with suppress(OSError, ValueError):  # no limit reads "max"
            limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in pair)
            found.append(limit - used)
    with suppress(ImportError, OSError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            found.append(limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    return max(2**26, min(found, default=info.physical_memory(str(device)) / 2))
