"""What eval/* of unit.npz are; of some the copy keeps every fourth row and column."""

from outputs.munit import RENAMED, judged, kept  # noqa: F401


def evaluate(model, A, B, data) -> dict:
    G, real, found = model.G, {"A": A, "B": B}, {}
    code = {d: G[d].enc(real[d]) for d in "AB"}
    fake = {t: G[t].dec(code[s]) for s, t in model.directions}
    for s, t in model.directions:
        found |= {f"code_{s}": code[s], f"recon_{s}": G[s].dec(code[s]), f"fake_{s}2{t}": fake[t]}
    return kept(found | judged(model.D, real, fake), data)
