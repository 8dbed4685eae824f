"""The types of parts of values: elements, members, slices."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace

from cdc_tracker.config.nearest import nearest
from cdc_tracker.mapping.typing import comparisons
from cdc_tracker.mapping.typing.comparisons import Operand
from cdc_tracker.mapping.typing.reporter import Names, Reporter
from cdc_tracker.mapping.typing.types import ANY, NULL, TEXT, Type, common

_INDEXED = frozenset({"text", "array", "object"})


class Parts(Reporter):
    """Types `whole[key]` and `whole[start:stop]`."""

    def _part(self, node: ast.Subscript, whole: Operand, names: Names) -> Type:
        assert isinstance(node.slice, ast.Slice)  # noqa: S101  the caller looked
        for bound in (node.slice.lower, node.slice.upper, node.slice.step):
            if bound is not None:
                self.type(bound, names)
        if whole.type.kind == "null":
            return NULL
        if whole.type.family not in {"", "text", "array"} and not whole.type.nested:
            self.refuse(node, "a part can be taken of text and lists", whole)
        if whole.type.family == "array" and not whole.type.nested:
            return Type("array", whole.type.nullable, element=whole.type.element)
        return replace(TEXT, nullable=whole.type.nullable) if whole.type.family == "text" else ANY

    def _item(self, node: ast.expr, whole: Operand, key: Operand) -> Type:
        """`whole[key]`."""
        if whole.type.kind == "null" or key.type.kind == "null":
            return NULL
        if whole.type.nested or not whole.type.family:
            return ANY
        if whole.type.family not in _INDEXED:
            self.refuse(node, "[…] takes an element of text, a list or an object", whole)
        elif key.type.family and key.type.family != ("text" if whole.type.kind == "object" else "number"):
            message = f"{whole.text} is {whole.type}, whose {_keyed(whole.type)}; {key.text} is {key.type}"
            self.error(node, message, comparisons.from_text(whole))
        elif whole.type.kind == "object":
            return self._member(node, whole, key.type)
        elif whole.type.items is not None:
            return self._element(node, whole.type.items, key.type)
        elif whole.type.family == "text":
            if whole.type.holds == "array":
                self.warn(node, f"{whole.text} is {whole.type}, as '{{a,b}}': this is one of its characters")
            return Type("text")
        return replace(whole.type.element, nullable=True) if whole.type.element else ANY

    def _member(self, node: ast.expr, whole: Operand, key: Type) -> Type:
        keys = whole.type.keys
        if keys is None:
            return ANY
        wanted = key.labels if key.labels is not None else frozenset(keys)
        if wanted and wanted.isdisjoint(keys):
            wrong = min(wanted)
            self.error(node, f"there is never a key {wrong!r}{nearest(wrong, list(keys))}")
            return ANY
        self.possible.add(node)
        found = common(keys[each] for each in keys if each in wanted)
        sure = key.labels is not None and wanted <= keys.keys() and not key.nullable
        return found if sure and not whole.type.nullable else replace(found, nullable=True)

    def _element(self, node: ast.expr, items: Sequence[Type], key: Type) -> Type:
        if key.value.__class__ is not int:
            return replace(common(items), nullable=True) if items else NULL
        if -len(items) <= key.value < len(items):
            self.possible.add(node)
            found = items[key.value]
            return replace(found, nullable=found.nullable or key.nullable)
        self.error(node, f"there is never an element [{key.value}]: the list has {len(items)}, counted from 0")
        return ANY


def _keyed(whole: Type) -> str:
    return "keys are text" if whole.kind == "object" else "elements are counted from 0"
