"""Running pictures through a network: how it is loaded and held, and how many pictures go into one call.

A runtime tells what it can do by the batch axis of its shapes (fixed or dynamic) and by ``Backend.batch_sizes``. Where
every size is as good (ONNX Runtime on a CPU), all people of a frame go in one call and nothing is padded; where
sizes are prepared (engines, static shapes), the remainder is padded up to the smallest one that holds it.

Pictures are made in one buffer, at most 64 (or the largest prepared batch) before they are run. That bounds what a
crowd or many cameras need in memory; and warping is much slower when each picture is followed by a call, which empties
the processor's caches (0.9 instead of 0.5 ms a crop, measured with a network of fixed batch one).

On a CPU a call holds at most as many pixels as eight crops of 256×192. A runtime's memory grows with its largest call and
stays (the embedded networks: 36 MB for 16 crops, 48 MB for four pictures), and larger calls are no faster: 1.28 ms a crop
on one thread for anything from 4 to 16, 0.68 and 0.67 ms on two threads for 8 and 16, 6.1 and 6.2 ms a picture for 2 and 4.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.backends import load_backend, own_form
from rtmpose_infer.backends.base import joined
from rtmpose_infer.backends.engine_cache import model_digest
from rtmpose_infer.closing import Closing
from rtmpose_infer.errors import ModelError
from rtmpose_infer.model_spec import load_model_file
from rtmpose_infer.options import check_option, is_number, is_whole
from rtmpose_infer.preprocess import InputBuffer
from rtmpose_infer.zoo import resolve, spec_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtmpose_infer.backends import Arrays, Backend, BackendConfig, BackendInfo
    from rtmpose_infer.model_spec import ModelSpec
    from rtmpose_infer.preprocess import Frame
    from rtmpose_infer.stages import StageClock

__all__ = ["HeldNetwork", "batch_plan", "check_filter", "check_input", "run_in_batches"]

_LARGEST_BATCH = 64
_CPU_CALL_PIXELS = 8 * 256 * 192
_BOUNDED_ON_CPU = {"onnxruntime", "openvino"}


class HeldNetwork(Closing):
    """Base of the detector and both estimators: runs pictures through one loaded network, from several threads at once.

    Attributes:
        backend: The network.
        spec: What it wants and gives.
    """

    backend: Backend
    spec: ModelSpec
    _came_from: Path | str | None = None

    def _load(
        self, model: str | Path, *, task: str, backend: str, config: BackendConfig, options: dict[str, Any]
    ) -> tuple[Backend, ModelSpec]:
        """Return a model loaded into a runtime, and what it says of itself; remember its file for ``fingerprint``.

        Args:
            model: A file, a folder or a name of the zoo, as ``zoo.resolve`` takes it.
            task: See ``model_spec.load_model_file``.
            backend: Name or alias.
            config: Device, threads and options.
            options: Fields of ``ModelSpec`` that the caller knows better than the file and the zoo.
        """
        path = resolve(model, task=task)
        known = spec_fields(model, path) | options
        file = own_form(load_model_file(path, task=task, **known), backend, **known)
        loaded = load_backend(file, backend=backend, config=config)
        # What was in an archive is not kept for the fingerprint, but its digest is.
        self._came_from = model_digest(file.data) if isinstance(file.data, bytes) else file.data
        return loaded, file.spec

    def _hold(self, backend: Backend, spec: ModelSpec, **options: Any) -> None:
        """Begin to hold a network whose answers the options shape."""
        self.backend, self.spec = backend, spec
        self._options = options
        self._local = threading.local()
        info, (width, height) = backend.describe(), spec.input_size_wh
        on_cpu = info.runtime in _BOUNDED_ON_CPU and info.device.lower() == "cpu"
        self._most = max(_CPU_CALL_PIXELS // (width * height), 1) if on_cpu else _LARGEST_BATCH

    def fingerprint(self) -> dict[str, Any]:
        """Return what this network's answers depend on, as JSON values: its spec, its options and its file's digest.

        Raises:
            ModelError: The file has gone, or cannot be read.
        """
        source = self._came_from
        digest = model_digest(source) if isinstance(source, Path) else source
        return {"spec": self.spec.to_json(), "options": self._options, "sha256": digest}

    def _buffer(self) -> InputBuffer:
        """Return this thread's own buffer for the network's input."""
        buffer: InputBuffer | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = InputBuffer(self.spec)
        return buffer

    def _run(
        self, count: int, fill: Callable[[int, Frame], None], *, clock: StageClock, stages: tuple[str, str]
    ) -> Arrays:
        """Run ``count`` pictures through the network; see ``run_in_batches``."""
        return run_in_batches(self.backend, self._buffer(), count, fill, clock=clock, stages=stages, most=self._most)

    def describe(self) -> BackendInfo:
        """Return what the network really runs on."""
        return self.backend.describe()

    def close(self) -> None:
        """Free the network; may be called twice."""
        self.backend.close()


def batch_plan(
    count: int, *, fixed: int | None, sizes: tuple[int, ...] | None, most: int = _LARGEST_BATCH
) -> list[tuple[int, int, int]]:
    """Return the calls that cover ``count`` pictures: (first, how many, batch size to run), in order.

    Args:
        count: Number of pictures.
        fixed: The network's fixed batch size, or None where it is dynamic.
        sizes: The batch sizes worth running, ascending; None: any.
        most: Pictures in one call where any number goes.

    >>> batch_plan(5, fixed=None, sizes=None)
    [(0, 5, 5)]
    >>> batch_plan(5, fixed=1, sizes=None)
    [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]
    >>> batch_plan(11, fixed=None, sizes=(1, 4, 8))
    [(0, 8, 8), (8, 3, 4)]
    """
    return list(_plan(count, (fixed,) if fixed else sizes, most))


def _plan(count: int, sizes: tuple[int, ...] | None, most: int) -> Iterator[tuple[int, int, int]]:
    first = 0
    while first < count:
        left = count - first
        if sizes is None:
            # Calls alike in size, for a small one costs more a picture.
            take = run = math.ceil(left / math.ceil(left / most))
        else:
            run = next((size for size in sizes if size >= left), sizes[-1])
            take = min(left, run)
        yield first, take, run
        first += take


def run_in_batches(
    backend: Backend,
    buffer: InputBuffer,
    count: int,
    fill: Callable[[int, Frame], None],
    *,
    clock: StageClock,
    stages: tuple[str, str],
    most: int = _LARGEST_BATCH,
) -> Arrays:
    """Run the network over ``count`` pictures and return its outputs, each (count, …).

    Args:
        backend: The network.
        buffer: Where the pictures are made. Rows that pad a batch hold old pictures; their answers are dropped.
        count: Number of pictures, at least 1.
        fill: Called with the number of the first picture and (n, H, W, 3) uint8 rows to write the next n into.
        clock: Is lapped after filling and after running.
        stages: The names of these two stages.
        most: Pictures in one call where the network takes any number.
    """
    spec = backend.inputs[0]
    fixed, sizes = spec.shape[0], backend.batch_sizes
    round_length = max(_LARGEST_BATCH, fixed or 0, sizes[-1] if sizes else 0)
    answers = []
    for begin in range(0, count, round_length):
        length = min(round_length, count - begin)
        plan = batch_plan(length, fixed=fixed, sizes=sizes, most=most)
        padded = max(first + run for first, _, run in plan)
        fill(begin, buffer.pictures(padded)[:length])
        clock.lap(stages[0])
        tensor = buffer.tensor(length, padded=padded)
        for first, take, run in plan:
            answer = backend.run({spec.name: tensor[first : first + run]})
            answers.append(answer if take == run else {name: value[:take] for name, value in answer.items()})
        clock.lap(stages[1])
    return joined(answers)


def check_input(backend: Backend, spec: ModelSpec, name: str) -> None:
    """Check that the network takes one batch of pictures of the form that its file promised.

    Args:
        backend: The network.
        spec: What its file promised.
        name: How messages call it.

    Raises:
        ModelError: It takes something else.
    """
    width, height = spec.input_size_wh
    nhwc = spec.input_format == "nhwc_uint8"
    dtype = np.dtype(np.uint8 if nhwc else np.float32)
    picture = (height, width, 3) if nhwc else (3, height, width)
    inputs = backend.inputs
    shape = inputs[0].shape if len(inputs) == 1 else ()
    fits = len(shape) == 4 and all(have in {want, None} for have, want in zip(shape[1:], picture, strict=True))
    if not fits or inputs[0].dtype != dtype:
        got = ", ".join(f"{t.name} {t.words()} {t.dtype}" for t in inputs)
        raise ModelError(
            f"{name}: expected one input (n, {', '.join(map(str, picture))}) {dtype}, got {got}. Pass the "
            "input_size_wh that the model was made for, or export it again."
        )


def check_filter(score_threshold: float, iou_threshold: float, **most: int) -> None:
    """Check the options that say which of a network's boxes are kept.

    Args:
        score_threshold: From 0 to 1.
        iou_threshold: From 0 to 1.
        most: Name and value of the option that bounds how many are kept.

    Raises:
        InputError: A threshold is outside of 0 to 1, or the bound is no whole number from 1 on.
    """
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        check_option(name, value, "0 to 1", fine=is_number(value) and 0 <= value <= 1)
    for name, count in most.items():
        check_option(name, count, "a whole number from 1 on", fine=is_whole(count) and count >= 1)
