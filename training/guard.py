"""The guard against losses and gradients that are not finite."""

import torch

from utils import UserError


class Guard:
    """Finds losses and gradients that are not finite.

    see() counts on the device, in place, without synchronisation, so that a CUDA graph can hold it; check() reads the
    counts and raises.  The trainer sets `now` to the number of the step.
    policy: "stop" at the first bad step, or "skip" its updates and stop after 10 bad steps in a row.
    """

    LIMIT = 10

    def __init__(self, policy: str, device):
        self.policy = policy
        self.dropped = torch.zeros((), dtype=torch.long, device=device)  # steps, over the whole run
        self.in_row, self.first, self.now = (torch.zeros_like(self.dropped) for _ in range(3))
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.lost = []  # updates of this step that an fp16 scaler dropped
        self.times, self.names = {}, {}  # by update: how often each term was not finite, its name

    def begin(self):
        """Begin a step."""
        self.lost = []
        self.bad.zero_()

    def see(self, update: str, terms: dict) -> torch.Tensor:
        """Whether to drop this update: a term of it, or of an earlier update of the step, is not finite."""
        flags = ~torch.isfinite(torch.stack([term.float() for term in terms.values()]))
        if update not in self.times:
            self.times[update], self.names[update] = torch.zeros_like(flags, dtype=torch.long), list(terms)
        self.times[update] += flags
        self.bad |= flags.any()
        self.first.copy_(torch.where((self.first == 0) & self.bad, self.now, self.first))
        return self.bad

    def overflowed(self, found: torch.Tensor):
        """Count an update that an fp16 scaler dropped (`found` is not 0); this is normal and no error."""
        self.lost.append(found != 0)

    def end(self):
        """End a step: count it if an update was dropped."""
        self.in_row += 1
        self.in_row *= self.bad
        self.dropped += sum(self.lost, self.bad) > 0 if self.lost else self.bad

    def check(self):
        """UserError, naming step and terms, if the policy ends the run here."""
        if self.first == 0 or (self.policy == "skip" and self.in_row < self.LIMIT):
            return
        pairs = [pair for update, names in self.names.items()
                 for pair in zip(names, self.times[update].tolist(), strict=True)]  # fmt: skip
        raise UserError(
            f"step {int(self.first)}: not finite: {', '.join(name for name, times in pairs if times)}; that update "
            f"was not made and the last checkpoint is good: lower --lr, or use --on_nan skip to drop such steps "
            f"(at most {self.LIMIT} in a row)"
        )

    def state(self) -> dict:
        return {"dropped": int(self.dropped), "in_row": int(self.in_row)}

    def load(self, state):
        for name, value in (state or {}).items():
            getattr(self, name).fill_(int(value))
