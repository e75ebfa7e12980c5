"""OpenVINO's adapter: devices, hints, prepared batch sizes, requests shared by threads, and the cache."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="the openvino extra is not installed")

from rtmpose_infer import zoo
from rtmpose_infer.backends import BackendConfig, load_backend
from rtmpose_infer.backends import openvino as adapter
from rtmpose_infer.errors import (
    BackendError,
    ClosedError,
    DeviceUnavailableError,
    InferenceError,
    InputError,
    ModelError,
)
from rtmpose_infer.model_spec import ModelFile, load_model_file
from rtmpose_infer.pose_tracker import DEFAULT_DETECTOR, DEFAULT_POSE
from tests.contract import models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return models.deploy_pose(tmp_path_factory.mktemp("openvino") / "tiny.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(model: ModelFile, folder: Path, **settings: object):
    return load_backend(model, backend="openvino", config=BackendConfig(cache_dir=folder, **settings))


def check(backend, count: int, *, seed: int = 0) -> None:
    pictures = models.pictures(count, seed=seed)
    answer, expected = backend.run({"frames_u8": pictures}), models.deploy_answer(pictures)
    for name, value in expected.items():
        np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", ["cpu", "auto:cpu", "multi:cpu", "hetero:cpu"])
def test_runs_on_the_cpu_directly_and_through_each_plugin(model: ModelFile, folder: Path, device: str) -> None:
    with load(model, folder, device=device) as backend:
        check(backend, 3)
        assert backend.describe().device == "CPU"


def test_computes_in_float32_unless_told_otherwise(model: ModelFile, folder: Path) -> None:
    with load(model, folder) as backend:
        assert backend.describe().precision == "fp32"
    for device, asked in (("gpu", "f32"), ("gpu.1", "f32"), ("cpu", "f32")):
        settings = adapter._Settings.read(BackendConfig(device=device))
        assert settings.properties["INFERENCE_PRECISION_HINT"] == asked
    assert "INFERENCE_PRECISION_HINT" not in adapter._Settings.read(BackendConfig(device="npu")).properties
    several = adapter._Settings.read(BackendConfig(device="auto:gpu,npu,cpu", options={"precision": "f16"}))
    assert several.properties["DEVICE_PROPERTIES"] == {
        "GPU": {"INFERENCE_PRECISION_HINT": "f16"},
        "NPU": {},
        "CPU": {"ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f16"},
    }


def test_threads_are_free_to_leave_a_busy_core_unless_told_otherwise(model: ModelFile, folder: Path) -> None:
    with load(model, folder, threads=1) as backend:
        assert adapter._property(backend._pools[None]._compiled, "ENABLE_CPU_PINNING") is False
    pinned = BackendConfig(options={"properties": {"ENABLE_CPU_PINNING": True}})
    assert adapter._Settings.read(pinned).properties["ENABLE_CPU_PINNING"] is True


def is_marked(operation) -> bool:
    """Whether OpenVINO was asked to compute an operation exactly; the mark's name depends on its version."""
    return any(name.startswith(("precise", "DisablePrecisionConversion")) for name in operation.get_rt_info())


def test_low_precision_ends_with_the_last_convolution(folder: Path) -> None:
    model = load_model_file(zoo.resolve(DEFAULT_POSE), task="pose")
    config = BackendConfig(cache_dir=folder, options={"precision": "bf16"})
    networks = adapter._Networks(adapter._core(), model, adapter._Settings.read(config), config)
    operations = {operation.get_friendly_name(): operation for operation in networks._prepared(None).get_ordered_ops()}
    marked = {name for name, operation in operations.items() if is_marked(operation)}
    assert {"simcc_x", "head/gau/uv/MatMul", "keypoints", "scores"} <= marked
    assert not any(name.startswith("backbone") for name in marked)
    exact = dataclasses.replace(config, options={})
    plain = adapter._Networks(adapter._core(), model, adapter._Settings.read(exact), exact)._prepared(None)
    assert not any(is_marked(operation) for operation in plain.get_ordered_ops())


@pytest.mark.parametrize("place", ["missing", "full"])
def test_without_a_temporary_folder_low_precision_says_so(
    model: ModelFile, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    ov = adapter.import_openvino()
    if place == "missing":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not" / "there"))
    else:
        monkeypatch.setattr(
            ov, "serialize", lambda _, xml, weights: [Path(f).write_bytes(b"<net") for f in (xml, weights)]
        )
    with pytest.raises(BackendError, match="TMPDIR") as caught:
        load(model, folder, options={"precision": "bf16"})
    assert caught.value.__cause__ is not None
    with load(model, folder) as backend:
        check(backend, 1)


def arg_max(shape: list[int | None], axis: int):
    """A network of one arg-max over some axis, as OpenVINO reads one from ONNX."""
    ov = adapter.import_openvino()
    opset = ov.opset13 if hasattr(ov, "opset13") else ov.runtime.opset13
    scores = opset.parameter([-1 if side is None else side for side in shape], np.float32)
    best = opset.topk(scores, np.int64(1), axis, "max", "value", "i64", stable=True)
    return ov.Model([best.output(1)], [scores], "arg-max")


@pytest.mark.parametrize(("axis", "shape"), [(2, (3, 4, 9)), (-1, (3, 4, 9)), (1, (3, 4, 9)), (1, (2, 700))])
def test_an_arg_max_found_in_a_quicker_way_is_the_same(axis: int, shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(0).integers(-3, 3, shape).astype(np.float32)  # so that many maxima come twice
    scores[0] = -1e30
    network = arg_max([None, *shape[1:]], axis)
    adapter._quicken_arg_max(network)
    assert "TopK" not in {operation.get_type_name() for operation in network.get_ordered_ops()}
    (places,) = adapter._core().compile_model(network, "CPU")(scores).values()
    np.testing.assert_array_equal(places, scores.argmax(axis=axis, keepdims=True))


def test_an_arg_max_of_unknown_length_and_a_top_k_stay_as_they_are(model: ModelFile, folder: Path) -> None:
    network = arg_max([2, None], 1)
    adapter._quicken_arg_max(network)
    assert "TopK" in {operation.get_type_name() for operation in network.get_ordered_ops()}
    detector = load_model_file(zoo.resolve(DEFAULT_DETECTOR), task="detection")
    config = BackendConfig(cache_dir=folder)
    networks = adapter._Networks(adapter._core(), detector, adapter._Settings.read(config), config)
    assert "TopK" in {operation.get_type_name() for operation in networks._prepared(None).get_ordered_ops()}


def test_a_detector_on_the_cpu_is_compiled_for_one_picture(folder: Path) -> None:
    detector = load_model_file(zoo.resolve(DEFAULT_DETECTOR), task="detection")
    pictures = np.random.default_rng(0).integers(0, 255, (3, 320, 416, 3), np.uint8)
    with load(detector, folder) as backend, load(detector, folder, options={"streams": 2}) as dynamic:
        assert (backend.batch_sizes, dynamic.batch_sizes) == ((1,), None)
        answers, expected = backend.run({"frames_u8": pictures}), dynamic.run({"frames_u8": pictures})
    for name, value in expected.items():
        np.testing.assert_allclose(answers[name], value, atol=1e-2)


def test_the_embedded_detectors_convolutions_are_fused_with_what_follows(folder: Path) -> None:
    detector = load_model_file(zoo.resolve(DEFAULT_DETECTOR), task="detection")
    config = BackendConfig(cache_dir=folder)
    networks = adapter._Networks(adapter._core(), detector, adapter._Settings.read(config), config)
    running = networks._one(None).get_runtime_model()
    layers = {operation: operation.get_rt_info()["layerType"].astype(str) for operation in running.get_ordered_ops()}
    readers = [
        [layers[target.get_node()] for target in operation.output(0).get_target_inputs()]
        for operation, layer in layers.items()
        if layer == "Convolution"
    ]
    assert len(readers) > 50
    assert not any("ShapeOf" in kinds for kinds in readers)


def test_precision_auto_is_bf16_for_pose_networks_where_the_processor_has_it(model: ModelFile, folder: Path) -> None:
    native = "BF16" in adapter._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with load(model, folder, options={"precision": "auto"}) as backend:
        assert backend.describe().precision == ("bf16" if native else "fp32")
    quantised = dataclasses.replace(model, spec=dataclasses.replace(model.spec, precision="int8"))
    for other, device in ((quantised, "cpu"), (models.deploy_pose(folder / "other.onnx"), "gpu")):
        assert not adapter._gains_by_bf16(adapter._core(), other, device)
    detector = load_model_file(zoo.resolve(DEFAULT_DETECTOR), task="detection")
    with load(detector, folder, options={"precision": "AUTO"}) as backend:
        assert backend.describe().precision == "fp32"


@pytest.mark.parametrize(
    ("device", "target", "devices"),
    [
        ("auto", "CPU", ("CPU",)),
        ("cpu", "CPU", ("CPU",)),
        ("GPU", "GPU", ("GPU",)),
        ("gpu:1", "GPU.1", ("GPU.1",)),
        ("gpu.1", "GPU.1", ("GPU.1",)),
        ("npu", "NPU", ("NPU",)),
        ("auto:gpu,cpu", "AUTO:GPU,CPU", ("GPU", "CPU")),
        ("multi:gpu.0, cpu", "MULTI:GPU.0,CPU", ("GPU.0", "CPU")),
    ],
)
def test_devices_are_named_as_openvino_names_them(device: str, target: str, devices: tuple[str, ...]) -> None:
    settings = adapter._Settings.read(BackendConfig(device=device))
    assert (settings.target, settings.devices) == (target, devices)


@pytest.mark.parametrize("device", ["cuda", "multi", "hetero:", "auto:tpu", "cpu,gpu", "gpu.x", ""])
def test_other_device_names_are_refused(device: str) -> None:
    with pytest.raises(InputError, match="unknown device"):
        adapter._Settings.read(BackendConfig(device=device))


@pytest.mark.parametrize(
    "options",
    [
        {"performance_hint": "fast"},
        {"precision": "int3"},
        {"streams": 0},
        {"streams": "two"},
        {"stream": 2},
        {"properties": "x"},
        {"properties": None},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        adapter._Settings.read(BackendConfig(options=options))


class FakeCore:
    def __init__(self, *devices: str) -> None:
        self.available_devices = list(devices)


@pytest.mark.parametrize(
    ("present", "asked", "missing"),
    [
        (("CPU", "GPU"), ("GPU",), []),
        (("CPU", "GPU"), ("GPU.0", "CPU"), []),
        (("CPU", "GPU"), ("GPU.1",), ["GPU.1"]),
        (("CPU", "GPU.0", "GPU.1"), ("GPU",), []),
        (("CPU", "GPU.0", "GPU.1"), ("GPU.1",), []),
        (("CPU",), ("GPU", "NPU"), ["GPU", "NPU"]),
    ],
)
def test_finds_out_which_devices_are_missing(present: tuple, asked: tuple, missing: list) -> None:
    assert adapter._missing(FakeCore(*present), asked) == missing


def test_a_missing_device_among_several_is_no_silent_fallback(model: ModelFile, folder: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match=r"no GPU\.7 here"):
        load(model, folder, device="auto:gpu.7,cpu")


def test_throughput_splits_a_batch_between_requests(model: ModelFile, folder: Path) -> None:
    options = {"performance_hint": "throughput", "streams": 2}
    with load(model, folder, threads=2, options=options) as backend:
        assert int(backend.describe().details["requests"]) >= 2
        for count in (1, 2, 5, 33):
            check(backend, count, seed=count)


def test_more_threads_than_requests_take_turns(model: ModelFile, folder: Path) -> None:
    with load(model, folder, options={"streams": 2}) as backend, ThreadPoolExecutor(6) as threads:
        assert all(
            f.exception() is None for f in [threads.submit(check, backend, 1 + i % 4, seed=i) for i in range(60)]
        )


def test_closing_in_the_middle_of_many_pictures_lets_them_finish(
    model: ModelFile, folder: Path, static_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_whole = adapter.OpenVinoBackend._run_whole

    def close_meanwhile(self: adapter.OpenVinoBackend, *args: object) -> object:
        answer = run_whole(self, *args)
        self.close()
        return answer

    backend = load(model, folder, batch_sizes=(1, 2))
    monkeypatch.setattr(adapter.OpenVinoBackend, "_run_whole", close_meanwhile)
    check(backend, 5)
    with pytest.raises(ClosedError):
        check(backend, 1)


class Refusing:
    """An infer request that fails when it is told to, as it does when its device is lost."""

    def __init__(self, request: object, failing: threading.Event) -> None:
        self._request, self._failing = request, failing

    def __getattr__(self, name: str) -> object:
        if name in {"infer", "start_async"} and self._failing.is_set():
            raise RuntimeError("device lost")
        return getattr(self._request, name)


@pytest.mark.parametrize("options", [{}, {"performance_hint": "throughput", "streams": 2}], ids=["one", "split"])
def test_a_lost_device_is_an_inference_error_and_the_next_call_works(
    model: ModelFile, folder: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()
    ready = adapter._RequestPool._ready

    def refusing(self: adapter._RequestPool, request: object) -> object:
        return Refusing(ready(self, request), failing)

    with load(model, folder, threads=2, options=options) as backend:
        monkeypatch.setattr(adapter._RequestPool, "_ready", refusing)
        check(backend, 4)
        failing.set()
        for _ in range(5):  # no request gets lost, or the last of these would wait for ever
            with pytest.raises(InferenceError, match="device lost"):
                backend.run({"frames_u8": models.pictures(4)})
        failing.clear()
        check(backend, 4)


class Full:
    """A compiled network for two infer requests, which has no memory for them at some of the times it is asked."""

    def __init__(self, *failing: int) -> None:
        self._failing = set(failing)
        self._asked = 0

    def get_property(self, _: str) -> int:
        return 2

    def create_infer_request(self) -> int:
        self._asked += 1
        if self._asked in self._failing:
            raise RuntimeError("out of memory")
        return self._asked


def test_a_request_that_could_not_be_made_is_made_by_a_later_call() -> None:
    pool = adapter._RequestPool(Full(1, 2, 3, 5))
    for _ in range(3):
        with pytest.raises(RuntimeError, match="out of memory"):
            pool.take()
    first = pool.take_several(2)
    assert first == [4]
    assert pool.take_several(2) == [6]
    pool.give(first[0])
    assert pool.take() == 4


@pytest.fixture
def static_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats the CPU as a device that wants fixed shapes, as GPUs and NPUs do."""
    monkeypatch.setattr(adapter, "_STATIC", ("CPU",))


def test_devices_that_want_fixed_shapes_get_a_network_for_each_batch_size(
    model: ModelFile, folder: Path, static_cpu: None
) -> None:
    with load(model, folder, batch_sizes=(1, 2, 4)) as backend:
        assert backend.batch_sizes == (1, 2, 4)
        assert backend.inputs[0].shape == (None, models.HEIGHT, models.WIDTH, 3)
        assert backend.outputs[0].shape == (None, models.KEYPOINTS, 2)
        for count in (1, 2, 3, 4, 9):
            check(backend, count, seed=count)
    with load(model, folder, batch_sizes=(1, 2, 4)) as backend:
        assert backend.describe().details["compiled"] == "from the cache"
        check(backend, 3)


def test_a_fixed_batch_stays_as_it_is_on_such_devices(tmp_path: Path, folder: Path, static_cpu: None) -> None:
    with load(models.deploy_pose(tmp_path / "two.onnx", batch=2), folder) as backend:
        assert backend.batch_sizes is None
        assert backend.inputs[0].shape[0] == 2
        check(backend, 2)


def test_ir_files_are_read_with_the_spec_beside_them(model: ModelFile, tmp_path: Path, folder: Path) -> None:
    ov = adapter.import_openvino()
    ov.save_model(ov.Core().read_model(str(model.data)), tmp_path / "tiny.xml", compress_to_fp16=False)
    (tmp_path / "tiny.json").write_text(model.spec.to_json(), encoding="utf-8")
    for _ in range(2):
        with load(load_model_file(tmp_path / "tiny.xml", task="pose"), folder) as backend:
            check(backend, 2)
    assert len(list(folder.rglob("*.blob"))) == 1


# ------------------------------------------------------------------------------------------------------------ cache


def compiled(backend) -> str:
    return backend.describe().details["compiled"]


def test_a_second_start_finds_the_compiled_network(model: ModelFile, folder: Path) -> None:
    with load(model, folder) as backend:
        assert compiled(backend) == "now"
    with load(model, folder) as backend:
        assert compiled(backend) == "from the cache"
        check(backend, 1)
        check(backend, 5)
        assert [(t.name, t.shape) for t in backend.outputs] == [("keypoints", (None, 5, 2)), ("scores", (None, 5))]
    with load(dataclasses.replace(model, data=Path(model.data).read_bytes()), folder) as backend:
        assert compiled(backend) == "from the cache"  # the content counts, not the place


def test_other_settings_and_other_models_are_other_entries(model: ModelFile, tmp_path: Path, folder: Path) -> None:
    load(model, folder).close()
    for settings in ({"threads": 1}, {"options": {"performance_hint": "throughput"}}):
        with load(model, folder, **settings) as backend:
            assert compiled(backend) == "now"
    with load(models.deploy_pose(tmp_path / "two.onnx", batch=2), folder) as backend:
        assert compiled(backend) == "now"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_entry_is_built_again(
    model: ModelFile, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    load(model, folder).close()
    (entry,) = folder.rglob("*.blob")
    content = bytearray(entry.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    entry.write_bytes({"cut": content[:-100], "flipped": content, "empty": b"", "foreign": b"x" * 5000}[damage])
    with caplog.at_level(logging.WARNING), load(model, folder) as backend:
        assert compiled(backend) == "now"
        check(backend, 2)
    assert "built again" in caplog.text
    with load(model, folder) as backend:
        assert compiled(backend) == "from the cache"


def test_an_entry_that_openvino_refuses_is_built_again(
    model: ModelFile, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load(model, folder).close()
    monkeypatch.setattr(adapter.EngineCache, "load", lambda *_, **__: b"of another machine")
    with caplog.at_level(logging.WARNING), load(model, folder) as backend:
        assert compiled(backend) == "now"
        check(backend, 1)
    assert "refused" in caplog.text


class SameOld:
    """OpenVINO's core, of a release that does not take back what it exported."""

    def __getattr__(self, name: str) -> object:
        return getattr(adapter._core(), name)

    def import_model(self, *_: object) -> object:
        raise RuntimeError("Cannot create NonMaxSuppression layer from unsupported opset")


def test_what_cannot_be_imported_again_is_not_kept(
    model: ModelFile, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter, "_release", lambda _: (2024, 4))
    config = BackendConfig(cache_dir=folder)
    networks = adapter._Networks(SameOld(), model, adapter._Settings.read(config), config)
    with caplog.at_level(logging.DEBUG):
        networks.compiled()
    assert not list(folder.rglob("*.blob"))
    assert "refuses its own export" in caplog.text
    assert all(record.levelno < logging.WARNING for record in caplog.records)
    with load(model, folder) as backend:
        assert compiled(backend) == "now"
    with load(model, folder) as backend:  # what this release does take back is
        assert compiled(backend) == "from the cache"


def test_a_second_start_of_a_detector_warns_of_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = load_model_file(zoo.resolve(DEFAULT_DETECTOR), task="detection")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load(detector, folder).close()
    assert not caplog.records


def test_without_a_cache_nothing_is_written(model: ModelFile, folder: Path) -> None:
    with load(model, folder, options={"cache": False}) as backend:
        check(backend, 1)
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_is_only_slow(
    model: ModelFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    with caplog.at_level(logging.WARNING), load(model, in_the_way) as backend:
        check(backend, 1)
    assert "cannot be written" in caplog.text


def test_a_plugin_without_export_keeps_its_own_cache(model: ModelFile, folder: Path) -> None:
    with load(model, folder, device="auto:cpu") as backend:
        check(backend, 1)
    assert list((folder / "openvino").iterdir())


# --------------------------------------------------------------------------------------------------------- messages


def test_errors_leave_out_the_places_in_openvinos_source(tmp_path: Path, folder: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07")
    with pytest.raises(ModelError) as caught:
        load(ModelFile(broken, models.DEPLOY_SPEC, None, "broken.onnx"), folder)
    assert "broken.onnx" in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_importing_openvino_here_reports_to_nobody(tmp_path: Path) -> None:
    """Imported as usual, it writes an id for its reports into the home folder."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from rtmpose_infer.backends.openvino import import_openvino; "
        "import_openvino(); assert import_openvino() is sys.modules['openvino']; "
        "assert not [m for m in sys.modules if m.startswith('openvino_telemetry')]; import openvino_telemetry"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    environment.pop("CI", None)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    assert not list(tmp_path.iterdir())


HALF_IMPORTED = """
import threading
from rtmpose_infer.backends import openvino as adapter
seen = []
other = threading.Thread(target=lambda: seen.append(hasattr(adapter.import_openvino(), "Core")))
other.start()
other.join(0.2)
class Core: ...
filled = []
class Type:
    def __init__(self, kind): ...
    def to_dtype(self): filled.append(adapter._import_lock.locked())
"""


@pytest.mark.parametrize("first", ["import openvino", "adapter.import_openvino()"], ids=["elsewhere", "here"])
def test_a_thread_that_comes_while_openvino_is_imported_waits_for_all_of_it(tmp_path: Path, first: str) -> None:
    """A stand-in for OpenVINO has itself imported by another thread while it is half imported.

    Its tables of types, which two threads must not fill at once, are filled before anybody has it.
    """
    (tmp_path / "openvino.py").write_text(HALF_IMPORTED, encoding="utf-8")
    code = (
        f"import sys; sys.path[:] = {[str(tmp_path), *sys.path]!r}; "
        f"from rtmpose_infer.backends import openvino as adapter; {first}; "
        "ov = sys.modules['openvino']; ov.other.join(); assert ov.seen == [True], ov.seen; "
        "assert ov.filled and all(ov.filled), ov.filled"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
