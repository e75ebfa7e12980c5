"""ONNX Runtime: CPU, CUDA, TensorRT, OpenVINO, DirectML, CoreML and XNNPACK execution providers.

Decisions:

- A provider that was asked for and did not come up is an error with its reason. Left alone, ONNX Runtime falls back to
  the CPU, when it loads a model and again when a call fails, and says so on standard output; that is switched off.
- Threads spin for 50 µs before they sleep: long enough to bridge the gaps between the operators of one call, too short
  to take the cores from the other network, or the host's work, after it. Without any spinning a call of RTMPose-s and
  one of RTMDet-nano took 1.2 times as long on two idle cores; left to itself ONNX Runtime spins for milliseconds, and
  that took 1.2 times as long too, and six times on busy cores (``benchmarks/runtime_settings.py``). Before release 1.26
  the time cannot be set, and threads do not spin.
- The CPU's memory arena stays on. It grows to what the largest batch needs and stays there (see
  ``benchmarks/memory_growth.py``); without it, or shrunk after each call, memory settled little lower and calls cost
  up to a fifth more. On CUDA it grows by what is asked for instead of by doubling, and batches come in prepared sizes,
  since each new shape costs a search for algorithms.
- The optimised graph is kept in the cache folder, which makes loading two to three times as fast.
- TensorRT's provider builds its engines in every process. It can keep them (``trt_engine_cache_enable`` and
  ``trt_engine_cache_path`` among the provider's options), but tells them apart by the model's names and not its weights,
  and does not start on a damaged one; so that is for the user to decide. ``backend="tensorrt"`` keeps its own.

On hardware, only the CPU provider and, on a CPU, OpenVINO's have been run. What is specific to CUDA (its options,
graphs) follows the documentation; the path that graphs take, with bound inputs and outputs, runs on the CPU too and is
tested there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import platform
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.backends.base import Arrays, Backend, BackendConfig, BackendInfo, TensorSpec, run_in_sizes
from rtmpose_infer.backends.engine_cache import EngineCache, model_digest
from rtmpose_infer.errors import BackendUnavailableError, DeviceUnavailableError, InputError, ModelError
from rtmpose_infer.onnx_file import external_data_locations

if TYPE_CHECKING:
    from types import ModuleType

    from rtmpose_infer.model_spec import ModelFile

__all__ = ["OnnxRuntimeBackend", "load"]

_log = logging.getLogger("rtmpose_infer.backends.onnxruntime")

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_DIRECTML = "DmlExecutionProvider"
_PROVIDERS = {
    "cpu": _CPU,
    "cuda": _CUDA,
    "tensorrt": _TENSORRT,
    "trt": _TENSORRT,
    "openvino": "OpenVINOExecutionProvider",
    "directml": _DIRECTML,
    "dml": _DIRECTML,
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
_UNNUMBERED = {_CPU, *(_PROVIDERS[name] for name in ("openvino", "coreml", "xnnpack"))}
_GPUS = (_CUDA, _DIRECTML)  # what ``gpu`` means, by preference
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_SPIN_US = 50
_TIMED_SPINNING = (1, 26)
_OPTIONS = {"provider_options", "session_config", "graph_optimization_level", "io_binding", "cuda_graphs", "cache"}
_OF_THE_DEVICE = {"provider_options", "cuda_graphs"}  # options that mean nothing to the CPU that takes its place


def load(model: ModelFile, config: BackendConfig) -> OnnxRuntimeBackend:
    """Load a model into ONNX Runtime.

    ``config.device``: ``auto`` (a GPU where this build has a provider for one and it comes up, else the CPU), ``cpu``,
    ``gpu`` (CUDA or DirectML, whichever the build has), ``cuda`` (``cuda:1`` for the second), ``tensorrt``,
    ``openvino``, ``directml``, ``coreml``, ``xnnpack``, or a provider's full name.
    ``config.options``: ``provider_options`` (mapping for the provider, such as ``{"device_type": "GPU"}`` for
    ``openvino``), ``session_config`` (mapping of session configuration entries), ``graph_optimization_level``
    (``"disable"``, ``"basic"``, ``"extended"``, ``"all"``), ``io_binding`` (keep inputs and outputs in memory of the
    device; CPU and CUDA), ``cuda_graphs`` (replay each batch size as one launch; CUDA, networks without NMS), ``cache``
    (True: keep the optimised graph in the cache folder; CPU).

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        DeviceUnavailableError: The provider is not in this build, or did not come up.
        ModelError: ONNX Runtime cannot load the model.
        InputError: An option or device is unknown.
    """
    config.check_options("onnxruntime", _OPTIONS)
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not installed: pip install 'rtmpose-infer[cpu]' (or [gpu] for CUDA)."
        ) from error
    ort.disable_telemetry_events()  # the Windows builds send some
    provider, index = _provider(config.device, ort.get_available_providers())
    try:
        session = _Loader(ort, model, config, provider, index).session()
    except DeviceUnavailableError as error:
        if not config.allow_fallback and config.device.lower() != "auto":
            raise
        _log.warning("%s Going on with the CPU.", error)
        provider, index = _CPU, None
        options = {name: value for name, value in config.options.items() if name not in _OF_THE_DEVICE}
        config = dataclasses.replace(config, options=options)
        session = _Loader(ort, model, config, _CPU, None).session()
    bound = bool(config.options.get("io_binding")) or bool(config.options.get("cuda_graphs"))
    return OnnxRuntimeBackend(
        ort,
        session,
        threads=config.threads,
        precision=model.spec.precision,
        batch_sizes=config.batch_sizes if bound or provider in {_CUDA, _TENSORRT} else None,
        bound=bound,
        device=("cuda" if provider == _CUDA else "cpu", index or 0),
        cuda_graphs=bool(config.options.get("cuda_graphs")),
    )


class OnnxRuntimeBackend(Backend):
    """A session of ONNX Runtime; its ``Run`` is safe from several threads, but with DirectML, where calls take turns.

    Bound calls take turns too.

    Args:
        ort: The module.
        session: The loaded model.
        threads: What was asked for.
        precision: What the model's spec says.
        batch_sizes: Sizes worth running, where the batch is dynamic.
        bound: Keep inputs and outputs in memory of the device.
        device: Kind and number of that device.
        cuda_graphs: Replay each batch size as one launch.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        *,
        threads: int | None,
        precision: str = "",
        batch_sizes: tuple[int, ...] | None = None,
        bound: bool = False,
        device: tuple[str, int] = ("cpu", 0),
        cuda_graphs: bool = False,
    ) -> None:
        inputs = [_tensor(t) for t in session.get_inputs()]
        outputs = [_tensor(t) for t in session.get_outputs()]
        dynamic = bool(inputs) and inputs[0].shape[:1] == (None,)
        super().__init__(inputs, outputs, batch_sizes=batch_sizes if dynamic else None)
        self._ort = ort
        self._session = session
        self._output_names = [spec.name for spec in self.outputs]
        self._bound = bound
        self._device = device
        self._cuda_graphs = cuda_graphs
        self._bindings: dict[tuple[tuple[int, ...], ...], _Binding] = {}
        self._lock = threading.Lock()
        providers = session.get_providers()
        # By ONNX Runtime's documentation on DirectML, a session's Run is for one thread at a time.
        self._turns = self._lock if providers[0] == _DIRECTML else contextlib.nullcontext()
        details = {"providers": ", ".join(providers)}
        if bound:
            details["inputs and outputs"] = "bound, CUDA graphs" if cuda_graphs else "bound"
        self._info = BackendInfo(
            runtime="onnxruntime",
            version=ort.__version__,
            device=_device_name(providers[0]),
            precision=precision,
            threads=threads,
            details=details,
        )

    def _run(self, feeds: Arrays) -> Arrays:
        if not self._bound:
            with self._turns:
                values = self._session.run(self._output_names, feeds)
            return dict(zip(self._output_names, values, strict=True))
        with self._lock:  # for all parts of a batch, so that closing waits for the last
            if self.batch_sizes is not None:
                return run_in_sizes(feeds, self.batch_sizes, self._run_bound)
            return self._run_bound(feeds)

    def _run_bound(self, feeds: Arrays) -> Arrays:
        key = tuple(array.shape for array in feeds.values())
        binding = self._bindings.get(key)
        if binding is None:
            number = len(self._bindings) + 1 if self._cuda_graphs else None
            binding = _Binding(self._ort, self._session, feeds, self._output_names, self._device, graph=number)
            self._bindings[key] = binding
        return binding.run(feeds)

    def describe(self) -> BackendInfo:
        """Return the version and the provider that really runs."""
        return self._info

    def close(self) -> None:
        """Free the session; calls that are under way finish."""
        super().close()
        with self._lock:
            self._bindings = {}
            self._session = None


class _Binding:
    """Inputs and outputs of one shape that stay where they are, as a captured graph demands.

    Args:
        ort: The module.
        session: The session.
        feeds: Arrays of the shapes to bind.
        output_names: The outputs, in the session's order.
        device: Kind and number of the device.
        graph: Number under which CUDA graphs of this shape are captured; None: none are.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        feeds: Arrays,
        output_names: list[str],
        device: tuple[str, int],
        *,
        graph: int | None,
    ) -> None:
        self._session = session
        self._output_names = output_names
        self._binding = session.io_binding()
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(array.copy(), *device) for name, array in feeds.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in output_names:
            self._binding.bind_output(name, *device)
        self._options = ort.RunOptions()
        if graph is not None:
            self._options.add_run_config_entry("gpu_graph_id", "-1")
            session.run_with_iobinding(self._binding, self._options)  # finds the outputs' shapes; captures nothing
            for name, value in zip(output_names, self._binding.get_outputs(), strict=True):
                self._binding.bind_ortvalue_output(name, value)
            self._options.add_run_config_entry("gpu_graph_id", str(graph))

    def run(self, feeds: Arrays) -> Arrays:
        for name, array in feeds.items():
            self._inputs[name].update_inplace(array)
        self._session.run_with_iobinding(self._binding, self._options)
        values = self._binding.copy_outputs_to_cpu()
        return {name: np.array(value) for name, value in zip(self._output_names, values, strict=True)}


class _Loader:
    """Makes the session of one provider."""

    def __init__(
        self, ort: ModuleType, model: ModelFile, config: BackendConfig, provider: str, index: int | None
    ) -> None:
        self._ort = ort
        self._model = model
        self._config = config
        self._provider = provider
        self._provider_options = _provider_options(config, provider, index)

    def session(self) -> Any:
        level = self._config.options.get("graph_optimization_level", "all")
        if not isinstance(level, str) or level not in _LEVELS:
            raise InputError(f"graph_optimization_level must be {', '.join(_LEVELS)}, got {level!r}.")
        if self._provider not in self._ort.get_available_providers():
            raise DeviceUnavailableError(
                f"this build of ONNX Runtime has no {self._provider}; it has "
                f"{', '.join(self._ort.get_available_providers())}. For CUDA: pip uninstall onnxruntime, then "
                "pip install 'rtmpose-infer[gpu]'."
            )
        if self._provider in {_CUDA, _TENSORRT}:
            _preload(self._ort)
        kept = self._provider == _CPU and level != "disable" and self._config.options.get("cache", True)
        if kept and _in_one_piece(self._model.data):
            return self._cached(level)
        return self._made(self._source(), level)

    def _source(self) -> bytes | str:
        data = self._model.data
        return data if isinstance(data, bytes) else str(data)

    def _cached(self, level: str) -> Any:
        """Return the session of the optimised graph in the cache, or put it there."""
        cache = EngineCache("onnxruntime", self._config.cache_dir)
        key = {
            "model": model_digest(self._model.data),
            "onnxruntime": f"{self._ort.__version__} {self._ort.get_build_info()}",
            "processor": _processor(),
            "level": level,
            "session_config": {k: str(v) for k, v in self._config.mapping_option("session_config").items()},
        }
        optimised = cache.load(key, kind="onnx")
        if optimised is not None:
            try:
                return self._made(optimised, "disable")
            except ModelError as error:
                _log.warning("an optimised graph in the cache is refused; it is made again: %s", error)
        try:
            with tempfile.TemporaryDirectory(prefix="rtmpose-onnx-") as folder:
                target = Path(folder) / "optimised.onnx"
                session = self._made(self._source(), level, optimised=target)
                # Weights beyond 2 GB make no single file.
                if target.is_file() and len(list(Path(folder).iterdir())) == 1:
                    cache.store(key, target.read_bytes(), kind="onnx")
        except (OSError, ModelError) as error:  # ONNX Runtime blames the model also where it cannot write the graph
            session = self._made(self._source(), level)
            _log.warning("no optimised graph is kept for the next start (%s); is the temporary folder full?", error)
        return session

    def _made(self, data: bytes | str, level: str, *, optimised: Path | None = None) -> Any:
        ort = self._ort
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self._config.threads is not None:
            options.intra_op_num_threads = self._config.threads
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        entries = _waiting(ort.__version__) | self._config.mapping_option("session_config")
        try:
            for key, value in entries.items():
                options.add_session_config_entry(key, str(value))
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"session_config has an entry that ONNX Runtime does not take: {error}. Expected names and values as its "
                "list of session configuration keys has them; correct the entry or leave it out."
            ) from error
        providers: list[Any] = [(self._provider, self._provider_options)]
        if self._provider != _CPU:
            providers.append(_CPU)  # for the operators the provider does not have
        try:
            session = ort.InferenceSession(data, options, providers=providers, enable_fallback=0)
        except Exception as error:
            if self._provider != _CPU and _is_the_device(error):
                raise DeviceUnavailableError(f"ONNX Runtime did not start {self._provider}: {error}.") from error
            raise ModelError(f"ONNX Runtime cannot load {self._model.name}: {error}") from error
        session.disable_fallback()
        if self._provider not in session.get_providers():
            raise DeviceUnavailableError(
                f"ONNX Runtime did not start {self._provider} (it took {', '.join(session.get_providers())}); its "
                "libraries or driver are missing or do not fit. `rtmpose doctor` says which."
            )
        return session


def _waiting(version: str) -> dict[str, str]:
    """Return how threads wait for work: they spin for a moment, where this release of ONNX Runtime can limit that.

    >>> _waiting("1.25.1")
    {'session.intra_op.allow_spinning': '0'}
    """
    release = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if release < _TIMED_SPINNING:
        return {"session.intra_op.allow_spinning": "0"}
    return {"session.intra_op.allow_spinning": "1", "session.intra_op.spin_duration_us": str(_SPIN_US)}


def _provider_options(config: BackendConfig, provider: str, index: int | None) -> dict[str, str]:
    graphs, bound = bool(config.options.get("cuda_graphs")), bool(config.options.get("io_binding"))
    if graphs and provider != _CUDA:
        raise InputError(f"cuda_graphs is for device='cuda', not for {_device_name(provider)}.")
    if bound and provider not in {_CPU, _CUDA}:
        raise InputError(f"io_binding is for device='cpu' or 'cuda', not for {_device_name(provider)}.")
    options: dict[str, str] = {}
    if provider == _CUDA:
        options = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
        if graphs:
            options["enable_cuda_graph"] = "1"
    if index is not None:
        options["device_id"] = str(index)
    return options | {key: str(value) for key, value in config.mapping_option("provider_options").items()}


def _is_the_device(error: Exception) -> bool:
    """Say whether an error of loading is about the provider, and not about the model."""
    return type(error).__name__ not in {"InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NotImplemented", "NoModel"}


def _preload(ort: ModuleType) -> None:
    """Load CUDA and cuDNN from their wheels, where they are installed as such; it prints what it does not find."""
    if not hasattr(ort, "preload_dlls"):  # before 1.21
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
    except Exception as error:  # noqa: BLE001  # the provider may come up without; if not, it says why
        _log.debug("CUDA libraries were not preloaded: %s", error)
    if said.getvalue():
        _log.debug("%s", said.getvalue().strip())


def _in_one_piece(data: Path | bytes) -> bool:
    """Say whether the model has all its weights in it.

    The optimised graph of another still names the files beside it, and out of the cache it would look for them in the
    working directory.
    """
    try:
        return not external_data_locations(data)
    except ModelError:
        return True  # ONNX Runtime says what is wrong with the file


def _processor() -> str:
    """Return what tells processors apart for which a graph may be optimised differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.system()} {platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()}"


def _provider(device: str, available: list[str]) -> tuple[str, int | None]:
    name, _, index = device.partition(":")
    if name.lower() in {"auto", "gpu"}:
        found = next((gpu for gpu in _GPUS if gpu in available), None)
        provider = found or (_CPU if name.lower() == "auto" else _CUDA)
    else:
        provider = _PROVIDERS.get(name.lower(), name)
    if not provider.endswith("ExecutionProvider"):
        raise InputError(f"unknown device {device!r} of onnxruntime; known are gpu, {', '.join(sorted(_PROVIDERS))}.")
    if index and (not index.isdigit() or provider in _UNNUMBERED):
        raise InputError(f"device {device!r}: expected a GPU and a number after the colon, such as cuda:1.")
    return provider, int(index) if index else None


def _device_name(provider: str) -> str:
    return next((short for short, full in _PROVIDERS.items() if full == provider), provider)


def _tensor(tensor: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape)
    return TensorSpec(tensor.name, shape, np.dtype(_DTYPES.get(tensor.type, "float32")))
