"""Result files: what is in them, that other programs' readers accept them, and that a killed run loses nothing."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
import types
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmpose_infer.errors import BackendUnavailableError, InputError, MediaError
from rtmpose_infer.formats import (
    FORMATS,
    CocoWriter,
    CsvWriter,
    MmposeWriter,
    NativeWriter,
    OpenposeWriter,
    coco_results_from_poses,
    load_recording,
    mmpose_instances_from_poses,
    open_poses_writer,
    openpose_people_from_poses,
    poses_from_record,
    record_from_poses,
    supervision_detections_from_poses,
    supervision_keypoints_from_poses,
)
from rtmpose_infer.formats.openpose import BODY_25
from rtmpose_infer.results import Poses
from rtmpose_infer.skeletons import Skeleton, load_skeleton

COCO = load_skeleton("coco17")
HEAD = '{"format": "rtmpose_infer.poses", "version": 1, "skeleton": {"name": "x", "keypoints": ["a"]}'


def some_poses(
    count: int = 2,
    *,
    skeleton: Skeleton = COCO,
    seed: int = 0,
    index: int | None = 0,
    tracked: bool = True,
    missing: bool = True,
) -> Poses:
    rng = np.random.default_rng(seed)
    k = skeleton.num_keypoints
    points = rng.uniform(0, 1000, (count, k, 2)).astype(np.float32)
    scores = rng.uniform(0.05, 1.2, (count, k)).astype(np.float32)
    if missing and count:
        points[0, 3], scores[0, 3] = np.nan, 0
    boxes = (
        np.concatenate([np.nanmin(points, axis=1), np.nanmax(points, axis=1)], axis=1) if count else np.zeros((0, 4))
    )
    return Poses(
        points,
        scores,
        boxes,
        rng.uniform(0.5, 1, count),
        skeleton,
        track_ids=np.arange(count) + 5 if tracked else None,
        frame_index=index,
        timestamp_s=None if index is None else index / 25,
        frame_size_wh=(1280, 720),
    )


@pytest.mark.parametrize("name", FORMATS)
def test_writers_close_at_the_end_of_a_with_block_and_know_how_it_ended(tmp_path, name):
    path, cut = tmp_path / "whole", tmp_path / "cut"
    with open_poses_writer(path, name) as writer:
        writer.write(some_poses())
    broken_off = open_poses_writer(cut, name)
    broken_off.write(some_poses())
    with pytest.raises(ZeroDivisionError), broken_off:
        raise ZeroDivisionError
    assert path.exists()
    assert cut.exists()
    if name == "native":
        assert (load_recording(path).complete, load_recording(cut).complete) == (True, False)


def assert_same(first: Poses, second: Poses) -> None:
    for name, tolerance in (("keypoints", 0.006), ("keypoint_scores", 6e-5), ("bboxes", 0.006), ("bbox_scores", 6e-5)):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=tolerance, rtol=1e-6)
    np.testing.assert_allclose(first.keypoints_raw, second.keypoints_raw, atol=0.006, rtol=1e-6)
    assert (first.track_ids is None) == (second.track_ids is None)
    if first.track_ids is not None and second.track_ids is not None:
        np.testing.assert_array_equal(first.track_ids, second.track_ids)
    assert first.frame_index == second.frame_index
    assert first.timestamp_s == pytest.approx(second.timestamp_s, abs=1e-6)
    assert first.frame_size_wh == second.frame_size_wh
    assert first.skeleton == second.skeleton


class TestNative:
    def test_what_is_written_comes_back(self, tmp_path):
        frames = [
            some_poses(2, seed=1),
            Poses.empty(COCO, tracked=True, frame_index=1, timestamp_s=0.04),
            some_poses(3, index=2),
        ]
        frames[2] = replace(
            frames[2],
            keypoints_raw=frames[2].keypoints + 1,
            keypoint_probabilities=np.full((3, 17), 0.25, np.float32),
        )
        writer = NativeWriter(tmp_path / "p.json", source={"name": "a.mp4", "frame_rate": 25.0})
        for poses in frames:
            writer.write(poses)
        writer.close()
        recording = load_recording(tmp_path / "p.json")
        assert recording.complete
        assert recording.skeleton == COCO
        assert recording.skeleton.flip_index == COCO.flip_index
        np.testing.assert_allclose(recording.skeleton.oks_sigmas, COCO.oks_sigmas, atol=1e-6)
        assert recording.source == {"name": "a.mp4", "frame_rate": 25.0}
        assert recording.names == (None, None, None)
        for written, read in zip(frames, recording.frames, strict=True):
            assert_same(written, read)
        assert recording.frames[2].keypoint_probabilities is not None
        assert recording.frames[0].keypoints_raw is recording.frames[0].keypoints

    def test_joint_that_was_not_found_is_null_and_comes_back_as_nan(self, tmp_path):
        writer = NativeWriter(tmp_path / "p.json")
        writer.write(some_poses(1))
        writer.close()
        text = (tmp_path / "p.json").read_text()
        assert "NaN" not in text
        assert json.loads(text)["frames"][0]["people"][0]["keypoints"][3] == [None, None]
        assert np.isnan(load_recording(tmp_path / "p.json").frames[0].keypoints[0, 3]).all()

    def test_joint_with_next_to_no_score_stays_found(self, tmp_path):
        poses = some_poses()
        scores = poses.keypoint_scores.copy()
        scores[0, 0] = 3e-5
        poses = replace(poses, keypoint_scores=scores)
        writer = NativeWriter(tmp_path / "p.json")
        writer.write(poses)
        writer.close()
        read = load_recording(tmp_path / "p.json").frames[0]
        assert read.keypoints_valid.tolist() == poses.keypoints_valid.tolist()
        assert read.keypoint_scores[0, 0] == np.float32(1e-4)

    def test_name_of_a_source_that_is_no_text_does_not_lose_the_results(self, tmp_path):
        writer = NativeWriter(tmp_path / "p.json", source={"name": "bad\udcff.webm"})
        writer.write(some_poses(2, index=0))
        writer.close()
        recording = load_recording(tmp_path / "p.json")
        assert recording.source == {"name": "bad?.webm"}
        assert len(recording.frames[0]) == 2

    def test_file_is_complete_json_after_every_frame_and_says_that_the_run_is_not(self, tmp_path):
        path = tmp_path / "p.json"
        writer = NativeWriter(path)
        for index in range(4):
            writer.write(
                some_poses(index, index=index)
            )  # closing brackets are overwritten by longer and shorter frames
            data = json.loads(path.read_text())
            assert len(data["frames"]) == index + 1
            assert data["complete"] is False
        assert not load_recording(path).complete
        writer.close()
        assert json.loads(path.read_text())["complete"] is True

    def test_run_that_ended_early_is_not_called_complete_and_is_read_all_the_same(self, tmp_path):
        path = tmp_path / "p.json"
        writer = NativeWriter(path)
        writer.write(some_poses(2, index=0))
        writer.close(complete=False)
        writer.close()
        recording = load_recording(path)
        assert not recording.complete
        assert len(recording.frames) == 1

    def test_file_cut_off_by_a_full_disk_gives_its_whole_frames(self, tmp_path):
        path = tmp_path / "p.json"
        writer = NativeWriter(path)
        for index in range(5):
            writer.write(some_poses(2, index=index))
        writer.close()
        text = path.read_text()
        path.write_text(text[: text.index('{"frame_index":3') + 50])
        recording = load_recording(path)
        assert [f.frame_index for f in recording.frames] == [0, 1, 2]
        assert not recording.complete
        path.write_text(text[: text.index('{"frame_index":3')] + "[" * 100_000)
        assert len(load_recording(path).frames) == 3

    def test_file_cut_off_within_a_letter_gives_its_whole_frames(self, tmp_path):
        path = tmp_path / "p.json"
        writer = NativeWriter(path)
        for index in range(3):
            writer.write(some_poses(1, index=index), name=f"ä{index}.jpg")
        writer.close()
        data = path.read_bytes()
        path.write_bytes(data[: data.rindex("ä".encode()) + 1])
        recording = load_recording(path)
        assert recording.names == ("ä0.jpg", "ä1.jpg")
        assert not recording.complete

    def test_numbers_have_no_false_digits(self, tmp_path):
        record = record_from_poses(some_poses(1, missing=False))
        assert record["people"][0]["keypoints"][0] == [round(v, 2) for v in record["people"][0]["keypoints"][0]]
        assert len(json.dumps(record)) < 1000

    def test_names_of_pictures_are_kept(self, tmp_path):
        writer = NativeWriter(tmp_path / "p.json")
        writer.write(some_poses(), name="ä.jpg")
        writer.close()
        assert load_recording(tmp_path / "p.json").names == ("ä.jpg",)

    def test_file_that_another_program_laid_out_anew_is_read(self, tmp_path):
        writer = NativeWriter(tmp_path / "p.json")
        writer.write(some_poses())
        writer.close()
        data = json.loads((tmp_path / "p.json").read_text()) | {"comment": "unknown fields are ignored"}
        (tmp_path / "p.json").write_text(json.dumps(data, indent=4))
        assert_same(load_recording(tmp_path / "p.json").frames[0], some_poses())

    def test_untracked_poses_stay_untracked(self):
        for count in (0, 2):
            poses = some_poses(count, tracked=False)
            assert poses_from_record(record_from_poses(poses), COCO).track_ids is None

    def test_change_of_skeleton_is_refused(self, tmp_path):
        writer = NativeWriter(tmp_path / "p.json")
        writer.write(some_poses())
        with closing(writer), pytest.raises(InputError, match="coco17 poses; a frame of halpe26"):
            writer.write(some_poses(skeleton=load_skeleton("halpe26")))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "not valid JSON"),
            ("[1, 2]", "'format' must be"),
            ('{"format": "rtmpose_infer.poses", "version": 99}', "version 99"),
            ('{"format": "rtmpose_infer.poses", "version": 1}', "head"),
            (HEAD + ', "frames": [{"people": []}, {"people": [{"bbox": [1]}]}]}', "frame 1"),
            ("[" * 100_000, "not valid JSON"),
            ('{"a": ' + "[" * 100_000 + ',\n"frames": [\n', "not valid JSON"),
            ('{"version": ' + "9" * 5000 + "}", "not valid JSON"),
        ],
    )
    def test_file_that_is_no_recording_says_why(self, tmp_path, text, words):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(InputError, match=words):
            load_recording(tmp_path / "p.json")

    def test_binary_and_missing_files(self, tmp_path):
        (tmp_path / "p.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match="not a text file"):
            load_recording(tmp_path / "p.json")
        with pytest.raises(MediaError, match="cannot be read"):
            load_recording(tmp_path / "q.json")

    @settings(max_examples=40, deadline=None)
    @given(
        count=st.integers(0, 4), seed=st.integers(0, 99), tracked=st.booleans(), index=st.none() | st.integers(0, 10**6)
    )
    def test_record_and_back_is_the_identity(self, count, seed, tracked, index):
        poses = some_poses(count, seed=seed, tracked=tracked, index=index)
        assert_same(poses_from_record(json.loads(json.dumps(record_from_poses(poses), allow_nan=False)), COCO), poses)


class TestCoco:
    def test_results_follow_cocos_form(self, tmp_path):
        writer = CocoWriter(tmp_path / "c.json")
        poses = some_poses()
        writer.write(poses, name="000000000139.jpg")
        writer.write(Poses.empty(COCO, frame_index=1), name="000000000140.jpg")
        writer.write(some_poses(1, index=2, tracked=False))
        writer.close()
        results = json.loads((tmp_path / "c.json").read_text())
        assert [r["image_id"] for r in results] == [139, 139, 2]
        assert all(r["category_id"] == 1 and len(r["keypoints"]) == 51 for r in results)
        assert results[0]["score"] == pytest.approx(float(poses.scores[0]), abs=1e-4)
        assert results[0]["keypoints"][9:12] == [0, 0, 0]
        assert results[0]["track_id"] == 5
        assert "track_id" not in results[2]
        assert results[1]["keypoints"][:2] == pytest.approx(poses.keypoints[1, 0].tolist(), abs=0.006)

    def test_no_two_images_share_an_id(self, tmp_path, caplog):
        names = ["1.jpg", "1.png", "2.jpg", "3.jpg", "a.jpg", "b.jpg", "other/2.jpg"]
        writer = CocoWriter(tmp_path / "c.json")
        for index, name in enumerate(names):
            writer.write(some_poses(2, index=index), name=name)
        writer.close()
        ids = [r["image_id"] for r in json.loads((tmp_path / "c.json").read_text())]
        assert ids == [i for image_id in (1, -1, 2, 3, 4, 5, -2) for i in (image_id, image_id)]
        assert [record.getMessage().partition("json: ")[2] for record in caplog.records] == [
            "the image id 1 is taken already; 1.png gets -1.",
            "the image id 2 is taken already; other/2.jpg gets -2.",
        ]

    def test_images_without_index_are_counted(self, tmp_path, caplog):
        writer = CocoWriter(tmp_path / "c.json")
        for count in (1, 0, 1):
            writer.write(some_poses(count, index=None))
        writer.close()
        assert [r["image_id"] for r in json.loads((tmp_path / "c.json").read_text())] == [0, 2]
        assert not caplog.records

    def test_files_without_people_are_empty_lists(self, tmp_path):
        writer = CocoWriter(tmp_path / "c.json")
        writer.write(Poses.empty(COCO, frame_index=0))
        writer.close()
        assert json.loads((tmp_path / "c.json").read_text()) == []

    def test_whole_bodies_have_the_fields_of_coco_wholebody(self):
        poses = some_poses(skeleton=load_skeleton("wholebody133"), missing=False)
        person = coco_results_from_poses(poses, image_id=1)[1]
        first = 0
        for name, count in (("keypoints", 17), ("foot", 6), ("face", 68), ("lefthand", 21), ("righthand", 21)):
            part = person[name if name == "keypoints" else f"{name}_kpts"]
            joints = np.reshape(part, (count, 3))
            np.testing.assert_allclose(joints[:, :2], poses.keypoints[1, first : first + count], atol=0.006)
            first += count
        assert first == 133

    def test_cocos_evaluation_reads_the_file(self, tmp_path):
        pytest.importorskip("faster_coco_eval", reason="needs the eval extra")
        import faster_coco_eval

        poses = some_poses(2, missing=False)
        low, high = poses.keypoints.min(axis=1), poses.keypoints.max(axis=1)
        truth = {
            "images": [{"id": 0, "width": 1280, "height": 720}],
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}],
            "annotations": [
                {
                    "id": row + 1,
                    "image_id": 0,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": 90000.0,
                    "num_keypoints": 17,
                    "bbox": [*low[row].tolist(), *(high - low)[row].tolist()],
                    "keypoints": np.c_[poses.keypoints[row], np.full(17, 2)].ravel().tolist(),
                }
                for row in range(2)
            ],
        }
        writer = CocoWriter(tmp_path / "c.json")
        writer.write(poses)
        writer.close()
        api = faster_coco_eval.COCO(truth)
        evaluation = faster_coco_eval.COCOeval_faster(
            api, api.loadRes(str(tmp_path / "c.json")), "keypoints", print_function=lambda *_: None
        )
        evaluation.run()
        assert evaluation.stats[0] == pytest.approx(1.0)

    def test_converter_takes_the_image_id(self):
        assert [r["image_id"] for r in coco_results_from_poses(some_poses(3), image_id=42)] == [42, 42, 42]


class TestMmpose:
    def test_file_follows_mmposes_form(self, tmp_path):
        writer = MmposeWriter(tmp_path / "m.json")
        poses = some_poses()
        writer.write(poses)
        writer.write(Poses.empty(COCO, frame_index=1))
        writer.close()
        data = json.loads((tmp_path / "m.json").read_text())
        assert data["meta_info"]["keypoint_id2name"]["0"] == "nose"
        assert data["meta_info"]["flip_pairs"][0] == [1, 2]
        assert [f["frame_id"] for f in data["instance_info"]] == [1, 2]
        assert data["instance_info"][1]["instances"] == []
        instance = data["instance_info"][0]["instances"][1]
        assert np.asarray(instance["keypoints"]).shape == (17, 2)
        assert np.asarray(instance["bbox"]).shape == (1, 4)
        assert instance["bbox"][0] == pytest.approx(poses.bboxes[1].tolist(), abs=0.006)

    def test_missing_joint_is_zero_with_score_zero(self):
        instance = mmpose_instances_from_poses(some_poses())[0]
        assert instance["keypoints"][3] == [0, 0]
        assert instance["keypoint_scores"][3] == 0


def body25(person: dict) -> dict[str, list[float]]:
    triplets = np.reshape(person["pose_keypoints_2d"], (25, 3)).tolist()
    return dict(zip(BODY_25, triplets, strict=True))


class TestOpenpose:
    def test_body_25_is_in_openposes_order(self):
        # Read off OpenPose's documentation of POSE_BODY_25_BODY_PARTS.
        assert [BODY_25.index(n) for n in ("nose", "neck", "right_wrist", "left_wrist", "hip", "left_ear")] == [
            0, 1, 4, 7, 8, 18,
        ]  # fmt: skip
        assert BODY_25[19:] == (
            "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
        )  # fmt: skip

    def test_halpe26_fills_all_25_joints(self):
        skeleton = load_skeleton("halpe26")
        poses = some_poses(skeleton=skeleton, missing=False)
        person = openpose_people_from_poses(poses)[0]
        for name, (x, y, score) in body25(person).items():
            joint = skeleton.index(name)
            assert (x, y) == pytest.approx(poses.keypoints[0, joint].tolist(), abs=0.006)
            assert score == pytest.approx(float(poses.keypoint_scores[0, joint]), abs=6e-5)
        assert person["face_keypoints_2d"] == []
        assert person["hand_left_keypoints_2d"] == []
        assert person["person_id"] == [5]

    def test_coco17_gets_neck_and_hip_between_the_sides_and_no_feet(self):
        poses = some_poses(missing=False)
        joints = body25(openpose_people_from_poses(poses)[0])
        assert joints["neck"][:2] == pytest.approx(poses.keypoints[0, 5:7].mean(axis=0).tolist(), abs=0.01)
        assert joints["hip"][2] == pytest.approx(float(poses.keypoint_scores[0, 11:13].min()), abs=1e-4)
        assert joints["left_heel"] == [0, 0, 0]
        assert joints["right_wrist"][:2] == pytest.approx(poses.keypoints[0, 10].tolist(), abs=0.01)

    def test_midpoint_of_a_missing_joint_is_missing(self):
        poses = some_poses(missing=False)
        points, scores = poses.keypoints.copy(), poses.keypoint_scores.copy()
        points[0, 5], scores[0, 5] = np.nan, 0
        joints = body25(openpose_people_from_poses(replace(poses, keypoints=points, keypoint_scores=scores))[0])
        assert joints["neck"] == [0, 0, 0]
        assert joints["right_shoulder"] != [0, 0, 0]

    @pytest.mark.parametrize("name", ["wholebody133", "halpe136"])
    def test_whole_body_fills_face_and_hands(self, name):
        skeleton = load_skeleton(name)
        poses = some_poses(1, skeleton=skeleton, missing=False)
        person = openpose_people_from_poses(poses)[0]
        face = np.reshape(person["face_keypoints_2d"], (70, 3))
        left = np.reshape(person["hand_left_keypoints_2d"], (21, 3))
        right = np.reshape(person["hand_right_keypoints_2d"], (21, 3))
        np.testing.assert_allclose(face[30, :2], poses.keypoints[0, skeleton.index("face-30")], atol=0.006)
        np.testing.assert_allclose(face[69, :2], poses.keypoints[0, skeleton.index("left_eye")], atol=0.006)
        np.testing.assert_allclose(left[8, :2], poses.keypoints[0, skeleton.index("left_forefinger4")], atol=0.006)
        np.testing.assert_allclose(right[20, :2], poses.keypoints[0, skeleton.index("right_pinky_finger4")], atol=0.006)

    @pytest.mark.parametrize("name", ["mpii16", "crowdpose14", "aic14", "humanart17"])
    def test_other_bodies_are_mapped_by_name(self, name):
        skeleton = load_skeleton(name)
        poses = some_poses(1, skeleton=skeleton, missing=False)
        joints = body25(openpose_people_from_poses(poses)[0])
        knee = poses.keypoints[0, skeleton.index("left_knee")]
        assert joints["left_knee"][:2] == pytest.approx(knee.tolist(), abs=0.006)
        assert joints["neck"][2] > 0

    @pytest.mark.parametrize("name", ["hand21", "face106", "wflw98", "ap10k17"])
    def test_what_is_no_body_is_refused_with_the_way_out(self, name):
        with pytest.raises(InputError, match="use the native form"):
            openpose_people_from_poses(some_poses(1, skeleton=load_skeleton(name)))

    def test_one_file_a_frame_named_so_that_pose2sim_sorts_them(self, tmp_path):
        writer = OpenposeWriter(tmp_path / "cam1_json", stem="cam1")
        for index in (0, 1, 12):
            writer.write(some_poses(1, index=index))
        writer.close()
        names = sorted(p.name for p in (tmp_path / "cam1_json").iterdir())
        assert names == [f"cam1_{i:012d}_keypoints.json" for i in (0, 1, 12)]
        data = json.loads((tmp_path / "cam1_json" / names[0]).read_text())
        assert data["version"] == 1.3
        assert len(data["people"][0]["pose_keypoints_2d"]) == 75

    def test_files_of_an_earlier_longer_run_do_not_remain(self, tmp_path):
        for length in (5, 2):
            writer = OpenposeWriter(tmp_path / "o", stem="v")
            for index in range(length):
                writer.write(some_poses(1, index=index))
        (tmp_path / "o" / "other_000000000009_keypoints.json").touch()
        writer = OpenposeWriter(tmp_path / "o", stem="v")
        writer.write(some_poses(1, index=0))
        assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
            "other_000000000009_keypoints.json",
            "v_000000000000_keypoints.json",
        ]

    def test_pictures_keep_their_names(self, tmp_path):
        writer = OpenposeWriter(tmp_path / "o")
        writer.write(some_poses(1), name="street.jpg")
        assert [p.name for p in (tmp_path / "o").iterdir()] == ["street_keypoints.json"]

    def test_pictures_of_one_stem_get_a_file_each(self, tmp_path):
        writer = OpenposeWriter(tmp_path / "o")
        for people, name in enumerate(["a.jpg", "a.png", "a.png", "b.png"]):
            writer.write(some_poses(people), name=name)
        found = {p.name: len(json.loads(p.read_text())["people"]) for p in (tmp_path / "o").iterdir()}
        assert found == {
            "a_keypoints.json": 0,
            "a_png_keypoints.json": 1,
            "a_png_2_keypoints.json": 2,
            "b_keypoints.json": 3,
        }


class TestCsv:
    def test_one_row_a_person_and_empty_cells_for_what_is_unknown(self, tmp_path):
        writer = CsvWriter(tmp_path / "t.csv")
        poses = some_poses()
        writer.write(poses)
        writer.write(Poses.empty(COCO, frame_index=1))
        writer.write(some_poses(1, index=2, tracked=False))
        writer.close()
        with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(r["frame_index"], r["track_id"]) for r in rows] == [("0", "5"), ("0", "6"), ("2", "")]
        assert rows[0]["left_ear_x"] == ""
        assert rows[0]["left_ear_score"] == "0.0"
        assert float(rows[1]["right_ankle_y"]) == pytest.approx(float(poses.keypoints[1, 16, 1]), abs=0.006)
        assert float(rows[0]["bbox_x2"]) == pytest.approx(float(poses.bboxes[0, 2]), abs=0.006)
        assert list(rows[0])[:4] == ["frame_index", "timestamp_s", "name", "track_id"]

    def test_names_with_commas_and_quotes_stay_one_cell(self, tmp_path):
        writer = CsvWriter(tmp_path / "t.csv")
        writer.write(some_poses(1), name='a,"b".jpg')
        writer.close()
        rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
        assert rows[0]["name"] == 'a,"b".jpg'


class TestEveryWriter:
    @pytest.mark.parametrize("name", FORMATS)
    def test_output_is_on_disk_after_every_frame(self, tmp_path, name):
        path = tmp_path / "out"
        writer = open_poses_writer(path, name, source={"name": "clip.mp4"})
        writer.write(some_poses(2, index=0))
        writer.write(some_poses(3, index=1))
        if name == "csv":
            assert len(path.read_text().splitlines()) == 6
        elif name == "openpose":
            assert [p.name for p in sorted(path.iterdir())] == [f"clip_{i:012d}_keypoints.json" for i in (0, 1)]
        else:
            json.loads(path.read_text())
        writer.close(complete=False)
        writer.close()

    @pytest.mark.parametrize("name", [n for n in FORMATS if n != "openpose"])
    def test_existing_file_stays_until_the_first_frame(self, tmp_path, name):
        path = tmp_path / "out"
        path.write_text("precious")
        open_poses_writer(path, name).close()
        assert path.read_text() == "precious"
        (tmp_path / "none").unlink(missing_ok=True)
        open_poses_writer(tmp_path / "none", name).close()
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("name", [n for n in FORMATS if n != "openpose"])
    def test_unwritable_paths_are_refused_before_any_work(self, tmp_path, name):
        with pytest.raises(MediaError, match="create it first"):
            open_poses_writer(tmp_path / "no" / "x.json", name)
        with pytest.raises(MediaError, match="is a folder"):
            open_poses_writer(tmp_path, name)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    @pytest.mark.parametrize("name", [n for n in FORMATS if n != "openpose"])
    def test_named_pipe_is_refused_and_nobody_waits_for_its_reader(self, tmp_path, name):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(MediaError, match="is a pipe"):
            open_poses_writer(tmp_path / "pipe", name)

    @pytest.mark.parametrize("name", [n for n in FORMATS if n != "openpose"])
    def test_null_device_takes_everything(self, name):
        writer = open_poses_writer(os.devnull, name)
        for index in range(3):
            writer.write(some_poses(1, index=index))
        writer.close()

    @pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs names for open pipes")
    @pytest.mark.parametrize("name", [n for n in FORMATS if n != "openpose"])
    def test_pipe_is_refused_before_any_work(self, name):
        reading, writing = os.pipe()
        try:
            with pytest.raises(MediaError, match="is a pipe"):
                open_poses_writer(f"/dev/fd/{writing}", name)
        finally:
            os.close(reading)
            os.close(writing)

    def test_openpose_folder_that_is_a_file_is_refused(self, tmp_path):
        (tmp_path / "x").touch()
        with pytest.raises(MediaError, match="folder of files"):
            OpenposeWriter(tmp_path / "x")

    def test_unknown_format_names_the_known_ones(self, tmp_path):
        with pytest.raises(InputError, match="native, coco, openpose, mmpose, csv"):
            open_poses_writer(tmp_path / "x", "yaml")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    @pytest.mark.parametrize("format_name", FORMATS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_not_finite_and_numpys_own_cost_no_frame(self, tmp_path, format_name, value):
        poses = some_poses(missing=False)
        odd = {
            name: np.where(np.arange(getattr(poses, name).size).reshape(getattr(poses, name).shape), 1, value)
            for name in ("keypoints", "keypoint_scores", "bboxes", "bbox_scores")
        }
        poses = replace(poses, **odd, frame_index=np.int64(3), timestamp_s=np.float32(value))
        with closing(open_poses_writer(tmp_path / "out", format_name)) as writer:
            writer.write(poses)
        if format_name == "native":
            frame = load_recording(tmp_path / "out").frames[0]
            assert (frame.frame_index, frame.timestamp_s) == (3, None)
        if format_name == "coco":
            assert json.loads((tmp_path / "out").read_text())[0]["score"] == 0

    @pytest.mark.parametrize("format_name", [name for name in FORMATS if name != "openpose"])
    def test_full_disk_leaves_what_was_written_before(self, tmp_path, format_name):
        """A file handle stands in for the disk: it takes 60 bytes of the third frame."""

        class Disk(io.FileIO):
            room = 60

            def write(self, data: bytes) -> int:
                if len(data) < 60:
                    return super().write(data)
                if not self.room:
                    raise OSError(errno.ENOSPC, "No space left on device")
                written = super().write(data[: self.room])
                self.room = 0
                return written

        path = tmp_path / "out"
        writer = open_poses_writer(path, format_name)
        for index in range(2):
            writer.write(some_poses(index=index))
        before = path.read_bytes()
        writer._file._file.close()
        writer._file._file = Disk(path, "r+")
        with pytest.raises(MediaError, match="Is the disk full"):
            writer.write(some_poses(index=2))
        writer.close(complete=False)
        assert path.read_bytes() == before

    def test_full_disk_is_a_media_error(self):
        writer = CsvWriter("/dev/full")
        with closing(writer), pytest.raises(MediaError, match="Is the disk full"):
            writer.write(some_poses())


class TestSupervision:
    @pytest.mark.parametrize("field", ["keypoint_confidence", "confidence"])
    def test_keypoints_and_boxes_are_handed_over(self, monkeypatch, field):
        """Against a stand-in of the library's two constructors; the real one is tried where it is installed."""
        namespace: dict[str, object] = {}
        exec(  # the name of a parameter differs between releases
            f"class KeyPoints:\n    def __init__(self, xy, class_id=None, {field}=None, data=None):\n"
            f"        self.xy, self.scores, self.data = xy, {field}, data\n",
            namespace,
        )
        fake = types.ModuleType("supervision")
        fake.KeyPoints = namespace["KeyPoints"]  # type: ignore[attr-defined]
        fake.Detections = types.SimpleNamespace  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "supervision", fake)
        poses = some_poses()
        points = supervision_keypoints_from_poses(poses)
        assert points.xy[0, 3].tolist() == [0, 0]
        np.testing.assert_array_equal(points.xy[1], poses.keypoints[1])
        np.testing.assert_array_equal(points.scores, poses.keypoint_scores)
        assert points.data["tracker_id"].tolist() == [5, 6]
        boxes = supervision_detections_from_poses(poses)
        np.testing.assert_array_equal(boxes.xyxy, poses.bboxes)
        assert boxes.tracker_id.tolist() == [5, 6]

    @pytest.mark.filterwarnings("ignore")
    def test_the_real_library_takes_them(self):
        pytest.importorskip("supervision", reason="supervision is not installed")
        for poses in (some_poses(), some_poses(0), some_poses(tracked=False)):
            assert len(supervision_keypoints_from_poses(poses)) == len(poses)
            assert len(supervision_detections_from_poses(poses)) == len(poses)

    def test_missing_library_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(BackendUnavailableError, match="pip install supervision"):
            supervision_keypoints_from_poses(some_poses())
