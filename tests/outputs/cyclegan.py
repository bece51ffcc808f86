"""What eval/* of cyclegan.npz are."""


def evaluate(model, A, B, data) -> dict:
    G_A, G_B, D_A, D_B = (net for net in model.networks().values())
    fake_B, fake_A = G_A(A), G_B(B)
    found = {"fake_B": fake_B, "fake_A": fake_A, "rec_A": G_B(fake_B), "rec_B": G_A(fake_A)}
    found |= {"idt_A": G_A(B), "idt_B": G_B(A), "D_A/real_B": D_A(B), "D_A/fake_B": D_A(fake_B)}
    found |= {"D_B/real_A": D_B(A), "D_B/fake_A": D_B(fake_A)}
    for name, net, x in (("G_A", G_A, A), ("G_B", G_B, B)):
        found[f"{name}/encoder"] = code = net.model[:10](x)
        found[f"{name}/blocks"] = net.model[10:-9](code.clone())
    return found
