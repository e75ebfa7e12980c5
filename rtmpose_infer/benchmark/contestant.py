"""One backend under measurement; this runs in a worker's process.

Each frame is measured twice, one after the other: through the whole pipeline, and as its bare network calls with the
same inputs. Noise that lasts longer than a frame hits both alike, so their ratio is steady on a busy machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.backends import Arrays, Backend, BackendConfig, BackendInfo
from rtmpose_infer.benchmark.precision import actual_precision, check_precision, precision_options
from rtmpose_infer.benchmark.scene import Scene, SceneDetector, SceneEstimator, sample_pictures
from rtmpose_infer.cache import sha256_of
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.drawing import draw_poses
from rtmpose_infer.errors import MediaError
from rtmpose_infer.estimator import PoseEstimator
from rtmpose_infer.machine import peak_memory_bytes
from rtmpose_infer.pose_tracker import PosePipeline, PoseTracker
from rtmpose_infer.stages import StageClock
from rtmpose_infer.video import open_source
from rtmpose_infer.zoo import resolve
from rtmpose_infer.zoo.store import NETWORK

if TYPE_CHECKING:
    from rtmpose_infer.preprocess import Frame

__all__ = ["Contestant", "RecordingBackend"]

Json = dict[str, Any]

_RATE = 30.0


class RecordingBackend(Backend):
    """Hands every call on to a backend, and keeps the inputs of one frame's calls to make them again.

    Attributes:
        inner: The backend.
        seconds: Time spent in it since ``forget``.
    """

    def __init__(self, inner: Backend, *, largest_batch: int | None = None) -> None:
        sizes = inner.batch_sizes
        if largest_batch is not None:
            sizes = tuple(s for s in sizes or range(1, largest_batch + 1) if s <= largest_batch) or (largest_batch,)
        super().__init__(inner.inputs, inner.outputs, batch_sizes=sizes)
        self.inner = inner
        self.seconds = 0.0
        self._feeds: list[Mapping[str, npt.NDArray[Any]]] = []

    @property
    def calls(self) -> int:
        """How many calls were made since ``forget``."""
        return len(self._feeds)

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run the network once; see ``Backend.run``."""
        start = time.perf_counter()
        answers = self.inner.run(feeds)
        self.seconds += time.perf_counter() - start
        self._feeds.append(feeds)
        return answers

    def _run(self, feeds: Arrays) -> Arrays:
        return self.inner.run(feeds)

    def describe(self) -> BackendInfo:
        """Return what the backend says."""
        return self.inner.describe()

    def close(self) -> None:
        """Free the network."""
        super().close()
        self.inner.close()

    def repeat(self) -> float:
        """Make the recorded calls again, alone, and return the seconds they took."""
        start = time.perf_counter()
        for feeds in self._feeds:
            self.inner.run(feeds)
        return time.perf_counter() - start

    def forget(self) -> None:
        """Begin a new frame."""
        self.seconds = 0.0
        self._feeds.clear()


class Contestant:
    """Answers the requests of the runner; holds one backend's pipeline.

    ``{"do": "load", …}`` loads the networks and times the first frame, ``{"do": "round", …}`` measures some frames,
    ``{"do": "predict", …}`` returns what the networks see in a few pictures, ``{"do": "memory"}`` the peak so far.
    """

    def __init__(self) -> None:
        self._answers: dict[str, Callable[[Json], Any]] = {
            "load": self._load,
            "round": self._round,
            "predict": self._predict,
            "memory": lambda _: peak_memory_bytes(),
        }
        self._runs: dict[int | None, _Run] = {}

    def __call__(self, request: Json) -> Any:
        """Answer one request.

        Raises:
            RtmposeInferError: A network cannot be loaded or run, or the video cannot be read.
        """
        return self._answers[request["do"]](request)

    def _load(self, request: Json) -> Json:
        imported_s = time.time() - request["started"]
        start = time.perf_counter()
        networks = self._networks = _Networks(request)
        loaded_s = time.perf_counter() - start
        frame = next(networks.frames(None if request["video"] else 1))
        ready = time.perf_counter()
        with PoseTracker(networks.pipeline) as tracker:
            tracker(frame)
        first_s = time.perf_counter() - ready
        return {
            "seconds": {
                "import_s": imported_s,
                "load_s": loaded_s,
                "first_frame_s": first_s,
                "total_s": imported_s + loaded_s + first_s,
            },
            "detector": _facts(request["detector"], "detection", networks.detector),
            "pose": _facts(request["pose"], "pose", networks.estimator),
            "process_cpu_s": time.process_time(),
        }

    def _round(self, request: Json) -> Json:
        cpu = time.process_time()
        persons = request["persons"]
        run = self._runs.get(persons)
        if run is None:
            run = self._runs[persons] = _Run(self._networks, persons)
            for _ in range(request["warmup"]):
                run.measure()
        frames = [run.measure() for _ in range(request["frames"])]
        stages = sorted({name for frame in frames for name in frame["stages_s"]})
        values = [key for key in frames[0] if key != "stages_s"]
        return {
            "stages_s": {name: [frame["stages_s"].get(name) for frame in frames] for name in stages},
            **{key: [frame[key] for frame in frames] for key in values},
            "process_cpu_s": time.process_time() - cpu,
        }

    def _predict(self, request: Json) -> list[Json]:
        networks = self._networks
        networks.follow(None)
        results = []
        for i, (picture, known) in enumerate(sample_pictures(networks.request["video"])):
            detections = networks.detector.predict(picture)
            boxes = detections.bboxes if known is None else known
            if request["bboxes"] is not None:
                boxes = np.array(request["bboxes"][i], np.float32).reshape(-1, 4)
            poses = networks.estimator.predict(picture, boxes)
            results.append(
                {
                    "bboxes": boxes.tolist(),
                    "keypoints": np.nan_to_num(poses.keypoints).tolist(),
                    "scores": poses.keypoint_scores.tolist(),
                    "detections": detections.bboxes.tolist(),
                    "detection_scores": detections.scores.tolist(),
                }
            )
        return results


class _Networks:
    """A pipeline whose network calls are recorded and whose answers a scene may replace."""

    def __init__(self, request: Json) -> None:
        self.request = request
        config = BackendConfig(
            device=request["device"],
            threads=request["threads"],
            cache_dir=Path(request["cache_dir"]),
            options=precision_options(request["backend"], request["precision"]),
        )
        detector = PersonDetector(request["detector"], backend=request["backend"], backend_config=config)
        estimator = PoseEstimator(request["pose"], backend=request["backend"], backend_config=config)
        for name, network in (("detector", detector), ("pose network", estimator)):
            check_precision(name, network, request["precision"])
        self.detector_calls = RecordingBackend(detector.backend)
        self.pose_calls = RecordingBackend(estimator.backend, largest_batch=request["batch"])
        self.detector = SceneDetector.from_backend(self.detector_calls, detector.spec)
        self.estimator = SceneEstimator.from_backend(self.pose_calls, estimator.spec)
        self.pipeline = PosePipeline(detector=self.detector, pose=self.estimator)

    def follow(self, scene: Scene | None) -> None:
        """Let the networks answer what this scene shows; None: what they see."""
        self.detector.scene = self.estimator.scene = scene

    def frames(self, persons: int | None) -> Iterator[Frame]:
        """Yield frames without end: the scene's, or with None the video's over and over."""
        if persons is None:
            while True:
                self.follow(None)
                with open_source(self.request["video"]) as source:
                    if source.is_live:
                        raise MediaError(f"{source.name} is a live source, whose rate would be measured; pass a file.")
                    for frame in source:
                        self.follow(None)
                        yield frame.image
        scene = Scene(persons, tuple(self.request["frame_size_wh"]))
        while True:
            self.follow(scene)
            yield scene.draw()
            scene.index += 1


class _Run:
    """One scenario: its frames, its tracker and its clock."""

    def __init__(self, networks: _Networks, persons: int | None) -> None:
        self._networks = networks
        self._frames = networks.frames(persons)
        self._decodes = persons is None
        self._index = 0
        self._canvas: Frame | None = None
        self._clock = StageClock()
        self._tracker = PoseTracker(networks.pipeline, det_interval=networks.request["det_interval"])

    def measure(self) -> Json:
        """Take one frame through the pipeline, then through the networks alone."""
        clock, networks = self._clock, self._networks
        detector, pose = networks.detector_calls, networks.pose_calls
        start = time.perf_counter()
        frame = next(self._frames)
        decode_s = time.perf_counter() - start
        scene = networks.detector.scene
        if scene is not None:
            scene.replacing_s = 0.0
        detector.forget()
        pose.forget()
        cpu = time.process_time()
        start = time.perf_counter()
        poses = self._tracker(frame, timestamp_s=self._index / _RATE, clock=clock)
        latency_s = time.perf_counter() - start
        cpu_s = time.process_time() - cpu
        self._index += 1
        stages = clock.reset()
        # What surrounds the calls proper: making the tensor the network wants out of pictures.
        stages["prepare"] = stages.get("detect", 0.0) - detector.seconds + stages.get("pose", 0.0) - pose.seconds
        for name, calls in (("detect", detector), ("pose", pose)):
            if calls.calls:
                stages[name] = calls.seconds
        if self._decodes:
            stages["decode"] = decode_s
        if self._canvas is None or self._canvas.shape != frame.shape:
            self._canvas = np.empty_like(frame)
        start = time.perf_counter()
        draw_poses(frame, poses, out=self._canvas)
        stages["draw"] = time.perf_counter() - start
        return {
            "stages_s": stages,
            "latency_s": latency_s - (0.0 if scene is None else scene.replacing_s),
            "model_s": detector.seconds + pose.seconds,
            "floor_s": detector.repeat() + pose.repeat(),
            "cpu_s": cpu_s,
            "people": len(poses),
            "detector_calls": detector.calls,
            "pose_calls": pose.calls,
        }


def _facts(model: str, task: str, network: PersonDetector | PoseEstimator) -> Json:
    path = resolve(model, task=task)
    info = network.describe()
    weights = path / NETWORK if path.is_dir() else path  # the file that holds them
    if weights.suffix == ".xml" or info.runtime == "ncnn":
        weights = weights.with_suffix(".bin")
    return {
        "model": Path(model).name,
        "sha256": sha256_of(weights),
        "bytes": weights.stat().st_size,
        "input_size_wh": list(network.spec.input_size_wh),
        "precision": actual_precision(network),
        "runtime": info.runtime,
        "version": info.version,
        "device": info.device,
        "threads": info.threads,
        "details": dict(info.details),
    }
