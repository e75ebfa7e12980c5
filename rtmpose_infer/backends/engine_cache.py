"""Compiled networks kept between runs: found by everything they depend on, and checked before they are used.

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
from os import PathLike
from pathlib import Path
from typing import Any

from rtmpose_infer.cache import atomic_write, cache_dir, locked, sha256_of
from rtmpose_infer.errors import ModelError
from rtmpose_infer.onnx_file import external_data_locations

__all__ = ["EngineCache", "model_digest"]

_log = logging.getLogger("rtmpose_infer.backends.engine_cache")

_MAGIC = b"rtmpose_infer engine 1\n"
_WEIGHTS_BESIDE = {".xml", ".param"}  # formats whose weights are the file of the same name with ``.bin``


class EngineCache:
    """The compiled networks of one runtime.

    Args:
        runtime: Name of the runtime, and of the folder.
        folder: Where the folder lies; None: the package's cache folder.
    """

    def __init__(self, runtime: str, folder: str | PathLike[str] | None = None) -> None:
        self.folder = (cache_dir() if folder is None else Path(folder)) / runtime

    def path(self, key: Mapping[str, Any], *, kind: str = "engine") -> Path:
        """Return where the content for a key lies.

        Args:
            key: Everything the content depends on, as JSON values.
            kind: Ending of the file's name.
        """
        return self.folder / f"{hashlib.sha256(_text(key)).hexdigest()[:32]}.{kind}"

    def load(self, key: Mapping[str, Any], *, kind: str = "engine") -> bytes | None:
        """Return the content for a key (see ``path``); None if there is none, or it is damaged or of another key."""
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
        """Keep the content for a key (see ``path``); where the folder cannot be written, only a warning says so."""
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


def model_digest(data: Path | bytes) -> str:
    """Return a hash of everything a model consists of, the weights in files of their own included.

    Those are the ``.bin`` beside an OpenVINO ``.xml`` or ncnn ``.param``, and the external data of an ONNX file. Of a
    model in one piece it is the plain sha256 of its content, so that a file and its bytes have the same.

    Args:
        data: The model's file, or its content.

    Returns:
        Lower-case hex.

    Raises:
        ModelError: The file cannot be read. Weights that are missing only change the hash; the runtime reports them.
    """
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    try:
        digest = sha256_of(data)
    except OSError as error:
        raise ModelError(f"cannot read the model {data}: {error.strerror or error}.") from error
    parts = [f"{path.as_posix()} {part}\n" for path in _beside(data) if (part := _digest_of_part(data.parent / path))]
    return hashlib.sha256("".join([digest, "\n", *parts]).encode()).hexdigest() if parts else digest


def _beside(model: Path) -> list[Path]:
    """Return where the other files of a model lie, relative to its folder and never outside of it."""
    if model.suffix in _WEIGHTS_BESIDE:
        return [Path(model.with_suffix(".bin").name)]
    try:
        paths = {Path(location) for location in external_data_locations(model)}
    except ModelError:
        return []  # the runtime says what is wrong with the file
    return sorted(path for path in paths if not path.anchor and ".." not in path.parts)


def _digest_of_part(path: Path) -> str:
    try:
        return sha256_of(path) if path.is_file() else ""
    except (OSError, ValueError):  # a name that no file can have is an error on some systems
        return ""


def _text(key: Mapping[str, Any]) -> bytes:
    return json.dumps(key, sort_keys=True, separators=(",", ":")).encode()


def _head(key: Mapping[str, Any]) -> bytes:
    return _MAGIC + _text(key) + b"\n"
