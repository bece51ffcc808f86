"""How the program leaves: what it says, with which status, and what a signal does meanwhile.

Imports nothing that takes long: it is there before torch is.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
SAVE = getattr(signal, "SIGUSR1", None)
GRACE = 10  # seconds that a rank leaves to those who know more


class Stopped(BaseException):
    """Raised by a signal, so that whatever is half-written is cleaned up."""

    def __init__(self, number: int):
        self.number = number


def rank() -> int:
    """This process's number among those that torchrun started; 0 also where it is alone."""
    world, number = (os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "RANK"))
    return int(number) if world.isdecimal() and int(world) > 1 and number.isdecimal() else 0


def fail(program: str, message: str, status: int = 2, follows: bool = False):
    """Leave with one line on stderr.  follows: what went wrong is that another rank has left.

    What goes wrong in all ranks is said by the first one alone: the others wait for torchrun to end them,
    which it does once the first has left, and speak only where it did not.  Who merely follows another's
    end lets that one speak before.
    """
    number, message = rank(), one_line(message)
    if follows and number == 0:
        _wait_for_a_stop()
    elif number:
        _on_stops(signal.SIG_DFL)
        time.sleep(GRACE / 2)
    line = f"{program}: error: {message}"
    _tell_torchrun(line)
    print(f"{line} (rank {number})" if number else line, file=sys.stderr, flush=True)
    sys.exit(status)


def one_line(text: str) -> str:
    """The text as it is, but for characters that would not print, which are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _wait_for_a_stop():
    """Until SIGTERM, by which torchrun ends the ranks that another one's failure has left behind."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not _heard.is_set():
        _on_stops(lambda *_: _heard.set())
        _heard.wait(GRACE)


def _tell_torchrun(line: str):
    """Its report of what failed shows this line, which would else be lost above it."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        import json

        with suppress(OSError), open(file, "x") as f:
            json.dump({"message": line, "timestamp": int(time.time())}, f)


# ------------------------------------------------------------------------------------------- signals

_heard = threading.Event()  # a signal has asked for a stop


def _on_stops(handler):
    with suppress(ValueError):  # not in the main thread: signals are somebody else's
        for number in STOPS:
            signal.signal(number, handler)


def at_once(program: str):
    """From now on SIGINT and SIGTERM end the program where it stands: while it imports, nothing is half-written."""

    def leave(number, _frame):
        say_stopped(program, number)
        os._exit(128 + number)

    _on_stops(leave)


def unwinding():
    """From now on SIGINT and SIGTERM raise Stopped; SIGUSR1, which asks a training to save, does nothing else."""

    def leave(number, _frame):
        _heard.set()
        _on_stops(signal.SIG_DFL)  # a second one ends at once
        raise Stopped(number)

    _on_stops(leave)
    if SAVE:
        with suppress(ValueError):
            signal.signal(SAVE, signal.SIG_IGN)


def say_stopped(program: str, number: int):
    """One line, by a call that may stand in a signal's handler; of several ranks only the first speaks."""
    if rank() == 0:
        with suppress(OSError):
            os.write(2, f"{program}: stopped by {signal.Signals(number).name}\n".encode())


class Signals:
    """What signals do in a training: SIGUSR1 asks for a save, SIGINT and SIGTERM for a stop after the step.

    Before `begun` is set, and at a second one, these end the process at once, also amid a long
    computation, where Python's handlers have to wait: a thread hears of them without waiting.
    """

    def __enter__(self):
        import socket  # takes long by the standards of this file

        self.begun = self.save = False
        self.stop = self.count = 0  # the number of the signal that asked; how many did
        self.old = {}
        wanted = dict.fromkeys(STOPS, self._stop) | ({SAVE: self._save} if SAVE else {})
        self.ear, self.mouth = socket.socketpair()
        self.mouth.setblocking(False)
        with suppress(ValueError):  # not in the main thread
            self.earlier = signal.set_wakeup_fd(self.mouth.fileno(), warn_on_full_buffer=False)
            self.old = {number: signal.signal(number, handler) for number, handler in wanted.items()}
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self):
        with suppress(OSError):
            while numbers := self.ear.recv(16):
                for number in filter(STOPS.__contains__, numbers):
                    self.count += 1
                    if self.count > 1 or not self.begun:
                        say_stopped("\ntraining", number)  # a progress bar has the line
                        os._exit(128 + number)

    def _stop(self, number, _frame):
        _heard.set()
        self.stop = self.stop or number

    def _save(self, _number, _frame):
        self.save = True

    def asked(self) -> tuple[int, bool]:
        """The signal that asked for a stop, or 0, and whether a save was asked for; a save only once."""
        save, self.save = self.save, False
        return self.stop, save

    def __exit__(self, *_):
        if self.old:
            signal.set_wakeup_fd(self.earlier)
            for number, handler in self.old.items():
                signal.signal(number, handler)
        self.mouth.close()  # which ends the thread
        self.ear.close()


def _forget():
    """In a process just forked: what it hears is not for the training, whose ear it has inherited."""
    with suppress(ValueError):
        if signal.set_wakeup_fd(-1) != -1:
            _on_stops(signal.SIG_DFL)
            if SAVE:  # some send it to all processes of a job
                signal.signal(SAVE, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
