"""cdc-tracker.yml and the environment → Config. Each part owns its own Settings model; this file puts them together.

The environment wins over the file: `CDC_TRACKER_SOURCE__URL` overrides `source.url`, `null` there is none, and
`CDC_TRACKER_SOURCE__URL_FILE` names a file that holds it. References in the file: see references.py.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError
from pydantic.functional_validators import AfterValidator, PlainValidator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from cdc_tracker import documents, logs
from cdc_tracker.destinations import registry
from cdc_tracker.destinations.base import NOTHING_MORE, Destination, DestinationSettings
from cdc_tracker.destinations.dry_run import dry
from cdc_tracker.documents import Document, Loc, dotted, nearest
from cdc_tracker.errors import ConfigError, MappingError, Problem
from cdc_tracker.journal import JournalSettings
from cdc_tracker.logs import LogSettings
from cdc_tracker.references import ENV_PREFIX, FROM_FILE, Resolved, overriding
from cdc_tracker.sources.postgres.needs import OUTBOX, Need
from cdc_tracker.sources.postgres.settings import SourceSettings
from cdc_tracker.state import SourceRecord, StateSettings
from cdc_tracker.units import Duration

if TYPE_CHECKING:
    from cdc_tracker.mapping import Mappings
    from cdc_tracker.pipeline.pipeline import Pipeline

DEFAULT_FILE = "cdc-tracker.yml"
_URL_PASSWORD = re.compile(r"://[^\s:/@]*:([^\s@]+)@")
_KNOWN_ERRORS = frozenset(get_args(ErrorType))
_HIDDEN = SecretStr("hidden")


class HttpSettings(BaseModel):
    """Where /healthz, /readyz and /metrics answer. `port: null` turns them off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int | None = Field(default=9464, ge=0, le=65535)


def _raw_destination(value: object) -> object:
    """Which settings class holds is known only from `type`: `load` validates each by its own class afterwards."""
    if not isinstance(value, dict):
        raise ValueError("expected a mapping with a `type`, such as {type: jsonl, path: events.jsonl}")
    return value


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", name):
        raise ValueError("a destination's name is made of a-z, 0-9, _ and -, at most 40 of them")
    return name


DestinationName = Annotated[str, AfterValidator(_plain_name)]


class Config(BaseSettings):
    """The whole configuration, checked. Its repr shows no secret."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_parse_none_str="null"
    )

    version: Literal[1]
    source: SourceSettings
    data_dir: Path = Path("data")
    journal: JournalSettings = Field(default_factory=JournalSettings)
    state: StateSettings = Field(default_factory=StateSettings)
    mappings: list[Path] = [Path("mappings")]
    destinations: dict[DestinationName, Annotated[DestinationSettings, PlainValidator(_raw_destination)]] = Field(
        default_factory=dict
    )
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    drain_timeout: Duration = 30.0
    readable_by: Literal["owner", "group", "everyone"] = "owner"
    _path: Path = PrivateAttr(default=Path(DEFAULT_FILE))
    _from_files: frozenset[str] = PrivateAttr(default=frozenset())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = {
                name: value for name, value in env_settings.env_vars.items() if not name.upper().endswith(FROM_FILE)
            }
        return env_settings, init_settings

    @property
    def path(self) -> Path:
        """The file that this was read from."""
        return self._path

    @property
    def base(self) -> Path:
        """The folder that relative paths start from: the file's."""
        return self._path.parent

    @property
    def data(self) -> Path:
        """`data_dir`, absolute."""
        return self.base / self.data_dir

    @property
    def state_url(self) -> str:
        return self.state.location(self.data)

    @property
    def journal_url(self) -> str:
        return self.journal.location(self.data)

    @property
    def umask(self) -> int:
        """For the process: `readable_by` holds for the files that destinations write. Those in data_dir are the owner's alone."""
        return {"owner": 0o077, "group": 0o027, "everyone": 0o022}[self.readable_by]

    @property
    def wake_dir(self) -> Path:
        """Where processes of this machine wake each other."""
        return self.data / "wake"

    @property
    def mapping_paths(self) -> list[Path]:
        return [self.base / path for path in self.mappings]

    def open_destination(self, name: str, *, dry_run: bool = False) -> Destination:
        """The destination of that name, ready to deliver; for a dry run what stands for it. The caller closes it."""
        if name not in self.destinations:
            raise ConfigError(f"{self.path}: there is no destination {name!r}{nearest(name, list(self.destinations))}")
        settings = self.destinations[name]
        kind = registry.described(settings)
        return (dry(kind) if dry_run else kind)(name, settings, self.base)

    def load_mappings(self) -> Mappings:
        """Every mapping file. Raises MappingError, also where a mapping names a destination that is not configured."""
        from cdc_tracker.mapping import load as load_files  # noqa: PLC0415  most commands do without it

        mappings = load_files(self.mapping_paths)
        problems = [
            Problem(mapping.where, "destinations", f"there is no destination {name!r}{nearest(name, list(self.destinations))}")
            for mapping in mappings.all
            for name in mapping.destinations or ()
            if name not in self.destinations
        ]
        if problems:
            raise MappingError(problems)
        return mappings

    def captured_tables(self, mappings: Mappings) -> list[str]:
        """`schema.table` of those that the mappings name, and the outbox."""
        return sorted({*mappings.tables(), *([self.source.outbox.table] if self.source.outbox else [])})

    def needs(self, mappings: Mappings) -> dict[str, Need]:
        """What mappings and destinations use of each captured table."""
        wants = [destination.requirements for destination in self.destinations.values()]
        raw = any(each.raw for each in wants)
        needs = {} if self.source.outbox is None else {self.source.outbox.table: replace(OUTBOX, every_change=raw)}
        for table in mappings.tables():
            found = mappings.for_table(table)
            keys = {name for each in wants for name in each.key_columns.get(table, ())}
            base = needs.get(table, Need(frozenset()))
            needs[table] = Need(
                operations=base.operations.union(on for mapping in found for on in mapping.on),
                columns=frozenset(name for mapping in found for name in mapping.new_columns) | keys,
                old_columns=frozenset(name for mapping in found for name in mapping.old_columns),
                where=found[0].where,
                backfill=any(mapping.backfill for mapping in found),
                every_change=raw,
                every_column=raw or base.every_column,
            )
        return needs

    def translator(
        self,
        record: SourceRecord,
        destination: str | None,
        mappings: Mappings | None = None,
        *,
        only: Collection[str] | None = None,
    ) -> Pipeline:
        """What mappings (None: those on disk now) make of the source's changes for a destination (None: for any).

        `only`: the keys of what is to be made (a mapping's, `outbox`, `raw:TABLE`); None: of everything.
        """
        from cdc_tracker.pipeline.pipeline import Pipeline  # noqa: PLC0415  most commands do without it

        return Pipeline(
            self.load_mappings() if mappings is None else mappings,
            outbox=self.source.outbox,
            space=uuid.UUID(record.namespace),
            database=record.database,
            destination=destination,
            wants=NOTHING_MORE if destination is None else self.destinations[destination].requirements,
            only=only,
        )

    def secrets(self) -> list[str]:
        """Every secret value, and the passwords inside URLs: what the log must never show."""
        values = {
            value for part in (self.source, self.journal, self.state, *self.destinations.values()) for value in _secrets(part)
        }
        values |= self._from_files
        passwords = {found[1] for value in values if (found := _URL_PASSWORD.search(value))}
        return sorted(values | passwords)


def load(path: Path | None = None) -> Config:
    """Read and check the configuration. Raises ConfigError that tells every problem with file, line and key."""
    path = (path or Path(os.environ.get(f"{ENV_PREFIX}CONFIG") or DEFAULT_FILE)).absolute()
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration file {path}",
            hint="Write one with `cdc-tracker init --url postgresql://…`, or name yours with --config or CDC_TRACKER_CONFIG.",
        )
    document = documents.load(path)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{document.where()}: expected keys such as version, source, mappings and destinations")
    resolved = Resolved(document, list(Config.model_fields))
    try:
        config = Config(**resolved.values)
    except ValidationError as error:
        raise _failed(_problems(error, (), Config, document, resolved.places)) from None  # the cause would show the values
    except SettingsError as error:
        raise ConfigError(f"the environment does not hold: {error}", hint="Lists and mappings are written as JSON.") from None
    config._path = path
    config._from_files = frozenset(resolved.secrets)
    return config.model_copy(update={"destinations": _destinations(config, document, resolved.places)})


def _destinations(config: Config, document: Document, referring: set[Loc]) -> dict[str, DestinationSettings]:
    """Each destination's settings, checked by the class that its `type` names."""
    checked: dict[str, DestinationSettings] = {}
    problems: list[Problem] = []
    for name, raw in cast("dict[str, dict[str, Any]]", config.destinations).items():
        loc = ("destinations", name)
        try:
            model = _settings_class(raw.get("type"))
        except ConfigError as error:
            problems.append(Problem(document.where((*loc, "type")), dotted((*loc, "type")), str(error), error.hint))
            continue
        try:
            checked[name] = model.model_validate(raw)
        except ValidationError as error:
            problems += _problems(error, loc, model, document, referring)
    if problems:
        raise _failed(problems)
    return checked


def _settings_class(kind: object) -> type[DestinationSettings]:
    if not isinstance(kind, str):
        raise ConfigError(f"is missing; there are: {', '.join(registry.names())}")
    return registry.load(kind).Settings


def _problems(
    error: ValidationError, prefix: Loc, model: type[BaseModel], document: Document, referring: set[Loc]
) -> list[Problem]:
    """The errors in plain words, placed in the file or at the environment variable that they come from."""

    def moved(detail: ErrorDetails) -> InitErrorDetails:
        loc, kind = (*prefix, *detail["loc"]), detail["type"]
        shown = _HIDDEN if loc in referring or overriding(loc) or logs.is_secret(str(loc[-1])) else detail["input"]
        # the type of a validator's own error is not known to pydantic_core, and is not looked at any more
        known: Any = kind if kind in _KNOWN_ERRORS else PydanticCustomError("custom", "{message}", {"message": detail["msg"]})
        return InitErrorDetails(type=known, loc=loc, input=shown, ctx=detail.get("ctx") or {})

    found = []
    for detail in error.errors(include_url=False):
        placed = ValidationError.from_exception_data(error.title, [moved(detail)])
        [problem] = documents.explain(placed, document, model, len(prefix))
        loc = (*prefix, *detail["loc"])
        named = overriding(loc)
        found.append((document.place(loc), replace(problem, where=named, key=dotted(loc)) if named else problem))
    return [problem for _, problem in sorted(found, key=lambda pair: pair[0])]


def _failed(problems: list[Problem]) -> ConfigError:
    return ConfigError("\n".join(str(problem) for problem in problems))


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel | dict):
        for _, inner in value.items() if isinstance(value, dict) else value:
            yield from _secrets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner)
