"""Where files are kept between runs, and how they are written so that nobody ever reads half of one.

The zoo keeps downloaded models here and the backends their compiled ones. Both must survive two processes at once, a
process that dies half-way, a full disk and a folder that is read-only because an image was filled at build time. So
a file is written under another name in the same folder and then renamed, a lock only saves double work and is
never needed for correctness, and reading takes no lock and writes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rtmpose_infer.errors import InputError

__all__ = ["CACHE_VARIABLE", "atomic_write", "cache_dir", "locked", "sha256_of"]

_log = logging.getLogger("rtmpose_infer.cache")

CACHE_VARIABLE = "RTMPOSE_INFER_CACHE"


def cache_dir() -> Path:
    """Return the folder of this package's cache, which need not exist yet.

    ``RTMPOSE_INFER_CACHE`` names it; without that it is ``rtmpose_infer`` in the user's cache folder:
    ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Raises:
        InputError: There is neither the variable nor a home folder.
    """
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    try:
        if named:
            return Path(named).expanduser().absolute()
        return _user_cache_dir() / "rtmpose_infer"
    except RuntimeError as error:
        raise InputError(
            f"no home folder to keep the cache in ({error}); set {CACHE_VARIABLE} to a folder that may be written."
        ) from error


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that at every moment ``path`` holds the old content or all of the new one.

    Args:
        path: The file; its folder is made where it is missing. Everybody may read it.
        data: The new content.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)  # mkstemp makes it private, but a cache may be shared
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, in lower-case hex.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(2**20)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


@contextmanager
def locked(path: Path, *, poll_s: float = 0.1) -> Iterator[None]:
    """Hold the lock file ``path`` against other threads and processes; it is released when the process dies.

    Where the file system has no locks this goes on without one: what the lock guards must be safe anyway, only then
    two processes may do the same work twice.

    Args:
        path: The lock file; made where it is missing, and left behind, since removing it would race.
        poll_s: Seconds between two tries.

    Raises:
        OSError: The lock file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        waiting = False
        while not _try_lock(handle):
            if not waiting:
                _log.info("another process works on the same file; waiting for %s", path)
                waiting = True
            time.sleep(poll_s)
        try:
            yield
        finally:
            _unlock(handle)
    finally:
        os.close(handle)


if sys.platform == "win32":
    import errno
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EDEADLK}:
                return False
            _log.debug("no file locks here (%s); going on without", error)
        return True

    def _unlock(handle: int) -> None:
        with suppress(OSError):
            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

    def _user_cache_dir() -> Path:
        named = os.environ.get("LOCALAPPDATA", "")
        return Path(named) if named else Path.home() / "AppData" / "Local"

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            _log.debug("no file locks here (%s); going on without", error)
        return True

    def _unlock(handle: int) -> None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)

    def _user_cache_dir() -> Path:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches"
        named = os.environ.get("XDG_CACHE_HOME", "")
        return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
