"""How long the tracker itself takes for a frame, without the networks: ``python benchmarks/tracking/speed.py``.

People walk over a square in a frame of 1920×1080, the detector runs on every fifth frame, a tenth of its boxes are missing.
What is timed is asking whether to detect, proposing boxes and taking the poses, smoothing included.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.skeletons import load_skeleton
from rtmpose_infer.tracker import Tracker

SKELETON = load_skeleton("coco17")
FRAME_WH = (1920, 1080)


def frame_times(people: int, frames: int) -> np.ndarray:
    """Return (frames,) milliseconds that the tracker took."""
    rng = np.random.default_rng(0)
    places = rng.random((people, 17, 2)) * [0.6, 0.8] + [0.2, 0.1]
    corners = rng.random((people, 2)) * [1840, 880]
    velocities = rng.normal(0, 60, (people, 2))
    side = np.array([80, 200])
    tracker, times = Tracker(SKELETON), []
    for frame in range(frames):
        corners = corners + velocities / 30
        velocities = np.where((corners < 0) | (corners > [1840, 880]), -velocities, velocities)
        boxes = np.concatenate([corners, corners + side], axis=1).astype(np.float32)
        joints = corners[:, None] + places * side
        found = rng.random(people) > 0.1
        detections = Detections(boxes[found], np.full(found.sum(), 0.9, np.float32), np.zeros(found.sum(), np.int64))
        started = time.perf_counter()
        due = tracker.detection_due(frame / 30, FRAME_WH)
        proposals = tracker.propose(detections if due else None, timestamp_s=frame / 30, frame_size_wh=FRAME_WH)
        spent = time.perf_counter() - started
        middle = (proposals.bboxes[:, :2] + proposals.bboxes[:, 2:]) / 2
        nearest = np.abs(middle[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).sum(axis=2).argmin(axis=1)
        keypoints = (joints[nearest] + rng.normal(0, 2, (len(nearest), 17, 2))).astype(np.float32)
        poses = Poses(
            keypoints,
            np.full(keypoints.shape[:2], 0.8, np.float32),
            proposals.bboxes,
            proposals.bbox_scores,
            SKELETON,
            frame_size_wh=FRAME_WH,
        )
        started = time.perf_counter()
        tracker.update(proposals, poses, timestamp_s=frame / 30, detected=due)
        times.append(1000 * (spent + time.perf_counter() - started))
    return np.array(times)


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 5, 20, 50])
    parser.add_argument("--frames", type=int, default=300)
    options = parser.parse_args()
    print("| people | ms/frame, median | mean | 95 % |\n|---|---|---|---|")
    for people in options.people:
        times = frame_times(people, options.frames)[10:]
        print(f"| {people} | {np.median(times):.2f} | {times.mean():.2f} | {np.quantile(times, 0.95):.2f} |")


if __name__ == "__main__":
    main()
