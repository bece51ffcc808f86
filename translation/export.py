"""--phase export --direction AtoB --format weights|onnx|pt2|html|folder: write a model file.

It holds only what translation needs: of NICE-GAN the generator and the discriminator's first layers, which encode.
Spectral norms are folded into the weights.  Layers are computed by their definitions, so an exported graph contains
no kernel of this program.

    weights   networks for this program: --phase test --checkpoint FILE, Translator(FILE)
    folder    the same as model.safetensors and config.json, with a model card: what model hubs expect
    onnx      for onnxruntime and the like; the model's metadata_props describe it
    pt2       torch.export.load(FILE).module()(picture); its extra file metadata.json describes it
    html      a page that translates in a browser (translation/export_page.py); of both directions without --direction

--half applies to the stored weights only: they are converted to float32 when the model is loaded or run, and all
computation, inputs and outputs are float32.
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
from options import telling
from options.common import FORMATS
from translation.export_page import write_page
from translation.model_card import write_folder
from translation.pipeline import Pipeline, direction_name, is_size_bound
from utils import UserError, atomic, evaluating, own_file, parse_json, shown, text_of

LARGEST = 2**31 - 2**24  # bytes of weights in one ONNX file; protobuf reads 2 GiB
LICENCE = "MIT, of the program; the weights are their trainer's"


def export(trainer, found: tuple[dict, Path]):
    """Write the networks of a checkpoint (state, path) for one direction in the format --format."""
    args = trainer.args
    if args.format in ("onnx", "html") and not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        needs = f"--format {args.format} needs the packages onnx and onnxscript"
        raise UserError(f"{needs}: pip install -r {own_file('requirements-export.txt')}")
    pipeline = Pipeline(trainer, found)
    if args.format == "html":
        export_page(pipeline)
        return
    s, t = pipeline.only_direction()
    place = output_path(args, pipeline.path, direction_name(trainer, s, t))
    size, beside = pipeline.load(own_size=True).size, None
    about = metadata(trainer, pipeline.state, pipeline.path, s, t, size)
    with evaluating(trainer.networks().values()), definitions():
        if args.format == "weights":
            save_checkpoint(weights_state(trainer, s, t, about), place)
        elif args.format == "folder":
            write_folder(trainer, weights_state(trainer, s, t, about), pipeline, place)
        else:
            beside = data_beside(trainer, s, t, place)
            with telling(f"exporting {about['direction']}"):
                content = graph(trainer, s, t, about, beside)
            with atomic(place) as temporary:
                temporary.write_bytes(content)
    files = place.iterdir() if place.is_dir() else [place, *filter(None, [beside])]
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"wrote {shown(place)}: {about['method']} {about['direction']}, step {about['step']}, "
          f"{about['parameters']:,} parameters, {about['precision']}, {size:.1f} MiB")
    print(f"pictures: {about['sizes']}")


def export_page(pipeline: Pipeline):
    """Write the page of a checkpoint, with the directions that it is asked for."""
    trainer, title = pipeline.trainer, pipeline.path.stem.split("_params_")[0]
    names = [direction_name(trainer, *d) for d in pipeline.directions]
    place = output_path(trainer.args, pipeline.path, names[0] if len(names) == 1 else "")

    def model(s: str, t: str) -> tuple[dict, bytes]:
        # an export prunes networks that both directions may use
        fresh = type(trainer)(trainer.args, empty=trainer.empty)
        own = Pipeline(fresh, (pipeline.state, pipeline.path)).load(own_size=True)
        about = metadata(fresh, own.state, own.path, s, t, own.size)
        with evaluating(fresh.networks().values()), definitions(), telling(f"exporting {about['direction']}"):
            return about, graph(fresh, s, t, about)

    pipeline.load()
    with telling("making the page"):
        write_page(trainer, pipeline.directions, model, title, place)
    size = place.stat().st_size / 2**20
    print(f"wrote {shown(place)}: {' and '.join(names)}, {size:.1f} MiB; open it in a browser")


def output_path(args, path: Path, direction: str) -> Path:
    """The file to write.  UserError: it is the checkpoint."""
    half = "_half" * (args.half and args.format != "html")  # a page's weights are always half ones
    name = f"{path.stem.split('_params_')[0]}{'_' * bool(direction)}{direction}{half}{FORMATS[args.format]}"
    place = Path(args.output) if args.output else path.parent / name
    if args.format != "folder" and (place.is_dir() or (args.output or "").endswith("/")):
        place /= name
    if place.exists() and place.samefile(path):
        raise UserError(f"--output {shown(place)} is the checkpoint itself: name another file")
    return place


def data_beside(trainer, s: str, t: str, place: Path) -> Path | None:
    """The file beside an ONNX file that takes the weights, where they are too many for one; a line names it."""
    if trainer.args.format != "onnx":
        return None
    parts, nets = trainer.inference_keys(s, t), trainer.networks()
    numbers = [p for name, some in parts.items() for k, p in nets[name].named_parameters() if k.startswith(some)]
    if (size := sum(p.numel() for p in numbers) * (2 if trainer.args.half else 4)) <= LARGEST:
        return None
    print(f"the weights take {size / 2**30:.1f} GiB, more than one ONNX file can hold: {shown(place.name)}.data has "
          "them, keep both together")  # fmt: skip
    return place.with_name(f"{place.name}.data")


def metadata(trainer, state: dict, path: Path, s: str, t: str, size: int) -> dict:
    """The description of a model file, in plain values."""
    _, extra = trainer.export_function(s, t)
    stored = trainer.args.format in ("weights", "folder")
    parts = trainer.all_inference_keys(s, t) if stored else trainer.inference_keys(s, t)
    nets = trainer.networks()
    any_size = f"any height and width divisible by {trainer.size_multiple}, from {trainer.min_size}"
    any_size = "any height and width" if trainer.args.format == "onnx" else any_size
    any_size += f"; trained at {size} x {size}"
    counts = [p.numel() for name, some in parts.items() for k, p in nets[name].named_parameters() if k.startswith(some)]
    return {
        "method": trainer.args.method,
        "direction": direction_name(trainer, s, t),
        "img_size": size,
        "sizes": f"{size} x {size} alone, as the network is bound to it" if is_size_bound(trainer) else any_size,
        "step": state.get("start_iter", 0),
        "licence": LICENCE,
        "data": of_folders(state.get("metadata", {}).get("data")) or fingerprint(path),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in trainer.architecture.items()},
        "precision": "float16 weights, computed in float32" if trainer.args.half else "float32",
        "parameters": sum(counts),
        "input": f"picture ({'1' if trainer.args.format == 'html' else 'N'},{trainer.architecture['img_ch']},H,W), "
        "sRGB in [-1,1]",
        "further inputs": {name: what for name, (_, what) in extra.items()},
        "scales": trainer.plain_scales(),
        "output": "the translation, of the picture's shape and range",
    }


def of_folders(data) -> dict | None:
    """What a file says of folders of pictures, {name: dict}; None: it says something else."""
    return data if isinstance(data, dict) and all(isinstance(each, dict) for each in data.values()) else None


def fingerprint(path: Path) -> dict | None:
    """The training data, from the run.json beside a checkpoint; None: there is none."""
    name = path.stem.split("_params_")[0]
    for record in (path.parent / name / "run.json", path.parent.parent / "run.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            return of_folders(parse_json(text_of(record))[-1]["data"])
    return None


def weights_state(trainer, s: str, t: str, about: dict) -> dict:
    """What checkpoints.files.load_checkpoint reads: parts of networks under their names, args, metadata."""
    state = {}
    for name, parts in trainer.all_inference_keys(s, t).items():
        net = trainer.networks()[name]
        fold_spectral_norms(net)
        chosen = {k: v for k, v in net.state_dict().items() if k.startswith(parts)}
        state[name] = {k: v.half() if trainer.args.half and v.is_floating_point() else v for k, v in chosen.items()}
    args = {**trainer.architecture, "method": trainer.args.method, "img_size": about["img_size"]}
    args["preprocess"], args["load_size"] = trainer.preparation
    return state | {"args": args, "scales": about["scales"], "start_iter": about["step"], "metadata": about}


class ExportedModel(nn.Module):
    """The exported function: a picture, and a style or noise if the method needs it, to its translation."""

    def __init__(self, trainer, s: str, t: str, half: bool):
        super().__init__()
        self.translate, _ = trainer.export_function(s, t)  # uses the networks below, but does not register them
        for name, parts in trainer.inference_keys(s, t).items():
            net = trainer.networks()[name]
            fold_spectral_norms(net)
            prune(net, parts)
            if half:
                store_as_half(net)
            self.add_module(name, net)

    def forward(self, picture: Tensor, extra: Tensor | None = None) -> Tensor:
        return self.translate(picture) if extra is None else self.translate(picture, extra)


def prune(net: nn.Module, parts: tuple[str, ...], prefix: str = ""):
    """Delete all modules, parameters and buffers whose name starts with none of `parts`."""
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
    """Converts a stored float16 weight to float32."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.float()


def store_as_half(net: nn.Module):
    """Store the weights in half precision."""
    for module in list(net.modules()):
        for name, p in list(module.named_parameters(recurse=False)):
            if p.dtype == torch.float32:
                p.data = p.data.half()
                parametrize.register_parametrization(module, name, Widened(), unsafe=True)


def graph_inputs(trainer, s: str, t: str, size: int) -> tuple[list[str], tuple[Tensor, ...], dict]:
    """Names, examples and dynamic shapes of the inputs of a graph."""
    picture = torch.zeros(1, trainer.architecture["img_ch"], size, size)
    _, extra = trainer.export_function(s, t)
    names, examples = ["picture", *extra], (picture, *(example for example, _ in extra.values()))
    batch = {}
    if trainer.args.format != "html":
        batch[0] = torch.export.Dim("batch", min=1, max=2**15)
        examples = tuple(torch.cat([x, x]) for x in examples)  # of one picture, a trace would keep the number
    sides, m = {}, trainer.size_multiple
    if not is_size_bound(trainer):
        first = -(-trainer.min_size // m)
        sides = {2 + i: m * torch.export.Dim(name, min=first, max=2**15 // m) for i, name in enumerate("hw")}
    free = [batch | (sides if x.shape[2:] == picture.shape[2:] else {}) for x in examples]
    return names, examples, dict(zip(("picture", "extra"), free, strict=False))


def graph(trainer, s: str, t: str, about: dict, beside: Path | None = None) -> bytes:
    """A file of torch.export or ONNX; in ONNX metadata, values other than text are written as JSON.

    beside: a file for the weights of an ONNX model, which is written.
    """
    model = ExportedModel(trainer, s, t, trainer.args.half).eval()
    names, examples, dynamic = graph_inputs(trainer, s, t, about["img_size"])
    encoded = io.BytesIO()
    with torch.no_grad(), quiet():
        if trainer.args.format == "pt2":
            program = torch.export.export(model, examples, dynamic_shapes=dynamic, strict=False)
            for node in list(program.graph.nodes):
                node.meta.pop("stack_trace", None)  # names files of this machine
                if node.target is torch.ops.aten._assert_tensor_metadata.default:
                    program.graph.erase_node(node)  # a weight that is widened has to lie on this machine's device
            program.graph_module.recompile()
            torch.export.save(program, encoded, extra_files={"metadata.json": json.dumps(about)})
        else:
            import onnx  # not among the packages that translating needs

            from translation import onnx_file

            program = torch.onnx.export(
                model, examples, dynamo=True, dynamic_shapes=dynamic, input_names=names, output_names=["drawing"],
                external_data=False, verbose=False, opset_version=trainer.args.opset,
                custom_translation_table=onnx_file.TRANSLATIONS,
            )  # fmt: skip
            for part in (*program.model.graph.all_nodes(), *program.model.graph):
                part.metadata_props.clear()  # names files of this machine
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
            program.model.metadata_props.update(texts)
            proto = program.model_proto
            onnx_file.fold_weights(proto)
            if not is_size_bound(trainer) and trainer.args.format == "onnx":  # a page pads by itself
                onnx_file.accept_any_size(proto, trainer.size_multiple, trainer.min_size)
            if trainer.args.format == "onnx":
                onnx_file.describe(proto, about)
            if beside:
                onnx_file.move_weights(proto, beside)
            proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
            encoded.write(proto.SerializeToString())
    return encoded.getvalue()


@contextlib.contextmanager
def quiet():
    """Without the exporters' warnings and log messages."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
