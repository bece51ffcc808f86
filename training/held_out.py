"""Which pictures choose the best checkpoint: held-out training pictures, valA and valB, or the test pictures.

A best step that is chosen on the test pictures looks better than it is: of many noisy scores the least is taken.
Whatever shows such a score says so, with ON_TEST.
"""

import hashlib
from pathlib import Path

from images.maker import ON_TEST
from utils import UserError, shown

LEAST = 2  # pictures of a distribution


def chosen_on(args, root: Path) -> str:
    """The kind of folder that chooses the best checkpoint: "held", "val" or "test".

    UserError: both --hold_out and valA, valB, or only one of these folders.
    """
    there = [name for name in ("valA", "valB") if (root / name).is_dir()]
    if args.hold_out and there:
        raise UserError(f"{shown(root)} has {' and '.join(there)}, which choose the best checkpoint: leave --hold_out "
                        "out, or move them away")  # fmt: skip
    if len(there) == 1 and args.score_freq:
        missing = "valB" if there == ["valA"] else "valA"
        raise UserError(f"{shown(root / there[0])} chooses the best checkpoint together with {missing}: make that "
                        f"folder, or move {there[0]} away")  # fmt: skip
    return "held" if args.hold_out else "val" if there else "test"


def in_words(kind: str, args) -> str:
    """What chose the best checkpoint, for tables, pages and JSON."""
    held = f"chosen on held-out training pictures (--hold_out {getattr(args, 'hold_out', 0):g})"
    return {"held": held, "val": "chosen on valA and valB", "test": ON_TEST}[kind]


def hold_out(pictures: dict[str, list[Path]], args):
    """Move the share --hold_out of trainA and trainB to heldA and heldB, in place.

    A picture's place is a pure function of the seed, its folder and its name, so pictures that are added or cannot
    be read move few others.  The scale of deep pictures stays that of the whole folders, which all programs know.
    UserError: too few pictures.
    """
    for folder in ("trainA", "trainB") if args.hold_out else ():
        paths = pictures[folder]
        top = Path(args.dataset_dir) / args.dataset / folder
        count = round(args.hold_out * len(paths))
        if min(count, len(paths) - count) < LEAST:
            raise UserError(f"--hold_out {args.hold_out:g} of {len(paths)} pictures in {shown(top)} is {count}: at "
                            f"least {LEAST} are needed, and as many to train on")  # fmt: skip

        def draw(path: Path, folder=folder, top=top) -> bytes:
            name = path.relative_to(top).as_posix().encode("utf-8", "surrogateescape")
            return hashlib.sha256(b"%d %s " % (args.seed, folder.encode()) + name).digest()

        held = set(sorted(paths, key=draw)[:count])
        pictures[folder] = [path for path in paths if path not in held]
        pictures[f"held{folder[-1]}"] = [path for path in paths if path in held]
