"""A GPU that is not there, as strict as the driver: contexts, bounded memory, streams that run nothing unasked.

``FakeGpu`` is the machine; ``cuda_python`` and ``pycuda`` give it the faces of the two libraries, with exactly the
functions that the package uses. Work that is queued on a stream happens only when the stream is synchronised, so code
that forgets to wait reads stale memory here as it would there.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Work = Callable[[], None]


class FaultError(Exception):
    """What the driver answers with an error code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(eq=False)
class Context:
    device: int
    primary: bool


@dataclass(eq=False)
class Stream:
    context: Context
    handle: int
    queue: list[Work] = field(default_factory=list)
    capture: list[Work] | None = None
    invalid: bool = False


class FakeGpu:
    """Attributes that tests look at: ``allocations`` and ``pinned`` (what is not freed), ``retained`` (references to
    the primary contexts), ``recordings`` (live graphs), ``launches``, ``resets`` (must stay 0), ``lost`` (set it to
    break every further call).
    """

    def __init__(self, count: int = 1) -> None:
        self.names = [f"Fake GPU {i}" for i in range(count)]
        self.primary = [Context(i, primary=True) for i in range(count)]
        self.retained = [0] * count
        self.allocations: dict[int, tuple[Context, bytearray]] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.recordings: list[list[Work]] = []
        self.launches = 0
        self.initialised = False
        self.lost = False
        self.memory_limit = 2**33
        self._numbers = itertools.count(1)
        self._local = threading.local()

    @property
    def stack(self) -> list[Context]:
        """The contexts of the calling thread."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack

    def current(self) -> Context:
        if not self.initialised:
            raise FaultError("CUDA_ERROR_NOT_INITIALIZED")
        if self.lost:
            raise FaultError("CUDA_ERROR_DEVICE_UNAVAILABLE")
        if not self.stack:
            raise FaultError("CUDA_ERROR_INVALID_CONTEXT")
        context = self.stack[-1]
        if context.primary and not self.retained[context.device]:
            raise FaultError("CUDA_ERROR_CONTEXT_IS_DESTROYED")
        return context

    def allocate(self, nbytes: int) -> int:
        context = self.current()
        if nbytes <= 0:
            raise FaultError("CUDA_ERROR_INVALID_VALUE")
        if nbytes + sum(len(data) for _, data in self.allocations.values()) > self.memory_limit:
            raise FaultError("CUDA_ERROR_OUT_OF_MEMORY")
        address = 0x7000_0000_0000 + next(self._numbers) * 2**32
        self.allocations[address] = context, bytearray(np.random.default_rng(0).bytes(nbytes))
        return address

    def free(self, address: int) -> None:
        self.current()
        if self.allocations.pop(address, None) is None:
            raise FaultError("CUDA_ERROR_INVALID_VALUE")

    def view(self, address: int, nbytes: int) -> memoryview:
        """The bytes of device memory; a fault where they are not all in one allocation."""
        for start, (_, data) in self.allocations.items():
            if start <= address and address + nbytes <= start + len(data):
                return memoryview(data)[address - start : address - start + nbytes]
        raise FaultError("CUDA_ERROR_ILLEGAL_ADDRESS")

    def host(self, address: int, nbytes: int) -> memoryview:
        for start, buffer in self.pinned.items():
            if start <= address and address + nbytes <= start + ctypes.sizeof(buffer):
                return memoryview((ctypes.c_uint8 * nbytes).from_address(address)).cast("B")
        raise FaultError("CUDA_ERROR_INVALID_VALUE")  # copies from pageable memory would not be asynchronous

    def pin(self, nbytes: int) -> int:
        self.current()
        buffer = (ctypes.c_uint8 * nbytes)()
        self.pinned[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def stream(self, handle: int) -> Stream:
        context = self.current()
        stream = self.streams.get(handle)
        if stream is None or stream.context is not context:
            raise FaultError("CUDA_ERROR_INVALID_HANDLE")
        return stream

    def new_stream(self) -> int:
        handle = 0x5000 + next(self._numbers)
        self.streams[handle] = Stream(self.current(), handle)
        return handle

    def enqueue(self, handle: int, work: Work) -> None:
        stream = self.stream(handle)
        (stream.queue if stream.capture is None else stream.capture).append(work)

    def copy_in(self, device: int, host: int, nbytes: int, handle: int) -> None:
        source, target = self.host(host, nbytes), self.view(device, nbytes)
        self.enqueue(handle, lambda: _assign(target, source))

    def copy_out(self, host: int, device: int, nbytes: int, handle: int) -> None:
        target, source = self.host(host, nbytes), self.view(device, nbytes)
        self.enqueue(handle, lambda: _assign(target, source))

    def synchronize(self, handle: int) -> None:
        stream = self.stream(handle)
        if stream.capture is not None:
            stream.invalid = True
            raise FaultError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        queue, stream.queue = stream.queue, []
        for work in queue:
            work()

    def begin_capture(self, handle: int) -> None:
        stream = self.stream(handle)
        if stream.capture is not None:
            raise FaultError("CUDA_ERROR_ILLEGAL_STATE")
        stream.capture, stream.invalid = [], False

    def end_capture(self, handle: int) -> list[Work]:
        stream = self.stream(handle)
        if stream.capture is None:
            raise FaultError("CUDA_ERROR_ILLEGAL_STATE")
        captured, stream.capture = stream.capture, None
        if stream.invalid:
            raise FaultError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        return captured

    def launch(self, recording: list[Work], handle: int) -> None:
        if recording not in self.recordings:
            raise FaultError("CUDA_ERROR_INVALID_HANDLE")
        self.launches += 1
        for work in recording:
            self.enqueue(handle, work)

    @property
    def leaks(self) -> list[object]:
        """Everything that is not freed."""
        return [*self.allocations, *self.pinned, *self.streams, *self.recordings, *(r for r in self.retained if r)]


def _assign(target: memoryview, source: memoryview) -> None:
    target[:] = source


class _Handle:
    """An opaque handle of cuda-python: only ``int`` looks into it."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


def cuda_python(gpu: FakeGpu) -> ModuleType:
    """Return ``cuda.bindings.driver`` as far as the package uses it."""
    module = ModuleType("cuda.bindings.driver")
    codes: dict[str, int] = {"CUDA_SUCCESS": 0}
    contexts: dict[int, Context] = {}
    graphs: dict[int, list[Work]] = {}
    numbers = itertools.count(1)

    class CUresult(int):
        name: str

    def result(name: str) -> CUresult:
        code = CUresult(codes.setdefault(name, len(codes)))
        code.name = name
        return code

    def exported(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> tuple[Any, ...]:
            try:
                answer = function(*args)
            except FaultError as fault:
                return (result(fault.code), None)
            if answer is None:
                return (result("CUDA_SUCCESS"),)
            return (result("CUDA_SUCCESS"), answer)

        call.__name__ = function.__name__
        call.__wrapped__ = function  # type: ignore[attr-defined]
        setattr(module, function.__name__, call)
        return call

    class CUdevice_attribute(enum.IntEnum):  # noqa: N801
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76

    class CUstream_flags(enum.IntEnum):  # noqa: N801
        CU_STREAM_NON_BLOCKING = 1

    class CUstreamCaptureMode(enum.IntEnum):
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    module.CUdevice_attribute = CUdevice_attribute  # type: ignore[attr-defined]
    module.CUstream_flags = CUstream_flags  # type: ignore[attr-defined]
    module.CUstreamCaptureMode = CUstreamCaptureMode  # type: ignore[attr-defined]

    def handle_of(context: Context) -> _Handle:
        for number, known in contexts.items():
            if known is context:
                return _Handle(number)
        number = next(numbers)
        contexts[number] = context
        return _Handle(number)

    @exported
    def cuInit(Flags: int) -> None:  # noqa: N802, N803
        if not gpu.names:
            raise FaultError("CUDA_ERROR_NO_DEVICE")
        gpu.initialised = True

    @exported
    def cuDeviceGetCount() -> int:  # noqa: N802
        return len(gpu.names)

    @exported
    def cuDeviceGet(ordinal: int) -> _Handle:  # noqa: N802
        return _Handle(ordinal)

    @exported
    def cuDeviceGetName(length: int, dev: _Handle) -> bytes:  # noqa: N802
        return gpu.names[int(dev)].encode()[:length].ljust(length, b"\0")

    @exported
    def cuDeviceGetAttribute(attrib: CUdevice_attribute, dev: _Handle) -> int:  # noqa: N802
        return {75: 8, 76: 6}[attrib]

    @exported
    def cuCtxGetCurrent() -> _Handle:  # noqa: N802
        return handle_of(gpu.stack[-1]) if gpu.stack else _Handle(0)

    @exported
    def cuCtxGetDevice() -> _Handle:  # noqa: N802
        return _Handle(gpu.current().device)

    @exported
    def cuCtxPushCurrent(ctx: _Handle) -> None:  # noqa: N802
        gpu.stack.append(contexts[int(ctx)])

    @exported
    def cuCtxPopCurrent() -> _Handle:  # noqa: N802
        if not gpu.stack:
            raise FaultError("CUDA_ERROR_INVALID_CONTEXT")
        return handle_of(gpu.stack.pop())

    @exported
    def cuDevicePrimaryCtxRetain(dev: _Handle) -> _Handle:  # noqa: N802
        gpu.retained[int(dev)] += 1
        return handle_of(gpu.primary[int(dev)])

    @exported
    def cuDevicePrimaryCtxRelease(dev: _Handle) -> None:  # noqa: N802
        gpu.retained[int(dev)] -= 1

    @exported
    def cuMemAlloc(bytesize: int) -> _Handle:  # noqa: N802
        return _Handle(gpu.allocate(bytesize))

    @exported
    def cuMemFree(dptr: _Handle) -> None:  # noqa: N802
        gpu.free(int(dptr))

    @exported
    def cuMemHostAlloc(bytesize: int, Flags: int) -> int:  # noqa: N802, N803
        return gpu.pin(bytesize)

    @exported
    def cuMemFreeHost(p: int) -> None:  # noqa: N802
        gpu.current()
        if gpu.pinned.pop(p, None) is None:
            raise FaultError("CUDA_ERROR_INVALID_VALUE")

    @exported
    def cuMemcpyHtoDAsync(dstDevice: int, srcHost: int, ByteCount: int, hStream: _Handle) -> None:  # noqa: N802, N803
        gpu.copy_in(int(dstDevice), srcHost, ByteCount, int(hStream))

    @exported
    def cuMemcpyDtoHAsync(dstHost: int, srcDevice: int, ByteCount: int, hStream: _Handle) -> None:  # noqa: N802, N803
        gpu.copy_out(dstHost, int(srcDevice), ByteCount, int(hStream))

    @exported
    def cuStreamCreate(Flags: CUstream_flags) -> _Handle:  # noqa: N802, N803
        return _Handle(gpu.new_stream())

    @exported
    def cuStreamDestroy(hStream: _Handle) -> None:  # noqa: N802, N803
        del gpu.streams[gpu.stream(int(hStream)).handle]

    @exported
    def cuStreamSynchronize(hStream: _Handle) -> None:  # noqa: N802, N803
        gpu.synchronize(int(hStream))

    @exported
    def cuStreamBeginCapture(hStream: _Handle, mode: CUstreamCaptureMode) -> None:  # noqa: N802, N803
        gpu.begin_capture(int(hStream))

    @exported
    def cuStreamEndCapture(hStream: _Handle) -> _Handle:  # noqa: N802, N803
        number = next(numbers)
        graphs[number] = gpu.end_capture(int(hStream))
        return _Handle(number)

    @exported
    def cuGraphInstantiate(hGraph: _Handle, flags: int) -> _Handle:  # noqa: N802, N803
        recording = list(graphs[int(hGraph)])
        gpu.recordings.append(recording)
        number = next(numbers)
        graphs[number] = recording
        return _Handle(number)

    @exported
    def cuGraphLaunch(hGraphExec: _Handle, hStream: _Handle) -> None:  # noqa: N802, N803
        gpu.launch(graphs[int(hGraphExec)], int(hStream))

    @exported
    def cuGraphExecDestroy(hGraphExec: _Handle) -> None:  # noqa: N802, N803
        gpu.current()
        gpu.recordings.remove(graphs.pop(int(hGraphExec)))

    @exported
    def cuGraphDestroy(hGraph: _Handle) -> None:  # noqa: N802, N803
        del graphs[int(hGraph)]

    return module


def pycuda(gpu: FakeGpu) -> ModuleType:
    """Return ``pycuda.driver`` as far as the package uses it."""
    module = ModuleType("pycuda.driver")
    local = threading.local()

    class Error(Exception):
        pass

    def mapped(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except FaultError as fault:
            raise Error(f"{function.__name__} failed: {fault.code}") from fault

    def own_stack() -> list[PyContext]:
        if not hasattr(local, "stack"):
            local.stack = []
        return local.stack

    class PyContext:
        """Knows, like pycuda, only the contexts that were pushed through it."""

        def __init__(self, context: Context, *, retained: bool) -> None:
            self.context = context
            self.retained = retained

        def __del__(self) -> None:
            if self.retained:
                gpu.retained[self.context.device] -= 1

        def push(self) -> None:
            own_stack().append(self)
            gpu.stack.append(self.context)

        @staticmethod
        def pop() -> None:
            own_stack().pop()
            gpu.stack.pop()

        @staticmethod
        def get_current() -> PyContext | None:
            return own_stack()[-1] if own_stack() else None

        @staticmethod
        def get_device() -> Device:
            return Device(mapped(gpu.current).device)

    class Device:
        def __init__(self, number: int) -> None:
            self.number = number

        @staticmethod
        def count() -> int:
            return len(gpu.names)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Device) and other.number == self.number

        def __hash__(self) -> int:
            return self.number

        def name(self) -> str:
            return gpu.names[self.number]

        def compute_capability(self) -> tuple[int, int]:
            return 8, 6

        def retain_primary_context(self) -> PyContext:
            gpu.retained[self.number] += 1
            return PyContext(gpu.primary[self.number], retained=True)

    class DeviceAllocation:
        def __init__(self, address: int) -> None:
            self.address = address

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            mapped(gpu.free, self.address)

    class PyStream:
        def __init__(self) -> None:
            self.handle = mapped(gpu.new_stream)

        def __del__(self) -> None:
            gpu.streams.pop(self.handle, None)

        def synchronize(self) -> None:
            mapped(gpu.synchronize, self.handle)

    def init() -> None:
        if not gpu.names:
            raise Error("cuInit failed: no CUDA-capable device is detected")
        gpu.initialised = True

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        return DeviceAllocation(mapped(gpu.allocate, nbytes))

    def pagelocked_empty(shape: int, dtype: type) -> np.ndarray:
        address = mapped(gpu.pin, shape * np.dtype(dtype).itemsize)
        array = np.ctypeslib.as_array(gpu.pinned[address]).view(dtype)
        weakref.finalize(array, gpu.pinned.pop, address, None)
        return array

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: PyStream) -> None:
        mapped(gpu.copy_in, int(dest), src.ctypes.data, src.nbytes, stream.handle)

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: PyStream) -> None:
        mapped(gpu.copy_out, dest.ctypes.data, int(src), dest.nbytes, stream.handle)

    for value in (init, mem_alloc, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async, Device, Error):
        setattr(module, value.__name__, value)
    module.Context = PyContext  # type: ignore[attr-defined]
    module.Stream = PyStream  # type: ignore[attr-defined]
    return module


def modules(gpu: FakeGpu, library: str) -> dict[str, ModuleType | None]:
    """Return what to put into ``sys.modules`` for one of the libraries; None hides the other."""
    packages: dict[str, Any] = {"cuda": None, "cuda.bindings": None, "pycuda": None}
    if library == "cuda-python":
        package = SimpleNamespace(driver=cuda_python(gpu))
        packages |= {"cuda": SimpleNamespace(bindings=package), "cuda.bindings": package}
    elif library == "pycuda":
        packages["pycuda"] = SimpleNamespace(driver=pycuda(gpu))
    return packages
