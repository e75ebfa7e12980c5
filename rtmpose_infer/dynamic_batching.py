"""Dynamic batching: calls that come from several threads at the same time are answered together.

There is no thread of its own. A caller that finds fewer batches under way than are allowed leads the next one: it takes
along whoever has come while it could not begin, and answers for all of them. So a batch is as large as the traffic makes
it, and a single thread notices nothing. Callers that were just answered often come back at once, so before a batch begins
its leader waits for as many callers as there were last time, for at most a twentieth of the time that the last batch took.

A caller that comes while others wait, and finds that it may begin, goes before them, up to eight times in a row: handing
a turn to another thread costs Python a tenth of a frame's time. Where a batch holds one frame, strict turns made 1.09
times what separate trackers make, and this 1.2 (``benchmarks/streams.py --backend onnxruntime``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["DynamicBatcher", "Limits"]

Work = TypeVar("Work")
Answer = TypeVar("Answer")
_PATIENCE = 0.05  # share of the last batch's time that is waited for callers
_MOST_PASSED_OVER = 8  # in a row; then it is the turn of the caller that has waited longest


@dataclass(frozen=True)
class Limits:
    """How much may be under way at once.

    Attributes:
        concurrency: Batches under way at the same time.
        batch_size: Pieces of work in one batch.
    """

    concurrency: int
    batch_size: int


class DynamicBatcher(Generic[Work, Answer]):
    """Answers calls from any number of threads in batches.

    Args:
        answer: Returns the answers to a batch, in order; its second argument is the number of other batches under way. It
            must change nothing unless it succeeds: after an error it is called again for each piece of work alone, so
            that nobody gets the error of another's work.
        limits: Returns what may be under way at once; called when calls first meet, and again whenever that matters.
    """

    def __init__(self, answer: Callable[[Sequence[Work], int], Sequence[Answer]], limits: Callable[[], Limits]) -> None:
        self._answer = answer
        self._limits = limits
        self._lock = threading.Lock()
        self._waiting: list[_Call[Work, Answer]] = []  # who has waited longest is first
        self._passed_over = 0  # calls in a row that began at once although others waited
        self._gathering: _Call[Work, Answer] | None = None  # the leader that waits for its batch to fill
        self._under_way = 0
        self._expected = 1  # calls there were when the last batch ended: its own and those waiting
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
                        self._wake_next()  # a further batch may be allowed
            if call.answered:
                return call.result()
            others = self._gather(call)
            begun = time.perf_counter()
            self._answer_all([call, *call.followers], others)
        finally:  # an interrupt may come anywhere, here too, and must leave nobody else waiting for ever
            try:
                self._leave(call, time.perf_counter() - begun)
            except BaseException:
                self._leave(call, 0.0)
                raise
        return call.result()

    def _leave(self, call: _Call[Work, Answer], seconds: float) -> None:
        """Note that a call's thread goes on, and let others begin; what is done already is not done twice."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            if call.leads:
                if self._gathering is call:
                    self._gathering = None
                self._expected = 1 + len(call.followers) + len(self._waiting)
                self._patience_s = _PATIENCE * seconds
                # The followers of an interrupted leader wait again, to be answered by one of their own threads.
                left = [other for other in call.followers if not other.answered]
                # Nothing is called from here on, so no interrupt comes between.
                self._waiting[:0] = left
                self._under_way -= 1
                call.leads = False
            self._wake_next()
        for other in call.followers:
            other.wake.set()

    def _lead(self, call: _Call[Work, Answer]) -> bool:
        """Let a call lead a batch if one more is allowed; return whether it does."""
        call.leads = not self._under_way or self._under_way < self._limits().concurrency
        self._under_way += call.leads
        return call.leads

    def _wake_next(self) -> None:
        """Wake the call that has waited longest, to try to lead."""
        if self._waiting:
            self._waiting[0].wake.set()

    def _gather(self, call: _Call[Work, Answer]) -> int:
        """Take the followers of a leading call out of the queue; return how many other batches are under way."""
        with self._lock:
            others = self._under_way - 1
            if self._expected == 1 and not self._waiting:
                return others
            most = self._limits().batch_size - 1
            wanted = min(self._expected - 1, most)
            if most:
                self._gathering = call
        deadline = time.perf_counter() + self._patience_s
        while len(self._waiting) < wanted and (left := deadline - time.perf_counter()) > 0:
            call.wake.wait(left)
            call.wake.clear()
        with self._lock:
            self._gathering = None
            call.followers, self._waiting = self._waiting[:most], self._waiting[most:]
            self._wake_next()
            return others

    def _answer_all(self, batch: Sequence[_Call[Work, Answer]], others: int) -> None:
        try:
            answers = self._answer([call.work for call in batch], others)
        except Exception as error:  # noqa: BLE001  # raised in the thread that brought the work
            if len(batch) == 1:
                batch[0].fail(error)
            else:
                for call in batch:
                    self._answer_all([call], others)
        else:
            for call, answer in zip(batch, answers, strict=True):
                call.succeed(answer)


class _Call(Generic[Work, Answer]):
    """One piece of work, the thread that brought it, and what came of it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.wake = threading.Event()
        self.leads = False
        self.answered = False
        self.followers: list[_Call[Work, Answer]] = []  # calls that are answered with it, where it leads
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
