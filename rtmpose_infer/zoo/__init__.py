"""Model names to verified local files: embedded in the package, kept in the cache, or downloaded once.

A name means one entry of the manifest and never a search on the network. What is handed out was hashed just before,
and held against the manifest, the digits in OpenMMLab's file names, or what the same address gave the first time.
Nothing is sent anywhere but the request for the file, and nothing at all with ``RTMPOSE_INFER_OFFLINE=1``.

Settings, all from the environment so that a service needs no code for them:

- ``RTMPOSE_INFER_CACHE``: the cache folder (see ``rtmpose_infer.cache``).
- ``RTMPOSE_INFER_OFFLINE``: ``1`` never opens a connection; what is missing is an error that names where to put it.
- ``RTMPOSE_INFER_MIRRORS``: addresses, separated by spaces or commas, asked before the published one. Each is the
  beginning of an address that the file's name is added to, or has ``{file}`` (its name) or ``{path}`` (the path of its
  published address) in it. https only; plain http is allowed for this machine itself (``http://127.0.0.1:8000/``).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rtmpose_infer.cache import CACHE_VARIABLE, cache_dir, sha256_of
from rtmpose_infer.errors import ChecksumError, InputError, ManifestError, ModelError
from rtmpose_infer.model_spec import wrong_task
from rtmpose_infer.options import check_option
from rtmpose_infer.zoo.manifest import (
    FORMATS,
    TASKS,
    Manifest,
    Metric,
    ModelInfo,
    ZooFile,
    load_manifest,
    manifest_path,
)
from rtmpose_infer.zoo.store import NETWORK, Store

if TYPE_CHECKING:
    from rtmpose_infer.zoo.download import Progress

__all__ = [
    "FORMATS",
    "TASKS",
    "Metric",
    "ModelInfo",
    "Verification",
    "ZooFile",
    "fetch",
    "identify",
    "list_models",
    "local_formats",
    "model_info",
    "model_path",
    "resolve",
    "spec_fields",
    "verify",
]

_log = logging.getLogger("rtmpose_infer.zoo")

OFFLINE_VARIABLE = "RTMPOSE_INFER_OFFLINE"
MIRRORS_VARIABLE = "RTMPOSE_INFER_MIRRORS"
_PATH_SUFFIXES = {".onnx", ".zip", ".xml", ".param", ".bin", ".pth", ".engine", ".plan", ".json"}


@dataclass(frozen=True)
class Verification:
    """What a look at one file of a model found.

    Attributes:
        name: The model.
        format: The kind of file.
        path: Where it lies; None if it is not on this machine.
        problem: What is wrong with it; empty if its hash is right, or if it is absent.
    """

    name: str
    format: str
    path: Path | None
    problem: str = ""


def resolve(model: str | Path, *, task: str | None = None, progress: Progress | None = None) -> Path:
    """Return a local model file for a path or a name of the zoo, downloading it if need be.

    A ``Path``, and a text that looks like one (it has a separator or a model file's ending), means that file and is
    returned as it is. Any other text is a name; ``./name`` means a file or folder that happens to be called like one.

    Args:
        model: Path of a model file or SDK folder, or a name such as ``"rtmdet-nano"`` or ``"rtmpose-m"``.
        task: What it is wanted for; a name of another task is refused.
        progress: Called while a download runs, with the bytes so far and the bytes expected (or None).

    Returns:
        The path given, an ONNX file, or the folder of an MMDeploy SDK archive (``end2end.onnx`` with its JSON files).

    Raises:
        ModelError: The path does not exist; the name is of another task, or of a model published as a checkpoint only;
            the file is not here and cannot be downloaded (ManifestError: no such name; ChecksumError: wrong file).
        InputError: ``model`` is neither, or a setting is malformed.
    """
    check_option("a model", model, "a path or a name of the zoo", fine=isinstance(model, (str, Path)))
    if isinstance(model, Path) or _looks_like_path(model):
        path = Path(model).expanduser()
        if not path.exists():
            raise ModelError(
                f"there is no model at {path}. Pass a file that exists, or a name of `rtmpose models list`."
            )
        return path
    manifest = _manifest()
    if model not in manifest:
        if "://" in model:
            raise ModelError(f"{model} is not an address of the zoo. Download the file yourself and pass its path.")
        if Path(model).exists():
            return Path(model)
    info = manifest.find(model)
    if task is not None and info.task != task:
        raise ModelError(wrong_task(info.name, info.task, task))
    if info.runnable is None:
        raise ModelError(
            f"{info.name} is published as a PyTorch checkpoint only: convert it once with `rtmpose export {info.name} "
            f"-o {info.name}.onnx` (pip install 'rtmpose-infer[export]') and pass that file."
        )
    return _get(info.name, info.runnable, progress=progress)


def list_models(*, task: str | None = None) -> tuple[ModelInfo, ...]:
    """Return the models of the zoo, in the manifest's order.

    Args:
        task: Only those of this task.

    Raises:
        InputError: The task is unknown.
        ManifestError: The manifest is malformed.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"unknown task {task!r}; known are {', '.join(TASKS)}.")
    return tuple(info for info in _manifest().models.values() if task in {None, info.task})


def model_info(name: str) -> ModelInfo:
    """Return what the zoo knows of a model, by its name or an alias.

    Raises:
        ManifestError: There is no such name; the message proposes similar ones.
    """
    return _manifest().find(name)


def identify(path: Path) -> ModelInfo | None:
    """Return the zoo's entry whose network this file is, whatever it is called; None if none is known to be.

    Many published ONNX files do not say what they are, but their hash does.

    Args:
        path: An ONNX file, or the folder of an MMDeploy SDK archive.

    Raises:
        OSError: It cannot be read.
    """
    actual = sha256_of(path / NETWORK if path.is_dir() else path)
    for info in _manifest().models.values():
        for file in info.files.values():
            if actual in {file.sha256, file.onnx_sha256}:
                return info
    return None


def spec_fields(model: str | Path, path: Path) -> dict[str, Any]:
    """Return what the zoo knows of a resolved model that its file may not say, as fields of a model spec.

    Args:
        model: What ``resolve`` was given: a name means its entry, a path the entry that has a network of that hash.
        path: What ``resolve`` returned.

    Returns:
        ``input_size_wh``, and ``skeleton`` or ``class_names``; empty where the zoo does not know the model.

    Raises:
        ManifestError: The manifest is malformed.
    """
    if isinstance(model, str) and not _looks_like_path(model) and model in _manifest():
        return model_info(model).spec_fields
    try:
        info = identify(path) if path.is_dir() or path.suffix == ".onnx" else None
    except OSError:
        return {}  # whoever loads the model says what is wrong with it
    return info.spec_fields if info is not None else {}


def fetch(name: str, *, format: str | None = None, progress: Progress | None = None, force: bool = False) -> Path:  # noqa: A002
    """Return a model's local file, downloading it if it is not here or is damaged.

    Args:
        name: The model's name or alias.
        format: Which kind of file (see ``ZooFile``); None: the one that runs, or else the checkpoint.
        progress: See ``resolve``.
        force: Download again, and take what comes for the right file if nobody published its hash.

    Raises:
        ModelError: It cannot be downloaded (ManifestError: no such name or kind of file; ChecksumError: wrong file).
        InputError: A setting is malformed.
    """
    info = model_info(name)
    return _get(info.name, _file(info, format), progress=progress, force=force)


def model_path(name: str, *, format: str | None = None) -> Path:  # noqa: A002
    """Return where a model's file lies on this machine, after hashing it; never opens a connection.

    Args:
        name: The model's name or alias.
        format: See ``fetch``.

    Raises:
        ModelError: It is not here (ManifestError: no such name or kind of file; ChecksumError: it is damaged).
    """
    info = model_info(name)
    file = _file(info, format)
    path = _local(file)
    if path is None:
        raise ModelError(
            f"{info.name} ({file.format}) is not on this machine; get it with `rtmpose models fetch {info.name}`."
        )
    return path


def local_formats(name: str) -> tuple[str, ...]:
    """Return the kinds of file of a model that lie on this machine, without hashing them (``verify`` does that).

    Raises:
        ManifestError: There is no such name.
    """
    store = _store()
    return tuple(kind for kind, file in model_info(name).files.items() if file.path or store.place(file))


def verify(name: str) -> tuple[Verification, ...]:
    """Return what hashing every local file of a model found, one entry for each kind of file.

    Raises:
        ManifestError: There is no such name.
    """
    info = model_info(name)
    return tuple(_verification(info.name, file) for file in info.files.values())


def _verification(name: str, file: ZooFile) -> Verification:
    try:
        return Verification(name, file.format, _local(file))
    except ChecksumError as error:
        record = _store().record(file)
        return Verification(name, file.format, _store().root / record.path if record else file.path, str(error))


def _manifest() -> Manifest:
    return load_manifest(manifest_path())


def _store() -> Store:
    return Store(cache_dir() / "models")


def _file(info: ModelInfo, kind: str | None) -> ZooFile:
    if kind is None:
        return info.runnable or next(iter(info.files.values()))
    if kind not in info.files:
        raise ManifestError(f"{info.name} has no {kind!r} file; it has {', '.join(info.files)}.")
    return info.files[kind]


def _local(file: ZooFile) -> Path | None:
    if file.path is None:
        return _store().find(file)
    try:
        actual = sha256_of(file.path)
    except OSError as error:
        raise ChecksumError(f"the embedded model {file.path} is missing ({error}); reinstall the package.") from error
    if actual != file.sha256:
        raise ChecksumError(
            f"the embedded model {file.path} is damaged: expected sha256 {file.sha256}, got {actual}; "
            "reinstall the package."
        )
    return file.path


def _get(name: str, file: ZooFile, *, progress: Progress | None, force: bool = False) -> Path:
    if file.path is not None or not force:
        path = _usable(name, file)
        if path is not None:
            return path
    store = _store()
    if not _may_get(file):
        raise ModelError(
            f"{name} is not on this machine and {OFFLINE_VARIABLE} is set. Fetch {file.url} elsewhere and put it at "
            f"{store.by_hand(file)}; it is checked and used from there."
        )
    try:
        with store.lock(file):
            # Another process may have done it while this one waited.
            path = None if force else _usable(name, file)
            return path or _adopt(store, file, force=force) or _download(store, name, file, progress, force=force)
    except OSError as error:
        raise ModelError(
            f"{name} cannot be kept in the cache {store.root}: {error}. Make room, or set {CACHE_VARIABLE} to a folder "
            "that can be written."
        ) from error


def _usable(name: str, file: ZooFile) -> Path | None:
    """Return the local file; None where a missing or damaged one is to be replaced."""
    try:
        return _local(file)
    except ChecksumError as error:
        if not _may_get(file):
            raise
        _log.warning("%s: %s It is fetched again.", name, error)
        return None


def _may_get(file: ZooFile) -> bool:
    return file.path is None and (not _offline() or _store().by_hand(file).is_file())


def _adopt(store: Store, file: ZooFile, *, force: bool) -> Path | None:
    """Take in a file that a person put where an earlier message said."""
    placed = store.by_hand(file)
    if not placed.is_file():
        return None
    sha256 = store.check(file, placed, first_use=force)
    with store.part_folder() as folder:
        copy = folder / file.file_name
        shutil.copyfile(placed, copy)
        return store.put(file, copy, sha256)


def _download(store: Store, name: str, file: ZooFile, progress: Progress | None, *, force: bool) -> Path:
    # The network's modules cost more time to import than the rest of this package, and most runs need none of them.
    from rtmpose_infer.zoo.download import download_file

    addresses = _addresses(file)
    with store.part_folder() as folder:
        target = folder / file.file_name
        path: Path | None = None

        def accept(content: Path) -> None:
            nonlocal path
            path = store.put(file, content, store.check(file, content, first_use=force))

        _log.info("fetching %s (%s) from %s", name, file.format, addresses[0])
        try:
            address = download_file(addresses, target, accept=accept, progress=progress)
        except ModelError as error:
            raise type(error)(
                f"{name}: {error} (A file put at {store.by_hand(file)} by hand is checked and used.)"
            ) from error
        assert path is not None  # noqa: S101  # download_file returns only after accept
        _log.info("%s came from %s and is now at %s", name, address, path)
        return path


def _addresses(file: ZooFile) -> list[str]:
    from rtmpose_infer.zoo.download import check_address

    found = []
    for mirror in re.split(r"[\s,]+", os.environ.get(MIRRORS_VARIABLE, "").strip()):
        if not mirror:
            continue
        if "{file}" in mirror or "{path}" in mirror:
            address = mirror.replace("{file}", file.file_name).replace("{path}", urlsplit(file.url).path.lstrip("/"))
        else:
            address = f"{mirror.rstrip('/')}/{file.file_name}"
        try:
            check_address(address)
        except InputError as error:
            raise InputError(f"{MIRRORS_VARIABLE}: {error}") from error
        found.append(address)
    found.append(file.url)
    for beginning, instead in _manifest().alternatives:
        if file.url.startswith(beginning):
            found.append(instead + file.url.removeprefix(beginning))
    return found


def _offline() -> bool:
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in {"", "0", "false", "no", "off"}


def _looks_like_path(text: str) -> bool:
    if "://" in text:
        return False
    return "/" in text or "\\" in text or text.startswith(("~", ".")) or Path(text).suffix.lower() in _PATH_SUFFIXES
