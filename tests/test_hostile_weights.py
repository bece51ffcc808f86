"""Files of weights from strangers: what takes the process, the machine or the time is refused in one line."""

import io
import os
import pickle
import re
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import options
from test_structure import sources

import methods
import NICE
import utils
from checkpoints.files import load_checkpoint, save_checkpoint
from checkpoints.weights import read_weights
from nicegan import Translator
from nicegan.command_line import refuse_what_the_file_lacks
from scoring import inception, lpips
from utils import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def state():
    return NICE.NICE(options()).state()


def archive(path, pickled: bytes, *records):
    """A zip file as torch writes it, around this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in records:
            file.writestr(f"archive/data/{name}", content)
    return path


def refused(path, *words):
    with pytest.raises(UserError) as error:
        load_checkpoint(path, methods.recognise)
    assert str(error.value).isprintable() and path.name in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ%btQ"  # of so many numbers
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0%btR"


def tensor(numel, size, stride):
    """The opcodes of a tensor (size,) in a storage of `numel` numbers."""
    sides = b"J" + size.to_bytes(4, "little") + b"\x85J" + stride.to_bytes(4, "little") + b"\x85\x89N"
    return TENSOR % (numel.to_bytes(4, "little"), sides)


def nested(depth):
    return b"\x80\x02}" + b")" + b"\x85" * depth + b"K\1s."


def doubled(depth):
    """A dict whose key is a tuple of 2^depth members: its hash takes for ever."""
    steps = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth))
    return b"\x80\x02)q\0" + steps + b"}h%cK\1s." % depth


PICKLES = {
    "a key nested without end": (nested(10**6), "neither a name nor a number"),
    "a key whose hash takes for ever": (doubled(60), "neither a name nor a number"),
    "the same in an OrderedDict": (
        doubled(60)[:-7] + b"ccollections\nOrderedDict\n]h<K\1\x86a\x85R.", "neither a name nor a number"),
    "bytes from a number": (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "builtins.bytearray"),
    "an item of a tensor": (b"\x80\x02" + tensor(4, 4, 1) + b"K\1G@\0\0\0\0\0\0\0s.", "no dict"),
    "a tensor beyond its storage": (b"\x80\x02" + tensor(4, 2**31 - 1, 1) + b".", "larger than its storage"),
    "a storage beyond its record": (b"\x80\x02" + tensor(2**30, 4, 1) + b".", "shorter than its tensors"),
    "an encoding": (b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\x08\0\0\0punycode\x86R.", "encoding"),
    "a memo of four thousand million": (b"\x80\x02}r\xff\xff\xff\xff.", "no checkpoint"),
    "opcodes without end": (b"\x80\x02}" + b"N0" * 10**6 + b"N0.", "damaged"),
    "a stack that is empty": (b"\x80\x02(0s.", "damaged"),
    "protocol 0": (b"\x80\x02I1\n.", "opcode"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_neither_runs_nor_grows(name, tmp_path):
    pickled, *words = PICKLES[name]
    start = time.process_time()
    refused(archive(tmp_path / "x.pt", pickled, ("0", bytes(16))), *words)
    legacy = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + pickled
    legacy += pickle.dumps(["0"], 2) + (4).to_bytes(8, "little") + bytes(16)
    (tmp_path / "y.pt").write_bytes(legacy)
    refused(tmp_path / "y.pt")
    assert time.process_time() - start < 10


def test_what_torch_saves_is_read_equal(tmp_path):
    x = torch.randn(6, 4)
    saved = {
        "a": x, "view": x[1:3], "turned": x.t(), "none": torch.zeros(0, 3), "scalar": torch.tensor(2.5),
        "kinds": [torch.ones(3, dtype=t) for t in (torch.half, torch.bfloat16, torch.int64, torch.uint8, torch.bool)],
        "parameter": torch.nn.Parameter(torch.randn(3)), "plain": {1: (1.5, None, True, -7, 2**70, "\u00e9")},
        "size": x.shape, "module": torch.nn.BatchNorm2d(3).state_dict(), "bytes": b"\xff\0", "device": x.device,
    }  # fmt: skip
    for zipped in (True, False):
        torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        found = read_weights(tmp_path / "x.pt")
        assert found.keys() == saved.keys() and found["plain"] == saved["plain"] and found["bytes"] == saved["bytes"]
        flat = torch.utils._pytree.tree_leaves
        tensors = [[y for y in flat(kept) if isinstance(y, torch.Tensor)] for kept in (saved, found)]
        assert len(tensors[0]) == len(tensors[1]) > 10
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*tensors, strict=True))
        assert found["view"].untyped_storage().data_ptr() == found["a"].untyped_storage().data_ptr()


def test_a_directory_that_lies_is_refused(state, tmp_path):
    """Whatever the archive's end says, records lie in the file, under one name each."""
    file = tmp_path / "x.pt"
    save_checkpoint(state, file)
    whole = file.read_bytes()
    for old, new in ((b"PK\1\2", b"PK\1\3"), (b"PK\3\4", b"PK\3\5")):
        file.write_bytes(whole.replace(old, new, 1))
        refused(file)
    with zipfile.ZipFile(io.BytesIO(whole)) as inside:
        biggest = max(inside.infolist(), key=lambda r: r.file_size)
    sizes = biggest.file_size.to_bytes(4, "little") * 2
    at = whole.rindex(sizes)  # in the central directory
    file.write_bytes(whole[:at] + (2**31).to_bytes(4, "little") * 2 + whole[at + 8 :])
    refused(file, "directory")
    with zipfile.ZipFile(file, "w") as twice, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            twice.writestr("archive/data.pkl", b"\x80\x02}.")
    refused(file, "directory")


STRANGE = [
    ("args", {"lr": {}}), ("args", {"heads": [[1]]}), ("args", {"ch": 10**30}), ("args", {1: 2}), ("args", []),
    ("args", {"img_size": None}), ("args", {"load_size": 10**6}), ("args", {"preprocess": 3}),
    ("score", {}), ("score", {"step": "x", "name": "fid", "scores": {}}), ("score", {"step": 1, "name": 3}),
    ("score", {"step": 1, "name": "kid", "scores": {}, "intervals": {"kid": 3}}),
    ("rng", {}), ("rng", {"cpu": torch.zeros(3), "cuda": []}), ("rng", {"cpu": None, "cuda": None}),
    ("guard", {"dropped": -1}), ("guard", {"dropped": "many"}), ("ema", {"gen2B": 3}), ("ema", 3),
    ("memory", {"A": {1: 10**30}}), ("scalers", {"D": 3}), ("digest", {"args": 1}),
    ("start_iter", True), ("start_iter", 2**64), ("position", -1), ("metadata", {}),
    ("metadata", {"direction": "BtoC", "method": "nice"}),
    ("metadata", {"direction": ["AtoB"], "method": "nice"}), ("D_optimizer", {"state": 3}), ("D_optimizer", {}),
    ("gen2A", {"x": "y"}), ("gen2A", {1: torch.zeros(1)}), ("method", 3),
]  # fmt: skip


@pytest.mark.parametrize("name, value", STRANGE, ids=[f"{name} {i}" for i, (name, _) in enumerate(STRANGE)])
def test_what_no_checkpoint_holds_is_refused_before_it_is_used(state, tmp_path, name, value):
    file = tmp_path / "x.pt"
    torch.save({**state, name: value}, file)
    if name == "method":  # which the file's options say, not this entry
        assert load_checkpoint(file, methods.recognise)["method"] == "nice"
    else:
        refused(file)


def test_a_model_file_builds_no_more_than_it_holds(state, tmp_path):
    about = {"direction": "AtoB", "method": "nice"}
    args = {**state["args"], "ch": 1000, "light": False, "img_size": 1024, "n_res": 500}
    nets = {"gen2B": {"x": torch.zeros(2)}, "disA": {"x": torch.zeros(1)}}
    save_checkpoint({**nets, "args": args, "metadata": about}, tmp_path / "x.pt")
    found = load_checkpoint(tmp_path / "x.pt", methods.recognise)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="weights, and it holds 3"):
        refuse_what_the_file_lacks(found, tmp_path / "x.pt")
    with pytest.raises(UserError, match="Missing key"):
        Translator(tmp_path / "x.pt", device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


def test_a_network_takes_memory_for_what_the_file_holds(state, tmp_path):
    wide = {**state["gen2B"], "gamma.weight": torch.zeros(1)}
    fewer = {key: value for key, value in wide.items() if key != "gamma.weight"}
    for net, words in ((wide, "size mismatch"), (fewer, "Missing key")):
        save_checkpoint({**state, "gen2B": net}, tmp_path / "x.pt")
        with pytest.raises(UserError, match=words):
            Translator(tmp_path / "x.pt", device="cpu")
    with pytest.raises(UserError, match="gamma.weight is"):
        refuse_what_the_file_lacks({**state, "gen2B": wide, "method": "nice"}, tmp_path / "x.pt")


ARRAYS = {
    "a number of arrays": b"\x80\x02K\x01.",
    "a shape beyond its numbers": pickle.dumps(np.zeros((4, 4), np.float32)).replace(b"K\x04K\x04", b"K\x7fK\x7f"),
    "an object": pickle.dumps({"a": np.array([None], object)}),
    "nested without end": b"\x80\x02" + b"}K\x01" * 5000 + b"}" + b"s" * 5000 + b".",
    "a memo of four thousand million": b"\x80\x02}r\xff\xff\xff\xff.",
    "a long name": pickle.dumps(np.zeros(4, np.float32)).replace(b"_reconstruct", b"fromstring12"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_pickles_of_arrays_neither_run_nor_grow(name, tmp_path):
    (tmp_path / "x").write_bytes(ARRAYS[name])
    with pytest.raises(UserError, match="holds no weights"):
        lpips.read_weights(tmp_path / "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_draw_no_pictures(state, tmp_path, value):
    gen = {k: v.clone() for k, v in state["gen2B"].items()}
    next(iter(gen.values())).view(-1)[0] = value
    save_checkpoint({**state, "gen2B": gen}, tmp_path / "x.pt")
    nice = NICE.NICE(options())
    with pytest.raises(UserError, match="not finite"):
        nice.load((load_checkpoint(tmp_path / "x.pt", methods.recognise), tmp_path / "x.pt"))


def test_one_reader_of_weights(state, tmp_path):
    """torch.load stands nowhere in the program; the scorer's weights go through the same reader."""
    files = [ROOT / path for path in sources()]
    assert len(files) > 50
    other = re.compile(r"torch\.load\(|pickle\.load|torch\.jit\.load")
    assert not [path.name for path in files if other.search(path.read_text("utf-8"))]
    pickled = PICKLES["an item of a tensor"][0]
    with pytest.raises(UserError, match="not PyTorch weights"):
        inception.load_weights(archive(tmp_path / "x.pth", pickled, ("0", bytes(16))), None)


def test_names_that_are_no_utf8(state, tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.pt"))
    save_checkpoint(state, file)
    assert load_checkpoint(file, methods.recognise)["start_iter"] == 0


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "pipe.pt")
    for name in ("pipe.pt", "link.pt"):
        refused(tmp_path / name, "no regular file")


def test_lowest_versions_are_those_that_warn(monkeypatch, capsys):
    text = (ROOT / "requirements.txt").read_text()
    for package, least in utils.SAFE.items():
        stated = [tuple(map(int, v.split("."))) for v in re.findall(rf"^{package}>=([\d.]+)", text, re.M)]
        assert min(stated) == least, package
    monkeypatch.setitem(utils.SAFE, "torch", (99, 1))
    utils.warn_of_holes()
    assert re.fullmatch(r"torch [^\n]+ known security holes; pip install -r requirements.txt[^\n]+\n",
                        capsys.readouterr().err)  # fmt: skip
