"""What a deploy graph adds around a network: preprocessing in front, decoding and suppression behind.

All of it is written with standard operators, so that ONNX Runtime, OpenVINO and TensorRT run it without plug-ins, and it
is applied to the graph, not to the torch network, so that a published ONNX file is upgraded by the same code.

Decisions:

- The picture comes as the camera gives it, uint8 BGR with channels last. Nothing of its normalisation is folded into the
  first convolution: that would save less than a hundredth of the smallest network's time, and round differently from the
  raw graph behind the host's normalisation, by enough to move a joint with two nearly equal peaks by a bin.
- The cast comes first, though bytes would be quicker to transpose (by half a hundredth of the smallest network's time):
  TensorRT takes uint8 inputs into a cast and into nothing else, not even a transpose (NVIDIA/TensorRT#3985).
- Suppression is the standard ``NonMaxSuppression``, followed by a scatter into a dense score table and one ``TopK`` per
  picture. That keeps pictures of a batch apart, sorts by score, and gives every picture the same number of rows; unused
  rows have score 0, label −1 and a zero box.
- Only the best 3000 cells of a picture enter it, judged by their best class. Suppression costs candidates times kept
  boxes, for every class, so that a detector of 80 classes could otherwise take seconds for a picture of noise. Trained
  detectors have fewer cells above a threshold of 0.05, and TensorRT selects no more than 3840.
- A box coordinate needs more than eleven bits, so decoding stays in float32 whatever the network's precision is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmpose_infer.export.onnx_graph import GraphBuilder

__all__ = [
    "FRAMES",
    "Suppression",
    "add_rtmdet_decoding",
    "add_simcc_decoding",
    "add_suppression",
    "add_yolox_decoding",
    "add_yolox_row_decoding",
    "cell_corners",
    "prepend_preprocessing",
    "rows_of_cells",
]

FRAMES = "frames_u8"


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """How overlapping boxes are suppressed.

    Attributes:
        score_threshold: Boxes below are dropped.
        iou_threshold: Boxes of one class that overlap a better one by more are dropped.
        max_candidates: Cells that enter suppression, per picture.
        max_detections: Rows of the output per picture.
    """

    score_threshold: float
    iou_threshold: float
    max_candidates: int = 3000
    max_detections: int = 100

    def rows(self, num_classes: int, num_cells: int) -> int:
        """Return how many rows a picture of ``num_cells`` cells has in the output."""
        return min(self.max_detections, num_classes * min(self.max_candidates, num_cells))


def prepend_preprocessing(
    graph: GraphBuilder,
    network_input: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    rgb: bool,
    input_size_wh: Sequence[int],
    batch: int | str,
) -> None:
    """Feed ``network_input`` from a uint8 BGR input ``frames_u8`` ``[n, H, W, 3]``.

    Args:
        graph: Holds the network's nodes, which read ``network_input``.
        network_input: Tensor ``[n, 3, H, W]`` of normalised values.
        mean: Subtracted from 0–255 values, in the network's channel order.
        std: What the difference is divided by, likewise.
        rgb: Whether the network's first channel is red.
        input_size_wh: Width and height.
        batch: Batch size, or the name of an open one.
    """
    width, height = input_size_wh
    readers = [node for node in graph.nodes if network_input in node.input]
    network_nodes, graph.nodes = graph.nodes, []
    with graph.scope("preprocess"):
        frames = graph.input(FRAMES, np.uint8, [batch, height, width, 3])
        planes = graph.add("Transpose", [graph.add("Cast", [frames], to=1)], perm=[0, 3, 1, 2])
        if rgb:
            planes = graph.add("Gather", [planes, np.array([2, 1, 0], np.int64)], axis=1)
        for operator, values, neutral in (("Sub", mean, 0), ("Div", std, 1)):
            if any(value != neutral for value in values):
                planes = graph.add(operator, [planes, np.asarray(values, np.float32).reshape(1, 3, 1, 1)])
    for node in readers:
        for i, name in enumerate(node.input):
            if name == network_input:
                node.input[i] = planes
    graph.nodes.extend(network_nodes)


def add_simcc_decoding(graph: GraphBuilder, simcc_x: str, simcc_y: str, *, split_ratio: float) -> tuple[str, str]:
    """Return the names of ``keypoints`` ``[n, K, 2]`` in input pixels and ``scores`` ``[n, K]``.

    The place is the arg-max of either axis, the score the lower of both maxima.

    Args:
        graph: Where the nodes go.
        simcc_x: Vectors ``[n, K, bins]``.
        simcc_y: Likewise.
        split_ratio: Bins per input pixel.
    """
    with graph.scope("decode"):
        places, peaks = [], []
        for vectors in (simcc_x, simcc_y):
            place = graph.add("Cast", [graph.add("ArgMax", [vectors], axis=2, keepdims=1)], to=1)
            places.append(place)
            peaks.append(graph.reduce("ReduceMax", vectors, [2], keepdims=False))
        bins = graph.add("Concat", places, axis=2)
        keypoints = graph.add("Mul", [bins, np.array(1 / split_ratio, np.float32)])
        return keypoints, graph.add("Min", peaks)


def cell_corners(input_size_wh: Sequence[int], strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the top-left corner ``[P, 2]`` and the stride ``[P]`` of every cell, level by level, row by row.

    >>> corners, strides = cell_corners((64, 32), (32,))
    >>> corners.tolist(), strides.tolist()
    ([[0.0, 0.0], [32.0, 0.0]], [32.0, 32.0])
    """
    width, height = input_size_wh
    corners, sizes = [], []
    for stride in strides:
        rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
        corners.append(np.stack((columns, rows), axis=-1).reshape(-1, 2) * stride)
        sizes.append(np.full(rows.size, stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def _flat(graph: GraphBuilder, maps: Sequence[str], channels: int) -> str:
    """Return ``[n, channels, P]`` for maps ``[n, channels, h, w]`` of all levels."""
    shape = np.array([0, channels, -1], np.int64)
    return str(graph.add("Concat", [graph.add("Reshape", [m, shape]) for m in maps], axis=2))


def _split_in_two(graph: GraphBuilder, source: str) -> list[str]:
    return list(graph.add("Split", [source, np.array([2, 2], np.int64)], outputs=2, axis=1))


def _boxes(graph: GraphBuilder, low: str, high: str) -> str:
    return str(graph.add("Transpose", [graph.add("Concat", [low, high], axis=1)], perm=[0, 2, 1]))


def add_rtmdet_decoding(
    graph: GraphBuilder,
    logits: Sequence[str],
    distances: Sequence[str],
    *,
    num_classes: int,
    input_size_wh: Sequence[int],
    strides: Sequence[int],
) -> tuple[str, str]:
    """Return the names of boxes ``[n, P, 4]`` and class scores ``[n, C, P]`` from RTMDet's maps.

    Args:
        graph: Where the nodes go.
        logits: Class logits ``[n, C, h, w]`` per level.
        distances: Distances ``[n, 4, h, w]`` from a cell's corner to the box's edges, in input pixels, per level.
        num_classes: Classes C.
        input_size_wh: Width and height of the network's input.
        strides: Pixels per cell, per level.
    """
    corners = cell_corners(input_size_wh, strides)[0].T[None]
    with graph.scope("decode"):
        scores = graph.add("Sigmoid", [_flat(graph, logits, num_classes)])
        before, after = _split_in_two(graph, _flat(graph, distances, 4))
        low, high = graph.add("Sub", [corners, before]), graph.add("Add", [corners, after])
        return _boxes(graph, low, high), scores


def add_yolox_decoding(
    graph: GraphBuilder,
    logits: Sequence[str],
    encoded: Sequence[str],
    objectness: Sequence[str],
    *,
    num_classes: int,
    input_size_wh: Sequence[int],
    strides: Sequence[int],
    centred: bool = False,
) -> tuple[str, str]:
    """Return the names of boxes ``[n, P, 4]`` and class scores ``[n, C, P]`` from YOLOX's or RTMO's maps.

    Args:
        graph: Where the nodes go.
        logits: Class logits per level.
        encoded: Centre offset and logarithmic size per level, in strides.
        objectness: Objectness logits per level; none for RTMO.
        num_classes: Classes C.
        input_size_wh: Width and height of the network's input.
        strides: Pixels per cell, per level.
        centred: Whether offsets count from the cell's centre (RTMO) and not from its corner.
    """
    with graph.scope("decode"):
        scores = graph.add("Sigmoid", [_flat(graph, logits, num_classes)])
        if objectness:
            scores = graph.add("Mul", [scores, graph.add("Sigmoid", [_flat(graph, objectness, 1)])])
        offset, size = _split_in_two(graph, _flat(graph, encoded, 4))
        return _centre_boxes(graph, offset, size, input_size_wh, strides, centred=centred), scores


def add_yolox_row_decoding(
    graph: GraphBuilder, rows: str, *, num_classes: int, input_size_wh: Sequence[int], strides: Sequence[int]
) -> tuple[str, str]:
    """Return boxes ``[n, P, 4]`` and scores ``[n, C, P]`` from the rows ``[n, P, 5 + C]`` of YOLOX's own export.

    In those rows the scores have passed their sigmoids, the boxes are still relative to their cells.
    """
    with graph.scope("decode"):
        columns = graph.add("Transpose", [rows], perm=[0, 2, 1])
        parts = np.array([2, 2, 1, num_classes], np.int64)
        offset, size, objectness, classes = graph.add("Split", [columns, parts], outputs=4, axis=1)
        scores = graph.add("Mul", [classes, objectness])
        return _centre_boxes(graph, offset, size, input_size_wh, strides, centred=False), scores


def _centre_boxes(
    graph: GraphBuilder,
    offset: str,
    log_size: str,
    input_size_wh: Sequence[int],
    strides: Sequence[int],
    *,
    centred: bool,
) -> str:
    corners, sizes = cell_corners(input_size_wh, strides)
    origin = corners + sizes[:, None] / 2 if centred else corners
    stride = sizes[None, None]
    centre = graph.add("Add", [graph.add("Mul", [offset, stride]), origin.T[None].astype(np.float32)])
    half = graph.add("Mul", [graph.add("Exp", [log_size]), stride * np.float32(0.5)])
    return _boxes(graph, graph.add("Sub", [centre, half]), graph.add("Add", [centre, half]))


def add_suppression(
    graph: GraphBuilder, boxes: str, scores: str, *, num_classes: int, num_cells: int, rule: Suppression
) -> tuple[str, str, str]:
    """Return the names of ``dets`` ``[n, M, 5]``, ``labels`` ``[n, M]`` and the cell index ``[n, M]`` of each row.

    Args:
        graph: Where the nodes go.
        boxes: ``[n, P, 4]``, two corners.
        scores: ``[n, C, P]``.
        num_classes: C.
        num_cells: P.
        rule: Thresholds, and M as ``max_detections``.
    """
    count = rule.rows(num_classes, num_cells)
    with graph.scope("suppress"):
        chosen = ""
        if num_cells > rule.max_candidates:
            num_cells = rule.max_candidates
            boxes, scores, chosen = _best_cells(graph, boxes, scores, num_classes, num_cells)
        kept = graph.add(
            "NonMaxSuppression",
            [
                boxes,
                scores,
                np.array([rule.max_detections], np.int64),  # of one class; no more can be among the best of all
                np.array([rule.iou_threshold], np.float32),
                np.array([rule.score_threshold], np.float32),
            ],
        )
        nothing = graph.add("Mul", [scores, np.array(0, np.float32)])
        table = graph.add("ScatterND", [nothing, kept, graph.add("GatherND", [scores, kept])])
        table = graph.add("Reshape", [table, np.array([0, -1], np.int64)])
        best, place = graph.add("TopK", [table, np.array([count], np.int64)], outputs=2, axis=1)
        cell, label = place, graph.add("Mul", [place, np.array(0, np.int64)])
        if num_classes > 1:
            cells = np.array(num_cells, np.int64)
            cell, label = graph.add("Mod", [place, cells]), graph.add("Div", [place, cells])
        found = graph.add("Greater", [best, np.array(0, np.float32)])
        label = graph.add("Where", [found, label, np.array(-1, np.int64)])
        last = np.array([2], np.int64)
        box = rows_of_cells(graph, boxes, cell, columns=4)
        box = graph.add("Where", [graph.add("Unsqueeze", [found, last]), box, np.array(0, np.float32)])
        dets = graph.add("Concat", [box, graph.add("Unsqueeze", [best, last])], axis=2)
        return dets, label, graph.add("GatherElements", [chosen, cell], axis=1) if chosen else cell


def _best_cells(graph: GraphBuilder, boxes: str, scores: str, num_classes: int, count: int) -> tuple[str, str, str]:
    """Return boxes ``[n, count, 4]``, scores ``[n, C, count]`` and indices ``[n, count]`` of the best cells."""
    best = scores if num_classes == 1 else graph.reduce("ReduceMax", scores, [1], keepdims=True)
    values, places = graph.add("TopK", [best, np.array([count], np.int64)], outputs=2, axis=2)
    if num_classes == 1:
        scores = values
    else:
        every_class = graph.add("Expand", [places, np.array([1, num_classes, 1], np.int64)])
        scores = graph.add("GatherElements", [scores, every_class], axis=2)
    chosen = graph.add("Squeeze", [places, np.array([1], np.int64)])
    return rows_of_cells(graph, boxes, chosen, columns=4), scores, chosen


def rows_of_cells(graph: GraphBuilder, table: str, cells: str, *, columns: int) -> str:
    """Return the rows ``[n, M, C]`` of ``table`` ``[n, P, C]`` that the cells ``[n, M]`` of each picture have.

    Not by ``GatherND`` with a batch axis: OpenVINO reads the batch size for it off the first convolution, which then
    cannot be fused with its bias and activation, a seventh of the embedded detector's time.
    """
    places = graph.add("Unsqueeze", [cells, np.array([2], np.int64)])
    places = graph.add("Expand", [places, np.array([1, 1, columns], np.int64)])
    return str(graph.add("GatherElements", [table, places], axis=1))
