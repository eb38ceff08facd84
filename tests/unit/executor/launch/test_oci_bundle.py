"""What a container is told to be: rights, mounts and their order, as values."""

from __future__ import annotations

from typing import Any

import attrs

from blackhole_core.executor.launch.oci.binds import binds_of, devices_of
from blackhole_core.executor.launch.oci.bundle import Bind, Box, Device, config
from blackhole_core.executor.launch.packages import install_command
from blackhole_core.executor.wire.policy import Place

BOX = Box("/bundle/root", ("/usr/bin/python3",), {"LANG": "C"}, (Bind("/usr", "/usr"),))


def _mounts(*binds: Bind) -> list[tuple[str, str, str]]:
    made = config(attrs.evolve(BOX, binds=binds))["mounts"]
    return [
        (mount["source"], mount["destination"], "rw" if "rw" in mount["options"] else "ro") for mount in made if mount["type"] == "bind"
    ]


def test_no_rights() -> None:
    """No capability in any set, no new privileges, a root and system that cannot be written to."""
    made = config(BOX)
    process = made["process"]
    assert set(process["capabilities"]) == {"bounding", "effective", "permitted", "inheritable", "ambient"}
    assert not any(process["capabilities"].values())
    assert process["noNewPrivileges"] is True
    assert made["root"]["readonly"] is True
    assert {"rro", "rnosuid", "rnodev"} <= set(next(m for m in made["mounts"] if m["destination"] == "/usr")["options"])


def test_namespaces_of_its_own() -> None:
    """All six; one of users as well where the host is no superuser, who is user 0 there and the only one."""
    kinds = {"pid", "ipc", "uts", "mount", "network", "cgroup"}
    linux = config(BOX)["linux"]
    assert {space["type"] for space in linux["namespaces"]} == kinds
    assert not any("path" in space for space in linux["namespaces"])
    linux = config(attrs.evolve(BOX, rootless=(1000, 100)))["linux"]
    assert {space["type"] for space in linux["namespaces"]} == kinds | {"user"}
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 100, "size": 1}]


def test_every_file_system_in_memory_has_an_end() -> None:
    """None of them could fill the machine's memory, and none makes a set-user-id program of a file."""
    in_memory = [mount for mount in config(BOX)["mounts"] if mount["type"] == "tmpfs"]
    assert {mount["destination"] for mount in in_memory} == {"/dev", "/dev/shm", "/tmp"}
    for mount in in_memory:
        assert "nosuid" in mount["options"]
        assert any(option.startswith("size=") for option in mount["options"])


def test_outer_directories_are_mounted_first() -> None:
    """Or the outer one would hide the inner."""
    binds = (Bind("/a/b/c", "/a/b/c"), Bind("/x", "/tmp/x/y"), Bind("/a", "/a", write=True), Bind("/b", "/ab"))
    assert _mounts(*binds) == [("/a", "/a", "rw"), ("/b", "/ab", "ro"), ("/a/b/c", "/a/b/c", "ro"), ("/x", "/tmp/x/y", "ro")]


def test_places_as_mounts() -> None:
    """Each under its own spelling; no device, which the engine makes, and nothing of the machine."""
    one = Place(b"/real", b"/spelled", write=True)
    assert list(binds_of((one, Place(b"/dev/dri", b"/dev/dri", device=True)))) == [Bind("/real", "/spelled", write=True, file=True)]
    assert list(binds_of((Place(b"/sys", b"/sys"), Place(b"/usr", b"/usr")))) == [Bind("/usr", "/usr")]


def test_the_filter_denies_by_number_only_what_every_kernel_denies_alike() -> None:
    """Each rule names an error; nothing is on two lists with different answers."""
    profile: dict[str, Any] = config(BOX)["linux"]["seccomp"]
    unconditional = [name for rule in profile["syscalls"] if not rule["args"] for name in rule["names"]]
    assert len(unconditional) == len(set(unconditional))
    assert {"mount", "unshare", "ptrace", "socket", "bpf", "io_uring_setup", "clone3"} <= set(unconditional)
    assert "execve" not in unconditional  # the engine itself has yet to execute the interpreter
    assert all(rule["errnoRet"] > 0 for rule in profile["syscalls"])


def test_what_to_type_to_install_something() -> None:
    """By the distribution, or what that is like; in words where it is not known."""
    assert install_command("runc", release={"ID": "debian"}) == "apt-get install runc"
    assert install_command("runc", release={"ID": "mint", "ID_LIKE": "ubuntu debian"}) == "apt-get install runc"
    assert install_command("a", "b", release={"ID": "rocky", "ID_LIKE": "rhel centos fedora"}) == "dnf install a b"
    assert install_command("runc", release={"ID": "own"}) == "install runc"
    for system, command in (("fedora", "dnf install"), ("alpine", "apk add"), ("arch", "pacman -S"), ("ubuntu", "apt-get install")):
        assert install_command("runc", release={"ID": system}) == f"{command} runc"
        assert install_command("podman", release={"ID": system}) == f"{command} podman"
    assert install_command("docker", release={"ID": "debian"}) == "apt-get install docker.io"
    assert install_command("docker", release={"ID": "fedora"}) == "dnf install moby-engine"
    assert install_command("runsc", release={"ID": "debian"}) == "apt-get install runsc"
    assert install_command("runsc", release={"ID": "fedora"}) == "install runsc"  # it has no such package


def test_a_device_is_made_and_may_be_used() -> None:
    """By its numbers, under the spelling that was granted, also in a directory of them; every other one stays forbidden."""
    null = Device("/dev/own/null", "c", 1, 3, 0o666)
    linux = config(attrs.evolve(BOX, devices=(null,)))["linux"]
    assert linux["devices"] == [{"path": "/dev/own/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0}]
    assert linux["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
    ]
    assert list(devices_of([Place(b"/dev/null", b"/dev/own/null", device=True), Place(b"/dev/zero", b"/dev/zero")])) == [null]
    found = {device.path for device in devices_of([Place(b"/dev", b"/dev/all", device=True)])}
    assert {"/dev/all/null", "/dev/all/full"} <= found
