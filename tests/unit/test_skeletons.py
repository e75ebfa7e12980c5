"""Skeletons: the packaged ones say what the data sets say, and a file of one's own works the same way."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from rtmpose_infer.errors import InputError
from rtmpose_infer.skeletons import Skeleton, load_skeleton, skeleton_from_dict, skeleton_names, unnamed_skeleton

COUNTS = {
    "coco17": 17,
    "halpe26": 26,
    "wholebody133": 133,
    "hand21": 21,
    "face106": 106,
    "ap10k17": 17,
    "crowdpose14": 14,
    "mpii16": 16,
    "wflw98": 98,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_promised_skeleton_is_there_with_its_number_of_keypoints(name, count):
    skeleton = load_skeleton(name)
    assert skeleton.name == name
    assert skeleton.num_keypoints == len(set(skeleton.keypoints)) == count
    assert skeleton.oks_sigmas.shape == (count,)


@pytest.mark.parametrize("name", skeleton_names())
def test_packaged_skeletons_agree_with_the_data_sets(name, shared):
    facts = json.loads((shared / "reference" / "skeletons.json").read_text())[name]
    skeleton = load_skeleton(name)
    assert list(skeleton.keypoints) == facts["keypoints"]
    assert list(skeleton.flip_index) == facts["flip_index"]
    if facts["links"]:
        assert {frozenset(link) for link in skeleton.links} == {frozenset(link) for link in facts["links"]}
    if facts["sigmas"]:
        np.testing.assert_allclose(skeleton.sigmas, facts["sigmas"], rtol=1e-6)
    else:
        assert skeleton.sigmas is None


@pytest.mark.parametrize("name", skeleton_names())
def test_mirroring_swaps_left_and_right(name):
    skeleton = load_skeleton(name)
    opposite = {"left": "right", "right": "left", "centre": "centre"}
    assert [opposite[skeleton.sides[i]] for i in skeleton.flip_index] == list(skeleton.sides)


@pytest.mark.parametrize("name", skeleton_names())
def test_mirroring_the_limbs_gives_limbs(name):
    skeleton = load_skeleton(name)
    limbs = {frozenset(link) for link in skeleton.links}
    one_sided = {limb for limb in limbs if frozenset(skeleton.flip_index[i] for i in limb) not in limbs}
    assert not one_sided


def test_sides_are_read_off_the_names():
    coco = load_skeleton("coco17")
    assert coco.sides[coco.index("nose")] == "centre"
    assert coco.sides[coco.index("left_wrist")] == "left"
    assert coco.sides[coco.index("right_ankle")] == "right"
    animal = load_skeleton("ap10k17")
    assert animal.sides[animal.index("L_F_Paw")] == "left"
    assert animal.sides[animal.index("Root of tail")] == "centre"


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("coco", "coco17"),
        ("COCO", "coco17"),
        ("coco-wholebody", "wholebody133"),
        ("body26", "halpe26"),
        ("lapa", "face106"),
    ],
)
def test_common_names_work(alias, name):
    assert load_skeleton(alias) == load_skeleton(name)


def test_a_skeleton_file_of_ones_own_works(tmp_path):
    path = tmp_path / "stick.json"
    path.write_text(json.dumps({"name": "stick", "keypoints": ["top", "bottom"], "links": [[0, 1]]}))
    stick = load_skeleton(path)
    assert (stick.keypoints, stick.links, stick.flip_index) == (("top", "bottom"), ((0, 1),), (0, 1))
    assert stick.oks_sigmas.tolist() == pytest.approx([0.05, 0.05])
    assert load_skeleton(str(path)) == stick


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(InputError, match=r"coco17.*\.json"):
        load_skeleton("cocoa")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"name": "x"}',
        b"null",
        b'{"name": "x", "keypoints": 3}',
        b"[" * 100_000,
        b"9" * 5000,
    ],
    ids=["empty", "cut", "list", "no fields", "not text", "no keypoints", "null", "no list", "nested", "digits"],
)
def test_a_broken_skeleton_file_is_an_input_error(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_skeleton(path)


def test_a_missing_skeleton_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_skeleton(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keypoints": []}, "at least one"),
        ({"keypoints": ["a", "a", "b"]}, "twice: a"),
        ({"flip_index": [0, 1]}, "flip_index"),
        ({"flip_index": [1, 2, 0]}, "flip_index"),
        ({"links": [[0, 3]]}, "links"),
        ({"links": [[1, 1]]}, "links"),
        ({"links": [[0, 1, 2]]}, "not a skeleton"),
        ({"sigmas": [0.1, 0.1]}, "sigmas"),
        ({"sigmas": [0.1, 0.0, 0.1]}, "sigmas"),
        ({"sigmas": [0.1, float("nan"), 0.1]}, "sigmas"),
        ({"sigmas": [0.1, float("inf"), 0.1]}, "sigmas"),
        ({"sigmas": ["x", "y", "z"]}, "not a skeleton"),
        ({"sigmas": [10**400, 0.1, 0.1]}, "not a skeleton"),
    ],
)
def test_contradictions_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        skeleton_from_dict({"name": "abc", "keypoints": ["a", "b", "c"]} | changes)


def test_the_shared_skeletons_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        load_skeleton("coco17").sigmas[0] = 1


def test_skeletons_compare_by_what_they_say():
    assert Skeleton("a", ("x", "y")) == Skeleton("a", ("x", "y"))
    assert hash(Skeleton("a", ("x", "y"))) == hash(Skeleton("a", ("x", "y")))
    assert Skeleton("a", ("x", "y")) != Skeleton("a", ("y", "x"))
    assert Skeleton("a", ("x",)) != "a"


def test_an_unknown_keypoint_names_the_known_ones():
    with pytest.raises(InputError, match="nose"):
        load_skeleton("coco17").index("tail")


def test_unnamed_keypoints_are_numbered():
    assert unnamed_skeleton(3).keypoints == ("keypoint_0", "keypoint_1", "keypoint_2")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda skeleton: pickle.loads(pickle.dumps(skeleton))])
def test_copies_and_what_comes_from_another_process_cannot_be_changed_either(copied):
    skeleton = load_skeleton("coco17")
    again = copied(skeleton)
    assert (again, again.flip_index) == (skeleton, skeleton.flip_index)
    np.testing.assert_array_equal(again.sigmas, skeleton.sigmas)
    assert not again.sigmas.flags.writeable


def test_a_skeleton_introduces_itself_in_a_line():
    assert repr(load_skeleton("wholebody133")) == "<Skeleton 'wholebody133', 133 keypoints>"
