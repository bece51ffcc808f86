"""What eval/* of cut.npz are."""

import torch

AS_RECORDED = {"norm": "torch"}  # methods/cut.py says why


def evaluate(model, A, B, data) -> dict:
    G, F, D = model.G, model.F, model.D
    fake_B = G(A)
    found = {"fake_B": fake_B, "idt_B": G(B), "D/real_B": D(B), "D/fake_B": D(fake_B)}
    features = G.features(A)
    names = [f"draw/G/patches_A_{j}" for j in range(len(features))]
    places = [torch.from_numpy(data[name][0][: model.args.num_patches]).long() for name in names]
    for j, (of_G, of_F) in enumerate(zip(features, F(features, places), strict=True)):
        found |= {f"G/features_A_{j}": of_G, f"F/features_A_{j}": of_F.flatten(0, 1)}
    return found
