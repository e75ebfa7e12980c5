"""Measure the exported files as a user runs them: through the package's detector and estimator, on ONNX Runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from data import CHECKOUT
from evaluate import average_precision, load_truth, tall_recall

from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.estimator import PoseEstimator

SCORE_THRESHOLD = 0.3
LEAST_SCORE = 0.05


def pose_results(image_id: int, pose: PoseEstimator, frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> list:
    """Return COCO keypoint results of the persons in `boxes`; a pose's score is multiplied by its box's."""
    if not len(boxes):
        return []
    poses = pose.predict(frame, bboxes_xyxy=boxes)
    return [
        {
            "image_id": image_id,
            "category_id": 1,
            "keypoints": np.column_stack([np.nan_to_num(points), joint_scores]).astype(float).ravel().tolist(),
            "score": float(own_score * score),
        }
        for points, joint_scores, own_score, score in zip(
            poses.keypoints, poses.keypoint_scores, poses.scores, scores, strict=True
        )
    ]


def main() -> None:
    """Print keypoint AP on ground-truth boxes and end to end, box AP50 and the recall of tall persons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=CHECKOUT.parent / "shared")
    parser.add_argument("--detector", type=Path, default=CHECKOUT / "models" / "embedded" / "embedded-detector.onnx")
    parser.add_argument("--pose", type=Path, default=CHECKOUT / "models" / "embedded" / "embedded-pose.onnx")
    parser.add_argument("--flip-test", action=argparse.BooleanOptionalAction, help="default: as the file says")
    options = parser.parse_args()
    folder = options.shared / "data" / "coco_val_dev"
    truth = load_truth(folder / "person_keypoints.json")
    with (
        PersonDetector(options.detector, score_threshold=LEAST_SCORE) as detector,
        PoseEstimator(options.pose, **({} if options.flip_test is None else {"flip_test": options.flip_test})) as pose,
    ):
        boxes, given, whole, all_boxes = [], [], [], []
        for record in truth.imgs.values():
            image_id = record["id"]
            frame = cv2.imread(str(folder / "images" / record["file_name"]))
            annotated = [
                a["bbox"]
                for a in truth.dataset["annotations"]
                if a["image_id"] == image_id and not a.get("iscrowd", 0) and a["num_keypoints"] > 0
            ]
            persons = np.array(annotated, np.float32).reshape(-1, 4)
            persons[:, 2:] += persons[:, :2]
            given += pose_results(image_id, pose, frame, persons, np.ones(len(persons)))
            found = detector.predict(frame)
            boxes += [
                {
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [float(v) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "score": float(score),
                }
                for (x0, y0, x1, y1), score in zip(found.bboxes, found.scores, strict=True)
            ]
            in_boxes = pose_results(image_id, pose, frame, found.bboxes, found.scores)
            all_boxes += in_boxes
            whole += [dict(r) for r, score in zip(in_boxes, found.scores, strict=True) if score > SCORE_THRESHOLD]
    for name, results, kind in (
        ("pose, ground-truth boxes", given, "keypoints"),
        (f"pose, detected boxes above {SCORE_THRESHOLD}", whole, "keypoints"),
        (f"pose, detected boxes above {LEAST_SCORE}", all_boxes, "keypoints"),
        ("boxes", boxes, "bbox"),
    ):
        ap, ap50, ap75 = average_precision(truth, results, kind)[:3]
        print(f"{name}: AP {ap:.3f} AP50 {ap50:.3f} AP75 {ap75:.3f}")
    print(f"recall of tall persons at score {SCORE_THRESHOLD}: {tall_recall(truth, boxes):.3f}")


if __name__ == "__main__":
    main()
