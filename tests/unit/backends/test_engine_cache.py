"""What a model's digest covers: all that its answers depend on, and nothing outside of its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtmpose_infer.backends.engine_cache import EngineCache, model_digest
from rtmpose_infer.errors import ModelError
from tests.tiny_onnx import light_pose, write


def graph_with_weights_at(location: str) -> bytes:
    """Return a graph whose weights are said to lie somewhere else."""
    weights = numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    node = helper.make_node("Add", ["x", "weights"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weights]))
    return model.SerializeToString()


@pytest.mark.parametrize("kind", [str, Path])
def test_the_folder_may_be_text_or_a_path(tmp_path, kind):
    assert EngineCache("onnxruntime", kind(tmp_path)).folder == tmp_path / "onnxruntime"


def test_a_model_in_one_piece_has_the_hash_of_its_content(tmp_path):
    content = light_pose()
    plain = hashlib.sha256(content).hexdigest()
    assert model_digest(content) == model_digest(write(tmp_path / "m.onnx", content)) == plain


@pytest.mark.parametrize("location", ["m.data", "weights/m.data"])
def test_weights_in_a_file_of_their_own_count(tmp_path, location):
    model = write(tmp_path / "m.onnx", graph_with_weights_at(location))
    weights = tmp_path / location
    weights.parent.mkdir(exist_ok=True)
    digests = [model_digest(model)]
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        digests.append(model_digest(model))
    assert len(set(digests)) == 3
    weights.unlink()
    assert model_digest(model) == digests[0]  # missing weights are for the runtime to report


@pytest.mark.parametrize("ending", [".xml", ".param"])
def test_the_weights_of_other_formats_count(tmp_path, ending):
    model, weights = write(tmp_path / f"m{ending}", b"layers"), tmp_path / "m.bin"
    digests = {model_digest(model)}
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        digests.add(model_digest(model))
    assert len(digests) == 3


@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_outside_of_the_models_folder_is_never_read(tmp_path, monkeypatch, absolute):
    outside = write(tmp_path / "secret", b"one")
    (tmp_path / "models").mkdir()
    content = graph_with_weights_at(str(outside) if absolute else "../secret")
    model = write(tmp_path / "models" / "m.onnx", content)
    assert model_digest(model) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("location", ["", ".", "no\0name", "x" * 5000, "m.onnx/x"])
def test_places_where_no_file_can_be_count_as_missing(tmp_path, location):
    content = graph_with_weights_at(location)
    assert model_digest(write(tmp_path / "m.onnx", content)) == hashlib.sha256(content).hexdigest()


def test_what_is_no_onnx_has_a_digest_too_and_the_runtime_refuses_it(tmp_path):
    assert model_digest(write(tmp_path / "m.onnx", b"no model")) == hashlib.sha256(b"no model").hexdigest()


def test_a_model_that_is_gone_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read the model .*gone\.onnx"):
        model_digest(Path(tmp_path / "gone.onnx"))


def test_the_graph_counts_beside_the_weights(tmp_path):
    write(tmp_path / "m.data", b"weights")
    model = write(tmp_path / "m.onnx", graph_with_weights_at("m.data"))
    before = model_digest(model)
    loaded = onnx.load(model, load_external_data=False)
    loaded.graph.node[0].op_type = "Sub"
    write(model, loaded.SerializeToString())
    assert model_digest(model) != before
