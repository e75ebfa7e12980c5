"""The gate: what passes although numbers differ, and what does not although all boxes are in their places."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the exporter needs the export extra")
pytest.importorskip("onnx", reason="the exporter needs the export extra")

from rtmpose_infer.errors import ParityError
from rtmpose_infer.export.parity import Observation, compare

BOXES = 10


def detector(scores: float, *, of: int = BOXES) -> Observation:
    """Return what a detector says whose boxes stand side by side: this score for so many of them, 0.01 for the rest."""
    places = np.arange(BOXES, dtype=np.float32)[:, None] * 20 + np.array([0, 0, 10, 10], np.float32)
    rated = np.where(np.arange(BOXES) < of, np.float32(scores), np.float32(0.01))
    return Observation(places, rated, rated, cells=(places[None], rated[None, None]))


def gate(reference: Observation, candidate: Observation) -> None:
    compare(reference, candidate, name="fp32 onnx", pictures=1, real=True, limit_px=2)


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.8), (0.6, 0.3), (0.4, 0.7)])
def test_boxes_in_their_places_may_score_otherwise(before: float, after: float) -> None:
    gate(detector(before), detector(after))


def test_a_box_or_two_may_come_or_go() -> None:
    gate(detector(0.9), detector(0.9, of=8))
    gate(detector(0.9, of=8), detector(0.9))


def test_a_detector_that_finds_nobody_any_more_does_not_pass() -> None:
    with pytest.raises(ParityError, match="loses 10 of 10 boxes"):
        gate(detector(0.9), detector(0.1))


def test_a_detector_that_finds_people_everywhere_does_not_pass() -> None:
    with pytest.raises(ParityError, match="invents 8 of 10 boxes"):
        gate(detector(0.9, of=2), detector(0.9))
