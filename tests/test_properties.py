"""Properties that hold for every value: of the learning rate, the options, the names of results."""

import argparse
import math
import os
import shlex
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import main
import options
from images.decode import EXTENSIONS, read_image
from images.encode import save_picture
from images.files import list_images, output_paths
from options import as_argv
from training.method import lr_at

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ---------------------------------------------------------------------------------- the learning rate

steps = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))
rates = st.floats(1e-12, 1e3)


@given(steps, rates)
@example((1, 1), 1e-4)
@example((3, 3), 1e-4)
def test_the_rate_is_pure_and_within_its_bounds(step_and_iteration, lr):
    step, iteration = step_and_iteration
    rate = lr_at(step, iteration, lr)
    assert 0 <= rate <= lr and rate == lr_at(step, iteration, lr)
    assert lr_at(step, iteration, lr, decay=False) == lr
    if step <= iteration // 2:
        assert rate == lr
    elif step < iteration:
        assert rate >= lr_at(step + 1, iteration, lr)


@given(st.integers(2, 10**6), rates)
def test_the_rate_is_exact_at_its_landmarks(n, lr):
    half = n // 2
    assert lr_at(1, n, lr) == lr_at(half, n, lr) == lr
    assert math.isclose(lr_at(half + 1, n, lr), lr * (half - 1) / half, rel_tol=1e-9, abs_tol=1e-9 * lr)
    assert lr_at(2 * half, n, lr) == lr_at(n, n, lr) == 0  # with an odd n for two steps, and never below


# ------------------------------------------------------------------------------------------ the options

positive, natural = st.integers(1, 10**6), st.integers(0, 10**6)
weight = st.floats(0, 1e30)
# as main.py's own help promises them; words of any letters but those that end an argument early
words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
folder_names = words.filter(lambda text: text not in (".", "..") and not set(text) & {"/", "\\"})
VALUES = {
    "phase": st.sampled_from(["train", "test"]),
    "dataset": folder_names,
    "result_dir": words,
    "dataset_dir": words,
    "light": st.booleans(),
    "decay_flag": st.booleans(),
    "nice": st.booleans(),
    "ra": st.booleans(),
    "cache": st.booleans(),
    "keep_size": st.booleans(),
    "heads": st.sets(st.sampled_from([0, 1, 2]), min_size=1).map(lambda chosen: tuple(sorted(chosen))),
    "shared_layers": st.sampled_from([1, 2, 3]),
    "encoder_updates": st.sampled_from(["d", "both", "g"]),
    "on_nan": st.sampled_from(["stop", "skip"]),
    "img_ch": st.sampled_from([1, 3]),
    "img_size": st.integers(24, 1000).map(lambda n: 4 * n),
    "ch": positive,
    "n_res": natural,
    "n_dis": st.just(6),
    "iteration": positive,
    "batch_size": positive,
    "grad_accum": positive,
    "num_workers": natural,
    "print_freq": positive,
    "save_freq": positive,
    "log_freq": positive,
    "keep": natural,
    "seed": natural,
    "lr": st.floats(1e-30, 1e30),
    "weight_decay": weight,
    "adv_weight": weight,
    "cycle_weight": weight,
    "recon_weight": weight,
}
chosen = st.fixed_dictionaries({"n_dis": VALUES.pop("n_dis")}, optional=VALUES)


def parsed(argv, saved=None) -> dict:
    """What the options mean, without the record of how they were given; {} for a combination that is refused."""
    try:
        args = vars(main.parse_args([*argv, "--device", "cpu"], saved))
    except SystemExit:
        return {}
    return {k: v for k, v in args.items() if k not in ("given", "command")}


@RELAXED
@given(chosen)
def test_options_survive_being_typed_stored_and_read_from_a_file(options):
    typed = as_argv(options)
    args = parsed(typed)
    assert not args or options.items() <= args.items()
    assert parsed([], saved=options) == args
    spread = [word for k, v in options.items() for word in (f"--{k}", as_argv({k: v})[0].partition("=")[2])]
    if not any(str(v).startswith(("-", "@")) for v in options.values()):
        assert parsed(spread) == args
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "options.txt")
        lines = [shlex.quote(word) for word in typed]
        file.write_text("# a comment\n\n" + "\n".join(lines) + "  # and another\n")
        if not any(len(line.splitlines()) > 1 for line in lines):
            assert parsed([f"@{file}"]) == args


@RELAXED
@given(chosen, st.lists(st.sampled_from(["--resume", "--resume True", "--resume=yes", "--checkpoint x.pt"])))
def test_the_printed_command_means_the_same_training_resumed(options, extra):
    argv = [*as_argv({**options, "phase": "train"}), "--device", "cpu"]
    for words in extra:
        argv += words.split()
    try:
        args = main.parse_args(argv)
    except SystemExit:
        return
    again = shlex.split(args.command)
    assert again[:2] == ["python", "main.py"]
    expected = {**vars(args), "resume": True, "checkpoint": None}
    assert {k: v for k, v in vars(main.parse_args(again[2:])).items() if k not in ("given", "command")} == {
        k: v for k, v in expected.items() if k not in ("given", "command")
    }


@given(st.text(max_size=30))
def test_a_data_set_is_one_folder_or_refused(text):
    try:
        inside = Path("results", options.name(text))
    except argparse.ArgumentTypeError:
        return
    assert inside.parent == Path("results") and inside.name not in ("", ".", "..")


# ----------------------------------------------------------------------------- the names of the results

EVERY_BYTE = st.integers(1, 255).filter(lambda byte: byte != ord("/"))
names = st.one_of(
    st.lists(EVERY_BYTE, min_size=1, max_size=250).map(lambda name: os.fsdecode(bytes(name))),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60),
    st.sampled_from([" ", "-rf ~", "a'b\"c", "two\nlines", "\udcff\udc80", "ü" * 125, "x" * 250, "%s{}", "\\"]),
).filter(lambda name: len(os.fsencode(name)) <= 250 and not name.startswith("."))  # hidden ones are no inputs


@RELAXED
@given(st.lists(names, min_size=1, max_size=3), names, st.sampled_from(sorted(EXTENSIONS)))
def test_a_result_is_written_under_its_own_name_inside_the_folder(stems, parent, ending):
    pixels = np.full((2, 3, 3), 128, np.uint8)
    with tempfile.TemporaryDirectory() as temporary:
        inputs, results = Path(temporary, "in"), Path(temporary, "out", "fakeB")
        wanted = {Path(stem + ending) for stem in stems} | {Path(parent, stem + ending) for stem in stems}
        for name in wanted:
            (inputs / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(inputs / name, format="PNG")
        found = list_images(inputs)
        for name in output_paths(found, inputs):
            save_picture(pixels, results / name)
        written = {p.relative_to(results) for p in Path(temporary, "out").rglob("*") if p.is_file()}
        assert written == wanted
        assert all(read_image(results / name).size == (3, 2) for name in written)
