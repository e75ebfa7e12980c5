"""Frame in, boxes of people out.

Three kinds of network output are decoded: boxes that the graph has already suppressed, RTMDet's raw maps and YOLOX's
raw rows. Thresholds hold on all three: on a graph with its own NMS they can only be stricter than what the graph did.
A cell counts for every class whose score is above the threshold, as in MMDetection's RTMDet and in the deploy graphs,
so that a person on a motorcycle is not lost to the motorcycle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.backends import Backend, BackendConfig, chosen_config
from rtmpose_infer.batching import HeldNetwork, check_filter, check_input
from rtmpose_infer.errors import InputError, OutputMismatchError
from rtmpose_infer.geometry import clip_boxes, nms
from rtmpose_infer.options import check_option, is_whole
from rtmpose_infer.preprocess import check_frame, letterbox_into
from rtmpose_infer.results import Detections
from rtmpose_infer.stages import NO_CLOCK, StageClock

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from rtmpose_infer.backends.base import Arrays
    from rtmpose_infer.model_spec import ModelSpec
    from rtmpose_infer.preprocess import AnyFrame, Frame

__all__ = ["PersonDetector"]

Floats = npt.NDArray[np.float32]
_YOLOX_STRIDES = ((8, 16, 32), (8, 16, 32, 64))


class PersonDetector(HeldNetwork):
    """Finds people (or whatever the network was trained on) in frames.

    ``predict`` may be called from several threads at once.

    Args:
        model: Path of an ONNX, OpenVINO (``.xml``) or ncnn (``.param``) file, of an MMDeploy SDK folder or zip, or a name
            that ``rtmpose models list`` shows.
        backend: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"``, ``"ncnn"`` (short: ort, ov, trt) or ``"auto"``.
        device: See ``BackendConfig.device``.
        threads: Threads of one network call; None leaves it to the runtime.
        score_threshold: Boxes of this score or less are dropped.
        iou_threshold: Of two boxes that overlap by more than this, the weaker is dropped.
        label: Which class is wanted: its index, its name where the model knows names, or None for all. Index 0 is
            the person in every COCO-trained network, and the one class of a single-class network.
        max_detections: At most this many boxes per frame, the best.
        backend_config: All of the runtime's settings at once, instead of ``device`` and ``threads``.
        model_options: Fields of ``ModelSpec`` for files that do not describe themselves, such as ``input_size_wh``.

    Raises:
        ModelError: The model is missing, broken or no detector.
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
        label: int | str | None = 0,
        max_detections: int = 100,
        backend_config: BackendConfig | None = None,
        **model_options: Any,
    ) -> None:
        check_filter(score_threshold, iou_threshold, max_detections=max_detections)
        config = chosen_config(backend_config, device=device, threads=threads)
        self._set_up(
            *self._load(model, task="detection", backend=backend, config=config, options=model_options),
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            label=label,
            max_detections=max_detections,
        )

    @classmethod
    def from_backend(
        cls,
        backend: Backend,
        spec: ModelSpec,
        *,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.65,
        label: int | str | None = 0,
        max_detections: int = 100,
    ) -> Self:
        """Return a detector around a network that is loaded already, such as a ``CallableBackend``.

        Args:
            backend: The network; closed with the detector.
            spec: What it wants and gives.
            score_threshold: See ``PersonDetector``, as the options below.
            iou_threshold: Likewise.
            label: Likewise.
            max_detections: Likewise.

        Raises:
            ModelError: The network does not take the pictures that the spec promises.
            OutputMismatchError: It lacks the outputs that the spec promises.
            InputError: An option is out of range.
        """
        detector = cls.__new__(cls)
        cls._set_up(
            detector,
            backend,
            spec,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            label=label,
            max_detections=max_detections,
        )
        return detector

    def _set_up(
        self,
        backend: Backend,
        spec: ModelSpec,
        *,
        score_threshold: float,
        iou_threshold: float,
        label: int | str | None,
        max_detections: int,
    ) -> None:
        check_filter(score_threshold, iou_threshold, max_detections=max_detections)
        self._hold(
            backend,
            spec,
            score_threshold=float(score_threshold),
            iou_threshold=float(iou_threshold),
            label=str(label),
            max_detections=int(max_detections),
        )
        self._score_threshold = score_threshold
        self._iou_threshold = min(iou_threshold, 1.0 if spec.suppression_iou is None else spec.suppression_iou)
        self._label = _label_index(label, spec.class_names)
        self._max_detections = max_detections
        check_input(backend, spec, "the detector")
        _check_outputs([tensor.name for tensor in backend.outputs], spec.head)
        decoders: dict[str, Callable[[Arrays], Found]] = {
            "nms": _decode_nms,
            "rtmdet": partial(_decode_rtmdet, width=spec.input_size_wh[0], score_threshold=score_threshold),
            "yolox": _YoloxDecoder(spec.input_size_wh, score_threshold),
        }
        self._decode = decoders[spec.head]

    def predict(self, frame: AnyFrame, *, clock: StageClock = NO_CLOCK) -> Detections:
        """Return the boxes in one frame, best first.

        Args:
            frame: (H, W, 3) uint8, BGR.
            clock: Is lapped after the stages ``letterbox``, ``detect`` and ``decode_boxes``.

        Raises:
            ShapeError: The frame is not (H, W, 3).
            DTypeError: The frame is not uint8.
            InferenceError: The runtime failed.
            OutputMismatchError: The network's outputs are not what its file promised.
            ClosedError: The detector is closed.
        """
        return self.predict_batch([frame], clock=clock)[0]

    def predict_batch(self, frames: Sequence[AnyFrame], *, clock: StageClock = NO_CLOCK) -> list[Detections]:
        """Return the boxes in each of several frames, in as few network calls as are worth it.

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
        ratios: list[tuple[float, float]] = []

        def letterbox(first: int, pictures: Frame) -> None:
            ratios.extend(
                letterbox_into(frame, picture, pad_value=self.spec.pad_value)
                for frame, picture in zip(checked[first : first + len(pictures)], pictures, strict=True)
            )

        outputs = self._run(len(checked), letterbox, clock=clock, stages=("letterbox", "detect"))
        # A broken network's infinities become boxes without area, which are dropped; nobody needs a warning of numpy's.
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._decode(outputs)
            if len(found) != len(checked):
                raise OutputMismatchError(f"the detector answered for {len(found)} of {len(checked)} frames.")
            detections = [
                self._finish(boxes, scores, labels, ratio, frame)
                for (boxes, scores, labels), ratio, frame in zip(found, ratios, checked, strict=True)
            ]
        clock.lap("decode_boxes")
        return detections

    def _finish(
        self, bboxes: Floats, scores: Floats, labels: npt.NDArray[np.int64], ratios: tuple[float, float], frame: Frame
    ) -> Detections:
        wanted = (scores > self._score_threshold) & (scores < np.inf)
        if self._label is not None:
            wanted &= labels == self._label
        bboxes, scores, labels = bboxes[wanted], scores[wanted], labels[wanted]
        bboxes = (bboxes / np.array([*ratios, *ratios], np.float32)).astype(np.float32)
        bboxes = clip_boxes(bboxes, (frame.shape[1], frame.shape[0]))
        solid = (bboxes[:, 2] > bboxes[:, 0]) & (bboxes[:, 3] > bboxes[:, 1])
        bboxes, scores, labels = bboxes[solid], scores[solid], labels[solid]
        kept = nms(bboxes, scores, iou_threshold=self._iou_threshold, labels=labels)[: self._max_detections]
        return Detections(bboxes[kept], scores[kept], labels[kept])


Found = list[tuple[Floats, Floats, npt.NDArray[np.int64]]]


def _label_index(label: int | str | None, class_names: tuple[str, ...]) -> int | None:
    if label is None:
        return None
    if isinstance(label, str):
        if label not in class_names:
            known = f"it knows {', '.join(class_names)}" if class_names else "it names no classes: pass the index"
            raise InputError(f"the detector has no class {label!r}; {known}.")
        return class_names.index(label)
    check_option("label", label, "a class index from 0, a name, or None", fine=is_whole(label) and label >= 0)
    if class_names and label >= len(class_names):
        raise InputError(f"the detector has {len(class_names)} classes, index {label} does not exist.")
    return label


def _check_outputs(names: Sequence[str], head: str) -> None:
    count = len(names)
    wanted = {
        "nms": "dets and labels",
        "rtmdet": "a map of logits and one of distances for each level",
        "yolox": "rows",
    }
    fits = {"nms": count >= 2, "rtmdet": count >= 2 and count % 2 == 0, "yolox": count >= 1}
    if not fits[head]:
        raise OutputMismatchError(
            f"the detector's file promises {wanted[head]}, its outputs are {', '.join(names)}. Export it again."
        )


def _decode_nms(outputs: Arrays) -> Found:
    names = list(outputs)
    dets = outputs["dets"] if "dets" in outputs else outputs[names[0]]
    labels = outputs["labels"] if "labels" in outputs else outputs[names[1]]
    if dets.ndim != 3 or dets.shape[2] != 5 or labels.shape != dets.shape[:2]:
        raise OutputMismatchError(f"expected dets (n, m, 5) and labels (n, m), got {dets.shape} and {labels.shape}.")
    return [(d[:, :4], d[:, 4], c.astype(np.int64, copy=False)) for d, c in zip(dets, labels, strict=True)]


def _decode_rtmdet(outputs: Arrays, *, width: int, score_threshold: float) -> Found:
    """Decode RTMDet's maps: class logits of each level, then the distances of each level's cells to the box edges.

    A cell's point is its index times the stride (no half-cell offset); distances are in input pixels.
    """
    maps = list(outputs.values())
    levels = len(maps) // 2
    # Most cells are background: the threshold is applied to the logits, before anything is computed from them.
    floor = np.float32(np.log(max(score_threshold, 1e-6) / max(1 - score_threshold, 1e-6)))
    for logits, distances in zip(maps[:levels], maps[levels:], strict=True):
        fits = logits.ndim == 4 and logits.size and len(logits) == len(maps[0])
        if not fits or distances.shape != (len(logits), 4, *logits.shape[2:]):
            raise OutputMismatchError(f"not a level of RTMDet: {logits.shape} and {distances.shape}.")
    found: Found = []
    for i in range(len(maps[0])):
        boxes, scores, labels = [], [], []
        for logits, distances in zip(maps[:levels], maps[levels:], strict=True):
            stride = width / logits.shape[3]
            # Seven times as fast as nonzero of three axes.
            classes, rows, columns = np.unravel_index(np.flatnonzero(logits[i] > floor), logits.shape[1:])
            near = distances[i][:, rows, columns]
            x, y = columns * stride, rows * stride
            boxes.append(np.stack([x - near[0], y - near[1], x + near[2], y + near[3]], axis=1))
            scores.append(1 / (1 + np.exp(-logits[i][classes, rows, columns])))
            labels.append(classes)
        found.append(
            (
                np.concatenate(boxes).astype(np.float32),
                np.concatenate(scores).astype(np.float32),
                np.concatenate(labels).astype(np.int64),
            )
        )
    return found


class _YoloxDecoder:
    """Decodes YOLOX's rows (x, y, w, h, objectness, classes …); the grid of cells is computed once."""

    def __init__(self, input_size_wh: tuple[int, int], score_threshold: float) -> None:
        self._input_size_wh = input_size_wh
        self._score_threshold = score_threshold
        self._grids: dict[int, tuple[Floats, Floats]] = {}
        for strides in _YOLOX_STRIDES:
            cells, steps = [], []
            for stride in strides:
                columns, rows = input_size_wh[0] // stride, input_size_wh[1] // stride
                grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=2).reshape(-1, 2)
                cells.append(grid)
                steps.append(np.full((len(grid), 1), stride))
            self._grids[sum(map(len, cells))] = (
                np.concatenate(cells).astype(np.float32),
                np.concatenate(steps).astype(np.float32),
            )

    def __call__(self, outputs: Arrays) -> Found:
        rows = next(iter(outputs.values()))
        if rows.ndim != 3 or rows.shape[2] < 6 or rows.shape[1] not in self._grids:
            raise OutputMismatchError(
                f"not YOLOX's rows for a {self._input_size_wh[0]}×{self._input_size_wh[1]} input: {rows.shape}."
            )
        cells, steps = self._grids[rows.shape[1]]
        found: Found = []
        for picture in rows:
            likely = np.flatnonzero(picture[:, 4] > self._score_threshold)  # class scores are at most 1
            scores = picture[likely, 4:5] * picture[likely, 5:]
            chosen, labels = np.nonzero(scores > self._score_threshold)
            places = likely[chosen]
            centers = (picture[places, :2] + cells[places]) * steps[places]
            halves = np.exp(picture[places, 2:4]) * steps[places] / 2
            boxes = np.concatenate([centers - halves, centers + halves], axis=1)
            found.append((boxes, scores[chosen, labels], labels.astype(np.int64)))
        return found
