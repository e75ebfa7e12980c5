"""The smallest network that proves a device: one 3×3 convolution, written here byte by byte.

A convolution, because it is what needs cuDNN, a working compiler of kernels and the vector units; an answer that agrees
with numpy says more than a device that lets itself be listed. It is written without the onnx package, which users of
the package do not have. ONNX is protobuf: https://onnx.ai/onnx/repo-docs/IR.html has the messages, onnx.proto their
field numbers. The same network in ncnn's text form serves ncnn, which reads no ONNX.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rtmpose_infer.model_spec import ModelFile, ModelSpec
from rtmpose_infer.onnx_file import read_onnx_header

__all__ = ["INPUT_SHAPE", "expected_answer", "tiny_input", "tiny_model", "tiny_onnx"]

Floats = npt.NDArray[np.float32]

INPUT_SHAPE = (1, 3, 8, 8)
_FEATURES = 4
_IR_VERSION, _OPSET = 8, 13
_FLOAT, _INTS = 1, 7  # TensorProto.FLOAT, AttributeProto.INTS


def tiny_input() -> Floats:
    """Return the (1, 3, 8, 8) input, whole numbers from 0 to 255 as a picture has."""
    size = int(np.prod(INPUT_SHAPE))
    return (np.arange(size) * 37 % 256).astype(np.float32).reshape(INPUT_SHAPE)


def expected_answer() -> Floats:
    """Return the (1, 4, 8, 8) answer to ``tiny_input``, computed by numpy."""
    picture = np.pad(tiny_input()[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(picture, (3, 3), axis=(1, 2))
    answer: Floats = np.einsum("chwyx,fcyx->fhw", windows, _weights()).astype(np.float32)[None]
    return answer


def tiny_onnx() -> bytes:
    """Return the network as an ONNX file: input ``picture``, output ``features``."""
    weights = _weights()
    tensor = (
        b"".join(_varint_field(1, size) for size in weights.shape)
        + _varint_field(2, _FLOAT)
        + _field(8, b"weights")
        + _field(9, weights.tobytes())
    )
    pads = _field(1, b"pads") + b"".join(_varint_field(8, 1) for _ in range(4)) + _varint_field(20, _INTS)
    node = _field(1, b"picture") + _field(1, b"weights") + _field(2, b"features") + _field(4, b"Conv") + _field(5, pads)
    graph = (
        _field(1, node)
        + _field(2, b"tiny")
        + _field(5, tensor)
        + _field(11, _value(b"picture", INPUT_SHAPE))
        + _field(12, _value(b"features", (1, _FEATURES, *INPUT_SHAPE[2:])))
    )
    opset = _field(1, b"") + _varint_field(2, _OPSET)
    return _varint_field(1, _IR_VERSION) + _field(2, b"rtmpose_infer") + _field(7, graph) + _field(8, opset)


def tiny_model(folder: Path) -> ModelFile:
    """Write the network into a folder, as ONNX and beside it in ncnn's form, and return it as backends take it.

    Its spec asks for no preparation of its input.
    """
    weights, data = _weights(), tiny_onnx()
    path = folder / "tiny.onnx"
    path.write_bytes(data)
    path.with_suffix(".param").write_text(
        "7767517\n2 2\n"
        "Input       in0   0 1 in0\n"
        # kernel size 3, padding 1, no bias: https://github.com/Tencent/ncnn/wiki/operators#convolution
        f"Convolution conv  1 1 in0 out0 0={_FEATURES} 1=3 4=1 5=0 6={weights.size}\n",
        encoding="ascii",
    )
    # four zero bytes say that the weights follow as float32
    path.with_suffix(".bin").write_bytes(bytes(4) + weights.tobytes())
    spec = ModelSpec(
        task="detection",
        head="rtmdet",
        input_size_wh=(INPUT_SHAPE[3], INPUT_SHAPE[2]),
        source_sha256=hashlib.sha256(data).hexdigest(),
    )
    path.with_suffix(".json").write_text(spec.to_json(), encoding="utf-8")
    return ModelFile(path, spec, read_onnx_header(data), "the test network")


def _weights() -> Floats:
    """Return (4, 3, 3, 3) weights that half precision holds exactly."""
    shape = (_FEATURES, 3, 3, 3)
    return ((np.arange(int(np.prod(shape))) * 5 % 17 - 8) / 64).astype(np.float32).reshape(shape)


def _value(name: bytes, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(_field(1, _varint_field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _varint_field(1, _FLOAT) + _field(2, dimensions)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    head = bytearray()
    while value > 0x7F:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])
