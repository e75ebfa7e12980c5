"""MOTChallenge text files, as truth and as results: https://motchallenge.net/instructions/.

One line a person and frame: frame (from 1), id, left, top, width, height, then for truth: whether to consider it,
class, visibility; for results: score and three numbers of no meaning here. The protocol of MOT16, MOT17 and MOT20 is
followed: pedestrians (class 1) are to be found; people on vehicles, standing ones, distractors and reflections (classes
2, 7, 8, 12) and pedestrians marked not to be considered are no mistake to find and no duty; other classes are not
people. Older files carry −1 as class and mean pedestrians throughout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import InputError, MediaError
from rtmpose_infer.evaluation.tracking import PeopleFrame

__all__ = ["is_untracked", "load_motchallenge_results", "load_motchallenge_truth"]

Rows = npt.NDArray[np.float64]
_NEEDLESS = (2, 7, 8, 12)
_MOST_FRAMES = 10_000_000
_LARGEST_ID = 2**53  # beyond it two ids become one float


def load_motchallenge_truth(path: str | Path) -> list[PeopleFrame]:
    """Return the people of frames 1, 2, …, up to the last one with somebody in it.

    Raises:
        MediaError: The file cannot be read.
        InputError: It is not in this form, or holds nobody.
    """
    rows = _rows(path)
    if rows.shape[1] < 7:
        raise InputError(f"{path}: truth needs 7 to 9 columns, got {rows.shape[1]}.")
    kind = rows[:, 7] if rows.shape[1] > 7 else np.full(len(rows), -1.0)
    pedestrian = np.isin(kind, (1, -1))
    rows = np.column_stack([rows[:, :6], ~pedestrian | (rows[:, 6] == 0)])[pedestrian | np.isin(kind, _NEEDLESS)]
    by_frame = _by_frame(rows, path)
    people = [PeopleFrame.empty()] * max(by_frame)
    for number, here in by_frame.items():
        people[number - 1] = PeopleFrame(_ids(here, path), _boxes(here), ignored=here[:, 6].astype(bool))
    return people


def load_motchallenge_results(path: str | Path) -> tuple[list[PeopleFrame], list[npt.NDArray[np.float32]]]:
    """Return the people found in frames 1, 2, … and the scores of their boxes.

    Detections without identity (id −1 throughout) get the ids 1, 2, … anew in every frame.

    Raises:
        MediaError: The file cannot be read.
        InputError: It is not in this form, or holds nobody.
    """
    rows = _rows(path)
    untracked = bool((rows[:, 1] == -1).all())
    by_frame = _by_frame(rows, path)
    people = [PeopleFrame.empty()] * max(by_frame)
    scores = [np.zeros(0, np.float32)] * len(people)
    for number, here in by_frame.items():
        ids = np.arange(1, len(here) + 1) if untracked else _ids(here, path)
        people[number - 1] = PeopleFrame(ids, _boxes(here))
        scores[number - 1] = (here[:, 6] if here.shape[1] > 6 else np.ones(len(here))).astype(np.float32)
    return people, scores


def is_untracked(path: str | Path) -> bool:
    """Return whether a results file holds detections without identity."""
    return bool((_rows(path)[:, 1] == -1).all())


def _rows(path: str | Path) -> Rows:
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text file, so not in MOTChallenge's form.") from error
    table: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            table.append([float(cell) for cell in line.split(",")])
        except ValueError as error:
            raise InputError(f"{path}, line {number}: expected numbers and commas, got {line[:60]!r}.") from error
        if len(table[-1]) < 6 or len(table[-1]) != len(table[0]):
            expected = "at least 6" if len(table) == 1 else str(len(table[0]))
            raise InputError(f"{path}, line {number}: expected {expected} columns, got {len(table[-1])}.")
    if not table:
        raise InputError(f"{path}: holds nobody.")
    rows = np.array(table)
    frames = rows[:, 0]
    if not np.isfinite(rows[:, :6]).all() or (frames < 1).any() or (frames > _MOST_FRAMES).any():
        raise InputError(f"{path}: expected finite places and frame numbers from 1 to {_MOST_FRAMES}.")
    if (rows[:, :2] != np.rint(rows[:, :2])).any() or (np.abs(rows[:, 1]) > _LARGEST_ID).any():
        raise InputError(f"{path}: expected whole numbers of at most {_LARGEST_ID} as frames and ids.")
    return rows


def _by_frame(rows: Rows, path: str | Path) -> dict[int, Rows]:
    """Return the rows of each frame that has any, by its number."""
    if not len(rows):
        raise InputError(f"{path}: holds no pedestrian.")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    numbers, starts = np.unique(rows[:, 0].astype(np.int64), return_index=True)
    return dict(zip(numbers.tolist(), np.split(rows, starts[1:]), strict=True))


def _ids(rows: Rows, path: str | Path) -> npt.NDArray[np.int64]:
    ids = rows[:, 1].astype(np.int64)
    if len(np.unique(ids)) < len(ids):
        raise InputError(f"{path}: an id occurs twice in frame {int(rows[0, 0])}.")
    return ids


def _boxes(rows: Rows) -> npt.NDArray[Any]:
    return np.column_stack([rows[:, 2:4], rows[:, 2:4] + np.maximum(rows[:, 4:6], 0)]).astype(np.float32)
