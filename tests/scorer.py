"""What the scorer's tests share: Inception with weights by rule, and calls of the command."""

import json
import math
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import fid_kid
from scoring import inception

FIXTURES = Path(__file__).parent / "fixtures"
KEYS = {name: tuple(shape) for name, shape in json.loads((FIXTURES / "inception_keys.json").read_text())}


def rule_weights():
    """Weights of the FID Inception made from the parameters' names; the fixture's features are theirs."""
    state = {}
    for name, shape in KEYS.items():
        gen = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = torch.rand(shape, generator=gen) * 0.5 + 0.75
        elif name.endswith(("running_mean", "bias")):
            state[name] = torch.randn(shape, generator=gen) * 0.1
        else:
            state[name] = torch.randn(shape, generator=gen) * math.sqrt(2 / math.prod(shape[1:]))
    return state


@contextmanager
def cache_of_rule_weights(home):
    """torch.hub's cache is in `home`, with rule weights where pytorch-fid looks for the published ones: their path."""
    path = home / "checkpoints" / Path(inception.WEIGHTS_URL).name
    path.parent.mkdir()
    torch.save(rule_weights(), path)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(home))
    try:
        yield path
    finally:
        torch.hub.set_dir(before)


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def run(capsys, *argv):
    """main() in this process: its lines, and the JSON report."""
    report = Path(str(argv[0])).parent / "report.json"
    fid_kid.main([*map(str, argv), "--json", str(report)])
    out, err = capsys.readouterr()
    return out.splitlines(), json.loads(report.read_text(), parse_constant=pytest.fail)


def fails(capsys, *argv):
    """main() must end with status 2 and one line on stderr, which is returned."""
    with pytest.raises(SystemExit) as stop:
        fid_kid.main([*map(str, argv)])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and err.startswith("fid_kid.py: error: ")
    assert err.count("\n") == 1 and "Traceback" not in err
    return err
