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

from images.decode import read_image, resize, size_of, to_tensor
from images.memory import machine_memory
from images.scales import measured
from utils import UserError, shown

MARGIN = 30  # training pictures are resized to (S + MARGIN)^2, then cropped to S^2


def scaled_size(size, preprocess, load_size, least):
    """The (width, height) to which a picture of `size`, also (width, height), is resized before the crop.

    resize_and_crop: a square of load_size; scale_and_crop: the shorter side becomes load_size; crop: unchanged, unless
    a side is shorter than `least`: then the shorter side becomes `least`.
    """
    if preprocess == "resize_and_crop":
        return load_size, load_size
    shorter, longer = sorted(size)
    if preprocess == "crop":
        if shorter >= least:
            return size
        load_size = least
    longer = load_size * longer // shorter  # cut, as torchvision does
    return (load_size, longer) if size[0] <= size[1] else (longer, load_size)


def centre(pixels, side):
    """The window in the centre of (H,W,C) pixels: (side,side,C).  Rounded as torchvision's CenterCrop."""
    top, left = (round((length - side) / 2) for length in pixels.shape[:2])
    return pixels[top:top + side, left:left + side]


def crop_and_flip(pixels, side, rng, flip=True):
    """A random window of (H,W,C) pixels, with `flip` mirrored half the time: (side,side,C).

    The paper flips before it resizes. A flip commutes with the resize, and the window is uniform, so flipping
    last gives the same distribution, and the resized picture can be cached.
    """
    top, left = rng.integers(0, np.array(pixels.shape[:2]) - side, endpoint=True)
    window = pixels[top:top + side, left:left + side]
    return window[:, ::-1] if flip and rng.random() < 0.5 else window


class UnpairedStream:
    """Endless batches {"A": (N,C,S,S), "B": (N,C,S,S)}, float32 in [-1,1], the domains unpaired.

    Sample k of a domain is a pure function of (seed, domain, k): its epoch is k // n, and the order of an
    epoch's n samples and the picture, window and flip of each sample have random generators of their own. So
    `position`, the number of samples consumed by all processes, is the whole state: a stream started there
    continues exactly alike, with any number of threads, processes or batches read ahead.

    paths       {"A": list[Path], "B": list[Path]}, neither empty
    batch_size  N, per process; of each batch_size * world consecutive samples rank r takes the r-th part
    workers     threads that read and decode ahead; 0: next() reads and decodes
    cache       keep resized pictures in memory if they take at most half of what is free
    channels    3 for RGB, 1 for luma
    samples     class that makes the samples: Samples or a subclass
    scales      {"A": scale of the domain's deep pictures, "B": ...}, by default measured on `paths`
    pictures    how they are made: load_size, resample, preprocess, flip, sampling, counted, as of Samples

    next() raises a UserError for a picture that cannot be read. `close` (or leaving a `with`) stops the
    threads; the next next(), also after setting `position`, starts new ones.
    """

    def __init__(self, paths, img_size, batch_size, seed=0, position=0, workers=2, cache=False,
                 rank=0, world=1, pin_memory=False, channels=3, samples=None, scales=None, **pictures):
        self._samples = (samples or Samples)(paths, img_size, channels, seed, scales=scales, **pictures)
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

    load_size   side that pictures are resized to before the crop, by default S + MARGIN
    resample    filter of the resize: "bilinear" or "bicubic"
    preprocess  as in scaled_size
    flip        mirror half of the samples
    sampling    "shuffle": an epoch of a domain has each of its pictures once.  The others have epochs of the larger
                domain's length.  "cyclegan": their numbers, shuffled, modulo the count of the domain `counted`; the
                other domain with replacement.  "drit": the larger domain shuffled, the smaller with replacement.

    Several threads may call `batch` at once.
    """

    def __init__(self, paths, img_size, channels, seed, load_size=None, resample="bilinear",
                 preprocess="resize_and_crop", flip=True, sampling="shuffle", counted="A", scales=None):
        load_size = load_size or img_size + MARGIN
        if preprocess != "crop" and load_size < img_size:
            raise UserError(f"pictures of {load_size} pixels have no windows of {img_size}: "
                            f"use a load_size of at least the img_size, {img_size}")
        self.paths = {domain: list(paths[domain]) for domain in "AB"}
        self.img_size, self.channels, self.seed = img_size, channels, seed
        self.load_size, self.resample, self.preprocess, self.flip = load_size, resample, preprocess, flip
        if sampling == "drit":
            counted = "B" if len(self.paths["B"]) > len(self.paths["A"]) else "A"
        self.counted = None if sampling == "shuffle" else counted  # the domain that is not drawn with replacement
        self.scales = scales or {domain: measured(paths[domain]) for domain in "AB"}
        self.cache = {}  # domain: pixels (H,W,C) uint8 of each picture, or None until it is read

    def batch(self, size, start):
        """Samples start, ..., start + size - 1 of both domains: (size,2,S,S,C) uint8."""
        return np.stack([[self.sample(domain, k) for domain in "AB"] for k in range(start, start + size)])

    def sample(self, domain, k):
        """Sample k of one domain, a pure function: (S,S,C) uint8."""
        return self.view(domain, self.index(domain, k), np.random.default_rng((self.seed, ord(domain), 1, k)))

    def index(self, domain, k):
        """The number of the picture that sample k of a domain shows."""
        n = self.count(domain)
        if self.counted and domain != self.counted:
            return np.random.default_rng((self.seed, ord(domain), 2, k)).integers(n)
        length = max(map(self.count, "AB")) if self.counted else n
        epoch, place = divmod(k, length)
        return _order(self.seed, domain, epoch, length)[place] % n

    def count(self, domain):
        """Pictures, or other things to show, of a domain."""
        return len(self.paths[domain])

    def view(self, domain, index, rng):
        """A random view of picture `index`: (S,S,C) uint8."""
        return crop_and_flip(self.pixels(domain, index), self.img_size, rng, self.flip)

    def scaled(self, size):
        """(width, height) of a picture of that size after the resize."""
        return scaled_size(size, self.preprocess, self.load_size, self.img_size)

    def pixels(self, domain, index):
        """Picture `index` of a domain, resized: (H,W,C) uint8."""
        if self.cache and self.cache[domain][index] is not None:
            return self.cache[domain][index]
        picture = read_image(self.paths[domain][index], self.scales[domain])
        pixels = resize(picture, self.scaled(picture.size), self.channels, self.resample)
        if self.cache:  # two threads may come here at once: they keep the same bytes
            self.cache[domain][index] = pixels
        return pixels

    def make_cache(self, copies, quiet):
        """Prepare a cache of every picture, filled on first use, if `copies` of it fit half the free memory."""
        files = [path for paths in self.paths.values() for path in paths]
        if self.preprocess == "resize_and_crop":
            pixels = len(files) * self.load_size**2
        else:
            pixels = sum(width * height for width, height in map(self.scaled, map(size_of, files)))
        needed = copies * self.channels * pixels
        _, free = machine_memory()
        if needed <= free / 2:
            self.cache = {domain: [None] * len(paths) for domain, paths in self.paths.items()}
        elif not quiet:
            print(f"pictures are not kept in memory: they take {needed / 2**30:.1f} GiB, more than half of "
                  f"the {free / 2**30:.1f} GiB free", file=sys.stderr)


def report_enlarged(paths, img_size):
    """Print how many of the pictures {"A": paths, "B": paths} have a side too short for the crop."""
    for files in paths.values():
        small = [path for path in files if min(size_of(path)) < img_size]
        if small:
            print(f"{len(small)} of the {len(files)} pictures in {shown(small[0].parent)} have a side shorter than the "
                  f"crop, {img_size} pixels: they are enlarged", file=sys.stderr)


@lru_cache(maxsize=8)
def _order(seed, domain, epoch, n):
    """The shuffled picture numbers of one epoch: (n,) int64."""
    return np.random.default_rng((seed, ord(domain), 0, epoch)).permutation(n)
