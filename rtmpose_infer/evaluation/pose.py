"""How good poses in pictures are: OKS-AP and AR by COCO's evaluation code, and how far off each joint is.

The figures come from ``faster_coco_eval``, a maintained C++ form of COCO's own code, never from a formula of this
project. What this file adds is everything around it: annotations are checked before an hour of inference depends on
them, joints are paired by name, so that a network with 26 or 133 keypoints can be judged on 17 annotated ones, the
parts of COCO-WholeBody are judged one by one, and a table says for every joint how well it is placed.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.association import match
from rtmpose_infer.errors import BackendUnavailableError, InputError, MediaError
from rtmpose_infer.formats.coco import WHOLE_BODY_FIELDS
from rtmpose_infer.geometry import oks_matrix, xyxy_from_xywh

if TYPE_CHECKING:
    from rtmpose_infer.results import Poses
    from rtmpose_infer.skeletons import Skeleton

__all__ = [
    "PERSON_SHARE_OF_BOX",
    "Annotations",
    "JointReport",
    "PartReport",
    "PoseReport",
    "load_annotations",
    "pose_report",
    "skeleton_of",
]

Floats = npt.NDArray[np.floating[Any]]
_PARTS = tuple(
    (part, field, valid, WHOLE_BODY_FIELDS[field])
    for part, field, valid in (
        ("body", "keypoints", None),
        ("foot", "foot_kpts", "foot_valid"),
        ("face", "face_kpts", "face_valid"),
        ("left_hand", "lefthand_kpts", "lefthand_valid"),
        ("right_hand", "righthand_kpts", "righthand_valid"),
    )
)
_WHOLE_BODY_KEYPOINTS = sum(WHOLE_BODY_FIELDS.values())
_STATS = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
PERSON_SHARE_OF_BOX = 0.53
"""The share of their boxes that COCO's people fill at the median: a person's area where only the box is known."""
_NOWHERE = (-9e4, 0.0, 0.0)  # far from any picture's joints
_SAME_PERSON = 0.1  # OKS from which a found person is taken for an annotated one in the table of joints


@dataclass(frozen=True, eq=False)
class Annotations:
    """Annotated pictures in COCO's form.

    Attributes:
        path: Where they came from.
        images: Image id → file name.
        people: The annotation of every person, as in the file.
        keypoint_names: (K,) names of the annotated joints of ``keypoints``; empty where the file does not say.
        is_whole_body: Feet, face and hands are annotated as well (COCO-WholeBody).
    """

    path: Path
    images: Mapping[int, str]
    people: Sequence[Mapping[str, Any]]
    keypoint_names: tuple[str, ...]
    is_whole_body: bool

    @cached_property
    def boxes(self) -> Mapping[int, Floats]:
        """Image id → (N, 4) x1 y1 x2 y2 of ``boxed_people``."""
        return {
            image_id: xyxy_from_xywh([person["bbox"] for person in people] or np.zeros((0, 4)))
            for image_id, people in self.boxed_people.items()
        }

    @cached_property
    def boxed_people(self) -> Mapping[int, Sequence[Mapping[str, Any]]]:
        """Image id → its people that have a box, crowds left out."""
        found: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in self.images}
        for person in self.people:
            if not person.get("iscrowd") and person["bbox"][2] > 0 and person["bbox"][3] > 0:
                found[person["image_id"]].append(person)
        return found

    def first(self, count: int) -> Annotations:
        """Return the first ``count`` pictures and their people.

        Raises:
            InputError: Nobody is annotated in them.
        """
        images = dict(list(self.images.items())[:count])
        people = [p for p in self.people if p["image_id"] in images]
        if not people:
            raise InputError(f"{self.path}: nothing to judge: nobody is annotated in the first {count} pictures.")
        return replace(self, images=images, people=people)


@dataclass(frozen=True)
class PartReport:
    """COCO's ten figures, each 0 to 1; NaN where there is nothing to judge, as for a size that does not occur.

    Attributes:
        ap: Average precision, mean over OKS thresholds from 0.50 to 0.95 in steps of 0.05.
        ap50: At an OKS threshold of 0.5.
        ap75: At an OKS threshold of 0.75.
        ap_medium: Of people of 32² to 96² pixels.
        ap_large: Of people beyond 96² pixels.
        ar: Average recall, mean over the same thresholds.
        ar50: At an OKS threshold of 0.5.
        ar75: At an OKS threshold of 0.75.
        ar_medium: Of people of 32² to 96² pixels.
        ar_large: Of people beyond 96² pixels.
    """

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    ar50: float
    ar75: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True)
class JointReport:
    """How well one joint is placed.

    Attributes:
        name: The joint.
        annotated: On how many people it is annotated.
        likeness: Mean of its own term of the OKS, exp(−d²/(2·area·(2σ)²)), a missed person counting as 0.
        median_error: Median distance from the annotated place, in square roots of the person's area, where people and
            this joint of theirs were found.
    """

    name: str
    annotated: int
    likeness: float
    median_error: float


@dataclass(frozen=True)
class PoseReport:
    """What ``pose_report`` measured.

    Attributes:
        figures: Of the keypoints field, or of all 133 joints of whole-body annotations.
        parts: Part of the body → its figures; only for whole-body annotations.
        joints: One row a joint.
        images: Pictures.
        people: Annotated people with at least one joint.
        found: People found.
    """

    figures: PartReport
    parts: Mapping[str, PartReport] = field(default_factory=dict)
    joints: tuple[JointReport, ...] = ()
    images: int = 0
    people: int = 0
    found: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what could not be judged is None."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def load_annotations(path: str | Path) -> Annotations:
    """Return annotated pictures from a COCO or COCO-WholeBody keypoint file.

    Raises:
        MediaError: The file cannot be read.
        InputError: It is not JSON, or not in COCO's form; the message says what is missing.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON, so no annotations: {error}.") from error
    try:
        images = {int(image["id"]): str(image["file_name"]) for image in data["images"]}
        people = [_checked_person(person, images) for person in data["annotations"] if "keypoints" in person]
        named = [category for category in data.get("categories", ()) if category.get("keypoints")]
        names = tuple(str(name) for name in named[0]["keypoints"]) if named else ()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: is not a COCO keypoint file ({error!r}); it needs 'images' with id and file_name, "
            "and 'annotations' with image_id, bbox and keypoints."
        ) from error
    if not images or not people:
        raise InputError(f"{path}: nothing to judge: {len(images)} images, {len(people)} people with keypoints.")
    whole = all(all(name in person for _, name, *_ in _PARTS) for person in people)
    lengths = {len(person["keypoints"]) for person in people}
    if len(lengths) > 1 or (names and lengths != {3 * len(names)}):
        expected = f"{3 * len(names)} numbers" if names else "equally many numbers"
        raise InputError(f"{path}: expected {expected} in every 'keypoints', got {sorted(lengths)}.")
    return Annotations(path, images, people, names, whole)


def pose_report(annotations: Annotations, poses: Mapping[int, Poses]) -> PoseReport:
    """Return COCO's figures for the poses found in annotated pictures.

    People are ranked by ``Poses.scores``. A joint that the network does not have, or did not find, counts as wrong.

    Args:
        annotations: What is there.
        poses: Image id → people found; a picture without an entry counts as empty.

    Raises:
        InputError: There are no poses, of skeletons that differ or that share no joint with the annotations, or of
            pictures that are not annotated.
        BackendUnavailableError: ``faster_coco_eval`` is not installed.
    """
    skeleton = skeleton_of(poses)
    unknown = sorted(set(poses) - set(annotations.images))
    if unknown:
        raise InputError(f"poses of pictures that {annotations.path} does not name: {unknown[:5]}.")
    whole = annotations.is_whole_body and skeleton.num_keypoints == _WHOLE_BODY_KEYPOINTS
    index = np.arange(_WHOLE_BODY_KEYPOINTS) if whole else _paired(annotations, skeleton)
    sigmas = np.where(index >= 0, skeleton.oks_sigmas.astype(np.float64)[index], 0.05).round(6)
    names = skeleton.keypoints if whole else annotations.keypoint_names or skeleton.keypoints
    truth = [_truth_of(person, whole=whole) for person in annotations.people]
    found = [row for image_id, people in poses.items() for row in _results(image_id, people, index)]

    parts = {}
    if whole:
        start = 0
        for part, _, _, count in _PARTS:
            parts[part] = _figures(annotations, truth, found, sigmas, slice(start, start + count))
            start += count
    return PoseReport(
        figures=_figures(annotations, truth, found, sigmas, slice(None)),
        parts=parts,
        joints=tuple(_joint_reports(annotations, truth, found, sigmas, names)),
        images=len(annotations.images),
        people=sum(bool((person[:, 2] > 0).any()) for person in truth),
        found=len(found),
    )


def skeleton_of(poses: Mapping[int, Poses]) -> Skeleton:
    """Return the skeleton of the poses found in several pictures, by image id.

    Raises:
        InputError: There are none, or their skeletons differ.
    """
    skeletons = {found.skeleton for found in poses.values()}
    if len(skeletons) != 1:
        raise InputError(f"expected poses of one skeleton, got {len(skeletons)}.")
    return skeletons.pop()


def _checked_person(person: Any, images: Mapping[int, str]) -> Mapping[str, Any]:
    image_id = int(person["image_id"])
    if image_id not in images:
        raise ValueError(f"annotation of the unknown image {image_id}")
    x, y, width, height = box = [float(v) for v in person["bbox"]]
    area = float(person.get("area", PERSON_SHARE_OF_BOX * width * height))
    if not all(map(math.isfinite, (x, y, width, height, area))):
        raise ValueError(f"bbox {box} of area {area}")
    checked = {**person, "image_id": image_id, "bbox": box, "area": area}
    for _, name, _, count in _PARTS:
        numbers = [float(v) for v in person.get(name, ())]
        if len(numbers) % 3 or (name != "keypoints" and numbers and len(numbers) != 3 * count):
            raise ValueError(f"{name} with {len(numbers)} numbers")
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{name} that are not finite")
        if name in person:
            checked[name] = numbers
    return checked


def _paired(annotations: Annotations, skeleton: Skeleton) -> npt.NDArray[np.intp]:
    """Return for each annotated joint the network's joint of that name; −1 where it has none."""
    names = annotations.keypoint_names
    count = len(annotations.people[0]["keypoints"]) // 3
    if not names:
        if count != skeleton.num_keypoints:
            raise InputError(
                f"{annotations.path}: annotates {count} unnamed joints, the network has {skeleton.num_keypoints}; "
                "name them in the file's category to pair them."
            )
        return np.arange(count)
    own = {name: i for i, name in enumerate(skeleton.keypoints)}
    index = np.array([own.get(name, -1) for name in names])
    if (index < 0).all():
        raise InputError(
            f"{annotations.path}: annotates {', '.join(names[:3])}, …; the {skeleton.name} network has none of these."
        )
    return index


def _truth_of(person: Mapping[str, Any], *, whole: bool) -> Floats:
    """Return (K, 3) x, y and visibility."""
    if not whole:
        return np.asarray(person["keypoints"], np.float64).reshape(-1, 3)
    rows = []
    for _, name, valid, _ in _PARTS:
        joints = np.asarray(person[name], np.float64).reshape(-1, 3).copy()
        if valid is not None and not person.get(valid, True):
            joints[:, 2] = 0
        rows.append(joints)
    return np.concatenate(rows)


def _results(image_id: int, poses: Poses, index: npt.NDArray[np.intp]) -> Iterator[tuple[int, Floats, float]]:
    """Yield (image id, (K, 3) joints, score) of each person; a joint without place has NaN there."""
    joints = np.dstack([poses.keypoints, np.maximum(poses.keypoint_scores, 0)]).astype(np.float64)
    joints = np.where((index >= 0)[None, :, None], joints[:, index], (np.nan, np.nan, 0))
    for person, score in zip(joints, poses.scores.tolist(), strict=True):
        yield image_id, person, score


def _figures(
    annotations: Annotations,
    truth: Sequence[Floats],
    found: Sequence[tuple[int, Floats, float]],
    sigmas: Floats,
    part: slice,
) -> PartReport:
    try:
        import faster_coco_eval as coco  # an optional extra
    except ImportError as error:
        raise BackendUnavailableError(
            "COCO's figures need the package faster-coco-eval; install it with: pip install 'rtmpose-infer[eval]'"
        ) from error
    people = []
    for number, (person, joints) in enumerate(zip(annotations.people, truth, strict=True), start=1):
        box = person["bbox"]
        people.append(
            {
                "id": number,
                "image_id": person["image_id"],
                "category_id": 1,
                "iscrowd": int(person.get("iscrowd", 0)),
                "bbox": box,
                "area": person["area"],
                "keypoints": joints[part].ravel().tolist(),
                "num_keypoints": int((joints[part][:, 2] > 0).sum()),
            }
        )
    results = [
        {"image_id": image_id, "category_id": 1, "keypoints": _placed(joints[part]).ravel().tolist(), "score": score}
        for image_id, joints, score in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        about = {"images": [{"id": i} for i in annotations.images], "categories": [{"id": 1, "name": "person"}]}
        there = coco.COCO({**about, "annotations": people})
        seen = there.loadRes(results) if results else coco.COCO({**about, "annotations": []})
        # How large somebody found is, tell the joints that were found; COCO-WholeBody's code asks the body's whatever part
        # is judged.
        telling = slice(WHOLE_BODY_FIELDS["keypoints"] if annotations.is_whole_body else None)
        for result, (_, joints, _) in zip(seen.dataset["annotations"], found, strict=True):
            result["area"] = _extent_area(joints[telling])
        judge = coco.COCOeval_faster(there, seen, "keypoints", kpt_oks_sigmas=sigmas[part].tolist())
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return PartReport(*[float(v) if v >= 0 else math.nan for v in judge.stats[: len(_STATS)]])


def _extent_area(joints: Floats) -> float:
    """Return the area of the box around the joints that have a place, square pixels; 0 without any."""
    placed = joints[np.isfinite(joints).all(axis=1), :2]
    return float(np.ptp(placed, axis=0).prod()) if len(placed) else 0.0


def _placed(joints: Floats) -> Floats:
    """Return (…, 3) joints with those that have no place so far off that they are like none: COCO's code takes them all."""
    placed: Floats = np.where(np.isfinite(joints), joints, _NOWHERE)
    return placed


def _joint_reports(
    annotations: Annotations,
    truth: Sequence[Floats],
    found: Sequence[tuple[int, Floats, float]],
    sigmas: Floats,
    names: Sequence[str],
) -> Iterator[JointReport]:
    """Yield a row for each joint, from people paired so that the sum of their OKS is greatest."""
    by_image: dict[int, list[Floats]] = defaultdict(list)
    for image_id, joints, _ in found:
        by_image[image_id].append(joints)
    true_by_image: dict[int, list[tuple[Floats, float]]] = defaultdict(list)
    for person, joints in zip(annotations.people, truth, strict=True):
        if not person.get("iscrowd") and (joints[:, 2] > 0).any():
            true_by_image[person["image_id"]].append((joints, max(person["area"], 1.0)))
    annotated = np.zeros(len(sigmas), np.int64)
    likeness = np.zeros(len(sigmas))
    errors: list[Floats] = []
    for image_id, people in true_by_image.items():
        places = np.array([joints for joints, _ in people])
        areas = np.array([area for _, area in people])
        labelled = places[..., 2] > 0
        annotated += labelled.sum(axis=0)
        candidates = np.array(by_image[image_id]).reshape(-1, len(sigmas), 3)
        alike = oks_matrix(
            _placed(candidates)[..., :2],
            places[..., :2],
            areas=areas,
            sigmas=sigmas,
            valid_a=np.ones(candidates.shape[:2], bool),
            valid_b=labelled,
        ).T
        for true, hit in zip(*match(alike, alike > _SAME_PERSON), strict=True):
            squared = ((candidates[hit, :, :2] - places[true, :, :2]) ** 2).sum(axis=1)
            terms = np.exp(-squared / (2 * areas[true] * (2 * sigmas) ** 2))
            likeness += np.where(labelled[true] & np.isfinite(terms), terms, 0)
            errors.append(np.where(labelled[true], np.sqrt(squared / areas[true]), np.nan))
    table = np.array(errors).reshape(-1, len(sigmas))
    for i, name in enumerate(names):
        known = table[:, i][np.isfinite(table[:, i])]
        yield JointReport(
            name=name,
            annotated=int(annotated[i]),
            likeness=float(likeness[i] / annotated[i]) if annotated[i] else math.nan,
            median_error=float(np.median(known)) if len(known) else math.nan,
        )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
