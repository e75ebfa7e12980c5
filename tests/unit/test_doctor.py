"""The doctor finds what is wrong and names the command that mends it; each case is one that users have met."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from dataclasses import replace
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from rtmpose_infer import backends, doctor
from rtmpose_infer.backends import BackendConfig, load_backend, own_form
from rtmpose_infer.cache import CACHE_VARIABLE
from rtmpose_infer.doctor import examination, files
from rtmpose_infer.doctor.probes import answer
from rtmpose_infer.doctor.tiny_model import expected_answer, tiny_input, tiny_model, tiny_onnx
from rtmpose_infer.errors import InputError
from rtmpose_infer.machine import CudaDriver, Gpu, Machine
from rtmpose_infer.model_spec import ModelSpec
from rtmpose_infer.onnx_file import read_onnx_header
from rtmpose_infer.workers import Answer
from rtmpose_infer.zoo import Verification

GPU = Gpu("A GPU", 8 * 2**30, (8, 6))
DRIVER = CudaDriver((12, 4), "550.54.15", (GPU,))
MACHINE = Machine(
    system="Linux 6 x86_64",
    cpu="Some CPU",
    cpus=8,
    usable_cpus=1000.0,
    cpu_features=("AVX2",),
    memory_bytes=2**34,
    cuda=None,
    cuda_problem="",
    python="3.11",
)
ORT_CPU = {"version": "1.22", "package": "onnxruntime", "cuda_version": "", "devices": {"CPUExecutionProvider": "CPU"}}
ORT_GPU = {
    "version": "1.22",
    "package": "onnxruntime-gpu",
    "cuda_version": "12.8",
    "devices": {name: name for name in ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")},
}
# What ONNX Runtime writes on standard error when its libraries are not there.
MISSING = (
    "[E:onnxruntime:Default, provider_bridge_ort.cc:2167 TryGetProviderInfo_CUDA] Failed to load library "
    "libonnxruntime_providers_cuda.so with error: {}: cannot open shared object file: No such file or directory"
)


class World:
    """An environment to examine: what is installed, and what every question is answered with."""

    def __init__(self, monkeypatch):
        self.machine = MACHINE
        self.versions = {"opencv-python-headless": "4.10", "onnxruntime": "1.22"}
        self.runtimes = {"onnxruntime": Answer(value=ORT_CPU)}
        self.devices = {}
        self.modules = {
            "cv2": Answer(value={"version": "4.10"}),
            "av": Answer(value={"version": "14", "h264_encoders": ["libx264"]}),
        }
        self.asked = []
        monkeypatch.setattr(examination, "describe_machine", lambda: self.machine)
        monkeypatch.setattr(examination, "installed_versions", lambda: self.versions)
        monkeypatch.setattr(examination, "backend_names", lambda: ("onnxruntime", "openvino", "tensorrt", "ncnn"))
        monkeypatch.setattr(examination, "canonical_name", lambda name: {"ort": "onnxruntime"}.get(name, name))
        monkeypatch.setattr(examination, "is_installed", lambda name: name in self.runtimes)
        monkeypatch.setattr(examination, "cache_findings", lambda: iter(()))
        monkeypatch.setattr(examination, "model_findings", lambda: iter(()))

    def ask(self, request):
        self.asked.append(dict(request))
        if request["ask"] == "import":
            return self.modules[request["module"]]
        if request["ask"] == "runtime":
            return self.runtimes[request["backend"]]
        works = {
            "backend": request["backend"].replace("auto", "onnxruntime"),
            "device": request["device"].removesuffix("ExecutionProvider").lower().replace("auto", "cpu"),
            "load_ms": 20.0,
            "first_run_ms": 1.0,
        }
        return self.devices.get((request["backend"], request["device"]), Answer(value=works))

    def examine(self, **options):
        self.result = doctor.examine(ask=self.ask, **options)
        return {finding.check: finding for finding in self.result.findings}


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_a_good_environment_has_no_warnings_and_exit_code_0(world):
    found = world.examine()
    assert {f.severity for f in found.values()} <= {"ok", "note"}
    assert found["onnxruntime:cpu"].severity == "ok"
    assert found["auto"].message == 'backend "auto" takes onnxruntime on cpu'
    assert found["openvino"].fix == "pip install 'rtmpose-infer[openvino]'"
    assert world.result.exit_code() == world.result.exit_code(strict=True) == 0
    assert json.loads(json.dumps(world.result.to_dict()))["healthy"] is True


def test_every_finding_that_is_not_fine_says_what_to_do(world):
    world.machine = replace(MACHINE, cuda=DRIVER, cpu_features=("SSE",))
    world.versions |= {"onnxruntime-gpu": "1.22", "opencv-python": "4.10"}
    world.runtimes = {"onnxruntime": Answer(value=ORT_GPU), "openvino": Answer(failure="broken", kind="raised")}
    world.devices = {("onnxruntime", "CUDAExecutionProvider"): Answer(failure="no", kind="crashed")}
    found = world.examine(require=["ncnn"])
    assert [f.check for f in found.values() if f.severity != "ok" and not f.fix] == []


def test_no_runtime_at_all_is_an_error_that_names_the_extra(world):
    world.runtimes = {}
    finding = world.examine()["runtimes"]
    assert finding.severity == "error"
    assert "rtmpose-infer[cpu]" in finding.fix
    assert world.result.exit_code() == 1


def test_two_builds_of_onnxruntime_are_told_with_the_command_that_leaves_one(world):
    world.versions["onnxruntime-gpu"] = "1.22"
    finding = world.examine()["onnxruntime.flavours"]
    assert finding.severity == "warning"
    assert finding.fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install")
    assert "rtmpose-infer[cpu]" in finding.fix
    assert world.result.exit_code(strict=True) == 1


def test_two_builds_that_leave_a_gpu_idle_are_an_error(world):
    world.machine = replace(MACHINE, cuda=DRIVER)
    world.versions["onnxruntime-gpu"] = "1.22"
    finding = world.examine()["onnxruntime.flavours"]
    assert finding.severity == "error"
    assert "rtmpose-infer[gpu]" in finding.fix


def test_a_gpu_that_the_only_build_cannot_use_is_a_warning(world):
    world.machine = replace(MACHINE, cuda=DRIVER)
    finding = world.examine()["onnxruntime.flavours"]
    assert finding.severity == "warning"
    assert finding.fix == "pip uninstall -y onnxruntime && pip install 'rtmpose-infer[gpu]'"


def test_extensions_of_onnxruntime_are_no_second_build(world):
    world.versions["onnxruntime-extensions"] = "0.14"
    assert "onnxruntime.flavours" not in world.examine()


def test_two_opencv_flavours_are_a_warning(world):
    world.versions["opencv-python"] = "4.10"
    finding = world.examine()["opencv"]
    assert finding.severity == "warning"
    assert finding.fix.endswith("&& pip install opencv-python-headless")
    assert "opencv-python " in finding.fix


def test_an_opencv_that_wants_a_display_is_an_error(world):
    world.modules["cv2"] = Answer(failure="libGL.so.1: cannot open shared object file", kind="raised")
    finding = world.examine()["opencv"]
    assert finding.severity == "error"
    assert "headless" in finding.message


@pytest.mark.parametrize(
    ("reply", "severity"),
    [
        (Answer(failure="No module named 'av'", kind="raised", error_type="ModuleNotFoundError"), "note"),
        (Answer(failure="libav.so: wrong version", kind="raised", error_type="ImportError"), "error"),
        (Answer(value={"version": "14", "h264_encoders": []}), "warning"),
    ],
)
def test_video_support_is_told_missing_from_broken_from_poor(world, reply, severity):
    world.modules["av"] = reply
    assert world.examine()["video"].severity == severity


class TestGpuBuild:
    @pytest.fixture
    def cuda(self, world):
        """Answers as on a machine with a GPU and the GPU build, of which the CUDA provider fails in the given way."""

        def examine(*, failure="did not start", log="", kind="raised", build="12.8", driver=DRIVER):
            world.machine = replace(MACHINE, cuda=driver)
            world.versions = {"onnxruntime-gpu": "1.22", "opencv-python-headless": "4.10"}
            world.runtimes["onnxruntime"] = Answer(value=ORT_GPU | {"cuda_version": build})
            reply = Answer(failure=failure, kind=kind, error_type="DeviceUnavailableError", log=log)
            world.devices = {
                ("onnxruntime", "CUDAExecutionProvider"): reply,
                ("onnxruntime", "TensorrtExecutionProvider"): Answer(
                    failure="did not start", kind="raised", log=MISSING.format("libnvinfer.so.10")
                ),
            }
            return world.examine()

        return examine

    @pytest.mark.parametrize("library", ["libcublasLt.so.12", "libcudnn.so.9", "libcudart.so.12", "cudnn64_9.dll"])
    def test_a_missing_library_is_named_with_what_brings_it(self, cuda, library):
        finding = cuda(log=MISSING.format(library))["onnxruntime:cuda"]
        assert finding.severity == "error"
        assert finding.message == f"does not find {library} of CUDA 12.8"
        assert finding.fix == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        assert library in finding.facts["log"]

    def test_a_driver_too_old_for_the_build_is_named_with_the_one_that_fits(self, cuda):
        finding = cuda(build="13.0", log=MISSING.format("libcudart.so.13"))["onnxruntime:cuda"]
        assert "was built for CUDA 13.0; the driver 550.54.15 supports CUDA 12.4 at most" in finding.message
        assert finding.fix == "update the NVIDIA driver to 580 or later"

    def test_a_newer_minor_version_than_the_drivers_is_fine(self, cuda):
        assert "built for" not in cuda(build="12.8")["onnxruntime:cuda"].message

    def test_a_gpu_that_cuda_13_dropped_is_named(self, cuda):
        old = CudaDriver((13, 0), "580.65", (Gpu("An old GPU", 2**33, (6, 1)),))
        finding = cuda(build="13.0", driver=old)["onnxruntime:cuda"]
        assert "no longer runs on An old GPU" in finding.message

    def test_the_runtimes_own_word_on_the_driver_is_understood(self, cuda):
        finding = cuda(build="", log="CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version")
        assert finding["onnxruntime:cuda"].fix == "update the NVIDIA driver"

    def test_two_cudnn_versions_are_told(self, cuda):
        finding = cuda(log="CUDNN failure 1002: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH")["onnxruntime:cuda"]
        assert "two cuDNN versions" in finding.message
        assert "LD_LIBRARY_PATH" in finding.fix

    @pytest.mark.parametrize("kind", ["crashed", "timed out"])
    def test_a_driver_that_takes_the_process_down_is_one_finding_among_others(self, cuda, kind):
        found = cuda(kind=kind, failure="the process was ended by SIGSEGV")
        assert found["onnxruntime:cuda"].severity == "error"
        assert "SIGSEGV" in found["onnxruntime:cuda"].message
        assert found["onnxruntime:cpu"].severity == "ok"

    def test_a_missing_tensorrt_is_only_a_note(self, cuda):
        finding = cuda()["onnxruntime:tensorrt"]
        assert finding.severity == "note"
        assert finding.fix == "pip install 'rtmpose-infer[tensorrt]'"

    def test_without_a_driver_the_gpu_devices_are_not_even_asked(self, cuda, world):
        found = cuda(driver=None)
        assert found["onnxruntime:cuda"].severity == "warning"
        assert "driver" in found["onnxruntime:cuda"].message
        assert not [q for q in world.asked if q.get("device") == "CUDAExecutionProvider"]


def test_a_tensorrt_of_another_cuda_is_known_by_its_packages(world):
    world.machine = replace(MACHINE, cuda=DRIVER)
    world.versions |= {"tensorrt": "11.4", "tensorrt-cu13-libs": "11.4"}
    world.runtimes["tensorrt"] = Answer(value={"version": "11.4", "devices": {"cuda": "NVIDIA GPU"}})
    world.devices = {("tensorrt", "cuda"): Answer(failure="CUDA initialization failure 35", kind="raised")}
    finding = world.examine()["tensorrt:cuda"]
    assert "was built for CUDA 13; the driver 550.54.15 supports CUDA 12.4" in finding.message


def test_a_driver_that_does_not_answer_and_one_without_gpus_are_warnings(world):
    world.machine = replace(MACHINE, cuda_problem="no answer within 30 s")
    assert "no answer within 30 s" in world.examine()["cuda"].message
    world.machine = replace(MACHINE, cuda=CudaDriver((12, 4), "550", ()))
    found = world.examine()["cuda"]
    assert found.severity == "warning"
    assert "CUDA_VISIBLE_DEVICES" in found.fix


def test_a_runtime_that_does_not_start_is_an_error_and_the_others_are_still_asked(world):
    world.runtimes["openvino"] = Answer(failure="undefined symbol", kind="raised", log="details")
    found = world.examine()
    assert found["openvino"].severity == "error"
    assert "undefined symbol" in found["openvino"].message
    assert found["onnxruntime:cpu"].severity == "ok"


def test_a_device_that_computes_wrongly_is_a_warning(world):
    world.runtimes["ncnn"] = Answer(value={"version": "1", "devices": {"cpu": "CPU", "vulkan:0": "A software GPU"}})
    world.devices = {("ncnn", "vulkan:0"): Answer(failure="computes wrongly", kind="raised")}
    found = world.examine()
    assert found["ncnn:vulkan:0"].severity == "warning"
    assert found["ncnn:cpu"].severity == "ok"


def test_a_containers_quota_is_told_with_the_threads_to_ask_for(world, monkeypatch):
    monkeypatch.setattr(examination.os, "sched_getaffinity", lambda pid: range(64), raising=False)
    world.machine = replace(MACHINE, cpus=64, usable_cpus=2.5)
    finding = world.examine()["processor.quota"]
    assert finding.severity == "warning"
    assert "threads=2" in finding.fix


@pytest.mark.parametrize(
    ("required", "severity"),
    [
        ("onnxruntime", "ok"),
        ("ort:cpu", "ok"),
        ("auto", "ok"),
        ("onnxruntime:cuda", "error"),
        ("openvino", "error"),
    ],
)
def test_what_is_required_decides_the_exit_code(world, required, severity):
    world.examine(require=[required])
    assert world.result.findings[-1].severity == severity
    assert world.result.exit_code() == (severity == "error")


def test_gpu_means_cuda_where_it_answers(world):
    world.machine = replace(MACHINE, cuda=DRIVER)
    world.runtimes["onnxruntime"] = Answer(value=ORT_GPU)
    world.examine(require=["onnxruntime:gpu"])
    assert world.result.findings[-1].severity == "ok"


def test_an_unknown_required_backend_is_refused(monkeypatch):
    with pytest.raises(InputError, match="unknown backend 'tensorflow'"):
        doctor.examine(require=["tensorflow"], ask=lambda request: Answer(value={}))


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
        return tmp_path / "cache"

    def findings(self):
        return {finding.check: finding for finding in files.cache_findings()}

    def test_a_cache_that_does_not_exist_yet_is_fine_and_stays_so(self, folder):
        assert self.findings()["cache"].severity == "ok"
        assert not folder.exists()

    def test_what_lies_in_it_is_counted(self, folder):
        (folder / "models").mkdir(parents=True)
        (folder / "models" / "a").write_bytes(bytes(2**20))
        finding = self.findings()["cache"]
        assert finding.message.endswith("1 files, 1 MiB")
        assert CACHE_VARIABLE in finding.message

    def test_a_file_in_its_place_is_an_error(self, folder):
        folder.write_text("in the way")
        assert self.findings()["cache"].severity == "error"

    def test_a_folder_that_cannot_be_written_is_a_warning(self, folder, monkeypatch):
        folder.mkdir()
        monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # also where tests run as root
        finding = self.findings()["cache"]
        assert finding.severity == "warning"
        assert CACHE_VARIABLE in finding.fix

    @pytest.mark.skipif(sys.platform == "win32", reason="other permissions there")
    def test_a_cache_that_everyone_may_write_is_a_warning(self, folder):
        folder.mkdir()
        folder.chmod(0o777)
        assert self.findings()["cache.permissions"].fix == f"chmod -R o-w {folder}"

    def test_old_unfinished_files_are_told_and_fresh_ones_are_not(self, folder):
        folder.mkdir()
        for name, age in (("old.part", 2 * 24 * 3600), ("fresh.part", 0)):
            (folder / name).touch()
            os.utime(folder / name, (time.time() - age,) * 2)
        finding = self.findings()["cache.leftovers"]
        assert "old.part" in finding.fix
        assert "fresh.part" not in finding.fix

    def test_a_full_disk_is_a_warning(self, folder, monkeypatch):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
        assert self.findings()["cache.space"].severity == "warning"


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        ("onnx", "rtmpose models fetch a-model --force"),
        ("embedded", "pip install --force-reinstall --no-deps rtmpose-infer"),
    ],
)
def test_a_damaged_model_is_an_error_with_the_command_that_replaces_it(monkeypatch, tmp_path, kind, fix):
    monkeypatch.setattr(files.zoo, "list_models", lambda: [type("Info", (), {"name": "a-model"})])
    monkeypatch.setattr(files.zoo, "verify", lambda name: (Verification(name, kind, tmp_path / "x", "wrong hash"),))
    (finding,) = files.model_findings()
    assert (finding.severity, finding.fix) == ("error", fix)
    assert "wrong hash" in finding.message


class TestTinyModel:
    def test_it_is_a_whole_onnx_file(self):
        header = read_onnx_header(tiny_onnx())
        assert [(t.name, t.shape, t.dtype) for t in header.inputs] == [("picture", (1, 3, 8, 8), "float32")]
        assert [(t.name, t.shape, t.dtype) for t in header.outputs] == [("features", (1, 4, 8, 8), "float32")]

    def test_the_onnx_package_finds_nothing_wrong_with_it(self):
        onnx = pytest.importorskip("onnx")
        onnx.checker.check_model(onnx.load_from_string(tiny_onnx()), full_check=True)

    def test_a_runtime_agrees_with_numpy(self, tmp_path):
        pytest.importorskip("onnxruntime")
        with load_backend(tiny_model(tmp_path), backend="onnxruntime", config=BackendConfig(device="cpu")) as backend:
            result = backend.run({"picture": tiny_input()})["features"]
        np.testing.assert_allclose(result, expected_answer(), rtol=1e-6)

    def test_ncnn_computes_the_same_from_its_two_files(self, tmp_path):
        ncnn = pytest.importorskip("ncnn")
        model = own_form(tiny_model(tmp_path), "ncnn")
        net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        assert net.load_param(str(model.data)) == 0
        assert net.load_model(str(model.data.with_suffix(".bin"))) == 0
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(tiny_input()[0]).clone())
            _, result = extractor.extract("out0")
            np.testing.assert_allclose(np.array(result), expected_answer()[0], atol=0.5)
        assert ModelSpec.from_json(model.data.with_suffix(".json").read_text()) == model.spec


def test_a_folder_that_bears_a_runtimes_name_is_no_runtime(world, monkeypatch):
    monkeypatch.setattr(examination, "is_installed", backends.is_installed)
    monkeypatch.setattr(examination, "backend_names", lambda: ("tensorrt",))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None, is_package=True))
    world.runtimes["tensorrt"] = Answer(failure="module 'tensorrt' has no attribute 'Logger'", kind="raised")
    assert world.examine()["tensorrt"].message == "tensorrt is not installed"


class TestProbes:
    def test_auto_is_asked_for_what_the_one_runtime_that_is_here_reads(self, monkeypatch):
        pytest.importorskip("ncnn", reason="the ncnn extra is not installed")
        monkeypatch.setattr(backends, "is_installed", lambda name: name == "ncnn")
        assert answer({"ask": "device", "backend": "auto", "device": "auto"})["backend"] == "ncnn"

    def test_a_device_is_proved_by_a_right_answer(self):
        pytest.importorskip("onnxruntime")
        facts = answer({"ask": "device", "backend": "onnxruntime", "device": "CPUExecutionProvider"})
        assert facts["device"] == "cpu"
        assert facts["relative_error"] < 1e-6

    def test_a_wrong_answer_is_an_error(self, monkeypatch):
        pytest.importorskip("onnxruntime")
        monkeypatch.setattr("rtmpose_infer.doctor.probes.expected_answer", lambda: expected_answer() + 5)
        with pytest.raises(Exception, match="computes wrongly"):
            answer({"ask": "device", "backend": "onnxruntime", "device": "cpu"})

    def test_a_runtime_tells_its_version_and_devices(self):
        ort = pytest.importorskip("onnxruntime")
        facts = answer({"ask": "runtime", "backend": "onnxruntime"})
        assert facts["version"] == ort.__version__
        assert "CPUExecutionProvider" in facts["devices"]
        assert "AzureExecutionProvider" not in facts["devices"]

    def test_a_build_of_onnx_runtime_need_not_say_what_it_was_built_for(self, monkeypatch):
        ort = pytest.importorskip("onnxruntime")
        monkeypatch.setitem(sys.modules, "onnxruntime.capi.build_and_package_info", None)
        facts = answer({"ask": "runtime", "backend": "onnxruntime"})
        assert (facts["version"], facts["cuda_version"]) == (ort.__version__, "")

    def test_modules_are_tried_and_not_only_imported(self):
        assert answer({"ask": "import", "module": "cv2"})["version"]


def test_this_environment_can_be_examined(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    result = doctor.examine(require=["onnxruntime:cpu"])
    found = {finding.check: finding for finding in result.findings}
    assert found["require:onnxruntime:cpu"].severity == "ok"
    assert found["onnxruntime:cpu"].facts["relative_error"] < 1e-6
    assert result.versions["numpy"] == np.__version__
