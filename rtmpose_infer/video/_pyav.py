"""The one place that imports PyAV, so that its absence is one clear message and its errors have one form.

PyAV wraps FFmpeg: real timestamps, rotation, H.264. OpenCV's own video classes have neither reliable times nor an H.264
encoder in their free wheels.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType

from rtmpose_infer.errors import BackendUnavailableError

__all__ = ["import_av", "reason", "without_credentials"]


def import_av() -> ModuleType:
    """Return the ``av`` module.

    Raises:
        BackendUnavailableError: PyAV is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise BackendUnavailableError(
            "reading and writing video needs PyAV (the module av), which is not installed. "
            "Install it with: pip install 'rtmpose-infer[cli]' (every runtime extra, such as [cpu], brings it along)."
        ) from error


def reason(error: BaseException) -> str:
    """Return FFmpeg's words of an error, without PyAV's error number and file name around them.

    >>> reason(OSError(2, "No such file or directory"))
    'No such file or directory'
    """
    words = str(getattr(error, "strerror", None) or error or type(error).__name__)
    # FFmpeg's name for our own time limit.
    return "nothing came within the time limit" if words == "Immediate exit requested" else words


def without_credentials(address: str) -> str:
    """Return an address fit for logs and messages: user and password are left out, and so is the query.

    >>> without_credentials("rtsp://admin:secret@cam.local/stream?token=1")
    'rtsp://cam.local/stream'
    """
    # A password may hold an @, and one with a / that should have been escaped is none for FFmpeg but is for its owner.
    before_host = r"(?:[^/]*|[^/:\[]*:(?!\d*/)[^?]*)@"
    return re.sub(rf"^([a-z][a-z0-9+.-]*://){before_host}", r"\1", address, flags=re.IGNORECASE).partition("?")[0]
