"""Reading and writing video. The films are made here, a few small frames each; nothing is committed."""

from __future__ import annotations

import functools
import http.server
import importlib
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from zlib import crc32

import cv2
import numpy as np
import pytest

from rtmpose_infer.errors import BackendUnavailableError, DTypeError, InputError, MediaError, ShapeError
from rtmpose_infer.video import (
    CameraSource,
    Frame,
    FrameSource,
    LatestFrameSource,
    PictureSource,
    PictureWriter,
    VideoFileSource,
    VideoWriter,
    live,
    load_picture,
    open_source,
    open_writer,
    sources,
)
from rtmpose_infer.video._pyav import without_credentials

av = pytest.importorskip("av", reason="video needs PyAV")


def grey(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def make_video(
    path: Path,
    images: list[np.ndarray],
    times_s: list[float] | None = None,
    *,
    codec: str = "libx264",
    rate: int = 25,
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """Write frames with PyAV itself, so that reading is tested against something other than our writer."""
    times_s = times_s or [i / rate for i in range(len(images))]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p", "rawvideo": "bgr24", "flashsv": "bgr24"}.get(
            codec, "yuv420p"
        )
        if codec != "gif":
            stream.codec_context.time_base = Fraction(1, 1000) if codec != "mpeg4" else Fraction(1, rate)
        if rotation:
            stream.set_display_rotation(rotation)
        for image, time_s in zip(images, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=stream.pix_fmt)
            base = Fraction(1, 1000) if codec not in ("mpeg4", "gif") else Fraction(1, rate)
            frame.pts, frame.time_base = round(time_s / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def animated(folder: Path, kind: str, greys: list[int], durations_ms: list[int]) -> Path:
    """Write an animated picture of grey frames, where this OpenCV can."""
    if not hasattr(cv2, "imdecodeanimation"):
        pytest.skip("OpenCV writes animated pictures from version 4.12 on")
    animation = cv2.Animation()
    animation.frames, animation.durations = [grey(level) for level in greys], durations_ms
    path = folder / f"a.{kind}"
    try:
        assert cv2.imwriteanimation(str(path), animation)
    except cv2.error:
        pytest.skip(f"this OpenCV writes no {kind}")
    return path


def levels(frames: list[Frame]) -> list[float]:
    return [float(frame.image.mean()) for frame in frames]


@pytest.fixture
def without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without_av(name: str, package: str | None = None) -> object:
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_av)


class ListedSource(FrameSource):
    """A live source whose frames are released one by one by the test."""

    is_live = True
    name = "listed"

    def __init__(self, frames: Iterable[Frame], gate: Callable[[int], None], failure: Exception | None = None) -> None:
        self._frames, self._gate, self._failure = frames, gate, failure
        self.closed_by: str | None = None

    def __iter__(self) -> Iterator[Frame]:
        count = 0
        for count, frame in enumerate(self._frames, 1):
            self._gate(count - 1)
            yield frame
        self._gate(count)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self.closed_by = threading.current_thread().name


class TestPictures:
    def test_one_picture_is_one_frame_at_time_zero(self, tmp_path):
        cv2.imwrite(str(tmp_path / "a.png"), grey(77))
        with open_source(tmp_path / "a.png") as source:
            frames = list(source)
        assert [(f.index, f.timestamp_s, f.name) for f in frames] == [(0, 0.0, "a.png")]
        assert frames[0].image.shape == (48, 64, 3)
        assert not source.is_live
        assert source.frame_count == 1

    def test_folder_is_read_in_natural_order_at_the_given_rate(self, tmp_path):
        for number in (10, 2, 1):
            cv2.imwrite(str(tmp_path / f"frame{number}.png"), grey(number))
        (tmp_path / "notes.txt").write_text("not a picture")
        frames = list(open_source(tmp_path, picture_rate=10))
        assert levels(frames) == [1, 2, 10]
        assert [f.timestamp_s for f in frames] == [0.0, 0.1, 0.2]

    @pytest.mark.parametrize("ending", ["jfif", "JPE", "dib", "ppm"])
    def test_rarer_ending_is_a_picture_too_alone_and_in_a_folder(self, tmp_path, ending):
        kind = {"jfif": ".jpg", "JPE": ".jpg", "dib": ".bmp"}.get(ending, ".ppm")
        picture = tmp_path / f"a.{ending}"
        picture.write_bytes(cv2.imencode(kind, grey(50))[1].tobytes())
        for source in (open_source(picture), open_source(tmp_path)):
            assert source.frame_count == 1
            assert [f.name for f in source] == [picture.name]

    def test_damaged_picture_is_skipped_and_counted_and_the_others_keep_their_times(self, tmp_path):
        for number in range(3):
            cv2.imwrite(str(tmp_path / f"{number}.png"), grey(number))
        (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:30])
        source = open_source(tmp_path, picture_rate=1)
        assert [f.timestamp_s for f in source] == [0.0, 2.0]
        assert source.skipped_frames == 1

    def test_grey_and_transparent_and_sixteen_bit_pictures_become_bgr_uint8(self, tmp_path):
        for name, image in {
            "grey.png": np.full((5, 7), 200, np.uint8),
            "rgba.png": np.full((5, 7, 4), 200, np.uint8),
            "deep.png": np.full((5, 7, 3), 200 * 257, np.uint16),
        }.items():
            cv2.imwrite(str(tmp_path / name), image)
            loaded = load_picture(tmp_path / name)
            assert loaded.shape == (5, 7, 3)
            assert loaded.dtype == np.uint8
            assert loaded.max() == 200

    def test_picture_taken_sideways_is_turned_upright(self, tmp_path):
        path = tmp_path / "phone.jpg"
        cv2.imwrite(str(path), grey(100, width=64, height=48))
        jpeg = path.read_bytes()
        # EXIF orientation 6: the picture is to be turned clockwise by 90 degrees.
        tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
        segment = b"Exif\0\0" + tiff
        path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:])
        assert load_picture(path).shape == (64, 48, 3)

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
    def test_file_that_is_no_picture_is_a_media_error(self, tmp_path, content):
        path = tmp_path / "x.png"
        path.write_bytes(content)
        source = open_source(path)
        with pytest.raises(MediaError, match=r"x\.png"):
            list(source)
        assert source.skipped_frames == 0  # the error says it all

    def test_name_that_no_file_can_have_is_a_media_error(self):
        with pytest.raises(MediaError, match="cannot read the picture"):
            load_picture("a\0b.png")

    def test_picture_bomb_is_refused_by_its_header(self, tmp_path):
        path = tmp_path / "bomb.png"
        cv2.imwrite(str(path), grey(0))
        data = bytearray(path.read_bytes())
        data[16:24] = (30_000).to_bytes(4, "big") * 2
        path.write_bytes(data)
        with pytest.raises(MediaError, match="30000×30000 pixels are refused"):
            load_picture(path)

    def test_jpeg_and_bmp_bombs_are_refused_too(self, tmp_path):
        jpeg, bmp = tmp_path / "a.jpg", tmp_path / "a.bmp"
        cv2.imwrite(str(jpeg), grey(9))
        cv2.imwrite(str(bmp), grey(9))
        data = bytearray(jpeg.read_bytes())
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = (60_000).to_bytes(2, "big") * 2
        jpeg.write_bytes(data)
        data = bytearray(bmp.read_bytes())
        data[18:26] = (60_000).to_bytes(4, "little") * 2
        bmp.write_bytes(data)
        for path in (jpeg, bmp):
            with pytest.raises(MediaError, match="60000×60000"):
                load_picture(path)

    @pytest.mark.parametrize(
        "header",
        [
            b"\xff\xd8\xff\xff\xff\xe0\0\x04ab\0\0\xff\xc0\0\x11\x08\x75\x30\x75\x30\x03",
            b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x2f\x75\0\x2f\x75\0",
            b"II*\0\x08\0\0\0\x02\0" + b"\0\x01\x03\0\x01\0\0\0\x30\x75\0\0" + b"\x01\x01\x04\0\x01\0\0\0\x30\x75\0\0",
            b"MM\0*\0\0\0\x08\0\x02" + b"\x01\0\0\x03\0\0\0\x01\x75\x30\0\0" + b"\x01\x01\0\x04\0\0\0\x01\0\0\x75\x30",
            b"\xff\x4f\xff\x51\0\x2f\0\0" + b"\0\0\x75\x31" * 2 + b"\0\0\0\x01" * 2,
            b"P6 # of 1 1\n30000\n#\n30000 255\n",
            b"\xff\xd8\xff\xc4\0\x13" + bytes(17) + b"\xff\xc0\0\x11\x08\x75\x30\x75\x30\x03",
            b"\xff\xd8\xff\xd0\xff\xc0\0\x11\x08\x75\x30\x75\x30\x03",
            b"BM" + bytes(16) + b"\x30\x75\0\0" + (-30000).to_bytes(4, "little", signed=True),
            (
                b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
                b"\0\x01\x10\0\x01\0\0\0\0\0\0\0\x30\x75\0\0\0\0\0\0"
                b"\x01\x01\x04\0\x01\0\0\0\0\0\0\0\x30\x75\0\0\0\0\0\0"
            ),
        ],
        ids=[
            "jpeg with filling",
            "webp",
            "tiff",
            "tiff, big-endian",
            "jpeg 2000",
            "ppm",
            "jpeg with tables first",
            "jpeg with a lone mark",
            "bmp from the top",
            "big tiff",
        ],
    )
    def test_bombs_of_other_forms_are_refused_too(self, tmp_path, header):
        (tmp_path / "bomb.jpg").write_bytes(header + bytes(100))
        with pytest.raises(MediaError, match="30000×30000 pixels are refused"):
            load_picture(tmp_path / "bomb.jpg")

    @pytest.mark.parametrize("name", ["a.jpg", "a.webp", "lossless.webp", "a.tif", "a.png", "a.bmp", "a.ppm"])
    def test_claimed_sizes_are_those_of_the_pictures(self, tmp_path, name):
        lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if name == "lossless.webp" else []
        cv2.imwrite(str(tmp_path / name), grey(90, width=70, height=48), lossless)
        assert sources._claimed_size((tmp_path / name).read_bytes()) == (70, 48)

    @pytest.mark.parametrize(
        ("sides", "words"), [((1 << 21, 1), "cannot decode"), ((300, 2), "300×2 pixels are refused")]
    )
    def test_picture_too_large_is_refused_though_its_header_is_not_known_here(
        self, tmp_path, monkeypatch, sides, words
    ):
        monkeypatch.setattr(sources, "MAX_FRAME_PIXELS", 599)
        pam = b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" % sides
        (tmp_path / "a.png").write_bytes(pam + bytes(1800))
        with pytest.raises(MediaError, match=words):
            load_picture(tmp_path / "a.png")

    def test_picture_as_large_as_the_limit_is_not_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "MAX_FRAME_PIXELS", 64 * 48)
        cv2.imwrite(str(tmp_path / "a.png"), grey(9))
        assert load_picture(tmp_path / "a.png").shape == (48, 64, 3)

    def test_folder_has_the_size_of_its_first_picture_and_hidden_files_are_left_out(self, tmp_path):
        for name, width in {"1.png": 64, "2.png": 32, "._1.png": 16}.items():
            cv2.imwrite(str(tmp_path / name), grey(9, width=width))
        source = open_source(tmp_path)
        assert source.size_wh is None
        assert [frame.name for frame in source] == ["1.png", "2.png"]
        assert source.size_wh == (64, 48)

    def test_order_of_a_folder_is_plain_also_where_numbers_are_equal_or_odd(self, tmp_path):
        names = ["001.png", "01.png", "1.png", "1²3.png", "2.png"]
        for name in names[::-1]:
            (tmp_path / name).write_bytes(cv2.imencode(".png", grey(9))[1].tobytes())
        assert [frame.name for frame in open_source(tmp_path)] == names

    def test_folder_without_a_picture_that_can_be_read_says_why(self, tmp_path):
        for name in ("1.png", "2.png"):
            (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(MediaError, match=r"2\.png: not a picture"):
            list(open_source(tmp_path))

    def test_one_picture_and_the_current_folder_have_names_and_the_given_rate(self, tmp_path, monkeypatch):
        cv2.imwrite(str(tmp_path / "a.png"), grey(9))
        monkeypatch.chdir(tmp_path)
        for path, name in {"a.png": "a.png", ".": tmp_path.name}.items():
            source = open_source(path, picture_rate=7)
            assert (source.name, source.frame_rate) == (name, 7)

    @pytest.mark.parametrize("name", ["a.png", "A.PNG"])
    def test_pictures_need_no_pyav(self, tmp_path, without_pyav, name):
        (tmp_path / name).write_bytes(cv2.imencode(".png", grey(9))[1].tobytes())
        for path in (tmp_path / name, tmp_path):
            assert [frame.name for frame in open_source(path)] == [name]

    def test_empty_folder_says_what_it_looked_for(self, tmp_path):
        with pytest.raises(MediaError, match=r"holds no pictures .*\.png"):
            open_source(tmp_path)


class TestVideoFiles:
    def test_frames_come_with_the_files_own_times(self, tmp_path):
        times_s = [0.0, 0.04, 0.5, 0.51, 2.0]
        path = make_video(tmp_path / "vfr.mp4", [grey(40 * i) for i in range(5)], times_s)
        with open_source(path) as source:
            frames = list(source)
        assert [f.timestamp_s for f in frames] == pytest.approx(times_s, abs=1e-3)
        assert [f.index for f in frames] == [0, 1, 2, 3, 4]
        assert levels(frames) == pytest.approx([0, 40, 80, 120, 160], abs=3)
        assert source.size_wh == (64, 48)
        assert source.frame_count == 5

    @pytest.mark.parametrize("name", ["a.webp", "a.png", "a.apng", "a.avif", "webp", "png", "avif"])
    def test_animated_pictures_are_videos_by_their_content(self, tmp_path, name):
        kind = name.rpartition(".")[2].replace("apng", "png")
        path = animated(tmp_path, kind, [20, 60, 100, 140, 180], [40, 80, 40, 120, 40]).rename(tmp_path / name)
        source = open_source(path)
        frames = list(source)
        assert [f.timestamp_s for f in frames] == pytest.approx([0, 0.04, 0.12, 0.16, 0.28], abs=1e-3)
        assert levels(frames) == pytest.approx([20, 60, 100, 140, 180], abs=4)
        assert [f.index for f in frames] == [0, 1, 2, 3, 4]
        assert {f.name for f in frames} == {None}
        assert source.name == name
        assert source.size_wh == (64, 48)
        assert source.frame_rate == pytest.approx(5 / 0.32, rel=0.1)

    def test_animated_webp_is_decoded_in_blocks(self, tmp_path, monkeypatch):
        path = animated(tmp_path, "webp", list(range(0, 210, 30)), [0] + [50] * 6)
        monkeypatch.setattr("rtmpose_infer.video.sources._WEBP_BLOCK_PIXELS", 3 * 64 * 48)
        source = open_source(path)
        frames = list(source)
        assert source.frame_count == len(frames) == 7
        assert levels(frames) == pytest.approx(list(range(0, 210, 30)), abs=4)
        assert all(f.image.flags.writeable and f.image.flags.c_contiguous for f in frames)
        assert np.all(np.diff([f.timestamp_s for f in frames]) > 0)  # a frame that is shown for no time has a time too

    def test_animated_webp_that_is_cut_off_says_so(self, tmp_path):
        path = animated(tmp_path, "webp", [20, 60, 100], [40, 40, 40])
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(MediaError, match=r"a\.webp"):
            list(open_source(path))

    def test_animated_webp_whose_last_frames_are_damaged_gives_the_others_first(self, tmp_path):
        path = animated(tmp_path, "webp", [20, 60, 100, 140], [40] * 4)
        data = path.read_bytes()
        last = data.rindex(b"VP8 ") if b"VP8 " in data else data.rindex(b"VP8L")
        path.write_bytes(data[: last + 20] + bytes(len(data) - last - 20))
        frames: list[Frame] = []
        with pytest.raises(MediaError, match=r"ends too early: 3 of 4 frames"):
            frames.extend(open_source(path))
        assert levels(frames) == pytest.approx([20, 60, 100], abs=4)

    def test_animated_webp_bomb_is_refused_when_it_is_opened(self, tmp_path):
        path = animated(tmp_path, "webp", [20, 60], [40, 40])
        data = bytearray(path.read_bytes())
        data[24:30] = (29_999).to_bytes(3, "little") * 2
        path.write_bytes(data)
        with pytest.raises(MediaError, match="30000×30000 pixels are refused"):
            open_source(path)

    def test_animated_webp_with_a_chunk_of_odd_length_is_read_whole(self, tmp_path):
        path = animated(tmp_path, "webp", [20, 60, 100], [40, 80, 40])
        data = path.read_bytes()
        start = data.index(b"ANMF")
        odd = data[:start] + b"odd!" + (3).to_bytes(4, "little") + b"abc\0" + data[start:]
        path.write_bytes(b"RIFF" + (len(odd) - 8).to_bytes(4, "little") + odd[8:])
        assert [f.timestamp_s for f in open_source(path)] == pytest.approx([0, 0.04, 0.12])

    def test_animation_of_one_frame_is_a_picture(self, tmp_path):
        png = cv2.imencode(".png", grey(90))[1].tobytes()
        one = b"acTL" + (1).to_bytes(4, "big") + bytes(4)
        (tmp_path / "a.png").write_bytes(
            png[:33] + (8).to_bytes(4, "big") + one + crc32(one).to_bytes(4, "big") + png[33:]
        )
        webp = cv2.imencode(".webp", grey(90))[1].tobytes()
        webp = webp[webp.index(b"VP8 ") :] if b"VP8 " in webp else webp[webp.index(b"VP8L") :]
        size = (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
        data = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0" + size + b"ANIM\x06\0\0\0" + bytes(6) + b"ANMF"
        data += (16 + len(webp)).to_bytes(4, "little") + bytes(6) + size + bytes(4) + webp
        (tmp_path / "a.webp").write_bytes(b"RIFF" + len(data).to_bytes(4, "little") + data)
        for name in ("a.png", "a.webp"):
            (frame,) = open_source(tmp_path / name)
            assert frame.name == name
            assert frame.image.mean() == pytest.approx(90, abs=2)

    def test_animated_webp_needs_an_opencv_that_reads_it(self, tmp_path, monkeypatch):
        path = animated(tmp_path, "webp", [20, 60], [40, 40])
        monkeypatch.delattr(cv2, "imdecodeanimation")
        with pytest.raises(BackendUnavailableError, match=r"4\.12"):
            open_source(path)

    def test_picture_that_may_not_be_read_is_a_media_error(self, tmp_path, monkeypatch):
        path = tmp_path / "a.png"
        path.write_bytes(b"")

        def refuse(self: Path, *_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)  # root may read everything
        with pytest.raises(MediaError, match=r"a\.png: cannot read the picture: Permission denied"):
            open_source(path)

    @pytest.mark.parametrize("name", ["still", "still.mp4", "still.dat"])
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm"])
    def test_pictures_are_known_by_their_content(self, tmp_path, name, suffix):
        (tmp_path / name).write_bytes(cv2.imencode(suffix, grey(90))[1].tobytes())
        source = open_source(tmp_path / name)
        assert isinstance(source, PictureSource)
        (frame,) = source
        assert frame.name == name
        assert frame.image.mean() == pytest.approx(90, abs=2)

    @pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".avi", "mpeg4"), (".gif", "gif")])
    def test_other_containers_and_gif_are_read_whole(self, tmp_path, suffix, codec):
        path = make_video(tmp_path / f"a{suffix}", [grey(25 * i) for i in range(8)], codec=codec, rate=10)
        frames = list(open_source(path))
        assert len(frames) == 8
        assert frames[4].timestamp_s == pytest.approx(0.4, abs=0.02)
        assert np.all(np.diff(levels(frames)) > 5)

    @pytest.mark.parametrize(
        ("width", "codec"),
        [(64, "libx264"), (62, "libx264"), (66, "rawvideo"), (64, "rawvideo"), (64, "flashsv")],
    )
    def test_frames_belong_to_the_receiver(self, tmp_path, width, codec):
        images = [grey(100, width=width)] * 4
        suffix = {"libx264": "mp4", "flashsv": "flv"}.get(codec, "nut")
        path = make_video(tmp_path / f"own.{suffix}", images, codec=codec)
        seen = []
        for frame in open_source(path):
            assert frame.image.flags.c_contiguous
            assert frame.image.flags.writeable
            seen.append(frame.image.mean())
            frame.image[:] = 0  # must not show up in later frames
        assert seen == pytest.approx([100] * 4, abs=5)

    def test_colours_survive_decoding(self, tmp_path):
        image = grey(0)
        image[:] = (40, 90, 200)
        frame = next(iter(open_source(make_video(tmp_path / "c.mp4", [image] * 3))))
        assert frame.image.mean(axis=(0, 1)) == pytest.approx((40, 90, 200), abs=4)

    @pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot write rotation")
    def test_phone_video_is_turned_upright_as_its_metadata_says(self, tmp_path):
        image = grey(0, width=64, height=48)
        image[:24] = 255
        turned = next(iter(open_source(make_video(tmp_path / "r.mp4", [image] * 3, rotation=90))))
        # Counter-clockwise by 90 degrees: the bright upper half comes to the left.
        assert turned.image.shape == (64, 48, 3)
        assert turned.image[:, :20].mean() > 240
        assert turned.image[:, 28:].mean() < 15

    @pytest.mark.parametrize(
        ("matrix", "corners"),
        [
            ((1, 0, 0, 1), "abcd"),
            ((0, 1, -1, 0), "cadb"),
            ((-1, 0, 0, -1), "dcba"),
            ((0, -1, 1, 0), "bdac"),
            ((-1, 0, 0, 1), "badc"),
            ((1, 0, 0, -1), "cdab"),
            ((0, 1, 1, 0), "acbd"),
            ((0, -1, -1, 0), "dbca"),
        ],
    )
    def test_mirrored_video_is_mirrored_and_not_turned_upside_down(self, tmp_path, matrix, corners):
        image = grey(0)
        image[:24, :32], image[:24, 32:], image[24:, :32], image[24:, 32:] = 20, 90, 160, 230
        path = make_video(tmp_path / "m.mp4", [image] * 3)
        data = bytearray(path.read_bytes())
        plain = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
        start = data.index(plain, data.index(b"tkhd"))
        a, b, c, d = (side << 16 for side in matrix)
        data[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
        path.write_bytes(data)
        shown = next(iter(open_source(path))).image
        height, width = shown.shape[:2]
        quarters = [shown[y, x, 0] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
        assert "".join("abcd"[round((int(level) - 20) / 70)] for level in quarters) == corners

    def test_raw_stream_without_times_gets_increasing_ones(self, tmp_path):
        path = make_video(tmp_path / "raw.h264", [grey(20 * i) for i in range(6)])
        times_s = [f.timestamp_s for f in open_source(path)]
        assert len(times_s) == 6
        assert np.all(np.diff(times_s) > 0)

    def test_ticks_of_a_clock_are_no_frame_rate(self, tmp_path):
        with av.open(str(tmp_path / "a.dv"), "w") as container:
            stream = container.add_stream("dvvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
            for index in range(5):
                frame = av.VideoFrame.from_ndarray(grey(90, width=720, height=576), format="bgr24").reformat(
                    format="yuv420p"
                )
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with open_source(tmp_path / "a.dv") as source:
            assert source.frame_rate == 25.0
            assert source.frame_count == 5
            assert [f.timestamp_s for f in source] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])

    def test_times_go_on_where_the_first_frames_of_a_joined_stream_have_none(self, tmp_path, monkeypatch):
        path = make_video(tmp_path / "a.ts", [grey(20 * i) for i in range(6)])
        decoded = VideoFileSource._decoded_frames

        def joined_in_its_midst(source: VideoFileSource, av: Any) -> Iterator[Any]:
            for number, frame in enumerate(decoded(source, av)):
                frame.pts = None if number < 2 else frame.pts + 90_000 * (60 if number < 3 else 61)
                yield frame

        monkeypatch.setattr(VideoFileSource, "_decoded_frames", joined_in_its_midst)
        with open_source(path) as source:
            assert [frame.timestamp_s for frame in source] == pytest.approx([0, 0.04, 0.08, 1.12, 1.16, 1.2])

    def test_time_goes_forward_where_a_video_repeats_a_time_or_goes_back(self, tmp_path, monkeypatch):
        path = make_video(tmp_path / "a.ts", [grey(20 * i) for i in range(6)])
        decoded = VideoFileSource._decoded_frames

        def odd_times(source: VideoFileSource, av: Any) -> Iterator[Any]:
            for frame, time_s in zip(decoded(source, av), [0, 1, 1, 0.5, 2, 3], strict=True):
                frame.pts = round(time_s / frame.time_base)
                yield frame

        monkeypatch.setattr(VideoFileSource, "_decoded_frames", odd_times)
        with open_source(path) as source:
            assert [frame.timestamp_s for frame in source] == pytest.approx([0, 1, 1.04, 1.08, 2, 3])

    def test_cut_off_file_gives_all_its_frames_and_then_says_so(self, tmp_path):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(50)]
        whole = make_video(tmp_path / "w.mp4", images, options={"movflags": "faststart"})
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
        frames: list[Frame] = []
        with pytest.raises(MediaError, match=r"cut\.mp4: ends too early: \d+ frames .* promises"):
            frames.extend(open_source(cut))
        assert 20 <= len(frames) < 50

    @pytest.mark.parametrize("name", ["w.mkv", "w.webm", "w.flv"])
    def test_cut_off_file_of_a_container_that_states_one_length_says_so(self, tmp_path, name):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
        codec = "libvpx" if name == "w.webm" else "libx264"
        whole = make_video(tmp_path / name, images, codec=codec)
        assert len(list(open_source(whole))) == 40
        cut = tmp_path / f"cut_{name}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
        frames: list[Frame] = []
        with pytest.raises(MediaError, match=r"ends too early: .* of the 1\.6 s that the file promises"):
            frames.extend(open_source(cut))
        assert 20 <= len(frames) < 40

    @pytest.mark.parametrize("name", ["late.mkv", "late.flv", "late.mp4", "late.ts"])
    def test_file_whose_frames_begin_late_and_come_unevenly_is_whole(self, tmp_path, name):
        times_s = [5.0, 5.02, 5.4, 5.44, 6.2, 6.24]
        path = make_video(tmp_path / name, [grey(40 * i) for i in range(6)], times_s)
        assert [f.timestamp_s for f in open_source(path)] == pytest.approx([t - 5 for t in times_s], abs=2e-3)

    @pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
    def test_cut_off_file_whose_frames_begin_late_says_so(self, tmp_path, name):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
        options = {"movflags": "faststart"} if name == "late.mp4" else {}
        path = make_video(tmp_path / name, images, [5 + i / 25 for i in range(40)], options=options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
        with pytest.raises(MediaError, match="ends too early"):
            list(open_source(path))

    def test_cut_off_matroska_file_of_more_than_a_minute_says_so(self, tmp_path):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(90)]
        path = make_video(tmp_path / "w.mkv", images, rate=1)
        assert len(list(open_source(path))) == 90
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
        with pytest.raises(MediaError, match=r"of the 90\.0 s that the file promises"):
            list(open_source(path))

    def test_file_that_promises_a_frame_more_is_whole(self, tmp_path):
        assert len(list(open_source(make_video(tmp_path / "a.avi", [grey(20 * i) for i in range(12)])))) == 12

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_file_whose_last_picture_is_shown_for_long_is_whole(self, tmp_path, name):
        whole = make_video(tmp_path / "w.mp4", [grey(20 * i) for i in range(6)])
        with av.open(str(whole)) as given, av.open(str(tmp_path / name), "w") as longer:
            stream = longer.add_stream_from_template(given.streams.video[0])
            packets = [packet for packet in given.demux(video=0) if packet.dts is not None]
            max(packets, key=lambda packet: packet.pts).duration = 3 / packets[0].time_base
            for packet in packets:
                packet.stream = stream
                longer.mux(packet)
        assert len(list(open_source(tmp_path / name))) == 6

    @pytest.mark.parametrize(
        ("name", "rate", "frames", "sound_s"),
        [("a.mp4", 25, 25, 4), ("a.ts", 25, 25, 4), ("a.flv", 25, 25, 2), ("a.flv", 1, 100, 102)],
    )
    def test_video_that_is_shorter_than_its_sound_is_whole(self, tmp_path, name, rate, frames, sound_s):
        with av.open(str(tmp_path / name), "w") as container:
            video, sound = container.add_stream("libx264", rate=rate), container.add_stream("aac", rate=8000)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            sound.layout = "mono"
            for i in range(frames):
                frame = av.VideoFrame.from_ndarray(grey(2 * i), format="bgr24").reformat(format="yuv420p")
                frame.pts, frame.time_base = i, Fraction(1, rate)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            for second in range(sound_s):
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 8000, second * 8000, Fraction(1, 8000)
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
        assert len(list(open_source(tmp_path / name))) == frames

    def test_matroska_video_that_is_shorter_than_its_sound_is_whole_and_its_cut_is_not(self, tmp_path):
        rng = np.random.default_rng(0)
        path = tmp_path / "w.mkv"
        with av.open(str(path), "w") as container:
            video, sound = container.add_stream("libx264", rate=25), container.add_stream("pcm_s16le", rate=8000)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            sound.layout = "mono"
            for second in range(3):
                for i in range(25 if second < 2 else 0):
                    image = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                    frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")
                    frame.pts, frame.time_base = second * 25 + i, Fraction(1, 25)
                    container.mux(video.encode(frame))
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 8000, second * 8000, Fraction(1, 8000)
                container.mux(sound.encode(samples))
            container.mux(video.encode(None))
            container.mux(sound.encode(None))
        assert len(list(open_source(path))) == 50
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(MediaError, match=r"of the 2\.0 s that the file promises"):
            list(open_source(cut))

    def test_cut_off_gif_says_so(self, tmp_path):
        rng = np.random.default_rng(0)
        whole = make_video(
            tmp_path / "w.gif", [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(10)], codec="gif"
        )
        cut = tmp_path / "cut.gif"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        frames: list[Frame] = []
        with pytest.raises(MediaError, match="end mark is missing"):
            frames.extend(open_source(cut))
        assert 3 <= len(frames) < 10

    def test_gif_that_is_padded_with_zeros_is_whole(self, tmp_path):
        path = make_video(tmp_path / "a.gif", [grey(20 * i) for i in range(10)], codec="gif")
        path.write_bytes(path.read_bytes() + bytes(10))
        assert len(list(open_source(path))) == 10

    @pytest.mark.parametrize(
        ("name", "codec", "places", "damage", "words", "count"),
        [
            ("a.avi", "mpeg4", (0.3, 0.7), 50, "parts of a frame are damaged", "damaged_frames"),
            ("a.mp4", "libx264", (0.5,), 30_000, "skipped a damaged frame", "skipped_frames"),
        ],
    )
    def test_damaged_frames_are_counted_and_the_first_one_is_logged(
        self, tmp_path, caplog, name, codec, places, damage, words, count
    ):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(30)]
        path = make_video(tmp_path / name, images, codec=codec)
        data = bytearray(path.read_bytes())
        for start in (round(place * len(data)) for place in places):
            data[start : start + damage] = rng.bytes(damage)
        path.write_bytes(data)
        source = open_source(path)
        list(source)
        assert getattr(source, count) > 1
        assert [words in record.message for record in caplog.records if record.levelname == "WARNING"].count(True) == 1

    def test_damaged_bytes_in_the_middle_cost_no_other_frame(self, tmp_path):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(30)]
        path = make_video(tmp_path / "d.mp4", images, options={"movflags": "faststart"})
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 3000] = rng.bytes(3000)
        path.write_bytes(data)
        source = open_source(path)
        frames = list(source)
        assert len(frames) + source.skipped_frames == 30
        assert source.skipped_frames + source.damaged_frames >= 1

    def test_file_without_its_index_is_explained(self, tmp_path):
        whole = make_video(tmp_path / "w.mp4", [grey(i) for i in range(20)])
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[:600])
        with pytest.raises(MediaError, match="index is missing"):
            open_source(cut)

    def test_video_without_a_single_frame_is_a_media_error(self, tmp_path):
        path = tmp_path / "none.mp4"
        with av.open(str(path), "w", options={"movflags": "empty_moov"}) as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
        with pytest.raises(MediaError, match=r"not a single frame|no decoder|not a video"):
            list(open_source(path))

    def test_size_change_in_mid_stream_keeps_each_frames_own_size(self, tmp_path):
        # Two H.264 streams one after the other in one transport stream, as a camera does when its setting changes.
        parts = [make_video(tmp_path / f"{w}.ts", [grey(w, width=w, height=48)] * 5) for w in (64, 96)]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(b"".join(p.read_bytes() for p in parts))
        shapes = {f.image.shape for f in open_source(joined)}
        assert shapes == {(48, 64, 3), (48, 96, 3)}

    def test_frames_beyond_the_limit_are_refused_and_skipped_in_mid_stream(self, tmp_path, monkeypatch):
        parts = [make_video(tmp_path / f"{w}.ts", [grey(90, width=w)] * 5) for w in (64, 640)]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(b"".join(p.read_bytes() for p in parts))
        monkeypatch.setattr(sources, "MAX_FRAME_PIXELS", 64 * 479)
        with pytest.raises(MediaError, match="640×48 pixels are refused"):
            open_source(parts[1])
        source = open_source(joined)
        assert {f.image.shape for f in source} == {(48, 64, 3)}
        assert source.skipped_frames == 5

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
    def test_video_that_another_program_writes_into_a_pipe_is_read(self, tmp_path):
        data = make_video(tmp_path / "a.ts", [grey(20 * i) for i in range(12)]).read_bytes()
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True)
        writer.start()
        with open_source(tmp_path / "pipe") as source:
            assert len(list(source)) == 12
        writer.join(10)

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="tells open files on Linux only")
    def test_closing_gives_the_file_back(self, tmp_path):
        path = make_video(tmp_path / "a.mp4", [grey(20 * i) for i in range(12)])

        def is_open() -> bool:
            return str(path) in {os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()}

        source = open_source(path)
        assert is_open()
        source.close()
        assert not is_open()
        source.close()

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("a.mp4", "hello world\n" * 500, "not a video"),
            ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n", "may name other"),
            ("b.mp4", "ffconcat version 1.0\nfile secret.mp4\n", "may name other"),
            ("c.txt", "hello world\n" * 500, "may name other|not a video"),
        ],
    )
    def test_text_is_not_followed_to_other_files(self, tmp_path, name, text, words):
        make_video(tmp_path / "secret.mp4", [grey(1)] * 3)
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match=words):
            open_source(tmp_path / name)

    def test_file_name_that_looks_like_a_protocol_is_still_a_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        make_video(tmp_path / "plain.mp4", [grey(5)] * 3)
        (tmp_path / "plain.mp4").rename(tmp_path / "concat:plain.mp4")
        assert len(list(open_source("concat:plain.mp4"))) == 3

    def test_audio_file_has_no_video(self, tmp_path):
        path = tmp_path / "a.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(MediaError, match="no video stream"):
            open_source(path)

    @pytest.mark.parametrize("name", ["song.mp3", "song.m4a"])
    def test_cover_of_a_song_is_no_video(self, tmp_path, name):
        path = tmp_path / name
        with av.open(str(path), "w", format="mp3" if name == "song.mp3" else "mp4") as container:
            sound = container.add_stream("libmp3lame" if name == "song.mp3" else "aac", rate=44_100)
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic.value
            picture = av.VideoFrame.from_ndarray(grey(90), format="bgr24").reformat(format="yuvj420p")
            picture.pts, picture.time_base = 0, Fraction(1, 25)
            container.mux(cover.encode(picture))
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        with pytest.raises(MediaError, match="no video stream"):
            open_source(path)

    def test_missing_and_empty_files_and_unknown_addresses(self, tmp_path):
        (tmp_path / "empty.mp4").touch()
        with pytest.raises(MediaError, match="no such file or folder"):
            open_source(tmp_path / "nope.mp4")
        with pytest.raises(MediaError, match="0 bytes"):
            open_source(tmp_path / "empty.mp4")
        with pytest.raises(MediaError, match="cannot read gopher://"):
            open_source("gopher://host/x")

    @pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
    def test_picture_rate_must_be_positive(self, tmp_path, rate):
        with pytest.raises(InputError, match="picture_rate"):
            open_source(tmp_path, picture_rate=rate)

    def test_empty_text_is_not_the_current_folder(self, tmp_path, monkeypatch):
        cv2.imwrite(str(tmp_path / "a.png"), grey(9))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="empty text"):
            open_source("")
        assert len(list(open_source("."))) == 1

    def test_missing_pyav_names_the_extra(self, tmp_path, without_pyav):
        (tmp_path / "a.mp4").write_bytes(b"x")
        with pytest.raises(BackendUnavailableError, match=r"rtmpose-infer\[cli\]"):
            open_source(tmp_path / "a.mp4")
        with pytest.raises(BackendUnavailableError, match=r"rtmpose-infer\[cli\]"):
            open_writer(tmp_path / "out.mp4")

    def test_importing_the_package_does_not_import_pyav(self):
        code = "import sys, rtmpose_infer.video; sys.exit('av' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Camera:
    """What OpenCV makes of a camera: three pictures, then nothing."""

    rate = 30.0
    is_there = True
    last: tuple[bool, np.ndarray | None] = (False, None)
    opened: ClassVar[list[Camera]] = []

    def __init__(self, index: int) -> None:
        self.left, self.is_released, self.settings = 3, False, {}
        self.opened.append(self)

    def isOpened(self) -> bool:  # noqa: N802
        return self.is_there

    def set(self, key: int, value: float) -> bool:
        self.settings[key] = value
        return True

    def get(self, key: int) -> float:
        return self.rate if key == cv2.CAP_PROP_FPS else 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, grey(self.left)) if self.left >= 0 else self.last

    def release(self) -> None:
        self.left, self.is_released = -1, True


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> list[Camera]:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "opened", [])
    return Camera.opened


class TestLiveSources:
    def test_stale_frames_are_dropped_and_the_newest_is_given(self):
        reading = [threading.Event() for _ in range(6)]
        go = threading.Event()

        def gate(i: int) -> None:
            reading[i].set()
            if i == 4:
                go.wait(10)

        source = LatestFrameSource(ListedSource([Frame(grey(i), i, i / 10) for i in range(5)], gate))
        assert reading[4].wait(10)  # frames 0 to 3 have come and nobody took them
        frames = iter(source)
        assert next(frames).index == 3
        go.set()
        assert [f.index for f in frames] == [4]
        assert source.dropped_frames == 3

    def test_stream_that_fails_gives_its_last_frame_first(self):
        source = LatestFrameSource(ListedSource([Frame(grey(1), 0, 0.0)], lambda _: None, MediaError("gone")))
        given: list[Frame] = []
        with pytest.raises(MediaError, match=r"^gone$"):
            given.extend(source)
        assert [f.index for f in given] == [0]

    def test_unexpected_failure_in_the_reading_thread_is_not_lost(self):
        source = LatestFrameSource(ListedSource([], lambda _: None, ValueError("odd")))
        with pytest.raises(MediaError, match="odd") as caught:
            list(source)
        assert isinstance(caught.value.__cause__, ValueError)

    def test_frames_that_come_one_by_one_are_all_given_and_the_end_is_told(self):
        taken = threading.Semaphore(0)

        def gate(i: int) -> None:
            assert i == 0 or taken.acquire(timeout=10)
            if i % 20 == 0:
                time.sleep(0.01)  # let the other one wait

        def take() -> list[int]:
            return [frame.index for frame in source if taken.release() is None]

        source = LatestFrameSource(ListedSource([Frame(grey(1), i, i / 10) for i in range(60)], gate))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(take).result(30) == list(range(60))
        assert source.dropped_frames == 0

    def test_counts_of_damage_are_those_of_the_source_itself(self):
        inner = ListedSource([Frame(grey(1), 0, 0.0)], lambda _: None)
        inner.skipped_frames, inner.damaged_frames, inner.size_wh, inner.frame_rate = 2, 3, (64, 48), 50.0
        source = LatestFrameSource(inner)
        assert (source.name, source.size_wh, source.frame_rate) == ("listed", (64, 48), 50.0)
        assert len(list(source)) == 1
        assert (source.skipped_frames, source.damaged_frames) == (2, 3)

    def test_closing_ends_the_iteration_and_the_reading_thread_closes_the_source(self):
        stop = threading.Event()
        inner = ListedSource([Frame(grey(1), 0, 0.0), Frame(grey(1), 1, 0.1)], lambda i: stop.wait(10) if i else None)
        with LatestFrameSource(inner) as source:
            frames = iter(source)
            assert next(frames).index == 0
            threading.Timer(0.05, stop.set).start()
        assert list(frames) == []
        assert inner.closed_by == "read listed"

    def test_closing_a_stream_that_has_no_end_stops_the_reading(self, monkeypatch):
        monkeypatch.setattr(live, "_JOIN_TIMEOUT_S", 60.0)
        inner = ListedSource(repeat(Frame(grey(1), 0, 0.0)), lambda _: None)
        with LatestFrameSource(inner) as source:
            next(iter(source))
        assert inner.closed_by == "read listed"

    def test_closing_ends_an_iteration_that_waits_though_the_reading_hangs(self, monkeypatch):
        monkeypatch.setattr(live, "_JOIN_TIMEOUT_S", 0.0)
        stop = threading.Event()
        source = LatestFrameSource(ListedSource([], lambda _: stop.wait(60)))
        with ThreadPoolExecutor(1) as pool:
            frames = pool.submit(list, source)
            time.sleep(0.05)  # let it wait
            source.close()
            try:
                assert frames.result(10) == []
            finally:
                stop.set()

    def test_program_ends_though_the_reading_hangs(self):
        code = (
            "import threading\n"
            "from rtmpose_infer.video import FrameSource, LatestFrameSource\n"
            "class Hanging(FrameSource):\n"
            "    def __iter__(self):\n"
            "        threading.Event().wait()\n"
            "        yield\n"
            "LatestFrameSource(Hanging())\n"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0

    @pytest.mark.parametrize("last", [(False, None), (True, None)])
    def test_camera_gives_frames_until_it_is_unplugged(self, cameras, monkeypatch, last):
        monkeypatch.setattr(Camera, "last", last)
        frames: list[Frame] = []
        source = open_source("0")
        assert source.is_live
        with source, pytest.raises(MediaError, match="camera 0: no more frames after 3"):
            frames.extend(source)
        assert frames[-1].index == 2
        assert source.name == "camera 0"
        assert source.frame_rate == 30.0
        assert source.size_wh == (64, 48)
        assert [camera.is_released for camera in cameras] == [True]

    def test_frames_of_a_camera_carry_the_times_of_their_arrival_from_the_first_on(self, cameras, monkeypatch):
        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=iter([1000, 1002, 1005, 1009]).__next__))
        times_s: list[float] = []
        with CameraSource(0) as source, pytest.raises(MediaError, match="no more frames"):
            times_s.extend(frame.timestamp_s for frame in source)
        assert times_s == [0, 2, 5]
        assert source.size_wh == (64, 48)
        assert cameras[0].settings == {cv2.CAP_PROP_BUFFERSIZE: 1}  # older frames would only be dropped
        assert cameras[0].is_released

    @pytest.mark.parametrize(
        ("claimed", "rate"), [(0, None), (-1, None), (1, 1), (1000, 1000), (1001, None), (math.nan, None)]
    )
    def test_rate_that_no_camera_has_is_unknown(self, cameras, monkeypatch, claimed, rate):
        monkeypatch.setattr(Camera, "rate", claimed)
        with CameraSource(0) as source:
            assert source.frame_rate == rate

    @pytest.mark.parametrize("index", [-1, True, 1.5, None, 2**31, 10**400])
    def test_camera_that_no_number_names_is_refused_before_opencv_is_asked(self, monkeypatch, index):
        monkeypatch.setattr(cv2, "VideoCapture", None)
        with pytest.raises(InputError, match="camera's"):
            open_source(index)

    def test_camera_that_is_not_there_says_what_to_check(self, cameras, monkeypatch):
        monkeypatch.setattr(Camera, "is_there", False)
        with pytest.raises(MediaError, match="camera 7: cannot be opened"):
            open_source(7)
        levels_set = [5]
        monkeypatch.setattr(cv2, "utils", SimpleNamespace())  # OpenCV before 4.13
        monkeypatch.setattr(cv2, "setLogLevel", lambda level: levels_set.append(level) or levels_set[-2], raising=False)
        with pytest.raises(MediaError, match="camera 7: cannot be opened"):
            open_source(7)
        assert levels_set == [5, 0, 5]
        assert [camera.is_released for camera in cameras] == [True, True]


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[str]:
    """Serves tmp_path on the loopback, and under /live 12 pictures as MJPEG.

    Under /chunked/ and /untold/ it tells no lengths; the former says where the end is, the latter just hangs up there.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def do_GET(self) -> None:
            if self.path.startswith("/half/"):
                data = (tmp_path / self.path.rsplit("/", 1)[1]).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                return
            if self.path.startswith(("/chunked/", "/untold/")):
                data = (tmp_path / self.path.rsplit("/", 1)[1]).read_bytes()
                if self.path.startswith("/untold/"):
                    self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + data)
                    return
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
                return
            if self.path != "/live":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for i in range(12):
                jpeg = cv2.imencode(".jpg", grey(20 * i))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                self.wfile.write(head + jpeg + b"\r\n")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


class TestAddresses:
    def test_file_on_a_web_server_is_read_whole_and_is_not_live(self, tmp_path, web_server):
        make_video(tmp_path / "a.mp4", [grey(10 * i) for i in range(12)], options={"movflags": "faststart"})
        with open_source(f"{web_server}/a.mp4") as source:
            assert not source.is_live
            assert len(list(source)) == 12

    def test_scheme_may_be_written_in_capitals(self, tmp_path, web_server):
        make_video(tmp_path / "A.mp4", [grey(10 * i) for i in range(12)], options={"movflags": "faststart"})
        with open_source(f"{web_server.replace('http', 'Http')}/A.mp4") as source:
            assert len(list(source)) == 12

    def test_gif_on_a_web_server_is_read_whole_and_is_not_live(self, tmp_path, web_server):
        make_video(tmp_path / "a.gif", [grey(20 * i) for i in range(12)], codec="gif")
        with open_source(f"{web_server}/a.gif") as source:
            assert not source.is_live
            assert len(list(source)) == 12

    def test_playlist_of_a_server_is_read_whole(self, tmp_path, web_server):
        make_video(tmp_path / "a.ts", [grey(20 * i) for i in range(12)])
        (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.48,\na.ts\n#EXT-X-ENDLIST\n")
        with open_source(f"{web_server}/a.m3u8") as source:
            assert not source.is_live
            assert len(list(source)) == 12

    def test_server_that_hangs_up_before_the_end_of_a_file_is_told_after_the_last_frame(self, tmp_path, web_server):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
        make_video(tmp_path / "a.mp4", images, options={"movflags": "faststart"})
        frames: list[Frame] = []
        with (
            open_source(f"{web_server}/half/a.mp4") as source,
            pytest.raises(MediaError, match="reading stopped after"),
        ):
            frames.extend(source)
        assert 10 < len(frames) < 40

    def test_rtsp_is_asked_for_over_tcp_where_no_packet_is_lost(self):
        sdp = b"v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:v\r\n"
        transports = []

        def answer(server: socket.socket) -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rwb") as file:
                request: list[bytes] = []
                for line in file:
                    request.append(line.strip())
                    if request[-1]:
                        continue
                    number = next(word for word in request if word.startswith(b"CSeq"))
                    transports.extend(word for word in request if word.startswith(b"Transport"))
                    status, body = b"200 OK", sdp if request[0].startswith(b"DESCRIBE") else b""
                    if request[0].startswith(b"SETUP"):
                        status = b"453 Not Enough Bandwidth"
                    head = b"RTSP/1.0 %b\r\n%b\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n"
                    file.write(head % (status, number, len(body)) + body)
                    file.flush()
                    request.clear()

        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=answer, args=(server,), daemon=True)
            thread.start()
            with pytest.raises(MediaError, match="cannot open the stream"):
                open_source(f"rtsp://127.0.0.1:{server.getsockname()[1]}/v")
            thread.join(10)
        assert transports
        assert all(transport.startswith(b"Transport: RTP/AVP/TCP") for transport in transports)

    def test_stream_without_an_end_is_live_and_its_stop_is_told_after_the_last_frame(self, web_server):
        with open_source(f"{web_server}/live") as source:
            assert source.is_live
            frames: list[Frame] = []
            with pytest.raises(MediaError, match="the stream stopped after 12 frames"):
                frames.extend(source)
        assert frames[-1].index == 11
        assert source.dropped_frames == 12 - len(frames)

    @pytest.mark.parametrize("way", ["chunked", "untold"])
    def test_stream_that_the_other_side_ends_in_good_order_is_told_too(self, tmp_path, web_server, way):
        make_video(tmp_path / "a.h264", [grey(10 * i) for i in range(12)])
        with VideoFileSource(f"{web_server}/{way}/a.h264") as source:
            assert source.is_live
            frames: list[Frame] = []
            with pytest.raises(MediaError, match=r"stopped after 12 frames .*the other side ended it"):
                frames.extend(source)
        assert len(frames) == 12

    def test_stream_whose_pictures_carry_no_times_gets_those_of_their_arrival(self, web_server, monkeypatch):
        monkeypatch.setattr(sources, "time", SimpleNamespace(monotonic=iter(range(1000, 2000, 2)).__next__))
        times_s: list[float] = []
        with VideoFileSource(f"{web_server}/live") as source, pytest.raises(MediaError, match="stopped after 12"):
            times_s.extend(frame.timestamp_s for frame in source)
        assert times_s == [2.0 * i for i in range(12)]

    def test_video_with_its_index_at_the_end_on_a_server_that_gives_no_parts_says_what_to_do(
        self, tmp_path, web_server
    ):
        noise = np.random.default_rng(0).integers(0, 256, (6, 480, 640, 3), dtype=np.uint8)
        make_video(tmp_path / "a.mp4", list(noise))
        with open_source(f"{web_server}/a.mp4") as source, pytest.raises(MediaError, match="download it first"):
            list(source)

    def test_server_that_says_nothing_is_given_up_in_plain_words(self, monkeypatch):
        monkeypatch.setattr(sources, "_NETWORK_TIMEOUT_S", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.mp4"
            with pytest.raises(MediaError, match="nothing came within the time limit"):
                open_source(address)

    def test_unreachable_address_hides_the_password(self):
        with pytest.raises(MediaError, match="cannot open the stream") as caught:
            open_source("http://me:secret@127.0.0.1:9/x.mp4?token=abc")
        assert "secret" not in str(caught.value)
        assert "abc" not in str(caught.value)

    def test_playlist_of_a_server_cannot_name_a_local_file(self, tmp_path, web_server):
        local = make_video(tmp_path / "private.ts", [grey(1)] * 3)
        (tmp_path / "evil.m3u8").write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{local}\n#EXT-X-ENDLIST\n"
        )
        frames: list[Frame] = []
        with pytest.raises(MediaError):
            frames.extend(open_source(f"{web_server}/evil.m3u8"))
        assert frames == []

    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            ("RTSP://u:p@h:554/s?x=1", "RTSP://h:554/s"),
            ("rtsp://u:p@ss@h/s", "rtsp://h/s"),
            ("rtsp://u:p/ss@h/s", "rtsp://h/s"),
            ("http://h/a@b", "http://h/a@b"),
            ("http://h:80/a@b", "http://h:80/a@b"),
            ("http://u:p@h/a@b", "http://h/a@b"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("srt://h:1", "srt://h:1"),
        ],
    )
    def test_without_credentials(self, address, shown):
        assert without_credentials(address) == shown


def read_back(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [f.to_ndarray(format="bgr24") for f in frames], [f.time for f in frames]


class TestVideoWriter:
    def test_browser_profile_index_in_front_and_not_fragmented(self, tmp_path):
        path = tmp_path / "o.mp4"
        with VideoWriter(path, frame_rate=25) as writer:
            for i in range(30):
                writer.write(grey(8 * i), i / 25)
        data = path.read_bytes()
        assert data.find(b"moov") < data.find(b"mdat")
        assert b"moof" not in data
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == 25
            assert float(stream.duration * stream.time_base) == pytest.approx(30 / 25)
        assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]

    def test_times_of_a_variable_frame_rate_are_kept(self, tmp_path):
        times_s = [0.0, 0.033, 0.5, 0.5001, 3.25]
        with VideoWriter(tmp_path / "o.mp4", frame_rate=30) as writer:
            for time_s in times_s:
                writer.write(grey(9), time_s)
        assert read_back(tmp_path / "o.mp4")[1] == pytest.approx(times_s, abs=1e-5)

    @pytest.mark.parametrize("rate", [24000 / 1001, 30000 / 1001, 60000 / 1001, 29.97, 12.5])
    def test_ntsc_and_odd_rates_are_exact(self, tmp_path, rate):
        with VideoWriter(tmp_path / "o.mp4", frame_rate=rate) as writer:
            for i in range(20):
                writer.write(grey(9), i / rate)
        with av.open(str(tmp_path / "o.mp4")) as container:
            assert float(container.streams.video[0].average_rate) == pytest.approx(rate, rel=1e-4)

    def test_times_that_stand_still_or_go_back_still_give_every_frame(self, tmp_path):
        with VideoWriter(tmp_path / "o.mp4") as writer:
            for time_s in (0.0, 0.0, 1.0, 0.5, float("nan")):
                writer.write(grey(9), time_s)
        times_s = read_back(tmp_path / "o.mp4")[1]
        assert len(times_s) == 5
        assert np.all(np.diff(times_s) > 0)

    @pytest.mark.parametrize(
        ("given_s", "expected_s"),
        [
            ([0.0, 1e15, 1.0], [0.0, 0.04, 1.0]),
            ([0.0, 1e308, -1e308, 10**400], [0.0, 0.04, 0.040004, 0.080004]),
            ([1e15, 1e15], [0.0, 0.0]),
            ([-1e15, 0.0], [0.0, 0.04]),
            ([math.inf, math.nan, 7.0, 7.5], [0.0, 0.04, 0.08, 0.58]),
            ([1.7e9, 1.7e9 + 0.5], [0.0, 0.5]),
            ([0.0, 8900.0, 8901.0], [0.0, 8900.0, 8901.0]),
            ([0.0, 9000.0, 9001.0], [0.0, 0.04, 0.08]),
        ],
    )
    def test_times_that_no_video_can_have_are_replaced_and_the_others_kept(self, tmp_path, given_s, expected_s):
        with VideoWriter(tmp_path / "o.mp4", frame_rate=25) as writer:
            for time_s in given_s:
                writer.write(grey(9), time_s)
        assert read_back(tmp_path / "o.mp4")[1] == pytest.approx(expected_s, abs=1e-5)

    @pytest.mark.parametrize("time_s", ["0", None, [0.0]])
    def test_time_that_is_no_number_is_refused(self, tmp_path, time_s):
        with VideoWriter(tmp_path / "o.mp4") as writer, pytest.raises(InputError, match="timestamp_s"):
            writer.write(grey(9), time_s)

    def test_one_frame_an_hour_is_a_rate_too(self, tmp_path):
        with VideoWriter(tmp_path / "o.mp4", frame_rate=1 / 3600) as writer:
            for hour in range(3):
                writer.write(grey(9), hour * 3600)
        assert read_back(tmp_path / "o.mp4")[1] == [0, 3600, 7200]

    @pytest.mark.parametrize("size_wh", [(1, 1), (65, 47), (64, 48), (3, 200)])
    def test_odd_sizes_gain_a_row_or_column_and_lose_nothing(self, tmp_path, size_wh):
        with VideoWriter(tmp_path / "o.mp4") as writer:
            for i in range(3):
                writer.write(grey(200, *size_wh), i / 30)
        images, _ = read_back(tmp_path / "o.mp4")
        assert images[0].shape[:2] == (size_wh[1] + size_wh[1] % 2, size_wh[0] + size_wh[0] % 2)
        assert images[0].mean() == pytest.approx(200, abs=3)

    def test_colours_come_back_as_written(self, tmp_path):
        image = grey(0)
        image[:] = (30, 200, 120)
        with VideoWriter(tmp_path / "o.mp4") as writer:
            writer.write(image, 0.0)
        back = next(iter(open_source(tmp_path / "o.mp4"))).image
        assert back.mean(axis=(0, 1)) == pytest.approx((30, 200, 120), abs=3)

    def test_very_wide_frames_are_scaled_down_to_what_players_take(self, tmp_path):
        with VideoWriter(tmp_path / "o.mp4") as writer:
            writer.write(grey(100, width=20_000, height=10), 0.0)
        assert read_back(tmp_path / "o.mp4")[0][0].shape[1] == 8192

    def test_frame_of_another_size_is_scaled_to_fit_on_black(self, tmp_path):
        with VideoWriter(tmp_path / "o.mp4") as writer:
            writer.write(grey(200, 64, 48), 0.0)
            writer.write(grey(200, 48, 64), 0.1)
        second = read_back(tmp_path / "o.mp4")[0][1]
        assert second.shape == (48, 64, 3)
        assert second[:, 16:48].mean() == pytest.approx(200, abs=8)
        assert second[:, :10].mean() < 10

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
    @pytest.mark.parametrize("name", ["12:30.mp4", "md5:a.mp4"])
    def test_file_name_that_looks_like_a_protocol_is_still_a_file(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with VideoWriter(name) as writer:
            writer.write(grey(9), 0.0)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert b"moof" not in Path(name).read_bytes()
        assert len(read_back(tmp_path / name)[0]) == 1

    def test_writer_does_not_keep_or_change_the_frame(self, tmp_path):
        image = grey(50)
        with VideoWriter(tmp_path / "o.mp4") as writer:
            writer.write(image, 0.0)
            image[:] = 250
            writer.write(image, 0.1)
        images, _ = read_back(tmp_path / "o.mp4")
        assert images[0].mean() == pytest.approx(50, abs=3)

    def test_unfinished_file_plays(self, tmp_path):
        path = tmp_path / "o.mp4"
        writer = VideoWriter(path, frame_rate=30)
        rng = np.random.default_rng(0)
        for i in range(90):
            writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), i / 30)
        snapshot = tmp_path / "killed.mp4"
        snapshot.write_bytes(path.read_bytes())
        writer.close()
        assert 60 <= len(read_back(snapshot)[0]) <= 90
        assert len(read_back(path)[0]) == 90

    def test_killed_program_leaves_a_file_that_plays(self, tmp_path):
        path = tmp_path / "o.mp4"
        code = (
            "import sys, numpy as np\n"
            "from rtmpose_infer.video import VideoWriter\n"
            "writer = VideoWriter(sys.argv[1], frame_rate=30)\n"
            "for i in range(10**6):\n"
            "    writer.write(np.full((48, 64, 3), i % 255, np.uint8), i / 30)\n"
            "    print(i, flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 100:
                break
        process.kill()
        process.communicate()
        frames: list[Frame] = list(VideoFileSource(path))
        assert len(frames) >= 80

    def test_existing_file_stays_until_the_first_frame(self, tmp_path):
        path = tmp_path / "o.mp4"
        path.write_bytes(b"precious")
        VideoWriter(path).close()
        assert path.read_bytes() == b"precious"

    def test_writer_without_frames_leaves_no_file(self, tmp_path):
        VideoWriter(tmp_path / "o.mp4").close()
        assert list(tmp_path.iterdir()) == []

    def test_unwritable_paths_are_refused_before_any_work(self, tmp_path):
        with pytest.raises(MediaError, match="does not exist; create it"):
            open_writer(tmp_path / "no" / "o.mp4")
        (tmp_path / "dir.mp4").mkdir()
        with pytest.raises(MediaError, match="is a folder"):
            open_writer(tmp_path / "dir.mp4")
        with pytest.raises(InputError, match=r"end the name in \.mp4"):
            open_writer(tmp_path / "o.xyz")
        with pytest.raises(MediaError, match="cannot be written"):
            open_writer(Path("/proc/self/o.mp4") if sys.platform == "linux" else tmp_path / "bad\0.mp4")

    @pytest.mark.parametrize(
        ("image", "error"),
        [
            (np.zeros((4, 4, 3), np.float32), DTypeError),
            (np.zeros((4, 4), np.uint8), ShapeError),
            (np.zeros((4, 4, 4), np.uint8), ShapeError),
            (np.zeros((0, 4, 3), np.uint8), ShapeError),
            (None, DTypeError),
        ],
    )
    def test_bad_frames_are_named(self, tmp_path, image, error):
        with VideoWriter(tmp_path / "o.mp4") as writer, pytest.raises(error, match="frame"):
            writer.write(image, 0.0)

    def test_writing_after_close_is_an_error_and_closing_twice_is_not(self, tmp_path):
        writer = VideoWriter(tmp_path / "o.mp4")
        writer.write(grey(1), 0.0)
        writer.close()
        writer.close()
        with pytest.raises(MediaError, match="closed"):
            writer.write(grey(1), 0.1)


class TestPictureWriter:
    def test_with_block_takes_back_a_file_that_nothing_came_for(self, tmp_path):
        with open_writer(tmp_path / "a.png", pictures=True) as writer:
            assert (tmp_path / "a.png").exists()
        assert isinstance(writer, PictureWriter)
        assert not (tmp_path / "a.png").exists()

    def test_folder_gets_pictures_under_their_own_names(self, tmp_path):
        writer = open_writer(tmp_path / "new" / "folder", pictures=True)
        assert isinstance(writer, PictureWriter)
        writer.write(grey(10), 0.0, name="a.jpg")
        writer.write(grey(20), 0.1, name="../b.png")
        writer.close()
        assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["a.jpg", "b.png"]

    def test_single_picture_goes_to_the_file_named(self, tmp_path):
        writer = open_writer(tmp_path / "o.png", pictures=True)
        writer.write(grey(33), 0.0, name="a.jpg")
        assert load_picture(tmp_path / "o.png").mean() == 33

    def test_single_picture_that_never_came_leaves_no_file_and_an_old_one_alone(self, tmp_path):
        (tmp_path / "old.png").write_bytes(b"old")
        for name in ("new.png", "old.png"):
            open_writer(tmp_path / name, pictures=True).close()
        assert [path.name for path in tmp_path.iterdir()] == ["old.png"]

    def test_picture_path_for_a_video_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"end the name in \.mp4"):
            open_writer(tmp_path / "o.png")

    def test_names_that_were_written_before_do_not_replace_pictures(self, tmp_path):
        writer = open_writer(tmp_path / "o", pictures=True)
        for level, name in enumerate(["a.jp2", "a.png", "a.jpg", "a.png", "a.png"]):
            writer.write(grey(50 * level), 0.0, name=name)
        names = {"a.png": 0, "a_png.png": 50, "a.jpg": 100, "a_png_2.png": 150, "a_png_3.png": 200}
        assert {path.name: load_picture(path).mean() for path in (tmp_path / "o").iterdir()} == names
