"""Identities over time, in scripted scenes: a detector that may err, and a network that sees what is in the box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from rtmpose_infer import tracker as tracker_module
from rtmpose_infer.errors import InputError, ShapeError
from rtmpose_infer.results import Detections, Poses
from rtmpose_infer.skeletons import load_skeleton
from rtmpose_infer.smoothing import OneEuroConfig
from rtmpose_infer.tracker import Tracker, TrackerConfig

SKELETON = load_skeleton("coco17")
FRAME_WH = (1280, 720)
# Places of the 17 joints in a standing person's box, from 0,0 (top left) to 1,1.
STANDING = np.array(
    [
        [0.50, 0.08], [0.54, 0.06], [0.46, 0.06], [0.60, 0.08], [0.40, 0.08], [0.75, 0.22], [0.25, 0.22], [0.85, 0.38],
        [0.15, 0.38], [0.90, 0.52], [0.10, 0.52], [0.65, 0.52], [0.35, 0.52], [0.65, 0.74], [0.35, 0.74], [0.65, 0.95],
        [0.35, 0.95],
    ],
    np.float32,
)  # fmt: skip


@dataclass
class Person:
    """One person of a frame."""

    bbox: Sequence[float]
    scores: float | np.ndarray = 0.9
    bbox_score: float = 0.9
    junk: dict[int, tuple[float, float]] = field(default_factory=dict)
    detectable: bool = True

    @property
    def keypoints(self) -> np.ndarray:
        x1, y1, x2, y2 = self.bbox
        points = np.array([x1, y1]) + STANDING * np.array([x2 - x1, y2 - y1])
        for joint, place in self.junk.items():
            points[joint] = place
        return points.astype(np.float32)


def standing(x: float, y: float = 100, width: float = 100, height: float = 250, **options: object) -> Person:
    """Return a person whose box's top left corner is at x, y."""
    return Person((x, y, x + width, y + height), **options)


def detections_of(people: Sequence[Person]) -> Detections:
    """Return what a faultless detector finds."""
    people = [p for p in people if p.detectable]
    return Detections(
        np.array([p.bbox for p in people], np.float32).reshape(-1, 4),
        np.array([p.bbox_score for p in people], np.float32),
        np.zeros(len(people), np.int64),
    )


def poses_in(bboxes: np.ndarray, bbox_scores: np.ndarray, people: Sequence[Person], **frame: object) -> Poses:
    """Return what a faultless network sees in each box: the person who overlaps it most; nothing in an empty one."""
    keypoints = np.full((len(bboxes), 17, 2), np.nan, np.float32)
    scores = np.zeros((len(bboxes), 17), np.float32)
    for row, box in enumerate(bboxes):
        best = max(people, key=lambda p: _overlap(box, p.bbox), default=None)
        if best is not None and _overlap(box, best.bbox) > 0.1:
            keypoints[row], scores[row] = best.keypoints, best.scores
        else:
            keypoints[row] = box[:2] + STANDING * (box[2:] - box[:2])
            scores[row] = 0.05
    return Poses(keypoints, scores, bboxes, bbox_scores, SKELETON, **frame)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


class Stage:
    """A tracker before a scripted scene; counts what it asks for."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.tracker = Tracker(SKELETON, config or TrackerConfig(smoothing=None))
        self.frame_wh = FRAME_WH
        self.time_s = 0.0
        self.detector_calls = 0
        self.pose_counts: list[int] = []

    def show(self, people: Sequence[Person], *, detections: Detections | None = None, step_s: float = 1 / 30) -> Poses:
        """Track one frame; ``detections`` replaces the faultless detector's answer where the detector runs."""
        due = self.tracker.detection_due(self.time_s, self.frame_wh)
        found = None
        if due:
            self.detector_calls += 1
            found = detections_of(people) if detections is None else detections
        proposals = self.tracker.propose(found, timestamp_s=self.time_s, frame_size_wh=self.frame_wh)
        self.pose_counts.append(len(proposals))
        poses = poses_in(proposals.bboxes, proposals.bbox_scores, people, frame_size_wh=self.frame_wh)
        result = self.tracker.update(proposals, poses, timestamp_s=self.time_s, detected=due)
        self.time_s += step_s
        return result

    def play(self, scene: Callable[[int], Sequence[Person]], frames: int) -> list[Poses]:
        """Track ``frames`` frames of ``scene(frame)``."""
        return [self.show(scene(frame)) for frame in range(frames)]


def id_at(poses: Poses, person: Person) -> int | None:
    """Return the id of the tracked person whose box centre lies nearest to the person's, within a quarter of a box."""
    if not len(poses):
        return None
    x = (person.bbox[0] + person.bbox[2]) / 2
    y = (person.bbox[1] + person.bbox[3]) / 2
    centers = (poses.bboxes[:, :2] + poses.bboxes[:, 2:]) / 2
    distance = np.hypot(*(centers - [x, y]).T)
    nearest = int(distance.argmin())
    assert poses.track_ids is not None
    reach = 0.25 * max(person.bbox[2] - person.bbox[0], person.bbox[3] - person.bbox[1])
    return int(poses.track_ids[nearest]) if distance[nearest] < reach else None


def ids_over_time(results: Sequence[Poses], scene: Callable[[int], Sequence[Person]], which: int) -> set[int]:
    """Return the ids that one person of the scene was shown under."""
    found = {id_at(result, scene(frame)[which]) for frame, result in enumerate(results)}
    return {i for i in found if i is not None}


def test_a_single_person_is_shown_in_the_first_frame_and_keeps_the_id() -> None:
    def scene(frame: int) -> list[Person]:
        return [standing(100 + 3 * frame)]

    results = Stage().play(scene, 60)
    assert all(len(r) == 1 for r in results)
    assert ids_over_time(results, scene, 0) == {1}


def test_the_others_keep_their_ids_when_the_first_person_leaves() -> None:
    def scene(frame: int) -> list[Person]:
        people = [standing(300 + 2 * frame), standing(600), standing(900)]
        return people if frame < 30 else people[1:]

    stage = Stage()
    results = stage.play(scene, 90)
    ids = [set(r.track_ids.tolist()) for r in results]
    assert ids[29] == {1, 2, 3}
    assert all(i == {2, 3} for i in ids[31:])
    assert stage.detector_calls == math.ceil(90 / 5)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_ids_do_not_depend_on_the_order_in_which_the_detector_lists_people(count: int) -> None:
    def scene(frame: int) -> list[Person]:
        people = [standing(50 + 220 * i + 2 * frame) for i in range(count)]
        turn = frame % count
        return people[turn:] + people[:turn]

    stage = Stage(TrackerConfig(det_interval=1, smoothing=None))
    results = stage.play(scene, 24)
    for result in results:
        assert sorted(result.track_ids.tolist()) == list(range(1, count + 1))
    for i in range(count):
        shown = {id_at(r, standing(50 + 220 * i + 2 * frame)) for frame, r in enumerate(results)}
        assert len(shown) == 1


def test_an_empty_scene_gives_nobody_asks_for_no_pose_and_detects_at_a_bounded_rate() -> None:
    stage = Stage()
    results = stage.play(lambda _: [], 60)
    assert all(len(r) == 0 and r.track_ids is not None and r.keypoints.shape == (0, 17, 2) for r in results)
    assert sum(stage.pose_counts) == 0
    assert stage.detector_calls == math.ceil(60 / 3)


def test_a_false_box_without_a_person_in_it_is_no_ghost() -> None:
    stage = Stage()
    ghost = Detections(np.array([[0, 0, 1280, 720]], np.float32), np.array([0.95], np.float32), np.zeros(1, np.int64))
    for _ in range(30):
        assert len(stage.show([], detections=ghost)) == 0
    assert stage.tracker.stats.tracks == 0


def test_a_weak_newcomer_is_shown_only_when_a_second_detection_supports_it() -> None:
    def scene(_: int) -> list[Person]:
        return [standing(300, scores=0.4, bbox_score=0.35)]

    shown = [len(r) for r in Stage().play(scene, 12)]
    assert shown[:3] == [0, 0, 0]
    assert shown[5:] == [1] * 7

    once = Stage()
    once.show(scene(0))
    later = [len(once.show([], detections=Detections.empty())) for _ in range(20)]
    assert later == [0] * 20


def test_a_better_pose_in_a_detection_counts_for_a_newcomer_whose_own_box_went_astray() -> None:
    stage = Stage()
    assert len(stage.show([standing(300, scores=0.4, bbox_score=0.35)])) == 0
    around = Detections(np.array([[200, 0, 560, 500]], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int64))
    proposals = stage.tracker.propose(around, timestamp_s=stage.time_s, frame_size_wh=FRAME_WH)
    assert (proposals.track_ids > 0).tolist() == [True, False]  # too little overlap to be the newcomer's new box
    poses = poses_in(proposals.bboxes, proposals.bbox_scores, [standing(300)], frame_size_wh=FRAME_WH)
    poses = replace(poses, keypoint_scores=np.repeat(np.float32([[0.4], [0.9]]), 17, axis=1))
    assert len(stage.tracker.update(proposals, poses, timestamp_s=stage.time_s, detected=True)) == 1


def test_with_hindsight_people_are_numbered_from_the_first_sight_and_known_when_confirmed() -> None:
    stage = Stage()
    stage.tracker = Tracker(SKELETON, TrackerConfig(smoothing=None), hindsight=True)
    weak, ghost = (standing(x, scores=0.4, bbox_score=0.35) for x in (300, 800))
    results = [stage.show([weak, ghost])] + [stage.show([weak]) for _ in range(4)]
    assert len(results[0]) == 2
    assert stage.tracker.identities == {}  # weak evidence has to last for a while
    results += [stage.show([weak]) for _ in range(16)]
    numbers = {id_at(result, weak) for result in results}
    assert len(numbers) == 1
    assert stage.tracker.identities == {numbers.pop(): 1}
    stage.show([])
    stage.pose_counts.clear()
    stage.play(lambda _: [], 9)  # out of sight, and left to whoever knows the next detection
    assert stage.pose_counts == [0] * 9


def test_a_box_guessed_from_other_frames_does_not_pull_a_tracked_person_away() -> None:
    tracker = Tracker(SKELETON, TrackerConfig(smoothing=None), hindsight=True)
    person = [standing(200)]
    found = detections_of(person)
    for frame in range(2):
        proposals = tracker.propose(found, timestamp_s=frame / 30, frame_size_wh=FRAME_WH)
        poses = poses_in(proposals.bboxes, proposals.bbox_scores, person, frame_size_wh=FRAME_WH)
        tracker.update(proposals, poses, timestamp_s=frame / 30, detected=True)
    beside = detections_of([standing(240)])
    for interpolated, own in ((None, False), (np.zeros(1, bool), False), (np.ones(1, bool), True)):
        proposals = tracker.propose(beside, timestamp_s=2 / 30, frame_size_wh=FRAME_WH, interpolated=interpolated)
        box = proposals.bboxes[proposals.track_ids > 0][0]
        assert (abs(box[0] - found.bboxes[0, 0]) < 5) == own


def test_the_ids_that_are_shown_have_no_gaps_for_those_who_never_were() -> None:
    stage = Stage()
    stage.show([standing(100, scores=0.4, bbox_score=0.35)])  # seen once, and never again
    for _ in range(10):
        stage.show([])
    for i in range(8):
        result = stage.show([standing(300 + i), standing(700 + i)])
    assert result.track_ids.tolist() == [1, 2]


def test_one_junk_joint_does_not_blow_up_the_box() -> None:
    def scene(frame: int) -> list[Person]:
        junk = {10: (1200.0, 700.0)} if frame % 7 == 3 else {}
        return [Person((400, 100, 520, 400), junk=junk)]

    for result in Stage().play(scene, 40):
        np.testing.assert_allclose(result.bboxes[0], [400, 100, 520, 400], atol=12)


def test_legs_that_are_hidden_keep_their_place_in_the_box_for_half_a_second_and_not_for_ever() -> None:
    hidden = np.full(17, 0.9, np.float32)
    hidden[11:] = 0.05

    def scene(frame: int) -> list[Person]:
        return [standing(300 + 3 * frame, scores=hidden if frame >= 20 else 0.9)]

    results = Stage(TrackerConfig(det_interval=1000, smoothing=None)).play(scene, 100)
    np.testing.assert_allclose(results[35].bboxes[0], scene(35)[0].bbox, atol=5)
    np.testing.assert_allclose(results[99].bboxes[0, :3], scene(99)[0].bbox[:3], atol=5)
    assert results[99].bboxes[0, 3] < scene(99)[0].bbox[3] - 60
    assert np.abs(np.diff([r.bboxes[0, 3] for r in results])).max() < 16  # gradually


def test_someone_who_stood_for_long_and_then_runs_is_followed() -> None:
    def scene(frame: int) -> list[Person]:
        return [standing(100 + 50 * max(0, frame - 100))]

    results = Stage(TrackerConfig(det_interval=1000, smoothing=None)).play(scene, 121)
    assert [id_at(results[f], scene(f)[0]) for f in range(121)] == [1] * 121


def test_the_box_goes_half_the_way_to_a_detection_at_once_and_takes_over_its_margins() -> None:
    stage, grown = Stage(TrackerConfig(smoothing=None)), []
    for frame in range(60):
        person = standing(300 + 2 * frame)
        found = detections_of([person])
        if frame >= 30:
            found = Detections(found.bboxes + np.float32([-20, -20, 20, 20]), found.scores, found.labels)
        grown.append((stage.show([person], detections=found).bboxes[0] - person.bbox) / [-20, -20, 20, 20])
    np.testing.assert_allclose(grown[:30], 0, atol=0.05)
    np.testing.assert_allclose(grown[30], 0.6, atol=0.15)
    np.testing.assert_allclose(grown[59], 1, atol=0.1)


def test_a_bust_shot_with_few_joints_is_tracked() -> None:
    scores = np.zeros(17, np.float32)
    scores[[0, 1, 2, 3, 4]] = 0.8

    def scene(frame: int) -> list[Person]:
        return [Person((300 + frame, 100, 700 + frame, 720), scores=scores)]

    results = Stage().play(scene, 40)
    assert [r.track_ids.tolist() for r in results] == [[1]] * 40
    np.testing.assert_allclose(results[-1].bboxes[0], [339, 100, 739, 720], atol=25)


def test_a_stream_that_changes_its_resolution_keeps_its_people_and_detects_at_once() -> None:
    stage = Stage()
    person = standing(400)
    for _ in range(7):
        stage.show([person])
    calls = stage.detector_calls
    stage.frame_wh = (640, 360)
    half = Person(tuple(np.array(person.bbox) / 2))
    after = [stage.show([half]) for _ in range(6)]
    assert stage.detector_calls == calls + 2
    assert all(r.track_ids.tolist() == [1] for r in after)
    np.testing.assert_allclose(after[0].bboxes[0], half.bbox, atol=3)


def test_a_camera_that_pans_goes_on_panning_when_the_resolution_changes() -> None:
    def scene(frame: int, scale: float) -> list[Person]:
        people = [standing(950 - 20 * frame + 120 * i, 90 + 20 * i, 60, 150) for i in range(3)]
        return [Person(tuple(scale * np.array(p.bbox))) for p in people]

    stage = Stage(TrackerConfig(det_interval=100, smoothing=None))
    for frame in range(15):
        stage.show(scene(frame, 1))
    stage.frame_wh = (FRAME_WH[0] // 4, FRAME_WH[1] // 4)
    expected = stage.tracker.propose(None, timestamp_s=stage.time_s, frame_size_wh=stage.frame_wh)
    np.testing.assert_allclose(expected.bboxes, [p.bbox for p in scene(15, 0.25)], atol=2)
    for frame in range(15, 20):
        result = stage.show(scene(frame, 0.25), detections=Detections.empty())
        assert result.track_ids.tolist() == [1, 2, 3]


def test_a_frame_of_another_shape_starts_afresh_without_reusing_ids() -> None:
    stage = Stage()
    stage.play(lambda _: [standing(400)], 7)
    stage.frame_wh = (720, 1280)
    after = stage.play(lambda _: [standing(100, 800)], 7)
    assert all(r.track_ids.tolist() == [2] for r in after)


def test_someone_who_was_covered_comes_back_under_the_same_id() -> None:
    def scene(frame: int) -> list[Person]:
        walker = [] if 20 <= frame < 50 else [standing(200 + 4 * frame)]
        return [*walker, standing(900)]

    results = Stage().play(scene, 80)
    assert all(r.track_ids.tolist() == [2] for r in results[20:50])
    assert all(r.track_ids.tolist() == [1, 2] for r in results[55:])


def test_a_recovered_person_appears_in_place_without_sliding_there() -> None:
    def scene(frame: int) -> list[Person]:
        return [] if 20 <= frame < 35 else [standing(200 + 4 * frame)]

    stage = Stage(TrackerConfig(smoothing=OneEuroConfig()))
    results = stage.play(scene, 60)
    back = next(frame for frame in range(35, 60) if len(results[frame]))
    assert back <= 38
    assert results[back].track_ids.tolist() == [1]
    for frame in range(back, 60):
        np.testing.assert_allclose(results[frame].keypoints[0], scene(frame)[0].keypoints, atol=4)


@pytest.mark.parametrize(
    ("stands", "walks", "speed"), [(100, 30, 12), (0, 5, 12)], ids=["after standing for long", "soon after coming"]
)
def test_someone_who_walks_behind_something_is_expected_where_the_walk_leads(
    stands: int, walks: int, speed: int
) -> None:
    def scene(frame: int) -> list[Person]:
        walker = standing(20 + speed * max(0, frame - stands))
        return [] if stands + walks <= frame < stands + walks + 12 else [walker]

    results = Stage().play(scene, stands + walks + 18)
    assert results[-1].track_ids.tolist() == [1]


@pytest.mark.parametrize(("newcomers", "expected"), [(0, 1), (40, 42)])
def test_who_appears_a_little_away_is_the_one_who_vanished_unless_newcomers_are_frequent(
    newcomers: int, expected: int
) -> None:
    def scene(frame: int) -> list[Person]:
        crowd = [standing(40 + 60 * (i % 20), 20 + 60 * (i // 20), 20, 50) for i in range(newcomers)]
        person = [] if 30 <= frame < 36 else [standing(500 if frame < 30 else 600, 300)]
        return [*(crowd if frame >= 15 else []), *person]

    results = Stage(TrackerConfig(det_interval=1, smoothing=None, max_people=60)).play(scene, 40)
    assert id_at(results[29], scene(29)[-1]) == 1
    assert id_at(results[39], scene(39)[-1]) == expected


def test_someone_who_comes_back_elsewhere_after_a_single_frame_appears_in_place_too() -> None:
    def scene(frame: int) -> list[Person]:
        return [] if frame == 20 else [standing(300 if frame < 20 else 340)]

    results = Stage(TrackerConfig(smoothing=OneEuroConfig())).play(scene, 40)
    for frame in range(21, 40):
        assert results[frame].track_ids.tolist() == [1]
        np.testing.assert_allclose(results[frame].keypoints[0], scene(frame)[0].keypoints, atol=4)


def test_someone_who_comes_back_half_covered_is_recognised_before_a_new_id_is_shown() -> None:
    def scene(frame: int) -> list[Person]:
        if 20 <= frame < 35:
            return [standing(900)]
        # What comes into view first is taken for a whole body, so for a smaller one.
        part = 0.5 ** ((40 - frame) / 5) if 35 <= frame < 40 else 1
        sure = {"scores": 0.4, "bbox_score": 0.4} if part < 1 else {}
        return [standing(200 + 4 * frame, 100, 100 * part, 250 * part, **sure), standing(900)]

    stage = Stage()
    results = stage.play(scene, 60)
    assert stage.tracker.stats.tracks == 3  # one was founded by the first sight
    assert stage.tracker.stats.recovered == 1
    assert all(r.track_ids.tolist() == [2] for r in results[35:40])
    assert all(r.track_ids.tolist() == [1, 2] for r in results[40:])


def test_people_out_of_sight_cost_few_poses_and_are_forgotten_in_time() -> None:
    def scene(frame: int) -> list[Person]:
        return [standing(200), standing(500)] if frame < 10 else [standing(500)]

    stage = Stage(TrackerConfig(track_lost_s=2.0, smoothing=None))
    stage.play(scene, 110)
    assert sum(count - 1 for count in stage.pose_counts[11:]) <= 6
    back = stage.play(lambda _: [standing(200), standing(500)], 6)
    assert back[-1].track_ids.tolist() == [2, 3]


def test_two_people_who_cross_keep_their_ids() -> None:
    def scene(frame: int) -> list[Person]:
        near = standing(100 + 8 * frame, 100, 130, 330)
        far = standing(900 - 8 * frame, 110, 110, 280)
        covered = abs(near.bbox[0] + 10 - far.bbox[0]) < 45
        return [near] if covered else [near, far]

    results = Stage().play(scene, 100)
    assert ids_over_time(results, lambda f: [standing(100 + 8 * f, 100, 130, 330)], 0) == {1}
    apart = [id_at(results[f], standing(900 - 8 * f, 110, 110, 280)) for f in (*range(40), *range(62, 100))]
    assert set(apart) == {2}


@pytest.mark.parametrize("trembling", [0.0, 2.0, 15.0])
def test_not_weighing_what_is_plain_changes_nothing(trembling: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def play() -> list[Poses]:
        random = np.random.default_rng(7)

        def scene(frame: int) -> list[Person]:
            people = [
                standing(40 + 9 * frame),
                standing(700 - 6 * frame),
                standing(420),
                standing(1000 - 2 * frame, 200),
            ]
            for person in people:
                moved = person.keypoints + random.normal(0, trembling, (17, 2))
                person.junk = dict(enumerate(map(tuple, moved.tolist())))
            return people if frame % 17 else people[1:]

        return Stage().play(scene, 90)

    as_expected, plain = tracker_module._as_expected, []

    def noted(*arguments: object) -> np.ndarray:
        plain.append(as_expected(*arguments))
        return plain[-1]

    monkeypatch.setattr(tracker_module, "_as_expected", noted)
    quick = play()
    assert np.concatenate(plain).mean() > 0.5 if trembling < 15 else not np.concatenate(plain).any()
    monkeypatch.setattr(tracker_module, "_as_expected", lambda _, rows, *__: np.zeros(len(rows), bool))
    for one, other in zip(quick, play(), strict=True):
        np.testing.assert_array_equal(one.track_ids, other.track_ids)
        np.testing.assert_array_equal(one.bboxes, other.bboxes)


def test_two_trackers_share_nothing() -> None:
    first, second = Stage(), Stage()
    for frame in range(20):
        a = first.show([standing(100 + frame), standing(500)])
        b = second.show([standing(900 - frame)])
    assert a.track_ids.tolist() == [1, 2]
    assert b.track_ids.tolist() == [1]


def test_duplicate_boxes_of_one_person_give_one_id() -> None:
    def doubled(person: Person) -> Detections:
        box = np.array(person.bbox)
        changes = np.array([[0, 0, 0, 0], [-4, 3, 6, -5], [0, 0, 0, -90], [10, 0, 40, 20]])
        boxes = box + changes
        return Detections(boxes.astype(np.float32), np.array([0.9, 0.85, 0.6, 0.7], np.float32), np.zeros(4, np.int64))

    stage = Stage()
    for frame in range(30):
        person = standing(300 + 3 * frame)
        assert stage.show([person], detections=doubled(person)).track_ids.tolist() == [1]
    assert stage.tracker.stats.tracks == 1


@pytest.mark.parametrize("interval", [1, 2, 5, 7])
@pytest.mark.parametrize("frames", [1, 20, 33])
def test_the_detector_runs_once_every_interval_while_somebody_is_tracked(interval: int, frames: int) -> None:
    stage = Stage(TrackerConfig(det_interval=interval, smoothing=None))
    stage.play(lambda frame: [standing(200 + frame), standing(800)], frames)
    assert stage.detector_calls == math.ceil(frames / interval)
    assert stage.tracker.stats.detections == stage.detector_calls


def test_missed_detections_do_not_interrupt_a_track_that_its_pose_carries() -> None:
    stage = Stage()
    for frame in range(60):
        result = stage.show([standing(200 + 3 * frame, detectable=frame == 0)])
        assert result.track_ids.tolist() == [1]


@pytest.mark.parametrize("step_s", [0.0, -1.0, 1 / 5])
def test_times_that_stand_still_run_backwards_or_are_coarse_do_no_harm(step_s: float) -> None:
    stage = Stage(TrackerConfig())
    results = [stage.show([standing(200 + frame)], step_s=step_s) for frame in range(30)]
    assert all(r.track_ids.tolist() == [1] for r in results)
    np.testing.assert_allclose(results[-1].keypoints[0], standing(229).keypoints, atol=3)


@pytest.mark.parametrize("step_s", [0.001, 1 / 30, 0.2, 4.0])
def test_a_stream_of_any_rate_keeps_its_people_from_frame_to_frame(step_s: float) -> None:
    stage = Stage(TrackerConfig(det_interval=1, track_lost_s=0.1, smoothing=None))
    shown = [stage.show([standing(100)], step_s=step_s).track_ids.tolist() for _ in range(8)]
    assert shown[2:] == [shown[-1]] * 6


def test_a_burst_of_frames_does_not_change_what_a_usual_step_is() -> None:
    stage = Stage(TrackerConfig(det_interval=1, track_lost_s=0.02, smoothing=None))
    steps = [1 / 30] * 6 + [0.001] + [1 / 30] * 6
    assert {tuple(stage.show([standing(100)], step_s=step).track_ids.tolist()) for step in steps} == {(1,)}


def test_people_who_walk_keep_their_ids_through_the_burst_after_a_stall() -> None:
    stage = Stage()
    steps = [1 / 30] * 40 + [30 / 30] + [1e-6] * 15 + [1 / 30] * 20
    shown = [stage.show([standing(100 + 3 * i)], step_s=step).track_ids.tolist() for i, step in enumerate(steps)]
    assert shown[45:] == [[1]] * len(shown[45:])


@pytest.mark.parametrize("gap_s", [1e-2, 1e-3, 1e-5, 1e-7])
def test_two_frames_at_all_but_the_same_time_do_no_harm(gap_s: float) -> None:
    rng = np.random.default_rng(0)
    stage = Stage()
    for i in range(24):
        moved = standing(100 + 2 * i + rng.integers(-2, 3))
        assert stage.show([moved], step_s=gap_s if i == 10 else 1 / 30).track_ids.tolist() == [1]


def test_after_a_long_pause_nobody_is_assumed_to_be_the_one_who_stood_there() -> None:
    stage = Stage()
    stage.play(lambda _: [standing(200)], 20)
    stage.time_s += 60
    assert stage.show([standing(200)]).track_ids.tolist() == [2]


def test_asking_and_proposing_change_nothing() -> None:
    stage = Stage()
    stage.play(lambda _: [standing(200)], 7)
    tracker, t = stage.tracker, stage.time_s
    before = tracker.propose(None, timestamp_s=t, frame_size_wh=FRAME_WH)
    for _ in range(5):
        tracker.detection_due(t + 10, (640, 480))
        tracker.propose(detections_of([standing(700)]), timestamp_s=t + 0.5, frame_size_wh=FRAME_WH)
    after = tracker.propose(None, timestamp_s=t, frame_size_wh=FRAME_WH)
    np.testing.assert_array_equal(before.bboxes, after.bboxes)
    assert before.track_ids.tolist() == after.track_ids.tolist() == [1]
    assert stage.show([standing(200)]).track_ids.tolist() == [1]


def test_a_refused_update_leaves_the_tracker_as_it_was() -> None:
    stage = Stage()
    stage.play(lambda _: [standing(200)], 6)
    tracker = stage.tracker
    stats = tracker.stats
    proposals = tracker.propose(None, timestamp_s=stage.time_s, frame_size_wh=FRAME_WH)
    with pytest.raises(ShapeError, match="one pose for each of the 1 proposals"):
        tracker.update(proposals, Poses.empty(SKELETON), timestamp_s=stage.time_s, detected=False)
    other = Poses.empty(load_skeleton("halpe26"))
    none = Tracker(SKELETON).propose(None, timestamp_s=0.0, frame_size_wh=FRAME_WH)
    with pytest.raises(InputError, match="skeleton"):
        tracker.update(none, other, timestamp_s=stage.time_s, detected=False)
    assert tracker.stats == stats
    assert stage.show([standing(200)]).track_ids.tolist() == [1]


def test_reset_forgets_everybody_and_starts_ids_at_one() -> None:
    stage = Stage()
    stage.play(lambda _: [standing(200), standing(600)], 3)
    stage.tracker.reset()
    assert stage.tracker.stats.frames == 0
    assert stage.show([standing(600)]).track_ids.tolist() == [1]


def test_the_order_of_detections_only_permutes_the_result() -> None:
    people = [standing(100), standing(400), standing(700), standing(1000)]

    def boxes(order: list[int]) -> np.ndarray:
        stage = Stage()
        for _ in range(3):
            result = stage.show([people[i] for i in order])
        return result.bboxes[np.argsort(result.bboxes[:, 0])]

    np.testing.assert_allclose(boxes([0, 1, 2, 3]), boxes([2, 0, 3, 1]), atol=1e-3)


def test_raw_keypoints_stay_beside_the_smoothed_ones_and_unseen_joints_stay_unseen() -> None:
    rng = np.random.default_rng(0)
    stage = Stage(TrackerConfig())
    smoothed, raw = [], []
    scores = np.full(17, 0.8, np.float32)
    scores[5] = 0
    for _ in range(60):
        person = standing(300, scores=scores)
        person.junk = {j: tuple(person.keypoints[j] + rng.normal(0, 3, 2)) for j in range(17)} | {5: (np.nan, np.nan)}
        result = stage.show([person])
        np.testing.assert_array_equal(result.keypoints_raw[0], person.keypoints)
        assert np.isnan(result.keypoints[0, 5]).all()
        smoothed.append(np.delete(result.keypoints[0], 5, axis=0))
        raw.append(np.delete(result.keypoints_raw[0], 5, axis=0))
    assert np.diff(smoothed, 2, axis=0).std() < 0.4 * np.diff(raw, 2, axis=0).std()


def test_of_poses_that_come_at_once_those_who_are_there_fill_max_people() -> None:
    tracker = Tracker(SKELETON, TrackerConfig(max_people=2, smoothing=None))
    flickering, steady = [standing(100), standing(500)], standing(900)
    shown = []
    for i in range(10):
        people = [flickering[i % 2], steady]
        boxes = np.array([p.bbox for p in people], np.float32)
        found = poses_in(boxes, np.full(2, 0.9, np.float32), people, frame_size_wh=FRAME_WH)
        proposals, poses = tracker.take(found, timestamp_s=i / 30, frame_size_wh=FRAME_WH)
        shown.append(tracker.update(proposals, poses, timestamp_s=i / 30, detected=True))
    assert all(len(poses) == 2 for poses in shown)
    three = [*flickering, steady]
    boxes = np.array([p.bbox for p in three], np.float32)
    found = poses_in(boxes, np.full(3, 0.9, np.float32), three, frame_size_wh=FRAME_WH)
    assert len(tracker.take(found, timestamp_s=1, frame_size_wh=FRAME_WH)[1]) == 2


def test_of_poses_that_come_at_once_in_the_same_box_one_is_taken() -> None:
    boxes = np.array([standing(100).bbox] * 2, np.float32)
    found = poses_in(boxes, np.array([0.9, 0.8], np.float32), [standing(100), standing(140)], frame_size_wh=FRAME_WH)
    tracker = Tracker(SKELETON, TrackerConfig(max_people=1))
    proposals, poses = tracker.take(found, timestamp_s=0, frame_size_wh=FRAME_WH)
    assert proposals.bbox_scores.tolist() == pytest.approx([0.9])
    assert len(tracker.update(proposals, poses, timestamp_s=0, detected=True)) == 1


def test_at_most_max_people_are_posed_and_those_in_view_come_first() -> None:
    stage = Stage(TrackerConfig(det_interval=1, max_people=2, smoothing=None))
    stage.show([standing(100), standing(400)])
    result = stage.show([standing(700), standing(1000), standing(100), standing(400)])
    assert max(stage.pose_counts) == 2
    assert result.track_ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"det_interval": 0}, "det_interval"),
        ({"det_interval": 2.5}, "det_interval"),
        ({"det_interval": True}, "det_interval"),
        ({"det_interval": "often"}, "det_interval"),
        ({"track_lost_s": -1}, "track_lost_s"),
        ({"track_lost_s": math.nan}, "track_lost_s"),
        ({"oks_threshold": 0}, "oks_threshold"),
        ({"min_keypoints": 0}, "min_keypoints"),
        ({"max_people": 0}, "max_people"),
        ({"track_lost_s": "long"}, "track_lost_s"),
        ({"iou_threshold": None}, "iou_threshold"),
        ({"smoothing": 3}, "smoothing"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        TrackerConfig(**options)


@pytest.mark.parametrize("time_s", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_refused(time_s: float) -> None:
    with pytest.raises(InputError, match="timestamp_s"):
        Tracker(SKELETON).propose(None, timestamp_s=time_s, frame_size_wh=FRAME_WH)


def auto_stage() -> Stage:
    return Stage(TrackerConfig(det_interval="auto", smoothing=None))


@pytest.mark.parametrize("arrival", range(20, 32))
def test_auto_shows_a_newcomer_within_ten_frames(arrival: int) -> None:
    def scene(frame: int) -> list[Person]:
        return [standing(200 + 2 * frame)] + ([standing(900)] if frame >= arrival else [])

    shown = [id_at(result, standing(900)) is not None for result in auto_stage().play(scene, arrival + 12)]
    assert shown.index(True) - arrival <= 10


def test_auto_detects_at_most_half_as_often_as_every_fifth_frame_even_where_people_come_and_go() -> None:
    def scene(frame: int) -> list[Person]:
        passing = [standing(100 + 90 * i + 3 * (frame % 40), 300) for i in range(3) if (frame + 13 * i) % 40 < 25]
        return [standing(900), *passing]

    stage = auto_stage()
    stage.play(scene, 400)
    assert stage.detector_calls <= 400 / 5 / 2


def test_auto_finds_who_vanished_again_before_the_next_detection() -> None:
    def scene(frame: int) -> list[Person]:
        return [standing(200), standing(500)] if frame < 10 or frame >= 15 else [standing(500)]

    results = auto_stage().play(scene, 21)
    assert [len(r) for r in results[10:15]] == [1] * 5
    assert [r.track_ids.tolist() for r in results[16:21]] == [[1, 2]] * 5


def test_auto_detects_right_after_a_cut() -> None:
    def scene(frame: int) -> list[Person]:
        places = (100, 400, 700) if frame < 25 else (250, 560, 1000)
        return [standing(x, 100 if frame < 25 else 330) for x in places]

    results = auto_stage().play(scene, 28)
    assert len(results[24]) == 3
    assert len(results[27]) == 3
    assert not set(results[24].track_ids) & set(results[27].track_ids)


def test_people_keep_their_ids_when_the_camera_jerks() -> None:
    def scene(frame: int) -> list[Person]:
        shift = 110 if frame >= 10 else 0  # almost to where the next one stood, on a frame with a detection
        return [standing(x + shift, y, 100, 250) for x, y in ((100, 90), (240, 130), (390, 70), (560, 110))]

    results = Stage().play(scene, 20)
    for place, person in enumerate(scene(19)):
        assert id_at(results[19], person) == id_at(results[5], scene(5)[place])


def test_someone_of_another_size_who_appears_where_a_person_vanished_is_new() -> None:
    def scene(frame: int) -> list[Person]:
        if frame < 15:
            return [standing(400, 100, 100, 250)]
        return [] if frame < 30 else [standing(410, 150, 60, 150)]

    results = Stage().play(scene, 40)
    assert results[10].track_ids.tolist() == [1]
    assert results[39].track_ids.tolist() == [2]
