"""Read a training checkpoint that nobody vouches for.

A ``.pth`` file is a pickle, and a pickle is a program. It is read with torch's ``weights_only`` unpickler, which refuses
every function but its own tensor constructors; on top of that a fixed list of names that OpenMMLab's trainers leave in
their files (log buffers, config dictionaries, numpy arrays) is replaced by inert stand-ins, so that an unpublished
checkpoint opens as well. Any other name, whatever it would have done, is a :class:`CheckpointError` that says which.

What comes out is a flat mapping from official keys to tensors. Wrappers' prefixes, nesting and averaged weights are settled
here and nowhere else:

- mmengine's EMA hook *swaps* before saving: ``state_dict`` holds the averaged weights and ``ema_state_dict`` the raw ones.
  So a file that mmengine wrote is read from ``state_dict``, as MMPose itself does; in any other file, a mapping
  that is named after the average is the average.
"""

from __future__ import annotations

import logging
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtmpose_infer.cache import sha256_of
from rtmpose_infer.errors import CheckpointError

__all__ = ["Checkpoint", "check_fit", "load_checkpoint", "load_into"]

_log = logging.getLogger("rtmpose_infer.export")

_STEMS = ("backbone.stem.0.conv.weight", "backbone.stem.conv.conv.weight")
_AVERAGES = ("ema_state_dict", "state_dict_ema", "ema")
_NESTINGS = ("state_dict", "model", "model_state_dict")
_LEFT_OVER = ("data_preprocessor.", "ema_", "head.loss", "bbox_head.loss", "loss")
_LARGEST_FILE = 8 * 2**30
_MOST_VALUES = 10**6

_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
    NotImplementedError,
)


class _Inert:
    """Takes any place in a pickle and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.state = state


class _InertArray(_Inert):
    """Keeps what a pickled numpy array is made of, for :func:`_plain` to look at."""


class _InertDtype(_Inert):
    """Keeps the code of a numpy dtype."""

    code: object

    def __new__(cls, code: object = "", *_: object) -> _InertDtype:
        self = super().__new__(cls)
        assert isinstance(self, _InertDtype)
        self.code = code
        return self


_MM_PACKAGES = ("mmengine.", "mmcv.", "mmdet.", "mmpose.", "mmyolo.", "mmpretrain.", "addict.")
_STAND_INS: dict[str, Any] = {
    "builtins.getattr": _Inert,  # log buffers name their own methods this way
    "collections.deque": _Inert,
    "pathlib.PosixPath": _Inert,
    "pathlib.WindowsPath": _Inert,
    "datetime.datetime": _Inert,
    "datetime.timedelta": _Inert,
    "numpy.core.multiarray._reconstruct": _InertArray,
    "numpy._core.multiarray._reconstruct": _InertArray,
    "numpy.core.multiarray.scalar": _Inert,
    "numpy._core.multiarray.scalar": _Inert,
    "numpy.ndarray": _Inert,
    "numpy.dtype": _InertDtype,
    "mmengine.config.config.ConfigDict": dict,
}


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one network, and what the file says about them.

    Attributes:
        tensors: Official key to tensor, on the CPU.
        meta: The file's ``meta`` (config text, data set), reduced to plain values; empty if there is none.
        sha256: Hash of the file.
        name: Its name without folder.
        weights: The mapping in the file that the tensors come from.
    """

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    sha256: str
    name: str
    weights: str


def load_checkpoint(path: str | Path, *, weights: str | None = None, prefix: str | None = None) -> Checkpoint:
    """Return the weights of a ``.pth`` file without running anything in it.

    Args:
        path: The file.
        weights: Name of the mapping to take, such as ``"ema_state_dict"``; by default the averaged weights.
        prefix: What stands before ``backbone.`` in the keys; found out by default.

    Raises:
        CheckpointError: The file is missing, broken, hostile, holds no network of the family, or several.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}. Pass a .pth file.")
    content = _load_safely(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a mapping with a state_dict.")
    meta = content.get("meta")
    meta = _plain(meta) if isinstance(meta, Mapping) else {}
    source, tensors = _chosen_weights(content, meta, weights, path)
    tensors = _without_prefix(tensors, prefix, path)
    _check_sizes(tensors, path)
    return Checkpoint(tensors, meta, sha256_of(path), path.name, source)


def check_fit(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Check that every tensor has its place in ``network``, which may be on the ``meta`` device.

    Counters of batch norms and tensors that only training losses use may be missing or left over.

    Raises:
        CheckpointError: A tensor is missing, left over, or of another shape.
    """
    own = network.state_dict()
    optional = {k for k in own if k.endswith("num_batches_tracked") or k.startswith(_LEFT_OVER)}
    extra = [k for k in tensors if k not in own and not k.startswith(_LEFT_OVER)]
    missing = [k for k in own if k not in tensors and k not in optional]
    if extra or missing:
        raise CheckpointError(
            f"the checkpoint's tensors do not fit the network they seem to be of: {_listed('missing', missing)}"
            f"{_listed('left over', extra)}It was probably trained with a modified architecture."
        )
    for key, value in own.items():
        shape = tensors[key].shape if key in tensors else value.shape
        if shape != value.shape:
            raise CheckpointError(
                f"the checkpoint's {key} has shape {list(shape)}; the network it seems to be of has "
                f"{list(value.shape)}. It was probably trained with a modified architecture."
            )


def load_into(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load every tensor into ``network``, as strictly as :func:`check_fit`.

    Raises:
        CheckpointError: A tensor is missing, left over, of another shape, or holds what is no number.
    """
    check_fit(network, tensors)
    own = network.state_dict()
    state = {k: tensors.get(k, value) for k, value in own.items()}
    network.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=True)
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"the checkpoint's {key} holds NaN or infinity. Its training diverged; use another.")


def _load_safely(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise CheckpointError(  # noqa: TRY301
                f"{path} is larger than {_LARGEST_FILE >> 30} GB; no network of the family is."
            )
        named = set(_named_in_pickle(path))
        stand_ins: list[Any] = []
        for name in sorted(named):
            stand_in = _STAND_INS.get(name) or (_Inert if name.startswith(_MM_PACKAGES) else None)
            if stand_in is not None:
                stand_ins.append((stand_in, name))
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    except _BROKEN as error:
        text = str(error)
        if "GLOBAL" in text or "global" in text:
            culprit = _culprit(text)
            raise CheckpointError(
                f"{path} is not loaded: it asks for {culprit}, which weights have no need of and which could run code. "
                "If you trust its source, save only its state_dict with torch.save and export that."
            ) from error
        raise CheckpointError(
            f"{path} is not a whole PyTorch checkpoint ({_first_line(text) or type(error).__name__}). "
            "It may be truncated, or another kind of file; download it again."
        ) from error


def _named_in_pickle(path: Path) -> Iterator[str]:
    """Yield ``module.name`` of everything the file's pickles refer to, without unpickling."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"{path} has compressed members, which torch never writes; refused.")
            for member in members:
                if member.filename.endswith("data.pkl"):
                    with archive.open(member) as file:
                        yield from _named_in_stream(file)
        return
    with path.open("rb") as file:
        # Before torch 1.6, and in OpenMMLab's published files: five pickles, then the raw storages.
        for _ in range(5):
            yield from _named_in_stream(file)


def _named_in_stream(file: Any) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield f"{'builtins' if module == '__builtin__' else module}.{name}"


def _chosen_weights(
    content: Mapping[str, Any], meta: Mapping[str, Any], wanted: str | None, path: Path
) -> tuple[str, dict[str, Tensor]]:
    candidates = {
        name: content[name]
        for name in (*_NESTINGS, *_AVERAGES)
        if isinstance(content.get(name), Mapping) and any(isinstance(v, Tensor) for v in content[name].values())
    }
    if any(isinstance(v, Tensor) for v in content.values()):
        candidates[""] = content
    if wanted is not None:
        if wanted not in candidates:
            raise CheckpointError(
                f"{path} has no weights named {wanted!r}; it has {', '.join(map(repr, candidates)) or 'none'}."
            )
        chosen = wanted
    else:
        plain = [n for n in candidates if n not in _AVERAGES]
        averages = [n for n in candidates if n in _AVERAGES]
        if len(plain) > 1 or len(averages) > 1:
            names = ", ".join(repr(n) for n in candidates)
            raise CheckpointError(f"{path} holds several sets of weights: {names}. Choose one with --weights.")
        if not candidates:
            raise CheckpointError(
                f"{path} holds no tensors; expected a state_dict. Its entries: {', '.join(map(str, content))[:200]}."
            )
        swapped = "mmengine_version" in meta and bool(plain)
        chosen = averages[0] if averages and not swapped else plain[0]
        if averages and plain:
            _log.info("%s holds raw and averaged weights; the averaged ones are in %r.", path.name, chosen)
    return chosen, {str(k): v for k, v in candidates[chosen].items() if isinstance(v, Tensor)}


def _without_prefix(tensors: Mapping[str, Tensor], wanted: str | None, path: Path) -> dict[str, Tensor]:
    found = sorted({key[: -len(stem)] for key in tensors for stem in _STEMS if key.endswith(stem)})
    if wanted is not None:
        prefix = wanted if not wanted or wanted.endswith(".") else f"{wanted}."
        if prefix not in found:
            raise CheckpointError(f"{path} has no network under {wanted!r}; there is one under {_quoted(found)}.")
    elif not found:
        sample = ", ".join(sorted(tensors)[:5])
        raise CheckpointError(
            f"{path} holds no network of the RTMPose family: no key ends in {_STEMS[0]!r} or {_STEMS[1]!r}. "
            f"Its keys begin with {sample}. Supported are RTMPose, RTMW, RTMDet, YOLOX (MMDetection) and RTMO."
        )
    elif len(found) > 1 and "" not in found:
        raise CheckpointError(f"{path} holds several networks: under {_quoted(found)}. Choose one with --prefix.")
    else:
        prefix = found[0]
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _check_sizes(tensors: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in tensors.items():
        if not _is_ordinary(tensor):
            raise CheckpointError(
                f"{path}: {key} is not an ordinary dense tensor with its values in the file. Save the network's "
                "state_dict again, from the CPU."
            )
        if tensor.numel() == 0:
            raise CheckpointError(
                f"{path}: {key} has shape {list(tensor.shape)} and thus no values; every weight has some. It is damaged, "
                "or of a modified architecture."
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {key} claims {tensor.numel()} elements, more than are stored for it.")


def _is_ordinary(tensor: Tensor) -> bool:
    odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested
    return tensor.device.type == "cpu" and not odd


def _plain(value: Any, depth: int = 0, allowance: Iterator[int] | None = None) -> Any:
    """Reduce to numbers, texts, lists and dictionaries; what is none of these becomes ``None``.

    Lists that share their elements, as a pickle's may, come out as one list each, so that a small file could hold more
    than any memory: ``allowance`` runs dry after as many values as no training writes.
    """
    allowance = iter(range(_MOST_VALUES)) if allowance is None else allowance
    if next(allowance, None) is None:
        raise CheckpointError(
            f"the checkpoint's meta holds more than {_MOST_VALUES} values; expected a config and the names of a data set. "
            "If you trust its source, save only its state_dict with torch.save and export that."
        )
    if depth > 20:
        return None
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, Mapping):
        named = {str(k): v for k, v in value.items() if isinstance(k, (str, int, float))}
        return {k: _plain(v, depth + 1, allowance) for k, v in named.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v, depth + 1, allowance) for v in value]
    if isinstance(value, Tensor):
        small = _is_ordinary(value) and value.numel() <= 1000
        return _plain(value.tolist(), depth, allowance) if small else None
    if isinstance(value, _InertArray):
        return _plain(_plain_array(value), depth, allowance)
    return None


def _plain_array(value: _InertArray) -> list[Any] | None:
    match getattr(value, "state", None):
        case (_, tuple() as shape, _InertDtype(code=str() as code, state=(_, "<" | "|", *_)), False, bytes() as data):
            pass
        case _:
            return None
    if code not in {"f4", "f8", "i4", "i8", "u1"} or len(data) > 2**16:
        return None
    try:
        return np.frombuffer(data, np.dtype(code)).reshape(shape).tolist()  # type: ignore[no-any-return]
    except (ValueError, TypeError):
        return None


def _culprit(text: str) -> str:
    for marker in ("GLOBAL ", "function "):
        if marker in text:
            return text.split(marker, 1)[1].split(maxsplit=1)[0].strip("`.,")
    return "a forbidden name"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else ""


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(n.rstrip(".")) for n in names)


def _listed(word: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return f"{word} {', '.join(keys[:4])}{more}. "
