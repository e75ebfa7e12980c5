"""OpenVINO: CPU, GPU, NPU and the AUTO, MULTI and HETERO plug-ins, from ONNX files or OpenVINO's own IR.

Decisions:

- Float32 arithmetic, asked for by hint, wherever the device knows the hint. Left alone, a GPU computes in FP16, and a
  CPU that has the instructions in BF16 or FP16; the gated attention of RTMPose overflows in the one and coarsens in the
  other.
- Where a lower precision is asked for, it is for the convolutions, which are nearly all of the work: what follows the
  last one (attention and classifiers of a pose network, boxes and suppression of a detector) is marked to stay in
  float32, though OpenVINO loses the mark of a few steps that it rewrites. That costs no time and moves little more than
  half as many joints (``benchmarks/low_precision.py``). OpenVINO reads such marks only from its own file format, so the
  graph is written out, marked, and read again when it is first compiled.
- Threads are not pinned to cores. OpenVINO pins them by default, always from the first core on, so that two processes
  with one thread each share one core and leave the others idle, and a busy core is never left: beside two other programs
  RTMPose-s made 43 to 49 frames a second on two cores instead of 31 to 36, and alone as many as before.
- On a CPU one dynamic network serves every number of people. Compiled for one picture, a detector takes an eighth less
  (4.6 ms for 5.3, RTMDet-nano at 320), and as many for a picture alone as in a batch; so it is. A pose network takes 6 to
  10 % less, but the crops of a frame are one or many, and a second network for one takes as much memory again (RTMPose-m
  100 MB). GPUs run dynamic shapes badly and NPUs not at all, so there one network is compiled for each of
  ``BackendConfig.batch_sizes``.
- The cache holds what OpenVINO exports, under our own key, and not OpenVINO's ``CACHE_DIR``: that one must read and
  hash the whole graph before it knows whether it has it. With this, the embedded networks' first result takes two
  fifths of the time it takes without (``benchmarks/first_frame.py``). The plug-ins that cannot export get
  ``CACHE_DIR``.
- OpenVINO could also take uint8 pictures for networks that want float planes. On the host that preparation is a table
  look-up which costs 0.2 ms of a call's 12; inside the network it cost 0.04 ms less. One path for all runtimes is worth
  more.
- ``import openvino`` reports each import to its maker, by default. It is imported here as if the package that does so
  were absent, which OpenVINO provides for.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import logging
import queue
import re
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from rtmpose_infer.backends.base import Arrays, Backend, BackendConfig, BackendInfo, TensorSpec, run_in_sizes
from rtmpose_infer.backends.engine_cache import EngineCache, model_digest
from rtmpose_infer.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceUnavailableError,
    InputError,
    ModelError,
)

if TYPE_CHECKING:
    from types import ModuleType

    from rtmpose_infer.model_spec import ModelFile

__all__ = ["OpenVinoBackend", "import_openvino", "load"]

_log = logging.getLogger("rtmpose_infer.backends.openvino")

_DEVICE = re.compile(r"(CPU|GPU|NPU)(?:[.:](\d+))?")
_VIRTUAL = ("AUTO", "MULTI", "HETERO")
_STATIC = ("GPU", "NPU")  # devices that want one compiled network per shape
_OPTIONS = {"performance_hint", "streams", "precision", "properties", "cache"}
_HINTS = ("latency", "throughput")
_PRECISIONS = ("f32", "f16", "bf16", "auto", "device")
_CONVOLUTIONS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"}
_FORM = 2  # of what ``_Networks`` makes of a graph before it is compiled; counted up where that changes
_SOUND_EXPORTS = (2025, 4)  # before, a compiled NonMaxSuppression can be exported and not imported
_TELEMETRY = "openvino_telemetry"
_import_lock = threading.Lock()


def load(model: ModelFile, config: BackendConfig) -> OpenVinoBackend:
    """Load a model into OpenVINO.

    ``config.device``: ``auto`` and ``cpu``; ``gpu``, ``npu`` (``gpu.1`` for the second); or a plug-in over several
    devices, ``auto:gpu,cpu``, ``multi:gpu,cpu``, ``hetero:gpu,cpu``.
    ``config.threads``: Threads of the CPU.
    ``config.options``: ``performance_hint`` (``"latency"``; ``"throughput"`` runs several requests at once, and splits
    a batch between them), ``streams`` (how many at once; the hint decides by default), ``precision`` (``"f32"``;
    ``"f16"`` or ``"bf16"`` up to the last convolution, float32 from there on; ``"auto"`` for ``"bf16"`` with a pose
    network on a CPU that has instructions for it, else ``"f32"``; ``"device"`` for whatever the device likes best),
    ``properties`` (mapping of OpenVINO's own properties), ``cache`` (True: keep the compiled network in the cache
    folder).

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
        DeviceUnavailableError: There is no such device here.
        ModelError: OpenVINO cannot read or compile the model.
        BackendError: A lower precision was asked for, and the temporary folder is missing or full.
        InputError: An option or device is unknown.
    """
    ov = import_openvino()
    core = _core()
    if str(config.options.get("precision")).lower() == "auto":
        exact = {"precision": "bf16" if _gains_by_bf16(core, model, config.device) else "f32"}
        config = dataclasses.replace(config, options={**config.options, **exact})
    settings = _Settings.read(config)
    missing = _missing(core, settings.devices)
    if missing:
        message = f"OpenVINO has no {missing[0]} here (it has {', '.join(core.available_devices)}): "
        message += f"{_reason(core, missing[0])}."
        if not config.allow_fallback:
            raise DeviceUnavailableError(message)
        _log.warning("%s Going on with the CPU.", message)
        settings = _Settings.read(config, device="cpu")
    networks = _Networks(core, model, settings, config)
    return OpenVinoBackend(networks.compiled(), version=_version(ov), restored=networks.restored)


class OpenVinoBackend(Backend):
    """A network compiled by OpenVINO; infer requests are pooled, so that ``run`` may be called from several threads.

    Args:
        compiled: Compiled networks by batch size; the only one has key None where it takes every batch size or has a
            fixed one.
        version: Version of OpenVINO.
        restored: Whether they came out of the cache.
    """

    def __init__(self, compiled: Mapping[int | None, Any], *, version: str, restored: bool = False) -> None:
        sizes = tuple(sorted(size for size in compiled if size is not None))
        first = compiled[sizes[0] if sizes else None]
        super().__init__(
            [_tensor(port, i, any_batch=bool(sizes)) for i, port in enumerate(first.inputs)],
            [_tensor(port, i, any_batch=bool(sizes)) for i, port in enumerate(first.outputs)],
            batch_sizes=sizes or None,
        )
        self._pools = {size: _RequestPool(network) for size, network in compiled.items()}
        # A batch can be split between requests where its rows come back as rows of the same size.
        self._splittable = not sizes and all(
            spec.shape and spec.shape[0] is None and None not in spec.shape[1:]
            for spec in (*self.inputs, *self.outputs)
        )
        pool = next(iter(self._pools.values()))
        hint = _property(first, "PERFORMANCE_HINT")
        details = {
            "name": _device_names(first),
            "hint": getattr(hint, "name", str(hint or "")).lower(),
            "requests": str(pool.limit),
            "compiled": "from the cache" if restored else "now",
        }
        self._info = BackendInfo(
            runtime="openvino",
            version=version,
            device=", ".join(_property(first, "EXECUTION_DEVICES") or ()),
            precision=_precision(first),
            threads=_property(first, "INFERENCE_NUM_THREADS"),
            details={name: value for name, value in details.items() if value},
        )

    def _run(self, feeds: Arrays) -> Arrays:
        pools = self._pools  # closing takes them from later calls, not from this one
        if self.batch_sizes is not None:
            return run_in_sizes(
                feeds, self.batch_sizes, lambda part: self._run_whole(pools[len(next(iter(part.values())))], part)
            )
        pool = pools[None]
        if self._splittable and pool.limit > 1 and len(next(iter(feeds.values()))) > 1:
            return self._run_split(pool, feeds)
        return self._run_whole(pool, feeds)

    def _run_whole(self, pool: _RequestPool, feeds: Arrays) -> Arrays:
        request = pool.take()
        try:
            values = request.infer(self._numbered(feeds), share_inputs=True)
            return {spec.name: values[i] for i, spec in enumerate(self.outputs)}
        finally:
            pool.give(request)

    def _run_split(self, pool: _RequestPool, feeds: Arrays) -> Arrays:
        """Run the parts of a batch in several requests at once."""
        requests = pool.take_several(min(pool.limit, len(next(iter(feeds.values())))))
        try:
            parts = {name: np.array_split(array, len(requests)) for name, array in feeds.items()}
            for i, request in enumerate(requests):
                part = {name: arrays[i] for name, arrays in parts.items()}
                request.start_async(self._numbered(part), share_inputs=True)
            for request in requests:
                request.wait()
            return {
                spec.name: np.concatenate([request.get_output_tensor(i).data for request in requests])
                for i, spec in enumerate(self.outputs)
            }
        finally:
            for request in requests:
                with suppress(RuntimeError):  # after one has failed, the others may still be at work
                    request.wait()
                pool.give(request)

    def _numbered(self, feeds: Arrays) -> dict[int, Any]:
        return {i: feeds[spec.name] for i, spec in enumerate(self.inputs)}

    def describe(self) -> BackendInfo:
        """Return the version, the device that really runs and what it computes in."""
        return self._info

    def close(self) -> None:
        """Free the network; calls that are under way finish."""
        super().close()
        self._pools = {}


class _RequestPool:
    """As many infer requests as the device works on at once, made when they are first needed."""

    def __init__(self, compiled: Any) -> None:
        self.limit = max(int(_property(compiled, "OPTIMAL_NUMBER_OF_INFER_REQUESTS") or 1), 1)
        self._compiled = compiled
        # None stands for one that is not made yet; the last to be given back is the first to be taken.
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(self.limit):
            self._free.put(None)

    def take(self) -> Any:
        """Return a request that nobody else uses, when there is one."""
        return self._ready(self._free.get())

    def take_several(self, count: int) -> list[Any]:
        """Return at least one request, and up to ``count`` where that needs no waiting."""
        requests = [self.take()]
        with suppress(queue.Empty, RuntimeError):  # where no further one can be made, fewer do as well
            while len(requests) < count:
                requests.append(self._ready(self._free.get_nowait()))
        return requests

    def give(self, request: Any) -> None:
        """Take a request back."""
        self._free.put(request)

    def _ready(self, request: Any) -> Any:
        if request is None:
            try:
                request = self._compiled.create_infer_request()
            except BaseException:
                self._free.put(None)  # or its place would be lost, and a later call wait for ever
                raise
        return request


@dataclass(frozen=True)
class _Settings:
    """What was asked for, in OpenVINO's words.

    Attributes:
        target: Device string for ``compile_model``.
        devices: The hardware in it.
        properties: Properties for ``compile_model``.
        mixed: Whether what follows the last convolution is computed more exactly than what leads to it.
        one_at_a_time: Whether one request has all threads, and a call is not split between several.
        cache: Whether compiled networks are kept.
    """

    target: str
    devices: tuple[str, ...]
    properties: Mapping[str, Any]
    mixed: bool
    one_at_a_time: bool
    cache: bool

    @classmethod
    def read(cls, config: BackendConfig, *, device: str | None = None) -> _Settings:
        options = config.options
        config.check_options("openvino", _OPTIONS)
        hint = str(options.get("performance_hint", "latency")).lower()
        precision = str(options.get("precision", "f32")).lower()
        for name, value, known in (("performance_hint", hint, _HINTS), ("precision", precision, _PRECISIONS)):
            if value not in known:
                raise InputError(f"{name} must be {', '.join(known)}, got {value!r}.")
        streams = options.get("streams")
        if streams is not None and (not isinstance(streams, int) or streams < 1):
            raise InputError(f"streams must be a whole number from 1, got {streams!r}.")
        plugin, devices = _parsed_device(config.device if device is None else device)
        by_device: dict[str, dict[str, Any]] = {}
        for name in devices:
            kind = name.split(".")[0]
            own: dict[str, Any] = {}
            if kind == "CPU":
                own["ENABLE_CPU_PINNING"] = False
                if config.threads is not None:
                    own["INFERENCE_NUM_THREADS"] = config.threads
            if kind != "NPU" and precision != "device":
                own["INFERENCE_PRECISION_HINT"] = precision
            if kind != "NPU" and streams is not None:
                own["NUM_STREAMS"] = streams
            by_device[name] = own
        properties: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper()}
        properties |= {"DEVICE_PROPERTIES": by_device} if plugin else by_device[devices[0]]
        properties |= config.mapping_option("properties")
        target = f"{plugin}:{','.join(devices)}" if plugin else devices[0]
        return cls(
            target=target,
            devices=devices,
            properties=properties,
            mixed=precision in {"f16", "bf16"},
            one_at_a_time=hint == "latency" and (streams or 1) == 1,
            cache=bool(options.get("cache", True)),
        )

    @property
    def on_cpu(self) -> bool:
        """Whether nothing but the CPU computes."""
        return all(name.startswith("CPU") for name in self.devices)

    @property
    def static(self) -> bool:
        """Whether a device among them wants one network per shape."""
        return any(name.startswith(_STATIC) for name in self.devices)


class _Networks:
    """Compiles a model, or finds what an earlier run compiled.

    Attributes:
        restored: Whether all came out of the cache.
    """

    def __init__(self, core: Any, model: ModelFile, settings: _Settings, config: BackendConfig) -> None:
        self._core = core
        self._model = model
        self._settings = settings
        self._config = config
        self.restored = False

    def compiled(self) -> dict[int | None, Any]:
        try:
            return {batch: self._one(batch) for batch in self._batches()}
        except RuntimeError as error:
            words = _words(error)
            raise ModelError(
                f"OpenVINO cannot compile {self._model.name} for {self._settings.target}: {words}."
            ) from error

    def _batches(self) -> tuple[int | None, ...]:
        """Return the batch sizes to compile networks for; None stands for the graph's own, open or fixed."""
        if self._settings.static and self._any_batch():
            return self._config.batch_sizes
        alone = self._settings.on_cpu and self._settings.one_at_a_time and self._model.spec.task != "pose"
        return (1,) if alone and self._any_batch() else (None,)

    def _one(self, batch: int | None) -> Any:
        properties = dict(self._settings.properties)
        cache = None
        if self._settings.cache:
            cache = EngineCache("openvino", self._config.cache_dir)
            if not _can_export(self._core, self._settings.target):
                properties["CACHE_DIR"] = str(cache.folder)
                cache = None
        if cache is None:
            return self._core.compile_model(self._prepared(batch), self._settings.target, properties)
        key = self._key(batch)
        blob = cache.load(key, kind="blob")
        if blob is not None:
            try:
                network = self._core.import_model(blob, self._settings.target, properties)
            except RuntimeError as error:
                _log.warning("a compiled network in the cache is refused (%s); it is built again", _words(error))
            else:
                self.restored = True
                return network
        network = self._core.compile_model(self._prepared(batch), self._settings.target, properties)
        exported = io.BytesIO()
        network.export_model(exported)
        content = exported.getvalue()
        if self._can_import(content, properties):
            cache.store(key, content, kind="blob")
        return network

    def _can_import(self, content: bytes, properties: Mapping[str, Any]) -> bool:
        """Say whether this release takes back what it exported; one that always does is not asked."""
        if _release(import_openvino()) >= _SOUND_EXPORTS:
            return True
        try:
            self._core.import_model(content, self._settings.target, properties)
        except RuntimeError as error:
            _log.debug(
                "%s is compiled at every start: OpenVINO refuses its own export (%s)", self._model.name, _words(error)
            )
            return False
        return True

    def _prepared(self, batch: int | None) -> Any:
        """Return the graph as it is to be compiled."""
        network = self._network(batch)
        if self._settings.on_cpu:
            _quicken_arg_max(network)
        return _exact_at_the_end(self._core, network) if self._settings.mixed else network

    def _network(self, batch: int | None) -> Any:
        """Return OpenVINO's picture of the graph, with the input shape as far as it is known."""
        data = self._model.data
        if isinstance(data, bytes):
            network = self._core.read_model(model=data, weights=b"")
        else:
            network = self._core.read_model(str(data))
        shape = network.inputs[0].partial_shape
        if len(network.inputs) > 1 or shape.rank.is_dynamic or len(shape) != 4:
            return network
        width, height = self._model.spec.input_size_wh
        first = 1 if self._model.spec.input_format == "nhwc_uint8" else 2
        wanted = [shape[i] for i in range(4)]
        for axis, size in ((first, height), (first + 1, width)):
            if shape[axis].is_dynamic:
                wanted[axis] = size
        if batch is not None:
            wanted[0] = batch
        if any(shape[i] != wanted[i] for i in range(4)):
            network.reshape(wanted)
        return network

    def _any_batch(self) -> bool:
        header = self._model.header
        if header is not None:
            return len(header.inputs) == 1 and bool(header.inputs[0].shape) and header.inputs[0].shape[0] is None
        shape = self._network(None).inputs[0].partial_shape
        return bool(shape.rank.is_static and len(shape) and shape[0].is_dynamic)

    def _key(self, batch: int | None) -> dict[str, Any]:
        core, target = self._core, self._settings.target
        return {
            "model": model_digest(self._model.data),
            "openvino": import_openvino().get_version(),
            "device": target,
            "name": str(core.get_property(target, "FULL_DEVICE_NAME")),
            "architecture": str(core.get_property(target, "DEVICE_ARCHITECTURE")),
            "capabilities": sorted(core.get_property(target, "OPTIMIZATION_CAPABILITIES")),
            "properties": {name: str(value) for name, value in self._settings.properties.items()},
            "mixed": self._settings.mixed,
            "form": _FORM,
            "input_size_wh": list(self._model.spec.input_size_wh),
            "batch": batch,
        }


def _gains_by_bf16(core: Any, model: ModelFile, device: str) -> bool:
    """Return whether a network is faster in BF16 here and was found to be as accurate."""
    if device.lower() not in {"auto", "cpu"} or (model.spec.task, model.spec.precision) != ("pose", "fp32"):
        return False
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _quicken_arg_max(network: Any) -> None:
    """Let each arg-max be found as the first place that holds the maximum: the same answer, and sooner.

    On a CPU OpenVINO takes 0.3 ms on two threads for the first of equal maxima of 17 joints, a third of an embedded
    network's call for one person. (Where no score is finite the answers differ, and neither means anything.)
    """
    ov = import_openvino()
    opset = ov.opset13 if hasattr(ov, "opset13") else ov.runtime.opset13  # before OpenVINO 2025
    for node in network.get_ordered_ops():
        if node.get_type_name() != "TopK" or node.output(0).get_target_inputs():
            continue
        attributes, scores = node.get_attributes(), node.input_value(0)
        shape, count = scores.get_partial_shape(), node.input_value(1).get_node()
        first_of_one = attributes.get("stable") and count.get_type_name() == "Constant" and int(count.data) == 1
        axis = attributes["axis"]
        if not first_of_one or attributes["mode"] != "max" or shape.rank.is_dynamic or shape[axis].is_dynamic:
            continue
        length, rank = shape[axis].get_length(), shape.rank.get_length()
        places = np.arange(length, dtype=np.float32).reshape([-1 if i == axis % rank else 1 for i in range(rank)])
        highest = opset.reduce_max(scores, np.array([axis]), keep_dims=True)
        held = opset.select(
            opset.equal(scores, highest), opset.constant(places), opset.constant(np.float32(length - 1))
        )
        first = opset.reduce_min(held, np.array([axis]), keep_dims=True)
        index = opset.convert(first, node.get_output_element_type(1).get_type_name())
        node.output(1).replace(index.output(0))
    network.validate_nodes_and_infer_types()


def _exact_at_the_end(core: Any, network: Any) -> Any:
    """Return the graph with all that follows its last convolution marked to be computed in float32.

    Raises:
        BackendError: The temporary folder is missing or full.
    """
    try:
        graph, weights = _written_out(network)
        _mark_as_exact(graph)
        return core.read_model(ET.tostring(graph), import_openvino().Tensor(weights))
    except (OSError, RuntimeError, ET.ParseError) as error:  # OpenVINO 2024 notices a full disk only when it reads
        raise BackendError(
            f"a graph for lower precision goes through the temporary folder, and that failed ({_words(error)}). "
            "Make room there, set TMPDIR to a folder that may be written, or load with precision='f32'."
        ) from error


def _written_out(network: Any) -> tuple[ET.Element, npt.NDArray[np.uint8]]:
    """Return a graph in OpenVINO's own file format, and its weights."""
    with tempfile.TemporaryDirectory(prefix="rtmpose_infer-") as folder:
        file = Path(folder) / "network.xml"
        import_openvino().serialize(network, str(file), str(file.with_suffix(".bin")))
        return ET.parse(file).getroot(), np.fromfile(file.with_suffix(".bin"), np.uint8)  # noqa: S314  # its own XML


def _mark_as_exact(graph: ET.Element) -> None:
    """Mark all layers that no convolution depends on."""
    sources: dict[str, list[str]] = {}
    for edge in graph.iterfind("edges/edge"):
        sources.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
    layers = {layer.attrib["id"]: layer for layer in graph.iterfind("layers/layer")}
    coarse: set[str] = set()
    pending = [number for number, layer in layers.items() if layer.attrib["type"] in _CONVOLUTIONS]
    while pending:
        number = pending.pop()
        if number not in coarse:
            coarse.add(number)
            pending += sources.get(number, [])
    for number in layers.keys() - coarse:
        layer = layers[number]
        if layer.attrib["type"] not in {"Const", "Parameter", "Result"}:
            notes = layer.find("rt_info")
            if notes is None:
                notes = ET.SubElement(layer, "rt_info")
            ET.SubElement(notes, "attribute", {"name": "precise", "version": "0"})


def import_openvino() -> ModuleType:
    """Return the module, imported without the telemetry that it starts when it is imported.

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
    """
    with _import_lock:
        hidden = "openvino" not in sys.modules and sys.modules.get(_TELEMETRY) is None
        if hidden:
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say: not installed
        try:
            # What sys.modules has may be half imported, by a thread that does not come through here; this waits for it.
            ov = importlib.import_module("openvino")
        except ImportError as error:
            raise BackendUnavailableError(
                "OpenVINO is not installed: pip install 'rtmpose-infer[openvino]'."
            ) from error
        finally:
            if hidden:
                del sys.modules[_TELEMETRY]
        # The first use of each fills a table, and two threads that are at that at once wait for each other for ever.
        ov.Type(np.float32).to_dtype()
        return ov


@lru_cache(maxsize=1)
def _core() -> Any:
    """Return the one Core of the process; each further one would load every plug-in again."""
    return import_openvino().Core()


def _version(ov: ModuleType) -> str:
    return str(ov.get_version()).split("-")[0]


def _release(ov: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in _version(ov).split(".")[:2] if part.isdigit())


def _parsed_device(device: str) -> tuple[str, tuple[str, ...]]:
    """Return the plug-in (empty for a plain device) and the devices, as OpenVINO writes them."""
    if device.lower() == "auto":
        return "", ("CPU",)
    plugin, colon, names = device.upper().partition(":")
    if plugin not in _VIRTUAL:
        plugin, names = "", device.upper()
    elif not colon:
        names = ""
    found = []
    for name in names.split(",") if plugin else [names]:
        match = _DEVICE.fullmatch(name.strip())
        if match is None:
            raise InputError(
                f"unknown device {device!r} of openvino; known are cpu, gpu, npu, gpu.1, and auto:, multi: or hetero: "
                "with a list, such as auto:gpu,cpu."
            )
        found.append(".".join(part for part in match.groups() if part))
    return plugin, tuple(found)


def _missing(core: Any, devices: Sequence[str]) -> list[str]:
    if set(devices) == {"CPU"}:
        return []  # always there; asking for the list would start the drivers of all others
    present = core.available_devices
    return [
        name
        for name in devices
        if name.removesuffix(".0") not in present and name not in present and f"{name}.0" not in present
    ]


def _reason(core: Any, device: str) -> str:
    try:
        core.get_property(device, "FULL_DEVICE_NAME")
    except RuntimeError as error:
        words = _words(error)
        return f"{words}. Install the device's driver" if "river" not in words else words
    return "its driver is missing or does not see the device"


def _words(error: Exception) -> str:
    """Return what an error of OpenVINO says, without the places in its source that it lists first."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or [line for line in lines if line]).rstrip(".")


def _can_export(core: Any, target: str) -> bool:
    if ":" in target:
        return False
    try:
        return "EXPORT_IMPORT" in core.get_property(target, "OPTIMIZATION_CAPABILITIES")
    except RuntimeError:
        return False


def _property(compiled: Any, name: str) -> Any:
    """Return a property of a compiled network, or None where its device does not know it."""
    try:
        return compiled.get_property(name)
    except RuntimeError:
        return None


def _device_names(compiled: Any) -> str:
    """Return the full names of the devices that run a network, such as the processor's."""
    core = _core()
    devices = [name.strip("()") for name in _property(compiled, "EXECUTION_DEVICES") or ()]  # AUTO: "(CPU)" at first
    try:
        return ", ".join(str(core.get_property(device, "FULL_DEVICE_NAME")) for device in devices)
    except RuntimeError:
        return ""


def _precision(compiled: Any) -> str:
    kind = _property(compiled, "INFERENCE_PRECISION_HINT")
    return "" if kind is None else re.sub(r"^f(?=\d)", "fp", str(kind.get_type_name()))


def _tensor(port: Any, index: int, *, any_batch: bool) -> TensorSpec:
    shape: list[int | None] = [None if size.is_dynamic else size.get_length() for size in port.partial_shape]
    if any_batch and shape:
        shape[0] = None
    name = port.get_any_name() if port.names else f"output_{index}"
    return TensorSpec(name, tuple(shape), np.dtype(port.element_type.to_dtype()))
