"""Options that several commands have, so that they mean and say the same everywhere."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from rtmpose_infer.errors import InputError

__all__ = ["Backend", "Detector", "Device", "Pose", "Threads", "det_interval_from_text"]

Detector = Annotated[str, typer.Option(help="Person detector: a file, or a name that `rtmpose models list` shows.")]
Pose = Annotated[str, typer.Option(help="Pose network: a file, or a name that `rtmpose models list` shows.")]
Backend = Annotated[str, typer.Option(help="auto, onnxruntime (ort), openvino (ov), tensorrt (trt) or ncnn.")]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu, or a device that the backend knows.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of one network call; by default the backend decides.")
]


def det_interval_from_text(text: str) -> int | Literal["auto"]:
    """Return the frames from one detection to the next, or ``"auto"``.

    Raises:
        InputError: It is neither.
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--det-interval: expected a number of frames from 1 or 'auto', got {text!r}.")
    return int(text)
