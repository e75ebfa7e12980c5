"""Writing annotated video that every browser plays, and that survives being killed.

While frames arrive, the file is a fragmented MP4: whatever is on disk plays up to the last half second, even after a
power cut. ``close`` turns it into a plain MP4 with the index in front (a copy of the packets, no new encoding), which
more players and editors read, and moves it into place at once.

H.264 in yuv420p with limited range; the colour matrix is BT.601 and tagged so, because OpenCV's conversion to it is
five times as fast as FFmpeg's to BT.709 and a player that reads the tag shows the same colours. x264 runs at its
fastest setting, without frames held back: it takes its cores from inference, and half the size for twice the work is no
bargain beside a network. What a killed run loses is then the last half second at most.
"""

from __future__ import annotations

import logging
import math
import os
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer.closing import Closing
from rtmpose_infer.errors import DTypeError, InputError, MediaError, ShapeError
from rtmpose_infer.options import check_option, is_number
from rtmpose_infer.result_files import free_name, open_result
from rtmpose_infer.video._pyav import import_av, reason

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["FrameWriter", "PictureWriter", "VideoWriter", "open_writer"]

_LOGGER = logging.getLogger(__name__)

_VIDEO_SUFFIXES = frozenset({".m4v", ".mov", ".mp4"})
PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Divisible by the frame times of 23.976, 24, 25, 29.97, 30, 50, 59.94 and 60 frames per second and by milliseconds.
_TICKS_PER_S = 240_000
_DEFAULT_RATE = 30.0
_LEAST_RATE, _MAX_RATE = 0.001, 1000.0
_LONGEST_STEP_TICKS = 2**31 - 1  # beyond it FFmpeg's MP4 writer makes up a time of its own, and all others with it
_MAX_SIDE = 8192
_FRAGMENT_US = 500_000
_KEYFRAME_S = 2.0
_ENCODERS = (
    ("libx264", {"preset": "ultrafast", "crf": "23"}),
    ("libopenh264", {"b": "8M"}),
)


class FrameWriter(Protocol):
    """Takes annotated frames in order; a context manager."""

    path: Path

    def write(self, image: npt.NDArray[np.uint8], timestamp_s: float, *, name: str | None = None) -> None:
        """Add an (H, W, 3) uint8 BGR frame; the writer does not keep it. ``name`` is a picture's file name."""

    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def open_writer(
    path: str | os.PathLike[str], *, frame_rate: float | None = None, pictures: bool = False
) -> FrameWriter:
    """Return the writer that fits the path: a video (.mp4, .m4v, .mov), one picture, or a folder of pictures.

    The path is tried at once, so that a long run does not end in a refusal; an existing file stays until the first
    frame.

    Args:
        path: Where to write.
        frame_rate: The source's average frames per second, for the file's header.
        pictures: The frames are pictures with names of their own: without a video's ending the path is a folder for
            them.

    Raises:
        InputError: The ending fits no format.
        MediaError: Nothing can be written there.
        BackendUnavailableError: It is a video and PyAV is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _VIDEO_SUFFIXES:
        return VideoWriter(path, frame_rate=frame_rate)
    if pictures and (path.is_dir() or suffix in PICTURE_SUFFIXES or not suffix):
        return PictureWriter(path)
    hint = "; pictures are written for a picture or a folder of pictures" if suffix in PICTURE_SUFFIXES else ""
    raise InputError(f"{path}: cannot write this kind of file; end the name in .mp4{hint}.")


class PictureWriter(Closing):
    """Annotated pictures: to one file, or under their own names into a folder, which is made where missing.

    An ending that cannot be written becomes ``.png``. Where a name was written before, the ending moves into it, and then
    a number, so that no picture replaces another one: ``a.png`` after ``a.jp2`` becomes ``a_png.png``.

    Args:
        path: The picture, or the folder.

    Raises:
        MediaError: Nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._is_file = self.path.suffix.lower() in PICTURE_SUFFIXES and not self.path.is_dir()
        self._created = False
        self._used: set[str] = set()
        if self._is_file:
            self._created = _try_to_write(self.path)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(f"{self.path}: cannot make the folder: {reason(error)}.") from error
        if not os.access(self.path, os.W_OK):
            raise MediaError(f"{self.path}: the folder is not writable for this user.")

    def write(self, image: npt.NDArray[np.uint8], timestamp_s: float, *, name: str | None = None) -> None:
        """Write one picture.

        Args:
            image: (H, W, 3) uint8 BGR.
            timestamp_s: Names the file in a folder where ``name`` is None.
            name: File name of the picture that the image was made from.

        Raises:
            ShapeError: The image is not (H, W, 3).
            DTypeError: The image is not uint8.
            MediaError: The disk is full, or the format does not take this picture.
        """
        _check_image(image)
        target = self.path
        if not self._is_file:
            picture = Path(name or f"{timestamp_s:012.3f}.png")
            ending = picture.suffix if picture.suffix.lower() in PICTURE_SUFFIXES else ".png"
            target = self.path / free_name(picture, ending, self._used)
        try:
            encoded, data = cv2.imencode(target.suffix.lower(), image)
            if not encoded:
                raise MediaError(f"{target}: OpenCV could not encode the picture; write .png instead.")
            target.write_bytes(data.tobytes())
            self._created = False
        except (OSError, cv2.error) as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{target}: cannot write the picture: {reason(error)}.") from error

    def close(self) -> None:
        """Remove the file that was made to try the path, if nothing came; a picture is complete once written."""
        if self._created:
            self.path.unlink(missing_ok=True)
            self._created = False


class VideoWriter(Closing):
    """H.264 video in an MP4, with the frames' own times; a context manager.

    The first frame fixes the size: odd sizes gain a row or column (4:2:0 needs even ones), sides above 8192 are scaled
    down. Later frames of another size are scaled to fit and centred on black. The video begins with its first frame.
    Times that do not go forward are moved behind the last one; where a time is not finite, or further ahead than an MP4
    can say (2.5 hours), the frame follows the last one at ``frame_rate``.

    Args:
        path: The file, with one of the endings .mp4, .m4v and .mov.
        frame_rate: Average frames per second, for the header; None: 30.

    Raises:
        InputError: The path has another ending, or the rate is no number.
        MediaError: Nothing can be written there.
        BackendUnavailableError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, frame_rate: float | None = None) -> None:
        self._av = import_av()
        self.path = Path(path)
        if self.path.suffix.lower() not in _VIDEO_SUFFIXES:
            raise InputError(f"{self.path}: cannot write this kind of video; end the name in .mp4.")
        known = isinstance(frame_rate, (Real, type(None)))
        check_option("frame_rate", frame_rate, "a number of frames per second, or None", fine=known)
        self._created = _try_to_write(self.path)
        rate = frame_rate if is_number(frame_rate) and frame_rate > 0 else _DEFAULT_RATE
        self._rate = Fraction(min(max(rate, _LEAST_RATE), _MAX_RATE)).limit_denominator(1001)
        self._frame_ticks = round(_TICKS_PER_S / self._rate)
        self._last_ticks = -self._frame_ticks
        self._start_s: float | None = None
        self._container: Any = None
        self._stream: Any = None
        self._size_wh = (0, 0)
        self._closed = False

    def write(self, image: npt.NDArray[np.uint8], timestamp_s: float, *, name: str | None = None) -> None:
        """Encode one (H, W, 3) uint8 BGR frame shown from ``timestamp_s`` on; ``name`` is not used.

        Raises:
            ShapeError: The image is not (H, W, 3).
            DTypeError: The image is not uint8.
            InputError: The time is no number.
            MediaError: The disk is full, the encoder failed, or the writer is closed.
        """
        del name
        _check_image(image)
        check_option("timestamp_s", timestamp_s, "a number of seconds", fine=isinstance(timestamp_s, Real))
        if self._closed:
            raise MediaError(f"{self.path}: the video is closed already.")
        try:
            if self._container is None:
                self._open((image.shape[1], image.shape[0]))
            yuv = cv2.cvtColor(_fitted(image, self._size_wh), cv2.COLOR_BGR2YUV_I420)
            frame = self._av.VideoFrame.from_ndarray(yuv, format="yuv420p")
            frame.pts, frame.time_base = self._ticks(timestamp_s), Fraction(1, _TICKS_PER_S)
            self._last_ticks = frame.pts
            for packet in self._stream.encode(frame):
                self._mux(packet)
        except (self._av.FFmpegError, OSError) as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{self.path}: writing the video failed: {reason(error)}. Is the disk full?") from error

    def close(self) -> None:
        """Finish the file: all frames encoded, the index in front. Calling it again does nothing.

        Raises:
            MediaError: The last frames could not be written; what was written before plays.
        """
        if self._closed:
            return
        self._closed = True
        if self._container is None:
            if self._created:
                self.path.unlink(missing_ok=True)
            return
        try:
            try:
                for packet in self._stream.encode(None):
                    self._mux(packet)
            finally:
                self._container.close()
        except (self._av.FFmpegError, OSError) as error:
            raise MediaError(f"{self.path}: finishing the video failed: {reason(error)}. Is the disk full?") from error
        self._put_index_in_front()

    def _ticks(self, timestamp_s: float) -> int:
        following = self._last_ticks + self._frame_ticks
        if not is_number(timestamp_s):
            return following
        if self._start_s is None:
            self._start_s = float(timestamp_s) - following / _TICKS_PER_S
        ticks = (float(timestamp_s) - self._start_s) * _TICKS_PER_S
        if ticks - self._last_ticks > _LONGEST_STEP_TICKS:
            return following
        return round(max(ticks, self._last_ticks + 1))

    def _open(self, frame_size_wh: tuple[int, int]) -> None:
        scale = min(1.0, _MAX_SIDE / max(frame_size_wh))
        width, height = (max(2, 2 * math.ceil(round(side * scale) / 2)) for side in frame_size_wh)
        if scale < 1:
            _LOGGER.warning("%s: frames of %d×%d are written at %d×%d.", self.path, *frame_size_wh, width, height)
        self._size_wh = (width, height)
        # The explicit protocol keeps a file called "12:30.mp4" a file.
        self._container = self._av.open(
            f"file:{self.path}",
            "w",
            format="mp4",
            options={
                "movflags": "empty_moov+default_base_moof+frag_keyframe",
                "frag_duration": str(_FRAGMENT_US),
                "flush_packets": "1",
            },
        )
        self._stream = self._new_stream()

    def _new_stream(self) -> Any:
        for encoder, options in _ENCODERS:
            if encoder not in self._av.codecs_available:
                continue
            stream = self._container.add_stream(encoder, rate=self._rate, options=dict(options))
            stream.width, stream.height = self._size_wh
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.time_base = Fraction(1, _TICKS_PER_S)
            context.gop_size = max(1, round(float(self._rate) * _KEYFRAME_S))
            # One thread: inference needs the other cores more, and the delay of frame threads would be lost frames.
            context.thread_count = 1
            colour = self._av.video.reformatter
            context.color_range = colour.ColorRange.MPEG
            context.colorspace = _SMPTE_170M
            context.color_primaries = context.color_trc = _BT_709
            return stream
        raise MediaError(
            f"{self.path}: this build of PyAV has no H.264 encoder (libx264 or libopenh264); install PyAV's own wheel."
        )

    def _mux(self, packet: Any) -> None:
        if not packet.duration:
            # The last frame of a fragment would otherwise last nothing.
            packet.duration = max(1, round(self._frame_ticks * float(Fraction(1, _TICKS_PER_S) / packet.time_base)))
        self._container.mux(packet)

    def _put_index_in_front(self) -> None:
        """Copy the packets into a plain MP4 and move it into place; on failure the fragmented one stays."""
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with (
                self._av.open(f"file:{self.path}") as fragmented,
                self._av.open(f"file:{part}", "w", format="mp4", options={"movflags": "+faststart"}) as plain,
            ):
                source = fragmented.streams.video[0]
                target = plain.add_stream_from_template(source)
                target.time_base = source.time_base
                for packet in fragmented.demux(source):
                    if packet.dts is not None:
                        packet.stream = target
                        plain.mux(packet)
            part.replace(self.path)
        except (self._av.FFmpegError, OSError) as error:
            _LOGGER.warning(
                "%s: stays a fragmented MP4, which browsers play but some editors do not: %s.", self.path, reason(error)
            )
        finally:
            part.unlink(missing_ok=True)


# AVColorSpace and AVColorPrimaries/AVColorTransferCharacteristic of FFmpeg, which are ITU-T H.273's numbers.
_SMPTE_170M = 6
_BT_709 = 1


def _try_to_write(path: Path) -> bool:
    """Make sure that a file can be written; return whether it was created (empty) for that."""
    file, created = open_result(path)
    file.close()
    return created


def _check_image(image: npt.NDArray[np.uint8]) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise DTypeError("frame", expected="uint8", actual=getattr(image, "dtype", type(image).__name__))
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError("frame", expected="(H, W, 3) with H and W at least 1", actual=image.shape)


def _fitted(image: npt.NDArray[np.uint8], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the frame at the video's size: unchanged, with a repeated edge, or scaled and centred on black."""
    width, height = size_wh
    right, below = width - image.shape[1], height - image.shape[0]
    if right == below == 0:
        return image
    if right in (0, 1) and below in (0, 1):
        return np.asarray(cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8)
    scale = min(width / image.shape[1], height / image.shape[0])
    inner_wh = (max(1, min(width, round(image.shape[1] * scale))), max(1, min(height, round(image.shape[0] * scale))))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner_wh[0]) // 2, (height - inner_wh[1]) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + inner_wh[1], left : left + inner_wh[0]] = cv2.resize(
        image, inner_wh, interpolation=interpolation
    )
    return canvas
