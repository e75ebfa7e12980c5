"""The end of a file of results: at the end of a ``with`` block, complete unless an error ended the block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Ending"]


class Ending(ABC):
    """Base of the writers of results; a context manager."""

    @abstractmethod
    def close(self, *, complete: bool = True) -> None:
        """Finish the file; ``complete`` tells whether the frames are all that the source was to give."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)
