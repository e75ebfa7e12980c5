"""A table for spreadsheets and data frames: one row a person and frame.

Columns: ``frame_index``, ``timestamp_s``, ``name`` (of a picture), ``track_id``, ``bbox_x1`` … ``bbox_y2``,
``bbox_score``, then ``<keypoint>_x``, ``<keypoint>_y`` and ``<keypoint>_score`` of every keypoint. What is unknown is
an empty cell. Frames without people have no row.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmpose_infer.formats._ending import Ending
from rtmpose_infer.formats._growing import GrowingFile
from rtmpose_infer.formats._numbers import PIXEL_DIGITS, SCORE_DIGITS, TIME_DIGITS, rounded_or_none

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses

__all__ = ["CsvWriter"]


class CsvWriter(Ending):
    """Streams poses into a CSV file (RFC 4180, UTF-8).

    Raises:
        MediaError: The file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = GrowingFile(self.path, separator="")

    def write(self, poses: Poses, *, name: str | None = None) -> None:
        """Add the people of one frame; ``name`` is the file name of a picture."""
        if not self._file.begun:
            columns = ["frame_index", "timestamp_s", "name", "track_id"]
            columns += ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "bbox_score"]
            columns += [f"{joint}_{what}" for joint in poses.skeleton.keypoints for what in ("x", "y", "score")]
            self._file.begin(_lines([columns]))
        if not len(poses):
            return
        boxes = rounded_or_none(poses.bboxes, PIXEL_DIGITS)
        box_scores = rounded_or_none(poses.bbox_scores, SCORE_DIGITS)
        points = rounded_or_none(poses.keypoints, PIXEL_DIGITS)
        scores = rounded_or_none(poses.keypoint_scores, SCORE_DIGITS)
        time_s = None if poses.timestamp_s is None else round(poses.timestamp_s, TIME_DIGITS)
        rows = []
        for row in range(len(poses)):
            track_id = None if poses.track_ids is None else int(poses.track_ids[row])
            joints = [cell for point, score in zip(points[row], scores[row], strict=True) for cell in (*point, score)]
            rows.append([poses.frame_index, time_s, name, track_id, *boxes[row], box_scores[row], *joints])
        self._file.add(_lines(rows))

    def close(self, *, complete: bool = True) -> None:
        """Close the file; its form has no place for ``complete``."""
        del complete
        self._file.finish()


def _lines(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
