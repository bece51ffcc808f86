"""The guard against losses and gradients that are not finite."""

import torch

from utils import UserError


class Guard:
    """Watches for losses and gradients that are not finite.

    It counts on the device, in place, so that seeing costs no synchronisation and a CUDA graph can do it; check()
    looks and raises.  `now` is the number of the step, which whoever begins one sets.
    policy: "stop" at the first one, or "skip" the step's updates and stop after 10 such in a row.
    """

    LIMIT = 10

    def __init__(self, policy: str, device):
        self.policy = policy
        self.dropped = torch.zeros((), dtype=torch.long, device=device)  # steps, over the whole run
        self.in_row, self.first, self.now = (torch.zeros_like(self.dropped) for _ in range(3))
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.lost = []  # of this step, what an fp16 scaler dropped
        self.times, self.names = {}, {}  # by half of the step: how often each term was not finite

    def begin(self):
        """A step begins: nothing is wrong yet."""
        self.lost = []
        self.bad.zero_()

    def see(self, half: str, terms: dict) -> torch.Tensor:
        """Whether the update of this half of the step has to be dropped: it or a half before it went wrong."""
        flags = ~torch.isfinite(torch.stack([term.float() for term in terms.values()]))
        if half not in self.times:
            self.times[half], self.names[half] = torch.zeros_like(flags, dtype=torch.long), list(terms)
        self.times[half] += flags
        self.bad |= flags.any()
        self.first.copy_(torch.where((self.first == 0) & self.bad, self.now, self.first))
        return self.bad

    def overflowed(self, found: torch.Tensor):
        """An fp16 scaler has dropped an update where `found` is not 0, as it does at times: counted, and no mistake."""
        self.lost.append(found != 0)

    def end(self):
        """The step is over: count it."""
        self.in_row += 1
        self.in_row *= self.bad
        self.dropped += sum(self.lost, self.bad) > 0 if self.lost else self.bad

    def check(self):
        """UserError naming step and terms, if the policy says that the run ends here."""
        if self.first == 0 or (self.policy == "skip" and self.in_row < self.LIMIT):
            return
        pairs = [pair for half in self.names for pair in zip(self.names[half], self.times[half].tolist(), strict=True)]
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
