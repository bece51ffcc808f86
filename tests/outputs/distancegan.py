"""What eval/* of distancegan.npz are."""

RENAMED = {"use_self_distance": "self_distance"}


def evaluate(model, A, B, data) -> dict:
    G_A, G_B, D_A, D_B = model.networks().values()
    fake_B, fake_A = G_A(A), G_B(B)
    found = {"fake_B": fake_B, "fake_A": fake_A, "rec_A": G_B(fake_B), "rec_B": G_A(fake_A)}
    for s, t, real, fake in (("A", "B", A, fake_B), ("B", "A", B, fake_A)):
        found[f"distance_{s}"] = (model.distances(real, s) - model.distances(fake, t)).abs().mean()
    found |= {"D_A/real_B": D_A(B), "D_A/fake_B": D_A(fake_B), "D_B/real_A": D_B(A), "D_B/fake_A": D_B(fake_A)}
    for name, net, x in (("G_A", G_A, A), ("G_B", G_B, B)):
        found[f"{name}/encoder"] = code = net.model[:9](x)
        found[f"{name}/blocks"] = net.model[9:-8](code.clone())
    return found
