"""The list of models: what ``manifest.toml`` says, checked before anything relies on it.

The list is data so that a new model needs no code. A mistake in it must show up as a ManifestError that names the
entry, not as a wrong download months later, so every field is checked and an unknown one is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rtmpose_infer.errors import ManifestError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "FORMATS",
    "RUNNABLE",
    "TASKS",
    "Manifest",
    "Metric",
    "ModelInfo",
    "ZooFile",
    "load_manifest",
    "manifest_path",
]

TASKS = ("detection", "pose", "one_stage")
FORMATS = ("embedded", "onnx", "sdk", "pth")
RUNNABLE = ("embedded", "onnx", "sdk")
_SUFFIXES = {"embedded": ".onnx", "onnx": ".onnx", "sdk": ".zip", "pth": ".pth"}
_SCHEMA = 1
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,63}")


@dataclass(frozen=True, kw_only=True)
class ZooFile:
    """One published or embedded file of a model.

    Attributes:
        format: ``"embedded"``, ``"onnx"``, ``"sdk"`` (MMDeploy archive) or ``"pth"`` (PyTorch checkpoint).
        url: Where it is published; empty for an embedded file.
        path: Where an embedded file lies; None for the others.
        sha256: Hash of the whole file; empty where unknown.
        sha256_prefix: First digits of that hash, as the published file name tells them; empty where unknown.
        onnx_sha256: Hash of the network inside an archive; empty where unknown.
        model_card: The model card of an embedded file; None for the others.
        yields: What the export of a checkpoint gives: inputs, outputs and file sizes; empty for the others.
    """

    format: str
    url: str = ""
    path: Path | None = None
    sha256: str = ""
    sha256_prefix: str = ""
    onnx_sha256: str = ""
    model_card: Path | None = None
    yields: str = ""

    @property
    def file_name(self) -> str:
        """The file's published name."""
        return self.path.name if self.path else urlsplit(self.url).path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Metric:
    """A published figure: its name, its value in percent, and the data set it was measured on."""

    name: str
    value: float
    dataset: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What the zoo knows of a model.

    Attributes:
        name: The model's name here.
        aliases: Other names that mean it.
        task: ``"detection"``, ``"pose"`` or ``"one_stage"``.
        family: Architecture, such as ``"rtmpose"``.
        about: What it finds, in words.
        input_size_wh: Width and height of the network's input in pixels.
        skeleton: Name of the skeleton of its keypoints; empty for a detector.
        classes: What a detector's labels mean; empty where it has many.
        training_data: The data it was trained on, in words.
        licence: SPDX name of the weights' licence.
        params_m: Parameters in millions, where published.
        gflops: Operations in billions, where published.
        metrics: Published figures.
        source: Who published the figures.
        note: What a reader of the published names and figures should know besides.
        files: The kinds of file there are, by format, best first.
    """

    name: str
    aliases: tuple[str, ...]
    task: str
    family: str
    about: str
    input_size_wh: tuple[int, int]
    skeleton: str
    classes: tuple[str, ...]
    training_data: str
    licence: str
    params_m: float | None
    gflops: float | None
    metrics: tuple[Metric, ...]
    source: str
    note: str
    files: Mapping[str, ZooFile]

    @property
    def runnable(self) -> ZooFile | None:
        """The file a runtime can load; None where only a checkpoint was published."""
        return next((self.files[kind] for kind in RUNNABLE if kind in self.files), None)

    @property
    def spec_fields(self) -> dict[str, Any]:
        """What a file of this model needs to be told of itself, as fields of a model spec."""
        fields: dict[str, Any] = {"input_size_wh": self.input_size_wh}
        if self.skeleton:
            fields["skeleton"] = self.skeleton
        if self.classes:
            fields["class_names"] = self.classes
        return fields


@dataclass(frozen=True)
class Manifest:
    """The models by canonical name, in the order of the file, and where their hosts have copies.

    Attributes:
        models: The entries by name.
        alternatives: Pairs of a published address's beginning and the beginning to put in its place.
    """

    models: Mapping[str, ModelInfo]
    alternatives: tuple[tuple[str, str], ...]

    def find(self, name: str) -> ModelInfo:
        """Return the entry of that name or alias, in any case and with ``_`` for ``-``.

        A published file's address or name (with or without its ending) means its entry too.

        Raises:
            ManifestError: There is none; the message names similar ones.
        """
        index = self._names()
        found = index.get(name) or index.get(name.strip().lower().replace("_", "-"))
        if found is not None:
            return self.models[found]
        import difflib

        near = difflib.get_close_matches(name.lower(), [key for key in index if _NAME.fullmatch(key)], n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ManifestError(
            f"the zoo has no model {name!r}.{hint} `rtmpose models list` shows all; a file is passed by its path."
        )

    def __contains__(self, name: str) -> bool:
        index = self._names()
        return name in index or name.strip().lower().replace("_", "-") in index

    def _names(self) -> dict[str, str]:
        index: dict[str, str] = {}
        for info in self.models.values():
            for file in info.files.values():
                if file.url:
                    for key in (file.url, file.file_name, file.file_name.removesuffix(_SUFFIXES[file.format])):
                        index[key] = info.name
            for key in (info.name, *info.aliases):
                index[key] = info.name
        return index


def manifest_path() -> Path:
    """Return where the manifest lies: inside the installed package, or in ``models/`` of a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_models" / "manifest.toml"
    return packaged if packaged.is_file() else package.parent / "models" / "manifest.toml"


@cache
def load_manifest(path: Path) -> Manifest:
    """Return the manifest of a file.

    Raises:
        ManifestError: It cannot be read, or an entry of it is malformed.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"cannot read the list of models {path}: {error}. Reinstall the package.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"the list of models {path} is no TOML: {error}.") from error
    if data.get("schema") != _SCHEMA:
        raise ManifestError(f"{path} has schema {data.get('schema')!r}; this package reads {_SCHEMA}.")
    sources = data.get("sources", {})
    models: dict[str, ModelInfo] = {}
    taken: set[str] = set()
    for entry in data.get("model", []):
        info = _Entry(entry, path).info(sources)
        for name in (info.name, *info.aliases):
            if name in taken:
                raise ManifestError(f"{path}: two entries are called {name!r}.")
            taken.add(name)
        models[info.name] = info
    alternatives = tuple((_https(a["address"], path), _https(a["also_at"], path)) for a in data.get("alternatives", []))
    return Manifest(models, alternatives)


class _Entry:
    """One ``[[model]]`` table while it is read: each ``take`` checks a field and crosses it off."""

    def __init__(self, data: Mapping[str, Any], path: Path) -> None:
        self._rest = dict(data)
        self._path = path
        self._where = f"{path}: model {data.get('name', '?')!r}"

    def info(self, sources: Mapping[str, str]) -> ModelInfo:
        name = self._take("name", str)
        aliases = self._strings("aliases")
        for text in (name, *aliases):
            if not _NAME.fullmatch(text):
                raise ManifestError(f"{self._where}: {text!r} is no name; names are lower-case words joined by '-'.")
        task = self._take("task", str)
        if task not in TASKS:
            raise ManifestError(f"{self._where}: task {task!r} is none of {', '.join(TASKS)}.")
        size = self._take("input_size_wh", list)
        if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= 8192 for side in size):
            raise ManifestError(f"{self._where}: input_size_wh must be width and height, got {size!r}.")
        skeleton = self._take("skeleton", str, "")
        if bool(skeleton) == (task == "detection"):
            raise ManifestError(f"{self._where}: pose models have a skeleton, detectors have none.")
        source = self._take("source", str)
        files = {kind: self._file(kind) for kind in FORMATS if kind in self._rest}
        if not files:
            raise ManifestError(f"{self._where}: it has no file; known kinds are {', '.join(FORMATS)}.")
        info = ModelInfo(
            name=name,
            aliases=aliases,
            task=task,
            family=self._take("family", str),
            about=self._take("about", str),
            input_size_wh=(size[0], size[1]),
            skeleton=skeleton,
            classes=self._strings("classes"),
            training_data=self._take("training_data", str),
            licence=self._take("licence", str),
            params_m=self._number("params_m"),
            gflops=self._number("gflops"),
            metrics=tuple(self._metric(metric) for metric in self._take("metrics", list, [])),
            source=sources.get(source, source),
            note=self._take("note", str, ""),
            files=files,
        )
        if self._rest:
            raise ManifestError(f"{self._where}: unknown fields {', '.join(sorted(self._rest))}.")
        return info

    def _take(self, key: str, kind: type, default: Any = None) -> Any:
        value = self._rest.pop(key, default)
        if value is None:
            raise ManifestError(f"{self._where}: {key} is missing.")
        if not isinstance(value, kind):
            raise ManifestError(f"{self._where}: {key} must be a {kind.__name__}, got {value!r}.")
        return value

    def _strings(self, key: str) -> tuple[str, ...]:
        values = self._take(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise ManifestError(f"{self._where}: {key} must be a list of words, got {values!r}.")
        return tuple(values)

    def _number(self, key: str) -> float | None:
        if key not in self._rest:
            return None
        value = self._rest.pop(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ManifestError(f"{self._where}: {key} must be a positive number, got {value!r}.")
        return float(value)

    def _metric(self, value: Any) -> Metric:
        try:
            return Metric(str(value["name"]), float(value["value"]), str(value["dataset"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{self._where}: a metric needs name, value and dataset, got {value!r}.") from error

    def _file(self, kind: str) -> ZooFile:
        data = dict(self._take(kind, dict))
        where = f"{self._where}: {kind}"
        hashes = {}
        for key, pattern in (("sha256", _SHA256), ("sha256_prefix", _PREFIX), ("onnx_sha256", _SHA256)):
            hashes[key] = data.pop(key, "")
            if hashes[key] and not (isinstance(hashes[key], str) and pattern.fullmatch(hashes[key])):
                raise ManifestError(f"{where}: {key} must be lower-case hex digits, got {hashes[key]!r}.")
        if kind == "embedded":
            path = self._inside(data.pop("path", ""), where)
            card = self._inside(data.pop("model_card", ""), where)
            if not hashes["sha256"]:
                raise ManifestError(f"{where}: an embedded file needs its sha256.")
            file = ZooFile(format=kind, path=path, model_card=card, **hashes)
        else:
            yields = data.pop("yields", "") if kind == "pth" else ""
            if not isinstance(yields, str):
                raise ManifestError(f"{where}: yields must be a text, got {yields!r}.")
            file = ZooFile(format=kind, url=_https(data.pop("url", ""), self._path), yields=yields, **hashes)
        if data:
            raise ManifestError(f"{where}: unknown fields {', '.join(sorted(data))}.")
        if not re.fullmatch(r"[\w.+-]+", file.file_name) or not file.file_name.endswith(_SUFFIXES[kind]):
            raise ManifestError(f"{where}: {file.file_name!r} is no name of a {_SUFFIXES[kind]} file.")
        return file

    def _inside(self, text: Any, where: str) -> Path:
        folder = self._path.parent
        if not isinstance(text, str) or not text or not (folder / text).resolve().is_relative_to(folder.resolve()):
            raise ManifestError(f"{where}: path and model_card must name files below {folder}, got {text!r}.")
        return folder / text


def _https(url: Any, path: Path) -> str:
    if not isinstance(url, str) or urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
        raise ManifestError(f"{path}: an address must be an https:// one, got {url!r}.")
    return url
