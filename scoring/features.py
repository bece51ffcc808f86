"""Extract features from picture files, and read and write them as .npz files.

Features stay in float32: Inception's take 8 KB a picture, 400 MB for 50,000.
"""

import hashlib
import json
import math
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from images.decode import read_image
from images.files import list_images
from scoring.inception import resized
from scoring.metrics import moments
from utils import UserError, atomic, brief, open_regular, parse_json, shown

GROWTH = 100  # the most that an entry of an .npz may unfold; features are noise, and zeros shrink a thousandfold


@dataclass
class Source:
    """One of the two sets: files not yet read, or features, or only their moments."""

    path: str
    files: list = field(default_factory=list)
    features: np.ndarray = None  # (n, d) float32
    logits: np.ndarray = None    # (n, classes) without bias
    mu: np.ndarray = None        # (d,) float64
    sigma: np.ndarray = None     # (d, d) float64
    row: np.ndarray = None       # of each file, its row in features and logits
    scale: dict = None           # of deep pictures, with which the features were computed

    def __len__(self):
        return 0 if self.features is None else len(self.features)

    def extract(self, *args, scale=None, **more):
        """Fill in features, logits and row from the files; arguments as of the function extract."""
        self.features, self.logits, order = _extract(self.files, *args, scale=scale, **more)
        self.scale = scale
        self.row = np.argsort(order)

    def moments(self):
        return moments(self.features) if self.mu is None else (self.mu, self.sigma)


def read_picture(path, size, resize, scale=None):
    """The picture at `path` as float [0, 1] (3, size, size), and a digest of its pixels before resizing.

    resize: "legacy" (bilinear without antialiasing, as pytorch-fid) or "clean" (PIL's antialiased bicubic in
    float, as clean-fid).
    """
    image = read_image(path, scale)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    if resize == "legacy":
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return resized(pixels[None], size)[0], digest
    channels = [Image.fromarray(np.asarray(c, np.float32)).resize((size, size), Image.Resampling.BICUBIC)
                for c in image.split()]
    return torch.from_numpy(np.stack(channels).clip(0, 255) / 255), digest


def extract(files, net, dim, **more):
    """Features (n, dim) float32 of picture files, and their logits without bias (n, classes) or None.

    more: as of _extract.
    Each picture is resized on its own, and rows are sorted by the pictures' digests. So scores do not depend
    on batch size, file names or their order, and splits and subsets see the pictures shuffled.
    """
    return _extract(files, net, dim, **more)[:2]


def _extract(files, net, dim, classes=False, batch_size=50, resize="legacy", workers=2, device="cpu", quiet=False,
             scale=None):
    """Features and logits as `extract` returns them, and which file each row is of: list[int]."""
    digests, features, logits = [], [], []
    bar = tqdm(total=len(files), desc=str(Path(files[0]).parent.name), unit="picture", disable=quiet or None)
    # no TensorFloat-32: it would cost three digits.  flags() switches off what it is not given, hence enabled.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with bar, exact, ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        for i in range(0, len(files) + 2 * batch_size, batch_size):  # two batches are read ahead
            chunk = files[i:i + batch_size]
            waiting.append(pool.map(read_picture, chunk, [net.size] * len(chunk), [resize] * len(chunk),
                                    [scale] * len(chunk)))
            if len(waiting) < 3:
                continue
            if read := list(waiting.popleft()):
                pictures, keys = zip(*read, strict=True)
                found = net(torch.stack(pictures).to(device), upto=net.classes if classes else dim)
                if not torch.isfinite(found[dim]).all():
                    raise UserError(f"the features of pictures in {shown(Path(files[0]).parent)} are not finite: the "
                                    "network's weights are damaged, get the file again")
                digests += keys
                features.append(found[dim].cpu().numpy())
                if classes:  # the original Inception Score's code omits the bias
                    logits.append((found[net.classes] - net.fc.bias).cpu().numpy())
                bar.update(len(read))
    order = sorted(range(len(files)), key=digests.__getitem__)
    return np.concatenate(features)[order], np.concatenate(logits)[order] if classes else None, order


def open_source(path, kind, dim):
    """The Source of a folder (pictures not yet read) or of an .npz (features or moments, checked).

    kind: such as "inception-2048-legacy", as --save writes it; dim: the features' dimension.
    UserError: fewer than two pictures, or an unusable file.
    """
    if Path(path).suffix.lower() != ".npz" or Path(path).is_dir():
        source = Source(path, files=list_images(path))
    else:
        source = Source(path, **read_npz(path, kind, dim))
    if 1 in (len(source.files), len(source)):
        raise UserError(f"{shown(path)} holds only one picture: a distribution needs at least two")
    return source


def read_npz(path, kind, dim):
    """The arrays of an .npz: features (n, dim), or mu (dim,) and sigma (dim, dim); logits, scale if present."""
    try:
        _refuse_bombs(path, dim)
        with np.load(path, allow_pickle=False) as archive:
            wanted = ("kind", "features", "mu", "sigma", "logits", "scale")  # a foreign entry may be anything
            arrays = {name: archive[name] for name in wanted if name in archive.files}
            scale = {k: tuple(v) for k, v in parse_json(str(arrays.pop("scale", "{}"))).items()}
    except FileNotFoundError as error:
        raise UserError(f"{shown(path)} does not exist: name a folder or an .npz made with --save") from error
    except PermissionError as error:
        raise UserError(f"no permission to read {shown(path)}: change it, or name another file") from error
    except Exception as error:  # numpy, zipfile and zlib raise many kinds on damaged archives
        raise UserError(f"{shown(path)} is damaged or not an .npz of plain arrays ({brief(error)}): make it again with "
                        "--save") from error
    made_as = str(arrays.get("kind", kind))
    if made_as != kind:
        raise UserError(f"{shown(path)} holds {shown(made_as[:60])} features, not {kind}: give its --features, --dims, "
                        "--resize")
    if "features" not in arrays and not {"mu", "sigma"} <= arrays.keys():
        raise UserError(f"{shown(path)} holds neither 'features' nor 'mu' and 'sigma': make it with --save")
    shapes = {"features": (-1, dim), "mu": (dim,), "sigma": (dim, dim), "logits": (-1, -1)}
    arrays = {name: arrays[name] for name in shapes if name in arrays}
    for name, array in arrays.items():
        free = [n if e == -1 else e for n, e in zip(array.shape, shapes[name], strict=False)]
        if array.ndim != len(shapes[name]) or array.shape != tuple(free):
            raise UserError(f"{name} in {shown(path)} is {array.shape}, but {kind} features have {dim} dimensions: "
                            "check --dims and --features")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise UserError(f"{name} in {shown(path)} holds values that are not finite numbers: make it again with "
                            "--save")
        arrays[name] = array.astype(np.promote_types(array.dtype, np.float32))
    return arrays | ({"scale": scale} if scale else {})


def _refuse_bombs(path, dim):
    """ValueError: an entry of an .npz would unfold to far more than the file, or than its shape may be.

    Reads no array: the archive's directory and the arrays' headers tell.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.file_size > GROWTH * member.compress_size + (1 << 20):
                raise ValueError(f"{member.filename} unfolds more than {GROWTH}-fold")
            if member.filename in ("features.npy", "mu.npy", "sigma.npy", "logits.npy", "kind.npy", "scale.npy"):
                with archive.open(member) as data:
                    version = np.lib.format.read_magic(data)
                    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
                    shape, _, dtype = read(data)
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"{member.filename} is shorter than its shape")


def write_npz(path, source, kind):
    """Write an .npz: features, logits, moments under pytorch-fid's names (mu, sigma), and their kind."""
    arrays = dict(zip(("mu", "sigma"), source.moments(), strict=True), kind=kind)
    arrays |= {k: v for k, v in vars(source).items() if k in ("features", "logits") and v is not None}
    if source.scale:
        arrays["scale"] = json.dumps(source.scale)
    with atomic(Path(path)) as temporary, open(temporary, "wb") as file:  # np.savez would append .npz to a path
        np.savez(file, **arrays)
