"""`rtmpose eval` through the whole command: tiny networks on pictures of lights, and trained ones on photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("av", reason="the commands need the cli extra")
pytest.importorskip("onnxruntime", reason="the cpu extra is not installed")
pytest.importorskip("faster_coco_eval", reason="the eval extra is not installed")
pytest.importorskip("motrics", reason="the eval extra is not installed")

from typer.testing import CliRunner, Result

from rtmpose_infer import PoseEstimator
from rtmpose_infer.cli.app import app
from rtmpose_infer.formats import NativeWriter
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import load_skeleton
from rtmpose_infer.video import VideoWriter
from tests.tiny_onnx import light_at, light_detector, light_pose, write

COCO = load_skeleton("coco17")
PLACES = ((60, 50), (90, 70))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *(str(a) for a in arguments)])


@pytest.fixture
def networks(tmp_path: Path) -> list[str]:
    detector = write(tmp_path / "detector.onnx", light_detector(margin=2))
    pose = write(tmp_path / "pose.onnx", light_pose())
    return ["--detector", str(detector), "--pose", str(pose), "--backend", "onnxruntime", "--threads", "1"]


@pytest.fixture
def annotations(tmp_path: Path) -> list[str]:
    """Two pictures, each with a light, and a third that is dark; every joint lies where its light is brightest."""
    people = []
    for number, (x, y) in enumerate(PLACES):
        cv2.imwrite(str(tmp_path / f"{number}.png"), light_at(x, y, (160, 120)))
        box = [x - 12, y - 16, 24, 32]
        joints = [x, y, 2] * 17
        people.append({"image_id": number, "bbox": box, "keypoints": joints, "area": 40.0**2, "iscrowd": 0})
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((120, 160, 3), np.uint8))
    path = tmp_path / "annotations.json"
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
    path.write_text(json.dumps({"images": images, "annotations": people}))
    return ["--annotations", str(path), "--images", str(tmp_path)]


@pytest.mark.parametrize("boxes", ["gt", "detector"])
def test_poses_on_pictures(networks: list[str], annotations: list[str], tmp_path: Path, boxes: str) -> None:
    outcome = run("pose", *annotations, *networks, "--boxes", boxes, "--json", tmp_path / "figures.json")
    assert outcome.exit_code == 0, outcome.output
    assert "AP medium" in outcome.output
    assert "left_wrist" in outcome.output
    assert "3 pictures, 2 people annotated, 2 found" in outcome.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["figures"]["ap"] == figures["figures"]["ap_medium"] == 1
    assert figures["figures"]["ap_large"] is None
    assert figures["boxes"] == boxes
    assert [joint["annotated"] for joint in figures["joints"]] == [2] * 17


def test_the_first_pictures_only(networks: list[str], annotations: list[str]) -> None:
    outcome = run("pose", *annotations, *networks, "--limit", 1)
    assert "1 pictures, 1 people annotated, 1 found" in outcome.output


def test_a_picture_that_is_missing_ends_with_its_name(
    networks: list[str], annotations: list[str], tmp_path: Path
) -> None:
    (tmp_path / "1.png").unlink()
    (tmp_path / "pose.onnx").unlink()  # is found out before any network is looked for
    outcome = run("pose", *annotations, *networks)
    assert outcome.exit_code == 1
    assert "1 of 3 annotated pictures are not there, such as 1.png" in outcome.output


def test_a_calibrated_copy_that_is_no_onnx_file_is_refused_before_any_work(tmp_path: Path) -> None:
    outcome = run(
        "calibrate", "--annotations", tmp_path / "absent.json", "--images", tmp_path, "-o", tmp_path / "c.txt"
    )
    assert outcome.exit_code == 2
    assert ".onnx" in outcome.output


def test_a_calibration_is_learned_and_stored_in_a_copy(networks: list[str], tmp_path: Path) -> None:
    people = []
    for number in range(10):
        x, y = 50 + 6 * number, 50
        cv2.imwrite(str(tmp_path / f"{number}.png"), light_at(x, y, (160, 120)))
        joints = [v for joint in range(17) for v in (x, y + 30 * (joint < number), 2)]
        people.append({"image_id": number, "bbox": [x - 12, y - 16, 24, 32], "keypoints": joints, "area": 1600})
    path, copy = tmp_path / "annotations.json", tmp_path / "calibrated.onnx"
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(10)]
    path.write_text(json.dumps({"images": images, "annotations": people}))
    data, network = ["--annotations", path, "--images", tmp_path], networks[2:]
    outcome = run("calibrate", *data, *network, "-o", copy, "--json", tmp_path / "o.json")
    figures = figures_of(outcome, tmp_path / "o.json")
    assert figures["joints"] == 170
    assert figures["correct"] == pytest.approx(125 / 170)
    with PoseEstimator(copy, backend="onnxruntime", threads=1) as estimate:
        poses = estimate.predict(light_at(60, 50, (160, 120)), [[48, 34, 72, 66]])
    assert poses.keypoint_probabilities is not None
    assert poses.keypoint_probabilities.mean() == pytest.approx(125 / 170, abs=0.1)
    assert poses.keypoint_probabilities[0, 16] > poses.keypoint_probabilities[0, 0]
    before = copy.read_bytes()
    for arguments, words in (
        (["--pose", copy, "-o", copy], "is an input already"),
        (["--pose", copy, "-o", tmp_path / "new.onnx", "--json", copy], "is an input already"),
        ([*network, "-o", copy, "--json", copy], "goes there already"),
    ):
        outcome = run("calibrate", *data, *arguments)
        assert (outcome.exit_code, copy.read_bytes()) == (2, before)
        assert words in outcome.output
    outcome = run("pose", *data, *network, "--boxes", "gt", "--json", path)
    assert (outcome.exit_code, json.loads(path.read_text())["images"]) == (2, images)


def mot(path: Path, ids: list[int], *, shift: float = 0) -> Path:
    """Write a MOTChallenge file of people who stand beside each other for ten frames."""
    lines = [
        f"{frame},{number},{100 * place + shift},20,40,90,1,1,1"
        for frame in range(1, 11)
        for place, number in enumerate(ids)
    ]
    path.write_text("\n".join(lines))
    return path


def figures_of(outcome: Result, path: Path) -> dict[str, Any]:
    assert outcome.exit_code == 0, outcome.output
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def test_figures_name_both_files_and_frames_beyond_the_end_are_told(tmp_path: Path) -> None:
    truth, result, out = mot(tmp_path / "gt.txt", [1]), recorded(tmp_path / "r.json", frames=4), tmp_path / "o.json"
    outcome = run("track", "--truth", truth, "--detections", result, "--json", out)
    figures = figures_of(outcome, out)
    assert (figures["truth_file"], figures["tracked"], figures["truth"]) == (str(truth), str(result), 10)
    assert "r.json has 4 frames, the truth people until frame 10" in " ".join(outcome.output.split())
    longer = run("track", "--truth", truth, "--detections", recorded(tmp_path / "long.json"))
    assert "note" not in longer.output


def test_a_recording_of_no_frames_is_judged_and_its_motion_is_unknown(tmp_path: Path) -> None:
    truth, result, out = mot(tmp_path / "gt.txt", [1]), recorded(tmp_path / "r.json", frames=1), tmp_path / "o.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "frames": []}))
    figures = figures_of(run("track", "--truth", truth, "--detections", result, "--json", out), out)
    assert (figures["misses"], figures["jitter_px"]) == (10, None)


def test_a_tracking_result_in_a_text_file(tmp_path: Path) -> None:
    truth, result = mot(tmp_path / "gt.txt", [1, 2]), mot(tmp_path / "result.txt", [7], shift=2)
    out = tmp_path / "figures.json"
    outcome = run("track", "--truth", truth, "--detections", result, "--json", out)
    figures = figures_of(outcome, out)
    assert figures["recall"] == 0.5
    assert figures["precision"] == 1
    assert figures["idf1"] == pytest.approx(2 / 3)
    assert (figures["id_switches"], figures["reused_ids"], figures["misses"]) == (0, 0, 10)
    assert "jitter_px" not in figures  # boxes have no joints
    assert "idf1" in outcome.output


def test_detections_without_identity_are_tracked_first(tmp_path: Path) -> None:
    truth, raw = mot(tmp_path / "gt.txt", [1, 2]), mot(tmp_path / "raw.txt", [-1, -1], shift=1)
    figures = figures_of(
        run("track", "--truth", truth, "--detections", raw, "--json", tmp_path / "o.json"), tmp_path / "o.json"
    )
    assert (figures["idf1"], figures["ids"]) == (1, 2)


def recorded(path: Path, *, late: int = 0, tracked: bool = True, frames: int = 40) -> Path:
    """Write frames in which the light goes round, seen ``late`` frames late."""
    writer = NativeWriter(path)
    for index in range(frames):
        x, y = place_of(index - late)
        joints = np.full((1, 17, 2), (x, y), np.float32) + np.linspace(-9, 9, 17, dtype=np.float32)[None, :, None]
        box = np.array([[x - 14, y - 14, x + 14, y + 14]], np.float32)
        ids = np.ones(1, np.int64) if tracked else None
        one = np.ones(1, np.float32)
        poses = Poses(joints, np.full((1, 17), 0.9), box, one, COCO, track_ids=ids, frame_index=index)
        writer.write(poses)
    writer.close()
    return path


def place_of(index: int) -> tuple[float, float]:
    return 80 + 30 * np.sin(index / 7), 60 + 20 * np.cos(index / 7)


def test_joints_are_compared_where_both_sides_have_them_with_their_lag(tmp_path: Path) -> None:
    truth, result, out = recorded(tmp_path / "t.json"), recorded(tmp_path / "r.json", late=2), tmp_path / "o.json"
    arguments = ["track", "--truth", truth, "--detections", result, "--json", out, "--threshold", 0.05]
    figures = figures_of(run(*arguments), out)
    assert figures["compared_by"] == "joints"
    assert figures["lag_frames"] == pytest.approx(2, abs=0.1)
    assert figures["jitter_px"] == pytest.approx(figures["truth_jitter_px"], rel=0.2)
    assert figures_of(run(*arguments, "--similarity", "boxes"), out)["compared_by"] == "boxes"


def test_untracked_poses_are_tracked_first_and_are_no_truth(tmp_path: Path) -> None:
    truth, raw, out = recorded(tmp_path / "t.json"), recorded(tmp_path / "r.json", tracked=False), tmp_path / "o.json"
    assert figures_of(run("track", "--truth", truth, "--detections", raw, "--json", out), out)["ids"] == 1
    outcome = run("track", "--truth", raw, "--detections", raw)
    assert outcome.exit_code == 1
    assert "needs track ids" in outcome.output


def test_a_video_is_tracked(networks: list[str], tmp_path: Path) -> None:
    video = tmp_path / "light.mp4"
    with VideoWriter(video, frame_rate=30) as writer:
        for index in range(40):
            writer.write(light_at(*place_of(index), (160, 120)), index / 30)
    out = tmp_path / "o.json"
    arguments = ["track", "--truth", recorded(tmp_path / "t.json"), "--video", video, *networks, "--json", out]
    figures = figures_of(run(*arguments, "--similarity", "boxes", "--threshold", 0.2), out)
    assert (figures["frames"], figures["ids"], figures["id_switches"]) == (40, 1, 0)
    assert figures["idf1"] == 1


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ([], "either --video", 2),
        (["--detections", "a.txt", "--video", "a.mp4"], "either --video", 2),
        (["--video", "a.mp4", "--det-interval", "often"], "or 'auto', got 'often'", 2),
        (["--detections", "absent.txt"], "absent.txt", 1),
        (["--detections", "{truth}", "--similarity", "joints"], "boxes alone", 1),
        (["--detections", "{truth}", "--json", "nowhere/o.json"], "folder does not exist", 1),
        (["--detections", "absent.txt", "--json", "."], "it is a folder", 1),
        (["--detections", "{truth}", "--json", "{truth}"], "is an input already", 2),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, arguments: list[str], words: str, code: int) -> None:
    truth = mot(tmp_path / "gt.txt", [1])
    outcome = run("track", "--truth", truth, *(a.format(truth=truth) for a in arguments))
    assert outcome.exit_code == code
    assert words in " ".join(outcome.output.split())


def test_trained_networks_on_photographs_and_on_film(shared: Path, tmp_path: Path) -> None:
    data, models, out = shared / "data", shared / "models", tmp_path / "o.json"
    networks = ["--pose", models / "tinypose_coco17_256x192_simcc.onnx", "--threads", 1, "--backend", "onnxruntime"]
    pictures = ["--annotations", data / "coco_val_dev/person_keypoints.json", "--images", data / "coco_val_dev/images"]
    figures = figures_of(run("pose", *pictures, *networks, "--boxes", "gt", "--limit", 8, "--json", out), out)
    assert figures["images"] == 8
    assert figures["figures"]["ap"] > 0.6
    clip = data / "tracking" / "mot17_04_clip8"
    film = ["--truth", clip / "gt.txt", "--video", clip / "MOT17-04_frames1-8.mp4"]
    detector = ["--detector", models / "rtmdet_nano_person_320.onnx"]
    figures = figures_of(run("track", *film, *networks, *detector, "--det-interval", 2, "--json", out), out)
    assert (figures["frames"], figures["people"], figures["id_switches"]) == (8, 42, 0)
    assert figures["precision"] > 0.8
    assert figures["recall"] > 0.05
