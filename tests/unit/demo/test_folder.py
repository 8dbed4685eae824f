from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cdc_tracker.demo.folder import DemoFolder, FolderTaken


def test_a_folder_with_other_files_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(FolderTaken, match="--dir"), DemoFolder(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_what_an_earlier_demo_left_is_deleted(tmp_path: Path) -> None:
    with DemoFolder(tmp_path / "demo") as place:
        place.log.write_text("old")
        place.events.mkdir()
    with DemoFolder(tmp_path / "demo"):
        assert not place.log.exists()
        assert not place.events.exists()


def test_a_second_demo_does_not_touch_the_files_of_one_that_runs(tmp_path: Path) -> None:
    with DemoFolder(tmp_path) as place:
        place.log.write_text("running")
        with pytest.raises(FolderTaken, match="Another demo runs"), DemoFolder(tmp_path):
            pass
        assert place.log.read_text() == "running"


def test_the_configuration_is_one_that_the_worker_reads(tmp_path: Path) -> None:
    from cdc_tracker.worker import assemble

    place = DemoFolder(tmp_path)
    place.write_config("postgresql://postgres@/postgres?host=/tmp/x", "http://127.0.0.1:1")
    loaded = assemble.load_config(place.config)
    assert list(loaded.destinations) == ["events", "warehouse", "segment"]
    assert loaded.data == place.data
    assert {mapping.table for mapping in assemble.load_mappings(loaded).all} == {
        "shop.users",
        "shop.orders",
        "shop.order_items",
        "shop.subscriptions",
    }
    assert yaml.safe_load(place.config.read_text())["http"] == {"port": 0}
