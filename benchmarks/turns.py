"""CPU time of steps and translations by the fast layers against --plain true, or in bf16 against float32, in turns.

    python benchmarks/turns.py translate plain --methods cyclegan cut --sizes 128 256 --rounds 5
    python benchmarks/turns.py step bf16 --methods nice cyclegan --sizes 128 --rounds 3
    python benchmarks/turns.py scale --methods all --sizes 64 128 --batches 1 4

Both sides take turns in one process of one thread, and its CPU time is counted, so that other load on the machine
changes little.  A line shows the median of the ratios of neighbouring turns: fast / plain, or
float32 / bf16.

scale: seconds and peak memory of a step over picture sizes (the first batch size) and batch sizes (the first picture
size), with the exponents of both; also called by bench.py --scaling --methods.
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from options import DECLARED, Parser
from utils import UserError, run


def made(words: str, *more: str):
    """A trainer with these options on a CPU with one thread, and random pictures for a step."""
    import torch

    import main  # first: it sets what torch reads when it is imported
    import methods
    from layers import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    args = main.parse_args([*shlex.split(words), "--device", "cpu", "--iteration", "1000", *more])
    model = methods.create(args)
    batch = [torch.rand(args.batch_size, 3, args.img_size, args.img_size) * 2 - 1 for _ in "AB"]
    return model, batch


def peak_memory() -> float:
    """Peak main memory of this process in MB; NaN if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def exponent(x, y) -> float:
    """b of the least-squares line log y = a + b log x."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def seconds(function) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def sided(what: str, way: str, words: str, size: int):
    """The functions to time, ours and the other."""
    import torch

    import layers

    training = size_option(words, size) if what == "step" else ""
    model, batch = made(f"{words} {training}")
    other = made(f"{words} {training}", "--amp", "bf16")[0] if way == "bf16" else model
    for each in {model, other}:
        each.prepare(*batch)
    picture = (torch.rand(1, 3, size, size) * 2 - 1).contiguous(memory_format=model.layout)

    def call(trainer, plain: bool):
        layers.use_definitions(plain)
        if what == "step":
            trainer.train_step(*batch)
            return
        with torch.no_grad(), trainer._autocast():
            trainer.translate(picture, *trainer.directions[0])

    if what == "translate":
        for net in (*model.networks().values(), *other.networks().values()):
            net.eval()
    if way == "bf16":
        return lambda: call(model, False), lambda: call(other, False)
    return lambda: call(model, False), lambda: call(model, True)


def size_option(words: str, size: int) -> str:
    """Options for pictures of this size; a small picture allows NICE-GAN fewer layers."""
    nice = "--method nice" in words
    return f"--img_size {size}" + " --n_dis 6" * (nice and size < 96)


def turns(what: str, way: str, words: str, size: int, rounds: int) -> str:
    """A line of the table."""
    ours, other = sided(what, way, words, size)
    ours(), other()
    found = []
    for k in range(rounds):
        spent = {f: seconds(f) for f in ((ours, other) if k % 2 else (other, ours))}
        found.append((spent[ours], spent[other]))
    ratio = statistics.median(a / b for a, b in found)
    a, b = (statistics.median(side) for side in zip(*found, strict=True))
    return f"| {words} | {size} | {ratio:.2f} | {a:.3g} | {b:.3g} |"


def growth(x: list[int], y: list[float]) -> str:
    """The exponent of y over x, and that of the last two points, where fixed costs count least."""
    if len(x) < 2:
        return ""
    return f"{exponent(x, y):.2f}" + (f", last {exponent(x[-2:], y[-2:]):.2f}" if len(x) > 2 else "")


def scale(words: str, sizes: list[int], batches: list[int]) -> str:
    """A line with exponents: of seconds and peak memory over the number of pixels, and over the batch.

    A size or batch that the method refuses is left out, with its reason on stderr; "": all are.
    """
    found = {}  # (size, batch): seconds, MB

    def measure(size: int, batch: int):
        if (size, batch) not in found:
            try:
                found[size, batch] = alone(f"{words} {size_option(words, size)} --batch_size {batch}")
            except UserError as error:
                print(f"{words} at {size} px, batch {batch} is left out: {error}", file=sys.stderr)

    for size in sizes:
        measure(size, batches[0])
    first = next((size for size, _ in found), None)
    for batch in batches if found else ():
        measure(first, batch)
    pixels = [(size**2, *row) for (size, batch), row in found.items() if batch == batches[0]]
    batched = [(batch, *row) for (size, batch), row in found.items() if size == first]
    cells = [words, ", ".join(f"{math.isqrt(row[0])}" for row in pixels), ", ".join(f"{row[0]}" for row in batched)]
    for rows in (pixels, batched):
        numbers, *columns = zip(*rows, strict=True) if rows else ((), (), ())
        cells += [growth(numbers, column) for column in columns]
    cells.append(", ".join(f"{row[1]:.3g}" for row in pixels))
    return f"| {' | '.join(cells)} |" if found else ""


def cases(names: list[str]) -> list[str]:
    """Options for each method; all: every method."""
    return [f"--method {name}" for name in (DECLARED if names == ["all"] else names)]


def scale_table(names: list[str], sizes: list[int], batches: list[int], extra: str = ""):
    """Print the table of `scale`; extra: options of all, such as --ch 16 for narrow networks."""
    print("| options | sides | batches | time, pixels | memory, pixels | time, batch | memory, batch | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for words in cases(names):
        if line := scale(f"{words} {extra}".strip(), sizes, batches):
            print(line, flush=True)


def alone(words: str) -> list[float]:
    """Seconds of a step and MB of memory, of a process of its own.  UserError: it refuses these options."""
    command = [sys.executable, __file__, "alone", "--options", words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().rpartition("\n")[2])
    return json.loads(done.stdout)


def measured(words: str) -> list[float]:
    model, batch = made(words)
    before = peak_memory()
    model.prepare(*batch)
    for _ in range(model.period):
        model.train_step(*batch)
    spent = seconds(lambda: [model.train_step(*batch) for _ in range(model.period)]) / model.period
    return [spent, peak_memory() - before]


def main():
    parser = Parser(prog="turns.py", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("step", "translate", "scale", "alone"))
    parser.add_argument("way", nargs="?", choices=("plain", "bf16"), default="plain")
    parser.add_argument("--methods", nargs="+", default=["all"], help="methods, each with its options in quotes")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256], help="sides of pictures")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "alone":
        print(json.dumps(measured(args.options)))
        return
    if args.what == "scale":
        scale_table(args.methods, args.sizes, args.batches)
        return
    print(f"| options | size | ratio | seconds | {args.way}, seconds |\n|---|---|---|---|---|")
    for words in cases(args.methods):
        for size in args.sizes:
            print(turns(args.what, args.way, words, size, args.rounds), flush=True)


if __name__ == "__main__":
    run(main, "turns.py")
