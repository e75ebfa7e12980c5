"""The gate every export passes: does the file compute what its source computes?

Both are run on the same pictures. What is compared is what a user sees, places in pixels, where the source's answer is
clear. A joint counts when its SimCC peak stands half its height above everything outside its own hill; a box, when it
scores 0.5 and survives suppression. Clearness of a joint is measured on its vector and not by a score threshold, because
the scores of this family are not calibrated and differ from model to model; a joint without a clear peak may land
anywhere after the slightest rounding, and says nothing. A joint's displacement is its distance, a box's the mean over
its four edges.

The reference is decoded in numpy, the exported graph decodes itself, so the decoding is under test as well. Boxes are
compared at their cell, before suppression, because which of two near-equal neighbours survives is chance; their scores
may change, but a box that one network is sure of must not be one in which the other sees nothing. For the float32 graph
the detections after suppression must also be those of a suppression in numpy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from rtmpose_infer.backends.base import joined
from rtmpose_infer.errors import ParityError
from rtmpose_infer.export.deploy_graph import Suppression, cell_corners
from rtmpose_infer.export.networks import rtmdet, rtmo, yolox
from rtmpose_infer.export.onnx_graph import cpu_session
from rtmpose_infer.geometry import iou_matrix
from rtmpose_infer.preprocess import InputBuffer
from rtmpose_infer.simcc import decode_simcc, peak_prominence

if TYPE_CHECKING:
    from torch import nn

    from rtmpose_infer.export.architecture import Architecture
    from rtmpose_infer.model_spec import ModelSpec

__all__ = [
    "LIMITS_PX",
    "Observation",
    "ParityReport",
    "compare",
    "displacements",
    "observe_model",
    "observe_network",
    "run_batches",
    "run_model",
]

LIMITS_PX = {"fp32": 0.05, "fp16": 0.5, "int8": 2.0}
_CLEAR = 0.5
_FEWEST = 20
_MOST_APART = 0.2  # share of boxes or people that one network finds and the other does not
_BATCH = 4
_LIKELY = 2048
_DEFAULT_RULE = Suppression(score_threshold=0.05, iou_threshold=0.6)

Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Observation:
    """What one network says about the pictures, in rows that mean the same for every network compared.

    Attributes:
        points: ``[R, 2]`` joints or ``[R, 4]`` boxes (two corners), in input pixels.
        scores: ``[R]``.
        clarity: ``[R]``, 0 to 1, how clear each row's place is; rows from 0.5 on count.
        vectors: Pose networks: SimCC vectors of both axes.
        cells: Detectors: boxes ``[N, P, 4]`` and scores ``[N, C, P]`` before suppression.
        detections: Detectors in ONNX: per picture, rows ``[D, 5]`` after suppression.
        people: One-stage networks: per picture, the cells kept, their keypoints and keypoint scores.
    """

    points: Floats
    scores: Floats
    clarity: Floats
    vectors: tuple[Floats, Floats] | None = None
    cells: tuple[Floats, Floats] | None = None
    detections: tuple[Floats, ...] = ()
    people: tuple[tuple[npt.NDArray[np.intp], Floats, Floats], ...] = ()

    @property
    def saturated(self) -> bool:
        """Whether a detector's answers say nothing: scores of exactly one, or boxes without bounds.

        Untrained networks do that to photographs, and which of many equal scores wins is chance.
        """
        if self.cells is None:
            return False
        boxes, scores = self.cells
        full = (scores.max(axis=(1, 2)) >= np.float32(1 - 1e-6)).mean()
        return bool(full > 0.25 or (np.abs(np.nan_to_num(boxes, nan=np.inf)) > 1e5).mean() > 0.01)

    @property
    def clear(self) -> npt.NDArray[np.bool_]:
        """``[R]``, the rows that count: the clear ones, or the twenty clearest where fewer are."""
        clear = self.clarity >= _CLEAR
        if clear.sum() < _FEWEST:
            clear = np.zeros_like(clear)
            clear[np.argsort(-self.clarity, kind="stable")[:_FEWEST]] = True
        return clear


@dataclass(frozen=True)
class ParityReport:
    """How far an exported file is from its source.

    Attributes:
        reference: What it was compared with: ``"pytorch"``, ``"source onnx"`` or ``"fp32 onnx"``.
        pictures: How many pictures.
        real: Whether they were photographs; otherwise they were drawn.
        compared: Joints and boxes that counted.
        p50_px: Median displacement in input pixels.
        p99_px: 99th percentile.
        max_px: The largest.
        score_p50: Median change of the score.
        score_max: The largest.
        limit_px: What ``p99_px`` had to stay within.
    """

    reference: str
    pictures: int
    real: bool
    compared: int
    p50_px: float
    p99_px: float
    max_px: float
    score_p50: float
    score_max: float
    limit_px: float

    def to_metadata(self) -> dict[str, Any]:
        """Return the report as it stands in a file's metadata, numbers rounded."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in dataclasses.asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"against {self.reference} on {self.pictures} {'photographs' if self.real else 'drawn pictures'}: "
            f"{self.compared} places moved by {self.p50_px:.3f} px (median), {self.p99_px:.3f} px (p99), "
            f"{self.max_px:.3f} px (max); scores by {self.score_p50:.4f} (median), {self.score_max:.4f} (max)"
        )


def displacements(reference: Observation, candidate: Observation) -> tuple[Floats, Floats]:
    """Return how far each row that counts moved, in input pixels, and by how much its score changed.

    Raises:
        ParityError: The candidate gives other rows, NaN or infinity.
    """
    if reference.points.shape != candidate.points.shape:
        raise ParityError(
            f"the exported network gives places {candidate.points.shape} where the source gives "
            f"{reference.points.shape}."
        )
    clear = reference.clear & np.isfinite(reference.points).all(axis=1)
    if not (np.isfinite(candidate.points[clear]).all() and np.isfinite(candidate.scores[clear]).all()):
        raise ParityError(
            "the exported network gives NaN or infinity; an activation overflows. Export it with --precision fp32."
        )
    if not clear.any():
        raise ParityError("the source itself gives no finite answer to any of the pictures; its weights are broken.")
    difference = reference.points[clear] - candidate.points[clear]
    moved = np.linalg.norm(difference, axis=1) if difference.shape[1] == 2 else np.abs(difference).mean(axis=1)
    changed = np.abs(reference.scores[clear] - candidate.scores[clear])
    if reference.people:
        joints_moved, joints_changed = _displaced_people(reference, candidate)
        moved, changed = np.concatenate((moved, joints_moved)), np.concatenate((changed, joints_changed))
    return moved.astype(np.float32), changed.astype(np.float32)


def compare(
    reference: Observation,
    candidate: Observation,
    *,
    name: str,
    pictures: int,
    real: bool,
    limit_px: float,
    rule: Suppression | None = None,
) -> ParityReport:
    """Return how far ``candidate`` is from ``reference``.

    Args:
        reference: What is right.
        candidate: What is under test.
        name: How the report calls the reference.
        pictures: How many pictures were looked at.
        real: Whether they were photographs.
        limit_px: Largest allowed displacement, 99th percentile.
        rule: Suppression whose outcome must agree as well; ``None`` to leave that out.

    Raises:
        ParityError: It gives NaN or infinity, moves clear places by more than ``limit_px``, loses or invents boxes, or its
            graph suppresses other boxes than numpy does.
    """
    moved, changed = displacements(reference, candidate)
    report = ParityReport(
        reference=name,
        pictures=pictures,
        real=real,
        compared=len(moved),
        p50_px=float(np.percentile(moved, 50)),
        p99_px=float(np.percentile(moved, 99)),
        max_px=float(moved.max()),
        score_p50=float(np.percentile(changed, 50)),
        score_max=float(changed.max()),
        limit_px=limit_px,
    )
    # Half-pixel bins are compared with limits of half a pixel; a hair's breadth of rounding must not decide.
    if report.p99_px > limit_px + 1e-4:
        raise ParityError(
            f"the exported network does not compute what its source computes, {report}; the limit is {limit_px} px at "
            "p99. No file was written. If the change is acceptable, raise the limit with --parity-limit."
        )
    if reference.cells is not None and candidate.cells is not None:
        _compare_scores(reference, candidate)
    if rule is not None and reference.cells is not None and candidate.detections:
        _compare_detections(*reference.cells, candidate.detections, rule)
    return report


def _compare_scores(reference: Observation, candidate: Observation) -> None:
    """Check that most boxes that either network is sure of have at least half of that score with the other."""
    for sure, other, words in ((reference, candidate, "loses"), (candidate, reference, "invents")):
        found = sure.clarity >= _CLEAR
        apart = int((other.scores[found] < _CLEAR / 2).sum())
        if apart > _MOST_APART * found.sum():
            raise ParityError(
                f"the exported network {words} {apart} of {int(found.sum())} boxes: their scores, {_CLEAR} and more, are "
                f"below {_CLEAR / 2} on the other side. No file was written."
            )


def _displaced_people(reference: Observation, candidate: Observation) -> tuple[Floats, Floats]:
    moved, changed = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    kept = shared = 0
    for (cells, points, scores), (own_cells, own_points, own_scores) in zip(
        reference.people, candidate.people, strict=True
    ):
        _, ours, theirs = np.intersect1d(cells, own_cells, return_indices=True)
        kept, shared = kept + len(cells), shared + len(ours)
        finite = np.isfinite(points[ours]).all(axis=-1)
        moved.append(np.linalg.norm(points[ours] - own_points[theirs], axis=-1)[finite])
        changed.append(np.abs(scores[ours] - own_scores[theirs])[finite])
    if shared < (1 - _MOST_APART) * kept:
        raise ParityError(
            f"of {kept} people that the source finds, the exported network finds {shared} at the same place. "
            "No file was written."
        )
    return np.concatenate(moved), np.concatenate(changed)


def _compare_detections(boxes: Floats, scores: Floats, candidate: Sequence[Floats], rule: Suppression) -> None:
    expected = missing = 0
    for picture_boxes, picture_scores, rows in zip(boxes, scores, candidate, strict=True):
        kept = _suppressed(picture_boxes, picture_scores, rule)
        best = picture_scores.reshape(-1)[kept]
        wanted = picture_boxes[kept % len(picture_boxes)]
        far = np.abs(wanted[:, None] - rows[None, :, :4]).max(axis=2, initial=0) > 0.5
        far |= np.abs(best[:, None] - rows[None, :, 4]) > 1e-3
        expected += len(kept)
        missing += int(far.all(axis=1).sum())
    if missing > 0.02 * expected:
        raise ParityError(
            f"the exported graph lacks {missing} of the {expected} detections that suppression in numpy gives. "
            "No file was written."
        )


# --------------------------------------------------------------------------------------------- the source, in torch


def observe_network(
    network: nn.Module,
    architecture: Architecture,
    spec: ModelSpec,
    frames: Frames,
    *,
    rule: Suppression | None = None,
) -> Observation:
    """Return what a torch network says, with preprocessing and decoding in numpy.

    Args:
        network: In eval mode.
        architecture: What it is.
        spec: What it wants, in its raw form.
        frames: ``[N, H, W, 3]`` uint8 BGR at the input size.
        rule: Suppression, for detectors and one-stage networks.
    """
    buffer = InputBuffer(spec)
    parts: list[list[npt.NDArray[Any]]] = []
    with torch.inference_mode():
        for chunk in _chunks(frames, _BATCH):
            buffer.pictures(len(chunk))[:] = chunk
            outputs = network(torch.from_numpy(buffer.tensor(len(chunk)).copy()))
            parts.append([t.numpy() for t in _flattened(outputs)])
    maps = [np.concatenate(column) for column in zip(*parts, strict=True)]
    size, rule = architecture.input_size_wh, rule or _DEFAULT_RULE
    if architecture.task == "pose":
        return _observed_vectors(maps[0], maps[1], spec.split_ratio)
    if architecture.family == "rtmdet":
        return _observed_boxes(*_rtmdet_cells(maps, size, rtmdet.STRIDES), size, rule)
    if architecture.family == "yolox":
        return _observed_boxes(*_yolox_cells(maps, size, yolox.STRIDES, centred=False), size, rule)
    return _observed_people(network, maps, size, rule)


def _flattened(outputs: Any) -> Iterator[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        yield outputs
    else:
        for part in outputs:
            yield from _flattened(part)


def _flat(maps: Sequence[Floats]) -> Floats:
    return np.concatenate([m.reshape(*m.shape[:2], -1) for m in maps], axis=2)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))), np.float32)


def _rtmdet_cells(maps: Sequence[Floats], size_wh: Sequence[int], strides: Sequence[int]) -> tuple[Floats, Floats]:
    levels = len(strides)
    distances = _flat(maps[levels : 2 * levels]).transpose(0, 2, 1)
    corners = cell_corners(size_wh, strides)[0]
    boxes = np.concatenate((corners - distances[..., :2], corners + distances[..., 2:]), axis=2)
    return boxes, _sigmoid(_flat(maps[:levels]))


def _yolox_cells(
    maps: Sequence[Floats], size_wh: Sequence[int], strides: Sequence[int], *, centred: bool
) -> tuple[Floats, Floats]:
    levels = len(strides)
    scores = _sigmoid(_flat(maps[:levels]))
    if not centred:
        scores = scores * _sigmoid(_flat(maps[2 * levels : 3 * levels]))
    encoded = _flat(maps[levels : 2 * levels]).transpose(0, 2, 1)
    return _centre_cells(encoded, size_wh, strides, centred=centred), scores


def _centre_cells(encoded: Floats, size_wh: Sequence[int], strides: Sequence[int], *, centred: bool) -> Floats:
    corners, sizes = cell_corners(size_wh, strides)
    origin = corners + sizes[:, None] / 2 if centred else corners
    centre = encoded[..., :2] * sizes[:, None] + origin
    with np.errstate(over="ignore"):
        half = np.exp(encoded[..., 2:]) * sizes[:, None] / 2
    return np.concatenate((centre - half, centre + half), axis=2)


# ------------------------------------------------------------------------------------------------------ ONNX models


def observe_model(
    model: onnx.ModelProto, spec: ModelSpec, frames: Frames, *, rule: Suppression | None = None
) -> Observation:
    """Return what an ONNX model says, run by ONNX Runtime on the CPU.

    Args:
        model: A deploy graph, a raw graph, or a published file.
        spec: What it wants and gives.
        frames: ``[N, H, W, 3]`` uint8 BGR at the input size.
        rule: Suppression by which boxes count, for detectors.

    Raises:
        ParityError: ONNX Runtime cannot load or run the model, or the graph has no known ending.
    """
    rule = rule or _DEFAULT_RULE
    probes = _decoder_inputs(model.graph)
    outputs = run_model(model, spec, frames, extra=probes)
    if spec.task == "pose":
        return _observed_pose(outputs, probes, spec)
    if spec.head == "rtmdet":
        maps = [outputs[o.name] for o in model.graph.output]
        strides = [8 * 2**i for i in range(len(maps) // 2)]
        return _observed_boxes(*_rtmdet_cells(maps, spec.input_size_wh, strides), spec.input_size_wh, rule)
    if spec.head == "yolox":
        rows = next(iter(outputs.values()))
        boxes = _centre_cells(rows[..., :4], spec.input_size_wh, yolox.STRIDES, centred=False)
        scores = (rows[..., 4:5] * rows[..., 5:]).transpose(0, 2, 1)
        return _observed_boxes(boxes, scores, spec.input_size_wh, rule)
    if len(probes) != 2:
        raise ParityError("the model has no NonMaxSuppression to compare the boxes at.")
    boxes, scores = (outputs[name] for name in probes)
    if boxes.shape[2] != 4:
        boxes = boxes.transpose(0, 2, 1)
    if scores.shape[2] != boxes.shape[1]:
        scores = scores.transpose(0, 2, 1)
    seen = _observed_boxes(boxes, scores, spec.input_size_wh, rule)
    if spec.task == "one_stage":
        return dataclasses.replace(seen, people=_people_of_rows(boxes, scores, outputs, spec.input_size_wh))
    dets = outputs["dets"] if "dets" in outputs else next(iter(outputs.values()))
    return dataclasses.replace(seen, detections=tuple(dets))


def _observed_pose(outputs: Arrays, probes: Sequence[str], spec: ModelSpec) -> Observation:
    if spec.head == "simcc":
        names = ("simcc_x", "simcc_y") if "simcc_x" in outputs else tuple(outputs)[:2]
        return _observed_vectors(outputs[names[0]], outputs[names[1]], spec.split_ratio)
    if len(probes) != 2:
        raise ParityError("the model has no arg-max over SimCC vectors to compare the joints at.")
    seen = _observed_vectors(outputs[probes[0]], outputs[probes[1]], spec.split_ratio)
    keypoints, scores = outputs["keypoints"], outputs["scores"]
    return dataclasses.replace(seen, points=keypoints.reshape(-1, 2), scores=scores.reshape(-1))


def run_model(
    model: onnx.ModelProto, spec: ModelSpec, frames: Frames, *, extra: Sequence[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of an ONNX model for pictures, and those of the inner tensors ``extra``; see ``run_batches``."""
    return joined(list(run_batches(model, spec, frames, extra=extra)))


def run_batches(
    model: onnx.ModelProto, spec: ModelSpec, frames: Frames, *, extra: Sequence[str] = (), batch: int = _BATCH
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the outputs of an ONNX model batch by batch, run by ONNX Runtime on the CPU.

    Args:
        model: The model.
        spec: What it wants.
        frames: ``[N, H, W, 3]`` uint8 BGR at the input size.
        extra: Names of inner tensors to give as well.
        batch: Pictures per run, where the model leaves that open.

    Raises:
        ParityError: ONNX Runtime cannot load or run the model.
        BackendUnavailableError: ONNX Runtime is not installed.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    present = {o.name for o in probed.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name not in present)
    buffer = InputBuffer(spec)
    try:
        session = cpu_session(probed)
        source = session.get_inputs()[0]
        names = [o.name for o in session.get_outputs()]
        fixed = source.shape[0] if isinstance(source.shape[0], int) else 0
        for chunk in _chunks(frames, fixed or batch):
            missing = max(fixed - len(chunk), 0)
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]) if missing else chunk
            buffer.pictures(len(filled))[:] = filled
            outputs = session.run(None, {source.name: buffer.tensor(len(filled))})
            yield {name: np.asarray(o)[: len(chunk)] for name, o in zip(names, outputs, strict=True)}
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            raise ParityError(f"ONNX Runtime does not run the exported model: {error}") from error
        raise


def _chunks(frames: Frames, size: int) -> Iterator[Frames]:
    for start in range(0, len(frames), size):
        yield frames[start : start + size]


_SELECTING = {
    "Cast",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Reshape",
    "Squeeze",
    "TopK",
    "Transpose",
    "Unsqueeze",
}


def _decoder_inputs(graph: onnx.GraphProto) -> list[str]:
    """Return the tensors that decoding begins with: all boxes and all scores, or both SimCC vectors; or none."""
    suppression = next((n for n in graph.node if n.op_type == "NonMaxSuppression"), None)
    if suppression is None:
        return [str(n.input[0]) for n in graph.node if n.op_type == "ArgMax"]
    producers = {output: node for node in graph.node for output in node.output}
    found = []
    for name in suppression.input[:2]:
        at = str(name)
        while at in producers and producers[at].op_type in _SELECTING:
            at = str(producers[at].input[0])
        found.append(at)
    return found


# ----------------------------------------------------------------------------------------------------- observations


def _observed_vectors(x: Floats, y: Floats, split_ratio: float) -> Observation:
    keypoints, scores = decode_simcc(x, y, split_ratio=split_ratio)
    # The numpy decoder masks joints of score ≤ 0; where their peaks are is compared all the same.
    places = np.stack((x.argmax(axis=2), y.argmax(axis=2)), axis=2) / split_ratio
    points = np.where(np.isfinite(keypoints), keypoints, places).astype(np.float32)
    clarity = np.minimum(peak_prominence(x), peak_prominence(y))
    return Observation(points.reshape(-1, 2), scores.reshape(-1), clarity.reshape(-1), vectors=(x, y))


def _observed_boxes(boxes: Floats, scores: Floats, size_wh: Sequence[int], rule: Suppression) -> Observation:
    best = scores.max(axis=1)
    inside = _inside(boxes, size_wh)
    clarity = np.zeros_like(best)
    for picture, picture_boxes, picture_scores in zip(clarity, boxes, scores, strict=True):
        kept = _suppressed(picture_boxes, picture_scores, rule)
        np.maximum.at(picture, kept % len(picture), picture_scores.reshape(-1)[kept])
    return Observation(inside.reshape(-1, 4), best.reshape(-1), clarity.reshape(-1), cells=(boxes, scores))


def _inside(points: Floats, size_wh: Sequence[int]) -> Floats:
    """Return boxes or joints cut to the picture: what lies outside has no meaning, and untrained networks no bounds."""
    return np.clip(points, 0, np.tile(np.asarray(size_wh, np.float32), points.shape[-1] // 2))


def _suppressed(boxes: Floats, scores: Floats, rule: Suppression) -> npt.NDArray[np.intp]:
    """Return class·P + cell of the boxes ``[P, 4]`` that suppression in numpy keeps, best first."""
    candidates = np.argsort(-scores.max(axis=0), kind="stable")[: rule.max_candidates]
    labels, places = np.nonzero(scores[:, candidates] > rule.score_threshold)
    cells = candidates[places]
    order = np.argsort(-scores[labels, cells], kind="stable")
    kept: list[int] = []
    for limit in (_LIKELY, len(order)):  # the best few thousand nearly always hold all that are kept
        chosen = order[:limit]
        kept = _greedy(boxes[cells[chosen]], labels[chosen], rule)
        if len(kept) == rule.max_detections or len(order) <= limit:
            break
    best = order[kept]
    return np.asarray(labels[best] * len(boxes) + cells[best], np.intp)


def _greedy(boxes: Floats, labels: npt.NDArray[np.intp], rule: Suppression) -> list[int]:
    """Return the rows, best first, that survive; ``boxes`` come best first."""
    # The operator takes two opposite corners in any order.
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    upright = np.concatenate((low, high), axis=1)
    alive = np.ones(len(boxes), np.bool_)
    kept: list[int] = []
    with np.errstate(over="ignore", invalid="ignore"):  # untrained networks give boxes without bounds
        while len(kept) < rule.max_detections and alive.any():
            best = int(alive.argmax())
            kept.append(best)
            overlap = iou_matrix(upright[best : best + 1], upright)[0]
            alive &= ~((overlap > rule.iou_threshold) & (labels == labels[best]))
            alive[best] = False
    return kept


def _observed_people(
    network: nn.Module, maps: Sequence[Floats], size_wh: Sequence[int], rule: Suppression
) -> Observation:
    """Decode RTMO's maps: boxes of all cells, and the poses of those that suppression keeps."""
    boxes, scores = _yolox_cells(maps, size_wh, rtmo.STRIDES, centred=True)
    corners, sizes = cell_corners(size_wh, rtmo.STRIDES)
    centres = corners + sizes[:, None] / 2
    levels = len(rtmo.STRIDES)
    seen = _sigmoid(_flat(maps[2 * levels : 3 * levels]).transpose(0, 2, 1))
    vectors = _flat(maps[3 * levels :]).transpose(0, 2, 1)
    decoder = network.get_submodule("head.dcc")
    people = []
    for i in range(len(boxes)):
        cells = _suppressed(boxes[i], scores[i], rule)
        keypoints = np.zeros((0, seen.shape[2], 2), np.float32)
        if len(cells):
            with torch.inference_mode():
                inputs = (torch.from_numpy(a[cells].copy()) for a in (vectors[i], boxes[i], centres))
                keypoints = decoder(*inputs).numpy()
        people.append((cells, _inside(keypoints, size_wh), seen[i][cells]))
    return dataclasses.replace(_observed_boxes(boxes, scores, size_wh, rule), people=tuple(people))


def _people_of_rows(
    boxes: Floats, scores: Floats, outputs: Arrays, size_wh: Sequence[int]
) -> tuple[tuple[npt.NDArray[np.intp], Floats, Floats], ...]:
    """Return, per picture, the cell each detection came from, its keypoints and their scores."""
    dets, keypoints = outputs["dets"], outputs["keypoints"]
    joint_scores = outputs["scores"] if "scores" in outputs else keypoints[..., 2]
    people = []
    for i, rows in enumerate(dets):
        found = rows[:, 4] > 0
        apart = np.abs(rows[found, None, :4] - _inside(boxes[i], size_wh)[None]).sum(axis=2)
        apart += np.abs(rows[found, None, 4] - scores[i].max(axis=0)[None]) * 1e3
        points = _inside(keypoints[i][found][..., :2], size_wh)
        people.append((apart.argmin(axis=1), points, joint_scores[i][found]))
    return tuple(people)
