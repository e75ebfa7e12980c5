"""Work that comes from several threads at the same time, answered together.

There is no thread of its own: who finds a lane free answers, and takes along whoever has come while all lanes were
taken. So a batch is as large as the traffic makes it, and a single thread notices nothing. Those who were answered just
now often come back at once; the next batch gives them a twentieth of the time that the last one took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Company", "Limits"]

Work = TypeVar("Work")
Answer = TypeVar("Answer")
_PATIENCE = 0.05  # of the time that the last batch took


@dataclass(frozen=True)
class Limits:
    """How much of what comes at once may be answered at once.

    Attributes:
        lanes: Batches under way.
        batch: Pieces of work in a batch.
    """

    lanes: int
    batch: int


class Company(Generic[Work, Answer]):
    """Calls from any number of threads, answered in batches.

    Args:
        answer: Gives the answers to a batch, in order. Its second argument counts the other batches under way.
            An error of a batch is met by asking once more for each part of it alone, so nobody gets an error that is
            another's; until it returns it must have changed nothing.
        limits: Says what may be at once; asked when that first matters.
    """

    def __init__(self, answer: Callable[[Sequence[Work], int], Sequence[Answer]], limits: Callable[[], Limits]) -> None:
        self._answer = answer
        self._limits = limits
        self._changed = threading.Condition()
        self._waiting: list[_Call[Work, Answer]] = []
        self._under_way = 0
        self._expected = 1  # how many took part when the last batch ended, those who waited for their turn included
        self._patience_s = 0.0

    def __call__(self, work: Work) -> Answer:
        """Return the answer to a piece of work, or raise what was raised for it."""
        call: _Call[Work, Answer] = _Call(work)
        with self._changed:
            self._waiting.append(call)
            if self._under_way:
                self._changed.notify_all()  # it may be waited for
            try:
                while not call.answered and (call not in self._waiting or not self._lane_is_free()):
                    self._changed.wait()
                if call.answered:
                    return call.result()
                self._under_way += 1
                try:
                    batch = self._batch_of(call)
                except BaseException:
                    self._under_way -= 1
                    raise
                others = self._under_way - 1
            except BaseException:  # this thread was interrupted, and nobody waits for its answer
                if call in self._waiting:
                    self._waiting.remove(call)
                self._changed.notify_all()
                raise
        begun = time.perf_counter()
        try:
            self._answer_all(batch, others)
        finally:
            with self._changed:
                self._under_way -= 1
                self._expected = len(batch) + len(self._waiting)
                self._patience_s = _PATIENCE * (time.perf_counter() - begun)
                # Of an interrupted batch the others go on, with one of their own threads.
                self._waiting[:0] = [other for other in batch if not other.answered and other is not call]
                if self._expected > 1:
                    self._changed.notify_all()
        return call.result()

    def _lane_is_free(self) -> bool:
        return not self._under_way or self._under_way < self._limits().lanes

    def _batch_of(self, call: _Call[Work, Answer]) -> list[_Call[Work, Answer]]:
        """Take a call and its company out of the queue."""
        if self._expected == 1 and len(self._waiting) == 1:
            self._waiting.clear()
            return [call]
        largest = self._limits().batch
        deadline = time.perf_counter() + self._patience_s
        while len(self._waiting) < min(self._expected, largest):
            left = deadline - time.perf_counter()
            if left <= 0:
                break
            self._changed.wait(left)
        self._waiting.remove(call)
        batch, self._waiting = [call, *self._waiting[: largest - 1]], self._waiting[largest - 1 :]
        return batch

    def _answer_all(self, batch: Sequence[_Call[Work, Answer]], others: int) -> None:
        try:
            answers = self._answer([call.work for call in batch], others)
        except Exception as error:  # noqa: BLE001  # it is raised where it belongs, in its own thread
            if len(batch) == 1:
                batch[0].fail(error)
            else:
                for call in batch:
                    self._answer_all([call], others)
        else:
            for call, answer in zip(batch, answers, strict=True):
                call.succeed(answer)


class _Call(Generic[Work, Answer]):
    """One piece of work, and what came of it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.answered = False
        self._answers: list[Answer] = []
        self._error: Exception | None = None

    def succeed(self, answer: Answer) -> None:
        self._answers, self.answered = [answer], True

    def fail(self, error: Exception) -> None:
        self._error, self.answered = error, True

    def result(self) -> Answer:
        if self._error is not None:
            raise self._error
        return self._answers[0]
