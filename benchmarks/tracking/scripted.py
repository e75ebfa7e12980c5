"""MMDeploy's C++ PoseTracker in the laboratory: frames that say who they are, and networks that read it and know the answers.

The C++ tracker takes its networks from ONNX files and shows them nothing but pixels. So the pixels carry what the observer has to
know, and the networks carry what he answers (``world.Sights``):

- Red and green grow evenly with x and y. They are dithered, so that their mean over any patch is exact to a fraction of a
  step, and a straight line through a crop's columns and rows says where in the frame the crop is.
- Blue is a checkerboard of two values, the frame's number in hundreds and units. Interpolation mixes values but never goes
  beyond them, so the least and the largest are the number. Outside the frame blue is 0.
- The detector's graph reads the number and takes the frame's detections from a table.
- The pose network's graph reads the number and the place, finds whom the crop shows, and takes that person's joints from a table.

What a crop cannot tell is the shape of the box it was cut for: it is the box at 1.25 times its size, filled up to 3:4. Of all
boxes that give the crop, the one with the person's own shape is compared with the person's, and an empty box is taken for one
of the shape of the observer's false boxes. Which errors a crop draws depends on its place, as it does with the observer, but
not by the same rule. The SDK decodes to half a bin, a quarter of a crop's pixel.

    python benchmarks/tracking/scripted.py --check [--shared FOLDER] [--mmdeploy ENV/bin/python] [--sequences NAME …]

compares the networks with the observer on crops cut as the SDK cuts them, and with ``--mmdeploy`` what the SDK's own detector
and pose detector make of whole frames. ``ENV`` has mmdeploy-runtime 1.3.1 and a numpy below 2. This file runs there, too, as the
worker; that is why it asks for nothing but numpy at the top.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from world import PoseAnswers, Sights

HERE = Path(__file__).resolve().parent
RUNTIME = "mmdeploy-runtime"
DETECTOR_INPUT = 320  # px, both sides
POSE_INPUT_WH = (192, 256)
SPAN = 250  # steps of red and green over the whole frame
UNITS, HUNDREDS = 20, 130  # blue that stands for 0
BLOCK = 8  # px of the frame, side of a square of the checkerboard
# px of the input that are not used beside the frame's border, where blue fades, and along the input's edges
ERODED = 10
BIN_SIGMA = 6.0
# The SDK's OpenCV rounds an interpolated value down more often than up: by 0.08 steps on average, at all values, sizes and
# places. Left in, that would move everything by 0.2 px in a frame 640 px wide and by 0.6 px in one of 1920.
SDK_DARKER = 0.08


class Frames:
    """The frames of one size: (H, W, 3) uint8, blue green red; their number is below 10,000."""

    def __init__(self, size_wh: Sequence[int]) -> None:
        width, height = size_wh
        y, x = np.mgrid[:height, :width]
        # A sequence of low discrepancy is a better dither than chance: its mean is right over the smallest patch.
        a, b = 0.7548776662466927, 0.5698402909980532
        green = 1 + y * SPAN / height + (a * y + b * x) % 1
        red = 1 + x * SPAN / width + (a * x + b * y) % 1
        self._frame = np.stack([np.zeros_like(red), green, red], axis=-1).astype(np.uint8)
        self._hundreds = (x // BLOCK + y // BLOCK) % 2 == 1

    def __call__(self, number: int) -> np.ndarray:
        """Return a frame; it belongs to the caller."""
        hundreds, units = divmod(number, 100)
        frame = self._frame.copy()
        frame[..., 0] = np.where(self._hundreds, np.uint8(HUNDREDS + hundreds), np.uint8(UNITS + units))
        return frame


class _Graph:
    """An ONNX graph that grows while expressions are written down. All arithmetic is in float32; indices are int64."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tables: list[Any] = []

    def table(self, values: Any) -> _Value:
        """Return a constant."""
        from onnx import numpy_helper

        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        name = f"table{len(self.tables)}"
        self.tables.append(numpy_helper.from_array(array, name))
        return _Value(self, name)

    def op(self, kind: str, *inputs: Any, name: str | None = None, **attributes: Any) -> _Value:
        """Return the output of a new node; numbers among its inputs become constants."""
        from onnx import helper

        names = [i.name if isinstance(i, _Value) else self.table(i).name for i in inputs]
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return _Value(self, name)

    def model(
        self, image: tuple[int | str, ...], outputs: dict[str, tuple[int, tuple[int | str, ...]]]
    ) -> onnx.ModelProto:
        """Return the model from ``input`` to the named outputs, each given as element type and shape."""
        from onnx import TensorProto, checker, helper

        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, image)
        wanted = [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()]
        graph = helper.make_graph(self.nodes, "scripted", [given], wanted, self.tables)
        # mmdeploy-runtime 1.3.1 carries ONNX Runtime 1.15.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model, full_check=True)
        return model


class _Value:
    """A tensor of a ``_Graph``."""

    def __init__(self, graph: _Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> _Value:
        return self.graph.op("Add", self, _real(other))

    def __sub__(self, other: Any) -> _Value:
        return self.graph.op("Sub", self, _real(other))

    def __rsub__(self, other: Any) -> _Value:
        return self.graph.op("Sub", _real(other), self)

    def __mul__(self, other: Any) -> _Value:
        return self.graph.op("Mul", self, _real(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> _Value:
        return self.graph.op("Div", self, _real(other))

    def __gt__(self, other: Any) -> _Value:
        return self.graph.op("Greater", self, _real(other))

    def __lt__(self, other: Any) -> _Value:
        return self.graph.op("Less", self, _real(other))

    def __and__(self, other: _Value) -> _Value:
        return self.graph.op("And", self, other)

    def sum(self, axis: int) -> _Value:
        """Return the sums, the axis kept with length 1."""
        return self.graph.op("ReduceSum", self, [axis], keepdims=1)

    def min(self, *axes: int) -> _Value:
        """Return the least values, the axes kept with length 1."""
        return self.graph.op("ReduceMin", self, axes=axes, keepdims=1)

    def max(self, *axes: int) -> _Value:
        """Return the largest values, the axes kept with length 1."""
        return self.graph.op("ReduceMax", self, axes=axes, keepdims=1)

    def least(self, other: Any) -> _Value:
        return self.graph.op("Min", self, _real(other))

    def most(self, other: Any) -> _Value:
        return self.graph.op("Max", self, _real(other))

    def part(self, axis: int, start: int, stop: int) -> _Value:
        return self.graph.op("Slice", self, [start], [stop], [axis])

    def shaped(self, *shape: int) -> _Value:
        """Return the same values in another shape; 0 keeps a length, -1 is what remains."""
        return self.graph.op("Reshape", self, list(shape))

    def real(self) -> _Value:
        return self.graph.op("Cast", self, to=1)

    def index(self, name: str | None = None) -> _Value:
        return self.graph.op("Cast", self, to=7, name=name)


def _real(value: Any) -> Any:
    return value if isinstance(value, _Value) else np.asarray(value, np.float32)


def _where(condition: _Value, yes: Any, no: Any, *, name: str | None = None) -> _Value:
    return condition.graph.op("Where", condition, _real(yes), _real(no), name=name)


def _picture(blue: _Value) -> tuple[_Value, _Value]:
    """Return (N, 1, W) and (N, H, 1) columns and rows of (N, H, W) that show the frame: 1, or 0 outside and close by."""
    graph = blue.graph

    def eroded(line: _Value) -> _Value:
        # The frame may end right at the edge of the input, so what lies beyond the edge counts as outside.
        outside = graph.op(
            "Pad", (line.shaped(0, 1, -1) < UNITS - 5).real(), [0, 0, ERODED, 0, 0, ERODED], np.float32(1)
        )
        return 1.0 - graph.op("MaxPool", outside, kernel_shape=[2 * ERODED + 1])

    return eroded(blue.max(1)), eroded(blue.max(2)).shaped(0, -1, 1)


def _number(blue: _Value, columns: _Value, rows: _Value, count: int) -> tuple[_Value, _Value]:
    """Return (N,) the frame's number as an index, and (N, 1, 1) whether it could be read."""
    picture = rows * columns
    units = _where(picture > 0.5, blue, 255.0).min(1, 2) - UNITS
    hundreds = (picture * blue).max(1, 2) - HUNDREDS
    number = units + 100.0 * hundreds
    readable = (hundreds > -0.5) & (units < 99.5) & (number < count - 0.5)
    return _where(readable, number, 0.0).shaped(-1).index(), readable


def _place(
    green: _Value, red: _Value, columns: _Value, rows: _Value, size_wh: tuple[int, int]
) -> tuple[_Value, _Value, _Value]:
    """Return (N, 1, 1) the x and y in the frame of the input's middle, and how many pixels of the frame one of it is.

    The input is the frame moved and scaled, alike in x and y, and a weighted straight line is laid through both at once.
    """
    graph, (width, height) = red.graph, POSE_INPUT_WH
    wide, high = columns.sum(2).most(1.0), rows.sum(1).most(1.0)
    x = ((red * rows).sum(1) / high - 1.0) * (size_wh[0] / SPAN)  # (N, 1, W)
    y = ((green * columns).sum(2) / wide - 1.0) * (size_wh[1] / SPAN)  # (N, H, 1)
    u = graph.table(np.arange(width, dtype=np.float32).reshape(1, 1, -1) - width / 2)
    v = graph.table(np.arange(height, dtype=np.float32).reshape(1, -1, 1) - height / 2)
    u_mean, v_mean = (columns * u).sum(2) / wide, (rows * v).sum(1) / high
    x_mean, y_mean = (columns * x).sum(2) / wide, (rows * y).sum(1) / high
    across, down = columns * (u - u_mean), rows * (v - v_mean)
    together = (across * (x - x_mean)).sum(2) + (down * (y - y_mean)).sum(1)
    spread = (across * across).sum(2) + (down * down).sum(1)
    scale = (together / spread.most(1.0)).most(0.01)
    return x_mean - scale * u_mean, y_mean - scale * v_mean, scale


def _padded(arrays: Sequence[np.ndarray], *, fill: float = 0.0) -> np.ndarray:
    """Return arrays of different lengths as one, each filled up to the longest."""
    longest = max(1, *map(len, arrays))
    out = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, np.float32)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def detector_network(sights: Sights) -> onnx.ModelProto:
    """Return the detector of a scene: (1, 3, 320, 320) raw pixels, the rest 0, to ``dets`` (1, M, 5) and ``labels`` (1, M)."""
    from onnx import TensorProto

    graph = _Graph()
    image = _Value(graph, "input")
    blue = image.part(1, 0, 1).shaped(-1, DETECTOR_INPUT, DETECTOR_INPUT)
    number, readable = _number(blue, *_picture(blue), len(sights.scene))
    factor = DETECTOR_INPUT / max(sights.scene.frame_size_wh)
    rows = [np.concatenate([d.bboxes * factor, d.scores[:, None]], axis=1) for d in sights.detections]
    table = _padded(rows)
    found = graph.op("Gather", graph.table(table), number)
    graph.op("Mul", found, readable.real(), name="dets")
    graph.op("Gather", graph.table(np.zeros(table.shape[:2], np.int64)), number, name="labels")
    count = table.shape[1]
    return graph.model(
        (1, 3, DETECTOR_INPUT, DETECTOR_INPUT),
        {"dets": (TensorProto.FLOAT, (1, count, 5)), "labels": (TensorProto.INT64, (1, count))},
    )


def pose_network(sights: Sights, *, explain: bool = False) -> onnx.ModelProto:
    """Return the pose network of a scene: (N, 3, 256, 192) raw pixels to ``simcc_x`` (N, 17, 384), ``simcc_y`` (N, 17, 512).

    Args:
        sights: What it has to answer.
        explain: Whether ``number`` (N,) and ``person`` (N,) come out as well: the frame, and whom the crop shows or -1.
    """
    from onnx import TensorProto

    scene, (width, height) = sights.scene, POSE_INPUT_WH
    graph = _Graph()
    planes = [_Value(graph, "input").part(1, i, i + 1).shaped(-1, height, width) for i in range(3)]
    columns, rows = _picture(planes[0])
    number, readable = _number(planes[0], columns, rows, len(scene))
    place = _place(*planes[1:], columns, rows, scene.frame_size_wh)
    x, y, scale = (value.shaped(-1, 1) for value in place)

    truth = _padded([frame.bboxes for frame in scene.frames])
    sides = truth[..., 2:] - truth[..., :2]
    shapes = np.divide(sides[..., 0], sides[..., 1], out=np.ones_like(sides[..., 0]), where=sides[..., 1] > 0)
    weights = _padded([0.25 + 0.75 * visible for visible in sights.visible])
    full_wide, full_high = scale * (width / 1.25), scale * (height / 1.25)
    shape = graph.op("Gather", graph.table(shapes), number)  # (N, P)
    half_wide = full_wide.least(full_high * shape) * 0.5
    half_high = full_high.least(full_wide / shape) * 0.5
    left, top, right, bottom = (graph.op("Gather", graph.table(truth[..., i]), number) for i in range(4))
    common_wide = ((x + half_wide).least(right) - (x - half_wide).most(left)).most(0.0)
    common_high = ((y + half_high).least(bottom) - (y - half_high).most(top)).most(0.0)
    common = common_wide * common_high
    union = 4.0 * half_wide * half_high + (right - left) * (bottom - top) - common
    fill = common / union * graph.op("Gather", graph.table(weights), number)
    person = graph.op("ArgMax", fill, axis=1, keepdims=1)
    seen = (fill.max(1) > 0.12) & readable.shaped(-1, 1)  # (N, 1)

    supply = [
        np.stack(arrays).astype(np.float32) for arrays in zip(*map(sights.supply, range(len(scene))), strict=True)
    ]
    # A crop's place picks its errors: a mixture of its corner and size in quarters of a pixel.
    quarters = [graph.op("Floor", 4.0 * value) for value in (x, y, full_high)]
    mixed = quarters[0] * 73.0 + quarters[1] * 151.0 + quarters[2] * 37.0
    drawn = graph.op("Mod", mixed.most(0.0), np.float32(supply[0].shape[1]), fmod=1).index()

    def of(table: np.ndarray, which: _Value) -> _Value:
        index = graph.op("Concat", number.shaped(-1, 1), which, axis=1)
        return graph.op("GatherND", graph.table(table), index)

    middle = graph.op("Concat", x, y, axis=1).shaped(-1, 1, 2)
    apart = scale.shaped(-1, 1, 1)
    joints = _padded([sights.joints(i)[0] for i in range(len(scene))])
    scores = _padded([sights.joints(i)[1] for i in range(len(scene))])
    errors = of(0.5 * sights.noise.joint * supply[0], drawn) * of(np.sqrt(sides.prod(axis=2)), person).shaped(-1, 1, 1)
    there = (of(joints, person) + errors - middle) / apart  # (N, 17, 2) px of the crop from its middle
    nowhere = (of(supply[1], drawn) - 0.5) * np.array([0.4, 1.0]) * (height / 1.25)
    seen_joint = seen.shaped(-1, 1, 1)
    points = _where(seen_joint, there, nowhere)
    beyond = graph.op("Abs", points) / np.array([width / 2, height / 2])
    inside = beyond.max(2) < 1.0  # (N, 17, 1)
    sure = _where(inside, of(scores, person).shaped(0, 0, 1), 0.1)
    sure = _where(seen_joint, sure, of(supply[2], drawn).shaped(0, 0, 1))
    for axis, (name, side) in enumerate((("simcc_x", width), ("simcc_y", height))):
        peak = (points.part(2, axis, axis + 1) * 2.0 + side).most(0.0).least(2.0 * side - 1)
        away = peak - np.arange(2 * side)
        curve = graph.op("Exp", away * away * (-1 / (2 * BIN_SIGMA**2)))
        graph.op("Mul", curve, sure, name=name)
    outputs: dict[str, tuple[int, tuple[int | str, ...]]] = {
        "simcc_x": (TensorProto.FLOAT, ("n", 17, 2 * width)),
        "simcc_y": (TensorProto.FLOAT, ("n", 17, 2 * height)),
    }
    if explain:
        _where(readable.shaped(-1), number.real(), -1.0).index("number")
        _where(seen, person.real(), -1.0).shaped(-1).index("person")
        outputs |= dict.fromkeys(("number", "person"), (TensorProto.INT64, ("n",)))
    return graph.model(("n", 3, height, width), outputs)


def write_sdk_folder(folder: Path, model: onnx.ModelProto, transforms: Sequence[dict], post: dict) -> None:
    """Write what MMDeploy's SDK reads: the model and the three JSON files beside it. The network sees pixels as they are."""
    folder.mkdir(parents=True)
    (folder / "end2end.onnx").write_bytes(model.SerializeToString())
    raw = {"type": "Normalize", "mean": [0, -SDK_DARKER, -SDK_DARKER], "std": [1, 1, 1], "to_rgb": False}
    keys = ["filename", "ori_filename", "ori_shape", "img_shape", "pad_shape", "scale_factor", "img_norm_cfg", "center"]
    collect = {"type": "Collect", "keys": ["img"], "meta_keys": [*keys, "scale", "bbox", "flip_pairs", "valid_ratio"]}
    steps = [{"type": "LoadImageFromFile"}, *transforms, raw, {"type": "ImageToTensor", "keys": ["img"]}, collect]
    before = {
        "module": "Transform",
        "name": "Preprocess",
        "input": ["img"],
        "output": ["prepared"],
        "transforms": steps,
    }
    network = {"module": "Net", "name": "scripted", "is_batched": True, "input": ["prepared"], "output": ["raw"]}
    network |= {"input_map": {"img": "input"}, "output_map": {}}
    after = post | {"name": "postprocess", "input": ["prepared", "raw"], "output": ["answer"]}
    tasks = [{"type": "Task"} | task for task in (before, network, after)]
    entry = {"name": "scripted", "net": "end2end.onnx", "weights": "", "backend": "onnxruntime", "precision": "FP32"}
    contents = {
        "pipeline": {"pipeline": {"input": ["img"], "output": ["answer"], "tasks": tasks}},
        "deploy": {"version": "1.3.1", "models": [entry | {"batch_size": 1, "dynamic_shape": False}], "customs": []},
        "detail": {"version": "1.3.1", "codebase": {}},
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_sdk_folders(root: Path, sights: Sights) -> None:
    """Write the folders ``detector`` and ``pose`` of a scene."""
    side, pose_wh = [DETECTOR_INPUT] * 2, list(POSE_INPUT_WH)
    transforms = [
        {"type": "Resize", "size": side, "keep_ratio": True},
        {"type": "Pad", "size": side, "pad_val": {"img": [0, 0, 0]}},
    ]
    # The observer's detector has suppressed what overlaps; only the rows that fill up the table have to go.
    post = {"module": "mmdet", "component": "ResizeBBox", "params": {"score_thr": 0.05, "min_bbox_size": 0}}
    write_sdk_folder(root / "detector", detector_network(sights), transforms, post)
    transforms = [
        {"type": "TopDownGetBboxCenterScale", "padding": 1.25, "image_size": pose_wh},
        {"type": "TopDownAffine", "image_size": pose_wh},
    ]
    decode = {"type": "SimCCLabel", "input_size": pose_wh, "simcc_split_ratio": 2.0, "flip_test": False}
    post = {"module": "mmpose", "component": "SimCCLabelDecode", "params": decode}
    write_sdk_folder(root / "pose", pose_network(sights), transforms, post)


def version(python: str) -> str:
    """Return the version of mmdeploy-runtime in an environment.

    Raises:
        subprocess.CalledProcessError: When it is not there.
    """
    ask = f"import importlib.metadata; print(importlib.metadata.version({RUNTIME!r}))"
    return subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def track(
    python: str, sights: Sights, *, det_interval: int, sigmas: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return ids (N,), boxes (N, 4) and joints (N, 17, 2) of every frame as the C++ PoseTracker gives them.

    Args:
        python: Interpreter of the environment with mmdeploy-runtime.
        sights: The scene as the observer sees it.
        det_interval: Frames from one detection to the next.
        sigmas: (17,) OKS sigmas of the joints, of which the tracker asks to be told.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sdk_folders(root, sights)
        left = _work(python, root, sights, {"det_interval": det_interval, "sigmas": np.asarray(sigmas).tolist()})
        ends = np.cumsum(left["counts"])[:-1]
        parts = [np.split(left[name], ends) for name in ("ids", "bboxes", "keypoints")]
    return [(ids.astype(np.int64), bboxes, keypoints[..., :2]) for ids, bboxes, keypoints in zip(*parts, strict=True)]


def _work(python: str, root: Path, sights: Sights, job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Run this file as the worker of the other environment; return the arrays that it leaves."""
    job |= {"size_wh": sights.scene.frame_size_wh, "frames": len(sights.scene)}
    (root / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run([python, __file__, "--worker", str(root)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the worker with {RUNTIME} failed:\n{done.stderr[-2000:]}")
    with np.load(root / "answers.npz") as left:
        return dict(left)


def worker(root: Path) -> None:
    """Do ``job.json`` with mmdeploy-runtime, and write ``answers.npz``."""
    import mmdeploy_runtime

    job = json.loads((root / "job.json").read_text(encoding="utf-8"))
    frames = Frames(job["size_wh"])
    if "bboxes" in job:
        _look(root, job, frames)
        return
    tracker = mmdeploy_runtime.PoseTracker(str(root / "detector"), str(root / "pose"), "cpu")
    state = tracker.create_state(det_interval=job["det_interval"], keypoint_sigmas=np.array(job["sigmas"], np.float32))
    shown = []
    for number in range(job["frames"]):
        keypoints, bboxes, ids = tracker(state, frames(number))
        shown.append((np.reshape(keypoints, (-1, 17, 3)), np.reshape(bboxes, (-1, 4)), np.reshape(ids, -1)))
    keypoints, bboxes, ids = map(np.concatenate, zip(*shown, strict=True))
    counts = [len(row[2]) for row in shown]
    np.savez(root / "answers.npz", keypoints=keypoints, bboxes=bboxes, ids=ids, counts=counts)


def _look(root: Path, job: dict[str, Any], frames: Frames) -> None:
    """Write what the SDK's detector and pose detector see in the frames named in the job."""
    import mmdeploy_runtime

    detect = mmdeploy_runtime.Detector(str(root / "detector"), "cpu")
    estimate = mmdeploy_runtime.PoseDetector(str(root / "pose"), "cpu")
    seen = {}
    for number, bboxes in job["bboxes"].items():
        frame = frames(int(number))
        seen[f"dets{number}"] = detect(frame)[0]
        seen[f"keypoints{number}"] = np.reshape(estimate(frame, bboxes), (-1, 17, 3))
    np.savez(root / "answers.npz", **seen)


def answers(sights: Sights) -> PoseAnswers:
    """Return what answers for the observer's ``poses`` through frames, crops and the scripted pose network."""
    import onnxruntime

    draw = Frames(sights.scene.frame_size_wh)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    network = onnxruntime.InferenceSession(pose_network(sights).SerializeToString(), options)

    def poses(number: int, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(bboxes):
            return np.zeros((0, 17, 2), np.float32), np.zeros((0, 17), np.float32)
        crops, middle, scale = _crops(draw(number), bboxes)
        simcc = network.run(["simcc_x", "simcc_y"], {"input": crops})
        return _decoded(*simcc, middle, scale)

    return poses


def _decoded(
    simcc_x: np.ndarray, simcc_y: np.ndarray, middle: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (M, 17, 2) joints in the frame and (M, 17) scores of crops with (M, 2) middles and (M, 1) scales."""
    bins = np.stack([simcc_x.argmax(axis=2), simcc_y.argmax(axis=2)], axis=2)
    points = middle[:, None] + (bins / 2 - np.array(POSE_INPUT_WH) / 2) * scale[:, None]
    return points.astype(np.float32), simcc_x.max(axis=2)


def _boxes_to_try(sights: Sights, frame: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (M, 4) the boxes of everybody, the same shaken hard, and four at random places; and (M,) which are the last."""
    truth = sights.scene.frames[frame].bboxes
    shaken = truth + rng.normal(0, 0.08, truth.shape) * np.tile(truth[:, 2:] - truth[:, :2], 2)
    wh = np.array(sights.scene.frame_size_wh)
    high = wh[1] * rng.uniform(0.08, 0.5, (4, 1))
    sides = high * np.concatenate([rng.uniform(0.3, 1.2, (4, 1)), np.ones((4, 1))], axis=1)
    low = rng.uniform(-0.3 * sides, wh - 0.7 * sides)
    boxes = np.concatenate([truth, shaken, np.concatenate([low, low + sides], axis=1)]).astype(np.float32)
    large = ((boxes[:, 2:] - boxes[:, :2]) > 4).all(axis=1)
    return boxes[large], (np.arange(len(boxes)) >= 2 * len(truth))[large]


def _crops(frame: np.ndarray, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (M, 3, 256, 192) crops as the SDK cuts them, (M, 2) their middles in the frame and (M, 1) their scales."""
    import cv2

    wh = np.array(POSE_INPUT_WH)
    middle = (bboxes[:, :2] + bboxes[:, 2:]) / 2
    scale = (1.25 * (bboxes[:, 2:] - bboxes[:, :2]) / wh).max(axis=1, keepdims=True).clip(0.01)
    crops = [
        cv2.warpAffine(frame, np.array([[1 / s, 0, wh[0] / 2 - x / s], [0, 1 / s, wh[1] / 2 - y / s]]), POSE_INPUT_WH)
        for (x, y), (s,) in zip(middle, scale, strict=True)
    ]
    return np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32), middle, scale


def check(sights: Sights, *, frames: int = 40, python: str | None = None) -> dict[str, float]:
    """Return how well the scripted networks of a scene do what the observer does, on crops of some of its frames.

    Args:
        sights: What has to be answered. Its joints must not draw errors, or the two draw different ones.
        frames: How many frames to try.
        python: An environment with mmdeploy-runtime, to try the networks inside the SDK as well.
    """
    import onnxruntime

    rng, draw = np.random.default_rng(0), Frames(sights.scene.frame_size_wh)
    numbers = np.unique(np.linspace(0, len(sights.scene) - 1, frames).astype(int))
    detector = onnxruntime.InferenceSession(detector_network(sights).SerializeToString())
    network = onnxruntime.InferenceSession(pose_network(sights, explain=True).SerializeToString())
    box_px, right, same, random, wanted, off, scores_off = [], [], [], [], [], [], []
    asked = {}
    for number in map(int, numbers):
        frame = draw(number)
        image, factor = _detector_input(frame)
        (dets,) = detector.run(["dets"], {"input": image})[0]
        box_px.append(_boxes_apart(dets[dets[:, 4] > 0.05, :4] / factor, sights.detections[number].bboxes))
        bboxes, at_random = _boxes_to_try(sights, number, rng)
        crops, middle, scale = _crops(frame, bboxes)
        simcc_x, simcc_y, told, person = network.run(None, {"input": crops})
        points, scores = _decoded(simcc_x, simcc_y, middle, scale)
        persons = sights.persons(number, bboxes)
        both = (person == persons) & (persons >= 0)
        off.append(_joints_apart(sights, number, bboxes[both], points[both]).ravel())
        scores_off.append(np.abs(scores - sights.poses(number, bboxes)[1])[both].ravel())
        right.append(told == number), same.append(person == persons), random.append(at_random), wanted.append(persons)
        asked[number] = bboxes[both & ~at_random]
    right, same, random, off = map(np.concatenate, (right, same, random, off))
    figures = {
        "crops": len(same),
        "of nobody": int((np.concatenate(wanted) < 0).sum()),
        "number right, %": 100 * right.mean(),
        "same person, %": 100 * same[~random].mean(),
        "at random places, %": 100 * same[random].mean(),
        "joints off, % of size": 100 * np.sqrt(np.nanmean(off**2)),
        "99th percentile": 100 * np.nanpercentile(off, 99),
        "scores off": np.percentile(np.concatenate(scores_off), 99),
        "boxes off, px": max(box_px),
    }
    return figures | (_check_sdk(python, sights, asked) if python else {})


def _check_sdk(python: str, sights: Sights, asked: dict[int, np.ndarray]) -> dict[str, float]:
    """Return the same figures for the SDK's own detector and pose detector, shown whole frames and boxes."""
    with tempfile.TemporaryDirectory() as folder:
        write_sdk_folders(Path(folder), sights)
        job = {"bboxes": {number: bboxes.tolist() for number, bboxes in asked.items() if len(bboxes)}}
        seen = _work(python, Path(folder), sights, job)
    off, box_px = [], []
    width, height = sights.scene.frame_size_wh
    for number in map(int, job["bboxes"]):
        off.append(_joints_apart(sights, number, asked[number], seen[f"keypoints{number}"][..., :2]))
        # The SDK cuts boxes at the last pixel's middle, the observer at its edge.
        wanted = np.minimum(sights.detections[number].bboxes, [width - 1, height - 1] * 2)
        box_px.append(_boxes_apart(seen[f"dets{number}"][:, :4], wanted))
    off = np.concatenate(off)
    # The SDK's crops are a pixel larger than the boxes, which can be enough to show somebody else.
    same = np.nanmedian(off, axis=1) < 0.05
    return {
        "SDK: same person, %": 100 * same.mean(),
        "SDK: joints off, % of size": 100 * np.sqrt(np.nanmean(off[same] ** 2)),
        "SDK: boxes off, px": max(box_px),
    }


def _detector_input(frame: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (1, 3, 320, 320) the frame as the detector gets it, and how many of its pixels one of the frame is."""
    import cv2

    factor = DETECTOR_INPUT / max(frame.shape[:2])
    small = cv2.resize(frame, (int(frame.shape[1] * factor + 0.5), int(frame.shape[0] * factor + 0.5)))
    image = np.zeros((DETECTOR_INPUT, DETECTOR_INPUT, 3), np.float32)
    image[: small.shape[0], : small.shape[1]] = small
    return image.transpose(2, 0, 1)[None], factor


def _boxes_apart(bboxes: np.ndarray, others: np.ndarray) -> float:
    """Return the largest difference between two sets of boxes, whatever their order; infinite if one has more."""
    if len(bboxes) != len(others):
        return np.inf
    apart = np.abs(bboxes[:, None] - others).max(axis=2, initial=0)
    return float(max(apart.min(axis=0).max(initial=0), apart.min(axis=1).max(initial=0))) if len(others) else 0.0


def _joints_apart(sights: Sights, frame: int, bboxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (M, 17) how far joints are from where the observer sees them, in his person's size; NaN beyond the crop."""
    keypoints, scores = sights.poses(frame, bboxes)
    truth = sights.scene.frames[frame].bboxes[sights.persons(frame, bboxes)]
    size = np.sqrt((truth[:, 2:] - truth[:, :2]).prod(axis=1))
    off = np.linalg.norm(points - keypoints, axis=2) / size[:, None]
    return np.where(scores == np.float32(0.1), np.nan, off)


def main() -> None:
    """Check the networks, or be the worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the networks with the observer")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared", help="folder of development data")
    parser.add_argument("--sequences", nargs="+", default=None, help="names as in data/tracking/mot_gt; default: all")
    parser.add_argument("--frames", type=int, default=40, help="of every sequence")
    parser.add_argument("--mmdeploy", help="interpreter of the environment with mmdeploy-runtime")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    if not options.check:
        parser.error("nothing to do; --check compares the networks with the observer")
    import world

    noise = replace(world.MODERATE, joint=0)
    lines = []
    for scene in world.load_scenes(options.shared, names=options.sequences):
        figures = check(world.Sights(scene, noise), frames=options.frames, python=options.mmdeploy)
        if not lines:
            lines = [f"| sequence | {' | '.join(figures)} |", "|---|" + "---|" * len(figures)]
            print("\n".join(lines))
        print(f"| {scene.name} | {' | '.join(f'{value:.6g}' for value in figures.values())} |", flush=True)


if __name__ == "__main__":
    main()
