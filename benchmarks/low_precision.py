"""What BF16 costs in accuracy: joints and OKS-AP in BF16 against float32, on photographs with annotated boxes.

    python benchmarks/low_precision.py --pose pose.onnx --pictures FOLDER

``FOLDER`` holds ``person_keypoints.json`` in COCO's form and ``images/``. OpenVINO computes in BF16 where the processor
can; elsewhere this says so and ends. The displacements are in pixels of the network's input, of joints that float32
scores above 0.3.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from rtmpose_infer import PoseEstimator, Poses
from rtmpose_infer.backends import BackendConfig
from rtmpose_infer.geometry import crop_transform, xyxy_from_xywh


def average_precision(truth: dict, poses: dict[int, Poses]) -> float:
    """Return OKS-AP."""
    results = []
    for image, found in poses.items():
        joints = np.dstack([np.nan_to_num(found.keypoints), found.keypoint_scores])
        results += [
            {"image_id": image, "category_id": 1, "keypoints": row.ravel().tolist(), "score": float(score)}
            for row, score in zip(joints, found.scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        judge = COCOeval_faster(coco, coco.loadRes(results), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pose", required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    options = parser.parse_args()
    truth = json.loads((options.pictures / "person_keypoints.json").read_text(encoding="utf-8"))
    boxes: dict[int, list[list[float]]] = {}
    for person in truth["annotations"]:
        if not person["iscrowd"]:
            boxes.setdefault(person["image_id"], []).append(person["bbox"])
    frames = {
        image["id"]: cv2.imread(str(options.pictures / "images" / image["file_name"]))
        for image in truth["images"]
        if image["id"] in boxes
    }
    poses: dict[str, dict[int, Poses]] = {}
    for precision in ("f32", "bf16"):
        config = BackendConfig(options={"precision": precision})
        with PoseEstimator(options.pose, backend="openvino", backend_config=config) as estimator:
            real = estimator.describe().precision
            if precision == "bf16" and real != "bf16":
                sys.exit(f"this processor computes in {real}")
            poses[precision] = {i: estimator.predict(frame, xyxy_from_xywh(boxes[i])) for i, frame in frames.items()}
            size_wh, padding = estimator.spec.input_size_wh, estimator.spec.padding
    moved = []
    for image, reference in poses["f32"].items():
        scale = crop_transform(reference.bboxes, size_wh, padding=padding).matrices()[:, 0, 0]
        apart = np.linalg.norm(poses["bf16"][image].keypoints - reference.keypoints, axis=2) * scale[:, None]
        moved.append(apart[reference.keypoint_scores > 0.3])
    median, late, latest = np.quantile(np.concatenate(moved), (0.5, 0.9, 0.99))
    for precision, found in poses.items():
        print(f"{precision:5} OKS-AP {average_precision(truth, found):.4f}")
    print(f"joints moved by {median:.2f} px (median), {late:.2f} px (90th percentile), {latest:.2f} px (99th)")


if __name__ == "__main__":
    main()
