"""TensorRT 10 and 11: an engine built from our ONNX, kept between runs, replayed as a CUDA graph.

Precision comes from the ONNX file: the network is built strongly typed, which is the only way in 11 and gives the same
engine in 10, so FP16 or INT8 means loading the FP16 or INT8 export and never setting a flag. Shapes come from
``BackendConfig.batch_sizes``: one optimisation profile for each size, covering the sizes down to the one before it and
tuned for its largest. A profile gets its own execution context and buffers when it is first used, since a context that
keeps its shapes is what a CUDA graph needs; from the third call of a size on, copying in, computing and copying out are
one launch. One stream and one lock serve all threads.

Building takes minutes, so the engine is kept under a key of everything it depends on, and the measured timings beside
it, which make the next build on this device faster.

What the adapter uses of TensorRT is pinned by the signature list of its tests; both versions declare it alike.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.backends.base import Arrays, Backend, BackendConfig, BackendInfo, TensorSpec, joined
from rtmpose_infer.backends.cuda_memory import CudaMemory, Recording, open_cuda
from rtmpose_infer.backends.engine_cache import EngineCache, model_digest
from rtmpose_infer.errors import (
    BackendUnavailableError,
    ClosedError,
    EngineBuildError,
    InferenceError,
    InputError,
    ModelError,
)

if TYPE_CHECKING:
    from types import ModuleType

    from rtmpose_infer.model_spec import ModelFile

__all__ = ["TensorRtBackend", "load"]

_log = logging.getLogger("rtmpose_infer.backends.tensorrt")

_MAJORS = (10, 11)
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
_SMALLEST_OUTPUT = 4096
_OPTIONS = {"workspace_mb", "optimization_level", "tf32", "cuda_graphs"}

Shape = tuple[int, ...]


def load(model: ModelFile, config: BackendConfig) -> TensorRtBackend:
    """Load a model into TensorRT, building its engine first unless one is kept from an earlier run.

    ``config.device``: ``auto``, ``gpu`` or ``cuda`` (the device of the current CUDA context, or the first), ``cuda:1``.
    ``config.options``: ``workspace_mb`` (scratch memory a layer may use; all of the device's by default),
    ``optimization_level`` (0 to 5, TensorRT's own default 3; higher builds longer), ``tf32`` (True; False computes FP32
    layers in full FP32), ``cuda_graphs`` (True). ``config.threads`` means nothing to a GPU. There is no CPU to fall
    back to, so ``config.allow_fallback`` changes nothing here.

    Raises:
        BackendUnavailableError: TensorRT 10 or 11, or a library for device memory, is not installed.
        DeviceUnavailableError: There is no such CUDA device.
        ModelError: TensorRT cannot read the model, or it has an operator or type that TensorRT has not.
        EngineBuildError: TensorRT read the model and cannot build an engine from it.
        InputError: An option or device is unknown.
    """
    options = _Options.read(config)
    index = _device_index(config.device)
    trt = _import()
    memory = open_cuda(index)
    try:
        with memory.current():
            engine, runtime = _engine(trt, model, config, options, memory)
            return TensorRtBackend(
                trt, engine, runtime, memory, precision=model.spec.precision, cuda_graphs=options.cuda_graphs
            )
    except BaseException:
        memory.close()
        raise


class TensorRtBackend(Backend):
    """A deserialised engine with an execution context for each batch size that was used.

    Args:
        trt: The module.
        engine: The engine.
        runtime: The runtime that it was deserialised by.
        memory: Device memory and the stream; closed with the backend.
        precision: What the model's spec says.
        cuda_graphs: Replay the largest shapes of each profile as one launch, where the CUDA library can.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,
        runtime: Any,
        memory: CudaMemory,
        *,
        precision: str = "",
        cuda_graphs: bool = True,
    ) -> None:
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._profiles = [
            {name: _bounds(engine, name, index) for name in inputs} for index in range(engine.num_optimization_profiles)
        ]
        largest = [profile[inputs[0]][2][0] for profile in self._profiles]
        dynamic = len({shape[0] for profile in self._profiles for shape in profile[inputs[0]]}) > 1
        super().__init__(
            [TensorSpec(name, self._input_shape(name, engine), _dtype(trt, engine, name)) for name in inputs],
            [TensorSpec(name, _known(engine.get_tensor_shape(name)), _dtype(trt, engine, name)) for name in outputs],
            batch_sizes=tuple(largest) if dynamic else None,
        )
        self._engine = engine
        self._runtime = runtime  # an engine does not outlive the runtime it came from
        self._trt = trt
        self._memory = memory
        self._graphs = cuda_graphs and memory.record is not None
        self._slots: dict[int, _Slot] = {}
        self._lock = threading.Lock()
        # Collected without close(), the buffers would stay with the process.
        self._finalizer = weakref.finalize(self, memory.close)
        self._finalizer.atexit = False
        self._info = BackendInfo(
            runtime="tensorrt",
            version=trt.__version__,
            device=f"{memory.device_name} (cuda:{memory.index})",
            precision=precision,
            details={
                "memory": memory.library,
                "batch sizes": ", ".join(map(str, largest)),
                "cuda graphs": "on" if self._graphs else "off",
            },
        )

    def _run(self, feeds: Arrays) -> Arrays:
        count = len(next(iter(feeds.values())))
        if self.batch_sizes is None or count <= self.batch_sizes[-1]:
            return self._run_batch(feeds)
        most = self.batch_sizes[-1]
        parts = [
            self._run_batch({name: array[first : first + most] for name, array in feeds.items()})
            for first in range(0, count, most)
        ]
        return joined(parts)

    def _run_batch(self, feeds: Arrays) -> Arrays:
        with self._lock, self._memory.current():
            if self._closed:
                raise ClosedError("this TensorRtBackend was closed; load the model again.")
            with _quoting_errors(self._trt):
                return self._slot(feeds).run(feeds)

    def _slot(self, feeds: Arrays) -> _Slot:
        shapes = {name: array.shape for name, array in feeds.items()}
        for index, profile in enumerate(self._profiles):
            if all(_within(shapes[name], profile[name]) for name in shapes):
                if index not in self._slots:
                    self._slots[index] = _Slot(self._trt, self._engine, self._memory, index, graphs=self._graphs)
                return self._slots[index]
        covered = "; ".join(f"{p[n][0]} to {p[n][2]}" for p in self._profiles for n in shapes)
        raise InferenceError(f"no profile of the engine covers {shapes}; it was built for {covered}.")

    def describe(self) -> BackendInfo:
        """Return the version, the device and the batch sizes the engine was built for."""
        return self._info

    def close(self) -> None:
        """Free the engine and its memory; a call that is running on another thread ends first."""
        with self._lock:
            super().close()
            if self._finalizer.alive:
                with suppress(InferenceError), self._memory.current():
                    self._slots.clear()
                    self._engine = self._runtime = None
                self._finalizer()

    def _input_shape(self, name: str, engine: Any) -> tuple[int | None, ...]:
        """A size that every profile fixes to one value is fixed, whatever the network would take."""
        shape = list(_known(engine.get_tensor_shape(name)))
        bounds = [profile[name] for profile in self._profiles]
        for axis, size in enumerate(shape):
            sizes = {corner[axis] for bound in bounds for corner in bound}
            if size is None and len(sizes) == 1:
                shape[axis] = sizes.pop()
        return tuple(shape)


class _Slot:
    """One profile at work: its context, its buffers on both sides, and the graph of its largest shapes."""

    def __init__(self, trt: ModuleType, engine: Any, memory: CudaMemory, profile: int, *, graphs: bool) -> None:
        self._memory = memory
        self._context = engine.create_execution_context()
        if self._context is None:
            raise InferenceError("TensorRT could not create an execution context; is the device's memory full?")
        if engine.num_optimization_profiles > 1:
            _checked(self._context.set_optimization_profile_async(profile, memory.stream), "select a profile")
            memory.synchronize()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._dtypes = {name: _dtype(trt, engine, name) for name in names}
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]
        self._largest = {name: _bounds(engine, name, profile)[2] for name in self._inputs}
        self._shapes: dict[str, Shape] = {}
        self._recording: Recording | None = None
        self._calls = 0
        self._set_shapes(self._largest)
        self._device: dict[str, int] = {}
        self._host: dict[str, Any] = {}
        self._allocators: dict[str, Any] = {}
        for name in names:
            self._prepare(trt, name)
        self._graphs = graphs and not self._allocators

    def run(self, feeds: Arrays) -> Arrays:
        shapes = {name: array.shape for name, array in feeds.items()}
        if shapes != self._shapes:
            self._set_shapes(shapes)
        for name, array in feeds.items():
            self._host[name][: array.nbytes] = array.reshape(-1).view(np.uint8)
        try:
            self._launch()
            self._memory.synchronize()
            return self._answers()
        except BaseException:
            # What is still queued would write into buffers that the next call fills.
            with suppress(InferenceError):
                self._memory.synchronize()
            raise

    def _prepare(self, trt: ModuleType, name: str) -> None:
        """Give a tensor its memory on both sides, large enough for the largest shapes."""
        shape = self._largest.get(name) or tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) >= 0:
            nbytes = int(np.prod(shape, dtype=np.int64)) * self._dtypes[name].itemsize
        else:  # how large it is depends on the data: TensorRT asks for the memory when it knows
            allocator = self._allocators[name] = _allocator_class(trt)(self._memory)
            _checked(self._context.set_output_allocator(name, allocator), f"set the allocator of {name!r}")
            return
        self._device[name] = self._memory.empty(nbytes)
        self._host[name] = self._memory.pinned(nbytes)
        _checked(self._context.set_tensor_address(name, self._device[name]), f"set the address of {name!r}")

    def _set_shapes(self, shapes: Mapping[str, Shape]) -> None:
        if self._recording is not None:
            self._recording.free()
        self._recording, self._calls, self._shapes = None, 0, {}
        for name, shape in shapes.items():
            _checked(self._context.set_input_shape(name, shape), f"take the shape {shape} for {name!r}")
        self._shapes = dict(shapes)

    def _launch(self) -> None:
        # TensorRT settles what a change of shape entails in the next plain call, so that one is not recorded; and a
        # shape that comes once or twice is not worth a recording.
        self._calls += 1
        if self._recording is None and self._graphs and self._calls > 2 and self._shapes == self._largest:
            self._recording = self._recorded()
        if self._recording is not None:
            self._recording.launch()
        else:
            self._enqueue()

    def _recorded(self) -> Recording | None:
        if self._memory.record is not None:
            try:
                return self._memory.record(self._enqueue)
            except InferenceError as error:
                _log.info("no CUDA graph for %s: %s", self._shapes, error)
        self._graphs = False
        return None

    def _enqueue(self) -> None:
        for name in self._inputs:
            self._memory.copy_in(self._device[name], self._host[name][: self._nbytes(name, self._shapes[name])])
        _checked(self._context.execute_async_v3(self._memory.stream), "run the network")
        for name in self._outputs:
            if name not in self._allocators:
                shape = tuple(self._context.get_tensor_shape(name))
                self._memory.copy_out(self._host[name][: self._nbytes(name, shape)], self._device[name])

    def _answers(self) -> Arrays:
        answers: Arrays = {}
        for name in self._outputs:
            allocator = self._allocators.get(name)
            if allocator is None:
                shape, host = tuple(self._context.get_tensor_shape(name)), self._host[name]
                nbytes = self._nbytes(name, shape)
            else:
                shape = allocator.shape
                nbytes = self._nbytes(name, shape)
                host = allocator.fetch(nbytes)
            answers[name] = host[:nbytes].view(self._dtypes[name]).reshape(shape).copy()
        return answers

    def _nbytes(self, name: str, shape: Shape) -> int:
        return int(np.prod(shape, dtype=np.int64)) * self._dtypes[name].itemsize


@lru_cache(maxsize=1)
def _allocator_class(trt: ModuleType) -> type:
    base: Any = trt.IOutputAllocator

    class OutputAllocator(base):  # type: ignore[misc]
        """Memory for an output whose size depends on the data, and the shape it turned out to have."""

        def __init__(self, memory: CudaMemory) -> None:
            super().__init__()
            self.shape: Shape = ()
            self._memory = memory
            self._address = 0
            self._host: Any = np.empty(0, np.uint8)

        def reallocate_output_async(
            self,
            tensor_name: str,
            memory: int,  # noqa: ARG002
            size: int,
            alignment: int,  # noqa: ARG002  # the driver aligns to 256 bytes, TensorRT asks for no more
            stream: int,  # noqa: ARG002
        ) -> int:
            if size > len(self._host) or not self._address:
                # Doubling keeps what the smaller buffers held until close() below what the largest one holds.
                nbytes = max(size, 2 * len(self._host), _SMALLEST_OUTPUT)
                try:
                    self._address, self._host = self._memory.empty(nbytes), self._memory.pinned(nbytes)
                except InferenceError as error:
                    _log.warning("no memory for the output %r: %s", tensor_name, error)
                    return 0  # TensorRT's sign for failure
            return self._address

        def notify_shape(self, tensor_name: str, shape: Any) -> None:  # noqa: ARG002
            self.shape = tuple(shape)

        def fetch(self, nbytes: int) -> Any:
            self._memory.copy_out(self._host[:nbytes], self._address)
            self._memory.synchronize()
            return self._host

    return OutputAllocator


@dataclass(frozen=True)
class _Options:
    workspace_mb: int | None
    optimization_level: int | None
    tf32: bool
    cuda_graphs: bool

    @classmethod
    def read(cls, config: BackendConfig) -> _Options:
        config.check_options("tensorrt", _OPTIONS)
        given = config.options
        workspace, level = given.get("workspace_mb"), given.get("optimization_level")
        if workspace is not None and not (isinstance(workspace, int) and workspace > 0):
            raise InputError(f"workspace_mb must be a positive whole number, got {workspace!r}.")
        if level is not None and level not in range(6):
            raise InputError(f"optimization_level must be 0 to 5, got {level!r}.")
        return cls(workspace, level, bool(given.get("tf32", True)), bool(given.get("cuda_graphs", True)))


def _import() -> ModuleType:
    try:
        import tensorrt as trt
    except ImportError as error:
        raise BackendUnavailableError(
            f"TensorRT is not installed ({error}): pip install 'rtmpose-infer[tensorrt]'."
        ) from error
    version = str(trt.__version__)
    if version.partition(".")[0] not in map(str, _MAJORS):
        raise BackendUnavailableError(
            f"TensorRT {version} is installed; 10 and 11 are supported: pip install -U 'rtmpose-infer[tensorrt]'."
        )
    module: ModuleType = trt
    return module


def _device_index(device: str) -> int | None:
    name, _, index = device.lower().partition(":")
    if name not in {"auto", "gpu", "cuda"} or (index and not index.isdecimal()):
        raise InputError(f"unknown device {device!r} of tensorrt; it runs on NVIDIA GPUs: gpu, cuda or cuda:1.")
    return int(index) if index else None


@lru_cache(maxsize=1)
def _logger(trt: ModuleType) -> Any:
    """The one logger of this process: TensorRT keeps the first it is given for good."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,  # its INFO is a running commentary on every build
        trt.ILogger.VERBOSE: logging.NOTSET,
    }

    base: Any = trt.ILogger

    class Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.errors.append(msg.strip())
            if level:
                _log.log(level, "TensorRT: %s", msg.strip())

    return Logger()


@contextmanager
def _quoting_errors(trt: ModuleType) -> Iterator[None]:
    """Add to an error what TensorRT said: its functions answer no more than False or None."""
    errors = _logger(trt).errors
    errors.clear()
    try:
        yield
    except (InferenceError, EngineBuildError, ModelError) as error:
        if errors:
            raise type(error)(f"{error} TensorRT says: {'; '.join(errors)}") from error
        raise


def _engine(
    trt: ModuleType, model: ModelFile, config: BackendConfig, options: _Options, memory: CudaMemory
) -> tuple[Any, Any]:
    """Return the engine and the runtime that owns it."""
    major, minor = memory.compute_capability
    device = {"tensorrt": str(trt.__version__), "device": memory.device_name, "architecture": f"{major}.{minor}"}
    key = device | {
        "model": model_digest(model.data),
        "precision": model.spec.precision,
        "batch_sizes": list(config.batch_sizes),
        "input_size_wh": list(model.spec.input_size_wh),
        "workspace_mb": options.workspace_mb,
        "optimization_level": options.optimization_level,
        "tf32": options.tf32,
    }
    cache = EngineCache("tensorrt", config.cache_dir)
    logger = _logger(trt)
    trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    engine = _kept(cache, key, runtime)
    if engine is None:
        with cache.building(key):
            engine = _kept(cache, key, runtime)
            if engine is None:
                with _quoting_errors(trt):
                    plan = _Build(trt, model, config, options).run(cache, device)
                    engine = runtime.deserialize_cuda_engine(plan)
                    if engine is None:
                        raise EngineBuildError(f"TensorRT cannot load the engine it just built for {model.name}.")
                cache.store(key, plan)
    return engine, runtime


def _kept(cache: EngineCache, key: Mapping[str, Any], runtime: Any) -> Any:
    plan = cache.load(key)
    if plan is None:
        return None
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        _log.warning("TensorRT does not take the kept engine %s; it is built again", cache.path(key))
    return engine


class _Build:
    """One build: the network from the ONNX file, its profiles, the plan."""

    def __init__(self, trt: ModuleType, model: ModelFile, config: BackendConfig, options: _Options) -> None:
        self._trt = trt
        self._model = model
        self._sizes = config.batch_sizes
        self._options = options

    def run(self, cache: EngineCache, device: Mapping[str, str]) -> bytes:
        """Return the serialised engine."""
        trt = self._trt
        started = time.monotonic()
        _log.info("building a TensorRT engine for %s; this takes minutes, once", self._model.name)
        builder = trt.Builder(_logger(trt))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, _logger(trt))
        # Weights that lie beside the model are found by its path.
        source = self._model.data
        content, beside = (source, ()) if isinstance(source, bytes) else (source.read_bytes(), (str(source),))
        if not parser.parse(content, *beside):
            raise ModelError(f"TensorRT cannot read {self._model.name}: {_parser_errors(parser)}.")
        settings = builder.create_builder_config()
        if self._options.workspace_mb is not None:
            settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._options.workspace_mb * 2**20)
        if self._options.optimization_level is not None:
            settings.builder_optimization_level = self._options.optimization_level
        if not self._options.tf32:
            settings.clear_flag(trt.BuilderFlag.TF32)
        for profile in self._profiles(builder, network):
            if settings.add_optimization_profile(profile) < 0:
                raise EngineBuildError(f"TensorRT does not take the shapes for {self._model.name}.")
        timings = settings.create_timing_cache(cache.load(device, kind="timings") or b"")
        if timings is None or not settings.set_timing_cache(timings, ignore_mismatch=False):
            settings.set_timing_cache(settings.create_timing_cache(b""), ignore_mismatch=False)
        plan = builder.build_serialized_network(network, settings)
        if plan is None:
            raise EngineBuildError(f"TensorRT cannot build an engine for {self._model.name}.")
        cache.store(device, bytes(settings.get_timing_cache().serialize()), kind="timings")
        _log.info("built the engine for %s in %.0f s", self._model.name, time.monotonic() - started)
        return bytes(plan)

    def _profiles(self, builder: Any, network: Any) -> Iterator[Any]:
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        shapes = {tensor.name: self._at_input_size(tensor.name, tuple(tensor.shape)) for tensor in inputs}
        dynamic = {tensor.name for tensor in inputs if min(tuple(tensor.shape), default=0) < 0}
        batched = {name for name in dynamic if shapes[name][0] < 0}
        smallest = 1
        for size in self._sizes if batched else self._sizes[:1]:
            profile = builder.create_optimization_profile()
            for name in dynamic:
                low, high = (
                    (first, *shapes[name][1:]) if name in batched else shapes[name] for first in (smallest, size)
                )
                profile.set_shape(name, low, high, high)
            if dynamic:
                yield profile
            smallest = size + 1

    def _at_input_size(self, name: str, shape: Shape) -> Shape:
        """Fix every size but the batch: a network that takes pictures of any size is built for the one it is run at."""
        width, height = self._model.spec.input_size_wh
        if len(shape) == 4:
            sides = (3, height, width)
            wanted = sides if self._model.spec.input_format == "nchw_float32" else (height, width, 3)
            shape = (shape[0], *(want if size < 0 else size for size, want in zip(shape[1:], wanted, strict=True)))
        if min(shape[1:], default=0) < 0:
            raise ModelError(
                f"the input {name!r} of {self._model.name} has sizes that nothing fixes: {list(shape)}. "
                "Export it with fixed ones."
            )
        return shape


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"{error.node_operator() or 'model'} {error.node_name()}: {error.desc()}" for error in errors[:4])


def _checked(answer: bool, what: str) -> None:  # noqa: FBT001  # what TensorRT answers
    if not answer:
        raise InferenceError(f"TensorRT refused to {what}.")


def _within(shape: Shape, bounds: tuple[Shape, Shape, Shape]) -> bool:
    low, _, high = bounds
    return len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def _bounds(engine: Any, name: str, profile: int) -> tuple[Shape, Shape, Shape]:
    """Return the smallest, the best and the largest shape of an input in a profile."""
    shape = tuple(engine.get_tensor_shape(name))
    if min(shape, default=0) >= 0:
        return shape, shape, shape
    low, best, high = engine.get_tensor_profile_shape(name, profile)
    return tuple(low), tuple(best), tuple(high)


def _known(shape: Any) -> tuple[int | None, ...]:
    return tuple(size if size >= 0 else None for size in shape)


def _dtype(trt: ModuleType, engine: Any, name: str) -> np.dtype[Any]:
    dtype = engine.get_tensor_dtype(name)
    for known, numpy_name in _DTYPES.items():
        if dtype == getattr(trt.DataType, known):
            return np.dtype(numpy_name)
    raise ModelError(f"the tensor {name!r} has the type {dtype}, which numpy does not have.")
