"""Live sources: cameras, and the rule that the newest frame wins.

A camera does not wait. Whoever reads slower than it sends must drop frames or fall behind without limit, so a thread
reads all the time and keeps the newest frame only: one slot, bounded memory, and a delay of at most the frame in
work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from rtmpose_infer.errors import MediaError
from rtmpose_infer.options import check_option, is_whole
from rtmpose_infer.video.sources import Frame, FrameSource

__all__ = ["CameraSource", "LatestFrameSource"]

_JOIN_TIMEOUT_S = 2.0
_SILENT = 0
_HIGHEST_INDEX = 2**31 - 1


class CameraSource(FrameSource):
    """A camera of this machine, by index, through OpenCV; timestamps are the times of arrival.

    Args:
        index: Number of the camera, from 0.

    Raises:
        InputError: The index is not a whole number from 0 on, of 31 bits.
        MediaError: The camera cannot be opened.
    """

    is_live = True

    def __init__(self, index: int) -> None:
        # OpenCV has a meaning of its own for -1, over which some of its builds end the process.
        fine = is_whole(index) and 0 <= index <= _HIGHEST_INDEX
        check_option("a camera's index", index, f"a whole number from 0 to {_HIGHEST_INDEX}", fine=fine)
        self.name = f"camera {index}"
        # OpenCV prints every driver that it tried on standard error.
        set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # its place since 4.13
        told = set_log_level(_SILENT)
        try:
            self._capture = cv2.VideoCapture(index)
        finally:
            set_log_level(told)
        if not self._capture.isOpened():
            self._capture.release()
            raise MediaError(
                f"{self.name}: cannot be opened. Check that it is connected, that no other program uses it, and that "
                "this user may read it; cameras are counted from 0."
            )
        # One buffered frame where the driver allows: older ones would only be dropped.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if 1 <= rate <= 1000 else None

    def __iter__(self) -> Iterator[Frame]:
        index, start_s = 0, 0.0
        while True:
            arrived, image = self._capture.read()
            now_s = time.monotonic()
            if not arrived or image is None:
                raise MediaError(f"{self.name}: no more frames after {index}; the camera was unplugged or taken over.")
            start_s = now_s if index == 0 else start_s
            self.size_wh = (image.shape[1], image.shape[0])
            yield Frame(np.asarray(image, dtype=np.uint8), index, now_s - start_s)
            index += 1

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()


class LatestFrameSource(FrameSource):
    """A live source of which only the newest frame is kept, read by a thread of its own.

    Iterating gives the newest frame that has not been given yet and waits when there is none. Frames that were
    overtaken are counted in ``dropped_frames``; their numbers are missing from ``Frame.index``. When the source ends
    or fails, its last frame is still given first.
    """

    is_live = True

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.name = source.name
        self.frame_rate = source.frame_rate
        self.size_wh = source.size_wh
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._failure: MediaError | None = None
        self._ended = False
        self._closing = False
        # A daemon: a network read that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._read, name=f"read {source.name}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        failure: MediaError | None = None
        try:
            for frame in self._source:
                with self._changed:
                    self.dropped_frames += self._newest is not None
                    self._newest = frame
                    self._changed.notify_all()
                    if self._closing:
                        break
        except MediaError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # or the iterating thread would wait for ever
            failure = MediaError(f"{self.name}: reading failed: {error!r}.")
            failure.__cause__ = error
        finally:
            # Only the reading thread may close: FFmpeg and OpenCV crash when that happens under a running read.
            self._source.close()
            with self._changed:
                self._failure, self._ended = failure, True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended or self._closing)
                frame, self._newest = self._newest, None
                self.skipped_frames = self._source.skipped_frames
                self.damaged_frames = self._source.damaged_frames
            if self._closing:
                return
            if frame is not None:
                self.size_wh = (frame.image.shape[1], frame.image.shape[0])
                yield frame
                continue
            if self._failure is not None:
                raise self._failure
            return

    def close(self) -> None:
        """Stop reading; the source is closed by the thread that reads it, after at most its own time limit."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=_JOIN_TIMEOUT_S)
