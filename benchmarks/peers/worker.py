"""One system of the comparison in a process of its own: says ready, then runs frames on command and says the seconds.

Protocol: a JSON line with the settings comes in; ``{"ready": …}`` goes out; each further line is a number of frames,
and the answer is ``{"seconds": …, "people": …}``. Everything the system itself prints goes to the standard error.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def ours(job):
    from rtmpose_infer import PersonDetector, PoseEstimator, PosePipeline, PoseTracker
    from rtmpose_infer.backends import BackendConfig

    backend, _, precision = job["backend"].partition(" ")
    options = {"precision": precision} if precision else {}
    common = {"backend": backend, "backend_config": BackendConfig(threads=job["threads"], options=options)}
    if backend == "ncnn":  # has no suppression, so the pinned detector stays with ONNX Runtime
        pipeline = PosePipeline(
            detector=PersonDetector(job["detector"], backend="onnxruntime", threads=job["threads"]),
            pose=PoseEstimator(job["pose_ncnn"], **common),
        )
    else:
        pipeline = PosePipeline(detector=job["detector"], pose=job["pose_deploy"], **common)
    tracker = PoseTracker(pipeline, det_interval=job["det_interval"])
    return lambda frame: len(tracker(frame)), tracker.reset


def rtmlib(job):
    from functools import partial

    from rtmlib import Custom, PoseTracker

    solution = partial(
        Custom,
        det_class="RTMDet",
        det=job["detector"],
        det_input_size=(320, 320),
        pose_class="RTMPose",
        pose=job["pose"],
        pose_input_size=(192, 256),
    )
    tracker = PoseTracker(solution, det_frequency=job["det_interval"], backend=job["backend"], device="cpu")
    return lambda frame: len(tracker(frame)[0]), tracker.reset


def mmdeploy(job):
    import mmdeploy_runtime
    import numpy as np

    tracker = mmdeploy_runtime.PoseTracker(job["detector_sdk"], job["pose_sdk"], "cpu")
    sigmas = np.array(job["sigmas"], np.float32)
    state = None

    def reset():
        nonlocal state
        state = tracker.create_state(det_interval=job["det_interval"], keypoint_sigmas=sigmas)

    return lambda frame: len(tracker(state, frame)[0]), reset


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    import numpy as np

    frames = list(np.load(job["frames"]))
    step, reset = {"ours": ours, "rtmlib": rtmlib, "mmdeploy": mmdeploy}[job["system"]](job)
    packages = ("onnxruntime", "openvino", "ncnn", "rtmlib", "mmdeploy-runtime", "opencv-python-headless", "numpy")
    versions = {package: version for package in packages if (version := _version(package))}
    print(json.dumps({"ready": job["system"], "versions": versions}), file=out, flush=True)
    at = 0
    for line in sys.stdin:
        count = int(line)
        people = 0
        reset()  # or pinned people would drift, by the fraction of a pixel that a system is off in every frame
        start = time.perf_counter()
        for _ in range(count):
            people += step(frames[at % len(frames)])
            at += 1
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "people": people / count}), file=out, flush=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
