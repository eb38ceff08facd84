"""Look into a wheel before anything of it is unpacked, and refuse one that is not exactly what its file name says.

Nothing is written and nothing imported. The rules, in the order in which they are checked:

1. the file is one whole zip archive: nothing in front or behind, one directory only, no member on top of another;
2. members are plain files with safe names, few enough, small enough, not compressed beyond belief;
3. file name, ``WHEEL`` and ``METADATA`` agree on name and version, and the wheel fits this interpreter;
4. ``RECORD`` lists every member with a strong hash (the content is compared with it when it is unpacked);
5. nothing in it would reach beyond the plugin: no ``.pth`` file, no name of the standard library, nothing of ours.
"""

from __future__ import annotations

import base64
import csv
import re
import stat
import struct
import sys
import unicodedata
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import IO, Final

import attrs

from blackhole_core.errors import SourceError
from blackhole_core.ids import canonical_name

__all__ = ["Part", "Wheel", "inspect_wheel"]

#: Bytes of a wheel file. The largest on PyPI that is no GPU library is about 300 MB; below 4 GiB no zip64 is needed.
MAX_WHEEL: Final = 512 * 1024 * 1024
#: Files in a wheel. Django has 4,500, the largest we know (botocore, ansible) some 15,000.
MAX_MEMBERS: Final = 20_000
#: Bytes of all members unpacked.
MAX_UNPACKED: Final = 1024 * 1024 * 1024
#: Unpacked size over packed size of one member. Source code reaches 10, sparse tables 100, a bomb 1,000 (the most that deflate can).
MAX_RATIO: Final = 200
#: Bytes up to which the ratio does not matter: an empty form can compress very well.
RATIO_FREE: Final = 64 * 1024
#: Bytes of METADATA, WHEEL and RECORD each; RECORD takes some 100 bytes for a member.
MAX_METADATA: Final = 4 * 1024 * 1024
#: Bytes of one part of a path: NAME_MAX of Linux file systems.
MAX_NAME: Final = 255
#: Bytes of a whole path; with the store's own directories in front it stays below PATH_MAX (4,096).
MAX_PATH: Final = 1024

#: Hash names that RECORD may use (the wheel specification: sha256 or better).
_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
#: Names at the top of the import path that mean something to the interpreter itself.
_RESERVED: Final = frozenset({"blackhole_core", "sitecustomize", "usercustomize", "pyvenv", "bin", "__init__", "__main__", "__pycache__"})
#: RECORD cannot hold its own hash, nor that of the signatures over it.
_UNHASHED: Final = frozenset({"RECORD", "RECORD.jws", "RECORD.p7s"})
#: The end record of a zip archive without a comment (APPNOTE 4.3.16): signature … directory size, directory offset, comment length.
_END: Final = struct.Struct("<4s4H2LH")
_LOCAL_HEADER: Final = struct.Struct("<4s5H3L2H")


@attrs.frozen
class Part:
    """One file to unpack: ``member`` of the archive, ``name`` where it goes, and its hash by RECORD."""

    member: zipfile.ZipInfo
    name: str
    algorithm: str
    digest: bytes


@attrs.frozen
class Wheel:
    """A wheel that may be unpacked. ``name`` is canonical, ``version`` as METADATA has it; ``info`` is the ``.dist-info`` directory."""

    name: str
    version: str
    info: str
    parts: tuple[Part, ...]


def inspect_wheel(filename: str, file: IO[bytes]) -> Wheel:
    """Return what the wheel ``file`` holds; ``filename`` is its own name, without directories.

    Raises :class:`~blackhole_core.errors.SourceError` with the first rule that it breaks.
    """
    try:
        return _inspect(filename, file)
    except SourceError as error:
        raise SourceError(f"{filename}: {error}; nothing was unpacked") from error.__cause__
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, UnicodeError, struct.error) as error:
        raise SourceError(f"{filename} is not a whole zip archive: {error}; nothing was unpacked") from error
    except zipfile.zlib.error as error:  # type: ignore[attr-defined]  # zipfile lets it through
        raise SourceError(f"{filename} holds damaged data: {error}; nothing was unpacked") from error


def _inspect(filename: str, file: IO[bytes]) -> Wheel:
    name, version = _file_name(filename)
    directory, count = _check_ends(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if (archive.start_dir, len(members)) != (directory, count):
            # zipfile follows a zip64 record where others do not: two readers would see two archives.
            raise SourceError("it has two zip directories")
        _check_overlap(file, members)
        _check_members(members)
        files = {member.filename: member for member in members if not member.is_dir()}
        info = _info_directory(files)
        _check_metadata(archive, files, info, name, version)
        hashes = _record(_text(archive, files, f"{info}/RECORD"), files, info)
    parts = tuple(_parts(files, hashes, info))
    _check_targets([part.name for part in parts])
    return Wheel(name, version, info, parts)


def _file_name(filename: str) -> tuple[str, str]:
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    if filename.endswith((".tar.gz", ".tar.bz2", ".zip", ".tgz")):
        raise SourceError(
            "it is a source distribution, which would have to be built by running its code; build a wheel of it first (pip wheel)"
        )
    try:
        name, version, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise SourceError(f"it has not the file name of a wheel (name-version-python-abi-platform.whl): {error}") from error
    if tags.isdisjoint(sys_tags()):
        wanted = ", ".join(sorted(str(tag) for tag in tags))
        raise SourceError(f"it is for {wanted}, which does not fit this interpreter ({next(iter(sys_tags()))})")
    return name, str(version)


def _check_ends(file: IO[bytes]) -> tuple[int, int]:
    """Return where the directory begins and how many members it has; refuse bytes in front or behind, comments, zip64, several disks."""
    size = file.seek(0, 2)
    if size > MAX_WHEEL:
        raise SourceError(f"it has {size} bytes, at most {MAX_WHEEL} are taken")
    if size < _END.size:
        raise SourceError("it is not a zip archive: it has hardly any bytes")
    file.seek(size - _END.size)
    signature, disk, start, here, total, length, offset, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or comment:
        raise SourceError("it does not end where a zip archive ends: it is truncated, or something follows it")
    if disk or start or here != total or offset + length + _END.size != size:
        raise SourceError("its zip directory is not where it says: something stands before or inside it")
    if total > MAX_MEMBERS:
        raise SourceError(f"it has {total} members, at most {MAX_MEMBERS} are taken")
    return offset, total


def _check_overlap(file: IO[bytes], members: Iterable[zipfile.ZipInfo]) -> None:
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise SourceError(f"its member {_shown(member)} lies on top of another")
        file.seek(member.header_offset)
        header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        end = member.header_offset + _LOCAL_HEADER.size + header[9] + header[10] + member.compress_size
    if end > file.seek(0, 2):
        raise SourceError("its last member reaches beyond the end of the file")


def _check_members(members: Collection[zipfile.ZipInfo]) -> None:
    seen: dict[str, str] = {}
    for member in members:
        _check_name(member)
        _check_kind(member)
        _check_size(member)
        folded = unicodedata.normalize("NFC", member.filename.rstrip("/")).casefold()
        if folded in seen:
            raise SourceError(f"its members {seen[folded]} and {_shown(member)} have one name on some file systems")
        seen[folded] = _shown(member)
    total = sum(member.file_size for member in members)
    if total > MAX_UNPACKED:
        raise SourceError(f"its members have {total} bytes unpacked, at most {MAX_UNPACKED} are taken")


def _check_name(member: zipfile.ZipInfo) -> None:
    name = member.orig_filename  # ``filename`` is already cut at a NUL
    if any(unicodedata.category(character) in {"Cc", "Cs", "Cf"} for character in name) or "\\" in name or name != member.filename:
        raise SourceError(f"its member {name!a} has a backslash or control character in its name")
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or any(part in {"", ".", ".."} for part in parts) or ":" in name:
        raise SourceError(f"its member {_shown(member)} would be unpacked outside of its directory")
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
        raise SourceError(f"its member {_shown(member)} has a name that is too long")


def _check_kind(member: zipfile.ZipInfo) -> None:
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR} or (stat.S_ISDIR(mode) and not member.is_dir()):
        raise SourceError(f"its member {_shown(member)} is a link or device, not a file")
    if member.flag_bits & 0x2041:  # encrypted, strongly encrypted, masked headers (APPNOTE 4.4.4)
        raise SourceError(f"its member {_shown(member)} is encrypted")
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise SourceError(f"its member {_shown(member)} is compressed by method {member.compress_type}; wheels use deflate")


def _check_size(member: zipfile.ZipInfo) -> None:
    if member.is_dir() and member.file_size:
        raise SourceError(f"its directory {_shown(member)} has content")
    if member.file_size > RATIO_FREE and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        raise SourceError(
            f"its member {_shown(member)} grows from {member.compress_size} to {member.file_size} bytes; at most {MAX_RATIO}-fold is taken"
        )


def _info_directory(files: Iterable[str]) -> str:
    found = sorted({top for name in files if (top := name.partition("/")[0]).endswith(".dist-info")})
    if len(found) != 1:
        raise SourceError(f"wanted one .dist-info directory, got {', '.join(found) or 'none'}")
    return found[0]


def _check_metadata(archive: zipfile.ZipFile, files: Mapping[str, zipfile.ZipInfo], info: str, name: str, version: str) -> None:
    wheel = _headers(_text(archive, files, f"{info}/WHEEL"))
    if wheel.get("wheel-version", "").partition(".")[0] != "1":
        raise SourceError(f"its WHEEL file has Wheel-Version {wheel.get('wheel-version')!r}, this host knows version 1")
    metadata = _headers(_text(archive, files, f"{info}/METADATA"))
    stem_name, _, stem_version = info.removesuffix(".dist-info").partition("-")
    for where, got_name, got_version in (
        ("METADATA", metadata.get("name", ""), metadata.get("version", "")),
        (f"directory {info}", stem_name, stem_version),
    ):
        if canonical_name(got_name) != name or not _same_version(got_version, version):
            raise SourceError(f"its file name says {name} {version}, its {where} says {got_name} {got_version}")
    _check_python(metadata.get("requires-python", ""))


def _check_python(wanted: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    running = ".".join(str(part) for part in sys.version_info[:3])
    try:
        fits = SpecifierSet(wanted).contains(running, prereleases=True)
    except InvalidSpecifier as error:
        raise SourceError(f"its Requires-Python is not readable: {error}") from error
    if not fits:
        raise SourceError(f"it needs Python {wanted}, this is {running}")


def _same_version(first: str, second: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(first) == Version(second)
    except InvalidVersion:
        return False


def _headers(text: str) -> dict[str, str]:
    """Return the first value of each header, keys in lower case."""
    from email.parser import HeaderParser

    out: dict[str, str] = {}
    for key, value in HeaderParser().parsestr(text).items():
        out.setdefault(key.lower(), str(value).strip())
    return out


def _text(archive: zipfile.ZipFile, files: Mapping[str, zipfile.ZipInfo], name: str) -> str:
    member = files.get(name)
    if member is None:
        raise SourceError(f"it has no {name}")
    if member.file_size > MAX_METADATA:
        raise SourceError(f"its {name} has {member.file_size} bytes, at most {MAX_METADATA} are taken")
    return archive.read(member).decode("utf-8")


def _record(text: str, files: Mapping[str, zipfile.ZipInfo], info: str) -> dict[str, tuple[str, bytes]]:
    """Return member → (hash name, hash) and refuse a RECORD that does not list exactly the members."""
    hashes: dict[str, tuple[str, bytes]] = {}
    unhashed = {f"{info}/{name}" for name in _UNHASHED}
    for row in csv.reader(text.splitlines()):
        if not row:
            continue
        name, value = row[0], row[1] if len(row) > 1 else ""
        if name in hashes:
            raise SourceError(f"its RECORD lists {name[:200]!a} twice")
        if name not in files:
            raise SourceError(f"its RECORD lists {name[:200]!a}, which it does not hold")
        hashes[name] = ("", b"") if name in unhashed else _hash(name, value)
    if missing := sorted(files.keys() - hashes.keys() - unhashed):
        raise SourceError(f"its RECORD does not list {missing[0]!a}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
    return hashes


def _hash(name: str, value: str) -> tuple[str, bytes]:
    algorithm, _, encoded = value.partition("=")
    if algorithm not in _HASHES or not re.fullmatch(r"[A-Za-z0-9_-]+", encoded):
        raise SourceError(f"its RECORD has no sha256 (or better) of {name[:200]!a}")
    try:
        return algorithm, base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError as error:
        raise SourceError(f"its RECORD has an unreadable hash of {name[:200]!a}") from error


def _parts(files: Mapping[str, zipfile.ZipInfo], hashes: Mapping[str, tuple[str, bytes]], info: str) -> Iterable[Part]:
    """Yield what is unpacked: ``.data/purelib`` and ``platlib`` go to the top, scripts, headers and data files are left out."""
    data = info.removesuffix(".dist-info") + ".data"
    for name, member in files.items():
        target = name
        if name.startswith(f"{data}/"):
            scheme, _, target = name.removeprefix(f"{data}/").partition("/")
            if scheme not in {"purelib", "platlib"} or not target:
                continue
        algorithm, digest = hashes.get(name, ("", b""))
        yield Part(member, target, algorithm, digest)


def _check_targets(names: Collection[str]) -> None:
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    if len(set(folded)) != len(folded):
        raise SourceError("two of its members would be unpacked to one place")
    folders = {str(parent) for name in folded for parent in PurePosixPath(name).parents}
    if clash := sorted(folders & set(folded)):
        raise SourceError(f"its member {clash[0]!a} is both a file and a directory")
    for name in names:
        top, _, rest = name.partition("/")
        stem = top.partition(".")[0]
        if not rest and top.endswith(".pth"):
            raise SourceError(f"it brings {top!a}, which would run code in every start of an interpreter")
        if (stem in _RESERVED or stem in sys.stdlib_module_names) and not top.endswith(".dist-info"):
            raise SourceError(f"it brings {name!a}; {stem!r} belongs to Python or to Blackhole")


def _shown(member: zipfile.ZipInfo) -> str:
    return ascii(member.orig_filename[:200])
