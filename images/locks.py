"""A file that one process alone holds."""

import os
from pathlib import Path


def lock(file, path: Path) -> bool | None:
    """Lock the open file of `path` until it is closed; the kernel frees it when the process ends.

    True: this process holds it.  False: another one does, or has deleted it.  None: Windows and some network file
    systems have no such locks.
    """
    try:
        import fcntl

        # not flock: child processes would inherit it, and may outlive a killed parent
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        return None
