"""Eight cameras on one pipeline against eight trackers of their own: throughput and memory.

    python benchmarks/streams.py [--detector ...] [--pose ...] [--backend openvino] [--streams 8] [--rounds 5]

Every stream shows two people crossing (the demo scene, at another moment in each). Three ways take turns, round by
round, so a busy machine slows all of them down:

- ``separate``: a ``PoseTracker`` of its own for each stream, networks included, one stream after the other;
- ``together``: ``PosePipeline.track_many``, one frame of every stream a call;
- ``threads``: as many threads as streams, each with its tracker, on one shared pipeline, as a service has them.

Prints total frames per second, the ratios to ``separate`` (goal: at least 1.3 on two cores), and resident memory, each
way in a process of its own: of the networks with one stream, and of all streams (goal: at most 20 MB a stream more).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose_infer.demo_scene import DemoScene
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE, PosePipeline, PoseTracker

Frames = list[np.ndarray]


def scenes(streams: int, frames: int) -> list[Frames]:
    """Return the same film for every stream, begun at another moment; the frames are shared, so memory stays small."""
    film = [frame.image for frame in DemoScene(duration_s=(frames + 4 * streams) / 30)]
    return [film[4 * i : 4 * i + frames] for i in range(streams)]


def separate(trackers: list[PoseTracker], films: list[Frames]) -> int:
    people = 0
    for tracker, film in zip(trackers, films, strict=True):
        tracker.reset()
        for frame in film:
            people += len(tracker(frame))
    return people


def together(pipeline: PosePipeline, films: list[Frames]) -> int:
    people = 0
    for i in range(len(films)):
        pipeline.leave(i)
    for row in zip(*films, strict=True):
        people += sum(map(len, pipeline.track_many(dict(enumerate(row))).values()))
    return people


def threaded(pipeline: PosePipeline, films: list[Frames]) -> int:
    def one(film: Frames) -> int:
        with PoseTracker(pipeline) as tracker:
            return sum(len(tracker(frame)) for frame in film)

    with ThreadPoolExecutor(len(films)) as pool:
        return sum(pool.map(one, films))


def resident_mb() -> float:
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = {key: value for key, _, value in (line.partition(":") for line in lines)}
    return int(fields["VmRSS"].split()[0]) / 1024


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = {key: value for key, _, value in (line.partition(":") for line in lines)}
    return int(fields["VmHWM"].split()[0]) / 1024


def measure_memory(way: str, options: dict[str, Any], streams: int, frames: int) -> None:
    """Print the peak of resident memory beyond what the process and the film had before; runs in its own process."""
    films = scenes(streams, frames)
    before = resident_mb()
    with PosePipeline(**options) as pipeline:
        if way == "one stream":
            separate([PoseTracker(pipeline)], films[:1])
        elif way == "together":
            together(pipeline, films)
        else:
            threaded(pipeline, films)
        print(json.dumps(peak_mb() - before))


def memory(arguments: argparse.Namespace) -> dict[str, float]:
    found = {}
    for way in ("one stream", "together", "threads"):
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", way, "--frames", "24"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found[f"{way} MB"] = round(float(answer.stdout.splitlines()[-1]), 1)
    for way in ("together", "threads"):
        more = found[f"{way} MB"] - found["one stream MB"]
        found[f"{way}, MB a further stream"] = round(more / (arguments.streams - 1), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--frames", type=int, default=60, help="frames of each stream in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--detector", default=DEFAULT_DETECTOR)
    parser.add_argument("--pose", default=DEFAULT_POSE)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, help="threads of one network call, in all three ways")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = {
        "detector": arguments.detector,
        "pose": arguments.pose,
        "backend": arguments.backend,
        "threads": arguments.threads,
    }
    if arguments.memory_of:
        measure_memory(arguments.memory_of, options, arguments.streams, arguments.frames)
        return
    films = scenes(arguments.streams, arguments.frames)
    trackers = [PoseTracker(**options) for _ in films]
    shared = PosePipeline(**options)
    ways = {
        "separate": lambda: separate(trackers, films),
        "together": lambda: together(shared, films),
        "threads": lambda: threaded(shared, films),
    }
    short = [film[:6] for film in films]
    for run in (lambda: separate(trackers, short), lambda: together(shared, short), lambda: threaded(shared, short)):
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    people = {}
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            people[name] = run()
            seconds[name].append(time.perf_counter() - start)
    count = arguments.streams * arguments.frames
    report = {
        "streams": arguments.streams,
        "frames": count,
        "people_per_frame": {name: round(found / count, 2) for name, found in people.items()},
        "backends": {task: f"{i.runtime} {i.version} {i.device}" for task, i in shared.describe().items()},
        "frames_per_second": {name: round(count / min(times), 1) for name, times in seconds.items()},
        "ratio_to_separate": {
            name: {
                "median": round(statistics.median(ratios), 3),
                "of_all": [round(ratio, 2) for ratio in ratios],
            }
            for name in ("together", "threads")
            for ratios in [[a / b for a, b in zip(seconds["separate"], seconds[name], strict=True)]]
        },
    }
    for tracker in trackers:
        tracker.close()
    shared.close()
    if not arguments.no_memory:
        report["memory"] = memory(arguments)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
