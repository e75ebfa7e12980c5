"""Choosing a backend: names, files, and the order of ``auto``."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer import backends
from rtmpose_infer.backends import BackendConfig, CallableBackend, TensorSpec, canonical_name, load_backend, own_form
from rtmpose_infer.cache import sha256_of
from rtmpose_infer.errors import (
    BackendUnavailableError,
    DeviceUnavailableError,
    InputError,
    ModelError,
)
from rtmpose_infer.model_spec import ModelFile, load_model_file
from tests.contract.models import RAW_SPEC

ONNX = ModelFile(Path("model.onnx"), RAW_SPEC, None, "model.onnx")


class Landscape:
    """Which runtimes are installed, and which devices they have; loading answers accordingly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installed = {"onnxruntime": {"cpu"}, "openvino": {"cpu"}, "tensorrt": {"gpu"}, "ncnn": {"cpu"}}
        self.failures: dict[str, Exception] = {}
        self.asked: list[tuple[str, str]] = []
        self.options: dict[str, object] = {}
        monkeypatch.setattr(backends, "_load", self._load)
        monkeypatch.setattr(backends, "_suits_openvino", lambda: self.suits_openvino)
        monkeypatch.setattr(backends, "is_installed", lambda name: name in self.installed)
        self.suits_openvino = False

    def _load(self, name: str, model: ModelFile, config: BackendConfig) -> CallableBackend:
        self.asked.append((name, config.device))
        self.options = dict(config.options)
        if name in self.failures:
            raise self.failures[name]
        if config.device not in self.installed[name]:
            raise DeviceUnavailableError(f"{name} has no {config.device} here")
        spec = TensorSpec("x", (None,), np.dtype(np.float32))
        return CallableBackend(lambda feeds: feeds, [spec], [spec], name=f"{name} on {config.device}")

    def chosen(self, **settings: object) -> str:
        return load_backend(ONNX, config=BackendConfig(**settings)).describe().runtime


@pytest.fixture
def landscape(monkeypatch: pytest.MonkeyPatch) -> Landscape:
    return Landscape(monkeypatch)


def test_names_have_short_forms() -> None:
    assert [canonical_name(n) for n in ("ort", "OV", "trt", "ncnn", "auto")] == [
        "onnxruntime",
        "openvino",
        "tensorrt",
        "ncnn",
        "auto",
    ]
    with pytest.raises(InputError, match="known are auto, onnxruntime"):
        canonical_name("caffe")


def test_auto_prefers_tensorrt_then_a_gpu_of_onnxruntime_then_the_cpu(landscape: Landscape) -> None:
    assert landscape.chosen() == "tensorrt on gpu"
    del landscape.installed["tensorrt"]
    landscape.installed["onnxruntime"] = {"gpu", "cpu"}
    assert landscape.chosen() == "onnxruntime on gpu"
    landscape.installed["onnxruntime"] = {"cpu"}
    assert landscape.chosen() == "onnxruntime on cpu"
    landscape.suits_openvino = True
    assert landscape.chosen() == "openvino on cpu"
    del landscape.installed["openvino"]
    assert landscape.chosen() == "onnxruntime on cpu"


def test_auto_lets_openvino_choose_the_precision_unless_one_is_named(landscape: Landscape) -> None:
    landscape.suits_openvino = True
    landscape.chosen(device="cpu")
    assert landscape.options == {"precision": "auto"}
    landscape.chosen(device="cpu", options={"precision": "f32", "streams": 2})
    assert landscape.options == {"precision": "f32", "streams": 2}
    del landscape.installed["openvino"]
    landscape.chosen(device="cpu")
    assert landscape.options == {}


@pytest.mark.parametrize(
    ("cpuinfo", "suits"),
    [
        ("vendor_id\t: GenuineIntel\nflags\t: fpu sse2 avx2\n", True),
        ("vendor_id\t: AuthenticAMD\nflags\t: fpu avx512f avx512_bf16\n", True),
        ("vendor_id\t: AuthenticAMD\nflags\t: fpu avx2\n", False),
    ],
)
def test_openvino_comes_first_on_intel_and_where_the_processor_has_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, suits: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(backends, "_CPUINFO", tmp_path / "cpuinfo")
    assert backends._suits_openvino() == suits


def test_auto_with_a_device_asks_every_runtime_for_that_device(landscape: Landscape) -> None:
    assert landscape.chosen(device="cpu") == "onnxruntime on cpu"
    assert "tensorrt" not in dict(landscape.asked)
    landscape.installed["openvino"] = {"cpu", "npu"}
    assert landscape.chosen(device="npu") == "openvino on npu"


def test_auto_says_what_it_chose_and_why(landscape: Landscape, caplog: pytest.LogCaptureFixture) -> None:
    del landscape.installed["tensorrt"]
    with caplog.at_level(logging.INFO, logger="rtmpose_infer.backends"):
        landscape.chosen()
    assert "onnxruntime on cpu" in caplog.text
    assert "tensorrt: not installed" in caplog.text
    assert "onnxruntime on gpu: onnxruntime has no gpu here" in caplog.text


def test_auto_passes_over_a_runtime_that_refuses_the_model(landscape: Landscape) -> None:
    landscape.failures = {name: ModelError("no such operator") for name in ("tensorrt", "onnxruntime")}
    assert landscape.chosen() == "openvino on cpu"


def test_auto_without_the_device_is_an_error_unless_fallback_is_allowed(
    landscape: Landscape, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DeviceUnavailableError, match="openvino has no npu here"):
        landscape.chosen(device="npu")
    with caplog.at_level(logging.WARNING, logger="rtmpose_infer.backends"):
        assert landscape.chosen(device="npu", allow_fallback=True) == "onnxruntime on cpu"
    assert "Going on with the CPU" in caplog.text


def test_auto_reports_a_broken_model_and_not_the_absent_devices(landscape: Landscape) -> None:
    landscape.failures = {name: ModelError("truncated") for name in ("onnxruntime", "openvino")}
    del landscape.installed["tensorrt"]
    with pytest.raises(ModelError, match="truncated"):
        landscape.chosen()


def test_auto_with_nothing_installed_names_the_extras(landscape: Landscape) -> None:
    landscape.installed.clear()
    with pytest.raises(BackendUnavailableError, match=r"pip install 'rtmpose-infer\[cpu\]', or \[openvino\]"):
        landscape.chosen()


@pytest.mark.parametrize(("ending", "expected"), [(".xml", "openvino on cpu"), (".param", "ncnn on cpu")])
def test_auto_takes_the_runtime_that_reads_the_file(landscape: Landscape, ending: str, expected: str) -> None:
    model = ModelFile(Path("model" + ending), RAW_SPEC, None, "model")
    assert load_backend(model).describe().runtime == expected
    assert {name for name, _ in landscape.asked} == {expected.split(maxsplit=1)[0]}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_named_runtime_refuses_a_file_it_does_not_read(name: str) -> None:
    model = ModelFile(Path("model.param"), RAW_SPEC, None, "model.param")
    with pytest.raises(ModelError, match="backend='ncnn'"):
        load_backend(model, backend=name)


def test_ncnn_says_of_what_networks_its_files_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "is_installed", lambda name: True)
    with pytest.raises(
        ModelError, match=r"rtmpose export .* makes one of SimCC pose networks and RTMDet, or use it with"
    ):
        load_backend(ONNX, backend="ncnn")


@pytest.mark.parametrize(
    ("name", "package", "ending", "extra"),
    [
        ("onnxruntime", "onnxruntime", ".onnx", "cpu"),
        ("openvino", "openvino", ".onnx", "openvino"),
        ("ncnn", "ncnn", ".param", "ncnn"),
        ("tensorrt", "tensorrt", ".onnx", "tensorrt"),
    ],
)
def test_a_missing_runtime_names_its_extra_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, ending: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    model = ModelFile(Path("model" + ending), RAW_SPEC, None, "model" + ending)
    with pytest.raises(BackendUnavailableError, match=rf"rtmpose-infer\[{extra}\]") as caught:
        load_backend(model, backend=name)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_a_folder_that_only_bears_a_runtimes_name_is_no_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"rtmpose-infer\[cpu\]"):
        load_backend(ONNX, backend="onnxruntime")


def test_a_missing_runtime_names_its_extra_before_it_complains_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'rtmpose-infer\[ncnn\]'.*model\.onnx is none"):
        load_backend(ONNX, backend="ncnn")


class TestOwnForm:
    """ncnn reads no ONNX; what was converted for it lies beside the ONNX file."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> ModelFile:
        path = tmp_path / "pose.onnx"
        path.write_bytes(b"a network")
        return ModelFile(path, RAW_SPEC, None, str(path))

    def convert(self, model: ModelFile, source: str) -> Path:
        assert isinstance(model.data, Path)
        param = model.data.with_suffix(".param")
        param.write_text("7767517", encoding="utf-8")
        spec = dataclasses.replace(RAW_SPEC, source_sha256=source)
        param.with_suffix(".json").write_text(spec.to_json(), encoding="utf-8")
        return param

    def test_ncnn_takes_the_conversion_and_the_others_the_model(self, model: ModelFile) -> None:
        assert own_form(model, "ncnn") is model
        param = self.convert(model, sha256_of(model.data))
        assert own_form(model, "ncnn", padding=1.5).data == param
        assert own_form(model, "ncnn", padding=1.5).spec.padding == 1.5
        for backend in ("onnxruntime", "openvino", "tensorrt"):
            assert own_form(model, backend) is model
        given = load_model_file(param, task="pose")
        assert own_form(given, "ncnn") is given

    def test_auto_takes_it_where_nothing_else_can_run(self, model: ModelFile, landscape: Landscape) -> None:
        param = self.convert(model, sha256_of(model.data))
        assert own_form(model, "auto") is model
        landscape.installed = {"ncnn": {"cpu"}}
        assert own_form(model, "auto").data == param

    def test_both_may_be_made_from_one_checkpoint(self, model: ModelFile) -> None:
        param = self.convert(model, "5" * 64)
        model = dataclasses.replace(model, spec=dataclasses.replace(RAW_SPEC, source_sha256="5" * 64))
        assert own_form(model, "ncnn").data == param

    @pytest.mark.parametrize("source", ["", "5" * 64])
    def test_a_conversion_of_another_model_is_refused(self, model: ModelFile, source: str) -> None:
        param = self.convert(model, source)
        with pytest.raises(ModelError, match=rf"not made from the pose.onnx.*rtmpose export .*{param.name}"):
            own_form(model, "ncnn")
