"""A line for what takes long and has no bar."""

import sys
import threading
from contextlib import contextmanager

from utils import one_line, process_rank

PATIENCE = 2  # seconds


@contextmanager
def telling(activity: str, when: bool = True):
    """Say on stderr what is being done inside, if it takes more than two seconds; when: whether it can take long."""
    timer = threading.Timer(PATIENCE, lambda: print(f"{one_line(activity)} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    if when and process_rank() == 0:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
