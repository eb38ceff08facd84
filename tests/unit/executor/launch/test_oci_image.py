"""Images: what is read of one, and how its files come to lie on disk, also when a stranger made it."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from blackhole_core.executor.launch.oci.bundle import Bind
from blackhole_core.executor.launch.oci.image.errors import BadImage
from blackhole_core.executor.launch.oci.image.inside import find_program, is_there, resolve
from blackhole_core.executor.launch.oci.image.layout import open_source, read_image
from blackhole_core.executor.launch.oci.image.root import lay_out
from blackhole_core.executor.launch.oci.image.store import ImageStore, images_directory
from blackhole_core.executor.launch.oci.image.suppliers import find_image, suppliers_here
from blackhole_core.executor.launch.oci.image.unpack import unpack
from tests.images import archive, write_layout, write_saved


def _info(name: str, kind: bytes, target: str = "", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info, b""


def _link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return _info(name, tarfile.SYMTYPE, target)


def _program(name: str = "usr/bin/python3") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode, info.size = 0o4755, 2
    return info, b"#!"


def _unpack(directory: Path, *layers: bytes, **limits: int) -> Path:
    write_layout(directory / "layout", layers)
    root = directory / "root"
    root.mkdir()
    with open_source(directory / "layout") as source:
        unpack(source, read_image(source), root, **limits)  # type: ignore[arg-type]  # a test may give anything
    return root


def _tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# --- what an image says ------------------------------------------------------------------------------------------------


def test_a_layout_and_what_docker_saves_are_read_alike(tmp_path: Path) -> None:
    """The same configuration is the same image, whatever it lies in: a directory, a tar archive of it, or docker's own form."""
    layer = archive(("file", b"content"))
    write_layout(tmp_path / "layout", [layer], environment=["PATH=/usr/bin", "EMPTY="])
    with tarfile.open(tmp_path / "layout.tar", "w") as tar:
        tar.add(tmp_path / "layout", ".")
    write_saved(tmp_path / "saved.tar", [layer], "tools:1", ["PATH=/usr/bin", "EMPTY="])
    images = []
    for name in ("layout", "layout.tar", "saved.tar"):
        with open_source(tmp_path / name) as source:
            images.append(read_image(source))
    assert len({image.id for image in images}) == 1
    assert [dict(image.environment) for image in images] == [{"PATH": "/usr/bin", "EMPTY": ""}] * 3


def test_one_of_several_is_chosen_by_its_tag(tmp_path: Path) -> None:
    """Without a tag the choice is nobody's to guess; the tags are named."""
    write_layout(tmp_path, [archive(("one", b""))], tag="1")
    write_layout(tmp_path, [archive(("two", b""))], tag="2")
    with open_source(tmp_path) as source:
        assert read_image(source, "1") != read_image(source, "2")
        with pytest.raises(BadImage, match="names 2 images for linux on .*; there are 1, 2"):
            read_image(source)
        with pytest.raises(BadImage, match="names 0 images called '3'"):
            read_image(source, "3")


def _damage_manifest(directory: Path) -> None:
    digest = json.loads((directory / "index.json").read_bytes())["manifests"][0]["digest"].removeprefix("sha256:")
    blob = directory / "blobs" / "sha256" / digest
    blob.write_bytes(blob.read_bytes() + b" ")


def _name_by_path(directory: Path) -> None:
    (directory / "index.json").write_text('{"manifests": [{"digest": "../../../etc/passwd"}]}')


def _be_nothing(directory: Path) -> None:
    (directory / "index.json").unlink()


def _be_no_json(directory: Path) -> None:
    (directory / "index.json").write_text("[" * 100_000)


def _be_too_long(directory: Path) -> None:
    (directory / "index.json").write_text(" " * (5 << 20))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_damage_manifest, "is damaged"),
        (_name_by_path, "no sha256 digest"),
        (_be_nothing, "neither index.json"),
        (_be_no_json, "not JSON as it should be"),
        (_be_too_long, "more than 4194304 bytes"),
    ],
)
def test_what_is_no_image_is_refused(harm: Callable[[Path], None], complaint: str, tmp_path: Path) -> None:
    """Each with what is wrong: nothing is read that was not named by its digest."""
    write_layout(tmp_path, [archive()])
    harm(tmp_path)
    with open_source(tmp_path) as source, pytest.raises(BadImage, match=complaint):
        read_image(source)


def test_an_image_of_another_machine_is_refused(tmp_path: Path) -> None:
    """Before anything of it is laid out."""
    write_layout(tmp_path, [archive()], machine="mips")
    with open_source(tmp_path) as source, pytest.raises(BadImage, match="it is for linux on mips, and this is linux on "):
        read_image(source)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    """And one that is not there."""
    (tmp_path / "file").write_text("text")
    for name, complaint in (("file", "no directory and no tar archive"), ("none", "No such file")):
        with pytest.raises(BadImage, match=complaint), open_source(tmp_path / name):
            pass


# --- layers ------------------------------------------------------------------------------------------------------------


def test_layers_lie_one_over_the_other(tmp_path: Path) -> None:
    """A later file replaces an earlier one; what a layer says is gone, is; what it hides of a directory are the layers below, never itself."""
    root = _unpack(
        tmp_path,
        archive(
            ("etc/kept", b"1"), ("etc/gone", b"1"), ("all/below", b"1"), ("all/sub/below", b"1"), ("turns", b"1"), _link("bin", "usr/bin")
        ),
        archive(
            ("etc/kept", b"2"),
            ("etc/.wh.gone", b""),
            ("all/own", b"2"),
            ("all/.wh..wh..opq", b""),
            ("turns/into", b"2"),
            ("bin/tool", b"2"),
        ),
    )
    assert _tree(root) == ["all", "all/own", "bin", "etc", "etc/kept", "turns", "turns/into", "usr", "usr/bin", "usr/bin/tool"]
    assert (root / "etc" / "kept").read_bytes() == b"2"


def test_a_compressed_layer(tmp_path: Path) -> None:
    """By gzip; what Python cannot read is refused by its name."""
    layer = archive(("file", b"content"))
    write_layout(tmp_path / "gzip", [layer], stored=[gzip.compress(layer)])
    write_layout(tmp_path / "zstd", [layer], stored=[b"\x28\xb5\x2f\xfd" + layer])
    (tmp_path / "root").mkdir()
    with open_source(tmp_path / "gzip") as source:
        unpack(source, read_image(source), tmp_path / "root")
    assert (tmp_path / "root" / "file").read_bytes() == b"content"
    write_layout(tmp_path / "cut", [layer], stored=[gzip.compress(layer)[:20]])
    write_layout(tmp_path / "none", [layer], stored=[b"\x1f\x8b" + layer])
    for name, complaint in (("zstd", "zstd"), ("cut", "is damaged"), ("none", "is damaged")):
        with open_source(tmp_path / name) as source, pytest.raises(BadImage, match=complaint):
            unpack(source, read_image(source), tmp_path / "root")


def test_a_link_leads_nowhere_but_inside(tmp_path: Path) -> None:
    """Neither a file, nor a directory, nor a hard link comes to lie where a link of an earlier entry leads on this machine."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    up = "../" * 40
    root = _unpack(
        tmp_path,
        archive(
            _link("absolute", str(outside)),
            _link("relative", f"{up}{outside}"[:-1]),
            _link("name", f"{outside}/secret"),
            ("absolute/one", b"1"),
            ("name", b"2"),
        ),
        archive(("relative/two", b"1"), _info("absolute/directory", tarfile.DIRTYPE)),
    )
    assert _tree(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert (root / str(outside)[1:] / "one").read_bytes() == b"1"
    assert (root / "name").read_bytes() == b"2"
    assert not (root / "name").is_symlink()


@pytest.mark.parametrize("name", ["../out", "a/../../out", ".wh..", ".wh..."])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    """As a file, and as one that removes another."""
    (tmp_path / "kept").write_text("")
    with pytest.raises(BadImage, match="which (leads out of it|removes what it is in)"):
        _unpack(tmp_path, archive((name, b"")))
    assert (tmp_path / "kept").exists()


def test_a_hard_link_to_a_file_of_this_machine_is_refused(tmp_path: Path) -> None:
    """Named directly, or through a link."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with pytest.raises(BadImage, match="which is no file in it"):
        _unpack(tmp_path, archive(_link("link", str(secret)), _info("hard", tarfile.LNKTYPE, "link")))


def test_what_acts_for_others_is_dropped(tmp_path: Path) -> None:
    """Set-user-id bits, devices and pipes; all of it belongs to this user, who can read it."""
    root = _unpack(
        tmp_path,
        archive(
            _program(),
            _info("null", tarfile.CHRTYPE),
            _info("disk", tarfile.BLKTYPE),
            _info("pipe", tarfile.FIFOTYPE),
            _info("x", tarfile.REGTYPE, mode=0),
        ),
    )
    assert _tree(root) == ["usr", "usr/bin", "usr/bin/python3", "x"]
    status = (root / "usr" / "bin" / "python3").stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o755, os.geteuid())
    assert (root / "x").read_bytes() == b""


def _sparse(size: int) -> bytes:
    """A file of so many bytes, of which the archive holds none."""
    info = tarfile.TarInfo("sparse")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": str(size)}
    return archive((info, b"1\n%d\n0\n".ljust(512, b"\0") % size))


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (archive(("large", bytes(3 << 20))), "more than 2 MB unpacked"),
        (_sparse(3 << 20), "more than 2 MB unpacked"),
        (archive() + bytes(3 << 20), "more than 2 MB unpacked"),
        (archive(*((str(number), b"") for number in range(101))), "more than 100 files"),
        (archive(("file", bytes(5000)))[:2000], "damaged"),
        (b"no archive at all".ljust(1024), "damaged"),
    ],
)
def test_a_layer_without_measure_or_end_is_refused(layer: bytes, complaint: str, tmp_path: Path) -> None:
    """However it hides what it takes: many files, holes, what follows the archive."""
    with pytest.raises(BadImage, match=complaint):
        _unpack(tmp_path, layer, most_bytes=2 << 20, most_entries=100)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_without_end_is_refused_before_it_is_read(kind: bytes, tmp_path: Path) -> None:
    """Names and other properties are taken into memory whole, and an archive may say that they have any size."""
    header = tarfile.TarInfo("much")
    header.type, header.size = kind, 2**30
    layer = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**26))
    tracemalloc.start()
    try:
        with pytest.raises(BadImage, match="has more than 1 MB of properties"):
            _unpack(tmp_path, layer)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_layer_that_is_not_the_one_that_was_named_is_refused(tmp_path: Path) -> None:
    """Its digest is known when all of it was read, and before anything of it is used."""
    write_layout(tmp_path / "layout", [archive(("file", b"1"))], stored=[archive(("file", b"2"))])
    (tmp_path / "root").mkdir()
    with open_source(tmp_path / "layout") as source, pytest.raises(BadImage, match="layer 1 of it is damaged: it has the digest sha256"):
        unpack(source, read_image(source), tmp_path / "root")


# --- paths in there ----------------------------------------------------------------------------------------------------


def test_a_path_is_followed_as_it_would_be_in_there(tmp_path: Path) -> None:
    """Absolute links begin at the root of the image, ``..`` ends there, a circle is an error."""
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("/usr/bin")
    (tmp_path / "usr" / "bin" / "sh").symlink_to("../../../../../bin/dash")
    (tmp_path / "round").symlink_to("round")
    assert resolve(tmp_path, "/bin/sh") == tmp_path / "usr" / "bin" / "dash"
    assert resolve(tmp_path, "/../../none/../bin") == tmp_path / "usr" / "bin"
    with pytest.raises(OSError, match="more than 40 links"):
        resolve(tmp_path, "/round")
    assert not is_there(tmp_path, "/bin", file=False)
    assert is_there(tmp_path, "/usr/bin", file=False)
    assert not is_there(tmp_path, "/usr/bin", file=True)


def test_the_interpreter_is_looked_for_where_the_image_says(tmp_path: Path) -> None:
    """On its own PATH, through its own links; what cannot be executed is no program."""
    for name in ("usr/bin/python3.11", "opt/python3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(0o755)
    (tmp_path / "usr" / "bin" / "python3").symlink_to("/usr/bin/python3.11")
    assert find_program(tmp_path, ("python3",), None) == "/usr/bin/python3"
    assert find_program(tmp_path, ("python3",), "/opt:/usr/bin") == "/opt/python3"
    (tmp_path / "opt" / "python3").chmod(0o644)
    assert find_program(tmp_path, ("python3",), "/opt") is None


# --- the root directory of a container ---------------------------------------------------------------------------------


def test_an_image_is_taken_apart_where_something_is_mounted_in_it(tmp_path: Path) -> None:
    """What has a place for it is mounted as a whole; only where one would have to be made in the image is it not."""
    for name in ("srv/data", "srv/other", "usr/lib", "etc", "dev", "proc", "tmp", "sys", "var/cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc" / "passwd").touch()
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "srv" / "link").symlink_to("/etc")
    laid = lay_out(tmp_path, [Bind("/x", "/srv/new/place"), Bind("/y", "/etc/passwd", file=True), Bind("/z", "/var/cache")], "/tmp")
    assert sorted(bind.target for bind in laid.binds) == ["/etc", "/srv/data", "/srv/other", "/usr", "/var"]
    assert not any(bind.write for bind in laid.binds)
    assert sorted(laid.links) == [("/bin", "usr/bin"), ("/srv/link", "/etc")]
    assert laid.directories == ("/srv",)


# --- what is kept ------------------------------------------------------------------------------------------------------


def test_an_image_is_laid_out_once(tmp_path: Path) -> None:
    """By any number of hosts at once; whoever comes later finds it, and what a killed host left of it is removed."""
    write_layout(tmp_path / "layout", [archive(_program())])
    said: list[str] = []
    store = ImageStore(tmp_path / "store", said.append)
    with open_source(tmp_path / "layout") as source:
        left = tmp_path / "store" / f"{read_image(source).id}.making" / "made"
    left.mkdir(parents=True)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(store.get(f"oci:{tmp_path}/layout", None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(found)) == 1
    assert len(found) == 4
    assert [words for words in said if words.endswith(": ready")] == [said[-1]]
    assert not left.exists()
    assert store.get(f"oci:{tmp_path}/layout:latest", None) == found[0]


def test_an_image_that_cannot_be_laid_out_leaves_nothing(tmp_path: Path) -> None:
    """One without Python is such a one; the next attempt says the same."""
    write_layout(tmp_path / "layout", [archive(("file", b""))])
    store = ImageStore(tmp_path / "store")
    for _ in range(2):
        with pytest.raises(BadImage, match="no python3 on its PATH"):
            store.get(f"oci:{tmp_path}/layout", None)
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """They could put an image there."""
    write_layout(tmp_path / "layout", [archive(_program())])
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o777)
    with pytest.raises(PermissionError, match="others than user"):
        ImageStore(tmp_path / "store").get(f"oci:{tmp_path}/layout", None)


def test_where_images_are_kept() -> None:
    """By the XDG rule."""
    assert images_directory({"XDG_CACHE_HOME": "/cache", "HOME": "/home/ada"}, 1) == Path("/cache/blackhole/images")
    assert images_directory({"HOME": "/home/ada"}, 1) == Path("/home/ada/.cache/blackhole/images")
    assert images_directory({}, 1).name == "images"


# --- who has it --------------------------------------------------------------------------------------------------------

_ID = "ab" * 32
#: Programs that answer as podman and docker do: with an id, that there is no such image, that nobody answers.
_HAS = f'case "$1 $2" in "image inspect") echo sha256:{_ID};; "save --output") cp "$SAVED" "$3";; esac'
_HAS_NOT = 'case "$1 $2" in "image inspect") echo "Error: no such image" >&2; exit 125;; esac'
_DEAF = 'echo "Cannot connect to the daemon" >&2; exit 1'


def _programs(directory: Path, **programs: str) -> str:
    for name, text in programs.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    return str(directory)


def test_the_first_program_that_has_an_image_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for it once; later it is known by its id."""
    write_saved(tmp_path / "saved", [archive(_program())], "tools:1")
    monkeypatch.setenv("SAVED", str(tmp_path / "saved"))
    (tmp_path / "bin").mkdir()
    path = _programs(tmp_path / "bin", podman=_HAS_NOT, docker=_HAS)
    store = ImageStore(tmp_path / "store")
    unpacked = store.get("tools:1", f"{path}:{os.environ['PATH']}")
    assert unpacked.id == _ID
    assert unpacked.python == "/usr/bin/python3"
    (tmp_path / "saved").unlink()
    assert store.get("tools:1", path) == unpacked


def test_who_has_no_image_says_what_to_do(tmp_path: Path) -> None:
    """Each program for itself: to fetch it is the operator's; a daemon that does not run is no missing image; and nobody may be there at all."""
    path = _programs(tmp_path, podman=_HAS_NOT, docker=_DEAF)
    with pytest.raises(BadImage) as caught:
        find_image("tools:1", path)
    assert str(caught.value) == "podman does not have it (`podman pull tools:1`); docker does not work here: Cannot connect to the daemon"
    assert [(found.name, found.problem()) for found in suppliers_here(path)] == [("podman", ""), ("docker", "Cannot connect to the daemon")]
    with pytest.raises(BadImage, match=r"neither podman nor docker is installed, who keep images \(.*install podman\)"):
        find_image("tools:1", "")


def test_an_image_that_cannot_be_written(tmp_path: Path) -> None:
    """What the program says is the reason."""
    path = _programs(tmp_path, podman=f'case "$1" in image) echo {_ID};; save) echo "no space left" >&2; exit 1;; esac')
    with pytest.raises(BadImage, match="podman cannot write it: no space left"):
        ImageStore(tmp_path / "store").get("tools:1", path)
