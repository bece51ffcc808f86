"""ONNX Runtime Web: the two files that run a model in a browser, from the npm registry or from a folder."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import torch

from images.download import sha256_of
from utils import UserError, atomic, brief, shown

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"  # of the package's archive
FILES = {  # and their hashes
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
MINUTES = 10  # that npm may take


def cache() -> Path:
    """The folder in the user's cache, beside Inception's weights."""
    return Path(torch.hub.get_dir(), "checkpoints", f"onnxruntime-web-{VERSION}")


def runtime(folder: str | None = None) -> tuple[bytes, bytes]:
    """The runtime's script and its WebAssembly, from --ort FOLDER, else from the cache, which npm fills once.

    UserError: they are missing.
    """
    if folder:
        place = next((p for p in (Path(folder), Path(folder, "dist")) if (p / next(iter(FILES))).is_file()), None)
        if place is None or not all((place / name).is_file() for name in FILES):
            raise UserError(f"--ort {shown(folder)} lacks {' or '.join(FILES)}: name the folder dist of {PACKAGE}")
        return tuple((place / name).read_bytes() for name in FILES)
    if not all((cache() / name).is_file() and sha256_of(cache() / name) == FILES[name] for name in FILES):
        fetch_package()
    return tuple((cache() / name).read_bytes() for name in FILES)


def fetch_package():
    """Fill the cache with the files of the package, by `npm pack`.  UserError: npm is missing or fails."""
    by_hand = f"name the folder dist of the package {PACKAGE} with --ort FOLDER"
    npm = shutil.which("npm")
    if not npm:
        raise UserError(f"--format html needs ONNX Runtime Web once: install npm, which fetches it, or {by_hand}")
    print(f"fetching {PACKAGE} (33 MB) with npm")
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = [npm, "pack", PACKAGE, "--silent"]
            subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60 * MINUTES)
            [archive] = Path(folder).glob("*.tgz")
        except subprocess.TimeoutExpired:
            raise UserError(f"npm has not fetched {PACKAGE} in {MINUTES} minutes: try again, or {by_hand}") from None
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            reason = brief(Exception(getattr(error, "stderr", None) or error))
            raise UserError(f"npm cannot fetch {PACKAGE} ({reason}): check the network, or {by_hand}") from None
        if (digest := sha256_of(archive)) != SHA256:
            raise UserError(f"npm has fetched another {PACKAGE} (its hash is {digest}, not {SHA256}): {by_hand}")
        with tarfile.open(archive) as package:
            contents = {name: package.extractfile(f"package/dist/{name}").read() for name in FILES}
    for name, content in contents.items():
        with atomic(cache() / name) as temporary:
            temporary.write_bytes(content)
