"""A plain function as a network: the extension point for runtimes of one's own, and the fake that tests use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.backends.base import Arrays, Backend, BackendInfo, TensorSpec

__all__ = ["CallableBackend"]


class CallableBackend(Backend):
    """Calls ``function`` with the checked feeds.

    Args:
        function: Takes a mapping of input arrays, returns a mapping of output arrays. It is called from whichever
            threads call ``run``, and must bear that.
        inputs: What it takes.
        outputs: What it gives.
        batch_sizes: See ``Backend``.
        name: What ``describe`` calls it.
    """

    def __init__(
        self,
        function: Callable[[Arrays], Mapping[str, npt.ArrayLike]],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        batch_sizes: tuple[int, ...] | None = None,
        name: str = "callable",
    ) -> None:
        super().__init__(inputs, outputs, batch_sizes=batch_sizes)
        self._function: Callable[[Arrays], Mapping[str, Any]] = function
        self._name = name

    def _run(self, feeds: Arrays) -> Arrays:
        return {name: np.array(value) for name, value in self._function(feeds).items()}

    def describe(self) -> BackendInfo:
        """Return the name that was given."""
        return BackendInfo(runtime=self._name, version="", device="cpu")
