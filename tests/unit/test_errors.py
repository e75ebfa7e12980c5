"""Errors: one tree, as its docstring draws it; each can be caught as the built-in one it also is, and can travel."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from rtmpose_infer import errors

CLASSES = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__ == errors.__name__
}


def drawn_tree() -> dict[str, str | None]:
    """Return class → parent as the module's docstring draws it."""
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([\s│├└─]*)(\w+Error)\b", line)
        if found is None:
            continue
        depth = len(found[1])
        path = [(d, n) for d, n in path if d < depth]
        parents[found[2]] = path[-1][1] if path else None
        path.append((depth, found[2]))
    return parents


def test_the_docstring_draws_the_tree_that_is_there():
    actual = {
        name: next((b.__name__ for b in cls.__bases__ if b.__name__ in CLASSES), None) for name, cls in CLASSES.items()
    }
    assert drawn_tree() == actual


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_error_can_be_caught_by_the_one_base(name):
    assert issubclass(CLASSES[name], errors.RtmposeInferError)
    assert CLASSES[name].__doc__


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.ShapeError, ValueError),
        (errors.DTypeError, ValueError),
        (errors.BackendUnavailableError, ImportError),
        (errors.MediaError, OSError),
    ],
)
def test_errors_are_also_the_builtin_kind_that_fits(ours, builtin):
    assert issubclass(ours, builtin)


@pytest.mark.parametrize("cls", [errors.ShapeError, errors.DTypeError])
def test_messages_say_what_was_expected_what_came_and_what_to_do(cls):
    error = cls("frame", expected="(H, W, 3)", actual=(4, 4), hint="Convert it.")
    assert (error.expected, error.actual) == ("(H, W, 3)", (4, 4))
    for words in ("frame", "(H, W, 3)", "(4, 4)", "Convert it."):
        assert words in str(error)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_errors_survive_the_way_to_another_process(name):
    cls = CLASSES[name]
    holds_both = cls in {errors.ShapeError, errors.DTypeError}
    error = cls("boxes", expected="(N, 4)", actual=(3,)) if holds_both else cls("boxes are wrong")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
