"""ONNX Runtime's adapter: what was asked for runs, or an error says why; never silently something else."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer.backends import BackendConfig, load_backend
from rtmpose_infer.errors import BackendUnavailableError, DeviceUnavailableError, InputError, ModelError
from rtmpose_infer.model_spec import ModelFile, ModelSpec
from rtmpose_infer.onnx_file import read_onnx_header
from tests.tiny_onnx import light_detector, light_pose, write

pytest.importorskip("onnxruntime", reason="the cpu extra is not installed")


def model(data: bytes | Path | None = None) -> ModelFile:
    data = light_detector() if data is None else data
    spec = ModelSpec(task="detection", head="nms", input_size_wh=(64, 64))
    return ModelFile(data, spec, read_onnx_header(light_detector()), "model.onnx")


def bright_square() -> np.ndarray:
    picture = np.zeros((1, 3, 64, 64), np.float32)
    picture[:, :, 10:20, 30:50] = 255
    return picture


@pytest.mark.parametrize("from_file", [False, True])
def test_a_model_runs_from_its_bytes_and_from_its_file(tmp_path, from_file):
    data = write(tmp_path / "m.onnx", light_detector()) if from_file else light_detector()
    with load_backend(model(data), backend="ort") as backend:
        answers = backend.run({"input": bright_square()})
    np.testing.assert_allclose(answers["dets"], [[[30, 10, 50, 20, 0.9]]])
    assert answers["labels"].tolist() == [[0]]


def test_inputs_and_outputs_are_those_of_the_file():
    with load_backend(model(light_pose(batch=2)), backend="ort") as backend:
        assert [(t.name, t.shape, t.dtype) for t in backend.inputs] == [("input", (2, 3, 64, 48), np.float32)]
        assert [(t.name, t.shape) for t in backend.outputs] == [("simcc_x", (2, 17, 96)), ("simcc_y", (2, 17, 128))]
        assert backend.batch_sizes is None


def test_it_says_what_really_runs():
    import onnxruntime

    with load_backend(model(), backend="ort", config=BackendConfig(threads=1)) as backend:
        info = backend.describe()
    assert (info.runtime, info.version, info.device) == ("onnxruntime", onnxruntime.__version__, "cpu")
    assert (info.threads, info.precision) == (1, "fp32")
    assert "CPUExecutionProvider" in info.details["providers"]


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "dml"])
def test_a_device_that_is_not_there_is_an_error_that_says_what_is(device):
    import onnxruntime

    from rtmpose_infer.backends.onnxruntime import _provider

    if _provider(device)[0] in onnxruntime.get_available_providers():
        pytest.skip(f"this machine's build has {device}")
    with pytest.raises(DeviceUnavailableError, match="CPUExecutionProvider"):
        load_backend(model(), backend="ort", config=BackendConfig(device=device))


def test_falling_back_happens_only_when_allowed_and_is_logged(caplog):
    config = BackendConfig(device="dml", allow_fallback=True)
    with caplog.at_level(logging.WARNING), load_backend(model(), backend="ort", config=config) as backend:
        assert backend.describe().device == "cpu"
    assert "DmlExecutionProvider" in caplog.text


@pytest.mark.parametrize(
    "config",
    [
        BackendConfig(device="abacus"),
        BackendConfig(device="cpu:x"),
        BackendConfig(options={"fast": True}),
        BackendConfig(options={"graph_optimization_level": "most"}),
    ],
)
def test_unknown_devices_and_options_are_input_errors(config):
    with pytest.raises(InputError):
        load_backend(model(), backend="ort", config=config)


@pytest.mark.parametrize(
    "data",
    [b"", b"no model", light_detector()[:-200], light_detector()[:400]],
    ids=["empty", "text", "cut", "cut short"],
)
def test_a_file_that_the_runtime_refuses_is_a_model_error_with_the_name(data):
    with pytest.raises(ModelError, match=r"cannot load model\.onnx"):
        load_backend(model(data), backend="ort")


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=r"rtmpose-infer\[cpu\]"):
        load_backend(model(), backend="ort")


def test_several_threads_may_run_one_session():
    from concurrent.futures import ThreadPoolExecutor

    with (
        load_backend(model(), backend="ort", config=BackendConfig(threads=1)) as backend,
        ThreadPoolExecutor(4) as pool,
    ):

        def run(row: int) -> float:
            picture = np.zeros((1, 3, 64, 64), np.float32)
            picture[:, :, row, 5] = 255
            return float(backend.run({"input": picture})["dets"][0, 0, 1])

        assert list(pool.map(run, range(40))) == list(range(40))
