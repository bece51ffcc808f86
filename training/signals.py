"""What signals do during a training: SIGUSR1 saves, SIGINT and SIGTERM stop after the step."""

import os
import signal
import socket
import threading
from contextlib import suppress

from utils import SAVE, STOPS, on_stops, say_stopped, stop_heard


class Signals:
    """What signals do in a training: SIGUSR1 asks for a save, SIGINT and SIGTERM for a stop after the step.

    Before `begun` is set, and at a second one, these end the process at once, also amid a long
    computation, where Python's handlers have to wait: a thread hears of them without waiting.
    """

    def __enter__(self):
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
        stop_heard.set()
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
            on_stops(signal.SIG_DFL)
            if SAVE:  # some send it to all processes of a job
                signal.signal(SAVE, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
