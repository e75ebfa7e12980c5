"""How long the overlay takes: five people at 1080p, for each kind of skeleton.

    python benchmarks/drawing.py [--people 5] [--repeats 200]

Prints the median wall time and the median processor time of ``draw_poses`` in place; on a busy machine the second is
the one to trust. The goal is 8 ms.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import cv2
import numpy as np

from rtmpose_infer.drawing import draw_poses
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import load_skeleton


def people(skeleton_name: str, count: int) -> Poses:
    """Return people side by side with limbs of natural length: 180 pixels, 15 for fingers, loose points in a face."""
    skeleton = load_skeleton(skeleton_name)
    rng = np.random.default_rng(0)
    k = skeleton.num_keypoints
    points = np.full((count, k, 2), np.nan)
    for person in range(count):
        centre = np.array([1920 * (person + 0.5) / count, 540])
        for a, b in (*skeleton.links, *((joint, joint) for joint in range(k))):
            for start, end in ((a, b), (b, a)):
                if np.isnan(points[person, start, 0]):
                    spread, rise = (40, 300) if start == end else (0, 0)
                    points[person, start] = centre - np.array([0, rise]) + rng.uniform(-spread, spread, 2)
                if np.isnan(points[person, end, 0]):
                    is_hand = any(word in skeleton.keypoints[end] for word in ("finger", "thumb", "hand"))
                    angle = rng.uniform(0, 2 * np.pi)
                    length = 15 if is_hand else 180
                    points[person, end] = points[person, start] + length * np.array([np.cos(angle), np.sin(angle)])
    points = points.clip((0, 0), (1919, 1079))
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    scores = np.full(points.shape[:2], 0.9)
    return Poses(points, scores, boxes, np.ones(count), skeleton, track_ids=np.arange(1, count + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    frame = np.full((1080, 1920, 3), 128, np.uint8)
    report: dict[str, object] = {"people": arguments.people, "opencv": cv2.__version__, "cpu": platform.processor()}
    for name in ("coco17", "halpe26", "wholebody133"):
        poses = people(name, arguments.people)
        for colour_by in ("side", "id"):
            wall_ms, cpu_ms = [], []
            for _ in range(arguments.repeats):
                start, cpu_start = time.perf_counter(), time.thread_time()
                draw_poses(frame, poses, colour_by=colour_by, out=frame)
                cpu_ms.append((time.thread_time() - cpu_start) * 1e3)
                wall_ms.append((time.perf_counter() - start) * 1e3)
            report[f"{name} by {colour_by}"] = {
                "wall_ms": round(float(np.median(wall_ms)), 2),
                "cpu_ms": round(float(np.median(cpu_ms)), 2),
            }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
