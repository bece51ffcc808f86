"""A model file of its own: `--phase export --direction AtoB --format weights|onnx|pt2`.

It holds what translates and no more: of NICE-GAN the generator and the discriminator's first layers, which encode;
spectral norms are folded into the weights.  Layers are computed by their definitions, so that a graph has no kernel
of this program in it.

    weights   networks for this program: --phase test --checkpoint FILE, Translator(FILE)
    onnx      for onnxruntime and the like; metadata_props of the model say what it is
    pt2       torch.export.load(FILE).module()(picture); its extra file metadata.json says the same

Half precision is of the stored weights alone: they are widened when the model is loaded or run, and all computing,
inputs and outputs stay float32.
"""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from checkpoints.files import save_checkpoint
from layers import definitions, fold_spectral_norms
from translation.pipeline import Pipeline, is_size_bound
from utils import UserError, atomic, evaluating, shown

SUFFIXES = {"weights": ".pt", "onnx": ".onnx", "pt2": ".pt2"}
LICENCE = "MIT, of the program; the weights are their trainer's"


def export(trainer, found: tuple[dict, Path]):
    """Write what translates with a checkpoint (state, path) in one direction as a file of --format."""
    args = trainer.args
    if args.format == "onnx" and not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        raise UserError("--format onnx needs the packages onnx and onnxscript: pip install -r requirements-export.txt")
    pipeline = Pipeline(trainer, found)
    s, t = pipeline.only_direction()
    place = place_of(args, pipeline.path, f"{trainer.folder[s]}to{trainer.folder[t]}")
    size = pipeline.load(own_size=True).size
    about = metadata(trainer, pipeline.state, pipeline.path, s, t, size)
    with evaluating(trainer.networks().values()), definitions():
        write = {"weights": write_weights, "onnx": write_onnx, "pt2": write_pt2}[args.format]
        write(trainer, s, t, about, place)
    size = place.stat().st_size / 2**20
    print(f"wrote {shown(place)}: {about['method']} {about['direction']}, step {about['step']}, "
          f"{about['parameters']:,} parameters, {about['precision']}, {size:.1f} MiB")
    print(f"pictures: {about['sizes']}")


def place_of(args, path: Path, direction: str) -> Path:
    """The file to write.  UserError: it is the checkpoint."""
    name = f"{path.stem.split('_params_')[0]}_{direction}{'_half' * args.half}{SUFFIXES[args.format]}"
    place = Path(args.output) if args.output else path.parent / name
    if place.is_dir() or (args.output or "").endswith("/"):
        place /= name
    if place.exists() and place.samefile(path):
        raise UserError(f"--output {shown(place)} is the checkpoint itself: name another file")
    return place


def metadata(trainer, state: dict, path: Path, s: str, t: str, size: int) -> dict:
    """What there is to know of a model file, in plain values."""
    before, (_, extra) = state.get("metadata", {}), trainer.export_function(s, t)
    parts = trainer.all_inference_keys(s, t) if trainer.args.format == "weights" else trainer.inference_keys(s, t)
    nets = trainer.networks()
    counts = [p.numel() for name, some in parts.items() for k, p in nets[name].named_parameters() if k.startswith(some)]
    return {
        "method": trainer.args.method,
        "direction": f"{trainer.folder[s]}to{trainer.folder[t]}",
        "img_size": size,
        "sizes": sizes(trainer, size),
        "step": state.get("start_iter", 0),
        "licence": LICENCE,
        "data": before.get("data") or fingerprint(path),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in trainer.architecture.items()},
        "precision": "float16 weights, computed in float32" if trainer.args.half else "float32",
        "parameters": sum(counts),
        "input": f"picture (1,{trainer.architecture['img_ch']},H,W), sRGB in [-1,1]",
        "further inputs": {name: what for name, (_, what) in extra.items()},
        "output": "the drawing, of the picture's shape and range",
    }


def sizes(trainer, size: int) -> str:
    if is_size_bound(trainer):
        return f"{size} x {size} alone, as the network is bound to it"
    return f"any height and width divisible by {trainer.size_multiple}, from {trainer.min_size}; trained at {size} x {size}"


def fingerprint(path: Path) -> dict | None:
    """What the training data were, as the run beside a checkpoint has recorded it."""
    name = path.stem.split("_params_")[0]
    for record in (path.parent / name / "run.json", path.parent.parent / "run.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            return json.loads(record.read_text("utf-8"))[-1]["data"]
    return None


def write_weights(trainer, s: str, t: str, about: dict, place: Path):
    """A file that checkpoints.load_checkpoint reads: parts of networks under their names, args, metadata."""
    state = {}
    for name, parts in trainer.all_inference_keys(s, t).items():
        net = trainer.networks()[name]
        fold_spectral_norms(net)
        chosen = {k: v for k, v in net.state_dict().items() if k.startswith(parts)}
        state[name] = {k: v.half() if trainer.args.half and v.is_floating_point() else v for k, v in chosen.items()}
    args = {**trainer.architecture, "method": trainer.args.method, "img_size": about["img_size"]}
    save_checkpoint({**state, "args": args, "start_iter": about["step"], "metadata": about}, place)


class Drawing(nn.Module):
    """What an exported graph computes: a picture, and a style or noise where the method wants one, to its drawing."""

    def __init__(self, trainer, s: str, t: str, half: bool):
        super().__init__()
        self.draw, _ = trainer.export_function(s, t)  # by the networks below, of which it knows without registering them
        for name, parts in trainer.inference_keys(s, t).items():
            net = trainer.networks()[name]
            fold_spectral_norms(net)
            prune(net, parts)
            if half:
                halve(net)
            self.add_module(name, net)

    def forward(self, picture: Tensor, extra: Tensor | None = None) -> Tensor:
        return self.draw(picture) if extra is None else self.draw(picture, extra)


def prune(net: nn.Module, parts: tuple[str, ...], prefix: str = ""):
    """Leave out everything whose name begins like none of `parts`."""
    for group in (net._modules, net._parameters, net._buffers):
        for name in [name for name, value in group.items() if value is not None]:
            here = f"{prefix}{name}"
            if here.startswith(parts) or (group is net._modules and f"{here}.".startswith(parts)):
                continue
            if group is net._modules and any(part.startswith(f"{here}.") for part in parts):
                prune(group[name], parts, f"{here}.")
            else:
                del group[name]


class Widened(nn.Module):
    """A weight that is stored in half precision, and used in single."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.float()


def halve(net: nn.Module):
    """Store the weights in half precision."""
    for module in list(net.modules()):
        for name, p in list(module.named_parameters(recurse=False)):
            if p.dtype == torch.float32:
                p.data = p.data.half()
                parametrize.register_parametrization(module, name, Widened(), unsafe=True)


def graph_inputs(trainer, s: str, t: str, size: int) -> tuple[list[str], tuple[Tensor, ...], dict | None]:
    """Names, examples and dynamic sizes of the inputs of a graph."""
    picture = torch.zeros(1, trainer.architecture["img_ch"], size, size)
    _, extra = trainer.export_function(s, t)
    names, examples = ["picture", *extra], (picture, *(example for example, _ in extra.values()))
    if is_size_bound(trainer):
        return names, examples, None
    m = trainer.size_multiple
    first = -(-trainer.min_size // m)
    sides = {2 + i: m * torch.export.Dim(name, min=first, max=2**15 // m) for i, name in enumerate("hw")}
    free = [sides if x.shape[2:] == picture.shape[2:] else {} for x in examples]
    return names, examples, dict(zip(("picture", "extra"), free, strict=False))


def write_pt2(trainer, s: str, t: str, about: dict, place: Path):
    """A program of torch.export."""
    model = Drawing(trainer, s, t, trainer.args.half).eval()
    _, examples, dynamic = graph_inputs(trainer, s, t, about["img_size"])
    with torch.no_grad():
        program = torch.export.export(model, examples, dynamic_shapes=dynamic, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which files of this machine it comes from
    encoded = io.BytesIO()
    with quiet():
        torch.export.save(program, encoded, extra_files={"metadata.json": json.dumps(about)})
    with atomic(place) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def write_onnx(trainer, s: str, t: str, about: dict, place: Path):
    """A model for ONNX; each entry of the metadata that is no text is written as JSON."""
    model = Drawing(trainer, s, t, trainer.args.half).eval()
    names, examples, dynamic = graph_inputs(trainer, s, t, about["img_size"])
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            model, examples, dynamo=True, dynamic_shapes=dynamic, input_names=names, output_names=["drawing"],
            external_data=False, verbose=False,
        )  # fmt: skip
    for part in (*program.model.graph.all_nodes(), *program.model.graph):
        part.metadata_props.clear()  # where in which file of this machine it comes from
    program.model.metadata_props.update({k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()})
    with atomic(place) as temporary:
        temporary.write_bytes(program.model_proto.SerializeToString())


@contextlib.contextmanager
def quiet():
    """Without what the exporters have to say of their own doings."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
