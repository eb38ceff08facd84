"""What a kernel starts from."""

from __future__ import annotations

import subprocess
from pathlib import Path

from blackhole_core.executor.guest.initramfs import Plan, base_archive, plan_archive


def _plan(**changes: object) -> Plan:
    return Plan(**{"command": ("/bin/python", "-c", "print('a b')"), "layers": 2, "disks": 3, **changes})  # type: ignore[arg-type]  # a test may give anything


def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    """The programs that everybody has take it for an archive, with the modules in their order."""
    archive = base_archive(b"busybox!", [("second", b"2" * 5), ("first", b"1")])
    listed = subprocess.run(["cpio", "-itv"], input=archive, capture_output=True, check=True, timeout=20).stdout.decode()
    assert "-rwxr-xr-x" in next(line for line in listed.splitlines() if line.endswith(" init"))
    subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=tmp_path, check=True, timeout=20)
    assert (tmp_path / "modules/order").read_text() == "second\nfirst\n"
    assert (tmp_path / "modules/second.ko").read_bytes() == b"2" * 5
    assert (tmp_path / "bin/busybox").read_bytes() == b"busybox!"


def test_parts_can_stand_one_behind_the_other() -> None:
    """The kernel wants each archive to begin at a multiple of four bytes."""
    assert len(base_archive(b"x", [("m", b"123")])) % 4 == 0
    assert len(plan_archive(_plan().text())) % 4 == 0


def test_the_same_parts_are_the_same_bytes() -> None:
    """Nothing of the time or the machine is in it."""
    assert base_archive(b"b", [("m", b"1")]) == base_archive(b"b", [("m", b"1")])


def test_a_plan_is_read_by_a_shell_as_it_was_meant() -> None:
    """Quotes, blanks and what a shell would expand arrive as they are."""
    text = _plan(command=("/bin/python", "$(touch /x) `id` 'q'", "")).text()
    script = f'b=echo\n{text}\n(run); echo "$disks/$last_disk"'
    said = subprocess.run(["busybox", "sh", "-c", script], capture_output=True, text=True, check=True, timeout=20).stdout
    assert said == "setsid echo env -i LC_CTYPE=C.UTF-8 echo chroot /sysroot /bin/python $(touch /x) `id` 'q' \nvda vdb/vdc\n"


def test_the_first_program_is_a_shell_script_without_mistakes(tmp_path: Path) -> None:
    """A mistake in it would hang every guest."""
    subprocess.run(["cpio", "-id", "--quiet", "init"], input=base_archive(b"", []), cwd=tmp_path, check=True, timeout=20)
    subprocess.run(["busybox", "sh", "-n", str(tmp_path / "init")], check=True, timeout=20)
