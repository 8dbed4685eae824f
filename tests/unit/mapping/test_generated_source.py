"""The generated functions as a person reads them: their source, and their lines in a traceback."""

from __future__ import annotations

import gc
import inspect
import linecache
import traceback
from typing import Any

import pytest

from cdc_tracker.mapping import Plan
from tests.unit.mapping.shop import change, one, plan

TEXT = one(
    name="Order Paid",
    on=["insert", "update"],
    when="old.status != new.status",
    id=["new.id"],
    properties={"amount": {"value": "new.amount", "type": "number", "maximum": 100}, "email": "lower(new.email)"},
)
SOURCE = """\
def mapper(change):
    new = change.new
    old = change.old
    try:
        try:
            if not (old[0] != (new_status if (new_status := new[2]).__class__ is str or new_status is None else \
missing(new_status, 'new.status'))):
                return None
        except Error as error:
            return reject_when_error(change, '', error)
        new_id = new[0]
        json_id = 'null' if new_id is None else new_id
        if json_id == 'null':
            return reject_id_id_missing(change, '', None)
        message_id = make_id(f'Order Paid|[{json_id}]')
        new_user_id = new[1]
        json_userId = None if new_user_id is None else f'"{new_user_id}"'
        if json_userId is None:
            return reject_userId_identity_missing(change, message_id, None)
        new_amount = new[4]
        if new_amount is None:
            json_amount = 'null'
        elif new_amount.__class__ is not str:
            return reject_amount_missing(change, message_id, new_amount)
        elif new_amount[-1] > '9':
            return reject_amount_type_mismatch(change, message_id, new_amount)
        elif Decimal(new_amount) > new_amount_bound:
            return reject_amount_above_maximum(change, message_id, new_amount)
        else:
            json_amount = (new_amount if '1' <= new_amount[0] <= '9' else decimal_json(new_amount))
        try:
            value_email = lower((new_email if (new_email := new[3]).__class__ is str or new_email is None else \
missing(new_email, 'new.email')))
            json_email = canonical(value_email)
        except Error as error:
            return reject_email_error(change, message_id, error)
        transaction = change.transaction
        lsn_text = '%X/%X' % (change.lsn >> 32, change.lsn & 0xFFFFFFFF)
        body = f'{{"type":"track","event":"Order Paid","messageId":"{message_id}","userId":{json_userId},"properties":\
{{"amount":{json_amount},"email":{json_email}}},"context":{{"source":{{"db":"shopdb","schema":"shop","table":"orders",\
"op":"u","lsn":"{lsn_text}","txId":{transaction.xid},"ts_ms":{transaction.committed_at // 1000}}},\
"library":{{"name":"cdc-tracker"}}}},"timestamp":"{transaction.timestamp}"}}'
        return Event(message_id, 'track', body.encode(), 'Order Paid', change.position, transaction.committed_at)
    except Error as error:
        return reject_event_error(change, '', error)
"""


def function(made: Plan, op: str = "u") -> Any:
    return made.by_op[op][0]


def entries() -> set[str]:
    gc.collect()
    return {file for file in linecache.cache if file.startswith("<mapping shop.yml:")}


def test_the_generated_function_names_columns_and_properties() -> None:
    made = plan(TEXT)
    assert inspect.getsource(function(made)) == SOURCE
    assert function(made)(change(made, "u", old={"status": "new"})) is not None


def test_a_traceback_shows_the_line_of_generated_code_and_its_mapping() -> None:
    made = plan(TEXT)
    with pytest.raises(AttributeError) as caught:
        function(made)(None)
    text = "".join(traceback.format_exception(caught.value))
    assert "<mapping shop.yml:1 update" in text
    assert "new = change.new" in text


def test_a_reload_does_not_keep_sources_of_functions_that_are_gone() -> None:
    before = entries()
    plans = [plan(TEXT) for _ in range(3)]
    assert len(entries() - before) == 6  # inserts and updates
    files = {function(made).__code__.co_filename for made in plans}
    assert len(files) == 3  # each function has its own lines
    del plans
    assert entries() == before
