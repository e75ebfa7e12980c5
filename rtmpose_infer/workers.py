"""A fresh Python process that answers requests: for code that may crash or hang, or whose memory must be its own.

A broken GPU driver can end or freeze the process that asks it, and two runtimes in one process share its memory peak
and its threads. So the doctor asks every device, and the benchmark runs every compared backend, in a process of its
own. Requests and answers are lines of JSON. Whatever happens in the worker comes back as an ``Answer``, never as an
exception in this process.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Answer", "Worker", "serve"]

_LOG_TAIL = 8192
_EXIT_WAIT_S = 5.0


@dataclass(frozen=True)
class Answer:
    """What came back of one request.

    Attributes:
        value: What the handler returned; None when it failed.
        failure: Why there is no value, in words; empty when there is one.
        kind: ``"ok"``, ``"raised"`` (the handler raised an exception), ``"crashed"`` (the process ended), ``"timed out"`` or
            ``"not started"``.
        error_type: Name of the exception's class, when it raised.
        log: The end of what the process has written to its standard error so far: runtimes say there why they failed.
    """

    value: Any = None
    failure: str = ""
    kind: str = "ok"
    error_type: str = ""
    log: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.kind == "ok"


class Worker:
    """A process of its own that holds one handler; close it, or use it as a context manager.

    Args:
        target: ``"module:name"`` of a function that takes a request (a dict) and returns what JSON can hold, or of a
            class whose instance is called so.
    """

    def __init__(self, target: str) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._failure = ""
        self._log = bytearray()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # The search path goes along, so that the worker imports the same package, however it was found.
        code = f"import sys; sys.path[:] = {sys.path!r}; from rtmpose_infer.workers import serve; serve({target!r})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            self._failure = f"no Python process could be started from {sys.executable!r}: {error}"
            return
        self._threads = [
            threading.Thread(target=read, args=(stream,), daemon=True)
            for read, stream in ((self._read_answers, self._process.stdout), (self._read_log, self._process.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def call(self, request: Mapping[str, Any], *, timeout_s: float) -> Answer:
        """Send a request and wait for its answer; after a crash or a timeout the process is gone.

        Args:
            request: What JSON can hold.
            timeout_s: Seconds to wait; then the process is ended.
        """
        process = self._process
        if process is None or process.stdin is None:
            return Answer(failure=self._failure or "the process is closed", kind="not started")
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except (OSError, ValueError):
            line = b""
        except queue.Empty:
            log = self._log_tail()
            self.close(kill=True)
            self._failure = f"no answer within {timeout_s:g} s"
            return Answer(failure=self._failure, kind="timed out", log=log)
        if not line:
            self._failure = _ending(process)
            self._threads[1].join(_EXIT_WAIT_S)  # its last words may still be on the way
            log = self._log_tail()
            self.close(kill=True)
            return Answer(failure=self._failure, kind="crashed", log=log)
        answer = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            return Answer(failure=error["message"], kind="raised", error_type=error["type"], log=self._log_tail())
        return Answer(value=answer["value"], log=self._log_tail())

    def close(self, *, kill: bool = False) -> None:
        """End the process; may be called twice. It is asked to end first, unless ``kill`` says not to wait."""
        process, self._process = self._process, None
        if process is not None:
            if kill:
                process.kill()
            if process.stdin is not None:
                with suppress(OSError):  # it may be gone already, with a request unread
                    process.stdin.close()
            try:
                process.wait(_EXIT_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _read_answers(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._answers.put(line)
        self._answers.put(b"")

    def _read_log(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._log += line
                del self._log[:-_LOG_TAIL]

    def _log_tail(self) -> str:
        return self._log.decode(errors="replace").strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=kind is not None)


def serve(target: str) -> None:
    """Answer requests until standard input ends: the body of a worker's process.

    Standard output carries the answers, so it is moved aside first: runtimes print.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    handler: Callable[[dict[str, Any]], Any] | None = None
    for line in sys.stdin.buffer:
        try:
            if handler is None:
                module, _, name = target.partition(":")
                found = getattr(importlib.import_module(module), name)
                handler = found() if isinstance(found, type) else found
            answer = {"value": handler(json.loads(line))}
            text = json.dumps(answer)
        except Exception as error:  # noqa: BLE001  # it is reported to whoever asked
            text = json.dumps({"error": {"type": type(error).__name__, "message": str(error) or repr(error)}})
        answers.write(text.encode() + b"\n")
        answers.flush()


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_EXIT_WAIT_S)
    except subprocess.TimeoutExpired:
        return "the process closed its output"
    if code < 0:
        try:
            return f"the process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"the process was ended by signal {-code}"
    return f"the process ended with exit code {code}"
