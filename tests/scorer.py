"""Shared by the scorer's tests: Inception with rule-made weights, and calls of fid_kid.py."""

import json
import math
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import fid_kid
import utils
from scoring import inception

FIXTURES = Path(__file__).parent / "fixtures"
KEYS = {name: tuple(shape) for name, shape in json.loads((FIXTURES / "inception_keys.json").read_text())}


def rule_weights():
    """Random weights of the FID Inception, seeded by the parameters' names; the fixture's features used them."""
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
    """Move torch.hub's cache to `home`, with rule weights in place of the published ones: yields their path."""
    path = home / "checkpoints" / Path(inception.WEIGHTS_URL).name
    path.parent.mkdir()
    torch.save(rule_weights(), path)
    before = torch.hub._hub_dir  # None: TORCH_HOME decides
    torch.hub.set_dir(str(home))
    try:
        yield path
    finally:
        torch.hub._hub_dir = before


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def run(capsys, *argv):
    """Run main() in this process: its lines, and the JSON report."""
    report = Path(str(argv[0])).parent / "report.json"
    fid_kid.main([*map(str, argv), "--json", str(report)])
    out, err = capsys.readouterr()
    return out.splitlines(), json.loads(report.read_text(), parse_constant=pytest.fail)


def fails(capsys, *argv):
    """Check that main() ends with status 2 and one line on stderr; return the line."""
    with pytest.raises(SystemExit) as stop:
        utils.run(lambda: fid_kid.main([*map(str, argv)]), "fid_kid.py")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and err.startswith("fid_kid.py: error: ")
    assert err.count("\n") == 1 and "Traceback" not in err
    return err
