"""Archives and servers that lie: bounded memory, one call at a time, one line."""

import io
import resource
import subprocess
import sys
import tarfile
import threading

import pytest
from faulty import Server
from test_downloads import GOOD, ROOT, complete, source, tarred, within

from images import download
from images.data_sets import get
from utils import UserError


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Server(GOOD) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_headers_of_a_tar_count_towards_its_growth(server, tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("toy/trainA/0.jpg")
        member.pax_headers = {"comment": "x" * 100_000_000}  # 100 MB in 100 KB
        archive.addfile(member)
    server.body = file.getvalue()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="10-fold"):
        get("toy", tmp_path / "root", source(server))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_of_every_compression_unpack(server, tmp_path, mode):
    server.body = tarred(within("toy"), mode=mode)
    get("toy", tmp_path / "toy", source(server))
    assert complete(tmp_path / "toy")


def test_a_second_call_waits_for_nobody_and_destroys_nothing(server, tmp_path):
    """From the first byte to the last picture unpacked, another call is refused."""
    code = "import fcntl, pathlib, sys\npath = pathlib.Path(sys.argv[1]) / '.toy.lock'\nfile = open(path, 'a+')\n"
    code += "fcntl.lockf(file, fcntl.LOCK_EX)\nprint('locked', flush=True)\nsys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    (tmp_path / ".toy.unpacked").mkdir()  # its pictures, half of them unpacked
    with pytest.raises(UserError, match="another call is fetching toy"):
        get("toy", tmp_path, source(server))
    assert (tmp_path / ".toy.unpacked").is_dir() and not server.requests
    other.communicate(b"")
    get("toy", tmp_path, source(server))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


PLACES = ["http://[::1", "http://a b/", "ftp://x", "file:///etc/passwd", "//:99999999/", "\udcff"]


@pytest.mark.parametrize("place", PLACES)
def test_malformed_redirects_are_one_line(server, tmp_path, place, monkeypatch):
    class Redirecting(server.RequestHandlerClass):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", place.encode("utf-8", "surrogateescape").decode("latin-1"))
            self.end_headers()

    server.RequestHandlerClass = Redirecting
    with pytest.raises(UserError) as error:
        get("toy", tmp_path, source(server))
    assert str(error.value).isprintable() and "cannot fetch toy" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_lengths_that_are_no_numbers(server, tmp_path):
    server.length = lambda body: "9" * 5000
    with pytest.raises(UserError, match="cannot fetch toy"):
        get("toy", tmp_path, source(server))
    assert not list(tmp_path.iterdir()) and ROOT.is_dir()
