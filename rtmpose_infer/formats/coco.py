"""COCO keypoint results: a flat list with one entry a person, as COCO's evaluation code loads it.

Form (https://cocodataset.org/#format-results): ``image_id``, ``category_id`` (1, person), ``keypoints`` as x, y,
score of each joint, and the person's ``score``. Tracked people carry ``track_id`` besides; the evaluation ignores it.
Of whole bodies ``keypoints`` holds the 17 of the body, and feet, face and hands have fields of their own, as
COCO-WholeBody's evaluation wants them (https://github.com/jin-s13/COCO-WholeBody/blob/master/data_format.md).
"""

from __future__ import annotations

import json
import logging
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmpose_infer.formats._ending import Ending
from rtmpose_infer.formats._growing import GrowingFile
from rtmpose_infer.formats._numbers import SCORE_DIGITS, flat_triplets, rounded_or_zero

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses

__all__ = ["WHOLE_BODY_FIELDS", "CocoWriter", "coco_results_from_poses"]

WHOLE_BODY_FIELDS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
"""COCO-WholeBody's fields and how many joints each holds; in its order of 133 they follow one another."""

_log = logging.getLogger("rtmpose_infer.formats")

_PERSON_CATEGORY = 1


def coco_results_from_poses(poses: Poses, *, image_id: int) -> list[dict[str, Any]]:
    """Return one COCO result a person; a joint without place is 0, 0, 0.

    Args:
        poses: People of one image.
        image_id: The image's id in the annotations.
    """
    triplets = flat_triplets(poses.keypoints, poses.keypoint_scores)
    scores = rounded_or_zero(poses.scores, SCORE_DIGITS)
    count = poses.skeleton.num_keypoints
    fields = WHOLE_BODY_FIELDS if count == sum(WHOLE_BODY_FIELDS.values()) else {"keypoints": count}
    results: list[dict[str, Any]] = []
    for row, (joints, score) in enumerate(zip(triplets, scores, strict=True)):
        numbers = iter(joints)
        result: dict[str, Any] = {"image_id": int(image_id), "category_id": _PERSON_CATEGORY}
        result |= {name: list(islice(numbers, 3 * length)) for name, length in fields.items()}
        result["score"] = score
        if poses.track_ids is not None:
            result["track_id"] = int(poses.track_ids[row])
        results.append(result)
    return results


class CocoWriter(Ending):
    """Streams poses into a COCO results file.

    The image's id is its file name where that is a number (COCO's ``000000000139.jpg`` is 139), else the frame's index.
    No two images share one: where it is taken already, an image gets −1, −2, …, which is no other's, and the log says so.

    Raises:
        MediaError: The file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = GrowingFile(self.path, tail="\n]\n")
        self._taken: set[int] = set()
        self._images = self._doubles = 0

    def write(self, poses: Poses, *, name: str | None = None) -> None:
        """Add one frame; ``name`` is the file name of a picture."""
        if not self._file.begun:
            self._file.begin("[\n")
        results = coco_results_from_poses(poses, image_id=self._image_id(poses.frame_index, name))
        if results:
            self._file.add(",\n".join(json.dumps(r, separators=(",", ":"), allow_nan=False) for r in results))

    def _image_id(self, index: int | None, name: str | None) -> int:
        stem = Path(name).stem if name is not None else ""
        image_id = int(stem) if stem.isascii() and stem.isdecimal() else self._images if index is None else index
        self._images += 1
        if image_id in self._taken:
            self._doubles += 1
            what = "a frame" if name is None else name
            _log.warning("%s: the image id %d is taken already; %s gets %d.", self.path, image_id, what, -self._doubles)
            return -self._doubles
        self._taken.add(image_id)
        return image_id

    def close(self, *, complete: bool = True) -> None:
        """Close the file; its form has no place for ``complete``."""
        del complete
        self._file.finish()
