"""Calls of several threads answered together: how they are gathered, and whose errors are whose."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from types import SimpleNamespace

import pytest

from rtmpose_infer import dynamic_batching as module
from rtmpose_infer.dynamic_batching import DynamicBatcher, Limits

PATIENCE_S = 60


class NoSquareError(Exception): ...


class Squares:
    """Squares numbers; holds a batch with 0 in it until told otherwise, and fails at a batch with a negative number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.others: list[int] = []
        self.held = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, numbers: Sequence[int], others: int) -> list[int]:
        self.batches.append(list(numbers))
        self.others.append(others)
        if 0 in numbers:
            self.held.release()
            assert self.go_on.wait(PATIENCE_S)
        self.meanwhile()
        if min(numbers) < 0:
            raise NoSquareError(f"no root of {min(numbers)}")
        return [number**2 for number in numbers]


def batcher(squares: Squares, *, concurrency: int = 1, batch_size: int = 8) -> DynamicBatcher[int, int]:
    return DynamicBatcher(squares, lambda: Limits(concurrency, batch_size))


def gathered(
    pool: ThreadPoolExecutor, together: DynamicBatcher[int, int], squares: Squares, *numbers: int
) -> list[Future[int]]:
    """Bring numbers from a thread each while a first batch is under way; let it go on once all of them wait."""
    first = pool.submit(together, 0)
    assert squares.held.acquire(timeout=PATIENCE_S)
    others = []
    for count, number in enumerate(numbers, 1):
        others.append(pool.submit(together, number))
        comes_true(lambda count=count: len(together._waiting) >= count)
    squares.go_on.set()
    return [first, *others]


def comes_true(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def squares() -> Squares:
    return Squares()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass on the batcher's clock."""
    passed = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + sum(passed))
    monkeypatch.setattr(module, "time", clock)
    return passed.append


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_a_single_thread_is_answered_at_once_and_the_limits_do_not_matter(squares: Squares) -> None:
    def limits() -> Limits:
        raise AssertionError("asked in vain")

    together = DynamicBatcher(squares, limits)
    assert [together(number) for number in (1, 2, 3)] == [1, 4, 9]
    assert squares.batches == [[1], [2], [3]]
    assert squares.others == [0] * 3


def test_who_comes_during_a_batch_shares_the_next_one_in_the_order_of_coming(squares: Squares, pool) -> None:
    answers = gathered(pool, batcher(squares), squares, 1, 2, 3)
    assert [answer.result(PATIENCE_S) for answer in answers] == [0, 1, 4, 9]
    assert squares.batches == [[0], [1, 2, 3]]
    assert squares.others == [0, 0]


def test_a_batch_is_no_larger_than_its_limit(squares: Squares, pool) -> None:
    answers = gathered(pool, batcher(squares, batch_size=2), squares, 1, 2, 3, 4, 5)
    assert [answer.result(PATIENCE_S) for answer in answers] == [0, 1, 4, 9, 16, 25]
    assert squares.batches == [[0], [1, 2], [3, 4], [5]]


def test_as_many_batches_are_under_way_as_are_allowed(squares: Squares, pool) -> None:
    together = batcher(squares, concurrency=2, batch_size=1)
    first = pool.submit(together, 0)
    assert squares.held.acquire(timeout=PATIENCE_S)
    assert together(3) == 9  # goes beside the one that is held
    assert squares.others == [0, 1]
    second = pool.submit(together, 0)
    assert squares.held.acquire(timeout=PATIENCE_S)
    third = pool.submit(together, 5)
    time.sleep(0.05)
    assert squares.batches == [[0], [3], [0]]  # no third batch is allowed
    squares.go_on.set()
    assert [answer.result(PATIENCE_S) for answer in (first, second, third)] == [0, 0, 25]


def test_who_has_waited_longest_is_next(squares: Squares, pool) -> None:
    answers = gathered(pool, batcher(squares, batch_size=1), squares, *range(1, 7))
    assert [answer.result(PATIENCE_S) for answer in answers] == [number**2 for number in range(7)]
    assert squares.batches == [[number] for number in range(7)]


def test_who_comes_when_a_turn_is_free_goes_before_those_who_wait_eight_times_in_a_row_and_no_more(
    squares: Squares, pool
) -> None:
    waiting = []

    def limits() -> Limits:  # for the one who waits no turn is ever free
        return Limits(1 if threading.get_ident() in waiting or squares.go_on.is_set() else 2, 1)

    together = DynamicBatcher(squares, limits)
    for _ in range(2):
        squares.go_on.clear()
        first = pool.submit(together, 0)
        assert squares.held.acquire(timeout=PATIENCE_S)
        longest = pool.submit(lambda: waiting.append(threading.get_ident()) or together(10))
        comes_true(lambda: len(together._waiting) == 1)
        assert [together(number) for number in range(1, 9)] == [number**2 for number in range(1, 9)]
        ninth = pool.submit(together, 9)
        comes_true(lambda ninth=ninth: len(together._waiting) == 2 or ninth.done())
        squares.go_on.set()
        assert [answer.result(PATIENCE_S) for answer in (first, longest, ninth)] == [0, 100, 81]
        waiting.clear()
    assert squares.batches == [[number] for number in (*range(9), 10, 9)] * 2


def test_a_batch_waits_for_the_one_just_answered_where_somebody_else_had_waited(
    squares: Squares, pool, later: Callable[[float], None]
) -> None:
    squares.meanwhile = lambda: later(2000)
    together = batcher(squares)
    first, second = gathered(pool, together, squares, 1)
    assert first.result(PATIENCE_S) == 0
    comes_true(lambda: together._gathering is not None)
    assert together(2) == 4
    assert second.result(PATIENCE_S) == 1
    assert squares.batches == [[0], [1, 2]]


def test_a_batch_waits_for_all_of_the_last_one_who_come_back_one_by_one(
    squares: Squares, pool, later: Callable[[float], None]
) -> None:
    squares.meanwhile = lambda: later(2000)
    together = batcher(squares, batch_size=2)
    answers = gathered(pool, together, squares, 1, 2)
    assert [answer.result(PATIENCE_S) for answer in answers] == [0, 1, 4]
    third = pool.submit(together, 3)
    comes_true(lambda: together._gathering is not None)
    assert together(4) == 16
    assert third.result(PATIENCE_S) == 9
    assert squares.batches == [[0], [1, 2], [3, 4]]


def test_a_batch_that_is_full_waits_for_nobody(squares: Squares, pool, later: Callable[[float], None]) -> None:
    squares.meanwhile = lambda: 0 in squares.batches[-1] and later(2000)
    answers = gathered(pool, batcher(squares, batch_size=2), squares, 1, 2, 3, 4)
    assert [answer.result(PATIENCE_S) for answer in answers] == [0, 1, 4, 9, 16]
    assert squares.batches == [[0], [1, 2], [3, 4]]


def test_time_spent_in_the_queue_does_not_count_as_time_that_a_batch_took(
    squares: Squares, pool, later: Callable[[float], None]
) -> None:
    together = batcher(squares, batch_size=2)
    squares.meanwhile = lambda: 0 in squares.batches[-1] and later(2000)
    answers = gathered(pool, together, squares, 1, 2)
    assert [answer.result(PATIENCE_S) for answer in answers] == [0, 1, 4]
    assert pool.submit(together, 3).result(PATIENCE_S) == 9  # nobody comes, and nobody is waited for


def test_who_does_not_come_back_is_waited_for_no_longer_than_a_share_of_the_last_batchs_time(
    squares: Squares, pool, later: Callable[[float], None]
) -> None:
    squares.meanwhile = lambda: later(13)
    answers = gathered(pool, batcher(squares), squares, 1)
    assert [answer.result(PATIENCE_S) for answer in answers] == [0, 1]
    assert squares.batches == [[0], [1]]


def test_who_was_to_be_answered_by_an_interrupted_thread_keeps_the_place_in_the_queue(pool) -> None:
    class Interrupted(Squares):
        def __call__(self, numbers: Sequence[int], others: int) -> list[int]:
            answer = super().__call__(numbers, others)
            if 1 in numbers:
                raise KeyboardInterrupt
            return answer

    squares = Interrupted()
    first, bad, *answers = gathered(pool, batcher(squares, batch_size=2), squares, 1, 2, 3, 4)
    assert isinstance(bad.exception(PATIENCE_S), KeyboardInterrupt)
    assert [answer.result(PATIENCE_S) for answer in (first, *answers)] == [0, 4, 9, 16]
    assert squares.batches == [[0], [1, 2], [2, 3], [4]]


def test_an_error_reaches_the_one_whose_it_is(squares: Squares, pool) -> None:
    first, good, bad, fine = gathered(pool, batcher(squares), squares, 2, -1, 3)
    assert [answer.result(PATIENCE_S) for answer in (first, good, fine)] == [0, 4, 9]
    with pytest.raises(NoSquareError, match="no root of -1"):
        bad.result(PATIENCE_S)
    assert squares.batches == [[0], [2, -1, 3], [2], [-1], [3]]


def test_after_an_error_alone_the_next_call_is_answered(squares: Squares) -> None:
    together = batcher(squares)
    with pytest.raises(NoSquareError, match="no root"):
        together(-3)
    assert together(4) == 16


def test_when_the_thread_that_answers_is_interrupted_the_others_go_on(pool) -> None:
    class Interrupted(Squares):
        def __call__(self, numbers: Sequence[int], others: int) -> list[int]:
            answer = super().__call__(numbers, others)
            if len(numbers) == 3:
                raise KeyboardInterrupt
            return answer

    squares = Interrupted()
    answers = gathered(pool, batcher(squares), squares, 1, 2, 3)
    outcomes = [answer.exception(PATIENCE_S) for answer in answers]
    assert [type(error) for error in outcomes].count(KeyboardInterrupt) == 1
    assert [answer.result() for answer, error in zip(answers, outcomes, strict=True) if error is None] == [
        number**2 for number, error in zip((0, 1, 2, 3), outcomes, strict=True) if error is None
    ]


def test_when_the_thread_that_answers_is_interrupted_before_it_does_the_others_go_on(
    pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather, interrupts = DynamicBatcher._gather, iter([KeyboardInterrupt])

    def interrupted(self, call) -> int:
        others = gather(self, call)
        if call.followers:
            for error in interrupts:
                raise error
        return others

    monkeypatch.setattr(DynamicBatcher, "_gather", interrupted)
    squares = Squares()
    answers = gathered(pool, batcher(squares), squares, 1, 2, 3)
    outcomes = [answer.exception(PATIENCE_S) for answer in answers]
    assert [type(error) for error in outcomes].count(KeyboardInterrupt) == 1
    assert sum(error is None for error in outcomes) == 3


class Interrupt:
    """Interrupts its thread once in this module's code, at the n-th place where Python sees to signals."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __enter__(self) -> Interrupt:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _see(self, frame, event: str, argument: object) -> None:
        if event in {"call", "c_return"} and frame.f_code.co_filename == module.__file__:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
def test_wherever_a_call_is_interrupted_it_leaves_no_turn_taken_and_no_place_in_the_queue(
    waits: bool, batch_size: int, pool
) -> None:
    for number in range(1, 1000):
        squares = Squares()
        together = batcher(squares, batch_size=batch_size)
        if waits:
            held = pool.submit(together, 0)
            assert squares.held.acquire(timeout=PATIENCE_S)
            end = threading.Timer(0.002, squares.go_on.set)
            end.start()
        with Interrupt(number) as interrupt, suppress(KeyboardInterrupt):
            together(3)
        if waits:
            end.join()
            held.result(PATIENCE_S)
        assert (together._under_way, together._waiting, together._gathering) == (0, [], None), number
        if interrupt.left > 0:
            return
    raise AssertionError("the call never came to its end")


@pytest.mark.parametrize(("concurrency", "batch_size"), [(1, 1), (1, 2), (2, 1), (2, 16)])
def test_nobody_is_left_waiting(concurrency: int, batch_size: int, pool) -> None:
    squares = Squares()
    together = batcher(squares, concurrency=concurrency, batch_size=batch_size)
    stop = threading.Event()

    def greedy(number: int) -> None:
        while not stop.is_set():
            assert together(number) == number**2

    crowd = [pool.submit(greedy, number) for number in range(2, 6)]
    try:
        assert [pool.submit(together, number).result(PATIENCE_S) for number in range(10, 40)] == [
            number**2 for number in range(10, 40)
        ]
    finally:
        stop.set()
    for one in crowd:
        one.result(PATIENCE_S)


def test_many_threads_and_many_calls_all_get_their_own_answers(squares: Squares, pool) -> None:
    together = batcher(squares, concurrency=2, batch_size=3)
    numbers = [[100 * thread + i + 1 for i in range(200)] for thread in range(8)]
    answers = list(pool.map(lambda own: [together(number) for number in own], numbers))
    assert answers == [[number**2 for number in own] for own in numbers]
    assert max(map(len, squares.batches)) <= 3
    assert sorted(chain(*squares.batches)) == sorted(chain(*numbers))
