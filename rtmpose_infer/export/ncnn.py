"""From an ONNX file to the two files that ncnn reads, and the spec beside them.

PyPI's ``pnnx`` does the conversion; it is a program, run here in a folder of its own. What it cannot know is done
around it: ncnn has no uint8 pictures, arg-max or NMS, so a deploy graph is first cut back to the bare network, and a
resize of a kind that ncnn does not have becomes the matrix product that it is (the converter would put its nearest
relative in its place, without a word). Like every export, the result is compared with ONNX Runtime before anything is
kept.

The gated attention behind RTMPose's last convolution sums squares, which FP16 may not hold, and phones compute in FP16
by default. Its layers are marked in the graph, so that ncnn computes them in float32 wherever the file goes.

pnnx can store weights in FP16 itself, but writes zero for what FP16 holds only as a subnormal number, below 0.00006; and
such are many weights of a first convolution that has taken in the normalisation of 0-255 values. So it writes float32,
and the weights are rounded here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from rtmpose_infer.backends import BackendConfig, load_backend
from rtmpose_infer.backends.ncnn import check_param, import_ncnn
from rtmpose_infer.cache import atomic_write, sha256_of
from rtmpose_infer.errors import BackendUnavailableError, ExportError, ModelError, OutputMismatchError, ParityError
from rtmpose_infer.export.onnx_graph import cpu_session
from rtmpose_infer.export.pictures import drawn_pictures
from rtmpose_infer.model_spec import METADATA_KEY, ModelSpec, load_model_file
from rtmpose_infer.preprocess import InputBuffer
from rtmpose_infer.simcc import peak_prominence
from rtmpose_infer.version import __version__
from rtmpose_infer.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["NcnnExport", "answer_planes", "bare_network", "ncnn_from_onnx"]

_log = logging.getLogger("rtmpose_infer.export.ncnn")

Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]

_PICTURES = 16
_CLEAR_PEAK = 0.1
_CLEAR_SCORE = 0.3
_FEWEST = 20
_CONVERTER_S = 900
_NO_NUMBERS = (
    "the converted network gives NaN or infinity; where its weights were stored in FP16, they are beyond 65504. "
    "No file was written."
)
_CONVOLUTIONS = {"Convolution", "ConvolutionDepthWise", "Deconvolution"}
_FLOAT32_TAG, _FLOAT16_TAG = bytes(4), bytes.fromhex("476b3001")
# ncnn's mask of what a layer must not do; 1 is arithmetic in FP16. Its mark for storage, 2, breaks Vulkan's shaders.
_FLOAT32_ARITHMETIC = " 31=1"
# What ncnn's Interp can do: (mode, coordinate transformation, nearest mode)
_RESIZES = {
    ("nearest", "asymmetric", "floor"),
    ("linear", "half_pixel", ""),
    ("linear", "pytorch_half_pixel", ""),
    ("linear", "align_corners", ""),
    ("cubic", "half_pixel", ""),
    ("cubic", "pytorch_half_pixel", ""),
    ("cubic", "align_corners", ""),
}


@dataclass(frozen=True)
class NcnnExport:
    """What was written.

    Attributes:
        param: The graph.
        weights: The weights.
        sidecar: The spec.
        spec: Its content; ``spec.parity`` says how far the clear joints or boxes are from ONNX Runtime's, and
            ``spec.precision`` how the weights are stored.
    """

    param: Path
    weights: Path
    sidecar: Path
    spec: ModelSpec


def ncnn_from_onnx(
    onnx_path: str | Path,
    output_param_path: str | Path,
    *,
    spec: ModelSpec | None = None,
    task: str = "pose",
    half: bool | None = None,
    pictures: Frames | None = None,
    parity_limit_px: float = 0.5,
) -> NcnnExport:
    """Write ``.param``, ``.bin`` and ``.json`` for ncnn, and return what was written.

    Args:
        onnx_path: A pose network that ends in SimCC vectors or is a deploy graph of this package, or an RTMDet that
            ends in its maps or is such a deploy graph.
        output_param_path: Where the graph goes; the other two lie beside it under the same name.
        spec: What the model wants and gives; by default what the file says.
        task: ``"pose"`` or ``"detection"``, where there is no ``spec``.
        half: Store the weights in FP16, half the size; False: float32; None: in FP16 where the comparison allows it.
        pictures: Network inputs [N, H, W, 3] uint8 BGR to compare on; drawn ones by default.
        parity_limit_px: How far a clear joint or box edge may be from where ONNX Runtime sees it, 99th percentile.

    Raises:
        ExportError: The converter fails, or the network has a layer that ncnn lacks.
        ParityError: What was converted does not compute what the ONNX file computes.
        ModelError: The ONNX file is broken, or of a kind that has no ncnn form.
        BackendUnavailableError: ``pnnx``, ncnn or ONNX Runtime is not installed.
    """
    onnx_path, target = Path(onnx_path), Path(output_param_path)
    if target.suffix != ".param":
        raise ExportError(f"ncnn's graphs end in .param, got {target.name}.")
    if spec is None:
        spec = load_model_file(onnx_path, task=task).spec
        if not spec.source_sha256 and onnx_path.is_file():
            spec = dataclasses.replace(spec, source_sha256=sha256_of(onnx_path))
    try:
        source = onnx.load(onnx_path)
    except Exception as error:
        raise ModelError(f"cannot read {onnx_path}: {error}.") from error
    bare, spec = bare_network(source, spec)
    frames = drawn_pictures(spec, _PICTURES) if pictures is None else pictures
    if half is not None:
        return _converted(bare, target, spec, frames, half=half, limit_px=parity_limit_px)
    try:
        return _converted(bare, target, spec, frames, half=True, limit_px=parity_limit_px)
    except ParityError as error:
        _log.warning("%s: FP16 is too coarse for the weights, they stay in float32 (%s)", target.name, error)
        return _converted(bare, target, spec, frames, half=False, limit_px=parity_limit_px)


def _converted(
    bare: onnx.ModelProto, target: Path, spec: ModelSpec, frames: Frames, *, half: bool, limit_px: float
) -> NcnnExport:
    spec = dataclasses.replace(spec, exporter=f"rtmpose_infer {__version__}", precision="fp16" if half else "fp32")
    with tempfile.TemporaryDirectory(prefix="rtmpose-ncnn-") as name:
        made = Path(name) / "model.param"
        _convert(_with_matrices(bare), made, spec, half=half)
        made.with_suffix(".json").write_text(spec.to_json(), encoding="utf-8")
        moved = _displacement(bare, made, spec, frames)
        p99, most = float(np.percentile(moved, 99)), float(moved.max())
        if not p99 <= limit_px:
            raise ParityError(
                f"the converted network does not compute what its source computes: {len(moved)} clear places are off "
                f"by {p99:.3f} px (p99), {most:.3f} px (max); the limit is {limit_px} px. No file was written."
            )
        parity = {
            "reference": "source onnx",
            "pictures": len(frames),
            "compared": len(moved),
            "p99_px": round(p99, 6),
            "max_px": round(most, 6),
            "limit_px": limit_px,
        }
        spec = dataclasses.replace(spec, parity=parity)
        written = NcnnExport(target, target.with_suffix(".bin"), target.with_suffix(".json"), spec)
        atomic_write(written.weights, made.with_suffix(".bin").read_bytes())
        atomic_write(written.sidecar, spec.to_json().encode())
        atomic_write(written.param, made.read_bytes())
    return written


def bare_network(model: onnx.ModelProto, spec: ModelSpec) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return the model from float planes to raw outputs, for one picture, and the spec that fits it.

    In front, a deploy graph is cut behind the cast and the transpose, so that the bare network takes BGR planes of
    0–255 and subtracts the mean itself; behind, before the arg-max of the SimCC vectors or before RTMDet's maps are
    flattened.

    Args:
        model: Not changed.
        spec: What it wants and gives.

    Raises:
        ModelError: It ends in something that has no such form.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ModelError(f"expected a model with one input, got {[value.name for value in inputs]}.")
    source = inputs[0].name
    outputs = [value.name for value in graph.output]
    if spec.input_format == "nhwc_uint8":
        source, colour = _behind_layout(graph, source)
        spec = dataclasses.replace(spec, input_format="nchw_float32", colour=colour, mean=(0, 0, 0), std=(1, 1, 1))
    if spec.head == "keypoints":
        outputs = [node.input[0] for node in graph.node if node.op_type == "ArgMax"]
        if len(outputs) != 2:
            raise ModelError("the pose network does not end in the arg-max of two SimCC vectors; it has no ncnn form.")
        spec = dataclasses.replace(spec, head="simcc")
    elif spec.head == "nms":
        outputs = _flattened_maps(graph)
        spec = dataclasses.replace(spec, head="rtmdet", suppression_iou=_suppression_iou(graph))
    elif spec.head not in {"simcc", "rtmdet"}:
        raise ModelError(
            f"a network that ends in {spec.head!r} has no ncnn form; SimCC pose networks and RTMDet have one."
        )
    width, height = spec.input_size_wh
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    nodes = _needed(graph, source, outputs)
    used = {name for node in nodes for name in node.input}
    parts = bare.graph
    del (
        parts.node[:],
        parts.input[:],
        parts.output[:],
        parts.initializer[:],
        parts.value_info[:],
        bare.metadata_props[:],
    )
    parts.node.extend(nodes)
    parts.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
    parts.input.append(helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, [1, 3, height, width]))
    parts.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    helper.set_model_props(bare, {METADATA_KEY: spec.to_json()})
    return bare, spec


def _behind_layout(graph: onnx.GraphProto, name: str) -> tuple[str, str]:
    """Return the tensor of float planes, 0–255, that is the uint8 input in another order, and its colour."""
    left = {"Cast", "Transpose"}
    while left:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type not in left:
            raise ModelError("the model's uint8 input is not cast and transposed first; it has no ncnn form.")
        left.remove(readers[0].op_type)
        name = readers[0].output[0]
    constants = _constants(graph)
    readers = [node for node in graph.node if name in node.input]
    if len(readers) == 1 and readers[0].op_type == "Gather" and readers[0].input[1] in constants:
        order = numpy_helper.to_array(constants[readers[0].input[1]])
        if order.tolist() == [2, 1, 0]:  # the converter would take the last channel alone
            return readers[0].output[0], "rgb"
    return name, "bgr"


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    return found | {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}


def _suppression_iou(graph: onnx.GraphProto) -> float | None:
    """Return at which overlap a deploy graph drops the weaker box, which whoever runs the bare network must do too."""
    constants = _constants(graph)
    for node in graph.node:
        if node.op_type == "NonMaxSuppression" and len(node.input) > 3 and node.input[3] in constants:
            return round(float(numpy_helper.to_array(constants[node.input[3]]).ravel()[0]), 6)
    return None


def _flattened_maps(graph: onnx.GraphProto) -> list[str]:
    """Return RTMDet's maps in a deploy graph: what its decoding reshapes, class logits first."""
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT64}
    maps: dict[int, list[str]] = {}
    for node in graph.node:
        shape = shapes.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and shape.shape == (3,) and shape[0] == 0 and shape[2] == -1:
            maps.setdefault(int(shape[1]), []).append(node.input[0])
    distances = maps.pop(4, [])
    logits = next(iter(maps.values()), [])
    if len(maps) != 1 or not logits or len(logits) != len(distances):
        raise ModelError(
            "the detector is no deploy graph of an RTMDet that this package wrote; ncnn needs its raw maps. Export the "
            "checkpoint, or pass the model without NMS."
        )
    return logits + distances


def _needed(graph: onnx.GraphProto, source: str, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes between the source and the outputs, in order."""
    wanted = set(outputs)
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output) and source not in node.output:
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


# ------------------------------------------------------------------------------------------------------- conversion


def _with_matrices(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each resize that ncnn lacks as one matrix product per axis."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for node in inferred.graph.node:
        kind = _resize_kind(node)
        if kind is None or kind in _RESIZES:
            nodes.append(node)
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if len(before) != 4 or len(after) != 4 or before[:2] != after[:2] or 0 in (*before, *after):
            raise ExportError(f"the resize {node.name or node.output[0]!r} ({', '.join(kind)}) has no ncnn form.")
        name = node.input[0]
        for axis in (3, 2):
            if before[axis] == after[axis]:
                continue
            last = axis == 2 or before[2] == after[2]
            target = node.output[0] if last else f"{node.output[0]}/columns"
            matrix = _resize_matrix(model, node, before[axis], after[axis])
            weight = f"{target}/matrix"
            added.append(numpy_helper.from_array(matrix if axis == 3 else np.ascontiguousarray(matrix.T), weight))
            nodes.append(helper.make_node("MatMul", [name, weight] if axis == 3 else [weight, name], [target]))
            name = target
    if not added:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(added)
    return changed


def _resize_kind(node: onnx.NodeProto) -> tuple[str, str, str] | None:
    if node.op_type != "Resize":
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    mode = attributes.get("mode", b"nearest").decode()
    nearest = attributes.get("nearest_mode", b"round_prefer_floor").decode() if mode == "nearest" else ""
    return mode, attributes.get("coordinate_transformation_mode", b"half_pixel").decode(), nearest


def _resize_matrix(model: onnx.ModelProto, node: onnx.NodeProto, before: int, after: int) -> Floats:
    """Return the matrix [before, after] of a resize along one axis: what the operator makes of the unit vectors."""
    alone = helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"])
    alone.attribute.extend(node.attribute)
    graph = helper.make_graph(
        [alone],
        "resize",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, before, 1, before])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([1, before, 1, after], np.int64), "sizes"),
            numpy_helper.from_array(np.zeros(0, np.float32), "none"),
        ],
    )
    single = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    (answer,) = _run_onnx(single, [np.eye(before, dtype=np.float32).reshape(1, before, 1, before)])
    return np.asarray(answer[0], np.float32).reshape(before, after)


def _convert(model: onnx.ModelProto, made: Path, spec: ModelSpec, *, half: bool) -> None:
    """Run the converter; ``made`` and the ``.bin`` beside it are there afterwards."""
    source = made.parent / "bare.onnx"
    onnx.save(model, source)
    _run_converter(source, made, spec, half=False)
    text = made.read_text(encoding="utf-8")
    types = check_param(text, "the converted graph")
    unknown = sorted({kind for kind in types if import_ncnn().layer_to_index(kind) < 0})
    if unknown:
        raise ExportError(f"the network has layers that ncnn lacks: {', '.join(unknown)}.")
    if half:
        weights = made.with_suffix(".bin")
        rounded = weights_in_half(text, weights.read_bytes())
        if rounded is None:
            _run_converter(source, made, spec, half=True)
        else:
            weights.write_bytes(rounded)
    if spec.task == "pose":
        made.write_text(_attention_in_float32(text, types), encoding="utf-8")


def _run_converter(source: Path, made: Path, spec: ModelSpec, *, half: bool) -> None:
    program, folder = _converter(), made.parent
    width, height = spec.input_size_wh
    by_products = {
        "pnnxparam": "x.pnnx.param",
        "pnnxbin": "x.pnnx.bin",
        "pnnxpy": "x_pnnx.py",
        "pnnxonnx": "x.pnnx.onnx",
        "ncnnpy": "x_ncnn.py",
    }
    command = [
        str(program),
        str(source),
        f"inputshape=[1,3,{height},{width}]",
        f"fp16={int(half)}",
        f"ncnnparam={made}",
        f"ncnnbin={made.with_suffix('.bin')}",
        *(f"{key}={folder / name}" for key, name in by_products.items()),
    ]
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, timeout=_CONVERTER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"pnnx, which converts to ncnn, did not run: {error}.") from error
    if ran.returncode != 0 or not made.is_file() or not made.with_suffix(".bin").is_file():
        said = (ran.stdout + ran.stderr).decode(errors="replace").strip().splitlines()[-3:]
        raise ExportError(f"pnnx could not convert the network (exit code {ran.returncode}): {' | '.join(said)}")


def weights_in_half(param: str, weights: bytes) -> bytes | None:
    r"""Return the weights of ncnn's graph with its matrices and kernels in FP16; None where its layers are not all known.

    The file has the weights of all layers in their order. Kernels have a tag that says how they are stored; what has
    none, such as biases, stays float32. https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure

    Args:
        param: The graph.
        weights: Content of its ``.bin``, in float32.

    >>> graph = "7767517\n2 2\nInput i 0 1 a\nConvolution c 1 1 a b 0=1 1=1 5=1 6=2"
    >>> file = bytes(4) + np.array([1, 2**-24, 0.1], np.float32).tobytes()  # the tag, two weights, one bias
    >>> np.frombuffer(weights_in_half(graph, file), np.float16, 2, offset=4).tolist() == [1, 2**-24]
    True
    """
    read, parts = 0, []
    for line in param.splitlines()[2:]:
        for count, tagged in _stored(line):
            if tagged:
                if weights[read : read + 4] != _FLOAT32_TAG:
                    return None
                read += 4
            values = weights[read : read + 4 * count]
            read += 4 * count
            if tagged:
                with np.errstate(over="ignore"):  # infinity, which the comparison will not let pass
                    half = np.frombuffer(values, np.float32).astype(np.float16).tobytes()
                values = _FLOAT16_TAG + half + bytes(-len(half) % 4)
            parts.append(values)
    return b"".join(parts) if read == len(weights) else None


def _stored(line: str) -> list[tuple[int, bool]]:
    """Return what a layer has in the file of weights: how many values, and whether a tag comes before them."""
    kind, _, sources, results, *rest = line.split()
    pairs = (part.partition("=") for part in rest[int(sources) + int(results) :])
    given = {int(key): value for key, _, value in pairs if not key.startswith("-")}

    def number(key: int) -> int:
        return int(given.get(key, 0))

    if kind in _CONVOLUTIONS:
        return [(number(6), True), (number(0) * number(5), False)]
    if kind == "InnerProduct":
        return [(number(2), True), (number(0) * number(1), False)]
    if kind == "MemoryData":
        return [(int(np.prod([number(key) or 1 for key in (0, 1, 2, 11)])), False)]
    if kind == "Gemm":
        m, n, k = number(7), number(8), number(9)
        added = {0: 1, 1: m, 2: m, 3: m * n, 4: n}.get(number(10), 0) if number(6) else 0
        matrices = (m * k if number(4) else 0, n * k if number(5) else 0, added)
        return [(count, True) for count in matrices if count]
    return []


def _attention_in_float32(text: str, types: Sequence[str]) -> str:
    """Mark all layers behind the last convolution as not to be computed in FP16."""
    last = max((i for i, kind in enumerate(types) if kind in _CONVOLUTIONS), default=len(types))
    lines = [line for line in text.splitlines() if line.strip()]
    for i, kind in enumerate(types):
        if i > last and kind != "Split":
            lines[i + 2] += _FLOAT32_ARITHMETIC
    return "\n".join(lines) + "\n"


def _converter() -> Path:
    found = importlib.util.find_spec("pnnx")  # not imported: that would import torch
    if found is not None and found.origin is not None:
        program = Path(found.origin).with_name("pnnx.exe" if sys.platform == "win32" else "pnnx")
        if program.is_file():
            return program
    on_path = shutil.which("pnnx")
    if on_path is None:
        raise BackendUnavailableError("pnnx, which converts to ncnn, is not installed: pip install pnnx.")
    return Path(on_path)


# ------------------------------------------------------------------------------------------------------- comparison


def _displacement(model: onnx.ModelProto, made: Path, spec: ModelSpec, frames: Frames) -> Floats:
    """Return how far, in input pixels, ncnn puts each clear joint or box edge from where ONNX Runtime does."""
    buffer = InputBuffer(spec)
    planes = np.concatenate([_planes(buffer, frame) for frame in frames])
    references = _run_onnx(model, *([p[None]] for p in planes))
    answers = _run_ncnn(made, planes)
    moved, clarity = [], []
    for answer, reference in zip(answers, references, strict=True):
        if [a.shape for a in answer] != [r.shape for r in reference]:
            raise ExportError(
                f"the converted network gives {[a.shape for a in answer]} where its source gives "
                f"{[r.shape for r in reference]}."
            )
        if not all(np.isfinite(a).all() for a in answer):
            raise ParityError(_NO_NUMBERS)
        apart, clear = (_moved_joints if spec.head == "simcc" else _moved_boxes)(reference, answer, spec)
        moved.append(apart)
        clarity.append(clear)
    apart, clear = np.concatenate(moved), np.concatenate(clarity)
    chosen = clear >= (_CLEAR_PEAK if spec.head == "simcc" else _CLEAR_SCORE)
    if chosen.sum() < _FEWEST:
        chosen[np.argsort(-clear, kind="stable")[:_FEWEST]] = True
    return apart[chosen]


def _planes(buffer: InputBuffer, frame: Frames) -> Floats:
    buffer.pictures(1)[0] = frame
    return np.array(buffer.tensor(1))


def _run_ncnn(made: Path, planes: Floats) -> list[list[Floats]]:
    """Return ncnn's outputs for each picture. A graph that was converted wrongly can crash it, so it has a process."""
    source, results = made.with_name("planes.npy"), made.with_name("answers.npz")
    np.save(source, planes)
    request = {"param": str(made), "planes": str(source), "answers": str(results)}
    with Worker("rtmpose_infer.export.ncnn:answer_planes") as worker:
        answer = worker.call(request, timeout_s=_CONVERTER_S)
    if answer.error_type == OutputMismatchError.__name__:
        raise ParityError(_NO_NUMBERS)
    if not answer.ok:
        raise ExportError(f"ncnn does not run the converted network: {answer.failure.rstrip('.')}.")
    with np.load(results) as columns:
        return [list(row) for row in zip(*(columns[name] for name in columns.files), strict=True)]


def answer_planes(request: Mapping[str, str]) -> None:
    """Run a converted network over the float planes in a file and write its answers to another.

    Args:
        request: Paths: ``param``, ``planes`` (``.npy``, [N, 3, H, W] float32), ``answers`` (``.npz`` to be written).
    """
    model = load_model_file(request["param"], task=json.loads(_sidecar(request["param"]))["task"])
    with load_backend(model, backend="ncnn", config=BackendConfig(device="cpu")) as backend:
        name = backend.inputs[0].name
        rows = [list(backend.run({name: p[None]}).values()) for p in np.load(request["planes"])]
    np.savez(request["answers"], *(np.stack(column) for column in zip(*rows, strict=True)))


def _sidecar(param: str) -> str:
    return Path(param).with_suffix(".json").read_text(encoding="utf-8")


def _moved_joints(reference: Sequence[Floats], answer: Sequence[Floats], spec: ModelSpec) -> tuple[Floats, Floats]:
    """Return the displacement of each joint in input pixels, and the lower ``peak_prominence`` of its two vectors."""
    steps = [(a.argmax(axis=2) - r.argmax(axis=2)) / spec.split_ratio for r, a in zip(reference, answer, strict=True)]
    clear = np.minimum(*map(peak_prominence, reference))
    return np.hypot(*steps).ravel().astype(np.float32), clear.ravel()


def _moved_boxes(reference: Sequence[Floats], answer: Sequence[Floats], _: ModelSpec) -> tuple[Floats, Floats]:
    """Return the largest displacement of an edge of each cell's box in input pixels, and the cell's score."""
    levels = len(reference) // 2
    apart = [np.abs(a - r).max(axis=1).ravel() for r, a in zip(reference[levels:], answer[levels:], strict=True)]
    scores = [1 / (1 + np.exp(-r.max(axis=1).ravel())) for r in reference[:levels]]
    return np.concatenate(apart).astype(np.float32), np.concatenate(scores).astype(np.float32)


def _run_onnx(model: onnx.ModelProto, *calls: Sequence[npt.NDArray[Any]]) -> list[Any]:
    """Return the outputs of each call of the model on the CPU."""
    session = cpu_session(model)
    names = [value.name for value in session.get_inputs()]
    return [session.run(None, dict(zip(names, arrays, strict=True))) for arrays in calls]
