"""One event of a mapping file → Mapping, with all that is wrong with it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from cdc_tracker.config.yaml_file import Document, Loc, dotted
from cdc_tracker.errors import Problem
from cdc_tracker.mapping.language.checking import refused_name, refused_zone
from cdc_tracker.mapping.language.expressions import Expression, Lets, SyntaxProblem
from cdc_tracker.mapping.language.parsing import parse
from cdc_tracker.mapping.schema.declared import Mapping, Member, Placed
from cdc_tracker.mapping.schema.shape import MAX_NAME, Defaults, EventShape, Properties, Property

_OBJECT_ACTION = re.compile(r"[A-Z0-9][A-Za-z0-9]*(?: [A-Z0-9][A-Za-z0-9]*)+")


class EventReader:
    """Reads one event of a file, with the file's defaults, and collects its problems."""

    def __init__(self, document: Document, defaults: Defaults, event: EventShape, loc: Loc) -> None:
        self.document = document
        self.defaults = defaults
        self.event = event
        self.loc = loc
        self.problems: list[Problem] = []
        self.let = self._let()

    def problem(self, loc: Loc, message: str, hint: str = "", severity: str = "error") -> None:
        self.problems.append(Problem(self.document.where(loc), dotted(loc), message, hint, severity))

    def mapping(self) -> Mapping:
        """The mapping; of no use if there are errors among `problems`."""
        event, given = self.event, self.event.model_fields_set
        self._check_event()
        names, naming = self._names()
        carried = event.traits if event.type in {"identify", "group"} else event.properties
        body_name = "traits" if event.type in {"identify", "group"} else "properties"
        return Mapping(
            key=event.key or names[0],
            names=names,
            naming=naming,
            description=event.description,
            table=event.table,
            on=tuple(dict.fromkeys(event.on if "on" in given else self.defaults.on or event.on)),
            type=event.type,
            where=self.document.where((*self.loc, "name")),
            let=self.let,
            when=self.placed("when", event.when),
            user_id=self.inherited("user_id"),
            anonymous_id=self.inherited("anonymous_id"),
            group_id=self.placed("group_id", event.group_id),
            previous_id=self.placed("previous_id", event.previous_id),
            timestamp=self.inherited("timestamp"),
            id=tuple(self.expression((*self.loc, "id", index), text) for index, text in enumerate(event.id))
            if event.id
            else None,
            body=self.members(carried or {}, (*self.loc, body_name), body_name),
            context=self._context(),
            destinations=self._destinations(),
            backfill=event.backfill,
            special_values=event.special_values if "special_values" in given else self.defaults.special_values or "text",
            timezone=self._timezone(),
            examples=tuple(event.examples),
            example_places=tuple(self.document.where((*self.loc, "examples", index)) for index in range(len(event.examples))),
        )

    def _check_event(self) -> None:
        """Checks that concern several keys."""
        event, loc = self.event, self.loc
        for message in self._identity():
            self.problem(loc, message, "Every event needs to say who it is about.")
        if event.type not in {"group"} and event.group_id is not None:
            self.problem((*loc, "group_id"), f"is for group events, not for {event.type}", "Write context: {groupId: …}.")
        if event.type != "alias" and event.previous_id is not None:
            self.problem((*loc, "previous_id"), f"is for alias events, not for {event.type}")
        wrong, right = ("properties", "traits") if event.type in {"identify", "group"} else ("traits", "properties")
        if getattr(event, wrong) is not None:
            self.problem((*loc, wrong), f"an event of type {event.type} has {right}, not {wrong}")
        if event.backfill and not event.id:
            self.problem(
                (*loc, "backfill"),
                "needs `id`: an event read from the table must have the same id as from the stream",
                "Declare the values that identify the event, such as id: [new.id].",
            )
        if event.backfill:
            self._check_backfill()

    def _names(self) -> tuple[tuple[str, ...], Placed | None]:
        """The names that the event can have, and the expression that chooses one."""
        event, loc, naming = self.event, (*self.loc, "name"), None
        if isinstance(event.name, str):
            names: tuple[str, ...] = (event.name,)
            self._check_plain(event.name)
        else:
            naming = self.expression((*loc, "value"), event.name.value)
            names = naming.expression.texts
            self._check_computed(names, loc)
        for name in names if event.type == "track" else ():
            if not _OBJECT_ACTION.fullmatch(name):
                such = "does not have the form `Object Action`, such as Order Paid"
                self.problem(loc, such if naming is None else f"{name!r} {such}", severity="warning")
        return names or ("",), naming

    def _check_plain(self, name: str) -> None:
        """Warns of an expression that is written as plain text."""
        with contextlib.suppress(SyntaxProblem):
            if name[0] in "'\"" and len(parse(name, {each: let.expression for each, let in self.let.items()}).texts) > 1:
                hint = "A name that the row chooses is written name: {value: …}."
                self.problem((*self.loc, "name"), "is sent as it is written", hint, "warning")

    def _check_computed(self, names: Sequence[str], loc: Loc) -> None:
        if not names:
            self.problem(
                loc,
                "must choose between texts by `if … else …`, so that every name is known before anything runs",
                "Such as {value: \"'Plan Upgraded' if new.tier > old.tier else 'Plan Downgraded'\"}.",
            )
        if not all(0 < len(name) <= MAX_NAME for name in names):
            self.problem(loc, f"chooses a name that is empty or longer than {MAX_NAME} characters")
        if self.event.key is None:
            self.problem(self.loc, "needs a `key`: its name is computed, and ids and the ledger need one that stays")
        if self.event.type not in {"track", "page", "screen"}:
            self.problem(loc, f"must be plain text: the name of an event of type {self.event.type} is not sent")

    def _check_backfill(self) -> None:
        """Warnings about what a row read from the table cannot supply."""
        loc = (*self.loc, "backfill")
        if self.event.timestamp is None and self.defaults.timestamp is None:
            self.problem(
                loc,
                "the event has no `timestamp`: with a backfill it gets the time at which its row is read",
                "Declare the column that says when it happened, such as timestamp: new.paid_at.",
                severity="warning",
            )
        on = self.event.on if "on" in self.event.model_fields_set else self.defaults.on or self.event.on
        if set(on) == {"delete"}:
            self.problem(
                loc,
                "has no effect for an event on delete alone: deleted rows are not in the table, and old is None in a backfill",
                severity="warning",
            )

    def _identity(self) -> Iterator[str]:
        event, defaults = self.event, self.defaults
        user = event.user_id or defaults.user_id
        someone = user or event.anonymous_id or defaults.anonymous_id
        if event.type == "alias":
            missing = [name for name, value in (("previous_id", event.previous_id), ("user_id", user)) if value is None]
            if missing:
                yield f"an alias event needs previous_id and user_id; {' and '.join(missing)} is missing"
            return
        if event.type == "group" and event.group_id is None:
            yield "a group event needs group_id"
        if someone is None:
            yield f"a {event.type} event needs user_id or anonymous_id"

    def inherited(self, name: str) -> Placed | None:
        """The event's expression, else the file's default."""
        own = getattr(self.event, name)
        if own is not None:
            return self.expression((*self.loc, name), own)
        default = getattr(self.defaults, name)
        return self.expression(("defaults", name), default) if default is not None else None

    def placed(self, name: str, text: str | None) -> Placed | None:
        return self.expression((*self.loc, name), text) if text is not None else None

    def _let(self) -> dict[str, Placed]:
        """What the event names; each may name those before it."""
        found: dict[str, Placed] = {}
        lets: dict[str, Expression | None] = dict.fromkeys(self.event.let)
        for name, text in self.event.let.items():
            loc = (*self.loc, "let", name)
            if refused := refused_name(name):
                self.problem(loc, refused)
            found[name] = self.expression(loc, text, lets)
            lets[name] = found[name].expression
        return found

    def expression(self, loc: Loc, text: str, lets: Lets | None = None) -> Placed:
        """The expression at `loc`. It may name what the event's `let` does, unless it is a default of the file."""
        where, key = self.document.where(loc), dotted(loc)
        if lets is None:
            lets = {name: placed.expression for name, placed in self.let.items()} if loc[0] != "defaults" else {}
        try:
            return Placed(parse(text, lets), where, key)
        except SyntaxProblem as problem:
            column = f"column {problem.column}: " if problem.column else ""
            self.problem(loc, f"{column}{problem}", f"in: {text.strip()[:200]}")
            return Placed(parse("None"), where, key)

    def _destinations(self) -> tuple[str, ...] | None:
        names = self.event.destinations if "destinations" in self.event.model_fields_set else self.defaults.destinations
        if names == []:
            self.problem((*self.loc, "destinations"), "names no destination; omit it to send to all")
        return tuple(dict.fromkeys(names)) if names is not None else None

    def _timezone(self) -> str | None:
        event, defaults = self.event.timezone, self.defaults.timezone
        name, loc = (event, self.loc) if event is not None else (defaults, ("defaults",))
        if name is not None and (refused := refused_zone(name)):
            self.problem((*loc, "timezone"), refused)
        return name

    def _context(self) -> tuple[Member, ...]:
        own = self.members(self.event.context, (*self.loc, "context"), "context")
        shared = {name: rules for name, rules in self.defaults.context.items() if name not in self.event.context}
        return (*self.members(shared, ("defaults", "context"), "context"), *own)

    def members(self, properties: Properties, loc: Loc, path: str) -> tuple[Member, ...]:
        return tuple(self.member(name, rules, (*loc, name), f"{path}.{name}") for name, rules in properties.items())

    def member(self, name: str, rules: Property, loc: Loc, path: str) -> Member:
        where, key = self.document.where(loc), dotted(loc)
        if rules.is_const:
            return Member(name, path, where, key, rules)
        if rules.value is not None:
            value_loc = (*loc, "value") if (*loc, "value") in self.document.values else loc
            self._checks_only(rules, loc)
            return Member(name, path, where, key, rules, self.expression(value_loc, rules.value))
        if rules.properties is None:
            self.problem(loc, "has no value: declare `value`, `const`, or `properties` with values of their own")
            return Member(name, path, where, key, rules)
        if rules.checked and (rules.type not in {None, "object"} or rules.items or rules.enum):
            self.problem(loc, "is an object of its `properties`, which allows no other checks")
        return Member(name, path, where, key, rules, members=self.members(rules.properties, (*loc, "properties"), path))

    def _checks_only(self, rules: Property, loc: Loc) -> None:
        """Below a `value`, `properties` and `items` only check the value, and must not declare values themselves."""
        below = [((*loc, "properties", name), inner) for name, inner in (rules.properties or {}).items()]
        if rules.items is not None:
            below.append(((*loc, "items"), rules.items))
        for inner_loc, inner in below:
            if inner.value is not None or inner.is_const:
                self.problem(
                    inner_loc, "cannot have a value of its own: the object around it has a `value`, which this only checks"
                )
            self._checks_only(inner, inner_loc)
