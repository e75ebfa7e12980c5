"""What BF16 costs in accuracy: OKS-AP and moved joints against float32, on photographs with annotated people.

    python benchmarks/low_precision.py --annotations people.json --images FOLDER [--pose FILE] [--detector FILE]

The networks are the embedded ones unless named. OpenVINO computes both in ``f32``; the pose network in BF16 (``auto``);
both in ``bf16``, where we keep float32 behind the last convolution; and ``device``, which on a processor with BF16 is
BF16 throughout. Elsewhere this says so and ends. Displacements are in pixels of the network's input, of joints that
float32 scores above 0.3.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from rtmpose_infer import PersonDetector, PoseEstimator, Poses
from rtmpose_infer.backends import BackendConfig
from rtmpose_infer.evaluation.pose import load_annotations, pose_report
from rtmpose_infer.geometry import crop_transform
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE

PRECISIONS = ("f32", "auto", "bf16", "device")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO keypoints")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--pose", default=DEFAULT_POSE)
    parser.add_argument("--detector", default=DEFAULT_DETECTOR)
    options = parser.parse_args()
    people = load_annotations(options.annotations)
    frames = {image: cv2.imread(str(options.images / name)) for image, name in people.images.items()}
    reference: dict[int, Poses] = {}
    for precision in PRECISIONS:
        how = {"backend": "openvino", "backend_config": BackendConfig(options={"precision": precision})}
        with PoseEstimator(options.pose, **how) as estimate, PersonDetector(options.detector, **how) as detect:
            real = estimate.describe().precision
            if precision == "auto" and real != "bf16":
                sys.exit(f"this processor computes in {real}")
            annotated = {image: estimate.predict(frame, people.boxes[image]) for image, frame in frames.items()}
            found = {}
            for image, frame in frames.items():
                boxes = detect.predict(frame)
                found[image] = estimate.predict(frame, boxes.bboxes, bbox_scores=boxes.scores)
            reference = reference or annotated
            moved = []
            for image, exact in reference.items():
                scale = crop_transform(exact.bboxes, estimate.spec.input_size_wh, padding=estimate.spec.padding)
                apart = np.linalg.norm(annotated[image].keypoints - exact.keypoints, axis=2)
                apart *= scale.matrices()[:, 0, 0][:, None]
                moved.append(apart[exact.keypoint_scores > 0.3])
        apart = np.concatenate(moved)
        p90, p99 = np.quantile(apart, (0.9, 0.99))
        print(
            f"{precision:6} OKS-AP {pose_report(people, annotated).figures.ap:.4f} in annotated boxes, "
            f"{pose_report(people, found).figures.ap:.4f} in detected ones; joints moved {(apart > 0.01).mean():.1%}, "
            f"90th percentile {p90:.2f} px, 99th {p99:.2f} px"
        )


if __name__ == "__main__":
    main()
