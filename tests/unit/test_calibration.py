"""From raw scores to probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtmpose_infer.calibration import Calibration
from rtmpose_infer.errors import ModelError
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.skeletons import load_skeleton

COCO = load_skeleton("coco17")
CURVES = Calibration(np.linspace(0, 9, 17), np.linspace(-3, 2, 17))


@given(st.lists(st.floats(-2, 20), min_size=2, max_size=20))
def test_probabilities_lie_between_0_and_1_and_rise_with_the_score(scores: list[float]) -> None:
    ordered = np.sort(np.array(scores))
    chances = CURVES.probabilities(np.repeat(ordered[:, None], 17, axis=1))
    assert chances.dtype == np.float32
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (np.diff(chances, axis=0) >= 0).all()


def test_a_joint_that_was_not_found_has_no_chance_and_nobody_is_fine() -> None:
    assert CURVES.probabilities(np.zeros((1, 17))).tolist() == [[0] * 17]
    assert CURVES.probabilities(np.zeros((0, 17))).shape == (0, 17)


def test_it_goes_through_a_models_metadata() -> None:
    spec = ModelSpec(
        task="pose", head="simcc", input_size_wh=(192, 256), skeleton=COCO, calibration=CURVES.as_mapping()
    )
    back = ModelSpec.from_json(spec.to_json()).calibration
    assert back is not None
    again = Calibration.from_mapping(back, num_keypoints=17)
    scores = np.random.default_rng(0).uniform(0, 1, (5, 17))
    np.testing.assert_allclose(again.probabilities(scores), CURVES.probabilities(scores), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "unknown calibration 'magic'"),
        ({"slopes": [1.0] * 16}, "17 finite numbers"),
        ({"slopes": [-1.0] * 17}, "negative"),
        ({"offsets": [float("nan")] * 17}, "finite"),
        ({"offsets": "much"}, "no numbers"),
        ({"offsets": None}, "17 finite numbers"),
        ({"slopes": [[1.0], [1.0, 2.0]]}, "no numbers"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Calibration.from_mapping(CURVES.as_mapping() | change, num_keypoints=17)
