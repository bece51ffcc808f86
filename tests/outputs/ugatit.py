"""What eval/* of ugatit.npz and ugatit_full.npz are."""


def evaluate(model, A, B, data) -> dict:
    nets, real, found = model.networks(), {"A": A, "B": B}, {}
    for s, t in model.directions:
        G, back = nets[f"gen{s}2{t}"], nets[f"gen{t}2{s}"]
        styles = {}
        hooks = [getattr(G, name).register_forward_hook(lambda _, x, y, name=name: styles.update({name: y}))
                 for name in ("gamma", "beta")]  # fmt: skip
        drawn = G(real[s])
        for hook in hooks:
            hook.remove()
        styles |= {"cam_logit": drawn.cam_logit, "heatmap": drawn.heatmap, "features": G.DownBlock(real[s])}
        found |= {f"gen{s}2{t}/{name}": value for name, value in styles.items()}
        found |= {f"fake_{s}2{t}": drawn.output, f"fake_{s}2{t}2{s}": back(drawn.output).output}
        found[f"fake_{s}2{s}"] = back(real[s]).output
    for name, net in nets.items():
        if name.startswith("dis"):
            judged = net(real[name[-1]])
            found |= {f"{name}/{part}": value for part, value in judged._asdict().items()}
    return found
