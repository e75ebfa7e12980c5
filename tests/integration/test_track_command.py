"""The commands with trained networks on real film: people are found where they are, and keep their numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="the commands need the cli extra")
typer = pytest.importorskip("typer", reason="the commands need the cli extra")
pytest.importorskip("onnxruntime", reason="the cpu extra is not installed")

from typer.testing import CliRunner  # noqa: E402

from rtmpose_infer.cli.demo import demo  # noqa: E402
from rtmpose_infer.cli.track import track  # noqa: E402
from rtmpose_infer.formats import Recording, load_recording  # noqa: E402


@pytest.fixture
def run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in tmp_path with the development models; fails with its output when it fails."""
    monkeypatch.chdir(tmp_path)
    models = [
        *("--detector", shared / "models" / "rtmdet_nano_person_320.onnx"),
        *("--pose", shared / "models" / "tinypose_coco17_256x192_simcc.onnx"),
        *("--backend", "onnxruntime"),
    ]

    def invoke(command, *arguments: object) -> str:
        app = typer.Typer()
        app.command()(command)
        result = CliRunner().invoke(app, [str(a) for a in (*arguments, *models)])
        assert result.exit_code == 0, (result.output, result.exception)
        return " ".join(result.output.split())

    return invoke


def shown_frames(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def numbers_at(recording: Recording, time_s: float) -> list[int]:
    """The people in the picture at that time, from left to right."""
    poses = min(recording.frames, key=lambda frame: abs((frame.timestamp_s or 0) - time_s))
    order = np.argsort(poses.bboxes[:, 0] + poses.bboxes[:, 2])
    assert poses.track_ids is not None
    return poses.track_ids[order].tolist()


def test_gif_of_a_shop_gives_three_people_of_whom_the_covered_one_comes_back_under_their_number(run, shared, tmp_path):
    film = shared / "data" / "videos" / "intel_store-aisle-detection.gif"
    summary = run(track, film, "-o", "o.mp4", "--json", "o.json", "--csv", "o.csv")
    assert "67 frames" in summary
    recording = load_recording(tmp_path / "o.json")
    assert recording.complete
    assert len(recording.frames) == 67
    assert shown_frames(tmp_path / "o.mp4") == pytest.approx([f.timestamp_s for f in recording.frames], abs=1e-3)
    seen = Counter(int(i) for frame in recording.frames if frame.track_ids is not None for i in frame.track_ids)
    assert seen.most_common(1)[0][1] >= 60  # the man in front of the shelf never leaves
    assert len(seen) <= 4
    assert numbers_at(recording, 0) == numbers_at(recording, 99)[::2]  # someone stands between the two at the end
    width, height = recording.frames[0].frame_size_wh or (0, 0)
    sure = np.concatenate([frame.keypoints[frame.keypoint_scores > 0.3] for frame in recording.frames])
    assert ((sure > 0) & (sure < (width, height))).all(axis=1).mean() > 0.95


def test_demo_finds_both_people_and_keeps_their_numbers_through_the_crossing(run, tmp_path):
    pytest.importorskip("skimage", reason="needs the demo extra")
    run(demo, "-o", "demo.mp4")
    recording = load_recording(tmp_path / "demo.json")
    assert len(shown_frames(tmp_path / "demo.mp4")) == 300
    left, right = numbers_at(recording, 3.3)
    assert numbers_at(recording, 7.5) == [right, left]
