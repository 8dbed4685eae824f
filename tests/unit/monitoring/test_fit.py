"""Mappings before a reload takes them."""

from __future__ import annotations

import pytest

from cdc_tracker.errors import MappingError
from cdc_tracker.monitoring import fit
from tests.ports import free_ports
from tests.unit.mapping.shop import mappings, one


def test_a_source_that_does_not_answer_is_not_waited_for() -> None:
    [port] = free_ports(1)
    url = f"postgresql://127.0.0.1:{port}/shop"
    fit.require(url, mappings(one(when="new.qty == '7'")))  # only the catalog tells that this is wrong
    with pytest.raises(MappingError, match=r"`or 'sent'` is always true: write new.status in \('paid', 'sent'\)"):
        fit.require(url, mappings(one(when="new.status == 'paid' or 'sent'")))
