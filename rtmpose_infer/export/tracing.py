"""From torch modules to ONNX nodes, by running the module on a stand-in for its input.

:class:`Traced` takes a tensor's place in ``forward``. Torch hands every function that meets it to ``__torch_function__``,
which adds the ONNX nodes and returns another stand-in; whatever does not depend on the input is computed by torch as
usual and becomes a weight. Shapes are known on the way (only the batch is open, as ``None``), so no shape arithmetic gets
into the graph. A function without an entry in the table is an error that names it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtmpose_infer.errors import ExportError

if TYPE_CHECKING:
    from rtmpose_infer.export.onnx_graph import GraphBuilder, Value

__all__ = ["Traced", "trace"]

Shape = tuple[int | None, ...]
Lowering = Callable[..., Any]
_LOWERINGS: dict[Any, Lowering] = {}
_L = TypeVar("_L", bound=Lowering)


class Traced:
    """A tensor of the graph.

    Attributes:
        graph: The graph it belongs to.
        name: Its name there.
        shape: Its shape; ``None`` for the batch.
    """

    def __init__(self, graph: GraphBuilder, name: str, shape: Sequence[int | None]) -> None:
        self.graph = graph
        self.name = name
        self.shape: Shape = tuple(shape)
        self.device = torch.device("cpu")

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Add the nodes that ``func`` stands for (torch's protocol for tensor-like objects)."""
        del types
        lowering = _LOWERINGS.get(func)
        if lowering is None:
            name = getattr(func, "__qualname__", None) or repr(func)
            raise ExportError(f"the network uses torch's {name}, for which the exporter has no ONNX form.")
        return lowering(*args, **(kwargs or {}))

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def __getattr__(self, name: str) -> Any:
        method = _METHODS.get(name)
        if method is None:
            raise AttributeError(name)
        return lambda *args, **kwargs: method(self, *args, **kwargs)

    def __add__(self, other: Any) -> Traced:
        return _binary("Add", self, other)

    def __sub__(self, other: Any) -> Traced:
        return _binary("Sub", self, other)

    def __mul__(self, other: Any) -> Traced:
        return _binary("Mul", self, other)

    def __truediv__(self, other: Any) -> Traced:
        return _binary("Div", self, other)

    def __pow__(self, exponent: Any) -> Traced:
        if exponent != 2:
            raise ExportError(f"the exporter writes squares only, not the power {exponent}.")
        return _binary("Mul", self, self)

    def __matmul__(self, other: Any) -> Traced:
        return _matmul(self, other)

    def __getitem__(self, index: Any) -> Traced:
        return _slice(self, index)


def trace(module: nn.Module, graph: GraphBuilder, *inputs: Traced) -> Any:
    """Add the nodes of ``module`` applied to ``inputs`` and return its result with :class:`Traced` for tensors.

    Args:
        module: In eval mode. Its submodules' names become the nodes' names.
        graph: Where the nodes go.
        inputs: The stand-ins.

    Raises:
        ExportError: The module uses a function that has no ONNX form here.
    """
    scopes: list[Any] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            scopes.append(graph.scope(name))
            scopes[-1].__enter__()

        return hook

    def leave(*_: object) -> None:
        scopes.pop().__exit__(None, None, None)

    for path, child in module.named_modules():
        if path:
            handles.append(child.register_forward_pre_hook(enter(path.rpartition(".")[2])))
            handles.append(child.register_forward_hook(leave))
    try:
        with torch.no_grad():
            return module(*inputs)
    finally:
        for handle in handles:
            handle.remove()


def _lowers(*functions: Any) -> Callable[[_L], _L]:
    def register(lowering: _L) -> _L:
        for function in functions:
            _LOWERINGS[function] = lowering
        return lowering

    return register


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    if isinstance(tensor, Tensor):
        return tensor.detach().cpu().numpy()
    return np.asarray(tensor, np.float32)


def _value(operand: Any) -> Value:
    return operand.name if isinstance(operand, Traced) else _array(operand)


def _shape(operand: Any) -> Shape:
    return operand.shape if isinstance(operand, Traced) else tuple(_array(operand).shape)


def _binary(op_type: str, left: Any, right: Any) -> Traced:
    graph = (left if isinstance(left, Traced) else right).graph
    name = graph.add(op_type, [_value(left), _value(right)])
    return Traced(graph, name, _broadcast(_shape(left), _shape(right)))


def _broadcast(left: Shape, right: Shape) -> Shape:
    rank = max(len(left), len(right))
    left, right = (1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right
    return tuple(b if a == 1 else a for a, b in zip(left, right, strict=True))


def _unary(op_type: str, x: Traced, **attributes: Any) -> Traced:
    return Traced(x.graph, x.graph.add(op_type, [x.name], **attributes), x.shape)


def _axis(x: Traced, dim: int) -> int:
    return dim % x.ndim


def _reshape(x: Traced, shape: Sequence[int | None]) -> Traced:
    """Reshape; ``None`` in first place keeps the batch."""
    target = np.array([0 if size is None and i == 0 else size for i, size in enumerate(shape)], np.int64)
    return Traced(x.graph, x.graph.add("Reshape", [x.name, target]), shape)


for _function, _op in (
    ((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), "Add"),
    ((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), "Mul"),
):
    _lowers(*_function)(lambda a, b, op=_op: _binary(op, a, b))


@_lowers(torch.matmul, Tensor.matmul, Tensor.__matmul__)
def _matmul(left: Any, right: Any) -> Traced:
    graph = (left if isinstance(left, Traced) else right).graph
    a, b = _shape(left), _shape(right)
    batch = _broadcast(a[:-2], b[:-2])
    return Traced(graph, graph.add("MatMul", [_value(left), _value(right)]), (*batch, a[-2], b[-1]))


@_lowers(F.linear)
def _linear(x: Traced, weight: Tensor, bias: Tensor | None = None) -> Traced:
    name = x.graph.add("MatMul", [x.name, x.graph.constant(_array(weight.t()), "weight")])
    if bias is not None:
        name = x.graph.add("Add", [name, x.graph.constant(_array(bias), "bias")])
    return Traced(x.graph, name, (*x.shape[:-1], weight.shape[0]))


@_lowers(F.conv2d, torch.conv2d)
def _conv2d(
    x: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Traced:
    strides, pads, dilations = (
        [int(v), int(v)] if isinstance(v, int) else [int(e) for e in v] for v in (stride, padding, dilation)
    )
    kernel = [int(k) for k in weight.shape[2:]]
    inputs: list[Value] = [x.name, x.graph.constant(_array(weight), "weight")]
    if bias is not None:
        inputs.append(x.graph.constant(_array(bias), "bias"))
    name = x.graph.add(
        "Conv",
        inputs,
        kernel_shape=kernel,
        strides=strides,
        pads=pads * 2,
        dilations=dilations,
        group=groups,
    )
    size = (
        (length + 2 * pad - dilate * (k - 1) - 1) // step + 1
        for length, pad, dilate, k, step in zip(_static(x.shape[2:]), pads, dilations, kernel, strides, strict=True)
    )
    return Traced(x.graph, name, (x.shape[0], int(weight.shape[0]), *size))


@_lowers(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(x: Traced, kernel_size: int, stride: int, padding: int, *_: Any, **__: Any) -> Traced:
    name = x.graph.add("MaxPool", [x.name], kernel_shape=[kernel_size] * 2, strides=[stride] * 2, pads=[padding] * 4)
    size = ((length + 2 * padding - kernel_size) // stride + 1 for length in _static(x.shape[2:]))
    return Traced(x.graph, name, (*x.shape[:2], *size))


@_lowers(F.silu)
def _silu(x: Traced, inplace: bool = False) -> Traced:  # torch's signature
    del inplace
    return _binary("Mul", x, _unary("Sigmoid", x))


@_lowers(F.relu, torch.relu)
def _relu(x: Traced, inplace: bool = False) -> Traced:
    del inplace
    return _unary("Relu", x)


@_lowers(F.hardsigmoid)
def _hardsigmoid(x: Traced, inplace: bool = False) -> Traced:
    del inplace
    return _unary("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@_lowers(F.gelu)
def _gelu(x: Traced, approximate: str = "none") -> Traced:
    if approximate != "none":
        raise ExportError(f"the exporter writes the exact GELU only, not {approximate!r}.")
    return _binary("Mul", _binary("Mul", x, 0.5), _binary("Add", _unary("Erf", _binary("Mul", x, math.sqrt(0.5))), 1.0))


@_lowers(F.layer_norm)
def _layer_norm(x: Traced, shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Traced:
    graph = x.graph
    scale, shift = graph.constant(_array(weight), "weight"), graph.constant(_array(bias), "bias")
    if graph.opset >= 17:
        name = graph.add("LayerNormalization", [x.name, scale, shift], axis=-len(shape), epsilon=eps)
        return Traced(graph, name, x.shape)
    centred = _binary("Sub", x, _mean(x, dim=-1, keepdim=True))
    variance = _mean(_binary("Mul", centred, centred), dim=-1, keepdim=True)
    normal = _binary("Div", centred, _unary("Sqrt", _binary("Add", variance, eps)))
    return Traced(graph, graph.add("Add", [graph.add("Mul", [normal.name, scale]), shift]), x.shape)


@_lowers(F.interpolate)
def _interpolate(x: Traced, *_: Any, scale_factor: float, mode: str, **__: Any) -> Traced:
    if mode != "nearest":
        raise ExportError(f"the exporter writes nearest-neighbour upsampling only, not {mode!r}.")
    scales = np.array([1, 1, scale_factor, scale_factor], np.float32)
    name = x.graph.add(
        "Resize",
        [x.name, "", scales],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return Traced(x.graph, name, (*x.shape[:2], *(int(n * scale_factor) for n in _static(x.shape[2:]))))


@_lowers(F.pixel_shuffle, torch.pixel_shuffle)
def _pixel_shuffle(x: Traced, factor: int) -> Traced:
    channels, height, width = _static(x.shape[1:])
    # CRD: channels vary slowest over the output channels, as torch lays them out.
    name = x.graph.add("DepthToSpace", [x.name], blocksize=factor, mode="CRD")
    return Traced(x.graph, name, (x.shape[0], channels // factor**2, height * factor, width * factor))


@_lowers(torch.cat)
def _cat(tensors: Sequence[Any], dim: int = 0) -> Traced:
    first = next(t for t in tensors if isinstance(t, Traced))
    axis = _axis(first, dim)
    shape = list(first.shape)
    shape[axis] = sum(_static([_shape(t)[axis] for t in tensors]))
    return Traced(first.graph, first.graph.add("Concat", [_value(t) for t in tensors], axis=axis), shape)


@_lowers(torch.stack)
def _stack(tensors: Sequence[Any], dim: int = 0) -> Traced:
    first = tensors[0]
    axis = dim % (first.ndim + 1)
    return _cat([_unsqueeze(t, axis) for t in tensors], axis)


@_lowers(torch.split, Tensor.split)
def _split(x: Traced, sizes: int | Sequence[int], dim: int = 0) -> list[Traced]:
    axis = _axis(x, dim)
    length = _static([x.shape[axis]])[0]
    parts = [sizes] * (length // sizes) if isinstance(sizes, int) else list(sizes)
    names = x.graph.add("Split", [x.name, np.array(parts, np.int64)], outputs=len(parts), axis=axis)
    return [
        Traced(x.graph, name, (*x.shape[:axis], part, *x.shape[axis + 1 :]))
        for name, part in zip(names, parts, strict=True)
    ]


@_lowers(torch.chunk, Tensor.chunk)
def _chunk(x: Traced, chunks: int, dim: int = 0) -> list[Traced]:
    return _split(x, _static([x.shape[_axis(x, dim)]])[0] // chunks, dim)


@_lowers(torch.flatten, Tensor.flatten)
def _flatten(x: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    first, last = _axis(x, start_dim), _axis(x, end_dim)
    merged = reduce(operator.mul, _static(x.shape[first : last + 1]))
    return _reshape(x, (*x.shape[:first], merged, *x.shape[last + 1 :]))


@_lowers(torch.unflatten, Tensor.unflatten)
def _unflatten(x: Traced, dim: int, sizes: Sequence[int]) -> Traced:
    axis = _axis(x, dim)
    length = _static([x.shape[axis]])[0]
    known = reduce(operator.mul, (s for s in sizes if s != -1), 1)
    return _reshape(x, (*x.shape[:axis], *(length // known if s == -1 else s for s in sizes), *x.shape[axis + 1 :]))


@_lowers(torch.transpose, Tensor.transpose)
def _transpose(x: Traced, a: int, b: int) -> Traced:
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return Traced(x.graph, x.graph.add("Transpose", [x.name], perm=order), [x.shape[i] for i in order])


@_lowers(torch.unsqueeze, Tensor.unsqueeze)
def _unsqueeze(x: Traced, dim: int) -> Traced:
    axis = dim % (x.ndim + 1)
    name = x.graph.add("Unsqueeze", [x.name, np.array([axis], np.int64)])
    return Traced(x.graph, name, (*x.shape[:axis], 1, *x.shape[axis:]))


@_lowers(torch.squeeze, Tensor.squeeze)
def _squeeze(x: Traced, dim: int) -> Traced:
    axis = _axis(x, dim)
    name = x.graph.add("Squeeze", [x.name, np.array([axis], np.int64)])
    return Traced(x.graph, name, (*x.shape[:axis], *x.shape[axis + 1 :]))


@_lowers(torch.mean, Tensor.mean)
def _mean(x: Traced, dim: int | Sequence[int], keepdim: bool = False) -> Traced:
    axes = [_axis(x, d) for d in ([dim] if isinstance(dim, int) else dim)]
    if x.ndim == 4 and axes == [2, 3] and keepdim:
        return Traced(x.graph, x.graph.add("GlobalAveragePool", [x.name]), (*x.shape[:2], 1, 1))
    return Traced(x.graph, x.graph.reduce("ReduceMean", x.name, axes, keepdims=keepdim), _reduced(x, axes, keepdim))


@_lowers(torch.linalg.vector_norm)
def _vector_norm(x: Traced, dim: int, keepdim: bool = False) -> Traced:
    axes = [_axis(x, dim)]
    return Traced(x.graph, x.graph.reduce("ReduceL2", x.name, axes, keepdims=keepdim), _reduced(x, axes, keepdim))


@_lowers(torch.clamp, Tensor.clamp)
def _clamp(x: Traced, min: float | None = None, max: float | None = None) -> Traced:
    bounds: list[Value] = ["" if bound is None else np.array(bound, np.float32) for bound in (min, max)]
    while bounds and isinstance(bounds[-1], str):
        bounds.pop()
    return Traced(x.graph, x.graph.add("Clip", [x.name, *bounds]), x.shape)


@_lowers(torch.softmax, F.softmax, Tensor.softmax)
def _softmax(x: Traced, dim: int) -> Traced:
    return _unary("Softmax", x, axis=_axis(x, dim))


@_lowers(torch.exp, Tensor.exp)
def _exp(x: Traced) -> Traced:
    return _unary("Exp", x)


@_lowers(torch.sin, Tensor.sin)
def _sin(x: Traced) -> Traced:
    return _unary("Sin", x)


@_lowers(torch.cos, Tensor.cos)
def _cos(x: Traced) -> Traced:
    return _unary("Cos", x)


def _slice(x: Traced, index: Any) -> Traced:
    """Lower ``x[...]`` with slices of step 1 or 2 and an ellipsis."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *(slice(None),) * (x.ndim - len(index) + 1), *index[at + 1 :])
    if not all(isinstance(part, slice) for part in index):
        raise ExportError(f"the exporter writes slices only, not the index {index!r}.")
    axes = [axis for axis, part in enumerate(index) if part != slice(None)]
    ranges = [index[axis].indices(_static([x.shape[axis]])[0]) for axis in axes]
    starts, ends, steps = (np.array(column, np.int64) for column in zip(*ranges, strict=True))
    shape = list(x.shape)
    for axis, bounds in zip(axes, ranges, strict=True):
        shape[axis] = len(range(*bounds))
    name = x.graph.add("Slice", [x.name, starts, ends, np.array(axes, np.int64), steps])
    return Traced(x.graph, name, shape)


def _reduced(x: Traced, axes: Sequence[int], keepdim: bool) -> Shape:
    kept = (1 if axis in axes else size for axis, size in enumerate(x.shape))
    return tuple(size for axis, size in enumerate(kept) if keepdim or axis not in axes)


def _static(sizes: Sequence[int | None]) -> list[int]:
    if None in sizes:
        raise ExportError("the exporter cannot compute with the open batch size.")
    return [int(size) for size in sizes if size is not None]


_METHODS: dict[str, Lowering] = {
    "chunk": _chunk,
    "clamp": _clamp,
    "cos": _cos,
    "exp": _exp,
    "flatten": _flatten,
    "mean": _mean,
    "sin": _sin,
    "softmax": _softmax,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "unflatten": _unflatten,
    "unsqueeze": _unsqueeze,
}
