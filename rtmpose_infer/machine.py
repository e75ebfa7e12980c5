"""Facts about this computer and this Python environment, for reports: read from the system, never guessed.

A measurement without its machine is worth little, and most failures of GPU inference are libraries that do not fit
together. What cannot be read here is absent (an empty text, an empty tuple, None). The NVIDIA driver is asked through
its own C interface in a process of its own, because a broken driver may never answer; ``nvidia-smi`` is not needed,
and containers often lack it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rtmpose_infer.workers import Worker

__all__ = [
    "CudaDriver",
    "Gpu",
    "Machine",
    "describe_machine",
    "git_revision",
    "installed_versions",
    "peak_memory_bytes",
    "probe_cuda_driver",
    "read_cuda_driver",
    "usable_cpus",
]

# Flags of /proc/cpuinfo that decide how fast a network runs, and how reports call them.
_FLAGS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}
_OPENCV_FLAGS = {11: "AVX2", 12: "FMA", 9: "F16C", 13: "AVX-512", 100: "NEON"}
_RUNTIME_NAMES = re.compile(
    r"(numpy|opencv-(contrib-)?python(-headless)?|onnxruntime.*|openvino|tensorrt.*|cuda-(python|bindings|core)|pycuda|"
    r"ncnn|av|nvidia-(cudnn|cublas|cuda-runtime|cuda-nvrtc|cufft|curand).*|torch|typer|rich)"
)
_DRIVER_TIMEOUT_S = 30.0
_COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: Product name.
        memory_bytes: Its memory.
        compute_capability: Major and minor.
    """

    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class CudaDriver:
    """What the NVIDIA driver says.

    Attributes:
        cuda_version: The newest CUDA it supports, major and minor.
        version: Version of the driver, such as ``"550.54.15"``; empty where it cannot be read.
        gpus: The GPUs this process may use.
    """

    cuda_version: tuple[int, int]
    version: str
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Machine:
    """The computer a measurement was made on.

    Attributes:
        system: Operating system and processor architecture.
        cpu: Model name of the processor.
        cpus: Logical processors of the machine.
        usable_cpus: How many of them this process may use at once: affinity and the container's quota.
        cpu_features: Vector and matrix extensions that matter to networks.
        memory_bytes: Physical memory, or the container's limit where that is lower; None where unknown.
        cuda: The NVIDIA driver and its GPUs; None without one.
        cuda_problem: Why an NVIDIA driver that is installed does not answer; empty if it does.
        python: Version and implementation of Python.
    """

    system: str
    cpu: str
    cpus: int
    usable_cpus: float
    cpu_features: tuple[str, ...]
    memory_bytes: int | None
    cuda: CudaDriver | None
    cuda_problem: str
    python: str


def describe_machine() -> Machine:
    """Return this computer; takes a fraction of a second, because the GPU driver is asked in a process of its own."""
    cuda, cuda_problem = probe_cuda_driver()
    info = _cpuinfo()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_name(info),
        cpus=os.cpu_count() or 1,
        usable_cpus=usable_cpus(),
        cpu_features=_cpu_features(info),
        memory_bytes=_memory_bytes(),
        cuda=cuda,
        cuda_problem=cuda_problem,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
    )


def usable_cpus(*, cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many processors this process may keep busy: its affinity, and the quota of its container.

    Args:
        cgroup: Where Linux shows the container's limits.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota, period = (_text(cgroup / "cpu.max") or "max 100000").split()[:2]
    if quota == "max":  # the older form of control groups
        quota = _text(cgroup / "cpu/cpu.cfs_quota_us") or "-1"
        period = _text(cgroup / "cpu/cpu.cfs_period_us") or "100000"
    if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
        count = min(count, int(quota) / int(period))
    return count


def installed_versions() -> dict[str, str]:
    """Return the installed distributions that matter to inference, name to version, sorted."""
    found = {}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if _RUNTIME_NAMES.fullmatch(name):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def git_revision(folder: Path | None = None) -> str:
    """Return the commit of the checkout this package runs from, with ``+`` when files differ; empty outside of one.

    Args:
        folder: Top of the checkout; by default the folder that holds the package.
    """
    folder = Path(__file__).resolve().parents[1] if folder is None else folder
    if not (folder / ".git").exists():
        return ""
    commit = _command("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    changed = _command("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return commit + ("+" if commit and changed else "")


def peak_memory_bytes() -> int | None:
    """Return the most memory this process has held so far, or None where the system does not tell."""
    status = _text(Path("/proc/self/status"))
    # getrusage would include what the parent process held at the moment of the fork.
    if match := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
        return int(match[1]) * 1024
    if sys.platform == "win32":
        return _peak_memory_windows()
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def probe_cuda_driver() -> tuple[CudaDriver | None, str]:
    """Return the NVIDIA driver's answer, or None and why there is none (empty: no driver is installed)."""
    with Worker("rtmpose_infer.machine:read_cuda_driver") as worker:
        answer = worker.call({}, timeout_s=_DRIVER_TIMEOUT_S)
    if not answer.ok:
        return None, answer.failure
    if answer.value is None:
        return None, ""
    return (
        CudaDriver(
            cuda_version=tuple(answer.value["cuda_version"]),
            version=answer.value["version"],
            gpus=tuple(
                Gpu(gpu["name"], gpu["memory_bytes"], tuple(gpu["compute_capability"])) for gpu in answer.value["gpus"]
            ),
        ),
        "",
    )


def read_cuda_driver(request: Mapping[str, Any]) -> dict[str, Any] | None:  # noqa: ARG001  # a worker's handler
    """Ask the CUDA driver interface what there is; None without a driver. May hang: run it in a worker.

    Raises:
        OSError: The driver answers with an error; the text has its code.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return None

    def call(function: str, *arguments: Any) -> None:
        status = getattr(cuda, function)(*arguments)
        if status != 0:
            raise OSError(f"the NVIDIA driver is installed, but {function} failed with CUDA error {status}")

    supported = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(supported))
    call("cuInit", 0)
    count = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    gpus = []
    for index in range(count.value):
        device, text, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDeviceGetName", text, len(text), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        capability = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
            value = ctypes.c_int()
            call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            capability.append(value.value)
        gpus.append(
            {
                "name": text.value.decode(errors="replace"),
                "memory_bytes": memory.value,
                "compute_capability": capability,
            }
        )
    return {
        "cuda_version": [supported.value // 1000, supported.value % 1000 // 10],
        "version": _driver_version(),
        "gpus": gpus,
    }


def _driver_version() -> str:
    kernel_module = _text(Path("/proc/driver/nvidia/version"))
    if match := re.search(r"Kernel Module.*?\s(\d{3}\.\d+(?:\.\d+)?)\s", kernel_module):
        return match[1]
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0:
            return text.value.decode(errors="replace")
    except (OSError, AttributeError):
        pass
    return ""


def _cpuinfo() -> str:
    return _text(Path("/proc/cpuinfo"))


def _cpu_name(cpuinfo: str) -> str:
    if match := re.search(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        return match[1].strip()
    if sys.platform == "darwin":
        return _command("sysctl", "-n", "machdep.cpu.brand_string")
    board = _text(Path("/sys/firmware/devicetree/base/model")).strip("\0 \n")
    return board or platform.processor() or platform.machine()


def _cpu_features(cpuinfo: str) -> tuple[str, ...]:
    if match := re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        flags = set(match[1].split())
        return tuple(name for flag, name in _FLAGS.items() if flag in flags)
    try:
        import cv2
    except ImportError:  # reports are also made of environments whose OpenCV is broken
        return ()
    return tuple(name for number, name in _OPENCV_FLAGS.items() if cv2.checkHardwareSupport(number))


def _memory_bytes() -> int | None:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _text(Path("/sys/fs/cgroup/memory.max"))
    return min(total, int(limit)) if limit.isdigit() else total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if sys.platform == "win32":

    def _peak_memory_windows() -> int | None:
        class Counters(ctypes.Structure):
            _fields_ = [
                ("cb", ctypes.c_ulong),
                ("page_faults", ctypes.c_ulong),
                *((name, ctypes.c_size_t) for name in ("peak_working_set", "working_set", *"abcdef")),
            ]

        counters = Counters()
        counters.cb = ctypes.sizeof(counters)
        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        process = ctypes.c_void_p(kernel.GetCurrentProcess())
        if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb):
            return None
        return int(counters.peak_working_set)
