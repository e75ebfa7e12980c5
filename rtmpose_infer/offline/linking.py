"""Boxes for the frames between two detector runs, interpolated from both sides.

Offline, the detector sees every n-th frame only, but what it finds later is known when an earlier frame is processed.
So boxes of consecutive key frames are linked, the frames in between get the straight line between them, and a person is
looked for a little before the first detection, where the pose's scores tell whether somebody is there. After the last
detection the tracker goes on from the person's own joints. Identity is not decided here: it comes from the poses, frame
by frame (see ``tracker``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rtmpose_infer.association import match
from rtmpose_infer.geometry import clip_boxes, iou_matrix, nms

if TYPE_CHECKING:
    from rtmpose_infer.results import Detections

__all__ = ["Candidates", "KeyLinker"]

Floats = npt.NDArray[np.float32]

_LONGEST_GAP = 3  # key frames a person may be missed by the detector and still be linked
_NEAR = 0.6  # standard deviation of a person's place after one key interval, in body sizes
_LEAST_LIKENESS = 0.15
_SAME_BOX = 0.8  # overlap from which a second crop would show nothing new
_CROWD = 4  # people from which what they have in common tells of the camera


@dataclass(frozen=True)
class Candidates:
    """Where to look for people in one frame.

    Attributes:
        bboxes: (M, 4) float32 in frame pixels.
        scores: (M,) float32, of the detections they come from.
        detected: (M,) bool, whether the detector found this very box in this frame.
    """

    bboxes: Floats
    scores: Floats
    detected: npt.NDArray[np.bool_]


@dataclass
class _Chain:
    """One person's boxes at key frames, and how everybody moved (per frame) when the person was first seen."""

    drift: Floats
    keys: list[int] = field(default_factory=list)
    boxes: list[Floats] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def speed(self, *, at_end: bool) -> Floats:
        """Return the box's change per frame at either end; while it was seen once, everybody's."""
        if len(self.keys) < 2:
            return self.drift
        a, b = (-2, -1) if at_end else (0, 1)
        return np.asarray((self.boxes[b] - self.boxes[a]) / (self.keys[b] - self.keys[a]), np.float32)

    def append(self, frame_index: int, detections: Detections, row: int) -> None:
        """Go on with a detection."""
        self.keys.append(frame_index)
        self.boxes.append(detections.bboxes[row])
        self.scores.append(float(detections.scores[row]))

    def forget_before(self, frame_index: int) -> None:
        """Drop key frames that no frame from ``frame_index`` on lies between."""
        while len(self.keys) > 2 and self.keys[1] <= frame_index:
            del self.keys[0], self.boxes[0], self.scores[0]


class KeyLinker:
    """Links the detections of key frames and gives boxes for every frame.

    A camera that moves moves everybody alike. So once most people are linked, the rest is sought where the median of
    their deviations puts it, and newcomers are taken to move as the median person does.

    Args:
        interval: Frames from one key frame to the next.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._chains: deque[_Chain] = deque()
        self._drift = np.zeros(4, np.float32)

    def add(self, frame_index: int, detections: Detections) -> None:
        """Take in the detections of the next key frame, whose number in the video is ``frame_index``."""
        reach = self.interval * _LONGEST_GAP
        open_chains = [c for c in self._chains if frame_index - c.keys[-1] <= reach]
        linked: set[int] = set()
        for row, col in self._links(open_chains, frame_index, detections.bboxes):
            open_chains[row].append(frame_index, detections, col)
            linked.add(col)
        moving = [c.speed(at_end=True) for c in open_chains if c.keys[-1] == frame_index]
        self._drift = np.median(moving, axis=0).astype(np.float32) if len(moving) >= _CROWD else np.zeros(4, np.float32)
        for col in range(len(detections)):
            if col not in linked:
                chain = _Chain(self._drift)
                chain.append(frame_index, detections, col)
                self._chains.append(chain)

    def _links(self, chains: list[_Chain], frame_index: int, bboxes: Floats) -> list[tuple[int, int]]:
        """Return which chain (row) goes on with which detection (column)."""
        if not chains or not len(bboxes):
            return []
        gaps = np.array([frame_index - c.keys[-1] for c in chains], np.float32)
        expected = np.stack([c.boxes[-1] + c.speed(at_end=True) * g for c, g in zip(chains, gaps, strict=True)])
        expected = expected.astype(np.float32)
        waits = gaps / np.float32(self.interval)
        rows, cols = _best(expected, bboxes, waits)
        if len(rows) >= _CROWD:
            shift = np.median(_centers(bboxes[cols]) - _centers(expected[rows]), axis=0)
            rows, cols = _best((expected + np.tile(shift, 2)).astype(np.float32), bboxes, waits)
        return list(zip(rows.tolist(), cols.tolist(), strict=True))

    def candidates(self, frame_index: int, frame_size_wh: tuple[int, int]) -> Candidates:
        """Return the boxes for one frame; the key frames around it must have been added."""
        boxes, scores, detected = [], [], []
        for chain in self._chains:
            # A single detection may be a false alarm; looking for it back to the key frame before costs more than it finds.
            reach = self.interval if len(chain.keys) > 1 else (self.interval + 1) // 2
            if chain.keys[0] - reach < frame_index <= chain.keys[-1]:
                box, score = _box_at(chain, frame_index)
                boxes.append(box)
                scores.append(score)
                detected.append(frame_index in chain.keys)
        if not boxes:
            return Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, bool))
        clipped = clip_boxes(np.stack(boxes).astype(np.float32), frame_size_wh)
        solid = (clipped[:, 2] - clipped[:, 0] > 2) & (clipped[:, 3] - clipped[:, 1] > 2)
        clipped, sure, found = clipped[solid], np.array(scores, np.float32)[solid], np.array(detected, bool)[solid]
        kept = np.sort(nms(clipped, sure, iou_threshold=_SAME_BOX))
        return Candidates(clipped[kept], sure[kept], found[kept])

    def forget_before(self, frame_index: int) -> None:
        """Drop what no frame from ``frame_index`` on can need."""
        reach = self.interval * _LONGEST_GAP
        self._chains = deque(c for c in self._chains if c.keys[-1] + reach >= frame_index)
        for chain in self._chains:
            chain.forget_before(frame_index)


def _box_at(chain: _Chain, frame_index: int) -> tuple[Floats, float]:
    after = int(np.searchsorted(chain.keys, frame_index))
    if after == len(chain.keys):
        return chain.boxes[-1] + chain.speed(at_end=True) * (frame_index - chain.keys[-1]), chain.scores[-1]
    if after == 0 or chain.keys[after] == frame_index:
        ahead = frame_index - chain.keys[after]
        return chain.boxes[after] + chain.speed(at_end=False) * min(ahead, 0), chain.scores[after]
    start, end = chain.keys[after - 1], chain.keys[after]
    share = (frame_index - start) / (end - start)
    box = chain.boxes[after - 1] * (1 - share) + chain.boxes[after] * share
    return box.astype(np.float32), min(chain.scores[after - 1], chain.scores[after])


def _best(expected: Floats, found: Floats, waits: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    likeness = _likeness(expected, found, waits)
    return match(likeness, likeness > _LEAST_LIKENESS)


def _centers(bboxes: Floats) -> Floats:
    return np.asarray((bboxes[:, :2] + bboxes[:, 2:]) / 2, np.float32)


def _likeness(expected: Floats, found: Floats, gaps: Floats) -> Floats:
    """Return (N, M) half overlap, half nearness of centres and sizes; both count less the longer the gap."""
    sizes = np.sqrt(np.maximum((expected[:, 2] - expected[:, 0]) * (expected[:, 3] - expected[:, 1]), 1))
    found_sizes = np.sqrt(np.maximum((found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1]), 1))
    away = (
        np.linalg.norm(_centers(expected)[:, None] - _centers(found)[None], axis=2)
        / (sizes * _NEAR * np.sqrt(gaps))[:, None]
    )
    grown = np.log(found_sizes[None] / sizes[:, None]) / 0.4
    nearness = np.exp(-(away**2 + grown**2) / 2)
    return np.asarray((iou_matrix(expected, found) + nearness) / 2, np.float32)
