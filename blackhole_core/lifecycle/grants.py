"""What the operator granted, as values, and the rules for it. Pure.

A grant is one permission of one plugin, for all its versions, a range of them, or one digest of its code. What the configuration grants is not kept here;
that the operator took something of it back at run time is (*withdrawn*), because it holds until it is granted again. What is withdrawn masks
the configuration's grants only: a grant that is made later is the operator's later word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from blackhole_core.errors import GrantsError
from blackhole_core.ids import NAME, canonical_name
from blackhole_core.manifest.coverage import covers, effective, lacking, meet
from blackhole_core.manifest.permissions import Level, canonical, level_of, parse_permission
from blackhole_core.registry.candidate import Candidate

__all__ = ["Grant", "Grants", "Permissions", "Withdrawal", "granted_to", "permissions_of", "with_grants", "without_grants"]


@attrs.frozen
class Grant:
    """One permission that the operator gave one plugin; names and permissions are in their canonical spelling."""

    plugin: str
    permission: str
    when: float  #: seconds of the wall clock
    versions: str = ""  #: a PEP 440 range of the plugin's versions; empty means any
    digest: str | None = None  #: only for the code with this digest; None means any

    def fits(self, candidate: Candidate) -> bool:
        """Whether it was given to this version and code."""
        if self.digest is not None and self.digest != candidate.digest:
            return False
        if not self.versions:
            return True
        from packaging.specifiers import SpecifierSet  # 10 ms; only who limits a grant pays for it

        return candidate.id.version is not None and SpecifierSet(self.versions).contains(candidate.id.version, prereleases=True)


@attrs.frozen
class Withdrawal:
    """That the operator took back what the configuration grants."""

    plugin: str
    permission: str
    when: float


@attrs.frozen
class Grants:
    """Everything that was granted and withdrawn, of all plugins."""

    grants: tuple[Grant, ...] = ()
    withdrawn: tuple[Withdrawal, ...] = ()


@attrs.frozen
class Permissions:
    """What one plugin asks for and has, in canonical spelling."""

    required: tuple[str, ...] = ()  #: what it does not start without
    optional: tuple[str, ...] = ()  #: what it can do without
    granted: tuple[str, ...] = ()  #: what the operator granted, by configuration or later; also what it does not ask for
    withdrawn: tuple[str, ...] = ()  #: what the configuration grants and the operator took back
    effective: tuple[str, ...] = ()  #: what it may do, as far as its level enforces that
    missing: tuple[str, ...] = ()  #: what it asks for and was not (wholly) granted, optional ones included
    at_start: tuple[str, ...] | None = None  #: what was in effect when it was started, None when it does not run

    @property
    def outdated(self) -> bool:
        """Whether it runs with other permissions than it would be started with now."""
        return self.at_start is not None and set(self.at_start) != set(self.effective)

    def level(self, permission: str) -> Level:
        """Return how much one of these permissions is."""
        return level_of(parse_permission(permission))


def permissions_of(
    candidate: Candidate, granted: Sequence[str], withdrawn: Sequence[str] = (), at_start: tuple[str, ...] | None = None
) -> Permissions:
    """Return what ``candidate`` asks for and has when it was granted ``granted``."""
    manifest = candidate.manifest
    required = tuple(map(canonical, manifest.permissions)) if manifest is not None else ()
    optional = tuple(map(canonical, manifest.optional_permissions)) if manifest is not None else ()
    asked = (*required, *optional)
    return Permissions(
        required, optional, tuple(granted), tuple(withdrawn), effective(asked, granted), lacking(asked, granted), at_start=at_start
    )


def granted_to(grants: Grants, name: str, candidate: Candidate, configured: Iterable[str]) -> tuple[str, ...]:
    """Return what is granted to ``candidate`` under ``name``: by the configuration as far as it was not withdrawn, and by the grants that fit."""
    plugin = canonical_name(name)
    masks = [parse_permission(one.permission) for one in grants.withdrawn if one.plugin == plugin]
    standing = [text for text in map(canonical, configured) if not any(covers(mask, parse_permission(text)) for mask in masks)]
    given = [grant.permission for grant in grants.grants if grant.plugin == plugin and grant.fits(candidate)]
    return tuple(dict.fromkeys((*standing, *given)))


def with_grants(
    grants: Grants, name: str, permissions: Iterable[str], when: float, *, versions: str = "", digest: str | None = None
) -> tuple[Grants, tuple[str, ...]]:
    """Return the grants with these ones added, and what was added, in canonical spelling.

    :raises GrantsError: one of them is no permission, or none that can be granted; or the name or range is impossible.
    """
    plugin, wanted = _plugin(name), [_grantable(text, "granted") for text in permissions]
    _check_range(versions)
    new = tuple(dict.fromkeys(Grant(plugin, text, when, versions, digest) for text in wanted))
    same = {(one.plugin, one.permission, one.versions, one.digest) for one in new}
    kept = tuple(one for one in grants.grants if (one.plugin, one.permission, one.versions, one.digest) not in same)
    given = [parse_permission(text) for text in wanted]
    masked = tuple(
        one for one in grants.withdrawn if one.plugin != plugin or not any(covers(by, parse_permission(one.permission)) for by in given)
    )
    return Grants((*kept, *new), masked), tuple(one.permission for one in new)


def without_grants(
    grants: Grants, name: str, permissions: Iterable[str], when: float, configured: Iterable[str]
) -> tuple[Grants, tuple[str, ...]]:
    """Return the grants without those that lie in ``permissions``, and what was taken away; what was not granted is passed over.

    :raises GrantsError: only a part of what is granted was to be taken away, or what needs no grant.
    """
    plugin, unwanted = _plugin(name), [parse_permission(_grantable(text, "revoked")) for text in permissions]

    def goes(text: str) -> bool:
        granted = parse_permission(text)
        if any(covers(one, granted) for one in unwanted):
            return True
        for one in unwanted:
            if meet(one, granted):
                raise GrantsError(
                    f"{one} cannot be revoked from plugin {name}: it is only a part of {granted}, which was granted; "
                    f"revoke {granted}, then grant what it is to keep"
                )
        return False

    gone = tuple(one for one in grants.grants if one.plugin == plugin and goes(one.permission))
    masked = {one.permission for one in grants.withdrawn if one.plugin == plugin}
    withdrawn = [text for text in dict.fromkeys(map(canonical, configured)) if text not in masked and goes(text)]
    left = Grants(
        tuple(one for one in grants.grants if one not in gone),
        (*grants.withdrawn, *(Withdrawal(plugin, text, when) for text in withdrawn)),
    )
    return left, tuple(dict.fromkeys((*(one.permission for one in gone), *withdrawn)))


def _plugin(name: str) -> str:
    if not NAME.fullmatch(name):
        raise GrantsError(f"{name!a} cannot be the name of a plugin; it has at most 100 ASCII letters, digits and . _ -")
    return canonical_name(name)


def _grantable(text: str, done: str) -> str:
    try:
        permission = parse_permission(text)
    except ValueError as problem:
        raise GrantsError(f"{text[:200]!a} is no permission{problem}") from None
    level = level_of(permission)
    if level is Level.NORMAL:
        raise GrantsError(f"{permission} cannot be {done}: it is of level normal, every plugin that asks for it has it")
    if level is Level.SIGNATURE:
        raise GrantsError(
            f"{permission} cannot be {done}: it is for plugins that the operator signed, and this version checks no signatures"
        )
    return str(permission)


def _check_range(versions: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(versions)
    except InvalidSpecifier:
        raise GrantsError(f"{versions[:200]!a} is no range of versions; wanted a PEP 440 range such as >=1.2,<2") from None
