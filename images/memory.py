"""The memory of this machine."""

import os
import re
from contextlib import suppress
from pathlib import Path


def machine_memory() -> tuple[float, float]:
    """(total, free) bytes of main memory for this process, within the limits of a container and of the process.

    inf: unknown.
    """
    total, free = [], []
    with suppress(AttributeError, ValueError, OSError):
        total.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, TypeError):
        text = Path("/proc/meminfo").read_text()
        total.append(1024 * int(re.search(r"MemTotal:\s*(\d+)", text)[1]))
        free.append(1024 * int(re.search(r"MemAvailable:\s*(\d+)", text)[1]))
    old = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for pair in (("memory.max", "memory.current"), old):  # of a container
        with suppress(OSError, ValueError):  # no limit reads "max"
            limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in pair)
            total.append(limit)
            free.append(limit - used)
    with suppress(ImportError, OSError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            free.append(limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    most = min(total, default=float("inf"))
    return most, max(0, min([*free, most]))
