"""Rejections as the generated code creates them. All of this runs only when something does not pass.

`detail` shows the value, cut to 80 characters, unless the property is `pii`. Errors of expressions name types, never values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from cdc_tracker.mapping.compiler.checks import Failure
from cdc_tracker.mapping.compiler.scope import MissingValue
from cdc_tracker.mapping.language.operators import ExpressionError, type_name
from cdc_tracker.model import Change, Missing, Rejection, canonical

_SHOWN = 80


class Reject(NamedTuple):
    """A function of (change, the event's id or "", what is wrong), and the name by which the generated code calls it."""

    name: str
    call: Callable[[Change, str, Any], Rejection]


class Rejections:
    """Makes the rejecting functions of one mapping. `field` is the path within the event: `properties.revenue`."""

    def __init__(self, mapping: str) -> None:
        self.mapping = mapping

    def _rejection(self, change: Change, message_id: str, reason: str, field: str, kind: str, detail: str) -> Rejection:
        return Rejection(reason, self.mapping, change.position, change.transaction.committed_at, field, kind, detail, message_id)

    def value(self, reason: str, field: str, expected: str, *, pii: bool, kind: str = "") -> Reject:
        """For a value that fails a check. `kind` is its type if it is passed as a column's text."""

        def reject(change: Change, message_id: str, value: Any) -> Rejection:
            name = kind if kind and value is not None else type_name(value)
            return self._rejection(change, message_id, reason, field, name, f"{expected}{_but(name, value, pii=pii)}")

        return Reject(f"reject_{short(field)}_{reason}", reject)

    def failure(self, field: str) -> Reject:
        """For a Failure that a check returned."""
        return Reject(f"reject_{short(field)}", self._failure)

    def _failure(self, change: Change, message_id: str, failure: Failure) -> Rejection:
        name = type_name(failure.value)
        detail = f"{failure.expected}{_but(name, failure.value, pii=failure.pii)}"
        return self._rejection(change, message_id, failure.reason, failure.path, name, detail)

    def always(self, reason: str, field: str, kind: str, detail: str) -> Reject:
        """Returns a rejection for a fault that is found when the mapping is compiled."""
        return Reject(
            f"reject_{short(field)}_{reason}",
            lambda change, message_id, _: self._rejection(change, message_id, reason, field, kind, detail),
        )

    def missing(self, field: str, label: str) -> Reject:
        """For a column that the row does not carry."""
        return Reject(
            f"reject_{short(field)}_missing",
            lambda change, message_id, missing: self._missing(change, message_id, field, missing, label),
        )

    def _missing(self, change: Change, message_id: str, field: str, missing: Missing, label: str) -> Rejection:
        return self._rejection(change, message_id, missing.reason, field, "", f"{label} is not known: {missing.why}")

    def error(self, field: str) -> Reject:
        """For an exception that an expression raised."""

        def reject(change: Change, message_id: str, error: Any) -> Rejection:
            if isinstance(error, MissingValue):
                return self._missing(change, message_id, field, error.missing, error.column)
            return self._rejection(change, message_id, "expression_error", field, "", describe(error))

        return Reject(f"reject_{short(field) or 'event'}_error", reject)


def short(field: str) -> str:
    """A field's path without `properties.` or `traits.`, as generated code names what belongs to it."""
    return field.removeprefix("properties.").removeprefix("traits.")


def describe(error: Exception) -> str:
    """What went wrong, without any value: only cdc-tracker's own messages are known to show none."""
    if isinstance(error, ExpressionError):
        return str(error)
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    if isinstance(error, UnicodeError):
        return "the result contains half a surrogate pair, which is not text"
    return f"the expression cannot be computed ({type(error).__name__})"


def _but(name: str, value: Any, *, pii: bool) -> str:
    if value is None:
        return ", but is null"
    if pii:
        return f", but is {name}"
    if isinstance(value, str):
        shown = repr(str(value[: _SHOWN + 1]))
    else:
        try:
            shown = canonical(value)
        except (TypeError, ValueError):
            shown = "…"
    if len(shown) > _SHOWN:
        shown = f"{shown[: _SHOWN - 1]}…"
    return f", but is {name} {shown}"
