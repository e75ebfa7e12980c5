"""A request to another process comes back as an answer, whatever happens over there."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import pytest

from rtmpose_infer.workers import Worker


def echo(request):
    sys.stdout.write("noise on standard output\n")
    sys.stderr.write("why it failed\n")
    if request.get("raise"):
        raise ValueError("too warm")
    if request.get("exit"):
        os._exit(3)
    if request.get("segfault"):
        ctypes.string_at(0)
    if request.get("sleep"):
        time.sleep(60)
    return {"doubled": request["number"] * 2}


class Counter:
    def __init__(self):
        self.count = 0

    def __call__(self, request):
        self.count += request["by"]
        return self.count


@pytest.fixture
def here(monkeypatch):
    """Lets the other process import this file."""
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "test_workers"


def test_an_answer_carries_the_value_and_nothing_of_what_was_printed(here):
    with Worker(f"{here}:echo") as worker:
        answer = worker.call({"number": 21}, timeout_s=60)
        assert answer.ok
        assert answer.value == {"doubled": 42}


def test_a_class_keeps_its_state_between_requests(here):
    with Worker(f"{here}:Counter") as worker:
        assert [worker.call({"by": n}, timeout_s=60).value for n in (1, 2, 3)] == [1, 3, 6]


def test_an_exception_is_reported_and_the_process_goes_on(here):
    with Worker(f"{here}:echo") as worker:
        answer = worker.call({"raise": True}, timeout_s=60)
        assert (answer.kind, answer.error_type, answer.failure) == ("raised", "ValueError", "too warm")
        assert not answer.ok
        assert worker.call({"number": 1}, timeout_s=60).value["doubled"] == 2


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"exit": True}, "exit code 3"),
        pytest.param(
            {"segfault": True},
            "SIGSEGV",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no signals"),
        ),
    ],
)
def test_a_crash_is_an_answer_with_the_log(here, request_, words):
    with Worker(f"{here}:echo") as worker:
        answer = worker.call(request_, timeout_s=60)
        assert answer.kind == "crashed"
        assert words in answer.failure
        assert "why it failed" in answer.log
        assert worker.call({"number": 1}, timeout_s=60).kind == "not started"


def test_silence_is_a_timeout_and_ends_the_process(here):
    with Worker(f"{here}:echo") as worker:
        assert worker.call({"number": 1}, timeout_s=60).ok
        answer = worker.call({"sleep": True}, timeout_s=0.3)
        assert (answer.kind, answer.failure) == ("timed out", "no answer within 0.3 s")
        assert worker.call({"number": 1}, timeout_s=60).failure == "no answer within 0.3 s"


def test_a_target_that_does_not_exist_raises_over_there():
    with Worker("rtmpose_infer.errors:nothing_of_that_name") as worker:
        answer = worker.call({}, timeout_s=60)
        assert (answer.kind, answer.error_type) == ("raised", "AttributeError")


def test_a_missing_interpreter_is_an_answer(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Worker("rtmpose_infer.errors:nothing") as worker:
        answer = worker.call({}, timeout_s=60)
        assert answer.kind == "not started"
        assert "/nowhere/python" in answer.failure


def test_closing_twice_is_fine(here):
    worker = Worker(f"{here}:echo")
    worker.close()
    worker.close()
    assert worker.call({"number": 1}, timeout_s=1).kind == "not started"
