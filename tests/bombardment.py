"""The fuzz: mutated files are read by the program, in a process of its own with limits.

A reader takes the file, or refuses it in one printable line with status 2.  A traceback ends the process, and so do 5
seconds of CPU, 20 seconds, and 1 GiB more than the process had at first.
"""

import collections
import io
import json
import os
import random
import resource
import signal
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from mutations import misbuild, mutate, reopcode, repack, resafe, respell, retype
from PIL import Image
from runs import ROOT, SMALL

import main
import methods
from checkpoints.contents import saved_options
from checkpoints.files import digest, newest_checkpoint
from checkpoints.model_folder import CONFIG, WEIGHTS
from utils import UserError

ROOM = 2**30  # bytes
PATIENCE, MOST_CPU = 20, 5  # seconds


@contextmanager
def limits():
    """No more memory than now and ROOM; what asked for more must not be refused for that reason alone."""
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (virtual + ROOM,) * 2)
    yield


class Outcome:
    """Counts of what was taken and refused; the longest CPU time of one."""

    def __init__(self):
        self.counts, self.longest = collections.Counter(), 0.0

    def of(self, name: str, what: str, call) -> str:
        """Call a reader; "taken" or "refused"."""
        print("trying", what, file=sys.stderr, flush=True)
        said, start = io.StringIO(), time.process_time()
        signal.alarm(PATIENCE)  # whose default action ends the process, as that of the other one
        signal.setitimer(signal.ITIMER_PROF, MOST_CPU)
        result = "refused"
        with redirect_stdout(said), redirect_stderr(said):
            try:
                call()
                result = "taken"
            except UserError as error:
                assert str(error).isprintable(), repr(str(error))
                assert "allocate" not in str(error) and "MemoryError" not in str(error), str(error)
            except SystemExit as leaving:  # an option that the parser refuses
                assert leaving.code == 2, leaving.code
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        assert all(line.replace("\t", "").isprintable() for line in said.getvalue().splitlines()), said.getvalue()
        self.longest = max(self.longest, time.process_time() - start)
        self.counts[f"{name} {result}"] += 1
        return result

    def say(self):
        print(json.dumps({**dict(sorted(self.counts.items())), "longest": round(self.longest, 2)}))


def checkpoints(folder: str, method: str, count: int, seed: int):
    """Mutated checkpoints and model files of a method: resumed, or translated with.

    In the folder are ours.pt, with digests, and perhaps old.pt and oldest.pt, as the released program wrote them.
    """
    folder, outcome = Path(folder), Outcome()
    argv = f"--method {method} {SMALL[method]} --num_workers 0 --device cpu --resume".split()
    model = methods.create(main.parse_args(argv))
    file, picture, tree = folder / "now.pt", folder / "x.png", folder / "model"
    Image.new("RGB", (20, 16), (200, 30, 90)).save(picture)
    ours = (folder / "ours.pt").read_bytes()

    def translate(path, direction="AtoB"):
        words = f"--phase test --device cpu --checkpoint {path} --input {picture} --output {folder / 'out'}"
        main.main([*words.split(), *(["--direction", direction] if direction else [])])

    def export(path, direction="AtoB"):
        words = f"--phase export --device cpu --checkpoint {path} --format folder --output {folder / 'new'}"
        main.main([*words.split(), *(["--direction", direction] if direction else [])])

    def resume():
        found = newest_checkpoint(folder / "tiny", str(file), methods.recognise)
        model.args = main.parse_args(argv, saved=saved_options(found[0]))
        model.load(found)

    def content():
        state = model.state()
        moments = [state[f"{name}_optimizer"]["state"] for name in model.optimizers]
        return digest([*(state[n] for n in model.networks()), moments, model.step])

    direction = "AtoB" if len(model.directions) > 1 else ""
    words = f"--phase export --device cpu --checkpoint {folder / 'ours.pt'} --direction AtoB"
    main.main(f"{words} --format weights --output {folder / 'model.pt'}".split())
    main.main(f"{words} --format folder --output {tree}".split())
    config, weights = json.loads((tree / CONFIG).read_text()), (tree / WEIGHTS).read_bytes()
    small = (folder / "model.pt").read_bytes()
    translate(tree, "")
    file.write_bytes(ours)
    resume()
    expected = content()
    kinds = [(change, ours, True) for change in (mutate, repack, reopcode, misbuild)] * 2
    kinds += [(change, small, None) for change in (mutate, repack, reopcode, misbuild, retype, retype)]
    kinds += [(retype, ours, None), (misbuild, ours, None), (respell, config, None), (resafe, weights, None)]
    if (folder / "old.pt").exists():
        old, oldest = ((folder / name).read_bytes() for name in ("old.pt", "oldest.pt"))
        # where a file has neither digest nor checksum under the mutation, it may load with other numbers
        kinds += [(mutate, old, True), (mutate, oldest, False), (repack, old, False), (misbuild, old, False)]
    with limits():
        for i in range(count):
            noise = random.Random(f"{seed} {method} {i}")
            change, data, certain = noise.choice(kinds)
            name = change.__name__
            if change in (respell, resafe):
                (tree / CONFIG).write_bytes(change(data, noise) if change is respell else json.dumps(config).encode())
                (tree / WEIGHTS).write_bytes(change(data, noise) if change is resafe else weights)
                outcome.of(name, f"{i} {name}", lambda: translate(tree, ""))
                continue
            file.write_bytes(change(data, noise))
            if certain is None:  # translated with, in whatever direction it has
                way = direction if data is ours else ""
                use = export if change is retype and noise.random() < 0.3 else translate
                outcome.of(name, f"{i} {name} to {use.__name__}", lambda use=use, way=way: use(file, way))
                continue
            result = outcome.of(name, f"{i} {name} to resume", resume)
            assert result == "refused" or not certain or content() == expected, f"{i} was taken, but is another"
    outcome.say()


# --------------------------------------------------------------------------------------------- documents

START = {"started": "2026-11-30T12:00:00+0000", "step": 0, "terms": "bare", "method": "nice", "seed": 0, "best": None,
         "options": {"dataset": "tiny", "dataset_dir": "dataset", "lr": 1e-4, "ch": 2, "cycle_weight": 10.0},
         "versions": {"torch": "2.10"}, "processor": "x", "gpu": None, "processes": 1, "git": None,
         "data": {"trainA": {"pictures": 2, "digest": "abc"}}}  # fmt: skip
LINE = {"step": 3, "d_loss": 1.5, "cycle_A": 0.5, "kid_A2B": 0.1, "kid_A2B_interval": [0.1, 0.2], "lr": 1e-4,
        "dropped": 0, "steps_per_second": 3.5, "scoring_seconds": 1.5}  # fmt: skip
MADE = {"method": "nice", "checkpoint": "x.pt", "step": 3, "run": ["2026-11-30T12:00:00+0000", "nice"], "options": {}}
BEST = {"last": {"step": 3, "scores": {"kid_A2B": 0.1}},
        "best": {"step": 3, "chosen": "on held-out pictures", "scores": {"kid_A2B": 0.1, "fid_A2B": 3}}}  # fmt: skip
COSTS = {"threads": 1, "seconds": 0.5, "rows": {"nice": {
    "options": "--ch 2", "memory": 1.0, "translate": 1.0, "step": 1.0, "sizes": {"generators": [1, 2]}}}}  # fmt: skip
KEY = {"study": "s" * 32, "methods": ["a", "b"], "made": {"a": None}, "questions": {
    f"q{i}": {"input": f"{i}", "answers": {"x": "a", "y": "b"}} for i in range(3)}}  # fmt: skip
ANSWERS = {"study": "s" * 32, "participant": "p",
           "answers": [{"question": f"q{i}", "choice": "xy"[i % 2]} for i in range(3)]}  # fmt: skip


def documents(folder: str, count: int, seed: int):
    """Mutated JSON of runs, translations, studies and benchmarks, .npz files and option files, `count` in all."""
    sys.path[:0] = [str(ROOT / "figure"), str(ROOT / "benchmarks")]
    import costs
    import curves
    import gallery
    import numpy as np
    import study
    import study_table
    import tables

    from images import maker
    from scoring.features import read_npz
    from training.log import Log
    from training.state import refuse_another_method
    from translation.export import fingerprint
    from translation.model_card import card, newest_scores

    folder, outcome = Path(folder), Outcome()
    run = folder / "tiny"
    (run / "fakeB").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(run / "fakeB" / "0.png")
    trainer = methods.create(main.parse_args(f"--device cpu {SMALL['nice']}".split()))
    stored = io.BytesIO()
    np.savez(stored, features=np.ones((4, 64), np.float32), logits=np.ones((4, 9), np.float32), kind="k",
             mu=np.zeros(64), sigma=np.eye(64), scale=json.dumps({"uint16": [0, 9]}))  # fmt: skip

    def a_log(noise):
        lines = [{**LINE, "step": step} for step in (1, 2, 3)]
        text = b"\n".join(respell(line, noise) if noise.random() < 0.5 else json.dumps(line).encode() for line in lines)
        (run / "log.jsonl").write_bytes(text + b"\n")

    def a_record(noise):
        (run / "run.json").write_bytes(respell([START, {**START, "step": 2, "terms": "old"}], noise))

    def read_run():
        for read in (lambda: [curves.curve(curves.read(run), name) for name in curves.PANELS], page, resumed):
            with suppress(UserError):
                read()
        curves.read(run)

    def page():
        gallery.main([str(run), "--out", str(folder / "page"), "--data", str(folder)])

    def resumed():
        log = (run / "log.jsonl").read_bytes()
        Log(run / "log.jsonl", 2).file.close()
        (run / "log.jsonl").write_bytes(log)
        newest = newest_scores({"start_iter": 3}, run)
        about = {"method": "nice", "direction": "AtoB", "step": 3, "parameters": 1, "precision": "", "sizes": "",
                 "input": "", "licence": "", "data": fingerprint(folder / "tiny_params_latest.pt")}  # fmt: skip
        card(trainer, about, newest, False, "x")
        maker.doubt(run / "fakeB")
        refuse_another_method(run, "nice")
        newest_checkpoint(run, None, methods.recognise)

    def write(place, value, after):
        def change(noise):
            (folder / place).write_bytes(respell(value, noise))

        return change, after

    def as_it_was():
        (run / "log.jsonl").write_text("".join(json.dumps({**LINE, "step": step}) + "\n" for step in (1, 2, 3)))
        (run / "run.json").write_text(json.dumps([START]))
        (run / "fakeB" / "made.json").write_text(json.dumps(MADE))
        (folder / "key.json").write_text(json.dumps(KEY))
        (folder / "answers.json").write_text(json.dumps(ANSWERS))

    def an_npz(noise):
        (folder / "x.npz").write_bytes(noise.choice((mutate, repack))(stored.getvalue(), noise))

    def option_file(noise):
        text = "\n".join(f"--{k} {v}" for k, v in noise.sample([*START["options"].items()], 3)) + ' # "x"\n@options.txt'
        (folder / "options.txt").write_bytes(mutate(text.encode(), noise))

    tabulate = [str(folder), str(folder / "answers.json")]
    kinds = {
        "log.jsonl": (a_log, read_run),
        "run.json": (a_record, read_run),
        "made.json": write("tiny/fakeB/made.json", MADE, lambda: (maker.lines(run / "fakeB"), page())),
        "test_scores.json": write("tiny/test_scores.json", BEST, lambda: tables.held_out_scores(run, ["kid_A2B"])),
        "key.json": write("key.json", KEY, lambda: study_table.main(tabulate)),
        "key.json again": write("key.json", KEY, lambda: study.words(folder / "key.json", [Path("0")], ["a", "b"])),
        "answers": write("answers.json", ANSWERS, lambda: study_table.main(tabulate)),
        "costs": write("cost.json", COSTS, lambda: costs.read(folder / "cost.json")),
        ".npz": (an_npz, lambda: read_npz(folder / "x.npz", "k", 64)),
        "options": (option_file, lambda: main.parse_args([f"@{folder / 'options.txt'}", "--device=cpu"])),
    }
    with limits():
        for i in range(count):
            noise = random.Random(f"{seed} {i}")
            name = noise.choice([*kinds])
            as_it_was()
            change, read = kinds[name]
            change(noise)
            outcome.of(name, f"{i} {name}", read)
    outcome.say()
