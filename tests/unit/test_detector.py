"""The detector against naive loops: three kinds of output, thresholds, classes, batches, and outputs that are wrong."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rtmpose_infer.backends import CallableBackend, TensorSpec
from rtmpose_infer.detector import PersonDetector
from rtmpose_infer.errors import ClosedError, InferenceError, InputError, ModelError, OutputMismatchError
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.stages import StageClock
from tests.painted import paint, painted_detector
from tests.tiny_onnx import declared_onnx, light_at, light_detector, write

FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
SIZE_WH = (64, 96)
FRAME = np.zeros((96, 64, 3), np.uint8)  # of the input's size, so that input pixels are frame pixels
Outputs = Mapping[str, np.ndarray]
Row = tuple[list[float], float, int]


def spec(head: str, **fields: object) -> ModelSpec:
    return ModelSpec(task="detection", head=head, input_size_wh=SIZE_WH, **fields)


def detector(
    head: str,
    outputs: Outputs | Callable[[np.ndarray], Outputs],
    *,
    batch: int | None = None,
    class_names: tuple[str, ...] = (),
    **options: object,
) -> PersonDetector:
    """Return a detector whose network answers with these outputs."""
    example = outputs(np.zeros((1, 3, 96, 64), np.float32)) if callable(outputs) else outputs
    backend = CallableBackend(
        (lambda feeds: outputs(feeds["input"])) if callable(outputs) else (lambda feeds: outputs),
        [TensorSpec("input", (batch, 3, SIZE_WH[1], SIZE_WH[0]), FLOAT32)],
        [TensorSpec(name, (None,) * value.ndim, value.dtype) for name, value in example.items()],
    )
    return PersonDetector.from_backend(backend, spec(head, class_names=class_names), **options)


# --- the oracle: what the three heads mean, one number after the other


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def rtmdet_rows(maps: Sequence[np.ndarray], picture: int) -> list[Row]:
    """MMDetection's anchor-free head: points at index × stride, distances to left, top, right, bottom, a row a class."""
    rows: list[Row] = []
    levels = len(maps) // 2
    for logits, distances in zip(maps[:levels], maps[levels:], strict=True):
        stride = SIZE_WH[0] / logits.shape[3]
        for row in range(logits.shape[2]):
            for column in range(logits.shape[3]):
                scores = [sigmoid(float(v)) for v in logits[picture, :, row, column]]
                left, top, right, bottom = (float(v) for v in distances[picture, :, row, column])
                x, y = column * stride, row * stride
                box = [x - left, y - top, x + right, y + bottom]
                rows += [(box, score, label) for label, score in enumerate(scores)]
    return rows


def yolox_rows(output: np.ndarray, strides: Sequence[int], picture: int) -> list[Row]:
    """Megvii's form: centre = (value + cell) × stride, size = exp(value) × stride, score = objectness × class."""
    rows: list[Row] = []
    index = 0
    for stride in strides:
        for row in range(SIZE_WH[1] // stride):
            for column in range(SIZE_WH[0] // stride):
                x, y, w, h, objectness, *classes = (float(v) for v in output[picture, index])
                x, y = (x + column) * stride, (y + row) * stride
                w, h = math.exp(w) * stride, math.exp(h) * stride
                box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                rows += [(box, objectness * score, label) for label, score in enumerate(classes)]
                index += 1
    assert index == output.shape[1]
    return rows


def expected(
    rows: Sequence[Row], *, score_threshold: float = 0.3, iou_threshold: float = 0.65, label: int | None = 0
) -> list[Row]:
    """Threshold, class, clip, greedy suppression: box by box."""
    found: list[Row] = []
    for box, score, kind in rows:
        clipped = [min(max(v, 0.0), float(limit)) for v, limit in zip(box, SIZE_WH * 2, strict=True)]
        solid = clipped[2] > clipped[0] and clipped[3] > clipped[1]
        if score > score_threshold and (label is None or kind == label) and solid:
            found.append((clipped, score, kind))
    found.sort(key=lambda row: -row[1])
    kept: list[Row] = []
    for row in found:
        if all(row[2] != other[2] or overlap(row[0], other[0]) <= iou_threshold for other in kept):
            kept.append(row)
    return kept


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def assert_same(found: Any, rows: Sequence[Row]) -> None:
    assert len(found) == len(rows)
    np.testing.assert_allclose(found.scores, [score for _, score, _ in rows], rtol=1e-4)
    np.testing.assert_allclose(found.bboxes, np.reshape([box for box, _, _ in rows], (-1, 4)), atol=2e-3)
    assert found.labels.tolist() == [kind for _, _, kind in rows]


def rtmdet_maps(seed: int, *, strides: Sequence[int], classes: int, pictures: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = {}
    for kind, channels in (("cls", classes), ("box", 4)):
        for stride in strides:
            shape = (pictures, channels, SIZE_WH[1] // stride, SIZE_WH[0] // stride)
            values = rng.normal(-2, 2, shape) if kind == "cls" else rng.uniform(0, 40, shape)
            maps[f"{kind}_{stride}"] = values.astype(np.float32)
    return maps


def yolox_output(seed: int, *, strides: Sequence[int], classes: int, pictures: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = sum((SIZE_WH[0] // s) * (SIZE_WH[1] // s) for s in strides)
    output = rng.random((pictures, cells, 5 + classes))
    output[..., 2:4] = rng.normal(0.5, 0.7, output[..., 2:4].shape)
    return {"output": output.astype(np.float32)}


# --- decoding


@pytest.mark.parametrize("strides", [(8, 16, 32), (16, 32), (4, 8), (32,)], ids=str)
@pytest.mark.parametrize(("seed", "classes", "threshold"), [(0, 1, 0.3), (1, 2, 0.05), (2, 3, 0.7), (3, 3, 0.3)])
def test_raw_maps_of_any_strides_decode_as_the_loops_do(strides, seed, classes, threshold):
    maps = rtmdet_maps(seed, strides=strides, classes=classes)
    found = detector("rtmdet", maps, score_threshold=threshold).predict(FRAME)
    rows = rtmdet_rows(list(maps.values()), 0)
    assert_same(found, expected(rows, score_threshold=threshold)[:100])


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)], ids=str)
@pytest.mark.parametrize(("seed", "classes", "threshold"), [(0, 1, 0.3), (1, 2, 0.05), (2, 3, 0.7), (3, 3, 0.3)])
def test_yolox_rows_decode_as_the_loops_do(strides, seed, classes, threshold):
    output = yolox_output(seed, strides=strides, classes=classes)
    found = detector("yolox", output, score_threshold=threshold).predict(FRAME)
    assert_same(found, expected(yolox_rows(output["output"], strides, 0), score_threshold=threshold)[:100])


def test_a_person_in_a_cell_whose_best_class_is_another_is_found():
    maps = rtmdet_maps(0, strides=(32,), classes=2)
    maps["cls_32"][:] = -9
    maps["cls_32"][0, :, 0, 1] = 1, 2  # person, and even surer a dog
    rows = yolox_output(0, strides=(8, 16, 32), classes=2)
    rows["output"][..., 4] = 0
    rows["output"][0, 9, 4:] = 0.9, 0.7, 0.8
    for head, outputs, score in (("rtmdet", maps, 1 / (1 + math.exp(-1))), ("yolox", rows, 0.9 * 0.7)):
        found = detector(head, outputs, label=0).predict(FRAME)
        assert found.scores.tolist() == pytest.approx([score])
        assert detector(head, outputs, label=None).predict(FRAME).labels.tolist() == [1, 0]


@pytest.mark.parametrize("label", [0, 1, 2, None])
@pytest.mark.parametrize("head", ["rtmdet", "yolox"])
def test_one_class_is_selected_or_all(head, label):
    if head == "rtmdet":
        outputs = rtmdet_maps(1, strides=(16, 32), classes=3)
        rows = rtmdet_rows(list(outputs.values()), 0)
    else:
        outputs = yolox_output(1, strides=(8, 16, 32), classes=3)
        rows = yolox_rows(outputs["output"], (8, 16, 32), 0)
    found = detector(head, outputs, label=label).predict(FRAME)
    assert_same(found, expected(rows, label=label)[:100])
    assert label is None or set(found.labels.tolist()) == {label}


@pytest.mark.parametrize("head", ["rtmdet", "yolox"])
def test_each_picture_of_a_batch_gets_its_own_boxes(head):
    def outputs(pictures: np.ndarray) -> Outputs:
        make = rtmdet_maps if head == "rtmdet" else yolox_output
        options = {"strides": (8, 16, 32), "classes": 1, "pictures": 3}
        return {name: value[: len(pictures)] for name, value in make(5, **options).items()}

    together = detector(head, outputs).predict_batch([FRAME] * 3)
    everything = outputs(np.zeros((3, 1)))
    for picture, found in enumerate(together):
        rows = (
            rtmdet_rows(list(everything.values()), picture)
            if head == "rtmdet"
            else yolox_rows(everything["output"], (8, 16, 32), picture)
        )
        assert_same(found, expected(rows)[:100])
    assert not np.array_equal(together[0].scores, together[1].scores)


def nms_outputs(names: tuple[str, str] = ("dets", "labels")) -> dict[str, np.ndarray]:
    """Return what a graph with its own suppression gives: boxes of several classes, padded with zeros."""
    dets = np.array(
        [
            [10, 10, 30, 50, 0.9],
            [11, 10, 31, 50, 0.8],
            [40, 10, 60, 50, 0.5],
            [10, 60, 30, 90, 0.2],
            [-5, -5, 200, 20, 0.45],
            [0, 0, 0, 0, 0],
        ],
        np.float32,
    )
    return {names[0]: dets[None], names[1]: np.array([[0, 0, 1, 0, 0, -1]])}


@pytest.mark.parametrize("names", [("dets", "labels"), ("boxes", "classes")])
def test_boxes_from_the_graph_are_taken_by_name_or_else_by_place(names):
    found = detector("nms", nms_outputs(names), iou_threshold=1.0).predict(FRAME)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.45])
    assert found.bboxes.tolist() == [[10, 10, 30, 50], [11, 10, 31, 50], [0, 0, 64, 20]]


# --- thresholds, on every path


PATHS = {
    "nms": nms_outputs(),
    "rtmdet": rtmdet_maps(2, strides=(8, 16, 32), classes=1),
    "yolox": yolox_output(2, strides=(8, 16, 32), classes=1),
}


@pytest.mark.parametrize("head", PATHS)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.46, 0.85, 1.0])
def test_the_score_threshold_holds(head, threshold):
    everything = detector(head, PATHS[head], score_threshold=0.0, iou_threshold=1.0, max_detections=10_000).predict(
        FRAME
    )
    found = detector(head, PATHS[head], score_threshold=threshold, iou_threshold=1.0, max_detections=10_000).predict(
        FRAME
    )
    np.testing.assert_array_equal(found.scores, everything.scores[everything.scores > threshold])


@pytest.mark.parametrize("head", ["rtmdet", "yolox"])
def test_what_a_graph_suppressed_is_suppressed_when_only_its_network_is_left(head):
    strict = detector(head, PATHS[head], iou_threshold=0.2).predict(FRAME)
    whole = detector(head, PATHS[head], iou_threshold=0.9)
    left = PersonDetector.from_backend(whole.backend, replace(whole.spec, suppression_iou=0.2), iou_threshold=0.9)
    np.testing.assert_array_equal(left.predict(FRAME).bboxes, strict.bboxes)
    assert len(whole.predict(FRAME)) > len(strict)


@pytest.mark.parametrize("head", PATHS)
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.65, 0.95])
def test_no_two_boxes_of_a_class_overlap_more_than_the_iou_threshold(head, threshold):
    loose = detector(head, PATHS[head], iou_threshold=1.0).predict(FRAME)
    found = detector(head, PATHS[head], iou_threshold=threshold).predict(FRAME)
    boxes = found.bboxes.tolist()
    pairs = [overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert max(pairs, default=0) <= threshold + 1e-6
    assert len(found) <= len(loose)
    assert found.scores[0] == loose.scores[0]


@pytest.mark.parametrize("head", PATHS)
@pytest.mark.parametrize("limit", [1, 2])
def test_at_most_the_best_few_are_returned(head, limit):
    everything = detector(head, PATHS[head]).predict(FRAME)
    found = detector(head, PATHS[head], max_detections=limit).predict(FRAME)
    np.testing.assert_array_equal(found.bboxes, everything.bboxes[:limit])


@pytest.mark.parametrize("head", PATHS)
def test_boxes_are_sorted_by_score_and_lie_in_the_frame(head):
    found = detector(head, PATHS[head], label=None, score_threshold=0.05).predict(FRAME)
    assert len(found) > 1
    assert (np.diff(found.scores) <= 0).all()
    assert (found.bboxes >= 0).all()
    assert (found.bboxes <= [*SIZE_WH, *SIZE_WH]).all()
    assert (found.bboxes[:, 2:] > found.bboxes[:, :2]).all()


@pytest.mark.parametrize("head", PATHS)
def test_an_empty_scene_gives_no_boxes(head):
    silent = {name: np.full_like(value, -1 if name == "labels" else -30) for name, value in PATHS[head].items()}
    assert len(detector(head, silent).predict(FRAME)) == 0


def test_a_graph_that_kept_nothing_gives_no_boxes():
    outputs = {"dets": np.zeros((1, 0, 5), np.float32), "labels": np.zeros((1, 0), np.int64)}
    assert detector("nms", outputs).predict(FRAME).bboxes.shape == (0, 4)


@pytest.mark.parametrize("head", PATHS)
@pytest.mark.parametrize("nonsense", [np.nan, np.inf, -np.inf, 1e38])
def test_a_network_that_gives_nonsense_gives_no_absurd_boxes_and_no_warning(head, nonsense):
    broken = {
        name: np.full_like(value, nonsense) if value.dtype == FLOAT32 else value for name, value in PATHS[head].items()
    }
    found = detector(head, broken).predict(FRAME)
    assert np.isfinite(found.bboxes).all()
    assert (found.bboxes[:, 2:] > found.bboxes[:, :2]).all()


@pytest.mark.parametrize("head", ["nms", "yolox"])
def test_a_box_whose_score_is_infinite_is_nobody_and_costs_no_frame(head):
    broken = {name: np.array(value) for name, value in PATHS[head].items()}
    rows = next(iter(broken.values()))
    rows[0, rows[0, :, 4].argmax(), 4] = np.inf
    found = detector(head, broken).predict(FRAME)
    assert len(found)
    assert np.isfinite(found.scores).all()


# --- labels


def test_a_class_can_be_chosen_by_name():
    options = {"class_names": ("person", "dog"), "iou_threshold": 1.0}
    assert detector("nms", nms_outputs(), label="dog", **options).predict(FRAME).scores.tolist() == [0.5]
    assert detector("nms", nms_outputs(), label="person", **options).predict(FRAME).labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("label", "class_names", "words"),
    [
        ("cat", ("person", "dog"), "person, dog"),
        ("person", (), "index"),
        (-1, (), "from 0"),
        (2, ("a", "b"), "2 classes"),
    ],
)
def test_a_class_that_does_not_exist_is_an_input_error(label, class_names, words):
    with pytest.raises(InputError, match=words):
        detector("nms", nms_outputs(), label=label, class_names=class_names)


@pytest.mark.parametrize(
    "box",
    [[-30, 10, -5, 50], [70, 10, 90, 50], [10, -50, 30, -5], [10, 100, 30, 140]],
    ids=["left", "right", "above", "below"],
)
def test_a_box_outside_the_frame_is_nobody(box):
    outputs = {
        "dets": np.array([[[*box, 0.9], [10, 10, 30, 50, 0.8]]], np.float32),
        "labels": np.zeros((1, 2), np.int64),
    }
    assert detector("nms", outputs).predict(FRAME).bboxes.tolist() == [[10, 10, 30, 50]]


# --- frames and batches


@pytest.mark.parametrize("size_wh", [(640, 360), (360, 640), (320, 320), (1920, 1081), (101, 57)])
def test_boxes_come_back_in_the_frames_pixels(size_wh):
    people = {0: [0.1, 0.2, 0.4, 0.9], 2: [0.55, 0.05, 0.97, 1.0]}
    scale = np.array(size_wh * 2)
    boxes = {number: (np.array(box) * scale).round() for number, box in people.items()}
    detect, _ = painted_detector()
    found = detect.predict(paint(boxes, size_wh))
    tolerance = 1.01 * max(1, max(size_wh) / 320)
    truth = np.array(sorted(boxes.values(), key=lambda b: b[0]))
    np.testing.assert_allclose(found.bboxes[np.argsort(found.bboxes[:, 0])], truth, atol=tolerance)


def test_frames_of_different_size_go_in_one_call():
    detect, network = painted_detector()
    frames = [
        paint({0: (10, 20, 60, 120)}, (320, 240)),
        paint({}, (64, 64)),
        paint({1: (100, 100, 300, 700), 2: (700, 100, 900, 700)}, (1280, 720)),
    ]
    together = detect.predict_batch(frames)
    assert network.batches == [3]
    for frame, found in zip(frames, together, strict=True):
        np.testing.assert_array_equal(found.bboxes, detect.predict(frame).bboxes)
    assert [len(found) for found in together] == [1, 0, 2]


def test_a_network_of_fixed_batch_one_is_called_for_each_frame(tmp_path):
    frames = [light_at(20 + 10 * i, 30, (64 + i, 64)) for i in range(3)]
    single = PersonDetector(write(tmp_path / "one.onnx", light_detector(batch=1)))
    dynamic = PersonDetector(write(tmp_path / "any.onnx", light_detector()))
    for one, other in zip(single.predict_batch(frames), dynamic.predict_batch(frames), strict=True):
        np.testing.assert_array_equal(one.bboxes, other.bboxes)
        assert len(one) == 1


def test_no_frames_need_no_call():
    detect, network = painted_detector()
    assert detect.predict_batch([]) == []
    assert network.batches == []


def test_the_same_frame_gives_the_same_boxes_whatever_came_before():
    detect, _ = painted_detector()
    frame = paint({1: (30, 30, 90, 200)})
    before = detect.predict(frame)
    detect.predict(np.full((1000, 200, 3), 255, np.uint8))
    np.testing.assert_array_equal(detect.predict(frame).bboxes, before.bboxes)


def test_the_clock_is_lapped_after_each_stage():
    clock = StageClock()
    painted_detector()[0].predict(paint({}), clock=clock)
    assert list(clock.seconds) == ["letterbox", "detect", "decode_boxes"]


# --- what goes wrong


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        ("nms", {"dets": np.zeros((1, 3, 4), np.float32), "labels": np.zeros((1, 3), np.int64)}),
        ("nms", {"dets": np.zeros((1, 3, 5), np.float32), "labels": np.zeros((1, 2), np.int64)}),
        ("nms", {"dets": np.zeros((3, 5), np.float32), "labels": np.zeros(3, np.int64)}),
        ("nms", {"dets": np.zeros((2, 3, 5), np.float32), "labels": np.zeros((2, 3), np.int64)}),
        ("nms", {"dets": np.zeros((0, 3, 5), np.float32), "labels": np.zeros((0, 3), np.int64)}),
        ("rtmdet", {"c": np.zeros((1, 1, 4, 4), np.float32), "b": np.zeros((1, 3, 4, 4), np.float32)}),
        ("rtmdet", {"c": np.zeros((1, 1, 4, 4), np.float32), "b": np.zeros((1, 4, 4, 5), np.float32)}),
        ("rtmdet", {"c": np.zeros((1, 1, 4, 4), np.float32), "b": np.zeros((0, 4, 4, 4), np.float32)}),
        ("rtmdet", {"c": np.zeros((1, 0, 4, 4), np.float32), "b": np.zeros((1, 4, 4, 4), np.float32)}),
        ("rtmdet", {"c": np.zeros((1, 1, 4, 0), np.float32), "b": np.zeros((1, 4, 4, 0), np.float32)}),
        ("rtmdet", {"c": np.zeros((2, 1, 4, 4), np.float32), "b": np.zeros((2, 4, 4, 4), np.float32)}),
        ("rtmdet", {"c": np.zeros((1, 16), np.float32), "b": np.zeros((1, 16), np.float32)}),
        ("yolox", {"o": np.zeros((1, 7, 6), np.float32)}),
        ("yolox", {"o": np.zeros((1, 126, 5), np.float32)}),
        ("yolox", {"o": np.zeros((126, 6), np.float32)}),
        ("yolox", {"o": np.zeros((2, 126, 6), np.float32)}),
    ],
)
def test_outputs_of_another_shape_are_an_output_mismatch(head, outputs):
    with pytest.raises(OutputMismatchError):
        detector(head, outputs).predict(FRAME)


@pytest.mark.parametrize(
    ("head", "names"), [("nms", ["dets"]), ("nms", []), ("rtmdet", ["a"]), ("rtmdet", ["a", "b", "c"]), ("yolox", [])]
)
def test_too_few_outputs_are_refused_on_loading(head, names):
    outputs = {name: np.zeros((1, 1), np.float32) for name in names}
    with pytest.raises(OutputMismatchError, match="outputs are"):
        detector(head, outputs)


def test_a_pose_network_is_refused(tmp_path):
    content = declared_onnx(
        [("input", [1, 3, 64, 48], "float32")],
        [("simcc_x", [1, 17, 96], "float32"), ("simcc_y", [1, 17, 128], "float32")],
    )
    with pytest.raises(ModelError, match="swapped"):
        PersonDetector(write(tmp_path / "pose.onnx", content))


@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": -0.1},
        {"score_threshold": 1.1},
        {"iou_threshold": float("nan")},
        {"max_detections": 0},
        {"max_detections": 20.0},
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        detector("nms", nms_outputs(), **options)
    with pytest.raises(InputError, match=next(iter(options))):
        PersonDetector(write(tmp_path / "m.onnx", light_detector()), **options)


def test_a_network_that_is_loaded_already_gets_the_defaults_of_a_file():
    of_file, of_network = (inspect.signature(make).parameters for make in (PersonDetector, PersonDetector.from_backend))
    for name in ("score_threshold", "iou_threshold", "label", "max_detections"):
        assert of_file[name].default == of_network[name].default, name


def test_an_input_size_that_the_file_does_not_take_is_refused_on_loading(tmp_path):
    with pytest.raises(ModelError, match="input_size_wh"):
        PersonDetector(write(tmp_path / "m.onnx", light_detector(size_wh=(64, 64))), input_size_wh=(128, 128))


def test_a_failure_of_the_network_passes_and_the_next_frame_works():
    detect, network = painted_detector()
    frame = paint({0: (10, 20, 60, 120)})
    network.failure = RuntimeError("lost")
    with pytest.raises(InferenceError, match="lost"):
        detect.predict(frame)
    assert len(detect.predict(frame)) == 1


def test_a_closed_detector_says_so():
    detect, _ = painted_detector()
    with detect:
        assert detect.describe().runtime == "callable"
    detect.close()
    for frames in ([FRAME], []):
        with pytest.raises(ClosedError):
            detect.predict_batch(frames)


def test_several_threads_may_use_one_detector():
    from concurrent.futures import ThreadPoolExecutor

    detect, _ = painted_detector()
    frames = [paint({i % 8: (10 + 7 * i, 20, 90 + 7 * i, 200)}) for i in range(40)]
    alone = [detect.predict(frame).bboxes for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(detect.predict, frames), strict=True):
            np.testing.assert_array_equal(one, other.bboxes)
