"""Unpaired training batches without end, a pure function of (seed, domain, sample number).

    paths  = {d: check_images(list_images(f"dataset/cat2dog/train{d}")) for d in "AB"}
    stream = UnpairedStream(paths, img_size=256, batch_size=1)
    batch  = next(stream)                       # {"A": (N,3,S,S), "B": (N,3,S,S)} in [-1,1]
"""

import sys
import time
from collections import deque
from concurrent.futures import Future
from functools import lru_cache, partial
from itertools import count
from queue import SimpleQueue
from threading import Thread

import numpy as np
import torch

from images.decode import read_image, resize, to_tensor
from images.scales import measured
from utils import UserError, machine_memory

MARGIN = 30  # training pictures are resized to (S + MARGIN)^2, then cropped to S^2


def crop_and_flip(pixels, side, rng):
    """A random window of (H,W,C) pixels, mirrored half the time: (side,side,C).

    The paper flips before it resizes. A flip commutes with the resize, and the window is uniform, so flipping
    last gives the same distribution, and the resized picture can be cached.
    """
    top, left = rng.integers(0, np.array(pixels.shape[:2]) - side, endpoint=True)
    window = pixels[top:top + side, left:left + side]
    return window[:, ::-1] if rng.random() < 0.5 else window


class UnpairedStream:
    """Endless batches {"A": (N,C,S,S), "B": (N,C,S,S)}, float32 in [-1,1], the domains unpaired.

    Sample k of a domain is a pure function of (seed, domain, k): its epoch is k // n, and the order of an
    epoch's n pictures and the window and flip of each sample have random generators of their own. So
    `position`, the number of samples consumed by all processes, is the whole state: a stream started there
    continues exactly alike, with any number of threads, processes or batches read ahead.

    paths       {"A": list[Path], "B": list[Path]}, neither empty
    batch_size  N, per process; of each batch_size * world consecutive samples rank r takes the r-th part
    workers     threads that read and decode ahead; 0: next() reads and decodes
    cache       keep resized pictures in memory if they take at most half of what is free
    channels    3 for RGB, 1 for luma
    load_size   side that pictures are resized to before the crop, by default S + MARGIN
    resample    filter of the resize: "bilinear" or "bicubic"
    samples     class that makes the samples: Samples or a subclass
    scales      {"A": scale of the domain's deep pictures, "B": ...}, by default measured on `paths`

    next() raises a UserError for a picture that cannot be read. `close` (or leaving a `with`) stops the
    threads; the next next(), also after setting `position`, starts new ones.
    """

    def __init__(self, paths, img_size, batch_size, seed=0, position=0, workers=2, cache=False,
                 rank=0, world=1, pin_memory=False, channels=3, load_size=None, resample="bilinear", samples=None,
                 scales=None):
        samples = samples or Samples
        load_size = load_size or img_size + MARGIN
        self._samples = samples(paths, img_size, channels, seed, load_size, resample, scales)
        if cache:
            self._samples.make_cache(copies=world, quiet=rank > 0)
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._workers, self._pin_memory = workers, pin_memory and torch.cuda.is_available()
        self._position, self._batches = position, None

    @property
    def position(self):
        """Samples of each domain received from the streams of all processes: int."""
        return self._position

    @position.setter
    def position(self, position):
        self.close()
        self._position = position

    def __iter__(self):
        return self

    def __next__(self):
        # kept only when all is well: after an error, what was read ahead no longer fits `position`
        batches, self._batches = self._batches or self._start(), None
        try:
            batch = next(batches)  # (N,2,S,S,C)
        except BaseException:
            batches.close()
            raise
        self._batches = batches
        self._position += self._batch_size * self._world
        tensors = map(to_tensor, np.moveaxis(batch, 1, 0))
        return dict(zip("AB", (x.pin_memory() for x in tensors) if self._pin_memory else tensors, strict=True))

    def close(self):
        batches, self._batches = self._batches, None
        if batches:
            batches.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _start(self):
        """An iterator of batches from the present position on, which can be closed."""
        starts = count(self._position + self._rank * self._batch_size, self._batch_size * self._world)
        make = partial(self._samples.batch, self._batch_size)
        return _ReadAhead(make, starts, self._workers) if self._workers else (make(start) for start in starts)


class _ReadAhead:
    """Iterator of make(start) for each of `starts`, in order, computed ahead by daemon threads.

    An exception in a thread is raised by the next() that asks for its result. Not a ThreadPoolExecutor:
    Python waits for its threads at exit, for ever if one hangs in a read.
    """

    def __init__(self, make, starts, threads):
        self._starts, self._tasks, self._results = starts, SimpleQueue(), deque()
        self.threads = [Thread(target=_work, args=(make, self._tasks), daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()
        for _ in range(2 * threads):
            self._submit()

    def _submit(self):
        self._results.append(Future())
        self._tasks.put((self._results[-1], next(self._starts)))

    def __next__(self):
        self._submit()
        return self._results.popleft().result()

    def close(self, patience=1.0):
        """Stop the threads after the samples they are at; wait `patience` seconds at most."""
        for future in self._results:
            future.cancel()
        for _ in self.threads:
            self._tasks.put(None)
        deadline = time.monotonic() + patience
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic()))

    def __del__(self):
        self.close(patience=0)


def _work(make, tasks):
    """Compute tasks (future, start) until None comes."""
    while task := tasks.get():
        future, start = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(make(start))
            except BaseException as error:
                future.set_exception(error)


class Samples:
    """Training samples made from picture files, with an optional cache of the resized pictures.

    Several threads may call `batch` at once.
    """

    def __init__(self, paths, img_size, channels, seed, load_size, resample, scales=None):
        if load_size < img_size:
            raise UserError(f"pictures of {load_size} pixels have no windows of {img_size}: "
                            f"use a load_size of at least the img_size, {img_size}")
        self.paths = {domain: list(paths[domain]) for domain in "AB"}
        self.img_size, self.channels, self.seed = img_size, channels, seed
        self.load_size, self.resample = load_size, resample  # L below
        self.scales = scales or {domain: measured(paths[domain]) for domain in "AB"}
        self.cache = {}  # domain: pixels (n,L,L,C) uint8, filled (n,) bool

    def batch(self, size, start):
        """Samples start, ..., start + size - 1 of both domains: (size,2,S,S,C) uint8."""
        return np.stack([[self.sample(domain, k) for domain in "AB"] for k in range(start, start + size)])

    def sample(self, domain, k):
        """Sample k of one domain, a pure function: (S,S,C) uint8."""
        n = self.count(domain)
        epoch, place = divmod(k, n)
        index = _order(self.seed, domain, epoch, n)[place]
        return self.view(domain, index, np.random.default_rng((self.seed, ord(domain), 1, k)))

    def count(self, domain):
        """Samples in an epoch of a domain; each epoch has every one once."""
        return len(self.paths[domain])

    def view(self, domain, index, rng):
        """A random view of sample `index` of an epoch: (S,S,C) uint8."""
        return crop_and_flip(self.pixels(domain, index), self.img_size, rng)

    def pixels(self, domain, index):
        """Picture `index` of a domain, resized: (L,L,C) uint8."""
        kept, filled = self.cache.get(domain, (None, None))
        if self.cache and filled[index]:
            return kept[index]
        picture = read_image(self.paths[domain][index], self.scales[domain])
        pixels = resize(picture, self.load_size, self.channels, self.resample)
        if self.cache:  # two threads may come here at once: they write the same bytes
            kept[index] = pixels
            filled[index] = True  # only now, when the pixels are there
        return pixels

    def make_cache(self, copies, quiet):
        """Allocate a cache of every picture, filled on first use, if `copies` of it fit half the free memory."""
        side = self.load_size
        needed = copies * side * side * self.channels * sum(map(len, self.paths.values()))
        _, free = machine_memory()
        if needed <= free / 2:
            for domain, paths in self.paths.items():
                pixels = np.empty((len(paths), side, side, self.channels), np.uint8)
                self.cache[domain] = pixels, np.zeros(len(paths), bool)
        elif not quiet:
            print(f"pictures are not kept in memory: they take {needed / 2**30:.1f} GiB, more than half of "
                  f"the {free / 2**30:.1f} GiB free", file=sys.stderr)


@lru_cache(maxsize=8)
def _order(seed, domain, epoch, n):
    """The shuffled picture numbers of one epoch: (n,) int64."""
    return np.random.default_rng((seed, ord(domain), 0, epoch)).permutation(n)
