"""Networks small enough that numpy says what they compute, in the forms that the pipeline gives to runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rtmpose_infer.model_spec import METADATA_KEY, ModelFile, ModelSpec, load_model_file
from rtmpose_infer.skeletons import unnamed_skeleton

KEYPOINTS = 5
WIDTH, HEIGHT = 24, 32
_WEIGHTS = np.random.default_rng(3).normal(0, 1, (KEYPOINTS, 3)).astype(np.float32)
_BIAS = np.linspace(-1, 1, KEYPOINTS, dtype=np.float32)
_SHIFT = np.array([100, 110, 120], np.float32)

_POSE = {"task": "pose", "input_size_wh": (WIDTH, HEIGHT), "split_ratio": 1.0, "skeleton": unnamed_skeleton(KEYPOINTS)}
RAW_SPEC = ModelSpec(head="simcc", **_POSE)
DEPLOY_SPEC = ModelSpec(head="keypoints", input_format="nhwc_uint8", **_POSE)


def for_ncnn(source: Path, folder: Path, task: str) -> Path:
    """Return a network converted for ncnn with float32 weights; two pictures must do for its check."""
    from rtmpose_infer.export.ncnn import ncnn_from_onnx
    from rtmpose_infer.export.pictures import drawn_pictures

    spec = load_model_file(source, task=task).spec
    written = ncnn_from_onnx(source, folder / f"{task}.param", task=task, half=False, pictures=drawn_pictures(spec, 2))
    return written.param


def raw_pose(path: Path, *, batch: int | None = None) -> ModelFile:
    """A pose network in its raw form: float planes in, SimCC vectors out."""
    nodes = _network("input")
    outputs = [("simcc_x", [KEYPOINTS, WIDTH]), ("simcc_y", [KEYPOINTS, HEIGHT])]
    return _written(path, nodes, ("input", TensorProto.FLOAT, [3, HEIGHT, WIDTH]), outputs, RAW_SPEC, batch)


def deploy_pose(path: Path, *, batch: int | None = None) -> ModelFile:
    """The same network as a deploy graph: uint8 pictures in, keypoints and scores out."""
    nodes = [
        helper.make_node("Cast", ["frames_u8"], ["interleaved"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["interleaved"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "shift"], ["centred"]),
        *_network("centred"),
    ]
    for axis in "xy":
        nodes += [
            helper.make_node("ArgMax", [f"simcc_{axis}"], [f"bin_{axis}"], axis=2, keepdims=1),
            helper.make_node("Cast", [f"bin_{axis}"], [f"place_{axis}"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", [f"simcc_{axis}"], [f"peak_{axis}"], axes=[2], keepdims=0),
        ]
    nodes += [
        helper.make_node("Concat", ["place_x", "place_y"], ["keypoints"], axis=2),
        helper.make_node("Min", ["peak_x", "peak_y"], ["scores"]),
    ]
    outputs = [("keypoints", [KEYPOINTS, 2]), ("scores", [KEYPOINTS])]
    return _written(path, nodes, ("frames_u8", TensorProto.UINT8, [HEIGHT, WIDTH, 3]), outputs, DEPLOY_SPEC, batch)


def bright_columns(path: Path) -> ModelFile:
    """A detector whose boxes are the columns that are bright in any picture of a call, so their number varies."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["light"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMax", ["light"], ["brightest"], axes=[0], keepdims=0),
        helper.make_node("Greater", ["brightest", "half"], ["bright"]),
        helper.make_node("NonZero", ["bright"], ["places"]),
        helper.make_node("Squeeze", ["places", "first"], ["columns"]),
        helper.make_node("Gather", ["light", "columns"], ["found"], axis=1),
        helper.make_node("Unsqueeze", ["found", "last"], ["value"]),
        helper.make_node("Concat", ["value"] * 5, ["dets"], axis=2),
        helper.make_node("Cast", ["found"], ["labels"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "bright columns",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, HEIGHT, WIDTH])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, ["n", "found", 5]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["n", "found"]),
        ],
        [
            numpy_helper.from_array(np.float32(0.5), "half"),
            numpy_helper.from_array(np.array([0]), "first"),
            numpy_helper.from_array(np.array([2]), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    spec = ModelSpec(task="detection", head="nms", input_size_wh=(WIDTH, HEIGHT))
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, path)
    return load_model_file(path, task="detection")


def with_weights_beside(source: Path, folder: Path, *, factor: float) -> ModelFile:
    """Return the network with its weights multiplied and in a file of their own; the graph's file is always the same."""
    model = onnx.load(source)
    for weights in model.graph.initializer:
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(factor), weights.name))
    folder.mkdir(exist_ok=True)
    (folder / "graph.weights").unlink(missing_ok=True)  # saving appends to what is there
    onnx.save(model, folder / "graph.onnx", save_as_external_data=True, location="graph.weights", size_threshold=0)
    return load_model_file(folder / "graph.onnx", task="pose")


def raw_answer(planes: np.ndarray) -> dict[str, np.ndarray]:
    """What ``raw_pose`` gives for (n, 3, H, W) float32."""
    maps = np.einsum("kc,nchw->nkhw", _WEIGHTS, planes) + _BIAS[:, None, None]
    return {"simcc_x": maps.max(axis=2), "simcc_y": maps.max(axis=3)}


def deploy_answer(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """What ``deploy_pose`` gives for (n, H, W, 3) uint8."""
    vectors = raw_answer(pictures.transpose(0, 3, 1, 2).astype(np.float32) - _SHIFT[:, None, None])
    x, y = vectors["simcc_x"], vectors["simcc_y"]
    places = np.stack([x.argmax(axis=2), y.argmax(axis=2)], axis=2).astype(np.float32)
    return {"keypoints": places, "scores": np.minimum(x.max(axis=2), y.max(axis=2))}


def planes(count: int, *, seed: int = 0) -> np.ndarray:
    """Return (count, 3, H, W) float32."""
    return np.random.default_rng(seed).normal(0, 1, (count, 3, HEIGHT, WIDTH)).astype(np.float32)


def pictures(count: int, *, seed: int = 0) -> np.ndarray:
    """Return (count, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def _network(source: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", [source, "weights", "bias"], ["maps"]),
        helper.make_node("ReduceMax", ["maps"], ["simcc_x"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["maps"], ["simcc_y"], axes=[3], keepdims=0),
    ]


def _written(path, nodes, source, outputs, spec, batch) -> ModelFile:
    name, kind, shape = source
    first = batch or "n"
    weights = {
        "weights": _WEIGHTS.reshape(KEYPOINTS, 3, 1, 1),
        "bias": _BIAS,
        "shift": _SHIFT.reshape(1, 3, 1, 1),
    }
    used = {read for node in nodes for read in node.input}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, [first, *shape])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [first, *s]) for n, s in outputs],
        [numpy_helper.from_array(value, key) for key, value in weights.items() if key in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return load_model_file(path, task=spec.task)
