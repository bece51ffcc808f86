"""The command line: option files, paths, option names of other programs, torchrun's variables, arbitrary input."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import ROOT, SMALL, Run, complaint, latest, pictures, snapshot, train, trained, until

import main
import methods
import options
from checkpoints.files import load_checkpoint
from options import COMMON, OTHER_PROGRAMS, boolean, data_set, resuming
from training import cost
from training.cost import refuse_what_cannot_fit, training_memory
from training.distributed import of_torchrun, own_device
from utils import UserError

# -------------------------------------------------------------------------------------- option files


def file(tmp_path, content: bytes) -> Path:
    path = tmp_path / "o.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content, words",
    [
        (b"--lr 1\n--dataset it's\n", "o.txt, line 2: no closing quotation"),
        (b"--lr 1\n\n--dataset caf\xe9\n", "o.txt, line 3: byte 0xe9 is no UTF-8"),
        (b"--lr 1\\", "o.txt, line 1: no escaped character"),
        (b"--lr\x001", "o.txt, line 1: a NUL byte"),
        (b"@o.txt", "o.txt contains itself"),
        (b"--lr 1\n@nowhere.txt", "option file nowhere.txt is not there"),
        (b"--lr 1\n@/", "option file / is no file"),
        (b"--lr one", "argument --lr: 'one' is no number"),
    ],
)
def test_a_bad_option_file_is_named_with_its_line(tmp_path, monkeypatch, capsys, content, words):
    file(tmp_path, content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main.parse_args(["@o.txt"])
    told = capsys.readouterr().err
    assert end.value.code == 2 and words in told and told.count("\n") == 1, told


def test_option_files_of_other_systems_and_in_one_another(tmp_path):
    inner = tmp_path / "inner.txt"
    inner.write_bytes(b"--lr 3e-4  # a comment\n--dataset 'two words'\n")
    outer = file(tmp_path, b"\xef\xbb\xbf--ch 8\r\n@" + os.fsencode(inner) + b"\r\n--iteration 7")
    args = main.parse_args([f"@{outer}", f"@{inner}", "--lr", "1"])  # twice, but not within itself
    assert (args.ch, args.lr, args.dataset, args.iteration) == (8, 1, "two words", 7)


def test_the_command_that_continues_drops_a_checkpoint_named_in_a_file(tmp_path):
    named = file(tmp_path, b"--checkpoint old.pt\n--ch 8\n")
    assert shlex.split(main.parse_args([f"@{named}"]).command)[2:] == ["--ch", "8", "--resume", "True"]
    named.write_bytes(b"--ch 8\n")
    assert shlex.split(main.parse_args([f"@{named}"]).command)[2:] == [f"@{named}", "--resume", "True"]


# ------------------------------------------------------------------------------------ data set paths


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = pictures(tmp_path_factory.mktemp("data"))
    (folder / "dataset" / "tiny" / "testB" / "0.png").unlink()
    (folder / "dataset" / "tiny" / "testB" / "1.png").unlink()
    (folder / "dataset" / "tiny" / "testB").rmdir()
    return folder


@pytest.mark.parametrize("typed", ["cat2dog", "cat2dog/", "some/where/cat2dog", "/some//where/cat2dog//", "../cat2dog"])
def test_a_data_set_may_be_typed_as_the_path_of_its_folder(typed):
    args = main.parse_args(["--dataset", typed])
    assert args.dataset == "cat2dog"
    assert Path(args.dataset_dir, args.dataset) == Path("dataset" if typed.startswith("cat") else "", typed)
    if "some" in typed:
        main.parse_args(["--dataset", typed, "--dataset_dir", os.path.dirname(typed.rstrip("/")) + "/."])


def test_a_path_trains_translates_and_continues_and_no_test_folder_is_needed(folder):
    where = str(folder / "dataset" / "tiny") + "/"
    argv = [*TINY.split(), "--result_dir", str(folder / "results"), "--dataset", where]
    command = [sys.executable, "main.py", *argv, "--iteration", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"no testB in {where[:-1]}: samples show training pictures only") == 1
    assert len(list((folder / "results" / "tiny" / "img").iterdir())) == 2
    run = trained(folder, "--phase test --direction AtoB")
    assert len(list((folder / "results" / "tiny" / "fakeB").glob("*.png"))) == 2
    assert not (folder / "results" / "tiny" / "fakeA").exists()
    run = trained(folder, f"--resume True --iteration 2 --dataset {where}")
    assert "continuing from step 1" in run.output


def test_resume_auto_starts_and_continues_with_one_command(folder):
    for end in (1, 2):
        run = trained(folder, f"--resume auto --iteration {end}")
        assert ("continuing from step 1" in run.output) == (end == 2)
    assert load_checkpoint(latest(folder), methods.recognise)["start_iter"] == 2
    run = trained(folder, "--resume auto --iteration 1")
    assert "nothing to do: step 2 is finished and --iteration is 1" in run.output
    latest(folder).write_bytes(b"\x80damaged")  # not a reason to start a new run
    before = snapshot(folder)
    complaint(trained(folder, "--resume auto", status=2), "tiny_params_latest.pt", "damaged")
    assert snapshot(folder) == before


def test_a_light_model_continues_at_another_size_and_says_so(folder):
    trained(folder, "--iteration 1")
    run = trained(folder, "--iteration 2 --resume True --img_size 64")
    assert "--img_size 48 -> 64" in run.output
    assert load_checkpoint(latest(folder), methods.recognise)["args"]["img_size"] == 64


# ------------------------------------------------------------------- option names of other programs


def test_every_name_of_other_programs_has_an_option_of_ours():
    ours = {f"--{o.name}" for name in methods.METHODS for o in (*COMMON, *methods.load(name).options)}
    assert {answer.split(" ")[0].rstrip(",") for answer in OTHER_PROGRAMS.values()} <= ours | {"--method"}
    common = {o.name for o in COMMON}
    assert not common & OTHER_PROGRAMS.keys()


@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("columns", [60, 80, 132])
def test_help_fits_its_terminal_and_shows_every_default(method, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main.main(["--method", method, "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: main.py [@FILE] [options]\n\n")
    assert max(map(len, said.splitlines())) <= columns
    headings = [line for line in said.splitlines() if re.fullmatch("[a-z ]+:", line)]
    assert headings[:3] == ["options:", "basics:", "translate:"]
    names = {o.name for o in (*COMMON, *methods.load(method).options)} | {"method"}
    assert set(re.findall(r"^  --(\w+)", said, re.M)) == names
    words = " ".join(said.split())
    for name, default in methods.load(method).defaults.items():
        assert re.search(f"--{name} [^-].*?\\(default: {re.escape(str(default))}\\)", words), name
    assert "default: None" not in said and "\xa0" not in said


# ---------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("method", methods.METHODS)
def test_what_cannot_fit_is_refused_with_the_estimate_for_every_method(method, monkeypatch):
    monkeypatch.setattr(cost, "_resident", lambda: 600 * 2**20)  # a run's; the tests' own process may have grown
    args = main.parse_args(["--method", method, "--device", "cpu"])
    needed = training_memory(methods.load(args.method), args)["total"]
    monkeypatch.setattr(cost, "physical_memory", lambda device: needed)
    refuse_what_cannot_fit(methods.load(args.method), args)
    monkeypatch.setattr(cost, "physical_memory", lambda device: 0.7 * needed)
    with pytest.raises(UserError) as error:
        refuse_what_cannot_fit(methods.load(args.method), args)
    said = re.match(r"training needs about ([0-9.]+) GiB of memory and there are ([0-9.]+): lower", str(error.value))
    assert [float(n) for n in said.groups()] == pytest.approx([needed / 2**30, 0.7 * needed / 2**30], abs=0.2)
    monkeypatch.setattr(cost, "physical_memory", lambda device: 8 * needed)
    monkeypatch.setattr(cost, "training_memory", None)  # takes seconds, and is not called if memory is plentiful
    refuse_what_cannot_fit(methods.load(args.method), args)


# --------------------------------------------------------------------------------------- processes

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def environment(monkeypatch, **values):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_torchruns_variables_are_read_together_or_not_at_all(monkeypatch):
    for alone in ({}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": " "}):
        environment(monkeypatch, **alone)
        assert of_torchrun() is None
    environment(monkeypatch, **TORCHRUN)
    assert of_torchrun() == TORCHRUN | {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "MASTER_PORT": 29500}
    for change, words in [
        ({"RANK": "", "MASTER_ADDR": ""}, "RANK, MASTER_ADDR not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', no number"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT is 'x', no number"),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE 2"),
    ]:
        environment(monkeypatch, **TORCHRUN | change)
        with pytest.raises(UserError, match=words):
            of_torchrun()


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment(monkeypatch)
    assert [own_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda", "cuda:1", "cpu"]
    with pytest.raises(UserError, match="this machine has 2 CUDA GPUs; try cpu"):
        own_device("cuda:2")
    environment(monkeypatch, **TORCHRUN)
    assert (own_device("cuda"), own_device("cpu")) == ("cuda:1", "cpu")
    with pytest.raises(UserError, match="--device cuda:1 would put all processes on one GPU; --device cuda"):
        own_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--nproc_per_node=1"):
        own_device("cuda")


@pytest.mark.parametrize("values", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two"}, {**TORCHRUN, "MASTER_PORT": "99999"}])
def test_half_a_torchrun_is_one_line(folder, values):
    if "MASTER_PORT" in values:
        values = {**values, "RANK": "0"}
    run = train(folder, "--iteration 1", environment=values)
    assert run.wait() in (1, 2), run.output
    complaint(run)


# ------------------------------------------------------------------------------- arbitrary options


OPTIONS = {m: {o.name: o for o in (*COMMON, *methods.load(m).options)} for m in SMALL}
for of_method in OPTIONS.values():
    for avoided in ("compile", "num_workers", "result_dir", "output"):  # take long, or would write anywhere
        del of_method[avoided]
ODD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
FEW = st.integers(1, 8).map(str)
WRONG = ["", "0", "-1", "1e400", "nan", "-inf", "1_0", "٣", "1e-30", "0x10", "999999999", "9" * 30, "9" * 5000]
SIZES = st.integers(12, 18).map(lambda n: str(4 * n))
NUMBERS = st.sampled_from([FEW] * 4 + [SIZES] * 4 + [st.sampled_from(WRONG)]).flatmap(lambda kind: kind)
BOOLEANS = st.sampled_from(["true", "False", "YES", "0", "auto"] * 4 + ["maybe", ""])
PLACES = ["tiny", "tiny/", "dataset/tiny", "./dataset/tiny", "././dataset//tiny/"] * 3
PLACES += ["../tiny", ".", "/", "", "x/../tiny", "nowhere", "~", "-x", "ü", "/dev/null"]
KINDS = {boolean: BOOLEANS, resuming: BOOLEANS}
KINDS |= dict.fromkeys((data_set, options.folder), st.sampled_from(PLACES))
FORMS = ["--{0}={1}"] * 12 + ["--{0} {1}", "--{0}", "{1}", "-{0}={1}", "--{0}x={1}"]


@st.composite
def words(draw):
    """A few options, most of them real, with values that may or may not be valid."""
    method = draw(st.sampled_from(["nice"] * 8 + sorted(OPTIONS)))  # the folder holds a run of nice
    found = [f"--method={method}", *SMALL[method].split()]
    for _ in range(draw(st.integers(1, 3))):
        options_of = OPTIONS[draw(st.sampled_from([method] * 19 + sorted(OPTIONS)))]
        option = options_of[draw(st.sampled_from(sorted(options_of)))]
        right = st.sampled_from(option.choices).map(str) if option.choices else KINDS.get(option.kind, NUMBERS)
        value = draw(st.sampled_from([right] * 38 + [NUMBERS, ODD]).flatmap(lambda kind: kind))
        found += [part.format(option.name, value) for part in draw(st.sampled_from(FORMS)).split(" ")]
    return found


LINES = st.lists(st.one_of(words().map(" ".join), ODD, st.just("# x"), st.just("@o.txt")), max_size=3).map("\n".join)
FILES = [st.none()] * 6 + [LINES.map(str.encode), st.binary(max_size=40)]
FILES = st.sampled_from(FILES).flatmap(lambda kind: kind)


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory):
    folder = pictures(tmp_path_factory.mktemp("fuzz"))
    trained(folder, "--iteration 1")
    return folder


def try_anything(folder, argv, option_file):
    """One call: it ends by itself or by a signal; an error is one line and leaves all files unchanged."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        for path in ("dataset", "results"):
            (place / path).mkdir()
        for path in folder.rglob("*"):
            if "output_" not in path.name and path.is_file():
                copy = place / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, copy)
        if option_file is not None:
            (place / "o.txt").write_bytes(option_file)
            argv = [*argv, f"@{place / 'o.txt'}"]
        before = snapshot(place)
        places = ["--dataset", "tiny", "--dataset_dir", "dataset", "--result_dir", "results"]
        rest = ["--device=cpu", "--num_workers=0", "--log_freq=1", "--iteration=2"]
        run = Run(place, "runs:program", [*places, *rest, *argv], at=place, RLIMIT_AS=12 * 2**30)
        logs = place / "results" / "tiny"  # where a new training moves an earlier one's aside

        def on_its_way():
            with suppress(FileNotFoundError):
                return (logs / "log.jsonl").read_text().count("\n") > 3

        until(lambda: run.poll() is not None or on_its_way(), run, patience=8)
        for _ in range(2):  # the first asks for a stop, the second ends it at once
            if run.poll() is None:
                run.signal(signal.SIGTERM)
                until(lambda: run.poll() is not None, run, patience=4)
        assert run.wait() in (0, 1, 2, 130, 143), (argv, run.output[-2000:])
        assert "Traceback" not in run.output, (argv, run.output[-2000:])
        if run.status == 2:
            assert run.output.splitlines()[-1].startswith("main.py: error: "), (argv, run.output)
            if "not finite" not in run.output:
                assert snapshot(place) == before, (argv, run.output)
        return run.status


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=[pytest.mark.slow])])
def test_anything_typed_ends_in_a_status_and_a_line(trained_folder, count):
    seen = {}

    @settings(max_examples=count, deadline=None, database=None, derandomize=count == 100,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(words(), FILES)
    def attempt(argv, option_file):
        status = try_anything(trained_folder, argv, option_file)
        seen[status] = seen.get(status, 0) + 1

    attempt()
    print(seen)
    assert seen.get(2, 0) > count / 4 and seen.get(0, 0) + seen.get(143, 0) > count / 20, seen


@pytest.mark.parametrize("words", ["--phase test", "--preprocess crop", "--method sincut"])
def test_jpegs_are_shrunk_in_training_alone(words, capsys):
    with pytest.raises(SystemExit) as error:
        main.parse_args([*words.split(), "--shrink_jpegs", "--device", "cpu"])
    assert error.value.code == 2 and "--shrink_jpegs" in capsys.readouterr().err.splitlines()[-1]
