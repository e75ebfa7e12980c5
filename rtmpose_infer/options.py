"""Checks of options: a wrong one is refused where it is given and by its name, not deep inside by its effects.

numpy's numbers count as numbers. True and False do not: whoever writes ``threads=True`` meant something else.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

from rtmpose_infer.errors import InputError

__all__ = ["check_option", "is_number", "is_whole"]


def check_option(name: str, value: object, expected: str, *, fine: bool) -> None:
    """Refuse an option's value unless it is fine.

    Args:
        name: The option.
        value: What was given.
        expected: What it must be, in words that go on from "must be".
        fine: Whether the value is that.

    Raises:
        InputError: It is not fine.
    """
    if not fine:
        raise InputError(f"{name} must be {expected}, got {value!r}.")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number.

    >>> [is_number(value) for value in (1, 0.5, float("nan"), True, "1", None)]
    [True, True, False, False, False, False]
    """
    if isinstance(value, float):  # nearly all, and at a tenth of what abstract classes cost
        return math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number.

    >>> [is_whole(value) for value in (1, -1, 1.0, True)]
    [True, True, False, False]
    """
    return isinstance(value, Integral) and is_number(value)
