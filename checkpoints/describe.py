"""What a file is that cannot be used as a checkpoint, in words: how many tensors it holds, what it looks like."""

import zipfile
from contextlib import suppress
from pathlib import Path

import torch

from utils import open_regular, shown

MOST = 6  # entries that a message names

# first bytes of a file, or several such, and what it is
FIRST_BYTES = (
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (b"<", "a web page or XML, not the file that was to be downloaded: download it again"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: no method here is of Keras"),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "a picture"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), "a compressed archive: unpack it"),
)

# keys of networks, and what they belong to.  A row fits if each of its parts is in some key.
LOOKS = (
    (("model.model.1.model.",), "a U-Net generator (unet_128, unet_256), and the methods here have ResNet generators"),
    (("conv_block.", "running_mean"), "a ResNet generator with batch normalisation, and the methods here normalise "
     "each picture (--norm instance)"),
    (("mlp_0.0.weight",), "CUT's projection F, which does not translate: name the file of G"),
    (("cnns.0.0.conv.weight",), "MUNIT's discriminators, which only judge: name the gen_ file"),
    (("diffusion_model.",), "a diffusion model"),
    (("down_blocks.",), "a diffusion model"),
    (("mapping.", "synthesis."), "StyleGAN"),
    (("layer1.0.conv1.weight", "fc.weight"), "a ResNet that classifies pictures"),
    (("features.0.", "classifier."), "a network that classifies pictures"),
    (("Conv2d_1a_3x3.",), "Inception, which classifies pictures"),
    (("self_attn.",), "a transformer"),
)  # fmt: skip


def kind_of(path: Path) -> str | None:
    """What a file is that torch.save did not write; None: nothing is known of it."""
    with suppress(OSError, ValueError, RuntimeError, zipfile.BadZipFile), open_regular(path) as file:
        start = file.read(512)
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _kind_of_archive(archive.namelist())
        if start[257:262] == b"ustar":
            return "an archive: unpack it"
        if start[8:10] == b'{"' and path.suffix == ".safetensors":
            return "the weights of a model folder: name the folder, which has config.json, too"
        if path.suffix == ".onnx":
            return "an ONNX file, for onnxruntime (docs/onnx.md): here its checkpoint translates"
        return next((words for first, words in FIRST_BYTES if start.lstrip().startswith(first)), None)
    return None


def _kind_of_archive(names: list[str]) -> str | None:
    if any(name.endswith(("/constants.pkl", "/archive_format")) or "/code/" in name for name in names):
        return "a TorchScript or exported program: save its weights alone, torch.save(model.state_dict(), FILE)"
    if any(name.endswith("data.pkl") for name in names):
        return None  # of torch.save
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz of arrays"
    return f"an archive of {len(names)} files ({_some(names)}): unpack it"


def in_words(found: dict) -> str:
    """What the content of a readable file is, or of a folder's files: its tensors, and why it is of no method here."""
    while len(found) == 1 and isinstance(inner := next(iter(found.values())), dict):
        found = inner  # the only file, or what wraps a network
    tensors = dict(_tensors(found))
    if not tensors:
        return f"it holds no tensors, but {_some(map(str, found)) or 'nothing'}"
    name, first = next(iter(tensors.items()))
    many = f"{len(tensors)} tensor{'s' * (len(tensors) > 1)}, {sum(x.numel() for x in tensors.values()):,} numbers"
    words = f"it holds {many}, the first {shown(name)} {tuple(first.shape)}"
    if found.keys() != tensors.keys():
        words += f", in {_some(found)}"
    said = found["args"].get("method") if isinstance(found.get("args"), dict) else None
    if isinstance(said, str):
        return f"{words}; it is of a method {shown(said[:40])}, which is not known here"
    return f"{words}; {_looks_like(tensors)}"


def _looks_like(tensors: dict[str, torch.Tensor]) -> str:
    for parts, words in LOOKS:
        if all(any(part in key for key in tensors) for part in parts):
            return f"it looks like {words}"
    kernels = [x.shape[2:] for x in tensors.values() if x.dim() == 4]
    if kernels and all(kernel == (4, 4) for kernel in kernels):
        return "it looks like a discriminator, which only judges: name the generator's file"
    return "no method here has networks with these names"


def _tensors(x, name: str = "", depth: int = 4):
    """Pairs (last parts of the name, tensor) in nested dicts."""
    if isinstance(x, torch.Tensor):
        yield name, x
    elif isinstance(x, dict) and depth:
        for key, value in x.items():
            yield from _tensors(value, f"{name}.{key}" if isinstance(value, torch.Tensor) and name else str(key),
                                depth - 1)  # fmt: skip


def _some(names) -> str:
    """The first names, for a message."""
    names = [shown(name[:60]) for name in names]
    return ", ".join(names[:MOST]) + f" and {len(names) - MOST} more" * (len(names) > MOST)
