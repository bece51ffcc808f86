"""--phase info: all digits of the paper's Table 2, and the memory of a training."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import options

import main
import methods
from NICE import NICE
from training.cost import LiveBytes, dry_run, modules, report, short, training_memory

HOME = Path(__file__).parents[1]
HALF_PAPER = "--img_size 128 --ch 32 --n_dis 7 --n_res 6"


def pair_totals(text: str) -> dict[str, tuple[str, str]]:
    """{network: (parameters, multiply-adds)} of the printed table of pairs."""
    return {name: (p, m) for name, p, m in re.findall(r"^  ([a-z ]+?) +([\d.]+[KMG]?) +([\d.]+[KMG]?)$", text, re.M)}


def test_table_2(capsys):
    start = time.process_time()
    main.main(["--phase", "info", "--device", "cpu", "--dataset", "absent"])
    assert time.process_time() - start < 20  # no arithmetic: a real step takes longer
    pairs = pair_totals(capsys.readouterr().out)
    assert pairs == {"discriminators": ("93.7M", "12.0G"), "generators": ("16.2M", "67.6G")}


def test_table_2_of_the_smaller_generator():
    dry = dry_run(NICE, main.parse_args(["--n_res", "4", "--device", "cpu"]))
    with torch.device("meta"):
        rows = modules(dry.gen2A, dry.gen2A, torch.empty(1, 128, 64, 64), biases=True)
    assert (short(2 * sum(r[2] for r in rows)), short(2 * sum(r[3] for r in rows))) == ("11.5M", "48.2G")
    assert sum(r[2] for r in rows) == 5_743_296


@pytest.mark.parametrize("text", ["--nice false --heads 2", "--heads 0", "--shared_layers 3 --ra false --img_ch 1"])
def test_every_parameter_has_a_row(text, capsys):
    args = options(text)
    report(methods.load(args.method), args)
    out = capsys.readouterr().out
    sums = [int(n.replace(",", "")) for n in re.findall(r"^  sum +([\d,]+)", out, re.M)]
    dry = dry_run(methods.load(args.method), args)
    nets = [dry.disA, dry.gen2A] + ([dry.E["A"]] if dry.E is not dry.D else [])
    assert sums == [sum(p.numel() for p in net.parameters()) for net in nets]
    assert all(p.is_meta for net in nets for p in net.parameters())


# -------------------------------------------------------------------------------------------- memory


def test_live_bytes():
    with LiveBytes() as live:
        a = torch.empty(100, device="meta")
        b = a.view(10, 10)[2:]  # shares a's memory
        assert live.now == 400
        c = b * 2
        assert live.now == 400 + 320
        del c
        assert (live.now, live.peak) == (400, 720)
        x = torch.zeros(50, device="meta", requires_grad=True)
        y = x.exp().sum()  # backward needs exp's output
        assert live.now == 400 + 200 + 200 + 4
        y.backward()
        assert live.now == 400 + 200 + 4 + 200  # exp's output went, the gradient came
    assert live.peak >= 804


def test_parts_of_the_memory():
    step = "gradients, activations"
    args = options("--n_res 2 --ch 8")
    parts, dry = training_memory(methods.load(args.method), args), dry_run(methods.load(args.method), args)
    parameters = sum(p.numel() for net in dry.networks().values() for p in net.parameters())
    assert 4 * parameters <= parts["weights"] < 4.2 * parameters  # buffers are small
    assert parts["Adam's moments"] == 8 * parameters
    assert parts["total"] == sum(v for k, v in parts.items() if k != "total")
    twice = training_memory(NICE, options("--n_res 2 --ch 8 --batch_size 2"))
    assert parts[step] < twice[step] < 2 * parts[step] and twice["weights"] == parts["weights"]
    usual, frugal = (
        training_memory(NICE, options(f"--n_res 6 --ch 8 --batch_size 2 {more}"))[step]
        for more in ("", "--checkpoint_blocks")
    )
    assert frugal < 0.9 * usual


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize("text", ["--img_size 64 --ch 16 --n_res 4 --n_dis 6", HALF_PAPER, "--img_size 256 --ch 64"])
def test_estimated_memory_is_within_15_percent_of_the_measured_peak(text, folders):
    data, results = folders
    common = ["main.py", *text.split(), "--device", "cpu", "--dataset", "toy"]
    said = subprocess.run([sys.executable, *common, "--phase", "info"], cwd=HOME, capture_output=True, text=True)
    estimate = int(re.search(r"^  total +([\d,]+) MiB", said.stdout, re.M)[1].replace(",", ""))
    training = [*common, "--iteration", "2", "--num_workers", "0", "--dataset_dir", str(data), "--result_dir", results]
    # a small process in between: a child's ru_maxrss includes the memory of its parent
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code, sys.executable, *training], cwd=HOME, capture_output=True)
    peak = int(done.stdout) / 1024
    print(f"{text}: estimated {estimate} MiB, measured {peak:.0f} MiB")
    assert abs(estimate / peak - 1) < 0.15
