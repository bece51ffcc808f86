"""What the tests share: small settings, small folders of pictures, the parity fixtures."""

import os  # isort: skip
import shutil  # isort: skip

if not shutil.which("nvidia-smi"):
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels are then computed on the CPU
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes of tests, which share the cores
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import main  # isort: skip  (first: it sets what torch reads when it is imported)

import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import NICE
from layers.fast import convolution as fast_convolution

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the helpers beside it

import runs  # noqa: E402

TINY = "--img_size 48 --ch 2 --n_res 1 --n_dis 6 --num_workers 0 --device cpu"


def options(text: str = "", **more):
    """A checked namespace from a line of options; the tiny settings unless overridden."""
    argv = TINY.split() + text.split()
    for name, value in more.items():
        argv += [f"--{name}", str(value)]
    return main.parse_args(argv)


@contextmanager
def double_precision():
    """Networks made inside are double: rounding, which Adam's first steps blow up to lr, hides nothing."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def images(n: int = 1, size: int = 48, seed: int = 0) -> torch.Tensor:
    """(n,3,size,size) in [-1,1]."""
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * 2 - 1


def weights(nice) -> dict[str, torch.Tensor]:
    """A copy of every weight and buffer of a trainer, by network and name."""
    nets = nice.networks().items()
    return {f"{name}/{k}": v.clone() for name, net in nets for k, v in net.state_dict().items()}


def differing(a: dict, b: dict) -> set[str]:
    """The names under which two such copies are not bit-identical."""
    assert a.keys() == b.keys()
    return {k for k in a if not torch.equal(a[k], b[k])}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(0))


class Parity:
    """Numbers measured on the released program: inputs, initial weights, what came out."""

    def __init__(self, form: str):
        self.data = data = np.load(HERE / "fixtures" / f"parity_{form}.npz")
        self.config = {k.split("/")[1]: data[k].item() for k in data.files if k.startswith("config/")}
        self.steps = self.config.pop("steps")
        real = [torch.from_numpy(data[k]) / 127.5 - 1 for k in ("real_A", "real_B")]
        self.batches = list(zip(*real, strict=True))

    def initial(self, net: str) -> dict[str, torch.Tensor]:
        prefix = f"init/{net}/"
        return {k[len(prefix) :]: torch.from_numpy(self.data[k]) for k in self.data.files if k.startswith(prefix)}

    def final(self, net: str) -> dict[str, torch.Tensor]:
        """Kept as 8-bit differences from the initial ones where that is exact to 5e-6."""
        found = {}
        for key, value in self.initial(net).items():
            if f"final/{net}/{key}" in self.data:
                found[key] = torch.from_numpy(self.data[f"final/{net}/{key}"])
            else:
                found[key] = value + torch.from_numpy(self.data[f"moved/{net}/{key}"] * self.data[f"unit/{net}/{key}"])
        return found


@pytest.fixture(scope="session", params=["light", "full"])
def parity(request):
    return Parity(request.param)


@pytest.fixture
def folders(tmp_path):
    """dataset/toy with a few pictures of unequal sizes in each folder: (dataset_dir, result_dir)."""
    rng = np.random.default_rng(0)
    for name, count in (("trainA", 5), ("trainB", 3), ("testA", 2), ("testB", 2)):
        for i in range(count):
            path = tmp_path / "dataset" / "toy" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40 + 9 * i, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path / "dataset", tmp_path / "results"


@pytest.fixture(autouse=True)
def signals():
    """A command that a test calls in this process handles the signals in its own way, which ends with the test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path, data):
    """A place of one's own with the pictures of a module's `data` in it."""
    return runs.with_pictures(tmp_path, data)


@pytest.fixture
def toy(folders):
    """Makes a trainer for that data set: toy("--iteration 4")."""
    data, results = folders

    def make(text: str = ""):
        return NICE.NICE(options(text, dataset="toy", dataset_dir=data, result_dir=results))

    return make


@pytest.fixture
def minimal_filters(monkeypatch):
    """Also where so few channels and positions would not call for them."""
    monkeypatch.setattr(fast_convolution, "LEAST_CHANNEL_PAIRS", 0)
    monkeypatch.setattr(fast_convolution, "LEAST_POSITIONS", 0)
