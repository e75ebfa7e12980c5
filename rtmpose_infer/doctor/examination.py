"""The order of the examination: first what is installed, then every device in turn, then the files."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rtmpose_infer.backends import backend_names, canonical_name, extra_of, is_installed
from rtmpose_infer.doctor.cuda import cuda_findings, explain_cuda_failure
from rtmpose_infer.doctor.files import cache_findings, model_findings
from rtmpose_infer.doctor.findings import Examination, Finding, Severity
from rtmpose_infer.machine import Machine, describe_machine, installed_versions
from rtmpose_infer.version import __version__
from rtmpose_infer.workers import Answer, Worker

__all__ = ["Ask", "ask_in_worker", "examine"]

Ask = Callable[[Mapping[str, str]], Answer]

_TIMEOUT_S = 90.0  # the first use of a GPU may compile kernels
_AT_ONCE = 4
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_CUDA_DEVICES = {"CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "cuda"}
# Providers that the GPU build always lists and most users do not have the libraries for.
_OPTIONAL_DEVICES = {"TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"}


def ask_in_worker(request: Mapping[str, str]) -> Answer:
    """Ask one question of ``probes.answer`` in a process of its own."""
    with Worker("rtmpose_infer.doctor.probes:answer") as worker:
        return worker.call(request, timeout_s=_TIMEOUT_S)


def examine(*, require: Sequence[str] = (), ask: Ask = ask_in_worker) -> Examination:
    """Return what is installed, what works, and how to mend what does not. Takes some seconds and changes nothing.

    Args:
        require: Backends that must work, such as ``"openvino"`` or ``"onnxruntime:cuda"`` (with a device); each that
            does not is an error.
        ask: How questions that may crash the process are asked.

    Raises:
        InputError: ``require`` names an unknown backend.
    """
    wanted = [_required(text) for text in require]
    machine, versions = describe_machine(), installed_versions()
    found: list[Finding] = [*_python(machine), *_processors(machine), *cuda_findings(machine)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        modules = {name: pool.submit(ask, {"ask": "import", "module": name}) for name in ("cv2", "av")}
        installed = [name for name in backend_names() if is_installed(name)]
        runtimes = dict(
            zip(installed, pool.map(lambda n: ask({"ask": "runtime", "backend": n}), installed), strict=True)
        )
        questions = [
            (name, device)
            for name, reply in runtimes.items()
            if reply.ok
            for device in reply.value["devices"]
            if not (device in _CUDA_DEVICES and machine.cuda is None)
        ]
        devices = dict(
            zip(
                questions,
                pool.map(lambda q: ask({"ask": "device", "backend": q[0], "device": q[1]}), questions),
                strict=True,
            )
        )
        automatic = ask({"ask": "device", "backend": "auto", "device": "auto"}) if installed else None
        found += _opencv(modules["cv2"].result(), versions)
        found += _video(modules["av"].result())
    found += _flavours(versions, runtimes.get("onnxruntime"), machine)
    for name in backend_names():
        runtime = runtimes.get(name)
        if runtime is None:
            found.append(
                Finding(name, "note", f"{name} is not installed", f"pip install 'rtmpose-infer[{extra_of(name)}]'")
            )
            continue
        found += _runtime(_Runtime(name, runtime, machine, versions), devices)
    if automatic is not None:
        found.append(_automatic(automatic))
    else:
        fix = "pip install 'rtmpose-infer[cpu]' (or [openvino], [gpu], [ncnn])"
        found.append(Finding("runtimes", "error", "no runtime is installed: nothing can run a network", fix))
    found += cache_findings()
    found += model_findings()
    found += [_requirement(backend, device, found) for backend, device in wanted]
    return Examination(tuple(found), machine, versions)


def _python(machine: Machine) -> Iterator[Finding]:
    facts = {"python": machine.python, "package": __version__, "executable": sys.executable}
    if sys.maxsize < 2**32:
        message = f"Python {machine.python} is a 32-bit program; the runtimes exist for 64 bits only"
        yield Finding("python", "error", message, "install a 64-bit Python and this package in it", facts)
        return
    yield Finding("python", "ok", f"rtmpose-infer {__version__} on Python {machine.python}", facts=facts)


def _processors(machine: Machine) -> Iterator[Finding]:
    features = ", ".join(machine.cpu_features)
    facts = {"cpus": machine.cpus, "usable_cpus": machine.usable_cpus, "cpu_features": machine.cpu_features}
    message = f"{machine.cpu}, {machine.cpus} logical processors" + (f", {features}" if features else "")
    if (
        platform.machine().lower() in {"x86_64", "amd64"}
        and machine.cpu_features
        and "AVX2" not in machine.cpu_features
    ):
        fix = "run on a processor from 2014 or later; in a virtual machine, let it show the host's processor"
        yield Finding("processor", "warning", f"{message}; without AVX2 networks run several times slower", fix, facts)
        return
    yield Finding("processor", "ok", message, facts=facts)
    affinity = getattr(os, "sched_getaffinity", None)
    seen = len(affinity(0)) if affinity else machine.cpus
    if machine.usable_cpus < seen:
        threads = max(1, int(machine.usable_cpus))
        message = (
            f"this container may keep {machine.usable_cpus:g} processors busy but sees {seen}: a runtime that starts "
            "one thread for each of them spends its time waiting"
        )
        yield Finding("processor.quota", "warning", message, f"pass threads={threads} (--threads {threads})", facts)


def _opencv(reply: Answer, versions: Mapping[str, str]) -> Iterator[Finding]:
    flavours = [name for name in _OPENCV if name in versions]
    facts = {name: versions[name] for name in flavours}
    clean = f"pip uninstall -y {' '.join(flavours)} && pip install opencv-python-headless"
    if not reply.ok:
        hint = "; the headless flavour needs no display libraries" if "libGL" in reply.failure else ""
        yield Finding("opencv", "error", f"OpenCV does not work: {reply.failure}{hint}", clean, facts)
    elif len(flavours) > 1:
        message = (
            f"{' and '.join(flavours)} share one folder: the last one installed is in use, and removing one breaks "
            "the others"
        )
        yield Finding("opencv", "warning", message, clean, facts)
    else:
        yield Finding("opencv", "ok", f"OpenCV {reply.value['version']}", facts=facts)


def _video(reply: Answer) -> Iterator[Finding]:
    fix = "pip install 'rtmpose-infer[cli]'"
    if not reply.ok and reply.error_type in {"ImportError", "ModuleNotFoundError"} and "'av'" in reply.failure:
        yield Finding("video", "note", "PyAV is not installed: no video files, no live streams", fix)
    elif not reply.ok:
        yield Finding("video", "error", f"PyAV does not work: {reply.failure}", "pip install --force-reinstall av")
    elif not reply.value["h264_encoders"]:
        message = "this build of PyAV has no H.264 encoder: written videos will not play in browsers"
        yield Finding("video", "warning", message, "pip install --force-reinstall av", reply.value)
    else:
        message = f"PyAV {reply.value['version']}, H.264 by {', '.join(reply.value['h264_encoders'])}"
        yield Finding("video", "ok", message, facts=reply.value)


def _flavours(versions: Mapping[str, str], reply: Answer | None, machine: Machine) -> Iterator[Finding]:
    flavours = [name for name in versions if name.startswith("onnxruntime") and "extensions" not in name]
    active = "" if reply is None or not reply.ok else str(reply.value["package"])
    facts = {"installed": {name: versions[name] for name in flavours}, "active": active}
    gpu = machine.cuda is not None and bool(machine.cuda.gpus)
    extra = "gpu" if gpu else "cpu"
    if len(flavours) > 1:
        message = (
            f"{' and '.join(flavours)} share one folder and overwrite each other"
            + (f"; {active} is the one in use" if active else "")
            + ". What runs depends on the order of installation, and a GPU may stay unused without a word"
        )
        fix = f"pip uninstall -y {' '.join(flavours)} && pip install --no-cache-dir 'rtmpose-infer[{extra}]'"
        idle = gpu and active == "onnxruntime"
        yield Finding("onnxruntime.flavours", "error" if idle else "warning", message, fix, facts)
    elif gpu and flavours == ["onnxruntime"]:
        message = "there is an NVIDIA GPU, and this build of ONNX Runtime cannot use it"
        fix = "pip uninstall -y onnxruntime && pip install 'rtmpose-infer[gpu]'"
        yield Finding("onnxruntime.flavours", "warning", message, fix, facts)


@dataclass(frozen=True)
class _Runtime:
    name: str
    reply: Answer
    machine: Machine
    versions: Mapping[str, str]


def _runtime(runtime: _Runtime, devices: Mapping[tuple[str, str], Answer]) -> Iterator[Finding]:
    name, reply = runtime.name, runtime.reply
    if not reply.ok:
        message = f"{name} is installed but does not start: {reply.failure}"
        packages = [package for package in runtime.versions if package.startswith(name)] or [name]
        fix = f"pip install --force-reinstall --no-deps {' '.join(packages)}"
        yield Finding(name, "error", message, fix, {"log": reply.log})
        return
    yield Finding(name, "ok", f"{name} {reply.value['version']}", facts=reply.value)
    for device, label in reply.value["devices"].items():
        check = f"{name}:{_short(device)}"
        answer = devices.get((name, device))
        if answer is None:
            message = f"{label} is in this build; there is no NVIDIA driver to run it on"
            severity: Severity = "note" if device in _OPTIONAL_DEVICES else "warning"
            yield Finding(
                check, severity, message, "install the NVIDIA driver, or in a container start it with --gpus all"
            )
        elif answer.ok:
            facts = answer.value
            where = (
                facts["device"] if _short(label) in {_short(device), facts["device"]} else f"{facts['device']}, {label}"
            )
            message = (
                f"answers on {where}: loaded in {facts['load_ms']:.0f} ms, first run {facts['first_run_ms']:.1f} ms"
            )
            yield Finding(check, "ok", message, facts=facts)
        else:
            yield _silent(check, device, answer, runtime)


def _automatic(answer: Answer) -> Finding:
    if not answer.ok:
        fix = "name a backend, as in --backend onnxruntime, or mend one of the above"
        return Finding("auto", "error", f'backend "auto" finds nothing that works: {answer.failure}', fix)
    facts = answer.value
    return Finding("auto", "ok", f'backend "auto" takes {facts["backend"]} on {facts["device"]}', facts=facts)


def _silent(check: str, device: str, answer: Answer, runtime: _Runtime) -> Finding:
    """Return the finding of a device that is listed but does not answer."""
    optional = device in _OPTIONAL_DEVICES
    facts = {"error": answer.error_type, "log": answer.log}
    if device in _CUDA_DEVICES and runtime.machine.cuda is not None:
        build = str(runtime.reply.value.get("cuda_version", "")) or _cuda_of_packages(runtime)
        message, fix = explain_cuda_failure(answer, build, runtime.machine.cuda, device=device)
        return Finding(check, "note" if optional else "error", message, fix, facts)
    message = f"is listed but does not answer: {answer.failure}"
    if answer.kind in {"crashed", "timed out"}:
        fix = "update this device's driver; until then choose another device"
    else:
        fix = "see this runtime's requirements for the device, or choose another device"
    return Finding(check, "warning", message, fix, facts)


def _cuda_of_packages(runtime: _Runtime) -> str:
    """Return the CUDA version in the names of a runtime's packages, such as 13 of ``tensorrt-cu13``."""
    majors = [match[1] for name in runtime.versions if (match := re.match(rf"{runtime.name}.*-cu(\d+)", name))]
    return majors[0] if majors else ""


def _required(text: str) -> tuple[str, str]:
    name, _, device = text.partition(":")
    return canonical_name(name), device


def _requirement(backend: str, device: str, found: Sequence[Finding]) -> Finding:
    def fits(finding: Finding) -> bool:
        runtime, _, short = finding.check.partition(":")
        if not short or finding.severity != "ok" or backend not in {"auto", runtime}:
            return False
        names = {short, str(finding.facts.get("device", "")).lower()}
        return not device or device.lower() in names or (device.lower() == "gpu" and bool(names & {"cuda", "gpu"}))

    what = backend + (f" on {device}" if device else "")
    check = f"require:{backend}" + (f":{device}" if device else "")
    if any(map(fits, found)):
        return Finding(check, "ok", f"{what} is required, and works")
    related = [f.fix for f in found if f.check.partition(":")[0] in {backend, "cuda"} and f.severity != "ok" and f.fix]
    extra = "cpu" if backend == "auto" else extra_of(backend)
    if backend == "onnxruntime" and device.lower() in {"cuda", "gpu"}:
        extra = "gpu"
    fix = related[0] if related else f"pip install 'rtmpose-infer[{extra}]'"
    return Finding(check, "error", f"{what} is required, and does not work here", fix)


def _short(device: str) -> str:
    """Return a provider's or a device's short name, such as ``cuda`` for ``CUDAExecutionProvider``."""
    return device.removesuffix("ExecutionProvider").lower()
