"""The part of the cache that holds models, and the record of what came from where.

    <cache>/models/
        files/<sha256>/<published name>      checkpoints and single ONNX files
        sdk/<sha256 of the zip>/<name>/      unpacked MMDeploy SDK archives
        known/<published name>.<address>.json    what an address gave when it was first fetched
        by-hand/<published name>             where a person may put a file for a machine without network
        part/, locks/                        work in progress

Content is found by its hash and never by its base name, so two files of one name cannot be mistaken for each other. The
record in ``known`` ties an address to a hash: it is what makes the second download of an archive whose hash nobody
published as safe as the first. Every hit is hashed again, because a damaged model gives wrong answers, not errors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rtmpose_infer.cache import CACHE_VARIABLE, atomic_write, locked, sha256_of
from rtmpose_infer.errors import ChecksumError, ModelError

if TYPE_CHECKING:
    from rtmpose_infer.zoo.manifest import ZooFile

__all__ = ["NETWORK", "Record", "Store"]

_log = logging.getLogger("rtmpose_infer.zoo")

NETWORK = "end2end.onnx"
_LONGEST_WORK_S = 2 * 24 * 3600.0
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Record:
    """What an address gave.

    Attributes:
        url: The published address.
        sha256: Hash of what came from it.
        path: Where that lies now, relative to the store: a file or the folder an archive was unpacked into.
        files: Hash of every file there, by its path relative to ``path`` (``"."`` for ``path`` itself).
        first_seen: When the address was first fetched.
    """

    url: str
    sha256: str
    path: str
    files: Mapping[str, str]
    first_seen: str


class Store:
    """Models below one folder, which need not exist.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def by_hand(self, file: ZooFile) -> Path:
        """Return where a person may put a file."""
        return self.root / "by-hand" / file.file_name

    def record(self, file: ZooFile) -> Record | None:
        """Return what is known of the address of a file; None before its first download."""
        path = self._record_path(file)
        try:
            record = Record(**json.loads(path.read_text(encoding="utf-8")))
            inside = (self.root / record.path).resolve().is_relative_to(self.root.resolve())
            if record.url == file.url and inside and all(isinstance(v, str) for v in record.files.values()):
                return record
            _log.warning("%s is not about %s; it is passed over", path, file.url)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("%s cannot be read and is passed over: %s", path, error)
        return None

    def place(self, file: ZooFile) -> Path | None:
        """Return where a file of the zoo lies, without looking into it; None if it is not here."""
        record = self.record(file)
        path = self.root / record.path if record else None
        return path if path is not None and path.exists() else None

    def find(self, file: ZooFile) -> Path | None:
        """Return the model if it is here, after hashing it again; None if it is not.

        Raises:
            ChecksumError: It is here, but it is not what was stored.
        """
        record, path = self.record(file), self.place(file)
        if record is None or path is None:
            return None
        for name, expected in record.files.items():
            part = path / name
            actual = _hash_or_reason(part)
            if actual != expected:
                raise ChecksumError(
                    f"{part} is damaged: expected sha256 {expected}, got {actual}. "
                    f"Remove {path}, or fetch the model again."
                )
        _check(file, record.sha256, path, network=record.files.get(NETWORK, ""))
        return path

    def check(self, file: ZooFile, content: Path, *, first_use: bool = False) -> str:
        """Return the sha256 of a freshly fetched file that is the one the zoo promises.

        Args:
            file: What it should be.
            content: The file.
            first_use: Do not hold it against what came from this address earlier.

        Raises:
            ChecksumError: It is another one.
        """
        actual = sha256_of(content)
        _check(file, actual, content)
        record = self.record(file)
        if record is not None and record.sha256 != actual and not first_use:
            raise ChecksumError(
                f"{file.file_name} is not the file that came from its address on {record.first_seen[:10]}: expected "
                f"sha256 {record.sha256}, got {actual}. If the new one is right, fetch it with --force."
            )
        return actual

    def put(self, file: ZooFile, content: Path, sha256: str) -> Path:
        """Move a checked file to its place (an archive: unpack it there) and record it.

        Raises:
            ModelError: The archive cannot be unpacked; nothing was changed.
            ChecksumError: The network in the archive is not the one the zoo promises.
            OSError: The store cannot be written.
        """
        kind = "sdk" if file.format == "sdk" else "files"
        name = file.file_name.removesuffix(".zip") if kind == "sdk" else file.file_name
        path = self.root / kind / sha256 / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "sdk":
            from rtmpose_infer.zoo.archive import unpack_sdk

            with self.part_folder() as folder:
                unpack_sdk(content, folder / name)
                files = {part.name: sha256_of(part) for part in sorted((folder / name).iterdir())}
                _check(file, sha256, content, network=files[NETWORK])
                self._place_folder(folder / name, path, files)
            content.unlink(missing_ok=True)
        else:
            files = {".": sha256}
            _place_file(content, path, sha256)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        known = self.record(file)
        first_seen = known.first_seen if known is not None and known.sha256 == sha256 else now
        record = Record(
            url=file.url, sha256=sha256, path=path.relative_to(self.root).as_posix(), files=files, first_seen=first_seen
        )
        atomic_write(self._record_path(file), json.dumps(asdict(record), indent=1).encode())
        return path

    @contextmanager
    def part_folder(self) -> Iterator[Path]:
        """A folder of one's own for work in progress, on the store's file system, removed afterwards.

        Raises:
            ModelError: The store cannot be written.
        """
        parts = self.root / "part"
        try:
            parts.mkdir(parents=True, exist_ok=True)
            _sweep(parts)
            folder = Path(tempfile.mkdtemp(dir=parts))
        except OSError as error:
            raise ModelError(
                f"the cache {self.root} cannot be written ({error}); set {CACHE_VARIABLE} to a folder that can."
            ) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, file: ZooFile) -> Iterator[None]:
        """Hold the lock of a file's address."""
        with locked(self.root / "locks" / f"{_key(file)}.lock"):
            yield

    def _record_path(self, file: ZooFile) -> Path:
        return self.root / "known" / f"{file.file_name}.{_key(file)}.json"

    def _place_folder(self, new: Path, path: Path, files: Mapping[str, str]) -> None:
        # A folder cannot be renamed onto a full one, and without locks another process may be doing the same: what is
        # right stays, what is damaged steps aside into a place that is cleaned.
        for _ in range(_TRIES):
            try:
                new.rename(path)
            except OSError:
                if not path.exists():
                    raise
            else:
                return
            if all(_hash_or_reason(path / name) == sha256 for name, sha256 in files.items()):
                return
            with self.part_folder() as aside, suppress(FileNotFoundError):
                path.rename(aside / "old")
        raise OSError(f"{path} is in use by another process")


def _place_file(new: Path, path: Path, sha256: str) -> None:
    try:
        new.replace(path)
    except OSError:
        # Windows replaces no file that is open; the one that is there may be the right one.
        if _hash_or_reason(path) != sha256:
            raise


def _check(file: ZooFile, sha256: str, where: Path, *, network: str = "") -> None:
    if file.sha256 and sha256 != file.sha256:
        raise ChecksumError(f"{where} is not {file.file_name}: expected sha256 {file.sha256}, got {sha256}.")
    if file.sha256_prefix and not sha256.startswith(file.sha256_prefix):
        raise ChecksumError(
            f"{where} is not {file.file_name}: its name promises a sha256 that begins with {file.sha256_prefix}, "
            f"got {sha256}."
        )
    if file.onnx_sha256 and network and network != file.onnx_sha256:
        raise ChecksumError(
            f"the network in {where} is not the published one: expected sha256 {file.onnx_sha256}, got {network}."
        )


def _sweep(parts: Path) -> None:
    """Remove what processes that were killed left behind."""
    for left in parts.iterdir():
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _LONGEST_WORK_S:
                shutil.rmtree(left, ignore_errors=True)


def _hash_or_reason(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        return f"no readable file ({error.strerror})"


def _key(file: ZooFile) -> str:
    return hashlib.sha256(file.url.encode()).hexdigest()[:12]
