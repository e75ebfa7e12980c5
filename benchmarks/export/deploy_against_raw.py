"""Whether the deploy graph says what the raw graph and the numpy path say, on the people of coco_val_dev.

    python benchmarks/export/deploy_against_raw.py [--shared ../shared] [--networks NAME ...]

Pose networks: every one that is recorded in ``golden`` (its weights filled by the rule written there) and the trained
stand-in, exported in both forms and run through ``PoseEstimator`` with the annotated boxes. Detectors: the published raw
RTMDet and YOLOX against what the exporter makes of them, through ``PersonDetector``. Given are how many joints and box
edges were compared, the largest difference in frame pixels, and how many differ by more than the aim of 0.001 px.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rtmpose_infer import PersonDetector, PoseEstimator  # noqa: E402
from rtmpose_infer.export import ExportOptions, export  # noqa: E402
from tests.golden.test_networks import NETWORKS, filled_state  # noqa: E402

AIM_PX = 1e-3
POSE = [name for name in NETWORKS if name.startswith(("rtmpose", "rtmw"))]
STAND_IN = "tinypose_coco17_256x192_simcc"
DETECTORS = ["rtmdet_nano_person_640_raw", "yolox_nano_coco80_416_raw"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--networks", nargs="+", default=[*DETECTORS, STAND_IN, *POSE])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    people = annotated(arguments.shared / "data" / "coco_val_dev")
    missed = 0
    for name in arguments.networks:
        with TemporaryDirectory() as folder:
            raw, deploy = both_forms(name, arguments.shared, Path(folder))
            compare = compared_boxes if name in DETECTORS else compared_joints
            differences = compare(raw, deploy, people)
        over = int((differences > AIM_PX).sum())
        missed += over
        row = {"network": name, "compared": differences.size, "max_px": float(differences.max()), "over_aim": over}
        print(json.dumps(row), flush=True)
    return int(missed > 0)


def annotated(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every picture with the boxes ``[N, 4]`` of its people."""
    truth = json.loads((folder / "person_keypoints.json").read_text())
    found = []
    for image in truth["images"]:
        boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes if w and h], np.float32).reshape(-1, 4)
        found.append((cv2.imread(str(folder / "images" / image["file_name"])), corners))
    return found


def both_forms(name: str, shared: Path, folder: Path) -> tuple[Path, Path]:
    """Return the raw file and the deploy file of a network."""
    raw, deploy = folder / "raw.onnx", folder / "deploy.onnx"
    published = shared / "models" / f"{name}.onnx"
    if published.is_file():
        export(published, deploy)
        return published, deploy
    checkpoint = folder / "network.pth"
    torch.save({"state_dict": filled_state(np.load(shared / "golden" / f"{name}.npz"))}, checkpoint)
    export(checkpoint, raw, ExportOptions(raw=True))
    export(checkpoint, deploy)
    return raw, deploy


def compared_joints(raw: Path, deploy: Path, people: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    differences = []
    with PoseEstimator(raw, backend="onnxruntime") as one, PoseEstimator(deploy, backend="onnxruntime") as other:
        for frame, boxes in people:
            ours, theirs = (e.predict(frame, boxes).keypoints for e in (one, other))
            assert np.array_equal(np.isnan(ours), np.isnan(theirs))  # the same joints are without evidence
            differences.append(np.abs(np.nan_to_num(ours) - np.nan_to_num(theirs)).max(axis=-1).ravel())
    return np.concatenate(differences)


def compared_boxes(raw: Path, deploy: Path, people: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    differences = []
    rule = {"backend": "onnxruntime", "iou_threshold": ExportOptions().suppression.iou_threshold}
    with PersonDetector(raw, **rule) as one, PersonDetector(deploy, **rule) as other:
        for frame, _ in people:
            ours, theirs = (d.predict(frame).bboxes for d in (one, other))
            assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
            differences.append(np.abs(ours - theirs).ravel())
    return np.concatenate(differences)


if __name__ == "__main__":
    sys.exit(main())
