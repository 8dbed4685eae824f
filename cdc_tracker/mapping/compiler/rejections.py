"""Rejections, as the generated code makes them. All of this runs only when something did not pass.

`detail` shows the value, cut to 80 characters, unless the property is `pii`. What an expression did wrong is told by types only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cdc_tracker.mapping.compiler.checks import Failure
from cdc_tracker.mapping.compiler.scope import MissingValue
from cdc_tracker.mapping.language.operators import ExpressionError, type_name
from cdc_tracker.model import Change, Missing, Rejection, canonical

_SHOWN = 80
Refusal = Callable[[Change, str, Any], Rejection]


class Refusals:
    """Makes the rejecting functions of one mapping: each takes the change, the event's id (or "") and what was wrong."""

    def __init__(self, mapping: str) -> None:
        self.mapping = mapping

    def _make(self, change: Change, message_id: str, reason: str, field: str, kind: str, detail: str) -> Rejection:
        return Rejection(reason, self.mapping, change.position, change.transaction.committed_at, field, kind, detail, message_id)

    def value(self, reason: str, field: str, expected: str, *, pii: bool, kind: str = "") -> Refusal:
        """A value that does not pass a check; `kind` where it comes as a column's text."""

        def refuse(change: Change, message_id: str, value: Any) -> Rejection:
            name = kind if kind and value is not None else type_name(value)
            return self._make(change, message_id, reason, field, name, f"{expected}{_but(name, value, pii=pii)}")

        return refuse

    def failure(self, change: Change, message_id: str, failure: Failure) -> Rejection:
        name = type_name(failure.value)
        detail = f"{failure.expected}{_but(name, failure.value, pii=failure.pii)}"
        return self._make(change, message_id, failure.reason, failure.path, name, detail)

    def always(self, reason: str, field: str, kind: str, detail: str) -> Refusal:
        """What was known when the mapping was compiled."""
        return lambda change, message_id, _: self._make(change, message_id, reason, field, kind, detail)

    def cell(self, field: str, label: str) -> Refusal:
        """A column that the row does not carry."""
        return lambda change, message_id, missing: self._missing(change, message_id, field, missing, label)

    def _missing(self, change: Change, message_id: str, field: str, missing: Missing, label: str) -> Rejection:
        return self._make(change, message_id, missing.reason, field, "", f"{label} is not known: {missing.why}")

    def error(self, field: str) -> Refusal:
        """An expression that raised."""

        def refuse(change: Change, message_id: str, error: Any) -> Rejection:
            if isinstance(error, MissingValue):
                return self._missing(change, message_id, field, error.missing, error.column)
            return self._make(change, message_id, "expression_error", field, "", describe(error))

        return refuse


def describe(error: Exception) -> str:
    """What went wrong, without any value: only our own messages are known to hold none."""
    if isinstance(error, ExpressionError):
        return str(error)
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    if isinstance(error, UnicodeError):
        return "the result holds half a surrogate pair, which is not text"
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
