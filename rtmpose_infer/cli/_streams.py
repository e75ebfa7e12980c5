"""Decoding, tracking and encoding at the same time: threads around the tracker, joined by small bounded queues.

    source ── Feed (thread: decodes) ──> tracker (the caller's thread) ──> Output (thread: draws, encodes, writes
    results)

Runtimes, FFmpeg and OpenCV release the interpreter's lock, so the three run side by side; the queues are short, so
memory stays small and a slow disk slows the tracker down instead of filling memory. A live source never waits: its
feed keeps only the newest frame.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from rtmpose_infer.errors import MediaError, RtmposeInferError
from rtmpose_infer.video import Frame, FrameSource

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rtmpose_infer.formats import PosesWriter
    from rtmpose_infer.results import Poses
    from rtmpose_infer.video import FrameWriter

__all__ = ["Feed", "Output", "RunReport", "Stream", "run_streams", "signals_as_interrupt"]

_QUEUE_LENGTH = 4
_POLL_S = 0.05

Draw = Callable[["npt.NDArray[np.uint8]", "Poses"], "npt.NDArray[np.uint8]"]
Step = Callable[[Mapping[int, Frame]], Mapping[int, "Poses"]]


class Feed:
    """A thread that reads a source ahead; at most ``_QUEUE_LENGTH`` frames, of a live source one, the newest.

    Args:
        source: Is closed by the thread that reads it.
        arrival: Notified whenever there is something new; may be shared between feeds, to wait for any of them.
    """

    def __init__(self, source: FrameSource, arrival: threading.Condition) -> None:
        self._source = source
        self._arrival = arrival
        self._frames: deque[Frame] = deque()
        self._ended = False
        self._closing = False
        self.is_live = source.is_live
        self.dropped_frames = 0
        self.failure: MediaError | None = None
        self._thread = threading.Thread(target=self._read, name=f"decode {source.name}", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a frame can be taken; to be read under the condition."""
        return bool(self._frames)

    @property
    def finished(self) -> bool:
        """Whether no frame will come any more; to be read under the condition."""
        return self._ended and not self._frames

    def take(self) -> Frame:
        """Return the next frame of a feed that is ready; to be called under the condition."""
        frame = self._frames.popleft()
        self._arrival.notify_all()
        return frame

    def close(self) -> None:
        """Stop reading; frames not taken are discarded."""
        with self._arrival:
            self._closing = True
            self._frames.clear()
            self._arrival.notify_all()
        if self.is_live:
            self._source.close()  # wakes up a thread that waits for the next frame; safe for live sources only
        self._thread.join(timeout=5)

    def _read(self) -> None:
        failure: MediaError | None = None
        try:
            for frame in self._source:
                if not self._put(frame):
                    break
        except MediaError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # or the tracker would wait for ever
            failure = MediaError(f"{self._source.name}: reading failed: {error!r}.")
            failure.__cause__ = error
        finally:
            self._source.close()
            with self._arrival:
                self.dropped_frames += self._source.dropped_frames
                self.failure, self._ended = failure, True
                self._arrival.notify_all()

    def _put(self, frame: Frame) -> bool:
        with self._arrival:
            if self.is_live:
                self.dropped_frames += len(self._frames)
                self._frames.clear()
            else:
                self._arrival.wait_for(lambda: len(self._frames) < _QUEUE_LENGTH or self._closing)
            if self._closing:
                return False
            self._frames.append(frame)
            self._arrival.notify_all()
            return True


class Output:
    """A thread that draws and writes what the tracker found.

    After a failure (a full disk) it goes on with nothing but taking frames, so that nobody waits for it; ``failure``
    says why.

    Args:
        name: Of the stream, for the thread.
        draw: Draws poses over a frame in place.
        frames: Where annotated frames go; None for nowhere.
        results: Where poses go.
        keep_drawn: Keep the newest annotated frame in ``drawn`` for a window.
    """

    def __init__(
        self,
        name: str,
        *,
        draw: Draw,
        frames: FrameWriter | None,
        results: Sequence[PosesWriter],
        keep_drawn: bool = False,
    ) -> None:
        self._draw = draw
        self._frames = frames
        self._results = list(results)
        self._keep_drawn = keep_drawn
        self.drawn: npt.NDArray[np.uint8] | None = None
        self.failure: RtmposeInferError | None = None
        self._used: set[FrameWriter | PosesWriter] = set()
        # Not one bounded Queue: an interrupt in its put may leave a waiter behind that takes the next call for itself, and
        # the thread never hears that it is over. SimpleQueue's calls cannot be cut in two.
        self._queue: queue.SimpleQueue[tuple[Frame, Poses] | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_QUEUE_LENGTH):
            self._places.put(None)
        self._thread = threading.Thread(target=self._write, name=f"encode {name}", daemon=True)
        self._thread.start()

    def put(self, frame: Frame, poses: Poses) -> None:
        """Hand over a frame; its image is drawn on."""
        self._places.get()
        self._queue.put((frame, poses))

    def close(self, *, complete: bool = False) -> None:
        """Write what is waiting and finish all files; ``failure`` is set when one could not be.

        Args:
            complete: The stream came to its own end; the files say so unless writing them failed.
        """
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        try:
            if self._frames is not None:
                self._frames.close()
        except RtmposeInferError as error:
            self.failure = self.failure or error
        for writer in self._results:
            is_whole = complete and self.failure is None
            try:
                writer.close(complete=is_whole)
            except RtmposeInferError as error:
                self.failure = self.failure or error

    @property
    def paths(self) -> list[str]:
        """Where at least one frame was written."""
        return [str(writer.path) for writer in (self._frames, *self._results) if writer in self._used]

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            self._places.put(None)
            if self.failure is not None:
                continue
            try:
                self._write_one(*item)
            except RtmposeInferError as error:
                self.failure = error
            except Exception as error:  # noqa: BLE001  # or the tracker would wait for ever
                self.failure = MediaError(f"writing the results failed: {error!r}.")
                self.failure.__cause__ = error

    def _write_one(self, frame: Frame, poses: Poses) -> None:
        # Results first: they are what is hard to get again.
        for writer in self._results:
            writer.write(poses, name=frame.name)
            self._used.add(writer)
        if self._frames is not None or self._keep_drawn:
            image = self._draw(frame.image, poses)
            if self._frames is not None:
                self._frames.write(image, frame.timestamp_s, name=frame.name)
                self._used.add(self._frames)
            if self._keep_drawn:
                self.drawn = image


@dataclass
class Stream:
    """One source on its way through the tracker, and what became of it.

    Attributes:
        source: Where frames come from.
        output: Where results go.
        label: What the user knows it by, different from the other streams'; by default the source's name.
        frames: Frames tracked.
        track_ids: All people followed.
        is_tracked: People are followed from frame to frame.
        most_people: The most people in one frame.
        sizes_wh: Widths and heights of the frames.
        seconds: Wall time from the start of the run to the end of its files; None while it runs.
        dropped_frames: Frames of a live source that were overtaken by newer ones.
        failure: What ended this stream before its end.
        expected_frames: How many frames the source gave when it was read before; None at the first reading.
    """

    source: FrameSource
    output: Output
    label: str = ""
    frames: int = 0
    track_ids: set[int] = field(default_factory=set)
    is_tracked: bool = False
    most_people: int = 0
    sizes_wh: set[tuple[int, int]] = field(default_factory=set)
    seconds: float | None = None
    dropped_frames: int = 0
    failure: RtmposeInferError | None = None
    expected_frames: int | None = None

    def __post_init__(self) -> None:
        self.label = self.label or self.source.name


class Watcher(Protocol):
    """Is told of every frame and may end the run."""

    def __call__(self, stream: int, /) -> bool:
        """Return True to go on."""


@dataclass(frozen=True)
class RunReport:
    """How a run ended.

    Attributes:
        interrupted: It was ended by Ctrl-C or a signal.
        failure: What ended it for all streams; what happened to one stream is in that ``Stream``.
        left: What an interrupt leaves behind, in words.
    """

    interrupted: bool
    failure: RtmposeInferError | None
    left: str = "what was done until here is complete"


def run_streams(streams: Sequence[Stream], step: Step, *, watch: Watcher | None = None) -> RunReport:
    """Take every frame of every stream through ``step``, and finish all files whatever happens.

    Files advance together, one frame each, so that ``step`` can batch them; live streams take part when they have a
    new frame. A source that fails ends its own stream only. Ctrl-C ends the run; what was handed to the outputs is
    written.

    Args:
        streams: Sources and outputs; all are closed when this returns.
        step: Index of a stream → its frame, to index → poses.
        watch: Called after each frame, and now and then while nothing arrives, in this thread.
    """
    arrival = threading.Condition()
    feeds = [Feed(stream.source, arrival) for stream in streams]
    interrupted, failure, start_s = False, None, time.perf_counter()
    try:
        for batch in _batches(feeds, arrival, watch):
            for index, poses in step(batch).items():
                stream, frame = streams[index], batch[index]
                stream.output.put(frame, replace(poses, frame_index=frame.index, timestamp_s=frame.timestamp_s))
                _count(stream, frame, poses)
                failure = failure or stream.output.failure
                if watch is not None and not watch(index):
                    interrupted = True
            if failure or interrupted:
                break
            # Files of a stream that has ended need not wait for the longest stream's end.
            with arrival:
                ended = [pair for pair in zip(streams, feeds, strict=True) if pair[1].finished]
            _finish(ended, start_s, at_end=True)
        else:
            _finish(list(zip(streams, feeds, strict=True)), start_s, at_end=True)
    except KeyboardInterrupt:
        interrupted = True
    except RtmposeInferError as error:
        failure = error
    finally:
        for feed in feeds:
            feed.close()
        _finish(list(zip(streams, feeds, strict=True)), start_s, at_end=False)
    return RunReport(interrupted, failure)


def _finish(pairs: Sequence[tuple[Stream, Feed]], start_s: float, *, at_end: bool) -> None:
    for stream, feed in pairs:
        if stream.seconds is None:
            broke_off = stream.failure or feed.failure
            if broke_off is None and at_end and stream.frames < (stream.expected_frames or 0):
                broke_off = MediaError(
                    f"{stream.source.name}: gave {stream.frames} frames, but {stream.expected_frames} when it was read "
                    "before; it was changed meanwhile. Run again when it is no longer written to."
                )
            stream.output.close(complete=at_end and broke_off is None)
            stream.failure = stream.output.failure or broke_off
            stream.seconds = time.perf_counter() - start_s
        stream.dropped_frames = feed.dropped_frames


def _batches(feeds: Sequence[Feed], arrival: threading.Condition, watch: Watcher | None) -> Iterator[dict[int, Frame]]:
    while True:
        batch: dict[int, Frame] | None = None
        with arrival:
            if _batch_is_ready(feeds) or arrival.wait(_POLL_S):
                batch = _taken(feeds) if _batch_is_ready(feeds) else None
        if batch is None:
            # Now and then while nothing arrives: the window wants to be served, and a signal to be noticed.
            if watch is not None and not watch(-1):
                raise KeyboardInterrupt  # as the user's Ctrl-C would
        elif batch:
            yield batch
        else:
            return


def _taken(feeds: Sequence[Feed]) -> dict[int, Frame]:
    return {index: feed.take() for index, feed in enumerate(feeds) if feed.ready}


def _batch_is_ready(feeds: Sequence[Feed]) -> bool:
    """Tell whether all unfinished files have a frame; without such, whether anyone has one or nobody will."""
    files = [feed for feed in feeds if not feed.is_live and not feed.finished]
    if files:
        return all(feed.ready for feed in files)
    return any(feed.ready for feed in feeds) or all(feed.finished for feed in feeds)


def _count(stream: Stream, frame: Frame, poses: Poses) -> None:
    stream.frames += 1
    stream.most_people = max(stream.most_people, len(poses))
    stream.sizes_wh.add((frame.image.shape[1], frame.image.shape[0]))
    if poses.track_ids is not None:
        stream.is_tracked = True
        stream.track_ids.update(poses.track_ids.tolist())


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Make an end by ``kill`` or a closed terminal the same as Ctrl-C: files are finished first."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
