"""cdc-tracker.yml and the environment → Config, checked.

The environment overrides the file: `CDC_TRACKER_SOURCE__URL` overrides `source.url`, `null` unsets it, and
`CDC_TRACKER_SOURCE__URL_FILE` names a file with the value. References in the file: see references.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, Field, PrivateAttr, SecretStr, ValidationError
from pydantic.functional_validators import AfterValidator, PlainValidator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from cdc_tracker import logs
from cdc_tracker.config import yaml_file
from cdc_tracker.config.destination import DestinationSettings
from cdc_tracker.config.explain import explain
from cdc_tracker.config.references import ENV_PREFIX, FROM_FILE, Resolved, overriding, variable
from cdc_tracker.config.settings import HttpSettings, JournalSettings, SourceSettings, StateSettings
from cdc_tracker.config.yaml_file import Document, Loc, dotted
from cdc_tracker.errors import ConfigError, Problem
from cdc_tracker.logs import LogSettings
from cdc_tracker.units import Duration

DEFAULT_FILE = "cdc-tracker.yml"
_URL_PASSWORD = re.compile(r"://[^\s:/@]*:([^\s@]+)@")

SettingsClass: TypeAlias = Callable[[object], type[DestinationSettings]]
"""The settings class of a destination's `type`. Raises ConfigError for a value that is not a known type."""


def _raw_destination(value: object) -> object:
    """Accepts any mapping: `load` validates it afterwards by the settings class of its `type`."""
    if not isinstance(value, dict):
        raise ValueError("expected a mapping with a `type`, such as {type: jsonl, path: events.jsonl}")
    return value


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", name):
        raise ValueError("a destination's name is made of a-z, 0-9, _ and -, at most 40 of them")
    return name


DestinationName = Annotated[str, AfterValidator(_plain_name)]


class Config(BaseSettings):
    """The whole configuration, valid and immutable. Its repr shows no secret."""

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
        """The file that the configuration was read from."""
        return self._path

    @property
    def base(self) -> Path:
        """The folder of the file: relative paths start from it."""
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
        """The process's umask, by `readable_by`: for files of destinations. Files in data_dir are always the owner's alone."""
        return {"owner": 0o077, "group": 0o027, "everyone": 0o022}[self.readable_by]

    @property
    def wake_dir(self) -> Path:
        """The folder through which processes of this machine wake each other."""
        return self.data / "wake"

    @property
    def mapping_paths(self) -> list[Path]:
        return [self.base / path for path in self.mappings]

    @classmethod
    def variables(cls) -> list[str]:
        """The environment variables that override its keys, as far as those have names of their own."""
        found = []
        for name, field in cls.model_fields.items():
            found.append(variable((name,)))
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found += [variable((name, inner)) for inner in field.annotation.model_fields]
        return found

    def secrets(self) -> list[str]:
        """Every secret value and every password within a URL: the log must never show them."""
        values = {
            value for part in (self.source, self.journal, self.state, *self.destinations.values()) for value in _secrets(part)
        }
        values |= self._from_files
        passwords = {found[1] for value in values if (found := _URL_PASSWORD.search(value))}
        return sorted(values | passwords)


def load(path: Path | None, settings_class: SettingsClass, *, absent: str | None = None) -> Config:
    """Reads and validates the configuration. Raises ConfigError, which names every problem with file, line and key.

    None: the file that CDC_TRACKER_CONFIG names, else cdc-tracker.yml in the current folder. `absent`: see Resolved.
    """
    path = (path or Path(os.environ.get(f"{ENV_PREFIX}CONFIG") or DEFAULT_FILE)).absolute()
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration file {path}",
            hint="Write one with `cdc-tracker init --url postgresql://…`, or name yours with --config or CDC_TRACKER_CONFIG.",
        )
    document = yaml_file.load(path)
    if not isinstance(document.value, dict):
        raise ConfigError(f"{document.where()}: expected keys such as version, source, mappings and destinations")
    resolved = Resolved(document, list(Config.model_fields), absent=absent)
    try:
        config = Config(**resolved.values)
    except ValidationError as error:
        raise _failed(_problems(error, (), Config, document, resolved.places)) from None  # the cause would show the values
    except SettingsError as error:
        raise ConfigError(f"invalid environment variable: {error}", hint="Lists and mappings are written as JSON.") from None
    config._path = path
    config._from_files = frozenset(resolved.secrets)
    return config.model_copy(update={"destinations": _destinations(config, settings_class, document, resolved.places)})


def _destinations(
    config: Config, settings_class: SettingsClass, document: Document, referring: set[Loc]
) -> dict[str, DestinationSettings]:
    """Each destination's settings, validated by the class of its `type`."""
    checked: dict[str, DestinationSettings] = {}
    problems: list[Problem] = []
    for name, raw in cast("dict[str, dict[str, Any]]", config.destinations).items():
        loc = ("destinations", name)
        try:
            model = settings_class(raw.get("type"))
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


def _problems(
    error: ValidationError, prefix: Loc, model: type[BaseModel], document: Document, referring: set[Loc]
) -> list[Problem]:
    """The errors in plain words, each at its place in the file or at the environment variable that overrides it."""

    def hidden(loc: Loc) -> bool:
        return loc in referring or overriding(loc) is not None or logs.is_secret(str(loc[-1]))

    return explain(error, document, model, prefix=prefix, overridden=overriding, hidden=hidden)


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
