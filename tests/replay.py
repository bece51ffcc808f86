"""Replays recordings of the authors' programs: the same weights, pictures and random numbers, the same losses.

    python tests/replay.py FILE.npz [METHOD [OPTIONS]]      prints the largest deviations

A recording holds config/*, init/NET/KEY, real_A, real_B (steps,N,3,S,S) uint8, draw/NAME (steps,...), train/LOSS
(steps,), final/NET/KEY, and eval/NAME: outputs for the first pictures at the initial weights, which
tests/outputs/METHOD.py computes.  A moved/NET/KEY may replace a final/NET/KEY: its difference from the initial value,
in 8-bit multiples of `unit`.
"""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import main  # isort: skip  # noqa: E402  (before torch: it sets what torch reads when it is imported)

import numpy as np  # noqa: E402
import torch  # noqa: E402

import methods  # noqa: E402
from options import COMMON, as_argv  # noqa: E402
from utils import evaluating  # noqa: E402

# options of the authors' programs: our names
RENAMED = {"ngf": "ch", "crop_size": "img_size", "n_blocks": "n_res"}


def config_of(data) -> dict:
    """config/* of a recording as plain values; arrays stay arrays."""
    found = {key.removeprefix("config/"): data[key] for key in data.files if key.startswith("config/")}
    return {key: value.item() if value.ndim == 0 else value for key, value in found.items()}


def argv_of(method: str, config: dict) -> list[str]:
    """The command-line options of this recording: every entry of its config that is an option here, and AS_RECORDED of
    tests/outputs/METHOD.py, which reproduces the recorded program's peculiarities."""
    renamed = RENAMED | getattr(outputs_of(method), "RENAMED", {})
    known = {o.name for o in (*COMMON, *methods.load(method).options)} - {"phase", "direction", "seed"}
    known -= {"preprocess", "load_size"}  # the pictures were recorded as the step saw them
    argv = {}
    for key, value in config.items():
        name = renamed.get(key, key)
        if name in known and not isinstance(value, np.ndarray):
            argv[name] = str(value).lower() if isinstance(value, bool) else value
    return as_argv(argv | getattr(outputs_of(method), "AS_RECORDED", {}))


def outputs_of(method: str):
    return importlib.import_module(f"outputs.{method}")


class Replayed:
    """The recorded random numbers of one step, by name; a name that was not recorded is an error."""

    def __init__(self, data, step: int, dtype=torch.float32, device="cpu"):
        self.data, self.step, self.dtype, self.device = data, step, dtype, device

    def _recorded(self, name: str):
        return self.data[f"draw/{name}"][self.step]

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        value = torch.from_numpy(self._recorded(name)).to(self.dtype)
        assert value.shape == shape, f"{name} is {tuple(value.shape)}, asked for {shape}"
        return value.to(self.device)

    def permutation(self, name: str, n: int) -> torch.Tensor:
        value = torch.from_numpy(self._recorded(name)).long()
        value = value[value >= 0]
        assert len(value) <= n and value.max() < n, f"{name} is no permutation of {n}"
        return value.to(self.device)

    def uniform(self, name: str) -> torch.Tensor:
        return self._scalar(name)

    def integer(self, name: str, n: int) -> torch.Tensor:
        assert self._scalar(name) < n
        return self._scalar(name).long()

    def _scalar(self, name: str) -> torch.Tensor:
        """0 where the authors' program drew no number, as it would not have mattered."""
        return torch.tensor(max(self._recorded(name).item(), 0), dtype=self.dtype, device=self.device)

    def decision(self, name: str) -> float:
        return self._number(name)

    def _number(self, name: str) -> float:
        value = self._recorded(name).item()
        assert value != -1, f"{name} was not drawn in step {self.step}"
        return value


def pictures(data, step: int, dtype=torch.float32) -> list[torch.Tensor]:
    """real_A, real_B of a step, (N,3,S,S) in [-1,1]."""
    return [(torch.from_numpy(data[f"real_{d}"][step]).to(dtype) / 255 - 0.5) / 0.5 for d in "AB"]


@contextmanager
def precision(dtype):
    """Inside this context, new tensors and networks have this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def trainer_of(method: str, data, *more: str):
    """A trainer with the recording's options and initial weights; more: additional options."""
    config = config_of(data)
    model = methods.create(main.parse_args(["--method", method, "--device", "cpu", *argv_of(method, config), *more]))
    model.prepare(*pictures(data, 0, torch.get_default_dtype()))
    for key in ("expectation", "std"):  # DistanceGAN's statistics of the training set
        if f"{key}_A" in config:
            model.statistics = {f"{k}_{d}": config[f"{k}_{d}"] for k in ("expectation", "std") for d in "AB"}
    for name, net in model.networks().items():
        prefix = f"init/{name}/"
        start = {k.removeprefix(prefix): torch.from_numpy(data[k]) for k in data.files if k.startswith(prefix)}
        assert net.state_dict().keys() == start.keys(), f"{name}: {net.state_dict().keys() ^ start.keys()}"
        net.load_state_dict(start)
    return model


def final_of(data, key: str):
    """The expected final value of NET/KEY, or None if the recording lacks it."""
    if f"moved/{key}" in data:
        return data[f"init/{key}"] + data[f"moved/{key}"] * data["unit"]
    return data.get(f"final/{key}")


def deviation(found, expected, relative=False) -> float:
    """The largest difference, absolute or relative to the expected values; NaN if either holds a NaN."""
    found, expected = (torch.as_tensor(x).detach().cpu().double() for x in (found, expected))
    assert found.shape == expected.shape, f"{tuple(found.shape)}, expected {tuple(expected.shape)}"
    difference = (found - expected).abs()
    return (difference / expected.abs().clamp_min(1e-12) if relative else difference).max().item()


def replay(method: str, path, *more: str, data=None, dtype=torch.float32) -> dict[str, dict[str, float]]:
    """Replay a recording: {"eval": {output: largest absolute deviation}, "losses": {loss: largest relative one},
    "first": the same for the first step only, "final": {network/key: largest absolute one}}.

    dtype: torch.float64 for a recording with a ReLU input so near 0 that float32's rounding may decide its sign.
    """
    data = np.load(path) if data is None else data
    with precision(dtype):
        return _replay(method, data, dtype, *more)


def _replay(method, data, dtype, *more):
    model = trainer_of(method, data, *more)
    idle = {k for name in ("noise_biases", "zero_gradient_keys") for k in data.get(f"config/{name}", np.array([]))}
    worst = {"eval": {}, "losses": {}, "first": {}, "final": {}}
    with torch.no_grad(), evaluating(model.networks().values()):
        real = (x.to(model.device) for x in pictures(data, 0, dtype))
        for name, value in outputs_of(method).evaluate(model, *real, data).items():
            worst["eval"][name] = deviation(value, data[f"eval/{name}"])
    assert {k for k in data.files if k.startswith("eval/")} >= {f"eval/{k}" for k in worst["eval"]}
    losses = [key.removeprefix("train/") for key in data.files if key.startswith("train/")]
    losses = [key for key in losses if data[f"train/{key}"].shape == (len(data["real_A"]),)]
    for step in range(len(data["real_A"])):
        model.draw = Replayed(data, step, dtype, model.device)
        terms = model.train_step(*pictures(data, step, dtype))
        for name in losses:
            expected = data[f"train/{name}"][step]
            if np.isnan(expected):
                assert name not in terms, f"step {step} has no {name}"
                continue
            off = deviation(terms[name], expected, relative=abs(expected) > 1e-12)
            worst["losses"][name] = max(off, worst["losses"].get(name, 0.0))
            if step == 0:
                worst["first"][name] = off
    for name, net in model.networks().items():
        for key, value in net.state_dict().items():
            expected = final_of(data, f"{name}/{key}")
            if f"{name}/{key}" not in idle and expected is not None:
                worst["final"][f"{name}/{key}"] = deviation(value, expected)
    return worst


if __name__ == "__main__":
    file = Path(sys.argv[1])
    found = replay(np.load(file)["config/method"].item() if len(sys.argv) < 3 else sys.argv[2], file, *sys.argv[3:])
    for kind, values in found.items():
        for name in sorted(values, key=values.get, reverse=True)[:3]:
            print(f"{kind:8}{values[name]:.2e}  {name}")
