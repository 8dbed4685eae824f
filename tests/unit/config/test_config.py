from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_tracker.config.config import Config
from cdc_tracker.config.references import unknown_variables
from cdc_tracker.destinations.jsonl import JsonlDestination
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import ConfigError
from cdc_tracker.worker.assemble import load_config, load_mappings, open_destination

MINIMAL = """\
version: 1
source:
  url: postgresql://worker:open-sesame@db.internal/shop
"""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CDC_TRACKER_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    path = folder / "cdc-tracker.yml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(written(folder, text))
    return f"{caught.value}\n{caught.value.hint}"


def test_a_minimal_file_gives_the_documented_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL))
    assert config.base == tmp_path
    assert config.path == tmp_path / "cdc-tracker.yml"
    assert config.data == tmp_path / "data"
    assert config.mapping_paths == [tmp_path / "mappings"]
    assert config.state_url == f"sqlite:///{tmp_path}/data/state.sqlite"
    assert config.journal_url == f"sqlite:///{tmp_path}/data/journal.sqlite"
    assert (config.http.host, config.http.port) == ("127.0.0.1", 9464)
    assert (config.log.format, config.log.level) == ("auto", "info")
    assert config.drain_timeout == 30
    assert config.destinations == {}


def test_relative_paths_start_from_the_files_folder_and_absolute_ones_stay(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL + "data_dir: /var/lib/cdc\nmappings: [shop.yml, /etc/mappings]\n"))
    assert config.data == Path("/var/lib/cdc")
    assert config.mapping_paths == [tmp_path / "shop.yml", Path("/etc/mappings")]


def test_stores_by_url_are_used_instead_of_files(tmp_path: Path) -> None:
    config = load_config(
        written(tmp_path, MINIMAL + "state: {url: postgresql+psycopg://h/s}\njournal: {url: postgresql+psycopg://h/j}\n")
    )
    assert config.state_url == "postgresql+psycopg://h/s"
    assert config.journal_url == "postgresql+psycopg://h/j"


def test_the_file_is_found_by_the_environment_or_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    written(here, MINIMAL)
    written(there, MINIMAL)
    monkeypatch.chdir(here)
    assert load_config().base == here
    monkeypatch.setenv("CDC_TRACKER_CONFIG", str(there / "cdc-tracker.yml"))
    assert load_config().base == there


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file") as caught:
        load_config(tmp_path / "cdc-tracker.yml")
    assert "cdc-tracker init" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${URL}", "postgresql://h/db"),
        ("${UNSET:-postgresql://other/db}", "postgresql://other/db"),
        ("${EMPTY:-postgresql://other/db}", "postgresql://other/db"),
        ("${URL}?options=${UNSET:-}", "postgresql://h/db?options="),
        ("postgresql://h/$${name}", "postgresql://h/${name}"),
        ("postgresql://h/$1", "postgresql://h/$1"),
    ],
)
def test_variables_are_put_in_where_they_are_referred_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str
) -> None:
    monkeypatch.setenv("URL", "postgresql://h/db")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    config = load_config(written(tmp_path, f"version: 1\nsource: {{url: '{text}'}}\n"))
    assert config.source.url.get_secret_value() == value


def test_every_missing_variable_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.delenv("UNSET_TOO", raising=False)
    told = refused(tmp_path, "version: 1\nsource:\n  url: ${UNSET}\nmappings:\n  - a/\n  - ${UNSET_TOO}\n")
    assert f"{tmp_path}/cdc-tracker.yml:3: source.url: the environment variable UNSET is not set" in told
    assert f"{tmp_path}/cdc-tracker.yml:6: mappings[1]: the environment variable UNSET_TOO is not set" in told


def test_a_value_may_stand_in_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker and Kubernetes hand over secrets."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "password").write_text("open${sesame}\n")
    (tmp_path / "key").write_bytes(b"first line\nsecond\r\n")
    url = f"postgresql://w:${{file:{tmp_path}/secrets/password}}@h/d"
    config = load_config(
        written(
            tmp_path,
            f"version: 1\nsource: {{url: '{url}'}}\ndestinations: {{s: {{type: segment, write_key: '${{file:key}}'}}}}\n",
        )
    )
    assert config.source.url.get_secret_value() == "postgresql://w:open${sesame}@h/d"
    assert config.destinations["s"].model_dump()["write_key"].get_secret_value() == "first line\nsecond"
    assert {"open${sesame}", "first line\nsecond"} <= set(config.secrets())


def test_a_file_that_cannot_be_read_is_told_with_file_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "large").write_bytes(b"x" * 1_000_001)
    keys = {"data_dir": "missing", "mappings": "empty", "drain_timeout": "latin", "version": "large"}
    text = "source: {url: '${file:}'}\n" + "".join(f"{key}: ${{file:{name}}}\n" for key, name in keys.items())
    told = refused(tmp_path, text)
    place = f"{tmp_path}/cdc-tracker.yml"
    assert f"{place}:1: source.url: the file {tmp_path} cannot be read: Is a directory" in told
    assert f"{place}:2: data_dir: the file {tmp_path}/missing cannot be read: No such file or directory" in told
    assert f"{place}:3: mappings: the file {tmp_path}/empty is empty" in told
    assert f"{place}:4: drain_timeout: the file {tmp_path}/latin is not UTF-8 text" in told
    assert f"{place}:5: version: the file {tmp_path}/large is larger than 1 MB" in told


def test_what_came_from_a_file_is_shown_in_no_error(tmp_path: Path) -> None:
    (tmp_path / "level").write_text("hunter2-hunter2\n")
    told = refused(tmp_path, MINIMAL + "log: {level: '${file:level}'}\n")
    assert "cdc-tracker.yml:4: log.level: must be one of debug, info" in told
    assert "hunter2" not in told


def test_a_variable_may_name_a_file_with_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql://from-a-file/db\n")
    (tmp_path / "key").write_text("the-write-key\n")
    monkeypatch.setenv("CDC_TRACKER_SOURCE__URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("CDC_TRACKER_DESTINATIONS__S__WRITE_KEY_FILE", "key")
    monkeypatch.setenv("CDC_TRACKER_OTHER_FILE", "/does/not/exist")  # no key of ours
    text = "version: 1\nsource: {url: '${UNSET}'}\ndestinations: {s: {type: segment}}\n"
    config = load_config(written(tmp_path, text))
    assert config.source.url.get_secret_value() == "postgresql://from-a-file/db"
    assert config.destinations["s"].model_dump()["write_key"].get_secret_value() == "the-write-key"
    monkeypatch.setenv("CDC_TRACKER_SOURCE__URL", "postgresql://direct/db")
    assert load_config(written(tmp_path, text)).source.url.get_secret_value() == "postgresql://direct/db"


def test_a_variable_that_names_no_file_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_TRACKER_HTTP__PORT_FILE", "/no/such/file")
    told = refused(tmp_path, MINIMAL)
    assert "CDC_TRACKER_HTTP__PORT_FILE: http.port: the file /no/such/file cannot be read" in told
    (tmp_path / "port").write_text("a-port")
    monkeypatch.setenv("CDC_TRACKER_HTTP__PORT_FILE", "port")
    told = refused(tmp_path, MINIMAL)
    assert "CDC_TRACKER_HTTP__PORT_FILE: http.port: must be a whole number" in told
    assert "a-port" not in told


def test_half_a_reference_is_an_error(tmp_path: Path) -> None:
    told = refused(tmp_path, "version: 1\nsource: {url: 'postgresql://${HOST/db'}\n")
    assert "cdc-tracker.yml:2: source.url" in told
    assert "$${" in told


def test_a_variable_set_to_an_empty_text_is_told_at_the_key_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("URL", "")
    assert "cdc-tracker.yml:2: source.url: is empty" in refused(tmp_path, "version: 1\nsource: {url: '${URL}'}\n")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_TRACKER_SOURCE__URL", "postgresql://elsewhere/db")
    monkeypatch.setenv("CDC_TRACKER_SOURCE__MAX_WAL", "1GB")
    monkeypatch.setenv("CDC_TRACKER_DRAIN_TIMEOUT", "5s")
    monkeypatch.setenv("CDC_TRACKER_HTTP__PORT", "null")
    monkeypatch.setenv("CDC_TRACKER_MAPPINGS", '["other/"]')
    monkeypatch.setenv("CDC_TRACKER_DESTINATIONS__EVENTS__PATH", "elsewhere/")
    text = MINIMAL + "destinations:\n  events: {type: jsonl, path: events/, rotate_size: 1MB}\n"
    config = load_config(written(tmp_path, text))
    assert config.source.url.get_secret_value() == "postgresql://elsewhere/db"
    assert config.source.max_wal == 1000**3
    assert config.drain_timeout == 5
    assert config.http.port is None
    assert config.mapping_paths == [tmp_path / "other"]
    events = config.destinations["events"].model_dump()
    assert (events["path"], events["rotate_size"]) == ("elsewhere/", 1_000_000)


def test_a_variable_that_is_overridden_need_not_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("CDC_TRACKER_SOURCE__URL", "postgresql://elsewhere/db")
    config = load_config(written(tmp_path, "version: 1\nsource: {url: '${UNSET}'}\n"))
    assert config.source.url.get_secret_value() == "postgresql://elsewhere/db"


def test_what_the_environment_got_wrong_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_TRACKER_SOURCE__HEARTBEAT", "often")
    told = refused(tmp_path, MINIMAL)
    assert told.startswith("CDC_TRACKER_SOURCE__HEARTBEAT: source.heartbeat: expected a duration")


def test_other_variables_with_our_prefix_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_TRACKER_SERVICE_HOST", "10.0.0.1")  # Kubernetes sets such for a service of our name
    monkeypatch.setenv("CDC_TRACKER_PORT", "tcp://10.0.0.1:9464")
    assert load_config(written(tmp_path, MINIMAL)).http.port == 9464


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CDC_TRACKER_SORCE__URL", "CDC_TRACKER_SOURCE__URL"),
        ("CDC_TRACKER_SOURCE_URL", "CDC_TRACKER_SOURCE__URL"),
        ("CDC_TRACKER_HTTP_PORT", "CDC_TRACKER_HTTP__PORT"),
        ("CDC_TRACKER_DRAIN_TIMOUT", "CDC_TRACKER_DRAIN_TIMEOUT"),
        ("CDC_TRACKER_SOURCE_URL_FILE", "CDC_TRACKER_SOURCE__URL"),
        ("CDC_TRACKER_DESTINATION__S__WRITE_KEY", "CDC_TRACKER_DESTINATIONS"),
    ],
)
def test_a_variable_that_overrides_nothing_is_told_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    [found] = unknown_variables(Config.variables())
    assert str(found).startswith(f"{name}: overrides no key; did you mean '{meant}'?")
    assert found.severity == "warning"
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CDC_TRACKER_CONFIG", "/etc/cdc.yml"),
        ("CDC_TRACKER_SOURCE__URL", "postgresql://db/x"),
        ("CDC_TRACKER_SOURCE__URL_FILE", "/run/url"),
        ("CDC_TRACKER_DESTINATIONS__EVENTS__PATH", "x"),
        ("cdc_tracker_log__level", "info"),
        ("CDC_TRACKER_SERVICE_HOST", "10.0.0.1"),
        ("CDC_TRACKER_SERVICE_PORT_HTTP", "9464"),
        ("CDC_TRACKER_PORT", "tcp://10.0.0.1:9464"),
        ("CDC_TRACKER_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ("CDC_TRACKER_EVENTS_SERVICE_HOST", "10.0.0.1"),
        ("CDC_TRACKERS", "x"),
    ],
)
def test_variables_of_keys_and_those_of_kubernetes_are_no_finding(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert list(unknown_variables(Config.variables())) == []


def test_a_wrong_key_is_told_with_its_line_and_the_nearest_right_one(tmp_path: Path) -> None:
    told = refused(tmp_path, MINIMAL + "  plugins: auto\njornal: {}\n")
    assert "cdc-tracker.yml:4: source.plugins: is not a known key; did you mean 'plugin'?" in told
    assert "cdc-tracker.yml:5: jornal: is not a known key; did you mean 'journal'?" in told


def test_every_destination_is_checked_by_its_own_settings(tmp_path: Path) -> None:
    told = refused(
        tmp_path,
        MINIMAL + "destinations:\n  events:\n    type: jsonl\n    pth: events/\n  hook: {type: webhok}\n  third: {path: x}\n",
    )
    assert "cdc-tracker.yml:7: destinations.events.pth: is not a known key; did you mean 'path'?" in told
    assert "cdc-tracker.yml:5: destinations.events.path: is missing" in told
    assert "cdc-tracker.yml:8: destinations.hook.type: there is no destination type `webhok`; did you mean 'webhook'?" in told
    assert "cdc-tracker.yml:9: destinations.third.type: is missing; there are: " in told


def test_a_destinations_name_is_plain(tmp_path: Path) -> None:
    told = refused(tmp_path, MINIMAL + "destinations:\n  Our Events: {type: memory}\n")
    assert "cdc-tracker.yml:5: destinations.Our Events: a destination's name is made of" in told


def test_no_secret_is_shown_by_the_configuration_or_by_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "wk-super-secret")
    text = MINIMAL + "destinations:\n  seg: {type: segment, write_key: '${KEY}', in_flight: 2}\n"
    config = load_config(written(tmp_path, text))
    assert "open-sesame" not in repr(config)
    assert "wk-super-secret" not in repr(config)
    assert {"open-sesame", "wk-super-secret"} <= set(config.secrets())
    told = refused(tmp_path, text.replace("in_flight: 2", "in_flight: '${KEY}'"))
    assert "destinations.seg.in_flight" in told
    assert "wk-super-secret" not in told


def test_a_destination_is_opened_with_its_settings_and_the_files_folder(tmp_path: Path) -> None:
    config = load_config(
        written(tmp_path, MINIMAL + "destinations:\n  events: {type: jsonl, path: out/}\n  mem: {type: memory}\n")
    )
    destination = open_destination(config, "events")
    destination.probe()
    destination.close()
    assert isinstance(destination, JsonlDestination)
    assert (tmp_path / "out").is_dir()
    assert isinstance(open_destination(config, "mem"), MemoryDestination)
    with pytest.raises(ConfigError, match="did you mean 'events'"):
        open_destination(config, "event")


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "mappings"
    folder.mkdir()
    yield folder / "orders.yml"


MAPPING = """\
version: 1
events:
  - name: Order Created
    table: shop.orders
    user_id: new.user_id
    destinations: [evnts]
"""


def test_a_mapping_may_only_name_destinations_that_are_configured(tmp_path: Path, mapped: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL + "destinations:\n  events: {type: memory}\n"))
    mapped.write_text(MAPPING)
    with pytest.raises(ConfigError, match=r"orders.yml:3: .*there is no destination 'evnts'; did you mean 'events'\?"):
        load_mappings(config)
    mapped.write_text(MAPPING.replace("evnts", "events"))
    assert load_mappings(config).tables() == ["shop.orders"]


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "version: 1\n", "version: 2\nsource: {url: x}\n", "a: [\n"])
def test_a_file_that_is_no_configuration_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    assert "cdc-tracker.yml:" in refused(tmp_path, text)


def test_the_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config: Config = load_config(written(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        config.drain_timeout = 1
