"""Read the values of an OpenMMLab config out of its text, without running it.

A checkpoint's ``meta`` holds the training config as Python source. It comes from an untrusted file, so it is parsed, never
executed: only literals, ``dict(...)`` calls, arithmetic on numbers and names assigned earlier are understood, which is
all that a dumped config consists of. Whatever else stands there is left out.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["find_value", "parse_config"]

_LONGEST_TEXT = 8 * 2**20
_MOST_BITS = 64  # of a whole number: products of products outgrow any memory
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


class _NotLiteralError(Exception):
    """The expression is more than a literal."""


def parse_config(text: str) -> dict[str, Any]:
    r"""Return the top-level names that ``text`` assigns literal values to.

    Text that is not Python gives an empty result: a config only ever refines what the tensors say.

    >>> parse_config("size = (192, 256)\ncodec = dict(type='SimCCLabel', input_size=size)\nimport os")
    {'size': (192, 256), 'codec': {'type': 'SimCCLabel', 'input_size': (192, 256)}}
    """
    if len(text) > _LONGEST_TEXT:
        return {}
    try:
        module = ast.parse(text)
        found: dict[str, Any] = {}
        for statement in module.body:
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                target = statement.targets[0]
                if isinstance(target, ast.Name):
                    try:
                        found[target.id] = _evaluate(statement.value, found)
                    except _NotLiteralError:
                        continue
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return found


def find_value(config: Any, *path: str) -> Any:
    """Return the value at a path of keys, or ``None`` where the config does not go that far."""
    for key in path:
        if not isinstance(config, Mapping) or key not in config:
            return None
        config = config[key]
    return config


def find_steps(config: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping in the config whose ``type`` is ``kind``, such as a pipeline's transforms."""
    waiting: list[Any] = [config]
    seen: set[int] = set()  # names stand for one and the same list wherever they are used
    while waiting:
        value = waiting.pop()
        if isinstance(value, (Mapping, list, tuple)):
            if id(value) in seen:
                continue
            seen.add(id(value))
        if isinstance(value, Mapping):
            if value.get("type") == kind:
                yield value
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)


def _evaluate(node: ast.expr, known: Mapping[str, Any]) -> Any:  # one answer per kind of node
    match node:
        case ast.Constant(value=value):
            return _bounded(value)
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Tuple(elts=elements):
            return tuple(_evaluate(e, known) for e in elements)
        case ast.List(elts=elements):
            return [_evaluate(e, known) for e in elements]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            names = [_evaluate(k, known) for k in keys if k]
            if all(isinstance(name, (str, int, float)) for name in names):
                return {name: _evaluate(v, known) for name, v in zip(names, values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return {k.arg: _evaluate(k.value, known) for k in keywords if k.arg}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _evaluate(operand, known)
            if isinstance(value, (int, float)):
                return -value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            a, b = _evaluate(left, known), _evaluate(right, known)
            if isinstance(a, (int, float)) and isinstance(b, (int, float)):
                return _bounded(_ARITHMETIC[type(op)](a, b))
        case _:
            pass
    raise _NotLiteralError


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise _NotLiteralError
    return value
