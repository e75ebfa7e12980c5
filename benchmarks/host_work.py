"""What tracking costs beside the networks: five people at 720p, RTMDet-nano at 320 and a pose network at 256×192.

    python benchmarks/host_work.py [--shared ../shared] [--frames 300] [--threads 2] [--det-interval 5]

Host work is everything but the calls of the networks: letterbox, crops, normalisation, decoding, tracking, smoothing.
It is given twice. By the wall, which is what a user waits for, but on a busy machine measures the neighbours too. And
by processor time, which they change less: that of the tracking thread outside the calls, against that plus the calls'
processor time divided by their threads, as if these scaled perfectly, which can only make the share larger. The aims
are a share of at most 10 %, and at most 0.6 ms a person to prepare a crop.

With 600 frames or more it also prints by how much the resident memory grew after the first 300, of which 5 MB in 3,000
frames are the limit.

The scene is five photographed people cut out of the development pictures and set moving on a grey ground; how many of
them were tracked is printed too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer import Backend, BackendInfo, PersonDetector, PoseEstimator, PosePipeline, PoseTracker
from rtmpose_infer.stages import StageClock

FRAME_WH = (1280, 720)
PEOPLE = 5
_SETTLED = 300  # frames after which memory should have stopped growing
_WARM_UP = 20  # frames in which buffers are made and caches filled
CELL_WH = (220, 560)
_PER_FRAME = ("people", "wall", "host", "host share by the wall", "host share by processor time", "crop")
Frame = npt.NDArray[np.uint8]


class TimedBackend(Backend):
    """Hands every call on and adds up how long the network took."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner.inputs, inner.outputs, batch_sizes=inner.batch_sizes)
        self.inner = inner
        self.forget()

    def forget(self) -> None:
        """Begin to add up anew."""
        self.wall_s = self.thread_s = self.process_s = 0.0

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the network; see ``Backend.run``."""
        wall, thread, process = time.perf_counter(), time.thread_time(), time.process_time()
        answers = self.inner.run(feeds)
        self.wall_s += time.perf_counter() - wall
        self.thread_s += time.thread_time() - thread
        self.process_s += time.process_time() - process
        return answers

    def _run(self, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        return self.inner.run(feeds)

    def describe(self) -> BackendInfo:
        """Return what the network runs on."""
        return self.inner.describe()


def cut_out_people(folder: Path) -> list[Frame]:
    """Return pictures of people who stand, are seen whole and are large."""
    truth = json.loads((folder / "person_keypoints.json").read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    people = []
    for person in sorted(truth["annotations"], key=lambda p: -p["area"]):
        x, y, width, height = person["bbox"]
        if person["iscrowd"] or person["num_keypoints"] < 14 or not 1.6 < height / width < 3.5:
            continue
        picture = cv2.imread(str(folder / "images" / names[person["image_id"]]))
        left, top = max(int(x - 0.1 * width), 0), max(int(y - 0.05 * height), 0)
        cut = picture[top : int(y + 1.05 * height), left : int(x + 1.1 * width)]
        scale = min(CELL_WH[0] / cut.shape[1], CELL_WH[1] / cut.shape[0])
        people.append(cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return people


def scene(people: list[Frame], count: int) -> Iterator[Frame]:
    """Yield frames in which the people sway from side to side."""
    for i in range(count):
        frame = np.full((FRAME_WH[1], FRAME_WH[0], 3), 114, np.uint8)
        for place, person in enumerate(people):
            height, width = person.shape[:2]
            x = int((place + 0.5) * FRAME_WH[0] / len(people) - width / 2 + 14 * np.sin(i / 12 + place))
            y = int((FRAME_WH[1] - height) / 2 + 10 * np.cos(i / 9 + place))
            x = min(max(x, 0), FRAME_WH[0] - width)
            frame[y : y + height, x : x + width] = person
        yield frame


def choose_cast(detector: PersonDetector, people: list[Frame]) -> list[Frame]:
    """Return the first five people whom the detector sees when they stand alone on the ground."""
    cast: list[Frame] = []
    for person in people:
        (frame,) = scene([person], 1)
        found = detector.predict(frame)
        if len(found) == 1 and found.scores[0] > 0.6:
            cast.append(person)
        if len(cast) == PEOPLE:
            return cast
    message = f"only {len(cast)} of {len(people)} cut-out people are detected"
    raise SystemExit(message)


class ProcessorClock(StageClock):
    """A stage clock that reads the processor time of its thread instead of the wall."""

    def start(self) -> None:
        """Begin timing here."""
        self._last = time.thread_time()

    def lap(self, stage: str) -> None:
        """End a stage here."""
        now = time.thread_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def resident_bytes() -> int:
    """Return how much memory the process has in use; 0 where that cannot be read."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--det-interval", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.WARNING)

    models, common = options.shared / "models", {"backend": "onnxruntime", "threads": options.threads}
    detector = PersonDetector(models / "rtmdet_nano_person_320.onnx", **common)
    estimator = PoseEstimator(models / "tinypose_coco17_256x192_simcc.onnx", **common)
    cast = choose_cast(detector, cut_out_people(options.shared / "data" / "coco_val_dev"))
    networks = [TimedBackend(detector.backend), TimedBackend(estimator.backend)]
    pipeline = PosePipeline(
        detector=PersonDetector.from_backend(networks[0], detector.spec),
        pose=PoseEstimator.from_backend(networks[1], estimator.spec),
    )
    tracker, clock = PoseTracker(pipeline, det_interval=options.det_interval), ProcessorClock()

    # Written in full before the first frame, so that what is measured is not in the memory that is measured.
    frames = {name: np.full(options.frames + _WARM_UP, np.nan) for name in _PER_FRAME}
    stages: dict[str, npt.NDArray[np.float64]] = {}
    resident: list[int] = []
    for i, frame in enumerate(scene(cast, options.frames + _WARM_UP)):
        for network in networks:
            network.forget()
        wall, thread = time.perf_counter(), time.thread_time()
        poses = tracker(frame, clock=clock)
        wall, thread = time.perf_counter() - wall, time.thread_time() - thread
        seconds = clock.reset()
        if i < _WARM_UP or not len(poses):
            continue
        # The stages of the networks hold the normalisation of their inputs too.
        detect_s, pose_s = (network.thread_s for network in networks)
        prepare_pose_s = seconds.pop("pose") - pose_s
        seconds["normalise"] = seconds.pop("detect", 0.0) - detect_s + prepare_pose_s
        host_s = thread - detect_s - pose_s
        ideal_s = host_s + sum(network.process_s for network in networks) / options.threads
        measured = (
            len(poses),
            wall,
            host_s,
            1 - sum(network.wall_s for network in networks) / wall,
            host_s / ideal_s,
            (seconds["crop"] + prepare_pose_s) / len(poses),
        )
        for name, value in zip(_PER_FRAME, measured, strict=True):
            frames[name][i] = value
        for name, value in seconds.items():
            if name not in stages:
                stages[name] = np.full(options.frames + _WARM_UP, 0.0)
            stages[name][i] = value
        if i in {_SETTLED, options.frames + _WARM_UP - 1}:
            resident.append(resident_bytes())

    count, middle = np.isfinite(frames["wall"]).sum(), {name: np.nanmedian(values) for name, values in frames.items()}
    print(
        f"{count} frames of {FRAME_WH[0]}×{FRAME_WH[1]}, {np.nanmean(frames['people']):.2f} of {PEOPLE} people "
        f"tracked, {options.threads} threads, a detection every {options.det_interval} frames; medians over frames:"
    )
    print(f"  wall time                          {1e3 * middle['wall']:8.2f} ms a frame")
    print(f"  host work, by the wall             {100 * middle['host share by the wall']:8.2f} % of a frame")
    print(f"  host work, by processor time       {100 * middle['host share by processor time']:8.2f} % of a frame")
    print(f"                                     {1e3 * middle['host']:8.2f} ms a frame")
    print(f"  crop preparation                   {1e3 * middle['crop']:8.3f} ms a person")
    if options.frames >= 2 * _SETTLED and len(resident) == 2 and resident[0]:
        grown = (resident[1] - resident[0]) / 1e6
        print(f"  resident memory                    {grown:+8.2f} MB since frame {_SETTLED}")
    print("where the host's processor time goes, means over all frames:")
    for name, values in sorted(stages.items(), key=lambda item: -item[1].sum()):
        print(f"  {name:<14} {1e3 * values.sum() / count:8.3f} ms a frame")


if __name__ == "__main__":
    main()
