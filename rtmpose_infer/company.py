"""Work that comes from several threads at the same time, answered together.

There is no thread of its own: who finds a lane free answers, and takes along whoever has come while all lanes were
taken. So a batch is as large as the traffic makes it, and a single thread notices nothing. Those who were answered just
now often come back at once; the next batch gives them a twentieth of the time that the last one took.

A thread that comes back at once may go on before others who wait, for a few times in a row: to hand a lane over to
another thread takes Python a tenth of a frame's time, so strict turns, where a batch holds one frame, made 1.09 times
what separate trackers make, and this 1.2 (``benchmarks/streams.py --backend onnxruntime``).
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
_MOST_PASSED_OVER = 8  # in a row; then it is the turn of who has waited longest


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
        self._lock = threading.Lock()
        self._waiting: list[_Call[Work, Answer]] = []  # the longest first
        self._passed_over = 0  # times that somebody came and went on at once although others waited
        self._gathering: _Call[Work, Answer] | None = None
        self._under_way = 0
        self._expected = 1  # how many took part when the last batch ended, those who waited for their turn included
        self._patience_s = 0.0

    def __call__(self, work: Work) -> Answer:
        """Return the answer to a piece of work, or raise what was raised for it."""
        call: _Call[Work, Answer] = _Call(work)
        begun = time.perf_counter()
        try:
            with self._lock:
                if (self._waiting and self._passed_over >= _MOST_PASSED_OVER) or not self._lead(call):
                    self._waiting.append(call)
                    if self._gathering is not None:
                        self._gathering.wake.set()
                elif self._waiting:
                    self._passed_over += 1
            while not call.leads and not call.answered:
                call.wake.wait()
                call.wake.clear()
                with self._lock:
                    if self._waiting and self._waiting[0] is call and self._lead(call):
                        self._waiting.pop(0)
                        self._passed_over = 0
                        self._invite()  # there may be another lane
            if call.answered:
                return call.result()
            others = self._gather(call)
            begun = time.perf_counter()
            self._answer_all([call, *call.company], others)
        finally:  # an interrupt may come anywhere, and nobody else may wait for ever because of it
            self._leave(call, time.perf_counter() - begun)
        return call.result()

    def _leave(self, call: _Call[Work, Answer], seconds: float) -> None:
        """Let others go on when a call's thread does."""
        with self._lock:
            if call.leads:
                if self._gathering is call:
                    self._gathering = None
                self._under_way -= 1
                self._expected = 1 + len(call.company) + len(self._waiting)
                self._patience_s = _PATIENCE * seconds
                # Of an interrupted batch the others go on, with one of their own threads.
                self._waiting[:0] = [other for other in call.company if not other.answered]
                self._invite()
            elif call in self._waiting:
                self._waiting.remove(call)
                self._invite()
        for other in call.company:
            other.wake.set()

    def _lead(self, call: _Call[Work, Answer]) -> bool:
        """Let a call be answered by its own thread if a lane is free; return whether it is."""
        call.leads = not self._under_way or self._under_way < self._limits().lanes
        self._under_way += call.leads
        return call.leads

    def _invite(self) -> None:
        """Wake who has waited longest, to see whether a lane is free."""
        if self._waiting:
            self._waiting[0].wake.set()

    def _gather(self, call: _Call[Work, Answer]) -> int:
        """Give a call its company, taken out of the queue, and return how many other batches are under way."""
        with self._lock:
            others = self._under_way - 1
            if self._expected == 1 and not self._waiting:
                return others
            most = self._limits().batch - 1
            wanted = min(self._expected - 1, most)
            if most:
                self._gathering = call
        deadline = time.perf_counter() + self._patience_s
        while len(self._waiting) < wanted and (left := deadline - time.perf_counter()) > 0:
            call.wake.wait(left)
            call.wake.clear()
        with self._lock:
            self._gathering = None
            call.company, self._waiting = self._waiting[:most], self._waiting[most:]
            self._invite()
            return others

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
        self.wake = threading.Event()
        self.leads = False
        self.answered = False
        self.company: list[_Call[Work, Answer]] = []  # those who are answered together with it, where it leads
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
