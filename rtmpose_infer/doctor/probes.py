"""Questions that may crash or hang the process that asks them; ``answer`` runs in a worker's process.

Devices are asked through the package's own backends, so what answers here is what the pipeline will use.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose_infer.backends import BackendConfig, load_backend, own_form
from rtmpose_infer.doctor.tiny_model import expected_answer, tiny_input, tiny_model
from rtmpose_infer.errors import OutputMismatchError

__all__ = ["answer"]

Facts = dict[str, Any]

# Of the largest value of the answer; devices that compute in half precision stay below a thousandth.
_TOLERANCE = 0.01
_H264_ENCODERS = ("libx264", "libopenh264", "h264_nvenc", "h264_videotoolbox", "h264_mf", "h264_qsv", "h264_vaapi")


def answer(request: Mapping[str, str]) -> Facts:
    """Answer one request.

    Args:
        request: ``{"ask": "import", "module": …}``, ``{"ask": "runtime", "backend": …}`` (version and devices), or
            ``{"ask": "device", "backend": …, "device": …}`` (run the test network on it).

    Raises:
        OutputMismatchError: The device computed something else than numpy.
        BackendError: The runtime or the device did not come up.
        ImportError: The module cannot be imported.
    """
    if request["ask"] == "import":
        return _import(request["module"])
    if request["ask"] == "runtime":
        return _RUNTIMES[request["backend"]]()
    return _device(request["backend"], request["device"])


def _import(name: str) -> Facts:
    module = import_module(name)
    facts: Facts = {"version": str(getattr(module, "__version__", ""))}
    if name == "cv2":
        picture = np.zeros((4, 4, 3), np.uint8)
        module.warpAffine(picture, np.eye(2, 3, dtype=np.float32), (4, 4))
    if name == "av":
        facts["h264_encoders"] = [encoder for encoder in _H264_ENCODERS if encoder in module.codecs_available]
    return facts


def _onnxruntime() -> Facts:
    import onnxruntime as ort

    try:
        build: Any = import_module("onnxruntime.capi.build_and_package_info")
    except ImportError:  # some builds do not tell
        build = None
    return {
        "version": ort.__version__,
        "package": getattr(build, "package_name", ""),
        "cuda_version": getattr(build, "cuda_version", ""),
        # Azure is a remote service, not a device
        "devices": {name: name for name in ort.get_available_providers() if name != "AzureExecutionProvider"},
    }


def _openvino() -> Facts:
    # the adapter's import leaves out the telemetry
    from rtmpose_infer.backends.openvino import import_openvino

    ov = import_openvino()
    core = ov.Core()
    names = {device: str(core.get_property(device, "FULL_DEVICE_NAME")) for device in core.available_devices}
    return {"version": str(ov.__version__).partition("-")[0], "devices": names}


def _tensorrt() -> Facts:
    import tensorrt as trt

    return {"version": str(trt.__version__), "devices": {"cuda": "NVIDIA GPU"}}


def _ncnn() -> Facts:
    import ncnn

    gpus = {f"vulkan:{i}": str(ncnn.get_gpu_info(i).device_name()) for i in range(ncnn.get_gpu_count())}
    return {"version": str(ncnn.__version__), "devices": {"cpu": "CPU", **gpus}}


_RUNTIMES: dict[str, Callable[[], Facts]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "ncnn": _ncnn,
}


def _device(backend: str, device: str) -> Facts:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = own_form(tiny_model(Path(folder)), backend)
        config = BackendConfig(device=device, cache_dir=Path(folder), batch_sizes=(1,))
        start = time.perf_counter()
        with load_backend(model, backend=backend, config=config) as loaded:
            loaded_at = time.perf_counter()
            result = next(iter(loaded.run({loaded.inputs[0].name: tiny_input()}).values()))
            done = time.perf_counter()
            info = loaded.describe()
    expected = expected_answer()
    error = float(np.abs(result - expected).max() / np.abs(expected).max()) if result.shape == expected.shape else 1.0
    if not error <= _TOLERANCE:  # also NaN
        raise OutputMismatchError(
            f"{backend} on {info.device} computes wrongly: a convolution's answer of shape {result.shape} is off by "
            f"{error:.1%} of its largest value."
        )
    return {
        "backend": info.runtime,
        "version": info.version,
        "device": info.device,
        "details": dict(info.details),
        "load_ms": round(1e3 * (loaded_at - start), 2),
        "first_run_ms": round(1e3 * (done - loaded_at), 2),
        "relative_error": error,
    }
