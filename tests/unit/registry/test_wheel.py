"""A wheel is looked through before anything of it is unpacked; one that is not what it says is refused."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackhole_core.errors import SourceError
from blackhole_core.registry import wheel as rules
from blackhole_core.registry.wheel import inspect_wheel
from tests.unit.registry.wheels import WheelMaker, plain_member, plugin_wheel, record_hash


def reason(path: Path) -> str:
    with pytest.raises(SourceError) as caught, path.open("rb") as file:
        inspect_wheel(path.name, file)
    assert path.name in str(caught.value)
    assert "nothing was unpacked" in str(caught.value)
    return str(caught.value)


def broken(tmp_path: Path, change: Callable[[WheelMaker], object]) -> str:
    maker = plugin_wheel()
    change(maker)
    return reason(maker.write(tmp_path))


def with_member(tmp_path: Path, member: zipfile.ZipInfo | str, data: bytes = b"") -> str:
    path = plugin_wheel().write(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, data)
    return reason(path)


def test_a_sound_wheel(tmp_path: Path) -> None:
    """A wheel as build tools make it is taken: name canonical, every file with its hash."""
    maker = WheelMaker("My.Plugin", "1.0", {"my_plugin/__init__.py": b"x = 1\n"})
    path = maker.write(tmp_path).rename(tmp_path / "My.Plugin-1.0-py3-none-any.whl")
    with path.open("rb") as file:
        found = inspect_wheel(path.name, file)
    assert (found.name, found.version) == ("my-plugin", "1.0")
    assert "my_plugin/__init__.py" in [part.name for part in found.parts]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.py", "outside of its directory"),
        ("upper/../../evil.py", "outside of its directory"),
        ("/etc/evil.py", "outside of its directory"),
        ("upper//evil.py", "outside of its directory"),
        ("./evil.py", "outside of its directory"),
        ("C:/evil.py", "outside of its directory"),
        ("upper\\evil.py", "backslash"),
        ("upper/ev\x00il.py", "control character"),
        ("upper/\x1b[2J.py", "control character"),
        ("upper/\u202eyp.live", "control character"),
        ("Upper/__init__.py", "one name on some file systems"),
        ("upper/PLUGIN.yaml", "one name on some file systems"),
        ("upper/__init__.py/x.py", "both a file and a directory"),
        ("upper/" + "a" * 256 + ".py", "too long"),
        ("a/" * 600 + "x.py", "too long"),
    ],
)
def test_names_of_members(tmp_path: Path, name: str, why: str) -> None:
    """A55: a member that would land elsewhere, or on another one, is refused."""
    member = plain_member("placeholder")
    member.filename = member.orig_filename = name
    maker = plugin_wheel()
    maker.files["placeholder"] = b""
    path = maker.write(tmp_path)
    rewrite(path, {"placeholder": name})
    assert why in reason(path)


def rewrite(path: Path, names: dict[str, str]) -> None:
    """Write the archive again with other member names, also such as zipfile itself would clean up."""
    with zipfile.ZipFile(path) as old:
        content = [(names.get(item.filename, item.filename), old.read(item)) for item in old.infolist()]
    record = next(name for name, _ in content if name.endswith("/RECORD"))
    listed = "".join(f'"{name}",{record_hash(data)},{len(data)}\n' for name, data in content if name != record) + f"{record},,\n"
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content:
            member = plain_member("x")
            member.filename = member.orig_filename = name
            new.writestr(member, listed.encode() if name == record else data)


def test_unicode_twins(tmp_path: Path) -> None:
    """A55: two spellings of one accented name (NFC and NFD) are one file on some systems."""
    assert "one name on some file systems" in broken(
        tmp_path, lambda maker: maker.files.update({"upper/é.txt": b"", "upper/e\u0301.txt": b""})
    )


@pytest.mark.parametrize(
    ("mode", "kind"), [(0o120777, "symlink"), (0o060644, "block device"), (0o020644, "device"), (0o010644, "fifo"), (0o040755, "dir")]
)
def test_members_that_are_no_files(tmp_path: Path, mode: int, kind: str) -> None:
    """A55: links, devices and pipes are refused, whatever they are called."""
    assert "link or device" in with_member(tmp_path, plain_member("upper/thing", mode), b"/etc/passwd")


def test_encrypted(tmp_path: Path) -> None:
    """A55: an encrypted member is refused."""
    path = plugin_wheel().write(tmp_path)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in reason(path)


def test_other_compression(tmp_path: Path) -> None:
    """Only what the wheel specification's tools write is unpacked."""
    member = plain_member("upper/x.txt")
    member.compress_type = zipfile.ZIP_LZMA
    assert "wheels use deflate" in with_member(tmp_path, member, b"x" * 100)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"trailing",
        lambda data: b"leading" + data,
        lambda data: data + data,
        lambda data: data[:-30],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"not a zip at all, but long enough to look at",
        lambda data: data[:-2] + struct.pack("<H", 4) + b"note",
    ],
    ids=["trailing", "leading", "two archives", "cut", "half", "empty", "text", "comment"],
)
def test_the_file_is_one_archive(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """A50, A55, W-03: bytes before or behind, a second directory, a truncated download: refused."""
    path = plugin_wheel().write(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    reason(path)


def test_two_directories(tmp_path: Path) -> None:
    """A55: an archive whose zip64 record leads to another directory than its plain one is refused: two readers would see two archives."""
    path = plugin_wheel().write(tmp_path)
    data = path.read_bytes()
    hidden = io.BytesIO()
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr(plain_member("evil.py"), "")
    body, end = data[:-22], data[-22:]
    _, _, _, _, _, length, offset, _ = struct.unpack("<4s4H2LH", end)
    other = hidden.getvalue()
    other_offset, other_length = struct.unpack("<2L", other[-10:-2])[::-1]
    inner = other[other_offset : other_offset + other_length]
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(inner), offset + length)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset + length + len(inner), 1)
    whole = length + len(inner) + len(record) + len(locator)
    path.write_bytes(body + inner + record + locator + end[:12] + struct.pack("<L", whole) + end[16:])
    assert "two zip directories" in reason(path)


def test_overlapping_members(tmp_path: Path) -> None:
    """A56: members that share their bytes, as in the densest zip bombs, are refused."""
    path = plugin_wheel().write(tmp_path)
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # its local header's offset
    path.write_bytes(data)
    assert "on top of another" in reason(path)


def test_bomb(tmp_path: Path) -> None:
    """A56: a member that grows a thousandfold is refused before it is unpacked."""
    assert "200-fold" in broken(tmp_path, lambda maker: maker.files.update({"upper/zeros": b"\0" * 10_000_000}))


def test_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A56: the number of members, their total size and the file's size are capped."""
    path = plugin_wheel().write(tmp_path)
    for limit, value, why in [("MAX_MEMBERS", 3, "members"), ("MAX_UNPACKED", 100, "bytes unpacked"), ("MAX_WHEEL", 100, "at most 100")]:
        with monkeypatch.context() as patch:
            patch.setattr(rules, limit, value)
            assert why in reason(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda maker: setattr(maker, "record", ""), "RECORD does not list"),
        (lambda maker: setattr(maker, "record", "upper/gone.py,sha256=aa,1\n"), "which it does not hold"),
        (lambda maker: maker.unlisted.update({"upper/extra.py": b"evil"}), "RECORD does not list 'upper/extra.py'"),
        (lambda maker: setattr(maker, "record", "upper/__init__.py,,\n"), "no sha256"),
        (lambda maker: setattr(maker, "record", "upper/__init__.py,md5=aaaa,\n"), "no sha256"),
        (lambda maker: setattr(maker, "record", "upper/__init__.py,sha256=aa,\nupper/__init__.py,sha256=aa,\n"), "twice"),
        (lambda maker: setattr(maker, "metadata_name", "lower"), "its METADATA says lower 1.0.0"),
        (lambda maker: setattr(maker, "metadata_version", "2.0"), "its METADATA says upper 2.0"),
        (lambda maker: setattr(maker, "requires_python", ">=99"), "it needs Python >=99"),
        (lambda maker: maker.files.update({"other-1.0.dist-info/METADATA": b""}), "one .dist-info directory"),
        (lambda maker: maker.files.update({"upper.pth": b"import os"}), "run code in every start"),
        (lambda maker: maker.files.update({f"{maker.info[:-10]}.data/purelib/a.pth": b"import os"}), "run code in every start"),
        (lambda maker: maker.files.update({"json.py": b""}), "'json' belongs to Python"),
        (lambda maker: maker.files.update({"os/__init__.py": b""}), "'os' belongs to Python"),
        (lambda maker: maker.files.update({"sitecustomize.py": b""}), "belongs to Python"),
        (lambda maker: maker.files.update({"blackhole_core/x.py": b""}), "belongs to Python or to Blackhole"),
        (lambda maker: maker.files.update({"bin/python": b""}), "belongs to Python"),
        (lambda maker: maker.files.update({"pyvenv.cfg": b""}), "belongs to Python"),
        (lambda maker: maker.files.update({f"{maker.info[:-10]}.data/platlib/upper/__init__.py": b""}), "unpacked to one place"),
    ],
)
def test_content(tmp_path: Path, change: Callable[[WheelMaker], object], why: str) -> None:
    """A57, A58: RECORD lists exactly what is there, metadata and file name agree, nothing reaches beyond the plugin."""
    assert why in broken(tmp_path, change)


@pytest.mark.parametrize(
    ("filename", "why"),
    [
        ("upper-1.0.0.tar.gz", "build a wheel of it first"),
        ("upper-1.0.0.zip", "build a wheel of it first"),
        ("upper.whl", "not the file name of a wheel"),
        ("lower-1.0.0-py3-none-any.whl", "its METADATA says upper 1.0.0"),
        ("upper-1.0.1-py3-none-any.whl", "its METADATA says upper 1.0.0"),
        ("upper-1.0.0-cp27-cp27m-win32.whl", "does not fit this interpreter"),
    ],
)
def test_file_names(tmp_path: Path, filename: str, why: str) -> None:
    """A57, A59: a source distribution, a foreign platform, a file that was renamed: each has its sentence."""
    assert why in reason(plugin_wheel().write(tmp_path).rename(tmp_path / filename))


def test_data_parts(tmp_path: Path) -> None:
    """Of a ``.data`` directory purelib and platlib are merged; scripts are left out."""
    maker = plugin_wheel()
    data = maker.info[:-10] + ".data"
    maker.files.update({f"{data}/platlib/upper/fast.py": b"", f"{data}/scripts/upper": b"#!python\n"})
    path = maker.write(tmp_path)
    with path.open("rb") as file:
        names = {part.name for part in inspect_wheel(path.name, file).parts}
    assert "upper/fast.py" in names
    assert not any("scripts" in name for name in names)


@settings(max_examples=150)
@given(st.data())
def test_any_damage_is_a_source_error(data: st.DataObject) -> None:
    """A50: whichever byte of a wheel is flipped or lost, it is either taken as it was or refused with a SourceError, nothing else."""
    whole = _WHOLE
    position = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(0, 255))
    damaged = whole[:position] + (b"" if flip == 0 else bytes([whole[position] ^ flip])) + whole[position + 1 :]
    try:
        inspect_wheel("upper-1.0.0-py3-none-any.whl", io.BytesIO(damaged))
    except SourceError as error:
        assert "nothing was unpacked" in str(error)  # noqa: PT017 - either outcome is right


def _whole() -> bytes:
    maker = plugin_wheel()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in maker.members().items():
            archive.writestr(plain_member(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


_WHOLE = _whole()


def test_python_is_named(tmp_path: Path) -> None:
    """The sentence about another interpreter names the running one."""
    assert f"cp{sys.version_info[0]}{sys.version_info[1]}" in reason(
        plugin_wheel().write(tmp_path).rename(tmp_path / "upper-1.0.0-cp27-cp27m-win32.whl")
    )
