"""Model files: they compute what their checkpoint computes, and hold only what translation needs."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import images
from drawers import lively, saved
from pictures import one_line, save, scene
from PIL import Image
from runs import ROOT
from test_methods import SMALL, size_of
from torch.utils._pytree import tree_leaves

import main
import methods
from checkpoints.contents import is_network
from checkpoints.files import load_checkpoint
from images.encode import to_uint8
from layers import definitions
from nicegan import Translator
from translation import export
from translation.pipeline import pad_to_multiple
from utils import UserError

# fastcut and gcgan have the generators of cut and cyclegan: their graphs are tested with -m slow
GRAPHS = [pytest.param(m, marks=[pytest.mark.slow] if m in ("fastcut", "gcgan", "sincyclegan") else []) for m in SMALL]
SIDES = [(12, 12), (20, 9), (11, 26)]  # in units of size_multiple


@pytest.fixture
def ship(tmp_path):
    """ship(method, options): write a checkpoint and its model file; returns (file, trainer)."""
    def ship(method: str, text: str = "", build: str = "", seed: int = 0):
        path = saved(tmp_path / "run", method, build, seed=seed)
        model = lively(method, build, seed=seed)
        for net in model.networks().values():
            net.eval()
        out = tmp_path / "model" / "file"
        main.main(f"--phase export --device cpu --checkpoint {path} --output {out} --direction AtoB {text}".split())
        return out, model

    return ship


def inputs_of(model, h: int, w: int) -> list[torch.Tensor]:
    """A picture of that size, and the other inputs of the method's graph."""
    x = images(1, max(h, w), h)[:, :, :h, :w]
    _, extra = model.export_function("A", "B")
    generator = torch.Generator().manual_seed(h)
    more = (torch.randn(*((1, 1, h, w) if k == "noise" else v.shape), generator=generator)
            for k, (v, _) in extra.items())  # fmt: skip
    return [x, *more]


@torch.no_grad()
def expected_of(model, given: list[torch.Tensor]) -> np.ndarray:
    translate, _ = model.export_function("A", "B")
    return translate(*given).numpy()


def sizes_of(model) -> list[tuple[int, int]]:
    return [(model.size_multiple * h, model.size_multiple * w) for h, w in SIDES]


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest deviation, as a fraction of the range -1..1."""
    assert found.shape == expected.shape and found.dtype == np.float32 and expected.std() > 0.05
    return float(np.abs(found - expected).max()) / 2


# -------------------------------------------------------------------------------------------- onnx


def session(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def answer(model, given: list[torch.Tensor]) -> np.ndarray:
    names = [x.name for x in model.get_inputs()]
    return model.run(None, dict(zip(names, (x.numpy() for x in given), strict=True)))[0]


@pytest.mark.parametrize("method", GRAPHS)
def test_onnx_translates_the_same_at_three_sizes(ship, method):
    file, model = ship(method, "--format onnx")
    runs = session(file)
    for h, w in sizes_of(model):
        given = inputs_of(model, h, w)
        assert apart(answer(runs, given), expected_of(model, given)) < 1e-4
    pairs = [torch.cat(pair) for pair in zip(given, [x.flip(0, 1) for x in given], strict=True)]
    found = answer(runs, pairs)  # a batch of two
    for i in range(2):
        assert apart(found[i : i + 1], expected_of(model, [x[i : i + 1] for x in pairs])) < 1e-4
    about = runs.get_modelmeta().custom_metadata_map
    assert (about["method"], about["direction"], about["step"], about["precision"]) == (method, "AtoB", "7", "float32")
    assert json.loads(about["options"])["ch"] == model.args.ch and about["licence"].startswith("MIT")
    assert [x.name for x in runs.get_inputs()] == ["picture", *json.loads(about["further inputs"])]
    assert [x.shape[0] for x in (*runs.get_inputs(), *runs.get_outputs())] == ["batch"] * (len(given) + 1)
    assert all(isinstance(side, str) for side in runs.get_inputs()[0].shape[2:])  # dynamic
    if method in ("munit", "unit"):  # whose layer normalisation is MUNIT's own
        constant = answer(runs, [torch.full((1, 3, 24, 24), 0.3), *[x[:1] for x in given[1:]]])
        assert np.ptp(constant.reshape(3, -1), 1).max() < 1e-5


@pytest.mark.parametrize("method", [
    "cyclegan", pytest.param("sincut", marks=pytest.mark.slow), pytest.param("munit", marks=pytest.mark.slow),
])  # fmt: skip
def test_the_script_of_the_docs_is_in_the_file_and_runs(ship, method, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    file, model = ship(method, "--format onnx")
    page = (ROOT / "docs" / "onnx.md").read_text("utf-8")
    script = "".join(line[4:] + "\n" for line in page.split("in theirs.\n\n")[1].split("\n\n")[0].splitlines())
    proto = onnx.load(file)
    assert proto.doc_string.endswith(script) and f"by {method}, AtoB" in proto.doc_string
    assert all(value.doc_string and value.doc_string in proto.doc_string for value in (*proto.graph.input,
                                                                                       *proto.graph.output))
    monkeypatch.chdir(tmp_path)
    shutil.copy(file, "model.onnx")
    (x,) = inputs_of(model, 44, 52)[:1]
    Image.fromarray(to_uint8(x[0])).save("cat.png")
    exec(compile(script.replace("cat.jpg", "cat.png"), "onnx.md", "exec"), {})
    found = np.asarray(Image.open("dog.png"))
    assert found.shape == (44, 52, 3)
    if method == "cyclegan":
        x = torch.from_numpy(np.array(Image.open("cat.png"))).permute(2, 0, 1)[None] / 127.5 - 1
        expected = to_uint8(torch.from_numpy(expected_of(model, [x]))[0])
        assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("method, text", [("nice", "--opset 20"), ("cyclegan", "--half true")])
def test_onnx_takes_any_size_is_exact_on_constants_and_can_be_quantized(ship, method, text):
    onnx = pytest.importorskip("onnx")
    quantization = pytest.importorskip("onnxruntime.quantization")
    file, model = ship(method, f"--format onnx {text}")
    proto = onnx.load(file)
    assert proto.opset_import[0].version == (20 if "20" in text else 18)
    assert proto.ir_version == onnx.helper.find_min_ir_version_for(proto.opset_import)
    runs, tolerance = session(file), 2e-3 if "half" in text else 1e-4
    for h, w in ((67, 51), (48, 50), (9, 30)):
        (x,) = inputs_of(model, h, w)
        padded, *_ = pad_to_multiple(model, x)
        with torch.no_grad(), definitions():
            expected = model.translate(padded, "A", "B")[..., :h, :w].numpy()
        assert apart(answer(runs, [x]), expected) < tolerance
    if method == "cyclegan":
        constant = answer(runs, [torch.full((1, 3, 48, 48), 0.3)])
        assert np.ptp(constant.reshape(3, -1), 1).max() < 1e-5
    small = file.with_name("small.onnx")
    quantization.quantize_dynamic(str(file), str(small))
    found = answer(session(small), [x])
    assert found.shape == x.shape and np.isfinite(found).all()


def test_weights_beyond_one_file_lie_beside_it(ship, monkeypatch, capfd):
    monkeypatch.setattr(export, "LARGEST", 4000)  # bytes, in the place of 2 GiB
    file, model = ship("cyclegan", "--format onnx")
    out, beside = capfd.readouterr().out, file.with_name("file.data")
    assert out.index("file.data has them") < out.index("wrote ") and out.count("\n") == 3
    weights = sum(p.numel() for p in model.G["B"].parameters() if p.numel() >= 256)
    assert beside.stat().st_size > 4 * weights > 4000
    given = inputs_of(model, 48, 36)
    assert apart(answer(session(file), given), expected_of(model, given)) < 1e-4
    file.rename(file.with_name("renamed.onnx"))  # the data keep their name
    assert apart(answer(session(file.with_name("renamed.onnx")), given), expected_of(model, given)) < 1e-4
    beside.write_bytes(b"")
    with pytest.raises(Exception, match="External"):
        session(file.with_name("renamed.onnx"))


def test_onnx_in_half_precision_and_of_standard_operations(ship, capfd):
    onnx = pytest.importorskip("onnx")
    file, model = ship("cyclegan", "--format onnx --half true", "--ch 16")
    assert "float16 weights, computed in float32" in capfd.readouterr().out
    graph = onnx.load(file)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    kinds = {onnx.TensorProto.DataType.Name(x.data_type): 0 for x in graph.graph.initializer}
    for x in graph.graph.initializer:
        kinds[onnx.TensorProto.DataType.Name(x.data_type)] += int(np.prod(x.dims))
    assert kinds["FLOAT16"] > 0.8 * sum(p.numel() for p in model.G["B"].parameters() if p.dim() == 4)
    assert not any(b"/" in node.SerializeToString() for node in graph.graph.node)  # no path of this machine
    given = inputs_of(model, 48, 36)
    assert 1e-5 < apart(answer(session(file), given), expected_of(model, given)) < 5e-3
    weight = max(graph.graph.initializer, key=lambda x: np.prod(x.dims))  # a wrong weight is noticed
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[:9] += 0.2
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, file)
    assert apart(answer(session(file), given), expected_of(model, given)) > 5e-3


# --------------------------------------------------------------------------------------------- pt2


def opened(file):
    extra = {"metadata.json": ""}
    program = torch.export.load(file, extra_files=extra)
    return program, json.loads(extra["metadata.json"])


def bound_to_a_device(program) -> list[str]:
    """The nodes of a graph, with its sub-graphs, that name a device."""
    nodes = [node for part in program.graph_module.modules() if hasattr(part, "graph") for node in part.graph.nodes]
    assert len(nodes) > 20
    devices = [[x for x in tree_leaves((node.args, node.kwargs)) if isinstance(x, torch.device)] for node in nodes]
    return [str(node.target) for node, found in zip(nodes, devices, strict=True) if found]


@pytest.mark.parametrize("method, half", [("nice", ""), ("munit", "--half true")])
def test_pt2_translates_the_same_at_three_sizes(ship, method, half):
    file, model = ship(method, f"--format pt2 {half}")
    program, about = opened(file)
    for h, w in sizes_of(model):
        given = inputs_of(model, h, w)
        found = program.module()(*given).detach().numpy()
        assert apart(found, expected_of(model, given)) < (5e-3 if half else 1e-4)
    assert about["method"] == method and about["sizes"].startswith("any height and width divisible by 4")
    unused = "Dis", "conv0", "enc_style", "cnns"
    assert not [name for name in program.state_dict if any(part in name for part in unused)]
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in", "<function", "_operator")) for name in operations), operations
    assert bound_to_a_device(program) == []


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "--half true"])
@pytest.mark.parametrize("method, build", [*((method, "") for method in SMALL), ("nice", "--light false")])
def test_no_node_of_pt2_is_bound_to_a_device(ship, method, text, build):
    file, model = ship(method, f"--format pt2 {text}", build)
    program, _ = opened(file)
    assert bound_to_a_device(program) == []
    pairs = [torch.cat([x, x.flip(0, 1)]) for x in inputs_of(model, *[size_of(method)] * 2)]
    found = program.module()(*pairs).detach().numpy()  # a batch of two
    assert apart(found[1:], expected_of(model, [x[1:] for x in pairs])) < (2e-2 if text else 1e-4)


def test_what_is_bound_to_its_size_says_so(ship, capfd):
    file, model = ship("nice", "--format pt2", "--light false")
    assert "48 x 48 alone" in capfd.readouterr().out
    program, about = opened(file)
    given = inputs_of(model, 48, 48)
    assert apart(program.module()(*given).detach().numpy(), expected_of(model, given)) < 1e-4
    with pytest.raises(Exception, match="48"):
        program.module()(*inputs_of(model, 52, 48))


# ----------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("method", SMALL)
def test_weights_translate_as_their_checkpoint(ship, tmp_path, method):
    file, model = ship(method)
    checkpoint = tmp_path / "run" / "toy_params_latest.pt"
    picture = Image.fromarray(scene(60, 44))
    expected = np.asarray(Translator(checkpoint, device="cpu")(picture, "AtoB")).astype(int)
    shipped = Translator(file, device="cpu")
    assert np.abs(np.asarray(shipped(picture)) - expected).max() <= 1 and expected.std() > 5
    with pytest.raises(UserError) as error:
        shipped(picture, "BtoA")
    one_line(error, "translates AtoB")
    state = torch.load(file, weights_only=True)
    kept = sum(v.numel() for k, net in state.items() if is_network(k) for v in net.values())
    assert state["metadata"]["direction"] == "AtoB" and state["metadata"]["step"] == 7
    everything = sum(v.numel() for net in model.networks().values() for v in net.state_dict().values())
    assert kept < 0.8 * everything and not any("optimizer" in k or "rng" in k for k in state)
    assert not any(k.endswith(("weight_u", "weight_v")) for net in state.values() if isinstance(net, dict) for k in net)


def test_weights_by_the_command_line_and_in_half_precision(ship, tmp_path, monkeypatch, capfd):
    whole, _ = ship("nice", "", "--ch 8")
    sizes = [whole.stat().st_size]
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x.png", scene(40, 32))
    main.main(f"--phase test --device cpu --checkpoint {whole} --input x.png --output whole".split())
    main.main(f"--phase export --device cpu --checkpoint {whole} --half true --output half.pt".split())
    sizes.append((tmp_path / "half.pt").stat().st_size)
    main.main(["--phase", "test", "--device", "cpu", "--checkpoint", "half.pt", "--input", "x.png", "--output", "half"])
    pictures = [np.asarray(Image.open(f"{name}/x.png")).astype(int) for name in ("whole", "half")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 2 and sizes[1] < 0.7 * sizes[0]
    assert capfd.readouterr().out.count("wrote ") == 2


def test_styles_by_an_example_with_a_weights_file(ship, tmp_path):
    file, _ = ship("munit")
    save(tmp_path / "style.png", scene(40, 40, 3))
    picture, results = Image.fromarray(scene(40, 32)), []
    for path in (file, tmp_path / "run" / "toy_params_latest.pt"):
        results.append(np.asarray(Translator(path, device="cpu", style_from=tmp_path / "style.png")(picture, "AtoB")))
    assert np.array_equal(*results)


# ---------------------------------------------------------------------------------- names, mistakes


def test_names_and_the_fingerprint_of_the_data(tmp_path):
    path = saved(tmp_path, "cyclegan")
    record = [{"data": {"trainA": {"pictures": 1}}}, {"data": {"trainA": {"pictures": 2, "digest": "abc"}}}]
    (tmp_path / "toy").mkdir(exist_ok=True)
    (tmp_path / "toy" / "run.json").write_text(json.dumps(record))
    call = f"--phase export --device cpu --dataset toy --result_dir {tmp_path} --direction BtoA "
    main.main(call.split())
    main.main(f"{call} --half true --output {tmp_path}/models/".split())
    assert (tmp_path / "models" / "toy_BtoA_half.pt").exists()
    state = load_checkpoint(path.with_name("toy_BtoA.pt"), methods.recognise)
    assert state["metadata"]["data"] == record[-1]["data"] and state["metadata"]["parameters"] > 1000


@pytest.fixture
def toy(tmp_path):
    return saved(tmp_path, "cyclegan")


def test_mistakes_are_one_line(toy, tmp_path, monkeypatch):
    call = f"--phase export --device cpu --checkpoint {toy} "
    before = toy.read_bytes()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "onnx" and find_spec(name))
    for text, *words in [
        ("", "translates both ways", "--direction AtoB"),
        (f"--direction AtoB --output {toy}", "is the checkpoint itself"),
        ("--direction AtoB --format onnx", "onnx", "pip install -r requirements-export.txt"),
        ("--direction AtoB --output /proc/nowhere/x.pt", "cannot write", "/proc/nowhere/x.pt"),
    ]:
        with pytest.raises(UserError) as error:
            main.main((call + text).split())
        assert error.value.status == 2
        one_line(error, *words)
    assert toy.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".onnx", ".pt2", ".tmp") or "AtoB" in p.name]


def test_a_model_file_is_no_checkpoint_to_train_on(toy, tmp_path):
    main.main(f"--phase export --device cpu --checkpoint {toy} --direction AtoB --output {tmp_path}/m.pt".split())
    with pytest.raises(UserError) as error:
        main.main(f"--checkpoint {tmp_path}/m.pt --device cpu --dataset toy --result_dir {tmp_path}/new".split())
    one_line(error, "is a model file", "continue from a checkpoint")
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    name = next(key for key in state if is_network(key))
    del state[name][next(iter(state[name]))], state["digest"]
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(UserError) as error:
        Translator(tmp_path / "m.pt", device="cpu")
    one_line(error, "m.pt does not fit", name)


def test_every_network_that_translates_has_its_parts():
    for method in SMALL:
        model = lively(method)
        for way in model.directions:
            keys = model.inference_keys(*way).keys() | model.all_inference_keys(*way).keys()
            assert keys <= set(model.inference_networks[way])
    assert size_of("nice") == 48 and set(methods.METHODS) == set(SMALL)
