"""ONNX models made on the spot: some that compute something whose answer is plain, some that only declare something.

The runnable ones look for light in a dark picture. The detector finds the box around everything bright, the pose
networks put all their keypoints on the brightest column and row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
Shape = Sequence[int | str | None]
Tensor = tuple[str, Shape | None, str]

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


def declared_onnx(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    first_operator: str = "Conv",
    initializers: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """Return a model that has these inputs and outputs and would compute nothing sensible."""
    weights = {"weights": np.zeros(3, np.float32)} if initializers is None else initializers
    names = [name for name, _, _ in inputs]
    nodes = [helper.make_node(first_operator, [*names[:1], *list(weights)[:1]], ["inner"])]
    nodes += [helper.make_node("Identity", ["inner"], [name]) for name, _, _ in outputs]
    return _model(nodes, inputs, outputs, weights, metadata).SerializeToString()


def light_detector(*, size_wh: tuple[int, int] = (64, 64), batch: int | None = None, margin: float = 0) -> bytes:
    """Return a detector with NMS heads: one box around all pixels above 128 (raw BGR in), score 0.9 or 0.

    The edges are the places of maxima that are the only ones: which of equal ones ArgMax tells differs by runtime.
    """
    size = [batch or "n", 3, size_wh[1], size_wh[0]]
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["grey"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["grey", "threshold"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["light"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["light"], ["columns"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", ["light"], ["rows"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["light"], ["any"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["any", "certainty"], ["score"]),
    ]
    for edge, line, shift in (
        ("x1", "columns", "before"),
        ("y1", "rows", "before"),
        ("x2", "columns", "after"),
        ("y2", "rows", "after"),
    ):
        nodes += [
            helper.make_node("Mul", [line, f"{line}_{shift}"], [f"{edge}_slope"]),
            helper.make_node("ArgMax", [f"{edge}_slope"], [f"{edge}_index"], axis=1, keepdims=0),
            helper.make_node("Cast", [f"{edge}_index"], [f"{edge}_place"], to=TensorProto.FLOAT),
            helper.make_node("Add", [f"{edge}_place", shift], [edge]),
        ]
    nodes += [helper.make_node("Unsqueeze", [v, "axes"], [f"{v}_row"]) for v in ("x1", "y1", "x2", "y2", "score")]
    nodes += [
        helper.make_node("Concat", [f"{v}_row" for v in ("x1", "y1", "x2", "y2", "score")], ["dets"], axis=2),
        helper.make_node("Cast", ["x1_index"], ["zeroth"], to=TensorProto.INT64),
        helper.make_node("Sub", ["zeroth", "zeroth"], ["zeros"]),
        helper.make_node("Unsqueeze", ["zeros", "axis"], ["labels"]),
    ]
    weights = {
        "threshold": np.float32(128),
        "certainty": np.float32(0.9),
        "before": np.float32(-margin),
        "after": np.float32(1 + margin),
        "axes": np.array([1, 2]),
        "axis": np.array([1]),
    }
    for line, length in zip(("columns", "rows"), size_wh, strict=True):
        weights[f"{line}_before"] = np.arange(length, 0, -1, dtype=np.float32)
        weights[f"{line}_after"] = np.arange(1, length + 1, dtype=np.float32)
    outputs = [("dets", [batch or "n", 1, 5], "float32"), ("labels", [batch or "n", 1], "int64")]
    return _runnable(nodes, [("input", size, "float32")], outputs, weights)


def light_pose(
    *,
    num_keypoints: int = 17,
    size_wh: tuple[int, int] = (48, 64),
    batch: int | None = None,
    split_ratio: int = 2,
    decoded: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return a pose network whose keypoints all lie on the brightest column and row of the picture.

    As a foreign network, float32 planes in and SimCC vectors out; ``decoded``: uint8 pictures in, ``keypoints`` and
    ``scores`` out.
    """
    (width, height), rows = size_wh, batch or "n"
    nodes = []
    if decoded:
        nodes += [
            helper.make_node("Cast", ["frames_u8"], ["interleaved"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["interleaved"], ["planes"], perm=[0, 3, 1, 2]),
        ]
    source = "planes" if decoded else "input"
    weights: dict[str, np.ndarray] = {}
    for axis, side, reduced in (("x", width, 2), ("y", height, 3)):
        bins = np.zeros((side, side * split_ratio), np.float32)
        bins[np.arange(side), np.arange(side) * split_ratio] = 1
        weights |= {
            f"mix_{axis}": np.full((num_keypoints, 3), 1 / 765 if decoded else 1 / 3, np.float32),
            f"bins_{axis}": bins,
        }
        nodes += [
            helper.make_node("ReduceMax", [source], [f"light_{axis}"], axes=[reduced], keepdims=0),
            helper.make_node("MatMul", [f"mix_{axis}", f"light_{axis}"], [f"mixed_{axis}"]),
            helper.make_node("MatMul", [f"mixed_{axis}", f"bins_{axis}"], [f"simcc_{axis}"]),
        ]
    outputs: list[Tensor] = [
        ("simcc_x", [rows, num_keypoints, width * split_ratio], "float32"),
        ("simcc_y", [rows, num_keypoints, height * split_ratio], "float32"),
    ]
    if decoded:
        for axis in "xy":
            nodes += [
                helper.make_node("ArgMax", [f"simcc_{axis}"], [f"bin_{axis}"], axis=2, keepdims=1),
                helper.make_node("Cast", [f"bin_{axis}"], [f"place_{axis}"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMax", [f"simcc_{axis}"], [f"max_{axis}"], axes=[2], keepdims=0),
            ]
        nodes += [
            helper.make_node("Concat", ["place_x", "place_y"], ["places"], axis=2),
            helper.make_node("Div", ["places", "ratio"], ["keypoints"]),
            helper.make_node("Min", ["max_x", "max_y"], ["scores"]),
        ]
        weights["ratio"] = np.float32(split_ratio)
        outputs = [("keypoints", [rows, num_keypoints, 2], "float32"), ("scores", [rows, num_keypoints], "float32")]
    takes: Tensor = ("input", [rows, 3, height, width], "float32")
    if decoded:
        takes = ("frames_u8", [rows, height, width, 3], "uint8")
    return _runnable(nodes, [takes], outputs, weights, metadata)


def light_at(x: float, y: float, size_wh: tuple[int, int], *, radius: float = 6.0) -> np.ndarray:
    """Return a dark frame with a round glow whose brightest point is at x, y."""
    columns, rows = np.arange(size_wh[0]), np.arange(size_wh[1])
    glow = np.exp(-((columns[None] - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * radius**2))
    return np.repeat((255 * glow)[..., None], 3, axis=2).astype(np.uint8)


def write(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path


def _runnable(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    model = _model(nodes, inputs, outputs, weights, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, _TYPES[kind], shape) for name, shape, kind in inputs],
        [helper.make_tensor_value_info(name, _TYPES[kind], shape) for name, shape, kind in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph, producer_name="tests", producer_version="1", opset_imports=[helper.make_opsetid("", OPSET)]
    )
    model.ir_version = 8
    if metadata:
        helper.set_model_props(model, dict(metadata))
    return model
