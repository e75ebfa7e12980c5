"""COCO keypoint results: a flat list with one entry a person, as COCO's evaluation code loads it.

Form (https://cocodataset.org/#format-results): ``image_id``, ``category_id`` (1, person), ``keypoints`` as x, y,
score of each joint, and the person's ``score``. Tracked people carry ``track_id`` besides; the evaluation ignores it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmpose_infer.formats._growing import GrowingFile
from rtmpose_infer.formats._numbers import SCORE_DIGITS, flat_triplets, rounded_or_zero

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses

__all__ = ["CocoWriter", "coco_results_from_poses"]

_PERSON_CATEGORY = 1


def coco_results_from_poses(poses: Poses, *, image_id: int) -> list[dict[str, Any]]:
    """Return one COCO result a person; a joint without place is 0, 0, 0.

    Args:
        poses: People of one image.
        image_id: The image's id in the annotations.
    """
    triplets = flat_triplets(poses.keypoints, poses.keypoint_scores)
    scores = rounded_or_zero(poses.scores, SCORE_DIGITS)
    results: list[dict[str, Any]] = []
    for row, (keypoints, score) in enumerate(zip(triplets, scores, strict=True)):
        result = {"image_id": int(image_id), "category_id": _PERSON_CATEGORY, "keypoints": keypoints, "score": score}
        if poses.track_ids is not None:
            result["track_id"] = int(poses.track_ids[row])
        results.append(result)
    return results


class CocoWriter:
    """Streams poses into a COCO results file.

    The image's id is its file name where that is a number (COCO's ``000000000139.jpg`` is 139), else the frame's index.

    Raises:
        MediaError: The file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = GrowingFile(self.path, tail="\n]\n")

    def write(self, poses: Poses, *, name: str | None = None) -> None:
        """Add one frame; ``name`` is the file name of a picture."""
        if not self._file.begun:
            self._file.begin("[\n")
        stem = Path(name).stem if name is not None else ""
        image_id = int(stem) if stem.isascii() and stem.isdecimal() else (poses.frame_index or 0)
        results = coco_results_from_poses(poses, image_id=image_id)
        if results:
            self._file.add(",\n".join(json.dumps(r, separators=(",", ":"), allow_nan=False) for r in results))

    def close(self, *, complete: bool = True) -> None:
        """Close the file; its form has no place for ``complete``."""
        del complete
        self._file.finish()
