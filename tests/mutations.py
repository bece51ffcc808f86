"""Mutations of files for the fuzz: bytes, zip archives, pickles, checkpoints, JSON."""

import copy
import io
import json
import pickletools
import random
import warnings
import zipfile

import torch

from checkpoints.files import digest

NUMBERS = [0, 1, -1, 7, 2**31, 2**63, -(2**63), 10**30, 1.5, -0.0, 1e308, float("nan"), float("inf")]
PLAIN = [None, True, False, "", "x\ny", "\udcff\x1b[2J", "../../x", "AtoB", "nice", [], {},
         [[]] * 9, {"a": [1]}, [1, "a"]]
JSON_TEXT = ["", "\\", '"', "[" * 9999, "{" * 9999, "\0", "1e999", "-", "NaN", "\\ud800", "9" * 5000, "\xff", ",", "}"]


def mutate(data: bytes, noise: random.Random) -> bytes:
    """Cut, flip, overwrite, move: half of it where the structure is, not the numbers."""
    kind = noise.randrange(5)
    if kind == 0:
        return data[: noise.randrange(len(data))]
    data = bytearray(data)
    for _ in range(noise.choice((1, 1, 2, 8))):
        n = len(data)
        start, end = noise.choice([(0, n), (0, 25_000), (n - 20_000, n), (n - 100, n)])
        at = noise.randrange(max(0, start), min(end, n))
        if kind in (1, 2):
            data[at] ^= 1 << noise.randrange(8)
        elif kind == 3:
            n = noise.choice((1, 2, 4, 8))
            data[at : at + n] = noise.choice((b"\xff" * n, bytes(n), b"\x7f" + b"\xff" * (n - 1), noise.randbytes(n)))
        else:
            piece = data[at : at + noise.randrange(1, 200)]
            other = noise.randrange(len(data))
            data[other : other + noise.choice((0, len(piece)))] = piece
    return bytes(data)


def _zipped(records: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two records of one name
        for name, content in records:
            archive.writestr(name, content)
    return out.getvalue()


def _records(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(data: bytes, noise: random.Random) -> bytes:
    """The same archive with its first record mutated under a right checksum, or one lost, swapped, cut, renamed, twice.

    The first record of a checkpoint is its pickle.
    """
    records = _records(data)
    first, (a, b) = next(iter(records)), noise.sample(list(records), 2)
    kind = noise.randrange(9)
    if kind < 3:
        records[first] = mutate(records[first], noise)
    elif kind == 3:
        del records[a]
    elif kind == 4:
        records[a], records[b] = records[b], records[a]
    elif kind == 5:
        records[a] = records[a][: len(records[a]) // 2]
    elif kind == 6:
        names = [b, "../x", "/x", f"{a}/", a.replace("/", "\\"), "x" * 3000, "\u0301"]
        return _zipped([(noise.choice(names) if name == a else name, x) for name, x in records.items()])
    elif kind == 7:
        return _zipped([*records.items(), (a, records[b])])
    else:
        records[f"{first.rpartition('/')[0]}/data/{noise.randrange(99)}"] = bytes(noise.choice((0, 9, 10**6)))
    return _zipped([*records.items()])


OPCODES = [op.code.encode("latin1") for op in pickletools.opcodes]


def reopcode(data: bytes, noise: random.Random) -> bytes:
    """The same archive with opcodes of its pickle replaced, lost, repeated or moved, under a right checksum."""
    records = _records(data)
    name = next(iter(records))
    pickled = records[name]
    ends = [place for _, _, place in pickletools.genops(pickled)] + [len(pickled)]
    parts = [pickled[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    for _ in range(noise.choice((1, 1, 1, 3, 10))):
        at, other = noise.randrange(len(parts)), noise.randrange(len(parts))
        kind = noise.randrange(6)
        if kind == 0:
            parts[at] = noise.choice(OPCODES) + parts[at][1:]
        elif kind == 1:
            parts[at] = noise.choice(OPCODES)
        elif kind == 2:
            parts[at] = parts[other]
        elif kind == 3:
            parts[at : at + 1] = []
        elif kind == 4:
            parts[at:at] = parts[other : other + noise.randrange(1, 20)]
        else:
            parts[at:at] = [noise.choice(OPCODES)] * noise.choice((1, 2, 1000))
        parts = parts or [b"."]
    records[name] = b"".join(parts)
    return _zipped([*records.items()])


def spoiled(state, noise: random.Random, values: list):
    """Lose or replace one entry of nested dicts and lists, however deep, in place; None if there is none."""
    inner, key = state, None
    while isinstance(inner, (dict, list)) and inner and (key is None or noise.random() < 0.7):
        outer, key = inner, noise.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = outer[key]
    if key is None:
        return
    if noise.random() < 0.2:
        del outer[key]
    elif noise.random() < 0.2 and isinstance(outer, dict):
        outer[noise.choice(["", "x", "a.b", "metadata", "args", "ema", "gen2B", "module.x", 3])] = outer.pop(key)
    else:
        outer[key] = copy.deepcopy(noise.choice(values))


def misbuild(data: bytes, noise: random.Random) -> bytes:
    """The same checkpoint with one entry, however deep, lost, renamed or replaced by something else."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    zeros = torch.zeros
    tensors = [zeros(()), zeros(0), zeros(2, 3), zeros(1).expand(10**9), zeros(2, 2).to_sparse()]
    tensors += [zeros(3, device="meta"), zeros(3, dtype=torch.int8), zeros(2, dtype=torch.cfloat)]
    tensors += [torch.full((3,), float("inf"))]
    spoiled(state, noise, [*tensors, *NUMBERS, *PLAIN])
    return _saved(state)


def retype(data: bytes, noise: random.Random) -> bytes:
    """The same checkpoint with options or descriptions of other kinds, and right digests."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    names = [k for k in ("args", "metadata", "memory", "rng", "guard", "scales", "scalers", "start_iter") if k in state]
    for _ in range(noise.choice((1, 1, 2, 5))):
        name = noise.choice(names[:2] if noise.random() < 0.6 else names)
        if noise.random() < 0.9:
            spoiled(state[name], noise, [*NUMBERS, *PLAIN, 3, 6, 64, 10**6, 2.0])
        else:
            state[name] = copy.deepcopy(noise.choice([*NUMBERS, *PLAIN]))
    if "digest" in state:
        with_digest = {key: value for key, value in state.items() if key != "digest"}
        state["digest"] = {key: digest(value) for key, value in with_digest.items()}
    return _saved(state)


def _saved(state) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def respell(value, noise: random.Random) -> bytes:
    """A JSON document with values lost or replaced, or its text mutated."""
    value = json.loads(json.dumps(value))
    for _ in range(noise.choice((0, 1, 1, 2, 4))):
        spoiled(value, noise, [*NUMBERS, 10**400, *PLAIN])
    if noise.random() < 0.05:
        value = copy.deepcopy(noise.choice([*NUMBERS, *PLAIN]))
    text = json.dumps(value)
    if noise.random() < 0.3:
        at = noise.randrange(len(text) + 1)
        text = text[:at] + noise.choice(JSON_TEXT) + text[at + noise.randrange(3) :]
    data = text.encode("utf-8", "surrogatepass")
    return mutate(data, noise) if noise.random() < 0.2 and data else data


def resafe(data: bytes, noise: random.Random) -> bytes:
    """A safetensors file with its header respelt under a right or wrong length, or its bytes mutated."""
    n = int.from_bytes(data[:8], "little")
    if noise.random() < 0.4:
        return mutate(data, noise)
    header = json.loads(data[8 : 8 + n])
    for _ in range(noise.choice((1, 1, 3))):
        spoiled(header, noise, [*NUMBERS, 10**400, *PLAIN, [0, 4], [4, 0], "F32", "F64", "F8_E4M3", [2**40, 2**40]])
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    length = len(text) if noise.random() < 0.9 else noise.choice((0, 1, n, 2**31, 2**63, 2**64 - 1))
    return length.to_bytes(8, "little") + text + data[8 + n :]


