"""An ONNX graph under construction: nodes with speaking names, and the few version differences between opsets.

The exporter writes its graphs node by node instead of passing through ``torch.onnx``: the family uses some thirty
operators, and a graph written by hand carries the module path in every name, has no shape arithmetic in it, and is the
same whatever version of torch made it. Those names are what the precision pass and the quantiser select layers by.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from rtmpose_infer.errors import BackendUnavailableError, ExportError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "DEFAULT_OPSET",
    "HIGHEST_OPSET",
    "LOWEST_OPSET",
    "GraphBuilder",
    "check_graph",
    "check_opset",
    "cpu_session",
]

LOWEST_OPSET = 13
HIGHEST_OPSET = 21
DEFAULT_OPSET = 17
# The oldest file format that can hold the opset; newer ones lock out older runtimes for nothing.
_IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
_AXES_BECOME_INPUT = {"ReduceMax": 18, "ReduceMean": 18, "ReduceL2": 18, "ReduceMin": 18, "ReduceSum": 13}

Value = str | npt.NDArray[Any]


def check_opset(opset: int) -> int:
    """Return the opset if graphs can be written in it.

    Raises:
        InputError: It is below 13 or above 21.
    """
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise InputError(f"opset {opset} is not supported; use {LOWEST_OPSET} to {HIGHEST_OPSET} (17 runs everywhere).")
    return opset


def check_graph(model: onnx.ModelProto, *, full: bool = False) -> None:
    """Check that a model is as ONNX demands.

    Args:
        model: The model.
        full: Whether all shapes and types must fit as well.

    Raises:
        ExportError: It is not.
    """
    try:
        onnx.checker.check_model(model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the graph would be no valid ONNX model: {str(error).rstrip('.')}. Its source is damaged; "
            "download or export that again."
        ) from error


def cpu_session(model: onnx.ModelProto) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a model on the CPU, the reference that exports are compared with.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            "every export is checked with ONNX Runtime, which is not installed; pip install 'rtmpose-infer[export]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class GraphBuilder:
    """Nodes, weights, inputs and outputs of a model that is being written.

    Args:
        opset: Version of the default operator set.
        graph: A graph to go on from; its nodes and weights are kept, its inputs and outputs are not.
    """

    def __init__(self, *, opset: int = DEFAULT_OPSET, graph: onnx.GraphProto | None = None) -> None:
        self.opset = check_opset(opset)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._scope: list[str] = []
        self._taken: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        if graph is not None:
            self._continue(graph)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of everything added inside with ``name/``."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def add(self, op_type: str, inputs: Sequence[Value], *, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node and return the name of its output, or a list of names.

        Args:
            op_type: ONNX operator.
            inputs: Names of tensors, or arrays that become weights; ``""`` leaves out an optional input.
            outputs: How many outputs the node has.
            attributes: The node's attributes. ``axes`` is moved to an input where the opset asks for that.
        """
        sources = [self._input_name(value) for value in inputs]
        moved = _AXES_BECOME_INPUT.get(op_type)
        if moved is not None and self.opset >= moved and "axes" in attributes:
            sources.append(self.constant(np.asarray(attributes.pop("axes"), np.int64)))
        name = self._free("/".join((*self._scope, op_type)))
        targets = [name] if outputs == 1 else [self._free(f"{name}.{i}") for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, sources, targets, name=name, **attributes))
        return targets[0] if outputs == 1 else targets

    def reduce(self, op_type: str, source: Value, axes: Sequence[int], *, keepdims: bool) -> str:
        """Add a reduction over ``axes`` and return its output."""
        return str(self.add(op_type, [source], axes=list(axes), keepdims=int(keepdims)))

    def constant(self, array: npt.NDArray[Any], name: str = "") -> str:
        """Return the name of a weight that holds ``array``; equal small ones are stored once."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        name = self._free("/".join((*self._scope, name or "constant")))
        self.initializers[name] = numpy_helper.from_array(array, name)
        if key is not None:
            self._constants[key] = name
        return name

    def value(self, name: str) -> npt.NDArray[Any] | None:
        """Return the array of a weight, or ``None`` if ``name`` is no weight."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Declare a graph input and return its name."""
        self._taken.add(name)
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, source: str, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Declare the tensor ``source`` as the graph output ``name``."""
        if source != name:
            self._make_way(name)
            self.nodes.append(helper.make_node("Identity", [source], [name], name=self._free(f"output/{name}")))
        self._outputs.append(_value_info(name, dtype, shape))

    def model(self, *, name: str, producer: str, version: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the finished model, with unused weights dropped and output names moved onto their nodes.

        Args:
            name: Name of the graph.
            producer: Name of the exporter.
            version: Its version.
            metadata: The model's ``metadata_props``.

        Raises:
            ExportError: It is no valid ONNX model.
        """
        self._bypass_output_identities()
        used = {source for node in self.nodes for source in node.input}
        graph = helper.make_graph(
            self.nodes,
            name,
            self._inputs,
            self._outputs,
            [tensor for key, tensor in self.initializers.items() if key in used],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=_IR_VERSIONS[self.opset],
            producer_name=producer,
            producer_version=version,
        )
        helper.set_model_props(model, dict(metadata))
        check_graph(model)
        return model

    def _continue(self, graph: onnx.GraphProto) -> None:
        self.initializers.update((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:
            self._taken.update((*node.input, *node.output, node.name))
            value = next((a.t for a in node.attribute if node.op_type == "Constant" and a.name == "value"), None)
            if value is None:
                self.nodes.append(node)
            else:
                tensor = onnx.TensorProto()
                tensor.CopyFrom(value)
                tensor.name = node.output[0]
                self.initializers[tensor.name] = tensor
        self._taken.update(self.initializers)
        self._taken.update(value.name for value in (*graph.input, *graph.output))

    def _bypass_output_identities(self) -> None:
        """Let the node that computes an output carry its name, so that no copy is made at run time."""
        producers = {output: node for node in self.nodes for output in node.output}
        wanted = {value.name for value in self._outputs}
        renamed: dict[str, str] = {}
        kept = []
        for node in self.nodes:
            source = node.input[0] if node.op_type == "Identity" and node.output[0] in wanted else ""
            if source in producers and source not in renamed and source not in wanted:
                renamed[source] = node.output[0]
            else:
                kept.append(node)
        self._rename(kept, renamed)
        self.nodes = kept

    @staticmethod
    def _rename(nodes: Sequence[onnx.NodeProto], renamed: Mapping[str, str]) -> None:
        for node in nodes:
            for names in (node.input, node.output):
                for i, old in enumerate(names):
                    names[i] = renamed.get(old, old)

    def _make_way(self, name: str) -> None:
        """Call the inner tensor that has this name, as one of a foreign graph may, something else."""
        if any(name in node.output for node in self.nodes):
            self._rename(self.nodes, {name: self._free(f"inner/{name}")})

    def _input_name(self, value: Value) -> str:
        return value if isinstance(value, str) else self.constant(value)

    def _free(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate


def _value_info(name: str, dtype: Any, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert kind != TensorProto.UNDEFINED  # np.dtype would have refused it
    return helper.make_tensor_value_info(name, kind, list(shape))
