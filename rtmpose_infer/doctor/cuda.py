"""Which of driver, CUDA libraries and build do not fit together, in words and with the command that helps.

The rules: a build for CUDA n needs a driver that supports CUDA n or later (any minor version:
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html) and libraries of the same major
version n; CUDA 13 runs on Turing (compute capability 7.5) and later only. Which library is missing, the runtime's own
log says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtmpose_infer.doctor.findings import Finding

if TYPE_CHECKING:
    from rtmpose_infer.machine import CudaDriver, Machine
    from rtmpose_infer.workers import Answer

__all__ = ["cuda_findings", "explain_cuda_failure"]

# CUDA major version: oldest driver that runs it
_OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}
_OLDEST_CAPABILITY = {13: (7, 5)}
_LIBRARY = re.compile(
    r"\b(lib(?:cud|cub|cuf|cur|nv)\w+\.so[.\d]*|(?:cud|cub|cuf|cur|nv)\w+64_\d+\w*\.dll)", re.IGNORECASE
)


def cuda_findings(machine: Machine) -> Iterator[Finding]:
    """Yield what the NVIDIA driver says; nothing where there is none."""
    cuda = machine.cuda
    if cuda is None:
        if machine.cuda_problem:
            fix = "restart the machine, or reinstall the NVIDIA driver; in a container, start it with --gpus all"
            yield Finding("cuda", "warning", f"the NVIDIA driver does not answer: {machine.cuda_problem}", fix)
        return
    version = f" {cuda.version}" if cuda.version else ""
    supported = ".".join(map(str, cuda.cuda_version))
    facts = {"driver": cuda.version, "cuda": supported}
    if not cuda.gpus:
        fix = "unset CUDA_VISIBLE_DEVICES; in a container, start it with --gpus all"
        yield Finding("cuda", "warning", f"the NVIDIA driver{version} shows no GPU to this process", fix, facts)
        return
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in cuda.gpus)
    yield Finding("cuda", "ok", f"NVIDIA driver{version}, CUDA up to {supported}: {gpus}", facts=facts)


def explain_cuda_failure(answer: Answer, build: str, cuda: CudaDriver, *, device: str) -> tuple[str, str]:
    """Return why a CUDA device did not answer, and what helps.

    Args:
        answer: What came back of it, with its log.
        build: The CUDA version the runtime was built for; empty where it does not tell.
        cuda: The driver.
        device: The device or provider.
    """
    return _misfit(build, cuda) or _from_log(answer, build, cuda, device) or _unexplained(answer, device)


def _misfit(build: str, cuda: CudaDriver) -> tuple[str, str] | None:
    number = build.partition(".")[0]
    if not number.isdigit():
        return None
    major = int(number)
    if major > cuda.cuda_version[0]:
        supported = ".".join(map(str, cuda.cuda_version))
        return (
            f"was built for CUDA {build}; the driver {cuda.version} supports CUDA {supported} at most",
            f"update the NVIDIA driver to {_OLDEST_DRIVER.get(major, 'the newest')} or later",
        )
    oldest = _OLDEST_CAPABILITY.get(major)
    if oldest and cuda.gpus and all(gpu.compute_capability < oldest for gpu in cuda.gpus):
        return (
            f"was built for CUDA {build}, which no longer runs on {cuda.gpus[0].name}",
            "install a build for CUDA 12 (see the install page of ONNX Runtime), or use another device",
        )
    return None


def _from_log(answer: Answer, build: str, cuda: CudaDriver, device: str) -> tuple[str, str] | None:
    text = f"{answer.failure}\n{answer.log}"
    if "insufficient for CUDA runtime" in text:
        return f"needs a newer NVIDIA driver than {cuda.version or 'the one installed'}", "update the NVIDIA driver"
    if re.search(r"CUDNN_STATUS_\w*VERSION_MISMATCH", text):
        fix = (
            "remove the older cuDNN from LD_LIBRARY_PATH (PATH on Windows), and: "
            "pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'"
        )
        return "finds parts of two cuDNN versions", fix
    missing = sorted(set(_LIBRARY.findall(text)))
    if not missing:
        return None
    libraries = ", ".join(missing)
    if any("nvinfer" in library or "nvonnx" in library for library in missing):
        return f"does not find TensorRT: {libraries}", "pip install 'rtmpose-infer[tensorrt]'"
    wanted = f" of CUDA {build}" if build else ""
    brings = "onnxruntime-gpu[cuda,cudnn]" if device.endswith("ExecutionProvider") else "rtmpose-infer[tensorrt]"
    return f"does not find {libraries}{wanted}", f"pip install '{brings}'"


def _unexplained(answer: Answer, device: str) -> tuple[str, str]:
    if answer.kind in {"crashed", "timed out"}:
        fix = "update the NVIDIA driver, and look at `nvidia-smi` for a GPU that hangs or is full"
        return f"{device} does not survive the test: {answer.failure}", fix
    return f"is listed but does not answer: {answer.failure}", "see the log in `rtmpose doctor --json`"
