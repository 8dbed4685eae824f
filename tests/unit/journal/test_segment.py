"""Segments as bytes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_tracker.errors import Stop
from cdc_tracker.journal import decode, encode
from cdc_tracker.model import OpenTransaction, Position, Segment, Transaction
from tests.unit.journal.samples import in_the_middle, segment

LSNS = st.integers(0, 2**63 - 1)
TIMES = st.integers(-(2**50), 2**53)
POSITIONS = st.builds(Position, LSNS, st.integers(-1, 2**40))
OPEN = st.builds(
    OpenTransaction,
    st.builds(Transaction, st.integers(0, 2**32 - 1), LSNS, st.integers(0, 2**52)),
    st.integers(0, 2**40),
    LSNS,
    st.integers(0, 2**31),
)
SEGMENTS = st.builds(
    Segment,
    plugin=st.sampled_from(["pgoutput", "wal2json"]),
    frames=st.binary(max_size=5000),
    count=st.integers(0, 2**31),
    changes=st.integers(0, 2**31),
    first=POSITIONS,
    last=POSITIONS,
    first_time=TIMES,
    last_time=TIMES,
    relations=st.lists(st.binary(max_size=200), max_size=4).map(tuple),
    open=st.none() | OPEN,
)


@given(SEGMENTS)
def test_a_segment_comes_back_as_it_was(original: Segment) -> None:
    assert decode(encode(original)) == original


@given(st.data())
@settings(max_examples=400)
def test_changed_bytes_stop_or_give_the_very_same_segment_never_another(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([segment(3, frames=b"some frames " * 50), in_the_middle(4, 30)]))
    encoded = bytearray(encode(original))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(encoded), "Segment 12 of main")
    except Stop as error:
        assert "Segment 12 of main" in str(error)
        assert error.hint
    else:
        assert found == original


def test_every_single_flipped_bit_of_the_content_is_noticed() -> None:
    original = segment(3, frames=bytes(range(200)))
    encoded = encode(original)
    silent = 0
    for place in range(len(encoded) * 8):
        changed = bytearray(encoded)
        changed[place // 8] ^= 1 << place % 8
        try:
            assert decode(bytes(changed)) == original
            silent += 1
        except Stop:
            pass
    assert silent <= 1  # the one bit of a zstd frame's header that the format leaves unused


@given(st.binary(max_size=300))
def test_bytes_that_are_no_segment_stop(data: bytes) -> None:
    for bytes_given in (data, b"CDCS\x01" + data):
        with pytest.raises(Stop):
            decode(bytes_given)


def test_a_cut_off_segment_stops() -> None:
    encoded = encode(segment(1, frames=b"abc" * 1000))
    for length in range(len(encoded)):
        with pytest.raises(Stop):
            decode(encoded[:length])
    with pytest.raises(Stop):
        decode(encoded + b"x")


def test_a_newer_format_is_told_from_damage() -> None:
    encoded = bytearray(encode(segment(1)))
    encoded[4] = 2
    with pytest.raises(Stop, match="format version 2, this program reads 1"):
        decode(bytes(encoded), "Segment 7")


def test_frames_that_repeat_take_little_room() -> None:
    frames = b"".join(b"row %d of a table with a name\n" % number for number in range(2000))
    original = dataclasses.replace(segment(1), frames=frames)
    assert len(encode(original)) < len(frames) // 4
