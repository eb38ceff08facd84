"""Read what an image is: from a directory in the OCI image layout 1.0, from a tar archive of one, or from what ``docker save`` writes.

Nothing in there is believed: sizes are capped before anything is read, and every document and layer is compared with the digest by which it was named, up
to the one of the configuration, which is the image's id.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import platform
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Protocol

import attrs

from blackhole_core.executor.launch.oci.image.errors import BadImage

__all__ = ["Hashed", "Image", "Layer", "Source", "open_layer", "open_source", "read_image"]

#: Bytes of a document: the specification advises registries to refuse manifests above 4 MB.
_MOST_DOCUMENT: Final = 4 * 2**20
#: Layers of an image: overlay file systems take 128 at the most.
_MOST_LAYERS: Final = 256
#: How deep an index may name another one.
_MOST_NESTED: Final = 3
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
#: What machines are called by Go, and so in images.
_MACHINES: Final[Mapping[str, str]] = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}
_TAG: Final = "org.opencontainers.image.ref.name"
#: How a compressed stream begins.
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Source(Protocol):
    """Files by their names, with ``/`` between the parts."""

    def open(self, name: str) -> IO[bytes] | None:
        """Open a file; None where there is none of that name."""


@attrs.frozen
class _Directory:
    path: Path

    def open(self, name: str) -> IO[bytes] | None:
        try:
            return (self.path / name).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return None


@attrs.frozen
class _Archive:
    tar: tarfile.TarFile
    members: Mapping[str, tarfile.TarInfo]

    def open(self, name: str) -> IO[bytes] | None:
        member = self.members.get(name)
        try:
            return None if member is None else self.tar.extractfile(member)
        except KeyError:
            return None  # a link to what is not in it


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a directory or an archive.

    :raises BadImage: it is neither.
    """
    if path.is_dir():
        yield _Directory(path)
        return
    try:
        with tarfile.open(path, "r:") as tar:
            yield _Archive(tar, {member.name.removeprefix("./"): member for member in tar})
    except tarfile.TarError as error:
        raise BadImage(f"{path} is no directory and no tar archive ({error})") from None
    except OSError as error:
        raise BadImage(f"{path} cannot be read: {error.strerror or error}") from None


@attrs.frozen
class Layer:
    """One layer: the file with it, and the digest of what that is uncompressed."""

    name: str
    digest: str


@attrs.frozen
class Image:
    """What an image says of itself. ``id`` is the SHA-256 of its configuration, hexadecimal, which names all its layers."""

    id: str
    layers: tuple[Layer, ...]
    environment: Mapping[str, str]


def read_image(source: Source, tag: str = "", machine: str = "") -> Image:
    """Return the image in ``source``, the one called ``tag`` where there are several, for ``machine`` (as :func:`platform.machine` has it), or this one.

    :raises BadImage: there is none, or not exactly one.
    """
    wanted = _MACHINES.get(machine or platform.machine(), machine or platform.machine())
    if (index := _document(source, "index.json")) is not None:
        manifest = _manifest(source, index, tag, wanted, 0)
        described = _dictionary(manifest, "config")
        data = _blob(source, described)
        names = [f"blobs/{_digest_of(layer).replace(':', '/')}" for layer in _list(manifest, "layers")]
    elif (saved := _document(source, "manifest.json")) is not None:
        entry = _saved(saved, tag)
        data, names = _read(source, _text(entry, "Config")), [name for name in _list(entry, "Layers") if isinstance(name, str)]
    else:
        raise BadImage("it holds neither index.json, as the OCI image layout has it, nor manifest.json, as docker save writes it")
    return _image(data, names, wanted)


def _image(data: bytes, names: list[str], machine: str) -> Image:
    config = _parsed(data, "the configuration")
    if (config.get("os"), config.get("architecture")) != ("linux", machine):
        raise BadImage(f"it is for {config.get('os')} on {config.get('architecture')}, and this is linux on {machine}")
    digests = [
        digest for digest in _list(_dictionary(config, "rootfs"), "diff_ids") if isinstance(digest, str) and _DIGEST.fullmatch(digest)
    ]
    if len(digests) != len(names) or len(names) > _MOST_LAYERS:
        raise BadImage(f"it has {len(names)} layers and the digests of {len(digests)} (at most {_MOST_LAYERS})")
    settings = config.get("config")
    variables = settings.get("Env") if isinstance(settings, dict) else None
    pairs = [text.split("=", 1) for text in variables or () if isinstance(text, str) and "=" in text and "\0" not in text]
    layers = tuple(Layer(name, digest) for name, digest in zip(names, digests, strict=True))
    return Image(hashlib.sha256(data).hexdigest(), layers, dict(pairs))


def _manifest(source: Source, index: dict[str, Any], tag: str, machine: str, depth: int) -> dict[str, Any]:
    """Return the one manifest that ``index`` names for this machine."""
    found = [entry for entry in _list(index, "manifests") if isinstance(entry, dict) and _fits(entry, tag, machine)]
    if len(found) != 1:
        tags = sorted({str(_annotations(entry).get(_TAG)) for entry in _list(index, "manifests") if isinstance(entry, dict)} - {"None"})
        called = f" called {tag!r}" if tag else ""
        raise BadImage(f"it names {len(found)} images{called} for linux on {machine}" + (f"; there are {', '.join(tags)}" if tags else ""))
    manifest: dict[str, Any] = _parsed(_blob(source, found[0]), "a manifest")
    if "manifests" not in manifest:
        return manifest
    if depth == _MOST_NESTED:
        raise BadImage("its indexes name one another without end")
    return _manifest(source, manifest, "", machine, depth + 1)


def _fits(entry: dict[str, Any], tag: str, machine: str) -> bool:
    where = entry.get("platform")
    here = not isinstance(where, dict) or (where.get("os"), where.get("architecture")) == ("linux", machine)
    return here and (not tag or _annotations(entry).get(_TAG) == tag)


def _annotations(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("annotations")
    return found if isinstance(found, dict) else {}


def _saved(entries: Any, tag: str) -> dict[str, Any]:
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if tag:
        found = [entry for entry in found if any(str(name).rpartition(":")[2] == tag for name in entry.get("RepoTags") or ())]
    if len(found) != 1:
        raise BadImage(f"it names {len(found)} images{f' called {tag!r}' if tag else ''}")
    return found[0]


# --- documents ---------------------------------------------------------------------------------------------------------


def _document(source: Source, name: str) -> Any:
    file = source.open(name)
    if file is None:
        return None
    with file:
        data = file.read(_MOST_DOCUMENT + 1)
    return _parsed(data, name, of=(dict, list))


def _read(source: Source, name: str) -> bytes:
    file = source.open(name)
    if file is None:
        raise BadImage(f"{name} is missing in it")
    with file:
        return file.read(_MOST_DOCUMENT + 1)


def _blob(source: Source, descriptor: dict[str, Any]) -> bytes:
    digest = _digest_of(descriptor)
    data = _read(source, f"blobs/{digest.replace(':', '/')}")
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise BadImage(f"{digest} in it is damaged")
    return data


def _digest_of(descriptor: Any) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BadImage(f"it names something by {digest!r}, which is no sha256 digest")
    return digest


def _parsed(data: bytes, what: str, of: tuple[type, ...] = (dict,)) -> Any:
    if len(data) > _MOST_DOCUMENT:
        raise BadImage(f"{what} in it has more than {_MOST_DOCUMENT} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, of):
        raise BadImage(f"{what} in it is not JSON as it should be")
    return found


def _dictionary(document: Any, name: str) -> dict[str, Any]:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise BadImage(f"{name} in it is no mapping")
    return found


def _list(document: Any, name: str) -> list[Any]:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise BadImage(f"{name} in it is no list")
    return found


def _text(document: dict[str, Any], name: str) -> str:
    found = document.get(name)
    if not isinstance(found, str):
        raise BadImage(f"{name} in it is no text")
    return found


# --- layers ------------------------------------------------------------------------------------------------------------


class Hashed:
    """A stream that is read once, and is digested and counted meanwhile; ``most`` bytes from its beginning, where that is set."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.count = 0
        self.most: int | None = None

    def read(self, size: int) -> bytes:
        """:raises BadImage: it would read further than it may."""
        if self.most is not None and self.count + size > self.most:
            raise BadImage("a file in it has more than 1 MB of properties")
        data = self._stream.read(size)
        self._hash.update(data)
        self.count += len(data)
        return data

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


@contextlib.contextmanager
def open_layer(source: Source, layer: Layer) -> Iterator[Hashed]:
    """Open what a layer is uncompressed.

    :raises BadImage: it is missing, or compressed by something else than gzip.
    """
    with contextlib.ExitStack() as stack:
        file = source.open(layer.name)
        if file is None:
            raise BadImage(f"{layer.name} is missing in it")
        stack.enter_context(file)
        head = file.read(len(_ZSTD))
        file.seek(0)
        if head == _ZSTD:
            raise BadImage("a layer of it is compressed with zstd, which Python before 3.14 cannot read; save it with gzip or uncompressed")
        if head.startswith(_GZIP):
            yield Hashed(stack.enter_context(gzip.GzipFile(fileobj=file)))  # type: ignore[arg-type]  # a reader of bytes is all it asks for
        else:
            yield Hashed(file)
