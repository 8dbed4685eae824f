"""The parts of a mapping's `when`, each as a mapping of its own: the compiler and the pipeline tell which of them are true."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

from cdc_tracker.mapping.compiler.scope import column_of
from cdc_tracker.mapping.language.expressions import Expression
from cdc_tracker.mapping.language.parsing import parse
from cdc_tracker.mapping.schema.declared import Mapping, Placed


def parts(mapping: Mapping) -> tuple[Placed, ...]:
    """The operands of the top-level `and` of `when`, in order; `when` itself if it has none; empty without a `when`."""
    when = mapping.when
    if when is None:
        return ()
    nodes = list(_operands(when.expression.node))
    return tuple(replace(when, expression=_part(mapping, when.expression, node)) for node in nodes) if len(nodes) > 1 else (when,)


def alone(mapping: Mapping, part: Placed, key: str) -> Mapping:
    """A mapping of the same changes that makes an event exactly if the part is true, and a rejection of `when` if it raises.

    It has nothing else that could decide: its event has no value of the row. `part`: one of `parts(mapping)`.
    """
    whole = mapping.when.expression if mapping.when else part.expression
    return replace(
        mapping,
        key=key,
        type="track",
        naming=None,
        let={name: let for name, let in mapping.let.items() if name in whole.lets},
        when=replace(part, expression=replace(whole, node=part.expression.node)),
        user_id=Placed(parse("'-'"), mapping.where, "user_id"),
        anonymous_id=None,
        group_id=None,
        previous_id=None,
        timestamp=None,
        id=None,
        body=(),
        context=(),
    )


def _operands(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            yield from _operands(value)
    else:
        yield node


def _part(mapping: Mapping, whole: Expression, node: ast.expr) -> Expression:
    """The part with its own text, columns and names of `let`."""
    source = whole.text.strip()
    source = f"({source}\n)" if "\n" in source else source  # as `parse` reads it
    nodes = [each for each in ast.walk(node) if isinstance(each, ast.expr)]
    names = {each.id for each in nodes if isinstance(each, ast.Name)}
    rows = {column_of(each) for each in nodes}
    if "entered" in names:
        rows |= {("old", found[1]) for found in rows if found}
    return replace(
        whole,
        text=ast.get_source_segment(source, node) or whole.text,
        node=node,
        uses=tuple(use for use in whole.uses if (use.row, use.name) in rows),
        lets=frozenset(let for name in names & whole.lets for let in (name, *mapping.let[name].expression.lets)),
    )
