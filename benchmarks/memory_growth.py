"""Whether a runtime's memory grows while the number of people in a call keeps changing.

Each backend has a process of its own, in which the pose network is called with 1 to 24 people: with every number once,
and then at random. Printed is the resident memory after loading, after every number was seen, and further on.

    python benchmarks/memory_growth.py onnxruntime openvino ncnn
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

MOST_PEOPLE = 24
ROUNDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="*")
    parser.add_argument("--pose", default="embedded-pose")
    parser.add_argument("--calls", type=int, default=150)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args)
        return
    for backend in args.backends:
        command = [sys.executable, *sys.argv, "--serve", backend]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded, seen, *later = json.loads(done.stdout)
        further = ", ".join(f"{mib - seen:+.1f}" for mib in later)
        print(
            f"{backend:12s} {loaded:6.1f} MiB loaded, {seen:6.1f} with all seen, after {args.calls} calls more each: {further}"
        )


def serve(args: argparse.Namespace) -> None:
    from rtmpose_infer import PoseEstimator

    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (720, 1280, 3), np.uint8)
    counts = [*range(1, MOST_PEOPLE + 1), *rng.integers(1, MOST_PEOPLE + 1, ROUNDS * args.calls).tolist()]
    with PoseEstimator(args.pose, backend=args.serve) as estimator:
        seen = [resident_mib()]
        for call, people in enumerate(counts, 1 - MOST_PEOPLE):
            estimator.predict(frame, np.tile([[300, 100, 500, 600]], (people, 1)))
            if call >= 0 and call % args.calls == 0:
                seen.append(resident_mib())
    print(json.dumps(seen))


def resident_mib() -> float:
    """Return this process's resident memory; Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
