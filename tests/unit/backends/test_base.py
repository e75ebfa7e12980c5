"""The seam: what goes into a network and what comes out of it is checked once, and every failure has its class."""

from __future__ import annotations

import numpy as np
import pytest

from rtmpose_infer.backends import (
    BackendConfig,
    CallableBackend,
    TensorSpec,
    backend_names,
    canonical_name,
)
from rtmpose_infer.backends.base import joined, run_in_sizes
from rtmpose_infer.backends.engine_cache import EngineCache
from rtmpose_infer.errors import (
    ClosedError,
    DTypeError,
    InferenceError,
    InputError,
    OutputMismatchError,
    ShapeError,
)

FLOAT32 = np.dtype(np.float32)
X = TensorSpec("x", (None, 2), FLOAT32)
Y = TensorSpec("y", (None, 2), FLOAT32)


def doubling(**options: object) -> CallableBackend:
    return CallableBackend(lambda feeds: {"y": feeds["x"] * 2}, [X], [Y], **options)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("feeds", "error"),
    [
        ({}, InputError),
        ({"x": ones(1, 2), "z": ones(1)}, InputError),
        ({"z": ones(1, 2)}, InputError),
        ({"x": ones(1, 2).astype(np.float64)}, DTypeError),
        ({"x": [[1.0, 2.0]]}, DTypeError),
        ({"x": ones(2)}, ShapeError),
        ({"x": ones(1, 3)}, ShapeError),
        ({"x": ones(1, 2, 1)}, ShapeError),
        ({"x": ones(0, 2)}, ShapeError),
    ],
)
def test_feeds_that_do_not_fit_are_refused_before_the_network_runs(feeds, error):
    backend = CallableBackend(lambda feeds: pytest.fail("it ran"), [X], [Y])
    with pytest.raises(error):
        backend.run(feeds)


@pytest.mark.parametrize(
    "answer",
    [{}, {"z": ones(1, 2)}, {"y": ones(1, 3)}, {"y": ones(2)}, {"y": 3.0}],
    ids=["nothing", "another", "shape", "rank", "number"],
)
def test_answers_that_were_not_promised_are_an_output_mismatch(answer):
    with pytest.raises(OutputMismatchError, match="'y'"):
        CallableBackend(lambda feeds: answer, [X], [Y]).run({"x": ones(1, 2)})


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), KeyError("k"), MemoryError()], ids=repr)
def test_a_failure_of_the_runtime_is_an_inference_error_with_its_cause(failure):
    def fail(feeds: object) -> dict[str, np.ndarray]:
        raise failure

    with pytest.raises(InferenceError, match="my runtime failed") as caught:
        CallableBackend(fail, [X], [Y], name="my runtime").run({"x": ones(1, 2)})
    assert caught.value.__cause__ is failure


def test_an_interrupt_is_not_swallowed():
    def interrupt(feeds: object) -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallableBackend(interrupt, [X], [Y]).run({"x": ones(1, 2)})


def test_after_close_every_run_says_so_and_closing_again_is_fine():
    with doubling() as backend:
        backend.run({"x": ones(1, 2)})
    backend.close()
    with pytest.raises(ClosedError, match="load the model again"):
        backend.run({"x": ones(1, 2)})


def test_closing_while_it_runs_is_a_closed_error():
    def close_and_fail(feeds: object) -> dict[str, np.ndarray]:
        backend.close()
        raise RuntimeError("the session is gone")

    backend = CallableBackend(close_and_fail, [X], [Y])
    with pytest.raises(ClosedError, match="while it ran"):
        backend.run({"x": ones(1, 2)})


@pytest.mark.parametrize(
    ("shape", "given", "fits"),
    [
        ((None, 3), (5, 3), True),
        ((None, 3), (0, 3), True),
        ((2, 3), (2, 3), True),
        ((2, 3), (1, 3), False),
        ((2, 3), (2, 3, 1), False),
        ((), (), True),
    ],
)
def test_a_dynamic_size_takes_any_number_and_a_fixed_one_only_itself(shape, given, fits):
    assert TensorSpec("x", shape, FLOAT32).accepts(given) is fits


def test_shapes_are_shown_with_n_for_dynamic():
    assert TensorSpec("x", (None, 3, 256), FLOAT32).words() == "(n, 3, 256)"


@pytest.mark.parametrize(
    "fields",
    [
        *({"threads": t} for t in (0, "2", 1.5, 2**40)),
        {"batch_sizes": ()},
        {"batch_sizes": (4, 2)},
        {"batch_sizes": (2, 2)},
        {"batch_sizes": (0, 1)},
        {"batch_sizes": (1.5, 2)},
        {"batch_sizes": ("a",)},
        {"batch_sizes": 4},
    ],
)
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(InputError):
        BackendConfig(**fields)


@pytest.mark.parametrize("value", ["x", None, [("a", 1)]])
def test_an_option_that_should_be_a_mapping_and_is_none_is_refused_by_its_name(value):
    with pytest.raises(InputError, match="properties must be a mapping"):
        BackendConfig(options={"properties": value}).mapping_option("properties")


def test_the_names_in_an_option_that_is_a_mapping_are_text():
    assert BackendConfig(options={"properties": {1: 2}}).mapping_option("properties") == {"1": 2}
    assert BackendConfig().mapping_option("properties") == {}


def test_a_batch_in_prepared_sizes_may_give_another_number_of_rows_in_every_call():
    def as_many_as_the_number(feeds):
        (number,) = feeds["x"].ravel()
        return {"dets": np.full((1, int(number), 2), number), "labels": np.full((1, int(number)), number)}

    answer = run_in_sizes({"x": np.array([[2.0], [0.0], [3.0]], np.float32)}, (1,), as_many_as_the_number)
    assert answer["dets"].shape == (3, 3, 2)
    assert answer["labels"].tolist() == [[2, 2, 0], [0, 0, 0], [3, 3, 3]]


def test_one_answer_joined_is_itself():
    answer = {"y": ones(2)}
    assert joined([answer]) is answer
    assert joined([answer, answer])["y"].tolist() == [1, 1, 1, 1]


def test_a_backend_can_be_called_by_its_short_name_in_any_case():
    assert canonical_name("ORT") == canonical_name("onnxruntime") == "onnxruntime"
    assert canonical_name("auto") == "auto"
    assert "onnxruntime" in backend_names()


def test_an_unknown_backend_lists_the_known():
    with pytest.raises(InputError, match="onnxruntime"):
        canonical_name("caffe")


def test_batch_sizes_of_numpy_can_stand_in_the_key_of_a_cache(tmp_path):
    config = BackendConfig(batch_sizes=tuple(np.array([1, 4])))
    assert EngineCache("tensorrt", tmp_path).load({"batch_sizes": list(config.batch_sizes)}) is None
