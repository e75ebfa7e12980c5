"""The TensorRT adapter, on a fake that is as strict as TensorRT and computes with ONNX Runtime."""

from __future__ import annotations

import enum
import gc
import importlib.util
import inspect
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from rtmpose_infer import PoseTracker
from rtmpose_infer.backends import tensorrt as adapter
from rtmpose_infer.backends.base import BackendConfig
from rtmpose_infer.backends.cuda_memory import open_cuda
from rtmpose_infer.errors import (
    BackendUnavailableError,
    ClosedError,
    DeviceUnavailableError,
    EngineBuildError,
    InferenceError,
    InputError,
    ModelError,
    ShapeError,
)
from rtmpose_infer.model_spec import ModelFile, load_model_file
from tests import fake_tensorrt
from tests.fake_cuda import Context, FakeGpu, FaultError, cuda_python, modules
from tests.tiny_onnx import light_at, light_detector, light_pose, write

VERSIONS = ("10.16.1.11", "11.4.0.106")
LIBRARIES = ("cuda-python", "pycuda")
API = Path(__file__).parents[1] / "golden" / "tensorrt_api.txt"


class Rig:
    """A machine with a GPU, TensorRT and one of the CUDA libraries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self.folder = folder
        self.gpu = FakeGpu()
        self.trt = ModuleType("none")
        self.install()

    def install(self, version: str = VERSIONS[1], library: str = LIBRARIES[0], gpu: FakeGpu | None = None) -> None:
        self.gpu = gpu or self.gpu
        self.trt = fake_tensorrt.fake_tensorrt(version, self.gpu)
        self._monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        for name, module in modules(self.gpu, library).items():
            self._monkeypatch.setitem(sys.modules, name, module)

    @property
    def builds(self) -> int:
        return self.trt.machine.builds

    def model(self, content: bytes | None = None, **known: Any) -> ModelFile:
        content = content or light_pose(decoded=True)
        path = write(self.folder / "model.onnx", content)
        return load_model_file(path, task=known.pop("task", "pose"), **known)

    def load(self, content: bytes | None = None, *, task: str = "pose", **config: Any) -> adapter.TensorRtBackend:
        config = {"batch_sizes": (1, 2, 4), "cache_dir": self.folder / "cache"} | config
        return adapter.load(self.model(content, task=task), BackendConfig(**config))


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rig:
    return Rig(monkeypatch, tmp_path)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 48, 3), np.uint8)


def expected(content: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_computes(backend: adapter.TensorRtBackend, content: bytes, count: int, seed: int = 0) -> None:
    feeds = {"frames_u8": pictures(count, seed)}
    answers, wanted = backend.run(feeds), expected(content, feeds)
    assert answers.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(answers[name], value)
        assert answers[name].dtype == value.dtype


def simple_onnx(
    nodes: list[onnx.NodeProto], inputs: list[tuple[str, int, list[Any]]], outputs: list[tuple[str, int, list[Any]]]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "simple",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model.SerializeToString()


def loaded(rig: Rig, content: bytes, spec: Any, **config: Any) -> adapter.TensorRtBackend:
    """Load a network that is no pose network, past the reading of what the file says of itself."""
    model = ModelFile(content, spec, None, "simple")
    return adapter.load(model, BackendConfig(**({"batch_sizes": (1, 4), "cache_dir": rig.folder / "cache"} | config)))


SPEC = SimpleNamespace(input_size_wh=(8, 6), input_format="nchw_float32", precision="fp32")


def bright_places() -> bytes:
    """A network whose output has as many rows as the picture has positive pixels."""
    return simple_onnx(
        [helper.make_node("NonZero", ["input"], ["columns"]), helper.make_node("Transpose", ["columns"], ["places"])],
        [("input", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [("places", TensorProto.INT64, ["found", 4])],
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("library", LIBRARIES)
class TestBothVersionsAndLibraries:
    def test_every_batch_size_computes_what_onnx_runtime_computes(self, rig: Rig, version: str, library: str) -> None:
        rig.install(version, library)
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            for seed, count in enumerate([1, 2, 3, 4, 4, 4, 4, 1, 9, 4]):
                assert_computes(backend, content, count, seed)
            info = backend.describe()
        assert (info.runtime, info.version, info.device) == ("tensorrt", version, "Fake GPU 0 (cuda:0)")
        assert info.details["memory"] == library

    def test_an_output_whose_size_depends_on_the_picture(self, rig: Rig, version: str, library: str) -> None:
        rig.install(version, library)
        with loaded(rig, bright_places(), SPEC) as backend:
            for count in (0, 5, 2, 7, 7, 7):
                picture = np.zeros((1, 3, 6, 8), np.float32)
                picture.reshape(-1)[:count] = 1
                found = backend.run({"input": picture})["places"]
                assert found.shape == (count, 4)
                np.testing.assert_array_equal(found, np.argwhere(picture))

    def test_everything_is_freed(self, rig: Rig, version: str, library: str) -> None:
        rig.install(version, library)
        backend = rig.load()
        for _ in range(4):
            backend.run({"frames_u8": pictures(2)})
        assert rig.gpu.leaks
        backend.close()
        backend.close()
        gc.collect()
        assert rig.gpu.leaks == []
        assert rig.gpu.stack == []

    def test_a_backend_that_is_forgotten_frees_everything(self, rig: Rig, version: str, library: str) -> None:
        rig.install(version, library)
        backend = rig.load()
        backend.run({"frames_u8": pictures(1)})
        del backend
        gc.collect()
        assert rig.gpu.leaks == []

    def test_two_threads_at_once(self, rig: Rig, version: str, library: str) -> None:
        rig.install(version, library)
        content = light_pose(decoded=True)
        failures: list[BaseException] = []
        with rig.load(content) as backend:

            def work(seed: int) -> None:
                try:
                    for round_ in range(5):
                        assert_computes(backend, content, 1 + (seed + round_) % 4, seed * 100 + round_)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert failures == []


@pytest.mark.parametrize("backend", ["tensorrt", "trt", "auto"])
def test_a_whole_pipeline_finds_what_it_finds_on_onnx_runtime(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(rig.folder / "cache"))
    models = {
        "detector": write(rig.folder / "detector.onnx", light_detector()),
        "pose": write(rig.folder / "pose.onnx", light_pose(decoded=True)),
    }
    frames = [light_at(60 + 5 * step, 80, (160, 120)) for step in range(6)]
    found = {}
    for name in (backend, "onnxruntime"):
        with PoseTracker(**models, backend=name, det_interval=2) as tracker:
            found[name] = [tracker(frame, timestamp_s=step / 30) for step, frame in enumerate(frames)]
    for ours, theirs in zip(found[backend], found["onnxruntime"], strict=True):
        assert len(ours) == 1
        np.testing.assert_array_equal(ours.keypoints, theirs.keypoints)
        np.testing.assert_array_equal(ours.track_ids, theirs.track_ids)
    assert rig.builds == 2


def test_only_one_call_at_a_time_uses_the_stream(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []
    most = 0
    real = FakeGpu.synchronize

    def slow(self: FakeGpu, handle: int) -> None:
        nonlocal most
        inside.append(handle)
        most = max(most, len(inside))
        time.sleep(0.01)
        real(self, handle)
        inside.pop()

    monkeypatch.setattr(FakeGpu, "synchronize", slow)
    with rig.load() as backend:
        threads = [threading.Thread(target=backend.run, args=({"frames_u8": pictures(1)},)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


class TestShapes:
    def test_batch_sizes_become_profiles(self, rig: Rig) -> None:
        with rig.load(batch_sizes=(1, 4, 16)) as backend:
            assert backend.batch_sizes == (1, 4, 16)
            assert backend.inputs[0].shape == (None, 64, 48, 3)
            assert backend.outputs[0].shape == (None, 17, 2)
            assert backend.inputs[0].dtype == np.uint8
            assert backend.describe().details["batch sizes"] == "1, 4, 16"

    def test_a_fixed_batch_stays_fixed(self, rig: Rig) -> None:
        content = light_pose(decoded=True, batch=2)
        with rig.load(content) as backend:
            assert backend.batch_sizes is None
            assert backend.inputs[0].shape == (2, 64, 48, 3)
            assert_computes(backend, content, 2)
            with pytest.raises(ShapeError):
                backend.run({"frames_u8": pictures(1)})

    def test_one_batch_size_fixes_the_batch(self, rig: Rig) -> None:
        with rig.load(batch_sizes=(1,)) as backend:
            assert backend.inputs[0].shape == (1, 64, 48, 3)
            assert backend.batch_sizes is None

    def test_a_network_for_any_picture_size_is_built_for_the_one_it_is_run_at(self, rig: Rig) -> None:
        with loaded(rig, bright_places(), SPEC) as backend:
            assert backend.inputs[0].shape == (None, 3, 6, 8)
            with pytest.raises(ShapeError):
                backend.run({"input": np.zeros((1, 3, 8, 8), np.float32)})

    def test_a_size_that_nothing_fixes_is_an_error(self, rig: Rig) -> None:
        content = simple_onnx(
            [helper.make_node("Identity", ["input"], ["output"])],
            [("input", TensorProto.FLOAT, ["n", "length", 4])],
            [("output", TensorProto.FLOAT, ["n", "length", 4])],
        )
        with pytest.raises(ModelError, match=r"sizes that nothing fixes: \[-1, -1, 4\]"):
            loaded(rig, content, SPEC)
        assert rig.gpu.leaks == []

    def test_a_larger_batch_than_any_profile_goes_in_parts(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        with rig.load(content, batch_sizes=(1, 2)) as backend:
            assert_computes(backend, content, 7)

    def test_each_profile_goes_on_where_the_one_before_ends_and_is_tuned_for_its_largest(self, rig: Rig) -> None:
        rig.load(batch_sizes=(1, 4, 16)).close()
        (path,) = (rig.folder / "cache" / "tensorrt").glob("*.engine")
        plan = fake_tensorrt.Plan(path.read_bytes().split(b"\n", 3)[3][len(b"TRTPLAN ") + 64 :])
        sizes = [[shape[0] for shape in profile["frames_u8"]] for profile in plan.profiles]
        assert sizes == [[1, 1, 1], [2, 4, 4], [5, 16, 16]]

    def test_a_picture_that_is_not_contiguous(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            turned = pictures(2)[:, :, ::-1]
            answers = backend.run({"frames_u8": turned})
        np.testing.assert_array_equal(
            answers["keypoints"], expected(content, {"frames_u8": turned.copy()})["keypoints"]
        )

    def test_a_detector_with_two_outputs(self, rig: Rig) -> None:
        content = light_detector()
        frame = np.zeros((1, 3, 64, 64), np.float32)
        frame[:, :, 10:20, 30:50] = 255
        with rig.load(content, task="detection") as backend:
            answers = backend.run({"input": frame})
        np.testing.assert_allclose(answers["dets"], [[[30, 10, 50, 20, 0.9]]], rtol=1e-6)
        np.testing.assert_array_equal(answers["labels"], [[0]])

    @pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.INT32, TensorProto.BOOL, TensorProto.INT8])
    def test_other_types_pass_through(self, rig: Rig, kind: int) -> None:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        content = simple_onnx(
            [helper.make_node("Identity", ["input"], ["output"])],
            [("input", kind, ["n", 5])],
            [("output", kind, ["n", 5])],
        )
        array = np.arange(10).reshape(2, 5).astype(dtype)
        with loaded(rig, content, SPEC) as backend:
            np.testing.assert_array_equal(backend.run({"input": array})["output"], array)

    def test_a_type_that_numpy_does_not_have_is_an_error(self, rig: Rig) -> None:
        content = simple_onnx(
            [helper.make_node("Cast", ["input"], ["output"], to=TensorProto.BFLOAT16)],
            [("input", TensorProto.FLOAT, ["n", 5])],
            [("output", TensorProto.BFLOAT16, ["n", 5])],
        )
        with pytest.raises(ModelError, match="'output' has the type"):
            loaded(rig, content, SPEC)

    def test_answers_belong_to_the_caller(self, rig: Rig) -> None:
        with rig.load() as backend:
            first = backend.run({"frames_u8": pictures(1, seed=1)})
            kept = {name: value.copy() for name, value in first.items()}
            backend.run({"frames_u8": pictures(1, seed=2)})
            for name, value in first.items():
                np.testing.assert_array_equal(value, kept[name])
                assert value.flags.writeable
                assert value.flags.owndata


class TestEngineCache:
    def test_the_second_start_builds_nothing(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        rig.load(content).close()
        assert rig.builds == 1
        with rig.load(content) as backend:
            assert_computes(backend, content, 3)
        assert rig.builds == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"batch_sizes": (1, 2)},
            {"options": {"tf32": False}},
            {"options": {"optimization_level": 5}},
            {"options": {"workspace_mb": 64}},
            {"content": light_pose(decoded=True, num_keypoints=5)},
        ],
    )
    def test_anything_that_changes_the_engine_builds_another_one(self, rig: Rig, change: dict[str, Any]) -> None:
        rig.load().close()
        rig.load(**change).close()
        assert rig.builds == 2
        rig.load().close()
        rig.load(**change).close()
        assert rig.builds == 2

    def test_options_that_do_not_change_the_engine_share_it(self, rig: Rig) -> None:
        rig.load().close()
        rig.load(options={"cuda_graphs": False}, threads=3).close()
        assert rig.builds == 1

    def test_another_version_or_device_builds_its_own(self, rig: Rig) -> None:
        rig.load().close()
        rig.install(VERSIONS[0])
        rig.load().close()
        assert rig.builds == 1
        other = FakeGpu()
        other.names = ["Another GPU"]
        rig.install(VERSIONS[1], gpu=other)
        rig.load().close()
        assert rig.builds == 1
        assert len(list((rig.folder / "cache" / "tensorrt").glob("*.engine"))) == 3

    @pytest.mark.parametrize(
        "harm",
        [
            lambda data: b"",
            lambda data: data[:-10],
            lambda data: data[:100],
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            lambda data: data.replace(b'"architecture":"8.6"', b'"architecture":"8.7"'),
            lambda data: b"something else",
        ],
    )
    def test_a_damaged_engine_never_reaches_tensorrt(
        self, rig: Rig, caplog: pytest.LogCaptureFixture, harm: Callable[[bytes], bytes]
    ) -> None:
        content = light_pose(decoded=True)
        rig.load(content).close()
        (path,) = (rig.folder / "cache" / "tensorrt").glob("*.engine")
        path.write_bytes(harm(path.read_bytes()))
        with rig.load(content) as backend:
            assert_computes(backend, content, 2)
        assert rig.builds == 2
        assert "it is built again" in caplog.text
        assert "TensorRT:" not in caplog.text
        rig.load(content).close()
        assert rig.builds == 2

    def test_an_engine_that_tensorrt_refuses_is_built_again(
        self, rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.load().close()
        # The same name and version, but a driver that no longer takes the engine.
        rig.install(gpu=FakeGpu())
        refused = [None, None]  # before and after the lock
        real = fake_tensorrt.Runtime.deserialize_cuda_engine
        monkeypatch.setattr(
            fake_tensorrt.Runtime,
            "deserialize_cuda_engine",
            lambda self, engine: refused.pop() if refused else real(self, engine),
        )
        rig.load().close()
        assert rig.builds == 1
        assert "does not take the kept engine" in caplog.text

    def test_measured_timings_serve_the_next_build(self, rig: Rig) -> None:
        rig.load().close()
        rig.load(batch_sizes=(1, 8)).close()
        assert rig.trt.machine.timings == [b"", f"timings {VERSIONS[1]} 1".encode()]

    def test_timings_that_tensorrt_refuses_are_measured_again(self, rig: Rig) -> None:
        rig.load().close()
        (path,) = (rig.folder / "cache" / "tensorrt").glob("*.timings")
        device = path.read_bytes().split(b"\n")[1]
        cache = adapter.EngineCache("tensorrt", rig.folder / "cache")
        for content in (b"nonsense", b"timings 9.9 1"):
            cache.store(json.loads(device), content, kind="timings")
            rig.load(batch_sizes=(1, 8)).close()
            for engine in path.parent.glob("*.engine"):
                engine.unlink()
            assert rig.trt.machine.timings[-1] == b""

    def test_a_cache_that_cannot_be_written_costs_a_warning(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        blocked = rig.folder / "file"
        blocked.write_text("x")
        content = light_pose(decoded=True)
        with rig.load(content, cache_dir=blocked) as backend:
            assert_computes(backend, content, 1)
        assert "cannot be written" in caplog.text

    def test_the_default_place_is_the_package_s_cache(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RTMPOSE_INFER_CACHE", str(rig.folder / "mine"))
        rig.load(cache_dir=None).close()
        assert list((rig.folder / "mine" / "tensorrt").glob("*.engine"))

    def test_no_half_written_file_is_left(self, rig: Rig) -> None:
        rig.load().close()
        endings = {path.suffix for path in (rig.folder / "cache" / "tensorrt").iterdir()}
        assert endings == {".engine", ".timings", ".lock"}


class TestBuild:
    def test_the_network_is_strongly_typed_and_precision_comes_from_the_file(self, rig: Rig) -> None:
        with rig.load() as backend:
            assert backend.describe().precision == "fp32"
        assert rig.trt.machine.settings == [{"TF32": True}]
        assert rig.trt.machine.plugins

    def test_options_reach_the_builder(self, rig: Rig) -> None:
        rig.load(options={"workspace_mb": 64, "optimization_level": 5, "tf32": False}).close()
        assert rig.trt.machine.settings == [{"TF32": False, "WORKSPACE": 64 * 2**20, "level": 5}]

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"fp16": True}, "unknown tensorrt options"),
            ({"workspace_mb": 0}, "workspace_mb"),
            ({"workspace_mb": "lots"}, "workspace_mb"),
            ({"optimization_level": 9}, "optimization_level"),
        ],
    )
    def test_wrong_options_are_refused(self, rig: Rig, options: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            rig.load(options=options)

    def test_what_the_parser_says_is_in_the_error(self, rig: Rig) -> None:
        graph = helper.make_graph(
            [helper.make_node("TRTBatchedNMS", ["input"], ["output"], name="nms", domain="mmdeploy")],
            "odd",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 6, 8])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 6, 8])],
        )
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("mmdeploy", 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        with pytest.raises(ModelError, match=r"cannot read simple: TRTBatchedNMS nms: Unsupported operator"):
            loaded(rig, model.SerializeToString(), SPEC)
        assert rig.gpu.leaks == []

    def test_a_file_that_is_not_onnx(self, rig: Rig) -> None:
        with pytest.raises(ModelError, match="cannot read simple"):
            loaded(rig, b"nonsense", SPEC)

    def test_what_the_builder_says_is_in_the_error(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fake_tensorrt, "_problem", lambda *_: "no implementation for node 7")
        with pytest.raises(EngineBuildError, match="TensorRT says: no implementation for node 7"):
            rig.load()
        assert rig.gpu.leaks == []
        assert not list((rig.folder / "cache").rglob("*.engine"))

    def test_messages_go_to_the_log(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            logger = adapter._logger(rig.trt)
            for severity, message in (("ERROR", "a "), ("WARNING", "b "), ("INFO", "c "), ("VERBOSE", "d ")):
                logger.log(getattr(rig.trt.ILogger, severity), message)
        said = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert said == [
            ("ERROR", "TensorRT: a"),
            ("WARNING", "TensorRT: b"),
            ("DEBUG", "TensorRT: c"),
        ]


class TestGraphs:
    def test_a_size_that_comes_again_is_replayed(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            for seed in range(6):
                assert_computes(backend, content, 4, seed)
            assert rig.gpu.launches == 4
            assert len(rig.gpu.recordings) == 1

    def test_each_size_has_its_own(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            for seed in range(12):
                assert_computes(backend, content, (1, 2, 4)[seed % 3], seed)
            assert len(rig.gpu.recordings) == 3
            assert rig.gpu.launches == 6

    def test_a_size_within_a_profile_is_not_recorded_and_ends_the_recording(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            for seed, count in enumerate([3, 3, 3, 3, 4, 4, 4, 4, 3, 4]):
                assert_computes(backend, content, count, seed)
            assert rig.gpu.launches == 2
            assert rig.gpu.recordings == []

    def test_can_be_turned_off(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        with rig.load(content, options={"cuda_graphs": False}) as backend:
            for seed in range(5):
                assert_computes(backend, content, 1, seed)
            assert rig.gpu.launches == 0
            assert backend.describe().details["cuda graphs"] == "off"

    def test_a_network_that_cannot_be_recorded_runs_without(
        self, rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: FakeGpu, handle: int) -> object:
            stream = self.stream(handle)
            stream.capture = None
            raise FaultError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")

        monkeypatch.setattr(FakeGpu, "end_capture", refuse)
        content = light_pose(decoded=True)
        with caplog.at_level(logging.INFO), rig.load(content) as backend:
            for seed in range(6):
                assert_computes(backend, content, 2, seed)
        assert caplog.text.count("no CUDA graph") == 1
        assert "CAPTURE_INVALIDATED" in caplog.text

    def test_outputs_that_depend_on_the_data_are_not_recorded(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO), loaded(rig, bright_places(), SPEC) as backend:
            for _ in range(5):
                backend.run({"input": np.ones((4, 3, 6, 8), np.float32)})
            assert rig.gpu.launches == 0
        assert "no CUDA graph" not in caplog.text


@pytest.mark.parametrize("library", LIBRARIES)
class TestOtherPeoplesContexts:
    def test_the_context_that_is_current_is_used_and_left_alone(
        self, rig: Rig, library: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig.install(library=library)
        rig.gpu.initialised = True
        held = Context(0, primary=False)
        if library == "pycuda":
            driver = sys.modules["pycuda"].driver
            driver.Context(held, retained=False).push()
        else:
            rig.gpu.stack.append(held)
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            assert_computes(backend, content, 2)
            assert {context for context, _ in rig.gpu.allocations.values()} == {held}
            failures: list[BaseException] = []
            thread = threading.Thread(target=_collect, args=(failures, lambda: assert_computes(backend, content, 1)))
            thread.start()
            thread.join()
            assert failures == []
        assert rig.gpu.stack == [held]
        assert rig.gpu.retained == [0]
        assert rig.gpu.leaks == []

    def test_another_device_than_the_current_one_is_used_through_its_primary_context(
        self, rig: Rig, library: str
    ) -> None:
        rig.install(library=library, gpu=FakeGpu(2))
        rig.gpu.retained[0] = 1
        rig.gpu.initialised = True
        rig.gpu.stack.append(rig.gpu.primary[0])
        with rig.load(device="cuda:1") as backend:
            backend.run({"frames_u8": pictures(1)})
            assert rig.gpu.retained == [1, 1]
            assert backend.describe().device == "Fake GPU 1 (cuda:1)"
        gc.collect()
        assert rig.gpu.retained == [1, 0]
        assert rig.gpu.stack == [rig.gpu.primary[0]]


def _collect(failures: list[BaseException], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:
        failures.append(error)


class TestUnavailable:
    def test_tensorrt_is_not_installed(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendUnavailableError, match=r"rtmpose-infer\[tensorrt\]"):
            rig.load()

    @pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "12.0", "1.0"])
    def test_another_version_is_refused(self, rig: Rig, version: str) -> None:
        rig.install(version)
        with pytest.raises(BackendUnavailableError, match=f"TensorRT {version} is installed; 10 and 11"):
            rig.load()

    def test_no_library_for_memory(self, rig: Rig) -> None:
        rig.install(library="none")
        with pytest.raises(BackendUnavailableError, match=r"cuda-python or pycuda"):
            rig.load()

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_no_device(self, rig: Rig, library: str) -> None:
        rig.install(library=library, gpu=FakeGpu(0))
        with pytest.raises(DeviceUnavailableError, match="does not answer"):
            rig.load()

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_no_such_device(self, rig: Rig, library: str) -> None:
        rig.install(library=library)
        with pytest.raises(DeviceUnavailableError, match="no CUDA device 3; the driver shows 1"):
            rig.load(device="cuda:3")

    def test_no_driver(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(flags: int) -> None:
            raise RuntimeError("libcuda.so.1: cannot open shared object file")

        monkeypatch.setattr(sys.modules["cuda.bindings"].driver, "cuInit", missing)
        with pytest.raises(DeviceUnavailableError, match="libcuda"):
            rig.load()

    @pytest.mark.parametrize("device", ["cpu", "npu", "cuda:x", "cuda:-1"])
    def test_other_devices_are_refused(self, rig: Rig, device: str) -> None:
        with pytest.raises(InputError, match="NVIDIA GPUs"):
            rig.load(device=device)

    @pytest.mark.parametrize("device", ["auto", "gpu", "cuda", "CUDA:0"])
    def test_names_of_the_device(self, rig: Rig, device: str) -> None:
        rig.load(device=device).close()


class TestFailures:
    @pytest.mark.parametrize("library", LIBRARIES)
    def test_a_failing_call_is_an_error_and_the_next_one_works(self, rig: Rig, library: str) -> None:
        rig.install(library=library)
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            for seed in range(4):
                assert_computes(backend, content, 2, seed)
            rig.gpu.lost = True
            with pytest.raises(InferenceError, match="CUDA_ERROR_DEVICE_UNAVAILABLE"):
                backend.run({"frames_u8": pictures(2)})
            rig.gpu.lost = False
            for seed in range(4):
                assert_computes(backend, content, 2, seed)
        assert rig.gpu.stack == []

    def test_a_refused_execution_quotes_tensorrt(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        content = light_pose(decoded=True)
        with rig.load(content) as backend:
            assert_computes(backend, content, 1)
            with monkeypatch.context() as broken:
                broken.setattr(
                    fake_tensorrt.IExecutionContext,
                    "execute_async_v3",
                    lambda self, stream_handle: self._refuse("enqueue failed in node 3"),
                )
                with pytest.raises(InferenceError, match=r"refused to run the network.*enqueue failed in node 3"):
                    backend.run({"frames_u8": pictures(1)})
            assert [stream.queue for stream in rig.gpu.streams.values()] == [[]]
            assert_computes(backend, content, 1, seed=5)

    def test_memory_that_runs_out_for_one_batch_size_leaves_the_others(self, rig: Rig) -> None:
        content = light_pose(decoded=True)
        with rig.load(content, batch_sizes=(1, 64)) as backend:
            assert_computes(backend, content, 1)
            rig.gpu.memory_limit = 100_000
            with pytest.raises(InferenceError, match="OUT_OF_MEMORY"):
                backend.run({"frames_u8": pictures(64)})
            assert_computes(backend, content, 1)
            rig.gpu.memory_limit = 2**33
            assert_computes(backend, content, 64)

    def test_no_execution_context(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fake_tensorrt.ICudaEngine, "create_execution_context", lambda self: None)
        with rig.load() as backend, pytest.raises(InferenceError, match="could not create an execution context"):
            backend.run({"frames_u8": pictures(1)})

    def test_a_closed_backend(self, rig: Rig) -> None:
        backend = rig.load()
        backend.close()
        with pytest.raises(ClosedError):
            backend.run({"frames_u8": pictures(1)})

    def test_a_call_that_waits_while_the_backend_is_closed(self, rig: Rig) -> None:
        backend = rig.load()
        failures: list[BaseException] = []
        feeds = {"frames_u8": pictures(1)}
        thread = threading.Thread(target=_collect, args=(failures, lambda: backend.run(feeds)))
        with backend._lock:
            thread.start()
            time.sleep(0.05)
            backend._closed = True
        thread.join()
        assert [type(failure) for failure in failures] == [ClosedError]
        backend.close()

    def test_a_device_that_is_lost_can_still_be_closed(self, rig: Rig) -> None:
        backend = rig.load()
        backend.run({"frames_u8": pictures(1)})
        rig.gpu.lost = True
        backend.close()
        assert rig.gpu.stack == []

    def test_no_memory_for_an_output_that_grows(self, rig: Rig) -> None:
        empty, full = np.zeros((4, 3, 6, 8), np.float32), np.ones((4, 3, 6, 8), np.float32)
        with loaded(rig, bright_places(), SPEC) as backend:
            assert backend.run({"input": empty})["places"].shape == (0, 4)
            rig.gpu.memory_limit = 0
            with pytest.raises(InferenceError, match="refused to run the network"):
                backend.run({"input": full})
            assert backend.run({"input": empty})["places"].shape == (0, 4)
            rig.gpu.memory_limit = 2**33
            assert backend.run({"input": full})["places"].shape == (576, 4)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("rtmdet_nano_person_320.onnx", "detection"),
        ("yolox_nano_humanart_416.onnx", "detection"),
        ("rtmdet_nano_person_640_raw.onnx", "detection"),
        ("tinypose_coco17_256x192_simcc.onnx", "pose"),
    ],
)
def test_trained_networks_of_every_head_go_through(rig: Rig, shared: Path, name: str, task: str) -> None:
    path = shared / "models" / name
    model = load_model_file(path, task=task)
    width, height = model.spec.input_size_wh
    with adapter.load(model, BackendConfig(batch_sizes=(1, 2), cache_dir=rig.folder)) as backend:
        (spec,) = backend.inputs
        feeds = {spec.name: np.random.default_rng(0).random((1, 3, height, width), np.float32) * 255}
        answers = backend.run(feeds)
        for output, value in expected(path.read_bytes(), feeds).items():
            np.testing.assert_array_equal(answers[output], value)
    assert rig.gpu.leaks == []


class TestTheFake:
    """The fake refuses what TensorRT refuses; otherwise the tests above would show nothing."""

    @pytest.fixture
    def engine(self, rig: Rig) -> Iterator[Any]:
        rig.load().close()
        (path,) = (rig.folder / "cache" / "tensorrt").glob("*.engine")
        memory = open_cuda(None)
        with memory.current():
            runtime = rig.trt.Runtime(adapter._logger(rig.trt))
            plan = path.read_bytes().split(b"\n", 3)[3]
            yield SimpleNamespace(engine=runtime.deserialize_cuda_engine(plan), memory=memory, plan=plan)
        memory.close()

    def ready(self, engine: Any, profile: int = 0, count: int = 1) -> Any:
        context = engine.engine.create_execution_context()
        assert context.set_optimization_profile_async(profile, engine.memory.stream)
        assert context.set_input_shape("frames_u8", (count, 64, 48, 3))
        for name in ("frames_u8", "keypoints", "scores"):
            assert context.set_tensor_address(name, engine.memory.empty(200_000))
        return context

    def test_runs_when_all_is_set(self, engine: Any) -> None:
        assert self.ready(engine).execute_async_v3(engine.memory.stream)
        engine.memory.synchronize()

    def test_shapes_before_the_profile(self, engine: Any) -> None:
        context = engine.engine.create_execution_context()
        assert not context.set_input_shape("frames_u8", (1, 64, 48, 3))

    @pytest.mark.parametrize("shape", [(0, 64, 48, 3), (2, 64, 48, 3), (1, 64, 64, 3), (1, 64, 48)])
    def test_shapes_outside_of_the_profile(self, engine: Any, shape: tuple[int, ...]) -> None:
        assert not self.ready(engine).set_input_shape("frames_u8", shape)

    def test_a_profile_that_another_context_uses(self, engine: Any) -> None:
        first = self.ready(engine)
        second = engine.engine.create_execution_context()
        assert not second.set_optimization_profile_async(0, engine.memory.stream)
        assert not second.set_optimization_profile_async(7, engine.memory.stream)
        assert second.set_optimization_profile_async(1, engine.memory.stream)
        del first

    def test_a_tensor_without_an_address(self, engine: Any) -> None:
        context = engine.engine.create_execution_context()
        context.set_optimization_profile_async(0, engine.memory.stream)
        context.set_input_shape("frames_u8", (1, 64, 48, 3))
        context.set_tensor_address("frames_u8", engine.memory.empty(100))
        assert not context.execute_async_v3(engine.memory.stream)

    def test_an_input_without_a_shape(self, engine: Any) -> None:
        context = engine.engine.create_execution_context()
        for name in ("frames_u8", "keypoints", "scores"):
            context.set_tensor_address(name, engine.memory.empty(200_000))
        assert not context.execute_async_v3(engine.memory.stream)

    def test_unknown_tensors_and_addresses_that_are_none(self, engine: Any) -> None:
        context = self.ready(engine)
        assert not context.set_tensor_address("other", 1)
        assert not context.set_input_shape("keypoints", (1, 17, 2))
        with pytest.raises(TypeError):
            context.set_tensor_address("frames_u8", "here")

    def test_a_buffer_that_is_too_small(self, engine: Any) -> None:
        context = self.ready(engine)
        context.set_tensor_address("frames_u8", engine.memory.empty(10))
        assert context.execute_async_v3(engine.memory.stream)
        with pytest.raises(InferenceError, match="ILLEGAL_ADDRESS"):
            engine.memory.synchronize()

    def test_nothing_happens_before_the_stream_is_waited_for(self, engine: Any) -> None:
        host = engine.memory.pinned(4)
        host[:] = 7
        address = engine.memory.empty(4)
        engine.memory.copy_in(address, host)
        back = engine.memory.pinned(4)
        back[:] = 0
        engine.memory.copy_out(back, address)
        assert back.tolist() == [0, 0, 0, 0]
        engine.memory.synchronize()
        assert back.tolist() == [7, 7, 7, 7]

    def test_memory_that_is_not_pinned(self, engine: Any) -> None:
        with pytest.raises(InferenceError, match="INVALID_VALUE"):
            engine.memory.copy_in(engine.memory.empty(4), np.zeros(4, np.uint8))

    def test_recording_right_after_a_change_of_shape(self, engine: Any) -> None:
        context = self.ready(engine)

        def enqueue() -> None:
            if not context.execute_async_v3(engine.memory.stream):
                raise InferenceError("refused")

        with pytest.raises(InferenceError, match="refused"):
            engine.memory.record(enqueue)
        enqueue()
        engine.memory.synchronize()
        engine.memory.record(enqueue).free()

    def test_waiting_while_recording(self, engine: Any) -> None:
        with pytest.raises(InferenceError, match="CAPTURE"):
            engine.memory.record(engine.memory.synchronize)
        engine.memory.synchronize()

    def test_a_thread_without_a_context(self, engine: Any) -> None:
        context = self.ready(engine)
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(context.execute_async_v3(engine.memory.stream)))
        thread.start()
        thread.join()
        assert answers == [False]

    def test_engines_that_are_damaged_or_foreign(self, engine: Any, rig: Rig) -> None:
        runtime = rig.trt.Runtime(adapter._logger(rig.trt))
        assert runtime.deserialize_cuda_engine(engine.plan) is not None
        assert runtime.deserialize_cuda_engine(engine.plan[:-1]) is None
        assert runtime.deserialize_cuda_engine(b"") is None
        rig.install(VERSIONS[0])
        assert rig.trt.Runtime(adapter._logger(rig.trt)).deserialize_cuda_engine(engine.plan) is None

    @pytest.mark.parametrize(
        ("flags", "profile", "problem"),
        [
            (0, (1, 64, 48, 3), "strongly typed"),
            (2, None, "no optimization profile"),
            (2, (1, 64, 64, 3), "static dimensions"),
        ],
    )
    def test_builds_that_tensorrt_refuses(
        self, rig: Rig, engine: Any, flags: int, profile: tuple[int, ...] | None, problem: str
    ) -> None:
        logger = adapter._logger(rig.trt)
        builder = rig.trt.Builder(logger)
        network = builder.create_network(flags)
        assert rig.trt.OnnxParser(network, logger).parse(light_pose(decoded=True))
        settings = builder.create_builder_config()
        settings.set_timing_cache(settings.create_timing_cache(b""), ignore_mismatch=False)
        if profile is not None:
            shapes = builder.create_optimization_profile()
            shapes.set_shape("frames_u8", profile, profile, profile)
            settings.add_optimization_profile(shapes)
        assert builder.build_serialized_network(network, settings) is None
        assert problem in adapter._logger(rig.trt).errors[-1]

    @pytest.mark.parametrize("name", ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"])
    def test_flags_that_are_gone_in_11_do_not_exist(self, rig: Rig, name: str) -> None:
        assert not hasattr(rig.trt.BuilderFlag, name)


Signatures = dict[str, dict[str, list[str]]]


def read_api(path: Path) -> Signatures:
    """Read a list of classes: for each name in a class, the parameter lists of its overloads."""
    found: Signatures = {}
    names: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("class "):
            names = found.setdefault(line.removeprefix("class ").split(":")[0], {})
        elif line.startswith("functions:"):
            found["functions"] = {name.strip(): [] for name in line.partition(":")[2].split(",")}
        elif line.startswith("  members:"):
            names |= {member.strip(): [] for member in line.partition(":")[2].split(",")}
        elif match := re.match(r"  property (\w+)", line):
            names[match[1]] = ["property"]
        elif match := re.match(r"  (\w+)(?:\((.*)\) -> .*)?$", line):
            names.setdefault(match[1], []).append(match[2] or "")
    return found


def parameters(text: str) -> list[tuple[str, bool]]:
    """Names of the parameters after self, and whether each has a default."""
    flat = re.sub(r"<[^<>]*>|\[[^\[\]]*\]", "", re.sub(r"<[^<>]*<[^<>]*>[^<>]*>", "", text))
    found = [part.strip() for part in flat.split(",") if part.strip()]
    return [(part.partition(":")[0], "=" in part) for part in found if part.partition(":")[0] != "self"]


def surface() -> Iterator[tuple[str, str, Any]]:
    """Every public name of the fake: class, name, member."""
    for known in fake_tensorrt.SURFACE:
        if issubclass(known, enum.Enum):
            yield from ((known.__name__, name, member) for name, member in known.__members__.items())
            continue
        for name, member in vars(known).items():
            if not name.startswith("_") or name == "__init__":
                yield known.__name__, name, member
    for name, member in vars(fake_tensorrt.fake_tensorrt("11", FakeGpu())).items():
        if inspect.isfunction(member):
            yield "functions", name, member


def disagreement(api: Signatures, where: str, name: str, member: Any) -> str:
    if where not in api:
        return f"there is no class {where}"
    if name not in api[where]:
        return f"{where} has no {name}"
    overloads = api[where][name]
    if isinstance(member, property):
        return "" if overloads == ["property"] else f"{where}.{name} is no property"
    if not inspect.isfunction(member) or where == "functions" or overloads == [""]:
        return ""
    own = [(p.name, p.default is not p.empty) for p in list(inspect.signature(member).parameters.values())[1:]]
    for overload in overloads:
        theirs = parameters(overload)
        if theirs[: len(own)] == own and all(optional for _, optional in theirs[len(own) :]):
            return ""
    return f"{where}.{name} takes {overloads}, the fake {own}"


class TestSignatures:
    def test_the_fake_has_the_names_and_signatures_that_are_recorded(self) -> None:
        api = read_api(API)
        problems = [disagreement(api, *entry) for entry in surface()]
        assert [problem for problem in problems if problem] == []

    def test_everything_recorded_is_in_the_fake(self) -> None:
        recorded = {(where, name) for where, names in read_api(API).items() for name in names}
        assert recorded - {(where, name) for where, name, _ in surface()} == set()

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_fake_agrees_with_the_compiled_bindings(self, shared: Path, version: str) -> None:
        short = ".".join(version.split(".")[:2])
        api = read_api(shared / "reference" / f"tensorrt_api_{short}.txt")
        problems = [disagreement(api, *entry) for entry in surface()]
        assert [problem for problem in problems if problem] == []

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_record_is_a_part_of_the_compiled_bindings(self, shared: Path, version: str) -> None:
        short = ".".join(version.split(".")[:2])
        lines = set((shared / "reference" / f"tensorrt_api_{short}.txt").read_text().splitlines())
        ours = [line for line in API.read_text().splitlines() if "(" in line and not line.startswith("#")]
        assert [line for line in ours if line not in lines] == []

    def test_a_disagreement_would_be_found(self) -> None:
        api = read_api(API)

        def set_input_shape(self: object, name: str, extent: tuple[int, ...]) -> bool:
            return True

        assert disagreement(api, "IExecutionContext", "set_input_shape", set_input_shape)
        assert disagreement(api, "IExecutionContext", "set_binding_shape", set_input_shape)
        assert disagreement(api, "BuilderFlag", "FP16", 1)
        assert disagreement(api, "ICudaEngine", "get_tensor_name", property())

    def test_the_adapter_uses_all_of_the_fake(self, rig: Rig) -> None:
        fake_tensorrt.USED.clear()
        options = {"workspace_mb": 64, "optimization_level": 5, "tf32": False}
        with rig.load(options=options) as backend:
            backend.run({"frames_u8": pictures(1)})
        with loaded(rig, bright_places(), SPEC) as backend:
            backend.run({"input": np.ones((1, 3, 6, 8), np.float32)})
        with pytest.raises(ModelError):
            loaded(rig, b"nonsense", SPEC)
        made = {
            f"{where}.{name}"
            for where, name, member in surface()
            if (inspect.isfunction(member) or isinstance(member, property)) and where not in {"functions", "ILogger"}
        }
        assert made - fake_tensorrt.USED == set()


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed")
def test_the_driver_functions_have_the_parameters_of_cuda_python() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    for name, member in vars(cuda_python(FakeGpu())).items():
        if name.startswith("cu"):
            first = getattr(driver, name).__doc__.strip().splitlines()[0]
            theirs = [part.split(":")[0].split()[-1] for part in first[first.index("(") + 1 : -1].split(",") if part]
            assert list(inspect.signature(member).parameters) == theirs, name
        elif name.startswith("CU"):
            for value in member.__members__.values():
                assert getattr(getattr(driver, name), value.name) == value
