"""Read files of torch.save without torch.load: nothing in a file is called, and nothing outgrows the file.

Such a file is a pickle, a small program that builds dicts, lists and tensors, and the numbers of the tensors.  As of
torch 1.6 both lie in an uncompressed zip archive; before, the numbers follow five pickles.  `interpret` is an
interpreter of the opcodes that torch writes.  It makes plain values and views of the mapped file; any other opcode,
function or kind of key is an error.  So the holes of torch's own unpicklers, and those of Python's, do not matter here.
"""

import io
import math
import mmap
import pickletools
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import torch

from utils import open_regular

MAX_OPCODES = 2_000_000  # of a pickle; an Adam state of 1,000 weights takes 60,000
MAX_VALUES = 2_000_000  # in the finished state, shared ones counted each time
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before torch 1.6

DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "Untyped": torch.uint8,
}  # fmt: skip


class Foreign(ValueError):
    """The file may be intact, and holds something other than names and numbers."""


def read_weights(path: Path):
    """What was saved in the file: dicts, lists and plain values; tensors are views of the mapped file.

    Raises OSError, or another Exception (mostly ValueError) if the file is damaged or hostile.
    """
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        if not size:
            raise ValueError("the file is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                state = _read_archive(archive, data)
        else:
            state = _read_legacy(data)
    _check_extent(state, size)
    return state


def _read_archive(archive: zipfile.ZipFile, data: mmap.mmap):
    """The state in a zip archive.  ValueError: damage, also of what a state without digests does not protect."""
    records = {}
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise ValueError("a record is compressed")  # it might unfold to any size
        header = data[record.header_offset : record.header_offset + 30]
        start = record.header_offset + 30 + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        if header[:4] != b"PK\3\4" or start + record.file_size > len(data) or record.filename in records:
            raise ValueError(f"the directory of the archive is wrong about {record.filename}")
        records[record.filename] = start, record.file_size, record.CRC

    def content(name):
        start, size, checksum = records[name]
        with memoryview(data) as view, view[start : start + size] as part:
            if zlib.crc32(part) != checksum:
                raise ValueError(f"the checksum of {name} differs")
        return start, size

    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("torch has written no such archive")
    root = pickles[0].removesuffix("data.pkl")
    for name in records:
        if not name.startswith(f"{root}data/"):
            start, size = content(name)  # tensors have digests
            if name == f"{root}byteorder":
                _check_byteorder(data[start : start + size] == b"little")

    def storage(dtype, key, numel):
        start, size, _ = records[f"{root}data/{key}"]
        if numel * dtype.itemsize > size:
            raise ValueError(f"storage {key} is shorter than its tensors")
        return _numbers(data, dtype, start, numel)

    start, size = content(pickles[0])
    state = interpret(io.BytesIO(data[start : start + size]), storage)
    if not isinstance(state, dict) or "digest" not in state:
        for name in records:
            content(name)
    return state


def _read_legacy(data: mmap.mmap):
    """The state in a file from before torch 1.6: five pickles, then each storage's length and numbers."""
    if data[:1] != b"\x80" or interpret(data) != MAGIC or interpret(data) != 1001:
        raise ValueError("torch has written no such file")
    _check_byteorder(interpret(data)["little_endian"])
    begin, found, places = data.tell(), {}, {}

    def shape_of(dtype, key, numel):
        if not isinstance(key, str) or found.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise ValueError("two storages have one name")
        return torch.empty(numel, dtype=dtype, device="meta")

    interpret(data, shape_of)  # a first time, for the lengths of the storages
    keys = interpret(data)
    if not isinstance(keys, list) or sorted(keys) != sorted(found):
        raise ValueError("its list of storages is wrong")
    start = data.tell()
    for key in keys:
        dtype, numel = found[key]
        if int.from_bytes(data[start : start + 8], "little") != numel:
            raise ValueError(f"storage {key} has another length")
        places[key] = start + 8
        start += 8 + numel * dtype.itemsize
    if start > len(data):
        raise ValueError("the file is truncated")
    data.seek(begin)
    return interpret(data, lambda dtype, key, numel: _numbers(data, dtype, places[key], numel))


def _check_byteorder(little: bool):
    if not little or sys.byteorder != "little":
        raise ValueError("it is of a machine with another order of bytes")


def _numbers(data: mmap.mmap, dtype: torch.dtype, start: int, numel: int) -> torch.Tensor:
    """The (numel,) numbers that start at this byte: a view of the file where they are aligned, else a copy."""
    if not numel:
        return torch.empty(0, dtype=dtype)
    if start % dtype.itemsize:
        return torch.frombuffer(bytearray(data[start : start + numel * dtype.itemsize]), dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, offset=start, count=numel)


# ------------------------------------------------------------------------------------------ the pickle


class Function:
    """What a pickle names to be called, and what is done instead."""

    def __init__(self, call):
        self.call = call


class Built:
    """Something that a pickle makes in two steps: build(state) is the second."""


def _ordered_dict(pairs=()) -> OrderedDict:
    return OrderedDict((_key(key), value) for key, value in (pairs.items() if isinstance(pairs, dict) else pairs))


def _tensor(storage, offset, size, stride, *_) -> torch.Tensor:
    """A view of a storage; hooks and requires_grad are dropped."""
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or not len(size) == len(stride) <= 16:
        raise ValueError("a tensor has an impossible shape")
    end = offset + (sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1) * (0 not in size)
    if end > storage.numel():
        raise ValueError("a tensor is larger than its storage")
    if math.prod(size) >= 2**48:
        raise ValueError("it unfolds to more than the file holds")
    return storage.as_strided(size, stride, offset)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # others may take for ever
        raise ValueError("its bytes are in an unknown encoding")
    return text.encode(encoding)


FUNCTIONS = {
    "collections OrderedDict": Function(_ordered_dict),
    "collections Counter": Function(_ordered_dict),
    "torch._utils _rebuild_tensor": Function(_tensor),
    "torch._utils _rebuild_tensor_v2": Function(_tensor),
    "torch._utils _rebuild_parameter": Function(lambda x, *_: x),
    "torch._utils _rebuild_parameter_with_state": Function(lambda x, *_: x),
    "torch Size": Function(lambda sides=(): tuple(sides)),
    "torch device": Function(lambda *words: ":".join(map(str, words))),
    "_codecs encode": Function(_bytes),
}
GLOBALS = FUNCTIONS | {
    f"{module} {kind}Storage": dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for kind, dtype in DTYPES.items()
}
PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
         "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _key(key):
    """A key of a dict.  ValueError: neither name nor number; the hash of a tuple may take for ever."""
    if type(key) not in (str, int):
        raise ValueError("a key is neither a name nor a number")
    return key


def interpret(file, storage=None, known=GLOBALS):
    """Run the pickle at the position of a file that is open for reading.

    storage: a function of dtype, key and number of elements that returns a tensor (n,).
    known: {"module name": Function or value} of what the pickle may name.
    """
    stack, marks, memo, storages = [], [], {}, {}
    push = stack.append

    def since_mark() -> list:
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    def persistent(identity) -> torch.Tensor:
        what, dtype, key, _, numel, *view = identity
        known = what == "storage" and isinstance(dtype, torch.dtype) and type(key) in (str, int)
        if not known or type(numel) is not int or not 0 <= numel < 2**48 or view not in ([], [None]):
            raise ValueError("it names an unknown kind of storage")
        if (dtype, key) not in storages:
            storages[dtype, key] = storage(dtype, key, numel)
        return storages[dtype, key]

    for count, (op, arg, _) in enumerate(pickletools.genops(file)):
        name = op.name
        if count > MAX_OPCODES:
            raise ValueError("its pickle is longer than that of any checkpoint")
        if marks and marks[-1] > len(stack):
            raise ValueError("its pickle takes what is not there")
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(memo[arg])
        elif name in PLAIN:
            push(arg)
        elif name in CONSTANTS:
            push(CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            push(tuple(since_mark()))
        elif name in TUPLES:
            n = TUPLES[name]
            stack[-n:] = [tuple(stack[-n:])]
        elif name == "EMPTY_DICT":
            push({})
        elif name == "EMPTY_LIST":
            push([])
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            target = stack[-1]
            if not isinstance(target, dict):
                raise ValueError("its pickle sets an item of what is no dict")
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            if type(stack[-1]) is not list:
                raise ValueError("its pickle appends to what is no list")
            stack[-1].extend(items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            words = arg if name == "GLOBAL" else f"{stack.pop(-2)} {stack.pop()}"
            if words not in known:
                raise Foreign(f"it asks for {words.replace(' ', '.')}, which no checkpoint needs; of a whole model, "
                              "save model.state_dict() alone")  # fmt: skip
            push(known[words])
        elif name == "BINPERSID":
            push(persistent(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            push(function.call(*arguments))
        elif name == "BUILD":
            state, target = stack.pop(), stack[-1]
            if isinstance(target, Built):
                target.build(state)
            elif type(state) is not dict or type(target) is not OrderedDict:  # notes on the versions of its modules
                raise ValueError("its pickle builds an unknown object")
        elif name == "STOP":
            if len(stack) != 1 or marks:
                raise ValueError("its pickle leaves something over")
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle has an unknown opcode, {name}")
    raise ValueError("its pickle has no end")


def _check_extent(state, room: int):
    """ValueError: the checkpoint unfolds to more than the `room` bytes of its file.

    Lists may contain one another many times, and a tensor may repeat one number without end.
    """
    todo, values = [state], MAX_VALUES
    while todo:
        x = todo.pop()
        if isinstance(x, torch.Tensor):
            room -= x.numel() * x.element_size()
        elif isinstance(x, (dict, list, tuple)):
            values -= len(x)
            todo.extend(x.values() if isinstance(x, dict) else x)
        if room < 0 or values < 0:
            raise ValueError("it unfolds to more than the file holds")
