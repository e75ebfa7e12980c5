"""This SDK beside rtmlib and MMDeploy's C++ PoseTracker: same weights, frames, boxes, threads and detector interval.

    python benchmarks/peers/run.py --peer-python ENV/bin/python [--sizes t s m] [--people 1 4 8 16] [--json out.json]

``ENV`` is an environment of its own with rtmlib 0.0.16, mmdeploy-runtime 1.3.1 (a wheel for Python 3.11) and openvino.
Every system lives in its own process; in each round each of them runs the same number of frames, in random order, and
nothing else does. What is reported are ratios of rounds, so that a noisy machine disturbs both sides alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import networks
from chart import write_chart

from rtmpose_infer.export import export
from rtmpose_infer.skeletons import load_skeleton

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared"
SYSTEMS = {
    "this SDK, ONNX Runtime": ("ours", "onnxruntime"),
    "this SDK, OpenVINO": ("ours", "openvino"),
    "rtmlib, ONNX Runtime": ("rtmlib", "onnxruntime"),
    "rtmlib, OpenVINO": ("rtmlib", "openvino"),
    "MMDeploy C++, ONNX Runtime": ("mmdeploy", "onnxruntime"),
}


class Worker:
    """A system in its own process."""

    def __init__(self, python: str, job: dict) -> None:
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not job.get("verbose") else None,
            text=True,
        )
        self.info = self._ask(json.dumps(job))

    def run(self, frames: int) -> dict:
        """Run frames; return the seconds they took and the people seen in each."""
        return self._ask(str(frames))

    def _ask(self, line: str) -> dict:
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a worker ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def prepare(folder: Path, size: str, people: int, detector: Path) -> dict:
    """Write all networks for one cell of the table and return the paths, by what the systems call them."""
    raw, pinned = folder / f"{size}_raw.onnx", folder / f"{size}.onnx"
    if not pinned.exists():
        checkpoint = folder / f"{size}.pth"
        networks.write_checkpoint(size, checkpoint)
        # Weights that were never trained have no confident joints to compare; their parity is the tests' business.
        export(checkpoint, raw, raw=True, limit_px=float("inf"))
        networks.pin_pose(raw, pinned)
        export(pinned, folder / f"{size}_deploy.onnx", skeleton="coco17")
        networks.write_sdk_folder(folder / f"{size}_sdk", pinned, task="pose")
    boxes = folder / f"detector{people}.onnx"
    if not boxes.exists():
        networks.pin_detector(detector, boxes, people)
        networks.write_sdk_folder(folder / f"detector{people}_sdk", boxes, task="detection")
        np.save(folder / f"frames{people}.npy", np.stack(networks.frames(20, people)))
    return {
        "detector": str(boxes),
        "detector_deploy": str(boxes),
        "detector_sdk": str(folder / f"detector{people}_sdk"),
        "pose": str(pinned),
        "pose_deploy": str(folder / f"{size}_deploy.onnx"),
        "pose_sdk": str(folder / f"{size}_sdk"),
        "frames": str(folder / f"frames{people}.npy"),
        "sigmas": [float(s) for s in load_skeleton("coco17").oks_sigmas],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter of the peers' environment")
    parser.add_argument("--sizes", nargs="+", default=["t", "s", "m"], choices=list(networks.SIZES))
    parser.add_argument("--people", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=20, help="frames of one round, a multiple of the interval")
    parser.add_argument("--det-interval", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--detector", type=Path, default=SHARED / "models" / "rtmdet_nano_person_320.onnx")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    cells, versions = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:
            for people in options.people:
                job = prepare(Path(temporary), size, people, options.detector)
                job |= {"threads": options.threads, "det_interval": options.det_interval, "verbose": options.verbose}
                workers = {}
                for name in options.systems:
                    system, backend = SYSTEMS[name]
                    python = sys.executable if system == "ours" else options.peer_python
                    try:
                        workers[name] = Worker(python, job | {"system": system, "backend": backend})
                        versions[name] = workers[name].info["versions"]
                    except RuntimeError as error:
                        print(f"{name}: not compared ({error})", file=sys.stderr)
                cells.append(compare(size, people, workers, options))
                for worker in workers.values():
                    worker.close()
    report = {"machine": platform.processor() or platform.machine(), "versions": versions, "cells": cells}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if options.chart:
        write_chart(report, options.chart)


def compare(size: str, people: int, workers: dict[str, Worker], options: argparse.Namespace) -> dict:
    """Run the rounds of one cell, print its line, and return seconds per frame by system."""
    for worker in workers.values():
        worker.run(options.frames)  # warm-up
    seconds = {name: [] for name in workers}
    seen = {}
    for _ in range(options.rounds):
        for name in random.sample(list(workers), len(workers)):
            answer = workers[name].run(options.frames)
            seconds[name].append(answer["seconds"] / options.frames)
            seen[name] = answer["people"]
    best = min(
        (n for n in workers if n.startswith("this SDK")),
        key=lambda n: np.median(seconds[n]),
        default=next(iter(workers)),
    )
    print(f"RTMPose-{size}, {people} people (fastest of ours: {best})")
    for name, values in seconds.items():
        against = np.array(values) / np.array(seconds[best])
        low, middle, high = np.percentile(against, [25, 50, 75])
        print(
            f"  {name:28s} {1 / np.median(values):7.1f} FPS   {middle:5.2f}× our time [{low:.2f}–{high:.2f}]"
            f"   people seen {seen[name]:.1f}",
            flush=True,
        )
    return {"size": size, "people": people, "seconds_per_frame": seconds, "people_seen": seen}


if __name__ == "__main__":
    main()
