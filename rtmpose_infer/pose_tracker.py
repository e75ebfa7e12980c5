"""The whole pipeline: detect when due, estimate all poses in one call, keep identities, smooth.

``PosePipeline`` holds what is expensive (the networks, loaded once, safe to share between threads); ``PoseTracker``
holds what belongs to one stream (identities, filters, time). A stream's state changes only in the last step of a frame,
so a failure in the middle of one leaves it as it was.

Many streams, whether ``track_many`` brings them or threads of a service with a tracker each, share the calls of the
networks: frames that come while a batch is under way go into the next one (``dynamic_batching.py``). ONNX Runtime on a
CPU is an exception, since there a batch is no faster than its parts and leaves a core idle whenever Python or OpenCV works.
There as many frames as there are cores (at most four) go side by side, each on its share of the cores. ONNX Runtime fixes
the number of threads when it loads a network, so the networks are loaded a second time for that. ``benchmarks/streams.py``
measures both.
"""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import numpy as np

from rtmpose_infer.backends import BackendConfig, chosen_config
from rtmpose_infer.batching import HeldNetwork
from rtmpose_infer.closing import Closing
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.dynamic_batching import DynamicBatcher, Limits
from rtmpose_infer.errors import ClosedError, InputError, RtmposeInferError
from rtmpose_infer.estimator import PoseEstimator
from rtmpose_infer.geometry import check_boxes
from rtmpose_infer.one_stage import OneStageEstimator
from rtmpose_infer.options import check_option, is_number
from rtmpose_infer.preprocess import check_frame
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.stages import NO_CLOCK, StageClock
from rtmpose_infer.tracker import Proposals, Tracker, TrackerConfig

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from typing_extensions import Unpack

    from rtmpose_infer.backends import BackendInfo
    from rtmpose_infer.preprocess import AnyFrame, Frame
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["DEFAULT_DETECTOR", "DEFAULT_POSE", "PipelineOptions", "PosePipeline", "PoseTracker"]

_log = logging.getLogger("rtmpose_infer.pose_tracker")

DEFAULT_DETECTOR = "embedded-detector"
DEFAULT_POSE = "embedded-pose"
_NOMINAL_STEP_S = 1 / 30
_SIDE_BY_SIDE = {"onnxruntime"}  # runtimes measured to gain from several calls at once on a CPU
_MOST_SIDE_BY_SIDE = 4  # frames
_LARGEST_BATCH = 16  # frames of trackers that are called from several threads; bounds memory and waiting
Network = TypeVar("Network", PersonDetector, PoseEstimator, OneStageEstimator)
Stream = TypeVar("Stream", bound=Hashable)
Result = TypeVar("Result")


class PosePipeline(Closing):
    """A detector and a pose network, or one network for both, loaded once for any number of trackers and threads.

    It belongs to the process that made it: a child that ``os.fork`` makes (as ``multiprocessing`` does by default on Linux
    before Python 3.14, and servers that load before they fork) makes its own.

    Args:
        detector: Path or zoo name of a detector, a ``PersonDetector``, or None where the caller brings all boxes.
        pose: Path or zoo name of a pose network, or a ``PoseEstimator``.
        one_stage: Path or zoo name of a network that finds people and their poses at once (RTMO), or a
            ``OneStageEstimator``; it takes the place of ``detector`` and ``pose`` and runs on every frame.
        backend: Runtime of the networks: ``"auto"``, ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"``, ``"ncnn"``.
        device: See ``BackendConfig.device``.
        threads: Threads of one network call. None leaves it to the runtime, and with ONNX Runtime on a CPU loads the
            networks a second time once calls meet (trackers on several threads, ``track_many``), for calls side by
            side on a share of the cores each; a number here saves that memory.
        backend_config: All of the runtime's settings at once, instead of ``device`` and ``threads``.
        detector_options: Further arguments of ``PersonDetector``, such as ``score_threshold``.
        pose_options: Further arguments of ``PoseEstimator``, such as ``skeleton``.
        one_stage_options: Further arguments of ``OneStageEstimator``, such as ``score_threshold``.

    Raises:
        ModelError: A model is missing, broken or of the wrong task.
        BackendError: The runtime is missing or its device did not come up.
        InputError: ``one_stage`` was given beside another network or its options, or options beside a network that is
            loaded already, or an option is unknown or out of range.
    """

    def __init__(
        self,
        *,
        detector: str | Path | PersonDetector | None = DEFAULT_DETECTOR,
        pose: str | Path | PoseEstimator = DEFAULT_POSE,
        one_stage: str | Path | OneStageEstimator | None = None,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        backend_config: BackendConfig | None = None,
        detector_options: Mapping[str, Any] | None = None,
        pose_options: Mapping[str, Any] | None = None,
        one_stage_options: Mapping[str, Any] | None = None,
    ) -> None:
        for name, given, options in (
            ("detector", detector, detector_options),
            ("pose", pose, pose_options),
            ("one_stage", one_stage, one_stage_options),
        ):
            fine = isinstance(options, (Mapping, type(None)))
            check_option(f"{name}_options", options, "a mapping of names to values, or None", fine=fine)
            if options and not isinstance(given, (str, PathLike)):
                raise InputError(f"{name}_options go with a {name} that is loaded here, got {given!r}.")
        self._config = chosen_config(backend_config, device=device, threads=threads)
        self._load_beside: Callable[..., PosePipeline] | None = None
        if self._config.threads is None and not any(isinstance(n, HeldNetwork) for n in (detector, pose, one_stage)):
            self._load_beside = partial(
                PosePipeline,
                detector=detector,
                pose=pose,
                one_stage=one_stage,
                backend=backend,
                detector_options=detector_options,
                pose_options=pose_options,
                one_stage_options=one_stage_options,
            )
        self.detector: PersonDetector | None = None
        self.one_stage: OneStageEstimator | None = None
        self._estimator: PoseEstimator | None = None
        self._streams: dict[Hashable, _Stream] = {}
        self._streams_lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._beside: PosePipeline | None = None
        self._loading = threading.Lock()
        # Bound methods would make a cycle, and dropped networks would stay until the garbage collector comes by.
        this: PosePipeline = weakref.proxy(self)
        self._batcher = DynamicBatcher(
            partial(PosePipeline._advance_together, this), partial(PosePipeline._limits, this)
        )
        self._closed = False
        common: dict[str, Any] = {"backend": backend, "backend_config": self._config}
        if one_stage is not None:
            if detector not in (DEFAULT_DETECTOR, None) or pose != DEFAULT_POSE or detector_options or pose_options:
                raise InputError(
                    "one_stage takes the place of detector and pose; pass either it, with one_stage_options, or them."
                )
            self.one_stage = _loaded(OneStageEstimator, one_stage, common, one_stage_options)
            self.skeleton: Skeleton = self.one_stage.skeleton
            return
        if detector is not None:
            self.detector = _loaded(PersonDetector, detector, common, detector_options)
        try:
            self._estimator = _loaded(PoseEstimator, pose, common, pose_options)
        except BaseException:
            if self.detector is not None and self.detector is not detector:
                self.detector.close()
            raise
        self.skeleton = self._estimator.skeleton

    @property
    def estimator(self) -> PoseEstimator:
        """The pose network for given boxes.

        Raises:
            InputError: The pipeline has a one-stage network, which takes no boxes.
        """
        if self._estimator is None:
            raise InputError("a one-stage network takes no boxes; give the pipeline a detector and a pose network.")
        return self._estimator

    def predict_batch(self, frames: Sequence[AnyFrame]) -> list[Poses]:
        """Return the poses in each of several unrelated frames: nobody is followed, and nothing is smoothed.

        Args:
            frames: Each (H, W, 3) uint8, BGR; they may differ in size.

        Raises:
            InputError: A frame cannot be used, or the pipeline has no detector.
            InferenceError: A runtime failed.
            ClosedError: The pipeline is closed.
        """
        self.check_open()
        if self.one_stage is not None:
            return self.one_stage.predict_batch(frames)
        if self.detector is None:
            raise InputError("this pipeline has no detector to find people with; use its estimator with your boxes.")
        found = self.detector.predict_batch(frames)
        return self.estimator.predict_batch(
            [(frame, people.bboxes, people.scores) for frame, people in zip(frames, found, strict=True)]
        )

    def track_many(
        self,
        frames: Mapping[Stream, AnyFrame | None],
        *,
        timestamps_s: Mapping[Stream, float] | None = None,
        config: TrackerConfig | None = None,
    ) -> dict[Stream, Poses]:
        """Track one frame of each of several streams, which share the networks' work.

        Their people go through the pose network in common calls; with ONNX Runtime on a CPU, where a common call is no
        faster, the streams go side by side instead.

        A stream is known by its key; its state is kept from call to call. A key that was not seen before joins, a key
        that is absent (or whose frame is None) pauses, ``leave`` forgets one. Frames may differ in size. With ONNX Runtime
        on a CPU the first call loads the networks a second time (see ``threads``), unless they were loaded elsewhere.

        Args:
            frames: Stream → frame (H, W, 3) uint8 BGR, or None where a camera has nothing this time.
            timestamps_s: Stream → time of its frame in seconds; 1/30 s after the last one where absent.
            config: Settings of the tracking for streams that join in this call.

        Returns:
            Stream → its poses, for every stream that had a frame.

        Raises:
            InputError: A frame or a timestamp cannot be used; the message names the stream and no stream's state has
                changed.
            InferenceError: A runtime failed; no stream's state has changed.
            ClosedError: The pipeline is closed.
        """
        check_option("frames", frames, "a mapping of streams to frames", fine=isinstance(frames, Mapping))
        timestamps_s = {} if timestamps_s is None else timestamps_s
        check_option(
            "timestamps_s", timestamps_s, "a mapping of streams to seconds", fine=isinstance(timestamps_s, Mapping)
        )
        self.check_open()
        with self._streams_lock:
            keys: list[Stream] = []
            streams: list[_Stream] = []
            work: list[_Frame] = []
            for key, image in frames.items():
                if image is None:
                    continue
                stream = self._streams.get(key) or _Stream(self.skeleton, config)
                try:
                    work.append(stream.begin(image, timestamps_s.get(key)))
                except InputError as error:
                    raise InputError(f"stream {key!r}: {error}") from error
                keys.append(key)
                streams.append(stream)
            # Copies advance, so that no stream has changed when another one's frame fails.
            streams = [stream.copy() for stream in streams]
            results = self._advance_all(streams, work)
            self.check_open()
            self._streams.update(zip(keys, streams, strict=True))
        return dict(zip(keys, results, strict=True))

    def _advance_all(self, streams: Sequence[_Stream], work: Sequence[_Frame]) -> list[Poses]:
        """Take one frame of each stream through the networks: side by side where that is faster, else in one batch."""
        if self._concurrency < 2 or len(streams) < 2:
            return _advance(self, streams, work, NO_CLOCK)
        networks = self._networks_beside(wait=True)
        with self._loading:
            self.check_open()  # or nobody would end the threads
            pool = self._pool = self._pool or ThreadPoolExecutor(
                self._concurrency, thread_name_prefix="rtmpose-streams"
            )
        futures = [
            _begun(pool, partial(_advance, networks, [stream], [frame], NO_CLOCK))
            for stream, frame in zip(streams, work, strict=True)
        ]
        wait(futures)
        return [future.result()[0] for future in futures]

    def advance(self, stream: _Stream, frame: _Frame, clock: StageClock) -> tuple[_Stream, Poses]:
        """Take one frame of one stream through the networks, together with what other threads bring meanwhile.

        Returns:
            The stream to go on with, and its poses. After an error the stream that was given is as it was.
        """
        return self._batcher((stream, frame, clock))

    def _advance_together(
        self, work: Sequence[tuple[_Stream, _Frame, StageClock]], others: int
    ) -> list[tuple[_Stream, Poses]]:
        networks = self._networks_beside(wait=False) if others and self._concurrency > 1 else self
        if len(work) == 1:
            stream, frame, clock = work[0]
            return [(stream, _advance(networks, [stream], [frame], clock)[0])]
        # Copies advance, so that no stream has changed when another one's frame fails; the stages are nobody's own.
        streams = [stream.copy() for stream, _, _ in work]
        poses = _advance(networks, streams, [frame for _, frame, _ in work], NO_CLOCK)
        return list(zip(streams, poses, strict=True))

    def _networks_beside(self, *, wait: bool) -> PosePipeline:
        """Return the networks for calls side by side: a second set with fewer threads each where a runtime needs one.

        Args:
            wait: Wait while another thread loads the second set; False: return the first set then.
        """
        if self._beside is None and self._load_beside is not None and self._loading.acquire(blocking=wait):
            try:
                if self._beside is None and not self._closed:
                    self._beside = self._load_beside(
                        backend_config=replace(self._config, threads=max(1, self._cpus // self._concurrency))
                    )
            except RtmposeInferError as error:  # such as a file that was removed; the first set goes on
                _log.warning("calls side by side share the networks' threads, for a second set did not load: %s", error)
                self._load_beside = None
            finally:
                self._loading.release()
        return self._beside or self

    def _limits(self) -> Limits:
        """Return how frames of trackers that are called from several threads go through the networks."""
        if self._concurrency > 1:
            return Limits(concurrency=self._concurrency, batch_size=1)
        # While an accelerator computes for one batch, the host can crop and associate for another (not measured).
        on_cpu = all(info.device.lower() == "cpu" for info in self.describe().values())
        return Limits(concurrency=1 if on_cpu else 2, batch_size=_LARGEST_BATCH)

    @cached_property
    def _concurrency(self) -> int:
        """Frames to run side by side, each in network calls of its own; 1 where batches are better."""
        networks = self.describe().values()
        if not all(info.runtime in _SIDE_BY_SIDE and info.device.lower() == "cpu" for info in networks):
            return 1
        return min(self._cpus, _MOST_SIDE_BY_SIDE)

    @cached_property
    def _cpus(self) -> int:
        from rtmpose_infer.machine import usable_cpus  # imports much that a single stream does not need

        return int(usable_cpus())

    def leave(self, stream: Hashable) -> None:
        """Forget a stream of ``track_many``; an unknown one is fine."""
        with self._streams_lock:
            self._streams.pop(stream, None)

    def describe(self) -> dict[str, BackendInfo]:
        """Return what the networks really run on, by ``"detector"`` and ``"pose"``, or ``"one_stage"``."""
        networks = {"detector": self.detector, "pose": self._estimator, "one_stage": self.one_stage}
        return {name: network.describe() for name, network in networks.items() if network is not None}

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def check_open(self) -> None:
        """Check that the pipeline can be used; see ``Backend.check_open``.

        Raises:
            ClosedError: ``close`` was called before.
            BackendError: The networks were loaded before ``os.fork``, in the parent process.
        """
        if self._closed:
            raise ClosedError("this PosePipeline is closed; make another one.")
        # One of them tells; it and the others are asked when they run as well.
        (self.one_stage or self.estimator).backend.check_open()

    def close(self) -> None:
        """Free the networks, those that were passed in too; may be called twice."""
        self._closed = True
        with self._loading:
            pool, self._pool = self._pool, None
            beside, self._load_beside = self._beside, None
        if pool is not None:
            pool.shutdown()
        for network in (self.detector, self._estimator, self.one_stage, beside):
            if network is not None:
                network.close()
        self._streams.clear()


def _loaded(kind: type[Network], network: Any, common: Mapping[str, Any], options: Mapping[str, Any] | None) -> Network:
    """Return a network that was passed in as it is, and load one that was named."""
    return network if isinstance(network, kind) else kind(network, **common, **(options or {}))


def _begun(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Future[Result]:
    """Begin work in the pool; where the pool takes none any more, do it here.

    That is so once the pipeline is closed, which the work finds out itself, and once the main thread has ended, though
    other threads go on.
    """
    try:
        return pool.submit(work)
    except RuntimeError:
        done: Future[Result] = Future()
        done.set_result(work())
        return done


@dataclass(frozen=True, eq=False)
class _Frame:
    """One frame on its way through the pipeline."""

    image: Frame
    size_wh: tuple[int, int]
    timestamp_s: float
    detection_due: bool
    detections: Detections | None


class _Stream:
    """What belongs to one stream: its tracker and its time."""

    def __init__(self, skeleton: Skeleton, config: TrackerConfig | None) -> None:
        self._tracker = Tracker(skeleton, config)
        self._last_time_s: float | None = None

    def copy(self) -> _Stream:
        """Return a stream that goes on from here and leaves this one as it is: states are replaced, never changed."""
        other = copy.copy(self)
        other._tracker = copy.copy(self._tracker)  # noqa: SLF001  # of the same class
        return other

    def begin(self, image: Any, timestamp_s: float | None, bboxes_xyxy: npt.ArrayLike | None = None) -> _Frame:
        """Check one frame's input; changes nothing."""
        image = check_frame(image)
        size_wh = (image.shape[1], image.shape[0])
        last = self._last_time_s
        if timestamp_s is None:
            timestamp_s = 0.0 if last is None else last + _NOMINAL_STEP_S
        check_option("timestamp_s", timestamp_s, "a finite number of seconds", fine=is_number(timestamp_s))
        if last is not None and timestamp_s < last:
            raise InputError(
                f"timestamp_s went back from {last:g} to {timestamp_s:g}; before a stream begins anew call reset(), or "
                "leave() for one of track_many."
            )
        detections = None
        if bboxes_xyxy is not None:
            boxes = check_boxes(bboxes_xyxy, "bboxes_xyxy")
            detections = Detections(boxes, np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64))
        due = detections is None and self._tracker.detection_due(timestamp_s, size_wh)
        return _Frame(image, size_wh, float(timestamp_s), due, detections)

    def propose(self, frame: _Frame) -> Proposals:
        """Return the boxes to estimate poses in; changes nothing."""
        return self._tracker.propose(frame.detections, timestamp_s=frame.timestamp_s, frame_size_wh=frame.size_wh)

    def take(self, frame: _Frame, poses: Poses) -> tuple[Proposals, Poses]:
        """Return the people whom a one-stage network found, as if proposed and estimated; changes nothing."""
        return self._tracker.take(poses, timestamp_s=frame.timestamp_s, frame_size_wh=frame.size_wh)

    def commit(self, frame: _Frame, proposals: Proposals, poses: Poses, clock: StageClock, *, detected: bool) -> Poses:
        """Take the poses into the stream's state and return the tracked people."""
        tracked = self._tracker.update(proposals, poses, timestamp_s=frame.timestamp_s, detected=detected, clock=clock)
        self._last_time_s = frame.timestamp_s
        return tracked

    def reset(self) -> None:
        """Begin anew."""
        self._tracker.reset()
        self._last_time_s = None


def _advance(
    pipeline: PosePipeline, streams: Sequence[_Stream], frames: Sequence[_Frame], clock: StageClock
) -> list[Poses]:
    """Take one frame of each stream through the networks; no stream changes before all of them have answered."""
    pipeline.check_open()
    if pipeline.one_stage is not None:
        if any(frame.detections is not None for frame in frames):
            raise InputError("bboxes_xyxy: a one-stage network takes no boxes; leave them out.")
        everybody = pipeline.one_stage.predict_batch([frame.image for frame in frames], clock=clock)
        work = zip(streams, frames, everybody, strict=True)
        tracked = [s.commit(f, *s.take(f, poses), clock, detected=True) for s, f, poses in work]
        clock.lap("track")
        return tracked
    frames = list(frames)
    due = [i for i, frame in enumerate(frames) if frame.detection_due]
    if due and pipeline.detector is not None:
        found = pipeline.detector.predict_batch([frames[i].image for i in due], clock=clock)
        for i, detections in zip(due, found, strict=True):
            frames[i] = replace(frames[i], detections=detections)
    proposals = [stream.propose(frame) for stream, frame in zip(streams, frames, strict=True)]
    clock.lap("track")
    poses = pipeline.estimator.predict_batch(
        [(f.image, p.bboxes, p.bbox_scores) for f, p in zip(frames, proposals, strict=True)], clock=clock
    )
    tracked = [
        s.commit(f, p, found, clock, detected=f.detections is not None)
        for s, f, p, found in zip(streams, frames, proposals, poses, strict=True)
    ]
    clock.lap("track")
    return tracked


class PipelineOptions(TypedDict, total=False):
    """The arguments of ``PosePipeline``, for what makes its own from them."""

    detector: str | Path | PersonDetector | None
    pose: str | Path | PoseEstimator
    one_stage: str | Path | OneStageEstimator | None
    backend: str
    device: str
    threads: int | None
    backend_config: BackendConfig | None
    detector_options: Mapping[str, Any] | None
    pose_options: Mapping[str, Any] | None
    one_stage_options: Mapping[str, Any] | None


class PoseTracker(Closing):
    """Tracks the poses of people through one stream of frames.

        with PoseTracker() as tracker:
            for frame in frames:
                poses = tracker(frame)

    Several threads may call one tracker; their frames are taken one after the other.

    Args:
        pipeline: Networks to share with other trackers; it stays open when this tracker closes. None: own networks,
            made from ``pipeline_options`` (the arguments of ``PosePipeline``: detector, pose, backend, device, …).
        det_interval: Run the detector on every n-th frame, or ``"auto"``; see ``TrackerConfig``. A one-stage network runs on
            every frame.
        config: All settings of the tracking at once, instead of ``det_interval``.
        pipeline_options: See ``pipeline``.

    Raises:
        InputError: An option is out of range, or options were given beside a pipeline.
        ModelError: A model is missing, broken or of the wrong task.
        BackendError: The runtime is missing or its device did not come up.
    """

    def __init__(
        self,
        pipeline: PosePipeline | None = None,
        *,
        det_interval: int | Literal["auto"] | None = None,
        config: TrackerConfig | None = None,
        **pipeline_options: Unpack[PipelineOptions],
    ) -> None:
        fine = isinstance(pipeline, PosePipeline | None)
        check_option("pipeline", pipeline, "a PosePipeline (detector=… and pose=… name networks)", fine=fine)
        if pipeline is not None and pipeline_options:
            raise InputError(
                f"{', '.join(sorted(pipeline_options))}: options of the networks go to the PosePipeline that is shared."
            )
        if det_interval is not None:
            if config is not None:
                raise InputError("pass either det_interval or config, which holds it.")
            config = TrackerConfig(det_interval=det_interval)
        self._owns_pipeline = pipeline is None
        self.pipeline = pipeline or PosePipeline(**pipeline_options)
        self._stream = _Stream(self.pipeline.skeleton, config)
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    def __call__(
        self,
        frame: AnyFrame,
        *,
        timestamp_s: float | None = None,
        bboxes_xyxy: npt.ArrayLike | None = None,
        clock: StageClock = NO_CLOCK,
    ) -> Poses:
        """Return the poses in the stream's next frame.

        Args:
            frame: (H, W, 3) uint8, BGR. Its size may change from frame to frame.
            timestamp_s: When it was taken, in seconds, not before the last frame's; 1/30 s after it when None. The time
                of its arrival will do where frames do not come in bursts.
            bboxes_xyxy: (N, 4) boxes of people in this frame, from a detector of one's own; they stand in for the
                detector's. None: the pipeline's detector runs when it is due.
            clock: Is lapped at the end of every stage; not for a frame that shared its network calls with those of
                other threads.

        Returns:
            The people seen in this frame, with ``track_ids``.

        Raises:
            InputError: The frame, boxes or time cannot be used (ShapeError, DTypeError). After this and any other error the
                tracker's state is as before this frame.
            InferenceError: A runtime failed.
            OutputMismatchError: A network's outputs are not what its file promised.
            ClosedError: The tracker is closed.
            BackendError: The networks were loaded before ``os.fork``, in the parent process.
        """
        self._check_open()  # before the lock: a fork may have taken it along from a thread that never gives it back
        with self._lock:
            self._check_open()
            clock.start()
            work = self._stream.begin(frame, timestamp_s, bboxes_xyxy)
            self._stream, poses = self.pipeline.advance(self._stream, work, clock)
            return poses

    async def atrack(
        self,
        frame: AnyFrame,
        *,
        timestamp_s: float | None = None,
        bboxes_xyxy: npt.ArrayLike | None = None,
    ) -> Poses:
        """Return what calling the tracker returns, without blocking the event loop.

        Frames are taken in the order of the calls. The frame must not be changed before the result is there. A frame that
        is under way when the call is cancelled is taken all the same.

        Args:
            frame: See ``__call__``, as for the errors.
            timestamp_s: See ``__call__``.
            bboxes_xyxy: See ``__call__``.

        Raises:
            ClosedError: The tracker is closed.
        """
        import asyncio  # most services never await, and it would be a fifth of this package's import time

        self._check_open()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rtmpose-tracker")
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: self(frame, timestamp_s=timestamp_s, bboxes_xyxy=bboxes_xyxy)
        )

    def reset(self) -> None:
        """Forget everyone; ids start at 1 and time and frame numbers at 0 again."""
        with self._lock:
            self._stream.reset()

    def describe(self) -> dict[str, BackendInfo]:
        """Return what the networks really run on; see ``PosePipeline.describe``."""
        return self.pipeline.describe()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this PoseTracker is closed; make another one.")
        self.pipeline.check_open()

    def close(self) -> None:
        """End the tracker, and free the networks unless they are shared; may be called twice."""
        self._closed = True
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
        if self._owns_pipeline:
            self.pipeline.close()
