"""One generated function: `when` first, then the event's id, its values, and one f-string that is the whole JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cdc_tracker import envelope
from cdc_tracker.generated import define
from cdc_tracker.mapping.compiler.expressions import ExpressionCompiler
from cdc_tracker.mapping.compiler.identifiers import write_identity, write_message_id
from cdc_tracker.mapping.compiler.properties import write_members
from cdc_tracker.mapping.compiler.timestamp import write_timestamp
from cdc_tracker.mapping.compiler.writer import MappingFault, RowLayout, Writer, f_string
from cdc_tracker.mapping.schema.declared import Mapping, Placed
from cdc_tracker.model import Change, Event, Op, Rejection

Mapper = Callable[[Change], Event | Rejection | None]


@dataclass(frozen=True)
class Generated:
    """A function, its source, and what cannot work for the relation. With faults the function rejects all that it matches."""

    function: Mapper
    source: str
    faults: tuple[MappingFault, ...]


def make_mapper(mapping: Mapping, layout: RowLayout, op: str, faults: Sequence[MappingFault]) -> Generated:
    """The function of one mapping for one operation. `faults` are those known before, such as columns that do not exist.

    In tracebacks its file is `<mapping shop/orders.yml:12 insert>`.
    """
    writer = write(mapping, layout, op, faults)
    source = _source(writer)
    # the constants hold no builtins, and `source` no text of the mapping's: see writer.py and expressions.py
    function = define("mapper", source, writer.scope.constants, f"mapping {mapping.where} {Op(op).name.lower()}")
    return Generated(function, source, tuple(writer.faults))


def write(mapping: Mapping, layout: RowLayout, op: str, faults: Sequence[MappingFault]) -> Writer:
    """The function as it is written, with all faults; see make_mapper."""
    writer = Writer(mapping, layout, op, faults)
    if mapping.when is not None and {fault.problem.key for fault in faults}.isdisjoint(_keys(mapping, mapping.when)):
        _write_when(writer, mapping.when)
    when = list(writer.lines)
    _write_event(writer)
    if writer.faults:
        first = writer.faults[0]
        writer.lines, writer.message_id = when, "''"
        reject = writer.rejections.always(first.reason, first.field, first.value_type, first.problem.message)
        writer.line(writer.reject(reject, "None"))
    return writer


def _source(writer: Writer) -> str:
    """The whole function. It never raises: an exception that no statement of it catches becomes a rejection."""
    body = [*_lets(writer), "    try:", *("        " + line for line in writer.lines)]
    rows = [row for row in ("new", "old") if any(f"{row}[" in line for line in body)]
    lines = [
        "def mapper(change):",
        *(f"    {row} = change.{row}" for row in rows),
        *(f"    {name} = {source}" for name, source in sorted(writer.scope.variables.items())),
        *body,
        "    except Error as error:",
        f"        return {writer.constant(*reversed(writer.rejections.error('')))}(change, '', error)",
    ]
    return "\n".join(lines) + "\n"


def _lets(writer: Writer) -> Iterator[str]:
    """A function for each value of `let` that the code needs. A comprehension can call it, but could not assign a variable."""
    for let in writer.scope.lets.values():
        shared = [name for name in writer.scope.variables if name in let.source]
        yield f"    def {let.function}():"
        yield f"        nonlocal {', '.join([let.variable, *shared])}"
        yield f"        {let.variable} = {let.source}"
        yield f"        return {let.variable}"


def _keys(mapping: Mapping, placed: Placed) -> set[str]:
    """The keys of the expression and of all that it needs of `let`."""
    return {placed.key, *(mapping.let[name].key for name in placed.expression.lets)}


def _write_when(writer: Writer, when: Placed) -> None:
    writer.line("try:")
    writer.line(f"if not {ExpressionCompiler(writer.scope).truth(when.expression.node)}:", 1)
    writer.line("return None", 2)
    writer.line("except Error as error:")
    writer.line(writer.reject(writer.rejections.error("when"), "error"), 1)


def _write_event(writer: Writer) -> None:
    mapping = writer.mapping
    write_message_id(writer)
    writer.json(f'{{"type":"{mapping.type}",')
    _write_name(writer)
    writer.template.append('"messageId":"{message_id}"')
    write_identity(writer)
    if mapping.body:
        writer.json(f',"{mapping.body_name}":{{')
        write_members(writer, mapping.body)
        writer.json("}")
    writer.line("transaction = change.transaction")
    _write_context(writer)
    write_timestamp(writer)
    writer.json("}")
    body = f_string(*writer.template)
    writer.line(f"body = {body}")
    writer.line(
        f"return Event(message_id, {mapping.type!r}, body.encode(), {mapping.key!r}, change.position, transaction.committed_at)"
    )


def _write_name(writer: Writer) -> None:
    mapping = writer.mapping
    if not mapping.name_key:
        return
    if mapping.naming is None:
        writer.json(f'"{mapping.name_key}":{envelope.quote(mapping.names[0])},')
        return
    variable, (source, _) = writer.variable(f"json_{mapping.name_key}"), writer.value(mapping.naming)
    writer.guarded(f"{variable} = {writer.runtime(envelope.quote)}({source})", mapping.name_key)
    writer.json(f'"{mapping.name_key}":')
    writer.piece(variable)
    writer.json(",")


def _write_context(writer: Writer) -> None:
    """The declared context, then `source` as in envelope.source_block, then `library`."""
    writer.json(',"context":{')
    if writer.mapping.context:
        write_members(writer, writer.mapping.context)
        writer.json(",")
    writer.line("lsn_text = '%X/%X' % (change.lsn >> 32, change.lsn & 0xFFFFFFFF)")
    writer.json(f'"source":{writer.layout.source_prefix},"op":"{writer.op}","lsn":"')
    writer.template.append('{lsn_text}","txId":{transaction.xid},"ts_ms":{transaction.committed_at // 1000}')
    if writer.op == Op.READ:
        writer.json(envelope.SNAPSHOT)
    writer.json(f'}},"library":{envelope.LIBRARY}}},"timestamp":')
