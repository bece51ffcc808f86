"""Table 1: real trainings at tiny settings, killed and repeated; the tables; the methods and their options."""

import csv
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import runs
from PIL import Image

import utils
from utils import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import contestants
import costs
import table1
import tables
import trainings

HOME = Path(__file__).parents[1]

TINY = "--img_size 48 --ch 2 --n_res 3 --num_workers 0 --log_freq 1 --iteration 1000"
SETTINGS = {"nice": "--n_dis 6", "cyclegan": "", "cut": "--netF_nc 8 --num_patches 16"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the data set toys (with counterparts and masks of A) and option files for it."""
    folder = tmp_path_factory.mktemp("table1")
    noise = np.random.default_rng(0)
    for place in ("trainA", "trainB", "testA", "testB", "truthA", "maskA"):
        (folder / "dataset" / "toys" / place).mkdir(parents=True)
        for i in range(3):
            pixels = noise.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            if place == "maskA":
                pixels[:] = 0
                pixels[10:30, 10:30] = 255
            Image.fromarray(pixels).save(folder / "dataset" / "toys" / place / f"{i}.png")
    for method, more in SETTINGS.items():
        path = folder / "configs" / ("" if method == "nice" else method) / "toys.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{TINY}\n{more}\n")
    return folder


@pytest.fixture
def toys(home, monkeypatch):
    """The same folder as ROOT; main.py runs in forks, which start fast."""
    monkeypatch.setattr(contestants, "ROOT", home)
    monkeypatch.setattr(trainings, "call", forked)
    write_costs(home)
    return home


def forked(words, output, threads):
    with one_at_a_time:  # threads share the server that forks
        run = runs.Run(output.parent, "runs:program", words)
        status = run.wait()
    with open(output, "a") as file:
        file.write(run.output)
    return status


one_at_a_time = threading.Lock()


def write_costs(home):
    """Write cost.json: NICE-GAN's step takes 10 ms, the others' multiples of it."""
    sizes = {"generators": [1000, 2_000_000], "discriminators": [3000, 4_000_000]}
    rows = {}
    for row, step in {"nice": 1.0, "nice-star": 0.75, "cyclegan": 1.3, "cut": 2.0}.items():
        options = contestants.enter(row, "toys", None).options
        rows[row] = {"options": options, "step": step, "memory": 700.0, "translate": step, "sizes": sizes}
    (home / "cost.json").write_text(json.dumps({"threads": 1, "seconds": 0.01, "rows": rows}))


def argv_of(home, result, text: str) -> list[str]:
    """The arguments of table1.py with these options, for a result folder."""
    found = {"dataset": "toys", "dataset_dir": home / "dataset", "result_dir": home / result, "pictures": 1}
    words = [f"--{k}={v}" for k, v in {**found, "cost": home / "cost.json", "jobs": os.cpu_count()}.items()]
    return words + text.split()


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """{method: {column: cell}} of a CSV file."""
    return {line["method"]: line for line in csv.DictReader(path.read_text().splitlines())}


# ------------------------------------------------------------------------------------ the whole command


THREE = "--minutes 0.001 --seeds 0 1 --methods nice nice-star cut"


@pytest.fixture
def trained(toys):
    """Three methods, two seeds, both directions, 0.001 minutes each: the result folder."""
    if not (toys / "trained").exists():
        table1.main(argv_of(toys, "trained", f"{THREE} --both-ways"))
    return toys / "trained"


def test_tables_and_picture(trained, toys, capsys):
    assert {p.name for p in trained.iterdir() if p.is_dir()} == {
        f"{row}-0.001min-{seed}{way}"
        for row, ways in {"nice": [""], "nice-star": [""], "cut": ["", "-BtoA"]}.items()
        for seed in (0, 1)
        for way in ways
    }
    found = rows_of(trained / "table1-0.001min.csv")
    assert list(found) == ["NICE-GAN", "NICE-GAN*", "CUT"]
    assert [row["steps"] for row in found.values()] == ["6", "8", "3"]  # equal time
    for row in found.values():
        assert (row["seeds"], row["pixels"]) == ("2", "48")
        assert all(row[f"{name}_{way}_std"] for name in ("fd", "kd") for way in ("A2B", "B2A"))
        assert row["background_A2B_mean"] and not row["background_B2A_mean"]  # B has no counterparts
        assert not any(name.startswith(("fid", "kid")) for name in row)  # those are only Inception's
    scores = [json.loads((trained / f"nice-0.001min-{s}" / "scores.json").read_text())["6"] for s in (0, 1)]
    mean = sum(s["fd_A2B"] for s in scores) / 2
    spread = abs(scores[0]["fd_A2B"] - scores[1]["fd_A2B"]) / 2**0.5
    assert float(found["NICE-GAN"]["fd_A2B_mean"]) == pytest.approx(mean, rel=1e-5)
    assert float(found["NICE-GAN"]["fd_A2B_std"]) == pytest.approx(spread, rel=1e-4)

    text = (trained / "table1-0.001min.md").read_text()
    assert re.search(rf"\| NICE-GAN \| 2 \| 48 \| 6 \| \**{mean:.1f} ± {spread:.1f}", text)
    assert found["NICE-GAN"]["seed_numbers"] == "0 1" and "--n_dis=6" in found["NICE-GAN"]["options"]
    assert "| CUT | 1.0K / 3.0K | 2.0M / 4.0M | 2.00 | 700 MB | 2.00 |" in text and "a training of its own" in text
    assert "nice-star: 8 steps at 48 pixels; configs/toys.txt, but for --iteration 8 (1000), --n_res 2 (3)" in text
    assert str(toys) not in text and str(HOME) not in text  # tables are shared
    with Image.open(trained / "table1-0.001min.png") as picture:
        assert picture.width > 1000


def test_pictures_of_others(trained, toys, monkeypatch, capsys):
    monkeypatch.setattr(trainings, "call", never)
    out = toys / "others"
    argv = argv_of(toys, "trained", f"--minutes 0.001 --seeds 0 --methods nice cut --table-only --out {out}")
    ours = trained / "nice-0.001min-0" / "toys"
    table1.main([*argv, "--outputs", f"both={ours}", "--outputs", f"files={ours / 'fakeB'}"])
    found = rows_of(out / "table1-0.001min.csv")
    measured = [name for name in found["both"] if name.endswith("_mean")]
    assert {name: found["both"][name] for name in measured} == {name: found["NICE-GAN"][name] for name in measured}
    assert found["files"]["fd_A2B_mean"] == found["both"]["fd_A2B_mean"] and not found["files"]["fd_B2A_mean"]
    assert found["CUT"]["fd_A2B_mean"] and not found["CUT"]["fd_B2A_mean"]  # the other direction was not requested
    assert found["both"]["seeds"] == "" and found["both"]["fd_A2B_std"] == ""

    copy = toys / "copy"
    shutil.copytree(ours / "fakeB", copy / "fakeB", dirs_exist_ok=True)
    (copy / "fakeB" / "1.png").unlink()
    with pytest.raises(UserError, match="--outputs theirs: .*fakeB has no picture 1$"):
        table1.main([*argv, "--outputs", f"theirs={copy}"])
    shutil.copy(ours / "fakeB" / "1.png", copy / "fakeB" / "1.png")
    shutil.copy(ours / "fakeB" / "1.png", copy / "fakeB" / "x.png")
    with pytest.raises(UserError, match="has a picture without a test picture of its name: x$"):
        table1.main([*argv, "--outputs", f"theirs={copy}"])
    with pytest.raises(UserError, match="two rows would be called CUT"):
        table1.main([*argv, "--outputs", f"CUT={ours}"])


def never(*_):
    raise AssertionError("a training was started")


def test_only_missing_scores_are_computed(trained, toys, monkeypatch):
    monkeypatch.setattr(trainings, "call", never)
    path, table = trained / "nice-0.001min-0" / "scores.json", trained / "table1-0.001min.csv"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps({"6": {k: v for k, v in scores["6"].items() if not k.startswith("kd")}}))
    table1.main(argv_of(toys, "trained", f"{THREE} --both-ways --out {toys / 'again'}"))
    assert json.loads(path.read_text()) == scores
    assert (toys / "again" / table.name).read_bytes() == table.read_bytes()


def test_other_options_in_the_same_place_are_refused(trained, toys):
    argv = argv_of(toys, "trained", "--minutes 0.001 --seeds 0 --methods nice --img_size 52")
    with pytest.raises(UserError, match="cost.json has measured nice with other options .*--img_size=48"):
        table1.main(argv)
    with pytest.raises(UserError, match="nice-0.001min-0 was trained with other options .*--img_size=48"):
        table1.main([*argv, "--table-only"])


def test_costs_are_measured_last_or_not_at_all(toys, monkeypatch, capsys):
    monkeypatch.setattr(costs, "measure", lambda *_: capsys.readouterr().out.count("done:") or never())
    argv = argv_of(toys, "last", "--steps 2 --seeds 0 --methods cyclegan")
    with pytest.raises(TypeError):  # after the training: the costs are no dict here
        table1.main(argv)
    monkeypatch.setattr(costs, "measure", never)
    argv = [*argv, "--no-cost", f"--cost={toys / 'none.json'}", "--format", "svg"]
    table1.main(argv)
    text = (toys / "last" / "table1-2.md").read_text()
    assert "Costs:" not in text and "(table1-2.svg)" in text and (toys / "last" / "table1-2.svg").exists()
    with pytest.raises(SystemExit):
        table1.main(argv_of(toys, "last", "--minutes 1 --no-cost"))
    assert "--minutes needs the costs: leave --no-cost out" in capsys.readouterr().err


def test_one_bar_over_all_trainings(tmp_path, capsys):
    both = [trainings.Training(name, tmp_path / name, "toys", 100, [], 1) for name in ("a", "b")]
    (tmp_path / "a" / "toys").mkdir(parents=True)
    (tmp_path / "a" / "toys" / "log.jsonl").write_text('{"step": 10}\n{"step": 60}\n')
    progress = trainings.Progress(both, [1, 3])  # a step of the second takes three times as long
    assert (progress.first, progress.total) == (60, 400)
    both[0].write_scores({"100": {}})
    progress.start -= 40
    progress.ends("done: a")
    progress.bar.close()
    seen = capsys.readouterr()
    assert seen.out.strip() == "done: a (1 of 2, about 5 min left)"
    assert "1 of 2 trainings:  25%|" in seen.err and all(len(frame) <= 80 for frame in seen.err.split("\r"))


def test_a_failing_method_lets_the_others_finish(toys, monkeypatch, capsys):
    real = trainings.call

    def call(words, output, threads):
        return 2 if "--method=cut" in words else real(words, output, threads)

    monkeypatch.setattr(trainings, "call", call)
    with pytest.raises(UserError, match=r"1 of 2 trainings failed, the first: cut-2-0: main.py ended with 2; see") as e:
        table1.main(argv_of(toys, "failing", "--steps 2 --seeds 0 --methods cut nice"))
    assert e.value.status == 1
    assert list(rows_of(toys / "failing" / "table1-2.csv")) == ["NICE-GAN"]


# ------------------------------------------------------------------------------------------- killed


ENOUGH = "--steps 60 --seeds 0 --methods cyclegan"


@pytest.fixture(scope="module")
def undisturbed():
    """Holds the table of an undisturbed training, for all ways of killing it."""
    return {}


def drive(home: str, argv: list[str]):
    """Run table1 in its own process; its trainings are processes, too."""
    contestants.ROOT = Path(home)
    trainings.PATIENCE = 0.1
    utils.run(lambda: table1.main(argv), "table1.py")


@pytest.mark.parametrize("whom", [
    "all", pytest.param("command", marks=pytest.mark.slow), pytest.param("command politely", marks=pytest.mark.slow),
])  # fmt: skip
def test_killed_and_repeated(toys, undisturbed, whom, capsys):
    if not undisturbed:
        table1.main(argv_of(toys, "undisturbed", ENOUGH))
        undisturbed["table"] = (toys / "undisturbed" / "table1-60.csv").read_bytes()
    argv = argv_of(toys, whom, ENOUGH)
    run = runs.Run(toys, "test_table1:drive", str(toys), argv)
    log = toys / whom / "cyclegan-60-0" / "toys" / "log.jsonl"
    runs.until(lambda: log.exists() and '"step": 10,' in log.read_text(), run)
    threads = Path(f"/proc/{run.pid}/task").iterdir()
    (child,) = [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]
    run.signal(signal.SIGTERM if whom == "command politely" else signal.SIGKILL)
    if whom == "all":
        os.kill(child, signal.SIGKILL)
    if whom == "command politely":  # its trainings save
        assert run.wait() == 143, run.output
    while whom != "command" and not ended(child):
        time.sleep(0.01)
    assert not (toys / whom / "cyclegan-60-0" / "scores.json").exists()
    capsys.readouterr()
    table1.main(argv)
    assert ("still trained by a process of an earlier call" in capsys.readouterr().out) == (whom == "command")
    assert (toys / whom / "table1-60.csv").read_bytes() == undisturbed["table"]
    text = (toys / whom / "cyclegan-60-0" / "output.txt").read_text()
    assert text.count(" 0/60 ") == 1  # it continued
    assert ("stopped after step" in text) == (whom == "command politely")


def ended(pid: int) -> bool:
    """Whether all threads of the process have ended, and its locks with them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return " (zombie)" in status and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except OSError:
        return True


# -------------------------------------------------------------------------------- who takes part, with what


def test_entrants_of_the_demo(capsys):
    found = {c.row: c for c in contestants.entrants(None, "demo", None)}
    assert list(found) == [row for row in contestants.ROWS if row != "drit"]
    assert re.fullmatch(r"drit is left out: its 212 pixels are far more than .*\n", capsys.readouterr().out)
    assert {row: c.args.img_size for row, c in found.items() if c.args.img_size != 64} == {"ugatit": 96}
    assert found["nice-star"].changes == ["--n_res 3 (4)"]
    words, changes = found["munit"].budget(300)
    assert not any("step_size" in text for text in (*words, *changes)) and "--iteration 300 (1500)" in changes
    assert found["cut"].directions == ["A2B"] and found["munit"].directions == ["A2B", "B2A"]
    assert [c.row for c in contestants.entrants(["drit"], "demo", None)] == ["drit"]  # if requested


def test_entrants_at_other_sizes(capsys):
    assert "ugatit" in {c.row for c in contestants.entrants(None, "demo", 64)}  # at the 96 of its own settings
    (ugatit,) = contestants.entrants(["ugatit"], "cat2dog", 64)  # its own are 256
    assert ugatit.args.img_size == 96 and ugatit.changes[0] == "--img_size 96 (256)"
    assert ugatit.changes[1].startswith("not 64, for --img_size 64 is too small")
    nice, star = contestants.entrants(["nice", "nice-star", "drit"], "unheard-of", 64)
    assert nice.changes == ["--img_size 64 (256)", "--n_dis 6 (7)"]
    assert star.args.n_res == 4 and star.settings == "the defaults of --method nice"
    assert "drit is left out: --img_size 64 is too small for DRIT's discriminators" in capsys.readouterr().out
    with pytest.raises(UserError, match="too small"):
        contestants.entrants(None, "unheard-of", 32)


def test_schedules_in_epochs_fill_the_run():
    (drit,) = contestants.entrants(["drit"], "cat2dog", None)
    assert "--steps_per_epoch=0" in drit.budget(1000)[0] and "--steps_per_epoch 0 (632)" in drit.budget(1000)[1]


def test_sizes_are_those_of_phase_info():
    (nice,) = contestants.entrants(["nice"], "cat2dog", None)
    found = costs.sizes(nice.args)
    assert found["generators"][0] == 2 * 8_104_640 and found["discriminators"][0] == 2 * 46_874_433


# --------------------------------------------------------------------------------- tables, refused options


def test_mean_and_spread():
    scores = {"fid_A2B": [1.0, 2.0, 6.0], "kid_A2B": [4.0], "background_B2A": [0.5, 0.5]}
    row = tables.Row("X", 3, 64, 7, scores, {})
    lines = tables.score_markdown([row], {}).splitlines()
    assert lines[0] == "| A2B | seeds | pixels | steps | FID | KID x100 |"
    assert lines[2] == "| X | 3 | 64 | 7 | 3.0 ± 2.6 | 4.00 |"
    assert lines[4] == "| B2A | seeds | pixels | steps | background |"
    assert lines[6] == "| X | 3 | 64 | 7 | 0.500 ± 0.000 |"
    (cells,) = csv.DictReader(tables.score_csv([row], {}).splitlines())
    assert (cells["fid_A2B_mean"], cells["fid_A2B_std"]) == ("3", f"{7**0.5:.6g}")
    assert (cells["kid_A2B_std"], cells["fid_B2A_mean"], cells["background_B2A_std"]) == ("", "", "0")


def test_steps_in_a_time(toys):
    found = costs.read(toys / "cost.json")
    assert [costs.steps(found, row, 1) for row in ("nice", "cut", "cyclegan")] == [6000, 3000, 4615]
    with pytest.raises(UserError, match="less than one step of nice"):
        costs.steps(found, "nice", 1e-5)
    with pytest.raises(UserError, match="cost of munit is not measured"):
        costs.steps(found, "munit", 1)


class Stand:
    """Replaces bench.Side: answers at once, 0.1 s for NICE-GAN's step and 0.3 s for CycleGAN's."""

    started = []

    def __init__(self, side, options, threads):
        Stand.started.append(options)
        self.answers = {"step": 0.3 if "cyclegan" in options else 0.1, "translate": 0.02, "memory": 800}
        self.ask = self.answers.get

    def close(self):
        pass


def test_what_is_measured_is_kept(toys, monkeypatch):
    monkeypatch.setattr(costs.bench, "Side", Stand)
    nice, cyclegan, cut = contestants.entrants(["nice", "cyclegan", "cut"], "toys", None)
    path = toys / "measured.json"
    found = costs.measure(path, [cyclegan], nice, rounds=3, threads=1)
    assert found["seconds"] == 0.1 and {k: v["step"] for k, v in found["rows"].items()} == {
        "nice": 1, "cyclegan": pytest.approx(3)}  # fmt: skip
    Stand.started.clear()
    assert costs.measure(path, [nice, cyclegan], nice, rounds=3, threads=1) == found and not Stand.started
    assert costs.measure(path, [cut, cyclegan], nice, 3, 1)["rows"].keys() == {"nice", "cyclegan", "cut"}
    assert [("cut" in options, "nice" in options) for options in Stand.started] == [(False, True), (True, False)]
    assert costs.steps(costs.read(path), "cyclegan", 1) in (199, 200)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": {"nice": {}}}', '{"rows": {"nice": {"step": 0}}}'])
def test_a_damaged_cost_file(tmp_path, text):
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        costs.read(tmp_path / "cost.json")


@pytest.mark.parametrize(
    "argv, word",
    [
        ("--steps 2 --minutes 3", "not allowed with"),
        ("", "--steps --minutes"),
        ("--steps 0", "--steps"),
        ("--minutes 0", "--minutes"),
        ("--minutes nan", "--minutes"),
        ("--steps 2 --methods sincut", "sincut"),
        ("--steps 2 --methods nice nice", "twice"),
        ("--steps 2 --seeds 1 1", "twice"),
        ("--steps 2 --jobs 0", "--jobs"),
        ("--steps 2 --dataset ../x", "--dataset"),
        ("--steps 2 --nonsense", "--nonsense"),
    ],
)
def test_refused_options(argv, word, capsys):
    with pytest.raises(SystemExit) as stop:
        table1.main(argv.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and word in err


def test_refused_inputs(toys):
    argv = argv_of(toys, "refused", "")
    for more, words in (
        (["--steps=2", "--outputs", "x"], "METHOD=DIR"),
        (["--steps=2", "--outputs", f"x={toys / 'absent'}"], "no folder"),
        (["--steps=2", "--methods", "nice", "--table-only"], "no complete training"),
        (["--minutes=1e-6", "--methods", "nice"], "less than one step"),
        (["--steps=2", "--dataset=absent"], "has no trainA and no trainB"),
    ):
        with pytest.raises(UserError, match=words) as error:
            table1.main([*argv, *more])
        assert error.value.status == 2
    Image.new("RGB", (60, 60)).save(toys / "dataset" / "toys" / "testA" / "0.png")
    try:
        with pytest.raises(UserError, match="give at least 60"):
            table1.main([*argv, "--steps=2", "--methods", "nice"])
    finally:
        (toys / "dataset" / "toys" / "testA" / "0.png").unlink()
    assert not (toys / "refused").exists()
