"""What eval/* of gcgan.npz are."""

AS_RECORDED = {"early_decay": "true"}  # on a newer PyTorch than the authors'


def evaluate(model, A, B, data) -> dict:
    G, D_B, D_gc_B = (model.networks()[name] for name in ("G_AB", "D_B", "D_gc_B"))
    gc_A, gc_B = model.f(A), model.f(B)
    fake_B, fake_gc_B = G(A), G(gc_A)
    found = {"real_gc_A": gc_A, "real_gc_B": gc_B, "fake_B": fake_B, "fake_gc_B": fake_gc_B}
    found |= {"idt_A": G(B), "idt_gc_A": G(gc_B), "D_B/real_B": D_B(B), "D_B/fake_B": D_B(fake_B)}
    found |= {"D_gc_B/real_gc_B": D_gc_B(gc_B), "D_gc_B/fake_gc_B": D_gc_B(fake_gc_B)}
    found["G_AB/encoder"] = code = G.model[:10](A)
    found["G_AB/blocks"] = G.model[10:-9](code.clone())
    return found
