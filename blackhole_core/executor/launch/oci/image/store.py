"""Images that were laid out on disk, each once, by the digest of its content: what containers of any number of hosts then have as their root directory, read only.

``<cache>/<digest>/root`` are its files, ``about.json`` beside it what else is known of it. An image appears under its name when it is whole, and is never changed: removing
the directory of one that no container uses is all that there is to cleaning up.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.launch.oci.image.errors import BadImage
from blackhole_core.executor.launch.oci.image.inside import find_program
from blackhole_core.executor.launch.oci.image.layout import Image, Source, open_source, read_image
from blackhole_core.executor.launch.oci.image.suppliers import find_image
from blackhole_core.executor.launch.oci.image.unpack import unpack
from blackhole_core.manifest.images import LAYOUT

__all__ = ["ImageStore", "Unpacked", "images_directory"]

_ABOUT: Final = "about.json"
_MODE: Final = 0o700
#: What a Python is called, the most exact name last: ``python`` may be of version 2.
_PYTHONS: Final = ("python3", "python")


@attrs.frozen
class Unpacked:
    """An image on disk: ``about`` is a file beside its ``root`` that nobody in a container can read, ``python`` the path of its interpreter in there."""

    id: str
    root: Path
    about: Path
    environment: Mapping[str, str] = attrs.field(hash=False)
    python: str


def images_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Return where images are kept by the XDG rule; a user without a home has a directory of their own among the temporary files."""
    cache, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    if cache.startswith("/"):
        return Path(cache, "blackhole/images")
    if home.startswith("/"):
        return Path(home, ".cache/blackhole/images")
    return Path(tempfile.gettempdir(), f"blackhole-{uid}", "images")


@attrs.frozen
class ImageStore:
    """The images below ``directory``; ``progress`` hears in words what is being done."""

    directory: Path
    progress: Callable[[str], object] = lambda said: None

    def get(self, reference: str, path: str | None) -> Unpacked:
        """Return the image that ``reference`` names, laid out; ``path`` is where programs are looked for that could have it.

        :raises BadImage: it cannot be had, or no plugin can run in it.
        :raises OSError: there is no room for it.
        """
        if reference.startswith(LAYOUT):
            return self._from_layout(reference)
        supplier, image = find_image(reference, path)
        if (known := self._known(image)) is not None:
            return known
        with self._locked(image) as scratch:
            if (known := self._known(image)) is None:
                self.progress(f"{supplier.name} writes image {reference}")
                supplier.save(image, scratch / "saved")
                with open_source(scratch / "saved") as source:
                    known = self._unpack(source, read_image(source), scratch, image)
            return known

    def _from_layout(self, reference: str) -> Unpacked:
        where, tag = _path_and_tag(reference.removeprefix(LAYOUT))
        with open_source(where) as source:
            image = read_image(source, tag)
            if (known := self._known(image.id)) is not None:
                return known
            with self._locked(image.id) as scratch:
                return self._known(image.id) or self._unpack(source, image, scratch, image.id)

    def _known(self, image: str) -> Unpacked | None:
        about = self.directory / image / _ABOUT
        try:
            found = json.loads(about.read_bytes())
        except FileNotFoundError:
            return None
        return Unpacked(image, about.parent / "root", about, found["environment"], found["python"])

    def _unpack(self, source: Source, image: Image, scratch: Path, name: str) -> Unpacked:
        """Lay it out beside, and put it into place."""
        made = scratch / "made"
        (made / "root").mkdir(parents=True, mode=0o755)
        unpack(source, image, made / "root", progress=lambda said: self.progress(f"image {name[:12]}: {said}"))
        python = find_program(made / "root", _PYTHONS, image.environment.get("PATH"))
        if python is None:
            raise BadImage("there is no python3 on its PATH, and a plugin needs Python 3.11 or later in there")
        (made / _ABOUT).write_text(json.dumps({"environment": dict(image.environment), "python": python}), "utf-8")
        made.rename(self.directory / name)
        self.progress(f"image {name[:12]}: ready")
        known = self._known(name)
        assert known is not None
        return known

    @contextlib.contextmanager
    def _locked(self, image: str) -> Iterator[Path]:
        """Be the only one to make ``image``, with a directory to do it in, which is removed; so is one that a killed host left."""
        self.directory.mkdir(_MODE, parents=True, exist_ok=True)
        found = os.lstat(self.directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"others than user {os.geteuid()} could write to {self.directory}; change that, or set XDG_CACHE_HOME")
        scratch = self.directory / f"{image}.making"
        with (self.directory / f"{image}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(_MODE)
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _path_and_tag(text: str) -> tuple[Path, str]:
    """Return what is before the last colon, and behind it; a path may have colons itself."""
    if Path(text).exists() or ":" not in text.rpartition("/")[2]:
        return Path(text), ""
    where, _, tag = text.rpartition(":")
    return Path(where), tag
