"""What the user sees while ``rtmpose track`` runs, and what it says at the end."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from rtmpose_infer.errors import MediaError
from rtmpose_infer.video import PictureSource

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from rtmpose_infer.backends.base import BackendInfo
    from rtmpose_infer.cli._streams import Stream

__all__ = ["Display", "Window", "summarise"]


class _SpeedColumn(ProgressColumn):
    """Frames per second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:5.1f} fps" if speed else "   –  fps")


class Display:
    """Progress bars on standard error, one a stream, and the window."""

    def __init__(self, streams: Sequence[Stream], console: Console, window: Window | None) -> None:
        self._streams = streams
        self._window = window
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.fields[frames]} frames"),
            _SpeedColumn(),
            TextColumn("{task.fields[people]} people"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=5)
        self._tasks: list[TaskID] = []

    def __enter__(self) -> Display:
        self._progress.start()
        for stream in self._streams:
            total = None if stream.source.is_live else stream.source.frame_count
            task = self._progress.add_task(stream.label, total=total, frames="?" if total is None else total, people=0)
            self._tasks.append(task)
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
        if self._window is not None:
            self._window.close()

    def watch(self, stream: int, /) -> bool:
        """Take note of a frame of that stream (−1: of none); False when the user closed the window."""
        if stream >= 0 and not self._progress.disable:
            done = self._streams[stream]
            people = len(done.track_ids) or done.most_people
            self._progress.update(self._tasks[stream], completed=done.frames, people=people)
        if self._window is None:
            return True
        return self._window.show({s.label: s.output.drawn for s in self._streams})


class Window:
    """One window a stream, where this OpenCV can open windows."""

    _FRAME_MS = 1
    _QUIT_KEYS = (ord("q"), 27)

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}
        has_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), flags=re.MULTILINE)
        if gui is None or gui[1].upper() == "NONE":
            raise MediaError(
                "--show: this OpenCV cannot open windows (it is the headless build). Replace it: "
                "pip uninstall opencv-python-headless; pip install opencv-python; or leave out --show."
            )
        if not has_screen:
            # Qt ends the whole process when it finds no screen.
            raise MediaError("--show: there is no screen (DISPLAY is not set); leave out --show.")

    def show(self, images: Mapping[str, npt.NDArray[np.uint8] | None]) -> bool:
        """Show what is new; False when the user pressed q or Esc, or closed a window."""
        for name, image in images.items():
            if image is not None and self._shown.get(name) != id(image):
                cv2.imshow(name, image)
                self._shown[name] = id(image)
        key = cv2.waitKey(self._FRAME_MS) & 0xFF
        closed = any(cv2.getWindowProperty(name, cv2.WND_PROP_VISIBLE) < 1 for name in self._shown)
        return key not in self._QUIT_KEYS and not closed

    def close(self) -> None:
        """Close all windows."""
        cv2.destroyAllWindows()


def summarise(streams: Sequence[Stream], backends: Mapping[str, BackendInfo], console: Console) -> None:
    """Print what became of each stream, what the networks ran on, and where the results are."""
    for stream in streams:
        notes = [_count(stream.frames, "frame"), _people(stream)]
        notes.append(f"{stream.frames / max(stream.seconds or 0, 1e-9):.1f} fps")
        if stream.dropped_frames:
            notes.append(f"{_count(stream.dropped_frames, 'stale frame')} dropped")
        if stream.source.skipped_frames:
            notes.append(f"{_count(stream.source.skipped_frames, 'undecodable frame')} skipped")
        if stream.source.damaged_frames:
            notes.append(_count(stream.source.damaged_frames, "damaged frame"))
        console.print(f"{stream.label}: {', '.join(notes)}", soft_wrap=True, markup=False)
        if isinstance(stream.source, PictureSource) and stream.is_tracked and len(stream.sizes_wh) > 1:
            console.print(
                f"{stream.label}: pictures of {len(stream.sizes_wh)} sizes were followed like a film; "
                "if they are unrelated, use --no-tracking",
                soft_wrap=True,
                markup=False,
            )
    for task, info in sorted(backends.items()):
        threads = f", {_count(info.threads, 'thread')}" if info.threads else ""
        precision = f", {info.precision}" if info.precision else ""
        console.print(f"{task} on {info.runtime} {info.version}, {info.device}{precision}{threads}", markup=False)
    for stream in streams:
        for path in stream.output.paths:
            console.print(f"wrote {path}", soft_wrap=True, markup=False)


def _people(stream: Stream) -> str:
    people = _count(len(stream.track_ids) if stream.is_tracked else stream.most_people, "person", "people")
    return people if stream.is_tracked or stream.frames == 1 else f"{people} at most in a frame"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
