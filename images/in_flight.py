"""A bound on the pixels that all threads together decode at once: memory depends on the pictures, not on the cores."""

import threading
from contextlib import contextmanager

MOST = 128_000_000  # a picture of the largest size that is read, and some small ones


class Budget:
    """Up to `most` pixels at once; a larger picture is decoded alone."""

    def __init__(self, most: int = MOST):
        self.most, self.used = most, 0
        self._changed, self._mine = threading.Condition(), threading.local()

    @contextmanager
    def hold(self, pixels: int):
        """Wait until so many fit, and hold them.  Inside, the same thread does not wait again: it would for ever."""
        if getattr(self._mine, "holds", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self.used or self.used + pixels <= self.most)
            self.used += pixels
        self._mine.holds = True
        try:
            yield
        finally:
            self._mine.holds = False
            with self._changed:
                self.used -= pixels
                self._changed.notify_all()


budget = Budget()
