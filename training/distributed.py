"""The processes of one training: which of them this is, what they average, what they agree on.

torchrun starts them; each draws its share of the pictures, and rank 0 alone writes.
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

BUCKET = 25 * 2**20  # bytes that one call averages: few calls, and others run meanwhile


class LostPeer(RunError):
    """Another rank is gone, which may have said why."""

    follows = True


def of_torchrun() -> dict[str, int | str] | None:
    """WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT as torchrun sets them; None: this process is alone.

    UserError: some of them without the others, or one that makes no sense.
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
    """The device of this process where --device is `name`: each of torchrun's has a GPU of its own.

    UserError: it cannot be.
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
def joined(device: str):
    """Inside, this process is one of those that torchrun started, if it did: NCCL for GPUs, gloo for CPUs.

    RunError: the others do not answer.
    """
    gpu = torch.device(device)
    if gpu.index is not None and gpu.type == "cuda":
        torch.cuda.set_device(gpu)  # else whatever names no GPU would wake up the first one
    found = of_torchrun()
    if found is None:
        yield
        return
    try:
        with Signals():  # it waits where Python's handlers are not heard
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
    """LostPeer, with the cause, where another rank of the training is gone; what else goes wrong stays as it is."""
    try:
        yield
    except RuntimeError as error:
        ours = isinstance(error, dist.DistError) or re.search(r"gloo|NCCL|by peer|[Bb]roken pipe", str(error))
        if isinstance(error, torch.OutOfMemoryError) or not ours:
            raise
        remedy = "start all again with --resume True"
        raise LostPeer(f"another process of this training is gone; {remedy} ({brief(error)})") from error


def average_over_processes(tensors: list[Tensor], world: int):
    """Average each of these tensors over all ranks, in place: one call for many of them."""
    sent = deque()
    with lost_peers():
        for bucket in buckets(tensors):
            flat = torch.cat([x.reshape(-1) for x in bucket])
            sent.append((dist.all_reduce(flat, async_op=True), flat, bucket))
            if len(sent) > 2:  # more copies than that are not alive at once
                _receive(*sent.popleft(), world)
        while sent:
            _receive(*sent.popleft(), world)


def _receive(work, flat: Tensor, bucket: list[Tensor], world: int):
    work.wait()
    flat /= world
    for x, mean in zip(bucket, flat.split([x.numel() for x in bucket]), strict=True):
        x.copy_(mean.view(x.shape))


def buckets(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors in order, in lists of one kind of number and of BUCKET bytes or a single tensor."""
    found, kind, room = [], None, 0
    for x in tensors:
        room -= x.nbytes
        if room < 0 or x.dtype != kind:
            found.append([])
            kind, room = x.dtype, BUCKET - x.nbytes
        found[-1].append(x)
    return found


def largest(*numbers: int) -> tuple[int, ...]:
    """The largest of each number over all ranks.  They meet on CPUs: no GPU is waited for."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return numbers
    asked = torch.tensor(numbers)
    with lost_peers():
        dist.all_reduce(asked, dist.ReduceOp.MAX)
    return tuple(asked.tolist())


def agree_on(what: str, number: int):
    """UserError: this number is not the same in all ranks."""
    high, low = largest(number, -number)
    if high != -low:
        raise UserError(f"the processes differ in the {what}, {-low} to {high}: let all see the same --result_dir")
