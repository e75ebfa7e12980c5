"""What everything that holds a network, a file or a thread has in common: it is closed at the end of a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self

__all__ = ["Closing"]


class Closing(ABC):
    """Base of classes whose instances are closed, by ``close`` or by leaving a ``with`` block."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Free what is held; may be called twice."""

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"this {name} can be neither copied nor pickled, for what it holds belongs to one object of one process. Make "
            f"another {name} where one is needed."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
