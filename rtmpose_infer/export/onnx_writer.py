"""Write a network of the family, or a published ONNX file, as the graph that is deployed.

Two forms of every network. The *deploy* graph takes uint8 BGR frames and returns keypoints or boxes; the *raw* graph has
the inputs and outputs of OpenMMLab's published files. Both come from the same traced network, so they differ in nothing
but what stands around it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmpose_infer import __version__
from rtmpose_infer.errors import ExportError
from rtmpose_infer.export.deploy_graph import (
    Suppression,
    add_rtmdet_decoding,
    add_simcc_decoding,
    add_suppression,
    add_yolox_decoding,
    add_yolox_row_decoding,
    cell_corners,
    prepend_preprocessing,
    rows_of_cells,
)
from rtmpose_infer.export.fusion import fused
from rtmpose_infer.export.networks import rtmdet, rtmo, yolox
from rtmpose_infer.export.onnx_graph import DEFAULT_OPSET, HIGHEST_OPSET, LOWEST_OPSET, GraphBuilder
from rtmpose_infer.export.tracing import Traced, trace
from rtmpose_infer.model_spec import METADATA_KEY, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from rtmpose_infer.export.architecture import Architecture

__all__ = ["EXPORTER", "GraphForm", "set_spec", "upgrade_model", "with_open_batch", "write_network"]

EXPORTER = f"rtmpose_infer {__version__}"
RAW_INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """Which form of a network is written.

    Attributes:
        raw: OpenMMLab's inputs and outputs, in place of the deploy graph's.
        opset: Version of the operator set.
        batch: A fixed batch size; ``None`` leaves it open.
        vectors: Whether a pose network's deploy graph also returns its SimCC vectors.
        suppression: Rule for detectors and RTMO.
    """

    raw: bool = False
    opset: int = DEFAULT_OPSET
    batch: int | None = None
    vectors: bool = False
    suppression: Suppression | None = None

    @property
    def batch_dim(self) -> int | str:
        """The first entry of every shape."""
        return "n" if self.batch is None else self.batch


def write_network(
    network: nn.Module, architecture: Architecture, spec: ModelSpec, form: GraphForm
) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return the ONNX model of ``network`` and the spec that stands in its metadata.

    Args:
        network: The network with its trained weights; not changed.
        architecture: What it is.
        spec: What the network wants and gives, in its raw form.
        form: Which graph to write.
    """
    graph = GraphBuilder(opset=form.opset)
    network = fused(network)
    width, height = spec.input_size_wh
    source = Traced(graph, RAW_INPUT, (None, 3, height, width))
    outputs = trace(network, graph, source)
    if spec.task == "pose":
        head = _finish_pose(graph, [o.name for o in outputs], architecture.num_outputs, spec, form)
    elif spec.task == "detection":
        head = _finish_detector(graph, architecture, outputs, form)
    else:
        head = _finish_rtmo(graph, network, architecture, outputs, form)
    return _finished(graph, RAW_INPUT, head, spec, form, name=architecture.name)


def upgrade_model(source: onnx.ModelProto, spec: ModelSpec, form: GraphForm) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return a published model as a deploy graph, and the spec that stands in its metadata.

    Args:
        source: Takes normalised planes ``[n, 3, H, W]``; gives SimCC vectors, raw detector maps or rows, or boxes after
            suppression. Not changed.
        spec: What it wants and gives.
        form: Which graph to write; ``opset`` is raised to the source's.

    Raises:
        ExportError: The source has an operator set this exporter does not write, or another fixed batch than ``form``, or
            is a deploy graph already.
    """
    if spec.input_format != "nchw_float32":
        raise ExportError("the model already takes uint8 frames; there is nothing to upgrade.")
    source = _in_opset(source, form.opset)
    opset = next(o.version for o in source.opset_import if o.domain in {"", "ai.onnx"})
    own_batch = _fixed_batch(source)
    if own_batch is not None and form.batch not in {None, own_batch}:
        raise ExportError(f"the model takes batches of {own_batch}; it cannot be written for batches of {form.batch}.")
    form = dataclasses.replace(form, opset=opset, batch=own_batch or form.batch)
    graph = GraphBuilder(opset=opset, graph=source.graph)
    names = [value.name for value in source.graph.output]
    input_name = _network_input(source).name
    if spec.head == "simcc":
        keypoints = _static_dim(source.graph.output[0], 1) or (spec.skeleton.num_keypoints if spec.skeleton else 0)
        head = _finish_pose(graph, names, keypoints, spec, form)
    elif spec.head == "rtmdet":
        head = _finish_raw_rtmdet(graph, source, spec, form)
    elif spec.head == "yolox":
        head = _finish_yolox_rows(graph, source, spec, form)
    elif spec.head == "nms":
        # Only these two: a network that segments as well has its masks behind them.
        dets, labels = (name if name in names else names[i] for i, name in enumerate(("dets", "labels")))
        graph.output(dets, "dets", np.float32, [form.batch_dim, "detections", 5])
        if (
            next(v for v in source.graph.output if v.name == labels).type.tensor_type.elem_type
            != onnx.TensorProto.INT64
        ):
            labels = graph.add("Cast", [labels], to=onnx.TensorProto.INT64)
        graph.output(labels, "labels", np.int64, [form.batch_dim, "detections"])
        head = "nms"
    else:
        raise ExportError(f"a model with the head {spec.head!r} cannot be upgraded; it can only be exported anew.")
    return _finished(graph, input_name, head, spec, form, name=source.graph.name or "upgraded")


def with_open_batch(source: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a published model of batch one as if it took any batch, or ``None`` if its batch is open already.

    Only the declared input and the first size of each reshape are changed. Whether the graph then treats the pictures of
    a batch apart is for the parity gate to find out.
    """
    if _fixed_batch(source) != 1:
        return None
    opened = onnx.ModelProto()
    opened.CopyFrom(source)
    _network_input(opened).type.tensor_type.shape.dim[0].dim_param = "n"
    for value in opened.graph.output:
        if _static_dim(value, 0) == 1:
            value.type.tensor_type.shape.dim[0].dim_param = "n"
    del opened.graph.value_info[:]
    constants = {n.output[0]: a.t for n in opened.graph.node if n.op_type == "Constant" for a in n.attribute}
    tensors = {**constants, **{t.name: t for t in opened.graph.initializer}}
    shapes = {n.input[1] for n in opened.graph.node if n.op_type == "Reshape" and n.input[1] in tensors}
    for name in shapes:
        sizes = onnx.numpy_helper.to_array(tensors[name]).copy()
        if sizes.size > 1 and sizes[0] == 1:
            sizes[0] = 0  # as it comes
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(sizes, tensors[name].name))
    return opened


def set_spec(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Write ``spec`` into the model's metadata, in place."""
    kept = {p.key: p.value for p in model.metadata_props if p.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**kept, METADATA_KEY: spec.to_json()})


def _finished(
    graph: GraphBuilder, network_input: str, head: str, spec: ModelSpec, form: GraphForm, *, name: str
) -> tuple[onnx.ModelProto, ModelSpec]:
    spec = dataclasses.replace(spec, head=head, exporter=EXPORTER)
    if form.raw:
        width, height = spec.input_size_wh
        graph.input(network_input, np.float32, [form.batch_dim, 3, height, width])
    else:
        prepend_preprocessing(
            graph,
            network_input,
            mean=spec.mean,
            std=spec.std,
            rgb=spec.colour == "rgb",
            input_size_wh=spec.input_size_wh,
            batch=form.batch_dim,
        )
        plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        spec = dataclasses.replace(spec, input_format="nhwc_uint8", colour="bgr", **plain)  # type: ignore[arg-type]
    model = graph.model(
        name=name, producer="rtmpose_infer", version=__version__, metadata={METADATA_KEY: spec.to_json()}
    )
    return model, spec


def _finish_pose(graph: GraphBuilder, vectors: Sequence[str], keypoints: int, spec: ModelSpec, form: GraphForm) -> str:
    bins = [int(size * spec.split_ratio) for size in spec.input_size_wh]
    if not form.raw:
        points, scores = add_simcc_decoding(graph, *vectors, split_ratio=spec.split_ratio)
        graph.output(points, "keypoints", np.float32, [form.batch_dim, keypoints, 2])
        graph.output(scores, "scores", np.float32, [form.batch_dim, keypoints])
    if form.raw or form.vectors or spec.flip_test:  # the flip test averages vectors
        for name, source, count in zip(("simcc_x", "simcc_y"), vectors, bins, strict=True):
            graph.output(source, name, np.float32, [form.batch_dim, keypoints, count])
    return "simcc" if form.raw else "keypoints"


def _finish_detector(graph: GraphBuilder, architecture: Architecture, outputs: Any, form: GraphForm) -> str:
    levels = [[value.name for value in part] for part in outputs]
    classes, size = architecture.num_outputs, architecture.input_size_wh
    if architecture.family == "rtmdet":
        strides: Sequence[int] = rtmdet.STRIDES
        boxes, scores = add_rtmdet_decoding(graph, *levels, num_classes=classes, input_size_wh=size, strides=strides)
    else:
        strides = yolox.STRIDES
        boxes, scores = add_yolox_decoding(graph, *levels, num_classes=classes, input_size_wh=size, strides=strides)
    return _suppressed(graph, boxes, scores, classes, size, strides, form)


def _suppressed(
    graph: GraphBuilder,
    boxes: str,
    scores: str,
    classes: int,
    size_wh: Sequence[int],
    strides: Sequence[int],
    form: GraphForm,
) -> str:
    rule = _rule(form)
    cells = len(cell_corners(size_wh, strides)[0])
    dets, labels, _ = add_suppression(graph, boxes, scores, num_classes=classes, num_cells=cells, rule=rule)
    rows = rule.rows(classes, cells)
    graph.output(dets, "dets", np.float32, [form.batch_dim, rows, 5])
    graph.output(labels, "labels", np.int64, [form.batch_dim, rows])
    return "nms"


def _rule(form: GraphForm) -> Suppression:
    if form.suppression is None:
        raise ExportError("a detector needs a suppression rule.")
    return form.suppression


def _finish_raw_rtmdet(graph: GraphBuilder, source: onnx.ModelProto, spec: ModelSpec, form: GraphForm) -> str:
    """Decode a published RTMDet that ends in its maps: class logits, then distances, finest level first."""
    outputs = list(source.graph.output)
    levels = len(outputs) // 2
    producers = {name: node for node in source.graph.node for name in node.output}
    weights = {tensor.name: list(tensor.dims) for tensor in source.graph.initializer}
    classes = _channels_of(outputs[0].name, producers, weights)
    strides = [8 * 2**level for level in range(levels)]
    names = [value.name for value in outputs]
    boxes, scores = add_rtmdet_decoding(
        graph,
        names[:levels],
        names[levels:],
        num_classes=classes,
        input_size_wh=spec.input_size_wh,
        strides=strides,
    )
    return _suppressed(graph, boxes, scores, classes, spec.input_size_wh, strides, form)


def _channels_of(name: str, producers: dict[str, onnx.NodeProto], weights: dict[str, list[int]]) -> int:
    """Return the channels of a map by walking back to the convolution that made it."""
    while (node := producers.get(name)) is not None:
        if node.op_type == "Conv" and node.input[1] in weights:
            return weights[node.input[1]][0]
        name = node.input[0]
    raise ExportError("the model's maps do not come from convolutions; it is not the RTMDet it seems to be.")


def _finish_yolox_rows(graph: GraphBuilder, source: onnx.ModelProto, spec: ModelSpec, form: GraphForm) -> str:
    output = source.graph.output[0]
    cells, columns = _static_dim(output, 1), _static_dim(output, 2)
    strides = yolox.STRIDES
    expected = len(cell_corners(spec.input_size_wh, strides)[0])
    if columns is None or cells not in {None, expected}:
        raise ExportError(
            f"the model's rows are {cells}x{columns}; an input of {spec.input_size_wh[0]}x{spec.input_size_wh[1]} has "
            f"{expected} cells. Pass the right input size."
        )
    classes = columns - 5
    boxes, scores = add_yolox_row_decoding(
        graph, output.name, num_classes=classes, input_size_wh=spec.input_size_wh, strides=strides
    )
    return _suppressed(graph, boxes, scores, classes, spec.input_size_wh, strides, form)


def _finish_rtmo(
    graph: GraphBuilder, network: nn.Module, architecture: Architecture, outputs: Any, form: GraphForm
) -> str:
    """Decode and suppress boxes, then run the coordinate classifier on those that are left only."""
    logits, encoded, visibility, poses = outputs
    keypoints, (width, height) = architecture.num_outputs, architecture.input_size_wh
    pose_length = poses[0].shape[1]
    boxes, scores = add_yolox_decoding(
        graph,
        [v.name for v in logits],
        [v.name for v in encoded],
        [],
        num_classes=1,
        input_size_wh=architecture.input_size_wh,
        strides=rtmo.STRIDES,
        centred=True,
    )
    corners, sizes = cell_corners(architecture.input_size_wh, rtmo.STRIDES)
    rule = _rule(form)
    dets, labels, cell = add_suppression(graph, boxes, scores, num_classes=1, num_cells=len(corners), rule=rule)
    with graph.scope("decode_poses"):
        dets = graph.add("Min", [dets, np.array([width, height, width, height, 1], np.float32)])
        dets = graph.add("Max", [dets, np.array(0, np.float32)])
        found = graph.add("GreaterOrEqual", [labels, np.array(0, np.int64)])
        rows = graph.add("Transpose", [graph.add("NonZero", [found])], perm=[1, 0])
        picture = graph.add("Slice", [rows, *(np.array([v], np.int64) for v in (0, 1, 1))])
        own_cell = graph.add("GatherND", [cell, rows])
        place = graph.add("Concat", [picture, graph.add("Unsqueeze", [own_cell, np.array([1], np.int64)])], axis=1)
        vectors = graph.add("GatherND", [_cells_first(graph, poses, pose_length), place])
        origin = graph.add("Gather", [corners + sizes[:, None] / 2, own_cell], axis=0)
        people = trace(
            network.get_submodule("head.dcc"),
            graph,
            Traced(graph, vectors, (None, pose_length)),
            Traced(graph, graph.add("GatherND", [boxes, place]), (None, 4)),
            Traced(graph, origin, (None, 2)),
        )
        table = graph.add("Mul", [graph.add("Unsqueeze", [labels, np.array([2, 3], np.int64)]), np.array(0, np.int64)])
        table = graph.add("Add", [graph.add("Cast", [table], to=1), np.zeros((1, 1, keypoints, 2), np.float32)])
        points = graph.add("ScatterND", [table, rows, people.name])
        seen = graph.add("Sigmoid", [_cells_first(graph, visibility, keypoints)])
        seen = rows_of_cells(graph, seen, cell, columns=keypoints)
        mask = graph.add("Unsqueeze", [found, np.array([2], np.int64)])
        seen = graph.add("Where", [mask, seen, np.array(0, np.float32)])
        if form.raw:
            last = graph.add("Unsqueeze", [seen, np.array([3], np.int64)])
            points = graph.add("Concat", [points, last], axis=3)
    rows_out = rule.rows(1, len(corners))
    batch = form.batch_dim
    graph.output(dets, "dets", np.float32, [batch, rows_out, 5])
    if form.raw:
        graph.output(points, "keypoints", np.float32, [batch, rows_out, keypoints, 3])
    else:
        graph.output(labels, "labels", np.int64, [batch, rows_out])
        graph.output(points, "keypoints", np.float32, [batch, rows_out, keypoints, 2])
        graph.output(seen, "scores", np.float32, [batch, rows_out, keypoints])
    return "rtmo"


def _cells_first(graph: GraphBuilder, maps: Sequence[Traced], channels: int) -> str:
    """Return ``[n, P, channels]`` for maps ``[n, channels, h, w]`` of all levels."""
    shape = np.array([0, channels, -1], np.int64)
    flat = graph.add("Concat", [graph.add("Reshape", [m.name, shape]) for m in maps], axis=2)
    return str(graph.add("Transpose", [flat], perm=[0, 2, 1]))


def _in_opset(source: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    """Return a copy of ``source`` in opset ``wanted``, or in its own where that is newer."""
    domains = {o.domain: o.version for o in source.opset_import}
    own = domains.pop("", domains.pop("ai.onnx", 0))
    if domains:
        raise ExportError(
            f"the model uses operators outside ONNX ({', '.join(domains)}); such a file cannot be upgraded."
        )
    if own > HIGHEST_OPSET:
        raise ExportError(f"the model is in opset {own}; files up to {HIGHEST_OPSET} can be upgraded.")
    target = max(wanted, own, LOWEST_OPSET)
    if own == target:
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    try:
        return onnx.version_converter.convert_version(source, target)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise ExportError(f"the model cannot be converted from opset {own} to {target}: {error}.") from error


def _network_input(source: onnx.ModelProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in source.graph.initializer}  # old files declare weights as inputs too
    value: onnx.ValueInfoProto = next(v for v in source.graph.input if v.name not in weights)
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ExportError(f"the model's input {value.name} is not float32; only float32 files are upgraded.")
    return value


def _fixed_batch(source: onnx.ModelProto) -> int | None:
    return _static_dim(_network_input(source), 0)


def _static_dim(value: onnx.ValueInfoProto, axis: int) -> int | None:
    dims = value.type.tensor_type.shape.dim
    if axis >= len(dims) or not dims[axis].HasField("dim_value"):
        return None
    return int(dims[axis].dim_value) or None
