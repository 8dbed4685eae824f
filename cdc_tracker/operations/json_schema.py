"""The JSON Schema of cdc-tracker.yml and of mapping files, for editors: made from the models that read them.

Draft 7, the newest that yaml-language-server supports everywhere. Whatever loads is valid; what a schema cannot say (that an
expression is one, that two keys go together) is left to `check`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from cdc_tracker.config.config import Config
from cdc_tracker.destinations import registry
from cdc_tracker.errors import CdcTrackerError, ConfigError
from cdc_tracker.mapping.schema import shape
from cdc_tracker.operations import snapshot
from cdc_tracker.operations.scaffold_mappings import column_expression
from cdc_tracker.tables import Table
from cdc_tracker.units import parse_duration, parse_size

FILE = "cdc-tracker.schema.json"
_REFERENCE = {"type": "string", "pattern": r"\$\{"}  # replaced before a value is read
_NUMBER = {"type": "string", "pattern": r"^\s*[-+]?[0-9.]+\s*[A-Za-z]*\s*$"}
_WORDS = ["true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n"]
_EXPRESSION = {"type": ["string", "number", "boolean"]}
_NAME = "^[a-z0-9_-]{1,40}$"


def _either(*schemas: Mapping[str, Any]) -> JsonSchemaValue:
    return {"anyOf": [dict(each) for each in schemas]}


# What a validator that runs before the type's own accepts, by the type's schema.
_BEFORE: dict[Callable[..., Any], Callable[[JsonSchemaValue], JsonSchemaValue]] = {
    shape.expression: lambda _: dict(_EXPRESSION),
    shape.property_: lambda given: _either(_EXPRESSION, given),
    shape.listed: lambda given: _either(given["items"], given),
    shape.finite: lambda _: {"type": "number"},
    parse_duration: lambda _: _either({"type": "number"}, _NUMBER),
    parse_size: lambda _: _either({"type": "number"}, _NUMBER),
}


class _Generator(GenerateJsonSchema):
    """Accepts all that a validator may change into what its type wants. Any value, if it is not known what that is."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        accepted = _BEFORE.get(schema["function"]["function"])
        return accepted(self.generate_inner(schema["schema"])) if accepted else {}

    def function_wrap_schema(self, schema: core_schema.WrapValidatorFunctionSchema) -> JsonSchemaValue:
        return {}

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> JsonSchemaValue:
        return {}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        return {"type": "number"}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        return {key: each for key, each in made.items() if key != "default" or each is not None}  # an editor would write it

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # a key is its own title


def text(tables: Iterable[Table] = ()) -> str:
    """The schema. `tables`: those that mappings can name, to complete their names and columns. A line for each definition."""
    made = document(tables)
    definitions = [
        f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}" for name, each in made.pop("definitions").items()
    ]
    head = json.dumps(made, ensure_ascii=False).removesuffix("}")
    return f'{head},\n"definitions": {{\n' + ",\n".join(definitions) + "\n}}\n"


def document(tables: Iterable[Table] = ()) -> dict[str, Any]:
    """As `text`, as a value."""
    classes = {name: settings for name in registry.names() if (settings := _settings(name)) is not None}
    references, config = _definitions([Config, *classes.values()])
    for name, definition in config.items():
        definition.pop("required", None)  # CDC_TRACKER_… variables can give any of them
        config[name] = _referring(definition)
    found = {name: references[each, "validation"] for name, each in classes.items()}
    config["Config"]["properties"]["destinations"] = _destinations(found)
    config["Config"]["required"] = ["version", "source"]
    _, mappings = _definitions([shape.FileShape])
    _name_tables(mappings, list(tables))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": "cdc-tracker.yml, which has a `source`, and mapping files",
        "type": "object",
        "if": {"required": ["source"]},
        "then": {"$ref": "#/definitions/Config"},
        "else": {"$ref": "#/definitions/FileShape"},
        "definitions": {**config, **mappings},
    }


def _settings(name: str) -> type[BaseModel] | None:
    """None if the destination cannot be loaded here: then it may have any settings."""
    try:
        return registry.load(name).Settings
    except ConfigError:
        return None


def _definitions(models: list[type[BaseModel]]) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    """(a reference by model, the definitions that they need by name)."""
    references, made = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/definitions/{model}", schema_generator=_Generator
    )
    definitions = {name: {key: each for key, each in made["$defs"][name].items() if key != "title"} for name in made["$defs"]}
    return references, definitions


def _referring(schema: Any) -> Any:
    """The schema of values of which each may be a reference, or text that is read as a number or a boolean."""
    if not isinstance(schema, dict):
        return schema
    inner = dict(schema)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in inner:
            inner[key] = [_referring(each) for each in inner[key]]
    for key in ("items", "additionalProperties"):
        if key in inner:
            inner[key] = _referring(inner[key])
    if "properties" in inner:
        inner["properties"] = {name: _referring(each) for name, each in inner["properties"].items()}
    kind = inner.get("type")
    if kind in ("integer", "number"):
        return _about(inner) | _either(inner, _NUMBER, _REFERENCE)
    if kind == "boolean":
        return _about(inner) | _either(inner, {"enum": [*_WORDS, 0, 1]}, _REFERENCE)
    if kind == "string" and {"enum", "pattern", "const", "minLength"} & inner.keys():
        return _about(inner) | _either(inner, _REFERENCE)
    return inner


def _about(schema: dict[str, Any]) -> dict[str, Any]:
    """What an editor shows of a schema, taken out of it."""
    return {key: schema.pop(key) for key in ("description", "default") if key in schema}


def _destinations(settings: Mapping[str, Any]) -> dict[str, Any]:
    each = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": registry.names()}},
        "allOf": [{"if": {"properties": {"type": {"const": name}}}, "then": reference} for name, reference in settings.items()],
    }
    return {"type": "object", "propertyNames": {"pattern": _NAME}, "additionalProperties": each}


def _name_tables(definitions: dict[str, Any], tables: list[Table]) -> None:
    """Lets an event name one of the tables, and offers that table's columns where it takes expressions."""
    event = definitions["EventShape"]
    names = event["properties"]["table"]
    if not tables:
        names["pattern"] = r"\."
        return
    names["anyOf"] = [{"enum": [table.table for table in tables]}, {"pattern": '"'}]
    event["allOf"] = [
        {"if": {"properties": {"table": {"const": table.table}}}, "then": {"properties": _offered(table)}} for table in tables
    ]


def _offered(table: Table) -> dict[str, Any]:
    columns = {"examples": [column_expression(column) for column in table.columns]}
    keys = ("user_id", "anonymous_id", "group_id", "previous_id", "timestamp", "id", "when")
    return dict.fromkeys(keys, columns) | {key: {"additionalProperties": columns} for key in ("properties", "traits", "context")}


def known_tables(config: Config | None, path: Path | None) -> tuple[tuple[Table, ...], str]:
    """The tables that a mapping can name, and where they are from; empty if there is no catalog.

    `path`: a saved catalog; None: the one beside the configuration, else the database. Raises ConfigError for a given path.
    """
    if path is not None:
        return snapshot.read(path).tables, str(path)
    if config is None:
        return (), ""
    try:
        beside = config.base / snapshot.DEFAULT_FILE
        found = snapshot.read(beside) if beside.exists() else snapshot.take(config)
    except CdcTrackerError:
        return (), ""
    return found.tables, str(beside) if beside.exists() else f"the database {found.database}"
