"""Frame and boxes in, poses out: one warp per person into a reused buffer, one network call for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rtmpose_infer.backends import Backend, BackendConfig, chosen_config
from rtmpose_infer.batching import HeldNetwork, check_input
from rtmpose_infer.calibration import Calibration
from rtmpose_infer.errors import DTypeError, InputError, ModelError, OutputMismatchError, ShapeError
from rtmpose_infer.geometry import check_boxes, crop_transform
from rtmpose_infer.preprocess import check_frame, crop_into, mirror_into
from rtmpose_infer.results import Poses
from rtmpose_infer.simcc import average_mirrored, decode_simcc, mask_unfound, mirrored_back
from rtmpose_infer.skeletons import unnamed_skeleton
from rtmpose_infer.stages import NO_CLOCK, StageClock

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from rtmpose_infer.backends.base import Arrays
    from rtmpose_infer.model_spec import ModelSpec
    from rtmpose_infer.preprocess import AnyFrame, Frame
    from rtmpose_infer.skeletons import Skeleton

__all__ = ["PoseEstimator", "View"]

Floats = npt.NDArray[np.float32]
View = Literal["all", "plain", "mirrored"]
_FAR = 1e5  # pixels of the input


class PoseEstimator(HeldNetwork):
    """Estimates the poses of people whose boxes are known.

    ``predict`` may be called from several threads at once.

    Args:
        model: Path of an ONNX, OpenVINO (``.xml``) or ncnn (``.param``) file, of an MMDeploy SDK folder or zip, or a name
            that ``rtmpose models list`` shows.
        backend: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"``, ``"ncnn"`` (short: ort, ov, trt) or ``"auto"``.
        device: See ``BackendConfig.device``.
        threads: Threads of one network call; None leaves it to the runtime.
        backend_config: All of the runtime's settings at once, instead of ``device`` and ``threads``.
        model_options: Fields of ``ModelSpec`` for files that do not describe themselves, such as ``skeleton`` or
            ``padding``, or that are to be used otherwise than they say, such as ``flip_test=True``.

    Raises:
        ModelError: The model is missing, broken or no pose network.
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
        backend_config: BackendConfig | None = None,
        **model_options: Any,
    ) -> None:
        config = chosen_config(backend_config, device=device, threads=threads)
        self._set_up(*self._load(model, task="pose", backend=backend, config=config, options=model_options))

    @classmethod
    def from_backend(cls, backend: Backend, spec: ModelSpec) -> Self:
        """Return an estimator around a network that is loaded already, such as a ``CallableBackend``.

        Args:
            backend: The network; closed with the estimator.
            spec: What it wants and gives.

        Raises:
            ModelError: The network does not take the pictures that the spec promises, or its skeleton is unknown, or it
                cannot make the flip test that the spec asks for.
            OutputMismatchError: It lacks the outputs that the spec promises.
        """
        estimator = cls.__new__(cls)
        cls._set_up(estimator, backend, spec)
        return estimator

    def _set_up(self, backend: Backend, spec: ModelSpec) -> None:
        if spec.skeleton is None:
            raise ModelError("the pose network's skeleton is unknown; pass skeleton=….")
        if spec.flip_test and spec.skeleton == unnamed_skeleton(spec.skeleton.num_keypoints):
            raise ModelError("a flip test needs to know left from right; pass skeleton=… or leave out flip_test.")
        self._hold(backend, spec)
        self.skeleton: Skeleton = spec.skeleton
        check_input(backend, spec, "the pose network")
        self._vectors = spec.head == "simcc" or spec.flip_test
        self._output_names = _output_names([t.name for t in backend.outputs], spec, vectors=self._vectors)
        self.calibration = (
            None
            if spec.calibration is None
            else Calibration.from_mapping(spec.calibration, num_keypoints=spec.skeleton.num_keypoints)
        )

    def predict(
        self,
        frame: AnyFrame,
        bboxes_xyxy: npt.ArrayLike,
        *,
        bbox_scores: npt.ArrayLike | None = None,
        view: View = "all",
        clock: StageClock = NO_CLOCK,
    ) -> Poses:
        """Return one pose for each box, in the order of the boxes.

        Args:
            frame: (H, W, 3) uint8, BGR.
            bboxes_xyxy: (N, 4) boxes, x1 y1 x2 y2 in frame pixels, tight around the persons (the network's own
                padding is added). They may reach beyond the frame; a box wholly outside gives a pose without joints.
            bbox_scores: (N,) scores to report; 1 by default.
            view: ``"all"``: the crop, and with a flip test the mirrored crop too, averaged. ``"plain"``, ``"mirrored"``: one
                half of a flip test, for callers who see the same person in many frames.
            clock: Is lapped after the stages ``crop``, ``pose`` and ``decode_pose``.

        Raises:
            InputError: A box is NaN, inverted or empty, there are not as many scores as boxes, or a mirrored view was
                asked of a network without flip test.
            ShapeError: The frame is not (H, W, 3), or the boxes are not (N, 4).
            DTypeError: The frame is not uint8, or the boxes are not numbers.
            InferenceError: The runtime failed.
            OutputMismatchError: The network's outputs are not what its file promised.
            ClosedError: The estimator is closed.
        """
        return self.predict_batch([(frame, bboxes_xyxy, bbox_scores)], view=view, clock=clock)[0]

    def predict_batch(
        self,
        pictures: Sequence[tuple[AnyFrame, npt.ArrayLike, npt.ArrayLike | None]],
        *,
        view: View = "all",
        clock: StageClock = NO_CLOCK,
    ) -> list[Poses]:
        """Return the poses of several frames, all people of all frames in as few network calls as it takes.

        Args:
            pictures: For each frame: the frame, its boxes, and the boxes' scores or None; see ``predict``.
            view: See ``predict``.
            clock: See ``predict``.

        Raises:
            RtmposeInferError: What ``predict`` raises.
        """
        self.backend.check_open()
        if view == "mirrored" and not self.spec.flip_test:
            raise InputError("a mirrored view is half of a flip test; pass flip_test=True to the PoseEstimator.")
        checked = [(check_frame(f), *_checked_boxes(b, s)) for f, b, s in pictures]
        counts = [len(boxes) for _, boxes, _ in checked]
        total = sum(counts)
        if total == 0:
            k = self.skeleton.num_keypoints
            nobody = np.zeros((0, k, 2), np.float32), np.zeros((0, k), np.float32)
            return [self._poses(*nobody, boxes, scores, (f.shape[1], f.shape[0])) for f, boxes, scores in checked]
        transform = crop_transform(
            np.concatenate([boxes for _, boxes, _ in checked]), self.spec.input_size_wh, padding=self.spec.padding
        )
        spans = list(pairwise([0, *np.cumsum(counts).tolist()]))
        seen = 2 * total if self._sees_both(view) else total  # the mirrored crops follow after all others

        def crop(first: int, crops: Frame) -> None:
            for before in range(0, seen, total):
                for (frame, _, _), (start, end) in zip(checked, spans, strict=True):
                    begin, stop = max(first, before + start), min(first + len(crops), before + end)
                    if begin < stop:
                        rows = crops[begin - first : stop - first]
                        if before and begin - before >= first:  # its plain crop is among these rows
                            mirror_into(crops[begin - before - first : stop - before - first], rows)
                            continue
                        crop_into(frame, transform[begin - before : stop - before], rows)
                        if before or view == "mirrored":
                            mirror_into(rows.copy(), rows)

        outputs = self._run(seen, crop, clock=clock, stages=("crop", "pose"))
        keypoints, scores = self._decode(outputs, total, view)
        keypoints = transform.to_frame(keypoints)
        poses = []
        for (frame, boxes, box_scores), (start, end) in zip(checked, spans, strict=True):
            size_wh = (frame.shape[1], frame.shape[0])
            poses.append(self._poses(keypoints[start:end], scores[start:end], boxes, box_scores, size_wh))
        clock.lap("decode_pose")
        return poses

    def _sees_both(self, view: View) -> bool:
        return self.spec.flip_test and view == "all"

    def _decode(self, outputs: Arrays, count: int, view: View) -> tuple[Floats, Floats]:
        k = self.skeleton.num_keypoints
        first, second = (outputs[name] for name in self._output_names)
        if not self._vectors:
            if first.shape != (count, k, 2) or second.shape != (count, k):
                raise OutputMismatchError(
                    f"expected keypoints {(count, k, 2)} and scores {(count, k)}, got {first.shape} and {second.shape}."
                )
            keypoints, scores = np.array(first, np.float32), np.array(second, np.float32)
            # Nothing binds the joints to the crop: what a broken network puts beyond any was not found.
            scores[~(np.abs(keypoints) < _FAR).all(axis=2)] = 0
            return mask_unfound(keypoints, scores)
        both = self._sees_both(view)
        seen = 2 * count if both else count
        if any(axis.ndim != 3 or axis.shape[:2] != (seen, k) or not axis.shape[2] for axis in (first, second)):
            raise OutputMismatchError(
                f"expected SimCC vectors of {seen}×{k} keypoints, got {first.shape} and {second.shape}."
            )
        if both or view == "mirrored":
            first, second = (average_mirrored if both else mirrored_back)(
                first,
                second,
                flip_index=self.skeleton.flip_index,
                input_width=self.spec.input_size_wh[0],
                split_ratio=self.spec.split_ratio,
            )
        return decode_simcc(first, second, split_ratio=self.spec.split_ratio)

    def _poses(
        self, keypoints: Floats, scores: Floats, boxes: Floats, box_scores: Floats, size_wh: tuple[int, int]
    ) -> Poses:
        width, height = size_wh
        outside = (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
        if outside.any():  # the network saw only black; whatever it says is made up
            keypoints, scores = keypoints.copy(), scores.copy()
            keypoints[outside], scores[outside] = np.nan, 0
        return Poses(
            keypoints=keypoints,
            keypoint_scores=scores,
            bboxes=boxes,
            bbox_scores=box_scores,
            skeleton=self.skeleton,
            keypoint_probabilities=None if self.calibration is None else self.calibration.probabilities(scores),
            frame_size_wh=size_wh,
        )


def _output_names(names: Sequence[str], spec: ModelSpec, *, vectors: bool) -> tuple[str, str]:
    """Return the names of the two outputs that are decoded; SimCC vectors may have any names, x comes first."""
    wanted = ("simcc_x", "simcc_y") if vectors else ("keypoints", "scores")
    if set(wanted) <= set(names):
        return wanted
    if spec.head == "simcc" and len(names) >= 2:
        return names[0], names[1]
    if vectors and spec.head == "keypoints":
        raise ModelError(
            "a flip test averages SimCC vectors, which this network's graph does not give. Export it again with --vectors "
            "or --raw, or leave out flip_test."
        )
    raise OutputMismatchError(
        f"the pose network's file promises the outputs {wanted[0]} and {wanted[1]}, it has {', '.join(names)}. Export "
        "it again."
    )


def _checked_boxes(bboxes: npt.ArrayLike, scores: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    boxes = check_boxes(bboxes, "bboxes_xyxy")
    if scores is None:
        return boxes, np.ones(len(boxes), np.float32)
    try:
        array = np.asarray(scores, np.float32)
    except (TypeError, ValueError) as error:
        raise DTypeError("bbox_scores", expected="float32", actual=type(scores).__name__) from error
    if array.shape != (len(boxes),):
        raise ShapeError("bbox_scores", expected=f"({len(boxes)},)", actual=array.shape, hint="One score for each box.")
    if not np.isfinite(array).all():
        raise InputError("bbox_scores holds NaN or infinity; pass finite scores.")
    return boxes, array
