"""Frames from pictures, folders of pictures, video files and network addresses.

Every source yields what can be read and only then says what could not: a file that is cut off gives all its frames
and then raises ``MediaError``; a damaged packet or picture is skipped and counted, because one bad frame must not
cost the others. Files are untrusted: frames beyond ``MAX_FRAME_PIXELS`` are refused before they are decoded, and a
file may not make FFmpeg open other files or addresses (playlists are refused).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from rtmpose_infer.closing import Closing
from rtmpose_infer.errors import BackendUnavailableError, InputError, MediaError
from rtmpose_infer.options import check_option, is_number, is_whole
from rtmpose_infer.video._pyav import import_av, reason, without_credentials

__all__ = [
    "MAX_FRAME_PIXELS",
    "AnimatedWebpSource",
    "Frame",
    "FrameSource",
    "PictureSource",
    "VideoFileSource",
    "load_picture",
    "open_source",
]

_LOGGER = logging.getLogger(__name__)

MAX_FRAME_PIXELS = 1 << 27
"""Frames with more pixels than this (16,384 × 8,192) are refused: 400 MB each, in practice a broken or hostile file."""

# What every build of OpenCV decodes; browsers on Windows save .jfif.
_PICTURE_SUFFIXES = frozenset(
    {".bmp", ".dib", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
    | {".pbm", ".pgm", ".pnm", ".ppm"}
)
_DEFAULT_PICTURE_RATE = 30.0
_DEFAULT_FRAME_RATE = 25.0
_HIGHEST_RATE = 10_000  # beyond it FFmpeg tells the ticks of a clock, as for raw DV
_NETWORK_TIMEOUT_S = 10.0
_MAX_DECODER_THREADS = 4

# What each kind of address may open. "file" is missing from the network's lists on purpose: a playlist from a server
# must not be able to name a file of this machine.
_HTTP_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,data"
_STREAM_PROTOCOLS = {
    "http": _HTTP_PROTOCOLS,
    "https": _HTTP_PROTOCOLS,
    "rtsp": "rtsp,rtp,srtp,udp,tcp,tls",
    "rtsps": "rtsp,rtp,srtp,udp,tcp,tls",
    "rtmp": "rtmp,rtmpe,rtmps,rtmpt,tcp,tls",
    "rtmps": "rtmp,rtmpe,rtmps,rtmpt,tcp,tls",
    "rtp": "rtp,srtp,udp",
    "udp": "udp",
    "srt": "srt,udp",
}
# Network formats that carry no times; FFmpeg would make them up from a guessed rate.
_TIMELESS_FORMATS = frozenset({"h264", "hevc", "mjpeg", "mpjpeg"})
# Demultiplexers that read text and then open what it names, or draw text as pictures.
_REFUSED_FORMATS = frozenset({"concat", "dash", "ffmetadata", "hls", "image2", "imf", "lavfi", "sdp", "tty", "vobsub"})


# FFmpeg's demultiplexers of single pictures that OpenCV decodes as well.
_STILL_FORMATS = frozenset(
    f"{kind}_pipe" for kind in ("bmp", "j2k", "jpeg", "pbm", "pgm", "png", "ppm", "tiff", "webp")
)
_WEBP_BLOCK_PIXELS = 1 << 26  # decoded at a time, 200 MB; each block is decoded from the file's beginning
_UNTIMED_S = 0.1  # what browsers make of frames that are to be shown for no time


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 BGR, upright, C-contiguous; the receiver owns it.
        index: Number of the frame in its source, from 0; frames that a live source dropped are counted.
        timestamp_s: Time since the first frame of the source, in seconds; strictly increasing.
        name: File name of a picture; None for the frames of a video.
    """

    image: npt.NDArray[np.uint8]
    index: int
    timestamp_s: float
    name: str | None = None


class FrameSource(Closing):
    """An iterator of frames, read once, in order; a context manager that closes what it opened.

    Attributes:
        name: What to call the source in messages and file names; never holds a password.
        is_live: The source runs in real time and does not wait for its reader.
        frame_rate: Frames per second, on average; None where unknown.
        frame_count: The number of frames to expect, as the file claims; None where unknown.
        size_wh: Width and height of the upright frames; None until known.
        skipped_frames: How many frames were too damaged to decode and left out so far.
        damaged_frames: How many frames were given although the decoder had to guess parts of them.
        dropped_frames: How many frames a live source discarded so far because newer ones had come.
    """

    name: str = ""
    is_live: bool = False
    frame_rate: float | None = None
    frame_count: int | None = None
    size_wh: tuple[int, int] | None = None
    skipped_frames: int = 0
    damaged_frames: int = 0
    dropped_frames: int = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            MediaError: After the last readable frame, when the source ended too early or had no frame at all.
        """

    def close(self) -> None:
        """Release the file or device; frames already yielded stay valid. Calling it again does nothing."""


def open_source(source: str | os.PathLike[str] | int, *, picture_rate: float = _DEFAULT_PICTURE_RATE) -> FrameSource:
    """Open a picture, a folder of pictures, a video file, a camera or a network address.

    Args:
        source: A path; a camera index (``0`` or ``"0"``); or an address (rtsp, http, rtmp, srt, udp, rtp). Cameras and
            streams without an end are live: their newest frame is kept and older ones are dropped. A picture that is
            animated (GIF, PNG, WebP, AVIF) is a video, unless it lies in a folder of pictures.
        picture_rate: Frames per second that a folder of pictures stands for.

    Raises:
        MediaError: It does not exist, cannot be reached, or is neither a picture nor a video.
        BackendUnavailableError: It is a video and PyAV is not installed, or an animated WebP and OpenCV too old for it.
        InputError: ``picture_rate`` is not a positive number, or the source is an empty text, a negative number or
            nothing of the above.
    """
    from rtmpose_infer.video.live import CameraSource, LatestFrameSource  # live builds on this module

    fine = is_number(picture_rate) and picture_rate > 0
    check_option("picture_rate", picture_rate, "frames per second above 0", fine=fine)
    if not isinstance(source, (str, os.PathLike)):
        check_option("source", source, "a path, an address or a camera's number", fine=is_whole(source))
        return LatestFrameSource(CameraSource(source))
    text = os.fspath(source)
    if not text:
        raise InputError("the source is an empty text; pass a file or folder ('.' is the current one), or an address.")
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", text, flags=re.IGNORECASE)
    if scheme:
        if scheme[1].lower() not in _STREAM_PROTOCOLS:
            known = ", ".join(sorted(_STREAM_PROTOCOLS))
            raise MediaError(f"{without_credentials(text)}: cannot read {scheme[1]}:// addresses; known are {known}.")
        stream = VideoFileSource(text)
        return LatestFrameSource(stream) if stream.is_live else stream
    path = Path(text)
    if path.is_dir():
        return PictureSource(_pictures_in(path), name=path.resolve().name, frame_rate=picture_rate)
    if path.is_file():
        return _file_source(path, picture_rate)
    if path.is_fifo() or path.is_char_device() or path.is_block_device():
        return VideoFileSource(path)
    if text.isdecimal():
        return LatestFrameSource(CameraSource(int(text)))
    raise MediaError(
        f"{text}: no such file or folder. Pass a video, a picture, a folder of pictures, "
        "a camera index such as 0, or an address such as rtsp://…"
    )


def _file_source(path: Path, picture_rate: float) -> FrameSource:
    """Return the source for what a file holds, whatever its name."""
    if path.suffix.lower() not in _PICTURE_SUFFIXES:
        video = VideoFileSource(path)
        if not video.is_picture:
            return video
        video.close()
    try:
        is_animated_png, durations_s = _is_animated_png(path), _webp_durations(path)
    except OSError as error:
        raise MediaError(f"{path}: cannot read the picture: {reason(error)}.") from error
    if is_animated_png:
        return VideoFileSource(path)
    if len(durations_s) > 1:
        return AnimatedWebpSource(path, durations_s)
    return PictureSource([path], name=path.name, frame_rate=picture_rate)


def load_picture(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Return a picture as (H, W, 3) uint8 BGR, turned upright as its EXIF data says; transparency is dropped.

    Raises:
        MediaError: The file is missing, no picture, damaged, or larger than ``MAX_FRAME_PIXELS``.
    """
    path = Path(path)
    try:
        # Not cv2.imread: it cannot open every file name on Windows and hides the reason of a failure.
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # no name of a file holds a zero byte
        raise MediaError(f"{path}: cannot read the picture: {reason(error)}.") from error
    _check_frame_size(_claimed_size(data), str(path))
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:
        raise MediaError(f"{path}: cannot decode the picture: {error.err}.") from error
    if image is None:
        raise MediaError(f"{path}: not a picture that OpenCV can decode, or a damaged one ({len(data)} bytes).")
    _check_frame_size((image.shape[1], image.shape[0]), str(path))  # formats whose headers are not read here
    return np.asarray(image, dtype=np.uint8)


class PictureSource(FrameSource):
    """Pictures as frames: one file, or a sequence at an assumed frame rate. A damaged picture is skipped and logged.

    Args:
        paths: The pictures, in order.
        name: See ``FrameSource``.
        frame_rate: Frames per second that the sequence stands for.

    Attributes:
        paths: The pictures, in order.
    """

    def __init__(self, paths: Sequence[Path], *, name: str, frame_rate: float = _DEFAULT_PICTURE_RATE) -> None:
        self.paths = tuple(paths)
        self.name = name
        self.frame_rate = frame_rate
        self.frame_count = len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        failure: MediaError | None = None
        for index, path in enumerate(self.paths):
            try:
                image = load_picture(path)
            except MediaError as error:
                if len(self.paths) == 1:
                    raise
                self.skipped_frames += 1
                failure = error
                _LOGGER.warning("skipped a picture: %s", error)
                continue
            self.size_wh = self.size_wh or (image.shape[1], image.shape[0])
            yield Frame(image, index, index / float(self.frame_rate or _DEFAULT_PICTURE_RATE), path.name)
        if failure is not None and self.skipped_frames == len(self.paths):
            raise failure


class AnimatedWebpSource(FrameSource):
    """The frames of an animated WebP, through OpenCV, because FFmpeg has no decoder for these.

    Args:
        path: The file.
        durations_s: How long each frame is shown, in seconds.

    Raises:
        BackendUnavailableError: This OpenCV cannot read animations.
        MediaError: The frames are larger than ``MAX_FRAME_PIXELS``.
    """

    def __init__(self, path: Path, durations_s: Sequence[float]) -> None:
        if not hasattr(cv2, "imdecodeanimation"):
            raise BackendUnavailableError(
                f"{path}: is an animated WebP, which OpenCV reads from version 4.12 on; this is {cv2.__version__}. "
                "Install it with: pip install -U opencv-python-headless"
            )
        with path.open("rb") as file:
            self.size_wh = _claimed_webp_size(file.read(30))
        _check_frame_size(self.size_wh, str(path))
        self._path = path
        self._times_s = np.cumsum([0, *durations_s]).tolist()
        self.name = path.name
        self.frame_count = len(durations_s)
        self.frame_rate = len(durations_s) / self._times_s[-1]

    def __iter__(self) -> Iterator[Frame]:
        total, (width, height) = len(self._times_s) - 1, self.size_wh or (1, 1)
        block = max(1, _WEBP_BLOCK_PIXELS // (width * height))
        try:
            data = np.fromfile(self._path, np.uint8)
        except OSError as error:
            raise MediaError(f"{self._path}: cannot be read: {reason(error)}.") from error
        for first in range(0, total, block):
            try:
                _, animation = cv2.imdecodeanimation(data, start=first, count=min(block, total - first))
            except cv2.error as error:
                raise MediaError(f"{self._path}: cannot decode the animation: {error.err}.") from error
            for index, image in enumerate(animation.frames, start=first):
                yield Frame(np.ascontiguousarray(image[..., :3], dtype=np.uint8), index, self._times_s[index])
            got = first + len(animation.frames)
            if got < min(first + block, total):
                raise MediaError(
                    f"{self._path}: ends too early: {got} of {total} frames could be read; the file is cut off or "
                    "damaged, copy it again."
                )


class VideoFileSource(FrameSource):
    """The video stream of a file or address, through FFmpeg, with its own timestamps, turned and mirrored upright.

    A stream without a known duration, or over a real-time protocol, has ``is_live`` set; wrap it in
    ``LatestFrameSource`` to drop stale frames instead of lagging behind.

    Args:
        source: Path or address.

    Attributes:
        is_picture: The file is a single picture, whatever its name.

    Raises:
        MediaError: It cannot be opened, or holds no video that can be decoded.
        BackendUnavailableError: PyAV is not installed.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        av = import_av()
        text = os.fspath(source)
        scheme = text.partition("://")[0].lower() if "://" in text else "file"
        self._is_network = is_network = scheme in _STREAM_PROTOCOLS
        self.name = without_credentials(text) if is_network else Path(text).name
        self._label = self.name if is_network else text
        # The explicit protocol keeps a file called "concat:…" a file.
        # FFmpeg knows schemes in small letters only.
        url = scheme + text[len(scheme) :] if is_network else f"file:{text}"
        options = {"protocol_whitelist": _STREAM_PROTOCOLS[scheme] if is_network else "file"}
        if scheme.startswith("rtsp"):
            # Not "nobuffer": it throws away what was read to find out the format, and with it the only key frame for
            # seconds. A live source drops what is stale anyway.
            options |= {"rtsp_transport": "tcp"}
        try:
            # Not as "options", which go to the streams too: before release 17.1 PyAV then crashes on every FLV.
            self._container = av.open(
                url, container_options=options, timeout=_NETWORK_TIMEOUT_S if is_network else None
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise MediaError(_why_unreadable(self._label, is_network=is_network, words=reason(error))) from error
        try:
            self._set_up(av, is_network=is_network, real_time=is_network and not scheme.startswith("http"))
        except BaseException:
            self._container.close()
            raise

    def _set_up(self, av: Any, *, is_network: bool, real_time: bool) -> None:
        formats = set(self._container.format.name.split(","))
        self.is_picture = bool(formats & _STILL_FORMATS)
        refused = formats & (_REFUSED_FORMATS - {"hls", "sdp"} if is_network else _REFUSED_FORMATS)
        if refused:
            raise MediaError(
                f"{self._label}: is not a video but a text of the form {min(refused)!r}, which may name other "
                "files; pass the video itself."
            )
        # The cover of a song is a stream of one picture.
        covers = av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & covers]
        if not streams:
            raise MediaError(f"{self._label}: holds no video stream; only video can be tracked.")
        # An AVIF with an animation holds its still first.
        stream = self._stream = next((s for s in streams if s.frames != 1), streams[0])
        if stream.codec_context is None:
            raise MediaError(f"{self._label}: no decoder for its video codec; convert it to H.264 with ffmpeg first.")
        _check_frame_size((stream.width, stream.height), self._label)
        # Decoding needs a core at most; more threads would take cores from inference, and each holds a frame.
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(_MAX_DECODER_THREADS, os.cpu_count() or 1)
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        rates = (stream.average_rate, stream.guessed_rate)
        self.frame_rate = next((float(rate) for rate in rates if rate and rate <= _HIGHEST_RATE), None)
        self._expected_s, self._tolerance_s = self._expected_duration(formats)
        # A GIF states no length, but has an end.
        self.is_live = real_time or (is_network and self._expected_s is None and "gif" not in formats)
        self._times_are_arrivals = self.is_live and bool(formats & _TIMELESS_FORMATS)
        if stream.frames:
            self.frame_count = int(stream.frames)
        elif self._expected_s and self.frame_rate:
            self.frame_count = round(self._expected_s * self.frame_rate)

        self._is_gif = "gif" in formats and not is_network

    def _expected_duration(self, formats: set[str]) -> tuple[float | None, float]:
        """Return how many seconds of video the file claims, and by how much the frames may fall short of it."""
        stream, container = self._stream, self._container
        precise_s = max(0.1, 2 / (self.frame_rate or _DEFAULT_FRAME_RATE))
        whole_s = container.duration / 1e6 if container.duration else None
        if stream.duration and stream.time_base:
            own_s = float(stream.duration * stream.time_base)
            # An edit list shortens the movie but not the track; a longer sound track lengthens the movie.
            return (own_s if whole_s is None else min(own_s, whole_s)), precise_s
        tagged_s = _tagged_duration(stream.metadata) if "matroska" in formats else None
        if whole_s is None or (tagged_s is None and len(container.streams) > 1):
            return whole_s, max(2.0, 0.05 * (whole_s or 0.0))
        # Such containers count from their own zero; the frames are counted from the first one.
        start_s = max(0.0, float(stream.start_time * stream.time_base)) if stream.start_time else 0.0
        return max(0.0, min(tagged_s or whole_s, whole_s) - start_s), precise_s

    def __iter__(self) -> Iterator[Frame]:
        av = import_av()
        reformatter = av.video.reformatter.VideoReformatter()
        # Before release 17 PyAV converted on one thread and had no such argument.
        one_thread = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
        index, first_s, last_s = 0, None, 0.0
        frame_s = 1 / (self.frame_rate or _DEFAULT_FRAME_RATE)
        for decoded in self._decoded_frames(av):
            try:
                _check_frame_size((decoded.width, decoded.height), self._label)
                converted = reformatter.reformat(decoded, format="bgr24", **one_thread)
                image = _upright(_own_array(converted, of_decoder=converted is decoded), decoded)
            except (av.FFmpegError, ValueError) as error:
                self._skip(error)
                continue
            time_s = time.monotonic() if self._times_are_arrivals else decoded.time
            expected_s = last_s + frame_s if index else 0.0
            if first_s is None and time_s is not None:
                # A stream that was joined in its midst gives its first frames without times.
                first_s = time_s - expected_s
            now_s = expected_s if time_s is None or first_s is None else time_s - first_s
            if index and not now_s > last_s:
                # Raw streams have no times, and some muxers repeat one; time must still go forward.
                now_s = expected_s
            self.size_wh = self.size_wh or (image.shape[1], image.shape[0])
            self._note_damage(damaged=decoded.is_corrupt)
            yield Frame(image, index, now_s)
            index, last_s = index + 1, now_s
        if index == 0:
            hint = ""
            if self._is_network:
                hint = " Or its index is at the end and the server gives no parts of files: download it first."
            raise MediaError(
                f"{self._label}: not a single frame could be decoded; the video is empty or damaged.{hint}"
            )
        self._check_complete(index, max(last_s + frame_s, self._packets_end_s))

    def _decoded_frames(self, av: Any) -> Iterator[Any]:
        self._stopped_by: BaseException | None = None
        self._packets_end_s = 0.0
        packets = self._container.demux(self._stream)
        start = self._stream.start_time or 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                # What the decoder still holds was read before the failure.
                self._stopped_by = error
                packet = None
            if packet is not None and packet.pts is not None:
                end_s = float((packet.pts + (packet.duration or 0) - start) * packet.time_base)
                self._packets_end_s = max(self._packets_end_s, end_s)
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError as error:
                self._skip(error)
                frames = []
            yield from frames
            if packet is None:
                return

    def _skip(self, error: BaseException) -> None:
        self.skipped_frames += 1
        # A damaged file has thousands of such packets; the count is reported, the first one explained.
        level = logging.WARNING if self.skipped_frames == 1 else logging.DEBUG
        _LOGGER.log(level, "%s: skipped a damaged frame: %s", self._label, reason(error))

    def _note_damage(self, *, damaged: bool) -> None:
        self.damaged_frames += damaged
        if damaged and self.damaged_frames == 1:
            _LOGGER.warning("%s: parts of a frame are damaged; the decoder filled them in.", self._label)

    def _check_complete(self, frames: int, end_s: float) -> None:
        if self._stopped_by is not None or self.is_live:  # nothing live has an end of its own
            what = "the stream stopped" if self.is_live else "reading stopped"
            error, why = self._stopped_by, "the other side ended it"
            # FFmpeg also tells the end of a stream whose length was not told by an input/output error.
            if error is not None and not (self.is_live and getattr(error, "errno", None) == errno.EIO):
                why = reason(error)
            raise MediaError(
                f"{self._label}: {what} after {frames} frames ({end_s:.1f} s): {why}. "
                "What was read until then is complete."
            ) from error
        promise = ""
        if self._is_gif and not _ends_with_gif_trailer(Path(self._label)):
            promise = "and its end mark is missing"
        elif self._expected_s is not None and self._expected_s - end_s > self._tolerance_s:
            promise = f"of the {self._expected_s:.1f} s that the file promises"
        if promise:
            raise MediaError(
                f"{self._label}: ends too early: {frames} frames or {end_s:.1f} s could be read {promise}. "
                "What was read is complete; the file is cut off or damaged, copy it again for the rest."
            )

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()


def _tagged_duration(tags: Mapping[str, str]) -> float | None:
    """Return the length in seconds that Matroska's muxers write beside a stream, as ``00:00:13.640000000``."""
    for name, text in tags.items():
        found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip("\0 "))
        if name.upper().startswith("DURATION") and found:
            return (int(found[1]) * 60 + int(found[2])) * 60 + float(found[3]) or None
    return None


def _ends_with_gif_trailer(path: Path) -> bool:
    """Tell whether a GIF is whole: it states no length, but ends with a semicolon (some writers pad with zeros)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return file.read().rstrip(b"\0").endswith(b";")


def _pictures_in(folder: Path) -> list[Path]:
    try:
        paths = [p for p in folder.iterdir() if p.suffix.lower() in _PICTURE_SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise MediaError(f"{folder}: cannot list the folder: {reason(error)}.") from error
    if not paths:
        suffixes = " ".join(sorted(_PICTURE_SUFFIXES))
        raise MediaError(f"{folder}: holds no pictures (looked for {suffixes}); pass a folder of pictures, or a video.")
    return sorted(paths, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort ``frame2`` before ``frame10``: runs of digits compare as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def _claimed_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height as a picture's header claims, so that a bomb is refused before it is decoded."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:2] == b"BM":
        width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
        return abs(width), abs(height)
    if data[:2] == b"\xff\xd8":
        return _claimed_jpeg_size(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _claimed_webp_size(data)
    if data[:4] in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
        return _claimed_tiff_size(data)
    if claim := re.match(rb"P[1-6]((?:\s|#[^\n]*\n)+\d+){2}", data):
        sides = re.sub(rb"#[^\n]*", b"", claim.group()[2:]).split()
        return int(sides[0][:9]), int(sides[1][:9])
    start = data.find(b"\xff\x4f\xff\x51")  # JPEG 2000: the code stream, in its box or bare
    if start == 0 or (start > 0 and data[4:8] == b"jP  "):
        right, below, left, above = (int.from_bytes(data[i : i + 4], "big") for i in range(start + 8, start + 24, 4))
        return right - left, below - above
    return None


def _claimed_jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while 0 <= (position := data.find(b"\xff", position)) <= len(data) - 9:
        marker = data[position + 1]
        if marker in (0x00, 0xFF):  # decoders skip filling and what is no marker
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = (int.from_bytes(data[position + i : position + i + 2], "big") for i in (5, 7))
            return width, height
        if marker == 0xDA:  # the picture itself
            return None
        position += 2
        if marker != 0x01 and not 0xD0 <= marker <= 0xD8:  # those stand alone
            position += int.from_bytes(data[position : position + 2], "big")
    return None


def _is_animated_png(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return False
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            if head[4:] == b"acTL":  # the number of frames and of loops; comes before the picture's data
                return int.from_bytes(file.read(4), "big") > 1
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _webp_durations(path: Path) -> list[float]:
    """Return for how many seconds each frame of an animated WebP is shown; nothing for any other file."""
    durations_s: list[float] = []
    with path.open("rb") as file:
        start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WEBP":
            return []
        while len(head := file.read(8)) == 8:
            end = file.tell() + int.from_bytes(head[4:], "little")
            if head[:4] == b"ANMF":
                durations_s.append(int.from_bytes(file.read(16)[12:15], "little") / 1000 or _UNTIMED_S)
            file.seek(end + end % 2)
    return durations_s


def _claimed_webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        sides = int.from_bytes(data[21:25], "little")
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _claimed_tiff_size(data: bytes) -> tuple[int, int]:
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    is_big = b"+" in data[2:4]
    offset_bytes, count_bytes, entry_bytes = (8, 8, 20) if is_big else (4, 2, 12)
    start = int.from_bytes(data[offset_bytes : 2 * offset_bytes], order)
    count = int.from_bytes(data[start : start + count_bytes], order)
    sides = {0x100: 0, 0x101: 0}
    for position in range(start + count_bytes, min(start + count_bytes + count * entry_bytes, len(data)), entry_bytes):
        tag, kind = (int.from_bytes(data[position + i : position + i + 2], order) for i in (0, 2))
        if tag in sides:
            value = position + 4 + offset_bytes
            sides[tag] = int.from_bytes(data[value : value + {3: 2, 4: 4, 16: 8}.get(kind, 1)], order)
    return sides[0x100], sides[0x101]


def _check_frame_size(size_wh: tuple[int, int] | None, label: str) -> None:
    if size_wh is not None and size_wh[0] * size_wh[1] > MAX_FRAME_PIXELS:
        raise MediaError(
            f"{label}: frames of {size_wh[0]}×{size_wh[1]} pixels are refused; the limit is {MAX_FRAME_PIXELS:,} "
            "pixels. Scale it down first."
        )


def _own_array(frame: Any, *, of_decoder: bool) -> npt.NDArray[np.uint8]:
    """Return a frame's pixels as a contiguous array that may be written to.

    PyAV gives a view of FFmpeg's memory, with padded rows where the width asks for it; ours alone after a conversion,
    but what came out of the decoder as BGR may still serve it as a reference.
    """
    array = frame.to_ndarray()
    return np.array(array) if of_decoder else np.require(array, np.uint8, ["C_CONTIGUOUS", "WRITEABLE"])


def _upright(image: npt.NDArray[np.uint8], frame: Any) -> npt.NDArray[np.uint8]:
    """Turn and mirror a decoded picture as its display matrix asks (by multiples of 90 degrees)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # x′ = a·x + c·y and y′ = b·x + d·y, in FFmpeg's fixed-point numbers.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = np.asarray(cv2.transpose(image), dtype=np.uint8), c, b
    if a < 0 or d < 0:
        image = np.asarray(cv2.flip(image, -1 if a < 0 and d < 0 else int(a < 0)), dtype=np.uint8)
    return image


def _why_unreadable(label: str, *, is_network: bool, words: str) -> str:
    if is_network:
        return (
            f"{label}: cannot open the stream: {words}. Check the address, the user and password in it, "
            "and that this machine can reach it."
        )
    path = Path(label)
    if not path.exists():
        return f"{label}: no such file."
    if path.is_file() and path.stat().st_size == 0:
        return f"{label}: the file is empty (0 bytes)."
    return (
        f"{label}: not a video that FFmpeg can open ({words}). If it is an MP4 whose copy or recording was cut off, "
        "its index is missing; copy it again, or repair it with the tool that recorded it."
    )
