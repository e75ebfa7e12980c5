"""How many pictures go into one call of a network.

A runtime tells what it can do by the batch axis of its shapes (fixed or dynamic) and by ``Backend.batch_sizes``. Where
every size is as good (ONNX Runtime on a CPU), all people of a frame go in one call and nothing is padded; where
sizes are prepared (engines, static shapes), the remainder is padded up to the smallest one that holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmpose_infer.backends.base import Arrays, Backend
    from rtmpose_infer.preprocess import InputBuffer

__all__ = ["batch_plan", "input_name", "run_filled"]

_LARGEST_BATCH = 64  # bounds the memory that a crowd, or many cameras, can claim


def batch_plan(count: int, *, fixed: int | None, sizes: tuple[int, ...] | None) -> list[tuple[int, int, int]]:
    """Return the calls that cover ``count`` pictures: (first, how many, batch size to run), in order.

    Args:
        count: Number of pictures.
        fixed: The network's fixed batch size, or None where it is dynamic.
        sizes: The batch sizes worth running, ascending; None: any.

    >>> batch_plan(5, fixed=None, sizes=None)
    [(0, 5, 5)]
    >>> batch_plan(5, fixed=1, sizes=None)
    [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]
    >>> batch_plan(11, fixed=None, sizes=(1, 4, 8))
    [(0, 8, 8), (8, 3, 4)]
    """
    return list(_plan(count, (fixed,) if fixed else sizes))


def _plan(count: int, sizes: tuple[int, ...] | None) -> Iterator[tuple[int, int, int]]:
    first = 0
    while first < count:
        left = count - first
        if sizes is None:
            take = run = min(left, _LARGEST_BATCH)
        else:
            run = next((size for size in sizes if size >= left), sizes[-1])
            take = min(left, run)
        yield first, take, run
        first += take


def run_filled(backend: Backend, buffer: InputBuffer, count: int) -> Arrays:
    """Run the network over the first ``count`` pictures of the buffer and return its outputs, each (count, …).

    The buffer must have been asked for ``count`` pictures. Rows that pad a batch hold old pictures; their answers
    are dropped.
    """
    spec = backend.inputs[0]
    plan = batch_plan(count, fixed=spec.shape[0], sizes=backend.batch_sizes)
    needed = max(first + run for first, _, run in plan)
    if needed > count:
        buffer.reserve(needed)
    tensor = buffer.tensor(count, padded=needed)
    answers = []
    for first, take, run in plan:
        answer = backend.run({spec.name: tensor[first : first + run]})
        answers.append(answer if take == run else {name: value[:take] for name, value in answer.items()})
    if len(answers) == 1:
        return answers[0]
    return {name: _joined([answer[name] for answer in answers]) for name in answers[0]}


def input_name(backend: Backend, expected: np.dtype[np.generic], name: str) -> str:
    """Return the name of the network's one picture input after checking that it is what its file promised.

    Raises:
        ModelError: More than one input, not four-dimensional, or of another dtype.
    """
    inputs = backend.inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != expected:
        got = ", ".join(f"{t.name} {t.words()} {t.dtype}" for t in inputs)
        raise ModelError(f"{name}: expected one four-dimensional {expected} input, got {got}. Export it again.")
    return inputs[0].name


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Join over the batch axis; detectors with NMS in the graph give another number of rows in every call."""
    rows = {part.shape[1] for part in parts if part.ndim > 1}
    if len(rows) > 1:
        widest = max(rows)
        parts = [
            np.pad(p, [(0, 0), (0, widest - p.shape[1]), *[(0, 0)] * (p.ndim - 2)], constant_values=0) for p in parts
        ]
    return np.concatenate(parts)
