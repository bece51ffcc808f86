"""Saving and resuming a run: its state in checkpoints, archiving an earlier run, the lock on its folder."""

import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from checkpoints.contents import (
    NOT_SAVED,
    fitting,
    holds_only_weights,
    load_network,
    load_optimizer,
    refuse_contradictions,
    scales_in,
)
from checkpoints.files import best_path, latest_path, load_checkpoint, numbered_paths, save_checkpoint
from images import maker
from images.locks import lock
from utils import UserError, move_aside, parse_json, shown, text_of, writing


@contextmanager
def locked(folder: Path):
    """Allow only one training at a time in `folder`.

    After a UserError, folders created for the lock are removed if they hold nothing else.
    """
    path, created = folder / ".lock", [p for p in (folder, *folder.parents) if not p.exists()]
    fresh = not path.exists()
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115
    with handle:
        mine = lock(handle, path)
        if mine is False:
            raise UserError(
                f"another training runs in {shown(folder)}; wait for it, stop it, or choose another --result_dir"
            )
        try:
            yield
        except UserError:
            if fresh and mine and [p.name for p in folder.iterdir()] == [path.name]:
                with suppress(OSError):  # another program may use these folders by now
                    path.unlink()
                    for place in created:
                        place.rmdir()
            raise


def state(trainer) -> dict:
    """Everything needed to resume; also readable by programs that read the released NICE-GAN checkpoints."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return {
        **{name: net.state_dict() for name, net in trainer.networks().items()},
        **{f"{name}_optimizer": optimizer.state_dict() for name, optimizer in trainer.optimizers.items()},
        "start_iter": trainer.step,  # the last finished step
        "position": trainer.position,  # pictures consumed per domain, over all processes
        "scalers": {name: scaler.state_dict() for name, scaler in trainer.scalers.items()},
        "guard": trainer.guard.state(),
        "memory": trainer.extra_state(),
        "scales": trainer.plain_scales(),
        **({"ema": trainer.ema.state()} if trainer.ema else {}),
        "args": {k: v for k, v in vars(trainer.args).items() if k not in NOT_SAVED},
        "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
    }


def save(trainer, numbered: bool = False):
    """Write results/NAME_params_latest.pt and, if asked, the numbered one; only rank 0 writes."""
    if trainer.rank != 0:
        return
    kept, results = trainer.state(), trainer.results
    if trainer.device.type != "cpu":  # copy once, not for each digest and file
        kept = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, kept)
    if numbered:  # first: after a kill in between, the steps since the latest are repeated
        save_checkpoint(kept, results / "model" / f"{results.name}_params_{trainer.step:07d}.pt")
    save_checkpoint(kept, latest_path(results))
    if numbered and trainer.args.keep:
        for old in numbered_paths(results)[: -trainer.args.keep]:
            old.unlink()


def load(trainer, found: tuple[dict, Path] | None = None):
    """Continue from a checkpoint (state, path), by default the newest valid one of this run.

    Files of a method's authors that hold all networks and nothing else continue with new optimizers.  UserError: it
    does not fit, or lacks a network.
    """
    state, path = found or trainer.newest_checkpoint()
    refuse_contradictions(state, path, trainer)
    if lacking := [name for name in trainer.networks() if name not in state]:
        raise UserError(f"{shown(path)} has no {', no '.join(lacking)}, and a run continues from all its networks: "
                        f"begin a new one with --init_from {shown(path)}")  # fmt: skip
    for name, net in trainer.networks().items():
        load_network(net, state, name, path)
    only_weights = holds_only_weights(state)
    for name, optimizer in trainer.optimizers.items() if not only_weights else ():
        load_optimizer(optimizer, state, f"{name}_optimizer", path)
    trainer.loaded = path
    if trainer.ema:
        trainer.ema.load(state, path)
    trainer.scales = scales_in(state) or trainer.scales
    trainer.step = state.get("start_iter", 0)
    trainer.position = state.get("position", trainer.step * trainer.args.batch_size)
    if trainer.step:  # as after that step, so that saving again gives the same checkpoint
        trainer.set_lr()
    with fitting(path, "scalers, guard, memory or rng"):
        for name, scaler in trainer.scalers.items():
            scaler.load_state_dict(state.get("scalers", {}).get(name, {}))
        trainer.guard.load(state.get("guard"))
        trainer.load_extra_state(state.get("memory", {}))
        if "rng" in state:
            torch.set_rng_state(state["rng"]["cpu"])
            if trainer.device.type == "cuda" and state["rng"]["cuda"]:
                torch.cuda.set_rng_state(state["rng"]["cuda"][0])
    if trainer.rank == 0:
        rest = f", from the weights of {', '.join(trainer.networks())}; it holds no optimizers, so these are new"
        print(f"continuing from step {trainer.step} of {path}{rest * only_weights}", file=sys.stderr)


# What a run writes into results/NAME; the checkpoints latest and best lie beside it.
OF_A_RUN = ("log.jsonl", "run.json", "test_scores.json", "model", "tensorboard", "img", "fakeA", "fakeB", "page",
            "figure", "real_*.npz")  # fmt: skip


def refuse_another_method(results: Path, method: str):
    """UserError: this folder holds the run of another method, whose results would mix with those of a new run."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        other = parse_json(text_of(results / "run.json"))[-1]["method"]
        if other != method:
            folder = shown(results.parent / method)
            raise UserError(f"{shown(results)} holds a run of --method {other}: give --result_dir {folder}")


def archive_run(results: Path):
    """Move all of an earlier run in this folder to results/NAME/previous_1, or _2, ..."""
    inside = [path for pattern in OF_A_RUN for path in sorted(results.glob(pattern))]
    old = [path for path in (latest_path(results), best_path(results), *inside) if path.exists()]
    old = [path for path in old if path.is_dir() or path.stat().st_size]
    if old:
        folder = move_aside(results, old)
        print(f"starting anew; all of an earlier run is now in {shown(folder)}", file=sys.stderr)


def archive_later_steps(trainer, step: int):
    """Move aside what a run wrote after `step`, to which it goes back: checkpoints, samples, translations, scores."""
    results = trainer.results
    later = [path for path in numbered_paths(results) if int(path.stem.rpartition("_")[2]) > step]
    later += [path for path in sorted(results.glob("img/*_*.png")) if _number(path) > step]
    best, log = best_path(results), results / "log.jsonl"
    with suppress(UserError):  # a damaged one stays: nothing is known of it
        if best.exists() and load_checkpoint(best, trainer.recognise)["start_iter"] > step:
            later.append(best)
    later += [path for path in (results / "fakeA", results / "fakeB") if (maker.read(path) or {}).get("step", 0) > step]
    scores = results / "test_scores.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        later += [scores] * (parse_json(text_of(scores))["last"]["step"] > step)
    if later:
        folder = move_aside(results, later)
        if log.exists():
            shutil.copy2(log, folder / log.name)
        print(f"going back to step {step}; what was written after it is now in {shown(folder)}", file=sys.stderr)


def _number(path: Path) -> int:
    """The step in the name of a sample grid, A2B_0001000.png; -1: none."""
    end = path.stem.rpartition("_")[2]
    return int(end) if end.isdecimal() else -1
