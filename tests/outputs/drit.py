"""What eval/* of drit.npz are."""

import torch

AS_RECORDED = {"early_decay": "true"}  # on a newer PyTorch than the authors'


def evaluate(model, A, B, data) -> dict:
    real, styles, found = {"A": A, "B": B}, {}, {}
    names = [name for name in ("z_random", "eps_A", "eps_B") if f"eval/{name}" in data]
    draws = {name: torch.from_numpy(data[f"eval/{name}"]).to(A) for name in names}
    picture, content = (int(data[f"config/eval_{kind}_stride"]) for kind in ("picture", "content"))
    c = {d: model.content(real[d], d) for d in "AB"}
    for d in "AB":
        mean, log_variance = model.enc_a(real[d], d)
        if log_variance is None:
            found[f"attr_{d}"] = styles[d] = mean
        else:
            found |= {f"mu_{d}": mean, f"logvar_{d}": log_variance}
            styles[d] = mean + draws[f"eps_{d}"] * (log_variance / 2).exp()
        found[f"content_{d}"] = c[d][..., ::content, ::content]
        found[f"disContent/{d}"] = model.D_c(c[d])
        for name, D in ((f"dis{d}", model.D[d]), (f"dis{d}2", model.D2[d])):
            found |= {f"{name}/{k}": logits for k, logits in enumerate(D(real[d]))}
    for s, t in model.directions:
        for kind, z in (("random", draws["z_random"]), ("transfer", styles[t])):
            found[f"fake_{t}_{kind}"] = model.decode(c[s], z, t)[..., ::picture, ::picture]
    return found
