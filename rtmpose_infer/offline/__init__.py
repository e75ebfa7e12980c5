"""Tracking a whole video with knowledge of the future: faster, steadier and more accurate than frame by frame.

Online, every frame must be answered before the next one comes. A file has no deadline, so here: the detector sees key
frames only, boxes in between are interpolated from both sides, and each core runs a network call of its own (small
networks cannot fill several), over all people of a few frames. Only a person who is followed where there is no such box
needs a further network call. People are shown from their first frame on if the evidence for them convinces later, and never
if it does not; tracks of one person can be joined over gaps once the whole video is known; and joints are smoothed with the
frames before and after, so without lag. Results are the same ``Poses`` as online, in order.

A one-stage network looks at every frame, one frame per core, and its people are followed and smoothed in the same way.

Memory is bounded: a few key intervals of frames and one for each core, up to eight; everything else is on disk (see
``spool``).
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.closing import Closing
from rtmpose_infer.errors import InputError
from rtmpose_infer.machine import usable_cpus
from rtmpose_infer.offline.linking import Candidates, KeyLinker
from rtmpose_infer.offline.refining import Piece, advancing_times, joined_ids, smooth_two_way
from rtmpose_infer.offline.spool import Spool
from rtmpose_infer.options import check_option, is_number, is_whole
from rtmpose_infer.pose_tracker import PipelineOptions, PosePipeline
from rtmpose_infer.preprocess import check_frame
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.tracker import Proposals, Tracker, TrackerConfig

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rtmpose_infer.batching import HeldNetwork
    from rtmpose_infer.estimator import View
    from rtmpose_infer.preprocess import AnyFrame, Frame
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["OfflineConfig", "OfflineTracker"]

_LOOKAHEAD = 2  # key frames known beyond a frame before its boxes are decided
_KEYS_PER_CALL = 2  # key frames in one call of the detector
_MOST_CALLS = 8  # of the pose network at once, each of which holds a key interval of frames
_SMOOTHING_REACH_S = 4  # standard deviations of the window that are read before and after a block
_BLOCK = 256  # frames smoothed at a time
_LEAST_WINDOW = 0.7  # frames: at 10 a second as steady as online, and more accurate
_SIDES: dict[str, int] = {"all": 0, "plain": 1, "mirrored": -1}
_ALTERNATE_UP_TO = 0.85  # between two frames, standard deviations of the window: 24 frames a second by default


@dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """How a whole video is tracked.

    Attributes:
        key_interval: Run the detector on every n-th frame; a one-stage network runs on every frame.
        longest_gap_s: Join tracks over gaps up to this, beyond what ``tracker.track_lost_s`` joins anyway. For scenes
            with few people; where many come and go, a wrong join costs more than a missed one.
        smoothing_s: Standard deviation of the two-way smoothing window in seconds, and at least 0.7 frames, so that
            videos of few frames a second are smoothed too; 0 leaves the joints as they are.
        workers: Network calls at once; None: one for each core that the process may use.
        tracker: What counts as a person; its ``det_interval`` and ``smoothing`` do not apply here.

    Raises:
        InputError: A setting is out of range.
    """

    key_interval: int = 5
    longest_gap_s: float = 0.0
    smoothing_s: float = 0.05
    workers: int | None = None
    tracker: TrackerConfig = TrackerConfig(smoothing=None)  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        def check(name: str, expected: str, *, fine: bool) -> None:
            check_option(f"OfflineConfig.{name}", getattr(self, name), expected, fine=fine)

        keys, gap_s, smoothing_s, workers = self.key_interval, self.longest_gap_s, self.smoothing_s, self.workers
        check("key_interval", "a whole number of frames from 1 on", fine=is_whole(keys) and keys >= 1)
        check("longest_gap_s", "0 or more seconds", fine=is_number(gap_s) and gap_s >= 0)
        check("smoothing_s", "from 0 to less than 10 seconds", fine=is_number(smoothing_s) and 0 <= smoothing_s < 10)
        fine = workers is None or (is_whole(workers) and workers >= 1)
        check("workers", "a whole number from 1 on, or None", fine=fine)
        check("tracker", "a TrackerConfig", fine=isinstance(self.tracker, TrackerConfig))


class OfflineTracker(Closing):
    """Tracks whole videos.

        with OfflineTracker() as tracker:
            for poses in tracker.track(frames):       # pairs of frame and its time in seconds
                ...

    Args:
        pipeline: Networks to share; None: own ones with one thread each, which is what makes ``workers`` pay.
        config: Settings.
        pipeline_options: Arguments of ``PosePipeline`` where it makes its own.

    Raises:
        InputError: Options were given beside a pipeline, or the pipeline has nothing that finds people.
        ModelError: A model is missing, broken or of the wrong task.
        BackendError: The runtime is missing or its device did not come up.
    """

    def __init__(
        self,
        pipeline: PosePipeline | None = None,
        *,
        config: OfflineConfig | None = None,
        **pipeline_options: Unpack[PipelineOptions],
    ) -> None:
        fine = isinstance(pipeline, PosePipeline | None)
        check_option("pipeline", pipeline, "a PosePipeline (detector=… and pose=… name networks)", fine=fine)
        if pipeline is not None and pipeline_options:
            raise InputError(
                f"{', '.join(sorted(pipeline_options))}: options of the networks go to the PosePipeline that is shared."
            )
        check_option("config", config, "an OfflineConfig or None", fine=isinstance(config, OfflineConfig | None))
        self.config = config or OfflineConfig()
        self._owns_pipeline = pipeline is None
        if pipeline_options.get("backend_config") is None:
            pipeline_options = {"threads": 1, **pipeline_options}
        self.pipeline = pipeline or PosePipeline(**pipeline_options)
        if self.pipeline.detector is None and self.pipeline.one_stage is None:
            if self._owns_pipeline:
                self.pipeline.close()
            raise InputError("offline tracking needs a detector or a one-stage network; the pipeline has neither.")

    def track(
        self,
        frames: Iterable[tuple[AnyFrame, float]],
        *,
        work_dir: str | Path | None = None,
        video_id: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Poses]:
        """Yield the poses of every frame, in order, once the whole video has been seen.

        Args:
            frames: Pairs of a frame, (H, W, 3) uint8 BGR, and its time in seconds, ascending.
            work_dir: Folder for the work in progress. A run that was killed goes on from it when it is given the same
                video again, with the identical result. None: a temporary folder that is removed.
            video_id: What tells this video from others, such as its path and size; a ``work_dir`` of another video is
                refused.
            progress: Called with the number of frames the networks have finished.

        Raises:
            InputError: A frame or time cannot be used, or ``work_dir`` belongs to other work.
            InferenceError: A runtime failed; what was done is kept in ``work_dir``.
            MediaError: ``work_dir`` cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix="rtmpose-offline-") as temporary:
            kept = None if work_dir is None else Spool(Path(work_dir), self._fingerprint(video_id))
            with kept or nullcontext(), Spool(Path(temporary), {}) as scratch:
                summary, identities = self._follow(frames, kept, scratch, progress)
                yield from _refined(scratch, summary, identities, self.pipeline, self.config)

    def _fingerprint(self, video_id: str) -> dict[str, Any]:
        pipeline = self.pipeline
        boxes_first = pipeline.one_stage is None
        networks: dict[str, HeldNetwork | None] = {"detector": pipeline.detector, "one_stage": pipeline.one_stage}
        if boxes_first:
            networks["pose"] = pipeline.estimator
        return {
            "video": video_id,
            **{name: network.fingerprint() for name, network in networks.items() if network is not None},
            "runtime": {k: [v.runtime, v.version, v.device, v.precision] for k, v in pipeline.describe().items()},
            "key_interval": self.config.key_interval,
            # With a flip test it decides which halves are made; without, it may change between two runs.
            "smoothing_s": self.config.smoothing_s if boxes_first and pipeline.estimator.spec.flip_test else None,
        }

    def _follow(
        self,
        frames: Iterable[tuple[AnyFrame, float]],
        spool: Spool | None,
        scratch: Spool,
        progress: Callable[[int], None] | None,
    ) -> tuple[_Summary, dict[int, int]]:
        """Run the networks over the video and number every frame's people; keep them in ``scratch``.

        Returns:
            What must be known of the whole video, and the identity of each number.
        """
        config = replace(self.config.tracker, smoothing=None, det_interval=1)
        tracker = Tracker(self.pipeline.skeleton, config, hindsight=True)
        summary = _Summary()
        seen = self._seen_by_boxes if self.pipeline.one_stage is None else self._seen_at_once
        for frame, proposals, poses, detected in seen(frames, spool, tracker):
            tracked = tracker.update(proposals, poses, timestamp_s=frame.time_s, detected=detected)
            scratch.save(
                "frame",
                frame.index,
                keypoints=tracked.keypoints_raw,
                keypoint_scores=tracked.keypoint_scores,
                bboxes=tracked.bboxes,
                bbox_scores=tracked.bbox_scores,
                track_ids=np.asarray(tracked.track_ids),
                size_wh=np.array(frame.size_wh),
                view=np.array(_SIDES[frame.view]),
            )
            summary.add(frame.time_s, tracked)
            if progress is not None:
                progress(frame.index + 1)
        return summary, tracker.identities

    def _seen_by_boxes(
        self, frames: Iterable[tuple[AnyFrame, float]], spool: Spool | None, tracker: Tracker
    ) -> Iterator[_Seen]:
        """Yield each frame with the poses in the boxes that are detected, interpolated or expected there."""
        for frame, candidates, found in self._estimated(frames, spool):
            boxes = Detections(candidates.bboxes, candidates.scores, np.zeros(len(candidates.bboxes), np.int64))
            wanted = tracker.propose(
                boxes, timestamp_s=frame.time_s, frame_size_wh=frame.size_wh, interpolated=~candidates.detected
            )
            proposals, poses = self._completed(frame, wanted, candidates, found, spool)
            yield frame, proposals, poses, frame.index % self.config.key_interval == 0

    def _seen_at_once(
        self, frames: Iterable[tuple[AnyFrame, float]], spool: Spool | None, tracker: Tracker
    ) -> Iterator[_Seen]:
        """Yield each frame with everybody whom a one-stage network finds there, keeping the cores busy meanwhile."""
        workers = _workers(self.config)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="rtmpose-offline")
        looking: deque[tuple[_Frame, Future[Poses]]] = deque()

        def taken() -> _Seen:
            frame, everybody = looking.popleft()
            people = tracker.take(everybody.result(), timestamp_s=frame.time_s, frame_size_wh=frame.size_wh)
            return frame, *people, True

        try:
            for frame in self._checked(frames):
                looking.append((frame, pool.submit(self._everybody, frame, spool)))
                if len(looking) > 2 * workers:
                    yield taken()
            while looking:
                yield taken()
        finally:
            pool.shutdown(cancel_futures=True)

    def _checked(self, frames: Iterable[tuple[AnyFrame, float]]) -> Iterator[_Frame]:
        last_time_s = -np.inf
        for index, (image, time_s) in enumerate(frames):
            if not (is_number(time_s) and time_s >= last_time_s):
                raise InputError(f"frame {index}: time {time_s} is not finite or goes back from {last_time_s}.")
            yield _Frame(index, check_frame(image), float(time_s), self._view(index, time_s - last_time_s))
            last_time_s = time_s

    def _completed(
        self, frame: _Frame, proposals: Proposals, candidates: Candidates, poses: Poses, spool: Spool | None
    ) -> tuple[Proposals, Poses]:
        """Return the proposals, marked where the detector found that box, and their poses; missing ones are estimated."""
        row_of = {box.tobytes(): row for row, box in enumerate(candidates.bboxes)}
        rows = np.array([row_of.get(box.tobytes(), -1) for box in proposals.bboxes], np.intp)
        known, own = rows >= 0, rows < 0
        detected = np.zeros(len(rows), bool)
        detected[known] = candidates.detected[rows[known]]
        proposals = replace(proposals, detected=detected)
        if not own.any():
            return proposals, poses[rows]
        alone = Candidates(proposals.bboxes[own], proposals.bbox_scores[own], detected[own])
        keypoints = np.zeros((len(rows), *poses.keypoints.shape[1:]), np.float32)
        keypoint_scores = np.zeros(keypoints.shape[:2], np.float32)
        for chosen, found in (
            (known, poses[rows[known]]),
            (own, self._poses([(frame, alone)], spool, kind="own poses")[0]),
        ):
            keypoints[chosen], keypoint_scores[chosen] = found.keypoints, found.keypoint_scores
        return proposals, Poses(
            keypoints,
            keypoint_scores,
            proposals.bboxes,
            proposals.bbox_scores,
            poses.skeleton,
            frame_index=frame.index,
            timestamp_s=frame.time_s,
            frame_size_wh=frame.size_wh,
        )

    def _estimated(
        self, frames: Iterable[tuple[AnyFrame, float]], spool: Spool | None
    ) -> Iterator[tuple[_Frame, Candidates, Poses]]:
        """Yield each frame with the boxes looked at and the poses found there, keeping the cores busy meanwhile."""
        workers = _workers(self.config)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="rtmpose-offline")
        schedule = _Schedule(
            self.config.key_interval,
            calls=min(workers, _MOST_CALLS),
            detect=lambda keys: pool.submit(self._detections, keys, spool),
            estimate=lambda frames: pool.submit(self._poses, frames, spool),
        )
        try:
            for frame in self._checked(frames):
                schedule.add(frame)
                yield from schedule.finished()
            yield from schedule.rest()
        finally:
            pool.shutdown(cancel_futures=True)

    def _view(self, index: int, step_s: float) -> View:
        """Return which halves of the pose network's flip test a frame gets: with smoothing, the halves can take turns.

        The difference of the two halves then alternates from frame to frame, and the smoothing window leaves 1 % of it at
        24 frames a second and 0.2 % at 30.
        """
        if self.pipeline.one_stage is not None or not self.pipeline.estimator.spec.flip_test:
            return "all"
        if step_s > _ALTERNATE_UP_TO * self.config.smoothing_s:
            return "all"
        return "mirrored" if index % 2 else "plain"

    def _detections(self, frames: list[_Frame], spool: Spool | None) -> list[Detections]:
        detector = self.pipeline.detector
        assert detector is not None  # noqa: S101  # checked when this was made
        if spool is None:
            return detector.predict_batch([f.image for f in frames])
        saved = [spool.load("detections", f.index) for f in frames]
        missing = [f for f, s in zip(frames, saved, strict=True) if s is None]
        found = iter(detector.predict_batch([f.image for f in missing]) if missing else ())
        answers = []
        for frame, arrays in zip(frames, saved, strict=True):
            if arrays is not None:
                answers.append(Detections(arrays["bboxes"], arrays["scores"], arrays["labels"]))
                continue
            fresh = next(found)
            spool.save("detections", frame.index, bboxes=fresh.bboxes, scores=fresh.scores, labels=fresh.labels)
            answers.append(fresh)
        return answers

    def _poses(
        self, frames: Sequence[tuple[_Frame, Candidates]], spool: Spool | None, *, kind: str = "poses"
    ) -> list[Poses]:
        """Return the poses in the boxes of some frames, with one call of the pose network for each view.

        A runtime's answers may differ in their last bits with the size of a call, so a resumed run repeats whole calls.
        """
        found: dict[int, Poses] = {}
        for view in dict.fromkeys(frame.view for frame, _ in frames):
            wanted = [(frame, candidates) for frame, candidates in frames if frame.view == view]
            kept = [None if spool is None else self._kept_poses(spool, kind, *pair) for pair in wanted]
            answers = [poses for poses in kept if poses is not None]
            if len(answers) < len(wanted):
                answers = self.pipeline.estimator.predict_batch(
                    [(frame.image, candidates.bboxes, candidates.scores) for frame, candidates in wanted], view=view
                )
                if spool is not None:
                    for (frame, candidates), poses in zip(wanted, answers, strict=True):
                        spool.save(
                            kind,
                            frame.index,
                            bboxes=candidates.bboxes,
                            keypoints=poses.keypoints,
                            keypoint_scores=poses.keypoint_scores,
                        )
            for (frame, _), poses in zip(wanted, answers, strict=True):
                found[frame.index] = replace(poses, frame_index=frame.index, timestamp_s=frame.time_s)
        return [found[frame.index] for frame, _ in frames]

    def _kept_poses(self, spool: Spool, kind: str, frame: _Frame, candidates: Candidates) -> Poses | None:
        saved = spool.load(kind, frame.index)
        if saved is None or not np.array_equal(saved.get("bboxes", ()), candidates.bboxes):
            return None
        return _kept(saved, candidates.bboxes, candidates.scores, self.pipeline.estimator.skeleton, frame)

    def _everybody(self, frame: _Frame, spool: Spool | None) -> Poses:
        network = self.pipeline.one_stage
        assert network is not None  # noqa: S101  # else people are sought by boxes
        saved = None if spool is None else spool.load("people", frame.index)
        if saved is not None:
            poses = _kept(saved, saved["bboxes"], saved["bbox_scores"], network.skeleton, frame)
        else:
            poses = network.predict(frame.image)
            if spool is not None:
                spool.save(
                    "people",
                    frame.index,
                    keypoints=poses.keypoints,
                    keypoint_scores=poses.keypoint_scores,
                    bboxes=poses.bboxes,
                    bbox_scores=poses.bbox_scores,
                )
        return replace(poses, frame_index=frame.index, timestamp_s=frame.time_s)

    def close(self) -> None:
        """Free the networks unless they are shared; may be called twice."""
        if self._owns_pipeline:
            self.pipeline.close()


@dataclass(frozen=True, eq=False)
class _Frame:
    index: int
    image: Frame
    time_s: float
    view: View = "all"

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]


def _kept(
    saved: Mapping[str, npt.NDArray[Any]],
    bboxes: npt.NDArray[np.float32],
    bbox_scores: npt.NDArray[np.float32],
    skeleton: Skeleton,
    frame: _Frame,
) -> Poses:
    """Return the poses that an earlier run found in these boxes of the frame."""
    return Poses(
        keypoints=saved["keypoints"],
        keypoint_scores=saved["keypoint_scores"],
        bboxes=bboxes,
        bbox_scores=bbox_scores,
        skeleton=skeleton,
        frame_size_wh=frame.size_wh,
    )


# A frame, the boxes of its people, their poses in that order, and whether the detector ran on that very frame.
_Seen = tuple[_Frame, Proposals, Poses, bool]


class _Schedule:
    """The order of the work: detect key frames, decide boxes once enough later frames are known, estimate poses."""

    def __init__(
        self,
        interval: int,
        *,
        calls: int,
        detect: Callable[[list[_Frame]], Future[list[Detections]]],
        estimate: Callable[[list[tuple[_Frame, Candidates]]], Future[list[Poses]]],
    ) -> None:
        self._interval = interval
        self._calls = calls
        self._detect = detect
        self._estimate = estimate
        self._linker = KeyLinker(interval)
        self._waiting: deque[_Frame] = deque()  # read, boxes not decided yet
        self._keys: list[_Frame] = []  # key frames for the next call of the detector
        self._detecting: deque[tuple[list[int], Future[list[Detections]]]] = deque()
        self._estimating: deque[tuple[list[tuple[_Frame, Candidates]], Future[list[Poses]]]] = deque()
        self._found: deque[tuple[int, Detections]] = deque()  # not linked yet
        self._found_until = 0

    def add(self, frame: _Frame) -> None:
        """Take in the next frame; waits only when the networks are far behind."""
        self._waiting.append(frame)
        if frame.index % self._interval == 0:
            self._keys.append(frame)
            if len(self._keys) == _KEYS_PER_CALL:
                self._start_detection()
        while self._detecting and (self._detecting[0][1].done() or len(self._detecting) > 1):
            self._collect()
        if self._found:
            self._decide(self._found_until // self._interval - _LOOKAHEAD)

    def finished(self) -> Iterator[tuple[_Frame, Candidates, Poses]]:
        """Yield the frames that are done, and wait for the oldest where every worker has a call and one more waits."""
        while self._estimating and (self._estimating[0][1].done() or len(self._estimating) > self._calls):
            yield from self._next()

    def rest(self) -> Iterator[tuple[_Frame, Candidates, Poses]]:
        """Yield all other frames; there will be no more."""
        if self._keys:
            self._start_detection()
        while self._detecting:
            self._collect()
        while self._waiting:
            self._decide(self._waiting[0].index // self._interval)
            yield from self.finished()
        while self._estimating:
            yield from self._next()

    def _next(self) -> Iterator[tuple[_Frame, Candidates, Poses]]:
        frames, answers = self._estimating.popleft()
        for (frame, candidates), poses in zip(frames, answers.result(), strict=True):
            yield frame, candidates, poses

    def _start_detection(self) -> None:
        self._detecting.append(([frame.index for frame in self._keys], self._detect(self._keys)))
        self._keys = []

    def _collect(self) -> None:
        indices, answers = self._detecting.popleft()
        self._found.extend(zip(indices, answers.result(), strict=True))
        self._found_until = indices[-1]

    def _decide(self, last: int) -> None:
        """Decide boxes up to key interval ``last``, each from the same key frames however fast the networks were."""
        while self._waiting and (interval := self._waiting[0].index // self._interval) <= last:
            known = (interval + _LOOKAHEAD) * self._interval
            while self._found and self._found[0][0] <= known:
                self._linker.add(*self._found.popleft())
            frames = []
            while self._waiting and self._waiting[0].index // self._interval == interval:
                frame = self._waiting.popleft()
                frames.append((frame, self._linker.candidates(frame.index, frame.size_wh)))
            self._estimating.append((frames, self._estimate(frames)))
            self._linker.forget_before((interval + 1) * self._interval)


class _Summary:
    """What must be known of every track of the whole video: its first and last boxes in the first frame's pixels."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self._size_wh: tuple[int, int] | None = None
        self._first: dict[int, list[tuple[float, npt.NDArray[np.float32]]]] = {}
        self._last: dict[int, deque[tuple[float, npt.NDArray[np.float32]]]] = {}

    def add(self, time_s: float, tracked: Poses) -> None:
        self.times_s.append(time_s)
        size_wh = tracked.frame_size_wh
        self._size_wh = self._size_wh or size_wh
        bboxes = tracked.bboxes
        if self._size_wh is not None and size_wh is not None and size_wh != self._size_wh:
            bboxes = bboxes * np.tile(np.divide(self._size_wh, size_wh), 2).astype(np.float32)
        for track_id, bbox in zip(np.asarray(tracked.track_ids).tolist(), bboxes, strict=True):
            ends = self._first.setdefault(track_id, [])
            if len(ends) < 6:
                ends.append((time_s, bbox))
            self._last.setdefault(track_id, deque(maxlen=6)).append((time_s, bbox))

    def pieces(self, identities: Mapping[int, int]) -> list[Piece]:
        """Return one piece for each identity, from the first sight under any of its numbers to the last."""
        numbers: dict[int, list[int]] = {}
        for number in sorted(self._first.keys() & identities.keys()):
            numbers.setdefault(identities[number], []).append(number)
        pieces = []
        for identity, own in numbers.items():
            first = min((self._first[number] for number in own), key=lambda ends: ends[0][0])
            last = max((list(self._last[number]) for number in own), key=lambda ends: ends[-1][0])
            pieces.append(
                Piece(
                    identity,
                    start_s=first[0][0],
                    end_s=last[-1][0],
                    first_bbox=first[0][1],
                    last_bbox=last[-1][1],
                    first_velocity=_velocity(first),
                    last_velocity=_velocity(last),
                )
            )
        return pieces


def _velocity(ends: list[tuple[float, npt.NDArray[np.float32]]]) -> npt.NDArray[np.float32]:
    (start_s, a), (end_s, b) = ends[0], ends[-1]
    if end_s <= start_s:
        return np.zeros(2, np.float32)
    return np.asarray((b[:2] + b[2:] - a[:2] - a[2:]) / 2 / (end_s - start_s), np.float32)


def _refined(
    scratch: Spool, summary: _Summary, identities: Mapping[int, int], pipeline: PosePipeline, config: OfflineConfig
) -> Iterator[Poses]:
    """Join and smooth the tracks, block by block; ids are numbered from 1 in the order of first appearance."""
    chances = None if pipeline.one_stage is not None else pipeline.estimator.calibration
    workers = _workers(config)
    joined = joined_ids(summary.pieces(identities), longest_gap_s=config.longest_gap_s)
    becomes = {number: joined[identity] for number, identity in identities.items()}
    final: dict[int, int] = {}
    times = advancing_times(np.array(summary.times_s))
    step_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    width_s = max(config.smoothing_s, _LEAST_WINDOW * step_s) if config.smoothing_s else 0.0
    reach_s = _SMOOTHING_REACH_S * width_s
    cache: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for start in range(0, len(times), _BLOCK):
        stop = min(start + _BLOCK, len(times))
        low = int(np.searchsorted(times, times[start] - reach_s))
        high = int(np.searchsorted(times, times[stop - 1] + reach_s, side="right"))
        cache = {i: cache.get(i) or _loaded(scratch, i, becomes) for i in range(low, high)}
        smooth = _smoothed(cache, times, width_s, workers=workers) if width_s else {}
        for index in range(start, stop):
            data = cache[index]
            ids = data["track_ids"]
            keypoints = data["keypoints"].copy()
            for row, track_id in enumerate(ids.tolist()):
                final.setdefault(track_id, len(final) + 1)
                if width_s:
                    keypoints[row] = smooth[track_id, index]
            yield Poses(
                keypoints=keypoints,
                keypoints_raw=data["keypoints"],
                keypoint_scores=data["keypoint_scores"],
                bboxes=data["bboxes"],
                bbox_scores=data["bbox_scores"],
                keypoint_probabilities=None if chances is None else chances.probabilities(data["keypoint_scores"]),
                skeleton=pipeline.skeleton,
                track_ids=np.array([final[i] for i in ids.tolist()], np.int64),
                frame_index=index,
                timestamp_s=summary.times_s[index],
                frame_size_wh=(int(data["size_wh"][0]), int(data["size_wh"][1])),
            )


def _loaded(scratch: Spool, index: int, becomes: Mapping[int, int]) -> dict[str, npt.NDArray[Any]]:
    """Return the people of one frame under their identities, without those who were never confirmed."""
    data = scratch.load("frame", index)
    if data is None:
        raise InputError(f"frame {index} of the work in progress has gone; its folder was changed while it ran.")
    whole = {name: data.pop(name) for name in ("size_wh", "view")}
    ids = np.array([becomes.get(number, 0) for number in data.pop("track_ids").tolist()], np.int64)
    # Where one person has two numbers in the same frame, the older one comes first and is kept.
    shown, first = np.unique(ids, return_index=True)
    rows = np.sort(first[shown > 0])
    return {name: values[rows] for name, values in data.items()} | {"track_ids": ids[rows]} | whole


def _smoothed(
    frames: dict[int, dict[str, npt.NDArray[Any]]], times_s: npt.NDArray[np.float64], width_s: float, *, workers: int
) -> dict[tuple[int, int], npt.NDArray[np.float32]]:
    """Return each person's smoothed joints, (K, 2), by identity and frame."""
    # Not across a change of the frame's size, at which the same place has other pixels.
    rows: dict[tuple[int, tuple[int, ...]], list[tuple[int, int]]] = {}
    for index, data in frames.items():
        for row, track_id in enumerate(data["track_ids"].tolist()):
            rows.setdefault((track_id, tuple(data["size_wh"].tolist())), []).append((index, row))

    def one(whose: tuple[int, tuple[int, ...]]) -> npt.NDArray[np.float32]:
        places = rows[whose]
        keypoints = np.stack([frames[i]["keypoints"][r] for i, r in places])
        scores = np.stack([frames[i]["keypoint_scores"][r] for i, r in places])
        views = np.array([frames[i]["view"] for i, _ in places])
        return smooth_two_way(keypoints, scores, times_s[[i for i, _ in places]], width_s=width_s, views=views)

    smooth: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="rtmpose-smoothing") as pool:
        for whose, poses in zip(rows, pool.map(one, rows), strict=True):
            smooth |= {(whose[0], index): pose for (index, _), pose in zip(rows[whose], poses, strict=True)}
    return smooth


def _workers(config: OfflineConfig) -> int:
    return config.workers or max(1, int(usable_cpus()))
