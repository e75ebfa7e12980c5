"""``rtmpose track`` around a scripted pipeline: what is written, under which name, and what survives which failure."""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

av = pytest.importorskip("av", reason="the commands need the cli extra")
typer = pytest.importorskip("typer", reason="the commands need the cli extra")

from rich.console import Console  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from rtmpose_infer.backends.base import BackendInfo  # noqa: E402
from rtmpose_infer.cli import _display, _streams  # noqa: E402
from rtmpose_infer.cli import track as track_module  # noqa: E402
from rtmpose_infer.errors import InferenceError, MediaError  # noqa: E402
from rtmpose_infer.formats import load_recording  # noqa: E402
from rtmpose_infer.results import Poses  # noqa: E402
from rtmpose_infer.skeletons import load_skeleton  # noqa: E402
from rtmpose_infer.video import Frame, FrameSource, PictureWriter, VideoWriter, load_picture  # noqa: E402

COCO = load_skeleton("coco17")
PLACES = {_streams.__file__, queue.__file__, threading.__file__}
TIMES_S = [0.0, 0.04, 0.08, 0.3, 0.34, 0.5, 0.54, 0.58, 0.62, 0.9]


def poses_in(image: np.ndarray, *, ids: bool, **fields: Any) -> Poses:
    """One person whose joints lie on a diagonal, with a horizontal place that the brightness of the frame gives."""
    height, width = image.shape[:2]
    points = np.linspace((0.2, 0.2), (0.6, 0.9), 17, dtype=np.float32)[None] * (width, height)
    box = np.array([[0, 0, width, height]], np.float32)
    scores = np.full((1, 17), 0.9, np.float32)
    return Poses(points, scores, box, np.ones(1), COCO, track_ids=np.array([1]) if ids else None, **fields)


class ScriptedPipeline:
    """Stands in for PosePipeline; ``fail_at`` is the number of the frame on which it raises."""

    instances: ClassVar[list[ScriptedPipeline]] = []
    fail_at: int | None = None
    failure: BaseException = InferenceError("the runtime failed")
    skeleton = COCO

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.batches: list[set[int]] = []
        self.frames = 0
        self.closed = False
        type(self).instances.append(self)

    def _count(self) -> None:
        if self.frames == self.fail_at:
            raise self.failure
        self.frames += 1

    def track_many(
        self, frames: Mapping[int, np.ndarray], *, timestamps_s: Mapping[int, float], config: Any
    ) -> dict[int, Poses]:
        self.config = config
        self.batches.append(set(frames))
        self._count()
        return {i: poses_in(f, ids=True, frame_index=999, timestamp_s=timestamps_s[i]) for i, f in frames.items()}

    def predict_batch(self, frames: list[np.ndarray]) -> list[Poses]:
        self._count()
        return [poses_in(image, ids=False) for image in frames]

    def describe(self) -> dict[str, BackendInfo]:
        return {"pose": BackendInfo("scripted", "1.0", "cpu", threads=2)}

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> ScriptedPipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@pytest.fixture
def pipeline(monkeypatch):
    """The class of the scripted pipeline, in place of the real one."""

    class Scripted(ScriptedPipeline):
        instances: ClassVar[list[ScriptedPipeline]] = []

    monkeypatch.setattr(track_module, "PosePipeline", Scripted)
    return Scripted


@pytest.fixture
def run(tmp_path, monkeypatch, pipeline):
    """Runs the command in tmp_path and returns its result."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(track_module.track)

    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return invoke


@pytest.fixture
def video(tmp_path) -> Path:
    """A small film with irregular times."""
    folder = tmp_path / "given"
    folder.mkdir()
    return make_video(folder / "film.mp4")


@pytest.fixture
def pictures(run, tmp_path) -> Path:
    """The folder ``in`` with three pictures."""
    (tmp_path / "in").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), np.full((64, 96, 3), 90, np.uint8))
    return tmp_path / "in"


def make_video(path: Path, count: int = 10, size_wh: tuple[int, int] = (96, 64)) -> Path:
    with VideoWriter(path, frame_rate=25) as writer:
        for i in range(count):
            image = np.random.default_rng(i).integers(60, 120, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
            writer.write(image, TIMES_S[i] if count == len(TIMES_S) else i / 25)
    return path


def frames_of(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [f.to_ndarray(format="bgr24") for f in frames], [f.time for f in frames]


class TestOutputs:
    def test_video_results_and_table_have_every_frame_with_its_time(self, run, video):
        result = run(video, "-o", "o.mp4", "--json", "o.json", "--csv", "o.csv")
        assert result.exit_code == 0, result.output
        images, times_s = frames_of(Path("o.mp4"))
        assert times_s == pytest.approx(TIMES_S, abs=1e-4)
        recording = load_recording("o.json")
        assert recording.complete
        assert [f.frame_index for f in recording.frames] == list(range(10))
        assert [f.timestamp_s for f in recording.frames] == pytest.approx(TIMES_S, abs=1e-4)
        assert recording.source["name"] == "film.mp4"
        with Path("o.csv").open(newline="") as file:
            assert [row["frame_index"] for row in csv.DictReader(file)] == [str(i) for i in range(10)]
        original, _ = frames_of(video)
        assert np.abs(images[3].astype(int) - original[3]).max() > 60  # something was drawn

    def test_summary_says_what_was_done_and_where(self, run, video):
        result = run(video, "-o", "o.mp4", "--json", "o.json")
        text = " ".join(result.output.split())
        assert re.search(r"film\.mp4: 10 frames, 1 person, [\d.]+ fps", text)
        assert "pose on scripted 1.0, cpu, 2 threads" in text
        assert "wrote o.mp4" in text
        assert "wrote o.json" in text

    def test_without_any_output_a_file_gets_an_annotated_video_in_the_current_folder(self, run, video, tmp_path):
        assert run(video).exit_code == 0
        assert len(frames_of(tmp_path / "film_poses.mp4")[0]) == 10

    def test_existing_folder_as_output_gets_the_inputs_name(self, run, video, tmp_path):
        (tmp_path / "there").mkdir()
        assert run(video, "-o", "there", "--json", "there").exit_code == 0
        assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["film.json", "film.mp4"]

    @pytest.mark.parametrize("name", ["native", "coco", "mmpose"])
    def test_format_of_the_json(self, run, video, name):
        assert run(video, "--json", "o.json", "--format", name).exit_code == 0
        data = json.loads(Path("o.json").read_text())
        key = {"native": "frames", "mmpose": "instance_info"}.get(name)
        assert len(data[key] if key else data) == 10

    def test_openpose_writes_a_folder_named_by_the_video(self, run, video):
        assert run(video, "--json", "cam_json", "--format", "openpose").exit_code == 0
        names = sorted(p.name for p in Path("cam_json").iterdir())
        assert names[0] == "film_000000000000_keypoints.json"
        assert len(names) == 10

    def test_several_inputs_run_together_and_go_into_a_folder(self, run, video, tmp_path, pipeline):
        (tmp_path / "b").mkdir()
        longer = make_video(tmp_path / "b" / "film.mp4", 14, (64, 96))
        result = run(video, longer, "-o", "out", "--json", "out")
        assert result.exit_code == 0, result.output
        assert sorted(p.name for p in Path("out").iterdir()) == ["film-2.json", "film-2.mp4", "film.json", "film.mp4"]
        assert len(load_recording("out/film.json").frames) == 10
        assert len(load_recording("out/film-2.json").frames) == 14
        assert frames_of(Path("out/film-2.mp4"))[0][0].shape == (96, 64, 3)
        (only,) = pipeline.instances
        assert only.batches == [{0, 1}] * 10 + [{1}] * 4

    def test_inputs_of_one_name_are_told_apart_as_they_were_given(self, run, video, tmp_path):
        (tmp_path / "b").mkdir()
        cut = tmp_path / "b" / "film.mp4"
        cut.write_bytes(video.read_bytes()[: video.stat().st_size * 7 // 10])
        other = make_video(tmp_path / "other.mp4")
        result = run(video, "b/film.mp4", video, other, "--json", "out")
        lines = result.output.splitlines()
        for label in (f"{video}: 10 frames", f"{video} (2): 10 frames", "b/film.mp4: ", "other.mp4: 10 frames"):
            assert sum(line.startswith(label) for line in lines) == 1, result.output
        assert "error: b/film.mp4: ends too early" in result.output

    @pytest.mark.parametrize("option", [["-o", "a.mp4"], ["--json", "a.json"], ["--csv", "a.CSV"]])
    def test_one_file_for_several_inputs_is_refused(self, run, video, pipeline, option):
        result = run(video, video, *option)
        assert (result.exit_code, pipeline.instances, Path(option[1]).exists()) == (2, [], False)
        assert "several inputs; name a folder" in " ".join(result.output.split())

    def test_picture_becomes_a_picture_without_ids(self, run, tmp_path):
        cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 96, 3), 90, np.uint8))
        assert run("a.png", "-o", "o.png", "--json", "o.json").exit_code == 0
        assert (load_picture("o.png") != 90).any()
        recording = load_recording("o.json")
        assert recording.names == ("a.png",)
        assert recording.frames[0].track_ids is None
        assert run("a.png").exit_code == 0
        assert Path("a_poses.png").is_file()

    def test_picture_of_a_kind_that_is_read_and_not_written_becomes_a_png(self, run, tmp_path):
        cv2.imwrite(str(tmp_path / "a.jp2"), np.full((64, 96, 3), 90, np.uint8))
        assert run("a.jp2").exit_code == 0
        assert (load_picture("a_poses.png") != 90).any()

    def test_folder_with_one_picture_gets_a_picture(self, run, tmp_path):
        (tmp_path / "one").mkdir()
        cv2.imwrite(str(tmp_path / "one" / "a.JPG"), np.full((64, 96, 3), 90, np.uint8))
        assert run("one").exit_code == 0
        assert (load_picture("one_poses.JPG") != 90).any()

    def test_picture_beside_a_video_stands_alone_too(self, run, video, tmp_path):
        cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 96, 3), 90, np.uint8))
        assert run(video, "a.png", "--json", "out").exit_code == 0
        assert [f.track_ids is None for f in load_recording("out/film.json").frames] == [False] * 10
        assert [f.track_ids is None for f in load_recording("out/a.json").frames] == [True]

    def test_folder_of_pictures_becomes_a_folder_or_a_video(self, run, tmp_path):
        (tmp_path / "in").mkdir()
        for i in range(3):
            cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), np.full((64, 96, 3), 90, np.uint8))
        assert run("in", "-o", "drawn", "--json", "r.json", "--format", "coco").exit_code == 0
        assert sorted(p.name for p in Path("drawn").iterdir()) == ["0.png", "1.png", "2.png"]
        assert [r["image_id"] for r in json.loads(Path("r.json").read_text())] == [0, 1, 2]
        assert run("in", "-o", "o.mp4", "--picture-rate", "10").exit_code == 0
        assert frames_of(Path("o.mp4"))[1] == pytest.approx([0, 0.1, 0.2])

    def test_folder_keeps_its_whole_name(self, run, pictures):
        pictures.rename("2026.11.27")
        assert run("2026.11.27").exit_code == 0
        assert Path("2026.11.27_poses.mp4").is_file()

    @pytest.mark.parametrize("name", ["there", "the.re"])
    def test_existing_folder_gets_the_pictures_of_a_folder(self, run, pictures, name):
        Path(name).mkdir()
        assert run("in", "-o", name).exit_code == 0
        assert sorted(p.name for p in Path(name).iterdir()) == ["0.png", "1.png", "2.png"]

    def test_pictures_of_different_sizes_are_told_of_the_option_for_unrelated_ones(self, run, tmp_path):
        (tmp_path / "in").mkdir()
        for i in range(2):
            cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), np.full((64 + 8 * i, 96, 3), 90, np.uint8))
        assert "in: pictures of 2 sizes were followed like a film" in run("in", "--json", "r.json").output
        assert "like a film" not in run("in", "--json", "r.json", "--no-tracking").output

    def test_options_reach_the_pipeline(self, run, video, pipeline):
        result = run(
            *(
                video,
                "--json",
                "o.json",
                "--detector",
                "d.onnx",
                "--pose",
                "p.onnx",
                "--backend",
                "ov",
                "--threads",
                "2",
            ),
            *("--det-interval", "auto", "--max-people", "3", "--score-threshold", "0.4", "--no-smoothing"),
        )
        assert result.exit_code == 0, result.output
        (only,) = pipeline.instances
        assert only.options["detector"] == "d.onnx"
        assert only.options["pose"] == "p.onnx"
        assert only.options["backend"] == "ov"
        assert only.options["threads"] == 2
        assert only.options["detector_options"] == {"score_threshold": 0.4}
        assert only.config.det_interval == "auto"
        assert only.config.max_people == 3
        assert only.config.smoothing is None
        assert only.closed

    def test_one_network_for_both_gets_the_threshold(self, run, video, pipeline):
        assert run(video, "--json", "o.json", "--one-stage", "rtmo-s", "--score-threshold", "0.4").exit_code == 0
        (only,) = pipeline.instances
        assert only.options["one_stage"] == "rtmo-s"
        assert only.options["one_stage_options"] == {"score_threshold": 0.4}
        assert not only.options["detector_options"]

    def test_no_tracking_gives_every_frame_alone(self, run, video):
        assert run(video, "--json", "o.json", "--no-tracking").exit_code == 0
        assert all(f.track_ids is None for f in load_recording("o.json").frames)

    def test_no_more_people_than_asked_for_where_frames_stand_alone(self, run, pictures, pipeline, monkeypatch):
        def two_people(self: ScriptedPipeline, frames: list[np.ndarray]) -> list[Poses]:
            both = np.array([0, 0])
            return [replace(poses_in(f, ids=False)[both], bbox_scores=np.array([0.4, 0.8])) for f in frames]

        monkeypatch.setattr(pipeline, "predict_batch", two_people)
        for source, options in (("in", ["--no-tracking"]), ("in/0.png", [])):
            assert run(source, "--json", "o.json", "--max-people", "1", *options).exit_code == 0
            for frame in load_recording("o.json").frames:
                assert frame.bbox_scores == pytest.approx([0.8])


class TestRefusedBeforeAnyWork:
    def expect(self, result, pipeline, words: str, *, code: int = 1) -> None:
        assert result.exit_code == code, result.output
        assert re.search(words, " ".join(result.output.split()))
        assert "Traceback" not in result.output
        assert pipeline.instances == []

    def test_missing_input(self, run, pipeline):
        self.expect(run("nope.mp4"), pipeline, "error: nope.mp4: no such file")

    def test_unwritable_outputs(self, run, video, pipeline):
        self.expect(run(video, "-o", "no/o.mp4"), pipeline, "folder no does not exist")
        self.expect(run(video, "--json", "no/o.json"), pipeline, "folder no does not exist")
        self.expect(run(video, "-o", "o.avi"), pipeline, r"end the name in \.mp4", code=2)
        self.expect(run(video, "-o", "o.png"), pipeline, "pictures are written for a picture", code=2)

    def test_nothing_is_left_behind_by_a_refusal(self, run, video, tmp_path):
        run(video, "--json", "o.json", "--csv", "o.csv", "-o", "no/o.mp4")
        assert [p.name for p in tmp_path.iterdir()] == ["given"]

    def test_output_that_is_an_input_or_another_output(self, run, video, pipeline):
        before = video.read_bytes()
        self.expect(run(video, "-o", video), pipeline, "is an input already", code=2)
        assert video.read_bytes() == before
        self.expect(run(video, "--json", "x", "--csv", "x"), pipeline, "is another output already", code=2)

    def test_output_that_is_a_network(self, run, video, pipeline, tmp_path):
        (tmp_path / "p.onnx").write_bytes(b"a network")
        result = run(video, "--pose", "p.onnx", "--csv", "p.onnx")
        self.expect(result, pipeline, "is an input already", code=2)
        assert (tmp_path / "p.onnx").read_bytes() == b"a network"

    def test_output_that_is_an_input_under_another_name(self, run, video, pipeline):
        before = video.read_bytes()
        os.link(video, "hard.mp4")
        self.expect(run(video, "-o", "hard.mp4"), pipeline, "is an input already", code=2)
        self.expect(run(video, "--csv", "hard.mp4"), pipeline, "is an input already", code=2)
        assert video.read_bytes() == before

    def test_output_that_is_one_of_the_pictures_of_a_folder(self, run, pictures, pipeline):
        before = {path: path.read_bytes() for path in pictures.iterdir()}
        self.expect(run("in", "-o", "in"), pipeline, "is an input already", code=2)
        self.expect(run("in", "--json", "in/1.png"), pipeline, "is an input already", code=2)
        self.expect(run("in", "-o", "in/1.png"), pipeline, "in has 3", code=2)
        Path("links").mkdir()
        os.link("in/1.png", "links/1.png")
        self.expect(run("in", "-o", "links"), pipeline, r"links.1\.png: is an input already", code=2)
        assert {path: path.read_bytes() for path in pictures.iterdir()} == before
        assert run("in", "-o", "in/drawn").exit_code == 0

    def test_folder_around_the_input_may_be_the_output(self, run, pictures):
        assert run("in", "-o", ".").exit_code == 0
        assert sorted(path.name for path in Path().iterdir()) == ["0.png", "1.png", "2.png", "in"]

    def test_one_picture_for_several(self, run, pictures, pipeline):
        self.expect(run("in", "-o", "x.png"), pipeline, "each would replace the one before; name a folder", code=2)
        assert not Path("x.png").exists()

    def test_window_where_opencv_has_none(self, run, video, pipeline, monkeypatch):
        monkeypatch.setattr(_display.cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
        self.expect(run(video, "--show"), pipeline, "cannot open windows")

    def test_live_source_needs_an_output(self, run, pipeline, monkeypatch):
        monkeypatch.setattr(track_module, "open_source", lambda *_, **__: LiveSource(0))
        self.expect(run("0"), pipeline, "a live source has no end", code=2)

    def test_wrong_command_line_is_exit_code_2(self, run, video):
        assert run(video, "--det-interval", "often").exit_code == 2
        assert run(video, "--det-interval", "0").exit_code == 2
        assert run(video, "--picture-rate", "0").exit_code == 2
        assert run(video, "--work-dir", "w").exit_code == 2
        assert run(video, "--format", "yaml").exit_code == 2
        assert run().exit_code == 2

    def test_empty_input_is_not_the_current_folder(self, run, pictures, pipeline, monkeypatch):
        monkeypatch.chdir(pictures)
        self.expect(run(""), pipeline, "the source is an empty text", code=2)

    @pytest.mark.parametrize("options", [[], ["--offline"]])
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_signal_while_the_networks_load_leaves_no_files(self, run, video, tmp_path, monkeypatch, name, options):
        if not hasattr(signal, name):
            pytest.skip(f"no {name} here")

        def interrupted(**_: object) -> None:
            signal.raise_signal(getattr(signal, name))

        def unhandled(*_: object) -> None:
            raise AssertionError("the signal would have ended the program")

        monkeypatch.setattr(track_module, "PosePipeline", interrupted)
        handler = signal.default_int_handler if name == "SIGINT" else unhandled
        before = signal.signal(getattr(signal, name), handler)
        try:
            result = run(video, "-o", "o.mp4", "--json", "o.json", "--csv", "o.csv", *options)
        finally:
            signal.signal(getattr(signal, name), before)
        assert result.exit_code == 130, result.output
        assert "interrupted" in result.output
        assert [p.name for p in tmp_path.iterdir()] == ["given"]

    def test_model_that_does_not_load_leaves_no_files(self, run, video, tmp_path, monkeypatch):
        def broken(**_: object) -> None:
            raise InferenceError("cannot load")

        monkeypatch.setattr(track_module, "PosePipeline", broken)
        result = run(video, "-o", "o.mp4", "--json", "o.json")
        assert result.exit_code == 1
        assert [p.name for p in tmp_path.iterdir()] == ["given"]


class LiveSource(FrameSource):
    """Sends frames as fast as it can until it breaks off."""

    is_live = True
    name = "camera 0"
    frame_rate = 30.0

    def __init__(self, count: int) -> None:
        self.count = count
        self.closed = threading.Event()

    def __iter__(self):
        for i in range(self.count):
            yield Frame(np.full((64, 96, 3), 90, np.uint8), i, i / 30)
        raise MediaError("camera 0: unplugged")

    def close(self) -> None:
        self.closed.set()


class TestFailuresLoseNothing:
    def test_broken_off_input_is_told_after_everything_before_it_is_written(self, run, video):
        data = video.read_bytes()
        cut = video.with_name("cut.mp4")
        cut.write_bytes(data[: len(data) * 7 // 10])
        result = run(cut, "-o", "o.mp4", "--json", "o.json")
        assert result.exit_code == 1
        assert "cut.mp4: ends too early" in " ".join(result.output.split())
        recording = load_recording("o.json")
        assert not recording.complete
        frames = recording.frames
        assert 3 <= len(frames) < 10
        assert len(frames_of(Path("o.mp4"))[0]) == len(frames)

    def test_one_broken_input_of_two_does_not_stop_the_other(self, run, video, tmp_path):
        (tmp_path / "b").mkdir()
        cut = tmp_path / "b" / "cut.mp4"
        cut.write_bytes(video.read_bytes()[: video.stat().st_size * 7 // 10])
        result = run(cut, video, "--json", "out")
        assert result.exit_code == 1
        film_, cut_ = load_recording("out/film.json"), load_recording("out/cut.json")
        assert (film_.complete, len(film_.frames)) == (True, 10)
        assert not cut_.complete
        assert len(cut_.frames) >= 3

    @pytest.mark.parametrize(("failure", "code"), [(InferenceError("gone"), 1), (KeyboardInterrupt(), 130)])
    def test_failure_and_ctrl_c_in_the_middle_leave_whole_files(self, run, video, pipeline, failure, code):
        pipeline.fail_at, pipeline.failure = 6, failure
        result = run(video, "-o", "o.mp4", "--json", "o.json", "--csv", "o.csv")
        assert result.exit_code == code, result.output
        assert len(load_recording("o.json").frames) == 6
        assert not load_recording("o.json").complete
        assert len(frames_of(Path("o.mp4"))[0]) == 6
        assert b"moof" not in Path("o.mp4").read_bytes()
        assert "wrote o.mp4" in " ".join(result.output.split())
        assert pipeline.instances[0].closed

    def test_full_disk_for_the_video_is_told_and_keeps_the_results(self, run, video, monkeypatch):
        written = VideoWriter.write

        def fills_up(self: VideoWriter, image: np.ndarray, timestamp_s: float, *, name: str | None = None) -> None:
            if timestamp_s > 0.3:
                raise MediaError("o.mp4: writing failed. Is the disk full?")
            written(self, image, timestamp_s, name=name)

        monkeypatch.setattr(VideoWriter, "write", fills_up)
        result = run(video, "-o", "o.mp4", "--json", "o.json")
        assert result.exit_code == 1
        assert result.output.count("Is the disk full") == 1
        assert len(load_recording("o.json").frames) >= 5
        assert not load_recording("o.json").complete
        assert len(frames_of(Path("o.mp4"))[0]) == 4

    def test_full_disk_at_the_last_frame_is_not_called_complete(self, run, video, monkeypatch):
        closed = VideoWriter.close

        def fills_up(self: VideoWriter) -> None:
            closed(self)
            raise MediaError("o.mp4: finishing the video failed. Is the disk full?")

        monkeypatch.setattr(VideoWriter, "close", fills_up)
        assert run(video, "-o", "o.mp4", "--json", "o.json").exit_code == 1
        recording = load_recording("o.json")
        assert (recording.complete, len(recording.frames)) == (False, 10)

    def test_file_that_could_not_be_written_is_not_said_to_be(self, run, pictures, monkeypatch):
        def fails(*_: object, **__: object) -> None:
            raise MediaError("g.png: cannot write the picture")

        monkeypatch.setattr(PictureWriter, "write", fails)
        result = run("in/0.png", "-o", "g.png", "--json", "g.json")
        assert result.exit_code == 1
        assert "wrote g.json" in result.output
        assert "wrote g.png" not in result.output

    @pytest.mark.parametrize("options", [(), ("--offline",)])
    def test_skeleton_that_a_format_cannot_hold_is_refused_before_any_frame(self, run, video, pipeline, options):
        pipeline.skeleton = load_skeleton("face106")
        result = run(video, "--json", "o", "--format", "openpose", "-o", "o.mp4", *options)
        assert result.exit_code == 2
        assert "use the native form" in " ".join(result.output.split())
        (only,) = pipeline.instances
        assert only.frames == 0
        assert only.closed
        assert not Path("o.mp4").exists()

    def test_defect_of_the_package_is_not_hidden(self, run, video, pipeline):
        pipeline.fail_at, pipeline.failure = 2, RuntimeError("a defect")
        result = run(video, "--json", "o.json")
        assert isinstance(result.exception, RuntimeError)
        assert len(load_recording("o.json").frames) == 2


class TestLiveStreams:
    def test_stream_that_stops_is_reported_and_its_last_frame_is_written(self, run, monkeypatch):
        source = LiveSource(50)
        monkeypatch.setattr(track_module, "open_source", lambda *_, **__: source)
        result = run("0", "--json", "o.json", "-o", "o.mp4")
        assert result.exit_code == 1
        assert "camera 0: unplugged" in result.output
        assert source.closed.is_set()
        assert not load_recording("o.json").complete
        frames = load_recording("o.json").frames
        assert frames[-1].frame_index == 49
        assert len(frames_of(Path("o.mp4"))[0]) == len(frames)

    def test_feed_of_a_live_source_keeps_the_newest_frame_only(self):
        arrival = threading.Condition()
        feed = _streams.Feed(LiveSource(20), arrival)
        with arrival:
            assert arrival.wait_for(lambda: feed._ended, timeout=10)
            assert feed.take().index == 19
            assert feed.finished
        assert feed.dropped_frames == 19
        assert isinstance(feed.failure, MediaError)
        feed.close()

    def test_feed_of_a_file_reads_ahead_only_a_little(self):
        class Counted(LiveSource):
            is_live = False
            given = 0

            def __iter__(self):
                for frame in super().__iter__():
                    self.given += 1
                    yield frame

        source, arrival = Counted(100), threading.Condition()
        feed = _streams.Feed(source, arrival)
        with arrival:
            assert arrival.wait_for(lambda: len(feed._frames) == _streams._QUEUE_LENGTH, timeout=10)
        feed.close()
        assert source.given <= _streams._QUEUE_LENGTH + 2
        assert source.closed.is_set()


class TestDisplay:
    def test_terminal_sees_frames_speed_and_people(self, tmp_path):
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        source = LiveSource(3)
        source.is_live, source.frame_count = False, 3
        output = _streams.Output("x", draw=lambda image, _: image, frames=None, results=[])
        stream = _streams.Stream(source, output, frames=2, track_ids={1, 2, 7})
        with _display.Display([stream], console, None) as display:
            assert display.watch(0)
            assert display.watch(-1)
        output.close()
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
        assert "2/3 frames" in shown
        assert "3 people" in shown
        assert "fps" in shown

    def test_brackets_in_a_name_are_no_markup(self):
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        source = LiveSource(3)
        source.name = "rtsp://[fe80::1]/[/a] [x264].mp4"
        output = _streams.Output("x", draw=lambda image, _: image, frames=None, results=[])
        with _display.Display([_streams.Stream(source, output)], console, None):
            pass
        output.close()
        assert source.name in console.file.getvalue()  # type: ignore[attr-defined]

    def test_wherever_handing_over_a_frame_is_interrupted_the_output_comes_to_its_end(self):
        for number in range(1, 1000):
            output = _streams.Output("x", draw=lambda image, _: image, frames=None, results=[])
            time.sleep(0.005)  # until its thread waits
            left = number

            def interrupt(frame, event: str, argument: object) -> None:
                nonlocal left
                if event in {"call", "c_return"} and frame.f_code.co_filename in PLACES:
                    left -= 1
                    if left == 0:
                        raise KeyboardInterrupt

            image = np.zeros((8, 8, 3), np.uint8)
            sys.setprofile(interrupt)
            try:
                output.put(Frame(image, 0, 0.0), poses_in(image, ids=False))
            except KeyboardInterrupt:
                pass
            finally:
                sys.setprofile(None)
            ending = threading.Thread(target=output.close, daemon=True)
            ending.start()
            ending.join(10)
            assert not ending.is_alive(), number
            if left > 0:
                return
        raise AssertionError("the call never came to its end")

    def test_window_shows_every_stream_and_ends_the_run_on_q(self, monkeypatch):
        shown: list[str] = []
        keys = iter([-1, ord("q")])
        monkeypatch.setattr(_display.cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
        monkeypatch.setattr(_display.cv2, "imshow", lambda name, _: shown.append(name))
        monkeypatch.setattr(_display.cv2, "waitKey", lambda _: next(keys))
        monkeypatch.setattr(_display.cv2, "getWindowProperty", lambda *_: 1.0)
        monkeypatch.setattr(_display.cv2, "destroyAllWindows", lambda: shown.append("closed"))
        monkeypatch.setenv("DISPLAY", ":0")
        window = _display.Window()
        image = np.zeros((4, 4, 3), np.uint8)
        assert window.show({"a": image, "b": None})
        assert not window.show({"a": image, "b": image})
        window.close()
        assert shown == ["a", "b", "closed"]

    def test_window_without_a_screen_is_refused(self, monkeypatch):
        monkeypatch.setattr(_display.cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
        monkeypatch.setattr(_display.sys, "platform", "linux")
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        with pytest.raises(MediaError, match="no screen"):
            _display.Window()


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
sys.path.insert(0, {tests!r})
import test_cli_track as scripted
from rtmpose_infer.cli import track as track_module  # noqa: E402
import typer

class Slow(scripted.ScriptedPipeline):
    def track_many(self, frames, **options):
        time.sleep(0.02 if self.frames < 60 else 0.5)  # the signal may take its time to come
        print(self.frames, flush=True)
        return super().track_many(frames, **options)

track_module.PosePipeline = Slow
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(track_module.track)
app()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_signal_leaves_a_video_that_plays_and_valid_results(tmp_path, number, code):
    film = make_video(tmp_path / "film.mp4", 300)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SCRIPT.format(tests=str(Path(__file__).parent)),
            film,
            "-o",
            "o.mp4",
            "--json",
            "o.json",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdecimal() and int(line) >= 60:
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    recording = load_recording(tmp_path / "o.json")
    assert len(recording.frames) >= 55
    with av.open(str(tmp_path / "o.mp4")) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert not recording.complete
    if number == signal.SIGKILL:
        assert shown >= 30
    else:
        assert shown == len(recording.frames)
        assert "Traceback" not in errors
        assert "interrupted" in errors
