"""The trackers on a real video with real networks: detector calls, ids and how long they last.

    python benchmarks/tracking/real_video.py VIDEO [--mmdeploy ENV/bin/python] [--frames 300]

There is no truth here, so the figures only say how steady the ids are: how many were given out, and for how many frames the
median one was shown. ``--mmdeploy`` names an environment with mmdeploy-runtime 1.3.1 and a numpy below 2; its C++ PoseTracker
then sees the same frames through the same networks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared"
WORKER = """
import json, sys
import mmdeploy_runtime, numpy as np
frames, detector, pose, sigmas = sys.argv[1:]
tracker = mmdeploy_runtime.PoseTracker(detector, pose, "cpu")
state = tracker.create_state(det_interval=5, keypoint_sigmas=np.array(json.loads(sigmas), np.float32))
print(json.dumps([np.asarray(tracker(state, frame)[2]).astype(int).tolist() for frame in np.load(frames)]))
"""


def ours(
    frames: np.ndarray, fps: float, detector: Path, pose: Path, det_interval: int | str
) -> tuple[list[list[int]], int]:
    """Return the ids of every frame, and how often the detector ran."""
    from rtmpose_infer import PosePipeline, PoseTracker

    calls = 0
    with PosePipeline(detector=detector, pose=pose) as pipeline:
        detect = pipeline.detector.predict_batch

        def counted(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            return detect(*arguments, **options)

        pipeline.detector.predict_batch = counted
        tracker = PoseTracker(pipeline, det_interval=det_interval)
        ids = [tracker(frame, timestamp_s=i / fps).track_ids.tolist() for i, frame in enumerate(frames)]
    return ids, calls


def mmdeploy(python: str, frames: np.ndarray, detector: Path, pose: Path) -> list[list[int]]:
    """Return the ids of every frame as MMDeploy's C++ PoseTracker gives them."""
    sys.path.insert(0, str(HERE.parent / "peers"))
    from networks import write_sdk_folder

    from rtmpose_infer.skeletons import load_skeleton

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sdk_folder(root / "detector", detector, task="detection")
        write_sdk_folder(root / "pose", pose, task="pose")
        np.save(root / "frames.npy", frames)
        sigmas = json.dumps(load_skeleton("coco17").oks_sigmas.tolist())
        arguments = [str(root / name) for name in ("frames.npy", "detector", "pose")]
        answer = subprocess.run([python, "-c", WORKER, *arguments, sigmas], check=True, capture_output=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--mmdeploy", help="interpreter of the environment with mmdeploy-runtime")
    parser.add_argument("--detector", type=Path, default=SHARED / "models" / "rtmdet_nano_person_320.onnx")
    parser.add_argument("--pose", type=Path, default=SHARED / "models" / "tinypose_coco17_256x192_simcc.onnx")
    options = parser.parse_args()
    frames, fps = read(options.video, options.frames)
    results = {}
    for interval in (5, "auto"):
        results[f"rtmpose_infer, {interval}"] = ours(frames, fps, options.detector, options.pose, interval)
    if options.mmdeploy:
        ids = mmdeploy(options.mmdeploy, frames, options.detector, options.pose)
        results["MMDeploy C++, 5"] = ids, (len(frames) + 4) // 5
    print(f"{options.video.name}, {len(frames)} frames\n")
    print(
        "| tracker, interval | detector calls | people a frame | ids | frames of the median id | frames with one id twice |"
    )
    print("|---|---|---|---|---|---|")
    for name, (ids, calls) in results.items():
        shown = Counter(i for frame in ids for i in frame)
        twice = sum(len(set(frame)) < len(frame) for frame in ids)
        people = sum(map(len, ids)) / len(ids)
        print(
            f"| {name} | {calls} | {people:.2f} | {len(shown)} | {np.median([*shown.values()] or [0]):.0f} | {twice} |"
        )


def read(path: Path, count: int) -> tuple[np.ndarray, float]:
    """Return the first frames of a video and its frame rate."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    frames = []
    while len(frames) < count:
        fine, frame = capture.read()
        if not fine:
            break
        frames.append(frame)
    return np.stack(frames), capture.get(cv2.CAP_PROP_FPS) or 30.0


if __name__ == "__main__":
    main()
