"""Write wheels by hand: valid ones in one call, and every way to break one. Also installs them into a directory as pip would."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import attrs

DATE = (2020, 2, 2, 0, 0, 0)


def record_hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def manifest(name: str, version: str, **more: object) -> str:
    lines = [f"name: {name}", f"version: {version}", *(f"{key}: {value}" for key, value in more.items())]
    return "\n".join(lines) + "\n"


@attrs.define
class WheelMaker:
    """What goes into a wheel. Fields may be changed to break it before :meth:`write`."""

    name: str = "upper"
    version: str = "1.0.0"
    files: dict[str, bytes] = attrs.field(factory=dict)
    entry_points: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    requires: tuple[str, ...] = ()
    requires_python: str = ""
    tag: str = "py3-none-any"
    record: str | None = None  #: instead of the right one
    metadata_name: str | None = None
    metadata_version: str | None = None
    unlisted: dict[str, bytes] = attrs.field(factory=dict)

    @property
    def info(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.dist-info"

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tag}.whl"

    def members(self) -> dict[str, bytes]:
        headers = ["Metadata-Version: 2.1", f"Name: {self.metadata_name or self.name}", f"Version: {self.metadata_version or self.version}"]
        headers += [f"Requires-Dist: {text}" for text in self.requires]
        headers += [f"Requires-Python: {self.requires_python}"] if self.requires_python else []
        points = "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in self.entry_points.items()
        )
        members = {
            **self.files,
            f"{self.info}/METADATA": ("\n".join(headers) + "\n").encode(),
            f"{self.info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {self.tag}\n".encode(),
        }
        if points:
            members[f"{self.info}/entry_points.txt"] = points.encode()
        record = self.record
        if record is None:
            record = "".join(f"{name},{record_hash(data)},{len(data)}\n" for name, data in members.items()) + f"{self.info}/RECORD,,\n"
        return {**members, **self.unlisted, f"{self.info}/RECORD": record.encode()}

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.filename
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self.members().items():
                archive.writestr(plain_member(name), data, zipfile.ZIP_DEFLATED)
        return path

    def install(self, site: Path) -> Path:
        """Put the wheel's files below ``site`` as an installer does, and return the metadata directory."""
        for name, data in self.members().items():
            target = site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return site / self.info


def plain_member(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, DATE)
    member.external_attr = mode << 16
    return member


def plugin_wheel(name: str = "upper", version: str = "1.0.0", *, group: str = "notes", declared: bool = True, **more: object) -> WheelMaker:
    """A package ``name`` with a class ``Plugin``, an entry point in ``group`` and a manifest (unless ``declared`` is false)."""
    package = name.replace("-", "_").lower()
    files = {f"{package}/__init__.py": f"VERSION = {version!r}\n\nclass Plugin:\n    pass\n".encode()}
    if declared:
        files[f"{package}/plugin.yaml"] = manifest(name, version, **more).encode()
    return WheelMaker(name, version, files, {group: {name: f"{package}:Plugin"}})
