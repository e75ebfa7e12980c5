"""TensorRT without TensorRT: the part of its Python API that the adapter uses, as strict as the real one.

The names and parameters are those of the compiled bindings of 10.16 and 11.4 (a test holds them against both). What is
not here does not exist, so an adapter that reached for the FP16 flag or implicit batches would fail as it does in 11.
Like the real one it answers a mistake with False or None and a message to the logger: shapes outside of the profile, a
tensor without an address, a profile that another context uses, a network that was not made strongly typed, an engine of
another version or device. The computing is ONNX Runtime's, at the moment when the stream gets to it.
"""

from __future__ import annotations

import base64
import enum
import functools
import hashlib
import inspect
import json
import weakref
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tests.fake_cuda import FakeGpu, FaultError

_MAGIC = b"TRTPLAN "
_SIZED_BY_DATA = {"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "If"}
_TYPES = {"FLOAT": 1, "HALF": 10, "INT8": 3, "INT32": 6, "INT64": 7, "BOOL": 9, "UINT8": 2, "BF16": 16}


USED: set[str] = set()


def _surface(known: type) -> type:
    """Note in ``USED`` which of a class's public methods and properties are used."""
    for name, member in list(vars(known).items()):
        label = f"{known.__name__}.{name}"
        if isinstance(member, property):
            setattr(known, name, property(*(_noting(f, label) for f in (member.fget, member.fset))))
        elif inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
            setattr(known, name, _noting(member, label))
    return known


def _noting(function: Callable[..., Any] | None, label: str) -> Callable[..., Any] | None:
    if function is None:
        return None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        USED.add(label)
        return function(*args, **kwargs)

    return call


class Dims(tuple):
    """Sizes; -1 for one that is not known."""


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class BuilderFlag(enum.IntEnum):
    TF32 = 7


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


DataType = enum.IntEnum("DataType", {name: i for i, name in enumerate(_TYPES)})


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


@_surface
class IOutputAllocator:
    def __init__(self) -> None:
        pass


class IHostMemory(bytes):
    """Bytes that belong to TensorRT."""


@_surface
class ITensor:
    def __init__(self, name: str, shape: Dims) -> None:
        self._name, self._shape = name, shape

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> Dims:
        return self._shape


@_surface
class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model: onnx.ModelProto | None = None

    @property
    def num_inputs(self) -> int:
        return len(_graph_inputs(self._model)) if self._model else 0

    def get_input(self, index: int) -> ITensor:
        value = _graph_inputs(self._model)[index]
        return ITensor(value.name, _onnx_shape(value))


@_surface
class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError(f"Shape provided for {input} is inconsistent: {min}, {opt}, {max}")
        self._shapes[input] = Dims(min), Dims(opt), Dims(max)


@_surface
class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content)


@_surface
class IBuilderConfig:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._profiles: list[IOptimizationProfile] = []
        self._timings: ITimingCache | None = None
        self._settings: dict[str, Any] = {"TF32": True}

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._settings[pool.name] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._settings[flag.name] = False

    @property
    def builder_optimization_level(self) -> int:
        return self._settings.get("level", 3)

    @builder_optimization_level.setter
    def builder_optimization_level(self, level: int) -> None:
        self._settings["level"] = level

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if not profile._shapes:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings "):
            self._machine.error("not a timing cache")
            return None
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        mine = f"timings {self._machine.version}".encode()
        if cache._content and not cache._content.startswith(mine) and not ignore_mismatch:
            self._machine.error("the timing cache is of another version")
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        assert self._timings is not None
        return self._timings


class Machine:
    """What all objects of one fake share; tests look at ``builds``, ``settings`` and ``timings``."""

    def __init__(self, version: str, gpu: FakeGpu) -> None:
        self.version = version
        self.gpu = gpu
        self.logger: ILogger | None = None
        self.builds = 0
        self.settings: list[dict[str, Any]] = []
        self.timings: list[bytes] = []
        self.plugins = False

    def take(self, logger: ILogger) -> None:
        if not isinstance(logger, ILogger):
            raise TypeError("incompatible function arguments: a logger is needed")
        self.logger = self.logger or logger

    def error(self, text: str) -> None:
        assert self.logger is not None
        self.logger.log(ILogger.ERROR, text)

    def context_here(self) -> bool:
        """The driver needs a context on the calling thread for anything that touches the device."""
        try:
            self.gpu.current()
        except FaultError as fault:
            self.error(f"Cuda failure: {fault.code}")
            return False
        return True


@_surface
class ParserError:
    def __init__(self, text: str, name: str, operator: str) -> None:
        self._text, self._name, self._operator = text, name, operator

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


def _graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {weight.name for weight in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _onnx_shape(value: onnx.ValueInfoProto) -> Dims:
    return Dims(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)


class Plan:
    """What an engine consists of."""

    def __init__(self, content: bytes) -> None:
        data = json.loads(content)
        self.version, self.device = data["version"], data["device"]
        self.onnx = base64.b64decode(data["onnx"])
        self.model = onnx.load_from_string(self.onnx)
        self.profiles = [
            {name: tuple(Dims(shape) for shape in shapes) for name, shapes in profile.items()}
            for profile in data["profiles"]
        ]
        self.inputs = {value.name: value for value in _graph_inputs(self.model)}
        self.outputs = {value.name: value for value in self.model.graph.output}

    def dtype(self, name: str) -> np.dtype[Any]:
        value = self.inputs.get(name) or self.outputs[name]
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))

    @functools.cached_property
    def session(self) -> ort.InferenceSession:
        return ort.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])

    def output_shape(self, name: str, shapes: dict[str, Dims]) -> Dims:
        """The shape that follows from the shapes of the inputs; -1 where it depends on the data."""
        return self._output_shapes(tuple(sorted(shapes.items())))[name]

    @functools.lru_cache(maxsize=64)  # noqa: B019  # plans live as long as the tests
    def _output_shapes(self, shapes: tuple[tuple[str, Dims], ...]) -> dict[str, Dims]:
        feeds = {name: np.zeros(shape, self.dtype(name)) for name, shape in shapes}
        answers = zip(self.outputs, self.session.run(list(self.outputs), feeds), strict=True)
        return {
            name: Dims([-1] * answer.ndim) if name in self.data_dependent else Dims(answer.shape)
            for name, answer in answers
        }

    @functools.cached_property
    def data_dependent(self) -> set[str]:
        """The outputs that come, by whatever way, from an operator whose output size depends on the data."""
        sized: set[str] = set()
        for node in self.model.graph.node:  # sorted, as the format demands
            if node.op_type in _SIZED_BY_DATA or sized.intersection(node.input):
                sized.update(node.output)
        return sized.intersection(self.outputs)


@_surface
class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._plan, self._machine = engine, engine._plan, engine._machine
        self._profile = 0 if len(self._plan.profiles) <= 1 else -1
        self._shapes: dict[str, Dims] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, IOutputAllocator] = {}
        self._shape_version = self._settled_version = 0
        engine._contexts.add(self)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._machine.gpu.stream(stream_handle)
        if not 0 <= profile_index < len(self._plan.profiles):
            return self._refuse(f"there is no profile {profile_index}")
        if any(other is not self and other._profile == profile_index for other in self._engine._contexts):
            return self._refuse(f"profile {profile_index} is in use by another context")
        self._profile, self._shapes = profile_index, {}
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if name not in self._plan.inputs:
            return self._refuse(f"{name} is not an input")
        if self._profile < 0:
            return self._refuse("no optimization profile is set")
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(low) or not all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
            return self._refuse(f"{name}: the shape {tuple(shape)} is not in the range {tuple(low)} to {tuple(high)}")
        self._shapes[name] = Dims(shape)
        self._shape_version += 1
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._plan.inputs:
            return self._shapes.get(name) or self._engine.get_tensor_shape(name)
        shapes = self._input_shapes()
        if shapes is None:
            return self._engine.get_tensor_shape(name)
        return self._plan.output_shape(name, shapes)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not isinstance(memory, int):
            raise TypeError("incompatible function arguments: memory must be an int")
        if name not in self._plan.inputs and name not in self._plan.outputs:
            return self._refuse(f"there is no tensor {name}")
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator) -> bool:
        if name not in self._plan.outputs or not isinstance(output_allocator, IOutputAllocator):
            return self._refuse(f"{name} takes no allocator")
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._machine.context_here():
            return False
        stream = self._machine.gpu.stream(stream_handle)
        shapes = self._input_shapes()
        if shapes is None:
            return self._refuse("not all shapes of the inputs are specified")
        for name in [*self._plan.inputs, *self._plan.outputs]:
            if name not in self._addresses and name not in self._allocators:
                return self._refuse(f"no address or allocator is set for {name}")
        dependent = [n for n in self._plan.outputs if min(self._plan.output_shape(n, shapes), default=0) < 0]
        if any(name not in self._allocators for name in dependent):
            return self._refuse(f"{dependent} need an output allocator")
        if stream.capture is not None and (dependent or self._shape_version != self._settled_version):
            stream.invalid = True
            return self._refuse("this cannot be captured")
        self._settled_version = self._shape_version
        work = functools.partial(self._compute, shapes, dict(self._addresses), self._shape_version)
        if dependent:  # TensorRT waits for the sizes itself
            try:
                self._machine.gpu.synchronize(stream_handle)
                work()
            except FaultError as fault:
                return self._refuse(f"Cuda failure: {fault.code}")
        else:
            self._machine.gpu.enqueue(stream_handle, work)
        return True

    def _compute(self, shapes: dict[str, Dims], addresses: dict[str, int], version: int) -> None:
        if version != self._shape_version:
            raise FaultError("CUDA_ERROR_ILLEGAL_ADDRESS")  # a recording of shapes that are no longer set
        gpu, feeds = self._machine.gpu, {}
        for name, shape in shapes.items():
            dtype = self._plan.dtype(name)
            nbytes = int(np.prod(shape)) * dtype.itemsize
            feeds[name] = np.frombuffer(bytes(gpu.view(addresses[name], nbytes)), dtype).reshape(shape)
        answers = self._plan.session.run(list(self._plan.outputs), feeds)
        for name, answer in zip(self._plan.outputs, answers, strict=True):
            data = np.ascontiguousarray(answer).tobytes()
            address = addresses.get(name, 0)
            if name in self._allocators:
                address = self._allocators[name].reallocate_output_async(name, address, len(data), 256, 0)
                if not address:
                    raise FaultError("CUDA_ERROR_OUT_OF_MEMORY")
                self._allocators[name].notify_shape(name, Dims(answer.shape))
            if data:
                gpu.view(address, len(data))[:] = data

    def _input_shapes(self) -> dict[str, Dims] | None:
        shapes = {name: self._shapes.get(name) or self._engine.get_tensor_shape(name) for name in self._plan.inputs}
        return None if any(min(shape, default=0) < 0 for shape in shapes.values()) else shapes

    def _refuse(self, text: str) -> bool:
        self._machine.error(text)
        return False


@_surface
class ICudaEngine:
    def __init__(self, plan: Plan, machine: Machine) -> None:
        self._plan, self._machine = plan, machine
        self._names = [*plan.inputs, *plan.outputs]
        self._contexts: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan.profiles))

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name in self._plan.inputs:
            return TensorIOMode.INPUT
        return TensorIOMode.OUTPUT if name in self._plan.outputs else TensorIOMode.NONE

    def get_tensor_dtype(self, name: str) -> Any:
        value = self._plan.inputs.get(name) or self._plan.outputs[name]
        return next(DataType[k] for k, code in _TYPES.items() if code == value.type.tensor_type.elem_type)

    def get_tensor_shape(self, name: str) -> Dims:
        return _onnx_shape(self._plan.inputs.get(name) or self._plan.outputs[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        shape = self.get_tensor_shape(name)
        return list(self._plan.profiles[profile_index][name]) if min(shape, default=0) < 0 else [shape] * 3

    def create_execution_context(self) -> IExecutionContext | None:
        return IExecutionContext(self) if self._machine.context_here() else None


@_surface
class Builder:
    _machine: Machine

    def __init__(self, logger: ILogger) -> None:
        self._machine.take(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._machine)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        machine = self._machine
        problem = _problem(network, config)
        if problem:
            machine.error(problem)
            return None
        if not machine.context_here():
            return None
        machine.builds += 1
        machine.settings.append(config._settings)
        if config._timings is not None:
            machine.timings.append(config._timings._content)
            config._timings._content = f"timings {machine.version} {machine.builds}".encode()
        content = json.dumps(
            {
                "version": machine.version,
                "device": machine.gpu.names[machine.gpu.current().device],
                "profiles": [profile._shapes for profile in config._profiles],
                "onnx": base64.b64encode(network._model.SerializeToString()).decode(),
            }
        ).encode()
        return IHostMemory(_MAGIC + hashlib.sha256(content).hexdigest().encode() + content)


@_surface
class OnnxParser:
    _machine: Machine

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._machine.take(logger)
        self._network = network
        self._errors: list[ParserError] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            parsed = onnx.load_from_string(bytes(model))
            if path is not None:
                onnx.load_external_data_for_model(parsed, str(Path(path).parent))
            onnx.checker.check_model(parsed)
        except Exception as error:
            self._errors.append(ParserError(f"Failed to parse the model: {error}", "", ""))
            return False
        for value in [*_graph_inputs(parsed), *parsed.graph.output]:
            if value.type.tensor_type.elem_type not in _TYPES.values():
                text = f"Unsupported data type of {value.name}"
                self._errors.append(ParserError(text, value.name, "Input"))
        self._errors += [
            ParserError("Unsupported operator", node.name, node.op_type)
            for node in parsed.graph.node
            if node.domain not in {"", "ai.onnx"}
        ]
        bytes_in = {v.name for v in _graph_inputs(parsed) if v.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
        self._errors += [
            ParserError("UINT8 inputs must directly feed into a cast", node.name, node.op_type)
            for node in parsed.graph.node
            if node.op_type != "Cast" and bytes_in & set(node.input)
        ]
        self._network._model = parsed
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


@_surface
class Runtime:
    _machine: Machine

    def __init__(self, logger: ILogger) -> None:
        self._machine.take(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        machine = self._machine
        data = bytes(serialized_engine)
        digest, content = data[len(_MAGIC) : len(_MAGIC) + 64], data[len(_MAGIC) + 64 :]
        if not machine.context_here():
            return None
        if not data.startswith(_MAGIC) or hashlib.sha256(content).hexdigest().encode() != digest:
            machine.error("Serialization assertion magicTag failed")
            return None
        plan = Plan(content)
        if plan.version != machine.version or plan.device != machine.gpu.names[machine.gpu.current().device]:
            machine.error("The engine plan file is of another version or device")
            return None
        return ICudaEngine(plan, machine)


SURFACE: tuple[type, ...] = (
    Builder,
    BuilderFlag,
    DataType,
    IBuilderConfig,
    ICudaEngine,
    IExecutionContext,
    ILogger,
    INetworkDefinition,
    IOptimizationProfile,
    IOutputAllocator,
    ITensor,
    ITimingCache,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParser,
    ParserError,
    Runtime,
    TensorIOMode,
)


def fake_tensorrt(version: str, gpu: FakeGpu) -> ModuleType:
    """Return the module ``tensorrt`` in that version, on that GPU; its ``machine`` is for tests."""
    machine = Machine(version, gpu)

    def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
        machine.take(logger)
        machine.plugins = True
        return True

    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)
    module.__version__ = version  # type: ignore[attr-defined]
    module.machine = machine  # type: ignore[attr-defined]
    module.init_libnvinfer_plugins = init_libnvinfer_plugins  # type: ignore[attr-defined]
    for known in SURFACE:
        bound = {"_machine": machine} if "_machine" in getattr(known, "__annotations__", {}) else None
        setattr(module, known.__name__, type(known.__name__, (known,), bound) if bound else known)
    return module


def _problem(network: INetworkDefinition, config: IBuilderConfig) -> str:
    if not network._flags >> int(NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1:
        return "the network is not strongly typed"
    if network._model is None:
        return "the network is empty"
    if config._timings is None:
        return "no timing cache is set"
    dynamic = {v.name: _onnx_shape(v) for v in _graph_inputs(network._model) if min(_onnx_shape(v), default=0) < 0}
    if dynamic and not config._profiles:
        return "the network has dynamic inputs, but no optimization profile has been defined"
    for profile in config._profiles:
        for name, shape in dynamic.items():
            shapes = profile._shapes.get(name)
            if shapes is None:
                return f"the profile has no shapes for {name}"
            if any(
                len(s) != len(shape) or any(w not in {-1, h} for w, h in zip(shape, s, strict=True)) for s in shapes
            ):
                return f"the profile does not fit the static dimensions of {name}"
    return ""
