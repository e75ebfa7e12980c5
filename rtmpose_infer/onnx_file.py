"""What an ONNX file says of itself, read without any runtime and without the onnx package.

The pipeline must know a model's inputs, outputs and metadata before it chooses a runtime, OpenVINO and TensorRT do not
hand on the metadata, and the core depends on numpy and OpenCV alone. So this reads the few protobuf fields that
matter (https://onnx.ai/onnx/repo-docs/IR.html, onnx.proto field numbers) and skips the weights. The file is not
trusted: every length is checked against the bytes there are.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rtmpose_infer.errors import ModelError

__all__ = ["OnnxHeader", "OnnxTensor", "external_data_locations", "read_onnx_header"]

_Told = TypeVar("_Told")

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_LONGEST_TEXT = 16 * 2**20
_FIRST_NODES = 64
# The messages that lead to tensors: field number and message, by the message that holds them.
_LEADING_TO_TENSORS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}


@dataclass(frozen=True)
class OnnxTensor:
    """One input or output of a graph.

    Attributes:
        name: Its name.
        shape: Sizes; None for a dynamic one.
        dtype: numpy's name of the element type, such as ``"float32"``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class OnnxHeader:
    """The outside of an ONNX model.

    Attributes:
        inputs: Graph inputs that are not weights.
        outputs: Graph outputs.
        metadata: The model's ``metadata_props``.
        first_operators: Types of the operators that read the inputs; they tell families of networks apart.
        opset: Version of the default operator set.
        producer: Name and version of the exporter, as it wrote them.
    """

    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    first_operators: frozenset[str] = frozenset()
    opset: int = 0
    producer: str = ""


def read_onnx_header(model: Path | bytes, *, name: str = "") -> OnnxHeader:
    """Return what the ONNX model says of itself.

    Args:
        model: Path of the file, or its content.
        name: How messages call the model; the path by default.

    Raises:
        ModelError: The file is missing, truncated or not ONNX.
    """
    return _read(model, name, _model)


def external_data_locations(model: Path | bytes) -> frozenset[str]:
    """Return where the ONNX model says that weights lie outside of it, as it writes that.

    These should be paths relative to the model's folder, but nothing about them has been checked.

    Args:
        model: Path of the file, or its content.

    Raises:
        ModelError: The file is missing, truncated or not ONNX.
    """
    return _read(model, "", _locations)


def _read(model: Path | bytes, name: str, reader: Callable[[memoryview], _Told]) -> _Told:
    name = name or (str(model) if isinstance(model, Path) else "the model")
    if isinstance(model, bytes):
        return _parse(memoryview(model), name, reader)
    try:
        with model.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ModelError(f"{name} is empty; expected an ONNX model. Export or download it again.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                view = memoryview(mapped)
                try:
                    return _parse(view, name, reader)
                finally:
                    view.release()
    except OSError as error:
        raise ModelError(f"cannot read the model {name}: {error.strerror or error}.") from error


class _MalformedError(Exception):
    """The bytes are not the protobuf they should be."""


def _parse(view: memoryview, name: str, reader: Callable[[memoryview], _Told]) -> _Told:
    try:
        return reader(view)
    except (_MalformedError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{name} is not a whole ONNX model ({error}): it is truncated, or another kind of file. "
            "Export or download it again."
        ) from error


def _model(view: memoryview) -> OnnxHeader:
    metadata: dict[str, str] = {}
    producer = ["", ""]
    opset = 0
    graph: tuple[int, int] | None = None
    for number, kind, start, end in _fields(view, 0, len(view)):
        if kind != 2:
            continue
        if number in {2, 3}:
            producer[number - 2] = _text(view, start, end)
        elif number == 7:
            graph = (start, end)
        elif number == 8:
            domain, version = "", 0
            for inner, inner_kind, a, b in _fields(view, start, end):
                if inner == 1 and inner_kind == 2:
                    domain = _text(view, a, b)
                elif inner == 2 and inner_kind == 0:
                    version = a
            if domain in {"", "ai.onnx"}:
                opset = version
        elif number == 14:
            entry = {n: _text(view, a, b) for n, k, a, b in _fields(view, start, end) if k == 2 and n in {1, 2}}
            metadata[entry.get(1, "")] = entry.get(2, "")
    if graph is None:
        raise _MalformedError("it holds no graph")
    inputs, outputs, first = _graph(view, *graph)
    if not outputs:
        raise _MalformedError("its graph has no outputs")
    return OnnxHeader(inputs, outputs, metadata, first, opset, " ".join(p for p in producer if p))


def _graph(
    view: memoryview, start: int, end: int
) -> tuple[tuple[OnnxTensor, ...], tuple[OnnxTensor, ...], frozenset[str]]:
    inputs, outputs = [], []
    weights: set[str] = set()
    nodes: list[tuple[int, int]] = []
    for number, kind, a, b in _fields(view, start, end):
        if kind != 2:
            continue
        if number == 1 and len(nodes) < _FIRST_NODES:
            nodes.append((a, b))
        elif number == 5:
            weights.update(_text(view, c, d) for n, k, c, d in _fields(view, a, b) if n == 8 and k == 2)
        elif number == 11:
            inputs.append(_tensor(view, a, b))
        elif number == 12:
            outputs.append(_tensor(view, a, b))
    inputs = [t for t in inputs if t.name not in weights]
    names = {t.name for t in inputs}
    first: set[str] = set()
    for a, b in nodes:
        texts = [(n, _text(view, c, d)) for n, k, c, d in _fields(view, a, b) if k == 2 and n in {1, 4}]
        if any(n == 1 and text in names for n, text in texts):
            first.update(text for n, text in texts if n == 4)
    return tuple(inputs), tuple(outputs), frozenset(first)


def _tensor(view: memoryview, start: int, end: int) -> OnnxTensor:
    name, dtype = "", "unknown"
    shape: list[int | None] = []
    for number, kind, a, b in _fields(view, start, end):
        if number == 1 and kind == 2:
            name = _text(view, a, b)
        elif number == 2 and kind == 2:
            for n, k, c, d in _fields(view, a, b):
                if n == 1 and k == 2:
                    dtype, shape = _tensor_type(view, c, d)
    return OnnxTensor(name, tuple(shape), dtype)


def _tensor_type(view: memoryview, start: int, end: int) -> tuple[str, list[int | None]]:
    dtype = "unknown"
    shape: list[int | None] = []
    for number, kind, a, b in _fields(view, start, end):
        if number == 1 and kind == 0:
            dtype = _DTYPES.get(a, f"type {a}")
        elif number == 2 and kind == 2:
            for n, k, c, d in _fields(view, a, b):
                if n == 1 and k == 2:
                    sizes = [e for m, j, e, _ in _fields(view, c, d) if m == 1 and j == 0]
                    shape.append(sizes[-1] if sizes and sizes[-1] > 0 else None)
    return dtype, shape


def _locations(view: memoryview) -> frozenset[str]:
    found: set[str] = set()
    pending = [("model", 0, len(view))]
    while pending:
        message, start, end = pending.pop()
        if message == "node" and b"location" not in bytes(view[start:end]):
            continue  # so nearly all, and this is sooner known than their fields are read
        if message != "tensor":
            within = _LEADING_TO_TENSORS[message]
            pending += [(within[n], a, b) for n, k, a, b in _fields(view, start, end) if k == 2 and n in within]
            continue
        for number, kind, a, b in _fields(view, start, end):
            if number == 13 and kind == 2:
                entry = {n: _text(view, c, d) for n, k, c, d in _fields(view, a, b) if k == 2 and n in {1, 2}}
                if entry.get(1) == "location":
                    found.add(entry.get(2, ""))
    return frozenset(found)


def _text(view: memoryview, start: int, end: int) -> str:
    if end - start > _LONGEST_TEXT:
        raise _MalformedError("a name or property is absurdly long")
    return bytes(view[start:end]).decode("utf-8")


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) of a protobuf message; for a varint, start is its value."""
    at = start
    while at < end:
        key, at = _varint(view, at, end)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise _MalformedError("a field has number 0")
        if kind == 0:
            value, at = _varint(view, at, end)
            yield number, kind, value, at
            continue
        if kind == 2:
            length, at = _varint(view, at, end)
        elif kind in {1, 5}:
            length = 8 if kind == 1 else 4
        else:
            raise _MalformedError(f"unknown wire type {kind}")
        if not 0 <= length <= end - at:  # a length below zero would send this loop in circles
            raise _MalformedError(f"{length} bytes were announced where {end - at} are left")
        yield number, kind, at, at + length
        at += length


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            value &= 0xFFFFFFFFFFFFFFFF
            return value - (1 << 64) if value >> 63 else value, at
        shift += 7
    raise _MalformedError("a number has no end")
