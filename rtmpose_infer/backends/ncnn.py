"""ncnn: the runtime for phones, here on CPUs and Vulkan GPUs, from the same two files that go into an app.

ncnn has no uint8 pictures, no batch, no arg-max and no NMS, so it runs networks in their raw form, picture by picture:
RTMDet's maps are decoded by the detector and SimCC vectors by the estimator, in numpy. The command
``rtmpose export model.onnx -o model.param`` makes the files: ``.param`` (the graph, text), ``.bin`` (the weights, in
FP16) and ``.json`` (the model's spec).

Decisions:

- Weights are read in FP16 and everything is computed in float32 unless asked otherwise, so that results are those of
  the other runtimes. ncnn's own defaults compute in FP16 wherever the CPU or GPU can, so what a network gives, and
  whether it overflows, would depend on the machine; here every option that narrows numbers is set, none is left to it.
- ncnn's OpenMP is told to sleep while it waits. Left alone its threads spin, and on a machine that does anything else
  besides, a call takes twenty times as long (measured, two threads on two busy cores).
- Several pictures are run side by side, one thread each: on two cores that is 1.5 to 2 times as fast as one after the
  other on both, since a layer is hardly worth dividing between threads that sleep. The price is a second copy of the
  weights, made when it is first needed.
- ncnn's parser trusts its files, so the graph is checked here first.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rtmpose_infer.backends.base import Arrays, Backend, BackendConfig, BackendInfo, TensorSpec
from rtmpose_infer.errors import (
    BackendUnavailableError,
    DeviceUnavailableError,
    InferenceError,
    InputError,
    ModelError,
    OutputMismatchError,
)

if TYPE_CHECKING:
    from rtmpose_infer.model_spec import ModelFile, ModelSpec

__all__ = ["NcnnBackend", "check_param", "import_ncnn", "load"]

_log = logging.getLogger("rtmpose_infer.backends.ncnn")

_MAGIC = "7767517"
_LARGEST_PARAM = 16 * 2**20
_MOST_LAYERS = 100_000
_READS_EXPRESSIONS = 20250428  # the first release that does
_SOURCES = ("Input", "MemoryData")
# ncnn reads so many inputs of these layers whether they are there or not.
_LEAST_INPUTS = {
    "BinaryOp": 2,
    "CopyTo": 2,
    "DeformableConv2D": 2,
    "DetectionOutput": 3,
    "Eltwise": 2,
    "GridSample": 2,
    "MatMul": 2,
    "PSROIPooling": 2,
    "Proposal": 3,
    "ROIAlign": 2,
    "ROIPooling": 2,
    "RotaryEmbed": 3,
}
_OPTIONS = {"precision"}
_PRECISIONS = ("fp32", "fp16")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_HALF_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
_BFLOAT_OPTIONS = ("use_bf16_packed", "use_bf16_storage")
_SOFTWARE_DEVICE = 3  # ncnn's types: discrete, integrated, virtual, CPU
_import_lock = threading.Lock()
_told: list[ModuleType] = []  # the module, once its threads were told to sleep or a warning said that they were not


def load(model: ModelFile, config: BackendConfig) -> NcnnBackend:
    """Load a model, a ``.param`` file with the ``.bin`` of the same name beside it, into ncnn.

    ``config.device``: ``auto`` and ``cpu``; ``gpu`` (the first Vulkan GPU; ``gpu:1`` for the second); ``vulkan:0`` (a
    Vulkan device by its number, software renderers included).
    ``config.options``: ``precision`` (``"fp32"``; ``"fp16"`` also keeps activations in FP16 and computes in it where
    the device can, as phones do).

    Raises:
        BackendUnavailableError: ncnn is not installed.
        DeviceUnavailableError: There is no such Vulkan device.
        ModelError: The files are missing, broken, or not as their spec says.
        OutputMismatchError: The network gives NaN or infinity on this device.
        InputError: An option or device is unknown.
    """
    config.check_options("ncnn", _OPTIONS)
    precision = str(config.options.get("precision", "fp32")).lower()
    if precision not in _PRECISIONS:
        raise InputError(f"precision must be {' or '.join(_PRECISIONS)}, got {precision!r}.")
    kind, number = _parsed_device(config.device)
    ncnn = import_ncnn()
    vulkan = None
    if kind != "cpu":
        try:
            vulkan = _vulkan_device(ncnn, kind, number)
        except DeviceUnavailableError as error:
            if not config.allow_fallback:
                raise
            _log.warning("%s Going on with the CPU.", error)
    return NcnnBackend(ncnn, model, threads=config.threads, precision=precision, vulkan_device=vulkan)


class _Crew(NamedTuple):
    """A network for one thread, and the threads that run it side by side."""

    net: Any
    threads: ThreadPoolExecutor


class NcnnBackend(Backend):
    """A network in ncnn. Each call has an extractor of its own, so ``run`` may be called from several threads.

    Args:
        ncnn: The module.
        model: Its ``data`` is the path of the ``.param`` file.
        threads: Threads of one call; None: ncnn's default, the number of fast cores.
        precision: ``"fp32"`` or ``"fp16"``.
        vulkan_device: Number of the Vulkan device; None: the CPU.

    Raises:
        ModelError: The files are missing, broken, or not as their spec says.
        OutputMismatchError: The network gives NaN or infinity on this device.
    """

    def __init__(
        self,
        ncnn: ModuleType,
        model: ModelFile,
        *,
        threads: int | None = None,
        precision: str = "fp32",
        vulkan_device: int | None = None,
    ) -> None:
        self._ncnn = ncnn
        self._net = ncnn.Net()
        options = self._net.opt
        if threads is not None:
            options.num_threads = threads
        self._side_by_side = int(options.num_threads) if vulkan_device is None else 1
        self._crew: _Crew | None = None
        self._lock = threading.Lock()
        self._model = model
        self._half = precision == "fp16"
        _set_precision(options, half=self._half)
        options.openmp_blocktime = 0
        if vulkan_device is not None:
            options.use_vulkan_compute = True
            self._net.set_vulkan_device(vulkan_device)
        _load_files(ncnn, self._net, model)
        source, self._blobs = _ends(self._net, model.name)
        self._source = source
        device = "cpu"
        details = {}
        if vulkan_device is not None:
            device = f"vulkan:{vulkan_device}"
            details["name"] = str(ncnn.get_gpu_info(vulkan_device).device_name())
        width, height = model.spec.input_size_wh
        probed = self._probed(np.zeros((3, height, width), np.float32), precision, device)
        names = _output_names(model.spec, self._blobs, model.name)
        super().__init__(
            [TensorSpec(source, (None, 3, height, width), np.dtype(np.float32))],
            [
                TensorSpec(name, (None, *array.shape), np.dtype(np.float32))
                for name, array in zip(names, probed, strict=True)
            ],
        )
        self._info = BackendInfo(
            runtime="ncnn",
            version=str(ncnn.__version__),
            device=device,
            precision=precision,
            threads=int(options.num_threads),
            details=details,
        )

    def _probed(self, black: Any, precision: str, device: str) -> list[Any]:
        """Return the answers to a black picture: ncnn tells their shapes in no other way, and the network may not run."""
        name = self._model.name
        try:
            answers = self._extract(self._net, black)
        except InferenceError as error:
            size = f"{black.shape[2]}×{black.shape[1]}"
            raise ModelError(f"ncnn cannot run {name} on a {size} picture: {error}") from error
        if not all(np.isfinite(array).all() for array in answers):  # a shader that did not compile goes on all the same
            fix = "Load it with precision='fp32' and device='cpu'."
            if (precision, device) == ("fp32", "cpu"):
                fix = "Its weights are broken or beyond FP16's range: export it again with float32 weights."
            place = "the CPU" if device == "cpu" else device
            raise OutputMismatchError(
                f"{name} gives NaN or infinity in ncnn, computed in {precision} on {place}. {fix}"
            )
        return answers

    def _run(self, feeds: Arrays) -> Arrays:
        net = self._net
        if net is None:
            raise InferenceError("the network is closed.")
        pictures = feeds[self._source]
        if len(pictures) == 1 or self._side_by_side == 1:
            rows = [self._extract(net, picture) for picture in pictures]
        else:
            crew = self._get_crew()
            one = partial(self._extract, crew.net)
            try:
                answers = crew.threads.map(one, pictures)
            except RuntimeError:  # no thread can be had: closed by another thread, or the main thread has ended
                answers = map(one, pictures)
            rows = list(answers)
        return {
            spec.name: np.stack(answers) for spec, answers in zip(self.outputs, zip(*rows, strict=True), strict=True)
        }

    def _get_crew(self) -> _Crew:
        with self._lock:
            if self._crew is None:
                net = self._ncnn.Net()
                _set_precision(net.opt, half=self._half)
                net.opt.num_threads = 1  # ncnn prepares its layers for that number, so it is another network
                _load_files(self._ncnn, net, self._model)
                self._crew = _Crew(net, ThreadPoolExecutor(self._side_by_side, thread_name_prefix="rtmpose-ncnn"))
            return self._crew

    def _extract(self, net: Any, picture: Any) -> list[Any]:
        extractor = net.create_extractor()
        # A Mat around an array is written to by layers that work in place; a copy of it is counted and cloned for them.
        code = extractor.input(self._source, self._ncnn.Mat(picture).clone())
        if code != 0:
            raise InferenceError(f"ncnn refused the input {self._source!r} (code {code}).")
        answers = []
        for blob in self._blobs:
            code, mat = extractor.extract(blob)
            if code != 0 or mat.empty():
                raise InferenceError(f"ncnn did not compute {blob!r} (code {code}).")
            answers.append(np.array(mat, np.float32))  # the Mat's memory belongs to the network
        return answers

    def describe(self) -> BackendInfo:
        """Return the version, the device and the precision."""
        return self._info

    def close(self) -> None:
        """Free the network; calls that are under way finish."""
        super().close()
        self._net = None
        with self._lock:
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.threads.shutdown(wait=False)


def check_param(text: str, name: str) -> list[str]:
    """Return the types of the layers of a ``.param`` file after checking that its graph hangs together.

    Args:
        text: Content of the file.
        name: How messages call it.

    Raises:
        ModelError: It is no such file, is cut off, or has a layer that reads what nothing makes, or lacks inputs or
            settings.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or lines[0] != [_MAGIC]:
        raise ModelError(f"{name} is no ncnn .param file: it does not begin with {_MAGIC}. Export it again.")
    made: set[str] = set()
    try:
        layers, blobs = (int(number) for number in lines[1])
        counts = [(int(fields[2]), int(fields[3])) for fields in lines[2:]]
    except (IndexError, ValueError) as error:
        raise ModelError(f"{name} is not a .param file as ncnn writes them: {error}. Export it again.") from error
    if layers != len(counts) or not 0 < layers <= _MOST_LAYERS:
        raise ModelError(f"{name} is cut off: it announces {layers} layers and has {len(counts)}. Export it again.")
    for fields, (sources, results) in zip(lines[2:], counts, strict=True):
        if sources < 0 or results < 0 or len(fields) < 4 + sources + results:
            raise ModelError(f"{name}: layer {fields[1]!r} has not the inputs and outputs it announces.")
        given = dict(setting.partition("=")[::2] for setting in fields[4 + sources + results :])
        least = _least_inputs(fields[0], given)
        if sources < least:
            raise ModelError(
                f"{name}: layer {fields[1]!r} is a {fields[0]} of {sources} inputs; expected at least {least}. "
                "Export it again."
            )
        if lacking := _lacking(fields[0], given, sources, results):
            raise ModelError(f"{name}: layer {fields[1]!r} ({fields[0]}) lacks {lacking}. Export it again.")
        if unmade := [blob for blob in fields[4 : 4 + sources] if blob not in made]:
            raise ModelError(f"{name}: layer {fields[1]!r} reads {unmade[0]!r}, which no layer before it makes.")
        made.update(fields[4 + sources : 4 + sources + results])
    if len(made) != blobs:
        raise ModelError(f"{name} announces {blobs} tensors and has {len(made)}. Export it again.")
    return [fields[0] for fields in lines[2:]]


def _least_inputs(kind: str, given: Mapping[str, str]) -> int:
    if kind in _SOURCES:
        return 0
    if kind == "BinaryOp" and given.get("1") == "1":
        return 1  # the other operand is a number among the settings
    if kind == "Scale" and given.get("0") == "-233":
        return 2  # the factors are no weights but another input
    if kind == "SDPA":  # a mask and the keys and values of earlier calls, where it is told to take them
        return 3 + (given.get("5", "0") != "0") + 2 * (given.get("7", "0") != "0")
    return _LEAST_INPUTS.get(kind, 1)


def _lacking(kind: str, given: Mapping[str, str], sources: int, results: int) -> str:
    """Return what a layer needs and has not, where ncnn does not look for that itself before it goes on."""
    if kind == "Interp" and given.get("0", "0") == "0":
        return "a way to resize"
    if kind == "Noop" and results > sources:
        return "an input for each of its outputs"
    if kind == "Slice":
        told = {key: given.get(key, "").partition(",")[0] for key in ("-23300", "-23302")}  # sizes, or where to cut
        sizes, cuts = (int(count) if count.isdecimal() else 0 for count in told.values())
        if results > max(sizes, cuts + 1 if cuts else 0):
            return "a size for each of its outputs"
    return ""


def _set_precision(options: Any, *, half: bool) -> None:
    """Set every option of a network that narrows numbers, whatever ncnn's defaults are on this machine."""
    for name in _HALF_OPTIONS:
        setattr(options, name, half)
    for name in _BFLOAT_OPTIONS:  # eight bits of mantissa: joints move by pixels
        if hasattr(options, name):  # older versions have not all of them
            setattr(options, name, False)


def _load_files(ncnn: ModuleType, net: Any, model: ModelFile) -> None:
    assert isinstance(model.data, Path)  # noqa: S101  # an archive holds ONNX
    weights = model.data.with_suffix(".bin")
    if model.spec.input_format != "nchw_float32":
        raise ModelError(f"{model.name}: ncnn takes float planes, and the spec beside it says uint8. Export it again.")
    try:
        if model.data.stat().st_size > _LARGEST_PARAM:
            raise ModelError(f"{model.name} is too large for a graph in text. Export it again.")
        text = model.data.read_text(encoding="utf-8")
        empty = weights.stat().st_size == 0
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {model.name} and {weights.name} beside it: {error}.") from error
    types = check_param(text, model.name)
    if unknown := sorted({kind for kind in types if ncnn.layer_to_index(kind) < 0}):
        raise ModelError(f"{model.name} has layers this ncnn does not know: {', '.join(unknown)}. Update ncnn.")
    release = str(ncnn.__version__).rpartition(".")[2]
    if '="' in text and release.isdecimal() and int(release) < _READS_EXPRESSIONS:
        # Releases before do not only refuse such a graph, they end the process when the refused network is freed.
        raise ModelError(
            f"{model.name} has sizes that are computed, which ncnn reads from {_READS_EXPRESSIONS} on; this is {release}. "
            "Update ncnn."
        )
    if empty or net.load_param(str(model.data)) != 0 or net.load_model(str(weights)) != 0:
        raise ModelError(f"ncnn cannot load {model.name}: {weights.name} does not hold its weights. Export it again.")


def _ends(net: Any, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the one input and the outputs, in the order in which the converter numbered them."""
    inputs, outputs = list(net.input_names()), list(net.output_names())
    if len(inputs) != 1 or not outputs:
        raise ModelError(f"{name}: expected one input and at least one output, got {inputs} and {outputs}.")
    return inputs[0], tuple(sorted(outputs, key=_natural))


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", name)]


def _output_names(spec: ModelSpec, blobs: tuple[str, ...], name: str) -> tuple[str, ...]:
    if spec.head != "simcc":
        return blobs
    if len(blobs) != 2:
        raise ModelError(f"{name}: expected the two SimCC vectors, got {', '.join(blobs)}. Export it again.")
    return ("simcc_x", "simcc_y")


def import_ncnn() -> ModuleType:
    """Return the module, with its OpenMP told to sleep while it waits unless the environment says otherwise.

    Raises:
        BackendUnavailableError: ncnn is not installed.
    """
    with _import_lock:
        decided = any(name in os.environ for name in _WAITING)
        loaded = sys.modules.get("ncnn")
        if loaded is not None:
            if loaded not in _told and not decided:
                _told.append(loaded)
                _log.warning(
                    "ncnn was imported before its threads could be told to sleep while they wait, and is many times as "
                    "slow on a busy machine. Load a model before you import ncnn, or set OMP_WAIT_POLICY=PASSIVE."
                )
            return loaded
        if not decided:
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read once, when the library is loaded
        try:
            _told.append(importlib.import_module("ncnn"))
        except ImportError as error:
            raise BackendUnavailableError("ncnn is not installed: pip install 'rtmpose-infer[ncnn]'.") from error
        finally:
            if not decided:
                del os.environ["OMP_WAIT_POLICY"]
        return _told[-1]


def _parsed_device(device: str) -> tuple[str, int]:
    kind, colon, number = device.lower().partition(":")
    if kind == "auto" and not colon:
        kind = "cpu"
    if kind not in {"cpu", "gpu", "vulkan"} or (colon and not number.isdigit()) or (kind == "cpu" and colon):
        raise InputError(f"unknown device {device!r} of ncnn; known are cpu, gpu, gpu:1, vulkan:0.")
    return kind, int(number or 0)


def _vulkan_device(ncnn: ModuleType, kind: str, number: int) -> int:
    """Return the number by which ncnn knows the device."""
    count = ncnn.get_gpu_count() if hasattr(ncnn, "get_gpu_count") else 0
    infos = [ncnn.get_gpu_info(i) for i in range(count)]
    fitting = [i for i, info in enumerate(infos) if kind == "vulkan" or info.type() != _SOFTWARE_DEVICE]
    if number < len(fitting):
        return fitting[number]
    seen = ", ".join(str(info.device_name()) for info in infos) or "none"
    raise DeviceUnavailableError(
        f"ncnn has no {kind}:{number} here (Vulkan devices: {seen}). Install the GPU's Vulkan driver."
    )
