"""Every error this package raises, in one tree.

    RtmposeInferError
    ├── InputError (ValueError)          a frame, box or option that cannot be used
    │   ├── ShapeError                   holds ``expected`` and ``actual``
    │   └── DTypeError                   holds ``expected`` and ``actual``
    ├── ModelError                       a model file that cannot be used as asked
    │   ├── ManifestError                the zoo's list of models is wrong or lacks a name
    │   ├── ChecksumError                a file is not the one the manifest promised
    │   └── OutputMismatchError          a network answered with other tensors than its file said
    ├── BackendError                     a runtime failed
    │   ├── BackendUnavailableError (ImportError)   not installed; names the extra to install
    │   ├── DeviceUnavailableError       the device asked for did not come up
    │   ├── InferenceError               the runtime failed while running a network
    │   └── ClosedError                  used after ``close()``
    ├── MediaError (OSError)             a video, picture or stream that cannot be read or written
    └── ExportError                      a network that cannot be exported in this form
        ├── CheckpointError              a checkpoint that cannot be read safely or is of no known network
        ├── EngineBuildError             a runtime refused to build its engine
        └── ParityError                  the exported network does not compute what the source computes

A message says what was wrong, what was expected, what came and what to do. Errors of third-party libraries are mapped
once, at the module that calls them, and kept as ``__cause__``.
"""

from __future__ import annotations

import copyreg
from typing import Any


class RtmposeInferError(Exception):
    """Base of every error raised on purpose by this package."""


class InputError(RtmposeInferError, ValueError):
    """An argument (frame, boxes, option) that cannot be used."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is rebuilt from its message alone, which the constructors below do not take.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ShapeError(InputError):
    """An array of the wrong shape.

    Args:
        what: How the message calls the array.
        expected: See below.
        actual: See below.
        hint: What to do, as a sentence.

    Attributes:
        expected: The shape or rule that was expected, in words such as ``"(H, W, 3)"``.
        actual: The shape that came.
    """

    def __init__(self, what: str, *, expected: str, actual: object, hint: str = "") -> None:
        super().__init__(f"{what}: expected shape {expected}, got {actual}.{_hint(hint)}")
        self.expected = expected
        self.actual = actual


class DTypeError(InputError):
    """An array of the wrong dtype, or no array at all.

    Args:
        what: How the message calls the array.
        expected: See below.
        actual: See below.
        hint: What to do, as a sentence.

    Attributes:
        expected: The dtype that was expected.
        actual: The dtype, or the name of the type, that came.
    """

    def __init__(self, what: str, *, expected: str, actual: object, hint: str = "") -> None:
        super().__init__(f"{what}: expected dtype {expected}, got {actual}.{_hint(hint)}")
        self.expected = expected
        self.actual = actual


class ModelError(RtmposeInferError):
    """A model file that is missing, broken, of the wrong task or not understood."""


class ManifestError(ModelError):
    """The zoo manifest is malformed, or has no model of that name."""


class ChecksumError(ModelError):
    """A downloaded or cached file does not have the promised sha256."""


class OutputMismatchError(ModelError):
    """A network's outputs do not fit what its file or its head promised."""


class BackendError(RtmposeInferError):
    """A runtime could not do what was asked."""


class BackendUnavailableError(BackendError, ImportError):
    """The runtime's package is not installed; the message names the extra that brings it."""


class DeviceUnavailableError(BackendError):
    """The device that was asked for did not come up."""


class InferenceError(BackendError):
    """The runtime failed while it ran a network."""


class ClosedError(BackendError):
    """A backend, pipeline or tracker was used after ``close()``."""


class MediaError(RtmposeInferError, OSError):
    """A picture, video or stream that cannot be opened, read or written."""


class ExportError(RtmposeInferError):
    """A network could not be exported."""


class CheckpointError(ExportError):
    """A checkpoint that is unsafe, broken, or of no known architecture."""


class EngineBuildError(ExportError):
    """A runtime refused to build an engine from the model."""


class ParityError(ExportError):
    """The exported network's answers differ from the source's beyond the limit."""


def _hint(hint: str) -> str:
    return f" {hint}" if hint else ""
