"""Frame in, poses of everybody in it out, by one network that finds people and joints at once (RTMO).

Such a network sees the frame once, however many people are in it. It was trained on warped pictures, so its input is
one too: the frame is warped whole into the middle of the input, and joints and boxes come back through the exact
inverse of that warp. (A resize into the corner, as detectors want it, is off by up to a pixel at 1080p.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.backends import Backend, BackendConfig, chosen_config
from rtmpose_infer.batching import HeldNetwork, check_filter, check_input
from rtmpose_infer.errors import ModelError, OutputMismatchError
from rtmpose_infer.geometry import CropTransform, clip_boxes, crop_transform, nms
from rtmpose_infer.preprocess import check_frame, crop_into
from rtmpose_infer.results import Poses
from rtmpose_infer.simcc import mask_unfound
from rtmpose_infer.stages import NO_CLOCK, StageClock

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from rtmpose_infer.backends.base import Arrays
    from rtmpose_infer.model_spec import ModelSpec
    from rtmpose_infer.preprocess import AnyFrame, Frame
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["OneStageEstimator"]

Floats = npt.NDArray[np.float32]
_FAR = 1e6  # pixels


class OneStageEstimator(HeldNetwork):
    """Finds people and their poses with one network.

    ``predict`` may be called from several threads at once.

    Args:
        model: Path of an ONNX file, of an MMDeploy SDK folder or zip, or a name that ``rtmpose models list`` shows.
        backend: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"``, ``"ncnn"`` (short: ort, ov, trt) or ``"auto"``.
        device: See ``BackendConfig.device``.
        threads: Threads of one network call; None leaves it to the runtime.
        score_threshold: People of this score or less are dropped.
        iou_threshold: Of two people whose boxes overlap by more than this, the weaker is dropped.
        max_people: At most this many people per frame, the best.
        backend_config: All of the runtime's settings at once, instead of ``device`` and ``threads``.
        model_options: Fields of ``ModelSpec`` for files that do not describe themselves, such as ``skeleton``.

    Raises:
        ModelError: The model is missing, broken or no one-stage network.
        BackendError: The runtime is missing or its device did not come up.
        InputError: An option is unknown or out of range.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.65,
        max_people: int = 100,
        backend_config: BackendConfig | None = None,
        **model_options: Any,
    ) -> None:
        check_filter(score_threshold, iou_threshold, max_people=max_people)
        config = chosen_config(backend_config, device=device, threads=threads)
        self._set_up(
            *self._load(model, task="one_stage", backend=backend, config=config, options=model_options),
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_people=max_people,
        )

    @classmethod
    def from_backend(
        cls,
        backend: Backend,
        spec: ModelSpec,
        *,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.65,
        max_people: int = 100,
    ) -> Self:
        """Return an estimator around a network that is loaded already, such as a ``CallableBackend``.

        Args:
            backend: The network; closed with the estimator.
            spec: What it wants and gives.
            score_threshold: See ``OneStageEstimator``, as the options below.
            iou_threshold: Likewise.
            max_people: Likewise.

        Raises:
            ModelError: The network does not take the pictures that the spec promises.
            OutputMismatchError: It lacks the outputs that the spec promises.
            InputError: An option is out of range.
        """
        estimator = cls.__new__(cls)
        cls._set_up(
            estimator,
            backend,
            spec,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_people=max_people,
        )
        return estimator

    def _set_up(
        self, backend: Backend, spec: ModelSpec, *, score_threshold: float, iou_threshold: float, max_people: int
    ) -> None:
        check_filter(score_threshold, iou_threshold, max_people=max_people)
        if spec.skeleton is None:
            raise ModelError("the one-stage network's skeleton is unknown; pass skeleton=….")
        self._hold(
            backend,
            spec,
            score_threshold=float(score_threshold),
            iou_threshold=float(iou_threshold),
            max_people=int(max_people),
        )
        self.skeleton: Skeleton = spec.skeleton
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold
        self._max_people = max_people
        check_input(backend, spec, "the one-stage network")
        names = {tensor.name for tensor in backend.outputs}
        if not {"dets", "keypoints"} <= names:
            raise OutputMismatchError(
                "the one-stage network's file promises the outputs dets and keypoints, it has "
                f"{', '.join(sorted(names))}. Export it again."
            )

    def predict(self, frame: AnyFrame, *, clock: StageClock = NO_CLOCK) -> Poses:
        """Return the people in one frame, best first.

        Args:
            frame: (H, W, 3) uint8, BGR.
            clock: Is lapped after the stages ``letterbox``, ``pose`` and ``decode_pose``.

        Raises:
            ShapeError: The frame is not (H, W, 3).
            DTypeError: The frame is not uint8.
            InferenceError: The runtime failed.
            OutputMismatchError: The network's outputs are not what its file promised.
            ClosedError: The estimator is closed.
        """
        return self.predict_batch([frame], clock=clock)[0]

    def predict_batch(self, frames: Sequence[AnyFrame], *, clock: StageClock = NO_CLOCK) -> list[Poses]:
        """Return the people in each of several frames, in as few network calls as are worth it.

        Args:
            frames: (H, W, 3) uint8, BGR, each; they may differ in size.
            clock: See ``predict``.

        Raises:
            RtmposeInferError: What ``predict`` raises.
        """
        self.backend.check_open()
        checked = [check_frame(frame) for frame in frames]
        if not checked:
            return []
        whole = np.array([[0, 0, frame.shape[1], frame.shape[0]] for frame in checked], np.float32)
        transform = crop_transform(whole, self.spec.input_size_wh, padding=1.0)

        def warp(first: int, pictures: Frame) -> None:
            for i in range(len(pictures)):
                at = slice(first + i, first + i + 1)
                crop_into(checked[first + i], transform[at], pictures[i : i + 1], border_value=self.spec.pad_value)

        outputs = self._run(len(checked), warp, clock=clock, stages=("letterbox", "pose"))
        dets, keypoints, scores = self._tables(outputs, len(checked))
        poses = [
            self._poses(dets[i], keypoints[i], scores[i], transform[i : i + 1], (frame.shape[1], frame.shape[0]))
            for i, frame in enumerate(checked)
        ]
        clock.lap("decode_pose")
        return poses

    def _tables(self, outputs: Arrays, count: int) -> tuple[Floats, Floats, Floats]:
        """Return dets (n, m, 5), keypoints (n, m, K, 2) and their scores (n, m, K), which may be one tensor of three."""
        k = self.skeleton.num_keypoints
        dets, keypoints = outputs["dets"], outputs["keypoints"]
        scores = outputs.get("scores")
        if scores is None and keypoints.ndim == 4 and keypoints.shape[3] == 3:
            keypoints, scores = keypoints[..., :2], keypoints[..., 2]
        rows = dets.shape[1] if dets.ndim == 3 else -1
        fits = dets.shape == (count, rows, 5) and keypoints.shape == (count, rows, k, 2)
        if scores is None or not fits or scores.shape != (count, rows, k):
            got = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
            raise OutputMismatchError(
                f"expected dets ({count}, m, 5), keypoints ({count}, m, {k}, 2) and their scores, got {got}."
            )
        return dets, keypoints, scores

    def _poses(
        self, dets: Floats, keypoints: Floats, scores: Floats, transform: CropTransform, size_wh: tuple[int, int]
    ) -> Poses:
        # A broken network's infinities become boxes without area, which are dropped; nobody needs a warning of numpy's.
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = np.flatnonzero((dets[:, 4] > self._score_threshold) & (dets[:, 4] < np.inf))
            corners = transform.to_frame(dets[wanted, :4].reshape(-1, 2, 2)).reshape(-1, 4)
            bboxes = clip_boxes(corners, size_wh)
            solid = (bboxes[:, 2] > bboxes[:, 0]) & (bboxes[:, 3] > bboxes[:, 1])
            wanted, bboxes = wanted[solid], bboxes[solid]
            kept = nms(bboxes, dets[wanted, 4], iou_threshold=self._iou_threshold)[: self._max_people]
            wanted, bboxes = wanted[kept], bboxes[kept]
            points = transform.to_frame(keypoints[wanted])
            # Nothing binds the joints to the frame: what a broken network puts beyond any was not found.
            scores = np.where((np.abs(points) < _FAR).all(axis=2), scores[wanted], 0).astype(np.float32)
        points, scores = mask_unfound(points, scores)
        return Poses(
            keypoints=points,
            keypoint_scores=scores,
            bboxes=bboxes,
            bbox_scores=np.asarray(dets[wanted, 4], np.float32),
            skeleton=self.skeleton,
            frame_size_wh=size_wh,
        )
