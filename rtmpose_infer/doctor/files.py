"""The state of the cache folder and of the models in it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rtmpose_infer import zoo
from rtmpose_infer.cache import CACHE_VARIABLE, cache_dir
from rtmpose_infer.doctor.findings import Finding
from rtmpose_infer.errors import RtmposeInferError

__all__ = ["cache_findings", "model_findings"]

_LITTLE_SPACE = 2**30
_OLD_PART_S = 24 * 3600.0


def cache_findings() -> Iterator[Finding]:
    """Yield where the cache is and whether it can be used."""
    try:
        folder = cache_dir()
    except RtmposeInferError as error:
        yield Finding("cache", "error", str(error), f"export {CACHE_VARIABLE}=/a/folder/that/may/be/written")
        return
    named = f" ({CACHE_VARIABLE})" if os.environ.get(CACHE_VARIABLE, "").strip() else ""
    facts = {"path": str(folder)}
    existing = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    elsewhere = f"set {CACHE_VARIABLE} to a folder that may be written"
    if not existing.is_dir():
        yield Finding(
            "cache", "error", f"the cache {folder}{named} cannot be a folder: {existing} is a file", elsewhere, facts
        )
        return
    files = list(_files(folder))
    size = sum(size for _, size, _ in files)
    facts |= {"files": str(len(files)), "bytes": str(size)}
    message = f"{folder}{named}: {len(files)} files, {size / 2**20:.0f} MiB"
    if not os.access(existing, os.W_OK | os.X_OK):
        message = f"the cache {folder}{named} cannot be written: nothing can be downloaded or compiled ahead"
        yield Finding("cache", "warning", message, elsewhere, facts)
    elif not folder.exists():
        yield Finding("cache", "ok", f"{folder}{named} will be made when it is needed", facts=facts)
    else:
        yield Finding("cache", "ok", message, facts=facts)
    if (free := shutil.disk_usage(existing).free) < _LITTLE_SPACE:
        message = f"only {free / 2**20:.0f} MiB are free where the cache is"
        yield Finding("cache.space", "warning", message, f"free some space, or {elsewhere}", facts)
    if sys.platform != "win32" and folder.exists() and folder.stat().st_mode & 0o002:
        message = "every user of this machine may write into the cache, and so replace compiled models that are loaded"
        yield Finding("cache.permissions", "warning", message, f"chmod -R o-w {folder}", facts)
    old = [path for path, _, modified in files if path.name.endswith(".part") and time.time() - modified > _OLD_PART_S]
    if old:
        message = f"{len(old)} unfinished files are left over from processes that died"
        yield Finding("cache.leftovers", "note", message, f"rm {' '.join(map(str, old[:5]))}", facts)


def model_findings() -> Iterator[Finding]:
    """Yield whether the models on this machine are the ones the zoo promises."""
    try:
        names = [info.name for info in zoo.list_models()]
        checked = [result for name in names for result in zoo.verify(name)]
    except (RtmposeInferError, OSError) as error:
        yield Finding(
            "models",
            "error",
            f"the list of models cannot be used: {error}",
            "pip install --force-reinstall --no-deps rtmpose-infer",
        )
        return
    damaged = [result for result in checked if result.problem]
    for result in damaged:
        fix = (
            "pip install --force-reinstall --no-deps rtmpose-infer"
            if result.format == "embedded"
            else f"rtmpose models fetch {result.name} --force"
        )
        facts = {"path": str(result.path)}
        yield Finding(
            f"models:{result.name}",
            "error",
            f"{result.name} ({result.format}) is damaged: {result.problem}",
            fix,
            facts,
        )
    here = sorted({result.name for result in checked if result.path is not None and not result.problem})
    if not damaged:
        message = f"{len(here)} of {len(names)} models are on this machine" + (f": {', '.join(here)}" if here else "")
        yield Finding("models", "ok", message, facts={"here": here})


def _files(folder: Path) -> Iterator[tuple[Path, int, float]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError:
                continue  # another process has just removed it
            yield path, status.st_size, status.st_mtime
