"""Record the frames anew: `python -m tests.wal.record`. Needs PostgreSQL 15 with wal2json (see tests/postgres.py)."""

from __future__ import annotations

from tests.integration.stream import tapped
from tests.postgres import fresh_database, launch
from tests.wal import recording

SETUP = """
CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(12, 4), weight float8, raw bytea, body text, ok bool);
ALTER TABLE item ALTER body SET STORAGE EXTERNAL;
CREATE TABLE whole (id int PRIMARY KEY, body text, note text); ALTER TABLE whole REPLICA IDENTITY FULL;
ALTER TABLE whole ALTER body SET STORAGE EXTERNAL;
CREATE TABLE part (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100); CREATE TABLE part_2 PARTITION OF part DEFAULT
"""
SCENARIO = """
INSERT INTO item VALUES (1, 'größe 🛒 "q" \\', 1.5000, '-0', '\\x00ff', repeat('b', 2100), true),
                        (2, NULL, NULL, NULL, NULL, NULL, NULL);
--
UPDATE item SET name = 'n' WHERE id = 1;
--
UPDATE item SET id = 3 WHERE id = 1;
--
BEGIN; DELETE FROM item WHERE id = 3; SELECT pg_logical_emit_message(true, 'cdc_tracker', 'héllo');
SELECT pg_logical_emit_message(true, 'other', 'not ours');
SELECT pg_logical_emit_message(false, 'cdc_tracker', 'not in order'); COMMIT;
--
INSERT INTO whole VALUES (1, repeat('w', 2100), NULL); UPDATE whole SET note = 'n'; DELETE FROM whole;
--
INSERT INTO part VALUES (1, 'one'), (150, 'two'); UPDATE part SET id = 160 WHERE id = 1; TRUNCATE part_1;
--
TRUNCATE item, part;
--
BEGIN; INSERT INTO item (id, name) VALUES (10, 'before'); ALTER TABLE item ADD late int;
INSERT INTO item (id, late) VALUES (11, 5); COMMIT;
--
COPY whole FROM STDIN
"""
TABLES = ("public.item", "public.whole", "public.part")


def main() -> None:
    with launch("pg15") as server, fresh_database(server) as database:
        database.execute(SETUP)
        with tapped(database, recording.PLUGINS, TABLES) as taps:
            *statements, copying = SCENARIO.split("\n--\n")
            for statement in statements:
                database.execute(statement)
            with database.connect() as connection, connection.cursor().copy(copying.encode()) as copy:
                for number in range(20):
                    copy.write_row((number, "copied", None))
            for tap in taps:
                descriptions = {payload for segment in tap.segments() for payload in segment.relations}
                told = descriptions if tap.plugin == "wal2json" else set()
                recording.write(tap.plugin, f"{tap.plugin}, PostgreSQL 15, of:\n{SETUP}{SCENARIO}", tap.frames(), told)


if __name__ == "__main__":
    main()
