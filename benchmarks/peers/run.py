"""This SDK beside rtmlib and MMDeploy's C++ PoseTracker: same weights, frames, boxes, threads and detector interval.

    python benchmarks/peers/run.py --rtmlib ENV/bin/python --mmdeploy ENV/bin/python [--sizes t s m] [--people 1 4 8 16]

Each ENV is an environment of its own: one with rtmlib 0.0.16, onnxruntime and openvino (of the versions of this
environment), one with mmdeploy-runtime 1.3.1 and a numpy below 2 (its wheels end with Python 3.11). A system whose
environment is not named is left out. The SDK's ncnn is compared where pnnx is installed, which converts networks for it.

Every system lives in its own process; in each round each of them runs the same frames, in random order, and nothing
else does. What is reported are ratios within rounds, so that a noisy machine disturbs both sides alike: to the time of
our default, which is what a user gets, and to that of our ONNX Runtime in float32, which is what the code is worth
without the choice of the runtime. Cells of an existing ``--json`` file that are not measured anew are kept, so a long table can be made in several runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import networks
from chart import write_chart

from rtmpose_infer.machine import describe_machine

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared"
DEFAULT = "this SDK, default"  # the runtime and precision that it chooses itself on this processor
SAME_RUNTIME = "this SDK, ONNX Runtime"  # in float32, as the peers compute there
SYSTEMS = {
    DEFAULT: ("ours", "auto"),
    SAME_RUNTIME: ("ours", "onnxruntime"),
    "this SDK, OpenVINO": ("ours", "openvino"),
    "this SDK, OpenVINO, BF16": ("ours", "openvino bf16"),
    "this SDK, ncnn": ("ours", "ncnn"),
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
            env={**os.environ, "OMP_NUM_THREADS": str(job["threads"])},
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


def start_workers(job: dict, options: argparse.Namespace) -> dict[str, Worker]:
    """Start every system that can be, and say which cannot."""
    pythons = {"ours": sys.executable, "rtmlib": options.rtmlib, "mmdeploy": options.mmdeploy}
    workers = {}
    for name in options.systems:
        system, backend = SYSTEMS[name]
        if pythons[system] is None or (backend == "ncnn" and job["pose_ncnn"] is None):
            print(f"{name}: not compared (not installed)", file=sys.stderr)
            continue
        try:
            workers[name] = Worker(pythons[system], job | {"system": system, "backend": backend})
        except RuntimeError as error:
            print(f"{name}: not compared ({error})", file=sys.stderr)
    return workers


def compare(size: str, people: int, workers: dict[str, Worker], options: argparse.Namespace) -> dict:
    """Run the rounds of one cell and return the seconds per frame of every round, by system.

    A round holds whole intervals of the detector, the same number for all.
    """
    interval = options.det_interval
    slowest = max(worker.run(2 * interval)["seconds"] for worker in workers.values()) / 2
    frames = interval * max(1, round(options.round_s / slowest))
    seconds = {name: [] for name in workers}
    seen = {}
    for _ in range(options.rounds):
        for name in random.sample(list(workers), len(workers)):
            answer = workers[name].run(frames)
            time.sleep(options.rest * answer["seconds"])
            seconds[name].append(round(answer["seconds"] / frames, 6))
            seen[name] = answer["people"]
    return {"size": size, "people": people, "frames": frames, "seconds_per_frame": seconds, "people_seen": seen}


def ratios(cell: dict, name: str, base: str) -> str:
    """Return how many times the time of ``base`` a system takes: median and quartiles of the rounds."""
    seconds = cell["seconds_per_frame"]
    if base not in seconds or name == base:
        return "–"
    low, middle, high = np.percentile(np.array(seconds[name]) / np.array(seconds[base]), [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def print_cell(cell: dict) -> None:
    """Print a cell: frames per second, and how many times our time each system takes, with quartiles."""
    print(f"RTMPose-{cell['size']}, {cell['people']} people; times the time of our default, and of our ONNX Runtime")
    for name, values in cell["seconds_per_frame"].items():
        print(
            f"  {name:28s} {1 / np.median(values):7.1f} FPS   {ratios(cell, name, DEFAULT):>18s}"
            f"   {ratios(cell, name, SAME_RUNTIME):>18s}   people seen {cell['people_seen'][name]:.1f}",
            flush=True,
        )


def write_table(cells: list[dict], path: Path) -> None:
    """Write the table as Markdown: frames per second; the time in times of our default, and of our ONNX Runtime."""
    names = list(dict.fromkeys(n for cell in cells for n in cell["seconds_per_frame"]))
    lines = [f"| network, people | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for cell in cells:
        entries = []
        for name in names:
            values = cell["seconds_per_frame"].get(name)
            if values is None:
                entries.append("–")
                continue
            times = "; ".join(ratios(cell, name, base).split(" ")[0] for base in (DEFAULT, SAME_RUNTIME))
            entries.append(f"{1 / np.median(values):.1f} ({times})")
        lines.append(f"| {cell['size']}, {cell['people']} | {' | '.join(entries)} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def merged(path: Path | None, cells: list[dict]) -> list[dict]:
    """Return the cells, and before them those of the file at ``path`` that were not measured anew."""
    new = {(cell["size"], cell["people"]) for cell in cells}
    old = json.loads(path.read_text(encoding="utf-8"))["cells"] if path and path.exists() else []
    kept = [cell for cell in old if (cell["size"], cell["people"]) not in new]
    return sorted(kept + cells, key=lambda cell: (list(networks.SIZES).index(cell["size"]), cell["people"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rtmlib", help="interpreter of the environment with rtmlib")
    parser.add_argument("--mmdeploy", help="interpreter of the environment with mmdeploy-runtime")
    parser.add_argument("--sizes", nargs="+", default=["t", "s", "m"], choices=list(networks.SIZES))
    parser.add_argument("--people", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--det-interval", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--round-s", type=float, default=0.5, help="seconds of a round of the slowest system")
    parser.add_argument("--rest", type=float, default=0, help="pause after each round, in lengths of the round")
    parser.add_argument("--detector", type=Path, default=SHARED / "models" / "rtmdet_nano_person_320.onnx")
    parser.add_argument("--networks", type=Path, help="folder that keeps the networks from run to run")
    parser.add_argument("--prepare", action="store_true", help="only write the networks into that folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    cells, versions = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.networks or Path(temporary)
        folder.mkdir(exist_ok=True)
        for size in options.sizes:
            for people in options.people:
                job = networks.prepare(folder, size, people, options.detector)
                if options.prepare:
                    continue
                job |= {"threads": options.threads, "det_interval": options.det_interval, "verbose": options.verbose}
                workers = start_workers(job, options)
                versions |= {name: worker.info["versions"] for name, worker in workers.items()}
                cells.append(compare(size, people, workers, options))
                print_cell(cells[-1])
                for worker in workers.values():
                    worker.close()
    if options.prepare:
        return
    cells = merged(options.json, cells)
    if options.json:
        machine = describe_machine()
        report = {
            "machine": f"{machine.cpu}, {machine.cpus} cores, {', '.join(machine.cpu_features)}",
            "threads": options.threads,
            "versions": versions,
            "det_interval": options.det_interval,
            "cells": cells,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.chart:
        write_chart(cells, options.chart)
    if options.table:
        write_table(cells, options.table)


if __name__ == "__main__":
    main()
