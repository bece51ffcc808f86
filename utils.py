"""What the trainer needs besides mathematics: errors, checkpoints, the log, the lock, signals, pictures."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image


class UserError(Exception):
    """Bad input: its message is one line that names the file or option and the remedy.

    The programs print it without a traceback and exit with `status`.
    """

    status = 2


class RunError(UserError):
    """The run, not the input, failed: a full disk, a lost process.  Exit status 1."""

    status = 1


def run(program, name: str):
    """Call program() and turn its errors into one line on stderr and an exit status."""
    try:
        program()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(error.status)


# --------------------------------------------------------------------------------------- checkpoints

NETWORKS = ("gen2B", "gen2A", "disA", "disB")
EXTRA_NETWORKS = ("encA", "encB")  # the independent encoders of --nice false
OPTIMIZERS = ("D_optimizer", "G_optimizer")


def latest_path(results: Path) -> Path:
    return results.parent / f"{results.name}_params_latest.pt"


def numbered_paths(results: Path) -> list[Path]:
    """results/NAME/model/NAME_params_0001000.pt and its like, oldest first."""
    pattern = re.compile(re.escape(results.name) + r"_params_(\d{7,})\.pt")
    folder = results / "model"
    found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(pattern.fullmatch(p.name)[1]))


def digest(value) -> str:
    """SHA-256 of nested dicts and lists of tensors and plain values, independent of the device."""
    sha = hashlib.sha256()

    def feed(x):
        if isinstance(x, torch.Tensor):
            sha.update(f"T{x.dtype}{tuple(x.shape)}".encode())
            sha.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        elif isinstance(x, dict):
            sha.update(f"D{len(x)}".encode())
            for key, item in x.items():
                sha.update(f"{key!r}:".encode())
                feed(item)
        elif isinstance(x, (list, tuple)):
            sha.update(f"L{len(x)}".encode())
            for item in x:
                feed(item)
        else:
            sha.update(f"{x!r};".encode())

    feed(value)
    return sha.hexdigest()


@contextmanager
def atomic(path: Path):
    """A temporary path beside `path`; complete and on disk, it takes path's name, else it vanishes."""
    # a short name of its own: path.name may already have the 255 bytes a file system allows
    temporary = path.with_name(f".{hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "check it"
            raise RunError(f"cannot write {path}: {error.strerror}; {hint}, then --resume True") from None
        raise


class _CheckedFile:
    """A file that remembers the first write error; torch's zip writer turns it into a RuntimeError."""

    def __init__(self, path):
        self.file, self.error = open(path, "wb"), None  # noqa: SIM115

    def write(self, data):
        if self.error is None:
            try:
                return self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)  # after an error the rest is dropped; save_checkpoint raises it

    def flush(self):
        if self.error is None:
            try:
                self.file.flush()
            except OSError as error:
                self.error = error


def save_checkpoint(state: dict, path: Path):
    """Write `state` with a digest of each entry; the old file stays until the new one is complete."""
    state = {**state, "digest": {key: digest(value) for key, value in state.items()}}
    with atomic(path) as temporary:
        out = _CheckedFile(temporary)
        try:
            torch.save(state, out)
            out.flush()
        finally:
            with suppress(OSError):
                out.file.close()
        if out.error is not None:
            raise out.error


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint of ours or of the released program.  UserError: missing, damaged, foreign."""
    try:
        # weights_only: no pickle of a stranger is ever executed; mmap: only what is used is read
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}; train first, or name another with --checkpoint") from None
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:100]
        raise UserError(
            f"{path} is no checkpoint of this program or is damaged ({reason}); name another with --checkpoint"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(state.get(k), dict) for k in NETWORKS):
        raise UserError(f"{path} is no NICE-GAN checkpoint: it lacks {', '.join(NETWORKS)}")
    for name in NETWORKS + EXTRA_NETWORKS:
        if name in state:  # thop, used by the released program, leaves its counters in the networks
            net = {k: v for k, v in state[name].items() if str(k).split(".")[-1] not in ("total_ops", "total_params")}
            if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in net.items()):
                raise UserError(f"{path} is damaged: {name} holds something that is no tensor")
            state[name] = net
    if not isinstance(state.get("start_iter", 0), int):
        raise UserError(f"{path} is damaged: start_iter is no number")
    return state


def verify(state: dict, path: Path, keys=None):
    """Compare the stored digests (ours only; released checkpoints have none).  UserError: damaged."""
    stored = state.get("digest")
    if stored is None:
        return
    for key in keys or [k for k in state if k != "digest"]:
        if not isinstance(stored, dict) or stored.get(key) != digest(state.get(key)):
            raise UserError(f"{path} is damaged: the digest of {key} differs; name another with --checkpoint")


def newest_checkpoint(results: Path, named: str | None = None, keys=None) -> tuple[dict, Path]:
    """The newest valid checkpoint of a run, or the one named.  keys: what has to be verified."""
    candidates = [Path(named)] if named else [latest_path(results), *reversed(numbered_paths(results))]
    candidates = [p for p in candidates if named or p.exists()]
    if not candidates:
        raise UserError(
            f"no checkpoint {latest_path(results)}; train first, check --dataset and --result_dir, or use --checkpoint"
        )
    for path in candidates:
        try:
            state = load_checkpoint(path)
            verify(state, path, keys)
            return state, path
        except UserError as error:
            if path == candidates[-1]:
                raise
            print(f"{error}; falling back to an older one", file=sys.stderr)
    raise AssertionError("unreachable")


def infer_architecture(state: dict) -> dict:
    """The architecture options that the shapes in a checkpoint imply; for checkpoints without options."""
    try:
        dis, gen = state["disA"], state["gen2B"]
        layers = {p: sum(k.startswith(f"{p}.") and k.endswith("weight_orig") for k in dis) for p in _STACKS}
        first, fc = dis["model.1.weight_orig"], gen["FC.0.weight"]
        light = fc.shape[1] == fc.shape[0]
        found = {
            "ch": first.shape[0],
            "img_ch": first.shape[1],
            "n_dis": layers["model"] + layers["Dis0_0"] + layers["Dis1_0"] + 2,
            "n_res": sum(bool(re.fullmatch(r"UpBlock1_\d+\.conv1\.weight", k)) for k in gen),
            "light": light,
        }
        if not light:
            found["img_size"] = 4 * round((fc.shape[1] / fc.shape[0]) ** 0.5)
        return found
    except (KeyError, IndexError):
        raise UserError("the checkpoint's networks are not NICE-GAN's: some layers are missing") from None


_STACKS = ("model", "Dis0_0", "Dis1_0")

# what a checkpoint's networks depend on: it cannot be continued with other values of these ...
ARCHITECTURE = ("light", "ch", "n_res", "n_dis", "img_ch", "nice", "ra", "heads", "shared_layers")
# ... nor with these, though its networks could be built
IDENTITY = (*ARCHITECTURE, "img_size", "dataset", "encoder_updates")
# options of one call, not of the run
NOT_SAVED = ("phase", "resume", "checkpoint", "device", "command", "given", "keep_size", "skip_bad_images")


def architecture_of(state: dict) -> dict:
    """The architecture options of a checkpoint: as stored, or inferred for a released one."""
    stored = state.get("args")
    if not isinstance(stored, dict):
        return infer_architecture(state)
    return {k: tuple(v) if k == "heads" else v for k, v in stored.items() if k in (*ARCHITECTURE, "img_size")}


def option(name: str, args, state: dict):
    """An option as given on the command line, else as the checkpoint has it, else its default."""
    if name in args.given:
        return getattr(args, name)
    return (state.get("args") or {}).get(name, getattr(args, name))


def refuse_contradictions(state: dict, path: Path, architecture: dict, args):
    """UserError listing the options in which a checkpoint's run differs; report changed hyper-parameters."""
    stored = state.get("args") or {}
    saved = {**{k: v for k, v in stored.items() if k in IDENTITY}, **architecture_of(state)}
    ours = {**{k: getattr(args, k) for k in IDENTITY}, **architecture}
    wrong = [f"--{k} is {ours[k]}, there {v}" for k, v in saved.items() if ours.get(k) != v]
    if wrong:
        raise UserError(f"{path} is of another run: {'; '.join(wrong)}; give these options as there, or leave them out")
    changed = [
        f"--{k} {v} -> {getattr(args, k)}"
        for k, v in stored.items()
        if k not in IDENTITY and hasattr(args, k) and getattr(args, k) != v
    ]
    if changed:
        print(f"changed since the checkpoint: {', '.join(changed)}", file=sys.stderr)


def load_optimizer(optimizer, saved, path: Path, name: str):
    """Take over moments and step counts; rates and decays stay those of the options."""
    ours = optimizer.state_dict()
    parameters = optimizer.param_groups[0]["params"]
    try:
        for index, entry in saved["state"].items():
            for key in ("exp_avg", "exp_avg_sq"):
                if entry[key].shape != parameters[index].shape:
                    raise ValueError(f"{key} of parameter {index} has shape {tuple(entry[key].shape)}")
        optimizer.load_state_dict({"state": saved["state"], "param_groups": ours["param_groups"]})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or does not fit: {name}: {' '.join(str(error).split())[:120]}") from None


def keep_previous(results: Path):
    """A new run where an old one lies: the old latest checkpoint and log get a new name, not lost."""
    for path in (latest_path(results), results / "log.jsonl"):
        if path.exists():
            kept = path.with_name(f"{path.stem}.previous{path.suffix}")
            os.replace(path, kept)
            print(f"starting anew; {path} of an earlier run is kept as {kept.name}", file=sys.stderr)


def link_or_copy(source: Path, target: Path):
    """A second name for a complete checkpoint: no second gigabyte where hard links exist."""
    with atomic(target) as temporary:
        with suppress(OSError):
            temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


# --------------------------------------------------------------------------------------------- guard


class Guard:
    """Watches for losses and gradients that are not finite.

    It counts on the device, so that seeing costs no synchronisation; check() looks and raises.
    policy: "stop" at the first one, or "skip" its update and stop after 10 in a row.
    """

    LIMIT = 10

    def __init__(self, policy: str, device):
        self.policy = policy
        self.dropped = torch.zeros((), dtype=torch.long, device=device)  # steps, over the whole run
        self.in_row, self.first = torch.zeros_like(self.dropped), torch.zeros_like(self.dropped)
        self.was_bad, self.last = torch.zeros((), dtype=torch.bool, device=device), 0
        self.counts, self.names = {}, []

    def see(self, step: int, terms: dict) -> torch.Tensor:
        """Whether this half of the step has to be dropped; called for D, then for G, of each step."""
        flags = ~torch.isfinite(torch.stack([t.float() for t in terms.values()]))
        key = tuple(terms)
        self.counts[key] = self.counts.get(key, 0) + flags
        bad = flags.any()
        if step == self.last:  # G's half: what went wrong in D's counts once
            new, bad = bad & ~self.was_bad, bad | self.was_bad
            self.in_row = torch.where(new, self.before + 1, self.in_row)
        else:
            new, self.before = bad, self.in_row
            self.in_row = torch.where(bad, self.in_row + 1, 0)
        self.dropped += new
        self.first = torch.where((self.first == 0) & bad, step, self.first)
        self.was_bad, self.last = bad, step
        return bad

    def check(self):
        """UserError naming step and terms, if the policy says that the run ends here."""
        if self.first == 0 or (self.policy == "skip" and self.in_row < self.LIMIT):
            return
        names = [n for key, flags in self.counts.items() for n, f in zip(key, flags.tolist(), strict=True) if f]
        raise UserError(
            f"step {int(self.first)}: not finite: {', '.join(names)}; that update was not made and the last "
            f"checkpoint is good: lower --lr, or use --on_nan skip to drop such steps (at most {self.LIMIT} in a row)"
        )

    def state(self) -> dict:
        return {"dropped": int(self.dropped), "in_row": int(self.in_row)}

    def load(self, state):
        for name, value in (state or {}).items():
            getattr(self, name).fill_(int(value))


# ---------------------------------------------------------------------------------------------- log


class Log:
    """results/NAME/log.jsonl: one JSON object a line, written in one system call each."""

    def __init__(self, path: Path, start: int):
        """Keep the valid lines up to step `start`; a killed run may have left later or torn ones."""
        kept = []
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                with suppress(ValueError, KeyError, TypeError):
                    if line.endswith(b"\n") and json.loads(line)["step"] <= start:
                        kept.append(line)
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, **values):
        try:
            self.file.write((json.dumps(values) + "\n").encode())
        except OSError as error:
            raise RunError(f"cannot write {self.file.name}: {error.strerror}; free some space") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


# ------------------------------------------------------------------------------------ lock, signals


@contextmanager
def locked(folder: Path):
    """Only one training at a time in `folder`.  The kernel frees the lock when the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another --result_dir") from None
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no flock on Windows: no protection there
            pass
        except OSError:
            raise UserError(
                f"another training runs in {folder}; wait for it, stop it, or choose another --result_dir"
            ) from None
        yield


class Signals:
    """SIGINT and SIGTERM ask for a stop after the step (a second one stops at once); SIGUSR1 for a save."""

    def __enter__(self):
        self.stop = self.save = False
        self.old = {}
        wanted = [("SIGINT", self._stop), ("SIGTERM", self._stop), ("SIGUSR1", self._save)]
        for name, handler in wanted:
            if hasattr(signal, name):
                with suppress(ValueError):  # not in the main thread: leave signals alone
                    number = getattr(signal, name)
                    self.old[number] = signal.signal(number, handler)
        return self

    def _stop(self, number, _frame):
        if self.stop:  # the default action: gone at once, whatever is under way
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.stop = True

    def _save(self, _number, _frame):
        self.save = True

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------- pictures


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """(3 or 1,H,W) in [-1,1] -> (H,W,3) uint8."""
    x = ((x.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return x.permute(1, 2, 0).expand(-1, -1, 3).numpy()


def jet(heatmap: torch.Tensor, size: int) -> torch.Tensor:
    """(1,h,w) of any range -> (3,size,size) in [-1,1], lowest blue, highest red (MATLAB's JET)."""
    h = heatmap.detach().float().cpu()
    h = (h - h.min()) / (h.max() - h.min()).clamp_min(1e-12)
    h = torch.nn.functional.interpolate(h[None], (size, size), mode="bilinear", align_corners=False)[0, 0]
    channels = [(1.5 - (4 * h - centre).abs()).clamp(0, 1) for centre in (3, 2, 1)]
    return torch.stack(channels) * 2 - 1


def save_picture(array: np.ndarray, path: Path):
    """Write (H,W,3) uint8 in the format of path's suffix, JPEG at quality 95; atomic."""
    suffix = path.suffix.lower()
    options = {"quality": 95, "subsampling": 0} if suffix in (".jpg", ".jpeg") else {}
    if suffix == ".webp":
        options = {"lossless": True}
    with atomic(path) as temporary:
        Image.fromarray(array).save(temporary, format=Image.registered_extensions()[suffix], **options)


# ------------------------------------------------------------------------------------------- machine


@contextmanager
def process_group(device: str):
    """Join the other processes that torchrun started, if it did: NCCL for GPUs, gloo for CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
