"""The networks of the comparison: RTMPose-t, -s or -m from the exporter, and the RTMDet-nano detector, both pinned.

Speed does not depend on what the weights are, but tracking does: a random network sees nobody. So the answers are
pinned inside the graphs: every network computes all it computes, and its answer is multiplied by zero and added to a
fixed one (N boxes; a standing person in the middle of the crop). All systems then do the same network calls and see the
same people. Weights are drawn from the tensors' names; denormal numbers do not occur.
"""

from __future__ import annotations

import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from rtmpose_infer.export import ExportOptions, export
from rtmpose_infer.export.networks.rtmpose import RTMPose
from rtmpose_infer.skeletons import load_skeleton

SIZES = {"t": (0.167, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75)}  # depth and width factors of CSPNeXt
INPUT_WH = (192, 256)
# A standing person, in shares of the person's box: x, y of the 17 COCO joints.
STANDING = np.array(
    [
        [0.50, 0.06], [0.54, 0.04], [0.46, 0.04], [0.60, 0.06], [0.40, 0.06], [0.72, 0.20], [0.28, 0.20], [0.86, 0.36],
        [0.14, 0.36], [0.92, 0.50], [0.08, 0.50], [0.64, 0.52], [0.36, 0.52], [0.66, 0.74], [0.34, 0.74], [0.68, 0.96],
        [0.32, 0.96],
    ]
)  # fmt: skip


def prepare(folder: Path, size: str, people: int, detector: Path) -> dict:
    """Write all networks for one cell of the table where they are missing; return their paths by what they are for."""
    raw, pinned, deploy = folder / f"{size}_raw.onnx", folder / f"{size}.onnx", folder / f"{size}_deploy.onnx"
    converts = importlib.util.find_spec("ncnn") is not None and importlib.util.find_spec("pnnx") is not None
    if not deploy.exists():
        checkpoint = folder / f"{size}.pth"
        write_checkpoint(size, checkpoint)
        # Weights that were never trained have no confident joints to compare; their parity is the tests' business.
        export(checkpoint, raw, ExportOptions(raw=True, parity_limit_px=float("inf")))
        pin_pose(raw, pinned)
        write_sdk_folder(folder / f"{size}_sdk", pinned, task="pose")
        if converts:
            export(pinned, folder / f"{size}.param", ExportOptions(skeleton="coco17"))
        export(pinned, deploy, ExportOptions(skeleton="coco17"))
    boxes, frames_file = folder / f"detector{people}.onnx", folder / f"frames{people}.npy"
    if not frames_file.exists():
        pin_detector(detector, boxes, people)
        write_sdk_folder(folder / f"detector{people}_sdk", boxes, task="detection")
        np.save(frames_file, np.stack(frames(20, people)))
    ncnn = folder / f"{size}.param"
    return {
        "detector": str(boxes),
        "detector_sdk": str(folder / f"detector{people}_sdk"),
        "pose": str(pinned),
        "pose_deploy": str(deploy),
        "pose_ncnn": str(ncnn) if ncnn.exists() else None,
        "pose_sdk": str(folder / f"{size}_sdk"),
        "frames": str(frames_file),
        "sigmas": [float(s) for s in load_skeleton("coco17").oks_sigmas],
    }


def frame_boxes(people: int, frame_wh: tuple[int, int] = (1280, 720)) -> np.ndarray:
    """Return (N, 4) boxes x1 y1 x2 y2 of people standing in rows, all of one size, none overlapping."""
    columns = min(people, 8)
    rows = -(-people // columns)
    width, height = frame_wh[0] / columns, frame_wh[1] / rows
    box_height = min(height * 0.8, width * 0.8 * 2.2)
    box_width = box_height / 2.2
    centers = [((i % columns + 0.5) * width, (i // columns + 0.5) * height) for i in range(people)]
    return np.array(
        [[x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2] for x, y in centers], np.float32
    )


def frames(count: int, people: int, frame_wh: tuple[int, int] = (1280, 720)) -> list[np.ndarray]:
    """Return frames (H, W, 3) uint8 of a slowly changing texture."""
    rng = np.random.default_rng(people)
    small = rng.integers(0, 256, (45, 80, 3)).astype(np.float32)
    import cv2

    texture = cv2.resize(small, frame_wh, interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    return [np.roll(texture, 3 * i, axis=1) for i in range(count)]


def write_checkpoint(size: str, path: Path) -> None:
    """Write an RTMPose checkpoint of that size with weights drawn from the tensors' names."""
    depth, width = SIZES[size]
    network = RTMPose(deepen_factor=depth, widen_factor=width, num_keypoints=17, input_size_wh=INPUT_WH)
    state = {name: _drawn(name, tensor) for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, path)


def _drawn(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    shape = tuple(tensor.shape)
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        values = 1 + 0.1 * np.abs(values)
    elif last == "running_mean":
        values = 0.1 * values
    elif last == "bias":
        values = 0.05 * values
    elif len(shape) >= 2:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = 1 + 0.1 * values
    return torch.from_numpy(np.asarray(values, np.float32).reshape(shape))


def pin_pose(raw: Path, pinned: Path) -> None:
    """Make a raw pose network (``simcc_x``, ``simcc_y``) see a standing person in every crop."""
    width, height = INPUT_WH
    # The peers follow a person in 1.25 times the joints' extent. With joints over 0.8 of the box that is the box again;
    # with any other share it would grow or shrink from frame to frame, and they would lose or double people.
    places = (STANDING - STANDING.min(axis=0)) / np.ptp(STANDING, axis=0) - 0.5
    # A crop is the box times 1.25 at aspect 3:4; the boxes here are higher than that, so the height decides.
    joints = 0.8 * places * np.array([height / 1.25 / 2.2, height / 1.25]) + np.array([width, height]) / 2
    answers = {}
    for name, axis, bins in (("simcc_x", 0, 2 * width), ("simcc_y", 1, 2 * height)):
        offsets = np.arange(bins)[None] - 2 * joints[:, axis : axis + 1]
        answers[name] = (0.8 * np.exp(-(offsets**2) / 72)).astype(np.float32)[None]
    _pin(raw, pinned, answers)


def pin_detector(model: Path, pinned: Path, people: int) -> None:
    """Make a detector with NMS in the graph (``dets``, ``labels``) see the people of ``frame_boxes`` at 320×320."""
    boxes = frame_boxes(people) * 320 / 1280
    dets = np.concatenate([boxes, np.full((people, 1), 0.9, np.float32)], axis=1)
    _pin(model, pinned, {"dets": dets[None].astype(np.float32), "labels": np.zeros((1, people), np.int64)})


def _pin(source: Path, target: Path, answers: dict[str, np.ndarray]) -> None:
    model = onnx.load(source)
    graph = model.graph
    for name, answer in answers.items():
        inner = f"{name}_computed"
        for node in graph.node:
            node.output[:] = [inner if o == name else o for o in node.output]
            node.input[:] = [inner if i == name else i for i in node.input]
        integer = answer.dtype == np.int64
        kind = TensorProto.INT64 if integer else TensorProto.FLOAT
        graph.initializer.append(numpy_helper.from_array(answer, f"{name}_answer"))
        graph.initializer.append(numpy_helper.from_array(np.zeros((), answer.dtype), f"{name}_zero"))
        shape = {"dets": "sum", "labels": "sum"}.get(name)
        if shape:  # any number of rows becomes the fixed ones
            graph.node.append(helper.make_node("ReduceSum", [inner], [f"{name}_sum"], keepdims=0))
            inner = f"{name}_sum"
        graph.node.append(helper.make_node("Mul", [inner, f"{name}_zero"], [f"{name}_nothing"]))
        graph.node.append(helper.make_node("Add", [f"{name}_nothing", f"{name}_answer"], [name]))
        output = next(o for o in graph.output if o.name == name)
        dims = [None if name.startswith("simcc") else 1, *answer.shape[1:]]
        output.CopyFrom(helper.make_tensor_value_info(name, kind, dims))
    onnx.save(model, target)


def write_sdk_folder(folder: Path, model: Path, *, task: str) -> None:
    """Write what MMDeploy's SDK reads: the model and the three JSON files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "end2end.onnx").write_bytes(model.read_bytes())
    name = "rtmdet" if task == "detection" else "rtmpose"
    if task == "detection":
        transforms = [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "size": [320, 320], "keep_ratio": True},
            {"type": "Pad", "size": [320, 320], "pad_val": {"img": [114, 114, 114]}},
            {"type": "Normalize", "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395], "to_rgb": False},
            {"type": "DefaultFormatBundle"},
            {"type": "Collect", "keys": ["img"], "meta_keys": _META_KEYS},
        ]
        post = {
            "type": "Task", "module": "mmdet", "name": "postprocess", "component": "ResizeBBox",
            "params": {"score_thr": 0.3, "min_bbox_size": 0, "nms": {"type": "nms", "iou_threshold": 0.6}},
        }  # fmt: skip
    else:
        transforms = [
            {"type": "LoadImageFromFile"},
            {"type": "TopDownGetBboxCenterScale", "padding": 1.25, "image_size": list(INPUT_WH)},
            {"type": "TopDownAffine", "image_size": list(INPUT_WH)},
            {"type": "Normalize", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True},
            {"type": "ImageToTensor", "keys": ["img"]},
            {"type": "Collect", "keys": ["img"], "meta_keys": _META_KEYS},
        ]
        post = {
            "type": "Task", "module": "mmpose", "name": "postprocess", "component": "SimCCLabelDecode",
            "params": {"flip_test": False, "type": "SimCCLabel", "input_size": list(INPUT_WH), "simcc_split_ratio": 2.0,
                       "sigma": [4.9, 5.66], "normalize": False, "use_dark": False},
        }  # fmt: skip
    pipeline = {
        "pipeline": {
            "input": ["img"],
            "output": ["post_output"],
            "tasks": [
                {"type": "Task", "module": "Transform", "name": "Preprocess", "input": ["img"],
                 "output": ["prep_output"], "transforms": transforms},
                {"name": name, "type": "Task", "module": "Net", "is_batched": True, "input": ["prep_output"],
                 "output": ["infer_output"], "input_map": {"img": "input"}, "output_map": {}},
                post | {"input": ["prep_output", "infer_output"], "output": ["post_output"]},
            ],
        }
    }  # fmt: skip
    entry = {"name": name, "net": "end2end.onnx", "weights": "", "backend": "onnxruntime", "precision": "FP32",
             "batch_size": 1, "dynamic_shape": task == "detection"}  # fmt: skip
    deploy = {"version": "1.3.1", "task": "Detector" if task == "detection" else "PoseDetector", "models": [entry],
              "customs": []}  # fmt: skip
    detail = {"version": "1.3.1", "codebase": {"task": "x", "codebase": "mmpose", "version": "1.3.2"}}
    if task != "detection":
        detail["keypoint_sigmas"] = [float(s) for s in load_skeleton("coco17").oks_sigmas]
    for file, content in (("pipeline.json", pipeline), ("deploy.json", deploy), ("detail.json", detail)):
        (folder / file).write_text(json.dumps(content, indent=1), encoding="utf-8")


_META_KEYS = [
    "filename", "ori_filename", "ori_shape", "img_shape", "pad_shape", "scale_factor", "img_norm_cfg", "center",
    "scale", "bbox", "flip_pairs", "valid_ratio",
]  # fmt: skip
