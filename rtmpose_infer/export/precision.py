"""Half precision and eight bits, on the finished graph, so that it is the same for our networks and published files.

What is converted is the convolutional trunk: every operator that lies between the first and the last convolution and is
known to be safe. Around it, preprocessing and decoding stay in float32, because a pixel coordinate needs more bits than
either format has, and so does everything behind the last convolution of a pose network: the scale norm sums the squares
of a feature vector and the attention squares its logits, both of which pass 65504 in trained networks, while the whole
head costs under three percent of the arithmetic.

FP16: the file's types say everything (weights, casts at the borders); no builder flag is needed, which is how TensorRT 11
wants it. A layer whose measured activations come near the largest half stays in float32, and where the result is not
exact enough, as much of the network's beginning as it takes.

INT8: weights per output channel, activations per tensor, both symmetric, as quantise/dequantise pairs: the one form that
ONNX Runtime, OpenVINO and TensorRT all execute in integers. Layers that lose the most are found by measurement and stay
in float32.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from rtmpose_infer.errors import ExportError
from rtmpose_infer.export.onnx_graph import check_graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["convert_to_fp16", "float_activations", "trunk_nodes", "with_float_weights"]

_LARGEST_HALF = 65504.0
# Measured pictures are few; an activation may be several times as large on others.
_SAFE_FRACTION = 0.25

_TRUNK_OPERATORS = {
    "Add", "AveragePool", "Clip", "Concat", "Conv", "DepthToSpace", "GlobalAveragePool", "HardSigmoid", "HardSwish",
    "LeakyRelu", "MaxPool", "Mul", "Pad", "PRelu", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "SpaceToDepth",
    "Split", "Sub", "Transpose",
}  # fmt: skip
# Inputs that keep their own type: sizes, scales, indices.
_TYPED_INPUTS = {"Resize": (1, 2, 3), "Reshape": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "Pad": (1, 3)}


def trunk_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the first outputs of the nodes of the convolutional trunk.

    A node is in it if it is a convolution, or lies behind one and before another, is of a kind that is safe in few
    bits, and touches another node of the trunk (a lone multiplication between float32 neighbours would cost two casts).
    The 1×1 convolutions that end a detector are not: what they give is counted in strides of up to 32 pixels, of which
    half precision keeps too few digits, and they hold next to none of the arithmetic.
    """
    nodes = list(graph.node)
    behind = _reached(nodes, forward=True)
    before = _reached(nodes, forward=False)
    pointwise = {tensor.name for tensor in graph.initializer if list(tensor.dims[2:]) == [1, 1]}
    trunk = {
        _key(node)
        for node in nodes
        if (node.op_type == "Conv" and (_key(node) in before or node.input[1] not in pointwise))
        or (node.op_type in _TRUNK_OPERATORS and _key(node) in behind & before)
    }
    producers = {output: node for node in nodes for output in node.output}
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    shrinking = True
    while shrinking:
        lonely = set()
        for node in nodes:
            if _key(node) not in trunk or node.op_type == "Conv":
                continue
            sources = [producers[name] for name in node.input if name in producers]
            targets = [reader for name in node.output for reader in readers[name]]
            fed = any(_key(s) in trunk for s in sources)
            read = any(_key(t) in trunk for t in targets)
            if not (fed or read):
                lonely.add(_key(node))
        trunk -= lonely
        shrinking = bool(lonely)
    return trunk


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with weights that are stored in float16 and cast when it is opened as plain float32 weights."""
    halves = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    unpacked = {
        node.output[0]: halves[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Cast"
        and node.input[0] in halves
        and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)
    }
    if not unpacked:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(node for node in model.graph.node if node.output[0] not in unpacked)
    used = {name for node in result.graph.node for name in node.input}
    result.graph.initializer.extend(t for t in model.graph.initializer if t.name in used)
    result.graph.initializer.extend(
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name)
        for name, tensor in unpacked.items()
    )
    return result


def convert_to_fp16(
    model: onnx.ModelProto, largest: Mapping[str, float] | None = None, *, float_share: float = 0.0
) -> onnx.ModelProto:
    """Return the model with its trunk in float16; inputs and outputs keep their types.

    Args:
        model: In float32.
        largest: Largest magnitude of each activation, as measured; layers that come near overflow stay in float32.
        float_share: Share of the trunk, counted from its beginning, that stays in float32: what is rounded there is
            rounded for all that follows.

    Raises:
        ExportError: The model has no convolutions, or holds subgraphs.
    """
    graph = model.graph
    if any(a.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS} for n in graph.node for a in n.attribute):
        raise ExportError("the model has control flow, which cannot be converted to fp16; export it anew.")
    half = trunk_nodes(graph)
    if not half:
        raise ExportError("the model has no convolutions to convert to fp16.")
    in_order = [_key(node) for node in graph.node if _key(node) in half]
    half.difference_update(in_order[: int(len(in_order) * float_share)])
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    floats = _float_tensors(model)
    large = {k for k, v in (largest or {}).items() if v > _LARGEST_HALF * _SAFE_FRACTION}
    for node in graph.node:
        inner = [weights[name] for name in node.input if name in weights and weights[name].dtype == np.float32]
        if large & {*node.input, *node.output} or any(np.abs(w).max(initial=0) > _LARGEST_HALF for w in inner):
            half.discard(_key(node))
    return _Halving(model, half, floats, weights).result()


class _Halving:
    """One conversion: rewrites nodes, copies weights, inserts casts where the type changes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        half: set[str],
        floats: set[str],
        weights: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    ) -> None:
        self._model = model
        self._half = half
        self._floats = floats
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._new_weights: dict[str, onnx.TensorProto] = {}
        self._casts: dict[tuple[str, int], str] = {}
        self._types: dict[str, int] = {}

    def result(self) -> onnx.ModelProto:
        graph = self._model.graph
        outputs = {value.name for value in graph.output}
        for source in graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(source)
            halved = _key(source) in self._half
            kept = _TYPED_INPUTS.get(source.op_type, ())
            wanted = TensorProto.FLOAT16 if halved else TensorProto.FLOAT
            for i, name in enumerate(source.input):
                if name in self._floats and not (halved and i in kept):
                    node.input[i] = self._as_type(name, wanted)
            self._nodes.append(node)
            for i, name in enumerate(source.output):
                if name not in self._floats:
                    continue
                if halved and name in outputs:
                    node.output[i] = f"{name}/half"
                    self._nodes.append(_cast(node.output[i], name, TensorProto.FLOAT))
                    self._casts[name, TensorProto.FLOAT16] = node.output[i]
                    self._types[name] = TensorProto.FLOAT
                else:
                    self._types[name] = wanted
        used = {name for node in self._nodes for name in node.input}
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(t for t in graph.initializer if t.name in used)
        model.graph.initializer.extend(self._new_weights.values())
        check_graph(model)
        return model

    def _as_type(self, name: str, wanted: int) -> str:
        """Return the name under which the float tensor ``name`` has the type ``wanted``."""
        if name in self._weights:
            if wanted == TensorProto.FLOAT:
                return name
            halved = f"{name}/half"
            if halved not in self._new_weights:
                self._new_weights[halved] = numpy_helper.from_array(self._weights[name].astype(np.float16), halved)
            return halved
        if self._types.get(name, TensorProto.FLOAT) == wanted:
            return name
        if (name, wanted) not in self._casts:
            target = f"{name}/{'half' if wanted == TensorProto.FLOAT16 else 'float'}"
            self._nodes.append(_cast(name, target, wanted))
            self._casts[name, wanted] = target
        return self._casts[name, wanted]


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)


def _key(node: onnx.NodeProto) -> str:
    return str(node.output[0])


def _reached(nodes: list[onnx.NodeProto], *, forward: bool) -> set[str]:
    """Return the nodes behind (or before) any convolution, convolutions that are so themselves included."""
    tensors: set[str] = set()
    found = set()
    for node in nodes if forward else reversed(nodes):
        near: Iterable[str] = node.input if forward else node.output
        far: Iterable[str] = node.output if forward else node.input
        touched = not tensors.isdisjoint(near)
        if touched:
            found.add(_key(node))
        if touched or node.op_type == "Conv":
            tensors.update(far)
    return found


def float_activations(model: onnx.ModelProto) -> set[str]:
    """Return the names of all float32 tensors that nodes of the model make."""
    made = {name for node in model.graph.node for name in node.output}
    return _float_tensors(model) & made


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True)
    except shape_inference.InferenceError as error:
        raise ExportError(f"the shapes of the model's tensors do not fit together: {error}.") from error
    graph = inferred.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    found.update(t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT)
    return found
