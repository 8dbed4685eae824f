"""Frames → segments, on recorded frames: bounds, cuts, excerpts, what is not stored."""

from __future__ import annotations

import pytest

from cdc_tracker.journal import decode as unpack
from cdc_tracker.journal import encode as pack
from cdc_tracker.model import START, UNLOGGED, Change, Position, Relation, Segment, Text
from cdc_tracker.sources.postgres import pgoutput, segments, wal2json
from tests.wal import recording

EXCERPT = {"pgoutput": pgoutput.excerpt, "wal2json": wal2json.excerpt}
plugins = pytest.mark.parametrize("plugin", recording.PLUGINS)


def every_column(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = tuple(column.name for column in relation.columns)
    return names, names


def changes(found: list[Segment], after: Position = START) -> list[Change]:
    return [change for segment in found for change in recording.decoder(segment.plugin, every_column).changes(segment, after)]


def told(found: list[Change]) -> list[tuple[object, ...]]:
    """All that both plugins tell alike, of old rows what is logged: the recorded descriptions are of after the last DDL."""
    return [
        (one.op, one.relation and one.relation.table, *cells(one), one.position, one.lsn, one.index, one.transaction, one.content)
        for one in found
    ]


def cells(change: Change) -> tuple[dict[str, Text], dict[str, Text]]:
    names = [column.name for column in change.relation.columns] if change.relation else []
    new, old = (dict(zip(names, row, strict=True)) if row else {} for row in (change.new, change.old))
    return new, {name: cell for name, cell in old.items() if cell is not UNLOGGED}


def test_both_recordings_tell_the_same() -> None:
    first, other = (changes(recording.segments(plugin)) for plugin in recording.PLUGINS)
    assert told(first) == told(other)
    assert "".join(change.op for change in first) == "ccuudmcudccdcttcc" + "c" * 20


@plugins
def test_a_builder_started_after_any_position_gives_the_tail(plugin: str) -> None:
    whole = changes(recording.segments(plugin))
    for change in whole:
        tail = recording.segments(plugin, change.position)
        assert told(changes(tail, change.position)) == told([one for one in whole if one.position > change.position])


@plugins
@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_segments_are_self_contained(plugin: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = changes(recording.segments(plugin))
    monkeypatch.setattr(segments, "MAX_FRAMES", size)
    small = recording.segments(plugin)
    assert all(segment.count <= size + 2 for segment in small)  # a begin goes with a change, truncates together
    assert told(changes(small)) == told(whole)
    assert told(changes([unpack(pack(segment)) for segment in small])) == told(whole)


@plugins
def test_a_segment_closes_at_its_size(plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_BYTES", 3000)
    found = recording.segments(plugin)
    assert len(found) >= 3
    assert all(len(segment.frames) < 3000 + 6000 for segment in found)
    assert sum(segment.changes for segment in found) == 37


@plugins
def test_an_excerpt_holds_its_change_alone(plugin: str) -> None:
    [segment] = recording.segments(plugin)
    whole = changes([segment])
    kept = EXCERPT[plugin](segment, {change.position for change in whole})
    assert sorted(kept) == [change.position for change in whole]
    for change in whole:
        single = [unpack(pack(kept[change.position]))]
        assert kept[change.position].count == 1
        assert told([one for one in changes(single) if one.position == change.position]) == told([change])


@plugins
def test_an_excerpt_of_nothing_is_nothing(plugin: str) -> None:
    [segment] = recording.segments(plugin)
    assert EXCERPT[plugin](segment, {segment.last}) == {}


@plugins
def test_what_was_seen_moves_on_with_transactions_that_need_no_storing(plugin: str) -> None:
    end = recording.segments(plugin)[-1].last
    builder = recording.builder(plugin, end)
    for frame in recording.frames(plugin):
        builder.add(memoryview(frame))
    assert (builder.close(), builder.seen, builder.in_transaction) == (None, end, False)
    builder.idle_until(end.commit_lsn + 100)
    assert builder.seen == Position(end.commit_lsn + 100, -1)
    builder.idle_until(end.commit_lsn)
    assert builder.seen == Position(end.commit_lsn + 100, -1)


@plugins
def test_within_a_transaction_the_server_s_end_says_nothing(plugin: str) -> None:
    builder = recording.builder(plugin)
    builder.add(memoryview(recording.frames(plugin)[0]))
    assert builder.in_transaction
    builder.idle_until(1 << 60)
    assert builder.seen == START


@plugins
def test_a_row_outside_a_transaction_is_refused(plugin: str) -> None:
    rows = [frame for frame in recording.frames(plugin) if frame[25:26] == b"I" or frame[25:37] == b'{"action":"I']
    with pytest.raises(ValueError, match="outside a transaction"):
        recording.builder(plugin).add(memoryview(rows[0]))
