"""`rtmpose track --offline` through the whole command, on painted people."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("av", reason="the commands need the cli extra")
typer = pytest.importorskip("typer", reason="the commands need the cli extra")

from typer.testing import CliRunner  # noqa: E402

from rtmpose_infer.cli import _offline  # noqa: E402
from rtmpose_infer.cli import track as track_module  # noqa: E402
from rtmpose_infer.formats import load_recording  # noqa: E402
from rtmpose_infer.offline import OfflineConfig  # noqa: E402
from rtmpose_infer.video import FrameSource, VideoWriter, open_source  # noqa: E402
from tests.painted import Painted, paint, painted_pipeline  # noqa: E402


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> Painted:
    world = painted_pipeline()
    monkeypatch.setattr(track_module, "_pipeline", lambda options: world.pipeline)
    return world


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "people.mp4"
    with VideoWriter(path, frame_rate=25) as writer:
        for index in range(30):
            people = {2: (40 + 6 * index, 60, 100 + 6 * index, 200)} if index >= 11 else {}
            writer.write(paint(people), index / 25)
    return path


def run(*arguments: object) -> object:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(track_module.track)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_every_frame_is_written_and_somebody_between_key_frames_is_in_them(
    painted: Painted, film: Path, tmp_path: Path
) -> None:
    output, results = tmp_path / "out.mp4", tmp_path / "out.json"
    outcome = run(film, "--offline", "-o", output, "--json", results)
    assert outcome.exit_code == 0, outcome.output
    frames = list(load_recording(results).frames)
    assert [len(p) for p in frames] == [0] * 11 + [1] * 19
    assert outcome.output.startswith("people.mp4: 30 frames")  # no bar, nor its empty lines, where nobody looks
    assert {i for p in frames for i in p.track_ids.tolist()} == {1}
    np.testing.assert_allclose([p.timestamp_s for p in frames], np.arange(30) / 25, atol=2e-3)
    with open_source(output) as source:
        assert sum(1 for _ in source) == 30
    assert sum(painted.detector.batches) == math.ceil(30 / OfflineConfig().key_interval)


@pytest.mark.parametrize("interval", [1, 10])
def test_detector_sees_as_many_frames_as_asked_for(painted: Painted, film: Path, tmp_path: Path, interval: int) -> None:
    outcome = run(film, "--offline", "--json", tmp_path / "out.json", "--det-interval", interval)
    assert outcome.exit_code == 0, outcome.output
    assert sum(painted.detector.batches) == 30 / interval


def test_brackets_in_a_name_are_no_markup(
    painted: Painted, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    outcome = run(film.rename(tmp_path / "a [x264].mp4"), "--offline", "--json", tmp_path / "out.json")
    assert "a [x264].mp4: looking at every frame" in outcome.output


def test_work_in_progress_is_used_again(painted: Painted, film: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        outcome = run(film, "--offline", "--json", tmp_path / f"{name}.json", "--work-dir", tmp_path / "work")
        assert outcome.exit_code == 0, outcome.output
        if name == "one":
            asked = sum(painted.pose.batches)
    assert sum(painted.pose.batches) == asked
    one, two = (load_recording(tmp_path / f"{n}.json").frames for n in ("one", "two"))
    for a, b in itertools.zip_longest(one, two):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-tracking", "--offline"], "--no-tracking"),
        (["--work-dir", "w"], "--work-dir"),
        (["--offline", "--show"], "in place of --show"),
        (["--offline", "--det-interval", "auto"], "in place of auto"),
        (["--format", "coco", "--csv", "o.csv"], "name a file with --json"),
    ],
)
def test_options_that_do_not_go_together(
    painted: Painted, film: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    outcome = run(film, *(() if "--csv" in arguments else ("--json", tmp_path / "out.json")), *arguments)
    assert outcome.exit_code == 2
    assert words in " ".join(outcome.output.split())
    assert not (tmp_path / "out.json").exists()


def test_several_inputs_are_refused(painted: Painted, film: Path) -> None:
    outcome = run(film, film, "--offline")
    assert outcome.exit_code == 2
    assert "takes one file" in outcome.output


def test_one_picture_is_refused_because_nobody_in_it_could_convince(painted: Painted, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), paint({2: (40, 60, 100, 200)}))
    outcome = run(tmp_path / "a.png", "--offline", "--json", tmp_path / "out.json")
    assert outcome.exit_code == 2
    assert "a.png: is one picture" in " ".join(outcome.output.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for index in range(6):
        cv2.imwrite(str(path / f"{index}.png"), paint({2: (40 + 6 * index, 60, 100 + 6 * index, 200)}))
    return path


@pytest.mark.parametrize("kind", ["film", "folder"])
def test_other_frames_under_the_same_names_are_not_answered_with_old_work(
    painted: Painted, film: Path, folder: Path, tmp_path: Path, kind: str
) -> None:
    source, changed = {"film": (film, film), "folder": (folder, folder / "3.png")}[kind]
    arguments = (source, "--offline", "--json", tmp_path / "o.json", "--work-dir", tmp_path / "work")
    outcome = run(*arguments)
    assert outcome.exit_code == 0, outcome.output
    facts = changed.stat()
    os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1_000_000_000))  # of the same size
    outcome = run(*arguments)
    assert outcome.exit_code == 1
    assert "holds the work of another video" in " ".join(outcome.output.split())


@pytest.mark.parametrize(
    ("change", "words", "written"),
    [
        (lambda folder: shutil.copy(folder / "5.png", folder / "6.png"), "more than the 6 frames", 6),
        (lambda folder: (folder / "5.png").unlink(), "gave 5 frames, but 6", 5),
    ],
    ids=["grown", "shrunk"],
)
def test_input_that_changes_between_the_readings_is_told_and_what_was_written_is_kept(
    painted: Painted,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    words: str,
    written: int,
) -> None:
    def changed(*arguments: Any, **options: Any) -> FrameSource:
        change(folder)
        return open_source(*arguments, **options)

    monkeypatch.setattr(_offline, "open_source", changed)
    outcome = run(folder, "--offline", "--json", tmp_path / "o.json")
    assert outcome.exit_code == 1, outcome.output
    assert words in " ".join(outcome.output.split())
    recording = load_recording(tmp_path / "o.json")
    assert (recording.complete, len(recording.frames)) == (False, written)


def test_an_interrupt_before_anything_was_written_says_so(
    painted: Painted, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_offline, "_pairs", interrupted)
    outcome = run(film, "--offline", "--json", tmp_path / "o.json", "--work-dir", tmp_path / "work")
    assert outcome.exit_code == 130
    words = " ".join(outcome.output.split())
    assert "interrupted; nothing was written yet; the same command goes on with what is in" in words
    assert not (tmp_path / "o.json").exists()
