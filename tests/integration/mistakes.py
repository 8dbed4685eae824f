"""Typical mistakes in mapping files, each in several spellings, beside what looks like them and is right."""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """`says`: words of one finding of that severity, for each of the texts. None is found in those that are `fine`.

    `offline`: it is found without the database, too. `server`: by what `check` asks the server besides the tables' columns.
    """

    name: str
    severity: str
    says: tuple[str, ...]
    texts: tuple[str, ...]
    fine: tuple[str, ...] = ()
    offline: bool = False
    server: bool = False


def file(*events: str) -> str:
    return "version: 1\nevents:\n" + "".join(events)


def event(*lines: str, name: str = "Order Completed", table: str = "billing.orders", user: str = "user_id: new.user_id") -> str:
    """An event of a mapping file. Lines are of the event; those of its properties begin with two spaces."""
    given = [line for line in (f"table: {table}", user, *lines) if line]
    return f"  - name: {name}\n" + "".join(f"    {line}\n" for line in given)


def one(*lines: str, **head: str) -> str:
    return file(event(*lines, **head))


def props(*lines: str, **head: str) -> str:
    return one("properties:", *(f"  {line}" for line in lines), **head)


def when(condition: str, on: str = "[insert]", **head: str) -> str:
    return one(f"on: {on}", f"when: {condition}", **head)


ANY = "[insert, update]"
TASK = {"table": "public.Task", "user": "user_id: new.createdById", "name": "Task Completed"}
ORGANIZATION = {"table": "public.Organization", "user": "user_id: new.ownerId", "name": "Organization Made"}
USER = {"table": "public.User", "user": "user_id: new.id", "name": "Signed Up"}
SUBSCRIPTION = {"table": "billing.subscriptions", "user": "anonymous_id: new.customer_id", "name": "Subscription Cancelled"}
INVOICE = {"table": "billing.invoices", "user": "anonymous_id: new.customer_id", "name": "Invoice Paid"}

FILES = [
    Mistake(
        "01 a misspelled key",
        "error",
        ("tabel: is not a known key; did you mean 'table'?",),
        (one().replace("table:", "tabel:"), one("properties: {}").replace("table:", "tabel :")),
        (one(),),
        offline=True,
    ),
    Mistake(
        "02 properties that are not indented",
        "error",
        ("events[0].order_id: is not a known key", "oes it belong under", "(indent it)?"),
        (
            one("properties:", "order_id: new.id", "total: new.total_cents"),
            one("order_id: new.id", "properties:"),
            one("type: identify", "traits:", "order_id: new.id"),
        ),
        (props("order_id: new.id"),),
        offline=True,
    ),
    Mistake(
        "03 text without quotes",
        "error",
        ("there is no name 'complete'", "text is written 'complete'"),
        (
            when("new.state == complete"),
            when("new.state in [complete]"),
            props("x: complete if new.paid else 'open'"),
        ),
        (when("\"new.state == 'complete'\""),),
        offline=True,
    ),
    Mistake(
        "04 a column that is not there",
        "error",
        ("has no column", "did you mean"),
        (
            one(user="user_id: new.userid"),
            props("total: new.total"),
            when("new.stat == 'complete'"),
            one("id: [new.identifier_of_id]", "timestamp: new.created"),
        ),
        (props("total: new.total_cents"),),
    ),
    Mistake(
        "05 a declared type that the column does not have",
        "error",
        ("is declared as", "but"),
        (
            props("number: {value: new.number, type: string}"),
            props("flags: {value: new.tags, type: object}"),
            props("at: {value: new.created_at, type: number}"),
        ),
        (props("number: {value: new.number, type: integer}", "tags: {value: new.tags, type: array}"),),
    ),
    Mistake(
        "06 nobody whom it is about",
        "error",
        ("needs user_id or anonymous_id",),
        (one(user=""), one("type: page", user=""), one("type: identify", "traits: {total: new.total_cents}", user="")),
        (one(user="anonymous_id: new.user_id"),),
        offline=True,
    ),
    Mistake(
        "07 a value that the enum does not have",
        "error",
        ("has no value 'cancelled'; did you mean 'canceled'?",),
        (
            when("new.status == 'cancelled'", **SUBSCRIPTION),
            when("new.status in ['active', 'cancelled']", **SUBSCRIPTION),
            when("entered(new.status, 'cancelled')", "update", **SUBSCRIPTION),
            when("old.status != 'cancelled' and entered(new.status, 'canceled')", "update", **SUBSCRIPTION),
        ),
        (when("new.status == 'canceled'", **SUBSCRIPTION), when("string(new.status) == 'canceled'", **SUBSCRIPTION)),
    ),
    Mistake(
        "08 a value of the enum in another case",
        "error",
        ("has no value 'done'; did you mean 'DONE'?",),
        (
            when("new.state == 'done'", **TASK),
            when("\"'done' == new.state\"", **TASK),
            when("new.state in ('done', 'DOING')", **TASK),
        ),
        (when("new.state == 'DONE'", **TASK), when("lower(new.state) == 'done'", **TASK)),
    ),
    Mistake(
        "09 an old value that is not logged",
        "error",
        ("not logged: billing.refunds has REPLICA IDENTITY DEFAULT", "ALTER TABLE billing.refunds REPLICA IDENTITY FULL;"),
        (
            when("new.state == 'sent' and old.state != 'sent'", ANY, table="billing.refunds"),
            when("entered(new.state, 'sent')", ANY, table="billing.refunds"),
            one("on: delete", table="billing.refunds", user="user_id: old.user_id"),
            props("was: old.state").replace("    properties", "    on: update\n    properties").replace(".orders", ".refunds"),
        ),
        (
            when("entered(new.state, 'sent')", ANY),
            one("on: delete", table="billing.refunds", user="user_id: old.id"),
        ),
    ),
    Mistake(
        "10 a state where a change is meant",
        "warning",
        ("asks for a state, not for the change to it: every later update of such a row is an event again", "entered(new.state"),
        (
            when("new.state == 'complete'", ANY),
            when("new.state == 'complete'", "update"),
            when("new.state in ['complete', 'sent'] and new.deleted_at is None", ANY),
        ),
        (
            when("new.state == 'complete' and old.state != 'complete'", ANY),
            when("entered(new.state, 'complete')", ANY),
            when("new.state == 'complete'", "insert"),
            one(f"on: {ANY}", "when: new.state == 'complete'", "id: [new.id]"),
        ),
        offline=True,
    ),
    Mistake(
        "11 several spellings of one name",
        "warning",
        ("spellings of one event's name, which tools count apart", "'Order Completed'"),
        (
            file(
                event(name="order completed"),
                event("on: update", name="Order completed"),
                event("on: delete", name="Order Completed", user="user_id: old.user_id"),
            ),
            file(event(), event("on: update", name="Order-Completed")),
            file(event(), event(name="OrderCompleted", table="public.Task", user="user_id: new.createdById")),
        ),
        (file(event(), event("on: update", "key: later")), file(event(), event(name="Orders Completed"))),
        offline=True,
    ),
    Mistake(
        "12 one event twice",
        "warning",
        ("two events for one change",),
        (
            file(
                event("key: a", "on: update", "when: entered(new.state, 'complete')"),
                event("key: b", "on: update", "when: entered(new.state, 'complete')"),
            ),
            file(event("key: a"), event(f"on: {ANY}", "key: b", "properties: {total: new.total_cents}")),
            file(event("key: a", "when: new.paid"), event("key: b", "when:  (new.paid)")),
        ),
        (
            file(event("key: a", "when: new.paid"), event("key: b", "when: not new.paid")),
            file(event("key: a"), event("key: b", "on: update")),
        ),
        offline=True,
    ),
    Mistake(
        "13 personal data",
        "warning",
        ("personal", "new.email"),
        (
            props("email: new.email", "password: new.hashedPassword", "everything: new.metadata", **USER),
            props("mail: lower(new.email)", **USER),
            one("context: {traits: {properties: {email: new.email}}}", **USER),
            one(table="public.User", user="user_id: new.email", name="Signed Up"),
        ),
        (
            props("email: {value: new.email, pii: true}", **USER),
            props("email: sha256(lower(new.email))", "domain: \"split(new.email, '@')[1]\"", "everything: new.metadata", **USER),
            one(
                "type: group",
                "group_id: new.id",
                "traits: {name: new.name}",
                table="public.Organization",
                user="user_id: new.ownerId",
            ),
            props("verified: new.emailVerified", **USER),
        ),
        offline=True,
    ),
    Mistake(
        "15 yes for an operation",
        "error",
        ("must be one of insert, update, delete",),
        (one("on: yes"), one("on: [insert, true]"), one("on: updated")),
        (one("on: insert"),),
        offline=True,
    ),
    Mistake(
        "16 texts joined where numbers are meant",
        "warning",
        ("`+` joins two texts",),
        (
            props("big: new.subtotal_cents + new.tax_cents", **INVOICE),
            props("big: new.subtotal_cents + new.tax_cents + new.tax_cents", **INVOICE),
            when("new.subtotal_cents + new.tax_cents != '5'", **INVOICE),
        ),
        (
            props("big: number(new.subtotal_cents) + number(new.tax_cents)", **INVOICE),
            props("name: new.number + ' ' + new.status", **INVOICE),
        ),
    ),
    Mistake(
        "17 a number compared with text",
        "error",
        ("the text '", "Write the number without quotes"),
        (
            when("new.total_cents > '1000'"),
            when("new.number == '7'"),
            when("new.fx_rate < '1.5'"),
            when("new.number in [7, '8']"),
        ),
        (when("new.total_cents > 1000"), when("string(new.number) == '7'")),
    ),
    Mistake(
        "18 one equals sign",
        "error",
        ("==",),
        (
            when("new.state = 'complete'"),
            when("new.paid and new.state='complete'"),
            props("x: \"1 if new.state = 'a' else 2\""),
        ),
        (when("new.state == 'complete'"),),
        offline=True,
    ),
    Mistake(
        "19 operators of SQL: AND, IS NULL",
        "error",
        ("AND", "and"),
        (when("new.state == 'complete' AND new.deleted_at is None"), when("new.paid AND NOT new.deleted_at")),
        (when("new.state == 'complete' and new.deleted_at is None"),),
        offline=True,
    ),
    Mistake(
        "19 <>", "error", ("<>", "!="), (when("new.total_cents <> 0"), when("new.state<>'a'")), (when("new.state != '<>'"),), True
    ),
    Mistake(
        "19 &&",
        "error",
        ("&&", "and"),
        (when("new.paid && true"), when("new.paid&&new.paid")),
        (when("new.state != '&&'"),),
        offline=True,
    ),
    Mistake(
        "19 LIKE",
        "error",
        ("starts_with",),
        (when("new.state like 'comp%'"), when("new.state LIKE 'comp%'")),
        (when("starts_with(new.state, 'like')"),),
        offline=True,
    ),
    Mistake(
        "20 constants without quotes",
        "error",
        ("{const: web}",),
        (props("channel: web"), props('channel: "web"'), props("channel: {value: web, type: string}")),
        (props("channel: {const: web}", "version: 2", "live: true", "note: \"'hello world'\""),),
        offline=True,
    ),
    Mistake(
        "21 a table's name without its schema",
        "error",
        ("must include the schema, such as public.User",),
        (
            one(table="'\"User\"'", user="user_id: new.id"),
            one(table="User", user="user_id: new.id"),
        ),
        (one(**USER), one(table='public."User"', user="user_id: new.id", name="Signed Up")),
        offline=True,
    ),
    Mistake(
        "21 a table's name in another case",
        "error",
        ("does not exist", "did you mean public.User?"),
        (one(table="public.user", user="user_id: new.id"), one(table="public.USER", user="user_id: new.id")),
        (one(**USER),),
        server=True,
    ),
    Mistake(
        "22 a column in another case",
        "error",
        ("has no column 'createdat'; did you mean 'createdAt'?",),
        (
            one("timestamp: new.createdat", **USER),
            props("at: new.createdat", **USER),
            when("new.createdat is not None", **USER),
        ),
        (one("timestamp: new.createdAt", **USER),),
    ),
    Mistake(
        "23 a tab",
        "error",
        ("spaces, not tabs",),
        (
            one().replace("    table", "\ttable"),
            one("properties:", "\tx: new.id"),
            "version: 1\nevents:\n\t- name: Order Completed\n",
        ),
        (one("when: \"new.state !=\t'a'\""),),
        offline=True,
    ),
    Mistake(
        "24 what YAML takes for its own",
        "error",
        ("must be quoted",),
        (
            props("label: f'{new.currency}: {new.state}'"),
            props("cond: new.state if new.paid else 'a: b'"),
            props("comma: {value: concat(new.state, ', ', new.currency)}"),
            when("'complete' == new.state"),
        ),
        (props("label: \"f'{new.currency}: {new.state}'\"", "first: new.state[0:3]"),),
        offline=True,
    ),
    Mistake(
        "25 an id that rows share",
        "warning",
        ("give one event: the id holds neither the row's key nor anything that changes",),
        (
            one("on: update", "when: new.refunded_cents > 0", "id: [new.user_id]"),
            one("id: [new.user_id, new.currency]"),
            one("id: [new.userId]", table="public.Membership", user="user_id: new.userId", name="Member Joined"),
        ),
        (
            one("id: [new.id, new.refunded_cents]"),
            one("id: [new.user_id, new.created_at]"),
            one(
                "id: [new.organizationId, new.userId]",
                "when: new.userId is not None",
                table="public.Membership",
                user="user_id: new.userId",
                name="Member Joined",
            ),
            one("id: [new.id]", "when: new.actor_id is not None", table="audit.events", user="user_id: new.actor_id"),
        ),
    ),
    Mistake(
        "25 the id of a row for an event that repeats",
        "warning",
        ("every event after the first is taken for the same one",),
        (
            one("on: update", "when: new.refunded_cents > old.refunded_cents", "id: [new.id]"),
            one("on: update", "id: [new.id]"),
            one("type: identify", f"on: {ANY}", "id: [new.id]", "traits: {locale: new.locale}", **USER),
        ),
        (
            one("on: update", "when: new.refunded_cents > old.refunded_cents", "id: [new.id, new.refunded_cents]"),
            one("on: update", "when: entered(new.state, 'complete')", "id: [new.id]"),
        ),
    ),
    Mistake(
        "26 a user that may be NULL",
        "warning",
        ("may be NULL", "identity_missing"),
        (
            one(table="audit.events", user="user_id: new.actor_id", name="Feature Used"),
            one(table="public.Task", user="user_id: new.assigneeId", name="Task Made"),
            one("on: delete", table="public.Task", user="user_id: old.assigneeId", name="Task Dropped"),
        ),
        (
            one("when: new.actor_id is not None", table="audit.events", user="user_id: new.actor_id", name="Feature Used"),
            one(table="public.Task", user="user_id: coalesce(new.assigneeId, new.createdById)", name="Task Made"),
            one("anonymous_id: new.id", table="public.Task", user="user_id: new.assigneeId", name="Task Made"),
        ),
    ),
    Mistake(
        "27 the row's key as the user",
        "warning",
        ("user_id is the key of the row of public.",),
        (
            one(
                "on: update",
                "when: new.assigneeId != old.assigneeId",
                table="public.Task",
                user="user_id: new.id",
                name="Task Given",
            ),
            one(table="public.Organization", user="user_id: new.id", name="Organization Made"),
            one(table="public.Task", user="user_id: string(new.id)", name="Task Made"),
        ),
        (
            one(**USER),
            one(table="public.Preference", user="user_id: new.userId", name="Preference Made"),
            one(**ORGANIZATION),
        ),
    ),
    Mistake(
        "28 a row that the operation does not have",
        "error",
        ("is None: there is no",),
        (
            one("on: delete"),
            one("on: insert", user="user_id: old.user_id"),
            one("on: delete", "timestamp: new.created_at", user="user_id: old.user_id"),
        ),
        (
            one("on: delete", user="user_id: old.user_id"),
            one("on: [insert, delete]", user="user_id: coalesce(new.user_id, old.user_id)"),
        ),
        offline=True,
    ),
    Mistake(
        "29 a partition",
        "error",
        ("is a partition of audit.events", "map audit.events"),
        (
            one("when: new.actor_id is not None", table="audit.events_2026", user="user_id: new.actor_id", name="Feature Used"),
            one(table="audit.events_default", user="anonymous_id: new.id", name="Feature Used"),
        ),
        (one(table="audit.events", user="anonymous_id: new.id", name="Feature Used"),),
        server=True,
    ),
    Mistake(
        "30 cents as revenue",
        "warning",
        ("in cents", "is not divided"),
        (
            props("revenue: new.total_cents"),
            props("order_value: {value: new.total_cents - new.refunded_cents, type: number}"),
            props("price: number(new.subtotal_cents)", **INVOICE),
        ),
        (
            props("revenue: new.total_cents / 100", "refunded_cents: new.refunded_cents"),
            props("share: new.refunded_cents / 100"),
        ),
        offline=True,
    ),
    Mistake(
        "31 rules that no value of the column meets",
        "error",
        ("events[0].properties.currency: must",),
        (
            props("currency: {value: new.currency, type: string, enum: [euro, dollar]}"),
            props("currency: {value: new.currency, type: string, min_length: 4}"),
            props("currency: {value: new.currency, type: string, enum: [EU, US]}"),
        ),
        (props("currency: {value: new.currency, type: string, enum: [EUR, USD]}"),),
    ),
    Mistake(
        "31 words that are no type",
        "error",
        ("must be",),
        (
            props("n: {value: new.number, type: str}"),
            props("n: {value: new.number, type: int}"),
            props("n: {value: new.number, required: yes}"),
        ),
        (props("n: {value: new.number, type: integer, required: true}"),),
        offline=True,
    ),
    Mistake(
        "32 a key twice",
        "error",
        ("duplicate key, first defined on line",),
        (
            props("locale: new.locale", "locale: new.timeZone", **USER),
            one("table: public.User"),
            one("properties: {a: new.id, a: new.state}"),
        ),
        (props("locale: new.locale", "zone: new.timeZone", **USER),),
        offline=True,
    ),
    Mistake(
        "32 properties that differ only in case",
        "warning",
        ("differ only in case or punctuation",),
        (
            props("locale: new.locale", "Locale: new.timeZone", **USER),
            props("order_id: new.id", "orderId: new.number"),
            one("type: identify", "traits: {time-zone: new.timeZone, time_zone: new.locale}", **USER),
        ),
        (props("locale: new.locale", "locales: new.timeZone", **USER),),
        offline=True,
    ),
    Mistake(
        "33 a time that is none",
        "error",
        ("must be a time",),
        (one("timestamp: new.number"), one("timestamp: new.paid"), one("timestamp: new.fx_rate")),
        (one("timestamp: new.created_at"), one("timestamp: timestamp(new.number)")),
    ),
    Mistake(
        "34 a condition that is always true",
        "error",
        ("is always true", "'paid'"),
        (
            when("new.state == 'complete' or 'paid'"),
            when("(new.state == 'complete' or 'paid') and new.paid"),
        ),
        (when("new.state == 'complete' or new.state == 'paid'"), when("new.state in ('complete', 'paid')")),
        offline=True,
    ),
    Mistake(
        "34 text for a condition",
        "warning",
        ("is always true",),
        (when("\"'complete'\""), when("\"'false'\"")),
        (when("new.paid"),),
        offline=True,
    ),
]

NO_MISTAKE = {
    "14 times without a zone": props("day: date(new.created_at)", "local: string(new.created_at)"),
    "33 a time of another step": one("timestamp: new.created_at"),
    "35 numbers and words of YAML": props(
        "zip: {const: 01067}",
        "norway: {const: NO}",
        "ver: {const: 1.10}",
        "day: {const: 2026-11-29}",
        "exp: {const: 1e3}",
        "on: {const: on}",
    ).replace("    properties", "    when: new.number > 1_000\n    properties"),
}
