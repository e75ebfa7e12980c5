"""The machine is described by what it says of itself; what it does not say is absent."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from rtmpose_infer import machine
from rtmpose_infer.machine import (
    describe_machine,
    git_revision,
    installed_versions,
    peak_memory_bytes,
    probe_cuda_driver,
    usable_cpus,
)
from rtmpose_infer.workers import Answer

X86 = "processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 fma avx512f avx512_vnni amx_int8\n"
ARM = "processor : 0\nFeatures\t: fp asimd asimddp bf16\n\nModel\t: A small board\n"


def test_this_machine_has_a_processor_and_is_json():
    found = describe_machine()
    assert found.cpu
    assert 0 < found.usable_cpus <= found.cpus
    assert found.python.startswith("3.")
    assert json.loads(json.dumps(asdict(found)))["system"] == found.system


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (X86, "Some CPU @ 2 GHz", ("AVX2", "FMA", "AVX-512", "AVX-512 VNNI", "AMX INT8")),
        (ARM, "A small board", ("NEON", "dot product", "BF16")),
    ],
)
def test_the_processor_is_read_from_cpuinfo(monkeypatch, text, name, features):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: text)
    found = describe_machine()
    assert (found.cpu, found.cpu_features) == (name, features)


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_bounds_the_usable_processors(tmp_path, files, most):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    unlimited = usable_cpus(cgroup=tmp_path / "absent")
    assert usable_cpus(cgroup=tmp_path) == (unlimited if most is None else most)


def test_versions_name_what_is_installed_and_nothing_else():
    found = installed_versions()
    assert found["numpy"] == np.__version__
    assert any(name.startswith("opencv-") for name in found)
    assert "pytest" not in found


def test_revision_is_the_checkouts_and_marks_changes(tmp_path):
    def git(*words):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_revision(tmp_path) == ""
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert git_revision(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_revision(tmp_path) == commit + "+"


def test_peak_memory_grows_with_what_is_held_and_never_shrinks():
    before = peak_memory_bytes()
    if before is None:
        pytest.skip("this system does not tell a process its memory peak")
    array = np.ones(max(before, 2**27), np.uint8)
    after = peak_memory_bytes()
    assert after > before
    del array
    assert peak_memory_bytes() >= after - 2**21  # the kernel counts in batches


def test_a_driver_that_fails_is_told_apart_from_none(monkeypatch):
    def answering(answer):
        monkeypatch.setattr(machine.Worker, "call", lambda self, request, timeout_s: answer)
        return probe_cuda_driver()

    assert answering(Answer(value=None)) == (None, "")
    assert answering(Answer(failure="no answer within 30 s", kind="timed out")) == (None, "no answer within 30 s")
    gpu = {"name": "A GPU", "memory_bytes": 2**30, "compute_capability": [8, 6]}
    driver, why = answering(Answer(value={"cuda_version": [12, 4], "version": "550.54.15", "gpus": [gpu]}))
    assert why == ""
    assert driver.cuda_version == (12, 4)
    assert driver.gpus[0].compute_capability == (8, 6)


@pytest.mark.skipif(sys.platform == "win32", reason="the library is called otherwise there")
def test_the_driver_interface_is_called_as_its_header_says(monkeypatch):
    """A stand-in with the C signatures of cuda.h, since most test machines have no NVIDIA driver."""

    class Cuda:
        def cuDriverGetVersion(self, version):  # noqa: N802
            version._obj.value = 12040
            return 0

        def cuInit(self, flags):  # noqa: N802
            assert flags == 0
            return self.init

        def cuDeviceGetCount(self, count):  # noqa: N802
            count._obj.value = 1
            return 0

        def cuDeviceGet(self, device, ordinal):  # noqa: N802
            device._obj.value = ordinal
            return 0

        def cuDeviceGetName(self, name, length, device):  # noqa: N802
            name.value = b"A GPU"[: length - 1]
            return 0

        def cuDeviceTotalMem_v2(self, size, device):  # noqa: N802
            size._obj.value = 8 * 2**30
            return 0

        def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
            value._obj.value = {75: 8, 76: 6}[attribute]
            return 0

        init = 0

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Cuda())
    monkeypatch.setattr(machine, "_driver_version", lambda: "550.54.15")
    found = machine.read_cuda_driver({})
    assert found == {
        "cuda_version": [12, 4],
        "version": "550.54.15",
        "gpus": [{"name": "A GPU", "memory_bytes": 8 * 2**30, "compute_capability": [8, 6]}],
    }
    monkeypatch.setattr(Cuda, "init", 100)
    with pytest.raises(OSError, match="cuInit failed with CUDA error 100"):
        machine.read_cuda_driver({})
