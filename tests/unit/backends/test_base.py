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
    [{"threads": 0}, {"batch_sizes": ()}, {"batch_sizes": (4, 2)}, {"batch_sizes": (2, 2)}, {"batch_sizes": (0, 1)}],
)
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(InputError):
        BackendConfig(**fields)


def test_a_backend_can_be_called_by_its_short_name_in_any_case():
    assert canonical_name("ORT") == canonical_name("onnxruntime") == "onnxruntime"
    assert canonical_name("auto") == "auto"
    assert "onnxruntime" in backend_names()


def test_an_unknown_backend_lists_the_known():
    with pytest.raises(InputError, match="onnxruntime"):
        canonical_name("caffe")
