"""What the trainer needs besides mathematics: errors, files written whole, the log, the lock, signals, pictures."""

import errno
import hashlib
import io
import json
import math
import os
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import stopping


class UserError(Exception):
    """Bad input: its message is one line that names the file or option and the remedy.

    The programs print it without a traceback and exit with `status`.
    """

    status = 2
    follows = False  # another rank of the training knows more


class RunError(UserError):
    """The run, not the input, failed: a full disk, a lost process.  Exit status 1."""

    status = 1


class DiskError(RunError):
    """Nothing can be written any more."""


def run(program, name: str):
    """Call program() and turn its errors and signals into one line on stderr and an exit status.

    2: bad input; 1: the run failed; 128 + number: stopped by a signal.
    """
    stopping.unwinding()
    try:
        program()
    except UserError as error:
        stopping.fail(name, str(error), error.status, error.follows)
    except (stopping.Stopped, KeyboardInterrupt) as error:  # outside the training loop, which finishes its step
        number = getattr(error, "number", 2)
        stopping.say_stopped(name, number)
        sys.exit(128 + number)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        remedy = "lower --batch_size or --img_size; --phase info tells what a training takes"
        stopping.fail(name, f"out of memory ({brief(error)}): {remedy}", RunError.status)


def out_of_memory(error: Exception) -> bool:
    """Whether memory, of the machine or of a GPU, was at an end."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def brief(error: Exception) -> str:
    """What an exception of others says, as a part of a line."""
    return shown(" ".join(str(error).split())[:160] or type(error).__name__)


def shown(path) -> str:
    """`path` as text for a message of one line: quoted and escaped only where it would not print."""
    text = str(path)
    return text if text.isprintable() else repr(text)


# --------------------------------------------------------------------------------------------- files


@contextmanager
def writing(path: Path):
    """Turn an OSError into one line: DiskError where the disk is full or broken, else UserError."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {shown(path)}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskError(f"{message}; free some space and start again") from None
        if error.errno == errno.EIO:
            raise DiskError(f"{message}; check the disk and start again") from None
        raise UserError(f"{message}; check the folder, or choose another --result_dir") from None


@contextmanager
def atomic(path: Path):
    """A temporary path beside `path`; complete and on disk, it takes path's name, else it vanishes.

    UserError, DiskError: it cannot be written; what lay at `path` is as it was.
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

    It counts on the device, in place, so that seeing costs no synchronisation and a CUDA graph can do it; check()
    looks and raises.  `now` is the number of the step, which whoever begins one sets.
    policy: "stop" at the first one, or "skip" the step's updates and stop after 10 such in a row.
    """

    LIMIT = 10

    def __init__(self, policy: str, device):
        self.policy = policy
        self.dropped = torch.zeros((), dtype=torch.long, device=device)  # steps, over the whole run
        self.in_row, self.first, self.now = (torch.zeros_like(self.dropped) for _ in range(3))
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.lost = []  # of this step, what an fp16 scaler dropped
        self.times, self.names = {}, {}  # by half of the step: how often each term was not finite

    def begin(self):
        """A step begins: nothing is wrong yet."""
        self.lost = []
        self.bad.zero_()

    def see(self, half: str, terms: dict) -> torch.Tensor:
        """Whether the update of this half of the step has to be dropped: it or a half before it went wrong."""
        flags = ~torch.isfinite(torch.stack([term.float() for term in terms.values()]))
        if half not in self.times:
            self.times[half], self.names[half] = torch.zeros_like(flags, dtype=torch.long), list(terms)
        self.times[half] += flags
        self.bad |= flags.any()
        self.first.copy_(torch.where((self.first == 0) & self.bad, self.now, self.first))
        return self.bad

    def overflowed(self, found: torch.Tensor):
        """An fp16 scaler has dropped an update where `found` is not 0, as it does at times: counted, and no mistake."""
        self.lost.append(found != 0)

    def end(self):
        """The step is over: count it."""
        self.in_row += 1
        self.in_row *= self.bad
        self.dropped += sum(self.lost, self.bad) > 0 if self.lost else self.bad

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

    @staticmethod
    def lines(path: Path) -> list[dict]:
        """The valid lines of a log; none where there is no such file."""
        return Log.parsed(path.read_bytes().splitlines()) if path.exists() else []

    @staticmethod
    def parsed(lines: list[str] | list[bytes]) -> list[dict]:
        """What the valid ones of a log's lines say."""
        found = []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                values = json.loads(line)
                values["step"] = int(values["step"])
                found.append(values)
        return found

    def write(self, **values):
        """Append one line; what is not finite becomes null, as JSON has no NaN.  DiskError: disk full."""
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

    def show(self, step: int, grids: dict[str, np.ndarray]):
        """The sample grids (H,W,3) uint8 of a step by name: nothing for this log, they are files."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


# --------------------------------------------------------------------------------------------- lock


@contextmanager
def locked(folder: Path):
    """Only one training at a time in `folder`.  The kernel frees the lock when the process ends.

    What is made for the lock goes again with an error that has left nothing else in the folder.
    """
    path, made = folder / ".lock", [p for p in (folder, *folder.parents) if not p.exists()]
    fresh = not path.exists()
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115
    with handle:
        try:
            import fcntl

            # not flock: that would pass to the worker processes, which outlive a killed parent by seconds
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not path.exists() or not os.path.samestat(os.fstat(handle.fileno()), path.stat())
        except (BlockingIOError, PermissionError):
            taken = True
        except (ImportError, OSError):  # Windows and some network file systems have no such locks: no protection there
            taken = fresh = False
        if taken:
            raise UserError(
                f"another training runs in {shown(folder)}; wait for it, stop it, or choose another --result_dir"
            )
        try:
            yield
        except UserError:
            if fresh and [p.name for p in folder.iterdir()] == [path.name]:
                with suppress(OSError):  # others may have come to need these folders
                    path.unlink()
                    for place in made:
                        place.rmdir()
            raise


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
    """Write (H,W,3) uint8 in the format of path's suffix, JPEG at quality 95; atomic.  Errors as there.

    Of (H,W,4) the last are opacities, which are left out where the format has none.
    """
    data = encoded(array, path.suffix)  # not straight to the disk: PIL hides why it could not write
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def encoded(array: np.ndarray, suffix: str) -> bytes:
    """What save_picture writes of (H,W,3 or 4) uint8 into a file whose name ends so."""
    kind = Image.registered_extensions()[suffix.lower()]
    if array.shape[2] == 4 and kind not in ("PNG", "WEBP", "TIFF", "TGA"):
        array = np.ascontiguousarray(array[..., :3])
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = io.BytesIO()
    Image.fromarray(array).save(data, format=kind, **options)
    return data.getvalue()


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


# ------------------------------------------------------------------------------------------- speed


def warn_of_slow_halves(args):
    """Say it once where --amp bf16 makes a processor slower, with what one convolution takes both ways."""
    if args.amp != "bf16" or torch.device(args.device).type != "cpu":
        return
    seconds = {kind: seconds_of_a_convolution(kind) for kind in (torch.float32, torch.bfloat16)}
    whole, half = seconds[torch.float32], seconds[torch.bfloat16]
    if half > whole:
        print(
            f"--amp bf16 is slower here, this processor has no such arithmetic: one convolution takes "
            f"{1000 * half:.1f} ms instead of {1000 * whole:.1f}, {half / whole:.1f} times as long; leave it out",
            file=sys.stderr,
        )


def seconds_of_a_convolution(kind: torch.dtype) -> float:
    """What 3x3, 64 to 64 channels, on 64 x 64 positions takes on the CPU, the best of five."""
    x, weight = torch.ones(1, 64, 64, 64, dtype=kind), torch.ones(64, 64, 3, 3, dtype=kind)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, weight)
        times.append(time.perf_counter() - start)
    return min(times[1:])
