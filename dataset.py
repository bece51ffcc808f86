"""Pictures: find them, read them as upright RGB, and feed them to the training for ever.

    paths  = {d: check_images(list_images(f"dataset/cat2dog/train{d}")) for d in "AB"}
    stream = UnpairedStream(paths, img_size=256, batch_size=1)
    batch  = next(stream)                       # {"A": (N,3,S,S), "B": (N,3,S,S)} in [-1,1]
"""

import os
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from functools import lru_cache
from itertools import count
from multiprocessing import Pipe, Process

import numpy as np
import torch

from images import decode
from images.decode import read_image, resize, to_tensor
from utils import UserError, machine_memory

MARGIN = 30  # training pictures are resized to (S + MARGIN)^2, then cropped to S^2


def crop_and_flip(pixels, side, rng):
    """A random window of (H,W,C) pixels, mirrored half the time: (side,side,C).

    The paper flips before it resizes. A flip commutes with the resize and with the law of the window,
    so flipping last draws from the same distribution, and the resized picture can be kept.
    """
    top, left = rng.integers(0, np.array(pixels.shape[:2]) - side, endpoint=True)
    window = pixels[top:top + side, left:left + side]
    return window[:, ::-1] if rng.random() < 0.5 else window


class UnpairedStream:
    """Batches for ever: {"A": (N,C,S,S), "B": (N,C,S,S)} float32 in [-1,1], the domains unpaired.

    Sample number k of a domain is a pure function of (seed, domain, k): its epoch is k // n, and the
    order of an epoch's n pictures and the window and flip of each sample have generators of their
    own. So `position`, the number of samples consumed over all ranks, is the whole state: a stream
    started there goes on exactly alike, whatever the numbers of workers, ranks or prefetched batches.

    paths       {"A": list[Path], "B": list[Path]}, neither empty
    batch_size  N, per rank; of each batch_size * world consecutive samples rank r takes the r-th part
    workers     processes that decode ahead; 0 decodes in this one when asked
    cache       keep resized pictures in memory that the workers share, if half of what is free will do
    channels    3 for RGB, 1 for luma
    load_size   side that pictures are resized to before the crop, by default S + MARGIN
    resample    how they are resized: "bilinear" or "bicubic"
    samples     what makes the samples of them: Samples or a subclass

    Next raises a UserError on a picture that cannot be read and on the death of a worker. `close` (or
    leaving a `with`) stops the workers; reading on, also after setting `position`, starts new ones.
    """

    def __init__(self, paths, img_size, batch_size, seed=0, position=0, workers=2, cache=False,
                 rank=0, world=1, pin_memory=False, channels=3, load_size=None, resample="bilinear", samples=None):
        samples = samples or Samples
        self._samples = samples(paths, img_size, channels, seed, load_size or img_size + MARGIN, resample)
        if cache:
            self._samples.make_cache(copies=world, quiet=rank > 0)
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._workers, self._pin_memory = workers, pin_memory and torch.cuda.is_available()
        self._position, self._batches = position, None

    @property
    def position(self):
        """Samples of each domain that the user of the stream has received, over all ranks: int."""
        return self._position

    @position.setter
    def position(self, position):
        self.close()
        self._position = position

    def __iter__(self):
        return self

    def __next__(self):
        # Held here alone until all is well: after an error what was prefetched no longer fits `position`.
        batches, self._batches = self._batches or self._start(), None
        batch = next(batches)
        if isinstance(batch, Exception):
            raise batch
        self._batches = batches
        self._position += self._batch_size * self._world
        tensors = map(to_tensor, np.moveaxis(batch, 1, 0))
        return dict(zip("AB", (x.pin_memory() for x in tensors) if self._pin_memory else tensors, strict=True))

    def close(self):
        self._batches = None  # the workers are stopped when it goes

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _start(self):
        """An iterator of batches from the present position on."""
        first, stride = self._position + self._rank * self._batch_size, self._batch_size * self._world
        if self._workers:
            return _Workers(self._workers, self._samples, self._batch_size, first, stride)
        return self._samples.batches(self._batch_size, first, stride)


class _Workers:
    """An iterator of batches made ahead by processes: of W, number w makes the batches w, w + W, w + 2W, ...

    Each has a pipe of its own, and writing to it waits until the batch is asked for. So they share no
    lock, and the death of one, at whatever moment, is the end of its pipe. (The workers of a DataLoader
    share queues and hand their tensors over by sockets: killed at a bad moment, one leaves a traceback
    of those behind, or a training that waits for what never comes.)
    """

    def __init__(self, number, samples, size, first, stride):
        self.processes, self._pipes, self._turn = [], [], 0
        for w in range(number):
            pipe, end = Pipe(duplex=False)
            share = size, first + w * stride, number * stride
            process = Process(target=_work, args=(pipe, end, decode.levels, samples, *share), daemon=True)
            process.start()
            self.processes.append(process)
            self._pipes.append(pipe)
            end.close()  # so that the worker's is the only one

    def __next__(self):
        try:
            batch = self._pipes[self._turn].recv()
        except (EOFError, OSError) as error:
            raise UserError("a process that reads the pictures was killed, most likely for want of memory: "
                            "use fewer --num_workers or free some, then --resume True") from error
        self._turn = (self._turn + 1) % len(self._pipes)
        return batch

    def __del__(self):
        for process, pipe in zip(self.processes, self._pipes, strict=True):
            process.kill()  # it holds nothing
            process.join()
            pipe.close()


def _work(other_end, pipe, levels, samples, *share):
    decode.levels.update(levels)  # a spawned process inherits nothing
    other_end.close()  # a copy of the trainer's, which must be the only one: when that goes, writing fails
    if hasattr(os, "setpgrp"):  # Ctrl-C is for the trainer, which may still want a batch before it saves
        os.setpgrp()
    else:  # Windows
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for batch in samples.batches(*share):
            pipe.send(batch)
    except BrokenPipeError:
        pass  # the trainer is gone
    except Exception:
        pipe.send(RuntimeError(f"in a process that reads pictures:\n{traceback.format_exc()}"))


class Samples:
    """Where samples come from: the pictures, and what is kept of them."""

    def __init__(self, paths, img_size, channels, seed, load_size, resample):
        if load_size < img_size:
            raise UserError(f"pictures of {load_size} pixels have no windows of {img_size}: "
                            f"use a load_size of at least the img_size, {img_size}")
        self.paths = {domain: list(paths[domain]) for domain in "AB"}
        self.img_size, self.channels, self.seed = img_size, channels, seed
        self.load_size, self.resample = load_size, resample  # L below
        self.cache = {}  # domain: pixels (n,L,L,C) uint8, filled (n,) bool

    def batches(self, size, first, stride):
        """For ever the samples first, ..., first + size - 1 of both domains, then from first + stride on:
        (size,2,S,S,C) uint8, or the UserError met on the way, as a value, because it may cross processes."""
        for start in count(first, stride):
            try:
                yield np.stack([[self.sample(domain, k) for domain in "AB"] for k in range(start, start + size)])
            except UserError as error:
                yield error

    def sample(self, domain, k):
        """Sample k of one domain, a pure function: (S,S,C) uint8."""
        n = self.count(domain)
        epoch, place = divmod(k, n)
        index = _order(self.seed, domain, epoch, n)[place]
        return self.view(domain, index, np.random.default_rng((self.seed, ord(domain), 1, k)))

    def count(self, domain):
        """Samples of a domain in an epoch, which has each once."""
        return len(self.paths[domain])

    def view(self, domain, index, rng):
        """Sample `index` of an epoch as it is seen this time: (S,S,C) uint8."""
        return crop_and_flip(self.pixels(domain, index), self.img_size, rng)

    def pixels(self, domain, index):
        """Picture `index` of a domain, resized: (L,L,C) uint8."""
        kept, filled = self.cache.get(domain, (None, None))
        if self.cache and filled[index]:
            return kept[index].numpy()
        pixels = resize(read_image(self.paths[domain][index]), self.load_size, self.channels, self.resample)
        if self.cache:  # two workers may come here at once: they write the same bytes
            kept[index] = torch.from_numpy(pixels)
            filled[index] = True  # only now, when the pixels are there
        return pixels

    def make_cache(self, copies, quiet):
        """Make room for every picture, filled on first use, if `copies` of it fit half the free memory."""
        side = self.load_size
        needed = copies * side * side * self.channels * sum(map(len, self.paths.values()))
        free = min(machine_memory()[1], _shared_memory())
        if needed <= free / 2:
            for domain, paths in self.paths.items():
                pixels = torch.empty(len(paths), side, side, self.channels, dtype=torch.uint8)
                filled = torch.zeros(len(paths), dtype=torch.bool)
                self.cache[domain] = pixels.share_memory_(), filled.share_memory_()
        elif not quiet:
            print(f"pictures are not kept in memory: they take {needed / 2**30:.1f} GiB, more than half of "
                  f"the {free / 2**30:.1f} GiB free", file=sys.stderr)


@lru_cache(maxsize=8)
def _order(seed, domain, epoch, n):
    """The shuffled picture numbers of one epoch: (n,) int64."""
    return np.random.default_rng((seed, ord(domain), 0, epoch)).permutation(n)


def _shared_memory():
    """Bytes that worker processes may share with this one; inf: unknown."""
    with suppress(OSError):
        return shutil.disk_usage("/dev/shm").free
    return float("inf")
