"""What eval/* of ugatit.npz and ugatit_full.npz are."""


def put_out(net, layer: str, x):
    """What this layer puts out when the network sees x."""
    seen = []
    hook = net.get_submodule(layer).register_forward_hook(lambda layer, x, y: seen.append(y))
    net(x)
    hook.remove()
    return seen[0]


def evaluate(model, A, B, data) -> dict:
    nets, real, found = model.networks(), {"A": A, "B": B}, {}
    for s, t in model.directions:
        G, back, x = nets[f"gen{s}2{t}"], nets[f"gen{t}2{s}"], real[s]
        fake, cam_logit, heatmap = G(x)
        inside = {"cam_logit": cam_logit, "heatmap": heatmap, "features": put_out(G, "DownBlock", x)}
        inside |= {name: put_out(G, name, x) for name in ("gamma", "beta")}
        found |= {f"gen{s}2{t}/{name}": value for name, value in inside.items()}
        found |= {f"fake_{s}2{t}": fake, f"fake_{s}2{t}2{s}": back(fake).output, f"fake_{s}2{s}": back(x).output}
    for name, net in nets.items():
        if name.startswith("dis"):
            found |= {f"{name}/{part}": value for part, value in net(real[name[-1]])._asdict().items()}
    return {name: value for name, value in found.items() if f"eval/{name}" in data}  # copies keep fewer
