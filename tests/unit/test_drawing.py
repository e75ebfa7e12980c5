"""The overlay: what is drawn, what is hidden, and that nothing a network can answer breaks it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rtmpose_infer.drawing import draw_poses
from rtmpose_infer.errors import DTypeError, InputError, ShapeError
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import load_skeleton, skeleton_names

COCO = load_skeleton("coco17")
# A standing person in units of its height, facing the camera: its left is on the right side of the picture.
STANDING = np.array(
    [
        (0.50, 0.08), (0.53, 0.06), (0.47, 0.06), (0.57, 0.08), (0.43, 0.08), (0.66, 0.20), (0.34, 0.20), (0.75, 0.37),
        (0.25, 0.37), (0.80, 0.52), (0.20, 0.52), (0.60, 0.52), (0.40, 0.52), (0.62, 0.75), (0.38, 0.75), (0.63, 0.97),
        (0.37, 0.97),
    ],
    np.float32,
)  # fmt: skip
GREY = np.full((480, 640, 3), 120, np.uint8)


def poses_of(
    keypoints: np.ndarray, scores: np.ndarray | None = None, ids: list[int] | None = None, name: str = "coco17"
):
    keypoints = np.asarray(keypoints, np.float32)
    scores = np.full(keypoints.shape[:2], 0.9, np.float32) if scores is None else scores
    boxes = np.concatenate([np.nanmin(keypoints, axis=1), np.nanmax(keypoints, axis=1)], axis=1)
    ids_array = None if ids is None else np.array(ids, np.int64)
    skeleton = load_skeleton(name)
    return Poses(keypoints, scores, boxes, np.ones(len(keypoints)), skeleton, track_ids=ids_array)


def standing(x: float, y: float, height: float) -> np.ndarray:
    return STANDING * (height * 0.5, height) + (x, y)


def changed(image: np.ndarray, background: np.ndarray = GREY) -> np.ndarray:
    return (image != background).any(axis=2)


def test_joints_and_limbs_are_drawn_where_they_are():
    points = standing(200, 50, 380)
    image = draw_poses(GREY, poses_of(points[None]))
    for x, y in points:
        assert changed(image)[round(y), round(x)]
    shoulder, elbow = points[5], points[7]
    middle = (shoulder + elbow) / 2
    assert changed(image)[round(middle[1]), round(middle[0])]


def test_left_is_blue_and_right_is_orange():
    points = standing(200, 50, 380)
    image = draw_poses(GREY, poses_of(points[None])).astype(int)
    for a, b, side in ((13, 15, "left"), (14, 16, "right")):
        x, y = ((points[a] + points[b]) / 2).round().astype(int)
        blue, _, red = image[y, x]
        assert (blue - red > 80) if side == "left" else (red - blue > 80)


def test_colour_by_id_differs_between_people_and_not_between_frames():
    points = np.stack([standing(50, 50, 380), standing(350, 50, 380)])
    x, y = ((points[:, 13] + points[:, 15]) / 2).round().astype(int).T
    first = draw_poses(GREY, poses_of(points, ids=[4, 9]), colour_by="id")
    swapped = draw_poses(GREY, poses_of(points[::-1], ids=[9, 4]), colour_by="id")
    assert (first[y[0], x[0]] != first[y[1], x[1]]).any()
    np.testing.assert_array_equal(first[y, x], swapped[y, x])


def test_hidden_joint_takes_its_limbs_along():
    points = standing(200, 50, 380)
    scores = np.full((1, 17), 0.9, np.float32)
    scores[0, 9] = 0.1  # left wrist
    image = draw_poses(GREY, poses_of(points[None], scores))
    x, y = points[9].round().astype(int)
    assert not changed(image)[y - 4 : y + 5, x - 4 : x + 5].any()
    forearm = ((points[7] + 3 * points[9]) / 4).round().astype(int)
    assert not changed(image)[forearm[1], forearm[0]]


def test_joint_without_place_is_never_drawn_even_with_a_good_score():
    points = standing(200, 50, 380)
    scores = np.full((1, 17), 0.9, np.float32)
    scores[0, 9] = 0
    hidden = poses_of(points[None], scores)
    points[9] = np.nan
    with_nan = replace(poses_of(points[None], np.full((1, 17), 0.9, np.float32)), bboxes=hidden.bboxes)
    np.testing.assert_array_equal(draw_poses(GREY, with_nan), draw_poses(GREY, hidden))


def test_thickness_follows_the_size_of_the_person():
    def drawn_share(height: float) -> float:
        frame = np.full((1080, 1920, 3), 120, np.uint8)
        image = draw_poses(frame, poses_of(standing(300, 40, height)[None]))
        row = round(40 + 0.86 * height)  # across both shins
        return float(changed(image, frame)[row].sum())

    assert drawn_share(900) > 1.5 * drawn_share(200)


def test_drawing_in_a_large_frame_is_as_bold_for_its_size_as_in_a_small_one():
    def shares(scale: int) -> list[float]:
        frame = np.full((1080 * scale, 1920 * scale, 3), 120, np.uint8)
        poses = poses_of(standing(500 * scale, 60 * scale, 1000 * scale)[None], ids=[7])
        row, column = round((60 + 0.86 * 1000) * scale), 750 * scale  # across both shins; through the box's lower edge
        limbs = draw_poses(frame, poses, show_ids=False)
        boxed = draw_poses(frame, poses, show_ids=False, show_boxes=True)
        labelled = draw_poses(frame, poses)
        drawn = [changed(limbs, frame)[row], changed(boxed, limbs)[:, column], changed(labelled, limbs)]
        return [np.count_nonzero(part) / scale**part.ndim for part in drawn]

    assert shares(3) == pytest.approx(shares(1), rel=0.25)


def test_a_person_of_whom_few_joints_are_seen_is_drawn_as_boldly_as_with_all():
    frame = np.full((1080, 1920, 3), 120, np.uint8)
    scores = np.full((1, 17), 0.9, np.float32)
    scores[0, 7:] = 0.1  # nothing below the shoulders
    few, every = (poses_of(standing(300, 40, 900)[None], s) for s in (scores, None))
    between_shoulders = np.s_[:400, round(float(every.keypoints[0, 5:7, 0].mean()))]
    thick = [int(changed(draw_poses(frame, poses), frame)[between_shoulders].sum()) for poses in (few, every)]
    assert 0 <= thick[1] - thick[0] <= 4


def test_id_is_written_above_the_head_and_inside_the_frame():
    points = standing(200, 1, 380)  # the head touches the upper edge
    without = draw_poses(GREY, poses_of(points[None], ids=[7]), show_ids=False)
    with_id = draw_poses(GREY, poses_of(points[None], ids=[7]))
    label = changed(with_id, without)
    rows = np.flatnonzero(label.any(axis=1))
    assert rows.min() <= 2
    assert label.sum() > 100
    np.testing.assert_array_equal(draw_poses(GREY, poses_of(points[None])), without)


def test_box_is_drawn_on_request_only():
    poses = poses_of(standing(200, 50, 380)[None])
    x1, y1, _, y2 = poses.bboxes[0].round().astype(int)
    assert changed(draw_poses(GREY, poses, show_boxes=True))[(y1 + y2) // 2, x1]
    assert not changed(draw_poses(GREY, poses))[y1 + 8 : y1 + 20, x1].any()


def test_frame_is_untouched_unless_it_is_the_output():
    frame = GREY.copy()
    poses = poses_of(standing(200, 50, 380)[None])
    new = draw_poses(frame, poses)
    assert not changed(frame).any()
    other = np.empty_like(frame)
    assert draw_poses(frame, poses, out=other) is other
    np.testing.assert_array_equal(other, new)
    assert draw_poses(frame, poses, out=frame) is frame
    np.testing.assert_array_equal(frame, new)


def test_non_contiguous_frame_is_drawn_on_a_copy():
    view = np.full((480, 1280, 3), 120, np.uint8)[:, ::2]
    poses = poses_of(standing(200, 50, 380)[None])
    np.testing.assert_array_equal(draw_poses(view, poses), draw_poses(GREY, poses))
    assert (view == 120).all()


def test_a_frame_that_lies_in_a_file_is_untouched(tmp_path):
    (tmp_path / "frame").write_bytes(GREY.tobytes())
    poses = poses_of(standing(200, 50, 380)[None])
    for mode in ("r+", "r"):
        frame = np.memmap(tmp_path / "frame", np.uint8, mode, shape=GREY.shape)
        np.testing.assert_array_equal(draw_poses(frame, poses), draw_poses(GREY, poses))
        assert not changed(frame).any()


def test_nobody_gives_the_frame_back():
    np.testing.assert_array_equal(draw_poses(GREY, Poses.empty(COCO, tracked=True)), GREY)


def test_nearer_person_is_drawn_over_the_farther_one_whatever_the_order():
    near, far = standing(150, 20, 450), standing(220, 120, 180)
    one = draw_poses(GREY, poses_of(np.stack([near, far]), ids=[1, 2]), colour_by="id")
    other = draw_poses(GREY, poses_of(np.stack([far, near]), ids=[2, 1]), colour_by="id")
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", skeleton_names())
def test_every_skeleton_can_be_drawn(name):
    k = load_skeleton(name).num_keypoints
    points = np.random.default_rng(0).uniform(50, 400, (2, k, 2))
    image = draw_poses(GREY, poses_of(points, ids=[1, 2], name=name), show_boxes=True)
    columns = points[..., 0].round().astype(int).ravel()
    rows = points[..., 1].round().astype(int).ravel()
    assert changed(image)[rows, columns].all()


def test_fingers_are_thinner_than_arms():
    skeleton = load_skeleton("wholebody133")
    points = np.full((133, 2), np.nan, np.float32)
    points[[5, 7]] = (100, 100), (100, 400)  # upper arm
    points[[91, 92]] = (300, 100), (308, 100)  # a short finger bone
    image = draw_poses(GREY, poses_of(points[None], np.full((1, 133), 0.9, np.float32), name=skeleton.name))
    assert changed(image)[90:111, 304].sum() < changed(image)[250, 80:121].sum()


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (np.zeros((4, 4, 3), np.float32), DTypeError),
        (np.zeros((4, 4), np.uint8), ShapeError),
        (np.zeros((4, 4, 4), np.uint8), ShapeError),
        ("frame", DTypeError),
    ],
)
def test_frames_that_cannot_be_drawn_on_are_named(frame, error):
    with pytest.raises(error, match="frame"):
        draw_poses(frame, Poses.empty(COCO))


def test_outputs_that_cannot_be_drawn_on_are_named():
    poses = Poses.empty(COCO)
    read_only = GREY.copy()
    read_only.flags.writeable = False
    with pytest.raises(InputError, match="writeable"):
        draw_poses(read_only, poses, out=read_only)
    with pytest.raises(ShapeError, match="out"):
        draw_poses(GREY, poses, out=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="colour_by"):
        draw_poses(GREY, poses, colour_by="size")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    points=hnp.arrays(
        np.float32,
        (3, 17, 2),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    ),
    scores=hnp.arrays(np.float32, (3, 17), elements=st.floats(-1, 2, width=32)),
    size_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_no_coordinates_break_it(points, scores, size_hw):
    frame = np.zeros((*size_hw, 3), np.uint8)
    boxes = points[:, :2].reshape(3, 4)
    poses = Poses(points, scores, boxes, np.ones(3), COCO, track_ids=np.array([1, 2, 2**62]))
    assert draw_poses(frame, poses, show_boxes=True, colour_by="id").shape == frame.shape
