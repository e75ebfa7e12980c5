"""Whole videos looked at first, against frame by frame: how fast, and how much better.

    python benchmarks/offline.py speed VIDEO... [--detector ...] [--pose ...] [--backend ...] [--rounds 3] [--key-intervals 5]
    python benchmarks/offline.py quality --shared FOLDER [--scenes MOT17-09 ...] [--noise moderate] [--seed 0 1]

``speed``: decoding, both networks and tracking of each video, online (``PoseTracker``, detector on every fifth frame) and
offline (``OfflineTracker``), each with networks of its own and its defaults. They take turns, round by round, so a busy machine slows both down.
Prints frames per second, the ratio (goal: at least 1.3 on two cores), detector and pose calls, and jitter (root mean
square acceleration of joints, pixels per frame²).

``quality``: the tracking laboratory's scenes, whose truth is known (``benchmarks/tracking``): the same observer stands for
the networks of both. Prints IDF1, HOTA, MOTA, identity switches, OKS-AP of COCO's evaluation code, jitter and error of
joints; the last rows add counts and weight the rest by the people to be found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.evaluation.pose import Annotations, pose_report
from rtmpose_infer.evaluation.tracking import (
    PeopleFrame,
    identity_report,
    matched_motion_report,
    people_from_poses,
    tracks_jitter,
)
from rtmpose_infer.offline import OfflineConfig, OfflineTracker
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE, PosePipeline, PoseTracker
from rtmpose_infer.tracker import Tracker, TrackerConfig
from rtmpose_infer.video import open_source

sys.path.insert(0, str(Path(__file__).parent / "tracking"))
import world

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses

DET_INTERVAL = 5


def limited(video: Path, frames: int | None) -> Iterator[tuple[np.ndarray, float]]:
    with open_source(video) as source:
        for frame in source:
            if frames is not None and frame.index >= frames:
                return
            yield frame.image, frame.timestamp_s


def online(tracker: PoseTracker, video: Path, frames: int | None) -> list[Poses]:
    tracker.reset()
    return [tracker(image, timestamp_s=time_s) for image, time_s in limited(video, frames)]


def offline(tracker: OfflineTracker, video: Path, frames: int | None) -> list[Poses]:
    return list(tracker.track(limited(video, frames)))


def ratio(seconds: list[float], others: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(seconds, others, strict=True)]
    return {"median": round(statistics.median(ratios), 3), "of_all": [round(r, 2) for r in ratios]}


def speed(arguments: argparse.Namespace) -> None:
    options = {"detector": arguments.detector, "pose": arguments.pose, "backend": arguments.backend}
    report: dict[str, Any] = {}
    with PoseTracker(**options, det_interval=DET_INTERVAL) as live, PosePipeline(**options, threads=1) as networks:
        runs: dict[str, tuple[Any, Any]] = {"online": (online, live)}
        for interval in arguments.key_intervals:
            whole = OfflineTracker(networks, config=OfflineConfig(key_interval=interval))
            runs[f"offline, key frames {interval}"] = (offline, whole)
        report["backends"] = {task: f"{i.runtime} {i.version} {i.device}" for task, i in live.describe().items()}
        for video in arguments.videos:
            for run, tracker in runs.values():
                run(tracker, video, 20)
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            found: dict[str, list[Poses]] = {}
            for _ in range(arguments.rounds):
                for name, (run, tracker) in runs.items():
                    start = time.perf_counter()
                    found[name] = run(tracker, video, arguments.frames)
                    seconds[name].append(time.perf_counter() - start)
            report[video.name] = {"frames": len(found["online"])} | {
                name: {
                    "ratio_to_online": ratio(seconds["online"], seconds[name]),
                    "frames_per_second": round(len(poses) / min(seconds[name]), 1),
                    "people_per_frame": round(float(np.mean([len(p) for p in poses])), 2),
                    "ids": len({i for p in poses for i in p.track_ids.tolist()}),
                    "jitter_px": round(tracks_jitter([people_from_poses(p) for p in poses]), 3),
                }
                for name, poses in found.items()
            }
    print(json.dumps(report, indent=2))


class ObservedNetworks(PosePipeline):
    """An observer in the place of both networks; a frame carries its number in its first pixel."""

    def __init__(self, observer: world.Observer) -> None:
        """Load nothing."""
        self._observer = observer
        self.skeleton = world.SKELETON
        self.one_stage = None
        spec = SimpleNamespace(to_json=str, flip_test=False)
        known = {"spec": spec, "skeleton": world.SKELETON, "calibration": None}
        self.detector = SimpleNamespace(predict_batch=self._detected, **known)  # type: ignore[assignment]
        self._estimator = SimpleNamespace(predict_batch=self._posed, **known)  # type: ignore[assignment]

    def _detected(self, frames: list[np.ndarray]) -> list[Any]:
        """Return each frame's detections."""
        return [self._observer.detect(number_of(frame)) for frame in frames]

    def _posed(self, work: list[tuple[np.ndarray, np.ndarray, np.ndarray]], *, view: str) -> list[Poses]:
        """Return the poses in each frame's boxes."""
        return [self._observer.pose(number_of(frame), bboxes, scores) for frame, bboxes, scores in work]

    def describe(self) -> dict[str, Any]:
        """Return nothing: there are no runtimes."""
        return {}


def number_of(frame: np.ndarray) -> int:
    return int(frame[0, 0].astype(np.int64) @ [1, 256, 65_536])


def numbered(scene: world.Scene) -> Iterator[tuple[np.ndarray, float]]:
    width, height = scene.frame_size_wh
    for number, time_s in enumerate(scene.times_s.tolist()):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[0, 0] = number % 256, number // 256 % 256, number // 65_536
        yield frame, time_s


def followed(observer: world.Observer) -> list[Poses]:
    """Return the scene tracked frame by frame."""
    scene = observer.scene
    tracker = Tracker(world.SKELETON, TrackerConfig(det_interval=DET_INTERVAL))
    tracked = []
    for frame, time_s in enumerate(scene.times_s.tolist()):
        due = tracker.detection_due(time_s, scene.frame_size_wh)
        detections = observer.detect(frame) if due else None
        proposals = tracker.propose(detections, timestamp_s=time_s, frame_size_wh=scene.frame_size_wh)
        poses = observer.pose(frame, proposals.bboxes, proposals.bbox_scores)
        tracked.append(tracker.update(proposals, poses, timestamp_s=time_s, detected=due))
    return tracked


def precision(truth: list[PeopleFrame], poses: list[Poses]) -> float:
    """Return COCO's OKS-AP, with joints that cannot be seen as not annotated and people who are covered as crowds."""
    people = []
    for number, frame in enumerate(truth):
        for box, joints, ignored in zip(frame.bboxes, frame.keypoints, frame.ignored, strict=True):
            seen = np.isfinite(joints[:, 0])
            x1, y1, x2, y2 = map(float, box)
            marked = np.column_stack([np.nan_to_num(joints), np.where(seen, 2, 0)])
            area = 0.53 * (x2 - x1) * (y2 - y1)
            person = {"image_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": int(ignored)}
            people.append({**person, "keypoints": marked.ravel().tolist()})
    names = world.SKELETON.keypoints
    images = {number: str(number) for number in range(len(truth))}
    annotations = Annotations(Path("scene"), images, people, names, is_whole_body=False)
    return pose_report(annotations, dict(enumerate(poses))).figures.ap


def quality(arguments: argparse.Namespace) -> None:
    noise = {"none": world.NONE, "moderate": world.MODERATE, "heavy": world.HEAVY}[arguments.noise]
    sigmas = world.SKELETON.oks_sigmas
    print("| scene | | IDF1 | HOTA | MOTA | switches | AP | jitter px/frame² | error px | detector calls | poses |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows: dict[str, list[list[float]]] = {"online": [], "offline": []}
    weights = []
    for seed in arguments.seed:
        for scene in world.load_scenes(arguments.shared, names=arguments.scenes, seed=seed):
            sights = world.Sights(scene, noise, seed=seed)
            truth = sights.truth()
            for name, found in rows.items():
                observer = world.Observer(sights)
                if name == "online":
                    poses = followed(observer)
                else:
                    poses = list(OfflineTracker(ObservedNetworks(observer)).track(numbered(scene)))
                people = [people_from_poses(p) for p in poses]
                identity = identity_report(truth, people, sigmas=sigmas)
                motion = matched_motion_report(truth, people, sigmas=sigmas)
                shares = [identity.idf1, identity.hota, identity.mota]
                counts = [identity.id_switches, observer.detector_calls, observer.poses_estimated]
                found.append([*shares, precision(truth, poses), motion.jitter_px, motion.error_px, *counts])
                print(
                    line(f"{scene.name}, {seed}" if len(arguments.seed) > 1 else scene.name, name, found[-1]),
                    flush=True,
                )
            weights.append(identity.truth)
    if len(weights) > 1:
        for name, found in rows.items():
            table = np.array(found)
            means, sums = np.average(table[:, :6], axis=0, weights=weights), table[:, 6:].sum(axis=0)
            print(line("all", name, [*means, *sums]))


def line(scene: str, name: str, figures: Sequence[float]) -> str:
    """Return a row of the table of ``quality``."""
    idf1, hota, mota, ap, jitter, error, switches, calls, poses = figures
    percent = [f"{100 * value:.1f}" for value in (idf1, hota, mota, ap)]
    cells = [scene, name, *percent[:3], f"{switches:.0f}", percent[3], f"{jitter:.2f}", f"{error:.2f}"]
    return f"| {' | '.join([*cells, f'{calls:.0f}', f'{poses:.0f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    fast = commands.add_parser("speed")
    fast.add_argument("videos", type=Path, nargs="+")
    fast.add_argument("--frames", type=int, help="only the first so many")
    fast.add_argument("--key-intervals", type=int, nargs="+", default=[OfflineConfig().key_interval])
    fast.add_argument("--rounds", type=int, default=3)
    fast.add_argument("--detector", default=DEFAULT_DETECTOR)
    fast.add_argument("--pose", default=DEFAULT_POSE)
    fast.add_argument("--backend", default="onnxruntime")
    fast.set_defaults(run=speed)
    good = commands.add_parser("quality")
    good.add_argument("--shared", type=Path, required=True, help="folder with data/tracking/mot_gt and penn_action.npz")
    good.add_argument("--scenes", nargs="*")
    good.add_argument("--noise", default="moderate", choices=["none", "moderate", "heavy"])
    good.add_argument("--seed", type=int, nargs="+", default=[0], help="one or more runs of bad luck")
    good.set_defaults(run=quality)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
