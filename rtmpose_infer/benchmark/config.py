"""What is to be measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rtmpose_infer.backends import canonical_name
from rtmpose_infer.errors import InputError
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE

__all__ = ["PRECISIONS", "BenchmarkConfig"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_MOST_PEOPLE = 64
_MOST_BACKENDS = 8


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is to be measured.

    Attributes:
        backends: The backends to compare, names or aliases, with a device where it is not ``device``:
            ``("onnxruntime", "openvino:gpu")``.
        device: Device of those that name none.
        detector: Path or zoo name of the detector.
        pose: Path or zoo name of the pose network.
        persons: How many people the made-up scene shows; each number is a scenario of its own. Not used with a video.
        video: Measure on this file instead of the made-up scene.
        frames: Measured frames of each scenario and backend.
        rounds: Turns in which the backends take these frames.
        starts: Processes of each backend, one after the other, that share the rounds.
        warmup: Frames before the first measured one, of each scenario.
        det_interval: See ``TrackerConfig``.
        batch: At most this many people in one call of the pose network; None: all.
        threads: Threads of one network call; None leaves it to the runtime.
        precision: What the networks must compute in, one of ``PRECISIONS``; None: as the model file is. A backend that
            cannot change it refuses model files of another precision.
        frame_size_wh: Size of the made-up scene's frames in pixels.

    Raises:
        InputError: A setting is out of range, or a backend is unknown or named twice.
    """

    backends: tuple[str, ...] = ("auto",)
    device: str = "auto"
    detector: str = DEFAULT_DETECTOR
    pose: str = DEFAULT_POSE
    persons: tuple[int, ...] = (1, 4, 8)
    video: Path | None = None
    frames: int = 120
    rounds: int = 12
    starts: int = 3
    warmup: int = 5
    det_interval: int | Literal["auto"] = 5
    batch: int | None = None
    threads: int | None = None
    precision: str | None = None
    frame_size_wh: tuple[int, int] = (1280, 720)

    def __post_init__(self) -> None:
        if not self.backends:
            raise InputError("backends: name at least one.")
        if len(self.backends) > _MOST_BACKENDS:
            raise InputError(f"backends: at most {_MOST_BACKENDS} can be told apart in one report.")
        if len(set(self.contestants)) < len(self.contestants):
            raise InputError(f"backends: {', '.join(self.backends)} names one of them twice.")
        for name, least in (("frames", 1), ("rounds", 1), ("starts", 1), ("warmup", 0), ("batch", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} must be at least {least}, got {value}.")
        if self.rounds > self.frames:
            raise InputError(f"{self.frames} frames cannot be shared out over {self.rounds} rounds.")
        if self.starts > self.rounds:
            raise InputError(f"{self.rounds} rounds cannot be shared out over {self.starts} starts.")
        if not self.persons or not all(0 < count <= _MOST_PEOPLE for count in self.persons):
            raise InputError(f"persons must be numbers from 1 to {_MOST_PEOPLE}, got {self.persons}.")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if min(self.frame_size_wh) < 64:
            raise InputError(f"frame_size_wh must be at least 64×64 pixels, got {self.frame_size_wh}.")

    @property
    def contestants(self) -> tuple[tuple[str, str], ...]:
        """The backends as (full name, device)."""
        split = [text.partition(":") for text in self.backends]
        return tuple((canonical_name(name), device or self.device) for name, _, device in split)

    @property
    def scenarios(self) -> tuple[int | None, ...]:
        """The numbers of people, ascending and each once; for a video, None alone."""
        return (None,) if self.video is not None else tuple(sorted(set(self.persons)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for a report: what JSON can hold, and of files their names only."""
        values = {**asdict(self), "detector": Path(self.detector).name, "pose": Path(self.pose).name}
        return values | {"video": None if self.video is None else self.video.name}

    def load_request(self, backend: str, device: str) -> dict[str, Any]:
        """Return what a contestant's process must know to load its networks, as JSON can hold it."""
        return {
            "backend": backend,
            "device": device,
            "detector": self.detector,
            "pose": self.pose,
            "threads": self.threads,
            "batch": self.batch,
            "precision": self.precision,
            "det_interval": self.det_interval,
            "video": None if self.video is None else str(self.video),
            "frame_size_wh": list(self.frame_size_wh),
        }
