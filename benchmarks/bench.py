"""Time our training step and translation against the plain reference (tests/reference.py).

    python benchmarks/bench.py                          the first three cases, on the best device present
    python benchmarks/bench.py --cases 128 --rounds 9   one case, more rounds
    python benchmarks/bench.py --against "--plain true" against our own step with other options
    python benchmarks/bench.py --old ../before          against our own step in another checkout of the program
    python benchmarks/bench.py --methods cyclegan cut   each method in units of NICE-GAN
    python benchmarks/bench.py --scaling --plot f.png   our step over batch and picture size, with exponents
    python benchmarks/bench.py --scaling --methods all  each method's step likewise, in CPU time and memory
    python benchmarks/bench.py --busy 0 1 2             our step beside so many busy processes
    python benchmarks/bench.py --profile --cases 128    the operations that take most of our step's time
    python benchmarks/bench.py --ours "--amp bf16"      our step with these options, the reference without

Each side has its own process: ours is set up as in main.py, the reference is plain PyTorch.  They take turns, so that
other load on the machine affects both.  A line shows the median of the ratios of neighbouring steps, the range of the
middle half, each process's peak memory, and the share of our step spent in convolutions and everything inside them.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import busy
from turns import exponent, peak_memory, scale_table

from options import Parser

CASES = {  # name: options; the first three have bars to pass
    "128": "--img_size 128",
    "256": "--img_size 256",
    "demo": "--img_size 64 --ch 16 --n_res 4 --n_dis 6",
    "64": "--img_size 64 --n_dis 6",
    "128 b4": "--img_size 128 --batch_size 4",
    "64 full": "--img_size 64 --n_dis 6 --light false",
    "256 b4": "--img_size 256 --batch_size 4",
    "tiny": "--img_size 48 --ch 2 --n_res 1 --n_dis 6",  # to try this program
    "tiny b4": "--img_size 48 --ch 2 --n_res 1 --n_dis 6 --batch_size 4",
}


PACE = {"warm": 6, "seconds": 1.0}  # warm-up rounds; minimum seconds of one measurement

# ------------------------------------------------------------------------------- inside the processes


def serve(side: str, options: str, least: float = 1.0):
    """Build one side, then answer the lines step, translate, profile and memory in JSON."""
    adaptive = None
    if side == "ours":
        import main  # first: it sets what torch reads when it is imported

    import torch

    import layers
    import main
    import methods

    args = main.parse_args(shlex.split(options))
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = args.benchmark_flag  # on both sides
    if side == "reference" and (args.amp != "none" or args.compile):
        sys.exit("bench.py: the reference is eager and in float32: give --amp and --compile to our side by --ours")
    if side == "ours":
        layers.keep_freed_memory()
        if hasattr(args, "threads"):  # --old: a program without the option
            from training.threads import Adaptive, is_adaptive, threads_for

            torch.set_num_threads(threads_for(args))
            adaptive = Adaptive(torch.get_num_threads()) if is_adaptive(args) else None
        model = methods.create(args)
    else:
        from reference import Reference

        model = Reference(args.img_size, args.ch, args.n_res, args.n_dis, args.light, device=device)
    shape = (args.batch_size, 3, args.img_size, args.img_size)
    batch = [torch.rand(shape, device=device) * 2 - 1 for _ in "AB"]
    if side == "ours":
        model.prepare(*batch)

    def finish():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def timed(function, period=1, least=least):
        """Mean seconds of a call, over at least `least` seconds and a multiple of `period` calls; at least one call."""
        finish()
        start, n, seconds = time.perf_counter(), 0, 0.0
        while not n or seconds < least or n % period:
            function()
            finish()
            n, seconds = n + 1, time.perf_counter() - start
        return seconds / n

    def train_step() -> float:
        return timed(lambda: model.train_step(*batch), least=0)

    @torch.no_grad()
    def translate():
        if side == "ours":
            model.translate(batch[0][:1], "A", "B")
        else:
            model.gen2B(model.disA(batch[0][:1])[-1])

    def operations():
        """[(name, own share of a step's time, calls a step)], longest first; and the convolutions' share."""
        from torch.profiler import ProfilerActivity, profile, schedule

        cuda, warmup, steps = device.type == "cuda", 4, 3
        activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
        # warm-up: the profiler's allocations move the tensors to new pages in the first steps
        plan = schedule(wait=0, warmup=warmup, active=steps, repeat=1)
        with profile(activities=activities, schedule=plan) as profiler:
            for _ in range(warmup + steps):
                model.train_step(*batch)
                finish()
                profiler.step()
        kind = "self_device_time_total" if cuda else "self_cpu_time_total"
        rows = [(event.key, getattr(event, kind), event.count / steps) for event in profiler.key_averages()]
        rows = [row for row in rows if not row[0].startswith("ProfilerStep")]
        total = sum(t for _, t, _ in rows)
        convolutions = sum(getattr(event, kind) for event in profiler.events() if convolves(event))
        return [(name, t / total, n) for name, t, n in sorted(rows, key=lambda row: -row[1])], convolutions / total

    def memory():
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return peak_memory()

    calls = {
        "step": lambda: timed(lambda: model.train_step(*batch), getattr(model, "period", 1)),
        "notice": lambda: busy.settle(adaptive, train_step, 12),
        "recover": lambda: busy.settle(adaptive, train_step, 6, again=True),
        "translate": lambda: timed(translate),
        "profile": operations,
        "memory": memory,
    }
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(calls[line.strip()]()), flush=True)


def convolves(event) -> bool:
    """Whether a profiled operation or kernel belongs to a convolution or to products that replace one."""
    words = ("conv", "spectralproduct", "gemm", "cutlass", "cudnn")
    return any(word in event.name.lower() for word in words) or bool(event.cpu_parent and convolves(event.cpu_parent))


class Side:
    """A process that trains and translates.  script: another checkout's bench.py instead of this one."""

    def __init__(self, side: str, options: str, script: str = __file__, threads: int | None = None):
        command = [sys.executable, script, "--serve", side, f"--options={options}"]
        command += [] if PACE["seconds"] == 1 else ["--seconds", str(PACE["seconds"])]
        more = {"env": os.environ | {"OMP_NUM_THREADS": str(threads)}} if threads else {}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"bench.py: the {side} process did not start")

    def ask(self, what: str):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---------------------------------------------------------------------------------------- the tables


def ratios(ours: Side, reference: Side, what: str, rounds: int, warm=6) -> tuple[list[float], list[float]]:
    """(reference / ours for each round, our seconds); the order within a round alternates."""
    found, seconds = [], []
    for _ in range(min(warm, PACE["warm"])):  # memory settles after a few steps
        ours.ask(what), reference.ask(what)
    for turn in range(rounds):
        if turn % 2:
            r, o = reference.ask(what), ours.ask(what)
        else:
            o, r = ours.ask(what), reference.ask(what)
        found.append(r / o)
        seconds.append(o)
    return sorted(found), seconds


def table(cases, rounds: int, extra: str, alone: str, against: str | None, old: str | None):
    """Print the table of ours against the reference.  alone: options of our side only."""
    print("| case | what | times as fast | middle half | peak memory, ours / reference | convolutions | our time |")
    print("|---|---|---|---|---|---|---|")
    for name in cases:
        options = f"{CASES[name]} {extra}"
        ours = Side("ours", f"{options} {alone}")
        if old:
            reference = Side("ours", options, str(Path(old) / "benchmarks" / "bench.py"))
        else:
            reference = Side("reference", options) if against is None else Side("ours", f"{options} {against}")
        for what in ("step", "translate"):
            r, seconds = ratios(ours, reference, what, rounds)
            memory = share = ""
            if what == "step":  # before translating adds to it
                a, b = ours.ask("memory"), reference.ask("memory")
                memory = f"{a:.0f} / {b:.0f} MB = {100 * a / b:.0f}%"
                share = f"{100 * ours.ask('profile')[1]:.0f}%"
            mine = f"{statistics.median(seconds):.3g} s"
            median = statistics.median(r)
            print(f"| {name} | {what} | **{median:.2f}** | {middle(r)} | {memory} | {share} | {mine} |", flush=True)
        ours.close(), reference.close()


def middle(values: list[float]) -> str:
    """The middle half of sorted values."""
    return f"{values[len(values) // 4]:.2f} - {values[-1 - len(values) // 4]:.2f}"


def compare(theirs: Side, ours: Side, rounds: int) -> dict:
    """Sorted ratios of our step and translation to theirs by round; our peak memory in MB; their step's seconds."""
    step, seconds = ratios(theirs, ours, "step", rounds, warm=2)
    memory = ours.ask("memory")  # before translating adds to it
    translate, _ = ratios(theirs, ours, "translate", rounds, warm=2)
    return {"step": step, "memory": memory, "translate": translate, "seconds": seconds}


def method_table(cases, rounds: int, extra: str, base: str):
    """Each method's step in units of the base method's in the same rounds, at the base's picture size."""
    print(f"| method and options | step, in units of {base}'s | middle half | peak memory | translating a picture |")
    print("|---|---|---|---|---|")
    for case in cases:
        theirs, ours = (Side("ours", f"{extra} --method {name_and_options}") for name_and_options in (base, case))
        found = compare(theirs, ours, rounds)
        step, translate = (statistics.median(found[what]) for what in ("step", "translate"))
        units = [f"**{step:.2f}**", middle(found["step"]), f"{found['memory'] / 1024:.1f} GB", f"{translate:.2f}"]
        print(f"| {case} | {' | '.join(units)} |", flush=True)
        ours.close(), theirs.close()


def profiles(cases, extra: str):
    """The ten operations with the largest own share of our step, for each case."""
    for name in cases:
        side = Side("ours", f"{CASES[name]} {extra}")
        for _ in range(6):
            side.ask("step")
        operations, convolutions = side.ask("profile")
        side.close()
        print(f"| {name}: operation | own share of the step | calls a step |\n|---|---|---|")
        for operation, share, calls in operations[:10]:
            print(f"| `{operation}` | {100 * share:.1f}% | {calls:.0f} |")
        print(f"| convolutions together | {100 * convolutions:.0f}% | |\n", flush=True)


def columns(rows) -> list[tuple]:
    return list(zip(*rows, strict=True))


def scaling(rounds: int, extra: str, plot: str | None):
    """Our step's time per picture over batch size (at 64 px) and picture size (batch 1): tables and a plot."""
    sides, batches = (64, 128, 256, 512), (1, 2, 4, 8)
    plans = {
        "batch size, 64 px": [(n, n, f"--img_size 64 --n_dis 6 --batch_size {n}") for n in batches],
        "picture size in pixels, batch 1": [(s, 1, f"--img_size {s} --n_dis 6") for s in sides],
    }
    found = {}
    for axis, plan in plans.items():
        print(f"\n| {axis} | time a picture, relative | seconds |\n|---|---|---|")
        times = []
        for value, pictures, options in plan:
            side = Side("ours", f"{options} {extra}")
            for _ in range(3):
                side.ask("step")
            times.append(statistics.median(side.ask("step") for _ in range(rounds)) / pictures)
            side.close()
            print(f"| {value} | {times[-1] / times[0]:.2f} | {times[-1]:.3g} |", flush=True)
        found[axis] = points = [(value, t / times[0]) for (value, *_), t in zip(plan, times, strict=True)]
        print(f"\ntime a picture grows as the {axis.split(',')[0]} to the power of {exponent(*columns(points)):.2f}")
    if plot:
        draw(found, plot)


def draw(found, path):
    """Plot one panel for each axis of `found`, {label: [(x, time)]}: points and fitted power."""
    from matplotlib import pyplot

    from utils import atomic

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, (axis, points) in zip(axes, found.items(), strict=True):
        x, y = columns(points)
        b, x0, y0 = exponent(x, y), statistics.geometric_mean(x), statistics.geometric_mean(y)
        ax.loglog(x, y, "o", label="measured")
        ax.loglog(x, [y0 * (v / x0) ** b for v in x], label=f"exponent {b:.2f}")
        ax.minorticks_off()
        ax.set(xlabel=axis, xticks=x, xticklabels=x, yticks=y, yticklabels=[f"{v:.2g}" for v in y])
        ax.set_ylabel("time a picture, relative")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
    with atomic(Path(path)) as temporary:
        figure.savefig(temporary, dpi=110, format=Path(path).suffix[1:] or "png")


def start_up():
    """Time from the call to the first finished step, and of importing torch and torchvision."""

    def run(*command):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - begin

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run("-m", "demo")
        # another name than demo, so that main.py does not translate and measure at the end
        Path(folder, "start").symlink_to(ROOT / "dataset" / "demo", target_is_directory=True)
        first = ["main.py", "@configs/demo.txt", "--dataset", "start", "--dataset_dir", folder]
        first += ["--result_dir", folder, "--iteration", "1"]
        pairs = [(run("-c", "import torch, torchvision"), run(*first)) for _ in range(3)]
    imports, whole = map(statistics.median, columns(pairs))
    print(f"importing torch and torchvision: {imports:.1f} s; start to first step, grid, checkpoint: {whole:.1f} s")


def main():
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES)[:3], choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128], help="of --scaling --methods")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4], help="of --scaling --methods")
    parser.add_argument("--plot", help="file for the plot of --scaling (needs matplotlib)")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--busy", nargs="+", type=int, metavar="N", help="our step beside N busy processes")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--extra", default="", help="options for both sides, e.g. '--benchmark_flag true'")
    parser.add_argument("--ours", default="", help="options for our side only, e.g. '--amp bf16 --compile true'")
    parser.add_argument("--device", help="device of both sides (default: the best present)")
    parser.add_argument("--against", help="reference: our own step with these additional options", metavar="OPTIONS")
    parser.add_argument("--old", help="reference: our own step in another checkout of the program", metavar="DIR")
    parser.add_argument("--methods", nargs="+", help="methods, each with its options in quotes, in units of --base")
    parser.add_argument("--base", default="nice", help="a method with its options")
    parser.add_argument("--warm", type=int, default=PACE["warm"], help="warm-up rounds")
    parser.add_argument("--seconds", type=float, default=PACE["seconds"], help="minimum seconds of one measurement")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.options, args.seconds)
        return
    PACE.update(warm=args.warm, seconds=args.seconds)
    import torch

    args.extra += f" --device {args.device}" if args.device else ""
    gpu = torch.cuda.is_available() and (args.device or "cuda").startswith("cuda")
    device = torch.cuda.get_device_name(args.device or "cuda") if gpu else f"CPU, {os.cpu_count()} cores"
    print(f"{device}, torch {torch.__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}\n")
    if args.busy:
        sides = {name: Side("ours", f"{CASES[name]} {args.extra} {args.ours}") for name in args.cases}
        busy.table(sides, args.busy, args.rounds)
    elif args.start:
        start_up()
    elif args.scaling and args.methods:
        scale_table(args.methods, args.sizes, args.batches, args.extra)
    elif args.scaling:
        scaling(args.rounds, args.extra, args.plot)
    elif args.profile:
        profiles(args.cases, args.extra)
    elif args.methods:
        method_table(args.methods, args.rounds, args.extra, args.base)
    else:
        table(args.cases, args.rounds, args.extra, args.ours, args.against, args.old)


if __name__ == "__main__":
    if "--serve" in sys.argv:  # with the modules of another checkout
        main()
    else:
        from utils import run

        run(main, "bench.py")
