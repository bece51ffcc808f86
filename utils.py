"""What the trainer needs besides mathematics: errors, files written whole, the log, the lock, signals, pictures."""

import errno
import hashlib
import io
import json
import math
import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image


class UserError(Exception):
    """Bad input: its message is one line that names the file or option and the remedy.

    The programs print it without a traceback and exit with `status`.
    """

    status = 2


class RunError(UserError):
    """The run, not the input, failed: a full disk, a lost process.  Exit status 1."""

    status = 1


def run(program, name: str):
    """Call program() and turn its errors into one line on stderr and an exit status."""
    try:
        program()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:  # outside the training loop, which finishes its step
        sys.exit(128 + signal.SIGINT)


def shown(path) -> str:
    """`path` as text for a message of one line: quoted and escaped only where it would not print."""
    text = str(path)
    return text if text.isprintable() else repr(text)


# --------------------------------------------------------------------------------------------- files


@contextmanager
def writing(path: Path):
    """Turn an OSError into one line: RunError where the disk is full or broken, else UserError."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {shown(path)}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(f"{message}; free some space and start again, a training with --resume True") from None
        if error.errno == errno.EIO:
            raise RunError(f"{message}; check the disk and start again, a training with --resume True") from None
        raise UserError(f"{message}; check the folder, or choose another --result_dir") from None


@contextmanager
def atomic(path: Path):
    """A temporary path beside `path`; complete and on disk, it takes path's name, else it vanishes.

    UserError, RunError: it cannot be written; what lay at `path` is as it was.
    """
    # a short name of its own: path.name may already have the 255 bytes a file system allows
    temporary = path.with_name(f".{hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


# --------------------------------------------------------------------------------------------- guard


class Guard:
    """Watches for losses and gradients that are not finite.

    It counts on the device, so that seeing costs no synchronisation; check() looks and raises.
    policy: "stop" at the first one, or "skip" the step's updates and stop after 10 such in a row.
    """

    LIMIT = 10

    def __init__(self, policy: str, device):
        self.policy = policy
        self.dropped = torch.zeros((), dtype=torch.long, device=device)  # steps, over the whole run
        self.in_row, self.first = torch.zeros_like(self.dropped), torch.zeros_like(self.dropped)
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.times, self.names = {}, {}  # by half of the step: how often each term was not finite

    def begin(self):
        """A step begins: nothing is wrong yet."""
        self.bad = torch.zeros_like(self.bad)

    def see(self, half: str, step: int, terms: dict) -> torch.Tensor:
        """Whether the update of this half of the step has to be dropped: it or a half before it went wrong."""
        flags = ~torch.isfinite(torch.stack([term.float() for term in terms.values()]))
        self.times[half], self.names[half] = self.times.get(half, 0) + flags, list(terms)
        self.bad = self.bad | flags.any()
        self.first = torch.where((self.first == 0) & self.bad, step, self.first)
        return self.bad

    def end(self):
        """The step is over: count it."""
        self.in_row = (self.in_row + 1) * self.bad
        self.dropped += self.bad

    def check(self):
        """UserError naming step and terms, if the policy says that the run ends here."""
        if self.first == 0 or (self.policy == "skip" and self.in_row < self.LIMIT):
            return
        pairs = [pair for half in self.names for pair in zip(self.names[half], self.times[half].tolist(), strict=True)]
        raise UserError(
            f"step {int(self.first)}: not finite: {', '.join(name for name, times in pairs if times)}; that update "
            f"was not made and the last checkpoint is good: lower --lr, or use --on_nan skip to drop such steps "
            f"(at most {self.LIMIT} in a row)"
        )

    def state(self) -> dict:
        return {"dropped": int(self.dropped), "in_row": int(self.in_row)}

    def load(self, state):
        for name, value in (state or {}).items():
            getattr(self, name).fill_(int(value))


# ---------------------------------------------------------------------------------------------- log


class Log:
    """results/NAME/log.jsonl: one JSON object a line, written in one system call each."""

    def __init__(self, path: Path, start: int):
        """Keep the valid lines up to step `start`; a killed run may have left later or torn ones."""
        kept = []
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                with suppress(ValueError, KeyError, TypeError):
                    if line.endswith(b"\n") and json.loads(line)["step"] <= start:
                        kept.append(line)
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, **values):
        """Append one line; what is not finite becomes null, as JSON has no NaN.  RunError: disk full."""
        values = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        with writing(self.file.name):
            end = self.file.seek(0, os.SEEK_END)
            try:
                if self.file.write(line) < len(line):  # the disk took only a part of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self.file.truncate(end)
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


# ------------------------------------------------------------------------------------ lock, signals


@contextmanager
def locked(folder: Path):
    """Only one training at a time in `folder`.  The kernel frees the lock when the process ends."""
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+")  # noqa: SIM115
    with handle:
        try:
            import fcntl

            # not flock: that would pass to the worker processes, which outlive a killed parent by seconds
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"another training runs in {shown(folder)}; wait for it, stop it, or choose another --result_dir"
            ) from None
        except (ImportError, OSError):  # Windows and some network file systems have no such locks: no protection there
            pass
        yield


class Signals:
    """SIGINT and SIGTERM ask for a stop after the step (a second one stops at once); SIGUSR1 for a save."""

    def __enter__(self):
        self.stop = self.save = False
        self.old = {}
        wanted = [("SIGINT", self._stop), ("SIGTERM", self._stop), ("SIGUSR1", self._save)]
        for name, handler in wanted:
            if hasattr(signal, name):
                with suppress(ValueError):  # not in the main thread: leave signals alone
                    number = getattr(signal, name)
                    self.old[number] = signal.signal(number, handler)
        return self

    def _stop(self, number, _frame):
        if self.stop:  # the default action: gone at once, whatever is under way
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.stop = True

    def _save(self, _number, _frame):
        self.save = True

    def asked(self) -> tuple[bool, bool]:
        """Whether a stop, and whether a save was asked for; a save only once."""
        save, self.save = self.save, False
        return self.stop, save

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------- pictures


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """(3 or 1,H,W) in [-1,1] -> (H,W,3) uint8."""
    x = ((x.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return x.permute(1, 2, 0).expand(-1, -1, 3).numpy()


def jet(heatmap: torch.Tensor, size: int) -> torch.Tensor:
    """(1,h,w) of any range -> (3,size,size) in [-1,1], lowest blue, highest red (MATLAB's JET)."""
    h = heatmap.detach().float().cpu()
    h = (h - h.min()) / (h.max() - h.min()).clamp_min(1e-12)
    h = torch.nn.functional.interpolate(h[None], (size, size), mode="bilinear", align_corners=False)[0, 0]
    channels = [(1.5 - (4 * h - centre).abs()).clamp(0, 1) for centre in (3, 2, 1)]
    return torch.stack(channels) * 2 - 1


def save_picture(array: np.ndarray, path: Path):
    """Write (H,W,3) uint8 in the format of path's suffix, JPEG at quality 95; atomic.  Errors as there."""
    kind = Image.registered_extensions()[path.suffix.lower()]
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    encoded = io.BytesIO()  # not straight to the disk: PIL hides why it could not write
    Image.fromarray(array).save(encoded, format=kind, **options)
    with atomic(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


# ------------------------------------------------------------------------------------------ networks


@contextmanager
def frozen(parameters):
    """Gradients flow through these parameters' layers but not into them."""
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


@contextmanager
def evaluating(networks):
    """Evaluation mode inside (no power iterations, no noise), training mode after."""
    networks = list(networks)
    for net in networks:
        net.eval()
    try:
        yield
    finally:
        for net in networks:
            net.train()


# ------------------------------------------------------------------------------------------ processes


@contextmanager
def lost_peers():
    """RunError where another rank of the training is gone."""
    try:
        yield
    except RuntimeError:  # what gloo and NCCL raise then
        raise RunError("another process of this training is gone; start all again with --resume True") from None



@contextmanager
def process_group(device: str):
    """Join the other processes that torchrun started, if it did: NCCL for GPUs, gloo for CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
