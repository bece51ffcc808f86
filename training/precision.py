"""Mixed precision on a CPU: what --amp auto chooses."""

from contextlib import suppress
from pathlib import Path

# With AVX-512's bf16 instructions a step of these methods takes at most 1 / 1.2 of its time in float32, from this many
# pixels x base channels x batch on (docs/performance.md); others were slower or not measured.
PAYS = ("nice", "cyclegan", "ugatit", "cut", "fastcut", "gcgan", "munit", "unit")
LEAST_WORK = 128 * 128 * 64


def processor_flags() -> set[str]:
    """The names that Linux gives to the processor's instructions; elsewhere none."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("flags"):
                return set(line.split())
    return set()


def automatic(args, flags: set[str]) -> tuple[str, str]:
    """What --amp auto means for these options on a processor with these instructions: (a value of --amp, why)."""
    work = args.img_size**2 * args.ch * args.batch_size
    if not args.device.startswith("cpu"):
        return "none", "it chooses on CPUs only"
    if {"amx_bf16", "amx_tile"} <= flags:
        return "bf16", "this processor has AMX"
    if "avx512_bf16" not in flags:
        return "none", "this processor has neither AMX nor AVX-512 with bf16, without which bf16 is slower"
    if args.method not in PAYS or work < LEAST_WORK:
        size = f"--method {args.method} and pictures of {args.img_size} pixels"
        return "none", f"with {size} bf16 is not known to be 1.2 times as fast on this processor"
    return "bf16", "this processor has AVX-512 with bf16"
