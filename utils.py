"""Shared helpers: error types and exit codes, signals, atomic file writes.

Imports nothing slow: it is needed before torch is imported.
"""

import errno
import hashlib
import itertools
import os
import re
import secrets
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path


class UserError(Exception):
    """Bad input: its message is one line that names the file or option and the remedy.

    The programs print it without a traceback and exit with `status`.
    """

    status = 2
    follows = False  # the consequence of an error in another rank, which reports it


class RunError(UserError):
    """The run, not the input, failed: a full disk, a lost process.  Exit status 1."""

    status = 1


class DiskError(RunError):
    """The disk is full or broken."""


SAFE = {"torch": (2, 10), "pillow": (12, 3), "tqdm": (4, 66, 3)}  # as in requirements.txt


def run(program, name: str):
    """Call program() and turn its errors and signals into one line on stderr and an exit status.

    2: bad input; 1: the run failed; 128 + number: stopped by a signal.
    """
    unwinding()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # names of files may be no UTF-8
            stream.reconfigure(errors="backslashreplace")
    warn_of_holes()
    try:
        program()
        sys.stdout.flush()
    except UserError as error:
        fail(name, str(error), error.status, error.follows)
    except (Stopped, KeyboardInterrupt) as error:  # outside the training loop, which finishes its step
        number = getattr(error, "number", 2)
        say_stopped(name, number)
        sys.exit(128 + number)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        remedies = {"main.py": "lower --batch_size or --img_size; --phase info tells what a training takes"}
        remedy = (remedies | {"fid_kid.py": "lower --batch-size"}).get(name, "close other programs")
        fail(name, f"out of memory ({brief(error)}): {remedy}", RunError.status)
    except BrokenPipeError:  # whoever read stdout wants no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(RunError.status)
    except OSError as error:  # that nothing nearer has explained
        kind = DiskError if error.errno in DISK_ERRORS else UserError
        where = f"{shown(error.filename)}: " if error.filename is not None else ""
        fail(name, f"{where}{brief_os(error)}; check that file, its permissions and the disk", kind.status)


def warn_of_holes():
    """Print one line if a package is older than the versions without known holes (requirements.txt)."""
    from importlib import metadata

    old = []
    for package, least in SAFE.items():
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(package)
            if tuple(int(n) for n in re.findall(r"\d+", version)[: len(least)]) < least:
                old.append(f"{package} {version}")
    if old and process_rank() == 0:
        print(f"{' and '.join(old)}: this version has known security holes; pip install -r "
              f"{own_file('requirements.txt')} brings a newer one", file=sys.stderr)  # fmt: skip


def own_file(name: str) -> str:
    """A file of this program, such as fid_kid.py, as a word of a command that is typed in the current folder."""
    path = Path(__file__).resolve().parent / name
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def brief_os(error: OSError) -> str:
    """What the system says of an OSError, without the name of the file."""
    return error.strerror or brief(error)


def out_of_memory(error: Exception) -> bool:
    """Whether the machine or a GPU ran out of memory."""
    kinds = (MemoryError, getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError))
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def brief(error: Exception) -> str:
    """A foreign exception's message, shortened to a part of a line."""
    text = f"there is no {error.args[0]}" if isinstance(error, KeyError) and error.args else str(error)
    return shown(" ".join(text.split())[:160] or type(error).__name__)


def shown(path) -> str:
    """`path` as text for a message of one line: quoted and escaped only if it is not printable."""
    text = str(path)
    return text if text.isprintable() else repr(text)


# -------------------------------------------------------------------------------------- exit, signals

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
SAVE = getattr(signal, "SIGUSR1", None)
GRACE = 10  # seconds that a rank waits for another one to report the error


class Stopped(BaseException):
    """Raised by a signal, so that half-written files are cleaned up."""

    def __init__(self, number: int):
        self.number = number


def process_rank() -> int:
    """This process's rank under torchrun; 0 if it is alone."""
    world, number = (os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "RANK"))
    return int(number) if world.isdecimal() and int(world) > 1 and number.isdecimal() else 0


def fail(program: str, message: str, status: int = 2, follows: bool = False):
    """Exit with one line on stderr.  follows: the error is that another rank has exited.

    Rank 0 reports an error of all ranks.  The others wait for torchrun to end them, which it does once rank 0
    has exited, and report only if it did not.  A rank that follows lets the failed one report first.
    """
    number, message = process_rank(), one_line(message)
    if follows and number == 0:
        if "TORCHELASTIC_RUN_ID" in os.environ and not stop_heard.is_set():  # torchrun ends the others by SIGTERM
            on_stops(lambda *_: stop_heard.set())
            stop_heard.wait(GRACE)
    elif number:
        on_stops(signal.SIG_DFL)
        time.sleep(GRACE / 2)
    line = f"{program}: error: {message}"
    _tell_torchrun(line)
    print(f"{line} (rank {number})" if number else line, file=sys.stderr, flush=True)
    sys.exit(status)


def one_line(text: str) -> str:
    """The text with unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _tell_torchrun(line: str):
    """Hand torchrun this line for its report of the failure, below which it would be lost."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        import json

        with suppress(OSError), open(file, "x") as f:
            json.dump({"message": line, "timestamp": int(time.time())}, f)


stop_heard = threading.Event()  # a signal has asked for a stop


def on_stops(handler):
    with suppress(ValueError):  # not in the main thread, where no handler can be set
        for number in STOPS:
            signal.signal(number, handler)


def at_once(program: str, answer=None):
    """Call answer(words of the command line); from now on signals end the program, as imports half-write nothing."""

    def leave(number, _frame):
        say_stopped(program, number)
        os._exit(128 + number)

    on_stops(leave)
    try:
        answer and answer(sys.argv[1:])
    except UserError as error:
        fail(program, str(error))
    except OSError:  # a path that may not be looked at: reading it says why
        pass


def unwinding():
    """From now on SIGINT and SIGTERM raise Stopped; SIGUSR1, which asks a training to save, is ignored."""

    def leave(number, _frame):
        stop_heard.set()
        on_stops(signal.SIG_DFL)  # a second one ends at once
        raise Stopped(number)

    on_stops(leave)
    if SAVE:
        with suppress(ValueError):
            signal.signal(SAVE, signal.SIG_IGN)


def say_stopped(program: str, number: int):
    """Print one line, from rank 0 only, by a call that is safe in a signal handler."""
    if process_rank() == 0:
        with suppress(OSError):
            os.write(2, f"{program}: stopped by {signal.Signals(number).name}\n".encode())


# --------------------------------------------------------------------------------------------- files


def open_regular(path):
    """Open a regular file for reading bytes.  OSError: it is a pipe or a device, whose reading might never end."""
    waits_not = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | waits_not))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file")
    return file


def content_of(path) -> bytes:
    """The content of a regular file.  OSError: as open_regular."""
    with open_regular(path) as file:
        return file.read()


def text_of(path, errors="strict") -> str:
    """The text of a regular file in UTF-8.  OSError; UnicodeDecodeError, a ValueError."""
    return content_of(path).decode("utf-8", errors)


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def writing(path: Path):
    """Turn an OSError into one line: DiskError if the disk is full or broken, else UserError."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {shown(path)}: {brief_os(error)}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskError(f"{message}; free some space and start again") from None
        if error.errno == errno.EIO:
            raise DiskError(f"{message}; check the disk and start again") from None
        raise UserError(f"{message}; check the folder and its permissions, or choose another") from None


@contextmanager
def atomic(path: Path):
    """Write a file atomically: a temporary path, synced to disk and renamed to `path` at the end.

    Its name cannot be guessed, and it is new: no link is followed.  What killed processes have left in the folder is
    deleted.  Into a pipe or device, such as /dev/stdout, the finished content is copied.
    UserError, DiskError: it cannot be written; the temporary file is deleted and `path` is unchanged.
    """
    handle = temporary = None
    with writing(path):
        try:
            special = path.exists() and (not path.is_file() or Path("/dev") in path.absolute().parents)
            folder = Path(tempfile.gettempdir()) if special else path.parent
            folder.mkdir(parents=True, exist_ok=True)
            clear(folder)
            handle, temporary = _temporary(folder, path.name)
            yield temporary
            if special:
                path.write_bytes(temporary.read_bytes())
                temporary.unlink()
            else:
                os.fsync(handle)
                os.replace(temporary, path)
        except BaseException:
            if temporary:
                with suppress(OSError):
                    temporary.unlink()
            raise
        finally:
            if handle is not None:
                os.close(handle)


TEMPORARY = re.compile(r"\.[0-9a-f]{16}(\.[0-9a-f]{16})?\.tmp")  # the part in brackets was not there at first
_cleared = set()  # folders, by this process


def _temporary(folder: Path, name: str) -> tuple[int, Path]:
    """A new file for one of this name, locked as long as this process has it open: its descriptor and path."""
    # a short name: it may already have the 255 bytes that file systems allow
    digest = hashlib.sha1(os.fsencode(name)).hexdigest()[:16]
    while True:
        path = folder / f".{digest}.{secrets.token_hex(8)}.tmp"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(ImportError, OSError):  # Windows and some network file systems have no such locks
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # another process has cleared it in between
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle, path
        os.close(handle)


def clear(folder: Path):
    """Delete temporary files and folders that nobody has locked; once in a process, as folders may be large."""
    if folder in _cleared:
        return
    _cleared.add(folder)
    with suppress(ImportError, OSError):
        import fcntl

        for path in [entry.path for entry in os.scandir(folder) if TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError):
                is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
                access = os.O_RDONLY if is_folder else os.O_RDWR
                handle = os.open(path, access | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path) if is_folder else os.unlink(path)
                finally:
                    os.close(handle)


def parse_json(text: str | bytes):
    """The value in a JSON text.  ValueError: it is none, or nested too deeply."""
    import json

    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def move_aside(results: Path, paths: list[Path]) -> Path:
    """Move these files and folders to a new folder results/NAME/previous_1, or _2, ..., which is returned."""
    folder = next(p for n in itertools.count(1) if not (p := results / f"previous_{n}").exists())
    with writing(folder):
        folder.mkdir(parents=True)
        for path in paths:
            for below, _, _ in os.walk(path):  # what killed processes left is not kept
                clear(Path(below))
            place = folder / (path.relative_to(results) if path.is_relative_to(results) else path.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    return folder


# ------------------------------------------------------------------------------------------ networks


@contextmanager
def frozen(parameters):
    """Inside, gradients flow through these parameters' layers but not into the parameters."""
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
