"""ONNX Runtime: CPU, CUDA, TensorRT, OpenVINO, DirectML, CoreML and XNNPACK execution providers.

A provider that was asked for and did not come up is an error, because ONNX Runtime itself falls silently to the CPU
(the field's first complaint). Which provider really runs is read back from the session.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmpose_infer.backends.base import Arrays, Backend, BackendConfig, BackendInfo, TensorSpec
from rtmpose_infer.errors import BackendUnavailableError, DeviceUnavailableError, InputError, ModelError

if TYPE_CHECKING:
    from types import ModuleType

    from rtmpose_infer.model_spec import ModelFile

__all__ = ["OnnxRuntimeBackend", "load"]

_log = logging.getLogger("rtmpose_infer.backends.onnxruntime")

_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "cpu": _CPU,
    "cuda": "CUDAExecutionProvider",
    "gpu": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "trt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dml": "DmlExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
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


def load(model: ModelFile, config: BackendConfig) -> OnnxRuntimeBackend:
    """Load a model into ONNX Runtime.

    ``config.device``: ``auto`` and ``cpu``, ``cuda`` (alias ``gpu``; ``cuda:1`` for the second), ``tensorrt``,
    ``openvino``, ``directml``, ``coreml``, ``xnnpack``, or a provider's full name.
    ``config.options``: ``provider_options`` (mapping for the provider), ``session_config`` (mapping of session
    configuration entries), ``graph_optimization_level`` (``"disable"``, ``"basic"``, ``"extended"``, ``"all"``).

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        DeviceUnavailableError: The provider is not in this build, or did not come up.
        ModelError: ONNX Runtime cannot load the model.
        InputError: An option or device is unknown.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not installed: pip install 'rtmpose-infer[cpu]' (or [gpu] for CUDA)."
        ) from error
    provider, index = _provider(config.device)
    if provider not in ort.get_available_providers():
        message = (
            f"this build of ONNX Runtime has no {provider}; it has {', '.join(ort.get_available_providers())}. "
            "For CUDA: pip uninstall onnxruntime, then pip install 'rtmpose-infer[gpu]'."
        )
        if not config.allow_fallback:
            raise DeviceUnavailableError(message)
        _log.warning("%s Going on with the CPU.", message)
        provider, index = _CPU, None
    session = _session(ort, model, config, provider, index)
    running = session.get_providers()
    if provider not in running:
        message = (
            f"ONNX Runtime did not start {provider} (it fell to {', '.join(running)}); its libraries or driver are "
            "missing or do not fit. `rtmpose doctor` says which."
        )
        if not config.allow_fallback:
            raise DeviceUnavailableError(message)
        _log.warning("%s", message)
    return OnnxRuntimeBackend(session, version=ort.__version__, threads=config.threads, precision=model.spec.precision)


class OnnxRuntimeBackend(Backend):
    """A session of ONNX Runtime; its ``Run`` is safe from several threads."""

    def __init__(self, session: Any, *, version: str, threads: int | None, precision: str = "") -> None:
        super().__init__(
            [_tensor(t) for t in session.get_inputs()],
            [_tensor(t) for t in session.get_outputs()],
        )
        self._session = session
        self._output_names = [spec.name for spec in self.outputs]
        self._info = BackendInfo(
            runtime="onnxruntime",
            version=version,
            device=_device_name(session.get_providers()[0]),
            precision=precision,
            threads=threads,
            details={"providers": ", ".join(session.get_providers())},
        )

    def _run(self, feeds: Arrays) -> Arrays:
        values = self._session.run(self._output_names, feeds)
        return dict(zip(self._output_names, values, strict=True))

    def describe(self) -> BackendInfo:
        """Return the version and the provider that really runs."""
        return self._info

    def close(self) -> None:
        """Free the session."""
        super().close()
        self._session = None


def _session(ort: ModuleType, model: ModelFile, config: BackendConfig, provider: str, index: int | None) -> Any:
    known = {"provider_options", "session_config", "graph_optimization_level"}
    if unknown := set(config.options) - known:
        raise InputError(f"unknown onnxruntime options {sorted(unknown)}; known are {sorted(known)}.")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if config.threads is not None:
        options.intra_op_num_threads = config.threads
    level = config.options.get("graph_optimization_level", "all")
    try:
        options.graph_optimization_level = {
            "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
            "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        }[level]
    except KeyError:
        raise InputError(f"graph_optimization_level must be disable, basic, extended or all, got {level!r}.") from None
    # Detector and pose network take turns: threads that spin after one call would take the cores from the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in config.options.get("session_config", {}).items():
        options.add_session_config_entry(str(key), str(value))
    provider_options = {str(k): str(v) for k, v in config.options.get("provider_options", {}).items()}
    if index is not None:
        provider_options["device_id"] = str(index)
    providers: list[Any] = [(provider, provider_options)]
    if provider != _CPU:
        providers.append(_CPU)  # for the operators the provider does not have
    try:
        data = model.data if isinstance(model.data, bytes) else str(model.data)
        return ort.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {model.name}: {error}") from error


def _provider(device: str) -> tuple[str, int | None]:
    name, _, index = device.partition(":")
    name = "cpu" if name.lower() == "auto" else name
    provider = _PROVIDERS.get(name.lower(), name)
    if not provider.endswith("ExecutionProvider"):
        raise InputError(f"unknown device {device!r} of onnxruntime; known are {', '.join(sorted(_PROVIDERS))}.")
    if index and not index.isdigit():
        raise InputError(f"device {device!r}: expected a number after the colon, such as cuda:1.")
    return provider, int(index) if index else None


def _device_name(provider: str) -> str:
    return next((short for short, full in _PROVIDERS.items() if full == provider), provider)


def _tensor(tensor: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape)
    return TensorSpec(tensor.name, shape, np.dtype(_DTYPES.get(tensor.type, "float32")))
