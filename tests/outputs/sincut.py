"""What eval/* of sincut.npz are; a copy of the recording may lack some, and hold others of the first pictures only."""

import torch


def evaluate(model, A, B, data) -> dict:
    G, F, D = (model.networks()[name] for name in "GFD")
    wide = torch.from_numpy(data["eval/wide_in"]).to(A) / 127.5 - 1
    found = {}
    for name, x, noise in (("fake_B", A, "noise_A_0"), ("idt_B", B, "noise_B_0"), ("wide_out", wide, "noise_wide_0")):
        found[f"{name}_no_noise"] = G(x)
        if f"eval/{noise}" in data:
            noise = torch.from_numpy(data[f"eval/{noise}"]).to(A)
            found[name] = G(x[: len(noise)], noise)
    places = [torch.from_numpy(data[f"eval/positions_{layer}"]).long() for layer in model.layers]
    for name, x in (("A", A), ("fake_B", found["fake_B_no_noise"])):
        features = [G.encoder.features(x)[layer] for layer in model.layers]
        for layer, rows, feature in zip(model.layers, F(features, places), features, strict=True):
            found[f"projected_{name}_{layer}"] = rows
            if name == "A" and layer > 0:
                found[f"feature_A_{layer}"] = feature
    found |= {"D_real_A": D(A), "D_real_B": D(B), "D_fake_B_no_noise": D(found["fake_B_no_noise"])}
    with torch.enable_grad():
        y = B.clone().requires_grad_()
        (found["R1_gradient"],) = torch.autograd.grad(D(y).sum(), y)
    recorded = {name: data[f"eval/{name}"] for name in found if f"eval/{name}" in data}
    return {name: found[name][: len(value)] for name, value in recorded.items()}
