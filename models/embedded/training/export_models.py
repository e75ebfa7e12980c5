"""Write the trained networks as the package embeds them: deploy graphs with weights in half precision, and for ncnn.

The weights are stored as float16 behind a cast to float32: runtimes fold the casts when they load the file, so the
arithmetic and its speed are those of float32 while the file is half as large. The files for ncnn, which reads no ONNX, are
made of these and belong to them; `pnnx` makes them. The pose network carries how likely joints of a score are right, fitted
on the validation pictures, from which it learnt nothing else.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
from common import load_compact
from data import CHECKOUT, PADDING
from onnx import TensorProto, helper, numpy_helper

from rtmpose_infer.estimator import PoseEstimator
from rtmpose_infer.evaluation.calibration import calibration_samples, fit_calibration, write_calibrated
from rtmpose_infer.evaluation.pose import load_annotations
from rtmpose_infer.export.architecture import read_architecture
from rtmpose_infer.export.deploy_graph import Suppression
from rtmpose_infer.export.describe import describe_network
from rtmpose_infer.export.ncnn import ncnn_from_onnx
from rtmpose_infer.export.onnx_writer import GraphForm, write_network
from rtmpose_infer.model_spec import load_model_file
from rtmpose_infer.skeletons import load_skeleton

DEPLOYED = "deployed."
SMALLEST_STORED_HALF = 64
SUPPRESSION = Suppression(score_threshold=0.05, iou_threshold=0.6)
# Most pictures and nearly all videos are wider than high: a quarter to a half of a square would be padding.
DETECTOR_WH = (416, 320)


def stored_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its larger float32 weights stored as float16 and cast back."""
    kept, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST_STORED_HALF:
            kept.append(tensor)
            continue
        stored = f"{tensor.name}_half"
        kept.append(numpy_helper.from_array(values.astype(np.float16), stored))
        cast = helper.make_node("Cast", [stored], [tensor.name], name=f"{tensor.name}_cast", to=TensorProto.FLOAT)
        casts.append(cast)
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model, full_check=True)
    return model


def calibrate(pose: Path, folder: Path) -> None:
    """Store in a pose network how likely its joints are right, from pictures that it was not trained on."""
    truth = load_annotations(folder / "person_keypoints.json")
    with PoseEstimator(pose, backend="onnxruntime") as estimator:
        poses = {
            image_id: estimator.predict(cv2.imread(str(folder / "images" / name)), truth.boxes[image_id])
            for image_id, name in truth.images.items()
        }
    write_calibrated(load_model_file(pose, task="pose"), fit_calibration(calibration_samples(truth, poses)), pose)


def export(checkpoint: Path, target: Path, validation: Path) -> None:
    """Write one network; what it is stands in its tensors."""
    weights = load_compact(checkpoint)
    if any(name.startswith(DEPLOYED) for name in weights):
        weights = {name.removeprefix(DEPLOYED): w for name, w in weights.items() if name.startswith(DEPLOYED)}
    pose = any(name.startswith("head.cls_x") for name in weights)
    architecture = read_architecture(weights, {}, input_size_wh=None if pose else DETECTOR_WH)
    network = architecture.build()
    network.load_state_dict(weights)
    spec, _ = describe_network(
        architecture,
        {},
        {},
        skeleton=load_skeleton("coco17") if pose else None,
        class_names=None if pose else ("person",),
        padding=PADDING if pose else None,
    )
    spec = replace(spec, flip_test=pose)  # worth three points of AP, and still less work than RTMPose-t
    form = GraphForm(suppression=None if pose else SUPPRESSION, vectors=pose)  # vectors are what a flip test averages
    model, _ = write_network(network, architecture, spec, form)
    onnx.save(stored_in_half(model), str(target))
    if pose:
        calibrate(target, validation)
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB, input {spec.input_size_wh}")
    converted = ncnn_from_onnx(target, target.with_suffix(".param"), task=architecture.task)
    print(f"{converted.weights.name}: {converted.weights.stat().st_size / 1e6:.2f} MB, {converted.spec.parity}")


def main() -> None:
    """Export both networks from the compact checkpoints."""
    here = CHECKOUT / "models" / "embedded"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=here / "training" / "checkpoints")
    parser.add_argument("--out", type=Path, default=here)
    parser.add_argument("--shared", type=Path, default=CHECKOUT.parent / "shared")
    options = parser.parse_args()
    validation = options.shared / "data" / "coco_val_dev"
    for name in ("detector", "pose"):
        export(options.checkpoints / f"{name}.pt", options.out / f"embedded-{name}.onnx", validation)


if __name__ == "__main__":
    main()
