"""The seam between the pipeline and a runtime: named arrays in, named arrays out.

``Backend.run`` checks what goes in and what comes out and maps a runtime's errors once, so an adapter only implements
``_run``. Nothing else belongs here: what a runtime cannot do is absent from its adapter, never a stub. Loading (slow,
can fail) is each adapter's ``load`` function; running is the hot path and must be safe from several threads at once.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.closing import Closing
from rtmpose_infer.errors import (
    BackendError,
    ClosedError,
    DTypeError,
    InferenceError,
    InputError,
    OutputMismatchError,
    ShapeError,
)
from rtmpose_infer.options import check_option, is_whole

__all__ = [
    "Arrays",
    "Backend",
    "BackendConfig",
    "BackendInfo",
    "TensorSpec",
    "chosen_config",
    "joined",
    "run_in_sizes",
]

Arrays = dict[str, npt.NDArray[Any]]

_MOST_THREADS = 1024  # a runtime that is told to start millions takes the process down


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a loaded network.

    Attributes:
        name: Its name.
        shape: Sizes; None for a dynamic one.
        dtype: numpy dtype.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Say whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want is None or want == have for want, have in zip(self.shape, shape, strict=True)
        )

    def words(self) -> str:
        """Return the shape as messages show it, such as ``(n, 3, 256, 192)``."""
        return "(" + ", ".join("n" if size is None else str(size) for size in self.shape) + ")"


@dataclass(frozen=True)
class BackendInfo:
    """What really runs.

    Attributes:
        runtime: Name of the backend, such as ``"onnxruntime"``.
        version: Version of the runtime.
        device: The device actually used, as the runtime names it.
        precision: What it computes in, as far as it tells; empty where unknown.
        threads: Threads of one call; None where the runtime decides.
        details: Further facts for reports, such as the providers.
    """

    runtime: str
    version: str
    device: str
    precision: str = ""
    threads: int | None = None
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """How a network is to be loaded; every adapter reads the same fields.

    Attributes:
        device: ``"auto"`` (the backend's default), ``"cpu"``, ``"gpu"``, or a name the backend documents, such as
            ``"cuda:1"``, ``"npu"`` or an ONNX Runtime provider.
        threads: Threads of one call; None leaves it to the runtime.
        allow_fallback: Go on with the CPU, and a warning, where the device does not come up; otherwise that is a
            DeviceUnavailableError.
        cache_dir: Folder for compiled models; None: the package's cache folder, where the backend compiles.
        batch_sizes: Batch sizes that a runtime with fixed shapes prepares, ascending.
        options: Settings of the one runtime, as the ``load`` function of its adapter documents them.

    Raises:
        InputError: A field is of another type or out of range.
    """

    device: str = "auto"
    threads: int | None = None
    allow_fallback: bool = False
    cache_dir: str | PathLike[str] | None = None
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def check(name: str, expected: str, *, fine: bool) -> None:
            check_option(name, getattr(self, name), expected, fine=fine)

        threads, sizes = self.threads, self.batch_sizes
        check("device", "a name, such as 'cpu', 'gpu' or 'cuda:0'", fine=isinstance(self.device, str))
        check(
            "threads",
            f"a whole number from 1 to {_MOST_THREADS}, or None for the runtime's own choice",
            fine=threads is None or (is_whole(threads) and 1 <= threads <= _MOST_THREADS),
        )
        check("allow_fallback", "true or false", fine=isinstance(self.allow_fallback, bool))
        check("cache_dir", "a folder or None", fine=isinstance(self.cache_dir, (str, PathLike, type(None))))
        whole = isinstance(sizes, Sequence) and len(sizes) > 0 and all(map(is_whole, sizes))
        fine = whole and list(sizes) == sorted(set(sizes)) and sizes[0] >= 1
        check("batch_sizes", "whole numbers, ascending and positive", fine=fine)
        check("options", "a mapping of names to values", fine=isinstance(self.options, Mapping))
        object.__setattr__(self, "batch_sizes", tuple(map(int, sizes)))  # numpy's have no place in a cache's key

    def check_options(self, runtime: str, known: Collection[str]) -> None:
        """Check that ``options`` has only names that a runtime's adapter knows.

        Raises:
            InputError: There is another one.
        """
        if unknown := set(self.options) - set(known):
            raise InputError(f"unknown {runtime} options {sorted(unknown)}; known are {sorted(known)}.")

    def mapping_option(self, name: str) -> dict[str, Any]:
        """Return an option that is itself a mapping of names to values; empty where it was not given.

        Raises:
            InputError: It is something else.
        """
        value = self.options.get(name, {})
        if not isinstance(value, Mapping):
            raise InputError(
                f"{name} must be a mapping of names to values, such as {{'NAME': 'value'}}, got {value!r}."
            )
        return {str(key): entry for key, entry in value.items()}


def chosen_config(config: BackendConfig | None, *, device: str, threads: int | None) -> BackendConfig:
    """Return the settings that were given at once, or else one by one.

    Raises:
        InputError: They are something else, or given both ways.
    """
    if config is None:
        return BackendConfig(device=device, threads=threads)
    check_option("backend_config", config, "a BackendConfig or None", fine=isinstance(config, BackendConfig))
    if device != "auto" or threads is not None:
        raise InputError("pass either backend_config or device and threads, which it holds.")
    return config


class Backend(Closing):
    """A network loaded into a runtime. A subclass implements ``_run`` and ``describe``.

    Attributes:
        inputs: What ``run`` takes.
        outputs: What ``run`` gives.
        batch_sizes: The batch sizes that are worth running, ascending; None where every size is as good.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        batch_sizes: tuple[int, ...] | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.batch_sizes = batch_sizes
        self._names = {spec.name for spec in self.inputs}
        self._process = os.getpid()
        self._closed = False

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run the network once.

        Args:
            feeds: One array for each of ``inputs``, of its dtype and a shape that fits; need not be contiguous.

        Returns:
            One array for each of ``outputs``, in their order; they belong to the caller.

        Raises:
            InputError: A name is missing or unknown (ShapeError, DTypeError: an array does not fit).
            InferenceError: The runtime failed.
            OutputMismatchError: The runtime's answer does not have the promised tensors.
            ClosedError: ``close`` was called before.
            BackendError: The network was loaded before ``os.fork``, in the parent process.
        """
        self.check_open()
        if feeds.keys() != self._names:
            raise InputError(f"the network takes {sorted(self._names)}, got {sorted(feeds)}.")
        checked: Arrays = {}
        for spec in self.inputs:
            array = feeds[spec.name]
            if not isinstance(array, np.ndarray) or array.dtype != spec.dtype:
                actual = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise DTypeError(f"input {spec.name!r}", expected=str(spec.dtype), actual=actual)
            if not spec.accepts(array.shape):
                raise ShapeError(f"input {spec.name!r}", expected=spec.words(), actual=array.shape)
            if not array.size:
                expected = f"{spec.words()} with at least one picture"
                raise ShapeError(
                    f"input {spec.name!r}", expected=expected, actual=array.shape, hint="Skip empty batches."
                )
            checked[spec.name] = np.ascontiguousarray(array)
        try:
            answers = self._run(checked)
        except BackendError:
            raise
        except Exception as error:
            if self._closed:
                raise ClosedError(f"this {type(self).__name__} was closed while it ran.") from error
            message = f"{self.describe().runtime} failed to run the network: {error}"
            raise InferenceError(message) from error
        for spec in self.outputs:
            answer = answers.get(spec.name)
            if answer is None or not spec.accepts(answer.shape):
                got = "nothing" if answer is None else f"shape {answer.shape}"
                raise OutputMismatchError(f"output {spec.name!r}: expected shape {spec.words()}, got {got}.")
        return {spec.name: answers[spec.name] for spec in self.outputs}  # some heads are read by their order

    def check_open(self) -> None:
        """Check that the network can be used: that it was loaded in this process, and has not been freed.

        Raises:
            ClosedError: ``close`` was called before.
            BackendError: It came along through ``os.fork``. A fork leaves the runtime's threads behind, and calls that
                wait for them never end.
        """
        if self._process != os.getpid():
            raise BackendError(
                "this network was loaded before os.fork, and its runtime's threads did not come along. Load it in the "
                "process that uses it, or start that one with multiprocessing's 'spawn' or 'forkserver'."
            )
        if self._closed:
            raise ClosedError(f"this {type(self).__name__} is closed; load the model again.")

    @abstractmethod
    def _run(self, feeds: Arrays) -> Arrays:
        """Run the network on checked, contiguous arrays; any exception becomes an InferenceError."""

    @abstractmethod
    def describe(self) -> BackendInfo:
        """Return what really runs."""

    def close(self) -> None:
        """Free the network; may be called twice."""
        self._closed = True


def run_in_sizes(feeds: Arrays, sizes: tuple[int, ...], run: Callable[[Arrays], Arrays]) -> Arrays:
    """Return what a network answers to a batch when it can only be run in certain sizes.

    A batch is padded with zeros up to the next size, and one beyond the largest is cut into parts.

    Args:
        feeds: Arrays (n, …).
        sizes: The sizes, ascending.
        run: Runs a batch of one of the sizes.
    """
    count = len(next(iter(feeds.values())))
    parts = []
    for first in range(0, count, sizes[-1]):
        part = {name: array[first : first + sizes[-1]] for name, array in feeds.items()}
        rows = min(count - first, sizes[-1])
        size = next(size for size in sizes if size >= rows)
        if size > rows:
            part = {name: _padded(array, size) for name, array in part.items()}
        answer = run(part)
        parts.append(answer if size == rows else {name: value[:rows] for name, value in answer.items()})
    return joined(parts)


def joined(answers: Sequence[Arrays]) -> Arrays:
    """Return the answers to the parts of a batch as the answer to the whole.

    Detectors with NMS in the graph may give another number of rows in every call; the shorter ones are padded with
    zeros, as such a network pads the pictures of one batch.

    Args:
        answers: Arrays (n, …) by name, at least one set of them, alike but for n and the size of the second axis.
    """
    if len(answers) == 1:
        return answers[0]
    return {name: _joined([answer[name] for answer in answers]) for name in answers[0]}


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    rows = {part.shape[1] for part in parts if part.ndim > 1}
    if len(rows) > 1:
        widest = max(rows)
        parts = [np.pad(p, [(0, 0), (0, widest - p.shape[1]), *[(0, 0)] * (p.ndim - 2)]) for p in parts]
    return np.concatenate(parts)


def _padded(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    padded = np.zeros((rows, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
