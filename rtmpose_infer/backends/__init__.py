"""One thin adapter per runtime behind one seam, chosen by name and imported only when used.

An adapter is a module with a function ``load(model, config) -> Backend``. ``_ADAPTERS`` is the whole registry.

``auto`` tries what ``_auto_order`` lists and takes the first that loads the model: a GPU before a CPU, and TensorRT
before ONNX Runtime on it. On a CPU, ONNX Runtime comes before OpenVINO, since both compute float32 equally fast and
ONNX Runtime starts faster; but not where the processor has instructions for BF16, which OpenVINO alone uses, and not on
Intel's, for which OpenVINO is made. A runtime that is not installed, has no device, or refuses the model is passed over,
and the log says why.

A runtime that is named computes in float32 unless told otherwise, so that all of them answer alike. ``auto`` leaves the
precision of pose networks to the adapter (``"auto"`` there): in BF16, OpenVINO takes a third of the time on a processor
with AMX, and OKS-AP is the same (``benchmarks/low_precision.py``). Detectors stay in float32: their boxes do suffer, and
they run on few frames.

ncnn reads no ONNX, so for it the conversion that lies beside an ONNX file, under the same name, counts as the model;
the embedded networks have theirs.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rtmpose_infer.backends.base import Arrays, Backend, BackendConfig, BackendInfo, TensorSpec, chosen_config
from rtmpose_infer.backends.callable import CallableBackend
from rtmpose_infer.cache import sha256_of
from rtmpose_infer.errors import (
    BackendUnavailableError,
    DeviceUnavailableError,
    InputError,
    ModelError,
    RtmposeInferError,
)
from rtmpose_infer.model_spec import load_model_file
from rtmpose_infer.options import check_option

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
    "chosen_config",
    "extra_of",
    "is_installed",
    "load_backend",
    "own_form",
]

_log = logging.getLogger("rtmpose_infer.backends")


class _Adapter(NamedTuple):
    """One runtime: the extra that installs it, and the endings of the files it reads.

    Its package, and the module of its adapter in this folder, have the backend's name.
    """

    extra: str
    endings: tuple[str, ...]


_ADAPTERS = {
    "onnxruntime": _Adapter("cpu", (".onnx",)),
    "openvino": _Adapter("openvino", (".onnx", ".xml")),
    "tensorrt": _Adapter("tensorrt", (".onnx",)),
    "ncnn": _Adapter("ncnn", (".param",)),
}
_ALIASES = {"ort": "onnxruntime", "ov": "openvino", "trt": "tensorrt"}
_CPUINFO = Path("/proc/cpuinfo")


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends, installed or not."""
    return tuple(_ADAPTERS)


def extra_of(name: str) -> str:
    """Return the extra of this package that installs a backend; ``name`` is one of ``backend_names``."""
    return _ADAPTERS[name].extra


def canonical_name(name: str) -> str:
    """Return a backend's full name from its name or alias, or ``"auto"``.

    Raises:
        InputError: There is no such backend.

    >>> canonical_name("ort")
    'onnxruntime'
    """
    check_option("backend", name, "the name of a backend", fine=isinstance(name, str))
    full = _ALIASES.get(name.lower(), name.lower())
    if full != "auto" and full not in _ADAPTERS:
        raise InputError(
            f"unknown backend {name!r}; known are auto, {', '.join(_ADAPTERS)} "
            f"(short: {', '.join(f'{k} = {v}' for k, v in _ALIASES.items() if v in _ADAPTERS)})."
        )
    return full


def own_form(model: ModelFile, backend: str, **known: Any) -> ModelFile:
    """Return the model in the form that a backend reads, where that lies beside it; else the model itself.

    Args:
        model: What ``model_spec.load_model_file`` returned for an ONNX file.
        backend: Name or alias. ``"auto"`` needs another form only where ncnn is the one runtime that is installed.
        known: See ``load_model_file``.

    Raises:
        InputError: There is no such backend.
        ModelError: What lies beside it was made from another model, or is broken.
    """
    name = canonical_name(backend)
    if name == "auto":
        name = "ncnn" if [other for other in _ADAPTERS if is_installed(other)] == ["ncnn"] else name
    if name != "ncnn" or not isinstance(model.data, Path) or _ending(model) != ".onnx":
        return model
    beside = model.data.with_suffix(".param")
    if not beside.is_file():
        return model
    form = load_model_file(beside, task=model.spec.task, **known)
    if form.spec.source_sha256 not in {sha256_of(model.data), model.spec.source_sha256 or None}:
        raise ModelError(
            f"{beside} was not made from the {model.data.name} beside it. Make it again: `rtmpose export {model.data} "
            f"-o {beside}`."
        )
    return form


def load_backend(model: ModelFile, *, backend: str = "auto", config: BackendConfig | None = None) -> Backend:
    """Load a model into a runtime.

    Args:
        model: What ``model_spec.load_model_file`` returned.
        backend: Name or alias. ``"auto"`` takes the first of these that is installed and loads the model, and logs
            which and why: TensorRT; ONNX Runtime on a GPU; on the CPU ONNX Runtime, then OpenVINO (the other way
            round on Intel's and on any with instructions for BF16, where OpenVINO then runs pose networks in BF16
            unless ``config.options`` has another ``precision``); ncnn for its own files. With ``config.device`` it
            takes the first that has that device.
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
    strict = dataclasses.replace(config, allow_fallback=False)
    try:
        return _first_that_loads(model, strict)
    except DeviceUnavailableError as error:
        if not config.allow_fallback:
            raise
        _log.warning("%s Going on with the CPU.", error)
        return _first_that_loads(model, dataclasses.replace(strict, device="cpu"))


def _first_that_loads(model: ModelFile, config: BackendConfig) -> Backend:
    refused: list[str] = []
    errors: list[RtmposeInferError] = []
    for name, device in _candidates(config.device):
        if _ending(model) not in _ADAPTERS[name].endings:
            continue
        if not is_installed(name):
            refused.append(f"{name}: not installed")
            continue
        options = config.options
        if name == "openvino":
            options = {"precision": "auto", **options}
        try:
            loaded = _load(name, model, dataclasses.replace(config, device=device, options=options))
        except RtmposeInferError as error:
            refused.append(f"{name} on {device}: {error}")
            errors.append(error)
            continue
        reason = f"; passed over {'; '.join(refused)}" if refused else ""
        info = loaded.describe()
        precision = f" in {info.precision}" if info.precision else ""
        _log.info("backend auto: %s on %s%s for %s%s", name, info.device, precision, model.name, reason)
        return loaded
    if not errors:
        extras = sorted({adapter.extra for adapter in _ADAPTERS.values() if _ending(model) in adapter.endings})
        raise BackendUnavailableError(
            f"no runtime for {model.name} is installed: pip install 'rtmpose-infer[{extras[0]}]'"
            f"{''.join(f', or [{extra}]' for extra in extras[1:])}."
        )
    # What is wrong with the model is worth more to know than which devices are absent.
    for kind in (ModelError, DeviceUnavailableError):
        found = next((error for error in errors if isinstance(error, kind)), None)
        if found is not None:
            raise kind(f"no runtime takes {model.name}: {'; '.join(refused)}") from found
    raise errors[-1]


def _auto_order(*, openvino_first: bool) -> tuple[tuple[str, str], ...]:
    """Return backends and the device each is asked for, in the order of preference."""
    cpu = ("openvino", "onnxruntime") if openvino_first else ("onnxruntime", "openvino")
    return (("tensorrt", "gpu"), ("onnxruntime", "gpu"), (cpu[0], "cpu"), (cpu[1], "cpu"), ("ncnn", "cpu"))


def _candidates(device: str) -> Iterable[tuple[str, str]]:
    order = _auto_order(openvino_first=_suits_openvino())
    if device.lower() == "auto":
        return order
    if device.lower() == "cpu":
        return [(name, own) for name, own in order if own == "cpu"]
    return [(name, device) for name in dict.fromkeys(name for name, _ in order)]


def _suits_openvino() -> bool:
    """Return whether the processor is Intel's, or another x86 with instructions for BF16."""
    try:
        with _CPUINFO.open(encoding="utf-8") as file:
            first = file.read(8192)  # one processor and its flags, or more
    except OSError:
        return "Intel" in platform.processor()
    return "GenuineIntel" in first or "avx512_bf16" in first


def _ending(model: ModelFile) -> str:
    """Return what kind of file a model is; what came out of an archive is ONNX."""
    suffix = "" if isinstance(model.data, bytes) else model.data.suffix.lower()
    return suffix if suffix in {".xml", ".param"} else ".onnx"


def is_installed(name: str) -> bool:
    """Return whether the package of a backend can be imported; ``name`` is one of ``backend_names``."""
    # A module that is loaded may have no spec to be found; None there means: not to be imported.
    if name in sys.modules:
        return sys.modules[name] is not None
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:  # an import hook's way of saying no
        return False
    return spec is not None and spec.origin is not None  # a folder that only bears the name has no origin


def _load(name: str, model: ModelFile, config: BackendConfig) -> Backend:
    extra, endings = _ADAPTERS[name]
    readable = _ending(model) in endings
    if not is_installed(name):
        or_cuda = " (or [gpu] for CUDA)" if name == "onnxruntime" else ""
        also = "" if readable else f" (It reads {' and '.join(endings)} files, and {model.name} is none.)"
        raise BackendUnavailableError(f"{name} is not installed: pip install 'rtmpose-infer[{extra}]'{or_cuda}.{also}")
    if not readable:
        others = [other for other, adapter in _ADAPTERS.items() if _ending(model) in adapter.endings]
        hint = "export it as ONNX"
        if ".param" in endings:
            hint = "`rtmpose export model.onnx -o model.param` makes one of SimCC pose networks and RTMDet"
        raise ModelError(
            f"{name} reads {' and '.join(endings)} files, and {model.name} is none; {hint}, or use it with "
            f"backend={others[0]!r}."
        )
    backend: Backend = importlib.import_module(f"rtmpose_infer.backends.{name}").load(model, config)
    return backend
