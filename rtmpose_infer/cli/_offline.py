"""``rtmpose track --offline``: a whole video first, then its results.

The first pass looks at every frame; the results are known when it has ended, so the second reads the video again to
draw and write. Both passes go through the same feeds and outputs as online tracking.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rtmpose_infer.cli._streams import Feed, RunReport, Stream, run_streams
from rtmpose_infer.errors import InputError, RtmposeInferError
from rtmpose_infer.video import Frame, FrameSource, open_source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from rtmpose_infer.cli._outputs import TrackOptions
    from rtmpose_infer.offline import OfflineTracker
    from rtmpose_infer.results import Poses

__all__ = ["check_offline", "run_offline"]


def check_offline(sources: list[FrameSource], options: TrackOptions) -> None:
    """Refuse what offline tracking cannot do.

    Raises:
        InputError: More than one input, a live source, or tracking switched off.
    """
    if len(sources) != 1 or sources[0].is_live:
        raise InputError("--offline takes one file: it looks at the whole video before it answers.")
    if not options.tracking:
        raise InputError("--offline follows people; it does not go with --no-tracking.")


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
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    try:
        with bar:
            task = bar.add_task(f"{source.name}: looking at every frame", total=source.frame_count)
            results = tracker.track(
                _pairs(feed, arrival),
                work_dir=work_dir,
                video_id=_video_id(text),
                progress=lambda count: bar.update(task, completed=count),
            )
            first = next(results, None)
    except KeyboardInterrupt:
        stream.output.close()
        return RunReport(interrupted=True, failure=None)
    except RtmposeInferError as error:
        stream.output.close()
        return RunReport(interrupted=False, failure=error)
    finally:
        feed.close()
    broke_off = feed.failure
    answers = iter(() if first is None else _with_first(first, results))

    def step(batch: Mapping[int, Frame]) -> Mapping[int, Poses]:
        return {index: next(answers) for index in batch}

    stream.source = open_source(text, picture_rate=picture_rate)
    with bar:
        task = bar.add_task(f"{source.name}: writing", total=source.frame_count)

        def watch(index: int, /) -> bool:
            bar.advance(task, 1 if index >= 0 else 0)
            return True

        report = run_streams([stream], step, watch=watch)
    stream.failure = stream.failure or broke_off
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


def _video_id(text: str) -> str:
    path = Path(text)
    return f"{path.name} {path.stat().st_size}" if path.is_file() else text
