"""Figures of poses on pictures: against COCO's evaluation code run by hand, and on scenes worked out in the head."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtmpose_infer.errors import BackendUnavailableError, InputError, MediaError
from rtmpose_infer.evaluation.pose import load_annotations, pose_report
from rtmpose_infer.formats import coco_results_from_poses
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import Skeleton, load_skeleton

coco = pytest.importorskip("faster_coco_eval", reason="the eval extra is not installed")

COCO = load_skeleton("coco17")
HALPE = load_skeleton("halpe26")
WHOLE = load_skeleton("wholebody133")


def person(image_id: int, joints: np.ndarray, *, visible: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
    """Return an annotation of one person, as in COCO's files."""
    low, high = joints.min(axis=0), joints.max(axis=0)
    seen = np.full(len(joints), 2) if visible is None else visible
    box = [*low.tolist(), *(high - low).tolist()]
    area = float(box[2] * box[3])
    fields = {
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box,
        "area": area,
        "keypoints": np.c_[joints, seen].ravel().tolist(),
        "num_keypoints": int((seen > 0).sum()),
    }
    return fields | more


def whole_person(image_id: int, joints: np.ndarray, **more: Any) -> dict[str, Any]:
    """Return an annotation of one person with 133 joints, as in COCO-WholeBody's files."""
    spans = {"keypoints": (0, 17), "foot_kpts": (17, 23), "face_kpts": (23, 91)}
    spans |= {"lefthand_kpts": (91, 112), "righthand_kpts": (112, 133)}
    fields = {k: np.c_[joints[a:b], np.full(b - a, 2)].ravel().tolist() for k, (a, b) in spans.items()}
    valid = {"foot_valid": True, "face_valid": True, "lefthand_valid": True, "righthand_valid": True}
    return {**person(image_id, joints), **fields, **valid, **more}


def write(tmp_path: Path, people: Sequence[dict[str, Any]], *, images: int = 1, names: Sequence[str] = ()) -> Path:
    path = tmp_path / "annotations.json"
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(images)],
        "categories": [{"id": 1, "name": "person", **({"keypoints": list(names)} if names else {})}],
        "annotations": [{"id": i + 1, **p} for i, p in enumerate(people)],
    }
    path.write_text(json.dumps(data))
    return path


def poses(joints: Sequence[np.ndarray], skeleton: Skeleton = COCO, score: float = 0.9) -> Poses:
    places = np.asarray(joints, np.float32).reshape(-1, skeleton.num_keypoints, 2)
    boxes = np.concatenate([places.min(axis=1), places.max(axis=1)], axis=1) if len(places) else np.zeros((0, 4))
    return Poses(
        places, np.full(places.shape[:2], score, np.float32), boxes, np.ones(len(places), np.float32), skeleton
    )


def somebody(seed: int = 0, *, size: float = 200, at: float = 100, count: int = 17) -> np.ndarray:
    return at + size * np.random.default_rng(seed).uniform(0, 1, (count, 2))


def test_people_found_exactly_where_they_are_give_full_marks(tmp_path: Path) -> None:
    joints = [somebody(0), somebody(1, size=60)]
    truth = load_annotations(write(tmp_path, [person(0, j) for j in joints], names=COCO.keypoints))
    report = pose_report(truth, {0: poses(joints)})
    assert report.figures.ap == report.figures.ar == report.figures.ap_medium == report.figures.ap_large == 1
    assert (report.images, report.people, report.found) == (1, 2, 2)
    assert [row.name for row in report.joints] == list(COCO.keypoints)
    assert all(row.likeness == pytest.approx(1) and row.median_error < 1e-4 for row in report.joints)
    assert {row.annotated for row in report.joints} == {2}


@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 1.0), (639.0, 479.0)])
def test_joints_without_place_count_nowhere_not_even_in_the_pictures_corners(tmp_path: Path, corner) -> None:
    joints = np.full((17, 2), corner)
    annotated = person(0, joints, visible=np.array([2, 2, 2] + [0] * 14), bbox=[0, 0, 60, 80], area=3000)
    truth = load_annotations(write(tmp_path, [annotated], names=COCO.keypoints))
    places = np.full((1, 17, 2), np.nan, np.float32)
    places[0, 16] = 300  # a joint that is not annotated
    scores = np.where(np.isfinite(places[..., 0]), 0.9, 0).astype(np.float32)
    found = Poses(places, scores, np.array([[0, 0, 60, 80]], np.float32), np.ones(1, np.float32), COCO)
    report = pose_report(truth, {0: found})
    assert report.figures.ap == report.figures.ar == report.figures.ap50 == 0
    assert report.joints[0].likeness == 0
    assert math.isnan(report.joints[0].median_error)


def test_somebody_who_is_not_there_costs_precision_with_joints_missing_too(tmp_path: Path) -> None:
    joints = somebody()
    truth = load_annotations(write(tmp_path, [person(0, joints)], names=COCO.keypoints))
    both = poses([joints, joints + 250])
    places = both.keypoints.copy()
    places[1, 5:] = np.nan
    # Ranked first, the one who is not there leaves a precision of one half.
    box_scores = np.array([0.5, 1], np.float32)
    report = pose_report(truth, {0: Poses(places, both.keypoint_scores, both.bboxes, box_scores, COCO)})
    assert report.figures.ap == pytest.approx(0.5, abs=0.01)


def test_figures_are_those_of_cocos_evaluation_code_on_the_same_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    people, found = [], {}
    for image in range(12):
        here = [somebody(int(rng.integers(1e6)), size=rng.choice([50, 90, 250]), at=150 * i) for i in range(3)]
        for joints in here:
            visible = rng.choice([0, 1, 2], 17)
            people.append(person(image, joints, visible=visible, area=float(np.prod(np.ptp(joints, axis=0)) * 0.6)))
        crowd = somebody(5, size=300)
        people.append(person(image, crowd, visible=np.zeros(17, int), iscrowd=1))
        moved = [j + rng.normal(0, rng.choice([1, 6, 25]), j.shape) for j in here[: int(rng.integers(0, 4))]]
        found[image] = poses([*moved, somebody(3, size=30, at=900)], score=float(rng.uniform(0.3, 1)))
    path = write(tmp_path, people, images=13, names=COCO.keypoints)
    report = pose_report(load_annotations(path), found)

    results = [r for image, found_here in found.items() for r in coco_results_from_poses(found_here, image_id=image)]
    there = coco.COCO(str(path))
    judge = coco.COCOeval_faster(there, there.loadRes(results), "keypoints", print_function=lambda *_: None)
    judge.run()
    assert 0.1 < report.figures.ap < 0.9
    ours = [getattr(report.figures, f) for f in ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75")]
    np.testing.assert_allclose(ours, judge.stats[:8], atol=2e-3)  # the files hold rounded numbers


def test_a_network_of_26_joints_is_judged_on_the_17_that_are_annotated_by_their_names(tmp_path: Path) -> None:
    joints = somebody(0, count=26)
    index = [HALPE.index(name) for name in COCO.keypoints]
    truth = load_annotations(write(tmp_path, [person(0, joints[index])], names=COCO.keypoints))
    assert pose_report(truth, {0: poses([joints], HALPE)}).figures.ap == 1


def test_a_joint_that_the_network_lacks_counts_as_wrong(tmp_path: Path) -> None:
    names = [*COCO.keypoints[:16], "tail"]
    joints = somebody()
    report = pose_report(load_annotations(write(tmp_path, [person(0, joints)], names=names)), {0: poses([joints])})
    assert [row.likeness for row in report.joints][-2:] == pytest.approx([1, 0], abs=1e-6)


def test_a_joint_that_was_not_found_counts_as_wrong(tmp_path: Path) -> None:
    joints = somebody()
    lacking = joints.copy()
    lacking[3] = np.nan
    scores = np.where(np.isnan(lacking[:, 0]), 0, 0.9)[None]
    found = Poses(lacking[None], scores, np.zeros((1, 4)), np.ones(1), COCO)
    report = pose_report(load_annotations(write(tmp_path, [person(0, joints)])), {0: found})
    assert [row.name for row in report.joints if row.likeness < 0.5] == [COCO.keypoints[3]]


def test_a_missed_person_counts_in_the_table_of_joints_and_a_missed_picture_in_recall(tmp_path: Path) -> None:
    joints = [somebody(0), somebody(1)]
    path = write(tmp_path, [person(0, joints[0]), person(1, joints[1])], images=2)
    report = pose_report(load_annotations(path), {0: poses([joints[0]])})
    assert report.figures.ar == pytest.approx(0.5)
    assert {round(row.likeness, 3) for row in report.joints} == {0.5}


def test_whole_bodies_are_judged_part_by_part_and_invalid_parts_are_left_out(tmp_path: Path) -> None:
    joints = somebody(0, count=133)
    moved = joints.copy()
    moved[23:91] += 40  # the face is wrong
    moved[112:] += 40  # the right hand too, but it is not annotated
    whole = whole_person(0, joints, righthand_valid=False)
    report = pose_report(load_annotations(write(tmp_path, [whole])), {0: poses([moved], WHOLE)})
    assert list(report.parts) == ["body", "foot", "face", "left_hand", "right_hand"]
    assert report.parts["body"].ap == report.parts["foot"].ap == report.parts["left_hand"].ap == 1
    assert report.parts["face"].ap == 0
    assert np.isnan(report.parts["right_hand"].ap)
    assert report.as_dict()["parts"]["right_hand"]["ap"] is None
    assert len(report.joints) == 133
    json.dumps(report.as_dict(), allow_nan=False)


def test_how_large_somebody_found_is_tells_the_body_whatever_part_is_judged(tmp_path: Path) -> None:
    joints, nobody = somebody(0, size=60, count=133), somebody(1, size=60, at=400, count=133)
    nobody[17:] = nobody[0]  # feet, face and hands of a medium person, on one spot
    truth = load_annotations(write(tmp_path, [whole_person(0, joints)]))
    report = pose_report(truth, {0: poses([nobody, joints], WHOLE)})
    figures = (report.figures, *report.parts.values())
    assert [part.ap_medium for part in figures] == pytest.approx([0.5] * 6)


def test_whole_body_annotations_judge_a_body_network_by_its_body(tmp_path: Path) -> None:
    joints = somebody(0)
    more = {"foot_kpts": [0] * 18, "face_kpts": [0] * 204, "lefthand_kpts": [0] * 63, "righthand_kpts": [0] * 63}
    truth = load_annotations(write(tmp_path, [person(0, joints, **more)]))
    report = pose_report(truth, {0: poses([joints])})
    assert (report.figures.ap, dict(report.parts), len(report.joints)) == (1, {}, 17)


def test_nobody_found_is_zero(tmp_path: Path) -> None:
    report = pose_report(load_annotations(write(tmp_path, [person(0, somebody())])), {0: poses([])})
    assert (report.figures.ap, report.figures.ar, report.found) == (0, 0, 0)
    assert {row.likeness for row in report.joints} == {0}


def test_nobody_found_is_nothing_to_judge_for_a_size_that_does_not_occur(tmp_path: Path) -> None:
    found = pose_report(
        load_annotations(write(tmp_path, [person(0, somebody(), area=50.0**2)])), {0: poses([])}
    ).figures
    assert (found.ap, found.ap_medium, found.ar_medium) == (0, 0, 0)
    assert math.isnan(found.ap_large)
    assert math.isnan(found.ar_large)


def test_boxes_to_look_in_are_those_of_people_and_crowds_are_none(tmp_path: Path) -> None:
    people = [person(0, somebody()), person(0, somebody(1), iscrowd=1), person(1, somebody(2), bbox=[5, 5, 0, 9])]
    boxes = load_annotations(write(tmp_path, people, images=3)).boxes
    assert {image: len(b) for image, b in boxes.items()} == {0: 1, 1: 0, 2: 0}
    x, y, width, height = people[0]["bbox"]
    np.testing.assert_allclose(boxes[0][0], [x, y, x + width, y + height], rtol=1e-5)


def test_the_first_pictures_bring_their_people_only(tmp_path: Path) -> None:
    truth = load_annotations(write(tmp_path, [person(i, somebody(i)) for i in range(4)], images=4)).first(2)
    assert list(truth.images) == [0, 1]
    assert len(truth.people) == 2


def test_first_pictures_without_anybody_are_nothing_to_judge(tmp_path: Path) -> None:
    truth = load_annotations(write(tmp_path, [person(1, somebody())], images=2))
    with pytest.raises(InputError, match="nobody is annotated in the first 1 pictures"):
        truth.first(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "unknown image 9"),
        ({"bbox": [1, 2, 3]}, "not a COCO keypoint file"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bbox"),
        ({"area": "large"}, "not a COCO keypoint file"),
        ({"area": 10**400}, "not a COCO keypoint file"),
        ({"image_id": float("inf")}, "not a COCO keypoint file"),
        ({"keypoints": [1, 2]}, "keypoints with 2 numbers"),
        ({"keypoints": [float("inf")] * 51}, "not finite"),
        ({"keypoints": [1, 2, 3]}, "expected 51 numbers"),
        ({"face_kpts": [1, 2, 3]}, "face_kpts with 3 numbers"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused_before_any_work(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path, [person(0, somebody()) | change], names=COCO.keypoints)
    with pytest.raises(InputError, match=message):
        load_annotations(path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": 3}', '{"images": [], "annotations": []}', "\xff", "9" * 5000]
)
def test_files_that_are_no_annotations_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError):
        load_annotations(tmp_path / "a.json")
    with pytest.raises(MediaError):
        load_annotations(tmp_path / "absent.json")


def test_poses_that_do_not_fit_the_annotations_are_refused(tmp_path: Path) -> None:
    truth = load_annotations(write(tmp_path, [person(0, somebody())], names=COCO.keypoints))
    with pytest.raises(InputError, match="does not name"):
        pose_report(truth, {7: poses([])})
    with pytest.raises(InputError, match="one skeleton"):
        pose_report(truth, {})
    hand = load_skeleton("hand21")
    with pytest.raises(InputError, match="none of these"):
        pose_report(truth, {0: poses([], hand)})
    unnamed = load_annotations(write(tmp_path, [person(0, somebody())]))
    with pytest.raises(InputError, match="17 unnamed joints"):
        pose_report(unnamed, {0: poses([], hand)})


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = load_annotations(write(tmp_path, [person(0, somebody())]))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(BackendUnavailableError, match=r"rtmpose-infer\[eval\]"):
        pose_report(truth, {0: poses([somebody()])})
