"""Distributed data parallel training: the processes that torchrun starts, and what they exchange.

Each process trains on its share of the pictures; only rank 0 writes.
"""

import os
import re
from collections import deque
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from training.signals import Signals
from utils import RunError, UserError, brief

BUCKET = 25 * 2**20  # bytes that one all_reduce averages: few calls, and they overlap


class LostPeer(RunError):
    """Another process is gone; it may have reported why."""

    follows = True


def of_torchrun() -> dict[str, int | str] | None:
    """WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT as set by torchrun; None for a single process.

    UserError: some are missing or invalid.
    """
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    found = {name: os.environ.get(name, "").strip() for name in names}
    if found["WORLD_SIZE"] in ("", "1"):
        return None
    remedy = "start all processes with torchrun, or unset WORLD_SIZE"
    if missing := [name for name in names if not found[name]]:
        raise UserError(f"WORLD_SIZE is {found['WORLD_SIZE']}, but {', '.join(missing)} not set: {remedy}")
    for name in set(names) - {"MASTER_ADDR"}:
        if not found[name].isdecimal():
            raise UserError(f"{name} is {found[name]!r}, no number: {remedy}")
        found[name] = int(found[name])
    if found["RANK"] >= found["WORLD_SIZE"]:
        raise UserError(f"RANK is {found['RANK']}, but WORLD_SIZE {found['WORLD_SIZE']}: {remedy}")
    return found


def own_device(name: str) -> str:
    """The device of this process for --device `name`: each process of torchrun has a GPU of its own.

    UserError: there is no such device.
    """
    kind, _, number = name.partition(":")
    numbered = not number or number == "0" or (kind == "cuda" and number.isdecimal())
    if kind not in ("cpu", "mps", "cuda") or not numbered or (kind == "mps" and not torch.backends.mps.is_available()):
        raise UserError(f"--device {name}: there is no such device here; try cpu")
    if kind != "cuda":
        return name
    gpus, found = torch.cuda.device_count(), of_torchrun()
    if found and number:
        raise UserError(f"--device {name} would put all processes on one GPU; --device cuda gives each its own")
    index = found["LOCAL_RANK"] if found else int(number or 0)
    if index >= gpus:
        more = f", one for each of torchrun's processes; use --nproc_per_node={gpus}" if found and gpus else "; try cpu"
        raise UserError(f"--device {name}: this machine has {gpus} CUDA GPUs{more}")
    return f"cuda:{index}" if found or number else name


@contextmanager
def process_group(device: str):
    """Inside, the processes that torchrun started form a process group: NCCL on GPUs, gloo on CPUs.

    RunError: the other processes do not answer.
    """
    gpu = torch.device(device)
    if gpu.index is not None and gpu.type == "cuda":
        torch.cuda.set_device(gpu)  # else calls without a device would initialise GPU 0
    found = of_torchrun()
    if found is None:
        yield
        return
    try:
        with Signals():  # init_process_group blocks Python's own handlers
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        place = f"{found['MASTER_ADDR']}:{found['MASTER_PORT']}"
        raise RunError(f"cannot join the other processes at {place}: {brief(error)}") from None
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def lost_peers():
    """Turn the error of a lost process into LostPeer, with the cause; other errors pass unchanged."""
    try:
        yield
    except RuntimeError as error:
        ours = isinstance(error, dist.DistError) or re.search(r"gloo|NCCL|by peer|[Bb]roken pipe", str(error))
        if isinstance(error, torch.OutOfMemoryError) or not ours:
            raise
        remedy = "start all again with --resume True"
        raise LostPeer(f"another process of this training is gone; {remedy} ({brief(error)})") from error


def average_over_processes(tensors: list[Tensor], world: int):
    """Average each of these tensors over all processes, in place, in buckets."""
    sent = deque()
    with lost_peers():
        for bucket in buckets(tensors):
            flat = torch.cat([x.reshape(-1) for x in bucket])
            sent.append((dist.all_reduce(flat, async_op=True), flat, bucket))
            if len(sent) > 2:  # at most three copies are alive
                _receive(*sent.popleft(), world)
        while sent:
            _receive(*sent.popleft(), world)


def _receive(work, flat: Tensor, bucket: list[Tensor], world: int):
    work.wait()
    flat /= world
    for x, mean in zip(bucket, flat.split([x.numel() for x in bucket]), strict=True):
        x.copy_(mean.view(x.shape))


def buckets(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors in order, in lists of one dtype and at most BUCKET bytes, or a single tensor."""
    found, dtype, room = [], None, 0
    for x in tensors:
        room -= x.nbytes
        if room < 0 or x.dtype != dtype:
            found.append([])
            dtype, room = x.dtype, BUCKET - x.nbytes
        found[-1].append(x)
    return found


def max_over_processes(*numbers: int) -> tuple[int, ...]:
    """The maximum of each number over all processes.  Exchanged by CPU: does not wait for GPUs."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return numbers
    values = torch.tensor(numbers)
    with lost_peers():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return tuple(values.tolist())


def agree_on(what: str, number: int):
    """UserError if this number differs between processes."""
    high, low = max_over_processes(number, -number)
    if high != -low:
        raise UserError(f"the processes differ in the {what}, {-low} to {high}: let all see the same --result_dir")
