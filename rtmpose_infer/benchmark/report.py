"""What was measured, as data: figures with their spread, the machine they hold for, and what disturbed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.errors import InputError

if TYPE_CHECKING:
    from rtmpose_infer.benchmark.noise import Noise
    from rtmpose_infer.machine import Machine

__all__ = [
    "STAGES",
    "Comparison",
    "ContestantReport",
    "Difference",
    "Network",
    "Ratio",
    "Report",
    "Scenario",
    "Start",
    "Timing",
    "ratio_of_groups",
    "summarise",
]

STAGES = {
    "decode": "read and decode the frame",
    "letterbox": "fit the frame into the detector's input",
    "detect": "detector network",
    "decode_boxes": "detector output to boxes",
    "crop": "cut out the people",
    "prepare": "pictures to network tensors",
    "pose": "pose network",
    "decode_pose": "network output to joints",
    "track": "identities",
    "smooth": "smoothing",
    "draw": "draw the skeletons",
}
"""The stages of a frame in their order, with what happens in them."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds over many frames.

    Attributes:
        mean_ms: Sum over all frames, divided by all frames: the stages' means add up.
        p50_ms: Median over the frames in which it happened; likewise the 95th and 99th percentile.
        p95_ms: See ``p50_ms``.
        p99_ms: See ``p50_ms``.
        share_of_frames: In which share of the frames it happened at all.
    """

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    share_of_frames: float

    @classmethod
    def of(cls, seconds: Sequence[float | None]) -> Timing:
        """Return the summary of one stage's seconds, None where a frame went without it."""
        values = 1e3 * np.array([value for value in seconds if value is not None], np.float64)
        if not len(values):
            return cls(0.0, 0.0, 0.0, 0.0, 0.0)
        p50, p95, p99 = (float(p) for p in np.percentile(values, (50, 95, 99)))
        return cls(float(values.sum() / len(seconds)), p50, p95, p99, len(values) / len(seconds))


@dataclass(frozen=True)
class Ratio:
    """A ratio that was measured several times.

    Attributes:
        median: Its median.
        low: First quartile.
        high: Third quartile.
        count: Of how many measurements.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Return the summary of several measurements of one ratio."""
        low, median, high = (float(q) for q in np.percentile(np.asarray(ratios, np.float64), (25, 50, 75)))
        return cls(median, low, high, len(ratios))


@dataclass(frozen=True)
class Scenario:
    """One backend on one number of people, or on the video.

    Attributes:
        persons: People in the made-up scene; None for a video.
        frames: Frames measured.
        people: People found per frame, on average.
        detector_calls: Calls of the detector network per frame.
        pose_calls: Calls of the pose network per frame.
        fps: Frames per second of the tracking itself, from a frame in memory to people with ids.
        fps_with_media: The same with decoding (of a video) and drawing.
        latency: Time of a frame, tracking alone.
        latencies_ms: That of every frame, in the order they were measured.
        stages: Time of each stage, in the order of ``STAGES``.
        floor_ms: Network calls of a frame, made again alone, on average.
        overhead: Time of the tracking over the time of its network calls alone.
        cpu_ms: Processor time of a frame, over all threads.
    """

    persons: int | None
    frames: int
    people: float
    detector_calls: float
    pose_calls: float
    fps: float
    fps_with_media: float
    latency: Timing
    latencies_ms: Sequence[float]
    stages: Mapping[str, Timing]
    floor_ms: float
    overhead: Ratio
    cpu_ms: float


@dataclass(frozen=True)
class Network:
    """A network as it ran.

    Attributes:
        model: Name or file name.
        sha256: Hash of the file that holds its weights.
        bytes: Size of that file.
        input_size_wh: Its input in pixels.
        precision: What it computes in.
        runtime: The backend.
        version: The runtime's version.
        device: The device actually used.
        threads: Threads of one call; None where the runtime decides.
        details: What else the backend says.
    """

    model: str
    sha256: str
    bytes: int
    input_size_wh: Sequence[int]
    precision: str
    runtime: str
    version: str
    device: str
    threads: int | None
    details: Mapping[str, str]


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a process to its first result.

    Attributes:
        import_s: Python and the packages.
        load_s: Both networks.
        first_frame_s: The first frame.
        total_s: All of it.
    """

    import_s: float
    load_s: float
    first_frame_s: float
    total_s: float


@dataclass(frozen=True)
class Difference:
    """How far a backend's answers are from ONNX Runtime's on the CPU, same pictures and boxes.

    Attributes:
        keypoints: How many joints were compared: those that the reference is sure of.
        median_px: Median distance of these joints in picture pixels.
        p99_px: The 99th percentile: one joint with two likely places can decide the largest.
        max_px: The largest.
        max_score: Largest difference of a joint's score, over all joints.
        boxes: How many confident detections of the reference were looked for.
        boxes_missing: Of how many nothing was found.
        max_box_px: Largest difference of a box edge among those found.
    """

    keypoints: int
    median_px: float
    p99_px: float
    max_px: float
    max_score: float
    boxes: int
    boxes_missing: int
    max_box_px: float


@dataclass(frozen=True)
class ContestantReport:
    """Everything about one backend.

    Attributes:
        backend: Its name as compared, with the device where one was asked for.
        failure: Why it could not be measured, or not to the end; empty when all went well.
        detector: The detector; None if it did not load.
        pose: The pose network; None if it did not load.
        cold: First start, with an empty cache folder; None if it failed.
        warm: A start after another one.
        peak_memory_bytes: The most memory its process held; None where unknown.
        difference: To the reference; None where there is none.
        scenarios: In the order of the configuration.
    """

    backend: str
    failure: str = ""
    detector: Network | None = None
    pose: Network | None = None
    cold: Start | None = None
    warm: Start | None = None
    peak_memory_bytes: int | None = None
    difference: Difference | None = None
    scenarios: Sequence[Scenario] = ()


@dataclass(frozen=True)
class Comparison:
    """How much faster one backend is than the first one.

    Attributes:
        backend: Which.
        against: The first one.
        persons: Scenario.
        speedup: Time of the first one over its own, round by round.
    """

    backend: str
    against: str
    persons: int | None
    speedup: Ratio


@dataclass(frozen=True)
class Report:
    """A whole benchmark.

    Attributes:
        created: Date and time, UTC, ISO 8601.
        package_version: Version of this package.
        git_revision: Its commit, where it runs from a checkout.
        config: What was asked for.
        machine: The computer.
        versions: Installed distributions that matter.
        contestants: One for each backend.
        comparisons: Between them.
        noise: What disturbed the measurement.
        warnings: What a reader must know before trusting the figures.
    """

    created: str
    package_version: str
    git_revision: str
    config: Mapping[str, Any]
    machine: Machine
    versions: Mapping[str, str]
    contestants: Sequence[ContestantReport]
    comparisons: Sequence[Comparison]
    noise: Noise
    warnings: Sequence[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every backend was measured to the end."""
        return not any(contestant.failure for contestant in self.contestants)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def summarise(rounds: Sequence[Mapping[str, Any]], *, persons: int | None, group: int) -> Scenario:
    """Return the figures of one scenario from what the rounds of one contestant measured.

    Args:
        rounds: Answers of ``Contestant`` to ``{"do": "round"}``.
        persons: The scenario.
        group: Frames after which the work repeats: the detector's interval.

    Raises:
        InputError: There are no rounds.
    """
    if not rounds:
        raise InputError("no round was measured.")
    joined = {key: [value for r in rounds for value in r[key]] for key in rounds[0] if key != "stages_s"}
    frames = len(joined["latency_s"])
    stages: dict[str, Timing] = {}
    for name in STAGES:
        seconds = [value for r in rounds for value in r["stages_s"].get(name, [None] * len(r["latency_s"]))]
        if any(value is not None for value in seconds):
            stages[name] = Timing.of(seconds)
    latency = np.array(joined["latency_s"])
    media_s = sum(stages[name].mean_ms for name in ("decode", "draw") if name in stages) / 1e3
    return Scenario(
        persons=persons,
        frames=frames,
        people=float(np.mean(joined["people"])),
        detector_calls=float(np.mean(joined["detector_calls"])),
        pose_calls=float(np.mean(joined["pose_calls"])),
        fps=float(1 / latency.mean()),
        fps_with_media=float(1 / (latency.mean() + media_s)),
        latency=Timing.of(joined["latency_s"]),
        latencies_ms=[round(1e3 * float(value), 4) for value in latency],
        stages=stages,
        floor_ms=float(1e3 * np.mean(joined["floor_s"])),
        overhead=Ratio.of(ratio_of_groups(joined["latency_s"], joined["floor_s"], group=group)),
        cpu_ms=float(1e3 * np.mean(joined["cpu_s"])),
    )


def ratio_of_groups(numerator: Sequence[float], denominator: Sequence[float], *, group: int) -> list[float]:
    """Return the ratio of both sums over every ``group`` of consecutive values; the rest at the end joins the last.

    A sum over the whole run would be ruled by its one worst moment; the median of these ratios is not.

    >>> ratio_of_groups([1, 3, 2, 2, 9], [1, 1, 2, 2, 2], group=2)
    [2.0, 2.1666666666666665]
    """
    count = max(1, len(numerator) // group)
    edges = [i * group for i in range(count)] + [len(numerator)]
    return [float(sum(numerator[a:b]) / max(sum(denominator[a:b]), 1e-12)) for a, b in pairwise(edges)]
