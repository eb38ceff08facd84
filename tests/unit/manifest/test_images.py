"""How images are named."""

from __future__ import annotations

import pytest

from blackhole_core.manifest.images import reference_problem, stored_problem

_DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "name",
    ["python", "python:3.11-slim", "docker.io/library/python", "localhost/a_b/c__d:1", "host.example:5000/tools", f"python@{_DIGEST}", f"a/b:1@{_DIGEST}", "0a" * 32],
)  # fmt: skip
def test_references(name: str) -> None:
    """As podman and docker take them, with a digest or without; they may be named by who makes a plugin."""
    assert stored_problem(name) is None
    assert reference_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "Tools", "-rm", "--help", "a b", "a:", "a@sha256:12", "../a", "a//", "a:1:2", "http://a/b", "a" * 600]
)
def test_references_that_are_none(name: str) -> None:
    """What could be an option of a program is one of them."""
    assert stored_problem(name) is not None
    assert reference_problem(name) is not None


def test_a_path_is_for_the_host_s_configuration_alone() -> None:
    """Else a plugin could have files of its host as its own; and it is absolute, whatever directory the host is started in."""
    assert reference_problem("oci:/srv/images/tools:1") is None
    assert reference_problem("oci:tools") == "; after oci: comes an absolute path"
    assert stored_problem("oci:/srv/images/tools") == "; only the host's configuration can name an image by its path"
