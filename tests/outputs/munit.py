"""What eval/* of munit.npz are; of some the copy keeps every fourth row and column."""

import torch

RENAMED = {"gen_dim": "ch"}


def evaluate(model, A, B, data) -> dict:
    G, real, found = model.G, {"A": A, "B": B}, {}
    drawn = {d: torch.from_numpy(data[f"eval/random_style_{d}"]).to(A) for d in "AB"}
    content = {d: G[d].enc_content(real[d]) for d in "AB"}
    style = {d: G[d].enc_style(real[d]) for d in "AB"}
    fake = {t: G[t].decode(content[s], drawn[t]) for s, t in model.directions}
    for s, t in model.directions:
        found |= {f"content_{s}": content[s], f"style_{s}": style[s], f"adain_{s}": G[s].mlp(drawn[s])}
        found |= {f"recon_{s}": G[s].decode(content[s], style[s]), f"fake_{s}2{t}": fake[t]}
        found[f"guided_{s}2{t}"] = G[t].decode(content[s], style[t])
    return kept(found | judged(model.D, real, fake), data)


def judged(D, real, fake) -> dict:
    found = {}
    for d in "AB":
        for kind, x in (("real", real[d]), ("fake", fake[d])):
            found |= {f"dis_{d.lower()}/{kind}_{i}": logits for i, logits in enumerate(D[d](x))}
    return found


def kept(found: dict, data) -> dict:
    """Those outputs that the recording has, as thinly as it has them."""
    here = {name: y for name, y in found.items() if f"eval/{name}" in data}
    steps = {name: y.shape[-1] // data[f"eval/{name}"].shape[-1] for name, y in here.items()}
    return {name: y[..., :: steps[name], :: steps[name]] if y.dim() == 4 else y for name, y in here.items()}
