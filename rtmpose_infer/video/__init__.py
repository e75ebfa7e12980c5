"""Reading and writing video: pictures, folders, files and live sources in, H.264 or pictures out.

``open_source`` turns whatever a user names into an iterator of ``Frame``; ``open_writer`` turns a path into something
with ``write`` and ``close``. Between them lies only a BGR array with its index and its time, so the tracker never
knows where a frame came from. PyAV is imported when a video is opened and not before: a service that feeds its own
frames needs no video library, and pictures and cameras need only OpenCV.
"""

from __future__ import annotations

from rtmpose_infer.video.live import CameraSource, LatestFrameSource
from rtmpose_infer.video.sources import (
    MAX_FRAME_PIXELS,
    AnimatedWebpSource,
    Frame,
    FrameSource,
    PictureSource,
    VideoFileSource,
    load_picture,
    open_source,
)
from rtmpose_infer.video.writers import FrameWriter, PictureWriter, VideoWriter, open_writer

__all__ = [
    "MAX_FRAME_PIXELS",
    "AnimatedWebpSource",
    "CameraSource",
    "Frame",
    "FrameSource",
    "FrameWriter",
    "LatestFrameSource",
    "PictureSource",
    "PictureWriter",
    "VideoFileSource",
    "VideoWriter",
    "load_picture",
    "open_source",
    "open_writer",
]
