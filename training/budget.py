"""Steps and epochs: --epochs, and the line that compares a training with that of the method's authors."""

from pathlib import Path

import torch.distributed as dist

from images.files import list_images


def steps_in(epochs: float, length: int, batch: int) -> int:
    """The steps of so many epochs of `length` samples in batches of `batch`."""
    return round(epochs * -(-length // batch))


def set_iteration(method: type, args):
    """Turn --epochs into --iteration: an epoch shows the larger domain's pictures once.  UserError: no pictures."""
    root = Path(args.dataset_dir) / args.dataset
    length = method.epoch_length([len(list_images(root / f"train{d}")) for d in "AB"])
    world = dist.get_world_size() if dist.is_initialized() else 1
    args.iteration = max(1, steps_in(args.epochs, length, args.batch_size * args.grad_accum * world))


def published(method: type, length: int) -> tuple[str, int]:
    """What the method's authors train on a data set with epochs of `length` samples: in words, and in steps."""
    if method.authors_epochs:
        steps = steps_in(method.authors_epochs, length, method.defaults.get("batch_size", 1))
        return f"{method.authors_epochs:,} epochs = {steps:,} steps", steps
    return f"{method.authors_steps:,} steps", method.authors_steps


def in_words(method: type, args, counts: list[int], world: int) -> str:
    """One line: the training in steps and epochs, and the authors' for comparison.  counts: pictures of the domains."""
    length = method.epoch_length(counts)
    epochs = args.iteration * args.batch_size * args.grad_accum * world / length
    size = f"{length:,} {'crops' if method.makes_own_crops else 'pictures'}"
    epochs = f"{epochs:,.0f}" if epochs >= 10 else f"{epochs:.2g}"
    theirs, _ = published(method, length)
    return f"{args.iteration:,} steps = {epochs} epochs of {size}; {method.title()}'s authors: {theirs}"
