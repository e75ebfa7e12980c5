"""Has the code around the networks become slower? An answer that holds on a busy machine.

Absolute times say little on a shared machine. So two things are measured that do not depend on its mood:

- host: the whole pipeline with networks that answer at once, against a fixed piece of work of the same kind (small
  numpy operations, warps, plain Python). Both take turns, frame by frame; the figure is the median of their ratio over
  groups of frames, and it is a regression when the median is beyond the limit with 95 % confidence.
- calls: the number of Python and C functions that one frame calls. It is the same on every run and every machine with
  the same libraries, and finds what is too small to time.

With ``--detector`` and ``--pose`` (or ``--embedded``) the time of the pipeline over its network calls alone is measured
too, against ``--overhead``.

    python benchmarks/regression/check.py              # compare with baseline.json; exit code 1 on a regression
    python benchmarks/regression/check.py --update     # measure and write baseline.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from rtmpose_infer import CallableBackend, PosePipeline, PoseTracker, TensorSpec
from rtmpose_infer.benchmark.contestant import Contestant
from rtmpose_infer.benchmark.report import ratio_of_groups
from rtmpose_infer.benchmark.scene import Scene, SceneDetector, SceneEstimator
from rtmpose_infer.machine import installed_versions
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE
from rtmpose_infer.skeletons import load_skeleton

BASELINE = Path(__file__).with_name("baseline.json")
PEOPLE = (1, 8)
GROUP = 5  # the detector's interval: every group holds the same work
TOLERANCE = {"host": 1.25, "calls": 1.10}

SKELETON = load_skeleton("coco17")
DETECTOR = ModelSpec(task="detection", head="nms", input_size_wh=(320, 320), input_format="nhwc_uint8")
POSE = {
    "deploy graph": ModelSpec(
        task="pose", head="keypoints", input_size_wh=(192, 256), input_format="nhwc_uint8", skeleton=SKELETON
    ),
    "foreign graph": ModelSpec(task="pose", head="simcc", input_size_wh=(192, 256), colour="rgb", skeleton=SKELETON),
}


def main() -> int:
    """Measure, print, compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600, help="frames of each figure")
    parser.add_argument("--update", action="store_true", help="write the baseline instead of comparing with it")
    parser.add_argument("--embedded", action="store_true", help="also measure the embedded networks")
    parser.add_argument("--detector", help="also measure this detector, with --pose")
    parser.add_argument("--pose", help="the pose network for it")
    parser.add_argument("--backend", default="onnxruntime", help="what runs them")
    parser.add_argument("--overhead", type=float, default=1.08, help="most that the pipeline may take of its networks")
    options = parser.parse_args()

    found = {
        f"{name}, {people} people": {**host(spec, people, options.frames), "calls": calls(spec, people)}
        for name, spec in POSE.items()
        for people in PEOPLE
    }
    versions = {k: v for k, v in installed_versions().items() if k == "numpy" or k.startswith("opencv")}
    if options.update:
        BASELINE.write_text(json.dumps({"versions": versions, "figures": found}, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {BASELINE}")
    slower = compare(found, json.loads(BASELINE.read_text(encoding="utf-8")), versions)
    if options.embedded:
        options.detector, options.pose = options.detector or DEFAULT_DETECTOR, options.pose or DEFAULT_POSE
    if options.detector and options.pose:
        slower += networks(options)
    return int(slower > 0)


def host(spec: ModelSpec, people: int, frames: int) -> dict[str, float]:
    """Return the pipeline's time with networks that answer at once, over that of the fixed work."""
    reference = FixedWork()
    frame_s, reference_s = [], []
    with pipeline(spec, people) as networks:
        step = stepper(networks, people)
        for _ in range(20):
            step()
            reference()
        for _ in range(frames):
            frame_s.append(step())
            reference_s.append(reference())
    low, median, high = median_with_bounds(ratio_of_groups(frame_s, reference_s, group=GROUP))
    return {"host": round(median, 4), "low": round(low, 4), "high": round(high, 4)}


def median_with_bounds(values: list[float]) -> tuple[float, float, float]:
    """Return the median between its lower and upper 95 % confidence bounds, from the binomial law of the ranks."""
    ranked, n = sorted(values), len(values)
    apart = 1.65 * n**0.5 / 2
    return ranked[max(0, int(n / 2 - apart))], float(np.median(ranked)), ranked[min(n - 1, int(n / 2 + apart))]


def calls(spec: ModelSpec, people: int) -> float:
    """Return how many functions one frame calls, on average over some detector intervals."""
    counted = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in {"call", "c_call"}

    frames = 4 * GROUP
    with pipeline(spec, people) as networks:
        step = stepper(networks, people, around=lambda call: profiled(call, count))
        for _ in range(GROUP):
            step()
        counted = 0
        for _ in range(frames):
            step()
    return round(counted / frames, 1)


def profiled(call, count):
    """Call something with every function call reported."""
    sys.setprofile(count)
    try:
        return call()
    finally:
        sys.setprofile(None)


def stepper(networks: PosePipeline, people: int, around=lambda call: call()):
    """Return a function that takes the scene's next frame through the pipeline and returns the seconds it took."""
    scene = Scene(people, (1280, 720))
    networks.detector.scene = networks.estimator.scene = scene
    frame = scene.draw()  # its content does not matter here, only its size
    tracker = PoseTracker(networks, det_interval=GROUP)

    def step() -> float:
        scene.replacing_s = 0.0
        start = time.perf_counter()
        poses = around(lambda: tracker(frame, timestamp_s=scene.timestamp_s))
        seconds = time.perf_counter() - start - scene.replacing_s
        if len(poses) != people:
            sys.exit(f"{len(poses)} of {people} people were tracked: the figures would mean nothing.")
        scene.index += 1
        return seconds

    return step


def pipeline(spec: ModelSpec, people: int) -> PosePipeline:
    """Return a pipeline whose networks answer at once, with arrays made beforehand."""
    width, height = spec.input_size_wh
    k = SKELETON.num_keypoints
    boxes = np.tile(np.array([10, 10, 60, 200, 0.9], np.float32), (1, 100, 1))  # as many rows as RTMDet's graph keeps
    boxes[..., :4] += np.arange(100, dtype=np.float32)[:, None]
    dets = {"dets": boxes, "labels": np.zeros((1, 100), np.int64)}
    if spec.head == "keypoints":
        answer = {"keypoints": np.full((people, k, 2), 9, np.float32), "scores": np.full((people, k), 0.9, np.float32)}
        takes = TensorSpec("frames_u8", (None, height, width, 3), np.dtype(np.uint8))
    else:
        rng = np.random.default_rng(0)
        sides = {"simcc_x": 2 * width, "simcc_y": 2 * height}
        answer = {name: rng.random((people, k, side), np.float32) for name, side in sides.items()}
        takes = TensorSpec("input", (None, 3, height, width), np.dtype(np.float32))
    frames = TensorSpec("frames_u8", (None, 320, 320, 3), np.dtype(np.uint8))
    return PosePipeline(
        detector=SceneDetector.from_backend(instant(frames, dets), DETECTOR),
        pose=SceneEstimator.from_backend(instant(takes, answer), spec),
    )


def instant(takes: TensorSpec, answer: dict[str, np.ndarray]) -> CallableBackend:
    """Return a network that answers with the same arrays again and again."""
    gives = [TensorSpec(name, (None, *value.shape[1:]), value.dtype) for name, value in answer.items()]
    return CallableBackend(lambda _: answer, [takes], gives)


class FixedWork:
    """Work of the kind the pipeline does, always the same: this file must not change what it does."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.picture = rng.integers(0, 255, (720, 1280, 3), np.uint8)
        self.crop = np.empty((256, 192, 3), np.uint8)
        self.matrix = np.array([[0.7, 0, -100], [0, 0.7, -50]], np.float32)
        self.points = rng.random((17, 2)).astype(np.float32)

    def __call__(self) -> float:
        """Do the work and return the seconds it took."""
        start = time.perf_counter()
        for _ in range(4):
            cv2.warpAffine(self.picture, self.matrix, (192, 256), dst=self.crop)
        total = np.float32(0)
        for i in range(60):
            moved = np.where(self.points > 0.5, self.points * 2, self.points) + np.float32(i)
            total += np.concatenate([moved, self.points]).max(axis=0).sum()
        value = 1
        for i in range(2000):
            value = value * 31 + i & 0xFFFF
        if not np.isfinite(total) or value < 0:
            raise AssertionError
        return time.perf_counter() - start


def compare(found: dict[str, dict[str, float]], baseline: dict, versions: dict[str, str]) -> int:
    """Print every figure beside the baseline's; return how many are worse than they may be."""
    if baseline["versions"] != versions:
        print(f"note: the baseline was made with {baseline['versions']}, here is {versions}: calls may differ.")
    slower = 0
    print(f"{'':28}{'host work over fixed work':>34}{'function calls':>24}")
    for name, figures in found.items():
        known = baseline["figures"][name]
        worse = {
            "host": figures["low"] > known["host"] * TOLERANCE["host"],
            "calls": figures["calls"] > known["calls"] * TOLERANCE["calls"],
        }
        slower += sum(worse.values())
        ratio = f"{figures['host']:.2f} ({figures['low']:.2f}–{figures['high']:.2f}), was {known['host']:.2f}"
        count = f"{figures['calls']:.0f}, was {known['calls']:.0f}"
        print(f"{name:28}{ratio:>34}{count:>24}{'   REGRESSION' if any(worse.values()) else ''}")
    return slower


def networks(options: argparse.Namespace) -> int:
    """Print the pipeline's time over that of its network calls alone; return how often that is too much."""
    contestant = Contestant()
    with tempfile.TemporaryDirectory() as cache:
        request = {
            "backend": options.backend, "device": "cpu", "detector": options.detector, "pose": options.pose,
            "threads": None, "batch": None, "precision": None, "det_interval": GROUP, "video": None,
            "frame_size_wh": [1280, 720], "cache_dir": cache, "started": time.time(),
        }  # fmt: skip
        contestant({"do": "load", **request})
        slower = 0
        for people in PEOPLE:
            measured = contestant({"do": "round", "persons": people, "frames": options.frames // 4, "warmup": GROUP})
            ratios = ratio_of_groups(measured["latency_s"], measured["floor_s"], group=GROUP)
            low, median, high = median_with_bounds(ratios)
            worse = low > options.overhead
            slower += worse
            print(
                f"{options.pose}, {people} people: {median:.3f} ({low:.3f}–{high:.3f}) times the "
                f"networks alone, limit {options.overhead:.2f}{'   REGRESSION' if worse else ''}"
            )
    return slower


if __name__ == "__main__":
    sys.exit(main())
