"""The package's own JSON: everything a ``Poses`` holds, one line a frame.

Schema, version 1 (a reader refuses a greater version; unknown fields are to be ignored)::

    {
      "format": "rtmpose_infer.poses",
      "version": 1,
      "generator": "rtmpose_infer 0.1.0",
      "source": {"name": "street.mp4", "frame_rate": 25.0},        name, and what was known of the source
      "skeleton": {"name": "coco17", "keypoints": ["nose", …],     K names in the order of all arrays below
                   "links": [[0, 1], …], "flip_index": [0, 2, 1, …], "sigmas": [0.026, …] or null},
      "frames": [
        {"frame_index": 0,                 number of the frame in its source, from 0; null for a single picture
         "timestamp_s": 0.0,               seconds since the source's first frame; null where unknown
         "frame_size_wh": [1280, 720],     pixels; null where unknown
         "name": "000001.jpg",             only for pictures
         "tracked": true,                  whether people carry track ids
         "people": [
           {"track_id": 1,                 only when tracked
            "bbox": [x1, y1, x2, y2],      pixels of this frame, edge coordinates; null where not finite
            "bbox_score": 0.91,
            "keypoints": [[x, y], …],      K points in pixels, pixel centres at integers; [null, null]: not found
            "keypoint_scores": [0.8, …],   K raw scores of the network; may exceed 1
            "keypoints_raw": [[x, y], …],  only when smoothed: the points before smoothing
            "keypoint_probabilities": …    only with a calibration: K probabilities
           }, …]},
        …
      ],
      "complete": true                     the run went to its end; false while it goes on, and when it ended early
                                           (killed, interrupted, a full disk, a source that broke off)
    }
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.errors import InputError, MediaError
from rtmpose_infer.formats._ending import Ending
from rtmpose_infer.formats._growing import GrowingFile
from rtmpose_infer.formats._numbers import PIXEL_DIGITS, SCORE_DIGITS, TIME_DIGITS, rounded, rounded_or_none
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import Skeleton, skeleton_from_dict
from rtmpose_infer.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NATIVE_VERSION",
    "NativeWriter",
    "Recording",
    "load_recording",
    "poses_from_record",
    "record_from_poses",
]

NATIVE_VERSION = 1
_FORMAT = "rtmpose_infer.poses"
_UNFINISHED = '\n],\n"complete": false}\n'
_FINISHED = '\n],\n"complete": true}\n'


@dataclass(frozen=True)
class Recording:
    """The content of a native file.

    Attributes:
        frames: The poses, frame by frame; frames without people are there and empty.
        skeleton: Of all frames.
        names: File name of each frame's picture; None for the frames of a video.
        source: What the file says of its source.
        complete: The run went to its end; False when it still runs or ended early.
    """

    frames: tuple[Poses, ...]
    skeleton: Skeleton
    names: tuple[str | None, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True


class NativeWriter(Ending):
    """Streams poses into a native JSON file.

    Args:
        path: The file; an existing one is replaced by the first frame.
        source: Facts about the source for the head, such as ``{"name": "street.mp4"}``.

    Raises:
        MediaError: The file cannot be written.
    """

    def __init__(self, path: str | Path, *, source: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self._source = dict(source or {})
        self._skeleton: Skeleton | None = None
        self._file = GrowingFile(self.path, tail=_UNFINISHED)

    def write(self, poses: Poses, *, name: str | None = None) -> None:
        """Add one frame; ``name`` is the file name of a picture.

        Raises:
            InputError: The skeleton differs from the frames before.
            MediaError: The disk is full.
        """
        if self._skeleton is None:
            self._skeleton = poses.skeleton
            self._file.begin(_head(self._source, poses.skeleton))
        elif poses.skeleton != self._skeleton:
            raise InputError(f"{self.path}: holds {self._skeleton.name} poses; a frame of {poses.skeleton.name} came.")
        self._file.add(_compact(record_from_poses(poses, name=name)))

    def close(self, *, complete: bool = True) -> None:
        """Close the file, and mark it complete unless the run ended early (``complete`` is False)."""
        self._file.finish(_FINISHED if complete else None)


def record_from_poses(poses: Poses, *, name: str | None = None) -> dict[str, Any]:
    """Return one frame of the native schema (an element of ``frames``) as plain lists and numbers."""
    points = rounded_or_none(poses.keypoints, PIXEL_DIGITS)
    # A joint that was found stays one: no score above 0 is rounded to 0.
    least = np.where(poses.keypoint_scores > 0, np.float32(10**-SCORE_DIGITS), -np.inf)
    scores = rounded_or_none(np.maximum(poses.keypoint_scores, least), SCORE_DIGITS)
    boxes = rounded_or_none(poses.bboxes, PIXEL_DIGITS)
    box_scores = rounded_or_none(poses.bbox_scores, SCORE_DIGITS)
    raw = None if poses.keypoints_raw is poses.keypoints else rounded_or_none(poses.keypoints_raw, PIXEL_DIGITS)
    chances = poses.keypoint_probabilities
    chances = None if chances is None else rounded_or_none(chances, SCORE_DIGITS)
    people: list[dict[str, Any]] = []
    for row in range(len(poses)):
        person: dict[str, Any] = {} if poses.track_ids is None else {"track_id": int(poses.track_ids[row])}
        person |= {"bbox": boxes[row], "bbox_score": box_scores[row]}
        person |= {"keypoints": points[row], "keypoint_scores": scores[row]}
        if raw is not None:
            person["keypoints_raw"] = raw[row]
        if chances is not None:
            person["keypoint_probabilities"] = chances[row]
        people.append(person)
    time_s = poses.timestamp_s
    record: dict[str, Any] = {
        "frame_index": None if poses.frame_index is None else int(poses.frame_index),
        "timestamp_s": None if time_s is None or not math.isfinite(time_s) else round(float(time_s), TIME_DIGITS),
        "frame_size_wh": None if poses.frame_size_wh is None else [int(side) for side in poses.frame_size_wh],
    }
    if name is not None:
        record["name"] = name
    record["tracked"] = poses.track_ids is not None
    record["people"] = people
    return record


def poses_from_record(record: Mapping[str, Any], skeleton: Skeleton) -> Poses:
    """Return the poses of one frame of the native schema.

    Raises:
        InputError: A field is missing or malformed.
    """
    k = skeleton.num_keypoints
    try:
        people = list(record["people"])
        tracked = bool(record.get("tracked", bool(people) and "track_id" in people[0]))
        size = record.get("frame_size_wh")
        common: dict[str, Any] = {
            "frame_index": None if record.get("frame_index") is None else int(record["frame_index"]),
            "timestamp_s": None if record.get("timestamp_s") is None else float(record["timestamp_s"]),
            "frame_size_wh": None if size is None else (int(size[0]), int(size[1])),
        }
        if not people:
            return Poses.empty(skeleton, tracked=tracked, **common)

        def column(key: str, shape: tuple[int, ...]) -> Any:
            # None becomes NaN.
            return np.array([person[key] for person in people], dtype=np.float32).reshape(len(people), *shape)

        def optional(key: str, shape: tuple[int, ...]) -> Any:
            return column(key, shape) if key in people[0] else None

        return Poses(
            keypoints=column("keypoints", (k, 2)),
            keypoint_scores=column("keypoint_scores", (k,)),
            bboxes=column("bbox", (4,)),
            bbox_scores=column("bbox_score", ()),
            skeleton=skeleton,
            track_ids=np.array([int(person["track_id"]) for person in people], np.int64) if tracked else None,
            keypoints_raw=optional("keypoints_raw", (k, 2)),
            keypoint_probabilities=optional("keypoint_probabilities", (k,)),
            **common,
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        raise InputError(f"not a frame of the native schema with {k} keypoints: {error!r}.") from error


def load_recording(path: str | Path) -> Recording:
    """Return the content of a native JSON file; of one that a full disk cut off, all whole frames.

    Raises:
        MediaError: The file cannot be read.
        InputError: It is not a native file, is malformed, or of a newer version.
    """
    path = Path(path)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(path.read_bytes())  # passes over half a letter at the end
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text file, so not a recording of poses.") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        data = _whole_lines(text)
        if data is None:
            raise InputError(f"{path}: is not valid JSON: {error}.") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise InputError(f"{path}: is not a recording of poses; its field 'format' must be {_FORMAT!r}.")
    version = data.get("version")
    if not isinstance(version, int) or not 1 <= version <= NATIVE_VERSION:
        raise InputError(f"{path}: is of version {version!r}; this package reads up to {NATIVE_VERSION}. Update it.")
    try:
        skeleton = skeleton_from_dict(data["skeleton"])
        records = list(data["frames"])
        source = dict(data.get("source") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the head of the recording is malformed: {error!r}.") from error
    frames: list[Poses] = []
    try:
        for record in records:
            frames.append(poses_from_record(record, skeleton))  # noqa: PERF401  # the count names the bad frame
    except InputError as error:
        raise InputError(f"{path}: frame {len(frames)}: {error}") from error
    names = tuple(record.get("name") for record in records)
    return Recording(tuple(frames), skeleton, names, source, complete=bool(data.get("complete", True)))


def _head(source: Mapping[str, Any], skeleton: Skeleton) -> str:
    fields = {
        "format": _FORMAT,
        "version": NATIVE_VERSION,
        "generator": f"rtmpose_infer {__version__}",
        "source": source,
        "skeleton": {
            "name": skeleton.name,
            "keypoints": skeleton.keypoints,
            "links": skeleton.links,
            "flip_index": skeleton.flip_index,
            "sigmas": None if skeleton.sigmas is None else rounded(skeleton.sigmas, 6),
        },
    }
    lines = ",\n".join(f"{json.dumps(key)}: {_compact(value)}" for key, value in fields.items())
    return f'{{{lines},\n"frames": [\n'


def _whole_lines(text: str) -> dict[str, Any] | None:
    """Return what a file that stops in the middle of a line still says, or None when not even its head is whole."""
    head, found, body = text.partition('\n"frames": [\n')
    if not found:
        return None
    try:
        data = json.loads(head.rstrip().removesuffix(",") + "}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    frames = []
    with contextlib.suppress(ValueError, RecursionError):
        for line in body.split("\n"):
            frames.append(json.loads(line.removesuffix(",")))  # noqa: PERF401  # lines before a broken one count
    return data | {"frames": frames, "complete": False}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
