"""How long the first frame takes to arrive, with an empty cache folder and with what an earlier run left in it.

Each start is a process of its own. A pair of starts shares a new cache folder: the first finds it empty, the second does
not; the backends take turns. Printed are the medians and the median ratio of the pairs, from the constructor of the
tracker to its first result, and in brackets from the start of the process.

    python benchmarks/first_frame.py onnxruntime openvino ncnn --pairs 7
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

START = """
import json, sys, time
detector, pose, backend, spawned = sys.argv[1:]
import numpy as np
from rtmpose_infer import PoseTracker
frame = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
start = time.perf_counter()
with PoseTracker(detector=detector, pose=pose, backend=backend) as tracker:
    tracker(frame, bboxes_xyxy=[[300, 100, 500, 600]])
    tracker.pipeline.detector.predict(frame)
    print(json.dumps([time.perf_counter() - start, time.time() - float(spawned)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="+")
    parser.add_argument("--detector", default="embedded-detector")
    parser.add_argument("--pose", default="embedded-pose")
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()
    taken = {backend: [] for backend in args.backends}
    first_result(args, args.backends[0], tempfile.gettempdir())  # compiled bytecode, and files that come off the disk
    for _ in range(args.pairs):
        for backend in args.backends:
            with tempfile.TemporaryDirectory() as folder:
                taken[backend].append([first_result(args, backend, folder) for _ in ("cold", "warm")])
    print(f"{args.detector} + {args.pose}, {args.pairs} pairs, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for backend, pairs in taken.items():
        (cold, whole_cold), (warm, whole_warm) = np.median(pairs, axis=0)
        ratio, whole = np.median(np.array(pairs)[:, 1] / np.array(pairs)[:, 0], axis=0)
        print(
            f"  {backend:12s} cold {cold:5.2f} s ({whole_cold:5.2f}), warm {warm:5.2f} s ({whole_warm:5.2f}), "
            f"warm/cold {ratio:.2f} ({whole:.2f})"
        )


def first_result(args: argparse.Namespace, backend: str, folder: str) -> list[float]:
    environment = {**os.environ, "RTMPOSE_INFER_CACHE": folder}
    command = [sys.executable, "-c", START, args.detector, args.pose, backend, str(time.time())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


if __name__ == "__main__":
    main()
