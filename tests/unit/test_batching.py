"""How pictures are divided over calls: everything is covered once, prepared sizes are kept, memory is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.backends import CallableBackend, TensorSpec
from rtmpose_infer.batching import batch_plan, check_input, run_in_batches
from rtmpose_infer.errors import ModelError
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.preprocess import InputBuffer
from rtmpose_infer.stages import NO_CLOCK, StageClock

SPEC = ModelSpec(task="detection", head="nms", input_size_wh=(6, 4), input_format="nhwc_uint8")
UINT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)
sizes = st.one_of(
    st.none(), st.sets(st.integers(1, 32), min_size=1, max_size=5).map(lambda chosen: tuple(sorted(chosen)))
)


def network(
    *, batch: int | None = None, sizes: tuple[int, ...] | None = None, rows: object = None
) -> tuple[CallableBackend, list[int]]:
    """Return a network that answers with the first value of each picture, and the list of its batch sizes."""
    ran: list[int] = []

    def answer(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pictures = feeds["x"]
        ran.append(len(pictures))
        values = pictures[:, 0, 0, 0].astype(np.float32)
        width = 1 if rows is None else int(values.max())
        return {"y": np.repeat(values[:, None], width, axis=1)}

    outputs = [TensorSpec("y", (None, None), FLOAT32)]
    return CallableBackend(answer, [TensorSpec("x", (batch, 4, 6, 3), UINT8)], outputs, batch_sizes=sizes), ran


def numbered(first: int, pictures: np.ndarray) -> None:
    """Fill each picture with its number from 1."""
    pictures[:] = np.arange(first + 1, first + 1 + len(pictures), dtype=np.uint8)[:, None, None, None]


@given(st.integers(1, 200), st.one_of(st.none(), st.integers(1, 9)), sizes)
def test_a_plan_covers_every_picture_once_and_in_order(count, fixed, prepared):
    plan = batch_plan(count, fixed=fixed, sizes=prepared)
    covered = [first + i for first, take, _ in plan for i in range(take)]
    assert covered == list(range(count))
    assert all(1 <= take <= run for _, take, run in plan)


@given(st.integers(1, 200), st.one_of(st.none(), st.integers(1, 9)), sizes)
def test_only_sizes_that_the_runtime_has_are_run(count, fixed, prepared):
    ran = {run for _, _, run in batch_plan(count, fixed=fixed, sizes=prepared)}
    if fixed:
        assert ran == {fixed}
    elif prepared:
        assert ran <= set(prepared)
    else:
        assert max(ran) <= 64


@given(st.integers(1, 200), sizes)
def test_no_call_is_larger_than_what_is_left_needs(count, prepared):
    for first, take, run in batch_plan(count, fixed=None, sizes=prepared):
        if prepared and take < run:
            assert all(size < take or size >= run for size in prepared)
        assert take == min(count - first, run)


@pytest.mark.parametrize(("batch", "prepared"), [(None, None), (1, None), (3, None), (None, (1, 4)), (None, (8,))])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_the_answers_come_in_the_order_of_the_pictures(batch, prepared, count):
    backend, _ = network(batch=batch, sizes=prepared)
    answers = run_in_batches(backend, InputBuffer(SPEC), count, numbered, clock=NO_CLOCK, stages=("a", "b"))
    assert answers["y"][:, 0].tolist() == list(range(1, count + 1))


def test_all_pictures_go_in_one_call_where_every_size_is_as_good():
    backend, ran = network()
    run_in_batches(backend, InputBuffer(SPEC), 17, numbered, clock=NO_CLOCK, stages=("a", "b"))
    assert ran == [17]


def test_a_call_holds_no_more_pictures_than_it_may_and_calls_are_alike_in_size():
    backend, ran = network()
    answers = run_in_batches(backend, InputBuffer(SPEC), 17, numbered, clock=NO_CLOCK, stages=("a", "b"), most=8)
    assert ran == [6, 6, 5]
    assert answers["y"][:, 0].tolist() == list(range(1, 18))


def test_answers_of_different_length_are_joined_with_zeros():
    backend, ran = network(batch=1, rows="as many as the number")
    answers = run_in_batches(backend, InputBuffer(SPEC), 3, numbered, clock=NO_CLOCK, stages=("a", "b"))
    assert ran == [1, 1, 1]
    assert answers["y"].tolist() == [[1, 0, 0], [2, 2, 0], [3, 3, 3]]


def test_a_crowd_needs_no_more_memory_than_the_largest_batch():
    backend, ran = network()
    buffer = InputBuffer(SPEC)
    answers = run_in_batches(backend, buffer, 250, numbered, clock=NO_CLOCK, stages=("a", "b"))
    assert len(answers["y"]) == 250
    assert ran == [64, 64, 64, 58]
    assert buffer.pictures(1).base is not None
    assert len(buffer.pictures(1).base) == 64


def test_filling_and_running_are_stages_of_their_own():
    backend, _ = network(batch=1)
    clock = StageClock()
    run_in_batches(backend, InputBuffer(SPEC), 3, numbered, clock=clock, stages=("crop", "pose"))
    assert sorted(clock.seconds) == ["crop", "pose"]


@pytest.mark.parametrize(
    ("inputs", "fields"),
    [
        ([], {}),
        ([TensorSpec("a", (None, 4, 6, 3), UINT8)] * 2, {}),
        ([TensorSpec("a", (None, 4, 6), UINT8)], {}),
        ([TensorSpec("a", (None, 4, 6, 3), FLOAT32)], {}),
        ([TensorSpec("a", (None, 6, 4, 3), UINT8)], {}),
        ([TensorSpec("a", (None, 3, 4, 6), UINT8)], {}),
        ([TensorSpec("a", (None, 3, 4, 6), np.dtype(np.float16))], {"input_format": "nchw_float32"}),
        ([TensorSpec("a", (1, 3, 8, 6), FLOAT32)], {"input_format": "nchw_float32"}),
    ],
    ids=["none", "two", "rank 3", "float", "turned", "planes", "half", "another size"],
)
def test_a_network_that_takes_something_else_than_its_file_says_is_refused(inputs, fields):
    backend = CallableBackend(lambda feeds: {}, inputs, [])
    spec = ModelSpec(
        **({"task": "detection", "head": "nms", "input_size_wh": (6, 4), "input_format": "nhwc_uint8"} | fields)
    )
    with pytest.raises(ModelError, match="the detector: expected one input"):
        check_input(backend, spec, "the detector")


@pytest.mark.parametrize("shape", [(None, 4, 6, 3), (1, 4, 6, 3), (None, None, None, 3), (None, None, None, None)])
def test_fixed_and_dynamic_inputs_of_the_right_form_are_fine(shape):
    check_input(CallableBackend(lambda feeds: {}, [TensorSpec("a", shape, UINT8)], []), SPEC, "the detector")
