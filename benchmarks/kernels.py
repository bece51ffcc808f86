"""Count the operations that a training step starts on a GPU, without a GPU, by fake tensors (tests/fake_cuda.py).

    python benchmarks/kernels.py                        our step at 256 px and the defaults, and the plain reference's
    python benchmarks/kernels.py --methods cyclegan cut methods, each with its options in quotes
    python benchmarks/kernels.py --names                the operations by name

An operation is a call that C++ sends to the device: one kernel or a few.  Copies of the layout are between tensors of
different strides; hidden copies, not counted in `all`, happen inside operations: a convolution brings its operands into
one layout, reflection padding into the contiguous one.  Fills make constants.  Views are not counted.
"""

import sys
from collections import Counter

from rows import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from options import Parser
from utils import at_once, run


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["nice", "reference"], metavar="METHOD",
                        help="methods, each with its options in quotes; all: every method")  # fmt: skip
    parser.add_argument("--names", action="store_true", help="also list the operations by name")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported
    at_once("kernels.py", parse_args)

import main as program  # isort: skip  (first: it sets what torch reads when it is imported)

import torch
from fake_cuda import fake_cuda, watched

import methods

KINDS = ("convolutions", "matrix products", "reductions", "elementwise", "copies of the layout", "other copies",
         "fills", "optimizers and norms", "hidden copies")  # fmt: skip


def started(case: str) -> list:
    """The operations of the last step of the second period; case: a method and options, or "reference"."""
    name, _, text = case.partition(" ")
    method = "nice" if name == "reference" else name
    with fake_cuda():
        args = program.parse_args(f"--method {method} --device cuda --graphs false {text}".split())
        shape = args.batch_size * args.grad_accum, args.img_ch, args.img_size, args.img_size
        batch = [torch.rand(shape, device="cuda") for _ in "AB"]
        if name == "reference":
            from reference import Reference

            model = Reference(args.img_size, args.ch, args.n_res, args.n_dis, args.light, device="cuda")
        else:
            model = methods.create(args)
            model.prepare(*batch)
            model.step = model.period - 1
        model.train_step(*batch)  # allocates what is allocated once
        if name != "reference":
            model.step = 2 * model.period - 1
        with watched() as seen:
            model.train_step(*batch)
    return seen.started


def kind_of(func, args, made) -> str:
    """The column of the table that counts an operation."""
    name = func.name().split("::")[1].split(".")[0]
    if "convolution" in name:
        return "convolutions"
    if name in ("mm", "addmm", "bmm", "mv", "addmv", "dot", "addmm_", "baddbmm", "vdot", "addr"):
        return "matrix products"
    if name.startswith(("_foreach", "_fused", "_amp")):
        return "optimizers and norms"
    if name in ("clone", "copy_", "_to_copy", "contiguous"):
        source, result = (args[1], args[0]) if name == "copy_" else (args[0], made[0])
        same = source.dtype == result.dtype and source.device == result.device
        return "copies of the layout" if same and source.stride() != result.stride() else "other copies"
    if name.startswith(("zeros", "ones", "full", "fill", "zero", "new_", "scalar_tensor", "arange")):
        return "fills"
    if name in ("sum", "mean", "var_mean", "std_mean", "norm", "linalg_vector_norm", "amax", "any", "_softmax",
                "_softmax_backward_data", "max", "min", "std", "var", "instance_layer_norm",
                "instance_layer_norm_backward", "native_batch_norm", "native_batch_norm_backward"):  # fmt: skip
        return "reductions"
    return "elementwise"


def hidden(func, args) -> int:
    """The number of layout copies inside an operation, as in cuDNN's convolutions and the padding's kernels."""
    name = func.name().split("::")[1].split(".")[0]
    maps = [x for x in args if isinstance(x, torch.Tensor) and x.dim() == 4]
    if "reflection_pad" in name:
        return sum(not x.is_contiguous() for x in maps)
    if "convolution" not in name:
        return 0
    last = any(is_last(x) for x in maps[-2:])  # input and weight decide
    return sum(
        not x.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format) for x in maps
    )


def is_last(x) -> bool:
    """Whether x is channels last and not also contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def table(cases: list[str]):
    print(f"| step | all | {' | '.join(KINDS)} |\n|---|{'---|' * (1 + len(KINDS))}")
    for case in cases:
        found = started(case)
        kinds = Counter(kind_of(func, args, made) for func, args, _, made in found)
        whole, kinds["hidden copies"] = kinds.total(), sum(hidden(func, args) for func, args, *_ in found)
        print(f"| {case} | **{whole:,}** | {' | '.join(f'{kinds[kind]:,}' for kind in KINDS)} |", flush=True)


def names(case: str):
    print(f"\n| {case} | calls |\n|---|---|")
    found = Counter((kind_of(func, args, made), func.name()) for func, args, _, made in started(case))
    for (kind, name), n in found.most_common():
        print(f"| {kind}: `{name}` | {n:,} |")


def main():
    args = parse_args()
    cases = [*methods.METHODS, "reference"] if args.methods == ["all"] else args.methods
    print(f"torch {torch.__version__}; 256 px, batch 1 and each method's defaults unless said otherwise\n")
    table(cases)
    for case in cases if args.names else ():
        names(case)


if __name__ == "__main__":
    run(main, "kernels.py")
