"""Model folders and archives in the layout in which OpenMMLab publishes its deployable models."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path
from typing import Any

IMAGE_SIZE = [48, 64]

POSE_PIPELINE: dict[str, Any] = {
    "pipeline": {
        "input": ["img"],
        "output": ["post_output"],
        "tasks": [
            {
                "type": "Task",
                "module": "Transform",
                "name": "Preprocess",
                "input": ["img"],
                "output": ["prep_output"],
                "transforms": [
                    {"type": "LoadImageFromFile"},
                    {"type": "TopDownGetBboxCenterScale", "padding": 1.1, "image_size": IMAGE_SIZE},
                    {"type": "TopDownAffine", "image_size": IMAGE_SIZE},
                    {"type": "Normalize", "mean": [120.0, 110.0, 100.0], "std": [50.0, 51.0, 52.0], "to_rgb": True},
                    {"type": "ImageToTensor", "keys": ["img"]},
                    {"type": "Collect", "keys": ["img"], "meta_keys": ["center", "scale"]},
                ],
            },
            {
                "name": "topdown",
                "type": "Task",
                "module": "Net",
                "is_batched": True,
                "input": ["prep_output"],
                "output": ["infer_output"],
                "input_map": {"img": "input"},
                "output_map": {},
            },
            {
                "type": "Task",
                "module": "mmpose",
                "name": "postprocess",
                "component": "SimCCLabelDecode",
                "params": {
                    "flip_test": False,
                    "type": "SimCCLabel",
                    "input_size": IMAGE_SIZE,
                    "simcc_split_ratio": 3.0,
                },
                "input": ["prep_output", "infer_output"],
                "output": ["post_output"],
            },
        ],
    }
}

DETECTION_PIPELINE: dict[str, Any] = {
    "pipeline": {
        "input": ["img"],
        "output": ["post_output"],
        "tasks": [
            {
                "type": "Task",
                "module": "Transform",
                "name": "Preprocess",
                "input": ["img"],
                "output": ["prep_output"],
                "transforms": [
                    {"type": "LoadImageFromFile", "backend_args": None},
                    {"type": "Resize", "keep_ratio": True, "size": [64, 96]},
                    {"type": "Pad", "size": [64, 96], "pad_val": {"img": [100, 100, 100]}},
                    {"type": "Normalize", "mean": [103.0, 116.0, 123.0], "std": [57.0, 57.1, 58.0], "to_rgb": False},
                    {"type": "Pad", "size_divisor": 1},
                    {"type": "DefaultFormatBundle"},
                    {"type": "Collect", "keys": ["img"], "meta_keys": ["scale_factor"]},
                ],
            },
            {"name": "rtmdet", "type": "Task", "module": "Net", "input": ["prep_output"], "output": ["infer_output"]},
            {
                "type": "Task",
                "module": "mmdet",
                "name": "postprocess",
                "component": "ResizeBBox",
                "params": {"score_thr": 0.05, "min_bbox_size": 0},
                "input": ["prep_output", "infer_output"],
                "output": ["post_output"],
            },
        ],
    }
}

DEPLOY: dict[str, Any] = {"version": "1.2.0", "task": "Detector", "models": [{"name": "m", "net": "end2end.onnx"}]}


def pose_pipeline() -> dict[str, Any]:
    """Return a pose network's pipeline.json, to be changed."""
    return copy.deepcopy(POSE_PIPELINE)


def detection_pipeline() -> dict[str, Any]:
    """Return a detector's pipeline.json, to be changed."""
    return copy.deepcopy(DETECTION_PIPELINE)


def transform(pipeline: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the first transform of that type, to be changed in place."""
    transforms = pipeline["pipeline"]["tasks"][0]["transforms"]
    found: dict[str, Any] = next(t for t in transforms if t["type"] == kind)
    return found


def write_sdk_folder(folder: Path, network: bytes, pipeline: Any) -> Path:
    """Write an SDK folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "end2end.onnx").write_bytes(network)
    (folder / "deploy.json").write_text(json.dumps(DEPLOY))
    (folder / "detail.json").write_text(json.dumps({"codebase": "mmpose"}))
    (folder / "pipeline.json").write_text(json.dumps(pipeline))
    return folder


def sdk_archive(network: bytes, pipeline: Any, *, prefix: str = "20230831/rtmpose_onnx/rtmpose-m/") -> bytes:
    """Return an SDK folder as the zip archive in which it is published."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(prefix + "end2end.onnx", network)
        archive.writestr(prefix + "deploy.json", json.dumps(DEPLOY))
        archive.writestr(prefix + "detail.json", "{}")
        archive.writestr(prefix + "pipeline.json", json.dumps(pipeline))
    return buffer.getvalue()
