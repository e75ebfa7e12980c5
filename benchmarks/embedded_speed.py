"""How fast the embedded networks are beside RTMDet-nano and RTMPose-t: a picture's detection and one person's pose.

    python benchmarks/embedded_speed.py [--shared ../shared] [--threads 2] [--runs 60]

The pairs, the embedded one with and without its flip test, take turns, call by call, through the package's detector and
estimator on ONNX Runtime. RTMPose-t is written by the exporter with random weights, as speed does not depend on them.
Printed are medians of processor time over all threads, which a busy machine changes less than the time by the wall, and
the ratio of either.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from networks import write_checkpoint

from rtmpose_infer import PersonDetector, PoseEstimator
from rtmpose_infer.export import ExportOptions, export

BOX = np.array([[500, 100, 700, 640]], np.float32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    common = {"backend": "onnxruntime", "threads": options.threads}
    frame = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        checkpoint, pose = Path(name) / "t.pth", Path(name) / "t.onnx"
        write_checkpoint("t", checkpoint)
        # Weights that were never trained have no confident joints to compare.
        export(checkpoint, pose, ExportOptions(skeleton="coco17", parity_limit_px=float("inf")))
        pairs = {
            "embedded": (PersonDetector("embedded-detector", **common), PoseEstimator("embedded-pose", **common)),
            "embedded, no flip test": (
                PersonDetector("embedded-detector", **common),
                PoseEstimator("embedded-pose", flip_test=False, **common),
            ),
            "RTMDet-nano, RTMPose-t": (
                PersonDetector(options.shared / "models" / "rtmdet_nano_person_320.onnx", **common),
                PoseEstimator(pose, **common),
            ),
        }
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in range(options.runs + 5):
        for pair, (detector, estimator) in pairs.items():
            for stage, call in (("detector", detector.predict), ("one person", estimator.predict)):
                arguments = (frame,) if stage == "detector" else (frame, BOX)
                start = time.process_time(), time.perf_counter()
                call(*arguments)
                end = time.process_time(), time.perf_counter()
                if run >= 5:
                    spent.setdefault((pair, stage), []).append((end[0] - start[0], end[1] - start[1]))
    medians = {key: 1e3 * np.median(values, axis=0) for key, values in spent.items()}
    sums = {}
    for pair in pairs:
        detector_ms, person_ms = medians[pair, "detector"], medians[pair, "one person"]
        sums[pair] = detector_ms + person_ms
        print(
            f"{pair:<24} detector {detector_ms[0]:6.1f} ms of processor time, one person {person_ms[0]:6.1f}, together "
            f"{sums[pair][0]:6.1f} ({sums[pair][1]:.1f} by the wall)"
        )
    for pair in list(pairs)[:-1]:
        ratio = sums["RTMDet-nano, RTMPose-t"] / sums[pair]
        print(f"{pair}: {ratio[0]:.2f} times as fast by processor time, {ratio[1]:.2f} times by the wall")


if __name__ == "__main__":
    main()
