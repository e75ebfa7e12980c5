"""What FP16 and INT8 cost in accuracy: AP on coco_val_dev of one detector and one pose network, side by side.

    python benchmarks/export/precision_accuracy.py [--shared ../shared] [--tasks detection pose] [--detector FILE] [--pose FILE]

Every file is exported as a user would (``rtmpose_infer.export.export``, parity gate included) and measured through
``PersonDetector`` and ``PoseEstimator`` on ONNX Runtime. Detectors: COCO's box AP over all boxes scoring 0.05 or more.
Pose networks: COCO's keypoint AP with ground-truth boxes. INT8 is calibrated on pictures of other sources: video frames
and training pictures for the detector, training crops for the pose network.

The aims: FP16 costs at most 0.1 AP, INT8 at most 1.0. The exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from rtmpose_infer import PersonDetector, PoseEstimator
from rtmpose_infer.export import ExportOptions, export

ALLOWED_LOSS = {"fp32": 0.0, "fp16": 0.1, "int8": 1.0}
VIDEOS = ("intel_one-by-one-person-detection.mp4", "supervision_walking.mp4", "lighttrack_video.mp4")


def main() -> int:
    arguments = parse()
    logging.basicConfig(level=logging.ERROR)
    data = arguments.shared / "data"
    folder = data / "coco_val_dev"
    with quiet():
        truth = COCO(str(folder / "person_keypoints.json"))
    rows = []
    with tempfile.TemporaryDirectory() as made:
        scenes = calibration_scenes(data, Path(made) / "scenes")
        for task, source, calibration in (
            ("detection", arguments.detector, scenes),
            ("pose", arguments.pose, data / "pose_train" / "crops"),
        ):
            for precision in arguments.precisions if task in arguments.tasks else ():
                output = Path(made) / f"{task}_{precision}.onnx"
                options = ExportOptions(precision=precision, calibration=calibration if precision == "int8" else None)
                report = export(source, output, options)
                found = detections(output, truth, folder) if task == "detection" else poses(output, truth, folder)
                ap = average_precision(truth, found, "bbox" if task == "detection" else "keypoints")
                row = {
                    "model": source.name,
                    "precision": precision,
                    "ap": round(100 * ap[0], 2),
                    "ap50": round(100 * ap[1], 2),
                    "ap75": round(100 * ap[2], 2),
                    "megabytes": round(output.stat().st_size / 1e6, 2),
                    "p99_px": report.parity[-1].p99_px if report.parity else None,
                    "notes": "; ".join(report.notes),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    return verdict(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    parser.add_argument("--tasks", nargs="+", choices=("detection", "pose"), default=["detection", "pose"])
    parser.add_argument("--detector", type=Path, help="Default: the raw RTMDet-nano among the development models.")
    parser.add_argument("--pose", type=Path, help="Default: the stand-in pose network among them.")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"])
    arguments = parser.parse_args()
    arguments.detector = arguments.detector or arguments.shared / "models" / "rtmdet_nano_person_640_raw.onnx"
    arguments.pose = arguments.pose or arguments.shared / "models" / "tinypose_coco17_256x192_simcc.onnx"
    return arguments


def calibration_scenes(data: Path, folder: Path) -> Path:
    """Write a few frames of each video and some training pictures into ``folder`` and return it."""
    folder.mkdir()
    for name in VIDEOS:
        video = cv2.VideoCapture(str(data / "videos" / name))
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        for index in np.linspace(0, count - 2, 20).astype(int):
            video.set(cv2.CAP_PROP_POS_FRAMES, int(index))
            read, frame = video.read()
            if read:
                cv2.imwrite(str(folder / f"{Path(name).stem}_{index}.png"), frame)
    for path in sorted((data / "person_boxes_train" / "images").iterdir())[::150]:
        cv2.imwrite(str(folder / f"{path.stem}.png"), cv2.imread(str(path)))
    return folder


def detections(model: Path, truth: COCO, folder: Path) -> list[dict[str, object]]:
    found = []
    with PersonDetector(model, backend="onnxruntime", score_threshold=0.05) as detector:
        for key, picture in truth.imgs.items():
            people = detector.predict(cv2.imread(str(folder / "images" / picture["file_name"])))
            for (x0, y0, x1, y1), score in zip(people.bboxes.tolist(), people.scores.tolist(), strict=True):
                box = [x0, y0, x1 - x0, y1 - y0]
                found.append({"image_id": key, "category_id": 1, "bbox": box, "score": score})
    return found


def poses(model: Path, truth: COCO, folder: Path) -> list[dict[str, object]]:
    found = []
    with PoseEstimator(model, backend="onnxruntime") as estimator:
        for key, picture in truth.imgs.items():
            annotations = truth.loadAnns(truth.getAnnIds(imgIds=[key]))
            boxes = [a["bbox"] for a in annotations if not a.get("iscrowd") and a["num_keypoints"]]
            if not boxes:
                continue
            frame = cv2.imread(str(folder / "images" / picture["file_name"]))
            people = estimator.predict(frame, np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], np.float32))
            for keypoints, scores in zip(np.nan_to_num(people.keypoints), people.keypoint_scores, strict=True):
                flat = np.concatenate([keypoints, np.ones((len(scores), 1))], axis=1).reshape(-1).astype(float)
                sure = scores[scores > 0.2]
                score = float(sure.mean()) if len(sure) else 0.0
                found.append({"image_id": key, "category_id": 1, "keypoints": flat.tolist(), "score": score})
    return found


def average_precision(truth: COCO, found: list[dict[str, object]], kind: str) -> np.ndarray:
    with quiet():
        evaluation = COCOeval_faster(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


def quiet() -> contextlib.AbstractContextManager[object]:
    return contextlib.redirect_stdout(io.StringIO())


def verdict(rows: list[dict[str, object]]) -> int:
    missed = False
    for row in rows:
        base = next((r for r in rows if r["model"] == row["model"] and r["precision"] == "fp32"), None)
        if base is not None:
            loss = float(base["ap"]) - float(row["ap"])  # type: ignore[arg-type]
            allowed = ALLOWED_LOSS[str(row["precision"])]
            missed |= loss > allowed
            print(f"{row['model']} {row['precision']}: {row['ap']} AP, {loss:+.2f} lost (allowed {allowed})")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
