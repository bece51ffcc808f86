"""CPU threads: one for small work, all cores for large work; --threads N decides otherwise."""

import os

import torch

# Pixels x base channels x batch up to which one thread is used: there a second one gains nothing on an idle machine,
# and waits at thousands of barriers a step on a busy one (python benchmarks/bench.py --busy 0 1 2).
ONE_THREAD_UP_TO = 2**17


def threads_for(args) -> int:
    """The number of CPU threads that a training with these options uses.

    It depends on the options only, never on timing, so that a run with the same options gives the same bits: sums
    over threads round differently for different numbers of threads.  OMP_NUM_THREADS, if set, is respected.
    """
    if args.threads:
        return args.threads
    work = args.img_size**2 * args.ch * args.batch_size
    if args.device == "cpu" and "OMP_NUM_THREADS" not in os.environ and work <= ONE_THREAD_UP_TO:
        return 1
    return torch.get_num_threads()
