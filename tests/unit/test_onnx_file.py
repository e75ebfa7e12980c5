"""The header reader against the onnx package, and against files that are cut, scrambled or hostile."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rtmpose_infer.errors import ModelError
from rtmpose_infer.onnx_file import OnnxHeader, external_data_locations, read_onnx_header
from tests.tiny_onnx import OPSET, declared_onnx, light_detector, light_pose, write

DTYPES = ["float32", "float16", "float64", "uint8", "int64", "int32", "bool"]
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
shapes = st.lists(st.one_of(st.integers(1, 2**40), st.just("n"), st.none()), max_size=5)
tensors = st.lists(st.tuples(names, shapes, st.sampled_from(DTYPES)), min_size=1, max_size=4, unique_by=lambda t: t[0])


def by_the_onnx_package(content: bytes) -> OnnxHeader:
    """Return what the official parser sees."""
    model = onnx.load_from_string(content)
    weights = {w.name for w in model.graph.initializer}

    def described(values: list[onnx.ValueInfoProto]) -> tuple[tuple[str, tuple[int | None, ...], str], ...]:
        found = []
        for value in values:
            kind = value.type.tensor_type
            shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
            found.append((value.name, shape, dtype))
        return tuple(found)

    inputs = [v for v in model.graph.input if v.name not in weights]
    readers = [n.op_type for n in model.graph.node if {v.name for v in inputs} & set(n.input)]
    return OnnxHeader(
        described(inputs),
        described(model.graph.output),
        {p.key: p.value for p in model.metadata_props},
        frozenset(readers),
        max(o.version for o in model.opset_import),
        f"{model.producer_name} {model.producer_version}",
    )


def plain(header: OnnxHeader) -> OnnxHeader:
    """Return the header with its tensors as plain tuples."""
    inputs, outputs = (tuple((t.name, t.shape, t.dtype) for t in group) for group in (header.inputs, header.outputs))
    return OnnxHeader(inputs, outputs, dict(header.metadata), header.first_operators, header.opset, header.producer)


@given(tensors, tensors, st.dictionaries(names, st.text(max_size=50), max_size=4), st.sampled_from(["Conv", "Slice"]))
def test_the_header_is_what_the_onnx_package_reads(inputs, outputs, metadata, first_operator):
    content = declared_onnx(inputs, outputs, metadata=metadata, first_operator=first_operator)
    assert plain(read_onnx_header(content)) == by_the_onnx_package(content)


@pytest.mark.parametrize("content", [light_detector(), light_pose(), light_pose(decoded=True, batch=2)])
def test_runnable_models_read_the_same_from_bytes_and_from_a_file(content, tmp_path):
    header = read_onnx_header(write(tmp_path / "m.onnx", content))
    assert header == read_onnx_header(content)
    assert plain(header) == by_the_onnx_package(content)
    assert header.opset == OPSET


def test_weights_listed_as_inputs_are_not_inputs():
    content = declared_onnx([("input", [1, 3], "float32"), ("weights", [3], "float32")], [("out", [1], "float32")])
    assert [t.name for t in read_onnx_header(content).inputs] == ["input"]


def test_a_file_cut_anywhere_is_refused_or_has_lost_nothing_but_its_tail():
    content = declared_onnx(
        [("input", ["n", 3, 64, 64], "float32")],
        [("dets", ["n", None, 5], "float32"), ("labels", ["n", None], "int64")],
        metadata={"key": "value" * 10},
    )
    whole = read_onnx_header(content)
    survivors = 0
    for length in range(len(content)):
        try:
            header = read_onnx_header(content[:length])
        except ModelError:
            continue
        survivors += 1
        assert (header.inputs, header.outputs) == (whole.inputs, whole.outputs)
    # Only a cut between two fields after the graph leaves a well-formed file.
    assert survivors <= 3


@given(st.binary(max_size=400))
def test_random_bytes_never_do_anything_but_a_model_error(content):
    try:
        header = read_onnx_header(content)
    except ModelError:
        return
    assert header.outputs


def test_scrambled_models_never_do_anything_but_a_model_error():
    rng = random.Random(5)
    content = light_pose(num_keypoints=2, size_wh=(4, 4), metadata={"key": "value"})
    for _ in range(3000):
        scrambled = bytearray(content)
        for _ in range(rng.randint(1, 6)):
            scrambled[rng.randrange(len(scrambled))] = rng.randrange(256)
        with contextlib.suppress(ModelError):
            read_onnx_header(bytes(scrambled))


def negative(number: int) -> bytes:
    """Return the ten bytes of a negative varint."""
    value, out = number & 0xFFFFFFFFFFFFFFFF, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("length", [-11, -1, -(2**63)])
def test_a_length_below_zero_does_not_send_the_reader_in_circles(length):
    with pytest.raises(ModelError):
        read_onnx_header(b"\x3a" + negative(length))


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x3a" + b"\xff" * 30,
        b"\x3b\x00",
        b"\x00\x00",
        b"\x12\x02\xff\xfe\x3a\x00",
    ],
    ids=["length of 2^63", "endless length", "group", "field zero", "producer is not text"],
)
def test_impossible_fields_are_refused(content):
    with pytest.raises(ModelError, match="not a whole ONNX model"):
        read_onnx_header(content)


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><html>404</html>", b"PK\x03\x04" + bytes(60), b"\x89PNG\r\n\x1a\n" + bytes(60), b"\x00" * 64],
)
def test_other_kinds_of_file_are_refused_with_their_name(content, tmp_path):
    with pytest.raises(ModelError, match=r"page\.onnx is not a whole ONNX model"):
        read_onnx_header(write(tmp_path / "page.onnx", content))


def test_a_model_without_outputs_is_refused():
    with pytest.raises(ModelError, match="no outputs"):
        read_onnx_header(declared_onnx([("input", [1], "float32")], []))


def test_missing_empty_and_unreadable_files_say_so(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        read_onnx_header(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is empty"):
        read_onnx_header(write(tmp_path / "empty.onnx", b""))
    with pytest.raises(ModelError, match="cannot read"):
        read_onnx_header(tmp_path)


def test_published_models_read_as_the_onnx_package_reads_them(shared):
    for path in sorted((shared / "models").glob("*.onnx")):
        header = plain(read_onnx_header(path))
        expected = by_the_onnx_package(path.read_bytes())
        assert (header.inputs, header.outputs) == (expected.inputs, expected.outputs), path.name


# ---------------------------------------------------------------------------------------- weights in files of their own


def elsewhere(location: str) -> onnx.TensorProto:
    """Return a tensor whose values lie in another file."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="4096")
    return tensor


def around(*nodes: onnx.NodeProto, weights: onnx.TensorProto | None = None) -> bytes:
    """Return a model of some nodes and weights, which need not fit together."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weights] if weights else [])
    return helper.make_model(graph).SerializeToString()


def test_external_data_is_found_in_weights_constants_branches_and_functions(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=elsewhere("constant"))
    branch = helper.make_graph([constant], "branch", [], [], [elsewhere("branch")])
    content = around(
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["d"], value=elsewhere("sub/constant")),
        weights=elsewhere("weights"),
    )
    expected = {"constant", "branch", "sub/constant", "weights"}
    assert external_data_locations(content) == external_data_locations(write(tmp_path / "m.onnx", content)) == expected
    model = onnx.load_from_string(around())
    model.functions.append(helper.make_function("own", "f", [], ["c"], [constant], []))
    assert external_data_locations(model.SerializeToString()) == {"constant"}


def test_a_model_in_one_piece_has_no_external_data():
    assert external_data_locations(light_pose()) == frozenset()
    named = helper.make_node("Identity", ["location"], ["y"])
    assert (
        external_data_locations(around(named, weights=numpy_helper.from_array(np.zeros(3), "location"))) == frozenset()
    )


@given(st.binary(max_size=400))
def test_random_bytes_have_external_data_or_are_a_model_error(content):
    with contextlib.suppress(ModelError):
        external_data_locations(content)


def test_scrambled_external_data_is_found_or_a_model_error():
    rng = random.Random(6)
    content = around(helper.make_node("Constant", [], ["y"], value=elsewhere("a")), weights=elsewhere("b"))
    for _ in range(2000):
        scrambled = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            scrambled[rng.randrange(len(scrambled))] = rng.randrange(256)
        with contextlib.suppress(ModelError):
            external_data_locations(bytes(scrambled))


def test_a_missing_file_has_no_external_data_to_tell_of(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        external_data_locations(tmp_path / "none.onnx")
