"""Bytes from a list of addresses into one local file, whatever the network does.

Only https is spoken, and a redirect may not leave it. (Plain http is allowed where the address itself names this very
machine, so that a mirror for development or tests can be set up without certificates.) Whether the bytes are the right
ones is the caller's question: this module asks it through ``accept``, and goes on with the next address when the answer
is no.
"""

from __future__ import annotations

import http.client
import ipaddress
import logging
import random
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from rtmpose_infer.errors import ChecksumError, InputError, ModelError

__all__ = ["DownloadPolicy", "Progress", "check_address", "download_file"]

_log = logging.getLogger("rtmpose_infer.zoo")

Progress = Callable[[int, "int | None"], None]
_BLOCK = 2**16
_MOST_DIGITS = 18  # of a number in a header: no file is that large, and int() refuses thousands
_WORTH_ANOTHER_TRY = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class DownloadPolicy:
    """How patient a download is.

    Attributes:
        timeout_s: Longest wait for a connection, and for each piece of the answer.
        attempts: Tries for each address.
        backoff_s: Wait before the second try; it doubles with each further one.
        longest_wait_s: Longest wait between two tries, also where the server asks for a longer one.
        stall_s: A try is given up when it brought less than ``stall_bytes`` in this time.
        stall_bytes: See ``stall_s``.
        max_bytes: Largest file.
    """

    timeout_s: float = 30.0
    attempts: int = 4
    backoff_s: float = 1.0
    longest_wait_s: float = 30.0
    stall_s: float = 60.0
    stall_bytes: int = 64 * 2**10
    max_bytes: int = 2 * 2**30


class _TransferError(Exception):
    """One try failed; ``again`` says whether the same address is worth another one."""

    def __init__(self, reason: str, *, again: bool, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.again = again
        self.wait_s = wait_s


def download_file(
    addresses: Sequence[str],
    target: Path,
    *,
    accept: Callable[[Path], None],
    progress: Progress | None = None,
    policy: DownloadPolicy | None = None,
) -> str:
    """Fetch the first of several addresses that gives an acceptable file, and return that address.

    A transfer that breaks off is taken up where it stopped if the server can do that. A file that is refused is fetched
    once more, since it may have been damaged on its way.

    Args:
        addresses: Tried in this order.
        target: Where the bytes go; overwritten.
        accept: Raises a ModelError for a file that must not be used.
        progress: Called with the bytes so far and the bytes expected (None where the server does not say).
        policy: How patient to be.

    Raises:
        ChecksumError: A file came and was refused because of its hash, and no other one was accepted.
        ModelError: No address gave an acceptable file; the message says why for each.
        InputError: An address is neither https nor http on this machine.
        OSError: The target cannot be written.
    """
    for address in addresses:
        check_address(address)
    failures: list[str] = []
    refused: ModelError | None = None
    for address in addresses:
        transfer = _Transfer(address, target, progress, policy or DownloadPolicy())
        failure = _fetched(transfer, accept)
        if isinstance(failure, ModelError):
            failure = _fetched(transfer, accept)
        if failure is None:
            return address
        _log.info("nothing usable from %s: %s", address, failure)
        failures.append(f"{address}: {str(failure).rstrip('.')}")
        if isinstance(failure, ModelError) and not isinstance(refused, ChecksumError):
            refused = failure
    message = f"nothing usable came from {'; nor from '.join(failures)}."
    raise (ChecksumError if isinstance(refused, ChecksumError) else ModelError)(message) from refused


def check_address(address: str, *, follows: str = "") -> None:
    """Refuse an address that is neither https nor http on this very machine.

    Args:
        address: The address.
        follows: The address that redirects to it, if one does: from https there is no way back to http.

    Raises:
        InputError: It is refused.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port  # read only when it is asked for
    except ValueError:  # its text may repeat a password, as may all that stands before an @
        shown = address.rpartition("@")[2]
        raise InputError(f"the address {shown!r} is malformed. Expected is one like https://host/folder.") from None
    if "@" in parts.netloc:
        raise InputError(f"the address of {parts.hostname} carries a user name, which is not supported.")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or "") and not follows.startswith("https:"):
        return
    raise InputError(f"the address {address!r} is not https. Models are fetched over https only.")


def _fetched(transfer: _Transfer, accept: Callable[[Path], None]) -> Exception | None:
    try:
        transfer.run()
        accept(transfer.path)
    except (_TransferError, ModelError) as error:
        return error
    return None


class _Transfer:
    """One address into one file: what has arrived, and the server's own mark of that version of the file."""

    def __init__(self, address: str, path: Path, progress: Progress | None, policy: DownloadPolicy) -> None:
        self.path = path
        self._address = address
        self._progress = progress
        self._policy = policy
        self._size = 0
        self._validator = ""

    def run(self) -> None:
        """Fetch the whole file, with as many tries as the policy has."""
        self._restart()
        for attempt in range(1, self._policy.attempts + 1):
            failure = self._tried()
            if failure is None:
                return
            if not failure.again or attempt == self._policy.attempts:
                raise failure
            wait = self._policy.backoff_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311
            wait = min(max(failure.wait_s, wait), self._policy.longest_wait_s)
            _log.info("%s: %s; try %d in %.1f s", self._address, failure, attempt + 1, wait)
            time.sleep(wait)

    def _tried(self) -> _TransferError | None:
        try:
            with self._open() as answer:
                self._receive(answer)
        except _TransferError as error:
            return error
        return None

    def _restart(self) -> None:
        self.path.write_bytes(b"")
        self._size, self._validator = 0, ""

    def _open(self) -> Any:
        if self._size and not self._validator:
            self._restart()  # without the server's mark the rest could be of another version
        headers = {"User-Agent": "rtmpose-infer", "Accept": "*/*", "Accept-Encoding": "identity"}
        if self._size:
            headers |= {"Range": f"bytes={self._size}-", "If-Range": self._validator}
        request = urllib.request.Request(self._address, headers=headers)  # noqa: S310  # check_address was asked
        try:
            return _opener(self._address).open(request, timeout=self._policy.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                self._restart()
            raise _TransferError(
                f"HTTP {error.code} {error.reason}",
                again=error.code in _WORTH_ANOTHER_TRY,
                wait_s=_seconds(error.headers.get("Retry-After", "")),
            ) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, _TransferError):
                raise error.reason from error
            # A name that cannot be looked up, or a certificate that does not fit, will be no better in a second.
            hopeless = isinstance(error.reason, socket.gaierror | ssl.SSLCertVerificationError)
            raise _TransferError(f"no connection ({error.reason})", again=not hopeless) from error
        except (http.client.HTTPException, OSError) as error:
            raise _TransferError(f"no answer ({error or type(error).__name__})", again=True) from error
        except ValueError as error:  # urllib's and the host name's encoder's, of where a redirect leads
            raise _TransferError(f"not an address that can be asked ({error})", again=False) from error

    def _receive(self, answer: Any) -> None:
        headers: Message = answer.headers
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _TransferError(f"unasked-for encoding {headers['Content-Encoding']!r}", again=False)
        if "Content-Type" in headers and headers.get_content_type() in {"text/html", "application/xhtml+xml"}:
            raise _TransferError("a web page came in place of the file (a login page of the network?)", again=False)
        start, total = _range(headers.get("Content-Range", ""))
        if answer.status == 206 and (start != self._size or not _is_same_version(headers, self._validator)):
            self._restart()
            raise _TransferError("the server sent another part of the file than was asked for", again=True)
        if answer.status != 206:
            self._restart()
        self._validator = _validator(headers)
        length = _whole_number(headers.get("Content-Length", ""))
        if answer.status != 206 or total is None:
            total = None if length is None else self._size + length
        self._check_size(total or 0)
        with self.path.open("ab") as file:
            self._copy(answer, file, total)
        if total is not None and self._size != total:
            raise _TransferError(f"the transfer broke off after {self._size} of {total} bytes", again=True)

    def _copy(self, answer: Any, file: IO[bytes], total: int | None) -> None:
        mark_time, mark_size = time.monotonic(), self._size
        self._tell(total)
        while block := _read(answer):
            file.write(block)
            self._size += len(block)
            self._check_size(self._size)
            self._tell(total)
            passed, gained = time.monotonic() - mark_time, self._size - mark_size
            if gained >= self._policy.stall_bytes:
                mark_time, mark_size = mark_time + passed, self._size
            elif passed > self._policy.stall_s:
                raise _TransferError(f"it is too slow: {gained} bytes in {passed:.0f} s", again=True)

    def _tell(self, total: int | None) -> None:
        if self._progress is not None:
            self._progress(self._size, total)

    def _check_size(self, size: int) -> None:
        if size > self._policy.max_bytes:
            raise _TransferError(f"it is larger than the limit of {self._policy.max_bytes} bytes", again=False)


def _read(answer: Any) -> bytes:
    # read1 gives what has arrived: with read a trickle of bytes would look like a dead line until a block is full.
    try:
        return answer.read1(_BLOCK)  # type: ignore[no-any-return]
    except (http.client.HTTPException, OSError) as error:
        raise _TransferError(f"the transfer broke off ({error or type(error).__name__})", again=True) from error


def _validator(headers: Message) -> str:
    tag: str = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _is_same_version(headers: Message, validator: str) -> bool:
    """Tell whether a part is of the version that the earlier parts are of; servers may leave the mark out."""
    name = "ETag" if validator.startswith('"') else "Last-Modified"
    return headers.get(name, validator) == validator


def _range(text: str) -> tuple[int | None, int | None]:
    """Return where a part begins and how large the whole file is, each None where it is not said."""
    unit, _, rest = text.partition(" ")
    part, _, whole = rest.partition("/")
    return (_whole_number(part.partition("-")[0]), _whole_number(whole)) if unit == "bytes" else (None, None)


def _whole_number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect unless it leaves https, or goes from this machine's own http to another's."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # urllib leaves the connection open where it cannot read the address
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(  # urllib's signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_address(newurl, follows=req.full_url)
        except InputError as error:
            fp.close()
            raise urllib.error.URLError(_TransferError(f"redirected, but {error}", again=False)) from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(address: str) -> urllib.request.OpenerDirector:
    """An opener that knows http and https alone: urllib's own also reads local files and ftp when redirected there."""
    opener = urllib.request.OpenerDirector()
    proxies: dict[str, str] | None = {} if _is_loopback(urlsplit(address).hostname or "") else None
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
