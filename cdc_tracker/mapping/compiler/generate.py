"""One generated function: `when` first, then the event's id, its values, and one f-string that is the whole JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdc_tracker import envelope
from cdc_tracker.mapping.compiler.identifiers import write_identity, write_message_id
from cdc_tracker.mapping.compiler.properties import write_members
from cdc_tracker.mapping.compiler.scope import UNSET
from cdc_tracker.mapping.compiler.times import write_timestamp
from cdc_tracker.mapping.compiler.writer import Fault, Table, Writer, f_string
from cdc_tracker.mapping.language.expression_compiler import ExpressionCompiler
from cdc_tracker.mapping.language.operators import MAX_STEPS
from cdc_tracker.mapping.schema.declared import Mapping
from cdc_tracker.model import Change, Event, Op, Rejection

Mapper = Callable[[Change], Event | Rejection | None]


@dataclass(frozen=True)
class Made:
    """A function, its source for those who want to read it, and what cannot work for this relation: then it only rejects."""

    function: Mapper
    source: str
    faults: tuple[Fault, ...]


def make_mapper(mapping: Mapping, table: Table, op: str, faults: Sequence[Fault]) -> Made:
    """The function of one mapping for one operation. `faults` are those known already, such as columns that are not there."""
    writer = Writer(mapping, table, op, faults)
    if mapping.when is None or mapping.when.key not in {fault.problem.key for fault in faults}:
        _write_when(writer)
    when = list(writer.lines)
    _write_event(writer)
    if writer.faults:
        first = writer.faults[0]
        writer.lines, writer.message_id = when, '""'
        refusal = writer.refusals.always(first.reason, first.field, first.value_type, first.problem.message)
        writer.line(writer.refuse(refusal, "None"))
    source = _source(writer)
    namespace = writer.scope.constants
    code = compile(source, f"<mapping {mapping.key!r} {op}>", "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102  our own source, without builtins: see writer.py and expression_compiler.py
    return Made(namespace["mapper"], source, tuple(writer.faults))


def _source(writer: Writer) -> str:
    """The whole function. Nothing that happens in it gets out: what no rejection of its own foresees is one, too."""
    body = ["        " + line for line in writer.lines]
    unset = writer.runtime(UNSET)
    rows = [(letter, row) for letter, row in (("n", "new"), ("o", "old")) if any(f"{letter}[" in line for line in body)]
    lines = [
        "def mapper(c):",
        *(f"    {letter} = c.{row}" for letter, row in rows),
        *(f"    {name} = {unset}" for name in sorted(writer.scope.kept)),
        *([f"    {writer.scope.budget} = [{MAX_STEPS}]"] if writer.scope.metered else ()),
        "    try:",
        *body,
        "    except Error as e:",
        f"        return {writer.constant(writer.refusals.error(''))}(c, '', e)",
    ]
    return "\n".join(lines) + "\n"


def _write_when(writer: Writer) -> None:
    if writer.mapping.when is not None:
        writer.line("try:")
        writer.line(f"if not {ExpressionCompiler(writer.scope).truth(writer.mapping.when.expression.node)}:", 1)
        writer.line("return None", 2)
        writer.line("except Error as e:")
        writer.line(writer.refuse(writer.refusals.error("when"), "e"), 1)


def _write_event(writer: Writer) -> None:
    mapping = writer.mapping
    write_message_id(writer)
    writer.json(f'{{"type":"{mapping.type}",')
    if mapping.type in {"track", "page", "screen"}:
        writer.json(f'"{"event" if mapping.type == "track" else "name"}":{envelope.quote(mapping.name)},')
    writer.template.append('"messageId":"{m}"')
    write_identity(writer)
    if mapping.body:
        writer.json(f',"{mapping.body_name}":{{')
        write_members(writer, mapping.body)
        writer.json("}")
    writer.line("t = c.transaction")
    _write_context(writer)
    write_timestamp(writer)
    writer.json("}")
    body = f_string(*writer.template)
    writer.line(f"return Event(m, {mapping.type!r}, {body}.encode(), {mapping.key!r}, c.position, t.committed_at)")


def _write_context(writer: Writer) -> None:
    """The declared context, then `source` as envelope.source_block makes it, then `library`."""
    writer.json(',"context":{')
    if writer.mapping.context:
        write_members(writer, writer.mapping.context)
        writer.json(",")
    writer.line("l = '%X/%X' % (c.lsn >> 32, c.lsn & 0xFFFFFFFF)")
    writer.json(f'"source":{writer.table.source_prefix},"op":"{writer.op}","lsn":"')
    writer.template.append('{l}","txId":{t.xid},"ts_ms":{t.committed_at // 1000}')
    if writer.op == Op.READ:
        writer.json(envelope.SNAPSHOT)
    writer.json(f'}},"library":{envelope.LIBRARY}}},"timestamp":')
