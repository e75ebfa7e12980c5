"""``rtmpose track --offline``: a whole video first, then its results.

The first pass looks at every frame; the results are known when it has ended, so the second reads the video again to
draw and write. Both passes go through the same feeds and outputs as online tracking.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rtmpose_infer.cli._outputs import is_single_picture
from rtmpose_infer.cli._streams import Feed, RunReport, Stream, run_streams
from rtmpose_infer.errors import InputError, MediaError, RtmposeInferError
from rtmpose_infer.video import Frame, FrameSource, PictureSource, open_source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from rtmpose_infer.cli._outputs import TrackOptions
    from rtmpose_infer.offline import OfflineTracker
    from rtmpose_infer.results import Poses

__all__ = ["check_offline", "run_offline"]


def check_offline(sources: list[FrameSource], options: TrackOptions) -> int:
    """Refuse what offline tracking cannot do; return how many frames lie between two detections.

    Raises:
        InputError: More than one input, a live source, one picture, tracking switched off, a window asked for, or
            detections when they are needed.
    """
    if len(sources) != 1 or sources[0].is_live:
        raise InputError("--offline takes one file: it looks at the whole video before it answers.")
    if is_single_picture(sources[0]):
        raise InputError(f"{sources[0].name}: is one picture, in which nobody can be followed; leave out --offline.")
    if not options.tracking:
        raise InputError("--offline follows people; it does not go with --no-tracking.")
    if options.show:
        raise InputError("--offline knows nothing to show until it has ended; name an output (-o) in place of --show.")
    if options.det_interval == "auto":
        raise InputError(
            "--offline detects at even intervals; give --det-interval a number of frames in place of auto."
        )
    return options.det_interval


def run_offline(
    tracker: OfflineTracker, stream: Stream, text: str, *, picture_rate: float, work_dir: Path | None, console: Console
) -> RunReport:
    """Track the stream's source, read the input once more, and write the stream's outputs.

    Args:
        tracker: Holds the networks.
        stream: Source of the first pass, and outputs.
        text: The input as it was named, to be opened again.
        picture_rate: See ``open_source``.
        work_dir: Folder for the work in progress; a killed run goes on from it.
        console: Where progress is shown.
    """
    start_s = time.perf_counter()
    source = stream.source
    arrival = threading.Condition()
    feed = Feed(source, arrival)
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    count = 0

    def pairs() -> Iterator[tuple[npt.NDArray[np.uint8], float]]:
        nonlocal count
        for pair in _pairs(feed, arrival):
            count += 1
            yield pair

    try:
        with bar:
            task = bar.add_task(f"{source.name}: looking at every frame", total=source.frame_count)
            results = tracker.track(
                pairs(),
                work_dir=work_dir,
                video_id=_video_id(text, source),
                progress=lambda done: bar.update(task, completed=done),
            )
            first = next(results, None)
    except KeyboardInterrupt:
        stream.output.close()
        kept = "" if work_dir is None else f"; the same command goes on with what is in {work_dir}"
        return RunReport(interrupted=True, failure=None, left=f"nothing was written yet{kept}")
    except RtmposeInferError as error:
        stream.output.close()
        return RunReport(interrupted=False, failure=error)
    finally:
        feed.close()
    stream.failure, stream.expected_frames = feed.failure, count
    answers = iter(() if first is None else _with_first(first, results))

    def step(batch: Mapping[int, Frame]) -> Mapping[int, Poses]:
        found = {index: next(answers, None) for index in batch}
        known = {index: poses for index, poses in found.items() if poses is not None}
        if len(known) < len(found):
            raise MediaError(
                f"{source.name}: gave more than the {count} frames of its first reading; it grew meanwhile. "
                "What was written is complete until there; run again when the file is no longer written to."
            )
        return known

    stream.source = open_source(text, picture_rate=picture_rate)
    with bar:
        task = bar.add_task(f"{source.name}: writing", total=source.frame_count)

        def watch(index: int, /) -> bool:
            bar.advance(task, 1 if index >= 0 else 0)
            return True

        report = run_streams([stream], step, watch=watch)
    stream.seconds = time.perf_counter() - start_s  # both passes
    return report


def _pairs(feed: Feed, arrival: threading.Condition) -> Iterator[tuple[npt.NDArray[np.uint8], float]]:
    while True:
        with arrival:
            arrival.wait_for(lambda: feed.ready or feed.finished)
            if feed.finished:
                return
            frame = feed.take()
        yield frame.image, frame.timestamp_s


def _with_first(first: Poses, rest: Iterator[Poses]) -> Iterator[Poses]:
    yield first
    yield from rest


def _video_id(text: str, source: FrameSource) -> str:
    """Return what changes with the input: a file's name, size and time of change; of a folder's pictures a digest."""
    if isinstance(source, PictureSource):
        digest = hashlib.sha256("\n".join(_facts(path) for path in source.paths).encode("utf-8", "surrogateescape"))
        return f"{source.name} {digest.hexdigest()}"
    path = Path(text)
    return _facts(path) if path.is_file() else text


def _facts(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError as error:
        raise MediaError(f"{path}: cannot be looked at: {error.strerror}. Is it still there?") from error
    return f"{path.name} {facts.st_size} {facts.st_mtime_ns}"
