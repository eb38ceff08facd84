"""Turn what was read of a ``plugin.yaml`` into a :class:`~blackhole_core.manifest.model.Manifest`, or name everything that is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blackhole_core.errors import ManifestError
from blackhole_core.ids import canonical_name
from blackhole_core.manifest.fields import MANIFEST
from blackhole_core.manifest.kinds import Report
from blackhole_core.manifest.model import Manifest
from blackhole_core.manifest.permissions import canonical, permission_problem
from blackhole_core.manifest.yaml import Document, Node

__all__ = ["check_manifest"]


def check_manifest(document: Document) -> Manifest:
    """Return the manifest a document declares.

    Raises :class:`~blackhole_core.errors.ManifestError` with every problem at once, the reader's and those found here, in the order of lines.
    """
    report = Report(document.file)
    manifest = None
    if document.root is not None:
        manifest = MANIFEST.read(document.root, (), report)
        _needs_itself(document.root, report)
        _asks_twice(document.root, report)
        _snapshot_of_nothing(document.root, report)
    problems = {str(problem): problem for problem in (*document.problems, *report.problems)}
    if problems:
        raise ManifestError(sorted(problems.values(), key=lambda problem: problem.line or 0))
    assert isinstance(manifest, Manifest)  # no problem, so it was built
    return manifest


def _needs_itself(root: Node, report: Report) -> None:
    name = root.value.get("name")
    dependencies = root.value.get("dependencies")
    if name is None or dependencies is None or not isinstance(name.value, str) or not isinstance(dependencies.value, list):
        return
    for index, child in enumerate(dependencies.value):
        other = child.value.get("name") if isinstance(child.value, dict) else None
        if other is not None and isinstance(other.value, str) and canonical_name(other.value) == canonical_name(name.value):
            report.add(other, ("dependencies", index, "name"), "another plugin", f"{other.value!r}, the plugin itself")


def _asks_twice(root: Node, report: Report) -> None:
    """Refuse a permission that is both needed and optional."""
    needed = dict(reversed(list(_permissions(root, "permissions"))))
    for text, (index, child) in _permissions(root, "optional_permissions"):
        if text in needed:
            report.add(child, ("optional_permissions", index), "each only once", f"{text!r} again (also at permissions[{needed[text][0]}])")


def _snapshot_of_nothing(root: Node, report: Report) -> None:
    """Refuse a snapshot policy that never takes one."""
    state = root.value.get("state")
    policy = state.value.get("snapshot") if state is not None and isinstance(state.value, dict) else None
    if policy is not None and isinstance(policy.value, dict):
        on_change = policy.value.get("on_change")
        if "every" not in policy.value and (on_change is None or on_change.value is False):
            report.add(policy, ("state", "snapshot"), "every or on_change: true, or both", "neither")


def _permissions(root: Node, key: str) -> Iterator[tuple[str, tuple[int, Node]]]:
    listed = root.value.get(key)
    for index, child in enumerate(listed.value if listed is not None and isinstance(listed.value, list) else ()):
        if isinstance(child.value, str) and permission_problem(child.value) is None:
            yield canonical(child.value), (index, child)
