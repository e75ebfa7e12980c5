"""MMDeploy SDK archives to folders, with nothing in the archive trusted.

The published archives hold ``end2end.onnx`` and its three JSON files some folders deep. Only those four are ever
written, under names chosen here and not by the archive, after a look at the whole list of members: one that points
outside, a link or an absurd size condemns the archive.
"""

from __future__ import annotations

import errno
import logging
import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from rtmpose_infer.errors import ModelError
from rtmpose_infer.zoo.store import NETWORK

__all__ = ["unpack_sdk"]

_log = logging.getLogger("rtmpose_infer.zoo")

_DOCUMENTS = ("deploy.json", "pipeline.json", "detail.json")
_LARGEST_NETWORK = 2 * 2**30
_LARGEST_DOCUMENT = 4 * 2**20
_MOST_MEMBERS = 1000
_LARGEST_RATIO = 200
_RATIO_FROM = 2**20
_BLOCK = 2**20


def unpack_sdk(archive: Path, folder: Path) -> None:
    """Write an archive's network and documents into an empty folder.

    Args:
        archive: The zip file.
        folder: Made if it is missing.

    Raises:
        ModelError: It is no zip file, is damaged, lacks the network, or is not safe to unpack.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _checked(file, archive)
            folder.mkdir(parents=True, exist_ok=True)
            for name, member in members.items():
                _extract(file, member, folder / name)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a seek to before the file's start
            raise
        raise ModelError(f"{archive.name} is no usable zip archive ({error}); fetch it again.") from error


def _checked(file: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    members = file.infolist()
    if len(members) > _MOST_MEMBERS:
        raise ModelError(f"{archive.name} is not safe to unpack: it has {len(members)} members.")
    seen: set[str] = set()
    for member in members:
        problem = _problem(member) or ("it stands there twice" if member.filename in seen else "")
        if problem:
            raise ModelError(f"{archive.name} is not safe to unpack: {member.filename!r}: {problem}.")
        seen.add(member.filename)
    networks = [member for member in members if PurePosixPath(member.filename).name == NETWORK and not member.is_dir()]
    if len(networks) != 1:
        raise ModelError(f"{archive.name} is no MMDeploy SDK archive: it has {len(networks)} {NETWORK}, expected one.")
    root = PurePosixPath(networks[0].filename).parent
    wanted = {NETWORK: networks[0]}
    for member in members:
        place = PurePosixPath(member.filename)
        if place.parent == root and place.name in _DOCUMENTS and not member.is_dir():
            wanted[place.name] = member
        elif member not in networks and not member.is_dir():
            _log.debug("%s: left out %s", archive.name, member.filename)
    for name, member in wanted.items():
        if member.file_size > _limit(name):
            raise ModelError(f"{archive.name} is not safe to unpack: {name} has {member.file_size} bytes.")
    return wanted


def _problem(member: zipfile.ZipInfo) -> str:
    name, mode = member.filename, member.external_attr >> 16
    if member.orig_filename != name or "\\" in member.orig_filename or any(ord(letter) < 32 for letter in name):
        return "the name has characters that a path must not have"
    if name.startswith("/") or ":" in name or ".." in PurePosixPath(name).parts:
        return "it points outside"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "it is a link or a device"
    if member.flag_bits & 1:
        return "it is encrypted"
    if member.file_size > _RATIO_FROM and member.file_size > _LARGEST_RATIO * max(member.compress_size, 1):
        return f"it would grow from {member.compress_size} to {member.file_size} bytes"
    return ""


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    limit, written = _limit(target.name), 0
    with file.open(member) as source, target.open("xb") as sink:
        while block := _read(source):
            written += len(block)
            if written > limit:
                raise ModelError(
                    f"{target.name} in the archive is larger than {limit} bytes; it is not safe to unpack."
                )
            sink.write(block)


def _read(source: IO[bytes]) -> bytes:
    try:
        return source.read(_BLOCK)
    except OSError as error:  # what bz2 says of damaged data; one from the sink would mean a full disk
        raise zipfile.BadZipFile(str(error)) from error


def _limit(name: str) -> int:
    return _LARGEST_NETWORK if name == NETWORK else _LARGEST_DOCUMENT
