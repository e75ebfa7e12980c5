"""A plain function as a network: what it is given, and what becomes of what it returns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rtmpose_infer.backends import BackendInfo, CallableBackend, TensorSpec
from rtmpose_infer.errors import InferenceError

X = TensorSpec("x", (None, 2), np.dtype(np.float32))
Y = TensorSpec("y", (None, 2), np.dtype(np.float32))


def doubling(**options: object) -> CallableBackend:
    return CallableBackend(lambda feeds: {"y": feeds["x"] * 2}, [X], [Y], **options)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_function_is_a_network():
    np.testing.assert_array_equal(doubling().run({"x": ones(3, 2)})["y"], 2 * ones(3, 2))


def test_the_function_gets_contiguous_arrays():
    seen = []
    backend = CallableBackend(lambda feeds: seen.append(feeds["x"].flags.c_contiguous) or {"y": feeds["x"]}, [X], [Y])
    backend.run({"x": ones(2, 6)[:, ::3]})
    assert seen == [True]


def test_answers_belong_to_the_caller():
    kept = ones(1, 2)
    backend = CallableBackend(lambda feeds: {"y": kept}, [X], [Y])
    backend.run({"x": ones(1, 2)})["y"][:] = 7
    assert kept.tolist() == [[1, 1]]


def test_answers_come_in_the_order_of_the_outputs_and_no_others_beside_them():
    backend = CallableBackend(lambda feeds: {"z": ones(1), "x": ones(1, 2), "y": ones(1, 2)}, [X], [Y, X])
    assert list(backend.run({"x": ones(1, 2)})) == ["y", "x"]


@pytest.mark.parametrize("answer", [None, 3, [1, 2], {"y": [[1.0, 2.0], [1.0]]}], ids=repr)
def test_a_function_that_returns_no_arrays_is_an_inference_error(answer):
    with pytest.raises(InferenceError):
        CallableBackend(lambda feeds: answer, [X], [Y]).run({"x": ones(1, 2)})


def test_a_backend_says_what_it_is():
    assert doubling(name="mine").describe() == BackendInfo(runtime="mine", version="", device="cpu")


def test_prepared_sizes_are_passed_on():
    assert doubling(batch_sizes=(1, 4)).batch_sizes == (1, 4)
    assert doubling().batch_sizes is None


def test_the_function_is_called_by_whichever_thread_runs_the_network():
    backend = doubling()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: backend.run({"x": ones(1, 2) * i})["y"][0, 0], range(50)))
    assert results == [2 * i for i in range(50)]
