"""Decoding where memory is short: many pictures at once, or one alone."""

import threading
from contextlib import contextmanager, suppress
from functools import wraps

from options import named
from utils import RunError, shown


class Turns:
    """Lets many decode at once, or one alone."""

    def __init__(self):
        self._changed, self._busy = threading.Condition(), 0

    @contextmanager
    def together(self):
        with self._changed:
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self):
        with self._changed:  # no other begins meanwhile
            self._changed.wait_for(lambda: self._busy == 0)
            yield


turns = Turns()


def decoding(function):
    """A function of a picture file.  Where memory runs out it is called once more, alone.

    RunError: there is too little memory for the picture alone; nothing is said against the file.
    """
    @wraps(function)
    def call(path, *args, **kwargs):
        with suppress(MemoryError), turns.together():
            return function(path, *args, **kwargs)
        try:
            with turns.alone():
                return function(path, *args, **kwargs)
        except MemoryError:
            fewer = named("fewer readers")
            raise RunError(f"memory is too small to decode {shown(path)}, even alone: free some, "
                           f"{f'give {fewer}, ' if fewer else ''}or make the picture smaller") from None

    return call
