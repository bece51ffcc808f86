"""Pictures larger than memory: the networks' own code, run on feature maps that are computed band by band.

A Map stands for a tensor (1,C,H,W).  A layer maps it to another Map, which computes any of its rows from the rows
that they depend on, including those beyond the band: a band has no borders of its own, and nothing is blended.
Statistics of the whole picture (means and variances of normalisations, pooled features) are summed over all bands
before the next layers start.  So the result equals the untiled one but for rounding, for any height of the bands.

A pass that sums a map also keeps its rows, in memory or, beyond the budget, in a file; only cheap layers are
computed again.  An unknown operation ends in NotTileable.
"""

import mmap
import shutil
import tempfile

import torch
from torch import Tensor
from tqdm import tqdm

from utils import DiskError, UserError, writing


class NotTileable(UserError):
    """An operation cannot be computed band by band."""


class Plan:
    """How a picture is cut into bands, and where its maps are kept.

    height: of the picture; rows: of the picture in a band; budget: bytes for maps in memory; device: where it computes.
    """

    def __init__(self, height: int, rows: int, budget: float, device="cpu", quiet: bool = True):
        self.height, self.rows, self.budget, self.device, self.quiet = height, rows, budget, device, quiet
        self.passes = 0

    def bands(self, height: int):
        """The rows (first, last + 1) of each band of a map of this height."""
        step = max(1, self.rows * height // self.height)
        self.passes += 1
        starts = range(0, height, step)
        bar = tqdm(starts, f"pass {self.passes} over the picture", leave=False, delay=2, disable=self.quiet)
        return ((a, min(a + step, height)) for a in bar)


class InMemory:
    """Rows of a map in memory, as (H,W,C): the layout in which convolutions are fastest."""

    def __init__(self, plan: Plan, C: int, H: int, W: int, dtype: torch.dtype):
        self.plan, self.bytes = plan, C * H * W * dtype.itemsize
        plan.budget -= self.bytes
        if plan.device == "cpu":  # its own mapping: freed memory returns to the system at once
            self.data = torch.frombuffer(mmap.mmap(-1, self.bytes), dtype=dtype).view(H, W, C)
        else:
            self.data = torch.empty(H, W, C, dtype=dtype, device=plan.device)

    def write(self, a: int, x: Tensor):
        self.data[a : a + x.shape[2]] = x[0].permute(1, 2, 0)

    def rows(self, a: int, b: int) -> Tensor:
        return self.data[a:b].permute(2, 0, 1)[None]

    def __del__(self):
        self.plan.budget += self.bytes


class InFile:
    """Rows of a map in an unnamed file, which is deleted with this object."""

    def __init__(self, plan: Plan, C: int, H: int, W: int, dtype: torch.dtype):
        self.plan, self.shape, self.dtype = plan, (W, C), dtype
        self.row = W * C * dtype.itemsize
        folder, needed = tempfile.gettempdir(), H * self.row
        if shutil.disk_usage(folder).free < needed:
            raise DiskError(
                f"a feature map of this picture takes {needed / 2**30:.1f} GiB, more than memory and {folder} have "
                "left; free some space, name another folder in TMPDIR, or translate it smaller with --keep_size false"
            )
        with writing(folder):
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def write(self, a: int, x: Tensor):
        self.file.seek(a * self.row)
        with writing(tempfile.gettempdir()):
            rest = memoryview(x[0].permute(1, 2, 0).contiguous().cpu().view(-1).view(torch.uint8).numpy())
            while rest:
                rest = rest[self.file.write(rest) :]

    def rows(self, a: int, b: int) -> Tensor:
        buffer = bytearray((b - a) * self.row)
        self.file.seek(a * self.row)
        rest = memoryview(buffer)
        while rest:
            got = self.file.readinto(rest)
            if not got:
                raise DiskError(f"a file in {tempfile.gettempdir()} lost what was written to it; start again")
            rest = rest[got:]
        x = torch.frombuffer(buffer, dtype=self.dtype).view(b - a, *self.shape)
        return x.permute(2, 0, 1)[None].to(self.plan.device)


class Map:
    """A feature map (1,C,H,W) in bands.

    operations: {name of PyTorch's function: its version for Maps}, those of TiledMap in layers.py;
    inputs: the Maps that it is computed from; compute(a, b): its rows a..b-1, (1,C,b-a,W); depth: the number of
    convolutions wider than 1x1 between it and kept maps.
    """

    operations = {}

    def __init__(self, plan: Plan, shape, inputs=(), compute=None, dtype=None, depth: int = 0):
        self.plan, self.shape, self.inputs, self.compute = plan, torch.Size(shape), inputs, compute
        self.dtype = dtype or inputs[0].dtype
        self.depth = depth + max((x.depth for x in inputs), default=0)
        self.device = torch.device(plan.device)
        self.is_meta, self.kept, self.affine, self.found = False, None, None, None

    def rows(self, a: int, b: int) -> Tensor:
        """(1,C,b-a,W)."""
        return self.kept.rows(a, b) if self.kept else self.compute(a, b)

    def keep(self, measure: bool = False):
        """One pass over all rows: keep them if that saves work; measure: sum their statistics."""
        _, C, H, W = self.shape
        kept, sums = None, Sums()
        for a, b in self.plan.bands(H):
            x = self.rows(a, b)
            if a == 0:
                self.dtype = x.dtype  # mixed precision chooses it
                kept = None if self.kept else self._place(measure)
            if kept:
                kept.write(a, x)
            if measure:
                sums.add(x)
        if measure:
            self.found = sums
        if kept:
            self.kept, self.inputs, self.compute, self.affine, self.depth = kept, (), None, None, 0
        return self

    def _place(self, measure: bool):
        """A place for its rows; None: computing them again is cheaper than a file."""
        place = (self.plan, *self.shape[1:], self.dtype)
        if self.shape.numel() * self.dtype.itemsize <= self.plan.budget:
            return InMemory(*place)
        return None if measure and self.depth <= 1 else InFile(*place)

    def measured(self) -> "Sums":
        if self.found is None:
            self.keep(measure=True)
        return self.found

    def dim(self) -> int:
        return 4

    def __getattr__(self, name: str):
        """A method that tensors have."""
        if name.startswith("__") or name.strip("_") not in self.operations:
            raise AttributeError(name)
        return lambda *args, **kwargs: self.operations[name.strip("_")](self, *args, **kwargs)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", str(func)).strip("_")
        if name not in cls.operations:
            raise NotTileable(f"{name} cannot be computed in tiles: use --tile 0, or --keep_size false")
        return cls.operations[name](*args, **(kwargs or {}))

    def __add__(self, other):
        return self.operations["add"](self, other)

    def __sub__(self, other):
        return self.operations["sub"](self, other)

    def __mul__(self, other):
        return self.operations["mul"](self, other)

    def __truediv__(self, other):
        return self.operations["div"](self, other)

    __radd__, __rmul__ = __add__, __mul__


class Sums:
    """Statistics of each channel over all rows: mean, squared deviations, maximum; in double precision."""

    def __init__(self):
        self.n = 0

    def add(self, x: Tensor):
        n, x = x.shape[2] * x.shape[3], x.float() if x.dtype.itemsize < 4 else x
        rough = x.mean((2, 3), keepdim=True)
        d = x - rough
        error = d.mean((2, 3), keepdim=True).double()  # so that the mean of equal numbers is just that number
        S = d.square_().sum((2, 3), keepdim=True).double().sub(n * error.square()).clamp_min(0)
        m, most = rough.double() + error, x.amax((2, 3))
        if self.n:  # combine both parts (Chan et al. 1979)
            apart, total = m - self.m, self.n + n
            S = self.S + S + apart.square() * (self.n * n / total)
            m, n, most = self.m + apart * (n / total), total, torch.maximum(self.most, most)
        self.n, self.m, self.S, self.most = n, m, S, most

    def moments(self, dims, correction: int) -> tuple[Tensor, Tensor]:
        """Variance and mean over these axes: (1,C,1,1), or (1,1,1,1) if the channels are among them."""
        if tuple(dims) == (2, 3):
            return self.S / (self.n - correction), self.m
        C, m = self.m.shape[1], self.m.mean(1, keepdim=True)
        S = self.S.sum(1, keepdim=True) + self.n * (self.m - m).square().sum(1, keepdim=True)
        return S / (C * self.n - correction), m
