"""Differences from what setup left: publications altered by hand, tables dropped, renamed or altered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from cdc_tracker.errors import Problem
from cdc_tracker.model import table_name
from cdc_tracker.sources.postgres.publication import ALL_TABLES, REFUSABLE, Desired, Name, Publication, PublicationMember, drop

_SETUP = "run `cdc-tracker setup`: it corrects what differs and leaves the rest unchanged"


def drift(wanted: Desired, present: Mapping[str, Publication]) -> list[Problem]:
    """The problems of `wanted`, then one for each difference.

    An error loses changes or makes the application's statements fail; the others are warnings.
    """
    problems = list(wanted.problems)
    for publication in wanted.publications:
        found = present.get(publication.name)
        if found is None:
            problems.append(Problem("", publication.name, "the publication does not exist", _SETUP))
        else:
            problems += _publication_differences(publication, found)
    assigned = {name: each.name for each in wanted.publications for name in each.tables}
    for member in wanted.members:
        problems += _member_differences(member, assigned.get(member.name, ""), wanted, present)
    members = {member.name for member in wanted.members}
    for found in present.values():
        problems += _unneeded(found, members, read=bool(wanted.publications))
    return problems


def _unneeded(found: Publication, members: Collection[Name], *, read: bool) -> Iterator[Problem]:
    """Yields what is published without need: tables that no mapping names; the publication itself if it is not `read`."""
    hint = _SETUP if found.owned or read else f"its owner has to run: {drop(found.name)}"
    if not read:
        text = "exists, but wal2json does not read it: it can only make the application's updates and deletes fail"
        yield Problem("", found.name, text, ALL_TABLES if found.all_tables else hint, "warning")
    for name in sorted(found.tables.keys() - members):
        if name in found.refused:
            what = _plural(found.operations & REFUSABLE)
            text = f"is in the publication {found.name}, but has no replica identity: PostgreSQL refuses the application's {what}"
            yield Problem("", table_name(*name), text, hint)
        elif read:
            text = f"is in the publication {found.name}, but no mapping needs it there"
            yield Problem("", table_name(*name), text, hint, "warning")


def _publication_differences(wanted: Publication, found: Publication) -> Iterator[Problem]:
    if found.all_tables:
        text = "is FOR ALL TABLES: updates and deletes of tables without a replica identity fail, and unmapped tables are sent"
        yield Problem("", wanted.name, text, ALL_TABLES)
    if found.schemas:
        text = f"publishes all tables of {', '.join(found.schemas)}: updates and deletes of those without a replica identity fail"
        yield Problem("", wanted.name, text, _SETUP)
    if not found.via_root:
        yield Problem("", wanted.name, "names partitions instead of their roots: mappings of the roots receive nothing", _SETUP)
    if wanted.generated and not found.generated:
        text = "leaves out stored generated columns: updates and deletes fail if one is in the replica identity"
        yield Problem("", wanted.name, text, _SETUP)


def _member_differences(
    member: PublicationMember, home: str, wanted: Desired, present: Mapping[str, Publication]
) -> Iterator[Problem]:
    """Yields the differences between what is wanted of one table and what the source's publications together publish."""
    published_by = [present[each.name] for each in wanted.publications if each.name in present]
    inside = [found for found in published_by if member.name in found.tables or found.all_tables]
    key, needed = table_name(*member.name), member.operations
    if not inside and home in present and needed and not _published_by_root(member, published_by):
        what = "its updates and deletes do" if member.root else "its changes do"
        yield Problem("", key, f"is not in the publication {home}: {what} not arrive", _SETUP)
    if not inside:
        return
    published = frozenset[str]().union(*(found.operations for found in inside))
    if missing := needed - published:
        yield Problem("", key, f"is published without its {_plural(missing)}, which therefore do not arrive", _SETUP)
    allowed = frozenset[str]().union(*(each.operations for each in wanted.publications if each.name == home))
    if member.refused and published & REFUSABLE:
        text = f"publishes {_plural(published & REFUSABLE)}, which PostgreSQL refuses for lack of a replica identity"
        yield Problem("", key, text, _SETUP)
    elif extra := published - allowed:
        parts = any(other.root == member.name for other in wanted.members)
        why = "partitions created later would have no replica identity for" if parts else "no mapping reads"
        yield Problem("", key, f"publishes {_plural(extra)}, which {why}", _SETUP, "warning")
    if any(member.name in found.filtered for found in inside):
        yield Problem("", key, "is published with a row filter: rows that it excludes do not arrive", _SETUP)
    if any(found.tables.get(member.name, member.columns) != member.columns for found in inside):
        text = "is published with other columns than the mappings and never_capture require"
        yield Problem("", key, text, _SETUP)


def _published_by_root(member: PublicationMember, published_by: Iterable[Publication]) -> bool:
    """Whether the root publishes the partition's updates and deletes; that this is unsafe is reported for the root."""
    return any(member.root in found.tables and member.operations <= found.operations for found in published_by)


def _plural(operations: Iterable[str]) -> str:
    return " and ".join(f"{operation}s" for operation in sorted(operations))
