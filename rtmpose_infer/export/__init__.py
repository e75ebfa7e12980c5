"""Trained checkpoints and published ONNX files to self-describing files that may be deployed.

``export`` is the whole of it::

    from rtmpose_infer.export import ExportOptions, export

    export("rtmpose-m.pth", "rtmpose-m.onnx", ExportOptions(precision="fp16"))

It needs torch and onnx (the extra ``export``), which are imported when it is called for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmpose_infer.errors import BackendUnavailableError

if TYPE_CHECKING:
    from rtmpose_infer.export.exporter import ExportOptions, ExportReport, export

__all__ = ["ExportOptions", "ExportReport", "export"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from rtmpose_infer.export import exporter
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "onnx"}:
            raise
        raise BackendUnavailableError(
            f"the exporter needs {error.name}, which is not installed: pip install 'rtmpose-infer[export]'."
        ) from error
    return getattr(exporter, name)
