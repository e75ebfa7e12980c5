"""Letterbox, crops and normalisation against arithmetic written out here, and frames of every awkward kind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmpose_infer.errors import DTypeError, InputError, ShapeError
from rtmpose_infer.geometry import crop_transform
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.preprocess import InputBuffer, check_frame, crop_into, letterbox_into

RTMPOSE = {"colour": "rgb", "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
RTMDET = {"colour": "bgr", "mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395)}
RAW = {"colour": "bgr", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Return a picture without sharp edges, of which neighbours differ by little."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 100 * np.sin(x / 17 + c) * np.cos(y / 23 - c) for c in range(3)]
    return np.stack(planes, axis=2).round().astype(np.uint8)


def spec(size_wh: tuple[int, int], **fields: object) -> ModelSpec:
    return ModelSpec(task="detection", head="nms", input_size_wh=size_wh, **fields)


# --- frames


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3), (2, 20_000, 3)])
def test_frames_of_any_size_are_taken_as_they_are(shape):
    frame = np.zeros(shape, np.uint8)
    assert check_frame(frame) is frame


def test_a_part_cut_out_of_a_frame_is_not_copied():
    part = noise(60, 100)[10:50, 20:90]
    assert check_frame(part) is part


@pytest.mark.parametrize(
    "view",
    [lambda f: f[:, ::2], lambda f: f[::-1], lambda f: f[:, ::-1], lambda f: f[..., ::-1], np.rot90],
    ids=["every second column", "upside down", "mirrored", "RGB", "turned"],
)
def test_what_opencv_would_copy_for_every_person_is_copied_once(view):
    frame = view(noise(60, 100))
    checked = check_frame(frame)
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, frame)


@pytest.mark.parametrize(
    "view",
    [
        lambda f: f[10:50, 20:90],
        lambda f: f[::2, ::2],
        lambda f: f[::-1],
        lambda f: f[:, ::-1],
        lambda f: f[..., ::-1],
        lambda f: f.transpose(1, 0, 2),
        np.asfortranarray,
        lambda f: np.broadcast_to(f[:1, :1], (40, 40, 3)),
        lambda f: np.concatenate([f, f[..., :1]], axis=2)[..., :3],
    ],
    ids=["cut out", "every second", "upside down", "mirrored", "RGB", "turned", "Fortran", "broadcast", "of RGBA"],
)
def test_views_that_are_not_contiguous_work_like_their_copies(view):
    frame = view(noise(60, 100))
    copy = np.array(frame, order="C")
    given_out, copied_out = np.empty((2, 32, 48, 3), np.uint8)
    assert letterbox_into(check_frame(frame), given_out) == letterbox_into(check_frame(copy), copied_out)
    np.testing.assert_array_equal(given_out, copied_out)
    crops = np.empty((2, 1, 64, 48, 3), np.uint8)
    transform = crop_transform(np.array([[5, 5, 30, 35]], np.float32), (48, 64))
    crop_into(check_frame(frame), transform, crops[0])
    crop_into(check_frame(copy), transform, crops[1])
    np.testing.assert_array_equal(crops[0], crops[1])


def test_a_read_only_frame_is_fine():
    frame = noise(8, 8)
    frame.flags.writeable = False
    letterbox_into(check_frame(frame), np.empty((4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("frame", "error", "words"),
    [
        (np.zeros((8, 8), np.uint8), ShapeError, "COLOR_GRAY2BGR"),
        (np.zeros((8, 8, 1), np.uint8), ShapeError, "COLOR_GRAY2BGR"),
        (np.zeros((8, 8, 4), np.uint8), ShapeError, "COLOR_BGRA2BGR"),
        (np.zeros((2, 8, 8, 3), np.uint8), ShapeError, "one frame at a time"),
        (np.zeros((0, 8, 3), np.uint8), ShapeError, "1 to 32766"),
        (np.zeros((8, 0, 3), np.uint8), ShapeError, "1 to 32766"),
        (np.zeros((1, 32_767, 3), np.uint8), ShapeError, "1 to 32766"),
        (np.zeros((8, 8, 3), np.float32), DTypeError, "astype"),
        (np.zeros((8, 8, 3), np.int64), DTypeError, "astype"),
        (np.zeros((8, 8, 3), np.uint16), DTypeError, "astype"),
        (np.zeros((8, 8, 3), bool), DTypeError, "astype"),
        (None, DTypeError, "missing file"),
        ([[[0, 0, 0]]], DTypeError, "blue, green, red"),
        ("frame.jpg", DTypeError, "Read or convert"),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else None,
)
def test_frames_that_would_have_to_be_guessed_at_are_refused(frame, error, words):
    with pytest.raises(error, match=words) as caught:
        check_frame(frame)
    assert isinstance(caught.value, InputError)


# --- letterbox


@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([(320, 320), (416, 416), (64, 96), (33, 17)]))
@settings(max_examples=60)
def test_the_letterbox_is_the_rounded_resize_in_the_top_left_of_grey(width, height, size_wh):
    frame = noise(height, width)
    out = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    ratio_x, ratio_y = letterbox_into(frame, out, pad_value=114)

    scale = min(size_wh[0] / width, size_wh[1] / height)
    new_width = min(max(int(np.floor(width * scale + 0.5)), 1), size_wh[0])
    new_height = min(max(int(np.floor(height * scale + 0.5)), 1), size_wh[1])
    assert (ratio_x, ratio_y) == (new_width / width, new_height / height)
    expected = np.full_like(out, 114)
    expected[:new_height, :new_width] = cv2.resize(frame, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(out, expected)


def test_the_resized_side_is_rounded_not_cut():
    # 1920×1081 into 640: 1081/3 = 360.33 → 360; 1082/3 = 360.67 → 361.
    for height, resized in ((1081, 360), (1082, 361)):
        out = np.empty((640, 640, 3), np.uint8)
        _, ratio_y = letterbox_into(np.zeros((height, 1920, 3), np.uint8), out)
        assert ratio_y == resized / height
        assert (out[resized - 1] == 0).all()
        assert (out[resized] == 114).all()


@given(st.integers(20, 300), st.integers(20, 300))
@settings(max_examples=40)
def test_the_inverse_ratio_brings_an_edge_back_to_where_it_was(width, height):
    x1, y1 = width // 4, height // 3
    frame = np.zeros((height, width, 3), np.uint8)
    frame[y1:, x1:] = 255
    out = np.empty((64, 64, 3), np.uint8)
    ratio_x, ratio_y = letterbox_into(frame, out, pad_value=0)
    # Along a line through the white part, the grey values of the edge's pixels add up to where the edge lies.
    white = out[..., 0].astype(np.float64) / 255
    edges = white.max(axis=0).sum() / ratio_x, white.max(axis=1).sum() / ratio_y
    assert edges[0] == pytest.approx(width - x1, abs=0.6 / min(ratio_x, 1))
    assert edges[1] == pytest.approx(height - y1, abs=0.6 / min(ratio_y, 1))


@pytest.mark.parametrize("pad_value", [0, 114, 255])
def test_the_border_has_the_models_grey_even_in_a_used_buffer(pad_value):
    out = np.full((32, 32, 3), 7, np.uint8)
    letterbox_into(np.zeros((16, 32, 3), np.uint8), out, pad_value=pad_value)
    assert (out[16:] == pad_value).all()


# --- crops


def bilinear(frame: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample a picture between its pixel centres; black outside."""
    height, width = frame.shape[:2]
    padded = np.pad(frame.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    x, y = np.clip(x, -1, width) + 1, np.clip(y, -1, height) + 1
    left, top = np.minimum(x.astype(int), width), np.minimum(y.astype(int), height)
    along, down = (x - left)[..., None], (y - top)[..., None]
    above = padded[top, left] * (1 - along) + padded[top, left + 1] * along
    below = padded[top + 1, left] * (1 - along) + padded[top + 1, left + 1] * along
    return above * (1 - down) + below * down


@pytest.mark.parametrize("size_wh", [(192, 256), (48, 64), (96, 96)])
@pytest.mark.parametrize(
    "box",
    [[100, 40, 180, 200], [0, 0, 319, 239], [-60, -50, 50, 90], [250, 180, 400, 300], [150.3, 99.7, 155.1, 130.2]],
)
def test_a_crop_shows_the_pixels_that_the_transform_says(size_wh, box):
    frame = smooth(240, 320)
    transform = crop_transform(np.array([box], np.float32), size_wh)
    crops = np.empty((1, size_wh[1], size_wh[0], 3), np.uint8)
    crop_into(frame, transform, crops)
    columns, rows = np.meshgrid(np.arange(size_wh[0]), np.arange(size_wh[1]))
    points = transform.to_frame(np.stack([columns, rows], axis=2).reshape(1, -1, 2).astype(np.float32))[0]
    expected = bilinear(frame, *points.T.reshape(2, size_wh[1], size_wh[0]))
    # OpenCV rounds places to 1/32 pixel; within the picture a step of that size changes a value by less than one.
    difference = np.abs(crops[0].astype(np.float64) - expected)
    inside = (points >= 1).all(axis=1) & (points <= np.array([318, 238])).all(axis=1)
    assert difference.reshape(-1, 3)[inside].max() <= 1.5
    far_outside = ((points < -1.1) | (points > np.array([320.1, 240.1]))).any(axis=1)
    assert crops[0].reshape(-1, 3)[far_outside].max(initial=0) == 0


def test_a_crop_of_the_input_size_is_a_copy_of_the_pixels():
    frame = noise(240, 320)
    transform = crop_transform(np.array([[100, 50, 148, 114]], np.float32), (48, 64), padding=1.0)
    crops = np.empty((1, 64, 48, 3), np.uint8)
    crop_into(frame, transform, crops)
    np.testing.assert_array_equal(crops[0], frame[50:114, 100:148])


@pytest.mark.parametrize(
    "box",
    [
        [-1e6, -1e6, 1e6, 1e6],
        [9e6, 9e6, 9.5e6, 9.5e6],
        [-9e6, 10, -8e6, 20],
        [10, 10, 10.0001, 10.0001],
        [0, 0, 20_000, 1],
        [0, 0, 1, 20_000],
    ],
)
def test_absurd_boxes_give_a_crop_and_no_crash(box):
    for frame in (noise(48, 64), noise(2, 20_000), noise(1, 1)):
        crops = np.full((1, 64, 48, 3), 9, np.uint8)
        crop_into(frame, crop_transform(np.array([box], np.float32), (48, 64)), crops)
        assert (crops != 9).any()


def test_crops_go_into_their_own_rows():
    frame = smooth(100, 100)
    boxes = np.array([[10, 10, 40, 50], [50, 50, 90, 90], [0, 0, 20, 20]], np.float32)
    together = np.empty((3, 64, 48, 3), np.uint8)
    crop_into(frame, crop_transform(boxes, (48, 64)), together)
    for row in range(3):
        alone = np.empty((1, 64, 48, 3), np.uint8)
        crop_into(frame, crop_transform(boxes[row : row + 1], (48, 64)), alone)
        np.testing.assert_array_equal(together[row], alone[0])


# --- the tensor


@pytest.mark.parametrize("fields", [RTMPOSE, RTMDET, RAW], ids=["RTMPose", "RTMDet", "YOLOX"])
@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_planes_equal_float_arithmetic(fields, count, seed):
    buffer = InputBuffer(spec((20, 12), **fields))
    pictures = np.random.default_rng(seed).integers(0, 256, (count, 12, 20, 3), np.uint8)
    buffer.pictures(count)[:] = pictures
    tensor = buffer.tensor(count)
    channels = pictures[..., ::-1] if fields["colour"] == "rgb" else pictures
    expected = (channels.astype(np.float32) - np.float32(fields["mean"])) / np.float32(fields["std"])
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(tensor, expected.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("fields", "shape"), [(RTMPOSE, (0, 3, 12, 20)), ({"input_format": "nhwc_uint8"}, (0, 12, 20, 3))]
)
def test_no_pictures_are_a_tensor_of_the_networks_shape(fields, shape):
    buffer = InputBuffer(spec((20, 12), **fields))
    assert len(buffer.pictures(0)) == 0
    assert buffer.tensor(0).shape == shape


def test_a_network_of_uint8_pictures_gets_the_pictures_themselves():
    buffer = InputBuffer(spec((20, 12), input_format="nhwc_uint8"))
    pictures = buffer.pictures(3)
    pictures[:] = noise(36, 20).reshape(3, 12, 20, 3)
    tensor = buffer.tensor(3)
    assert np.shares_memory(tensor, pictures)
    assert tensor.shape == (3, 12, 20, 3)


@pytest.mark.parametrize("fields", [RTMPOSE, {"input_format": "nhwc_uint8"}], ids=["planes", "pictures"])
def test_growing_keeps_the_pictures_and_padding_has_the_length_asked_for(fields):
    buffer = InputBuffer(spec((20, 12), **fields))
    buffer.pictures(2)[:] = noise(24, 20).reshape(2, 12, 20, 3)
    before = buffer.tensor(2).copy()
    buffer.reserve(5)
    after = buffer.tensor(2, padded=5)
    assert len(after) == 5
    np.testing.assert_array_equal(after[:2], before)


def test_the_arrays_are_reused_from_frame_to_frame():
    buffer = InputBuffer(spec((20, 12), **RTMPOSE))
    buffer.pictures(3)
    first = buffer.tensor(3)
    for count in (1, 3, 2):
        buffer.pictures(count)
        assert np.shares_memory(buffer.tensor(count), first)
