"""Device memory, pinned memory, one stream and graph replay on an NVIDIA GPU, through cuda-python or pycuda.

TensorRT computes but allocates nothing for its caller, so its adapter needs these few things of CUDA and no more. Both
libraries speak to the driver below every framework, which is what lets this live inside a service that already
uses the GPU: a context that is current on the loading thread (pycuda's, torch's) is used as it is; otherwise the
device's primary context, which all frameworks share, is retained and released again. No context is ever created,
destroyed or reset here, and each use pushes the context and pops it, so the calling thread finds its own as it left it.

cuda-python comes first because it installs from wheels and can record graphs; pycuda serves where it is what there is.
"""

from __future__ import annotations

import ctypes
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import BackendUnavailableError, DeviceUnavailableError, InferenceError

__all__ = ["CudaMemory", "Recording", "open_cuda"]

_log = logging.getLogger("rtmpose_infer.backends.cuda")

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Recording:
    """Queued work that was recorded as a CUDA graph.

    Attributes:
        launch: Queues all of it at once.
        free: Frees it; it must not be running.
    """

    launch: Callable[[], None]
    free: Callable[[], None]


class CudaMemory(ABC):
    """Memory and one stream in one CUDA context.

    Everything but ``current`` must be called inside ``with memory.current():``.

    Attributes:
        library: The library behind it, ``"cuda-python"`` or ``"pycuda"``.
        index: Number of the device.
        device_name: What the driver calls it.
        compute_capability: Its architecture, such as ``(8, 6)``.
        stream: Handle of the stream that all copies use.
        record: Takes a function that queues work, and records what it queues without running it; raises an
            InferenceError for what cannot be recorded. None where the library has no graphs.
    """

    library: str
    index: int
    device_name: str
    compute_capability: tuple[int, int]
    stream: int
    record: Callable[[Callable[[], None]], Recording] | None = None

    @abstractmethod
    def current(self) -> Any:
        """Return a context manager that makes the CUDA context current on the calling thread."""

    @abstractmethod
    def empty(self, nbytes: int) -> int:
        """Return the address of new device memory."""

    @abstractmethod
    def pinned(self, nbytes: int) -> Bytes:
        """Return (nbytes,) page-locked host memory, which the device reads and writes directly."""

    @abstractmethod
    def copy_in(self, address: int, host: Bytes) -> None:
        """Queue a copy of ``host``, (nbytes,) pinned memory, to the device memory at ``address``."""

    @abstractmethod
    def copy_out(self, host: Bytes, address: int) -> None:
        """Queue a copy of the device memory at ``address`` to ``host``, (nbytes,) pinned memory."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything queued.

        Raises:
            InferenceError: Something queued failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Free all memory, recordings and the stream, and let go of the context; may be called twice."""


def open_cuda(index: int | None) -> CudaMemory:
    """Return memory on a device.

    Args:
        index: Number of the device; None: the device of the current context, or the first.

    Raises:
        BackendUnavailableError: Neither cuda-python nor pycuda is installed.
        DeviceUnavailableError: There is no driver or no such device.
    """
    with suppress(ImportError):
        from cuda.bindings import driver

        return _open(lambda: _CudaPython(driver, index))
    with suppress(ImportError):
        from pycuda import driver as pycuda_driver

        return _open(lambda: _PyCuda(pycuda_driver, index))
    raise BackendUnavailableError(
        "TensorRT needs cuda-python or pycuda for its device memory: pip install 'rtmpose-infer[tensorrt]' "
        "(or [tensorrt-pycuda])."
    )


def _open(make: Callable[[], CudaMemory]) -> CudaMemory:
    try:
        return make()
    except DeviceUnavailableError:
        raise
    except Exception as error:
        raise DeviceUnavailableError(
            f"the NVIDIA driver does not answer ({error}); `nvidia-smi` and `rtmpose doctor` say more."
        ) from error


class _CudaPython(CudaMemory):
    """Through the driver bindings of cuda-python (``cuda.bindings.driver``)."""

    library = "cuda-python"

    def __init__(self, driver: ModuleType, index: int | None) -> None:
        self._driver = driver
        self._addresses: list[Any] = []
        self._pinned: list[int] = []
        self._graphs: list[Any] = []
        self._call(driver.cuInit, 0)
        context = self._call(driver.cuCtxGetCurrent)
        held = int(self._call(driver.cuCtxGetDevice)) if int(context) else None
        self.index = index if index is not None else held or 0
        _check_index(self.index, self._call(driver.cuDeviceGetCount))
        self._device = self._call(driver.cuDeviceGet, self.index)
        name: bytes = self._call(driver.cuDeviceGetName, 256, self._device)
        self.device_name = name.split(b"\0")[0].decode()
        kinds = driver.CUdevice_attribute
        major = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        self.compute_capability = (
            self._call(driver.cuDeviceGetAttribute, major, self._device),
            self._call(driver.cuDeviceGetAttribute, minor, self._device),
        )
        self._retained = held != self.index
        self._context = self._call(driver.cuDevicePrimaryCtxRetain, self._device) if self._retained else context
        try:
            with self.current():
                self._stream = self._call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        except InferenceError:
            if self._retained:
                _quietly(self._call, driver.cuDevicePrimaryCtxRelease, self._device)
            raise
        self.stream = int(self._stream)
        self.record = self._record

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call(self._driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            self._call(self._driver.cuCtxPopCurrent)

    def empty(self, nbytes: int) -> int:
        address = self._call(self._driver.cuMemAlloc, max(nbytes, 1))
        self._addresses.append(address)
        return int(address)

    def pinned(self, nbytes: int) -> Bytes:
        address: int = self._call(self._driver.cuMemHostAlloc, max(nbytes, 1), 0)
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(int(address)))

    def copy_in(self, address: int, host: Bytes) -> None:
        self._call(self._driver.cuMemcpyHtoDAsync, address, host.ctypes.data, host.nbytes, self._stream)

    def copy_out(self, host: Bytes, address: int) -> None:
        self._call(self._driver.cuMemcpyDtoHAsync, host.ctypes.data, address, host.nbytes, self._stream)

    def synchronize(self) -> None:
        self._call(self._driver.cuStreamSynchronize, self._stream)

    def _record(self, work: Callable[[], None]) -> Recording:
        # Thread-local: what other threads of the process do with the GPU meanwhile neither joins nor breaks it.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(self._driver.cuStreamBeginCapture, self._stream, mode)
        try:
            work()
        except BaseException:
            with suppress(InferenceError):  # it is invalid by now, but must be ended for the stream to be usable
                self._call(self._driver.cuStreamEndCapture, self._stream)
            raise
        graph = self._call(self._driver.cuStreamEndCapture, self._stream)
        try:
            executable = self._call(self._driver.cuGraphInstantiate, graph, 0)
        finally:
            self._call(self._driver.cuGraphDestroy, graph)
        self._graphs.append(executable)

        def free() -> None:
            self._graphs.remove(executable)
            self._call(self._driver.cuGraphExecDestroy, executable)

        return Recording(lambda: self._call(self._driver.cuGraphLaunch, executable, self._stream), free)

    def close(self) -> None:
        if not self.stream:
            return
        self.stream = 0
        with suppress(InferenceError), self.current():
            frees = [(self._driver.cuGraphExecDestroy, graph) for graph in self._graphs]
            frees += [(self._driver.cuMemFree, address) for address in self._addresses]
            frees += [(self._driver.cuMemFreeHost, address) for address in self._pinned]
            for free, what in [(self._driver.cuStreamSynchronize, self._stream), *frees]:
                _quietly(self._call, free, what)
            _quietly(self._call, self._driver.cuStreamDestroy, self._stream)
        if self._retained:
            _quietly(self._call, self._driver.cuDevicePrimaryCtxRelease, self._device)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a driver function, which answers with an error code and its results, and return the one result."""
        code, *results = function(*args)
        if int(code):
            name = getattr(code, "name", str(code))
            raise InferenceError(f"{getattr(function, '__name__', 'CUDA')} failed with {name}.")
        return results[0] if results else None


class _PyCuda(CudaMemory):
    """Through pycuda's driver module."""

    library = "pycuda"

    def __init__(self, driver: ModuleType, index: int | None) -> None:
        self._driver = driver
        driver.init()
        context = driver.Context.get_current()
        held = _pycuda_index(driver) if context is not None else None
        self.index = index if index is not None else held or 0
        _check_index(self.index, driver.Device.count())
        device = driver.Device(self.index)
        self._context = context if held == self.index else device.retain_primary_context()
        self.device_name = device.name()
        self.compute_capability = device.compute_capability()
        self._allocations: list[Any] = []
        with self.current():
            self._stream = driver.Stream()
        self.stream = int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def empty(self, nbytes: int) -> int:
        allocation = self._mapped(self._driver.mem_alloc, max(nbytes, 1))
        self._allocations.append(allocation)
        return int(allocation)

    def pinned(self, nbytes: int) -> Bytes:
        array: Bytes = self._mapped(self._driver.pagelocked_empty, nbytes, np.uint8)
        return array

    def copy_in(self, address: int, host: Bytes) -> None:
        self._mapped(self._driver.memcpy_htod_async, address, host, self._stream)

    def copy_out(self, host: Bytes, address: int) -> None:
        self._mapped(self._driver.memcpy_dtoh_async, host, address, self._stream)

    def synchronize(self) -> None:
        self._mapped(self._stream.synchronize)

    def close(self) -> None:
        if not self.stream:
            return
        self.stream = 0
        with suppress(self._driver.Error), self.current():
            _quietly(self._stream.synchronize)
            for allocation in self._allocations:
                _quietly(allocation.free)
            self._allocations.clear()
            self._stream = None
        self._context = None  # pycuda releases a retained primary context with its last reference

    def _mapped(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except self._driver.Error as error:
            raise InferenceError(f"CUDA failed: {error}") from error


def _pycuda_index(driver: ModuleType) -> int | None:
    current = driver.Context.get_device()
    return next((i for i in range(driver.Device.count()) if driver.Device(i) == current), None)


def _check_index(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise DeviceUnavailableError(f"there is no CUDA device {index}; the driver shows {count} to this process.")


def _quietly(function: Callable[..., Any], *args: Any) -> None:
    """Call what frees something: after a lost device nothing can be freed, and nothing has to be."""
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001  # whatever it is, the rest must be freed too
        _log.debug("while closing: %s", error)
