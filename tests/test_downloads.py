"""dataset/get.py and fetch() against a local server with every fault we could think of."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from faulty import Server
from pictures import one_line, scene
from PIL import Image

from images import download
from images.data_sets import FOLDERS, Source, get, hint, main
from utils import RunError, UserError

ROOT = Path(__file__).resolve().parent.parent
COUNTS = (3, 2, 1, 1)
NAMES = [f"{folder}/{i}.jpg" for folder, n in zip(FOLDERS, COUNTS, strict=True) for i in range(n)]


def picture(seed):
    file = io.BytesIO()
    Image.fromarray(scene(200, 200, seed)).save(file, "JPEG", quality=95)
    return file.getvalue()


PICTURES = {name: picture(i) for i, name in enumerate(NAMES)}


def zipped(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members, links=(), mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, kind, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def within(folder, members=PICTURES):
    return {f"{folder}/{name}": data for name, data in members.items()}


GOOD = zipped(within("toy") | {"toy/readme.txt": b"hello", "__MACOSX/toy/trainA/._0.jpg": b"x", "toy/trainA/": b"",
                               "toy/trainA/.DS_Store": b"x", "toy/other/0.jpg": b"x"})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 5)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server(GOOD) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def source(server, **kwargs):
    return Source("http://example.org/page", COUNTS, (server.url,), **kwargs)


def complete(root):
    """Whether root holds the toy data set to the last byte and nothing else, not even a hidden file."""
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return found == within("toy")


def refused(root, source, *words, kind=UserError, left=(), **kwargs):
    with pytest.raises(kind) as error:
        get("toy", root, source, **kwargs)
    one_line(error, *words)
    assert sorted(path.name for path in root.iterdir()) == sorted(left)


# --- what works ----------------------------------------------------------------------------------

@pytest.mark.parametrize("archive", [
    GOOD, zipped(PICTURES), tarred(within("deep/in/toy")), tarred(within("./toy"), mode="w"),
    tarred(within("toy"), mode="w:xz"),
])
def test_zips_and_tars_of_any_depth_become_the_four_folders(server, tmp_path, archive):
    server.body = archive
    line = get("toy", tmp_path / "new", source(server))
    assert complete(tmp_path / "new") and hashlib.sha256(archive).hexdigest() in line and "trainA 3, trainB 2" in line
    assert get("toy", tmp_path / "new", source(server)).endswith("complete") and len(server.requests) == 1


def test_other_layouts_are_mapped_and_what_belongs_to_no_domain_is_left_out(server, tmp_path):
    theirs = ("train/cat", "train/dog", "val/cat", "val/dog")
    members = {name.replace(ours, f"afhq/{folder}"): data for name, data in PICTURES.items()
               for ours, folder in zip(FOLDERS, theirs, strict=True) if name.startswith(ours)}
    server.body = zipped(members | {"afhq/train/wild/0.jpg": b"x"})
    get("toy", tmp_path, source(server, folders=theirs))
    assert complete(tmp_path)


def test_known_size_and_hash_are_checked_and_a_given_hash_replaces_them(server, tmp_path):
    digest = hashlib.sha256(GOOD).hexdigest()
    line = get("toy", tmp_path, source(server, size=len(GOOD), sha256=digest))
    assert complete(tmp_path) and digest not in line
    get("toy", tmp_path / "2", source(server, size=7, sha256="0" * 64), sha256=digest.upper())
    assert complete(tmp_path / "2")
    (tmp_path / "3").mkdir()
    for known, given in ("0" * 64, None), (None, "1" * 64), (digest, "1" * 64):
        refused(tmp_path / "3", source(server, sha256=known), digest, "--sha256", sha256=given)


def test_an_archive_saved_by_hand_is_taken_and_kept(tmp_path):
    nowhere = Source("http://example.org/page", COUNTS, ("http://127.0.0.1:9/toy.zip",))
    for ending, data in (".zip", GOOD), (".tar.gz", tarred(within("toy"))):
        root = tmp_path / ending
        root.mkdir()
        (root / f"toy{ending}").write_bytes(data)
        get("toy", root, nowhere)
        (root / f"toy{ending}").unlink()
        assert complete(root)


# --- a bad network -------------------------------------------------------------------------------

def test_cut_connections_are_resumed_by_range(server, tmp_path):
    third = len(GOOD) // 3
    server.cuts = [third, third]
    get("toy", tmp_path, source(server))
    assert server.requests == [None, f"bytes={third}-", f"bytes={2 * third}-"] and complete(tmp_path)


def test_a_later_call_goes_on_where_an_earlier_one_was_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 3)
    server.cuts = [1000, 0, 0, 0]
    refused(tmp_path, source(server), "cut", server.url, "http://example.org/page", left=[".toy.part", ".toy.json"])
    assert len(server.requests) == 4
    get("toy", tmp_path, source(server))
    assert server.requests[4] == "bytes=1000-" and complete(tmp_path)


def test_nothing_is_asked_for_again_when_only_the_unpacking_failed(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    refused(tmp_path, source(server), "No space left", kind=RunError, left=[".toy.part", ".toy.json"])
    monkeypatch.undo()
    get("toy", tmp_path, source(server))
    assert server.requests == [None, f"bytes={len(GOOD)}-"] and complete(tmp_path)


def test_a_changed_archive_is_not_glued_to_the_old_one_s_beginning(server, tmp_path):
    server.cuts = [1000]
    server.etag = '"old"'
    server.body = bytes(reversed(GOOD))

    def renew(data):
        server.body, server.etag, server.length = GOOD, '"new"', len
        return len(data)
    server.length = renew
    get("toy", tmp_path, source(server))
    assert server.requests == [None, "bytes=1000-"] and complete(tmp_path)


def test_a_shortened_archive_and_an_answer_with_another_part_are_fetched_from_their_beginnings(server, tmp_path):
    (tmp_path / ".toy.part").write_bytes(bytes(10**5))
    (tmp_path / ".toy.json").write_text(json.dumps({"url": server.url, "version": server.etag}))
    get("toy", tmp_path, source(server))
    assert server.requests == ["bytes=100000-", None] and complete(tmp_path)
    server.cuts, server.shift = [1000], 1
    get("toy", tmp_path / "2", source(server))
    assert server.requests[2:] == [None, "bytes=1000-", None] and complete(tmp_path / "2")


@pytest.mark.parametrize("fault", ["no etag", "weak etag", "no ranges"])
def test_without_what_resuming_needs_it_starts_afresh(server, tmp_path, fault):
    server.etag = {"no etag": None, "weak etag": 'W/"x"'}.get(fault, server.etag)
    server.ranges = fault != "no ranges"
    server.cuts = [1000]
    get("toy", tmp_path, source(server))
    assert complete(tmp_path) and len(server.requests) == 2


def test_an_answer_without_length_is_taken_whole_and_a_cut_one_is_noticed(server, tmp_path):
    server.length = None
    get("toy", tmp_path, source(server))
    assert complete(tmp_path)
    for body in GOOD, tarred(within("toy")):
        (tmp_path / "2").mkdir(exist_ok=True)
        server.body, server.cuts = body, [len(body) // 2]
        refused(tmp_path / "2", source(server), "damaged")


def test_servers_errors_lead_to_the_next_address_and_all_of_them_are_named(server, tmp_path):
    server.statuses = [404]
    get("toy", tmp_path, source(server)._replace(urls=(server.url, server.url + "?2")))
    assert complete(tmp_path)
    (tmp_path / "2").mkdir()
    server.statuses = [403, 503]
    refused(tmp_path / "2", source(server)._replace(urls=(server.url, server.url + "?2")), "403", "503", "?2")


@pytest.mark.parametrize("body", [b"\n<!DOCTYPE html><p>Moved", b'<?xml version="1.0"?><html>Sign in', b"other bytes"])
def test_an_address_that_answers_with_a_page_or_another_file_has_failed(server, tmp_path, body):
    sha256 = hashlib.sha256(GOOD).hexdigest()
    with Server(body) as wrong:
        threading.Thread(target=wrong.serve_forever, daemon=True).start()
        path = tmp_path / "x"
        download.fetch("x", [wrong.url, server.url], path, "by hand", sha256=sha256)
        assert path.read_bytes() == GOOD and [p.name for p in tmp_path.iterdir()] == ["x"]
        with pytest.raises(UserError) as error:
            download.fetch("y", [wrong.url], tmp_path / "y", "by hand", sha256=sha256)
        one_line(error, wrong.url, "web page" if b"<" in body else "its hash is", "by hand")
        wrong.shutdown()
    assert not (tmp_path / "y").exists()


OTHERS = [b"other bytes", GOOD[:-40], zipped({"toy/trainA/0.jpg": b"x"}), tarred(PICTURES)[:-3000]]


@pytest.mark.parametrize("body", OTHERS)
def test_an_address_with_another_archive_or_none_has_failed_for_data_sets(server, tmp_path, body):
    with Server(body) as wrong:
        threading.Thread(target=wrong.serve_forever, args=(0.01,), daemon=True).start()
        both = source(server)._replace(urls=(wrong.url, server.url))
        assert "trainA 3, trainB 2" in get("toy", tmp_path / "new", both) and complete(tmp_path / "new")
        refused(tmp_path / "2", both._replace(urls=(wrong.url,)), wrong.url, "example.org/page", "the archive")
        wrong.shutdown()


def test_offline_is_one_line_with_the_page_and_the_place_for_the_files(tmp_path):
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, ROOT / "dataset" / "get.py", "horse2zebra", "--dataset_dir", "here"],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    for words in "get.py: error", "http://efrosgans.eecs.berkeley.edu/", "refused", "here/horse2zebra.zip", "testB":
        assert words in done.stderr
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("size", [10, len(GOOD) - 1, len(GOOD) + 1, 10**9])
def test_a_wrong_size_is_refused_before_anything_is_fetched(server, tmp_path, size):
    refused(tmp_path, source(server, size=size), f"{len(GOOD)} bytes", str(size))
    server.length = None
    refused(tmp_path, source(server, size=size), "bytes")


def test_what_cannot_fit_is_refused_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * len(GOOD) - 1))
    refused(tmp_path, source(server), "MiB", "free some space", kind=RunError)
    server.length = lambda data: 15 << 40
    refused(tmp_path, source(server), "not up to")


def test_two_calls_at_once_do_not_spoil_each_other_s_file(server, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    code = "import sys, fcntl; f = open(sys.argv[1], 'ab+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / ".toy.part"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    other.stdout.readline()
    refused(tmp_path, source(server), "another call", left=[".toy.part"])
    other.communicate(b"\n")
    assert fcntl and get("toy", tmp_path, source(server)) and complete(tmp_path)


def test_a_single_file_is_resumed_verified_and_appears_when_complete(server, tmp_path, monkeypatch):
    path, digest = tmp_path / "cache" / "net.pth", hashlib.sha256(GOOD).hexdigest()
    monkeypatch.setattr(download, "TRIES", 1)
    server.cuts = [1000, 0]
    for sha256, words in (digest, ["cut"]), ("12ab", ["hash", digest, "12ab"]):
        with pytest.raises(UserError) as error:
            download.fetch("the net", [server.url], path, "save it as net.pth", sha256=sha256)
        one_line(error, "cannot fetch the net", server.url, "save it as net.pth", *words)
        assert not path.exists()
    assert server.requests == [None, "bytes=1000-", "bytes=1000-"] and not list(path.parent.iterdir())
    download.fetch("the net", [server.url], path, "", len(GOOD), digest[:8].upper())
    assert path.read_bytes() == GOOD and list(path.parent.iterdir()) == [path]


# --- bad archives --------------------------------------------------------------------------------

def with_link(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in PICTURES.items():
            archive.writestr(member, data)
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return file.getvalue()


def overlong():
    """A zip whose directory says that a member is small, while its data grow without end."""
    data = bytearray(zipped(PICTURES | {"trainA/x.jpg": bytes(50 << 20)}))
    at = data.rfind(b"PK\1\2", 0, data.rfind(b"trainA/x.jpg"))
    data[at + 24:at + 28] = (1000).to_bytes(4, "little")
    return bytes(data)


BAD = {
    "traversal in a zip": (zipped(within("toy") | {"toy/trainA/../../../evil.jpg": b"x"}), "outside"),
    "traversal to a folder": (zipped(within("toy") | {"../trainA/evil.jpg": b"x"}), "outside"),
    "absolute path in a zip": (zipped(PICTURES | {"/tmp/trainA/evil.jpg": b"x"}), "outside"),
    "a drive in a zip": (zipped(PICTURES | {"C:/trainA/evil.jpg": b"x"}), "outside"),
    "traversal in a tar": (tarred(PICTURES | {"../../evil.jpg": b"x"}), "outside"),
    "absolute path in a tar": (tarred(PICTURES | {"/tmp/trainA/evil.jpg": b"x"}), "outside"),
    "a link in a zip": (with_link("trainA/9.jpg"), "link"),
    "a symlink in a tar": (tarred(PICTURES, [("trainA/9.jpg", tarfile.SYMTYPE, "/etc/passwd")]), "link"),
    "a linked folder in a tar": (tarred(PICTURES, [("trainA", tarfile.SYMTYPE, "/tmp")]), "link"),
    "a hard link in a tar": (tarred(PICTURES, [("trainA/9.jpg", tarfile.LNKTYPE, "/etc/passwd")]), "link"),
    "a device in a tar": (tarred(PICTURES, [("trainA/9.jpg", tarfile.CHRTYPE, "")]), "device"),
    "a pipe in a tar": (tarred(PICTURES, [("trainA/9.jpg", tarfile.FIFOTYPE, "")]), "device"),
    "a zip bomb": (zipped(PICTURES | {"trainA/x.jpg": bytes(50 << 20)}), "fold"),
    "many small bombs": (zipped(PICTURES | {f"trainA/x{i}.jpg": bytes(1 << 20) for i in range(40)}), "fold"),
    "a tar bomb": (tarred(PICTURES | {"trainA/x.jpg": bytes(50 << 20)}), "fold"),
    "a tar bomb aside": (tarred({"aside": bytes(50 << 20)} | PICTURES), "fold"),
    "a bomb that lies": (overlong(), "damaged"),
    "the same file twice": (zipped(within("a") | within("b")), "twice"),
    "a picture missing": (zipped({name: PICTURES[name] for name in NAMES[1:]}), "2 pictures in trainA where 3"),
    "a picture too many": (zipped(PICTURES | {"testB/x.jpg": b"x"}), "2 pictures in testB where 1"),
    "no folders": (zipped({"toy/0.jpg": b"x"}), "0 pictures in trainA"),
    "a page": (b"<!DOCTYPE html>\n<html>come back later</html>", "it answers with a web page"),
    "nothing": (b"", "neither zip nor tar"),
    "a cut zip": (GOOD[:-40], "damaged"),
    "a spoilt zip": (GOOD[:3000] + bytes(100) + GOOD[3100:], "damaged"),
    "a cut tar": (tarred(PICTURES)[:-3000], "damaged"),
    "a spoilt tar": (tarred(PICTURES)[:3000] + bytes(100) + tarred(PICTURES)[3100:], "damaged"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_archive_is_refused_in_one_line_and_leaves_nothing(server, tmp_path, fault):
    server.body, words = BAD[fault]
    root = tmp_path / "a" / "b" / "root"
    root.mkdir(parents=True)
    refused(root, source(server), words)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()] and not Path("/tmp/trainA/evil.jpg").exists()


def test_damage_anywhere_is_one_line_or_changes_no_byte(server, tmp_path):
    rng = np.random.default_rng(0)
    for archive in GOOD, tarred(within("toy")), tarred(within("toy"), mode="w"):
        checked, survived = archive[257:262] != b"ustar", 0  # a plain tar has no checksum of its data
        for i in range(60):
            data = bytearray(archive)
            for at in rng.integers(len(data), size=3):
                data[-at // 20 if i % 2 else at] ^= 1 << rng.integers(8)  # half near the end: a zip's directory
            (tmp_path / "toy.zip").write_bytes(data)
            try:
                get("toy", tmp_path, source(server))
                (tmp_path / "toy.zip").unlink()
                assert complete(tmp_path) or not checked
                download.shutil.rmtree(tmp_path / "toy")
                survived += 1
            except UserError as error:
                assert "\n" not in str(error) and [path.name for path in tmp_path.iterdir()] == ["toy.zip"]
        assert survived < 60


@pytest.mark.parametrize("kind", ["incomplete", "file"])
def test_what_is_there_is_never_touched(server, tmp_path, kind):
    if kind == "file":
        (tmp_path / "toy").write_text("mine")
    else:
        (tmp_path / "toy" / "trainA").mkdir(parents=True)
        (tmp_path / "toy" / "trainA" / "mine.jpg").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    refused(tmp_path, source(server), tmp_path / "toy", "move it away", left=["toy"])
    assert sorted(tmp_path.rglob("*")) == before and not server.requests


def test_an_empty_folder_is_no_obstacle(server, tmp_path):
    (tmp_path / "toy").mkdir()
    get("toy", tmp_path, source(server))
    assert complete(tmp_path)


# --- the command ---------------------------------------------------------------------------------

def test_the_command_works_from_anywhere_and_answers_mistakes_in_one_line(tmp_path, capsys):
    for cwd, program in (ROOT, "dataset/get.py"), (tmp_path, ROOT / "dataset" / "get.py"):
        done = subprocess.run([sys.executable, program, "--list"], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr and re.search(r"horse2zebra +1067 +1334 +120 +140", done.stdout)
    for arguments in [], ["nope"], ["horse2zebra", "--sha256", "12"]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        out, error = capsys.readouterr()
        assert stop.value.code == 2 and not out and error.count("\n") == 1
    for root, argv in (tmp_path, ["--dataset_dir", str(tmp_path)]), (Path("dataset"), []):  # as main.py
        with pytest.raises(UserError) as error:
            main(["cityscapes", *argv])
        one_line(error, "https://www.cityscapes-dataset.com", "trainA", root / "cityscapes")


def test_the_folder_does_not_hide_the_module():
    found = PathFinder.find_spec("dataset", [str(ROOT)])
    assert (ROOT / "dataset" / "get.py").is_file() and Path(found.origin) == ROOT / "dataset.py"


def test_the_hint_names_the_command_for_the_names_that_configs_use():
    for config in (ROOT / "configs").glob("*2*.txt"):
        name = re.search(r"--dataset (\S+)", config.read_text())[1]
        assert f"dataset/get.py {name}`" in hint(name)
    assert hint("my_own") == ""


def test_the_hint_works_in_the_folder_where_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    get = ROOT / "dataset" / "get.py"
    assert hint("cat2dog") == f"`python {get} cat2dog` fetches it"
    assert hint("world128", "my data") == f"`python {get} world --size 128 --dataset_dir 'my data'` makes it"
    with pytest.raises(UserError) as error:
        main(["cityscapes"])
    one_line(error, Path("dataset") / "cityscapes")
    monkeypatch.chdir(ROOT / "dataset")
    assert hint("cat2dog", ".") == "`python get.py cat2dog` fetches it"
    with pytest.raises(UserError) as error:
        main(["cityscapes"])
    assert "dataset/cityscapes" not in one_line(error, "cityscapes")
