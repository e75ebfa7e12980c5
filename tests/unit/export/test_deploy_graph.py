"""Suppression in the graph, against a plain one written here."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the exporter needs the export extra")
pytest.importorskip("onnx", reason="the exporter needs the export extra")
ort = pytest.importorskip("onnxruntime", reason="exported graphs are run with ONNX Runtime")

from rtmpose_infer.export.deploy_graph import FRAMES, Suppression, add_suppression, prepend_preprocessing  # noqa: E402
from rtmpose_infer.export.onnx_graph import GraphBuilder  # noqa: E402
from rtmpose_infer.geometry import iou_matrix  # noqa: E402

BATCH, CELLS = 3, 60


def in_graph(boxes: np.ndarray, scores: np.ndarray, rule: Suppression) -> list[np.ndarray]:
    """Return the rows ``[n, M, 5]``, labels and cells that the graph gives."""
    graph = GraphBuilder()
    _, classes, cells = scores.shape
    source = graph.input("boxes", np.float32, ["n", cells, 4])
    rated = graph.input("scores", np.float32, ["n", classes, cells])
    outputs = add_suppression(graph, source, rated, num_classes=classes, num_cells=cells, rule=rule)
    rows = rule.rows(classes, cells)
    for name, tensor, kind, tail in zip(
        ("dets", "labels", "cells"), outputs, (np.float32, np.int64, np.int64), ([5], [], []), strict=True
    ):
        graph.output(tensor, name, kind, ["n", rows, *tail])
    model = graph.model(name="suppression", producer="test", version="1", metadata={})
    return ort.InferenceSession(model.SerializeToString()).run(None, {"boxes": boxes, "scores": scores})


def plain(boxes: np.ndarray, scores: np.ndarray, rule: Suppression) -> list[tuple[int, int]]:
    """Return (class, cell) of what greedy suppression of one picture keeps, best first."""
    entering = np.argsort(-scores.max(axis=0), kind="stable")[: rule.max_candidates]
    rated = [(scores[c, p], c, p) for c in range(len(scores)) for p in entering if scores[c, p] > rule.score_threshold]
    overlap = iou_matrix(boxes, boxes)
    kept: list[tuple[int, int]] = []
    for _, label, cell in sorted(rated, reverse=True):
        if all(label != other or overlap[cell, place] <= rule.iou_threshold for other, place in kept):
            kept.append((label, cell))
    return kept[: rule.max_detections]


def scene(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    corners = rng.uniform(0, 80, (BATCH, CELLS, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(10, 40, (BATCH, CELLS, 2))), axis=2).astype(np.float32)
    scores = rng.permuted(np.linspace(0, 1, BATCH * classes * CELLS)).reshape(BATCH, classes, CELLS)
    return boxes, scores.astype(np.float32)


@pytest.mark.parametrize("candidates", [25, CELLS, 3000])
@pytest.mark.parametrize("detections", [5, 100])
@pytest.mark.parametrize("classes", [1, 3])
def test_every_picture_keeps_what_plain_suppression_keeps(classes: int, detections: int, candidates: int) -> None:
    boxes, scores = scene(classes)
    rule = Suppression(score_threshold=0.3, iou_threshold=0.4, max_candidates=candidates, max_detections=detections)
    dets, labels, cells = in_graph(boxes, scores, rule)
    for i in range(BATCH):
        kept = plain(boxes[i], scores[i], rule)
        assert list(zip(labels[i][: len(kept)], cells[i][: len(kept)], strict=True)) == kept
        expected = np.array([[*boxes[i][p], scores[i][c, p]] for c, p in kept])
        np.testing.assert_allclose(dets[i][: len(kept)], expected, rtol=1e-6)
        assert np.all(labels[i][len(kept) :] == -1)
        assert not dets[i][len(kept) :].any()


def test_bytes_go_into_a_cast_and_nothing_else_for_tensorrt_takes_no_others() -> None:
    graph = GraphBuilder()
    planes = graph.input("planes", np.float32, ["n", 3, 4, 6])
    graph.output(graph.add("Relu", [planes]), "out", np.float32, ["n", 3, 4, 6])
    prepend_preprocessing(graph, planes, mean=(1, 2, 3), std=(4, 5, 6), rgb=True, input_size_wh=(6, 4), batch="n")
    assert [node.op_type for node in graph.nodes if FRAMES in node.input] == ["Cast"]


def test_a_picture_without_people_gives_empty_rows() -> None:
    boxes, scores = scene(1)
    dets, labels, _ = in_graph(boxes, scores * 0, Suppression(score_threshold=0.3, iou_threshold=0.4))
    assert not dets.any()
    assert np.all(labels == -1)


def test_no_more_cells_enter_suppression_than_tensorrt_selects() -> None:
    """A detector of noise scores all its cells; what suppression does with them must stay bounded."""
    assert Suppression(score_threshold=0.05, iou_threshold=0.6).max_candidates <= 3840
    boxes, scores = scene(3)
    rule = Suppression(score_threshold=0.05, iou_threshold=1.0, max_candidates=10, max_detections=100)
    dets, _, cells = in_graph(boxes, np.ones_like(scores), rule)
    assert dets.shape[1] == 30
    assert np.all(cells < 10)
