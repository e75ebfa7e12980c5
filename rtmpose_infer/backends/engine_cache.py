"""Compiled networks kept between runs: found by everything they depend on, and never believed without a look.

A runtime that is handed a damaged engine may crash rather than complain, and one that was built for another device,
version or shape may run and be wrong. So a file carries the description of what it was built from and the hash of its
content, and only one where both fit is handed out; anything else counts as absent and is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rtmpose_infer.cache import atomic_write, cache_dir, locked

__all__ = ["EngineCache"]

_log = logging.getLogger("rtmpose_infer.backends.engine_cache")

_MAGIC = b"rtmpose_infer engine 1\n"


class EngineCache:
    """The compiled networks of one runtime.

    Args:
        runtime: Name of the runtime, and of the folder.
        folder: Where the folder lies; None: the package's cache folder.
    """

    def __init__(self, runtime: str, folder: Path | None = None) -> None:
        self.folder = (folder if folder is not None else cache_dir()) / runtime

    def path(self, key: Mapping[str, Any], *, kind: str = "engine") -> Path:
        """Return where the content for a key lies.

        Args:
            key: Everything the content depends on, as JSON values.
            kind: Ending of the file's name.
        """
        return self.folder / f"{hashlib.sha256(_text(key)).hexdigest()[:32]}.{kind}"

    def load(self, key: Mapping[str, Any], *, kind: str = "engine") -> bytes | None:
        """Return the content for a key; None if there is none, or it is damaged or of another key."""
        path = self.path(key, kind=kind)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s cannot be read (%s); it is built again", path, error)
            return None
        head = _head(key)
        content = data[len(head) + 65 :]
        digest = data[len(head) : len(head) + 65]
        if not data.startswith(head) or digest != hashlib.sha256(content).hexdigest().encode() + b"\n":
            _log.warning("%s is damaged or of another origin; it is built again", path)
            return None
        return content

    def store(self, key: Mapping[str, Any], content: bytes, *, kind: str = "engine") -> None:
        """Keep the content for a key; where the folder cannot be written, only a warning says so."""
        path = self.path(key, kind=kind)
        digest = hashlib.sha256(content).hexdigest().encode()
        try:
            atomic_write(path, _head(key) + digest + b"\n" + content)
        except OSError as error:
            _log.warning("%s cannot be written (%s); the next start builds it again", path, error)

    @contextmanager
    def building(self, key: Mapping[str, Any]) -> Iterator[None]:
        """Hold off other processes that want to build the same, so that the second finds what the first built."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path(key, kind="lock")))
            except OSError as error:
                _log.debug("no lock in %s: %s", self.folder, error)
            yield


def _text(key: Mapping[str, Any]) -> bytes:
    return json.dumps(key, sort_keys=True, separators=(",", ":")).encode()


def _head(key: Mapping[str, Any]) -> bytes:
    return _MAGIC + _text(key) + b"\n"
