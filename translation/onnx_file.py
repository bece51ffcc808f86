"""What an exported ONNX model needs for the tools after it: exact means, plain weights, pictures of any size."""

import os
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from onnx.reference import ReferenceEvaluator
from onnxscript import opset18 as op

from utils import atomic

# Translates cat.jpg; docs/onnx.md shows the same lines.
SCRIPT = """\
import numpy as np, onnxruntime
from PIL import Image
model = onnxruntime.InferenceSession("model.onnx")
first, *others = model.get_inputs()                   # others: a style or noise, of some methods
picture = Image.open("cat.jpg").convert("RGB" if first.shape[1] == 3 else "L")
x = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1)
x = {"picture": x.transpose(2, 0, 1)[None] / 127.5 - 1}             # (1,C,H,W) from -1, black, to 1, white
sides = {"batch": 1, "h": picture.height, "w": picture.width}
x |= {o.name: np.random.randn(*[sides.get(n, n) for n in o.shape]).astype(np.float32) for o in others}
y = model.run(["drawing"], x)[0][0].transpose(1, 2, 0)
Image.fromarray(((y + 1) * 127.5).round().clip(0, 255).astype(np.uint8).squeeze()).save("dog.png")
"""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def var_mean(x, dim, correction=1.0, keepdim=False):
    """torch.var_mean for ONNX; the mean of equal numbers is just that number, which ReduceMean's is not."""
    axes = op.Constant(value_ints=list(dim))
    rough = op.ReduceMean(x, axes, keepdims=1)
    apart = op.Sub(x, rough)
    error = op.ReduceMean(apart, axes, keepdims=1)
    mean = op.Add(rough, error)
    squares = op.ReduceSumSquare(op.Sub(x, mean), axes, keepdims=1)
    sizes = op.Gather(op.Shape(x), axes)
    count = op.Cast(op.ReduceProd(sizes, keepdims=0), to=TensorProto.FLOAT)
    var = op.Div(squares, op.Sub(count, op.Constant(value_float=float(correction))))
    return var, mean


def std_mean(x, dim, correction=1.0, keepdim=False):
    """torch.std_mean for ONNX, from var_mean."""
    var, mean = var_mean(x, dim, correction, keepdim)
    return op.Sqrt(var), mean


TRANSLATIONS = {torch.ops.aten.var_mean.correction: var_mean, torch.ops.aten.std_mean.correction: std_mean}


def describe(model: onnx.ModelProto, about: dict):
    """Say in the model's doc_string, and in those of its inputs and its output, what they are and how to use them."""
    graph, further = model.graph, about["further inputs"]
    texts = {"picture": about["input"], **further, "drawing": about["output"]}
    for value in (*graph.input, *graph.output):
        value.doc_string = texts[value.name]
    names = "".join(f"{value.name}: float32, {value.doc_string}\n" for value in (*graph.input, *graph.output))
    model.doc_string = (f"Translates pictures by {about['method']}, {about['direction']}.  Sizes: {about['sizes']}.\n\n"
                        f"{names}\n{SCRIPT}")


def fold_weights(model: onnx.ModelProto):
    """Compute now the weights that the graph would compute from constants alone: quantizers expect initializers.

    A weight that is only widened from half precision stays so.
    """
    graph = model.graph
    known = {x.name: x for x in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in WEIGHTED or node.input[1] in known:
            continue
        maker = makers.get(node.input[1])
        if maker is None or (maker.op_type == "Cast" and maker.input[0] in known):
            continue
        needed = _makers_of(node.input[1], makers, known)
        if needed is None:
            continue
        inputs = {name for each in needed for name in each.input if name in known}
        part = helper.make_graph([each for each in graph.node if any(each is other for other in needed)], "weight", [],
                                 [helper.make_tensor_value_info(node.input[1], TensorProto.FLOAT, None)],
                                 [known[name] for name in inputs])
        (value,) = ReferenceEvaluator(helper.make_model(part, opset_imports=model.opset_import)).run(None, {})
        weight = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), f"{node.input[1]}_folded")
        graph.initializer.append(weight)
        known[weight.name] = weight
        node.input[1] = weight.name
    _drop_unused(graph)


def _makers_of(name: str, makers: dict, known: dict) -> list | None:
    """The nodes that compute a value from constants alone; None: it depends on an input."""
    if name in known or not name:
        return []
    if name not in makers:
        return None
    found = [makers[name]]
    for other in makers[name].input:
        before = _makers_of(other, makers, known)
        if before is None:
            return None
        found += before
    return found


def _drop_unused(graph: onnx.GraphProto):
    used = {out.name for out in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used & set(node.output):
            kept.append(node)
            used |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [x for x in graph.initializer if x.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def move_weights(model: onnx.ModelProto, place: Path):
    """Write the weights into a file beside the model's, and refer to it there."""
    with atomic(place) as temporary, open(temporary, "wb") as file:
        for tensor in model.graph.initializer:
            if len(data := tensor.raw_data) >= 1024:
                file.seek(-file.tell() % 4096, os.SEEK_CUR)  # a page of memory, so that it can be mapped
                set_external_data(tensor, place.name, file.tell(), len(data))
                file.write(data)
                tensor.ClearField("raw_data")


def accept_any_size(model: onnx.ModelProto, multiple: int, least: int):
    """Pad pictures at their bottom and right borders to sides that the networks take, and cut the result."""
    graph, picture, drawing = model.graph, model.graph.input[0], model.graph.output[0]
    constants = {"axes": [2, 3], "zeros": [0, 0], "multiple": [multiple] * 2, "least": [least] * 2, "none": [0] * 6}
    for name, values in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"size_{name}"))
    before = [
        helper.make_node("Shape", ["picture"], ["size_sides"], start=2, end=4),
        helper.make_node("Add", ["size_sides", "size_multiple"], ["size_beyond"]),
        helper.make_node("Sub", ["size_beyond", "size_ones"], ["size_upper"]),
        helper.make_node("Div", ["size_upper", "size_multiple"], ["size_number"]),
        helper.make_node("Mul", ["size_number", "size_multiple"], ["size_whole"]),
        helper.make_node("Max", ["size_whole", "size_least"], ["size_padded"]),
        helper.make_node("Sub", ["size_padded", "size_sides"], ["size_pads"]),
        helper.make_node("Concat", ["size_none", "size_pads"], ["size_all_pads"], axis=0),
    ]
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1], np.int64), "size_ones"))
    sized = [x for x in graph.input if len(x.type.tensor_type.shape.dim) == 4
             and x.type.tensor_type.shape.dim[2].dim_param]  # fmt: skip
    for value in sized:
        before.append(helper.make_node("Pad", [value.name, "size_all_pads"], [f"{value.name}_padded"], mode="edge"))
        for i, side in ((2, "h"), (3, "w")):
            value.type.tensor_type.shape.dim[i].dim_param = side
    renamed = {value.name: f"{value.name}_padded" for value in sized}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        for i, name in enumerate(node.output):
            node.output[i] = "drawing_padded" if name == drawing.name else name
    nodes = [*before, *graph.node,
             helper.make_node("Slice", ["drawing_padded", "size_zeros", "size_sides", "size_axes"], [drawing.name])]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    for i in (2, 3):
        drawing.type.tensor_type.shape.dim[i].CopyFrom(picture.type.tensor_type.shape.dim[i])
