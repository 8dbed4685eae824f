"""The transactions of the demo shop, one method each.

Some are of kinds that have broken change-data-capture workers: many rows in one COPY, a savepoint or a whole transaction rolled
back, an outbox row deleted in the transaction that inserted it, an update that does not touch a long text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

_SKUS = {"TEA-01": "4.90", "MUG-02": "12.50", "POT-03": "39.00", "TIN-04": "7.25", "SET-05": "64.95"}
_PLANS = {"basic": "5.00", "family": "9.50", "pro": "19.00"}
_COUNTRIES = ("DE", "FR", "PL", "SE", "JP", "BR")
_NAMES = ("Ada", "Béla", "Chiyo", "Dörte", "Efe", "Fatou", "Grażyna", "Hugo")
_REFUND = "UPDATE shop.orders SET status = 'refunded', refunded_at = now() WHERE id = %s"
_CANCEL = "UPDATE shop.subscriptions SET status = 'cancelled', cancelled_at = now() WHERE id = %s"


class RolledBack(Exception):
    """The transaction was rolled back on purpose."""


@dataclass
class Account:
    id: int
    subscription: UUID | None = None


@dataclass
class Basket:
    items: list[tuple[str, int, Decimal]]

    @property
    def total(self) -> Decimal:
        return sum((price * quantity for _, quantity, price in self.items), Decimal(0))

    @property
    def json(self) -> Jsonb:
        return Jsonb([{"sku": sku, "qty": quantity, "price": float(price)} for sku, quantity, price in self.items])


class Traffic:
    """One connection's accounts and orders. `number` identifies the connection, `chance` makes all choices."""

    def __init__(self, connection: psycopg.Connection, number: int, chance: random.Random) -> None:
        self._connection = connection
        self._number = number
        self._random = chance
        self._serial = 0
        self._accounts: list[Account] = []
        self._pending: list[int] = []
        self._paid: list[int] = []
        self._weights: dict[Callable[[], int], int] = {
            self._sign_up: 14, self._order: 24, self._pay: 18, self._refund: 5, self._order_and_pay: 3, self._import_orders: 1,
            self._subscribe: 6, self._renew: 12, self._cancel: 2, self._rename: 4, self._close_account: 2,
            self._outbox: 4, self._outbox_and_delete: 3, self._message: 5, self._roll_back_to_savepoint: 3, self._roll_back: 3,
        }  # fmt: skip

    def transact(self) -> int:
        """Runs one transaction; returns the number of rows written. Raises RolledBack if it was rolled back."""
        (step,) = self._random.choices(list(self._weights), list(self._weights.values()))
        if not self._accounts:
            step = self._sign_up
        with self._connection.transaction():
            return step()

    # Each step runs in its own transaction and returns the number of rows written.

    def _sign_up(self) -> int:
        about = self._long_text() if self._random.random() < 0.4 else None
        account = Account(self._insert_user(about))
        self._accounts.append(account)
        if self._random.random() < 0.3:
            return 1 + self._place_in_outbox(str(account.id), "Welcome Mail Sent")
        return 1

    def _insert_user(self, about: str | None) -> int:
        self._serial += 1
        anonymous_id = UUID(int=self._random.getrandbits(128), version=4)
        email = f"Shopper.{self._number}.{self._serial}@example.com"
        user: int = self._value(
            "INSERT INTO shop.users (anonymous_id, email, name, country, about) VALUES (%s, %s, %s, %s, %s) RETURNING id",
            [anonymous_id, email, self._random.choice(_NAMES), self._random.choice(_COUNTRIES), about],
        )
        return user

    def _rename(self) -> int:
        """Does not change `about`: the server does not log its text again."""
        account = self._random.choice(self._accounts)
        self._run("UPDATE shop.users SET name = name || ' ' || %s WHERE id = %s", [self._random.choice(_NAMES), account.id])
        return 1

    def _close_account(self) -> int:
        account = self._accounts.pop(self._random.randrange(len(self._accounts)))
        rows = 1
        if account.subscription:
            self._run(_CANCEL, [account.subscription])
            rows += 1
        self._run("DELETE FROM shop.users WHERE id = %s", [account.id])
        return rows

    def _order(self) -> int:
        order, rows = self._insert_order()
        self._pending.append(order)
        return rows

    def _insert_order(self) -> tuple[int, int]:
        basket = self._basket()
        gift_message = self._long_text() if self._random.random() < 0.2 else None
        user_id = self._random.choice(self._accounts).id
        order = self._value(
            "INSERT INTO shop.orders (user_id, total, items, gift_message) VALUES (%s, %s, %s, %s) RETURNING id",
            [user_id, basket.total, basket.json, gift_message],
        )
        values = ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(basket.items))
        rows = [value for line, item in enumerate(basket.items, 1) for value in (order, line, user_id, *item)]
        self._run(f"INSERT INTO shop.order_items (order_id, line, user_id, sku, quantity, price) VALUES {values}", rows)
        return order, 1 + len(basket.items)

    def _pay(self) -> int:
        if not self._pending:
            return self._order()
        order = self._pending.pop(self._random.randrange(len(self._pending)))
        self._mark_paid(order)
        self._paid.append(order)
        return 1

    def _mark_paid(self, order: int) -> None:
        self._run("UPDATE shop.orders SET status = 'paid', paid_at = now() WHERE id = %s", [order])

    def _refund(self) -> int:
        if not self._paid:
            return self._pay()
        order = self._paid.pop(self._random.randrange(len(self._paid)))
        self._run(_REFUND, [order])
        return 1

    def _order_and_pay(self) -> int:
        """A row that is inserted and updated in one transaction, sometimes twice."""
        order, rows = self._insert_order()
        self._mark_paid(order)
        if self._random.random() < 0.5:
            self._run(_REFUND, [order])
            return rows + 2
        self._paid.append(order)
        return rows + 1

    def _import_orders(self) -> int:
        """COPY, as in a nightly import: its rows share a WAL address."""
        orders: list[tuple[int, int, Basket]] = []
        for _ in range(self._random.randint(20, 60)):
            order = self._value("SELECT nextval(pg_get_serial_sequence('shop.orders', 'id'))", [])
            orders.append((order, self._random.choice(self._accounts).id, self._basket()))
        with self._connection.cursor() as cursor:
            with cursor.copy("COPY shop.orders (id, user_id, total, items) FROM STDIN") as copy:
                for order, user_id, basket in orders:
                    copy.write_row((order, user_id, basket.total, basket.json))
            with cursor.copy("COPY shop.order_items (order_id, line, user_id, sku, quantity, price) FROM STDIN") as copy:
                for order, user_id, basket in orders:
                    for line, item in enumerate(basket.items, 1):
                        copy.write_row((order, line, user_id, *item))
        self._pending.extend(order for order, _, _ in orders)
        return len(orders) + sum(len(basket.items) for _, _, basket in orders)

    def _subscribe(self) -> int:
        free = [account for account in self._accounts[-50:] if account.subscription is None]
        if not free:
            return self._sign_up()
        account = self._random.choice(free)
        plan = self._random.choice(tuple(_PLANS))
        account.subscription = self._value(
            "INSERT INTO shop.subscriptions (id, user_id, plan, price, paid_until)"
            " VALUES (%s, %s, %s, %s, current_date + 30) RETURNING id",
            [UUID(int=self._random.getrandbits(128), version=4), account.id, plan, _PLANS[plan]],
        )
        return 1

    def _renew(self) -> int:
        """One to five subscriptions by one statement."""
        subscribed = [account.subscription for account in self._accounts if account.subscription]
        if not subscribed:
            return self._subscribe()
        due = self._random.sample(subscribed, min(len(subscribed), self._random.randint(1, 5)))
        self._run("UPDATE shop.subscriptions SET renewals = renewals + 1, paid_until = paid_until + 30 WHERE id = ANY(%s)", [due])
        return len(due)

    def _cancel(self) -> int:
        subscribed = [account for account in self._accounts if account.subscription]
        if not subscribed:
            return self._subscribe()
        account = self._random.choice(subscribed)
        self._run(_CANCEL, [account.subscription])
        account.subscription = None
        return 1

    def _outbox(self) -> int:
        return self._place_in_outbox(str(self._random.choice(self._accounts).id), "Parcel Shipped")

    def _outbox_and_delete(self) -> int:
        """The row is deleted in the transaction that inserted it; its event is delivered, and the outbox never grows."""
        account = str(self._random.choice(self._accounts).id)
        rows = self._place_in_outbox(account, "Newsletter Opened")
        self._run("DELETE FROM cdc_tracker.outbox WHERE event = 'Newsletter Opened' AND user_id = %s", [account])
        return rows

    def _message(self) -> int:
        """An event from a logical message, without a row."""
        account = str(self._random.choice(self._accounts).id)
        number = self._next()
        if self._random.random() < 0.3:
            self._run("SELECT cdc_tracker.identify(%s, %s)", [account, Jsonb({"ticket": number})])
            self._audit("identify message", account, {"ticket": number})
        else:
            self._run("SELECT cdc_tracker.track('Ticket Opened', %s, %s)", [account, Jsonb({"ticket": number})])
            self._audit("track message", account, {"event": "Ticket Opened", "ticket": number})
        return 1

    def _roll_back_to_savepoint(self) -> int:
        """An order and a message that are rolled back to a savepoint, and one order that is committed."""
        account = str(self._random.choice(self._accounts).id)
        try:
            with self._connection.transaction():
                self._insert_order()
                self._run("SELECT cdc_tracker.track('Never Happened', %s, %s)", [account, Jsonb({})])
                raise RolledBack
        except RolledBack:
            return self._order()

    def _roll_back(self) -> int:
        """A whole transaction that is rolled back: it must produce no event."""
        order, _ = self._insert_order()
        self._mark_paid(order)
        self._place_in_outbox(str(self._random.choice(self._accounts).id), "Never Happened")
        raise RolledBack

    def _place_in_outbox(self, user_id: str, event: str) -> int:
        number = self._next()
        self._run(
            "INSERT INTO cdc_tracker.outbox (type, event, user_id, properties) VALUES ('track', %s, %s, %s)",
            [event, user_id, Jsonb({"parcel": number})],
        )
        self._audit("outbox", user_id, {"event": event, "parcel": number})
        return 1

    def _audit(self, what: str, user_id: str, facts: dict[str, object]) -> None:
        self._run("INSERT INTO shop.audit (what, user_id, facts) VALUES (%s, %s, %s)", [what, user_id, Jsonb(facts)])

    def _basket(self) -> Basket:
        skus = self._random.sample(tuple(_SKUS), self._random.randint(1, 4))
        return Basket([(sku, self._random.randint(1, 3), Decimal(_SKUS[sku])) for sku in skus])

    def _long_text(self) -> str:
        return self._random.randbytes(self._random.randint(1500, 4000)).hex()  # 3 to 8 kB: stored outside the row

    def _next(self) -> int:
        """A number that no other connection uses."""
        self._serial += 1
        return self._number * 1_000_000_000 + self._serial

    def _run(self, statement: str, parameters: list[object]) -> None:
        self._connection.execute(statement.encode(), parameters)

    def _value(self, statement: str, parameters: list[object]) -> Any:
        row = self._connection.execute(statement.encode(), parameters).fetchone()
        return cast("tuple[Any, ...]", row)[0]
