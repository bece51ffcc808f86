"""Time our training step and translation against the plain reference (tests/reference.py).

    python benchmarks/bench.py                          the table of README, on whatever device is there
    python benchmarks/bench.py --cases 128 --rounds 9   one case, more rounds
    python benchmarks/bench.py --scaling                our step against batch and picture size, with exponents

Both sides live in processes of their own, ours set up as main.py does it, the reference as plain
PyTorch, and take steps in turns, so that what else the machine does hits both.  A line shows the
median of the ratios of neighbouring steps, the range of the middle half, each process's peak memory,
and the share of our step that its convolutions (and the matrix products that stand for some) take.
"""

import argparse
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

CASES = {  # name: options; the first three are the bars of the project
    "128": "--img_size 128",
    "256": "--img_size 256",
    "demo": "--img_size 64 --ch 16 --n_res 4 --n_dis 6",
    "64": "--img_size 64 --n_dis 6",
    "128 b4": "--img_size 128 --batch_size 4",
    "64 full": "--img_size 64 --n_dis 6 --light false",
}


# ------------------------------------------------------------------------------- inside the processes


def serve(side: str, options: str):
    """Build one side, then answer lines: 'step', 'translate', 'share', 'memory', each with a number."""
    if side == "ours":
        import main  # first: it sets what torch reads when it is imported

    import torch

    import main
    import NICE
    import utils

    args = main.parse_args(options.split())
    device = torch.device(args.device)
    if side == "ours":
        utils.keep_freed_memory()
        model = NICE.NICE(args)
    else:
        from reference import Reference

        model = Reference(args.img_size, args.ch, args.n_res, args.n_dis, args.light, device=device)
    shape = (args.batch_size, 3, args.img_size, args.img_size)
    real = [torch.rand(shape, device=device) * 2 - 1 for _ in "AB"]

    def finish():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def timed(function):
        """Seconds a call takes, on average over a second of calls."""
        finish()
        start, n, seconds = time.perf_counter(), 0, 0.0
        while seconds < 1:
            function()
            finish()
            n, seconds = n + 1, time.perf_counter() - start
        return seconds / n

    @torch.no_grad()
    def translate():
        z = model.disA.encode(real[0]) if side == "ours" else model.disA(real[0])[-1]
        model.gen2B(z)

    def share():
        from torch.profiler import ProfilerActivity, profile

        cuda = device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
            model.train_step(*real)
            finish()
        kind = "self_device_time_total" if cuda else "self_cpu_time_total"
        rows = [(event.key.lower(), getattr(event, kind)) for event in profiler.key_averages()]
        inside = ("conv", "aten::mm", "linear_pointwise", "im2col", "col2im", "gemm", "cutlass", "cudnn")
        return sum(t for key, t in rows if any(word in key for word in inside)) / sum(t for _, t in rows)

    def memory():
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    calls = {
        "step": lambda: timed(lambda: model.train_step(*real)),
        "translate": lambda: timed(translate),
        "share": share,
        "memory": memory,
    }
    print("ready", flush=True)
    for line in sys.stdin:
        print(calls[line.strip()](), flush=True)


class Side:
    def __init__(self, side: str, options: str):
        command = [sys.executable, __file__, "--serve", side, "--options", options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"bench.py: the {side} process did not start")

    def ask(self, what: str) -> float:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---------------------------------------------------------------------------------------- the tables


def ratios(ours: Side, reference: Side, what: str, rounds: int) -> tuple[list[float], list[float]]:
    """(reference / ours for each round, our seconds); the order within a round alternates."""
    found, seconds = [], []
    for _ in range(6):  # warm up; both heaps settle after a few steps
        ours.ask(what), reference.ask(what)
    for turn in range(rounds):
        if turn % 2:
            r, o = reference.ask(what), ours.ask(what)
        else:
            o, r = ours.ask(what), reference.ask(what)
        found.append(r / o)
        seconds.append(o)
    return sorted(found), seconds


def table(cases, rounds: int, extra: str):
    print("| case | what | times as fast | middle half | peak memory, ours / reference | convolutions | our time |")
    print("|---|---|---|---|---|---|---|")
    for name in cases:
        options = f"{CASES[name]} {extra}"
        ours, reference = Side("ours", options), Side("reference", options)
        for what in ("step", "translate"):
            r, seconds = ratios(ours, reference, what, rounds)
            spread = f"{r[len(r) // 4]:.2f} - {r[-1 - len(r) // 4]:.2f}"
            memory = share = ""
            if what == "step":  # read before translating, which needs less
                a, b = ours.ask("memory"), reference.ask("memory")
                memory = f"{a:.0f} / {b:.0f} MB = {100 * a / b:.0f}%"
                share = f"{100 * ours.ask('share'):.0f}%"
            median = statistics.median(r)
            mine = f"{statistics.median(seconds):.3g} s"
            print(f"| {name} | {what} | **{median:.2f}** | {spread} | {memory} | {share} | {mine} |", flush=True)
        ours.close(), reference.close()


def scaling(rounds: int, extra: str):
    """Our step against batch size (at 64 px) and picture size (batch 1); exponents by least squares."""
    plans = {
        "batch": [(n, f"--img_size 64 --n_dis 6 --batch_size {n}") for n in (1, 2, 4, 8)],
        "size": [(s, f"--img_size {s} --n_dis 6") for s in (64, 128, 256, 512)],
    }
    for axis, plan in plans.items():
        print(f"\n| {axis} | seconds a step | a picture, relative |\n|---|---|---|")
        points = []
        for value, options in plan:
            side = Side("ours", f"{options} --ch 16 --n_res 4 {extra}")
            for _ in range(3):
                side.ask("step")
            seconds = statistics.median(side.ask("step") for _ in range(rounds))
            side.close()
            points.append((value, seconds))
            each = seconds / value if axis == "batch" else seconds
            first = points[0][1] / points[0][0] if axis == "batch" else points[0][1]
            print(f"| {value} | {seconds:.3g} | {each / first:.2f} |", flush=True)
        x, y = ([math.log(p[i]) for p in points] for i in (0, 1))
        mx, my = statistics.mean(x), statistics.mean(y)
        slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)
        print(f"\nseconds grow as {axis}^{slope:.2f}")


def start_up():
    """From the call to the first finished step, against importing torch and torchvision."""

    def run(*command):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - begin

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run("demo.py")
        # --dataset_dir with a copied name, so that the demo's own ending (translate, measure) stays out
        Path(folder, "start").symlink_to(ROOT / "dataset" / "demo", target_is_directory=True)
        first = ["main.py", "@configs/demo.txt", "--dataset", "start", "--dataset_dir", folder]
        first += ["--result_dir", folder, "--iteration", "1"]
        pairs = [(run("-c", "import torch, torchvision"), run(*first)) for _ in range(3)]
    imports, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"importing torch and torchvision: {imports:.1f} s; start to first step, grid, checkpoint: {whole:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES)[:3], choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--extra", default="", help="more options for both sides, e.g. '--amp bf16 --compile true'")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.options)
        return
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    print(f"{device}, torch {torch.__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}\n")
    if args.start:
        start_up()
    elif args.scaling:
        scaling(args.rounds, args.extra)
    else:
        table(args.cases, args.rounds, args.extra)


if __name__ == "__main__":
    main()
