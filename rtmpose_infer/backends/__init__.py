"""One thin adapter per runtime behind one seam, chosen by name and imported only when used.

An adapter is a module with a function ``load(model, config) -> Backend``. ``_ADAPTERS`` is the whole registry; its
order is the order in which ``auto`` tries them, which prefers what is fastest where it is really usable.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING

from rtmpose_infer.backends.base import Arrays, Backend, BackendConfig, BackendInfo, TensorSpec
from rtmpose_infer.backends.callable import CallableBackend
from rtmpose_infer.errors import BackendError, BackendUnavailableError, InputError

if TYPE_CHECKING:
    from rtmpose_infer.model_spec import ModelFile

__all__ = [
    "Arrays",
    "Backend",
    "BackendConfig",
    "BackendInfo",
    "CallableBackend",
    "TensorSpec",
    "backend_names",
    "canonical_name",
    "load_backend",
]

_log = logging.getLogger("rtmpose_infer.backends")

# name: (module of the adapter, package that must be importable)
_ADAPTERS = {
    "onnxruntime": ("rtmpose_infer.backends.onnxruntime", "onnxruntime"),
}
_ALIASES = {"ort": "onnxruntime", "ov": "openvino", "trt": "tensorrt"}


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends, installed or not."""
    return tuple(_ADAPTERS)


def canonical_name(name: str) -> str:
    """Return a backend's full name from its name or alias, or ``"auto"``.

    Raises:
        InputError: There is no such backend.

    >>> canonical_name("ort")
    'onnxruntime'
    """
    full = _ALIASES.get(name.lower(), name.lower())
    if full != "auto" and full not in _ADAPTERS:
        raise InputError(
            f"unknown backend {name!r}; known are auto, {', '.join(_ADAPTERS)} "
            f"(short: {', '.join(f'{k} = {v}' for k, v in _ALIASES.items() if v in _ADAPTERS)})."
        )
    return full


def load_backend(model: ModelFile, *, backend: str = "auto", config: BackendConfig | None = None) -> Backend:
    """Load a model into a runtime.

    Args:
        model: What ``model_spec.load_model_file`` returned.
        backend: Name or alias; ``"auto"`` takes the first installed backend that loads the model on the device, in the
            order of ``backend_names``, and logs which and why.
        config: Device, threads and options.

    Raises:
        InputError: There is no such backend, or an option is wrong.
        BackendUnavailableError: The runtime is not installed (``auto``: none is).
        DeviceUnavailableError: The device did not come up.
        ModelError: The runtime cannot load the model.
    """
    config = config or BackendConfig()
    name = canonical_name(backend)
    if name != "auto":
        return _load(name, model, config)
    refused: list[str] = []
    last: BackendError | None = None
    for candidate, (_, package) in _ADAPTERS.items():
        if importlib.util.find_spec(package) is None:
            refused.append(f"{candidate}: not installed")
            continue
        try:
            loaded = _load(candidate, model, config)
        except BackendError as error:
            refused.append(f"{candidate}: {error}")
            last = error
            continue
        reason = f" ({'; '.join(refused)})" if refused else ""
        _log.info("backend auto: %s on %s for %s%s", candidate, loaded.describe().device, model.name, reason)
        return loaded
    if last is not None:
        raise last
    raise BackendUnavailableError(
        "no runtime is installed: pip install 'rtmpose-infer[cpu]' for ONNX Runtime, or [openvino], [gpu], [ncnn]."
    )


def _load(name: str, model: ModelFile, config: BackendConfig) -> Backend:
    backend: Backend = importlib.import_module(_ADAPTERS[name][0]).load(model, config)
    return backend
