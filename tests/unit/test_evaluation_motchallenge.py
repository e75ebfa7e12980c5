"""MOTChallenge text files: what is read from them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer.errors import InputError, MediaError
from rtmpose_infer.evaluation.motchallenge import is_untracked, load_motchallenge_results, load_motchallenge_truth


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "file.txt"
    path.write_text("\n".join(lines))
    return path


def test_pedestrians_are_truth_and_distractors_are_ignored(tmp_path: Path) -> None:
    frames = load_motchallenge_truth(
        write(
            tmp_path,
            "1,1,10,20,30,40,1,1,1.0",
            "1,2,50,20,30,40,0,1,0.2",  # not to be considered
            "1,3,90,20,30,40,0,8,1.0",  # a distractor
            "1,4,90,20,30,40,0,3,1.0",  # a car
            "3,1,12,20,30,40,1,1,1.0",
        )
    )
    assert [len(frame.ids) for frame in frames] == [3, 0, 1]
    assert frames[0].ids.tolist() == [1, 2, 3]
    assert frames[0].ignored.tolist() == [False, True, True]
    np.testing.assert_allclose(frames[0].bboxes[0], [10, 20, 40, 60])


@pytest.mark.parametrize("kind", [2, 7, 8, 12])
def test_people_who_are_no_pedestrians_are_neither_duty_nor_mistake(tmp_path: Path, kind: int) -> None:
    (frame,) = load_motchallenge_truth(write(tmp_path, "1,1,10,20,30,40,1,1,1", f"1,2,50,20,30,40,1,{kind},1"))
    assert dict(zip(frame.ids.tolist(), frame.ignored.tolist(), strict=True)) == {1: False, 2: True}


@pytest.mark.parametrize("kind", [3, 4, 5, 6, 9, 10, 11])
def test_what_is_no_person_is_left_out(tmp_path: Path, kind: int) -> None:
    (frame,) = load_motchallenge_truth(write(tmp_path, "1,1,10,20,30,40,1,1,1", f"1,2,50,20,30,40,1,{kind},1"))
    assert frame.ids.tolist() == [1]


def test_cost_follows_the_lines_and_not_the_largest_frame_number(tmp_path: Path) -> None:
    truth = load_motchallenge_truth(write(tmp_path, "2,1,10,20,30,40,1,1,1", "10000000,1,12,20,30,40,1,1,1"))
    found, scores = load_motchallenge_results(write(tmp_path, "2,1,10,20,30,40,0.9", "10000000,1,12,20,30,40,0.8"))
    for frames in (truth, found):
        assert len(frames) == 10_000_000
        assert [len(frames[i].ids) for i in (0, 1, 2, -1)] == [0, 1, 0, 1]
        assert frames[0] is frames[2]  # whoever sees nobody costs nothing
    assert [len(scores[i]) for i in (0, 1, -1)] == [0, 1, 1]


def test_older_files_without_classes_hold_pedestrians(tmp_path: Path) -> None:
    frames = load_motchallenge_truth(write(tmp_path, "1,1,399,182,121,229,1,-1,-1,-1"))
    assert frames[0].ids.tolist() == [1]
    assert not frames[0].ignored.any()


def test_truth_that_ends_before_the_class_holds_pedestrians(tmp_path: Path) -> None:
    (frame,) = load_motchallenge_truth(write(tmp_path, "1,1,399,182,121,229,1", "1,2,10,20,30,40,0"))
    assert frame.ids.tolist() == [1, 2]
    assert frame.ignored.tolist() == [False, True]


@pytest.mark.parametrize(("end", "score"), [("", 1), (",0.25", 0.25), (",0.25,-1,-1,-1", 0.25)])
def test_the_score_follows_the_box_and_is_one_where_it_is_left_out(tmp_path: Path, end: str, score: float) -> None:
    people, scores = load_motchallenge_results(write(tmp_path, f"1,7,10,20,30,40{end}"))
    assert people[0].bboxes.tolist() == [[10, 20, 40, 60]]
    assert scores[0].tolist() == [score]


def test_results_and_raw_detections_are_told_apart(tmp_path: Path) -> None:
    tracked = write(tmp_path, "1,7,0,0,10,10,0.9,-1,-1,-1", "2,7,1,0,10,10,0.8,-1,-1,-1")
    assert not is_untracked(tracked)
    people, scores = load_motchallenge_results(tracked)
    assert [frame.ids.tolist() for frame in people] == [[7], [7]]
    assert scores[1].tolist() == pytest.approx([0.8])

    raw = write(tmp_path, "1,-1,0,0,10,10,0.9", "1,-1,50,0,10,10,0.4")
    assert is_untracked(raw)
    assert load_motchallenge_results(raw)[0][0].ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds nobody"),
        (["frame,id,x"], "line 1: expected numbers"),
        (["1,1,0,0,5"], "line 1: expected at least 6"),
        (["1,1,0,0,5,5,1,1,1", "1,2,0,0"], "line 2: expected 9 columns, got 4"),
        (["0,1,0,0,5,5,1,1,1"], "frame numbers from 1"),
        (["10000001,1,0,0,5,5,1,1,1"], "frame numbers from 1"),
        ([f"1,{2**53 + 2},0,0,5,5,1,1,1"], "whole numbers of at most"),
        (["1e12,1,0,0,5,5,1,1,1"], "frame numbers from 1"),
        (["1,1,nan,0,5,5,1,1,1"], "finite"),
        (["1,1.5,0,0,5,5,1,1,1", "2,1.7,0,0,5,5,1,1,1"], "whole numbers"),
        (["1,1e300,0,0,5,5,1,1,1"], "whole numbers"),
        (["1,1,0,0,5,5,1,1,1", "1,1,9,9,5,5,1,1,1"], "twice in frame 1"),
        (["1,1,0,0,5,5,1,3,1"], "no pedestrian"),
    ],
)
def test_what_is_no_truth_is_refused_with_its_place(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_motchallenge_truth(write(tmp_path, *lines))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be read"):
        load_motchallenge_truth(tmp_path / "absent.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        load_motchallenge_truth(tmp_path / "binary.txt")
