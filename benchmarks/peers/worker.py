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
    from rtmpose_infer import PoseTracker

    tracker = PoseTracker(
        detector=job["detector_deploy"],
        pose=job["pose_deploy"],
        backend=job["backend"],
        threads=job["threads"],
        det_interval=job["det_interval"],
    )
    return lambda frame: len(tracker(frame))


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
    return lambda frame: len(tracker(frame)[0])


def mmdeploy(job):
    import mmdeploy_runtime
    import numpy as np

    tracker = mmdeploy_runtime.PoseTracker(job["detector_sdk"], job["pose_sdk"], "cpu")
    sigmas = np.array(job["sigmas"], np.float32)
    state = tracker.create_state(det_interval=job["det_interval"], keypoint_sigmas=sigmas)
    return lambda frame: len(tracker(state, frame)[0])


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    if job["threads"]:
        os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    sys.path.insert(0, str(Path(__file__).parent))
    import numpy as np

    frames = list(np.load(job["frames"]))
    step = {"ours": ours, "rtmlib": rtmlib, "mmdeploy": mmdeploy}[job["system"]](job)
    versions = {
        n: _version(n) for n in ("onnxruntime", "openvino", "rtmlib", "mmdeploy-runtime", "opencv-python-headless")
    }
    print(json.dumps({"ready": job["system"], "versions": versions}), file=out, flush=True)
    at = 0
    for line in sys.stdin:
        count = int(line)
        people = 0
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
