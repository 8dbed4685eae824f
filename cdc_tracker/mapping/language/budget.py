"""The budget of an event: what its expressions may cost together, however they are nested.

A budget is a list of one number, which the generated code creates: the steps left.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from cdc_tracker.mapping.language.operators import ExpressionError, type_name
from cdc_tracker.model import Special

MAX_STEPS = 1_000_000  # of all expressions of one event: elements, rounds of comprehensions, 16 characters of text each


def spend(budget: list[int], steps: int) -> None:
    """Takes steps from the budget. Raises ExpressionError if none are left."""
    budget[0] -= steps
    if budget[0] < 0:
        raise ExpressionError(f"the expressions of the event take more than {MAX_STEPS:,} steps")


def rounds(budget: list[int], weight: int, whole: Any) -> Sequence[Any]:
    """What a comprehension iterates over: a list, an object's keys, nothing for None. `weight`: the steps of one round."""
    if whole is None:
        return ()
    if not isinstance(whole, list | tuple | dict):
        raise ExpressionError(f"`for … in` cannot run over {type_name(whole)}")
    spend(budget, len(whole) * weight)
    return list(whole) if isinstance(whole, dict) else whole


def charged(budget: list[int], value: Any) -> Any:
    """The value, after charging the budget for its size as JSON: what it contains twice counts twice."""
    spend(budget, 1 + (_whole(value, budget[0]) if value.__class__ in _CONTAINERS else _cost(value)))
    return value


_CONTAINERS: frozenset[type] = frozenset({list, tuple, dict})


def _whole(value: Any, limit: int) -> int:
    """The cost of a container, in steps. Counting stops once it exceeds `limit`."""
    cost = 0
    containers: list[Any] = [value]
    while containers and cost <= limit:
        container = containers.pop()
        if isinstance(container, dict):
            cost += sum(map(len, container)) >> 4
        cost += len(container)
        for each in container.values() if isinstance(container, dict) else container:
            if each.__class__ in _CONTAINERS:
                containers.append(each)
            else:
                cost += _cost(each)
    return cost


def _cost(value: Any) -> int:
    """The cost of a scalar, in steps, beyond the one that each value takes."""
    kind = value.__class__
    if kind is str or kind is bytes or kind is Special:
        return len(value) >> 4
    if kind is int:
        return int(value.bit_length() >> 6)
    return len(str(value)) >> 4 if kind is Decimal else 0
