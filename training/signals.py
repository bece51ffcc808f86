"""Signals during a training: SIGUSR1 saves, SIGINT and SIGTERM stop after the step."""

import os
import signal
import socket
import threading
from contextlib import suppress

from utils import SAVE, STOPS, say_stopped, stop_heard


class Signals:
    """Handlers of signals: SIGUSR1 requests a save, SIGINT and SIGTERM a stop after the step.

    Before `begun` is set, and at the second signal, SIGINT and SIGTERM end the process at once, even during a long
    computation, where Python's handlers would wait: a thread receives them by a wake-up socket.
    """

    def __enter__(self):
        self.begun = self.save = False
        self.stop = self.count = 0  # the number of the first stop signal; how many came
        self.handlers = {}
        wanted = dict.fromkeys(STOPS, self._stop) | ({SAVE: self._save} if SAVE else {})
        self.receiver, self.sender = socket.socketpair()
        self.sender.setblocking(False)
        with suppress(ValueError):  # not in the main thread
            self.wakeup_fd = signal.set_wakeup_fd(self.sender.fileno(), warn_on_full_buffer=False)
            self.handlers = {number: signal.signal(number, handler) for number, handler in wanted.items()}
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self):
        with suppress(OSError):
            while numbers := self.receiver.recv(16):
                for number in filter(STOPS.__contains__, numbers):
                    self.count += 1
                    if self.count > 1 or not self.begun:
                        say_stopped("\ntraining", number)  # \n: a progress bar is on the line
                        os._exit(128 + number)

    def _stop(self, number, _frame):
        stop_heard.set()
        self.stop = self.stop or number

    def _save(self, _number, _frame):
        self.save = True

    def requests(self) -> tuple[int, bool]:
        """(number of the stop signal or 0, whether a save was requested since the last call)."""
        save, self.save = self.save, False
        return self.stop, save

    def __exit__(self, *_):
        if self.handlers:
            signal.set_wakeup_fd(self.wakeup_fd)
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
        self.sender.close()  # ends the thread
        self.receiver.close()
