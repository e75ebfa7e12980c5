"""ONNX Runtime's adapter: what was asked for runs, or an error says why; never silently something else."""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rtmpose_infer.backends import BackendConfig, load_backend
from rtmpose_infer.backends.onnxruntime import OnnxRuntimeBackend
from rtmpose_infer.cache import CACHE_VARIABLE
from rtmpose_infer.errors import (
    BackendUnavailableError,
    DeviceUnavailableError,
    InferenceError,
    InputError,
    ModelError,
)
from rtmpose_infer.model_spec import ModelFile, ModelSpec
from rtmpose_infer.onnx_file import read_onnx_header
from tests.contract import models
from tests.tiny_onnx import light_detector, light_pose, write

pytest.importorskip("onnxruntime", reason="the cpu extra is not installed")


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "default-cache"))


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

    if _provider(device, [])[0] in onnxruntime.get_available_providers():
        pytest.skip(f"this machine's build has {device}")
    with pytest.raises(DeviceUnavailableError, match="CPUExecutionProvider"):
        load_backend(model(), backend="ort", config=BackendConfig(device=device))


def test_falling_back_happens_only_when_allowed_and_is_logged(caplog):
    config = BackendConfig(device="dml", allow_fallback=True)
    with caplog.at_level(logging.WARNING), load_backend(model(), backend="ort", config=config) as backend:
        assert backend.describe().device == "cpu"
    assert "DmlExecutionProvider" in caplog.text


def test_falling_back_leaves_behind_what_only_the_device_understands():
    options = {"cuda_graphs": True, "provider_options": {"gpu_mem_limit": "1000000"}}
    config = BackendConfig(device="cuda", allow_fallback=True, options=options)
    with load_backend(model(), backend="ort", config=config) as backend:
        assert backend.describe().device == "cpu"
        np.testing.assert_allclose(backend.run({"input": bright_square()})["dets"], [[[30, 10, 50, 20, 0.9]]])


@pytest.mark.parametrize(
    "config",
    [
        BackendConfig(device="abacus"),
        BackendConfig(device="cpu:x"),
        BackendConfig(device="cpu:0"),
        BackendConfig(device="openvino:1"),
        BackendConfig(options={"fast": True}),
        BackendConfig(options={"graph_optimization_level": "most"}),
        BackendConfig(options={"graph_optimization_level": []}),
        BackendConfig(options={"session_config": "x"}),
        BackendConfig(options={"session_config": {"": "1"}}),
        BackendConfig(options={"session_config": {"a": "x" * 10_000}}),
        BackendConfig(options={"provider_options": "x"}),
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


# ---------------------------------------------------------------------------------------------- failures of a device


def test_a_provider_that_fails_in_a_call_is_an_error_and_not_a_silent_change_to_the_cpu(monkeypatch, capsys):
    """Left alone, the session answers such a failure by going on with the CPU, saying so on standard output."""
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

    class Failing:
        def __getattr__(self, name):
            return getattr(working, name)

        def run(self, *_):
            raise EPFail("device lost")

    with load_backend(model(), backend="ort") as backend:
        working = backend._session._sess
        monkeypatch.setattr(backend._session, "_sess", Failing())
        with pytest.raises(InferenceError, match="device lost"):
            backend.run({"input": bright_square()})
        monkeypatch.setattr(backend._session, "_sess", working)
        assert backend.run({"input": bright_square()})["labels"].tolist() == [[0]]
    assert capsys.readouterr().out == ""


class Build:
    """ONNX Runtime as a build with further providers, none of which comes up."""

    def __init__(self, *providers: str, failure: Exception | None = None) -> None:
        import onnxruntime

        self._real = onnxruntime
        self._providers = [*providers, "CPUExecutionProvider"]
        self._failure = failure

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def get_available_providers(self) -> list[str]:
        return self._providers

    def preload_dlls(self) -> None:
        print("libcudnn.so.9 was not found")  # noqa: T201  # as the real one does

    def InferenceSession(self, data, options, *, providers, enable_fallback):  # noqa: N802
        assert not enable_fallback
        if self._failure is not None and providers[0][0] != "CPUExecutionProvider":
            raise self._failure
        return self._real.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class DirectMl:
    """A session that says it runs on DirectML, and notes when two calls overlap."""

    def __init__(self, session) -> None:
        self._session = session
        self._busy = threading.Lock()
        self.overlapped = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return ["DmlExecutionProvider", "CPUExecutionProvider"]

    def run(self, names, feeds):
        free = self._busy.acquire(blocking=False)
        self.overlapped |= not free
        time.sleep(0.01)
        answers = self._session.run(names, feeds)
        if free:
            self._busy.release()
        return answers


def test_threads_take_turns_on_directml():
    import onnxruntime

    session = DirectMl(onnxruntime.InferenceSession(light_detector(), providers=["CPUExecutionProvider"]))
    with OnnxRuntimeBackend(onnxruntime, session, threads=None) as backend, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: backend.run({"input": bright_square()}), range(8)))
    assert len(answers) == 8
    assert not session.overlapped


@pytest.mark.parametrize("failure", [None, RuntimeError("CUDA failure 35: driver too old")], ids=["silent", "raised"])
def test_a_gpu_build_without_a_working_gpu_goes_on_only_when_nobody_asked_for_it(monkeypatch, caplog, capsys, failure):
    monkeypatch.setitem(sys.modules, "onnxruntime", Build("CUDAExecutionProvider", failure=failure))
    for device in ("cuda", "gpu", "cuda:1", "CUDAExecutionProvider"):
        with pytest.raises(DeviceUnavailableError, match="did not start CUDAExecutionProvider") as caught:
            load_backend(model(), backend="ort", config=BackendConfig(device=device))
        assert failure is None or "driver too old" in str(caught.value)
    with caplog.at_level(logging.WARNING), load_backend(model(), backend="ort") as backend:
        assert backend.describe().device == "cpu"
        assert backend.batch_sizes is None
    assert "Going on with the CPU" in caplog.text
    assert capsys.readouterr().out == ""


def test_gpu_means_the_gpu_provider_that_the_build_has():
    from rtmpose_infer.backends.onnxruntime import _provider

    cpu, cuda, dml = "CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider"
    assert _provider("gpu", [cuda, cpu]) == _provider("auto", [cuda, cpu]) == (cuda, None)
    assert _provider("gpu:1", [dml, cpu]) == (dml, 1)
    assert _provider("auto", [cpu]) == (cpu, None)
    assert _provider("gpu", [cpu]) == (cuda, None)  # and is then refused by name
    assert _provider("trt:2", [cpu]) == ("TensorrtExecutionProvider", 2)


def test_cuda_gets_prepared_batch_sizes_and_memory_that_does_not_double():
    from rtmpose_infer.backends.onnxruntime import _provider_options

    cuda = "CUDAExecutionProvider"
    options = _provider_options(BackendConfig(), cuda, 1)
    assert options == {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "device_id": "1",
    }
    own = BackendConfig(options={"provider_options": {"arena_extend_strategy": "kNextPowerOfTwo"}, "cuda_graphs": True})
    options = _provider_options(own, cuda, None)
    assert (options["arena_extend_strategy"], options["enable_cuda_graph"]) == ("kNextPowerOfTwo", "1")


@pytest.mark.parametrize(
    ("device", "options"), [("cpu", {"cuda_graphs": True}), ("tensorrt", {"io_binding": True})], ids=["graphs", "bound"]
)
def test_options_that_the_device_lacks_are_refused(device, options):
    with pytest.raises(InputError, match=next(iter(options))):
        load_backend(model(), backend="ort", config=BackendConfig(device=device, options=options))


# ----------------------------------------------------------------------------------------------------- bound memory


@pytest.fixture
def tiny(tmp_path):
    return models.deploy_pose(tmp_path / "tiny.onnx")


def check(backend, count, *, seed=0):
    pictures = models.pictures(count, seed=seed)
    answer, expected = backend.run({"frames_u8": pictures}), models.deploy_answer(pictures)
    for name, value in expected.items():
        np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-4)
    return answer


@pytest.fixture(params=["bound", "graphs"])
def bound(request, tiny):
    """A session with bound memory; as a graph is captured on CUDA, on the CPU, which captures nothing."""
    if request.param == "bound":
        config = BackendConfig(options={"io_binding": True}, batch_sizes=(1, 2, 4))
        backend = load_backend(tiny, backend="ort", config=config)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(tiny.data), providers=["CPUExecutionProvider"])
        backend = OnnxRuntimeBackend(
            onnxruntime, session, threads=None, batch_sizes=(1, 2, 4), bound=True, cuda_graphs=True
        )
    with backend:
        yield backend


def test_bound_memory_is_kept_for_each_prepared_size_and_no_other(bound):
    assert bound.batch_sizes == (1, 2, 4)
    for seed, count in enumerate([1, 3, 2, 4, 11, 1, 5]):
        check(bound, count, seed=seed)
    assert len(bound._bindings) == 3


def test_answers_out_of_bound_memory_belong_to_the_caller(bound):
    first = check(bound, 2, seed=1)
    kept = {name: value.copy() for name, value in first.items()}
    check(bound, 2, seed=2)
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])
        value[:] = -1
    check(bound, 2, seed=1)


def test_threads_take_turns_with_bound_memory(bound):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: check(bound, 1 + seed % 4, seed=seed), range(40)))


def test_closing_in_the_middle_of_a_bound_batch_waits_for_its_last_part(bound, monkeypatch):
    import threading

    closing = threading.Thread(target=bound.close)
    run = type(bound)._run_bound

    def close_meanwhile(self, feeds):
        answer = run(self, feeds)
        if closing.ident is None:
            closing.start()
        return answer

    monkeypatch.setattr(type(bound), "_run_bound", close_meanwhile)
    check(bound, 11)
    closing.join()
    assert bound._session is None


# ------------------------------------------------------------------------------------------------------------ cache


def test_a_second_start_reads_the_optimised_graph(tiny, tmp_path, monkeypatch):
    import onnxruntime

    levels = []
    real = onnxruntime.InferenceSession

    def counting(data, options, **rest):
        levels.append(options.graph_optimization_level)
        return real(data, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counting)
    config = BackendConfig(cache_dir=tmp_path / "cache")
    for _ in range(2):
        with load_backend(tiny, backend="ort", config=config) as backend:
            check(backend, 3)
    assert levels == [
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ]
    assert len(list((tmp_path / "cache").rglob("*.onnx"))) == 1


@pytest.mark.parametrize("damage", [b"", b"something else", None], ids=["empty", "foreign", "cut"])
def test_a_damaged_entry_is_made_again(tiny, tmp_path, caplog, damage):
    config = BackendConfig(cache_dir=tmp_path / "cache")
    load_backend(tiny, backend="ort", config=config).close()
    (entry,) = (tmp_path / "cache").rglob("*.onnx")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-50] if damage is None else damage)
    with caplog.at_level(logging.WARNING), load_backend(tiny, backend="ort", config=config) as backend:
        check(backend, 2)
    assert "built again" in caplog.text
    assert entry.read_bytes() == whole


def test_an_entry_that_onnx_runtime_refuses_is_made_again(tiny, tmp_path, caplog, monkeypatch):
    from rtmpose_infer.backends.engine_cache import EngineCache

    monkeypatch.setattr(EngineCache, "load", lambda *_, **__: b"of another version")
    with (
        caplog.at_level(logging.WARNING),
        load_backend(tiny, backend="ort", config=BackendConfig(cache_dir=tmp_path)) as backend,
    ):
        check(backend, 2)
    assert "is refused" in caplog.text


def test_weights_beside_the_model_are_never_looked_for_elsewhere(tiny, tmp_path, monkeypatch, caplog):
    onnx = pytest.importorskip("onnx", reason="makes the model")
    whole, elsewhere = onnx.load(str(tiny.data)), tmp_path / "elsewhere"
    settings = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 32}
    onnx.save(whole, tmp_path / "beside.onnx", **settings)
    elsewhere.mkdir()
    (elsewhere / "weights.bin").write_bytes(bytes((tmp_path / "weights.bin").stat().st_size))
    monkeypatch.chdir(elsewhere)
    beside = ModelFile(tmp_path / "beside.onnx", tiny.spec, tiny.header, "beside.onnx")
    for _ in range(2):
        with load_backend(beside, backend="ort", config=BackendConfig(cache_dir=tmp_path / "cache")) as backend:
            check(backend, 2)
    assert not caplog.records


def test_without_a_cache_nothing_is_written(tiny, tmp_path):
    for options in ({"cache": False}, {"graph_optimization_level": "disable"}):
        config = BackendConfig(cache_dir=tmp_path / "cache", options=options)
        with load_backend(tiny, backend="ort", config=config) as backend:
            check(backend, 1)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("from_file", [False, True])
def test_without_room_for_the_optimised_graph_loading_goes_on(tmp_path, monkeypatch, caplog, from_file):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not" / "there"))
    data = write(tmp_path / "m.onnx", light_detector()) if from_file else light_detector()
    with caplog.at_level(logging.WARNING), load_backend(model(data), backend="ort") as backend:
        assert backend.run({"input": bright_square()})["labels"].tolist() == [[0]]
    assert "no optimised graph is kept" in caplog.text


def test_on_a_full_disk_the_model_is_not_blamed(tiny, tmp_path, monkeypatch, caplog):
    import onnxruntime

    real = onnxruntime.InferenceSession

    def full(data, options, **rest):
        if options.optimized_model_filepath:
            raise RuntimeError("INVALID_PROTOBUF : Protobuf serialization failed.")
        return real(data, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    config = BackendConfig(cache_dir=tmp_path / "cache")
    with caplog.at_level(logging.WARNING), load_backend(tiny, backend="ort", config=config) as backend:
        check(backend, 2)
    assert "no optimised graph is kept" in caplog.text
    assert not list((tmp_path / "cache").rglob("*.onnx"))
