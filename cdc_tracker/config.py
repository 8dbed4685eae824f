"""cdc-tracker.yml and the environment → Config. Each part owns its own Settings model; this file puts them together.

The environment wins over the file: `CDC_TRACKER_SOURCE__URL` overrides `source.url`, and `null` there is none. Strings may hold
`${VAR}` and `${VAR:-default}`; `$${` writes a plain `${`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError
from pydantic.functional_validators import AfterValidator, PlainValidator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from cdc_tracker import documents, logs
from cdc_tracker.destinations import registry
from cdc_tracker.destinations.base import Destination, DestinationSettings
from cdc_tracker.documents import Document, Loc, dotted, nearest
from cdc_tracker.errors import ConfigError, MappingError, Problem
from cdc_tracker.journal import JournalSettings
from cdc_tracker.logs import LogSettings
from cdc_tracker.source.settings import SourceSettings
from cdc_tracker.state import StateSettings
from cdc_tracker.units import Duration

if TYPE_CHECKING:
    from cdc_tracker.mapping import Mappings

DEFAULT_FILE = "cdc-tracker.yml"
ENV_PREFIX = "CDC_TRACKER_"
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")
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
    _path: Path = PrivateAttr(default=Path(DEFAULT_FILE))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
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
    def wake_dir(self) -> Path:
        """Where processes of this machine wake each other."""
        return self.data / "wake"

    @property
    def mapping_paths(self) -> list[Path]:
        return [self.base / path for path in self.mappings]

    def open_destination(self, name: str) -> Destination:
        """The destination of that name, ready to deliver. The caller closes it."""
        if name not in self.destinations:
            raise ConfigError(f"{self.path}: there is no destination {name!r}{nearest(name, list(self.destinations))}")
        settings = self.destinations[name]
        return registry.load(settings.type)(name, settings, self.base)

    def load_mappings(self) -> Mappings:
        """Every mapping file. Raises MappingError, also where a mapping names a destination that is not configured."""
        from cdc_tracker.mapping import load as load_files  # noqa: PLC0415  the daemon's parent does without it

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

    def secrets(self) -> list[str]:
        """Every secret value, and the passwords inside URLs: what the log must never show."""
        values = {
            value for part in (self.source, self.journal, self.state, *self.destinations.values()) for value in _secrets(part)
        }
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
    values, referring = _interpolated(document)
    try:
        config = Config(**values)
    except ValidationError as error:
        raise _failed(_problems(error, (), Config, document, referring)) from None  # the cause would show the values
    except SettingsError as error:
        raise ConfigError(f"the environment does not hold: {error}", hint="Lists and mappings are written as JSON.") from None
    config._path = path
    return config.model_copy(update={"destinations": _destinations(config, document, referring)})


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


def _interpolated(document: Document) -> tuple[dict[str, Any], set[Loc]]:
    """The file's values with references replaced, and the places of those that had one."""
    problems: list[Problem] = []
    referring: set[Loc] = set()

    def walk(value: object, loc: Loc) -> object:
        if isinstance(value, dict):
            return {key: walk(inner, (*loc, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner, (*loc, index)) for index, inner in enumerate(value)]
        if isinstance(value, str) and "${" in value and _variable(loc) not in os.environ:
            referring.add(loc)
            return _REFERENCE.sub(lambda found: replaced(found, loc), value)
        return value

    def replaced(found: re.Match[str], loc: Loc) -> str:
        try:
            return _referenced(found)
        except ConfigError as error:
            problems.append(Problem(document.where(loc), dotted(loc), str(error), error.hint))
            return ""

    values = {key: walk(value, (key,)) for key, value in document.value.items()}
    if problems:
        raise _failed(problems)
    return values, referring


def _referenced(found: re.Match[str]) -> str:
    name, default = found[1], found[2]
    if found[0] == "$${":
        return "${"
    if name is None:
        raise ConfigError("has a `${` that is no reference", hint="Write ${VAR} or ${VAR:-default}, and $${ for a plain ${.")
    if name in os.environ and (os.environ[name] or default is None):
        return os.environ[name]
    if default is None:
        raise ConfigError(f"the environment variable {name} is not set", hint=f"Set {name}, or write ${{{name}:-default}}.")
    return default


def _problems(
    error: ValidationError, prefix: Loc, model: type[BaseModel], document: Document, referring: set[Loc]
) -> list[Problem]:
    """The errors in plain words, placed in the file or at the environment variable that they come from."""

    def moved(detail: ErrorDetails) -> InitErrorDetails:
        loc, kind = (*prefix, *detail["loc"]), detail["type"]
        shown = _HIDDEN if loc in referring or _variable(loc) in os.environ or logs.is_secret(str(loc[-1])) else detail["input"]
        # the type of a validator's own error is not known to pydantic_core, and is not looked at any more
        known: Any = kind if kind in _KNOWN_ERRORS else PydanticCustomError("custom", "{message}", {"message": detail["msg"]})
        return InitErrorDetails(type=known, loc=loc, input=shown, ctx=detail.get("ctx") or {})

    placed = ValidationError.from_exception_data(error.title, [moved(detail) for detail in error.errors(include_url=False)])
    return [
        replace(problem, where=variable) if (variable := _variable(problem.key.split("."))) in os.environ else problem
        for problem in documents.explain(placed, document, model)
    ]


def _failed(problems: list[Problem]) -> ConfigError:
    return ConfigError("\n".join(str(problem) for problem in problems))


def _variable(loc: Sequence[str | int]) -> str:
    """The environment variable that overrides the key at `loc`."""
    return ENV_PREFIX + "__".join(str(part).upper() for part in loc)


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel | dict):
        for _, inner in value.items() if isinstance(value, dict) else value:
            yield from _secrets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner)
